//! An inventory → what AWS's own tools would answer (`aws ec2 describe-…`), all answers in one document: each key is one of them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family};
use serde_json::{Map, Value, json};

use super::Exported;
use crate::{
    inventory::{
        Because, Entry, GroupRule, Identity, Inventory, NetworkAcl, NetworkInterface, Note, Peer, PrefixList,
        SecurityGroup, Subnet, Traffic, Vpc, family,
    },
    resolve::Protocol,
};

/// Writes the document. What has no id stands under its name; what is only named stands where it is named.
pub fn write(inventory: &Inventory) -> Exported {
    let writer = Writer { inventory };
    let nacls: Vec<_> = inventory.nacls.iter().map(|nacl| writer.nacl(nacl)).collect();
    let described = inventory.groups.iter().filter(|group| group.rules.is_some());
    let groups: Vec<_> = described.map(|group| writer.group(group)).collect();
    let rules = inventory.groups.iter().flat_map(|group| group.rules.iter().flatten().map(move |rule| (group, rule)));
    let rules: Vec<_> = rules.filter_map(|(group, rule)| group_rule(group, rule)).collect();
    let subnets = inventory.subnets.iter().filter(|subnet| !subnet.cidrs.is_empty());
    let subnets: Vec<_> = subnets.map(|subnet| writer.subnet(subnet)).collect();
    let vpcs: Vec<_> = inventory.vpcs.iter().filter(|vpc| !vpc.cidrs.is_empty()).map(vpc_json).collect();
    let lists: Vec<_> = inventory.prefix_lists.iter().map(prefix_list).collect();
    let interfaces: Vec<_> = inventory.interfaces.iter().map(|interface| writer.interface(interface)).collect();
    let mut document = Map::new();
    for (key, things) in [
        ("Vpcs", vpcs),
        ("Subnets", subnets),
        ("NetworkAcls", nacls),
        ("SecurityGroups", groups),
        ("SecurityGroupRules", rules),
        ("PrefixLists", lists),
        ("NetworkInterfaces", interfaces),
    ] {
        if !things.is_empty() {
            document.insert(key.to_owned(), Value::Array(things));
        }
    }
    Exported { text: format!("{:#}\n", Value::Object(document)), notes: notes(inventory) }
}

/// What stands under a made-up id.
fn notes(inventory: &Inventory) -> Vec<Note> {
    let told = |identity: &&&Identity| identity.id.is_none();
    let nameless = |identity: &&Identity| Note {
        because: Because::Unknown,
        place: identity.place.clone(),
        message: format!("it has no id of AWS's, and stands there as {}", identity.key.escape_debug()),
    };
    let identities = inventory.identities();
    identities.iter().filter(told).map(nameless).collect()
}

struct Writer<'i> {
    inventory: &'i Inventory,
}

fn id(identity: &Identity) -> &str {
    identity.id.as_deref().unwrap_or(&identity.key)
}

/// The id, the owner and the tags.
fn identified(key: &str, identity: &Identity, tags: &str) -> Map<String, Value> {
    let mut found = Map::new();
    found.insert(key.to_owned(), json!(id(identity)));
    if let Some(owner) = &identity.owner {
        found.insert("OwnerId".to_owned(), json!(owner));
    }
    found.insert(tags.to_owned(), tags_json(&identity.tags));
    found
}

fn tags_json(tags: &BTreeMap<String, String>) -> Value {
    tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect()
}

fn maybe(into: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        into.insert(key.to_owned(), value.into());
    }
}

fn of_family(cidrs: &[IpNet], wanted: Family) -> impl Iterator<Item = &IpNet> {
    cidrs.iter().filter(move |cidr| family(cidr) == wanted)
}

/// The members of a set of IPv6 CIDRs that are in force.
fn ipv6_set(cidrs: &[IpNet]) -> Value {
    of_family(cidrs, Family::V6)
        .map(|cidr| json!({ "Ipv6CidrBlock": cidr.to_string(), "Ipv6CidrBlockState": { "State": "associated" } }))
        .collect()
}

