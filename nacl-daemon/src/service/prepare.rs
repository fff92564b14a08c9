//! From a policy file to what the state machine puts in force: read, loaded, resolved, compiled. Changes nothing.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    compile::{CompileError, Compiled, Compiler, SlotTable},
    files,
    import::{self, Format},
    policy::{self, Diagnostic},
    resolve::{Host, Interface, OnExit, Resolved},
};

/// A policy, ready to be put in force.
pub struct Prepared {
    /// The file it was read from.
    pub file: PathBuf,
    /// SHA-256 of its text.
    pub sha256: String,
    /// What becomes of it when the daemon ends.
    pub on_exit: OnExit,
    /// What each interface is to enforce, by its name in the policy.
    pub interfaces: BTreeMap<String, PreparedInterface>,
}

/// One interface of a [`Prepared`].
pub struct PreparedInterface {
    /// The interface.
    pub interface: Interface,
    /// Its tables.
    pub compiled: Compiled,
    /// What a person should know about it.
    pub notes: Vec<String>,
}

/// A policy file that cannot be used.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// It cannot be read.
    #[error("cannot read the policy {}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has errors; the diagnostics say which.
    #[error("the policy {} has {errors} error{}", file.display(), if *errors == 1 { "" } else { "s" })]
    Invalid {
        /// Which file.
        file: PathBuf,
        /// How many errors.
        errors: usize,
    },
    /// It is no policy, but a document that one can be made of.
    #[error("{} is {}, and no policy", file.display(), format.title())]
    Document {
        /// Which file.
        file: PathBuf,
        /// What it is.
        format: Format,
    },
    /// It names no interface.
    #[error("the policy {} names no interface, so there is nothing to enforce it on", file.display())]
    NoInterface {
        /// Which file.
        file: PathBuf,
    },
    /// It does not fit.
    #[error("the policy of {interface} cannot be compiled")]
    Compile {
        /// Which interface.
        interface: String,
        /// Why.
        source: CompileError,
    },
}

impl PrepareError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Invalid { file, .. } => Some(format!("`nacld check {}` shows them again", file.display())),
            // Which interface of AWS's is this machine's, no document says.
            Self::Document { file, format } => Some(format!(
                "`nacld import {} {} --interface DEVICE=ENI -o policy.toml` makes one of it, for a device of this machine",
                format.verb(),
                file.display()
            )),
            Self::NoInterface { .. } => Some("add an [interface.NAME] table".to_owned()),
            Self::Read { .. } | Self::Compile { .. } => None,
        }
    }
}

/// What reading a policy file gave: its text and diagnostics always, if it could be read at all.
pub struct Reading {
    /// The file's name as it was given.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
    /// Everything noticed.
    pub diagnostics: Vec<Diagnostic>,
    /// What it means, unless it has errors.
    pub resolved: Option<Resolved>,
}

impl Reading {
    /// How many errors it has.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == policy::Severity::Error).count()
    }
}

/// Reads and resolves a policy file.
///
/// # Errors
/// It cannot be read, or is a document of another format.
pub fn read(file: &Path, host: &dyn Host) -> Result<Reading, PrepareError> {
    let bytes = files::read(file).map_err(|source| PrepareError::Read { file: file.to_owned(), source })?;
    let format = str::from_utf8(&bytes).ok().and_then(|text| import::sniff(&file.display().to_string(), text));
    if let Some(format) = format {
        return Err(PrepareError::Document { file: file.to_owned(), format });
    }
    let (text, outcome) = policy::load_bytes(&file.display().to_string(), bytes, host);
    Ok(Reading { file: file.to_owned(), text, diagnostics: outcome.diagnostics, resolved: outcome.resolved })
}

/// Compiles a policy that was read. `previous`: the slot tables in force, by interface.
pub fn prepare(reading: &Reading, previous: &BTreeMap<String, Arc<SlotTable>>) -> Result<Prepared, PrepareError> {
    let file = reading.file.clone();
    let Some(resolved) = &reading.resolved else {
        return Err(PrepareError::Invalid { file, errors: reading.errors() });
    };
    if resolved.interfaces.is_empty() {
        return Err(PrepareError::NoInterface { file });
    }
    let mut interfaces = BTreeMap::new();
    let mut once = Compiler::default();
    for (key, interface) in &resolved.interfaces {
        let compiled = once
            .compile(interface, previous.get(key))
            .map_err(|source| PrepareError::Compile { interface: key.clone(), source })?;
        interfaces.insert(key.clone(), PreparedInterface { interface: interface.clone(), compiled, notes: Vec::new() });
    }
    Ok(Prepared { file, sha256: digest(reading.text.as_bytes()), on_exit: resolved.on_exit, interfaces })
}

/// SHA-256 of a policy's text.
pub fn digest(text: &[u8]) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
