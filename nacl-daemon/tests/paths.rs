//! A flow along its whole way: what `explain` says of the labs is what the labs say, what it says of random policies is what the
//! oracle says, and the rules it proposes mend what it was asked about.

mod support;

use std::{fs, net::IpAddr, process::Command, sync::Arc};

use nacl_common::{Direction, Family, Packet};
use nacl_daemon::{
    analyze::{
        Flow, Outcome,
        path::{self, Crossing, Ends, Kind, Path, PathError, Walk, Which},
        reachability_code,
    },
    compile::Decider,
    lab::{
        self, Lab,
        file::{Probe, ProbeProtocol, Stage},
        paper,
    },
    policy, report,
    resolve::{Interface, Layers, Mode, NoHost, Resolved, build::default_nacl},
};
use serde_json::Value;
use support::{
    case::{Case, Flaw, Part},
    generate::{self, Random},
    memory::Oracle,
};

const MODES: [Mode; 2] = [Mode::Stateless, Mode::Stateful];

fn load(text: &str) -> Resolved {
    let loaded = policy::load("path.toml", text, &NoHost);
    loaded.resolved.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}

fn diagram_b() -> Resolved {
    load(include_str!("../../config/diagram-b.toml"))
}

fn walk(policy: &Resolved, flow: Flow) -> Path {
    let ends = Ends::of(policy, &flow).expect("two ends");
    path::walk(ends, flow, None, None, path::engine).expect("one family")
}

fn ask(policy: &Resolved, protocol: &str, source: &str, destination: &str) -> Path {
    walk(policy, Flow::parse(protocol, source, destination, None).expect("a flow"))
}

/// What decided at a crossing, up to what denies, each once: as a lab names it.
fn decided(crossing: &Crossing) -> Vec<Decider> {
    let said = &crossing.leg.said;
    let asked = said.iter().position(|said| !said.allow).map_or(said.len(), |at| at + 1);
    let mut by: Vec<_> = said[..asked].iter().map(|said| said.by.clone()).collect();
    by.dedup();
    if by.is_empty() { vec![crossing.leg.by.clone()] } else { by }
}

/// What was said of one packet at the lab's hooks, up to where it is dropped there.
fn leg(lab: &Lab, path: &Path, walk: &Walk, reply: bool) -> (bool, Vec<(String, Vec<Decider>)>) {
    let mut seen = Vec::new();
    for crossing in walk.crossings.iter().filter(|crossing| crossing.reply == reply) {
        let name = &path.end(crossing.at).name;
        if lab.hooked(name) {
            seen.push((name.clone(), decided(crossing)));
            if !crossing.leg.passes() {
                return (false, seen);
            }
        }
    }
    (true, seen)
}

/// What becomes of a lab's probe, from its flows alone.
fn derived(lab: &Lab, stage: &Stage<'_>, probe: &Probe, port: u16) -> (lab::Outcome, Vec<(String, Vec<Decider>)>) {
    // As the step has it in force.
    let mut policy = stage.policy.resolved.clone();
    for (hook, enforced) in &stage.policy.hooks {
        // Labs with one hook leave addresses to their hosts.
        let addresses = lab.host(hook).addresses.iter().map(ipnet::IpNet::addr).collect();
        policy.interfaces.insert(hook.clone(), Interface { addresses, ..enforced.interface.clone() });
    }
    let mut all = Vec::new();
    let mut last = Vec::new();
    for (index, connection) in lab.connections(probe).into_iter().enumerate() {
        let (source, destination) = lab.ends(probe, connection);
        let (sport, dport) = match (probe.protocol, source.is_ipv4()) {
            (ProbeProtocol::Icmp, true) => (0, 8 << 8),
            (ProbeProtocol::Icmp, false) => (0, 128 << 8),
            _ if index == 0 => (port, connection.port),
            _ => (lab.host(connection.from).os.ports().0, connection.port),
        };
        let protocol = probe.protocol.number(if source.is_ipv4() { Family::V4 } else { Family::V6 });
        let path = walk(&policy, Flow { protocol, source, destination, sport, dport });
        let walk = path.walk();
        let (passes, mut request) = leg(lab, &path, walk, false);
        all.append(&mut request);
        if !passes {
            return (if index == 0 { lab::Outcome::RequestDropped } else { lab::Outcome::Stalled }, all);
        }
        let (passes, mut reply) = leg(lab, &path, walk, true);
        match (index, passes) {
            // The answer to the client comes after all that it waits for.
            (0, true) => last = reply,
            (0, false) => {
                all.append(&mut reply);
                return (lab::Outcome::ReplyDropped, all);
            }
            (_, true) => all.append(&mut reply),
            (_, false) => {
                all.append(&mut reply);
                return (lab::Outcome::Stalled, all);
            }
        }
    }
    all.append(&mut last);
    (lab::Outcome::Answered, all)
}

