//! Counting and reporting what was met. Nothing here changes what happens to a packet.

use aya_ebpf::{EbpfContext, Global};
use aya_log_ebpf::info;
use nacl_common::{
    Action, Control, Counter, Direction, Event, Packet, Verdict,
    border::NO_SLOT,
    flow::{self, Sought},
    packet::Quote,
    reason::REASONS,
};

use crate::{
    OFF, TEST, TRACE, flows,
    frame::Parse,
    maps::{BUCKET, CONTROL, EVENTS, LAST, REASON, SCRATCH, SLOTS, Work},
};

/// Load-time constant: nanoseconds between two samples of one CPU in the long run.
#[unsafe(no_mangle)]
static EVENT_PERIOD: Global<u64> = Global::new(1_000_003);

/// Load-time constant: how far ahead of that a burst may run, in nanoseconds.
#[unsafe(no_mangle)]
static EVENT_BURST: Global<u64> = Global::new(1_000_000_007);

/// Load-time constant: 1 where nothing is counted, to measure what counting costs.
#[unsafe(no_mangle)]
static UNCOUNTED: Global<u32> = Global::new(OFF);

/// What was met.
pub struct Met {
    pub control: Control,
    pub direction: Direction,
    /// 0 when the packet was not parsed.
    pub family: u8,
    pub verdict: Verdict,
    /// What the connection table said.
    pub flow: flow::Met,
    /// Packets and bytes on the wire.
    pub amount: Counter,
}

/// Counts a packet of which nothing is to be told but its slot. User space knows the reason by that ([`nacl_common::border::Counts`]), so that one
/// counter is enough: a second one is 2 to 3 ns a packet.
#[inline(always)]
pub fn count_alone(slot: u16, amount: Counter) {
    if UNCOUNTED.load() != 1
        && let Some(counts) = SLOTS.get_ptr_mut(u32::from(slot))
    {
        // SAFETY: this CPU's own value of a map.
        add(unsafe { &mut (*counts).alone }, amount);
    }
}

/// Counts any other packet.
#[inline(always)]
pub fn count(met: &Met) {
    let Verdict { reason, slot, also, .. } = met.verdict;
    if UNCOUNTED.load() == 1 {
        return;
    }
    if slot != NO_SLOT {
        count_slot(slot, met.amount);
    }
    if also != NO_SLOT {
        count_slot(also, met.amount);
    }
    if let Some(counter) = REASON.get_ptr_mut(met.direction as u32 * REASONS as u32 + reason as u32) {
        // SAFETY: this CPU's own value of a map.
        add(unsafe { &mut *counter }, met.amount);
    }
}

#[inline(always)]
fn count_slot(slot: u16, amount: Counter) {
    if let Some(counts) = SLOTS.get_ptr_mut(u32::from(slot)) {
        // SAFETY: this CPU's own value of a map.
        add(unsafe { &mut (*counts).others }, amount);
    }
}

/// Neither hook interrupts the other on one CPU.
#[inline(always)]
fn add(counter: &mut Counter, amount: Counter) {
    counter.packets += amount.packets;
    counter.bytes += amount.bytes;
}

/// When and as what a verdict is told.
#[derive(Clone, Copy)]
pub struct Telling {
    time: u64,
    /// To whoever watches.
    sampled: bool,
    /// To the flow log.
    logged: bool,
    /// To a test, or the programs' log.
    traced: bool,
}

impl Telling {
    /// Whether the flow log is told.
    #[inline(always)]
    pub const fn logged(self) -> Option<u64> {
        if self.logged { Some(self.time) } else { None }
    }
}

