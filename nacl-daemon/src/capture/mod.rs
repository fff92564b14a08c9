//! Packet captures, pcap and pcapng, as a stream of Ethernet frames: what was seen, when, and which way as far as the file says.
//! Any file, also a damaged or a hostile one: one packet at a time is in memory, and what cannot be read is an error with its
//! place. No policy is asked here.

mod frame;
mod link;
mod read;

use std::net::IpAddr;

use thiserror::Error;

pub use self::{
    frame::{Captured, Parsed},
    read::Reader,
};

/// A packet of a capture.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its number in the file, from 1, as other tools count.
    pub number: u64,
    /// Where its record begins in the file.
    pub offset: u64,
    /// Nanoseconds since 1970; `None` where the file does not say.
    pub time: Option<u64>,
    /// Its bytes as an Ethernet frame; of another link layer the header is made, with its protocol and no addresses.
    pub frame: Captured<'a>,
    /// The link layer, where it is one that cannot be read; `frame` is empty then.
    pub unreadable: Option<u16>,
    /// Whether the machine that captured sent it, where the file says so.
    pub sent: Option<bool>,
    /// Addresses of the interface it was captured on, where the file says so.
    pub local: &'a [IpAddr],
}

/// Why a capture could be read no further.
#[derive(Debug, Error)]
#[error("{place}: {what}", place = place(*.packet, *.offset))]
pub struct CaptureError {
    /// Number of the packet that would have been next.
    pub packet: u64,
    /// Where in the file what could not be read begins.
    pub offset: u64,
    /// What is wrong there.
    #[source]
    pub what: Wrong,
}

fn place(packet: u64, offset: u64) -> String {
    if offset == 0 { "at its beginning".to_owned() } else { format!("at packet {packet}, byte {offset}") }
}

/// What is wrong with a capture.
#[derive(Debug, Error)]
pub enum Wrong {
    /// It is something else.
    #[error("this is neither pcap nor pcapng{}", .0.map(|packed| format!(", but a file packed by {packed}")).unwrap_or_default())]
    NotACapture(Option<&'static str>),
    /// It ends too early.
    #[error("the file ends inside {0}")]
    Ends(&'static str),
    /// A length that nothing real has.
    #[error("{what} of {length} bytes: at most {most} are taken")]
    TooLong {
        /// What is so long.
        what: &'static str,
        /// Its length, as it says.
        length: u32,
        /// The most there can be.
        most: u32,
    },
    /// It contradicts itself.
    #[error("{0}")]
    Malformed(&'static str),
    /// A packet of an interface that the file does not describe.
    #[error("the packet is of interface {0}, which the file has not described")]
    NoInterface(u32),
    /// The system cannot read it.
    #[error("it cannot be read: {0}")]
    Io(std::io::Error),
}

impl CaptureError {
    /// Whether nothing at all could be read.
    pub const fn at_the_beginning(&self) -> bool {
        self.offset == 0
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self.what {
            Wrong::NotACapture(Some(packed)) => {
                Some(format!("unpack it on the way: `{packed} -dc FILE | nacld replay --config POLICY -`"))
            }
            _ => None,
        }
    }
}
