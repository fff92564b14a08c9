//! Labs on the wire: real clients and servers in namespaces, the programs attached to the router's side of the links of the
//! hosts behind a hook.
//!
//! Nothing is assumed. How a probe ended is what the client noticed and what taps in all hosts saw; which rule decided is
//! what the programs reported and counted; and every counter must have moved by exactly the packets that the taps saw sent,
//! judged by the engine with its memory (`account`): a packet counted to a wrong rule, or one too many, fails the step.
//! What is dropped was answered before with nothing attached.

use std::{
    collections::BTreeMap,
    io, thread,
    time::{Duration, Instant, SystemTime},
};

use nacl_common::{Action, Event};
use thiserror::Error;

use super::{
    Lab, LabError, LabReport, Level, Outcome,
    account::{Account, Asked, ByHook, Changed, InForce, packet_of, same_flow, since, verdict_of},
    ask::{Gate, Noticed, Question, ask, ask_often},
    diagnose,
    expect::Decision,
    file::{Nat, Policy, Probe, ProbeProtocol, SourcePorts, Stage},
    kernel::options,
    net::{self, Net, NetError, Style},
    outcome::{Case, Counted, Observation, StepReport, compare, source_ports},
    paper::{self, Engine, Judge},
    relay::Proxy,
    serve::Services,
    tap::{Clock, Sight, Tap},
};
use crate::{
    dataplane::{self, Attachment, Counters, DataplaneError, Events, Target, Terms, attach},
    resolve::Mode,
};

/// How long a client waits for what must come.
const LONG: Duration = Duration::from_secs(5);

/// How often a control is asked, until it is answered once: the kernel brings a new link into service a moment after it is up,
/// what is sent until then is lost, and a ping or a datagram is sent only once.
const TRIES: u32 = 3;

/// How long it waits for what must not come: less than the second after which TCP tries again.
const SHORT: Duration = Duration::from_millis(600);

/// How long packets may take that were sent when the last client was done, on a machine with other things to do.
const SETTLE: Duration = Duration::from_secs(2);

/// How often somebody who waits for packets looks.
const LOOK: Duration = Duration::from_millis(10);

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
        lacking if lacking.is_empty() => Ok(net::possible(lab)?),
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
    hooks: ByHook<Attachment>,
    policy: Option<Policy>,
    /// The engine, in the state the programs must be in, and the time its clock began at.
    engine: Engine,
    zero: Duration,
    services: Services,
    proxy: Proxy,
    net: Net,
    #[expect(dead_code, reason = "held for as long as packets are to be stamped")]
    clock: Clock,
}

/// One question of a step.
struct Planned<'a> {
    probe: &'a Probe,
    /// Source port; 0: whichever comes.
    port: u16,
    patience: Duration,
    /// Place of the same question of another probe, from the same port: two connections cannot have both ends in common, so
    /// it is asked once.
    twin: Option<usize>,
    /// Whether something is to be put in force while its answer is on its way.
    gate: Option<Gate>,
}

/// What was seen during a step, in the raw.
#[derive(Default)]
struct Seen {
    sights: BTreeMap<String, Vec<Sight>>,
    events: ByHook<Vec<Event>>,
    after: ByHook<Counters>,
}

impl Seen {
    fn told(&mut self, news: ByHook<Vec<Event>>) {
        for (hook, events) in news {
            self.events.entry(hook).or_default().extend(events);
        }
    }

    /// Takes what taps have caught. Says whether there was anything.
    fn take(&mut self, taps: &BTreeMap<String, Tap>) -> Result<bool, WireError> {
        let mut some = false;
        for (host, tap) in taps {
            let sights = tap.take().map_err(socket("reading a tap"))?;
            some |= !sights.is_empty();
            self.sights.entry(host.clone()).or_default().extend(sights);
        }
        Ok(some)
    }
}

