//! Diagnostics → text in rustc's style, and JSON. Decides nothing about policies, and knows no terminal: whether colour
//! is wanted is the caller's to say.

use std::{iter::once, ops::Range};

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Patch, Renderer, Snippet, normalize_untrusted_str, renderer::DecorStyle,
};
use serde::Serialize;

use crate::policy::{Diagnostic, Severity};

/// Columns of a rendering.
const WIDTH: usize = 120;

/// Renders diagnostics one under another, each followed by an empty line. `colour`: with ANSI escapes.
pub fn render(file: &str, text: &str, diagnostics: &[Diagnostic], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(WIDTH);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&renderer.render(&report(file, text, diagnostic)));
        out.push_str("\n\n");
    }
    out
}

fn report<'a>(file: &'a str, text: &'a str, diagnostic: &'a Diagnostic) -> Vec<Group<'a>> {
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
        group = group.element(Level::NOTE.message(normalize_untrusted_str(note)));
    }
    match (&diagnostic.help, &diagnostic.fix) {
        (Some(help), Some(fix)) => {
            let part = Part::around(text, once(&fix.span));
            let patch = Patch::new(part.inside(&fix.span), fix.replacement.as_str());
            let edit = Snippet::source(part.text).line_start(part.line).patch(patch);
            vec![group, Level::HELP.secondary_title(normalize_untrusted_str(help)).element(edit)]
        }
        (Some(help), None) => vec![group.element(Level::HELP.message(normalize_untrusted_str(help)))],
        (None, _) => vec![group],
    }
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
}

/// Where something stands: bytes from 0, lines and columns (in characters) from 1, the end exclusive.
#[derive(Clone, Copy, Debug, Serialize)]
struct Place {
    start: usize,
    end: usize,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Text<'a> {
    #[serde(flatten)]
    place: Place,
    text: &'a str,
}

/// Diagnostics as values that serialise to JSON.
pub fn json<'a>(text: &str, diagnostics: &'a [Diagnostic]) -> Vec<Json<'a>> {
    let ends: Vec<_> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line_column = |at: usize| {
        let line = ends.partition_point(|&end| end < at);
        let start = if line == 0 { 0 } else { ends[line - 1] + 1 };
        (line + 1, text[start..at].chars().count() + 1)
    };
    let place = |span: &Range<usize>| {
        let (line, column) = line_column(span.start);
        let (end_line, end_column) = line_column(span.end);
        Place { start: span.start, end: span.end, line, column, end_line, end_column }
    };
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
        })
        .collect()
}
