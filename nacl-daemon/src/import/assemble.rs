//! Objects, and what separate resources add to them, → one [`Inventory`]: rules, associations and entries find their object,
//! what is said twice is taken once. Knows no format.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family};

use super::{Problem, term::At, tree::Findings};
use crate::{
    inventory::{
        Association, Because, Entry, GroupRule, Identity, Inventory, Link, NetworkAcl, Note, Peer, Place, PrefixEntry,
        RuleKey, SecurityGroup, Traffic,
    },
    resolve::Protocol,
};

/// What is told of an interface whose groups are not written.
pub const NO_GROUP: &str =
    "no security group is told: AWS gives it its VPC's default one (S9), which is not taken over";

/// What is told of a resource of another kind that has security groups.
pub const WITH_GROUPS: &str =
    "has security groups on interfaces that AWS makes for it, whose addresses are not told here";

/// What a VPC has by default, which nobody has to write down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Default {
    /// Its VPC.
    pub vpc: Link,
    /// Where it was named.
    pub place: Place,
}

/// An inventory that is being put together.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The objects, with what stands in them.
    pub inventory: Inventory,
    /// Entries of network ACLs that stand by themselves.
    pub entries: Vec<(Link, Entry)>,
    /// Associations that stand by themselves.
    pub associations: Vec<(Link, Association, Place)>,
    /// Rules of security groups that stand by themselves.
    pub rules: Vec<(Link, GroupRule)>,
    /// Entries of prefix lists that stand by themselves.
    pub listed: Vec<(Link, PrefixEntry, Place)>,
    /// CIDRs of VPCs and subnets that stand by themselves.
    pub cidrs: Vec<(Link, IpNet, Place)>,
    /// Security groups of interfaces that stand by themselves.
    pub members: Vec<(Link, Link, Place)>,
    /// Keys that mean a VPC's default network ACL.
    pub default_acls: BTreeMap<Link, Default>,
    /// Keys that mean a VPC's default security group.
    pub default_groups: BTreeMap<Link, Default>,
}

