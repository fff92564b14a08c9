//! Broken returns on the wire: every lab's network with a real daemon on its hooks, clients that do what clients do, and what the daemon
//! says of it. What it must say is taken from the lab file, and its fixes are put into the policy and tried.

mod support;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Mutex,
    thread,
    time::Duration,
};

use nacl_common::Direction;
use nacl_daemon::{
    compile::Decider,
    lab::{
        Lab, Outcome,
        ask::{Noticed, Question, ask},
        expect::Decision,
        file::{self, Policy, Probe, ProbeProtocol, SourcePorts},
        net::Style,
        outcome::source_ports,
        wire::{Bench, possible},
    },
    observe::BrokenReturn,
    resolve::{Layers, Mode},
};
use support::place::{Api, Place};
use toml_edit::{DocumentMut, Item, Value, value};

/// How long a client waits for an answer that comes.
const LONG: Duration = Duration::from_secs(5);
/// How long for one that does not: TCP asks again after a second, and its second request is the one that is seen.
const SHORT: Duration = Duration::from_millis(1500);
/// And for one whose question does not even arrive.
const IN_VAIN: Duration = Duration::from_millis(200);
/// How often clients ask until everything is told that must be.
const ROUNDS: usize = 6;

/// A broken return as a lab has it: the host behind the hook, which way its requests go, and the two rules.
type Said = (String, Direction, Decider, Decider);

/// Which rule of a crossing is named: of two that let a packet pass, the network ACL's.
fn names(by: &Decision) -> Decider {
    let nacl = by.0.iter().find(|decider| matches!(decider, Decider::Nacl { .. } | Decider::NaclImplied { .. }));
    nacl.or(by.0.last()).expect("a crossing has a rule").clone()
}

/// What must be said of a probe: its replies die where the lab says so.
fn broken(lab: &Lab, probe: &Probe) -> Option<Said> {
    let expected = probe.expected(Mode::Stateless);
    let passages = lab.passages(probe, expected.outcome);
    let ends_early = expected.path.len() < passages.len();
    let dies = match expected.outcome {
        Outcome::ReplyDropped => Some(&expected.path[expected.path.len() - 1]),
        Outcome::Stalled if ends_early => expected.path.last(),
        // From some ports.
        Outcome::Answered => expected.otherwise.as_ref(),
        _ => None,
    }?;
    let at = match expected.outcome {
        Outcome::Answered => passages.iter().position(|passage| passage.reply && passage.hook == dies.hook)?,
        _ => expected.path.len() - 1,
    };
    let reply = passages[at];
    if !reply.reply {
        return None;
    }
    let there = |passage: &&_| matches!(passage, nacl_daemon::lab::legs::Passage { connection, reply: false, hook, .. } if *connection == reply.connection && *hook == reply.hook);
    let request = passages.iter().zip(&expected.path).find(|(passage, _)| there(passage)).expect("its request").1;
    let denies = dies.by.0.last().expect("what denies it").clone();
    Some((reply.hook.to_owned(), reply.direction.reverse(), names(&request.by), denies))
}

/// What a daemon has said.
fn said(broken: &[BrokenReturn]) -> BTreeSet<Said> {
    let one = |broken: &BrokenReturn| {
        (broken.interface.clone(), broken.began, broken.request.decided_by.clone(), broken.reply.decided_by.clone())
    };
    broken.iter().map(one).collect()
}

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

/// Puts a fix into a policy, as a person does who reads it.
fn mend(document: &mut DocumentMut, broken: &BrokenReturn) {
    let rules = broken.fix.as_ref().unwrap_or_else(|| panic!("no fix: {}", broken.says));
    for remedy in rules {
        let (kind, name) = match (&remedy.nacl, &remedy.group) {
            (Some(nacl), _) => ("nacl", nacl),
            (None, group) => ("security_group", group.as_ref().expect("a table")),
        };
        let rule: DocumentMut = format!("rule = {}", remedy.rule).parse().expect("a rule as one writes it");
        let rule = rule["rule"].as_value().expect("a value").clone();
        let list = document[kind][name.as_str()].as_table_like_mut().expect("the table").entry(remedy.direction.name());
        let list = list.or_insert(Item::Value(Value::Array(toml_edit::Array::new())));
        list.as_array_mut().expect("a list").push(rule);
    }
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
                let patience = match probe.expected(Mode::Stateless).outcome {
                    _ if broken.is_some() => SHORT,
                    Outcome::Answered => LONG,
                    _ => IN_VAIN,
                };
                all.push(Asking { probe, port, broken, patience });
            }
        }
    }
    all
}

/// Asks everything at once, and returns what each client noticed.
fn ask_all(bench: &Bench<'_>, lab: &Lab, asking: &[Asking<'_>]) -> Vec<Noticed> {
    thread::scope(|scope| {
        let one = |asking: &Asking<'_>| {
            let Asking { probe, port, patience, .. } = asking;
            let (from, to) = lab.ends(probe, lab.connections(probe)[0]);
            let inside = lab.host(&probe.from).nat.as_ref().map(|nat| nat.inside.addr());
            let question = Question {
                protocol: probe.protocol,
                from: inside.unwrap_or(from),
                source_port: *port,
                to: (to, probe.port).into(),
                patience: *patience,
                gate: None,
            };
            ask(bench.net().asking(&probe.from), &question).expect("it can ask").0
        };
        let clients: Vec<_> = asking.iter().map(|asking| scope.spawn(move || one(asking))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    })
}

