//! What was expected of a lab and what was seen, in the same words at every level, so that levels can be compared.
//! Nothing is run here.

use std::{collections::BTreeSet, ops::RangeInclusive};

use nacl_common::Direction;
use serde::{Serialize, Serializer};

use super::{
    Level, Outcome,
    expect::{Crossing, Expected},
    file::{Lab, Policy, Probe, SourcePorts},
};
use crate::{
    compile::Decider,
    observe::BrokenReturn,
    resolve::{Interface, Mode},
};

/// What became of one probe from one source port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Observation {
    /// How it ended.
    pub outcome: Outcome,
    /// What decided at every hook, as the message goes, up to where it was dropped.
    pub path: Vec<Crossing>,
    /// What decided the router's ICMP error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_error: Option<Crossing>,
    /// What decided after the policy was changed under a download, up to where it was cut.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Crossing>,
}

/// A lab that was run at one level.
#[derive(Clone, Debug, Serialize)]
pub struct LabReport {
    /// Lab.
    pub lab: String,
    /// Its title.
    pub title: String,
    /// Level.
    pub level: Level,
    /// Whether network ACLs remembered, where no step says.
    #[serde(serialize_with = "name")]
    pub mode: Mode,
    /// Every expectation held.
    pub ok: bool,
    /// Seconds it took.
    pub seconds: f64,
    /// Why it was not run, if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_run: Option<String>,
    /// Its steps; the last is the goal under the solution.
    pub steps: Vec<StepReport>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn name<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode.name())
}

/// A step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// Probes.
    pub probes: Vec<ProbeReport>,
    /// Whose replies died and which downloads were cut, as a daemon tells of them: why, and what mends it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<BrokenReturn>,
    /// What went wrong with the step as a whole, such as a counter that moved and should not have.
    pub problems: Vec<String>,
    /// Wire: rules that counted packets, and how many the taps saw sent that they had to count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<RuleCount>,
}

/// What a rule counted during a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// The host behind the hook.
    pub hook: String,
    /// The rule, or what else counts.
    pub rule: Decider,
    /// Family: 4 or 6.
    pub family: u8,
    /// Packets it counted.
    pub packets: u64,
    /// Packets the hosts' taps saw sent that it had to count.
    pub expected: u64,
}

/// A probe.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeReport {
    /// Its name.
    pub name: String,
    /// The client's system picked the source port; on paper, every port it could pick was tried at the cuts.
    pub any_port: bool,
    /// What was seen, a source port each.
    pub cases: Vec<Case>,
    /// Share of the client's ports that end as expected, and the share that had to, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// One source port of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Source port, 0 for ICMP.
    pub source_port: u16,
    /// What was seen.
    pub seen: Observation,
    /// What had to be seen.
    pub expected: Observation,
    /// Wire: the same probe with nothing attached was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<bool>,
}

/// Percentages of a client's ports.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// As seen, rounded to one decimal.
    pub percent: f64,
    /// As the lab says.
    pub expected: f64,
    /// Percentage points that what was seen may differ: none where ports were chosen, some where a NAT picked them.
    pub tolerance: f64,
}

impl Share {
    /// Whether two shares say the same.
    pub fn agrees(&self, other: &Self) -> bool {
        (self.percent - other.percent).abs() <= self.tolerance.max(other.tolerance) + ROUNDED
    }

    /// Whether it is as the lab says.
    pub fn holds(&self) -> bool {
        (self.percent - self.expected).abs() <= self.tolerance + ROUNDED
    }
}

/// What rounding to one decimal may take away or add.
const ROUNDED: f64 = 0.05;

impl StepReport {
    /// Nothing went wrong.
    pub fn ok(&self) -> bool {
        self.problems.is_empty() && self.probes.iter().all(|probe| probe.problems.is_empty())
    }
}

impl LabReport {
    /// Puts a run together.
    pub fn new(lab: &Lab, level: Level, mode: Mode, seconds: f64, steps: Vec<StepReport>) -> Self {
        let ok = !steps.is_empty() && steps.iter().all(StepReport::ok);
        Self { lab: lab.name.clone(), title: lab.title.clone(), level, mode, ok, seconds, not_run: None, steps }
    }

    /// A lab that has no form at this level.
    pub fn not_run(lab: &Lab, level: Level, mode: Mode, why: &str) -> Self {
        Self {
            lab: lab.name.clone(),
            title: lab.title.clone(),
            level,
            mode,
            ok: true,
            seconds: 0.0,
            not_run: Some(why.into()),
            steps: Vec::new(),
        }
    }

