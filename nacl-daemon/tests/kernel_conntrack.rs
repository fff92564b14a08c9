//! The connection table in the kernel: what a single packet does to it (BPF_PROG_TEST_RUN, with the clock set by hand), and
//! what becomes of it on the wire when it is full, flooded, or used by several CPUs at once.

mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nacl_common::{
    Action, Direction, Event, Family, Fragment, Packet, Reason,
    border::{Entry, FlowKey, NO_SLOT},
    evaluate::Hook,
    flow::{Met, State},
    packet::tcp,
};
use nacl_daemon::{
    compile::{self, Compiled, compile},
    dataplane::{Counters, DataplaneError, Events, Note, Options, Terms, TestBed, attach},
    engine::{Engine, SECOND},
    frame, netns,
    resolve::{Group, GroupRule, Interface, Mode, Nacl, Peer, Protocol, Rule, Tracking, Xdp},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, gettid},
};
use support::{
    generate::Random,
    policies::{options, rule, slot},
    veth::{Cable, FAR, HERE, NEAR, THERE, packet_socket},
};

const OPEN: u16 = 4001;
const OTHER: u16 = 4002;
const CLOSED: u16 = 4003;

fn interface(mode: Mode, inbound: Vec<Rule>, outbound: Vec<Rule>) -> Interface {
    let nacl = Nacl { name: "test".into(), id: None, inbound, outbound };
    Interface { mode, ..Interface::new("near", Arc::new(nacl)) }
}

/// Inbound two UDP ports, each by a rule of its own, and TCP; outbound nothing. So whatever goes out is a reply.
fn server() -> Interface {
    let tcp = |number| Rule {
        protocol: Protocol::Number(6),
        ports: Some((1, 65535)),
        ..rule(number, Action::Allow, None, "0.0.0.0/0")
    };
    let inbound = vec![
        rule(50, Action::Allow, Some(OPEN), "0.0.0.0/0"),
        rule(60, Action::Allow, Some(OTHER), "0.0.0.0/0"),
        tcp(70),
        rule(80, Action::Allow, Some(OPEN), "::/0"),
    ];
    interface(Mode::Stateful, inbound, Vec::new())
}

/// How an interface is attached, with its own connection tracking.
fn as_said(interface: &Interface) -> Options {
    Options { tracking: interface.tracking, ..options(Xdp::Auto) }
}

fn compiled(interface: &Interface) -> Compiled {
    compile(interface, None).expect("a small policy compiles")
}

fn v4(address: Ipv4Addr) -> [u64; 2] {
    [0, u64::from(u32::from(address))]
}

/// A packet from a host outside.
fn request(protocol: u8, flags: u8, host: u32, sport: u16, dport: u16) -> Packet {
    Packet {
        family: Family::V4,
        protocol,
        fragment: Fragment::None,
        hop_limit: 64,
        tcp_flags: flags,
        src: [0, u64::from(host)],
        dst: v4(HERE),
        sport,
        dport,
        ident: 0,
    }
}

fn udp(host: u32, sport: u16, dport: u16) -> Packet {
    request(17, 0, host, sport, dport)
}

/// The packet that comes back.
fn back(packet: Packet, flags: u8) -> Packet {
    Packet { src: packet.dst, dst: packet.src, sport: packet.dport, dport: packet.sport, tcp_flags: flags, ..packet }
}

const REMOTE: u32 = 0x0a4d_0002;

/// What a bed says of a packet.
fn say(bed: &mut TestBed, direction: Direction, packet: &Packet) -> Event {
    let hook = match direction {
        Direction::Inbound => Hook::Ingress,
        Direction::Outbound => Hook::Egress,
    };
    bed.run(hook, &frame::bytes(packet)).expect("it runs").1
}

fn passes(bed: &mut TestBed, direction: Direction, packet: &Packet) -> bool {
    say(bed, direction, packet).action == Action::Allow as u8
}

fn reason(event: &Event) -> Reason {
    Reason::from_number(event.reason).expect("a known reason")
}

fn counted(counters: &Counters, reason: Reason, direction: Direction) -> u64 {
    counters.reasons.get(&(reason, direction)).map_or(0, |counter| counter.packets)
}