fn vpc_json(vpc: &Vpc) -> Value {
    let mut found = identified("VpcId", &vpc.identity, "Tags");
    maybe(&mut found, "CidrBlock", of_family(&vpc.cidrs, Family::V4).next().map(ToString::to_string));
    let set: Value = of_family(&vpc.cidrs, Family::V4)
        .map(|cidr| json!({ "CidrBlock": cidr.to_string(), "CidrBlockState": { "State": "associated" } }))
        .collect();
    found.insert("CidrBlockAssociationSet".to_owned(), set);
    found.insert("Ipv6CidrBlockAssociationSet".to_owned(), ipv6_set(&vpc.cidrs));
    found.into()
}

fn prefix_list(list: &PrefixList) -> Value {
    let mut found = identified("PrefixListId", &list.identity, "Tags");
    maybe(&mut found, "PrefixListName", list.name.clone());
    maybe(&mut found, "AddressFamily", list.family.map(|family| if family == Family::V4 { "IPv4" } else { "IPv6" }));
    maybe(&mut found, "MaxEntries", list.max_entries);
    let entries = list.entries.as_ref().map(|entries| {
        let entry = |entry: &crate::inventory::PrefixEntry| {
            let mut found = Map::from_iter([("Cidr".to_owned(), json!(entry.cidr.to_string()))]);
            maybe(&mut found, "Description", entry.description.clone());
            Value::Object(found)
        };
        entries.iter().map(entry).collect::<Value>()
    });
    maybe(&mut found, "Entries", entries);
    found.into()
}

/// `*`, which every list ends with (N2).
fn star(egress: bool, of: Family) -> Value {
    let (number, key, cidr) = match of {
        Family::V4 => (32767, "CidrBlock", "0.0.0.0/0"),
        Family::V6 => (32768, "Ipv6CidrBlock", "::/0"),
    };
    json!({ "RuleNumber": number, "Egress": egress, "Protocol": "-1", "RuleAction": "deny", key: cidr })
}

fn entry(entry: &Entry) -> Value {
    let Traffic { protocol, ports, icmp } = entry.traffic;
    let of = family(&entry.cidr);
    let mut found = Map::new();
    found.insert("RuleNumber".to_owned(), json!(entry.number));
    found.insert("Egress".to_owned(), json!(entry.direction == Direction::Outbound));
    found.insert("RuleAction".to_owned(), json!(if entry.action == Action::Allow { "allow" } else { "deny" }));
    let number = match protocol {
        Protocol::All => "-1".to_owned(),
        Protocol::Number(number) => number.to_string(),
    };
    found.insert("Protocol".to_owned(), json!(number));
    let key = if of == Family::V4 { "CidrBlock" } else { "Ipv6CidrBlock" };
    found.insert(key.to_owned(), json!(entry.cidr.to_string()));
    // AWS wants ports and types written (N29, N30), and has none where they mean nothing (N32).
    match (protocol, of) {
        (Protocol::Number(6 | 17), _) => {
            let (from, to) = ports.unwrap_or((0, u16::MAX));
            found.insert("PortRange".to_owned(), json!({ "From": from, "To": to }));
        }
        (Protocol::Number(1), Family::V4) | (Protocol::Number(58), Family::V6) => {
            let (kind, code) = types(icmp);
            found.insert("IcmpTypeCode".to_owned(), json!({ "Type": kind, "Code": code }));
        }
        _ => {}
    }
    found.into()
}

/// Type and code, -1 for all.
fn types(icmp: Option<(Option<u8>, Option<u8>)>) -> (i16, i16) {
    let number = |found: Option<u8>| found.map_or(-1, i16::from);
    icmp.map_or((-1, -1), |(kind, code)| (number(kind), number(code)))
}

/// A protocol as groups have it: by name where it has ports or types (S10).
fn protocol_name(protocol: Protocol) -> String {
    match protocol {
        Protocol::All => "-1".to_owned(),
        Protocol::Number(1) => "icmp".to_owned(),
        Protocol::Number(6) => "tcp".to_owned(),
        Protocol::Number(17) => "udp".to_owned(),
        Protocol::Number(58) => "icmpv6".to_owned(),
        Protocol::Number(number) => number.to_string(),
    }
}

/// `FromPort` and `ToPort`, where the protocol has them (S13, S14).
fn from_to(traffic: Traffic) -> Option<(i32, i32)> {
    match traffic.protocol {
        Protocol::Number(6 | 17) => traffic.ports.or(Some((0, u16::MAX))).map(|(from, to)| (from.into(), to.into())),
        Protocol::Number(1 | 58) => {
            let (kind, code) = types(traffic.icmp);
            Some((kind.into(), code.into()))
        }
        _ => None,
    }
}

