//! The state machine: what is attached where, under which policy, and how one policy gives way to the next. All or
//! nothing: a step that fails leaves everything as it was. It reads no file and no socket, and reaches the kernel
//! only through [`Plane`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    os::fd::OwnedFd,
    time::SystemTime,
};

use nacl_common::{Action, Counter, Reason};
use thiserror::Error;

use super::{
    plane::{Attached, Plane, PlaneError},
    prepare::Prepared,
};
use crate::{
    compile::{Compiled, SlotTable},
    dataplane::{Counters, Events, Options, Target},
    observe::{
        Change, Clock, InterfaceRules, InterfaceStatus, PolicyStatus, Record, ReloadStatus, Status, Totals,
        interface_rules,
    },
    report::place,
    resolve::Interface,
};

/// Slot tables kept of each interface, so that an event of an older epoch still finds its rule.
const EPOCHS_KEPT: usize = 8;

/// A step of the state machine that failed. Nothing has changed.
#[derive(Debug, Error)]
pub enum StateError {
    /// An interface could not be attached to.
    #[error("cannot attach to {}; nothing was changed", place(.interface, .netns.as_deref()))]
    Attach {
        /// Interface.
        interface: String,
        /// Its namespace.
        netns: Option<String>,
        /// Why.
        #[source]
        source: PlaneError,
    },
    /// An interface could not be switched to the new policy.
    #[error("cannot switch {} to the new policy; the old one stays in force everywhere", place(.interface, .netns.as_deref()))]
    Install {
        /// Interface.
        interface: String,
        /// Its namespace.
        netns: Option<String>,
        /// Why.
        #[source]
        source: PlaneError,
    },
    /// A change that only a restart can make.
    #[error(
        "{interface}: `{what}` cannot be changed while attached; the old policy stays in force. Stop nacld and run it again"
    )]
    NeedsRestart {
        /// Interface.
        interface: String,
        /// Key in the policy.
        what: &'static str,
    },
    /// No such interface here.
    #[error("this daemon is not attached to {}", place(.interface, .netns.as_deref()))]
    NotAttached {
        /// Interface.
        interface: String,
        /// Its namespace.
        netns: Option<String>,
    },
    /// Programs could not be taken off, or counters not read.
    #[error("{}", place(.interface, .netns.as_deref()))]
    Kernel {
        /// Interface.
        interface: String,
        /// Its namespace.
        netns: Option<String>,
        /// Why.
        #[source]
        source: PlaneError,
    },
}

/// What the daemon was started with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Serve the programs' log.
    pub trace: bool,
    /// When the daemon detaches by itself.
    pub until: Option<SystemTime>,
}

/// Everything the daemon holds.
pub struct State {
    plane: Box<dyn Plane>,
    settings: Settings,
    started: SystemTime,
    clock: Clock,
    events: Events,
    policy: Option<Policy>,
    last_reload: Option<ReloadStatus>,
    interfaces: BTreeMap<String, Enforced>,
    next_id: u64,
}

struct Policy {
    file: std::path::PathBuf,
    sha256: String,
    loaded: SystemTime,
}

/// One interface with its policy in force.
struct Enforced {
    id: u64,
    interface: Interface,
    notes: Vec<String>,
    options: Options,
    compiled: Compiled,
    attachment: Box<dyn Attached>,
    /// Tables by epoch, newest last.
    history: VecDeque<(u32, SlotTable)>,
    /// What a slot had counted when it was given to the rule that has it now.
    baseline: BTreeMap<u16, Counter>,
}