fn group(inbound: &[(u8, u16, &str)], outbound: &[(u8, u16, &str)]) -> Arc<Group> {
    let rules = |rules: &[(u8, u16, &str)]| {
        let rule = |(protocol, port, cidr): &(u8, u16, &str)| {
            let cidr = cidr.parse().expect("a CIDR");
            let ports = matches!(*protocol, 6 | 17).then_some((*port, *port));
            let protocol = if *protocol == 0 { Protocol::All } else { Protocol::Number(*protocol) };
            GroupRule::new(protocol, ports, Peer::Cidr(cidr), vec![cidr])
        };
        rules.iter().map(rule).collect()
    };
    Arc::new(Group { name: "web".into(), id: None, inbound: rules(inbound), outbound: rules(outbound) })
}

/// Interfaces that remember in every way there is.
fn rememberers() -> Vec<Interface> {
    let all = || vec![rule(100, Action::Allow, None, "0.0.0.0/0"), rule(101, Action::Allow, None, "::/0")];
    let grouped = |mode, groups| Interface { groups: Some(vec![groups]), ..interface(mode, all(), all()) };
    let narrow = || group(&[(17, OPEN, "10.0.0.0/8"), (6, OPEN, "10.0.0.0/8"), (1, 0, "10.0.0.0/8")], &[]);
    let open = || group(&[(17, OPEN, "0.0.0.0/0"), (6, OPEN, "0.0.0.0/0")], &[(0, 0, "0.0.0.0/0")]);
    let mut both = server();
    both.groups = Some(vec![narrow()]);
    vec![
        server(),
        grouped(Mode::Stateless, narrow()),
        grouped(Mode::Stateless, open()),
        grouped(Mode::Stateful, open()),
        both,
    ]
}

/// A packet out of so few that connections are met again.
fn any_packet(random: &mut Random) -> (Direction, Packet) {
    let host = REMOTE + random.below(2) as u32;
    let protocol = *random.pick(&[6, 6, 17, 17, 1, 47]);
    let flags = [tcp::SYN, tcp::SYN | tcp::ACK, tcp::ACK, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST];
    let flags = if protocol == 6 { *random.pick(&flags) } else { 0 };
    let port = *random.pick(&[OPEN, OPEN, CLOSED]);
    let ident = 1 + random.below(2) as u32;
    let mut packet = match protocol {
        6 | 17 => request(protocol, flags, host, 40_000 + random.below(2) as u16, port),
        1 => request(1, 0, host, 7, *random.pick(&[8 << 8, 0, 3 << 8])),
        _ => request(protocol, 0, host, 0, 0),
    };
    match random.below(12) {
        0 if protocol != 47 => (packet.fragment, packet.ident) = (Fragment::First, ident),
        1 | 2 => {
            packet = Packet { fragment: Fragment::Later, ident, sport: 0, dport: 0, tcp_flags: 0, ..packet };
        }
        _ => {}
    }
    if random.once_in(2) {
        return (Direction::Inbound, packet);
    }
    let dport = if protocol == 1 { packet.dport } else { packet.sport };
    let sport = if protocol == 1 { packet.sport } else { packet.dport };
    (Direction::Outbound, Packet { sport, dport, ..back(packet, packet.tcp_flags) })
}

#[test]
fn the_programs_do_to_the_table_what_the_engine_does() {
    let mut met = [0_u64; 5];
    for (number, interface) in rememberers().into_iter().enumerate() {
        let mut random = Random(number as u64);
        let policy = compiled(&interface);
        let mut engine = Engine::new(&interface, &policy);
        let mut bed = TestBed::load(&as_said(&interface), &policy).expect("the programs load");
        let mut now = 0;
        for step in 0..4000 {
            match random.below(40) {
                0 => now += random.below(400) * SECOND,
                1 => now += 432_000 * SECOND,
                2 => {
                    let mode = *random.pick(&[Mode::Stateful, Mode::Stateless]);
                    let other = Interface { mode, ..interface.clone() };
                    engine.toggle(&other);
                    let epoch = bed.toggle(&as_said(&other), compile::flags(&other)).expect("it toggles");
                    assert_eq!(epoch, engine.at().control.epoch());
                }
                3 => {
                    engine.install(&interface, &policy);
                    bed.install(&as_said(&interface), &policy).expect("it switches");
                }
                _ => now += random.below(SECOND),
            }
            engine.set_time(now);
            bed.set_time(now);
            let (direction, packet) = any_packet(&mut random);
            let judged = engine.judged(direction, &packet);
            let event = say(&mut bed, direction, &packet);
            assert_eq!(event.verdict(), Some(judged.verdict), "{number}, step {step}: {direction:?} {packet:?}");
            assert_eq!(event.flow, judged.met as u8, "{number}, step {step}: {direction:?} {packet:?}");
            met[usize::from(event.flow)] += 1;
        }
        // The programs may already have forgotten what has expired.
        let live = |flows: Vec<(FlowKey, Entry)>| {
            let mut live: Vec<_> = flows.into_iter().filter(|(_, entry)| now < entry.expires).collect();
            live.sort_unstable_by_key(|(key, _)| *key);
            live
        };
        let kept = live(bed.flows().expect("the table is read"));
        assert_eq!(kept, live(engine.flows().iter().map(|(key, entry)| (*key, *entry)).collect()));
        bed.forget().expect("it forgets");
        assert_eq!(bed.flows().expect("the table is read"), []);
    }
    println!("nothing, unknown, new, forward, reply: {met:?}");
    assert!(met.iter().all(|count| *count > 100), "{met:?}");
}

