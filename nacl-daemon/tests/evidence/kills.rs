//! Kills at any moment, under load: enforcement never stops and never blocks, and whoever starts next finds everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use nacl_common::Direction;
use nacl_daemon::{
    observe::{InterfaceRules, Number, Status},
    service::client::ClientError,
};
use nix::sys::signal::Signal;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    measure::{ALONE, Figures, Machine, Plan, end, say, tell},
    policies::{LANES, SAME},
    scene::{Account, Scene},
};
use crate::support::{
    generate::Random,
    place::{Api, Daemon, PATIENCE, Place},
    veth::{NEAR, ip},
};

/// Kills of the short form.
const SHORT: usize = 8;

/// What the daemon was doing when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Moment {
    /// Reloading, one policy after the other as fast as it goes.
    Reloading,
    /// Starting: it takes over what the one before it has left.
    Starting,
    /// Waiting for confirmation of a change.
    Confirming,
}

/// What a run found.
#[derive(Serialize)]
struct Findings {
    kind: &'static str,
    plan: Plan,
    machine: Machine,
    moments: BTreeMap<Moment, usize>,
    /// Changes that the programs took back with nobody there.
    undone: usize,
    /// From the start of a process to its being ready, in milliseconds: half of them were faster, and the slowest.
    start_ms: [f64; 2],
    /// How long nobody was there, in seconds, all together.
    nobody: f64,
    figures: Vec<Figures>,
    account: Account,
}

/// What must hold after each start.
struct Before {
    /// Packets counted, by interface and direction.
    counted: BTreeMap<(String, &'static str), u64>,
    /// By the rule that is the same in both policies.
    same: [u64; 2],
    /// Kernel ids of the programs, and how many of each thing the daemon holds.
    programs: Vec<Vec<u32>>,
    held: [usize; 3],
    /// What there is on disk and in the bpffs.
    kept: BTreeSet<String>,
}

struct Run<'p> {
    place: &'p Place,
    api: Api,
    scene: Scene,
    policies: [String; 2],
    random: Random,
    starts: Vec<Duration>,
    nobody: Duration,
}

#[test]
fn kills() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let plan = Plan::new(SHORT);
    println!("seed {}", plan.seed);
    let scene = Scene::new();
    let policies = scene.policies();
    let place = Place::new(&policies[0]);
    let mut daemon = place.start(&[]);
    let api = Api::new(&place);
    let random = Random(plan.seed);
    let mut run = Run { place: &place, api, scene, policies, random, starts: Vec::new(), nobody: Duration::ZERO };
    run.scene.begin(&plan);
    // Both generations are there before anything is compared.
    for turn in [1, 0] {
        run.reload(turn);
    }
    let mut before = run.before(&daemon);
    let mut figures = vec![run.figure(0, &daemon)];
    let mut moments = BTreeMap::new();
    let mut undone = 0;
    let begun = Instant::now();
    for kill in 1..=plan.count {
        let moment = match run.random.below(8) {
            0..4 => Moment::Reloading,
            4..7 => Moment::Starting,
            _ => Moment::Confirming,
        };
        *moments.entry(moment).or_insert(0) += 1;
        let when = format!("seed {}, kill {kill} ({moment:?})", plan.seed);
        daemon = match moment {
            Moment::Reloading => run.while_reloading(daemon, &when),
            Moment::Starting => run.while_starting(daemon, &when),
            Moment::Confirming => run.while_confirming(daemon, &when, &mut undone),
        };
        run.recovered(&daemon, &mut before, &when);
        if [plan.count / 10, plan.count / 2, plan.count].contains(&kill) {
            // With the same policy in force, and the same before it.
            for turn in [1, 0] {
                run.reload(turn);
            }
            figures.push(run.figure(kill, &daemon));
            say(&plan, &format!("{kill} of {} kills, {} s", plan.count, begun.elapsed().as_secs()));
        }
    }
    let Run { api, mut scene, mut starts, nobody, .. } = run;
    let account = scene.end(Some(|| (api.status().expect("it answers"), api.rules().expect("it answers"))));
    daemon.ends(Signal::SIGTERM);
    assert_eq!(kept(&place), BTreeSet::new(), "what was pinned is gone");
    starts.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let findings = Findings {
        kind: "kills",
        moments,
        undone,
        start_ms: [ms(starts.get(starts.len() / 2)), ms(starts.last())],
        nobody: nobody.as_secs_f64(),
        figures,
        account,
        machine: Machine::this(),
        plan: plan.clone(),
    };
    // Before it is judged: what fails is worth its figures.
    tell(&findings);
    findings.account.as_fast_as_asked(&plan);
    end();
}