impl State {
    /// A daemon that enforces nothing yet.
    pub fn new(plane: Box<dyn Plane>, settings: Settings) -> Self {
        Self {
            plane,
            settings,
            started: SystemTime::now(),
            clock: Clock::now(),
            events: Events::Denied,
            policy: None,
            last_reload: None,
            interfaces: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// The slot tables in force, which the next policy is compiled against.
    pub fn slots(&self) -> BTreeMap<String, SlotTable> {
        self.interfaces.iter().map(|(key, enforced)| (key.clone(), enforced.compiled.slots.clone())).collect()
    }

    /// The file of the policy in force.
    pub fn file(&self) -> Option<std::path::PathBuf> {
        self.policy.as_ref().map(|policy| policy.file.clone())
    }

    /// What is in force on each interface, by its name in the policy.
    pub fn in_force(&self) -> impl Iterator<Item = (&str, &Interface, &Compiled)> {
        self.interfaces.iter().map(|(key, enforced)| (key.as_str(), &enforced.interface, &enforced.compiled))
    }

    /// How many interfaces are attached to.
    pub fn attached(&self) -> usize {
        self.interfaces.len()
    }

    /// Puts a policy in force on every interface it names, or changes nothing.
    pub fn apply(&mut self, prepared: Prepared) -> Result<Change, StateError> {
        let Prepared { file, sha256, interfaces: wanted } = prepared;
        for (key, next) in &wanted {
            let Some(current) = self.interfaces.get(key) else { continue };
            let what = if current.target() != target(&next.interface) {
                "netns"
            } else if current.interface.xdp != next.interface.xdp {
                "xdp"
            } else {
                continue;
            };
            return Err(StateError::NeedsRestart { interface: key.clone(), what });
        }

        let mut change = Change::default();
        // New interfaces first: attaching is what fails most, and it is undone by dropping.
        let mut fresh = BTreeMap::new();
        for (key, next) in &wanted {
            if self.interfaces.contains_key(key) {
                continue;
            }
            let options = self.options(&next.interface);
            let attachment =
                self.plane.attach(&target(&next.interface), &options, &next.compiled).map_err(|source| {
                    StateError::Attach {
                        interface: next.interface.name.clone(),
                        netns: next.interface.netns.clone(),
                        source,
                    }
                })?;
            change.attached.push(key.clone());
            fresh.insert(key.clone(), (options, attachment));
        }

        let mut switched: BTreeMap<String, Counters> = BTreeMap::new();
        for (key, next) in &wanted {
            let options = self.options(&next.interface);
            let Some(current) = self.interfaces.get_mut(key) else { continue };
            // Read before the switch: until then no packet can have counted for a slot's new rule, which was free.
            let installed = current.attachment.counters().and_then(|counters| {
                current.attachment.install(&options, &next.compiled).map(|epoch| (counters, epoch))
            });
            match installed {
                Ok((counters, epoch)) => {
                    current.remember(epoch, next.compiled.slots.clone());
                    switched.insert(key.clone(), counters);
                }
                Err(source) => {
                    let (interface, netns) = (next.interface.name.clone(), next.interface.netns.clone());
                    self.roll_back(switched.keys());
                    return Err(StateError::Install { interface, netns, source });
                }
            }
        }

        // Nothing fails from here on.
        for (key, next) in wanted {
            let options = self.options(&next.interface);
            if let Some(current) = self.interfaces.get_mut(&key) {
                if let Some(counters) = switched.get(&key) {
                    current.rebase(&next.compiled.slots, counters);
                }
                current.options = options;
                current.compiled = next.compiled;
                current.interface = next.interface;
                current.notes = next.notes;
            } else if let Some((options, attachment)) = fresh.remove(&key) {
                let history = [(attachment.epoch(), next.compiled.slots.clone())].into();
                self.next_id += 1;
                let enforced = Enforced {
                    id: self.next_id,
                    interface: next.interface,
                    notes: next.notes,
                    options,
                    compiled: next.compiled,
                    attachment,
                    history,
                    baseline: BTreeMap::new(),
                };
                self.interfaces.insert(key, enforced);
            }
        }
        change.switched = switched.into_keys().collect();
        let kept = |key: &String| change.attached.contains(key) || change.switched.contains(key);
        change.detached = self.interfaces.keys().filter(|key| !kept(key)).cloned().collect();
        for key in &change.detached {
            if let Some(Err(error)) = self.interfaces.remove(key).map(Enforced::detach) {
                change.problems.push(chain(&error));
            }
        }
        self.policy = Some(Policy { file, sha256, loaded: SystemTime::now() });
        Ok(change)
    }

    /// Puts the old policy back on interfaces that had already been switched.
    fn roll_back<'k>(&mut self, switched: impl Iterator<Item = &'k String>) {
        for key in switched {
            let Some(current) = self.interfaces.get_mut(key) else { continue };
            match current.attachment.install(&current.options, &current.compiled) {
                Ok(epoch) => current.remember(epoch, current.compiled.slots.clone()),
                Err(error) => tracing::error!("{key}: the old policy could not be put back: {error}"),
            }
        }
    }

    fn options(&self, interface: &Interface) -> Options {
        Options { events: self.events, trace: self.settings.trace, ..Options::from(interface) }
    }

    /// Has the kernel report denied packets, or all of them. A switch like any other, so the epoch moves.
    pub fn report(&mut self, events: Events) -> Result<(), StateError> {
        if self.events == events {
            return Ok(());
        }
        for enforced in self.interfaces.values_mut() {
            let options = Options { events, ..enforced.options };
            let epoch =
                enforced.attachment.install(&options, &enforced.compiled).map_err(|source| enforced.kernel(source))?;
            enforced.options = options;
            enforced.remember(epoch, enforced.compiled.slots.clone());
        }
        self.events = events;
        Ok(())
    }

    /// Notes how a reload went.
    pub fn reloaded(&mut self, error: Option<String>) {
        self.last_reload = Some(ReloadStatus { time: rfc3339(SystemTime::now()), ok: error.is_none(), error });
    }

    /// Detaches one interface.
    pub fn detach(&mut self, interface: &str, netns: Option<&str>) -> Result<(), StateError> {
        let key = self
            .interfaces
            .iter()
            .find(|(_, held)| held.interface.name == interface && held.interface.netns.as_deref() == netns)
            .map(|(key, _)| key.clone());
        match key.and_then(|key| self.interfaces.remove(&key)) {
            Some(held) => held.detach(),
            None => Err(StateError::NotAttached { interface: interface.to_owned(), netns: netns.map(str::to_owned) }),
        }
    }

    /// Detaches everything. All are tried, whichever fails.
    pub fn detach_all(&mut self) -> Result<Vec<String>, Vec<StateError>> {
        let mut done = Vec::new();
        let mut failed = Vec::new();
        for (_, held) in std::mem::take(&mut self.interfaces) {
            let name = place(&held.interface.name, held.interface.netns.as_deref());
            match held.detach() {
                Ok(()) => done.push(name),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() { Ok(done) } else { Err(failed) }
    }

    /// The rule tables with hits, of all interfaces or of one.
    pub fn rules(&self, interface: Option<&str>) -> Result<Vec<InterfaceRules>, StateError> {
        let wanted: Vec<_> = self
            .interfaces
            .values()
            .filter(|held| interface.is_none_or(|interface| held.interface.name == interface))
            .collect();
        if let (Some(interface), true) = (interface, wanted.is_empty()) {
            return Err(StateError::NotAttached { interface: interface.to_owned(), netns: None });
        }
        wanted
            .into_iter()
            .map(|held| {
                let counters = held.counters()?;
                Ok(interface_rules(
                    &held.interface,
                    Some((&held.compiled.slots, &counters)),
                    Some(held.attachment.epoch()),
                ))
            })
            .collect()
    }

    /// Everything the daemon tells of itself.
    pub fn status(&self) -> Result<Status, StateError> {
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: rfc3339(self.started),
            until: self.settings.until.map(rfc3339),
            policy: self.policy.as_ref().map_or_else(
                || PolicyStatus { file: "".into(), sha256: String::new(), loaded: String::new() },
                |policy| PolicyStatus {
                    // Whoever asks may stand in another directory.
                    file: std::path::absolute(&policy.file).unwrap_or_else(|_| policy.file.clone()),
                    sha256: policy.sha256.clone(),
                    loaded: rfc3339(policy.loaded),
                },
            ),
            last_reload: self.last_reload.clone(),
            interfaces: self.interfaces.values().map(Enforced::status).collect::<Result<_, _>>()?,
        })
    }

    /// Every attachment, with descriptors that tell when it has something to report. `known`: those whose descriptors
    /// are not wanted again.
    pub fn sources(&mut self, known: &BTreeSet<u64>) -> Vec<(u64, io::Result<Vec<OwnedFd>>)> {
        let new = |id: u64| !known.contains(&id);
        self.interfaces
            .values_mut()
            .map(|held| (held.id, if new(held.id) { held.attachment.sources() } else { Ok(Vec::new()) }))
            .collect()
    }

    /// What an attachment has to report, at most `limit` records; nothing when it is gone.
    pub fn drain(&mut self, id: u64, limit: usize) -> Option<Vec<Record>> {
        let clock = self.clock;
        let held = self.interfaces.values_mut().find(|held| held.id == id)?;
        held.attachment.flush_trace();
        let mut records = Vec::new();
        while records.len() < limit
            && let Some(event) = held.attachment.next_event()
        {
            let slots = held.history.iter().rev().find(|(epoch, _)| *epoch == event.epoch).map(|(_, slots)| slots);
            let interface = &held.interface;
            records.push(Record::new(&event, &interface.name, interface.netns.as_deref(), slots, clock));
        }
        Some(records)
    }
}

impl Enforced {
    fn target(&self) -> Target {
        target(&self.interface)
    }

