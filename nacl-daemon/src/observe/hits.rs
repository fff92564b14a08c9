//! Counters by slot → hits by rule, in the order in which AWS looks at the rules.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nacl_common::{
    Action, Counter, Direction, Family, Layer, Reason,
    border::{Service, group_implicit_slot, implicit_slot, same_subnet_slot, tracked_slot},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Modes, Setting, names};
use crate::{
    compile::{Slot, SlotTable},
    dataplane::Counters,
    resolve::{Exemption, Group, GroupRule, Icmp, Interface, Peer, Protocol, Side, names as serde_names},
};

/// Packets and bytes (of whole Ethernet frames; a GSO packet counts its segments).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<Counter> for Hits {
    fn from(counter: Counter) -> Self {
        Self { packets: counter.packets, bytes: counter.bytes }
    }
}

/// Number of a rule: `100`, or `"*"` for the implied one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// A numbered rule.
    Rule(u16),
    /// `*`.
    Implied,
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rule(number) => serializer.serialize_u16(*number),
            Self::Implied => serializer.serialize_str("*"),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Rule(u16),
            Text(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Rule(number) => Ok(Self::Rule(number)),
            Wire::Text(text) if text == "*" => Ok(Self::Implied),
            Wire::Text(text) => Err(de::Error::custom(format!("{text:?} is not a rule number"))),
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rule(number) => f.pad(&number.to_string()),
            Self::Implied => f.pad("*"),
        }
    }
}

/// One rule and what it met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its number.
    pub rule: Number,
    /// The family it matches.
    #[serde(with = "serde_names::family")]
    pub family: Family,
    /// What it does.
    #[serde(with = "serde_names::action")]
    pub action: Action,
    /// Protocol number, -1 for all.
    #[serde(with = "names::protocol")]
    pub protocol: Protocol,
    /// First and last destination port; null for all.
    pub ports: Option<(u16, u16)>,
    /// ICMP type and code; null for all.
    #[serde(with = "names::icmp")]
    pub icmp: Option<Icmp>,
    /// Source of inbound, destination of outbound packets.
    pub cidr: IpNet,
    /// The reference it was written as.
    pub reference: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Line in the policy file; 0 for what AWS adds by itself.
    pub line: usize,
    /// What it met; null where nobody counts.
    pub hits: Option<Hits>,
}

/// One direction's list, as the AWS console shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// Inbound or outbound.
    #[serde(with = "serde_names::direction")]
    pub direction: Direction,
    /// Rules in the order they are looked at, `*` of each family last.
    pub rules: Vec<RuleRow>,
    /// What stayed inside the subnet and so met no rule (N42); empty without a subnet.
    pub same_subnet: Vec<SubnetHits>,
}

/// Traffic inside the subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetHits {
    /// IP version.
    #[serde(with = "serde_names::family")]
    pub family: Family,
    /// How much; null where nobody counts.
    pub hits: Option<Hits>,
}

/// One rule of a security group and what it met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Its place among its group's rules of its direction, from 1.
    pub position: u16,
    /// Protocol number, -1 for all.
    #[serde(with = "names::protocol")]
    pub protocol: Protocol,
    /// First and last destination port; null for all.
    pub ports: Option<(u16, u16)>,
    /// ICMP type and code; null for all.
    #[serde(with = "names::icmp")]
    pub icmp: Option<Icmp>,
    /// The other end as it was written: a CIDR, `pl:NAME` or `sg:NAME`.
    pub peer: String,
    /// The addresses that means; empty where a prefix list has no entries or a group no members, and then nothing matches.
    pub cidrs: Vec<IpNet>,
    /// Free text.
    pub description: Option<String>,
    /// Line in the policy file; 0 for what AWS adds by itself.
    pub line: usize,
    /// What it met; null where nobody counts.
    pub hits: Option<Hits>,
}

/// The rules of one security group, in the order of the file: they only allow, so their order decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRules {
    /// Its name in the policy.
    pub name: String,
    /// AWS's id of it.
    pub id: Option<String>,
    /// Inbound rules.
    pub inbound: Vec<GroupRow>,
    /// Outbound rules.
    pub outbound: Vec<GroupRow>,
}

/// Packets of one direction and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayHits {
    /// Direction.
    #[serde(with = "serde_names::direction")]
    pub direction: Direction,
    /// IP version.
    #[serde(with = "serde_names::family")]
    pub family: Family,
    /// How much; null where nobody counts.
    pub hits: Option<Hits>,
}

