//! What is remembered of connections and fragments: finding it, keeping it, and making room. What it means, and what is to
//! be remembered, comes from `nacl-common`.

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST},
    helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns},
};
use nacl_common::{
    border::{Entry, FlowKey, FragmentKey, Kept, Shared},
    flow::{Met, WriteKind, tag},
};

use crate::{
    OFF,
    maps::{CLOCK, FLOWS, FRAGMENTS, RING, Work},
};

/// Load-time constant: 1 in a test bed, where the time stands in a map.
#[unsafe(no_mangle)]
static TEST_CLOCK: Global<u32> = Global::new(OFF);

/// Load-time constant: keys there are in the ring.
#[unsafe(no_mangle)]
static RING_SIZE: Global<u32> = Global::new(OFF);

/// Tries to find a place in the ring: with a third of it free, two in a million are in vain.
const PLACES: u32 = 32;

/// Connections that are looked at for an expired one when there is no room.
const SEARCH: u32 = 16;

/// Nanoseconds of the coarse clock.
#[inline(always)]
pub fn now() -> u64 {
    if TEST_CLOCK.load() == 1 {
        let Some(clock) = CLOCK.get_ptr(0) else { return 0 };
        // SAFETY: a map value, and a u64 is read in one piece.
        return unsafe { clock.read_volatile() };
    }
    // SAFETY: no argument; the clock is read.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The same, read once in a tick of the kernel's clock, which is how often it moves: the tick is a read of memory, the clock
/// is a call (8 to 10 ns).
#[inline(always)]
pub fn tick(read: &mut [u64; 2]) -> u64 {
    if TEST_CLOCK.load() == 1 {
        return now();
    }
    // SAFETY: no argument.
    let tick = unsafe { bpf_jiffies64() };
    if read[0] != tick {
        *read = [tick, now()];
    }
    read[1]
}

/// Copies what is remembered of a connection; false where nothing is.
#[inline(always)]
pub fn find(key: &FlowKey, copy: &mut Kept) -> bool {
    let Some(kept) = FLOWS.get_ptr(key) else { return false };
    // `state` and `expires` change under us, each in one piece, and the element may become another key's: so the entry is
    // read first, word by word, and then the tag.
    // SAFETY: map values.
    unsafe {
        words(&raw const (*kept).entry, &mut copy.entry);
        copy.place = (&raw const (*kept).place).read_volatile();
        (&raw const (*kept).tag).read_volatile() == tag(key)
    }
}

/// Copies a value of whole words, each in one piece and in order.
///
/// # Safety
/// `from` is a value of a map.
#[inline(always)]
unsafe fn words<T>(from: *const T, to: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
    let to = (&raw mut *to).cast::<u64>();
    let mut word = 0;
    while word < size_of::<T>() / 8 {
        // SAFETY: inside both, and every pattern of bits is a value.
        unsafe { to.add(word).write_volatile(from.cast::<u64>().add(word).read_volatile()) };
        word += 1;
    }
}

/// Does what is to be done to the table; false where a connection found no room.
#[inline(always)]
pub fn write(work: &mut Work) -> bool {
    let Work { key, kept, other, exhausted, at, write, met, .. } = work;
    if matches!(write.kind, WriteKind::Nothing) {
        return true;
    }
    if matches!(write.kind, WriteKind::Touch) {
        touch(key, &kept.entry, &write.entry);
        return true;
    }
    kept.tag = tag(key);
    kept.entry = write.entry;
    if matches!(write.kind, WriteKind::Replace) {
        if FLOWS.insert(&*key, &*kept, u64::from(BPF_EXIST)).is_ok() {
            return has_place(key, kept.place) || place(key, other, at.now);
        }
        // It was deleted a moment ago. A new connection is added then, and a running one stays flushed.
        if !matches!(met, Met::New) {
            return true;
        }
    }
    kept.place = Kept::NOWHERE;
    add(key, kept, exhausted, other, at.now) && place(key, other, at.now)
}

/// Stores what has changed, in place. The key is looked up again: in the meantime the element may have become another's.
/// Within one tick of the clock there is nothing to store.
#[inline(always)]
pub fn touch(key: &FlowKey, old: &Entry, new: &Entry) {
    if old.expires == new.expires && old.state == new.state {
        return;
    }
    let Some(kept) = FLOWS.get_ptr_mut(key) else { return };
    // SAFETY: a map value; each is stored in one piece, and whichever CPU comes last has its way.
    unsafe {
        if old.state != new.state {
            (&raw mut (*kept).entry.state).write_volatile(new.state);
        }
        (&raw mut (*kept).entry.expires).write_volatile(new.expires);
    }
}

/// Puts a connection into the table.
#[inline(always)]
fn add(key: &FlowKey, kept: &Kept, exhausted: &mut u64, other: &mut FlowKey, now: u64) -> bool {
    if insert(key, kept) {
        return true;
    }
    // Once in a tick of the clock: a flood must not make every packet search.
    if *exhausted == now + 1 {
        return false;
    }
    let mut left = SEARCH;
    while left > 0 {
        left -= 1;
        reclaim(by_chance(), other, now);
    }
    if insert(key, kept) {
        return true;
    }
    *exhausted = now + 1;
    false
}

/// Another CPU may have met the same connection first, which is as good.
#[inline(always)]
fn insert(key: &FlowKey, kept: &Kept) -> bool {
    const EEXIST: i32 = -17;
    matches!(FLOWS.insert(key, kept, u64::from(BPF_NOEXIST)), Ok(()) | Err(EEXIST))
}

/// Gives a connection its place in the ring: one that is free, or that of an expired one, which is forgotten. So every new
/// connection also collects, and nobody else need. A connection whose place another CPU takes between two instructions is
/// not collected here, only from user space, or placed again when it comes again.
#[inline(always)]
fn place(key: &FlowKey, other: &mut FlowKey, now: u64) -> bool {
    let mut left = PLACES;
    while left > 0 {
        left -= 1;
        let index = by_chance();
        if !reclaim(index, other, now) {
            continue;
        }
        let (Some(kept), Some(place)) = (FLOWS.get_ptr_mut(key), at_place(index)) else { break };
        // SAFETY: map values. Torn by another CPU a place holds a key that nobody has, so it is free.
        unsafe {
            (&raw mut (*kept).place).write_volatile(index);
            place.write(*key);
        }
        return true;
    }
    // Without a place it would stay for ever where nobody else collects.
    FLOWS.remove(key).ok();
    false
}

/// Whether a place of the ring holds this key.
#[inline(always)]
fn has_place(key: &FlowKey, index: u32) -> bool {
    match at_place(index) {
        // SAFETY: a map value; torn by another CPU it is nobody's key.
        Some(place) => unsafe { &*place == key },
        None => false,
    }
}

/// A place of the ring, which is there wherever connections are tracked.
#[inline(always)]
fn at_place(index: u32) -> Option<*mut FlowKey> {
    // A variable: a constant would be merged with a load-time constant of the same value, and be overridden with it.
    let ring = 0;
    RING.get_value_ptr_mut(ring, &index)
}

/// A place of the ring: by chance, so that CPUs share no cursor.
#[inline(always)]
fn by_chance() -> u32 {
    // SAFETY: no argument.
    let chance = unsafe { bpf_get_prandom_u32() };
    ((u64::from(chance) * u64::from(RING_SIZE.load())) >> 32) as u32
}

/// Whether a place of the ring is free, once an expired connection there is forgotten.
#[inline(always)]
fn reclaim(index: u32, other: &mut FlowKey, now: u64) -> bool {
    let Some(place) = at_place(index) else { return false };
    // A copy: what stands there may become the key of a running connection before it is deleted.
    // SAFETY: a map value.
    unsafe { words(place.cast_const(), other) };
    let Some(kept) = FLOWS.get_ptr(&*other) else { return true };
    // SAFETY: a map value, and each is read in one piece.
    let (elsewhere, expires) = unsafe {
        ((&raw const (*kept).place).read_volatile() != index, (&raw const (*kept).entry.expires).read_volatile())
    };
    // Forgotten and met again, it has another place since.
    if elsewhere {
        return true;
    }
    if now < expires {
        return false;
    }
    FLOWS.remove(&*other).ok();
    true
}

/// Copies the verdict a first fragment has left; false where there is none.
#[inline(always)]
pub fn find_shared(key: &FragmentKey, copy: &mut Shared) -> bool {
    let Some(shared) = FRAGMENTS.get_ptr(key) else { return false };
    // SAFETY: a map value, which is only written as a whole; each fragment's verdict is a new element.
    unsafe { words(shared, copy) };
    true
}

/// Leaves a first fragment's verdict for the later ones.
#[inline(always)]
pub fn share(key: &FragmentKey, shared: &Shared) {
    FRAGMENTS.insert(key, shared, u64::from(BPF_ANY)).ok();
}
