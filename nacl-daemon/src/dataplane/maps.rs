//! The maps of one interface: installing a generation, the control word, counters. Knows nothing of hooks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aya::{
    Pod,
    maps::{Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use nacl_common::{
    Action, Control, Counter, Direction, Reason,
    border::{
        Counts, Entry, FIRST_RULE_SLOT, FlowKey, FragmentKey, Kept, Large, LogKey, Logged, Medium, Shared, Small, Tier,
        implicit_slot,
    },
    evaluate::slot_reason,
    flow::{self, Sought},
    reason::REASONS,
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{
    Counters, DataplaneError, Events, Memory, Options, Window,
    flowlog::{FLOW_LOG, Windows},
    generations::{self, Generations},
    mapped::Mapped,
    memory,
    object::{self, Object, Pinned, Source},
    outer::{self, Outer},
    sys::{self, Command},
};
use crate::compile::{Compiled, SlotTable};

/// A type of the border: every pattern of bits is a value.
pub trait Border: Copy + Default {}

impl Border for FlowKey {}
impl Border for Kept {}
impl Border for LogKey {}
impl Border for Logged {}

/// Makes a type of the border one that aya may copy to and from maps.
macro_rules! pod {
    ($($name:ident($inner:ty);)+) => {$(
        #[repr(transparent)]
        #[derive(Clone, Copy)]
        pub struct $name(pub $inner);
        // SAFETY: repr(C), and nacl-common asserts that it has no padding; every bit pattern is a value.
        unsafe impl Pod for $name {}

        impl<'a> From<&'a $inner> for &'a $name {
            fn from(inner: &'a $inner) -> Self {
                // SAFETY: the wrapper is transparent.
                unsafe { &*ptr::from_ref(inner).cast() }
            }
        }
    )+};
}

pod! {
    SmallPod(Small);
    MediumPod(Medium);
    LargePod(Large);
    CounterPod(Counter);
    CountsPod(Counts);
    BucketPod([u64; 2]);
    ControlPod([u64; Control::WORDS]);
    KeyPod(FlowKey);
    KeptPod(Kept);
    FragmentPod(FragmentKey);
    SharedPod(Shared);
    LogKeyPod(LogKey);
    LoggedPod(Logged);
}

/// What this process must know beside the maps to make sense of them, of one epoch. It is written down before the epoch is in
/// force, for whoever comes after us.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// What the slots mean.
    pub meaning: Arc<SlotTable>,
    /// Slots that count outbound packets, those that count what they deny, and all that were ever in use. Those of rules that are
    /// gone too: until their slot is another's, late packets are booked there.
    outbound: BTreeSet<u16>,
    denies: BTreeSet<u16>,
    ever: BTreeSet<u16>,
    /// What slots told of reasons before they were cleared, by number of the reason and direction.
    cleared: BTreeMap<u8, [(u64, u64); 2]>,
    /// Packets that slots denied before they were cleared.
    denied: u64,
    /// One more than the highest slot ever in use.
    used: u32,
}

impl Account {
    /// Adds what a slot has told of a reason.
    fn told(&mut self, (reason, direction): (Reason, Direction), counter: Counter) {
        let (packets, bytes) = &mut self.cleared.entry(reason as u8).or_default()[direction as usize];
        *packets = packets.wrapping_add(counter.packets);
        *bytes = bytes.wrapping_add(counter.bytes);
    }

    /// Why packets were judged that a slot has counted alone, and in which direction; nothing of a slot never in use.
    fn reason(&self, slot: u16) -> Option<(Reason, Direction)> {
        let outbound = match slot {
            FIRST_RULE_SLOT.. if !self.ever.contains(&slot) => return None,
            FIRST_RULE_SLOT.. => self.outbound.contains(&slot),
            _ => slot & implicit_slot(Direction::Outbound, false) != 0,
        };
        Some((slot_reason(slot), if outbound { Direction::Outbound } else { Direction::Inbound }))
    }

