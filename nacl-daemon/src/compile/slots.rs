//! Which counter slot belongs to which rule, and for how long. A rule that stays the same keeps its slot over reloads, so
//! its counter does not jump; a slot that becomes free is left alone for one generation, so that a late packet or
//! event of the old policy is never booked on a new rule.

use std::collections::{BTreeMap, HashMap};

use nacl_common::{
    Action, Direction, Family, Layer,
    border::{FIRST_RULE_SLOT, NO_SLOT, implicit_slot, same_subnet_slot},
};
use serde::{Deserialize, Serialize};

use super::CompileError;
use crate::resolve::{Interface, Protocol, Rule};

/// What the slots of an interface's counters mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTable {
    /// Slots in use, by number.
    pub slots: BTreeMap<u16, Slot>,
}

/// One slot: a numbered rule, the implied `*` of a list, or traffic inside the subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Direction of its list.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// Family it matches.
    #[serde(with = "names::family")]
    pub family: Family,
    /// The layer it belongs to; [`Layer::None`] for exemptions.
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
    /// What the rule matches, canonically: two rules are the same if direction, network ACL, number, action and this are.
    pub matches: String,
}

impl Slot {
    /// Whether two slots are of one rule. Its line, and its place in a group, may change without it.
    pub fn same_rule(&self, other: &Self) -> bool {
        // Destructured, so that a new field makes one think about identity. The line, and the place in a group, may change without the rule.
        let Self { direction, family, layer, name, rule, position: _, action, line: _, matches } = self;
        (direction, family, layer, name, rule, action, matches)
            == (&other.direction, &other.family, &other.layer, &other.name, &other.rule, &other.action, &other.matches)
    }
}

/// Family of a rule: that of its CIDR (N24).
pub(super) fn family(rule: &Rule) -> Family {
    if rule.cidr.addr().is_ipv4() { Family::V4 } else { Family::V6 }
}

fn describe(rule: &Rule) -> String {
    let protocol = match rule.protocol {
        Protocol::All => "all".to_owned(),
        Protocol::Number(number) => number.to_string(),
    };
    let ports = rule.ports.map(|(first, last)| format!(" {first}-{last}")).unwrap_or_default();
    let icmp = rule
        .icmp
        .map(|icmp| format!(" type {} code {}", icmp.kind, icmp.code.map_or("all".to_owned(), |code| code.to_string())))
        .unwrap_or_default();
    format!("{protocol}{ports}{icmp} {}", rule.cidr)
}

impl SlotTable {
    /// Gives every rule of an interface its slot.
    ///
    /// # Errors
    /// More rules than there are slots.
    pub(super) fn assign(interface: &Interface, previous: Option<&Self>) -> Result<Self, CompileError> {
        let empty = Self::default();
        let previous = previous.unwrap_or(&empty);
        // Keyed by number, of which a direction has one rule: 5000 rules must not be compared with 5000.
        let old: HashMap<_, _> =
            previous.slots.iter().filter_map(|(slot, old)| Some(((old.direction, old.rule?), (*slot, old)))).collect();
        let mut slots = BTreeMap::new();
        let mut fresh = (FIRST_RULE_SLOT..NO_SLOT).filter(|slot| !previous.slots.contains_key(slot));
        for direction in Direction::ALL {
            for v6 in [false, true] {
                let fixed = |action, matches: &str| Slot {
                    direction,
                    family: if v6 { Family::V6 } else { Family::V4 },
                    layer: Layer::Nacl,
                    name: interface.nacl.name.clone(),
                    rule: None,
                    position: None,
                    action,
                    line: 0,
                    matches: matches.to_owned(),
                };
                slots.insert(implicit_slot(direction, v6), fixed(Action::Deny, "*"));
                if interface.subnet_cidrs.iter().any(|cidr| cidr.addr().is_ipv6() == v6) {
                    slots.insert(same_subnet_slot(direction, v6), fixed(Action::Allow, "same subnet"));
                }
            }
            for rule in interface.nacl.rules(direction) {
                let new = Slot {
                    direction,
                    family: family(rule),
                    layer: Layer::Nacl,
                    name: interface.nacl.name.clone(),
                    rule: Some(rule.number),
                    position: None,
                    action: rule.action,
                    line: rule.line,
                    matches: describe(rule),
                };
                let kept = old.get(&(direction, rule.number)).filter(|(_, old)| old.same_rule(&new));
                let slot =
                    kept.map(|(slot, _)| *slot).or_else(|| fresh.next()).ok_or_else(|| CompileError::TooManyRules {
                        nacl: interface.nacl.name.clone(),
                        rules: interface.nacl.inbound.len() + interface.nacl.outbound.len(),
                        why: "",
                        limit: usize::from(NO_SLOT - FIRST_RULE_SLOT),
                    })?;
                slots.insert(slot, new);
            }
        }
        Ok(Self { slots })
    }

    /// The slots that mean something else than in `previous`, or meant nothing there: their counters start at zero.
    pub fn new_since(&self, previous: &Self) -> Vec<u16> {
        let same = |slot: u16, new: &Slot| previous.slots.get(&slot).is_some_and(|old| old.same_rule(new));
        self.slots.iter().filter(|(slot, new)| !same(**slot, new)).map(|(slot, _)| *slot).collect()
    }

    /// Slots by direction and rule number, for one pass over a policy's rules.
    pub(super) fn by_rule(&self) -> HashMap<(Direction, u16), u16> {
        self.slots.iter().filter_map(|(slot, info)| Some(((info.direction, info.rule?), *slot))).collect()
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

pub(crate) mod names {
    //! Directions, families and actions in JSON, by the names AWS uses.
    macro_rules! by_name {
        ($module:ident, $type:ident, $($name:literal => $variant:ident),+) => {
            pub mod $module {
                use nacl_common::$type;
                use serde::{Deserialize, Deserializer, Serializer, de};

                pub fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(match value { $($type::$variant => $name),+ })
                }

                pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                    let name = String::deserialize(deserializer)?;
                    match name.as_str() {
                        $($name => Ok($type::$variant),)+
                        _ => Err(de::Error::unknown_variant(&name, &[$($name),+])),
                    }
                }
            }
        };
    }
    by_name!(direction, Direction, "inbound" => Inbound, "outbound" => Outbound);
    by_name!(family, Family, "ipv4" => V4, "ipv6" => V6);
    by_name!(action, Action, "allow" => Allow, "deny" => Deny);
    by_name!(layer, Layer, "none" => None, "nacl" => Nacl, "security-group" => SecurityGroup);
}
