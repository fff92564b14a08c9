//! What a change of a policy does, and what a search finds, against brute force: one packet for each way in which the rules as
//! written can be met, judged by the oracle. Nothing is missed, and nothing is told that is not so. And the verbs as people
//! meet them. `NACLD_DIFFS` asks for another number of pairs of policies, `NACLD_SEED` for another seed.

mod support;

use std::{
    fs,
    process::{Command, Output},
};

use nacl_common::{Direction, Family, Layer, Reason};
use nacl_daemon::{
    analyze::{Ports, Query, Search, What, changes, diff, search},
    compile::{self, compile},
    policy,
    resolve::{Interface, NoHost, Resolved},
};
use serde_json::Value;
use support::{
    brute::{Met, case_of, edited, on_all_cores, packet_of, representatives, setting},
    case::Case,
    generate::{self, Random},
    oracle::{self, Decider},
};

const PAIRS: u64 = 250;
/// Of a direction and family: of more, some are picked by chance.
const CASES: usize = 4_000;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A policy and the same after an edit.
fn pair(seed: u64) -> (Random, Interface, Interface) {
    let mut random = Random(seed);
    let size = |random: &mut Random| {
        let most = if random.once_in(8) { 30 } else { 8 };
        random.below(most) as usize
    };
    let (inbound, outbound) = (size(&mut random), size(&mut random));
    let nacl = generate::interface(&mut random, inbound, outbound);
    let old = generate::layered(&mut random, nacl);
    let new = edited(&mut random, &old);
    (random, old, new)
}

fn some(random: &mut Random, mut cases: Vec<Case>) -> Vec<Case> {
    while cases.len() > CASES {
        let at = random.below(cases.len() as u64) as usize;
        cases.swap_remove(at);
    }
    cases
}

/// A decider in the oracle's words; which exemption it is, is not told.
fn told(by: &compile::Decider, interface: &Interface) -> Option<Decider> {
    Some(match by {
        compile::Decider::Nacl { number, .. } => Decider::Nacl(*number),
        compile::Decider::NaclImplied { .. } => Decider::NaclStar,
        compile::Decider::SameSubnet => Decider::SameSubnet,
        compile::Decider::Group { group, position, .. } => {
            let place = interface.groups.iter().flatten().position(|one| one.name == *group);
            Decider::Group(place.expect("it has the group"), *position)
        }
        compile::Decider::GroupImplied { .. } => Decider::GroupStar,
        compile::Decider::Unlisted(Reason::AwsService | Reason::Failsafe) => return None,
        compile::Decider::Unlisted(_) => Decider::Nobody,
        compile::Decider::Tracked { .. } => panic!("nothing is remembered"),
    })
}

/// What the oracle names of a policy: beside a layer that denies in the other, what this layer says.
fn named(interface: &Interface, case: &Case, beside: Option<Layer>) -> Option<Decider> {
    let judged = oracle::judge(interface, case);
    if matches!(judged.by, Decider::Exemption(_)) {
        return None;
    }
    if oracle::before_rules(interface, case).is_some() {
        return Some(judged.by);
    }
    let said = match beside {
        Some(Layer::Nacl) => oracle::nacl(interface, case, false),
        Some(Layer::SecurityGroup) => oracle::groups(interface, case, false),
        _ => None,
    };
    Some(said.map_or(judged.by, |said| said.by))
}

fn expected(old: &Interface, new: &Interface, case: &Case) -> Option<(What, Option<Decider>, Option<Decider>)> {
    let (before, after) = (oracle::judge(old, case), oracle::judge(new, case));
    match (before.allow, after.allow) {
        (false, true) => Some((What::Admitted, named(old, case, None), named(new, case, Some(before.layer)))),
        (true, false) => Some((What::Denied, named(old, case, Some(after.layer)), named(new, case, None))),
        _ => None,
    }
}

fn exempt(interface: &Interface, case: &Case) -> bool {
    oracle::before_rules(interface, case).is_some()
}

