//! Makes an inventory whole and regular: what is only named gets its place, what AWS implies is said, everything has a name that
//! a policy takes. Formats and files are not known here.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nacl_common::{Action, Direction, Family};

use super::{
    Association, Because, Entry, Identity, Inventory, Link, NetworkAcl, Note, Peer, Place, PrefixList, SecurityGroup,
    Subnet, Traffic, Vpc, family,
};
use crate::resolve::Protocol;

/// Longest name taken over from a tag; AWS's tags have up to 256 characters.
const LONGEST: usize = 60;

/// Where something is first named, by what names it.
type Named = BTreeMap<Link, Place>;

impl Identity {
    /// Something that is only named, there.
    pub fn only_named(key: &str, prefix: &str, place: Place) -> Self {
        let id = key.starts_with(prefix).then(|| key.to_owned());
        let (names, tags) = (Vec::new(), BTreeMap::new());
        Self { key: key.to_owned(), id, names, description: None, tags, owner: None, place }
    }
}

/// Names by keys.
pub(super) struct Renamed {
    pub(super) subnets: BTreeMap<Link, Link>,
    pub(super) nacls: BTreeMap<Link, Link>,
    pub(super) interfaces: BTreeMap<Link, Link>,
}

/// Everything that something of a kind can be named by.
fn links<'i>(identities: impl Iterator<Item = &'i Identity>) -> HashSet<Link> {
    identities.flat_map(|identity| identity.id.iter().chain([&identity.key])).cloned().collect()
}

impl Inventory {
    /// Adds what is only named (with a note), the network ACL of subnets that have none, and the account of most things. Links
    /// become keys; what is in no VPC, where there is one, is in that.
    #[must_use]
    pub fn complete(mut self) -> Self {
        self.account = self.account.take().or_else(|| self.usual_owner());
        self.named_vpcs();
        self.named_subnets();
        self.named_groups();
        self.named_lists();
        self.links();
        self.associations();
        self
    }

    /// Leaves only what belongs to these VPCs, by id or name, and the interfaces elsewhere that give a group of theirs its members.
    /// Gives those that are not there, each with the names of those that are.
    pub fn only(&mut self, wanted: &[String]) -> Vec<(String, Vec<String>)> {
        self.named_vpcs();
        let mut keys = BTreeSet::new();
        let mut unknown = Vec::new();
        for name in wanted {
            let is = |vpc: &&Vpc| {
                let identity = &vpc.identity;
                identity.key == *name || identity.id.as_ref() == Some(name) || identity.names.contains(name)
            };
            let found: Vec<_> = self.vpcs.iter().filter(is).map(|vpc| &vpc.identity).collect();
            if found.is_empty() {
                unknown.push((name.clone(), self.vpcs.iter().map(|vpc| vpc.identity.key.clone()).collect()));
            }
            keys.extend(links(found.into_iter()));
        }
        let before = self.identities().len();
        let within = |vpc: &Option<Link>| vpc.as_ref().is_none_or(|vpc| keys.contains(vpc));
        self.subnets.retain(|subnet| within(&subnet.vpc));
        self.nacls.retain(|nacl| within(&nacl.vpc));
        self.groups.retain(|group| within(&group.vpc));
        let subnets = links(self.subnets.iter().map(|subnet| &subnet.identity));
        let mut carried: HashSet<Link> = HashSet::new();
        for rule in self.groups.iter().flat_map(|group| group.rules.iter().flatten()) {
            if let Peer::Group { group, .. } = &rule.peer {
                carried.insert(group.clone());
            }
        }
        self.interfaces.retain_mut(|interface| {
            let here = match (&interface.vpc, &interface.subnet) {
                (Some(vpc), _) => keys.contains(vpc),
                (None, Some(subnet)) => subnets.contains(subnet),
                (None, None) => true,
            };
            let member = interface.groups.iter().any(|group| carried.contains(group));
            if !here {
                // A member of a group, wherever it stands.
                interface.subnet = None;
                interface.groups.retain(|group| carried.contains(group));
            }
            here || member
        });
        let named: BTreeSet<Link> = self.interfaces.iter().filter_map(|interface| interface.vpc.clone()).collect();
        let peers = self.groups.iter().flat_map(|group| group.rules.iter().flatten());
        let peers: BTreeSet<Link> = peers
            .filter_map(|rule| if let Peer::Group { vpc, .. } = &rule.peer { vpc.clone() } else { None })
            .collect();
        self.vpcs.retain(|vpc| [&keys, &named, &peers].iter().any(|set| set.contains(&vpc.identity.key)));
        let gone = before - self.identities().len();
        if gone > 0 {
            let place = Place { file: Arc::from("--vpc"), path: String::new(), line: None };
            let message = format!("{gone} things of other VPCs are left out");
            self.notes.push(Note { because: Because::NoEffect, place, message });
        }
        unknown
    }

