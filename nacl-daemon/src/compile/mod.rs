//! Resolved rules → one [`Compiled`]: a generation (class tables) and the table of rule slots. Pure and deterministic:
//! the same rules and the same previous slots give the same bytes. No I/O.

mod classes;
mod image;
mod slots;

use std::sync::Arc;

use nacl_common::{
    Direction, Packet, Verdict,
    border::{Large, Medium, Small, Tier},
    evaluate,
};
use thiserror::Error;

pub(crate) use self::slots::names as serde_names;
pub use self::slots::{Slot, SlotTable};
use crate::resolve::{Interface, Resolved};

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
    /// More rules than slots, or than a row has bits.
    #[error(
        "network ACL {nacl:?} has {rules} rules{why}, and at most {limit} can be enforced; use fewer rules, or fewer distinct CIDRs and ports"
    )]
    TooManyRules {
        /// Name of the network ACL.
        nacl: String,
        /// Rules there are.
        rules: usize,
        /// Which rules are counted, where it is not all of them.
        why: &'static str,
        /// Rules there can be.
        limit: usize,
    },
}

/// Compiles what one interface enforces. `previous`: the slot table in force, so that unchanged rules keep their slots
/// and freed slots are not given to other rules at once.
///
/// # Errors
/// See [`CompileError`].
pub fn compile(interface: &Interface, previous: Option<&SlotTable>) -> Result<Compiled, CompileError> {
    let slots = SlotTable::assign(interface, previous)?;
    let lists = classes::lists(interface, &slots);
    let generation = image::build(&interface.nacl.name, &lists)?;
    Ok(Compiled { generation, slots })
}

/// Why a policy that means something cannot be enforced: interfaces whose lists no generation holds, once for each network
/// ACL.
pub fn refusals(policy: &Resolved) -> Vec<CompileError> {
    let mut seen: Vec<&Interface> = Vec::new();
    let mut refusals = Vec::new();
    for interface in policy.interfaces.values() {
        // One network ACL in one subnet gives the same tables on every interface.
        let same = |other: &&Interface| {
            Arc::ptr_eq(&other.nacl, &interface.nacl) && other.subnet_cidrs == interface.subnet_cidrs
        };
        if !seen.iter().any(same) {
            seen.push(interface);
            refusals.extend(compile(interface, None).err());
        }
    }
    refusals
}
