//! Values of a document in which some are not known yet and some name other objects: what Terraform and CloudFormation have
//! in place of plain JSON. Knows no format.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;
use serde_json::Value;

use super::tree::{Findings, Node, written};
use crate::inventory::{Because, Link, Note, Place};

/// A value, and its line where the format's reader tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// What it is.
    pub what: What,
    /// Line, from 1.
    pub line: Option<u32>,
}

/// What a value is. Numbers, `true` and `false` are texts: documents quote them as they like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing.
    Null,
    /// A text, a number, true or false.
    Text(String),
    /// A list.
    List(Vec<Term>),
    /// An object.
    Map(BTreeMap<String, Term>),
    /// Another object of the document, or an attribute of it.
    Link(Target),
    /// Not known before it is applied.
    Unknown(Unknown),
}

/// What a value names: an object of the same document, and the attribute of it that is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The resource's address, or its logical id.
    pub object: String,
    /// The attribute; empty: what the object is known by.
    pub attribute: String,
}

/// Why a value is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// A sentence's end: "… is not known: WHY".
    pub why: String,
    /// What can stand for an object in its place: the name of the parameter that will name it.
    pub named: Option<Link>,
}

impl Term {
    /// A value of no known line.
    pub const fn new(what: What) -> Self {
        Self { what, line: None }
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(What::Text(text.into()))
    }

    /// What is not known.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self::new(What::Unknown(Unknown { why: why.into(), named: None }))
    }

    /// The same on a line.
    #[must_use]
    pub const fn on(mut self, line: Option<u32>) -> Self {
        self.line = line;
        self
    }

    /// A member of an object; `None` where it is absent, null, or this is no object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.what {
            What::Map(map) => map.get(key).filter(|term| term.what != What::Null),
            _ => None,
        }
    }

    /// Its text, if it has one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.what {
            What::Text(text) => Some(text),
            _ => None,
        }
    }

    /// JSON of which everything is known.
    pub fn known(value: &Value) -> Self {
        Self::new(match value {
            Value::Null => What::Null,
            Value::Bool(flag) => What::Text(flag.to_string()),
            Value::Number(number) => What::Text(whole(number)),
            Value::String(text) => What::Text(text.clone()),
            Value::Array(list) => What::List(list.iter().map(Self::known).collect()),
            Value::Object(map) => What::Map(map.iter().map(|(key, value)| (key.clone(), Self::known(value))).collect()),
        })
    }

    /// Every value in it that is neither a list nor an object, itself included, with its keys joined by dots.
    pub fn leaves(&self, path: &str, each: &mut impl FnMut(&str, &Self)) {
        match &self.what {
            What::List(list) => {
                for (index, term) in list.iter().enumerate() {
                    term.leaves(&format!("{path}[{index}]"), each);
                }
            }
            What::Map(map) => {
                for (key, term) in map {
                    let dot = if path.is_empty() { "" } else { "." };
                    term.leaves(&format!("{path}{dot}{}", written(key)), each);
                }
            }
            _ => each(path, self),
        }
    }

    /// Puts in place of every link what `known` knows of it, where that is a text: an id or a CIDR.
    pub fn settle(&mut self, known: &impl Fn(&Target) -> Option<Self>) {
        match &mut self.what {
            What::List(list) => list.iter_mut().for_each(|term| term.settle(known)),
            What::Map(map) => map.values_mut().for_each(|term| term.settle(known)),
            What::Link(target) => {
                // Longer ones are no value of ours, and could be multiplied without end.
                if let Some(What::Text(text)) = known(target).map(|found| found.what).filter(short) {
                    self.what = What::Text(text);
                }
            }
            _ => {}
        }
    }
}

fn short(what: &What) -> bool {
    matches!(what, What::Text(text) if text.len() <= 256)
}

/// A number as a text. Some writers have no integers: 80.0 is 80.
pub(super) fn whole(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if !number.is_i64() && float.fract() == 0.0 && float.abs() < 1e15 => (float as i64).to_string(),
        _ => number.to_string(),
    }
}

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub struct At<'t> {
    /// The value.
    pub term: &'t Term,
    file: &'t Arc<str>,
    path: String,
    line: Option<u32>,
    findings: &'t Findings,
}

impl<'t> At<'t> {
    /// A value under a name, such as the address of a resource.
    pub fn new(term: &'t Term, file: &'t Arc<str>, path: impl Into<String>, findings: &'t Findings) -> Self {
        Self { term, file, path: path.into(), line: term.line, findings }
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        Place { file: Arc::clone(self.file), path: self.path.clone(), line: self.line }
    }

    /// Records that something is wrong here.
    pub fn wrong(&self, message: impl Into<String>, help: Option<String>) {
        self.read(&Value::Null, |node| node.wrong(message, help));
    }

