//! The maps of one interface. Sizes that depend on the policy or the machine are given at load time.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use nacl_common::{
    Control, Counter, Event, Packet,
    border::{Counts, FlowKey, FragmentKey, GENERATIONS, Kept, Large, LogKey, Logged, Medium, Shared, Small},
    evaluate::{Answers, At, Question, Verdict},
    flow::{Met, Write},
    packet::Extent,
    reason::REASONS,
};

use crate::report::Telling;

/// User space maps the array's memory. A store there is one store, which an update of the map does not promise; and what is
/// written there is not copied twice, as an update would.
const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

/// Generations of the smallest tier.
#[btf_map]
pub static SMALL: ArrayOfMaps<Array<Small, 1, MMAPABLE>, { GENERATIONS as usize }> = ArrayOfMaps::new();
/// Generations of the middle tier.
#[btf_map]
pub static MEDIUM: ArrayOfMaps<Array<Medium, 1, MMAPABLE>, { GENERATIONS as usize }> = ArrayOfMaps::new();
/// Generations of the largest tier.
#[btf_map]
pub static LARGE: ArrayOfMaps<Array<Large, 1, MMAPABLE>, { GENERATIONS as usize }> = ArrayOfMaps::new();

/// The control word, and what stands beside it ([`Control::WORDS`]).
#[btf_map]
pub static CONTROL: Array<[u64; Control::WORDS], 1, MMAPABLE> = Array::new();

/// Elements are made when they are needed: an interface that tracks nothing has none.
const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

/// The connections. Never an LRU map: that evicts running ones, and on 6.18 also when an entry is only written to.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, Kept, 1, NO_PREALLOC> = HashMap::new();

/// An array of another size than the template's may be put into a map of maps.
const ANY_SIZE: usize = aya_ebpf::bindings::BPF_F_INNER_MAP as usize;

/// Half as many again as connections, so that a free one is found by guessing: the key of each connection stands in one of
/// them, and that is how the programs find what has expired. It is put in when connections are tracked first: for the
/// default of 65,536 it is 3.9 MB, for nothing where none ever is.
#[btf_map]
pub static RING: ArrayOfMaps<Array<FlowKey, 1, ANY_SIZE>, 1> = ArrayOfMaps::new();

/// Verdicts of first fragments. One that is evicted means that the later ones fail closed.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Shared, 4096> = LruHashMap::new();

/// The time, in a test bed.
#[btf_map]
pub static CLOCK: Array<u64, 1, MMAPABLE> = Array::new();

/// What each rule slot has met.
#[btf_map]
pub static SLOTS: PerCpuArray<Counts, 512> = PerCpuArray::new();

/// What each reason has met, by direction: [`REASONS`] inbound, then as many outbound. Without what `SLOTS` tells of reasons.
#[btf_map]
pub static REASON: PerCpuArray<Counter, { 2 * REASONS }> = PerCpuArray::new();

/// The flow log of the window that runs. The map is put in when a flow log is first wanted, and another one takes its place when the
/// window ends: so what is read then is complete, and no program writes to it any more. Never an LRU map, which would
/// forget without saying so: what finds no room is counted ([`LogKey::WINDOW`]).
#[btf_map]
pub static FLOW_LOG: ArrayOfMaps<HashMap<LogKey, Logged, 1, NO_PREALLOC>, 1> = ArrayOfMaps::new();

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
    /// Where it lies in its frame.
    pub extent: Extent,
    /// Its connection.
    pub key: FlowKey,
    /// What was found under that key, and what is to be put there.
    pub kept: Kept,
    /// The key of another connection.
    pub other: FlowKey,
    /// The packet it is a fragment of.
    pub fragment: FragmentKey,
    /// What was found under that key, and what is to be put there.
    pub shared: Shared,
    /// One more than the time when a search for expired connections was last in vain.
    pub exhausted: u64,
    /// The tick of the kernel's clock at which the time was read, and the time.
    pub tick: [u64; 2],
    /// Values on their way through [`nacl_common::tables::Image::settle`].
    pub settle: u32,
    /// What the lists are asked.
    pub question: Question,
    /// What the lists said.
    pub answers: Answers,
    /// When and under which settings the packet is judged.
    pub at: At,
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// What becomes of what is remembered.
    pub write: Write,
    /// What the connection table said.
    pub met: Met,
    /// To whom the verdict is told.
    pub telling: Telling,
    /// Where its record stands in the flow log.
    pub log: LogKey,
    /// The record it begins.
    pub logged: Logged,
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