    /// Slots that mean something else to the next policy, and have counted before.
    fn fresh(&self, next: &SlotTable) -> Vec<u16> {
        let mut fresh = next.new_since(&self.meaning);
        fresh.retain(|slot| u32::from(*slot) < self.used);
        fresh
    }

    /// From here on slots mean this.
    fn begin(&mut self, meaning: &Arc<SlotTable>) {
        for (slot, one) in &meaning.slots {
            self.ever.insert(*slot);
            match one.direction {
                Direction::Inbound => self.outbound.remove(slot),
                Direction::Outbound => self.outbound.insert(*slot),
            };
            match one.action {
                Action::Allow => self.denies.remove(slot),
                Action::Deny => self.denies.insert(*slot),
            };
        }
        self.used = self.used.max(meaning.len() as u32);
        self.meaning = Arc::clone(meaning);
    }

    /// What slots told before they were cleared.
    fn reasons(&self) -> BTreeMap<(Reason, Direction), Counter> {
        let told = self.cleared.iter().filter_map(|(number, both)| Some((Reason::from_number(*number)?, both)));
        told.flat_map(|(reason, both)| {
            Direction::ALL.map(|direction| {
                let (packets, bytes) = both[direction as usize];
                ((reason, direction), Counter { packets, bytes })
            })
        })
        .collect()
    }
}

/// Writes down an epoch, before it is in force: its number, its account, and the epochs that must stay known beside it.
pub type Journal<'j> = &'j mut dyn FnMut(u32, &Account, &[u32]) -> Result<(), DataplaneError>;

/// For whoever leaves nothing behind.
#[expect(clippy::unnecessary_wraps, reason = "it is one of the journals")]
pub fn unwritten(_: u32, _: &Account, _: &[u32]) -> Result<(), DataplaneError> {
    Ok(())
}

/// What holds again when a change that awaits confirmation is undone; nothing where there was nothing before it.
struct Fallback {
    control: Control,
    before: Option<(Arc<SlotTable>, generations::At)>,
}

/// What came of taking maps over.
pub enum Adopted {
    /// They are ours.
    Here(Box<Maps>),
    /// What is in force was not written down.
    Unknown,
    /// The first policy there was nobody confirmed in time: its epoch.
    Unconfirmed(u32),
}

/// The maps of one interface.
pub struct Maps {
    generations: Generations,
    /// Where the generation in force stands.
    in_force: Option<generations::At>,
    /// While a change awaits confirmation.
    fallback: Option<Fallback>,
    slots: PerCpuArray<MapData, CountsPod>,
    reasons: PerCpuArray<MapData, CounterPod>,
    bucket: PerCpuArray<MapData, BucketPod>,
    flows: HashMap<MapData, KeyPod, KeptPod>,
    fragments: HashMap<MapData, FragmentPod, SharedPod>,
    /// The time in a test bed, with its map.
    clock: Option<(Mapped, Array<MapData, u64>)>,
    /// How many connections there is room for.
    entries: u32,
    /// The words of the control map, by [`Control`]'s constants.
    control: Mapped,
    /// Programs refer to it; only its memory is used.
    _control: Array<MapData, ControlPod>,
    /// Where the ring of keys stands, once connections were tracked.
    rings: Outer,
    /// The ring. It stays when tracking is switched off: connections that are remembered still stand in it.
    ring: Option<Array<MapData, KeyPod>>,
    /// Where the ring is pinned, if it is.
    pins: Option<PathBuf>,
    /// The flow log.
    windows: Windows,
    /// Memory of the maps whose size does not change.
    fixed: Memory,
    account: Account,
}

impl Maps {
    /// Takes the maps out of an object that was just loaded.
    pub fn take(object: &mut Object, test: bool) -> Result<Self, DataplaneError> {
        let clock = if test {
            let clock: Array<MapData, u64> = object.map("CLOCK")?;
            Some((Mapped::new::<u64>(clock.map()).map_err(DataplaneError::ControlWord)?, clock))
        } else {
            None
        };
        Self::of(object, clock)
    }

