//! Sets of what packets carry: the L4 key space of the lists, and beside it the few things that can decide because some
//! packets pass unjudged: source ports, fragmentation, hop limits.

use std::{collections::BTreeSet, fmt};

use nacl_common::{
    Family, Fragment, Packet,
    border::{PAGE, l4},
    packet::{EXTENSION_HEADERS, tcp},
    tables::{kind, kinds},
};
use serde_json::{Value, json};

use crate::policy;

/// Keys of the L4 space.
pub(super) const KEYS: u32 = l4::PAGES * PAGE as u32;

const PORTS: u32 = 1 << 16;
pub(super) const UDP: u32 = l4::UDP * PAGE as u32;
const ICMP: u32 = l4::ICMP * PAGE as u32;
const PROTOCOL: u32 = l4::PROTOCOL * PAGE as u32;
const LATER: u32 = l4::FRAGMENT * PAGE as u32;

/// The first keys of what has no ports: there every list is keyed alike.
pub(super) const WITHOUT_PORTS: u32 = ICMP;

/// What can decide about packets of a key, beside address and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// The source port.
    Tcp,
    /// Likewise.
    Udp,
    /// The source port, and whether it is a fragment: DHCP is told by both ports, of which this is one (N43).
    Dhcp(u16),
    /// Fragmentation and a hop limit of 255: neighbour discovery passes unjudged (N51).
    Discovery,
    /// Fragmentation and a hop limit of 1: likewise, multicast listener discovery.
    Listener,
    /// Nothing else.
    Plain,
    /// No packet has such a key.
    Void,
}

/// The ports DHCP is told by.
const DHCP: [[u16; 2]; 2] = [[67, 68], [546, 547]];

pub(super) const fn dhcp_ports(family: Family) -> [u16; 2] {
    DHCP[if matches!(family, Family::V4) { 0 } else { 1 }]
}

/// The L4 key space from 0, as consecutive (end, kind). `dhcp`: whether DHCP passes unjudged.
pub(super) fn kinds_of(family: Family, dhcp: bool) -> Vec<(u32, Kind)> {
    let mut kinds = vec![(UDP, Kind::Tcp)];
    if dhcp {
        for port in dhcp_ports(family) {
            kinds.push((UDP + u32::from(port), Kind::Udp));
            kinds.push((UDP + u32::from(port) + 1, Kind::Dhcp(port)));
        }
    }
    kinds.push((ICMP, Kind::Udp));
    if family == Family::V6 {
        let types = |first: u32, end: u32, kind| [(ICMP + first * 256, Kind::Plain), (ICMP + end * 256, kind)];
        kinds.extend(types(130, 133, Kind::Listener));
        kinds.extend(types(133, 138, Kind::Discovery));
        kinds.extend(types(143, 144, Kind::Listener));
    }
    kinds.push((PROTOCOL, Kind::Plain));
    for protocol in 0..=u8::MAX {
        kinds.push((
            PROTOCOL + u32::from(protocol) + 1,
            if is_void(family, protocol) { Kind::Void } else { Kind::Plain },
        ));
    }
    kinds.push((KEYS, Kind::Plain));
    // Neighbours of one kind are one, and what is empty is none.
    let mut merged: Vec<(u32, Kind)> = Vec::with_capacity(kinds.len());
    for (end, kind) in kinds {
        match merged.last_mut() {
            Some((last, same)) if *same == kind => *last = end,
            Some((last, _)) if *last == end => {}
            _ => merged.push((end, kind)),
        }
    }
    merged
}

/// Whether no whole packet stands at this protocol's place among the others: the engine keeps it elsewhere, or the parser looks
/// behind it.
fn is_void(family: Family, protocol: u8) -> bool {
    let place = kind(&Packet { family, protocol, ..Packet::NOT_PARSED });
    place & kinds::L4 & !0xff != PROTOCOL || family == Family::V6 && EXTENSION_HEADERS.contains(&protocol)
}

const fn icmp(family: Family) -> u8 {
    if matches!(family, Family::V4) { 1 } else { 58 }
}

/// Which packets of a key are meant, where more decides than address and key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Circumstance {
    /// Source ports, first and last, ascending; all where rules see none.
    pub source_ports: Vec<(u16, u16)>,
    /// Fragmentation; `None`: whole packets and first fragments alike.
    pub fragment: Option<Fragment>,
    /// Hop limits, first and last, ascending.
    pub hop_limits: Vec<(u8, u8)>,
}