/// Something that passes unjudged, and what of it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExemptionRow {
    /// What it is.
    pub name: String,
    /// An entry of the policy; false: AWS exempts it (N43).
    pub failsafe: bool,
    /// Which end the service is at: `remote` or `local`.
    pub service: String,
    /// Protocol number, -1 for all.
    #[serde(with = "names::protocol")]
    pub protocol: Protocol,
    /// First and last port of the service; null for all.
    pub ports: Option<(u16, u16)>,
    /// Addresses of the other end.
    pub cidr: IpNet,
    /// Line in the policy file; 0 for what AWS exempts.
    pub line: usize,
    /// What it met; null where nobody counts.
    pub hits: Option<Hits>,
}

/// Packets by reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonHits {
    /// Stable name of the reason.
    pub reason: String,
    /// Direction of the packets.
    #[serde(with = "serde_names::direction")]
    pub direction: Direction,
    /// One sentence.
    pub meaning: String,
    /// How many.
    pub hits: Hits,
}

/// The tables of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRules {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// Name of its subnet.
    pub subnet: Option<String>,
    /// Name of the network ACL.
    pub nacl: String,
    /// AWS's id of it.
    pub nacl_id: Option<String>,
    /// Which way the interface looks.
    #[serde(with = "names::side")]
    pub side: Side,
    /// Number of the policy in force, counted up by every switch; null without a daemon.
    pub epoch: Option<u32>,
    /// Mode, layers and whether it is enforced.
    #[serde(flatten)]
    pub modes: Modes,
    /// The network ACL: inbound, then outbound.
    pub lists: Vec<RuleList>,
    /// The security groups; null where the interface has none, and that layer is off.
    pub groups: Option<Vec<GroupRules>>,
    /// Packets that no rule of any security group matched.
    pub unmatched: Vec<WayHits>,
    /// Packets that passed because their connection is remembered.
    pub tracked: Vec<WayHits>,
    /// What passes unjudged.
    pub exemptions: Vec<ExemptionRow>,
    /// Packets by reason, those that are not zero.
    pub reasons: Vec<ReasonHits>,
    /// Events the kernel did not report for lack of budget; the counters are complete all the same.
    pub events_suppressed: u64,
}

/// The tables of an interface, with hits where there are counters. `name`: its name in the policy. `policy`: the
/// setting as the policy has it. `counted`: the table the counters were made with.
pub fn interface_rules(
    name: &str,
    interface: &Interface,
    policy: Setting,
    counted: Option<(&SlotTable, &Counters)>,
    epoch: Option<u32>,
) -> InterfaceRules {
    let at = |slot: u16| counted.map(|(_, counters)| counters.slots.get(&slot).copied().unwrap_or_default().into());
    let lists = Direction::ALL.map(|direction| {
        let numbered = interface.nacl.rules(direction).iter().map(|rule| RuleRow {
            rule: Number::Rule(rule.number),
            family: family(&rule.cidr),
            action: rule.action,
            protocol: rule.protocol,
            ports: rule.ports,
            icmp: rule.icmp,
            cidr: rule.cidr,
            reference: rule.reference.clone(),
            description: rule.description.clone(),
            line: rule.line,
            hits: slot_of(counted, direction, rule.number).and_then(at),
        });
        let implied = [Family::V4, Family::V6].map(|family| RuleRow {
            rule: Number::Implied,
            family,
            action: Action::Deny,
            protocol: Protocol::All,
            ports: None,
            icmp: None,
            cidr: match family {
                Family::V4 => Ipv4Net::default().into(),
                Family::V6 => Ipv6Net::default().into(),
            },
            reference: None,
            description: None,
            line: 0,
            hits: at(implicit_slot(direction, family == Family::V6)),
        });
        let same_subnet = [Family::V4, Family::V6]
            .into_iter()
            .filter(|wanted| interface.subnet_cidrs.iter().any(|cidr| family(cidr) == *wanted))
            .map(|family| SubnetHits { family, hits: at(same_subnet_slot(direction, family == Family::V6)) })
            .collect();
        RuleList { direction, rules: numbered.chain(implied).collect(), same_subnet }
    });
    let ways = |slot: fn(Direction, bool) -> u16| -> Vec<WayHits> {
        let mut ways = Vec::new();
        for direction in Direction::ALL {
            for family in [Family::V4, Family::V6] {
                ways.push(WayHits { direction, family, hits: at(slot(direction, family == Family::V6)) });
            }
        }
        ways
    };
    let groups = |groups: &Vec<std::sync::Arc<Group>>| groups.iter().map(|group| group_rules(group, counted)).collect();
    InterfaceRules {
        interface: name.to_owned(),
        device: interface.name.clone(),
        netns: interface.netns.clone(),
        subnet: interface.subnet.clone(),
        nacl: interface.nacl.name.clone(),
        nacl_id: interface.nacl.id.clone(),
        side: interface.side,
        epoch,
        modes: Modes { in_force: Setting::of(interface), policy },
        lists: lists.into(),
        groups: interface.groups.as_ref().map(groups),
        unmatched: interface.groups.iter().flat_map(|_| ways(group_implicit_slot)).collect(),
        tracked: ways(tracked_slot),
        exemptions: interface.exemptions.iter().map(|exemption| exemption_row(exemption, counted)).collect(),
        reasons: counted.map_or_else(Vec::new, |(_, counters)| reasons(counters)),
        events_suppressed: counted.map_or(0, |(_, counters)| counters.events_suppressed),
    }
}

