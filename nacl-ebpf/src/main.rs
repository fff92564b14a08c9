//! The kernel half: three entry points, the maps, and how a frame's bytes are reached. It decides nothing: every
//! verdict comes from `nacl-common`, and what is left here is pointer arithmetic and counting.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod frame;
mod maps;
mod report;

use core::arch::asm;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::generated::bpf_xdp_get_buff_len,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use nacl_common::{
    Action, Control, Direction, Packet, Reason, Verdict,
    border::{Header, Tier},
    evaluate::{Answers, At, Hook, Memory, ask, conclude, judge_other, know},
    tables::Image,
};

use crate::{
    frame::{Parse, SkbFrame, XdpFrame},
    maps::{CONTROL, LARGE, MEDIUM, SMALL, WORK},
    report::Met,
};

/// Value of a switch that is off. Not 0: LLVM keeps one copy of equal constants, also of one that is overridden at load
/// time and one that is not.
pub const OFF: u32 = 0x5f6f_6666;

/// Load-time constant: 1 in a test bed, where the last verdict is written to `LAST`.
#[unsafe(no_mangle)]
static TEST: Global<u32> = Global::new(OFF);

/// Load-time constant: 1 for `--trace`. Otherwise the verifier proves the log statement dead and removes it.
#[unsafe(no_mangle)]
static TRACE: Global<u32> = Global::new(OFF);

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

/// The same for kernels before 5.18, which know neither frames of several parts nor that helper.
#[xdp]
fn nacl_ingress_ln(ctx: XdpContext) -> u32 {
    let length = (ctx.data_end() - ctx.data()) as u32;
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
fn drops<C: EbpfContext, F: Parse>(ctx: &C, hook: Hook, frame: &F, tags: u32, packets: u32, length: u32) -> bool {
    let Some(word) = CONTROL.get_ptr(0) else { return false };
    // Read once, so that one verdict is of one generation and one set of settings.
    // SAFETY: a map value, and a u64 is read in one piece.
    let control = Control(unsafe { word.read_volatile() });
    let direction = control.direction(hook);
    let Some(work) = WORK.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value of a map.
    let work = unsafe { &mut *work };
    let parsed = frame.parse(tags);
    let packet = &*forget(&mut work.packet, parsed.unwrap_or(NOT_PARSED));
    let (family, verdict) = match parsed {
        Ok(_) => {
            let at = At { control, now: 0, pickup_until: 0 };
            (packet.family as u8, lookup(&at, direction, packet, &mut work.settle, &mut work.answers))
        }
        Err(reason) => (0, judge_other(control, reason)),
    };
    let verdict = *forget(&mut work.verdict, verdict);
    let enforced = control.has(Control::ENFORCE);
    report::report(ctx, &Met { control, direction, packet, family, verdict, packets, length, enforced });
    enforced && matches!(verdict.action, Action::Deny)
}

/// Puts a value into a map, where the verifier forgets which way it came about: it walks what follows once, and not again
/// for every kind of header and list that may lead to it (millions of instructions, of at most one it allows).
#[inline(always)]
fn forget<T>(place: &mut T, value: T) -> &mut T {
    let mut place = place as *mut T;
    // SAFETY: a value of a map; the instruction, which does nothing, keeps LLVM from remembering either.
    unsafe {
        place.write(value);
        asm!("{0} = {0}", inout(reg) place);
        &mut *place
    }
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
    ident: 0,
};

/// A generation in the kernel. What goes through `settle`, a value of a map, is unknown to the verifier afterwards.
struct Settling<'a, I> {
    image: &'a I,
    settle: *mut u32,
}

impl<I: Image> Image for Settling<'_, I> {
    const ROWS: bool = I::ROWS;

    #[inline(always)]
    fn header(&self) -> &Header {
        self.image.header()
    }

    #[inline(always)]
    fn half(&self, index: u32) -> u32 {
        self.image.half(index)
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        self.image.word(index)
    }

    #[inline(always)]
    fn settle(&self, value: u32) -> u32 {
        // SAFETY: this CPU's own value of a map.
        unsafe {
            self.settle.write_volatile(value);
            self.settle.read_volatile()
        }
    }
}

/// The verdict of the generation in force.
#[inline(always)]
fn lookup(at: &At, direction: Direction, packet: &Packet, settle: &mut u32, answers: &mut Answers) -> Verdict {
    let memory = Memory::default();
    let known = *forget(settle, know(at, direction, packet, memory));
    let Some(header) = ask_tier(at.control, direction, packet, known, settle, answers) else {
        return Verdict::without_rule(Action::Deny, Reason::NoGeneration);
    };
    conclude(header, at, direction, packet, memory, known, *answers).verdict
}

/// Asks the generation in force, of whichever tier, and returns its header.
#[inline(always)]
fn ask_tier(
    control: Control,
    direction: Direction,
    packet: &Packet,
    known: u32,
    settle: *mut u32,
    answers: &mut Answers,
) -> Option<&'static Header> {
    const SMALL_TIER: u32 = Tier::Small as u32;
    const MEDIUM_TIER: u32 = Tier::Medium as u32;
    const LARGE_TIER: u32 = Tier::Large as u32;
    let slot = control.slot();
    // A variable: a constant would be merged with a load-time constant of the same value, and be overridden with it.
    let first = 0;
    match control.tier() {
        SMALL_TIER => {
            let image = SMALL.get_value(slot, &first)?;
            forget(answers, ask(&Settling { image, settle }, control, direction, packet, known));
            Some(&image.header)
        }
        MEDIUM_TIER => {
            let image = MEDIUM.get_value(slot, &first)?;
            forget(answers, ask(&Settling { image, settle }, control, direction, packet, known));
            Some(&image.header)
        }
        LARGE_TIER => {
            let image = LARGE.get_value(slot, &first)?;
            forget(answers, ask(&Settling { image, settle }, control, direction, packet, known));
            Some(&image.header)
        }
        _ => None,
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
