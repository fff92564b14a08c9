//! Every lab, at host level: it loads, its expectations hold, its task is a task, and its messages point into its file.

mod support;

use std::{collections::BTreeSet, fs, path::Path};

use nacl_daemon::{
    compile::Decider,
    lab::{self, Level, Outcome, file, outcome::Counted, paper},
    resolve::Mode,
};

use support::lab_broken::{broken, said};

const MODES: [Mode; 2] = [Mode::Stateless, Mode::Stateful];

fn labs() -> Vec<lab::Lab> {
    file::all().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_lab_file_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/labs");
    let on_disk: BTreeSet<String> = fs::read_dir(folder)
        .expect("config/labs")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().trim_end_matches(".toml").to_string())
        .collect();
    let built_in: BTreeSet<String> = file::BUILT_IN.iter().map(|(stem, _)| (*stem).to_string()).collect();
    assert_eq!(on_disk, built_in);
}

#[test]
fn every_expectation_holds_in_both_modes() {
    let mut failed = String::new();
    for (lab, mode) in labs().iter().flat_map(|lab| MODES.map(|mode| (lab, mode))) {
        let report = paper::run_host(lab, mode).unwrap_or_else(|error| panic!("{error}"));
        if !report.ok {
            failed += &lab::show::lab_report(lab, &report);
        }
        assert_eq!(report.mode, mode);
        assert_eq!(report.steps.len(), lab.steps.len() + 1);
        assert!(report.steps.iter().all(|step| !step.probes.is_empty()));
    }
    assert!(failed.is_empty(), "{failed}");
}

/// A person who runs a lab reads why a reply died, as who watches a daemon does.
#[test]
fn whose_replies_die_is_told_with_both_rules_and_a_fix() {
    let mut count = 0;
    for lab in labs() {
        let report = paper::run_host(&lab, Mode::Stateless).unwrap_or_else(|error| panic!("{error}"));
        let text = anstream::adapter::strip_str(&lab::show::lab_report(&lab, &report)).to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let file = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&lab.file)).expect("it");
        for (step, report) in lab.steps.iter().zip(&report.steps) {
            let expected: BTreeSet<_> = step.probes.iter().filter_map(|probe| broken(&lab, probe)).collect();
            assert_eq!(said(&report.broken), expected, "{}, {}: {:#?}", lab.name, step.name, report.broken);
            for one in &report.broken {
                count += 1;
                assert!(text.contains(&one.says), "{}: {}\n{text}", lab.name, one.says);
                let fix = one.fix.as_ref().unwrap_or_else(|| panic!("{}: no fix", one.says));
                assert!(fix.iter().all(|remedy| text.contains(&remedy.rule)), "{text}");
                for ruling in [&one.request, &one.reply] {
                    if let Decider::Nacl { number, .. } = &ruling.decided_by {
                        let line = file.lines().nth(ruling.line - 1).expect("the line");
                        assert!(line.contains(&format!("rule = {number},")), "{}: {ruling:?}: {line}", lab.name);
                    }
                }
            }
        }
        let goal = report.steps.last().expect("the goal");
        assert!(goal.broken.is_empty(), "{}: the solution is one: {:#?}", lab.name, goal.broken);
    }
    assert!(count >= 40, "{count}");
}

#[test]
fn the_memory_makes_the_difference_the_labs_say() {
    let mut differ = BTreeSet::new();
    let labs = labs();
    for (lab, probe) in labs.iter().flat_map(|lab| lab.probes().map(move |probe| (lab, probe))) {
        let outcome = |mode| probe.expected(mode).outcome;
        if outcome(Mode::Stateless) != outcome(Mode::Stateful) {
            assert_eq!(outcome(Mode::Stateful), Outcome::Answered, "{}: {}", lab.name, probe.name);
            differ.insert(lab.name.as_str());
        }
    }
    // The table of lessons: where the network ACL alone forgets, remembering mends it; what never is a reply it does not.
    assert_eq!(
        differ.into_iter().collect::<Vec<_>>().join(" "),
        "L02 L05 L08 L08x L09 L10c L11 L12 L13b L14 L16 L17 L19 L20 L21"
    );
    let l18 = labs.iter().find(|lab| lab.name == "L18").expect("L18");
    let stalled = l18.probes().filter(|probe| probe.expected(Mode::Stateful).outcome == Outcome::Stalled);
    assert_eq!(stalled.count(), 2, "no memory lets ICMP errors in as related (S40)");
}

