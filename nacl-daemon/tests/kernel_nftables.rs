//! nftables as a second opinion: what `export nftables` writes, loaded by `nft` in a namespace of its own, and the loaded programs attached in
//! another. The same frames go over a cable to both, and what arrives behind them must be the same; or the difference is one of those
//! that the export's notes name, and counted here. `NACLD_NFTABLES_PACKETS` asks for another number of packets.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nacl_common::{Direction, border::Service};
use nacl_daemon::{
    compile::compile,
    dataplane::{Attachment, Hooks, Ingress, Options, Terms, attach},
    export::nftables::{self, Difference},
    netns, policy,
    resolve::{Exemption, Interface, Layers, Mode, NoHost, Protocol, Side, Tracking, Xdp},
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket, sockopt},
    unistd::Pid,
};
use support::{
    case::{Case, Flaw, Part},
    generate::{self, Random},
    policies,
    veth::{Cable, FAR, NEAR, ip, packet_socket},
    written,
};

const PACKETS: usize = 100_000;
const PACKETS_A_POLICY: usize = 400;
/// The number of a frame that passes every policy: once it has arrived, so has whatever was let pass before it.
const LAST: u32 = u32::MAX;
/// Longer than any machine takes for what it is asked here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Receives behind the programs and rules of a device, because it is bound to protocols.
struct Tap(Vec<OwnedFd>);

impl Tap {
    fn new(netns: &str, device: &str) -> Self {
        let open = |protocol: libc::c_int| {
            let tap =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).expect("a packet socket");
            setsockopt(&tap.as_fd(), sockopt::RcvBufForce, &(8 << 20)).expect("a large buffer");
            // SAFETY: a plain C structure, for which zero is a value.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (protocol.cast_unsigned() as u16).to_be();
            address.sll_ifindex = nix::net::if_::if_nametoindex(device).expect("the device").cast_signed();
            let length = size_of_val(&address) as libc::socklen_t;
            // SAFETY: an open socket, and an address of the length said.
            let bound = unsafe { libc::bind(tap.as_raw_fd(), (&raw const address).cast(), length) };
            assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
            tap
        };
        let protocols = [libc::ETH_P_IP, libc::ETH_P_IPV6, libc::ETH_P_ARP];
        Self(netns::within(Some(netns), || protocols.map(open).into()).expect("the namespace is entered"))
    }

    /// Marks what has arrived, until the last frame has.
    fn take(&self, number: fn(&[u8]) -> Option<u32>, arrived: &mut [bool]) {
        let begun = Instant::now();
        let mut ended = false;
        while !ended {
            assert!(begun.elapsed() < PATIENCE, "the last frame does not arrive");
            std::thread::sleep(Duration::from_micros(200));
            // The last one may be on another socket than those before it.
            for _ in 0..2 {
                for socket in &self.0 {
                    ended |= drain(socket, number, arrived);
                }
            }
        }
    }
}

/// Whether the last frame was among them.
fn drain(socket: &OwnedFd, number: fn(&[u8]) -> Option<u32>, arrived: &mut [bool]) -> bool {
    let mut buffer = [0; 2048];
    let mut ended = false;
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => match number(&buffer[..length]) {
                Some(LAST) => ended = true,
                Some(number) => arrived[number as usize] = true,
                None => {}
            },
            Err(Errno::EAGAIN) => return ended,
            Err(error) => panic!("{error}"),
        }
    }
}

fn send(socket: &OwnedFd, frame: &[u8]) {
    match nix::unistd::write(socket, frame) {
        // It was dropped on its way out.
        Ok(_) | Err(Errno::ENOBUFS) => {}
        Err(error) => panic!("{error}: {frame:x?}"),
    }
}

/// Two ends: what is received on the interface under test comes from one, what is sent by it from the other.
struct Ends {
    /// Where what it receives is put in, and where it is taken out behind the interface.
    received: (OwnedFd, Tap),
    /// Where what it sends is put in, and where it is taken out.
    sent: (OwnedFd, Tap),
}

impl Ends {
    fn of(received: [(&str, &str); 2], sent: [(&str, &str); 2]) -> Self {
        let end = |[from, to]: [(&str, &str); 2]| {
            let socket = netns::within(Some(from.0), || {
                let socket = packet_socket(from.1);
                // Nobody reads it.
                setsockopt(&socket.as_fd(), sockopt::RcvBuf, &1).expect("a small buffer");
                socket
            });
            (socket.expect("the namespace is entered"), Tap::new(to.0, to.1))
        };
        Self { received: end(received), sent: end(sent) }
    }

