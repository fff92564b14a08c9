//! Labs with root: every lab through the loaded programs and on the wire, a lab to sit in, and what is left after each kind
//! of end. Namespaces are this file's own; their names carry the process that holds them.

use std::{
    fs,
    process::{Command, Output, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use nacl_daemon::{
    lab::{Lab, Level, file, hold, relay::Proxy, run::run, show, wire},
    resolve::Mode,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

/// Namespaces that a process holds.
fn namespaces(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("nacld-") && name.contains(&format!("-{pid}."))).collect()
}

/// Whether a process runs. One that has ended and that nobody has asked about yet does not.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < end, "{what}: not within 30 seconds");
        thread::sleep(Duration::from_millis(20));
    }
}

/// `nacld lab …` with a directory for labs of its own.
struct Nacld(TempDir);

impl Nacld {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacld"));
        command.arg("lab").args(arguments).env("NACLD_LABS", self.0.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("nacld")
    }

    /// Runs it and returns what it printed; the exit code must be this.
    fn run(&self, arguments: &[&str], code: i32) -> String {
        let output = self.output(arguments);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "nacld lab {arguments:?}:\n{text}");
        text
    }

    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let text = self.run(arguments, code);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The process that holds a lab.
    fn holder(&self, lab: &str) -> u32 {
        let pid = self.json(&["status", lab, "--json"], 0)["pid"].as_u64().expect("pid");
        u32::try_from(pid).expect("pid")
    }

    fn policy(&self, lab: &str) -> std::path::PathBuf {
        self.0.path().join(lab).join("policy.toml")
    }
}

impl Drop for Nacld {
    fn drop(&mut self) {
        // A test that failed in the middle leaves no lab up.
        let _ = self.output(&["down", "--all"]);
    }
}

const MODES: [Mode; 2] = [Mode::Stateless, Mode::Stateful];

