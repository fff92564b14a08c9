//! Reading what the programs report. Turns bytes into events and no event into text.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use log::Log;
use nacl_common::Event;

use super::{
    DataplaneError,
    object::{Object, Pinned, Source},
};

/// The events of one interface. Readable, in poll's sense, when there are some.
pub struct EventReader {
    ring: RingBuf<MapData>,
    trace: Option<EbpfLogger<&'static dyn Log>>,
}

impl EventReader {
    /// Of pins: programs that log are not taken over.
    pub(super) fn pinned(pins: &mut Pinned<'_>) -> Result<Self, DataplaneError> {
        Ok(Self { ring: pins.map("EVENTS")?, trace: None })
    }

    pub(super) fn take(object: &mut Object, trace: bool) -> Result<Self, DataplaneError> {
        let ring = object.map("EVENTS")?;
        let trace = trace
            .then(|| EbpfLogger::init(object.ebpf()))
            .transpose()
            .map_err(|_| DataplaneError::Lacks("AYA_LOGS"))?;
        Ok(Self { ring, trace })
    }

    /// The next event, if there is one.
    #[expect(clippy::should_implement_trait, reason = "an empty ring is not the end of an iteration")]
    pub fn next(&mut self) -> Option<Event> {
        while let Some(item) = self.ring.next() {
            if let Some(event) = event(&item) {
                return Some(event);
            }
        }
        None
    }

    /// Passes what the programs logged since the last call to the `log` crate's logger; nothing without `--trace`.
    pub fn flush_trace(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.flush();
        }
    }

    /// What to poll for the log of `--trace`.
    pub fn trace_fd(&self) -> Option<BorrowedFd<'_>> {
        self.trace.as_ref().map(AsFd::as_fd)
    }
}

impl AsRawFd for EventReader {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// An event from the bytes of one.
fn event(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: of that length, read at any alignment, and every bit pattern is an event.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}