    fn on(cable: &Cable) -> Self {
        let (near, far) = ((cable.here.as_str(), NEAR), (cable.there.as_str(), FAR));
        Self::of([far, near], [near, far])
    }

    fn send(&self, received: bool, frame: &[u8]) {
        send(if received { &self.received.0 } else { &self.sent.0 }, frame);
    }

    fn arrived(&self, count: usize, number: fn(&[u8]) -> Option<u32>) -> Vec<bool> {
        let mut arrived = vec![false; count];
        self.received.1.take(number, &mut arrived);
        self.sent.1.take(number, &mut arrived);
        arrived
    }
}

/// Everything is sent by one CPU, so that it arrives in the order in which it was sent.
fn stay_here() {
    let mut here = CpuSet::new();
    here.set(0).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &here).expect("the first CPU can be had");
}

/// Loads a ruleset, as a person would.
fn load(netns: &str, arguments: &[&str], ruleset: &str) {
    let output = netns::within(Some(netns), || {
        let mut nft = Command::new("nft");
        let nft = nft.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut nft = nft.spawn().unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("nft is needed (`cargo xtask setup` installs nftables)"),
            _ => panic!("{error}"),
        });
        nft.stdin.take().expect("a pipe").write_all(ruleset.as_bytes()).expect("nft reads");
        nft.wait_with_output().expect("nft ends")
    });
    let output = output.expect("the namespace is entered");
    assert!(output.status.success(), "{}\n{ruleset}", String::from_utf8_lossy(&output.stderr));
}

/// nacld on one cable.
struct Nacld {
    attachment: Attachment,
    ends: Ends,
    _cable: Cable,
}

impl Nacld {
    /// With the largest policy there may be: counters are made to its measure.
    fn new(random: &mut Random, tracking: Tracking) -> Self {
        let cable = Cable::new();
        let largest = generate::interface(random, 1000, 1000);
        let compiled = compile(&largest, None).expect("it compiles");
        let options = Options { tracking, ..policies::options(Xdp::Native) };
        let attachment = attach(&cable.target(), &options, &compiled).expect("it attaches");
        let Hooks { ingress, .. } = *attachment.hooks();
        assert_eq!(ingress, Ingress::Native);
        let ends = Ends::on(&cable);
        Self { attachment, ends, _cable: cable }
    }

    fn install(&mut self, interface: &Interface) {
        let compiled = compile(interface, None).expect("it compiles");
        let (enforce, tracking) = (interface.enforce, interface.tracking);
        let options = Options { side: interface.side, enforce, tracking, ..policies::options(Xdp::Native) };
        self.attachment.install(&options, &compiled, Terms::default()).expect("the next policy is installed");
    }
}

/// What was compared.
#[derive(Default)]
struct Tally {
    packets: usize,
    policies: usize,
    /// By direction of travel and verdict.
    same: BTreeMap<(&'static str, bool), usize>,
    explained: BTreeMap<Difference, usize>,
}

impl Tally {
    fn book(&mut self, kind: &'static str, interface: &Interface, one: &Compared<'_>, explained: Option<Difference>) {
        self.packets += 1;
        if one.nacld == one.nftables {
            *self.same.entry((kind, one.nacld)).or_default() += 1;
            return;
        }
        let said = |passed: bool| if passed { "passed" } else { "dropped" };
        let Some(explained) = explained.filter(|difference| Difference::of(interface).contains(difference)) else {
            panic!(
                "{:#?}\n{:#?}\n{}\n{:?}: {} by nacld, {} by nftables",
                interface,
                one.before,
                one.ruleset,
                one.case,
                said(one.nacld),
                said(one.nftables)
            );
        };
        *self.explained.entry(explained).or_default() += 1;
    }
}

/// A packet, and what became of it.
struct Compared<'c> {
    case: &'c Case,
    /// What was sent before it of its flow.
    before: Vec<&'c Case>,
    nacld: bool,
    nftables: bool,
    ruleset: &'c str,
}

fn received(direction: Direction, side: Side) -> bool {
    (direction == Direction::Inbound) == (side == Side::Host)
}

/// The number of a frame is in its sender's link address.
fn numbered(mut frame: Vec<u8>, number: u32) -> Vec<u8> {
    // To nobody, so that no stack does anything with it.
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    frame[6..8].copy_from_slice(&[2, 0]);
    frame[8..12].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(*frame.get(8..)?.first_chunk()?);
    (frame[..6] == [2, 0, 0, 0, 0, 0x99]).then_some(number)
}