#[test]
fn a_connection_is_forgotten_after_five_days_and_not_before() {
    let interface = server();
    let mut bed = TestBed::load(&as_said(&interface), &compiled(&interface)).expect("the programs load");
    // Past the window in which connections are taken up in their middle.
    let begin = 1000 * SECOND;
    bed.set_time(begin);
    let syn = request(6, tcp::SYN, REMOTE, 40_000, 443);
    assert!(passes(&mut bed, Direction::Inbound, &syn));
    assert!(passes(&mut bed, Direction::Outbound, &back(syn, tcp::SYN | tcp::ACK)));
    assert!(passes(&mut bed, Direction::Inbound, &Packet { tcp_flags: tcp::ACK, ..syn }));
    let [(_, entry)] = bed.flows().expect("the table is read")[..] else { panic!("one connection") };
    assert_eq!((entry.state, entry.expires), (State::Established as u8, begin + 432_000 * SECOND));
    bed.set_time(begin + 432_000 * SECOND - 1);
    assert!(passes(&mut bed, Direction::Outbound, &back(syn, tcp::ACK)));
    bed.set_time(begin + 2 * 432_000 * SECOND - 2);
    assert!(passes(&mut bed, Direction::Outbound, &back(syn, tcp::ACK)));
    bed.set_time(begin + 3 * 432_000 * SECOND);
    let event = say(&mut bed, Direction::Outbound, &back(syn, tcp::ACK));
    assert_eq!((reason(&event), event.flow), (Reason::NaclImplicit, Met::Unknown as u8));
    // The other side may not take it up either, only begin anew.
    assert!(passes(&mut bed, Direction::Inbound, &Packet { tcp_flags: tcp::ACK, ..syn }));
    assert!(!passes(&mut bed, Direction::Outbound, &back(syn, tcp::ACK)));
    assert!(passes(&mut bed, Direction::Inbound, &syn));
    assert!(passes(&mut bed, Direction::Outbound, &back(syn, tcp::SYN | tcp::ACK)));
}

#[test]
fn each_state_has_its_own_time_out() {
    let interface = server();
    let tracking = interface.tracking;
    let mut bed = TestBed::load(&as_said(&interface), &compiled(&interface)).expect("the programs load");
    let mut now = 1_000_000 * SECOND;
    for (steps, seconds) in [
        (&[(Direction::Inbound, tcp::SYN)][..], tracking.tcp_opening),
        (&[(Direction::Inbound, tcp::SYN), (Direction::Outbound, tcp::RST)], tracking.tcp_closed),
        (&[(Direction::Inbound, tcp::SYN), (Direction::Outbound, tcp::FIN | tcp::ACK)], tracking.tcp_closing),
        (&[(Direction::Inbound, 0)], tracking.udp),
        (&[(Direction::Inbound, 0), (Direction::Outbound, 0)], tracking.udp),
        (
            &[(Direction::Inbound, 0), (Direction::Outbound, 0), (Direction::Inbound, 0), (Direction::Outbound, 0)],
            tracking.udp_stream,
        ),
    ] {
        let first = match steps[0].1 {
            0 => udp(REMOTE, 40_000, OPEN),
            flags => request(6, flags, REMOTE, 40_000, 443),
        };
        let reply = back(first, if first.protocol == 6 { tcp::ACK } else { 0 });
        for (late, passed) in [(0, true), (1, false)] {
            bed.forget().expect("it forgets");
            now += SECOND;
            bed.set_time(now);
            for (direction, flags) in steps {
                let packet = match direction {
                    Direction::Inbound => Packet { tcp_flags: *flags, ..first },
                    Direction::Outbound => back(first, *flags),
                };
                assert!(passes(&mut bed, *direction, &packet), "{steps:?}");
            }
            now += u64::from(seconds) * SECOND - 1 + late;
            bed.set_time(now);
            assert_eq!(passes(&mut bed, Direction::Outbound, &reply), passed, "{steps:?}, {seconds} s");
        }
    }
}

