//! `nacld doctor`: what stands between this machine and a policy that is enforced on it, and what mends it. `facts` asks
//! the machine, `judge` says what follows: the one changes nothing and judges nothing, the other asks nobody.

pub mod facts;
mod judge;

use serde::{Deserialize, Serialize};

pub use self::judge::judge;
use crate::resolve::Side;

/// Everything a machine was found to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// How many findings prevent enforcement.
    pub problems: usize,
    /// How many a person should know of all the same.
    pub notes: usize,
    /// What was found, the machine first.
    pub findings: Vec<Finding>,
    /// Interfaces, and which way they look.
    pub directions: Vec<Direction>,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing; a policy is enforced all the same.
    Note,
    /// A policy cannot be enforced.
    Problem,
}

impl Verdict {
    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// The answer of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the check. Stable: scripts go by it.
    pub check: String,
    /// The interface; null where it is about the machine.
    pub interface: Option<String>,
    /// Its network namespace; null for this process's own.
    pub netns: Option<String>,
    /// How serious it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: Option<String>,
    /// The commands that mend it, one after the other, as root.
    pub mend: Vec<String>,
    /// What mends it in the policy, in the table of the interface.
    pub policy: Option<String>,
}

/// Which way an interface looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    /// The interface.
    pub interface: String,
    /// Its network namespace.
    pub netns: Option<String>,
    /// `host` or `router`; null where no policy says.
    #[serde(with = "crate::observe::names::some_side")]
    pub side: Option<Side>,
}
