//! Labs on the wire: real clients and servers in namespaces, the programs attached to the router's side of the server's link.
//!
//! Nothing is assumed. How a probe ended is what the client noticed and what taps in both hosts saw; which rule decided is
//! what the program reported and counted; and every counter must have moved by exactly the packets that the taps saw sent,
//! judged by the engine: a packet counted to a wrong rule, or one too many, fails the step. What is dropped was answered before
//! with nothing attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, thread,
    time::{Duration, Instant},
};

use nacl_common::{Action, Direction, Event, Family, Packet, Reason};
use thiserror::Error;

use super::{
    Lab, LabError, LabReport, Level, Outcome,
    ask::{Noticed, Question, ask},
    expect::{Crossing, Decision},
    file::{Policy, Probe, ProbeProtocol, SourcePorts, Stage},
    kernel::options,
    net::{Net, NetError, Style},
    outcome::{Case, Counted, Observation, RuleCount, StepReport, compare, source_ports},
    paper::{self, Engine, Judge},
    serve::Services,
    tap::{Sight, Tap},
};
use crate::{
    analyze::number,
    compile::{Compiled, SlotTable},
    dataplane::{self, Attachment, Counters, DataplaneError, Events, Target, attach},
    resolve::Mode,
};

/// How long a client waits for what must come.
const LONG: Duration = Duration::from_secs(5);

/// How long it waits for what must not come: less than the second after which TCP tries again.
const SHORT: Duration = Duration::from_millis(600);

/// How long it waits for a download that is to stall behind its handshake: long enough for TCP to try a lost SYN again, which
/// about one run in five of L18 needs. Counters of downloads are held to "at least", so that a further try does not matter.
const STALL: Duration = Duration::from_millis(2500);

/// A lab that cannot be run on the wire.
#[derive(Debug, Error)]
pub enum WireError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Namespaces and links.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The kernel.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// A socket.
    #[error("{what}: {source}")]
    Socket {
        /// What for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// This machine, process or binary cannot attach at all.
    #[error("{}", .0.join("\n"))]
    Lacks(Vec<String>),
    /// It has no form at this level.
    #[error("lab {lab} has no wire form: {why}")]
    NoForm {
        /// Lab.
        lab: String,
        /// Why.
        why: String,
    },
}

pub(super) fn socket(what: &'static str) -> impl FnOnce(io::Error) -> WireError {
    move |source| WireError::Socket { what, source }
}

/// Whether a lab can be put on a wire here, before anything is built.
///
/// # Errors
/// [`WireError::NoForm`] or [`WireError::Lacks`].
pub fn possible(lab: &Lab) -> Result<(), WireError> {
    if let Some(why) = &lab.without_wire {
        return Err(WireError::NoForm { lab: lab.name.clone(), why: why.clone() });
    }
    match dataplane::missing() {
        lacking if lacking.is_empty() => Ok(()),
        lacking => Err(WireError::Lacks(lacking)),
    }
}

/// How closely a step is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrutiny {
    /// Nobody else sends: every counter must be explained to the packet.
    Exact,
    /// Somebody sits in the lab and may send too: only the probes themselves are looked at.
    Probes,
}

/// A lab's network with everything in it, and perhaps a policy attached.
pub struct Bench<'a> {
    lab: &'a Lab,
    // Dropped in this order: programs, services, then the namespaces.
    hook: Option<(Attachment, Policy)>,
    services: Services,
    net: Net,
}

/// One case of a probe on its way.
struct Asked<'a> {
    probe: &'a Probe,
    noticed: Noticed,
    port: u16,
}

