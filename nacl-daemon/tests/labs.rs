//! Every lab, at host level: it loads, its expectations hold, its task is a task, and its messages point into its file.

use std::{collections::BTreeSet, fs, path::Path};

use nacl_daemon::{
    lab::{self, Level, file, outcome::Counted, paper},
    resolve::Mode,
};

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
fn every_expectation_holds() {
    for lab in labs() {
        let report = paper::run_host(&lab, Mode::Stateless).unwrap_or_else(|error| panic!("{error}"));
        assert!(report.ok, "{}", lab::show::lab_report(&lab, &report));
        assert_eq!(report.steps.len(), lab.steps.len() + 1);
        assert!(report.steps.iter().all(|step| !step.probes.is_empty()));
    }
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
        let problems: Vec<&String> =
            report.steps.iter().flat_map(|step| &step.probes).flat_map(|probe| &probe.problems).collect();
        assert!(problems.iter().any(|problem| problem.contains(complaint)), "{problems:?}");
    }
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
    let error = file::load("l03").expect_err("not there").to_string();
    assert!(error.contains("there is no lab \"l03\"") && error.contains("L10b"), "{error}");
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
    let widest = listener.0.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(104), "{widest:?} columns:\n{}", listener.0);
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
