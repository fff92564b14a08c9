//! Which counter slot belongs to which rule, and for how long. A rule that stays the same keeps its slot over reloads, so
//! its counter does not jump; a slot that becomes free is left alone for one generation, so that a late packet or
//! event of the old policy is never booked on a new rule.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
};

use ipnet::IpNet;
use nacl_common::{
    Action, Direction, Family, Layer,
    border::{FIRST_RULE_SLOT, NO_SLOT, Service, group_implicit_slot, implicit_slot, same_subnet_slot, tracked_slot},
};
use serde::{Deserialize, Serialize};

use super::{CompileError, Whose};
use crate::resolve::{Exemption, Icmp, Interface, Peer, Protocol, names};

/// What the slots of an interface's counters mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTable {
    /// Slots in use, by number.
    pub slots: BTreeMap<u16, Slot>,
}

/// One slot: a rule, the implied end of a list, traffic inside the subnet, remembered connections, or an exemption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Direction of its list; of an exemption: that of its requests, whose replies it counts too.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// Family it matches.
    #[serde(with = "names::family")]
    pub family: Family,
    /// The layer it belongs to; [`Layer::None`] for exemptions and for remembered connections.
    #[serde(with = "names::layer")]
    pub layer: Layer,
    /// Name of the network ACL, security group or exemption; empty where it belongs to none of them.
    pub name: String,
    /// Number of a network ACL rule; `None` for everything else.
    pub rule: Option<u16>,
    /// Of a security group rule: its place among its group's rules of its direction, from 1.
    pub position: Option<u16>,
    /// What it does.
    #[serde(with = "names::action")]
    pub action: Action,
    /// Line in the policy file, 0 for what AWS adds by itself.
    pub line: usize,
    /// What the rule matches, canonically and as written (`tcp 80-80 sg:web`): two rules are the same if direction, family,
    /// layer, name, number, action and this are.
    pub matches: String,
}

impl Slot {
    /// Whether two slots are of one rule. Its line, and its place in a group, may change without it.
    pub fn same_rule(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    /// Of an exemption.
    fn exempt(exemption: &Exemption) -> Self {
        Self {
            // The way its requests go.
            direction: match exemption.service {
                Service::Remote => Direction::Outbound,
                Service::Local => Direction::Inbound,
            },
            family: family(is_v6(&exemption.cidr)),
            layer: Layer::None,
            name: exemption.name.clone(),
            rule: None,
            position: None,
            action: Action::Allow,
            line: exemption.line,
            matches: describe(exemption.protocol, exemption.ports, None, exemption.cidr),
        }
    }

    /// Whether it counts this exemption.
    pub fn counts(&self, exemption: &Exemption) -> bool {
        self.same_rule(&Self::exempt(exemption))
    }

    fn identity(&self) -> Identity<'_> {
        // Destructured, so that a new field makes one think about identity.
        let Self { direction, family, layer, name, rule, position: _, action, line: _, matches } = self;
        (*direction, *family, *layer, name, *rule, *action, matches)
    }
}

/// Whether a CIDR is of IPv6; a rule is of its CIDR's family (N24).
pub(super) fn is_v6(cidr: &IpNet) -> bool {
    cidr.addr().is_ipv6()
}

const fn family(v6: bool) -> Family {
    if v6 { Family::V6 } else { Family::V4 }
}

fn describe(protocol: Protocol, ports: Option<(u16, u16)>, icmp: Option<Icmp>, remote: impl fmt::Display) -> String {
    let protocol = match protocol {
        Protocol::All => "all".to_owned(),
        Protocol::Number(number) => number.to_string(),
    };
    let ports = ports.map(|(first, last)| format!(" {first}-{last}")).unwrap_or_default();
    let icmp = icmp
        .map(|icmp| format!(" type {} code {}", icmp.kind, icmp.code.map_or("all".to_owned(), |code| code.to_string())))
        .unwrap_or_default();
    format!("{protocol}{ports}{icmp} {remote}")
}

/// The other end of a group's rule as it is written: its members may change, and it stays the same rule.
fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Cidr(cidr) => cidr.to_string(),
        Peer::PrefixList(name) => format!("pl:{name}"),
        Peer::Group(name) => format!("sg:{name}"),
    }
}

/// The slot of each rule, for the compiler.
#[derive(Default)]
pub(super) struct Slots {
    /// Of the network ACL, by direction and number.
    pub nacl: HashMap<(Direction, u16), u16>,
    /// Of the security groups, by direction, family (`v6`), place of the group, and place of the rule in it.
    pub groups: HashMap<(Direction, bool, usize, usize), u16>,
    /// Of the exemptions, in their order.
    pub exemptions: Vec<u16>,
}