impl<'a> Bench<'a> {
    /// Builds the network and starts the services. Nothing is attached.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn build(lab: &'a Lab, style: Style) -> Result<Self, WireError> {
        possible(lab)?;
        let net = Net::build(lab, style)?;
        let services = Services::start(lab, &net).map_err(socket("starting the services"))?;
        Ok(Self { lab, hook: None, services, net })
    }

    /// The network.
    pub const fn net(&self) -> &Net {
        &self.net
    }

    /// What is attached, and the policy in force.
    pub const fn hook(&mut self) -> Option<&mut (Attachment, Policy)> {
        self.hook.as_mut()
    }

    /// The policy in force, whose slots the next one continues.
    pub fn policy(&self) -> Option<&Policy> {
        self.hook.as_ref().map(|(_, policy)| policy)
    }

    /// Attaches the first policy; later ones replace it live.
    ///
    /// # Errors
    /// The kernel refuses. What was in force stays in force.
    pub fn install(&mut self, policy: &Policy, events: Events) -> Result<(), WireError> {
        let enforced = policy.at(&self.lab.hooks[0]);
        let options = options(&enforced.interface, events);
        if let Some((attachment, in_force)) = &mut self.hook {
            attachment.install(&options, &enforced.compiled)?;
            *in_force = policy.clone();
        } else {
            let target = Target { name: self.lab.hooks[0].clone(), netns: Some(self.net.router().into()) };
            self.hook = Some((attach(&target, &options, &enforced.compiled)?, policy.clone()));
        }
        Ok(())
    }

    /// Makes hosts and services as if nothing had happened: half-open connections and learned path MTUs are gone.
    ///
    /// # Errors
    /// A service cannot be started again.
    pub fn refresh(&mut self) -> Result<(), WireError> {
        // The old runtime closes its sockets when it is replaced, and two listeners do not share a port.
        self.services = Services::none();
        self.net.forget_paths()?;
        self.services = Services::start(self.lab, &self.net).map_err(socket("starting the services"))?;
        Ok(())
    }

    /// Runs probes with whatever is attached, all at once: each has its own ports, so their packets are told apart.
    fn ask(&self, cases: &[(&'a Probe, u16, Duration)]) -> Result<Vec<Asked<'a>>, WireError> {
        let results = thread::scope(|scope| {
            let started: Vec<_> = cases
                .iter()
                .map(|&(probe, source_port, patience)| {
                    let (from, to) = self.lab.ends(probe, self.lab.connections(probe)[0]);
                    let namespace = self.net.namespace(&probe.from);
                    let to = (to, probe.port).into();
                    let question = Question { protocol: probe.protocol, from, source_port, to, patience };
                    (probe, scope.spawn(move || ask(namespace, &question)))
                })
                .collect();
            started
                .into_iter()
                .map(|(probe, thread)| {
                    let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    result.map(|(noticed, port)| Asked { probe, noticed, port })
                })
                .collect::<io::Result<Vec<_>>>()
        });
        results.map_err(socket("asking"))
    }

    /// Which of the cases are answered with nothing attached.
    fn control(&self, cases: &[(&'a Probe, u16, Duration)]) -> Result<Vec<bool>, WireError> {
        let patient: Vec<_> = cases.iter().map(|&(probe, port, _)| (probe, port, LONG)).collect();
        Ok(self.ask(&patient)?.into_iter().map(|asked| matches!(asked.noticed, Noticed::Answer(_))).collect())
    }

    /// The cases of a step's probes under a policy. How long a client waits is taken from what the engine expects, and
    /// decides nothing: an answer that must not come is seen before the time is over, one that must come has long.
    fn cases(&self, probes: &'a [Probe], policy: &Policy) -> Vec<(&'a Probe, u16, Duration)> {
        let mut engine = Engine::default();
        let stage = Stage { name: "", probes: &[], policy: policy.clone(), during: None };
        let Ok(()) = engine.install(policy);
        let mut cases = Vec::new();
        for probe in probes {
            let ports = match (&probe.source_ports, probe.protocol) {
                (SourcePorts::Any, _) | (_, ProbeProtocol::Icmp) => vec![0],
                _ => source_ports(self.lab, probe, policy),
            };
            for port in ports {
                let representative = if port == 0 { self.lab.host(&probe.from).os.ports().0 } else { port };
                let Ok(seen) = paper::follow(self.lab, probe, [representative, 0], &stage, &mut engine);
                let answered = seen.outcome == Outcome::Answered;
                let silent = if probe.download { STALL } else { SHORT };
                cases.push((probe, port, if answered { LONG } else { silent }));
            }
        }
        cases
    }

    /// Runs probes under the policy in force and says what was seen. `controls`: of each case, whether it was answered
    /// with nothing attached.
    ///
    /// # Errors
    /// A socket, a counter or a tap cannot be read.
    ///
    /// # Panics
    /// When nothing is attached.
    pub fn step(
        &mut self,
        name: &str,
        probes: &'a [Probe],
        mode: Mode,
        controls: Option<&[bool]>,
        scrutiny: Scrutiny,
    ) -> Result<StepReport, WireError> {
        let (_, policy) = self.hook.as_ref().expect("a policy is attached before its probes are run");
        let policy = policy.clone();
        let cases = self.cases(probes, &policy);
        let taps = self.taps()?;
        let before = self.start_counting()?;
        let asked = self.ask(&cases)?;
        let seen = Seen {
            lab: self.lab,
            compiled: &policy.at(&self.lab.hooks[0]).compiled,
            sights: taps
                .iter()
                .map(|(host, tap)| Ok((host.as_str(), tap.take()?)))
                .collect::<io::Result<_>>()
                .map_err(socket("reading a tap"))?,
            events: self.events(),
            before,
            after: self.counters()?,
        };
        let mut problems = Vec::new();
        let mut by_probe: BTreeMap<usize, Vec<Case>> = BTreeMap::new();
        for (index, asked) in asked.iter().enumerate() {
            let (observation, mut found) = seen.observe(asked);
            problems.append(&mut found);
            let of = probes.iter().position(|probe| std::ptr::eq(probe, asked.probe)).unwrap_or_default();
            by_probe.entry(of).or_default().push(Case {
                source_port: asked.port,
                expected: match scrutiny {
                    Scrutiny::Exact => asked.probe.expected(mode).for_port(&observation),
                    // Whoever sits in the lab may number rules as they like.
                    Scrutiny::Probes if asked.probe.expected(mode).outcome == observation.outcome => {
                        observation.clone()
                    }
                    Scrutiny::Probes => {
                        Observation { outcome: asked.probe.expected(mode).outcome, ..Observation::default() }
                    }
                },
                seen: observation,
                control: controls.map(|controls| controls.get(index).copied().unwrap_or(false)),
            });
        }
        let counters = match scrutiny {
            Scrutiny::Exact => seen.check_counters(probes, &mut problems),
            Scrutiny::Probes => Vec::new(),
        };
        let probes = probes
            .iter()
            .enumerate()
            .map(|(index, probe)| {
                let cases = by_probe.remove(&index).unwrap_or_default();
                compare(self.lab, probe, mode, &policy, cases, Counted::ByStretch)
            })
            .collect();
        Ok(StepReport { name: name.into(), probes, problems, counters })
    }

    /// Runs one TCP probe and tells of its handshake as it happens: at most 20 ms late, so that a person can watch.
    ///
    /// # Errors
    /// A socket, a counter or a tap cannot be read.
    ///
    /// # Panics
    /// When nothing is attached.
    pub fn watch(
        &mut self,
        probe: &'a Probe,
        patience: Duration,
        mut tell: impl FnMut(Happening<'_>),
    ) -> Result<(Observation, Vec<String>), WireError> {
        const LOOK: Duration = Duration::from_millis(10);
        let (_, policy) = self.hook.as_ref().expect("a policy is attached before its probes are run");
        let policy = policy.clone();
        let (from, to) = self.lab.ends(probe, self.lab.connections(probe)[0]);
        let source_port = match &probe.source_ports {
            SourcePorts::These(ports) => ports[0],
            _ => 0,
        };
        let namespace = self.net.namespace(&probe.from).to_owned();
        let question = Question { protocol: probe.protocol, from, source_port, to: (to, probe.port).into(), patience };
        let taps = self.taps()?;
        let before = self.start_counting()?;
        let mut sights: BTreeMap<&str, Vec<Sight>> = BTreeMap::new();
        let mut events = Vec::new();
        let mut start = None;
        let (noticed, port) = thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&namespace, &question));
            loop {
                let over = asking.is_finished();
                thread::sleep(LOOK);
                let mut batch = Vec::new();
                // The second look takes what was still on its way at the first.
                for _ in 0..2 {
                    for (host, tap) in &taps {
                        let seen = tap.take().map_err(socket("reading a tap"))?;
                        batch.extend(seen.iter().map(|sight| (host.as_str(), *sight)));
                        sights.entry(host).or_default().extend(seen);
                    }
                    if batch.is_empty() {
                        break;
                    }
                    thread::sleep(LOOK);
                }
                let news = self.events();
                batch.retain(|(_, sight)| is_handshake(sight.packet.tcp_flags));
                batch.sort_by_key(|(_, sight)| sight.at);
                let mut verdicts: Vec<&Event> = news.iter().filter(|event| is_handshake(event.tcp_flags)).collect();
                for (host, sight) in batch {
                    let since = sight.at.saturating_sub(*start.get_or_insert(sight.at));
                    tell(Happening::Packet { host, since, sight });
                    if let Some(at) = verdicts.iter().position(|event| sight.sent && event_is_of(event, &sight.packet))
                    {
                        tell(happening(&policy.at(&self.lab.hooks[0]).compiled.slots, verdicts.remove(at)));
                    }
                }
                events.extend(news);
                if over {
                    return asking
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                        .map_err(socket("asking"));
                }
            }
        })?;
        tell(Happening::End { noticed: &noticed });
        let after = self.counters()?;
        let seen =
            Seen { lab: self.lab, compiled: &policy.at(&self.lab.hooks[0]).compiled, sights, events, before, after };
        Ok(seen.observe(&Asked { probe, noticed, port }))
    }

    /// A tap on every host.
    pub(super) fn taps(&self) -> Result<BTreeMap<String, Tap>, WireError> {
        let taps = self.net.hosts().iter().map(|(host, namespace)| Ok((host.clone(), Tap::open(namespace)?)));
        taps.collect::<io::Result<_>>().map_err(socket("opening a tap"))
    }

    /// Throws away old events and reads the counters.
    fn start_counting(&mut self) -> Result<Counters, WireError> {
        self.events();
        self.counters()
    }

    pub(super) fn counters(&self) -> Result<Counters, WireError> {
        Ok(self.hook.as_ref().map(|(attachment, _)| attachment.counters()).transpose()?.unwrap_or_default())
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        let Some((attachment, _)) = &mut self.hook else { return Vec::new() };
        std::iter::from_fn(|| attachment.events().next()).collect()
    }
}

/// Something that happened to a probe that is watched.
#[derive(Clone, Debug)]
pub enum Happening<'a> {
    /// A host sent or received a packet of the handshake.
    Packet {
        /// The host.
        host: &'a str,
        /// Since the first.
        since: Duration,
        /// The packet.
        sight: Sight,
    },
    /// The network ACL judged the packet that was told of before.
    Verdict {
        /// What decided.
        by: Decision,
        /// It goes on.
        pass: bool,
    },
    /// The client is done.
    End {
        /// What it noticed.
        noticed: &'a Noticed,
    },
}

