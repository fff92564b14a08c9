//! Broken TOML: the parser's errors as diagnostics, and which further findings would only echo them.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

use super::{Diagnostic, Severity, codes, tree::Reader};

/// Where a text is broken.
pub(super) struct Broken {
    /// The lines that have an error.
    lines: Vec<Range<usize>>,
    /// Where the parser lost track of brackets: what it read behind that says nothing about the policy.
    lost: Option<usize>,
}

/// Records the syntax errors.
pub(super) fn report(reader: &mut Reader<'_>, document: &DeTable<'_>, errors: &[Error]) -> Option<Broken> {
    let text = reader.text;
    let mut broken = Broken { lines: Vec::new(), lost: None };
    let mut seen = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let start = text.floor_char_boundary(span.start);
        let end = text.ceil_char_boundary(span.end.max(start));
        if seen.contains(&start) {
            continue; // Six brackets not closed are one mistake to look for.
        }
        seen.push(start);
        reader.push(diagnostic(text, start..end, error.message(), document));
        if error.message().contains("inline table element") || error.message().contains("array element") {
            broken.lost = Some(broken.lost.map_or(start, |lost| lost.min(start)));
        }
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[end..].find('\n').map_or(text.len(), |at| end + at);
        broken.lines.push(line_start..line_end + 1);
    }
    (!errors.is_empty()).then_some(broken)
}

fn diagnostic(text: &str, span: Range<usize>, message: &str, document: &DeTable<'_>) -> Diagnostic {
    let (message, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let new = |message: &str| Diagnostic::new(&codes::SYNTAX, span.clone(), format!("not valid TOML: {message}"));
    match message {
        "string values must be quoted" => new("a text value must be quoted")
            .at("not quoted")
            .help("put it in quotes")
            .fix(span.clone(), format!("\"{}\"", text[span.clone()].escape_default())),
        "duplicate key" => {
            let name = &text[span.clone()];
            let mut same = Vec::new();
            occurrences(document, name, 0, &mut same);
            same.retain(|place| *place != span);
            let diagnostic = new(&format!("`{}` is there twice", name.escape_debug())).at("used again");
            match &same[..] {
                [first] => diagnostic.and(first.clone(), "first used here"),
                _ => diagnostic.note("a table has each of its keys once"),
            }
        }
        "invalid basic string" | "invalid literal string" if expected.starts_with('`') => {
            new("a text value does not end on its line").at(format!("expected {expected}"))
        }
        _ if message.contains("inline table element") || message.contains("array element") => {
            let diagnostic = new(message).help("a bracket or brace before this place may not be closed");
            if expected.is_empty() { diagnostic } else { diagnostic.at(format!("expected {expected}")) }
        }
        _ => match expected {
            "" => new(message),
            "nothing" => new(message).at("nothing may stand here"),
            _ => new(message).at(format!("expected {expected}")),
        },
    }
}

/// Places where a key of this name stands. The parser bounds how deep tables nest, this how deep we look.
fn occurrences(table: &DeTable<'_>, name: &str, depth: usize, found: &mut Vec<Range<usize>>) {
    fn inside(value: &Spanned<DeValue<'_>>, name: &str, depth: usize, found: &mut Vec<Range<usize>>) {
        match value.get_ref() {
            DeValue::Table(table) => occurrences(table, name, depth + 1, found),
            DeValue::Array(array) if depth < 8 => {
                array.iter().for_each(|item| inside(item, name, depth + 1, found));
            }
            _ => {}
        }
    }
    if depth >= 8 {
        return;
    }
    for (key, value) in table {
        if key.get_ref() == name {
            found.push(key.span());
        }
        inside(value, name, depth, found);
    }
}

impl Broken {
    /// Removes what only follows from the broken places: keys they swallowed are not missing, names they swallowed
    /// are not unknown, and a line that could not be read says nothing.
    pub(super) fn quieten(&self, diagnostics: &mut Vec<Diagnostic>) {
        let follows = [
            &codes::MISSING_KEY,
            &codes::UNKNOWN_NACL,
            &codes::UNKNOWN_SUBNET,
            &codes::UNKNOWN_VPC,
            &codes::SUBNET_NOT_ONE_CIDR,
            &codes::VERSION,
        ];
        diagnostics.retain(|diagnostic| {
            let start = diagnostic.span.start;
            let heard = self.lost.is_none_or(|lost| start <= lost);
            heard
                && (diagnostic.code == codes::SYNTAX.id
                    || diagnostic.severity == Severity::Error
                        && follows.iter().all(|code| code.id != diagnostic.code)
                        && self.lines.iter().all(|line| !line.contains(&start)))
        });
    }
}
