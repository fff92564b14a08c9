//! Security groups and prefix lists: who the members are, what references stand for, and AWS's quotas (S1 to S27).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nacl_common::{Direction, Family};

use super::{
    Group, GroupRule, Host, Peer, PrefixList, Protocol,
    build::{Resolver, Subject, family, family_name, key_or_placeholder},
};
use crate::policy::{
    Diagnostic, address_keys, codes, quoted,
    written::{self, At, GroupList, Names, Policy},
};

/// The name of the group every VPC has from the start (S5).
const DEFAULT_GROUP: &str = "default";

/// Rules in one direction and family of a group, unless the quota is raised (S25).
const RULES: u32 = 60;
/// Groups on an interface: unless the quota is raised, and at most (S25).
const DEFAULT_GROUPS: usize = 5;
const MAXIMUM_GROUPS: usize = 16;
/// What rules in a group times groups on an interface may come to (S25).
const PRODUCT: u64 = 1000;
/// Entries of a prefix list (S27).
const ENTRIES: u32 = 1000;

/// Addresses of the interfaces here, by their names in the policy.
pub(super) type Locals<'p> = BTreeMap<&'p str, Vec<IpAddr>>;

/// Those written, else those the host knows.
pub(super) fn locals<'p>(policy: &'p Policy, host: &dyn Host) -> Locals<'p> {
    let addresses = |interface: &written::Interface| match &interface.addresses {
        Some(written) => written.iter().map(|address| address.value).collect(),
        None => host.addresses(interface.netns.as_deref(), &interface.device.value),
    };
    policy.interfaces.iter().map(|(name, interface)| (name.as_str(), addresses(interface))).collect()
}

/// Who carries a group.
#[derive(Default)]
struct Members {
    addresses: BTreeSet<IpAddr>,
    /// Somebody whose addresses the policy leaves to its machine, and the machine does not say.
    unknown: bool,
}

/// Who carries which group. Link-local addresses are left out: an interface of AWS has none among its private addresses
/// (S17), and on another link they are somebody else.
fn members<'p>(policy: &'p Policy, locals: &Locals<'p>) -> BTreeMap<&'p str, Members> {
    let mut found: BTreeMap<&str, Members> = BTreeMap::new();
    let mut add = |groups: Option<&'p Names>, addresses: &[IpAddr], unknown: bool| {
        for name in groups.into_iter().flat_map(|groups| &groups.names) {
            let members = found.entry(&name.value).or_default();
            members.addresses.extend(addresses.iter().filter(|address| !is_link_local(**address)));
            members.unknown |= unknown;
        }
    };
    for eni in policy.enis.values() {
        let addresses: Vec<_> = eni.addresses.iter().map(|address| address.value).collect();
        add(eni.groups.as_ref(), &addresses, false);
    }
    for (name, interface) in &policy.interfaces {
        let addresses = &locals[name.as_str()];
        add(interface.groups.as_ref(), addresses, addresses.is_empty() && interface.addresses.is_none());
    }
    found
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn everywhere() -> [IpNet; 2] {
    [Ipv4Net::default().into(), Ipv6Net::default().into()]
}

/// A rule AWS makes by itself.
fn implied(peer: Peer, cidrs: Vec<IpNet>) -> GroupRule {
    GroupRule::new(Protocol::All, None, peer, cidrs)
}

/// What a new group lets out: everything, in both families (S4).
fn allow_all() -> Vec<GroupRule> {
    everywhere().into_iter().map(|cidr| implied(Peer::Cidr(cidr), vec![cidr])).collect()
}

const fn list_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

/// Where a reference stands, for what is said of it.
struct Reference<'r> {
    span: &'r Range<usize>,
    /// The group whose rule it stands in.
    group: &'r str,
}

