//! The state machine: what is attached where, under which policy, and how one policy gives way to the next. All or
//! nothing: a step that fails leaves everything as it was. It reads no file and no socket, and reaches the kernel
//! only through [`Plane`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::SystemTime,
};

use nacl_common::{
    Action, Reason,
    border::{Entry, FlowKey},
};
use thiserror::Error;

use super::{
    plane::{Attached, Plane, PlaneError},
    prepare::Prepared,
};
use crate::{
    compile::{self, Compiled, SlotTable},
    dataplane::{Counters, Events, Options, Target},
    observe::{
        Change, Clock, Filter, History, InterfaceModes, InterfaceRules, InterfaceStatus, ModeChange, Modes, Naming,
        Place, PolicyStatus, Record, ReloadStatus, Remembered, Setting, Status, Totals, Tracking, TrackingStats, flows,
        interface_rules,
    },
    report::{named, place},
    resolve::{Interface, Layers, Mode},
};

/// A step of the state machine that failed. Nothing has changed.
#[derive(Debug, Error)]
pub enum StateError {
    /// An interface could not be attached to.
    #[error("cannot attach to {interface}; nothing was changed")]
    Attach {
        /// Interface.
        interface: String,
        /// Why.
        #[source]
        source: PlaneError,
    },
    /// An interface could not be switched to the new policy.
    #[error("cannot switch {interface} to the new policy; the old one stays in force everywhere")]
    Install {
        /// Interface.
        interface: String,
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
    #[error("this daemon is not attached to {interface}")]
    NotAttached {
        /// What was asked for.
        interface: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A device of several interfaces.
    #[error("{device} is the device of several interfaces: {}", interfaces.join(", "))]
    Ambiguous {
        /// The device.
        device: String,
        /// Their names in the policy.
        interfaces: Vec<String>,
    },
    /// Security groups alone are to judge, and there are none.
    #[error("{interface} has no security groups, so with `layers = sg` nothing would judge")]
    NoGroups {
        /// Interface.
        interface: String,
    },
    /// Programs could not be taken off, or the kernel not read or written.
    #[error("{interface}")]
    Kernel {
        /// Interface.
        interface: String,
        /// Why.
        #[source]
        source: PlaneError,
    },
}

impl StateError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAttached { known, .. } if !known.is_empty() => {
                Some(format!("it is attached to {}", known.join(", ")))
            }
            Self::Ambiguous { .. } => Some("name the interface as the policy does, in [interface.NAME]".to_owned()),
            Self::NoGroups { .. } => Some(
                "give it `security_groups = [\"NAME\"]` in the policy and reload, or choose both or nacl".to_owned(),
            ),
            _ => None,
        }
    }
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
    /// Its name in the policy.
    name: String,
    /// As the policy has it, but with the mode and layers in force.
    interface: Interface,
    /// Mode and layers as the policy has them.
    policy: Setting,
    notes: Vec<String>,
    options: Options,
    /// With the flags in force.
    compiled: Compiled,
    attachment: Box<dyn Attached>,
    history: History,
    /// Packets denied by rules that are gone, whose counters are or will be another's.
    denied_before: u64,
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
    pub fn slots(&self) -> BTreeMap<String, Arc<SlotTable>> {
        self.interfaces.iter().map(|(key, enforced)| (key.clone(), enforced.compiled.slots.clone())).collect()
    }

    /// The file of the policy in force.
    pub fn file(&self) -> Option<std::path::PathBuf> {
        self.policy.as_ref().map(|policy| policy.file.clone())
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
            let (old, new) = (&current.interface, &next.interface);
            let what = if old.netns != new.netns {
                "netns"
            } else if old.name != new.name {
                "device"
            } else if old.xdp != new.xdp {
                "xdp"
            } else if old.tracking.entries != new.tracking.entries {
                // The table is as large as it was made, and what stands in it is not moved to another.
                "[tracking] entries"
            } else {
                continue;
            };
            return Err(StateError::NeedsRestart { interface: key.clone(), what });
        }
        for (key, next) in wanted.iter().filter(|(key, _)| !self.interfaces.contains_key(*key)) {
            if self.interfaces.values().any(|held| held.target() == target(&next.interface)) {
                return Err(StateError::NeedsRestart { interface: key.clone(), what: "interface.NAME" });
            }
        }

        let mut change = Change::default();
        // New interfaces first: attaching is what fails most, and it is undone by dropping.
        // It is the verifier's work above all, half a second for each.
        let news = wanted.iter().filter(|(key, _)| !self.interfaces.contains_key(*key));
        let news: Vec<_> = news.map(|(key, next)| (key, next, self.options(&next.interface))).collect();
        let plane = &*self.plane;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let attached = side_by_side(cores, news, |(key, next, options)| {
            (key, next, options, plane.attach(&target(&next.interface), &options, &next.compiled))
        });
        let mut fresh = BTreeMap::new();
        for (key, next, options, attachment) in attached {
            let attachment =
                attachment.map_err(|source| StateError::Attach { interface: text_of(key, &next.interface), source })?;
            change.attached.push(key.clone());
            fresh.insert(key.clone(), (options, attachment));
        }

        let settings: BTreeMap<_, _> =
            wanted.iter().map(|(key, next)| (key, (next, self.options(&next.interface)))).collect();
        let held = self.interfaces.iter_mut();
        let held: Vec<_> = held.filter_map(|(key, current)| Some((current, settings.get(key)?))).collect();
        let installed = side_by_side(WAITING, held, |(current, (next, options))| {
            // Read before the switch: until then no packet can have counted for a slot's new rule, which was free.
            let installed = current.attachment.counters().and_then(|counters| {
                current.attachment.install(options, &next.compiled).map(|epoch| (counters, epoch))
            });
            if let Ok((_, epoch)) = &installed {
                current.history.begin(*epoch, &next.compiled.slots);
            }
            (current.name.clone(), next, installed.map(|(counters, _)| counters))
        });
        let mut switched: BTreeMap<String, Counters> = BTreeMap::new();
        let mut refused = None;
        for (key, next, installed) in installed {
            match installed {
                Ok(counters) => drop(switched.insert(key, counters)),
                Err(source) if refused.is_none() => {
                    refused = Some(StateError::Install { interface: text_of(&key, &next.interface), source });
                }
                Err(_) => {}
            }
        }
        if let Some(refused) = refused {
            self.roll_back(switched.keys());
            return Err(refused);
        }

        // Nothing fails from here on.
        for (key, next) in wanted {
            let options = self.options(&next.interface);
            if let Some(current) = self.interfaces.get_mut(&key) {
                if let Some(counters) = switched.get(&key) {
                    current.denied_before += current.denied_by_what_goes(&next.compiled.slots, counters);
                }
                let (before, now) = (Setting::of(&current.interface), Setting::of(&next.interface));
                if before != now {
                    let live = before != current.policy;
                    change.modes.push(ModeChange { interface: key.clone(), before, now, live });
                }
                current.policy = now;
                current.options = options;
                current.compiled = next.compiled;
                current.interface = next.interface;
                current.notes = next.notes;
            } else if let Some((options, attachment)) = fresh.remove(&key) {
                let mut history = History::default();
                history.begin(attachment.epoch(), &next.compiled.slots);
                self.next_id += 1;
                let enforced = Enforced {
                    id: self.next_id,
                    name: key.clone(),
                    policy: Setting::of(&next.interface),
                    interface: next.interface,
                    notes: next.notes,
                    options,
                    compiled: next.compiled,
                    attachment,
                    history,
                    denied_before: 0,
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
                Ok(epoch) => current.history.begin(epoch, &current.compiled.slots),
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
            enforced.toggle(Options { events, ..enforced.options }, enforced.compiled.flags)?;
        }
        self.events = events;
        Ok(())
    }

    /// The name in the policy of the interface that is meant: by that name, or by its device where that is unique.
    ///
    /// # Errors
    /// There is no such interface, or more than one.
    pub fn name(&self, asked: &str) -> Result<String, StateError> {
        if self.interfaces.contains_key(asked) {
            return Ok(asked.to_owned());
        }
        let of_device = self.interfaces.values().filter(|held| held.interface.name == asked);
        let mut names: Vec<_> = of_device.map(|held| held.name.clone()).collect();
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(name),
            (Some(last), false) => {
                names.push(last);
                Err(StateError::Ambiguous { device: asked.to_owned(), interfaces: names })
            }
            (None, _) => Err(self.not_attached(asked.to_owned())),
        }
    }

    fn not_attached(&self, interface: String) -> StateError {
        let known = self.interfaces.values().map(|held| text_of(&held.name, &held.interface)).collect();
        StateError::NotAttached { interface, known }
    }

    fn held(&self, asked: &str) -> Result<&Enforced, StateError> {
        let name = self.name(asked)?;
        self.interfaces.get(&name).ok_or_else(|| self.not_attached(name))
    }

    /// The interface that is meant, or all.
    fn selected(&self, asked: Option<&str>) -> Result<Vec<&Enforced>, StateError> {
        match asked {
            Some(asked) => Ok(vec![self.held(asked)?]),
            None => Ok(self.interfaces.values().collect()),
        }
    }

    /// An interface as it would be with another mode or other layers.
    ///
    /// # Errors
    /// There is no such interface, or nothing would judge there.
    pub fn with_setting(
        &self,
        asked: &str,
        mode: Option<Mode>,
        layers: Option<Layers>,
    ) -> Result<Interface, StateError> {
        let held = self.held(asked)?;
        let mut interface = held.interface.clone();
        interface.mode = mode.unwrap_or(interface.mode);
        interface.layers = layers.unwrap_or(interface.layers);
        if interface.layers == Layers::Groups && interface.groups.is_none() {
            return Err(StateError::NoGroups { interface: text_of(&held.name, &held.interface) });
        }
        Ok(interface)
    }

    /// Puts mode and layers in force at once, by one store: nothing is attached anew, and no packet is lost. They hold
    /// until the next policy.
    ///
    /// # Errors
    /// There is no such interface, or the kernel would not.
    pub fn set(&mut self, asked: &str, setting: Setting) -> Result<InterfaceModes, StateError> {
        let name = self.name(asked)?;
        let missing = self.not_attached(name.clone());
        let held = self.interfaces.get_mut(&name).ok_or(missing)?;
        if setting != Setting::of(&held.interface) {
            let interface = Interface { mode: setting.mode, layers: setting.layers, ..held.interface.clone() };
            held.toggle(held.options, compile::flags(&interface))?;
            held.interface = interface;
        }
        Ok(held.modes())
    }

    /// Mode and layers of all interfaces or of one.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn modes(&self, asked: Option<&str>) -> Result<Vec<InterfaceModes>, StateError> {
        Ok(self.selected(asked)?.into_iter().map(Enforced::modes).collect())
    }

    /// What is remembered of connections on all interfaces or on one, those that expire last first.
    ///
    /// # Errors
    /// There is no such interface, or the kernel would not tell.
    pub fn connections(&self, asked: Option<&str>, filter: &Filter) -> Result<Vec<Remembered>, StateError> {
        let now = self.plane.now();
        let mut all = Vec::new();
        for held in self.selected(asked)? {
            let place = held.place();
            let naming =
                Naming { place: &place, history: &held.history, slots: &held.compiled.slots, clock: self.clock, now };
            let mut flows = held.flows()?;
            flows.retain(|(key, entry)| now < entry.expires && filter.admits(key, entry));
            flows.sort_unstable_by_key(|(key, entry)| (std::cmp::Reverse(entry.expires), *key));
            all.extend(flows.iter().filter_map(|(key, entry)| Remembered::new(key, entry, &naming)));
        }
        Ok(all)
    }

    /// How full the connection tables are.
    ///
    /// # Errors
    /// There is no such interface, or the kernel would not tell.
    pub fn tracking(&self, asked: Option<&str>) -> Result<Vec<TrackingStats>, StateError> {
        let now = self.plane.now();
        let stats = |held: &Enforced| {
            let flows = held.flows()?;
            let Place { interface, device, netns } = held.place();
            let tracking = held.tracking(&flows, &held.counters()?, now);
            Ok(TrackingStats { interface, device, netns, tracking, states: flows::states(&flows, now) })
        };
        self.selected(asked)?.into_iter().map(stats).collect()
    }

    /// Forgets connections, and returns how many that were still remembered, by interface.
    ///
    /// # Errors
    /// There is no such interface, or the kernel would not.
    pub fn forget(&mut self, asked: Option<&str>, filter: &Filter) -> Result<Vec<(Place, u64)>, StateError> {
        let now = self.plane.now();
        let names: Vec<String> = self.selected(asked)?.iter().map(|held| held.name.clone()).collect();
        let mut done = Vec::new();
        for name in names {
            let Some(held) = self.interfaces.get_mut(&name) else { continue };
            let mut live = 0;
            let forgotten = held.attachment.forget(&mut |key, entry| {
                let meant = filter.admits(key, entry);
                live += u64::from(meant && now < entry.expires);
                meant
            });
            forgotten.map_err(|source| held.kernel(source))?;
            done.push((held.place(), live));
        }
        Ok(done)
    }

    /// What is in force on the interface of this name in the policy: for whoever asks what a change would do.
    pub fn in_force(&self, name: &str) -> Option<InForce<'_>> {
        let held = self.interfaces.get(name)?;
        Some(InForce { interface: &held.interface, compiled: &held.compiled, held, now: self.plane.now() })
    }

    /// Names in the policy of the interfaces that are meant.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn names(&self, asked: Option<&str>) -> Result<Vec<String>, StateError> {
        Ok(self.selected(asked)?.into_iter().map(|held| held.name.clone()).collect())
    }

    /// Notes how a reload went.
    pub fn reloaded(&mut self, error: Option<String>) {
        self.last_reload = Some(ReloadStatus { time: rfc3339(SystemTime::now()), ok: error.is_none(), error });
    }

    /// Detaches one interface: by its name in the policy, by its device where that is unique, or by device and namespace.
    /// Returns what it was.
    pub fn detach(&mut self, interface: &str, netns: Option<&str>) -> Result<Place, StateError> {
        let exact = |held: &&Enforced| held.interface.name == interface && held.interface.netns.as_deref() == netns;
        let name = match (self.interfaces.values().find(exact), netns) {
            (Some(held), _) => held.name.clone(),
            (None, None) => self.name(interface)?,
            (None, Some(_)) => return Err(self.not_attached(place(interface, netns))),
        };
        match self.interfaces.remove(&name) {
            Some(held) => {
                let place = held.place();
                held.detach().map(|()| place)
            }
            None => Err(self.not_attached(name)),
        }
    }

    /// Detaches everything. All are tried, whichever fails.
    pub fn detach_all(&mut self) -> Result<Vec<String>, Vec<StateError>> {
        let mut done = Vec::new();
        let mut failed = Vec::new();
        for (_, held) in std::mem::take(&mut self.interfaces) {
            let name = text_of(&held.name, &held.interface);
            match held.detach() {
                Ok(()) => done.push(name),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() { Ok(done) } else { Err(failed) }
    }

    /// The rule tables with hits, of all interfaces or of one.
    pub fn rules(&self, asked: Option<&str>) -> Result<Vec<InterfaceRules>, StateError> {
        let rules = |held: &Enforced| {
            let counted = held.counters()?;
            let counted = Some((&*held.compiled.slots, &counted));
            let epoch = Some(held.attachment.epoch());
            Ok(interface_rules(&held.name, &held.interface, held.policy, counted, epoch))
        };
        self.selected(asked)?.into_iter().map(rules).collect()
    }

    /// Everything the daemon tells of itself.
    pub fn status(&self) -> Result<Status, StateError> {
        let now = self.plane.now();
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
            interfaces: self.interfaces.values().map(|held| held.status(now)).collect::<Result<_, _>>()?,
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
        let (place, groups) = (held.place(), held.groups().unwrap_or_default());
        let mut records = Vec::new();
        while records.len() < limit
            && let Some(event) = held.attachment.next_event()
        {
            records.push(Record::new(&event, &place, &groups, &held.history, clock));
        }
        Some(records)
    }
}

/// What is in force on an interface.
#[derive(Clone, Copy)]
pub struct InForce<'s> {
    /// The interface, with the mode and layers in force.
    pub interface: &'s Interface,
    /// Its tables, with the flags in force.
    pub compiled: &'s Compiled,
    held: &'s Enforced,
    now: u64,
}

