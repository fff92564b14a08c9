//! From the policy file to a policy that may be put in force: read, compiled, commented on, and checked by the
//! lock-out guard.

use std::path::PathBuf;

use thiserror::Error;

use super::{
    guard::{self, InForce, Next, Refusal},
    host::{self, Surroundings},
    prepare::{self, PrepareError, Prepared, Reading},
    review::Subject,
    state::{self, State, StateError},
};
use crate::{
    observe::Filter,
    policy::{Diagnostic, Severity},
    report,
    resolve::Interface,
};

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
    /// What is in force cannot be seen.
    #[error(transparent)]
    State(#[from] StateError),
}

impl LoadError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Prepare(error) => error.hint(),
            Self::Guard(error) => Some(error.hint()),
            Self::Host(error) => error.hint(),
            Self::State(error) => error.hint(),
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
    /// The same one by one, for machines.
    pub list: Vec<Finding>,
    /// What is to be looked through once it is in force; nothing where it cannot be used.
    pub subject: Option<Subject>,
}

/// One thing that was noticed about a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub line: usize,
}

impl Diagnostics {
    /// Errors and warnings: notes are for `nacld check`.
    fn of(reading: &Reading) -> Self {
        let told: Vec<_> =
            reading.diagnostics.iter().filter(|diagnostic| diagnostic.severity <= Severity::Warning).cloned().collect();
        let render =
            |colour| report::diagnostics::render(&reading.file.display().to_string(), &reading.text, &told, colour);
        let finding = |diagnostic: &Diagnostic| Finding {
            severity: diagnostic.severity,
            code: diagnostic.code,
            message: diagnostic.message.clone(),
            file: reading.file.clone(),
            line: report::diagnostics::line(&reading.text, diagnostic),
        };
        let list = told.iter().map(finding).collect();
        Self { plain: render(false), coloured: render(true), list, subject: None }
    }
}

/// Where policies come from, and who must not be locked out by what is done with them.
pub trait Loader: Send + Sync {
    /// The policy as it is now. `force`: also if it would cut someone's SSH connection.
    fn load(&self, state: &State, force: bool) -> (Result<Prepared, LoadError>, Diagnostics);

    /// Whether an interface may be given the mode, layers and enforcement of `next`.
    ///
    /// # Errors
    /// It may not, or that cannot be told.
    fn may_set(&self, state: &State, name: &str, next: &Interface) -> Result<(), LoadError>;

    /// Whether connections of an interface may be forgotten.
    ///
    /// # Errors
    /// They may not, or that cannot be told.
    fn may_forget(&self, state: &State, name: &str, filter: &Filter) -> Result<(), LoadError>;
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
        let mut reading = match prepare::read(&self.path, &host::Kernel) {
            Ok(reading) => reading,
            Err(error) => return (Err(error.into()), Diagnostics::default()),
        };
        let mut diagnostics = Diagnostics::of(&reading);
        let finished = self.finish(&reading, state, force);
        diagnostics.subject = Subject::of(reading.file, reading.resolved.take(), &reading.diagnostics);
        (finished, diagnostics)
    }

    fn may_set(&self, state: &State, name: &str, next: &Interface) -> Result<(), LoadError> {
        let Some(before) = state.in_force(name).filter(|_| !self.unguarded) else { return Ok(()) };
        let ssh = surroundings(before.interface)?.ssh;
        guarded(name, before, &Next::Setting(next), &ssh)
    }

    fn may_forget(&self, state: &State, name: &str, filter: &Filter) -> Result<(), LoadError> {
        let Some(before) = state.in_force(name).filter(|_| !self.unguarded) else { return Ok(()) };
        let remembered = before.remembered()?;
        let meant = |connection: &host::Connection| {
            let key = guard::key(before.interface, connection);
            remembered.iter().any(|(remembered, entry)| Some(*remembered) == key && filter.admits(remembered, entry))
        };
        let mut ssh = surroundings(before.interface)?.ssh;
        ssh.retain(meant);
        guarded(name, before, &Next::Forgetting, &ssh)
    }
}

fn surroundings(interface: &Interface) -> Result<Surroundings, LoadError> {
    Ok(Surroundings::of(interface.netns.as_deref(), &interface.name)?)
}

/// Asks the guard about what is in force and what is to come.
fn guarded(name: &str, before: state::InForce<'_>, next: &Next<'_>, ssh: &[host::Connection]) -> Result<(), LoadError> {
    if ssh.is_empty() {
        return Ok(());
    }
    let remembered = before.remembered()?;
    let before = InForce { interface: before.interface, compiled: before.compiled, remembered: &remembered };
    Ok(guard::change(name, &before, next, ssh)?)
}

impl File {
    fn finish(&self, reading: &Reading, state: &State, force: bool) -> Result<Prepared, LoadError> {
        let mut prepared = prepare::prepare(reading, &state.slots())?;
        for (key, next) in &mut prepared.interfaces {
            let interface = &next.interface;
            let surroundings = surroundings(interface)?;
            let enis = reading.resolved.iter().flat_map(|resolved| resolved.enis.values());
            next.notes = guard::notes(interface, &surroundings, enis);
            if !self.unguarded && !force {
                match state.in_force(key) {
                    Some(before) => {
                        guarded(key, before, &Next::Policy(interface, &next.compiled), &surroundings.ssh)?;
                    }
                    None => guard::attach(key, interface, &next.compiled, &surroundings.ssh)?,
                }
            }
        }
        Ok(prepared)
    }
}
