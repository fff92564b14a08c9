//! What the engine says, in the oracle's words.

use nacl_common::{Action, Direction, Family, Verdict, border::FIRST_RULE_SLOT, flow};
use nacl_daemon::{
    compile::{Compiled, Slot},
    resolve::Interface,
};

use super::{
    case::Case,
    oracle::{Decider, Expected, Met},
};

/// What each slot of a compiled policy stands for.
#[derive(Clone, Debug)]
pub struct Deciders(Vec<Option<(Option<Direction>, bool, Decider)>>);

impl Deciders {
    pub fn of(interface: &Interface, compiled: &Compiled) -> Self {
        let mut all = vec![None; compiled.slots.len().max(usize::from(FIRST_RULE_SLOT))];
        for (index, slot) in all.iter_mut().enumerate().take(usize::from(FIRST_RULE_SLOT)) {
            let by = [Decider::NaclStar, Decider::SameSubnet, Decider::GroupStar, Decider::Tracked][index / 4];
            let direction = if index & 2 == 0 { Direction::Inbound } else { Direction::Outbound };
            *slot = Some((Some(direction), index & 1 == 1, by));
        }
        for (index, slot) in compiled.slots.slots.range(FIRST_RULE_SLOT..) {
            all[usize::from(*index)] = Some(meaning(interface, slot));
        }
        Self(all)
    }

    /// What a slot stands for; it must be of the packet's direction and family.
    pub fn of_slot(&self, slot: u16, case: &Case) -> Decider {
        let Some(Some((direction, v6, by))) = self.0.get(usize::from(slot)) else { return Decider::Nobody };
        assert_eq!(*v6, case.v6(), "the slot is of the packet's family");
        assert!(direction.is_none_or(|direction| direction == case.direction), "the slot is of the list that judged");
        *by
    }

    /// A verdict.
    pub fn said(&self, verdict: Verdict, met: flow::Met, case: &Case) -> Expected {
        Expected {
            allow: verdict.action == Action::Allow,
            reason: verdict.reason.name(),
            layer: verdict.layer,
            by: self.of_slot(verdict.slot, case),
            also: self.of_slot(verdict.also, case),
            met: match met {
                flow::Met::Nothing => Met::Nothing,
                flow::Met::Unknown => Met::Unknown,
                flow::Met::New => Met::New,
                flow::Met::Forward => Met::Forward,
                flow::Met::Reply => Met::Reply,
            },
        }
    }
}

fn meaning(interface: &Interface, slot: &Slot) -> (Option<Direction>, bool, Decider) {
    let by = match (slot.rule, slot.position) {
        (Some(number), _) => {
            assert_eq!(slot.name, interface.nacl.name);
            Decider::Nacl(number)
        }
        (None, Some(position)) => {
            let place = interface.groups.iter().flatten().position(|group| group.name == slot.name);
            Decider::Group(place.expect("the group is on the interface"), position)
        }
        (None, None) => {
            let place = interface.exemptions.iter().position(|exemption| exemption.name == slot.name);
            Decider::Exemption(place.expect("the exemption is the interface's"))
        }
    };
    let direction = if matches!(by, Decider::Exemption(_)) { None } else { Some(slot.direction) };
    (direction, slot.family == Family::V6, by)
}
