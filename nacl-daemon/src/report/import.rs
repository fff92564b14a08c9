//! What imports and exports tell: notes and problems, one after another, each with its place.

use std::fmt::Write;

use annotate_snippets::normalize_untrusted_str;
use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use crate::{import::Problem, inventory::Note};

/// What notes are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Documents became a policy.
    Import,
    /// A policy became a document.
    Export,
}

impl Work {
    const fn name(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Export => "export",
        }
    }
}

const BAD: Style = AnsiColor::Red.on_default().bold();
const TOLD: Style = AnsiColor::Green.on_default().bold();
const BOLD: Style = Style::new().bold();

/// Notes, for a person.
pub fn notes(work: Work, notes: &[Note]) -> String {
    let mut out = String::new();
    for note in notes {
        line(&mut out, TOLD, "note", work, &note.place.to_string(), &note.message);
    }
    out
}

/// A note, for machines.
pub fn json(note: &Note) -> Value {
    let Note { because, place, message } = note;
    json!({
        "because": because.name(),
        "place": { "file": place.file, "path": place.path, "line": place.line },
        "message": message,
    })
}

/// Problems of an import, for a person: an export has none.
pub fn problems(problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        line(&mut out, BAD, "error", Work::Import, &problem.place.to_string(), &problem.message);
        if let Some(help) = &problem.help {
            let _ = writeln!(out, "  {BOLD}= help{BOLD:#}: {}", normalize_untrusted_str(help));
        }
    }
    out
}

/// A document's words stand in it, so nothing that steers a terminal is let through.
fn line(out: &mut String, style: Style, level: &str, work: Work, place: &str, message: &str) {
    let (place, message) = (normalize_untrusted_str(place), normalize_untrusted_str(message));
    // What is told of all together has none.
    let place = if place.is_empty() { place } else { format!("{BOLD}{place}{BOLD:#}: ") };
    let _ = writeln!(out, "{style}{level}[{}]{style:#}: {place}{message}", work.name());
}
