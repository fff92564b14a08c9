//! What a daemon tells of itself.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{BrokenCount, BrokenReturn, Tracking, names};
use crate::resolve::{Interface, Layers, Mode, OnExit, Side};

/// An interface by all its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name in the policy.
    pub interface: String,
    /// Device.
    pub device: String,
    /// Network namespace; `None`: the daemon's own.
    pub netns: Option<String>,
}

/// What can be set while it is enforced: a mode, which layers judge, and whether what they deny is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Whether the network ACL remembers connections.
    #[serde(with = "names::mode")]
    pub mode: Mode,
    /// Which layers judge.
    #[serde(with = "names::layers")]
    pub layers: Layers,
    /// False in monitor mode: judged, counted and reported, and nothing is dropped.
    pub enforce: bool,
}

impl Setting {
    /// As an interface has it.
    pub const fn of(interface: &Interface) -> Self {
        Self { mode: interface.mode, layers: interface.layers, enforce: interface.enforce }
    }

    /// An interface with this in force.
    pub fn on(self, interface: &Interface) -> Interface {
        let Self { mode, layers, enforce } = self;
        Interface { mode, layers, enforce, ..interface.clone() }
    }
}

/// A change of a [`Setting`]: what is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettingChange {
    /// Whether the network ACL remembers connections.
    pub mode: Option<Mode>,
    /// Which layers judge.
    pub layers: Option<Layers>,
    /// Whether what they deny is dropped.
    pub enforce: Option<bool>,
}

impl SettingChange {
    /// A setting, changed.
    pub fn of(self, before: Setting) -> Setting {
        let Self { mode, layers, enforce } = self;
        Setting {
            mode: mode.unwrap_or(before.mode),
            layers: layers.unwrap_or(before.layers),
            enforce: enforce.unwrap_or(before.enforce),
        }
    }
}

/// The setting in force, and what the policy says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modes {
    /// In force. Another one than the policy's was set live, and holds until the next reload.
    #[serde(flatten)]
    pub in_force: Setting,
    /// As the policy has it.
    pub policy: Setting,
}

/// The mode of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceModes {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// What is in force.
    #[serde(flatten)]
    pub modes: Modes,
    /// Names of its security groups; null where it has none, and that layer is off.
    pub groups: Option<Vec<String>>,
    /// Number of the policy and settings in force, counted up by every switch.
    pub epoch: u32,
}

/// How the programs are attached to an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Index of the interface in its namespace.
    pub ifindex: u32,
    /// `xdp native`, `xdp generic` or `tc`; with tc also `tcx` or `clsact`.
    pub ingress: String,
    /// Why ingress is not native XDP, where that was tried first.
    pub fallback: Option<String>,
    /// `tcx` or `clsact`.
    pub egress: String,
    /// Kernel ids of the programs, ingress then egress.
    pub programs: Vec<u32>,
}

/// What an interface takes in the kernel, in bytes, by the kernel's own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The tables in force and those before them; interfaces with equal ones share them.
    pub generations: u64,
    /// Counters of rules and reasons, of all CPUs.
    pub counters: u64,
    /// What is remembered of connections and fragments, and the room kept for it.
    pub connections: u64,
    /// Everything else: the ring of events, above all.
    pub other: u64,
}

/// One interface a policy is enforced on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<IpAddr>,
    /// Name of its subnet.
    pub subnet: Option<String>,
    /// Name of the network ACL.
    pub nacl: String,
    /// AWS's id of it.
    pub nacl_id: Option<String>,
    /// Mode, layers and whether it is enforced.
    #[serde(flatten)]
    pub modes: Modes,
    /// Names of its security groups; null where it has none, and that layer is off.
    pub groups: Option<Vec<String>>,
    /// What is remembered of connections.
    pub conntrack: Tracking,
    /// Which way the interface looks.
    #[serde(with = "names::side")]
    pub side: Side,
    /// How it is attached.
    pub hooks: Hooks,
    /// Number of the policy in force, counted up by every switch.
    pub epoch: u32,
    /// Packets that were allowed, and packets that were denied.
    pub packets: Totals,
    /// What it takes in the kernel.
    pub memory: Memory,
    /// What a person should know about it.
    pub notes: Vec<String>,
}

