//! [`Inventory`] → HCL of Terraform's AWS provider: one resource an object, and `import` blocks where ids are known.
//!
//! Rules of a security group are resources of their own, which the provider's documentation recommends: each then has its id,
//! tags and description, and groups can name each other. Entries of a network ACL stand in it: it is one ordered list, and
//! only so does Terraform see an entry that somebody else has put into it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use ipnet::IpNet;
use nacl_common::{Direction, Family};

use super::{Exported, words};
use crate::inventory::{Because, Entry, GroupRule, Identity, Inventory, Note, Peer, PrefixList, SecurityGroup};

/// Writes what Terraform can say of it.
pub fn write(inventory: &Inventory) -> Exported {
    let mut writer = Writer {
        inventory,
        text: String::new(),
        notes: Vec::new(),
        names: BTreeMap::new(),
        resources: BTreeMap::new(),
    };
    writer.name_all();
    writer.text.push_str("# Written by `nacld export terraform`.\n");
    writer.vpcs();
    writer.subnets();
    writer.prefix_lists();
    writer.nacls();
    writer.groups();
    writer.interfaces();
    let all = inventory.vpcs.iter().map(|vpc| &vpc.identity);
    let all = all.chain(inventory.subnets.iter().map(|subnet| &subnet.identity));
    let all = all.chain(inventory.nacls.iter().map(|acl| &acl.identity));
    if all.chain(inventory.groups.iter().map(|group| &group.identity)).any(|identity| identity.owner.is_some()) {
        let message = "accounts are not written: resources are of the account that the provider is set up for";
        words::summary(&mut writer.notes, Because::NotExpressible, message);
    }
    Exported { text: writer.text, notes: writer.notes }
}

struct Writer<'i> {
    inventory: &'i Inventory,
    text: String,
    notes: Vec<Note>,
    /// Names given out, by type of resource.
    names: BTreeMap<&'static str, words::Names>,
    /// Addresses of the objects that are written, by key.
    resources: BTreeMap<&'i str, String>,
}

/// An argument, a nested block, or an empty line.
enum Line {
    Argument(String, String),
    Block(String, Vec<Line>),
}

fn argument(name: &str, value: impl Into<String>) -> Line {
    Line::Argument(name.to_owned(), value.into())
}

impl<'i> Writer<'i> {
    /// Which objects become resources, and what each is called: rules name groups that stand further down.
    fn name_all(&mut self) {
        let inventory = self.inventory;
        for vpc in &inventory.vpcs {
            self.call("aws_vpc", &vpc.identity);
        }
        for subnet in inventory.subnets.iter().filter(|subnet| subnet.vpc.is_some()) {
            self.call("aws_subnet", &subnet.identity);
        }
        for list in &inventory.prefix_lists {
            if is_aws(list) {
                if list.identity.id.is_some() {
                    continue;
                }
                let name = self.name("data.aws_ec2_managed_prefix_list", &list.identity);
                self.resources.insert(&list.identity.key, format!("data.aws_ec2_managed_prefix_list.{name}"));
            } else if list.entries.is_some() {
                self.call("aws_ec2_managed_prefix_list", &list.identity);
            }
        }
        for acl in &inventory.nacls {
            self.call(if acl.default { "aws_default_network_acl" } else { "aws_network_acl" }, &acl.identity);
        }
        for group in inventory.groups.iter().filter(|group| group.rules.is_some()) {
            self.call(kind_of(group), &group.identity);
        }
        for eni in inventory.interfaces.iter().filter(|eni| eni.subnet.is_some()) {
            self.call("aws_network_interface", &eni.identity);
        }
    }

    fn name(&mut self, kind: &'static str, identity: &Identity) -> String {
        self.names.entry(kind).or_default().unique(&identifier(words::best(identity)), "_")
    }

    fn call(&mut self, kind: &'static str, identity: &'i Identity) {
        let name = self.name(kind, identity);
        self.resources.insert(&identity.key, format!("{kind}.{name}"));
    }

    fn note(&mut self, because: Because, identity: &Identity, message: impl Into<String>) {
        self.notes.push(Note { because, place: identity.place.clone(), message: message.into() });
    }