impl<'p> Run<'p> {
    fn moment(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.random.below(longest.as_micros() as u64))
    }

    fn reload(&self, turn: usize) {
        self.place.write(&self.policies[turn]);
        let answer = self.api.reload().expect("it is reloaded");
        assert_eq!(answer.change.switched, LANES, "{:?}, {}", answer.change, self.said());
    }

    /// What the last daemon has said.
    fn said(&self) -> String {
        let file = |name| fs::read_to_string(self.place.directory.path().join(name)).unwrap_or_default();
        format!("the daemon said: {}{}", file("out"), file("err"))
    }

    fn start(&mut self) -> Daemon<'p> {
        let begun = Instant::now();
        let mut daemon = self.spawn();
        daemon.ready();
        self.starts.push(begun.elapsed());
        daemon
    }

    fn spawn(&self) -> Daemon<'p> {
        self.place.spawn(self.place.command(&["run", "--config", "policy.toml"]))
    }

    /// Kills it, and looks for a while at what goes on without it.
    fn kill(&mut self, mut daemon: Daemon<'p>, when: &str) {
        daemon.child.kill().expect("it is killed");
        daemon.child.wait().expect("it ends");
        drop(daemon);
        let begun = Instant::now();
        let before = self.scene.glance(when);
        let trips = self.scene.round_trips();
        let longest = self.moment(Duration::from_millis(80));
        sleep(Duration::from_millis(20) + longest);
        let start = Instant::now();
        // A sender is not given the time for some milliseconds now and then.
        loop {
            let arrived = self.scene.glance(when);
            let talked = self.scene.round_trips();
            if arrived > before && talked.iter().zip(&trips).all(|(now, before)| now > before) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{when}: with nobody there, nothing arrives any more: {talked:?}");
            sleep(Duration::from_millis(5));
        }
        self.nobody += begun.elapsed();
    }

    fn while_reloading(&mut self, daemon: Daemon<'p>, when: &str) -> Daemon<'p> {
        let after = self.moment(Duration::from_millis(250));
        let (place, policies) = (self.place, self.policies.clone());
        let mut daemon = daemon;
        thread::scope(|scope| {
            let reloader = scope.spawn(move || {
                let api = Api::new(place);
                let mut turn = 0;
                loop {
                    turn += 1;
                    place.write(&policies[turn % 2]);
                    match api.reload() {
                        Ok(_) => {}
                        Err(ClientError::Refused(problem)) => panic!("{problem:?}"),
                        // It is dead.
                        Err(_) => return turn,
                    }
                }
            });
            sleep(after);
            daemon.child.kill().expect("it is killed");
            reloader.join().expect("every reload is taken");
        });
        self.kill(daemon, when);
        self.start()
    }

    fn while_starting(&mut self, daemon: Daemon<'p>, when: &str) -> Daemon<'p> {
        self.kill(daemon, when);
        for _ in 0..=self.random.below(2) {
            // Which one it finds is another than the one it must put in force.
            let turn = self.random.below(2) as usize;
            self.place.write(&self.policies[turn]);
            let next = self.spawn();
            let after = self.moment(Duration::from_millis(700));
            sleep(after);
            self.kill(next, when);
        }
        self.start()
    }

    /// A change that awaits confirmation, and nobody there: the programs take it back in time.
    fn while_confirming(&mut self, daemon: Daemon<'p>, when: &str, undone: &mut usize) -> Daemon<'p> {
        const WINDOW: Duration = Duration::from_secs(1);
        self.reload(0);
        self.place.write(&self.policies[1]);
        let said = self.place.ask(&["reload", "--confirm", "1s"]);
        assert!(said.contains("switched plain, tracked"), "{when}: {said}");
        let begun = Instant::now();
        let after = self.moment(WINDOW);
        sleep(after);
        self.kill(daemon, when);
        // Before the time is over, or after it.
        let wait = self.moment(WINDOW);
        sleep(wait);
        // Its file is still the one that nobody confirmed: it is not to come into force by itself.
        let daemon = self.start();
        let start = Instant::now();
        loop {
            let status = self.status();
            if status.pending.is_none() {
                assert_eq!(status.policy.sha256, digest(&self.policies[0]), "{when}: {:?}", status.policy);
                assert!(begun.elapsed() >= WINDOW, "{when}: it was taken back after {:?}", begun.elapsed());
                assert!(status.problems.iter().any(|problem| problem.contains("not confirmed")), "{when}: {status:?}");
                break;
            }
            assert_eq!(status.policy.sha256, digest(&self.policies[1]), "{when}");
            assert!(start.elapsed() < PATIENCE, "{when}: it is never taken back: {:?}", status.pending);
            self.scene.glance(when);
            sleep(Duration::from_millis(20));
        }
        *undone += 1;
        // Taken for good.
        self.reload(1);
        daemon
    }

    fn status(&self) -> Status {
        self.api.status().expect("it answers")
    }

    fn figure(&self, after: usize, daemon: &Daemon<'_>) -> Figures {
        Figures::new(after, daemon.child.id(), &self.status())
    }

    fn rules(&self) -> Vec<InterfaceRules> {
        self.api.rules().expect("it answers").interfaces
    }

    fn before(&self, daemon: &Daemon<'_>) -> Before {
        let (counted, same) = counted(&self.rules());
        let status = self.status();
        Before {
            counted,
            same,
            programs: status.interfaces.iter().map(|one| one.hooks.programs.clone()).collect(),
            held: held(daemon),
            kept: kept(self.place),
        }
    }

    /// Everything is as it was, and counts on.
    fn recovered(&mut self, daemon: &Daemon<'_>, before: &mut Before, when: &str) {
        self.scene.glance(when);
        let status = self.status();
        let file = fs::read_to_string(self.place.policy()).expect("the policy");
        assert_eq!(status.policy.sha256, digest(&file), "{when}: the file is in force");
        let turn = self.policies.iter().position(|policy| *policy == file).expect("one of the two");
        assert!(status.problems.is_empty() && status.pending.is_none(), "{when}: {:?}", status.problems);
        assert_eq!(status.interfaces.len(), LANES.len(), "{when}");
        for (interface, programs) in status.interfaces.iter().zip(&before.programs) {
            assert_eq!(&interface.hooks.programs, programs, "{when}: {} was loaded anew", interface.interface);
        }
        let rules = self.rules();
        named(&rules, &self.policies[turn], when);
        let (counted, same) = counted(&rules);
        for (what, count) in &counted {
            assert!(
                *count >= before.counted[what],
                "{when}: {what:?} counted {} before, and {count} now",
                before.counted[what]
            );
        }
        assert!(
            same[0] >= before.same[0] && same[1] >= before.same[1],
            "{when}: {:?} before, {same:?} now",
            before.same
        );
        (before.counted, before.same) = (counted, same);
        // Two changes, and what was there before a start is there no longer.
        for turn in [1 - turn, turn] {
            self.reload(turn);
        }
        assert_eq!(held(daemon), before.held, "{when}: maps, programs and links");
        assert_eq!(kept(self.place), before.kept, "{when}: what is on disk and pinned");
    }
}

fn digest(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

/// Maps, programs and links it has descriptors of.
fn held(daemon: &Daemon<'_>) -> [usize; 3] {
    let holds = crate::support::place::Holds::of(daemon.child.id());
    [holds.maps.len(), holds.programs.len(), holds.links.len()]
}

/// Files and pins below the directory of state, but for the number of each epoch.
fn kept(place: &Place) -> BTreeSet<String> {
    fn below(path: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                below(&path, found);
            } else {
                found.insert(path.display().to_string());
            }
        }
    }
    let mut found = BTreeSet::new();
    below(&place.state(), &mut found);
    found
}

/// What was counted, by interface and direction; and by the rule that never changes.
fn counted(rules: &[InterfaceRules]) -> (BTreeMap<(String, &'static str), u64>, [u64; 2]) {
    let mut counted = BTreeMap::new();
    let mut same = [0; 2];
    for interface in rules {
        for row in &interface.reasons {
            *counted.entry((interface.interface.clone(), row.direction.name())).or_insert(0) += row.hits.packets;
        }
        if interface.interface == "plain" {
            for (list, same) in interface.lists.iter().zip(&mut same) {
                let row = list.rules.iter().find(|row| row.rule == Number::Rule(SAME)).expect("it is in both");
                *same = row.hits.expect("counted").packets;
            }
        }
    }
    (counted, same)
}

/// Every rule has its number, its line and a count.
fn named(rules: &[InterfaceRules], policy: &str, when: &str) {
    let lines: Vec<&str> = policy.lines().collect();
    for interface in rules {
        for list in &interface.lists {
            let mut numbered = 0;
            for row in &list.rules {
                let Number::Rule(number) = row.rule else { continue };
                numbered += 1;
                let line = row.line.checked_sub(1).and_then(|line| lines.get(line)).copied().unwrap_or_default();
                let place = format!("{when}: {} {} rule {number}", interface.interface, list.direction.name());
                assert!(
                    line.contains(&format!("rule = {number},")),
                    "{place} is said to be in line {}: {line}",
                    row.line
                );
                assert!(row.hits.is_some(), "{place} has no counter");
            }
            assert!(numbered > 2, "{when}: {} {}", interface.interface, list.direction.name());
        }
    }
}

/// The first start is killed too: then nothing is attached, or all of it, on both hooks of an interface.
#[test]
fn a_first_start_is_whole_or_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let plan = Plan::new(SHORT);
    let mut random = Random(plan.seed ^ 0x5bd1_e995);
    for kill in 0..3 {
        let mut scene = Scene::new();
        let policies = scene.policies();
        let place = Place::new(&policies[0]);
        let mut daemon = place.spawn(place.command(&["run", "--config", "policy.toml"]));
        // Most of a first start is the verifier's.
        let after = Duration::from_micros(random.below(2_500_000));
        sleep(after);
        daemon.child.kill().expect("it is killed");
        daemon.child.wait().expect("it ends");
        drop(daemon);
        let when = format!("seed {}, killed after {after:?} ({kill})", plan.seed);
        // A port that the policy denies in both directions.
        let denied = |scene: &Scene| {
            scene.lanes.each_ref().map(|lane| {
                let cable = &lane.cable;
                Direction::ALL.map(|direction| match direction {
                    Direction::Inbound => cable.inbound(9, 1) == 0,
                    Direction::Outbound => cable.outbound(9, 1) == 0,
                })
            })
        };
        for (lane, [inbound, outbound]) in LANES.iter().zip(denied(&scene)) {
            assert_eq!(inbound, outbound, "{when}: {lane} is half attached");
        }
        let daemon = place.start(&[]);
        assert_eq!(denied(&scene), [[true; 2]; 2], "{when}");
        scene.begin(&plan);
        scene.glance(&when);
        scene.end(None::<fn() -> _>);
        daemon.ends(Signal::SIGTERM);
        assert_eq!(kept(&place), BTreeSet::new(), "{when}");
        assert_eq!(denied(&scene), [[false; 2]; 2], "{when}: the control");
    }
}

/// A daemon under load that is killed and finds something else than it left. Enforcement has no gap; whether it counts on is
/// another matter.
fn found_otherwise(what: impl FnOnce(&Place)) -> (Status, BTreeSet<String>) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let plan = Plan::new(SHORT);
    let mut scene = Scene::new();
    let policies = scene.policies();
    let place = Place::new(&policies[0]);
    let daemon = place.start(&[]);
    scene.begin(&plan);
    let before = kept(&place);
    daemon.killed();
    what(&place);
    scene.glance("with nobody there");
    let daemon = place.start(&[]);
    scene.glance("after the start");
    let status = Api::new(&place).status().expect("it answers");
    assert_eq!(kept(&place).len(), before.len(), "{:?}", kept(&place));
    scene.end(None::<fn() -> _>);
    daemon.ends(Signal::SIGTERM);
    (status, kept(&place))
}

