//! What must become of a probe, written down: how it ends and what decides at every hook it crosses, once for a network
//! ACL without a memory, as AWS has it, and once for the same rules with one. Judges nothing.
//!
//! The second column follows from the first where nothing but the memory changes: the same outcome, and every reply to a
//! request that a numbered rule let in or out passes because it is remembered. Whatever else changes is written in the
//! lab (`stateful`), so that a lab says all of what it claims.

use std::fmt;

use nacl_common::{Direction, Layer, Verdict, border::NO_SLOT};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    Lab,
    file::{Probe, SourcePorts},
    legs::Passage,
};
use crate::{
    compile::{Decider, SlotTable},
    resolve::Mode,
};

/// How a probe ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The answer arrives.
    #[default]
    Answered,
    /// The request is dropped.
    RequestDropped,
    /// The request arrives, the reply is dropped.
    ReplyDropped,
    /// The connection is made, and then nothing more arrives.
    Stalled,
    /// Data came, and after a change of the policy no more.
    Cut,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Answered => "answered",
            Self::RequestDropped => "request dropped",
            Self::ReplyDropped => "reply dropped",
            Self::Stalled => "stalled",
            Self::Cut => "cut",
        })
    }
}

/// What decided at one hook, in the order it was asked: inbound the network ACL and then the groups, outbound the
/// groups and then the network ACL (O1). The last one denies, if one does.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Decision(pub Vec<Decider>);

impl fmt::Display for Decision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return out.write_str("no rule");
        }
        for (index, decider) in self.0.iter().enumerate() {
            write!(out, "{}{decider}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Decision {
    /// What a verdict says, in the order the layers were asked.
    pub fn of(slots: &SlotTable, direction: Direction, verdict: &Verdict) -> Self {
        let mut by = slots.deciders(verdict);
        // The verdict names first what decided; of two that let the packet pass, the network ACL.
        let nacl = verdict.layer == Layer::Nacl;
        if verdict.also != NO_SLOT && nacl != (direction == Direction::Inbound) {
            by.reverse();
        }
        Self(by)
    }
}

/// One crossing of a hook, and what decided there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Crossing {
    /// The host behind the hook.
    pub hook: String,
    /// What decided.
    pub by: Decision,
}

impl fmt::Display for Crossing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.hook, self.by)
    }
}

/// A crossing as written: `lb: inbound 100, sg-2 inbound 1`; where a lab has one hook its name is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    hook: Option<String>,
    by: Decision,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (hook, by) = match text.split_once(": ") {
            Some((hook, by)) => (Some(hook.to_owned()), by),
            None => (None, text.as_str()),
        };
        let deciders: Result<_, _> = by.split(", ").map(str::parse).collect();
        Ok(Self { hook, by: Decision(deciders.map_err(de::Error::custom)?) })
    }
}

/// What must become of a probe, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// How it ends.
    outcome: Outcome,
    /// What decides the request, in a lab with one hook.
    request: Option<Written>,
    /// What decides the reply, likewise.
    reply: Option<Written>,
    /// What decides at every hook it crosses, as the message goes; instead of `request` and `reply`.
    path: Option<Vec<Written>>,
    /// What decides the router's "fragmentation needed" or "packet too big".
    icmp_error: Option<Written>,
    /// Of a download during which the policy changes: what decides afterwards, data first, then what acknowledges it.
    after: Option<Vec<Written>>,
    /// With `source_ports = "all"`: how many of a hundred ports end as `outcome` says.
    percent: Option<f64>,
    /// Likewise: what decides the reply to the other ports.
    otherwise: Option<Written>,
}

/// The other column, as written: what differs.
#[derive(Clone, Debug)]
pub enum Stateful {
    /// `"answered"`: from every port, because replies are remembered.
    Answered,
    /// What differs, key by key.
    Differs(Box<Differs>),
}

/// As [`Expect`], with everything optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differs {
    outcome: Option<Outcome>,
    request: Option<Written>,
    reply: Option<Written>,
    path: Option<Vec<Written>>,
    icmp_error: Option<Written>,
    after: Option<Vec<Written>>,
    percent: Option<f64>,
    otherwise: Option<Written>,
}

