//! What `export nftables` writes, without nftables: that rules stand in AWS's order, each under its name, on the hooks that the side asks
//! for; that what cannot be said is told. Whether it says the same as nacld is asked of nftables itself, in `kernel_nftables`.

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use nacl_daemon::{
    export::nftables::{self, Difference},
    policy,
    resolve::{Interface, Layers, Mode, NoHost, Side},
};
use support::{
    generate::{self, Random},
    written::{group, interface, nacl, open_nacl},
};

fn text(interface: &Interface) -> String {
    nftables::write("policy.toml", "eth0", interface).text
}

/// The rules of a chain.
fn chain<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let begin = format!("\tchain {name} {{");
    let mut lines = text.lines().skip_while(|line| **line != *begin);
    assert!(lines.next().is_some(), "no chain {name} in\n{text}");
    lines.take_while(|line| *line != "\t}").map(str::trim).collect()
}

fn small() -> Interface {
    let inbound = ["90 deny tcp 22 198.51.100.0/24", "100 allow tcp 443 0.0.0.0/0", "110 allow icmpv6 2/0 ::/0"];
    interface(nacl(&inbound, &["100 allow tcp 1024-65535 0.0.0.0/0"]), None)
}

#[test]
fn rules_stand_in_order_each_with_a_counter_and_its_name() {
    let text = text(&small());
    let name = "network ACL written, rule";
    assert_eq!(
        chain(&text, "inbound4_rules"),
        [
            format!("ip saddr 198.51.100.0/24 tcp dport 22 counter drop comment \"{name} 90\""),
            format!("tcp dport 443 counter accept comment \"{name} 100\""),
            format!("counter drop comment \"{name} *\""),
        ]
    );
    // N24: each family has its own, and its own `*`.
    assert_eq!(
        chain(&text, "inbound6_rules"),
        [
            format!("icmpv6 type 2 icmpv6 code 0 counter accept comment \"{name} 110\""),
            format!("counter drop comment \"{name} *\""),
        ]
    );
    assert_eq!(
        chain(&text, "outbound4_rules"),
        [
            format!("tcp dport 1024-65535 counter accept comment \"{name} 100\""),
            format!("counter drop comment \"{name} *\"")
        ]
    );
    // N22: the other end is the source of what comes and the destination of what goes.
    let outbound = text_of_outbound();
    assert!(outbound.contains("ip daddr 203.0.113.7/32") && !outbound.contains("saddr"), "{outbound}");
}

fn text_of_outbound() -> String {
    text(&interface(nacl(&[], &["100 allow udp 53 203.0.113.7/32"]), None))
}

/// A port that is not seen satisfies no allow, and no deny is escaped by hiding it.
#[test]
fn later_fragments_have_rules_of_their_own() {
    let text = text(&small());
    let name = "network ACL written, rule";
    assert_eq!(
        chain(&text, "inbound4_later"),
        [
            format!("ip saddr 198.51.100.0/24 ip protocol 6 counter drop comment \"{name} 90\""),
            format!("counter drop comment \"{name} *\""),
        ]
    );
    let denies = interface(nacl(&["1 deny udp 53 2001:db8::/32", "2 allow tcp all ::/0"], &[]), None);
    let text = self::text(&denies);
    assert_eq!(
        chain(&text, "inbound6_later"),
        [
            format!("ip6 saddr 2001:db8::/32 frag nexthdr 17 counter drop comment \"{name} 1\""),
            format!("frag nexthdr 6 counter accept comment \"{name} 2\""),
            format!("counter drop comment \"{name} *\""),
        ]
    );
    assert_eq!(
        chain(&text, "inbound6_hidden"),
        [
            format!("ip6 saddr 2001:db8::/32 counter drop comment \"{name} 1\""),
            format!("counter drop comment \"{name} *\""),
        ]
    );
}

#[test]
fn the_side_says_which_hook_is_inbound() {
    for (side, ingress, egress) in [(Side::Host, "inbound", "outbound"), (Side::Router, "outbound", "inbound")] {
        let text = text(&Interface { side, ..small() });
        let received = chain(&text, "received").join("\n");
        assert!(received.starts_with("type filter hook ingress device \"eth0\""), "{received}");
        assert!(received.contains(&format!("meta protocol ip goto {ingress}4\n")), "{received}");
        let sent = chain(&text, "sent").join("\n");
        assert!(sent.starts_with("type filter hook egress device \"eth0\""), "{sent}");
        assert!(sent.contains(&format!("meta protocol ip6 goto {egress}6\n")), "{sent}");
    }
}

