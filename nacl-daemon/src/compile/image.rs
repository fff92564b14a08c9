//! Classes → the bytes of a generation: pages, nodes, tables or rows, in the smallest tier that holds them. The reader is
//! `nacl_common::tables`; the two must be read together.

use std::{collections::HashMap, ops::Range, slice, sync::Arc};

use nacl_common::{
    border::{self, Header, LINK, LISTS, NODE_WORDS, PAGE},
    flow::{SECOND, TIMEOUTS, Timeout},
    tables::{Image, MAX_ROW_WORDS},
};
use sha2::{Digest, Sha256};

use super::{
    CompileError, Generation, Whose,
    classes::{self, Classes, List, Set, join},
};
use crate::resolve::{Interface, Tracking};

/// Entries, classes and pages that fit the fifteen bits beside [`LINK`].
const LIMIT: usize = LINK as usize;

/// A generation that grows; laid out for good once its size is known.
#[derive(Default)]
struct Builder {
    header: Header,
    words: Vec<u64>,
    heap: Vec<u16>,
    pages: HashMap<Box<[u16]>, u32>,
    /// L4 indexes and tables: those of equal lists are one.
    runs: HashMap<Box<[u16]>, u32>,
    uniform: HashMap<u16, u32>,
    /// Largest page, class or node number of the list that is placed; beyond [`LIMIT`] an entry cannot name it.
    highest: usize,
}

/// One list whose classes stand in the heap, and whose decisions do not yet.
struct Placed<'a> {
    list: &'a List,
    addresses: Classes,
    at: border::List,
    /// Heap entries its classes took.
    heap: usize,
    /// Words of its IPv6 nodes.
    nodes: usize,
    /// Largest page, class or node number it needs.
    highest: usize,
}

impl Placed<'_> {
    fn in_table(&self) -> bool {
        self.at.form == border::List::TABLE
    }

    fn table(&self) -> usize {
        self.addresses.sets.len() * self.list.services.sets.len()
    }

    /// Words of its nodes and rows.
    fn words(&self) -> usize {
        let rows = (self.addresses.sets.len() + self.list.services.sets.len()) * self.list.words();
        self.nodes + if self.in_table() { 0 } else { rows }
    }

    /// Heap entries it takes altogether.
    fn total(&self) -> usize {
        self.heap + if self.in_table() { self.table() } else { self.list.words() * 64 + 1 }
    }
}

/// The lists of one layer, by their place: network ACL, security groups, exemptions.
const LAYERS: [Range<usize>; 3] = [0..4, 4..8, 8..LISTS];

/// Lays the lists out. Second: a digest of what was laid out.
///
/// # Errors
/// The largest tier is too small.
pub(super) fn build(interface: &Interface, lists: &[List; LISTS]) -> Result<(Generation, [u8; 32]), CompileError> {
    let (words, heap) = (border::Large::WORDS, border::Large::HEAP);
    let mut builder = Builder::default();
    builder.header.open = classes::open(interface);
    builder.header.exempt = classes::exempt(interface);
    builder.header.timeouts = timeouts(&interface.tracking);
    let mut placed: Vec<_> = lists.iter().map(|list| builder.place(list)).collect();
    // Blames the layer that needs most.
    let too_large = |placed: &[Placed<'_>], what, of: &dyn Fn(&Placed<'_>) -> usize, limit: usize| {
        let layer = |lists: &Range<usize>| placed[lists.clone()].iter().map(of).sum::<usize>();
        let most = LAYERS.into_iter().rev().max_by_key(layer).expect("there are layers");
        let needed = placed.iter().map(of).sum();
        CompileError::TooLarge { whose: Whose::list(interface, most.start), what, own: layer(&most), needed, limit }
    };
    if let Some((index, list)) = placed.iter().enumerate().find(|(_, list)| list.highest >= LIMIT) {
        let (what, needed) = ("address and port classes", list.highest * 2);
        let whose = Whose::list(interface, index);
        return Err(CompileError::TooLarge { whose, what, own: needed, needed, limit: LIMIT * 2 });
    }
    // Tables are faster than rows, so only the largest ones give way, and only where they must. The loop over a row costs
    // the kernel's verifier so much that only the network ACL's lists can have them.
    while placed.iter().map(Placed::total).sum::<usize>() > heap {
        let tables = placed[LAYERS[0].clone()].iter_mut().filter(|list| list.in_table());
        let Some(largest) = tables.max_by_key(|list| list.table()) else {
            return Err(too_large(&placed, "pages and tables", &|list| list.total() * 2, heap * 2));
        };
        largest.at.form = border::List::ROWS;
    }
    let too_long = |list: &Placed<'_>| !list.in_table() && list.list.words() > MAX_ROW_WORDS as usize;
    if let Some((index, list)) = placed.iter().enumerate().find(|(_, list)| too_long(list)) {
        let limit = MAX_ROW_WORDS as usize * 64;
        let why = " in one list, with too many distinct CIDRs and ports for a table";
        let rules = list.list.decisions.len();
        return Err(CompileError::TooManyRules { whose: Whose::list(interface, index), rules, why, limit });
    }
    if placed.iter().map(Placed::words).sum::<usize>() > words {
        return Err(too_large(&placed, "IPv6 nodes and rows of rule bits", &|list| list.words() * 8, words * 8));
    }
    for (index, list) in placed.iter().enumerate() {
        builder.header.lists[index] = if list.in_table() { builder.table(list) } else { builder.bit_rows(list) };
    }
    Ok(builder.finish())
}

