//! Broken returns at host level: random lists, real flows among scans, backscatter and streams that were cut, all judged by a naive loop
//! over the rules. Nobody is accused who did not do it: each pair is a request that was sent and passed, and a reply to it that
//! was denied. And whoever asks again is found.

mod broken {
    mod too_big;
}
mod support;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use nacl_common::{Action, Control, Direction, Event, Family, Fragment, Packet, Reason, flow::Sought, packet::tcp};
use nacl_daemon::{
    analyze::{Flow, number},
    compile::{Compiled, Decider, compile},
    observe::{
        Place,
        broken::{Kind, Pairing},
    },
    resolve::{Interface, Nacl, Protocol, Rule},
    service::broken::Scene,
};

const SECOND: u64 = 1_000_000_000;
const LOCAL: &str = "10.0.1.10";
const POLICIES: u64 = 300;

/// Numbers by chance, the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Up to five rules, of which most allow.
fn list(chance: &mut Chance) -> Vec<Rule> {
    let count = chance.below(6);
    let rule = |number: u64| {
        let protocol = chance.of(&[Protocol::Number(6), Protocol::Number(17), Protocol::Number(1), Protocol::All]);
        let ports =
            chance.of(&[(80, 80), (443, 443), (53, 53), (1024, 65535), (32768, 60999), (49152, 65535), (0, 65535)]);
        Rule {
            number: 10 * (number as u16 + 1),
            action: if chance.below(4) == 0 { Action::Deny } else { Action::Allow },
            protocol,
            ports: matches!(protocol, Protocol::Number(6 | 17)).then_some(ports),
            icmp: None,
            cidr: chance.of(&["0.0.0.0/0", "0.0.0.0/0", "198.51.100.0/24", "203.0.113.0/25"]).parse().expect("a CIDR"),
            reference: None,
            description: None,
            line: number as usize + 3,
            span: 0..0,
        }
    };
    (0..count).map(rule).collect()
}

/// What a list says of a packet, by a loop over its rules.
fn naive(interface: &Interface, direction: Direction, flow: &Flow) -> (bool, Decider) {
    let remote = if direction == Direction::Inbound { flow.source } else { flow.destination };
    let of = |rule: &&Rule| {
        let protocol = match rule.protocol {
            Protocol::All => true,
            Protocol::Number(number) => number == flow.protocol,
        };
        protocol
            && rule.cidr.contains(&remote)
            && rule.ports.is_none_or(|(first, last)| (first..=last).contains(&flow.dport))
    };
    match interface.nacl.rules(direction).iter().find(of) {
        Some(rule) => (rule.action == Action::Allow, Decider::Nacl { direction, number: rule.number }),
        None => (false, Decider::NaclImplied { direction }),
    }
}

/// A packet on its way.
#[derive(Clone, Copy)]
struct Sent {
    time: u64,
    direction: Direction,
    packet: Flow,
    flags: u8,
    /// What its sender means by it.
    means: Option<Means>,
}

/// What a packet is of a flow.
#[derive(Clone, Copy)]
struct Means {
    /// The flow, from who asks.
    flow: Flow,
    /// It goes to who asks.
    reply: bool,
    /// Where it passes something comes back.
    wants: bool,
}

fn reverse(flow: &Flow) -> Flow {
    let Flow { protocol, source, destination, sport, dport } = *flow;
    match protocol {
        1 => Flow { source: destination, destination: source, dport: 0, ..*flow },
        _ => Flow { protocol, source: destination, destination: source, sport: dport, dport: sport },
    }
}

/// A request of which an answer comes if it passes, and which is sent again: at 0, 1 and 3 seconds.
fn asks(chance: &mut Chance, at: u64) -> Vec<Sent> {
    let direction = chance.of(&Direction::ALL);
    let local: IpAddr = LOCAL.parse().expect("an address");
    let remote: IpAddr =
        chance.of(&["198.51.100.7", "203.0.113.50", "203.0.113.200", "192.0.2.9"]).parse().expect("an address");
    let protocol = chance.of(&[6, 6, 17, 1]);
    // Even ports are those of flows, odd ones of noise.
    let sport = 32768 + 2 * chance.below(16000) as u16;
    let dport = if protocol == 1 { 8 << 8 } else { chance.of(&[22, 53, 80, 443, 8080]) };
    let (source, destination) = if direction == Direction::Inbound { (remote, local) } else { (local, remote) };
    let packet = Flow { protocol, source, destination, sport, dport };
    let flags = if protocol == 6 { tcp::SYN } else { 0 };
    [0, 1, 3]
        .map(|after| Sent {
            time: at + after * SECOND,
            direction,
            packet,
            flags,
            means: Some(Means { flow: packet, reply: false, wants: true }),
        })
        .to_vec()
}