    /// An expression for an object: of one that is written its id, of another what it is known by.
    fn link(&self, key: &str) -> String {
        self.resources.get(key).map_or_else(|| quoted(key), |address| format!("{address}.id"))
    }

    fn resource(&mut self, identity: &Identity, lines: Vec<Line>) {
        let Some(address) = self.resources.get(identity.key.as_str()).cloned() else { return };
        self.block(&address, lines, identity.id.as_deref());
    }

    /// A block of a resource or a data source, and the import of what is there already.
    fn block(&mut self, address: &str, lines: Vec<Line>, id: Option<&str>) {
        let (kind, rest) = address.strip_prefix("data.").map_or(("resource", address), |rest| ("data", rest));
        let (kind_of, name) = rest.split_once('.').unwrap_or((rest, ""));
        self.text.push('\n');
        body(&mut self.text, 0, &format!("{kind} {} {}", quoted(kind_of), quoted(name)), &lines);
        if let (Some(id), "resource") = (id, kind) {
            self.text.push('\n');
            body(&mut self.text, 0, "import", &[argument("to", address), argument("id", quoted(id))]);
        }
    }

    fn vpcs(&mut self) {
        for vpc in &self.inventory.vpcs {
            let mut lines = Vec::new();
            let mut more = Vec::new();
            let mut seen = BTreeSet::new();
            for cidr in &vpc.cidrs {
                let (name, separate) = match cidr {
                    IpNet::V4(_) => ("cidr_block", "aws_vpc_ipv4_cidr_block_association"),
                    IpNet::V6(_) => ("ipv6_cidr_block", "aws_vpc_ipv6_cidr_block_association"),
                };
                if seen.insert(name) {
                    lines.push(argument(name, quoted(&cidr.to_string())));
                } else {
                    more.push((separate, name, cidr));
                }
            }
            if vpc.cidrs.iter().any(|cidr| matches!(cidr, IpNet::V6(_))) {
                let message =
                    "an IPv6 CIDR comes from a pool or from AWS: which one has to be said beside `ipv6_cidr_block`";
                self.note(Because::NotExpressible, &vpc.identity, message);
            }
            if vpc.cidrs.is_empty() {
                self.note(Because::Unknown, &vpc.identity, "its CIDR is not known, and `cidr_block` has to be added");
            }
            lines.extend(tags(&vpc.identity.tags));
            self.resource(&vpc.identity, lines);
            for (kind, name, cidr) in more {
                let own = self.names.entry(kind).or_default().unique(&identifier(words::best(&vpc.identity)), "_");
                let lines =
                    vec![argument("vpc_id", self.link(&vpc.identity.key)), argument(name, quoted(&cidr.to_string()))];
                self.block(&format!("{kind}.{own}"), lines, None);
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
            let mut lines = vec![argument("vpc_id", self.link(vpc))];
            let mut seen = BTreeSet::new();
            for cidr in &subnet.cidrs {
                let name = if matches!(cidr, IpNet::V4(_)) { "cidr_block" } else { "ipv6_cidr_block" };
                if seen.insert(name) {
                    lines.push(argument(name, quoted(&cidr.to_string())));
                } else {
                    let message = format!("a subnet has one CIDR of a family: {cidr} is left out");
                    self.note(Because::NotExpressible, &subnet.identity, message);
                }
            }
            lines.extend(tags(&subnet.identity.tags));
            self.resource(&subnet.identity, lines);
        }
    }

    fn prefix_lists(&mut self) {
        for list in &self.inventory.prefix_lists {
            if is_aws(list) {
                let name = list.name.as_deref().unwrap_or(words::best(&list.identity));
                self.resource(&list.identity, vec![argument("name", quoted(name))]);
                self.note(Because::NoEffect, &list.identity, "AWS's own list is only named: its entries are AWS's");
                continue;
            }
            let Some(entries) = &list.entries else { continue };
            let family = list.family.or_else(|| {
                let first = entries.first()?;
                Some(if matches!(first.cidr, IpNet::V4(_)) { Family::V4 } else { Family::V6 })
            });
            let most = list.max_entries.unwrap_or_else(|| {
                let message = "how many entries it may have is not known: as many as there are";
                self.note(Because::Unknown, &list.identity, message);
                u32::try_from(entries.len()).unwrap_or(u32::MAX).max(1)
            });
            let mut lines = vec![
                argument("name", quoted(list.name.as_deref().unwrap_or(words::best(&list.identity)))),
                argument("address_family", quoted(if family == Some(Family::V6) { "IPv6" } else { "IPv4" })),
                argument("max_entries", most.to_string()),
            ];
            lines.extend(tags(&list.identity.tags));
            for entry in entries {
                let mut block = vec![argument("cidr", quoted(&entry.cidr.to_string()))];
                block.extend(entry.description.as_ref().map(|text| argument("description", quoted(text))));
                lines.push(Line::Block("entry".to_owned(), block));
            }
            self.resource(&list.identity, lines);
        }
    }

    fn nacls(&mut self) {
        for acl in &self.inventory.nacls {
            let mut lines = Vec::new();
            let mut subnets: Vec<&str> = acl.subnets.iter().map(|one| one.subnet.as_str()).collect();
            if acl.default {
                let vpc = acl.vpc.as_deref().and_then(|vpc| self.resources.get(vpc));
                let id = match (vpc, &acl.identity.id) {
                    (Some(vpc), _) => format!("{vpc}.default_network_acl_id"),
                    (None, Some(id)) => quoted(id),
                    (None, None) => {
                        let message =
                            "neither its id nor its VPC is known, and `default_network_acl_id` has to be added";
                        self.note(Because::Unknown, &acl.identity, message);
                        quoted("")
                    }
                };
                lines.push(argument("default_network_acl_id", id));
                subnets = words::rest_of(self.inventory, acl).into_iter().map(String::as_str).collect();
            } else if let Some(vpc) = &acl.vpc {
                lines.push(argument("vpc_id", self.link(vpc)));
            } else {
                self.note(Because::NotHere, &acl.identity, "its VPC is not known, and `vpc_id` has to be added");
            }
            if !subnets.is_empty() {
                let links: Vec<String> = subnets.into_iter().map(|subnet| self.link(subnet)).collect();
                lines.push(argument("subnet_ids", list(&links)));
            }
            lines.extend(tags(&acl.identity.tags));
            for entry in &acl.entries {
                lines.push(Line::Block(block_of(entry.direction).to_owned(), entry_lines(entry)));
            }
            self.resource(&acl.identity, lines);
        }
    }

    fn groups(&mut self) {
        for group in &self.inventory.groups {
            let Some(rules) = &group.rules else {
                let message = "is only named, and stays what it is: its rules are not known";
                self.note(Because::NotHere, &group.identity, message);
                continue;
            };
            let default = kind_of(group) == "aws_default_security_group";
            let mut lines = Vec::new();
            if !default {
                lines.extend(group.name.as_ref().map(|name| argument("name", quoted(name))));
                lines.extend(group.identity.description.as_ref().map(|text| argument("description", quoted(text))));
            }
            lines.extend(group.vpc.as_ref().map(|vpc| argument("vpc_id", self.link(vpc))));
            lines.extend(tags(&group.identity.tags));
            if default {
                // The provider strips the default group of every rule that does not stand in it.
                for rule in rules {
                    lines.push(Line::Block(block_of(rule.direction).to_owned(), self.inline_rule(group, rule)));
                }
                self.resource(&group.identity, lines);
                continue;
            }
            self.resource(&group.identity, lines);
            let name = identifier(words::best(&group.identity));
            for rule in rules {
                self.rule(group, &name, rule);
            }
        }
    }

    /// A rule as a block of its group, for the default one.
    fn inline_rule(&mut self, group: &SecurityGroup, rule: &GroupRule) -> Vec<Line> {
        let (from, to) = words::numbers(&rule.traffic).unwrap_or((0, 0));
        let mut lines = vec![
            argument("protocol", quoted(&words::protocol(rule.traffic.protocol))),
            argument("from_port", from.to_string()),
            argument("to_port", to.to_string()),
        ];
        lines.push(match &rule.peer {
            Peer::Cidr(cidr @ IpNet::V4(_)) => argument("cidr_blocks", list(&[quoted(&cidr.to_string())])),
            Peer::Cidr(cidr @ IpNet::V6(_)) => argument("ipv6_cidr_blocks", list(&[quoted(&cidr.to_string())])),
            Peer::PrefixList(key) => argument("prefix_list_ids", list(&[self.link(key)])),
            Peer::Group { group: peer, .. } if *peer == group.identity.key => argument("self", "true"),
            Peer::Group { group: peer, owner, .. } => {
                argument("security_groups", list(&[self.group_link(peer, owner.as_deref())]))
            }
        });
        lines.extend(rule.description.as_ref().map(|text| argument("description", quoted(text))));
        if !rule.tags.is_empty() || rule.id.is_some() {
            let message = "ids and tags of a default group's rules are not written: they stand in the group";
            self.note(Because::NotExpressible, &group.identity, message);
        }
        lines
    }

    fn rule(&mut self, group: &SecurityGroup, name: &str, rule: &GroupRule) {
        let kind = match rule.direction {
            Direction::Inbound => "aws_vpc_security_group_ingress_rule",
            Direction::Outbound => "aws_vpc_security_group_egress_rule",
        };
        let protocol = words::protocol(rule.traffic.protocol);
        let mut own = format!("{name}_{}", if protocol == "-1" { "all" } else { protocol.as_str() });
        if let Some((first, last)) = rule.traffic.ports {
            let _ = write!(own, "_{first}");
            if last != first {
                let _ = write!(own, "_{last}");
            }
        }
        let own = self.names.entry(kind).or_default().unique(&own, "_no_");
        let mut lines = vec![argument("security_group_id", self.link(&group.identity.key))];
        lines.extend(rule.description.as_ref().map(|text| argument("description", quoted(text))));
        lines.push(argument("ip_protocol", quoted(&protocol)));
        // With "-1" the provider refuses ports, with any other number it wants them (S11: they mean nothing).
        let numbers = words::numbers(&rule.traffic).or((protocol != "-1").then_some((-1, -1)));
        if let Some((from, to)) = numbers {
            lines.push(argument("from_port", from.to_string()));
            lines.push(argument("to_port", to.to_string()));
        }
        lines.push(match &rule.peer {
            Peer::Cidr(cidr @ IpNet::V4(_)) => argument("cidr_ipv4", quoted(&cidr.to_string())),
            Peer::Cidr(cidr @ IpNet::V6(_)) => argument("cidr_ipv6", quoted(&cidr.to_string())),
            Peer::PrefixList(key) => argument("prefix_list_id", self.link(key)),
            Peer::Group { group: peer, owner, peering, .. } => {
                if let Some(peering) = peering {
                    let message = format!("peering connection {peering} is not written: AWS finds it by itself");
                    self.note(Because::NoEffect, &group.identity, message);
                }
                argument("referenced_security_group_id", self.group_link(peer, owner.as_deref()))
            }
        });
        lines.extend(tags(&rule.tags));
        self.block(&format!("{kind}.{own}"), lines, rule.id.as_deref());
    }

    /// Another account's group has its account before it.
    fn group_link(&self, key: &str, owner: Option<&str>) -> String {
        match owner {
            Some(owner) if !self.resources.contains_key(key) => quoted(&format!("{owner}/{key}")),
            _ => self.link(key),
        }
    }

    fn interfaces(&mut self) {
        for eni in &self.inventory.interfaces {
            let Some(subnet) = &eni.subnet else {
                let message = "a network interface needs a subnet, and none is known: it is left out";
                self.note(Because::NotHere, &eni.identity, message);
                continue;
            };
            let mut lines = vec![argument("subnet_id", self.link(subnet))];
            lines.extend(eni.identity.description.as_ref().map(|text| argument("description", quoted(text))));
            for (name, v4) in [("private_ips", true), ("ipv6_addresses", false)] {
                let of_family = eni.addresses.iter().filter(|address| address.is_ipv4() == v4);
                let texts: Vec<String> = of_family.map(|address| quoted(&address.to_string())).collect();
                if !texts.is_empty() {
                    lines.push(argument(name, list(&texts)));
                }
            }
            if !eni.groups.is_empty() {
                let groups: Vec<String> = eni.groups.iter().map(|group| self.link(group)).collect();
                lines.push(argument("security_groups", list(&groups)));
            }
            lines.extend(tags(&eni.identity.tags));
            self.resource(&eni.identity, lines);
        }
    }
}

fn is_aws(list: &PrefixList) -> bool {
    list.identity.owner.as_deref() == Some("AWS")
}

fn kind_of(group: &SecurityGroup) -> &'static str {
    // No other group can have this name (S5).
    if group.name.as_deref() == Some("default") { "aws_default_security_group" } else { "aws_security_group" }
}

