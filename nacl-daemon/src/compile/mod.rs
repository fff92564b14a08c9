//! Resolved rules → one [`Compiled`]: a generation (class tables) and the table of rule slots. Pure and deterministic:
//! the same rules and the same previous slots give the same bytes. No I/O.

mod classes;
mod decider;
mod image;
mod slots;

use std::sync::Arc;

use nacl_common::{
    Control, Direction, Packet, Verdict,
    border::{Large, Medium, Small, Tier},
    evaluate::{self, At, Judged, Memory},
};
use thiserror::Error;

pub(crate) use self::slots::names as serde_names;
pub use self::{
    decider::{Decider, NoDecider},
    slots::{Slot, SlotTable},
};
use crate::resolve::{Interface, Layers, Mode, Resolved};

/// A compiled policy of one interface.
#[derive(Clone)]
pub struct Compiled {
    /// The tables.
    pub generation: Generation,
    /// What each slot means.
    pub slots: SlotTable,
    /// Bits of the control word that belong to it: mode, layers and exemptions, as [`flags`] of the interface.
    pub flags: u64,
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
    /// Judges a packet exactly as the kernel program does when it remembers nothing: as the first of its flow.
    pub fn judge(&self, direction: Direction, packet: &Packet) -> Verdict {
        let at = At { control: Control(self.flags | Control::FORGETFUL), ..At::default() };
        self.judge_with(&at, direction, packet, Memory::default()).verdict
    }

    /// Judges a packet with what is remembered of its connection, and says what to remember.
    pub fn judge_with(&self, at: &At, direction: Direction, packet: &Packet, memory: Memory<'_>) -> Judged {
        match &self.generation {
            Generation::Small(image) => evaluate::judge(&**image, at, direction, packet, memory),
            Generation::Medium(image) => evaluate::judge(&**image, at, direction, packet, memory),
            Generation::Large(image) => evaluate::judge(&**image, at, direction, packet, memory),
        }
    }
}

/// The bits of the control word that follow from the policy alone: mode, layers, exemptions.
pub const fn flags(interface: &Interface) -> u64 {
    let mut flags = 0;
    if matches!(interface.mode, Mode::Stateful) {
        flags |= Control::STATEFUL;
    }
    if !matches!(interface.layers, Layers::Groups) {
        flags |= Control::NACL;
    }
    if interface.groups.is_some() && !matches!(interface.layers, Layers::Nacl) {
        flags |= Control::GROUPS;
    }
    if interface.aws {
        flags |= Control::AWS;
    }
    flags
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
    Ok(Compiled { generation, slots, flags: flags(interface) })
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