/// Directories of versions in the bpffs.
fn versions(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.state().join("bpf")).into_iter().flatten().flatten();
    // The kernel has files of its own there.
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[test]
fn pins_of_another_version_are_replaced_under_load() {
    let (status, left) = found_otherwise(|place| {
        let versions = versions(place);
        assert_eq!(versions.len(), 1, "{versions:?}");
        fs::rename(&versions[0], versions[0].with_file_name("v0000000000000000")).expect("another version");
    });
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    assert_eq!(left, BTreeSet::new());
}

#[test]
fn a_torn_record_is_replaced_under_load() {
    for length in [0, 2] {
        let (status, left) = found_otherwise(|place| {
            let records: Vec<_> = kept(place).into_iter().filter(|file| file.ends_with("record.json")).collect();
            assert_eq!(records.len(), LANES.len());
            for file in records {
                let text = fs::read(&file).expect("a record");
                fs::write(&file, &text[..text.len() * length / 3]).expect("it is torn");
            }
        });
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        assert_eq!(left, BTreeSet::new());
    }
}

#[test]
fn what_is_kept_on_exit_goes_on() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let plan = Plan::new(SHORT);
    let mut scene = Scene::new();
    let policy = scene.policies()[0].replace("version = 1", "version = 1\non_exit = \"keep\"");
    let place = Place::new(&policy);
    let mut daemon = place.start(&[]);
    scene.begin(&plan);
    let before = kept(&place);
    for _ in 0..3 {
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.err());
        assert_eq!(kept(&place), before, "nothing was taken off");
        scene.glance("with nobody there");
        daemon = place.start(&[]);
        scene.glance("after the start");
    }
    let api = Api::new(&place);
    scene.end(Some(|| (api.status().expect("it answers"), api.rules().expect("it answers"))));
    // What is kept goes when it is asked for, without a daemon too.
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    for lane in &scene.lanes {
        place.ask(&["detach", NEAR, "--netns", &lane.cable.here]);
        assert_eq!(lane.cable.inbound(9, 1), 1, "{}: the control", lane.name);
    }
    assert_eq!(kept(&place), BTreeSet::new());
}