/// A bed with room for `entries` connections.
fn small_bed(entries: u32) -> TestBed {
    let mut interface = server();
    interface.tracking.entries = entries;
    TestBed::load(&as_said(&interface), &compiled(&interface)).expect("the programs load")
}

#[test]
fn a_full_table_drops_what_is_new_and_nothing_else() {
    const ENTRIES: u32 = 500;
    let mut bed = small_bed(ENTRIES);
    for host in 0..ENTRIES {
        assert!(passes(&mut bed, Direction::Inbound, &udp(REMOTE + host, 40_000, OPEN)), "{host}");
    }
    for host in ENTRIES..ENTRIES + 100 {
        let event = say(&mut bed, Direction::Inbound, &udp(REMOTE + host, 40_000, OPEN));
        let said = (reason(&event), event.action, event.slot);
        assert_eq!(said, (Reason::ConntrackFull, Action::Deny as u8, NO_SLOT));
        assert!(!passes(&mut bed, Direction::Outbound, &back(udp(REMOTE + host, 40_000, OPEN), 0)));
    }
    assert_eq!(counted(&bed.counters().expect("counters"), Reason::ConntrackFull, Direction::Inbound), 100);
    for host in 0..ENTRIES {
        let packet = udp(REMOTE + host, 40_000, OPEN);
        let event = say(&mut bed, Direction::Outbound, &back(packet, 0));
        assert_eq!((reason(&event), event.flow), (Reason::Tracked, Met::Reply as u8), "{host}");
        let event = say(&mut bed, Direction::Inbound, &packet);
        assert_eq!((reason(&event), event.flow), (Reason::Tracked, Met::Forward as u8), "{host}");
    }
    assert_eq!(bed.flows().expect("the table is read").len(), ENTRIES as usize);
    // What needs no connection is not hurt.
    let arp = [[0xff; 12].as_slice(), &[8, 6], &[0; 28]].concat();
    assert_eq!(bed.run(Hook::Ingress, &arp).expect("it runs").0, Action::Allow);
}

/// Nothing in user space looks at the table between filling it and filling it again.
#[test]
fn a_table_full_of_expired_connections_makes_room_by_itself() {
    const ENTRIES: u32 = 1000;
    let mut bed = small_bed(ENTRIES);
    let mut now = SECOND;
    for round in 0..4 {
        let mut late = 0;
        for host in 0..ENTRIES {
            let packet = udp(REMOTE + round * ENTRIES + host, 40_000, OPEN);
            // A search is made once in a tick of the clock. While little has expired it may be in vain.
            let mut ticks = 0;
            while !passes(&mut bed, Direction::Inbound, &packet) {
                now += 1;
                bed.set_time(now);
                ticks += 1;
                assert!(ticks < 1000, "round {round}: connection {host} finds no room");
            }
            late += u32::from(ticks > 0);
            assert!(passes(&mut bed, Direction::Outbound, &back(packet, 0)));
        }
        println!("round {round}: {late} of {ENTRIES} connections had to come again");
        // The first ones find plenty; only the last few have to be lucky.
        assert!(late < ENTRIES / 4);
        now += 31 * SECOND;
        bed.set_time(now);
    }
}

/// Places of the ring are given back whichever way a connection ends.
#[test]
fn connections_that_come_and_go_leave_no_place_taken() {
    const ENTRIES: u32 = 100;
    let mut bed = small_bed(ENTRIES);
    let mut now = SECOND;
    for round in 0..200_u32 {
        for host in 0..ENTRIES / 2 {
            // Half of them under the same keys as before: those are replaced and not added.
            let sport = if host % 2 == 0 { 40_000 } else { 40_000 + (round % 1000) as u16 };
            let packet = udp(REMOTE + host, sport, OPEN);
            assert!(passes(&mut bed, Direction::Inbound, &packet), "round {round}");
        }
        if round % 3 == 0 {
            bed.forget().expect("it forgets");
        }
        now += 31 * SECOND;
        bed.set_time(now);
    }
}