/// Packets by action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Passed.
    pub allowed: u64,
    /// Denied by the policy, or dropped because they could not be judged.
    pub denied: u64,
}

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The file it was read from.
    pub file: PathBuf,
    /// SHA-256 of its text.
    pub sha256: String,
    /// When it was read, RFC 3339.
    pub loaded: String,
}

/// How the last reload went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// When, RFC 3339.
    pub time: String,
    /// Whether the new policy is in force.
    pub ok: bool,
    /// Why not.
    pub error: Option<String>,
    /// What was noticed about the file, as text; empty where nothing was.
    #[serde(default)]
    pub diagnostics: String,
}

/// A daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of nacld.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Since when, RFC 3339.
    pub started: String,
    /// When it will detach by itself, RFC 3339; null for never.
    pub until: Option<String>,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// The last reload; null if there was none.
    pub last_reload: Option<ReloadStatus>,
    /// A change that awaits confirmation; null where none does.
    pub pending: Option<PendingStatus>,
    /// What a person must know, and do something about.
    pub problems: Vec<String>,
    /// Flows whose requests pass and whose replies do not; what was met last comes first.
    #[serde(default)]
    pub broken: Vec<BrokenReturn>,
    /// How many of them there ever were.
    #[serde(default)]
    pub broken_counts: Vec<BrokenCount>,
    /// What becomes of it all when the daemon ends: `detach` or `keep`.
    #[serde(with = "names::on_exit")]
    pub on_exit: OnExit,
    /// Where it is enforced.
    pub interfaces: Vec<InterfaceStatus>,
    /// Where it is to be enforced and is not: interfaces that are not here, or cannot be attached to. They are waited for.
    pub absent: Vec<Absent>,
}

/// An interface of the policy that nothing is enforced on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// Why it cannot be attached to; null where it is not here.
    pub why: Option<String>,
}

/// What is in force and where, in brief: for whoever is told of every switch, and must not pay for a whole [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brief {
    /// The file of the policy.
    pub file: PathBuf,
    /// SHA-256 of its text.
    pub sha256: String,
    /// Where it is enforced.
    pub interfaces: Vec<BriefInterface>,
    /// What is waited for.
    pub absent: Vec<Place>,
}

/// One interface of a [`Brief`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BriefInterface {
    /// By all its names.
    pub place: Place,
    /// Number of the policy in force, counted up by every switch.
    pub epoch: u32,
    /// False: judged and counted, and nothing is dropped.
    pub enforce: bool,
}

/// A change that is undone unless it is confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingStatus {
    /// When it is undone, RFC 3339.
    pub until: String,
    /// Seconds until then.
    pub seconds_left: u64,
}

/// Something that happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It came, and is enforced.
    Came(Place),
    /// It went. It is waited for.
    Went(Place),
    /// It has another name now. It is enforced as before.
    Renamed(Place),
    /// It is here, and cannot be attached to. It is tried again.
    Failed(Place, String),
}

/// What a switch did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Interfaces newly attached.
    pub attached: Vec<String>,
    /// Interfaces that were switched.
    pub switched: Vec<String>,
    /// Interfaces that are not here, and waited for.
    pub waiting: Vec<String>,
    /// Interfaces the policy no longer names, detached.
    pub detached: Vec<String>,
    /// Interfaces whose mode, layers or enforcement were changed by it.
    pub modes: Vec<ModeChange>,
    /// What went wrong after the switch: programs that could not be taken off.
    pub problems: Vec<String>,
}

/// A setting that a reload changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeChange {
    /// Name of the interface in the policy.
    pub interface: String,
    /// What was in force.
    pub before: Setting,
    /// What is in force now.
    pub now: Setting,
    /// What was in force had been set live.
    pub live: bool,
}