impl Circumstance {
    /// Nothing else decides.
    pub(super) fn any() -> Self {
        Self { source_ports: vec![(0, u16::MAX)], fragment: None, hop_limits: vec![(0, u8::MAX)] }
    }

    /// What can be told apart of discovery that passes with this hop limit, which no router lets through.
    pub(super) fn by_hop_limit(passes: u8) -> Vec<Self> {
        let others = [(0, passes.wrapping_sub(1)), (passes.saturating_add(1), u8::MAX)];
        let others = others.into_iter().filter(|(first, last)| first <= last && !(*first..=*last).contains(&passes));
        vec![
            Self { fragment: Some(Fragment::None), hop_limits: others.collect(), ..Self::any() },
            Self { fragment: Some(Fragment::None), hop_limits: vec![(passes, passes)], ..Self::any() },
            Self { fragment: Some(Fragment::First), ..Self::any() },
        ]
    }

    /// Whether a packet is one of these.
    fn has(&self, packet: &Packet) -> bool {
        let part = if packet.fragment == Fragment::First { Fragment::First } else { Fragment::None };
        self.fragment.is_none_or(|fragment| fragment == part)
            && within(&self.hop_limits, packet.hop_limit)
            && (!matches!(packet.protocol, 6 | 17) || within(&self.source_ports, packet.sport))
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        if self.source_ports != [(0, u16::MAX)] {
            parts.push(format!("source port {}", ranges(&self.source_ports)));
        }
        match self.fragment {
            Some(Fragment::First) => parts.push("first fragment".to_owned()),
            Some(_) => parts.push("not fragmented".to_owned()),
            None => {}
        }
        if self.hop_limits != [(0, u8::MAX)] {
            parts.push(format!("hop limit {}", ranges(&self.hop_limits)));
        }
        parts.join(", ")
    }

    fn json(&self) -> Value {
        json!({
            "source_ports": self.source_ports,
            "fragment": self.fragment.map(|fragment| if fragment == Fragment::First { "first" } else { "none" }),
            "hop_limits": self.hop_limits,
        })
    }

    /// Fewer that are together the same: those that differ by source ports only.
    fn merged(all: Vec<Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for one in all {
            let alike = |other: &&mut Self| (other.fragment, &other.hop_limits) == (one.fragment, &one.hop_limits);
            match merged.iter_mut().find(alike) {
                Some(other) => other.source_ports.extend(one.source_ports),
                None => merged.push(one),
            }
        }
        for one in &mut merged {
            one.source_ports = joined(std::mem::take(&mut one.source_ports));
        }
        merged.sort();
        merged
    }
}

fn within<N: Copy + PartialOrd>(ranges: &[(N, N)], number: N) -> bool {
    ranges.iter().any(|(first, last)| *first <= number && number <= *last)
}

fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// `22, 1024-65535`.
fn ranges<N: PartialEq + fmt::Display>(ranges: &[(N, N)]) -> String {
    let one = |(first, last): &(N, N)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Keys that stand together, and which of their packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Keys {
    pub first: u32,
    pub last: u32,
    /// `None`: all.
    pub when: Option<Vec<Circumstance>>,
}

/// A set of what packets of one family carry: protocol, destination ports, ICMP types and codes, later fragments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Traffic {
    family: Family,
    /// Ascending. Keys that no packet has may be in it.
    keys: Vec<Keys>,
}

/// Whether keys from `first` to `last` are none that a packet has.
fn all_void(family: Family, first: u32, last: u32) -> bool {
    first > last || first >= PROTOCOL && last < LATER && (first..=last).all(|key| is_void(family, key as u8))
}

impl Traffic {
    /// The union of keys that do not overlap, in any order.
    pub(super) fn new(family: Family, mut all: Vec<Keys>) -> Self {
        all.sort();
        let mut keys: Vec<Keys> = Vec::with_capacity(all.len());
        for mut one in all {
            one.when = one.when.map(Circumstance::merged);
            match keys.last_mut() {
                Some(before) if before.when == one.when && all_void(family, before.last + 1, one.first - 1) => {
                    before.last = one.last;
                }
                _ => keys.push(one),
            }
        }
        Self { family, keys }
    }

