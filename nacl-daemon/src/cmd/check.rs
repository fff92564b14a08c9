//! `nacld check`.

use std::path::Path;

use anyhow::anyhow;
use nacl_daemon::{
    compile::{CompileError, refusals},
    policy::Severity,
    report::diagnostics::{self, tally},
    resolve::{NoHost, Resolved},
};
use serde_json::{Value, json};

use super::policy::{self, Loaded};
use crate::{Exit, cli};

pub fn run(args: &cli::Check) -> anyhow::Result<Exit> {
    let (mut unreadable, mut errors, mut warnings) = (false, false, false);
    let mut files = Vec::new();
    for path in &args.files {
        match policy::load(path, &NoHost) {
            Ok(loaded) => {
                let refused = loaded.outcome.resolved.as_ref().map(refusals).unwrap_or_default();
                errors |= loaded.outcome.count(Severity::Error) != 0 || !refused.is_empty();
                warnings |= loaded.outcome.count(Severity::Warning) != 0;
                if args.json {
                    files.push(as_json(&loaded, &refused));
                } else {
                    loaded.show(Severity::Note)?;
                    super::print(summary(&loaded, refused.is_empty()))?;
                    for refusal in refused {
                        crate::print_error(&anyhow!("{}: {refusal}", loaded.file));
                    }
                }
            }
            Err(error) => {
                unreadable = true;
                files.push(json!({ "file": file_name(path), "ok": false, "error": format!("{error:#}") }));
                crate::print_error(&error);
            }
        }
    }
    if args.json {
        super::print(format!("{:#}\n", json!({ "schema": 1, "files": files })))?;
    }
    Ok(if unreadable {
        Exit::Failed
    } else if errors {
        Exit::PolicyErrors
    } else if warnings && args.deny == Some(cli::Deny::Warnings) {
        Exit::PolicyWarnings
    } else {
        Exit::Done
    })
}

fn file_name(path: &Path) -> String {
    path.display().to_string()
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
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let rules = resolved.nacls.values().map(|nacl| nacl.inbound.len() + nacl.outbound.len()).sum::<usize>()
        + resolved.groups.values().map(|group| group.inbound.len() + group.outbound.len()).sum::<usize>();
    let mut parts = vec![plural(resolved.interfaces.len(), "interface"), plural(resolved.nacls.len(), "network ACL")];
    if !resolved.groups.is_empty() {
        parts.push(plural(resolved.groups.len(), "security group"));
    }
    parts.push(plural(rules, "rule"));
    parts.join(", ")
}

fn as_json(loaded: &Loaded, refused: &[CompileError]) -> Value {
    let outcome = &loaded.outcome;
    json!({
        "file": loaded.file,
        "ok": outcome.resolved.is_some() && refused.is_empty(),
        "refused": refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "errors": outcome.count(Severity::Error),
        "warnings": outcome.count(Severity::Warning),
        "notes": outcome.count(Severity::Note),
        "diagnostics": diagnostics::json(&loaded.text, &outcome.diagnostics),
    })
}
