//! Policy files for the verbs that take one, and documents in their place: reading, and showing what is wrong with them. Wiring only.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use nacl_daemon::{
    files,
    import::{self, Document, Format, Problem, cloudformation::Parameters, terraform::Half},
    inventory::{Note, write::Written},
    policy::{self, Outcome, Severity},
    report::{self, count_of, diagnostics, import::Work},
    resolve::{Host, Interface, Place, Resolved},
};

use super::misuse;
use crate::cli;

/// A policy file that could be read, whatever stands in it, or a policy that was made of documents.
pub struct Loaded {
    pub file: String,
    pub text: String,
    pub outcome: Outcome,
    /// What the documents left out; of a policy file nothing.
    pub notes: Vec<Note>,
    /// Whether it was made of documents: then the text stands in no file.
    pub imported: bool,
}

/// A file, whichever it is.
#[derive(Clone)]
pub struct Source {
    pub file: String,
    bytes: Vec<u8>,
}

impl Source {
    /// Reads a file, or standard input for `-`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            let bytes = files::bounded(io::stdin().lock()).context("cannot read standard input")?;
            return Ok(Self { file: policy::STDIN.to_owned(), bytes });
        }
        let file = path.display().to_string();
        let bytes = files::read(path).with_context(|| format!("cannot read {file}"))?;
        Ok(Self { file, bytes })
    }

    /// As a document, where it is one that policies are imported from.
    pub fn document(&self) -> Option<(Format, Document)> {
        let format = import::sniff(&self.file, str::from_utf8(&self.bytes).ok()?)?;
        Some((format, self.clone().into_document().ok()?))
    }

    /// As a document, whatever it is.
    pub fn into_document(self) -> Result<Document, Problem> {
        Document::decode(&self.file, self.bytes)
    }
}

/// Reads a policy file, or the policy that a document of another format tells of. Fails only where nothing can be read.
pub fn load(path: &Path, given: &Parameters, host: &dyn Host) -> anyhow::Result<Loaded> {
    loaded(vec![Source::read(path)?], Half::Planned, given, host)
}

/// The one place where a file becomes a policy: a policy file as it stands, documents through their importer.
pub fn loaded(sources: Vec<Source>, half: Half, given: &Parameters, host: &dyn Host) -> anyhow::Result<Loaded> {
    let mut documents: Vec<Document> = Vec::new();
    let mut policies: Vec<Source> = Vec::new();
    for source in sources {
        match source.document() {
            Some((_, document)) => documents.push(document),
            None => policies.push(source),
        }
    }
    match (policies.pop(), documents.first()) {
        (Some(source), None) if policies.is_empty() => {
            let Source { file, bytes } = source;
            let (text, outcome) = policy::load_bytes(&file, bytes, host);
            Ok(Loaded { file, text, outcome, notes: Vec::new(), imported: false })
        }
        (Some(source), _) => misuse!("{} is a policy, and a policy is one file", source.file),
        (None, None) => misuse!("there is no file to make a policy of"),
        (None, Some(first)) => {
            let file = first.file.to_string();
            match import::policy_of(&documents, half, given) {
                Ok(Written { policy: text, notes }) => {
                    let outcome = policy::load(&file, &text, host);
                    Ok(Loaded { file, text, outcome, notes, imported: true })
                }
                Err(problems) => {
                    super::tell(report::import::problems(&problems))?;
                    bail!("{file} cannot be imported: {}", count_of(problems.len(), "problem"))
                }
            }
        }
    }
}

impl Loaded {
    /// The text, where it is what stands in the file.
    pub fn own_text(&self) -> Option<&str> {
        (!self.imported).then_some(self.text.as_str())
    }

    /// Shows what its documents left out, on standard error.
    pub fn show_notes(&self) -> io::Result<()> {
        super::tell(report::import::notes(Work::Import, &self.notes))
    }

    /// Shows that, and diagnostics up to a severity.
    pub fn show(&self, least: Severity) -> io::Result<()> {
        self.show_notes()?;
        let shown: Vec<_> =
            self.outcome.diagnostics.iter().filter(|diagnostic| diagnostic.severity <= least).cloned().collect();
        // The stream takes the colour out again where it is not wanted.
        let text = diagnostics::render_within(&self.file, &self.text, &shown, true, super::error_width());
        anstream::stderr().lock().write_all(text.as_bytes())
    }
}

/// For verbs that need a policy they can use: shows errors and warnings, and fails on errors.
pub fn usable(path: &Path, given: &Parameters, host: &dyn Host) -> anyhow::Result<Resolved> {
    usable_of(&[path.to_owned()], given, host)
}

/// As [`usable`], of several documents that make one policy.
pub fn usable_of(paths: &[PathBuf], given: &Parameters, host: &dyn Host) -> anyhow::Result<Resolved> {
    let sources = paths.iter().map(|path| Source::read(path)).collect::<anyhow::Result<_>>()?;
    Ok(resolved(loaded(sources, Half::Planned, given, host)?)?.0)
}

/// Shows what is wrong with a policy, and takes it where it can be used; with what its documents left out.
pub fn resolved(loaded: Loaded) -> anyhow::Result<(Resolved, Vec<Note>)> {
    loaded.show(Severity::Warning)?;
    let Loaded { file, outcome, notes, .. } = loaded;
    match outcome.resolved {
        Some(resolved) => Ok((resolved, notes)),
        None => bail!("{file} cannot be used: {}", diagnostics::tally(&outcome.diagnostics)),
    }
}

/// The interface that was asked about, with the mode and layers that were asked about, and its name in the policy.
pub fn what_if(
    policy: &Resolved,
    name: Option<&str>,
    mode: Option<cli::ModeName>,
    layers: Option<cli::LayersName>,
) -> anyhow::Result<(String, Interface)> {
    let Place { name, interface, unknown } = policy.named_interface(name)?;
    for what in unknown {
        tracing::warn!("not judged at {name} is {what}");
    }
    let mut interface = interface.into_owned();
    interface.mode = mode.map_or(interface.mode, Into::into);
    interface.layers = layers.map_or(interface.layers, Into::into);
    if layers == Some(cli::LayersName::Sg) && interface.groups.is_none() {
        misuse!(
            "interface {name} has no security groups that could judge: give it some, `security_groups = [\"NAME\"]`"
        );
    }
    Ok((name.into_owned(), interface))
}
