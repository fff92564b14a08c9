//! Taking over from a daemon that is gone: what it has left is made the state it had. Nothing is changed in the kernel; what
//! follows is an ordinary reload.

use std::{collections::BTreeMap, time::Instant};

use super::{
    confirm::Pending,
    memo::{Memo, Source},
    plane::{Attached, Left},
    prepare::Prepared,
    state::{Enforced, Meant, State, StateError, target},
};
use crate::{compile, resolve::OnExit};

impl State {
    /// Takes over what this daemon has left when it last ended without taking it off, and returns the names of the interfaces.
    ///
    /// # Errors
    /// The place where it would be cannot be had.
    pub fn restore(&mut self) -> Result<Vec<String>, StateError> {
        self.plane.open().map_err(|source| StateError::Store { source })?;
        let mut names = Vec::new();
        let mut undone = Vec::new();
        for left in self.plane.restore() {
            match left {
                Left::Unconfirmed(note) => self.rejected = Memo::read(&note).map(|memo| memo.policy),
                Left::Here(attachment) => match self.take_over(attachment, &mut undone) {
                    Ok(name) => names.push(name),
                    Err(attachment) => {
                        let target = attachment.target();
                        let (device, netns) = (&target.name, target.netns.as_deref());
                        tracing::warn!(device, netns, "what is in force there is not known any more");
                        // It goes on enforcing until it is replaced.
                        attachment.leave();
                    }
                },
            }
        }
        if let Some(pending) = &mut self.pending {
            // What does not wait is as it was: the change no longer names it, or its programs have taken it back already.
            let others = self.interfaces.iter().filter(|(_, held)| held.attachment.pending().is_none());
            pending.leaving = others.map(|(name, _)| name.clone()).collect();
        }
        // The time of a change runs out on one interface a moment before another. It is undone everywhere or nowhere.
        if self.pending.is_some() && self.policy.as_ref().is_some_and(|policy| undone.contains(policy)) {
            for problem in self.undo() {
                tracing::warn!("{problem}");
            }
        }
        Ok(names)
    }

    /// `undone`: policies whose time was over, which the programs have taken back.
    fn take_over(
        &mut self,
        attachment: Box<dyn Attached>,
        undone: &mut Vec<Source>,
    ) -> Result<String, Box<dyn Attached>> {
        let (now, last, before) = attachment.epochs();
        let Some((memo, meant)) = self.known(&*attachment, now) else { return Err(attachment) };
        if self.interfaces.contains_key(&memo.name) {
            return Err(attachment);
        }
        let back = attachment.note(last).filter(|_| last != now).and_then(|(note, _)| Memo::read(&note));
        let back = back.map(|memo| memo.policy);
        undone.extend(back.clone());
        self.rejected = back.or(memo.rejected).or_else(|| self.rejected.take());
        let waits = attachment.pending().is_some();
        if let Some(left) = attachment.pending() {
            let before = before.and_then(|epoch| self.known(&*attachment, epoch));
            let pending = self.pending.get_or_insert_with(|| Pending {
                before: BTreeMap::new(),
                until: Instant::now() + left,
                absent: BTreeMap::new(),
                policy: None,
                on_exit: OnExit::default(),
                leaving: Vec::new(),
            });
            if let Some((earlier, meant)) = before {
                pending.policy = Some(earlier.policy);
                pending.before.insert(memo.name.clone(), meant);
            }
        }
        // Of a change that awaits confirmation it is the policy, also where it was taken back already.
        if waits || self.pending.is_none() {
            self.policy = Some(memo.policy);
        }
        self.enforce(memo.name.clone(), meant, attachment, memo.history);
        Ok(memo.name)
    }

    /// What is known of an epoch.
    fn known(&self, attachment: &dyn Attached, epoch: u32) -> Option<(Memo, Meant)> {
        let (note, slots) = attachment.note(epoch)?;
        let memo = Memo::read(&note)?;
        // The same rules and the same slots before give the same tables.
        let compiled = compile::compile(&memo.interface, Some(&slots)).ok()?;
        if compiled.slots.slots != slots.slots {
            return None;
        }
        let meant = Meant {
            options: self.options(&memo.interface),
            interface: memo.interface.clone(),
            policy: memo.setting,
            notes: memo.notes.clone(),
            compiled,
        };
        Some((memo, meant))
    }

    /// Gives up interfaces whose programs would have to be loaded anew for a policy; attaching replaces them in place, without a
    /// gap. Only at start: connections and counters are lost.
    pub fn give_up_what_cannot_stay(&mut self, prepared: &Prepared) {
        for (key, next) in &prepared.interfaces {
            let (options, wanted) = (self.options(&next.interface), target(&next.interface));
            let cannot_stay = |name: &str, held: &Enforced| {
                let there = held.attachment.target() == wanted;
                // Loaded in another way, of another device, or known by another name before.
                if name == key { !there || held.attachment.needs_loading(&options) } else { there }
            };
            let names: Vec<String> = self
                .interfaces
                .iter()
                .filter(|(name, held)| cannot_stay(name, held))
                .map(|(name, _)| name.clone())
                .collect();
            for mut held in names.iter().filter_map(|name| self.interfaces.remove(name)) {
                tracing::warn!(
                    interface = held.name,
                    "its programs are loaded anew, and what was remembered and counted is lost"
                );
                // What it has recorded is in maps that go with them.
                self.flow_logs.take(&mut held);
                held.attachment.leave();
            }
        }
    }

    /// Whether a policy may be put in force by itself: not one that nobody confirmed.
    ///
    /// # Errors
    /// It may not.
    pub fn may_start_with(&self, prepared: &Prepared) -> Result<(), StateError> {
        self.settled()?;
        match &self.rejected {
            Some(rejected) if rejected.sha256 == prepared.sha256 => {
                Err(StateError::Rejected { file: prepared.file.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Takes off what is left and was neither taken over nor replaced. Returns what went wrong.
    pub fn sweep(&self) -> Vec<String> {
        self.plane.sweep()
    }

    /// What a person must know of the daemon as a whole.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.plane.problems();
        problems.extend(self.absences());
        problems.extend(self.flow_logs.problems());
        if let Some(rejected) = &self.rejected {
            problems.push(format!(
                "the policy read from {} was undone, not confirmed in time or rolled back; the one before it is in force",
                rejected.file.display()
            ));
        }
        problems
    }
}
