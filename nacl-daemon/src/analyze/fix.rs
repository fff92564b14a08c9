//! The smallest fix of a broken flow: rules that are added, never replaced. Each allows, so nothing that passed before can be
//! lost; and it is proposed only after the flow passed in the engine with it.

use std::sync::Arc;

use ipnet::IpNet;
use nacl_common::{Action, Direction, Layer, Packet};

use super::{
    explain::{Said, passes, said},
    flow::{Flow, address},
};
use crate::{
    clients::Client,
    compile::{Decider, Written, compile},
    engine::Engine,
    resolve::{Group, GroupRule, Icmp, Interface, Nacl, Peer, Protocol, Rule},
};

/// AWS's implied `*` rule stands behind every number a user can give (N1, N2).
const IMPLIED: u16 = 32767;

/// A rule to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewRule {
    /// To a network ACL.
    Nacl {
        /// The network ACL.
        nacl: String,
        /// Its list.
        direction: Direction,
        /// The rule.
        rule: Rule,
    },
    /// To a security group, behind the rules it has.
    Group {
        /// The group.
        group: String,
        /// Its list.
        direction: Direction,
        /// The rule.
        rule: GroupRule,
    },
}

impl NewRule {
    /// The list it is added to.
    pub const fn direction(&self) -> Direction {
        match self {
            Self::Nacl { direction, .. } | Self::Group { direction, .. } => *direction,
        }
    }

    /// The interface with this rule, where it has the network ACL or the group that it is added to.
    #[must_use]
    pub fn added_to(&self, interface: &Interface) -> Interface {
        let mut interface = interface.clone();
        match self {
            Self::Nacl { nacl, direction, rule } if *nacl == interface.nacl.name => {
                let mut nacl = Nacl::clone(&interface.nacl);
                let rules = match direction {
                    Direction::Inbound => &mut nacl.inbound,
                    Direction::Outbound => &mut nacl.outbound,
                };
                let at = rules.partition_point(|other| other.number < rule.number);
                rules.insert(at, rule.clone());
                interface.nacl = Arc::new(nacl);
            }
            Self::Nacl { .. } => {}
            Self::Group { group, direction, rule } => {
                for one in interface.groups.iter_mut().flatten().filter(|one| one.name == *group) {
                    let mut changed = Group::clone(one);
                    match direction {
                        Direction::Inbound => changed.inbound.push(rule.clone()),
                        Direction::Outbound => changed.outbound.push(rule.clone()),
                    }
                    *one = Arc::new(changed);
                }
            }
        }
        interface
    }
}

/// Rules that mend a flow: one for each layer and leg that dies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// The rules, those of the request first.
    pub rules: Vec<NewRule>,
}

/// A CIDR, and the reference it was written as.
type Remote = (IpNet, Option<String>);

/// The smallest fix, or `None` where no number is free below the rule that denies, where the interface has no group that a
/// rule could be added to, or where no rule can help.
pub fn smallest_fix(interface: &Interface, flow: Flow, direction: Direction, client: Option<Client>) -> Option<Fix> {
    fix(interface, flow, direction, client, None)
}

/// The smallest fix of a packet that belongs to another flow: as wide as what lets that one pass, where that has the packet's sender or
/// receiver in it.
pub fn smallest_fix_beside(interface: &Interface, flow: Flow, direction: Direction, beside: &Decider) -> Option<Fix> {
    let remote = if direction == Direction::Inbound { flow.source } else { flow.destination };
    let wide = match beside.written(interface) {
        Some(Written::Nacl(rule)) if rule.cidr.contains(&remote) => Some((rule.cidr, rule.reference.clone())),
        _ => None,
    };
    fix(interface, flow, direction, None, wide.as_ref())
}

/// `wide`: who the rules are for, where no rule says it that lets the request pass.
fn fix(
    interface: &Interface,
    flow: Flow,
    direction: Direction,
    client: Option<Client>,
    wide: Option<&Remote>,
) -> Option<Fix> {
    let mut mended = interface.clone();
    let mut rules = Vec::new();
    let request = flow.request().ok()?;
    let legs = [(direction, Some(request)), (direction.reverse(), flow.reply().ok().flatten())];
    // The reply's rule is as wide as the rule that lets the request in, which may be one that was just added.
    let mut admitted: Option<Remote> = None;
    for (leg, (way, packet)) in legs.into_iter().enumerate() {
        let Some(packet) = packet else { continue };
        let near = concerned(&mended, flow, direction);
        let mut engine = Engine::new(&near, &compile(&near, None).ok()?);
        if leg == 1 {
            // What is remembered of the request needs no rule for its reply.
            engine.judge(direction, &request);
        }
        let said = said(&engine, way, &packet);
        if leg == 0 {
            admitted = said.iter().find_map(|said| admitting(&mended, said)).or_else(|| wide.cloned());
        }
        let wide = Wide {
            ports: flow
                .has_ports()
                .then(|| if leg == 0 { (packet.dport, packet.dport) } else { client_ports(packet.dport, client) }),
            icmp: flow.is_icmp().then_some(Icmp { kind: (packet.dport >> 8) as u8, code: Some(packet.dport as u8) }),
            protocol: Protocol::Number(flow.protocol),
            remote: admitted.clone().unwrap_or_else(|| (one_address(way, &packet), None)),
        };
        for blocker in said.iter().filter(|said| !said.allow) {
            let new = match blocker.layer {
                Layer::Nacl => wide.nacl_rule(&mended, way, blocker)?,
                _ => wide.group_rule(&mended, way, &packet)?,
            };
            if let NewRule::Nacl { rule, .. } = &new {
                admitted.get_or_insert((rule.cidr, rule.reference.clone()));
            }
            mended = new.added_to(&mended);
            rules.push(new);
        }
    }
    let passes = passes(&concerned(&mended, flow, direction), flow, direction).is_ok_and(|passes| passes);
    (!rules.is_empty() && passes).then_some(Fix { rules })
}

