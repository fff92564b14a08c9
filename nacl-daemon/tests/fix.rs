//! The smallest fix keeps its promises on random policies: the flow passes, every rule is an added allow with a free
//! number below the one that denied, and nothing that passed before is lost.

mod support;

use std::{convert::Infallible, sync::Arc};

use ipnet::IpNet;
use nacl_common::{Action, Direction};
use nacl_daemon::{
    analyze::{Explanation, Flow, Outcome, explain, smallest_fix},
    clients::Client,
    compile::compile,
    resolve::{Interface, Nacl, Protocol, Rule},
};
use support::{
    case::{Case, Flaw, Part},
    generate::{self, Random},
    oracle,
};

/// What the engine says of a flow.
fn ask(interface: &Interface, flow: Flow, direction: Direction) -> Explanation {
    let compiled = compile(interface, None).expect("compiles");
    let judge = |direction, packet: &_| Ok::<_, Infallible>(compiled.judge(direction, packet));
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
            let mut nacl = Nacl::clone(&interface.nacl);
            for new in &fix.rules {
                assert_eq!(new.rule.action, Action::Allow);
                let rules = if new.direction == Direction::Inbound { &mut nacl.inbound } else { &mut nacl.outbound };
                assert!(rules.iter().all(|rule| rule.number != new.rule.number), "the number is free");
                rules.push(new.rule.clone());
                rules.sort_by_key(|rule| rule.number);
            }
            let mended = Interface { nacl: Arc::new(nacl), ..interface.clone() };
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
    let [new] = fix.rules.as_slice() else { panic!("one rule: {fix:?}") };
    assert_eq!(new.direction, Direction::Outbound);
    assert_eq!(new.rule, rule(100, Action::Allow, (1024, 65535), "198.51.100.0/24"));
}

/// Lab L09: a client that is known gets its own range.
#[test]
fn a_known_client_gets_its_own_range() {
    let interface = web(
        vec![rule(100, Action::Allow, (443, 443), "0.0.0.0/0")],
        vec![rule(100, Action::Allow, (32768, 65535), "0.0.0.0/0")],
    );
    let fix = smallest_fix(&interface, https(2000), Direction::Inbound, Some(Client::WindowsXp)).expect("a fix");
    assert_eq!(fix.rules[0].rule, rule(200, Action::Allow, (1025, 5000), "0.0.0.0/0"));
}

/// Lab L10c: an explicit deny is stepped in front of.
#[test]
fn a_deny_is_met_with_a_number_just_below_it() {
    let interface = web(
        vec![rule(100, Action::Allow, (443, 443), "0.0.0.0/0")],
        vec![rule(89, Action::Allow, (1, 1), "0.0.0.0/0"), rule(90, Action::Deny, (3389, 3389), "0.0.0.0/0")],
    );
    let fix = smallest_fix(&interface, https(3389), Direction::Inbound, None).expect("a fix");
    assert_eq!(fix.rules[0].rule, rule(88, Action::Allow, (1024, 65535), "0.0.0.0/0"));
}

/// Lab L11e: a port below 1024 is nobody's ephemeral port, so only it is opened.
#[test]
fn a_bound_low_port_is_opened_alone() {
    let interface = web(vec![rule(100, Action::Allow, (443, 443), "0.0.0.0/0")], vec![]);
    let fix = smallest_fix(&interface, https(443), Direction::Inbound, None).expect("a fix");
    assert_eq!(fix.rules[0].rule, rule(100, Action::Allow, (443, 443), "0.0.0.0/0"));
}

#[test]
fn a_deny_with_number_one_cannot_be_stepped_in_front_of() {
    let interface = web(vec![rule(1, Action::Deny, (443, 443), "0.0.0.0/0")], vec![]);
    assert_eq!(smallest_fix(&interface, https(50000), Direction::Inbound, None), None);
}
