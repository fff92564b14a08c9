//! `nacld check`.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, fchown},
    path::Path,
};

use anyhow::{Context, anyhow, ensure};
use nacl_daemon::{
    analyze::{self, Mended},
    compile::{CompileError, refusals},
    policy::{Diagnostic, Severity},
    report::{
        self, count_of,
        diagnostics::{self, tally},
        sarif,
    },
    resolve::{Host, NoHost, Resolved},
    service::{
        host::Kernel,
        lockout::{Outlook, outlook},
    },
};
use serde_json::{Value, json};
use similar::TextDiff;

use super::{
    misuse,
    policy::{self, Loaded},
};
use crate::{
    Exit,
    cli::{self, CheckFormat},
};

/// Lines around a change in a diff.
const CONTEXT: usize = 3;

pub fn run(args: &cli::Check) -> anyhow::Result<Exit> {
    let format = if args.json { CheckFormat::Json } else { args.format };
    let (mut unreadable, mut errors, mut warnings) = (None, false, false);
    let mut checked = Vec::new();
    for path in &args.files {
        let host: &dyn Host = if args.here { &Kernel } else { &NoHost };
        match Checked::of(args, path, host) {
            Ok(one) => {
                errors |= one.loaded.outcome.count(Severity::Error) != 0 || !one.refused.is_empty();
                warnings |= one.loaded.outcome.count(Severity::Warning) != 0 || one.cut() > 0;
                if format == CheckFormat::Text {
                    one.tell(args)?;
                } else {
                    one.loaded.show_notes()?;
                }
                checked.push(Ok(one));
            }
            Err(error) => {
                unreadable = Some(crate::exit_of(&error));
                crate::print_error(&error);
                checked.push(Err((path.display().to_string(), format!("{error:#}"))));
            }
        }
    }
    match format {
        CheckFormat::Text => {}
        CheckFormat::Json => {
            let files: Vec<_> = checked.iter().map(as_json).collect();
            super::print(format!("{:#}\n", json!({ "schema": 1, "files": files })))?;
        }
        CheckFormat::Sarif => super::print(format!("{:#}\n", as_sarif(&checked)))?,
        CheckFormat::Github => super::print(checked.iter().map(as_commands).collect::<String>())?,
    }
    Ok(if let Some(exit) = unreadable {
        exit
    } else if errors {
        Exit::PolicyErrors
    } else if warnings && args.deny == Some(cli::Deny::Warnings) {
        Exit::PolicyWarnings
    } else {
        Exit::Done
    })
}

/// A file that could be read, and everything there is to say of it.
struct Checked {
    loaded: Loaded,
    refused: Vec<CompileError>,
    outlooks: Option<Vec<Outlook>>,
    mended: Option<Mended>,
}

/// A file, or the name of one that cannot be read and why.
type Answer = Result<Checked, (String, String)>;

impl Checked {
    fn of(args: &cli::Check, path: &Path, host: &dyn Host) -> anyhow::Result<Self> {
        if args.fix && !args.dry_run && path == Path::new("-") {
            misuse!("standard input cannot be written to: `--fix --dry-run` prints what would be changed");
        }
        let mut loaded = policy::load(path, &args.parameters.given(), host)?;
        if args.fix && loaded.imported {
            misuse!("{} is no policy file that could be written to: import it first", loaded.file);
        }
        let mut mended = None;
        if args.fix && loaded.outcome.resolved.is_some() {
            let done = analyze::mend(&loaded.file, &loaded.text, host);
            if args.dry_run {
                super::print(difference(&loaded.file, &loaded.text, &done.text))?;
            } else if done.text != loaded.text {
                write(path, &done.text)?;
            }
            loaded.outcome = nacl_daemon::policy::load(&loaded.file, &done.text, host);
            loaded.text.clone_from(&done.text);
            mended = Some(done);
        }
        let resolved = loaded.outcome.resolved.as_ref();
        let refused = resolved.map(refusals).unwrap_or_default();
        let outlooks = resolved.filter(|_| args.here).map(outlook);
        let found = resolved.map(analyze::findings).unwrap_or_default();
        loaded.outcome.add(found);
        Ok(Self { loaded, refused, outlooks, mended })
    }

    /// SSH connections it would cut.
    fn cut(&self) -> usize {
        self.outlooks.iter().flatten().map(Outlook::cut).sum()
    }

    /// For people: what is found on standard error, and a line on standard output.
    fn tell(&self, args: &cli::Check) -> anyhow::Result<()> {
        if !args.dry_run {
            self.loaded.show(Severity::Note)?;
        }
        super::tell(report::lockout::text(self.outlooks.as_deref().unwrap_or_default()))?;
        let file = &self.loaded.file;
        if let Some(mended) = &self.mended {
            for one in &mended.refused {
                let (code, message) = (one.code, &one.message);
                super::tell(format!("{file}: not written, because verdicts would change: {message} [{code}]\n"))?;
            }
            if !args.dry_run {
                super::say(format!("{file}: {}\n", written(&mended.applied)))?;
            }
        } else if args.fix {
            super::tell(format!("{file}: nothing is written: the policy has errors\n"))?;
        }
        if !args.dry_run {
            super::say(summary(&self.loaded, self.refused.is_empty()))?;
        }
        for refusal in &self.refused {
            crate::print_error(&anyhow!("{file}: {refusal}"));
        }
        Ok(())
    }
}

