//! Maps of maps: what stands in a slot, making a map that may, putting it there, and emptying it, most of which aya does not offer.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};

use super::sys::{self, Command, Shape};

/// Makes an array that may stand in a slot.
pub fn array<T: Pod>(entries: u32, flags: u32) -> Result<Array<MapData, T>, MapError> {
    const ARRAY: u32 = 2;
    made(Shape { kind: ARRAY, key: 4, value: size_of::<T>() as u32, entries, flags })?.try_into()
}

/// Makes a hash table that may stand in a slot.
pub fn hash<K: Pod, V: Pod>(entries: u32, flags: u32) -> Result<HashMap<MapData, K, V>, MapError> {
    const HASH: u32 = 1;
    made(Shape { kind: HASH, key: size_of::<K>() as u32, value: size_of::<V>() as u32, entries, flags })?.try_into()
}

fn made(shape: Shape) -> Result<Map, MapError> {
    Map::from_map_data(MapData::from_fd(sys::map_create(shape).map_err(MapError::IoError)?)?)
}

/// An array of maps.
pub struct Outer(pub MapData);

impl Outer {
    /// Puts a map into a slot. Returns after an RCU grace period: every program that ran when it was called has ended.
    pub fn put(&self, slot: u32, inner: &MapData) -> io::Result<()> {
        let inner = inner.fd().as_fd().as_raw_fd();
        self.element(Command::UpdateElement, slot, (&raw const inner) as u64)
    }

    /// Empties a slot that holds a map. Returns after a grace period, likewise.
    pub fn empty(&self, slot: u32) -> io::Result<()> {
        self.element(Command::DeleteElement, slot, 0)
    }

    /// Kernel id of the map in a slot, if there is one.
    pub fn id(&self, slot: u32) -> io::Result<Option<u32>> {
        let mut id = 0_u32;
        match self.element(Command::LookupElement, slot, (&raw mut id) as u64) {
            Ok(()) => Ok(Some(id)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn element(&self, command: Command, slot: u32, value: u64) -> io::Result<()> {
        /// What bpf(2) takes for one element of a map.
        #[repr(C)]
        struct Element {
            map: i32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let map = self.0.fd().as_fd().as_raw_fd();
        let mut element = Element { map, pad: 0, key: (&raw const slot) as u64, value, flags: 0 };
        // SAFETY: an open map, a key and a value of its sizes that outlive the call.
        unsafe { sys::bpf(command, &mut element) }.map(drop)
    }
}
