//! What is told of probes whose replies died, and of downloads that were cut or met a link too narrow: what a daemon tells of the same
//! packets, by the same code (`service::broken`). Only of what was seen; nothing is expected here.

use std::time::SystemTime;

use nacl_common::Direction;

use super::{
    Lab, Outcome,
    expect::Crossing,
    file::{Enforced, Policy, Probe, Stage},
    legs::Passage,
    outcome::{Observation, ProbeReport},
    paper,
};
use crate::{
    analyze::address,
    compile::Decider,
    observe::{
        BrokenReturn, Place,
        broken::{Kind, Pair, TooBig},
    },
    service::{
        broken::{Book, Scene},
        rfc3339,
    },
};

/// Of all probes of a stage, each kind of client, service and pair of rules once.
pub(super) fn broken(lab: &Lab, stage: &Stage<'_>, reports: &[ProbeReport]) -> Vec<BrokenReturn> {
    let mut book = Book::default();
    for (probe, report) in stage.probes.iter().zip(reports) {
        for case in &report.cases {
            // A download is cut by what was put in force under it.
            let policy = if case.seen.after.is_empty() { &stage.policy } else { stage.last() };
            tell(&mut book, lab, policy, probe, case.source_port, &case.seen);
        }
    }
    book.list(None)
}

/// Of one probe. `source_port`: 0 where it is not known.
pub(super) fn broken_of(
    lab: &Lab,
    policy: &Policy,
    probe: &Probe,
    source_port: u16,
    seen: &Observation,
) -> Vec<BrokenReturn> {
    let mut book = Book::default();
    tell(&mut book, lab, policy, probe, source_port, seen);
    book.list(None)
}

fn tell(book: &mut Book, lab: &Lab, policy: &Policy, probe: &Probe, source_port: u16, seen: &Observation) {
    let Some((hook, pair)) = pair(lab, probe, source_port, seen) else { return };
    let Enforced { interface, compiled } = policy.at(hook).clone();
    let place = Place { interface: hook.into(), device: hook.into(), netns: None };
    let scene = Scene { place, interface, compiled, epoch: 0 };
    if let Some(found) = scene.explain(&pair, rfc3339(SystemTime::now()))
        && !book.count(&found)
    {
        book.enter(scene.complete(found));
    }
}

/// The two packets that belong together, and the hook that let the one pass and not the other.
fn pair<'l>(lab: &'l Lab, probe: &'l Probe, source_port: u16, seen: &Observation) -> Option<(&'l str, Pair)> {
    let Broken { hook, direction, connection, reply, kind } = what(lab, probe, seen)?;
    let asked = lab.connections(probe)[connection];
    // Which port a relay took is not in a report: one that its system may pick.
    let known = connection == 0 && source_port != 0;
    let port = if known { source_port } else { lab.host(asked.from).os.ports().0 };
    let flow = paper::flow(lab, probe, asked, port);
    let began = if reply { direction.reverse() } else { direction };
    Some((hook, Pair { began, flow, time: 0, enforced: true, kind }))
}

/// What ends a probe at a hook: a packet of one of its connections, or what a router says of one.
struct Broken<'l> {
    hook: &'l str,
    /// Which way the packet went.
    direction: Direction,
    connection: usize,
    /// It went to who asks.
    reply: bool,
    kind: Kind,
}

fn what<'l>(lab: &'l Lab, probe: &'l Probe, seen: &Observation) -> Option<Broken<'l>> {
    let (passages, path) = match seen.outcome {
        Outcome::Cut => (lab.passages_after(probe), &seen.after),
        Outcome::ReplyDropped | Outcome::Stalled => (lab.passages(probe, seen.outcome), &seen.path),
        Outcome::Answered | Outcome::RequestDropped => return None,
    };
    if seen.outcome == Outcome::Stalled && path.len() == passages.len() {
        // Every crossing was passed: what a router said of the page's size was not.
        seen.icmp_error.as_ref()?;
        let message = paper::too_big(lab, probe);
        let Passage { connection, reply, hook, direction } =
            *passages.iter().find(|passage| passage.reply && passage.hook == probe.to)?;
        let mtu = lab.host(&probe.from).path_mtu.and_then(|mtu| u16::try_from(mtu).ok());
        let kind = Kind::TooBig(TooBig { sent: direction, router: address(message.family, message.src), mtu });
        return Some(Broken { hook, direction, connection, reply, kind });
    }
    let Passage { connection, reply, hook, direction } = *passages.get(path.len().checked_sub(1)?)?;
    let cut = seen.outcome == Outcome::Cut && !reply;
    if !reply && !cut {
        return None;
    }
    let remembers = |crossing: &Crossing| crossing.by.0.iter().any(|by| matches!(by, Decider::Tracked { .. }));
    let tracked = seen.after.iter().any(|crossing| crossing.hook == hook && remembers(crossing));
    let kind = if cut { Kind::Cut { tracked } } else { Kind::Reply };
    Some(Broken { hook, direction, connection, reply, kind })
}