impl InForce<'_> {
    /// The connections that are remembered now.
    ///
    /// # Errors
    /// The kernel would not tell.
    pub fn remembered(&self) -> Result<Vec<(FlowKey, Entry)>, StateError> {
        let mut flows = self.held.flows()?;
        flows.retain(|(_, entry)| self.now < entry.expires);
        Ok(flows)
    }
}

impl Enforced {
    fn target(&self) -> Target {
        target(&self.interface)
    }

    fn place(&self) -> Place {
        let Interface { name: device, netns, .. } = &self.interface;
        Place { interface: self.name.clone(), device: device.clone(), netns: netns.clone() }
    }

    fn groups(&self) -> Option<Vec<String>> {
        let groups = self.interface.groups.as_ref()?;
        Some(groups.iter().map(|group| group.name.clone()).collect())
    }

    fn detach(self) -> Result<(), StateError> {
        let Self { name, interface, attachment, .. } = self;
        attachment.detach().map_err(|source| StateError::Kernel { interface: text_of(&name, &interface), source })
    }

    fn kernel(&self, source: PlaneError) -> StateError {
        StateError::Kernel { interface: text_of(&self.name, &self.interface), source }
    }

    /// Other settings, mode or layers, under the same policy.
    fn toggle(&mut self, options: Options, flags: u64) -> Result<(), StateError> {
        let epoch = self.attachment.toggle(&options, flags).map_err(|source| self.kernel(source))?;
        self.options = options;
        self.compiled.flags = flags;
        self.history.begin(epoch, &self.compiled.slots);
        Ok(())
    }

