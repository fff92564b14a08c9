//! Link layers: what a capture has before the IP header, as an Ethernet header. Numbers are those of tcpdump's registry of
//! LINKTYPE values.

/// What a packet of a link layer is as an Ethernet frame.
pub struct Linked {
    /// Bytes of its own header, to be left out.
    pub header: usize,
    /// The Ethernet header in its place; `None`: it has one.
    pub ethernet: Option<[u8; 14]>,
    /// Whether the machine that captured sent it, where the header says so.
    pub sent: Option<bool>,
}

const NULL: u16 = 0;
const ETHERNET: u16 = 1;
const RAW: u16 = 101;
/// What some systems write for [`RAW`].
const RAW_OF_BSD: u16 = 12;
const RAW_OF_OPENBSD: u16 = 14;
const LOOP: u16 = 108;
const LINUX_SLL: u16 = 113;
const IPV4: u16 = 228;
const IPV6: u16 = 229;
const LINUX_SLL2: u16 = 276;

const NO_PROTOCOL: u16 = 0;
const IP: u16 = 0x0800;
const IP6: u16 = 0x86dd;

/// Of a Linux "cooked" packet: it was sent by the machine that captured. The others were received: by it, by all, or by
/// somebody else in its sight.
const OUTGOING: u16 = 4;

/// Hardware types of Linux whose protocol is not an ethertype: netlink, radiotap and GRE.
const OTHER_PROTOCOLS: [u16; 3] = [824, 803, 778];

/// How to read a packet of this link layer; `None`: nobody here can.
pub fn link(kind: u16, bytes: &[u8]) -> Option<Linked> {
    let made = |header: usize, protocol: u16, sent: Option<bool>| {
        let mut ethernet = [0; 14];
        ethernet[12..].copy_from_slice(&protocol.to_be_bytes());
        Some(Linked { header, ethernet: Some(ethernet), sent })
    };
    // What a capture that was cut does not have reads as 0; there is no packet behind it then.
    let half = |at: usize| bytes.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    match kind {
        ETHERNET => Some(Linked { header: 0, ethernet: None, sent: None }),
        NULL => made(4, family(word(bytes), false), None),
        LOOP => made(4, family(word(bytes), true), None),
        RAW | RAW_OF_BSD | RAW_OF_OPENBSD => {
            made(0, if bytes.first().is_some_and(|first| first >> 4 == 6) { IP6 } else { IP }, None)
        }
        IPV4 => made(0, IP, None),
        IPV6 => made(0, IP6, None),
        LINUX_SLL => made(16, cooked(half(2), half(14)), Some(half(0) == OUTGOING)),
        LINUX_SLL2 => {
            let sent = bytes.get(10).copied().map(u16::from) == Some(OUTGOING);
            made(20, cooked(half(8), half(0)), Some(sent))
        }
        _ => None,
    }
}

fn word(bytes: &[u8]) -> [u8; 4] {
    bytes.first_chunk().copied().unwrap_or_default()
}

const fn cooked(hardware: u16, protocol: u16) -> u16 {
    let [netlink, radiotap, gre] = OTHER_PROTOCOLS;
    if hardware == netlink || hardware == radiotap || hardware == gre { NO_PROTOCOL } else { protocol }
}

/// The protocol of a BSD loopback's address family, in the order of the network or of the machine that captured.
fn family(word: [u8; 4], network: bool) -> u16 {
    let little = u32::from_le_bytes(word);
    // Families are small numbers, so the order of a machine shows.
    let family = if network || little > 0xffff { u32::from_be_bytes(word) } else { little };
    match family {
        2 => IP,
        // Linux, Windows, NetBSD and OpenBSD, FreeBSD, macOS.
        10 | 23 | 24 | 28 | 30 => IP6,
        _ => NO_PROTOCOL,
    }
}
