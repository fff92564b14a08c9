//! A spanned TOML tree and typed reads from it, each recording its own diagnostic. Knows types, keys and spelling;
//! nothing of rules or networks.

use std::{collections::BTreeSet, ops::Range};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{Diagnostic, codes, names};

/// What is being read, and what has been found so far.
pub(crate) struct Reader<'t> {
    pub(crate) text: &'t str,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Reader<'_> {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }
}

/// A value with where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Value<'d> {
    data: &'d DeValue<'d>,
    start: usize,
    end: usize,
}

/// A value's type, as TOML calls it.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Every key and every string of a document, however deep, and where it stands.
pub(super) fn texts(table: &DeTable<'_>, look: &mut impl FnMut(Range<usize>, &str)) {
    fn value(found: &Spanned<DeValue<'_>>, look: &mut impl FnMut(Range<usize>, &str)) {
        match found.get_ref() {
            DeValue::String(text) => look(found.span(), text),
            DeValue::Array(array) => array.iter().for_each(|one| value(one, look)),
            DeValue::Table(table) => texts(table, look),
            _ => {}
        }
    }
    for (key, found) in table {
        look(key.span(), key.get_ref());
        value(found, look);
    }
}

impl<'d> Value<'d> {
    pub(crate) fn new(value: &'d Spanned<DeValue<'d>>) -> Self {
        Self { data: value.get_ref(), start: value.span().start, end: value.span().end }
    }

    pub(crate) fn span(&self) -> Range<usize> {
        self.start..self.end
    }

