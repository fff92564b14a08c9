//! Exact questions about compiled policies: what becomes of a flow, and the smallest rule that would mend it. Asks the
//! engine, never decides by itself; prints nothing.

mod decided;
mod diff;
mod explain;
mod fix;
mod flow;
mod jsonl;
mod query;
mod search;
pub mod sets;

pub use self::{
    decided::Decided,
    diff::{Change, DiffError, Difference, InterfaceDifference, SettingChange, What, changes, diff},
    explain::{ExplainError, Explanation, Leg, Outcome, Remembered, Said, explain},
    fix::{Fix, NewRule, smallest_fix},
    flow::{Flow, FlowError, number},
    jsonl::{Lines, StreamError, answer},
    query::Query,
    search::{Found, Ports, Search, SearchError, Searched, search},
};

pub(crate) use self::flow::address;
