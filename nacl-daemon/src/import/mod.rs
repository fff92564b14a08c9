//! Documents of AWS's and of those who write them for AWS → [`Inventory`](crate::inventory::Inventory). One file or room a
//! format; `tree` is how all of them read, `term`, `traffic` and `assemble` what those share that are written to make things.
//! Files are read by whoever calls, and no policy is written here.

mod any;
mod assemble;
pub mod cloudformation;
mod format;
mod term;
pub mod terraform;
mod traffic;
pub mod tree;

use std::sync::Arc;

pub use self::{
    any::policy_of,
    format::{Format, sniff},
};
use crate::inventory::Place;

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file, as it is named in messages.
    pub file: Arc<str>,
    /// What stands in it.
    pub text: String,
}

/// Something that is wrong with a document. One that has any cannot be imported; all of them are told at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}
