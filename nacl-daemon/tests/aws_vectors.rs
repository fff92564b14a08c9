//! What AWS documents about connections, packet by packet, each fact by its number (`S31`): judged by the engine and by the
//! naive oracle side by side. And by name what random sequences have found.

mod support;

use std::sync::Arc;

use nacl_common::{Action, Direction};
use nacl_daemon::resolve::{Group, Interface, Layers, Mode, Tracking};
use support::{
    case::Part,
    host::{ACK, FIN, Pair, RST, SYN, Talk},
    written::{group, group_rule, interface, nacl, open_nacl},
};

const HERE: &str = "10.0.2.10";
const HERE6: &str = "2001:db8::10";

/// The groups of S31.
fn documented() -> Arc<Group> {
    group(
        "documented",
        &["tcp 22 203.0.113.1/32", "tcp 80 0.0.0.0/0", "tcp 80 ::/0", "icmp all 0.0.0.0/0"],
        &["all 0.0.0.0/0", "all ::/0"],
    )
}

fn with(groups: Vec<Arc<Group>>) -> Pair {
    Pair::new(interface(open_nacl(), Some(groups)))
}

/// Begins a flow; whether it is tracked.
fn tracks(pair: &mut Pair, flow: &Talk) -> bool {
    let before = pair.tracked();
    assert!(pair.passes(&flow.request(SYN)), "{flow:?} begins");
    assert!(pair.passes(&flow.reply(SYN | ACK)), "{flow:?} is answered");
    match pair.tracked() - before {
        0 => false,
        1 => true,
        more => panic!("{more} connections for one flow"),
    }
}

#[test]
fn s31_ssh_is_tracked_http_is_not_and_icmp_is() {
    let mut pair = with(vec![documented()]);
    assert!(tracks(&mut pair, &Talk::inbound(6, "203.0.113.1", HERE, 22)));
    assert!(!tracks(&mut pair, &Talk::inbound(6, "198.51.100.7", HERE, 80)));
    assert!(!tracks(&mut pair, &Talk::inbound(6, "2001:db8:1::7", HERE6, 80)));
    assert!(tracks(&mut pair, &Talk::inbound(1, "198.51.100.7", HERE, 0)));
}

#[test]
fn s31_without_the_ipv4_outbound_rule_all_ipv4_is_tracked() {
    let mut pair = with(vec![documented()]);
    pair.reload(|interface| {
        let group = Arc::make_mut(&mut interface.groups.as_mut().expect("groups")[0]);
        group.outbound.retain(|rule| rule.cidrs[0].addr().is_ipv6());
    });
    assert!(tracks(&mut pair, &Talk::inbound(6, "203.0.113.1", HERE, 22)));
    assert!(tracks(&mut pair, &Talk::inbound(6, "198.51.100.7", HERE, 80)));
    assert!(tracks(&mut pair, &Talk::inbound(1, "198.51.100.7", HERE, 0)));
    assert!(!tracks(&mut pair, &Talk::inbound(6, "2001:db8:1::7", HERE6, 80)), "each family has its own rules");
}

#[test]
fn s31_without_the_ipv6_outbound_rule_all_ipv6_is_tracked() {
    let mut pair = with(vec![documented()]);
    pair.reload(|interface| {
        let group = Arc::make_mut(&mut interface.groups.as_mut().expect("groups")[0]);
        group.outbound.retain(|rule| rule.cidrs[0].addr().is_ipv4());
    });
    assert!(tracks(&mut pair, &Talk::inbound(6, "2001:db8:1::7", HERE6, 80)));
    assert!(!tracks(&mut pair, &Talk::inbound(6, "198.51.100.7", HERE, 80)));
}