#[test]
fn another_size_of_the_table_needs_a_restart() {
    let mut bed = small_bed(1000);
    let interface = server();
    let error = bed.install(&as_said(&interface), &compiled(&interface)).expect_err("another size");
    assert!(matches!(error, DataplaneError::TableSize { needed: 65_536, there: 1000 }), "{error}");
    let error = bed.toggle(&as_said(&interface), compile::flags(&interface)).expect_err("another size");
    assert!(matches!(error, DataplaneError::TableSize { .. }), "{error}");
}

/// A frame of a datagram with these addresses and ports, on the way in or out.
fn datagram(packet: &Packet) -> Vec<u8> {
    frame::bytes(packet)
}

fn within<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    netns::within(Some(netns), work).expect("the namespace is entered")
}

fn send(socket: &OwnedFd, frame: &[u8]) {
    // A full queue of the device is no failure of what is tested here.
    nix::unistd::write(socket, frame).ok();
}

#[test]
fn a_flood_of_connections_hurts_no_running_one() {
    const FLOOD: u32 = 100_000;
    const BLOCK: usize = 64 << 10;
    let cable = Cable::new();
    cable.acquaint();
    let interface = server();
    let attachment = attach(&cable.target(), &as_said(&interface), &compiled(&interface)).expect("it attaches");
    let listener = within(&cable.here, || TcpListener::bind((IpAddr::V4(HERE), 5001)).expect("a port"));
    let over = AtomicBool::new(false);
    let block: Vec<u8> = (0..BLOCK).map(|at| (at * 7 + at / 251) as u8).collect();
    let (sent, received) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
            let (mut blocks, mut buffer) = (0_u64, vec![0; BLOCK]);
            while stream.read_exact(&mut buffer).is_ok() {
                assert!(buffer == block, "block {blocks} has another content");
                blocks += 1;
            }
            blocks
        });
        let writer = scope.spawn(|| {
            let mut stream = within(&cable.there, || TcpStream::connect((HERE, 5001)).expect("a connection"));
            stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a time-out");
            let mut blocks = 0_u64;
            // Before, while and after.
            let mut after = 16;
            while after > 0 {
                stream.write_all(&block).expect("the connection goes on");
                blocks += 1;
                after -= u64::from(over.load(Ordering::Acquire));
            }
            blocks
        });
        within(&cable.there, || {
            let socket = packet_socket(FAR);
            for number in 0..FLOOD {
                // From addresses to which there is no way back.
                let host = 0xac10_0000 + (number >> 8);
                if number.is_multiple_of(64) {
                    // A veth takes 256 frames at once, and loses what is more.
                    std::thread::sleep(Duration::from_millis(1));
                }
                send(&socket, &frame::bytes(&request(6, tcp::SYN, host, 1024 + (number & 0xff) as u16, 4321)));
            }
        });
        over.store(true, Ordering::Release);
        (writer.join().expect("the writer ends"), reader.join().expect("the reader ends"))
    });
    assert_eq!(received, sent, "blocks");
    let counters = attachment.counters().expect("counters");
    let full = counted(&counters, Reason::ConntrackFull, Direction::Inbound);
    let entries = u64::from(interface.tracking.entries);
    println!("{sent} blocks of {BLOCK} bytes beside {FLOOD} connections, of which {full} found no room");
    assert_eq!(attachment.tracking_capacity(), interface.tracking.entries);
    assert_eq!(attachment.flows().expect("the table is read").len() as u64, entries);
    // Some frames of a flood are lost on the cable.
    assert!(full > u64::from(FLOOD) / 20, "{full}");
    assert_eq!(counted(&counters, Reason::NaclImplicit, Direction::Outbound), 0, "no reply was taken for a new flow");
}

/// As if the daemon had been killed and its programs not: from the first datagram to the last no system call touches a map.
#[test]
fn on_the_wire_too_a_table_of_expired_connections_makes_room_by_itself() {
    let cable = Cable::new();
    cable.acquaint();
    let mut interface = server();
    interface.tracking = Tracking { udp: 1, entries: 256, ..interface.tracking };
    let attachment = attach(&cable.target(), &as_said(&interface), &compiled(&interface)).expect("it attaches");
    let fill = |from: u16| {
        within(&cable.there, || {
            let socket = packet_socket(FAR);
            for sport in from..from + 512 {
                send(&socket, &datagram(&udp(u32::from(THERE), sport, OPEN)));
            }
        });
    };
    fill(10_000);
    assert_eq!(cable.inbound(OPEN, 1), 0, "the control: there is no room");
    std::thread::sleep(Duration::from_millis(1100));
    for _ in 0..20 {
        assert_eq!(cable.inbound(OPEN, 1), 1, "a new connection, from a port of its own");
    }
    let counters = attachment.counters().expect("counters");
    assert!(counted(&counters, Reason::ConntrackFull, Direction::Inbound) > 256);
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU");
    sched_setaffinity(gettid(), &set).expect("this thread moves");
}

