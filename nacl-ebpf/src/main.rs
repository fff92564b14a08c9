//! The kernel half: three entry points, the maps, and how a frame's bytes are reached. It decides nothing: every
//! verdict comes from `nacl-common`, and what is left here is pointer arithmetic and counting.
#![no_std]
#![no_main]

mod frame;
mod maps;
mod report;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::generated::bpf_xdp_get_buff_len,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use nacl_common::{
    Action, Control, Direction, Packet, Reason, Verdict,
    border::Tier,
    evaluate::{Hook, judge, judge_other},
    packet::{Frame, parse},
};

use crate::{
    frame::{SkbFrame, XdpFrame},
    maps::{CONTROL, LARGE, MEDIUM, SMALL},
    report::Met,
};

/// Load-time constant: 1 in a test bed, where the last verdict is written to `LAST`.
#[unsafe(no_mangle)]
static TEST: Global<u32> = Global::new(0);

/// Load-time constant: 1 for `--trace`. Otherwise the verifier proves the log statement dead and removes it.
#[unsafe(no_mangle)]
static TRACE: Global<u32> = Global::new(0);

/// Ingress, native or generic XDP. `frags`: without it a veth with a large MTU has no native XDP; headers always lie
/// in the first part of a frame.
#[xdp(frags)]
fn nacl_ingress(ctx: XdpContext) -> u32 {
    // Lengths first: computed later, they keep packet pointers alive through the look-up and double the verifier's work.
    // SAFETY: the context is the one this program was called with.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32;
    let frame = XdpFrame::new(&ctx);
    if drops(&ctx, Hook::Ingress, &frame, 0, 1, length) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// Ingress where there is no native XDP.
#[classifier]
fn nacl_ingress_tc(ctx: TcContext) -> i32 {
    skb(&ctx, Hook::Ingress)
}

/// Egress.
#[classifier]
fn nacl_egress(ctx: TcContext) -> i32 {
    skb(&ctx, Hook::Egress)
}

#[inline(always)]
fn skb(ctx: &TcContext, hook: Hook) -> i32 {
    let frame = SkbFrame::new(ctx);
    // An allow is "unspecified", never "ok": with tcx (which calls it "next") and clsact other programs go on.
    if drops(ctx, hook, &frame, frame.tags(), frame.packets(), frame.bytes()) { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// Judges, counts and reports one frame; true when it is to be dropped.
#[inline(always)]
fn drops<C: EbpfContext, F: Frame>(ctx: &C, hook: Hook, frame: &F, tags: u32, packets: u32, length: u32) -> bool {
    let Some(word) = CONTROL.get_ptr(0) else { return false };
    // Read once, so that one verdict is of one generation and one set of settings.
    // SAFETY: a map value, and a u64 is read in one piece.
    let control = Control(unsafe { word.read_volatile() });
    let direction = control.direction(hook);
    let (packet, family, verdict) = match parse(frame, tags) {
        Ok(packet) => (packet, packet.family as u8, lookup(control, direction, &packet)),
        Err(reason) => (NOT_PARSED, 0, judge_other(control, reason)),
    };
    let enforced = control.has(Control::ENFORCE);
    report::report(ctx, &Met { control, direction, packet: &packet, family, verdict, packets, length, enforced });
    enforced && matches!(verdict.action, Action::Deny)
}

/// What is reported of a frame that was not parsed: nothing.
const NOT_PARSED: Packet = Packet {
    family: nacl_common::Family::V4,
    protocol: 0,
    fragment: nacl_common::Fragment::None,
    hop_limit: 0,
    tcp_flags: 0,
    src: [0; 2],
    dst: [0; 2],
    sport: 0,
    dport: 0,
};

/// The verdict of the generation in force.
#[inline(always)]
fn lookup(control: Control, direction: Direction, packet: &Packet) -> Verdict {
    const SMALL_TIER: u32 = Tier::Small as u32;
    const MEDIUM_TIER: u32 = Tier::Medium as u32;
    const LARGE_TIER: u32 = Tier::Large as u32;
    let slot = control.slot();
    let verdict = match control.tier() {
        SMALL_TIER => SMALL.get_value(slot, &0).map(|image| judge(image, direction, packet)),
        MEDIUM_TIER => MEDIUM.get_value(slot, &0).map(|image| judge(image, direction, packet)),
        LARGE_TIER => LARGE.get_value(slot, &0).map(|image| judge(image, direction, packet)),
        _ => None,
    };
    verdict.unwrap_or(Verdict::without_rule(Action::Deny, Reason::NoGeneration))
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