#[test]
fn every_lab_says_the_same_at_every_level() {
    /// Labs mostly wait for what does not come, so several share a processor.
    const AT_ONCE: usize = 4;
    let labs = file::all().expect("labs");
    let next = Mutex::new(labs.iter());
    let done: usize = thread::scope(|scope| {
        let worker = || {
            let mut done = 0;
            loop {
                let lab = next.lock().expect("labs").next();
                let Some(lab) = lab else { return done };
                says_the_same_at_every_level(lab);
                done += 1;
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).sum()
    });
    assert_eq!(done, labs.len());
}

fn says_the_same_at_every_level(lab: &Lab) {
    let levels = [Level::Host, Level::Kernel, Level::Wire];
    let run = run(std::slice::from_ref(lab), &levels, &MODES, |lab, report| {
        println!("{}", show::lab_report(lab, report));
    })
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(run.disagreements, Vec::<String>::new());
    for report in &run.reports {
        assert!(report.ok, "{}", show::lab_report(lab, report));
        assert_eq!(report.not_run.is_some(), report.level == Level::Wire && lab.without_wire.is_some(), "{}", lab.name);
        // On the wire every probe has its control, and every drop was counted.
        let cases = report.steps.iter().flat_map(|step| &step.probes).flat_map(|probe| &probe.cases);
        if report.level == Level::Wire {
            assert!(cases.clone().all(|case| case.control == Some(true)), "{}", lab.name);
            assert!(report.steps.iter().all(|step| !step.counters.is_empty()), "{}", lab.name);
        }
    }
    assert_eq!(run.reports.len(), levels.len() * MODES.len());
    assert!(run.ok);
    let ours = format!("nacld-{}-", lab.name.to_lowercase());
    assert!(namespaces(std::process::id()).iter().all(|name| !name.starts_with(&ours)), "{} is gone", lab.name);
}

#[test]
fn a_relay_of_our_own_does_what_haproxy_does() {
    // With haproxy, where it is installed, the lab is run among all others.
    let lab = file::load("l14").expect("L14");
    // Two labs of one name cannot stand in one process at once.
    let lab = Lab { name: "L14own".into(), ..lab };
    for mode in MODES {
        let report = wire::run_with(&lab, mode, Proxy::BuiltIn).unwrap_or_else(|error| panic!("{error}"));
        assert!(report.ok, "{}", show::lab_report(&lab, &report));
    }
}

#[test]
fn a_wrong_expectation_fails_on_the_wire() {
    let (stem, text) = file::BUILT_IN.iter().find(|(stem, _)| *stem == "l10b").expect("L10b");
    // The reply is let out by rule 100, not by this one.
    let text = text.replacen(r#"reply = "outbound 100""#, r#"reply = "outbound 99""#, 1);
    let lab = file::parse(stem, "l10b.toml", &text).expect("still a lab");
    let report = wire::run(&lab, Mode::Stateless).unwrap_or_else(|error| panic!("{error}"));
    assert!(!report.ok);
    let problems = format!("{:?}", report.steps[0].probes[0].problems);
    assert!(
        problems.contains("expected answered (inbound 100, outbound 99), saw answered (inbound 100, outbound 100)"),
        "{problems}"
    );
}

#[test]
fn a_lab_to_sit_in() {
    let nacld = Nacld::new();
    let welcome = nacld.run(&["up", "l02"], 0);
    assert!(welcome.contains("Your task") && welcome.contains("198.51.100.7"), "{welcome}");
    let pid = nacld.holder("l02");
    assert_eq!(namespaces(pid).len(), 4, "three hosts and the router");
    assert!(nacld.run(&["up", "l02"], 1).contains("is up already"));
    assert!(nacld.run(&["status"], 0).contains("L02"));

    // Inside: the client has its address, its system's ports, and no way out.
    let inside =
        "ip -br -4 address show eth0; cat /proc/sys/net/ipv4/ip_local_port_range; ip route show default; echo $SERVER";
    let inside = nacld.run(&["shell", "l02", "windows", "--", "sh", "-c", inside], 0);
    assert!(
        inside.contains("203.0.113.7/24") && inside.contains("49152\t65535") && inside.contains("10.0.1.10"),
        "{inside}"
    );
    assert!(!inside.contains("default"), "{inside}");
    assert!(nacld.run(&["shell", "l02", "nobody"], 2).contains("it has client, server, windows, router"));

    let failed = nacld.run(&["verify", "l02"], 7);
    assert!(failed.contains("expected answered, saw reply dropped (inbound 100, outbound *)"), "{failed}");
    let verdict = nacld.json(&["verify", "l02", "--json"], 7);
    assert_eq!(verdict["ok"], false);

    // An invalid policy changes nothing.
    let found = fs::read_to_string(nacld.policy("l02")).expect("policy");
    fs::write(nacld.policy("l02"), found.replace("ports = 443", "ports = 70000")).expect("written");
    for verb in ["reload", "verify"] {
        let refused = nacld.run(&[verb, "l02"], if verb == "verify" { 7 } else { 1 });
        assert!(refused.contains("error[") && refused.contains("stays in force"), "{refused}");
    }
    fs::write(nacld.policy("l02"), b"version = 1 \xff").expect("written");
    assert!(nacld.run(&["reload", "l02"], 1).contains("stays in force"));
    let rules = nacld.json(&["status", "l02", "--json"], 0)["report"]["hooks"][0]["rules"].clone();
    let numbers: Vec<&Value> = rules.as_array().expect("rules").iter().map(|rule| &rule["rule"]).collect();
    assert_eq!(numbers, [&Value::from(100), &Value::from("*"), &Value::from("*")], "the policy from before");

    // Hints, each one further; then the solution.
    assert!(nacld.run(&["hint", "l02"], 0).contains("hint 1 of 3"));
    assert!(nacld.run(&["hint", "l02"], 0).contains("hint 2 of 3"));
    let solution = &file::load("l02").expect("L02").solution.text;
    assert!(nacld.run(&["solution", "l02"], 0).contains(solution.as_str()));
    fs::write(nacld.policy("l02"), solution).expect("written");
    assert!(nacld.run(&["reload", "l02"], 0).contains("in force"));
    assert!(nacld.run(&["verify", "l02"], 0).contains("The goal is reached"));

    nacld.run(&["down", "l02"], 0);
    assert_eq!(namespaces(pid), Vec::<String>::new());
    assert!(!lives(pid));
    assert!(!nacld.policy("l02").exists());
    assert!(nacld.run(&["verify", "l02"], 1).contains("is not up"));
}

#[test]
fn a_policy_with_a_memory_reaches_the_goal_without_a_rule_for_replies() {
    let nacld = Nacld::new();
    nacld.run(&["up", "l02"], 0);
    nacld.run(&["verify", "l02"], 7);
    let found = fs::read_to_string(nacld.policy("l02")).expect("policy");
    let remembers = found.replace("side = \"router\"", "side = \"router\"\nmode = \"stateful\"");
    fs::write(nacld.policy("l02"), remembers).expect("written");
    assert!(nacld.run(&["verify", "l02"], 0).contains("The goal is reached"));
    let status = nacld.json(&["status", "l02", "--json"], 0);
    assert_eq!(status["report"]["hooks"][0]["mode"], "stateful");
    fs::write(nacld.policy("l02"), found).expect("written");
    nacld.run(&["verify", "l02"], 7);
    nacld.run(&["down", "l02"], 0);
}

#[test]
fn a_lab_with_two_hooks_to_sit_in() {
    let nacld = Nacld::new();
    nacld.run(&["up", "l14"], 0);
    let pid = nacld.holder("l14");
    nacld.run(&["verify", "l14"], 7);
    let hooks = nacld.json(&["status", "l14", "--json"], 0)["report"]["hooks"].clone();
    let hosts: Vec<&Value> = hooks.as_array().expect("hooks").iter().map(|hook| &hook["host"]).collect();
    assert_eq!(hosts, [&Value::from("lb"), &Value::from("target")]);
    fs::write(nacld.policy("l14"), &file::load("l14").expect("L14").solution.text).expect("written");
    assert!(nacld.run(&["verify", "l14"], 0).contains("The goal is reached"));
    // Every page crosses both hooks, and each counts for itself.
    let hooks = nacld.json(&["status", "l14", "--json"], 0)["report"]["hooks"].clone();
    for hook in hooks.as_array().expect("hooks") {
        let counted = hook["rules"].as_array().expect("rules").iter().any(|rule| rule["packets"].as_u64() > Some(0));
        assert!(counted, "{hook}");
    }
    nacld.run(&["down", "l14"], 0);
    assert_eq!(namespaces(pid), Vec::<String>::new());
}

#[test]
fn several_side_by_side() {
    let nacld = Nacld::new();
    nacld.run(&["up", "l05"], 0);
    nacld.run(&["up", "l10a"], 0);
    let pids = [nacld.holder("l05"), nacld.holder("l10a")];
    assert_ne!(pids[0], pids[1]);
    nacld.run(&["verify", "l10a"], 7);
    nacld.run(&["down", "l05"], 0);
    assert_eq!(namespaces(pids[0]), Vec::<String>::new());
    assert_eq!(namespaces(pids[1]).len(), 3, "the other one stands");
    nacld.run(&["verify", "l10a"], 7);
    nacld.run(&["down", "--all"], 0);
    assert_eq!(namespaces(pids[1]), Vec::<String>::new());
}

#[test]
fn what_a_crash_leaves_is_removed() {
    let nacld = Nacld::new();
    nacld.run(&["up", "l01"], 0);
    let pid = nacld.holder("l01");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("killed");
    wait_for("the holder's end", || !lives(pid));
    assert_eq!(namespaces(pid).len(), 3, "nobody has cleaned up yet");
    let told = nacld.run(&["status"], 0);
    assert!(told.contains("no lab is up"), "{told}");
    assert_eq!(namespaces(pid), Vec::<String>::new());
    assert!(!nacld.policy("l01").exists());
    nacld.run(&["up", "l01"], 0);
    nacld.run(&["down", "l01"], 0);
}

#[test]
fn a_run_that_is_interrupted_cleans_up() {
    let nacld = Nacld::new();
    // While it builds, while it asks for its controls, while a policy is attached.
    for (signal, code, after) in [(Signal::SIGINT, 130, 0), (Signal::SIGTERM, 143, 150), (Signal::SIGINT, 130, 900)] {
        let mut child = nacld.command(&["run", "l05", "--level", "wire"]).stdout(Stdio::null()).spawn().expect("nacld");
        wait_for("its namespaces", || namespaces(child.id()).len() == 3);
        thread::sleep(Duration::from_millis(after));
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("signalled");
        let status = child.wait().expect("its end");
        assert_eq!(status.code(), Some(code));
        assert_eq!(namespaces(child.id()), Vec::<String>::new());
    }
}

#[test]
fn a_lab_that_cannot_be_built_leaves_nothing() {
    let nacld = Nacld::new();
    let no_form = nacld.run(&["up", "l16s"], 1);
    assert!(no_form.contains("has no wire form"), "{no_form}");
    // The network is built before the policy is found to be invalid.
    let (_, text) = file::BUILT_IN.iter().find(|(stem, _)| *stem == "l01").expect("L01");
    let path = nacld.0.path().join("broken.toml");
    let broken = text.replacen("name = \"L01\"", "name = \"broken\"", 1).replacen("ports = 443", "ports = \"4x3\"", 1);
    fs::write(&path, broken).expect("written");
    let refused = nacld.run(&["up", path.to_str().expect("path")], 1);
    assert!(refused.contains("did not come up") && refused.contains("broken.toml:"), "{refused}");
    assert!(hold::held().iter().all(|held| held.lab.name != "broken"));
    assert!(!nacld.0.path().join("broken").exists());
}

#[test]
fn the_demo_is_told_with_packets() {
    let nacld = Nacld::new();
    let told = nacld.run(&["demo"], 0);
    for said in [
        "Everything you will see is real",
        "server  receives  SYN",
        "server  sends     SYN/ACK",
        "network ACL, out *: deny",
        "hangs: not a word",
        "reads \"hello from port 443\"",
        "outbound 300 is in force",
        "reads \"hello from the API\"",
    ] {
        assert!(told.contains(said), "{said:?} was not said:\n{told}");
    }
    assert!(!told.contains("did not go as it should"), "{told}");
}
