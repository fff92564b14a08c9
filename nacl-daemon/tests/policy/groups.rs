//! Security groups and prefix lists: what references stand for, what AWS ignores, and what it counts.

use std::{fmt::Write, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use nacl_common::Direction;
use nacl_daemon::resolve::{Group, GroupRule, Host, Icmp, Layers, Peer, Protocol, Resolved};

use super::resolved::{codes, resolved, resolved_by};

/// The only inbound rule of a group that consists of it, with a prefix list and members to refer to.
fn rule(body: &str) -> GroupRule {
    let rule = format!("{{ {body} }}");
    let text = policy(&rule);
    let resolved = resolved(&text);
    let [found] = &resolved.groups["web"].inbound[..] else { panic!("one rule is expected") };
    assert_eq!(&text[found.span.clone()], rule);
    assert_eq!(text[..found.span.start].matches('\n').count() + 1, found.line);
    found.clone()
}

/// One inbound list on eth0, with what there is to refer to.
fn policy(rules: &str) -> String {
    format!(
        "version = 1\n\
         [vpc]\ncidrs = [\"10.0.0.0/16\", \"2001:db8::/56\"]\n\
         [subnet.a]\ncidrs = [\"10.0.1.0/24\"]\nnacl = \"default\"\n\
         [prefix_list.office]\nmax_entries = 9\nentries = [\"192.0.2.0/24\", \"198.51.100.1/32\"]\n\
         [prefix_list.pl-six]\nmax_entries = 9\nentries = [\"2001:db8:9::/48\"]\n\
         [eni.one]\naddresses = [\"10.0.1.20\", \"2001:db8::20\", \"fe80::20\"]\nsecurity_groups = [\"sg-2\", \"peers\"]\n\
         [eni.two]\naddresses = [\"10.0.1.5\"]\nsecurity_groups = [\"sg-2\"]\n\
         [security_group.web]\noutbound = []\ninbound = [\n{rules}\n]\n\
         [interface.eth0]\naddresses = [\"10.0.2.10\", \"2001:db8:0:2::10\"]\nsecurity_groups = [\"web\"]\n"
    )
}

fn nets(written: &[&str]) -> Vec<IpNet> {
    written.iter().map(|cidr| cidr.parse().unwrap()).collect()
}

#[test]
fn the_other_end_is_what_it_stands_for() {
    let group = |name: &str| Peer::Group(name.to_owned());
    let list = |name: &str| Peer::PrefixList(name.to_owned());
    let cidr = |text: &str| Peer::Cidr(text.parse().unwrap());
    for (source, peer, cidrs) in [
        ("192.0.2.0/24", cidr("192.0.2.0/24"), &["192.0.2.0/24"][..]),
        // S16: host bits are zeroed.
        ("192.0.2.9/24", cidr("192.0.2.0/24"), &["192.0.2.0/24"]),
        ("::/0", cidr("::/0"), &["::/0"]),
        ("subnet:a", cidr("10.0.1.0/24"), &["10.0.1.0/24"]),
        // S17: the members' private addresses, in both families, and no link-local one.
        ("sg:sg-2", group("sg-2"), &["10.0.1.5/32", "10.0.1.20/32", "2001:db8::20/128"]),
        ("sg-2", group("sg-2"), &["10.0.1.5/32", "10.0.1.20/32", "2001:db8::20/128"]),
        ("sg:peers", group("peers"), &["10.0.1.20/32", "2001:db8::20/128"]),
        // S21: its own members, which are interfaces here.
        ("self", group("web"), &["10.0.2.10/32", "2001:db8:0:2::10/128"]),
        ("sg:web", group("web"), &["10.0.2.10/32", "2001:db8:0:2::10/128"]),
        ("pl:office", list("office"), &["192.0.2.0/24", "198.51.100.1/32"]),
        ("pl:pl-six", list("pl-six"), &["2001:db8:9::/48"]),
        ("pl-six", list("pl-six"), &["2001:db8:9::/48"]),
    ] {
        let rule = rule(&format!("protocol = \"all\", source = \"{source}\""));
        assert_eq!((rule.peer, rule.cidrs), (peer, nets(cidrs)), "{source}");
    }
}

#[test]
fn members_are_asked_of_the_host_in_their_namespace() {
    struct Two;
    impl Host for Two {
        fn addresses(&self, netns: Option<&str>, device: &str) -> Vec<IpAddr> {
            assert_eq!(device, "eth0");
            match netns {
                Some("blue") => vec!["10.0.1.10".parse().unwrap(), "fe80::1".parse().unwrap()],
                Some("green") => vec!["10.0.2.10".parse().unwrap()],
                _ => panic!("{netns:?}"),
            }
        }
    }
    let text = "version = 1\n[security_group.a]\ninbound = [{ protocol = \"all\", source = \"self\" }]\noutbound = [{ protocol = \"all\", destination = \"sg:b\" }]\n\
        [security_group.b]\noutbound = []\n\
        [interface.one]\ndevice = \"eth0\"\nnetns = \"blue\"\nsecurity_groups = [\"a\"]\n\
        [interface.other]\ndevice = \"eth0\"\nnetns = \"green\"\nsecurity_groups = [\"a\", \"b\"]\n";
    let found = resolved_by(text, &Two);
    assert_eq!(found.groups["a"].inbound[0].cidrs, nets(&["10.0.1.10/32", "10.0.2.10/32"]));
    assert_eq!(found.groups["a"].outbound[0].cidrs, nets(&["10.0.2.10/32"]));
    assert_eq!(found.interfaces["one"].addresses.len(), 2, "the interface keeps its link-local address");
    // Away from the machine nobody can say, and that is no mistake of the policy.
    let away = resolved(text);
    assert!(away.groups["a"].inbound[0].cidrs.is_empty());
    assert_eq!(codes(text), ["I011", "I011"]);
}

#[test]
fn protocols_and_ports_are_those_of_network_acls() {
    let matched = |body: &str, source: &str| {
        let rule = rule(&format!("{body}, source = \"{source}\""));
        (rule.protocol, rule.ports, rule.icmp)
    };
    let number = Protocol::Number;
    let (v4, v6) = ("10.0.0.0/8", "2001:db8::/32");
    let echo = Some(Icmp { kind: 8, code: None });
    for (body, source, expected) in [
        ("protocol = \"tcp\", ports = 80", v4, (number(6), Some((80, 80)), None)),
        ("protocol = 17, ports = \"1024-2047\"", v6, (number(17), Some((1024, 2047)), None)),
        ("protocol = \"tcp\", ports = \"0-65535\"", v4, (number(6), None, None)),
        ("protocol = \"tcp\"", v4, (number(6), None, None)),
        // S11: no ports but of TCP and UDP, no types but of ICMP.
        ("protocol = -1, ports = 80, icmp = { type = 8 }", v4, (Protocol::All, None, None)),
        ("protocol = \"gre\", ports = 80", v4, (number(47), None, None)),
        ("protocol = \"sctp\", ports = 80", v4, (number(132), None, None)),
        // S14
        ("protocol = \"icmp\", icmp = { type = 8 }", v4, (number(1), None, echo)),
        (
            "protocol = \"icmp\", icmp = { type = 8, code = 0 }",
            v4,
            (number(1), None, Some(Icmp { kind: 8, code: Some(0) })),
        ),
        ("protocol = \"icmp\", icmp = { type = -1, code = -1 }", v4, (number(1), None, None)),
        ("protocol = \"icmpv6\", icmp = { type = 8 }", v6, (number(58), None, echo)),
        // S12: ICMPv6 may do without.
        ("protocol = \"icmpv6\"", v6, (number(58), None, None)),
        ("protocol = \"icmpv6\", icmp = { type = 8 }", v4, (number(58), None, None)),
        ("protocol = \"icmp\", icmp = { type = 8 }", v6, (number(1), None, None)),
        ("protocol = \"icmp\", icmp = { type = 8 }", "pl-six", (number(1), None, None)),
        // Members are of both families, and each packet finds what is meant for its own.
        ("protocol = \"icmp\", icmp = { type = 8 }", "sg-2", (number(1), None, echo)),
        ("protocol = \"icmpv6\", icmp = { type = 8 }", "sg-2", (number(58), None, echo)),
    ] {
        assert_eq!(matched(body, source), expected, "{body} from {source}");
    }
}

/// What is said of a rule, besides the two notes that every one of these policies gets.
fn said(rule: &str) -> Vec<&'static str> {
    let all = codes(&policy(rule));
    all.into_iter().filter(|code| !matches!(*code, "I005" | "I013")).collect()
}