    fn of(maps: &mut impl Source, clock: Option<(Mapped, Array<MapData, u64>)>) -> Result<Self, DataplaneError> {
        let fixed = maps.memory().map_err(memory::unknown)?;
        let control: Array<MapData, ControlPod> = maps.map("CONTROL")?;
        let flows: HashMap<MapData, KeyPod, KeptPod> = maps.map("FLOWS")?;
        let entries = flows.map().info().map_err(|source| DataplaneError::Map { map: "FLOWS", source })?.max_entries();
        Ok(Self {
            generations: Generations::take(maps)?,
            in_force: None,
            fallback: None,
            slots: maps.map("SLOTS")?,
            reasons: maps.map("REASON")?,
            bucket: maps.map("BUCKET")?,
            flows,
            fragments: maps.map("FRAGMENTS")?,
            clock,
            entries,
            control: Mapped::new::<ControlPod>(control.map()).map_err(DataplaneError::ControlWord)?,
            _control: control,
            rings: maps.outer("RING")?,
            ring: None,
            pins: None,
            windows: Windows::new(maps.outer(FLOW_LOG)?),
            fixed,
            account: Account::default(),
        })
    }

    /// Pins from here on what is made later, in the directory where the object's own maps are pinned.
    pub fn pin(&mut self, directory: &Path) {
        self.windows.pin(directory);
        self.pins = Some(directory.to_owned());
    }

    /// Opens maps that another process has left and the programs still use, and takes back what nobody confirmed in time.
    /// `accounts`: what it wrote down, by epoch.
    pub fn adopt(pins: &Path, accounts: &BTreeMap<u32, Account>) -> Result<Adopted, DataplaneError> {
        let mut maps = Self::of(&mut Pinned(pins), None)?;
        maps.pins = Some(pins.to_owned());
        maps.windows.adopt(pins, maps.now())?;
        let last = Control(maps.word(0).load(Ordering::Acquire));
        let Some(account) = accounts.get(&last.epoch()) else { return Ok(Adopted::Unknown) };
        maps.account = account.clone();
        maps.in_force = at(last);
        if last.has(Control::PENDING) {
            let control = Control(maps.word(Control::FALLBACK).load(Ordering::Acquire));
            let before = accounts.get(&control.epoch()).map(|account| Arc::clone(&account.meaning)).zip(at(control));
            maps.fallback = Some(Fallback { control, before });
            if maps.control() != last && !maps.undo() {
                let first = control.epoch() == 0;
                return Ok(if first { Adopted::Unconfirmed(last.epoch()) } else { Adopted::Unknown });
            }
        }
        // Killed after an epoch was written down and before it was in force: what was to be cleared is cleared now. Those slots are
        // free, so nothing has counted in them since.
        if let Some((_, next)) = accounts.iter().find(|(epoch, _)| **epoch > last.epoch()) {
            let fresh = maps.account.fresh(&next.meaning);
            maps.account.cleared.clone_from(&next.cleared);
            maps.account.denied = next.denied;
            for slot in fresh {
                clear("SLOTS", &mut maps.slots, slot.into())?;
            }
        }
        let stay: Vec<_> = maps.in_force.into_iter().chain(maps.before()).collect();
        maps.generations.keep(&stay)?;
        if let Ok(ring) = MapData::from_pin(pins.join(object::RING_KEYS)) {
            let failed = |source| DataplaneError::Map { map: "RING", source };
            let ring: Array<MapData, KeyPod> = Map::from_map_data(ring).and_then(Array::try_from).map_err(failed)?;
            maps.rings.put(0, ring.map()).map_err(|source| failed(MapError::IoError(source)))?;
            maps.ring = Some(ring);
        }
        Ok(Adopted::Here(Box::new(maps)))
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        self.control.word(index)
    }

