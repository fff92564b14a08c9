//! Random policies with overlaps, and packets that aim at their edges. Everything follows from one seed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use nacl_common::{Action, Direction, border::Service};
use nacl_daemon::resolve::{Exemption, Group, GroupRule, Icmp, Interface, Layers, Mode, Nacl, Peer, Protocol, Rule};

use super::case::{Case, Flaw, Part};

/// A small generator (SplitMix64): the test is reproducible whatever version of which crate is installed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// 0 to `limit - 1`.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    fn bits(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// Addresses a policy's prefixes are made from, so that they nest and overlap.
struct Bases {
    v4: Vec<u128>,
    v6: Vec<u128>,
}

fn net(bits: u128, length: u8, v6: bool) -> IpNet {
    let address = if v6 { IpAddr::V6(Ipv6Addr::from(bits)) } else { IpAddr::V4(Ipv4Addr::from(bits as u32)) };
    IpNet::new(address, length).expect("length fits the family").trunc()
}

fn prefix(random: &mut Random, bases: &Bases, v6: bool) -> IpNet {
    let (bases, width) = if v6 { (&bases.v6, 128) } else { (&bases.v4, 32) };
    let usual: &[u8] = if v6 { &[0, 32, 48, 56, 64, 64, 96, 127, 128] } else { &[0, 8, 16, 20, 24, 24, 28, 31, 32] };
    let length = if random.once_in(3) { random.below(width + 1) as u8 } else { *random.pick(usual) };
    let mut bits = *random.pick(bases);
    // Change a bit inside the prefix now and then, so that neighbours appear.
    if length > 0 && random.once_in(2) {
        bits ^= 1 << (width - 1 - random.below(length.into()));
    }
    net(bits, length, v6)
}

fn rule(random: &mut Random, bases: &Bases, number: u16) -> Rule {
    let v6 = random.once_in(2);
    let cidr = prefix(random, bases, v6);
    let icmp_number = if v6 { 58 } else { 1 };
    let protocol = match random.below(16) {
        0 | 1 => Protocol::All,
        2..=6 => Protocol::Number(6),
        7..=9 => Protocol::Number(17),
        10..=12 => Protocol::Number(icmp_number),
        13 => Protocol::Number(if v6 { 1 } else { 58 }),
        14 => Protocol::Number(*random.pick(&[132, 47, 50, 51, 4, 41])),
        _ => Protocol::Number(random.below(256) as u8),
    };
    let ports = match protocol {
        Protocol::Number(6 | 17) => match random.below(8) {
            0 => None,
            1 => Some((0, 65535)),
            2 | 3 => {
                let port = *random.pick(&[0, 22, 53, 80, 443, 3389, 65535]);
                Some((port, port))
            }
            4 => Some(*random.pick(&[(1024, 65535), (32768, 60999), (49152, 65535), (1025, 5000)])),
            _ => {
                let (one, other) = (random.next() as u16, random.next() as u16);
                Some((one.min(other), one.max(other)))
            }
        },
        _ => None,
    };
    let icmp = (protocol == Protocol::Number(icmp_number) && !random.once_in(3)).then(|| Icmp {
        kind: *random.pick(if v6 { &[1, 2, 3, 128, 129, 135, 143] } else { &[0, 3, 5, 8, 11, 13, 255] }),
        code: (!random.once_in(3)).then(|| *random.pick(&[0, 0, 1, 4, 255])),
    });
    let action = if random.once_in(2) { Action::Allow } else { Action::Deny };
    Rule {
        number,
        action,
        protocol,
        ports,
        icmp,
        cidr,
        reference: None,
        description: None,
        line: number.into(),
        span: 0..0,
    }
}

fn rules(random: &mut Random, bases: &Bases, count: usize) -> Vec<Rule> {
    let mut numbers: Vec<u16> = Vec::new();
    while numbers.len() < count {
        numbers.push(1 + random.below(32766) as u16);
        if numbers.len() == count {
            numbers.sort_unstable();
            numbers.dedup();
        }
    }
    let mut rules: Vec<_> = numbers.into_iter().map(|number| rule(random, bases, number)).collect();
    // Long lists of wide rules end at their first few; most rules of most lists should be reachable.
    let wide = |rule: &Rule| rule.cidr.prefix_len() < if rule.cidr.addr().is_ipv4() { 16 } else { 40 };
    let keep = 3 + count / 16;
    let mut seen = 0;
    for one in rules.iter_mut().filter(|rule| wide(rule)) {
        seen += 1;
        while seen > keep && wide(one) {
            *one = rule(random, bases, one.number);
        }
    }
    rules
}

