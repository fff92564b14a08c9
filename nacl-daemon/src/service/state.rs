//! The state machine: what is attached where, under which policy, and how one policy gives way to the next. All or
//! nothing: a step that fails leaves everything as it was. It reads no file and no socket, and reaches the kernel
//! only through [`Plane`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nacl_common::{
    Action, Packet, Reason,
    border::{Entry, FlowKey},
};
use thiserror::Error;

use super::{
    absent::Waiting,
    broken::{Book, Scene},
    confirm::Pending,
    flowlog::{FlowLogs, Of},
    memo::{Memo, Source},
    plane::{Attached, Plane, PlaneError, Table},
    prepare::{Prepared, PreparedInterface},
};
use crate::{
    compile::{self, Compiled, SlotTable},
    dataplane::{Counters, DataplaneError, Events, Note, Options, Target, Terms},
    observe::{
        Absent, Brief, BriefInterface, BrokenCount, BrokenReturn, Change, Clock, Filter, History, InterfaceModes,
        InterfaceRules, InterfaceStatus, ModeChange, Modes, Naming, Place, PolicyStatus, Record, ReloadStatus,
        Remembered, Setting, SettingChange, Status, Totals, Tracking, TrackingStats,
        broken::{Pair, Pairing},
        filter::Known,
        flows, interface_rules,
    },
    report::{named, place},
    resolve::{Interface, Layers, OnExit},
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
    /// None of the policy's interfaces is here.
    #[error("none of the policy's interfaces is here: {}", .interfaces.join(", "))]
    NoneHere {
        /// What it names.
        interfaces: Vec<String>,
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
    /// What is in force could not outlive the daemon.
    #[error("what is enforced could not outlive this daemon")]
    Store {
        /// Why.
        #[source]
        source: PlaneError,
    },
    /// A change awaits confirmation, and another one cannot begin.
    #[error("a change awaits confirmation for another {}; until then nothing else is changed", humantime::format_duration(seconds(*.left)))]
    Pending {
        /// How long.
        left: Duration,
    },
    /// There is nothing to confirm.
    #[error("no change awaits confirmation")]
    NothingPending,
    /// It was confirmed too late.
    #[error("too late: the change was not confirmed in time and has been undone")]
    TooLate,
    /// The policy in the file was undone before.
    #[error(
        "the policy {} was put in force before and undone, not confirmed in time or rolled back; it is not put in force again by itself", file.display()
    )]
    Rejected {
        /// The file.
        file: std::path::PathBuf,
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
            Self::NoneHere { .. } => {
                Some("`ip link` lists what is here; `nacld run --wait` waits for them to come".to_owned())
            }
            Self::Ambiguous { .. } => Some("name the interface as the policy does, in [interface.NAME]".to_owned()),
            Self::NoGroups { .. } => Some(
                "give it `security_groups = [\"NAME\"]` in the policy and reload, or choose both or nacl".to_owned(),
            ),
            Self::Pending { .. } => Some("`nacld confirm` keeps it, `nacld rollback` undoes it now".to_owned()),
            Self::Store { source } => {
                let mount = source.downcast_ref().is_some_and(|error| matches!(error, DataplaneError::Mount { .. }));
                let how = if mount {
                    "mounting needs CAP_SYS_ADMIN: mount it before (`mount -t bpf -o mode=0700 nacld DIRECTORY`), or give --no-pins"
                } else {
                    "name another directory with --state, or give --no-pins"
                };
                Some(how.to_owned())
            }
            Self::NothingPending => Some("`nacld reload --confirm 60s` makes one that does".to_owned()),
            Self::Rejected { .. } => {
                Some("`nacld reload --confirm 60s` tries it again, `nacld reload` takes it for good".to_owned())
            }
            _ => None,
        }
    }
}

/// Whole seconds: nobody types faster.
const fn seconds(left: Duration) -> Duration {
    Duration::from_secs(left.as_secs())
}

/// What the daemon was started with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Serve the programs' log.
    pub trace: bool,
    /// Be content where none of the policy's interfaces is here: they may come.
    pub wait: bool,
    /// When the daemon detaches by itself.
    pub until: Option<SystemTime>,
    /// Whether what is in force stays there when the daemon is told to end; `None`: as the policy says.
    pub on_exit: Option<OnExit>,
}