/// In nanoseconds, by [`Timeout`].
fn timeouts(tracking: &Tracking) -> [u64; TIMEOUTS] {
    // Destructured, so that a new one makes one think of its place.
    let Tracking {
        tcp_opening,
        tcp_established,
        tcp_closing,
        tcp_closed,
        udp,
        udp_stream,
        icmp,
        other,
        entries: _,
        pickup: _,
    } = *tracking;
    let mut timeouts = [0; TIMEOUTS];
    for (timeout, seconds) in [
        (Timeout::TcpOpening, tcp_opening),
        (Timeout::TcpEstablished, tcp_established),
        (Timeout::TcpClosing, tcp_closing),
        (Timeout::TcpClosed, tcp_closed),
        (Timeout::Udp, udp),
        (Timeout::UdpStream, udp_stream),
        (Timeout::Icmp, icmp),
        (Timeout::Other, other),
    ] {
        timeouts[timeout as usize] = u64::from(seconds) * SECOND;
    }
    timeouts
}

impl Builder {
    /// A page with these entries, shared with every other page that has the same.
    fn page(&mut self, entries: &[u16]) -> u16 {
        if let Some(page) = self.pages.get(entries) {
            return *page as u16;
        }
        self.heap.resize(self.heap.len().next_multiple_of(PAGE), 0);
        let page = self.heap.len() / PAGE;
        self.highest = self.highest.max(page);
        self.heap.extend_from_slice(entries);
        self.pages.insert(entries.into(), page as u32);
        page as u16
    }

    /// A page whose entries are all the same.
    fn uniform(&mut self, entry: u16) -> u16 {
        if let Some(page) = self.uniform.get(&entry) {
            return *page as u16;
        }
        let page = self.page(&[entry; PAGE]);
        self.uniform.insert(entry, page.into());
        page
    }

    fn class(&mut self, addresses: &mut Classes, set: &[u64]) -> u16 {
        let class = addresses.number(set);
        self.highest = self.highest.max(class as usize);
        class as u16
    }

    /// Entries that stand together, shared with all that are the same.
    fn run(&mut self, entries: Vec<u16>) -> u32 {
        if let Some(at) = self.runs.get(entries.as_slice()) {
            return *at;
        }
        let at = self.heap.len() as u32;
        self.heap.extend_from_slice(&entries);
        self.runs.insert(entries.into(), at);
        at
    }

