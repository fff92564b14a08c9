//! The memory of a map, where it may be mapped: a store through it is one store, which `bpf_map_update_elem`, a copy of so many
//! bytes, does not promise; and nothing is copied twice, as an update would.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{Pod, maps::MapData};
use nacl_common::Event;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The one value of an array made with `BPF_F_MMAPABLE`.
pub struct Mapped {
    start: NonNull<AtomicU64>,
    length: NonZeroUsize,
}

// SAFETY: only atomics are read and written there.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the memory of an array whose value is a `T`.
    pub fn new<T: Pod>(map: &MapData) -> io::Result<Self> {
        const { assert!(size_of::<T>() > 0) };
        let length = NonZeroUsize::new(size_of::<T>()).expect("it has a size");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) }?;
        Ok(Self { start: start.cast(), length })
    }

    /// One word of it.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.length.get() / 8, "a word of the value");
        // SAFETY: inside the mapping, which lives as long as self.
        unsafe { self.start.add(index).as_ref() }
    }

    /// Writes all of it, before anybody else reads it.
    pub fn fill<T: Pod>(&mut self, value: &T) {
        assert_eq!(size_of::<T>(), self.length.get(), "the value that was mapped");
        // SAFETY: of that size, and aligned to a page.
        unsafe { self.start.cast::<T>().copy_from_nonoverlapping(NonNull::from(value), 1) };
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
        unsafe { munmap(self.start.cast(), self.length.get()) }.ok();
    }
}
