//! The maps of one interface. Sizes that depend on the policy or the machine are given at load time.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, PerCpuArray, RingBuf},
    macros::btf_map,
};
use nacl_common::{
    Counter, Event, Packet, Verdict,
    border::{GENERATIONS, Large, Medium, Small},
    evaluate::Answers,
    reason::REASONS,
};

/// Generations of the smallest tier.
#[btf_map]
pub static SMALL: ArrayOfMaps<Array<Small, 1>, { GENERATIONS as usize }> = ArrayOfMaps::new();
/// Generations of the middle tier.
#[btf_map]
pub static MEDIUM: ArrayOfMaps<Array<Medium, 1>, { GENERATIONS as usize }> = ArrayOfMaps::new();
/// Generations of the largest tier.
#[btf_map]
pub static LARGE: ArrayOfMaps<Array<Large, 1>, { GENERATIONS as usize }> = ArrayOfMaps::new();

/// User space maps the array's memory: a store there is one store, which an update of the map does not promise.
const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

/// The control word ([`nacl_common::Control`]).
#[btf_map]
pub static CONTROL: Array<u64, 1, MMAPABLE> = Array::new();

/// What each rule slot has met.
#[btf_map]
pub static SLOTS: PerCpuArray<Counter, 512> = PerCpuArray::new();

/// What each reason has met, by direction: [`REASONS`] inbound, then as many outbound.
#[btf_map]
pub static REASON: PerCpuArray<Counter, { 2 * REASONS }> = PerCpuArray::new();

/// Samples for whoever watches.
#[btf_map]
pub static EVENTS: RingBuf<Event, { 256 << 10 }> = RingBuf::new();

/// How many samples may be taken, and how many were not.
#[repr(C)]
pub struct Bucket {
    /// When the next sample is due, in nanoseconds of the coarse clock.
    pub due: u64,
    /// Samples that were not taken, or found the ring full.
    pub suppressed: u64,
}

/// One bucket for each CPU.
#[btf_map]
pub static BUCKET: PerCpuArray<Bucket, 1> = PerCpuArray::new();

/// What is being worked on: where the stack is too small, and where the verifier is to forget what it knows.
#[repr(C)]
pub struct Work {
    /// The packet being judged.
    pub packet: Packet,
    /// Values on their way through [`nacl_common::tables::Image::settle`].
    pub settle: u32,
    /// What the lists said.
    pub answers: Answers,
    /// What becomes of the packet.
    pub verdict: Verdict,
}

/// One for each CPU.
#[btf_map]
pub static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// Where an event is put together.
#[btf_map]
pub static SCRATCH: PerCpuArray<Event, 1> = PerCpuArray::new();

/// The last verdict, in a test bed.
#[btf_map]
pub static LAST: Array<Event, 1, MMAPABLE> = Array::new();