#[test]
fn what_aws_takes_and_ignores_is_said_as_for_network_acls() {
    for (body, expected) in [
        ("protocol = \"gre\", ports = 80, source = \"10.0.0.0/8\"", &["W002"][..]),
        ("protocol = \"all\", icmp = { type = 8 }, source = \"10.0.0.0/8\"", &["W003"]),
        ("protocol = \"icmp\", icmp = { type = 8 }, source = \"::/0\"", &["W004"]),
        ("protocol = \"icmp\", icmp = { type = 8 }, source = \"pl-six\"", &["W004"]),
        ("protocol = \"icmpv6\", icmp = { type = 8 }, source = \"0.0.0.0/0\"", &["W005"]),
        ("protocol = \"icmpv6\", icmp = { type = 8 }, source = \"sg-2\"", &[]),
        ("protocol = \"tcp\", ports = 80, source = \"10.0.0.1/8\"", &["W001"]),
        ("protocol = 43, source = \"sg-2\"", &["W009"]),
        ("protocol = \"tcp\", source = \"10.0.0.0/8\"", &["I001"]),
        ("protocol = \"icmp\", source = \"10.0.0.0/8\"", &["I002"]),
        ("protocol = \"icmpv6\", source = \"::/0\"", &[]),
        ("protocol = \"all\", source = \"::/0\"", &["I006"]),
        ("protocol = \"all\", source = \"sg-2\"", &[]),
    ] {
        assert_eq!(said(&format!("{{ {body} }}")), expected, "{body}");
    }
}

