//! A template's text → a tree with lines. YAML's short forms become the long ones, `!Ref X` is `{ Ref: X }`, so that YAML and
//! JSON are one from here on. What CloudFormation does not know of YAML (aliases, merges) is refused.

use std::{collections::BTreeMap, sync::Arc};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::{
    import::{
        Document, Problem,
        term::{Term, What},
        tree,
    },
    inventory::Place,
};

/// Lists and objects in each other; AWS's own limit for a template is lower, JSON's reader has this one.
const DEPTH: usize = 128;

/// Keys of intrinsic functions that have no `Fn::`.
const BARE: [&str; 2] = ["Ref", "Condition"];

/// Reads a template.
pub(super) fn read(document: &Document) -> Result<Term, Problem> {
    if document.text.trim_start_matches('\u{feff}').trim_start().starts_with('{') {
        return Ok(Term::known(&tree::json(document)?));
    }
    Reader { document, parser: Parser::new_from_str(&document.text) }.document()
}

struct Reader<'d> {
    document: &'d Document,
    parser: Parser<'d, saphyr_parser::StrInput<'d>>,
}

/// A list or an object that is not complete yet.
enum Open {
    List(Vec<Term>),
    Map(BTreeMap<String, Term>, Option<String>),
}

struct Frame {
    open: Open,
    tag: Option<String>,
    line: Option<u32>,
}

impl<'d> Reader<'d> {
    fn problem(&self, line: Option<u32>, message: impl Into<String>) -> Problem {
        let place = Place { file: Arc::clone(&self.document.file), path: String::new(), line };
        Problem { place, message: message.into(), help: None }
    }

    fn next(&mut self) -> Result<Option<(Event<'d>, Option<u32>)>, Problem> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, line(&span)))),
            Some(Err(error)) => {
                let line = u32::try_from(error.marker().line()).ok().filter(|line| *line > 0);
                let message = format!("column {}: this is not YAML: {}", error.marker().col() + 1, error.info());
                Err(self.problem(line, message))
            }
        }
    }

    /// The one document of the text.
    fn document(mut self) -> Result<Term, Problem> {
        let mut root = None;
        let mut stack: Vec<Frame> = Vec::new();
        while let Some((event, line)) = self.next()? {
            let done = match event {
                Event::Alias(_) => {
                    return Err(self.problem(line, "CloudFormation knows no YAML aliases (`*name`)"));
                }
                Event::Scalar(text, style, _, tag) => {
                    let term = scalar(&text, style, tag.as_deref()).on(line);
                    Some(self.tagged(term, tag.as_deref().and_then(function), line)?)
                }
                Event::SequenceStart(_, tag) => {
                    self.open(&mut stack, Open::List(Vec::new()), tag.as_deref(), line)?;
                    None
                }
                Event::MappingStart(_, tag) => {
                    self.open(&mut stack, Open::Map(BTreeMap::new(), None), tag.as_deref(), line)?;
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                    Some(Frame { open, tag, line }) => {
                        let what = match open {
                            Open::List(list) => What::List(list),
                            Open::Map(map, _) => What::Map(map),
                        };
                        Some(self.tagged(Term::new(what).on(line), tag, line)?)
                    }
                    None => None,
                },
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(self.problem(line, "a template is one YAML document, and here begins another"));
                }
                _ => None,
            };
            let Some(term) = done else { continue };
            match stack.last_mut().map(|frame| &mut frame.open) {
                None => root = Some(term),
                Some(Open::List(list)) => list.push(term),
                Some(Open::Map(map, key)) => match key.take() {
                    None => match term.what {
                        What::Text(text) if text == "<<" => {
                            return Err(self.problem(line, "CloudFormation knows no YAML merges (`<<`)"));
                        }
                        What::Text(text) if map.contains_key(&text) => {
                            return Err(self.problem(line, format!("`{text:.60}` stands twice")));
                        }
                        What::Text(text) => *key = Some(text),
                        _ => return Err(self.problem(line, "a key has to be a text")),
                    },
                    Some(key) => {
                        map.insert(key, term);
                    }
                },
            }
        }
        root.ok_or_else(|| self.problem(None, "there is nothing in this template"))
    }

    fn open(&self, stack: &mut Vec<Frame>, open: Open, tag: Option<&Tag>, line: Option<u32>) -> Result<(), Problem> {
        if stack.len() >= DEPTH {
            return Err(self.problem(line, format!("lists and objects are nested deeper than {DEPTH} levels")));
        }
        stack.push(Frame { open, tag: tag.and_then(function), line });
        Ok(())
    }

    /// The long form of a short one.
    fn tagged(&self, mut term: Term, tag: Option<String>, line: Option<u32>) -> Result<Term, Problem> {
        let Some(tag) = tag else { return Ok(term) };
        if !tag.chars().all(|char| char.is_ascii_alphanumeric()) || tag.is_empty() {
            return Err(self.problem(line, format!("`!{tag:.60}` is no function of CloudFormation's")));
        }
        // `!GetAtt Acl.Id` is `Fn::GetAtt: [Acl, Id]`.
        if tag == "GetAtt"
            && let What::Text(text) = &term.what
            && let Some((object, attribute)) = text.split_once('.')
        {
            let parts = [object, attribute].map(|part| Term::text(part).on(line));
            term = Term::new(What::List(parts.into())).on(line);
        }
        let key = if BARE.contains(&tag.as_str()) { tag } else { format!("Fn::{tag}") };
        Ok(Term::new(What::Map(BTreeMap::from([(key, term)]))).on(line))
    }
}

fn line(span: &Span) -> Option<u32> {
    u32::try_from(span.start.line()).ok().filter(|line| *line > 0)
}

/// The name of a short form: `!Sub`. YAML's own tags (`!!str`) are none.
fn function(tag: &Tag) -> Option<String> {
    (!tag.is_yaml_core_schema())
        .then(|| if tag.handle == "!" { tag.suffix.clone() } else { format!("{}{}", tag.handle, tag.suffix) })
}

/// What has no quotes can be null; numbers and flags stay as they are written, which keeps an account's leading zeros.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Term {
    let null = style == ScalarStyle::Plain && tag.is_none() && matches!(text, "" | "~" | "null" | "Null" | "NULL");
    Term::new(if null { What::Null } else { What::Text(text.to_owned()) })
}
