//! Reading a tree of JSON (or of YAML, made into one) of which every key may be absent, null or of another type: each value
//! knows its path, and what is wrong is collected. Knows no format.

use std::{cell::RefCell, net::IpAddr, ops::RangeInclusive, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{Document, Problem};
use crate::inventory::{Because, Note, Place};

/// What was found wrong, and what was left out, while a document was read.
#[derive(Debug, Default)]
pub struct Findings {
    /// What makes the import fail.
    pub problems: RefCell<Vec<Problem>>,
    /// What is told and does not.
    pub notes: RefCell<Vec<Note>>,
}

/// A document's text as JSON. Nested deeper than 128 levels it is refused, as `serde_json` does.
///
/// # Errors
/// It is not JSON: where, and why.
pub fn json(document: &Document) -> Result<Value, Problem> {
    serde_json::from_str(&document.text).map_err(|error| {
        let line = u32::try_from(error.line()).ok().filter(|line| *line > 0);
        let place = Place { file: Arc::clone(&document.file), path: String::new(), line };
        let text = error.to_string();
        let (what, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
        Problem { place, message: format!("column {}: this is not JSON: {what}", error.column()), help: None }
    })
}

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub struct Node<'d> {
    /// The value.
    pub value: &'d Value,
    file: &'d Arc<str>,
    path: String,
    line: Option<u32>,
    findings: &'d Findings,
}

impl<'d> Node<'d> {
    /// The whole of a document.
    pub const fn root(file: &'d Arc<str>, value: &'d Value, findings: &'d Findings) -> Self {
        Self { value, file, path: String::new(), line: None, findings }
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        Place { file: Arc::clone(self.file), path: self.path.clone(), line: self.line }
    }

    /// The same value under another name, such as the address of a Terraform resource.
    #[must_use]
    pub fn called(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// The same value, where the format's reader tells its line.
    #[must_use]
    pub const fn on(mut self, line: Option<u32>) -> Self {
        self.line = line;
        self
    }

    /// The same value, of which is told elsewhere.
    pub fn to<'f>(&self, findings: &'f Findings) -> Node<'f>
    where
        'd: 'f,
    {
        Node { value: self.value, file: self.file, path: self.path.clone(), line: self.line, findings }
    }

    /// Records that something is wrong here.
    pub fn wrong(&self, message: impl Into<String>, help: Option<String>) {
        self.findings.problems.borrow_mut().push(Problem { place: self.place(), message: message.into(), help });
    }

    /// Records that something here was left out.
    pub fn note(&self, because: Because, message: impl Into<String>) {
        self.findings.notes.borrow_mut().push(Note { because, place: self.place(), message: message.into() });
    }

    fn child(&self, step: &str, value: &'d Value) -> Self {
        let dot = if self.path.is_empty() || step.starts_with('[') { "" } else { "." };
        Self {
            value,
            file: self.file,
            path: format!("{}{dot}{step}", self.path),
            line: self.line,
            findings: self.findings,
        }
    }

    /// The members of an object; anything else is wrong, and has none.
    pub fn members(&self) -> Vec<(&'d str, Self)> {
        self.object().map_or_else(Vec::new, |map| {
            map.iter().map(|(key, value)| (key.as_str(), self.child(&written(key), value))).collect()
        })
    }

    fn object(&self) -> Option<&'d Map<String, Value>> {
        let found = self.value.as_object();
        if found.is_none() {
            self.mistaken("an object");
        }
        found
    }

    /// A member of an object; `None` where it is absent or null.
    pub fn get(&self, key: &str) -> Option<Self> {
        let value = self.object()?.get(key)?;
        (!value.is_null()).then(|| self.child(&written(key), value))
    }

    /// A member that has to be there.
    pub fn need(&self, key: &str) -> Option<Self> {
        // An object that is none was told of already.
        let map = self.object()?;
        let found = map.get(key).filter(|value| !value.is_null());
        if found.is_none() {
            self.wrong(format!("`{key}` is missing"), None);
        }
        found.map(|value| self.child(&written(key), value))
    }

    /// The elements of a list; none where the member is absent.
    pub fn list(&self, key: &str) -> Vec<Self> {
        self.get(key).map_or_else(Vec::new, |list| list.elements())
    }

    /// The elements of this list; anything else is wrong, and has none.
    pub fn elements(&self) -> Vec<Self> {
        let Some(list) = self.value.as_array() else {
            self.mistaken("a list");
            return Vec::new();
        };
        list.iter().enumerate().map(|(index, value)| self.child(&format!("[{index}]"), value)).collect()
    }

    /// A text.
    pub fn text(&self) -> Option<&'d str> {
        let found = self.value.as_str();
        if found.is_none() {
            self.mistaken("a text");
        }
        found
    }

    /// Yes or no; quoted too, as hand-written documents have it.
    pub fn flag(&self) -> Option<bool> {
        let found = match self.value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        };
        if found.is_none() {
            self.mistaken("true or false");
        }
        found
    }

    /// A whole number within bounds; quoted too.
    pub fn number<T: TryFrom<i64>>(&self, bounds: RangeInclusive<i64>) -> Option<T> {
        let whole = match self.value {
            Value::Number(number) => number.as_i64().or_else(|| {
                // Some writers have no integers: 80.0 is 80.
                number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e15).map(|float| float as i64)
            }),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let found = whole.filter(|whole| bounds.contains(whole)).and_then(|whole| T::try_from(whole).ok());
        if found.is_none() {
            self.mistaken(&format!("a whole number from {} to {}", bounds.start(), bounds.end()));
        }
        found
    }

    /// A text that means something.
    pub fn parse<T: FromStr>(&self, what: &str) -> Option<T> {
        let text = self.text()?;
        let found = text.trim().parse().ok();
        if found.is_none() {
            self.mistaken(what);
        }
        found
    }

    /// A CIDR, canonical: AWS clears host bits too (N35).
    pub fn cidr(&self) -> Option<IpNet> {
        self.parse::<IpNet>("a CIDR such as 10.0.0.0/16 or 2001:db8::/56").map(|net| net.trunc())
    }

    /// An address.
    pub fn address(&self) -> Option<IpAddr> {
        self.parse("an IP address")
    }

    /// Records that a value is of another kind than it should be.
    pub fn mistaken(&self, wanted: &str) {
        self.wrong(format!("{} is not {wanted}", shown(self.value)), None);
    }
}

/// A step of a path.
pub(super) fn written(key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|char| char.is_ascii_alphanumeric() || "_-:".contains(char));
    if plain { key.to_owned() } else { format!("[{:?}]", key.chars().take(60).collect::<String>()) }
}

/// A value in a message: short, and with nothing in it that a terminal obeys.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) if text.chars().count() > 40 => {
            format!("{:?}…", text.chars().take(40).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        plain => plain.to_string(),
    }
}
