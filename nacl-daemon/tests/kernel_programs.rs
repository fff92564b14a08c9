//! The loaded programs, frame by frame (BPF_PROG_TEST_RUN): every treatment of a header has its frame here, and each of
//! the three programs must say of it what the host engine says of the same bytes, which is the reason written beside it.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use nacl_common::{
    Action, Control, Direction, Event, Reason, Verdict,
    border::{NO_SLOT, Tier},
    evaluate::{Hook, judge_other},
    packet::parse,
};
use nacl_daemon::{
    compile::{Compiled, compile},
    dataplane::{Events, Options, Program, TestBed, Wire},
    resolve::{Interface, Nacl, Side, Xdp},
};
use object::{Object, ObjectSection, ObjectSymbol};
use support::{
    policies::{open, options, policy, rule, slot, two_closed},
    quotes,
};

/// IPv4, to the ports the policies of these tests know.
const PORT: u16 = 4001;

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

fn tagged(tags: &[u16], frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for (number, kind) in tags.iter().enumerate() {
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, number as u8 + 1]);
    }
    bytes.extend(&frame[12..]);
    bytes
}

/// An IPv4 packet: words of options, flags and offset, protocol, what follows.
fn v4(options: usize, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = 20 + 4 * options + payload.len();
    let mut packet = vec![0x45 + options as u8, 0, (length >> 8) as u8, length as u8, 0, 1];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
    packet.extend(vec![1; 4 * options]);
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

/// An IPv6 packet: hop limit, first header, what follows.
fn v6(hop_limit: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, (payload.len() >> 8) as u8, payload.len() as u8, next, hop_limit];
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(payload);
    ethernet(0x86dd, &packet)
}

fn udp(port: u16) -> Vec<u8> {
    let mut header = vec![0x30, 0x39];
    header.extend(port.to_be_bytes());
    header.extend([0, 13, 0, 0]);
    header.extend(b"nacld");
    header
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0x30, 0x39, 0x0f, 0xa1, 0, 0, 0, 1, 0, 0, 0, 0, 0x50];
    header.extend([flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn icmp(kind: u8, code: u8) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 1, 0, 1];
    message.extend([0; 16]);
    message
}