fn happening(slots: &SlotTable, event: &Event) -> Happening<'static> {
    let reason = Reason::from_number(event.reason).unwrap_or(Reason::NoGeneration);
    Happening::Verdict {
        by: Decision(vec![slots.decider(event.slot, reason)]),
        pass: event.action == Action::Allow as u8,
    }
}

const fn is_handshake(tcp_flags: u8) -> bool {
    const SYN: u8 = 0x02;
    tcp_flags & SYN != 0
}

/// Everything that was seen during a step.
struct Seen<'a> {
    lab: &'a Lab,
    compiled: &'a Compiled,
    sights: BTreeMap<&'a str, Vec<Sight>>,
    events: Vec<Event>,
    before: Counters,
    after: Counters,
}

impl Seen<'_> {
    /// What became of a case, and what is strange about it.
    fn observe(&self, asked: &Asked<'_>) -> (Observation, Vec<String>) {
        let probe = asked.probe;
        let mut problems = Vec::new();
        let complain = |what: String| format!("{}, port {}: {what}", probe.name, asked.port);
        let flow = paper::flow(self.lab, probe, self.lab.connections(probe)[0], asked.port);
        let (Ok(request), Ok(Some(reply))) = (flow.request(), flow.reply()) else {
            unreachable!("every protocol of a probe is answered, within one family")
        };
        let direction = direction(self.lab, probe);
        let outcome = match &asked.noticed {
            Noticed::Answer(_) => Outcome::Answered,
            Noticed::Stall => Outcome::Stalled,
            // A client cannot know which leg died. The taps do: did the request reach the other host, and did it answer?
            Noticed::Silence | Noticed::Error(_) => {
                let arrived = self.saw(&probe.to, false, &request);
                let answered = self.saw(&probe.to, true, &reply);
                if let Noticed::Error(what) = &asked.noticed {
                    problems.push(complain(format!("the client got an error, not silence: {what}")));
                } else if arrived && !answered {
                    problems.push(complain("the request arrived and was not answered".into()));
                }
                if arrived { Outcome::ReplyDropped } else { Outcome::RequestDropped }
            }
        };
        let hook = &self.lab.hooks[0];
        let mut decided = |direction, packet: &Packet| match self.decided(direction, packet) {
            Ok(by) => Crossing { hook: hook.clone(), by },
            Err(what) => {
                problems.push(complain(what));
                Crossing { hook: hook.clone(), by: Decision::default() }
            }
        };
        let mut seen = Observation { outcome, path: vec![decided(direction, &request)], ..Observation::default() };
        if outcome != Outcome::RequestDropped {
            seen.path.push(decided(direction.reverse(), &reply));
        }
        if self.lab.meets_narrow_link(probe) && matches!(outcome, Outcome::Answered | Outcome::Stalled) {
            seen.icmp_error = Some(decided(Direction::Inbound, &paper::too_big(self.lab, probe)));
        }
        (seen, problems)
    }

    /// Whether a host sent or received the first packet of a leg.
    fn saw(&self, host: &str, sent: bool, packet: &Packet) -> bool {
        self.sights
            .get(host)
            .is_some_and(|sights| sights.iter().any(|sight| sight.sent == sent && same_flow(&sight.packet, packet)))
    }

    /// The rule that the program reported for a leg.
    fn decided(&self, direction: Direction, packet: &Packet) -> Result<Decision, String> {
        let about = |event: &&Event| event.direction == direction as u8 && event_is_of(event, packet);
        let rules: BTreeSet<_> = self
            .events
            .iter()
            .filter(about)
            .map(|event| {
                let reason = Reason::from_number(event.reason).unwrap_or(Reason::NoGeneration);
                Decision(vec![self.compiled.slots.decider(event.slot, reason)])
            })
            .collect();
        match rules.len() {
            1 => Ok(rules.into_iter().next().unwrap_or_default()),
            0 if self.after.events_suppressed > self.before.events_suppressed => {
                // Events are samples. The counters, which are not, are checked against the same engine.
                let verdict = self.compiled.judge(direction, packet);
                Ok(Decision::of(&self.compiled.slots, direction, &verdict))
            }
            0 => Err(format!("the program reported no {} packet of it", direction.name())),
            _ => Err(format!("more than one rule decided its {} packets", direction.name())),
        }
    }

    /// Every counter must have moved by what the taps saw sent.
    fn check_counters(&self, probes: &[Probe], problems: &mut Vec<String>) -> Vec<RuleCount> {
        let hook = &self.lab.host(&self.lab.hooks[0]).addresses;
        let behind = |address: [u64; 2]| hook.iter().any(|network| number(network.addr()) == address);
        let mut sent: BTreeMap<u16, u64> = BTreeMap::new();
        for (host, sights) in &self.sights {
            for Sight { packet, .. } in sights.iter().filter(|sight| sight.sent) {
                let direction = match *host == self.lab.hooks[0] {
                    true => Direction::Outbound,
                    false if behind(packet.dst) => Direction::Inbound,
                    false => continue,
                };
                *sent.entry(self.compiled.judge(direction, packet).slot).or_default() += 1;
            }
        }
        // Where a large page is sent the tap sees packets before they are cut to size, and the router's ICMP is sent by no
        // host: those rules are held to "at least" and "some".
        let mut loose = BTreeSet::new();
        for probe in probes.iter().filter(|probe| probe.download) {
            let port = self.lab.host(&probe.from).os.ports().0;
            let flow = paper::flow(self.lab, probe, self.lab.connections(probe)[0], port);
            let direction = direction(self.lab, probe);
            let error = self.lab.meets_narrow_link(probe).then(|| paper::too_big(self.lab, probe));
            let legs = [
                (direction, flow.request().ok()),
                (direction.reverse(), flow.reply().ok().flatten()),
                (Direction::Inbound, error),
            ];
            for (direction, packet) in legs {
                loose.extend(packet.map(|packet| self.compiled.judge(direction, &packet).slot));
            }
        }
        let mut counts = Vec::new();
        for (slot, meaning) in &self.compiled.slots.slots {
            let packets = |counters: &Counters| counters.slots.get(slot).map_or(0, |counter| counter.packets);
            let moved = packets(&self.after) - packets(&self.before);
            let expected = sent.get(slot).copied().unwrap_or(0);
            let rule = self.compiled.slots.decider(*slot, Reason::NaclRule);
            let family = meaning.family as u8;
            let holds = if loose.contains(slot) { moved >= expected.max(1) } else { moved == expected };
            if !holds {
                problems.push(format!(
                    "{rule} (IPv{family}) counted {moved} packets, and the taps saw {expected} sent that it had to count"
                ));
            }
            if moved > 0 {
                counts.push(RuleCount { hook: self.lab.hooks[0].clone(), rule, family, packets: moved, expected });
            }
        }
        // Anything but a rule's verdict is a packet this lab cannot explain. What IPv6 needs of itself passes unjudged.
        for ((reason, direction), counter) in &self.after.reasons {
            let before = self.before.reasons.get(&(*reason, *direction)).map_or(0, |counter| counter.packets);
            let ordinary = matches!(
                reason,
                Reason::NaclRule | Reason::NaclImplicit | Reason::Arp | Reason::NeighbourDiscovery | Reason::Mld
            );
            if !ordinary && counter.packets > before {
                let packets = counter.packets - before;
                problems.push(format!("{packets} {} packets met {:?}", direction.name(), reason.name()));
            }
        }
        counts
    }
}

