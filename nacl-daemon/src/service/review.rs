//! What the rules of a policy come to, looked at once it is in force and on a thread of its own: nobody waits for it, and nothing depends on it.
//! Told in one line; all of it is `nacld check`'s to say.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::serve::Notice;
use crate::{
    analyze,
    policy::{Diagnostic, Severity},
    resolve::Resolved,
};

/// A policy whose look-through is more work than this is not looked through: its daemon has other things to do. In cells, as
/// [`analyze::findings_within`] counts them: a network ACL on one interface with five hundred rules each way, twelve times what AWS allows. That
/// is a second of one processor in a debug build.
const WORK: usize = 1_000_000;

/// What is found in a policy that is in force, and was not told when it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// The policy, such that another process finds it.
    pub file: PathBuf,
    /// Warnings.
    pub warnings: usize,
    /// Notes.
    pub notes: usize,
    /// False where the policy is too long to be looked through beside its enforcement; then there is nothing to count.
    pub complete: bool,
}

/// A policy that is to be looked through.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What it means.
    pub policy: Arc<Resolved>,
    /// Where it was read.
    pub file: PathBuf,
    /// Notes that were not told when it was read.
    pub notes: usize,
}

/// Who looks through policies, one after the other.
#[derive(Default)]
pub(super) struct Review {
    /// The number of the last policy that was to be looked through, and of the last one that was, with what was found.
    asked: Mutex<u64>,
    answered: watch::Sender<(u64, Option<Findings>)>,
    at_work: Mutex<()>,
}

impl Review {
    /// Looks through a policy, unless another comes in its place before it is its turn, and tells what is found, if anything is.
    pub fn begin(self: &Arc<Self>, subject: Subject, tell: Arc<dyn Fn(Notice) + Send + Sync>) {
        let number = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            *asked += 1;
            *asked
        };
        let review = Arc::clone(self);
        // Not one of the runtime's: it may outlast the daemon, which does not wait for it.
        let begun = thread::Builder::new().name("findings".to_owned()).spawn(move || {
            let _turn = review.at_work.lock().unwrap_or_else(PoisonError::into_inner);
            if review.number() != number {
                return;
            }
            let findings = look(&subject);
            if review.number() == number
                && let Some(findings) = &findings
            {
                tell(Notice::Findings(findings));
            }
            review.answered.send_replace((number, findings));
        });
        if let Err(error) = begun {
            tracing::debug!(reason = %error, "the rules are not looked through");
        }
    }

    fn number(&self) -> u64 {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is found in the policy that came last, where that is known in time.
    pub async fn findings(&self, patience: Duration) -> Option<Findings> {
        let number = self.number();
        let mut answered = self.answered.subscribe();
        let known = tokio::time::timeout(patience, answered.wait_for(|(of, _)| *of >= number)).await;
        known.ok()?.ok()?.1.clone()
    }
}

fn look(Subject { policy, file, notes }: &Subject) -> Option<Findings> {
    // Whoever is told may stand in another directory.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
    let Some(found) = analyze::findings_within(policy, WORK) else {
        return Some(Findings { file, warnings: 0, notes: 0, complete: false });
    };
    let count = |severity| found.iter().filter(|one| one.severity == severity).count();
    let (warnings, notes) = (count(Severity::Warning), count(Severity::Note) + notes);
    (warnings + notes > 0).then_some(Findings { file, warnings, notes, complete: true })
}

impl Subject {
    /// Of a policy file that was read; `None` where it cannot be used. Told were errors and warnings.
    pub(super) fn of(file: PathBuf, resolved: Option<Resolved>, diagnostics: &[Diagnostic]) -> Option<Self> {
        let notes = diagnostics.iter().filter(|one| one.severity == Severity::Note).count();
        Some(Self { policy: Arc::new(resolved?), file, notes })
    }
}