/// How a verdict with this number of an action is to be told; nothing where it is not, which is nearly always: also in a flood of
/// denied packets, of which a sample is told. Asked before anything is put together.
#[inline(always)]
pub fn wanted(
    control: Control,
    direction: Direction,
    action: u64,
    packet: &Packet,
    tick: &mut [u64; 2],
) -> Option<Telling> {
    let traced = TEST.load() == 1 || TRACE.load() == 1;
    if control.tells(action) == 0 && !traced {
        return None;
    }
    // What is looked for is there to explain what is denied, and must not take its room: half of the bucket is enough.
    let mut reports = control.reports(action) != 0;
    let logged = control.logs(action) != 0;
    let mut room = EVENT_BURST.load();
    if reports && action != Action::Deny as u64 && control.has(Control::SEEKS) {
        reports = is_sought(direction, packet);
        if !reports && !logged && !traced {
            return None;
        }
        room >>= 1;
    }
    let time = flows::tick(tick);
    let sampled = reports && due(time, room);
    (sampled || logged || traced).then_some(Telling { time, sampled, logged, traced })
}

/// Whether a packet that passes is one of those that are looked for.
#[inline(always)]
fn is_sought(direction: Direction, packet: &Packet) -> bool {
    let Some(words) = CONTROL.get_ptr(0) else { return false };
    let mut found = false;
    let mut place = 0;
    while place < Control::SOUGHT_AT_ONCE {
        // SAFETY: a word of the map's value, and a u64 is read in one piece.
        let sought = Sought(unsafe { words.cast::<u64>().add(Control::SOUGHT + place).read_volatile() });
        found |= sought.fits(direction, packet);
        place += 1;
    }
    found
}

/// Tells whoever watches, a test or the programs' log.
#[inline(always)]
pub fn tell<C: EbpfContext, F: Parse>(ctx: &C, frame: &F, met: &Met, work: &Work, telling: Telling) {
    if !telling.sampled && !telling.traced {
        return;
    }
    let Verdict { action, reason, layer, slot, also } = met.verdict;
    let packet = &work.packet;
    // Put together in a map, not on the stack, where the verifier allows no misaligned store.
    let Some(event) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value of a map.
    let event = unsafe { &mut *event };
    *event = Event {
        time: telling.time,
        src: packet.src,
        dst: packet.dst,
        epoch: met.control.epoch(),
        length: met.amount.bytes as u32,
        sport: packet.sport,
        dport: packet.dport,
        slot,
        reason: reason as u8,
        action: action as u8,
        layer: layer as u8,
        direction: met.direction as u8,
        family: met.family,
        protocol: packet.protocol,
        tcp_flags: packet.tcp_flags,
        fragment: packet.fragment as u8,
        enforced: u8::from(met.control.has(Control::ENFORCE)),
        flow: met.flow as u8,
        also,
        pad: [0; 6],
        quote: Quote::default(),
    };
    // An error that passes is no riddle.
    if event.action == Action::Deny as u8
        && let Some(quote) = frame.quote(&work.extent, packet)
    {
        event.quote = quote;
    }
    if TEST.load() == 1
        && let Some(last) = LAST.get_ptr_mut(0)
    {
        // SAFETY: a map value; a test bed runs one packet at a time.
        unsafe { *last = *event };
    }
    if telling.sampled
        && EVENTS.output(&*event, 0).is_err()
        && let Some(bucket) = BUCKET.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own value of a map.
        unsafe { (*bucket).suppressed += 1 };
    }
    if TRACE.load() == 1 {
        trace(ctx, event);
    }
}

/// Whether one more sample may be taken: not where there were too many lately (a bucket kept as the time the next one is due).
#[inline(always)]
fn due(time: u64, room: u64) -> bool {
    let Some(bucket) = BUCKET.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value of a map.
    let bucket = unsafe { &mut *bucket };
    let due = if bucket.due > time { bucket.due } else { time };
    if due - time > room {
        bucket.suppressed += 1;
        return false;
    }
    bucket.due = due + EVENT_PERIOD.load();
    true
}

#[inline(always)]
fn trace<C: EbpfContext>(ctx: &C, event: &Event) {
    info!(
        ctx,
        "direction={} action={} reason={} slot={} family={} protocol={} src={:x}:{:x} sport={} dst={:x}:{:x} dport={} epoch={}",
        event.direction,
        event.action,
        event.reason,
        event.slot,
        event.family,
        event.protocol,
        event.src[0],
        event.src[1],
        event.sport,
        event.dst[0],
        event.dst[1],
        event.dport,
        event.epoch
    );
}