/// S30 by its words: all ports, 0.0.0.0/0, TCP or UDP.
#[test]
fn s30_a_flow_is_untracked_only_between_rules_open_to_all() {
    let http = Talk::inbound(6, "198.51.100.7", HERE, 80);
    let dns = Talk::inbound(17, "198.51.100.7", HERE, 53);
    let sctp = Talk::inbound(132, "198.51.100.7", HERE, 0);
    let tracked = |inbound: &[&str], outbound: &[&str], flow: &Talk| {
        tracks(&mut with(vec![group("one", inbound, outbound)]), flow)
    };
    assert!(!tracked(&["tcp 80 0.0.0.0/0"], &["tcp 0-65535 0.0.0.0/0"], &http));
    assert!(!tracked(&["tcp 80 0.0.0.0/0"], &["tcp all 0.0.0.0/0"], &http));
    assert!(tracked(&["tcp 80 0.0.0.0/0"], &["tcp 1-65535 0.0.0.0/0"], &http), "not all ports");
    assert!(tracked(&["tcp 80 0.0.0.0/0"], &["udp all 0.0.0.0/0"], &http), "not its protocol");
    assert!(tracked(&["tcp 80 0.0.0.0/0"], &["tcp all 0.0.0.0/1", "tcp all 128.0.0.0/1"], &http), "not in one rule");
    assert!(tracked(&["tcp 80 0.0.0.0/0"], &["all ::/0"], &http), "not its family");
    assert!(tracked(&["tcp 80 198.51.100.0/24"], &["all 0.0.0.0/0"], &http), "not open to everybody");
    assert!(tracked(&["tcp 80 pl:all 0.0.0.0/0"], &["all 0.0.0.0/0"], &http), "a prefix list is not the CIDR");
    assert!(!tracked(&["udp 53 0.0.0.0/0"], &["all 0.0.0.0/0"], &dns));
    assert!(tracked(&["132 0.0.0.0/0"], &["all 0.0.0.0/0"], &sctp), "other protocols always are");
    // The rules are a pool (S2), and the most permissive one that matches decides.
    let narrow = group("narrow", &["tcp 80 198.51.100.0/24"], &[]);
    let wide = group("wide", &["tcp 80 0.0.0.0/0"], &["all 0.0.0.0/0"]);
    assert!(!tracks(&mut with(vec![narrow.clone(), wide.clone()]), &http));
    let mut pair = with(vec![narrow, wide]);
    assert_eq!(pair.says(&http.request(SYN)), "passes: inbound 100, wide inbound 1");
}

/// The two flow-log lines of AWS's documentation: ping in; the security group admits ICMP, the network ACL admits it in and not
/// out.
#[test]
fn flow_log_ping_the_request_is_accepted_and_the_reply_rejected() {
    let nacl = nacl(&["100 allow icmp all 0.0.0.0/0"], &["100 allow tcp all 0.0.0.0/0"]);
    let groups = Some(vec![group("web", &["icmp all 0.0.0.0/0"], &[])]);
    let mut pair = Pair::new(interface(nacl, groups));
    let ping = Talk::inbound(1, "203.0.113.12", "172.31.16.139", 0);
    assert_eq!(pair.says(&ping.request(0)), "passes: inbound 100, web inbound 1");
    let reply = pair.meet(&ping.reply(0));
    assert!(!reply.allow, "the network ACL drops it");
    assert_eq!(pair.says(&ping.reply(0)), "dropped: outbound *");
    // The group would have let it pass: it remembers the request.
    pair.mode(Mode::Stateless, Layers::Groups);
    assert_eq!(pair.says(&ping.reply(0)), "passes: outbound tracked");
    pair.mode(Mode::Stateful, Layers::Both);
    assert_eq!(pair.says(&ping.request(0)), "passes: inbound tracked");
    assert_eq!(pair.says(&ping.reply(0)), "passes: outbound tracked");
}

