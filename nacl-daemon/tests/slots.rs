//! What a reload must keep: the same bytes for the same rules, and counters that stay with their rules.

mod support;

use std::{collections::BTreeSet, sync::Arc};

use nacl_common::{Action, Direction};
use nacl_daemon::{
    compile::{Generation, Slot, SlotTable, compile},
    resolve::{Interface, Nacl, Rule},
};
use support::generate::{self, Random};

/// Changes a policy as people do: rules go, come, and change.
fn edit(random: &mut Random, interface: &Interface) -> Interface {
    let mut nacl = Nacl::clone(&interface.nacl);
    let other = generate::interface(random, 8, 8);
    for (rules, new) in [(&mut nacl.inbound, &other.nacl.inbound), (&mut nacl.outbound, &other.nacl.outbound)] {
        rules.retain(|_| !random.once_in(4));
        for rule in rules.iter_mut().filter(|_| random.once_in(4)) {
            rule.action = if rule.action == Action::Allow { Action::Deny } else { Action::Allow };
        }
        for rule in new {
            if rules.iter().all(|other| other.number != rule.number) {
                rules.push(rule.clone());
            }
        }
        rules.sort_by_key(|rule| rule.number);
    }
    Interface { nacl: Arc::new(nacl), ..interface.clone() }
}

fn slot_of(slots: &SlotTable, direction: Direction, rule: &Rule) -> Option<u16> {
    let own = |slot: &Slot| slot.direction == direction && slot.rule == Some(rule.number);
    slots.slots.iter().find(|(_, slot)| own(slot)).map(|(number, _)| *number)
}

#[test]
fn the_same_policy_compiles_to_the_same_tables() {
    let mut random = Random(1);
    for _ in 0..50 {
        let interface = generate::interface(&mut random, 30, 30);
        let [one, other] = [(); 2].map(|()| compile(&interface, None).expect("compiles"));
        assert_eq!(one.slots, other.slots);
        let (Generation::Small(one), Generation::Small(other)) = (one.generation, other.generation) else {
            panic!("thirty rules fit the small tier");
        };
        assert!(one.header == other.header && one.words == other.words && one.heap == other.heap);
    }
}

#[test]
fn unchanged_rules_keep_their_slots_and_freed_slots_rest_for_one_generation() {
    let mut random = Random(2);
    let (mut kept, mut freed) = (0, 0);
    for _ in 0..50 {
        let mut interface = generate::interface(&mut random, 20, 20);
        let mut slots = compile(&interface, None).expect("compiles").slots;
        for _ in 0..10 {
            let edited = edit(&mut random, &interface);
            let new = compile(&edited, Some(&slots)).expect("compiles").slots;
            let fresh: BTreeSet<_> = new.new_since(&slots).into_iter().collect();
            for direction in Direction::ALL {
                for rule in edited.nacl.rules(direction) {
                    let at = slot_of(&new, direction, rule).expect("every rule has a slot");
                    let same = interface.nacl.rules(direction).contains(rule);
                    assert_eq!(same, !fresh.contains(&at), "a slot is fresh exactly if its rule is");
                    if same {
                        assert_eq!(slot_of(&slots, direction, rule), Some(at), "an unchanged rule keeps its slot");
                        kept += 1;
                    } else {
                        assert!(!slots.slots.contains_key(&at), "a fresh rule takes no slot of the policy in force");
                    }
                }
            }
            freed += slots.slots.keys().filter(|slot| !new.slots.contains_key(slot)).count();
            (interface, slots) = (edited, new);
        }
    }
    assert!(kept > 1000 && freed > 1000, "the edits keep ({kept}) and free ({freed}) slots");
}

#[test]
fn a_rule_that_only_moves_to_another_line_is_the_same_rule() {
    let mut random = Random(3);
    let interface = generate::interface(&mut random, 5, 5);
    let slots = compile(&interface, None).expect("compiles").slots;
    let mut nacl = Nacl::clone(&interface.nacl);
    nacl.inbound.iter_mut().chain(&mut nacl.outbound).for_each(|rule| rule.line += 3);
    let moved = compile(&Interface { nacl: Arc::new(nacl), ..interface }, Some(&slots)).expect("compiles").slots;
    assert!(moved.new_since(&slots).is_empty());
    assert_eq!(moved.slots.keys().collect::<Vec<_>>(), slots.slots.keys().collect::<Vec<_>>());
}