impl<'a> Bench<'a> {
    /// Builds the network and starts the services. Nothing is attached.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn build(lab: &'a Lab, style: Style) -> Result<Self, WireError> {
        Self::build_with(lab, style, Proxy::Best)
    }

    /// As [`Self::build`], choosing what plays load balancers.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn build_with(lab: &'a Lab, style: Style, proxy: Proxy) -> Result<Self, WireError> {
        possible(lab)?;
        let clock = Clock::start().map_err(socket("having packets stamped"))?;
        let net = Net::build(lab, style)?;
        let services = Services::start(lab, &net, proxy).map_err(socket("starting the services"))?;
        let (hooks, engine) = (ByHook::new(), Engine::default());
        Ok(Self { lab, hooks, policy: None, engine, zero: now(), services, proxy, net, clock })
    }

    /// The network.
    pub const fn net(&self) -> &Net {
        &self.net
    }

    /// What is attached, by the host behind the hook.
    pub const fn hooks(&self) -> &ByHook<Attachment> {
        &self.hooks
    }

    /// The policy in force, whose slots the next one continues.
    pub const fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// Attaches the first policy; later ones replace it live, at one hook after the other.
    ///
    /// # Errors
    /// The kernel refuses. What was in force stays in force.
    pub fn install(&mut self, policy: &Policy, events: Events) -> Result<(), WireError> {
        let done = self.lab.hooks.iter().try_for_each(|hook| self.install_at(hook, policy, events));
        if let Err(error) = done {
            match self.policy.clone() {
                None => self.hooks.clear(),
                // It was in force a moment ago, so the kernel takes it again; where not, the first error says more.
                Some(old) => self.lab.hooks.iter().for_each(|hook| drop(self.install_at(hook, &old, events))),
            }
            return Err(error);
        }
        if self.policy.is_none() {
            self.zero = now();
        }
        self.engine.set_time(since(self.zero, now()));
        let Ok(()) = self.engine.install(policy);
        self.policy = Some(policy.clone());
        Ok(())
    }

    fn install_at(&mut self, hook: &str, policy: &Policy, events: Events) -> Result<(), WireError> {
        let enforced = policy.at(hook);
        let options = options(&enforced.interface, events);
        if let Some(attachment) = self.hooks.get_mut(hook) {
            attachment.install(&options, &enforced.compiled, Terms::default())?;
        } else {
            let target = Target { name: hook.into(), netns: Some(self.net.router().into()) };
            self.hooks.insert(hook.into(), attach(&target, &options, &enforced.compiled)?);
        }
        Ok(())
    }

    /// Forgets every connection that is remembered.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget(&mut self) -> Result<(), WireError> {
        for attachment in self.hooks.values_mut() {
            attachment.forget(&mut |_, _| true)?;
        }
        let Ok(()) = self.engine.forget();
        Ok(())
    }

    /// Makes hosts and services as if nothing had happened: half-open connections and learned path MTUs are gone.
    ///
    /// # Errors
    /// A service cannot be started again.
    pub fn refresh(&mut self) -> Result<(), WireError> {
        // The old runtime closes its sockets when it is replaced, and two listeners do not share a port.
        self.services = Services::default();
        self.net.forget_paths()?;
        self.services = Services::start(self.lab, &self.net, self.proxy).map_err(socket("starting the services"))?;
        Ok(())
    }

    fn question<'q>(&self, planned: &'q Planned<'_>) -> Question<'q> {
        let Planned { probe, port, patience, gate, twin: _ } = planned;
        let behind = self.lab.host(&probe.from).nat.as_ref();
        let (from, to) = self.lab.ends(probe, self.lab.connections(probe)[0]);
        Question {
            protocol: probe.protocol,
            from: behind.map_or(from, |nat| nat.inside.addr()),
            source_port: *port,
            to: (to, probe.port).into(),
            patience: *patience,
            gate: gate.as_ref(),
        }
    }

    /// Runs probes with whatever is attached, all at once: each has its own ports, so their packets are told apart. `meanwhile`
    /// is called while they run.
    fn ask<'p>(
        &mut self,
        planned: &'p [Planned<'a>],
        mut meanwhile: impl FnMut(&mut Self, &dyn Fn() -> bool) -> Result<(), WireError>,
    ) -> Result<Vec<Vec<(Noticed, u16)>>, WireError> {
        let questions: Vec<(String, Question<'p>, Option<&Nat>)> = planned
            .iter()
            .map(|one| {
                let nat = self.sampled(one.probe);
                (self.net.asking(&one.probe.from).to_owned(), self.question(one), nat)
            })
            .collect();
        thread::scope(|scope| {
            let asking: Vec<_> = questions
                .iter()
                .zip(planned)
                .filter(|(_, one)| one.twin.is_none())
                .map(|((namespace, question, nat), _)| {
                    scope.spawn(move || match nat {
                        Some(nat) => {
                            let noticed = ask_often(namespace, question, nat.connections.into())?;
                            Ok(noticed.into_iter().map(|noticed| (noticed, 0)).collect())
                        }
                        None => ask(namespace, question).map(|noticed| vec![noticed]),
                    })
                })
                .collect();
            let over = || asking.iter().all(thread::ScopedJoinHandle::is_finished);
            let done = meanwhile(self, &over);
            // Whatever happened, nobody is left waiting at a gate.
            planned.iter().filter_map(|one| one.gate.as_ref()).for_each(Gate::open);
            let mut answers =
                asking.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            let mut noticed: Vec<Vec<_>> = Vec::new();
            for one in planned {
                let answer = match one.twin {
                    Some(twin) => noticed[twin].clone(),
                    None => answers.next().unwrap_or_else(|| Ok(Vec::new())).map_err(socket("asking"))?,
                };
                noticed.push(answer);
            }
            done.map(|()| noticed)
        })
    }

    /// The NAT whose ports a probe samples, if it does.
    fn sampled(&self, probe: &Probe) -> Option<&'a Nat> {
        let lab: &'a Lab = self.lab;
        lab.host(&probe.from).nat.as_ref().filter(|_| probe.source_ports == SourcePorts::All)
    }

    /// Which of the questions are answered with nothing attached; of those that are asked often, whether each time.
    fn control(&mut self, planned: Vec<Planned<'a>>) -> Result<Vec<bool>, WireError> {
        let patient: Vec<_> =
            planned.into_iter().map(|planned| Planned { patience: LONG, gate: None, ..planned }).collect();
        let answered = |(noticed, _): &(Noticed, u16)| matches!(noticed, Noticed::Answer(_));
        let mut passed = vec![false; patient.len()];
        for _ in 0..TRIES {
            let asked = self.ask(&patient, |_, _| Ok(()))?;
            for (passed, all) in passed.iter_mut().zip(&asked) {
                *passed |= all.iter().all(answered);
            }
            if passed.iter().all(|passed| *passed) {
                break;
            }
        }
        Ok(passed)
    }

    /// The questions of a step. How long a client waits is taken from what the engine expects, and decides nothing: an
    /// answer that must not come is seen before the time is over, one that must come has long.
    fn plan(&self, stage: &Stage<'a>) -> Vec<Planned<'a>> {
        let mut engine = Engine::default();
        let Ok(()) = engine.install(&stage.policy);
        let mut planned = Vec::new();
        for probe in stage.probes {
            let ports = match (&probe.source_ports, probe.protocol) {
                (SourcePorts::Any, _) | (_, ProbeProtocol::Icmp) => vec![0],
                _ if self.sampled(probe).is_some() => vec![0],
                _ => source_ports(self.lab, probe, &stage.policy),
            };
            for port in ports {
                let of = |host: &str| self.lab.host(host).os.ports().0;
                let representative = if port == 0 { of(&probe.from) } else { port };
                let Ok(seen) = paper::follow(self.lab, probe, [representative, of(&probe.to)], stage, &mut engine);
                // Of many from a NAT some are not.
                let answered = seen.outcome == Outcome::Answered && self.sampled(probe).is_none();
                let same = |one: &Planned<'a>| {
                    let ends = |probe: &'a Probe| (&probe.from, &probe.to, probe.protocol, probe.port, probe.family);
                    port != 0 && one.port == port && ends(one.probe) == ends(probe)
                };
                let twin = planned.iter().position(same);
                planned.push(Planned {
                    probe,
                    port,
                    patience: if answered { LONG } else { SHORT },
                    twin,
                    gate: stage.during.as_ref().map(|_| Gate::default()),
                });
            }
        }
        planned
    }

    /// Runs probes under the policy in force and says what was seen. `controls`: of each question, whether it was answered
    /// with nothing attached.
    ///
    /// # Errors
    /// A socket, a counter or a tap cannot be read.
    ///
    /// # Panics
    /// When nothing is attached.
    pub fn step(
        &mut self,
        stage: &Stage<'a>,
        mode: Mode,
        controls: Option<&[bool]>,
        scrutiny: Scrutiny,
    ) -> Result<StepReport, WireError> {
        assert!(!self.hooks.is_empty(), "a policy is attached before its probes are run");
        let planned = self.plan(stage);
        let taps = self.taps()?;
        if scrutiny == Scrutiny::Exact {
            self.forget()?;
        }
        let mut engine = self.engine.clone();
        let lost = self.lost()?;
        let before = self.start_counting()?;
        let mut seen = Seen::default();
        let mut in_force = vec![self.in_force(&stage.policy)];
        let mut changed = None;
        let mut problems = Vec::new();
        let noticed = self.ask(&planned, |bench, over| {
            if let Some(during) = &stage.during {
                changed = bench.change(&planned, during, &taps, &mut seen, over)?;
                in_force.push(bench.in_force(during));
            }
            // Taps and rings hold only so much.
            while !over() {
                thread::sleep(LOOK);
                seen.take(&taps)?;
                seen.told(bench.events());
            }
            Ok(())
        })?;
        if stage.during.is_some() && changed.is_none() {
            problems.push("the download was over, or never began, before the policy could be changed".into());
            in_force.truncate(1);
        }

        // What was sent when the last client was done may still be on its way.
        let end = Instant::now() + SETTLE;
        let (account, counters, found) = loop {
            seen.take(&taps)?;
            seen.after = self.counters()?;
            seen.told(self.events());
            let quiet = !seen.take(&taps)?;
            let mut then = engine.clone();
            let account = Account::new(
                self.lab,
                &in_force,
                changed.as_ref(),
                &seen.sights,
                &seen.events,
                &before,
                &seen.after,
                &mut then,
                self.zero,
            );
            let mut found = Vec::new();
            let counters = match scrutiny {
                Scrutiny::Exact => account.check_counters(stage.probes, self.lost()? - lost, &mut found),
                Scrutiny::Probes => Vec::new(),
            };
            if (quiet && found.is_empty()) || Instant::now() > end {
                engine = then;
                break (account, counters, found);
            }
            drop(account);
            thread::sleep(LOOK);
        };
        problems.extend(found);

        let mut reports = Vec::new();
        for probe in stage.probes {
            let of = |one: &&Planned<'_>| std::ptr::eq(one.probe, probe);
            let mut cases = Vec::new();
            for (index, (one, noticed)) in planned.iter().zip(&noticed).enumerate().filter(|(_, (one, _))| of(one)) {
                let control = controls.map(|controls| controls.get(index).copied().unwrap_or(false));
                let asked = if self.sampled(probe).is_some() {
                    sampled(&account, probe, noticed, &mut problems)
                } else {
                    let nat = self.lab.host(&probe.from).nat.is_some();
                    let changed = one.gate.is_some() && changed.is_some();
                    let asked = |(noticed, port): &(Noticed, u16)| Asked {
                        probe,
                        noticed: noticed.clone(),
                        port: Some(*port).filter(|port| *port != 0 && !nat),
                        changed,
                    };
                    noticed.iter().map(|noticed| (asked(noticed), noticed.1)).collect()
                };
                for (asked, source_port) in asked {
                    let (observation, mut found) = account.observe(&asked);
                    problems.append(&mut found);
                    let expected = match scrutiny {
                        Scrutiny::Exact => probe.expected(mode).for_port(&observation),
                        // Whoever sits in the lab may number rules as they like.
                        Scrutiny::Probes if probe.expected(mode).outcome == observation.outcome => observation.clone(),
                        Scrutiny::Probes => {
                            Observation { outcome: probe.expected(mode).outcome, ..Observation::default() }
                        }
                    };
                    cases.push(Case { source_port, expected, seen: observation, control });
                }
            }
            let counted = self.sampled(probe).map_or(Counted::ByStretch, |nat| Counted::Sampled(nat.tolerance));
            reports.push(compare(self.lab, probe, mode, &stage.policy, cases, counted));
        }
        self.engine = engine;
        let broken = diagnose::broken(self.lab, stage, &reports);
        Ok(StepReport { name: stage.name.into(), probes: reports, broken, problems, counters })
    }

    /// What is in force now at every hook.
    fn in_force(&self, policy: &Policy) -> InForce {
        let epochs = self.hooks.iter().map(|(hook, attachment)| (hook.clone(), attachment.epoch())).collect();
        InForce { policy: policy.clone(), epochs }
    }

    /// Puts a policy in force while a download is on its way, and says when. Not at all where the download is over before.
    ///
    /// The client stops reading, so the server has to wait for it with data in hand, and nothing is on the wire at the
    /// moment of the change: which policy judged a packet is then known of every packet. Next the server asks whether it
    /// may go on, so that after the change it is first heard from who sends the data, as on paper; then the client reads on.
    fn change(
        &mut self,
        planned: &[Planned<'a>],
        during: &Policy,
        taps: &BTreeMap<String, Tap>,
        seen: &mut Seen,
        over: &dyn Fn() -> bool,
    ) -> Result<Option<Changed>, WireError> {
        let gates: Vec<&Gate> = planned.iter().filter_map(|one| one.gate.as_ref()).collect();
        while !gates.iter().all(|gate| gate.is_full()) {
            if over() {
                return Ok(None);
            }
            thread::sleep(LOOK);
        }
        for _ in 0..QUIET_LOOKS {
            let some = seen.take(taps)?;
            thread::sleep(LOOK * 2);
            if !some && !seen.take(taps)? {
                break;
            }
        }
        let from = now();
        let Self { engine, .. } = self;
        let kept = engine.clone();
        self.install(during, Events::All)?;
        // The replay does this again, at its place among the packets.
        self.engine = kept;
        let to = now();
        let servers: Vec<&str> = planned.iter().map(|one| one.probe.to.as_str()).collect();
        let end = Instant::now() + LONG;
        let sent_since = |seen: &Seen, host: &str| {
            seen.sights.get(host).is_some_and(|sights| sights.iter().any(|sight| sight.sent && sight.at > to))
        };
        while !servers.iter().all(|server| sent_since(seen, server)) && Instant::now() < end {
            thread::sleep(LOOK);
            seen.take(taps)?;
        }
        for gate in gates {
            gate.open();
        }
        Ok(Some(Changed { from, to }))
    }

    /// Runs one TCP probe of a lab with one hook and tells of its handshake as it happens: at most 20 ms late, so that a
    /// person can watch.
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
        let policy = self.policy.clone().expect("a policy is attached before its probes are run");
        let port = match &probe.source_ports {
            SourcePorts::These(ports) => ports[0],
            _ => 0,
        };
        let planned = [Planned { probe, port, patience, twin: None, gate: None }];
        let taps = self.taps()?;
        let before = self.start_counting()?;
        let mut seen = Seen::default();
        let mut start = None;
        let noticed = self.ask(&planned, |bench, over| {
            loop {
                let over = over();
                thread::sleep(LOOK);
                let mut batch: Vec<(&str, Sight)> = Vec::new();
                // The second look takes what was still on its way at the first.
                for _ in 0..2 {
                    for (host, tap) in &taps {
                        let sights = tap.take().map_err(socket("reading a tap"))?;
                        batch.extend(sights.iter().map(|sight| (host.as_str(), *sight)));
                        seen.sights.entry(host.clone()).or_default().extend(sights);
                    }
                    if batch.is_empty() {
                        break;
                    }
                    thread::sleep(LOOK);
                }
                let news = bench.events();
                batch.retain(|(_, sight)| is_handshake(sight.packet.tcp_flags));
                batch.sort_by_key(|(_, sight)| sight.at);
                let verdicts = news.iter().flat_map(|(hook, events)| events.iter().map(move |event| (hook, event)));
                let mut verdicts: Vec<_> = verdicts.filter(|(_, event)| is_handshake(event.tcp_flags)).collect();
                for (host, sight) in batch {
                    let since = sight.at.saturating_sub(*start.get_or_insert(sight.at));
                    tell(Happening::Packet { host, since, sight });
                    let of = |event: &Event| {
                        let packet = packet_of(event, &sight.packet);
                        sight.sent && packet.is_some_and(|packet| same_flow(&packet, &sight.packet))
                    };
                    if let Some(at) = verdicts.iter().position(|(_, event)| of(event)) {
                        let (hook, event) = verdicts.remove(at);
                        tell(happening(&policy, hook, event));
                    }
                }
                seen.told(news);
                if over {
                    return Ok(());
                }
            }
        })?;
        let (noticed, port) = noticed.into_iter().flatten().next().unwrap_or((Noticed::Silence, 0));
        tell(Happening::End { noticed: &noticed });
        seen.after = self.counters()?;
        let in_force = [self.in_force(&policy)];
        let mut engine = self.engine.clone();
        let account = Account::new(
            self.lab,
            &in_force,
            None,
            &seen.sights,
            &seen.events,
            &before,
            &seen.after,
            &mut engine,
            self.zero,
        );
        let observed = account.observe(&Asked { probe, noticed, port: Some(port), changed: false });
        self.engine = engine;
        Ok(observed)
    }

    /// A tap on every host.
    fn taps(&self) -> Result<BTreeMap<String, Tap>, WireError> {
        let taps = self.net.hosts().iter().map(|(host, namespace)| Ok((host.clone(), Tap::open(namespace)?)));
        taps.collect::<io::Result<_>>().map_err(socket("opening a tap"))
    }

    /// Frames that no cable had room for.
    fn lost(&self) -> Result<u64, WireError> {
        self.net.lost().map_err(socket("asking how many frames were lost"))
    }

    /// Throws away old events and reads the counters.
    fn start_counting(&mut self) -> Result<ByHook<Counters>, WireError> {
        self.events();
        self.counters()
    }

    /// What every hook has counted.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn counters(&self) -> Result<ByHook<Counters>, WireError> {
        self.hooks.iter().map(|(hook, attachment)| Ok((hook.clone(), attachment.counters()?))).collect()
    }

    fn events(&mut self) -> ByHook<Vec<Event>> {
        let taken = self.hooks.iter_mut().map(|(hook, attachment)| {
            let events = std::iter::from_fn(|| attachment.events().next()).collect();
            (hook.clone(), events)
        });
        taken.collect()
    }
}

