//! Exact questions about compiled policies: what becomes of a flow, the smallest rule that would mend it, and what the rules come to.
//! Asks the engine, never decides by itself; prints nothing.

mod explain;
mod findings;
mod fix;
mod flow;
mod jsonl;
mod mend;
mod query;
pub mod sets;

pub use self::{
    explain::{ExplainError, Explanation, Leg, Outcome, Remembered, Said, explain},
    findings::findings,
    fix::{Fix, NewRule, smallest_fix},
    flow::{Flow, FlowError, number},
    jsonl::{Lines, StreamError, answer},
    mend::{Mended, mend, same_verdicts},
    query::Query,
};

pub(crate) use self::flow::address;
