//! Broken returns on the wire: every lab's network with a real daemon on its hooks, clients that do what clients do, and what the daemon
//! says of it. What it must say is taken from the lab file, and its fixes are put into the policy and tried.

mod support;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use nacl_daemon::{
    compile::Decider,
    lab::{
        Lab, Outcome,
        ask::{Gate, Noticed, Question, ask},
        file::{self, Policy, Probe, ProbeProtocol, SourcePorts},
        net::Style,
        outcome::source_ports,
        wire::{Bench, possible},
    },
    observe::BrokenReturn,
    resolve::{Layers, Mode},
};
use support::{
    lab_broken::{Said, broken, mend, said},
    place::{Api, PATIENCE, Place},
};
use toml_edit::{DocumentMut, value};

/// How long a client waits for an answer that comes.
const LONG: Duration = Duration::from_secs(5);
/// How long for one that does not. Whoever asks in vain asks again, and the second request is the one that is seen.
const SHORT: Duration = Duration::from_millis(200);
/// How long a download may stand still until its server sends again what did not arrive, once or twice.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a download may stand still: while it is looked into and mended, and until its server tries once more.
const STANDSTILL: Duration = Duration::from_secs(18);
/// How often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(10);

/// A lab's policy for a daemon that stands outside the lab's namespaces.
fn policy(text: &str, lab: &Lab, router: &str, mode: Option<Mode>, layers: Option<Layers>) -> DocumentMut {
    let mut document: DocumentMut = text.parse().expect("the lab's policy");
    for hook in &lab.hooks {
        let interface = document["interface"][hook.as_str()].as_table_like_mut().expect("the hook's interface");
        interface.insert("netns", value(router));
        mode.map(|mode| interface.insert("mode", value(mode.name())));
        layers.map(|layers| interface.insert("layers", value(layers.name())));
    }
    document
}

/// A question of a probe, from one of its ports.
struct Asking<'l> {
    probe: &'l Probe,
    port: u16,
    /// What must be said of it, if it may have to be.
    broken: Option<Said>,
    patience: Duration,
}

fn questions<'l>(lab: &'l Lab, probes: &'l [Probe], policy: &Policy) -> Vec<Asking<'l>> {
    let mut all: Vec<Asking<'l>> = Vec::new();
    for probe in probes {
        let nat = lab.host(&probe.from).nat.is_some();
        let ports = match (&probe.source_ports, probe.protocol) {
            (SourcePorts::Any, _) | (_, ProbeProtocol::Icmp) => vec![0],
            // Which port a NAT takes is by chance: so many that some are of either kind.
            _ if nat => vec![0; 12],
            _ => source_ports(lab, probe, policy),
        };
        for port in ports {
            let ends = |probe: &'l Probe| (&probe.from, &probe.to, probe.protocol, probe.port, probe.family);
            // Two connections cannot have both ends in common.
            let asked = |one: &Asking<'l>| port != 0 && one.port == port && ends(one.probe) == ends(probe);
            if !all.iter().any(asked) {
                let broken = broken(lab, probe);
                let answered = probe.expected(Mode::Stateless).outcome == Outcome::Answered;
                let patience = match &broken {
                    None if answered => LONG,
                    Some((.., Some(_))) => AGAIN,
                    _ => SHORT,
                };
                all.push(Asking { probe, port, broken, patience });
            }
        }
    }
    all
}

/// Asks one question, and returns what its client noticed.
fn ask_one(bench: &Bench<'_>, lab: &Lab, asking: &Asking<'_>, gate: Option<&Gate>) -> Noticed {
    let Asking { probe, port, patience, .. } = asking;
    let (from, to) = lab.ends(probe, lab.connections(probe)[0]);
    let inside = lab.host(&probe.from).nat.as_ref().map(|nat| nat.inside.addr());
    let question = Question {
        protocol: probe.protocol,
        from: inside.unwrap_or(from),
        source_port: *port,
        to: (to, probe.port).into(),
        patience: *patience,
        gate,
    };
    ask(bench.net().asking(&probe.from), &question).expect("it can ask").0
}

