//! Exact questions about compiled policies: what becomes of a flow, and the smallest rule that would mend it. Asks the
//! engine, never decides by itself; prints nothing.

mod explain;
mod fix;
mod flow;
mod jsonl;
pub mod path;
mod query;
pub mod records;
pub mod replay;

pub use self::{
    explain::{ExplainError, Explanation, Leg, Outcome, Remembered, Said, explain},
    fix::{Fix, NewRule, smallest_fix},
    flow::{Flow, FlowError, number},
    jsonl::{Lines, StreamError, answer},
    path::{Path, reachability_code},
    query::Query,
    replay::Replay,
};

pub(crate) use self::flow::address;
