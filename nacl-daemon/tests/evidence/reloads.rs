//! Ten thousand reloads under load: no verdict of two policies, nothing lost, nothing left.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use nacl_daemon::observe::Number;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::{
    measure::{ALONE, Figures, Machine, Plan, end, say, tell},
    policies::{LANES, SAME},
    scene::{Account, Scene},
};
use crate::support::place::{Api, Daemon, PATIENCE, Place};

/// Reloads of the short form: enough for every slot and every place of a generation to have been used many times.
const SHORT: usize = 40;

/// What a run found.
#[derive(Serialize)]
struct Findings {
    kind: &'static str,
    plan: Plan,
    machine: Machine,
    /// Reloads by how they were asked for.
    api: usize,
    command: usize,
    signal: usize,
    /// Reloads a second.
    speed: f64,
    /// Reloads, in milliseconds: half of them were faster, and the slowest.
    reload_ms: [f64; 2],
    figures: Vec<Figures>,
    /// Bytes by which the daemon's heap grew with each reload, over the last nine tenths of the run.
    slope: f64,
    account: Account,
}

#[test]
fn reloads() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let plan = Plan::new(SHORT);
    // Both are in force as often, and each figure is taken with the same one in force.
    let count = plan.count.next_multiple_of(20);
    let mut scene = Scene::new();
    let policies = scene.policies();
    let place = Place::new(&policies[0]);
    let daemon = place.start(&[]);
    let api = Api::new(&place);
    scene.begin(&plan);
    let mut figures = vec![figure(0, &api, &daemon)];
    let mut unchanged = [[0; 2]; 2];
    let mut times = Vec::with_capacity(count);
    let (mut by_command, mut by_signal) = (0, 0);
    let begun = Instant::now();
    for done in 1..=count {
        place.write(&policies[done % 2]);
        let start = Instant::now();
        match done % 50 {
            // Odd, so that both policies are reloaded to in each way.
            7 | 32 => {
                by_command += 1;
                let said = place.ask(&["reload"]);
                assert!(said.contains("reloaded: switched plain, tracked"), "{said}");
            }
            19 | 44 => {
                by_signal += 1;
                by_hangup(&daemon, &api);
            }
            _ => {
                let answer = api.reload().unwrap_or_else(|error| panic!("reload {done}: {error}"));
                assert_eq!(answer.change.switched, LANES, "reload {done}");
                assert!(answer.change.problems.is_empty(), "reload {done}: {:?}", answer.change.problems);
                times.push(start.elapsed());
            }
        }
        let when = format!("reload {done}");
        scene.glance(&when);
        if done % 10 == 0 {
            never_back(&api, &mut unchanged, &when);
        }
        // At the beginning everything grows once.
        if [count / 10, count / 2, count].contains(&done) {
            figures.push(figure(done, &api, &daemon));
            let seconds = begun.elapsed().as_secs();
            say(&plan, &format!("{done} of {count} reloads, {seconds} s, {} packets", scene.sent()));
        }
    }
    let speed = count as f64 / begun.elapsed().as_secs_f64();
    let account = scene.end(Some(|| (api.status().expect("it answers"), api.rules().expect("it answers"))));
    daemon.ends_well(Signal::SIGTERM);
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (early, last) = (&figures[1], &figures[3]);
    let grown = last.anonymous_kib as f64 - early.anonymous_kib as f64;
    let findings = Findings {
        kind: "reloads",
        api: count - by_command - by_signal,
        command: by_command,
        signal: by_signal,
        speed,
        reload_ms: [ms(times[times.len() / 2]), ms(times[times.len() - 1])],
        slope: grown * 1024.0 / (last.after - early.after) as f64,
        figures,
        account,
        machine: Machine::this(),
        plan,
    };
    // Before it is judged: what fails is worth its figures.
    tell(&findings);
    flat(&findings);
    findings.account.as_fast_as_asked(&findings.plan);
    end();
}

fn figure(after: usize, api: &Api, daemon: &Daemon<'_>) -> Figures {
    let status = api.status().expect("it answers");
    Figures::new(after, daemon.child.id(), &status)
}

/// Reloads by SIGHUP, and waits until that is done.
fn by_hangup(daemon: &Daemon<'_>, api: &Api) {
    let before = api.epochs().expect("it answers");
    daemon.signal(Signal::SIGHUP);
    let start = Instant::now();
    while api.epochs().expect("it answers").iter().any(|(name, epoch)| before[name] == *epoch) {
        assert!(start.elapsed() < PATIENCE, "SIGHUP changes nothing: {}", daemon.err());
        sleep(Duration::from_millis(1));
    }
}

/// The rule that is the same in both policies counts on, whatever is reloaded.
fn never_back(api: &Api, before: &mut [[u64; 2]; 2], when: &str) {
    let rules = api.rules().expect("it answers");
    for (interface, before) in rules.interfaces.iter().zip(before).filter(|(one, _)| one.interface == "plain") {
        for (list, before) in interface.lists.iter().zip(before) {
            let row = list.rules.iter().find(|row| row.rule == Number::Rule(SAME)).expect("it is in both");
            let hits = row.hits.expect("counted").packets;
            assert!(hits >= *before, "{when}: the hits of rule {SAME} went back from {before} to {hits}");
            *before = hits;
        }
    }
}

/// Nothing is left by a reload.
///
/// Numbers of things are the same: each figure is taken with the same policy in force and the same one before it. Of the
/// heap a bound is the best there is, because an allocator keeps what it was given in pieces, and the order in which requests
/// come in is another each time. The smallest thing that a reload makes for each interface and could keep is the meaning of one
/// slot: more than a hundred bytes, of which each policy has dozens. So what would be kept of it is a thousand bytes a
/// reload and more, and the bound is a quarter of one thousand; beside it the allocator may take a mebibyte whenever it likes.
/// What slots meant in the last sixteen epochs is kept, so there is no bound on the heap before a hundred reloads.
fn flat(findings: &Findings) {
    const SLOPE: usize = 256;
    const SLACK_KIB: u64 = 1024;
    const FULL: usize = 100;
    let early = &findings.figures[1];
    for later in &findings.figures[2..] {
        for (what, before, now) in [
            ("maps", early.maps, later.maps),
            ("programs", early.programs, later.programs),
            ("links", early.links, later.links),
            ("file descriptors", early.descriptors, later.descriptors),
            ("KiB of generations", early.generations_kib as usize, later.generations_kib as usize),
        ] {
            assert_eq!(before, now, "{what} after {} and {} reloads", early.after, later.after);
        }
        let bound = early.anonymous_kib + SLACK_KIB + ((later.after - early.after) * SLOPE / 1024) as u64;
        assert!(
            early.after < FULL || later.anonymous_kib <= bound,
            "the daemon's heap grew from {} KiB after {} reloads to {} KiB after {}; {bound} is the bound",
            early.anonymous_kib,
            early.after,
            later.anonymous_kib,
            later.after
        );
    }
}
