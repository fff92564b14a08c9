//! The space of first packets of one direction and family, cut so finely that no policy in question tells two packets of a cell
//! apart. Cutting decides nothing: what becomes of a cell is what the engine says of a packet of it.

use std::collections::{BTreeMap, HashMap};

use nacl_common::{
    Action, Control, Direction, Family, Fragment, Layer, Packet, Verdict,
    border::{LISTS, Service, exempt_index, group_index, list_index},
    evaluate::{self, At},
};

use super::{
    address::{self, Addresses, Class},
    traffic::{self, Circumstance, KEYS, Kind, Traffic, WITHOUT_PORTS},
};
use crate::{
    analyze::number,
    compile::{CompileError, Compiled, List, Set, lists},
    resolve::Interface,
};

/// All first packets of one direction and family that reach an interface, under one policy or several that are compared.
///
/// Nothing is remembered of them: what is said holds for the packet that begins a flow. Its dimensions are the remote address,
/// the L4 key (destination port, ICMP type and code, protocol; later fragments by protocol), and where exemptions look at it
/// the circumstances: source port, fragmentation, hop limit.
pub struct Space<'a> {
    pub(super) policies: Vec<Policy<'a>>,
    pub(super) direction: Direction,
    pub(super) family: Family,
    /// This end, which decides nothing.
    local: [u64; 2],
    pub(super) addresses: Vec<Class>,
    /// The key space from 0: last key and class.
    pub(super) atoms: Vec<(u32, u32)>,
    pub(super) keys: Vec<KeyClass>,
    pub(super) circumstances: BTreeMap<Kind, Vec<Circumstance>>,
    /// Entries of exemptions that are known by the source port.
    by_source: Set,
}

/// One policy in question.
pub(super) struct Policy<'a> {
    pub compiled: &'a Compiled,
    /// Of the network ACL and of the security groups, where they judge: their list and its first word among the entries.
    layers: Vec<(Layer, List, usize)>,
}

/// L4 keys that no list tells apart.
#[derive(Clone, Debug)]
pub(super) struct KeyClass {
    pub kind: Kind,
    /// One of them.
    pub key: u32,
    /// The entries of all lists that match them.
    pub entries: Set,
}

/// Packets that no policy in question tells apart.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'s> {
    /// One of them.
    pub packet: Packet,
    /// What else is true of all of them, beside remote address and L4 key.
    pub circumstance: &'s Circumstance,
    address: usize,
    key: usize,
}

/// A list that is asked, where its entries stand among those of all, and by which port it is keyed.
struct Asked<'l> {
    list: &'l List,
    offset: usize,
    by_source: bool,
}

impl<'a> Space<'a> {
    /// The space of these policies: of one to ask it, of two to compare them. `direction`: as the policies see it.
    ///
    /// # Errors
    /// A policy was not compiled from its interface, and cannot be.
    pub fn of(
        policies: &[(&'a Interface, &'a Compiled)],
        direction: Direction,
        family: Family,
    ) -> Result<Self, CompileError> {
        Self::cut(policies, direction, family, None)
    }

