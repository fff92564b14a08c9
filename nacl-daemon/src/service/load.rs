//! From the policy file to a policy that may be put in force: read, compiled, commented on, and checked by the
//! lock-out guard.

use std::path::PathBuf;

use thiserror::Error;

use super::{
    guard::{self, Refusal},
    host::{self, Surroundings},
    prepare::{self, PrepareError, Prepared, Reading},
    state::State,
};
use crate::{policy::Severity, report};

/// A policy that cannot or must not be put in force.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be used.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// It could lock someone out.
    #[error(transparent)]
    Guard(#[from] Refusal),
    /// The interface's surroundings cannot be seen.
    #[error(transparent)]
    Host(#[from] host::HostError),
}

impl LoadError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Prepare(error) => error.hint(),
            Self::Guard(error) => Some(error.hint()),
            Self::Host(error) => error.hint(),
        }
    }
}

/// What was noticed about a policy file: text for people, without and with colour.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// Without colour.
    pub plain: String,
    /// With colour.
    pub coloured: String,
}

impl Diagnostics {
    /// Errors and warnings: notes are for `nacld check`.
    fn of(reading: &Reading) -> Self {
        let told: Vec<_> =
            reading.diagnostics.iter().filter(|diagnostic| diagnostic.severity <= Severity::Warning).cloned().collect();
        let render =
            |colour| report::diagnostics::render(&reading.file.display().to_string(), &reading.text, &told, colour);
        Self { plain: render(false), coloured: render(true) }
    }
}

/// Where policies come from.
pub trait Loader: Send + Sync {
    /// The policy as it is now. `force`: also if it would cut someone's SSH connection.
    fn load(&self, state: &State, force: bool) -> (Result<Prepared, LoadError>, Diagnostics);
}

/// A policy file.
pub struct File {
    /// Its path.
    pub path: PathBuf,
    /// The guard need not ask: what happens mends itself, or was asked for.
    pub unguarded: bool,
}

impl Loader for File {
    fn load(&self, state: &State, force: bool) -> (Result<Prepared, LoadError>, Diagnostics) {
        let reading = match prepare::read(&self.path, &host::Kernel) {
            Ok(reading) => reading,
            Err(error) => return (Err(error.into()), Diagnostics::default()),
        };
        let diagnostics = Diagnostics::of(&reading);
        (self.finish(&reading, state, force), diagnostics)
    }
}

impl File {
    fn finish(&self, reading: &Reading, state: &State, force: bool) -> Result<Prepared, LoadError> {
        let mut prepared = prepare::prepare(reading, &state.slots())?;
        for (key, next) in &mut prepared.interfaces {
            let interface = &next.interface;
            let surroundings = Surroundings::of(interface.netns.as_deref(), &interface.name)?;
            let enis = reading.resolved.iter().flat_map(|resolved| resolved.enis.values());
            next.notes = guard::notes(interface, &surroundings, enis);
            if !self.unguarded && !force {
                let attached = state.in_force().find(|(name, ..)| name == key);
                let attached = attached.map(|(_, interface, compiled)| (interface, compiled));
                guard::decide(interface, &next.compiled, attached, &surroundings.ssh)?;
            }
        }
        Ok(prepared)
    }
}
