//! What the AWS provider's resources mean (section by section as its documentation has them) → [`Inventory`]. Knows neither
//! plans nor states nor HCL.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
};

use nacl_common::{Action, Direction, Family};

use super::Resource;
use crate::{
    import::{
        assemble::{self, Assembly},
        term::{At, Target, Term, What},
        traffic::{self, Lacking},
        tree::Findings,
    },
    inventory::{
        Association, Because, Entry, GroupRule, Identity, Inventory, Link, NetworkAcl, NetworkInterface, Peer,
        PrefixEntry, PrefixList, RuleKey, SecurityGroup, Subnet, Vpc,
    },
    policy,
};

/// Resources that are read, or that are known to change nothing.
const READ: [&str; 24] = [
    "aws_vpc",
    "aws_default_vpc",
    "aws_vpc_ipv4_cidr_block_association",
    "aws_vpc_ipv6_cidr_block_association",
    "aws_subnet",
    "aws_default_subnet",
    "aws_network_acl",
    "aws_default_network_acl",
    "aws_network_acl_rule",
    "aws_network_acl_association",
    "aws_security_group",
    "aws_default_security_group",
    "aws_security_group_rule",
    "aws_vpc_security_group_ingress_rule",
    "aws_vpc_security_group_egress_rule",
    "aws_vpc_security_group_vpc_association",
    "aws_ec2_managed_prefix_list",
    "aws_ec2_managed_prefix_list_entry",
    "aws_prefix_list",
    "aws_network_interface",
    "aws_network_interface_sg_attachment",
    "aws_network_interface_attachment",
    "aws_instance",
    "aws_vpc_security_group_rules_exclusive",
];

/// Arguments by which resources of other kinds have security groups.
const WITH_GROUPS: [&str; 5] =
    ["security_groups", "security_group_ids", "vpc_security_group_ids", "vpc_config", "network_configuration"];

/// Links that lead to links.
const HOPS: usize = 16;

/// Whether resources of a kind are read.
pub(super) fn is_read(kind: &str) -> bool {
    READ.contains(&kind)
}

/// What resources come to. `before` are those a plan found: what they had and the plan has no more is to go.
pub(super) fn read(resources: &[Resource], before: &[Resource], findings: &Findings) -> Inventory {
    let past = {
        let silent = Findings::default();
        let reader = Reader::new(before, &silent);
        let separate = before.iter().filter(|one| !one.data && SEPARATE.contains(&one.kind.as_str()));
        separate.for_each(|resource| reader.resource(resource));
        let past = reader.assembly.into_inner();
        Past {
            entries: past.entries.iter().map(|(acl, entry)| (acl.clone(), key_of_entry(entry))).collect(),
            rules: past.rules.iter().map(|(group, rule)| (group.clone(), rule.key())).collect(),
            subnets: past.associations.into_iter().map(|(acl, one, _)| (acl, one.subnet)).collect(),
        }
    };
    let mut reader = Reader::new(resources, findings);
    reader.past = past;
    for resource in resources {
        reader.resource(resource);
    }
    reader.others();
    reader.assembly.into_inner().finish(findings)
}

/// Resources that add to another one, which has a copy of what they add.
const SEPARATE: [&str; 5] = [
    "aws_network_acl_rule",
    "aws_network_acl_association",
    "aws_security_group_rule",
    "aws_vpc_security_group_ingress_rule",
    "aws_vpc_security_group_egress_rule",
];

type EntryKey = (Direction, u16, Action, crate::inventory::Traffic, ipnet::IpNet);

fn key_of_entry(entry: &Entry) -> EntryKey {
    (entry.direction, entry.number, entry.action, entry.traffic, entry.cidr)
}

/// What separate resources had added before a plan: arguments that nobody writes are copied from the state, with these in them.
#[derive(Default)]
struct Past {
    entries: HashSet<(Link, EntryKey)>,
    rules: HashSet<(Link, RuleKey)>,
    subnets: HashSet<(Link, Link)>,
}