/// N7: the documented walk-through, and what memory changes about it.
#[test]
fn n7_443_hits_110_and_139_reaches_the_end() {
    let inbound = [
        "100 allow tcp 80 0.0.0.0/0",
        "105 allow tcp 80 ::/0",
        "110 allow tcp 443 0.0.0.0/0",
        "115 allow tcp 443 ::/0",
        "120 allow tcp 22 192.0.2.0/24",
        "130 allow tcp 3389 192.0.2.0/24",
        "140 allow tcp 32768-65535 0.0.0.0/0",
        "145 allow tcp 32768-65535 ::/0",
    ];
    let outbound = [
        "100 allow tcp 80 0.0.0.0/0",
        "105 allow tcp 80 ::/0",
        "110 allow tcp 443 0.0.0.0/0",
        "115 allow tcp 443 ::/0",
        "120 allow tcp 1024-65535 192.0.2.0/24",
        "140 allow tcp 32768-65535 0.0.0.0/0",
        "145 allow tcp 32768-65535 ::/0",
    ];
    let mut pair = Pair::new(interface(nacl(&inbound, &outbound), None));
    let https = Talk::inbound(6, "198.51.100.7", HERE, 443);
    assert_eq!(pair.says(&https.request(SYN)), "passes: inbound 110");
    assert_eq!(pair.says(&https.reply(SYN | ACK)), "passes: outbound 140");
    assert_eq!(pair.says(&Talk::inbound(6, "2001:db8:1::7", HERE6, 443).request(SYN)), "passes: inbound 115");
    assert_eq!(pair.says(&Talk::inbound(6, "198.51.100.7", HERE, 139).request(SYN)), "dropped: inbound *");
    assert_eq!(pair.says(&Talk::inbound(6, "198.51.100.7", HERE, 22).request(SYN)), "dropped: inbound *");
    assert_eq!(pair.says(&Talk::inbound(6, "192.0.2.7", HERE, 22).request(SYN)), "passes: inbound 120");
    // A client below 32768: stateless its replies reach `*`, stateful they are remembered.
    let xp = https.from(1030);
    assert_eq!(pair.says(&xp.request(SYN)), "passes: inbound 110");
    assert_eq!(pair.says(&xp.reply(SYN | ACK)), "dropped: outbound *");
    pair.mode(Mode::Stateful, Layers::Both);
    assert_eq!(pair.says(&xp.request(SYN)), "passes: inbound 110");
    assert_eq!(pair.says(&xp.reply(SYN | ACK)), "passes: outbound tracked");
    assert_eq!(pair.says(&Talk::inbound(6, "198.51.100.7", HERE, 139).request(SYN)), "dropped: inbound *");
}

#[test]
fn s28_replies_pass_whatever_the_other_direction_says() {
    let mut pair = with(vec![group("web", &["tcp 443 0.0.0.0/0", "udp 53 192.0.2.0/24"], &[])]);
    for flow in [Talk::inbound(6, "192.0.2.7", HERE, 443), Talk::inbound(17, "192.0.2.7", HERE, 53)] {
        assert_eq!(pair.says(&flow.reply(SYN | ACK)), "dropped: outbound sg *", "nothing was asked");
        assert!(pair.passes(&flow.request(SYN)));
        assert_eq!(pair.says(&flow.reply(SYN | ACK)), "passes: outbound 100, outbound tracked");
        assert_eq!(pair.says(&flow.from(52346).reply(SYN | ACK)), "dropped: outbound sg *", "another flow");
    }
    assert_eq!(pair.says(&Talk::outbound(6, "192.0.2.7", HERE, 443).request(SYN)), "dropped: outbound sg *", "S6");
}

#[test]
fn s29_other_protocols_are_tracked_by_addresses_for_600_seconds() {
    let flow = Talk::outbound(47, "192.0.2.7", HERE, 0);
    let mut pair = with(vec![group("gre", &[], &["47 0.0.0.0/0"])]);
    assert!(!pair.passes(&flow.reply(0)), "nothing was sent");
    assert!(pair.passes(&flow.request(0)));
    assert!(pair.passes(&flow.reply(0)));
    assert!(!pair.passes(&Talk { protocol: 50, ..flow }.reply(0)), "another protocol");
    assert!(!pair.passes(&Talk { remote: "192.0.2.8".parse().expect("an address"), ..flow }.reply(0)), "another peer");
    pair.wait_nearly(600);
    assert!(pair.clone().passes(&flow.reply(0)), "just before 600 s");
    pair.wait(1);
    assert!(!pair.passes(&flow.reply(0)), "after them");
}

