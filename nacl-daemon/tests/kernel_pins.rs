//! What outlives the process: pins, records, taking over, and changes that the programs themselves undo. On real interfaces in
//! namespaces of our own, with a bpffs of our own.

mod support;

use std::{
    fs,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use nacl_common::{Action, Direction};
use nacl_daemon::{
    compile::Compiled,
    dataplane::{
        Attachment, DataplaneError, Left, Note, Start, Store, Tc, Terms, attach_with, detach_leftovers, restore, sweep,
    },
    resolve::{Layers, Mode, Xdp},
};
use nix::mount::{MntFlags, umount2};
use serde_json::json;
use support::{
    policies::{open, options, policy, rule, slot, two_closed},
    veth::{Cable, NEAR, ip},
};

const CLOSED_IN: u16 = 4001;
const CLOSED_OUT: u16 = 4002;
const OPEN: u16 = 4003;

/// A directory with a bpffs in it, which goes with the value.
struct Place {
    directory: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(&directory.path().join("state"), "test".into()).expect("a store");
        Self { directory, store }
    }

    fn path(&self, of: &str) -> PathBuf {
        self.directory.path().join("state").join(of)
    }

    /// Directories of pins, complete or not, as `VERSION/NAME`.
    fn pins(&self) -> Vec<String> {
        let list = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut all: Vec<_> = list(self.path("bpf")).flat_map(list).map(|path| path.display().to_string()).collect();
        all.sort();
        all
    }

    fn attach(&self, cable: &Cable, compiled: &Compiled, note: Note) -> Attachment {
        self.attach_by(cable, compiled, Tc::Auto, Terms { note, confirm: None }).expect("it attaches")
    }

    fn attach_by(
        &self,
        cable: &Cable,
        compiled: &Compiled,
        tc: Tc,
        terms: Terms,
    ) -> Result<Attachment, DataplaneError> {
        let xdp = if tc == Tc::Auto { Xdp::Native } else { Xdp::Tc };
        attach_with(&cable.target(), &options(xdp), compiled, Start { tc, store: Some(&self.store), terms })
    }

    /// The one interface that somebody has left.
    fn adopt(&self) -> Attachment {
        let mut left = restore(&self.store);
        assert_eq!(left.len(), 1);
        match left.remove(0) {
            Left::Here(attachment) => *attachment,
            Left::Unconfirmed(note) => panic!("unconfirmed: {note:?}"),
        }
    }

    fn empty(&self) {
        assert_eq!(self.pins(), Vec::<String>::new());
        assert_eq!(fs::read_dir(self.path("interfaces")).expect("records").count(), 0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        umount2(&self.path("bpf"), MntFlags::MNT_DETACH).expect("the bpffs is ours");
    }
}

fn packets(attachment: &Attachment, compiled: &Compiled, direction: Direction, rule: u16) -> u64 {
    let counters = attachment.counters().expect("counters");
    counters.slots.get(&slot(compiled, direction, rule)).map_or(0, |counter| counter.packets)
}

fn cable() -> Cable {
    let cable = Cable::new();
    cable.acquaint();
    cable
}

/// As after `kill -9`: nobody is left, and the kernel goes on.
fn killed(attachment: Attachment) {
    assert!(attachment.leave(), "it is pinned");
}

#[test]
fn what_is_pinned_goes_on_and_is_taken_over() {
    for tc in [Tc::Auto, Tc::Clsact] {
        let (cable, place) = (cable(), Place::new());
        let compiled = two_closed(CLOSED_IN, CLOSED_OUT);
        let terms = Terms { note: Note::of(&json!({"policy": 1})), confirm: None };
        let attachment = place.attach_by(&cable, &compiled, tc, terms).expect("it attaches");
        let programs = (attachment.hooks().ingress_program, attachment.hooks().egress_program);
        assert_eq!((cable.inbound(CLOSED_IN, 3), cable.inbound(OPEN, 2)), (0, 2));
        killed(attachment);
        // Nobody is there.
        assert_eq!((cable.inbound(CLOSED_IN, 2), cable.outbound(CLOSED_OUT, 2), cable.inbound(OPEN, 1)), (0, 0, 1));

        let mut attachment = place.adopt();
        let hooks = attachment.hooks();
        assert_eq!((hooks.ingress_program, hooks.egress_program), programs, "{tc:?}: nothing was loaded anew");
        let (epoch, last, before) = attachment.epochs();
        assert_eq!((epoch, last, before), (1, 1, None));
        let (note, slots) = attachment.note(epoch).expect("it is known");
        assert_eq!((note, &**slots), (&Note::of(&json!({"policy": 1})), &*compiled.slots));
        assert_eq!(packets(&attachment, &compiled, Direction::Inbound, 50), 5, "{tc:?}");
        assert_eq!(packets(&attachment, &compiled, Direction::Inbound, 100), 3);
        assert_eq!(packets(&attachment, &compiled, Direction::Outbound, 60), 2);

        // It is ours in every way.
        let terms = Terms { note: Note::of(&json!({"policy": 2})), confirm: None };
        let how = options(if tc == Tc::Auto { Xdp::Native } else { Xdp::Tc });
        assert_eq!(attachment.install(&how, &open(), terms).expect("it switches"), 2);
        assert_eq!(cable.inbound(CLOSED_IN, 2), 2);
        attachment.install(&how, &compiled, Terms::default()).expect("it switches back");
        assert_eq!(cable.inbound(CLOSED_IN, 2), 0);
        attachment.detach().expect("it detaches");
        place.empty();
        assert_eq!(cable.inbound(CLOSED_IN, 1), 1, "the control: nothing is attached");
        assert_eq!(detach_leftovers(&cable.target(), None).expect("asked"), Vec::<String>::new());
    }
}

#[test]
fn an_attach_that_fails_leaves_nothing() {
    let (cable, place) = (cable(), Place::new());
    // No bridge has XDP in its driver: the programs are loaded and pinned by then.
    ip(&["-n", &cable.here, "link", "add", "br0", "type", "bridge"]);
    let bridge = nacl_daemon::dataplane::Target { name: "br0".into(), ..cable.target() };
    let start = || Start { store: Some(&place.store), ..Start::default() };
    let Err(error) = attach_with(&bridge, &options(Xdp::Native), &open(), start()) else { panic!("it is attached") };
    assert!(matches!(error, DataplaneError::NoNativeXdp { .. }), "{error}");
    place.empty();
}

#[test]
fn a_second_one_is_told_about_the_first() {
    let (cable, place) = (cable(), Place::new());
    let first = place.attach(&cable, &open(), Note::default());
    let Err(error) = place.attach_by(&cable, &open(), Tc::Auto, Terms::default()) else { panic!("two are in charge") };
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    assert!(restore(&place.store).is_empty(), "it is not abandoned");
    assert_eq!(sweep(&place.store).len(), 0);
    assert_eq!(cable.inbound(OPEN, 1), 1);
    drop(first);
    place.empty();
}

#[test]
fn connections_and_counters_live_on() {
    let (cable, place) = (cable(), Place::new());
    let interface = {
        let nacl = nacl_daemon::resolve::Nacl {
            name: "test".into(),
            id: None,
            inbound: vec![rule(100, Action::Allow, Some(OPEN), "0.0.0.0/0")],
            outbound: Vec::new(),
        };
        let mut interface = nacl_daemon::resolve::Interface::new(NEAR, nacl.into());
        (interface.mode, interface.layers) = (Mode::Stateful, Layers::Nacl);
        interface
    };
    let compiled = nacl_daemon::compile::compile(&interface, None).expect("it compiles");
    let attachment = place.attach(&cable, &compiled, Note::default());
    assert_eq!(cable.inbound(OPEN, 3), 3);
    let before = attachment.flows().expect("flows");
    assert!(!before.is_empty());
    killed(attachment);
    assert_eq!(cable.inbound(OPEN, 2), 2, "with nobody there, new connections too");
    let attachment = place.adopt();
    let after = attachment.flows().expect("flows");
    assert!(before.iter().all(|(key, _)| after.iter().any(|(kept, _)| kept == key)), "{before:?} {after:?}");
    assert!(after.len() > before.len(), "the ring was there for new ones");
    drop(attachment);
    place.empty();
}

#[test]
fn pins_of_another_version_are_replaced_without_a_gap() {
    let (cable, place) = (cable(), Place::new());
    let closed = two_closed(CLOSED_IN, CLOSED_OUT);
    let attachment = place.attach(&cable, &closed, Note::default());
    let old = attachment.hooks().clone();
    killed(attachment);
    let version = fs::read_dir(place.path("bpf")).expect("a version").flatten().next().expect("one").path();
    fs::rename(&version, place.path("bpf/v0000000000000000")).expect("another version");
    assert!(restore(&place.store).is_empty(), "it is not ours");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0, "it goes on");

    // Between the old program and the new one there is none without.
    let flood = std::thread::scope(|scope| {
        let there = scope.spawn(|| (0..6).map(|_| cable.inbound(CLOSED_IN, 200)).sum::<usize>());
        sleep(Duration::from_millis(200));
        let attachment = place.attach(&cable, &closed, Note::default());
        assert_ne!(attachment.hooks().ingress_program, old.ingress_program);
        assert_ne!(attachment.hooks().egress_program, old.egress_program);
        (there.join().expect("no panic"), attachment)
    });
    assert_eq!(flood.0, 0, "none came through while the programs were replaced");
    assert_eq!(place.pins().len(), 1, "those of the other version are gone: {:?}", place.pins());
    let link = ip(&["-n", &cable.here, "-d", "link", "show", "dev", NEAR]);
    assert_eq!(link.matches("xdp").count(), 2, "one program: {link}");
    drop(flood.1);
    sweep(&place.store);
    place.empty();
}