impl Assembly {
    /// Puts everything where it belongs.
    pub fn finish(mut self, findings: &Findings) -> Inventory {
        let note = |because, place: &Place, message: String| {
            findings.notes.borrow_mut().push(Note { because, place: place.clone(), message });
        };
        let wrong = |place: &Place, message: String| {
            findings.problems.borrow_mut().push(Problem { place: place.clone(), message, help: None });
        };
        self.once(&note);
        self.rename_defaults();
        self.default_objects(&note);
        let Self { inventory: mut all, entries, associations, rules, listed, cidrs, members, .. } = self;

        let mut owners: HashMap<&Link, &mut Vec<IpNet>> = (all.vpcs.iter_mut())
            .map(|vpc| (&vpc.identity.key, &mut vpc.cidrs))
            .chain(all.subnets.iter_mut().map(|subnet| (&subnet.identity.key, &mut subnet.cidrs)))
            .collect();
        let mut known: HashSet<(Link, IpNet)> = HashSet::new();
        for (key, cidrs) in &owners {
            known.extend(cidrs.iter().map(|cidr| ((*key).clone(), *cidr)));
        }
        for (owner, cidr, place) in cidrs {
            match owners.get_mut(&owner) {
                Some(cidrs) if known.insert((owner.clone(), cidr)) => cidrs.push(cidr),
                Some(_) => {}
                None => {
                    let message = format!("it belongs to {owner:?}, which is not in these documents");
                    note(Because::NotHere, &place, message);
                }
            }
        }

        let mut index: HashMap<Link, usize>;
        index = all.nacls.iter().enumerate().map(|(at, acl)| (acl.identity.key.clone(), at)).collect();
        let mut numbered: HashMap<(usize, Direction, u16), (usize, bool)> = HashMap::new();
        for (at, acl) in all.nacls.iter().enumerate() {
            for (place, entry) in acl.entries.iter().enumerate() {
                numbered.insert((at, entry.direction, entry.number), (place, false));
            }
        }
        for (acl, entry) in entries {
            let Some(&at) = index.get(&acl) else {
                let message = format!("its network ACL {acl:?} is not in these documents: the rule is left out");
                note(Because::NotHere, &entry.place, message);
                continue;
            };
            let entries = &mut all.nacls[at].entries;
            let (found, separate) =
                numbered.entry((at, entry.direction, entry.number)).or_insert((entries.len(), false));
            match entries.get_mut(*found) {
                None => entries.push(entry),
                Some(known) if same_entry(known, &entry) => known.place = entry.place,
                Some(known) if *separate => {
                    let (number, there) = (entry.number, &known.place.path);
                    let message = format!("rule {number} is there already, in {there} (NetworkAclEntryAlreadyExists)");
                    wrong(&entry.place, message);
                }
                // Terraform's network ACL keeps a copy of its rules, as old as its last refresh.
                Some(known) => {
                    let (number, there) = (entry.number, &known.place.path);
                    let message = format!("rule {number} stands otherwise in {there}: the rule of its own is taken");
                    note(Because::Unknown, &entry.place, message);
                    *known = entry;
                }
            }
            *separate = true;
        }
        associate(&mut all, associations, &index, &note);
        for acl in &mut all.nacls {
            acl.entries.sort_by_key(|entry| (entry.direction, entry.number));
        }

        index = all.groups.iter().enumerate().map(|(at, group)| (group.identity.key.clone(), at)).collect();
        let mut places: HashMap<(usize, RuleKey), (usize, bool)> = HashMap::new();
        for (at, group) in all.groups.iter().enumerate() {
            for (place, rule) in group.rules.iter().flatten().enumerate() {
                places.insert((at, rule.key()), (place, false));
            }
        }
        for (group, rule) in rules {
            let at = *index.entry(group.clone()).or_insert_with(|| {
                all.groups.push(only_named(&group, &rule.place));
                all.groups.len() - 1
            });
            let rules = all.groups[at].rules.get_or_insert_with(|| {
                let message =
                    format!("security group {group:?} has rules here, and may have others that no document tells of");
                note(Because::NotHere, &rule.place, message);
                Vec::new()
            });
            let (place, separate) = places.entry((at, rule.key())).or_insert((rules.len(), false));
            match rules.get_mut(*place) {
                // Two that are no copies of each other: that AWS takes one is told where all rules are known.
                Some(_) if *separate => rules.push(rule),
                // A rule that is there already only adds what is known of it.
                Some(known) => {
                    let copy = std::mem::replace(known, rule);
                    known.learn(copy);
                }
                None => rules.push(rule),
            }
            *separate = true;
        }
        for group in all.groups.iter_mut().filter_map(|group| group.rules.as_mut()) {
            group.sort_by_key(|rule| rule.direction);
        }

        index = all.prefix_lists.iter().enumerate().map(|(at, list)| (list.identity.key.clone(), at)).collect();
        let mut known: HashSet<(usize, IpNet)> = HashSet::new();
        for (at, list) in all.prefix_lists.iter().enumerate() {
            known.extend(list.entries.iter().flatten().map(|entry| (at, entry.cidr)));
        }
        for (list, entry, place) in listed {
            let Some(&at) = index.get(&list) else {
                let message = format!("its prefix list {list:?} is not in these documents: the entry is left out");
                note(Because::NotHere, &place, message);
                continue;
            };
            if known.insert((at, entry.cidr)) {
                all.prefix_lists[at].entries.get_or_insert_default().push(entry);
            }
        }

        index = all.interfaces.iter().enumerate().map(|(at, eni)| (eni.identity.key.clone(), at)).collect();
        let mut known: HashSet<(usize, Link)> = HashSet::new();
        for (at, eni) in all.interfaces.iter().enumerate() {
            known.extend(eni.groups.iter().map(|group| (at, group.clone())));
        }
        for (eni, group, place) in members {
            let Some(&at) = index.get(&eni) else {
                let message = format!("its network interface {eni:?} is not in these documents");
                note(Because::NotHere, &place, message);
                continue;
            };
            if known.insert((at, group.clone())) {
                all.interfaces[at].groups.push(group);
            }
        }
        all
    }

