//! What `check` finds in rules is so: every finding on random policies is confirmed by its packets, through the engine and through
//! the naive oracle, and shadowing and redundancy are what brute force says of them. What `--fix` writes changes no verdict.
//! `NACLD_FINDINGS` asks for another number of random policies, `NACLD_SEED` for another seed.

mod support;

use std::{collections::BTreeMap, fmt::Write, sync::Arc, thread};

use nacl_common::{Action, Direction, Layer};
use nacl_daemon::{
    analyze::{findings, mend, same_verdicts},
    compile::compile,
    policy::{self, Diagnostic, Example},
    resolve::{Group, Interface, Layers, Mode, Nacl, NoHost, Resolved, Rule},
};
use support::{
    brute::{case_of, representatives},
    case::{Case, Part},
    generate::{self, Random},
    oracle::{self, Decider},
};

const POLICIES: u64 = 150;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A policy with this interface, whose rules stand in its text, a line each: what a finding points at is known by its line.
fn policy_of(interface: Interface) -> Resolved {
    let mut resolved = policy::load("random", "version = 1\n[interface.eth0]\nnacl = \"default\"\n", &NoHost)
        .resolved
        .expect("a policy");
    let mut text = "version = 1\n".to_owned();
    let mut place = |line: &mut usize, span: &mut std::ops::Range<usize>| {
        let start = text.len();
        text.push_str("{ }\n");
        (*line, *span) = (text.matches('\n').count(), start..start + 3);
    };
    let mut nacl = Nacl::clone(&interface.nacl);
    for rule in nacl.inbound.iter_mut().chain(&mut nacl.outbound) {
        place(&mut rule.line, &mut rule.span);
    }
    let mut interface = Interface { nacl: Arc::new(nacl), ..interface };
    for group in interface.groups.iter_mut().flatten() {
        let mut placed = Group::clone(group);
        for rule in placed.inbound.iter_mut().chain(&mut placed.outbound) {
            place(&mut rule.line, &mut rule.span);
        }
        *group = Arc::new(placed);
    }
    resolved.text = text.into();
    resolved.nacls = [(interface.nacl.name.clone(), Arc::clone(&interface.nacl))].into();
    resolved.groups = interface.groups.iter().flatten().map(|group| (group.name.clone(), Arc::clone(group))).collect();
    resolved.interfaces = [("eth0".to_owned(), interface)].into();
    resolved
}

/// The interface with one of its layers alone, and nothing exempt or remembered.
fn alone(interface: &Interface, layer: Layer) -> Interface {
    let bare = Interface { aws: false, exemptions: Vec::new(), mode: Mode::Stateless, ..interface.clone() };
    match layer {
        Layer::Nacl => Interface { groups: None, layers: Layers::Nacl, ..bare },
        _ => Interface { layers: Layers::Groups, ..bare },
    }
}

/// The engine and the oracle say of a packet what its finding says.
fn confirm(interface: &Interface, example: &Example) {
    let Example { layer, direction, packet, allow, by, .. } = example;
    let interface = alone(interface, *layer);
    let compiled = compile(&interface, None).expect("compiles");
    let verdict = compiled.judge(*direction, packet);
    let decider = compiled.slots.decider(verdict.slot, verdict.reason);
    assert_eq!((verdict.action == Action::Allow, decider.to_string()), (*allow, by.clone()), "the engine: {example:?}");
    let case = case_of(*direction, packet);
    let said = match layer {
        Layer::Nacl => oracle::nacl(&interface, &case, false),
        _ => oracle::groups(&interface, &case, false),
    };
    let said = said.expect("the layer is on");
    let way = direction.name();
    let expected = match said.by {
        Decider::Nacl(number) => format!("{way} {number}"),
        Decider::NaclStar => format!("{way} *"),
        Decider::SameSubnet => "same-subnet".to_owned(),
        Decider::Group(place, position) => {
            format!("{} {way} {position}", interface.groups.as_ref().expect("groups")[place].name)
        }
        Decider::GroupStar => format!("{way} sg *"),
        other => panic!("{other:?} of a list alone"),
    };
    assert_eq!((said.allow, expected), (*allow, by.clone()), "the oracle: {example:?}");
}

/// The rule of the network ACL that a finding points at.
fn rule_of<'i>(interface: &'i Interface, found: &Diagnostic) -> Option<(Direction, &'i Rule)> {
    Direction::ALL.into_iter().find_map(|direction| {
        let rule = interface.nacl.rules(direction).iter().find(|rule| rule.span == found.span)?;
        Some((direction, rule))
    })
}

