//! What `explain` says of both legs: each layer's word, what is remembered between them, every blocker, and the words that a
//! person reads.

use std::convert::Infallible;

use nacl_common::{Direction, Layer};
use nacl_daemon::{
    analyze::{Explanation, Flow, Leg, Outcome, Remembered, explain},
    compile::compile,
    engine::Engine,
    policy, report,
    report::explain::Asked,
    resolve::{Interface, Layers, Mode, NoHost, Resolved},
};

const POLICY: &str = r#"version = 1

[vpc]
cidrs = ["10.0.0.0/16", "2001:db8::/56"]

[subnet.web]
cidrs = ["10.0.1.0/24"]
nacl = "web"

[nacl.web]
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" },
  { rule = 110, action = "allow", protocol = "icmp", source = "0.0.0.0/0" },
]
outbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "32768-65535", destination = "0.0.0.0/0" },
]

[security_group.sg-3]
inbound = [
  { protocol = "tcp", ports = 443, source = "198.51.100.0/24" },
  { protocol = "tcp", ports = 80, source = "0.0.0.0/0" },
  { protocol = "icmp", source = "0.0.0.0/0" },
]
outbound = []

[security_group.ops]
inbound = [{ protocol = "tcp", ports = 22, source = "sg:ops" }]
outbound = [{ protocol = "all", destination = "0.0.0.0/0" }]

[interface.eth0]
subnet = "web"
addresses = ["10.0.1.10"]
security_groups = ["sg-3"]
"#;

fn load() -> Resolved {
    let loaded = policy::load("web.toml", POLICY, &NoHost);
    loaded.resolved.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}

fn ask(interface: &Interface, protocol: &str, source: &str, destination: &str, icmp: Option<&str>) -> Explanation {
    let flow = Flow::parse(protocol, source, destination, icmp).expect("a flow");
    let compiled = compile(interface, None).expect("compiles");
    let mut engine = Engine::new(interface, &compiled);
    let judge = |direction, packet: &_| Ok::<_, Infallible>(engine.judge(direction, packet));
    explain(interface, &compiled, judge, flow, None, None).expect("one family")
}

/// What each layer says, as `allow outbound 100`.
fn said(leg: &Leg) -> Vec<String> {
    leg.said.iter().map(|said| format!("{} {}", if said.allow { "allow" } else { "deny" }, said.by)).collect()
}

fn interface(policy: &Resolved, mode: Mode, layers: Layers) -> Interface {
    Interface { mode, layers, ..policy.interfaces["eth0"].clone() }
}

/// O1 and O2: inbound the network ACL is asked first, outbound the groups, which remember.
#[test]
fn each_layer_has_its_word_in_the_order_in_which_they_are_asked() {
    let policy = load();
    let works = ask(&policy.interfaces["eth0"], "tcp", "198.51.100.7:50000", "10.0.1.10:443", None);
    assert_eq!(works.outcome, Outcome::Works);
    assert_eq!(said(&works.request), ["allow inbound 100", "allow sg-3 inbound 1"]);
    assert_eq!(works.remembered, Remembered { groups: true, ..Remembered::default() });
    let reply = works.reply.expect("TCP is answered");
    assert_eq!(said(&reply), ["allow outbound tracked", "allow outbound 100"]);
    assert_eq!(reply.blockers().count(), 0);
}

#[test]
fn a_reply_dies_in_a_stateless_network_acl_and_lives_in_a_stateful_one() {
    let policy = load();
    let ask = |mode| ask(&interface(&policy, mode, Layers::Both), "tcp", "198.51.100.7:2000", "10.0.1.10:443", None);
    let stateless = ask(Mode::Stateless);
    assert_eq!(stateless.outcome, Outcome::ReplyDenied);
    let reply = stateless.reply.expect("TCP is answered");
    assert_eq!(said(&reply), ["allow outbound tracked", "deny outbound *"]);
    assert_eq!(reply.blockers().map(|blocker| blocker.layer).collect::<Vec<_>>(), [Layer::Nacl]);
    let stateful = ask(Mode::Stateful);
    assert_eq!(stateful.outcome, Outcome::Works);
    assert_eq!(stateful.remembered, Remembered { nacl: true, groups: true, ..Remembered::default() });
    assert_eq!(said(&stateful.reply.expect("TCP is answered")), ["allow outbound tracked", "allow outbound tracked"]);
    assert_eq!(stateful.fix, None);
}