    /// As [`Self::of`], and cut where a set of packets ends too: no cell is partly in it.
    ///
    /// # Errors
    /// As of [`Self::of`].
    ///
    /// # Panics
    /// Never: each layer has one list.
    pub fn cut(
        policies: &[(&'a Interface, &'a Compiled)],
        direction: Direction,
        family: Family,
        set: Option<(&Addresses, &Traffic)>,
    ) -> Result<Self, CompileError> {
        let v6 = family == Family::V6;
        let all: Vec<[List; LISTS]> =
            policies.iter().map(|(interface, compiled)| lists(interface, compiled)).collect::<Result<_, _>>()?;
        let (front, back) = match direction {
            Direction::Inbound => (Service::Local, Service::Remote),
            Direction::Outbound => (Service::Remote, Service::Local),
        };
        let mut asked: Vec<Asked<'_>> = Vec::new();
        let mut offset = 0;
        let mut layers: Vec<Vec<(Layer, usize, usize)>> = Vec::new();
        for ((_, compiled), lists) in policies.iter().zip(&all) {
            let control = Control(compiled.flags);
            let places = [
                (control.has(Control::NACL), list_index(direction, v6), Some(Layer::Nacl), false),
                (control.has(Control::GROUPS), group_index(direction, v6), Some(Layer::SecurityGroup), false),
                (true, exempt_index(front, v6), None, false),
                (true, exempt_index(back, v6), None, true),
            ];
            let mut own = Vec::new();
            for (_, place, layer, by_source) in places.into_iter().filter(|(on, ..)| *on) {
                own.extend(layer.map(|layer| (layer, place, offset)));
                asked.push(Asked { list: &lists[place], offset, by_source });
                offset += lists[place].words();
            }
            layers.push(own);
        }
        // The set is one more entry, of no list.
        let words = offset + 1;
        let mut inside: Set = vec![0; words].into();
        inside[offset] = 1;
        let borders = set
            .iter()
            .flat_map(|(addresses, _)| addresses.prefixes())
            .map(|(address, length)| (address, length, inside.clone()));
        let prefixes = asked.iter().flat_map(|asked| {
            asked.list.prefixes.iter().map(move |(address, length, set)| {
                let mut entries: Set = vec![0; words].into();
                entries[asked.offset..asked.offset + set.len()].copy_from_slice(set);
                (*address, *length, entries)
            })
        });
        let addresses = address::classes(family, words, prefixes.chain(borders));
        let dhcp = policies.iter().any(|(_, compiled)| Control(compiled.flags).has(Control::AWS));
        let (atoms, keys) = keys(family, dhcp, words, &asked, set.map(|(_, traffic)| traffic));
        let mut by_source: Set = vec![0; words].into();
        for asked in asked.iter().filter(|asked| asked.by_source) {
            by_source[asked.offset..asked.offset + asked.list.words()].fill(u64::MAX);
        }
        let kinds: Vec<Kind> = keys.iter().map(|key| key.kind).collect();
        let circumstances = kinds.into_iter().map(|kind| (kind, circumstances(kind, family, &asked))).collect();
        let policies_of = |(at, lists): (usize, [List; LISTS])| {
            let mut lists = lists.map(Some);
            let own =
                layers[at].iter().filter_map(|(layer, place, offset)| Some((*layer, lists[*place].take()?, *offset)));
            Policy { layers: own.collect(), compiled: policies[at].1 }
        };
        let local = local(policies, family);
        Ok(Self {
            policies: all.into_iter().enumerate().map(policies_of).collect(),
            direction,
            family,
            local,
            addresses,
            atoms,
            keys,
            circumstances,
            by_source,
        })
    }

    /// Its direction.
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Its family.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// A packet with this remote address, key and circumstance.
    pub(super) fn packet(&self, remote: u128, key: u32, circumstance: &Circumstance) -> Packet {
        let remote = number(address::named(self.family, remote));
        let (src, dst) = match self.direction {
            Direction::Inbound => (remote, self.local),
            Direction::Outbound => (self.local, remote),
        };
        Packet { src, dst, ..Traffic::packet(self.family, key, circumstance) }
    }

    /// What the policies say of a packet, in their order.
    pub fn judge(&self, packet: &Packet) -> Vec<Verdict> {
        self.policies.iter().map(|policy| policy.compiled.judge(self.direction, packet)).collect()
    }

    /// As [`Self::judge`], into a place of the caller's.
    pub(super) fn judge_into(&self, packet: &Packet, verdicts: &mut Vec<Verdict>) {
        verdicts.clear();
        verdicts.extend(self.policies.iter().map(|policy| policy.compiled.judge(self.direction, packet)));
    }

    /// What has to be told apart of packets of these classes.
    pub(super) fn circumstances(&self, address: usize, key: usize) -> &[Circumstance] {
        let kind = self.keys[key].kind;
        let all = self.circumstances[&kind].as_slice();
        // Source ports decide only where an exemption may be meant.
        let meant = || self.addresses[address].entries.iter().zip(&self.by_source).any(|(own, mask)| own & mask != 0);
        if matches!(kind, Kind::Tcp | Kind::Udp) && all.len() > 1 && !meant() { &all[..1] } else { all }
    }

