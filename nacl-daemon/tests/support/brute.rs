//! Sets of packets by brute force: one packet for every set of rules, as they are written, that a packet can stand in; and
//! policies that differ as edits make them differ. Shares no code with `analyze/sets`.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    thread,
};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family, Fragment, Packet, packet};
use nacl_daemon::resolve::{Group, Interface, Layers, Mode, Nacl, Protocol};

use super::{
    case::{Case, Flaw, Part},
    generate::{self, Random},
    oracle,
};

/// A whole packet of nothing in particular.
pub fn plain(direction: Direction, v6: bool) -> Case {
    let address =
        |v4: [u8; 4], v6_: u128| -> IpAddr { if v6 { IpAddr::V6(v6_.into()) } else { IpAddr::V4(Ipv4Addr::from(v4)) } };
    Case {
        direction,
        remote: address([198, 51, 100, 7], 0x2001_0db8 << 96 | 0x7),
        local: address([10, 0, 0, 10], 0xfd00 << 112 | 0xa),
        protocol: 6,
        sport: 50000,
        dport: 443,
        icmp: (8, 0),
        echo: 0,
        flags: packet::tcp::SYN,
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

/// The packet behind a specification without flaws.
pub fn packet_of(case: &Case) -> Packet {
    packet::parse(case.bytes().0.as_slice(), 0).unwrap_or_else(|reason| panic!("{reason:?}: {case:?}"))
}

/// The specification of a packet.
pub fn case_of(direction: Direction, packet: &Packet) -> Case {
    let v6 = packet.family == Family::V6;
    let address = |number: [u64; 2]| -> IpAddr {
        let number = u128::from(number[0]) << 64 | u128::from(number[1]);
        if v6 { IpAddr::V6(number.into()) } else { IpAddr::V4(Ipv4Addr::from(number as u32)) }
    };
    let (remote, local) = match direction {
        Direction::Inbound => (packet.src, packet.dst),
        Direction::Outbound => (packet.dst, packet.src),
    };
    let later = packet.fragment == Fragment::Later;
    let hidden = v6 && later && [0, 43, 44, 60].contains(&packet.protocol);
    let case = Case {
        remote: address(remote),
        local: address(local),
        protocol: if hidden { 6 } else { packet.protocol },
        sport: packet.sport,
        dport: packet.dport,
        icmp: ((packet.dport >> 8) as u8, packet.dport as u8),
        part: match packet.fragment {
            Fragment::None => Part::Whole,
            Fragment::First => Part::First,
            Fragment::Later => Part::Later,
        },
        hop_limit: packet.hop_limit,
        flags: packet.tcp_flags,
        hidden: hidden.then_some(packet.protocol),
        ..plain(direction, v6)
    };
    assert_eq!(packet_of(&case), *packet, "{case:?}");
    case
}

/// One item for each distinct answer.
fn distinct<T: Clone, K: std::hash::Hash + Eq>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = HashSet::new();
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}

/// What rules of a direction ask, beside addresses, and their CIDRs.
#[derive(Default)]
struct Asked {
    cidrs: Vec<IpNet>,
    protocols: Vec<u8>,
    ports: Vec<(u16, u16)>,
    source_ports: Vec<(u16, u16)>,
    types: Vec<(u8, Option<u8>)>,
}

fn asked(interface: &Interface, direction: Direction) -> Asked {
    let mut asked = Asked { cidrs: interface.subnet_cidrs.clone(), ..Asked::default() };
    let mut note = |protocol, ports: Option<(u16, u16)>, icmp: Option<nacl_daemon::resolve::Icmp>| {
        if let Protocol::Number(number) = protocol {
            asked.protocols.push(number);
        }
        asked.ports.extend(ports);
        asked.types.extend(icmp.map(|icmp| (icmp.kind, icmp.code)));
    };
    for rule in interface.nacl.rules(direction) {
        note(rule.protocol, rule.ports, rule.icmp);
    }
    for rule in interface.groups.iter().flatten().flat_map(|group| group.rules(direction)) {
        note(rule.protocol, rule.ports, rule.icmp);
    }
    for exemption in &interface.exemptions {
        note(exemption.protocol, exemption.ports, None);
        asked.source_ports.extend(exemption.ports);
        asked.cidrs.push(exemption.cidr);
    }
    asked.cidrs.extend(interface.nacl.rules(direction).iter().map(|rule| rule.cidr));
    let groups = interface.groups.iter().flatten().flat_map(|group| group.rules(direction));
    asked.cidrs.extend(groups.flat_map(|rule| rule.cidrs.iter().copied()));
    asked
}

/// Edges of ranges of ports: first, last, and their neighbours.
fn edges(ranges: &[(u16, u16)]) -> Vec<u16> {
    let mut edges = vec![50000];
    for (first, last) in ranges {
        edges.extend([*first, *last, first.wrapping_sub(1), last.wrapping_add(1)]);
    }
    edges
}

/// One packet for each way in which these interfaces' rules can be met in one direction and family: all of them, but of each
/// set of rules only one.
pub fn representatives(interfaces: &[&Interface], direction: Direction, v6: bool) -> Vec<Case> {
    let mut all = Asked::default();
    for interface in interfaces {
        let own = asked(interface, direction);
        all.cidrs.extend(own.cidrs);
        all.protocols.extend(own.protocols);
        all.ports.extend(own.ports);
        all.source_ports.extend(own.source_ports);
        all.types.extend(own.types);
    }
    all.cidrs.retain(|cidr| cidr.addr().is_ipv6() == v6);
    let base = plain(direction, v6);
    let mut addresses = vec![base.remote];
    for cidr in &all.cidrs {
        let (first, last) = (cidr.network(), cidr.broadcast());
        addresses.extend([first, last]);
        let moved = |address: IpAddr, by: i8| -> IpAddr {
            match address {
                IpAddr::V4(address) => {
                    let number = u32::from(address);
                    IpAddr::V4(if by < 0 { number.wrapping_sub(1) } else { number.wrapping_add(1) }.into())
                }
                IpAddr::V6(address) => {
                    let number = u128::from(address);
                    IpAddr::V6(if by < 0 { number.wrapping_sub(1) } else { number.wrapping_add(1) }.into())
                }
            }
        };
        addresses.extend([moved(first, -1), moved(last, 1)]);
    }
    let lies_in = |address: &IpAddr| -> Vec<bool> {
        all.cidrs.iter().map(|cidr| oracle::contains(cidr.addr(), cidr.prefix_len(), *address)).collect()
    };
    let addresses = distinct(addresses, lies_in);

    let dhcp = if v6 { [546, 547] } else { [67, 68] };
    let alone = |port: &u16| dhcp.iter().position(|one| one == port);
    let within = |ranges: &[(u16, u16)], port: u16| -> Vec<bool> {
        ranges.iter().map(|(first, last)| *first <= port && port <= *last).collect()
    };
    let mut ports = edges(&all.ports);
    ports.extend(dhcp);
    let ports = distinct(ports, |port| (within(&all.ports, *port), alone(port)));
    let mut source_ports = edges(&all.source_ports);
    source_ports.extend(dhcp);
    let source_ports = distinct(source_ports, |port| (within(&all.source_ports, *port), alone(port)));

    let mut what: Vec<Case> = Vec::new();
    for protocol in [6, 17] {
        for dport in &ports {
            for sport in &source_ports {
                let case = Case { protocol, dport: *dport, sport: *sport, ..base.clone() };
                if protocol == 17 && dhcp.contains(dport) && dhcp.contains(sport) {
                    what.push(Case { part: Part::First, ..case.clone() });
                }
                what.push(case);
            }
        }
    }
    let mut kinds = vec![(200, 200)];
    for (kind, code) in &all.types {
        kinds.extend([(*kind, code.unwrap_or(0)), (*kind, 77)]);
    }
    if v6 {
        kinds.extend([(130, 0), (135, 0), (143, 0)]);
    }
    let kinds = distinct(kinds, |kind| *kind);
    for kind in kinds {
        let case = Case { protocol: if v6 { 58 } else { 1 }, icmp: kind, flags: 0, ..base.clone() };
        if v6 && matches!(kind.0, 130..=137 | 143) {
            for hop_limit in [1, 255] {
                what.push(Case { hop_limit, ..case.clone() });
            }
            what.push(Case { hop_limit: 255, part: Part::First, ..case.clone() });
        }
        what.push(case);
    }
    let mut protocols = all.protocols.clone();
    protocols.extend([6, 17, 1, 58, 47, 252]);
    for protocol in distinct(protocols, |protocol| *protocol) {
        let header = v6 && [0, 43, 44, 60].contains(&protocol);
        let later = Case { protocol, part: Part::Later, flags: 0, ..base.clone() };
        what.push(Case { hidden: header.then_some(protocol), protocol: if header { 6 } else { protocol }, ..later });
        if !header && !matches!(protocol, 6 | 17) && protocol != if v6 { 58 } else { 1 } {
            what.push(Case { protocol, flags: 0, ..base.clone() });
        }
    }
    if v6 {
        what.push(Case { protocol: 6, part: Part::Later, hidden: Some(60), flags: 0, ..base.clone() });
    }
    let cases = addresses.iter().flat_map(|remote| what.iter().map(|case| Case { remote: *remote, ..case.clone() }));
    cases.collect()
}

/// A policy as it is after an edit: rules go, come, move and change, groups and exemptions too, now and then the settings.
pub fn edited(random: &mut Random, interface: &Interface) -> Interface {
    let mut edited = interface.clone();
    let other = generate::interface(random, 4, 4);
    let other = generate::layered(random, other);
    let mut nacl = Nacl::clone(&edited.nacl);
    for (rules, new) in [(&mut nacl.inbound, &other.nacl.inbound), (&mut nacl.outbound, &other.nacl.outbound)] {
        for rule in rules.iter_mut() {
            match random.below(12) {
                0 => rule.action = if rule.action == Action::Allow { Action::Deny } else { Action::Allow },
                1 => rule.cidr = rule.cidr.supernet().unwrap_or(rule.cidr),
                2 => rule.ports = rule.ports.map(|(first, last)| (first, last.saturating_add(1))),
                _ => {}
            }
        }
        rules.retain(|_| !random.once_in(10));
        if random.once_in(2) {
            for rule in new {
                if rules.iter().all(|old| old.number != rule.number) {
                    rules.push(rule.clone());
                }
            }
        }
        rules.sort_by_key(|rule| rule.number);
    }
    edited.nacl = Arc::new(nacl);
    for group in edited.groups.iter_mut().flatten() {
        let mut changed = Group::clone(group);
        changed.inbound.retain(|_| !random.once_in(8));
        changed.outbound.retain(|_| !random.once_in(8));
        *group = Arc::new(changed);
    }
    edited.exemptions.retain(|_| !random.once_in(6));
    match random.below(16) {
        0 => edited.groups = other.groups,
        1 => edited.exemptions = other.exemptions,
        2 => edited.aws = !edited.aws,
        3 => edited.layers = *random.pick(&[Layers::Both, Layers::Nacl, Layers::Groups]),
        4 => edited.mode = if edited.mode == Mode::Stateful { Mode::Stateless } else { Mode::Stateful },
        5 => edited.subnet_cidrs = other.subnet_cidrs,
        _ => {}
    }
    edited
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// How often each thing was met.
pub type Met = BTreeMap<&'static str, u64>;

/// Checks so many random policies, told apart by their seeds: on as many cores as there are; what was met is summed up.
pub fn on_all_cores(count: u64, check: impl Fn(u64, &mut Met) + Sync) -> Met {
    let seed = setting("NACLD_SEED", 2026) << 32;
    let workers = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let mut all = Met::new();
    thread::scope(|scope| {
        let check = &check;
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || {
                    let mut met = Met::new();
                    (worker..count).step_by(workers as usize).for_each(|at| check(seed + at, &mut met));
                    met
                })
            })
            .collect();
        for worker in workers {
            for (name, count) in worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                *all.entry(name).or_default() += count;
            }
        }
    });
    println!("{all:#?}");
    all
}
