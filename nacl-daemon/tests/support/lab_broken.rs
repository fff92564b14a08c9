//! What must be said of a lab's broken flows, by the lab's own data: no policy is asked. And how a person puts a fix into a policy.

use std::collections::BTreeSet;

use nacl_common::Direction;
use nacl_daemon::{
    compile::Decider,
    lab::{Lab, Outcome, expect::Decision, file::Probe, legs::Passage},
    observe::BrokenReturn,
    resolve::Mode,
};
use toml_edit::{Array, DocumentMut, Item, Value};

/// A broken return as a lab has it: the host behind the hook, which way its requests go, the rules of requests and replies, and the one of a
/// router's message that packets are too big.
pub type Said = (String, Direction, Decider, Decider, Option<Decider>);

/// Which rule of a crossing is named: of two that let a packet pass, the network ACL's.
fn names(by: &Decision) -> Decider {
    let nacl = by.0.iter().find(|decider| matches!(decider, Decider::Nacl { .. } | Decider::NaclImplied { .. }));
    nacl.or(by.0.last()).expect("a crossing has a rule").clone()
}

/// What must be said of a probe: its replies die where the lab says so, or what its client goes on to send, or what a router has to say.
pub fn broken(lab: &Lab, probe: &Probe) -> Option<Said> {
    let expected = probe.expected(Mode::Stateless);
    let (passages, path) = match expected.outcome {
        Outcome::Cut => (lab.passages_after(probe), &expected.after),
        outcome => (lab.passages(probe, outcome), &expected.path),
    };
    let (dies, at) = match expected.outcome {
        // From some ports.
        Outcome::Answered => {
            let otherwise = expected.otherwise.as_ref()?;
            (otherwise, passages.iter().position(|passage| passage.reply && passage.hook == otherwise.hook)?)
        }
        Outcome::RequestDropped => return None,
        // No packet of its own is dropped: what the router says of their size is.
        Outcome::Stalled if path.len() == passages.len() => {
            let error = expected.icmp_error.as_ref()?;
            let of = |way: bool| {
                let mut crossings = passages.iter().zip(path);
                crossings.find(|(passage, _)| passage.hook == error.hook && passage.reply == way).expect("both pass")
            };
            let ((request, asked), (_, answered)) = (of(false), of(true));
            let denied = error.by.0.last().expect("what denies it").clone();
            return Some((error.hook.clone(), request.direction, names(&asked.by), names(&answered.by), Some(denied)));
        }
        _ => (path.last()?, path.len() - 1),
    };
    let Passage { connection, reply, hook, direction } = passages[at];
    if !reply && expected.outcome != Outcome::Cut {
        return None;
    }
    let other = Passage { connection, reply: !reply, hook, direction: direction.reverse() };
    let passes = passages.iter().zip(path).find(|(passage, _)| **passage == other).expect("what passes").1;
    let (passes, denies) = (names(&passes.by), dies.by.0.last().expect("what denies it").clone());
    let (request, reply, began) =
        if reply { (passes, denies, direction.reverse()) } else { (denies, passes, direction) };
    Some((hook.to_owned(), began, request, reply, None))
}

/// What a daemon has said.
pub fn said(broken: &[BrokenReturn]) -> BTreeSet<Said> {
    let one = |broken: &BrokenReturn| {
        let BrokenReturn { interface, began, request, reply, message, .. } = broken;
        let message = message.as_ref().map(|message| message.decided_by.clone());
        (interface.clone(), *began, request.decided_by.clone(), reply.decided_by.clone(), message)
    };
    broken.iter().map(one).collect()
}

/// Puts a fix into a policy, as a person does who reads it.
pub fn mend(document: &mut DocumentMut, broken: &BrokenReturn) {
    let rules = broken.fix.as_ref().unwrap_or_else(|| panic!("no fix: {}", broken.says));
    for remedy in rules {
        let (kind, name) = match (&remedy.nacl, &remedy.group) {
            (Some(nacl), _) => ("nacl", nacl),
            (None, group) => ("security_group", group.as_ref().expect("a table")),
        };
        let rule: DocumentMut = format!("rule = {}", remedy.rule).parse().expect("a rule as one writes it");
        let rule = rule["rule"].as_value().expect("a value").clone();
        let list = document[kind][name.as_str()].as_table_like_mut().expect("the table").entry(remedy.direction.name());
        let list = list.or_insert(Item::Value(Value::Array(Array::new())));
        list.as_array_mut().expect("a list").push(rule);
    }
}
