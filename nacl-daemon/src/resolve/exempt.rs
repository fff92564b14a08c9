//! What passes unjudged: the services AWS never filters, and a policy's own failsafe entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use nacl_common::{Action, Direction, border::Service};

use super::{
    Exemption, Interface, Protocol, Rule, Subnet,
    build::{Resolver, Subject, key_or_placeholder},
};
use crate::policy::{
    Diagnostic, codes,
    written::{self, Vpc},
};

const TCP: u8 = 6;
const UDP: u8 = 17;

const DNS: &str = "Amazon DNS";
const METADATA: &str = "instance metadata";
const ACTIVATION: &str = "Windows licence activation";
const TIME: &str = "Amazon Time Sync";
const ROUTER: &str = "VPC router";

/// Services at addresses that are the same in every VPC (N43). AWS names services and publishes no tuples, so each is as
/// narrow as its clients allow: its address with the one port it listens on. DNS falls back to TCP where an answer is
/// long; activation is KMS's port; the Time Sync service is reached over the network by NTP only.
const SERVICES: [(&str, u8, u16, &str); 11] = [
    (DNS, UDP, 53, "169.254.169.253"),
    (DNS, TCP, 53, "169.254.169.253"),
    (DNS, UDP, 53, "fd00:ec2::253"),
    (DNS, TCP, 53, "fd00:ec2::253"),
    (METADATA, TCP, 80, "169.254.169.254"),
    (METADATA, TCP, 80, "fd00:ec2::254"),
    ("ECS task metadata", TCP, 80, "169.254.170.2"),
    (ACTIVATION, TCP, 1688, "169.254.169.250"),
    (ACTIVATION, TCP, 1688, "169.254.169.251"),
    (TIME, UDP, 123, "169.254.169.123"),
    (TIME, UDP, 123, "fd00:ec2::123"),
];

fn service(name: &str, protocol: Protocol, port: Option<u16>, address: IpAddr) -> Exemption {
    Exemption {
        failsafe: false,
        name: name.to_owned(),
        service: Service::Remote,
        protocol,
        ports: port.map(|port| (port, port)),
        cidr: address.into(),
        line: 0,
    }
}

/// An address at a fixed place of a range, where the range is that large.
fn nth(range: Ipv4Net, place: u32) -> Option<Ipv4Addr> {
    let address = Ipv4Addr::from(u32::from(range.network()).checked_add(place)?);
    range.contains(&address).then_some(address)
}

fn v4(cidr: &IpNet) -> Option<Ipv4Net> {
    match cidr {
        IpNet::V4(cidr) => Some(*cidr),
        IpNet::V6(_) => None,
    }
}

/// What AWS exempts on an interface. Where its VPC and its subnet are known, these are too:
///
/// - the resolver, at the base of the VPC's first IPv4 CIDR plus two, and at the base of each of the subnet's plus two,
///   which AWS keeps for it as well: UDP and TCP 53, as at its link-local address;
/// - the router, at the base of the subnet's IPv4 CIDR plus one: every protocol, because AWS exempts the address and not
///   a service, and what comes from there is ICMP. On IPv6 the router is a link-local address that only neighbour
///   discovery uses, which passes anyway.
///
/// Without both declared an address like 10.0.1.1 may be anybody's, and is judged.
pub(super) fn services(place: Option<(&Vpc, &Subnet)>) -> Vec<Exemption> {
    let mut found: Vec<_> = SERVICES
        .iter()
        .filter_map(|&(name, protocol, port, address)| {
            Some(service(name, Protocol::Number(protocol), Some(port), address.parse().ok()?))
        })
        .collect();
    let Some((vpc, subnet)) = place else { return found };
    let ranges = || subnet.cidrs.iter().filter_map(v4);
    let primary = vpc.cidrs.iter().find_map(|cidr| v4(&cidr.value));
    let mut resolvers: Vec<_> = primary.into_iter().chain(ranges()).filter_map(|range| nth(range, 2)).collect();
    resolvers.dedup();
    for address in resolvers {
        for protocol in [UDP, TCP] {
            found.push(service(DNS, Protocol::Number(protocol), Some(53), address.into()));
        }
    }
    found.extend(
        ranges().filter_map(|range| nth(range, 1)).map(|address| service(ROUTER, Protocol::All, None, address.into())),
    );
    found
}

