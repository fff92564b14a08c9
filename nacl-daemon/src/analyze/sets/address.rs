//! Sets of addresses of one family, and the classes of addresses that no list tells apart.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use nacl_common::Family;

use crate::{
    analyze::address,
    compile::{Set, join},
};

/// A set of addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    family: Family,
    /// First and last, ascending; they neither overlap nor touch.
    ranges: Vec<(u128, u128)>,
}

/// The last address of a family, as a number.
pub(super) const fn last_of(family: Family) -> u128 {
    match family {
        Family::V4 => u32::MAX as u128,
        Family::V6 => u128::MAX,
    }
}

/// An address as one number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address of a number.
pub(super) fn named(family: Family, number: u128) -> IpAddr {
    address(family, [(number >> 64) as u64, number as u64])
}

fn family_of(cidr: &IpNet) -> Family {
    if cidr.addr().is_ipv6() { Family::V6 } else { Family::V4 }
}

impl Addresses {
    /// The union of ranges, in any order.
    pub(super) fn new(family: Family, ranges: impl IntoIterator<Item = (u128, u128)>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match ranges.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => ranges.push((first, last)),
            }
        }
        Self { family, ranges }
    }

    /// Every address of a family.
    pub fn all(family: Family) -> Self {
        Self { family, ranges: vec![(0, last_of(family))] }
    }

    /// What the CIDRs of this family have together.
    pub fn of(family: Family, cidrs: &[IpNet]) -> Self {
        let own = cidrs.iter().filter(|cidr| family_of(cidr) == family);
        Self::new(family, own.map(|cidr| (number(cidr.network()), number(cidr.broadcast()))))
    }

    /// Their family.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether they are all of the family.
    pub fn is_all(&self) -> bool {
        self.ranges == [(0, last_of(self.family))]
    }

    /// First and last address of each range, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.ranges.iter().map(|(first, last)| (named(self.family, *first), named(self.family, *last)))
    }

    pub(super) fn numbers(&self) -> &[(u128, u128)] {
        &self.ranges
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let number = number(address);
        address.is_ipv6() == (self.family == Family::V6) && self.has(number)
    }

    pub(super) fn has(&self, number: u128) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < number);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= number)
    }

    /// Those that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(one), Some(two)) = (left.peek(), right.peek()) {
            let (first, last) = (one.0.max(two.0), one.1.min(two.1));
            if first <= last {
                ranges.push((first, last));
            }
            if one.1 < two.1 {
                left.next()
            } else {
                right.next()
            };
        }
        Self { family: self.family, ranges }
    }

    /// Those of a range that are not in it.
    fn holes(&self, first: u128, last: u128) -> Self {
        let mut ranges = Vec::new();
        let mut next = Some(first);
        for (start, end) in &self.ranges {
            if let Some(from) = next.filter(|from| from < start) {
                ranges.push((from, start - 1));
            }
            next = end.checked_add(1);
        }
        if let Some(from) = next.filter(|from| *from <= last) {
            ranges.push((from, last));
        }
        Self { family: self.family, ranges }
    }

    /// The fewest CIDRs that are exactly these.
    pub fn cidrs(&self) -> Vec<IpNet> {
        self.ranges.iter().flat_map(|(first, last)| cidrs(self.family, *first, *last)).collect()
    }

    /// Those as (address, length).
    pub(super) fn prefixes(&self) -> Vec<(u128, u8)> {
        self.cidrs().iter().map(|cidr| (number(cidr.network()), cidr.prefix_len())).collect()
    }

    /// As few words as say it: `10.0.0.0/8`, `192.0.2.10-192.0.2.19`, and what is left out of the whole where that is shorter.
    fn words(&self) -> Words {
        let items = |set: &Self| set.ranges.iter().map(|(first, last)| item(self.family, *first, *last)).collect();
        let listed = Words { of: None, items: items(self) };
        let (Some((first, _)), Some((_, last))) = (self.ranges.first(), self.ranges.last()) else { return listed };
        let around = around(self.family, *first, *last);
        let holes = self.holes(number(around.network()), number(around.broadcast()));
        // Whoever writes rules thinks in CIDRs: what needs fewer of them is shorter.
        if holes.is_empty() || holes.ranges.len() > self.ranges.len() || holes.cidrs().len() + 1 >= self.cidrs().len() {
            return listed;
        }
        Words { of: Some(around), items: items(&holes) }
    }

    /// At most so many items of it, and how many more there are: for a line of a table.
    pub fn short(&self, most: usize) -> String {
        self.words().text(most)
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().text(usize::MAX))
    }
}

