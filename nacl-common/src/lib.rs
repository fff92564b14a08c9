//! The engine of nacld: every decision about a packet is made here, and nowhere else.
//!
//! Compiled unchanged into the XDP and TC programs and into the user-space binary, so what `nacld explain` says is
//! what the wire does. No `std`, no `alloc`, no dependency, no `unsafe`, no I/O: whoever calls brings a way to read
//! bytes ([`packet::Frame`]) and an image of the compiled policy ([`tables::Image`]).
//!
//! Byte order: addresses, ports and every other number in this crate are in host order as numbers; only the frame
//! itself is in network order.
#![no_std]
#![forbid(unsafe_code)]

pub mod border;
pub mod evaluate;
pub mod flow;
pub mod flowlog;
pub mod packet;
pub mod reason;
pub mod tables;

pub use border::{Control, Counter, Event};
pub use evaluate::{Action, Direction, Layer, Verdict};
pub use packet::{Family, Fragment, Frame, Packet};
pub use reason::Reason;