fn ten_inbound(rules: &[&str], outbound: &[&str]) -> (Pair, Talk) {
    let mut pair = with(vec![group("web", rules, outbound)]);
    pair.wait(100);
    let flow = Talk::inbound(6, "192.0.2.7", HERE, 443);
    assert!(flow.open(&mut pair));
    (pair, flow)
}

fn without_rules(interface: &mut Interface) {
    interface.groups = Some(vec![group("web", &[], &[])]);
}

#[test]
fn s32_a_tracked_flow_outlives_its_rule_until_it_times_out() {
    let (mut pair, flow) = ten_inbound(&["tcp 443 192.0.2.0/24"], &[]);
    pair.reload(without_rules);
    assert_eq!(pair.says(&flow.request(ACK)), "passes: inbound 100, inbound tracked");
    pair.wait_nearly(432_000);
    assert_eq!(pair.says(&flow.reply(ACK)), "passes: outbound 100, outbound tracked");
    pair.wait(432_000);
    assert_eq!(pair.says(&flow.request(ACK)), "dropped: inbound sg *");
    assert_eq!(pair.says(&flow.reply(ACK)), "dropped: outbound sg *");
}

#[test]
fn s32_an_untracked_flow_is_cut_with_its_rule() {
    let (mut pair, flow) = ten_inbound(&["tcp 443 0.0.0.0/0"], &["all 0.0.0.0/0"]);
    assert_eq!(pair.says(&flow.reply(ACK)), "passes: outbound 100, web outbound 1", "by the rule, not remembered");
    pair.reload(|interface| interface.groups = Some(vec![group("web", &[], &["all 0.0.0.0/0"])]));
    assert_eq!(pair.says(&flow.request(ACK)), "dropped: inbound sg *");
    assert_eq!(pair.says(&flow.reply(ACK)), "passes: outbound 100, web outbound 1", "its own rule is still there");
    assert_eq!(pair.says(&flow.request(ACK)), "dropped: inbound sg *", "and what it lets pass is no new connection");
    assert_eq!(pair.live(), 0);
}

#[test]
fn s32_a_network_acl_cuts_a_tracked_flow_at_once() {
    let (mut pair, flow) = ten_inbound(&["tcp 443 192.0.2.0/24"], &[]);
    pair.reload(|interface| interface.nacl = nacl(&["10 deny tcp 443 192.0.2.0/24"], &["100 allow all 0.0.0.0/0"]));
    assert_eq!(pair.says(&flow.request(ACK)), "dropped: inbound 10");
    assert_eq!(pair.says(&flow.reply(ACK)), "passes: outbound 100, outbound tracked");
}

