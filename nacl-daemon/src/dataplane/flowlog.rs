//! The flow log of one interface in the kernel: the map of the window that runs, and those of windows that are over and not
//! written yet. A window ends by another map taking its place: when that call returns no program writes to the old one any
//! more, so nothing is counted twice and nothing is lost. Knows nothing of files and lines.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, IterableMap, Map, MapData, MapError};
use nacl_common::{
    Counter,
    border::{LogKey, Logged},
};

use super::{
    DataplaneError,
    maps::{LogKeyPod, LoggedPod, read_all},
    memory,
    outer::{self, Outer},
};

/// Name of the map of maps in which the map of the running window stands.
pub const FLOW_LOG: &str = "FLOW_LOG";
/// What the pins of windows are called, with the id of the map behind it: the object does not have them.
const PIN: &str = "WINDOW_";

/// Whether a pin of this name is the map of a window.
pub fn is_window(name: &str) -> bool {
    name.starts_with(PIN)
}

/// A window of a flow log, by the kernel's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// What tells it from other windows of the interface: the kernel's id of its map.
    pub id: u32,
    /// When it began, nanoseconds of the kernel's coarse clock.
    pub began: u64,
    /// When it ended, or now where it runs.
    pub ended: u64,
    /// Packets and bytes for whose records there was no room.
    pub lost: Counter,
    /// What was met, in no order.
    pub records: Vec<(LogKey, Logged)>,
}

/// The map of a window.
struct Held {
    id: u32,
    map: HashMap<MapData, LogKeyPod, LoggedPod>,
    pin: Option<PathBuf>,
    ended: u64,
}

impl Held {
    /// A map with nothing in it but when it began.
    fn new(entries: u32, pins: Option<&Path>, now: u64) -> Result<Self, DataplaneError> {
        /// As the template's: elements are made when they are needed.
        const NO_PREALLOC: u32 = 1;
        // One more: what is said of the window itself takes an entry.
        let mut map = outer::hash(entries.saturating_add(1), NO_PREALLOC).map_err(failed)?;
        let window = Logged { first: now, ..Logged::default() };
        map.insert(LogKeyPod(LogKey::WINDOW), LoggedPod(window), 0).map_err(failed)?;
        let mut held = Self { id: id(map.map())?, map, pin: None, ended: 0 };
        if let Some(pins) = pins {
            let path = pins.join(format!("{PIN}{}", held.id));
            held.map.map().pin(&path).map_err(|source| DataplaneError::Pin { path: path.clone(), source })?;
            held.pin = Some(path);
        }
        Ok(held)
    }

    fn read(&self, now: u64) -> Result<Window, DataplaneError> {
        let mut records: Vec<(LogKey, Logged)> =
            read_all(self.map.map().fd().as_fd()).map_err(|source| failed(MapError::IoError(source)))?;
        let own = records.iter().position(|(key, _)| *key == LogKey::WINDOW).map(|place| records.swap_remove(place).1);
        let Logged { packets, bytes, first, .. } = own.unwrap_or_default();
        let ended = if self.ended == 0 { now } else { self.ended };
        Ok(Window { id: self.id, began: first, ended, lost: Counter { packets, bytes }, records })
    }

    /// How many records there is room for.
    fn room(&self) -> u32 {
        self.map.map().info().map_or(0, |info| info.max_entries().saturating_sub(1))
    }
}

const fn failed(source: MapError) -> DataplaneError {
    DataplaneError::Map { map: FLOW_LOG, source }
}

fn id(map: &MapData) -> Result<u32, DataplaneError> {
    map.info().map(|info| info.id()).map_err(failed)
}

/// The windows of one interface.
pub struct Windows {
    outer: Outer,
    /// The one that runs; nothing where no flow log is wanted.
    running: Option<Held>,
    /// Those that are over and not written yet, oldest first.
    over: Vec<Held>,
    /// Where they are pinned, if they are.
    pins: Option<PathBuf>,
}

impl Windows {
    pub const fn new(outer: Outer) -> Self {
        Self { outer, running: None, over: Vec::new(), pins: None }
    }

