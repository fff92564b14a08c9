//! The kernel half: three entry points, the maps, and how a frame's bytes are reached. It decides nothing: every
//! verdict comes from `nacl-common`, and what is left here is pointer arithmetic and counting.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a value of a map given by value is copied onto the stack"
)]

mod flowlog;
mod flows;
mod frame;
mod maps;
mod object;
mod report;

use core::arch::asm;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use nacl_common::{
    Action, Control, Counter, Direction, Fragment, Packet, Reason, Verdict,
    border::{ALLOW, Header, Tier},
    evaluate::{
        Answers, At, Hook, Judged, Memory, Question, Rest, alone, ask, decide, decide_alone, judge_other, know,
        question, remember, running,
    },
    flow,
    tables::{Image, Node, Settle, split},
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

// What a program returns is computed from 1 and 0.
const _: () = assert!(xdp_action::XDP_DROP + 1 == xdp_action::XDP_PASS);

/// Ingress, native or generic XDP. `frags`: without it a veth with a large MTU has no native XDP; headers always lie
/// in the first part of a frame.
#[xdp(frags)]
#[inline(always)]
fn nacl_ingress(ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS - drops(&ctx, Hook::Ingress, &XdpFrame::<true>::new(&ctx)) as u32
}

/// The same for kernels before 5.18, which know no frames of several parts.
#[xdp]
#[inline(always)]
fn nacl_ingress_ln(ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS - drops(&ctx, Hook::Ingress, &XdpFrame::<false>::new(&ctx)) as u32
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
    // An allow is "unspecified", never "ok": with tcx (which calls it "next") and clsact other programs go on.
    TC_ACT_UNSPEC + (TC_ACT_SHOT - TC_ACT_UNSPEC) * drops(ctx, hook, &SkbFrame::new(ctx)) as i32
}

/// Judges, counts and reports one frame; 1 when it is to be dropped, else 0.
#[inline(always)]
fn drops<C: EbpfContext, F: Parse>(ctx: &C, hook: Hook, frame: &F) -> u64 {
    let Some(words) = CONTROL.get_ptr(0) else { return 0 };
    let words = words.cast::<u64>();
    let Some(work) = WORK.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own value of a map.
    let work = unsafe { &mut *work };
    // Read once, so that one verdict is of one generation and one set of settings.
    // SAFETY: words of a map's value, and a u64 is read in one piece.
    let mut control = Control(unsafe { words.read_volatile() });
    if control.has(Control::PENDING) {
        // SAFETY: as above.
        let [fallback, deadline] =
            unsafe { [words.add(Control::FALLBACK).read_volatile(), words.add(Control::DEADLINE).read_volatile()] };
        control = control.in_force(Control(fallback), deadline, flows::tick(&mut work.tick));
    }
    let direction = control.direction(hook);
    let parsed = frame.parse(&mut work.packet, &mut work.extent);
    let amount = Counter { packets: frame.packets().into(), bytes: frame.bytes(parsed.unwrap_or(u32::MAX)).into() };
    let mut met = Met { family: 0, flow: flow::Met::Nothing, verdict: NO_VERDICT, control, direction, amount };
    let telling;
    match parsed {
        Ok(_) => {
            // From here on the verifier does not know which headers led here, nor what stands in them.
            let work = again(work);
            met.family = work.packet.family as u8;
            if alone(control, &work.packet) {
                // Nearly every packet of an interface that remembers nothing ends in here.
                let question = question(control, direction, &work.packet);
                let answers = ask_alone(control, &work.packet, &question);
                if let Some(decision) = answers.alone(&question) {
                    let (_, slot) = split(decision);
                    report::count_alone(slot, amount);
                    let action = u64::from(decision >> ALLOW.trailing_zeros());
                    telling = report::wanted(control, direction, action, &work.packet, &mut work.tick);
                    if telling.is_none() {
                        return control.drops(action);
                    }
                    met.verdict = decide_alone(&question, &answers);
                } else {
                    met.verdict = decide_alone(&question, &answers);
                    report::count(&met);
                    telling =
                        report::wanted(control, direction, met.verdict.action as u64, &work.packet, &mut work.tick);
                }
            } else {
                // SAFETY: as above.
                let pickup_until = unsafe { words.add(Control::PICKUP).read_volatile() };
                let at = At { control, now: flows::tick(&mut work.tick), pickup_until };
                if let Some(verdict) = judge(at, direction, work) {
                    report::count_alone(verdict.slot, amount);
                    telling = report::wanted(control, direction, verdict.action as u64, &work.packet, &mut work.tick);
                    if telling.is_none() {
                        return control.drops(verdict.action as u64);
                    }
                    met.verdict = verdict;
                } else {
                    met.verdict = work.verdict;
                    report::count(&met);
                    telling =
                        report::wanted(control, direction, met.verdict.action as u64, &work.packet, &mut work.tick);
                }
                met.flow = work.met;
            }
        }
        Err(reason) => {
            work.packet = Packet::NOT_PARSED;
            met.verdict = judge_other(control, reason);
            report::count(&met);
            telling = report::wanted(control, direction, met.verdict.action as u64, &work.packet, &mut work.tick);
        }
    }
    if let Some(telling) = telling {
        // From here on the verifier does not know which way the verdict came about, nor to whom it is told.
        met.verdict = *forget(&mut work.verdict, met.verdict);
        met.flow = *forget(&mut work.met, met.flow);
        let telling = *forget(&mut work.telling, telling);
        if let Some(time) = telling.logged() {
            let bytes = frame.ip_bytes(&work.extent);
            flowlog::log(&met, work, time, bytes);
        }
        report::tell(ctx, frame, &met, work, telling);
    }
    control.drops(met.verdict.action as u64)
}

/// What stands where no verdict was come to yet.
const NO_VERDICT: Verdict = Verdict::without_rule(Action::Deny, Reason::NoGeneration);

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

/// The same number, of which LLVM knows nothing: it is masked where it is used as an index, after all that it is made of. Masked
/// before (of what is shifted, and of what is or-ed to it), the verifier would have to know that an `or` of two bounded numbers
/// is bounded: that of Linux 6.1.176 does not.
#[inline(always)]
fn whole(number: u32) -> u32 {
    let mut number = u64::from(number);
    // SAFETY: the instruction does nothing.
    unsafe { asm!("{0} = {0}", inout(reg) number) };
    number as u32
}

/// A generation in the kernel.
struct InKernel<'a, I>(&'a I);