    /// The control word in force, by which the programs judge now: where nobody confirmed a change in time, the one before it.
    pub fn control(&self) -> Control {
        let [word, fallback, deadline] =
            [0, Control::FALLBACK, Control::DEADLINE].map(|index| self.word(index).load(Ordering::Acquire));
        Control(word).in_force(Control(fallback), deadline, self.now())
    }

    /// Number of the last change, in force or undone. No number is given twice.
    fn last_epoch(&self) -> u32 {
        Control(self.word(0).load(Ordering::Acquire)).epoch()
    }

    fn before(&self) -> Option<generations::At> {
        self.fallback.as_ref()?.before.as_ref().map(|(_, at)| *at)
    }

    /// Writes a generation into a map of its own, puts that into a free slot, and switches with one store. Returns the
    /// new epoch. Until the store, nothing that is in force was touched. `confirm`: how long the programs wait for
    /// [`Self::confirm`] before they go back to what is in force now.
    pub fn install(
        &mut self,
        options: Options,
        compiled: &Compiled,
        confirm: Option<Duration>,
        journal: Journal<'_>,
    ) -> Result<u32, DataplaneError> {
        let (needed, there) = (object::slots(compiled), self.slots.len());
        if needed > there {
            return Err(DataplaneError::TooManySlots { needed, there });
        }
        self.same_table(&options)?;
        self.settled()?;
        let now: Vec<_> = self.in_force.into_iter().collect();
        let at = self.generations.put(&now, compiled)?;
        let mut account = self.account.clone();
        // The policy in force counts in none of these slots, and since the new generation is in no program runs any more that began
        // under the one before: so nothing is lost and nothing comes in between.
        let fresh = account.fresh(&compiled.slots);
        for slot in &fresh {
            let Counts { alone, others } = self.counts(*slot)?;
            if account.denies.contains(slot) {
                account.denied += alone.packets + others.packets;
            }
            if let Some(reason) = account.reason(*slot) {
                account.told(reason, alone);
            }
        }
        account.begin(&compiled.slots);
        let epoch = self.last_epoch().wrapping_add(1);
        let old = self.control();
        let mut new = Control::new(at.1 as u8, at.0, options.flags() | compiled.flags, epoch);
        self.make_ring(new)?;
        self.make_window(&options)?;
        journal(epoch, &account, &[old.epoch(), self.last_epoch()])?;
        for slot in fresh {
            clear("SLOTS", &mut self.slots, slot.into())?;
        }
        let fallback = match confirm {
            Some(confirm) => {
                // Where nothing was in force, nothing is again: no layer judges, and no packet is dropped.
                let control = if old.epoch() == 0 { Control::new(at.1 as u8, at.0, 0, 0) } else { old };
                let before = self.in_force.map(|at| (Arc::clone(&self.account.meaning), at));
                // The word that is there may be of a change that was undone; another deadline would call it back.
                self.word(0).store(old.0, Ordering::Release);
                self.word(Control::FALLBACK).store(control.0, Ordering::Release);
                self.set_deadline(confirm);
                new.0 |= Control::PENDING;
                Some(Fallback { control, before })
            }
            None => None,
        };
        self.switch(&options, new, false);
        self.in_force = Some(at);
        self.fallback = fallback;
        self.account = account;
        self.end_window();
        Ok(epoch)
    }

    /// Changes the flags of the control word, and nothing else: one store. Returns the new epoch.
    pub fn toggle(&mut self, options: Options, flags: u64, journal: Journal<'_>) -> Result<u32, DataplaneError> {
        /// Which generation.
        const GENERATION: u64 = 0xfff;
        self.same_table(&options)?;
        self.settled()?;
        let old = self.control();
        let epoch = self.last_epoch().wrapping_add(1);
        let new = Control(old.0 & GENERATION | options.flags() | flags | u64::from(epoch) << 32);
        self.make_ring(new)?;
        journal(epoch, &self.account, &[old.epoch(), self.last_epoch()])?;
        self.switch(&options, new, true);
        Ok(epoch)
    }