/// CPUs this process may run on; the tests need two.
fn cpus() -> [usize; 2] {
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0)).expect("it is known");
    let mut cpus = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    let first = cpus.next().expect("a CPU");
    [first, cpus.next().unwrap_or(first)]
}

/// Long-lived connections, each met in both directions on two CPUs, in a table that others keep full, while user space
/// forgets some of those.
#[test]
fn two_cpus_lose_no_connection_and_mix_none_up() {
    const LIVE: u16 = 200;
    let cable = Cable::new();
    cable.acquaint();
    let mut interface = server();
    interface.tracking = Tracking { udp: 1, udp_stream: 600, entries: 400, ..interface.tracking };
    let settings = as_said(&interface);
    let first = compiled(&interface);
    let mut attachment = attach(&cable.target(), &settings, &first).expect("it attaches");
    let packets: Vec<_> = (0..LIVE).map(|number| udp(u32::from(THERE), 20_000 + number, OPEN)).collect();
    let inbound: Vec<_> = packets.iter().map(datagram).collect();
    let outbound: Vec<_> = packets.iter().map(|packet| datagram(&back(*packet, 0))).collect();
    let (here, there) = (within(&cable.here, || packet_socket(NEAR)), within(&cable.there, || packet_socket(FAR)));
    for _ in 0..2 {
        for (request, reply) in inbound.iter().zip(&outbound) {
            send(&there, request);
            std::thread::sleep(Duration::from_micros(50));
            send(&here, reply);
        }
    }
    let streams = |flows: &[(FlowKey, Entry)]| {
        flows.iter().filter(|(key, entry)| key.local_port == OPEN && entry.state == State::UdpStream as u8).count()
    };
    assert_eq!(streams(&attachment.flows().expect("the table is read")), usize::from(LIVE), "all are long-lived");
    // From here on no rule lets them in: whichever were forgotten would be noticed.
    let mut closed = server();
    closed.tracking = interface.tracking;
    Arc::make_mut(&mut closed.nacl).inbound.remove(0);
    let policy = compile(&closed, Some(&first.slots)).expect("it compiles");
    attachment.install(&settings, &policy, Terms::default()).expect("it switches");

    let [one, other] = cpus();
    let over = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(4);
    let mut forgotten = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(one);
            while !over.load(Ordering::Acquire) {
                for frame in &inbound {
                    send(&there, frame);
                }
            }
        });
        scope.spawn(|| {
            pin(other);
            while !over.load(Ordering::Acquire) {
                for frame in &outbound {
                    send(&here, frame);
                }
            }
        });
        scope.spawn(|| {
            // Ever new connections, on either CPU.
            let socket = within(&cable.there, || packet_socket(FAR));
            let mut number = 0_u32;
            while !over.load(Ordering::Acquire) {
                if number.is_multiple_of(512) {
                    pin(if number.is_multiple_of(1024) { one } else { other });
                }
                let host = 0xac10_0000 + number / 1000;
                send(&socket, &datagram(&udp(host, 1024 + (number % 1000) as u16, OTHER)));
                number += 1;
            }
        });
        let mut random = Random(3);
        while Instant::now() < end {
            forgotten +=
                attachment.forget(&mut |key, _| key.local_port == OTHER && random.once_in(4)).expect("it forgets");
            std::thread::sleep(Duration::from_millis(5));
        }
        over.store(true, Ordering::Release);
    });
    let counters = attachment.counters().expect("counters");
    println!("{forgotten} forgotten; {:?}", counters.reasons);
    for direction in Direction::ALL {
        assert_eq!(counted(&counters, Reason::NaclImplicit, direction), 0, "{direction:?}: a live connection was lost");
        assert!(counted(&counters, Reason::Tracked, direction) > 1000);
    }
    assert!(counted(&counters, Reason::ConntrackFull, Direction::Inbound) > 0, "the table was never full");
    assert!(forgotten > 0);
    let flows = attachment.flows().expect("the table is read");
    assert_eq!(streams(&flows), usize::from(LIVE));
    for (key, entry) in flows {
        let number = if key.local_port == OPEN { 50 } else { 60 };
        let admitted =
            if number == 50 { slot(&first, Direction::Inbound, 50) } else { slot(&policy, Direction::Inbound, 60) };
        assert!(matches!(key.local_port, OPEN | OTHER), "{key:?}");
        assert_eq!((entry.nacl, entry.nacl_slot), (1, admitted), "{key:?} {entry:?}");
        assert_eq!((entry.group, entry.group_slot), (0, NO_SLOT), "{key:?} {entry:?}");
        assert_eq!(entry.origin, Direction::Inbound as u8, "{key:?} {entry:?}");
        let state = if number == 50 { State::UdpStream } else { State::UdpSent };
        assert_eq!(entry.state, state as u8, "{key:?} {entry:?}");
    }
}

