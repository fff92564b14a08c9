//! What was written is what is resolved, with AWS's defaults and normalisations.

use std::{fmt::Write, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nacl_common::Action;
use nacl_daemon::{
    policy,
    report::diagnostics,
    resolve::{Host, Icmp, NoHost, Protocol, Resolved, Rule, Side, Xdp},
};
use proptest::{collection::btree_map, prelude::*};

pub(super) fn resolved_by(text: &str, host: &dyn Host) -> Resolved {
    let outcome = policy::load("test.toml", text, host);
    outcome
        .resolved
        .unwrap_or_else(|| panic!("\n{}", diagnostics::render("test.toml", text, &outcome.diagnostics, false)))
}

pub(super) fn resolved(text: &str) -> Resolved {
    resolved_by(text, &NoHost)
}

/// The only inbound rule of a policy that consists of it.
fn rule(body: &str) -> Rule {
    let text = format!(
        "version = 1\nnacl.web.outbound = []\nnacl.web.inbound = [\n{{ rule = 7, action = \"allow\", {body} }} ]\ninterface.eth0.nacl = \"web\"\n"
    );
    let resolved = resolved(&text);
    let [rule] = &resolved.nacls["web"].inbound[..] else { panic!("one rule is expected") };
    assert_eq!(rule.line, 4);
    assert_eq!(&text[rule.span.clone()], format!("{{ rule = 7, action = \"allow\", {body} }}"));
    rule.clone()
}

pub(super) fn codes(text: &str) -> Vec<&'static str> {
    policy::load("test.toml", text, &NoHost).diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

#[test]
fn protocols_have_names_numbers_and_all() {
    for (written, expected) in [
        ("\"tcp\"", Protocol::Number(6)),
        ("\"TCP\"", Protocol::Number(6)),
        ("6", Protocol::Number(6)),
        ("\"17\"", Protocol::Number(17)),
        ("\"icmpv6\"", Protocol::Number(58)),
        ("\"ipv6-icmp\"", Protocol::Number(58)),
        ("\"sctp\"", Protocol::Number(132)),
        ("\"gre\"", Protocol::Number(47)),
        ("\"esp\"", Protocol::Number(50)),
        ("\"ah\"", Protocol::Number(51)),
        ("0", Protocol::Number(0)),
        ("255", Protocol::Number(255)),
        ("\"all\"", Protocol::All),
        ("\"-1\"", Protocol::All),
        ("-1", Protocol::All),
    ] {
        assert_eq!(rule(&format!("protocol = {written}, source = \"10.0.0.0/8\"")).protocol, expected, "{written}");
    }
}

#[test]
fn ports_have_numbers_ranges_and_names() {
    for (written, expected) in [
        ("80", Some((80, 80))),
        ("0", Some((0, 0))),
        ("\"65535\"", Some((65535, 65535))),
        ("\"1024-65535\"", Some((1024, 65535))),
        ("\" 20 - 21 \"", Some((20, 21))),
        ("\"https\"", Some((443, 443))),
        ("\"SSH\"", Some((22, 22))),
        ("\"dns\"", Some((53, 53))),
        ("\"mysql\"", Some((3306, 3306))),
        ("\"postgresql\"", Some((5432, 5432))),
        ("\"rdp\"", Some((3389, 3389))),
        ("\"ephemeral:linux\"", Some((32768, 60999))),
        ("\"ephemeral:linux-old\"", Some((32768, 61000))),
        ("\"ephemeral:windows\"", Some((49152, 65535))),
        ("\"ephemeral:windows-xp\"", Some((1025, 5000))),
        ("\"ephemeral:freebsd\"", Some((10000, 65535))),
        ("\"ephemeral:nat-gateway\"", Some((1024, 65535))),
        ("\"ephemeral:any\"", Some((1024, 65535))),
        ("\"all\"", None),
        ("\"0-65535\"", None),
    ] {
        let rule = rule(&format!("protocol = \"tcp\", ports = {written}, source = \"10.0.0.0/8\""));
        assert_eq!(rule.ports, expected, "{written}");
    }
}

#[test]
fn what_aws_ignores_is_gone() {
    // N27, N34: ports of portless protocols.
    for protocol in ["\"sctp\"", "33", "136", "\"all\"", "47", "\"icmp\", icmp = { type = 8 }"] {
        assert_eq!(
            rule(&format!("protocol = {protocol}, ports = 80, source = \"10.0.0.0/8\"")).ports,
            None,
            "{protocol}"
        );
    }
    let icmp = |protocol: &str, icmp: &str, source: &str| {
        rule(&format!("protocol = {protocol}, icmp = {icmp}, source = \"{source}\"")).icmp
    };
    let echo = Some(Icmp { kind: 8, code: Some(0) });
    assert_eq!(icmp("\"icmp\"", "{ type = 8, code = 0 }", "0.0.0.0/0"), echo);
    assert_eq!(icmp("\"icmp\"", "{ type = 8 }", "0.0.0.0/0"), Some(Icmp { kind: 8, code: None }));
    assert_eq!(icmp("\"icmp\"", "{ type = 8, code = -1 }", "0.0.0.0/0"), Some(Icmp { kind: 8, code: None }));
    // N31: all types means all codes.
    assert_eq!(icmp("\"icmp\"", "{ type = -1, code = 3 }", "0.0.0.0/0"), None);
    assert_eq!(icmp("\"icmpv6\"", "{ type = 8, code = 0 }", "::/0"), echo);
    // N28: 58 on IPv4 is all types; N33: 1 on IPv6 matches by number only; N27: TCP has none.
    assert_eq!(icmp("\"icmpv6\"", "{ type = 8, code = 0 }", "0.0.0.0/0"), None);
    assert_eq!(icmp("\"icmp\"", "{ type = 8, code = 0 }", "::/0"), None);
    assert_eq!(icmp("\"tcp\", ports = 80", "{ type = 8, code = 0 }", "0.0.0.0/0"), None);
    // N35: host bits are zeroed.
    let canonical = rule("protocol = \"all\", source = \"100.68.0.18/18\"").cidr;
    assert_eq!(canonical, "100.68.0.0/18".parse::<IpNet>().unwrap());
}

#[test]
fn a_subnet_without_a_nacl_has_awss_default_one() {
    let text = "version = 1\n[subnet.a]\ncidrs = [\"10.0.1.0/24\"]\n[interface.eth0]\nsubnet = \"a\"\n";
    let resolved_default = resolved(text);
    let nacl = &resolved_default.interfaces["eth0"].nacl;
    assert_eq!(nacl.name, "default");
    for list in [&nacl.inbound, &nacl.outbound] {
        let shape: Vec<_> =
            list.iter().map(|rule| (rule.number, rule.action, rule.protocol, rule.cidr, rule.line)).collect();
        assert_eq!(
            shape,
            [
                (100, Action::Allow, Protocol::All, Ipv4Net::default().into(), 0),
                (101, Action::Allow, Protocol::All, Ipv6Net::default().into(), 0),
            ]
        );
    }
    assert!(resolved_default.nacls.contains_key("default"));
    // One's own takes its place.
    let own = resolved(&format!("{text}[nacl.default]\ninbound = []\noutbound = []\n"));
    assert!(own.interfaces["eth0"].nacl.inbound.is_empty());
}

#[test]
fn an_interface_has_these_defaults_and_takes_these_words() {
    struct Lan;
    impl Host for Lan {
        fn addresses(&self, netns: Option<&str>, interface: &str) -> Vec<IpAddr> {
            assert_eq!((netns, interface), (Some("blue"), "eth0"));
            vec!["10.0.1.10".parse().unwrap()]
        }
    }
    let text = "version = 1\nnacl.web.inbound = []\n[interface.eth0]\nnacl = \"web\"\nnetns = \"blue\"\n";
    let interface = &resolved_by(text, &Lan).interfaces["eth0"];
    assert_eq!(interface.addresses, ["10.0.1.10".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        (interface.side, interface.enforce, interface.xdp, interface.drop_non_ip),
        (Side::Host, true, Xdp::Auto, false)
    );
    assert!(interface.subnet.is_none() && interface.subnet_cidrs.is_empty());
    let all = "version = 1\n[subnet.a]\nid = \"subnet-1\"\ncidrs = [\"10.0.1.0/24\", \"2001:db8::/64\"]\n\
        [interface.eth0]\nsubnet = \"a\"\naddresses = [\"2001:db8::1\"]\nside = \"router\"\nenforce = false\nxdp = \"generic\"\n\
        non_ip = \"drop\"\nmode = \"stateless\"\nlayers = \"nacl\"\nexemptions = \"none\"\n";
    let all_set = resolved_by(all, &Lan);
    let interface = &all_set.interfaces["eth0"];
    assert_eq!(interface.addresses, ["2001:db8::1".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        (interface.side, interface.enforce, interface.xdp, interface.drop_non_ip),
        (Side::Router, false, Xdp::Generic, true)
    );
    assert_eq!(interface.subnet.as_deref(), Some("a"));
    assert_eq!(interface.subnet_cidrs, all_set.subnets["a"].cidrs);
    assert_eq!(all_set.subnets["a"].id.as_deref(), Some("subnet-1"));
}

#[test]
fn a_subnet_reference_stands_for_its_cidr() {
    let text = |reference: &str| {
        format!(
            "version = 1\nsubnet.a.cidrs = [\"10.0.1.0/24\", \"2001:db8::/64\"]\nsubnet.b.cidrs = [\"10.0.2.0/24\"]\n\
            nacl.web.outbound = []\nnacl.web.inbound = [{{ rule = 1, action = \"deny\", protocol = \"all\", source = \"{reference}\" }}]\n\
            interface.eth0.nacl = \"web\"\n"
        )
    };
    for (reference, cidr) in [
        ("subnet:b", "10.0.2.0/24"),
        ("subnet:b/ipv4", "10.0.2.0/24"),
        ("subnet:a/ipv4", "10.0.1.0/24"),
        ("subnet:a/ipv6", "2001:db8::/64"),
    ] {
        let resolved = resolved(&text(reference));
        let rule = &resolved.nacls["web"].inbound[0];
        assert_eq!((rule.cidr.to_string().as_str(), rule.reference.as_deref()), (cidr, Some(reference)));
    }
    for (reference, code) in [("subnet:a", "E033"), ("subnet:b/ipv6", "E033"), ("subnet:c", "E030"), ("sg-a", "E020")] {
        assert_eq!(codes(&text(reference)), [code], "{reference}");
    }
}

/// 19 rules and `*` are the default quota, 39 and `*` the highest (N38 to N40), in each family by itself.
#[test]
fn quotas_count_families_and_star() {
    let text = |count: usize| {
        let mut text = "version = 1\nnacl.web.outbound = []\nnacl.web.inbound = [\n".to_owned();
        for number in 0..2 * count {
            let source = if number % 2 == 0 { "10.0.0.0/8" } else { "2001:db8::/32" };
            let number = number + 1;
            writeln!(text, "{{ rule = {number}, action = \"deny\", protocol = \"all\", source = \"{source}\" }},")
                .unwrap();
        }
        text + "]\ninterface.eth0.nacl = \"web\"\n"
    };
    assert_eq!(codes(&text(19)), [""; 0]);
    assert_eq!(codes(&text(20)), ["W006", "W006"]);
    assert_eq!(codes(&text(39)), ["W006", "W006"]);
    assert_eq!(codes(&text(40)), ["W007", "W007"]);
}

/// A rule and how it may be written.
fn written() -> impl Strategy<Value = (Rule, String)> {
    let protocol = prop_oneof![Just(6_u8), Just(17), Just(1), Just(58), any::<u8>()];
    let ports = (any::<u16>(), any::<u16>()).prop_map(|(one, other)| (one.min(other), one.max(other)));
    let icmp = (any::<u8>(), proptest::option::of(any::<u8>()));
    let cidr = prop_oneof![
        (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, prefix)| IpNet::from(Ipv4Net::new(bits.into(), prefix).unwrap().trunc())),
        (any::<u128>(), 0..=128_u8)
            .prop_map(|(bits, prefix)| IpNet::from(Ipv6Net::new(bits.into(), prefix).unwrap().trunc())),
    ];
    (any::<bool>(), proptest::option::of(protocol), ports, icmp, cidr, "[ -~&&[^\"\\\\]]{0,20}").prop_map(
        |(allow, protocol, ports, (kind, code), cidr, description)| {
            let action = if allow { Action::Allow } else { Action::Deny };
            let mut text = format!("action = \"{}\", ", if allow { "allow" } else { "deny" });
            let mut rule = Rule {
                number: 0,
                action,
                protocol: protocol.map_or(Protocol::All, Protocol::Number),
                ports: None,
                icmp: None,
                cidr,
                reference: None,
                description: Some(description.clone()),
                line: 0,
                span: 0..0,
            };
            match protocol {
                None => text += "protocol = \"all\", ",
                Some(number) => write!(text, "protocol = {number}, ").unwrap(),
            }
            let v6 = matches!(cidr, IpNet::V6(_));
            match (protocol, v6) {
                (Some(6 | 17), _) => {
                    write!(text, "ports = \"{}-{}\", ", ports.0, ports.1).unwrap();
                    rule.ports = Some(ports).filter(|&ports| ports != (0, u16::MAX));
                }
                (Some(1), false) | (Some(58), true) => {
                    write!(text, "icmp = {{ type = {kind}, code = {} }}, ", code.map_or(-1, i32::from)).unwrap();
                    rule.icmp = Some(Icmp { kind, code });
                }
                _ => {}
            }
            write!(text, "source = \"{cidr}\", description = \"{description}\"").unwrap();
            (rule, text)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rules in any order in the file are the same rules in the order of their numbers.
    #[test]
    fn rules_come_out_as_they_were_written(
        rules in btree_map(1..=32766_u16, written(), 0..30),
        shuffle in any::<prop::sample::Index>(),
        inbound in any::<bool>(),
    ) {
        let mut lines: Vec<_> = rules.iter().map(|(number, (_, text))| format!("{{ rule = {number}, {text} }},\n")).collect();
        let turn = shuffle.index(lines.len().max(1));
        lines.rotate_left(turn);
        let (list, other, key) = if inbound { ("inbound", "outbound", "source") } else { ("outbound", "inbound", "destination") };
        let text = format!(
            "version = 1\n[nacl.web]\n{other} = []\n{list} = [\n{}]\n[interface.eth0]\nnacl = \"web\"\n",
            lines.concat().replace("source = \"", &format!("{key} = \""))
        );
        let resolved = resolved(&text);
        let nacl = &resolved.nacls["web"];
        let found = if inbound { &nacl.inbound } else { &nacl.outbound };
        prop_assert_eq!(found.len(), rules.len());
        for (found, (&number, (expected, _))) in found.iter().zip(&rules) {
            let start = format!("{{ rule = {number},");
            prop_assert!(text[found.span.clone()].starts_with(&start));
            prop_assert_eq!(text[..found.span.start].matches('\n').count() + 1, found.line);
            let plain = Rule { line: 0, span: 0..0, ..found.clone() };
            prop_assert_eq!(&plain, &Rule { number, ..expected.clone() });
        }
    }
}
