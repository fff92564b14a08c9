//! Kernel programs for the benchmark only: the floors that nacld's own programs are measured against, the scattering of
//! one frame over many flows, a linear scan as a peer, and a generator. Never part of nacld.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[allow(dead_code, reason = "shared with the real programs, which use all of it")]
mod frame;
mod object;

use core::arch::asm;

use aya_ebpf::{
    Global,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    btf_maps::{Array, PerCpuArray},
    helpers::generated::bpf_redirect,
    macros::{btf_map, classifier, map, xdp},
    maps::ProgramArray,
    programs::{TcContext, XdpContext},
};
use nacl_common::{Family, Packet, packet::Extent};

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
    /// Checksum of the IPv4 header, as it stands there: the stack drops a frame with a wrong one before any filter sees it.
    pub check: u16,
    /// Always 0.
    pub pad: u16,
}

/// Probes in one value of the map: user space writes one value a system call.
const SHEET: usize = 64;

/// The probes; as many as are wanted.
#[btf_map]
static PROBES: Array<[Probe; SHEET], 1> = Array::new();

/// Which probe comes next, on each CPU.
#[btf_map]
static CURSOR: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Where what was parsed is kept, so that nothing of it is left out.
#[btf_map]
static PACKET: PerCpuArray<Packet, 1> = PerCpuArray::new();

/// The program that is handed the scattered frame.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Load-time constant: how many probes there are.
#[unsafe(no_mangle)]
static PROBES_COUNT: Global<u32> = Global::new(0x5f6f_6666);

/// Load-time constant: 6 where the frame is IPv6.
#[unsafe(no_mangle)]
static SCATTER_FAMILY: Global<u32> = Global::new(0x5f6f_6667);

/// What a rule of the linear scan says beside its source address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rest {
    /// First destination port.
    pub first: u16,
    /// How many more.
    pub more: u16,
    /// IP protocol.
    pub protocol: u16,
    /// Low byte: the bits of it that are looked at. Above: 1 drops.
    pub flags: u16,
}

/// One IPv4 rule of the linear scan.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Row4 {
    /// Source address, as a number.
    pub address: u32,
    /// Its mask.
    pub mask: u32,
    /// What else there is.
    pub rest: Rest,
}

/// One IPv6 rule of the linear scan.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Row6 {
    /// Source address, as a number: high and low half.
    pub address: [u64; 2],
    /// Its mask.
    pub mask: [u64; 2],
    /// What else there is.
    pub rest: Rest,
}

/// Rules there is room for; user space has the same number. The last one in use matches everything.
const LINEAR: usize = 5120;
/// Rules that one program looks at: the verifier keeps 8192 open branches in mind, and a rule has two.
const PART: usize = LINEAR / 2;

/// The program that looks at the second half.
#[map]
static LINEAR_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The IPv4 rules: one value of a map, so that the scan is one look-up and then reads of memory.
#[btf_map]
static LINEAR4: Array<[Row4; LINEAR], 1> = Array::new();

/// The IPv6 rules.
#[btf_map]
static LINEAR6: Array<[Row6; LINEAR], 1> = Array::new();

/// How often each rule decided.
#[btf_map]
static LINEAR_HITS: PerCpuArray<u64, LINEAR> = PerCpuArray::new();

/// Load-time constant: index of the interface that generated frames leave by.
#[unsafe(no_mangle)]
static GENERATE_TO: Global<u32> = Global::new(0x5f6f_6668);

