//! The naive evaluator: AWS's documented rules as loops over what was written. Deliberately slow, and sharing no code
//! with the engine; where the two differ, one of them is wrong. Here a packet is judged by what is written and by what is
//! known of its connection; how that comes to be known is in `memory`.

use std::net::IpAddr;

use nacl_common::{Action, Direction, Layer, border::Service};
use nacl_daemon::resolve::{Exemption, GroupRule, Icmp, Interface, Layers, Mode, Peer, Protocol, Rule};

use super::case::{Case, Flaw, Part};

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decider {
    /// Nothing that has a name.
    Nobody,
    /// A numbered rule of the network ACL.
    Nacl(u16),
    /// Its `*`.
    NaclStar,
    /// The network ACL is not asked inside a subnet.
    SameSubnet,
    /// A rule of the security group at this place among the interface's, by its place among the group's of its direction, from 1.
    Group(usize, u16),
    /// No rule of any group.
    GroupStar,
    /// A connection that was let through before.
    Tracked,
    /// The exemption at this place of the interface's.
    Exemption(usize),
}

/// What is known of the packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Met {
    Nothing,
    Unknown,
    New,
    Forward,
    Reply,
}

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub allow: bool,
    pub reason: &'static str,
    pub layer: Layer,
    /// What decided.
    pub by: Decider,
    /// What of the other layer let it pass before.
    pub also: Decider,
    pub met: Met,
}

impl Expected {
    /// Number of the network ACL's rule, where one decided.
    pub fn rule(&self) -> Option<u16> {
        match self.by {
            Decider::Nacl(number) => Some(number),
            _ => None,
        }
    }

    fn of_nobody(allow: bool, reason: &'static str, by: Decider) -> Self {
        Self { allow, reason, layer: Layer::None, by, also: Decider::Nobody, met: Met::Nothing }
    }
}

/// What one layer says.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub allow: bool,
    pub reason: &'static str,
    pub by: Decider,
    /// Of a group's rule that lets pass: whether its flows are tracked (S30).
    pub tracked: bool,
}

/// Judges a packet of whose connection nothing is known.
pub fn judge(interface: &Interface, case: &Case) -> Expected {
    if let Some(expected) = before_rules(interface, case) {
        return expected;
    }
    both(case.direction, nacl(interface, case, false), groups(interface, case, false))
}

/// What is decided before any rule: flaws and exemptions.
pub fn before_rules(interface: &Interface, case: &Case) -> Option<Expected> {
    flawed(case)
        .map(|reason| Expected::of_nobody(false, reason, Decider::Nobody))
        .or_else(|| exempt(interface, case).map(|(reason, by)| Expected::of_nobody(true, reason, by)))
}

/// Why a packet cannot be parsed.
pub fn flawed(case: &Case) -> Option<&'static str> {
    Some(match case.flaw {
        Flaw::None => return None,
        Flaw::Cut(length) => {
            let (_, marks) = case.bytes();
            return marks.iter().find(|(end, _)| *end > length).map(|(_, reason)| *reason);
        }
        Flaw::Version | Flaw::HeaderLength | Flaw::TotalLength => "ip-malformed",
        Flaw::Payload(_) if case.part == Part::First => "first-fragment-short",
        Flaw::Payload(_) => "transport-short",
        Flaw::OffsetOne => "tiny-fragment-offset",
        Flaw::Extensions | Flaw::TwoFragments => "extension-headers",
        Flaw::Tags => "vlan-depth",
    })
}

fn exempt(interface: &Interface, case: &Case) -> Option<(&'static str, Decider)> {
    let whole = matches!(case.part, Part::Whole | Part::Atomic);
    if case.v6() && case.has_icmp() && whole {
        match case.icmp.0 {
            133..=137 if case.hop_limit == 255 => return Some(("neighbour-discovery", Decider::Nobody)),
            130..=132 | 143 if case.hop_limit == 1 => return Some(("mld", Decider::Nobody)),
            _ => {}
        }
    }
    if interface.aws && whole && case.protocol == 17 {
        let (here, there) = ends(case);
        if (here, there) == if case.v6() { (546, 547) } else { (68, 67) } {
            return Some(("dhcp", Decider::Nobody));
        }
    }
    for service in [Service::Remote, Service::Local] {
        for (place, exemption) in interface.exemptions.iter().enumerate() {
            if exemption.service == service && exempts(exemption, case) {
                let reason = if exemption.failsafe { "failsafe" } else { "aws-service" };
                return Some((reason, Decider::Exemption(place)));
            }
        }
    }
    None
}