/// Every probe of every lab, in both modes and from every source port that its lab tries.
#[test]
fn what_is_explained_is_what_the_labs_say() {
    let (mut compared, mut several) = (0, 0);
    for lab in lab::file::all().expect("the labs") {
        for mode in MODES {
            let stages = lab.plan(mode).expect("its policies");
            let report = paper::run_host(&lab, mode).expect("runs");
            for (stage, step) in stages.iter().zip(&report.steps) {
                for (probe, probed) in stage.probes.iter().zip(&step.probes) {
                    // The edges of every stretch of ports that the rules tell apart, of which two are enough for a few.
                    for case in probed.cases.iter().take(12) {
                        let (outcome, crossed) = derived(&lab, stage, probe, case.source_port);
                        let expected: Vec<_> = case
                            .expected
                            .path
                            .iter()
                            .map(|crossing| (crossing.hook.clone(), crossing.by.0.clone()))
                            .collect();
                        let what = format!("{}, {}, {mode:?}, port {}", lab.name, probe.name, case.source_port);
                        assert_eq!(crossed, expected, "{what}");
                        // What happens later in a download is no matter of its first packets.
                        if case.expected.icmp_error.is_none() && case.expected.after.is_empty() {
                            assert_eq!(outcome, case.expected.outcome, "{what}");
                        }
                        compared += 1;
                        several += u32::from(expected.len() > 2);
                    }
                }
            }
        }
    }
    assert!(compared > 200 && several > 20, "{compared} compared, {several} with several hooks");
}

/// Every list of Diagram B, in the order of the packets: four of network ACLs and four times the groups.
#[test]
fn every_list_on_the_way_is_asked_in_both_modes() {
    let policy = diagram_b();
    let path = ask(&policy, "tcp", "10.0.1.20:50000", "10.0.2.10:80");
    let said = |walk: &Walk| -> Vec<String> {
        let said = walk.crossings.iter().flat_map(|crossing| {
            let end = path.end(crossing.at).name.clone();
            crossing.leg.said.iter().map(move |said| format!("{end}: {}", said.by))
        });
        said.collect()
    };
    assert_eq!(path.walks.len(), 2);
    assert_eq!(
        said(&path.walks[0]),
        [
            "load-balancer: sg-2 outbound 1",
            "load-balancer: outbound 100",
            "server: inbound 100",
            "server: sg-3 inbound 1",
            "server: outbound tracked",
            "server: outbound 100",
            "load-balancer: inbound 200",
            "load-balancer: inbound tracked",
        ]
    );
    assert_eq!(path.walks[1].mode, Some(Mode::Stateful));
    assert_eq!(
        said(&path.walks[1])[4..],
        [
            "server: outbound tracked",
            "server: outbound tracked",
            "load-balancer: inbound tracked",
            "load-balancer: inbound tracked"
        ]
    );
    assert!(path.walks.iter().all(|walk| walk.outcome == Outcome::Works));
    assert!(path.walks[0].written && !path.walks[1].written);
    // From the other end.
    let back = ask(&policy, "tcp", "10.0.2.10:50000", "10.0.1.20:80");
    assert_eq!(back.walk().outcome, Outcome::RequestDenied);
    let codes: Vec<_> = back.walk().crossings[0]
        .leg
        .said
        .iter()
        .filter_map(|said| reachability_code(said, back.ends.from.interface.as_ref()?, Direction::Outbound))
        .collect();
    assert_eq!(codes, ["SG_HAS_NO_RULES", "SUBNET_ACL_RESTRICTION"], "sg-3 lets nothing out, nor does nacl-3");
    // One end that the policy knows is enough.
    let client = ask(&policy, "tcp", "198.51.100.7:2000", "10.0.1.20:80");
    assert_eq!((client.ends.from.kind, client.walk().crossings.len()), (Kind::Unknown, 2));
    assert_eq!(
        Ends::of(&policy, &Flow { destination: "10.0.1.20".parse().unwrap(), ..back.flow }).unwrap().interfaces(),
        2
    );
    let itself = Flow { source: "10.0.1.20".parse().unwrap(), ..back.flow };
    assert_eq!(Ends::of(&policy, &itself).unwrap_err(), PathError::Nowhere("load-balancer".into()));
}