/// An interface with a random network ACL of `inbound` and `outbound` rules.
pub fn interface(random: &mut Random, inbound: usize, outbound: usize) -> Interface {
    let count = 2 + (inbound + outbound) as u64 / 4;
    let bases = Bases {
        v4: (0..count).map(|_| random.bits() & 0xffff_ffff).collect(),
        v6: {
            let site = random.bits() & !(u128::MAX >> 32);
            // Half of them in one site, as real policies are.
            (0..count).map(|index| if index % 2 == 0 { site | random.bits() >> 32 } else { random.bits() }).collect()
        },
    };
    let subnet_cidrs = if random.once_in(4) {
        vec![net(*random.pick(&bases.v4), 24, false), net(*random.pick(&bases.v6), 64, true)]
    } else {
        Vec::new()
    };
    let nacl = Arc::new(Nacl {
        name: "random".into(),
        id: None,
        inbound: rules(random, &bases, inbound),
        outbound: rules(random, &bases, outbound),
    });
    Interface { subnet_cidrs, ..Interface::new("eth0", nacl) }
}

/// The same interface with security groups, exemptions, a mode and layers by chance.
pub fn layered(random: &mut Random, interface: Interface) -> Interface {
    let bases = bases_of(random, &interface);
    let groups = (!random.once_in(4)).then(|| {
        let many = if random.once_in(16) { 60 } else { 1 + random.below(8) };
        (0..random.below(4)).map(|name| Arc::new(group(random, &bases, name, many))).collect()
    });
    let exemptions = if random.once_in(3) {
        (0..random.below(6)).map(|name| exemption(random, &bases, name)).collect()
    } else {
        Vec::new()
    };
    Interface {
        groups,
        exemptions,
        aws: random.once_in(2),
        mode: if random.once_in(2) { Mode::Stateful } else { Mode::Stateless },
        layers: *random.pick(&[Layers::Both, Layers::Both, Layers::Both, Layers::Both, Layers::Nacl, Layers::Groups]),
        ..interface
    }
}

/// Addresses near the rules of a network ACL.
fn bases_of(random: &mut Random, interface: &Interface) -> Bases {
    let mut bases = Bases { v4: vec![random.bits() & 0xffff_ffff], v6: vec![random.bits()] };
    for rule in interface.nacl.inbound.iter().chain(&interface.nacl.outbound).take(40) {
        let all = if rule.cidr.addr().is_ipv6() { &mut bases.v6 } else { &mut bases.v4 };
        all.push(number(rule.cidr.network()));
    }
    bases
}

fn group(random: &mut Random, bases: &Bases, name: u64, rules: u64) -> Group {
    let mut list = || {
        let mut list: Vec<GroupRule> = Vec::new();
        for line in 1..=random.below(rules + 1) {
            let rule = group_rule(random, bases, line as usize);
            // AWS refuses a rule that is there already.
            if !list.iter().any(|old| same(old, &rule)) {
                list.push(rule);
            }
        }
        list
    };
    let (inbound, outbound) = (list(), list());
    Group { name: format!("sg-{name}"), id: None, inbound, outbound }
}

/// Whether two rules of a group say the same.
pub fn same(one: &GroupRule, other: &GroupRule) -> bool {
    let what = |rule: &GroupRule| (rule.protocol, rule.ports.filter(|ports| *ports != (0, 65535)), rule.peer.clone());
    what(one) == what(other) && one.icmp == other.icmp
}

