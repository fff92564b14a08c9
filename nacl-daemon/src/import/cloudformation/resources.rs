//! What AWS::EC2's resources mean, as the CloudFormation User Guide has them → [`Inventory`]. Everything that could be evaluated
//! is evaluated before.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
};

use nacl_common::Direction;

use super::intrinsics::{Resource, Stack};
use crate::{
    import::{
        assemble::{self, Assembly},
        term::{At, Term, What},
        traffic::{self, Lacking},
        tree::Findings,
    },
    inventory::{
        Association, Because, Entry, GroupRule, Identity, Inventory, Link, NetworkAcl, NetworkInterface, Peer,
        PrefixEntry, PrefixList, SecurityGroup, Subnet, Vpc,
    },
    policy,
    resolve::Protocol,
};

/// Properties by which resources of other kinds have security groups.
const WITH_GROUPS: [&str; 6] = [
    "SecurityGroups",
    "SecurityGroupIds",
    "VPCSecurityGroups",
    "VpcSecurityGroupIds",
    "VpcConfig",
    "NetworkConfiguration",
];

/// Links that lead to links.
const HOPS: usize = 16;

/// What stacks come to.
pub(super) fn read(stacks: &[Stack], findings: &Findings) -> Inventory {
    let mut seen = HashSet::new();
    let names = stacks.iter().flat_map(|stack| &stack.resources).map(|resource| resource.name.as_str());
    let ambiguous = names.filter(|name| !seen.insert(*name)).collect();
    let assembly = RefCell::new(Assembly::default());
    for stack in stacks {
        let index = stack.resources.iter().map(|resource| (resource.name.as_str(), resource)).collect();
        let groups = stack.resources.iter().filter(|resource| resource.kind == "AWS::EC2::SecurityGroup");
        let group_names = groups
            .filter_map(|group| Some((group.properties.get("GroupName")?.as_text()?, group.name.as_str())))
            .collect();
        let reader = Reader { stack, index, group_names, ambiguous: &ambiguous, assembly: &assembly, findings };
        stack.resources.iter().for_each(|resource| reader.resource(resource));
        reader.others();
    }
    assembly.into_inner().finish(findings)
}

struct Reader<'r> {
    stack: &'r Stack,
    index: HashMap<&'r str, &'r Resource>,
    /// Logical ids of groups that have a name of their own.
    group_names: HashMap<&'r str, &'r str>,
    /// Logical ids that stand in several templates.
    ambiguous: &'r HashSet<&'r str>,
    assembly: &'r RefCell<Assembly>,
    findings: &'r Findings,
}

