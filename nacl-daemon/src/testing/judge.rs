//! Tests held against the engine in this process, or against the program loaded into the kernel.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Instant,
};

use nacl_common::{Action, Direction, Packet, Verdict};

use super::{
    Done, Example, Failure, Result as Outcome_, Run, Seen, TestError,
    file::{By, ClientPorts, Expect, Suite, Test},
    flows::{Asked, CELLS, Cell, Judges, Plan, Site, Sites},
    name, wire,
};
use crate::{
    analyze::{
        self, Outcome,
        path::{self, Ends},
    },
    compile::Decider,
    dataplane::{Events, Options, TestBed},
    lab::Level,
    resolve::{Layers, Resolved},
};

/// Runs the planned tests of a suite. `told` hears of each when it is done.
///
/// # Errors
/// See [`TestError`]. An expectation that does not hold is no error.
pub fn run(
    policy: &Resolved,
    suite: &Suite,
    plans: &[Plan],
    level: Level,
    mut told: impl FnMut(&Test, &Done),
) -> Result<Run, TestError> {
    let sites = Sites::new(policy);
    let mut beds = Beds::default();
    let mut done = Vec::with_capacity(plans.len());
    for plan in plans {
        let test = &suite.tests[plan.index];
        let start = Instant::now();
        let result = match (&plan.undefined, level) {
            (Some(what), _) => Outcome_::Skipped(what.clone()),
            (None, Level::Host) => held_against(&sites, plan, test, &mut Engines)?,
            (None, Level::Kernel) => held_against(&sites, plan, test, &mut beds)?,
            (None, Level::Wire) => wire::run(&sites, plan, test)?,
        };
        let one = Done { index: plan.index, result, time: start.elapsed() };
        told(test, &one);
        done.push(one);
    }
    Ok(Run { level, done })
}

/// Who judges.
trait Judge {
    /// Forgets what is remembered at a place.
    fn forget(&mut self, site: &Rc<Site>) -> Result<(), TestError>;

    /// Judges a packet there.
    fn judge(&mut self, site: &Rc<Site>, direction: Direction, packet: &Packet) -> Result<Verdict, TestError>;
}

/// The engine of each place.
struct Engines;

impl Judge for Engines {
    fn forget(&mut self, site: &Rc<Site>) -> Result<(), TestError> {
        site.engine.borrow_mut().forget();
        Ok(())
    }

    fn judge(&mut self, site: &Rc<Site>, direction: Direction, packet: &Packet) -> Result<Verdict, TestError> {
        Ok(site.engine.borrow_mut().judge(direction, packet))
    }
}

/// The loaded programs of each place; the engine beside them has to say the same.
#[derive(Default)]
struct Beds {
    beds: HashMap<*const Site, TestBed>,
    disagreement: Option<String>,
}

impl Beds {
    fn bed(&mut self, site: &Rc<Site>) -> Result<&mut TestBed, TestError> {
        use std::collections::hash_map::Entry;
        Ok(match self.beds.entry(Rc::as_ptr(site)) {
            Entry::Occupied(bed) => bed.into_mut(),
            Entry::Vacant(place) => {
                let options = Options { events: Events::None, flow_log: None, ..Options::from(&site.interface) };
                place.insert(TestBed::load(&options, &site.compiled)?)
            }
        })
    }
}

impl Judge for Beds {
    fn forget(&mut self, site: &Rc<Site>) -> Result<(), TestError> {
        Engines.forget(site)?;
        Ok(self.bed(site)?.forget()?)
    }

    fn judge(&mut self, site: &Rc<Site>, direction: Direction, packet: &Packet) -> Result<Verdict, TestError> {
        let verdict = self.bed(site)?.judge(direction, packet)?;
        let expected = Engines.judge(site, direction, packet)?;
        if (verdict.action, verdict.slot, verdict.also) != (expected.action, expected.slot, expected.also) {
            self.disagreement = Some(format!("the kernel says {verdict:?} and the engine {expected:?}"));
        }
        Ok(verdict)
    }
}

/// What became of one flow, and what decided at which end: of what is denied that which denies it, else all that let it pass.
pub(super) struct Followed {
    pub outcome: Outcome,
    pub by: Vec<(usize, Decider)>,
}

/// As numbers, because what they mean is seldom asked.
struct Judged {
    outcome: Outcome,
    verdicts: Vec<(usize, Verdict)>,
}

impl Judged {
    fn told(&self, judges: &Judges) -> Followed {
        let mut by = Vec::new();
        for (at, verdict) in &self.verdicts {
            let Some(site) = &judges[*at] else { continue };
            let slots = &site.compiled.slots;
            if verdict.action == Action::Deny {
                by.push((*at, slots.decider(verdict.slot, verdict.reason)));
            } else {
                by.extend(slots.deciders(verdict).into_iter().map(|decider| (*at, decider)));
            }
        }
        Followed { outcome: self.outcome, by }
    }
}