impl Writer<'_> {
    fn arn(&self, kind: &str, identity: &Identity) -> Option<String> {
        let (region, owner) = (self.inventory.region.as_ref()?, identity.owner.as_ref()?);
        Some(format!("arn:aws:ec2:{region}:{owner}:{kind}/{}", identity.id.as_ref()?))
    }

    fn subnet(&self, subnet: &Subnet) -> Value {
        let mut found = identified("SubnetId", &subnet.identity, "Tags");
        maybe(&mut found, "VpcId", subnet.vpc.clone());
        maybe(&mut found, "SubnetArn", self.arn("subnet", &subnet.identity));
        maybe(&mut found, "CidrBlock", of_family(&subnet.cidrs, Family::V4).next().map(ToString::to_string));
        found.insert("Ipv6CidrBlockAssociationSet".to_owned(), ipv6_set(&subnet.cidrs));
        found.into()
    }

    fn nacl(&self, nacl: &NetworkAcl) -> Value {
        let mut found = identified("NetworkAclId", &nacl.identity, "Tags");
        maybe(&mut found, "VpcId", nacl.vpc.clone());
        found.insert("IsDefault".to_owned(), json!(nacl.default));
        let associations = nacl.subnets.iter().map(|on| {
            let mut association = Map::new();
            maybe(&mut association, "NetworkAclAssociationId", on.id.clone());
            association.insert("NetworkAclId".to_owned(), json!(id(&nacl.identity)));
            association.insert("SubnetId".to_owned(), json!(on.subnet));
            Value::Object(association)
        });
        found.insert("Associations".to_owned(), associations.collect());
        let vpc = self.inventory.vpcs.iter().find(|vpc| Some(&vpc.identity.key) == nacl.vpc.as_ref());
        let six = vpc.is_some_and(|vpc| of_family(&vpc.cidrs, Family::V6).next().is_some())
            || nacl.entries.iter().any(|entry| family(&entry.cidr) == Family::V6);
        // As AWS answers: what leaves first, `*` last (N13, N17).
        let mut entries = Vec::new();
        for (direction, egress) in [(Direction::Outbound, true), (Direction::Inbound, false)] {
            let mut of: Vec<_> = nacl.entries.iter().filter(|entry| entry.direction == direction).collect();
            of.sort_by_key(|entry| entry.number);
            entries.extend(of.into_iter().map(entry));
            entries.push(star(egress, Family::V4));
            entries.extend(six.then(|| star(egress, Family::V6)));
        }
        found.insert("Entries".to_owned(), Value::Array(entries));
        found.into()
    }

    fn group(&self, group: &SecurityGroup) -> Value {
        let mut found = identified("GroupId", &group.identity, "Tags");
        maybe(&mut found, "GroupName", group.name.clone());
        maybe(&mut found, "Description", group.identity.description.clone());
        maybe(&mut found, "VpcId", group.vpc.clone());
        maybe(&mut found, "SecurityGroupArn", self.arn("security-group", &group.identity));
        for (key, direction) in [("IpPermissions", Direction::Inbound), ("IpPermissionsEgress", Direction::Outbound)] {
            let rules = group.rules.iter().flatten().filter(|rule| rule.direction == direction);
            found.insert(key.to_owned(), permissions(rules));
        }
        found.into()
    }

    fn interface(&self, interface: &NetworkInterface) -> Value {
        let mut found = identified("NetworkInterfaceId", &interface.identity, "TagSet");
        maybe(&mut found, "Description", interface.identity.description.clone());
        maybe(&mut found, "SubnetId", interface.subnet.clone());
        maybe(&mut found, "VpcId", interface.vpc.clone());
        let v4 = || interface.addresses.iter().filter(|address| address.is_ipv4()).map(ToString::to_string);
        let v6 = interface.addresses.iter().filter(|address| address.is_ipv6()).map(ToString::to_string);
        maybe(&mut found, "PrivateIpAddress", v4().next());
        let private = v4().enumerate().map(|(at, address)| json!({ "Primary": at == 0, "PrivateIpAddress": address }));
        found.insert("PrivateIpAddresses".to_owned(), private.collect());
        found.insert("Ipv6Addresses".to_owned(), v6.map(|address| json!({ "Ipv6Address": address })).collect());
        let group = |link: &String| {
            let known = self.inventory.groups.iter().find(|group| group.identity.key == *link);
            let mut found = Map::from_iter([("GroupId".to_owned(), json!(link))]);
            maybe(&mut found, "GroupName", known.and_then(|group| group.name.clone()));
            Value::Object(found)
        };
        found.insert("Groups".to_owned(), interface.groups.iter().map(group).collect());
        found.into()
    }
}

