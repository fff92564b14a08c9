//! What can go wrong with the kernel, each in words that say what to do. Nothing is tried here.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError};
use thiserror::Error;

/// What can go wrong with the kernel.
#[derive(Debug, Error)]
pub enum DataplaneError {
    /// Built without the kernel programs.
    #[error("this nacld was built without its kernel programs; build it with: cargo xtask build")]
    NotBuiltIn,
    /// A capability is missing.
    #[error("no privilege to {what}: {capability} is missing; run as root, or grant it")]
    NoPrivilege {
        /// What was to be done.
        what: &'static str,
        /// The capabilities that are missing.
        capability: String,
    },
    /// The kernel lacks something.
    #[error("this kernel ({kernel}) is too old: {missing}")]
    KernelTooOld {
        /// Its version.
        kernel: String,
        /// What it lacks.
        missing: String,
    },
    /// The namespace cannot be entered.
    #[error("network namespace {name:?}: {source}")]
    Namespace {
        /// Its name.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("there is no interface {name:?}{}", in_namespace(.netns.as_deref()))]
    NoInterface {
        /// Its name.
        name: String,
        /// Where it was looked for.
        netns: Option<String>,
    },
    /// The interface does not carry Ethernet frames.
    #[error("interface {name:?} is not Ethernet but {kind}; nacld judges Ethernet frames only")]
    NotEthernet {
        /// Its name.
        name: String,
        /// What it is.
        kind: String,
    },
    /// Another XDP program has the interface.
    #[error("interface {name:?} already has an XDP program: {owner}; detach it, or use xdp = \"auto\" or \"tc\"")]
    XdpTaken {
        /// Name of the interface.
        name: String,
        /// Whose program it is, as far as could be found out.
        owner: String,
    },
    /// Native XDP was asked for and cannot be had.
    #[error("no native XDP on interface {name:?}: {why}; use xdp = \"auto\" or \"tc\"")]
    NoNativeXdp {
        /// Name of the interface.
        name: String,
        /// Why not.
        why: String,
    },
    /// The kernel refused to attach a program.
    #[error("{program} cannot be attached to interface {name:?}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// Name of the interface.
        name: String,
        /// Why not.
        source: ProgramError,
    },
    /// The programs could not be taken off cleanly.
    #[error("taking the programs off interface {interface:?}: {source}")]
    Detach {
        /// Name of the interface.
        interface: String,
        /// Why not.
        source: io::Error,
    },
    /// More rule slots than the counters loaded for this interface have.
    #[error(
        "this policy needs {needed} rule counters and the programs on this interface were loaded with {there}; restart nacld to load them with more"
    )]
    TooManySlots {
        /// Slots needed.
        needed: u32,
        /// Slots there are.
        there: u32,
    },
    /// The policy wants another size of the connection table than was loaded for this interface.
    #[error(
        "this policy wants room for {needed} connections (`[tracking] entries`) and the table of this interface was made for {there}; restart nacld to make another"
    )]
    TableSize {
        /// Connections wanted.
        needed: u32,
        /// Connections there is room for.
        there: u32,
    },
    /// Somebody else is in charge of the interface.
    #[error("interface {device:?} is held already by {holder}")]
    Held {
        /// The interface.
        device: String,
        /// Who it is, as they wrote it down.
        holder: String,
    },
    /// A change awaits confirmation.
    #[error("a change awaits confirmation, and another one cannot begin")]
    Pending,
    /// A place for pins or records cannot be had.
    #[error("cannot use {} for what is to outlive this process: {source}", path.display())]
    Store {
        /// The place.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No bpffs could be mounted.
    #[error("cannot mount a bpffs on {}: {source}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A map cannot be pinned.
    #[error("cannot pin {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: PinError,
    },
    /// The object cannot be loaded.
    #[error("the kernel programs cannot be loaded: {0}")]
    Object(#[from] EbpfError),
    /// A program cannot be loaded.
    #[error("the kernel refuses program {program}: {source}")]
    Load {
        /// The program.
        program: &'static str,
        /// Why, with what the verifier said.
        source: ProgramError,
    },
    /// A test run failed.
    #[error("BPF_PROG_TEST_RUN of {program}: {source}")]
    TestRun {
        /// The program.
        program: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// A map cannot be made, read or written.
    #[error("map {map}: {source}")]
    Map {
        /// The map.
        map: &'static str,
        /// Why not.
        source: MapError,
    },
    /// The control word cannot be mapped.
    #[error("the control word cannot be mapped into memory: {0}")]
    ControlWord(io::Error),
    /// The kernel cannot be asked.
    #[error("{what}: {source}")]
    Ask {
        /// What was asked.
        what: String,
        /// Why there is no answer.
        source: io::Error,
    },
    /// The object in this binary is not the one this code was written for.
    #[error(
        "the program returned {did}, and reported {said}: the kernel programs and this nacld do not belong together"
    )]
    Contradiction {
        /// What the program did.
        did: &'static str,
        /// What it wrote into its event.
        said: String,
    },
    /// The object in this binary is not the one this code was written for.
    #[error("the built-in kernel programs lack {0}; build nacld again with: cargo xtask build")]
    Lacks(&'static str),
}

fn in_namespace(netns: Option<&str>) -> String {
    netns.map_or_else(String::new, |netns| format!(" in network namespace {netns:?}"))
}
