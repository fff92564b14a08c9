//! Labs without a wire: the packets of both legs, judged one after the other by the engine in this process, or as frames
//! by the program loaded into the kernel. Which of the two is the only difference.

use std::{collections::BTreeMap, convert::Infallible, time::Instant};

use nacl_common::{Action, Direction, Family, Fragment, Packet, Verdict, packet::tcp};

use super::{
    Lab, LabError, LabReport, Level, Outcome, diagnose,
    expect::{Crossing, Decision},
    file::{Policy, Probe, ProbeProtocol, SourcePorts, Stage, router_address},
    legs::{Connection, Passage},
    outcome::{Case, Counted, Observation, StepReport, Stretch, all_ports, compare, source_ports, stretches},
};
use crate::{
    analyze::{Flow, number},
    engine,
    resolve::Mode,
};

/// Who judges packets for a lab: something with a memory at each of its hooks.
pub trait Judge {
    /// What can go wrong.
    type Error;

    /// From now on this policy is in force. What is remembered stays.
    fn install(&mut self, policy: &Policy) -> Result<(), Self::Error>;

    /// Forgets every connection.
    fn forget(&mut self) -> Result<(), Self::Error>;

    /// Judges one packet at the hook before a host.
    fn judge(&mut self, hook: &str, direction: Direction, packet: &Packet) -> Result<Verdict, Self::Error>;
}

/// The engine in this process.
#[derive(Clone, Default)]
pub struct Engine(BTreeMap<String, engine::Engine>);

impl Engine {
    /// Sets the clock at every hook, in nanoseconds since the first policy.
    pub fn set_time(&mut self, now: u64) {
        self.0.values_mut().for_each(|engine| engine.set_time(now));
    }
}

impl Judge for Engine {
    type Error = Infallible;

    fn install(&mut self, policy: &Policy) -> Result<(), Infallible> {
        for (hook, enforced) in &policy.hooks {
            let (interface, compiled) = (&enforced.interface, &enforced.compiled);
            self.0
                .entry(hook.clone())
                .and_modify(|engine| engine.install(interface, compiled))
                .or_insert_with(|| engine::Engine::new(interface, compiled));
        }
        Ok(())
    }

    fn forget(&mut self) -> Result<(), Infallible> {
        self.0.values_mut().for_each(engine::Engine::forget);
        Ok(())
    }

    fn judge(&mut self, hook: &str, direction: Direction, packet: &Packet) -> Result<Verdict, Infallible> {
        let engine =
            self.0.get_mut(hook).unwrap_or_else(|| unreachable!("a policy is installed before packets are judged"));
        Ok(engine.judge(direction, packet))
    }
}

/// Runs a lab in the engine.
///
/// # Errors
/// One of the lab's policies is invalid.
pub fn run_host(lab: &Lab, mode: Mode) -> Result<LabReport, LabError> {
    let stages = lab.plan(mode)?;
    match run(lab, mode, Level::Host, &stages, &mut Engine::default()) {
        Ok(report) => Ok(report),
    }
}

