//! Values → text and JSON for people and machines. Never queries.

pub mod console;
pub mod diagnostics;
pub mod explain;
pub mod json;
pub mod rule;
pub mod rules;
pub mod status;
