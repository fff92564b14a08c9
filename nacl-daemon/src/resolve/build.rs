//! A policy as written → what it means here: subnets, network ACLs and interfaces. Looks up names, applies AWS's
//! defaults and normalises rules; makes the diagnostics about names, references, geometry and quotas. Security groups
//! are resolved in `groups`, what passes unjudged in `exempt`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nacl_common::{Action, Direction, Family, packet::EXTENSION_HEADERS};

use super::{
    Eni, Group, Host, Icmp, Interface, Layers, Nacl, Protocol, Resolved, Rule, Subnet, exempt,
    flowlog::{Destination, FlowLog},
    groups::{self, Locals},
};
use crate::policy::{
    Diagnostic, LAST_NUMBER, address_keys, codes, protocol_name, quoted,
    written::{self, Address, At, List, Policy, Ports, Traffic},
};

/// The name a subnet's network ACL has when the policy gives none.
pub const DEFAULT_NACL: &str = "default";

/// Own rules in one direction and family, `*` not counted, that AWS takes by default and at most (N38 to N40).
const DEFAULT_QUOTA: usize = 19;
const MAXIMUM_QUOTA: usize = 39;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Resolves a policy; `None` where that is impossible, with the reason in `diagnostics`.
pub(crate) fn resolve(
    file: &str,
    text: &Arc<str>,
    policy: &Arc<Policy>,
    host: &dyn Host,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Resolved> {
    let mut resolver = Resolver {
        policy,
        diagnostics,
        lines: text.match_indices('\n').map(|(at, _)| at).collect(),
        used_subnets: BTreeSet::new(),
        used_nacls: BTreeSet::new(),
        used_groups: BTreeSet::new(),
        used_lists: BTreeSet::new(),
        weights: BTreeMap::new(),
        vpcs: BTreeMap::new(),
        complete: true,
    };
    resolver.geometry();
    resolver.places();
    let subnets = resolver.subnets();
    let mut nacls: BTreeMap<_, _> =
        policy.nacls.iter().map(|(name, nacl)| (name.clone(), Arc::new(resolver.nacl(name, nacl)))).collect();
    if !policy.nacls.contains_key(DEFAULT_NACL) && resolver.used_nacls.contains(DEFAULT_NACL)
        || policy.interfaces.values().any(|interface| is_default(interface.nacl.as_ref()))
    {
        nacls.entry(DEFAULT_NACL.to_owned()).or_insert_with(|| Arc::new(default_nacl()));
    }
    let enis = resolver.enis();
    let locals = groups::locals(policy, host);
    let prefix_lists = resolver.prefix_lists();
    let groups = resolver.groups(&prefix_lists, &locals);
    let interfaces = resolver.interfaces(&subnets, &nacls, &groups, &locals);
    resolver.unused();
    resolver.never_consulted(&subnets, &nacls);
    resolver.never_filtered(&interfaces);
    resolver.complete.then(|| Resolved {
        file: file.to_owned(),
        text: Arc::clone(text),
        nacls,
        subnets,
        groups,
        prefix_lists,
        enis,
        interfaces,
        written: Arc::clone(policy),
        on_exit: policy.on_exit,
    })
}

fn is_default(name: Option<&At<String>>) -> bool {
    name.is_some_and(|name| name.value == DEFAULT_NACL)
}

/// AWS's default network ACL: 100 and 101 allow everything, in both directions (N9, N10).
pub fn default_nacl() -> Nacl {
    let allow = |number, cidr| Rule {
        number,
        action: Action::Allow,
        protocol: Protocol::All,
        ports: None,
        icmp: None,
        cidr,
        reference: None,
        description: None,
        line: 0,
        span: 0..0,
    };
    let list = || vec![allow(100, Ipv4Net::default().into()), allow(101, Ipv6Net::default().into())];
    Nacl { name: DEFAULT_NACL.to_owned(), id: None, inbound: list(), outbound: list() }
}

pub(super) struct Resolver<'p> {
    pub(super) policy: &'p Policy,
    diagnostics: &'p mut Vec<Diagnostic>,
    /// Where lines end.
    lines: Vec<usize>,
    used_subnets: BTreeSet<String>,
    used_nacls: BTreeSet<String>,
    /// Security groups that somebody has, or that a rule of another group names.
    pub(super) used_groups: BTreeSet<String>,
    pub(super) used_lists: BTreeSet<String>,
    /// What the rules of a group weigh in the direction and family that weighs most.
    pub(super) weights: BTreeMap<String, u32>,
    /// VPCs by the subnets in them.
    vpcs: BTreeMap<&'p str, &'p written::Vpc>,
    /// False once something is missing from the result; a diagnostic says what.
    pub(super) complete: bool,
}

/// Whose rule it is: how it is called, and the facts of its layer.
#[derive(Clone, Copy)]
pub(super) enum Subject {
    /// A network ACL's, with its number.
    Nacl(u16),
    /// A security group's.
    Group,
    /// A failsafe entry.
    Failsafe,
}

impl Subject {
    fn text(self) -> String {
        match self {
            Self::Nacl(number) => format!("rule {number}"),
            Self::Group => "the rule".to_owned(),
            Self::Failsafe => "the entry".to_owned(),
        }
    }

    /// One of two facts.
    const fn fact(self, nacl: &'static str, group: &'static str) -> &'static str {
        match self {
            Self::Nacl(_) => nacl,
            Self::Group | Self::Failsafe => group,
        }
    }
}

/// What a rule matches besides the address, normalised: what AWS ignores is gone.
pub(super) struct Matched {
    pub(super) protocol: Protocol,
    pub(super) ports: Option<(u16, u16)>,
    pub(super) icmp: Option<Icmp>,
}