impl<I> Settle for InKernel<'_, I> {
    #[inline(always)]
    fn settle(&self, value: u32) -> u32 {
        whole(value)
    }
}

impl<I: Image> Image for InKernel<'_, I> {
    const ROWS: bool = I::ROWS;

    #[inline(always)]
    fn header(&self) -> &Header {
        self.0.header()
    }

    #[inline(always)]
    fn half(&self, index: u32) -> u32 {
        self.0.half(whole(index))
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        self.0.word(whole(index))
    }

    #[inline(always)]
    fn node(&self, index: u32) -> &Node {
        self.0.node(whole(index))
    }
}

/// Likewise, with a place where the verifier forgets.
struct Placed<'a, I> {
    image: InKernel<'a, I>,
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

    #[inline(always)]
    fn node(&self, index: u32) -> &Node {
        self.image.node(index)
    }
}

/// Does something with the generation in force, of whichever tier it is; `None` where there is none.
macro_rules! in_generation {
    ($control:expr, $image:ident => $what:expr) => {{
        const SMALL_TIER: u32 = Tier::Small as u32;
        const MEDIUM_TIER: u32 = Tier::Medium as u32;
        const LARGE_TIER: u32 = Tier::Large as u32;
        let slot = $control.slot();
        // A variable: a constant would be merged with a load-time constant of the same value, and be overridden with it.
        let first = 0;
        // Not by a closure, which LLVM would call: a return alone costs 10 ns where it is guarded against speculation.
        match $control.tier() {
            SMALL_TIER => match SMALL.get_value(slot, &first) {
                Some($image) => Some($what),
                None => None,
            },
            MEDIUM_TIER => match MEDIUM.get_value(slot, &first) {
                Some($image) => Some($what),
                None => None,
            },
            LARGE_TIER => match LARGE.get_value(slot, &first) {
                Some($image) => Some($what),
                None => None,
            },
            _ => None,
        }
    }};
}

