//! Tests on the wire: for each a network of two hosts, the policy attached before the one or the other, or both, and real sockets.
//! What cannot be put on a wire here is skipped, and says so.

use std::net::IpAddr;

use ipnet::IpNet;
use nacl_common::Family;

use super::{
    Failure, Result as Outcome_, TestError,
    file::Test,
    flows::{Cell, Judges, Plan, Sites},
    judge::{Followed, Report, as_expected},
};
use crate::{
    analyze::{Flow, Outcome},
    clients::Client,
    harness::{Builder, Exchange, Network, Transport},
    lab::file::{ProbeProtocol, router_address},
    resolve::Interface,
};

/// Connections that are made for a test, one for each stretch of ports and addresses that the rules tell apart. A drop is waited
/// for, so more would take minutes.
const CONNECTIONS: usize = 64;

/// Names of the two hosts.
const HOSTS: [&str; 2] = ["client", "service"];

/// A cell of a test.
struct Try {
    flow: Flow,
    client: (u16, u16),
    service: (u16, u16),
    judges: Judges,
}

pub(super) fn run(sites: &Sites<'_>, plan: &Plan, test: &Test) -> Result<Outcome_, TestError> {
    let protocol = match (test.protocol, test.icmp) {
        (6, _) => ProbeProtocol::Tcp,
        (17, _) => ProbeProtocol::Udp,
        (1, None | Some((8, 0))) | (58, None | Some((128, 0))) => ProbeProtocol::Icmp,
        _ => return Ok(skipped("only tcp, udp and echo requests can be put on the wire")),
    };
    let mut tries: Vec<Try> = Vec::new();
    let all = sites.cells(plan, test, |cell| {
        tries.push(Try { flow: cell.flow, client: cell.client, service: cell.service, judges: cell.judges.clone() });
        Ok(tries.len() <= CONNECTIONS)
    })?;
    if all.is_none() || tries.len() > CONNECTIONS {
        return Ok(skipped(format!(
            "the rules tell more than {CONNECTIONS} stretches of its ports and addresses apart: too many connections for the wire"
        )));
    }
    // Before anything is built.
    let ends = |one: &Try| (one.flow.source, one.flow.destination);
    for one in &tries {
        if networks(one.flow.source, one.flow.destination).is_none() {
            let (one, other) = ends(one);
            return Ok(skipped(format!("no host on a wire can have one of the addresses {one} and {other}")));
        }
        if one.flow.has_ports() && one.flow.dport == 0 {
            return Ok(skipped("nothing can listen on port 0"));
        }
    }
    let mut report = Report::default();
    let mut held = true;
    let mut rest = tries.as_slice();
    while let Some(first) = rest.first() {
        let (own, others) = rest.split_at(rest.iter().take_while(|one| ends(one) == ends(first)).count());
        rest = others;
        let Some(networks) = networks(first.flow.source, first.flow.destination) else { break };
        let mut network = build(test, networks, own)?;
        for one in own {
            network.forget()?;
            let (sport, dport) =
                if matches!(test.protocol, 6 | 17) { (one.flow.sport, one.flow.dport) } else { (0, 0) };
            // The system would pick another for 0.
            let sport = if sport == 0 && matches!(test.protocol, 6 | 17) { one.client.1 } else { sport };
            let family = if one.flow.source.is_ipv4() { Family::V4 } else { Family::V6 };
            let exchange = network.ask(HOSTS[0], HOSTS[1], protocol, family, sport, dport)?;
            let Some(followed) = followed(&exchange) else {
                let message = format!("neither answered nor seen to be denied: {exchange}");
                return Ok(Outcome_::Failed(Box::new(Failure { message, seen: Vec::new(), example: None })));
            };
            let cell = Cell { flow: one.flow, client: one.client, service: one.service, judges: &one.judges };
            held &= as_expected(test, cell.judges, &followed);
            report.add(test, &cell, &followed);
        }
    }
    if held {
        return Ok(Outcome_::Held);
    }
    Ok(Outcome_::Failed(Box::new(report.failure(sites, plan, test))))
}

