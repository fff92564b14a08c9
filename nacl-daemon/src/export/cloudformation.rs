//! [`Inventory`] → a CloudFormation template in YAML. Ids of what is written here are CloudFormation's to choose; everything
//! else is named by its id.

use std::{collections::BTreeMap, fmt::Write as _};

use ipnet::IpNet;
use nacl_common::{Direction, Family};

use super::{Exported, words};
use crate::{
    inventory::{Because, Entry, GroupRule, Identity, Inventory, Note, Peer, PrefixList},
    resolve::Protocol,
};

/// Writes what CloudFormation can say of it.
pub fn write(inventory: &Inventory) -> Exported {
    let mut writer = Writer {
        inventory,
        text: String::new(),
        notes: Vec::new(),
        names: words::Names::default(),
        resources: BTreeMap::new(),
    };
    writer.name_all();
    writer
        .text
        .push_str("# Written by `nacld export cloudformation`.\nAWSTemplateFormatVersion: \"2010-09-09\"\nResources:");
    let start = writer.text.len();
    writer.vpcs();
    writer.subnets();
    writer.prefix_lists();
    writer.nacls();
    writer.groups();
    writer.interfaces();
    if writer.text.len() == start {
        writer.text.push_str(" {}\n");
    }
    let written = writer.identities().filter(|identity| identity.id.is_some() || identity.owner.is_some()).count();
    if written > 0 {
        let message = format!("ids and accounts of {written} objects are not written: CloudFormation makes new ones");
        words::summary(&mut writer.notes, Because::NotExpressible, message);
    }
    Exported { text: writer.text, notes: writer.notes }
}

/// A value of a template.
enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    Ref(String),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

struct Writer<'i> {
    inventory: &'i Inventory,
    text: String,
    notes: Vec<Note>,
    names: words::Names,
    /// Logical ids of the objects that are written, by key.
    resources: BTreeMap<&'i str, String>,
}

impl<'i> Writer<'i> {
    fn name_all(&mut self) {
        let inventory = self.inventory;
        for vpc in inventory.vpcs.iter().filter(|vpc| vpc.cidrs.iter().any(is_v4)) {
            self.call(&vpc.identity, "Vpc");
        }
        for subnet in inventory.subnets.iter().filter(|subnet| subnet.vpc.is_some()) {
            self.call(&subnet.identity, "Subnet");
        }
        for list in inventory.prefix_lists.iter().filter(|list| list.entries.is_some() && !is_aws(list)) {
            self.call(&list.identity, "PrefixList");
        }
        for acl in inventory.nacls.iter().filter(|acl| acl.vpc.is_some()) {
            self.call(&acl.identity, "Acl");
        }
        for group in inventory.groups.iter().filter(|group| group.rules.is_some()) {
            self.call(&group.identity, "Group");
        }
        for eni in inventory.interfaces.iter().filter(|eni| eni.subnet.is_some()) {
            self.call(&eni.identity, "Interface");
        }
    }

    /// A logical id: letters and digits, unique in the template.
    fn call(&mut self, identity: &'i Identity, kind: &str) {
        let name = camel(words::best(identity));
        let name = if name.is_empty() || self.names.has(&name) { name + kind } else { name };
        let name = self.names.unique(&name, "No");
        self.resources.insert(&identity.key, name);
    }

    fn identities(&self) -> impl Iterator<Item = &Identity> {
        let all = self.inventory;
        let found = all.vpcs.iter().map(|vpc| &vpc.identity);
        let found = found.chain(all.subnets.iter().map(|subnet| &subnet.identity));
        let found = found.chain(all.nacls.iter().map(|acl| &acl.identity));
        let found = found.chain(all.groups.iter().map(|group| &group.identity));
        let found = found.chain(all.prefix_lists.iter().map(|list| &list.identity));
        found.chain(all.interfaces.iter().map(|eni| &eni.identity))
    }

    fn note(&mut self, because: Because, identity: &Identity, message: impl Into<String>) {
        self.notes.push(Note { because, place: identity.place.clone(), message: message.into() });
    }

    fn link(&self, key: &str) -> Value {
        self.resources.get(key).map_or_else(|| text(key), |name| Value::Ref(name.clone()))
    }

