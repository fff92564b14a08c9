//! Resolved rules → one [`Compiled`]: a generation (class tables) and the table of rule slots. Pure and deterministic:
//! the same rules and the same previous slots give the same bytes. No I/O.

use std::collections::BTreeMap;

use nacl_common::{
    Action, Direction, Family, Packet, Verdict,
    border::{Large, Medium, Small, Tier},
    evaluate,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::resolve::Interface;

/// A compiled policy of one interface.
#[derive(Clone)]
pub struct Compiled {
    /// The tables.
    pub generation: Generation,
    /// What each slot means.
    pub slots: SlotTable,
}

/// A generation of any tier, boxed.
#[derive(Clone)]
pub enum Generation {
    /// See [`Tier::Small`].
    Small(Box<Small>),
    /// See [`Tier::Medium`].
    Medium(Box<Medium>),
    /// See [`Tier::Large`].
    Large(Box<Large>),
}

impl Generation {
    /// Its tier.
    pub const fn tier(&self) -> Tier {
        match self {
            Self::Small(_) => Tier::Small,
            Self::Medium(_) => Tier::Medium,
            Self::Large(_) => Tier::Large,
        }
    }
}

impl Compiled {
    /// Judges a packet exactly as the kernel program does.
    pub fn judge(&self, direction: Direction, packet: &Packet) -> Verdict {
        match &self.generation {
            Generation::Small(image) => evaluate::judge(&**image, direction, packet),
            Generation::Medium(image) => evaluate::judge(&**image, direction, packet),
            Generation::Large(image) => evaluate::judge(&**image, direction, packet),
        }
    }
}

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
    #[serde(with = "serde_names::direction")]
    pub direction: Direction,
    /// Family it matches.
    #[serde(with = "serde_names::family")]
    pub family: Family,
    /// Name of the network ACL.
    pub nacl: String,
    /// Rule number; `None` for `*` and for traffic inside the subnet.
    pub rule: Option<u16>,
    /// What it does.
    #[serde(with = "serde_names::action")]
    pub action: Action,
    /// Line in the policy file, 0 for what AWS adds by itself.
    pub line: usize,
}

/// A policy that cannot be compiled.
#[derive(Debug, Error)]
pub enum CompileError {
    /// The tables are larger than the largest tier.
    #[error(
        "network ACL {nacl:?} needs {needed} bytes of {what}, and the largest tier holds {limit}; use fewer rules or fewer distinct CIDRs and ports"
    )]
    TooLarge {
        /// Name of the network ACL.
        nacl: String,
        /// Which region overflowed.
        what: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        limit: usize,
    },
    /// More rules than slots.
    #[error("network ACL {nacl:?} has {rules} rules, and an interface can count {limit}")]
    TooManyRules {
        /// Name of the network ACL.
        nacl: String,
        /// Rules in both directions.
        rules: usize,
        /// Slots there are.
        limit: usize,
    },
}

/// Compiles what one interface enforces. `previous`: the slot table in force, so that unchanged rules keep their slots
/// and freed slots are not given to other rules at once.
///
/// # Errors
/// See [`CompileError`].
pub fn compile(interface: &Interface, previous: Option<&SlotTable>) -> Result<Compiled, CompileError> {
    let _ = (interface, previous);
    unreachable!("under construction")
}

mod serde_names {
    //! Directions, families and actions in JSON, by the names AWS uses.
    macro_rules! by_name {
        ($module:ident, $type:ty, $($name:literal => $value:path),+) => {
            pub mod $module {
                use serde::{Deserialize, Deserializer, Serializer, de};

                pub fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(match value { $($value => $name),+ })
                }

                pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                    let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                    match &*name {
                        $($name => Ok($value),)+
                        _ => Err(de::Error::unknown_variant(&name, &[$($name),+])),
                    }
                }
            }
        };
    }
    by_name!(direction, nacl_common::Direction, "inbound" => nacl_common::Direction::Inbound, "outbound" => nacl_common::Direction::Outbound);
    by_name!(family, nacl_common::Family, "ipv4" => nacl_common::Family::V4, "ipv6" => nacl_common::Family::V6);
    by_name!(action, nacl_common::Action, "allow" => nacl_common::Action::Allow, "deny" => nacl_common::Action::Deny);
}