/// Shows a lab to a daemon, step by step. Returns how many broken returns were told and mended.
fn diagnose(lab: &Lab) -> usize {
    let mut bench = Bench::build(lab, Style::Lived).expect("the lab's network");
    let router = bench.net().router().to_owned();
    let stages = lab.plan(Mode::Stateless).expect("the lab's policies");
    // As the lab's own levels have it: no policy of a lab says its mode for all of it.
    let (mut text, mut mode, mut layers) = (&lab.policy, Some(Mode::Stateless), None);
    let place = Place::new(&policy(&text.text, lab, &router, mode, layers).to_string());
    let _daemon = place.start(&[]);
    let api = Api::new(&place);
    let mut mended = 0;
    for (step, stage) in lab.steps.iter().zip(&stages) {
        text = step.change.policy.as_ref().unwrap_or(text);
        mode = step.change.settings.mode.or(mode);
        layers = step.change.settings.layers.or(layers);
        let mut document = policy(&text.text, lab, &router, mode, layers);
        bench.refresh().expect("the services");
        place.write(&document.to_string());
        api.reload().expect("the step's policy");
        let asking: Vec<_> = questions(lab, &step.probes, &stage.policy);
        let (asking, changing): (Vec<_>, Vec<_>) = asking.into_iter().partition(|asking| asking.probe.during.is_none());
        // A change under a download cuts it, and breaks no return: what is in force then is the next step's.
        if let Some(during) = changing.iter().find_map(|asking| asking.probe.during.as_ref()) {
            text = during.policy.as_ref().unwrap_or(text);
            mode = during.settings.mode.or(mode);
            layers = during.settings.layers.or(layers);
        }
        let expected: BTreeSet<Said> = asking.iter().filter_map(|asking| asking.broken.clone()).collect();
        let mut told = Vec::new();
        for round in 0..ROUNDS {
            // Nobody is waited for where there is nothing to tell; once is enough then.
            if round > 0 && said(&told) == expected {
                break;
            }
            ask_all(&bench, lab, &asking);
            told = api.broken().expect("the daemon answers");
        }
        assert_eq!(said(&told), expected, "{}, {}: {told:#?}", lab.name, step.name);
        for broken in &told {
            let (request, reply) = (broken.request.decided_by.to_string(), broken.reply.decided_by.to_string());
            assert!(broken.replies > 0 && broken.enforced && !broken.says.is_empty(), "{broken:?}");
            let line = |decider: &Decider, line| match decider {
                Decider::Nacl { number, .. } => {
                    let text = document.to_string();
                    let written = text.lines().nth(line - 1).expect("the line");
                    assert!(written.contains(&format!("rule = {number},")), "{request}, {reply}: {written}");
                }
                _ => assert_eq!(line, 0, "{decider}"),
            };
            line(&broken.request.decided_by, broken.request.line);
            line(&broken.reply.decided_by, broken.reply.line);
        }
        if expected.is_empty() {
            continue;
        }
        // One fix after the other: each takes a number, and the next is found anew.
        while let Some(broken) = told.first() {
            mend(&mut document, broken);
            place.write(&document.to_string());
            api.reload().expect("the mended policy");
            let left = api.broken().expect("the daemon answers");
            assert!(left.len() < told.len(), "{}, {}: not mended: {left:#?}", lab.name, step.name);
            told = left;
            mended += 1;
        }
        bench.refresh().expect("the services");
        let again = asking.into_iter().filter(|asking| asking.broken.is_some());
        let again: Vec<_> = again.map(|asking| Asking { patience: LONG, ..asking }).collect();
        for (asking, noticed) in again.iter().zip(ask_all(&bench, lab, &again)) {
            let answered = matches!(noticed, Noticed::Answer(_));
            assert!(answered, "{}, {}: {noticed:?} with {document}", lab.name, asking.probe.name);
        }
        assert_eq!(api.broken().expect("the daemon answers"), [], "{}, {}", lab.name, step.name);
    }
    mended
}

#[test]
fn every_lab_s_broken_flow_is_diagnosed_live_and_its_fix_mends_it() {
    let labs = file::all().expect("labs");
    let labs: Vec<_> = labs.iter().filter(|lab| possible(lab).is_ok()).collect();
    let only = std::env::var("NACLD_LAB").ok();
    let labs = labs.into_iter().filter(|lab| only.as_ref().is_none_or(|only| *only == lab.name));
    let queue = Mutex::new(labs.collect::<VecDeque<_>>());
    let told = Mutex::new(Vec::new());
    thread::scope(|scope| {
        // They wait most of the time.
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(lab) = { queue.lock().expect("the queue").pop_front() } {
                    let mended = diagnose(lab);
                    told.lock().expect("the list").push((lab.name.clone(), mended));
                }
            });
        }
    });
    let told = told.into_inner().expect("the list");
    let broken = told.iter().filter(|(_, mended)| *mended > 0).count();
    assert!(only.is_some() || broken >= 14, "{told:?}");
}
