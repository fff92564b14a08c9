//! What a differential run really met: a table for the reader, and a floor below which the run fails, because a case that
//! is never generated is never tested.

use std::{collections::BTreeMap, fmt};

use nacl_common::border::Service;
use nacl_daemon::{
    compile::Compiled,
    resolve::{Interface, Layers, Peer, Protocol, Rule},
};

use super::{
    cap,
    case::{Case, Flaw, Part},
    oracle::{Decider, Expected},
};

/// Counts by (group, case).
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    hits: BTreeMap<(&'static str, &'static str), u64>,
    pairs: u64,
}

impl Coverage {
    /// Books one case.
    pub fn hit(&mut self, group: &'static str, name: &'static str) {
        *self.hits.entry((group, name)).or_default() += 1;
    }

    /// Books one packet, of which nothing is known yet.
    pub fn count(&mut self) {
        self.pairs += 1;
    }

    /// Adds another table.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        for (key, count) in &other.hits {
            *self.hits.entry(*key).or_default() += count;
        }
    }

    /// Books one packet and what was expected of it.
    pub fn book(&mut self, interface: &Interface, case: &Case, expected: Expected) {
        self.pairs += 1;
        self.hit("family", if case.v6() { "IPv6" } else { "IPv4" });
        self.hit("direction", case.direction.name());
        self.hit("reason", expected.reason);
        self.hit(
            "part",
            match (case.part, case.hidden) {
                (Part::Whole, _) => "whole",
                (Part::Atomic, _) => "atomic fragment",
                (Part::First, _) => "first fragment",
                (Part::Later, None) => "later fragment",
                (Part::Later, Some(_)) => "later fragment, protocol hidden",
            },
        );
        self.hit(
            "flaw",
            match case.flaw {
                Flaw::None => "none",
                Flaw::Cut(_) => "cut",
                Flaw::Version => "version",
                Flaw::HeaderLength => "header length",
                Flaw::TotalLength => "total length",
                Flaw::Payload(_) => "payload length",
                Flaw::OffsetOne => "offset 1",
                Flaw::Extensions => "nine extension headers",
                Flaw::TwoFragments => "two fragment headers",
                Flaw::Tags => "three tags",
            },
        );
        self.hit("VLAN tags", ["0", "1", "2"][usize::from(case.tags)]);
        if !case.extensions.is_empty() {
            self.hit("header", "IPv6 extension headers");
        }
        if case.options > 0 {
            self.hit("header", "IPv4 options");
        }
        self.hit("layers", layers(interface));
        self.layer("decides", case, interface, expected.by);
        self.layer("passed before", case, interface, expected.also);
        let rules = interface.nacl.rules(case.direction);
        let size = match rules.len() {
            0 => "0",
            1 => "1",
            2..=19 => "2 to 19",
            20..=40 => "20 to 40",
            41..=200 => "41 to 200",
            _ => "more than 200",
        };
        self.hit("rules in the list", size);
        if let Some(number) = expected.rule() {
            let at = rules.iter().position(|rule| rule.number == number).expect("the rule is in the list");
            let place = if at == 0 {
                "first"
            } else if at + 1 == rules.len() {
                "last"
            } else {
                "between"
            };
            self.hit("place of the rule", place);
            self.hit("action", if expected.allow { "allow" } else { "deny" });
            self.rule(&rules[at], case);
        }
    }

    /// Books which form of list was asked, where one was.
    pub fn form(&mut self, compiled: &Compiled, case: &Case, expected: Expected) {
        let name = match expected.by {
            Decider::Nacl(_) => "network ACL rule",
            Decider::NaclStar => "network ACL *",
            _ => return,
        };
        let form = cap::form(compiled, case);
        self.hit("form", form);
        if form == "rows" {
            self.hit("rows decide", name);
        }
    }

    /// How often something was met.
    pub fn hits(&self, group: &'static str, name: &'static str) -> u64 {
        self.hits.get(&(group, name)).copied().unwrap_or_default()
    }

    fn layer(&mut self, what: &'static str, case: &Case, interface: &Interface, by: Decider) {
        let name = match by {
            Decider::Nobody => "nobody",
            Decider::Nacl(_) => "network ACL rule",
            Decider::NaclStar => "network ACL *",
            Decider::SameSubnet => "same subnet",
            Decider::GroupStar => "no group rule",
            Decider::Tracked => "connection",
            Decider::Exemption(place) => {
                let exemption = &interface.exemptions[place];
                match (exemption.failsafe, exemption.service) {
                    (false, Service::Remote) => "AWS service there",
                    (false, Service::Local) => "AWS service here",
                    (true, Service::Remote) => "failsafe there",
                    (true, Service::Local) => "failsafe here",
                }
            }
            Decider::Group(group, position) => {
                let groups = interface.groups.as_deref().unwrap_or_default();
                let rule = &groups[group].rules(case.direction)[usize::from(position) - 1];
                self.hit("place of the group", if group == 0 { "first" } else { "further" });
                match &rule.peer {
                    Peer::Cidr(cidr) if cidr.prefix_len() == 0 => "group rule, open to all",
                    Peer::Cidr(_) => "group rule, CIDR",
                    Peer::PrefixList(_) => "group rule, prefix list",
                    Peer::Group(_) => "group rule, group",
                }
            }
        };
        self.hit(what, name);
    }

    fn rule(&mut self, rule: &Rule, case: &Case) {
        let icmp = if case.v6() { 58 } else { 1 };
        let kind = match (rule.protocol, rule.ports, rule.icmp) {
            (Protocol::All, ..) => "all",
            (Protocol::Number(6), None | Some((0, 65535)), _) => "tcp, all ports",
            (Protocol::Number(6), Some((first, last)), _) if first == last => "tcp, one port",
            (Protocol::Number(6), ..) => "tcp, range",
            (Protocol::Number(17), None | Some((0, 65535)), _) => "udp, all ports",
            (Protocol::Number(17), Some((first, last)), _) if first == last => "udp, one port",
            (Protocol::Number(17), ..) => "udp, range",
            (Protocol::Number(number), _, None) if number == icmp => "icmp, all types",
            (Protocol::Number(number), _, Some(icmp_match)) if number == icmp => match icmp_match.code {
                None => "icmp, one type",
                Some(_) => "icmp, type and code",
            },
            (Protocol::Number(1 | 58), ..) => "icmp of the other family",
            _ => "other protocol",
        };
        self.hit("kind of rule", kind);
        if let (Some((first, last)), true) = (rule.ports, case.has_ports()) {
            match case.dport {
                port if port == first && first == last => self.hit("port", "only port"),
                port if port == first => self.hit("port", "first of range"),
                port if port == last => self.hit("port", "last of range"),
                _ => self.hit("port", "inside the range"),
            }
        }
        let length = rule.cidr.prefix_len();
        let whole = rule.cidr.max_prefix_len();
        self.hit(
            "prefix",
            if length == 0 {
                "/0"
            } else if length == whole {
                "one address"
            } else {
                "between"
            },
        );
        if length < whole {
            let edge = if case.remote == rule.cidr.network() {
                "first address"
            } else if case.remote == rule.cidr.broadcast() {
                "last address"
            } else {
                "inside"
            };
            self.hit("address", edge);
        }
    }

    /// The entries below one in `rare` pairs.
    pub fn rare(&self, rare: u64) -> Vec<(&'static str, &'static str, u64)> {
        let low = |(_, count): &(&(_, _), &u64)| **count < self.pairs / rare;
        self.hits.iter().filter(low).map(|((group, name), count)| (*group, *name, *count)).collect()
    }

    /// How many different entries were hit.
    pub fn kinds(&self) -> usize {
        self.hits.len()
    }

    /// Packets judged.
    pub fn pairs(&self) -> u64 {
        self.pairs
    }
}

fn layers(interface: &Interface) -> &'static str {
    match (interface.layers, &interface.groups) {
        (Layers::Both, None) => "both, no groups",
        (Layers::Both, Some(_)) => "both",
        (Layers::Nacl, None) => "network ACL, no groups",
        (Layers::Nacl, Some(_)) => "network ACL",
        (Layers::Groups, None) => "groups, and none there",
        (Layers::Groups, Some(_)) => "groups",
    }
}

impl fmt::Display for Coverage {
    #[expect(clippy::cast_precision_loss, reason = "percentages with two decimals")]
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} (policy, packet) pairs", self.pairs)?;
        let mut last = "";
        for ((group, name), count) in &self.hits {
            let heading = if *group == last { "" } else { group };
            last = group;
            writeln!(
                out,
                "  {heading:<18} {name:<34} {count:>9}  {:>6.2} %",
                *count as f64 * 100.0 / self.pairs as f64
            )?;
        }
        Ok(())
    }
}