/// Runs a lab with any judge.
///
/// # Errors
/// What the judge reports.
pub fn run<J: Judge>(
    lab: &Lab,
    mode: Mode,
    level: Level,
    stages: &[Stage<'_>],
    judge: &mut J,
) -> Result<LabReport, J::Error> {
    let start = Instant::now();
    let steps = stages.iter().map(|stage| run_stage(lab, mode, level, judge, stage)).collect::<Result<_, _>>()?;
    Ok(LabReport::new(lab, level, mode, start.elapsed().as_secs_f64(), steps))
}

fn run_stage<J: Judge>(
    lab: &Lab,
    mode: Mode,
    level: Level,
    judge: &mut J,
    stage: &Stage<'_>,
) -> Result<StepReport, J::Error> {
    judge.install(&stage.policy)?;
    let mut reports = Vec::new();
    for probe in stage.probes {
        let says = probe.expected(mode);
        let ports = match probe.protocol {
            ProbeProtocol::Icmp => vec![0],
            _ => source_ports(lab, probe, &stage.policy),
        };
        // A relay picks a port too, and the expectation must hold for each it could pick.
        let relayed = match lab.connections(probe).len() {
            1 => vec![0],
            _ => stretches(lab, probe, 1, &stage.policy).into_iter().flat_map(Stretch::ports).collect(),
        };
        let mut cases = Vec::new();
        for (index, source_port) in ports.into_iter().enumerate() {
            for &relay_port in if index == 0 { &relayed[..] } else { &relayed[..1] } {
                let seen = follow(lab, probe, [source_port, relay_port], stage, judge)?;
                let expected = says.for_port(&seen);
                cases.push(Case { source_port, seen, expected, control: None });
            }
        }
        // The engine is fast enough to ask for every port; frames through the kernel are tried at the cuts.
        let counted = if level == Level::Host && probe.source_ports == SourcePorts::All {
            let (mut as_said, mut total) = (0_u32, 0_u32);
            let expected = says.observation();
            for port in all_ports(lab, &probe.from) {
                let seen = follow(lab, probe, [port, relayed[0]], stage, judge)?;
                as_said += u32::from(seen == expected);
                total += 1;
            }
            Counted::EveryPort(100.0 * f64::from(as_said) / f64::from(total))
        } else {
            Counted::ByStretch
        };
        reports.push(compare(lab, probe, mode, &stage.policy, cases, counted));
    }
    let broken = diagnose::broken(lab, stage, &reports);
    Ok(StepReport { name: stage.name.into(), probes: reports, broken, problems: Vec::new(), counters: Vec::new() })
}

/// Sends the packets of a probe past a judge until one is dropped. `ports`: the source port of each connection.
pub(super) fn follow<J: Judge>(
    lab: &Lab,
    probe: &Probe,
    ports: [u16; 2],
    stage: &Stage<'_>,
    judge: &mut J,
) -> Result<Observation, J::Error> {
    judge.forget()?;
    let observation = Walk { lab, probe, ports, policy: &stage.policy, judge: &mut *judge }.observe(stage)?;
    if stage.during.is_some() {
        // The next case finds the step as this one did.
        judge.install(&stage.policy)?;
    }
    Ok(observation)
}

/// A probe on its way.
struct Walk<'a, J> {
    lab: &'a Lab,
    probe: &'a Probe,
    ports: [u16; 2],
    policy: &'a Policy,
    judge: &'a mut J,
}

impl<'a, J: Judge> Walk<'a, J> {
    fn observe(mut self, stage: &'a Stage<'_>) -> Result<Observation, J::Error> {
        let connections = self.lab.connections(self.probe).len();
        let mut seen = Observation { outcome: Outcome::Answered, ..Observation::default() };
        let (pass, mut request) = self.leg(0, false, FIRST)?;
        seen.path.append(&mut request);
        if !pass {
            return Ok(Observation { outcome: Outcome::RequestDropped, ..seen });
        }
        let (pass, mut reply) = self.leg(0, true, FIRST)?;
        if !pass {
            seen.path.append(&mut reply);
            return Ok(Observation { outcome: Outcome::ReplyDropped, ..seen });
        }
        // The client has its connection. What it asks goes on over the relay's own, if there is one.
        for (connection, back) in (1..connections).flat_map(|connection| [(connection, false), (connection, true)]) {
            let (pass, mut leg) = self.leg(connection, back, FIRST)?;
            seen.path.append(&mut leg);
            if !pass {
                return Ok(Observation { outcome: Outcome::Stalled, ..seen });
            }
        }
        seen.path.append(&mut reply);
        if self.lab.meets_narrow_link(self.probe) {
            let hook = self.lab.crossings(&self.probe.from, &self.probe.to).find(|(_, way)| *way == Direction::Inbound);
            if let Some((hook, direction)) = hook {
                let packet = too_big(self.lab, self.probe);
                let (pass, crossing) = self.cross(hook, direction, &packet)?;
                seen.icmp_error = Some(crossing);
                if !pass {
                    seen.outcome = Outcome::Stalled;
                }
            }
        }
        let Some(during) = &stage.during else { return Ok(seen) };
        // The handshake is complete and data is on its way when the policy changes; then more data, and its ACK.
        for (back, expected) in [(false, "the handshake"), (false, "the question"), (true, "the page")] {
            let (pass, _) = self.leg(0, back, LATER)?;
            debug_assert!(pass, "{expected} passes as the first packets did");
        }
        self.judge.install(during)?;
        self.policy = during;
        for back in [true, false] {
            let (pass, mut leg) = self.leg(0, back, LATER)?;
            seen.after.append(&mut leg);
            if !pass {
                return Ok(Observation { outcome: Outcome::Cut, ..seen });
            }
        }
        Ok(seen)
    }

