//! An interface's own keys: its device, mode and layers, what passes it unjudged, and what is remembered.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use nacl_common::border::Service;
use nacl_daemon::resolve::{Exemption, Host, Layers, Mode, Protocol, Tracking};

use super::resolved::{codes, resolved, resolved_by};

fn interface(lines: &str) -> String {
    format!("version = 1\n[interface.eth0]\nnacl = \"default\"\n{lines}\n")
}

#[test]
fn modes_and_layers_are_these() {
    let found = |lines: &str| {
        let found = resolved(&interface(lines));
        (found.interfaces["eth0"].mode, found.interfaces["eth0"].layers)
    };
    assert_eq!(found(""), (Mode::Stateless, Layers::Both));
    assert_eq!(found("mode = \"stateful\""), (Mode::Stateful, Layers::Both));
    assert_eq!(found("layers = \"nacl\""), (Mode::Stateless, Layers::Nacl));
    assert_eq!(found("layers = \"sg\"\nsecurity_groups = [\"default\"]"), (Mode::Stateless, Layers::Groups));
    assert_eq!(codes(&interface("mode = \"statefull\"")), ["E007"]);
    assert_eq!(codes(&interface("layers = \"groups\"")), ["E007"]);
}

#[test]
fn an_interface_is_called_as_its_device_unless_it_says_otherwise() {
    struct Lan;
    impl Host for Lan {
        fn addresses(&self, netns: Option<&str>, device: &str) -> Vec<IpAddr> {
            assert_eq!(device, "eth0");
            vec![if netns == Some("blue") { "10.0.0.1" } else { "10.0.0.2" }.parse().unwrap()]
        }
    }
    let text = "version = 1\n[interface.\"the blue one, as everybody calls it\"]\ndevice = \"eth0\"\nnetns = \"blue\"\nnacl = \"default\"\n\
        [interface.eth0]\nnacl = \"default\"\n";
    let found = resolved_by(text, &Lan);
    let blue = &found.interfaces["the blue one, as everybody calls it"];
    assert_eq!((blue.name.as_str(), blue.netns.as_deref()), ("eth0", Some("blue")));
    assert_eq!(blue.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(found.interfaces["eth0"].addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    let named = found.named_interface(Some("the blue one, as everybody calls it")).unwrap();
    assert_eq!((&*named.name, &*named.interface), ("the blue one, as everybody calls it", blue));
    for (lines, expected) in [
        ("device = \"eth0\"\nnetns = \"blue\"", &[][..]),
        ("device = \"eth0\"", &["E045"]),
        ("device = \"a-name-of-sixteen\"", &["E008"]),
        ("device = \"\"", &["E008"]),
        ("device = \"a b\"", &["E008"]),
        ("device = 7", &["E004"]),
        ("", &["E008"]),
    ] {
        let text = format!(
            "version = 1\n[interface.eth0]\nnacl = \"default\"\n[interface.\"a name of one's own\"]\nnacl = \"default\"\n{lines}\n"
        );
        assert_eq!(codes(&text), expected, "{lines}");
    }
}

fn exempt(text: &str) -> Vec<Exemption> {
    resolved(text).interfaces["eth0"].exemptions.clone()
}

fn tuple(exemption: &Exemption) -> (String, Service, Protocol, Option<u16>, IpNet) {
    assert!(exemption.ports.is_none_or(|(first, last)| first == last));
    let port = exemption.ports.map(|(port, _)| port);
    (exemption.name.clone(), exemption.service, exemption.protocol, port, exemption.cidr)
}

/// N43, address by address.
#[test]
fn what_aws_never_filters_is_exempt_unless_it_says_otherwise() {
    let expected: BTreeSet<_> = [
        ("Amazon DNS", 17, 53, "169.254.169.253/32"),
        ("Amazon DNS", 6, 53, "169.254.169.253/32"),
        ("Amazon DNS", 17, 53, "fd00:ec2::253/128"),
        ("Amazon DNS", 6, 53, "fd00:ec2::253/128"),
        ("instance metadata", 6, 80, "169.254.169.254/32"),
        ("instance metadata", 6, 80, "fd00:ec2::254/128"),
        ("ECS task metadata", 6, 80, "169.254.170.2/32"),
        ("Windows licence activation", 6, 1688, "169.254.169.250/32"),
        ("Windows licence activation", 6, 1688, "169.254.169.251/32"),
        ("Amazon Time Sync", 17, 123, "169.254.169.123/32"),
        ("Amazon Time Sync", 17, 123, "fd00:ec2::123/128"),
    ]
    .into_iter()
    .map(|(name, protocol, port, cidr)| {
        let (protocol, cidr): (_, IpNet) = (Protocol::Number(protocol), cidr.parse().unwrap());
        (name.to_owned(), Service::Remote, protocol, Some(port), cidr)
    })
    .collect();
    for lines in ["", "exemptions = \"aws\""] {
        let found = exempt(&interface(lines));
        assert!(found.iter().all(|exemption| !exemption.failsafe && exemption.line == 0));
        assert_eq!(found.len(), expected.len());
        assert_eq!(found.iter().map(tuple).collect::<BTreeSet<_>>(), expected);
        assert!(resolved(&interface(lines)).interfaces["eth0"].aws);
    }
    assert!(exempt(&interface("exemptions = \"none\"")).is_empty());
    assert!(!resolved(&interface("exemptions = \"none\"")).interfaces["eth0"].aws);
}

/// The resolver and the router have addresses only in a VPC and a subnet that are known.
#[test]
fn a_subnet_in_its_vpc_has_a_resolver_and_a_router() {
    let vpc = "[vpc]\ncidrs = [\"10.0.0.0/16\", \"10.9.0.0/16\", \"2001:db8::/56\"]\n";
    let place = |vpc: &str, cidrs: &str| {
        let text = format!(
            "version = 1\n{vpc}[subnet.a]\ncidrs = [{cidrs}]\nnacl = \"default\"\n[interface.eth0]\nsubnet = \"a\"\n"
        );
        let fixed = exempt(&interface("")).len();
        let all = exempt(&text);
        let mut found: Vec<_> = all[fixed..]
            .iter()
            .map(tuple)
            .map(|(name, _, protocol, port, cidr)| (name, protocol, port, cidr))
            .collect();
        found.sort();
        found
    };
    let dns = |cidr: &str| {
        [6, 17]
            .map(|number| ("Amazon DNS".to_owned(), Protocol::Number(number), Some(53), cidr.parse::<IpNet>().unwrap()))
    };
    let router = |cidr: &str| ("VPC router".to_owned(), Protocol::All, None, cidr.parse::<IpNet>().unwrap());
    let mut expected: Vec<_> = dns("10.0.0.2/32").into_iter().chain(dns("10.9.1.2/32")).collect();
    expected.push(router("10.9.1.1/32"));
    expected.sort();
    assert_eq!(place(vpc, "\"10.9.1.0/24\", \"2001:db8:0:1::/64\""), expected);
    // The first subnet's is the VPC's, and is there once.
    let mut first: Vec<_> = dns("10.0.0.2/32").to_vec();
    first.push(router("10.0.0.1/32"));
    assert_eq!(place(vpc, "\"10.0.0.0/24\""), first);
    // IPv6 alone: only the VPC's own resolver.
    assert_eq!(place(vpc, "\"2001:db8:0:1::/64\""), dns("10.0.0.2/32"));
    assert_eq!(place("", "\"10.0.1.0/24\""), []);
    // A subnet too small for them has none.
    assert_eq!(place("[vpc]\ncidrs = [\"10.0.1.0/31\"]\n", "\"10.0.1.0/31\""), [router("10.0.1.1/32")]);
    assert_eq!(place("[vpc]\ncidrs = [\"255.255.255.255/32\"]\n", "\"255.255.255.255/32\""), []);
}

#[test]
fn failsafe_entries_are_for_a_service_at_one_end() {
    let text = "version = 1\n[subnet.a]\ncidrs = [\"10.0.1.0/24\"]\nnacl = \"default\"\n[interface.eth0]\nsubnet = \"a\"\nexemptions = \"none\"\n\
        failsafe = [\n{ protocol = \"tcp\", ports = \"ssh\", source = \"192.0.2.0/24\", description = \"free text\" },\n\
        { protocol = \"udp\", ports = \"1000-1001\", destination = \"2001:db8::/32\" },\n\
        { protocol = \"icmp\", source = \"subnet:a\" },\n]\n";
    let found = exempt(text);
    let shape: Vec<_> = found
        .iter()
        .map(|entry| (entry.failsafe, entry.service, entry.protocol, entry.ports, entry.cidr.to_string(), entry.line))
        .collect();
    let number = Protocol::Number;
    assert_eq!(
        shape,
        [
            (true, Service::Local, number(6), Some((22, 22)), "192.0.2.0/24".to_owned(), 9),
            (true, Service::Remote, number(17), Some((1000, 1001)), "2001:db8::/32".to_owned(), 10),
            (true, Service::Local, number(1), None, "10.0.1.0/24".to_owned(), 11),
        ]
    );
    // After AWS's own.
    let both = exempt(&text.replace("exemptions = \"none\"\n", ""));
    assert!(!both[0].failsafe && both[both.len() - 3..].iter().all(|entry| entry.failsafe));
    for (entry, expected) in [
        ("protocol = \"tcp\", ports = 22, source = \"::/0\", destination = \"::/0\"", &["E023"][..]),
        ("protocol = \"tcp\", ports = 22", &["E005"]),
        ("ports = 22, source = \"10.0.0.0/8\"", &["E005"]),
        ("protocol = \"tcp\", port = 22, source = \"10.0.0.0/8\"", &["E003"]),
        ("protocol = \"tcp\", ports = 22, source = \"sg-2\"", &["E020"]),
        ("protocol = \"tcp\", ports = 22, source = \"self\"", &["E020"]),
        ("protocol = \"tcp\", ports = 22, source = \"pl:a\"", &["E020"]),
        ("protocol = \"tcp\", ports = 22, source = \"subnet:b\"", &["E030"]),
        ("protocol = \"gre\", ports = 22, source = \"10.0.0.0/8\"", &["W002"]),
        ("protocol = \"all\", source = \"0.0.0.0/0\"", &["W020"]),
        ("protocol = \"udp\", destination = \"::/0\"", &["W020"]),
        ("protocol = \"tcp\", ports = 22, source = \"0.0.0.0/0\"", &[]),
        ("protocol = \"icmp\", source = \"0.0.0.0/0\"", &[]),
        ("protocol = \"tcp\", source = \"10.0.0.0/8\"", &[]),
    ] {
        assert_eq!(codes(&interface(&format!("failsafe = [{{ {entry} }}]"))), expected, "{entry}");
    }
}

#[test]
fn a_deny_of_what_is_never_filtered_is_pointed_out() {
    let said = |lines: &str, rule: &str| {
        let text = format!(
            "version = 1\n[vpc]\ncidrs = [\"10.0.0.0/16\"]\n[subnet.a]\ncidrs = [\"10.0.1.0/24\"]\nnacl = \"n\"\n\
             [nacl.n]\ninbound = []\noutbound = [{{ rule = 1, {rule} }}]\n[interface.eth0]\nsubnet = \"a\"\n{lines}\n"
        );
        codes(&text).contains(&"W019")
    };
    for (rule, expected) in [
        ("action = \"deny\", protocol = \"all\", destination = \"169.254.169.254/32\"", true),
        ("action = \"deny\", protocol = \"tcp\", ports = \"1-100\", destination = \"169.254.169.254/32\"", true),
        ("action = \"deny\", protocol = \"tcp\", ports = 443, destination = \"169.254.169.254/32\"", false),
        ("action = \"deny\", protocol = \"udp\", ports = 80, destination = \"169.254.169.254/32\"", false),
        ("action = \"deny\", protocol = \"all\", destination = \"fd00:ec2::254/128\"", true),
        ("action = \"deny\", protocol = \"udp\", ports = 53, destination = \"10.0.0.2/32\"", true),
        ("action = \"deny\", protocol = \"icmp\", icmp = { type = 8 }, destination = \"10.0.1.1/32\"", true),
        ("action = \"deny\", protocol = \"all\", destination = \"10.0.1.4/32\"", false),
        ("action = \"deny\", protocol = \"all\", destination = \"0.0.0.0/0\"", false),
        ("action = \"allow\", protocol = \"all\", destination = \"169.254.169.254/32\"", false),
    ] {
        assert_eq!(said("", rule), expected, "{rule}");
        assert!(!said("exemptions = \"none\"", rule), "{rule}");
    }
}

#[test]
fn tracking_is_awss_within_awss_ranges() {
    let found = |lines: &str| {
        let text =
            format!("version = 1\n[interface.a]\nnacl = \"default\"\n[interface.b]\nnacl = \"default\"\n{lines}\n");
        let found = resolved(&text);
        assert_eq!(found.interfaces["a"].tracking, found.interfaces["b"].tracking);
        found.interfaces["a"].tracking
    };
    let default = Tracking::default();
    assert_eq!(found(""), default);
    assert_eq!(found("[tracking]"), default);
    assert_eq!(found("[tracking]\nprofile = \"nitro-v6\""), Tracking { tcp_established: 350, ..default });
    assert_eq!(
        found("[tracking]\ntcp_established = 60\nprofile = \"nitro-v6\""),
        Tracking { tcp_established: 60, ..default }
    );
    assert_eq!(
        found(
            "[tracking]\ntcp_opening = 1\ntcp_established = 2000\ntcp_closing = 3\ntcp_closed = 4\nudp = 45\nudp_stream = 61\nicmp = 7\nentries = 8\npickup = 0"
        ),
        Tracking {
            tcp_opening: 1,
            tcp_established: 2000,
            tcp_closing: 3,
            tcp_closed: 4,
            udp: 45,
            udp_stream: 61,
            icmp: 7,
            other: 600,
            entries: 8,
            pickup: 0,
        }
    );
    for (key, first, last) in [
        ("tcp_established", 60, 432_000),
        ("udp", 30, 60),
        ("udp_stream", 60, 180),
        ("tcp_opening", 1, 86_400),
        ("tcp_closing", 1, 86_400),
        ("tcp_closed", 1, 86_400),
        ("icmp", 1, 86_400),
        ("entries", 1, 16_777_216),
        ("pickup", 0, 86_400),
    ] {
        for (number, expected) in
            [(first, true), (last, true), (first - 1, false), (last + 1, false), (1_i64 << 40, false)]
        {
            let text = interface(&format!("[tracking]\n{key} = {number}"));
            let expected: &[&str] = if expected { &[] } else { &["E024"] };
            assert_eq!(codes(&text), expected, "{key} = {number}");
        }
        assert_eq!(codes(&interface(&format!("[tracking]\n{key} = \"60\""))), ["E004"], "{key}");
    }
    assert_eq!(codes(&interface("[tracking]\nother = 600")), ["E024"]);
    assert_eq!(codes(&interface("[tracking]\nprofile = \"nitro\"")), ["E007"]);
    assert_eq!(codes(&interface("[tracking]\ntcp_establishd = 60")), ["E003"]);
}