/// Sends request and reply of a flow past its judges.
fn follow(judge: &mut impl Judge, cell: &Cell<'_>) -> Result<Judged, TestError> {
    let mut verdicts = Vec::new();
    for site in cell.judges.iter().flatten() {
        judge.forget(site)?;
    }
    // Ends of one family were planned, and of a protocol that packets have.
    let (Ok(request), Ok(reply)) = (cell.flow.request(), cell.flow.reply()) else {
        return Ok(Judged { outcome: Outcome::RequestDenied, verdicts });
    };
    let there = [(0, Direction::Outbound), (1, Direction::Inbound)];
    let back = [(1, Direction::Outbound), (0, Direction::Inbound)];
    for (packet, way, end) in [(Some(request), there, Outcome::RequestDenied), (reply, back, Outcome::ReplyDenied)] {
        let Some(packet) = packet else { continue };
        for (at, direction) in way {
            let Some(site) = &cell.judges[at] else { continue };
            let verdict = judge.judge(site, direction, &packet)?;
            if verdict.action == Action::Deny {
                return Ok(Judged { outcome: end, verdicts: vec![(at, verdict)] });
            }
            verdicts.push((at, verdict));
        }
    }
    Ok(Judged { outcome: Outcome::Works, verdicts })
}

impl Expect {
    /// Whether a flow has to end like this.
    pub(super) const fn is(self, outcome: Outcome) -> bool {
        matches!(
            (self, outcome),
            (Self::Allowed, Outcome::Works)
                | (Self::Denied, Outcome::RequestDenied)
                | (Self::ReplyDenied, Outcome::ReplyDenied)
        )
    }
}

impl By {
    fn is(&self, nacl: Option<&str>, decider: &Decider) -> bool {
        let implied = matches!(decider, Decider::NaclImplied { .. } | Decider::GroupImplied { .. });
        self.decider.as_ref().map_or(implied, |own| own == decider)
            && self.nacl.as_deref().is_none_or(|own| Some(own) == nacl)
    }
}

/// Whether a flow ended as a test says, and by what it says.
pub(super) fn as_expected(test: &Test, judges: &Judges, followed: &Followed) -> bool {
    let nacl = |at: usize| judges[at].as_ref().map(|site| site.interface.nacl.name.as_str());
    test.expect.is(followed.outcome)
        && test.by.iter().all(|by| followed.by.iter().any(|(at, decider)| by.is(nacl(*at), decider)))
}

fn held_against<J: Judge + Disagrees>(
    sites: &Sites<'_>,
    plan: &Plan,
    test: &Test,
    judge: &mut J,
) -> Result<Outcome_, TestError> {
    let mut held = true;
    let cells = sites.cells(plan, test, |cell| {
        let judged = follow(judge, cell)?;
        // What decided is looked up only where it is asked for.
        held &= test.expect.is(judged.outcome)
            && (test.by.is_empty() || as_expected(test, cell.judges, &judged.told(cell.judges)));
        Ok(held)
    })?;
    if let Some(message) = judge.disagrees() {
        return Ok(Outcome_::Failed(Box::new(Failure { message, seen: Vec::new(), example: None })));
    }
    if cells.is_none() {
        let message = format!("more than {CELLS} kinds of flows are to be looked at: name fewer addresses or ports");
        return Ok(Outcome_::Failed(Box::new(Failure { message, seen: Vec::new(), example: None })));
    }
    if held {
        return Ok(Outcome_::Held);
    }
    let mut report = Report::default();
    sites.cells(plan, test, |cell| {
        report.add(test, cell, &follow(judge, cell)?.told(cell.judges));
        Ok(true)
    })?;
    Ok(Outcome_::Failed(Box::new(report.failure(sites, plan, test))))
}

/// Whether a judge was found to be wrong.
trait Disagrees {
    fn disagrees(&mut self) -> Option<String>;
}

impl Disagrees for Engines {
    fn disagrees(&mut self) -> Option<String> {
        None
    }
}

impl Disagrees for Beds {
    fn disagrees(&mut self) -> Option<String> {
        self.disagreement.take()
    }
}

/// What is told of flows that end alike.
#[derive(Default)]
struct Ended {
    client: Vec<(u16, u16)>,
    service: Vec<(u16, u16)>,
    example: Option<analyze::Flow>,
}

/// Everything that is seen of a test.
#[derive(Default)]
pub(super) struct Report {
    ended: BTreeMap<(bool, u8, Vec<String>), Ended>,
}