    /// Every cell, the wider addresses first.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        (0..self.addresses.len()).flat_map(move |address| {
            let remote = usual(self.family, &self.addresses[address].ranges);
            (0..self.keys.len()).filter(|key| self.keys[*key].kind != Kind::Void).flat_map(move |key| {
                self.circumstances(address, key).iter().map(move |circumstance| Cell {
                    packet: self.packet(remote, self.keys[key].key, circumstance),
                    circumstance,
                    address,
                    key,
                })
            })
        })
    }

    /// A packet that the first two policies do not do the same to, if there is one.
    pub fn differs(&self) -> Option<Packet> {
        let mut verdicts = Vec::new();
        let mut packets = self.cells().map(|cell| cell.packet);
        packets.find(|packet| {
            self.judge_into(packet, &mut verdicts);
            verdicts.first().map(|verdict| verdict.action) != verdicts.get(1).map(|verdict| verdict.action)
        })
    }

    /// For every rule of the lists of one policy that judge here, implied ones left out: whether it ever decides, who decides
    /// before it, and who would without it. Each layer is asked apart, also where the one before it denies.
    #[expect(clippy::missing_panics_doc, reason = "every entry of a list has a slot of that list")]
    pub fn reach(&self, policy: usize) -> Vec<Reach> {
        let Policy { compiled, layers } = &self.policies[policy];
        let at = At { control: Control(compiled.flags | Control::FORGETFUL), ..At::default() };
        let mut reached: Vec<BTreeMap<u16, Reach>> = layers.iter().map(|_| BTreeMap::new()).collect();
        for ((layer, list, _), reached) in layers.iter().zip(&mut reached) {
            reached.extend(
                list.decisions.iter().map(|decision| slot_of(*decision)).map(|slot| (slot, Reach::new(*layer, slot))),
            );
        }
        for cell in self.cells() {
            let says = compiled.says(&at, self.direction, &cell.packet, None);
            for ((layer, list, offset), reached) in layers.iter().zip(&mut reached) {
                let word = |word: usize| self.addresses[cell.address].entries[word] & self.keys[cell.key].entries[word];
                let matching = (0..list.words()).flat_map(|at| bits(word(offset + at)).map(move |bit| at * 64 + bit));
                let mut matching = matching.map(|entry| slot_of(list.decisions[entry]));
                let decider = says.iter().find(|(other, _)| other == layer).map(|(_, says)| says.slot);
                let Some(decider) = decider else {
                    for slot in matching {
                        reached.get_mut(&slot).expect("a rule").unjudged.get_or_insert(cell.packet);
                    }
                    continue;
                };
                let Some(first) = matching.next() else { continue };
                debug_assert_eq!(first, decider, "the engine finds the first");
                let mut rest = matching.filter(|slot| *slot != first).peekable();
                let otherwise = rest.peek().copied().unwrap_or_else(|| slot_of(list.implicit));
                let own = reached.get_mut(&first).expect("a rule");
                keep(own.decides.get_or_insert(cell.packet), cell.packet);
                own.otherwise.entry(otherwise).or_insert(cell.packet);
                for slot in rest {
                    let taken = &mut reached.get_mut(&slot).expect("a rule").taken;
                    keep(taken.entry(decider).or_insert(cell.packet), cell.packet);
                }
            }
        }
        reached.into_iter().flat_map(BTreeMap::into_values).collect()
    }
}

/// Takes a packet for the example where the one there is a later fragment, which shows no port.
fn keep(example: &mut Packet, packet: Packet) {
    if example.fragment == Fragment::Later && packet.fragment != Fragment::Later {
        *example = packet;
    }
}

/// What becomes of the packets that a rule matches. Packets are examples, one of each; later fragments only where nothing else is.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The layer it belongs to.
    pub layer: Layer,
    /// Its slot.
    pub slot: u16,
    /// One that it decides; `None`: it never does.
    pub decides: Option<Packet>,
    /// By the slot of another that decides some of its packets before it: one of those.
    pub taken: BTreeMap<u16, Packet>,
    /// By the slot of another that would decide some of its own packets without it: one of those.
    pub otherwise: BTreeMap<u16, Packet>,
    /// One that passes unjudged.
    pub unjudged: Option<Packet>,
}

impl Reach {
    const fn new(layer: Layer, slot: u16) -> Self {
        Self { layer, slot, decides: None, taken: BTreeMap::new(), otherwise: BTreeMap::new(), unjudged: None }
    }

