//! Diagnostics → text in rustc's style, and JSON. Decides nothing about policies, and knows no terminal: whether colour
//! is wanted is the caller's to say.

use std::{borrow::Cow, iter::once, ops::Range};

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Patch, Renderer, Snippet, normalize_untrusted_str, renderer::DecorStyle,
};
use serde::Serialize;
use serde_json::Value;

use super::{explain::flow_line, layout, regions};
use crate::policy::{Diagnostic, Example, Severity};

/// Columns of a rendering that is for no terminal.
const WIDTH: u16 = 120;

/// Renders diagnostics one under another, each followed by an empty line. `colour`: with ANSI escapes.
pub fn render(file: &str, text: &str, diagnostics: &[Diagnostic], colour: bool) -> String {
    render_within(file, text, diagnostics, colour, None)
}

/// As [`render`], for a terminal so wide; `None`: there is none.
pub fn render_within(file: &str, text: &str, diagnostics: &[Diagnostic], colour: bool, width: Option<u16>) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(width.unwrap_or(WIDTH).into());
    let text = shown(text);
    let mut out = String::new();
    for diagnostic in diagnostics {
        let all = renderer.render(&report(file, &text, diagnostic, width));
        // Of the source the renderer takes what fits, and what is said of it was broken before.
        let (title, rest) = all.split_at(all.find('\n').unwrap_or(all.len()));
        out.push_str(&layout::fit(title, width));
        out.push_str(rest);
        out.push_str("\n\n");
    }
    out
}

/// Columns that stand before what is said: a line's number, and `= example: `.
const BEFORE: u16 = 16;

/// A text of which nothing is obeyed by a terminal that the renderer would let pass: the controls beyond ASCII. Each is replaced by a character
/// of as many bytes, so that places stay.
fn shown(text: &str) -> Cow<'_, str> {
    let control = |char: char| matches!(char, '\u{80}'..='\u{9f}');
    if text.contains(control) { Cow::Owned(text.replace(control, "\u{bf}")) } else { Cow::Borrowed(text) }
}

fn report<'a>(file: &'a str, text: &'a str, diagnostic: &'a Diagnostic, width: Option<u16>) -> Vec<Group<'a>> {
    let said = |text: &str| {
        let text = normalize_untrusted_str(text);
        match width {
            Some(width) => layout::lines(&text, width.saturating_sub(BEFORE).into()).join("\n"),
            None => text,
        }
    };
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code);
    let mut group = if diagnostic.span.is_empty() && diagnostic.label.is_none() {
        // About the file as a whole: no place in it would say more.
        title.element(Origin::path(file))
    } else {
        let part = Part::around(text, once(&diagnostic.span).chain(diagnostic.labels.iter().map(|label| &label.span)));
        let primary = AnnotationKind::Primary.span(part.inside(&diagnostic.span)).label(diagnostic.label.as_deref());
        let context = diagnostic
            .labels
            .iter()
            .map(|label| AnnotationKind::Context.span(part.inside(&label.span)).label(label.text.as_str()));
        let snippet = Snippet::source(part.text).line_start(part.line).path(file);
        title.element(snippet.annotation(primary).annotations(context))
    };
    if let Some(note) = &diagnostic.note {
        group = group.element(Level::NOTE.message(said(note)));
    }
    for example in &diagnostic.examples {
        group = group.element(Level::NOTE.with_name("example").message(said(&sentence(example))));
    }
    match (&diagnostic.help, &diagnostic.fix) {
        (Some(help), Some(fix)) => {
            let part = Part::around(text, once(&fix.span));
            let patch = Patch::new(part.inside(&fix.span), fix.replacement.as_str());
            let edit = Snippet::source(part.text).line_start(part.line).patch(patch);
            vec![group, Level::HELP.secondary_title(normalize_untrusted_str(help)).element(edit)]
        }
        (Some(help), None) => vec![group.element(Level::HELP.message(said(help)))],
        (None, _) => vec![group],
    }
}

/// A packet and what becomes of it, as a person reads it: `tcp 198.51.100.7:50000 → 10.0.1.10:443, inbound: inbound 100 allows it`.
pub fn sentence(example: &Example) -> String {
    let Example { interface: _, layer: _, direction, packet, allow, by } = example;
    let does = if *allow { "allows" } else { "denies" };
    format!("{}, {}: {by} {does} it", flow_line(packet), direction.name())
}

