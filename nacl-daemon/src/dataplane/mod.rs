//! The kernel side: load, attach, switch, read counters and events. The only room that imports aya. It knows compiled
//! generations and interfaces, and nothing of rules or policies.
//!
//! The object is loaded once for each interface; only equal generations are shared. What is pinned in a [`Store`] outlives the
//! process and is taken over by the next; without one, programs, maps and links die with it.

mod attach;
mod benchbed;
mod device;
mod error;
mod events;
mod flowlog;
mod generations;
mod hold;
mod leftovers;
mod mapped;
mod maps;
mod memory;
mod netlink;
mod object;
mod outer;
mod record;
mod store;
mod survey;
mod sys;
mod testbed;

use std::{collections::BTreeMap, fs::File, io, mem, path::PathBuf, sync::Arc, time::Duration};

use nacl_common::{
    Control, Counter, Direction, Reason,
    border::{Entry, FlowKey},
    evaluate::Hook,
    flow::Sought,
};

pub use self::{
    attach::{Egress, Hooks, Ingress, Tc},
    benchbed::BenchBed,
    error::DataplaneError,
    events::EventReader,
    flowlog::Window,
    generations::generation_bytes,
    leftovers::{detach_leftovers, holders},
    maps::{FlowTable, now},
    memory::Memory,
    object::{Platform, Program, may_look_around, missing, platform},
    record::Note,
    store::{Site, Store},
    survey::{Found, Offload, Place, Queues, Survey, XdpMode, carries_ethernet, survey},
    testbed::{TestBed, Wire},
};
use self::{
    hold::{Hold, Link},
    maps::{Account, Adopted, Maps},
    object::{Build, Object},
    record::{Known, Loaded, Record},
    store::{Home, Staging},
};
use crate::{
    compile::{Compiled, SlotTable},
    netns,
    resolve::{Interface, Side, Tracking, Xdp, flowlog::FlowLog},
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

impl Events {
    /// The flags of the control word.
    const fn flags(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Denied => Control::EVENTS_DENIED,
            Self::All => Control::EVENTS_DENIED | Control::EVENTS_ALLOWED,
        }
    }
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
    /// What the flow log is told; `None`: there is none.
    pub flow_log: Option<LogOptions>,
}

/// What a flow log is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Packets that are let pass.
    pub accepted: bool,
    /// Packets that are not.
    pub rejected: bool,
    /// Records there is room for in a window.
    pub entries: u32,
}

impl From<&FlowLog> for LogOptions {
    fn from(log: &FlowLog) -> Self {
        Self { accepted: log.told.accepted(), rejected: log.told.rejected(), entries: log.entries }
    }
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
            flow_log: interface.flow_log.as_deref().map(LogOptions::from),
        }
    }
}

impl Options {
    /// The flags of the control word.
    const fn flags(self) -> u64 {
        let mut flags = self.events.flags();
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
        if let Some(LogOptions { accepted, rejected, .. }) = self.flow_log {
            if accepted {
                flags |= Control::LOGS_ALLOWED;
            }
            if rejected {
                flags |= Control::LOGS_DENIED;
            }
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
    /// Packets that slots denied, those of rules that are gone too.
    pub denied: u64,
    /// Events that were not taken, because there were too many at once.
    pub events_suppressed: u64,
}

/// Programs on one interface. Detaches when dropped.
pub struct Attachment {
    target: Target,
    hooks: Hooks,
    /// What keeps the programs on ingress and egress; empty once they are off, or left where they are.
    holds: Vec<(Hook, Hold)>,
    maps: Maps,
    events: EventReader,
    /// The interface's namespace, kept open: its name may go before the interface does.
    namespace: Option<File>,
    /// Whether the clsact qdisc is ours to remove.
    made_qdisc: bool,
    /// Where what outlives this process is written down; `None`: nothing does.
    journal: Option<(Home, Record)>,
}

// It is kept by whatever task serves the interface.
const _: () = {
    const fn send<T: Send>() {}
    send::<Attachment>();
};

/// On which terms a policy is put in force.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// What whoever takes over is to find with it.
    pub note: Note,
    /// How long the programs wait for [`Attachment::confirm`] before they go back by themselves to what was in force before.
    pub confirm: Option<Duration>,
}

/// How programs are put on an interface, beside what the policy says.
#[derive(Clone, Debug, Default)]
pub struct Start<'s> {
    /// How TC programs are attached.
    pub tc: Tc,
    /// Where everything is pinned; `None`: programs, maps and links die with this process.
    pub store: Option<&'s Store>,
    /// Of the first policy.
    pub terms: Terms,
}

