//! The way back: whether who asks is answered. A network ACL remembers nothing (N8), so requests that one list lets pass have replies
//! that the other must let pass, to ports that clients of each kind pick in their own way. Asked of stateless lists only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use nacl_common::{Action, Direction, Family, Fragment, Packet};

use super::{
    LABELS, list_of,
    role::{self, Role, UNANSWERED},
    shares::{Ports, Shares},
    view::View,
};
use crate::{
    analyze::{
        Flow, NewRule, address,
        sets::{Addresses, Mark, Region, Space},
        smallest_fix,
    },
    clients::Client,
    compile::{Decider, compile},
    policy::{Diagnostic, codes, codes::Code},
    report::rule::{protocol_name, rule_toml},
    resolve::{Interface, Nacl, Protocol, Rule, Side},
};

/// Flags of the second packet of a TCP connection.
const SYN_ACK: u8 = 0x12;

/// The systems most people use.
const USUAL: [Client; 3] = [Client::Linux, Client::Windows, Client::Macos];

/// What else there is, and AWS's own.
const RARE: [Client; 5] = [Client::NatGateway, Client::Elb, Client::Lambda, Client::Freebsd, Client::WindowsXp];

/// Requests that a rule lets pass and whose replies do not all.
struct Broken<'v> {
    rule: &'v Rule,
    protocol: u8,
    request: Packet,
    shares: Shares,
    /// Ports that are answered, of the worst addresses.
    ports: Ports,
    /// Whether other addresses have more.
    partly: bool,
}

/// Both directions of requests.
pub(super) fn check(view: &View, found: &mut Vec<Diagnostic>) {
    if view.stateful {
        return;
    }
    for direction in Direction::ALL {
        let mut groups: BTreeMap<(&'static str, Shares), Vec<Broken<'_>>> = BTreeMap::new();
        let mut pings = Vec::new();
        for family in [Family::V4, Family::V6] {
            let Some(asked) = Asked::of(view, direction, family) else { continue };
            for broken in asked.broken() {
                if let Some(code) = code(view, direction, &broken) {
                    groups.entry((code.id, broken.shares.clone())).or_default().push(broken);
                }
            }
            pings.extend(asked.pings());
        }
        for ((code, _), group) in groups {
            let code = Code::of(code).expect("one of ours");
            found.push(diagnostic(view, direction, code, &group));
        }
        found.extend(pings.into_iter().map(|(rule, request)| ping(view, direction, rule, &request)));
    }
}

/// All requests of one direction and family, and which replies pass.
struct Asked<'v> {
    view: &'v View,
    direction: Direction,
    /// One request for each distinct remote address, rule and protocol.
    requests: BTreeMap<(u16, u8), Vec<Packet>>,
    /// A remote address each, as packets.
    remotes: Vec<Packet>,
    replies: Replies,
}

/// Which ports of whom replies may go to.
struct Replies {
    regions: Vec<(Addresses, ByProtocol)>,
}

/// Port ranges of TCP and UDP.
type ByProtocol = [(u8, Vec<(u16, u16)>); 2];

impl Replies {
    fn ports(&self, remote: IpAddr, protocol: u8) -> Ports {
        let own = self.regions.iter().filter(|(addresses, _)| addresses.contains(remote));
        let ranges = own.flat_map(|(_, ports)| ports).filter(|(other, _)| *other == protocol);
        Ports::new(ranges.flat_map(|(_, ranges)| ranges.iter().copied()).collect())
    }
}

/// The interface with its lists changed over: what comes back is asked in the direction of what goes.
fn changed_over(interface: &Interface) -> Interface {
    let nacl = Nacl {
        inbound: interface.nacl.outbound.clone(),
        outbound: interface.nacl.inbound.clone(),
        ..Nacl::clone(&interface.nacl)
    };
    Interface { nacl: Arc::new(nacl), ..interface.clone() }
}