struct Reader<'r> {
    resources: &'r [Resource],
    /// By document and address.
    index: HashMap<(usize, &'r str), &'r Resource>,
    /// Addresses that stand in several documents.
    ambiguous: HashSet<&'r str>,
    past: Past,
    assembly: RefCell<Assembly>,
    findings: &'r Findings,
}

impl<'r> Reader<'r> {
    fn new(resources: &'r [Resource], findings: &'r Findings) -> Self {
        let mut index = HashMap::new();
        let mut scopes: HashMap<&str, usize> = HashMap::new();
        let mut ambiguous = HashSet::new();
        for resource in resources {
            let address = resource.address.as_str();
            index.insert((resource.scope, address), resource);
            if *scopes.entry(address).or_insert(resource.scope) != resource.scope {
                ambiguous.insert(address);
            }
        }
        Self { resources, index, ambiguous, past: Past::default(), assembly: RefCell::default(), findings }
    }

    /// What other objects name a resource by: its id, or its address.
    fn key(&self, resource: &Resource) -> Link {
        let id = match resource.kind.as_str() {
            "aws_instance" => "primary_network_interface_id",
            _ => "id",
        };
        let known = resource.values.get(id).and_then(Term::as_text).filter(|id| !id.is_empty());
        known.map_or_else(
            || {
                let address = resource.address.as_str();
                if self.ambiguous.contains(address) {
                    format!("{}: {address}", resource.file)
                } else {
                    address.to_owned()
                }
            },
            str::to_owned,
        )
    }

    fn identity(&self, resource: &Resource, at: &At<'_>, names: &[&str]) -> Identity {
        let text = |key: &str| at.term.get(key).and_then(Term::as_text).filter(|text| !text.is_empty());
        // `tags_all` has the provider's default tags too, which AWS has as well.
        let written = ["tags_all", "tags"].into_iter().filter_map(|key| at.given(key));
        let written = written.into_iter().find(|tags| matches!(tags.term.what, What::Map(_)));
        let tags = tags(written.as_ref());
        let tag = tags.get("Name").map(String::as_str);
        let given = names.iter().filter_map(|key| text(key));
        let names = assemble::names(tag.into_iter().chain(given).chain([resource.name.as_str()]));
        let key = self.key(resource);
        Identity {
            id: assemble::aws_id(&key).then(|| key.clone()),
            key,
            names,
            description: text("description").map(str::to_owned),
            tags,
            owner: text("owner_id").map(str::to_owned),
            place: at.place(),
        }
    }

    /// The object that a value names; told where it cannot be said.
    fn link(&self, resource: &Resource, at: &At<'_>) -> Option<Link> {
        self.follow(resource, at, &at.term.what, 0)
    }

    fn follow(&self, resource: &Resource, at: &At<'_>, what: &What, hops: usize) -> Option<Link> {
        let Target { object, attribute } = match what {
            What::Text(text) => return Some(text.clone()),
            What::Link(target) if hops < HOPS => target,
            _ => {
                at.refuse("an id");
                return None;
            }
        };
        let Some(found) = self.index.get(&(resource.scope, object.as_str())) else { return Some(object.clone()) };
        let vpc = matches!(found.kind.as_str(), "aws_vpc" | "aws_default_vpc");
        match attribute.as_str() {
            "" | "id" => Some(self.key(found)),
            "default_network_acl_id" | "default_security_group_id" if vpc => {
                let vpc = self.key(found);
                let known = found.values.get(attribute).and_then(Term::as_text);
                let key = known.map_or_else(|| format!("{vpc}.{attribute}"), str::to_owned);
                let default = assemble::Default { vpc, place: at.place() };
                let mut assembly = self.assembly.borrow_mut();
                let defaults = if attribute == "default_network_acl_id" {
                    &mut assembly.default_acls
                } else {
                    &mut assembly.default_groups
                };
                defaults.insert(key.clone(), default);
                Some(key)
            }
            "primary_network_interface_id" if found.kind == "aws_instance" => Some(self.key(found)),
            attribute => {
                let written = found.values.get(attribute);
                if written.is_none() {
                    let message =
                        format!("is not known: `{attribute}` of {object} is not told; what needs it is left out");
                    at.note(Because::Unknown, message);
                }
                self.follow(found, at, &written?.what, hops + 1)
            }
        }
    }

