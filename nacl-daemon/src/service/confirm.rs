//! Changes that are undone unless somebody confirms them: the state's half. The deadline itself is kept by the kernel's
//! programs, so that it holds without a daemon.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use super::{
    absent::Waiting,
    memo::Source,
    state::{Meant, State, StateError, rfc3339},
};
use crate::{observe::PendingStatus, resolve::OnExit};

/// A change that awaits confirmation: what was before it.
pub(super) struct Pending {
    /// By interface; those that it attached had nothing.
    pub(super) before: BTreeMap<String, Meant>,
    /// When it is undone, where no program is left that would do it.
    pub(super) until: Instant,
    /// What was waited for.
    pub(super) absent: BTreeMap<String, Waiting>,
    pub(super) policy: Option<Source>,
    pub(super) on_exit: OnExit,
    /// Interfaces that it no longer names. They are detached once it is confirmed.
    pub(super) leaving: Vec<String>,
}

impl State {
    /// Fails while a change awaits confirmation.
    pub(super) fn settled(&self) -> Result<(), StateError> {
        self.pending().map_or(Ok(()), |left| Err(StateError::Pending { left }))
    }

    /// How long a change still awaits confirmation; zero: its time is over.
    pub fn pending(&self) -> Option<Duration> {
        let until = self.pending.as_ref()?.until;
        let all = self.interfaces.values().filter_map(|held| held.attachment.pending());
        Some(all.min().unwrap_or_else(|| until.saturating_duration_since(Instant::now())))
    }

    /// Makes a change stay that awaits confirmation. Returns what went wrong afterwards: programs that could not be taken off.
    ///
    /// # Errors
    /// There is none, or it is too late; then everything is as it was before the change.
    pub fn confirm(&mut self) -> Result<Vec<String>, StateError> {
        let left = self.pending().ok_or(StateError::NothingPending)?;
        let mut waiting = self.interfaces.values_mut().filter(|held| held.attachment.pending().is_some());
        // All stay or none: what was confirmed before one that is too late is undone with it.
        if left.is_zero() || !waiting.all(|held| held.attachment.confirm()) {
            self.undo();
            return Err(StateError::TooLate);
        }
        let leaving = self.pending.take().map(|pending| pending.leaving).unwrap_or_default();
        self.rejected = None;
        // What has gone meanwhile is not waited for.
        self.absent.retain(|key, _| !leaving.contains(key));
        Ok(self.detach_each(&leaving))
    }

    /// Undoes a change that awaits confirmation. Returns what went wrong: programs that could not be taken off.
    ///
    /// # Errors
    /// There is none.
    pub fn roll_back_pending(&mut self) -> Result<Vec<String>, StateError> {
        self.pending().ok_or(StateError::NothingPending)?;
        Ok(self.undo())
    }

    pub(super) fn undo(&mut self) -> Vec<String> {
        let Some(Pending { mut before, absent, policy, on_exit, leaving, .. }) = self.pending.take() else {
            return Vec::new();
        };
        let gone = std::mem::replace(&mut self.absent, absent);
        self.rejected = self.policy.take();
        self.reloaded(Some("it was not confirmed, and was undone".to_owned()), "");
        self.policy = policy;
        self.on_exit = on_exit;
        // At once and everywhere, before anything that takes its time.
        for held in self.interfaces.values_mut() {
            held.attachment.undo();
        }
        let mut new = Vec::new();
        for (key, held) in &mut self.interfaces {
            match before.remove(key) {
                Some(meant) => {
                    self.flow_logs.claim_before(held, &meant.interface);
                    held.meant = meant;
                    if let Some(source) = &self.policy {
                        held.put_back(source, self.rejected.as_ref());
                    }
                }
                // The change was to detach it, and has not touched it yet.
                None if leaving.contains(key) => {}
                None => new.push(key.clone()),
            }
        }
        // What has gone meanwhile is waited for as it was before; what has come is looked at anew.
        self.absent.extend(gone.into_iter().filter(|(key, _)| leaving.contains(key)));
        self.absent.extend(before.into_iter().map(|(key, meant)| (key, Waiting::new(meant))));
        self.detach_each(&new)
    }

    /// For `status`.
    pub(super) fn pending_status(&self) -> Option<PendingStatus> {
        let left = self.pending()?;
        Some(PendingStatus { until: rfc3339(SystemTime::now() + left), seconds_left: left.as_secs() })
    }
}
