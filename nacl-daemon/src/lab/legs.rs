//! Which hooks the packets of a probe cross, and in what order. Follows from the lab's hosts alone; no policy is asked.

use std::net::IpAddr;

use nacl_common::Direction;

use super::{
    Lab, Outcome,
    file::{Probe, Service},
};

/// One connection of a probe. Through a relay there are two, the relay being the client of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection<'a> {
    /// Who asks.
    pub from: &'a str,
    /// Who is asked.
    pub to: &'a str,
    /// Destination port; 0 for ICMP.
    pub port: u16,
}

/// One packet's way through one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage<'a> {
    /// Its connection: 0, or 1 for the one a relay makes.
    pub connection: usize,
    /// Whether it goes back to who asked.
    pub reply: bool,
    /// The host behind the hook.
    pub hook: &'a str,
    /// Which way it goes through.
    pub direction: Direction,
}

impl Lab {
    /// Whether a hook sits before this host.
    pub fn hooked(&self, host: &str) -> bool {
        self.hooks.iter().any(|hook| hook == host)
    }

    /// The service a probe asks, if there is one.
    pub fn service(&self, probe: &Probe) -> Option<&Service> {
        let transport = probe.protocol.transport()?;
        let services = &self.hosts.get(&probe.to)?.services;
        services.iter().find(|service| service.protocol == transport && service.port == probe.port)
    }

    /// The connections of a probe, in the order they are made.
    pub fn connections<'a>(&'a self, probe: &'a Probe) -> Vec<Connection<'a>> {
        let mut connections = vec![Connection { from: &probe.from, to: &probe.to, port: probe.port }];
        if let Some(target) = self.service(probe).and_then(|service| service.to.as_ref()) {
            connections.push(Connection { from: &probe.to, to: &target.host, port: target.port });
        }
        connections
    }

    /// Source and destination address of a connection of a probe.
    pub fn ends(&self, probe: &Probe, connection: Connection<'_>) -> (IpAddr, IpAddr) {
        let address = |host: &str| {
            self.host(host)
                .address(probe.family.into())
                .unwrap_or_else(|| unreachable!("checked when the lab was loaded"))
        };
        (address(connection.from), address(connection.to))
    }

    /// The hooks that a packet from one host to another crosses, in order. The hook before a host is crossed outbound by
    /// what the host sends and inbound by what it receives.
    pub fn crossings<'a>(&'a self, from: &'a str, to: &'a str) -> impl Iterator<Item = (&'a str, Direction)> {
        [(from, Direction::Outbound), (to, Direction::Inbound)].into_iter().filter(|(host, _)| self.hooked(host))
    }

    /// Every crossing of a probe that ends like this, as its message goes: the request, what a relay makes of it, the answer
    /// to the relay, the answer. A relay whose own handshake fails makes nothing of the request.
    pub fn passages<'a>(&'a self, probe: &'a Probe, outcome: Outcome) -> Vec<Passage<'a>> {
        let connections = self.connections(probe);
        let handshake = matches!(outcome, Outcome::RequestDropped | Outcome::ReplyDropped);
        let used = if handshake { &connections[..1] } else { &connections[..] };
        let leg = |connection: usize, reply: bool| {
            let Connection { from, to, .. } = used[connection];
            let (from, to) = if reply { (to, from) } else { (from, to) };
            self.crossings(from, to).map(move |(hook, direction)| Passage { connection, reply, hook, direction })
        };
        let there = (0..used.len()).flat_map(|connection| leg(connection, false));
        there.chain((0..used.len()).rev().flat_map(|connection| leg(connection, true))).collect()
    }

    /// The crossings of a download that goes on after a change: data from who was asked, then what acknowledges it.
    pub fn passages_after<'a>(&'a self, probe: &'a Probe) -> Vec<Passage<'a>> {
        let both = self.passages(probe, Outcome::ReplyDropped);
        let (there, back): (Vec<_>, Vec<_>) = both.into_iter().partition(|passage| !passage.reply);
        back.into_iter().chain(there).collect()
    }

    /// Whether the answer to this probe meets a narrower link than its sender knows of.
    pub fn meets_narrow_link(&self, probe: &Probe) -> bool {
        probe.download && self.host(&probe.from).path_mtu.is_some()
    }
}
