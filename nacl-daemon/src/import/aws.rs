//! What AWS's own tools say (`aws ec2 describe-…`) → [`Inventory`]: any of the answers, in any order and number, wrapped or bare,
//! also old recordings that lack what was added since. Files are read by whoever calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family};
use serde_json::Value;

use super::{
    Document,
    traffic::{self, Lacking},
    tree::{self, Findings, Node},
};
use crate::{
    inventory::{
        Association, Because, Entry, GroupRule, Identity, Inventory, NetworkAcl, NetworkInterface, Peer, Place,
        PrefixEntry, PrefixList, SecurityGroup, Subnet, Traffic, Vpc, family,
    },
    resolve::Protocol,
};

/// AWS's numbers of `*`, which every list ends with (N2).
const STAR: [u32; 2] = [32767, 32768];

/// Highest number of an own rule (N1).
const LAST_NUMBER: i64 = 32766;

/// What an answer of AWS's tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Vpc,
    Subnet,
    Nacl,
    Group,
    Rule,
    List,
    ListEntry,
    Interface,
}

/// The key an answer has its list under, the kind, and the key by which an element is known: of several, the first that stands here.
const KINDS: [(&str, Kind, &str); 8] = [
    ("NetworkAcls", Kind::Nacl, "NetworkAclId"),
    ("SecurityGroupRules", Kind::Rule, "SecurityGroupRuleId"),
    ("NetworkInterfaces", Kind::Interface, "NetworkInterfaceId"),
    ("Subnets", Kind::Subnet, "SubnetId"),
    ("PrefixLists", Kind::List, "PrefixListId"),
    ("SecurityGroups", Kind::Group, "GroupId"),
    ("Vpcs", Kind::Vpc, "VpcId"),
    ("Entries", Kind::ListEntry, "Cidr"),
];

/// Members of an answer that say nothing of what was asked for.
const ENVELOPE: [&str; 4] = ["NextToken", "ResponseMetadata", "RequestId", "__type"];

/// Reads documents. `entries`: answers of `get-managed-prefix-list-entries`, each with the id of its list, which it does not name;
/// a file among the others is taken for the list its name begins with, `pl-….json`.
pub fn read(documents: &[Document], entries: &[(String, Document)], findings: &Findings) -> Inventory {
    let mut parsed = Vec::new();
    let named = documents.iter().map(|document| (document, list_named(&document.file)));
    for (document, list) in named.chain(entries.iter().map(|(list, document)| (document, Some(list.clone())))) {
        match tree::values(document) {
            Ok(values) => parsed.push((&document.file, values, list)),
            Err(problem) => findings.problems.borrow_mut().push(problem),
        }
    }
    let mut reader = Reader {
        findings,
        inventory: Inventory::default(),
        seen: HashMap::new(),
        rules: BTreeMap::new(),
        entries: BTreeMap::new(),
        pages: BTreeMap::new(),
        regions: BTreeSet::new(),
    };
    for (file, values, list) in &parsed {
        for (at, value) in values.iter().enumerate() {
            let node = Node::root(file, value, findings);
            let node = if values.len() > 1 { node.called(format!("value {}", at + 1)) } else { node };
            reader.value(&node, list.as_deref());
        }
    }
    reader.finish()
}

/// The prefix list whose entries a file holds, by its name: `pl-0c3.json`, `pl-0c3-entries.json`.
fn list_named(file: &str) -> Option<String> {
    let name = file.rsplit(['/', '\\']).next()?;
    let digits = name.strip_prefix("pl-")?;
    let end = digits.find(|sign: char| !sign.is_ascii_hexdigit()).unwrap_or(digits.len());
    (end > 0).then(|| format!("pl-{}", &digits[..end]))
}

/// How many answers of a kind there are, and how many say that another follows.
#[derive(Clone, Debug, Default)]
struct Pages {
    seen: usize,
    followed: usize,
    last: Option<Place>,
}

/// A rule of describe-security-group-rules.
struct Told {
    rule: GroupRule,
    owner: Option<String>,
}