fn check_diff(seed: u64, met: &mut Met) {
    let (mut random, old, new) = pair(seed);
    let [one, two] = [&old, &new].map(|interface| compile(interface, None).expect("compiles"));
    let changes = changes((&old, &one), (&new, &two), false).expect("compiled");
    for change in &changes {
        let told = (change.what, told(&change.before.by, &old), told(&change.after.by, &new));
        for one in &change.boxes {
            assert!(one.contains(change.direction, &one.example), "seed {seed}: {change:#?}");
            let case = case_of(change.direction, &one.example);
            assert_eq!(expected(&old, &new, &case), Some(told), "seed {seed}: {change:#?}");
            *met.entry("boxes").or_default() += 1;
        }
    }
    for direction in Direction::ALL {
        for family in FAMILIES {
            let cases = representatives(&[&old, &new], direction, family == Family::V6);
            *met.entry(if cases.len() > CASES { "by chance" } else { "all of them" }).or_default() += 1;
            for case in some(&mut random, cases) {
                let packet = packet_of(&case);
                let of = changes.iter().filter(|change| (change.direction, change.family) == (direction, family));
                let boxes = of.flat_map(|change| change.boxes.iter().map(move |one| (change, one)));
                let inside: Vec<_> =
                    boxes.filter(|(_, one)| one.contains(direction, &packet)).map(|(change, _)| change).collect();
                match (expected(&old, &new, &case), inside.as_slice()) {
                    (Some(expected), [change]) => {
                        let got = (change.what, told(&change.before.by, &old), told(&change.after.by, &new));
                        assert_eq!(got, expected, "seed {seed}: {case:?}");
                        *met.entry("changes").or_default() += 1;
                    }
                    (None, []) => *met.entry("no changes").or_default() += 1,
                    (None, [_]) if exempt(&old, &case) && exempt(&new, &case) => {
                        *met.entry("spanned").or_default() += 1;
                    }
                    (expected, inside) => panic!("seed {seed}: {expected:?}, {inside:#?}: {case:?}"),
                }
            }
        }
    }
}

/// A set to look for that has to do with the rules.
fn wanted(random: &mut Random, interface: &Interface) -> Search {
    let mut wanted = Search { denied: random.once_in(3), exempt: false, ..Search::default() };
    wanted.exempt = !wanted.denied && random.once_in(3);
    if random.once_in(2) {
        wanted.direction = Some(*random.pick(&Direction::ALL));
    }
    let rules: Vec<_> = interface.nacl.inbound.iter().chain(&interface.nacl.outbound).collect();
    for _ in 0..random.below(3) {
        if !rules.is_empty() {
            let cidr = random.pick(&rules).cidr;
            wanted.remotes.push(if random.once_in(2) { cidr.supernet().unwrap_or(cidr) } else { cidr });
        }
    }
    match random.below(6) {
        0 => wanted.protocols.push(*random.pick(&[6, 17, 47])),
        1 => wanted.icmp.push((*random.pick(&[3, 8, 135]), (!random.once_in(2)).then_some(0))),
        2 | 3 => {
            let (one, other) = (random.next() as u16, random.next() as u16);
            wanted.ports.push(Ports(one.min(other), one.max(other)));
            wanted.ports.push(Ports(443, 443));
            if random.once_in(2) {
                wanted.protocols.push(*random.pick(&[6, 17]));
            }
        }
        _ => {}
    }
    wanted
}

fn is_wanted(wanted: &Search, case: &Case) -> bool {
    let whole = case.part != support::case::Part::Later;
    let protocol = case.hidden.unwrap_or(case.protocol);
    wanted.direction.is_none_or(|direction| direction == case.direction)
        && (wanted.remotes.is_empty()
            || wanted.remotes.iter().any(|cidr| oracle::contains(cidr.addr(), cidr.prefix_len(), case.remote)))
        && (wanted.protocols.is_empty() || wanted.protocols.contains(&protocol))
        && (wanted.ports.is_empty()
            || case.has_ports() && wanted.ports.iter().any(|Ports(first, last)| (*first..=*last).contains(&case.dport)))
        && (wanted.icmp.is_empty()
            || case.has_icmp()
                && whole
                && wanted
                    .icmp
                    .iter()
                    .any(|(kind, code)| *kind == case.icmp.0 && code.is_none_or(|code| code == case.icmp.1)))
}