/// Everything the daemon holds.
pub struct State {
    pub(super) plane: Box<dyn Plane>,
    pub(super) settings: Settings,
    started: SystemTime,
    clock: Clock,
    pub(super) events: Events,
    pub(super) policy: Option<Source>,
    last_reload: Option<ReloadStatus>,
    pub(super) interfaces: BTreeMap<String, Enforced>,
    /// Interfaces of the policy that are not here.
    pub(super) absent: BTreeMap<String, Waiting>,
    next_id: u64,
    /// A change that awaits confirmation.
    pub(super) pending: Option<Pending>,
    /// A policy that was put in force, and not confirmed.
    pub(super) rejected: Option<Source>,
    /// Whether what is in force stays there when the daemon is told to end.
    pub(super) on_exit: OnExit,
    /// Requests that pass, and whose replies do not.
    pub(super) broken: Book,
    /// Flow logs.
    pub(super) flow_logs: FlowLogs,
}

/// One interface with its policy in force.
pub(super) struct Enforced {
    pub(super) id: u64,
    /// Its name in the policy.
    pub(super) name: String,
    pub(super) meant: Meant,
    pub(super) attachment: Box<dyn Attached>,
    pub(super) history: History,
    /// Which of the packets that are reported belong together.
    pub(super) pairing: Pairing,
}

