//! Resolved rules → one [`Compiled`]: a generation (class tables) and the table of rule slots. Pure and deterministic:
//! the same rules and the same previous slots give the same bytes. No I/O.

mod classes;
mod decider;
mod image;
mod slots;

use std::{fmt, sync::Arc};

use nacl_common::{
    Control, Direction, Family, Layer, Packet, Verdict,
    border::{ALLOW, Entry, LISTS, Large, Medium, NO_SLOT, Small, Tier},
    evaluate::{self, At, Judged, Memory, Says},
    tables::Image,
};
use thiserror::Error;

pub(crate) use self::classes::{List, Set, join};
pub use self::{
    decider::{Decider, NoDecider, Written},
    slots::{Slot, SlotTable},
};
use crate::resolve::{Group, Interface, Layers, Mode, Resolved};

/// A compiled policy of one interface.
#[derive(Clone)]
pub struct Compiled {
    /// The tables.
    pub generation: Generation,
    /// SHA-256 of what is laid out in them: equal generations are one in the kernel.
    pub digest: [u8; 32],
    /// What each slot means.
    pub slots: Arc<SlotTable>,
    /// Bits of the control word that belong to it: mode, layers and exemptions, as [`flags`] of the interface.
    pub flags: u64,
}

/// A generation of any tier, shared by all who enforce it.
#[derive(Clone)]
pub enum Generation {
    /// See [`Tier::Small`].
    Small(Arc<Small>),
    /// See [`Tier::Medium`].
    Medium(Arc<Medium>),
    /// See [`Tier::Large`].
    Large(Arc<Large>),
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

    /// What each layer that is on says of a packet, also one that is not asked because the one before it denies; in the order
    /// in which they are asked (O1). None says anything of what passes unjudged. `found`: what is remembered of its
    /// connection.
    pub fn says(&self, at: &At, direction: Direction, packet: &Packet, found: Option<&Entry>) -> Vec<(Layer, Says)> {
        match &self.generation {
            Generation::Small(image) => says(&**image, at, direction, packet, found),
            Generation::Medium(image) => says(&**image, at, direction, packet, found),
            Generation::Large(image) => says(&**image, at, direction, packet, found),
        }
    }
}

fn says<I: Image>(
    image: &I,
    at: &At,
    direction: Direction,
    packet: &Packet,
    found: Option<&Entry>,
) -> Vec<(Layer, Says)> {
    let question = evaluate::question(at.control, direction, packet);
    let known = evaluate::know(at, direction, packet, &question, Memory { trackable: true, found, shared: None });
    let answers = evaluate::ask(image, at.control, packet, &question, known);
    if question.exempt != 0 || answers.exempt & u32::from(ALLOW) != 0 {
        return Vec::new();
    }
    let mut both = vec![
        (Layer::Nacl, answers.nacl(direction, packet.family == Family::V6)),
        (Layer::SecurityGroup, answers.groups(&image.header().open, &question)),
    ];
    if direction == Direction::Outbound {
        both.reverse();
    }
    both.retain(|(_, says)| says.slot != NO_SLOT);
    both
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

/// Whose rules are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A network ACL's.
    Nacl(String),
    /// These security groups', which an interface has together.
    Groups(Vec<String>),
    /// Both.
    Both(String, Vec<String>),
    /// Those that pass unjudged.
    Exemptions,
}

impl Whose {
    fn of(interface: &Interface) -> Self {
        let nacl = interface.nacl.name.clone();
        match &interface.groups {
            Some(groups) if !groups.is_empty() => Self::Both(nacl, names(groups)),
            _ => Self::Nacl(nacl),
        }
    }

    /// Whose the list at this place of a header is.
    fn list(interface: &Interface, index: usize) -> Self {
        match index / 4 {
            0 => Self::Nacl(interface.nacl.name.clone()),
            1 => Self::Groups(interface.groups.as_deref().map(names).unwrap_or_default()),
            _ => Self::Exemptions,
        }
    }
}