struct Words {
    of: Option<IpNet>,
    items: Vec<String>,
}

impl Words {
    fn text(&self, most: usize) -> String {
        // "And one more" takes the place of that one.
        let shown = if self.items.len() <= most.saturating_add(1) { self.items.len() } else { most };
        let mut text = self.items[..shown].join(", ");
        if shown < self.items.len() {
            text = format!("{text} and {} more", self.items.len() - shown);
        }
        match &self.of {
            None if text.is_empty() => "nobody".to_owned(),
            None => text,
            Some(of) => format!("{of} except {text}"),
        }
    }
}

/// The smallest CIDR that holds a range.
fn around(family: Family, first: u128, last: u128) -> IpNet {
    let width = if family == Family::V4 { 32 } else { 128 };
    let same = (first ^ last).leading_zeros() - (128 - width);
    IpNet::new(named(family, first), same as u8).expect("no longer than an address").trunc()
}

fn cidrs(family: Family, first: u128, last: u128) -> Vec<IpNet> {
    match (named(family, first), named(family, last)) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect(),
        (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect(),
        _ => unreachable!("both are of the family"),
    }
}

fn item(family: Family, first: u128, last: u128) -> String {
    let around = around(family, first, last);
    if (number(around.network()), number(around.broadcast())) != (first, last) {
        return format!("{}-{}", named(family, first), named(family, last));
    }
    if first == last { around.addr().to_string() } else { around.to_string() }
}

/// Addresses that no list tells apart: they lie in the prefixes of the same entries.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// First and last, ascending.
    pub ranges: Vec<(u128, u128)>,
    /// The entries, of all lists.
    pub entries: Set,
    /// An earlier class that lies around it; none of the first.
    pub around: Option<usize>,
}

/// A prefix of which some entries are.
struct Node {
    last: u128,
    entries: Set,
    ranges: Vec<(u128, u128)>,
    parent: Option<usize>,
    /// The first address behind the prefixes inside that came so far.
    next: Option<u128>,
}

impl Node {
    /// Its addresses up to one that is not its own.
    fn until(&mut self, end: u128) {
        if let Some(first) = self.next.filter(|first| *first < end) {
            self.ranges.push((first, end - 1));
        }
    }

    fn rest(&mut self) {
        if let Some(first) = self.next.filter(|first| *first <= self.last) {
            self.ranges.push((first, self.last));
        }
    }
}

