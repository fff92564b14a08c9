//! Labs: networks with a question, each provable at three levels and with or without a memory. `file` reads them (`check`,
//! `expect`, `legs`); `paper` runs them in the engine or the loaded program; `wire` with real sockets in namespaces (`net`,
//! `serve`, `relay`, `ask`, `tap`), explained by `account`; `diagnose` tells why replies died; `hold` keeps one up to sit in; `show` prints; `demo` tells the
//! story of one. What a policy means is
//! decided elsewhere.

pub(crate) mod account;
pub mod ask;
pub(crate) mod check;
pub mod demo;
mod diagnose;
pub mod expect;
pub mod file;
pub mod hold;
pub mod kernel;
pub mod legs;
pub mod net;
pub mod outcome;
pub mod paper;
pub mod relay;
pub mod run;
pub(crate) mod serve;
pub mod show;
pub mod tap;
pub mod wire;

use std::fmt;

use serde::Serialize;

pub use self::{
    expect::Outcome,
    file::{Lab, LabError},
    outcome::LabReport,
};

/// How real a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The engine, in this process.
    Host,
    /// The program loaded into the kernel, given frames.
    Kernel,
    /// Sockets, namespaces and an attached program.
    Wire,
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Wire => "wire",
        })
    }
}