/// The difference that a packet can meet where nothing is remembered.
fn explanation(case: &Case, received: bool, compared: (bool, bool)) -> Option<Difference> {
    let (_, nftables) = compared;
    let again = |(at, kind): (usize, &u8)| [0, 43, 60].contains(kind) && case.extensions[..at].contains(kind);
    let twice = case.extensions.iter().enumerate().any(again);
    if (case.tags == 2 || case.tags == 1 && !received) && !nftables {
        Some(Difference::Tags)
    } else if matches!(case.flaw, Flaw::Cut(_) | Flaw::Payload(_)) {
        Some(Difference::Cut)
    } else if matches!(case.flaw, Flaw::Extensions | Flaw::TwoFragments) && nftables
        || case.v6() && case.protocol == 51 && case.part == Part::Whole && twice
    {
        Some(Difference::Extensions)
    } else if case.part == Part::Later && case.flaw == Flaw::None {
        Some(Difference::Fragments)
    } else {
        None
    }
}

/// Sends the same packets through both, and compares.
fn compare(tally: &mut Tally, nacld: &Ends, nft: &Ends, interface: &Interface, ruleset: &str, cases: &[Case]) {
    tally.policies += 1;
    for (case, place) in cases.iter().zip(0..) {
        let frame = numbered(case.bytes().0, place);
        let received = received(case.direction, interface.side);
        nacld.send(received, &frame);
        nft.send(received, &frame);
    }
    let mut arp = numbered(vec![0; 42], LAST);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    for ends in [nacld, nft] {
        ends.send(true, &arp);
        ends.send(false, &arp);
    }
    let [by_nacld, by_nft] = [nacld, nft].map(|ends| ends.arrived(cases.len(), number));
    for ((case, nacld), nftables) in cases.iter().zip(by_nacld).zip(by_nft) {
        let received = received(case.direction, interface.side);
        let explained = explanation(case, received, (nacld, nftables));
        let one = Compared { case, before: Vec::new(), nacld, nftables, ruleset };
        tally.book(if received { "received" } else { "sent" }, interface, &one, explained);
    }
}

/// Random packets for an interface. Every first fragment is followed by a later one of its packet.
fn cases(random: &mut Random, interface: &Interface, count: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    while cases.len() < count {
        let case = generate::case(random, interface);
        // No device takes less than an Ethernet header.
        if case.bytes().0.len() < 14 {
            continue;
        }
        let later = (case.part == Part::First && case.flaw == Flaw::None).then(|| Case {
            part: Part::Later,
            hidden: None,
            ..case.clone()
        });
        cases.push(case);
        cases.extend(later);
    }
    cases
}

fn wanted() -> usize {
    std::env::var("NACLD_NFTABLES_PACKETS").map_or(PACKETS, |value| value.parse().expect("a number"))
}

/// The interface of a policy as it is put on the cable.
fn on_the_cable(interface: &Interface) -> Interface {
    Interface { name: NEAR.to_owned(), netns: None, ..interface.clone() }
}

#[test]
fn nftables_says_the_same_of_every_packet_by_itself() {
    stay_here();
    let mut random = Random(7);
    let mut nacld = Nacld::new(&mut random, Tracking::default());
    let other = Cable::new();
    let ends = Ends::on(&other);
    let mut tally = Tally::default();
    while tally.packets < wanted() {
        let [inbound, outbound] = [generate::size(&mut random), generate::size(&mut random)];
        let interface = generate::interface(&mut random, inbound, outbound);
        let layered = generate::layered(&mut random, interface);
        let side = *random.pick(&[Side::Host, Side::Router]);
        let interface = on_the_cable(&Interface {
            groups: None,
            mode: Mode::Stateless,
            layers: Layers::Both,
            side,
            enforce: !random.once_in(16),
            ..layered
        });
        assert!(!nftables::remembers(&interface));
        nacld.install(&interface);
        let ruleset = nftables::write("policy.toml", NEAR, &interface).text;
        load(&other.here, &["-f", "-"], &ruleset);
        let cases = cases(&mut random, &interface, PACKETS_A_POLICY);
        compare(&mut tally, &nacld.ends, &ends, &interface, &ruleset, &cases);
    }
    println!(
        "{} packets under {} policies; the same: {:?}; told: {:?}",
        tally.packets, tally.policies, tally.same, tally.explained
    );
    for kind in ["received", "sent"] {
        for passed in [false, true] {
            let count = tally.same.get(&(kind, passed)).copied().unwrap_or_default();
            assert!(count > tally.packets / 20, "{kind}, {passed}: too rare to prove anything");
        }
    }
    let stateless = [Difference::Fragments, Difference::Tags, Difference::Cut, Difference::Extensions];
    let told: Vec<_> = tally.explained.keys().copied().collect();
    assert!(told.iter().all(|told| stateless.contains(told)), "{told:?}");
    let explained: usize = tally.explained.values().sum();
    assert!(explained < tally.packets / 10, "what is told of is the exception");
}