    /// One packet of a connection past every hook on its way, until one drops it.
    fn leg(&mut self, connection: usize, reply: bool, packets: Packets) -> Result<(bool, Vec<Crossing>), J::Error> {
        let connections = self.lab.connections(self.probe);
        let flow = flow(self.lab, self.probe, connections[connection], self.ports[connection]);
        let packet = packets(&flow, reply);
        let mut crossings = Vec::new();
        let passages = self.lab.passages(self.probe, Outcome::Answered);
        let on_the_way = |passage: &&Passage<'_>| passage.connection == connection && passage.reply == reply;
        for passage in passages.iter().filter(on_the_way) {
            let (pass, crossing) = self.cross(passage.hook, passage.direction, &packet)?;
            crossings.push(crossing);
            if !pass {
                return Ok((false, crossings));
            }
        }
        Ok((true, crossings))
    }

    fn cross(&mut self, hook: &str, direction: Direction, packet: &Packet) -> Result<(bool, Crossing), J::Error> {
        let verdict = self.judge.judge(hook, direction, packet)?;
        let slots = &self.policy.at(hook).compiled.slots;
        let by = Decision::of(slots, direction, &verdict);
        Ok((verdict.action == Action::Allow, Crossing { hook: hook.to_owned(), by }))
    }
}

/// The packet of a flow in one direction or the other.
type Packets = fn(&Flow, bool) -> Packet;

/// The first of each: a SYN and what answers it.
const FIRST: Packets = |flow, reply| {
    let packet = if reply {
        flow.reply().map(|packet| packet.unwrap_or_else(|| unreachable!("every protocol of a probe is answered")))
    } else {
        flow.request()
    };
    packet.unwrap_or_else(|error| unreachable!("addresses are of one family: {error}"))
};

/// One in the middle of a TCP connection.
const LATER: Packets = |flow, reply| Packet { tcp_flags: tcp::ACK, ..FIRST(flow, reply) };

/// The flow of one connection of a probe.
pub(super) fn flow(lab: &Lab, probe: &Probe, connection: Connection<'_>, source_port: u16) -> Flow {
    let (source, destination) = lab.ends(probe, connection);
    let family = probe.family.into();
    let (sport, dport) = match (probe.protocol, family) {
        (ProbeProtocol::Icmp, Family::V4) => (0, 8 << 8),
        (ProbeProtocol::Icmp, Family::V6) => (0, 128 << 8),
        _ => (source_port, connection.port),
    };
    Flow { protocol: probe.protocol.number(family), source, destination, sport, dport }
}

/// What the router sends to the host that is asked when its packet does not fit the next link: ICMP
/// "fragmentation needed" (3/4) or ICMPv6 "packet too big" (2/0). Nothing exempts it (N47).
pub(super) fn too_big(lab: &Lab, probe: &Probe) -> Packet {
    let family = probe.family.into();
    let (protocol, kind) = match family {
        Family::V4 => (1, 3 << 8 | 4),
        Family::V6 => (58, 2 << 8),
    };
    let host = lab.host(&probe.to).network(family).unwrap_or_else(|| unreachable!("checked when the lab was loaded"));
    Packet {
        family,
        protocol,
        fragment: Fragment::None,
        hop_limit: 64,
        tcp_flags: 0,
        src: number(router_address(host)),
        dst: number(host.addr()),
        sport: 0,
        dport: kind,
        ident: 0,
    }
}
