//! The kernel side: load, attach, switch, read counters and events. The only room that imports aya. It knows compiled
//! generations and interfaces, and nothing of rules or policies.
//!
//! The object is loaded once for each interface; only equal generations are shared. Nothing is pinned: programs, maps and
//! links die with the process.

mod attach;
mod benchbed;
mod device;
mod error;
mod events;
mod generations;
mod leftovers;
mod maps;
mod memory;
mod netlink;
mod object;
mod outer;
mod testbed;

use std::{collections::BTreeMap, fs::File};

use nacl_common::{
    Control, Counter, Direction, Reason,
    border::{Entry, FlowKey},
};

pub use self::{
    attach::{Egress, Hooks, Ingress, Tc},
    benchbed::BenchBed,
    error::DataplaneError,
    events::EventReader,
    generations::generation_bytes,
    leftovers::{detach_leftovers, holders},
    maps::now,
    memory::Memory,
    object::{may_look_around, missing},
    testbed::{Program, TestBed, Wire},
};
use self::{
    maps::Maps,
    object::{Build, Object},
};
use crate::{
    compile::Compiled,
    netns,
    resolve::{Interface, Side, Tracking, Xdp},
};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Interface name.
    pub name: String,
    /// Name of its namespace under /run/netns; `None`: the one this process is in.
    pub netns: Option<String>,
}

/// Which verdicts are reported as events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    /// None.
    None,
    /// What the policy denies.
    #[default]
    Denied,
    /// Everything.
    All,
}

/// Settings of an interface. All but `xdp` and `trace` may change with [`Attachment::install`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Options {
    /// How ingress is hooked.
    pub xdp: Xdp,
    /// Which side of the link the interface is on.
    pub side: Side,
    /// False: judge and count, drop nothing.
    pub enforce: bool,
    /// Whether frames that are neither IP nor ARP are dropped.
    pub drop_non_ip: bool,
    /// What is reported.
    pub events: Events,
    /// Whether the programs log every packet (`--trace`).
    pub trace: bool,
    /// Connection tracking. How many connections there can be is settled when the programs are loaded.
    pub tracking: Tracking,
    /// Whether nothing is remembered: every packet is judged as the first of its flow.
    pub forgetful: bool,
}

impl From<&Interface> for Options {
    /// What the policy says of an interface; events of denied packets, no trace.
    fn from(interface: &Interface) -> Self {
        Self {
            xdp: interface.xdp,
            side: interface.side,
            enforce: interface.enforce,
            drop_non_ip: interface.drop_non_ip,
            events: Events::default(),
            trace: false,
            tracking: interface.tracking,
            forgetful: false,
        }
    }
}

impl Options {
    /// The flags of the control word.
    const fn flags(self) -> u64 {
        let mut flags = match self.events {
            Events::None => 0,
            Events::Denied => Control::EVENTS_DENIED,
            Events::All => Control::EVENTS_DENIED | Control::EVENTS_ALLOWED,
        };
        if self.enforce {
            flags |= Control::ENFORCE;
        }
        if self.drop_non_ip {
            flags |= Control::NON_IP_DROP;
        }
        if matches!(self.side, Side::Router) {
            flags |= Control::ROUTER;
        }
        if self.forgetful {
            flags |= Control::FORGETFUL;
        }
        flags
    }
}

/// What an interface has met since it was attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By rule slot; those that met nothing are left out.
    pub slots: BTreeMap<u16, Counter>,
    /// By reason and direction; those that met nothing are left out.
    pub reasons: BTreeMap<(Reason, Direction), Counter>,
    /// Events that were not taken, because there were too many at once.
    pub events_suppressed: u64,
}

/// Programs on one interface. Detaches when dropped.
pub struct Attachment {
    target: Target,
    /// `None` only until it is attached.
    hooks: Option<Hooks>,
    /// Programs with their links, and the index of the interface they are on; `None` once detached.
    object: Option<(Object, u32)>,
    maps: Maps,
    events: EventReader,
    /// The interface's namespace, kept open: its name may go before the interface does.
    namespace: Option<File>,
    /// Whether the clsact qdisc is ours to remove.
    made_qdisc: bool,
}

// It is kept by whatever task serves the interface.
const _: () = {
    const fn send<T: Send>() {}
    send::<Attachment>();
};