impl<'v> Asked<'v> {
    fn of(view: &'v View, direction: Direction, family: Family) -> Option<Self> {
        let v6 = family == Family::V6;
        let rules = view.interface.nacl.rules(direction);
        if !rules.iter().any(|rule| rule.line > 0 && rule.cidr.addr().is_ipv6() == v6) {
            return None;
        }
        // Both lists are asked in one space, so that its addresses are cut as finely as both need.
        let back = changed_over(&view.interface);
        let compiled = compile(&back, None).ok()?;
        let space = Space::of(&[(&view.interface, &view.compiled), (&back, &compiled)], direction, family).ok()?;
        let mut requests: BTreeMap<(u16, u8), Vec<Packet>> = BTreeMap::new();
        let mut remotes: Vec<Packet> = Vec::new();
        let remote = |packet: &Packet| if direction == Direction::Inbound { packet.src } else { packet.dst };
        let mut seen: BTreeSet<(u16, u8)> = BTreeSet::new();
        for cell in space.cells() {
            let packet = cell.packet;
            if remotes.last().is_none_or(|last| remote(last) != remote(&packet)) {
                remotes.push(packet);
                seen.clear();
            }
            if !matches!(packet.protocol, 6 | 17) || packet.fragment == Fragment::Later {
                continue;
            }
            if let (true, Decider::Nacl { number, .. }) = view.judge(direction, &packet)
                && seen.insert((number, packet.protocol))
            {
                requests.entry((number, packet.protocol)).or_default().push(packet);
            }
        }
        let passes: Vec<Region<()>> = space.regions(|packet, verdicts| {
            let whole = matches!(packet.protocol, 6 | 17) && packet.fragment != Fragment::Later;
            let back = verdicts.get(1).is_some_and(|verdict| verdict.action == Action::Allow);
            if whole && back { Mark::In(()) } else { Mark::Not }
        });
        let regions = passes
            .into_iter()
            .flat_map(|region| region.boxes)
            .map(|one| (one.addresses, [6, 17].map(|protocol| (protocol, one.traffic.ports(protocol)))))
            .collect();
        Some(Self { view, direction, requests, remotes, replies: Replies { regions } })
    }

    fn remote(&self, packet: &Packet) -> IpAddr {
        address(packet.family, if self.direction == Direction::Inbound { packet.src } else { packet.dst })
    }

    /// For every rule that lets requests pass: its worst answered addresses, where any port there lacks.
    fn broken(&self) -> Vec<Broken<'v>> {
        let mut all = Vec::new();
        for ((number, protocol), packets) in &self.requests {
            let Some(rule) = self.view.rule_of(self.direction, *number).filter(|rule| rule.line > 0) else { continue };
            let Some(part) = role::of_rule(rule).filter(|role| *role != Role::Replies) else { continue };
            // A rule for every protocol is for whichever is used, in whichever way.
            let meant: &[u8] = if rule.protocol == Protocol::All { &[6, 17] } else { &[*protocol] };
            if part == Role::Either && meant.iter().any(|protocol| self.serves_replies(rule, *protocol)) {
                continue;
            }
            let ones = rule.ports.filter(|(first, last)| first == last).map(|(port, _)| port);
            if *protocol == 17 && ones.is_some_and(|port| UNANSWERED.contains(&port)) {
                continue;
            }
            let mut worst: Option<Broken<'v>> = None;
            let mut best = 0;
            for request in packets {
                let ports = self.replies.ports(self.remote(request), *protocol);
                let shares = Shares::of(&ports);
                if shares.nobody() && self.is_refused(request) {
                    continue;
                }
                let answered =
                    |protocol: &u8| !Shares::of(&self.replies.ports(self.remote(request), *protocol)).nobody();
                if part == Role::Either && meant.iter().any(answered) {
                    continue;
                }
                best = shares.sum().max(best);
                if worst.as_ref().is_none_or(|worst| shares.sum() < worst.shares.sum()) {
                    let request = self.view.usual(self.direction, request);
                    worst = Some(Broken { rule, protocol: *protocol, request, shares, ports, partly: false });
                }
            }
            all.extend(worst.map(|worst| Broken { partly: best > worst.shares.sum(), ..worst }));
        }
        all
    }

    /// Whether a rule that opens all ports is what lets in the replies to what the other list opens.
    fn serves_replies(&self, rule: &Rule, protocol: u8) -> bool {
        let v6 = rule.cidr.addr().is_ipv6();
        let others = self.view.interface.nacl.rules(self.direction.reverse()).iter();
        others
            .filter(|other| other.action == Action::Allow && other.cidr.addr().is_ipv6() == v6)
            .filter(|other| matches!(other.protocol, Protocol::All) || other.protocol == Protocol::Number(protocol))
            .any(|other| role::of_rule(other) == Some(Role::Service))
    }

    /// Whether rules that somebody wrote deny every reply to this address: it is refused, and meant to be.
    fn is_refused(&self, request: &Packet) -> bool {
        [1024, 5000, 32768, 50000, 65535].into_iter().all(|port| {
            let (allow, by) = self.view.judge(self.direction.reverse(), &reply(request, port));
            !allow && matches!(by, Decider::Nacl { .. })
        })
    }

    /// Rules about ICMP that let echo requests pass whose answers do not.
    fn pings(&self) -> Vec<(&'v Rule, Packet)> {
        let mut found: BTreeMap<u16, (&'v Rule, Packet)> = BTreeMap::new();
        for packet in &self.remotes {
            let request = echo(packet, true);
            let (allow, by) = self.view.judge(self.direction, &request);
            let Decider::Nacl { number, .. } = by else { continue };
            let Some(rule) = self.view.rule_of(self.direction, number) else { continue };
            let about = matches!(rule.protocol, Protocol::Number(1 | 58)) && rule.line > 0;
            let (answered, by) = self.view.judge(self.direction.reverse(), &answer(&request));
            if allow && about && !answered && matches!(by, Decider::NaclImplied { .. }) {
                found.entry(number).or_insert((rule, request));
            }
        }
        found.into_values().collect()
    }
}