fn with_rules(interface: &Interface, direction: Direction, keep: impl Fn(&Rule) -> bool) -> Interface {
    let mut nacl = Nacl::clone(&interface.nacl);
    match direction {
        Direction::Inbound => nacl.inbound.retain(keep),
        Direction::Outbound => nacl.outbound.retain(keep),
    }
    Interface { nacl: Arc::new(nacl), ..interface.clone() }
}

/// Whether a rule of the list means a packet.
fn means(interface: &Interface, rule: &Rule, case: &Case) -> bool {
    let only = with_rules(interface, case.direction, |other| other.number == rule.number);
    let only = Interface { subnet_cidrs: Vec::new(), ..only };
    oracle::nacl(&only, case, false).is_some_and(|said| said.by == Decider::Nacl(rule.number))
}

/// What brute force says of the rules of a list.
#[derive(Debug, Default, PartialEq, Eq)]
struct Brute {
    /// Never decide about a packet whose ports can be seen, though other rules decide about some they mean.
    shadowed: Vec<u16>,
    /// Decide about some packet, and without each of them no packet has another verdict.
    redundant: Vec<u16>,
}

fn brute(interface: &Interface, direction: Direction, v6: bool) -> Brute {
    let cases = representatives(&[interface], direction, v6);
    let said = |interface: &Interface| -> Vec<_> {
        cases.iter().map(|case| oracle::nacl(interface, case, false).expect("it is on")).collect()
    };
    let all = said(interface);
    let mut found = Brute::default();
    let own = interface.nacl.rules(direction).iter().filter(|rule| rule.cidr.addr().is_ipv6() == v6);
    for rule in own {
        let by = Decider::Nacl(rule.number);
        let decides = |whole: bool| {
            cases.iter().zip(&all).any(|(case, said)| said.by == by && (!whole || case.part != Part::Later))
        };
        let taken = |action: Option<bool>, whole: bool| {
            cases.iter().zip(&all).any(|(case, said)| {
                matches!(said.by, Decider::Nacl(_))
                    && said.by != by
                    && action.is_none_or(|allow| said.allow == allow)
                    && (!whole || case.part != Part::Later)
                    && means(interface, rule, case)
            })
        };
        let deny = rule.action == Action::Deny;
        if !decides(false) && taken(None, false) || deny && !decides(true) && taken(None, true) {
            found.shadowed.push(rule.number);
        } else if decides(false) {
            let without = said(&with_rules(interface, direction, |other| other.number != rule.number));
            if all.iter().zip(&without).all(|(with, without)| with.allow == without.allow) {
                found.redundant.push(rule.number);
            }
        }
    }
    found
}