    fn detach(self) -> Result<(), StateError> {
        let Self { interface, attachment, .. } = self;
        attachment.detach().map_err(|source| StateError::Kernel {
            interface: interface.name.clone(),
            netns: interface.netns.clone(),
            source,
        })
    }

    fn kernel(&self, source: PlaneError) -> StateError {
        StateError::Kernel { interface: self.interface.name.clone(), netns: self.interface.netns.clone(), source }
    }

    fn remember(&mut self, epoch: u32, slots: SlotTable) {
        self.history.push_back((epoch, slots));
        if self.history.len() > EPOCHS_KEPT {
            self.history.pop_front();
        }
    }

    /// A slot that changes hands starts from zero for its new rule.
    fn rebase(&mut self, next: &SlotTable, counters: &Counters) {
        for slot in next.new_since(&self.compiled.slots) {
            self.baseline.insert(slot, counters.slots.get(&slot).copied().unwrap_or_default());
        }
    }

    fn counters(&self) -> Result<Counters, StateError> {
        let mut counters = self.attachment.counters().map_err(|source| self.kernel(source))?;
        for (slot, before) in &self.baseline {
            if let Some(counter) = counters.slots.get_mut(slot) {
                counter.packets = counter.packets.saturating_sub(before.packets);
                counter.bytes = counter.bytes.saturating_sub(before.bytes);
            }
        }
        Ok(counters)
    }