fn exempts(exemption: &Exemption, case: &Case) -> bool {
    let (here, there) = ends(case);
    let port = match exemption.service {
        Service::Remote => there,
        Service::Local => here,
    };
    let what = What { protocol: exemption.protocol, ports: exemption.ports, icmp: None };
    contains(exemption.cidr.addr(), exemption.cidr.prefix_len(), case.remote) && what.is(case, port, false)
}

/// The port at this end and at the other.
pub fn ends(case: &Case) -> (u16, u16) {
    match case.direction {
        Direction::Inbound => (case.dport, case.sport),
        Direction::Outbound => (case.sport, case.dport),
    }
}

/// What the network ACL says; `known`: it remembers that it admitted the connection.
pub fn nacl(interface: &Interface, case: &Case, known: bool) -> Option<Said> {
    let said = |allow, reason, by| Some(Said { allow, reason, by, tracked: false });
    if interface.layers == Layers::Groups {
        return None;
    }
    if interface.mode == Mode::Stateful && known {
        return said(true, "tracked", Decider::Tracked);
    }
    if interface.subnet_cidrs.iter().any(|cidr| contains(cidr.addr(), cidr.prefix_len(), case.remote)) {
        return said(true, "same-subnet", Decider::SameSubnet);
    }
    let rules = match case.direction {
        Direction::Inbound => &interface.nacl.inbound,
        Direction::Outbound => &interface.nacl.outbound,
    };
    let mut best: Option<&Rule> = None;
    for rule in rules {
        if best.is_none_or(|best| rule.number < best.number) && matches(rule, case) {
            best = Some(rule);
        }
    }
    match best {
        Some(rule) => said(rule.action == Action::Allow, "nacl-rule", Decider::Nacl(rule.number)),
        None => said(false, "nacl-implicit-deny", Decider::NaclStar),
    }
}

/// What the security groups say; `known`: they remember that they admitted the connection.
pub fn groups(interface: &Interface, case: &Case, known: bool) -> Option<Said> {
    let groups = interface.groups.as_ref().filter(|_| interface.layers != Layers::Nacl)?;
    if known {
        return Some(Said { allow: true, reason: "tracked", by: Decider::Tracked, tracked: false });
    }
    let mut best: Option<(Permissive, Decider, bool)> = None;
    for (place, group) in groups.iter().enumerate() {
        let rules = match case.direction {
            Direction::Inbound => &group.inbound,
            Direction::Outbound => &group.outbound,
        };
        for (rule, position) in rules.iter().zip(1..) {
            for cidr in &rule.cidrs {
                if !contains(cidr.addr(), cidr.prefix_len(), case.remote) || !what_of(rule).is(case, case.dport, false)
                {
                    continue;
                }
                let open = open(rule);
                let permissive =
                    (!open, cidr.prefix_len(), rule.protocol != Protocol::All, u32::MAX - width(rule, case));
                if best.is_none_or(|(best, ..)| permissive < best) {
                    best = Some((permissive, Decider::Group(place, position), open));
                }
            }
        }
    }
    let Some((_, by, open)) = best else {
        return Some(Said { allow: false, reason: "security-group-no-match", by: Decider::GroupStar, tracked: false });
    };
    let untracked = open && opens_everything(interface, case, other(case.direction));
    Some(Said { allow: true, reason: "security-group-rule", by, tracked: !untracked })
}

/// Whether the packet may well be the answer within an untracked flow: nothing is remembered of those, so nobody knows.
pub fn may_answer_untracked(interface: &Interface, case: &Case) -> bool {
    let reversed = Case { direction: other(case.direction), sport: case.dport, dport: case.sport, ..case.clone() };
    matches!(case.protocol, 6 | 17)
        && groups(interface, &reversed, false).is_some_and(|said| said.allow && !said.tracked)
}

/// How permissive a rule is: not open to everybody, length of the prefix, not all protocols, how few ports. Less is more permissive.
type Permissive = (bool, u8, bool, u32);

/// Ports of a rule, or types and codes of ICMP.
fn width(rule: &GroupRule, case: &Case) -> u32 {
    let icmp = Protocol::Number(if case.v6() { 58 } else { 1 });
    match (rule.protocol, rule.ports, rule.icmp) {
        (Protocol::Number(6 | 17), Some((first, last)), _) => u32::from(last) - u32::from(first) + 1,
        (protocol, _, Some(Icmp { code, .. })) if protocol == icmp => code.map_or(256, |_| 1),
        _ => 65536,
    }
}

/// The rule says 0.0.0.0/0 or ::/0 in so many words.
fn open(rule: &GroupRule) -> bool {
    matches!(rule.peer, Peer::Cidr(cidr) if cidr.prefix_len() == 0)
}