/// Whether two packets belong to the same leg of the same flow.
fn same_flow(one: &Packet, other: &Packet) -> bool {
    let ports = |packet: &Packet| {
        // The identifier of an echo is the system's to choose.
        let icmp = matches!((packet.protocol, packet.family), (1, Family::V4) | (58, Family::V6));
        (if icmp { 0 } else { packet.sport }, packet.dport)
    };
    (one.family, one.protocol, one.src, one.dst) == (other.family, other.protocol, other.src, other.dst)
        && ports(one) == ports(other)
}

/// Whether an event is about a packet of that leg.
fn event_is_of(event: &Event, packet: &Packet) -> bool {
    let family = match event.family {
        4 => Family::V4,
        6 => Family::V6,
        _ => return false,
    };
    let of = Packet {
        family,
        protocol: event.protocol,
        src: event.src,
        dst: event.dst,
        sport: event.sport,
        dport: event.dport,
        ident: 0,
        ..*packet
    };
    same_flow(&of, packet)
}

/// The way the request of a probe goes through the only hook.
fn direction(lab: &Lab, probe: &Probe) -> Direction {
    if lab.hooked(&probe.to) { Direction::Inbound } else { Direction::Outbound }
}

/// Runs a lab on the wire.
///
/// # Errors
/// See [`WireError`]. Whatever happens, no namespace stays behind.
pub fn run(lab: &Lab, mode: Mode) -> Result<LabReport, WireError> {
    let start = Instant::now();
    let mut bench = Bench::build(lab, Style::Measured)?;
    let plan = lab.plan(mode)?;
    let mut controls = Vec::new();
    for stage in &plan {
        controls.push(bench.control(&bench.cases(stage.probes, &stage.policy))?);
    }
    let mut steps = Vec::new();
    for (stage, controls) in plan.iter().zip(&controls) {
        bench.refresh()?;
        bench.install(&stage.policy, Events::All)?;
        steps.push(bench.step(stage.name, stage.probes, mode, Some(controls), Scrutiny::Exact)?);
    }
    Ok(LabReport::new(lab, Level::Wire, mode, start.elapsed().as_secs_f64(), steps))
}

