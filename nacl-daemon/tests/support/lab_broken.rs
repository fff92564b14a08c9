//! What must be said of a lab's broken flows, by the lab's own data: no policy is asked.

use std::collections::BTreeSet;

use nacl_common::Direction;
use nacl_daemon::{
    compile::Decider,
    lab::{Lab, Outcome, expect::Decision, file::Probe, legs::Passage},
    observe::BrokenReturn,
    resolve::Mode,
};

/// A broken return as a lab has it: the host behind the hook, which way its requests go, and the two rules.
pub type Said = (String, Direction, Decider, Decider);

/// Which rule of a crossing is named: of two that let a packet pass, the network ACL's.
fn names(by: &Decision) -> Decider {
    let nacl = by.0.iter().find(|decider| matches!(decider, Decider::Nacl { .. } | Decider::NaclImplied { .. }));
    nacl.or(by.0.last()).expect("a crossing has a rule").clone()
}

/// What must be said of a probe: its replies die where the lab says so, or what its client goes on to send.
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
        // Nothing the hooks judge ends it: what the router says of its size does.
        Outcome::Stalled if path.len() == passages.len() => return None,
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
    Some((hook.to_owned(), began, request, reply))
}

/// What a daemon has said.
pub fn said(broken: &[BrokenReturn]) -> BTreeSet<Said> {
    let one = |broken: &BrokenReturn| {
        (broken.interface.clone(), broken.began, broken.request.decided_by.clone(), broken.reply.decided_by.clone())
    };
    broken.iter().map(one).collect()
}
