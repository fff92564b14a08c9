//! The TOML as it was written, with spans, and every diagnostic about it at once. No I/O: what a name means is
//! [`crate::resolve`]'s business, how a diagnostic looks [`crate::report::diagnostics`]'s.

mod aws;
pub mod codes;
mod edit;
mod flowlog;
mod group;
pub(crate) mod names;
mod read;
mod rule;
pub(crate) mod syntax;
pub(crate) mod tree;
pub mod written;

use std::{ops::Range, sync::Arc};

use nacl_common::{Direction, Layer, Packet};
use serde::Serialize;

use self::codes::Code;
pub use self::names::{protocol as protocol_number, protocol_name};
pub(crate) use self::{
    edit::removal,
    names::{quoted, service as service_port},
    rule::{LAST_NUMBER, address_keys},
};
use crate::resolve::{self, Resolved};

/// What a policy is called that came on standard input.
pub const STDIN: &str = "<stdin>";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy cannot be used.
    Error,
    /// The policy can be used, and probably does not do what its author thinks.
    Warning,
    /// Worth knowing.
    Note,
}

/// One finding. Spans are bytes of the policy text, always on character boundaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Its code, see [`codes`].
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Range<usize>,
    /// What is said at that place.
    pub label: Option<String>,
    /// Other places that belong to it.
    pub labels: Vec<Label>,
    /// The fact behind it.
    pub note: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
    /// An edit that does what the help says.
    pub fix: Option<Fix>,
    /// Packets that prove it: what [`crate::analyze::findings`] says of rules can be tried.
    pub examples: Vec<Example>,
}

/// A packet, and what one layer of an interface says of it as the first of its flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Name of the interface in the policy; `None`: of a network ACL that no interface has, standing alone.
    pub interface: Option<String>,
    /// The layer.
    pub layer: Layer,
    /// Which way it goes.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
    /// Whether the layer lets it pass.
    pub allow: bool,
    /// What of the layer decides, as [`crate::compile::Decider`] writes it.
    pub by: String,
}

/// A place that belongs to a diagnostic, and what is said there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Range<usize>,
    /// What is there.
    pub text: String,
}

/// One edit of the policy text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What is replaced; empty for an insertion.
    pub span: Range<usize>,
    /// By what.
    pub replacement: String,
}

impl Diagnostic {
    pub(crate) fn new(code: &'static Code, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: code.severity,
            code: code.id,
            message: message.into(),
            span,
            label: None,
            labels: Vec::new(),
            note: None,
            help: None,
            fix: None,
            examples: Vec::new(),
        }
    }

    pub(crate) fn at(mut self, text: impl Into<String>) -> Self {
        self.label = Some(text.into());
        self
    }

    pub(crate) fn and(mut self, span: Range<usize>, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.note = Some(text.into());
        self
    }

    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    pub(crate) fn fix(mut self, span: Range<usize>, replacement: impl Into<String>) -> Self {
        self.fix = Some(Fix { span, replacement: replacement.into() });
        self
    }

    pub(crate) fn proved_by(mut self, examples: impl IntoIterator<Item = Example>) -> Self {
        self.examples.extend(examples);
        self
    }

    /// Adds "did you mean" with its edit, where one of the candidates is close.
    pub(crate) fn did_you_mean<'c>(
        self,
        written: &str,
        span: Range<usize>,
        candidates: impl IntoIterator<Item = &'c str>,
        edit: impl Fn(&str) -> String,
    ) -> Self {
        match names::closest(written, candidates) {
            Some(name) => self.help(format!("did you mean `{name}`?")).fix(span, edit(name)),
            None => self,
        }
    }
}

/// What loading a policy gives.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The policy; `None` exactly when a diagnostic is an error.
    pub resolved: Option<Resolved>,
    /// Errors, then warnings, then notes; each in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

impl Outcome {
    /// Adds what was found later, each at its place.
    pub fn add(&mut self, found: Vec<Diagnostic>) {
        self.diagnostics.extend(found);
        sort(&mut self.diagnostics);
    }

    /// How many diagnostics of this severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }
}

/// The order in which diagnostics are shown: by severity, then as in the text.
fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.severity, diagnostic.span.start, diagnostic.span.end));
}

/// Loads a policy: reads the TOML, checks it, and resolves every name in it. `file` is only used in messages.
pub fn load(file: &str, text: &str, host: &dyn resolve::Host) -> Outcome {
    let read = read::read(text);
    let mut diagnostics = read.diagnostics;
    let resolved = resolve::build::resolve(file, &Arc::from(text), &Arc::new(read.policy), host, &mut diagnostics);
    if let Some(broken) = &read.broken {
        broken.quieten(&mut diagnostics);
    }
    sort(&mut diagnostics);
    let failed = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    if failed {
        // An error makes things look unused that are not; notes are for policies that can be used.
        diagnostics.retain(|diagnostic| diagnostic.severity != Severity::Note);
    }
    Outcome { resolved: if failed { None } else { resolved }, diagnostics }
}

/// Loads a policy file's bytes: its text, and what [`load`] says of it. Bytes that are not UTF-8 are an error like any other,
/// with its place in the text.
pub fn load_bytes(file: &str, bytes: Vec<u8>, host: &dyn resolve::Host) -> (String, Outcome) {
    match decode(bytes) {
        Ok(text) => {
            let outcome = load(file, &text, host);
            (text, outcome)
        }
        Err(broken) => {
            let (text, diagnostic) = *broken;
            (text, Outcome { resolved: None, diagnostics: vec![diagnostic] })
        }
    }
}

/// A policy file's bytes as text.
///
/// # Errors
/// They are not UTF-8: the text with replacement characters, and a diagnostic that points at the first of them.
pub fn decode(bytes: Vec<u8>) -> Result<String, Box<(String, Diagnostic)>> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let lossy = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let end = at + lossy[at..].chars().next().map_or(0, char::len_utf8);
        let diagnostic = Diagnostic::new(&codes::NOT_UTF8, at..end, "the file is not UTF-8 text")
            .at("not UTF-8")
            .help("save the file as UTF-8");
        Box::new((lossy, diagnostic))
    })
}
