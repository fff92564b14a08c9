//! What was left half open, or opened wider than it need be: one of two protocols, one of two families, every port, and messages
//! about packets that are too big.

use std::collections::BTreeMap;

use nacl_common::{Action, Direction, Family, Fragment, Packet};

use super::{
    LABELS, list_of,
    role::{self, Role},
    view::View,
};
use crate::{
    analyze::{number, sets::Space},
    compile::Decider,
    policy::{Diagnostic, codes},
    report::rule::protocol_name,
    resolve::{Protocol, Rule},
};

/// Services that use TCP and UDP: clients ask by one, and go on by the other. `both`: TCP alone is not enough either; a browser
/// that gets no HTTP/3 (UDP 443) stays with HTTP/2.
const TWICE: [Twice; 5] = [
    Twice { name: "DNS", port: 53, both: true },
    Twice { name: "Kerberos", port: 88, both: true },
    Twice { name: "HTTP/3", port: 443, both: false },
    Twice { name: "Kerberos passwords", port: 464, both: true },
    Twice { name: "SIP", port: 5060, both: true },
];

/// Services that are denied for one protocol and reached by the other: remote desktop speaks UDP too.
const RDP: u16 = 3389;

/// Ports of DHCP, which are others on IPv4 and on IPv6.
const OF_ONE_FAMILY: [u16; 4] = [67, 68, 546, 547];

struct Twice {
    name: &'static str,
    port: u16,
    both: bool,
}

/// Both lists of a network ACL.
pub(super) fn check(view: &View, found: &mut Vec<Diagnostic>) {
    let both = Direction::ALL.map(|direction| (direction, decided(view, direction)));
    for (direction, decided) in &both {
        one_protocol(view, *direction, decided, found);
        one_family(view, *direction, decided, found);
        too_wide(view, *direction, decided, found);
    }
    mtu(view, &both, found);
}

/// By rule: the packets of TCP and UDP, one of each cell, that it decides.
type Decided<'v> = BTreeMap<u16, (&'v Rule, Vec<Packet>)>;

fn decided(view: &View, direction: Direction) -> Decided<'_> {
    let mut all: Decided<'_> = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        let rules = view.interface.nacl.rules(direction);
        if !rules.iter().any(|rule| rule.line > 0 && rule.cidr.addr().is_ipv6() == (family == Family::V6)) {
            continue;
        }
        let Ok(space) = Space::of(&[(&view.interface, &view.compiled)], direction, family) else { continue };
        for packet in space.cells().map(|cell| cell.packet) {
            if matches!(packet.protocol, 6 | 17)
                && packet.fragment != Fragment::Later
                && let Some(rule) = view.rule(direction, &packet).filter(|rule| rule.line > 0)
            {
                all.entry(rule.number).or_insert_with(|| (rule, Vec::new())).1.push(packet);
            }
        }
    }
    all
}

/// A packet to another port, or of another protocol, between the same ends.
fn with(packet: &Packet, protocol: u8, port: u16) -> Packet {
    Packet {
        protocol,
        dport: port,
        tcp_flags: if protocol == 6 { nacl_common::packet::tcp::SYN } else { 0 },
        ..*packet
    }
}

fn one_protocol(view: &View, direction: Direction, decided: &Decided<'_>, found: &mut Vec<Diagnostic>) {
    let way = if direction == Direction::Inbound { "in" } else { "out" };
    for (rule, packets) in decided.values() {
        let (Protocol::Number(protocol @ (6 | 17)), Some((first, last))) = (rule.protocol, rule.ports) else {
            continue;
        };
        let other = if protocol == 6 { 17 } else { 6 };
        let [this, that] = [protocol, other].map(protocol_name);
        let own = |port: u16| {
            let mut packets = packets.iter().map(|packet| with(packet, protocol, port));
            packets.find(|packet| view.rule(direction, packet).is_some_and(|decider| decider.number == rule.number))
        };
        if rule.action == Action::Deny {
            let Some(packet) = own(RDP).filter(|_| first == last && first == RDP) else { continue };
            let passing = with(&packet, other, RDP);
            if let Some(lets) = view.rule(direction, &passing).filter(|lets| lets.action == Action::Allow)
                && lets.protocol != Protocol::All
            {
                let message = format!(
                    "{} rule {} denies {this} {RDP}, and remote desktop gets {way} by {that}",
                    direction.name(),
                    rule.number
                );
                found.push(
                    Diagnostic::new(&codes::ONE_PROTOCOL, rule.span.clone(), message)
                        .at(format!("{this} only"))
                        .and(lets.span.clone(), format!("lets {that} {RDP} {way}"))
                        .help(format!("deny {that} {RDP} before rule {} too", lets.number))
                        .proved_by([view.example(direction, &packet), view.example(direction, &passing)]),
                );
            }
            continue;
        }
        if role::role(rule.ports) != Role::Service {
            continue;
        }
        for twice in TWICE.iter().filter(|twice| (first..=last).contains(&twice.port)) {
            if protocol == 6 && !twice.both {
                continue;
            }
            let Some(packet) = own(twice.port) else { continue };
            let missing = with(&packet, other, twice.port);
            // What a written rule denies is meant.
            let (allow, by) = view.judge(direction, &missing);
            if allow || !matches!(by, Decider::NaclImplied { .. }) {
                continue;
            }
            let message = format!(
                "{} rule {} lets {this} {} {way} and no rule lets {that} {}: {} uses both",
                direction.name(),
                rule.number,
                twice.port,
                twice.port,
                twice.name
            );
            found.push(
                Diagnostic::new(&codes::ONE_PROTOCOL, rule.span.clone(), message)
                    .at(format!("{this} only"))
                    .help(format!("add the same rule for {that}{}", and_back(view, direction, &[missing])))
                    .proved_by([view.example(direction, &packet), view.example(direction, &missing)]),
            );
        }
    }
}