fn check_search(seed: u64, met: &mut Met) {
    let (mut random, interface, _) = pair(seed);
    let wanted = wanted(&mut random, &interface);
    let searched = search(&interface, &wanted).expect("a search");
    for found in &searched.found {
        for one in &found.boxes {
            let case = case_of(found.direction, &one.example);
            assert!(is_wanted(&wanted, &case), "seed {seed}: {wanted:?} {case:?}");
            assert_eq!(oracle::judge(&interface, &case).allow, !wanted.denied, "seed {seed}: {case:?}");
            assert!(one.contains(found.direction, &one.example));
        }
    }
    for direction in Direction::ALL {
        for family in FAMILIES {
            let cases = representatives(&[&interface], direction, family == Family::V6);
            for case in some(&mut random, cases) {
                let packet = packet_of(&case);
                let of = searched.found.iter().filter(|found| (found.direction, found.family) == (direction, family));
                let inside: Vec<_> = of
                    .flat_map(|found| found.boxes.iter().map(move |one| (found, one)))
                    .filter(|(_, one)| one.contains(direction, &packet))
                    .map(|(found, _)| found)
                    .collect();
                let judged = oracle::judge(&interface, &case);
                let aws = exempt(&interface, &case) && judged.reason != "failsafe" && !wanted.exempt;
                let hit = is_wanted(&wanted, &case) && judged.allow != wanted.denied;
                match inside.as_slice() {
                    [_] if aws && is_wanted(&wanted, &case) => *met.entry("spanned").or_default() += 1,
                    [found] if hit => {
                        let by = told(&found.by.by, &interface);
                        assert!(by.is_none_or(|by| by == judged.by), "seed {seed}: {by:?} {judged:?}");
                        *met.entry(if wanted.denied { "denied" } else { "admitted" }).or_default() += 1;
                    }
                    [] if !hit || aws => *met.entry("not found").or_default() += 1,
                    inside => panic!("seed {seed}: {judged:?} {hit} {wanted:?}, {inside:#?}: {case:?}"),
                }
            }
        }
    }
}

#[test]
fn what_changes_is_what_brute_force_finds() {
    let met = on_all_cores(setting("NACLD_DIFFS", PAIRS), check_diff);
    for (name, least) in [("boxes", 500), ("changes", 20_000), ("no changes", 200_000), ("all of them", 100)] {
        assert!(met.get(name).copied().unwrap_or(0) > least, "{name} are hardly met");
    }
}

#[test]
fn what_is_found_is_what_brute_force_finds() {
    let met = on_all_cores(setting("NACLD_DIFFS", PAIRS) / 2, check_search);
    for (name, least) in [("admitted", 1_500), ("denied", 3_000), ("not found", 50_000), ("spanned", 10)] {
        assert!(met.get(name).copied().unwrap_or(0) > least, "{name} are hardly met");
    }
}

#[test]
fn a_policy_does_not_differ_from_itself() {
    for seed in 0..40 {
        let (_, interface, _) = pair(seed);
        let compiled = compile(&interface, None).expect("compiles");
        // In other slots, so that the tables are others.
        let (_, other, _) = pair(seed + 1);
        let shifted = compile(&interface, Some(&compile(&other, None).expect("compiles").slots)).expect("compiles");
        for rules in [false, true] {
            let changes = changes((&interface, &compiled), (&interface, &shifted), rules).expect("compiled");
            assert!(changes.is_empty(), "seed {seed}: {changes:#?}");
        }
    }
}

const OLD: &str = r#"version = 1
[nacl.web]
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" },
  { rule = 110, action = "allow", protocol = "tcp", ports = 22, source = "192.0.2.0/24" },
]
outbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" }]
[interface.eth0]
nacl = "web"
"#;

fn load(text: &str) -> Resolved {
    let loaded = policy::load("policy.toml", text, &NoHost);
    loaded.resolved.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}

/// What changes, as `inbound IPv4 denied: tcp 443 from 10.0.0.0/8, inbound 100 → inbound 90`.
fn said(old: &str, new: &str, rules: bool) -> Vec<String> {
    let difference = diff(&load(old), &load(new), None, rules).expect("two policies");
    let changes = difference.interfaces.iter().flat_map(|one| &one.changes);
    let lines = changes.flat_map(|change| {
        change.boxes.iter().map(move |one| {
            let what = match change.what {
                What::Admitted => "admitted",
                What::Denied => "denied",
                What::Rule => "rule",
            };
            let (way, family) = (change.direction.name(), change.family as u8);
            let (before, after) = (&change.before.by, &change.after.by);
            format!("{way} IPv{family} {what}: {} from {}, {before} → {after}", one.traffic, one.addresses)
        })
    });
    lines.collect()
}

