//! The maps of one interface: installing a generation, the control word, counters. Knows nothing of hooks.

use std::{
    collections::BTreeMap,
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Pod,
    maps::{Array, ArrayOfMaps, IterableMap, MapData, MapError, PerCpuArray, PerCpuValues},
};
use nacl_common::{
    Control, Counter, Direction, Event, Reason,
    border::{GENERATIONS, Large, Medium, Small},
    reason::REASONS,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{Counters, DataplaneError, Options, object, object::Object};
use crate::compile::{Compiled, Generation, SlotTable};

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
    BucketPod([u64; 2]);
}

type Outer<T> = ArrayOfMaps<MapData, Array<MapData, T>>;

/// The maps of one interface.
pub struct Maps {
    small: Outer<SmallPod>,
    medium: Outer<MediumPod>,
    large: Outer<LargePod>,
    slots: PerCpuArray<MapData, CounterPod>,
    reasons: PerCpuArray<MapData, CounterPod>,
    bucket: PerCpuArray<MapData, BucketPod>,
    control: Mapped,
    /// Programs refer to it; only its memory is used.
    _control: Array<MapData, u64>,
    /// What the slots in force mean.
    meaning: SlotTable,
    /// One more than the highest slot ever in use.
    used: u32,
}

impl Maps {
    /// Takes the maps out of an object.
    pub fn take(object: &mut Object) -> Result<Self, DataplaneError> {
        let control: Array<MapData, u64> = object.map("CONTROL")?;
        Ok(Self {
            small: object.map("SMALL")?,
            medium: object.map("MEDIUM")?,
            large: object.map("LARGE")?,
            slots: object.map("SLOTS")?,
            reasons: object.map("REASON")?,
            bucket: object.map("BUCKET")?,
            control: Mapped::new(control.map()).map_err(DataplaneError::ControlWord)?,
            _control: control,
            meaning: SlotTable::default(),
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
        // The policy in force counts in none of these slots, so nothing is lost and nothing comes in between.
        let fresh = compiled.slots.new_since(&self.meaning);
        for slot in fresh.into_iter().map(u32::from).filter(|slot| *slot < self.used) {
            clear("SLOTS", &mut self.slots, slot)?;
        }
        let old = self.control();
        // Another slot than the one in force, whichever tiers the two are of.
        let slot = (old.slot() + 1) % GENERATIONS;
        match &compiled.generation {
            Generation::Small(image) => put(&mut self.small, slot, (&**image).into()),
            Generation::Medium(image) => put(&mut self.medium, slot, (&**image).into()),
            Generation::Large(image) => put(&mut self.large, slot, (&**image).into()),
        }
        .map_err(|source| DataplaneError::Map { map: "generation", source })?;
        self.used = self.used.max(needed);
        let epoch = old.epoch().wrapping_add(1);
        let new = Control::new(slot as u8, compiled.generation.tier(), options.flags() | compiled.flags, epoch);
        self.control.word(0).store(new.0, Ordering::Release);
        self.meaning = compiled.slots.clone();
        Ok(epoch)
    }

    /// The counters, summed over all CPUs.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        let mut counters = Counters::default();
        for slot in 0..self.used {
            let counter = sum("SLOTS", &self.slots, slot)?;
            if counter != Counter::default() {
                counters.slots.insert(slot as u16, counter);
            }
        }
        let mut reasons = BTreeMap::new();
        for &direction in &Direction::ALL {
            for &reason in Reason::ALL {
                let index = direction as u32 * REASONS as u32 + reason as u32;
                let counter = sum("REASON", &self.reasons, index)?;
                if counter != Counter::default() {
                    reasons.insert((reason, direction), counter);
                }
            }
        }
        counters.reasons = reasons;
        let buckets = self.bucket.get(&0, 0).map_err(|source| DataplaneError::Map { map: "BUCKET", source })?;
        counters.events_suppressed = buckets.iter().map(|BucketPod([_, suppressed])| suppressed).sum();
        Ok(counters)
    }
}

fn put<T: Pod>(outer: &mut Outer<T>, slot: u32, image: &T) -> Result<(), MapError> {
    let mut inner = Array::<MapData, T>::create(1, 0)?;
    inner.set(0, image, 0)?;
    outer.set(slot, &inner, 0)
}

fn sum(map: &'static str, array: &PerCpuArray<MapData, CounterPod>, index: u32) -> Result<Counter, DataplaneError> {
    let values = array.get(&index, 0).map_err(|source| DataplaneError::Map { map, source })?;
    let add = |sum: Counter, CounterPod(one): &CounterPod| Counter {
        packets: sum.packets.wrapping_add(one.packets),
        bytes: sum.bytes.wrapping_add(one.bytes),
    };
    Ok(values.iter().fold(Counter::default(), add))
}

/// Sets a counter to zero on every CPU.
fn clear(map: &'static str, array: &mut PerCpuArray<MapData, CounterPod>, index: u32) -> Result<(), DataplaneError> {
    let refused = |source| DataplaneError::Map { map, source };
    let cpus = array.get(&index, 0).map_err(refused)?.len();
    let zero = PerCpuValues::try_from(vec![CounterPod(Counter::default()); cpus])
        .map_err(|source| refused(MapError::IoError(source)))?;
    array.set(index, zero, 0).map_err(refused)
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
