//! The generations of one interface in the kernel: which slots hold which, and when one is given back. Equal generations are
//! one map, whichever interfaces of this process have them. Knows nothing of the control word's flags.

use std::{
    collections::BTreeMap,
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use aya::{
    Pod,
    maps::{Array, IterableMap, MapData, MapError},
};
use nacl_common::border::{GENERATIONS, Tier};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{
    DataplaneError,
    maps::{LargePod, MediumPod, SmallPod},
    memory,
    object::Object,
    outer::Outer,
};
use crate::compile::{Compiled, Generation};

type Inner<T> = Array<MapData, T>;

/// `BPF_F_MMAPABLE`, as the programs declare these maps.
const MMAPABLE: u32 = 1 << 10;

/// One generation in the kernel. It is filled before anybody sees it and never written again, so it may be shared.
enum Uploaded {
    Small(Inner<SmallPod>),
    Medium(Inner<MediumPod>),
    Large(Inner<LargePod>),
}

/// What interfaces of this process hold, by its digest.
static UPLOADED: Mutex<BTreeMap<[u8; 32], Weak<Uploaded>>> = Mutex::new(BTreeMap::new());

impl Uploaded {
    /// The generation in the kernel: one that is there already, else a new one.
    fn of(compiled: &Compiled) -> Result<Arc<Self>, MapError> {
        // Held while it is filled: who wants the same one waits and shares it.
        let mut all = UPLOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = all.get(&compiled.digest).and_then(Weak::upgrade) {
            return Ok(there);
        }
        all.retain(|_, there| there.strong_count() > 0);
        let uploaded = Arc::new(match &compiled.generation {
            Generation::Small(image) => Self::Small(filled((&**image).into())?),
            Generation::Medium(image) => Self::Medium(filled((&**image).into())?),
            Generation::Large(image) => Self::Large(filled((&**image).into())?),
        });
        all.insert(compiled.digest, Arc::downgrade(&uploaded));
        Ok(uploaded)
    }

    fn map(&self) -> &MapData {
        match self {
            Self::Small(inner) => IterableMap::map(inner),
            Self::Medium(inner) => IterableMap::map(inner),
            Self::Large(inner) => IterableMap::map(inner),
        }
    }
}

/// A map with this value. It is written through its memory: an update of the map would need as much again for a copy in the
/// kernel, and 12 MiB in one piece may take it a tenth of a second to find.
fn filled<T: Pod>(image: &T) -> Result<Inner<T>, MapError> {
    let inner = Inner::create(1, MMAPABLE)?;
    write(IterableMap::map(&inner), image).map_err(MapError::IoError)?;
    Ok(inner)
}

fn write<T: Pod>(map: &MapData, image: &T) -> io::Result<()> {
    const { assert!(size_of::<T>() > 0) };
    let length = NonZeroUsize::new(size_of::<T>()).expect("it has a size");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping of a map whose value has this size, at an address of the kernel's choice.
    unsafe {
        let memory = mmap(None, length, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0)?;
        memory.cast::<T>().copy_from_nonoverlapping(NonNull::from(image), 1);
        munmap(memory, length.get())?;
    }
    Ok(())
}

/// Where a generation stands: the outer map of its tier, and the slot in there.
pub type At = (Tier, u32);

/// The generations of one interface.
pub struct Generations {
    small: Outer,
    medium: Outer,
    large: Outer,
    /// What stands in the outer maps.
    held: BTreeMap<At, Arc<Uploaded>>,
}

impl Generations {
    /// Takes the outer maps out of an object.
    pub fn take(object: &mut Object) -> Result<Self, DataplaneError> {
        let (small, medium, large) = (object.outer("SMALL")?, object.outer("MEDIUM")?, object.outer("LARGE")?);
        Ok(Self { small, medium, large, held: BTreeMap::new() })
    }

    /// Puts a generation beside the one in force, which stands `now`, and returns where. Only that one and the new one are there
    /// afterwards.
    ///
    /// A program reads the control word first and the slot it names a moment later, so a slot must not be emptied or used again
    /// before every program that may have read its name has ended: it would find nothing and drop the packet, or judge it
    /// by rules and settings of two policies. The kernel returns from an update of a map of maps after an RCU grace
    /// period, so whatever program is running once the new generation is in began after the last switch, and can name none but
    /// the slot in force. All others are emptied then. The one in force now stays until the next one comes, which
    /// is the earliest that costs no further waiting after the switch.
    pub fn put(&mut self, now: Option<At>, compiled: &Compiled) -> Result<At, DataplaneError> {
        let failed = |source| DataplaneError::Map { map: "generation", source };
        // Never the one in force, whichever tiers the two are of.
        let slot = now.map_or(0, |(_, slot)| slot + 1) % GENERATIONS;
        let uploaded = Uploaded::of(compiled).map_err(failed)?;
        let failed = |source| failed(MapError::IoError(source));
        let at = (compiled.generation.tier(), slot);
        self.outer(at.0).put(slot, uploaded.map()).map_err(failed)?;
        self.held.insert(at, uploaded);
        let old: Vec<At> = self.held.keys().copied().filter(|held| *held != at && Some(*held) != now).collect();
        for old in old {
            self.outer(old.0).empty(old.1).map_err(failed)?;
            self.held.remove(&old);
        }
        Ok(at)
    }

    const fn outer(&self, tier: Tier) -> &Outer {
        match tier {
            Tier::Small => &self.small,
            Tier::Medium => &self.medium,
            Tier::Large => &self.large,
        }
    }

    /// Kernel ids of the maps that stand in the outer maps, as the kernel has them.
    pub fn ids(&self) -> io::Result<Vec<u32>> {
        let mut ids = Vec::new();
        for outer in [&self.small, &self.medium, &self.large] {
            for slot in 0..GENERATIONS {
                ids.extend(outer.id(slot)?);
            }
        }
        Ok(ids)
    }

    /// Bytes of its generations: the one in force and the one before it, or of that one where they are the same.
    pub fn bytes(&self) -> io::Result<u64> {
        let mut all: Vec<_> = self.held.values().collect();
        all.dedup_by_key(|uploaded| Arc::as_ptr(uploaded));
        all.into_iter().map(|uploaded| memory::of(uploaded.map())).sum()
    }
}

/// Puts a generation into the kernel, for as long as the answer lives or somebody has it in force.
pub fn upload(compiled: &Compiled) -> Result<impl Sized + use<>, DataplaneError> {
    Uploaded::of(compiled).map_err(|source| DataplaneError::Map { map: "generation", source })
}

/// Bytes of the generations that all interfaces of this process hold together, each counted once.
///
/// # Errors
/// The kernel cannot be asked.
pub fn generation_bytes() -> io::Result<u64> {
    let all = UPLOADED.lock().unwrap_or_else(PoisonError::into_inner);
    all.values().filter_map(Weak::upgrade).map(|uploaded| memory::of(uploaded.map())).sum()
}
