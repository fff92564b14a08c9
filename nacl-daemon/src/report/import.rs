//! What imports and exports tell: notes and problems, one after another, each with its place.

use std::fmt::Write;

use annotate_snippets::normalize_untrusted_str;
use anstyle::{AnsiColor, Style};

use crate::{import::Problem, inventory::Note};

const BAD: Style = AnsiColor::Red.on_default().bold();
const TOLD: Style = AnsiColor::Green.on_default().bold();
const BOLD: Style = Style::new().bold();

/// Notes, for a person.
pub fn notes(notes: &[Note]) -> String {
    let mut out = String::new();
    for note in notes {
        line(&mut out, TOLD, "note", &note.place.to_string(), &note.message);
    }
    out
}

/// Problems, for a person.
pub fn problems(problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        line(&mut out, BAD, "error", &problem.place.to_string(), &problem.message);
        if let Some(help) = &problem.help {
            let _ = writeln!(out, "  {BOLD}= help{BOLD:#}: {}", normalize_untrusted_str(help));
        }
    }
    out
}

/// A document's words stand in it, so nothing that steers a terminal is let through.
fn line(out: &mut String, style: Style, level: &str, place: &str, message: &str) {
    let (place, message) = (normalize_untrusted_str(place), normalize_untrusted_str(message));
    let _ = writeln!(out, "{style}{level}[import]{style:#}: {BOLD}{place}{BOLD:#}: {message}");
}
