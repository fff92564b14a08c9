//! The smallest fix of a broken flow: rules that are added, never replaced. Each allows, so nothing that passed before can be
//! lost; and it is proposed only after the flow passed in the engine with it.

use std::sync::Arc;

use ipnet::IpNet;
use nacl_common::{Action, Direction, Packet};

use super::{
    explain::{passes, rule_of},
    flow::{Flow, address},
};
use crate::{
    clients::Client,
    compile::{Compiled, compile},
    resolve::{Icmp, Interface, Nacl, Protocol, Rule},
};

/// AWS's implied `*` rule stands behind every number a user can give (N1, N2).
const IMPLIED: u16 = 32767;

/// A rule to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRule {
    /// The network ACL.
    pub nacl: String,
    /// Its list.
    pub direction: Direction,
    /// The rule.
    pub rule: Rule,
}

/// Rules that mend a flow: one for each leg that dies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// The rules, that of the request first.
    pub rules: Vec<NewRule>,
}

/// The smallest fix, or `None` where no number is free below the rule that denies, or where no rule can help.
pub fn smallest_fix(interface: &Interface, flow: Flow, direction: Direction, client: Option<Client>) -> Option<Fix> {
    let mut mended = interface.clone();
    let mut rules = Vec::new();
    let legs = [(direction, flow.request().ok()), (direction.reverse(), flow.reply().ok().flatten())];
    // The reply's rule is as wide as the rule that lets the request in, which may be one that was just added.
    let mut admitted: Option<(IpNet, Option<String>)> = None;
    for (leg, (direction, packet)) in legs.into_iter().enumerate() {
        let Some(packet) = packet else { continue };
        let compiled = compile(&mended, None).ok()?;
        let verdict = compiled.judge(direction, &packet);
        if verdict.action == Action::Allow {
            if leg == 0 {
                admitted = rule_of(&mended, &compiled, verdict).map(|rule| (rule.cidr, rule.reference.clone()));
            }
            continue;
        }
        let (cidr, reference) = admitted.clone().unwrap_or_else(|| (one_address(direction, &packet), None));
        let rule = Rule {
            number: free_number(&mended, &compiled, direction, &packet)?,
            action: Action::Allow,
            protocol: Protocol::Number(flow.protocol),
            ports: flow
                .has_ports()
                .then(|| if leg == 0 { (packet.dport, packet.dport) } else { client_ports(packet.dport, client) }),
            icmp: flow.is_icmp().then_some(Icmp { kind: (packet.dport >> 8) as u8, code: Some(packet.dport as u8) }),
            cidr,
            reference,
            description: None,
            line: 0,
            span: 0..0,
        };
        admitted.get_or_insert((rule.cidr, rule.reference.clone()));
        mended = with(&mended, direction, rule.clone());
        rules.push(NewRule { nacl: interface.nacl.name.clone(), direction, rule });
    }
    (!rules.is_empty() && passes(&mended, flow, direction).is_ok_and(|passes| passes)).then_some(Fix { rules })
}

/// The interface with one more rule.
fn with(interface: &Interface, direction: Direction, rule: Rule) -> Interface {
    let mut nacl = Nacl::clone(&interface.nacl);
    let rules = match direction {
        Direction::Inbound => &mut nacl.inbound,
        Direction::Outbound => &mut nacl.outbound,
    };
    let at = rules.partition_point(|other| other.number < rule.number);
    rules.insert(at, rule);
    Interface { nacl: Arc::new(nacl), ..interface.clone() }
}

fn one_address(direction: Direction, packet: &Packet) -> IpNet {
    let remote = match direction {
        Direction::Inbound => packet.src,
        Direction::Outbound => packet.dst,
    };
    IpNet::from(address(packet.family, remote))
}

/// The client's whole range if it is known and the port lies in it, else what AWS advises for any client (1.6), else just
/// the port.
fn client_ports(port: u16, client: Option<Client>) -> (u16, u16) {
    let ranges = client.into_iter().chain([Client::Any]).map(Client::ports);
    ranges.into_iter().find(|(first, last)| (*first..=*last).contains(&port)).unwrap_or((port, port))
}

/// A free number just below the rule that denies. Behind `*` everything is free: there the next round number after the
/// last rule, as a person would take it.
fn free_number(interface: &Interface, compiled: &Compiled, direction: Direction, packet: &Packet) -> Option<u16> {
    let rules = interface.nacl.rules(direction);
    let taken = |number: &u16| rules.iter().any(|rule| rule.number == *number);
    let verdict = compiled.judge(direction, packet);
    if let Some(denies) = rule_of(interface, compiled, verdict) {
        return (1..denies.number).rev().find(|number| !taken(number));
    }
    let last = rules.last().map_or(0, |rule| rule.number);
    let step = if last.is_multiple_of(100) { 100 } else { 10 };
    let round = (last / step + 1).saturating_mul(step);
    if round < IMPLIED { Some(round) } else { (1..IMPLIED).rev().find(|number| !taken(number)) }
}