const fn block_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "ingress",
        Direction::Outbound => "egress",
    }
}

/// An entry of a network ACL. `from_port` and `to_port` have to be there, 0 where they mean nothing.
fn entry_lines(entry: &Entry) -> Vec<Line> {
    let icmp = words::is_icmp(&entry.traffic);
    let numbers = words::numbers(&entry.traffic).unwrap_or((0, 0));
    let (from, to) = if icmp { (0, 0) } else { numbers };
    // The provider knows no "icmpv6".
    let protocol = match words::protocol(entry.traffic.protocol) {
        name if name == "icmpv6" => "58".to_owned(),
        name => name,
    };
    let mut lines = vec![
        argument("rule_no", entry.number.to_string()),
        argument("action", quoted(entry.action.name())),
        argument("protocol", quoted(&protocol)),
        argument("from_port", from.to_string()),
        argument("to_port", to.to_string()),
    ];
    if icmp {
        lines.push(argument("icmp_type", numbers.0.to_string()));
        lines.push(argument("icmp_code", numbers.1.to_string()));
    }
    let name = if matches!(entry.cidr, IpNet::V4(_)) { "cidr_block" } else { "ipv6_cidr_block" };
    lines.push(argument(name, quoted(&entry.cidr.to_string())));
    lines
}