/// The interface with the rules that a packet of a flow can match, and without those that none can: of another end, protocol or port. For
/// the flow it is the same interface, and compiled in a moment: a long policy with a finding about each of its rules asks for hundreds of
/// fixes. What can match is kept, whether it does or not: that is for the engine to say.
fn concerned(interface: &Interface, flow: Flow, direction: Direction) -> Interface {
    let remote = if direction == Direction::Inbound { flow.source } else { flow.destination };
    let can = |protocol: Protocol, ports: Option<(u16, u16)>| {
        let port =
            |(first, last): (u16, u16)| [flow.sport, flow.dport].iter().any(|port| (first..=last).contains(port));
        (protocol == Protocol::All || protocol == Protocol::Number(flow.protocol))
            && (!flow.has_ports() || ports.is_none_or(port))
    };
    let of_nacl = |rules: &[Rule]| -> Vec<Rule> {
        let own = rules.iter().filter(|rule| rule.cidr.contains(&remote) && can(rule.protocol, rule.ports));
        own.cloned().collect()
    };
    let of_group = |rules: &[GroupRule]| -> Vec<GroupRule> {
        let has = |rule: &&GroupRule| rule.cidrs.iter().any(|cidr| cidr.contains(&remote));
        rules.iter().filter(has).filter(|rule| can(rule.protocol, rule.ports)).cloned().collect()
    };
    let nacl = &interface.nacl;
    let nacl = Nacl {
        name: nacl.name.clone(),
        id: nacl.id.clone(),
        inbound: of_nacl(&nacl.inbound),
        outbound: of_nacl(&nacl.outbound),
    };
    let groups = interface.groups.as_ref().map(|groups| {
        let one = |group: &Arc<Group>| {
            let (inbound, outbound) = (of_group(&group.inbound), of_group(&group.outbound));
            Arc::new(Group { name: group.name.clone(), id: group.id.clone(), inbound, outbound })
        };
        groups.iter().map(one).collect()
    });
    Interface { nacl: Arc::new(nacl), groups, ..interface.clone() }
}

/// The CIDR of the network ACL's rule that lets a packet pass.
fn admitting(interface: &Interface, said: &Said) -> Option<Remote> {
    match said.by.written(interface) {
        Some(Written::Nacl(rule)) if said.allow => Some((rule.cidr, rule.reference.clone())),
        _ => None,
    }
}

/// What a new rule lets pass.
struct Wide {
    protocol: Protocol,
    ports: Option<(u16, u16)>,
    icmp: Option<Icmp>,
    remote: Remote,
}

impl Wide {
    fn nacl_rule(&self, interface: &Interface, direction: Direction, blocker: &Said) -> Option<NewRule> {
        let (cidr, reference) = self.remote.clone();
        let rule = Rule {
            number: free_number(interface, direction, &blocker.by)?,
            action: Action::Allow,
            protocol: self.protocol,
            ports: self.ports,
            icmp: self.icmp,
            cidr,
            reference,
            description: None,
            line: 0,
            span: 0..0,
        };
        Some(NewRule::Nacl { nacl: interface.nacl.name.clone(), direction, rule })
    }

    /// In the first group that stands in the policy: who writes a rule into AWS's own takes its rules away. A network ACL that
    /// lets everybody pass says nothing of whom a group is to let in, so then it is the other end alone.
    fn group_rule(&self, interface: &Interface, direction: Direction, packet: &Packet) -> Option<NewRule> {
        let group = interface.groups.iter().flatten().find(|group| !is_aws_own(group))?.name.clone();
        let (wide, _) = self.remote;
        let cidr = if wide.prefix_len() == 0 { one_address(direction, packet) } else { wide };
        let rule = GroupRule::new(self.protocol, self.ports, Peer::Cidr(cidr), vec![cidr]);
        let rule = GroupRule { icmp: self.icmp, ..rule };
        Some(NewRule::Group { group, direction, rule })
    }
}

/// Whether it is the default group as AWS makes it (S5), which is not written in the policy.
fn is_aws_own(group: &Group) -> bool {
    group.name == "default" && group.inbound.iter().chain(&group.outbound).all(|rule| rule.line == 0)
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
fn free_number(interface: &Interface, direction: Direction, denies: &Decider) -> Option<u16> {
    let rules = interface.nacl.rules(direction);
    let taken = |number: &u16| rules.iter().any(|rule| rule.number == *number);
    if let Decider::Nacl { number, .. } = denies {
        return (1..*number).rev().find(|number| !taken(number));
    }
    let last = rules.last().map_or(0, |rule| rule.number);
    let step = if last.is_multiple_of(100) { 100 } else { 10 };
    let round = (last / step + 1).saturating_mul(step);
    if round < IMPLIED { Some(round) } else { (1..IMPLIED).rev().find(|number| !taken(number)) }
}