    /// Has requests to these services reported though they pass, and to no others. No switch: nothing is judged otherwise, so the epoch stays.
    /// Where everything is reported that passes, nothing need be looked for.
    pub fn seek(&self, sought: &[Sought]) {
        const BOTH: u64 = Control::SEEKS | Control::EVENTS_ALLOWED;
        let old = Control(self.word(0).load(Ordering::Acquire));
        if old.has(Control::EVENTS_ALLOWED) && !old.has(Control::SEEKS) {
            return;
        }
        for place in 0..Control::SOUGHT_AT_ONCE {
            let sought = sought.get(place).copied().unwrap_or_default();
            self.word(Control::SOUGHT + place).store(sought.0, Ordering::Release);
        }
        let new = if sought.is_empty() { old.0 & !BOTH } else { old.0 | BOTH };
        if new != old.0 {
            self.word(0).store(new, Ordering::Release);
        }
    }

    /// Has the kernel report no packets, denied ones, or all of them. No switch: nothing is judged otherwise, so the epoch stays, and
    /// with it what fragments share. What a change that awaits confirmation would go back to reports the same.
    pub fn report(&mut self, events: Events) {
        const ALL: u64 = Control::EVENTS_DENIED | Control::EVENTS_ALLOWED | Control::SEEKS;
        let told = |word: u64| word & !ALL | events.flags();
        self.word(0).store(told(self.word(0).load(Ordering::Acquire)), Ordering::Release);
        if let Some(Fallback { control, .. }) = &mut self.fallback {
            control.0 = told(control.0);
            let control = control.0;
            self.word(Control::FALLBACK).store(control, Ordering::Release);
        }
    }

    /// Fails while a change awaits confirmation: there is one place for what it would go back to.
    const fn settled(&self) -> Result<(), DataplaneError> {
        if self.fallback.is_some() { Err(DataplaneError::Pending) } else { Ok(()) }
    }

    /// How long a change still waits for confirmation: nothing where none does, zero where the programs have gone back.
    pub fn pending(&self) -> Option<Duration> {
        self.fallback.as_ref()?;
        let deadline = self.word(Control::DEADLINE).load(Ordering::Acquire);
        Some(Duration::from_nanos(deadline.saturating_sub(self.now())))
    }

    /// Begins anew to wait for confirmation, where a change does: what it took to put it in force everywhere is nobody's time to
    /// look at it.
    pub fn wait(&self, confirm: Duration) {
        if self.fallback.is_some() {
            self.set_deadline(confirm);
        }
    }

    fn set_deadline(&self, confirm: Duration) {
        let nanoseconds = u64::try_from(confirm.as_nanos()).unwrap_or(u64::MAX);
        self.word(Control::DEADLINE).store(self.now().saturating_add(nanoseconds), Ordering::Release);
    }

    /// Makes a change stay that awaits confirmation; false where it is too late.
    pub fn confirm(&mut self) -> bool {
        if self.pending().is_none_or(|left| left.is_zero()) {
            return false;
        }
        let control = Control(self.word(0).load(Ordering::Acquire));
        self.word(0).store(control.confirmed().0, Ordering::Release);
        self.fallback = None;
        self.end_window();
        true
    }

    /// Goes back to what was in force before a change that awaits confirmation, at once and by one store. What is in force then is
    /// to be installed again, under a number of its own. False where there was nothing before it: then nothing judges.
    pub fn undo(&mut self) -> bool {
        let Some(Fallback { control, before }) = self.fallback.take() else { return true };
        self.word(Control::DEADLINE).store(0, Ordering::Release);
        tracing::debug!(epoch = control.epoch(), "went back");
        let Some((meaning, at)) = before else { return false };
        // Its rules kept their slots: those of the other policy were free.
        self.account.begin(&meaning);
        self.in_force = Some(at);
        true
    }

