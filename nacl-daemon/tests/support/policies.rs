//! Small policies by hand, compiled or as text, for tests that are about hooks, headers and daemons and not about rules.

use std::sync::Arc;

use nacl_common::{Action, Direction};
use nacl_daemon::{
    compile::{Compiled, compile},
    dataplane::{Events, Options},
    resolve::{Interface, Nacl, Protocol, Rule, Side, Tracking, Xdp},
};

use super::veth::{Cable, NEAR};

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
        flow_log: None,
    }
}

/// The slot of a rule.
pub fn slot(compiled: &Compiled, direction: Direction, rule: u16) -> u16 {
    let found = compiled.slots.slots.iter().find(|(_, slot)| slot.direction == direction && slot.rule == Some(rule));
    *found.expect("the rule has a slot").0
}

/// A UDP port that [`lab`] denies inbound.
pub const CLOSED: u16 = 4001;
/// One that it does not.
pub const OPEN: u16 = 4003;

/// As text: the network ACL `lab`, which denies [`CLOSED`] inbound by rule 50 on line 4, and then the interfaces.
pub fn lab(interfaces: &str) -> String {
    format!(
        r#"version = 1
[nacl.lab]
inbound = [
  {{ rule = 50, action = "deny", protocol = "udp", ports = {CLOSED}, source = "0.0.0.0/0" }},
  {{ rule = 100, action = "allow", protocol = "all", source = "0.0.0.0/0" }},
]
outbound = [
  {{ rule = 100, action = "allow", protocol = "all", destination = "0.0.0.0/0" }},
]
{interfaces}"#
    )
}

/// The near end of a cable, under that network ACL.
pub fn near(cable: &Cable) -> String {
    format!("[interface.{NEAR}]\nnetns = \"{}\"\nnacl = \"lab\"\n", cable.here)
}
