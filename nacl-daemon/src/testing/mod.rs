//! Policy tests: what a team expects of a policy, written in TOML and held against it. `file` reads them, `flows` makes of each the
//! flows it is about and who judges them, `judge` holds them against the engine or the loaded program, `wire` against real
//! sockets. What a policy means is decided elsewhere; how results look is `report`'s.

pub mod file;
mod flows;
mod judge;
mod wire;

use std::{fmt, time::Duration};

use serde::Serialize;
use thiserror::Error;

pub(crate) use self::judge::in_ranges;
pub use self::{
    file::{By, ClientPorts, End, Expect, Suite, Test, WrittenPolicy},
    flows::{Plan, plan},
    judge::run,
};
use crate::{
    analyze::{Explanation, Outcome, Path},
    compile::CompileError,
    dataplane::DataplaneError,
    lab::Level,
    resolve::Interface,
};

/// What became of a test.
#[derive(Clone, Debug)]
pub enum Result {
    /// It is as expected.
    Held,
    /// It is not.
    Failed(Box<Failure>),
    /// It cannot be asked at this level.
    Skipped(String),
}

/// What was seen instead of what was expected.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Everything that was seen: flows that end alike, by what decided.
    pub seen: Vec<Seen>,
    /// A flow of those that are not as expected, explained.
    pub example: Option<Example>,
}

/// Flows of a test that end alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// How they end.
    #[serde(serialize_with = "outcome")]
    pub outcome: Outcome,
    /// What decides: of what is denied that which denies it, else what lets request and reply pass.
    pub by: Vec<String>,
    /// Whether that is what was expected.
    pub expected: bool,
    /// Ports of the clients, first and last, ascending; none where the protocol has none.
    pub client_ports: Vec<(u16, u16)>,
    /// Ports of the service, likewise.
    pub ports: Vec<(u16, u16)>,
    /// One of them: who asks and who is asked.
    pub example: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn outcome<S: serde::Serializer>(outcome: &Outcome, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(name(*outcome))
}

/// An outcome in the words of a test file.
pub const fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Works => "allowed",
        Outcome::RequestDenied => "denied",
        Outcome::ReplyDenied => "reply-denied",
    }
}

/// A flow, explained where it is judged.
#[derive(Clone, Debug)]
pub enum Example {
    /// At one place.
    At(String, Box<Interface>, Box<Explanation>),
    /// Along its way.
    Way(Box<Path>),
}

/// A test that was run.
#[derive(Clone, Debug)]
pub struct Done {
    /// Which of its suite.
    pub index: usize,
    /// What became of it.
    pub result: Result,
    /// How long it took.
    pub time: Duration,
}

/// A suite that was run.
#[derive(Clone, Debug)]
pub struct Run {
    /// At which level.
    pub level: Level,
    /// Its tests, those that were asked for.
    pub done: Vec<Done>,
}

impl Run {
    /// How many held, failed and were skipped.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for done in &self.done {
            match done.result {
                Result::Held => tally.held += 1,
                Result::Failed(_) => tally.failed += 1,
                Result::Skipped(_) => tally.skipped += 1,
            }
        }
        tally
    }
}

/// Tests by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// As expected.
    pub held: usize,
    /// Not as expected.
    pub failed: usize,
    /// Not asked.
    pub skipped: usize,
}

impl Tally {
    /// Whether all is well: nothing failed, and something was tried.
    pub const fn ok(self) -> bool {
        self.failed == 0 && self.held > 0
    }

    /// Of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { held: self.held + other.held, failed: self.failed + other.failed, skipped: self.skipped + other.skipped }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} held, {} failed, {} skipped", self.held, self.failed, self.skipped)
    }
}

/// Why a suite could not be run to its end.
#[derive(Debug, Error)]
pub enum TestError {
    /// The policy cannot be compiled.
    #[error("{place}: {source}")]
    Compile {
        /// Where.
        place: String,
        /// Why.
        source: CompileError,
    },
    /// The kernel.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The wire.
    #[error(transparent)]
    Wire(#[from] crate::harness::HarnessError),
}