    /// Everything.
    pub fn all(family: Family) -> Self {
        Self::new(family, vec![Keys { first: 0, last: KEYS - 1, when: None }])
    }

    /// All packets of a protocol: whole ones and fragments. Ports or ICMP types that are asked for leave later fragments out,
    /// which carry none.
    pub fn of(family: Family, protocol: u8, detail: Option<Detail>) -> Self {
        let range = |first: u32, last: u32| Keys { first, last, when: None };
        let page = match protocol {
            6 => Some(0),
            17 => Some(UDP),
            _ if protocol == icmp(family) => Some(ICMP),
            _ => None,
        };
        let keys = match (page, detail) {
            (Some(page), Some(Detail::Ports(first, last))) if page != ICMP => {
                vec![range(page + u32::from(first), page + u32::from(last))]
            }
            (Some(ICMP), Some(Detail::Icmp(kind, code))) => {
                let (first, last) = code.map_or((0, u8::MAX), |code| (code, code));
                let at = ICMP + u32::from(kind) * 256;
                vec![range(at + u32::from(first), at + u32::from(last))]
            }
            (_, Some(_)) => Vec::new(),
            (page, None) => {
                let own = match page {
                    Some(page) => range(page, page + PORTS - 1),
                    None => range(PROTOCOL + u32::from(protocol), PROTOCOL + u32::from(protocol)),
                };
                let later = LATER + u32::from(protocol);
                let own = Some(own).filter(|own| !all_void(family, own.first, own.last));
                own.into_iter().chain([range(later, later)]).collect()
            }
        };
        Self::new(family, keys)
    }

    /// What is in any of these, which hold whatever the circumstances.
    pub fn union(family: Family, all: impl IntoIterator<Item = Self>) -> Self {
        let mut keys: Vec<Keys> = all.into_iter().flat_map(|one| one.keys).collect();
        keys.sort();
        let mut apart: Vec<Keys> = Vec::with_capacity(keys.len());
        for one in keys {
            match apart.last_mut() {
                Some(before) if one.first <= before.last => before.last = before.last.max(one.last),
                _ => apart.push(one),
            }
        }
        Self::new(family, apart)
    }

    /// Whether it is nothing.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether it is everything.
    pub fn is_all(&self) -> bool {
        matches!(self.keys.as_slice(), [Keys { first: 0, last, when: None }] if *last == KEYS - 1)
    }

    /// Whether a packet of the family is in it. `key`: its place in the key space.
    pub(super) fn has(&self, key: u32, packet: &Packet) -> bool {
        let at = self.keys.partition_point(|keys| keys.last < key);
        // Parts of one key may stand one after the other.
        self.keys[at..]
            .iter()
            .take_while(|keys| keys.first <= key)
            .any(|keys| keys.when.as_ref().is_none_or(|when| when.iter().any(|circumstance| circumstance.has(packet))))
    }

    /// The destination ports of TCP or UDP that are in it, first and last, ascending; those of some packets only count too.
    pub fn ports(&self, protocol: u8) -> Vec<(u16, u16)> {
        let start = match protocol {
            6 => 0,
            17 => UDP,
            _ => return Vec::new(),
        };
        let own = self.keys.iter().filter(|keys| keys.last >= start && keys.first < start + PORTS);
        own.map(|keys| ((keys.first.max(start) - start) as u16, (keys.last.min(start + PORTS - 1) - start) as u16))
            .collect()
    }

    pub(super) fn keys(&self) -> &[Keys] {
        &self.keys
    }

    /// A packet of a key, as it comes first in a flow. `None`: no packet has it.
    pub(super) fn packet(family: Family, key: u32, circumstance: &Circumstance) -> Packet {
        let (low, port) = ((key & 0xff) as u8, (key & 0xffff) as u16);
        let (protocol, dport) = match key {
            0..UDP => (6, port),
            UDP..ICMP => (17, port),
            ICMP..PROTOCOL => (icmp(family), port),
            _ => (low, 0),
        };
        let later = key >= LATER;
        let fragment = if later { Fragment::Later } else { circumstance.fragment.unwrap_or(Fragment::None) };
        let usual = [64, 255, 1].into_iter().find(|hop_limit| within(&circumstance.hop_limits, *hop_limit));
        Packet {
            family,
            protocol,
            fragment,
            hop_limit: usual.unwrap_or(circumstance.hop_limits[0].0),
            tcp_flags: if protocol == 6 && !later { tcp::SYN } else { 0 },
            sport: if matches!(protocol, 6 | 17) && !later { source_port(&circumstance.source_ports) } else { 0 },
            dport,
            ..Packet::NOT_PARSED
        }
    }

