//! Where a daemon's log goes and in which form: text, JSON, or the journal's own fields; and what is written of what a
//! daemon tells (`notice`). What there is to tell is decided where it happens, and told through `tracing`.

mod notice;
mod repeats;

use std::{
    env,
    io::{self, IsTerminal as _},
};

use nix::sys::stat::fstat;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use self::{notice::notice, repeats::Repeats};

/// Prefix of every event that a daemon writes of itself, and of its fields in the journal.
pub const TARGET: &str = "nacld";

/// A form of log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
    /// Fields, sent to the journal's socket.
    Journal,
}

/// What is to be logged, and how.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Form.
    pub format: Format,
    /// What is let through, as `EnvFilter` reads it.
    pub filter: EnvFilter,
    /// With colour, where the form has any.
    pub colour: bool,
    /// Say which module wrote a line.
    pub target: bool,
}

/// The form that was asked for; else the journal's where standard error is the journal, else text.
pub fn format(asked: Option<Format>) -> Format {
    asked.unwrap_or_else(|| if stderr_is_the_journal() { Format::Journal } else { Format::Text })
}

/// Whether what a daemon tells is logged, and not printed for a person: a form was asked for, or a service manager runs
/// it. A pipe or a file on standard output alone says nothing: people redirect too.
pub fn notices_are_logged(asked: Option<Format>) -> bool {
    if asked.is_some() || stderr_is_the_journal() {
        return true;
    }
    env::var_os("NOTIFY_SOCKET").is_some() && !io::stdout().is_terminal()
}

/// systemd says in JOURNAL_STREAM which stream it connected to the journal. The variable is inherited by whatever a
/// service starts, so the stream must be that one.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Starts logging. What the answer is held for: lines that were held back are told of until it is dropped.
///
/// # Errors
/// The journal cannot be reached.
pub fn start(setup: Setup) -> io::Result<Repeats> {
    let Setup { format, filter, colour, target } = setup;
    let written: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Text => {
            tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colour).with_target(target).boxed()
        }
        Format::Json => tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
        Format::Journal => tracing_journald::layer()?
            .with_field_prefix(Some(TARGET.to_uppercase()))
            .with_syslog_identifier(TARGET.to_owned())
            .boxed(),
    };
    let repeats = Repeats::new();
    Registry::default().with(written).with(repeats.layer()).with(filter).init();
    Ok(repeats.start())
}
