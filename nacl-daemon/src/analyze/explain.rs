//! Both legs of a flow, judged one after the other: what each layer says of each, what is remembered in between, and what
//! becomes of the flow.

use nacl_common::{Action, Control, Direction, Layer, Packet, Reason, Verdict, border::Entry};
use thiserror::Error;

use super::{
    Fix,
    flow::{Flow, FlowError},
    smallest_fix,
};
use crate::{
    clients::Client,
    compile::{CompileError, Compiled, Decider, Slot, compile},
    engine::Engine,
    resolve::Interface,
};

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Request and reply pass.
    Works,
    /// The request is dropped.
    RequestDenied,
    /// The request arrives, the reply is dropped.
    ReplyDenied,
}

/// What one layer says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Network ACL or security groups.
    pub layer: Layer,
    /// Whether it lets the packet pass.
    pub allow: bool,
    /// Of the security groups: they let the packet pass by a rule whose flows are not tracked (S30).
    pub untracked: bool,
    /// Why.
    pub reason: Reason,
    /// What of the layer decided.
    pub by: Decider,
}

/// One packet of the flow and its verdict.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Which lists judged it.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
    /// The verdict.
    pub verdict: Verdict,
    /// What decided.
    pub by: Decider,
    /// What is known of it: its layer's name, its line.
    pub slot: Option<Slot>,
    /// What each layer that is on says, in the order in which they are asked; also those behind one that denies. Empty where
    /// none is asked.
    pub said: Vec<Said>,
}

impl Leg {
    /// Whether it passes.
    pub fn passes(&self) -> bool {
        self.verdict.action == Action::Allow
    }

    /// Every layer that denies, first blocker first (O6).
    pub fn blockers(&self) -> impl Iterator<Item = &Said> {
        self.said.iter().filter(|said| !said.allow)
    }
}

/// What is remembered of a flow once its request has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "two who may remember, and two reasons why nobody does")]
pub struct Remembered {
    /// By the network ACL, in stateful mode.
    pub nacl: bool,
    /// By the security groups.
    pub groups: bool,
    /// Not by the security groups, because its rule is open to everybody and so is the other direction (S30).
    pub untracked: bool,
    /// By nobody, because such a packet begins no connection: ICMP that is no echo request.
    pub no_connection: bool,
}

/// A flow through an interface, explained.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The flow.
    pub flow: Flow,
    /// Why the direction had to be assumed, if so.
    pub assumed: Option<&'static str>,
    /// The first packet.
    pub request: Leg,
    /// What it leaves behind.
    pub remembered: Remembered,
    /// The answer; `None` for an ICMP message that is not answered.
    pub reply: Option<Leg>,
    /// What becomes of the flow.
    pub outcome: Outcome,
    /// The smallest fix, where the flow dies and one exists.
    pub fix: Option<Fix>,
}

/// Why a flow could not be explained.
#[derive(Debug, Error)]
pub enum ExplainError<E: std::error::Error + 'static> {
    /// No packet can belong to it.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// The judge failed.
    #[error(transparent)]
    Judge(E),
}

/// Judges both legs by `judge`, which has just put the policy in force and remembers what it is to remember: an
/// [`Engine`] or the loaded program. What each layer says comes from the engine. `direction`: of the request; `None`: from
/// the interface's addresses and subnet. `client`: who asks, where known, so that a fix opens that client's ports.
///
/// # Errors
/// The ends are of different families, or the judge fails.
pub fn explain<E: std::error::Error + 'static>(
    interface: &Interface,
    compiled: &Compiled,
    judge: impl FnMut(Direction, &Packet) -> Result<Verdict, E>,
    flow: Flow,
    direction: Option<Direction>,
    client: Option<Client>,
) -> Result<Explanation, ExplainError<E>> {
    let (direction, assumed) = direction.map_or_else(|| flow.direction(interface), |direction| (direction, None));
    let mut place = Judging::new(interface, compiled, judge);
    let (request, entry) = place.leg(direction, flow.request()?).map_err(ExplainError::Judge)?;
    let reply = match flow.reply()? {
        Some(packet) => Some(place.leg(direction.reverse(), packet).map_err(ExplainError::Judge)?.0),
        None => None,
    };
    let remembered = remembered(place.control(), &request, entry.as_ref());
    let outcome = if !request.passes() {
        Outcome::RequestDenied
    } else if reply.as_ref().is_some_and(|reply| !reply.passes()) {
        Outcome::ReplyDenied
    } else {
        Outcome::Works
    };
    let fix = if outcome == Outcome::Works { None } else { smallest_fix(interface, flow, direction, client) };
    Ok(Explanation { flow, assumed, request, remembered, reply, outcome, fix })
}

/// A place where packets are judged: by somebody with a memory, and by an engine that says what each layer has to say.
pub(super) struct Judging<J> {
    engine: Engine,
    judge: J,
}

impl<E, J: FnMut(Direction, &Packet) -> Result<Verdict, E>> Judging<J> {
    pub(super) fn new(interface: &Interface, compiled: &Compiled, judge: J) -> Self {
        Self { engine: Engine::new(interface, compiled), judge }
    }

    /// The settings in force.
    pub(super) const fn control(&self) -> Control {
        self.engine.at().control
    }

    /// Judges a packet, and says what is remembered of its connection then.
    pub(super) fn leg(&mut self, direction: Direction, packet: Packet) -> Result<(Leg, Option<Entry>), E> {
        let said = said(&self.engine, direction, &packet);
        self.engine.judge(direction, &packet);
        let verdict = (self.judge)(direction, &packet)?;
        let slots = &self.engine.compiled().slots;
        let (by, slot) = (slots.decider(verdict.slot, verdict.reason), slots.slots.get(&verdict.slot).cloned());
        let entry = self.engine.entry(direction, &packet).copied();
        Ok((Leg { direction, packet, verdict, by, slot, said }, entry))
    }
}

/// What each layer says of a packet.
pub(super) fn said(engine: &Engine, direction: Direction, packet: &Packet) -> Vec<Said> {
    let said = engine.says(direction, packet).into_iter().map(|(layer, says)| Said {
        layer,
        allow: says.allow,
        untracked: says.untracked,
        reason: says.reason,
        by: engine.compiled().slots.decider(says.slot, says.reason),
    });
    said.collect()
}

pub(super) fn remembered(control: Control, request: &Leg, entry: Option<&Entry>) -> Remembered {
    if !request.passes() {
        return Remembered::default();
    }
    // The network ACL's mark is set in either mode, and looked at in one.
    let stateful = control.has(Control::STATEFUL | Control::NACL);
    let rules = request.said.iter().any(|said| match said.reason {
        Reason::NaclRule => stateful,
        reason => reason == Reason::GroupRule,
    });
    let untracked = request.said.iter().any(|said| said.untracked);
    Remembered {
        nacl: stateful && entry.is_some_and(|entry| entry.nacl == 1),
        groups: entry.is_some_and(|entry| entry.group == 1),
        untracked,
        no_connection: rules && !untracked && entry.is_none(),
    }
}

/// Compiles an interface and judges both legs; for callers that have no compiled policy at hand.
pub(super) fn passes(interface: &Interface, flow: Flow, direction: Direction) -> Result<bool, CompileError> {
    let mut engine = Engine::new(interface, &compile(interface, None)?);
    let mut pass = |direction, packet: Packet| engine.judge(direction, &packet).action == Action::Allow;
    let request = flow.request().is_ok_and(|packet| pass(direction, packet));
    let reply = flow.reply().is_ok_and(|reply| reply.is_none_or(|packet| pass(direction.reverse(), packet)));
    Ok(request && reply)
}
