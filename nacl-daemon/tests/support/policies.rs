//! Small policies by hand, for tests that are about hooks and headers and not about rules.

use std::sync::Arc;

use nacl_common::{Action, Direction};
use nacl_daemon::{
    compile::{Compiled, compile},
    dataplane::{Events, Options},
    resolve::{Interface, Nacl, Protocol, Rule, Side, Tracking, Xdp},
};

/// A rule for one UDP port, or for everything.
pub fn rule(number: u16, action: Action, udp: Option<u16>, cidr: &str) -> Rule {
    Rule {
        number,
        action,
        protocol: udp.map_or(Protocol::All, |_| Protocol::Number(17)),
        ports: udp.map(|port| (port, port)),
        icmp: None,
        cidr: cidr.parse().expect("a CIDR"),
        reference: None,
        description: None,
        line: usize::from(number),
        span: 0..0,
    }
}

/// Compiles two lists.
pub fn policy(inbound: Vec<Rule>, outbound: Vec<Rule>) -> Compiled {
    compile(&Interface::new("near", Arc::new(Nacl { name: "test".into(), id: None, inbound, outbound })), None)
        .expect("a small policy compiles")
}

/// Everything passes, by rules 100 (IPv4) and 101 (IPv6), in both directions.
pub fn open() -> Compiled {
    let all = || vec![rule(100, Action::Allow, None, "0.0.0.0/0"), rule(101, Action::Allow, None, "::/0")];
    policy(all(), all())
}

/// As `open`, but inbound rule 50 denies one UDP port and outbound rule 60 another.
pub fn two_closed(inbound: u16, outbound: u16) -> Compiled {
    let list = |number, port| {
        vec![
            rule(number, Action::Deny, Some(port), "0.0.0.0/0"),
            rule(100, Action::Allow, None, "0.0.0.0/0"),
            rule(101, Action::Allow, None, "::/0"),
        ]
    };
    policy(list(50, inbound), list(60, outbound))
}

/// Enforcing, on the host's side, silent.
pub fn options(xdp: Xdp) -> Options {
    Options {
        xdp,
        side: Side::Host,
        enforce: true,
        drop_non_ip: false,
        events: Events::None,
        trace: false,
        tracking: Tracking::default(),
        forgetful: false,
    }
}

/// The slot of a rule.
pub fn slot(compiled: &Compiled, direction: Direction, rule: u16) -> u16 {
    let found = compiled.slots.slots.iter().find(|(_, slot)| slot.direction == direction && slot.rule == Some(rule));
    *found.expect("the rule has a slot").0
}