/// What was found of a process that is gone.
pub enum Left {
    /// Programs that enforce; they are in charge of us now.
    Here(Box<Attachment>),
    /// A first policy that nobody confirmed in time. It was enforced no longer, and has been taken off; the note it had.
    Unconfirmed(Note),
}

/// As [`attach_with`], leaving nothing behind that outlives this process.
///
/// # Errors
/// See [`DataplaneError`].
pub fn attach(target: &Target, options: &Options, compiled: &Compiled) -> Result<Attachment, DataplaneError> {
    attach_with(target, options, compiled, Start::default())
}

/// Loads the programs for one interface, installs the policy, then attaches ingress and egress. What a process that is gone has
/// pinned on these hooks is replaced in place, whatever its version. When any of it fails, nothing stays behind, or what was there.
///
/// # Errors
/// See [`DataplaneError`].
pub fn attach_with(
    target: &Target,
    options: &Options,
    compiled: &Compiled,
    start: Start<'_>,
) -> Result<Attachment, DataplaneError> {
    let Start { tc, store, terms: Terms { note, confirm } } = start;
    object::usable(target.netns.is_some())?;
    let namespace = device::open_namespace(target)?;
    // A wrong interface is said before a second is spent on loading.
    let device = device::find(target, namespace.as_ref())?;
    let home = store.map(|store| store.lock(device::namespace_id(namespace.as_ref())?, &device)).transpose()?;
    // Opened before anything is removed: a link lives for as long as somebody has it.
    let old = home.as_ref().map(Home::links).unwrap_or_default();
    let staging = home.as_ref().map(Home::stage).transpose()?;
    let mut object = Object::load(compiled, options, Build::Real)?;
    if let Some(staging) = &staging {
        object.pin(staging.path())?;
    }
    let mut maps = Maps::take(&mut object, false)?;
    if let Some(staging) = &staging {
        maps.pin(staging.path());
    }
    let mut first = None;
    maps.install(*options, compiled, confirm, &mut |epoch, account, _| {
        first = Some((epoch, Known { account: account.clone(), note: note.clone() }));
        Ok(())
    })?;
    let events = EventReader::take(&mut object, options.trace)?;
    let old = old.into_iter().filter(|link| link.on().is_ok_and(|on| on.ifindex == device.ifindex)).collect();
    let (way, mut made_qdisc) = (attach::Way { xdp: options.xdp, tc }, false);
    let attached =
        netns::within_open(namespace.as_ref(), || attach::attach(&mut object, &device, way, old, &mut made_qdisc))
            .map_err(|source| DataplaneError::Namespace { name: target.netns.clone().unwrap_or_default(), source })
            .and_then(|attached| attached);
    let attached = match attached {
        Ok(attached) => attached,
        Err(error) => {
            if made_qdisc {
                let removed = netns::within_open(namespace.as_ref(), || netlink::remove_empty_clsact(device.ifindex));
                if let Err(error) | Ok(Err(error)) = removed {
                    tracing::warn!(device = device.name, reason = %error, "the clsact qdisc stays");
                }
            }
            return Err(error);
        }
    };
    // From here on `attachment` cleans up, also where writing fails.
    let mut attachment = Attachment {
        target: target.clone(),
        holds: vec![(Hook::Ingress, attached.ingress), (Hook::Egress, attached.egress)],
        hooks: attached.hooks,
        maps,
        events,
        namespace,
        made_qdisc,
        journal: None,
    };
    let record = Record {
        netns: target.netns.clone(),
        loaded: Loaded { xdp: options.xdp, tc, trace: options.trace, entries: options.tracking.entries },
        hooks: attachment.hooks.clone(),
        made_qdisc,
        epochs: first.into_iter().collect(),
    };
    staging.map(|staging| attachment.pin(&mut object, staging, &record)).transpose()?;
    if let Some(home) = home {
        attachment.maps.pin(&home.pins());
        attachment.journal = Some((home, record));
    }
    Ok(attachment)
}