    /// The objects that a list names.
    fn links(&self, resource: &Resource, at: &At<'_>, key: &str) -> Vec<Link> {
        at.given(key).map_or_else(Vec::new, |list| {
            // An argument that nobody writes has nothing in it until AWS says so.
            if matches!(list.term.what, What::Unknown(_)) && !resource.has(key) {
                return Vec::new();
            }
            list.elements().iter().filter_map(|at| self.link(resource, at)).collect()
        })
    }

    /// Blocks of an argument, which are none where nobody writes it and it is not known: the provider makes a security group
    /// and a network ACL without any rule of its own.
    fn blocks<'t>(resource: &Resource, at: &At<'t>, key: &str) -> Vec<At<'t>> {
        let Some(list) = at.given(key) else { return Vec::new() };
        if matches!(list.term.what, What::Unknown(_)) && !resource.has(key) {
            return Vec::new();
        }
        list.elements()
    }

    fn resource(&self, resource: &Resource) {
        let at = At::new(&resource.values, &resource.file, resource.address.as_str(), self.findings);
        if resource.data {
            return self.data(resource, &at);
        }
        match resource.kind.as_str() {
            "aws_vpc" | "aws_default_vpc" => self.vpc(resource, &at),
            "aws_vpc_ipv4_cidr_block_association" => self.vpc_cidr(resource, &at, "cidr_block"),
            "aws_vpc_ipv6_cidr_block_association" => self.vpc_cidr(resource, &at, "ipv6_cidr_block"),
            "aws_subnet" | "aws_default_subnet" => self.subnet(resource, &at),
            "aws_network_acl" => self.acl(resource, &at, false),
            "aws_default_network_acl" => self.acl(resource, &at, true),
            "aws_network_acl_rule" => self.acl_rule(resource, &at),
            "aws_network_acl_association" => self.association(resource, &at),
            "aws_security_group" | "aws_default_security_group" => self.group(resource, &at),
            "aws_security_group_rule" => self.group_rule(resource, &at),
            "aws_vpc_security_group_ingress_rule" => self.single_rule(resource, &at, Direction::Inbound),
            "aws_vpc_security_group_egress_rule" => self.single_rule(resource, &at, Direction::Outbound),
            "aws_vpc_security_group_vpc_association" => at.note(
                Because::NotExpressible,
                "a policy has no way to say that a security group is associated with a further VPC (S23)",
            ),
            "aws_ec2_managed_prefix_list" => self.prefix_list(resource, &at),
            "aws_ec2_managed_prefix_list_entry" => self.prefix_entry(resource, &at),
            "aws_network_interface" => self.interface(resource, &at, "security_groups"),
            "aws_instance" => self.interface(resource, &at, "vpc_security_group_ids"),
            "aws_network_interface_sg_attachment" => {
                let (eni, group) = (at.need("network_interface_id"), at.need("security_group_id"));
                let (Some(eni), Some(group)) = (eni, group) else { return };
                let pair = (self.link(resource, &eni), self.link(resource, &group));
                if let (Some(eni), Some(group)) = pair {
                    self.assembly.borrow_mut().members.push((eni, group, at.place()));
                }
            }
            _ => {}
        }
    }

    /// A data source: an object that is there already.
    fn data(&self, resource: &Resource, at: &At<'_>) {
        match resource.kind.as_str() {
            "aws_vpc" => self.vpc(resource, at),
            "aws_subnet" => self.subnet(resource, at),
            "aws_security_group" => {
                let group = SecurityGroup {
                    identity: self.identity(resource, at, &["name"]),
                    name: at.term.get("name").and_then(Term::as_text).map(str::to_owned),
                    vpc: at.given("vpc_id").and_then(|vpc| self.link(resource, &vpc)),
                    rules: None,
                };
                at.note(Because::NotHere, "a data source does not tell a security group's rules");
                self.assembly.borrow_mut().inventory.groups.push(group);
            }
            "aws_ec2_managed_prefix_list" => self.prefix_list(resource, at),
            "aws_prefix_list" => {
                let entries = at.get("cidr_blocks").map(|list| {
                    let cidrs = list.elements();
                    cidrs.iter().filter_map(At::cidr).map(|cidr| PrefixEntry { cidr, description: None }).collect()
                });
                let list = PrefixList {
                    identity: self.identity(resource, at, &["name"]),
                    name: at.term.get("name").and_then(Term::as_text).map(str::to_owned),
                    family: family_of(entries.as_ref()),
                    max_entries: None,
                    entries,
                };
                self.assembly.borrow_mut().inventory.prefix_lists.push(list);
            }
            "aws_network_interface" => self.interface(resource, at, "security_groups"),
            _ => {}
        }
    }

    /// IPv4, and IPv6 where it has any: that one AWS may choose too.
    fn cidrs(resource: &Resource, at: &At<'_>) -> Vec<ipnet::IpNet> {
        let v6 = at.given("ipv6_cidr_block").filter(|cidr| {
            let assigned = at.term.get("assign_generated_ipv6_cidr_block").and_then(Term::as_text) == Some("true");
            !matches!(cidr.term.what, What::Unknown(_))
                || resource.has("ipv6_cidr_block") && resource.configured.is_some()
                || assigned
        });
        let mut cidrs: Vec<ipnet::IpNet> =
            [at.given("cidr_block"), v6].into_iter().flatten().filter_map(|cidr| cidr.cidr()).collect();
        for more in at.given("cidr_block_associations").map_or_else(Vec::new, |list| list.elements()) {
            cidrs.extend(more.given("cidr_block").and_then(|cidr| cidr.cidr()).filter(|cidr| !cidrs.contains(cidr)));
        }
        cidrs
    }

    fn vpc(&self, resource: &Resource, at: &At<'_>) {
        let vpc = Vpc { identity: self.identity(resource, at, &[]), cidrs: Self::cidrs(resource, at) };
        let mut assembly = self.assembly.borrow_mut();
        let default = || assemble::Default { vpc: vpc.identity.key.clone(), place: at.place() };
        let known = |key| at.term.get(key).and_then(Term::as_text).map(str::to_owned);
        assembly.default_acls.extend(known("default_network_acl_id").map(|key| (key, default())));
        assembly.default_groups.extend(known("default_security_group_id").map(|key| (key, default())));
        assembly.inventory.vpcs.push(vpc);
    }

    fn vpc_cidr(&self, resource: &Resource, at: &At<'_>, key: &str) {
        let (vpc, cidr) = (at.need("vpc_id"), at.need(key));
        if let (Some(vpc), Some(cidr)) = (vpc.and_then(|vpc| self.link(resource, &vpc)), cidr.and_then(|at| at.cidr()))
        {
            self.assembly.borrow_mut().cidrs.push((vpc, cidr, at.place()));
        }
    }

    fn subnet(&self, resource: &Resource, at: &At<'_>) {
        let subnet = Subnet {
            identity: self.identity(resource, at, &[]),
            vpc: at.given("vpc_id").and_then(|vpc| self.link(resource, &vpc)),
            cidrs: Self::cidrs(resource, at),
        };
        self.assembly.borrow_mut().inventory.subnets.push(subnet);
    }

    /// A network ACL; adopting the default one removes all of its rules but those that are written.
    fn acl(&self, resource: &Resource, at: &At<'_>, default: bool) {
        let identity = self.identity(resource, at, &[]);
        let mut vpc = at.given("vpc_id").filter(|vpc| !matches!(vpc.term.what, What::Unknown(_)));
        // The default one says its VPC by `default_network_acl_id = aws_vpc.main.default_network_acl_id` alone.
        let mut own = None;
        if let Some(id) = at.given("default_network_acl_id").filter(|_| default) {
            own = self.link(resource, &id);
            if matches!(id.term.what, What::Link(_)) {
                vpc = None;
            }
        }
        let vpc = vpc.and_then(|vpc| self.link(resource, &vpc)).or_else(|| {
            let assembly = self.assembly.borrow();
            own.as_ref().and_then(|own| assembly.default_acls.get(own)).map(|default| default.vpc.clone())
        });
        let mut entries = Vec::new();
        for (direction, key) in DIRECTIONS {
            let written = resource.has(key);
            for block in Self::blocks(resource, at, key) {
                let keys = ["rule_no", "action"];
                entries.extend(entry(&block, direction, keys).filter(|entry| {
                    written || !self.past.entries.contains(&(identity.key.clone(), key_of_entry(entry)))
                }));
            }
        }
        let mut numbers = HashSet::new();
        for entry in &entries {
            if !numbers.insert((entry.direction, entry.number)) {
                at.wrong(format!("rule {} stands twice in {}", entry.number, entry.place.path), None);
            }
        }
        let subnets = self.links(resource, at, "subnet_ids").into_iter();
        let gone = |subnet: &Link| {
            !resource.has("subnet_ids") && self.past.subnets.contains(&(identity.key.clone(), subnet.clone()))
        };
        let subnets = subnets.filter(|subnet| !gone(subnet)).map(|subnet| Association { subnet, id: None }).collect();
        let acl = NetworkAcl { identity, vpc, default, subnets, entries };
        self.assembly.borrow_mut().inventory.nacls.push(acl);
    }

    fn acl_rule(&self, resource: &Resource, at: &At<'_>) {
        let egress = at.get("egress").is_some_and(|egress| egress.flag() == Some(true));
        let direction = if egress { Direction::Outbound } else { Direction::Inbound };
        let acl = at.need("network_acl_id").and_then(|acl| self.link(resource, &acl));
        let entry = entry(at, direction, ["rule_number", "rule_action"]);
        if let (Some(acl), Some(entry)) = (acl, entry) {
            self.assembly.borrow_mut().entries.push((acl, entry));
        }
    }

    fn association(&self, resource: &Resource, at: &At<'_>) {
        let (acl, subnet) = (at.need("network_acl_id"), at.need("subnet_id"));
        let acl = acl.and_then(|acl| self.link(resource, &acl));
        let subnet = subnet.and_then(|subnet| self.link(resource, &subnet));
        let id = at.term.get("id").and_then(Term::as_text).map(str::to_owned);
        if let (Some(acl), Some(subnet)) = (acl, subnet) {
            self.assembly.borrow_mut().associations.push((acl, Association { subnet, id }, at.place()));
        }
    }

    /// A security group. The provider deletes AWS's rule that lets everything out, so that one without `egress` has none.
    fn group(&self, resource: &Resource, at: &At<'_>) {
        let default = resource.kind == "aws_default_security_group";
        let identity = self.identity(resource, at, &["name", "name_prefix"]);
        let name = at.term.get("name").and_then(Term::as_text).filter(|name| !name.is_empty()).map(str::to_owned);
        let mut rules = Vec::new();
        for (direction, key) in DIRECTIONS {
            let written = resource.has(key);
            for block in Self::blocks(resource, at, key) {
                let found = self.rules(resource, &block, direction, &identity.key, "security_groups");
                rules.extend(
                    found
                        .into_iter()
                        .filter(|rule| written || !self.past.rules.contains(&(identity.key.clone(), rule.key()))),
                );
            }
        }
        let group = SecurityGroup {
            name: name.or_else(|| default.then(|| "default".to_owned())),
            vpc: at.given("vpc_id").and_then(|vpc| self.link(resource, &vpc)),
            rules: Some(rules),
            identity,
        };
        self.assembly.borrow_mut().inventory.groups.push(group);
    }

    /// `aws_security_group_rule`: one resource can be several rules.
    fn group_rule(&self, resource: &Resource, at: &At<'_>) {
        let group = at.need("security_group_id").and_then(|group| self.link(resource, &group));
        let direction = at.need("type").and_then(|kind| {
            let found = DIRECTIONS.into_iter().find(|(_, name)| kind.term.as_text() == Some(name));
            if found.is_none() {
                kind.refuse("`ingress` or `egress`");
            }
            found
        });
        let (Some(group), Some((direction, _))) = (group, direction) else { return };
        let mut rules = self.rules(resource, at, direction, &group, "source_security_group_id");
        if let [one] = rules.as_mut_slice() {
            one.id = at.term.get("security_group_rule_id").and_then(Term::as_text).and_then(rule_id);
        }
        self.assembly.borrow_mut().rules.extend(rules.into_iter().map(|rule| (group.clone(), rule)));
    }

    /// The rules of a block: one for each source or destination (S15).
    fn rules(&self, resource: &Resource, at: &At<'_>, direction: Direction, own: &str, groups: &str) -> Vec<GroupRule> {
        let protocol = at.need("protocol").and_then(|protocol| traffic::protocol(&protocol));
        let Some(protocol) = protocol else { return Vec::new() };
        let Some(traffic) =
            traffic::of_group_rule(at, protocol, at.given("from_port"), at.given("to_port"), Lacking::Wrong)
        else {
            return Vec::new();
        };
        let mut peers = Vec::new();
        let mut told = false;
        // What a resource of its own does not write is computed, and empty.
        let separate = groups == "source_security_group_id";
        let mut list = |key: &str| {
            let written = |at: &At<'_>| !(separate && matches!(at.term.what, What::Unknown(_)) && !resource.has(key));
            let Some(value) = at.given(key).filter(written) else { return Vec::new() };
            told = true;
            match &value.term.what {
                What::List(_) => value.elements(),
                // An argument of one.
                _ if !key.ends_with('s') => vec![value],
                _ => value.elements(),
            }
        };
        for key in ["cidr_blocks", "ipv6_cidr_blocks"] {
            peers.extend(list(key).iter().filter_map(At::cidr).map(Peer::Cidr));
        }
        peers.extend(list("prefix_list_ids").iter().filter_map(|at| self.link(resource, at)).map(Peer::PrefixList));
        peers.extend(list(groups).iter().filter_map(|at| self.link(resource, at)).map(|link| peer(&link)));
        if at.given("self").is_some_and(|itself| itself.flag() == Some(true)) {
            told = true;
            peers.push(peer(own));
        }
        if !told {
            at.note(Because::NoEffect, "has no source and no destination, so there is no rule (S15)");
        }
        let description = at.term.get("description").and_then(Term::as_text).filter(|text| !text.is_empty());
        let rule = |peer| GroupRule {
            direction,
            traffic,
            peer,
            id: None,
            description: description.map(str::to_owned),
            tags: BTreeMap::new(),
            place: at.place(),
        };
        peers.into_iter().map(rule).collect()
    }

    /// `aws_vpc_security_group_ingress_rule` and its sister: one rule each, as AWS has them.
    fn single_rule(&self, resource: &Resource, at: &At<'_>, direction: Direction) {
        let group = at.need("security_group_id").and_then(|group| self.link(resource, &group));
        let protocol = at.need("ip_protocol").and_then(|protocol| traffic::protocol(&protocol));
        let peers: Vec<At<'_>> = ["cidr_ipv4", "cidr_ipv6", "prefix_list_id", "referenced_security_group_id"]
            .into_iter()
            .filter_map(|key| at.given(key))
            .collect();
        let [other] = peers.as_slice() else {
            at.wrong("has to have exactly one source or destination (S15)", None);
            return;
        };
        let peer = if at.given("prefix_list_id").is_some() {
            self.link(resource, other).map(Peer::PrefixList)
        } else if at.given("referenced_security_group_id").is_some() {
            self.link(resource, other).map(|link| peer(&link))
        } else {
            other.cidr().map(Peer::Cidr)
        };
        let (Some(group), Some(protocol), Some(peer)) = (group, protocol, peer) else { return };
        let Some(traffic) =
            traffic::of_group_rule(at, protocol, at.given("from_port"), at.given("to_port"), Lacking::Wrong)
        else {
            return;
        };
        let text = |key| at.term.get(key).and_then(Term::as_text);
        let written = at.given("tags_all").or_else(|| at.given("tags"));
        let rule = GroupRule {
            direction,
            traffic,
            peer,
            id: text("security_group_rule_id").or_else(|| text("id")).and_then(rule_id),
            description: text("description").filter(|text| !text.is_empty()).map(str::to_owned),
            tags: tags(written.as_ref()),
            place: at.place(),
        };
        self.assembly.borrow_mut().rules.push((group, rule));
    }

    fn prefix_list(&self, resource: &Resource, at: &At<'_>) {
        let key = if resource.data { "entries" } else { "entry" };
        let mut entries: Vec<PrefixEntry> = Vec::new();
        for block in Self::blocks(resource, at, key) {
            entries.extend(prefix_entry(&block));
        }
        // A data source that was not read yet tells nothing.
        let told = !resource.data || at.get(key).is_some();
        let family = at.given("address_family").and_then(|family| assemble::family(&family));
        let list = PrefixList {
            identity: self.identity(resource, at, &["name"]),
            name: at.term.get("name").and_then(Term::as_text).map(str::to_owned),
            family: family.or_else(|| family_of(Some(&entries))),
            max_entries: at.given("max_entries").and_then(|most| most.number(0..=i64::from(u32::MAX))),
            entries: told.then_some(entries),
        };
        self.assembly.borrow_mut().inventory.prefix_lists.push(list);
    }

    fn prefix_entry(&self, resource: &Resource, at: &At<'_>) {
        let list = at.need("prefix_list_id").and_then(|list| self.link(resource, &list));
        if let (Some(list), Some(entry)) = (list, prefix_entry(at)) {
            self.assembly.borrow_mut().listed.push((list, entry, at.place()));
        }
    }

    fn interface(&self, resource: &Resource, at: &At<'_>, groups: &str) {
        let mut addresses = Vec::new();
        let mut seen = HashSet::new();
        let single = ["private_ip"].into_iter().filter_map(|key| at.given(key));
        let lists = ["private_ip_list", "private_ips", "secondary_private_ips", "ipv6_address_list", "ipv6_addresses"];
        let lists = lists.into_iter().filter_map(|key| at.given(key));
        let mut unknown = false;
        for value in single.chain(lists) {
            let all = if matches!(value.term.what, What::List(_)) { value.elements() } else { vec![value] };
            for value in all {
                if matches!(value.term.what, What::Unknown(_)) {
                    unknown = true;
                } else {
                    addresses.extend(value.address().filter(|address| seen.insert(*address)));
                }
            }
        }
        if addresses.is_empty() {
            let message = if unknown { "its addresses are AWS's to choose" } else { "it has no address here" };
            at.note(Because::Unknown, message);
        }
        let subnet = at.given("subnet_id").filter(|at| !matches!(at.term.what, What::Unknown(_)));
        let eni = NetworkInterface {
            identity: self.identity(resource, at, &[]),
            subnet: subnet.and_then(|subnet| self.link(resource, &subnet)),
            vpc: None,
            addresses,
            groups: self.links(resource, at, groups),
        };
        if eni.groups.is_empty() {
            at.note(Because::NotHere, assemble::NO_GROUP);
        }
        self.assembly.borrow_mut().inventory.interfaces.push(eni);
    }

    /// Resources of other kinds: those with security groups one by one, the others in a sentence for each document.
    fn others(&self) {
        let mut counts: BTreeMap<(usize, &str), BTreeMap<&str, usize>> = BTreeMap::new();
        for resource in self.resources.iter().filter(|resource| !resource.data && !is_read(&resource.kind)) {
            let at = At::new(&resource.values, &resource.file, resource.address.as_str(), self.findings);
            let given = |key: &str| matches!(resource.values.what, What::Map(_)) && at.given(key).is_some();
            if WITH_GROUPS.into_iter().any(given) {
                at.note(Because::NotExpressible, assemble::WITH_GROUPS);
            } else {
                let kinds = counts.entry((resource.scope, &resource.file)).or_default();
                *kinds.entry(resource.kind.as_str()).or_default() += 1;
            }
        }
        for ((_, file), kinds) in counts {
            let Some(resource) = self.resources.iter().find(|resource| &*resource.file == file) else { continue };
            assemble::other_kinds(&kinds, assemble::place(&resource.file, ""), self.findings);
        }
    }
}

