//! What decided a packet, in one type for everybody who tells it: explain, rules, labs, events. Its text form is what labs
//! expect and what is shown to people. Decides nothing.

use std::{fmt, ops::Range, str::FromStr};

use nacl_common::{
    Direction, Layer, Reason, Verdict,
    border::{FIRST_RULE_SLOT, NO_SLOT},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::slots::{Slot, SlotTable};
use crate::resolve::{GroupRule, Interface, Rule};

/// What decided a packet.
///
/// Written as `inbound 100`, `outbound *`, `sg-3 inbound 1`, `inbound sg *`, `inbound tracked`, `same-subnet`, or the name
/// of the reason where no rule was asked: `dhcp`, `aws-service`, `conntrack-full`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// A numbered rule of the network ACL.
    Nacl {
        /// Its list.
        direction: Direction,
        /// Its number.
        number: u16,
    },
    /// The implied `*` rule of the network ACL.
    NaclImplied {
        /// Its list.
        direction: Direction,
    },
    /// A rule of a security group.
    Group {
        /// Name of the group.
        group: String,
        /// Its list.
        direction: Direction,
        /// Its place among the group's rules of that direction, from 1.
        position: u16,
    },
    /// No rule of any of the interface's security groups matched.
    GroupImplied {
        /// Direction of the packet.
        direction: Direction,
    },
    /// A remembered connection.
    Tracked {
        /// Direction of the packet.
        direction: Direction,
    },
    /// Both ends lie in one subnet, where the network ACL is never consulted (N42).
    SameSubnet,
    /// No list: an exemption, or a packet that cannot be judged.
    Unlisted(Reason),
}

/// A rule as it stands in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written<'a> {
    /// Of a network ACL.
    Nacl(&'a Rule),
    /// Of a security group.
    Group(&'a GroupRule),
}

impl Written<'_> {
    /// Its line in the policy file, from 1; 0 for rules that AWS makes by itself.
    pub const fn line(&self) -> usize {
        match self {
            Self::Nacl(rule) => rule.line,
            Self::Group(rule) => rule.line,
        }
    }

    /// Its bytes in the policy text; empty for rules that AWS makes by itself.
    pub fn span(&self) -> Range<usize> {
        match self {
            Self::Nacl(rule) => rule.span.clone(),
            Self::Group(rule) => rule.span.clone(),
        }
    }
}

/// A text that names nothing that can decide.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} names nothing that decides: write `inbound 100` or `outbound *` (network ACL), `sg-3 inbound 1` or `inbound sg *` (security groups), `inbound tracked`, `same-subnet`, or a reason such as `dhcp`"
)]
pub struct NoDecider(String);

impl Decider {
    /// The layer that it stands for.
    pub const fn layer(&self) -> Layer {
        match self {
            Self::Nacl { .. } | Self::NaclImplied { .. } | Self::SameSubnet => Layer::Nacl,
            Self::Group { .. } | Self::GroupImplied { .. } => Layer::SecurityGroup,
            Self::Tracked { .. } | Self::Unlisted(_) => Layer::None,
        }
    }

    /// The rule it is, where it is one that is written.
    pub fn written<'a>(&self, interface: &'a Interface) -> Option<Written<'a>> {
        match self {
            Self::Nacl { direction, number } => {
                let mut rules = interface.nacl.rules(*direction).iter();
                rules.find(|rule| rule.number == *number).map(Written::Nacl)
            }
            Self::Group { group, direction, position } => {
                let group = interface.groups.iter().flatten().find(|one| one.name == *group)?;
                group.rules(*direction).get(usize::from(*position).checked_sub(1)?).map(Written::Group)
            }
            _ => None,
        }
    }
}

impl Decider {
    /// What a slot of a verdict or event stands for. `meaning`: of the slot, where it is known; `reason`: that of the
    /// verdict, for packets that no list decided.
    pub fn of(slot: u16, meaning: Option<&Slot>, reason: Reason) -> Self {
        if slot < FIRST_RULE_SLOT {
            let direction = if slot & 2 == 0 { Direction::Inbound } else { Direction::Outbound };
            return match slot >> 2 {
                0 => Self::NaclImplied { direction },
                1 => Self::SameSubnet,
                2 => Self::GroupImplied { direction },
                _ => Self::Tracked { direction },
            };
        }
        let Some(meaning) = meaning else { return Self::Unlisted(reason) };
        let direction = meaning.direction;
        match (meaning.rule, meaning.position) {
            (Some(number), _) => Self::Nacl { direction, number },
            (None, Some(position)) => Self::Group { group: meaning.name.clone(), direction, position },
            // An exemption, also where a first fragment shared it with the later ones.
            (None, None) if meaning.line == 0 => Self::Unlisted(Reason::AwsService),
            (None, None) => Self::Unlisted(Reason::Failsafe),
        }
    }
}