/// What is to be added beside a rule that lets these requests pass: one for their replies, where the list has none and does not
/// remember whom it let pass.
fn and_back(view: &View, direction: Direction, requests: &[Packet]) -> &'static str {
    let passes = |request: &Packet| {
        let Packet { src, dst, sport, dport, .. } = *request;
        let reply = Packet { src: dst, dst: src, sport: dport, dport: sport, ..*request };
        view.judge(direction.reverse(), &reply).0
    };
    if view.stateful {
        "; replies are remembered, and need none"
    } else if requests.iter().all(passes) {
        "; a rule for its replies is there"
    } else {
        ", and one for its replies"
    }
}

/// Somebody on the internet, of either family.
fn everybody(packet: &Packet, direction: Direction, family: Family) -> Packet {
    let (remote, local) = match family {
        Family::V6 => ("2001:db8::7", "fd00::a"),
        Family::V4 => ("198.51.100.7", "10.0.0.10"),
    };
    let [remote, local] = [remote, local].map(|address| number(address.parse().expect("an address")));
    let (src, dst) = if direction == Direction::Inbound { (remote, local) } else { (local, remote) };
    Packet { family, src, dst, ..*packet }
}

fn one_family(view: &View, direction: Direction, decided: &Decided<'_>, found: &mut Vec<Diagnostic>) {
    let is_service = |rule: &Rule| {
        rule.action == Action::Allow
            && role::of_rule(rule) == Some(Role::Service)
            && rule.cidr.prefix_len() == 0
            && !rule.ports.is_some_and(|(first, last)| first == last && OF_ONE_FAMILY.contains(&first))
    };
    let v6 = |rule: &Rule| rule.cidr.addr().is_ipv6();
    for family in [Family::V4, Family::V6] {
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let [open, closed] = if family == Family::V4 { ["IPv4", "IPv6"] } else { ["IPv6", "IPv4"] };
        // Only where the other family is served at all.
        if !decided.values().any(|(rule, _)| is_service(rule) && v6(rule) == (other == Family::V6)) {
            continue;
        }
        let half: Vec<_> = decided
            .values()
            .filter(|(rule, _)| is_service(rule) && v6(rule) == (family == Family::V6))
            .filter_map(|(rule, packets)| {
                let packet = packets.first()?;
                let missing = everybody(packet, direction, other);
                let (allow, by) = view.judge(direction, &missing);
                (!allow && matches!(by, Decider::NaclImplied { .. })).then_some((*rule, *packet, missing))
            })
            .collect();
        let Some((rule, packet, missing)) = half.first() else { continue };
        let missings: Vec<_> = half.iter().map(|(.., missing)| *missing).collect();
        let numbers: Vec<_> = half.iter().map(|(rule, ..)| rule.number.to_string()).collect();
        let message = format!(
            "{} {} {} open to everybody on {open}, and closed on {closed}",
            direction.name(),
            if half.len() == 1 { "rule" } else { "rules" },
            list_of(&numbers) + if half.len() == 1 { " is" } else { " are" },
        );
        let mut diagnostic = Diagnostic::new(&codes::ONE_FAMILY, rule.span.clone(), message)
            .at(format!("every {open} address"))
            .note(format!(
                "a rule belongs to the family of its CIDR, and the list lets other services pass on {closed} (N24)"
            ))
            .help(format!("add the same rule for the other family{}", and_back(view, direction, &missings)));
        for (rule, ..) in half.iter().skip(1).take(LABELS) {
            diagnostic = diagnostic.and(rule.span.clone(), "likewise");
        }
        found.push(diagnostic.proved_by([view.example(direction, packet), view.example(direction, missing)]));
    }
}