    fn place<'a>(&mut self, list: &'a List) -> Placed<'a> {
        let (heap, words) = (self.heap.len(), self.words.len());
        self.highest = 0;
        let mut addresses = Classes::default();
        let mut at = border::List::default();
        let mut cover: Set = vec![0; list.words()].into();
        let prefixes: Vec<_> = list.prefixes.iter().filter(|(_, length, _)| *length > 0).collect();
        for (_, _, set) in list.prefixes.iter().filter(|(_, length, _)| *length == 0) {
            join(&mut cover, set);
        }
        if list.v6 {
            at.nodes = self.words.len() as u32;
            at.address = self.node6(at.nodes, &prefixes, &cover, &mut addresses).into();
        } else {
            let prefixes =
                prefixes.iter().map(|(address, length, set)| (*address as u32, *length, set)).collect::<Vec<_>>();
            at.address = u32::from(self.page4(0, &prefixes, &cover, &mut addresses)) * PAGE as u32;
        }
        self.highest = self.highest.max(list.services.sets.len());
        at.l4 = self.l4_index(list);
        let (heap, nodes) = (self.heap.len() - heap, self.words.len() - words);
        Placed { list, addresses, at, heap, nodes, highest: self.highest }
    }

    /// The entries of a table by a few bits of the address, the last of which is bit `end`: each leads to what `entry` makes of
    /// the prefixes that are longer than that, and of everything that covers all its addresses. `touching`: the prefixes, by
    /// entry. `parts`: a prefix's length and rules.
    fn entries<P: Copy>(
        &mut self,
        touching: &[Vec<&P>],
        end: u8,
        cover: &Set,
        parts: impl Fn(&P) -> (u8, &Set),
        mut entry: impl FnMut(&mut Self, &[P], &Set) -> u16,
    ) -> Vec<u16> {
        // Most are touched by no prefix, and all those are the same.
        let mut untouched = None;
        let entries = touching.iter().map(|prefixes| {
            if let (true, Some(same)) = (prefixes.is_empty(), untouched) {
                return same;
            }
            let mut cover = cover.clone();
            let mut inner = Vec::new();
            for prefix in prefixes {
                match parts(prefix) {
                    (length, _) if length > end => inner.push(**prefix),
                    (_, set) => join(&mut cover, set),
                }
            }
            let made = entry(self, &inner, &cover);
            if prefixes.is_empty() {
                untouched = Some(made);
            }
            made
        });
        entries.collect()
    }

    /// The page of one byte of an IPv4 address. The entries of the first lead on always, the others where they must.
    fn page4(&mut self, level: u8, prefixes: &[(u32, u8, &Set)], cover: &Set, addresses: &mut Classes) -> u16 {
        if prefixes.is_empty() && level > 0 {
            let class = self.class(addresses, cover);
            return self.uniform(class);
        }
        let end = 8 * (level + 1);
        let touching = by_value(prefixes, PAGE, |(address, length, _)| {
            let own = (address >> (32 - end) & 0xff) as usize;
            own..own + (1 << end.saturating_sub(*length))
        });
        let entries = self.entries(
            &touching,
            end,
            cover,
            |(_, length, set)| (*length, set),
            |builder, inner, cover| {
                if level == 0 {
                    builder.page4(1, inner, cover, addresses)
                } else if inner.is_empty() {
                    builder.class(addresses, cover)
                } else {
                    LINK as u16 | builder.page4(level + 1, inner, cover, addresses)
                }
            },
        );
        self.page(&entries)
    }

    /// The entry that leads to the class of an IPv6 address, given that it lies under everything in `cover` and may lie under
    /// any of `prefixes`.
    fn node6(&mut self, base: u32, prefixes: &[&(u128, u8, Set)], cover: &Set, addresses: &mut Classes) -> u16 {
        let [first, rest @ ..] = prefixes else {
            return self.class(addresses, cover);
        };
        let common = rest.iter().fold(first.1, |common, (address, length, _)| {
            common.min(*length).min((address ^ first.0).leading_zeros() as u8)
        });
        let node = self.words.len();
        self.words.resize(node + NODE_WORDS as usize, 0);
        let number = (node - base as usize) / NODE_WORDS as usize;
        self.highest = self.highest.max(number);
        let outside = self.class(addresses, cover);
        let mut cover = cover.clone();
        for (_, _, set) in prefixes.iter().filter(|(_, length, _)| *length == common) {
            join(&mut cover, set);
        }
        let longer: Vec<_> = prefixes.iter().filter(|(_, length, _)| *length > common).copied().collect();
        let mask = if common == 0 { 0 } else { u128::MAX << (128 - common) };
        let width = width(number == 0, common, &longer);
        let (end, values) = (common + width, 1 << width);
        // What is selected stands in one half of the address.
        let high = common < 64;
        let shift = if high { 64 - end } else { 128 - end };
        let touching = by_value(&longer, values, |(address, length, _)| {
            let own = (address.unbounded_shr(u32::from(128 - end)) as usize) & (values - 1);
            own..own + (1 << end.saturating_sub(*length))
        });
        let entries = self.entries(
            &touching,
            end,
            &cover,
            |(_, length, set)| (*length, set),
            |builder, inner, cover| builder.node6(base, inner, cover, addresses),
        );
        let entries = self.run(entries);
        let value = first.0 & mask;
        self.words[node..node + NODE_WORDS as usize].copy_from_slice(&[
            (value >> 64) as u64,
            value as u64,
            (mask >> 64) as u64,
            mask as u64,
            u64::from(outside) | u64::from(shift & 0x3f) << 16 | u64::from(entries) << 32,
            if high { 0 } else { u64::MAX },
            values as u64 - 1,
            0,
        ]);
        LINK as u16 | number as u16
    }

    /// The page numbers of the L4 key space; returns where they start in the heap.
    fn l4_index(&mut self, list: &List) -> u32 {
        let mut segments = list.segments.iter().copied().peekable();
        let mut index = Vec::with_capacity(border::l4::PAGES as usize);
        for page in 0..border::l4::PAGES {
            let (start, end) = (page * PAGE as u32, (page + 1) * PAGE as u32);
            while segments.next_if(|(until, _)| *until <= start).is_some() {}
            let (until, class) = *segments.peek().expect("segments cover the key space");
            index.push(if until >= end {
                self.uniform(class)
            } else {
                let mut entries = [0; PAGE];
                let mut segments = segments.clone();
                for (key, entry) in (start..).zip(&mut entries) {
                    while segments.next_if(|(until, _)| *until <= key).is_some() {}
                    *entry = segments.peek().expect("segments cover the key space").1;
                }
                self.page(&entries)
            });
        }
        self.run(index)
    }

    fn table(&mut self, placed: &Placed<'_>) -> border::List {
        let Placed { list, addresses, at, .. } = placed;
        let services = &list.services.sets;
        // Where an address stands under few rules, it is faster to go through the classes of each than to compare all sets
        // with its own: 1000 rules that share nothing compile in a tenth of the time.
        let of_rule = classes_by_rule(list);
        let mut table = Vec::with_capacity(placed.table());
        for address in &addresses.sets {
            let rules = members(address);
            let steps = |of_rule: &Vec<Vec<u16>>| rules.iter().map(|rule| of_rule[*rule].len()).sum::<usize>();
            match of_rule.as_ref().filter(|of_rule| steps(of_rule) <= services.len() * address.len()) {
                Some(of_rule) => {
                    let start = table.len();
                    table.resize(start + services.len(), list.implicit);
                    // The first rule last, so that it is what remains.
                    for rule in rules.into_iter().rev() {
                        of_rule[rule]
                            .iter()
                            .for_each(|class| table[start + usize::from(*class)] = list.decisions[rule]);
                    }
                }
                None => table.extend(services.iter().map(|service| list.first_match(address, service))),
            }
        }
        let decisions = self.run(table);
        border::List { decisions, stride: list.services.sets.len() as u32, ..*at }
    }

    fn bit_rows(&mut self, placed: &Placed<'_>) -> border::List {
        let Placed { list, addresses, at, .. } = placed;
        let decisions = self.heap.len() as u32;
        let stride = list.words();
        self.heap.extend(&list.decisions);
        // Where no bit is set the reader arrives at the end of the row.
        self.heap.resize(decisions as usize + stride * 64 + 1, list.implicit);
        let address_rows = self.words.len() as u32;
        self.words.extend(addresses.sets.iter().flatten());
        let l4_rows = self.words.len() as u32;
        self.words.extend(list.services.sets.iter().flatten());
        border::List { decisions, stride: stride as u32, address_rows, l4_rows, ..*at }
    }

    fn finish(self) -> (Generation, [u8; 32]) {
        let digest = self.digest();
        let rows = self.header.lists.iter().any(|list| list.form == border::List::ROWS);
        macro_rules! fit {
            ($tier:ident) => {
                let form = !rows || <border::$tier as Image>::ROWS;
                if form && self.words.len() <= border::$tier::WORDS && self.heap.len() <= border::$tier::HEAP {
                    // SAFETY: a generation is integers and arrays of integers, for which all bits zero is a value.
                    let mut shared = unsafe { Arc::<border::$tier>::new_zeroed().assume_init() };
                    let image = Arc::get_mut(&mut shared).expect("nobody else has it yet");
                    image.header = self.header;
                    image.words[..self.words.len()].copy_from_slice(&self.words);
                    image.heap[..self.heap.len()].copy_from_slice(&self.heap);
                    return (Generation::$tier(shared), digest);
                }
            };
        }
        fit!(Small);
        fit!(Medium);
        fit!(Large);
        unreachable!("sizes were checked against the largest tier")
    }

    /// Of everything that makes one generation differ from another. Behind it there are zeroes, up to the size of the tier,
    /// which follows from it.
    fn digest(&self) -> [u8; 32] {
        // SAFETY: integers without padding, as nacl-common asserts.
        let header: &[u8] = unsafe { slice::from_raw_parts((&raw const self.header).cast(), size_of::<Header>()) };
        let mut digest = Sha256::new();
        digest.update(header);
        digest.update(self.words.len().to_ne_bytes());
        digest.update(bytemuck::cast_slice(&self.words));
        digest.update(bytemuck::cast_slice(&self.heap));
        digest.finalize().into()
    }
}