/// What processes of this owner that are gone have left, with the record where there is one.
fn left_by(store: &Store) -> impl Iterator<Item = (Home, Option<serde_json::Result<Record>>)> {
    let ours = store.abandoned().into_iter().filter(|home| home.owner() == store.owner());
    ours.map(|home| {
        let record = home.read().map(|bytes| serde_json::from_slice(&bytes));
        (home, record)
    })
}

/// Takes over whatever processes of this owner that are gone have left on interfaces, as it is: programs, policy, connections,
/// counters. What nobody confirmed in time is undone. Interfaces that are gone are forgotten; what this build does not know stays as
/// it is until [`attach_with`] replaces it, or [`sweep`] takes it off.
pub fn restore(store: &Store) -> Vec<Left> {
    let mut all = Vec::new();
    for (home, record) in left_by(store) {
        let name = home.name().to_owned();
        match record {
            Some(Ok(record)) => match adopt(home, record) {
                Ok(Ok(left)) => all.push(left),
                Ok(Err(why)) => tracing::info!(pins = name, reason = %why, "what is pinned is not taken over"),
                Err(error) => tracing::warn!(pins = name, reason = %error, "what is pinned cannot be taken over"),
            },
            Some(Err(error)) => tracing::warn!(pins = name, reason = %error, "the record cannot be read"),
            None => tracing::info!(pins = name, reason = "it has no record", "what is pinned is not taken over"),
        }
    }
    all
}

/// Takes off what is left of this owner on interfaces that nobody is in charge of by now. Returns what could not be taken off.
pub fn sweep(store: &Store) -> Vec<DataplaneError> {
    let mut failed = Vec::new();
    for (home, record) in left_by(store) {
        tracing::info!(pins = home.name(), "nothing is to be enforced there any more");
        let cleared = match record {
            Some(Ok(record)) => clear_away(home, &record),
            // Killed before it was written, or it is torn; what is pinned ends with its pins.
            Some(Err(_)) | None => home.leave(),
        };
        failed.extend(cleared.err());
    }
    failed
}

/// Index of an interface, if it is here. A namespace that is about to be made is not here yet.
///
/// # Errors
/// The namespace cannot be entered.
pub fn find(target: &Target) -> Result<Option<u32>, DataplaneError> {
    let absent =
        |source: &io::Error| source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::EINVAL);
    let found = device::open_namespace(target).and_then(|namespace| {
        netns::within_open(namespace.as_ref(), || device::index(&target.name))
            .map_err(|source| DataplaneError::Namespace { name: target.netns.clone().unwrap_or_default(), source })
    });
    match found {
        Err(DataplaneError::Namespace { source, .. }) if absent(&source) => Ok(None),
        found => found,
    }
}

/// The namespace and the present name of a record's interface; nothing where either is gone.
fn whereabouts(home: &Home, record: &Record) -> Option<(Option<File>, Target)> {
    let ifindex = record.hooks.ifindex;
    let known = Target { name: String::new(), netns: record.netns.clone() };
    let namespace = device::open_namespace(&known).ok()?;
    // A namespace of the same name may be another one.
    let same = device::namespace_id(namespace.as_ref()).is_ok_and(|id| home.is_of(id));
    let name = netns::within_open(namespace.as_ref(), || device::name(ifindex)).ok().flatten()?;
    // An index is not given twice soon, but a link tells for sure.
    let alive = home.links().iter().all(|link| link.on().is_ok_and(|on| on.ifindex == ifindex));
    (same && alive).then_some((namespace, Target { name, ..known }))
}