impl<'p> Resolver<'p> {
    /// The failsafe entries of an interface.
    pub(super) fn failsafe(&mut self, interface: &'p written::Interface) -> Vec<Exemption> {
        let mut found = Vec::new();
        for entry in &interface.failsafe {
            let end = entry
                .end
                .as_ref()
                .and_then(|(service, address)| Some((*service, self.cidr(&address.value, &address.span)?, address)));
            let (Some(protocol), Some((service, cidr, address))) = (entry.traffic.protocol.as_ref(), end) else {
                self.complete = false;
                continue;
            };
            let matched = self.traffic(&entry.traffic, protocol, Subject::Failsafe, None);
            if matched.ports.is_none()
                && matches!(matched.protocol, Protocol::All | Protocol::Number(TCP | UDP))
                && cidr.prefix_len() == 0
            {
                self.push(
                    Diagnostic::new(
                        &codes::WIDE_FAILSAFE,
                        entry.span.clone(),
                        "the failsafe entry leaves nothing to be filtered",
                    )
                    .at("every port")
                    .and(address.span.clone(), "everybody")
                    .note("what a failsafe entry names passes unjudged, in both directions")
                    .help("name the port and the network that must never be locked out"),
                );
            }
            found.push(Exemption {
                failsafe: true,
                name: "failsafe".to_owned(),
                service,
                protocol: matched.protocol,
                ports: matched.ports,
                cidr,
                line: self.line(entry.span.start),
            });
        }
        found
    }

    /// Rules that deny what AWS never filters: their author believes that it is blocked.
    pub(super) fn never_filtered(&mut self, interfaces: &BTreeMap<String, Interface>) {
        let policy = self.policy;
        let mut said = BTreeSet::new();
        for (name, interface) in interfaces {
            let Some(written) = policy.nacls.get(&interface.nacl.name) else { continue };
            let lists = [
                (Direction::Inbound, &interface.nacl.inbound, &written.inbound),
                (Direction::Outbound, &interface.nacl.outbound, &written.outbound),
            ];
            for (direction, rules, list) in lists {
                for rule in rules.iter().filter(|rule| rule.action == Action::Deny) {
                    let reached = |exemption: &&Exemption| !exemption.failsafe && denies(rule, direction, exemption);
                    let Some(exemption) = interface.exemptions.iter().find(reached) else { continue };
                    let written = list.iter().flat_map(|list| &list.rules).find(|written| written.span == rule.span);
                    let Some(address) = written.and_then(|written| written.address.as_ref()) else { continue };
                    if !said.insert(rule.span.start) {
                        continue;
                    }
                    let message = format!("rule {} cannot deny {}", rule.number, exemption.name);
                    self.push(
                        Diagnostic::new(&codes::NEVER_FILTERED, address.span.clone(), message)
                            .at("passes all the same")
                            .note("AWS filters this neither by network ACLs nor by security groups (N43)")
                            .help(format!(
                                "`exemptions = \"none\"` in `[interface.{}]` leaves it to the rules",
                                key_or_placeholder(name)
                            )),
                    );
                }
            }
        }
    }
}

/// Whether a rule is about an exempt address, and packets that match it can pass as exempt.
fn denies(rule: &Rule, direction: Direction, exemption: &Exemption) -> bool {
    let protocol =
        rule.protocol == Protocol::All || exemption.protocol == Protocol::All || rule.protocol == exemption.protocol;
    // The service's port is the destination port of what goes there; what comes back has the client's.
    let ports = match (direction, rule.ports, exemption.ports) {
        (Direction::Outbound, Some((first, last)), Some((low, high))) => first <= high && low <= last,
        _ => true,
    };
    exemption.cidr.contains(&rule.cidr) && protocol && ports
}