/// Asks everything at once, and returns what each client noticed.
fn ask_all(bench: &Bench<'_>, lab: &Lab, asking: &[Asking<'_>]) -> Vec<Noticed> {
    thread::scope(|scope| {
        let clients: Vec<_> =
            asking.iter().map(|asking| scope.spawn(move || ask_one(bench, lab, asking, None))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    })
}

/// Waits until something is told, doing something meanwhile; what was told at last, if it never is.
fn told(api: &Api, expected: &BTreeSet<Said>, mut meanwhile: impl FnMut()) -> Vec<BrokenReturn> {
    let start = Instant::now();
    loop {
        meanwhile();
        let told = api.broken().expect("the daemon answers");
        if said(&told) == *expected || start.elapsed() > PATIENCE {
            return told;
        }
    }
}

/// Holds what was told against the text of the policy: each rule stands where it is said to.
fn check(document: &str, told: &[BrokenReturn]) {
    for broken in told {
        assert!(broken.replies > 0 && broken.enforced && !broken.says.is_empty(), "{broken:?}");
        for ruling in [&broken.request, &broken.reply].into_iter().chain(&broken.message) {
            match &ruling.decided_by {
                Decider::Nacl { number, .. } => {
                    let written = document.lines().nth(ruling.line - 1).expect("the line");
                    assert!(written.contains(&format!("rule = {number},")), "{ruling:?}: {written}");
                }
                Decider::Group { .. } => {
                    let written = document.lines().nth(ruling.line - 1).expect("the line");
                    assert!(written.contains("protocol = "), "{ruling:?}: {written}");
                }
                _ => assert_eq!(ruling.line, 0, "{ruling:?}"),
            }
        }
    }
}

/// A lab before a real daemon.
struct Shown<'l> {
    lab: &'l Lab,
    bench: Bench<'l>,
    place: &'l Place,
    api: Api,
}

impl Shown<'_> {
    fn install(&self, document: &DocumentMut) {
        self.place.write(&document.to_string());
        self.api.reload().expect("the policy");
    }

    /// One fix after the other: each takes a number, and the next is found anew. Returns how many it took.
    fn mend_all(&self, mut document: DocumentMut, mut told: Vec<BrokenReturn>, step: &str) -> usize {
        let mut mended = 0;
        while let Some(broken) = told.first() {
            mend(&mut document, broken);
            self.install(&document);
            let left = self.api.broken().expect("the daemon answers");
            assert!(left.len() < told.len(), "{}, {step}: not mended: {left:#?}", self.lab.name);
            told = left;
            mended += 1;
        }
        mended
    }

    /// Probes one beside the other, what is told of them, and the same once it is mended.
    fn asked(&mut self, document: DocumentMut, asking: Vec<Asking<'_>>, step: &str) -> usize {
        let lab = self.lab;
        let expected: BTreeSet<Said> = asking.iter().filter_map(|asking| asking.broken.clone()).collect();
        let told = told(&self.api, &expected, || drop(ask_all(&self.bench, lab, &asking)));
        assert_eq!(said(&told), expected, "{}, {step}: {told:#?}", lab.name);
        check(&document.to_string(), &told);
        if expected.is_empty() {
            return 0;
        }
        let mended = self.mend_all(document, told, step);
        self.bench.refresh().expect("the services");
        let again = asking.into_iter().filter(|asking| asking.broken.is_some());
        let again: Vec<_> = again.map(|asking| Asking { patience: LONG, ..asking }).collect();
        for (asking, noticed) in again.iter().zip(ask_all(&self.bench, lab, &again)) {
            let answered = matches!(noticed, Noticed::Answer(_));
            assert!(answered, "{}, {}: {noticed:?}", lab.name, asking.probe.name);
        }
        assert_eq!(self.api.broken().expect("the daemon answers"), [], "{}, {step}", lab.name);
        mended
    }

    /// A download under which the policy changes. Where that cuts it, it goes on to its end once it is mended.
    fn changed(&self, document: DocumentMut, asking: Asking<'_>, step: &str) -> usize {
        let lab = self.lab;
        let expected: BTreeSet<Said> = asking.broken.clone().into_iter().collect();
        let (gate, asking) = (Gate::default(), Asking { patience: STANDSTILL, ..asking });
        thread::scope(|scope| {
            let client = scope.spawn(|| ask_one(&self.bench, lab, &asking, Some(&gate)));
            while !gate.is_full() && !client.is_finished() {
                thread::sleep(LOOK);
            }
            self.install(&document);
            gate.open();
            let mut mended = 0;
            if !expected.is_empty() {
                let told = told(&self.api, &expected, || thread::sleep(LOOK));
                assert_eq!(said(&told), expected, "{}, {step}: {told:#?}", lab.name);
                check(&document.to_string(), &told);
                mended = self.mend_all(document, told, step);
            }
            let noticed = client.join().expect("a client");
            assert!(matches!(noticed, Noticed::Answer(_)), "{}, {step}: {noticed:?}", lab.name);
            assert_eq!(self.api.broken().expect("the daemon answers"), [], "{}, {step}", lab.name);
            mended
        })
    }
}