#[test]
fn groups_only_allow_and_have_no_order() {
    for (body, expected) in [
        ("action = \"deny\", protocol = \"all\", source = \"10.0.0.0/8\"", &["E022"][..]),
        ("action = \"allow\", protocol = \"all\", source = \"10.0.0.0/8\"", &["E022"]),
        ("rule = 100, action = \"deny\", protocol = \"all\", source = \"10.0.0.0/8\"", &["E022", "E022"]),
        ("protocol = \"all\", destination = \"10.0.0.0/8\"", &["E018"]),
        ("protocol = \"all\", source = \"10.0.0.0/8\", source_port = 1", &["E019"]),
        ("protocol = \"all\", sources = \"10.0.0.0/8\"", &["E003"]),
        ("protocol = \"all\", source = [\"10.0.0.0/8\", \"10.0.0.0/9\"]", &["E021"]),
        ("protocol = \"all\"", &["E005"]),
        ("source = \"10.0.0.0/8\"", &["E005"]),
        ("protocol = \"tcp\", ports = \"9-1\", source = \"10.0.0.1\"", &["E014", "E017"]),
        ("protocol = \"all\", source = \"pl:none\"", &["E040"]),
        ("protocol = \"all\", source = \"subnet:none\"", &["E030"]),
    ] {
        assert_eq!(codes(&policy(&format!("{{ {body} }}"))), expected, "{body}");
    }
}

/// AWS tells rules apart by what they match (S16).
#[test]
fn the_same_rule_twice_is_refused() {
    let one = "{ protocol = \"tcp\", ports = 80, source = \"10.0.0.0/8\" }";
    for (other, same) in [
        ("{ protocol = 6, ports = \"80-80\", source = \"10.0.0.0/8\", description = \"other\" }", true),
        ("{ protocol = 6, ports = \"http\", source = \"10.9.9.9/8\" }", true),
        ("{ protocol = 17, ports = 80, source = \"10.0.0.0/8\" }", false),
        ("{ protocol = 6, ports = \"80-81\", source = \"10.0.0.0/8\" }", false),
        ("{ protocol = 6, ports = 80, source = \"10.0.0.0/9\" }", false),
    ] {
        let found = said(&format!("{one},\n{other}"));
        assert_eq!(found.contains(&"E043"), same, "{other}: {found:?}");
    }
    assert_eq!(said("{ protocol = -1, source = \"self\" }, { protocol = \"all\", source = \"sg:web\" }"), ["E043"]);
    let code = |code: &str| {
        format!("{{ protocol = \"icmp\", icmp = {{ type = 8, code = {code} }}, source = \"10.0.0.0/8\" }}")
    };
    assert_eq!(said(&format!("{}, {}", code("0"), code("-1"))), [""; 0]);
    assert_eq!(said(&format!("{}, {}", code("0"), code("0"))), ["E043"]);
    // A rule of each direction is no rule twice.
    let both = "version = 1\n[security_group.web]\ninbound = [{ protocol = \"all\", source = \"10.0.0.0/8\" }]\n\
        outbound = [{ protocol = \"all\", destination = \"10.0.0.0/8\" }]\n[interface.eth0]\nsecurity_groups = [\"web\"]\n";
    assert_eq!(codes(both), [""; 0]);
}

