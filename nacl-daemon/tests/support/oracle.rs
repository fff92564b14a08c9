//! The naive evaluator: AWS's documented rules as a loop over what was written. Deliberately slow, and sharing no code
//! with the engine; where the two differ, one of them is wrong.

use std::net::IpAddr;

use nacl_common::{Action, Direction};
use nacl_daemon::resolve::{Interface, Protocol, Rule};

use super::case::{Case, Flaw, Part};

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub allow: bool,
    pub reason: &'static str,
    /// Number of the rule, where a numbered rule decided.
    pub rule: Option<u16>,
}

/// Judges a packet.
pub fn judge(interface: &Interface, case: &Case) -> Expected {
    let drop = |reason| Expected { allow: false, reason, rule: None };
    match case.flaw {
        Flaw::None => {}
        Flaw::Cut(length) => {
            let (_, marks) = case.bytes();
            if let Some((_, reason)) = marks.iter().find(|(end, _)| *end > length) {
                return drop(reason);
            }
        }
        Flaw::Version | Flaw::HeaderLength | Flaw::TotalLength => return drop("ip-malformed"),
        Flaw::Payload(_) if case.part == Part::First => return drop("first-fragment-short"),
        Flaw::Payload(_) => return drop("transport-short"),
        Flaw::OffsetOne => return drop("tiny-fragment-offset"),
        Flaw::Extensions | Flaw::TwoFragments => return drop("extension-headers"),
        Flaw::Tags => return drop("vlan-depth"),
    }
    if case.v6() && case.has_icmp() && matches!(case.part, Part::Whole | Part::Atomic) {
        let exempt = |reason| Expected { allow: true, reason, rule: None };
        match case.icmp.0 {
            133..=137 if case.hop_limit == 255 => return exempt("neighbour-discovery"),
            130..=132 | 143 if case.hop_limit == 1 => return exempt("mld"),
            _ => {}
        }
    }
    if interface.subnet_cidrs.iter().any(|cidr| contains(cidr.addr(), cidr.prefix_len(), case.remote)) {
        return Expected { allow: true, reason: "same-subnet", rule: None };
    }
    let rules = match case.direction {
        Direction::Inbound => &interface.nacl.inbound,
        Direction::Outbound => &interface.nacl.outbound,
    };
    let mut best: Option<&Rule> = None;
    for rule in rules {
        if matches(rule, case) && best.is_none_or(|best| rule.number < best.number) {
            best = Some(rule);
        }
    }
    match best {
        Some(rule) => Expected { allow: rule.action == Action::Allow, reason: "nacl-rule", rule: Some(rule.number) },
        None => drop("nacl-implicit-deny"),
    }
}

/// Whether a prefix contains an address, bit by bit.
fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
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
    if !contains(rule.cidr.addr(), rule.cidr.prefix_len(), case.remote) {
        return false;
    }
    let deny = rule.action == Action::Deny;
    let Protocol::Number(protocol) = rule.protocol else {
        return true;
    };
    if case.part == Part::Later {
        // Fail closed: what cannot be seen does not satisfy an allow, and does not escape a deny.
        if case.v6() && case.hidden.is_some() {
            return deny;
        }
        if protocol != case.protocol {
            return false;
        }
        let icmp = if case.v6() { 58 } else { 1 };
        let needs_port = matches!(protocol, 6 | 17) && rule.ports.is_some_and(|ports| ports != (0, 65535));
        let needs_type = protocol == icmp && rule.icmp.is_some();
        return deny || !(needs_port || needs_type);
    }
    if protocol != case.protocol {
        return false;
    }
    if case.has_ports() && rule.ports.is_some_and(|(first, last)| case.dport < first || case.dport > last) {
        return false;
    }
    if case.has_icmp()
        && let Some(icmp) = rule.icmp
    {
        return icmp.kind == case.icmp.0 && icmp.code.is_none_or(|code| code == case.icmp.1);
    }
    true
}