    /// Whether any packet matches it.
    pub fn matches(&self) -> bool {
        self.decides.is_some() || self.unjudged.is_some() || !self.taken.is_empty()
    }
}

fn slot_of(decision: u16) -> u16 {
    nacl_common::tables::split(decision).1
}

/// The places of the bits that are set, ascending.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

/// An address of this end for packets to have: a known one if there is any.
fn local(policies: &[(&Interface, &Compiled)], family: Family) -> [u64; 2] {
    let v6 = family == Family::V6;
    let known = policies.iter().rev().flat_map(|(interface, _)| &interface.addresses).find(|one| one.is_ipv6() == v6);
    let inside = || {
        let mut cidrs = policies.iter().rev().flat_map(|(interface, _)| &interface.subnet_cidrs);
        let cidr = cidrs.find(|cidr| cidr.addr().is_ipv6() == v6)?;
        Some(address::named(
            family,
            usual(family, &[(address::number(cidr.network()), address::number(cidr.broadcast()))]),
        ))
    };
    let nobody = if v6 { [0xfd00_u64 << 48, 10] } else { [0, 0x0a00_000a] };
    known.copied().or_else(inside).map_or(nobody, number)
}

/// An address of these ranges that a host may have.
pub(crate) fn usual(family: Family, ranges: &[(u128, u128)]) -> u128 {
    // Of the documentation networks (RFC 5737, RFC 3849).
    const V4: [u128; 3] = [0xc633_6407, 0xcb00_7109, 0xc000_0207];
    const V6: [u128; 1] = [0x2001_0db8_0000_0000_0000_0000_0000_0007];
    let known: &[u128] = if family == Family::V4 { &V4 } else { &V6 };
    let has = |number: &&u128| ranges.iter().any(|(first, last)| (first..=last).contains(number));
    if let Some(number) = known.iter().find(has) {
        return *number;
    }
    let (first, last) = ranges.iter().copied().find(|(first, last)| last - first >= 2).unwrap_or(ranges[0]);
    // Neither the network's own nor, mostly, the router's.
    first + ((last - first) / 2).min(7)
}

