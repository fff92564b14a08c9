//! The maps of one interface: installing a generation, the control word, counters. Knows nothing of hooks.

use std::{
    collections::BTreeMap,
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd},
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::{
    Pod,
    maps::{Array, HashMap, IterableMap, MapData, MapError, PerCpuArray, PerCpuValues},
};
use nacl_common::{
    Control, Counter, Direction, Event, Reason,
    border::{Counts, Entry, FIRST_RULE_SLOT, FlowKey, FragmentKey, Kept, Large, Medium, Shared, Small, implicit_slot},
    evaluate::slot_reason,
    flow,
    reason::REASONS,
};
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
};

use super::{
    Counters, DataplaneError, Memory, Options,
    generations::{self, Generations},
    memory,
    object::{self, Object},
    outer::Outer,
};
use crate::compile::{Compiled, SlotTable};

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
    ControlPod([u64; 2]);
    KeyPod(FlowKey);
    KeptPod(Kept);
    FragmentPod(FragmentKey);
    SharedPod(Shared);
}

/// The maps of one interface.
pub struct Maps {
    generations: Generations,
    /// Where the generation in force stands.
    in_force: Option<generations::At>,
    slots: PerCpuArray<MapData, CountsPod>,
    reasons: PerCpuArray<MapData, CounterPod>,
    bucket: PerCpuArray<MapData, BucketPod>,
    flows: HashMap<MapData, KeyPod, KeptPod>,
    fragments: HashMap<MapData, FragmentPod, SharedPod>,
    /// The time in a test bed, with its map.
    clock: Option<(Mapped, Array<MapData, u64>)>,
    /// How many connections there is room for.
    entries: u32,
    /// The control word, and until when connections met in their middle are taken up.
    control: Mapped,
    /// Programs refer to it; only its memory is used.
    _control: Array<MapData, ControlPod>,
    /// Where the ring of keys stands, once connections were tracked.
    rings: Outer,
    /// The ring. It stays when tracking is switched off: connections that are remembered still stand in it.
    ring: Option<Array<MapData, KeyPod>>,
    /// Memory of the maps whose size does not change.
    fixed: Memory,
    /// What the slots in force mean.
    meaning: Arc<SlotTable>,
    /// Which direction each slot counts that was ever in use.
    directions: BTreeMap<u16, Direction>,
    /// What slots told of reasons before they were cleared.
    cleared: BTreeMap<(Reason, Direction), Counter>,
    /// One more than the highest slot ever in use.
    used: u32,
}

impl Maps {
    /// Takes the maps out of an object.
    pub fn take(object: &mut Object, test: bool) -> Result<Self, DataplaneError> {
        let fixed = object.memory().map_err(memory::unknown)?;
        let control: Array<MapData, ControlPod> = object.map("CONTROL")?;
        let flows: HashMap<MapData, KeyPod, KeptPod> = object.map("FLOWS")?;
        let entries = flows.map().info().map_err(|source| DataplaneError::Map { map: "FLOWS", source })?.max_entries();
        let clock = if test {
            let clock: Array<MapData, u64> = object.map("CLOCK")?;
            Some((Mapped::new(clock.map()).map_err(DataplaneError::ControlWord)?, clock))
        } else {
            None
        };
        Ok(Self {
            generations: Generations::take(object)?,
            in_force: None,
            slots: object.map("SLOTS")?,
            reasons: object.map("REASON")?,
            bucket: object.map("BUCKET")?,
            flows,
            fragments: object.map("FRAGMENTS")?,
            clock,
            entries,
            control: Mapped::new(control.map()).map_err(DataplaneError::ControlWord)?,
            _control: control,
            rings: object.outer("RING")?,
            ring: None,
            fixed,
            meaning: Arc::default(),
            directions: BTreeMap::new(),
            cleared: BTreeMap::new(),
            used: 0,
        })
    }

    /// The control word in force.
    pub fn control(&self) -> Control {
        Control(self.control.word(0).load(Ordering::Acquire))
    }

    /// Writes a generation into a map of its own, puts that into a free slot, and switches with one store. Returns the
    /// new epoch. Until the store, nothing that is in force was touched.
    pub fn install(&mut self, options: Options, compiled: &Compiled) -> Result<u32, DataplaneError> {
        let (needed, there) = (object::slots(compiled), self.slots.len());
        if needed > there {
            return Err(DataplaneError::TooManySlots { needed, there });
        }
        self.same_table(&options)?;
        // The policy in force counts in none of these slots, so nothing is lost and nothing comes in between.
        let fresh = compiled.slots.new_since(&self.meaning);
        for slot in fresh.into_iter().filter(|slot| u32::from(*slot) < self.used) {
            let counts = self.counts(slot)?;
            if let Some(reason) = self.reason(slot) {
                add(self.cleared.entry(reason).or_default(), counts.alone);
            }
            clear("SLOTS", &mut self.slots, slot.into())?;
        }
        self.directions.extend(compiled.slots.slots.iter().map(|(slot, meaning)| (*slot, meaning.direction)));
        let at = self.generations.put(self.in_force, compiled)?;
        self.used = self.used.max(needed);
        let epoch = self.control().epoch().wrapping_add(1);
        let new = Control::new(at.1 as u8, at.0, options.flags() | compiled.flags, epoch);
        self.switch(&options, new, false)?;
        self.in_force = Some(at);
        self.meaning = Arc::clone(&compiled.slots);
        Ok(epoch)
    }