/// A mode for each end: what is in force is shown first, and then each mode alone.
#[test]
fn ends_of_different_modes_are_shown_as_they_are_and_as_they_could_be() {
    let mut policy = diagram_b();
    policy.interfaces.get_mut("server").expect("the server").mode = Mode::Stateful;
    let path = ask(&policy, "tcp", "10.0.1.20:50000", "10.0.2.10:80");
    let modes: Vec<_> = path.walks.iter().map(|walk| (walk.mode, walk.written)).collect();
    assert_eq!(modes, [(None, true), (Some(Mode::Stateless), false), (Some(Mode::Stateful), false)]);
    let reply: Vec<_> = path.walk().crossings[2..]
        .iter()
        .flat_map(|crossing| &crossing.leg.said)
        .map(|said| said.by.to_string())
        .collect();
    assert_eq!(reply, ["outbound tracked", "outbound tracked", "inbound 200", "inbound tracked"]);
}

const ELSEWHERE: &str = r#"version = 1
[vpc]
cidrs = ["10.0.0.0/16"]
[subnet.public]
cidrs = ["10.0.1.0/24"]
nacl = "front"
[subnet.private]
cidrs = ["10.0.2.0/24"]
nacl = "back"
[nacl.front]
inbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", source = "10.0.2.0/24" }]
outbound = [{ rule = 90, action = "deny", protocol = "tcp", ports = 81, destination = "0.0.0.0/0" },
  { rule = 100, action = "allow", protocol = "tcp", ports = "80-89", destination = "0.0.0.0/0" }]
[nacl.back]
inbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = "80-89", source = "0.0.0.0/0" }]
outbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" }]
[security_group.web]
inbound = [{ protocol = "tcp", ports = "80-89", source = "sg:asks" }]
outbound = []
[security_group.asks]
outbound = [{ protocol = "tcp", ports = "80-84", destination = "0.0.0.0/0" }]
inbound = []
[eni.known]
addresses = ["10.0.1.20"]
subnet = "public"
security_groups = ["asks"]
[eni.named]
addresses = ["10.0.1.21"]
subnet = "public"
security_groups = ["asks", "nobody-defines-this"]
[eni.floating]
addresses = ["10.0.9.9"]
[eni.usual]
addresses = ["10.0.2.30"]
subnet = "private"
security_groups = ["default"]
[interface.eth0]
subnet = "private"
addresses = ["10.0.2.10"]
security_groups = ["web"]
"#;