    /// What the rules that the next policy does not have denied.
    fn denied_by_what_goes(&self, next: &SlotTable, counters: &Counters) -> u64 {
        let goes = self.compiled.slots.slots.iter().filter(|(slot, old)| {
            old.action == Action::Deny && !next.slots.get(slot).is_some_and(|new| new.same_rule(old))
        });
        goes.filter_map(|(slot, _)| counters.slots.get(slot)).map(|counter| counter.packets).sum()
    }

    fn counters(&self) -> Result<Counters, StateError> {
        self.attachment.counters().map_err(|source| self.kernel(source))
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, StateError> {
        self.attachment.flows().map_err(|source| self.kernel(source))
    }

    fn modes(&self) -> InterfaceModes {
        let Place { interface, device, netns } = self.place();
        InterfaceModes {
            interface,
            device,
            netns,
            modes: Modes { in_force: Setting::of(&self.interface), policy: self.policy },
            groups: self.groups(),
            epoch: self.attachment.epoch(),
        }
    }

    fn tracking(&self, flows: &[(FlowKey, Entry)], counters: &Counters, now: u64) -> Tracking {
        Tracking::new(flows, self.attachment.tracking_capacity(), counters, self.compiled.flags, now)
    }

    fn status(&self, now: u64) -> Result<InterfaceStatus, StateError> {
        let counters = self.counters()?;
        let conntrack = self.tracking(&self.flows()?, &counters, now);
        let InterfaceModes { interface: name, device, netns, modes, groups, epoch } = self.modes();
        let interface = &self.interface;
        Ok(InterfaceStatus {
            interface: name,
            device,
            netns,
            addresses: interface.addresses.clone(),
            subnet: interface.subnet.clone(),
            nacl: interface.nacl.name.clone(),
            nacl_id: interface.nacl.id.clone(),
            modes,
            groups,
            side: interface.side,
            enforce: interface.enforce,
            hooks: self.attachment.hooks(),
            epoch,
            packets: self.totals(&counters),
            memory: self.attachment.memory().map_err(|source| self.kernel(source))?,
            notes: self.notes.iter().cloned().chain(conntrack.warning()).collect(),
            conntrack,
        })
    }

    /// Every packet has one reason, and one slot at most that denied it.
    fn totals(&self, counters: &Counters) -> Totals {
        let slots = counters.slots.iter().filter(|(slot, _)| {
            self.compiled.slots.slots.get(slot).is_some_and(|meaning| meaning.action == Action::Deny)
        });
        let by_slot: u64 = slots.map(|(_, counter)| counter.packets).sum();
        let reasons = counters.reasons.iter().filter(|((reason, _), _)| match reason {
            // Of lists, whose slots tell; and what always passes.
            Reason::NaclRule
            | Reason::NaclImplicit
            | Reason::GroupImplicit
            | Reason::SharedFragment
            | Reason::SameSubnet
            | Reason::GroupRule
            | Reason::Tracked
            | Reason::LayerOff
            | Reason::Arp
            | Reason::NeighbourDiscovery
            | Reason::Mld
            | Reason::Dhcp
            | Reason::AwsService
            | Reason::Failsafe => false,
            Reason::NonIp => self.options.drop_non_ip,
            _ => true,
        });
        let by_reason: u64 = reasons.map(|(_, counter)| counter.packets).sum();
        let all: u64 = counters.reasons.values().map(|counter| counter.packets).sum();
        let denied = by_slot + by_reason + self.denied_before;
        Totals { allowed: all.saturating_sub(denied), denied }
    }
}

/// Interfaces that are switched at once. A switch waits for the kernel most of the time, and all who wait are served together:
/// a hundred of them one after the other took two seconds.
const WAITING: usize = 32;

/// Does something to each item, so many at once, and returns what came of it in their order.
fn side_by_side<T: Send, R: Send>(most: usize, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    // What is alone needs no thread.
    if items.len() < 2 || most < 2 {
        return items.into_iter().map(work).collect();
    }
    let workers = most.min(items.len());
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((place, item)) = next() {
            done.push((place, work(item)));
        }
        done
    };
    let mut done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(thread::ScopedJoinHandle::join);
        results.flat_map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

fn target(interface: &Interface) -> Target {
    Target { name: interface.name.clone(), netns: interface.netns.clone() }
}

/// An interface as a person reads it.
fn text_of(name: &str, interface: &Interface) -> String {
    named(name, &interface.name, interface.netns.as_deref())
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
