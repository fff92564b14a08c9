//! The stories of diagnostics, as text for a person and as JSON for a machine. What they say is in `policy/codes.md`.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::layout;
use crate::policy::{Severity, codes::Code};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const RED: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
const YELLOW: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
const GREEN: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));

/// One story, `width` columns wide.
pub fn story(code: &Code, width: usize) -> String {
    let story = code.story();
    let (style, severity) = severity(code);
    let mut out = format!("{style}{severity}[{}]{style:#}{BOLD}: {}{BOLD:#}\n", code.id, code.summary);
    part(&mut out, "What it means", story.meaning, width);
    part(&mut out, "Why", story.why, width);
    let _ = writeln!(out, "\n{DIM}For example{DIM:#}");
    for line in story.example.lines() {
        let _ = writeln!(out, "  {line}");
    }
    part(&mut out, "What to do", story.advice, width);
    out
}

fn part(out: &mut String, title: &str, text: &str, width: usize) {
    let _ = writeln!(out, "\n{DIM}{title}{DIM:#}");
    for line in layout::lines(&text.replace('\n', " "), width.saturating_sub(2)) {
        let _ = writeln!(out, "  {line}");
    }
}

/// A line for each code.
pub fn list(codes: &[&Code]) -> String {
    codes.iter().fold(String::new(), |mut out, code| {
        let (style, severity) = severity(code);
        let _ = writeln!(out, "{BOLD}{}{BOLD:#}  {style}{severity:<7}{style:#}  {}", code.id, code.summary);
        out
    })
}

const fn severity(code: &Code) -> (Style, &'static str) {
    match code.severity {
        Severity::Error => (RED, "error"),
        Severity::Warning => (YELLOW, "warning"),
        Severity::Note => (GREEN, "note"),
    }
}

/// A code and its story, for machines.
#[derive(Clone, Debug, Serialize)]
pub struct Json {
    code: &'static str,
    severity: Severity,
    summary: &'static str,
    meaning: String,
    why: String,
    example: &'static str,
    advice: String,
}

/// Codes as values that serialise to JSON.
pub fn json(codes: &[&Code]) -> Vec<Json> {
    let on_a_line = |text: &str| text.replace('\n', " ");
    codes
        .iter()
        .map(|code| {
            let story = code.story();
            Json {
                code: code.id,
                severity: code.severity,
                summary: code.summary,
                meaning: on_a_line(story.meaning),
                why: on_a_line(story.why),
                example: story.example,
                advice: on_a_line(story.advice),
            }
        })
        .collect()
}