impl SlotTable {
    /// As [`Decider::of`], by what the slot means here.
    pub fn decider(&self, slot: u16, reason: Reason) -> Decider {
        Decider::of(slot, self.slots.get(&slot), reason)
    }

    /// All that had a say in a verdict: what decided, then the other layer where it was asked before and let the packet pass.
    pub fn deciders(&self, verdict: &Verdict) -> Vec<Decider> {
        let mut all = vec![self.decider(verdict.slot, verdict.reason)];
        if verdict.also != NO_SLOT {
            all.push(self.decider(verdict.also, verdict.reason));
        }
        all
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nacl { direction, number } => write!(f, "{} {number}", direction.name()),
            Self::NaclImplied { direction } => write!(f, "{} *", direction.name()),
            Self::Group { group, direction, position } => write!(f, "{group} {} {position}", direction.name()),
            Self::GroupImplied { direction } => write!(f, "{} sg *", direction.name()),
            Self::Tracked { direction } => write!(f, "{} tracked", direction.name()),
            Self::SameSubnet => f.write_str("same-subnet"),
            Self::Unlisted(reason) => f.write_str(reason.name()),
        }
    }
}

impl FromStr for Decider {
    type Err = NoDecider;

    fn from_str(text: &str) -> Result<Self, NoDecider> {
        let none = || NoDecider(text.to_owned());
        let way = |name: &str| Direction::ALL.into_iter().find(|direction| direction.name() == name);
        let Some((before, last)) = text.rsplit_once(' ') else {
            // These are how rules decide, and not what decides.
            const OF_RULES: [Reason; 5] =
                [Reason::NaclRule, Reason::NaclImplicit, Reason::GroupRule, Reason::GroupImplicit, Reason::Tracked];
            let reason = Reason::ALL.iter().find(|reason| reason.name() == text && !OF_RULES.contains(reason));
            return match reason {
                Some(Reason::SameSubnet) => Ok(Self::SameSubnet),
                Some(reason) => Ok(Self::Unlisted(*reason)),
                None => Err(none()),
            };
        };
        if let Some(direction) = way(before) {
            return match last {
                "*" => Ok(Self::NaclImplied { direction }),
                "tracked" => Ok(Self::Tracked { direction }),
                number => number.parse().map(|number| Self::Nacl { direction, number }).map_err(|_| none()),
            };
        }
        // A group's name may have blanks in it (S8), so the rule is read from the end.
        let (name, second) = before.rsplit_once(' ').ok_or_else(none)?;
        if (second, last) == ("sg", "*") {
            return way(name).map(|direction| Self::GroupImplied { direction }).ok_or_else(none);
        }
        match (way(second), last.parse()) {
            (Some(direction), Ok(position)) if position > 0 && !name.is_empty() => {
                Ok(Self::Group { group: name.to_owned(), direction, position })
            }
            _ => Err(none()),
        }
    }
}

impl Serialize for Decider {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Decider {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use nacl_common::border::{group_implicit_slot, implicit_slot, same_subnet_slot, tracked_slot};

    use super::*;

    #[test]
    fn text_forms_are_read_back() {
        let direction = Direction::Inbound;
        let group = |group: &str, position| Decider::Group { group: group.to_owned(), direction, position };
        for (text, decider) in [
            ("inbound 100", Decider::Nacl { direction, number: 100 }),
            ("outbound *", Decider::NaclImplied { direction: Direction::Outbound }),
            ("sg-3 inbound 1", group("sg-3", 1)),
            ("the web servers inbound 12", group("the web servers", 12)),
            ("inbound inbound 2", group("inbound", 2)),
            ("inbound sg *", Decider::GroupImplied { direction }),
            ("inbound tracked", Decider::Tracked { direction }),
            ("same-subnet", Decider::SameSubnet),
            ("dhcp", Decider::Unlisted(Reason::Dhcp)),
        ] {
            assert_eq!(text.parse(), Ok(decider.clone()), "{text}");
            assert_eq!(decider.to_string(), text);
        }
        for text in ["", "100", "inbound", "inbound x", "sg-3 inbound 0", "sg-3 sideways 1", "nacl-rule", "in sg *"] {
            assert!(text.parse::<Decider>().is_err(), "{text}");
        }
    }

    #[test]
    fn fixed_slots_need_no_table() {
        let table = SlotTable::default();
        for direction in Direction::ALL {
            for v6 in [false, true] {
                let decider = |slot| table.decider(slot, Reason::NaclRule);
                assert_eq!(decider(implicit_slot(direction, v6)), Decider::NaclImplied { direction });
                assert_eq!(decider(same_subnet_slot(direction, v6)), Decider::SameSubnet);
                assert_eq!(decider(group_implicit_slot(direction, v6)), Decider::GroupImplied { direction });
                assert_eq!(decider(tracked_slot(direction, v6)), Decider::Tracked { direction });
            }
        }
        assert_eq!(table.decider(NO_SLOT, Reason::ConntrackFull), Decider::Unlisted(Reason::ConntrackFull));
    }
}