struct Reader<'d> {
    findings: &'d Findings,
    inventory: Inventory,
    /// Everything that was told of, by kind and id.
    seen: HashMap<(Kind, String), (&'d Value, Place)>,
    /// What describe-security-group-rules tells, by group.
    rules: BTreeMap<String, Vec<Told>>,
    /// Entries of lists.
    entries: BTreeMap<String, Vec<PrefixEntry>>,
    pages: BTreeMap<&'static str, Pages>,
    regions: BTreeSet<String>,
}

impl<'d> Reader<'d> {
    /// An answer, a list of things, or a thing by itself.
    fn value(&mut self, node: &Node<'d>, list: Option<&str>) {
        match node.value {
            Value::Array(_) => node.elements().iter().for_each(|element| self.value(element, list)),
            Value::Object(map) => {
                let answers: Vec<_> = KINDS.iter().filter(|(key, ..)| map.contains_key(*key)).collect();
                // A network ACL has `Entries` too.
                let own = KINDS.iter().find(|(.., own)| map.contains_key(*own));
                if let Some((_, kind, _)) = own.filter(|_| answers.iter().all(|(_, kind, _)| *kind == Kind::ListEntry))
                {
                    self.thing(*kind, node, list);
                    return;
                }
                if answers.is_empty() {
                    let known: Vec<_> = KINDS.iter().map(|(key, ..)| *key).collect();
                    let help = format!("answers of `aws ec2 describe-…` have one of {}", known.join(", "));
                    node.wrong("this is no answer of AWS's that tells of networks", Some(help));
                    return;
                }
                for (key, kind, _) in answers {
                    let pages = self.pages.entry(key).or_default();
                    pages.seen += 1;
                    if map.get("NextToken").and_then(Value::as_str).is_some_and(|token| !token.is_empty()) {
                        pages.followed += 1;
                        pages.last = Some(node.place());
                    }
                    node.list(key).iter().for_each(|element| self.thing(*kind, element, list));
                }
                for (key, member) in node.members() {
                    if !ENVELOPE.contains(&key) && KINDS.iter().all(|(known, ..)| *known != key) {
                        member.note(Because::NotExpressible, "this is left out");
                    }
                }
            }
            _ => node.mistaken("an answer of AWS's: an object or a list"),
        }
    }

    fn thing(&mut self, kind: Kind, node: &Node<'d>, list: Option<&str>) {
        if kind == Kind::ListEntry {
            return self.list_entry(node, list);
        }
        let Some((_, _, key)) = KINDS.iter().find(|(_, of, _)| *of == kind) else { return };
        let Some(id) = node.need(key).and_then(|id| id.text()) else { return };
        if id.is_empty() {
            return node.wrong(format!("`{key}` is empty"), None);
        }
        // An old answer tells of a prefix list what a new one does not, and the other way round.
        let as_old = if kind == Kind::List && node.get("Cidrs").is_some() { "old " } else { "" };
        if let Some((first, place)) = self.seen.get(&(kind, format!("{as_old}{id}"))) {
            if **first != *node.value {
                let help = "take documents that were recorded at one time".to_owned();
                node.wrong(format!("{id} is told of twice, and not alike: first at {place}"), Some(help));
            }
            return;
        }
        self.seen.insert((kind, format!("{as_old}{id}")), (node.value, node.place()));
        for arn in ["SubnetArn", "SecurityGroupArn", "SecurityGroupRuleArn"] {
            // arn:aws:ec2:REGION:ACCOUNT:…
            let region = text(node, arn).and_then(|arn| arn.split(':').nth(3));
            self.regions.extend(region.filter(|region| !region.is_empty()).map(str::to_owned));
        }
        match kind {
            Kind::Vpc => self.vpc(node, id),
            Kind::Subnet => self.subnet(node, id),
            Kind::Nacl => self.nacl(node, id),
            Kind::Group => self.group(node, id),
            Kind::Rule => self.group_rule(node, id),
            Kind::List => self.prefix_list(node, id),
            Kind::Interface => self.interface(node, id),
            Kind::ListEntry => {}
        }
    }

