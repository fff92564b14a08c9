//! The flow log: every packet that AWS would tell of is added to the record of its 5-tuple, so that what user space reads once
//! in a window is complete. What is told, under which key and with which flags comes from `nacl-common`.

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use nacl_common::{
    Counter,
    border::{LogKey, Logged},
    flowlog::{decided, flags, is_told, key},
};

use crate::{
    again,
    maps::{FLOW_LOG, Work},
    report::Met,
};

/// Adds a packet to its record. `time`: nanoseconds of the coarse clock. `bytes`: those of its IP packets.
#[inline(always)]
pub fn log(met: &Met, work: &mut Work, time: u64, bytes: u32) {
    if !is_told(met.verdict.reason) {
        return;
    }
    work.log = key(met.direction, &work.packet, &met.verdict);
    work.logged = Logged {
        packets: met.amount.packets,
        bytes: bytes.into(),
        first: time,
        last: time,
        decided: decided(met.control.epoch(), &met.verdict),
        tcp_flags: flags(work.packet.tcp_flags),
    };
    // What stands there is read again, so that the verifier walks what follows once.
    let Work { log: key, logged, .. } = again(work);
    // A variable: a constant would be merged with a load-time constant of the same value, and be overridden with it.
    let window = 0;
    let Some(map) = FLOW_LOG.get(window) else { return };
    if let Some(record) = map.get_ptr_mut(&*key) {
        return add(record, logged);
    }
    if map.insert(&*key, &*logged, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    // Another CPU may have begun the same record a moment ago; else there is no room.
    if let Some(record) = map.get_ptr_mut(&*key) {
        return add(record, logged);
    }
    *key = LogKey::WINDOW;
    if let Some(window) = map.get_ptr_mut(&*key) {
        count(window, Counter { packets: logged.packets, bytes: logged.bytes });
    }
}

/// Adds to a record that other CPUs add to.
#[inline(always)]
fn add(record: *mut Logged, more: &Logged) {
    count(record, Counter { packets: more.packets, bytes: more.bytes });
    // SAFETY: a map's value; each is stored in one piece, and whichever CPU comes last has its way.
    unsafe {
        (&raw mut (*record).last).write_volatile(more.last);
        (&raw mut (*record).decided).write_volatile(more.decided);
    }
    // SAFETY: a map's value, aligned, and its flags are only changed by atomic instructions.
    unsafe {
        let flags = &raw mut (*record).tcp_flags;
        // Nearly never: a connection has two such packets.
        if flags.read_volatile() & more.tcp_flags != more.tcp_flags {
            asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) flags, in(reg) more.tcp_flags);
        }
    }
}

/// By atomic instructions, which Rust has none of for this machine.
#[inline(always)]
fn count(record: *mut Logged, amount: Counter) {
    // SAFETY: a map's value, aligned, and both are only changed by atomic instructions.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) &raw mut (*record).packets, in(reg) amount.packets);
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) &raw mut (*record).bytes, in(reg) amount.bytes);
    }
}