/// The L4 keys in atoms (last key, class), and their classes.
fn keys(
    family: Family,
    dhcp: bool,
    words: usize,
    asked: &[Asked<'_>],
    set: Option<&Traffic>,
) -> (Vec<(u32, u32)>, Vec<KeyClass>) {
    let kinds = traffic::kinds_of(family, dhcp);
    let mut ends: Vec<u32> = kinds.iter().map(|(end, _)| *end).collect();
    for asked in asked {
        let ends_of = asked.list.segments.iter().map(|(end, _)| *end);
        ends.extend(ends_of.filter(|end| !asked.by_source || *end > WITHOUT_PORTS));
    }
    let set = set.map_or(&[][..], Traffic::keys);
    ends.extend(set.iter().flat_map(|keys| [keys.first, keys.last + 1]).filter(|end| *end > 0));
    ends.sort_unstable();
    ends.dedup();
    let mut numbers: HashMap<(Kind, Set), u32> = HashMap::new();
    let (mut classes, mut atoms) = (Vec::new(), Vec::new());
    let mut at = vec![0; asked.len()];
    let (mut kind, mut start) = (0, 0);
    for end in ends {
        while kinds[kind].0 < end {
            kind += 1;
        }
        let mut entries: Set = vec![0; words].into();
        for (asked, at) in asked.iter().zip(&mut at) {
            while asked.list.segments[*at].0 < end && asked.list.segments[*at].0 <= start {
                *at += 1;
            }
            if !asked.by_source || start >= WITHOUT_PORTS {
                let set = &asked.list.services.sets[usize::from(asked.list.segments[*at].1)];
                entries[asked.offset..asked.offset + set.len()].copy_from_slice(set);
            }
        }
        entries[words - 1] = u64::from(set.iter().any(|keys| (keys.first..=keys.last).contains(&start)));
        let class = *numbers.entry((kinds[kind].1, entries)).or_insert_with_key(|(kind, entries)| {
            classes.push(KeyClass { kind: *kind, key: start, entries: entries.clone() });
            classes.len() as u32 - 1
        });
        match atoms.last_mut() {
            Some((last, same)) if *same == class => *last = end - 1,
            _ => atoms.push((end - 1, class)),
        }
        start = end;
    }
    debug_assert_eq!(start, KEYS);
    (atoms, classes)
}

/// What is told apart of packets of a kind; the most usual first.
fn circumstances(kind: Kind, family: Family, asked: &[Asked<'_>]) -> Vec<Circumstance> {
    let by_ports = |first: u32, cuts: &[u16]| -> Vec<Circumstance> {
        let ports = source_ports(first, cuts, asked);
        ports.into_iter().map(|source_ports| Circumstance { source_ports, ..Circumstance::any() }).collect()
    };
    match kind {
        Kind::Tcp => by_ports(0, &[]),
        Kind::Udp => by_ports(traffic::UDP, &[]),
        Kind::Dhcp(_) => {
            let all = by_ports(traffic::UDP, &traffic::dhcp_ports(family));
            let parts = [Fragment::None, Fragment::First];
            parts
                .into_iter()
                .flat_map(|part| all.iter().map(move |one| Circumstance { fragment: Some(part), ..one.clone() }))
                .collect()
        }
        Kind::Discovery => Circumstance::by_hop_limit(255),
        Kind::Listener => Circumstance::by_hop_limit(1),
        Kind::Plain | Kind::Void => vec![Circumstance::any()],
    }
}

/// Ports, first and last, ascending.
type Ranges = Vec<(u16, u16)>;

/// The source ports that no exemption tells apart, of the protocol whose ports begin at `first`. `cuts`: ports that are to
/// stand alone.
fn source_ports(first: u32, cuts: &[u16], asked: &[Asked<'_>]) -> Vec<Ranges> {
    let end = first + (1 << 16);
    let lists: Vec<&List> = asked.iter().filter(|asked| asked.by_source).map(|asked| asked.list).collect();
    let mut ends: Vec<u32> = lists
        .iter()
        .flat_map(|list| list.segments.iter().map(|(end, _)| *end))
        .chain(cuts.iter().flat_map(|port| [first + u32::from(*port), first + u32::from(*port) + 1]))
        .filter(|border| (first + 1..end).contains(border))
        .chain([end])
        .collect();
    ends.sort_unstable();
    ends.dedup();
    let mut all: Vec<(Vec<u16>, Ranges)> = Vec::new();
    let mut start = first;
    for end in ends {
        let port = (start - first) as u16;
        let mut class: Vec<u16> =
            lists.iter().map(|list| list.segments[list.segments.partition_point(|(end, _)| *end <= start)].1).collect();
        class.push(cuts.iter().position(|cut| *cut == port).map_or(0, |at| at as u16 + 1));
        let range = (port, (end - 1 - first) as u16);
        match all.iter_mut().find(|(other, _)| *other == class) {
            Some((_, ranges)) => ranges.push(range),
            None => all.push((class, vec![range])),
        }
        start = end;
    }
    let mut ports: Vec<_> = all.into_iter().map(|(_, ranges)| ranges).collect();
    // The one that clients pick from first.
    ports.sort_by_key(|ranges| !traffic::is_usual(ranges));
    ports
}

/// The remote address of a packet, as one number.
const fn remote_of(direction: Direction, packet: &Packet) -> u128 {
    let [high, low] = match direction {
        Direction::Inbound => packet.src,
        Direction::Outbound => packet.dst,
    };
    (high as u128) << 64 | low as u128
}

/// The place of a packet in the L4 key space.
pub(super) fn key_of(packet: &Packet) -> u32 {
    // It is the same in both directions, and whatever passes unjudged.
    evaluate::question(Control::default(), Direction::Inbound, packet).l4
}

/// Whether a packet that goes this way is in a set.
pub fn is_in(direction: Direction, packet: &Packet, addresses: &Addresses, traffic: &Traffic) -> bool {
    packet.family == addresses.family()
        && addresses.has(remote_of(direction, packet))
        && traffic.has(key_of(packet), packet)
}

/// Whether a verdict is of a packet that passed before any rule.
pub fn unjudged(verdict: &Verdict) -> bool {
    use nacl_common::Reason::{AwsService, Dhcp, Failsafe, Mld, NeighbourDiscovery};
    verdict.action == Action::Allow && matches!(verdict.reason, NeighbourDiscovery | Mld | Dhcp | AwsService | Failsafe)
}
