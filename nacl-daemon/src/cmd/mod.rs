//! One verb a file, wiring only: arguments in, library called, result printed.

mod check;
mod completions;
mod confirm;
mod conntrack;
mod detach;
mod diff;
mod doctor;
mod explain;
mod explain_code;
mod export;
mod flows;
mod import;
mod lab;
mod man;
mod mode;
pub mod policy;
mod reload;
mod replay;
mod rollback;
mod rules;
mod run;
mod search;
mod status;
mod test;
mod top;
mod watch;

use std::{
    error::Error,
    io::{self, Write},
};

use nacl_daemon::{
    analyze::{DiffError, FlowError, SearchError, path::PathError},
    capture::CaptureError,
    lab::{LabError, hold::HoldError},
    report::layout,
    resolve::InterfaceError,
    service::{
        client::ClientError, load::LoadError, plane::Held, prepare::PrepareError, serve::RunError, socket::SocketError,
    },
};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use crate::{
    Exit,
    cli::{Cli, Verb},
};

/// Runs the verb that was typed.
pub fn run(cli: &Cli) -> anyhow::Result<Exit> {
    match &cli.verb {
        Verb::Check(args) => check::run(args),
        Verb::ExplainCode(args) => explain_code::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::Replay(args) => replay::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Search(args) => search::run(args),
        Verb::Import(args) => import::run(args),
        Verb::Export(args) => export::run(args),
        Verb::Test(args) => test::run(args),
        Verb::Run(args) => run::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Rules(args) => rules::run(args),
        Verb::Top(args) => top::run(args),
        Verb::Watch(args) => watch::run(args),
        Verb::Mode(args) => mode::run(args),
        Verb::Conntrack(args) => conntrack::run(args),
        Verb::Flows(args) => flows::run(args),
        Verb::Reload(args) => reload::run(args),
        Verb::Confirm(args) => confirm::run(args),
        Verb::Rollback(args) => rollback::run(args),
        Verb::Detach(args) => detach::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Lab(args) => lab::run(args),
        Verb::Man(args) => man::run(args),
        Verb::Completions(args) => completions::run(args),
    }
}

/// For verbs that talk to a daemon, or are one.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Prints data on standard output: colour only where it is wanted, and an error instead of a panic where the reader
/// went away. Everything a verb prints goes through here.
pub fn print(text: impl AsRef<str>) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.flush()
}

/// As [`print`], for sentences: no line is wider than the terminal.
pub fn say(text: impl AsRef<str>) -> io::Result<()> {
    print(layout::fit(text.as_ref(), width()))
}

/// Columns of the terminal that data is shown on; nothing where it goes into a pipe or a file, which is not made narrower.
pub fn width() -> Option<u16> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0)
}

/// Columns of the terminal that diagnostics are shown on, likewise.
pub fn error_width() -> Option<u16> {
    terminal_size::terminal_size_of(io::stderr()).map(|(width, _)| width.0)
}

/// Prints diagnostics on standard error, likewise.
pub fn tell(text: impl AsRef<str>) -> io::Result<()> {
    anstream::stderr().lock().write_all(text.as_ref().as_bytes())
}

/// What a person can do about an error, where the error itself knows.
pub fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    fn of<E: Error + 'static>(error: &(dyn Error + 'static), hint: fn(&E) -> Option<String>) -> Option<String> {
        error.downcast_ref().and_then(hint)
    }
    of(error, RunError::hint)
        .or_else(|| of(error, CaptureError::hint))
        .or_else(|| of(error, ClientError::hint))
        .or_else(|| of(error, Held::hint))
        .or_else(|| of(error, LoadError::hint))
        .or_else(|| of(error, PrepareError::hint))
        .or_else(|| of(error, SocketError::hint))
}

/// Arguments that are wrong together, or with the files they name, which clap cannot know.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Misuse(pub String);

/// Ends a verb with [`Misuse`].
macro_rules! misuse {
    ($($message:tt)*) => { return Err($crate::cmd::Misuse(format!($($message)*)).into()) };
}
pub(crate) use misuse;

/// Whether an error is about what was typed. All else is about what was found.
pub fn is_misuse(error: &(dyn Error + 'static)) -> bool {
    fn is<E: Error + 'static>(error: &(dyn Error + 'static), misuse: fn(&E) -> bool) -> bool {
        error.downcast_ref().is_some_and(misuse)
    }
    is::<Misuse>(error, |_| true)
        || is::<FlowError>(error, |_| true)
        || is::<InterfaceError>(error, |_| true)
        || is::<PathError>(error, |_| true)
        || is::<DiffError>(error, |error| matches!(error, DiffError::Interface(_)))
        || is::<SearchError>(error, |error| !matches!(error, SearchError::Compile(_)))
        || is::<LabError>(error, |error| matches!(error, LabError::Unknown { .. }))
        || is::<HoldError>(error, |error| {
            matches!(error, HoldError::NoHost { .. } | HoldError::Lab(LabError::Unknown { .. }))
        })
        || is::<ClientError>(error, |error| matches!(error, ClientError::Senseless(_)))
}