fn clear_away(home: Home, record: &Record) -> Result<(), DataplaneError> {
    if let Some((namespace, target)) = whereabouts(&home, record) {
        let failed = |source| DataplaneError::Detach { interface: target.name.clone(), source };
        let off = netns::within_open(namespace.as_ref(), || {
            for link in home.links() {
                link.detach()?;
            }
            for hook in [Hook::Ingress, Hook::Egress] {
                hold::remove_filter(record.hooks.ifindex, hook)?;
            }
            if record.made_qdisc { netlink::remove_empty_clsact(record.hooks.ifindex) } else { Ok(()) }
        });
        off.and_then(|off| off).map_err(failed)?;
    }
    home.leave()
}

/// Inside: why it cannot be taken over.
fn adopt(mut home: Home, record: Record) -> Result<Result<Left, &'static str>, DataplaneError> {
    let Some((namespace, target)) = whereabouts(&home, &record) else {
        home.leave()?;
        return Ok(Err("the interface is gone"));
    };
    let pins = home.pins();
    if !pins.is_dir() {
        return Ok(Err("it is of another version, or incomplete"));
    }
    let ifindex = record.hooks.ifindex;
    let mut holds = Vec::new();
    let hooks = [
        (Hook::Ingress, store::INGRESS, record.hooks.ingress_program),
        (Hook::Egress, store::EGRESS, record.hooks.egress_program),
    ];
    for (hook, name, program) in hooks {
        let (hold, found) = if let Ok(link) = Link::pinned(&pins.join(name)) {
            let found = link.on().ok().map(|on| on.program);
            (Hold::Link(link), found)
        } else {
            let found = netns::within_open(namespace.as_ref(), || hold::filter(ifindex, hook));
            (Hold::Filter, found.and_then(|found| found).unwrap_or_default())
        };
        if found != Some(program) {
            return Ok(Err("other programs are on its hooks"));
        }
        holds.push((hook, hold));
    }
    home.claim()?;
    let accounts = record.epochs.iter().map(|(epoch, known)| (*epoch, known.account.clone())).collect();
    let maps = match Maps::adopt(&pins, &accounts)? {
        Adopted::Here(maps) => *maps,
        Adopted::Unknown => return Ok(Err("what is in force was not written down")),
        Adopted::Unconfirmed(epoch) => {
            let note = record.epochs.get(&epoch).map(|known| known.note.clone()).unwrap_or_default();
            clear_away(home, &record)?;
            return Ok(Ok(Left::Unconfirmed(note)));
        }
    };
    let events = EventReader::pinned(&mut object::Pinned(&pins))?;
    Ok(Ok(Left::Here(Box::new(Attachment {
        target,
        hooks: record.hooks.clone(),
        holds,
        maps,
        events,
        namespace,
        made_qdisc: record.made_qdisc,
        journal: Some((home, record)),
    }))))
}

impl Attachment {
    /// Pins links and programs beside the maps, and writes the record. Only then do they count.
    fn pin(&self, object: &mut Object, staging: Staging<'_>, record: &Record) -> Result<(), DataplaneError> {
        let failed = |path: PathBuf| move |source| DataplaneError::Store { path, source };
        let place = staging.path();
        for ((hook, hold), name) in self.holds.iter().zip([store::INGRESS, store::EGRESS]) {
            if let Hold::Link(link) = hold {
                let path = place.join(name);
                link.pin(&path).map_err(failed(path))?;
            }
            let path = place.join(store::PROGRAMS[*hook as usize]);
            let program = object.attached(*hook, self.hooks.ingress)?;
            sys::pin(program, &path).map_err(failed(path))?;
        }
        let text = record.text().map_err(failed(place.to_owned()))?;
        staging.commit(&text)
    }

