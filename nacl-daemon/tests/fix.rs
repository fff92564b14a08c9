//! The smallest fix keeps its promises on random policies: the flow passes, every rule is an added allow with a free
//! number below the one that denied, and nothing that passed before is lost.

mod support;

use std::{convert::Infallible, sync::Arc};

use ipnet::IpNet;
use nacl_common::{Action, Direction};
use nacl_daemon::{
    analyze::{Explanation, Fix, Flow, NewRule, Outcome, explain, smallest_fix},
    clients::Client,
    compile::compile,
    engine::Engine,
    resolve::{Group, GroupRule, Interface, Layers, Mode, Nacl, Peer, Protocol, Rule},
};
use support::{
    case::{Case, Flaw, Part},
    generate::{self, Random},
    oracle,
};

/// What the engine says of a flow.
fn ask(interface: &Interface, flow: Flow, direction: Direction) -> Explanation {
    let compiled = compile(interface, None).expect("compiles");
    let mut engine = Engine::new(interface, &compiled);
    let judge = |direction, packet: &_| Ok::<_, Infallible>(engine.judge(direction, packet));
    explain(interface, &compiled, judge, flow, Some(direction), None).expect("one family")
}

fn flow(case: &Case) -> Flow {
    let (source, destination) = match case.direction {
        Direction::Inbound => (case.remote, case.local),
        Direction::Outbound => (case.local, case.remote),
    };
    let icmp = u16::from(case.icmp.0) << 8 | u16::from(case.icmp.1);
    let ported = matches!(case.protocol, 6 | 17);
    Flow {
        protocol: case.protocol,
        source,
        destination,
        sport: if ported { case.sport } else { 0 },
        dport: if ported {
            case.dport
        } else if case.has_icmp() {
            icmp
        } else {
            0
        },
    }
}

#[test]
fn a_fix_mends_the_flow_and_loses_nothing() {
    let mut random = Random(11);
    let (mut proposed, mut refused) = (0, 0);
    for _ in 0..150 {
        let interface = generate::interface(&mut random, 12, 12);
        let interface = generate::layered(&mut random, interface);
        for _ in 0..20 {
            let case = Case { part: Part::Whole, flaw: Flaw::None, ..generate::case(&mut random, &interface) };
            let flow = flow(&case);
            let explanation = ask(&interface, flow, case.direction);
            if explanation.outcome == Outcome::Works {
                assert_eq!(explanation.fix, None, "a flow that works needs no fix");
                continue;
            }
            let Some(fix) = explanation.fix else {
                refused += 1;
                continue;
            };
            proposed += 1;
            let mut mended = interface.clone();
            for new in &fix.rules {
                if let NewRule::Nacl { direction, rule, .. } = new {
                    assert_eq!(rule.action, Action::Allow);
                    let rules = mended.nacl.rules(*direction);
                    assert!(rules.iter().all(|other| other.number != rule.number), "the number is free");
                }
                mended = new.added_to(&mended);
            }
            let after = ask(&mended, flow, case.direction);
            assert_eq!(after.outcome, Outcome::Works);
            for _ in 0..50 {
                let other = generate::case(&mut random, &mended);
                assert!(
                    !oracle::judge(&interface, &other).allow || oracle::judge(&mended, &other).allow,
                    "{other:?} passed before {fix:?}"
                );
            }
        }
    }
    assert!(proposed > 200, "{proposed} fixes proposed, {refused} flows that none can mend");
}

fn rule(number: u16, action: Action, ports: (u16, u16), cidr: &str) -> Rule {
    Rule {
        number,
        action,
        protocol: Protocol::Number(6),
        ports: Some(ports),
        icmp: None,
        cidr: cidr.parse::<IpNet>().expect("a CIDR"),
        reference: None,
        description: None,
        line: 0,
        span: 0..0,
    }
}