#[cfg(test)]
mod tests {
    use nacl_common::Counter;

    use super::*;
    use crate::lab::file::{self, Settings};

    /// A SYN let in by rule 100, its SYN/ACK denied by `*`, and what counters say of it.
    fn problems(counted: &[(u16, u64)], reasons: &[Reason]) -> Vec<String> {
        let lab = file::load("l02").expect("L02");
        let compiled =
            lab.compile(&lab.policy, Settings::default(), None).expect("valid").at("server").compiled.clone();
        let probe = &lab.steps[0].probes[0];
        let flow = paper::flow(&lab, probe, lab.connections(probe)[0], 52345);
        let (request, reply) = (flow.request().expect("request"), flow.reply().expect("reply").expect("reply"));
        let sight = |sent, packet| Sight { at: Duration::ZERO, sent, packet };
        let count = |packets| Counter { packets, bytes: 0 };
        let seen = Seen {
            lab: &lab,
            compiled: &compiled,
            sights: [
                ("client", vec![sight(true, request)]),
                ("server", vec![sight(false, request), sight(true, reply)]),
            ]
            .into(),
            events: Vec::new(),
            before: Counters::default(),
            after: Counters {
                slots: counted.iter().map(|&(slot, packets)| (slot, count(packets))).collect(),
                reasons: reasons.iter().map(|&reason| ((reason, Direction::Inbound), count(1))).collect(),
                events_suppressed: 0,
            },
        };
        let mut problems = Vec::new();
        seen.check_counters(&lab.steps[0].probes, &mut problems);
        problems
    }