/// What a lab's report complains of.
fn problems(report: &lab::LabReport) -> Vec<&String> {
    report.steps.iter().flat_map(|step| &step.probes).flat_map(|probe| &probe.problems).collect()
}

#[test]
fn a_wrong_expectation_is_found() {
    let (stem, text) = file::BUILT_IN.iter().find(|(stem, _)| *stem == "l05").expect("L05");
    for (right, wrong, complaint) in [
        ("percent = 42.0", "percent = 41.9", "expected 41.9 %"),
        ("source_ports = [32768, 40000, 49151]", "source_ports = [32768, 40000, 49152]", "from port 49152"),
        (r#"reply = "outbound 100" }"#, r#"reply = "outbound *" }"#, "expected answered (inbound 110, outbound *)"),
    ] {
        assert!(text.contains(right), "{right}");
        let lab = file::parse(stem, "l05.toml", &text.replacen(right, wrong, 1)).expect("still a lab");
        let report = paper::run_host(&lab, Mode::Stateless).expect("runs");
        assert!(!report.ok);
        let problems = problems(&report);
        assert!(problems.iter().any(|problem| problem.contains(complaint)), "{problems:?}");
    }
}

#[test]
fn a_wrong_expectation_is_found_in_either_column_and_at_every_hook() {
    let mutated = [
        // What changes and is not said to.
        ("l02", "stateful = \"answered\"", "", Mode::Stateful, "expected reply dropped"),
        // A rule of the other layer, of another hook, in the other column, after a change.
        (
            "l13",
            "inbound 110, inbound sg *",
            "inbound 110, sg-1 inbound 1",
            Mode::Stateless,
            "saw request dropped (inbound 110, inbound sg *)",
        ),
        (
            "l14",
            "\"lb: inbound 200, inbound tracked\",\n  \"lb: outbound",
            "\"lb: inbound 100, inbound tracked\",\n  \"lb: outbound",
            Mode::Stateless,
            "lb: inbound 200, inbound tracked",
        ),
        (
            "l14",
            "  \"target: outbound tracked\",\n",
            "  \"target: outbound 100\",\n",
            Mode::Stateful,
            "target: outbound tracked",
        ),
        (
            "l21",
            "stateful = { outcome = \"answered\", after = [\"outbound tracked\", \"inbound tracked\"] }",
            "",
            Mode::Stateful,
            "expected cut",
        ),
        (
            "l21",
            "\"inbound 100, inbound tracked\"]",
            "\"inbound 100, sg-1 inbound 1\"]",
            Mode::Stateless,
            "then outbound tracked, outbound 100, inbound 100, inbound tracked",
        ),
        (
            "l15",
            "request = \"same-subnet\", reply = \"same-subnet\"",
            "request = \"same-subnet\", reply = \"outbound 1\"",
            Mode::Stateless,
            "(same-subnet, same-subnet)",
        ),
        ("l12", "stateful = \"answered\"", "", Mode::Stateful, "expected 42 %"),
    ];
    for (stem, right, wrong, mode, complaint) in mutated {
        let (_, text) = file::BUILT_IN.iter().find(|(known, _)| *known == stem).expect(stem);
        assert!(text.contains(right), "{stem}: {right}");
        let lab = file::parse(stem, stem, &text.replacen(right, wrong, 1)).unwrap_or_else(|error| panic!("{error}"));
        let report = paper::run_host(&lab, mode).expect("runs");
        let found = problems(&report);
        assert!(
            !report.ok && found.iter().any(|problem| problem.contains(complaint)),
            "{stem}, {complaint}: {found:#?}"
        );
    }
}

#[test]
fn an_expectation_that_no_port_meets_is_found() {
    let (stem, text) = file::BUILT_IN.iter().find(|(stem, _)| *stem == "l05").expect("L05");
    // Under the solution every port is answered, so that there are no others.
    let outbound = "ports = \"49152-65535\", destination";
    let lab = file::parse(stem, stem, &text.replace(outbound, "ports = \"1024-65535\", destination")).expect("a lab");
    let report = paper::run_host(&lab, Mode::Stateless).expect("runs");
    let found = problems(&report);
    assert!(found.iter().any(|problem| problem.contains("from other ports, and saw it from none")), "{found:#?}");
}

#[test]
fn the_task_is_not_done_at_the_start() {
    for mut lab in labs() {
        lab.solution = lab.policy.clone();
        let report = paper::run_host(&lab, Mode::Stateless).unwrap_or_else(|error| panic!("{error}"));
        let goal = report.steps.last().expect("a goal");
        let reached = goal.probes.iter().all(|probe| {
            probe.cases.iter().all(|case| case.seen.outcome == case.expected.outcome)
                && probe.share.is_none_or(|share| (share.percent - share.expected).abs() < 0.05)
        });
        assert!(!reached, "{}: the policy one finds already reaches the goal", lab.name);
    }
}

#[test]
fn messages_point_into_the_lab_file() {
    let (stem, text) = file::BUILT_IN.iter().find(|(stem, _)| *stem == "l01").expect("L01");
    let broken = text.replacen("ports = 443", "ports = \"443-80\"", 1);
    let line = broken.lines().position(|line| line.contains("443-80")).expect("the line") + 1;
    let lab = file::parse(stem, "l01.toml", &broken).expect("a lab");
    let message = paper::run_host(&lab, Mode::Stateless).expect_err("invalid policy").to_string();
    assert!(message.contains(&format!("l01.toml:{line}:")), "{message}");
    let lab = file::load("L01").expect("L01");
    let policy = lab.compile(&lab.policy, file::Settings::default(), None).expect("valid");
    let (rule, resolved) = (&policy.at("server").interface.nacl.inbound[0], &policy.resolved);
    assert_eq!(text.lines().nth(rule.line - 1), resolved.text.lines().nth(rule.line - 1));
    assert!(text.lines().nth(rule.line - 1).expect("line").contains("rule = 100"));
}

#[test]
fn labs_that_contradict_themselves_are_refused() {
    let (stem, text) = file::BUILT_IN.iter().find(|(stem, _)| *stem == "l05").expect("L05");
    for (right, wrong, complaint) in [
        ("title = ", "subtitle = ", "subtitle"),
        ("name = \"L05\"", "name = \"L06\"", "its file must be l06.toml"),
        ("hooks = [\"server\"]", "hooks = [\"sever\"]", "which is no host"),
        ("to = \"server\"", "to = \"client\"", "its ends are one host"),
        ("port = 443", "port = 444", "nothing serves that port"),
        (r#"request = "inbound 110""#, r#"request = "outbound 110""#, "the other list"),
        (r#"request = "inbound 110""#, r#"request = "in 110""#, "names nothing that decides"),
        ("percent = 42.0, ", "", "a percentage goes with"),
        ("source_ports = \"all\"", "source_ports = \"some\"", "a port, a list of ports, or \"all\""),
        ("addresses = [\"198.51.100.7/24\"]", "addresses = [\"198.51.100.1/24\"]", "leaves the router no address"),
        ("addresses = [\"198.51.100.7/24\"]", "addresses = [\"10.0.1.10/24\"]", "two hosts have the address"),
        ("policy = '''\n", "policy = \"\"\"\n", "literal multi-line string"),
    ] {
        let mut broken = text.replacen(right, wrong, 1);
        if wrong.ends_with("\"\"\"\n") {
            broken = broken.replacen("side = \"router\"\n'''", "side = 'router'\n\"\"\"", 1);
        }
        assert_ne!(*text, broken, "{right}");
        let error = file::parse(stem, "l05.toml", &broken).expect_err(wrong).to_string();
        assert!(error.contains(complaint), "{wrong}: {error}");
    }
}

#[test]
fn what_is_written_of_hooks_relays_and_changes_must_fit() {
    for (stem, right, wrong, complaint) in [
        ("l14", "hooks = [\"lb\", \"target\"]", "hooks = [\"lb\", \"lb\"]", "twice"),
        ("l14", "hooks = [\"lb\", \"target\"]", "hooks = []", "needs a hook"),
        (
            "l14",
            "\"lb: inbound 100, sg-2 inbound 1\",",
            "\"inbound 100, sg-2 inbound 1\",",
            "does not say at which hook: write \"lb: inbound 100",
        ),
        (
            "l14",
            "\"lb: inbound 100, sg-2 inbound 1\",",
            "\"api: inbound 100, sg-2 inbound 1\",",
            "none of this lab's hooks",
        ),
        (
            "l14",
            "\"lb: inbound 100, sg-2 inbound 1\",",
            "\"target: inbound 100, sg-2 inbound 1\",",
            "stands where the message crosses the hook of \"lb\"",
        ),
        ("l14", "  \"lb: outbound tracked\",\n", "", "has as many crossings as"),
        ("l14", "to = \"target:80\"", "to = \"target:81\"", "no other host answers at target:81"),
        ("l14", "to = \"target:80\"", "to = \"target\"", "is not a port of a host"),
        ("l14", "answers = \"relay\", to = \"target:80\"", "answers = \"relay\"", "`to` says where a relay"),
        ("l14", "layers = \"nacl\"", "layers = \"acl\"", "\"acl\" is none of \"both\", \"nacl\", \"sg\""),
        ("l14", "outcome = \"stalled\"", "outcome = \"cut\"", "has as many crossings as"),
        (
            "l15",
            "addresses = [\"192.168.1.102/24\"]",
            "addresses = [\"192.168.1.105/24\"]",
            "two hosts have the address",
        ),
        ("l21", "download = true\n", "", "`during` goes with download"),
        (
            "l21",
            "after = [\"outbound tracked, outbound 100\", \"inbound *\"]",
            "after = []",
            "`after` goes with `during`",
        ),
        (
            "l21",
            "stateful = { outcome = \"answered\", after = [\"outbound tracked\", \"inbound tracked\"] }",
            "stateful = \"answered\"",
            "say with `after`",
        ),
        ("l21", "stateful = {", "stateful = \"never\" #", "\"answered\", or a table of what differs"),
        ("l21", "stateful = { outcome", "stateful = { result", "unknown field `result`"),
        (
            "l02",
            "stateful = \"answered\"",
            "stateful = { outcome = \"answered\", request = \"outbound 1\" }",
            "stateful: ",
        ),
        ("l02", "name = \"as found\"", "name = \"as found\"\nmode = \"stateful\"", "there is no other column"),
        ("l12", "inside = \"10.99.0.2/24\"", "inside = \"10.99.0.1/24\"", "leaves the NAT no address"),
        ("l12", "connections = 640", "connections = 0", "needs connections and a tolerance"),
        ("l12", "tolerance = 10.0 }", "tolerance = 10.0, kind = \"cone\" }", "unknown field `kind`"),
    ] {
        let (_, text) = file::BUILT_IN.iter().find(|(known, _)| *known == stem).expect(stem);
        let broken = text.replacen(right, wrong, 1);
        assert_ne!(*text, broken, "{stem}: {right}");
        let error = file::parse(stem, &format!("{stem}.toml"), &broken).expect_err(wrong).to_string();
        assert!(error.contains(complaint), "{stem}, {wrong}: {error}");
        assert!(error.contains(stem), "names the file: {error}");
    }
}

#[test]
fn a_step_may_set_the_mode() {
    let (stem, text) = file::BUILT_IN.iter().find(|(stem, _)| *stem == "l02").expect("L02");
    // With a memory that the step sets, both columns are one; the goal has two again.
    let first = text.find("[[step.probe]]").expect("a probe");
    let (head, rest) = text.split_at(first);
    let (steps, goal) = rest.split_at(rest.find("[goal]").expect("a goal"));
    let steps = steps
        .replace("stateful = \"answered\"\n", "")
        .replace("outcome = \"reply-dropped\"", "outcome = \"answered\"")
        .replace("reply = \"outbound *\"", "reply = \"outbound tracked\"");
    let text = format!("{}\n{steps}{goal}", head.trim_end().replace("[[step]]", "[[step]]\nmode = \"stateful\""));
    let lab = file::parse(stem, stem, &text).unwrap_or_else(|error| panic!("{error}"));
    for mode in MODES {
        let report = paper::run_host(&lab, mode).expect("runs");
        assert!(report.ok, "{}", lab::show::lab_report(&lab, &report));
    }
}

#[test]
fn levels_are_compared() {
    let lab = file::load("l05").expect("L05");
    let host = paper::run_host(&lab, Mode::Stateless).expect("runs");
    let mut other = host.clone();
    other.level = Level::Kernel;
    assert!(host.disagreements(&other).is_empty());
    other.steps[0].probes[0].cases[0].seen.path.pop();
    assert_eq!(host.disagreements(&other).len(), 1);
}

#[test]
fn an_unknown_lab_names_those_there_are() {
    let error = file::load("l22").expect_err("not there").to_string();
    assert!(error.contains("there is no lab \"l22\"") && error.contains("L10b"), "{error}");
    assert_eq!(file::load("L5").expect("L05, as people type it").name, "L05");
    let error = file::load("./nowhere.toml").expect_err("not there").to_string();
    assert!(error.contains("nowhere.toml"), "{error}");
}

/// Nobody at a terminal: what was shown is kept.
#[derive(Default)]
struct Listener(String);

impl lab::demo::Audience for Listener {
    fn show(&mut self, text: &str) -> std::io::Result<()> {
        self.0.push_str(&anstream::adapter::strip_str(text).to_string());
        Ok(())
    }

    fn wait(&mut self, _: &str) -> std::io::Result<Option<String>> {
        Ok(Some("ac".into()))
    }
}

#[test]
fn the_demo_is_told_without_a_network() {
    let mut listener = Listener::default();
    let surprises = lab::demo::tell(&mut listener, vec!["a kernel".into()]).expect("told");
    assert_eq!(surprises, Vec::<String>::new());
    for said in [
        "On paper:",
        "- a kernel",
        "cargo xtask demo",
        "You say \"ac\"",
        "network ACL, out *: deny",
        "network ACL, in 200: deny",
        "config/labs/l11.toml:",
        "+ { rule = 300, action = \"allow\", protocol = \"tcp\", ports = \"1024-65535\"",
        "None of the three",
    ] {
        assert!(listener.0.contains(said), "{said:?} was not said:\n{}", listener.0);
    }
    // It fits every terminal, but for what is to be pasted, which stays whole.
    let (rules, lines): (Vec<_>, Vec<_>) = listener.0.lines().partition(|line| line.contains("{ rule = 300"));
    let widest = lines.iter().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "{widest:?} columns:\n{}", listener.0);
    assert!(rules.len() == 3 && rules.iter().all(|rule| rule.trim_end().ends_with('}')), "{rules:?}");
}

#[test]
fn texts_are_written() {
    for lab in labs() {
        for (what, text) in [("question", &lab.question), ("task", &lab.task), ("lesson", &lab.lesson)] {
            assert!(text.len() > 25, "{}: {what} {text:?}", lab.name);
        }
        assert!(lab.question.contains('?'), "{}: no question", lab.name);
        assert!(lab.hints.len() >= 3, "{}: hints lead up to the answer", lab.name);
        let shown = anstream::adapter::strip_str(&lab::show::solution(&lab)).to_string();
        assert!(shown.contains(&lab.solution.text), "{}", lab.name);
    }
}

#[test]
fn a_control_that_fails_is_told() {
    use lab::outcome::{Case, compare};

    let lab = file::load("l02").expect("L02");
    let policy = lab.compile(&lab.policy, file::Settings::default(), None).expect("valid");
    let probe = &lab.steps[0].probes[0];
    let observation = || probe.expected(Mode::Stateless).observation();
    let case = |control| Case { source_port: 52345, seen: observation(), expected: observation(), control };
    assert!(
        compare(&lab, probe, Mode::Stateless, &policy, vec![case(Some(true))], Counted::ByStretch).problems.is_empty()
    );
    let report = compare(&lab, probe, Mode::Stateless, &policy, vec![case(Some(false))], Counted::ByStretch);
    assert_eq!(report.problems, ["from port 52345: not answered with nothing attached either"]);
    assert!(
        !compare(&lab, probe, Mode::Stateless, &policy, Vec::new(), Counted::ByStretch).problems.is_empty(),
        "a probe without a case"
    );
}