    /// Pins from here on what is made later; what was made before stands in another directory until this one takes its place.
    pub fn pin(&mut self, directory: &Path) {
        for held in self.running.iter_mut().chain(&mut self.over) {
            let name = held.pin.as_ref().and_then(|pin| pin.file_name());
            held.pin = name.map(|name| directory.join(name));
        }
        self.pins = Some(directory.to_owned());
    }

    /// Opens what another process has left. What is not in force is over; where nothing stands in it, it never began.
    pub fn adopt(&mut self, pins: &Path, now: u64) -> Result<(), DataplaneError> {
        self.pins = Some(pins.to_owned());
        let running = self.outer.id(0).map_err(|source| failed(MapError::IoError(source)))?;
        let entries = fs::read_dir(pins).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_window(name));
        for name in names {
            let path = pins.join(&name);
            let data = MapData::from_pin(&path).map_err(failed)?;
            let id = id(&data)?;
            let map = Map::from_map_data(data).and_then(HashMap::try_from).map_err(failed)?;
            let held = Held { id, map, pin: Some(path), ended: now };
            if running == Some(id) {
                self.running = Some(Held { ended: 0, ..held });
            } else if held.read(now)?.records.is_empty() {
                forget(&held);
            } else {
                self.over.push(held);
            }
        }
        self.over.sort_by_key(|held| held.id);
        Ok(())
    }

    /// Sees to it that there is a map with so much room, before programs are told to write to it.
    pub fn begin(&mut self, entries: u32, now: u64) -> Result<(), DataplaneError> {
        if self.running.as_ref().is_some_and(|held| held.room() == entries) {
            Ok(())
        } else {
            self.turn_to(entries, now)
        }
    }

    /// Ends the window that runs and begins another.
    pub fn turn(&mut self, now: u64) -> Result<(), DataplaneError> {
        self.running.as_ref().map(Held::room).map_or(Ok(()), |room| self.turn_to(room, now))
    }

    fn turn_to(&mut self, entries: u32, now: u64) -> Result<(), DataplaneError> {
        let next = Held::new(entries, self.pins.as_deref(), now)?;
        if let Err(source) = self.outer.put(0, next.map.map()) {
            forget(&next);
            return Err(failed(MapError::IoError(source)));
        }
        let before = self.running.replace(next);
        self.over.extend(before.map(|held| Held { ended: now, ..held }));
        Ok(())
    }

    /// Ends the window that runs, and begins none: no program is told to write any more.
    pub fn end(&mut self, now: u64) -> Result<(), DataplaneError> {
        if let Some(held) = self.running.take() {
            self.outer.empty(0).map_err(|source| failed(MapError::IoError(source)))?;
            self.over.push(Held { ended: now, ..held });
        }
        Ok(())
    }

    /// What runs, as far as it has come.
    pub fn running(&self, now: u64) -> Result<Option<Window>, DataplaneError> {
        self.running.as_ref().map(|held| held.read(now)).transpose()
    }

    /// What is over and not written yet, oldest first.
    pub fn over(&self, now: u64) -> Result<Vec<Window>, DataplaneError> {
        self.over.iter().map(|held| held.read(now)).collect()
    }

    /// Forgets windows that are over.
    pub fn written(&mut self, ids: &[u32]) {
        let (gone, stay) = std::mem::take(&mut self.over).into_iter().partition(|held| ids.contains(&held.id));
        self.over = stay;
        let gone: Vec<Held> = gone;
        gone.iter().for_each(forget);
    }

    /// Bytes in the kernel.
    pub fn bytes(&self) -> io::Result<u64> {
        self.running.iter().chain(&self.over).map(|held| memory::of(held.map.map())).sum()
    }
}

/// Takes a map's pin away; it ends with the last descriptor.
fn forget(held: &Held) {
    if let Some(pin) = &held.pin
        && let Err(error) = fs::remove_file(pin)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(pin = %pin.display(), reason = %error, "a window of the flow log stays pinned");
    }
}