fn everything(rules: &[GroupRule]) {
    let shape: Vec<_> =
        rules.iter().map(|rule| (rule.protocol, rule.ports, rule.icmp, rule.peer.clone(), rule.line)).collect();
    let any = |cidr: &str| (Protocol::All, None, None, Peer::Cidr(cidr.parse().unwrap()), 0);
    assert_eq!(shape, [any("0.0.0.0/0"), any("::/0")]);
    assert_eq!(rules.iter().flat_map(|rule| rule.cidrs.clone()).collect::<Vec<_>>(), nets(&["0.0.0.0/0", "::/0"]));
}

/// A new group lets nothing in and everything out (S4); `[]` is nothing.
#[test]
fn an_absent_list_is_awss() {
    let group = |body: &str| -> Arc<Group> {
        let text = format!(
            "version = 1\n[security_group.web]\nid = \"sg-0a\"\n{body}\n[interface.eth0]\nsecurity_groups = [\"web\"]\n"
        );
        let found = resolved(&text);
        let on = found.interfaces["eth0"].groups.as_ref().unwrap();
        assert!(Arc::ptr_eq(&on[0], &found.groups["web"]));
        Arc::clone(&on[0])
    };
    let absent = group("");
    assert!(absent.inbound.is_empty());
    everything(&absent.outbound);
    everything(absent.rules(Direction::Outbound));
    assert_eq!((absent.name.as_str(), absent.id.as_deref()), ("web", Some("sg-0a")));
    let none = group("inbound = []\noutbound = []");
    assert!(none.inbound.is_empty() && none.outbound.is_empty());
}

/// S5
#[test]
fn the_default_group_trusts_itself() {
    let text = "version = 1\n[interface.eth0]\naddresses = [\"10.0.0.1\"]\nsecurity_groups = [\"default\"]\n\
        [eni.peer]\naddresses = [\"10.0.0.2\", \"2001:db8::2\"]\nsecurity_groups = [\"default\"]\n";
    let found = resolved(text);
    let group = &found.groups["default"];
    let [own] = &group.inbound[..] else { panic!("one rule is expected") };
    assert_eq!((own.protocol, own.ports, own.line), (Protocol::All, None, 0));
    assert_eq!(own.peer, Peer::Group("default".to_owned()));
    assert_eq!(own.cidrs, nets(&["10.0.0.1/32", "10.0.0.2/32", "2001:db8::2/128"]));
    everything(&group.outbound);
    // One's own takes its place.
    let own = resolved(&format!("{text}[security_group.default]\noutbound = []\n"));
    assert!(own.groups["default"].inbound.is_empty() && own.groups["default"].outbound.is_empty());
    // Also where only an interface elsewhere has it, for the ways that end there; where nobody has, there is none.
    let elsewhere = text.replace("security_groups = [\"default\"]\n[eni", "security_groups = []\n[eni");
    assert_eq!(resolved(&elsewhere).groups["default"].inbound[0].cidrs, nets(&["10.0.0.2/32", "2001:db8::2/128"]));
    assert!(resolved(&elsewhere.replace("\"default\"", "")).groups.is_empty());
}

/// The sample of the design: `sg-2` has members, and no rules here.
#[test]
fn a_group_can_be_only_a_name_of_members() {
    let text = "version = 1\n[security_group.sg-3]\ninbound = [{ protocol = \"tcp\", ports = 80, source = \"sg-2\" }]\noutbound = []\n\
        [eni.load-balancer]\naddresses = [\"10.0.1.20\"]\nsecurity_groups = [\"sg-2\"]\n\
        [interface.eth0]\nsecurity_groups = [\"sg-3\"]\n";
    assert_eq!(codes(text), [""; 0]);
    let found = resolved(text);
    assert_eq!(found.groups["sg-3"].inbound[0].cidrs, nets(&["10.0.1.20/32"]));
    assert_eq!(found.groups.keys().collect::<Vec<_>>(), ["sg-3"]);
    assert_eq!(found.enis["load-balancer"].groups, ["sg-2"]);
    // Nobody has it: stale (S20). Somebody is to be judged by it: it must be defined.
    let stale = text.replace("[\"sg-2\"]", "[]");
    assert_eq!(codes(&stale), ["W011"]);
    assert!(resolved(&stale).groups["sg-3"].inbound[0].cidrs.is_empty());
    assert_eq!(codes(&text.replace("[\"sg-3\"]", "[\"sg-2\"]")), ["E039"]);
    // Defined, and nobody has it.
    assert_eq!(codes(&format!("{stale}[security_group.sg-2]\noutbound = []\n")), ["W012"]);
    // Somebody has it, and no address.
    assert_eq!(codes(&text.replace("[\"10.0.1.20\"]", "[]")), ["W012"]);
}