    /// Records that something here was left out, or is taken otherwise than it stands.
    pub fn note(&self, because: Because, message: impl Into<String>) {
        let note = Note { because, place: self.place(), message: message.into() };
        self.findings.notes.borrow_mut().push(note);
    }

    /// A member; `None` where it is absent or null.
    pub fn get(&self, key: &str) -> Option<Self> {
        match &self.term.what {
            What::Map(_) => {
                let term = self.term.get(key)?;
                let dot = if self.path.is_empty() { "" } else { "." };
                Some(self.child(term, format!("{}{dot}{}", self.path, written(key))))
            }
            _ => {
                self.refuse("an object");
                None
            }
        }
    }

    /// A member that is not empty: `""` and `[]` are how Terraform writes what is not set.
    pub fn given(&self, key: &str) -> Option<Self> {
        self.get(key).filter(|at| match &at.term.what {
            What::Text(text) => !text.is_empty(),
            What::List(list) => !list.is_empty(),
            _ => true,
        })
    }

    /// A member that has to be there.
    pub fn need(&self, key: &str) -> Option<Self> {
        let found = self.given(key);
        if found.is_none() && matches!(self.term.what, What::Map(_)) {
            self.wrong(format!("`{key}` is missing"), None);
        }
        found
    }

    /// The members of an object; anything else has none, and is told.
    pub fn members(&self) -> Vec<(&'t str, Self)> {
        let What::Map(map) = &self.term.what else {
            self.refuse("an object");
            return Vec::new();
        };
        map.iter()
            .filter(|(_, term)| term.what != What::Null)
            .map(|(key, term)| (key.as_str(), self.child(term, format!("{}.{}", self.path, written(key)))))
            .collect()
    }

    /// The elements of a list; anything else has none, and is told.
    pub fn elements(&self) -> Vec<Self> {
        let What::List(list) = &self.term.what else {
            self.refuse("a list");
            return Vec::new();
        };
        let elements = list.iter().enumerate().filter(|(_, term)| term.what != What::Null);
        elements.map(|(index, term)| self.child(term, format!("{}[{index}]", self.path))).collect()
    }

    /// The elements of a member; none where it is absent.
    pub fn list(&self, key: &str) -> Vec<Self> {
        self.get(key).map_or_else(Vec::new, |list| list.elements())
    }

    fn child(&self, term: &'t Term, path: String) -> Self {
        Self { term, file: self.file, path, line: term.line.or(self.line), findings: self.findings }
    }

    /// A text.
    pub fn text(&self) -> Option<&'t str> {
        let found = self.term.as_text();
        if found.is_none() {
            self.refuse("a text");
        }
        found
    }

    /// Yes or no.
    pub fn flag(&self) -> Option<bool> {
        self.scalar("true or false", |node| node.flag())
    }

    /// A whole number within bounds.
    pub fn number<T: TryFrom<i64>>(&self, bounds: RangeInclusive<i64>) -> Option<T> {
        self.scalar("a whole number", |node| node.number(bounds))
    }

    /// A CIDR, canonical: AWS clears host bits too (N35).
    pub fn cidr(&self) -> Option<IpNet> {
        self.scalar("a CIDR", |node| node.cidr())
    }

    /// An address.
    pub fn address(&self) -> Option<IpAddr> {
        self.scalar("an IP address", |node| node.address())
    }

    /// What it says of its place, where it is one of `Unknown` and `Link`: no plain value.
    pub fn refuse(&self, wanted: &str) {
        match &self.term.what {
            What::Unknown(unknown) => {
                let message = format!("is not known: {}; what needs it is left out", unknown.why);
                self.note(Because::Unknown, message);
            }
            What::Link(target) => {
                let attribute = if target.attribute.is_empty() { "id" } else { &target.attribute };
                let message = format!(
                    "is not known: it is the `{attribute}` of {:?}, which is AWS's to choose; what needs it is left out",
                    target.object
                );
                self.note(Because::Unknown, message);
            }
            What::Text(text) => self.read(&Value::String(text.clone()), |node| node.mistaken(wanted)),
            What::List(_) => self.read(&Value::Array(Vec::new()), |node| node.mistaken(wanted)),
            What::Map(_) => self.read(&Value::Object(serde_json::Map::new()), |node| node.mistaken(wanted)),
            What::Null => self.read(&Value::Null, |node| node.mistaken(wanted)),
        }
    }

    fn scalar<T>(&self, wanted: &str, read: impl FnOnce(&Node<'_>) -> Option<T>) -> Option<T> {
        let Some(text) = self.term.as_text() else {
            self.refuse(wanted);
            return None;
        };
        self.read(&Value::String(text.to_owned()), read)
    }

    fn read<T>(&self, value: &Value, read: impl FnOnce(&Node<'_>) -> T) -> T {
        read(&Node::root(self.file, value, self.findings).called(self.path.clone()).on(self.line))
    }
}