impl<'de> Deserialize<'de> for Stateful {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Stateful;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("\"answered\", or a table of what differs")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Stateful, E> {
                match text {
                    "answered" => Ok(Stateful::Answered),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Stateful, A::Error> {
                let differs = Differs::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Stateful::Differs(Box::new(differs)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What must become of a probe in one mode, every crossing named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// How it ends.
    pub outcome: Outcome,
    /// What decides at each hook, as the message goes, up to where it is dropped.
    pub path: Vec<Crossing>,
    /// What decides the router's ICMP error.
    pub icmp_error: Option<Crossing>,
    /// What decides after the policy was changed under a download.
    pub after: Vec<Crossing>,
    /// With `source_ports = "all"`: how many of a hundred ports end like this.
    pub percent: Option<f64>,
    /// Likewise: what decides the reply to the other ports.
    pub otherwise: Option<Crossing>,
}

/// Both columns of a probe. The default is of a probe whose expectations have not been read yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    stateless: Expected,
    stateful: Expected,
}

impl Columns {
    /// What must be seen in a mode.
    pub const fn of(&self, mode: Mode) -> &Expected {
        match mode {
            Mode::Stateless => &self.stateless,
            Mode::Stateful => &self.stateful,
        }
    }
}

/// Works out both columns of a probe. `fixed`: its step sets the mode itself, so that there is one.
///
/// # Errors
/// What contradicts itself or the hosts of the lab, as a sentence.
pub(super) fn columns(
    lab: &Lab,
    probe: &Probe,
    expect: &Expect,
    stateful: Option<&Stateful>,
    fixed: bool,
) -> Result<Columns, String> {
    let reading = Reading { lab, probe };
    let stateless = reading.stateless(expect)?;
    reading.check(&stateless)?;
    if fixed {
        return match stateful {
            Some(_) => Err("its step sets the mode, so there is no other column for `stateful` to be".into()),
            None => Ok(Columns { stateful: stateless.clone(), stateless }),
        };
    }
    let stateful = reading.stateful(&stateless, stateful)?;
    reading.check(&stateful).map_err(|what| format!("stateful: {what}"))?;
    Ok(Columns { stateless, stateful })
}

struct Reading<'a> {
    lab: &'a Lab,
    probe: &'a Probe,
}

impl Reading<'_> {
    fn crossing(&self, written: &Written, hook: &str) -> Result<Crossing, String> {
        match &written.hook {
            Some(name) if !self.lab.hooked(name) => Err(format!("{name:?} is none of this lab's hooks")),
            Some(name) => Ok(Crossing { hook: name.clone(), by: written.by.clone() }),
            None if self.lab.hooks.len() == 1 => Ok(Crossing { hook: hook.to_owned(), by: written.by.clone() }),
            None => Err(format!("\"{}\" does not say at which hook: write \"{hook}: {}\"", written.by, written.by)),
        }
    }