/// Nothing at all, and the frame is gone.
#[xdp(frags)]
fn drop(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Sends the frame out by an interface: with live frames of BPF_PROG_TEST_RUN a generator.
#[xdp(frags)]
fn generate(_: XdpContext) -> u32 {
    // SAFETY: plain numbers.
    unsafe { bpf_redirect(GENERATE_TO.load(), 0) as u32 }
}

/// What most XDP firewalls do: looks at one rule after the other, and counts the one that matches first.
#[xdp(frags)]
fn linear(ctx: XdpContext) -> u32 {
    let mut packet = Packet::NOT_PARSED;
    if XdpFrame::<true>::new(&ctx).parse(&mut packet, &mut Extent::default()).is_err() {
        return xdp_action::XDP_PASS;
    }
    match scan(&packet, 0) {
        None => {
            // SAFETY: nothing here is left to be dropped.
            unsafe { LINEAR_NEXT.tail_call(&ctx, 0) };
            xdp_action::XDP_ABORTED
        }
        Some(found) => count(found),
    }
}

/// The second half of a list of more than 2560 rules.
#[xdp(frags)]
fn linear_rest(ctx: XdpContext) -> u32 {
    let mut packet = Packet::NOT_PARSED;
    if XdpFrame::<true>::new(&ctx).parse(&mut packet, &mut Extent::default()).is_err() {
        return xdp_action::XDP_PASS;
    }
    scan(&packet, PART).map_or(xdp_action::XDP_ABORTED, count)
}

#[inline(always)]
fn count((index, flags): (u32, u16)) -> u32 {
    if let Some(hits) = LINEAR_HITS.get_ptr_mut(index) {
        // SAFETY: this CPU's own value of a map.
        unsafe { *hits += 1 };
    }
    if flags >> 8 != 0 { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// The first rule that matches, of one part of the list.
#[inline(always)]
fn scan(packet: &Packet, from: usize) -> Option<(u32, u16)> {
    if packet.family as u8 == Family::V6 as u8 {
        let source = packet.src.map(whole);
        part(packet, LINEAR6.get(0)?, from, |row| {
            let other = (source[0] ^ row.address[0]) & row.mask[0] | (source[1] ^ row.address[1]) & row.mask[1];
            (other == 0, &row.rest)
        })
    } else {
        let source = whole(packet.src[1]) as u32;
        part(packet, LINEAR4.get(0)?, from, |row| ((source ^ row.address) & row.mask == 0, &row.rest))
    }
}

/// Two comparisons a rule at most, and one where its address is another: the bound is a constant, and something always
/// matches. BPF keeps the outcome of a comparison nowhere but in a jump, so the second one is arithmetic. (`bpf_loop` needs
/// no bound, and costs a call for each rule.)
#[inline(always)]
fn part<R>(
    packet: &Packet,
    rows: &[R; LINEAR],
    from: usize,
    split: impl Fn(&R) -> (bool, &Rest),
) -> Option<(u32, u16)> {
    let (port, protocol) = (whole(packet.dport.into()) as u32, whole(packet.protocol.into()) as u32);
    let mut index = from;
    while index < from + PART {
        // SAFETY: below the length.
        let (same, rest) = split(unsafe { rows.get_unchecked(index) });
        if same {
            let beyond = u32::from(rest.more).wrapping_sub(port.wrapping_sub(u32::from(rest.first)) & 0xffff) >> 31;
            if beyond | (u32::from(rest.protocol) ^ protocol) & u32::from(rest.flags) & 0xff == 0 {
                return Some((index as u32, rest.flags));
            }
        }
        index += 1;
    }
    None
}

/// The same number, of which LLVM knows no longer that it was put together of bytes: else it does that again for each rule.
#[inline(always)]
fn whole(mut number: u64) -> u64 {
    // SAFETY: the instruction does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) number) };
    number
}

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
    match XdpFrame::<true>::new(&ctx).parse(unsafe { &mut *packet }, &mut Extent::default()) {
        Ok(_) => xdp_action::XDP_PASS,
        Err(_) => xdp_action::XDP_DROP,
    }
}

/// Likewise, at TC.
#[classifier]
fn parse_only_tc(ctx: TcContext) -> i32 {
    let Some(packet) = PACKET.get_ptr_mut(0) else { return TC_ACT_SHOT };
    // SAFETY: as above.
    match SkbFrame::new(&ctx).parse(unsafe { &mut *packet }, &mut Extent::default()) {
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

/// TCP's checksum is not mended: nothing that is measured looks at it.
#[inline(always)]
fn rewrite(data: usize, end: usize) {
    let Some(cursor) = CURSOR.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value of a map.
    let index = unsafe {
        let index = *cursor;
        *cursor = if index + 1 < PROBES_COUNT.load() { index + 1 } else { 0 };
        index
    };
    let Some(sheet) = PROBES.get(index / SHEET as u32) else { return };
    let probe = &sheet[index as usize % SHEET];
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
            ((data + 24) as *mut u16).write_unaligned(probe.check);
            ((data + 26) as *mut u32).write_unaligned(probe.src[0]);
            ((data + 34) as *mut [u16; 2]).write_unaligned([probe.sport, probe.dport]);
        }
    }
}