#[test]
fn s35_idle_timeouts_at_their_edges() {
    let edge = |tracking: Tracking, protocol: u8, exchange: &[bool], seconds: u64| {
        let rules = ["tcp 443 192.0.2.0/24", "udp 443 192.0.2.0/24", "icmp 8 192.0.2.0/24"];
        let mut pair = with(vec![group("web", &rules, &[])]);
        pair.reload(|interface| interface.tracking = tracking);
        let flow = Talk::inbound(protocol, "192.0.2.7", HERE, 443);
        for (place, asks) in exchange.iter().enumerate() {
            let flags = if place == 0 {
                SYN
            } else if place == 1 {
                SYN | ACK
            } else {
                ACK
            };
            assert!(pair.passes(&if *asks { flow.request(flags) } else { flow.reply(flags) }));
        }
        pair.wait_nearly(seconds);
        assert_eq!(pair.live(), 1, "just before {seconds} s");
        assert!(pair.clone().passes(&flow.reply(ACK)), "just before {seconds} s");
        pair.wait_nearly(1);
        assert!(!pair.clone().passes(&flow.reply(ACK)), "after {seconds} s");
        let mut at = pair;
        assert_eq!(at.live(), 0);
        assert!(!at.passes(&flow.reply(ACK)));
    };
    let usual = Tracking::default();
    let handshake = [true, false, true];
    edge(usual, 6, &handshake, 432_000);
    edge(Tracking { tcp_established: 350, ..usual }, 6, &handshake, 350);
    edge(Tracking { tcp_established: 60, ..usual }, 6, &handshake, 60);
    edge(usual, 17, &[true], 30);
    edge(usual, 17, &[true, true], 30);
    edge(usual, 17, &[true, false], 30);
    edge(usual, 17, &[true, false, true], 30);
    edge(usual, 17, &[true, false, true, false], 180);
    edge(Tracking { udp: 60, udp_stream: 60, ..usual }, 17, &[true, false, true, false], 60);
    // Ours (S37).
    edge(usual, 6, &[true], 60);
    edge(usual, 6, &[true, false], 60);
    edge(usual, 1, &[true, false], 30);
}

#[test]
fn s37_closing_connections_are_forgotten_soon() {
    let (pair, flow) = ten_inbound(&["tcp 443 192.0.2.0/24"], &[]);
    for (flags, both, seconds) in [(FIN | ACK, false, 120), (FIN | ACK, true, 10), (RST, false, 10)] {
        let mut pair = pair.clone();
        assert!(pair.passes(&flow.request(flags)));
        if both {
            assert!(pair.passes(&flow.reply(FIN | ACK)));
        }
        pair.wait_nearly(seconds);
        assert!(pair.clone().passes(&flow.reply(ACK)), "just before {seconds} s");
        pair.wait(1);
        assert_eq!(pair.says(&flow.reply(ACK)), "dropped: outbound sg *");
    }
}

#[test]
fn s39_a_full_table_drops_new_flows_both_ways_and_none_that_runs() {
    let mut interface =
        interface(open_nacl(), Some(vec![group("all", &["tcp 443 192.0.2.0/24"], &["tcp 443 192.0.2.0/24"])]));
    interface.tracking.entries = 2;
    let mut pair = Pair::new(interface);
    let (one, other) = (Talk::inbound(6, "192.0.2.7", HERE, 443), Talk::outbound(6, "192.0.2.7", HERE, 443));
    assert!(one.open(&mut pair) && other.open(&mut pair));
    assert_eq!(pair.says(&one.from(1).request(SYN)), "dropped: conntrack-full");
    assert_eq!(pair.says(&other.from(1).request(SYN)), "dropped: conntrack-full");
    assert!(pair.passes(&one.request(ACK)) && pair.passes(&other.reply(ACK)));
    // One that ends makes room as soon as it is forgotten, and not before.
    assert!(pair.passes(&one.request(RST)));
    assert_eq!(pair.says(&one.from(1).request(SYN)), "dropped: conntrack-full");
    pair.wait(10);
    assert!(pair.passes(&one.from(1).request(SYN)));
    // What is not tracked needs no room.
    let all = ["all 0.0.0.0/0"];
    pair.reload(|interface| interface.groups = Some(vec![group("open", &all, &all)]));
    assert!(pair.passes(&one.from(2).request(SYN)));
}