#[test]
fn a_thousand_toggles_drop_nothing_that_both_modes_allow() {
    let cable = Cable::new();
    cable.acquaint();
    let all = || vec![rule(100, Action::Allow, None, "0.0.0.0/0")];
    let modes = [Mode::Stateful, Mode::Stateless].map(|mode| interface(mode, all(), all()));
    let settings = as_said(&modes[0]);
    let mut attachment = attach(&cable.target(), &settings, &compiled(&modes[0])).expect("it attaches");
    let packets: Vec<_> = (0..64).map(|number| udp(u32::from(THERE), 20_000 + number, OPEN)).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (netns, device, reply) in [(&cable.there, FAR, false), (&cable.here, NEAR, true)] {
            let (packets, over) = (&packets, &over);
            scope.spawn(move || {
                let socket = within(netns, || packet_socket(device));
                let frames: Vec<_> =
                    packets.iter().map(|packet| datagram(&if reply { back(*packet, 0) } else { *packet })).collect();
                while !over.load(Ordering::Acquire) {
                    for frame in &frames {
                        send(&socket, frame);
                    }
                }
            });
        }
        for number in 0..1000_usize {
            let mode = &modes[(number + 1) % 2];
            let epoch = attachment.toggle(&settings, compile::flags(mode), &Note::default()).expect("it toggles");
            assert_eq!(epoch as usize, number + 2);
            std::thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::Release);
    });
    let counters = attachment.counters().expect("counters");
    println!("{:?}", counters.reasons);
    let dropped = counters.reasons.keys().find(|(reason, _)| !matches!(reason, Reason::NaclRule | Reason::Tracked));
    assert_eq!(dropped, None);
    for direction in Direction::ALL {
        for reason in [Reason::NaclRule, Reason::Tracked] {
            assert!(counted(&counters, reason, direction) > 1000, "{reason:?} {direction:?}");
        }
    }
}

/// A packet that has read the control word and not yet its generation must find that generation, whatever is switched.
#[test]
fn switches_drop_nothing_that_all_policies_allow() {
    let cable = Cable::new();
    cable.acquaint();
    // Of two tiers, so that slots of both are emptied; each of its own bytes, so that none is there already.
    let allows = |number: u16, more: u16| {
        let mut inbound = vec![rule(1, Action::Allow, Some(30_000 + number), "10.0.0.0/8")];
        inbound.extend((0..more).map(|place| {
            let cidr = format!("172.{}.{}.0/24", place / 256, place % 256);
            rule(10 + place, Action::Deny, Some(1 + place), &cidr)
        }));
        inbound.push(rule(10_000, Action::Allow, None, "0.0.0.0/0"));
        compiled(&interface(Mode::Stateless, inbound, Vec::new()))
    };
    let policies: Vec<_> = (0..60).map(|number| allows(number, if number % 3 == 0 { 600 } else { 0 })).collect();
    let settings = options(Xdp::Auto);
    let mut attachment = attach(&cable.target(), &settings, &policies[0]).expect("it attaches");
    let frames: Vec<_> = (0..64).map(|number| datagram(&udp(u32::from(THERE), 20_000 + number, OPEN))).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = within(&cable.there, || packet_socket(FAR));
            while !over.load(Ordering::Acquire) {
                for frame in &frames {
                    send(&socket, frame);
                }
            }
        });
        for round in 0..4 {
            for policy in &policies {
                attachment
                    .install(&settings, policy, Terms::default())
                    .unwrap_or_else(|error| panic!("round {round}: {error}"));
            }
        }
        over.store(true, Ordering::Release);
    });
    let counters = attachment.counters().expect("counters");
    println!("{:?}", counters.reasons);
    let met: Vec<_> = counters.reasons.keys().copied().collect();
    assert_eq!(met, [(Reason::NaclRule, Direction::Inbound)], "nothing found no generation, and nothing fell to `*`");
    assert!(counted(&counters, Reason::NaclRule, Direction::Inbound) > 10_000);
}