#[test]
fn security_groups_are_off_unless_written() {
    let on = |line: &str| {
        let text = format!(
            "version = 1\n[security_group.a]\noutbound = []\n[security_group.b]\noutbound = []\n[interface.eth0]\nnacl = \"default\"\n{line}\n"
        );
        let found = resolved(&text);
        let groups = found.interfaces["eth0"].groups.clone();
        (groups.map(|groups| groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>()), found)
    };
    assert_eq!(on("").0, None);
    assert_eq!(on("security_groups = []").0, Some(Vec::new()));
    // In the order of the policy.
    assert_eq!(on("security_groups = [\"b\", \"a\"]").0, Some(vec!["b".to_owned(), "a".to_owned()]));
    assert_eq!(on("").1.groups.len(), 2, "groups nobody has are kept");
}

fn lists(body: &str) -> Resolved {
    resolved(&format!("version = 1\n{body}\n[interface.eth0]\nnacl = \"default\"\n"))
}

#[test]
fn prefix_lists_are_of_one_family_and_one_size() {
    let found = lists("[prefix_list.a]\nid = \"pl-1\"\nmax_entries = 7\nentries = [\"10.1.0.0/16\", \"10.2.0.1/16\"]");
    let list = &found.prefix_lists["a"];
    assert_eq!((list.name.as_str(), list.id.as_deref(), list.max_entries), ("a", Some("pl-1"), 7));
    assert_eq!(list.entries, nets(&["10.1.0.0/16", "10.2.0.0/16"]));
    let unwritten = lists("prefix_list.a.entries = [\"10.1.0.0/16\", \"10.2.0.0/16\"]");
    assert_eq!(unwritten.prefix_lists["a"].max_entries, 2);
    for (body, expected) in [
        ("max_entries = 2\nentries = [\"10.1.0.0/16\", \"::/0\"]", &["E041"][..]),
        ("max_entries = 1\nentries = [\"10.1.0.0/16\", \"10.2.0.0/16\"]", &["E042"]),
        ("max_entries = 0\nentries = []", &["E007"]),
        ("max_entries = \"2\"\nentries = []", &["E004"]),
        ("max_entries = 2", &["E005"]),
        ("max_entries = 1000\nentries = []", &["I013"]),
        ("max_entries = 1001\nentries = []", &["W017", "I013"]),
        ("max_entries = 2\nentries = [\"10.1.0.0/16\", \"10.1.0.0/16\"]", &["W021", "I013"]),
        ("max_entries = 2\nentries = [\"10.1.0.0/16\", \"10.1.0.1\"]", &["E017"]),
    ] {
        let text = format!("version = 1\n[prefix_list.a]\n{body}\n[interface.eth0]\nnacl = \"default\"\n");
        assert_eq!(codes(&text), expected, "{body}");
    }
}

/// 60 rules in a direction and a family; a list weighs what it could hold, a group weighs in both (S25, S26).
#[test]
fn quotas_count_weights() {
    let over = |count: usize, more: &str, size: usize| {
        let mut rules = String::new();
        for port in 0..count {
            writeln!(rules, "{{ protocol = \"tcp\", ports = {}, source = \"10.0.0.0/8\" }},", port + 1).unwrap();
        }
        let text = format!(
            "version = 1\n[prefix_list.p]\nmax_entries = {size}\nentries = [\"192.0.2.0/24\"]\n\
             [eni.e]\naddresses = [\"10.0.0.1\"]\nsecurity_groups = [\"m\"]\n\
             [security_group.web]\noutbound = []\ninbound = [\n{rules}{more}\n]\n[interface.eth0]\nsecurity_groups = [\"web\"]\n"
        );
        codes(&text).into_iter().filter(|code| code.starts_with('W')).collect::<Vec<_>>()
    };
    let six = "{ protocol = \"all\", source = \"2001:db8::/32\" },";
    let group = "{ protocol = \"all\", source = \"sg:m\" },";
    let list = "{ protocol = \"all\", source = \"pl:p\" },";
    assert_eq!(over(60, "", 1), [""; 0]);
    assert_eq!(over(61, "", 1), ["W013"]);
    assert_eq!(over(60, six, 1), [""; 0], "families count apart");
    assert_eq!(over(60, group, 1), ["W013"]);
    assert_eq!(over(0, list, 60), [""; 0]);
    assert_eq!(over(1, list, 60), ["W013"]);
    // In both families.
    let sixes: Vec<_> =
        (0..60).map(|port| format!("{{ protocol = \"tcp\", ports = {port}, source = \"::/0\" }}")).collect();
    assert_eq!(over(60, &format!("{},\n{group}", sixes.join(",\n")), 1), ["W013", "W013"]);
}