    #[test]
    fn every_packet_must_be_counted_by_its_rule_and_no_other() {
        let lab = file::load("l02").expect("L02");
        let slots =
            lab.compile(&lab.policy, Settings::default(), None).expect("valid").at("server").compiled.clone().slots;
        let slot = |direction, rule: Option<u16>| {
            let found = slots
                .slots
                .iter()
                .find(|(_, slot)| slot.direction == direction && slot.rule == rule && slot.family == Family::V4);
            *found.expect("a slot").0
        };
        let (rule, star) = (slot(Direction::Inbound, Some(100)), slot(Direction::Outbound, None));
        assert_eq!(problems(&[(rule, 1), (star, 1)], &[Reason::NaclRule, Reason::Mld]), Vec::<String>::new());
        for (counted, complaint) in [
            (vec![(rule, 2), (star, 1)], "inbound 100 (IPv4) counted 2 packets, and the taps saw 1"),
            (vec![(rule, 1)], "outbound * (IPv4) counted 0 packets, and the taps saw 1"),
            (vec![(rule, 1), (star, 1), (slot(Direction::Inbound, None), 1)], "inbound * (IPv4) counted 1 packets"),
        ] {
            let found = problems(&counted, &[]);
            assert!(found.len() == 1 && found[0].contains(complaint), "{found:?}");
        }
        let found = problems(&[(rule, 1), (star, 1)], &[Reason::IpMalformed]);
        assert!(found.len() == 1 && found[0].contains("ip-malformed"), "{found:?}");
    }
}
