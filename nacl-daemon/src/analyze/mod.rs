//! Exact questions about compiled policies: what becomes of a flow, the smallest rule that would mend it, and what the rules come to.
//! Asks the engine, never decides by itself; prints nothing.

mod decided;
mod diff;
mod explain;
mod findings;
mod fix;
mod flow;
mod jsonl;
mod mend;
pub mod path;
mod query;
pub mod records;
pub mod replay;
mod search;
pub mod sets;

pub use self::{
    decided::Decided,
    diff::{BrokenReply, Change, DiffError, Difference, InterfaceDifference, SettingChange, What, changes, diff},
    explain::{ExplainError, Explanation, Leg, Outcome, Remembered, Said, explain},
    findings::{broken_returns, findings, findings_within},
    fix::{Fix, NewRule, smallest_fix, smallest_fix_beside},
    flow::{Flow, FlowError, number},
    jsonl::{Lines, StreamError, answer},
    mend::{Mended, mend, same_verdicts},
    path::{Path, reachability_code},
    query::Query,
    replay::Replay,
    search::{Found, Ports, Search, SearchError, Searched, search},
};

pub(crate) use self::flow::address;