/// What belongs to nothing: backscatter, scans, streams whose beginning nobody saw. No two share a port, or they would belong together.
fn noise(chance: &mut Chance, at: u64, number: u16) -> Sent {
    let direction = chance.of(&Direction::ALL);
    let local: IpAddr = LOCAL.parse().expect("an address");
    let remote: IpAddr = chance.of(&["198.51.100.7", "203.0.113.50", "192.0.2.9"]).parse().expect("an address");
    let protocol = chance.of(&[6, 6, 6, 17, 1]);
    let high = 32769 + 2 * number;
    let low = chance.of(&[22, 53, 80, 443, 8080]);
    let (sport, dport) = if chance.below(4) == 0 { (high, low) } else { (low, high) };
    let (sport, dport) = if protocol == 1 { (high, 0) } else { (sport, dport) };
    let (source, destination) = if direction == Direction::Inbound { (remote, local) } else { (local, remote) };
    let flags =
        if protocol == 6 { chance.of(&[tcp::SYN | tcp::ACK, tcp::ACK, tcp::RST, tcp::FIN | tcp::ACK]) } else { 0 };
    Sent { time: at, direction, packet: Flow { protocol, source, destination, sport, dport }, flags, means: None }
}

fn event(sent: &Sent, allow: bool, by: &Decider) -> Event {
    let Sent { time, direction, packet, flags, .. } = sent;
    let implied = matches!(by, Decider::NaclImplied { .. });
    Event {
        time: *time,
        src: number(packet.source),
        dst: number(packet.destination),
        sport: packet.sport,
        dport: packet.dport,
        reason: if implied { Reason::NaclImplicit } else { Reason::NaclRule } as u8,
        action: u8::from(allow),
        layer: 1,
        direction: *direction as u8,
        family: 4,
        protocol: packet.protocol,
        tcp_flags: *flags,
        enforced: 1,
        ..Event::default()
    }
}

fn as_packet(sent: &Sent) -> Packet {
    let Flow { protocol, source, destination, sport, dport } = sent.packet;
    Packet {
        family: Family::V4,
        protocol,
        fragment: Fragment::None,
        hop_limit: 64,
        tcp_flags: sent.flags,
        src: number(source),
        dst: number(destination),
        sport,
        dport,
        ident: 0,
    }
}

fn interface(chance: &mut Chance) -> (Interface, Compiled) {
    let nacl = Nacl { name: "random".into(), id: None, inbound: list(chance), outbound: list(chance) };
    let interface = Interface::new("near", Arc::new(nacl));
    let compiled = compile(&interface, None).expect("a small policy");
    (interface, compiled)
}

/// What came of it: flows that are broken, which way each began and whether it was cut, and how often each was told.
struct Outcome {
    truth: BTreeMap<String, (Flow, Direction, bool)>,
    told: BTreeMap<String, usize>,
}

/// Sends packets in order, with their answers, through an interface whose daemon pairs what is reported.
fn run(interface: &Interface, compiled: &Compiled, mut packets: Vec<Sent>) -> Outcome {
    packets.sort_by_key(|sent| sent.time);
    let mut pairing = Pairing::default();
    let mut outcome = Outcome { truth: BTreeMap::new(), told: BTreeMap::new() };
    let place = Place { interface: "near".into(), device: "near".into(), netns: None };
    let scene = Scene { place, interface: interface.clone(), compiled: compiled.clone(), epoch: 1 };
    let (mut sought, mut looked): (Vec<Sought>, u64) = (Vec::new(), 0);
    let mut judge = |sent: &Sent| {
        let (allow, by) = naive(interface, sent.direction, &sent.packet);
        let now = sent.time;
        // As the daemon does: after what it was told of, and each second.
        looked = looked.max(now.saturating_sub(100 * SECOND));
        while now >= looked + SECOND {
            looked += SECOND;
            sought = pairing.sought(looked);
        }
        assert!(sought.len() <= Control::SOUGHT_AT_ONCE);
        let packet = as_packet(sent);
        let reported = !allow || sought.iter().any(|sought| sought.fits(sent.direction, &packet));
        if let Some(Means { flow, reply, wants: false }) = sent.means
            && !allow
        {
            let began = if reply { sent.direction.reverse() } else { sent.direction };
            outcome.truth.insert(format!("{flow:?}"), (flow, began, !reply));
        }
        if reported {
            let admits = |direction, packet: &Packet| compiled.judge(direction, packet).action == Action::Allow;
            if let Some(pair) = pairing.met(&event(sent, allow, &by), admits) {
                let key = format!("{:?}", pair.flow);
                let truth = outcome.truth.get(&key).unwrap_or_else(|| panic!("accused in vain: {key}"));
                assert_eq!((pair.flow, pair.began, matches!(pair.kind, Kind::Cut { .. })), *truth);
                let (flow, began, cut) = truth;
                // Both rules, as the loop finds them.
                let found = scene.explain(&pair, String::new()).expect("it is broken");
                assert_eq!(found.request.decided_by, naive(interface, *began, flow).1);
                assert_eq!(found.reply.decided_by, naive(interface, began.reverse(), &reverse(flow)).1);
                assert_eq!(if *cut { found.request.decided_by } else { found.reply.decided_by }, by);
                *outcome.told.entry(key).or_default() += 1;
            }
            sought = pairing.sought(now);
        }
        allow
    };
    for sent in packets {
        let passes = judge(&sent);
        if let Some(Means { flow, reply, wants: true }) = sent.means
            && passes
        {
            let flags = if sent.flags == tcp::SYN { tcp::SYN | tcp::ACK } else { sent.flags };
            let reply = Sent {
                direction: sent.direction.reverse(),
                packet: reverse(&sent.packet),
                flags,
                means: Some(Means { flow, reply: !reply, wants: false }),
                ..sent
            };
            judge(&reply);
        }
    }
    outcome
}