    /// An object that several documents or a data source tell of is taken once: who tells more of it comes first.
    fn once(&mut self, note: &impl Fn(Because, &Place, String)) {
        fn keep<T: PartialEq>(
            list: &mut Vec<T>,
            identity: impl Fn(&T) -> &Identity,
            rank: impl Fn(&T) -> usize,
            note: &impl Fn(Because, &Place, String),
        ) {
            list.sort_by_key(|object| std::cmp::Reverse(rank(object)));
            let mut seen = BTreeSet::new();
            list.retain(|object| {
                let Identity { key, place, .. } = identity(object);
                let new = seen.insert(key.clone());
                if !new {
                    note(
                        Because::NoEffect,
                        place,
                        format!("{key:?} stands somewhere else too, and is taken from there"),
                    );
                }
                new
            });
        }
        keep(&mut self.inventory.vpcs, |vpc| &vpc.identity, |vpc| vpc.cidrs.len(), note);
        keep(&mut self.inventory.subnets, |subnet| &subnet.identity, |subnet| subnet.cidrs.len(), note);
        keep(&mut self.inventory.nacls, |acl| &acl.identity, |_| 0, note);
        keep(&mut self.inventory.groups, |group| &group.identity, |group| usize::from(group.rules.is_some()), note);
        keep(&mut self.inventory.prefix_lists, |list| &list.identity, |list| usize::from(list.entries.is_some()), note);
        keep(&mut self.inventory.interfaces, |eni| &eni.identity, |eni| eni.addresses.len(), note);
    }

    /// A VPC's default network ACL or group that a document has is called by its own key, not by "the default one of".
    fn rename_defaults(&mut self) {
        let mut names: BTreeMap<Link, Link> = BTreeMap::new();
        for (key, default) in &self.default_acls {
            let known = |acl: &&NetworkAcl| acl.default && acl.vpc.as_ref() == Some(&default.vpc);
            if let Some(acl) = self.inventory.nacls.iter().find(known) {
                names.insert(key.clone(), acl.identity.key.clone());
            }
        }
        for (key, default) in &self.default_groups {
            let known = |group: &&SecurityGroup| {
                group.name.as_deref() == Some("default") && group.vpc.as_ref() == Some(&default.vpc)
            };
            if let Some(group) = self.inventory.groups.iter().find(known) {
                names.insert(key.clone(), group.identity.key.clone());
            }
        }
        let rename = |link: &mut Link| {
            if let Some(name) = names.get(link) {
                link.clone_from(name);
            }
        };
        let of_rule = |rule: &mut GroupRule| {
            if let Peer::Group { group, .. } = &mut rule.peer {
                rename(group);
            }
        };
        self.entries.iter_mut().for_each(|(acl, _)| rename(acl));
        self.associations.iter_mut().for_each(|(acl, ..)| rename(acl));
        for (group, rule) in &mut self.rules {
            rename(group);
            of_rule(rule);
        }
        self.members.iter_mut().for_each(|(_, group, _)| rename(group));
        self.inventory.groups.iter_mut().filter_map(|group| group.rules.as_mut()).flatten().for_each(of_rule);
        self.inventory.interfaces.iter_mut().flat_map(|eni| &mut eni.groups).for_each(rename);
    }

