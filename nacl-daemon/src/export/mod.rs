//! An inventory → a document of AWS's, or of those who write them for AWS. One file a format; no policy and no file is read here.
//! [`nftables`] alone is made of a resolved policy: what it says of a packet is asked of it as a second opinion.

pub mod aws;
pub mod cloudformation;
pub mod nftables;
pub mod terraform;
mod words;

use crate::inventory::Note;

/// A document that was made.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Its text.
    pub text: String,
    /// What the format cannot say.
    pub notes: Vec<Note>,
}