    fn vpc(&mut self, node: &Node<'d>, id: &str) {
        let mut cidrs: Vec<IpNet> = filled(node, "CidrBlock").and_then(|cidr| cidr.cidr()).into_iter().collect();
        for (set, key, state) in [
            ("CidrBlockAssociationSet", "CidrBlock", "CidrBlockState"),
            ("Ipv6CidrBlockAssociationSet", "Ipv6CidrBlock", "Ipv6CidrBlockState"),
        ] {
            cidrs.extend(associated(node, set, key, state));
        }
        let mut known = BTreeSet::new();
        cidrs.retain(|cidr| known.insert(*cidr));
        self.inventory.vpcs.push(Vpc { identity: identity(node, id, "vpc-", "Tags"), cidrs });
    }

    fn subnet(&mut self, node: &Node<'d>, id: &str) {
        let mut cidrs: Vec<IpNet> = filled(node, "CidrBlock").and_then(|cidr| cidr.cidr()).into_iter().collect();
        cidrs.extend(associated(node, "Ipv6CidrBlockAssociationSet", "Ipv6CidrBlock", "Ipv6CidrBlockState"));
        if cidrs.is_empty() {
            node.note(Because::Unknown, "the subnet has no CIDR here, and is only named");
        }
        let vpc = text(node, "VpcId").map(str::to_owned);
        self.inventory.subnets.push(Subnet { identity: identity(node, id, "subnet-", "Tags"), vpc, cidrs });
    }

