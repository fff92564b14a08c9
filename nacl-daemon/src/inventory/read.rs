//! A policy → an inventory: references to subnets become CIDRs, what AWS implies is written out, and what AWS has no word for is
//! told. Judges nothing.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use nacl_common::Direction;

use super::{
    Association, Because, Entry, GroupRule, Identity, Inventory, NetworkAcl, NetworkInterface, Note, Peer, Place,
    PrefixEntry, PrefixList, SecurityGroup, Subnet, Traffic, Vpc,
};
use crate::{
    policy::written::{self, At, Aws},
    report::rule::key,
    resolve::{self, Icmp, Layers, Mode, Resolved},
};

/// Reads a policy.
pub fn read(policy: &Resolved) -> Inventory {
    let reader = Reader { policy, written: &policy.written, file: Arc::from(policy.file.as_str()) };
    let mut inventory = Inventory {
        account: reader.written.aws.account.clone(),
        region: reader.written.aws.region.clone(),
        vpcs: reader.vpcs(),
        subnets: reader.subnets(),
        nacls: reader.nacls(),
        groups: reader.groups(),
        prefix_lists: reader.prefix_lists(),
        interfaces: reader.interfaces(),
        notes: reader.notes(),
    };
    // A policy says all there is: what it leaves out is what AWS makes, and no other document is missing.
    let told = inventory.notes.clone();
    inventory = inventory.complete();
    inventory.notes = told;
    inventory
}

struct Reader<'p> {
    policy: &'p Resolved,
    written: &'p written::Policy,
    file: Arc<str>,
}

/// The key of what has this id, or this name in the policy.
fn link(aws: &Aws, name: &str) -> String {
    aws.id.clone().unwrap_or_else(|| name.to_owned())
}

