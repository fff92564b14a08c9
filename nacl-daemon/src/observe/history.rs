//! What each slot meant, epoch by epoch: events and connections name their rule by the slot it had when they were made.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::compile::{Slot, SlotTable};

/// Meanings kept of a slot. An edit adds one only to the slots of the rules it touches.
const KEPT: usize = 16;

/// What slots meant. What stays the same over a reload takes no room.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// By slot: from which epoch on it meant what, oldest first.
    meanings: BTreeMap<u16, VecDeque<(u32, Option<Slot>)>>,
}

impl History {
    /// From this epoch on, slots mean what stands in this table.
    pub fn begin(&mut self, epoch: u32, table: &SlotTable) {
        for (slot, meaning) in &table.slots {
            self.note(epoch, *slot, Some(meaning));
        }
        let gone: Vec<u16> = self.meanings.keys().filter(|slot| !table.slots.contains_key(slot)).copied().collect();
        for slot in gone {
            self.note(epoch, slot, None);
        }
    }

    fn note(&mut self, epoch: u32, slot: u16, meaning: Option<&Slot>) {
        let meanings = self.meanings.entry(slot).or_default();
        if meanings.back().is_none_or(|(_, last)| last.as_ref() != meaning) {
            meanings.push_back((epoch, meaning.cloned()));
            if meanings.len() > KEPT {
                meanings.pop_front();
            }
        }
    }

    /// What a slot meant in an epoch, if that is still known.
    pub fn at(&self, slot: u16, epoch: u32) -> Option<&Slot> {
        let meanings = self.meanings.get(&slot)?;
        meanings.iter().rev().find(|(since, _)| *since <= epoch).and_then(|(_, meaning)| meaning.as_ref())
    }

    /// What a slot meant to a connection that was made in an epoch, and may have been marked by a rule since.
    pub fn since(&self, slot: u16, epoch: u32) -> Option<&Slot> {
        let later =
            || self.meanings.get(&slot)?.iter().find_map(|(since, slot)| slot.as_ref().filter(|_| *since > epoch));
        self.at(slot, epoch).or_else(later)
    }
}

#[cfg(test)]
mod tests {
    use nacl_common::{Action, Direction, Family, Layer};

    use super::*;

    fn table(lines: &[(u16, usize)]) -> SlotTable {
        let slot = |line| Slot {
            direction: Direction::Inbound,
            family: Family::V4,
            layer: Layer::Nacl,
            name: "web".into(),
            rule: Some(100),
            position: None,
            action: Action::Allow,
            line,
            matches: "all 0.0.0.0/0".into(),
        };
        SlotTable { slots: lines.iter().map(|(at, line)| (*at, slot(*line))).collect() }
    }

    #[test]
    fn every_epoch_has_its_own_meaning() {
        let mut history = History::default();
        history.begin(1, &table(&[(16, 5)]));
        history.begin(2, &table(&[(16, 5)]));
        history.begin(3, &table(&[(17, 6)]));
        history.begin(5, &table(&[(16, 9)]));
        let line = |slot, epoch| history.at(slot, epoch).map(|slot| slot.line);
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6].map(|epoch| line(16, epoch)),
            [None, Some(5), Some(5), None, None, Some(9), Some(9)]
        );
        assert_eq!([2, 3, 4, 5].map(|epoch| line(17, epoch)), [None, Some(6), Some(6), None]);
        assert_eq!(history.since(17, 1).map(|slot| slot.line), Some(6), "a rule that came later marked it");
        assert_eq!(history.since(16, 1).map(|slot| slot.line), Some(5));
        assert!(history.since(18, 1).is_none());
    }

    #[test]
    fn a_thousand_reloads_cost_nothing_where_nothing_changes() {
        let mut history = History::default();
        for epoch in 1..1000 {
            history.begin(epoch, &table(&[(16, 5)]));
        }
        assert_eq!(history.meanings[&16].len(), 1);
        for epoch in 1000..2000 {
            history.begin(epoch, &table(&[(16, epoch as usize)]));
        }
        assert_eq!(history.meanings[&16].len(), KEPT);
    }
}