impl<'p> Resolver<'p> {
    /// Names of an interface's groups, each once.
    pub(super) fn group_names(&mut self, interface: &str, groups: Option<&'p Names>) -> Option<Vec<String>> {
        let groups = groups?;
        let mut names: Vec<&At<String>> = Vec::new();
        for name in &groups.names {
            self.used_groups.insert(name.value.clone());
            if let Some(first) = names.iter().find(|other| other.value == name.value) {
                let message = format!("security group {:?} is twice on {interface:?}", name.value);
                self.push(
                    Diagnostic::new(&codes::GROUP_TWICE, name.span.clone(), message)
                        .at("again")
                        .and(first.span.clone(), "first here")
                        .help("remove one: an interface has a group or not"),
                );
            } else {
                names.push(name);
            }
        }
        Some(names.into_iter().map(|name| name.value.clone()).collect())
    }

    pub(super) fn prefix_lists(&mut self) -> BTreeMap<String, PrefixList> {
        let policy = self.policy;
        policy.prefix_lists.iter().map(|(name, list)| (name.clone(), self.prefix_list(name, list))).collect()
    }

    fn prefix_list(&mut self, name: &str, list: &'p written::PrefixList) -> PrefixList {
        let of = list.family.as_ref().map(|at| (at.value, at.span.clone()));
        let first = || list.entries.first().map(|entry| (family(&entry.cidr.value), entry.cidr.span.clone()));
        if let Some((of, place)) = of.or_else(first)
            && let Some(other) = list.entries.iter().find(|entry| family(&entry.cidr.value) != of)
        {
            let message = match list.family {
                Some(_) => format!("prefix list {name:?} has an entry of the other family"),
                None => format!("prefix list {name:?} has entries of both families"),
            };
            self.push(
                Diagnostic::new(&codes::MIXED_FAMILIES, other.cidr.span.clone(), message)
                    .at(family_name(family(&other.cidr.value)))
                    .and(place, family_name(of))
                    .note("a prefix list is of one family (S22)")
                    .help("make two lists, and a rule for each"),
            );
        }
        let mut seen: BTreeMap<IpNet, &At<IpNet>> = BTreeMap::new();
        for entry in list.entries.iter().map(|entry| &entry.cidr) {
            if let Some(first) = seen.get(&entry.value) {
                let message = format!("{} is twice in prefix list {name:?}", entry.value);
                self.push(
                    Diagnostic::new(&codes::ENTRY_TWICE, entry.span.clone(), message)
                        .at("again")
                        .and(first.span.clone(), "first here")
                        .help("remove one: it counts, and changes nothing"),
                );
            } else {
                seen.insert(entry.value, entry);
            }
        }
        let entries: Vec<_> = list.entries.iter().map(|entry| entry.cidr.value).collect();
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        match &list.max_entries {
            Some(most) if most.value < count => {
                let message = format!("prefix list {name:?} has {count} entries and room for {}", most.value);
                self.push(
                    Diagnostic::new(&codes::TOO_MANY_ENTRIES, most.span.clone(), message)
                        .at(format!("expected {count} at least"))
                        .note("`max_entries` is also what the list weighs in a security group's quota (S26)")
                        .help("raise it, or remove entries")
                        .fix(most.span.clone(), count.to_string()),
                );
            }
            Some(_) => {}
            None if list.external.is_some() => {}
            None => self.push(
                Diagnostic::new(
                    &codes::SIZE_UNWRITTEN,
                    list.name.clone(),
                    format!("prefix list {name:?} has room for what is in it, and no more"),
                )
                .at("no `max_entries`")
                .note("AWS wants it written: it is what the list weighs in a security group's quota (S26)"),
            ),
        }
        let max_entries = list.max_entries.as_ref().map_or(count, |most| most.value);
        if max_entries > ENTRIES {
            let place = list.max_entries.as_ref().map_or(&list.name, |most| &most.span);
            let message = format!("prefix list {name:?} has room for {max_entries} entries, and AWS takes {ENTRIES}");
            self.push(Diagnostic::new(&codes::OVER_LIST_QUOTA, place.clone(), message).at("too large for AWS (S27)"));
        }
        PrefixList { name: name.to_owned(), id: list.aws.id.clone(), max_entries, entries }
    }