    /// How ingress and egress are attached.
    pub const fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// The interface.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Whether the interface is still here with our programs on it, by whatever name: [`Self::target`] has it from now on. False
    /// also where its namespace has lost its name, or was given to another.
    pub fn look(&mut self) -> bool {
        let of = |namespace: Option<&File>| device::namespace_id(namespace).ok();
        let known = device::open_namespace(&self.target)
            .is_ok_and(|there| of(there.as_ref()).is_some_and(|id| of(self.namespace.as_ref()) == Some(id)));
        let ifindex = self.hooks.ifindex;
        let on = |(hook, hold): &(Hook, Hold)| match hold {
            // 0 where the interface is gone; another one may have its number by now.
            Hold::Link(link) => link.on().is_ok_and(|on| on.ifindex == ifindex),
            Hold::Filter => hold::filter(ifindex, *hook).is_ok_and(|filter| filter.is_some()),
        };
        let name = || self.holds.iter().all(on).then(|| device::name(ifindex)).flatten();
        match known.then(|| netns::within_open(self.namespace.as_ref(), name)) {
            Some(Ok(Some(name))) => {
                self.target.name = name;
                true
            }
            _ => false,
        }
    }

    /// Switches to another policy and other settings at once, and returns the new epoch. The maps of the new
    /// generation are complete before the switch; where anything fails, the old one stays in force.
    ///
    /// # Errors
    /// See [`DataplaneError`].
    pub fn install(
        &mut self,
        options: &Options,
        compiled: &Compiled,
        Terms { note, confirm }: Terms,
    ) -> Result<u32, DataplaneError> {
        let journal = &mut self.journal;
        self.maps.install(*options, compiled, confirm, &mut |epoch, account, keep| {
            write_down(journal, epoch, account, &note, keep)
        })
    }

    /// Changes settings alone, and returns the new epoch: `flags` are those of [`crate::compile::flags`]. One store of the
    /// control word; no packet is judged by anything between the two.
    ///
    /// # Errors
    /// The connection table is of another size than the options say, or a change awaits confirmation.
    pub fn toggle(&mut self, options: &Options, flags: u64, note: &Note) -> Result<u32, DataplaneError> {
        let journal = &mut self.journal;
        self.maps.toggle(*options, flags, &mut |epoch, account, keep| write_down(journal, epoch, account, note, keep))
    }

    /// Has the kernel report no packets, denied ones, or all of them. Nothing is judged otherwise.
    pub fn report(&mut self, events: Events) {
        self.maps.report(events);
    }

    /// Has requests to these services reported though they pass, and to no others, until the next switch; so many at once as
    /// [`nacl_common::Control::SOUGHT_AT_ONCE`] says. Nothing is judged otherwise.
    pub fn seek(&self, sought: &[Sought]) {
        self.maps.seek(sought);
    }

    /// How long a change still waits for confirmation: nothing where none does, zero where the programs have gone back.
    pub fn pending(&self) -> Option<Duration> {
        self.maps.pending()
    }

    /// Begins anew to wait for confirmation, where a change does.
    pub fn wait(&self, confirm: Duration) {
        self.maps.wait(confirm);
    }

    /// Makes a change stay that awaits confirmation; false where none does, or it is too late.
    pub fn confirm(&mut self) -> bool {
        self.maps.confirm()
    }

    /// Goes back at once to what was in force before the change that awaits confirmation. It is to be installed again then, under a
    /// number of its own. False where there was nothing before it: then nothing judges.
    pub fn undo(&mut self) -> bool {
        self.maps.undo()
    }

    /// What was noted with an epoch, as far as it is still known: the one in force, and the one before a change that awaits
    /// confirmation, or was not confirmed in time.
    pub fn note(&self, epoch: u32) -> Option<(&Note, &Arc<SlotTable>)> {
        let (_, record) = self.journal.as_ref()?;
        record.epochs.get(&epoch).map(|known| (&known.note, &known.account.meaning))
    }