fn web(inbound: Vec<Rule>, outbound: Vec<Rule>) -> Interface {
    let mut interface = generate::interface(&mut Random(0), 0, 0);
    interface.subnet_cidrs = Vec::new();
    interface.nacl = Arc::new(Nacl { name: "web".into(), id: None, inbound, outbound });
    interface
}

fn added(direction: Direction, rule: Rule) -> NewRule {
    NewRule::Nacl { nacl: "web".into(), direction, rule }
}

fn https(sport: u16) -> Flow {
    Flow {
        protocol: 6,
        source: "198.51.100.7".parse().expect("an address"),
        destination: "10.0.1.10".parse().expect("an address"),
        sport,
        dport: 443,
    }
}

/// Lab L02: the lesson itself.
#[test]
fn a_missing_return_rule_is_added_for_any_client() {
    let interface = web(vec![rule(100, Action::Allow, (443, 443), "198.51.100.0/24")], vec![]);
    let fix = smallest_fix(&interface, https(52345), Direction::Inbound, None).expect("a fix");
    assert_eq!(fix.rules, [added(Direction::Outbound, rule(100, Action::Allow, (1024, 65535), "198.51.100.0/24"))]);
}

/// Lab L09: a client that is known gets its own range.
#[test]
fn a_known_client_gets_its_own_range() {
    let interface = web(
        vec![rule(100, Action::Allow, (443, 443), "0.0.0.0/0")],
        vec![rule(100, Action::Allow, (32768, 65535), "0.0.0.0/0")],
    );
    let fix = smallest_fix(&interface, https(2000), Direction::Inbound, Some(Client::WindowsXp)).expect("a fix");
    assert_eq!(fix.rules, [added(Direction::Outbound, rule(200, Action::Allow, (1025, 5000), "0.0.0.0/0"))]);
}

/// Lab L10c: an explicit deny is stepped in front of.
#[test]
fn a_deny_is_met_with_a_number_just_below_it() {
    let interface = web(
        vec![rule(100, Action::Allow, (443, 443), "0.0.0.0/0")],
        vec![rule(89, Action::Allow, (1, 1), "0.0.0.0/0"), rule(90, Action::Deny, (3389, 3389), "0.0.0.0/0")],
    );
    let fix = smallest_fix(&interface, https(3389), Direction::Inbound, None).expect("a fix");
    assert_eq!(fix.rules, [added(Direction::Outbound, rule(88, Action::Allow, (1024, 65535), "0.0.0.0/0"))]);
}

/// Lab L11e: a port below 1024 is nobody's ephemeral port, so only it is opened.
#[test]
fn a_bound_low_port_is_opened_alone() {
    let interface = web(vec![rule(100, Action::Allow, (443, 443), "0.0.0.0/0")], vec![]);
    let fix = smallest_fix(&interface, https(443), Direction::Inbound, None).expect("a fix");
    assert_eq!(fix.rules, [added(Direction::Outbound, rule(100, Action::Allow, (443, 443), "0.0.0.0/0"))]);
}

#[test]
fn a_deny_with_number_one_cannot_be_stepped_in_front_of() {
    let interface = web(vec![rule(1, Action::Deny, (443, 443), "0.0.0.0/0")], vec![]);
    assert_eq!(smallest_fix(&interface, https(50000), Direction::Inbound, None), None);
}

fn group_rule(ports: (u16, u16), cidr: &str) -> GroupRule {
    let cidr = cidr.parse::<IpNet>().expect("a CIDR");
    GroupRule::new(Protocol::Number(6), Some(ports), Peer::Cidr(cidr), vec![cidr])
}

fn grouped(interface: Interface, names: &[&str], inbound: &[GroupRule]) -> Interface {
    let groups = names.iter().enumerate().map(|(index, name)| {
        let inbound = if index == 0 { inbound.to_vec() } else { Vec::new() };
        Arc::new(Group { name: (*name).into(), id: None, inbound, outbound: Vec::new() })
    });
    Interface { groups: Some(groups.collect()), ..interface }
}