/// Ports no client picks for itself.
const SERVICES: u16 = 1024;

fn too_wide(view: &View, direction: Direction, decided: &Decided<'_>, found: &mut Vec<Diagnostic>) {
    // Where security groups judge too they do the work.
    if view.groups {
        return;
    }
    let way = if direction == Direction::Inbound { "in" } else { "out" };
    for (rule, packets) in decided.values() {
        let all = rule.ports.is_none_or(|(first, last)| first < SERVICES && last == u16::MAX && first <= 1);
        let Protocol::Number(protocol @ (6 | 17)) = rule.protocol else { continue };
        if !all || rule.action != Action::Allow || rule.cidr.prefix_len() != 0 {
            continue;
        }
        let own = |port: u16| {
            let mut packets = packets.iter().map(|packet| with(packet, protocol, port));
            packets.find(|packet| view.rule(direction, packet).is_some_and(|decider| decider.number == rule.number))
        };
        let Some(packet) = [22, 445, 111, 23, 1].into_iter().find_map(own) else { continue };
        found.push(
            Diagnostic::new(
                &codes::TOO_WIDE,
                rule.span.clone(),
                format!(
                    "{} rule {} lets every {} port {way}, for everybody",
                    direction.name(),
                    rule.number,
                    protocol_name(protocol)
                ),
            )
            .at("services' ports too")
            .note("no client picks a port below 1024 to be answered on")
            .help("for replies `ports = \"ephemeral:any\"` will do; for services, a rule for each")
            .proved_by([view.example(direction, &packet)]),
        );
    }
}

/// "Packet too big", from a remote address to a local one.
pub(super) fn too_big(packet: &Packet) -> Packet {
    let (protocol, dport) = if packet.family == Family::V6 { (58, 2 << 8) } else { (1, 3 << 8 | 4) };
    Packet { protocol, dport, sport: 0, tcp_flags: 0, fragment: Fragment::None, hop_limit: 64, ..*packet }
}

fn mtu(view: &View, both: &[(Direction, Decided<'_>)], found: &mut Vec<Diagnostic>) {
    let mut served: BTreeMap<bool, (&Rule, Packet)> = BTreeMap::new();
    for (direction, decided) in both {
        for (rule, packets) in decided.values() {
            let tcp = packets.iter().find(|packet| packet.protocol == 6);
            let service = role::of_rule(rule) != Some(Role::Replies);
            // Inside a VPC links have one size; what goes over the internet crosses smaller ones.
            if let Some(packet) = tcp.filter(|_| rule.action == Action::Allow && rule.cidr.prefix_len() == 0 && service)
            {
                let (remote, local) =
                    if *direction == Direction::Inbound { (packet.src, packet.dst) } else { (packet.dst, packet.src) };
                let message = too_big(&Packet { src: remote, dst: local, ..*packet });
                let (allow, by) = view.judge(Direction::Inbound, &message);
                if !allow && matches!(by, Decider::NaclImplied { .. }) {
                    served.entry(rule.cidr.addr().is_ipv6()).or_insert((*rule, message));
                }
            }
        }
    }
    let Some((rule, _)) = served.values().next() else { return };
    let mut diagnostic = Diagnostic::new(
        &codes::MTU_BLOCKED,
        rule.span.clone(),
        format!("network ACL {:?} does not let \"packet too big\" in", view.interface.nacl.name),
    )
    .at("over the internet, packets may be too big for a link")
    .note("routers say so by ICMP type 3 code 4, on IPv6 by ICMPv6 type 2; without it connections hang once they carry data (N47)")
    .help(message_help(served.keys().copied()));
    for (rule, _) in served.values().skip(1) {
        diagnostic = diagnostic.and(rule.span.clone(), "on this family too");
    }
    let examples: Vec<_> = served.values().map(|(_, message)| view.example(Direction::Inbound, message)).collect();
    found.push(diagnostic.proved_by(examples));
}

/// The rule that lets the message in, of each family that needs it.
pub(super) fn message_help(families: impl Iterator<Item = bool>) -> String {
    let rules: Vec<_> = families
        .map(|v6| {
            if v6 {
                "`protocol = \"icmpv6\", icmp = { type = 2, code = 0 }, source = \"::/0\"`".to_owned()
            } else {
                "`protocol = \"icmp\", icmp = { type = 3, code = 4 }, source = \"0.0.0.0/0\"`".to_owned()
            }
        })
        .collect();
    format!("allow {} inbound; AWS advises both directions", rules.join(" and "))
}
