//! Ordered rules → equivalence classes: which sets of rules an address and an L4 key can stand in. Equal sets are one
//! class, so the first common rule of two classes is the exact first match. Where the classes end up is `image`'s.

use std::{collections::HashMap, ops::Range};

use ipnet::IpNet;
use nacl_common::{
    Action, Direction,
    border::{ALLOW, PAGE, implicit_slot, l4, list_index, same_subnet_slot},
    packet::EXTENSION_HEADERS,
};

use super::slots::{SlotTable, family};
use crate::resolve::{Interface, Protocol, Rule};

/// Keys of the L4 space of one list.
const KEYS: u32 = l4::PAGES * PAGE as u32;

/// A set of entries of a list, one bit each, in the list's order.
pub(super) type Set = Box<[u64]>;

/// One list, ready to be laid out.
pub(super) struct List {
    /// Whether it is an IPv6 list.
    pub v6: bool,
    /// Decision of each entry, in the list's order.
    pub decisions: Vec<u16>,
    /// Decision when no entry matches.
    pub implicit: u16,
    /// Distinct prefixes as (address, length, entries); IPv4 addresses stand in the low 32 bits.
    pub prefixes: Vec<(u128, u8, Set)>,
    /// The L4 key space from 0, as consecutive (end, class).
    pub segments: Vec<(u32, u16)>,
    /// The L4 classes.
    pub services: Classes,
}

impl List {
    /// Words of one set of entries.
    pub fn words(&self) -> usize {
        self.decisions.len().div_ceil(64).max(1)
    }

    /// What a packet of these two classes meets first.
    pub fn first_match(&self, address: &[u64], service: &[u64]) -> u16 {
        let common = address.iter().zip(service).map(|(a, s)| a & s).enumerate().find(|(_, common)| *common != 0);
        common.map_or(self.implicit, |(word, common)| self.decisions[word * 64 + common.trailing_zeros() as usize])
    }
}

/// Distinct sets, numbered in order of appearance.
#[derive(Default)]
pub(super) struct Classes {
    numbers: HashMap<Set, u32>,
    /// The sets by number.
    pub sets: Vec<Set>,
}

impl Classes {
    /// The number of this set.
    pub fn number(&mut self, set: &[u64]) -> u32 {
        if let Some(number) = self.numbers.get(set) {
            return *number;
        }
        let number = self.sets.len() as u32;
        self.numbers.insert(set.into(), number);
        self.sets.push(set.into());
        number
    }
}

/// The four lists of an interface, by [`list_index`].
pub(super) fn lists(interface: &Interface, slots: &SlotTable) -> [List; 4] {
    let by_rule = slots.by_rule();
    let mut lists = Direction::ALL.into_iter().flat_map(|direction| [false, true].map(|v6| (direction, v6))).map(
        |(direction, v6)| {
            // N42: inside the subnet the network ACL is not consulted. As the first entries of the list this costs no
            // look-up of its own and is counted like a rule.
            let inside = interface.subnet_cidrs.iter().filter(|cidr| cidr.addr().is_ipv6() == v6);
            let inside =
                inside.map(|cidr| (*cidr, everything(), ALLOW | same_subnet_slot(direction, v6))).collect::<Vec<_>>();
            let rules = interface.nacl.rules(direction).iter().filter(|rule| rule.cidr.addr().is_ipv6() == v6);
            let rules = rules.map(|rule| {
                let allow = if rule.action == Action::Allow { ALLOW } else { 0 };
                (rule.cidr, keys(rule), allow | by_rule[&(direction, rule.number)])
            });
            (list_index(direction, v6), list(v6, implicit_slot(direction, v6), inside.into_iter().chain(rules)))
        },
    );
    std::array::from_fn(|index| {
        let (at, list) = lists.next().expect("two directions of two families");
        assert_eq!(at, index, "lists come in the order of list_index");
        list
    })
}