    fn nacl(&mut self, node: &Node<'d>, id: &str) {
        let mut subnets = Vec::new();
        for on in node.list("Associations") {
            let Some(subnet) = on.need("SubnetId").and_then(|subnet| subnet.text()) else { continue };
            let id = text(&on, "NetworkAclAssociationId").map(str::to_owned);
            subnets.push(Association { subnet: subnet.to_owned(), id });
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut numbers: HashMap<(Direction, u16), Place> = HashMap::new();
        for node in node.list("Entries") {
            let Some(entry) = nacl_entry(&node) else { continue };
            if let Some(first) = numbers.insert((entry.direction, entry.number), entry.place.clone()) {
                let number = entry.number;
                node.wrong(format!("rule {number} is there twice in one direction (N4, N5): first at {first}"), None);
            }
            entries.push(entry);
        }
        if node.get("Entries").is_none() {
            node.note(Because::NotHere, "no rule of it is told: taken is that it denies everything");
        }
        self.inventory.nacls.push(NetworkAcl {
            identity: identity(node, id, "acl-", "Tags"),
            vpc: text(node, "VpcId").map(str::to_owned),
            default: node.get("IsDefault").and_then(|default| default.flag()).unwrap_or_default(),
            subnets,
            entries,
        });
    }

    fn group(&mut self, node: &Node<'d>, id: &str) {
        let name = text(node, "GroupName").map(str::to_owned);
        let mut rules = Vec::new();
        for (list, direction) in [("IpPermissions", Direction::Inbound), ("IpPermissionsEgress", Direction::Outbound)] {
            for permission in node.list(list) {
                rules.extend(permissions(&permission, direction));
            }
        }
        let mut identity = identity(node, id, "sg-", "Tags");
        identity.names.extend(name.clone());
        let vpc = text(node, "VpcId").map(str::to_owned);
        if node.get("IpPermissionsEgress").is_none() {
            node.note(Because::NotHere, "no rule says what gets out: taken is that nothing does but replies");
        }
        self.inventory.groups.push(SecurityGroup { identity, name, vpc, rules: Some(rules) });
    }

    fn group_rule(&mut self, node: &Node<'d>, id: &str) {
        let Some(group) = node.need("GroupId").and_then(|group| group.text()) else { return };
        let egress = node.need("IsEgress").and_then(|egress| egress.flag());
        let traffic = group_traffic(node);
        let peers = [
            filled(node, "CidrIpv4").and_then(|cidr| of_family(&cidr, Family::V4)).map(Peer::Cidr),
            filled(node, "CidrIpv6").and_then(|cidr| of_family(&cidr, Family::V6)).map(Peer::Cidr),
            text(node, "PrefixListId").map(|list| Peer::PrefixList(list.to_owned())),
            filled(node, "ReferencedGroupInfo").and_then(|group| referenced(&group)),
        ];
        let keys = ["CidrIpv4", "CidrIpv6", "PrefixListId", "ReferencedGroupInfo"];
        let written = keys.iter().filter(|key| filled(node, key).is_some()).count();
        if written != 1 {
            return node.wrong(format!("a rule has one of {}, and this has {written} (S15)", keys.join(", ")), None);
        }
        let (Some(egress), Some(traffic), Some(peer)) = (egress, traffic, peers.into_iter().flatten().next()) else {
            return;
        };
        let rule = GroupRule {
            direction: if egress { Direction::Outbound } else { Direction::Inbound },
            traffic: normal(traffic, &peer),
            peer,
            id: Some(id.to_owned()),
            description: text(node, "Description").map(str::to_owned),
            tags: read_tags(node, "Tags"),
            place: node.place(),
        };
        let owner = text(node, "GroupOwnerId").map(str::to_owned);
        self.rules.entry(group.to_owned()).or_default().push(Told { rule, owner });
    }

    fn prefix_list(&mut self, node: &Node<'d>, id: &str) {
        let name = text(node, "PrefixListName").map(str::to_owned);
        let family = filled(node, "AddressFamily").and_then(|family| match family.text()? {
            text if text.eq_ignore_ascii_case("ipv4") => Some(Family::V4),
            text if text.eq_ignore_ascii_case("ipv6") => Some(Family::V6),
            _ => {
                family.mistaken("IPv4 or IPv6");
                None
            }
        });
        // An older answer, of AWS's own lists, has the entries in it.
        for cidr in node.list("Cidrs") {
            if let Some(cidr) = cidr.cidr() {
                self.entries.entry(id.to_owned()).or_default().push(PrefixEntry { cidr, description: None });
            }
        }
        // AWS answers with them by themselves; our own export has them here.
        for entry in node.list("Entries") {
            self.list_entry(&entry, Some(id));
        }
        if node.get("Cidrs").is_some() || node.get("Entries").is_some() {
            self.entries.entry(id.to_owned()).or_default();
        }
        // 0 is no size: AWS's own lists have none.
        let max_entries = filled(node, "MaxEntries").and_then(|most| most.number(0..=i64::from(u32::MAX)));
        let max_entries = max_entries.filter(|most: &u32| *most > 0);
        if let Some(known) = self.inventory.prefix_lists.iter_mut().find(|list| list.identity.key == id) {
            known.name = known.name.take().or(name);
            known.family = known.family.or(family);
            known.max_entries = known.max_entries.or(max_entries);
            if known.identity.tags.is_empty() {
                known.identity = identity(node, id, "pl-", "Tags");
            }
            return;
        }
        let mut identity = identity(node, id, "pl-", "Tags");
        identity.names.extend(name.clone());
        self.inventory.prefix_lists.push(PrefixList { identity, name, family, max_entries, entries: None });
    }

    fn list_entry(&mut self, node: &Node<'d>, list: Option<&str>) {
        let cidr = node.need("Cidr").and_then(|cidr| cidr.cidr());
        let description = text(node, "Description").map(str::to_owned);
        let Some(list) = list else {
            let help = "name the file after it, `pl-….json`, or give it with `--prefix-list pl-…=FILE`".to_owned();
            return node.wrong("entries do not say of which prefix list they are", Some(help));
        };
        let entries = self.entries.entry(list.to_owned()).or_default();
        entries.extend(cidr.map(|cidr| PrefixEntry { cidr, description }));
    }

    fn interface(&mut self, node: &Node<'d>, id: &str) {
        let mut addresses = Vec::new();
        // The primary one stands first.
        for (list, key, primary) in
            [("PrivateIpAddresses", "PrivateIpAddress", "Primary"), ("Ipv6Addresses", "Ipv6Address", "IsPrimaryIpv6")]
        {
            let mut of: Vec<_> = node.list(list);
            let first = |address: &Node<'_>| address.get(primary).and_then(|primary| primary.flag()) != Some(true);
            of.sort_by_cached_key(first);
            addresses.extend(of.iter().filter_map(|address| filled(address, key)?.address()));
        }
        if let Some(primary) = filled(node, "PrivateIpAddress").and_then(|address| address.address())
            && !addresses.contains(&primary)
        {
            addresses.insert(0, primary);
        }
        let mut groups = Vec::new();
        for group in node.list("Groups") {
            groups.extend(group.need("GroupId").and_then(|id| id.text()).map(str::to_owned));
        }
        if groups.is_empty() {
            node.note(Because::NotHere, "its security groups are not told, and at AWS it has one at least (S9)");
        }
        for (list, what) in [("Ipv4Prefixes", "IPv4"), ("Ipv6Prefixes", "IPv6")] {
            if node.get(list).is_some_and(|list| list.value.as_array().is_some_and(|list| !list.is_empty())) {
                node.note(
                    Because::NotExpressible,
                    format!("its {what} prefixes are left out: a policy knows addresses only"),
                );
            }
        }
        if let Some(times) = filled(node, "ConnectionTrackingConfiguration")
            && times.value.as_object().is_some_and(|times| !times.is_empty())
        {
            let message = "its time-outs are left out: a policy has one `[tracking]` for all interfaces (S35)";
            times.note(Because::NotExpressible, message);
        }
        self.inventory.interfaces.push(NetworkInterface {
            identity: identity(node, id, "eni-", "TagSet"),
            subnet: text(node, "SubnetId").map(str::to_owned),
            vpc: text(node, "VpcId").map(str::to_owned),
            addresses,
            groups,
        });
    }

    /// What more than one document says, put together.
    fn finish(mut self) -> Inventory {
        self.rules_of_groups();
        for (id, entries) in std::mem::take(&mut self.entries) {
            let mut seen = BTreeSet::new();
            let entries = entries.into_iter().filter(|entry| seen.insert(entry.cidr)).collect();
            if let Some(list) = self.inventory.prefix_lists.iter_mut().find(|list| list.identity.key == id) {
                list.entries = Some(entries);
                continue;
            }
            let place = Place { file: "".into(), path: id.clone(), line: None };
            self.inventory.prefix_lists.push(PrefixList {
                identity: Identity::only_named(&id, "pl-", place),
                name: None,
                family: entries.first().map(|entry| family(&entry.cidr)),
                max_entries: None,
                entries: Some(entries),
            });
        }
        for (key, pages) in &self.pages {
            if let Some(place) = pages.last.as_ref().filter(|_| pages.followed >= pages.seen) {
                let message = format!("more of {key} follow on another page, which is not here");
                let note = crate::inventory::Note { because: Because::NotHere, place: place.clone(), message };
                self.findings.notes.borrow_mut().push(note);
            }
        }
        if self.regions.len() == 1 {
            self.inventory.region = self.regions.pop_first();
        }
        self.inventory
    }

    /// Puts what describe-security-group-rules tells to its groups. A rule that both answers tell of is one.
    fn rules_of_groups(&mut self) {
        let at: HashMap<String, usize> =
            self.inventory.groups.iter().enumerate().map(|(at, group)| (group.identity.key.clone(), at)).collect();
        for (id, told) in std::mem::take(&mut self.rules) {
            let Some(group) = at.get(&id).map(|&at| &mut self.inventory.groups[at]) else {
                let Some(first) = told.first() else { continue };
                let mut identity = Identity::only_named(&id, "sg-", first.rule.place.clone());
                identity.owner.clone_from(&first.owner);
                let rules = Some(told.into_iter().map(|told| told.rule).collect());
                self.inventory.groups.push(SecurityGroup { identity, name: None, vpc: None, rules });
                continue;
            };
            let rules = group.rules.get_or_insert_default();
            let mut known: HashMap<_, usize> = rules.iter().enumerate().map(|(at, rule)| (rule.key(), at)).collect();
            let mut missing: BTreeSet<usize> = (0..rules.len()).collect();
            for Told { rule, .. } in told {
                if let Some(&at) = known.get(&rule.key()) {
                    missing.remove(&at);
                    // Of a group that is referred to the other answer tells more.
                    let other = std::mem::replace(&mut rules[at], rule);
                    rules[at].learn(other);
                    continue;
                }
                let message = format!(
                    "describe-security-groups does not tell of this rule of {id}: the two were recorded at different times"
                );
                note(self.findings, Because::NotHere, &rule.place, message);
                known.insert(rule.key(), rules.len());
                rules.push(rule);
            }
            for at in missing {
                let message = format!(
                    "describe-security-group-rules does not tell of this rule of {id}: the two were recorded at different times"
                );
                note(self.findings, Because::NotHere, &rules[at].place, message);
            }
        }
    }
}

fn note(findings: &Findings, because: Because, place: &Place, message: String) {
    let place = place.clone();
    findings.notes.borrow_mut().push(crate::inventory::Note { because, place, message });
}

/// A member that holds something: an empty text is none.
fn filled<'d>(node: &Node<'d>, key: &str) -> Option<Node<'d>> {
    node.get(key).filter(|found| found.value.as_str() != Some(""))
}

