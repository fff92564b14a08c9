//! A witness: every frame that a host sends or receives, as a packet socket inside its namespace sees it. Reads headers
//! only, decides nothing.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nacl_common::{Packet, packet};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
            setsockopt, socket, sockopt,
        },
        time::TimeSpec,
    },
};

use crate::netns;

/// Room for the frames of a step, none of which may be missed.
const ROOM: usize = 16 << 20;

/// Longest header that is looked at.
const SNAP: usize = 192;

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

/// A packet that was seen.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// When, by the real-time clock.
    pub at: Duration,
    /// Whether the host sent it; else it received it.
    pub sent: bool,
    /// The packet.
    pub packet: Packet,
}

/// A tap on a host. Frames wait in its socket until they are asked for.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Opens a tap on everything in a namespace.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open(namespace: &str) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = netns::within(Some(namespace), || {
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        })??;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self(socket))
    }

    /// What was seen since the last call, in order.
    ///
    /// # Errors
    /// The socket fails.
    pub fn take(&self) -> io::Result<Vec<Sight>> {
        let mut sights = Vec::new();
        let mut space = cmsg_space!(TimeSpec);
        let mut buffer = [0; SNAP];
        loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let message =
                match recvmsg::<LinkAddr>(self.0.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()) {
                    Ok(message) => message,
                    Err(Errno::EAGAIN) => return Ok(sights),
                    Err(Errno::EINTR) => continue,
                    Err(error) => return Err(error.into()),
                };
            let sent = message.address.is_some_and(|address| address.pkttype() == OUTGOING);
            let at = message.cmsgs().ok().and_then(|mut messages| {
                messages.find_map(|message| match message {
                    ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                    _ => None,
                })
            });
            let length = message.bytes;
            // What is not IP, such as ARP, is no packet of a lab.
            if let Ok(packet) = packet::parse(&buffer[..length.min(SNAP)], 0) {
                sights.push(Sight { at: at.unwrap_or_default(), sent, packet });
            }
        }
    }
}