    /// Where two levels say different things about the same probe and source port.
    pub fn disagreements(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.not_run.is_some() || other.not_run.is_some() {
            return found;
        }
        for (mine, theirs) in self.steps.iter().zip(&other.steps) {
            for (one, two) in mine.probes.iter().zip(&theirs.probes) {
                // A port that the client's system picked on the wire was not necessarily asked for by name below.
                let same = one.cases.iter().all(|case| {
                    match two.cases.iter().find(|candidate| candidate.source_port == case.source_port) {
                        Some(twin) => twin.seen == case.seen,
                        None => two.cases.iter().any(|candidate| candidate.seen == case.seen),
                    }
                });
                let shares = match (one.share, two.share) {
                    (Some(mine), Some(theirs)) => mine.agrees(&theirs),
                    (mine, theirs) => mine == theirs,
                };
                if !same || !shares {
                    found.push(format!("{}, {}: {} and {} disagree", mine.name, one.name, self.level, other.level));
                }
            }
        }
        if self.steps.len() != other.steps.len() {
            found.push(format!("{} and {} did not run the same steps", self.level, other.level));
        }
        found
    }
}

impl Expected {
    /// What must be seen; of a share, by the ports that end as it says.
    pub fn observation(&self) -> Observation {
        Observation {
            outcome: self.outcome,
            path: self.path.clone(),
            icmp_error: self.icmp_error.clone(),
            after: self.after.clone(),
        }
    }

    /// Of a share: what must be seen by the other ports.
    pub fn otherwise(&self) -> Option<Observation> {
        let outcome = if self.outcome == Outcome::Answered { Outcome::ReplyDropped } else { Outcome::Answered };
        let reply = self.otherwise.clone()?;
        let path = self.path.first().cloned().into_iter().chain([reply]).collect();
        Some(Observation { outcome, path, ..self.observation() })
    }

    /// What had to be seen from the port from which this was seen. Of a share either of two things is right for one port;
    /// which ports make up the share is what the percentage checks.
    pub fn for_port(&self, seen: &Observation) -> Observation {
        self.otherwise().filter(|otherwise| otherwise == seen).unwrap_or_else(|| self.observation())
    }
}

/// A stretch of a client's port range that the rules cannot tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Stretch {
    /// Its edges and its middle.
    pub fn ports(self) -> BTreeSet<u16> {
        [self.first, u16::midpoint(self.first, self.last), self.last].into()
    }

    /// How many ports it has.
    pub fn ports_in_it(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

/// Cuts the range of a connection's client where a rule that may meet the reply begins or ends. `connection`: 0, or 1 for
/// that of a relay.
pub fn stretches(lab: &Lab, probe: &Probe, connection: usize, policy: &Policy) -> Vec<Stretch> {
    let connections = lab.connections(probe);
    let (first, last) = lab.host(connections[connection].from).os.ports();
    let mut starts: BTreeSet<u32> = [u32::from(first), u32::from(last) + 1].into();
    for passage in lab.passages(probe, Outcome::Answered) {
        if passage.connection == connection && passage.reply {
            for (low, high) in ports(&policy.at(passage.hook).interface, passage.direction) {
                let inside = |port: &u32| (u32::from(first)..=u32::from(last)).contains(port);
                starts.extend([u32::from(low), u32::from(high) + 1].into_iter().filter(inside));
            }
        }
    }
    let starts: Vec<u32> = starts.into_iter().collect();
    starts.windows(2).map(|pair| Stretch { first: pair[0] as u16, last: (pair[1] - 1) as u16 }).collect()
}

/// The port ranges that the rules of a direction tell apart.
fn ports(interface: &Interface, direction: Direction) -> impl Iterator<Item = (u16, u16)> {
    let nacl = interface.nacl.rules(direction).iter().filter_map(|rule| rule.ports);
    let groups = interface.groups.iter().flatten().flat_map(move |group| group.rules(direction));
    nacl.chain(groups.filter_map(|rule| rule.ports))
}

/// The source ports a probe is tried from. Empty where the protocol has none.
pub fn source_ports(lab: &Lab, probe: &Probe, policy: &Policy) -> Vec<u16> {
    match &probe.source_ports {
        SourcePorts::These(ports) => ports.clone(),
        SourcePorts::Any | SourcePorts::All => {
            stretches(lab, probe, 0, policy).into_iter().flat_map(Stretch::ports).collect()
        }
    }
}

/// The source ports that a client of this kind may pick.
pub fn all_ports(lab: &Lab, host: &str) -> RangeInclusive<u16> {
    let (first, last) = lab.host(host).os.ports();
    first..=last
}

/// How the share of a probe with `source_ports = "all"` was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Counted {
    /// It follows from the stretches, each of which must be of one piece.
    ByStretch,
    /// Every port was judged: this many percent.
    EveryPort(f64),
    /// A NAT picked the ports: each case is a connection, and the share may differ by so many percentage points.
    Sampled(f64),
}

