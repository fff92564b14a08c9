//! Values → text and JSON for people and machines. Never queries.

pub mod diagnostics;
pub mod explain;
pub mod rule;