#[test]
fn the_examples_say_the_same_and_nft_takes_them_all() {
    stay_here();
    let mut random = Random(8);
    let mut nacld = Nacld::new(&mut random, Tracking::default());
    let other = Cable::new();
    let ends = Ends::on(&other);
    let mut tally = Tally::default();
    let mut taken = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")).expect("examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("an example");
        let resolved = policy::load("example.toml", &text, &NoHost).resolved.expect("it can be used");
        for (name, interface) in &resolved.interfaces {
            taken += 1;
            for mode in [interface.mode, Mode::Stateful] {
                let interface = Interface { mode, ..on_the_cable(interface) };
                let ruleset = nftables::write("example.toml", name, &interface).text;
                load(&other.here, &["-c", "-f", "-"], &ruleset);
                if nftables::remembers(&interface) {
                    continue;
                }
                nacld.install(&interface);
                load(&other.here, &["-f", "-"], &ruleset);
                let cases = cases(&mut random, &interface, 4 * PACKETS_A_POLICY);
                compare(&mut tally, &nacld.ends, &ends, &interface, &ruleset, &cases);
                // It is replaced, not added to.
                load(&other.here, &["flush", "ruleset"], "");
            }
        }
    }
    println!("{} packets under {} policies; told: {:?}", tally.packets, tally.policies, tally.explained);
    assert!(taken >= 7 && tally.policies >= 4, "{taken} {}", tally.policies);
}

/// A router with the ruleset on the way out of a subnet: conntrack remembers only what arrives somewhere.
struct Router {
    cable: Cable,
    ends: Ends,
    /// Link addresses of the router towards the outside and the inside.
    doors: [[u8; 6]; 2],
}

const INSIDE: &str = "inside";
const INNER: &str = "inner";

impl Router {
    fn new() -> Self {
        let cable = Cable::new();
        let (here, there) = (cable.here.as_str(), cable.there.as_str());
        ip(&["-n", here, "link", "add", INSIDE, "type", "veth", "peer", "name", INNER, "netns", there]);
        ip(&["-n", there, "link", "set", INNER, "up"]);
        let doors = [(NEAR, [2, 0, 0, 0, 1, 1]), (INSIDE, [2, 0, 0, 0, 1, 2])].map(|(device, door)| {
            let text = door.map(|byte: u8| format!("{byte:02x}")).join(":");
            // Nobody answers for the hosts there.
            ip(&["-n", here, "link", "set", device, "address", &text, "arp", "off", "up"]);
            door
        });
        ip(&["-n", here, "route", "add", "10.78.0.0/16", "dev", INSIDE]);
        let settings = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/near/rp_filter", "0"),
            ("net/ipv4/conf/inside/rp_filter", "0"),
        ];
        let set = |(setting, value): (&str, &str)| fs::write(Path::new("/proc/sys").join(setting), value);
        netns::within(Some(here), || settings.map(set).map(|done| done.expect("the setting is written")))
            .expect("the namespace is entered");
        let ends = Ends::of([(there, FAR), (there, INNER)], [(there, INNER), (there, FAR)]);
        Self { cable, ends, doors }
    }

    /// What the notes ask for, and no sums: those of the frames are nought.
    fn settle(&self) {
        let settings = [("nf_conntrack_tcp_be_liberal", "1"), ("nf_conntrack_checksum", "0")];
        let set = |(setting, value): (&str, &str)| fs::write(Path::new("/proc/sys/net/netfilter").join(setting), value);
        netns::within(Some(&self.cable.here), || settings.map(set).map(|done| done.expect("the setting is written")))
            .expect("the namespace is entered");
    }
}

