//! All that a daemon tells at one moment: for whoever asks often, and must not keep others from changing something.

use super::{InterfaceRules, Status};

/// What is in force everywhere, and what it met. Counters of one interface are of one moment; two interfaces are read one after
/// the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What is enforced, where and how.
    pub status: Status,
    /// The rule tables with hits, of the same interfaces in the same order.
    pub rules: Vec<InterfaceRules>,
}