    /// Keys of packets that people know, for examples.
    pub(super) fn well_known(family: Family) -> Vec<u32> {
        let (ask, udp) = (if family == Family::V4 { 8 } else { 128 }, UDP);
        vec![443, 22, 80, udp + 53, ICMP + ask * 256]
    }

    /// For machines: ranges of keys in the words of the policy.
    pub fn json(&self) -> Value {
        let mut all = Vec::new();
        for keys in &self.keys {
            let when = keys.when.as_ref().map(|when| when.iter().map(Circumstance::json).collect::<Vec<_>>());
            let mut push = |mut value: Value| {
                if let Some(when) = &when {
                    value["when"] = json!(when);
                }
                all.push(value);
            };
            let part = |first: u32, count: u32| {
                let (from, to) = (keys.first.max(first), keys.last.min(first + count - 1));
                (from <= to).then_some((from.saturating_sub(first), to.saturating_sub(first)))
            };
            for (start, name) in [(0, "tcp"), (UDP, "udp")] {
                if let Some((first, last)) = part(start, PORTS) {
                    push(json!({ "protocol": name, "ports": [first, last] }));
                }
            }
            if let Some((first, last)) = part(ICMP, PORTS) {
                for (types, codes) in blocks(first, last) {
                    push(json!({ "protocol": protocol_name(icmp(self.family)), "types": types, "codes": codes }));
                }
            }
            if let Some((first, last)) = part(PROTOCOL, PAGE as u32) {
                push(json!({ "protocols": [first, last] }));
            }
            if let Some((first, last)) = part(LATER, PAGE as u32) {
                push(json!({ "protocols": [first, last], "fragment": "later" }));
            }
        }
        all.into()
    }

    /// What is not in it.
    fn complement(&self) -> Self {
        let mut keys = Vec::new();
        let mut next = 0;
        for one in &self.keys {
            if next < one.first && !all_void(self.family, next, one.first - 1) {
                keys.push(Keys { first: next, last: one.first - 1, when: None });
            }
            next = one.last + 1;
        }
        if next < KEYS && !all_void(self.family, next, KEYS - 1) {
            keys.push(Keys { first: next, last: KEYS - 1, when: None });
        }
        Self::new(self.family, keys)
    }

    /// Its items in words: `tcp 22, 443`, `all icmp`, `later fragments of udp`.
    fn items(&self) -> Vec<String> {
        let mut items = plain_items(self.family, &self.keys.iter().filter(|keys| keys.when.is_none()));
        let mut by_when: Vec<(&Vec<Circumstance>, Vec<&Keys>)> = Vec::new();
        for keys in &self.keys {
            let Some(when) = &keys.when else { continue };
            match by_when.iter_mut().find(|(other, _)| *other == when) {
                Some((_, all)) => all.push(keys),
                None => by_when.push((when, vec![keys])),
            }
        }
        for (when, keys) in by_when {
            let when = when.iter().map(Circumstance::text).collect::<Vec<_>>().join("; ");
            items.push(format!("{} ({when})", plain_items(self.family, &keys.into_iter()).join(", ")));
        }
        items
    }

    /// At most so many items of it, and how many more there are: for a line of a table.
    pub fn short(&self, most: usize) -> String {
        if self.is_all() {
            return "all traffic".to_owned();
        }
        let items = self.items();
        if self.keys.iter().all(|keys| keys.when.is_none()) {
            let left = self.complement().items();
            if left.len() < items.len() {
                return format!("all traffic except {}", few(&left, most));
            }
        }
        few(&items, most)
    }
}

/// A source port that many systems pick.
const USUAL: u16 = 50000;

/// Whether clients pick from these source ports.
pub(super) fn is_usual(ports: &[(u16, u16)]) -> bool {
    within(ports, USUAL)
}

/// A source port as clients pick it, where one may be picked.
fn source_port(ports: &[(u16, u16)]) -> u16 {
    if is_usual(ports) {
        return USUAL;
    }
    ports.iter().map(|(_, last)| *last).max().unwrap_or(USUAL)
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short(usize::MAX))
    }
}