/// By entry of a list: the L4 classes that hold it; nothing where that would be megabytes, for rules that all overlap.
fn classes_by_rule(list: &List) -> Option<Vec<Vec<u16>>> {
    const MOST: u32 = 1 << 22;
    let all: u32 = list.services.sets.iter().flatten().map(|word| word.count_ones()).sum();
    if all > MOST {
        return None;
    }
    let mut of_rule = vec![Vec::new(); list.decisions.len()];
    for (class, set) in (0..).zip(&list.services.sets) {
        for rule in members(set) {
            of_rule[rule].push(class);
        }
    }
    Some(of_rule)
}

/// The entries of a set, ascending.
fn members(set: &[u64]) -> Vec<usize> {
    let mut members = Vec::new();
    for (word, mut bits) in set.iter().copied().enumerate() {
        while bits != 0 {
            members.push(word * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
    members
}

/// The prefixes that touch each value of a few bits, by the values that each of them touches. Most touch one value, and most
/// values are touched by none: looking at each pair takes minutes where there are ten thousand rules.
fn by_value<P>(prefixes: &[P], values: usize, touches: impl Fn(&P) -> Range<usize>) -> Vec<Vec<&P>> {
    let mut found = vec![Vec::new(); values];
    for prefix in prefixes {
        found[touches(prefix)].iter_mut().for_each(|touching: &mut Vec<&P>| touching.push(prefix));
    }
    found
}

/// How many bits behind the first `common` ones an IPv6 node branches on, below which these longer prefixes are. The wider,
/// the fewer nodes on a path, each of which costs as much as all of IPv4's four levels; at most so wide that most entries are
/// not waste, and at least eight bits, so that a path has at most [`nacl_common::tables::MAX_NODES`] nodes.
fn width(root: bool, common: u8, longer: &[&(u128, u8, Set)]) -> u8 {
    let Some(longest) = longer.iter().map(|(_, length, _)| *length).max() else { return 0 };
    let half = if common < 64 { 64 } else { 128 };
    // At the root a whole field of the address may be worth it: which subnet, which customer.
    let entries = longer.len() * if root { 8 * ENTRIES } else { ENTRIES };
    let wanted = entries.next_power_of_two().ilog2().clamp(8, 16) as u8;
    wanted.min(longest - common).min(half - common)
}

/// Entries of an IPv6 node for each prefix below it.
const ENTRIES: usize = 8;