    /// Where rules or subnets are given to a default network ACL or group that no document has, it is there all the same: as
    /// AWS makes it (N9, N10, S5).
    fn default_objects(&mut self, note: &impl Fn(Because, &Place, String)) {
        let named: BTreeSet<&Link> =
            (self.entries.iter().map(|(acl, _)| acl)).chain(self.associations.iter().map(|(acl, ..)| acl)).collect();
        let here: BTreeSet<&Link> = self.inventory.nacls.iter().map(|acl| &acl.identity.key).collect();
        let missing = |key: &&Link| named.contains(key) && !here.contains(key);
        let mut acls = Vec::new();
        for (key, default) in self.default_acls.iter().filter(|(key, _)| missing(key)) {
            let message = "the VPC's default network ACL is taken as AWS makes it, with 100 and 101 allowing all (N9)";
            note(Because::NotHere, &default.place, message.to_owned());
            let entries = Direction::ALL.into_iter().flat_map(|direction| {
                everywhere().map(move |(number, cidr)| Entry {
                    direction,
                    number,
                    action: Action::Allow,
                    traffic: Traffic { protocol: Protocol::All, ports: None, icmp: None },
                    cidr,
                    place: default.place.clone(),
                })
            });
            acls.push(NetworkAcl {
                identity: bare(key, "default", &default.place),
                vpc: Some(default.vpc.clone()),
                default: true,
                subnets: Vec::new(),
                entries: entries.collect(),
            });
        }
        self.inventory.nacls.append(&mut acls);

        let eni_groups = self.inventory.interfaces.iter().flat_map(|eni| &eni.groups);
        let named: BTreeSet<&Link> = (self.rules.iter().map(|(group, _)| group))
            .chain(self.members.iter().map(|(_, group, _)| group))
            .chain(eni_groups)
            .collect();
        let here: BTreeSet<&Link> = self.inventory.groups.iter().map(|group| &group.identity.key).collect();
        let missing = |key: &&Link| named.contains(key) && !here.contains(key);
        let mut groups = Vec::new();
        for (key, default) in self.default_groups.iter().filter(|(key, _)| missing(key)) {
            let message = "the VPC's default security group is taken as AWS makes it (S5)";
            note(Because::NotHere, &default.place, message.to_owned());
            groups.push(SecurityGroup {
                identity: bare(key, "default", &default.place),
                name: Some("default".to_owned()),
                vpc: Some(default.vpc.clone()),
                rules: Some(default_group_rules(key, &default.place)),
            });
        }
        self.inventory.groups.append(&mut groups);
    }
}

/// Everything, in both families, with the numbers of AWS's default network ACL (N9, N10).
fn everywhere() -> impl Iterator<Item = (u16, IpNet)> {
    [(100, "0.0.0.0/0"), (101, "::/0")].into_iter().filter_map(|(number, cidr)| Some((number, cidr.parse().ok()?)))
}

/// Everything from the group itself, and everything out (S5).
fn default_group_rules(key: &str, place: &Place) -> Vec<GroupRule> {
    let itself = Peer::Group { group: key.to_owned(), owner: None, vpc: None, peering: None };
    let inbound = rule(Direction::Inbound, itself, place);
    [inbound].into_iter().chain(allow_all_out(place)).collect()
}

/// What AWS gives a new security group: everything out, in both families (S4).
pub fn allow_all_out(place: &Place) -> impl Iterator<Item = GroupRule> {
    everywhere().map(|(_, cidr)| rule(Direction::Outbound, Peer::Cidr(cidr), place))
}

fn rule(direction: Direction, peer: Peer, place: &Place) -> GroupRule {
    GroupRule {
        direction,
        traffic: Traffic { protocol: Protocol::All, ports: None, icmp: None },
        peer,
        id: None,
        description: None,
        tags: BTreeMap::new(),
        place: place.clone(),
    }
}

/// An object of which nothing is known but what it is called.
fn bare(key: &str, name: &str, place: &Place) -> Identity {
    Identity {
        key: key.to_owned(),
        id: aws_id(key).then(|| key.to_owned()),
        names: vec![name.to_owned()],
        description: None,
        tags: BTreeMap::new(),
        owner: None,
        place: place.clone(),
    }
}