/// Judges the packet in `work` by the generation in force, and remembers what is to be remembered. Returns the verdict where all
/// layers remember the connection; otherwise it stands in `work`.
#[inline(always)]
fn judge(at: At, direction: Direction, work: &mut Work) -> Option<Verdict> {
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
            let place = Place(&raw mut work.settle);
            let Work { packet, kept, .. } = &*work;
            let (header, entry) = (InForce(at.control), &kept.entry);
            // Nearly every packet of an interface that remembers ends here: with no list to ask, and nothing to pass by memory.
            if let Some(Judged { verdict, write, met }) = running(&place, &header, &at, direction, packet, entry) {
                flows::touch(&work.key, entry, &write.entry);
                work.met = met;
                return Some(verdict);
            }
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
    forget(&mut work.at, at);

    let work = again(work);
    let memory = Memory {
        trackable: has & TRACKED != 0,
        found: (has & FOUND != 0).then_some(&work.kept.entry),
        shared: (has & SHARED != 0).then_some(&work.shared),
    };
    let question = question(work.at.control, direction, &work.packet);
    let known = know(&work.at, direction, &work.packet, &question, memory);
    let known = *forget(&mut work.settle, known);

    let work = again(work);
    let place = Place(&raw mut work.settle);
    let question = *forget(&mut work.question, question);
    let work = again(work);
    let Some(header) = ask_tier(work.at.control, &work.packet, &question, known, place, &mut work.answers) else {
        settled(work, Verdict::without_rule(Action::Deny, Reason::NoGeneration));
        return None;
    };

    let work = again(work);
    let Work { question, answers, shared, .. } = &*work;
    let verdict = decide(&header.open, question, known, answers, shared);
    let action = forget(&mut work.verdict, verdict).action;
    if has == 0 {
        work.met = flow::Met::Nothing;
        return None;
    }

    let work = again(work);
    let Work { packet, kept, answers, at, question, .. } = &*work;
    let (write, met) = remember(&place, header, at, direction, packet, question, known, answers, &kept.entry, action);
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
    None
}

/// What holds for all lists of the generation in force.
struct InForce(Control);

impl Rest for InForce {
    #[inline(always)]
    fn timeout(&self, timeout: usize) -> u64 {
        in_generation!(self.0, image => image.header.timeout(timeout)).unwrap_or(0)
    }

    #[inline(always)]
    fn may_be_exempt(&self, question: &Question) -> bool {
        in_generation!(self.0, image => image.header.may_be_exempt(question)).unwrap_or(true)
    }
}

/// Asks the generation in force, of whichever tier, and returns its header.
#[inline(always)]
fn ask_tier(
    control: Control,
    packet: &Packet,
    question: &Question,
    known: u32,
    place: Place,
    answers: &mut Answers,
) -> Option<&'static Header> {
    in_generation!(control, image => {
        forget(answers, ask(&Placed { image: InKernel(image), place }, control, packet, question, known));
        &image.header
    })
}

/// Asks the network ACL, where nothing is remembered and no other layer has a say.
#[inline(always)]
fn ask_alone(control: Control, packet: &Packet, question: &Question) -> Answers {
    // What is always so here is said, so that LLVM leaves out what never comes.
    let control = Control(control.0 & !(Control::STATEFUL | Control::GROUPS));
    in_generation!(control, image => ask(&InKernel(image), control, packet, question, 0)).unwrap_or(Answers::NONE)
}
