//! The kernel half: three entry points, the maps, and how a frame's bytes are reached. It decides nothing: every
//! verdict comes from `nacl-common`, and what is left here is pointer arithmetic and counting.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod flows;
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
    Action, Control, Direction, Fragment, Packet, Reason, Verdict,
    border::{Header, Tier},
    evaluate::{Answers, At, Hook, Memory, Question, ask, decide, judge_other, know, question, remember},
    flow,
    tables::{Image, Settle},
};

use crate::{
    frame::{Parse, SkbFrame, XdpFrame},
    maps::{CONTROL, LARGE, MEDIUM, SMALL, WORK, Work},
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
#[inline(always)]
fn nacl_ingress(ctx: XdpContext) -> u32 {
    // Lengths first: computed later, they keep packet pointers alive through the look-up and double the verifier's work.
    // SAFETY: the context is the one this program was called with.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32;
    let frame = XdpFrame::new(&ctx);
    if drops(&ctx, Hook::Ingress, &frame, 0, 1, length) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// The same for kernels before 5.18, which know neither frames of several parts nor that helper.
#[xdp]
#[inline(always)]
fn nacl_ingress_ln(ctx: XdpContext) -> u32 {
    let mut length = ctx.data_end() - ctx.data();
    // Otherwise LLVM makes both pointers short before it subtracts them, which the verifier forbids.
    // SAFETY: the instruction does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) length) };
    let length = length as u32;
    let frame = XdpFrame::new(&ctx);
    if drops(&ctx, Hook::Ingress, &frame, 0, 1, length) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// Ingress where there is no native XDP.
#[classifier]
#[inline(always)]
fn nacl_ingress_tc(ctx: TcContext) -> i32 {
    skb(&ctx, Hook::Ingress)
}

/// Egress.
#[classifier]
#[inline(always)]
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
    let Some(words) = CONTROL.get_ptr(0) else { return false };
    // Read once, so that one verdict is of one generation and one set of settings.
    // SAFETY: a map value, and a u64 is read in one piece.
    let control = Control(unsafe { words.cast::<u64>().read_volatile() });
    let direction = control.direction(hook);
    let Some(work) = WORK.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value of a map.
    let work = unsafe { &mut *work };
    let parsed = frame.parse(tags);
    forget(&mut work.packet, parsed.unwrap_or(NOT_PARSED));
    let family = match parsed {
        Ok(_) => {
            // SAFETY: as above.
            let pickup_until = unsafe { words.cast::<u64>().add(1).read_volatile() };
            judge(At { control, now: 0, pickup_until }, direction, work);
            work.packet.family as u8
        }
        Err(reason) => {
            settled(work, judge_other(control, reason));
            0
        }
    };
    let verdict = work.verdict;
    let enforced = control.has(Control::ENFORCE);
    let flow = work.met as u8;
    report::report(
        ctx,
        &Met { control, direction, packet: &work.packet, family, verdict, flow, packets, length, enforced },
    );
    enforced && matches!(verdict.action, Action::Deny)
}

/// The same place, of whose contents LLVM knows nothing any more: it reads again what it had in registers or on the stack,
/// where the verifier remembers which way it was compared.
#[inline(always)]
fn again<T>(place: &mut T) -> &mut T {
    let mut place = place as *mut T;
    // SAFETY: the instruction does nothing.
    unsafe {
        asm!("{0} = {0}", inout(reg) place);
        &mut *place
    }
}

/// Notes a verdict with which nothing is to be remembered.
#[inline(always)]
fn settled(work: &mut Work, verdict: Verdict) {
    forget(&mut work.verdict, verdict);
    work.met = flow::Met::Nothing;
}

/// Puts a value into a map, where the verifier forgets which way it came about: it walks what follows once, and not again
/// for every kind of header and list that may lead to it (millions of instructions, of at most one it allows).
#[inline(always)]
fn forget<T>(place: &mut T, value: T) -> &mut T {
    *place = value;
    again(place)
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

/// A value of a map. What goes through it is unknown to the verifier afterwards.
#[derive(Clone, Copy)]
struct Place(*mut u32);

impl Settle for Place {
    #[inline(always)]
    fn settle(&self, value: u32) -> u32 {
        // SAFETY: this CPU's own value of a map.
        unsafe {
            self.0.write_volatile(value);
            self.0.read_volatile()
        }
    }
}

/// A generation in the kernel.
struct Placed<'a, I> {
    image: &'a I,
    place: Place,
}

impl<I> Settle for Placed<'_, I> {
    #[inline(always)]
    fn settle(&self, value: u32) -> u32 {
        self.place.settle(value)
    }
}

impl<I: Image> Image for Placed<'_, I> {
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
}

