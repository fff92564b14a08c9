//! The generations of one interface in the kernel: which slots hold which, and when one is given back. Equal generations are
//! one map, whichever interfaces of this process have them. Knows nothing of the control word's flags.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use aya::{
    Pod,
    maps::{Array, IterableMap, MapData, MapError},
};
use nacl_common::border::{GENERATIONS, Tier};

use super::{
    DataplaneError,
    mapped::Mapped,
    maps::{LargePod, MediumPod, SmallPod},
    memory,
    object::Source,
    outer::{self, Outer},
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
    let inner = outer::array(1, MMAPABLE)?;
    Mapped::new::<T>(IterableMap::map(&inner)).map_err(MapError::IoError)?.fill(image);
    Ok(inner)
}

/// Where a generation stands: the outer map of its tier, and the slot in there.
pub type At = (Tier, u32);

/// The generations of one interface.
pub struct Generations {
    small: Outer,
    medium: Outer,
    large: Outer,
    /// What stands in the outer maps; `None`: put there by another process.
    held: BTreeMap<At, Option<Arc<Uploaded>>>,
}

impl Generations {
    /// Takes the outer maps out of an object, or opens those that are pinned, with what is in them.
    pub fn take(maps: &mut impl Source) -> Result<Self, DataplaneError> {
        let (small, medium, large) = (maps.outer("SMALL")?, maps.outer("MEDIUM")?, maps.outer("LARGE")?);
        let mut taken = Self { small, medium, large, held: BTreeMap::new() };
        for tier in Tier::ALL {
            for slot in 0..GENERATIONS {
                let there = taken.outer(tier).id(slot);
                let failed = |source| DataplaneError::Map { map: "generation", source: MapError::IoError(source) };
                if there.map_err(failed)?.is_some() {
                    taken.held.insert((tier, slot), None);
                }
            }
        }
        Ok(taken)
    }

    /// Puts a generation beside the one in force, which stands `now` (with another, where a change awaits confirmation), and returns
    /// where. Only those and the new one are there afterwards.
    ///
    /// A program reads the control word first and the slot it names a moment later, so a slot must not be emptied or used again
    /// before every program that may have read its name has ended: it would find nothing and drop the packet, or judge it
    /// by rules and settings of two policies. The kernel returns from an update of a map of maps after an RCU grace
    /// period, so whatever program is running once the new generation is in began after the last switch, and can name none but
    /// the slot in force. All others are emptied then. The one in force now stays until the next one comes, which
    /// is the earliest that costs no further waiting after the switch.
    pub fn put(&mut self, now: &[At], compiled: &Compiled) -> Result<At, DataplaneError> {
        let failed = |source| DataplaneError::Map { map: "generation", source };
        // A free one, whichever tiers they are of: a program may still be reading what it was told to.
        let taken = |slot: &u32| self.held.keys().any(|(_, held)| held == slot);
        let slot = (0..GENERATIONS).find(|slot| !taken(slot)).ok_or_else(|| full(GENERATIONS))?;
        let uploaded = Uploaded::of(compiled).map_err(failed)?;
        let failed = |source| failed(MapError::IoError(source));
        let at = (compiled.generation.tier(), slot);
        self.outer(at.0).put(slot, uploaded.map()).map_err(failed)?;
        self.held.insert(at, Some(uploaded));
        let stay: Vec<At> = now.iter().copied().chain([at]).collect();
        self.keep(&stay)?;
        Ok(at)
    }

    /// Empties whatever is not among these: what a process that was killed between two steps has left.
    pub fn keep(&mut self, those: &[At]) -> Result<(), DataplaneError> {
        let failed = |source| DataplaneError::Map { map: "generation", source: MapError::IoError(source) };
        let others: Vec<At> = self.held.keys().copied().filter(|held| !those.contains(held)).collect();
        for at in others {
            self.outer(at.0).empty(at.1).map_err(failed)?;
            self.held.remove(&at);
        }
        Ok(())
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
        let mut all: Vec<_> = self.held.iter().collect();
        all.dedup_by_key(|(at, uploaded)| uploaded.as_ref().map_or(at.1 as usize, |one| Arc::as_ptr(one).addr()));
        let bytes = |(at, uploaded): (&At, &Option<Arc<Uploaded>>)| match uploaded {
            Some(uploaded) => memory::of(uploaded.map()),
            // Nobody but root may open it; its size is known.
            None => Ok(at.0.bytes() as u64),
        };
        all.into_iter().map(bytes).sum()
    }
}

fn full(slots: u32) -> DataplaneError {
    let source = io::Error::other(format!("all {slots} places are taken"));
    DataplaneError::Map { map: "generation", source: MapError::IoError(source) }
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
