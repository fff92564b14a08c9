//! Ordered rules → equivalence classes: which sets of rules an address and an L4 key can stand in. Equal sets are one
//! class, so the first common rule of two classes is the exact first match. Where the classes end up is `image`'s.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use ipnet::IpNet;
use nacl_common::{
    Action, Direction,
    border::{
        ALLOW, LISTS, NO_SLOT, OPEN, OPEN_TCP, OPEN_UDP, PAGE, Service, exempt_index, group_implicit_slot, group_index,
        implicit_slot, l4, list_index, same_subnet_slot,
    },
    packet::EXTENSION_HEADERS,
};

use super::slots::{Slots, is_v6};
use crate::resolve::{GroupRule, Icmp, Interface, Peer, Protocol};

/// Keys of the L4 space of one list.
const KEYS: u32 = l4::PAGES * PAGE as u32;

/// A set of entries of a list, one bit each, in the list's order.
pub(crate) type Set = Box<[u64]>;

/// One list, ready to be laid out.
pub(crate) struct List {
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
pub(crate) struct Classes {
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

/// What a rule matches beside addresses, in one family.
#[derive(Clone, Copy)]
struct Traffic {
    v6: bool,
    protocol: Protocol,
    ports: Option<(u16, u16)>,
    icmp: Option<Icmp>,
}

/// An address and a length; IPv4 addresses stand in the low 32 bits.
type Prefix = (u128, u8);

/// One entry of a list: one bit of its sets.
struct Entry {
    prefixes: Vec<Prefix>,
    keys: Vec<Range<u32>>,
    decision: u16,
}

/// All lists of an interface, by their place in a header.
pub(super) fn lists(interface: &Interface, slots: &Slots) -> [List; LISTS] {
    let mut lists: [Option<List>; LISTS] = [const { None }; LISTS];
    for v6 in [false, true] {
        for direction in Direction::ALL {
            let nacl = list(v6, implicit_slot(direction, v6), &nacl_entries(interface, slots, direction, v6));
            lists[list_index(direction, v6)] = Some(nacl);
            let pool = pool(interface, slots, direction, v6);
            lists[group_index(direction, v6)] = Some(list(v6, group_implicit_slot(direction, v6), &pool));
        }
        for service in [Service::Remote, Service::Local] {
            let exempt = exemptions(interface, slots, service, v6);
            lists[exempt_index(service, v6)] = Some(list(v6, NO_SLOT, &exempt));
        }
    }
    lists.map(|list| list.expect("two directions, two services, two families"))
}

fn nacl_entries(interface: &Interface, slots: &Slots, direction: Direction, v6: bool) -> Vec<Entry> {
    // N42: inside the subnet the network ACL is not consulted. As the first entries of the list this costs no look-up of
    // its own and is counted like a rule.
    let inside = interface.subnet_cidrs.iter().filter(|cidr| is_v6(cidr) == v6).map(|cidr| Entry {
        prefixes: vec![prefix(cidr)],
        keys: everything(),
        decision: ALLOW | same_subnet_slot(direction, v6),
    });
    let rules = interface.nacl.rules(direction).iter().filter(|rule| is_v6(&rule.cidr) == v6).map(|rule| {
        let traffic = Traffic { v6, protocol: rule.protocol, ports: rule.ports, icmp: rule.icmp };
        let allow = if rule.action == Action::Allow { ALLOW } else { 0 };
        Entry {
            prefixes: vec![prefix(&rule.cidr)],
            keys: keys(traffic, rule.action),
            decision: allow | slots.nacl[&(direction, rule.number)],
        }
    });
    inside.chain(rules).collect()
}

/// The rules of all groups, the most permissive first: what a packet meets first is then the rule that AWS lets decide
/// about tracking (S30), and the one to report. Open to everybody before all others, then by the length of the prefix that
/// contains the address, all protocols before one, many ports before few, then the order of groups and file.
fn pool(interface: &Interface, slots: &Slots, direction: Direction, v6: bool) -> Vec<Entry> {
    let mut pool = Vec::new();
    for (group, in_group) in interface.groups.iter().flatten().enumerate() {
        for (place, rule) in in_group.rules(direction).iter().enumerate() {
            let traffic = Traffic { v6, protocol: rule.protocol, ports: rule.ports, icmp: rule.icmp };
            let open = is_open(rule);
            // An entry a length of prefix, because that orders them; not one a prefix, of which a list may have a thousand.
            let mut by_length: BTreeMap<u8, Vec<Prefix>> = BTreeMap::new();
            for cidr in rule.cidrs.iter().filter(|cidr| is_v6(cidr) == v6) {
                by_length.entry(cidr.prefix_len()).or_default().push(prefix(cidr));
            }
            for (length, prefixes) in by_length {
                let permissive = (!open, length, rule.protocol != Protocol::All, Reverse(width(traffic)));
                let slot = slots.groups[&(direction, v6, group, place)];
                let decision = ALLOW | if open { OPEN } else { 0 } | slot;
                pool.push((permissive, Entry { prefixes, keys: keys(traffic, Action::Allow), decision }));
            }
        }
    }
    pool.sort_by_key(|(permissive, _)| *permissive);
    pool.into_iter().map(|(_, entry)| entry).collect()
}

/// Whether the rule is written as open to every address (S30): not by way of a prefix list or a group.
fn is_open(rule: &GroupRule) -> bool {
    matches!(rule.peer, Peer::Cidr(cidr) if cidr.prefix_len() == 0)
}

/// Ports that a rule of a security group opens, or codes of ICMP.
fn width(traffic: Traffic) -> u32 {
    let all = u32::from(u16::MAX) + 1;
    match (traffic.protocol, traffic.ports, traffic.icmp) {
        (Protocol::Number(6 | 17), Some((first, last)), _) => u32::from(last) - u32::from(first) + 1,
        (Protocol::Number(protocol), _, Some(icmp)) if protocol == icmp_protocol(traffic.v6) => {
            icmp.code.map_or(u32::from(u8::MAX) + 1, |_| 1)
        }
        _ => all,
    }
}

fn exemptions(interface: &Interface, slots: &Slots, service: Service, v6: bool) -> Vec<Entry> {
    let exemptions = interface.exemptions.iter().zip(&slots.exemptions);
    let own = exemptions.filter(|(exemption, _)| exemption.service == service && is_v6(&exemption.cidr) == v6);
    own.map(|(exemption, slot)| {
        let traffic = Traffic { v6, protocol: exemption.protocol, ports: exemption.ports, icmp: None };
        Entry {
            prefixes: vec![prefix(&exemption.cidr)],
            keys: keys(traffic, Action::Allow),
            decision: ALLOW | if exemption.failsafe { OPEN } else { 0 } | slot,
        }
    })
    .collect()
}

/// Of each direction and family, by [`list_index`]: which of TCP and UDP a rule of the security groups opens to everybody on
/// all ports (S30).
pub(super) fn open(interface: &Interface) -> [u32; 4] {
    let mut open = [0; 4];
    for group in interface.groups.iter().flatten() {
        for direction in Direction::ALL {
            for rule in group.rules(direction).iter().filter(|rule| is_open(rule)) {
                let bits = match rule.protocol {
                    Protocol::All => OPEN_TCP | OPEN_UDP,
                    Protocol::Number(6) if has_all_ports(rule.ports) => OPEN_TCP,
                    Protocol::Number(17) if has_all_ports(rule.ports) => OPEN_UDP,
                    Protocol::Number(_) => 0,
                };
                for cidr in &rule.cidrs {
                    open[list_index(direction, is_v6(cidr))] |= bits;
                }
            }
        }
    }
    open
}

/// IPv4, then IPv6: the low bytes that the remote address of an exemption can have.
pub(super) fn exempt(interface: &Interface) -> [[u64; 4]; 2] {
    let mut exempt = [[0; 4]; 2];
    for exemption in &interface.exemptions {
        let (address, length) = prefix(&exemption.cidr);
        let v6 = is_v6(&exemption.cidr);
        let free = if v6 { 128 } else { 32 } - length;
        let (first, span) = if free < 8 { (address as u8, (1 << free) - 1) } else { (0, u8::MAX) };
        for low in first..=first | span {
            exempt[usize::from(v6)][usize::from(low >> 6)] |= 1 << (low & 63);
        }
    }
    exempt
}

fn list(v6: bool, implicit: u16, entries: &[Entry]) -> List {
    let words = entries.len().div_ceil(64).max(1);
    let none = || -> Set { vec![0; words].into() };
    // Rules that name one prefix list have the same prefixes: those are gone through once, and not once for each rule.
    let mut alike: HashMap<&[Prefix], Set> = HashMap::new();
    let mut borders = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let set = alike.entry(&entry.prefixes).or_insert_with(none);
        set[index / 64] |= 1 << (index % 64);
        for range in &entry.keys {
            borders.push((range.start, index));
            borders.push((range.end, index));
        }
    }
    let mut by_prefix: HashMap<Prefix, Set> = HashMap::new();
    for (prefixes, set) in &alike {
        for prefix in *prefixes {
            join(by_prefix.entry(*prefix).or_insert_with(none), set);
        }
    }
    let mut prefixes: Vec<_> = by_prefix.into_iter().map(|((address, length), set)| (address, length, set)).collect();
    prefixes.sort_unstable_by_key(|(address, length, _)| (*address, *length));
    borders.sort_unstable();
    let mut services = Classes::default();
    let mut segments = Vec::new();
    let mut set = none();
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
    List { v6, decisions: entries.iter().map(|entry| entry.decision).collect(), implicit, prefixes, segments, services }
}

/// Puts the entries of one set into another.
pub(crate) fn join(set: &mut Set, other: &Set) {
    set.iter_mut().zip(other).for_each(|(set, other)| *set |= other);
}

fn prefix(cidr: &IpNet) -> Prefix {
    let address = match cidr {
        IpNet::V4(cidr) => u128::from(u32::from(cidr.network())),
        IpNet::V6(cidr) => u128::from(cidr.network()),
    };
    (address, cidr.prefix_len())
}

/// The protocol whose type and code rules of a family can name (N28, N31).
const fn icmp_protocol(v6: bool) -> u8 {
    if v6 { 58 } else { 1 }
}

fn has_all_ports(ports: Option<(u16, u16)>) -> bool {
    ports.is_none_or(|ports| ports == (0, u16::MAX))
}

/// All L4 keys, as the ranges of a rule.
fn everything() -> Vec<Range<u32>> {
    std::iter::once(0..KEYS).collect()
}

/// The L4 keys a rule matches, ascending, with a gap between each two.
///
/// Later fragments carry no ports (AWS publishes nothing, N49), so they are judged fail closed: an allow that needs a
/// port or an ICMP type does not match them, a deny that needs one does.
fn keys(traffic: Traffic, action: Action) -> Vec<Range<u32>> {
    let Traffic { v6, protocol: Protocol::Number(protocol), ports, icmp } = traffic else {
        return everything();
    };
    let at = |page: u32, low: u32| page * PAGE as u32 + low;
    let (own, whole) = if protocol == 6 || protocol == 17 {
        let page = if protocol == 6 { l4::TCP } else { l4::UDP };
        let (first, last) = ports.unwrap_or((0, u16::MAX));
        (at(page, first.into())..at(page, u32::from(last) + 1), has_all_ports(ports))
    } else if protocol == icmp_protocol(v6) {
        match icmp {
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
    let deny = action == Action::Deny;
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