/// The counters of the slots that answer a description, added up; nothing where nobody counts.
fn sum(counted: Option<(&SlotTable, &Counters)>, of: impl Fn(&Slot) -> bool) -> Option<Hits> {
    let (slots, counters) = counted?;
    let slots = slots.slots.iter().filter(|(_, slot)| of(slot));
    let hits = slots.filter_map(|(slot, _)| counters.slots.get(slot));
    Some(hits.fold(Hits::default(), |sum, counter| Hits {
        packets: sum.packets + counter.packets,
        bytes: sum.bytes + counter.bytes,
    }))
}

fn group_rules(group: &Group, counted: Option<(&SlotTable, &Counters)>) -> GroupRules {
    let rows = |direction: Direction| {
        let row = |(rule, position): (&GroupRule, u16)| GroupRow {
            position,
            protocol: rule.protocol,
            ports: rule.ports,
            icmp: rule.icmp,
            peer: match &rule.peer {
                Peer::Cidr(cidr) => cidr.to_string(),
                Peer::PrefixList(name) => format!("pl:{name}"),
                Peer::Group(name) => format!("sg:{name}"),
            },
            cidrs: rule.cidrs.clone(),
            description: rule.description.clone(),
            line: rule.line,
            // A rule has a slot for each family.
            hits: sum(counted, |slot| {
                (slot.layer, slot.direction, slot.position) == (Layer::SecurityGroup, direction, Some(position))
                    && slot.name == group.name
            }),
        };
        group.rules(direction).iter().zip(1..).map(row).collect()
    };
    GroupRules {
        name: group.name.clone(),
        id: group.id.clone(),
        inbound: rows(Direction::Inbound),
        outbound: rows(Direction::Outbound),
    }
}

fn exemption_row(exemption: &Exemption, counted: Option<(&SlotTable, &Counters)>) -> ExemptionRow {
    ExemptionRow {
        name: exemption.name.clone(),
        failsafe: exemption.failsafe,
        service: match exemption.service {
            Service::Remote => "remote",
            Service::Local => "local",
        }
        .to_owned(),
        protocol: exemption.protocol,
        ports: exemption.ports,
        cidr: exemption.cidr,
        line: exemption.line,
        hits: sum(counted, |slot| slot.counts(exemption)),
    }
}

/// The slot that counts a numbered rule.
fn slot_of(counted: Option<(&SlotTable, &Counters)>, direction: Direction, number: u16) -> Option<u16> {
    let (slots, _) = counted?;
    // Numbers are unique per direction across both families (N5).
    slots.slots.iter().find(|(_, slot)| slot.direction == direction && slot.rule == Some(number)).map(|(slot, _)| *slot)
}

fn family(cidr: &IpNet) -> Family {
    match cidr {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

fn reasons(counters: &Counters) -> Vec<ReasonHits> {
    counters
        .reasons
        .iter()
        .filter(|(_, counter)| **counter != Counter::default())
        .map(|((reason, direction), counter)| ReasonHits {
            reason: Reason::name(*reason).to_owned(),
            direction: *direction,
            meaning: reason.sentence().to_owned(),
            hits: (*counter).into(),
        })
        .collect()
}

/// `now` less `before`, never below zero.
pub fn minus(now: Hits, before: Hits) -> Hits {
    Hits { packets: now.packets.saturating_sub(before.packets), bytes: now.bytes.saturating_sub(before.bytes) }
}