/// Loads the programs for one interface, installs the policy, then attaches ingress and egress. When any of it fails,
/// nothing stays behind.
///
/// # Errors
/// See [`DataplaneError`].
pub fn attach(target: &Target, options: &Options, compiled: &Compiled) -> Result<Attachment, DataplaneError> {
    attach_with(target, options, compiled, Tc::Auto)
}

/// As [`attach`], choosing how TC programs are attached.
///
/// # Errors
/// See [`DataplaneError`].
pub fn attach_with(
    target: &Target,
    options: &Options,
    compiled: &Compiled,
    tc: Tc,
) -> Result<Attachment, DataplaneError> {
    object::usable(target.netns.is_some())?;
    let namespace = device::open_namespace(target)?;
    // A wrong interface is said before a second is spent on loading.
    let device = device::find(target, namespace.as_ref())?;
    let mut object = Object::load(compiled, options, Build::Real)?;
    let mut maps = Maps::take(&mut object, false)?;
    maps.install(*options, compiled)?;
    let events = EventReader::take(&mut object, options.trace)?;
    // From here on `attachment` cleans up, also after half of it succeeded.
    let mut attachment =
        Attachment { target: target.clone(), hooks: None, maps, events, object: None, namespace, made_qdisc: false };
    let namespace = attachment.namespace.as_ref();
    let made_qdisc = &mut attachment.made_qdisc;
    let attached = netns::within_open(namespace, || attach::attach(&mut object, &device, options.xdp, tc, made_qdisc));
    attachment.object = Some((object, device.ifindex));
    let namespace = |source| DataplaneError::Namespace { name: target.netns.clone().unwrap_or_default(), source };
    attachment.hooks = Some(attached.map_err(namespace)??);
    Ok(attachment)
}

impl Attachment {
    /// How ingress and egress are attached.
    ///
    /// # Panics
    /// Never: an attachment that is not attached is not given out.
    pub const fn hooks(&self) -> &Hooks {
        self.hooks.as_ref().expect("attached")
    }

    /// The interface.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Switches to another policy and other settings at once, and returns the new epoch. The maps of the new
    /// generation are complete before the switch; where anything fails, the old one stays in force.
    ///
    /// # Errors
    /// See [`DataplaneError`].
    pub fn install(&mut self, options: &Options, compiled: &Compiled) -> Result<u32, DataplaneError> {
        self.maps.install(*options, compiled)
    }

    /// Changes settings alone, and returns the new epoch: `flags` are those of [`crate::compile::flags`]. One store of the
    /// control word; no packet is judged by anything between the two.
    ///
    /// # Errors
    /// The connection table is of another size than the options say.
    pub fn toggle(&mut self, options: &Options, flags: u64) -> Result<u32, DataplaneError> {
        self.maps.toggle(*options, flags)
    }

    /// Everything that is remembered of connections, expired or not, in no order. While packets come and go some may be
    /// missed.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, DataplaneError> {
        self.maps.flows()
    }

    /// Forgets the connections that `which` picks, and returns how many.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn forget(&mut self, which: &mut dyn FnMut(&FlowKey, &Entry) -> bool) -> Result<u64, DataplaneError> {
        self.maps.forget(which)
    }

    /// How many connections there is room for.
    pub const fn tracking_capacity(&self) -> u32 {
        self.maps.capacity()
    }

    /// The counters, summed over all CPUs.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        self.maps.counters()
    }

    /// What it takes in the kernel.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn memory(&self) -> Result<Memory, DataplaneError> {
        self.maps.memory()
    }

    /// Number of the policy in force, counted up by every switch.
    pub fn epoch(&self) -> u32 {
        self.maps.control().epoch()
    }

    /// The events, to be read and polled.
    pub const fn events(&mut self) -> &mut EventReader {
        &mut self.events
    }

    /// Takes the programs off the interface.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses to remove a filter or qdisc.
    pub fn detach(mut self) -> Result<(), DataplaneError> {
        self.take_off()
    }

    fn take_off(&mut self) -> Result<(), DataplaneError> {
        let Some((object, ifindex)) = self.object.take() else { return Ok(()) };
        let made_qdisc = self.made_qdisc;
        // Filters and qdiscs are removed by interface index, so this must happen where the index is meant.
        netns::within_open(self.namespace.as_ref(), || {
            drop(object);
            if made_qdisc { netlink::remove_empty_clsact(ifindex) } else { Ok(()) }
        })
        .and_then(|removed| removed)
        .map_err(|source| DataplaneError::Detach { interface: self.target.name.clone(), source })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            tracing::warn!("{error}");
        }
    }
}