/// What comes back to a port.
fn reply(request: &Packet, port: u16) -> Packet {
    let tcp_flags = if request.protocol == 6 { SYN_ACK } else { 0 };
    Packet { src: request.dst, dst: request.src, sport: request.dport, dport: port, tcp_flags, ..*request }
}

/// An echo request between the ends of a packet, or its answer.
fn echo(packet: &Packet, request: bool) -> Packet {
    let (protocol, kind) = match (packet.family == Family::V6, request) {
        (false, true) => (1, 8_u16),
        (false, false) => (1, 0),
        (true, true) => (58, 128),
        (true, false) => (58, 129),
    };
    Packet { protocol, dport: kind << 8, sport: 0, tcp_flags: 0, fragment: Fragment::None, hop_limit: 64, ..*packet }
}

fn answer(request: &Packet) -> Packet {
    echo(&Packet { src: request.dst, dst: request.src, ..*request }, false)
}

/// What is to be said of it, if anything.
fn code(view: &View, direction: Direction, broken: &Broken<'_>) -> Option<&'static Code> {
    let Broken { shares, rule, .. } = broken;
    let everybody = rule.cidr.prefix_len() == 0;
    let usual = |whole: bool| USUAL.into_iter().any(|client| shares.whole(client) == whole);
    match (direction, view.interface.side) {
        (Direction::Inbound, _) if shares.nobody() => Some(&codes::REPLIES_DENIED),
        // Who is let in by its network is known, and so may be what it runs.
        (Direction::Inbound, _) if !everybody && shares.somebody_whole() => None,
        (Direction::Inbound, _) if usual(false) => Some(&codes::REPLIES_CUT),
        (Direction::Inbound, _) => {
            let lacks = everybody && RARE.into_iter().any(|client| !shares.whole(client));
            lacks.then_some(&codes::REPLIES_RARE)
        }
        // This machine runs Linux; what stands behind a router may run anything.
        (Direction::Outbound, Side::Host) if shares.whole(Client::Linux) => None,
        (Direction::Outbound, Side::Router) if usual(true) => None,
        (Direction::Outbound, Side::Host) if shares.none(Client::Linux) => Some(&codes::ANSWERS_DENIED),
        (Direction::Outbound, _) if shares.nobody() => Some(&codes::ANSWERS_DENIED),
        (Direction::Outbound, _) => Some(&codes::ANSWERS_CUT),
    }
}

/// `tcp 443`, `tcp 8000-8099`, `udp`.
fn service(rule: &Rule, protocol: u8) -> String {
    let name = protocol_name(protocol);
    match rule.ports {
        Some((first, last)) if first == last => format!("{name} {first}"),
        Some((first, last)) if (first, last) != (0, u16::MAX) => format!("{name} {first}-{last}"),
        _ => name,
    }
}

fn diagnostic(view: &View, direction: Direction, code: &'static Code, group: &[Broken<'_>]) -> Diagnostic {
    let Broken { rule, request, shares, ports, .. } = &group[0];
    let way = if direction == Direction::Inbound { "in" } else { "out" };
    let numbers: BTreeSet<u16> = group.iter().map(|one| one.rule.number).collect();
    let numbers: Vec<_> = numbers.iter().map(u16::to_string).collect();
    let (rules, let_pass) = if numbers.len() == 1 { ("rule", "lets") } else { ("rules", "let") };
    let services: BTreeSet<_> = group.iter().map(|one| service(one.rule, one.protocol)).collect();
    let services: Vec<_> = services.into_iter().collect();
    let head = format!("{} {rules} {} {let_pass} {} {way}", direction.name(), list_of(&numbers), list_of(&services));
    let kinds: &[Client] = match (direction, view.interface.side) {
        (Direction::Outbound, Side::Host) => &[Client::Linux],
        _ => &[Client::Linux, Client::Windows, Client::Macos, Client::NatGateway, Client::Freebsd, Client::WindowsXp],
    };
    let (client, port) = ports.lacks(kinds).unwrap_or((Client::Any, u16::MAX));
    let some = if shares.none(client) { "no port" } else { "a part of the ports" };
    let whom = match (group.iter().any(|one| one.partly), direction) {
        (false, _) => "",
        (true, Direction::Inbound) => " to some of the addresses",
        (true, Direction::Outbound) => " from some of the addresses",
    };
    let message = match code.id {
        id if id == codes::REPLIES_DENIED.id => format!("{head}, and no reply gets out{whom}"),
        id if id == codes::ANSWERS_DENIED.id => format!("{head}, and no answer gets back in{whom}"),
        id if id == codes::ANSWERS_CUT.id => format!("{head}, and answers get back in to {some} of {}", client.title()),
        _ => format!("{head}, and replies get out to {some} of {}", client.title()),
    };
    let back = reply(request, port);
    let whose = if direction == Direction::Inbound { "replies" } else { "answers" };
    let mut diagnostic = Diagnostic::new(code, rule.span.clone(), message).at(format!("requests get {way} here"));
    let mut shown: BTreeSet<u16> = [rule.number].into();
    for other in group.iter().filter(|one| shown.insert(one.rule.number)).take(LABELS) {
        diagnostic = diagnostic.and(other.rule.span.clone(), "here too");
    }
    let end = match view.rule(direction.reverse(), &back) {
        Some(denies) if denies.line > 0 => {
            diagnostic = diagnostic.and(denies.span.clone(), format!("{whose} are denied here"));
            format!("rule {} denies them", denies.number)
        }
        _ => "`*` denies what no rule allows".to_owned(),
    };
    diagnostic = if shares.nobody() {
        diagnostic.note(format!(
            "a network ACL remembers nothing: {whose} go to the port that the asking side picked, and {end} (N8, N23)"
        ))
    } else {
        diagnostic.note(format!("ports that are answered: {shares}; of the others {end} (N8, N23)"))
    };
    // One rule mends one protocol of one family.
    let mut kinds_of = BTreeSet::new();
    let ends = group.iter().filter(|one| kinds_of.insert((one.protocol, one.request.family as u8)));
    let asked = ends.map(|one| {
        let (client, port) = one.ports.lacks(kinds).unwrap_or((Client::Any, u16::MAX));
        (one.request, port, client)
    });
    if let Some(help) = help(view, direction, asked) {
        diagnostic = diagnostic.help(help);
    }
    diagnostic.proved_by([
        view.example(direction, &Packet { sport: port, ..*request }),
        view.example(direction.reverse(), &back),
    ])
}