/// A rule by itself, where AWS has given it an id.
fn group_rule(group: &SecurityGroup, rule: &GroupRule) -> Option<Value> {
    let (from, to) = from_to(rule.traffic).unwrap_or((-1, -1));
    let mut found = Map::new();
    found.insert("SecurityGroupRuleId".to_owned(), json!(rule.id.as_ref()?));
    found.insert("GroupId".to_owned(), json!(id(&group.identity)));
    maybe(&mut found, "GroupOwnerId", group.identity.owner.clone());
    found.insert("IsEgress".to_owned(), json!(rule.direction == Direction::Outbound));
    found.insert("IpProtocol".to_owned(), json!(protocol_name(rule.traffic.protocol)));
    found.insert("FromPort".to_owned(), json!(from));
    found.insert("ToPort".to_owned(), json!(to));
    let (key, peer) = match &rule.peer {
        Peer::Cidr(cidr @ IpNet::V4(_)) => ("CidrIpv4", json!(cidr.to_string())),
        Peer::Cidr(cidr @ IpNet::V6(_)) => ("CidrIpv6", json!(cidr.to_string())),
        Peer::PrefixList(list) => ("PrefixListId", json!(list)),
        Peer::Group { .. } => ("ReferencedGroupInfo", referenced(&rule.peer).into()),
    };
    found.insert(key.to_owned(), peer);
    maybe(&mut found, "Description", rule.description.clone());
    found.insert("Tags".to_owned(), tags_json(&rule.tags));
    Some(found.into())
}

fn referenced(peer: &Peer) -> Map<String, Value> {
    let mut found = Map::new();
    if let Peer::Group { group, owner, vpc, peering } = peer {
        found.insert("GroupId".to_owned(), json!(group));
        maybe(&mut found, "UserId", owner.clone());
        maybe(&mut found, "VpcId", vpc.clone());
        maybe(&mut found, "VpcPeeringConnectionId", peering.clone());
    }
    found
}

/// Rules of one direction: AWS has one element for all of the same protocol and ports.
fn permissions<'r>(rules: impl Iterator<Item = &'r GroupRule>) -> Value {
    let mut elements: Vec<(Traffic, [Vec<Value>; 4])> = Vec::new();
    for rule in rules {
        let (list, mut peer) = match &rule.peer {
            Peer::Cidr(cidr @ IpNet::V4(_)) => (0, Map::from_iter([("CidrIp".to_owned(), json!(cidr.to_string()))])),
            Peer::Cidr(cidr @ IpNet::V6(_)) => (1, Map::from_iter([("CidrIpv6".to_owned(), json!(cidr.to_string()))])),
            Peer::PrefixList(list) => (2, Map::from_iter([("PrefixListId".to_owned(), json!(list))])),
            Peer::Group { .. } => (3, referenced(&rule.peer)),
        };
        maybe(&mut peer, "Description", rule.description.clone());
        let at = elements.iter().position(|(traffic, _)| *traffic == rule.traffic).unwrap_or_else(|| {
            elements.push((rule.traffic, Default::default()));
            elements.len() - 1
        });
        elements[at].1[list].push(peer.into());
    }
    let element = |(traffic, lists): (Traffic, [Vec<Value>; 4])| {
        let mut found = Map::new();
        found.insert("IpProtocol".to_owned(), json!(protocol_name(traffic.protocol)));
        if let Some((from, to)) = from_to(traffic) {
            found.insert("FromPort".to_owned(), json!(from));
            found.insert("ToPort".to_owned(), json!(to));
        }
        let keys = ["IpRanges", "Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs"];
        found.extend(keys.into_iter().map(str::to_owned).zip(lists.map(Value::Array)));
        Value::Object(found)
    };
    elements.into_iter().map(element).collect()
}
