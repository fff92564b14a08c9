//! Counting and reporting what was met. Nothing here changes what happens to a packet.

use aya_ebpf::{EbpfContext, Global};
use aya_log_ebpf::info;
use nacl_common::{Action, Control, Counter, Direction, Event, Packet, Verdict, border::NO_SLOT, reason::REASONS};

use crate::{
    OFF, TEST, TRACE, flows,
    maps::{BUCKET, EVENTS, LAST, REASON, SCRATCH, SLOTS},
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
pub struct Met<'a> {
    pub control: Control,
    pub direction: Direction,
    pub packet: &'a Packet,
    /// 0 when the packet was not parsed.
    pub family: u8,
    pub verdict: Verdict,
    /// What the connection table said.
    pub flow: u8,
    pub packets: u32,
    pub length: u32,
    pub enforced: bool,
}

/// Counts always, and reports where asked to.
#[inline(always)]
pub fn report<C: EbpfContext>(ctx: &C, met: &Met<'_>) {
    let Verdict { action, reason, layer, slot, also } = met.verdict;
    if UNCOUNTED.load() != 1 {
        count_all(met);
    }

    let flag = match action {
        Action::Deny => Control::EVENTS_DENIED,
        Action::Allow => Control::EVENTS_ALLOWED,
    };
    let wanted = met.control.has(flag);
    if !wanted && TEST.load() != 1 && TRACE.load() != 1 {
        return;
    }
    // Put together in a map, not on the stack, where the verifier allows no misaligned store.
    let Some(event) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value of a map.
    let event = unsafe { &mut *event };
    let time = flows::now();
    let packet = met.packet;
    *event = Event {
        time,
        src: packet.src,
        dst: packet.dst,
        epoch: met.control.epoch(),
        length: met.length,
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
        enforced: u8::from(met.enforced),
        flow: met.flow,
        also,
        pad: [0; 6],
    };
    if TEST.load() == 1
        && let Some(last) = LAST.get_ptr_mut(0)
    {
        // SAFETY: a map value; a test bed runs one packet at a time.
        unsafe { *last = *event };
    }
    if wanted {
        sample(event);
    }
    if TRACE.load() == 1 {
        trace(ctx, event);
    }
}

#[inline(always)]
fn count_all(met: &Met<'_>) {
    let Verdict { reason, slot, also, .. } = met.verdict;
    if slot != NO_SLOT {
        count(SLOTS.get_ptr_mut(u32::from(slot)), met);
    }
    if also != NO_SLOT {
        count(SLOTS.get_ptr_mut(u32::from(also)), met);
    }
    count(REASON.get_ptr_mut(met.direction as u32 * REASONS as u32 + reason as u32), met);
}

#[inline(always)]
fn count(counter: Option<*mut Counter>, met: &Met<'_>) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own value of a map; neither hook interrupts the other on one CPU.
        unsafe {
            (*counter).packets += u64::from(met.packets);
            (*counter).bytes += u64::from(met.length);
        }
    }
}

/// Puts an event into the ring, unless there were too many lately (a bucket kept as the time the next one is due).
#[inline(always)]
fn sample(event: &Event) {
    let Some(bucket) = BUCKET.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value of a map.
    let bucket = unsafe { &mut *bucket };
    let due = if bucket.due > event.time { bucket.due } else { event.time };
    if due - event.time > EVENT_BURST.load() {
        bucket.suppressed += 1;
        return;
    }
    bucket.due = due + EVENT_PERIOD.load();
    if EVENTS.output(event, 0).is_err() {
        bucket.suppressed += 1;
    }
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
