//! An inventory → the text of a policy, as a person would write it: one table a thing, one rule a line. Deterministic; reads
//! nothing, and judges nothing.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use ipnet::IpNet;
use nacl_common::{Direction, Family};
use thiserror::Error;

use super::{
    Entry, GroupRule, Identity, Inventory, Link, NetworkAcl, NetworkInterface, Note, Peer, PrefixList, SecurityGroup,
    Traffic, Vpc,
};
use crate::{
    policy::quoted,
    report::rule::{key, matches_toml, remote_key},
    resolve::{Icmp, Protocol},
};

/// An interface of this machine that something of the inventory is put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// The device.
    pub device: String,
    /// Which interface it is at AWS, by its id or a name of it; else the subnet it stands in, or the network ACL on it.
    pub of: String,
}

/// A policy that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its text.
    pub policy: String,
    /// What is told of it: what the documents left out, and what the policy cannot say.
    pub notes: Vec<Note>,
}

/// What cannot be put on a device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HereError {
    /// Nothing has that name.
    #[error("{device}: the documents tell of no interface, subnet or network ACL {of:?}")]
    Unknown {
        /// The device.
        device: String,
        /// What was asked for.
        of: String,
        /// Interfaces there are.
        known: Vec<String>,
    },
    /// Several things have it.
    #[error("{device}: {of:?} is the name of {count} things")]
    Ambiguous {
        /// The device.
        device: String,
        /// What was asked for.
        of: String,
        /// How many.
        count: usize,
    },
    /// What it would be judged by is not known.
    #[error("{device}: {what} {name} is only named in the documents, and {of} would be judged by it")]
    NotKnown {
        /// The device.
        device: String,
        /// What was asked for.
        of: String,
        /// What is only named.
        what: &'static str,
        /// Its name.
        name: String,
    },
}

impl HereError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { known, .. } if known.is_empty() => {
                Some("interfaces are told by describe-network-interfaces".to_owned())
            }
            Self::Unknown { known, .. } => Some(format!("interfaces there are: {}", known.join(", "))),
            Self::Ambiguous { .. } => Some("name it by its id".to_owned()),
            Self::NotKnown { what, .. } => Some(format!("add the document that tells of every {what}")),
        }
    }
}

