//! What decided the packets of a region, so that regions can be told apart by it and it can be told.

use nacl_common::{
    Action, Layer, Reason, Verdict,
    border::{FIRST_RULE_SLOT, NO_SLOT},
};

use crate::compile::{Compiled, Decider, Slot};

/// What was done to packets, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Deny or allow.
    pub action: Action,
    /// What decided.
    pub by: Decider,
    /// What is known of it: its layer's name, its line.
    pub slot: Option<Slot>,
}

/// The same as numbers, of one compiled policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct By {
    pub action: Action,
    pub slot: u16,
    /// Where no slot says it.
    reason: Option<Reason>,
}

impl By {
    pub fn of(verdict: Verdict) -> Self {
        Self::slot(verdict.action, verdict.slot, verdict.reason)
    }

    /// Of the other layer, which let the packet pass as well.
    pub fn also(verdict: Verdict) -> Option<Self> {
        (verdict.also != NO_SLOT).then(|| Self::slot(verdict.action, verdict.also, verdict.reason))
    }

    const fn slot(action: Action, slot: u16, reason: Reason) -> Self {
        Self { action, slot, reason: if slot == NO_SLOT { Some(reason) } else { None } }
    }

    /// What this layer said of a packet that passed; where it was not asked, what let it pass.
    pub fn in_layer(verdict: Verdict, layer: Layer) -> Self {
        match Self::also(verdict) {
            Some(also) if layer != verdict.layer => also,
            _ => Self::of(verdict),
        }
    }

    pub fn decided(self, compiled: &Compiled) -> Decided {
        let meaning = compiled.slots.slots.get(&self.slot);
        let by = Decider::of(self.slot, meaning, self.reason.unwrap_or(Reason::NaclRule));
        Decided { action: self.action, by, slot: meaning.cloned() }
    }

    /// Whether the same rule is meant in two policies.
    pub fn is_same(self, own: &Compiled, other: Self, others: &Compiled) -> bool {
        if self.slot < FIRST_RULE_SLOT || other.slot < FIRST_RULE_SLOT || self.slot == NO_SLOT || other.slot == NO_SLOT
        {
            return (self.slot, self.reason) == (other.slot, other.reason);
        }
        match (own.slots.slots.get(&self.slot), others.slots.slots.get(&other.slot)) {
            (Some(one), Some(two)) => one.same_rule(two),
            _ => false,
        }
    }
}
