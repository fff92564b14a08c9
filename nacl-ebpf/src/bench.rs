//! Kernel programs for the benchmark only: the floors that nacld's own programs are measured against, and the scattering
//! of one frame over many flows. Never part of nacld.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[allow(dead_code, reason = "shared with the real programs, which use all of it")]
mod frame;

use aya_ebpf::{
    Global,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    btf_maps::{Array, PerCpuArray},
    macros::{btf_map, classifier, map, xdp},
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use nacl_common::Packet;

use crate::frame::{Parse, SkbFrame, XdpFrame};

/// What a probe writes into the frame it is sent as.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Probe {
    /// Source address as it stands in the header; an IPv4 address in the first four bytes.
    pub src: [u32; 4],
    /// Source port, as it stands in the header.
    pub sport: u16,
    /// Destination port, likewise.
    pub dport: u16,
    /// Always 0.
    pub pad: u32,
}

/// The probes; as many as are wanted, a power of two.
#[btf_map]
static PROBES: Array<Probe, 1> = Array::new();

/// Which probe comes next, on each CPU.
#[btf_map]
static CURSOR: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Where what was parsed is kept, so that nothing of it is left out.
#[btf_map]
static PACKET: PerCpuArray<Packet, 1> = PerCpuArray::new();

/// The program that is handed the scattered frame.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Load-time constant: one less than the number of probes.
#[unsafe(no_mangle)]
static PROBES_MASK: Global<u32> = Global::new(0x5f6f_6666);

/// Load-time constant: 6 where the frame is IPv6.
#[unsafe(no_mangle)]
static SCATTER_FAMILY: Global<u32> = Global::new(0x5f6f_6667);

/// Nothing at all.
#[xdp(frags)]
fn bare(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Likewise, at TC.
#[classifier]
fn bare_tc(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Parses, and keeps what it found.
#[xdp(frags)]
fn parse_only(ctx: XdpContext) -> u32 {
    let Some(packet) = PACKET.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: this CPU's own value of a map.
    match XdpFrame::<true>::new(&ctx).parse(unsafe { &mut *packet }) {
        Ok(_) => xdp_action::XDP_PASS,
        Err(_) => xdp_action::XDP_DROP,
    }
}

/// Likewise, at TC.
#[classifier]
fn parse_only_tc(ctx: TcContext) -> i32 {
    let Some(packet) = PACKET.get_ptr_mut(0) else { return TC_ACT_SHOT };
    // SAFETY: as above.
    match SkbFrame::new(&ctx).parse(unsafe { &mut *packet }) {
        Ok(_) => TC_ACT_UNSPEC,
        Err(_) => TC_ACT_SHOT,
    }
}

/// Sends the frame as the next probe into the program under test.
#[xdp(frags)]
fn scatter(ctx: XdpContext) -> u32 {
    rewrite(ctx.data(), ctx.data_end());
    // SAFETY: nothing here is left to be dropped.
    unsafe { NEXT.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// Likewise, at TC.
#[classifier]
fn scatter_tc(ctx: TcContext) -> i32 {
    rewrite(ctx.data(), ctx.data_end());
    // SAFETY: as above.
    unsafe { NEXT.tail_call(&ctx, 0) };
    TC_ACT_SHOT
}

/// Checksums are not mended: nothing that is measured looks at them.
#[inline(always)]
fn rewrite(data: usize, end: usize) {
    let Some(cursor) = CURSOR.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value of a map.
    let index = unsafe {
        let index = *cursor;
        *cursor = index.wrapping_add(1);
        index
    };
    let Some(probe) = PROBES.get(index & PROBES_MASK.load()) else { return };
    if SCATTER_FAMILY.load() == 6 {
        if data + 58 > end {
            return;
        }
        // SAFETY: the verifier has seen the comparison; packets are not aligned.
        unsafe {
            ((data + 22) as *mut [u32; 4]).write_unaligned(probe.src);
            ((data + 54) as *mut [u16; 2]).write_unaligned([probe.sport, probe.dport]);
        }
    } else {
        if data + 38 > end {
            return;
        }
        // SAFETY: as above.
        unsafe {
            ((data + 26) as *mut u32).write_unaligned(probe.src[0]);
            ((data + 34) as *mut [u16; 2]).write_unaligned([probe.sport, probe.dport]);
        }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// No helper used here asks for a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