/// Writes a policy.
///
/// # Errors
/// Something is to be put on a device that is not there, or is not known: all of them.
pub fn write(inventory: Inventory, here: &[Here]) -> Result<Written, Vec<HereError>> {
    let complete = inventory.complete();
    let documents = documents(&complete);
    let mut devices = Vec::new();
    let mut errors = Vec::new();
    for here in here {
        match find(&complete, here) {
            Ok(on) => devices.push((here.device.as_str(), on)),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let (named, names) = complete.named();
    let named_on = |on: On| match on {
        On::Interface(key) => On::Interface(names.interfaces[&key].clone()),
        On::Subnet(key) => On::Subnet(names.subnets[&key].clone()),
        On::Nacl(key) => On::Nacl(names.nacls[&key].clone()),
    };
    let devices: Vec<_> = devices.into_iter().map(|(device, on)| (device, named_on(on))).collect();
    let mut writer = Writer {
        out: String::new(),
        account: named.account.as_deref(),
        plain_vpc: named.vpcs.len() == 1,
        fields: Vec::new(),
    };
    writer.all(&named, &documents, &devices);
    let policy = writer.out;
    let mut notes = named.notes;
    notes.sort();
    notes.dedup();
    Ok(Written { policy, notes })
}

/// The files everything came from, in order.
fn documents(inventory: &Inventory) -> Vec<String> {
    let identities = inventory.identities();
    let mut files: Vec<String> = identities.iter().map(|identity| identity.place.file.to_string()).collect();
    files.sort();
    files.dedup();
    files.retain(|file| !file.is_empty());
    files
}

/// What is put on a device, by its key or name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum On {
    Interface(Link),
    Subnet(Link),
    Nacl(Link),
}

/// What is to be put on a device; every part of it that judges is known.
fn find(inventory: &Inventory, here: &Here) -> Result<On, HereError> {
    let is = |identity: &Identity| {
        identity.key == here.of
            || identity.id.as_ref() == Some(&here.of)
            || identity.names.contains(&here.of)
            || identity.tags.get("Name") == Some(&here.of)
    };
    let not_known = |what, name: &str| HereError::NotKnown {
        device: here.device.clone(),
        of: here.of.clone(),
        what,
        name: name.to_owned(),
    };
    let subnet_known = |link: &Link| match inventory.subnets.iter().find(|subnet| subnet.identity.key == *link) {
        Some(subnet) if subnet.cidrs.is_empty() => Err(not_known("subnet", link)),
        _ => Ok(()),
    };
    let interfaces: Vec<_> = inventory.interfaces.iter().filter(|interface| is(&interface.identity)).collect();
    let subnets: Vec<_> = inventory.subnets.iter().filter(|subnet| is(&subnet.identity)).collect();
    let nacls: Vec<_> = inventory.nacls.iter().filter(|nacl| is(&nacl.identity)).collect();
    let ambiguous = |count| HereError::Ambiguous { device: here.device.clone(), of: here.of.clone(), count };
    match (&interfaces[..], &subnets[..], &nacls[..]) {
        ([interface], ..) => {
            interface.subnet.iter().try_for_each(subnet_known)?;
            for link in &interface.groups {
                let group = inventory.groups.iter().find(|group| group.identity.key == *link);
                if group.is_some_and(|group| group.rules.is_none()) {
                    return Err(not_known("security group", link));
                }
            }
            Ok(On::Interface(interface.identity.key.clone()))
        }
        ([], [subnet], _) => {
            subnet_known(&subnet.identity.key)?;
            Ok(On::Subnet(subnet.identity.key.clone()))
        }
        ([], [], [nacl]) => Ok(On::Nacl(nacl.identity.key.clone())),
        ([], [], []) => {
            let known = |interface: &NetworkInterface| {
                interface.identity.names.first().unwrap_or(&interface.identity.key).clone()
            };
            let known = inventory.interfaces.iter().map(known).collect();
            Err(HereError::Unknown { device: here.device.clone(), of: here.of.clone(), known })
        }
        ([], [], several) => Err(ambiguous(several.len())),
        ([], several, _) => Err(ambiguous(several.len())),
        (several, ..) => Err(ambiguous(several.len())),
    }
}

/// A table while it is written.
struct Writer<'i> {
    out: String,
    account: Option<&'i str>,
    /// Whether the VPC is `[vpc]`, which nothing names.
    plain_vpc: bool,
    /// Keys of the table at hand, and their values.
    fields: Vec<(&'static str, String)>,
}

impl<'i> Writer<'i> {
    fn all(&mut self, inventory: &'i Inventory, documents: &[String], devices: &[(&str, On)]) {
        self.head(inventory, documents);
        for vpc in &inventory.vpcs {
            self.vpc(vpc);
        }
        let nacl_of: BTreeMap<&str, &str> = inventory
            .nacls
            .iter()
            .flat_map(|nacl| nacl.subnets.iter().map(|on| (on.subnet.as_str(), nacl.identity.key.as_str())))
            .collect();
        for subnet in &inventory.subnets {
            self.identity(&subnet.identity, !subnet.cidrs.is_empty());
            self.in_vpc(subnet.vpc.as_ref());
            self.known("cidrs", &subnet.cidrs);
            let nacl = nacl_of.get(subnet.identity.key.as_str());
            self.maybe("nacl", nacl.copied());
            self.tags(&subnet.identity);
            self.table("subnet", &subnet.identity.key);
        }
        for nacl in &inventory.nacls {
            self.nacl(nacl);
        }
        for group in &inventory.groups {
            self.group(group);
        }
        for list in &inventory.prefix_lists {
            self.prefix_list(list);
        }
        let here = |name: &str| devices.iter().any(|(_, on)| matches!(on, On::Interface(key) if key == name));
        for interface in inventory.interfaces.iter().filter(|interface| !here(&interface.identity.key)) {
            self.interface(interface, inventory);
            self.table("eni", &interface.identity.key);
        }
        for (device, on) in devices {
            match on {
                On::Interface(name) => {
                    let found = inventory.interfaces.iter().find(|interface| interface.identity.key == *name);
                    if let Some(interface) = found {
                        self.interface(interface, inventory);
                    }
                }
                On::Subnet(name) => self.field("subnet", quoted(name)),
                On::Nacl(name) => self.field("nacl", quoted(name)),
            }
            self.table("interface", device);
        }
    }

    fn head(&mut self, inventory: &Inventory, documents: &[String]) {
        /// Files named in the first line.
        const NAMED: usize = 6;
        if !documents.is_empty() {
            // A file's name may hold anything; a comment holds one line.
            let plain = |file: &String| file.chars().map(|sign| if sign.is_control() { '?' } else { sign }).collect();
            let shown: Vec<String> = documents.iter().take(NAMED).map(plain).collect();
            let more = documents.len().saturating_sub(NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let _ = writeln!(self.out, "# Imported from {}{more}.", shown.join(", "));
        }
        self.out.push_str("version = 1\n");
        self.maybe("account", inventory.account.as_deref());
        self.maybe("region", inventory.region.as_deref());
        if !self.fields.is_empty() {
            self.section("[aws]");
        }
    }

    fn vpc(&mut self, vpc: &Vpc) {
        self.identity(&vpc.identity, !vpc.cidrs.is_empty());
        self.known("cidrs", &vpc.cidrs);
        self.tags(&vpc.identity);
        if self.plain_vpc {
            self.section("[vpc]");
        } else {
            self.table("vpc", &vpc.identity.key);
        }
    }

    fn nacl(&mut self, nacl: &NetworkAcl) {
        self.identity(&nacl.identity, true);
        self.in_vpc(nacl.vpc.as_ref());
        if nacl.default {
            self.field("default", "true".to_owned());
        }
        self.tags(&nacl.identity);
        for direction in DIRECTIONS {
            let of = nacl.entries.iter().filter(|entry| entry.direction == direction);
            self.field(direction.name(), lines(of.map(entry_toml)));
        }
        self.table("nacl", &nacl.identity.key);
    }

    fn group(&mut self, group: &SecurityGroup) {
        self.identity(&group.identity, group.rules.is_some());
        self.maybe("name", group.name.as_deref());
        self.maybe("description", group.identity.description.as_deref());
        self.in_vpc(group.vpc.as_ref());
        self.tags(&group.identity);
        if group.rules.is_none() {
            self.field("external", "true".to_owned());
        }
        for direction in DIRECTIONS.into_iter().filter(|_| group.rules.is_some()) {
            let of = group.rules.iter().flatten().filter(|rule| rule.direction == direction);
            self.field(direction.name(), lines(of.map(|rule| rule_toml(rule, &group.identity.key))));
        }
        self.table("security_group", &group.identity.key);
    }

    fn prefix_list(&mut self, list: &PrefixList) {
        self.identity(&list.identity, list.entries.is_some());
        self.maybe("name", list.name.as_deref());
        self.maybe("family", list.family.map(|family| if family == Family::V4 { "ipv4" } else { "ipv6" }));
        if let Some(most) = list.max_entries.filter(|most| *most > 0) {
            self.field("max_entries", most.to_string());
        }
        self.tags(&list.identity);
        match &list.entries {
            None => self.field("external", "true".to_owned()),
            Some(entries) => self.field(
                "entries",
                lines(entries.iter().map(|entry| match &entry.description {
                    None => quoted(&entry.cidr.to_string()),
                    Some(text) => format!("{{ cidr = \"{}\", description = {} }}", entry.cidr, quoted(text)),
                })),
            ),
        }
        self.table("prefix_list", &list.identity.key);
    }

    fn interface(&mut self, interface: &NetworkInterface, inventory: &Inventory) {
        self.identity(&interface.identity, true);
        self.maybe("description", interface.identity.description.as_deref());
        let subnet = interface.subnet.as_ref();
        let of_subnet = inventory.subnets.iter().find(|known| Some(&known.identity.key) == subnet);
        // A subnet says it already.
        if of_subnet.is_none_or(|known| known.vpc != interface.vpc) {
            self.in_vpc(interface.vpc.as_ref());
        }
        self.maybe("subnet", subnet.map(String::as_str));
        self.field("addresses", list(interface.addresses.iter().map(|address| quoted(&address.to_string()))));
        // At AWS an interface has one at least (S9), so none are not told; an empty list would let nothing pass.
        if !interface.groups.is_empty() {
            self.field("security_groups", list(interface.groups.iter().map(|group| quoted(group))));
        }
        self.tags(&interface.identity);
    }

    fn field(&mut self, name: &'static str, value: String) {
        self.fields.push((name, value));
    }

    fn maybe(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.field(name, quoted(value));
        }
    }

    /// The id, and the owner where it is not the usual one. `here`: it is told of, and not only named.
    fn identity(&mut self, identity: &Identity, here: bool) {
        self.maybe("id", identity.id.as_deref());
        let owner = identity.owner.as_deref();
        self.maybe("owner", owner.filter(|_| !here || owner != self.account));
    }

    fn in_vpc(&mut self, vpc: Option<&Link>) {
        let plain = self.plain_vpc;
        self.maybe("vpc", vpc.map(String::as_str).filter(|_| !plain));
    }

    /// CIDRs, or that they are not known.
    fn known(&mut self, name: &'static str, cidrs: &[IpNet]) {
        if cidrs.is_empty() {
            self.field("external", "true".to_owned());
        } else {
            self.field(name, list(cidrs.iter().map(|cidr| quoted(&cidr.to_string()))));
        }
    }

    fn tags(&mut self, identity: &Identity) {
        if !identity.tags.is_empty() {
            self.field("tags", tags_toml(&identity.tags));
        }
    }

    fn table(&mut self, kind: &str, name: &str) {
        self.section(&format!("[{kind}.{}]", key(name)));
    }

    /// Writes the fields at hand below a heading.
    fn section(&mut self, heading: &str) {
        let _ = writeln!(self.out, "\n{heading}");
        for (name, value) in std::mem::take(&mut self.fields) {
            let _ = writeln!(self.out, "{name} = {value}");
        }
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

/// A list on one line.
fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// A list with an item a line.
fn lines(items: impl Iterator<Item = String>) -> String {
    let text: String = items.fold(String::new(), |text, item| text + "  " + &item + ",\n");
    if text.is_empty() { "[]".to_owned() } else { format!("[\n{text}]") }
}

fn tags_toml(tags: &BTreeMap<String, String>) -> String {
    let tags: Vec<_> = tags.iter().map(|(name, value)| format!("{} = {}", key(name), quoted(value))).collect();
    format!("{{ {} }}", tags.join(", "))
}

/// Protocol, ports and type, with what AWS wants written (N29, N30, S12).
fn traffic_toml(traffic: Traffic) -> String {
    let icmp = traffic.icmp.and_then(|(kind, code)| Some(Icmp { kind: kind?, code }));
    let text = matches_toml(traffic.protocol, traffic.ports, icmp);
    let more = match traffic.protocol {
        Protocol::Number(6 | 17) if traffic.ports.is_none() => ", ports = \"all\"",
        Protocol::Number(1 | 58) if icmp.is_none() => ", icmp = { type = -1 }",
        _ => "",
    };
    text + more
}

fn entry_toml(entry: &Entry) -> String {
    let Entry { direction, number, action, traffic, cidr, .. } = entry;
    let (action, traffic, end) = (action.name(), traffic_toml(*traffic), remote_key(*direction));
    format!("{{ rule = {number}, action = \"{action}\", {traffic}, {end} = \"{cidr}\" }}")
}

fn rule_toml(rule: &GroupRule, own: &str) -> String {
    let referred = |kind: &str, name: &str| {
        if name.starts_with(&format!("{kind}-")) { name.to_owned() } else { format!("{kind}:{name}") }
    };
    let mut peering = None;
    let remote: Cow<'_, str> = match &rule.peer {
        Peer::Cidr(cidr) => cidr.to_string().into(),
        Peer::PrefixList(name) => referred("pl", name).into(),
        Peer::Group { group, peering: by, .. } => {
            peering = by.as_deref();
            if group == own { "self".into() } else { referred("sg", group).into() }
        }
    };
    let mut text = format!("{{ {}, {} = {}", traffic_toml(rule.traffic), remote_key(rule.direction), quoted(&remote));
    for (name, value) in
        [("peering", peering), ("description", rule.description.as_deref()), ("id", rule.id.as_deref())]
    {
        if let Some(value) = value {
            let _ = write!(text, ", {name} = {}", quoted(value));
        }
    }
    if !rule.tags.is_empty() {
        let _ = write!(text, ", tags = {}", tags_toml(&rule.tags));
    }
    text + " }"
}