#[test]
fn nobody_is_accused_in_vain() {
    let mut chance = Chance(7);
    let (mut broken, mut told) = (0, 0);
    for _ in 0..POLICIES {
        let (interface, compiled) = interface(&mut chance);
        let mut packets = Vec::new();
        for _ in 0..60 {
            let at = 100 * SECOND + chance.below(40) * SECOND + chance.below(SECOND);
            packets.extend(asks(&mut chance, at));
        }
        for number in 0..300 {
            let at = 100 * SECOND + chance.below(44) * SECOND + chance.below(SECOND);
            packets.push(noise(&mut chance, at, number));
        }
        let Outcome { truth, told: found } = run(&interface, &compiled, packets);
        broken += truth.len();
        told += found.len();
    }
    assert!(broken > 1000 && told * 4 > broken, "{told} of {broken} flows were found among noise");
}

#[test]
fn whoever_asks_again_is_found() {
    let mut chance = Chance(11);
    let mut broken = 0;
    for _ in 0..POLICIES {
        let (interface, compiled) = interface(&mut chance);
        // One after the other, each of its own.
        let flows: Vec<_> = (1..=10).flat_map(|at| asks(&mut chance, at * 1000 * SECOND)).collect();
        let Outcome { truth, told } = run(&interface, &compiled, flows);
        let missed: Vec<_> = truth.keys().filter(|flow| !told.contains_key(*flow)).collect();
        assert!(missed.is_empty(), "{missed:?} of {:?}", interface.nacl);
        broken += truth.len();
    }
    assert!(broken > 100, "only {broken} broken flows");
}

/// A network ACL that lets nothing in, and out this.
fn lets_out(protocol: u8, ports: (u16, u16)) -> Nacl {
    let rule = Rule {
        number: 100,
        action: Action::Allow,
        protocol: Protocol::Number(protocol),
        ports: Some(ports),
        icmp: None,
        cidr: "0.0.0.0/0".parse().expect("a CIDR"),
        reference: None,
        description: None,
        line: 1,
        span: 0..0,
    };
    Nacl { name: "out".into(), id: None, inbound: Vec::new(), outbound: vec![rule] }
}

/// Answers to what nobody has asked come for days. They are looked into ever more seldom, and the room they take is bounded.
#[test]
fn backscatter_is_soon_left_alone() {
    let nacl = lets_out(6, (443, 443));
    let compiled = compile(&Interface::new("near", Arc::new(nacl)), None).expect("a small policy");
    let local: IpAddr = LOCAL.parse().expect("an address");
    for sources in [1, 500] {
        let mut pairing = Pairing::default();
        let (mut looking, hours) = (0, 6);
        for second in 0..hours * 3600 {
            let time = (1000 + second) * SECOND;
            let source = IpAddr::from([192, 0, ((second % sources) >> 8) as u8, (second % sources) as u8]);
            let packet = Flow { protocol: 6, source, destination: local, sport: 443, dport: 40001 };
            let sent = Sent { time, direction: Direction::Inbound, packet, flags: tcp::SYN | tcp::ACK, means: None };
            let by = Decider::NaclImplied { direction: Direction::Inbound };
            let admits = |direction, packet: &Packet| compiled.judge(direction, packet).action == Action::Allow;
            assert_eq!(pairing.met(&event(&sent, false, &by), admits), None);
            let sought = pairing.sought(time);
            assert!(sought.len() <= Control::SOUGHT_AT_ONCE);
            looking += u64::from(!sought.is_empty());
        }
        // From one place: rounds of 16 seconds, each followed by a longer rest.
        assert!(sources > 1 || looking < 200, "{looking} s of {} s", hours * 3600);
        assert!(looking > 10, "it was looked into");
    }
}