    /// Puts a control word in force.
    fn switch(&self, options: &Options, new: Control, same_rules: bool) {
        // Before the first policy no generation is in force, and nothing was tracked.
        let old = self.control();
        let old = (old.epoch() != 0).then(|| (old, self.word(Control::PICKUP).load(Ordering::Acquire)));
        let window = u64::from(options.tracking.pickup) * flow::SECOND;
        let until = flow::pickup_until(old, new, same_rules, self.now(), window);
        // First, so that no packet is judged by the new word and the old time.
        self.word(Control::PICKUP).store(until, Ordering::Release);
        self.word(0).store(new.0, Ordering::Release);
    }

    /// Makes the ring of keys, where connections are to be tracked and unless it is there. Before anything is written down or
    /// cleared for a change: what follows cannot fail half way.
    fn make_ring(&mut self, new: Control) -> Result<(), DataplaneError> {
        /// The size need not be the template's.
        const BPF_F_INNER_MAP: u32 = 1 << 12;
        if flow::tracks(new) && self.ring.is_none() {
            let failed = |source| DataplaneError::Map { map: "RING", source };
            let ring = outer::array(object::ring(self.entries), BPF_F_INNER_MAP).map_err(failed)?;
            if let Some(pins) = &self.pins {
                let path = pins.join(object::RING_KEYS);
                ring.map().pin(&path).map_err(|source| DataplaneError::Pin { path, source })?;
            }
            self.rings.put(0, ring.map()).map_err(|source| failed(MapError::IoError(source)))?;
            self.ring = Some(ring);
        }
        Ok(())
    }

    /// Makes the map of the flow log, where one is wanted and unless it is there. As [`Self::make_ring`].
    fn make_window(&mut self, options: &Options) -> Result<(), DataplaneError> {
        let now = self.now();
        options.flow_log.map_or(Ok(()), |log| self.windows.begin(log.entries, now))
    }

    /// Ends the window of the flow log where none is wanted any more, not by what would be in force again either.
    fn end_window(&mut self) {
        const LOGS: u64 = Control::LOGS_DENIED | Control::LOGS_ALLOWED;
        let words = [0, Control::FALLBACK].map(|word| self.word(word).load(Ordering::Acquire));
        let wanted = if self.fallback.is_some() { words[0] | words[1] } else { words[0] };
        if wanted & LOGS == 0
            && let Err(error) = self.windows.end(self.now())
        {
            tracing::warn!(reason = %error, "the window of a flow log that is switched off stays");
        }
    }

    /// The windows of the flow log.
    pub const fn windows(&mut self) -> &mut Windows {
        &mut self.windows
    }

    /// The window of the flow log that runs, and those that are over.
    pub fn read_windows(&self) -> Result<(Option<Window>, Vec<Window>), DataplaneError> {
        let now = self.now();
        Ok((self.windows.running(now)?, self.windows.over(now)?))
    }

    /// Ends the window of the flow log that runs, and begins another.
    pub fn turn(&mut self) -> Result<(), DataplaneError> {
        let now = self.now();
        self.windows.turn(now)
    }

    const fn same_table(&self, options: &Options) -> Result<(), DataplaneError> {
        let (needed, there) = (options.tracking.entries, self.entries);
        if needed == there { Ok(()) } else { Err(DataplaneError::TableSize { needed, there }) }
    }

    /// Numbers of the change in force, of the last one, and of the one it would go back to.
    pub fn epochs(&self) -> (u32, u32, Option<u32>) {
        let before = self.fallback.as_ref().filter(|fallback| fallback.before.is_some());
        (self.control().epoch(), self.last_epoch(), before.map(|fallback| fallback.control.epoch()))
    }

    /// How many connections there is room for.
    pub const fn capacity(&self) -> u32 {
        self.entries
    }

    /// The time the programs go by, in nanoseconds.
    fn now(&self) -> u64 {
        self.clock.as_ref().map_or_else(now, |(clock, _)| clock.word(0).load(Ordering::Acquire))
    }

    /// Sets the time of a test bed.
    pub fn set_time(&self, now: u64) {
        if let Some((clock, _)) = &self.clock {
            clock.word(0).store(now, Ordering::Release);
        }
    }