    /// Changes the flags of the control word, and nothing else: one store. Returns the new epoch.
    pub fn toggle(&mut self, options: Options, flags: u64) -> Result<u32, DataplaneError> {
        /// Which generation.
        const GENERATION: u64 = 0xfff;
        self.same_table(&options)?;
        let old = self.control();
        let epoch = old.epoch().wrapping_add(1);
        let new = old.0 & GENERATION | options.flags() | flags | u64::from(epoch) << 32;
        self.switch(&options, Control(new), true)?;
        Ok(epoch)
    }

    /// Puts a control word in force.
    fn switch(&mut self, options: &Options, new: Control, same_rules: bool) -> Result<(), DataplaneError> {
        if flow::tracks(new) {
            self.make_ring()?;
        }
        // Before the first policy no generation is in force, and nothing was tracked.
        let old = self.control();
        let old = (old.epoch() != 0).then(|| (old, self.control.word(1).load(Ordering::Acquire)));
        let window = u64::from(options.tracking.pickup) * flow::SECOND;
        let until = flow::pickup_until(old, new, same_rules, self.now(), window);
        // First, so that no packet is judged by the new word and the old time.
        self.control.word(1).store(until, Ordering::Release);
        self.control.word(0).store(new.0, Ordering::Release);
        Ok(())
    }

    /// Makes the ring of keys, unless it is there.
    fn make_ring(&mut self) -> Result<(), DataplaneError> {
        /// The size need not be the template's.
        const BPF_F_INNER_MAP: u32 = 1 << 12;
        if self.ring.is_none() {
            let failed = |source| DataplaneError::Map { map: "RING", source };
            let ring = Array::create(object::ring(self.entries), BPF_F_INNER_MAP).map_err(failed)?;
            self.rings.put(0, ring.map()).map_err(|source| failed(MapError::IoError(source)))?;
            self.ring = Some(ring);
        }
        Ok(())
    }

    const fn same_table(&self, options: &Options) -> Result<(), DataplaneError> {
        let (needed, there) = (options.tracking.entries, self.entries);
        if needed == there { Ok(()) } else { Err(DataplaneError::TableSize { needed, there }) }
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
        let all = read_flows(self.flows.map()).map_err(|source| table(MapError::IoError(source)))?;
        Ok(all.into_iter().map(|(key, kept)| (key, kept.entry)).collect())
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

    /// Why packets were judged that a slot has counted alone, and in which direction; nothing of a slot never in use.
    fn reason(&self, slot: u16) -> Option<(Reason, Direction)> {
        let direction = match slot {
            FIRST_RULE_SLOT.. => *self.directions.get(&slot)?,
            _ if slot & implicit_slot(Direction::Outbound, false) != 0 => Direction::Outbound,
            _ => Direction::Inbound,
        };
        Some((slot_reason(slot), direction))
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
            Ok(Memory { generations: self.generations.bytes()?, connections, ..self.fixed })
        };
        bytes().map_err(memory::unknown)
    }

    /// The counters, summed over all CPUs.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        let mut counters = Counters::default();
        let mut reasons = self.cleared.clone();
        for slot in 0..self.used as u16 {
            let Counts { alone, others } = self.counts(slot)?;
            if let Some(reason) = self.reason(slot) {
                add(reasons.entry(reason).or_default(), alone);
            }
            let mut all = alone;
            add(&mut all, others);
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
        let buckets = self.bucket.get(&0, 0).map_err(refused("BUCKET"))?;
        counters.events_suppressed = buckets.iter().map(|BucketPod([_, suppressed])| suppressed).sum();
        Ok(counters)
    }
}

const fn table(source: MapError) -> DataplaneError {
    DataplaneError::Map { map: "FLOWS", source }
}

/// Reads the whole connection table, bucket by bucket (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6), which aya does not offer. Going from
/// key to key instead, the kernel begins again whenever the key it stands on is deleted: under a flood, for ever.
fn read_flows(map: &MapData) -> io::Result<Vec<(FlowKey, Kept)>> {
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
    const LOOKUP_BATCH: libc::c_long = 24;
    const AT_ONCE: usize = 4096;
    let mut keys = vec![FlowKey::default(); AT_ONCE];
    let mut values = vec![Kept::default(); AT_ONCE];
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
            fd: map.fd().as_fd().as_raw_fd(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: pointers to as many elements of the map's sizes as `count` says, which outlive the call.
        let done = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        // ENOENT comes with what was behind the last key.
        let last = match (done < 0).then(io::Error::last_os_error) {
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Some(error) => return Err(error),
            None => false,
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

/// The memory of an array made with `BPF_F_MMAPABLE`, of at most a page: a store through it is one store, which
/// `bpf_map_update_elem`, a copy of so many bytes, does not promise.
pub struct Mapped {
    page: NonNull<AtomicU64>,
}

// SAFETY: only atomics are read and written there.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

impl Mapped {
    /// Maps the array's memory.
    pub fn new(map: &MapData) -> io::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let page = unsafe { mmap(None, PAGE, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) }?;
        Ok(Self { page: page.cast() })
    }

    /// One word of it.
    pub const fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < PAGE.get() / 8);
        // SAFETY: inside the mapping, which lives as long as self.
        unsafe { self.page.add(index).as_ref() }
    }

    /// Reads an event that stands at the beginning, and leaves zeroes.
    pub fn take_event(&self) -> Event {
        let mut words = [0_u64; size_of::<Event>() / 8];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.word(index).swap(0, Ordering::AcqRel);
        }
        // SAFETY: of the same size; every bit pattern is an event.
        unsafe { std::mem::transmute(words) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, and no reference outlives self.
        unsafe { munmap(self.page.cast(), PAGE.get()) }.ok();
    }
}