fn check(seed: u64, met: &mut BTreeMap<&'static str, u64>) {
    let mut random = Random(seed);
    let (inbound, outbound) = (random.below(13) as usize, random.below(13) as usize);
    let nacl = generate::interface(&mut random, inbound, outbound);
    let policy = policy_of(generate::layered(&mut random, nacl));
    let interface = &policy.interfaces["eth0"];
    let found = findings(&policy);
    for one in &found {
        *met.entry(one.code).or_default() += 1;
        assert!(!one.examples.is_empty(), "seed {seed}: {one:?}");
        for example in &one.examples {
            confirm(interface, example);
        }
        let passes: Vec<_> = one.examples.iter().map(|example| example.allow).collect();
        let case = case_of(one.examples[0].direction, &one.examples[0].packet);
        let rule = rule_of(interface, one).filter(|_| one.examples[0].layer == Layer::Nacl);
        let decides = |number: u16| one.examples[0].by == format!("{} {number}", case.direction.name());
        match (one.code, rule) {
            ("N001", Some((_, rule))) => assert!(means(interface, rule, &case) && !decides(rule.number), "{one:?}"),
            ("N002" | "N003", Some((_, rule))) => {
                assert!(means(interface, rule, &case) && rule.action == Action::Deny && passes == [true], "{one:?}");
            }
            ("N004", Some((_, rule))) => assert!(decides(rule.number), "{one:?}"),
            ("N005" | "N006" | "N007" | "N008" | "N009" | "N010", _) => {
                assert_eq!(passes, [true, false], "{one:?}");
                assert_ne!(interface.mode, Mode::Stateful, "{one:?}");
            }
            ("N011", _) => assert_ne!(passes[0], passes[1], "{one:?}"),
            ("N013" | "N015", _) => assert_eq!(passes, [true], "{one:?}"),
            ("N014", _) => assert!(passes.iter().all(|passes| !passes), "{one:?}"),
            // Families do not meet, whatever is remembered.
            ("N012" | "N016", _) => assert_eq!(passes, [true, false], "{one:?}"),
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    if interface.layers == Layers::Groups {
        assert!(found.iter().all(|one| one.examples[0].layer != Layer::Nacl), "seed {seed}");
        return;
    }
    lists(seed, &alone(interface, Layer::Nacl), &found);
}

/// Shadowed and redundant rules of the network ACL are those of brute force; and without what is said to change nothing nothing
/// changes.
fn lists(seed: u64, interface: &Interface, found: &[Diagnostic]) {
    let named = |codes: &[&str], direction: Direction, v6: bool| -> Vec<u16> {
        let own = found.iter().filter(|one| codes.contains(&one.code));
        let mut numbers: Vec<_> = own
            .filter_map(|one| rule_of(interface, one))
            .filter(|(of, rule)| *of == direction && rule.cidr.addr().is_ipv6() == v6)
            .map(|(_, rule)| rule.number)
            .collect();
        numbers.sort_unstable();
        numbers
    };
    for direction in Direction::ALL {
        for v6 in [false, true] {
            let brute = brute(interface, direction, v6);
            assert_eq!(named(&["N001", "N002"], direction, v6), brute.shadowed, "seed {seed}: {interface:#?}");
            let redundant = named(&["N004"], direction, v6);
            assert!(
                redundant.iter().all(|number| brute.redundant.contains(number)),
                "seed {seed}: {redundant:?} {brute:?}"
            );
            // All that is proposed to be removed, at once.
            let removed: Vec<_> = found
                .iter()
                .filter(|one| one.fix.is_some())
                .filter_map(|one| rule_of(interface, one))
                .filter(|(of, rule)| *of == direction && rule.cidr.addr().is_ipv6() == v6)
                .map(|(_, rule)| rule.number)
                .collect();
            let without = with_rules(interface, direction, |rule| !removed.contains(&rule.number));
            for case in representatives(&[interface], direction, v6) {
                let allows = |interface| oracle::nacl(interface, &case, false).map(|said| said.allow);
                assert_eq!(allows(interface), allows(&without), "seed {seed}: without {removed:?}: {case:?}");
            }
            // What is left is redundant only by what was removed or is meant.
            if removed.is_empty() && named(&["N001", "N002"], direction, v6).is_empty() {
                assert_eq!(redundant, brute.redundant, "seed {seed}");
            }
        }
    }
}

#[test]
fn findings_on_random_policies_are_confirmed_by_their_packets_and_by_brute_force() {
    let count = setting("NACLD_FINDINGS", POLICIES);
    let seed = setting("NACLD_SEED", 2026) << 32;
    let workers = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || {
                    let mut met = BTreeMap::new();
                    (worker..count).step_by(workers as usize).for_each(|at| check(seed + at, &mut met));
                    met
                })
            })
            .collect();
        for worker in workers {
            for (code, times) in worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                *all.entry(code).or_default() += times;
            }
        }
    });
    println!("{count} policies: {all:?}");
    if count >= POLICIES {
        for code in ["N001", "N002", "N003", "N004", "N005", "N008", "N010", "N015", "N016"] {
            assert!(all.get(code).is_some_and(|times| *times >= 5), "{code} is hardly met: {all:?}");
        }
    }
}

/// Of every kind that random policies hardly have: by hand, in `config/invalid`, and their packets here.
#[test]
fn findings_of_the_golden_files_are_confirmed_by_their_packets() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/invalid");
    let mut codes = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.starts_with('N') || path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a file");
        let policy = policy::load(&name, &text, &NoHost).resolved.expect("a policy");
        for found in findings(&policy) {
            codes.insert(found.code);
            for example in &found.examples {
                let interface = &policy.interfaces[example.interface.as_ref().expect("an interface")];
                confirm(interface, example);
            }
        }
    }
    assert_eq!(codes.len(), 16, "{codes:?}");
}

