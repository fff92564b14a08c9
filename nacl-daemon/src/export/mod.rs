//! [`Inventory`](crate::inventory::Inventory) → documents of others. One file a format; none of them writes a file or knows a
//! policy.

pub mod cloudformation;
pub mod terraform;
mod words;

use crate::inventory::Note;

/// A document, and what it does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The document.
    pub text: String,
    /// What the format has no way to say.
    pub notes: Vec<Note>,
}