/// The provider's words for both directions.
const DIRECTIONS: [(Direction, &str); 2] = [(Direction::Inbound, "ingress"), (Direction::Outbound, "egress")];

/// Tags whose values are known.
fn tags(at: Option<&At<'_>>) -> BTreeMap<String, String> {
    let members = at.filter(|at| matches!(at.term.what, What::Map(_))).map_or_else(Vec::new, At::members);
    members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned()))).collect()
}

/// An entry of a network ACL: a block of one, or a resource of its own, which call number and action otherwise.
fn entry(at: &At<'_>, direction: Direction, [number, action]: [&str; 2]) -> Option<Entry> {
    let number = at.need(number).and_then(|number| number.number(1..=i64::from(policy::LAST_NUMBER)));
    let action = at.need(action).and_then(|action| traffic::action(&action, str::eq_ignore_ascii_case));
    let protocol = at.need("protocol").and_then(|protocol| traffic::protocol(&protocol));
    let cidr = match (at.given("cidr_block"), at.given("ipv6_cidr_block")) {
        (Some(cidr), None) | (None, Some(cidr)) => cidr.cidr(),
        _ => {
            at.wrong("has to have one of `cidr_block` and `ipv6_cidr_block` (N21)", None);
            None
        }
    };
    let (number, action, protocol, cidr) = (number?, action?, protocol?, cidr?);
    let ports = at.given("from_port").zip(at.given("to_port"));
    let icmp = at.given("icmp_type").zip(at.given("icmp_code"));
    let traffic = traffic::of_entry(at, protocol, cidr, ports, icmp, Lacking::Wrong)?;
    Some(Entry { direction, number, action, traffic, cidr, place: at.place() })
}

fn prefix_entry(at: &At<'_>) -> Option<PrefixEntry> {
    let cidr = at.need("cidr")?.cidr()?;
    let description = at.term.get("description").and_then(Term::as_text).filter(|text| !text.is_empty());
    Some(PrefixEntry { cidr, description: description.map(str::to_owned) })
}

/// A group, and its account where it is written before it: `111122223333/sg-…`.
fn peer(link: &str) -> Peer {
    let (owner, group) = match link.split_once('/') {
        Some((owner, group)) if owner.bytes().all(|byte| byte.is_ascii_digit()) => (Some(owner.to_owned()), group),
        _ => (None, link),
    };
    Peer::Group { group: group.to_owned(), owner, vpc: None, peering: None }
}

fn rule_id(text: &str) -> Option<String> {
    text.starts_with("sgr-").then(|| text.to_owned())
}

/// The family of a list that does not say it.
fn family_of(entries: Option<&Vec<PrefixEntry>>) -> Option<Family> {
    match entries?.first()?.cidr {
        ipnet::IpNet::V4(_) => Some(Family::V4),
        ipnet::IpNet::V6(_) => Some(Family::V6),
    }
}