    fn resource(&mut self, name: &str, kind: &str, properties: Vec<(&'static str, Value)>) {
        let _ = write!(self.text, "\n  {name}:\n    Type: AWS::EC2::{kind}\n    Properties:");
        Value::Map(properties).write(&mut self.text, 3);
    }

    fn object(&mut self, identity: &Identity, kind: &str, mut properties: Vec<(&'static str, Value)>) {
        let Some(name) = self.resources.get(identity.key.as_str()).cloned() else { return };
        if !identity.tags.is_empty() {
            let pair = |(key, value): (&String, &String)| Value::Map(vec![("Key", text(key)), ("Value", text(value))]);
            properties.push(("Tags", Value::List(identity.tags.iter().map(pair).collect())));
        }
        self.resource(&name, kind, properties);
    }

    /// A resource that belongs to another one.
    fn part(&mut self, of: &Identity, what: &str, kind: &str, properties: Vec<(&'static str, Value)>) {
        let Some(owner) = self.resources.get(of.key.as_str()) else { return };
        let name = format!("{owner}{what}");
        let name = self.names.unique(&name, "No");
        self.resource(&name, kind, properties);
    }

    fn vpcs(&mut self) {
        for vpc in &self.inventory.vpcs {
            let Some(first) = vpc.cidrs.iter().find(|cidr| is_v4(cidr)) else {
                let message = "a VPC needs an IPv4 CIDR, and none is known: it is named by its id";
                self.note(Because::Unknown, &vpc.identity, message);
                continue;
            };
            self.object(&vpc.identity, "VPC", vec![("CidrBlock", text(first.to_string()))]);
            for cidr in vpc.cidrs.iter().filter(|cidr| *cidr != first) {
                let name = if is_v4(cidr) { "CidrBlock" } else { "Ipv6CidrBlock" };
                let properties = vec![("VpcId", self.link(&vpc.identity.key)), (name, text(cidr.to_string()))];
                self.part(&vpc.identity, "Cidr", "VPCCidrBlock", properties);
                if !is_v4(cidr) {
                    let message = "an IPv6 CIDR comes from a pool: which one has to be said beside `Ipv6CidrBlock`";
                    self.note(Because::NotExpressible, &vpc.identity, message);
                }
            }
        }
    }

    fn subnets(&mut self) {
        for subnet in &self.inventory.subnets {
            let Some(vpc) = &subnet.vpc else {
                let message = "a subnet needs a VPC, and none is known: it is left out";
                self.note(Because::NotHere, &subnet.identity, message);
                continue;
            };
            let mut properties = vec![("VpcId", self.link(vpc))];
            let mut more = Vec::new();
            for cidr in &subnet.cidrs {
                let name = if is_v4(cidr) { "CidrBlock" } else { "Ipv6CidrBlock" };
                if !properties.iter().any(|(known, _)| *known == name) {
                    properties.push((name, text(cidr.to_string())));
                } else if is_v4(cidr) {
                    let message = format!("a subnet has one IPv4 CIDR: {cidr} is left out");
                    self.note(Because::NotExpressible, &subnet.identity, message);
                } else {
                    more.push(cidr);
                }
            }
            self.object(&subnet.identity, "Subnet", properties);
            for cidr in more {
                let properties =
                    vec![("SubnetId", self.link(&subnet.identity.key)), ("Ipv6CidrBlock", text(cidr.to_string()))];
                self.part(&subnet.identity, "Cidr", "SubnetCidrBlock", properties);
            }
        }
    }

    fn prefix_lists(&mut self) {
        for list in &self.inventory.prefix_lists {
            let Some(entries) = list.entries.as_ref().filter(|_| !is_aws(list)) else {
                self.note(Because::NotHere, &list.identity, "is only named, by its id");
                continue;
            };
            let v6 = match list.family {
                Some(family) => family == Family::V6,
                None => entries.first().is_some_and(|entry| !is_v4(&entry.cidr)),
            };
            let most = list.max_entries.unwrap_or_else(|| {
                let message = "how many entries it may have is not known: as many as there are";
                self.note(Because::Unknown, &list.identity, message);
                u32::try_from(entries.len()).unwrap_or(u32::MAX).max(1)
            });
            let mut properties = vec![
                ("PrefixListName", text(list.name.as_deref().unwrap_or(words::best(&list.identity)))),
                ("AddressFamily", text(if v6 { "IPv6" } else { "IPv4" })),
                ("MaxEntries", Value::Number(most.into())),
            ];
            if !entries.is_empty() {
                let entry = |entry: &crate::inventory::PrefixEntry| {
                    let mut map = vec![("Cidr", text(entry.cidr.to_string()))];
                    map.extend(entry.description.as_ref().map(|description| ("Description", text(description))));
                    Value::Map(map)
                };
                properties.push(("Entries", Value::List(entries.iter().map(entry).collect())));
            }
            self.object(&list.identity, "PrefixList", properties);
        }
    }

    fn nacls(&mut self) {
        for acl in &self.inventory.nacls {
            let Some(vpc) = &acl.vpc else {
                let message = "a network ACL needs a VPC, and none is known: it is left out";
                self.note(Because::NotHere, &acl.identity, message);
                continue;
            };
            let mut subnets: Vec<&str> = acl.subnets.iter().map(|one| one.subnet.as_str()).collect();
            if acl.default {
                let message = "CloudFormation cannot change a default network ACL: an ordinary one takes its place, with its subnets";
                self.note(Because::NotExpressible, &acl.identity, message);
                subnets = words::rest_of(self.inventory, acl).into_iter().map(String::as_str).collect();
            }
            self.object(&acl.identity, "NetworkAcl", vec![("VpcId", self.link(vpc))]);
            for entry in &acl.entries {
                let way = if entry.direction == Direction::Inbound { "In" } else { "Out" };
                let properties = self.entry(&acl.identity.key, entry);
                self.part(&acl.identity, &format!("{way}{}", entry.number), "NetworkAclEntry", properties);
            }
            for subnet in subnets {
                let properties = vec![("SubnetId", self.link(subnet)), ("NetworkAclId", self.link(&acl.identity.key))];
                self.part(&acl.identity, "Association", "SubnetNetworkAclAssociation", properties);
            }
        }
    }

    fn entry(&self, acl: &str, entry: &Entry) -> Vec<(&'static str, Value)> {
        let protocol = match entry.traffic.protocol {
            Protocol::All => -1,
            Protocol::Number(number) => i64::from(number),
        };
        let mut properties = vec![
            ("NetworkAclId", self.link(acl)),
            ("RuleNumber", Value::Number(entry.number.into())),
            ("Egress", Value::Flag(entry.direction == Direction::Outbound)),
            ("RuleAction", text(entry.action.name())),
            ("Protocol", Value::Number(protocol)),
        ];
        if let Some((first, last)) = words::numbers(&entry.traffic) {
            let pair = |names: [&'static str; 2]| {
                Value::Map(vec![(names[0], Value::Number(first.into())), (names[1], Value::Number(last.into()))])
            };
            properties.push(if words::is_icmp(&entry.traffic) {
                ("Icmp", pair(["Type", "Code"]))
            } else {
                ("PortRange", pair(["From", "To"]))
            });
        }
        properties.push((if is_v4(&entry.cidr) { "CidrBlock" } else { "Ipv6CidrBlock" }, text(entry.cidr.to_string())));
        properties
    }

    /// Security groups, with the rules that name no group in them. Two groups that name each other could not be made
    /// otherwise, so that the others are resources of their own.
    fn groups(&mut self) {
        for group in &self.inventory.groups {
            let Some(rules) = &group.rules else {
                self.note(Because::NotHere, &group.identity, "is only named: its rules are not known");
                continue;
            };
            let mut name = group.name.clone();
            if name.as_deref() == Some("default") {
                let message =
                    "CloudFormation cannot change a default security group: one without a name takes its place";
                self.note(Because::NotExpressible, &group.identity, message);
                name = None;
            }
            let description = group.identity.description.clone().unwrap_or_else(|| {
                self.note(Because::Unknown, &group.identity, "its description is not known, and one is needed");
                words::best(&group.identity).to_owned()
            });
            let mut properties = vec![("GroupDescription", text(description))];
            properties.extend(name.map(|name| ("GroupName", text(name))));
            properties.extend(group.vpc.as_ref().map(|vpc| ("VpcId", self.link(vpc))));
            let here = |rule: &&GroupRule| match &rule.peer {
                Peer::Group { group, .. } => !self.resources.contains_key(group.as_str()),
                _ => true,
            };
            for (direction, property) in
                [(Direction::Inbound, "SecurityGroupIngress"), (Direction::Outbound, "SecurityGroupEgress")]
            {
                let own = rules.iter().filter(|rule| rule.direction == direction).filter(here);
                let mut listed: Vec<Value> = own.map(|rule| Value::Map(self.rule(rule))).collect();
                // No list would leave AWS's rule that lets everything out.
                if direction == Direction::Outbound && listed.is_empty() {
                    listed.push(Value::Map(vec![("IpProtocol", text("-1")), ("CidrIp", text("127.0.0.1/32"))]));
                }
                if !listed.is_empty() {
                    properties.push((property, Value::List(listed)));
                }
            }
            let others: Vec<&GroupRule> = rules.iter().filter(|rule| !here(rule)).collect();
            self.object(&group.identity, "SecurityGroup", properties);
            for rule in others {
                let (kind, what) = match rule.direction {
                    Direction::Inbound => ("SecurityGroupIngress", "In"),
                    Direction::Outbound => ("SecurityGroupEgress", "Out"),
                };
                let mut properties = vec![("GroupId", self.link(&group.identity.key))];
                properties.extend(self.rule(rule));
                self.part(&group.identity, what, kind, properties);
            }
            if rules.iter().any(|rule| rule.id.is_some() || !rule.tags.is_empty()) {
                let message = "ids and tags of its rules are not written: a template has no place for them";
                self.note(Because::NotExpressible, &group.identity, message);
            }
        }
    }

    fn rule(&self, rule: &GroupRule) -> Vec<(&'static str, Value)> {
        let (list, group) = match rule.direction {
            Direction::Inbound => ("SourcePrefixListId", "SourceSecurityGroupId"),
            Direction::Outbound => ("DestinationPrefixListId", "DestinationSecurityGroupId"),
        };
        let mut properties = vec![("IpProtocol", text(words::protocol(rule.traffic.protocol)))];
        if let Some((from, to)) = words::numbers(&rule.traffic) {
            properties.push(("FromPort", Value::Number(from.into())));
            properties.push(("ToPort", Value::Number(to.into())));
        }
        match &rule.peer {
            Peer::Cidr(cidr) => {
                properties.push((if is_v4(cidr) { "CidrIp" } else { "CidrIpv6" }, text(cidr.to_string())));
            }
            Peer::PrefixList(key) => properties.push((list, self.link(key))),
            Peer::Group { group: key, owner, .. } => {
                properties.push((group, self.link(key)));
                if let (Some(owner), Direction::Inbound) = (owner, rule.direction) {
                    properties.push(("SourceSecurityGroupOwnerId", text(owner)));
                }
            }
        }
        properties.extend(rule.description.as_ref().map(|description| ("Description", text(description))));
        properties
    }

    fn interfaces(&mut self) {
        for eni in &self.inventory.interfaces {
            let Some(subnet) = &eni.subnet else {
                let message = "a network interface needs a subnet, and none is known: it is left out";
                self.note(Because::NotHere, &eni.identity, message);
                continue;
            };
            let mut properties = vec![("SubnetId", self.link(subnet))];
            properties.extend(eni.identity.description.as_ref().map(|description| ("Description", text(description))));
            let v4: Vec<String> = eni.addresses.iter().filter(|one| one.is_ipv4()).map(ToString::to_string).collect();
            if !v4.is_empty() {
                let each = v4.into_iter().enumerate().map(|(at, address)| {
                    Value::Map(vec![("PrivateIpAddress", text(address)), ("Primary", Value::Flag(at == 0))])
                });
                properties.push(("PrivateIpAddresses", Value::List(each.collect())));
            }
            let v6 = eni.addresses.iter().filter(|one| one.is_ipv6());
            let v6: Vec<Value> = v6.map(|one| Value::Map(vec![("Ipv6Address", text(one.to_string()))])).collect();
            if !v6.is_empty() {
                properties.push(("Ipv6Addresses", Value::List(v6)));
            }
            if !eni.groups.is_empty() {
                properties.push(("GroupSet", Value::List(eni.groups.iter().map(|group| self.link(group)).collect())));
            }
            self.object(&eni.identity, "NetworkInterface", properties);
        }
    }
}

impl Value {
    /// After a key's colon, or a list's dash: a scalar on its line, the others on lines of their own.
    fn write(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        match self {
            Self::Text(text) => {
                // JSON's strings are YAML's too.
                let _ = writeln!(out, " {}", serde_json::Value::from(text.as_str()));
            }
            Self::Number(number) => {
                let _ = writeln!(out, " {number}");
            }
            Self::Flag(flag) => {
                let _ = writeln!(out, " {flag}");
            }
            Self::Ref(name) => {
                let _ = writeln!(out, " !Ref {name}");
            }
            Self::List(items) => {
                out.push('\n');
                for item in items {
                    let _ = write!(out, "{indent}-");
                    match item {
                        // Its first member stands after the dash.
                        Self::Map(members) => {
                            for (at, (key, value)) in members.iter().enumerate() {
                                let before = if at == 0 { " ".to_owned() } else { format!("{indent}  ") };
                                let _ = write!(out, "{before}{key}:");
                                value.write(out, depth + 2);
                            }
                        }
                        item => item.write(out, depth + 1),
                    }
                }
            }
            Self::Map(members) => {
                out.push('\n');
                for (key, value) in members {
                    let _ = write!(out, "{indent}{key}:");
                    value.write(out, depth + 1);
                }
            }
        }
    }
}

const fn is_v4(cidr: &IpNet) -> bool {
    matches!(cidr, IpNet::V4(_))
}

fn is_aws(list: &PrefixList) -> bool {
    list.identity.owner.as_deref() == Some("AWS")
}

/// `web-server_1` as `WebServer1`.
fn camel(name: &str) -> String {
    let mut found = String::new();
    for word in name.split(|char: char| !char.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let (first, rest) = word.split_at(1);
        found.push_str(&first.to_ascii_uppercase());
        found.push_str(rest);
    }
    found.truncate(60);
    found
}