/// An interface elsewhere is judged as far as the policy knows it, and what it does not know is said.
#[test]
fn interfaces_elsewhere_are_judged_as_far_as_they_are_known() {
    let policy = load(ELSEWHERE);
    let from = |source: &str, port: u16| {
        let path = ask(&policy, "tcp", &format!("{source}:50000"), &format!("10.0.2.10:{port}"));
        let first: Vec<_> = path
            .walk()
            .crossings
            .iter()
            .filter(|crossing| crossing.at == Which::From && !crossing.reply)
            .flat_map(|crossing| crossing.leg.said.iter().map(|said| said.by.to_string()))
            .collect();
        (first, path)
    };
    let (said, path) = from("10.0.1.20", 80);
    assert_eq!(said, ["asks outbound 1", "outbound 100"]);
    assert_eq!((path.ends.from.kind, path.walk().outcome), (Kind::Eni, Outcome::Works));
    // Its group is the first to stop it, then its subnet.
    assert_eq!(from("10.0.1.20", 85).0, ["outbound sg *", "outbound 100"]);
    assert_eq!(from("10.0.1.20", 81).0, ["asks outbound 1", "outbound 90"]);
    let (said, path) = from("10.0.1.21", 85);
    assert_eq!(said, ["outbound 100"], "a group that is not defined may let everything out");
    assert_eq!(path.ends.from.unknown, ["its security groups: the policy does not define nobody-defines-this"]);
    let (said, path) = from("10.0.9.9", 80);
    assert_eq!((said.len(), path.ends.from.unknown.len()), (0, 2));
    let (said, path) = from("10.0.1.99", 81);
    assert_eq!((said, path.ends.from.kind), (vec!["outbound 90".to_owned()], Kind::Subnet));
    // Inside one subnet groups alone judge (N42); AWS's default group lets everything out (S5).
    let (said, path) = from("10.0.2.30", 80);
    assert_eq!(said, ["default outbound 1", "same-subnet"]);
    let at_server: Vec<_> = path.walk().crossings[1].leg.said.iter().map(|said| said.by.to_string()).collect();
    assert_eq!(at_server, ["same-subnet", "inbound sg *"]);
    // Two with one address.
    let mut twice = policy.clone();
    twice.interfaces.insert("eth1".into(), policy.interfaces["eth0"].clone());
    let flow = Flow::parse("tcp", "10.0.1.20:1", "10.0.2.10:80", None).unwrap();
    assert!(Ends::of(&twice, &flow).unwrap_err().to_string().contains("both eth0 and eth1"));
}

/// With the rules of a fix the flow works: in the engine, and in the text of the policy.
#[test]
fn a_fix_names_every_rule_that_is_missing() {
    let policy = diagram_b();
    let path = ask(&policy, "tcp", "10.0.1.20:50000", "10.0.2.10:8443");
    let fix = path.fix.as_ref().expect("a fix");
    let lists: Vec<_> = fix.rules.iter().map(nacl_daemon::analyze::NewRule::direction).collect();
    assert_eq!(
        lists,
        [Direction::Outbound, Direction::Inbound, Direction::Inbound],
        "nacl-2 lets high ports out already"
    );
    assert_eq!(mended(&path).walk().outcome, Outcome::Works);
    let mut ends = path.ends.clone();
    ends.set_layers(Layers::Nacl);
    let alone = path::walk(ends, path.flow, Some(Mode::Stateful), None, path::engine).unwrap();
    assert_eq!((alone.walks.len(), alone.fix.map(|fix| fix.rules.len())), (1, Some(1)));
}

/// The same way with a fix.
fn mended(path: &Path) -> Path {
    let mut ends = path.ends.clone();
    for rule in &path.fix.as_ref().expect("a fix").rules {
        for end in [&mut ends.from, &mut ends.to] {
            end.interface = end.interface.as_ref().map(|interface| rule.added_to(interface));
        }
    }
    path::walk(ends, path.flow, path.walk().mode, None, path::engine).expect("one family")
}

/// A packet in the oracle's words.
fn case(packet: &Packet, direction: Direction) -> Case {
    let [from, to] = [packet.src, packet.dst].map(|[high, low]| match packet.family {
        Family::V4 => IpAddr::V4((low as u32).into()),
        Family::V6 => IpAddr::V6((u128::from(high) << 64 | u128::from(low)).into()),
    });
    let (remote, local) = if direction == Direction::Inbound { (from, to) } else { (to, from) };
    Case {
        direction,
        remote,
        local,
        protocol: packet.protocol,
        sport: packet.sport,
        dport: packet.dport,
        icmp: ((packet.dport >> 8) as u8, packet.dport as u8),
        echo: packet.sport,
        flags: packet.tcp_flags,
        part: Part::Whole,
        ident: 0,
        hop_limit: packet.hop_limit,
        tags: 0,
        options: 0,
        extensions: Vec::new(),
        hidden: None,
        flaw: Flaw::None,
    }
}

