//! Random policies with overlaps, and packets that aim at their edges. Everything follows from one seed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use nacl_common::{Action, Direction};
use nacl_daemon::resolve::{Icmp, Interface, Nacl, Protocol, Rule};

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

/// A packet that aims at one of the interface's rules, or at none.
pub fn case(random: &mut Random, interface: &Interface) -> Case {
    let direction = *random.pick(&Direction::ALL);
    let rules = interface.nacl.rules(direction);
    let aim = (!rules.is_empty() && !random.once_in(10)).then(|| random.pick(rules));
    let v6 = aim.map_or_else(|| random.once_in(2), |rule| rule.cidr.addr().is_ipv6());
    let icmp_number = if v6 { 58 } else { 1 };
    let mut near = aim.map(|rule| rule.cidr);
    if random.once_in(12) {
        near = interface.subnet_cidrs.iter().find(|cidr| cidr.addr().is_ipv6() == v6).copied().or(near);
    }
    let aimed = match aim.map(|rule| rule.protocol) {
        Some(Protocol::Number(number)) if !random.once_in(12) => number,
        _ => {
            let any = random.next() as u8;
            *random.pick(&[6, 6, 17, 17, icmp_number, icmp_number, 132, 47, any])
        }
    };
    // IPv6 takes these for extension headers, which are no protocol of a packet.
    let protocol = if v6 && [0, 43, 44, 60].contains(&aimed) { 6 } else { aimed };
    let dport = match aim.and_then(|rule| rule.ports) {
        Some((first, last)) => match random.below(10) {
            0 | 1 => first,
            2 | 3 => last,
            4 => first.wrapping_sub(1),
            5 => last.wrapping_add(1),
            _ => first + random.below(u64::from(last - first) + 1) as u16,
        },
        None => random.next() as u16,
    };
    let icmp = match aim.and_then(|rule| rule.icmp) {
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
        sport: random.next() as u16,
        dport,
        icmp,
        part,
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