/// What is proposed beside a rule is what its replies need, and no more.
#[test]
fn a_service_of_one_family_is_helped_by_what_its_replies_need() {
    let text = |mode: &str, replies: &str| {
        format!(
            r#"version = 1
[nacl.web]
inbound = [
  {{ rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" }},
  {{ rule = 105, action = "allow", protocol = "tcp", ports = 443, source = "::/0" }},
  {{ rule = 110, action = "allow", protocol = "tcp", ports = 80, source = "0.0.0.0/0" }},
]
outbound = [{{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "{replies}" }}]
[interface.eth0]
nacl = "web"
mode = "{mode}"
"#
        )
    };
    for (mode, replies, expected) in [
        ("stateless", "0.0.0.0/0", "add the same rule for the other family, and one for its replies"),
        ("stateless", "::/0", "add the same rule for the other family; a rule for its replies is there"),
        ("stateful", "0.0.0.0/0", "add the same rule for the other family; replies are remembered, and need none"),
    ] {
        let policy = policy::load("web", &text(mode, replies), &NoHost).resolved.expect("a policy");
        let found = findings(&policy);
        let found = found.iter().find(|one| one.code == "N012").expect("the finding");
        assert_eq!(found.help.as_deref(), Some(expected), "{mode}, {replies}");
    }
}

const BROKEN: &str = r#"version = 1   # of the language

[nacl.web]
# Requests.
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "8000-8999", source = "0.0.0.0/0" },   # all of them
  { rule = 110, action = "allow", protocol = "tcp", ports = 8080, source = "10.0.0.7/8" }, # never looked at
  # Kept.
  { rule = 120, action = "allow", protocol = "icmp", icmp = { type = 8 }, source = "::/0" },
  { rule = "*", action = "deny", protocol = "all", source = "0.0.0.0/0" },
]
outbound = [{ rule = 90, action = "allow", protocol = "tcp", ports = 9000, destination = "192.0.2.1/24" }, { rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" }]

[interface.eth0]
nacl = "web"
"#;

const MENDED: &str = r#"version = 1   # of the language

[nacl.web]
# Requests.
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "8000-8999", source = "0.0.0.0/0" },   # all of them
  # Kept.
  { rule = 120, action = "allow", protocol = "icmp", icmp = { type = 8 }, source = "::/0" },
]
outbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" }]

[interface.eth0]
nacl = "web"
"#;

/// ICMP in an IPv6 rule is an edit that changes verdicts: it is proposed, and not written.
#[test]
fn edits_that_change_no_verdict_are_written_and_others_are_not() {
    let mended = mend("policy.toml", BROKEN, &NoHost);
    assert_eq!(mended.text, MENDED);
    let codes = |all: &[Diagnostic]| {
        let mut codes: Vec<_> = all.iter().map(|one| one.code).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    };
    assert_eq!(codes(&mended.refused), ["W004"]);
    for code in ["I003", "N001", "N004"] {
        assert!(codes(&mended.applied).contains(&code), "{code}: {:?}", codes(&mended.applied));
    }
    let load = |text| policy::load("policy.toml", text, &NoHost).resolved.expect("a policy");
    assert!(same_verdicts(&load(BROKEN), &load(&mended.text)));
    let again = mend("policy.toml", &mended.text, &NoHost);
    assert_eq!((again.text.as_str(), again.applied.len()), (MENDED, 0));
}

#[test]
fn a_policy_with_errors_is_left_as_it_is() {
    let text = "version = 1\n[nacl.a]\ninbound = [{ rule = 0 }]\n";
    let mended = mend("policy.toml", text, &NoHost);
    assert_eq!((mended.text.as_str(), mended.applied.len(), mended.refused.len()), (text, 0, 0));
}

/// The edits of random policies with rules twice and thrice, written out: nothing is left to remove, and no verdict is another.
#[test]
fn what_is_mended_in_random_policies_means_the_same() {
    let mut random = Random(setting("NACLD_SEED", 2026));
    let mut applied = 0;
    for _ in 0..10 {
        let interface = generate::interface(&mut random, 8, 8);
        let text = written(&interface);
        let before = policy::load("random", &text, &NoHost).resolved.unwrap_or_else(|| panic!("{text}"));
        let mended = mend("random", &text, &NoHost);
        let after = policy::load("random", &mended.text, &NoHost).resolved.unwrap_or_else(|| panic!("{}", mended.text));
        applied += mended.applied.len();
        let (old, new) = (&before.interfaces["eth0"], &after.interfaces["eth0"]);
        for direction in Direction::ALL {
            for v6 in [false, true] {
                for case in representatives(&[old, new], direction, v6) {
                    assert_eq!(oracle::judge(old, &case).allow, oracle::judge(new, &case).allow, "{case:?}\n{text}");
                }
            }
        }
        let left = findings(&after).into_iter().filter(|one| matches!(one.code, "N001" | "N004") && one.fix.is_some());
        assert_eq!(left.count(), 0, "{}", mended.text);
    }
    assert!(applied > 20, "only {applied}");
}

/// A network ACL as a policy.
fn written(interface: &Interface) -> String {
    let mut text = "version = 1\n[nacl.random]\n".to_owned();
    for direction in Direction::ALL {
        let _ = writeln!(text, "{} = [", direction.name());
        for rule in interface.nacl.rules(direction) {
            let _ = writeln!(text, "  {}, # {}", nacl_daemon::report::rule::rule_toml(rule, direction), rule.number);
        }
        text.push_str("]\n");
    }
    text + "[interface.eth0]\nnacl = \"random\"\nexemptions = \"none\"\n"
}