fn few(items: &[String], most: usize) -> String {
    if items.is_empty() {
        return "nothing".to_owned();
    }
    let shown = if items.len() <= most.saturating_add(1) { items.len() } else { most };
    let text = items[..shown].join(", ");
    if shown < items.len() { format!("{text} and {} more", items.len() - shown) } else { text }
}

fn protocol_name(number: u8) -> String {
    policy::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// A range of ICMP keys as ranges of types, each with the same codes.
fn blocks(first: u32, last: u32) -> Vec<([u32; 2], [u32; 2])> {
    let (mut at, mut all) = (first, Vec::new());
    while at <= last {
        let (kind, code) = (at >> 8, at & 0xff);
        let whole = (last + 1 - at) / 256;
        if code == 0 && whole > 0 {
            all.push(([kind, kind + whole - 1], [0, 255]));
            at += whole * 256;
        } else {
            let end = last.min(at | 0xff);
            all.push(([kind, kind], [code, end & 0xff]));
            at = end + 1;
        }
    }
    all
}

/// Keys in words, whenever that is.
fn plain_items<'k>(family: Family, keys: &(impl Iterator<Item = &'k Keys> + Clone)) -> Vec<String> {
    let part = |start: u32, count: u32| {
        keys.clone().filter_map(move |keys| {
            let (first, last) = (keys.first.max(start), keys.last.min(start + count - 1));
            (first <= last).then(|| (first - start, last - start))
        })
    };
    let numbers = |start: u32| -> BTreeSet<u8> {
        part(start, PAGE as u32).flat_map(|(first, last)| first as u8..=last as u8).collect()
    };
    let (mut whole, mut later) = (numbers(PROTOCOL), numbers(LATER));
    whole.retain(|protocol| !is_void(family, *protocol));
    let mut items = Vec::new();
    for (start, protocol) in [(0, 6), (UDP, 17)] {
        let name = protocol_name(protocol);
        let ports: Vec<_> = part(start, PORTS).map(|(first, last)| (first as u16, last as u16)).collect();
        let ports = joined(ports);
        match ports.as_slice() {
            [] => {}
            [(0, u16::MAX)] if later.remove(&protocol) => items.push(format!("all {name}")),
            ports => items.extend(
                ports
                    .iter()
                    .enumerate()
                    .map(|(at, port)| if at == 0 { format!("{name} {}", ranges(&[*port])) } else { ranges(&[*port]) }),
            ),
        }
    }
    let messages: Vec<_> = part(ICMP, PORTS).collect();
    let name = protocol_name(icmp(family));
    if messages == [(0, PORTS - 1)] && later.remove(&icmp(family)) {
        items.push(format!("all {name}"));
    } else {
        items.extend(messages.into_iter().flat_map(|(first, last)| blocks(first, last)).map(|(types, codes)| {
            let kind = if types[0] == types[1] { "type" } else { "types" };
            let text = format!("{name} {kind} {}", ranges(&[(types[0], types[1])]));
            match codes {
                [0, 255] => text,
                [first, last] if first == last => format!("{text} code {first}"),
                [first, last] => format!("{text} codes {first}-{last}"),
            }
        }));
    }
    let both: BTreeSet<u8> = whole.intersection(&later).copied().collect();
    let others = (0..=u8::MAX).filter(|protocol| !is_void(family, *protocol)).count();
    if both.len() == others {
        items.push("all other protocols".to_owned());
    } else {
        items.extend(named(family, &both));
    }
    let only: BTreeSet<u8> = whole.difference(&both).copied().collect();
    if only.len() == others {
        items.push("all other protocols without later fragments".to_owned());
    } else {
        items.extend(named(family, &only).into_iter().map(|name| format!("{name} without later fragments")));
    }
    later.retain(|protocol| !both.contains(protocol));
    if later.len() == 256 {
        items.push("all later fragments".to_owned());
    } else if !later.is_empty() {
        // Behind an extension header the protocol of a later fragment is hidden.
        let hidden = family == Family::V6 && EXTENSION_HEADERS.iter().all(|header| later.contains(header));
        if hidden {
            later.retain(|protocol| !EXTENSION_HEADERS.contains(protocol));
        }
        let mut names = names(&later, |_| false);
        if hidden {
            names.push("a hidden protocol".to_owned());
        }
        items.push(format!("later fragments of {}", names.join(", ")));
    }
    items
}

