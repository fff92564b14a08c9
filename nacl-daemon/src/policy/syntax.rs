//! Broken TOML: the parser's errors as diagnostics, and which further findings would only echo them.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

use super::{Diagnostic, Severity, codes, tree::Reader};

/// Where a text is broken.
pub(crate) struct Broken {
    /// The lines that have an error.
    lines: Vec<Range<usize>>,
    /// Where the parser lost track of brackets: whatever it found behind that, it found by accident.
    lost: usize,
    /// Where a table's header is broken: the keys behind it may belong to another table.
    adrift: usize,
}

/// Records the syntax errors.
pub(crate) fn report(reader: &mut Reader<'_>, document: &DeTable<'_>, errors: &[Error]) -> Option<Broken> {
    let text = reader.text;
    let mut broken = Broken { lines: Vec::new(), lost: usize::MAX, adrift: usize::MAX };
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let start = text.floor_char_boundary(span.start);
        let end = text.ceil_char_boundary(span.end.max(start));
        if lost_track(error.message()) {
            broken.lost = broken.lost.min(start);
        }
        if error.message().contains("unclosed table") || error.message().contains("unclosed array table") {
            broken.adrift = broken.adrift.min(start);
        }
        // The first error of a line makes most of those that follow on it.
        if broken.lines.iter().any(|line| line.contains(&start)) {
            continue;
        }
        reader.push(diagnostic(text, start..end, error.message(), document));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[end..].find('\n').map_or(text.len(), |at| end + at);
        broken.lines.push(line_start..line_end + 1);
    }
    (!errors.is_empty()).then_some(broken)
}

fn lost_track(message: &str) -> bool {
    message.contains("inline table element") || message.contains("in array")
}

fn diagnostic(text: &str, span: Range<usize>, message: &str, document: &DeTable<'_>) -> Diagnostic {
    let (message, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let new = |message: &str| Diagnostic::new(&codes::SYNTAX, span.clone(), format!("not valid TOML: {message}"));
    match message {
        "string values must be quoted" if text[span.clone()].contains(char::is_whitespace) => {
            new("one value is expected here").at("no value").help("a comma or quotes may be missing")
        }
        "string values must be quoted" => new("a text value must be quoted")
            .at("not quoted")
            .help("put it in quotes")
            .fix(span.clone(), format!("\"{}\"", text[span.clone()].escape_default())),
        "duplicate key" => {
            let name = &text[span.clone()];
            let mut same = Vec::new();
            occurrences(document, name, 0, &mut same);
            same.retain(|place| *place != span);
            if same.is_empty() {
                same.extend(earlier_header(text, &span));
            }
            let diagnostic = new(&format!("`{}` is there twice", name.escape_debug())).at("used again");
            match &same[..] {
                [first] => diagnostic.and(first.clone(), "first used here"),
                _ => diagnostic.note("a table has each of its keys once"),
            }
        }
        "invalid basic string" | "invalid literal string" if expected.starts_with('`') => {
            new("a text value does not end on its line").at(format!("expected {expected}"))
        }
        _ if lost_track(message) => {
            let (inside, sign) = if message.contains("in array") { ("a list", ']') } else { ("braces", '}') };
            new(&format!("this cannot stand inside {inside}"))
                .at("unexpected here")
                .help(format!("a `{sign}` may be missing before it"))
        }
        _ => match expected {
            "" => new(message),
            "nothing" => new(message).at("nothing may stand here"),
            _ => new(message).at(format!("expected {expected}")),
        },
    }
}

/// An earlier line with the same header as the line of `span`: the parser forgets the first of two tables.
fn earlier_header(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let header =
        |line: &str| Some(line.trim_start().split_once(']')?.0.to_owned()).filter(|head| head.starts_with('['));
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let wanted = header(text[start..].lines().next()?)?;
    let mut at = 0;
    for line in text[..start].split_inclusive('\n') {
        if header(line).is_some_and(|found| found == wanted) {
            return Some(at..at + line.trim_end().len());
        }
        at += line.len();
    }
    None
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
    pub(crate) fn quieten(&self, diagnostics: &mut Vec<Diagnostic>) {
        let follows = [
            &codes::MISSING_KEY,
            &codes::UNKNOWN_NACL,
            &codes::UNKNOWN_SUBNET,
            &codes::UNKNOWN_VPC,
            &codes::SUBNET_NOT_ONE_CIDR,
            &codes::UNKNOWN_GROUP,
            &codes::UNKNOWN_PREFIX_LIST,
            &codes::NO_SUCH_LAYER,
            &codes::VERSION,
        ];
        diagnostics.retain(|diagnostic| {
            let start = diagnostic.span.start;
            if diagnostic.code == codes::SYNTAX.id {
                return start <= self.lost;
            }
            diagnostic.severity == Severity::Error
                && start <= self.lost.min(self.adrift)
                && follows.iter().all(|code| code.id != diagnostic.code)
                && self.lines.iter().all(|line| !line.contains(&start))
        });
    }
}