#[test]
fn groups_on_an_interface_are_counted() {
    let on = |count: usize, rules: usize| {
        let mut text = format!("version = 1\n[prefix_list.p]\nmax_entries = {rules}\nentries = [\"192.0.2.0/24\"]\n");
        for number in 0..count {
            write!(text, "[security_group.g{number}]\ninbound = []\noutbound = [{{ protocol = \"all\", destination = \"pl:p\" }}]\n").unwrap();
        }
        let names: Vec<_> = (0..count).map(|number| format!("\"g{number}\"")).collect();
        write!(text, "[interface.eth0]\nsecurity_groups = [{}]\n", names.join(", ")).unwrap();
        let mut found = codes(&text);
        found.retain(|code| *code != "W013" && *code != "W017");
        found
    };
    assert_eq!(on(5, 60), [""; 0]);
    assert_eq!(on(6, 60), ["W014"]);
    assert_eq!(on(16, 60), ["W014"]);
    assert_eq!(on(17, 58), ["W015"]);
    // 1000 is the most that rules times groups can be, whatever is raised.
    assert_eq!(on(5, 200), [""; 0]);
    assert_eq!(on(5, 201), ["W016"]);
    assert_eq!(on(1, 1000), [""; 0]);
    assert_eq!(on(1, 1001), ["W016"]);
    assert_eq!(on(16, 63), ["W014", "W016"]);
}

/// Inside the subnet only the groups judge (N42, S3): the network ACL is not consulted for it with them either.
#[test]
fn rules_inside_the_subnet_are_pointed_out_also_where_there_are_groups() {
    let text = "version = 1\n[subnet.a]\ncidrs = [\"10.0.1.0/24\"]\nnacl = \"n\"\n[nacl.n]\noutbound = []\n\
        inbound = [{ rule = 1, action = \"deny\", protocol = \"all\", source = \"10.0.1.9/32\" }]\n\
        [security_group.web]\ninbound = [{ protocol = \"all\", source = \"10.0.1.9/32\" }]\noutbound = []\n\
        [interface.eth0]\nsubnet = \"a\"\nsecurity_groups = [\"web\"]\n";
    assert_eq!(codes(text), ["W010"]);
}

/// Only groups, and nothing else to judge by.
#[test]
fn groups_can_stand_alone() {
    let text = "version = 1\n[security_group.web]\noutbound = []\n[interface.eth0]\nsecurity_groups = [\"web\"]\n";
    let found = resolved(text);
    let interface = &found.interfaces["eth0"];
    assert_eq!(interface.layers, Layers::Groups);
    assert_eq!((interface.nacl.name.as_str(), interface.nacl.inbound.len()), ("default", 2));
    assert!(found.nacls.is_empty(), "nobody wrote it");
    assert_eq!(resolved(&format!("{text}layers = \"sg\"\n")).interfaces["eth0"].layers, Layers::Groups);
    for (lines, expected) in [
        ("security_groups = [\"web\"]\nlayers = \"both\"", &["E044"][..]),
        ("security_groups = [\"web\"]\nlayers = \"nacl\"", &["E044"]),
        ("nacl = \"default\"\nlayers = \"sg\"", &["E044"]),
        ("layers = \"sg\"", &["E005"]),
        ("", &["E005"]),
        ("nacl = \"default\"\nlayers = \"nacl\"\nsecurity_groups = [\"web\"]", &[]),
        ("nacl = \"default\"\nlayers = \"sg\"\nsecurity_groups = [\"web\"]", &[]),
        ("nacl = \"default\"\nlayers = \"both\"", &["I012"]),
    ] {
        let text = format!("version = 1\n[security_group.web]\noutbound = []\n[interface.eth0]\n{lines}\n");
        assert_eq!(codes(&text), expected, "{lines}");
    }
}