/// O6: every layer that blocks is named, the first blocker first.
#[test]
fn every_blocker_is_named() {
    let policy = load();
    let inbound = ask(&policy.interfaces["eth0"], "tcp", "203.0.113.9:50000", "10.0.1.10:22", None);
    assert_eq!(inbound.outcome, Outcome::RequestDenied);
    assert_eq!(inbound.request.by.to_string(), "inbound *");
    assert_eq!(said(&inbound.request), ["deny inbound *", "deny inbound sg *"]);
    assert_eq!(inbound.remembered, Remembered::default(), "what is dropped leaves nothing behind (O5)");
    let reply = inbound.reply.expect("TCP is answered");
    assert_eq!(said(&reply), ["deny outbound sg *", "allow outbound 100"]);
    let outbound = ask(&policy.interfaces["eth0"], "udp", "10.0.1.10:50000", "203.0.113.9:53", None);
    assert_eq!(outbound.request.direction, Direction::Outbound);
    assert_eq!(outbound.request.by.to_string(), "outbound sg *");
    let blockers: Vec<_> = outbound.request.blockers().map(|blocker| blocker.layer).collect();
    assert_eq!(blockers, [Layer::SecurityGroup, Layer::Nacl]);
}

#[test]
fn layers_alone_same_subnet_and_exemptions() {
    let policy = load();
    let request = |layers, protocol, source, destination: &str| {
        ask(&interface(&policy, Mode::Stateless, layers), protocol, source, destination, None).request
    };
    let web = |layers| said(&request(layers, "tcp", "198.51.100.7:50000", "10.0.1.10:443"));
    assert_eq!(web(Layers::Nacl), ["allow inbound 100"]);
    assert_eq!(web(Layers::Groups), ["allow sg-3 inbound 1"]);
    let near = request(Layers::Both, "tcp", "10.0.1.11:50000", "10.0.1.10:443");
    assert_eq!(said(&near), ["allow same-subnet", "deny inbound sg *"], "groups judge inside the subnet too (S3)");
    let dns = request(Layers::Both, "udp", "10.0.1.10:50000", "10.0.0.2:53");
    assert_eq!((said(&dns).len(), dns.by.to_string()), (0, "aws-service".to_owned()));
    assert!(dns.passes() && dns.slot.is_some_and(|slot| !slot.name.is_empty()));
}

/// S30 and S40: what is open both ways is not tracked, and only an echo is a connection of ICMP.
#[test]
fn why_something_is_not_remembered() {
    let policy = load();
    let mut both = interface(&policy, Mode::Stateless, Layers::Groups);
    both.groups = Some(vec![policy.groups["sg-3"].clone(), policy.groups["ops"].clone()]);
    let open = ask(&both, "tcp", "203.0.113.9:50000", "10.0.1.10:80", None);
    assert_eq!(open.remembered, Remembered { untracked: true, ..Remembered::default() });
    assert_eq!(said(&open.reply.expect("TCP is answered")), ["allow ops outbound 1"]);
    assert_eq!(open.outcome, Outcome::Works);
    let echo = ask(&both, "icmp", "203.0.113.9", "10.0.1.10", None);
    assert!(echo.remembered.groups, "ICMP is always tracked (S29)");
    let timestamp = ask(&both, "icmp", "203.0.113.9", "10.0.1.10", Some("13"));
    assert_eq!(timestamp.remembered, Remembered { no_connection: true, ..Remembered::default() });
}

fn text(policy: &Resolved, interface: &Interface, explanation: &Explanation) -> String {
    let asked = Asked { policy, name: "eth0", interface };
    anstream::adapter::strip_str(&report::explain::text(&asked, explanation)).to_string()
}