    /// All groups that are defined, and AWS's default one where an interface has it.
    pub(super) fn groups(
        &mut self,
        lists: &BTreeMap<String, PrefixList>,
        locals: &Locals<'p>,
    ) -> BTreeMap<String, Arc<Group>> {
        let policy = self.policy;
        let members = members(policy, locals);
        let mut found = BTreeMap::new();
        for (name, group) in policy.groups.iter().filter(|(_, group)| group.external.is_none()) {
            if group.outbound.is_none() {
                self.push(
                    Diagnostic::new(
                        &codes::OUTBOUND_ABSENT,
                        group.name.clone(),
                        format!("security group {name:?} lets everything out"),
                    )
                    .at("no `outbound`")
                    .note("AWS makes a group with this rule, in both families (S4)")
                    .help("`outbound = []` lets nothing out but replies; Terraform's groups are made so"),
                );
            }
            let mut list = |list: Option<&'p GroupList>, direction| {
                let list = list?;
                let rules = self.group_list(name, list, direction, lists, &members);
                self.group_quota(name, list, &rules, direction, lists);
                Some(rules)
            };
            let inbound = list(group.inbound.as_ref(), Direction::Inbound).unwrap_or_default();
            let outbound = list(group.outbound.as_ref(), Direction::Outbound).unwrap_or_else(allow_all);
            let group = Group { name: name.clone(), id: group.aws.id.clone(), inbound, outbound };
            found.insert(name.clone(), Arc::new(group));
        }
        let here = policy.interfaces.values().filter_map(|interface| interface.groups.as_ref());
        let elsewhere = policy.enis.values().filter_map(|eni| eni.groups.as_ref());
        let wanted = here.chain(elsewhere).any(|groups| groups.names.iter().any(|name| name.value == DEFAULT_GROUP));
        if wanted && !policy.groups.contains_key(DEFAULT_GROUP) {
            let own = members.get(DEFAULT_GROUP).map(cidrs).unwrap_or_default();
            let group = Group {
                name: DEFAULT_GROUP.to_owned(),
                id: None,
                inbound: vec![implied(Peer::Group(DEFAULT_GROUP.to_owned()), own)],
                outbound: allow_all(),
            };
            found.insert(DEFAULT_GROUP.to_owned(), Arc::new(group));
        }
        found
    }

    fn group_list(
        &mut self,
        name: &str,
        list: &'p GroupList,
        direction: Direction,
        lists: &BTreeMap<String, PrefixList>,
        members: &BTreeMap<&'p str, Members>,
    ) -> Vec<GroupRule> {
        let mut rules: Vec<GroupRule> = Vec::new();
        let mut seen = BTreeMap::new();
        for written in &list.rules {
            let Some(rule) = self.group_rule(name, written, direction, lists, members) else {
                self.complete = false;
                continue;
            };
            let icmp = rule.icmp.map(|icmp| (icmp.kind, icmp.code));
            // AWS compares what is matched, and a CIDR as it stores it (S16). A description makes no other rule.
            let key = (rule.protocol, rule.ports, icmp, rule.peer.clone());
            if let Some(first) = seen.insert(key, rule.span.clone()) {
                let message = format!("security group {name:?} has this {} rule already", list_name(direction));
                self.push(
                    Diagnostic::new(&codes::DUPLICATE_RULE, rule.span.clone(), message)
                        .at("the same again")
                        .and(first, "first here")
                        .note("AWS refuses it as a duplicate, also with the CIDR in another spelling (S16)")
                        .help("remove one"),
                );
            }
            rules.push(rule);
        }
        rules
    }

    fn group_rule(
        &mut self,
        group: &str,
        rule: &'p written::GroupRule,
        direction: Direction,
        lists: &BTreeMap<String, PrefixList>,
        members: &BTreeMap<&'p str, Members>,
    ) -> Option<GroupRule> {
        let at = rule.peer.as_ref();
        let found = at.and_then(|at| {
            let place = Reference { span: &at.span, group };
            match &at.value {
                written::Peer::Address(address) => {
                    let cidr = self.cidr(address, &at.span)?;
                    Some((Peer::Cidr(cidr), vec![cidr]))
                }
                written::Peer::PrefixList(name) => {
                    Some((Peer::PrefixList(name.clone()), self.prefix_list_named(name, &place, lists)?))
                }
                written::Peer::Group(name) => {
                    Some((Peer::Group(name.clone()), self.group_named(name, &place, members)))
                }
                written::Peer::Own => Some((Peer::Group(group.to_owned()), self.group_named(group, &place, members))),
            }
        });
        let (Some(protocol), Some(at), Some((peer, cidrs))) = (rule.traffic.protocol.as_ref(), at, found) else {
            return None;
        };
        let (key, _) = address_keys(direction);
        // A group's members can be of both families; a prefix list is of one.
        let of = match &peer {
            Peer::Group(_) => None,
            Peer::Cidr(_) | Peer::PrefixList(_) => cidrs.first().map(|cidr| (family(cidr), &at.span, key)),
        };
        let matched = self.traffic(&rule.traffic, protocol, Subject::Group, of);
        if let Peer::Cidr(cidr) = &peer
            && direction == Direction::Inbound
            && matched.protocol == Protocol::All
            && cidr.prefix_len() == 0
        {
            let from = family_name(family(cidr));
            self.push(
                Diagnostic::new(
                    &codes::ALLOW_EVERYTHING,
                    protocol.span.clone(),
                    format!("the rule lets everything in: every protocol from every {from} address"),
                )
                .at("every protocol")
                .and(at.span.clone(), "every address")
                .help("least privilege: name the protocol, the ports and the CIDR that are needed"),
            );
        }
        Some(GroupRule {
            protocol: matched.protocol,
            ports: matched.ports,
            icmp: matched.icmp,
            peer,
            cidrs,
            description: rule.description.clone(),
            line: self.line(rule.span.start),
            span: rule.span.clone(),
        })
    }

    /// What a prefix list stands for.
    fn prefix_list_named(
        &mut self,
        name: &str,
        place: &Reference<'_>,
        lists: &BTreeMap<String, PrefixList>,
    ) -> Option<Vec<IpNet>> {
        self.used_lists.insert(name.to_owned());
        let Some(list) = lists.get(name) else {
            let message = format!("there is no prefix list \"{}\"", name.escape_debug());
            let diagnostic =
                Diagnostic::new(&codes::UNKNOWN_PREFIX_LIST, place.span.clone(), message).at("not defined");
            let by_id = lists.values().find(|list| list.id.as_deref() == Some(name));
            let without = name.strip_prefix("pl-").filter(|name| lists.contains_key(*name));
            let meant = by_id.map(|list| list.name.as_str()).or(without);
            let names = lists.keys().map(String::as_str);
            let diagnostic = suggest(diagnostic, "pl", name, place.span, meant, names);
            self.push(if diagnostic.help.is_none() {
                let name = key_or_placeholder(name);
                diagnostic.help(format!("define it: `[prefix_list.{name}]` with `max_entries` and `entries = [ … ]`"))
            } else {
                diagnostic
            });
            return None;
        };
        if list.entries.is_empty() {
            let external = self.policy.prefix_lists.get(name).is_some_and(|list| list.external.is_some());
            let what = if external { "is only named: its entries are not known" } else { "is empty" };
            let message = format!("the rule matches nothing: prefix list {name:?} {what}");
            self.push(Diagnostic::new(&codes::NO_MEMBERS, place.span.clone(), message).at("nobody"));
        }
        Some(list.entries.clone())
    }

    /// The addresses of a referenced group's members. A group nobody defines is a name of members.
    fn group_named(&mut self, name: &str, place: &Reference<'_>, members: &BTreeMap<&'p str, Members>) -> Vec<IpNet> {
        let policy = self.policy;
        let own = name == place.group;
        if !own {
            self.used_groups.insert(name.to_owned());
        }
        let on = members.get(name);
        let found = on.map(cidrs).unwrap_or_default();
        let defined = policy.groups.contains_key(name);
        match on {
            Some(on) if on.unknown => self.push(
                Diagnostic::new(
                    &codes::MEMBERS_UNKNOWN,
                    place.span.clone(),
                    format!("not every member of security group {name:?} has its addresses in the policy"),
                )
                .at("their machine knows them")
                .note("`nacld run` asks the machine; away from it the rule does not match them")
                .help("write `addresses = [ … ]` in the interfaces that have the group"),
            ),
            _ if !found.is_empty() => {}
            None if own => {} // A group nobody has: its rules are nobody's either.
            None if !defined => self.push(self.stale(name, place)),
            _ => self.push(
                Diagnostic::new(
                    &codes::NO_MEMBERS,
                    place.span.clone(),
                    format!("the rule matches nothing: security group {name:?} has no members"),
                )
                .at("nobody")
                .note("a reference stands for the private addresses of the interfaces that have the group (S17)")
                .help(format!(
                    "interfaces elsewhere are written `[eni.NAME]`, with `security_groups = [\"{}\"]`",
                    name.escape_debug()
                )),
            ),
        }
        found
    }

    fn stale(&self, name: &str, place: &Reference<'_>) -> Diagnostic {
        let policy = self.policy;
        let message = format!("the rule matches nothing: nobody has a security group \"{}\"", name.escape_debug());
        let diagnostic = Diagnostic::new(&codes::STALE_REFERENCE, place.span.clone(), message)
            .at("stale")
            .note("AWS keeps a rule whose group is gone, and it matches nothing (S20)");
        let carried = || {
            let enis = policy.enis.values().filter_map(|eni| eni.groups.as_ref());
            enis.flat_map(|groups| &groups.names).map(|name| name.value.as_str())
        };
        let by_id = policy.groups.iter().find(|(_, group)| group.aws.id.as_deref() == Some(name));
        let without = name.strip_prefix("sg-").filter(|name| policy.groups.contains_key(*name));
        let meant = by_id.map(|(name, _)| name.as_str()).or(without);
        let names = policy.groups.keys().map(String::as_str).chain(carried());
        suggest(diagnostic, "sg", name, place.span, meant, names)
    }

    /// The groups on an interface; `None` where that layer is off.
    pub(super) fn groups_of(
        &mut self,
        name: &str,
        interface: &'p written::Interface,
        groups: &BTreeMap<String, Arc<Group>>,
    ) -> Option<Vec<Arc<Group>>> {
        let names = self.group_names(name, interface.groups.as_ref())?;
        let written = interface.groups.as_ref()?;
        let mut found = Vec::new();
        for name in &written.names {
            match self.policy.groups.get(&name.value).and_then(|group| group.external.as_ref()) {
                Some(external) => {
                    let message = format!("security group {:?} is only named: its rules are not known", name.value);
                    self.push(Self::not_known(&name.span, external, message));
                }
                None if groups.contains_key(&name.value) => {}
                None => self.unknown_group(name),
            }
        }
        found.extend(names.iter().filter_map(|name| groups.get(name).map(Arc::clone)));
        self.interface_quota(name, written, &found);
        Some(found)
    }

    fn unknown_group(&mut self, name: &At<String>) {
        let policy = self.policy;
        self.complete = false;
        let message = format!("there is no security group \"{}\"", name.value.escape_debug());
        let diagnostic = Diagnostic::new(&codes::UNKNOWN_GROUP, name.span.clone(), message).at("not defined");
        let known = |name: &&str| policy.groups.contains_key(*name) || *name == DEFAULT_GROUP;
        let by_id = policy.groups.iter().find(|(_, group)| group.aws.id.as_deref() == Some(name.value.as_str()));
        let names = policy.groups.keys().map(String::as_str).chain([DEFAULT_GROUP]);
        let diagnostic = if let Some(bare) = name.value.strip_prefix("sg:").filter(known) {
            diagnostic.help("names stand here without `sg:`").fix(name.span.clone(), quoted(bare))
        } else if let Some((meant, _)) = by_id {
            diagnostic
                .help(format!("did you mean `{}`, which has that id?", meant.escape_debug()))
                .fix(name.span.clone(), quoted(meant))
        } else {
            diagnostic.did_you_mean(&name.value, name.span.clone(), names, quoted)
        };
        self.push(if diagnostic.help.is_none() {
            let name = key_or_placeholder(&name.value);
            diagnostic.help(format!("define it: `[security_group.{name}]` with `inbound = [ … ]`"))
        } else {
            diagnostic
        });
    }

    fn group_quota(
        &mut self,
        name: &str,
        list: &GroupList,
        rules: &[GroupRule],
        direction: Direction,
        lists: &BTreeMap<String, PrefixList>,
    ) {
        for of in [Family::V4, Family::V6] {
            let weight = weight(rules, of, lists);
            let most = self.weights.entry(name.to_owned()).or_default();
            *most = weight.max(*most);
            if weight <= RULES {
                continue;
            }
            let message = format!(
                "security group {name:?} has {} {} rules that weigh {weight}, and AWS takes {RULES} unless the quota is raised",
                list_name(direction),
                family_name(of)
            );
            self.push(
                Diagnostic::new(&codes::OVER_GROUP_QUOTA, list.key.clone(), message)
                    .at(format!("{weight} {} rules", family_name(of)))
                    .note("each direction and family counts by itself; a prefix list counts its `max_entries`, a group in both families (S25, S26)")
                    .help("neighbouring CIDRs and port ranges can often be one rule"),
            );
        }
    }

    fn interface_quota(&mut self, name: &str, written: &Names, groups: &[Arc<Group>]) {
        let count = groups.len();
        if written.names.is_empty() {
            self.push(
                Diagnostic::new(
                    &codes::NO_GROUPS,
                    written.key.clone(),
                    format!("interface {name:?} has no security group, and so lets nothing pass"),
                )
                .at("an empty list")
                .note("without a rule that allows it nothing passes (S2); in AWS an interface has at least one group (S9)")
                .help("without the key there are no groups to judge by; `[\"default\"]` is AWS's default group"),
            );
        }
        let over = if count > MAXIMUM_GROUPS {
            Some((&codes::OVER_MAXIMUM_GROUPS, "AWS takes 16 at most"))
        } else if count > DEFAULT_GROUPS {
            Some((&codes::OVER_DEFAULT_GROUPS, "AWS takes 5 unless the quota is raised"))
        } else {
            None
        };
        if let Some((code, what)) = over {
            let message = format!("interface {name:?} has {count} security groups, and {what}");
            self.push(
                Diagnostic::new(code, written.key.clone(), message)
                    .at(format!("{count} groups"))
                    .note("all rules of all groups are pooled, so one group can hold what several do (S2, S25)"),
            );
        }
        let most = groups.iter().filter_map(|group| self.weights.get(&group.name)).max().copied().unwrap_or_default();
        if u64::from(most) * count as u64 > PRODUCT {
            let message = format!(
                "interface {name:?} has {count} security groups of up to {most} rules, and AWS takes a product of {PRODUCT}"
            );
            self.push(
                Diagnostic::new(&codes::OVER_PRODUCT, written.key.clone(), message)
                    .at(format!("{count} times {most}"))
                    .note(
                        "rules in a group times groups on an interface are 1000 at most, whatever the quotas are (S25)",
                    ),
            );
        }
    }
}