impl Report {
    pub fn add(&mut self, test: &Test, cell: &Cell<'_>, followed: &Followed) {
        let expected = as_expected(test, cell.judges, followed);
        let order = match followed.outcome {
            Outcome::RequestDenied => 0,
            Outcome::ReplyDenied => 1,
            Outcome::Works => 2,
        };
        let sites = cell.judges.iter().flatten().count();
        let by = followed.by.iter().map(|(at, decider)| match &cell.judges[*at] {
            // Along a way lists of several network ACLs are met.
            Some(site) if sites > 1 && matches!(decider, Decider::Nacl { .. } | Decider::NaclImplied { .. }) => {
                format!("nacl {} {decider}", site.interface.nacl.name)
            }
            _ => decider.to_string(),
        });
        let ended = self.ended.entry((expected, order, by.collect())).or_default();
        if cell.flow.has_ports() {
            ended.client.push(cell.client);
            ended.service.push(cell.service);
        }
        ended.example.get_or_insert(cell.flow);
    }

    pub fn failure(self, sites: &Sites<'_>, plan: &Plan, test: &Test) -> Failure {
        let mut seen = Vec::new();
        let mut shown = None;
        for ((expected, order, by), ended) in self.ended {
            let outcome = [Outcome::RequestDenied, Outcome::ReplyDenied, Outcome::Works][usize::from(order)];
            if !expected && shown.is_none() {
                shown = ended.example;
            }
            seen.push(Seen {
                outcome,
                by,
                expected,
                client_ports: joined(ended.client),
                ports: joined(ended.service),
                example: ended.example.map(|flow| in_words(&flow)).unwrap_or_default(),
            });
        }
        let example = shown.and_then(|flow| explained(sites.policy, plan, test, flow));
        Failure { message: message(test, &seen), seen, example }
    }
}

fn in_words(flow: &analyze::Flow) -> String {
    flow.request().map(|packet| crate::report::explain::flow_line(&packet)).unwrap_or_default()
}

fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// What is wrong, in one sentence.
fn message(test: &Test, seen: &[Seen]) -> String {
    let expected = test.expect.name();
    let by: Vec<&str> = test.by.iter().map(|by| by.text.as_str()).collect();
    let by = if by.is_empty() { String::new() } else { format!(" by {}", by.join(", ")) };
    let all = seen.iter().all(|seen| !seen.expected);
    let Some(first) = seen.iter().find(|seen| !seen.expected) else { return format!("expected {expected}{by}") };
    let decided = if first.by.is_empty() { String::new() } else { format!(" by {}", first.by.join(", ")) };
    let which = match (all, first.client_ports.as_slice()) {
        (true, _) | (_, []) => String::new(),
        (false, ranges) => format!(" from client ports {}", in_ranges(ranges)),
    };
    let kind = match test.client {
        ClientPorts::Kind(client) if !which.is_empty() => format!(" of {}", client.title()),
        _ => String::new(),
    };
    format!("expected {expected}{by}, and it is {}{decided}{which}{kind}", name(first.outcome))
}

/// `22, 1024-65535`; of many the first ones.
pub(crate) fn in_ranges(ranges: &[(u16, u16)]) -> String {
    const SHOWN: usize = 6;
    let one = |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let text: Vec<_> = ranges.iter().take(SHOWN).map(one).collect();
    let more = if ranges.len() > SHOWN { format!(" and {} more", ranges.len() - SHOWN) } else { String::new() };
    format!("{}{more}", text.join(", "))
}

/// A flow explained where the test asks.
fn explained(policy: &Resolved, plan: &Plan, test: &Test, flow: analyze::Flow) -> Option<Example> {
    let client = test.client.kind();
    match &plan.asked {
        Asked::At(place, direction) => {
            let sites = Sites::new(policy);
            let mut found = None;
            // The place with the settings of the test.
            let _ = sites.cells(plan, test, |cell| {
                found = cell.judges.iter().flatten().next().cloned();
                Ok(false)
            });
            let site = found?;
            let mut engine = crate::engine::Engine::new(&site.interface, &site.compiled);
            let judge = |way, packet: &Packet| Ok::<_, std::convert::Infallible>(engine.judge(way, packet));
            let explanation =
                analyze::explain(&site.interface, &site.compiled, judge, flow, Some(*direction), client).ok()?;
            Some(Example::At(place.clone(), Box::new(site.interface.clone()), Box::new(explanation)))
        }
        Asked::Way => {
            let mut ends = Ends::of(policy, &flow).ok()?;
            if let Some(layers) = test.layers.filter(|layers| *layers != Layers::Both) {
                ends.set_layers(layers);
            }
            let path = path::walk(ends, flow, test.mode, client, path::engine).ok()?;
            Some(Example::Way(Box::new(path)))
        }
    }
}