#[test]
fn what_is_not_wanted_any_more_is_swept_away() {
    let (cable, place) = (cable(), Place::new());
    killed(place.attach(&cable, &two_closed(CLOSED_IN, CLOSED_OUT), Note::default()));
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0);
    let other = Store::open(&place.path(""), "another".into()).expect("a store");
    assert!(restore(&other).is_empty() && sweep(&other).is_empty());
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0, "another daemon's is left alone");
    assert!(sweep(&place.store).is_empty());
    assert_eq!(cable.inbound(CLOSED_IN, 1), 1);
    place.empty();
}

#[test]
fn leftovers_are_detached_with_their_pins() {
    let (cable, place) = (cable(), Place::new());
    killed(place.attach(&cable, &two_closed(CLOSED_IN, CLOSED_OUT), Note::default()));
    let removed = detach_leftovers(&cable.target(), Some(&place.store)).expect("they are removed");
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 1);
    place.empty();
}

#[test]
fn an_interface_that_is_gone_is_forgotten() {
    let (cable, place) = (cable(), Place::new());
    killed(place.attach(&cable, &open(), Note::default()));
    ip(&["-n", &cable.here, "link", "del", NEAR]);
    assert!(restore(&place.store).is_empty());
    place.empty();

    let second = Cable::new();
    killed(place.attach(&second, &open(), Note::default()));
    drop(second);
    assert!(restore(&place.store).is_empty());
    place.empty();
}