fn fix(interface: &Interface, flow: Flow) -> Option<Fix> {
    smallest_fix(interface, flow, Direction::Inbound, None)
}

/// The what-if: the network ACL remembers, so the answer needs no rule.
#[test]
fn a_stateful_network_acl_needs_a_rule_for_the_request_alone() {
    let open = web(vec![rule(100, Action::Allow, (443, 443), "198.51.100.0/24")], vec![]);
    assert_eq!(
        ask(&Interface { mode: Mode::Stateful, ..open }, https(50000), Direction::Inbound).outcome,
        Outcome::Works
    );
    let closed = Interface { mode: Mode::Stateful, ..web(vec![], vec![]) };
    let fix = fix(&closed, https(50000)).expect("a fix");
    assert_eq!(fix.rules, [added(Direction::Inbound, rule(100, Action::Allow, (443, 443), "198.51.100.7/32"))]);
}

#[test]
fn a_group_that_blocks_gets_a_rule_and_remembers_the_reply() {
    let everybody = rule(100, Action::Allow, (0, 65535), "0.0.0.0/0");
    let interface = web(vec![everybody.clone()], vec![everybody]);
    let interface = grouped(interface, &["sg-1", "sg-2"], &[group_rule((22, 22), "198.51.100.0/24")]);
    let only = fix(&interface, https(50000)).expect("a fix");
    let new = |cidr: &str| NewRule::Group {
        group: "sg-1".into(),
        direction: Direction::Inbound,
        rule: group_rule((443, 443), cidr),
    };
    // A network ACL that is open to everybody does not say that the group is to be.
    assert_eq!(only.rules, [new("198.51.100.7/32")]);
    let narrow = rule(100, Action::Allow, (443, 443), "198.51.100.0/24");
    let interface = grouped(web(vec![narrow], vec![]), &["sg-1", "sg-2"], &[]);
    let both = fix(&interface, https(50000)).expect("a fix");
    let reply = added(Direction::Outbound, rule(100, Action::Allow, (1024, 65535), "198.51.100.0/24"));
    assert_eq!(both.rules, [new("198.51.100.0/24"), reply]);
}

#[test]
fn each_layer_that_blocks_gets_a_rule() {
    let interface = grouped(web(vec![], vec![]), &["sg-1"], &[]);
    let request = rule(100, Action::Allow, (443, 443), "198.51.100.7/32");
    let reply = rule(100, Action::Allow, (1024, 65535), "198.51.100.7/32");
    let group = NewRule::Group {
        group: "sg-1".into(),
        direction: Direction::Inbound,
        rule: group_rule((443, 443), "198.51.100.7/32"),
    };
    let [inbound, outbound] = [added(Direction::Inbound, request), added(Direction::Outbound, reply)];
    let all = fix(&interface, https(50000)).expect("a fix");
    assert_eq!(all.rules, [inbound.clone(), group.clone(), outbound]);
    let stateful = Interface { mode: Mode::Stateful, ..interface.clone() };
    assert_eq!(fix(&stateful, https(50000)).expect("a fix").rules, [inbound, group.clone()]);
    let groups = Interface { layers: Layers::Groups, ..interface };
    assert_eq!(fix(&groups, https(50000)).expect("a fix").rules, [group]);
}

/// Who writes a rule into AWS's default group writes the group, and takes away what AWS puts there.
#[test]
fn nothing_is_added_to_a_group_that_is_not_written() {
    let everybody = rule(100, Action::Allow, (0, 65535), "0.0.0.0/0");
    let interface = web(vec![everybody.clone()], vec![everybody]);
    assert_eq!(fix(&grouped(interface.clone(), &[], &[]), https(50000)), None);
    assert_eq!(fix(&grouped(interface.clone(), &["default"], &[]), https(50000)), None);
    let second = fix(&grouped(interface, &["default", "sg-2"], &[]), https(50000)).expect("a fix");
    assert!(matches!(&second.rules[..], [NewRule::Group { group, .. }] if group == "sg-2"), "{second:?}");
}