#[test]
fn changes_people_make() {
    let rule = |line: &str| OLD.replace("inbound = [\n", &format!("inbound = [\n  {line},\n"));
    // Exemptions are AWS's by default: they are spanned, and the region is one line.
    assert_eq!(
        said(OLD, &rule("{ rule = 90, action = \"deny\", protocol = \"all\", source = \"10.0.0.0/8\" }"), false),
        ["inbound IPv4 denied: tcp 443 from 10.0.0.0/8, inbound 100 → inbound 90"]
    );
    assert_eq!(
        said(OLD, &rule("{ rule = 120, action = \"allow\", protocol = \"all\", source = \"::/0\" }"), false),
        ["inbound IPv6 admitted: all traffic from ::/0, inbound * → inbound 120"]
    );
    assert_eq!(
        said(OLD, &OLD.replace("ports = 443", "ports = \"443-444\""), false),
        ["inbound IPv4 admitted: tcp 444 from 0.0.0.0/0, inbound * → inbound 100"]
    );
    assert_eq!(
        said(&OLD.replace("192.0.2.0/24", "192.0.2.0/23"), OLD, false),
        ["inbound IPv4 denied: tcp 22 from 192.0.3.0/24, inbound 110 → inbound *"]
    );
    // Another number is another rule, and does the same.
    let renumbered = OLD.replace("rule = 110", "rule = 115");
    assert!(said(OLD, &renumbered, false).is_empty());
    assert_eq!(
        said(OLD, &renumbered, true),
        ["inbound IPv4 rule: tcp 22 from 192.0.2.0/24, inbound 110 → inbound 115"]
    );
    // A group that denies beside a network ACL that goes on to allow: named is the group's rule.
    let grouped = |port: u16| {
        format!(
            "{OLD}security_groups = [\"web\"]\n[security_group.web]\noutbound = []\ninbound = [{{ protocol = \"tcp\", ports = {port}, source = \"0.0.0.0/0\" }}]\n"
        )
    };
    assert_eq!(
        said(&grouped(443), &grouped(80), false),
        ["inbound IPv4 denied: tcp 443 from 0.0.0.0/0, web inbound 1 → inbound sg *"]
    );
    // What AWS exempts is judged from now on.
    let judged = format!("{OLD}exemptions = \"none\"\n");
    let lines = said(OLD, &judged, false);
    assert!(
        lines.contains(&"outbound IPv4 denied: udp 123 from 169.254.169.123, aws-service → outbound *".to_owned()),
        "{lines:#?}"
    );
    assert!(lines.iter().any(|line| line.contains("(source port 123)")), "{lines:#?}");
}