#[test]
fn a_record_that_is_torn_is_replaced() {
    let (cable, place) = (cable(), Place::new());
    let closed = two_closed(CLOSED_IN, CLOSED_OUT);
    killed(place.attach(&cable, &closed, Note::default()));
    let record = fs::read_dir(place.path("interfaces")).expect("records").flatten().next().expect("one").path();
    let record = record.join("record.json");
    let text = fs::read(&record).expect("a record");
    fs::write(&record, &text[..text.len() / 2]).expect("half of it");
    assert!(restore(&place.store).is_empty());
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0, "it goes on");
    drop(place.attach(&cable, &closed, Note::default()));
    place.empty();
}

/// Waits until the programs have gone back by themselves.
fn until_undone(attachment: &Attachment) {
    let start = Instant::now();
    while attachment.pending().is_some_and(|left| !left.is_zero()) {
        assert!(start.elapsed() < Duration::from_secs(20), "it is never undone");
        sleep(Duration::from_millis(20));
    }
}

const SHORT: Option<Duration> = Some(Duration::from_secs(6));
const LONG: Option<Duration> = Some(Duration::from_mins(10));

#[test]
fn a_change_is_confirmed_or_the_programs_undo_it() {
    let (cable, place) = (cable(), Place::new());
    let (open, closed) = (open(), two_closed(CLOSED_IN, CLOSED_OUT));
    let how = options(Xdp::Native);
    let mut attachment = place.attach(&cable, &open, Note::of(&json!("open")));
    assert!(!attachment.confirm(), "there is nothing to confirm");

    // In time.
    let terms = |note: &str, confirm| Terms { note: Note::of(&json!(note)), confirm };
    attachment.install(&how, &closed, terms("closed", LONG)).expect("it switches");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0);
    let error = attachment.install(&how, &open, Terms::default()).expect_err("one at a time");
    assert!(matches!(error, DataplaneError::Pending), "{error}");
    assert!(attachment.confirm());
    assert_eq!((attachment.pending(), attachment.epochs()), (None, (2, 2, None)));

    // Not in time, and nobody does anything.
    attachment.install(&how, &open, terms("open again", SHORT)).expect("it switches");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 1);
    assert_eq!(attachment.epochs(), (3, 3, Some(2)));
    until_undone(&attachment);
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0, "the programs went back");
    assert!(!attachment.confirm(), "too late");
    assert_eq!(attachment.epochs(), (2, 3, Some(2)));
    assert!(attachment.undo());
    let hits = packets(&attachment, &closed, Direction::Inbound, 50);
    assert_eq!(attachment.install(&how, &closed, terms("closed", None)).expect("it is installed again"), 4);
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0);
    assert_eq!(packets(&attachment, &closed, Direction::Inbound, 50), hits + 1, "a rule that came back counts on");

    // Undone by hand, at once.
    attachment.install(&how, &open, terms("open", LONG)).expect("it switches");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 1);
    assert!(attachment.undo());
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0);
    attachment.detach().expect("it detaches");
    place.empty();
}