    fn crossings(&self, written: &[Written], passages: &[Passage<'_>]) -> Result<Vec<Crossing>, String> {
        // What is too much for the way is told by `check`.
        let hooks = passages.iter().map(|passage| passage.hook).chain(std::iter::repeat(self.lab.hooks[0].as_str()));
        written.iter().zip(hooks).map(|(written, hook)| self.crossing(written, hook)).collect()
    }

    fn path(
        &self,
        outcome: Outcome,
        request: Option<&Written>,
        reply: Option<&Written>,
        path: Option<&Vec<Written>>,
    ) -> Result<Vec<Crossing>, String> {
        let passages = self.lab.passages(self.probe, outcome);
        match (request, reply, path) {
            (None, None, Some(path)) => self.crossings(path, &passages),
            (Some(request), reply, None) if self.lab.hooks.len() == 1 => {
                let both: Vec<Written> = [Some(request), reply].into_iter().flatten().cloned().collect();
                self.crossings(&both, &passages)
            }
            _ => {
                Err("an expectation has either `path`, or in a lab with one hook `request` and perhaps `reply`".into())
            }
        }
    }

    fn stateless(&self, expect: &Expect) -> Result<Expected, String> {
        let Expect { outcome, request, reply, path, icmp_error, after, percent, otherwise } = expect;
        Ok(Expected {
            outcome: *outcome,
            path: self.path(*outcome, request.as_ref(), reply.as_ref(), path.as_ref())?,
            icmp_error: self.one(icmp_error.as_ref())?,
            after: self.crossings(after.as_deref().unwrap_or_default(), &self.lab.passages_after(self.probe))?,
            percent: *percent,
            otherwise: self.one(otherwise.as_ref())?,
        })
    }

    /// A crossing of the hook before the host that is asked.
    fn one(&self, written: Option<&Written>) -> Result<Option<Crossing>, String> {
        let hook = if self.lab.hooked(&self.probe.to) { &self.probe.to } else { &self.probe.from };
        written.map(|written| self.crossing(written, hook)).transpose()
    }

    fn stateful(&self, stateless: &Expected, stateful: Option<&Stateful>) -> Result<Expected, String> {
        let all_answered = Differs {
            outcome: Some(Outcome::Answered),
            percent: stateless.percent.map(|_| 100.0),
            ..Differs::default()
        };
        let nothing = Differs::default();
        let (differs, whole) = match stateful {
            None => (&nothing, false),
            Some(Stateful::Answered) => (&all_answered, true),
            Some(Stateful::Differs(differs)) => (&**differs, false),
        };
        let outcome = differs.outcome.unwrap_or(stateless.outcome);
        let path = if differs.path.is_some() {
            self.path(outcome, None, None, differs.path.as_ref())?
        } else if differs.request.is_some() {
            self.path(outcome, differs.request.as_ref(), differs.reply.as_ref(), None)?
        } else {
            let mut path = self.remembered(stateless, outcome)?;
            if let Some(reply) = &differs.reply {
                if self.lab.hooks.len() > 1 {
                    return Err("stateful: with several hooks, write a whole `path`".into());
                }
                path.truncate(1);
                path.push(self.crossing(reply, &self.lab.hooks[0])?);
            }
            path
        };
        let after = match &differs.after {
            Some(after) => self.crossings(after, &self.lab.passages_after(self.probe))?,
            None if outcome == stateless.outcome => {
                stateless.after.iter().map(|crossing| remembered(crossing, None)).collect()
            }
            None if stateless.after.is_empty() => Vec::new(),
            None => return Err("stateful: say with `after` what decides once the policy has changed".into()),
        };
        Ok(Expected {
            outcome,
            path,
            icmp_error: match &differs.icmp_error {
                Some(written) => self.one(Some(written))?,
                None => stateless.icmp_error.clone(),
            },
            after,
            percent: differs.percent.or(stateless.percent),
            otherwise: match &differs.otherwise {
                Some(written) => self.one(Some(written))?,
                None if whole || differs.percent.is_some_and(|percent| percent >= 100.0) => None,
                None => stateless.otherwise.clone(),
            },
        })
    }

    /// The path of the other column where only the memory makes the difference.
    fn remembered(&self, stateless: &Expected, outcome: Outcome) -> Result<Vec<Crossing>, String> {
        let old = self.lab.passages(self.probe, stateless.outcome);
        let new = self.lab.passages(self.probe, outcome);
        let of = |wanted: &Passage<'_>| {
            old.iter().position(|passage| passage == wanted).and_then(|index| stateless.path.get(index))
        };
        // Where it ends as before it ends at the same place.
        let length = if outcome == stateless.outcome { stateless.path.len() } else { new.len() };
        new.iter()
            .take(length)
            .map(|passage| {
                let unknown = || {
                    format!(
                        "stateful: nothing in the other column tells what decides at {:?}; write `path`",
                        passage.hook
                    )
                };
                if !passage.reply {
                    return of(passage).cloned().ok_or_else(unknown);
                }
                let back = Passage { reply: false, direction: passage.direction.reverse(), ..*passage };
                let request = of(&back).ok_or_else(unknown)?;
                match of(passage) {
                    Some(reply) => Ok(remembered(reply, Some(request))),
                    None if request.by.0.iter().all(|decider| numbered(decider).is_some()) => Ok(Crossing {
                        hook: passage.hook.into(),
                        by: Decision(vec![Decider::Tracked { direction: passage.direction }]),
                    }),
                    None => Err(unknown()),
                }
            })
            .collect()
    }