/// Adds which reference was probably meant: the one that is known, or one that is spelt much like it.
fn suggest<'n>(
    diagnostic: Diagnostic,
    kind: &str,
    written: &str,
    span: &Range<usize>,
    meant: Option<&str>,
    names: impl Iterator<Item = &'n str>,
) -> Diagnostic {
    let reference = |name: &str| format!("{kind}:{name}");
    if let Some(meant) = meant {
        let help = format!("did you mean `{}`?", reference(meant).escape_debug());
        return diagnostic.help(help).fix(span.clone(), quoted(&reference(meant)));
    }
    diagnostic.did_you_mean(written, span.clone(), names, |name| quoted(&reference(name)))
}

/// What rules count in a quota (S26).
fn weight(rules: &[GroupRule], of: Family, lists: &BTreeMap<String, PrefixList>) -> u32 {
    let one = |rule: &GroupRule| match &rule.peer {
        Peer::Cidr(cidr) => u32::from(family(cidr) == of),
        Peer::Group(_) => 1,
        Peer::PrefixList(name) => lists
            .get(name)
            .filter(|list| list.entries.first().is_none_or(|entry| family(entry) == of))
            .map_or(0, |list| list.max_entries),
    };
    rules.iter().map(one).fold(0, u32::saturating_add)
}

fn cidrs(members: &Members) -> Vec<IpNet> {
    members.addresses.iter().map(|&address| address.into()).collect()
}