fn named(family: Family, protocols: &BTreeSet<u8>) -> Vec<String> {
    names(protocols, |protocol| is_void(family, protocol))
}

/// Protocols by name, and by number where many stand together. `between`: those that do not count.
fn names(protocols: &BTreeSet<u8>, between: impl Fn(u8) -> bool) -> Vec<String> {
    let mut runs: Vec<Vec<u8>> = Vec::new();
    for protocol in protocols {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| (*last + 1..*protocol).all(&between)) => run.push(*protocol),
            _ => runs.push(vec![*protocol]),
        }
    }
    let mut names = Vec::new();
    for run in runs {
        match run.as_slice() {
            [first, _, .., last] if run.len() > 3 => names.push(format!("protocols {first}-{last}")),
            few => names.extend(few.iter().map(|protocol| match policy::protocol_name(*protocol) {
                Some(name) => name.to_owned(),
                None => format!("protocol {protocol}"),
            })),
        }
    }
    names
}

/// Which ports or ICMP messages of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Destination ports, first and last.
    Ports(u16, u16),
    /// ICMP type and code; without a code all of the type.
    Icmp(u8, Option<u8>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(protocol: u8, first: u16, last: u16) -> Traffic {
        Traffic::of(Family::V4, protocol, Some(Detail::Ports(first, last)))
    }

    #[test]
    fn traffic_says_what_it_is_in_few_words() {
        let v4 = |protocol| Traffic::of(Family::V4, protocol, None);
        let icmp = |kind, code| Traffic::of(Family::V4, 1, Some(Detail::Icmp(kind, code)));
        for (traffic, text) in [
            (Traffic::all(Family::V4), "all traffic"),
            (v4(6), "all tcp"),
            (ports(6, 22, 22), "tcp 22"),
            (
                Traffic::union(Family::V4, [ports(6, 22, 22), ports(6, 80, 90), ports(17, 53, 53)]),
                "tcp 22, 80-90, udp 53",
            ),
            (v4(1), "all icmp"),
            (icmp(3, Some(4)), "icmp type 3 code 4"),
            (icmp(8, None), "icmp type 8"),
            (v4(47), "gre"),
            (Traffic::union(Family::V4, [v4(47), v4(50)]), "gre, esp"),
            (v4(6).complement(), "all traffic except all tcp"),
            (Traffic::union(Family::V4, [v4(6), v4(17), v4(1)]).complement(), "all other protocols"),
            (ports(6, 0, 65535), "tcp 0-65535"),
            (Traffic::of(Family::V6, 60, None), "later fragments of ipv6-opts"),
            (Traffic::of(Family::V6, 6, Some(Detail::Icmp(8, None))), "nothing"),
        ] {
            assert_eq!(traffic.to_string(), text);
        }
    }

    #[test]
    fn the_key_space_is_covered_once() {
        for family in [Family::V4, Family::V6] {
            for dhcp in [false, true] {
                let kinds = kinds_of(family, dhcp);
                assert!(kinds.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1), "{kinds:?}");
                assert_eq!(kinds[kinds.len() - 1].0, KEYS);
                let at = |key: u32| kinds.iter().find(|(end, _)| key < *end).expect("covered").1;
                assert_eq!((at(0), at(UDP), at(LATER)), (Kind::Tcp, Kind::Udp, Kind::Plain));
                for protocol in [6, 17, icmp(family)] {
                    assert_eq!(at(PROTOCOL + u32::from(protocol)), Kind::Void);
                }
                for port in dhcp_ports(family) {
                    assert_eq!(at(UDP + u32::from(port)), if dhcp { Kind::Dhcp(port) } else { Kind::Udp });
                }
                assert_eq!(at(ICMP + 135 * 256), if family == Family::V6 { Kind::Discovery } else { Kind::Plain });
            }
        }
    }

    #[test]
    fn hop_limits_of_discovery_are_told_apart() {
        for passes in [1, 255] {
            let all = Circumstance::by_hop_limit(passes);
            for hop_limit in 0..=u8::MAX {
                let packet = Packet { hop_limit, ..Packet::NOT_PARSED };
                let of: Vec<_> = all.iter().map(|one| one.has(&packet)).collect();
                assert_eq!(of, [hop_limit != passes, hop_limit == passes, false]);
            }
        }
    }
}