impl Reader<'_> {
    fn place(&self, path: String, span: &Range<usize>) -> Place {
        let before = &self.policy.text.as_bytes()[..span.start.min(self.policy.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Place { file: Arc::clone(&self.file), path, line: u32::try_from(line).ok() }
    }

    fn identity(&self, kind: &str, name: &str, span: &Range<usize>, aws: &Aws) -> Identity {
        let path = if name.is_empty() { kind.to_owned() } else { format!("{kind}.{}", key(name)) };
        let mut names = vec![name.to_owned()];
        names.retain(|name| !name.is_empty());
        names.extend(aws.tags.get("Name").filter(|tag| *tag != name).cloned());
        Identity {
            key: link(aws, if name.is_empty() { kind } else { name }),
            id: aws.id.clone(),
            names,
            description: aws.description.clone(),
            tags: aws.tags.clone(),
            owner: aws.owner.clone(),
            place: self.place(path, span),
        }
    }

    /// The VPC of something: the one that is named, or the only one.
    fn vpc(&self, named: Option<&At<String>>) -> Option<String> {
        let vpcs = &self.written.vpcs;
        let found = match named {
            Some(at) => vpcs.get_key_value(&at.value),
            None => vpcs.iter().next().filter(|_| vpcs.len() == 1),
        };
        found.map(|(name, vpc)| link(&vpc.aws, if name.is_empty() { "vpc" } else { name }))
    }

    fn subnet(&self, name: &str) -> String {
        self.written.subnets.get(name).map_or_else(|| name.to_owned(), |subnet| link(&subnet.aws, name))
    }

    fn group(&self, name: &str) -> String {
        self.written.groups.get(name).map_or_else(|| name.to_owned(), |group| link(&group.aws, name))
    }

    fn vpcs(&self) -> Vec<Vpc> {
        let read = |(name, vpc): (&String, &written::Vpc)| Vpc {
            identity: self.identity("vpc", name, &vpc.name, &vpc.aws),
            cidrs: vpc.cidrs.iter().map(|cidr| cidr.value).collect(),
        };
        self.written.vpcs.iter().map(read).collect()
    }

    fn subnets(&self) -> Vec<Subnet> {
        let read = |(name, subnet): (&String, &written::Subnet)| Subnet {
            identity: self.identity("subnet", name, &subnet.name, &subnet.aws),
            vpc: self.vpc(subnet.vpc.as_ref()),
            cidrs: subnet.cidrs.iter().map(|cidr| cidr.value).collect(),
        };
        self.written.subnets.iter().map(read).collect()
    }

    fn nacls(&self) -> Vec<NetworkAcl> {
        let mut found = Vec::new();
        for (name, nacl) in &self.written.nacls {
            let identity = self.identity("nacl", name, &nacl.name, &nacl.aws);
            // A subnet that is only named has what it says, and nothing by default.
            let on = self.policy.subnets.values().filter(|subnet| subnet.nacl == *name).filter(|subnet| {
                let written = &self.written.subnets[&subnet.name];
                written.external.is_none() || written.nacl.is_some()
            });
            let subnets = on.map(|subnet| Association { subnet: self.subnet(&subnet.name), id: None }).collect();
            let mut entries = Vec::new();
            if let Some(resolved) = self.policy.nacls.get(name) {
                for (direction, rules) in
                    [(Direction::Inbound, &resolved.inbound), (Direction::Outbound, &resolved.outbound)]
                {
                    entries.extend(rules.iter().map(|rule| self.entry(&identity, direction, rule)));
                }
            }
            let vpc = self.vpc(nacl.vpc.as_ref());
            found.push(NetworkAcl { identity, vpc, default: nacl.default.is_some(), subnets, entries });
        }
        found
    }

    fn entry(&self, of: &Identity, direction: Direction, rule: &resolve::Rule) -> Entry {
        let path = format!("{}.{} rule {}", of.place.path, direction.name(), rule.number);
        Entry {
            direction,
            number: rule.number,
            action: rule.action,
            traffic: Traffic { protocol: rule.protocol, ports: rule.ports, icmp: types(rule.icmp) },
            cidr: rule.cidr,
            place: self.place(path, &rule.span),
        }
    }

    /// Groups that are defined, those only named, and AWS's default one where somebody has it.
    fn groups(&self) -> Vec<SecurityGroup> {
        let nothing = (0..0, Aws::default());
        let implied = self.policy.groups.keys().filter(|name| !self.written.groups.contains_key(*name));
        let mut found = Vec::new();
        for name in self.written.groups.keys().chain(implied) {
            let written = self.written.groups.get(name);
            let (span, aws) = written.map_or((&nothing.0, &nothing.1), |group| (&group.name, &group.aws));
            let identity = self.identity("security_group", name, span, aws);
            let rules = self.policy.groups.get(name).map(|group| {
                let lists = [(Direction::Inbound, &group.inbound), (Direction::Outbound, &group.outbound)];
                let all =
                    lists.into_iter().flat_map(|(direction, rules)| rules.iter().map(move |rule| (direction, rule)));
                all.map(|(direction, rule)| self.rule(&identity, written, direction, rule)).collect()
            });
            let at_aws = match written {
                Some(group) => group.aws.name.clone(),
                None => Some(name.clone()),
            };
            let vpc = self.vpc(written.and_then(|group| group.vpc.as_ref()));
            found.push(SecurityGroup { identity, name: at_aws, vpc, rules });
        }
        found
    }

    fn rule(
        &self,
        of: &Identity,
        group: Option<&written::Group>,
        direction: Direction,
        rule: &resolve::GroupRule,
    ) -> GroupRule {
        let list = group.and_then(|group| match direction {
            Direction::Inbound => group.inbound.as_ref(),
            Direction::Outbound => group.outbound.as_ref(),
        });
        let written = list.and_then(|list| list.rules.iter().find(|written| written.span == rule.span));
        let peer = match &rule.peer {
            resolve::Peer::Cidr(cidr) => Peer::Cidr(*cidr),
            resolve::Peer::PrefixList(name) => {
                let list = self.written.prefix_lists.get(name);
                Peer::PrefixList(list.map_or_else(|| name.clone(), |list| link(&list.aws, name)))
            }
            // Whose it is and in which VPC is told of the group, see `complete`.
            resolve::Peer::Group(name) => Peer::Group {
                group: self.group(name),
                owner: None,
                vpc: None,
                peering: written.and_then(|written| written.peering.clone()),
            },
        };
        let path = format!("{}.{}", of.place.path, direction.name());
        GroupRule {
            direction,
            traffic: Traffic { protocol: rule.protocol, ports: rule.ports, icmp: types(rule.icmp) },
            peer,
            id: written.and_then(|written| written.id.clone()),
            description: rule.description.clone(),
            tags: written.map(|written| written.tags.clone()).unwrap_or_default(),
            place: self.place(path, &rule.span),
        }
    }

    fn prefix_lists(&self) -> Vec<PrefixList> {
        let read = |(name, list): (&String, &written::PrefixList)| {
            let entries = list.entries.iter();
            let entries = entries
                .map(|entry| PrefixEntry { cidr: entry.cidr.value, description: entry.description.clone() })
                .collect();
            PrefixList {
                identity: self.identity("prefix_list", name, &list.name, &list.aws),
                name: list.aws.name.clone(),
                family: list.family.as_ref().map(|family| family.value),
                max_entries: list.max_entries.as_ref().map(|most| most.value),
                entries: list.external.is_none().then_some(entries),
            }
        };
        self.written.prefix_lists.iter().map(read).collect()
    }

    /// Interfaces elsewhere, and those of this machine.
    fn interfaces(&self) -> Vec<NetworkInterface> {
        let groups = |groups: Option<&written::Names>| {
            groups.into_iter().flat_map(|groups| &groups.names).map(|name| self.group(&name.value)).collect()
        };
        let elsewhere = self.written.enis.iter().map(|(name, eni)| NetworkInterface {
            identity: self.identity("eni", name, &eni.name, &eni.aws),
            subnet: eni.subnet.as_ref().map(|subnet| self.subnet(&subnet.value)),
            vpc: eni.vpc.as_ref().and_then(|vpc| self.vpc(Some(vpc))),
            addresses: eni.addresses.iter().map(|address| address.value).collect(),
            groups: groups(eni.groups.as_ref()),
        });
        let here = self.written.interfaces.iter().map(|(name, interface)| {
            let mut identity = self.identity("interface", name, &interface.name, &interface.aws);
            if interface.aws.id.is_none() {
                // An interface elsewhere may have the same name.
                identity.key = format!("interface.{name}");
            }
            NetworkInterface {
                identity,
                subnet: interface.subnet.as_ref().map(|subnet| self.subnet(&subnet.value)),
                vpc: interface.vpc.as_ref().and_then(|vpc| self.vpc(Some(vpc))),
                addresses: self.policy.interfaces.get(name).map(|found| found.addresses.clone()).unwrap_or_default(),
                groups: groups(interface.groups.as_ref()),
            }
        });
        elsewhere.chain(here).collect()
    }

    /// What AWS has no word for.
    fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        let mut note = |because, place: Place, message: String| notes.push(Note { because, place, message });
        for (name, nacl) in &self.policy.nacls {
            let Some(written) = self.written.nacls.get(name) else { continue };
            let rules = nacl.inbound.iter().chain(&nacl.outbound);
            let described = rules.filter(|rule| rule.description.is_some()).count();
            if described > 0 {
                let place = self.place(format!("nacl.{}", key(name)), &written.name);
                let message =
                    format!("rules of network ACLs have no description at AWS (N21): {described} are left out");
                note(Because::NotExpressible, place, message);
            }
        }
        for (name, written) in &self.written.interfaces {
            let Some(interface) = self.policy.interfaces.get(name) else { continue };
            let tracking = interface.tracking != resolve::Tracking::default();
            let differs: BTreeMap<&str, bool> = BTreeMap::from([
                ("mode = \"stateful\"", interface.mode == Mode::Stateful),
                ("layers", interface.layers != Layers::Both && written.layers.is_some()),
                ("enforce = false", !interface.enforce),
                ("exemptions = \"none\"", !interface.aws),
                ("failsafe", !written.failsafe.is_empty()),
                ("non_ip = \"drop\"", interface.drop_non_ip),
                ("nacl", written.nacl.is_some() && written.subnet.is_none()),
                ("no security_groups", written.groups.as_ref().is_none_or(|groups| groups.names.is_empty())),
                ("[tracking]", tracking),
            ]);
            let said: Vec<_> = differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect();
            if !said.is_empty() {
                let place = self.place(format!("interface.{}", key(name)), &written.name);
                let message = format!("AWS has no such thing on an interface, and it is left out: {}", said.join(", "));
                note(Because::NotExpressible, place, message);
            }
        }
        notes
    }
}

/// An ICMP type as an inventory has it.
fn types(icmp: Option<Icmp>) -> Option<(Option<u8>, Option<u8>)> {
    icmp.map(|icmp| (Some(icmp.kind), icmp.code))
}
