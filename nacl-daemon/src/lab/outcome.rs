//! What was expected of a lab and what was seen, in the same words at every level, so that levels can be compared.
//! Nothing is run here.

use std::collections::BTreeSet;

use nacl_common::Reason;
use serde::Serialize;

use super::{
    Level, Outcome, RuleRef,
    file::{Lab, Probe, SourcePorts},
};
use crate::{compile::SlotTable, resolve::Interface};

/// What became of one probe from one source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Observation {
    /// How it ended.
    pub outcome: Outcome,
    /// The rule that decided the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RuleRef>,
    /// The rule that decided the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<RuleRef>,
    /// The rule that decided the router's ICMP error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_error: Option<RuleRef>,
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

/// A step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// Probes.
    pub probes: Vec<ProbeReport>,
    /// What went wrong with the step as a whole, such as a counter that moved and should not have.
    pub problems: Vec<String>,
    /// Wire: rules that counted packets, and how many the taps saw sent that they had to count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<RuleCount>,
}

/// What a rule counted during a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// The rule.
    pub rule: RuleRef,
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
}

impl StepReport {
    /// Nothing went wrong.
    pub fn ok(&self) -> bool {
        self.problems.is_empty() && self.probes.iter().all(|probe| probe.problems.is_empty())
    }
}

impl LabReport {
    /// Puts a run together.
    pub fn new(lab: &Lab, level: Level, seconds: f64, steps: Vec<StepReport>) -> Self {
        let ok = !steps.is_empty() && steps.iter().all(StepReport::ok);
        Self { lab: lab.name.clone(), title: lab.title.clone(), level, ok, seconds, not_run: None, steps }
    }

    /// A lab that has no form at this level.
    pub fn not_run(lab: &Lab, level: Level, why: &str) -> Self {
        Self {
            lab: lab.name.clone(),
            title: lab.title.clone(),
            level,
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
                let seen = |probe: &ProbeReport| probe.cases.iter().map(|case| case.seen).collect::<BTreeSet<_>>();
                let same = one.cases.iter().all(|case| {
                    match two.cases.iter().find(|candidate| candidate.source_port == case.source_port) {
                        Some(twin) => twin.seen == case.seen,
                        None => seen(two).contains(&case.seen),
                    }
                });
                if !same || one.share.map(|share| share.percent) != two.share.map(|share| share.percent) {
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

impl Probe {
    /// What the lab says must be seen; of a share, by the ports that end as it says.
    pub fn expected(&self) -> Observation {
        Observation {
            outcome: self.expect.outcome,
            request: Some(self.expect.request),
            reply: self.expect.reply,
            icmp_error: self.expect.icmp_error,
        }
    }

    /// Of a share: what must be seen by the other ports.
    pub fn otherwise(&self) -> Option<Observation> {
        let outcome = if self.expect.outcome == Outcome::Answered { Outcome::ReplyDropped } else { Outcome::Answered };
        self.expect.otherwise.map(|rule| Observation { outcome, reply: Some(rule), ..self.expected() })
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
    pub fn len(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

/// Cuts the range of the client behind a probe where a rule that may meet the reply begins or ends.
pub fn stretches(lab: &Lab, probe: &Probe, interface: &Interface) -> Vec<Stretch> {
    let (first, last) = lab.host(&probe.from).os.ports();
    let reply = lab.direction(probe).reverse();
    let mut starts: BTreeSet<u32> = [u32::from(first), u32::from(last) + 1].into();
    for (low, high) in interface.nacl.rules(reply).iter().filter_map(|rule| rule.ports) {
        let inside = |port: &u32| (u32::from(first)..=u32::from(last)).contains(port);
        starts.extend([u32::from(low), u32::from(high) + 1].into_iter().filter(inside));
    }
    let starts: Vec<u32> = starts.into_iter().collect();
    starts.windows(2).map(|pair| Stretch { first: pair[0] as u16, last: (pair[1] - 1) as u16 }).collect()
}

/// The source ports a probe is tried from. Empty where the protocol has none.
pub fn source_ports(lab: &Lab, probe: &Probe, interface: &Interface) -> Vec<u16> {
    match &probe.source_ports {
        SourcePorts::These(ports) => ports.clone(),
        SourcePorts::Any | SourcePorts::All => {
            stretches(lab, probe, interface).into_iter().flat_map(Stretch::ports).collect()
        }
    }
}

/// Holds what was seen against what had to be, and makes the report of a probe. `exact` gives the share where every port was
/// judged; without it the share follows from the stretches, each of which must be of one piece.
pub fn compare(lab: &Lab, probe: &Probe, interface: &Interface, cases: Vec<Case>, exact: Option<f64>) -> ProbeReport {
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
    let share = probe.expect.percent.map(|expected| {
        let percent = exact.unwrap_or_else(|| {
            let (mut as_said, mut total) = (0, 0);
            for stretch in stretches(lab, probe, interface) {
                let outcomes: BTreeSet<Outcome> = cases
                    .iter()
                    .filter(|case| (stretch.first..=stretch.last).contains(&case.source_port))
                    .map(|case| case.seen.outcome)
                    .collect();
                if outcomes.len() != 1 {
                    problems.push(format!("ports {} to {} are not of one piece", stretch.first, stretch.last));
                }
                total += stretch.len();
                as_said += if outcomes.contains(&probe.expect.outcome) { stretch.len() } else { 0 };
            }
            100.0 * f64::from(as_said) / f64::from(total)
        });
        Share { percent: (percent * 10.0).round() / 10.0, expected }
    });
    if let Some(share) = share.filter(|share| (share.percent - share.expected).abs() > 0.049) {
        problems.push(format!("{} % of the ports, expected {} %", share.percent, share.expected));
    }
    ProbeReport { name: probe.name.clone(), cases, share, problems }
}

/// An observation in words.
pub fn sentence(seen: &Observation) -> String {
    let rules: Vec<String> =
        [seen.request, seen.reply, seen.icmp_error].into_iter().flatten().map(|rule| rule.to_string()).collect();
    if rules.is_empty() { seen.outcome.to_string() } else { format!("{} ({})", seen.outcome, rules.join(", ")) }
}

/// The rule behind a slot and a reason, if a rule decided.
pub fn rule_of(slots: &SlotTable, slot: u16, reason: Reason) -> Option<RuleRef> {
    let slot = slots.slots.get(&slot)?;
    match reason {
        Reason::NaclRule => Some(RuleRef { direction: slot.direction, number: Some(slot.rule?) }),
        Reason::NaclImplicit => Some(RuleRef { direction: slot.direction, number: None }),
        _ => None,
    }
}
