//! What maps take, by the kernel's own account.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
};

use aya::maps::{Map, MapData};

use super::DataplaneError;

/// What an interface takes in the kernel, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The generation in force and the one before it; interfaces with equal ones share them.
    pub generations: u64,
    /// Counters of rules and reasons, of all CPUs.
    pub counters: u64,
    /// What is remembered of connections and fragments, and the room kept for it.
    pub connections: u64,
    /// Everything else: the ring of events, above all.
    pub other: u64,
}

impl Memory {
    /// Without the generations, which others may share.
    pub const fn own(self) -> u64 {
        self.counters + self.connections + self.other
    }
}

/// Bytes of a map (`memlock` of its descriptor): what is allocated for it now, since Linux 6.4; before, an estimate.
pub fn of(map: &MapData) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("the kernel does not tell what a map takes"))
}

/// What is said where the kernel does not tell.
pub fn unknown(source: io::Error) -> DataplaneError {
    DataplaneError::Ask { what: "what maps take".into(), source }
}

/// The map itself, of the kinds that the programs have.
pub const fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}