fn group_rule(random: &mut Random, bases: &Bases, line: usize) -> GroupRule {
    let one = rule(random, bases, 1);
    let v6 = one.cidr.addr().is_ipv6();
    let host = |random: &mut Random, v6: bool| {
        net(*random.pick(if v6 { &bases.v6 } else { &bases.v4 }), if v6 { 128 } else { 32 }, v6)
    };
    let (peer, cidrs) = match random.below(8) {
        // A name says which addresses it means.
        0 => {
            let cidrs: Vec<_> = (0..random.below(5)).map(|_| prefix(random, bases, v6)).collect();
            (Peer::PrefixList(format!("pl-{cidrs:?}")), cidrs)
        }
        1 => {
            let cidrs: Vec<_> = (0..random.below(5)).map(|index| host(random, index % 2 == 0)).collect();
            (Peer::Group(format!("sg-{cidrs:?}")), cidrs)
        }
        2..=4 => {
            let all = net(0, 0, v6);
            (Peer::Cidr(all), vec![all])
        }
        _ => (Peer::Cidr(one.cidr), vec![one.cidr]),
    };
    let (protocol, ports, icmp) = (one.protocol, one.ports, one.icmp);
    GroupRule { icmp, line, ..GroupRule::new(protocol, ports, peer, cidrs) }
}

fn exemption(random: &mut Random, bases: &Bases, name: u64) -> Exemption {
    let one = rule(random, bases, 1);
    let failsafe = random.once_in(2);
    let width = one.cidr.max_prefix_len();
    let cidr = if random.once_in(2) { IpNet::new(one.cidr.addr(), width).expect("a host") } else { one.cidr };
    Exemption {
        failsafe,
        name: format!("exemption {name}"),
        service: *random.pick(&[Service::Remote, Service::Local]),
        protocol: one.protocol,
        ports: one.ports,
        cidr,
        line: if failsafe { 1 + name as usize } else { 0 },
    }
}

/// How many rules a list of a random policy has: mostly what AWS allows, now and then up to 1000.
pub fn size(random: &mut Random) -> usize {
    (match random.below(32) {
        0 => 0,
        1..=3 => 1,
        4..=15 => 2 + random.below(18),
        16..=26 => 20 + random.below(21),
        27..=30 => 41 + random.below(160),
        _ => 200 + random.below(801),
    }) as usize
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(random: &mut Random, near: Option<IpNet>, v6: bool) -> IpAddr {
    let all = if v6 { u128::MAX } else { u32::MAX.into() };
    let bits = match near {
        None => random.bits() & all,
        Some(near) => {
            let (first, last) = (number(near.network()), number(near.broadcast()));
            match random.below(12) {
                0 | 1 => first,
                2 | 3 => last,
                4 => first.wrapping_sub(1) & all,
                5 => last.wrapping_add(1) & all,
                _ => first | random.bits() & (last - first),
            }
        }
    };
    if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4(Ipv4Addr::from(bits as u32)) }
}

/// What a packet aims at.
#[derive(Clone, Copy)]
struct Aim {
    cidr: IpNet,
    protocol: Protocol,
    ports: Option<(u16, u16)>,
    icmp: Option<Icmp>,
    /// The ports are the source's.
    source: bool,
}

impl Aim {
    fn at(random: &mut Random, interface: &Interface, direction: Direction) -> Option<Self> {
        let groups = interface.groups.as_deref().unwrap_or_default();
        match random.below(if groups.is_empty() { 8 } else { 16 }) {
            0 => None,
            1 if !interface.exemptions.is_empty() => {
                let exemption = random.pick(&interface.exemptions);
                let source = (direction == Direction::Inbound) == (exemption.service == Service::Remote);
                let (cidr, protocol, ports) = (exemption.cidr, exemption.protocol, exemption.ports);
                Some(Self { cidr, protocol, ports, icmp: None, source })
            }
            2..=7 => {
                let rules = interface.nacl.rules(direction);
                let rule = (!rules.is_empty()).then(|| random.pick(rules))?;
                let (cidr, protocol, ports, icmp) = (rule.cidr, rule.protocol, rule.ports, rule.icmp);
                Some(Self { cidr, protocol, ports, icmp, source: false })
            }
            _ => {
                let rules = (!groups.is_empty()).then(|| random.pick(groups).rules(direction))?;
                let rule = (!rules.is_empty()).then(|| random.pick(rules))?;
                let cidr = *(!rule.cidrs.is_empty()).then(|| random.pick(&rule.cidrs))?;
                let (protocol, ports, icmp) = (rule.protocol, rule.ports, rule.icmp);
                Some(Self { cidr, protocol, ports, icmp, source: false })
            }
        }
    }
}

