//! Interfaces that come, go and are renamed under a running daemon: the real binary, real devices in namespaces of their own,
//! real packets. With a kernel that is made up: `service.rs`.

mod support;

use std::{
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use nacl_daemon::{dataplane::find, netns, observe::Status, resolve::Mode};
use nix::sys::signal::Signal;
use support::{
    place::{Api, PATIENCE, Place},
    policies::{CLOSED, OPEN, lab},
    veth::{Cable, FAR, HERE, NEAR, THERE, ip},
};

fn policy(name: &str, netns: &str, more: &str) -> String {
    lab(&format!("[interface.{name}]\nnacl = \"lab\"\nnetns = \"{netns}\"\n{more}"))
}

/// Waits until the daemon tells of something.
fn until(place: &Place, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
    let (api, start) = (Api::new(place), Instant::now());
    loop {
        let status = api.status().expect("an answer");
        if is_so(&status) {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}: {status:#?}");
        sleep(Duration::from_millis(20));
    }
}

/// Waits until it enforces on so many interfaces and waits for none.
fn all_here(place: &Place, count: usize) -> Status {
    until(place, "all are here", |status| status.interfaces.len() == count && status.absent.is_empty())
}

fn absent(place: &Place) -> Status {
    until(place, "it is absent", |status| status.interfaces.is_empty() && status.absent.len() == 1)
}

/// Joins the cable's namespaces again, by a device of this name here.
fn join(cable: &Cable, name: &str) {
    ip(&["-n", &cable.here, "link", "add", name, "type", "veth", "peer", "name", FAR, "netns", &cable.there]);
    set_up(cable, name);
}

fn set_up(cable: &Cable, name: &str) {
    for (netns, interface, address) in [(&cable.here, name, HERE), (&cable.there, FAR, THERE)] {
        ip(&["-n", netns, "address", "replace", &format!("{address}/24"), "dev", interface]);
        ip(&["-n", netns, "link", "set", interface, "up"]);
    }
}

fn cut(cable: &Cable, name: &str) {
    ip(&["-n", &cable.here, "link", "del", name]);
}

fn rename(cable: &Cable, from: &str, to: &str) {
    ip(&["-n", &cable.here, "link", "set", from, "down"]);
    ip(&["-n", &cable.here, "link", "set", from, "name", to]);
    set_up(cable, to);
}

/// What is denied dies, and what is allowed passes.
fn is_enforced(cable: &Cable) {
    assert_eq!((cable.inbound(OPEN, 2), cable.inbound(CLOSED, 2)), (2, 0));
}

#[test]
fn one_that_goes_and_comes_back() {
    let cable = Cable::new();
    let place = Place::new(&policy(NEAR, &cable.here, ""));
    let daemon = place.start(&[]);
    let first = all_here(&place, 1).interfaces[0].hooks.clone();
    is_enforced(&cable);
    for round in 0..3 {
        cut(&cable, NEAR);
        let status = absent(&place);
        assert!(status.problems[0].contains("is not here, so nothing is enforced on it"), "{:?}", status.problems);
        assert_eq!((status.absent[0].device.as_str(), &status.absent[0].why), (NEAR, &None));
        daemon.says("is gone");
        join(&cable, NEAR);
        let status = all_here(&place, 1);
        let hooks = &status.interfaces[0].hooks;
        assert!(hooks.ifindex != first.ifindex && hooks.programs != first.programs, "round {round}: {hooks:?}");
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        is_enforced(&cable);
    }
    daemon.says("which has come");
    // One that is gone while the daemon reloads, and when it ends.
    cut(&cable, NEAR);
    absent(&place);
    // It goes on waiting, by the new policy.
    place.write(&policy(NEAR, &cable.here, "mode = \"stateful\"\n"));
    assert!(place.ask(&["reload"]).contains("waiting for near"));
    absent(&place);
    join(&cable, NEAR);
    let status = all_here(&place, 1);
    assert_eq!(status.interfaces[0].modes.in_force.mode, Mode::Stateful);
    is_enforced(&cable);
    cut(&cable, NEAR);
    absent(&place);
    daemon.ends_well(Signal::SIGTERM);
}

#[test]
fn one_that_was_not_there_at_first() {
    let cable = Cable::new();
    cut(&cable, NEAR);
    let place = Place::new(&policy(NEAR, &cable.here, ""));
    let error = place.refused(&[]);
    assert!(error.contains("none of the policy's interfaces is here") && error.contains("--wait"), "{error}");
    let daemon = place.start(&["--wait"]);
    assert!(daemon.out().contains("is not here, so nothing is enforced on it"), "{}", daemon.out());
    // What passes before the programs are on is what was sent and neither arrived afterwards nor was counted: nothing is lost, and
    // nothing is held back. It fails open.
    ip(&["-n", &cable.here, "link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", &cable.there]);
    set_up(&cable, NEAR);
    cable.acquaint();
    let receiver = netns::within(Some(&cable.here), || UdpSocket::bind((HERE, CLOSED)).unwrap()).unwrap();
    let sender = netns::within(Some(&cable.there), || UdpSocket::bind((THERE, 0)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let enough = AtomicBool::new(false);
    let flood = || {
        let mut sent = 0_u64;
        while !enough.load(Ordering::Relaxed) && sent < 50_000 {
            sender.send_to(b"nacld", (HERE, CLOSED)).unwrap();
            sent += 1;
            sleep(Duration::from_millis(1));
        }
        sent
    };
    let receive = || {
        let (mut passed, mut buffer) = (0_u64, [0; 16]);
        loop {
            match receiver.recv(&mut buffer) {
                Ok(_) => passed += 1,
                Err(_) if enough.load(Ordering::Relaxed) => return passed,
                Err(_) => {}
            }
        }
    };
    let (sent, passed) = thread::scope(|scope| {
        let (sending, receiving) = (scope.spawn(flood), scope.spawn(receive));
        all_here(&place, 1);
        enough.store(true, Ordering::Relaxed);
        (sending.join().unwrap() + 10, receiving.join().unwrap())
    });
    for _ in 0..10 {
        sender.send_to(b"nacld", (HERE, CLOSED)).unwrap();
    }
    assert!(receiver.recv(&mut [0; 16]).is_err(), "enforced from now on");
    drop(receiver);
    let dropped = place.hits(0, &50.into());
    println!("of {sent} packets {passed} passed before the programs were on, and {dropped} were dropped by them");
    assert_eq!(passed + dropped, sent);
    assert!(dropped >= 10);
    is_enforced(&cable);
    daemon.ends_well(Signal::SIGTERM);
}

#[test]
fn one_that_is_renamed_stays_enforced() {
    let cable = Cable::new();
    let place = Place::new(&policy(NEAR, &cable.here, ""));
    let daemon = place.start(&[]);
    let before = all_here(&place, 1).interfaces[0].clone();
    rename(&cable, NEAR, "lan0");
    let renamed = until(&place, "it has another name", |status| {
        status.interfaces.first().is_some_and(|interface| interface.device == "lan0")
    });
    assert_eq!((&renamed.interfaces[0].hooks, renamed.interfaces[0].epoch), (&before.hooks, before.epoch));
    assert!(renamed.problems[0].contains("device = \"lan0\""), "{:?}", renamed.problems);
    is_enforced(&cable);
    // The policy follows, and nothing is attached anew.
    place.write(&policy(NEAR, &cable.here, "device = \"lan0\"\n"));
    place.ask(&["reload"]);
    let status = all_here(&place, 1);
    assert_eq!((&status.interfaces[0].hooks, status.problems), (&before.hooks, vec![]));
    is_enforced(&cable);
    // Back to the name it had: the same again.
    rename(&cable, "lan0", NEAR);
    until(&place, "its old name", |status| status.interfaces.first().is_some_and(|one| one.device == NEAR));
    is_enforced(&cable);
    // Gone under another name than the policy's.
    rename(&cable, NEAR, "wan0");
    until(&place, "a third name", |status| status.interfaces.first().is_some_and(|one| one.device == "wan0"));
    cut(&cable, "wan0");
    absent(&place);
    daemon.ends_well(Signal::SIGTERM);
}

#[test]
fn one_that_is_renamed_to_what_is_waited_for() {
    let cable = Cable::new();
    cut(&cable, NEAR);
    join(&cable, "eth7");
    let place = Place::new(&policy("lan0", &cable.here, ""));
    let daemon = place.start(&["--wait"]);
    absent(&place);
    assert_eq!(cable.inbound(CLOSED, 1), 1, "not named, not judged");
    // As udev does at boot.
    rename(&cable, "eth7", "lan0");
    all_here(&place, 1);
    is_enforced(&cable);
    // Two that exchange their names: the policy's name decides.
    ip(&["-n", &cable.here, "link", "add", "spare", "type", "veth", "peer", "name", "spare1"]);
    rename(&cable, "lan0", "old0");
    until(&place, "renamed away", |status| status.interfaces.first().is_some_and(|one| one.device == "old0"));
    is_enforced(&cable);
    ip(&["-n", &cable.here, "link", "set", "spare", "name", "lan0"]);
    let status = until(&place, "the other one", |status| {
        status.interfaces.first().is_some_and(|one| one.device == "lan0" && status.problems.is_empty())
    });
    let index = ip(&["-n", &cable.here, "-o", "link", "show", "dev", "lan0"]);
    assert!(index.starts_with(&format!("{}:", status.interfaces[0].hooks.ifindex)), "{index}");
    assert_eq!(cable.inbound(CLOSED, 1), 1, "old0 is no longer named");
    daemon.ends_well(Signal::SIGTERM);
}

#[test]
fn a_namespace_that_is_made_late_and_removed() {
    let cable = Cable::new();
    let late = format!("{}-late", cable.here);
    let place = Place::new(&policy("in0", &late, ""));
    let daemon = place.start(&["--wait"]);
    let status = absent(&place);
    assert_eq!(status.absent[0].netns.as_deref(), Some(&*late));
    for round in 0..2 {
        ip(&["netns", "add", &late]);
        ip(&["-n", &late, "link", "add", "in0", "type", "veth", "peer", "name", "out0", "netns", &cable.there]);
        let status = all_here(&place, 1);
        assert_eq!(status.interfaces[0].netns.as_deref(), Some(&*late), "round {round}");
        ip(&["netns", "del", &late]);
        absent(&place);
        // Nothing keeps it alive: its cable goes with it.
        let start = Instant::now();
        let other = nacl_daemon::dataplane::Target { name: "out0".into(), netns: Some(cable.there.clone()) };
        while find(&other).unwrap().is_some() {
            assert!(start.elapsed() < PATIENCE, "the namespace is still held");
            sleep(Duration::from_millis(50));
        }
    }
    daemon.ends_well(Signal::SIGTERM);
}

#[test]
fn one_that_cannot_be_attached_to_yet() {
    let (cable, other) = (Cable::new(), Cable::new());
    other.acquaint();
    cut(&cable, NEAR);
    // A second interface that is there, and one whose XDP hook somebody else will have.
    let busy = policy(NEAR, &cable.here, "xdp = \"native\"\n");
    let place = Place::new(&format!(
        "{busy}[interface.other]\nnacl = \"lab\"\ndevice = \"{NEAR}\"\nnetns = \"{}\"\n",
        other.here
    ));
    let daemon = place.start(&[]);
    until(&place, "one of two", |status| status.interfaces.len() == 1 && status.absent.len() == 1);
    // A bridge, whose driver has no native XDP: what is asked for cannot be had.
    ip(&["-n", &cable.here, "link", "add", NEAR, "type", "bridge"]);
    let status = until(&place, "it is told why", |status| status.absent.first().is_some_and(|one| one.why.is_some()));
    let why = status.absent[0].why.as_deref().unwrap();
    assert!(why.contains("no native XDP"), "{why}");
    assert!(status.problems[0].contains("cannot be attached to, and is tried again"), "{:?}", status.problems);
    daemon.says("cannot attach");
    is_enforced(&other);
    // Another device of that name is tried at once.
    cut(&cable, NEAR);
    join(&cable, NEAR);
    all_here(&place, 2);
    is_enforced(&cable);
    is_enforced(&other);
    daemon.ends_well(Signal::SIGTERM);
}

#[test]
fn one_that_goes_and_comes_while_the_daemon_is_gone() {
    let cable = Cable::new();
    let place = Place::new(&policy(NEAR, &cable.here, ""));
    let daemon = place.start(&[]);
    is_enforced(&cable);
    // Killed: the programs go on. Then the device goes, and with it its pins' meaning.
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    is_enforced(&cable);
    cut(&cable, NEAR);
    join(&cable, NEAR);
    let joined = Instant::now();
    while cable.inbound(CLOSED, 1) == 0 {
        assert!(joined.elapsed() < Duration::from_secs(5), "a new device, and nobody there");
    }
    let daemon = place.start(&[]);
    all_here(&place, 1);
    is_enforced(&cable);
    let mut daemon = daemon;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.err());
    assert!(!fs::exists(place.directory.path().join("state")).unwrap(), "nothing is kept");
}