/// How long a download that is held back may take to come to rest, in looks.
const QUIET_LOOKS: usize = 100;

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The connections that a NAT has made: which ports it took, and what came back to each. Nobody can say which client had
/// which port, so what clients noticed must agree in number.
fn sampled<'a>(
    account: &Account<'_>,
    probe: &'a Probe,
    noticed: &[(Noticed, u16)],
    problems: &mut Vec<String>,
) -> Vec<(Asked<'a>, u16)> {
    let answer = noticed.iter().map(|(noticed, _)| noticed).find(|noticed| matches!(noticed, Noticed::Answer(_)));
    let ports = account.ports_of(probe);
    let asked: Vec<_> = ports
        .into_iter()
        .map(|port| {
            let came_back = account.came_back(probe, port);
            let noticed = answer.filter(|_| came_back).cloned().unwrap_or(Noticed::Silence);
            (Asked { probe, noticed, port: Some(port), changed: false }, port)
        })
        .collect();
    let count = |all: &mut dyn Iterator<Item = &Noticed>, is: fn(&Noticed) -> bool| all.filter(|one| is(one)).count();
    let answered = |one: &Noticed| matches!(one, Noticed::Answer(_));
    let other = |one: &Noticed| !matches!(one, Noticed::Answer(_) | Noticed::Silence);
    let (made, came_back) = (asked.len(), count(&mut asked.iter().map(|(asked, _)| &asked.noticed), answered));
    let clients = || noticed.iter().map(|(noticed, _)| noticed);
    if made != noticed.len() {
        problems.push(format!("{}: {} connections, and the NAT took {made} ports", probe.name, noticed.len()));
    }
    if count(&mut clients(), answered) != came_back {
        problems.push(format!(
            "{}: {} clients had an answer, and something came back to {came_back} ports",
            probe.name,
            count(&mut clients(), answered)
        ));
    }
    if let Some(strange) = clients().find(|one| other(one)) {
        problems.push(format!("{}: a client got neither an answer nor silence: {strange:?}", probe.name));
    }
    asked
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

fn happening(policy: &Policy, hook: &str, event: &Event) -> Happening<'static> {
    let verdict = verdict_of(event);
    let direction =
        if event.direction == 0 { nacl_common::Direction::Inbound } else { nacl_common::Direction::Outbound };
    let by = Decision::of(&policy.at(hook).compiled.slots, direction, &verdict);
    Happening::Verdict { by, pass: verdict.action == Action::Allow }
}