#[test]
fn a_person_reads_this() {
    let policy = load();
    let written = &policy.interfaces["eth0"];
    let broken = ask(written, "tcp", "198.51.100.7:2000", "10.0.1.10:443", None);
    let expected = r#"eth0 · network ACL web · subnet web · security group sg-3 · stateless

  request  tcp 198.51.100.7:2000 → 10.0.1.10:443  (inbound)
           network ACL      ALLOWED by inbound rule 100
                            web.toml:12  { rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" },
           security groups  ALLOWED by sg-3 inbound rule 1
                            web.toml:21  { protocol = "tcp", ports = 443, source = "198.51.100.0/24" },
           Remembered by the security groups: the reply needs no rule of theirs.

  reply    tcp 10.0.1.10:443 → 198.51.100.7:2000  (outbound)
           security groups  ALLOWED because the connection is remembered
           network ACL      DENIED by outbound rule *: no numbered rule matches

  Does not work. The request arrives and is answered; the answer is dropped on its way out, and the client hangs. A network ACL is stateless: the answer needs a rule of its own, for the port the client chose.
"#;
    let got = text(&policy, written, &broken);
    assert!(got.starts_with(expected), "{got}");
    let fix = r#"
  Smallest fix: add this rule
    to [nacl.web] outbound:
      { rule = 200, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" },
  Tried: with it both legs pass, and nothing that passed before is lost.
"#;
    assert!(got.ends_with(fix), "{got}");

    let stateful = Interface { mode: Mode::Stateful, ..written.clone() };
    let works = text(&policy, &stateful, &ask(&stateful, "tcp", "198.51.100.7:2000", "10.0.1.10:443", None));
    assert!(works.contains("\nWhat if: the policy says mode = \"stateless\", layers = \"both\".\n"), "{works}");
    assert!(works.contains("Remembered by both layers: what follows of this connection passes."), "{works}");

    let blocked = text(&policy, written, &ask(written, "tcp", "203.0.113.9:50000", "10.0.1.10:22", None));
    for part in [
        "network ACL      DENIED by inbound rule *: no numbered rule matches",
        "security groups  would be DENIED because no inbound rule of sg-3 matches",
        "to [nacl.web] inbound:",
        "to [security_group.sg-3] inbound:\n      { protocol = \"tcp\", ports = 22, source = \"203.0.113.9/32\" },",
        "Tried: with them both legs pass",
    ] {
        assert!(blocked.contains(part), "{part:?} in:\n{blocked}");
    }
}

#[test]
fn a_machine_reads_this() {
    let policy = load();
    let interface = &policy.interfaces["eth0"];
    let explanation = ask(interface, "tcp", "203.0.113.9:50000", "10.0.1.10:443", None);
    let asked = Asked { policy: &policy, name: "eth0", interface };
    let json = report::explain::json(&asked, &explanation);
    assert_eq!(json["schema"], 1);
    assert_eq!((&json["mode"], &json["layers"]), (&"stateless".into(), &"both".into()));
    assert_eq!(json["security_groups"], serde_json::json!(["sg-3"]));
    assert_eq!(json["outcome"], "request-denied");
    assert_eq!(json["request"]["by"], "inbound sg *");
    assert_eq!(json["request"]["layer"], "security-group");
    assert_eq!(json["request"]["layers"][0]["by"], "inbound 100");
    assert_eq!(json["request"]["layers"][0]["line"], 12);
    assert_eq!(json["request"]["blockers"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["fix"][0]["security_group"], "sg-3");
    assert_eq!(json["remembered"], serde_json::json!({"nacl": false, "security_groups": false, "untracked": false}));
    let works = ask(interface, "tcp", "198.51.100.7:50000", "10.0.1.10:443", None);
    let json = report::explain::json(&asked, &works);
    assert_eq!(json["request"]["layers"][1]["security_group"], "sg-3");
    assert_eq!(json["request"]["layers"][1]["position"], 1);
    assert_eq!(json["reply"]["by"], "outbound 100");
    assert_eq!(json["reply"]["layers"][0]["reason"], "tracked");
}