fn ping(view: &View, direction: Direction, rule: &Rule, request: &Packet) -> Diagnostic {
    let (way, back) = if direction == Direction::Inbound { ("in", "out") } else { ("out", "in") };
    let mut diagnostic = Diagnostic::new(
        &codes::PING_DENIED,
        rule.span.clone(),
        format!("{} rule {} lets pings {way}, and their answers do not get {back}", direction.name(), rule.number),
    )
    .at("echo requests pass here")
    .note("a network ACL remembers nothing: an echo reply needs a rule of its own in the other list (N8)");
    if let Some(help) = help(view, direction, [(*request, 0, Client::Any)]) {
        diagnostic = diagnostic.help(help);
    }
    diagnostic.proved_by([view.example(direction, request), view.example(direction.reverse(), &answer(request))])
}

/// The smallest rules that let replies pass, tried in the engine one after the other; they let more pass, so nobody but the author may
/// add them. `asked`: a request, the port it comes from, and whose port that is.
fn help(view: &View, direction: Direction, asked: impl IntoIterator<Item = (Packet, u16, Client)>) -> Option<String> {
    let mut interface = view.interface.clone();
    let mut rules = Vec::new();
    for (request, port, client) in asked {
        let flow = Flow {
            protocol: request.protocol,
            source: address(request.family, request.src),
            destination: address(request.family, request.dst),
            sport: port,
            dport: request.dport,
        };
        // Who is served is not known, but who asks from here is.
        let client = if direction == Direction::Outbound { client } else { Client::Any };
        let Some(fix) = smallest_fix(&interface, flow, direction, Some(client)) else { continue };
        for rule in fix.rules {
            interface = rule.added_to(&interface);
            if let NewRule::Nacl { direction, rule, .. } = rule {
                rules.push(format!("{} to `{}`", rule_toml(&rule, direction), direction.name()));
            }
        }
    }
    (!rules.is_empty()).then(|| format!("add {}", rules.join(", and ")))
}
