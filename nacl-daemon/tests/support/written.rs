//! Rules written in a line, for tests by hand.

use std::sync::Arc;

use ipnet::IpNet;
use nacl_common::Action;
use nacl_daemon::resolve::{Group, GroupRule, Icmp, Interface, Nacl, Peer, Protocol, Rule};

type What = (Protocol, Option<(u16, u16)>, Option<Icmp>);

/// `tcp 80`, `udp 1-2`, `icmp 8`, `icmp all`, `all`, `47`, and what follows.
fn what<'a>(words: &mut impl Iterator<Item = &'a str>) -> What {
    let protocol = words.next().expect("a protocol");
    let number = match protocol {
        "all" => return (Protocol::All, None, None),
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" => 58,
        number => return (Protocol::Number(number.parse().expect("a protocol")), None, None),
    };
    let detail = words.next().expect("ports or a type");
    if detail == "all" {
        return (Protocol::Number(number), None, None);
    }
    let (first, last) = detail.split_once(['-', '/']).unwrap_or((detail, detail));
    let value = |text: &str| text.parse::<u16>().expect("a number");
    if matches!(number, 6 | 17) {
        return (Protocol::Number(number), Some((value(first), value(last))), None);
    }
    let code = detail.contains('/').then(|| value(last) as u8);
    (Protocol::Number(number), None, Some(Icmp { kind: value(first) as u8, code }))
}

fn cidr(text: &str) -> IpNet {
    text.parse().expect("a CIDR")
}

/// `100 allow tcp 80 0.0.0.0/0`.
pub fn rule(text: &str) -> Rule {
    let mut words = text.split(' ');
    let number = words.next().and_then(|number| number.parse().ok()).expect("a number");
    let action = match words.next() {
        Some("allow") => Action::Allow,
        Some("deny") => Action::Deny,
        other => panic!("allow or deny, not {other:?}"),
    };
    let (protocol, ports, icmp) = what(&mut words);
    let cidr = cidr(words.next().expect("a CIDR"));
    Rule { number, action, protocol, ports, icmp, cidr, reference: None, description: None, line: 0, span: 0..0 }
}

/// A network ACL.
pub fn nacl(inbound: &[&str], outbound: &[&str]) -> Arc<Nacl> {
    let rules = |list: &[&str]| list.iter().map(|text| rule(text)).collect();
    Arc::new(Nacl { name: "written".into(), id: None, inbound: rules(inbound), outbound: rules(outbound) })
}

/// `tcp 80 0.0.0.0/0`; with `pl:NAME` or `sg:NAME` before them, several CIDRs.
pub fn group_rule(text: &str) -> GroupRule {
    let mut words = text.split(' ').peekable();
    let (protocol, ports, icmp) = what(&mut words);
    let name = words.next_if(|word| word.contains("pl:") || word.contains("sg:"));
    let cidrs: Vec<_> = words.map(cidr).collect();
    let peer = match name.and_then(|name| name.split_once(':')) {
        Some(("pl", name)) => Peer::PrefixList(name.to_owned()),
        Some((_, name)) => Peer::Group(name.to_owned()),
        None => Peer::Cidr(cidrs[0]),
    };
    GroupRule { icmp, ..GroupRule::new(protocol, ports, peer, cidrs) }
}

/// A security group.
pub fn group(name: &str, inbound: &[&str], outbound: &[&str]) -> Arc<Group> {
    let rules = |list: &[&str]| list.iter().map(|text| group_rule(text)).collect();
    Arc::new(Group { name: name.into(), id: None, inbound: rules(inbound), outbound: rules(outbound) })
}

/// A network ACL that lets everything pass, as AWS's default one (N9, N10).
pub fn open_nacl() -> Arc<Nacl> {
    let all = ["100 allow all 0.0.0.0/0", "101 allow all ::/0"];
    nacl(&all, &all)
}

/// An interface with this network ACL and these groups.
pub fn interface(nacl: Arc<Nacl>, groups: Option<Vec<Arc<Group>>>) -> Interface {
    Interface { groups, ..Interface::new("eth0", nacl) }
}