/// A connection that runs: either end sends, what it sends is acknowledged, and what is not it sends again.
fn runs(chance: &mut Chance, at: u64) -> Vec<Sent> {
    let opened = loop {
        let asked = asks(chance, at)[0];
        if asked.packet.protocol == 6 {
            break asked;
        }
    };
    let (flow, reply) = (opened.packet, chance.below(2) == 0);
    let (direction, packet) =
        if reply { (opened.direction.reverse(), reverse(&flow)) } else { (opened.direction, flow) };
    [0, 200, 600, 1400, 3000]
        .map(|after| Sent {
            time: at + after * SECOND / 1000,
            direction,
            packet,
            flags: tcp::ACK,
            means: Some(Means { flow, reply, wants: true }),
        })
        .to_vec()
}

/// Whose rules go away under a connection: what one end sends passes, and nothing comes back. Who asked is told by the ports.
#[test]
fn whoever_is_cut_is_found() {
    let mut chance = Chance(13);
    let (mut cut, mut broken) = (0, 0);
    for _ in 0..POLICIES {
        let (interface, compiled) = interface(&mut chance);
        let flows: Vec<_> = (1..=10).flat_map(|at| runs(&mut chance, at * 1000 * SECOND)).collect();
        let Outcome { truth, told } = run(&interface, &compiled, flows);
        let missed: Vec<_> = truth.keys().filter(|flow| !told.contains_key(*flow)).collect();
        assert!(missed.is_empty(), "{missed:?} of {:?}", interface.nacl);
        cut += truth.values().filter(|(_, _, cut)| *cut).count();
        broken += truth.values().filter(|(_, _, cut)| !cut).count();
    }
    assert!(cut > 100 && broken > 100, "only {cut} and {broken} flows");
}

/// Packets of connections that there are not: they are looked into, they take no more than their share, and nothing is told of them.
#[test]
fn packets_of_no_connection_leave_room_for_what_is_asked() {
    let rule = |direction: Direction| Rule {
        number: 100,
        action: Action::Allow,
        protocol: Protocol::Number(6),
        ports: Some(if direction == Direction::Inbound { (443, 443) } else { (1024, 49151) }),
        icmp: None,
        cidr: "0.0.0.0/0".parse().expect("a CIDR"),
        reference: None,
        description: None,
        line: 1,
        span: 0..0,
    };
    let [inbound, outbound] = Direction::ALL.map(|direction| vec![rule(direction)]);
    let nacl = Nacl { name: "web".into(), id: None, inbound, outbound };
    let interface = Interface::new("near", Arc::new(nacl));
    let compiled = compile(&interface, None).expect("a small policy");
    let (local, client): (IpAddr, IpAddr) = (LOCAL.parse().expect("one"), "198.51.100.7".parse().expect("one"));
    // A thousand a second, each from elsewhere, to a port that is closed.
    let stray = (0..10_000_u64).map(|number| Sent {
        time: 1000 * SECOND + number * SECOND / 1000,
        direction: Direction::Inbound,
        packet: Flow {
            protocol: 6,
            source: IpAddr::from([192, 0, (number >> 8) as u8, number as u8]),
            destination: local,
            sport: 40001,
            dport: 22,
        },
        flags: tcp::ACK,
        means: None,
    });
    let flow = Flow { protocol: 6, source: client, destination: local, sport: 52000, dport: 443 };
    let asked = [5, 6, 8].map(|second| Sent {
        time: (1000 + second) * SECOND,
        direction: Direction::Inbound,
        packet: flow,
        flags: tcp::SYN,
        means: Some(Means { flow, reply: false, wants: true }),
    });
    let Outcome { truth, told } = run(&interface, &compiled, stray.chain(asked).collect());
    assert_eq!((truth.len(), told.len()), (1, 1));
}

/// Of datagrams nobody knows whether somebody waits for them: a stream that goes on when the policy changes under it is not told of.
#[test]
fn a_stream_of_datagrams_that_is_cut_is_no_broken_return() {
    let nacl = lets_out(17, (1024, 65535));
    let interface = Interface::new("near", Arc::new(nacl));
    let compiled = compile(&interface, None).expect("a small policy");
    let (client, server): (IpAddr, IpAddr) = ("198.51.100.7".parse().expect("one"), LOCAL.parse().expect("one"));
    let forth = Flow { protocol: 17, source: client, destination: server, sport: 52344, dport: 443 };
    let stream = (0..100).flat_map(|at| {
        let time = 1000 * SECOND + at * SECOND / 10;
        let one = |direction, packet| Sent { time, direction, packet, flags: 0, means: None };
        [one(Direction::Outbound, reverse(&forth)), one(Direction::Inbound, forth)]
    });
    let outcome = run(&interface, &compiled, stream.collect());
    assert!(outcome.told.is_empty(), "{:?}", outcome.told);
}
