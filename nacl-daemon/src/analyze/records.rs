//! Captured packets as the windows of a flow log: what the kernel would have added up, and until when. What is told of a packet comes
//! from `nacl-common`, names and lines from `observe` and `report`.

use std::collections::BTreeMap;

use nacl_common::{
    border::{LogKey, Logged},
    flow::SECOND,
    flowlog,
};

use super::replay::{Fate, Seen};
use crate::dataplane::Window;

/// Records that are open at once. Where there are more, the window ends early, as AWS's may: its length is the most there is (F13).
const RECORDS: usize = 65_536;

/// One window at a time.
pub struct Windows {
    /// Seconds of a window.
    length: u64,
    /// Which one is open.
    open: u64,
    records: BTreeMap<LogKey, Logged>,
}

impl Windows {
    /// `length`: seconds, as AWS has them 60 or 600.
    pub const fn new(length: u64) -> Self {
        Self { length, open: 0, records: BTreeMap::new() }
    }

    /// Adds a packet. `began`: nanoseconds since 1970 of the first packet. Returns the window before, where it is over. Its times are
    /// nanoseconds since 1970.
    pub fn meet(&mut self, seen: &Seen, began: Option<u64>) -> Option<Window> {
        let (Fate::Judged { verdict, .. }, Some(packet), Some(direction)) = (seen.fate, seen.packet, seen.direction)
        else {
            return None;
        };
        if !flowlog::is_told(verdict.reason) {
            return None;
        }
        let time = began.unwrap_or_default().saturating_add(seen.at);
        let window = time / SECOND / self.length;
        let key = flowlog::key(direction, &packet, &verdict);
        let full = self.records.len() >= RECORDS && !self.records.contains_key(&key);
        let ended = if window != self.open || full { self.finish() } else { None };
        self.open = window;
        let record = self.records.entry(key).or_insert(Logged { first: time, ..Logged::default() });
        record.packets += 1;
        record.bytes += seen.bytes;
        record.last = time;
        record.decided = flowlog::decided(0, &verdict);
        record.tcp_flags |= flowlog::flags(packet.tcp_flags);
        ended
    }

    /// The window that is open, unless there is nothing in it.
    pub fn finish(&mut self) -> Option<Window> {
        let records: Vec<_> = std::mem::take(&mut self.records).into_iter().collect();
        let began = self.open * self.length * SECOND;
        let ended = began.saturating_add(self.length * SECOND);
        (!records.is_empty()).then(|| Window { began, ended, records, ..Window::default() })
    }
}
