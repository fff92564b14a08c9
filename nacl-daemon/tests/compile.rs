//! What the compiler makes of security groups and exemptions: the first match of a compiled list is the most permissive
//! rule that a naive scan finds, exemptions pass both ways, AWS's own example of tracking comes out, and what AWS's quotas
//! allow fits.

mod support;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use nacl_common::{
    Action, Direction, Family, Fragment, Layer, Packet, Reason,
    border::{Header, List, OPEN_TCP, OPEN_UDP, Service, Tier, list_index},
    flow::{SECOND, Timeout},
};
use nacl_daemon::{
    analyze::{Query, number},
    compile::{CompileError, Compiled, Compiler, Decider, Generation, Slot, SlotTable, Whose, compile, refusals},
    engine::Engine,
    policy,
    resolve::{
        Exemption, Group, GroupRule, Icmp, Interface, Layers, Mode, Nacl, NoHost, Peer, Protocol, Rule, Tracking,
    },
};
use support::generate::Random;

fn header(compiled: &Compiled) -> &Header {
    match &compiled.generation {
        Generation::Small(image) => &image.header,
        Generation::Medium(image) => &image.header,
        Generation::Large(image) => &image.header,
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a CIDR")
}

/// `tcp 22 203.0.113.1/32`, `all 0.0.0.0/0`, `icmp 0.0.0.0/0`.
fn rule(text: &str) -> GroupRule {
    let mut words: Vec<_> = text.split(' ').collect();
    let peer = words.pop().expect("words");
    let protocol = match words[0] {
        "all" => Protocol::All,
        name => Protocol::Number(
            ["icmp", "tcp", "udp", "icmpv6"]
                .iter()
                .position(|known| *known == name)
                .map_or_else(|| name.parse().expect("a number"), |index| [1, 6, 17, 58][index]),
        ),
    };
    let ports = words.get(1).map(|ports| {
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        (first.parse().expect("a port"), last.parse().expect("a port"))
    });
    GroupRule::new(protocol, ports, Peer::Cidr(net(peer)), vec![net(peer)])
}

fn group(name: &str, inbound: &[GroupRule], outbound: &[GroupRule]) -> Arc<Group> {
    Arc::new(Group { name: name.into(), id: None, inbound: inbound.to_vec(), outbound: outbound.to_vec() })
}

/// An interface whose network ACL lets everything pass.
fn interface(groups: Vec<Arc<Group>>) -> Interface {
    let all = |number, cidr| Rule {
        number,
        action: Action::Allow,
        protocol: Protocol::All,
        ports: None,
        icmp: None,
        cidr: net(cidr),
        reference: None,
        description: None,
        line: 0,
        span: 0..0,
    };
    let rules = vec![all(100, "0.0.0.0/0"), all(101, "::/0")];
    let nacl = Nacl { name: "open".into(), id: None, inbound: rules.clone(), outbound: rules };
    Interface { groups: Some(groups), ..Interface::new("eth0", Arc::new(nacl)) }
}

fn query(json: serde_json::Value) -> (Direction, Packet) {
    serde_json::from_value::<Query>(json).expect("a query").packet().expect("a packet")
}

/// S31, AWS's own example.
#[test]
fn aws_example_of_tracked_and_untracked_flows() {
    let inbound =
        [rule("tcp 22 203.0.113.1/32"), rule("tcp 80 0.0.0.0/0"), rule("tcp 80 ::/0"), rule("icmp 0.0.0.0/0")];
    let outbound = [rule("all 0.0.0.0/0"), rule("all ::/0")];
    let open = |outbound: &[GroupRule]| {
        let compiled = compile(&interface(vec![group("sg", &inbound, outbound)]), None).expect("compiles");
        header(&compiled).open
    };
    let both = OPEN_TCP | OPEN_UDP;
    let at = |direction, v6| list_index(direction, v6);
    let whole = open(&outbound);
    assert_eq!(
        [whole[at(Direction::Inbound, false)], whole[at(Direction::Inbound, true)]],
        [0, 0],
        "80 is not all ports"
    );
    assert_eq!([whole[at(Direction::Outbound, false)], whole[at(Direction::Outbound, true)]], [both, both]);
    let without_v4 = open(&outbound[1..]);
    assert_eq!([without_v4[at(Direction::Outbound, false)], without_v4[at(Direction::Outbound, true)]], [0, both]);
    let without_v6 = open(&outbound[..1]);
    assert_eq!([without_v6[at(Direction::Outbound, false)], without_v6[at(Direction::Outbound, true)]], [both, 0]);

    // What follows from it: who leaves an entry behind.
    let tracked = |outbound: &[GroupRule], packet: serde_json::Value| {
        let interface = interface(vec![group("sg", &inbound, outbound)]);
        let compiled = compile(&interface, None).expect("compiles");
        let (direction, packet) = query(packet);
        let mut engine = Engine::new(&interface, &compiled);
        assert_eq!(engine.judge(direction, &packet).action, Action::Allow);
        !engine.flows().is_empty()
    };
    let tcp = |src: &str, dst: &str, port: u16| {
        serde_json::json!({"direction": "inbound", "src": src, "dst": dst, "protocol": 6, "sport": 50000, "dport": port,
            "tcp_flags": "S"})
    };
    let ping = serde_json::json!({"direction": "inbound", "src": "198.51.100.7", "dst": "10.0.1.10", "protocol": 1,
        "icmp_type": 8});
    assert!(tracked(&outbound, tcp("203.0.113.1", "10.0.1.10", 22)));
    assert!(!tracked(&outbound, tcp("198.51.100.7", "10.0.1.10", 80)));
    assert!(!tracked(&outbound, tcp("2001:db8::7", "2001:db8::1", 80)));
    assert!(tracked(&outbound, ping.clone()));
    assert!(
        tracked(&outbound[1..], tcp("198.51.100.7", "10.0.1.10", 80)),
        "without the rule for IPv4 all IPv4 is tracked"
    );
    assert!(!tracked(&outbound[1..], tcp("2001:db8::7", "2001:db8::1", 80)));
    assert!(tracked(&outbound[..1], tcp("2001:db8::7", "2001:db8::1", 80)), "and likewise IPv6");
}

/// A prefix that nests with others, of either family.
fn some_net(random: &mut Random) -> IpNet {
    let (host, site) = (random.below(4) as u8, random.below(3) as u8);
    let v6 = random.once_in(3);
    let length = *random.pick(if v6 { &[0, 32, 48, 56, 64, 120, 128] } else { &[0, 8, 15, 16, 24, 30, 32] });
    let address: IpAddr = if v6 {
        format!("2001:db8:{site}:{host}::{host}").parse().expect("an address")
    } else {
        format!("10.{site}.{host}.{host}").parse().expect("an address")
    };
    IpNet::new(address, length).expect("a length").trunc()
}

fn some_rule(random: &mut Random) -> GroupRule {
    let protocol = match random.below(8) {
        0 => Protocol::All,
        1..=3 => Protocol::Number(6),
        4 => Protocol::Number(17),
        5 => Protocol::Number(1),
        6 => Protocol::Number(58),
        _ => Protocol::Number(47),
    };
    let ports = match protocol {
        Protocol::Number(6 | 17) if !random.once_in(4) => {
            Some(*random.pick(&[(0, 65535), (22, 22), (80, 80), (80, 443), (1024, 65535), (443, 443)]))
        }
        _ => None,
    };
    let icmp = (matches!(protocol, Protocol::Number(1 | 58)) && !random.once_in(3))
        .then(|| Icmp { kind: *random.pick(&[8, 3, 128]), code: (!random.once_in(3)).then(|| *random.pick(&[0, 4])) });
    let (peer, cidrs) = match random.below(3) {
        0 => {
            let cidrs = (0..random.below(6)).map(|_| some_net(random)).collect();
            (Peer::PrefixList("list".into()), cidrs)
        }
        1 => {
            let one = |net: IpNet| IpNet::from(net.addr());
            let cidrs = (0..random.below(4)).map(|_| one(some_net(random))).collect();
            (Peer::Group("members".into()), cidrs)
        }
        _ => {
            let net = some_net(random);
            (Peer::Cidr(net), vec![net])
        }
    };
    GroupRule { protocol, ports, icmp, peer, cidrs, description: None, line: 0, span: 0..0 }
}

fn some_group(random: &mut Random, name: &str, rules: u64) -> Arc<Group> {
    let mut rules = || (0..random.below(rules + 1)).map(|_| some_rule(random)).collect::<Vec<_>>();
    let (inbound, outbound) = (rules(), rules());
    group(name, &inbound, &outbound)
}

fn some_packet(random: &mut Random) -> Packet {
    let remote = some_net(random).addr();
    let local: IpAddr = if remote.is_ipv4() { "192.0.2.1" } else { "2001:db8:ffff::1" }.parse().expect("an address");
    let protocol = *random.pick(&[6, 6, 6, 17, 1, 58, 47]);
    let later = random.once_in(8);
    let v6 = remote.is_ipv6();
    let dport = match protocol {
        _ if later => 0,
        6 | 17 => *random.pick(&[0, 22, 79, 80, 443, 444, 1024, 65535]),
        1 if !v6 => *random.pick(&[0x0800, 0x0304, 0x0300, 0x0b00]),
        58 if v6 => *random.pick(&[0x8000, 0x0304, 0x0300]),
        _ => 0,
    };
    Packet {
        family: if v6 { Family::V6 } else { Family::V4 },
        protocol,
        fragment: if later { Fragment::Later } else { Fragment::None },
        hop_limit: 64,
        tcp_flags: 0,
        // Both ends, so that either direction has it as its remote one.
        src: number(remote),
        dst: number(if random.once_in(2) { remote } else { local }),
        sport: 0,
        dport,
        ident: 0,
    }
}

/// Whether a rule matches a packet by this CIDR; how many ports it opens.
fn naive(rule: &GroupRule, packet: &Packet, cidr: &IpNet, remote: IpAddr) -> Option<u32> {
    if !cidr.contains(&remote) {
        return None;
    }
    let Protocol::Number(protocol) = rule.protocol else { return Some(65536) };
    if protocol != packet.protocol {
        return None;
    }
    let own_icmp = protocol == if packet.family == Family::V4 { 1 } else { 58 };
    let (first, last, width) = match (rule.ports, rule.icmp) {
        (Some((first, last)), _) => (first, last, u32::from(last) - u32::from(first) + 1),
        (None, Some(Icmp { kind, code: None })) if own_icmp => (u16::from(kind) << 8, u16::from(kind) << 8 | 0xff, 256),
        (None, Some(Icmp { kind, code: Some(code) })) if own_icmp => {
            let both = u16::from(kind) << 8 | u16::from(code);
            (both, both, 1)
        }
        _ => return Some(65536),
    };
    let hidden = packet.fragment == Fragment::Later && (first, last) != (0, u16::MAX);
    (!hidden && (packet.fragment == Fragment::Later || (first..=last).contains(&packet.dport))).then_some(width)
}

/// The most permissive rule that matches, by going through all of them.
fn most_permissive(interface: &Interface, direction: Direction, packet: &Packet, remote: IpAddr) -> Decider {
    let mut found = Vec::new();
    for group in interface.groups.iter().flatten() {
        for (rule, position) in group.rules(direction).iter().zip(1..) {
            let open = matches!(&rule.peer, Peer::Cidr(cidr) if cidr.prefix_len() == 0);
            for cidr in &rule.cidrs {
                if let Some(width) = naive(rule, packet, cidr, remote) {
                    let rank = (!open, cidr.prefix_len(), rule.protocol != Protocol::All, Reverse(width));
                    found.push((rank, Decider::Group { group: group.name.clone(), direction, position }));
                }
            }
        }
    }
    found.into_iter().min_by_key(|(rank, _)| *rank).map_or(Decider::GroupImplied { direction }, |(_, by)| by)
}

#[test]
fn the_first_match_of_the_pool_is_the_most_permissive_rule() {
    let mut random = Random(31);
    let mut met = BTreeMap::<&str, u32>::new();
    for _ in 0..400 {
        let groups = (0..=random.below(4)).map(|index| some_group(&mut random, &format!("sg-{index}"), 12)).collect();
        let interface = Interface { layers: Layers::Groups, ..interface(groups) };
        let compiled = compile(&interface, None).expect("compiles");
        for _ in 0..400 {
            let (direction, packet) = (*random.pick(&Direction::ALL), some_packet(&mut random));
            let bytes = if direction == Direction::Inbound { packet.src } else { packet.dst };
            let remote: IpAddr = match packet.family {
                Family::V4 => std::net::Ipv4Addr::from(bytes[1] as u32).into(),
                Family::V6 => std::net::Ipv6Addr::from(u128::from(bytes[0]) << 64 | u128::from(bytes[1])).into(),
            };
            let expected = most_permissive(&interface, direction, &packet, remote);
            let verdict = compiled.judge(direction, &packet);
            let by = compiled.slots.decider(verdict.slot, verdict.reason);
            assert_eq!(by, expected, "{direction:?} {packet:?}\n{interface:#?}");
            let matched = matches!(expected, Decider::Group { .. });
            assert_eq!(verdict.action, if matched { Action::Allow } else { Action::Deny });
            assert_eq!(verdict.reason, if matched { Reason::GroupRule } else { Reason::GroupImplicit });
            *met.entry(if matched { "matched" } else { "none" }).or_default() += 1;
            if packet.fragment == Fragment::Later && matched {
                *met.entry("later fragments").or_default() += 1;
            }
        }
    }
    assert!(met.values().all(|times| *times > 1000) && met.len() == 3, "{met:?}");
}

fn exemption(service: Service, protocol: u8, port: u16, cidr: &str, failsafe: bool) -> Exemption {
    Exemption {
        failsafe,
        name: if failsafe { "failsafe".into() } else { "Amazon DNS".into() },
        service,
        protocol: Protocol::Number(protocol),
        ports: Some((port, port)),
        cidr: net(cidr),
        line: if failsafe { 7 } else { 0 },
    }
}

/// Requests and replies of an exempt service pass whatever the rules say, and nothing else does.
#[test]
fn exemptions_pass_both_ways_and_nothing_else_does() {
    let closed = Nacl { name: "closed".into(), id: None, inbound: vec![], outbound: vec![] };
    let interface = Interface {
        groups: Some(vec![]),
        exemptions: vec![
            exemption(Service::Remote, 17, 53, "10.0.0.2/32", false),
            exemption(Service::Local, 6, 22, "192.0.2.64/26", true),
            exemption(Service::Local, 6, 22, "198.51.0.0/23", true),
            exemption(Service::Remote, 17, 123, "fd00:ec2::7f/128", false),
            exemption(Service::Remote, 6, 80, "2001:db8::fe00/119", true),
        ],
        ..Interface::new("eth0", Arc::new(closed))
    };
    let compiled = compile(&interface, None).expect("compiles");
    let judge = |direction: &str, protocol: u8, remote: &str, remote_port: u16, local_port: u16| {
        let local = if remote.contains(':') { "2001:db8:1::1" } else { "10.0.0.9" };
        let ((src, sport), (dst, dport)) = if direction == "inbound" {
            ((remote, remote_port), (local, local_port))
        } else {
            ((local, local_port), (remote, remote_port))
        };
        let (direction, packet) = query(serde_json::json!({"direction": direction, "src": src, "dst": dst,
            "protocol": protocol, "sport": sport, "dport": dport}));
        let verdict = compiled.judge(direction, &packet);
        assert_eq!(verdict.layer == Layer::None, verdict.action == Action::Allow);
        (verdict.action == Action::Allow).then(|| {
            let slot = &compiled.slots.slots[&verdict.slot];
            let by = compiled.slots.decider(verdict.slot, verdict.reason);
            assert_eq!(by, Decider::Unlisted(verdict.reason));
            (verdict.reason, slot.name.clone(), slot.matches.clone())
        })
    };
    for direction in ["inbound", "outbound"] {
        let aws = |matches: &str| Some((Reason::AwsService, "Amazon DNS".to_owned(), matches.to_owned()));
        let failsafe = |matches: &str| Some((Reason::Failsafe, "failsafe".to_owned(), matches.to_owned()));
        assert_eq!(judge(direction, 17, "10.0.0.2", 53, 40000), aws("17 53-53 10.0.0.2/32"));
        assert_eq!(judge(direction, 17, "10.0.0.2", 40000, 53), None, "the service is at the other end");
        assert_eq!(judge(direction, 6, "10.0.0.2", 53, 40000), None);
        assert_eq!(judge(direction, 17, "10.1.0.2", 53, 40000), None, "another address with the same low byte");
        assert_eq!(judge(direction, 6, "192.0.2.64", 50000, 22), failsafe("6 22-22 192.0.2.64/26"));
        assert_eq!(judge(direction, 6, "192.0.2.127", 50000, 22), failsafe("6 22-22 192.0.2.64/26"));
        assert_eq!(judge(direction, 6, "192.0.2.63", 50000, 22), None);
        assert_eq!(judge(direction, 6, "192.0.2.128", 50000, 22), None);
        assert_eq!(judge(direction, 6, "192.0.2.64", 22, 50000), None, "the service is at this end");
        assert_eq!(judge(direction, 6, "198.51.1.255", 50000, 22), failsafe("6 22-22 198.51.0.0/23"));
        assert_eq!(judge(direction, 6, "198.51.0.0", 50000, 22), failsafe("6 22-22 198.51.0.0/23"));
        assert_eq!(judge(direction, 17, "fd00:ec2::7f", 123, 40000), aws("17 123-123 fd00:ec2::7f/128"));
        assert_eq!(judge(direction, 17, "fd00:ec2::7e", 123, 40000), None);
        assert_eq!(judge(direction, 6, "2001:db8::fe00", 80, 40000), failsafe("6 80-80 2001:db8::fe00/119"));
        assert_eq!(judge(direction, 6, "2001:db8::ffff", 80, 40000), failsafe("6 80-80 2001:db8::fe00/119"));
        assert_eq!(judge(direction, 6, "2001:db8::fdff", 80, 40000), None);
    }
}

#[test]
fn time_outs_stand_in_the_header_in_nanoseconds() {
    let tracking = Tracking { tcp_opening: 1, tcp_established: 350, udp: 31, udp_stream: 181, ..Tracking::default() };
    let compiled = compile(&Interface { tracking, ..interface(vec![]) }, None).expect("compiles");
    let timeouts = header(&compiled).timeouts;
    for (timeout, seconds) in [
        (Timeout::TcpOpening, 1),
        (Timeout::TcpEstablished, 350),
        (Timeout::TcpClosing, 120),
        (Timeout::TcpClosed, 10),
        (Timeout::Udp, 31),
        (Timeout::UdpStream, 181),
        (Timeout::Icmp, 30),
        (Timeout::Other, 600),
    ] {
        assert_eq!(timeouts[timeout as usize], seconds * SECOND, "{timeout:?}");
    }
}

/// The slots of a group's rule, by family.
fn slots_of(slots: &SlotTable, direction: Direction, position: u16) -> BTreeMap<Family, u16> {
    let own = |slot: &Slot| {
        slot.layer == Layer::SecurityGroup && slot.direction == direction && slot.position == Some(position)
    };
    slots.slots.iter().filter(|(_, slot)| own(slot)).map(|(number, slot)| (slot.family, *number)).collect()
}

#[test]
fn a_group_rule_keeps_its_slots_while_members_come_and_go() {
    let members = |cidrs: &[&str]| GroupRule {
        peer: Peer::Group("web".into()),
        cidrs: cidrs.iter().map(|cidr| net(cidr)).collect(),
        ..rule("tcp 80 10.0.0.0/8")
    };
    let build = |inbound: &[GroupRule], previous: Option<&SlotTable>| {
        compile(&interface(vec![group("sg", inbound, &[])]), previous).expect("compiles").slots
    };
    let ssh = rule("tcp 22 192.0.2.0/24");
    let first = build(&[members(&["10.0.0.1/32"]), ssh.clone()], None);
    assert_eq!(slots_of(&first, Direction::Inbound, 1).len(), 1, "one family, one slot");
    // A member of the other family: one more slot, the others stay. The rules change places: the slots do not.
    let second = build(&[ssh.clone(), members(&["10.0.0.2/32", "2001:db8::2/128"])], Some(&first));
    let web = slots_of(&second, Direction::Inbound, 2);
    assert_eq!(web[&Family::V4], slots_of(&first, Direction::Inbound, 1)[&Family::V4]);
    assert_eq!(slots_of(&second, Direction::Inbound, 1), slots_of(&first, Direction::Inbound, 2));
    assert_eq!(second.new_since(&first), [web[&Family::V6]]);
    // Ports changed: another rule, in a slot that nothing had.
    let https = GroupRule { ports: Some((443, 443)), ..members(&["10.0.0.2/32"]) };
    let third = build(&[ssh.clone(), https.clone()], Some(&second));
    let [fresh] = third.new_since(&second)[..] else { panic!("one new rule") };
    assert!(!second.slots.contains_key(&fresh), "a freed slot is left alone for one generation");
    // One rule twice: a slot each, and both keep them.
    let fourth = build(&[ssh.clone(), https.clone(), https.clone()], Some(&third));
    let fifth = build(&[ssh.clone(), https.clone(), https], Some(&fourth));
    assert!(fifth.new_since(&fourth).is_empty());
    assert_eq!(fourth.slots.keys().collect::<Vec<_>>(), fifth.slots.keys().collect::<Vec<_>>());
    // The same rule of another group is another rule.
    let moved = compile(&interface(vec![group("other", &[ssh], &[])]), Some(&fifth)).expect("compiles").slots;
    assert!(slots_of(&moved, Direction::Inbound, 1).values().all(|slot| !fifth.slots.contains_key(slot)));
}

#[test]
fn random_groups_compile_to_the_same_bytes_and_keep_their_slots() {
    let mut random = Random(5);
    for _ in 0..40 {
        let groups: Vec<_> = (0..4).map(|index| some_group(&mut random, &format!("sg-{index}"), 15)).collect();
        let before = interface(groups.clone());
        let [one, other] = [(); 2].map(|()| compile(&before, None).expect("compiles"));
        assert_eq!(one.slots, other.slots);
        let (Generation::Small(image), Generation::Small(again)) = (&one.generation, &other.generation) else {
            panic!("a few rules fit the small tier");
        };
        assert!(image.header == again.header && image.words == again.words && image.heap == again.heap);
        // Without the last group: what is left keeps its slots, and nothing takes those that became free.
        let fewer = compile(&interface(groups[..3].to_vec()), Some(&one.slots)).expect("compiles");
        assert!(fewer.slots.new_since(&one.slots).is_empty());
        let kept = |slots: &SlotTable| {
            let kept = slots.slots.iter().filter(|(_, slot)| slot.name != "sg-3");
            kept.map(|(number, slot)| (*number, slot.clone())).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(kept(&one.slots), fewer.slots.slots);
    }
}

/// What AWS's quotas allow (N38, S25) as people write it: a score of services, networks of some sizes, single hosts, and
/// references to groups.
fn quota_sized(random: &mut Random) -> Interface {
    let services: Vec<_> = (0..20)
        .map(|index| match index {
            0 => (Protocol::Number(6), Some((443, 443))),
            1 => (Protocol::Number(6), Some((80, 80))),
            2 => (Protocol::Number(6), Some((22, 22))),
            3 => (Protocol::Number(6), Some((1024, 65535))),
            4 => (Protocol::Number(17), Some((53, 53))),
            5 => (Protocol::All, None),
            _ => {
                let port = 1024 + random.below(60000) as u16;
                (Protocol::Number(*random.pick(&[6, 6, 17])), Some((port, port)))
            }
        })
        .collect();
    let networks: Vec<IpNet> = (0..40)
        .map(|_| {
            let (a, b, c) = (random.below(4), random.below(16), random.below(256));
            match random.below(8) {
                0 => net("0.0.0.0/0"),
                1 => net("10.0.0.0/8"),
                2 => net(&format!("10.{a}.0.0/16")),
                3 | 4 => net(&format!("10.{a}.{b}.0/24")),
                5 => net(&format!("10.{a}.{b}.{c}/32")),
                6 => net(&format!("2001:db8:{a}::/48")),
                _ => net(&format!("2001:db8:{a}:{b}::/64")),
            }
        })
        .collect();
    let group_rules = |random: &mut Random| {
        let mut rules = Vec::new();
        for _ in 0..60 {
            let (protocol, ports) = *random.pick(&services);
            let (peer, cidrs) = if random.once_in(4) {
                let tier = random.below(5);
                let hosts = (0..8).map(|host| net(&format!("10.0.{}.{}/32", 10 + tier, 10 + host))).collect();
                (Peer::Group(format!("tier-{tier}")), hosts)
            } else {
                let cidr = *random.pick(&networks);
                (Peer::Cidr(cidr), vec![cidr])
            };
            let (description, span) = (None, 0..0);
            rules.push(GroupRule { protocol, ports, icmp: None, peer, cidrs, description, line: 0, span });
        }
        rules
    };
    let groups = (0..5)
        .map(|index| {
            let (inbound, outbound) = (group_rules(random), group_rules(random));
            group(&format!("sg-{index}"), &inbound, &outbound)
        })
        .collect();
    let nacl_rules = |random: &mut Random| {
        let rule = |number: u16, random: &mut Random| {
            let (protocol, ports) = *random.pick(&services);
            Rule {
                number,
                action: if random.once_in(4) { Action::Deny } else { Action::Allow },
                protocol,
                ports,
                icmp: None,
                cidr: *random.pick(&networks),
                reference: None,
                description: None,
                line: 0,
                span: 0..0,
            }
        };
        (1..=40).map(|number| rule(number * 10, random)).collect::<Vec<_>>()
    };
    let (inbound, outbound) = (nacl_rules(random), nacl_rules(random));
    let nacl = Nacl { name: "quota".into(), id: None, inbound, outbound };
    Interface { groups: Some(groups), exemptions: aws_exemptions(), ..Interface::new("eth0", Arc::new(nacl)) }
}

/// As a policy with `[vpc]` and `[subnet]` has them.
fn aws_exemptions() -> Vec<Exemption> {
    let text = "version = 1\n[vpc]\ncidrs = [\"10.0.0.0/16\", \"2001:db8::/56\"]\n\
                [subnet.a]\ncidrs = [\"10.0.1.0/24\", \"2001:db8::/64\"]\n[interface.eth0]\nsubnet = \"a\"\n";
    let resolved = policy::load("exempt.toml", text, &NoHost).resolved.expect("a policy");
    let exemptions = resolved.interfaces["eth0"].exemptions.clone();
    assert!(exemptions.len() >= 10, "AWS exempts more: {exemptions:?}");
    exemptions
}

#[test]
fn what_aws_quotas_allow_fits_the_small_tier() {
    for seed in 0..20 {
        let interface = quota_sized(&mut Random(seed));
        let compiled = compile(&interface, None).expect("compiles");
        let Generation::Small(image) = &compiled.generation else {
            panic!("seed {seed}: {:?}", compiled.generation.tier());
        };
        assert!(image.header.lists.iter().all(|list| list.form == List::TABLE));
        let used = image.heap.iter().rposition(|entry| *entry != 0).map_or(0, |last| last + 1);
        println!("seed {seed}: {used} of {} heap entries", image.heap.len());
    }
}

/// 300 rules of an interface that share neither ports nor addresses: the most adversarial groups that AWS takes.
fn adversarial(groups: usize, rules: usize) -> Interface {
    let rule = |index: usize| {
        let cidr = net(&format!("10.{}.{}.{}/32", index / 256, index % 256, index % 251));
        GroupRule {
            ports: Some((1000 + index as u16 * 7, 1003 + index as u16 * 7)),
            peer: Peer::Cidr(cidr),
            cidrs: vec![cidr],
            ..rule("tcp 1 0.0.0.0/0")
        }
    };
    let list = |first: usize| (first..first + rules).map(rule).collect::<Vec<_>>();
    let all = (0..groups).map(|index| group(&format!("sg-{index}"), &list(index * rules), &list(index * rules)));
    interface(all.collect())
}

#[test]
fn groups_that_share_nothing_take_a_larger_tier_and_never_rows() {
    for (groups, rules, tier) in [(5, 60, Tier::Medium), (16, 62, Tier::Large)] {
        let compiled = compile(&adversarial(groups, rules), None).expect("compiles");
        assert_eq!(compiled.generation.tier(), tier, "{groups} groups of {rules} rules");
        assert!(header(&compiled).lists.iter().all(|list| list.form == List::TABLE));
    }
}

#[test]
fn what_is_too_large_is_told_by_name_once_for_the_same_rules() {
    let large = adversarial(30, 100);
    let Err(CompileError::TooLarge { whose, own, needed, limit, .. }) = compile(&large, None).map(drop) else {
        panic!("two tables of 3000 × 6000 decisions fit nowhere");
    };
    assert_eq!(whose, Whose::Groups((0..30).map(|index| format!("sg-{index}")).collect()));
    assert!(own > limit && needed >= own, "{own} {needed} {limit}");
    let error = compile(&large, None).map(drop).expect_err("too large").to_string();
    assert!(error.contains("security groups \"sg-0\", \"sg-1\", ") && error.contains(&needed.to_string()), "{error}");

    let mut resolved = policy::load("empty.toml", "version = 1\n", &NoHost).resolved.expect("a policy");
    let small = Interface { groups: None, ..large.clone() };
    let fewer = Interface { groups: large.groups.clone().map(|groups| groups[1..].to_vec()), ..large.clone() };
    resolved.interfaces = [("a", &large), ("b", &large), ("c", &small), ("d", &fewer)]
        .map(|(name, interface)| (name.to_owned(), interface.clone()))
        .into();
    let told: BTreeSet<_> = refusals(&resolved).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "one for a and b, one for d: {told:?}");
    assert_eq!(refusals(&resolved).len(), 2);
}

/// A network ACL has rows where tables do not fit, and is refused where those do not either.
#[test]
fn a_network_acl_beyond_every_cap_is_refused_with_the_figure() {
    let of = |rules: u16| {
        let inbound = (0..rules).map(|index| Rule {
            number: index + 1,
            action: Action::Allow,
            protocol: Protocol::Number(6),
            ports: Some((1 + index * 5, 2001 + index * 5)),
            icmp: None,
            cidr: net(&format!("10.{}.{}.0/24", index / 256, index % 256)),
            reference: None,
            description: None,
            line: usize::from(index),
            span: 0..0,
        });
        let nacl = Nacl { name: "long".into(), id: None, inbound: inbound.collect(), outbound: Vec::new() };
        Interface::new("eth0", Arc::new(nacl))
    };
    let in_rows = compile(&of(2500), None).expect("rows hold it");
    assert!(header(&in_rows).lists.iter().any(|list| list.form == List::ROWS));
    let error = compile(&of(4500), None).map(drop).expect_err("too large");
    let CompileError::TooLarge { whose, what, own, needed, limit } = &error else { panic!("{error}") };
    assert_eq!(*whose, Whose::Nacl("long".into()));
    assert!(what.contains("rows of rule bits") && needed >= own && needed > limit, "{error}");
    let text = error.to_string();
    assert!(text.contains("network ACL \"long\"") && text.contains(&needed.to_string()), "{text}");
    assert!(text.contains(&limit.to_string()) && text.contains("use fewer rules"), "{text}");
}

/// Interfaces of one policy have one generation and one table of slots, also after a reload.
#[test]
fn interfaces_that_enforce_the_same_are_compiled_once() {
    let groups = vec![group("sg", &[rule("tcp 22 203.0.113.1/32")], &[])];
    let (one, alone) = (interface(groups.clone()), interface(Vec::new()));
    let other = Interface { name: "eth1".into(), mode: Mode::Stateful, ..one.clone() };
    let patient = Interface { tracking: Tracking { udp: 77, ..one.tracking }, ..one.clone() };
    let mut previous: [Option<Arc<SlotTable>>; 4] = [const { None }; 4];
    for _ in 0..3 {
        let mut compiler = Compiler::default();
        let interfaces = [&one, &other, &patient, &alone];
        let [first, second, third, fourth] =
            std::array::from_fn(|at| compiler.compile(interfaces[at], previous[at].as_ref()).expect("compiles"));
        let (Generation::Small(a), Generation::Small(b)) = (&first.generation, &second.generation) else {
            panic!("small policies")
        };
        assert!(Arc::ptr_eq(a, b) && Arc::ptr_eq(&first.slots, &second.slots));
        assert_ne!(first.flags, second.flags, "the mode is each interface's own");
        assert_eq!(first.digest, compile(&one, previous[0].as_deref()).expect("compiles").digest);
        for different in [&third, &fourth] {
            assert_ne!(first.digest, different.digest);
        }
        previous = [first, second, third, fourth].map(|compiled| Some(compiled.slots));
    }
}

/// Twenty prefix lists, each in fifty rules: what matters is that an entry is not gone through once for each of them.
#[test]
fn a_thousand_rules_with_long_prefix_lists_compile() {
    let lists: Vec<Vec<IpNet>> = (0..20_u32)
        .map(|list| (0..1000_u32).map(|entry| net(&format!("10.{}.{}.0/24", list, entry % 256))).collect())
        .collect();
    let rules: Vec<_> = (0..1000_usize)
        .map(|index| GroupRule {
            ports: Some((index as u16 * 3, index as u16 * 3 + 1)),
            peer: Peer::PrefixList(format!("list-{}", index % 20)),
            cidrs: lists[index % 20].clone(),
            ..rule("tcp 1 0.0.0.0/0")
        })
        .collect();
    let start = std::time::Instant::now();
    let compiled = compile(&interface(vec![group("many", &rules, &[])]), None).expect("compiles");
    println!("{:?} for {:?}", start.elapsed(), compiled.generation.tier());
    let (direction, packet) =
        query(serde_json::json!({"direction": "inbound", "src": "10.7.200.9", "dst": "192.0.2.1",
        "protocol": 6, "sport": 1, "dport": 27 * 3}));
    let verdict = compiled.judge(direction, &packet);
    let by = compiled.slots.deciders(&verdict);
    assert_eq!(by[1], Decider::Group { group: "many".into(), direction, position: 28 });
}