/// The same interface with a network ACL alone, which lets everything pass this way.
fn open(interface: &Interface, direction: Direction) -> Interface {
    let (mut nacl, all) = (interface.nacl.as_ref().clone(), default_nacl());
    match direction {
        Direction::Inbound => nacl.inbound = all.inbound,
        Direction::Outbound => nacl.outbound = all.outbound,
    }
    Interface { nacl: Arc::new(nacl), groups: None, layers: Layers::Both, ..interface.clone() }
}

/// Two interfaces of random policies, and the oracle at each.
#[test]
fn every_crossing_is_what_the_oracle_says_and_every_fix_mends() {
    let mut random = Random(20_261_121);
    let empty = load("version = 1\n[nacl.n]\ninbound = []\noutbound = []\n[interface.x]\nnacl = \"n\"\n");
    let (mut outcomes, mut fixed, mut crossings) = ([0_u32; 3], 0, 0);
    for _ in 0..150 {
        let mut two: Vec<Interface> = (0..2)
            .map(|_| {
                let (inbound, outbound) = (random.below(8) as usize, random.below(8) as usize);
                let interface = generate::interface(&mut random, inbound, outbound);
                generate::layered(&mut random, interface)
            })
            .collect();
        for turn in 0..4 {
            // Aimed at the rules of one of the two.
            let aimed = generate::case(&mut random, &two[turn % 2]);
            let (near, far) = if turn % 2 == 0 { (aimed.local, aimed.remote) } else { (aimed.remote, aimed.local) };
            if near == far {
                continue;
            }
            (two[0].addresses, two[1].addresses) = (vec![near], vec![far]);
            let mut policy = empty.clone();
            let outbound = aimed.direction == Direction::Outbound;
            let forth = outbound == (turn % 2 == 0);
            let (source, destination) = if forth { (near, far) } else { (far, near) };
            let mut ends = two.clone();
            if turn >= 2 {
                // Random lists let few requests pass, and of others the reply says little.
                ends[usize::from(!forth)] = open(&two[usize::from(!forth)], Direction::Outbound);
                ends[usize::from(forth)] = open(&two[usize::from(forth)], Direction::Inbound);
            }
            policy.interfaces = ["a", "b"].into_iter().map(str::to_owned).zip(ends).collect();
            let mut flow = Flow { protocol: aimed.protocol, source, destination, sport: 0, dport: 0 };
            if flow.is_icmp() {
                (flow.sport, flow.dport) = (aimed.echo, u16::from(aimed.icmp.0) << 8 | u16::from(aimed.icmp.1));
            } else if flow.has_ports() {
                (flow.sport, flow.dport) = (aimed.sport, aimed.dport);
            }
            if flow.request().is_err() {
                continue;
            }
            let path = walk(&policy, flow);
            for walk in &path.walks {
                let at = |which| {
                    let interface = path.end(which).interface.clone().expect("known");
                    let interface = Interface { mode: walk.mode.unwrap_or(interface.mode), ..interface };
                    Oracle::new(&Arc::new(interface), 0)
                };
                let mut oracles = [at(Which::From), at(Which::To)];
                let mut reached = true;
                let mut outcome = Outcome::Works;
                for crossing in &walk.crossings {
                    let oracle = &mut oracles[usize::from(crossing.at == Which::To)];
                    let leg = &crossing.leg;
                    let expected = oracle.meet(&case(&leg.packet, leg.direction), 0);
                    let got = (leg.passes(), leg.verdict.reason.name());
                    assert_eq!(got, (expected.allow, expected.reason), "{flow:?} {:?} {crossing:?}", walk.mode);
                    assert_eq!(crossing.reached, reached);
                    if reached && !expected.allow {
                        outcome = if crossing.reply { Outcome::ReplyDenied } else { Outcome::RequestDenied };
                    }
                    reached &= expected.allow;
                    crossings += 1;
                }
                assert_eq!(walk.outcome, outcome);
                outcomes[outcome as usize] += 1;
            }
            if path.fix.is_some() {
                assert_eq!(mended(&path).walk().outcome, Outcome::Works, "{:?}", path.fix);
                fixed += 1;
            }
        }
    }
    assert!(
        outcomes.iter().all(|count| *count > 40) && fixed > 100 && crossings > 3000,
        "{outcomes:?}, {fixed} fixed, {crossings}"
    );
}