/// Behind conntrack only where something is remembered, and by a mark of each layer's own.
#[test]
fn what_remembers_stands_behind_conntrack() {
    let stateless = text(&small());
    assert!(stateless.contains("table netdev nacld_eth0 {") && !stateless.contains("ct "), "{stateless}");
    let groups = || Some(vec![group("web", &["tcp 443 0.0.0.0/0"], &["all 0.0.0.0/0"])]);
    let nacl_only = Interface { layers: Layers::Nacl, ..interface(open_nacl(), groups()) };
    assert!(!nftables::remembers(&nacl_only));
    let both = interface(open_nacl(), groups());
    let text = text(&both);
    assert!(text.contains("table inet nacld_eth0 {"), "{text}");
    // Inbound the network ACL comes first, outbound the groups (O1).
    assert_eq!(chain(&text, "inbound4_rules"), ["jump inbound4_nacl", "goto inbound4_groups"]);
    assert_eq!(chain(&text, "outbound4_rules"), ["goto outbound4_groups"]);
    assert_eq!(chain(&text, "outbound4_tracked"), ["jump outbound4_nacl", "goto remember_1"]);
    // All ports are open outbound, and 443 to everybody inbound: nobody remembers it (S30).
    let inbound = chain(&text, "inbound4_groups").join("\n");
    let untracked = inbound.find("tcp dport 443 counter goto inbound4_untracked").expect("it is not tracked");
    let tracked = inbound.find("tcp dport 443 counter goto inbound4_tracked").expect("a rule like the others");
    assert!(untracked < tracked, "{inbound}");
    assert_eq!(chain(&text, "inbound4_untracked"), ["accept"]);
    let stateful = Interface { mode: Mode::Stateful, ..both };
    assert_eq!(chain(&self::text(&stateful), "inbound4_untracked"), ["goto remember_2"]);
    assert_eq!(chain(&self::text(&stateful), "inbound4_tracked"), ["goto remember_3"]);
}

#[test]
fn what_is_not_enforced_drops_nothing() {
    let open = Interface { enforce: false, drop_non_ip: true, ..small() };
    assert!(!text(&open).contains("drop"), "{}", text(&open));
    assert!(Difference::of(&open).contains(&Difference::Unenforced));
}

#[test]
fn names_from_a_policy_cannot_leave_their_comment() {
    let mut named = small();
    let mut list = (*named.nacl).clone();
    list.name = format!("a\" drop\n#\\{}", "é".repeat(200));
    named.nacl = list.into();
    for line in text(&named).lines().filter(|line| line.contains("comment")) {
        let comment = line.split_once("comment \"").expect("a comment").1;
        let comment = comment.strip_suffix('"').unwrap_or_else(|| panic!("{line}"));
        assert!(comment.len() <= 128 && !comment.contains(['"', '\\']), "{line}");
    }
}

/// Whatever the policy: the same text each time, chains that are there, and every difference told.
#[test]
fn every_policy_has_a_ruleset_that_is_whole() {
    let mut random = Random(5);
    for _ in 0..200 {
        let [inbound, outbound] = [random.below(30), random.below(30)].map(|count| count as usize);
        let interface = generate::interface(&mut random, inbound, outbound);
        let interface = generate::layered(&mut random, interface);
        let exported = nftables::write("policy.toml", "eth0", &interface);
        assert_eq!(exported.text, text(&interface));
        assert_eq!(exported.notes.len(), Difference::of(&interface).len());
        let chains: Vec<_> = exported.text.lines().filter_map(|line| line.strip_prefix("\tchain ")).collect();
        for rule in exported.text.lines() {
            let words: Vec<_> = rule.split(' ').collect();
            for pair in words.windows(2).filter(|pair| matches!(pair[0].trim(), "goto" | "jump")) {
                assert!(chains.contains(&format!("{} {{", pair[1]).as_str()), "{rule}\n{}", exported.text);
            }
        }
        let mut once = chains.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), chains.len(), "{}", exported.text);
    }
}

#[test]
fn the_examples_are_written_by_the_verb() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let run = |arguments: &[&str]| {
        let mut nacld = Command::new(env!("CARGO_BIN_EXE_nacld"));
        nacld.args(["export", "nftables"]).args(arguments).current_dir(&config).stdin(Stdio::null()).output().unwrap()
    };
    let output = run(&["nacld.toml"]);
    let (out, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{told}");
    let file = fs::read_to_string(config.join("nacld.toml")).unwrap();
    let resolved = policy::load("nacld.toml", &file, &NoHost).resolved.unwrap();
    assert_eq!(out, nftables::write("nacld.toml", "eth0", &resolved.named_interface(None).unwrap().interface).text);
    assert_eq!(
        told.matches("note[export]").count(),
        Difference::of(&resolved.named_interface(None).unwrap().interface).len(),
        "{told}"
    );
    assert!(told.contains("interface.eth0"), "{told}");
    // Of two interfaces one must be named.
    let output = run(&["diagram-b.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let output = run(&["diagram-b.toml", "--interface", "server"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("table inet nacld_server {"));
}