fn tags(tags: &BTreeMap<String, String>) -> Option<Line> {
    let mut text = String::from("{\n");
    let width = tags.keys().map(|key| quoted(key).chars().count()).max()?;
    for (key, value) in tags {
        let _ = writeln!(text, "  {:width$} = {}", quoted(key), quoted(value));
    }
    text.push('}');
    Some(argument("tags", text))
}

fn list(items: &[String]) -> String {
    format!("[{}]", items.join(", "))
}

/// A block as `terraform fmt` writes it: equal signs below each other, an empty line before a nested block.
fn body(text: &mut String, depth: usize, head: &str, lines: &[Line]) {
    let indent = "  ".repeat(depth);
    let _ = writeln!(text, "{indent}{head} {{");
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        match line {
            Line::Block(head, inner) => {
                if at > 0 {
                    text.push('\n');
                }
                body(text, depth + 1, head, inner);
                at += 1;
            }
            Line::Argument(..) => {
                // A value of several lines stands for itself.
                let run = lines[at..]
                    .iter()
                    .take_while(|line| matches!(line, Line::Argument(_, value) if !value.contains('\n')));
                let run = run.count().max(1);
                let width = lines[at..at + run]
                    .iter()
                    .map(|line| if let Line::Argument(name, _) = line { name.len() } else { 0 })
                    .max()
                    .unwrap_or(0);
                for line in &lines[at..at + run] {
                    if let Line::Argument(name, value) = line {
                        let value = value.replace('\n', &format!("\n{indent}  "));
                        let _ = writeln!(text, "{indent}  {name:width$} = {value}");
                    }
                }
                at += run;
            }
        }
    }
    let _ = writeln!(text, "{indent}}}");
}

/// A text in quotes: no `${` and no `%{` of it is a template.
fn quoted(text: &str) -> String {
    let mut written = String::from("\"");
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '"' => written.push_str("\\\""),
            '\\' => written.push_str("\\\\"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            '$' | '%' if rest.peek() == Some(&'{') => written.extend([char, char]),
            char if char.is_control() => {
                let _ = write!(written, "\\u{:04x}", u32::from(char));
            }
            char => written.push(char),
        }
    }
    written.push('"');
    written
}

/// A name as Terraform has it.
fn identifier(name: &str) -> String {
    let mut found: String = name
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() || char == '_' || char == '-' { char } else { '_' })
        .take(60)
        .collect();
    if !found.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_') {
        found.insert(0, '_');
    }
    found
}
