//! Rules, protocols and endpoints in the words of the policy language.

use std::net::IpAddr;

use nacl_common::{Direction, Family, Packet};

use crate::{
    analyze, policy,
    resolve::{Protocol, Rule},
};

/// The usual name of a protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    policy::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// The rule as one would write it in a policy.
pub fn rule_toml(rule: &Rule, direction: Direction) -> String {
    let protocol = match rule.protocol {
        Protocol::All => "\"all\"".to_owned(),
        Protocol::Number(number) => {
            policy::protocol_name(number).map_or_else(|| number.to_string(), |name| format!("{name:?}"))
        }
    };
    let ports = match rule.ports {
        None => String::new(),
        Some((first, last)) if first == last => format!(", ports = {first}"),
        Some((first, last)) => format!(", ports = \"{first}-{last}\""),
    };
    let icmp = match rule.icmp {
        None => String::new(),
        Some(icmp) => match icmp.code {
            None => format!(", icmp = {{ type = {} }}", icmp.kind),
            Some(code) => format!(", icmp = {{ type = {}, code = {code} }}", icmp.kind),
        },
    };
    let remote = match direction {
        Direction::Inbound => "source",
        Direction::Outbound => "destination",
    };
    let cidr = rule.reference.clone().unwrap_or_else(|| rule.cidr.to_string());
    let action = rule.action.name();
    format!(
        "{{ rule = {}, action = \"{action}\", protocol = {protocol}{ports}{icmp}, {remote} = \"{cidr}\" }}",
        rule.number
    )
}

/// An address of a packet, with the port where the protocol has ports: `10.0.1.10:443`, `[2001:db8::1]:443`.
pub fn endpoint(packet: &Packet, address: [u64; 2], port: u16) -> String {
    let address = analyze::address(packet.family, address);
    if !matches!(packet.protocol, 6 | 17) {
        return address.to_string();
    }
    debug_assert_eq!(address.is_ipv4(), packet.family == Family::V4);
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}