/// A frame whose number is in its last bytes: a router writes new link addresses.
fn routed(case: &Case, number: u32, door: [u8; 6]) -> Vec<u8> {
    let (mut frame, _) = case.bytes();
    frame[..6].copy_from_slice(&door);
    let end = frame.len();
    frame[end - 8..end - 4].copy_from_slice(b"seq ");
    frame[end - 4..].copy_from_slice(&number.to_be_bytes());
    if case.protocol == 17 {
        // Conntrack takes no datagram that is not as long as it says.
        frame[38..40].copy_from_slice(&((end - 34) as u16).to_be_bytes());
    }
    let words = frame[14..34].as_chunks::<2>().0;
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
    frame
}

fn routed_number(frame: &[u8]) -> Option<u32> {
    let (rest, number) = frame.split_last_chunk::<4>()?;
    rest.ends_with(b"seq ").then(|| u32::from_be_bytes(*number))
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A remote host that every policy lets pass: by it the last packet goes.
const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 250);

fn case(direction: Direction, remote: Ipv4Addr, local: Ipv4Addr, protocol: u8, ports: (u16, u16)) -> Case {
    let (sport, dport) = if direction == Direction::Inbound { ports } else { (ports.1, ports.0) };
    Case {
        direction,
        remote: remote.into(),
        local: local.into(),
        protocol,
        sport,
        dport,
        icmp: (0, 0),
        echo: ports.0,
        flags: 0,
        part: Part::Whole,
        ident: 0,
        hop_limit: 64,
        tags: 0,
        options: 0,
        extensions: Vec::new(),
        hidden: None,
        flaw: Flaw::None,
    }
}

/// A policy by chance, of few hosts and ports, so that flows meet most of its rules.
fn talkative(random: &mut Random) -> Interface {
    let what = |random: &mut Random| {
        let ports = ["80", "1-1000", "1024-65535", "all", "53", "all"];
        match random.below(8) {
            0..=2 => format!("tcp {}", random.pick(&ports)),
            3..=5 => format!("udp {}", random.pick(&ports)),
            6 => (*random.pick(&["icmp 8", "icmp 0", "icmp all", "50"])).to_owned(),
            _ => "all".to_owned(),
        }
    };
    let net = |random: &mut Random| *random.pick(&["0.0.0.0/0", "10.77.0.0/24", "10.77.0.16/31", "10.77.0.17/32"]);
    let mut list = |deny: bool| {
        let count = 1 + random.below(6);
        let rules: Vec<String> = (1..=count)
            .map(|number| {
                let action = if random.once_in(4) { "deny" } else { "allow" };
                let action = if deny { format!("{number} {action} ") } else { String::new() };
                format!("{action}{} {}", what(random), net(random))
            })
            .collect();
        rules
    };
    let written = [list(true), list(true), list(false), list(false)];
    let [inbound, outbound, into, out] =
        written.each_ref().map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
    let open = random.once_in(3);
    let nacl = if open { written::open_nacl() } else { written::nacl(&inbound, &outbound) };
    let one = |list: &[&str]| {
        let mut group = (*written::group("talk", list, &[])).clone();
        let mut kept = Vec::new();
        for rule in group.inbound.drain(..) {
            // AWS refuses a rule that is there already.
            if !kept.iter().any(|old| generate::same(old, &rule)) {
                kept.push(rule);
            }
        }
        kept
    };
    let (into, out) = (one(&into), one(&out));
    let group = nacl_daemon::resolve::Group { name: "talk".into(), id: None, inbound: into, outbound: out };
    let with_groups = !random.once_in(3);
    let friend = |service| Exemption {
        failsafe: true,
        name: "failsafe".into(),
        service,
        protocol: Protocol::All,
        ports: None,
        cidr: IpAddr::V4(FRIEND).into(),
        line: 1,
    };
    Interface {
        name: NEAR.into(),
        exemptions: vec![friend(Service::Remote)],
        mode: if with_groups && random.once_in(2) { Mode::Stateless } else { Mode::Stateful },
        subnet_cidrs: if random.once_in(4) { vec!["10.77.0.16/31".parse().expect("a CIDR")] } else { Vec::new() },
        // Nothing that is met in its middle is taken up: nftables cannot.
        tracking: Tracking { pickup: 0, ..Tracking::default() },
        ..written::interface(nacl, with_groups.then(|| vec![Arc::new(group)]))
    }
}