fn list(v6: bool, implicit: u16, entries: impl Iterator<Item = (IpNet, Vec<Range<u32>>, u16)>) -> List {
    let entries: Vec<_> = entries.collect();
    let words = entries.len().div_ceil(64).max(1);
    let mut by_prefix: HashMap<(u128, u8), Set> = HashMap::new();
    let mut borders = Vec::new();
    for (index, (cidr, keys, _)) in entries.iter().enumerate() {
        let address = match cidr {
            IpNet::V4(cidr) => u128::from(u32::from(cidr.network())),
            IpNet::V6(cidr) => u128::from(cidr.network()),
        };
        let set = by_prefix.entry((address, cidr.prefix_len())).or_insert_with(|| vec![0; words].into());
        set[index / 64] |= 1 << (index % 64);
        for range in keys {
            borders.push((range.start, index));
            borders.push((range.end, index));
        }
    }
    let mut prefixes: Vec<_> = by_prefix.into_iter().map(|((address, length), set)| (address, length, set)).collect();
    prefixes.sort_unstable_by_key(|(address, length, _)| (*address, *length));
    borders.sort_unstable();
    let mut services = Classes::default();
    let mut segments = Vec::new();
    let mut set: Set = vec![0; words].into();
    let mut borders = borders.into_iter().peekable();
    while let Some(start) = borders.peek().map(|(start, _)| *start).or((segments.is_empty()).then_some(0)) {
        if segments.is_empty() && start > 0 {
            segments.push((start, services.number(&set) as u16));
        }
        // Ranges of one entry never touch, so each border of an entry flips its bit.
        while let Some((_, index)) = borders.next_if(|(at, _)| *at == start) {
            set[index / 64] ^= 1 << (index % 64);
        }
        let end = borders.peek().map_or(KEYS, |(end, _)| *end);
        if start < end {
            segments.push((end, services.number(&set) as u16));
        }
    }
    List {
        v6,
        decisions: entries.iter().map(|(_, _, decision)| *decision).collect(),
        implicit,
        prefixes,
        segments,
        services,
    }
}

/// All L4 keys, as the ranges of a rule.
fn everything() -> Vec<Range<u32>> {
    std::iter::once(0..KEYS).collect()
}

/// The L4 keys a rule matches, ascending, with a gap between each two.
///
/// Later fragments carry no ports (AWS publishes nothing, N49), so they are judged fail closed: an allow that needs a
/// port or an ICMP type does not match them, a deny that needs one does.
fn keys(rule: &Rule) -> Vec<Range<u32>> {
    let Protocol::Number(protocol) = rule.protocol else {
        return everything();
    };
    let v6 = family(rule) == nacl_common::Family::V6;
    let icmp = if v6 { 58 } else { 1 };
    let at = |page: u32, low: u32| page * PAGE as u32 + low;
    let (own, whole) = if protocol == 6 || protocol == 17 {
        let page = if protocol == 6 { l4::TCP } else { l4::UDP };
        let (first, last) = rule.ports.unwrap_or((0, u16::MAX));
        (at(page, first.into())..at(page, u32::from(last) + 1), (first, last) == (0, u16::MAX))
    } else if protocol == icmp {
        match rule.icmp {
            None => (at(l4::ICMP, 0)..at(l4::ICMP + 256, 0), true),
            Some(icmp) => {
                let page = l4::ICMP + u32::from(icmp.kind);
                let (first, last) = icmp.code.map_or((0, u8::MAX), |code| (code, code));
                (at(page, first.into())..at(page, u32::from(last) + 1), false)
            }
        }
    } else {
        (at(l4::PROTOCOL, protocol.into())..at(l4::PROTOCOL, u32::from(protocol) + 1), true)
    };
    let deny = rule.action == Action::Deny;
    let mut hidden: Vec<u8> = if v6 { EXTENSION_HEADERS.to_vec() } else { Vec::new() };
    let hides = hidden.contains(&protocol);
    hidden.retain(|_| deny);
    if !hides && (whole || deny) {
        hidden.push(protocol);
    }
    hidden.sort_unstable();
    let mut keys = vec![own];
    for protocol in hidden {
        let key = at(l4::FRAGMENT, protocol.into());
        match keys.last_mut() {
            Some(last) if last.end == key => last.end += 1,
            _ => keys.push(key..key + 1),
        }
    }
    keys
}