    pub(crate) fn kind(&self) -> &'static str {
        kind(self.data)
    }

    pub(crate) fn is_table(&self) -> bool {
        matches!(self.data, DeValue::Table(_))
    }

    pub(crate) fn as_str(&self) -> Option<&'d str> {
        match self.data {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// An integer, saturated.
    pub(crate) fn as_integer(&self) -> Option<i64> {
        let DeValue::Integer(integer) = self.data else { return None };
        let digits = integer.as_str();
        let saturated = if digits.starts_with('-') { i64::MIN } else { i64::MAX };
        Some(i64::from_str_radix(digits, integer.radix()).unwrap_or(saturated))
    }

    pub(crate) fn as_array(&self) -> Option<&'d DeArray<'d>> {
        match self.data {
            DeValue::Array(array) => Some(array),
            _ => None,
        }
    }

    pub(crate) fn as_table(&self) -> Option<&'d DeTable<'d>> {
        match self.data {
            DeValue::Table(table) => Some(table),
            _ => None,
        }
    }

    fn wrong_type(&self, what: &str, wanted: &str) -> Diagnostic {
        Diagnostic::new(&codes::WRONG_TYPE, self.span(), format!("{what} must be {wanted}, not {}", self.kind()))
            .at(format!("expected {wanted}"))
    }

    pub(crate) fn string(&self, reader: &mut Reader<'_>, key: &str) -> Option<&'d str> {
        let text = self.as_str();
        if text.is_none() {
            reader.push(self.wrong_type(&format!("`{key}`"), "a string"));
        }
        text
    }

    /// A string that may hold anything, so that quotes are all that can be missing.
    pub(crate) fn name(&self, reader: &mut Reader<'_>, key: &str) -> Option<&'d str> {
        let text = self.as_str();
        if text.is_none() {
            let diagnostic = self.wrong_type(&format!("`{key}`"), "a string");
            let diagnostic = match self.data {
                DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
                    diagnostic.help("put it in quotes").fix(self.span(), format!("\"{}\"", &reader.text[self.span()]))
                }
                _ => diagnostic,
            };
            reader.push(diagnostic);
        }
        text
    }

    pub(crate) fn boolean(&self, reader: &mut Reader<'_>, key: &str) -> Option<bool> {
        if let DeValue::Boolean(value) = self.data {
            return Some(*value);
        }
        let mut diagnostic = self.wrong_type(&format!("`{key}`"), "`true` or `false`");
        if let Some(text @ ("true" | "false")) = self.as_str() {
            diagnostic = diagnostic.help("without quotes").fix(self.span(), text);
        }
        reader.push(diagnostic);
        None
    }

    /// The items of an array; a single string is read as its only item after the error.
    pub(crate) fn strings(&self, reader: &mut Reader<'_>, key: &str) -> Option<Vec<(&'d str, Range<usize>)>> {
        let Some(array) = self.as_array() else {
            let mut diagnostic = self.wrong_type(&format!("`{key}`"), "an array of strings");
            if self.as_str().is_some() {
                diagnostic =
                    diagnostic.help("put it in brackets").fix(self.span(), format!("[{}]", &reader.text[self.span()]));
            }
            reader.push(diagnostic);
            return self.as_str().map(|text| vec![(text, self.span())]);
        };
        let mut strings = Vec::new();
        for item in array.iter().map(Value::new) {
            match item.as_str() {
                Some(text) => strings.push((text, item.span())),
                None => reader.push(item.wrong_type(&format!("an item of `{key}`"), "a string")),
            }
        }
        Some(strings)
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, reader: &mut Reader<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(reader, key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|&(_, value)| value);
        if found.is_none() {
            let all: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let span = self.span();
            let mut diagnostic = Diagnostic::new(
                &codes::UNKNOWN_VALUE,
                span.clone(),
                format!("`{key}` cannot be \"{}\"", text.escape_debug()),
            )
            .at(format!("expected {}", one_of(&all)));
            if let Some(word) = names::closest(text, words.iter().map(|(word, _)| *word)) {
                diagnostic = diagnostic.help(format!("did you mean \"{word}\"?")).fix(span, format!("\"{word}\""));
            }
            reader.push(diagnostic);
        }
        found
    }

    /// A table whose keys are names chosen by the author, in the order of the text.
    pub(crate) fn named(&self, reader: &mut Reader<'_>, key: &str, example: &str) -> Vec<Entry<'d>> {
        let DeValue::Table(table) = self.data else {
            let diagnostic = self
                .wrong_type(&format!("`{key}`"), "a table of named tables")
                .help(format!("write `[{key}.{example}]` and its keys below it"));
            reader.push(diagnostic);
            return Vec::new();
        };
        let mut entries = Vec::new();
        for entry in entries_of(table) {
            if entry.value.is_table() {
                entries.push(entry);
            } else if entry.value.as_array().is_some_and(|array| array.iter().any(|item| Value::new(item).is_table())) {
                let span = entry.key_span.clone();
                let message = format!("`{key}.{}` must be a table, not an array of tables", entry.key.escape_debug());
                reader.push(
                    Diagnostic::new(&codes::WRONG_TYPE, span, message)
                        .at("in double brackets")
                        .help(format!("in single brackets: `[{key}.{}]`", entry.key.escape_debug())),
                );
            } else {
                reader.push(
                    Diagnostic::new(
                        &codes::UNKNOWN_KEY,
                        entry.key_span.clone(),
                        format!("`{}` stands directly in `[{key}]`", entry.key.escape_debug()),
                    )
                    .at("belongs to a named table")
                    .help(format!("every {key} has a name: `[{key}.{example}]`")),
                );
            }
        }
        entries
    }

    /// A table with known keys.
    pub(crate) fn table(
        &self,
        reader: &mut Reader<'_>,
        what: &str,
        known: &[&'static str],
        hint: &dyn Fn(&Unknown<'_, 'd>) -> Option<Hint>,
    ) -> Option<Table<'d>> {
        let DeValue::Table(table) = self.data else {
            let diagnostic = self.wrong_type(what, "a table");
            reader.push(diagnostic);
            return None;
        };
        Some(Table::read(reader, what, self.span(), table, known, hint))
    }
}

/// "a, b or c".
pub(crate) fn one_of(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// "a, b and c".
fn all_of(words: &[String]) -> String {
    match words {
        [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
        _ => words.concat(),
    }
}

/// A key and its value.
#[derive(Clone)]
pub(crate) struct Entry<'d> {
    pub(crate) key: &'d str,
    pub(crate) key_span: Range<usize>,
    pub(crate) value: Value<'d>,
}

/// Entries in the order of the text; the parser sorts them by name.
pub(crate) fn entries_of<'d>(table: &'d DeTable<'d>) -> Vec<Entry<'d>> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| Entry { key: key.get_ref().as_ref(), key_span: key.span(), value: Value::new(value) })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

/// An unknown key, for whoever knows better than spelling what was meant.
pub(crate) struct Unknown<'e, 'd> {
    pub(crate) entry: &'e Entry<'d>,
    /// The key in lower case with `_` for `-`.
    pub(crate) plain: String,
    /// All entries of the table.
    pub(crate) siblings: &'e [Entry<'d>],
}

/// What was meant by an unknown key.
pub(crate) struct Hint {
    /// The diagnostic to give instead of "unknown key".
    pub(crate) diagnostic: Diagnostic,
    /// The key that was meant: it is not reported as missing.
    pub(crate) meant: Option<&'static str>,
}

/// A table whose unknown keys have been reported.
pub(crate) struct Table<'d> {
    pub(crate) span: Range<usize>,
    what: String,
    entries: Vec<Entry<'d>>,
    meant: BTreeSet<&'static str>,
}