    /// Numbers of the change in force, of the last one, and of the one it would go back to: `(in force, last, before)`.
    pub fn epochs(&self) -> (u32, u32, Option<u32>) {
        self.maps.epochs()
    }

    /// Whether the programs would have to be loaded anew for these options.
    pub fn needs_loading(&self, options: &Options) -> bool {
        let loaded = self.journal.as_ref().map(|(_, record)| record.loaded);
        loaded.is_some_and(|loaded| {
            (loaded.xdp, loaded.trace, loaded.entries) != (options.xdp, options.trace, options.tracking.entries)
        })
    }

    /// Everything that is remembered of connections, expired or not, in no order. While packets come and go some may be
    /// missed.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, DataplaneError> {
        self.maps.flows()
    }

    /// The same table, to be read without this attachment.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn table(&self) -> Result<FlowTable, DataplaneError> {
        self.maps.table()
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

    /// Ends the window of the flow log that runs, and begins another. Nothing where no flow log is wanted.
    ///
    /// # Errors
    /// The kernel has no map for another; the window goes on.
    pub fn turn(&mut self) -> Result<(), DataplaneError> {
        self.maps.turn()
    }

    /// The window of the flow log that runs, as far as it has come, and those that are over and not written yet, oldest first.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn windows(&self) -> Result<(Option<Window>, Vec<Window>), DataplaneError> {
        self.maps.read_windows()
    }

    /// Forgets windows of the flow log that are over.
    pub fn written(&mut self, windows: &[u32]) {
        self.maps.windows().written(windows);
    }

    /// The counters, summed over all CPUs.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        self.maps.counters()
    }

    /// Of [`Self::counters`] the one of packets that were not reported.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn suppressed(&self) -> Result<u64, DataplaneError> {
        self.maps.suppressed()
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

    /// As [`Self::detach`], and returns what the flow log holds that nobody has written. Read when no program is left to write to
    /// it.
    ///
    /// # Errors
    /// As there, or a map cannot be read.
    pub fn finish(mut self) -> Result<Vec<Window>, DataplaneError> {
        self.take_off()?;
        let (running, mut over) = self.windows()?;
        over.extend(running);
        Ok(over)
    }

    /// Leaves everything as it is, enforced by the kernel alone. False where that cannot be: nothing is pinned, and it ends here.
    pub fn leave(mut self) -> bool {
        let pinned = self.journal.is_some();
        if pinned {
            self.holds.clear();
        }
        pinned
    }

    fn take_off(&mut self) -> Result<(), DataplaneError> {
        let holds = mem::take(&mut self.holds);
        if holds.is_empty() {
            return Ok(());
        }
        let (ifindex, made_qdisc) = (self.hooks.ifindex, self.made_qdisc);
        // Filters and qdiscs are removed by interface index, so this must happen where the index is meant.
        let off = netns::within_open(self.namespace.as_ref(), || {
            for (hook, hold) in &holds {
                hold.release(ifindex, *hook)?;
            }
            if made_qdisc { netlink::remove_empty_clsact(ifindex) } else { Ok(()) }
        });
        off.and_then(|off| off)
            .map_err(|source| DataplaneError::Detach { interface: self.target.name.clone(), source })?;
        // Only now: as long as programs run, whoever comes must find them.
        self.journal.take().map_or(Ok(()), |(home, _)| home.leave())
    }
}

/// Writes an epoch into the record, before it is in force.
fn write_down(
    journal: &mut Option<(Home, Record)>,
    epoch: u32,
    account: &Account,
    note: &Note,
    keep: &[u32],
) -> Result<(), DataplaneError> {
    let Some((home, record)) = journal else { return Ok(()) };
    record.epochs.retain(|known, _| keep.contains(known));
    record.epochs.insert(epoch, Known { account: account.clone(), note: note.clone() });
    let text = record.text().map_err(|source| DataplaneError::Store { path: home.pins(), source })?;
    home.write(&text)
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            let (interface, netns) = (&self.target.name, self.target.netns.as_deref());
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(interface, netns, error, "not everything was taken off");
        }
    }
}