/// A text that holds something.
fn text<'d>(node: &Node<'d>, key: &str) -> Option<&'d str> {
    filled(node, key)?.text()
}

/// Tags, `[{"Key": …, "Value": …}]`.
fn read_tags(node: &Node<'_>, key: &str) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    for tag in node.list(key) {
        let name = tag.need("Key").and_then(|name| name.text());
        let value = tag.get("Value").map_or(Some(""), |value| value.text());
        if let (Some(name), Some(value)) = (name, value) {
            tags.insert(name.to_owned(), value.to_owned());
        }
    }
    tags
}

/// What everything has. What stands in the place of an id and is none, as in an export of what AWS has not made yet, is a name.
fn identity(node: &Node<'_>, id: &str, prefix: &str, tags: &str) -> Identity {
    let tags = read_tags(node, tags);
    Identity {
        key: id.to_owned(),
        id: id.starts_with(prefix).then(|| id.to_owned()),
        names: tags.get("Name").filter(|name| !name.is_empty()).cloned().into_iter().collect(),
        description: text(node, "Description").map(str::to_owned),
        tags,
        owner: text(node, "OwnerId").map(str::to_owned),
        place: node.place(),
    }
}

/// Both members of an object, where there is one.
fn pair<'d>(outer: Option<Node<'d>>, first: &str, last: &str) -> Option<(Node<'d>, Node<'d>)> {
    let outer = outer?;
    Some((outer.need(first)?, outer.need(last)?))
}