#[test]
fn a_change_is_undone_with_nobody_there() {
    let (cable, place) = (cable(), Place::new());
    let (open, closed) = (open(), two_closed(CLOSED_IN, CLOSED_OUT));
    let mut attachment = place.attach(&cable, &open, Note::of(&json!("open")));
    let terms = Terms { note: Note::of(&json!("closed")), confirm: SHORT };
    attachment.install(&options(Xdp::Native), &closed, terms).expect("it switches");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0);
    killed(attachment);
    let start = Instant::now();
    while cable.inbound(CLOSED_IN, 1) == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "it is never undone");
    }
    assert_eq!(cable.outbound(CLOSED_OUT, 1), 1, "on egress too");
    let attachment = place.adopt();
    assert_eq!(attachment.epochs(), (1, 2, None), "in force, last");
    assert_eq!(attachment.note(1).expect("known").0, &Note::of(&json!("open")));
    assert_eq!(attachment.note(2).expect("known").0, &Note::of(&json!("closed")));
    assert_eq!(attachment.pending(), None, "it is settled");
    drop(attachment);
    place.empty();
}

#[test]
fn a_change_that_waits_is_taken_over_and_confirmed() {
    let (cable, place) = (cable(), Place::new());
    let (open, closed) = (open(), two_closed(CLOSED_IN, CLOSED_OUT));
    let mut attachment = place.attach(&cable, &open, Note::of(&json!("open")));
    let terms = Terms { note: Note::of(&json!("closed")), confirm: LONG };
    attachment.install(&options(Xdp::Native), &closed, terms).expect("it switches");
    killed(attachment);
    let mut attachment = place.adopt();
    assert_eq!(attachment.epochs(), (2, 2, Some(1)));
    assert!(attachment.pending().is_some_and(|left| left > Duration::from_mins(1)));
    assert_eq!(attachment.note(1).expect("known").0, &Note::of(&json!("open")));
    assert!(attachment.confirm());
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0);
    killed(attachment);
    assert_eq!(place.adopt().epochs(), (2, 2, None));
    place.empty();
}

#[test]
fn a_first_policy_that_nobody_confirms_judges_no_more() {
    let (cable, place) = (cable(), Place::new());
    let closed = two_closed(CLOSED_IN, CLOSED_OUT);
    let terms = Terms { note: Note::of(&json!("closed")), confirm: SHORT };
    let attachment = place.attach_by(&cable, &closed, Tc::Auto, terms).expect("it attaches");
    assert_eq!(cable.inbound(CLOSED_IN, 1), 0);
    assert_eq!(attachment.epochs(), (1, 1, None));
    killed(attachment);
    let start = Instant::now();
    while cable.inbound(CLOSED_IN, 1) == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "it is never undone");
    }
    let left = restore(&place.store);
    assert!(matches!(&left[..], [Left::Unconfirmed(note)] if *note == Note::of(&json!("closed"))));
    place.empty();
    assert_eq!(detach_leftovers(&cable.target(), None).expect("asked"), Vec::<String>::new());
}

#[test]
fn a_rule_without_ports_is_still_one_after_a_crash() {
    // Slots of rules that went and came back keep their counts over a take-over.
    let (cable, place) = (cable(), Place::new());
    let all = |number| policy(vec![rule(number, Action::Allow, None, "0.0.0.0/0")], Vec::new());
    let attachment = place.attach(&cable, &all(100), Note::default());
    assert_eq!(cable.inbound(OPEN, 4), 4);
    let reasons = attachment.counters().expect("counters").reasons;
    killed(attachment);
    let mut attachment = place.adopt();
    assert_eq!(attachment.counters().expect("counters").reasons, reasons);
    for number in [200, 300, 200, 100] {
        attachment.install(&options(Xdp::Native), &all(number), Terms::default()).expect("it switches");
        attachment = {
            killed(attachment);
            place.adopt()
        };
        let now = attachment.counters().expect("counters").reasons;
        assert_eq!(now, reasons, "no packet came, and none is forgotten");
    }
    drop(attachment);
    place.empty();
}
