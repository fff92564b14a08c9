//! What is written down of an interface for whoever comes after us: how it was attached, and what each epoch that may be in
//! force means. Values only; `store` keeps the bytes.

use std::{collections::BTreeMap, io, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    attach::{Hooks, Tc},
    maps::Account,
};
use crate::resolve::Xdp;

/// One interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Name of its namespace; `None`: the daemon's own.
    pub netns: Option<String>,
    /// How the programs were loaded.
    pub loaded: Loaded,
    /// How they are attached.
    pub hooks: Hooks,
    /// Whether the clsact qdisc is ours to remove.
    pub made_qdisc: bool,
    /// By epoch.
    pub epochs: BTreeMap<u32, Known>,
}

impl Record {
    /// As it is written down.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }
}

/// What cannot be changed without loading the programs anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// How ingress was to be hooked.
    pub xdp: Xdp,
    /// How TC programs are attached.
    pub tc: Tc,
    /// Whether the programs log.
    pub trace: bool,
    /// Connections there is room for.
    pub entries: u32,
}

/// What is known of an epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Known {
    /// What the dataplane must know.
    pub account: Account,
    /// What the caller wants to find again.
    pub note: Note,
}

/// What a caller writes down with an epoch, as JSON. It is kept as it was written and never taken apart: with hundreds of rules it
/// is a megabyte, and each reload writes three of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Note(Arc<RawValue>);

impl Note {
    /// Of a value; `null` of one that has no JSON.
    pub fn of(value: &impl Serialize) -> Self {
        Self(to_raw_value(value).unwrap_or_default().into())
    }

    /// The value again.
    ///
    /// # Errors
    /// It is of another type.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.0.get())
    }
}

impl Default for Note {
    fn default() -> Self {
        Self::of(&())
    }
}

impl PartialEq for Note {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}