/// CIDRs of an association set that are in force.
fn associated(node: &Node<'_>, set: &str, key: &str, state: &str) -> Vec<IpNet> {
    let mut found = Vec::new();
    for member in node.list(set) {
        let now = filled(&member, state).and_then(|state| text(&state, "State"));
        if let Some(now) = now.filter(|now| !matches!(*now, "associated" | "associating")) {
            member.note(Because::NoEffect, format!("the CIDR is {}, and is left out", now.escape_debug()));
            continue;
        }
        found.extend(member.need(key).and_then(|cidr| cidr.cidr()));
    }
    found
}

/// A CIDR of the family its key says.
fn of_family(node: &Node<'_>, wanted: Family) -> Option<IpNet> {
    let cidr = node.cidr()?;
    if family(&cidr) != wanted {
        node.mistaken(if wanted == Family::V4 { "an IPv4 CIDR" } else { "an IPv6 CIDR" });
        return None;
    }
    Some(cidr)
}

/// A rule of a network ACL; `None` for `*`, which is implied, and where something is wrong with it.
fn nacl_entry(node: &Node<'_>) -> Option<Entry> {
    let egress = node.need("Egress").and_then(|egress| egress.flag());
    let number: Option<u32> = node.need("RuleNumber").and_then(|number| number.number(1..=i64::from(STAR[1])));
    let action = node.need("RuleAction").and_then(|action| traffic::action(&action, str::eq_ignore_ascii_case));
    let protocol = node.need("Protocol").and_then(|protocol| traffic::protocol(&protocol));
    let (v4, v6) = (filled(node, "CidrBlock"), filled(node, "Ipv6CidrBlock"));
    let cidr = match (&v4, &v6) {
        (Some(v4), None) => of_family(v4, Family::V4),
        (None, Some(v6)) => of_family(v6, Family::V6),
        (None, None) => {
            node.wrong("`CidrBlock` or `Ipv6CidrBlock` is missing", None);
            None
        }
        (Some(_), Some(_)) => {
            node.wrong("a rule has one of `CidrBlock` and `Ipv6CidrBlock` (N21)", None);
            None
        }
    };
    let (Some(egress), Some(number), Some(action), Some(protocol), Some(cidr)) =
        (egress, number, action, protocol, cidr)
    else {
        return None;
    };
    if STAR.contains(&number) {
        if action == Action::Allow || protocol != Protocol::All || cidr.prefix_len() != 0 {
            node.wrong(format!("rule {number} is AWS's own, and denies everything (N2)"), None);
        }
        return None;
    }
    let number = u16::try_from(number).ok().filter(|number| i64::from(*number) <= LAST_NUMBER)?;
    let ports = pair(filled(node, "PortRange"), "From", "To");
    let icmp = pair(filled(node, "IcmpTypeCode").or_else(|| filled(node, "Icmp")), "Type", "Code");
    let traffic = traffic::of_entry(node, protocol, cidr, ports, icmp, Lacking::All)?;
    Some(Entry {
        direction: if egress { Direction::Outbound } else { Direction::Inbound },
        number,
        action,
        traffic,
        cidr,
        place: node.place(),
    })
}