/// Whether a rule of this direction is open to everybody of the packet's family on all ports of its protocol, TCP or UDP (S30).
fn opens_everything(interface: &Interface, case: &Case, direction: Direction) -> bool {
    let everything = |rule: &GroupRule| {
        open(rule)
            && rule.cidrs.iter().any(|cidr| cidr.addr().is_ipv6() == case.v6())
            && match rule.protocol {
                Protocol::All => true,
                Protocol::Number(number) => {
                    number == case.protocol && rule.ports.is_none_or(|ports| ports == (0, 65535))
                }
            }
    };
    matches!(case.protocol, 6 | 17)
        && interface.groups.iter().flatten().any(|group| match direction {
            Direction::Inbound => group.inbound.iter().any(everything),
            Direction::Outbound => group.outbound.iter().any(everything),
        })
}

/// The other direction.
pub fn other(direction: Direction) -> Direction {
    match direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    }
}

/// Both layers in AWS's order (O1): inbound the network ACL first, outbound the groups. A layer that is off says nothing.
pub fn both(direction: Direction, nacl: Option<Said>, groups: Option<Said>) -> Expected {
    let nacl = nacl.map(|said| (said, Layer::Nacl));
    let groups = groups.map(|said| (said, Layer::SecurityGroup));
    let (first, second) = match direction {
        Direction::Inbound => (nacl, groups),
        Direction::Outbound => (groups, nacl),
    };
    let denies = |said: &Option<(Said, Layer)>| said.is_some_and(|(said, _)| !said.allow);
    let (named, passed) = if denies(&first) {
        (first, None)
    } else if denies(&second) {
        (second, first)
    } else if nacl.is_some() {
        (nacl, groups)
    } else {
        (groups, None)
    };
    let Some((said, layer)) = named else {
        return Expected::of_nobody(true, "layer-off", Decider::Nobody);
    };
    // What both remember is told once.
    let also = passed.map_or(Decider::Nobody, |(also, _)| if also.by == said.by { Decider::Nobody } else { also.by });
    Expected { allow: said.allow, reason: said.reason, layer, by: said.by, also, met: Met::Nothing }
}

/// Whether a prefix contains an address, bit by bit.
pub fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => same_bits(&network.octets(), &address.octets(), length),
        (IpAddr::V6(network), IpAddr::V6(address)) => same_bits(&network.octets(), &address.octets(), length),
        _ => false,
    }
}

fn same_bits(one: &[u8], other: &[u8], length: u8) -> bool {
    let bit = |bytes: &[u8], index: u8| bytes[usize::from(index / 8)] >> (7 - index % 8) & 1;
    (0..length).all(|index| bit(one, index) == bit(other, index))
}

fn matches(rule: &Rule, case: &Case) -> bool {
    let what = What { protocol: rule.protocol, ports: rule.ports, icmp: rule.icmp };
    contains(rule.cidr.addr(), rule.cidr.prefix_len(), case.remote)
        && what.is(case, case.dport, rule.action == Action::Deny)
}

/// What a rule asks of a packet, beside the address.
struct What {
    protocol: Protocol,
    ports: Option<(u16, u16)>,
    icmp: Option<Icmp>,
}

fn what_of(rule: &GroupRule) -> What {
    What { protocol: rule.protocol, ports: rule.ports, icmp: rule.icmp }
}

impl What {
    /// `unseen`: whether a packet of which it cannot be seen is one.
    fn is(&self, case: &Case, port: u16, unseen: bool) -> bool {
        let Protocol::Number(protocol) = self.protocol else {
            return true;
        };
        if case.part == Part::Later {
            // Fail closed: what cannot be seen does not satisfy an allow, and does not escape a deny.
            if case.v6() && case.hidden.is_some() {
                return unseen;
            }
            if protocol != case.protocol {
                return false;
            }
            let icmp = if case.v6() { 58 } else { 1 };
            let needs_port = matches!(protocol, 6 | 17) && self.ports.is_some_and(|ports| ports != (0, 65535));
            let needs_type = protocol == icmp && self.icmp.is_some();
            return unseen || !(needs_port || needs_type);
        }
        if protocol != case.protocol {
            return false;
        }
        if case.has_ports() && self.ports.is_some_and(|(first, last)| port < first || port > last) {
            return false;
        }
        if case.has_icmp()
            && let Some(icmp) = self.icmp
        {
            return icmp.kind == case.icmp.0 && icmp.code.is_none_or(|code| code == case.icmp.1);
        }
        true
    }
}