/// The classes of a family's addresses; whatever lies around another comes before it. `prefixes`: address, length and
/// entries. `words`: of a set of entries.
pub(super) fn classes(family: Family, words: usize, prefixes: impl IntoIterator<Item = (u128, u8, Set)>) -> Vec<Class> {
    let width = if family == Family::V4 { 32 } else { 128 };
    let mut by_prefix: BTreeMap<(u128, u8), Set> = BTreeMap::new();
    by_prefix.insert((0, 0), vec![0; words].into());
    for (address, length, entries) in prefixes {
        by_prefix.entry((address, length)).and_modify(|own| join(own, &entries)).or_insert(entries);
    }
    // Two prefixes are either apart, or one lies inside the other.
    let mut nodes: Vec<Node> = Vec::with_capacity(by_prefix.len());
    let mut open: Vec<usize> = Vec::new();
    for ((address, length), mut entries) in by_prefix {
        let last = address | u128::MAX.unbounded_shr(128 - width + u32::from(length));
        while let Some(inner) = open.pop_if(|inner| nodes[*inner].last < address) {
            nodes[inner].rest();
        }
        let parent = open.last().copied();
        if let Some(parent) = parent {
            nodes[parent].until(address);
            nodes[parent].next = last.checked_add(1);
            join(&mut entries, &nodes[parent].entries);
        }
        open.push(nodes.len());
        nodes.push(Node { last, entries, ranges: Vec::new(), parent, next: Some(address) });
    }
    for node in open {
        nodes[node].rest();
    }
    let mut classes: Vec<Class> = Vec::new();
    let mut numbers: std::collections::HashMap<Set, usize> = std::collections::HashMap::new();
    // By node: the class that addresses of it, or else those around it, are of.
    let mut of: Vec<Option<usize>> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let outer = node.parent.and_then(|parent| of[parent]);
        if node.ranges.is_empty() {
            of.push(outer);
            continue;
        }
        let class = *numbers.entry(node.entries).or_insert_with_key(|entries| {
            classes.push(Class { ranges: Vec::new(), entries: entries.clone(), around: outer });
            classes.len() - 1
        });
        classes[class].ranges.extend(node.ranges);
        of.push(Some(class));
    }
    for class in &mut classes {
        class.ranges.sort_unstable();
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cidrs: &[&str]) -> Addresses {
        let cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().expect("a CIDR")).collect();
        Addresses::of(family_of(&cidrs[0]), &cidrs)
    }

    #[test]
    fn sets_say_what_they_are_in_few_words() {
        for (cidrs, text) in [
            (&["0.0.0.0/0"][..], "0.0.0.0/0"),
            (&["10.0.0.0/9", "10.128.0.0/9"], "10.0.0.0/8"),
            (&["192.0.2.1/32"], "192.0.2.1"),
            (&["192.0.2.0/31", "192.0.2.2/32"], "192.0.2.0-192.0.2.2"),
            (&["192.0.2.0/24", "198.51.100.0/24"], "192.0.2.0/24, 198.51.100.0/24"),
            (&["::/0"], "::/0"),
        ] {
            assert_eq!(set(cidrs).to_string(), text);
        }
        let all = Addresses::all(Family::V4);
        let without = |cidrs: &[&str]| set(cidrs).holes(0, last_of(Family::V4));
        assert_eq!(without(&["10.0.0.0/8"]).to_string(), "0.0.0.0/0 except 10.0.0.0/8");
        assert_eq!(without(&["10.0.0.0/8", "192.0.2.0/24"]).to_string(), "0.0.0.0/0 except 10.0.0.0/8, 192.0.2.0/24");
        assert!(without(&["0.0.0.0/0"]).is_empty());
        assert_eq!(all.intersection(&set(&["10.0.0.0/8"])), set(&["10.0.0.0/8"]));
        assert_eq!(without(&["10.0.0.0/8"]).intersection(&set(&["10.0.0.0/8"])).to_string(), "nobody");
        assert_eq!(without(&["10.0.0.0/8"]).cidrs().len(), 8);
        assert_eq!(
            without(&["192.0.2.0/24", "198.51.100.17/32"]).to_string(),
            "0.0.0.0/0 except 192.0.2.0/24, 198.51.100.17"
        );
        let many = set(&["10.0.0.1/32", "10.0.0.3/32", "10.0.0.5/32", "10.0.0.7/32"]);
        assert_eq!(many.short(2), "10.0.0.1, 10.0.0.3 and 2 more");
        assert!(many.contains("10.0.0.5".parse().unwrap()) && !many.contains("10.0.0.4".parse().unwrap()));
        assert!(!many.contains("::a00:5".parse().unwrap()));
    }

    #[test]
    fn the_last_address_is_an_address() {
        let top = set(&["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]);
        assert!(top.contains("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()));
        let rest = top.holes(0, u128::MAX);
        assert_eq!(rest.intersection(&top), Addresses::new(Family::V6, []));
        assert_eq!(Addresses::new(Family::V6, rest.numbers().iter().chain(top.numbers()).copied()).to_string(), "::/0");
    }

    #[test]
    fn classes_are_disjoint_and_cover_everything() {
        let entries = |bits: u64| -> Set { vec![bits].into() };
        let prefix = |cidr: &str, bits| {
            let cidr: IpNet = cidr.parse().expect("a CIDR");
            (number(cidr.network()), cidr.prefix_len(), entries(bits))
        };
        let classes = classes(
            Family::V4,
            1,
            [
                prefix("10.0.0.0/8", 1),
                prefix("10.0.0.0/24", 2),
                prefix("10.0.1.0/24", 2),
                prefix("255.255.255.255/32", 4),
                prefix("192.0.2.0/25", 8),
                prefix("192.0.2.128/25", 8),
                prefix("192.0.2.0/24", 16),
            ],
        );
        let seen: Vec<_> = classes.iter().map(|class| (class.entries[0], class.around)).collect();
        assert_eq!(seen, [(0, None), (1, Some(0)), (3, Some(1)), (24, Some(0)), (4, Some(0))]);
        let mut ranges: Vec<_> = classes.iter().flat_map(|class| class.ranges.clone()).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
        assert_eq!((ranges[0].0, ranges[ranges.len() - 1].1), (0, last_of(Family::V4)));
    }
}
