//! `nacld check`.

use std::path::Path;

use anyhow::anyhow;
use nacl_daemon::{
    compile::{CompileError, refusals},
    policy::Severity,
    report::{
        self, count_of,
        diagnostics::{self, tally},
    },
    resolve::{Host, NoHost, Resolved},
    service::{
        host::Kernel,
        lockout::{Outlook, outlook},
    },
};
use serde_json::{Value, json};

use super::policy::{self, Loaded};
use crate::{Exit, cli};

pub fn run(args: &cli::Check) -> anyhow::Result<Exit> {
    let (mut unreadable, mut errors, mut warnings) = (false, false, false);
    let mut files = Vec::new();
    for path in &args.files {
        let host: &dyn Host = if args.here { &Kernel } else { &NoHost };
        match policy::load(path, host) {
            Ok(loaded) => {
                let resolved = loaded.outcome.resolved.as_ref();
                let refused = resolved.map(refusals).unwrap_or_default();
                let outlooks = resolved.filter(|_| args.here).map(outlook);
                let cut = outlooks.iter().flatten().map(Outlook::cut).sum::<usize>();
                errors |= loaded.outcome.count(Severity::Error) != 0 || !refused.is_empty();
                warnings |= loaded.outcome.count(Severity::Warning) != 0 || cut > 0;
                if args.json {
                    files.push(as_json(&loaded, &refused, outlooks.as_deref()));
                } else {
                    loaded.show(Severity::Note)?;
                    super::tell(report::lockout::text(outlooks.as_deref().unwrap_or_default()))?;
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

fn as_json(loaded: &Loaded, refused: &[CompileError], here: Option<&[Outlook]>) -> Value {
    let outcome = &loaded.outcome;
    json!({
        "here": here,
        "file": loaded.file,
        "ok": outcome.resolved.is_some() && refused.is_empty(),
        "refused": refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "errors": outcome.count(Severity::Error),
        "warnings": outcome.count(Severity::Warning),
        "notes": outcome.count(Severity::Note),
        "diagnostics": diagnostics::json(&loaded.text, &outcome.diagnostics),
    })
}
