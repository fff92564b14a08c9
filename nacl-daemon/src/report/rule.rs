//! Rules, protocols and endpoints in the words of the policy language.

use std::{borrow::Cow, net::IpAddr};

use nacl_common::{Direction, Family, Packet};

use crate::{
    analyze, policy,
    resolve::{GroupRule, Icmp, Peer, Protocol, Rule},
};

/// The usual name of a protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    policy::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// The rule as one would write it in a policy.
pub fn rule_toml(rule: &Rule, direction: Direction) -> String {
    let matches = matches_toml(rule.protocol, rule.ports, rule.icmp);
    let remote = rule.reference.clone().unwrap_or_else(|| rule.cidr.to_string());
    format!(
        "{{ rule = {}, action = \"{}\", {matches}, {} = {} }}",
        rule.number,
        rule.action.name(),
        remote_key(direction),
        policy::quoted(&remote)
    )
}

/// A rule of a security group, likewise.
pub fn group_rule_toml(rule: &GroupRule, direction: Direction) -> String {
    let matches = matches_toml(rule.protocol, rule.ports, rule.icmp);
    let referred = |kind: &str, name: &str| {
        if name.starts_with(&format!("{kind}-")) { name.to_owned() } else { format!("{kind}:{name}") }
    };
    let remote = match &rule.peer {
        Peer::Cidr(cidr) => cidr.to_string(),
        Peer::PrefixList(name) => referred("pl", name),
        Peer::Group(name) => referred("sg", name),
    };
    format!("{{ {matches}, {} = {} }}", remote_key(direction), policy::quoted(&remote))
}

/// Protocol, ports and ICMP type of a rule, likewise.
pub fn matches_toml(protocol: Protocol, ports: Option<(u16, u16)>, icmp: Option<Icmp>) -> String {
    let protocol = match protocol {
        Protocol::All => "\"all\"".to_owned(),
        Protocol::Number(number) => {
            policy::protocol_name(number).map_or_else(|| number.to_string(), |name| format!("{name:?}"))
        }
    };
    let ports = match ports {
        None => String::new(),
        Some((first, last)) if first == last => format!(", ports = {first}"),
        Some((first, last)) => format!(", ports = \"{first}-{last}\""),
    };
    let icmp = match icmp {
        None => String::new(),
        Some(icmp) => match icmp.code {
            None => format!(", icmp = {{ type = {} }}", icmp.kind),
            Some(code) => format!(", icmp = {{ type = {}, code = {code} }}", icmp.kind),
        },
    };
    format!("protocol = {protocol}{ports}{icmp}")
}

/// The key of a rule's address.
pub const fn remote_key(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "source",
        Direction::Outbound => "destination",
    }
}

/// A name as a key of a policy, in quotes where it needs them: `[nacl."front door"]`.
pub fn key(name: &str) -> Cow<'_, str> {
    let bare = |sign: char| sign.is_ascii_alphanumeric() || matches!(sign, '-' | '_');
    if !name.is_empty() && name.chars().all(bare) { name.into() } else { toml_edit::Key::new(name).to_string().into() }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::resolve::{NoHost, Resolved};

    fn load(text: &str) -> Resolved {
        policy::load("names", text, &NoHost).resolved.expect("a policy")
    }

    /// What is proposed is to be pasted.
    #[test]
    fn names_that_need_quotes_get_them() {
        let head = "version = 1\n[interface.e]\nnacl = \"we b\"\n[subnet.'a\"b']\ncidrs = [\"10.0.0.0/8\"]\n";
        let rule = "{ rule = 1, action = \"deny\", protocol = \"all\", source = 'subnet:a\"b' }";
        let resolved = load(&format!("{head}[nacl.\"we b\"]\noutbound = []\ninbound = [{rule}]\n"));
        let nacl = Arc::clone(&resolved.nacls["we b"]);
        let (name, written) = (key(&nacl.name), rule_toml(&nacl.inbound[0], Direction::Inbound));
        let again = load(&format!("{head}[nacl.{name}]\noutbound = []\ninbound = [{written}]\n"));
        assert_eq!(again.nacls["we b"].inbound[0].reference, nacl.inbound[0].reference);
        assert_eq!(key("web-1"), "web-1");
    }
}