#[test]
fn later_fragments_share_the_verdict_of_the_first() {
    let cable = Cable::new();
    cable.acquaint();
    let inbound =
        vec![rule(50, Action::Deny, Some(CLOSED), "0.0.0.0/0"), rule(60, Action::Allow, Some(OPEN), "0.0.0.0/0")];
    let interface = interface(Mode::Stateless, inbound, Vec::new());
    let policy = compiled(&interface);
    let mut attachment = attach(&cable.target(), &as_said(&interface), &policy).expect("it attaches");
    // Three fragments each, by a real stack.
    let body: Vec<u8> = (0..4000_u32).map(|at| at as u8).collect();
    let arrives = |port: u16| {
        let receiver = within(&cable.here, || UdpSocket::bind((HERE, port)).expect("a port"));
        receiver.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
        within(&cable.there, || {
            let sender = UdpSocket::bind((THERE, 0)).expect("a port");
            sender.send_to(&body, (HERE, port)).expect("a datagram leaves");
        });
        let mut buffer = vec![0; 5000];
        receiver.recv(&mut buffer).is_ok_and(|length| buffer[..length] == body)
    };
    assert!(arrives(OPEN));
    let counters = attachment.counters().expect("counters");
    assert_eq!(counted(&counters, Reason::NaclRule, Direction::Inbound), 1);
    assert_eq!(counted(&counters, Reason::SharedFragment, Direction::Inbound), 2);
    assert_eq!(counters.slots[&slot(&policy, Direction::Inbound, 60)].packets, 3, "counted for the rule that decided");
    assert!(!arrives(CLOSED));
    let counters = attachment.counters().expect("counters");
    assert_eq!(counted(&counters, Reason::NaclRule, Direction::Inbound), 2);
    assert_eq!(counted(&counters, Reason::SharedFragment, Direction::Inbound), 4);
    assert_eq!(counters.slots[&slot(&policy, Direction::Inbound, 50)].packets, 3);
    assert_eq!(counted(&counters, Reason::NaclImplicit, Direction::Inbound), 0);

    // Somebody begins to look in the middle of a datagram: nothing is judged otherwise.
    let socket = within(&cable.there, || packet_socket(FAR));
    let whole = Packet { ident: 98, ..udp(u32::from(THERE), 40_000, OPEN) };
    let first = Packet { fragment: Fragment::First, ..whole };
    let later = Packet { fragment: Fragment::Later, sport: 0, dport: 0, ..whole };
    send(&socket, &frame::bytes(&first));
    std::thread::sleep(Duration::from_millis(50));
    let epoch = attachment.epoch();
    attachment.report(Events::All);
    send(&socket, &frame::bytes(&later));
    std::thread::sleep(Duration::from_millis(50));
    let told = std::iter::from_fn(|| attachment.events().next()).last().expect("it is reported");
    assert_eq!((told.reason, told.epoch), (Reason::SharedFragment as u8, epoch));
    attachment.report(Events::Denied);
    assert_eq!(attachment.epoch(), epoch);
    let counters = attachment.counters().expect("counters");
    assert_eq!(counters.slots[&slot(&policy, Direction::Inbound, 60)].packets, 5);
    assert_eq!(counted(&counters, Reason::SharedFragment, Direction::Inbound), 5);

    // Reordered: a later one that comes first has nothing to go by.
    let first = Packet { ident: 99, ..first };
    let later = Packet { ident: 99, ..later };
    for packet in [&later, &first, &later] {
        send(&socket, &frame::bytes(packet));
    }
    std::thread::sleep(Duration::from_millis(50));
    let counters = attachment.counters().expect("counters");
    // By itself it is denied as if it had every port: rule 50 denies one, and that rule 60 allows one does not help.
    assert_eq!(counters.slots[&slot(&policy, Direction::Inbound, 50)].packets, 4);
    assert_eq!(counters.slots[&slot(&policy, Direction::Inbound, 60)].packets, 7);
    assert_eq!(counted(&counters, Reason::NaclRule, Direction::Inbound), 5);
    assert_eq!(counted(&counters, Reason::SharedFragment, Direction::Inbound), 6);
    assert_eq!(attachment.flows().expect("the table is read"), [], "an interface that does not track");
}