    /// The account that owns most; AWS's own lists have none.
    fn usual_owner(&self) -> Option<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for owner in self.identities().into_iter().filter_map(|identity| identity.owner.as_deref()) {
            if owner.len() == 12 && owner.bytes().all(|byte| byte.is_ascii_digit()) {
                *counts.entry(owner).or_default() += 1;
            }
        }
        let most = counts.into_iter().max_by_key(|&(owner, count)| (count, Reverse(owner)));
        most.map(|(owner, _)| owner.to_owned())
    }

    pub(crate) fn identities(&self) -> Vec<&Identity> {
        let mut all: Vec<&Identity> = self.vpcs.iter().map(|vpc| &vpc.identity).collect();
        all.extend(self.subnets.iter().map(|subnet| &subnet.identity));
        all.extend(self.nacls.iter().map(|nacl| &nacl.identity));
        all.extend(self.groups.iter().map(|group| &group.identity));
        all.extend(self.prefix_lists.iter().map(|list| &list.identity));
        all.extend(self.interfaces.iter().map(|interface| &interface.identity));
        all
    }

    /// Records that a document names something that none tells of.
    fn not_here(&mut self, what: &str, key: &str, place: &Place, help: &str) {
        let message = format!("{what} {key} is only named: {help}");
        self.notes.push(Note { because: Because::NotHere, place: place.clone(), message });
    }

    fn named_vpcs(&mut self) {
        let known = links(self.vpcs.iter().map(|vpc| &vpc.identity));
        let mut named = Named::new();
        let mut add = |vpc: Option<&Link>, place: &Place| {
            if let Some(vpc) = vpc.filter(|vpc| !known.contains(*vpc)) {
                named.entry(vpc.clone()).or_insert_with(|| place.clone());
            }
        };
        for subnet in &self.subnets {
            add(subnet.vpc.as_ref(), &subnet.identity.place);
        }
        for nacl in &self.nacls {
            add(nacl.vpc.as_ref(), &nacl.identity.place);
        }
        for interface in &self.interfaces {
            add(interface.vpc.as_ref(), &interface.identity.place);
        }
        for group in &self.groups {
            add(group.vpc.as_ref(), &group.identity.place);
            for rule in group.rules.iter().flatten() {
                if let Peer::Group { vpc, .. } = &rule.peer {
                    add(vpc.as_ref(), &rule.place);
                }
            }
        }
        for (key, place) in named {
            self.not_here("VPC", &key, &place, "without its CIDRs its resolver's address is not exempt (N43)");
            self.vpcs.push(Vpc { identity: Identity::only_named(&key, "vpc-", place), cidrs: Vec::new() });
        }
        if self.vpcs.len() > 1 {
            self.subnets_of_no_vpc();
        }
    }

    /// Where there are several VPCs, a subnet is in one of them.
    fn subnets_of_no_vpc(&mut self) {
        const UNKNOWN: &str = "unknown";
        for at in 0..self.subnets.len() {
            let subnet = &self.subnets[at];
            if subnet.vpc.is_some() {
                continue;
            }
            let inside = |vpc: &&Vpc| {
                let cidrs = &subnet.cidrs;
                !cidrs.is_empty() && cidrs.iter().all(|cidr| vpc.cidrs.iter().any(|outer| outer.contains(cidr)))
            };
            let mut around = self.vpcs.iter().filter(inside);
            if let (Some(vpc), None) = (around.next(), around.next()) {
                self.subnets[at].vpc = Some(vpc.identity.key.clone());
                continue;
            }
            let (key, place) = (subnet.identity.key.clone(), subnet.identity.place.clone());
            self.not_here("the VPC of subnet", &key, &place, "it is put into one called `unknown`");
            if !self.vpcs.iter().any(|vpc| vpc.identity.key == UNKNOWN) {
                let identity = Identity::only_named(UNKNOWN, "vpc-", place);
                self.vpcs.push(Vpc { identity, cidrs: Vec::new() });
            }
            self.subnets[at].vpc = Some(UNKNOWN.to_owned());
        }
    }

    fn named_subnets(&mut self) {
        let known = links(self.subnets.iter().map(|subnet| &subnet.identity));
        let mut named: BTreeMap<Link, (Place, Option<Link>)> = BTreeMap::new();
        let mut add = |subnet: &Link, vpc: Option<&Link>, place: &Place| {
            if !known.contains(subnet) {
                let found = named.entry(subnet.clone()).or_insert_with(|| (place.clone(), None));
                found.1 = found.1.take().or_else(|| vpc.cloned());
            }
        };
        for nacl in &self.nacls {
            for association in &nacl.subnets {
                add(&association.subnet, nacl.vpc.as_ref(), &nacl.identity.place);
            }
        }
        for interface in &self.interfaces {
            if let Some(subnet) = &interface.subnet {
                add(subnet, interface.vpc.as_ref(), &interface.identity.place);
            }
        }
        for (key, (place, vpc)) in named {
            self.not_here("subnet", &key, &place, "no interface of this machine can stand in it without its CIDRs");
            let identity = Identity::only_named(&key, "subnet-", place);
            self.subnets.push(Subnet { identity, vpc, cidrs: Vec::new() });
        }
    }

    fn named_groups(&mut self) {
        let mut named: BTreeMap<Link, SecurityGroup> = BTreeMap::new();
        let empty = |key: &str, place: &Place| SecurityGroup {
            identity: Identity::only_named(key, "sg-", place.clone()),
            name: None,
            vpc: None,
            rules: None,
        };
        let all = links(self.groups.iter().map(|group| &group.identity));
        let told = self.groups.iter().filter(|group| group.rules.is_some());
        let told = links(told.map(|group| &group.identity));
        for group in &self.groups {
            for rule in group.rules.iter().flatten() {
                let Peer::Group { group: link, owner, vpc, .. } = &rule.peer else { continue };
                if told.contains(link) {
                    continue;
                }
                let found = named.entry(link.clone()).or_insert_with(|| empty(link, &rule.place));
                found.identity.owner = found.identity.owner.take().or_else(|| owner.clone());
                found.vpc = found.vpc.take().or_else(|| vpc.clone());
            }
        }
        for interface in &self.interfaces {
            for link in &interface.groups {
                if !all.contains(link) {
                    let found = named.entry(link.clone()).or_insert_with(|| empty(link, &interface.identity.place));
                    found.vpc = found.vpc.take().or_else(|| interface.vpc.clone());
                }
            }
        }
        let mut at: HashMap<Link, usize> = HashMap::new();
        for (place, group) in self.groups.iter().enumerate() {
            at.extend(group.identity.id.iter().chain([&group.identity.key]).map(|link| (link.clone(), place)));
        }
        for (key, new) in named {
            if let Some(known) = at.get(&key).map(|&at| &mut self.groups[at]) {
                known.identity.owner = known.identity.owner.take().or(new.identity.owner);
                known.vpc = known.vpc.take().or(new.vpc);
                continue;
            }
            self.not_here("security group", &key, &new.identity.place, "its rules are not known");
            self.groups.push(new);
        }
    }

    fn named_lists(&mut self) {
        let known = links(self.prefix_lists.iter().map(|list| &list.identity));
        let mut named = Named::new();
        for rule in self.groups.iter().flat_map(|group| group.rules.iter().flatten()) {
            if let Peer::PrefixList(link) = &rule.peer
                && !known.contains(link)
            {
                named.entry(link.clone()).or_insert_with(|| rule.place.clone());
            }
        }
        for (key, place) in named {
            self.prefix_lists.push(PrefixList {
                identity: Identity::only_named(&key, "pl-", place),
                name: None,
                family: None,
                max_entries: None,
                entries: None,
            });
        }
        let unknown: Vec<_> = self.prefix_lists.iter().filter(|list| list.entries.is_none()).collect();
        let unknown: Vec<_> = unknown.iter().map(|list| list.identity.clone()).collect();
        for identity in unknown {
            let help = "its entries are not known, and a rule with it matches nothing";
            self.not_here("prefix list", &identity.key, &identity.place, help);
        }
    }

    /// Every link becomes a key, and says what is known of its other end.
    fn links(&mut self) {
        fn keys<'i>(identities: impl Iterator<Item = &'i Identity>) -> BTreeMap<Link, Link> {
            let mut found = BTreeMap::new();
            let identities: Vec<_> = identities.collect();
            let with_id = identities.iter().filter_map(|identity| Some((identity.id.clone()?, identity.key.clone())));
            found.extend(with_id);
            found.extend(identities.iter().map(|identity| (identity.key.clone(), identity.key.clone())));
            found
        }
        let vpcs = keys(self.vpcs.iter().map(|vpc| &vpc.identity));
        let subnets = keys(self.subnets.iter().map(|subnet| &subnet.identity));
        let groups = keys(self.groups.iter().map(|group| &group.identity));
        let lists = keys(self.prefix_lists.iter().map(|list| &list.identity));
        let only = Some(&self.vpcs).filter(|vpcs| vpcs.len() == 1).map(|vpcs| vpcs[0].identity.key.clone());
        let vpc = |link: &mut Option<Link>| {
            *link = link.take().and_then(|link| vpcs.get(&link).cloned()).or_else(|| only.clone());
        };
        let to = |keys: &BTreeMap<Link, Link>, link: &mut Link| {
            if let Some(key) = keys.get(link) {
                link.clone_from(key);
            }
        };
        self.subnets.iter_mut().for_each(|subnet| vpc(&mut subnet.vpc));
        self.nacls.iter_mut().for_each(|nacl| vpc(&mut nacl.vpc));
        self.groups.iter_mut().for_each(|group| vpc(&mut group.vpc));
        let of_subnet: BTreeMap<_, _> =
            self.subnets.iter().map(|subnet| (subnet.identity.key.clone(), subnet.vpc.clone())).collect();
        for association in self.nacls.iter_mut().flat_map(|nacl| &mut nacl.subnets) {
            to(&subnets, &mut association.subnet);
        }
        for interface in &mut self.interfaces {
            if let Some(subnet) = &mut interface.subnet {
                to(&subnets, subnet);
                interface.vpc = interface.vpc.take().or_else(|| of_subnet.get(subnet).cloned().flatten());
            }
            vpc(&mut interface.vpc);
            interface.groups.iter_mut().for_each(|group| to(&groups, group));
        }
        let account = self.account.clone();
        let own = |identity: &mut Identity, here: bool| {
            if here && identity.owner.is_none() {
                identity.owner.clone_from(&account);
            }
        };
        self.vpcs.iter_mut().for_each(|vpc| own(&mut vpc.identity, !vpc.cidrs.is_empty()));
        self.subnets.iter_mut().for_each(|subnet| own(&mut subnet.identity, !subnet.cidrs.is_empty()));
        self.nacls.iter_mut().for_each(|nacl| own(&mut nacl.identity, true));
        self.groups.iter_mut().for_each(|group| own(&mut group.identity, group.rules.is_some()));
        self.prefix_lists.iter_mut().for_each(|list| own(&mut list.identity, list.entries.is_some()));
        self.interfaces.iter_mut().for_each(|interface| own(&mut interface.identity, true));
        let known: BTreeMap<_, _> = self
            .groups
            .iter()
            .map(|group| (group.identity.key.clone(), (group.identity.owner.clone(), group.vpc.clone())))
            .collect();
        for rule in self.groups.iter_mut().flat_map(|group| group.rules.iter_mut().flatten()) {
            match &mut rule.peer {
                Peer::PrefixList(link) => to(&lists, link),
                Peer::Group { group, owner, vpc, .. } => {
                    to(&groups, group);
                    if let Some((known_owner, known_vpc)) = known.get(group) {
                        owner.clone_from(known_owner);
                        vpc.clone_from(known_vpc);
                    }
                }
                Peer::Cidr(_) => {}
            }
        }
    }

    /// Every subnet has one network ACL: its own, else its VPC's default one (N14).
    fn associations(&mut self) {
        let mut taken: BTreeMap<Link, Link> = BTreeMap::new();
        for at in 0..self.nacls.len() {
            let nacl = &mut self.nacls[at];
            let (key, place) = (nacl.identity.key.clone(), nacl.identity.place.clone());
            let mut twice = Vec::new();
            nacl.subnets.retain(|association| match taken.get(&association.subnet) {
                Some(other) if *other == key => false,
                Some(other) => {
                    twice.push((association.subnet.clone(), other.clone()));
                    false
                }
                None => {
                    taken.insert(association.subnet.clone(), key.clone());
                    true
                }
            });
            for (subnet, other) in twice {
                let message =
                    format!("subnet {subnet} has the network ACL {other} already, and a subnet has one (N14)");
                self.notes.push(Note { because: Because::NotExpressible, place: place.clone(), message });
            }
        }
        // What is only named has whatever it has.
        let told = self.subnets.iter().filter(|subnet| !subnet.cidrs.is_empty());
        let without: Vec<_> = told.filter(|subnet| !taken.contains_key(&subnet.identity.key)).cloned().collect();
        for subnet in without {
            let default = self.nacls.iter_mut().find(|nacl| nacl.default && nacl.vpc == subnet.vpc);
            let association = Association { subnet: subnet.identity.key.clone(), id: None };
            if let Some(nacl) = default {
                nacl.subnets.push(association);
                continue;
            }
            let place = &subnet.identity.place;
            let message = "no document tells of its network ACL: taken is the default one as AWS makes it, which allows everything (N9)";
            let message = format!("subnet {}: {message}", subnet.identity.key);
            self.notes.push(Note { because: Because::NotHere, place: place.clone(), message });
            let mut nacl = self.made_by_aws(&subnet, place);
            nacl.subnets.push(association);
            self.nacls.push(nacl);
        }
    }

    /// A VPC's default network ACL as AWS makes it (N9, N10).
    fn made_by_aws(&self, subnet: &Subnet, place: &Place) -> NetworkAcl {
        let mut key = "default".to_owned();
        while self.nacls.iter().any(|nacl| nacl.identity.key == key) {
            key.push('+');
        }
        let mut identity = Identity::only_named(&key, "acl-", place.clone());
        identity.owner.clone_from(&subnet.identity.owner);
        let entry = |direction, number, cidr: IpNet| Entry {
            direction,
            number,
            action: Action::Allow,
            traffic: Traffic { protocol: Protocol::All, ports: None, icmp: None },
            cidr,
            place: place.clone(),
        };
        let both = |direction| {
            [entry(direction, 100, Ipv4Net::default().into()), entry(direction, 101, Ipv6Net::default().into())]
        };
        let entries = [Direction::Inbound, Direction::Outbound].into_iter().flat_map(both).collect();
        NetworkAcl { identity, vpc: subnet.vpc.clone(), default: true, subnets: Vec::new(), entries }
    }

    /// The same inventory with the names of a policy for keys, in one order and one spelling, without places and notes. Two that
    /// say the same are equal. Ids of associations are left out: a policy does not keep them.
    #[must_use]
    pub fn canonical(self) -> Self {
        let (mut all, _) = self.complete().named();
        all.notes.clear();
        let nowhere = Place { file: Arc::from(""), path: String::new(), line: None };
        let clear = |identity: &mut Identity| {
            identity.place = nowhere.clone();
            identity.names.clear();
        };
        all.vpcs.iter_mut().for_each(|vpc| clear(&mut vpc.identity));
        all.subnets.iter_mut().for_each(|subnet| clear(&mut subnet.identity));
        all.prefix_lists.iter_mut().for_each(|list| clear(&mut list.identity));
        all.interfaces.iter_mut().for_each(|interface| clear(&mut interface.identity));
        for nacl in &mut all.nacls {
            clear(&mut nacl.identity);
            nacl.entries.iter_mut().for_each(|entry| entry.place = nowhere.clone());
            nacl.subnets.iter_mut().for_each(|association| association.id = None);
        }
        for group in &mut all.groups {
            clear(&mut group.identity);
            group.rules.iter_mut().flatten().for_each(|rule| rule.place = nowhere.clone());
        }
        all
    }

    /// Names of a policy for keys, everything in order. For a complete inventory.
    pub(super) fn named(mut self) -> (Self, Renamed) {
        let vpcs = if self.vpcs.len() == 1 {
            let only = &mut self.vpcs[0].identity;
            BTreeMap::from([(std::mem::replace(&mut only.key, "vpc".to_owned()), "vpc".to_owned())])
        } else {
            // `tags` below `[vpc]` are tags.
            rename(self.vpcs.iter_mut().map(|vpc| (&mut vpc.identity, "vpc")), &["tags"])
        };
        let subnets = rename(self.subnets.iter_mut().map(|subnet| (&mut subnet.identity, "subnet")), &[]);
        let nacl_word = |nacl: &NetworkAcl| if nacl.default { "default" } else { "nacl" };
        let nacls = rename(
            self.nacls.iter_mut().map(|nacl| {
                let word = nacl_word(nacl);
                (&mut nacl.identity, word)
            }),
            &[],
        );
        for group in &mut self.groups {
            group.identity.names.extend(group.name.clone());
        }
        let groups = rename(self.groups.iter_mut().map(|group| (&mut group.identity, "group")), &[]);
        for list in &mut self.prefix_lists {
            list.identity.names.extend(list.name.clone());
        }
        let families: BTreeMap<Link, Family> = self
            .prefix_lists
            .iter()
            .filter_map(|list| Some((list.identity.key.clone(), family(&list.entries.as_ref()?.first()?.cidr))))
            .collect();
        let lists = rename(self.prefix_lists.iter_mut().map(|list| (&mut list.identity, "list")), &[]);
        let interfaces = rename(self.interfaces.iter_mut().map(|interface| (&mut interface.identity, "eni")), &[]);
        let to = |names: &BTreeMap<Link, Link>, link: &mut Link| {
            if let Some(name) = names.get(link) {
                link.clone_from(name);
            }
        };
        let vpc = |link: &mut Option<Link>| link.iter_mut().for_each(|link| to(&vpcs, link));
        for subnet in &mut self.subnets {
            vpc(&mut subnet.vpc);
            subnet.cidrs.sort();
        }
        for nacl in &mut self.nacls {
            vpc(&mut nacl.vpc);
            nacl.subnets.iter_mut().for_each(|association| to(&subnets, &mut association.subnet));
            nacl.subnets.sort_by(|one, other| one.subnet.cmp(&other.subnet));
            nacl.entries.iter_mut().for_each(|entry| entry.traffic = entry.traffic.normal(Some(family(&entry.cidr))));
            nacl.entries.sort_by_key(|entry| (entry.direction, entry.number));
        }
        for group in &mut self.groups {
            vpc(&mut group.vpc);
            let Some(rules) = &mut group.rules else { continue };
            for rule in rules.iter_mut() {
                let mut of: Option<Family> = None;
                match &mut rule.peer {
                    Peer::Cidr(cidr) => of = Some(family(cidr)),
                    Peer::PrefixList(list) => {
                        of = families.get(list).copied();
                        to(&lists, list);
                    }
                    Peer::Group { group, vpc: peer_vpc, .. } => {
                        to(&groups, group);
                        vpc(peer_vpc);
                    }
                }
                rule.traffic = rule.traffic.normal(of);
            }
            rules.sort_by_cached_key(|rule| {
                let Traffic { protocol, ports, icmp } = rule.traffic;
                (rule.direction, protocol, ports, icmp, format!("{:?}", rule.peer), rule.id.clone())
            });
            // The same rule again is none (S16).
            let notes = &mut self.notes;
            rules.dedup_by(|again, first| {
                let same = again.key() == first.key();
                if same {
                    let message = format!("the rule stands in {} too, and AWS takes it once (S16)", first.place.path);
                    notes.push(Note { because: Because::NoEffect, place: again.place.clone(), message });
                    first.learn(again.clone());
                }
                same
            });
        }
        for list in &mut self.prefix_lists {
            let entries = list.entries.as_mut();
            if let Some(entries) = entries {
                entries.sort_by_key(|entry| entry.cidr);
            }
        }
        for interface in &mut self.interfaces {
            vpc(&mut interface.vpc);
            interface.subnet.iter_mut().for_each(|subnet| to(&subnets, subnet));
            interface.groups.iter_mut().for_each(|group| to(&groups, group));
            interface.groups.sort();
            interface.groups.dedup();
        }
        self.vpcs.sort_by(|one, other| one.identity.key.cmp(&other.identity.key));
        self.subnets.sort_by(|one, other| one.identity.key.cmp(&other.identity.key));
        self.nacls.sort_by(|one, other| one.identity.key.cmp(&other.identity.key));
        self.groups.sort_by(|one, other| one.identity.key.cmp(&other.identity.key));
        self.prefix_lists.sort_by(|one, other| one.identity.key.cmp(&other.identity.key));
        self.interfaces.sort_by(|one, other| one.identity.key.cmp(&other.identity.key));
        (self, Renamed { subnets, nacls, interfaces })
    }
}