/// The lines of a text that a diagnostic is about: rendering looks at every line it is given, and a long file with many
/// findings would take their product.
struct Part<'a> {
    text: &'a str,
    start: usize,
    line: usize,
}

impl<'a> Part<'a> {
    fn around<'s>(text: &'a str, spans: impl Iterator<Item = &'s Range<usize>>) -> Self {
        let (first, last) =
            spans.fold((text.len(), 0), |(first, last), span| (first.min(span.start), last.max(span.end)));
        let start = text[..first].rfind('\n').map_or(0, |at| at + 1);
        // Of a whole line its end is part, and not the line behind it.
        let last = if last > first && text[..last].ends_with('\n') { last - 1 } else { last };
        let end = text[last..].find('\n').map_or(text.len(), |at| last + at + 1);
        Self { text: &text[start..end], start, line: text[..start].matches('\n').count() + 1 }
    }

    fn inside(&self, span: &Range<usize>) -> Range<usize> {
        span.start - self.start..span.end - self.start
    }
}

/// The line of a text that a diagnostic begins on, from 1.
pub fn line(text: &str, diagnostic: &Diagnostic) -> usize {
    Part::around(text, once(&diagnostic.span)).line
}

/// "2 errors, 1 warning, 3 notes"; empty where there is nothing.
pub fn tally(diagnostics: &[Diagnostic]) -> String {
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")]
        .into_iter()
        .map(|(severity, word)| (count(severity), word))
        .filter(|&(count, _)| count != 0)
        .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A diagnostic for machines.
#[derive(Clone, Debug, Serialize)]
pub struct Json<'a> {
    severity: Severity,
    code: &'static str,
    message: &'a str,
    #[serde(flatten)]
    place: Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    examples: Vec<JsonExample<'a>>,
}

/// A packet that proves a diagnostic. Its packet is a line for `nacld explain --jsonl`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct JsonExample<'a> {
    interface: Option<&'a str>,
    layer: &'static str,
    packet: Value,
    action: &'static str,
    by: &'a str,
}

/// Where something stands: bytes from 0, lines and columns (in characters) from 1, the end exclusive.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) end_line: usize,
    pub(super) end_column: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Text<'a> {
    #[serde(flatten)]
    place: Place,
    text: &'a str,
}

/// Where the lines of a text begin, so that places in it are found by counting one line and not all before it.
pub(super) struct Places<'a> {
    text: &'a str,
    ends: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    fn line_column(&self, at: usize) -> (usize, usize) {
        let line = self.ends.partition_point(|&end| end < at);
        let start = if line == 0 { 0 } else { self.ends[line - 1] + 1 };
        (line + 1, self.text[start..at].chars().count() + 1)
    }

    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let (line, column) = self.line_column(span.start);
        let (end_line, end_column) = self.line_column(span.end);
        Place { start: span.start, end: span.end, line, column, end_line, end_column }
    }
}

/// Diagnostics as values that serialise to JSON.
pub fn json<'a>(text: &str, diagnostics: &'a [Diagnostic]) -> Vec<Json<'a>> {
    let places = Places::of(text);
    let place = |span: &Range<usize>| places.place(span);
    diagnostics
        .iter()
        .map(|diagnostic| Json {
            severity: diagnostic.severity,
            code: diagnostic.code,
            message: &diagnostic.message,
            place: place(&diagnostic.span),
            label: diagnostic.label.as_deref(),
            labels: diagnostic
                .labels
                .iter()
                .map(|label| Text { place: place(&label.span), text: &label.text })
                .collect(),
            note: diagnostic.note.as_deref(),
            help: diagnostic.help.as_deref(),
            fix: diagnostic.fix.as_ref().map(|fix| Text { place: place(&fix.span), text: &fix.replacement }),
            examples: examples(&diagnostic.examples),
        })
        .collect()
}

/// Packets that prove something, as values that serialise to JSON.
pub(super) fn examples(examples: &[Example]) -> Vec<JsonExample<'_>> {
    examples.iter().map(json_example).collect()
}

fn json_example(example: &Example) -> JsonExample<'_> {
    JsonExample {
        interface: example.interface.as_deref(),
        layer: example.layer.name(),
        packet: regions::line(example.direction, &example.packet),
        action: if example.allow { "allow" } else { "deny" },
        by: &example.by,
    }
}