impl<'r> Reader<'r> {
    fn at(&self, resource: &'r Resource) -> At<'r> {
        At::new(&resource.properties, &self.stack.file, format!("Resources.{}", resource.name), self.findings)
    }

    fn key(&self, name: &str) -> Link {
        if self.ambiguous.contains(name) { format!("{}: {name}", self.stack.file) } else { name.to_owned() }
    }

    fn identity(&self, resource: &Resource, at: &At<'_>, own: &[&str]) -> Identity {
        let text = |key: &str| at.term.get(key).and_then(Term::as_text).filter(|text| !text.is_empty());
        let tags = tags(at);
        let tag = tags.get("Name").map(String::as_str);
        let given = own.iter().filter_map(|key| text(key));
        let names = assemble::names(tag.into_iter().chain(given).chain([resource.name.as_str()]));
        Identity {
            key: self.key(&resource.name),
            id: None,
            names,
            description: text("GroupDescription").or_else(|| text("Description")).map(str::to_owned),
            tags,
            owner: None,
            place: at.place(),
        }
    }

    /// The object that a value names. A parameter without a value stands for the object it will name.
    fn link(&self, at: &At<'_>) -> Option<Link> {
        self.follow(at, &at.term.what, 0)
    }

    fn follow(&self, at: &At<'_>, what: &What, hops: usize) -> Option<Link> {
        let target = match what {
            What::Text(text) => return Some(text.clone()),
            What::Unknown(unknown) if unknown.named.is_some() => {
                let why = &unknown.why;
                at.note(Because::Unknown, format!("names what is not known: {why}"));
                return unknown.named.clone();
            }
            What::Link(target) if hops < HOPS => target,
            _ => {
                at.refuse("an id");
                return None;
            }
        };
        let Some(found) = self.index.get(target.object.as_str()) else {
            at.note(Because::Unknown, format!("names {:?}, which this template does not make", target.object));
            return None;
        };
        let key = self.key(&found.name);
        match (target.attribute.as_str(), found.kind.as_str()) {
            ("" | "Id" | "GroupId" | "SubnetId" | "PrefixListId", _) | ("VpcId", "AWS::EC2::VPC") => Some(key),
            (attribute @ ("DefaultNetworkAcl" | "DefaultSecurityGroup"), "AWS::EC2::VPC") => {
                let link = format!("{key}.{attribute}");
                let default = assemble::Default { vpc: key, place: at.place() };
                let mut assembly = self.assembly.borrow_mut();
                if attribute == "DefaultNetworkAcl" {
                    assembly.default_acls.insert(link.clone(), default);
                } else {
                    assembly.default_groups.insert(link.clone(), default);
                }
                Some(link)
            }
            (attribute, _) => {
                let written = found.properties.get(attribute);
                if written.is_none() {
                    at.refuse("an id");
                }
                self.follow(at, &written?.what, hops + 1)
            }
        }
    }

    fn linked(&self, at: &At<'_>, key: &str) -> Option<Link> {
        at.given(key).and_then(|at| self.link(&at))
    }

    fn needed(&self, at: &At<'_>, key: &str) -> Option<Link> {
        at.need(key).and_then(|at| self.link(&at))
    }

    fn links(&self, at: &At<'_>, key: &str) -> Vec<Link> {
        at.given(key).map_or_else(Vec::new, |list| elements(&list).iter().filter_map(|at| self.link(at)).collect())
    }

    fn resource(&self, resource: &'r Resource) {
        let at = self.at(resource);
        if !matches!(resource.properties.what, What::Map(_)) {
            at.refuse("an object");
            return;
        }
        match resource.kind.as_str() {
            "AWS::EC2::VPC" => {
                let cidrs = cidrs(&at);
                if cidrs.is_empty() && at.given("Ipv4IpamPoolId").is_some() {
                    at.note(Because::Unknown, "its CIDR is chosen by IPAM");
                }
                let vpc = Vpc { identity: self.identity(resource, &at, &[]), cidrs };
                self.assembly.borrow_mut().inventory.vpcs.push(vpc);
            }
            "AWS::EC2::VPCCidrBlock" | "AWS::EC2::SubnetCidrBlock" => {
                let whose = if resource.kind == "AWS::EC2::VPCCidrBlock" { "VpcId" } else { "SubnetId" };
                let owner = self.needed(&at, whose);
                let cidrs = cidrs(&at);
                if cidrs.is_empty() {
                    at.note(Because::Unknown, "its CIDR is AWS's to choose");
                }
                let Some(owner) = owner else { return };
                let cidrs = cidrs.into_iter().map(|cidr| (owner.clone(), cidr, at.place()));
                self.assembly.borrow_mut().cidrs.extend(cidrs);
            }
            "AWS::EC2::Subnet" => {
                let subnet = Subnet {
                    identity: self.identity(resource, &at, &[]),
                    vpc: self.needed(&at, "VpcId"),
                    cidrs: cidrs(&at),
                };
                self.assembly.borrow_mut().inventory.subnets.push(subnet);
            }
            "AWS::EC2::NetworkAcl" => {
                let acl = NetworkAcl {
                    identity: self.identity(resource, &at, &[]),
                    vpc: self.needed(&at, "VpcId"),
                    default: false,
                    subnets: Vec::new(),
                    entries: Vec::new(),
                };
                self.assembly.borrow_mut().inventory.nacls.push(acl);
            }
            "AWS::EC2::NetworkAclEntry" => {
                let (acl, entry) = (self.needed(&at, "NetworkAclId"), entry(&at));
                self.assembly.borrow_mut().entries.extend(acl.zip(entry));
            }
            "AWS::EC2::SubnetNetworkAclAssociation" => {
                let (acl, subnet) = (self.needed(&at, "NetworkAclId"), self.needed(&at, "SubnetId"));
                if let (Some(acl), Some(subnet)) = (acl, subnet) {
                    let association = Association { subnet, id: None };
                    self.assembly.borrow_mut().associations.push((acl, association, at.place()));
                }
            }
            "AWS::EC2::SecurityGroup" => self.group(resource, &at),
            "AWS::EC2::SecurityGroupIngress" => self.separate_rule(&at, Direction::Inbound),
            "AWS::EC2::SecurityGroupEgress" => self.separate_rule(&at, Direction::Outbound),
            "AWS::EC2::SecurityGroupVpcAssociation" => at.note(
                Because::NotExpressible,
                "a policy has no way to say that a security group is associated with a further VPC (S23)",
            ),
            "AWS::EC2::PrefixList" => self.prefix_list(resource, &at),
            "AWS::EC2::NetworkInterface" => self.interface(resource, &at, "GroupSet", ""),
            "AWS::EC2::Instance" => self.instance(resource, &at),
            "AWS::CloudFormation::Stack" => {
                at.note(Because::NotHere, "what the nested stack makes stands in a template of its own");
            }
            _ => {}
        }
    }

    /// A security group. Without `SecurityGroupEgress` AWS's rule that lets everything out stays; to have none, one is listed
    /// that no packet meets.
    fn group(&self, resource: &Resource, at: &At<'_>) {
        let identity = self.identity(resource, at, &["GroupName"]);
        let mut rules = Vec::new();
        for (direction, key) in
            [(Direction::Inbound, "SecurityGroupIngress"), (Direction::Outbound, "SecurityGroupEgress")]
        {
            let Some(list) = at.given(key) else {
                if direction == Direction::Outbound {
                    // An empty list, or one whose rules are all `AWS::NoValue`.
                    if let Some(list) = at.get(key) {
                        let message = "is an empty list, which lets everything out as if it was not written: AWS's own rule goes \
                                       only where another one is listed";
                        list.note(Because::NoEffect, message);
                    }
                    rules.extend(assemble::allow_all_out(&at.place()));
                }
                continue;
            };
            let mut found: Vec<GroupRule> =
                elements(&list).iter().filter_map(|rule| self.rule(rule, direction)).collect();
            if let ([one], Direction::Outbound) = (found.as_slice(), direction)
                && is_nobody(one)
            {
                list.note(Because::NoEffect, "is how a template says that nothing is let out: no packet goes there");
                found.clear();
            }
            rules.extend(found);
        }
        let group = SecurityGroup {
            identity,
            name: at.term.get("GroupName").and_then(Term::as_text).map(str::to_owned),
            vpc: self.linked(at, "VpcId"),
            rules: Some(rules),
        };
        self.assembly.borrow_mut().inventory.groups.push(group);
    }

    fn separate_rule(&self, at: &At<'_>, direction: Direction) {
        let group = match at.given("GroupName").filter(|_| at.given("GroupId").is_none()) {
            Some(name) => self.by_name(&name),
            None => self.needed(at, "GroupId"),
        };
        let lists_none = |resource: &&Resource| resource.properties.get("SecurityGroupEgress").is_none();
        if direction == Direction::Outbound
            && group.as_ref().and_then(|group| self.index.get(group.as_str()).copied()).as_ref().is_some_and(lists_none)
        {
            let message = "AWS's rule that lets everything out is taken to stay, as the group itself lists no egress";
            at.note(Because::Unknown, message);
        }
        let rule = self.rule(at, direction);
        self.assembly.borrow_mut().rules.extend(group.zip(rule));
    }

    /// A group of this template by its name, else the name: a group that is only named.
    fn by_name(&self, at: &At<'_>) -> Option<Link> {
        let What::Text(name) = &at.term.what else { return self.link(at) };
        Some(self.group_names.get(name.as_str()).map_or_else(|| name.clone(), |found| self.key(found)))
    }

    fn rule(&self, at: &At<'_>, direction: Direction) -> Option<GroupRule> {
        let protocol = at.need("IpProtocol").and_then(|protocol| traffic::protocol(&protocol))?;
        let traffic = traffic::of_group_rule(at, protocol, at.given("FromPort"), at.given("ToPort"), Lacking::Wrong)?;
        let (list, group) = match direction {
            Direction::Inbound => ("SourcePrefixListId", "SourceSecurityGroupId"),
            Direction::Outbound => ("DestinationPrefixListId", "DestinationSecurityGroupId"),
        };
        let keys = ["CidrIp", "CidrIpv6", list, group, "SourceSecurityGroupName"];
        let given: Vec<(&str, At<'_>)> = keys.into_iter().filter_map(|key| Some((key, at.given(key)?))).collect();
        let (key, other) = match given.as_slice() {
            [] => {
                at.note(Because::NoEffect, "has no source and no destination: AWS makes no rule of it (S15)");
                return None;
            }
            // A group by id and by name is one.
            [one] | [one @ (_, _), (_, _)] if given.len() == 1 || one.0 == group => one,
            _ => {
                at.wrong("has more than one source or destination (S15)", None);
                return None;
            }
        };
        let peer = if key.starts_with("Cidr") {
            Peer::Cidr(other.cidr()?)
        } else if *key == list {
            Peer::PrefixList(self.link(other)?)
        } else {
            let group = if *key == group { self.link(other) } else { self.by_name(other) };
            let owner = at.term.get("SourceSecurityGroupOwnerId").and_then(Term::as_text);
            Peer::Group { group: group?, owner: owner.map(str::to_owned), vpc: None, peering: None }
        };
        Some(GroupRule {
            direction,
            traffic,
            peer,
            id: None,
            description: at.term.get("Description").and_then(Term::as_text).map(str::to_owned),
            tags: BTreeMap::new(),
            place: at.place(),
        })
    }

    fn prefix_list(&self, resource: &Resource, at: &At<'_>) {
        let entries = at.given("Entries").map_or_else(Vec::new, |list| list.elements());
        let entries = entries.iter().filter_map(|entry| {
            let description = entry.term.get("Description").and_then(Term::as_text);
            Some(PrefixEntry { cidr: entry.need("Cidr")?.cidr()?, description: description.map(str::to_owned) })
        });
        let entries = Some(entries.collect());
        let family = at.need("AddressFamily").and_then(|family| assemble::family(&family));
        let list = PrefixList {
            identity: self.identity(resource, at, &["PrefixListName"]),
            name: at.term.get("PrefixListName").and_then(Term::as_text).map(str::to_owned),
            family,
            max_entries: at.given("MaxEntries").and_then(|most| most.number(0..=i64::from(u32::MAX))),
            entries,
        };
        self.assembly.borrow_mut().inventory.prefix_lists.push(list);
    }

    fn interface(&self, resource: &Resource, at: &At<'_>, groups: &str, suffix: &str) {
        let mut addresses = Vec::new();
        let mut seen = HashSet::new();
        let mut add = |value: Option<At<'_>>| {
            let found = value.and_then(|value| value.address());
            addresses.extend(found.filter(|address| seen.insert(*address)));
        };
        add(at.given("PrivateIpAddress"));
        let mut several = at.list("PrivateIpAddresses");
        let primary = |one: &At<'_>| one.term.get("Primary").and_then(Term::as_text) == Some("true");
        several.sort_by_key(|one| !primary(one));
        for one in &several {
            add(one.given("PrivateIpAddress"));
        }
        for one in at.list("Ipv6Addresses") {
            add(one.given("Ipv6Address"));
        }
        if addresses.is_empty() {
            at.note(Because::Unknown, "its addresses are AWS's to choose");
        }
        let mut identity = self.identity(resource, at, &[]);
        identity.key.push_str(suffix);
        let eni = NetworkInterface {
            identity,
            subnet: self.linked(at, "SubnetId"),
            vpc: None,
            addresses,
            groups: self.links(at, groups),
        };
        if eni.groups.is_empty() {
            at.note(Because::NotHere, assemble::NO_GROUP);
        }
        self.assembly.borrow_mut().inventory.interfaces.push(eni);
    }

    /// An instance's own interface, or those it is made with.
    fn instance(&self, resource: &Resource, at: &At<'_>) {
        let own = at.list("NetworkInterfaces");
        if own.is_empty() {
            return self.interface(resource, at, "SecurityGroupIds", "");
        }
        // One that is a resource of its own is read there.
        for (index, eni) in own.iter().enumerate().filter(|(_, eni)| eni.get("NetworkInterfaceId").is_none()) {
            self.interface(resource, eni, "GroupSet", &format!(".{index}"));
        }
    }

    /// Resources of other kinds: those with security groups one by one, the others in a sentence.
    fn others(&self) {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for resource in &self.stack.resources {
            let at = self.at(resource);
            let known = matches!(resource.properties.what, What::Map(_));
            if READ.contains(&resource.kind.as_str()) {
            } else if known && WITH_GROUPS.iter().any(|key| at.given(key).is_some()) {
                at.note(Because::NotExpressible, assemble::WITH_GROUPS);
            } else {
                *kinds.entry(&resource.kind).or_default() += 1;
            }
        }
        assemble::other_kinds(&kinds, assemble::place(&self.stack.file, "Resources"), self.findings);
    }
}

/// Resources that are read.
const READ: [&str; 14] = [
    "AWS::EC2::VPC",
    "AWS::EC2::VPCCidrBlock",
    "AWS::EC2::SubnetCidrBlock",
    "AWS::EC2::Subnet",
    "AWS::EC2::NetworkAcl",
    "AWS::EC2::NetworkAclEntry",
    "AWS::EC2::SubnetNetworkAclAssociation",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupVpcAssociation",
    "AWS::EC2::PrefixList",
    "AWS::EC2::NetworkInterface",
    "AWS::EC2::Instance",
];

/// A list, or the one value in place of a list of one, which CloudFormation takes for it.
fn elements<'t>(at: &At<'t>) -> Vec<At<'t>> {
    match at.term.what {
        What::Text(_) | What::Link(_) | What::Map(_) => vec![at.clone()],
        // Parameters that name an object each do so for a list of one too.
        What::Unknown(ref unknown) if unknown.named.is_some() => vec![at.clone()],
        _ => at.elements(),
    }
}

