//! Both legs of a flow, judged: which rule decided each, and what becomes of the flow.

use nacl_common::{Action, Direction, Layer, Packet, Reason, Verdict};

use thiserror::Error;

use super::{
    Fix,
    flow::{Flow, FlowError},
    smallest_fix,
};
use crate::{
    clients::Client,
    compile::{CompileError, Compiled, compile},
    resolve::{Interface, Rule},
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

/// What stops a packet.
#[derive(Clone, Debug)]
pub struct Blocker {
    /// The layer that denies.
    pub layer: Layer,
    /// Why.
    pub reason: Reason,
    /// The rule; `None` for the implied `*`.
    pub rule: Option<Rule>,
}

/// One packet of the flow and its verdict.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Which list judged it.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
    /// The verdict.
    pub verdict: Verdict,
    /// The numbered rule that decided, if one did.
    pub rule: Option<Rule>,
    /// Every layer that denies, first blocker first. (One layer so far, so at most one.)
    pub blockers: Vec<Blocker>,
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

/// Judges both legs by `judge`: the engine in this process ([`Compiled::judge`]) or the loaded program. `direction`: of
/// the request; `None`: from the interface's addresses and subnet. `client`: who asks, where known, so that a fix opens
/// that client's ports.
///
/// # Errors
/// The ends are of different families, or the judge fails.
pub fn explain<E: std::error::Error + 'static>(
    interface: &Interface,
    compiled: &Compiled,
    mut judge: impl FnMut(Direction, &Packet) -> Result<Verdict, E>,
    flow: Flow,
    direction: Option<Direction>,
    client: Option<Client>,
) -> Result<Explanation, ExplainError<E>> {
    let (direction, assumed) = direction.map_or_else(|| flow.direction(interface), |direction| (direction, None));
    let mut leg = |direction, packet: Packet| {
        let verdict = judge(direction, &packet).map_err(ExplainError::Judge)?;
        let rule = rule_of(interface, compiled, verdict).cloned();
        let blockers = if verdict.action == Action::Deny {
            vec![Blocker { layer: verdict.layer, reason: verdict.reason, rule: rule.clone() }]
        } else {
            Vec::new()
        };
        Ok::<_, ExplainError<E>>(Leg { direction, packet, verdict, rule, blockers })
    };
    let request = leg(direction, flow.request()?)?;
    let reply = flow.reply()?.map(|packet| leg(direction.reverse(), packet)).transpose()?;
    let denied = |leg: &Leg| leg.verdict.action == Action::Deny;
    let outcome = if denied(&request) {
        Outcome::RequestDenied
    } else if reply.as_ref().is_some_and(denied) {
        Outcome::ReplyDenied
    } else {
        Outcome::Works
    };
    let fix = if outcome == Outcome::Works { None } else { smallest_fix(interface, flow, direction, client) };
    Ok(Explanation { flow, assumed, request, reply, outcome, fix })
}

/// The numbered rule behind a verdict.
pub(super) fn rule_of<'a>(interface: &'a Interface, compiled: &Compiled, verdict: Verdict) -> Option<&'a Rule> {
    let slot = compiled.slots.slots.get(&verdict.slot)?;
    let number = slot.rule?;
    interface.nacl.rules(slot.direction).iter().find(|rule| rule.number == number)
}

/// Compiles an interface and judges both legs; for callers that have no compiled policy at hand.
pub(super) fn passes(interface: &Interface, flow: Flow, direction: Direction) -> Result<bool, CompileError> {
    let compiled = compile(interface, None)?;
    let pass = |direction, packet: Packet| compiled.judge(direction, &packet).action == Action::Allow;
    let request = flow.request().is_ok_and(|packet| pass(direction, packet));
    let reply = flow.reply().is_ok_and(|reply| reply.is_none_or(|packet| pass(direction.reverse(), packet)));
    Ok(request && reply)
}
