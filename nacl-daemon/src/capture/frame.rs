//! A frame as a capture holds it: perhaps not all of it.

use std::cell::Cell;

use nacl_common::{
    Packet, Reason,
    packet::{Extent, Frame, parse_into},
};

/// The bytes of an Ethernet frame that a capture kept, and how many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// What was kept.
    pub bytes: &'a [u8],
    /// Bytes of the frame when it was captured.
    pub length: u64,
}

/// What the engine's parser makes of a captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A packet, and how many bytes its IP header says it has.
    Packet(Packet, u32),
    /// No packet that could be judged by rules, for this reason.
    Other(Reason),
    /// A header is missing that the frame had and the capture did not keep.
    Cut,
}

/// Most bytes of a frame whose IP header can say how long it is: the programs take longer ones for what segmentation offload
/// makes, of which the header says 0.
const LONGEST: u64 = 14 + 0xffff;

impl Captured<'_> {
    /// Whether something of it was not kept.
    pub const fn is_cut(&self) -> bool {
        (self.bytes.len() as u64) < self.length
    }

    /// Whether the frame was longer than an IP header can say.
    pub const fn is_oversized(&self) -> bool {
        self.length > LONGEST
    }

    /// Parses it by the engine's parser. What seems too short because the capture did not keep it is never taken for malformed.
    pub fn parse(&self) -> Parsed {
        let mut packet = Packet::NOT_PARSED;
        let mut extent = Extent::default();
        let watched = Watched { captured: *self, missed: Cell::new(false) };
        match parse_into(&watched, 0, &mut packet, &mut extent) {
            Ok(_) => Parsed::Packet(packet, extent.length()),
            Err(_) if watched.missed.get() => Parsed::Cut,
            Err(reason) => Parsed::Other(reason),
        }
    }
}

/// A frame that remembers whether it was asked for bytes that the capture did not keep. The parser gives up at the first such
/// bytes, so it is then those that it gave up for.
struct Watched<'a> {
    captured: Captured<'a>,
    missed: Cell<bool>,
}

impl Frame for Watched<'_> {
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let found = self.captured.bytes.get(offset..).and_then(<[u8]>::first_chunk).copied();
        if found.is_none() && (offset + N) as u64 <= self.captured.length {
            self.missed.set(true);
        }
        found
    }

    fn oversized(&self) -> bool {
        self.captured.is_oversized()
    }
}