/// Shows a lab to a daemon, step by step. Returns how many broken returns were told and mended.
fn diagnose(lab: &Lab) -> usize {
    let bench = Bench::build(lab, Style::Lived).expect("the lab's network");
    let router = bench.net().router().to_owned();
    let stages = lab.plan(Mode::Stateless).expect("the lab's policies");
    // As the lab's own levels have it: no policy of a lab says its mode for all of it.
    let (mut text, mut mode, mut layers) = (&lab.policy, Some(Mode::Stateless), None);
    let place = Place::new(&policy(&text.text, lab, &router, mode, layers).to_string());
    let _daemon = place.start(&[]);
    let mut shown = Shown { lab, bench, place: &place, api: Api::new(&place) };
    let mut mended = 0;
    for (step, stage) in lab.steps.iter().zip(&stages) {
        text = step.change.policy.as_ref().unwrap_or(text);
        mode = step.change.settings.mode.or(mode);
        layers = step.change.settings.layers.or(layers);
        shown.bench.refresh().expect("the services");
        let document = policy(&text.text, lab, &router, mode, layers);
        shown.install(&document);
        let mut asking = questions(lab, &step.probes, &stage.policy);
        let changing = asking.iter().position(|asking| asking.probe.during.is_some());
        mended += if let Some(changing) = changing {
            // A probe under which the policy changes is alone in its step.
            let asking = asking.swap_remove(changing);
            let during = asking.probe.during.as_ref().expect("its change");
            text = during.policy.as_ref().unwrap_or(text);
            mode = during.settings.mode.or(mode);
            layers = during.settings.layers.or(layers);
            shown.changed(policy(&text.text, lab, &router, mode, layers), asking, &step.name)
        } else {
            shown.asked(document, asking, &step.name)
        };
    }
    mended
}

/// Whether a lab's data has a flow whose replies die, or a connection that is cut.
fn has_broken(lab: &Lab) -> bool {
    lab.steps.iter().flat_map(|step| &step.probes).any(|probe| broken(lab, probe).is_some())
}

#[test]
fn every_lab_s_broken_flow_is_diagnosed_live_and_its_fix_mends_it() {
    let all = file::all().expect("labs");
    let only = std::env::var("NACLD_LAB").ok();
    let mut labs: Vec<_> = all.iter().filter(|lab| only.as_ref().is_none_or(|only| *only == lab.name)).collect();
    // What has no form on the wire has nothing to tell live either.
    assert!(labs.iter().all(|lab| lab.without_wire.is_none() || !has_broken(lab)));
    labs.retain(|lab| lab.without_wire.is_none());
    for lab in &labs {
        possible(lab).expect("a lab on the wire");
    }
    // Those that wait for a server to try again begin first: the others have things to do meanwhile.
    labs.sort_by_key(|lab| {
        Reverse(lab.steps.iter().flat_map(|step| &step.probes).filter(|one| one.during.is_some()).count())
    });
    let expected: BTreeSet<&str> = labs.iter().filter(|lab| has_broken(lab)).map(|lab| lab.name.as_str()).collect();
    let queue = Mutex::new(labs.into_iter().collect::<VecDeque<_>>());
    let told = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        // They wait most of the time.
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(lab) = { queue.lock().expect("the queue").pop_front() } {
                    if diagnose(lab) > 0 {
                        told.lock().expect("the list").insert(lab.name.as_str());
                    }
                }
            });
        }
    });
    assert_eq!(told.into_inner().expect("the list"), expected);
    assert!(only.is_some() || expected.len() >= 16, "{expected:?}");
}