/// While nobody is there the interface goes, and another one of its name comes.
#[test]
fn an_interface_that_came_anew_is_attached_anew() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new();
    let policies = scene.policies();
    let place = Place::new(&policies[0]);
    let daemon = place.start(&[]);
    let before = kept(&place);
    daemon.killed();
    let cable = &scene.lanes[0].cable;
    ip(&["-n", &cable.here, "link", "del", NEAR]);
    cable.plug();
    cable.acquaint();
    assert_eq!(cable.inbound(9, 1), 1, "nothing is attached");
    let daemon = place.start(&[]);
    assert_eq!((cable.inbound(9, 1), cable.outbound(9, 1)), (0, 0));
    assert_eq!(kept(&place).len(), before.len(), "what was kept of the old one is gone");
    let status = Api::new(&place).status().expect("it answers");
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    daemon.ends(Signal::SIGTERM);
    assert_eq!(kept(&place), BTreeSet::new());
}

/// Another daemon, with a socket and a state of its own, is told who is in charge; also once that one was killed.
#[test]
fn a_second_daemon_is_told_about_the_first() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let plan = Plan::new(SHORT);
    let mut scene = Scene::new();
    let policies = scene.policies();
    let (place, other) = (Place::new(&policies[0]), Place::new(&policies[1]));
    let daemon = place.start(&[]);
    scene.begin(&plan);
    let error = other.refused(&[]);
    assert!(error.contains(&format!("process {}", daemon.child.id())), "{error}");
    scene.glance("while both are there");
    let api = Api::new(&place);
    scene.end(Some(|| (api.status().expect("it answers"), api.rules().expect("it answers"))));
    daemon.ends(Signal::SIGTERM);
    other.start(&[]).ends(Signal::SIGTERM);
    assert_eq!((kept(&place), kept(&other)), (BTreeSet::new(), BTreeSet::new()));
}
