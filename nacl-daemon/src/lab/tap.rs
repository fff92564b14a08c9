//! A witness: every frame that a host sends or receives over its link, as a packet socket inside its namespace sees it.
//! Reads headers only, decides nothing.
//!
//! Every tap has its times from one clock, so what several of them saw can be put in order: a packet is stamped when it is
//! sent, and whatever it causes elsewhere is stamped later.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nacl_common::{Packet, packet};
use nix::{
    cmsg_space,
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
            setsockopt, socket, sockopt,
        },
        time::TimeSpec,
    },
};

use super::net::LINK;
use crate::netns;

/// Room for what a host sends and receives between two looks, of which nothing may be missed.
const ROOM: usize = 64 << 20;

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

/// Keeps the kernel stamping packets. It begins some time after the first socket wants it, and until then a packet has the
/// time at which it is looked at; so somebody must want it before there are taps.
#[derive(Debug)]
pub struct Clock(#[expect(dead_code, reason = "held for as long as packets are to be stamped")] UdpSocket);

impl Clock {
    /// From now on.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn start() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self(socket))
    }
}

/// A tap on a host. Frames wait in its socket until they are asked for.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    /// Index of the host's link.
    link: usize,
}

impl Tap {
    /// Opens a tap on the link of a host, by its namespace.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open(namespace: &str) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (socket, link) = netns::within(Some(namespace), || {
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            Ok::<_, Errno>((socket, if_nametoindex(LINK)?))
        })??;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self { socket, link: link as usize })
    }

    /// What was seen since the last call, in order.
    ///
    /// # Errors
    /// The socket fails, or had no room for a frame.
    pub fn take(&self) -> io::Result<Vec<Sight>> {
        let mut sights = Vec::new();
        let mut space = cmsg_space!(TimeSpec);
        let mut buffer = [0; SNAP];
        loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let message =
                match recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()) {
                    Ok(message) => message,
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => continue,
                    Err(error) => return Err(error.into()),
                };
            // A NAT has a second link, and what passes there has other addresses.
            if message.address.is_none_or(|address| address.ifindex() != self.link) {
                continue;
            }
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
        match self.missed()? {
            0 => Ok(sights),
            missed => Err(io::Error::other(format!("it had no room for {missed} frames"))),
        }
    }

    /// How many frames there was no room for since the last call.
    fn missed(&self) -> io::Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `statistics`, which has that many and is plain numbers.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        Errno::result(result)?;
        Ok(statistics.tp_drops)
    }
}