fn nacld(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("old.toml", OLD);
    write(
        "new.toml",
        &OLD.replace("ports = 443", "ports = 80").replace("nacl = \"web\"\n", "nacl = \"web\"\nmode = \"stateful\"\n"),
    );
    write("moved.toml", &OLD.replace("eth0", "eth1"));
    write("bad.toml", "version = 1\n[nacl.web]\ninbound = 3\n");
    Command::new(env!("CARGO_BIN_EXE_nacld"))
        .args(arguments)
        .env_remove("NO_COLOR")
        .current_dir(directory.path())
        .stdin(fs::File::open(directory.path().join("new.toml")).unwrap())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_person_reads_a_difference() {
    let output = nacld(&["diff", "old.toml", "new.toml", "--exit-code"]);
    assert_eq!(output.status.code(), Some(8), "{}", text(&output.stderr));
    snapbox::assert_data_eq!(
        text(&output.stdout),
        snapbox::str![[r"
eth0
  mode: stateless → stateful

  inbound · IPv4 · newly ADMITTED (1 region)
┌───────────────────────────────────────────────────────────────────────────────────────────────────────────────────┐
│ Traffic   Source      Before                After                             Example                             │
╞═══════════════════════════════════════════════════════════════════════════════════════════════════════════════════╡
│ tcp 80    0.0.0.0/0   denied by inbound *   allowed by inbound 100 (line 4)   tcp 198.51.100.7:50000 10.0.0.10:80 │
└───────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘

  inbound · IPv4 · newly DENIED (1 region)
┌────────────────────────────────────────────────────────────────────────────────────────────────────────────────────┐
│ Traffic   Source      Before                            After                 Example                              │
╞════════════════════════════════════════════════════════════════════════════════════════════════════════════════════╡
│ tcp 443   0.0.0.0/0   allowed by inbound 100 (line 4)   denied by inbound *   tcp 198.51.100.7:50000 10.0.0.10:443 │
└────────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘

  An example, explained:
  nacld explain --config new.toml --interface eth0 --direction inbound tcp 198.51.100.7:50000 10.0.0.10:80

What passes unjudged in both files is left out, also where a range above spans it.
Compared is the first packet of a flow. What is remembered of a flow lets it pass until it times out,
also where its rule is gone; `nacld conntrack flush` ends that.

"]]
    );
}

#[test]
fn a_person_reads_what_a_search_found() {
    let output = nacld(&["search", "old.toml", "inbound", "--port", "ssh", "--protocol", "tcp"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    snapbox::assert_data_eq!(
        text(&output.stdout),
        snapbox::str![[r"
eth0 · inbound · IPv4 · ADMITTED (1 region)
┌──────────────────────────────────────────────────────────────────────────────────┐
│ Traffic   Source         Rule                   Example                          │
╞══════════════════════════════════════════════════════════════════════════════════╡
│ tcp 22    192.0.2.0/24   inbound 110 (line 5)   tcp 192.0.2.7:50000 10.0.0.10:22 │
└──────────────────────────────────────────────────────────────────────────────────┘

An example, explained:
nacld explain --config old.toml --interface eth0 --direction inbound tcp 192.0.2.7:50000 10.0.0.10:22
Left out is what passes without a rule: services AWS never filters, DHCP, neighbour discovery (--exempt).

"]]
    );
    let output = nacld(&["search", "old.toml", "inbound", "--port", "telnet"]);
    assert_eq!(output.status.code(), Some(9), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("eth0: no such packet is let pass.\n"), "{}", text(&output.stdout));
}

#[test]
fn exit_codes_and_errors() {
    let code = |arguments: &[&str]| nacld(arguments).status.code();
    assert_eq!(code(&["diff", "old.toml", "old.toml", "--exit-code"]), Some(0));
    assert_eq!(code(&["diff", "old.toml", "new.toml"]), Some(0), "a difference is no failure unless it is asked for");
    assert_eq!(code(&["diff", "old.toml", "moved.toml", "--exit-code"]), Some(8), "interfaces differ");
    let moved = text(&nacld(&["diff", "old.toml", "moved.toml"]).stdout);
    assert!(
        moved.contains("eth0 is only in old.toml")
            && moved.contains("eth1 is only in new.toml".replace("new", "moved").as_str()),
        "{moved}"
    );
    let both = nacld(&["diff", "bad.toml", "missing.toml"]);
    assert_eq!((both.status.code(), text(&both.stdout).as_str()), (Some(1), ""));
    let error = text(&both.stderr);
    assert!(error.contains("bad.toml:3") && error.contains("cannot read missing.toml"), "all at once: {error}");
    assert_eq!(code(&["diff", "-", "-"]), Some(2));
    let unknown = nacld(&["diff", "old.toml", "new.toml", "--interface", "eth9"]);
    assert!(text(&unknown.stderr).contains("has no interface \"eth9\""), "{}", text(&unknown.stderr));
    for (arguments, expected) in [
        (&["search", "old.toml", "--port", "22", "--icmp", "8"][..], "cannot be used with"),
        (&["search", "old.toml", "--port", "x-y"], "is no port"),
        (&["search", "old.toml", "--port", "9-1"], "ends before it begins"),
        (&["search", "old.toml", "--icmp", "300"], "no number from 0 to 255"),
        (&["search", "old.toml", "--remote", "somewhere"], "neither an address nor a CIDR"),
        (&["search", "old.toml", "sideways"], "possible values: inbound, outbound"),
        (&["search", "old.toml", "--port", "22", "--protocol", "gre"], "not of gre"),
        (&["search", "old.toml", "--icmp", "8", "--protocol", "tcp"], "not tcp"),
        (&["search", "old.toml", "--remote", "::/0", "--protocol", "icmp"], "icmp is IPv4's"),
    ] {
        let output = nacld(arguments);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(expected), "{arguments:?}: {error}");
    }
}

/// An example is a line for `explain --jsonl`, and a command for a shell that says of it what the region says.
fn explained(region: &Value, direction: Direction) -> Output {
    let query: Query = serde_json::from_value(region["example"]["packet"].clone()).expect("a line of explain --jsonl");
    assert_eq!(query.packet().expect("a packet").0, direction);
    let command = region["example"]["explain"].as_str().expect("a command");
    let words: Vec<_> = command.strip_prefix("nacld ").expect("nacld").split(' ').chain(["--json"]).collect();
    nacld(&words)
}

#[test]
fn a_machine_reads_a_difference_and_its_examples() {
    let output = nacld(&["diff", "old.toml", "new.toml", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["schema"], &json["equal"]), (&1.into(), &false.into()));
    let interface = &json["interfaces"][0];
    assert_eq!(
        interface["settings"][0],
        serde_json::json!({"name": "mode", "before": "stateless", "after": "stateful"})
    );
    assert_eq!(interface["first_packets_only"], true);
    let changes = interface["changes"].as_array().expect("changes");
    let seen: Vec<_> = changes.iter().map(|change| change["change"].as_str().expect("a word")).collect();
    assert_eq!(seen, ["admitted", "denied"]);
    assert_eq!(
        changes[1]["before"],
        serde_json::json!({"action": "allow", "layer": "nacl", "by": "inbound 100", "line": 4})
    );
    let region = &changes[0]["regions"][0];
    assert_eq!(region["remote"]["cidrs"], serde_json::json!(["0.0.0.0/0"]));
    assert_eq!(region["traffic"]["keys"], serde_json::json!([{"protocol": "tcp", "ports": [80, 80]}]));
    let explained = explained(region, Direction::Inbound);
    let answer: Value = serde_json::from_slice(&explained.stdout).expect("JSON");
    assert_eq!(answer["request"]["action"], "allow", "{answer:#}");
    let found = nacld(&["search", "old.toml", "outbound", "--json"]);
    let found: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    assert_eq!(found["interfaces"][0]["found"][0]["by"]["by"], "outbound 100", "{found:#}");
}

/// What came on standard input has no name to type.
#[test]
fn what_comes_on_standard_input_is_not_named_in_a_command() {
    let named = text(&nacld(&["diff", "old.toml", "new.toml"]).stdout);
    let piped = text(&nacld(&["diff", "old.toml", "-"]).stdout);
    let (same, command) = named.split_once("  An example, explained:\n").expect("a command");
    assert!(command.contains("nacld explain --config new.toml"), "{command}");
    let (also, hint) =
        piped.split_once("  To have an example explained, save the policy in a file:\n").expect("a hint");
    assert_eq!(same, also);
    assert!(!piped.contains("<stdin>") && hint.contains("nacld explain takes it by --config."), "{piped}");
    // The old one may come that way: the new one is what is explained.
    let back = text(&nacld(&["diff", "-", "old.toml"]).stdout);
    assert!(back.contains("nacld explain --config old.toml"), "{back}");
    let found = text(&nacld(&["search", "-", "inbound"]).stdout);
    assert!(!found.contains("<stdin>") && found.contains("save the policy in a file"), "{found}");
    let json: Value = serde_json::from_slice(&nacld(&["diff", "old.toml", "-", "--json"]).stdout).expect("JSON");
    let example = &json["interfaces"][0]["changes"][0]["regions"][0]["example"];
    assert!(example["explain"].is_null() && example["packet"].is_object(), "{example}");
}

#[test]
fn the_policies_that_come_along_can_be_compared_and_searched() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let policies: Vec<Resolved> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| load(&fs::read_to_string(path).unwrap()))
        .collect();
    assert!(policies.len() > 5);
    for old in &policies {
        for new in &policies {
            let difference = diff(old, new, None, true).expect("two policies");
            assert!(!std::ptr::eq(old, new) || difference.is_empty(), "{difference:#?}");
        }
        for interface in old.interfaces.values() {
            assert!(!search(interface, &Search::default()).expect("a search").found.is_empty());
        }
    }
}