#[test]
fn s40_icmp_errors_are_not_related() {
    for (mode, layers) in
        [(Mode::Stateless, Layers::Groups), (Mode::Stateful, Layers::Nacl), (Mode::Stateful, Layers::Both)]
    {
        let nacl = nacl(&["100 allow tcp 443 0.0.0.0/0"], &["100 allow tcp 1024-65535 0.0.0.0/0"]);
        let mut pair = Pair::new(interface(nacl, Some(vec![group("web", &["tcp 443 192.0.2.0/24"], &[])])));
        pair.mode(mode, layers);
        let flow = Talk::inbound(6, "192.0.2.7", HERE, 443);
        assert!(flow.open(&mut pair));
        let told = pair.says(&flow.error());
        let by = if layers == Layers::Groups { "inbound sg *" } else { "inbound *" };
        assert_eq!(told, format!("dropped: {by}"));
    }
}

#[test]
fn o1_inbound_the_network_acl_comes_first_and_outbound_the_groups() {
    let nothing = || interface(nacl(&[], &[]), Some(vec![group("none", &[], &[])]));
    let mut pair = Pair::new(nothing());
    let (into, out) = (Talk::inbound(6, "192.0.2.7", HERE, 443), Talk::outbound(6, "192.0.2.7", HERE, 443));
    assert_eq!(pair.says(&into.request(SYN)), "dropped: inbound *");
    assert_eq!(pair.says(&out.request(SYN)), "dropped: outbound sg *");
    // The second is named where the first lets pass, and the first with it.
    pair.reload(|interface| interface.nacl = open_nacl());
    let expected = pair.meet(&into.request(SYN));
    assert_eq!(pair.says(&into.request(SYN)), "dropped: inbound sg *");
    assert_eq!(expected.also, support::oracle::Decider::Nacl(100));
    pair.reload(|interface| {
        *interface = Interface { groups: Some(vec![group("all", &[], &["all 0.0.0.0/0"])]), ..nothing() }
    });
    let expected = pair.meet(&out.request(SYN));
    assert_eq!(pair.says(&out.request(SYN)), "dropped: outbound *");
    assert_eq!(expected.also, support::oracle::Decider::Group(0, 1));
}

/// A request from one host to another and its reply, and who judged them.
fn crossings(subnet: Option<&str>) -> Vec<String> {
    let host = |address: &str, inbound: &[&str], outbound: &[&str]| {
        let mut interface = interface(
            nacl(&["100 allow tcp all 10.0.0.0/16"], &["100 allow tcp all 10.0.0.0/16"]),
            Some(vec![group(address, inbound, outbound)]),
        );
        interface.subnet_cidrs = subnet.map(|cidr| cidr.parse().expect("a CIDR")).into_iter().collect();
        Pair::new(interface)
    };
    let mut a = host("sg-a", &[], &["tcp 443 10.0.0.0/16"]);
    let mut b = host("sg-b", &["tcp 443 10.0.0.0/16"], &[]);
    let (at_a, at_b) =
        (Talk::outbound(6, "10.0.2.10", "10.0.1.10", 443), Talk::inbound(6, "10.0.1.10", "10.0.2.10", 443));
    vec![
        a.says(&at_a.request(SYN)),
        b.says(&at_b.request(SYN)),
        b.says(&at_b.reply(SYN | ACK)),
        a.says(&at_a.reply(SYN | ACK)),
    ]
}

#[test]
fn o2_between_subnets_four_network_acl_crossings_and_two_group_decisions() {
    assert_eq!(
        crossings(None),
        [
            "passes: outbound 100, sg-a outbound 1",
            "passes: inbound 100, sg-b inbound 1",
            "passes: outbound 100, outbound tracked",
            "passes: inbound 100, inbound tracked",
        ]
    );
}

#[test]
fn o3_inside_a_subnet_only_the_groups_judge() {
    assert_eq!(
        crossings(Some("10.0.0.0/16")),
        [
            "passes: same-subnet, sg-a outbound 1",
            "passes: same-subnet, sg-b inbound 1",
            "passes: same-subnet, outbound tracked",
            "passes: same-subnet, inbound tracked",
        ]
    );
}