/// Conversations of a few flows, mixed. What is sent does not depend on what arrives: also who was not heard is answered.
fn conversations(random: &mut Random, local: Ipv4Addr, count: usize) -> Vec<Case> {
    let mut flows = Vec::new();
    for place in 0..8_u16 {
        let remote = Ipv4Addr::new(10, 77, 0, 16 + random.below(4) as u8);
        let protocol = *random.pick(&[6, 6, 17, 17, 1, 50]);
        let client = 40_000 + place;
        let server = *random.pick(&[80, 53, 443, 5000]);
        let from_remote = random.once_in(2);
        let ports = if from_remote { (client, server) } else { (server, client) };
        flows.push((remote, protocol, ports, from_remote, 0_usize));
    }
    let mut cases = Vec::new();
    while cases.len() < count {
        let index = random.below(flows.len() as u64) as usize;
        let (remote, protocol, ports, from_remote, step) = &mut flows[index];
        let (from_origin, flags) = match (*protocol, *step) {
            (6, 0) => (true, SYN),
            (6, 1) => (false, SYN | ACK),
            (6, 2) => (true, ACK),
            (6, 12) => (true, FIN | ACK),
            (6, 13) => (false, FIN | ACK),
            (6, 14..) => (random.once_in(2), if random.once_in(4) { RST } else { ACK }),
            (6, _) => (random.once_in(2), ACK),
            // Now and then the answer comes first.
            (_, 0) => (!random.once_in(4), 0),
            _ => (random.once_in(2), 0),
        };
        *step += 1;
        let direction = if from_origin == *from_remote { Direction::Inbound } else { Direction::Outbound };
        let mut case = case(direction, *remote, local, *protocol, *ports);
        case.flags = flags;
        if *protocol == 1 {
            // Everybody answers under the number of whoever asked.
            case.echo = 40_000 + index as u16;
            case.icmp = (if from_origin { 8 } else { 0 }, 0);
            if random.once_in(8) {
                case.icmp = (3, 1);
            }
        }
        cases.push(case);
    }
    cases
}

fn flow(case: &Case) -> (IpAddr, u8, u16) {
    let remote_port = if case.direction == Direction::Inbound { case.sport } else { case.dport };
    (case.remote, case.protocol, if case.protocol == 1 { case.echo } else { remote_port })
}

#[test]
fn nftables_says_the_same_of_conversations() {
    stay_here();
    let mut random = Random(9);
    let tracking = Tracking { pickup: 0, ..Tracking::default() };
    let mut nacld = Nacld::new(&mut random, tracking);
    let router = Router::new();
    let mut tally = Tally::default();
    let mut remembered = 0;
    while tally.packets < wanted() / 4 {
        // A local host of its own, of whom nobody remembers anything.
        let local = Ipv4Addr::new(10, 78, (tally.policies / 200) as u8, 1 + (tally.policies % 200) as u8);
        tally.policies += 1;
        let interface = talkative(&mut random);
        assert!(nftables::remembers(&interface));
        nacld.install(&interface);
        let ruleset = nftables::write("policy.toml", NEAR, &interface).text;
        load(&router.cable.here, &["-f", "-"], &ruleset);
        router.settle();
        let cases = conversations(&mut random, local, 100);
        let ends = [&nacld.ends, &router.ends];
        let put = |case: &Case, number: u32| {
            let received = received(case.direction, interface.side);
            let frame = routed(case, number, router.doors[usize::from(!received)]);
            for ends in ends {
                ends.send(received, &frame);
            }
        };
        for (case, number) in cases.iter().zip(0..) {
            put(case, number);
        }
        for direction in Direction::ALL {
            put(&case(direction, FRIEND, local, 17, (1, 1)), LAST);
        }
        let [by_nacld, by_nft] = ends.map(|ends| ends.arrived(cases.len(), routed_number));
        for place in 0..cases.len() {
            let case = &cases[place];
            let before = cases[..place].iter().filter(|earlier| flow(earlier) == flow(case)).collect();
            let (nacld, nftables) = (by_nacld[place], by_nft[place]);
            remembered += usize::from(nacld && !by_itself(&interface, case));
            let one = Compared { case, before, nacld, nftables, ruleset: &ruleset };
            tally.book("talk", &interface, &one, None);
        }
    }
    println!(
        "{} packets under {} policies; the same: {:?}; by memory alone: {remembered}",
        tally.packets, tally.policies, tally.same
    );
    assert!(remembered > tally.packets / 50, "memory is hardly asked");
}

/// Whether a packet passes of which nothing is remembered.
fn by_itself(interface: &Interface, case: &Case) -> bool {
    support::oracle::judge(interface, case).allow
}