/// "3 fixes written (N001 twice, W001)".
fn written(applied: &[Diagnostic]) -> String {
    if applied.is_empty() {
        return "nothing to fix".to_owned();
    }
    let mut codes: Vec<(&str, usize)> = Vec::new();
    for one in applied {
        match codes.iter_mut().find(|(code, _)| *code == one.code) {
            Some((_, times)) => *times += 1,
            None => codes.push((one.code, 1)),
        }
    }
    let codes: Vec<_> = codes
        .iter()
        .map(|(code, times)| if *times == 1 { (*code).to_owned() } else { format!("{code} ×{times}") })
        .collect();
    let fixes = if applied.len() == 1 { "1 fix" } else { &format!("{} fixes", applied.len()) };
    format!("{fixes} written ({}), and no verdict is another", codes.join(", "))
}

/// What changes, as `diff -u` has it.
fn difference(file: &str, old: &str, new: &str) -> String {
    let diff = TextDiff::from_lines(old, new);
    diff.unified_diff().context_radius(CONTEXT).header(&format!("a/{file}"), &format!("b/{file}")).to_string()
}

/// Puts another text in the place of a file, whole or not at all: where links lead to, with the rights it has.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let what = || format!("cannot write {}", path.display());
    let place = fs::canonicalize(path).with_context(what)?;
    let old = fs::metadata(&place).with_context(what)?;
    // A descriptor that has a name leads to a file that nobody named.
    ensure!(
        old.is_file() && !["/dev", "/proc"].iter().any(|other| path.starts_with(other)),
        "cannot write {}: it is no file; name the policy itself",
        path.display()
    );
    let directory = place.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).with_context(what)?;
    file.write_all(text.as_bytes()).with_context(what)?;
    // Whose it is first: that takes rights away.
    fchown(file.as_file(), Some(old.uid()), Some(old.gid())).with_context(|| {
        format!("{} stays as it is: it belongs to user {}, and so must what replaces it", path.display(), old.uid())
    })?;
    file.as_file().set_permissions(old.permissions()).with_context(what)?;
    file.as_file().sync_all().with_context(what)?;
    file.persist(&place).with_context(what)?;
    Ok(())
}

/// One line a file: what it holds, or how much is wrong with it.
fn summary(loaded: &Loaded, enforceable: bool) -> String {
    let tally = tally(&loaded.outcome.diagnostics);
    let file = &loaded.file;
    match &loaded.outcome.resolved {
        None => format!("{file}: {tally}\n"),
        Some(resolved) => {
            let found = if tally.is_empty() { String::new() } else { format!(" ({tally})") };
            let verdict = if enforceable { "ok" } else { "cannot be enforced" };
            format!("{file}: {verdict}, {}{found}\n", holds(resolved))
        }
    }
}

/// "1 interface, 2 network ACLs, 9 rules"; security groups where there are any.
fn holds(resolved: &Resolved) -> String {
    let rules = resolved.nacls.values().map(|nacl| nacl.inbound.len() + nacl.outbound.len()).sum::<usize>()
        + resolved.groups.values().map(|group| group.inbound.len() + group.outbound.len()).sum::<usize>();
    let mut parts =
        vec![count_of(resolved.interfaces.len(), "interface"), count_of(resolved.nacls.len(), "network ACL")];
    if !resolved.groups.is_empty() {
        parts.push(count_of(resolved.groups.len(), "security group"));
    }
    parts.push(count_of(rules, "rule"));
    parts.join(", ")
}

fn as_json(answer: &Answer) -> Value {
    match answer {
        Err((file, error)) => json!({ "file": file, "ok": false, "error": error }),
        Ok(Checked { loaded, refused, outlooks, .. }) => {
            let outcome = &loaded.outcome;
            json!({
                "here": outlooks,
                "file": loaded.file,
                "imported": loaded.imported,
                "left_out": loaded.notes.iter().map(report::import::json).collect::<Vec<_>>(),
                "ok": outcome.resolved.is_some() && refused.is_empty(),
                "refused": refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "errors": outcome.count(Severity::Error),
                "warnings": outcome.count(Severity::Warning),
                "notes": outcome.count(Severity::Note),
                "diagnostics": diagnostics::json(&loaded.text, &outcome.diagnostics),
            })
        }
    }
}

fn as_sarif(answers: &[Answer]) -> Value {
    let failures: Vec<Vec<String>> = answers.iter().map(failures).collect();
    let files: Vec<_> = answers
        .iter()
        .zip(&failures)
        .map(|(answer, failures)| match answer {
            Err((file, _)) => sarif::File { name: file, text: Some(""), diagnostics: &[], failures },
            Ok(Checked { loaded, .. }) => sarif::File {
                name: &loaded.file,
                text: loaded.own_text(),
                diagnostics: &loaded.outcome.diagnostics,
                failures,
            },
        })
        .collect();
    sarif::log(&files)
}

fn as_commands(answer: &Answer) -> String {
    let (file, found) = match answer {
        Err((file, _)) => (file, String::new()),
        Ok(Checked { loaded, .. }) => {
            let Loaded { file, outcome, .. } = loaded;
            (file, report::github::commands(file, loaded.own_text(), &outcome.diagnostics))
        }
    };
    failures(answer).iter().fold(found, |out, failure| out + &report::github::failure(file, failure))
}

/// What is wrong with a file as a whole.
fn failures(answer: &Answer) -> Vec<String> {
    match answer {
        Err((_, error)) => vec![error.clone()],
        Ok(Checked { loaded, refused, outlooks, .. }) => {
            let cut: usize = outlooks.iter().flatten().map(Outlook::cut).sum();
            let mut all: Vec<_> = refused.iter().map(ToString::to_string).collect();
            if cut > 0 {
                all.push(format!("{} would cut {} to this machine", loaded.file, count_of(cut, "SSH connection")));
            }
            all
        }
    }
}