/// Holds what was seen against what had to be, and makes the report of a probe.
pub fn compare(
    lab: &Lab,
    probe: &Probe,
    mode: Mode,
    policy: &Policy,
    cases: Vec<Case>,
    counted: Counted,
) -> ProbeReport {
    let says = probe.expected(mode);
    let mut problems = Vec::new();
    for case in cases.iter().filter(|case| case.seen != case.expected) {
        problems.push(format!(
            "{}expected {}, saw {}",
            if case.source_port == 0 { String::new() } else { format!("from port {}: ", case.source_port) },
            sentence(&case.expected),
            sentence(&case.seen)
        ));
    }
    for case in cases.iter().filter(|case| case.control == Some(false)) {
        problems.push(format!("from port {}: not answered with nothing attached either", case.source_port));
    }
    if cases.is_empty() {
        problems.push("no case was tried".into());
    }
    // A sample may miss what is rare.
    if let Some(otherwise) = says.otherwise().filter(|_| !matches!(counted, Counted::Sampled(_)))
        && cases.iter().all(|case| case.seen != otherwise)
    {
        problems.push(format!("expected {} from other ports, and saw it from none", sentence(&otherwise)));
    }
    let share = says.percent.map(|expected| {
        let (percent, tolerance) = match counted {
            Counted::EveryPort(percent) => (percent, 0.0),
            Counted::Sampled(tolerance) => {
                let (mut as_said, mut total) = (0_u32, 0_u32);
                for case in &cases {
                    total += 1;
                    as_said += u32::from(case.seen.outcome == says.outcome);
                }
                (100.0 * f64::from(as_said) / f64::from(total.max(1)), tolerance)
            }
            Counted::ByStretch => {
                let (mut as_said, mut total) = (0, 0);
                for stretch in stretches(lab, probe, 0, policy) {
                    let outcomes: BTreeSet<Outcome> = cases
                        .iter()
                        .filter(|case| (stretch.first..=stretch.last).contains(&case.source_port))
                        .map(|case| case.seen.outcome)
                        .collect();
                    if outcomes.len() != 1 {
                        problems.push(format!("ports {} to {} are not of one piece", stretch.first, stretch.last));
                    }
                    total += stretch.ports_in_it();
                    as_said += if outcomes.contains(&says.outcome) { stretch.ports_in_it() } else { 0 };
                }
                (100.0 * f64::from(as_said) / f64::from(total), 0.0)
            }
        };
        Share { percent: (percent * 10.0).round() / 10.0, expected, tolerance }
    });
    if let Some(share) = share.filter(|share| !share.holds()) {
        problems.push(format!("{} % of the ports, expected {} %", share.percent, share.expected));
    }
    ProbeReport { name: probe.name.clone(), any_port: probe.source_ports == SourcePorts::Any, cases, share, problems }
}

/// An observation in words.
pub fn sentence(seen: &Observation) -> String {
    let mut hooks: Vec<&str> = seen.path.iter().map(|crossing| crossing.hook.as_str()).collect();
    hooks.dedup();
    let one = hooks.len() < 2;
    let words = |crossings: &[Crossing]| {
        let each = crossings.iter().map(|crossing| if one { crossing.by.to_string() } else { crossing.to_string() });
        each.collect::<Vec<_>>().join(if one { ", " } else { "; " })
    };
    let mut said = vec![words(&seen.path)];
    said.extend(seen.icmp_error.iter().map(|error| words(std::slice::from_ref(error))));
    if !seen.after.is_empty() {
        said.push(format!("then {}", words(&seen.after)));
    }
    said.retain(|part| !part.is_empty());
    if said.is_empty() { seen.outcome.to_string() } else { format!("{} ({})", seen.outcome, said.join(", ")) }
}
