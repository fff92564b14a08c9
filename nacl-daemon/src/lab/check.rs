//! What a lab file must not contradict: its hosts, its hooks, its probes. What is expected of a probe is checked in
//! `expect`.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Lab,
    file::{Answers, Host, Probe, ProbeProtocol, Service, SourcePorts, Transport, router_address},
};
use crate::clients::Client;

type Checked = Result<(), String>;

fn require(good: bool, what: impl Into<String>) -> Checked {
    if good { Ok(()) } else { Err(what.into()) }
}

/// Checks what holds without any probe.
pub(super) fn network(lab: &Lab) -> Checked {
    require(
        lab.name.len() <= 8 && lab.name.chars().all(|c| c.is_ascii_alphanumeric()),
        format!("{:?} is not a name: at most eight letters and digits, it becomes part of namespace names", lab.name),
    )?;
    require(!lab.hooks.is_empty(), "a lab needs a hook")?;
    for (index, hook) in lab.hooks.iter().enumerate() {
        require(lab.hosts.contains_key(hook), format!("hooks names {hook:?}, which is no host"))?;
        require(!lab.hooks[..index].contains(hook), format!("hooks names {hook:?} twice"))?;
    }
    require(!lab.hints.is_empty(), "a lab needs a hint")?;
    hosts(lab)
}

/// Checks the hosts, whatever is asked of them.
pub(crate) fn hosts(lab: &Lab) -> Checked {
    let mut addresses = BTreeSet::new();
    for (name, host) in &lab.hosts {
        host_alone(name, host, &mut addresses)?;
        for service in &host.services {
            self::service(lab, name, service)?;
        }
    }
    Ok(())
}

fn host_alone(name: &str, host: &Host, taken: &mut BTreeSet<IpAddr>) -> Checked {
    // It becomes the router's interface name.
    require(
        (1..=12).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !matches!(name, "router" | "lo"),
        format!(
            "{name:?} is not a host name: at most twelve letters, digits and hyphens, and neither \"router\" nor \"lo\""
        ),
    )?;
    require(
        !host.addresses.is_empty()
            && host.addresses.iter().filter(|address| address.addr().is_ipv4()).count() <= 1
            && host.addresses.iter().filter(|address| address.addr().is_ipv6()).count() <= 1,
        format!("host {name:?} needs one address, at most one a family"),
    )?;
    for address in &host.addresses {
        require(
            address.prefix_len() < address.max_prefix_len() - 1
                && router_address(*address) != address.addr()
                && address.network() != address.addr(),
            format!("{address} of host {name:?} leaves the router no address in its network"),
        )?;
        require(taken.insert(address.addr()), format!("two hosts have the address {}", address.addr()))?;
    }
    if let Some(nat) = &host.nat {
        require(
            nat.inside.prefix_len() < nat.inside.max_prefix_len() - 1
                && router_address(nat.inside) != nat.inside.addr()
                && nat.inside.network() != nat.inside.addr(),
            format!("{} behind the NAT {name:?} leaves the NAT no address in its network", nat.inside),
        )?;
        require(
            host.addresses.len() == 1 && host.addresses[0].addr().is_ipv4() == nat.inside.addr().is_ipv4(),
            format!("the NAT {name:?} has one address, of the family of what is behind it"),
        )?;
        require(host.os == Client::NatGateway, format!("the NAT {name:?} has os = \"nat-gateway\""))?;
        require(host.services.is_empty(), format!("the NAT {name:?} serves nothing"))?;
        require(
            nat.connections > 0 && nat.tolerance > 0.0,
            format!("the NAT {name:?} needs connections and a tolerance"),
        )?;
    }
    Ok(())
}

fn service(lab: &Lab, name: &str, service: &Service) -> Checked {
    let fits = match service.answers {
        Answers::Http | Answers::Banner | Answers::Relay => service.protocol == Transport::Tcp,
        Answers::Echo | Answers::Dns => service.protocol == Transport::Udp,
    };
    let port = service.port;
    require(fits, format!("host {name:?}: port {port} answers in a way its protocol has not"))?;
    require(
        service.to.is_some() == (service.answers == Answers::Relay),
        format!("host {name:?}, port {port}: `to` says where a relay gets its answers, and goes with nothing else"),
    )?;
    let Some(target) = &service.to else { return Ok(()) };
    let served = lab.hosts.get(&target.host).is_some_and(|host| {
        let answers = |other: &&Service| other.protocol == Transport::Tcp && other.port == target.port;
        host.services.iter().find(answers).is_some_and(|other| other.answers != Answers::Relay)
    });
    require(
        served && target.host != name,
        format!("host {name:?}, port {port}: no other host answers at {}:{} by itself", target.host, target.port),
    )
}

/// Checks a probe against the network. `alone`: it is the only one of its step.
pub(super) fn probe(lab: &Lab, probe: &Probe, alone: bool) -> Checked {
    let known = |host: &str| lab.hosts.get(host).ok_or_else(|| format!("there is no host {host:?}"));
    let (from, to) = (known(&probe.from)?, known(&probe.to)?);
    require(probe.from != probe.to, "its ends are one host")?;
    let connections = lab.connections(probe);
    let crossed = connections.iter().all(|connection| lab.crossings(connection.from, connection.to).next().is_some());
    require(crossed, "it crosses no hook: one end must be a host behind a hook")?;
    require(
        connections.iter().all(|connection| connection.from != connection.to)
            && connections.iter().all(|connection| connection.to != probe.from),
        "the relay leads back to who asks",
    )?;
    let family = probe.family.into();
    require(
        [from, to]
            .into_iter()
            .chain(connections.iter().map(|connection| lab.host(connection.to)))
            .all(|host| host.address(family).is_some()),
        "every end needs an address of its family",
    )?;
    require(
        probe.protocol != ProbeProtocol::Sctp || lab.without_wire.is_some(),
        "SCTP has no wire form here; the lab must say so (without_wire)",
    )?;
    require(
        (probe.protocol == ProbeProtocol::Icmp) == (probe.port == 0),
        "a port where the protocol has ports, and only there",
    )?;
    // Without a service the control, the same probe with nothing attached, could never pass.
    require(probe.protocol.transport().is_none() || lab.service(probe).is_some(), "nothing serves that port")?;
    require(!probe.download || probe.protocol == ProbeProtocol::Tcp, "a download is TCP")?;
    if let SourcePorts::These(ports) = &probe.source_ports {
        require(!ports.is_empty() && !ports.contains(&0), "source ports must be ports")?;
        require(probe.protocol != ProbeProtocol::Icmp, "ICMP has no source ports")?;
        require(from.nat.is_none(), "a NAT picks the source port itself")?;
    }
    if let Some(change) = &probe.during {
        require(probe.download, "the policy changes during a download: `during` goes with download = true")?;
        require(alone, "a probe during which the policy changes is alone in its step")?;
        require(
            connections.len() == 1 && !lab.meets_narrow_link(probe),
            "`during` is for a download without relay or narrow link",
        )?;
        require(
            change.policy.is_some() || change.settings != super::file::Settings::default(),
            "`during` changes nothing: give it a policy, a mode or layers",
        )?;
    }
    Ok(())
}

/// Checks what holds of all steps together.
pub(super) fn whole(lab: &Lab) -> Checked {
    require(!lab.steps.is_empty() && !lab.goal.probes.is_empty(), "a lab needs a step and a goal")?;
    require(lab.steps.iter().all(|step| !step.probes.is_empty()), "a step needs a probe")?;
    require(
        lab.goal.probes.iter().all(|probe| probe.during.is_none()),
        "the goal is reached or not: nothing changes during its probes",
    )
}
