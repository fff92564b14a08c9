//! What is written down with every change, for the daemon that comes after this one: enough to know an interface as this one
//! did. Values only.

use std::{path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    dataplane::Note,
    observe::{History, Setting},
    resolve::Interface,
};

/// An interface under one policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memo {
    /// Its name in the policy.
    pub name: String,
    /// As it is in force: the policy's, but with the mode and layers that were set live.
    pub interface: Interface,
    /// Mode and layers as the policy has them.
    pub setting: Setting,
    /// What a person should know about it.
    pub notes: Vec<String>,
    /// What slots meant before.
    pub history: History,
    /// The policy.
    pub policy: Source,
    /// A policy that was put in force, and not confirmed.
    pub rejected: Option<Source>,
}

/// A policy as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its file.
    pub file: PathBuf,
    /// SHA-256 of its text.
    pub sha256: String,
    /// When it was read.
    pub loaded: SystemTime,
}

impl Memo {
    /// As it is written down.
    pub fn note(&self) -> Note {
        Note::of(self)
    }

    /// From what was written down; nothing where that was another build, with other ideas.
    pub fn read(note: &Note) -> Option<Self> {
        note.read().inspect_err(|error| tracing::warn!(reason = %error, "a note of a change cannot be read")).ok()
    }
}