/// O5, where AWS is silent: what the network ACL drops leaves nothing behind in the groups' memory.
#[test]
fn o5_a_connection_is_made_only_when_all_layers_admit_it() {
    let groups = || Some(vec![group("all", &[], &["tcp 443 0.0.0.0/0"])]);
    let mut pair = Pair::new(interface(nacl(&["100 allow all 0.0.0.0/0"], &[]), groups()));
    let flow = Talk::outbound(6, "192.0.2.7", HERE, 443);
    assert_eq!(pair.says(&flow.request(SYN)), "dropped: outbound *");
    assert_eq!(pair.live(), 0);
    assert_eq!(pair.says(&flow.reply(SYN | ACK)), "dropped: inbound sg *");
}

/// S38, ours: connections that run when tracking is switched on are taken up for a while, and a change of rules ends it.
#[test]
fn s38_connections_are_taken_up_for_a_minute_and_until_the_rules_change() {
    let flow = Talk::inbound(6, "192.0.2.7", HERE, 443);
    let stateless = || Pair::new(interface(nacl(&["100 allow tcp 443 0.0.0.0/0"], &["100 allow all 0.0.0.0/0"]), None));
    let remembered = |mut pair: Pair, flags| {
        pair.passes(&flow.request(flags));
        pair.live() == 1
    };
    let mut pair = stateless();
    pair.wait(1000);
    assert!(!remembered(pair.clone(), ACK), "stateless");
    pair.mode(Mode::Stateful, Layers::Both);
    assert!(remembered(pair.clone(), ACK));
    assert!(!remembered(pair.clone(), FIN | ACK), "what ends is not worth it");
    assert!(!remembered(pair.clone(), RST));
    assert!(!remembered(pair.clone(), SYN | ACK), "the answer to a SYN that nobody saw");
    let mut reloaded = pair.clone();
    reloaded.reload(|_| {});
    assert!(!remembered(reloaded, ACK), "after a reload");
    let mut toggled = pair.clone();
    toggled.mode(Mode::Stateful, Layers::Nacl);
    assert!(remembered(toggled, ACK), "settings alone do not end it");
    pair.wait_nearly(60);
    assert!(remembered(pair.clone(), ACK), "just before a minute is over");
    pair.wait(1);
    assert!(!remembered(pair.clone(), ACK), "after it");
    assert!(remembered(pair, SYN), "a SYN always begins one");
}

/// Later fragments share what the first one met, under the same policy, for 30 s; alone they fail closed (N49, ours).
#[test]
fn n49_later_fragments_share_the_verdict_of_the_first() {
    let mut pair = with(vec![group("web", &["udp 53 192.0.2.0/24"], &[])]);
    let flow = Talk::inbound(17, "192.0.2.7", HERE, 53);
    let part = |part, ident| support::case::Case { part, ident, ..flow.request(0) };
    assert_eq!(pair.says(&part(Part::Later, 7)), "dropped: inbound sg *", "without a first one");
    assert!(pair.passes(&part(Part::First, 7)));
    let shared = pair.meet(&part(Part::Later, 7));
    assert!(shared.allow && shared.reason == "shared-with-first-fragment");
    assert!(!pair.passes(&part(Part::Later, 8)), "another packet");
    let mut reloaded = pair.clone();
    reloaded.reload(|_| {});
    assert!(!reloaded.passes(&part(Part::Later, 7)), "under another policy");
    pair.wait_nearly(30);
    assert!(pair.clone().passes(&part(Part::Later, 7)));
    pair.wait(1);
    assert!(!pair.passes(&part(Part::Later, 7)));
}