fn explain(policy: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("b.toml"), policy).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_nacld"))
        .args(["explain", "--config", "b.toml"])
        .args(arguments)
        .current_dir(directory.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Diagram B without what lets the servers' answers back in to the load balancer.
fn broken() -> String {
    let text = include_str!("../../config/diagram-b.toml");
    let line = text.lines().find(|line| line.contains("replies of the servers")).expect("the rule");
    text.replace(line, "")
}

#[test]
fn a_person_reads_a_route() {
    let (code, got, error) = explain(&broken(), &["--exit-code", "tcp", "10.0.1.20:50000", "10.0.2.10:80"]);
    assert_eq!((code, error.as_str()), (Some(6), ""));
    let expected = r"tcp 10.0.1.20:50000 → 10.0.2.10:80

  from  load-balancer · 10.0.1.20 · subnet public · network ACL nacl-2 · security group sg-2
  to    server · 10.0.2.10 · subnet private · network ACL nacl-3 · security group sg-3

                                                  stateless                  stateful
  request
   1  leaves load-balancer   security group sg-2  ✓ allow sg-2 outbound 1    ✓ allow sg-2 outbound 1   b.toml:40
   2  leaves subnet public   network ACL nacl-2   ✓ allow outbound 100       ✓ allow outbound 100      b.toml:24
   3  enters subnet private  network ACL nacl-3   ✓ allow inbound 100        ✓ allow inbound 100       b.toml:30
   4  enters server          security group sg-3  ✓ allow sg-3 inbound 1     ✓ allow sg-3 inbound 1    b.toml:43
  reply
   5  leaves server          security group sg-3  ✓ allow outbound tracked   ✓ allow outbound tracked
   6  leaves subnet private  network ACL nacl-3   ✓ allow outbound 100       ✓ allow outbound tracked  b.toml:34
   7  enters subnet public   network ACL nacl-2   ✗ DENY  inbound *          ✓ allow inbound tracked
   8  enters load-balancer   security group sg-2  (✓ allow inbound tracked)  ✓ allow inbound tracked
  In parentheses: what would be said of a packet that does not get there.

  stateless (as the policy says): Does not work. The request arrives and is answered; the answer is dropped at 7, network ACL nacl-2: the client hangs.
  stateful: Works. Both legs pass.

  What blocks:
     7  SUBNET_ACL_RESTRICTION  network ACL nacl-2: inbound *
        No numbered network ACL rule matched; the implied `*` rule denies (N2, N6).

  Port 50000 is one that these clients pick:
";
    assert!(got.starts_with(expected), "{got}");
    let fix = r#"
  Smallest fix: add this rule
    to [nacl.nacl-2] inbound:
      { rule = 200, action = "allow", protocol = "tcp", ports = "1024-65535", source = "subnet:private" },
  Tried: with it both legs pass, and nothing that passed before is lost.
"#;
    assert!(
        got.contains(fix)
            || got.contains(&fix.replace("subnet:private", "10.0.2.0/24"))
            || got.contains(&fix.replace("subnet:private", "10.0.2.10/32")),
        "{got}"
    );
    let (_, one, _) = explain(&broken(), &["--mode", "stateful", "tcp", "10.0.1.20:50000", "10.0.2.10:80"]);
    assert!(one.contains("\n  Works. Both legs pass.\n") && !one.contains("stateless"), "{one}");
    // At one interface it is what it was, and both modes beside each other where that is asked.
    let at = ["--interface", "server", "tcp", "10.0.1.20:50000", "10.0.2.10:80"];
    let (_, plain, _) = explain(&broken(), &at);
    assert!(plain.starts_with("server · network ACL nacl-3 · subnet private"), "{plain}");
    let (_, both, _) = explain(&broken(), &[&["--both-modes"][..], &at].concat());
    assert!(both.contains("from  10.0.1.20 · nobody the policy knows") && both.contains("stateful: Works."), "{both}");
    let (code, _, error) = explain(&broken(), &["tcp", "192.0.2.1:5", "192.0.2.2:6"]);
    assert!(code == Some(2) && error.contains("which interface?"), "{error}");
}

/// What a machine reads of one interface it finds here too.
#[test]
fn a_machine_reads_a_way_and_what_it_knows_already() {
    let (code, got, _) = explain(&broken(), &["--json", "tcp", "10.0.1.20:50000", "10.0.2.10:80"]);
    let way: Value = serde_json::from_str(&got).expect("JSON");
    let (_, got, _) =
        explain(&broken(), &["--json", "--interface", "load-balancer", "tcp", "10.0.1.20:50000", "10.0.2.10:80"]);
    let one: Value = serde_json::from_str(&got).expect("JSON");
    assert_eq!(code, Some(0));
    for (key, value) in one.as_object().expect("an object") {
        match value.as_object() {
            Some(inner) => inner.keys().for_each(|name| assert!(way[key].get(name).is_some(), "{key}.{name}")),
            None => assert!(way.get(key).is_some(), "{key}"),
        }
    }
    for (pointer, value) in [
        ("/outcome", "reply-denied"),
        ("/interface", "load-balancer"),
        ("/reply/by", "inbound *"),
        ("/reply/blockers/0/code", "SUBNET_ACL_RESTRICTION"),
        ("/path/from/kind", "interface"),
        ("/path/modes/0/crossings/3/at", "load-balancer"),
        ("/path/modes/0/crossings/3/layers/0/by", "inbound *"),
        ("/path/modes/1/outcome", "works"),
        ("/fix/0/nacl", "nacl-2"),
    ] {
        assert_eq!(way.pointer(pointer), Some(&Value::from(value)), "{pointer}");
    }
    assert_eq!(way["path"]["modes"][0]["crossings"][3]["layers"][1]["reached"], false);
    assert_eq!(one["reply"]["blockers"][0]["code"], "SUBNET_ACL_RESTRICTION", "an added field");
    let path = ask(&diagram_b(), "icmp", "10.0.1.20", "10.0.2.10");
    assert_eq!(
        report::path::json(&diagram_b(), &path)["path"]["modes"][0]["crossings"].as_array().map(Vec::len),
        Some(4)
    );
}

/// Two interfaces of one subnet, and a port that only one of their groups opens: who asks about the other one is not answered by
/// the only interface there is.
#[test]
fn an_interface_elsewhere_is_not_judged_by_the_one_that_is_here() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let policy = r#"version = 1
[vpc]
cidrs = ["10.0.0.0/16"]
[subnet.web]
cidrs = ["10.0.1.0/24"]
[security_group.sg-a]
inbound = [{ protocol = "tcp", ports = 22, source = "198.51.100.0/24" }]
outbound = []
[security_group.sg-b]
inbound = [{ protocol = "tcp", ports = 443, source = "198.51.100.0/24" }]
outbound = []
[eni.x]
addresses = ["10.0.1.7"]
subnet = "web"
security_groups = ["sg-b"]
[interface.eth0]
addresses = ["10.0.1.9"]
subnet = "web"
security_groups = ["sg-a", "sg-b"]
"#;
    fs::write(&file, policy).unwrap();
    let explain = |destination: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_nacld"))
            .args(["explain", "tcp", "198.51.100.7:5000", destination, "--exit-code", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(explain("10.0.1.9:22").0, Some(0));
    let (code, text) = explain("10.0.1.7:22");
    assert_eq!(code, Some(5), "{text}");
    assert_eq!(explain("10.0.1.7:443").0, Some(0));
    // Nobody the policy knows: the only interface is asked, and that is said.
    let (code, text) = explain("10.0.1.8:22");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("neither end is an address of this interface"), "{text}");
}

/// The page types a command and shows what it prints; both are held here.
#[test]
fn the_page_shows_what_its_command_prints() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let page = fs::read_to_string(format!("{root}/docs/understand.md")).unwrap();
    let (_, rest) = page.split_once("## The whole way").unwrap();
    let mut blocks = rest.split("```").skip(1).step_by(2);
    let command = blocks.next().unwrap().strip_prefix("sh\n").unwrap();
    let shown = blocks.next().unwrap().trim_start_matches('\n');
    let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_nacld")).parent().unwrap().display().to_string();
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(root)
        .env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.starts_with(shown), "{printed}");
    assert!(shown.contains("DENY"), "{shown}");
}
