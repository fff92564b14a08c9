//! Captured packets as AWS's flow records: one for each five numbers of a flow, what became of it, and window of time. The
//! lines are `report`'s.

use std::{collections::BTreeMap, net::IpAddr};

use nacl_common::{Action, Reason, flow::SECOND};

use super::{
    flow::address,
    replay::{Fate, Seen},
};

/// A flow record, as far as a capture knows it (F3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Source port; 0 for protocols without ports (F7).
    pub sport: u16,
    /// Destination port, likewise.
    pub dport: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Every layer let it pass (F4).
    pub accept: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes by their IP headers: a ping of 56 bytes is 84.
    pub bytes: u64,
    /// Second of the first packet, since 1970.
    pub start: u64,
    /// Second of the last one.
    pub end: u64,
}

type Key = (IpAddr, IpAddr, u16, u16, u8, bool);

/// Records of one window at a time.
pub struct Windows {
    /// Seconds of a window.
    length: u64,
    /// Which one is open.
    open: u64,
    records: BTreeMap<Key, FlowRecord>,
}

/// Records that are open at once. Where there are more, the window ends early, as AWS's may: its length is the most there is (F13).
const RECORDS: usize = 65_536;

impl Windows {
    /// `length`: seconds, as AWS has them 60 or 600.
    pub const fn new(length: u64) -> Self {
        Self { length, open: 0, records: BTreeMap::new() }
    }

    /// Adds a packet. `began`: nanoseconds since 1970 of the first packet. Returns the records of a window that ended before.
    pub fn meet(&mut self, seen: &Seen, began: Option<u64>) -> Vec<FlowRecord> {
        let (Fate::Judged { verdict, .. }, Some(packet), Some(_)) = (seen.fate, seen.packet, seen.direction) else {
            return Vec::new();
        };
        if !is_logged(verdict.reason) {
            return Vec::new();
        }
        let second = began.unwrap_or_default().saturating_add(seen.at) / SECOND;
        let window = second / self.length;
        let [source, destination] = [packet.src, packet.dst].map(|end| address(packet.family, end));
        let (sport, dport) = if matches!(packet.protocol, 6 | 17) { (packet.sport, packet.dport) } else { (0, 0) };
        let accept = verdict.action == Action::Allow;
        let key = (source, destination, sport, dport, packet.protocol, accept);
        let full = self.records.len() >= RECORDS && !self.records.contains_key(&key);
        let ended = if window != self.open || full { self.finish() } else { Vec::new() };
        self.open = window;
        let record = self.records.entry(key).or_insert(FlowRecord {
            source,
            destination,
            sport,
            dport,
            protocol: packet.protocol,
            accept,
            packets: 0,
            bytes: 0,
            start: second,
            end: second,
        });
        record.packets += 1;
        record.bytes += seen.bytes;
        record.end = second;
        ended
    }

    /// The records of the window that is open, by when they began.
    pub fn finish(&mut self) -> Vec<FlowRecord> {
        let mut records: Vec<_> = std::mem::take(&mut self.records).into_values().collect();
        records.sort_by_key(|record| record.start);
        records
    }
}

/// What AWS's flow logs leave out (F16), and what a VPC answers itself.
const fn is_logged(reason: Reason) -> bool {
    !matches!(reason, Reason::AwsService | Reason::Dhcp | Reason::NeighbourDiscovery | Reason::Mld)
}