/// Found by random sequences: the answer within an untracked UDP flow was taken for the first packet of a connection. From
/// then on the flow was tracked and outlived its rule, against S32.
#[test]
fn answers_do_not_make_an_untracked_flow_a_tracked_one() {
    let mut pair = with(vec![group("dns", &["udp 53 0.0.0.0/0"], &["all 0.0.0.0/0"])]);
    let flow = Talk::inbound(17, "192.0.2.7", HERE, 53);
    assert!(pair.passes(&flow.request(0)) && pair.passes(&flow.reply(0)) && pair.passes(&flow.request(0)));
    assert_eq!(pair.live(), 0);
    pair.reload(|interface| interface.groups = Some(vec![group("dns", &[], &["all 0.0.0.0/0"])]));
    assert_eq!(pair.says(&flow.request(0)), "dropped: inbound sg *");
    // Nor while connections met in their middle are taken up.
    let mut pair = with(vec![group("web", &["tcp 443 0.0.0.0/0"], &["all 0.0.0.0/0"])]);
    let flow = Talk::inbound(6, "192.0.2.7", HERE, 443);
    assert!(pair.passes(&flow.reply(ACK)));
    assert_eq!(pair.live(), 0);
    // A question of our own is remembered: no inbound rule is open to its answer.
    let mut pair = with(vec![group("dns", &["udp 53 0.0.0.0/0"], &["all 0.0.0.0/0"])]);
    let question = Talk::outbound(17, "192.0.2.7", HERE, 53);
    assert!(pair.passes(&question.request(0)) && pair.passes(&question.reply(0)));
    assert_eq!(pair.tracked(), 1);
}

/// Found with the same sequences: a flow that is not remembered, between the ports of a connection that was closed, went on
/// as that connection.
#[test]
fn a_closed_connection_does_not_live_on_in_an_untracked_flow() {
    let (mut pair, flow) = ten_inbound(&["tcp 443 192.0.2.0/24"], &[]);
    assert!(pair.passes(&flow.request(RST)));
    let open = |interface: &mut Interface| {
        interface.groups = Some(vec![group("web", &["tcp 443 0.0.0.0/0"], &["all 0.0.0.0/0"])]);
    };
    pair.reload(open);
    assert!(flow.open(&mut pair));
    assert_eq!(pair.live(), 0);
    pair.reload(without_rules);
    assert_eq!(pair.says(&flow.request(ACK)), "dropped: inbound sg *");
}

/// An RST only shortens the time: whoever forges one ends nothing.
#[test]
fn an_rst_ends_no_flow_that_goes_on() {
    let (mut pair, flow) = ten_inbound(&["tcp 443 192.0.2.0/24"], &[]);
    assert!(pair.passes(&flow.request(RST)));
    for _ in 0..20 {
        pair.wait(9);
        assert!(pair.passes(&flow.reply(ACK)) && pair.passes(&flow.request(ACK)));
    }
    // The same ports again are a new connection, judged anew.
    pair.reload(without_rules);
    assert_eq!(pair.says(&flow.request(SYN)), "dropped: inbound sg *");
}

/// Two ends that ask each other with one identifier are two exchanges.
#[test]
fn pings_both_ways_with_one_identifier_are_told_apart() {
    let mut pair = with(vec![group("ping", &["icmp 8 0.0.0.0/0"], &["icmp 8 0.0.0.0/0"])]);
    let (into, out) = (Talk::inbound(1, "192.0.2.7", HERE, 0), Talk::outbound(1, "192.0.2.7", HERE, 0));
    assert!(pair.passes(&into.request(0)));
    assert!(!pair.passes(&out.reply(0)), "nobody here has asked");
    assert!(pair.passes(&into.reply(0)) && pair.passes(&out.request(0)) && pair.passes(&out.reply(0)));
    assert_eq!(pair.live(), 2);
}

/// What this file writes by hand is what it says.
#[test]
fn rules_are_read_as_they_are_written() {
    let rule = group_rule("tcp 80-90 pl:office 192.0.2.0/24 198.51.100.0/24");
    assert_eq!((rule.ports, rule.cidrs.len()), (Some((80, 90)), 2));
    assert_eq!(support::written::rule("10 deny icmp 3/4 0.0.0.0/0").action, Action::Deny);
    assert_eq!(Talk::inbound(6, "192.0.2.7", HERE, 80).request(SYN).direction, Direction::Inbound);
}