impl<'d> Table<'d> {
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        what: &str,
        span: Range<usize>,
        table: &'d DeTable<'d>,
        known: &[&'static str],
        hint: &dyn Fn(&Unknown<'_, 'd>) -> Option<Hint>,
    ) -> Self {
        let entries = entries_of(table);
        let mut meant = BTreeSet::new();
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key)) {
            let plain = entry.key.to_ascii_lowercase().replace('-', "_");
            let unknown = Unknown { entry, plain, siblings: &entries };
            let found = hint(&unknown).unwrap_or_else(|| {
                let absent = known.iter().copied().filter(|key| entries.iter().all(|entry| entry.key != *key));
                let close = names::closest(entry.key, absent);
                let span = entry.key_span.clone();
                let message = format!("{what} has no key `{}`", entry.key.escape_debug());
                let diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span.clone(), message).at("unknown key");
                let diagnostic = if let Some(key) = close {
                    diagnostic.help(format!("did you mean `{key}`?")).fix(span, key)
                } else {
                    diagnostic.note(match known {
                        [only] => format!("its only key is {only}"),
                        _ => format!("its keys are {}", known.join(", ")),
                    })
                };
                let meant = known.iter().copied().find(|key| Some(*key) == close);
                Hint { diagnostic, meant }
            });
            meant.extend(found.meant);
            reader.push(found.diagnostic);
        }
        Self { span, what: what.to_owned(), entries, meant }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry<'d>> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(crate) fn get(&self, key: &str) -> Option<Value<'d>> {
        self.entry(key).map(|entry| entry.value)
    }

    /// Whether the key is there, or another was written for it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some() || self.meant.contains(key)
    }

    /// Reports those of some keys that must be there and are not, together.
    pub(crate) fn require_all(&self, reader: &mut Reader<'_>, keys: &[(&str, &str)]) {
        let missing: Vec<_> = keys.iter().filter(|(key, _)| !self.has(key)).collect();
        let names: Vec<_> = missing.iter().map(|(key, _)| format!("`{key}`")).collect();
        let (message, help) = match missing[..] {
            [] => return,
            [(_, help)] => (format!("{} has no {}", self.what, names[0]), (*help).to_owned()),
            _ => {
                let examples: Vec<_> =
                    missing.iter().map(|(_, help)| help.rsplit("such as ").next().unwrap_or_default()).collect();
                (format!("{} has no {}", self.what, one_of(&names)), format!("add {}", examples.join(", ")))
            }
        };
        let label = if missing.len() == 1 { "is missing" } else { "are missing" };
        reader.push(
            Diagnostic::new(&codes::MISSING_KEY, self.span.clone(), message)
                .at(format!("{} {label}", all_of(&names)))
                .help(help),
        );
    }

    /// A key that must be there; `place` is what is pointed at when it is not.
    pub(crate) fn require_at(
        &self,
        reader: &mut Reader<'_>,
        key: &str,
        place: &Range<usize>,
        help: &str,
    ) -> Option<Value<'d>> {
        if !self.has(key) {
            reader.push(
                Diagnostic::new(&codes::MISSING_KEY, place.clone(), format!("{} has no `{key}`", self.what))
                    .at(format!("`{key}` is missing"))
                    .help(help),
            );
        }
        self.get(key)
    }
}