/// The slots below the rules'. What both layers remember, and can be switched on while it runs, is always there.
fn fixed(interface: &Interface) -> BTreeMap<u16, Slot> {
    let mut slots = BTreeMap::new();
    for direction in Direction::ALL {
        for v6 in [false, true] {
            let mut fixed = |number, layer, name: &str, action, matches: &str| {
                slots.insert(
                    number,
                    Slot {
                        direction,
                        family: family(v6),
                        layer,
                        name: name.to_owned(),
                        rule: None,
                        position: None,
                        action,
                        line: 0,
                        matches: matches.to_owned(),
                    },
                );
            };
            let nacl = &interface.nacl.name;
            fixed(implicit_slot(direction, v6), Layer::Nacl, nacl, Action::Deny, "*");
            if interface.subnet_cidrs.iter().any(|cidr| is_v6(cidr) == v6) {
                fixed(same_subnet_slot(direction, v6), Layer::Nacl, nacl, Action::Allow, "same subnet");
            }
            if interface.groups.is_some() {
                fixed(group_implicit_slot(direction, v6), Layer::SecurityGroup, "", Action::Deny, "no rule");
            }
            fixed(tracked_slot(direction, v6), Layer::None, "", Action::Allow, "tracked");
        }
    }
    slots
}

/// What a rule is known by over reloads, beside its place.
type Identity<'a> = (Direction, Family, Layer, &'a str, Option<u16>, Action, &'a str);

/// Whose slot it is.
enum Owner {
    Nacl(Direction, u16),
    Group(Direction, bool, usize, usize),
    Exemption,
}

/// Everything that has a slot of its own.
fn wanted(interface: &Interface) -> Vec<(Owner, Slot)> {
    let mut wanted = Vec::new();
    for direction in Direction::ALL {
        for rule in interface.nacl.rules(direction) {
            wanted.push((
                Owner::Nacl(direction, rule.number),
                Slot {
                    direction,
                    family: family(is_v6(&rule.cidr)),
                    layer: Layer::Nacl,
                    name: interface.nacl.name.clone(),
                    rule: Some(rule.number),
                    position: None,
                    action: rule.action,
                    line: rule.line,
                    matches: describe(rule.protocol, rule.ports, rule.icmp, rule.cidr),
                },
            ));
        }
        for (place, group) in interface.groups.iter().flatten().enumerate() {
            for (at, rule) in group.rules(direction).iter().enumerate() {
                let slot = |v6| Slot {
                    direction,
                    family: family(v6),
                    layer: Layer::SecurityGroup,
                    name: group.name.clone(),
                    rule: None,
                    position: Some(u16::try_from(at + 1).unwrap_or(u16::MAX)),
                    action: Action::Allow,
                    line: rule.line,
                    matches: describe(rule.protocol, rule.ports, rule.icmp, peer(&rule.peer)),
                };
                let families = [false, true].into_iter().filter(|v6| rule.cidrs.iter().any(|cidr| is_v6(cidr) == *v6));
                wanted.extend(families.map(|v6| (Owner::Group(direction, v6, place, at), slot(v6))));
            }
        }
    }
    wanted.extend(interface.exemptions.iter().map(|exemption| (Owner::Exemption, Slot::exempt(exemption))));
    wanted
}

impl SlotTable {
    /// Gives every rule of an interface its slot: to a rule that was there before its old one, to the others such as no rule
    /// had before.
    ///
    /// # Errors
    /// More rules than there are slots.
    pub(super) fn assign(interface: &Interface, previous: Option<&Self>) -> Result<(Self, Slots), CompileError> {
        let empty = Self::default();
        let previous = previous.unwrap_or(&empty);
        let wanted = wanted(interface);
        // By identity: 5000 rules must not be compared with 5000. A group may have one rule twice, and each has a slot.
        let mut old: HashMap<_, VecDeque<u16>> = HashMap::new();
        for (number, slot) in previous.slots.range(FIRST_RULE_SLOT..) {
            old.entry(slot.identity()).or_default().push_back(*number);
        }
        let mut fresh = (FIRST_RULE_SLOT..NO_SLOT).filter(|slot| !previous.slots.contains_key(slot));
        let numbers: Option<Vec<_>> = wanted
            .iter()
            .map(|(_, slot)| old.get_mut(&slot.identity()).and_then(VecDeque::pop_front).or_else(|| fresh.next()))
            .collect();
        let numbers = numbers.ok_or_else(|| CompileError::TooManyRules {
            whose: Whose::of(interface),
            rules: wanted.len(),
            why: "",
            limit: usize::from(NO_SLOT - FIRST_RULE_SLOT),
        })?;
        let mut table = Self { slots: fixed(interface) };
        let mut slots = Slots::default();
        for ((owner, slot), number) in wanted.into_iter().zip(numbers) {
            match owner {
                Owner::Nacl(direction, rule) => {
                    slots.nacl.insert((direction, rule), number);
                }
                Owner::Group(direction, v6, place, at) => {
                    slots.groups.insert((direction, v6, place, at), number);
                }
                Owner::Exemption => slots.exemptions.push(number),
            }
            table.slots.insert(number, slot);
        }
        Ok((table, slots))
    }

    /// The slots that mean something else than in `previous`, or meant nothing there: their counters start at zero.
    pub fn new_since(&self, previous: &Self) -> Vec<u16> {
        let same = |slot: u16, new: &Slot| previous.slots.get(&slot).is_some_and(|old| old.same_rule(new));
        self.slots.iter().filter(|(slot, new)| !same(**slot, new)).map(|(slot, _)| *slot).collect()
    }

    /// One more than the highest slot in use.
    pub fn len(&self) -> usize {
        self.slots.last_key_value().map_or(0, |(slot, _)| usize::from(*slot) + 1)
    }

    /// True for a table no policy was compiled into.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