/// What is to hold on an interface.
#[derive(Clone)]
pub(super) struct Meant {
    /// As the policy has it, but with the setting in force.
    pub(super) interface: Interface,
    /// The setting as the policy has it.
    pub(super) policy: Setting,
    pub(super) notes: Vec<String>,
    pub(super) options: Options,
    /// With the flags in force.
    pub(super) compiled: Compiled,
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
            absent: BTreeMap::new(),
            next_id: 0,
            pending: None,
            rejected: None,
            on_exit: OnExit::default(),
            broken: Book::default(),
            flow_logs: FlowLogs::default(),
        }
    }

    /// The slot tables in force, which the next policy is compiled against.
    pub fn slots(&self) -> BTreeMap<String, Arc<SlotTable>> {
        self.interfaces.iter().map(|(key, enforced)| (key.clone(), enforced.meant.compiled.slots.clone())).collect()
    }

    /// The file of the policy in force.
    pub fn file(&self) -> Option<std::path::PathBuf> {
        self.policy.as_ref().map(|policy| policy.file.clone())
    }

    /// What is in force and where, in brief. Asks the kernel nothing.
    pub fn brief(&self) -> Brief {
        let (file, sha256) =
            self.policy.as_ref().map(|policy| (policy.file.clone(), policy.sha256.clone())).unwrap_or_default();
        let one = |held: &Enforced| BriefInterface {
            place: held.place(),
            epoch: held.attachment.epoch(),
            enforce: held.meant.interface.enforce,
        };
        let interfaces = self.interfaces.values().map(one).collect();
        let place = |Absent { interface, device, netns, .. }| Place { interface, device, netns };
        Brief { file, sha256, interfaces, absent: self.absent().into_iter().map(place).collect() }
    }

    /// How many interfaces this daemon is in charge of: attached to, or waited for.
    pub fn in_charge(&self) -> usize {
        self.interfaces.len() + self.absent.len()
    }

    /// Whether a text of this digest was dealt with: it is in force and nothing else was tried since, or nobody confirmed it.
    pub fn dealt_with(&self, sha256: &str) -> bool {
        let is = |source: &Option<Source>| source.as_ref().is_some_and(|source| source.sha256 == sha256);
        is(&self.rejected) || is(&self.policy) && self.last_reload.as_ref().is_none_or(|reload| reload.ok)
    }

    /// Puts a policy in force on every interface it names, or changes nothing. `confirm`: how long it waits for
    /// [`Self::confirm`] before it is undone; what the policy no longer names is detached only then.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn apply(&mut self, prepared: Prepared, confirm: Option<Duration>) -> Result<Change, StateError> {
        self.settled()?;
        let Prepared { file, sha256, on_exit, interfaces: wanted } = prepared;
        let source = Source { file, sha256, loaded: SystemTime::now() };
        for (key, next) in &wanted {
            let Some(current) = self.interfaces.get(key) else { continue };
            if let Some(what) = current.needs_restart(&next.interface) {
                return Err(StateError::NeedsRestart { interface: key.clone(), what });
            }
        }
        for (key, next) in wanted.iter().filter(|(key, _)| !self.interfaces.contains_key(*key)) {
            let wanted = target(&next.interface);
            if self.interfaces.values().any(|held| held.target() == wanted || held.attachment.target() == wanted) {
                return Err(StateError::NeedsRestart { interface: key.clone(), what: "interface.NAME" });
            }
        }

        let mut change = Change::default();
        // New interfaces first: attaching is what fails most, and it is undone by dropping.
        // It is the verifier's work above all, half a second for each.
        let news = wanted.iter().filter(|(key, _)| !self.interfaces.contains_key(*key));
        let news = news.map(|(key, next)| (key, self.meant(next)));
        let (news, missing): (Vec<_>, Vec<_>) = news.partition(|(_, meant)| self.is_here(meant));
        let absent: BTreeMap<_, _> =
            missing.into_iter().map(|(key, meant)| (key.clone(), Waiting::new(meant))).collect();
        self.some_are_here(wanted.len() - absent.len(), &absent)?;
        let plane = &*self.plane;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let attached = side_by_side(cores, news, |(key, meant)| {
            let terms = Terms { note: meant.memo(key, &History::default(), &source, None), confirm };
            let attachment = plane.attach(&target(&meant.interface), &meant.options, &meant.compiled, terms);
            (key, meant, attachment)
        });
        let mut fresh = BTreeMap::new();
        for (key, meant, attachment) in attached {
            let attachment = attachment
                .map_err(|source| StateError::Attach { interface: text_of(key, &meant.interface), source })?;
            change.attached.push(key.clone());
            fresh.insert(key.clone(), (meant, attachment));
        }

        let held = wanted.iter().filter(|(key, _)| self.interfaces.contains_key(*key));
        let mut held: BTreeMap<_, _> = held.map(|(key, next)| (key, self.meant(next))).collect();
        let current = self.interfaces.iter_mut();
        let held: Vec<_> = current.filter_map(|(key, current)| Some((current, held.remove(key)?))).collect();
        let installed = side_by_side(WAITING, held, |(current, meant)| {
            let terms = Terms { note: meant.memo(&current.name, &current.history, &source, None), confirm };
            let installed = current.attachment.install(&meant.options, &meant.compiled, terms);
            if let Ok(epoch) = &installed {
                current.history.begin(*epoch, &meant.compiled.slots);
            }
            (current.name.clone(), meant, installed.map(drop))
        });
        let mut switched: BTreeMap<String, Meant> = BTreeMap::new();
        let mut refused = None;
        for (key, meant, installed) in installed {
            match installed {
                Ok(()) => drop(switched.insert(key, meant)),
                Err(source) if refused.is_none() => {
                    refused = Some(StateError::Install { interface: text_of(&key, &meant.interface), source });
                }
                Err(_) => {}
            }
        }
        if let Some(refused) = refused {
            self.roll_back(switched.keys());
            return Err(refused);
        }

        // Nothing fails from here on.
        let mut before = BTreeMap::new();
        for (key, meant) in switched {
            let Some(current) = self.interfaces.get_mut(&key) else { continue };
            let (was, now) = (Setting::of(&current.meant.interface), meant.policy);
            if was != now {
                let live = was != current.meant.policy;
                change.modes.push(ModeChange { interface: key.clone(), before: was, now, live });
            }
            change.switched.push(key.clone());
            current.pairing.clear();
            self.flow_logs.claim_before(current, &meant.interface);
            before.insert(key, mem::replace(&mut current.meant, meant));
        }
        for (key, (meant, attachment)) in fresh {
            self.enforce(key, meant, attachment, History::default());
        }
        change.waiting = absent.keys().cloned().collect();
        let absent = mem::replace(&mut self.absent, absent);
        let kept = |key: &String| change.attached.contains(key) || change.switched.contains(key);
        let leaving: Vec<String> = self.interfaces.keys().filter(|key| !kept(key)).cloned().collect();
        let policy = self.policy.replace(source);
        let on_exit = mem::replace(&mut self.on_exit, on_exit);
        if let Some(confirm) = confirm {
            // From now on for all alike: attaching to the first may be long ago.
            self.interfaces.values_mut().for_each(|held| held.attachment.wait(confirm));
            self.pending = Some(Pending { before, until: Instant::now() + confirm, absent, policy, on_exit, leaving });
        } else {
            self.rejected = None;
            change.problems = self.detach_each(&leaving);
            change.detached = leaving;
        }
        Ok(change)
    }

    /// What a policy wants of an interface.
    fn meant(&self, next: &PreparedInterface) -> Meant {
        Meant {
            interface: next.interface.clone(),
            policy: Setting::of(&next.interface),
            notes: next.notes.clone(),
            options: self.options(&next.interface),
            compiled: next.compiled.clone(),
        }
    }

    /// From here on the interface is ours. `history`: what slots meant before.
    pub(super) fn enforce(&mut self, name: String, meant: Meant, attachment: Box<dyn Attached>, mut history: History) {
        history.begin(attachment.epoch(), &meant.compiled.slots);
        self.next_id += 1;
        let pairing = Pairing::default();
        let enforced = Enforced { id: self.next_id, name: name.clone(), meant, attachment, history, pairing };
        self.interfaces.insert(name, enforced);
    }

    /// Detaches these, and returns what went wrong.
    pub(super) fn detach_each(&mut self, names: &[String]) -> Vec<String> {
        let gone = names.iter().filter_map(|name| self.interfaces.remove(name));
        let logs = &mut self.flow_logs;
        gone.filter_map(|held| held.detach(logs).err()).map(|error| chain(&error)).collect()
    }

    /// Puts the old policy back on interfaces that had already been switched.
    fn roll_back<'k>(&mut self, switched: impl Iterator<Item = &'k String>) {
        let Some(source) = self.policy.clone() else { return };
        for key in switched {
            let Some(current) = self.interfaces.get_mut(key) else { continue };
            current.put_back(&source, None);
        }
    }

    pub(super) fn options(&self, interface: &Interface) -> Options {
        Options { events: self.events, trace: self.settings.trace, ..Options::from(interface) }
    }

    /// Has the kernel report denied packets, or all of them, now and after whatever comes into force next.
    pub fn report(&mut self, events: Events) {
        if self.events == events {
            return;
        }
        self.events = events;
        let now = self.plane.now();
        for held in self.interfaces.values_mut() {
            held.attachment.report(events);
            held.seek(now);
        }
        let held = self.interfaces.values_mut().map(|held| &mut held.meant);
        let waiting = self.absent.values_mut().map(|waiting| &mut waiting.meant);
        let pending = self.pending.iter_mut().flat_map(|pending| {
            let waiting = pending.absent.values_mut().map(|waiting| &mut waiting.meant);
            pending.before.values_mut().chain(waiting)
        });
        for meant in held.chain(waiting).chain(pending) {
            meant.options.events = events;
        }
    }

    /// The name in the policy of the interface that is meant: by that name, or by its device where that is unique.
    ///
    /// # Errors
    /// There is no such interface, or more than one.
    pub fn name(&self, asked: &str) -> Result<String, StateError> {
        if self.interfaces.contains_key(asked) {
            return Ok(asked.to_owned());
        }
        let of_device = self.interfaces.values().filter(|held| held.attachment.target().name == asked);
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

    /// As [`Self::name`], also of an interface that is not here and is waited for.
    ///
    /// # Errors
    /// The policy has none, or several of this device.
    pub fn name_here_or_not(&self, asked: &str) -> Result<String, StateError> {
        self.name(asked).or_else(|error| {
            let mut absent = self.absent.iter();
            let meant = |(name, waiting): &(&String, &Waiting)| *name == asked || waiting.meant.interface.name == asked;
            match error {
                StateError::NotAttached { .. } => absent.find(meant).map(|(name, _)| name.clone()).ok_or(error),
                error => Err(error),
            }
        })
    }

    fn not_attached(&self, interface: String) -> StateError {
        let held = self.interfaces.values().map(|held| text_of(&held.name, &held.meant.interface));
        let absent = self.absent.iter();
        let absent = absent.map(|(key, waiting)| format!("{} (not here)", text_of(key, &waiting.meant.interface)));
        let known = held.chain(absent).collect();
        StateError::NotAttached { interface, known }
    }

    fn held(&self, asked: &str) -> Result<&Enforced, StateError> {
        let name = self.name(asked)?;
        self.interfaces.get(&name).ok_or_else(|| self.not_attached(name))
    }

    /// The interface that is meant, or all.
    pub(super) fn selected(&self, asked: Option<&str>) -> Result<Vec<&Enforced>, StateError> {
        match asked {
            Some(asked) => Ok(vec![self.held(asked)?]),
            None => Ok(self.interfaces.values().collect()),
        }
    }

    /// An interface as it would be with another setting.
    ///
    /// # Errors
    /// There is no such interface, or nothing would judge there.
    pub fn with_setting(&self, asked: &str, change: SettingChange) -> Result<Interface, StateError> {
        let held = self.held(asked)?;
        let interface = change.of(Setting::of(&held.meant.interface)).on(&held.meant.interface);
        if interface.layers == Layers::Groups && interface.groups.is_none() {
            return Err(StateError::NoGroups { interface: text_of(&held.name, &held.meant.interface) });
        }
        Ok(interface)
    }

    /// Puts a setting in force at once, by one store: nothing is attached anew, and no packet is lost. It holds until the
    /// next policy.
    ///
    /// # Errors
    /// There is no such interface, or the kernel would not.
    pub fn set(&mut self, asked: &str, setting: Setting) -> Result<InterfaceModes, StateError> {
        self.settled()?;
        let (name, source) = (self.name(asked)?, self.source());
        let missing = self.not_attached(name.clone());
        let held = self.interfaces.get_mut(&name).ok_or(missing)?;
        if setting != Setting::of(&held.meant.interface) {
            let interface = setting.on(&held.meant.interface);
            held.toggle(interface, Options { enforce: setting.enforce, ..held.meant.options }, &source)?;
            held.pairing.clear();
        }
        Ok(held.modes())
    }

    /// The policy in force, as it is written down.
    pub(super) fn source(&self) -> Source {
        let none = || Source { file: "".into(), sha256: String::new(), loaded: SystemTime::UNIX_EPOCH };
        self.policy.clone().unwrap_or_else(none)
    }

    /// Settings of all interfaces or of one.
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
            let naming = Naming {
                place: &place,
                history: &held.history,
                slots: &held.meant.compiled.slots,
                clock: self.clock,
                now,
            };
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
        Some(InForce { interface: &held.meant.interface, compiled: &held.meant.compiled, held, now: self.plane.now() })
    }

    /// Names in the policy of the interfaces that are meant.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn names(&self, asked: Option<&str>) -> Result<Vec<String>, StateError> {
        Ok(self.selected(asked)?.into_iter().map(|held| held.name.clone()).collect())
    }

    /// Notes how a reload went, and what was noticed about the file.
    pub fn reloaded(&mut self, error: Option<String>, diagnostics: &str) {
        let (time, ok) = (rfc3339(SystemTime::now()), error.is_none());
        self.last_reload = Some(ReloadStatus { time, ok, error, diagnostics: diagnostics.to_owned() });
    }

    /// Detaches one interface: by its name in the policy, by its device where that is unique, or by device and namespace.
    /// Returns what it was.
    pub fn detach(&mut self, interface: &str, netns: Option<&str>) -> Result<Place, StateError> {
        let exact = |held: &&Enforced| {
            let target = held.attachment.target();
            target.name == interface && target.netns.as_deref() == netns
        };
        if let Some(waiting) = self.absent.remove(interface) {
            let Target { name: device, netns } = target(&waiting.meant.interface);
            return Ok(Place { interface: interface.to_owned(), device, netns });
        }
        let name = match (self.interfaces.values().find(exact), netns) {
            (Some(held), _) => held.name.clone(),
            (None, None) => self.name(interface)?,
            (None, Some(_)) => return Err(self.not_attached(place(interface, netns))),
        };
        match self.interfaces.remove(&name) {
            Some(held) => {
                let place = held.place();
                held.detach(&mut self.flow_logs).map(|()| place)
            }
            None => Err(self.not_attached(name)),
        }
    }

    fn ends(&self) -> OnExit {
        self.settings.on_exit.unwrap_or(self.on_exit)
    }

    /// Ends as the policy says: detaches everything, or leaves it in force. Second: what stays in force.
    ///
    /// # Errors
    /// What could not be detached.
    pub fn end(&mut self) -> Result<Vec<String>, Vec<StateError>> {
        if self.ends() == OnExit::Detach {
            return self.detach_all().map(|_| Vec::new());
        }
        let mut stay = Vec::new();
        self.absent.clear();
        for (_, mut held) in mem::take(&mut self.interfaces) {
            let name = text_of(&held.name, &held.meant.interface);
            // Nobody is left who would read of it.
            held.attachment.seek(&[]);
            // Whoever comes next begins where this daemon ends.
            self.flow_logs.take(&mut held);
            if held.attachment.leave() {
                stay.push(name);
            }
        }
        Ok(stay)
    }

    /// Detaches everything. All are tried, whichever fails.
    pub fn detach_all(&mut self) -> Result<Vec<String>, Vec<StateError>> {
        let mut done = Vec::new();
        let mut failed = Vec::new();
        // What comes from now on is nobody's.
        self.absent.clear();
        for (_, held) in mem::take(&mut self.interfaces) {
            let name = text_of(&held.name, &held.meant.interface);
            match held.detach(&mut self.flow_logs) {
                Ok(()) => done.push(name),
                Err(error) => failed.push(error),
            }
        }
        if failed.is_empty() { Ok(done) } else { Err(failed) }
    }

    /// Packets that were not reported since the programs were attached, because there were too many at once.
    ///
    /// # Errors
    /// There is no such interface, or the kernel would not tell.
    pub fn suppressed(&self, asked: Option<&str>) -> Result<u64, StateError> {
        let of = |held: &Enforced| held.attachment.suppressed().map_err(|source| held.kernel(source));
        self.selected(asked)?.into_iter().map(of).sum()
    }

    /// What there is in the policy that can be named, on interfaces that are not here too.
    pub fn nameable(&self) -> Known {
        let mut known = Known::default();
        let held = self.interfaces.iter().map(|(name, held)| (name, &held.meant));
        for (name, Meant { interface, compiled, .. }) in
            held.chain(self.absent.iter().map(|(name, waiting)| (name, &waiting.meant)))
        {
            known.add(name, interface, &compiled.slots);
        }
        known
    }

    /// The rule tables with hits, of all interfaces or of one.
    pub fn rules(&self, asked: Option<&str>) -> Result<Vec<InterfaceRules>, StateError> {
        self.selected(asked)?.into_iter().map(|held| Ok(held.rules(&held.counters()?))).collect()
    }

    /// Everything the daemon tells of itself.
    pub fn status(&self) -> Result<Status, StateError> {
        let now = self.plane.now();
        let interfaces = self.interfaces.values().map(|held| Ok(held.glance(now)?.complete()?.0));
        Ok(Status { interfaces: interfaces.collect::<Result<_, StateError>>()?, ..self.about() })
    }

    /// An interface with its rules, but for its connection table, which may take a while to read. Nothing where it is not here.
    pub(super) fn glance(&self, name: &str) -> Option<Result<Glance, StateError>> {
        Some(self.interfaces.get(name)?.glance(self.plane.now()))
    }

    /// What the daemon tells of itself, without the interfaces it is attached to.
    pub(super) fn about(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: rfc3339(self.started),
            until: self.settings.until.map(rfc3339),
            policy: self.policy_status(),
            last_reload: self.last_reload.clone(),
            pending: self.pending_status(),
            problems: self.problems(),
            absent: self.absent(),
            broken: self.broken.list(None),
            broken_counts: self.broken.counts(),
            on_exit: self.ends(),
            interfaces: Vec::new(),
        }
    }

    /// The policy in force.
    pub(super) fn policy_status(&self) -> PolicyStatus {
        let none = || PolicyStatus { file: "".into(), sha256: String::new(), loaded: String::new() };
        self.policy.as_ref().map_or_else(none, |policy| PolicyStatus {
            // Whoever asks may stand in another directory.
            file: std::path::absolute(&policy.file).unwrap_or_else(|_| policy.file.clone()),
            sha256: policy.sha256.clone(),
            loaded: rfc3339(policy.loaded),
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

    /// What an attachment has to report, at most `limit` events; nothing when it is gone.
    pub fn drain(&mut self, id: u64, limit: usize) -> Option<Drained> {
        let (clock, now, all) = (self.clock, self.plane.now(), self.events == Events::All);
        let held = self.interfaces.values_mut().find(|held| held.id == id)?;
        held.attachment.flush_trace();
        let (place, groups) = (held.place(), held.groups().unwrap_or_default());
        let mut drained = Drained::default();
        while drained.events < limit
            && let Some(event) = held.attachment.next_event()
        {
            drained.events += 1;
            // What is only looked for is nobody's news.
            if all || event.action == Action::Deny as u8 {
                drained.records.push(Record::new(&event, &place, &groups, &held.history, clock));
            }
            let compiled = &held.meant.compiled;
            let admits = |direction, packet: &Packet| compiled.judge(direction, packet).action == Action::Allow;
            // A packet of another policy proves nothing of this one.
            if event.epoch == held.attachment.epoch()
                && let Some(pair) = held.pairing.met(&event, admits)
            {
                drained.pairs.push((pair, clock.rfc3339(pair.time)));
            }
        }
        if !drained.pairs.is_empty() {
            drained.scene = Some(held.scene());
        }
        drained.doubts = held.seek(now);
        Some(drained)
    }

    /// Has the kernel look for requests whose replies seem to be denied. To be called again after about a second while it returns true.
    pub fn seek(&mut self) -> bool {
        let now = self.plane.now();
        self.interfaces.values_mut().fold(false, |doubts, held| held.seek(now) | doubts)
    }

    /// What is known of broken returns that the policy in force has mended is dropped. Returns what stays.
    pub(super) fn review_broken(&mut self) -> Vec<(Scene, BrokenReturn)> {
        let Self { broken, interfaces, .. } = self;
        broken.review(|name| interfaces.get(name).map(Enforced::scene))
    }

    /// How many broken returns there ever were, by interface and direction.
    pub fn broken_counts(&self) -> Vec<BrokenCount> {
        self.broken.counts()
    }

    /// Broken returns of one interface or of all.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn broken(&self, asked: Option<&str>) -> Result<Vec<BrokenReturn>, StateError> {
        let name = asked.map(|asked| self.name(asked)).transpose()?;
        Ok(self.broken.list(name.as_deref()))
    }
}

/// What is in force on an interface.
#[derive(Clone, Copy)]
pub struct InForce<'s> {
    /// The interface, with the setting in force.
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

/// What was seen of an interface while nobody could change it, and its connection table, which is still to be read.
pub(super) struct Glance {
    status: InterfaceStatus,
    rules: InterfaceRules,
    counters: Counters,
    table: Table,
    capacity: u32,
    flags: u64,
    place: String,
    now: u64,
}

impl Glance {
    /// Reads the table. Needs nothing of the daemon, so nobody waits for it.
    pub(super) fn complete(self) -> Result<(InterfaceStatus, InterfaceRules), StateError> {
        let Self { mut status, rules, counters, table, capacity, flags, place, now } = self;
        let flows = table().map_err(|source| StateError::Kernel { interface: place, source })?;
        status.conntrack = Tracking::new(&flows, capacity, &counters, flags, now);
        status.notes.extend(status.conntrack.warning());
        Ok((status, rules))
    }
}

/// What an attachment had to report.
#[derive(Default)]
pub struct Drained {
    /// How many events it was.
    pub events: usize,
    /// Verdicts for whoever listens.
    pub records: Vec<Record>,
    /// Requests and denied replies that belong together, and when.
    pub pairs: Vec<(Pair, String)>,
    /// What they are explained by, where there are any.
    pub scene: Option<Scene>,
    /// Something is looked for, and somebody must see to it.
    pub doubts: bool,
}

impl Enforced {
    fn target(&self) -> Target {
        target(&self.meant.interface)
    }

    fn scene(&self) -> Scene {
        Scene {
            place: self.place(),
            interface: self.meant.interface.clone(),
            compiled: self.meant.compiled.clone(),
            epoch: self.attachment.epoch(),
        }
    }

    /// Whether there is anything to look for.
    fn seek(&mut self, now: u64) -> bool {
        let sought = self.pairing.sought(now);
        self.attachment.seek(&sought);
        self.pairing.doubts()
    }

    pub(super) fn place(&self) -> Place {
        let Target { name: device, netns } = self.attachment.target();
        Place { interface: self.name.clone(), device, netns }
    }

    /// What can only be changed by a restart.
    fn needs_restart(&self, new: &Interface) -> Option<&'static str> {
        let old = &self.meant.interface;
        if old.netns != new.netns {
            Some("netns")
        } else if old.name != new.name && self.attachment.target().name != new.name {
            Some("device")
        } else if old.xdp != new.xdp {
            Some("xdp")
        } else if old.tracking.entries != new.tracking.entries {
            // The table is as large as it was made, and what stands in it is not moved to another.
            Some("[tracking] entries")
        } else {
            None
        }
    }

    fn groups(&self) -> Option<Vec<String>> {
        let groups = self.meant.interface.groups.as_ref()?;
        Some(groups.iter().map(|group| group.name.clone()).collect())
    }

    /// Takes the programs off; what the flow log still holds goes to `logs`.
    pub(super) fn detach(self, logs: &mut FlowLogs) -> Result<(), StateError> {
        let of = Of::new(&self);
        let Self { name, meant: Meant { interface, .. }, attachment, history, .. } = self;
        let failed = |source| StateError::Kernel { interface: text_of(&name, &interface), source };
        let windows = attachment.finish().map_err(failed)?;
        logs.keep(of, windows, &history);
        Ok(())
    }

    pub(super) fn kernel(&self, source: PlaneError) -> StateError {
        StateError::Kernel { interface: text_of(&self.name, &self.meant.interface), source }
    }

    /// Other settings, mode or layers, under the same policy.
    fn toggle(&mut self, interface: Interface, options: Options, source: &Source) -> Result<(), StateError> {
        let mut meant = Meant { interface, options, ..self.meant.clone() };
        meant.compiled.flags = compile::flags(&meant.interface);
        let note = meant.memo(&self.name, &self.history, source, None);
        let epoch =
            self.attachment.toggle(&options, meant.compiled.flags, &note).map_err(|source| self.kernel(source))?;
        self.meant = meant;
        self.history.begin(epoch, &self.meant.compiled.slots);
        Ok(())
    }

    /// Puts in force again what is meant, after another policy was on its way or in force.
    pub(super) fn put_back(&mut self, source: &Source, rejected: Option<&Source>) {
        self.attachment.undo();
        let note = self.meant.memo(&self.name, &self.history, source, rejected);
        match self.attachment.install(&self.meant.options, &self.meant.compiled, Terms { note, confirm: None }) {
            Ok(epoch) => self.history.begin(epoch, &self.meant.compiled.slots),
            Err(error) => {
                let reason = chain(&*error);
                tracing::error!(interface = self.name, reason, "the old policy could not be put back");
            }
        }
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
            modes: Modes { in_force: Setting::of(&self.meant.interface), policy: self.meant.policy },
            groups: self.groups(),
            epoch: self.attachment.epoch(),
        }
    }

    fn tracking(&self, flows: &[(FlowKey, Entry)], counters: &Counters, now: u64) -> Tracking {
        Tracking::new(flows, self.attachment.tracking_capacity(), counters, self.meant.compiled.flags, now)
    }

    fn rules(&self, counters: &Counters) -> InterfaceRules {
        let counted = Some((&*self.meant.compiled.slots, counters));
        let epoch = Some(self.attachment.epoch());
        interface_rules(&self.name, &self.meant.interface, self.meant.policy, counted, epoch)
    }

    fn glance(&self, now: u64) -> Result<Glance, StateError> {
        let counters = self.counters()?;
        Ok(Glance {
            status: self.status(&counters)?,
            rules: self.rules(&counters),
            table: self.attachment.table().map_err(|source| self.kernel(source))?,
            capacity: self.attachment.tracking_capacity(),
            flags: self.meant.compiled.flags,
            place: text_of(&self.name, &self.meant.interface),
            counters,
            now,
        })
    }

    /// But for what is remembered of connections.
    fn status(&self, counters: &Counters) -> Result<InterfaceStatus, StateError> {
        let InterfaceModes { interface: name, device, netns, modes, groups, epoch } = self.modes();
        let interface = &self.meant.interface;
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
            hooks: self.attachment.hooks(),
            epoch,
            packets: self.totals(counters),
            memory: self.attachment.memory().map_err(|source| self.kernel(source))?,
            notes: self.meant.notes.clone(),
            conntrack: Tracking::default(),
        })
    }

    /// Every packet has one reason, and one slot at most that denied it.
    fn totals(&self, counters: &Counters) -> Totals {
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
            Reason::NonIp => self.meant.options.drop_non_ip,
            _ => true,
        });
        let by_reason: u64 = reasons.map(|(_, counter)| counter.packets).sum();
        let all: u64 = counters.reasons.values().map(|counter| counter.packets).sum();
        let denied = counters.denied + by_reason;
        Totals { allowed: all.saturating_sub(denied), denied }
    }
}

impl Meant {
    /// What is written down of it.
    pub(super) fn memo(&self, name: &str, history: &History, source: &Source, rejected: Option<&Source>) -> Note {
        let Self { interface, policy, notes, .. } = self;
        let memo = Memo {
            name: name.to_owned(),
            interface: interface.clone(),
            setting: *policy,
            notes: notes.clone(),
            history: history.clone(),
            policy: source.clone(),
            rejected: rejected.cloned(),
        };
        memo.note()
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

pub(super) fn target(interface: &Interface) -> Target {
    Target { name: interface.name.clone(), netns: interface.netns.clone() }
}

/// An interface as a person reads it.
fn text_of(name: &str, interface: &Interface) -> String {
    named(name, &interface.name, interface.netns.as_deref())
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
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