    /// Everything that is remembered of connections.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, DataplaneError> {
        entries(self.flows.map().fd().as_fd())
    }

    /// The connection table, to be read without these maps.
    pub fn table(&self) -> Result<FlowTable, DataplaneError> {
        let own = self.flows.map().fd().as_fd().try_clone_to_owned();
        own.map(FlowTable).map_err(|source| table(MapError::IoError(source)))
    }

    /// Forgets the connections that `which` picks, and returns how many. One that had expired when it was picked, and is met
    /// again before it is forgotten, stays.
    pub fn forget(&mut self, which: &mut dyn FnMut(&FlowKey, &Entry) -> bool) -> Result<u64, DataplaneError> {
        let now = self.now();
        let mut forgotten = 0;
        for (key, entry) in self.flows()? {
            if !which(&key, &entry) {
                continue;
            }
            let key = KeyPod(key);
            if entry.expires <= now
                && let Ok(KeptPod(kept)) = self.flows.get(&key, 0)
                && kept.entry.expires != entry.expires
            {
                continue;
            }
            match self.flows.remove(&key) {
                Ok(()) => forgotten += 1,
                Err(source) if gone(&source) => {}
                Err(source) => return Err(table(source)),
            }
        }
        Ok(forgotten)
    }

    /// Forgets the verdicts of all first fragments.
    pub fn forget_fragments(&mut self) -> Result<(), DataplaneError> {
        let keys: Vec<_> = self.fragments.keys().filter_map(Result::ok).collect();
        for key in keys {
            match self.fragments.remove(&key) {
                Err(source) if !gone(&source) => return Err(DataplaneError::Map { map: "FRAGMENTS", source }),
                _ => {}
            }
        }
        Ok(())
    }

    /// What a slot has met, summed over all CPUs.
    fn counts(&self, slot: u16) -> Result<Counts, DataplaneError> {
        let values = self.slots.get(&slot.into(), 0).map_err(refused("SLOTS"))?;
        let mut counts = Counts::default();
        for CountsPod(one) in values.iter() {
            add(&mut counts.alone, one.alone);
            add(&mut counts.others, one.others);
        }
        Ok(counts)
    }

    /// Kernel ids of the maps that hold its generations.
    pub fn generations(&self) -> Result<Vec<u32>, DataplaneError> {
        self.generations
            .ids()
            .map_err(|source| DataplaneError::Ask { what: "which generations there are".into(), source })
    }

    /// What it takes in the kernel.
    pub fn memory(&self) -> Result<Memory, DataplaneError> {
        let bytes = || {
            let ring = self.ring.as_ref().map_or(Ok(0), |ring| memory::of(ring.map()))?;
            let connections = self.fixed.connections + memory::of(self.flows.map())? + ring;
            let other = self.fixed.other + self.windows.bytes()?;
            Ok(Memory { generations: self.generations.bytes()?, connections, other, ..self.fixed })
        };
        bytes().map_err(memory::unknown)
    }

    /// The counters, summed over all CPUs.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        let mut counters = Counters { denied: self.account.denied, ..Counters::default() };
        let mut reasons = self.account.reasons();
        for slot in 0..self.account.used as u16 {
            let Counts { alone, others } = self.counts(slot)?;
            if let Some(reason) = self.account.reason(slot) {
                add(reasons.entry(reason).or_default(), alone);
            }
            let mut all = alone;
            add(&mut all, others);
            if self.account.denies.contains(&slot) {
                counters.denied += all.packets;
            }
            if all != Counter::default() {
                counters.slots.insert(slot, all);
            }
        }
        for &direction in &Direction::ALL {
            for &reason in Reason::ALL {
                let index = direction as u32 * REASONS as u32 + reason as u32;
                let values = self.reasons.get(&index, 0).map_err(refused("REASON"))?;
                let told = reasons.entry((reason, direction)).or_default();
                values.iter().for_each(|CounterPod(one)| add(told, *one));
            }
        }
        reasons.retain(|_, counter| *counter != Counter::default());
        counters.reasons = reasons;
        counters.events_suppressed = self.suppressed()?;
        Ok(counters)
    }

    /// Packets that were not reported, because there were too many at once.
    pub fn suppressed(&self) -> Result<u64, DataplaneError> {
        let buckets = self.bucket.get(&0, 0).map_err(refused("BUCKET"))?;
        Ok(buckets.iter().map(|BucketPod([_, suppressed])| suppressed).sum())
    }
}