fn names(groups: &[Arc<Group>]) -> Vec<String> {
    groups.iter().map(|group| group.name.clone()).collect()
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nacl, groups) = match self {
            Self::Nacl(nacl) => (Some(nacl), [].as_slice()),
            Self::Groups(groups) => (None, groups.as_slice()),
            Self::Both(nacl, groups) => (Some(nacl), groups.as_slice()),
            Self::Exemptions => return f.write_str("exemptions"),
        };
        if let Some(nacl) = nacl {
            write!(f, "network ACL {nacl:?}{}", if groups.is_empty() { "" } else { " and " })?;
        }
        if !groups.is_empty() {
            f.write_str(if groups.len() == 1 { "security group " } else { "security groups " })?;
        }
        for (index, group) in groups.iter().enumerate() {
            write!(f, "{}{group:?}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// A policy that cannot be compiled.
#[derive(Debug, Error)]
pub enum CompileError {
    /// The tables are larger than the largest tier.
    #[error(
        "the rules of {whose} need {own} bytes of {what}, {needed} with all others of the interface, and the largest tier holds {limit}; use fewer rules or fewer distinct CIDRs and ports"
    )]
    TooLarge {
        /// Whose rules need most of it.
        whose: Whose,
        /// Which region overflowed.
        what: &'static str,
        /// Bytes these rules need.
        own: usize,
        /// Bytes needed for all.
        needed: usize,
        /// Bytes there are.
        limit: usize,
    },
    /// More rules than slots, or than a row has bits.
    #[error(
        "{whose}: {rules} rules{why}, and at most {limit} can be enforced; use fewer rules, or fewer distinct CIDRs and ports"
    )]
    TooManyRules {
        /// Whose rules.
        whose: Whose,
        /// Rules there are, of both families.
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
    let (slots, given) = SlotTable::assign(interface, previous)?;
    let lists = classes::lists(interface, &given);
    let (generation, digest) = image::build(interface, &lists)?;
    Ok(Compiled { generation, digest, slots: Arc::new(slots), flags: flags(interface) })
}

/// The lists an interface was compiled from, by their place in a header: which addresses and which L4 keys its rules tell
/// apart. For who asks about sets of packets, and must know where verdicts can change.
pub(crate) fn lists(interface: &Interface, compiled: &Compiled) -> Result<[List; LISTS], CompileError> {
    // With its own slots for the previous ones every rule has the slot it has there.
    let (_, given) = SlotTable::assign(interface, Some(&compiled.slots))?;
    Ok(classes::lists(interface, &given))
}

/// Compiles one interface after the other, and those that enforce the same only once: they share tables and slots.
#[derive(Default)]
pub struct Compiler<'p> {
    done: Vec<(&'p Interface, Option<&'p Arc<SlotTable>>, Compiled)>,
}

impl<'p> Compiler<'p> {
    /// As [`compile`].
    ///
    /// # Errors
    /// See [`CompileError`].
    pub fn compile(
        &mut self,
        interface: &'p Interface,
        previous: Option<&'p Arc<SlotTable>>,
    ) -> Result<Compiled, CompileError> {
        // Tables that were compiled together are one, and are not compared.
        let same_slots = |other: Option<&Arc<SlotTable>>| match (other, previous) {
            (Some(other), Some(previous)) => Arc::ptr_eq(other, previous) || other == previous,
            (other, previous) => other.is_none() && previous.is_none(),
        };
        let same = |(other, slots, _): &&(&Interface, _, _)| {
            enforce_the_same(other, interface) && other.tracking == interface.tracking && same_slots(*slots)
        };
        if let Some((_, _, compiled)) = self.done.iter().find(same) {
            return Ok(Compiled { flags: flags(interface), ..compiled.clone() });
        }
        let compiled = compile(interface, previous.map(|slots| &**slots))?;
        self.done.push((interface, previous, compiled.clone()));
        Ok(compiled)
    }
}

/// Whether two interfaces have the same lists.
fn enforce_the_same(one: &Interface, other: &Interface) -> bool {
    Arc::ptr_eq(&one.nacl, &other.nacl)
        && one.subnet_cidrs == other.subnet_cidrs
        && one.groups == other.groups
        && one.exemptions == other.exemptions
}

/// Why a policy that means something cannot be enforced: interfaces whose lists no generation holds, once for those that
/// have the same.
pub fn refusals(policy: &Resolved) -> Vec<CompileError> {
    let mut seen: Vec<&Interface> = Vec::new();
    let mut refusals = Vec::new();
    for interface in policy.interfaces.values() {
        if !seen.iter().any(|other| enforce_the_same(other, interface)) {
            seen.push(interface);
            refusals.extend(compile(interface, None).err());
        }
    }
    refusals
}