    fn check(&self, expected: &Expected) -> Result<(), String> {
        let require = |good: bool, what: &str| if good { Ok(()) } else { Err(what.to_string()) };
        let (lab, probe) = (self.lab, self.probe);
        let passages = lab.passages(probe, expected.outcome);
        let requests = passages.iter().filter(|passage| passage.connection == 0 && !passage.reply).count();
        let length = expected.path.len();
        let narrow = lab.meets_narrow_link(probe);
        let relayed = lab.connections(probe).len() > 1;
        let fits = match expected.outcome {
            Outcome::RequestDropped => (1..=requests).contains(&length),
            Outcome::ReplyDropped => (requests + 1..=passages.len()).contains(&length),
            Outcome::Stalled if relayed => (requests + 1..passages.len()).contains(&length),
            Outcome::Answered | Outcome::Stalled | Outcome::Cut => length == passages.len(),
        };
        require(
            fits,
            "the path has as many crossings as the message makes before it is dropped: a dropped request has no reply, an answered one has a reply at every hook",
        )?;
        along(&expected.path, &passages)?;
        require(
            expected.icmp_error.is_some()
                == (narrow && matches!(expected.outcome, Outcome::Answered | Outcome::Stalled)),
            "a download over a narrow link, and nothing else, meets an ICMP error",
        )?;
        if let Some(error) = &expected.icmp_error {
            let inbound = Passage { connection: 0, reply: false, hook: &probe.to, direction: Direction::Inbound };
            along(std::slice::from_ref(error), &[inbound])?;
        }
        require(
            expected.outcome != Outcome::Stalled || narrow || relayed,
            "only a download over a narrow link, or what goes through a relay, can stall",
        )?;
        let changes = probe.during.is_some();
        let after = lab.passages_after(probe);
        let fits = match expected.outcome {
            Outcome::Answered => expected.after.len() == if changes { after.len() } else { 0 },
            Outcome::Cut => changes && (1..=after.len()).contains(&expected.after.len()),
            _ => expected.after.is_empty(),
        };
        require(
            fits,
            "`after` goes with `during`: what decides for the data, then for what acknowledges it, up to where a download is cut",
        )?;
        along(&expected.after, &after)?;
        let all = probe.source_ports == SourcePorts::All;
        require(all == expected.percent.is_some(), "a percentage goes with source_ports = \"all\"")?;
        require(all || expected.otherwise.is_none(), "`otherwise` goes with source_ports = \"all\"")?;
        require(
            expected.percent.is_none_or(|percent| percent >= 100.0 || expected.otherwise.is_some()),
            "`otherwise` is what decides the reply to the other ports, so it belongs where there are others",
        )?;
        require(
            !all || (probe.protocol == super::file::ProbeProtocol::Tcp
                && passages.len() == 2
                && matches!(expected.outcome, Outcome::Answered | Outcome::ReplyDropped)),
            "a share is of TCP connections through one hook that are answered, or whose reply is dropped",
        )?;
        if let Some(otherwise) = &expected.otherwise {
            along(std::slice::from_ref(otherwise), &passages[1..])?;
        }
        Ok(())
    }
}

/// Holds crossings against the way a packet takes: the right hook, and rules of the list this way meets.
fn along(crossings: &[Crossing], passages: &[Passage<'_>]) -> Result<(), String> {
    for (crossing, passage) in crossings.iter().zip(passages) {
        if crossing.hook != passage.hook {
            return Err(format!("\"{crossing}\" stands where the message crosses the hook of {:?}", passage.hook));
        }
        let other = |decider: &&Decider| direction(decider).is_some_and(|direction| direction != passage.direction);
        if let Some(decider) = crossing.by.0.iter().find(other) {
            return Err(format!("\"{decider}\" stands in the other list than the one this leg meets"));
        }
    }
    Ok(())
}

/// The list something decides in, where it is in one.
const fn direction(decider: &Decider) -> Option<Direction> {
    match decider {
        Decider::Nacl { direction, .. }
        | Decider::NaclImplied { direction }
        | Decider::Group { direction, .. }
        | Decider::GroupImplied { direction }
        | Decider::Tracked { direction } => Some(*direction),
        Decider::SameSubnet | Decider::Unlisted(_) => None,
    }
}

/// A rule of the network ACL by which a connection is remembered, and its direction.
const fn numbered(decider: &Decider) -> Option<Direction> {
    match decider {
        Decider::Nacl { direction, .. } => Some(*direction),
        _ => None,
    }
}

/// A crossing of a connection that is remembered. `request`: what let it be made here, where that is not the crossing
/// itself.
fn remembered(crossing: &Crossing, request: Option<&Crossing>) -> Crossing {
    let tracked = request.unwrap_or(crossing).by.0.iter().any(|decider| numbered(decider).is_some());
    let mut by: Vec<Decider> = Vec::new();
    for decider in &crossing.by.0 {
        let decider = match direction(decider) {
            Some(direction) if tracked && decider.layer() == Layer::Nacl => Decider::Tracked { direction },
            _ => decider.clone(),
        };
        // A packet that both layers remember is decided, and counted, once.
        if !by.contains(&decider) {
            by.push(decider);
        }
    }
    Crossing { hook: crossing.hook.clone(), by: Decision(by) }
}