/// Judges the packet in `work` by the generation in force, and remembers what is to be remembered.
#[inline(always)]
fn judge(at: At, direction: Direction, work: &mut Work) {
    const TRACKED: u32 = 1;
    const FOUND: u32 = 1 << 1;
    const FRAGMENT: u32 = 1 << 2;
    const SHARED: u32 = 1 << 3;

    let mut has = 0;
    if let Some(key) = flow::key(at.control, direction, &work.packet) {
        work.key = key;
        has |= TRACKED;
        if flows::find(&work.key, &mut work.kept) {
            has |= FOUND;
        }
    }
    if let Some(key) = flow::fragment_key(at.control, direction, &work.packet) {
        work.fragment = key;
        has |= FRAGMENT;
        if matches!(work.packet.fragment, Fragment::Later) && flows::find_shared(&work.fragment, &mut work.shared) {
            has |= SHARED;
        }
    }
    let has = *forget(&mut work.settle, has);
    let now = if has != 0 { flows::now() } else { 0 };
    forget(&mut work.at, At { now, ..at });

    let work = again(work);
    let memory = Memory {
        trackable: has & TRACKED != 0,
        found: (has & FOUND != 0).then_some(&work.kept.entry),
        shared: (has & SHARED != 0).then_some(&work.shared),
    };
    let known = know(&work.at, direction, &work.packet, memory);
    let known = *forget(&mut work.settle, known);
    let work = again(work);
    let asked = question(direction, &work.packet, known);
    forget(&mut work.question, asked);

    let work = again(work);
    let place = Place(&raw mut work.settle);
    let Some(header) = ask_tier(work.at.control, &work.question, place, &mut work.answers) else {
        return settled(work, Verdict::without_rule(Action::Deny, Reason::NoGeneration));
    };

    let work = again(work);
    let Work { packet, answers, shared, .. } = &*work;
    let verdict = decide(header, at.control, direction, packet, work.question.known, answers, shared);
    let action = forget(&mut work.verdict, verdict).action;
    if has == 0 {
        work.met = flow::Met::Nothing;
        return;
    }

    let work = again(work);
    let Work { packet, kept, answers, at, question, .. } = &*work;
    let known = question.known;
    let (write, met) = remember(&place, header, at, direction, packet, known, answers, &kept.entry, action);
    work.met = met;
    forget(&mut work.write, write);
    let work = again(work);
    if has & TRACKED != 0 && !flows::write(work) {
        forget(&mut work.verdict, flow::full());
    }
    if has & FRAGMENT != 0 && matches!(work.packet.fragment, Fragment::First) {
        let shared = flow::share(work.at.control, work.at.now, &work.verdict);
        flows::share(&work.fragment, forget(&mut work.shared, shared));
    }
}

/// Asks the generation in force, of whichever tier, and returns its header.
#[inline(always)]
fn ask_tier(control: Control, question: &Question, place: Place, answers: &mut Answers) -> Option<&'static Header> {
    const SMALL_TIER: u32 = Tier::Small as u32;
    const MEDIUM_TIER: u32 = Tier::Medium as u32;
    const LARGE_TIER: u32 = Tier::Large as u32;
    let slot = control.slot();
    // A variable: a constant would be merged with a load-time constant of the same value, and be overridden with it.
    let first = 0;
    match control.tier() {
        SMALL_TIER => {
            let image = SMALL.get_value(slot, &first)?;
            forget(answers, ask(&Placed { image, place }, control, question));
            Some(&image.header)
        }
        MEDIUM_TIER => {
            let image = MEDIUM.get_value(slot, &first)?;
            forget(answers, ask(&Placed { image, place }, control, question));
            Some(&image.header)
        }
        LARGE_TIER => {
            let image = LARGE.get_value(slot, &first)?;
            forget(answers, ask(&Placed { image, place }, control, question));
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