/// A packet that aims at one of the interface's rules or exemptions, or at none.
pub fn case(random: &mut Random, interface: &Interface) -> Case {
    let direction = *random.pick(&Direction::ALL);
    let aim = Aim::at(random, interface, direction);
    let v6 = aim.map_or_else(|| random.once_in(2), |aim| aim.cidr.addr().is_ipv6());
    let icmp_number = if v6 { 58 } else { 1 };
    let mut near = aim.map(|aim| aim.cidr);
    if random.once_in(12) {
        near = interface.subnet_cidrs.iter().find(|cidr| cidr.addr().is_ipv6() == v6).copied().or(near);
    }
    let aimed = match aim.map(|aim| aim.protocol) {
        Some(Protocol::Number(number)) if !random.once_in(12) => number,
        _ => {
            let any = random.next() as u8;
            *random.pick(&[6, 6, 17, 17, icmp_number, icmp_number, 132, 47, any])
        }
    };
    // IPv6 takes these for extension headers, which are no protocol of a packet.
    let protocol = if v6 && [0, 43, 44, 60].contains(&aimed) { 6 } else { aimed };
    let aimed_port = match aim.and_then(|aim| aim.ports) {
        Some((first, last)) => match random.below(10) {
            0 | 1 => first,
            2 | 3 => last,
            4 => first.wrapping_sub(1),
            5 => last.wrapping_add(1),
            _ => first + random.below(u64::from(last - first) + 1) as u16,
        },
        None => random.next() as u16,
    };
    let another = random.next() as u16;
    let (mut sport, mut dport) =
        if aim.is_some_and(|aim| aim.source) { (aimed_port, another) } else { (another, aimed_port) };
    if protocol == 17 && random.once_in(12) {
        let (client, server) = if v6 == random.once_in(8) { (68, 67) } else { (546, 547) };
        (sport, dport) =
            if (direction == Direction::Outbound) == random.once_in(8) { (server, client) } else { (client, server) };
    }
    let icmp = match aim.and_then(|aim| aim.icmp) {
        Some(icmp) => (icmp.kind, icmp.code.filter(|_| !random.once_in(6)).unwrap_or(random.below(5) as u8)),
        None => (*random.pick(&[0, 3, 8, 128, 129, 130, 133, 135, 137, 138, 143]), random.below(5) as u8),
    };
    let part = match random.below(16) {
        0 => Part::First,
        1 | 2 => Part::Later,
        3 if v6 => Part::Atomic,
        _ => Part::Whole,
    };
    let mut case = Case {
        direction,
        remote: address(random, near, v6),
        local: address(random, None, v6),
        protocol,
        sport,
        dport,
        icmp,
        echo: random.next() as u16,
        flags: random.next() as u8,
        part,
        ident: random.next() as u32,
        hop_limit: *random.pick(&[1, 1, 64, 64, 254, 255, 255]),
        tags: if random.once_in(8) { 1 + random.below(2) as u8 } else { 0 },
        options: if !v6 && random.once_in(6) { 1 + random.below(10) as u8 } else { 0 },
        extensions: if v6 && random.once_in(4) {
            (0..=random.below(3)).map(|_| *random.pick(&[0, 43, 60])).collect()
        } else {
            Vec::new()
        },
        hidden: (v6 && part == Part::Later && random.once_in(3)).then(|| *random.pick(&[0, 43, 44, 60])),
        flaw: Flaw::None,
    };
    if random.once_in(12) {
        case.flaw = flaw(random, &case);
    }
    case
}

fn flaw(random: &mut Random, case: &Case) -> Flaw {
    match (random.below(8), case.v6()) {
        (0, _) => Flaw::Version,
        (1, true) => Flaw::Extensions,
        (1, false) => Flaw::HeaderLength,
        (2, true) => Flaw::TwoFragments,
        (2, false) => Flaw::TotalLength,
        (3, _) if case.has_ports() || case.has_icmp() => {
            Flaw::Payload(random.below(if case.protocol == 6 { 20 } else { 8 }) as u16)
        }
        (4, _) => Flaw::OffsetOne,
        (5, _) => Flaw::Tags,
        // Inside the VLAN tags: the only cut of an Ethernet header that BPF_PROG_TEST_RUN lets through.
        (6, _) if case.tags > 0 => Flaw::Cut(14 + random.below(4 * u64::from(case.tags)) as usize),
        _ => Flaw::Cut(random.below(case.bytes().0.len() as u64) as usize),
    }
}