pub(super) const fn family(cidr: &IpNet) -> Family {
    match cidr {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

pub(super) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// A name as a bare TOML key, where it can be one.
pub(super) fn key_or_placeholder(name: &str) -> &str {
    let bare = |sign: char| sign.is_ascii_alphanumeric() || matches!(sign, '-' | '_');
    if !name.is_empty() && name.chars().all(bare) { name } else { "NAME" }
}

/// What a protocol is called in a message.
fn protocol_text(protocol: Protocol) -> String {
    match protocol {
        Protocol::All => "\"all\"".to_owned(),
        Protocol::Number(number) => {
            protocol_name(number).map_or_else(|| format!("protocol {number}"), |name| format!("{name} ({number})"))
        }
    }
}

impl<'p> Resolver<'p> {
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&end| end < at) + 1
    }

    /// Looks a subnet up, or says that it is not there.
    fn subnet_named(
        &mut self,
        name: &str,
        span: &Range<usize>,
        edit: impl Fn(&str) -> String,
    ) -> Option<&'p written::Subnet> {
        let policy = self.policy;
        let found = policy.subnets.get(name);
        if found.is_some() {
            self.used_subnets.insert(name.to_owned());
        } else {
            self.complete = false;
            let message = format!("there is no subnet \"{}\"", name.escape_debug());
            let diagnostic = Diagnostic::new(&codes::UNKNOWN_SUBNET, span.clone(), message).at("not defined");
            let names = policy.subnets.keys().map(String::as_str);
            let diagnostic = diagnostic.did_you_mean(name, span.clone(), names, edit);
            self.push(if diagnostic.help.is_none() {
                diagnostic.help(format!("define it: `[subnet.{}]` with `cidrs = [ … ]`", key_or_placeholder(name)))
            } else {
                diagnostic
            });
        }
        found
    }

    /// Checks that a network ACL is there.
    fn nacl_named(&mut self, name: &At<String>) {
        let policy = self.policy;
        self.used_nacls.insert(name.value.clone());
        if name.value == DEFAULT_NACL || policy.nacls.contains_key(&name.value) {
            return;
        }
        self.complete = false;
        let message = format!("there is no network ACL \"{}\"", name.value.escape_debug());
        let names = policy.nacls.keys().map(String::as_str);
        let diagnostic = Diagnostic::new(&codes::UNKNOWN_NACL, name.span.clone(), message)
            .at("not defined")
            .did_you_mean(&name.value, name.span.clone(), names, quoted);
        self.push(if diagnostic.help.is_none() {
            let name = key_or_placeholder(&name.value);
            diagnostic.help(format!("define it: `[nacl.{name}]` with `inbound = [ … ]` and `outbound = [ … ]`"))
        } else {
            diagnostic
        });
    }

    /// The VPC of a subnet, by name; `None` where there is none or it cannot be said which.
    fn vpc_of(&mut self, name: &str, subnet: &'p written::Subnet) -> Option<(&'p str, &'p written::Vpc)> {
        let vpcs = &self.policy.vpcs;
        let Some(written) = &subnet.vpc else {
            if vpcs.len() > 1 {
                let names: Vec<_> = vpcs.keys().map(String::as_str).collect();
                self.push(
                    Diagnostic::new(
                        &codes::UNKNOWN_VPC,
                        subnet.name.clone(),
                        format!("subnet {name:?} does not say which VPC it is in"),
                    )
                    .at("`vpc` is missing")
                    .note(format!("the policy has {}", names.join(", ")))
                    .help("add `vpc = \"NAME\"` to it"),
                );
            }
            return vpcs.iter().next().filter(|_| vpcs.len() == 1).map(|(name, vpc)| (name.as_str(), vpc));
        };
        self.vpc_named(written)
    }

    /// Looks a VPC up, or says that it is not there.
    fn vpc_named(&mut self, written: &'p At<String>) -> Option<(&'p str, &'p written::Vpc)> {
        let vpcs = &self.policy.vpcs;
        if let Some((key, vpc)) = vpcs.get_key_value(&written.value).filter(|_| !written.value.is_empty()) {
            return Some((key, vpc));
        }
        let message = format!("there is no VPC \"{}\"", written.value.escape_debug());
        let names = vpcs.keys().map(String::as_str).filter(|name| !name.is_empty());
        let mut diagnostic = Diagnostic::new(&codes::UNKNOWN_VPC, written.span.clone(), message)
            .at("not defined")
            .did_you_mean(&written.value, written.span.clone(), names, quoted);
        if vpcs.contains_key("") {
            diagnostic = diagnostic.help("the only VPC has no name: remove `vpc` here, or name it, `[vpc.NAME]`");
        }
        self.push(diagnostic);
        None
    }

    /// Subnets inside their VPC, and apart from each other.
    fn geometry(&mut self) {
        let policy = self.policy;
        // Subnets, by where they stand in the text, so that of two that overlap the later one is blamed.
        let mut order: Vec<_> = policy.subnets.iter().collect();
        order.sort_by_key(|(_, subnet)| subnet.name.start);
        let mut placed: Vec<(&str, &str, &At<IpNet>)> = Vec::new();
        for (name, subnet) in order {
            let vpc = self.vpc_of(name, subnet);
            self.vpcs.extend(vpc.map(|(_, vpc)| (name.as_str(), vpc)));
            for cidr in &subnet.cidrs {
                if let Some((_, vpc)) = vpc.filter(|(_, vpc)| !vpc.cidrs.is_empty()) {
                    self.inside_vpc(name, cidr, vpc);
                }
                let key = vpc.map_or("", |(name, _)| name);
                let overlap = placed.iter().find(|(other_vpc, _, other)| {
                    *other_vpc == key && (other.value.contains(&cidr.value) || cidr.value.contains(&other.value))
                });
                if let Some((_, other_name, other)) = overlap {
                    let message =
                        format!("{} of subnet {name:?} overlaps {} of subnet {other_name:?}", cidr.value, other.value);
                    let diagnostic = Diagnostic::new(&codes::OVERLAP, cidr.span.clone(), message)
                        .at("overlaps")
                        .and(other.span.clone(), "this one")
                        .note("an address stands in one subnet, and its traffic meets that subnet's network ACL");
                    self.diagnostics.push(diagnostic);
                }
                placed.push((key, name, cidr));
            }
        }
    }

    fn inside_vpc(&mut self, name: &str, cidr: &At<IpNet>, vpc: &written::Vpc) {
        if vpc.cidrs.iter().any(|outer| outer.value.contains(&cidr.value)) {
            return;
        }
        let message = format!("{} of subnet {name:?} lies outside its VPC", cidr.value);
        let mut diagnostic = Diagnostic::new(&codes::OUTSIDE_VPC, cidr.span.clone(), message).at("outside");
        let same: Vec<_> = vpc.cidrs.iter().filter(|outer| family(&outer.value) == family(&cidr.value)).collect();
        for outer in &same {
            diagnostic = diagnostic.and(outer.span.clone(), "the VPC's range");
        }
        if same.is_empty() {
            diagnostic =
                diagnostic.and(vpc.name.clone(), format!("the VPC has no {} range", family_name(family(&cidr.value))));
        }
        self.push(diagnostic);
    }

    /// The network ACL of a subnet: its own, else its VPC's default one.
    fn nacl_of(&self, subnet: &'p written::Subnet) -> &'p str {
        if let Some(nacl) = &subnet.nacl {
            return &nacl.value;
        }
        let vpc = self.vpc_key(subnet.vpc.as_ref());
        let policy = self.policy;
        let marked =
            policy.nacls.iter().find(|(_, nacl)| nacl.default.is_some() && self.vpc_key(nacl.vpc.as_ref()) == vpc);
        marked.map_or(DEFAULT_NACL, |(name, _)| name)
    }

    /// The VPC that is named, or the only one.
    fn vpc_key(&self, written: Option<&'p At<String>>) -> Option<&'p str> {
        let vpcs = &self.policy.vpcs;
        match written {
            Some(written) => Some(&written.value),
            None => vpcs.keys().next().filter(|_| vpcs.len() == 1).map(String::as_str),
        }
    }

    /// VPCs that other things than subnets say they are in; one default network ACL in each.
    fn places(&mut self) {
        let policy = self.policy;
        let nacls = policy.nacls.values().filter_map(|nacl| nacl.vpc.as_ref());
        let groups = policy.groups.values().filter_map(|group| group.vpc.as_ref());
        let enis = policy.enis.values().filter_map(|eni| eni.vpc.as_ref());
        let interfaces = policy.interfaces.values().filter_map(|interface| interface.vpc.as_ref());
        for vpc in nacls.chain(groups).chain(enis).chain(interfaces) {
            self.vpc_named(vpc);
        }
        let mut order: Vec<_> = policy.nacls.iter().collect();
        order.sort_by_key(|(_, nacl)| nacl.name.start);
        let mut defaults: BTreeMap<Option<&str>, (&str, &Range<usize>)> = BTreeMap::new();
        for (name, nacl) in order {
            let Some(default) = &nacl.default else { continue };
            let vpc = self.vpc_key(nacl.vpc.as_ref());
            let Some((first, place)) = defaults.get(&vpc) else {
                defaults.insert(vpc, (name, default));
                continue;
            };
            let message = format!("network ACL {name:?} is a default one, and {first:?} is already");
            self.diagnostics.push(
                Diagnostic::new(&codes::DEFAULT_TWICE, default.clone(), message)
                    .at("again")
                    .and((*place).clone(), "first here")
                    .note("a VPC has one default network ACL: that of every subnet no other is put on (N9, N14)")
                    .help("remove `default` from one, or say with `vpc` that they belong to different VPCs"),
            );
        }
    }

    /// Something that is only named, where what it holds is needed.
    pub(super) fn not_known(span: &Range<usize>, external: &Range<usize>, message: String) -> Diagnostic {
        Diagnostic::new(&codes::EXTERNAL, span.clone(), message)
            .at("needed here")
            .and(external.clone(), "only named, it says")
            .help("write what it holds instead of `external`, or record it and import again")
    }

    fn subnets(&mut self) -> BTreeMap<String, Subnet> {
        let policy = self.policy;
        let mut found = BTreeMap::new();
        for (name, subnet) in &policy.subnets {
            let nacl = self.nacl_of(subnet).to_owned();
            if let Some(nacl) = &subnet.nacl {
                self.nacl_named(nacl);
            }
            self.used_nacls.insert(nacl.clone());
            if subnet.nacl.is_none() && !policy.nacls.contains_key(&nacl) {
                let message = format!("subnet {name:?} has AWS's default network ACL, which allows everything");
                self.push(
                    Diagnostic::new(&codes::DEFAULT_NACL, subnet.name.clone(), message)
                        .at("no `nacl`")
                        .help("write `nacl = \"NAME\"`; `nacl = \"default\"` says that it is meant"),
                );
            }
            let cidrs = subnet.cidrs.iter().map(|cidr| cidr.value).collect();
            let id = subnet.aws.id.clone();
            let mut resolved = Subnet { name: name.clone(), id, cidrs, nacl, services: Vec::new() };
            resolved.services = exempt::services(self.vpcs.get(name.as_str()).map(|vpc| (*vpc, &resolved)));
            found.insert(name.clone(), resolved);
        }
        found
    }

    fn nacl(&mut self, name: &str, nacl: &'p written::Nacl) -> Nacl {
        for (list, key, other, what) in
            [(&nacl.inbound, "inbound", &nacl.outbound, "into"), (&nacl.outbound, "outbound", &nacl.inbound, "out of")]
        {
            if list.is_none() {
                let mut diagnostic = Diagnostic::new(
                    &codes::DIRECTION_ABSENT,
                    nacl.name.clone(),
                    format!("network ACL {name:?} has no `{key}` list: nothing gets {what} the subnet"),
                )
                .at(format!("no `{key}`"))
                .note("what no rule matches, `*` denies");
                if other.as_ref().is_some_and(|other| other.rules.iter().any(|rule| rule.action == Some(Action::Allow)))
                {
                    diagnostic = diagnostic.help(format!(
                        "replies need a rule of their own, because a network ACL remembers nothing (N8); `{key} = []` says that it is meant"
                    ));
                }
                self.push(diagnostic);
            }
        }
        Nacl {
            name: name.to_owned(),
            id: nacl.aws.id.clone(),
            inbound: self.list(name, nacl.inbound.as_ref(), Direction::Inbound),
            outbound: self.list(name, nacl.outbound.as_ref(), Direction::Outbound),
        }
    }

    fn list(&mut self, nacl: &str, list: Option<&'p List>, direction: Direction) -> Vec<Rule> {
        let Some(list) = list else { return Vec::new() };
        let mut numbers: BTreeMap<u16, &At<u16>> = BTreeMap::new();
        let mut taken: BTreeSet<u16> =
            list.rules.iter().filter_map(|rule| rule.number.as_ref()).map(|number| number.value).collect();
        for number in list.rules.iter().filter_map(|rule| rule.number.as_ref()) {
            if let Some(first) = numbers.get(&number.value) {
                let free = (number.value + 1..=LAST_NUMBER).find(|candidate| taken.insert(*candidate));
                let mut diagnostic = Diagnostic::new(
                    &codes::DUPLICATE_NUMBER,
                    number.span.clone(),
                    format!("rule number {} is used twice in one direction", number.value),
                )
                .at("used again")
                .and(first.span.clone(), "first used here")
                .note("IPv4 and IPv6 rules share the numbers of a direction (N5)");
                if let Some(free) = free {
                    diagnostic = diagnostic
                        .help(format!("{free} is the next free number"))
                        .fix(number.span.clone(), free.to_string());
                }
                self.push(diagnostic);
            } else {
                numbers.insert(number.value, number);
            }
        }
        let mut rules: Vec<_> = list.rules.iter().filter_map(|rule| self.rule(rule, direction)).collect();
        rules.sort_by_key(|rule| rule.number);
        for family_of_rules in [Family::V4, Family::V6] {
            let count = rules.iter().filter(|rule| family(&rule.cidr) == family_of_rules).count();
            self.quota(nacl, list, count, family_of_rules, direction);
        }
        rules
    }

    fn quota(&mut self, nacl: &str, list: &List, count: usize, family: Family, direction: Direction) {
        if count <= DEFAULT_QUOTA {
            return;
        }
        let list_name = match direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        let over = count > MAXIMUM_QUOTA;
        let (code, what) = if over {
            (&codes::OVER_MAXIMUM_QUOTA, "AWS takes 40 at most")
        } else {
            (&codes::OVER_DEFAULT_QUOTA, "AWS takes 20 unless the quota is raised")
        };
        let message =
            format!("network ACL {nacl:?} has {} {list_name} {} rules, and {what}", count + 1, family_name(family));
        self.push(
            Diagnostic::new(code, list.key.clone(), message)
                .at(format!("{count} rules and `*`"))
                .note("AWS counts each direction and each family by itself, and counts `*` (N38 to N40)")
                .help("neighbouring CIDRs and port ranges with the same action can often be one rule"),
        );
    }

    /// Normalises one rule, and warns about what AWS accepts and ignores (N27 to N35).
    fn rule(&mut self, rule: &'p written::Rule, direction: Direction) -> Option<Rule> {
        let address =
            rule.address.as_ref().and_then(|address| Some((self.cidr(&address.value, &address.span)?, address)));
        let (Some(number), Some(action), Some(protocol), Some((cidr, address))) =
            (rule.number.as_ref(), rule.action, rule.traffic.protocol.as_ref(), address)
        else {
            self.complete = false;
            return None;
        };
        let (key, _) = address_keys(direction);
        let end = Some((family(&cidr), &address.span, key));
        let matched = self.traffic(&rule.traffic, protocol, Subject::Nacl(number.value), end);
        if action == Action::Allow && protocol.value == Protocol::All && cidr.prefix_len() == 0 {
            let (what, from) = match direction {
                Direction::Inbound => ("in", "from"),
                Direction::Outbound => ("out", "to"),
            };
            self.push(
                Diagnostic::new(
                    &codes::ALLOW_EVERYTHING,
                    protocol.span.clone(),
                    format!(
                        "rule {} lets everything {what}: every protocol {from} every {} address",
                        number.value,
                        family_name(family(&cidr))
                    ),
                )
                .at("every protocol")
                .and(address.span.clone(), "every address")
                .help("least privilege: name the protocol, the ports and the CIDR that are needed"),
            );
        }
        let reference = match &address.value {
            Address::Cidr(_) => None,
            Address::Subnet(name, Some(Family::V4)) => Some(format!("subnet:{name}/ipv4")),
            Address::Subnet(name, Some(Family::V6)) => Some(format!("subnet:{name}/ipv6")),
            Address::Subnet(name, None) => Some(format!("subnet:{name}")),
        };
        Some(Rule {
            number: number.value,
            action,
            protocol: matched.protocol,
            ports: matched.ports,
            icmp: matched.icmp,
            cidr,
            reference,
            description: rule.description.clone(),
            line: self.line(rule.span.start),
            span: rule.span.clone(),
        })
    }

    /// Normalises protocol, ports and ICMP type, and warns about what AWS accepts and ignores. `end`: the family of the
    /// rule's address, its place and its key; `None` where it may be of both.
    pub(super) fn traffic(
        &mut self,
        traffic: &Traffic,
        protocol: &At<Protocol>,
        subject: Subject,
        end: Option<(Family, &Range<usize>, &str)>,
    ) -> Matched {
        let mut matched = Matched { protocol: protocol.value, ports: None, icmp: None };
        match (protocol.value, end) {
            (Protocol::Number(TCP | UDP), _) => {
                match &traffic.ports {
                    // A rule for all ports does not look at them, so that it matches fragments too.
                    Ports::Range(range) => matched.ports = Some(range.value).filter(|&range| range != (0, u16::MAX)),
                    Ports::Absent if !matches!(subject, Subject::Failsafe) => {
                        let message = format!("{} matches all ports", subject.text());
                        self.push(
                            Diagnostic::new(&codes::PORTS_UNWRITTEN, protocol.span.clone(), message)
                                .at("and the rule has no `ports`")
                                .note(format!("AWS wants them written ({})", subject.fact("N29", "S12")))
                                .help("write `ports = \"all\"`, or the ports that are meant"),
                        );
                    }
                    Ports::Absent | Ports::Bad => {}
                }
                self.ignored_icmp(traffic, protocol, subject, "only ICMP has types");
            }
            (Protocol::Number(ICMP), Some((Family::V6, span, key))) => {
                self.push(
                    Diagnostic::new(
                        &codes::ICMP_ON_IPV6,
                        protocol.span.clone(),
                        format!("{} can match no real packet: icmp (1) does not travel on IPv6", subject.text()),
                    )
                    .at("IPv4's ICMP")
                    .and(span.clone(), format!("an IPv6 {key}"))
                    .help("IPv6 has \"icmpv6\", protocol 58")
                    .fix(protocol.span.clone(), "\"icmpv6\""),
                );
                self.ignored_ports(traffic, protocol, subject);
            }
            (Protocol::Number(ICMPV6), Some((Family::V4, span, key))) => {
                self.push(
                    Diagnostic::new(
                        &codes::ICMPV6_ON_IPV4,
                        protocol.span.clone(),
                        format!("{} matches icmpv6 (58) on IPv4, which no host sends", subject.text()),
                    )
                    .at("IPv6's ICMP")
                    .and(span.clone(), format!("an IPv4 {key}"))
                    .note(subject.fact(
                        "AWS takes it, for all types and codes, whatever is written (N28)",
                        "it is taken as network ACLs take it, for all types and codes, whatever is written (N28)",
                    ))
                    .help("IPv4 has \"icmp\", protocol 1")
                    .fix(protocol.span.clone(), "\"icmp\""),
                );
                self.ignored_ports(traffic, protocol, subject);
            }
            (Protocol::Number(ICMP | ICMPV6), _) => matched.icmp = self.icmp(traffic, protocol, subject),
            (Protocol::All | Protocol::Number(_), _) => {
                self.ignored_ports(traffic, protocol, subject);
                self.ignored_icmp(traffic, protocol, subject, "only ICMP has types");
                if let Protocol::Number(header) = protocol.value
                    && end.is_none_or(|(family, ..)| family == Family::V6)
                    && EXTENSION_HEADERS.contains(&header)
                {
                    self.push(
                        Diagnostic::new(
                            &codes::EXTENSION_HEADER,
                            protocol.span.clone(),
                            format!("{} is an IPv6 extension header, not a protocol", protocol_text(protocol.value)),
                        )
                        .at("never what a packet carries in the end")
                        .note("packets are judged by the protocol behind their extension headers"),
                    );
                }
            }
        }
        matched
    }

    fn icmp(&mut self, traffic: &Traffic, protocol: &At<Protocol>, subject: Subject) -> Option<Icmp> {
        self.ignored_ports(traffic, protocol, subject);
        // S12: a security group's rule for ICMPv6 need not write them.
        let optional = match subject {
            Subject::Nacl(_) => false,
            Subject::Group => protocol.value == Protocol::Number(ICMPV6),
            Subject::Failsafe => true,
        };
        if traffic.icmp.is_none() && !optional {
            let echo = if protocol.value == Protocol::Number(ICMP) { "8" } else { "128" };
            self.push(
                Diagnostic::new(
                    &codes::ICMP_UNWRITTEN,
                    protocol.span.clone(),
                    format!("{} matches all ICMP types and codes", subject.text()),
                )
                .at("and the rule has no `icmp`")
                .note(format!("AWS wants them written ({})", subject.fact("N30", "S12")))
                .help(format!("write `icmp = {{ type = -1 }}`, or the type that is meant: {echo} is an echo request")),
            );
        }
        let icmp = traffic.icmp.as_ref()?.value;
        Some(Icmp { kind: icmp.kind?, code: icmp.code })
    }

    fn ignored_ports(&mut self, traffic: &Traffic, protocol: &At<Protocol>, subject: Subject) {
        let Ports::Range(range) = &traffic.ports else { return };
        if protocol.value == Protocol::All && range.value == (0, u16::MAX) {
            return; // Says the same twice.
        }
        self.push(
            Diagnostic::new(
                &codes::PORTS_IGNORED,
                range.span.clone(),
                format!(
                    "the ports are ignored: {} matches every port of {}",
                    if matches!(subject, Subject::Failsafe) { "the entry" } else { "the rule" },
                    protocol_text(protocol.value)
                ),
            )
            .at("ignored")
            .and(protocol.span.clone(), "AWS matches ports of tcp and udp only")
            .note(match subject {
                Subject::Nacl(_) => "AWS accepts such a rule, and ignores its ports (N27, N34)",
                Subject::Group => "AWS accepts such a rule, and ignores its ports (S11)",
                Subject::Failsafe => "as AWS ignores them in a rule (S11)",
            }),
        );
    }

    fn ignored_icmp(&mut self, traffic: &Traffic, protocol: &At<Protocol>, subject: Subject, why: &str) {
        let Some(icmp) = &traffic.icmp else { return };
        self.push(
            Diagnostic::new(&codes::ICMP_IGNORED, icmp.span.clone(), "the ICMP type and code are ignored")
                .at("ignored")
                .and(protocol.span.clone(), why)
                .note(format!("AWS accepts such a rule, and ignores them ({})", subject.fact("N27", "S11"))),
        );
    }

    /// The one CIDR an address stands for.
    pub(super) fn cidr(&mut self, address: &'p Address, span: &Range<usize>) -> Option<IpNet> {
        let (name, wanted) = match address {
            Address::Cidr(cidr) => return Some(*cidr),
            Address::Subnet(name, wanted) => (name, *wanted),
        };
        let suffix = match wanted {
            None => "",
            Some(Family::V4) => "/ipv4",
            Some(Family::V6) => "/ipv6",
        };
        let subnet = self.subnet_named(name, span, |name| quoted(&format!("subnet:{name}{suffix}")))?;
        let found: Vec<_> =
            subnet.cidrs.iter().filter(|cidr| wanted.is_none_or(|wanted| wanted == family(&cidr.value))).collect();
        if let [one] = found[..] {
            return Some(one.value);
        }
        self.complete = false;
        if let Some(external) = &subnet.external {
            let message = format!("subnet {name:?} is only named: its CIDRs are not known");
            self.push(Self::not_known(span, external, message));
        }
        if subnet.cidrs.is_empty() {
            return None; // Reported where the subnet is defined.
        }
        let message = match (found.len(), wanted) {
            (0, Some(wanted)) => format!("subnet {name:?} has no {} CIDR", family_name(wanted)),
            (count, Some(wanted)) => {
                format!("subnet {name:?} has {count} {} CIDRs, and a rule holds one", family_name(wanted))
            }
            (count, None) => format!("subnet {name:?} has {count} CIDRs, and a rule holds one"),
        };
        let mut diagnostic =
            Diagnostic::new(&codes::SUBNET_NOT_ONE_CIDR, span.clone(), message).at("must stand for exactly one CIDR");
        for cidr in &subnet.cidrs {
            diagnostic = diagnostic.and(cidr.span.clone(), family_name(family(&cidr.value)));
        }
        let families =
            [Family::V4, Family::V6].map(|one| subnet.cidrs.iter().filter(|cidr| family(&cidr.value) == one).count());
        diagnostic = match (wanted, families) {
            (None, [1, 1]) => diagnostic.help(format!(
                "write `subnet:{0}/ipv4` or `subnet:{0}/ipv6`; for both, two rules with a number each",
                name.escape_debug()
            )),
            _ => diagnostic.help("write the CIDR that is meant"),
        };
        self.push(diagnostic);
        None
    }

    fn enis(&mut self) -> BTreeMap<String, Eni> {
        let policy = self.policy;
        let mut found = BTreeMap::new();
        for (name, eni) in &policy.enis {
            if let Some(subnet) = &eni.subnet
                && let Some(written) = self.subnet_named(&subnet.value, &subnet.span, quoted)
            {
                self.inside_subnet(&eni.addresses, &subnet.value, written, true);
            }
            let addresses = eni.addresses.iter().map(|address| address.value).collect();
            let subnet = eni.subnet.as_ref().map(|subnet| subnet.value.clone());
            let groups = self.group_names(name, eni.groups.as_ref()).unwrap_or_default();
            found.insert(name.clone(), Eni { name: name.clone(), addresses, subnet, groups });
        }
        found
    }

    fn inside_subnet(&mut self, addresses: &[At<IpAddr>], name: &str, subnet: &written::Subnet, elsewhere: bool) {
        for address in addresses.iter().filter(|_| !subnet.cidrs.is_empty()) {
            if subnet.cidrs.iter().any(|cidr| cidr.value.contains(&address.value)) {
                continue;
            }
            let code = if elsewhere { &codes::OUTSIDE_SUBNET } else { &codes::ADDRESS_OUTSIDE };
            let message = format!("{} lies outside subnet {name:?}", address.value);
            let mut diagnostic = Diagnostic::new(code, address.span.clone(), message).at("outside");
            for cidr in &subnet.cidrs {
                diagnostic = diagnostic.and(cidr.span.clone(), "the subnet's range");
            }
            self.push(diagnostic);
        }
    }

    fn interfaces(
        &mut self,
        subnets: &BTreeMap<String, Subnet>,
        nacls: &BTreeMap<String, Arc<Nacl>>,
        groups: &BTreeMap<String, Arc<Group>>,
        locals: &Locals<'_>,
    ) -> BTreeMap<String, Interface> {
        let policy = self.policy;
        let mut found = BTreeMap::new();
        if policy.interfaces.is_empty() {
            self.push(
                Diagnostic::new(&codes::NO_INTERFACE, 0..0, "the policy names no interface, so it enforces nothing")
                    .help("add `[interface.eth0]` with `nacl = \"NAME\"` or `subnet = \"NAME\"`"),
            );
        }
        self.devices();
        let flow_logs = self.flow_logs();
        for (name, interface) in &policy.interfaces {
            let mut subnet = None;
            if let Some(at) = &interface.subnet
                && let Some(written) = self.subnet_named(&at.value, &at.span, quoted)
            {
                subnet = subnets.get(&at.value);
                self.inside_subnet(interface.addresses.as_deref().unwrap_or_default(), &at.value, written, false);
                if let Some(external) = &written.external {
                    let message =
                        format!("subnet {:?} of interface {name:?} is only named: its CIDRs are not known", at.value);
                    self.push(Self::not_known(&at.span, external, message));
                }
                if let Some(direct) = &interface.nacl {
                    self.disagreement(name, at, written, direct);
                }
            }
            if let Some(direct) = &interface.nacl {
                self.nacl_named(direct);
            }
            let nacl = match (subnet, &interface.nacl) {
                (Some(subnet), _) => nacls.get(&subnet.nacl).cloned(),
                (None, Some(direct)) => nacls.get(&direct.value).cloned(),
                // Not in force: the groups alone judge.
                (None, None) if interface.subnet.is_none() => Some(Arc::new(default_nacl())),
                (None, None) => None,
            };
            let on = self.groups_of(name, interface, groups);
            let failsafe = self.failsafe(interface);
            let layers = self.layers(name, interface);
            let (Some(nacl), Some(layers)) = (nacl, layers) else {
                self.complete = false;
                continue;
            };
            let mut exemptions = Vec::new();
            if interface.exemptions {
                exemptions = subnet.map_or_else(|| exempt::services(None), |subnet| subnet.services.clone());
            }
            exemptions.extend(failsafe);
            found.insert(
                name.clone(),
                Interface {
                    netns: interface.netns.clone(),
                    addresses: locals[name.as_str()].clone(),
                    subnet: subnet.map(|subnet| subnet.name.clone()),
                    subnet_cidrs: subnet.map(|subnet| subnet.cidrs.clone()).unwrap_or_default(),
                    groups: on,
                    mode: interface.mode,
                    layers,
                    aws: interface.exemptions,
                    exemptions,
                    tracking: policy.tracking,
                    side: interface.side,
                    enforce: interface.enforce,
                    xdp: interface.xdp,
                    drop_non_ip: interface.drop_non_ip,
                    id: interface.aws.id.clone(),
                    subnet_id: subnet.and_then(|subnet| subnet.id.clone()),
                    flow_log: interface.flow_log.as_ref().and_then(|name| flow_logs.get(name.value.as_str()).cloned()),
                    ..Interface::new(&interface.device.value, nacl)
                },
            );
        }
        found
    }

    /// The flow logs, by name. Each has a file of its own, and every one that is named is there.
    fn flow_logs(&mut self) -> BTreeMap<&'p str, Arc<FlowLog>> {
        let policy = self.policy;
        let mut order: Vec<_> = policy.flow_logs.iter().collect();
        order.sort_by_key(|(_, written)| written.name.start);
        let mut files: BTreeMap<_, (&str, &Range<usize>)> = BTreeMap::new();
        for (name, written) in order {
            let Destination::File(path) = &written.log.destination else { continue };
            let Some((first, place)) = files.get(path) else {
                files.insert(path, (name, &written.name));
                continue;
            };
            let message = format!("flow log {name:?} writes the file of flow log {first:?}: {}", path.display());
            self.diagnostics.push(
                Diagnostic::new(&codes::SHARED_FILE, written.name.clone(), message)
                    .at("the same file")
                    .and((*place).clone(), "first here")
                    .help("give each a file of its own, or let the interfaces share one flow log"),
            );
        }
        for name in policy.interfaces.values().filter_map(|interface| interface.flow_log.as_ref()) {
            if policy.flow_logs.contains_key(&name.value) {
                continue;
            }
            self.complete = false;
            let message = format!("there is no flow log \"{}\"", name.value.escape_debug());
            let known = policy.flow_logs.keys().map(String::as_str);
            let diagnostic = Diagnostic::new(&codes::UNKNOWN_FLOW_LOG, name.span.clone(), message)
                .at("not defined")
                .did_you_mean(&name.value, name.span.clone(), known, quoted);
            let define =
                || format!("define it: `[flow_log.{}]` with `destination = …`", key_or_placeholder(&name.value));
            let diagnostic = if diagnostic.help.is_none() { diagnostic.help(define()) } else { diagnostic };
            self.push(diagnostic);
        }
        for (name, written) in &policy.flow_logs {
            let named =
                |interface: &written::Interface| interface.flow_log.as_ref().is_some_and(|log| log.value == *name);
            if !policy.interfaces.values().any(named) {
                let message = format!("flow log {name:?} is named by no interface");
                let help = format!("`flow_log = \"{}\"` below an interface switches it on", name.escape_debug());
                let diagnostic = Diagnostic::new(&codes::UNUSED_FLOW_LOG, written.name.clone(), message);
                self.diagnostics.push(diagnostic.at("unused").help(help));
            }
        }
        policy.flow_logs.iter().map(|(name, written)| (name.as_str(), Arc::new(written.log.clone()))).collect()
    }

    /// A device has one policy.
    fn devices(&mut self) {
        let policy = self.policy;
        let mut order: Vec<_> = policy.interfaces.iter().collect();
        order.sort_by_key(|(_, interface)| interface.name.start);
        let mut seen: BTreeMap<_, (&str, &Range<usize>)> = BTreeMap::new();
        for (name, interface) in order {
            let device = &interface.device;
            let key = (interface.netns.as_deref(), device.value.as_str());
            let Some((first, place)) = seen.get(&key) else {
                seen.insert(key, (name, &device.span));
                continue;
            };
            let within = key.0.map_or_else(String::new, |netns| format!(" of network namespace {netns:?}"));
            let message = format!("device {:?}{within} is that of interface {first:?} already", device.value);
            self.diagnostics.push(
                Diagnostic::new(&codes::DEVICE_TWICE, device.span.clone(), message)
                    .at("again")
                    .and((*place).clone(), "first here")
                    .help("one device has one policy: remove one of the two, or say with `netns` that they lie apart"),
            );
        }
    }

    /// Which layers judge; `None` where there is nothing to judge by.
    fn layers(&mut self, name: &str, interface: &'p written::Interface) -> Option<Layers> {
        let nacl = interface.subnet.is_some() || interface.nacl.is_some();
        let groups = interface.groups.is_some();
        let Some(written) = &interface.layers else {
            return match (nacl, groups) {
                (true, _) => Some(Layers::Both),
                (false, true) => Some(Layers::Groups),
                (false, false) => None, // Reported when it was read.
            };
        };
        let (what, help) = match written.value {
            Layers::Groups if !groups => (
                "security groups",
                "give it some, `security_groups = [\"NAME\"]`; `[\"default\"]` is AWS's default group",
            ),
            Layers::Both | Layers::Nacl if !nacl => (
                "a network ACL",
                "put one on it, `nacl = \"NAME\"`, or say where it stands, `subnet = \"NAME\"`; or remove `layers`",
            ),
            layers => return Some(layers),
        };
        if nacl || groups {
            let message = format!("interface {name:?} cannot judge by {what}: it has none");
            self.push(
                Diagnostic::new(&codes::NO_SUCH_LAYER, written.span.clone(), message)
                    .at(format!("\"{}\" wants {what}", written.value.name()))
                    .help(help),
            );
        }
        None
    }

    /// An interface with a subnet has that subnet's network ACL, and no other (N14).
    fn disagreement(&mut self, name: &str, at: &At<String>, subnet: &'p written::Subnet, direct: &At<String>) {
        let of_subnet = self.nacl_of(subnet);
        if of_subnet == direct.value {
            return;
        }
        let message = format!(
            "interface {name:?} has network ACL {:?}, and its subnet {:?} has {of_subnet:?}",
            direct.value, at.value
        );
        let diagnostic = Diagnostic::new(&codes::NACL_DISAGREES, direct.span.clone(), message).at("not the subnet's");
        let (place, text) = match &subnet.nacl {
            Some(nacl) => (nacl.span.clone(), "the subnet's"),
            None => (subnet.name.clone(), "no `nacl`, so its VPC's default one"),
        };
        self.push(
            diagnostic
                .and(place, text)
                .note("AWS puts network ACLs on subnets; every interface in one has the same (N14)")
                .help("remove `nacl` from the interface and write it in the subnet, or remove `subnet`"),
        );
    }

    /// Rules whose CIDR lies inside every subnet the network ACL is on: traffic inside a subnet never meets it (N42).
    fn never_consulted(&mut self, subnets: &BTreeMap<String, Subnet>, nacls: &BTreeMap<String, Arc<Nacl>>) {
        let policy = self.policy;
        for (name, written) in &policy.nacls {
            let on: Vec<_> = subnets.values().filter(|subnet| subnet.nacl == *name).collect();
            let direct = policy.interfaces.values().any(|interface| {
                interface.subnet.is_none() && interface.nacl.as_ref().is_some_and(|nacl| nacl.value == *name)
            });
            let (Some(nacl), false, false) = (nacls.get(name), on.is_empty(), direct) else { continue };
            let lists = [(&nacl.inbound, &written.inbound), (&nacl.outbound, &written.outbound)];
            for (rules, list) in lists {
                for rule in rules {
                    let inside = |subnet: &&Subnet| subnet.cidrs.iter().any(|cidr| cidr.contains(&rule.cidr));
                    let written = list.iter().flat_map(|list| &list.rules).find(|written| written.span == rule.span);
                    let Some(address) = written.and_then(|written| written.address.as_ref()) else { continue };
                    if !on.iter().all(inside) {
                        continue;
                    }
                    let subnet = &on[0].name;
                    let message =
                        format!("rule {} is never consulted: {} lies inside subnet {subnet:?}", rule.number, rule.cidr);
                    let mut diagnostic = Diagnostic::new(&codes::INSIDE_SUBNET, address.span.clone(), message)
                        .at("inside the subnet itself")
                        .note(
                            "a network ACL stands at the border of its subnet; what stays inside never meets it (N42)",
                        )
                        .help("security groups judge inside the subnet too (S3)");
                    if let Some(nacl) = policy.subnets.get(subnet).and_then(|subnet| subnet.nacl.as_ref()) {
                        diagnostic = diagnostic.and(nacl.span.clone(), "the subnet's network ACL");
                    }
                    self.diagnostics.push(diagnostic);
                }
            }
        }
    }

    fn unused(&mut self) {
        let policy = self.policy;
        for (name, nacl) in policy.nacls.iter().filter(|(name, _)| !self.used_nacls.contains(*name)) {
            let message = format!("network ACL {name:?} is used by no subnet and no interface");
            self.diagnostics.push(Diagnostic::new(&codes::UNUSED_NACL, nacl.name.clone(), message).at("unused"));
        }
        for (name, subnet) in policy
            .subnets
            .iter()
            .filter(|(name, subnet)| subnet.external.is_none() && !self.used_subnets.contains(*name))
        {
            let message = format!("subnet {name:?} is named by no interface and no rule");
            self.diagnostics.push(Diagnostic::new(&codes::UNUSED_SUBNET, subnet.name.clone(), message).at("unused"));
        }
        for (name, group) in
            policy.groups.iter().filter(|(name, group)| group.external.is_none() && !self.used_groups.contains(*name))
        {
            let message = format!("security group {name:?} is on no interface, and no other group names it");
            self.diagnostics.push(Diagnostic::new(&codes::UNUSED_GROUP, group.name.clone(), message).at("unused"));
        }
        for (name, list) in policy
            .prefix_lists
            .iter()
            .filter(|(name, list)| list.external.is_none() && !self.used_lists.contains(*name))
        {
            let message = format!("prefix list {name:?} is named by no rule");
            self.diagnostics.push(Diagnostic::new(&codes::UNUSED_PREFIX_LIST, list.name.clone(), message).at("unused"));
        }
    }
}