/// Where the generation stands that a control word names.
fn at(control: Control) -> Option<generations::At> {
    Some((Tier::from_number(control.tier())?, control.slot()))
}

const fn table(source: MapError) -> DataplaneError {
    DataplaneError::Map { map: "FLOWS", source }
}

/// A connection table by a descriptor of its own: it can be read while something else is done with the maps, and also when they
/// are gone.
#[derive(Debug)]
pub struct FlowTable(OwnedFd);

impl FlowTable {
    /// Everything in it, expired or not, in no order. While packets come and go some may be missed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, DataplaneError> {
        entries(self.0.as_fd())
    }
}

fn entries(map: BorrowedFd<'_>) -> Result<Vec<(FlowKey, Entry)>, DataplaneError> {
    let all: Vec<(FlowKey, Kept)> = read_all(map).map_err(|source| table(MapError::IoError(source)))?;
    Ok(all.into_iter().map(|(key, kept)| (key, kept.entry)).collect())
}

/// Reads a whole hash map, bucket by bucket (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6), which aya does not offer. Going from
/// key to key instead, the kernel begins again whenever the key it stands on is deleted: under a flood, for ever. `K` and `V` are the
/// types of the map's keys and values.
pub fn read_all<K: Border, V: Border>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    /// `struct { ... } batch` of `union bpf_attr`.
    #[repr(C)]
    struct Batch {
        from: u64,
        to: u64,
        keys: u64,
        values: u64,
        count: u32,
        fd: i32,
        element_flags: u64,
        flags: u64,
    }
    const AT_ONCE: usize = 4096;
    let mut keys = vec![K::default(); AT_ONCE];
    let mut values = vec![V::default(); AT_ONCE];
    let mut bucket = 0_u32;
    let mut all = Vec::new();
    let mut begun = false;
    loop {
        let from = if begun { (&raw const bucket) as u64 } else { 0 };
        let mut batch = Batch {
            from,
            to: (&raw mut bucket) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            fd: map.as_raw_fd(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: pointers to as many elements of the map's sizes as `count` says, which outlive the call.
        let done = unsafe { sys::bpf(Command::LookupBatch, &mut batch) };
        // ENOENT comes with what was behind the last key.
        let last = match done {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
            Ok(_) => false,
        };
        let count = (batch.count as usize).min(AT_ONCE);
        all.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if last {
            return Ok(all);
        }
        begun = true;
    }
}

/// Whether a map says that the key is not there, or no longer.
fn gone(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// The clock that the programs go by: `CLOCK_MONOTONIC_COARSE`, in nanoseconds.
///
/// # Panics
/// Never: Linux has that clock.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("Linux has this clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

fn add(sum: &mut Counter, one: Counter) {
    sum.packets = sum.packets.wrapping_add(one.packets);
    sum.bytes = sum.bytes.wrapping_add(one.bytes);
}

fn refused(map: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |source| DataplaneError::Map { map, source }
}

/// Sets a counter to zero on every CPU.
fn clear(map: &'static str, array: &mut PerCpuArray<MapData, CountsPod>, index: u32) -> Result<(), DataplaneError> {
    let cpus = array.get(&index, 0).map_err(refused(map))?.len();
    let zero = PerCpuValues::try_from(vec![CountsPod(Counts::default()); cpus])
        .map_err(|source| refused(map)(MapError::IoError(source)))?;
    array.set(index, zero, 0).map_err(refused(map))
}