fn cidrs(at: &At<'_>) -> Vec<ipnet::IpNet> {
    ["CidrBlock", "Ipv6CidrBlock"].into_iter().filter_map(|key| at.given(key)?.cidr()).collect()
}

fn tags(at: &At<'_>) -> BTreeMap<String, String> {
    let pair = |tag: &At<'_>| {
        let (key, value) = (tag.given("Key")?, tag.get("Value")?);
        Some((key.text()?.to_owned(), value.text()?.to_owned()))
    };
    at.list("Tags").iter().filter_map(pair).collect()
}

fn entry(at: &At<'_>) -> Option<Entry> {
    let number = at.need("RuleNumber").and_then(|number| number.number(1..=i64::from(policy::LAST_NUMBER)));
    let action = at.need("RuleAction").and_then(|action| traffic::action(&action, |one, other| one == other));
    let egress = at.get("Egress").map_or(Some(false), |egress| egress.flag());
    let protocol = at.need("Protocol").and_then(|protocol| traffic::protocol(&protocol));
    let cidr = match (at.given("CidrBlock"), at.given("Ipv6CidrBlock")) {
        (Some(cidr), None) | (None, Some(cidr)) => cidr.cidr(),
        _ => {
            at.wrong("has to have one of `CidrBlock` and `Ipv6CidrBlock` (N21)", None);
            None
        }
    };
    let (number, action, egress, protocol, cidr) = (number?, action?, egress?, protocol?, cidr?);
    let pair = |outer: &str, first: &str, last: &str| {
        let outer = at.given(outer)?;
        Some((outer.need(first)?, outer.need(last)?))
    };
    let (ports, icmp) = (pair("PortRange", "From", "To"), pair("Icmp", "Type", "Code"));
    let traffic = traffic::of_entry(at, protocol, cidr, ports, icmp, Lacking::Wrong)?;
    let direction = if egress { Direction::Outbound } else { Direction::Inbound };
    Some(Entry { direction, number, action, traffic, cidr, place: at.place() })
}

/// The rule that AWS's documentation gives for a group that lets nothing out: everything to the machine itself.
fn is_nobody(rule: &GroupRule) -> bool {
    let Peer::Cidr(cidr) = &rule.peer else { return false };
    rule.traffic.protocol == Protocol::All && (cidr.addr().is_loopback() && cidr.prefix_len() == cidr.max_prefix_len())
}