/// Protocol and ports of a group's rule. `FromPort` and `ToPort` are the type and the code of ICMP (S14).
fn group_traffic(node: &Node<'_>) -> Option<Traffic> {
    let protocol = traffic::protocol(&node.need("IpProtocol")?)?;
    traffic::of_group_rule(node, protocol, filled(node, "FromPort"), filled(node, "ToPort"), Lacking::All)
}

fn normal(traffic: Traffic, peer: &Peer) -> Traffic {
    traffic.normal(match peer {
        Peer::Cidr(cidr) => Some(family(cidr)),
        Peer::PrefixList(_) | Peer::Group { .. } => None,
    })
}

/// A reference to a group.
fn referenced(node: &Node<'_>) -> Option<Peer> {
    let group = node.need("GroupId")?.text()?;
    if group.is_empty() {
        node.wrong("`GroupId` is empty", None);
        return None;
    }
    if let Some(status) = text(node, "PeeringStatus").filter(|status| *status != "active") {
        let status = status.escape_debug();
        node.note(
            Because::NoEffect,
            format!("the peering is {status}: while it is, the rule matches nothing at AWS (S20)"),
        );
    }
    Some(Peer::Group {
        group: group.to_owned(),
        owner: text(node, "UserId").map(str::to_owned),
        vpc: text(node, "VpcId").map(str::to_owned),
        peering: text(node, "VpcPeeringConnectionId").map(str::to_owned),
    })
}

/// The rules of one element: AWS puts all sources of the same protocol and ports into one.
fn permissions(node: &Node<'_>, direction: Direction) -> Vec<GroupRule> {
    let mut peers = Vec::new();
    for (list, key, wanted) in [("IpRanges", "CidrIp", Family::V4), ("Ipv6Ranges", "CidrIpv6", Family::V6)] {
        for range in node.list(list) {
            let cidr = range.need(key).and_then(|cidr| of_family(&cidr, wanted));
            peers.extend(cidr.map(|cidr| (Peer::Cidr(cidr), range)));
        }
    }
    for list in node.list("PrefixListIds") {
        let id = list.need("PrefixListId").and_then(|id| id.text());
        peers.extend(id.map(|id| (Peer::PrefixList(id.to_owned()), list.clone())));
    }
    for pair in node.list("UserIdGroupPairs") {
        peers.extend(referenced(&pair).map(|peer| (peer, pair.clone())));
    }
    let Some(traffic) = group_traffic(node) else { return Vec::new() };
    if peers.is_empty() {
        node.note(Because::NoEffect, "there is nobody in it, and it is left out");
    }
    let rule = |(peer, node): (Peer, Node<'_>)| GroupRule {
        direction,
        traffic: normal(traffic, &peer),
        peer,
        id: None,
        description: text(&node, "Description").map(str::to_owned),
        tags: BTreeMap::new(),
        place: node.place(),
    };
    peers.into_iter().map(rule).collect()
}