    fn status(&self) -> Result<InterfaceStatus, StateError> {
        let interface = &self.interface;
        Ok(InterfaceStatus {
            interface: interface.name.clone(),
            netns: interface.netns.clone(),
            addresses: interface.addresses.clone(),
            subnet: interface.subnet.clone(),
            nacl: interface.nacl.name.clone(),
            nacl_id: interface.nacl.id.clone(),
            mode: "stateless".to_owned(),
            side: interface.side,
            enforce: interface.enforce,
            hooks: self.attachment.hooks(),
            epoch: self.attachment.epoch(),
            packets: self.totals(&self.counters()?),
            notes: self.notes.clone(),
        })
    }

    fn totals(&self, counters: &Counters) -> Totals {
        let mut totals = Totals::default();
        for (slot, counter) in &counters.slots {
            match self.compiled.slots.slots.get(slot).map(|slot| slot.action) {
                Some(Action::Allow) => totals.allowed += counter.packets,
                Some(Action::Deny) => totals.denied += counter.packets,
                None => {}
            }
        }
        for ((reason, _), counter) in &counters.reasons {
            let allowed = match reason {
                // Counted above, by slot.
                Reason::NaclRule | Reason::NaclImplicit | Reason::SameSubnet => continue,
                Reason::Arp | Reason::NeighbourDiscovery | Reason::Mld | Reason::LayerOff => true,
                Reason::NonIp => !self.options.drop_non_ip,
                _ => false,
            };
            *(if allowed { &mut totals.allowed } else { &mut totals.denied }) += counter.packets;
        }
        totals
    }
}

fn target(interface: &Interface) -> Target {
    Target { name: interface.name.clone(), netns: interface.netns.clone() }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// An error and its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