/// Gives everything of one kind a name of its own, and says which it was by its key. `word`: where nothing better is known.
fn rename<'i>(
    identities: impl Iterator<Item = (&'i mut Identity, &'static str)>,
    reserved: &[&str],
) -> BTreeMap<Link, Link> {
    let mut all: Vec<(String, &mut Identity)> = identities
        .map(|(identity, word)| {
            let tagged = identity.names.iter().find_map(|name| slug(name));
            let known = || identity.id.iter().chain([&identity.key]).find_map(|name| slug(name));
            // A default network ACL is called so where it has no name.
            let found = tagged.or_else(|| if word == "default" { None } else { known() });
            (found.unwrap_or_else(|| word.to_owned()), identity)
        })
        .collect();
    // The order of the documents must not tell which of two of one name is the second.
    all.sort_by(|one, other| (&one.0, &one.1.key).cmp(&(&other.0, &other.1.key)));
    let wanted: BTreeSet<String> = all.iter().map(|(name, _)| name.clone()).collect();
    let mut used: BTreeMap<String, u32> = reserved.iter().map(|&name| (name.to_owned(), 1)).collect();
    let mut renamed = BTreeMap::new();
    for (name, identity) in all {
        let count = used.entry(name.clone()).or_default();
        let mut free = name.clone();
        *count += 1;
        while *count > 1 && (free == name || wanted.contains(&free)) {
            free = format!("{name}-{count}");
            *count += u32::from(wanted.contains(&free));
        }
        renamed.insert(std::mem::replace(&mut identity.key, free.clone()), free);
    }
    renamed
}

/// A name as a bare key of TOML, where anything of it can be: runs of other characters become a hyphen.
fn slug(name: &str) -> Option<String> {
    let mut found = String::new();
    for sign in name.chars() {
        if sign.is_ascii_alphanumeric() || sign == '_' || sign == '-' {
            found.push(sign);
        } else if !found.is_empty() && !found.ends_with('-') {
            found.push('-');
        }
        if found.len() > LONGEST + 8 {
            found.truncate(LONGEST);
            break;
        }
    }
    let found = found.trim_end_matches('-');
    (!found.is_empty()).then(|| found.to_owned())
}