const fn is_handshake(tcp_flags: u8) -> bool {
    const SYN: u8 = 0x02;
    tcp_flags & SYN != 0
}

/// Runs a lab on the wire.
///
/// # Errors
/// See [`WireError`]. Whatever happens, no namespace stays behind.
pub fn run(lab: &Lab, mode: Mode) -> Result<LabReport, WireError> {
    run_with(lab, mode, Proxy::Best)
}

/// As [`run`], choosing what plays load balancers.
///
/// # Errors
/// See [`WireError`]. Whatever happens, no namespace stays behind.
pub fn run_with(lab: &Lab, mode: Mode, proxy: Proxy) -> Result<LabReport, WireError> {
    let start = Instant::now();
    let stages = lab.plan(mode)?;
    let mut bench = Bench::build_with(lab, Style::Measured, proxy)?;
    let mut controls = Vec::new();
    for stage in &stages {
        controls.push(bench.control(bench.plan(stage))?);
    }
    let mut steps = Vec::new();
    for (stage, controls) in stages.iter().zip(&controls) {
        bench.refresh()?;
        bench.install(&stage.policy, Events::All)?;
        steps.push(bench.step(stage, mode, Some(controls), Scrutiny::Exact)?);
    }
    Ok(LabReport::new(lab, Level::Wire, mode, start.elapsed().as_secs_f64(), steps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::file;

    /// How likely it is that of `n` tries, each of which succeeds with probability `p`, a share more than `tolerance` away from
    /// `p` succeeds.
    fn false_alarm(n: u16, p: f64, tolerance: f64) -> f64 {
        let n = f64::from(n);
        let mut log_choose = 0.0;
        let mut sum = 0.0;
        let mut k = 0.0;
        while k <= n {
            if (k / n - p).abs() > tolerance {
                sum += f64::exp(log_choose + k * f64::ln(p) + (n - k) * f64::ln(1.0 - p));
            }
            log_choose += f64::ln((n - k) / (k + 1.0));
            k += 1.0;
        }
        sum
    }

    #[test]
    fn what_a_nat_picks_at_random_seldom_fails_a_lab() {
        // A fair coin thrown four times: all heads or all tails.
        assert!((false_alarm(4, 0.5, 0.4) - 0.125).abs() < 1e-12);
        let mut sampled = 0;
        for lab in file::all().expect("labs") {
            for (probe, mode) in lab.probes().flat_map(|probe| [(probe, Mode::Stateless), (probe, Mode::Stateful)]) {
                let (nat, percent) = (&lab.host(&probe.from).nat, probe.expected(mode).percent);
                let (Some(nat), Some(percent)) = (nat, percent) else { continue };
                sampled += 1;
                // Of all or none there is nothing to be unlucky with.
                if percent > 0.0 && percent < 100.0 {
                    let chance = false_alarm(nat.connections, percent / 100.0, nat.tolerance / 100.0);
                    assert!(chance < 1e-6, "{}, {}: fails once in {}", lab.name, probe.name, 1.0 / chance);
                }
            }
        }
        assert!(sampled > 0, "no lab samples the ports of a NAT");
    }
}