/// Whether a text is an id of AWS's: a kind, a dash, hexadecimal digits.
pub fn aws_id(text: &str) -> bool {
    text.rsplit_once('-').is_some_and(|(kind, digits)| {
        kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && !kind.is_empty()
            && digits.len() >= 3
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn only_named(key: &str, place: &Place) -> SecurityGroup {
    SecurityGroup { identity: bare(key, key, place), name: None, vpc: None, rules: None }
}

fn same_entry(one: &Entry, other: &Entry) -> bool {
    one.action == other.action && one.traffic == other.traffic && one.cidr == other.cidr
}

/// Each subnet has one network ACL (N14): what stands by itself wins over a list, and any other over the default one.
fn associate(
    all: &mut Inventory,
    separate: Vec<(Link, Association, Place)>,
    index: &HashMap<Link, usize>,
    note: &impl Fn(Because, &Place, String),
) {
    let mut chosen: BTreeMap<Link, (usize, Association)> = BTreeMap::new();
    for (acl, association, place) in separate {
        let Some(&at) = index.get(&acl) else {
            let message = format!("its network ACL {acl:?} is not in these documents: the association is left out");
            note(Because::NotHere, &place, message);
            continue;
        };
        let subnet = association.subnet.clone();
        if let Some((other, _)) = chosen.insert(subnet.clone(), (at, association))
            && other != at
        {
            let message = format!("subnet {subnet:?} has two network ACLs here: the last one named is taken (N14)");
            note(Because::Unknown, &place, message);
        }
    }
    for (at, acl) in all.nacls.iter_mut().enumerate() {
        let place = acl.identity.place.clone();
        acl.subnets.retain(|known| {
            let here = chosen.get(&known.subnet).is_none_or(|(other, _)| *other == at);
            if !here && !acl.default {
                let message = format!("subnet {:?} is associated otherwise by itself, which is taken", known.subnet);
                note(Because::Unknown, &place, message);
            }
            here
        });
    }
    for acl in &mut all.nacls {
        // What is in its list is there already, and gets the association's id.
        for known in &mut acl.subnets {
            if let Some((_, association)) = chosen.remove(&known.subnet) {
                known.id = association.id.or_else(|| known.id.take());
            }
        }
    }
    for (at, association) in chosen.into_values() {
        all.nacls[at].subnets.push(association);
    }
    let others = all.nacls.iter().filter(|acl| !acl.default).flat_map(|acl| &acl.subnets);
    let others: BTreeSet<Link> = others.map(|association| association.subnet.clone()).collect();
    for acl in all.nacls.iter_mut().filter(|acl| acl.default) {
        acl.subnets.retain(|known| !others.contains(&known.subnet));
    }
}

/// The family of a prefix list as AWS names it.
pub fn family(at: &At<'_>) -> Option<Family> {
    let found = match at.term.as_text() {
        Some("IPv4") => Some(Family::V4),
        Some("IPv6") => Some(Family::V6),
        _ => None,
    };
    if found.is_none() {
        at.refuse("`IPv4` or `IPv6`");
    }
    found
}

/// What something is called, best first, each name once.
pub fn names<'n>(given: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in given {
        if !name.is_empty() && !all.iter().any(|known| known == name) {
            all.push(name.to_owned());
        }
    }
    all
}

/// Tells of resources of other kinds, by how many there are of each, in a sentence; of none nothing.
pub fn other_kinds(kinds: &BTreeMap<&str, usize>, place: Place, findings: &Findings) {
    if kinds.is_empty() {
        return;
    }
    let total: usize = kinds.values().sum();
    let mut named: Vec<String> = kinds.iter().take(8).map(|(kind, count)| format!("{kind:.60} ({count})")).collect();
    if kinds.len() > 8 {
        named.push("and others".to_owned());
    }
    let message = format!(
        "{total} resource{} of kinds that say nothing of network ACLs and security groups: {}",
        if total == 1 { "" } else { "s" },
        named.join(", ")
    );
    findings.notes.borrow_mut().push(Note { because: Because::NoEffect, place, message });
}

/// A place in a file that has no line.
pub fn place(file: &Arc<str>, path: &str) -> Place {
    Place { file: Arc::clone(file), path: path.to_owned(), line: None }
}