fn skipped(why: impl Into<String>) -> Outcome_ {
    Outcome_::Skipped(why.into())
}

/// Two hosts, the service's ports, and what judges before each.
fn build(test: &Test, networks: [IpNet; 2], own: &[Try]) -> Result<Network, TestError> {
    let [client, service] = networks.map(|network| network.to_string());
    let os = test.client.kind().unwrap_or(Client::Linux);
    let mut builder: Builder = Network::with().host_of(HOSTS[0], &[&client], os).host(HOSTS[1], &[&service]);
    let transport = if test.protocol == 17 { Transport::Udp } else { Transport::Tcp };
    if matches!(test.protocol, 6 | 17) {
        let mut ports: Vec<u16> = own.iter().map(|one| one.flow.dport).filter(|port| *port != 0).collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            builder = builder.serve(HOSTS[1], transport, port);
        }
    }
    let mut network = builder.up()?;
    let judges = own.first().map(|one| one.judges.clone()).unwrap_or_default();
    for (host, site) in HOSTS.into_iter().zip(judges) {
        if let Some(site) = site {
            // Rules are tested: in monitor mode nothing would be dropped.
            network.attach(host, &Interface { enforce: true, ..site.interface.clone() })?;
        }
    }
    Ok(network)
}

/// What the wire showed, in the words of the other levels. Which of two layers let a packet pass beside the one that decided is told
/// by the programs' events.
fn followed(exchange: &Exchange) -> Option<Followed> {
    let outcome = exchange.outcome()?;
    let mut by: Vec<(usize, crate::compile::Decider)> = Vec::new();
    let of = |host: &str| usize::from(host == HOSTS[1]);
    match exchange.denied() {
        Some(denied) if outcome != Outcome::Works => {
            by.extend(denied.by.first().map(|decider| (of(&denied.host), decider.clone())));
        }
        _ => {
            for judged in &exchange.judged {
                for decider in &judged.by {
                    let one = (of(&judged.host), decider.clone());
                    // A connection has many packets.
                    if !by.contains(&one) {
                        by.push(one);
                    }
                }
            }
        }
    }
    Some(Followed { outcome, by })
}

/// Networks for two hosts in which neither has an address of the router's; `None`: no host can have such an address.
fn networks(client: IpAddr, service: IpAddr) -> Option<[IpNet; 2]> {
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_multicast()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240)
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local()),
    };
    let both = [client, service];
    if !both.iter().all(usable) || client == service {
        return None;
    }
    let of = |address: IpAddr| -> Option<IpNet> {
        let lengths: Vec<u8> = if address.is_ipv4() {
            (24..=30).chain((8..24).rev()).collect()
        } else {
            (64..=126).chain((16..64).rev()).collect()
        };
        lengths.into_iter().filter_map(|length| IpNet::new(address, length).ok()).find(|network| {
            let edges = [network.network(), network.broadcast(), router_address(*network)];
            usable(&edges[2]) && both.iter().all(|address| !edges.contains(address))
        })
    };
    Some([of(client)?, of(service)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_get_networks_that_leave_the_router_an_address() {
        let of = |one: &str, other: &str| networks(one.parse().expect("address"), other.parse().expect("address"));
        assert_eq!(
            of("198.51.100.7", "10.0.1.10"),
            Some(["198.51.100.7/24".parse().expect("network"), "10.0.1.10/24".parse().expect("network")])
        );
        // The first of its network is the router's, so it has to be another network.
        let [client, service] = of("10.0.1.1", "10.0.1.10").expect("both are hosts");
        for network in [client, service] {
            for address in ["10.0.1.1", "10.0.1.10"] {
                assert_ne!(router_address(network).to_string(), address, "{network}");
            }
        }
        assert!(of("2001:db8::1", "2001:db8:1::7").is_some());
        for address in ["127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255"] {
            assert_eq!(of(address, "10.0.1.10"), None, "{address}");
        }
    }
}
