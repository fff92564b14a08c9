//! Labs without a wire: the packets of both legs, judged one after the other by the engine in this process, or as frames
//! by the program loaded into the kernel. Which of the two is the only difference.

use std::time::Instant;

use nacl_common::{Action, Direction, Family, Fragment, Packet, Verdict};

use super::{
    Lab, LabError, LabReport, Level, Outcome,
    file::{Policy, PolicyText, Probe, ProbeProtocol, SourcePorts},
    outcome::{Case, Observation, StepReport, compare, rule_of, source_ports},
};
use crate::{
    analyze::{Flow, number},
    compile::Compiled,
    lab::file::router_address,
};

/// Who judges packets for a lab.
pub trait Judge {
    /// What can go wrong.
    type Error;

    /// From now on this policy is in force.
    fn install(&mut self, policy: &Policy) -> Result<(), Self::Error>;

    /// Judges one packet.
    fn judge(&mut self, direction: Direction, packet: &Packet) -> Result<Verdict, Self::Error>;
}

/// The engine in this process.
#[derive(Default)]
pub struct Engine(Option<Compiled>);

impl Judge for Engine {
    type Error = LabError;

    fn install(&mut self, policy: &Policy) -> Result<(), LabError> {
        self.0 = Some(policy.compiled.clone());
        Ok(())
    }

    fn judge(&mut self, direction: Direction, packet: &Packet) -> Result<Verdict, LabError> {
        let compiled =
            self.0.as_ref().unwrap_or_else(|| unreachable!("a policy is installed before packets are judged"));
        Ok(compiled.judge(direction, packet))
    }
}

/// Runs a lab in the engine.
///
/// # Errors
/// One of the lab's policies is invalid.
pub fn run_host(lab: &Lab) -> Result<LabReport, LabError> {
    run(lab, Level::Host, &mut Engine::default())
}

/// Runs a lab with any judge.
///
/// # Errors
/// One of the lab's policies is invalid, or what the judge reports.
pub fn run<J: Judge<Error: From<LabError>>>(lab: &Lab, level: Level, judge: &mut J) -> Result<LabReport, J::Error> {
    let start = Instant::now();
    let mut steps = Vec::new();
    let mut policy = &lab.policy;
    for step in &lab.steps {
        policy = step.policy.as_ref().unwrap_or(policy);
        steps.push(run_step(lab, level, judge, policy, &step.name, &step.probes)?);
    }
    steps.push(run_step(lab, level, judge, &lab.solution, "the goal, with the solution", &lab.goal.probes)?);
    Ok(LabReport::new(lab, level, start.elapsed().as_secs_f64(), steps))
}

fn run_step<J: Judge<Error: From<LabError>>>(
    lab: &Lab,
    level: Level,
    judge: &mut J,
    policy: &PolicyText,
    name: &str,
    probes: &[Probe],
) -> Result<StepReport, J::Error> {
    let policy = lab.compile(policy, None)?;
    let Policy { interface, compiled, .. } = &policy;
    judge.install(&policy)?;
    let mut reports = Vec::new();
    for probe in probes {
        let ports = match probe.protocol {
            ProbeProtocol::Icmp => vec![0],
            _ => source_ports(lab, probe, interface),
        };
        let mut cases = Vec::new();
        for port in ports {
            let seen = follow(lab, probe, port, compiled, judge)?;
            cases.push(Case { source_port: port, seen, expected: expected(probe, &seen), control: None });
        }
        // The engine is fast enough to ask for every port; frames through the kernel are tried at the cuts.
        let exact = if level == Level::Host && probe.source_ports == SourcePorts::All {
            let (first, last) = lab.host(&probe.from).os.ports();
            let mut as_said = 0_u32;
            for port in first..=last {
                let seen = follow(lab, probe, port, compiled, judge)?;
                as_said += u32::from(seen == probe.expected());
            }
            Some(100.0 * f64::from(as_said) / f64::from(u32::from(last) - u32::from(first) + 1))
        } else {
            None
        };
        reports.push(compare(lab, probe, interface, cases, exact));
    }
    Ok(StepReport { name: name.into(), probes: reports, problems: Vec::new(), counters: Vec::new() })
}

/// What had to be seen from this port. Of a share either of two things is right for one port; which ports make up the
/// share is what the percentage checks.
pub(super) fn expected(probe: &Probe, seen: &Observation) -> Observation {
    probe.otherwise().filter(|otherwise| otherwise == seen).unwrap_or_else(|| probe.expected())
}

/// Sends the packets of a probe past a judge until one is dropped.
pub(super) fn follow<J: Judge>(
    lab: &Lab,
    probe: &Probe,
    source_port: u16,
    compiled: &Compiled,
    judge: &mut J,
) -> Result<Observation, J::Error> {
    let flow = flow(lab, probe, source_port);
    let request = flow.request().unwrap_or_else(|error| unreachable!("addresses are of one family: {error}"));
    let reply = flow.reply().ok().flatten().unwrap_or_else(|| unreachable!("every protocol of a probe is answered"));
    let direction = lab.direction(probe);
    let mut seen = Observation { outcome: Outcome::Answered, request: None, reply: None, icmp_error: None };
    let mut ask = |direction, packet: &Packet| {
        judge
            .judge(direction, packet)
            .map(|judged| (judged.action == Action::Allow, rule_of(&compiled.slots, judged.slot, judged.reason)))
    };
    let (pass, rule) = ask(direction, &request)?;
    seen.request = rule;
    if !pass {
        return Ok(Observation { outcome: Outcome::RequestDropped, ..seen });
    }
    let (pass, rule) = ask(direction.reverse(), &reply)?;
    seen.reply = rule;
    if !pass {
        return Ok(Observation { outcome: Outcome::ReplyDropped, ..seen });
    }
    if lab.meets_narrow_link(probe) {
        let (pass, rule) = ask(Direction::Inbound, &too_big(lab, probe))?;
        seen.icmp_error = rule;
        if !pass {
            seen.outcome = Outcome::Stalled;
        }
    }
    Ok(seen)
}

/// The flow of a probe.
pub(super) fn flow(lab: &Lab, probe: &Probe, source_port: u16) -> Flow {
    let (source, destination) = lab.addresses(probe);
    let family = probe.family.into();
    let (sport, dport) = match (probe.protocol, family) {
        (ProbeProtocol::Icmp, Family::V4) => (0, 8 << 8),
        (ProbeProtocol::Icmp, Family::V6) => (0, 128 << 8),
        _ => (source_port, probe.port),
    };
    Flow { protocol: probe.protocol.number(family), source, destination, sport, dport }
}

/// What the router sends to the host behind the hook when that host's packet does not fit the next link: ICMP
/// "fragmentation needed" (3/4) or ICMPv6 "packet too big" (2/0). Nothing exempts it (N47).
pub(super) fn too_big(lab: &Lab, probe: &Probe) -> Packet {
    let family = probe.family.into();
    let (protocol, kind) = match family {
        Family::V4 => (1, 3 << 8 | 4),
        Family::V6 => (58, 2 << 8),
    };
    let host = lab.host(&lab.hook).network(family).unwrap_or_else(|| unreachable!("checked when the lab was loaded"));
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