/// Extension headers in a row, each naming the next.
fn chain(kinds: &[u8], last: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (index, _) in kinds.iter().enumerate() {
        bytes.extend([kinds.get(index + 1).copied().unwrap_or(last), 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes.extend(payload);
    (kinds.first().copied().unwrap_or(last), bytes)
}

fn extended(kinds: &[u8], last: u8, payload: &[u8]) -> Vec<u8> {
    let (first, bytes) = chain(kinds, last, payload);
    v6(64, first, &bytes)
}

fn fragment6(offset: u16, more: u16, next: u8, payload: &[u8]) -> Vec<u8> {
    let field = offset << 3 | more;
    let mut bytes = vec![next, 0, (field >> 8) as u8, field as u8, 0, 0, 0, 1];
    bytes.extend(payload);
    v6(64, 44, &bytes)
}

/// What each frame is, its bytes, the reason, and whether BPF_PROG_TEST_RUN takes it at TC, which refuses an IP header
/// that is cut short (those go over a real wire in `kernel_attach`).
fn frames() -> Vec<(&'static str, Vec<u8>, Reason, bool)> {
    use Reason::{
        Arp, EthernetShort, ExtensionHeaders, FirstFragmentShort, IpMalformed, IpShort, Mld, NaclRule,
        NeighbourDiscovery, NonIp, TinyFragmentOffset, TransportShort, VlanDepth,
    };
    let plain = v4(0, 0, 17, &udp(PORT));
    let plain6 = v6(64, 17, &udp(PORT));
    let cut = |frame: &[u8], length: usize| frame[..length].to_vec();
    let patched = |frame: &[u8], at: usize, value: u8| {
        let mut frame = frame.to_vec();
        frame[at] = value;
        frame
    };
    let mut frames = vec![
        ("ARP", ethernet(0x0806, &[0; 28]), Arp, true),
        ("LLDP", ethernet(0x88cc, &[0; 50]), NonIp, true),
        ("PPPoE", ethernet(0x8864, &[0; 50]), NonIp, true),
        ("802.3 with a length", ethernet(0x0026, &[0xaa; 38]), NonIp, true),
        ("MPLS", ethernet(0x8847, &[0; 50]), NonIp, true),
        ("UDP", plain.clone(), NaclRule, true),
        ("TCP", v4(0, 0, 6, &tcp(2)), NaclRule, true),
        ("ICMP", v4(0, 0, 1, &icmp(8, 0)), NaclRule, true),
        ("GRE", v4(0, 0, 47, &[0; 8]), NaclRule, true),
        ("ICMPv6 number in IPv4", v4(0, 0, 58, &[]), NaclRule, true),
        ("UDP over IPv6", plain6.clone(), NaclRule, true),
        ("TCP over IPv6", v6(64, 6, &tcp(18)), NaclRule, true),
        ("echo request over IPv6", v6(64, 58, &icmp(128, 0)), NaclRule, true),
        ("ICMP number in IPv6", v6(64, 1, &[]), NaclRule, true),
        ("no next header", v6(64, 59, &[]), NaclRule, true),
        ("one tag", tagged(&[0x8100], &plain), NaclRule, true),
        ("one tag, IPv6", tagged(&[0x8100], &plain6), NaclRule, true),
        ("two tags", tagged(&[0x88a8, 0x8100], &plain), NaclRule, true),
        ("two tags, IPv6", tagged(&[0x8100, 0x8100], &plain6), NaclRule, true),
        ("three tags", tagged(&[0x88a8, 0x8100, 0x8100], &plain), VlanDepth, true),
        ("a tagged ARP", tagged(&[0x8100], &ethernet(0x0806, &[0; 28])), Arp, true),
        ("a tag cut short", cut(&tagged(&[0x8100], &plain), 16), EthernetShort, true),
        ("one word of options", v4(1, 0, 17, &udp(PORT)), NaclRule, true),
        ("ten words of options", v4(10, 0, 6, &tcp(2)), NaclRule, true),
        ("options cut short", cut(&v4(10, 0, 6, &tcp(2)), 14 + 50), IpShort, true),
        ("destination options", extended(&[60], 17, &udp(PORT)), NaclRule, true),
        ("hop-by-hop, routing, destination", extended(&[0, 43, 60], 6, &tcp(2)), NaclRule, true),
        ("eight extension headers", extended(&[60; 8], 17, &udp(PORT)), NaclRule, true),
        ("nine extension headers", extended(&[60; 9], 17, &udp(PORT)), ExtensionHeaders, true),
        ("AH is a protocol", v6(64, 51, &[0; 24]), NaclRule, true),
        ("ESP is a protocol", v6(64, 50, &[0; 24]), NaclRule, true),
        ("an extension header cut short", cut(&extended(&[60], 17, &udp(PORT)), 55), IpShort, true),
        (
            "an extension header past the packet",
            patched(&extended(&[60], 17, &udp(PORT)), 55, 200),
            ExtensionHeaders,
            true,
        ),
        ("two fragment headers", fragment6(0, 0, 44, &[17, 0, 0, 1, 0, 0, 0, 1, 0, 0]), ExtensionHeaders, true),
        ("an atomic fragment", fragment6(0, 0, 17, &udp(PORT)), NaclRule, true),
        ("a first fragment", v4(0, 0x2000, 17, &udp(PORT)), NaclRule, true),
        ("a first fragment, IPv6", fragment6(0, 1, 17, &udp(PORT)), NaclRule, true),
        ("a later fragment", v4(0, 185, 17, &[0x55; 30]), NaclRule, true),
        ("a later fragment, IPv6", fragment6(185, 0, 17, &[0x55; 30]), NaclRule, true),
        (
            "a first fragment without its ports",
            cut(&v4(0, 0x2000, 17, &udp(PORT)), 14 + 20 + 6),
            FirstFragmentShort,
            true,
        ),
        ("a first fragment of half a TCP header", v4(0, 0x2000, 6, &tcp(2)[..16]), FirstFragmentShort, true),
        ("a first fragment of half a TCP header, IPv6", fragment6(0, 1, 6, &tcp(2)[..16]), FirstFragmentShort, true),
        ("a fragment at offset 1", v4(0, 1, 6, &[0x55; 30]), TinyFragmentOffset, true),
        ("a fragment at offset 1, IPv6", fragment6(1, 1, 6, &[0x55; 30]), TinyFragmentOffset, true),
        ("an IPv4 header cut short", cut(&plain, 14 + 19), IpShort, false),
        ("nothing after the ethertype", cut(&plain, 14), IpShort, false),
        ("an IPv6 header cut short", cut(&plain6, 14 + 39), IpShort, false),
        ("a TCP header cut short", cut(&v4(0, 0, 6, &tcp(2)), 14 + 20 + 19), TransportShort, true),
        ("a UDP header cut short, IPv6", cut(&plain6, 14 + 40 + 7), TransportShort, true),
        ("an ICMP header cut short", cut(&v4(0, 0, 1, &icmp(8, 0)), 14 + 20 + 7), TransportShort, true),
        ("version 6 behind IPv4's ethertype", patched(&plain, 14, 0x65), IpMalformed, true),
        ("version 4 behind IPv6's ethertype", patched(&plain6, 14, 0x40), IpMalformed, true),
        ("a header length of 16", patched(&plain, 14, 0x44), IpMalformed, true),
        ("a total length of 19", patched(&plain, 17, 19), IpMalformed, true),
        ("a total length that ends in the UDP header", patched(&plain, 17, 24), TransportShort, true),
        ("a payload length that ends in the UDP header", patched(&plain6, 19, 7), TransportShort, true),
    ];
    for kind in 133..=137 {
        let name = "neighbour discovery";
        frames.push((name, v6(255, 58, &icmp(kind, 0)), NeighbourDiscovery, true));
        frames.push(("neighbour discovery that was forwarded", v6(254, 58, &icmp(kind, 0)), NaclRule, true));
        frames.push(("neighbour discovery in a fragment", fragment6(0, 1, 58, &icmp(kind, 0)), NaclRule, true));
    }
    for kind in [130, 131, 132, 143] {
        let hops = chain(&[0], 58, &icmp(kind, 0));
        frames.push(("multicast listener discovery", v6(1, 58, &icmp(kind, 0)), Mld, true));
        frames.push(("multicast listener discovery with router alert", v6(1, hops.0, &hops.1), Mld, true));
        frames.push(("multicast listener discovery that was routed", v6(2, 58, &icmp(kind, 0)), NaclRule, true));
    }
    frames
}

/// What the host engine says of the same bytes.
fn expected(compiled: &Compiled, options: Options, direction: Direction, frame: &[u8]) -> Verdict {
    let flags = if options.drop_non_ip { Control::NON_IP_DROP } else { 0 };
    match parse(frame, 0) {
        Ok(packet) => compiled.judge(direction, &packet),
        Err(reason) => judge_other(Control::new(0, Tier::Small, flags, 0), reason),
    }
}

fn verdict(event: &Event) -> Verdict {
    event.verdict().expect("known numbers")
}

#[test]
fn every_treatment_is_the_host_engines() {
    for drop_non_ip in [false, true] {
        for side in [Side::Host, Side::Router] {
            let compiled = two_closed(PORT, PORT + 1);
            // Each frame by itself: what is remembered has tests of its own.
            let options = Options { side, drop_non_ip, forgetful: true, ..options(Xdp::Auto) };
            let mut bed = TestBed::load(&options, &compiled).expect("the programs load");
            for (name, frame, reason, at_tc) in frames() {
                for program in Program::ALL {
                    if !program.is_xdp() && !at_tc {
                        let refused = bed.run_program(program, &frame, None);
                        assert!(refused.is_err(), "{name}: the kernel takes it now, so it can be tested here");
                        continue;
                    }
                    let inbound = (program == Program::TcEgress) == (side == Side::Router);
                    let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
                    let (action, event) = bed.run_program(program, &frame, None).expect(name);
                    let wanted = expected(&compiled, options, direction, &frame);
                    assert_eq!(wanted.reason, reason, "{name}, host");
                    assert_eq!(verdict(&event), wanted, "{name}, {program:?}");
                    assert_eq!(action, wanted.action, "{name}, {program:?}");
                    assert_eq!(event.direction, direction as u8, "{name}");
                    assert_eq!(event.length as usize, frame.len(), "{name}");
                    if let Ok(packet) = parse(frame.as_slice(), 0) {
                        assert_eq!((event.src, event.dst), (packet.src, packet.dst), "{name}");
                        assert_eq!((event.sport, event.dport), (packet.sport, packet.dport), "{name}");
                        assert_eq!((event.protocol, event.tcp_flags), (packet.protocol, packet.tcp_flags), "{name}");
                        assert_eq!(
                            (event.family, event.fragment),
                            (packet.family as u8, packet.fragment as u8),
                            "{name}"
                        );
                    } else {
                        assert_eq!((event.family, event.protocol, event.slot), (0, 0, NO_SLOT), "{name}");
                    }
                }
            }
        }
    }
}

/// What an ICMP error quotes is told where it is denied, as the parser reads it from the same bytes.
#[test]
fn a_denied_icmp_error_tells_what_it_quotes() {
    let (shut, open) = (policy(Vec::new(), Vec::new()), open());
    let options = Options { forgetful: true, ..options(Xdp::Auto) };
    let mut bed = TestBed::load(&options, &shut).expect("the programs load");
    for denied in [true, false] {
        for (name, frame, quote) in quotes::frames() {
            for program in Program::ALL {
                let (action, event) = bed.run_program(program, &frame, None).expect(name);
                assert_eq!(action == Action::Deny, denied, "{name}, {program:?}");
                assert_eq!(event.quote, quote.filter(|_| denied).unwrap_or_default(), "{name}, {program:?}");
            }
        }
        bed.install(&options, &open).expect("it switches");
    }
}

#[test]
fn other_ethertypes_pass_or_drop_as_told_and_arp_always_passes() {
    let compiled = policy(Vec::new(), Vec::new());
    for drop_non_ip in [false, true] {
        let options = Options { drop_non_ip, ..options(Xdp::Auto) };
        let mut bed = TestBed::load(&options, &compiled).expect("the programs load");
        for hook in [Hook::Ingress, Hook::Egress] {
            let (action, _) = bed.run(hook, &ethernet(0x88cc, &[0; 50])).expect("it runs");
            assert_eq!(action == Action::Deny, drop_non_ip);
            let (action, _) = bed.run(hook, &ethernet(0x0806, &[0; 28])).expect("it runs");
            assert_eq!(action, Action::Allow);
            let (action, event) = bed.run(hook, &v4(0, 0, 17, &udp(PORT))).expect("it runs");
            assert_eq!((action, event.reason), (Action::Deny, Reason::NaclImplicit as u8));
        }
    }
}

#[test]
fn monitor_mode_says_deny_and_drops_nothing() {
    let compiled = policy(Vec::new(), Vec::new());
    let options = Options { enforce: false, forgetful: true, ..options(Xdp::Auto) };
    let mut bed = TestBed::load(&options, &compiled).expect("the programs load");
    for (name, frame, _, at_tc) in frames() {
        for program in Program::ALL {
            if program.is_xdp() || at_tc {
                let (action, event) = bed.run_program(program, &frame, None).expect(name);
                assert_eq!((action, event.enforced), (Action::Allow, 0), "{name}");
                let wanted = expected(&compiled, options, direction(program), &frame);
                assert_eq!(verdict(&event), wanted, "{name}");
            }
        }
    }
}

const fn direction(program: Program) -> Direction {
    match program {
        Program::TcEgress => Direction::Outbound,
        Program::Xdp | Program::XdpLinear | Program::TcIngress => Direction::Inbound,
    }
}

#[test]
fn counters_are_exact_by_rule_reason_and_direction() {
    let compiled = two_closed(PORT, PORT + 1);
    let mut bed = TestBed::load(&options(Xdp::Auto), &compiled).expect("the programs load");
    let (closed, other) = (v4(0, 0, 17, &udp(PORT)), v6(64, 17, &udp(PORT)));
    for _ in 0..7 {
        bed.run(Hook::Ingress, &closed).expect("it runs");
    }
    for _ in 0..5 {
        bed.run(Hook::Egress, &closed).expect("it runs");
    }
    bed.run(Hook::Ingress, &other).expect("it runs");
    bed.run(Hook::Ingress, &ethernet(0x0806, &[0; 28])).expect("it runs");
    let counters = bed.counters().expect("counters");
    let found: Vec<_> = counters.slots.iter().map(|(slot, counter)| (*slot, counter.packets, counter.bytes)).collect();
    let mut wanted = vec![
        (slot(&compiled, Direction::Inbound, 50), 7, 7 * closed.len() as u64),
        (slot(&compiled, Direction::Outbound, 100), 5, 5 * closed.len() as u64),
        (slot(&compiled, Direction::Inbound, 101), 1, other.len() as u64),
    ];
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    let reasons: Vec<_> = counters.reasons.iter().map(|(key, counter)| (*key, counter.packets)).collect();
    assert_eq!(
        reasons,
        [
            ((Reason::NaclRule, Direction::Inbound), 8),
            ((Reason::NaclRule, Direction::Outbound), 5),
            ((Reason::Arp, Direction::Inbound), 1),
        ]
    );
}

#[test]
fn a_segmented_skb_counts_as_its_segments() {
    let compiled = open();
    let mut bed = TestBed::load(&options(Xdp::Auto), &compiled).expect("the programs load");
    let mut payload = tcp(16);
    payload.extend(vec![7; 3000]);
    let frame = v4(0, 0, 6, &payload);
    let wire = Wire { gso_segs: 3, gso_size: 1000, wire_len: 3000 + 3 * 54 };
    for program in [Program::TcIngress, Program::TcEgress] {
        let (_, event) = bed.run_program(program, &frame, Some(wire)).expect("it runs");
        assert_eq!(event.length, wire.wire_len);
    }
    let counters = bed.counters().expect("counters");
    for direction in Direction::ALL {
        let counter = counters.slots[&slot(&compiled, direction, 100)];
        assert_eq!((counter.packets, counter.bytes), (3, 3162));
    }
}

#[test]
fn one_verdict_is_of_one_generation() {
    let (open, closed) = (open(), policy(vec![rule(7, Action::Deny, None, "0.0.0.0/0")], Vec::new()));
    let silent = options(Xdp::Auto);
    let mut bed = TestBed::load(&silent, &open).expect("the programs load");
    let frame = v4(0, 0, 17, &udp(PORT));
    for epoch in 2..40 {
        let (next, action, number) =
            if epoch % 2 == 0 { (&closed, Action::Deny, 7) } else { (&open, Action::Allow, 100) };
        assert_eq!(bed.install(&silent, next).expect("it switches"), epoch);
        for program in [Program::Xdp, Program::TcIngress] {
            let (got, event) = bed.run_program(program, &frame, None).expect("it runs");
            assert_eq!((got, event.epoch), (action, epoch));
            assert_eq!(next.slots.slots[&event.slot].rule, Some(number));
        }
    }
}

#[test]
fn equal_generations_are_one_map_and_old_ones_are_given_back() {
    let named = |name: &str, port| {
        let rules = vec![rule(7, Action::Deny, Some(port), "10.0.0.0/8"), rule(9, Action::Allow, None, "0.0.0.0/0")];
        let nacl = Nacl { name: name.into(), id: None, inbound: rules, outbound: Vec::new() };
        compile(&Interface::new(name, Arc::new(nacl)), None).expect("a small policy compiles")
    };
    // Of ports that no other test has: those beside this one share generations too.
    let (one, other) = (named("one", 61_001), named("other", 61_001));
    let options = options(Xdp::Auto);
    let maps = |bed: &TestBed| bed.generations().expect("the kernel tells");
    let mut first = TestBed::load(&options, &one).expect("the programs load");
    let mut second = TestBed::load(&options, &other).expect("the programs load");
    let [shared] = maps(&first)[..] else { panic!("{:?}", maps(&first)) };
    assert_eq!(maps(&second), [shared], "written differently, and of the same bytes");
    let mut before = shared;
    for port in 61_002..61_012 {
        let next = named("one", port);
        first.install(&options, &next).expect("it switches");
        let held = maps(&first);
        assert_eq!(held.len(), 2, "the one in force and the one before it: {held:?}");
        assert!(held.contains(&before), "{held:?}");
        before = *held.iter().find(|id| **id != before).expect("a new map");
    }
    assert_eq!(maps(&second), [shared], "what another has in force stays");
    // What is still somewhere need not be put there again, and what is nowhere is.
    let last = named("another", 61_011);
    second.install(&options, &last).expect("it switches");
    assert!(maps(&second).contains(&before));
    drop(first);
    second.install(&options, &one).expect("it switches");
    second.install(&options, &last).expect("it switches");
    assert_eq!(maps(&second).len(), 2);
    assert!(maps(&second).contains(&before), "the map that was in force until a moment ago");
    // A larger tier, and back: slots of all tiers are emptied.
    let many = (1..600)
        .map(|number| rule(number, Action::Deny, Some(number), &format!("172.{}.{}.0/24", number / 256, number % 256)));
    let large = policy(many.collect(), Vec::new());
    assert_ne!(large.generation.tier(), Tier::Small);
    second.install(&options, &large).expect("it switches");
    second.install(&options, &named("one", 61_020)).expect("it switches");
    second.install(&options, &named("one", 61_021)).expect("it switches");
    assert_eq!(maps(&second).len(), 2);
}

#[test]
fn events_are_what_the_test_map_shows() {
    let compiled = two_closed(PORT, PORT + 1);
    let loud = Options { events: Events::All, ..options(Xdp::Auto) };
    let mut bed = TestBed::load(&loud, &compiled).expect("the programs load");
    for (name, frame, _, at_tc) in frames() {
        for program in Program::ALL {
            if program.is_xdp() || at_tc {
                let (_, last) = bed.run_program(program, &frame, None).expect(name);
                assert_eq!(bed.events().next(), Some(last), "{name}");
            }
        }
    }
    assert_eq!(bed.counters().expect("counters").events_suppressed, 0);
}

/// Instructions that the verifier may walk, a tenth above what it walked on Linux 6.18. It gives up at a million, and what it
/// walks is what loading takes: a third of a second to one for each program.
const WALKED: [(&str, u32); 4] =
    [("nacl_ingress", 369_000), ("nacl_ingress_ln", 375_000), ("nacl_ingress_tc", 411_000), ("nacl_egress", 560_000)];

#[test]
fn the_object_has_no_panic_and_the_verifier_little_to_walk() {
    static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nacl-ebpf"));
    let object = object::File::parse(OBJECT).expect("the kernel programs are built in: `cargo xtask test` does it");
    let panics: Vec<_> =
        object.symbols().filter_map(|symbol| symbol.name().ok()).filter(|name| name.contains("panic")).collect();
    assert_eq!(panics, Vec::<&str>::new(), "an index that is not masked");
    let code: u64 = object
        .sections()
        .filter(|section| section.kind() == object::SectionKind::Text)
        .map(|section| section.size())
        .sum();
    println!("{} instructions in the object", code / 8);
    let mut bed = TestBed::load(&options(Xdp::Auto), &open()).expect("the programs load");
    for (program, verified) in bed.verified().expect("the kernel tells") {
        println!("{program}: {verified} instructions walked by the verifier");
        let (_, most) = WALKED.iter().find(|(name, _)| *name == program).expect("every program has its bound");
        assert!((1..=*most).contains(&verified), "{program}: {verified}, and {most} at most");
        // A bound that is far away holds nothing.
        assert!(verified > most / 4 * 3, "{program}: {verified}; its bound of {most} can be lowered");
    }
}

/// The verifier ends its walk with EAGAIN where its thread has a signal to handle; seen once, on a machine that was frozen
/// for a moment while these tests ran.
#[test]
fn a_signal_while_a_program_is_loaded_is_no_failure() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a handler that does nothing; nobody else here uses this signal.
    unsafe { libc::signal(libc::SIGUSR2, nothing as *const () as libc::sighandler_t) };
    let (tell, told) = mpsc::channel();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            // Gone with this thread, so that nobody waits for one that has failed.
            let tell = tell;
            let mut bed = TestBed::load(&options(Xdp::Auto), &open()).expect("the first two load");
            // SAFETY: it only tells who this is.
            tell.send(unsafe { libc::pthread_self() }).expect("somebody waits");
            let loaded = bed.verified();
            done.store(true, Ordering::Release);
            loaded
        });
        let thread = told.recv().expect("the thread starts");
        // More than the two tries that aya makes, and fewer than end all of them; a walk takes a quarter of a second and more.
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(30));
            assert!(!done.load(Ordering::Acquire), "the signals came too late to disturb anything");
            // SAFETY: the thread is joined below.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
        }
        let loaded = loading.join().expect("the thread ends").expect("the other two load");
        assert_eq!(loaded.len(), 4);
    });
}

/// A reload an hour for six weeks: each makes a map, and what it replaced must go.
#[test]
fn a_thousand_switches_leave_nothing_behind() {
    let held = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/status").expect("proc");
        let rss = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        rss.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let (open, closed) = (open(), two_closed(PORT, PORT + 1));
    let options = options(Xdp::Auto);
    let mut bed = TestBed::load(&options, &open).expect("the programs load");
    for _ in 0..8 {
        bed.install(&options, &closed).expect("it switches");
    }
    let (descriptors, memory) = (held(), resident());
    for _ in 0..500 {
        bed.install(&options, &open).expect("it switches");
        bed.install(&options, &closed).expect("it switches");
    }
    let (after, grown) = (held(), resident().saturating_sub(memory));
    println!("{descriptors} descriptors before, {after} after; resident memory grew by {grown} KiB");
    assert!(after <= descriptors + 16, "other tests run meanwhile, and do not hold a thousand");
    // Tests beside this one hold what they hold.
    assert!(grown < 150 << 10, "a thousand generations are 190 MiB");
}
