//! From the bytes of an Ethernet frame to a [`Packet`], or to the reason why not. Nothing is guessed: what cannot be
//! parsed is a reason of its own. Knows no rule.

use crate::reason::Reason;

/// A frame, wherever its bytes are: an XDP frame, an skb, a slice.
pub trait Frame {
    /// The `N` bytes at `offset`, or nothing where the frame ends before.
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// True for a segmentation-offload packet that is longer than its IP length field can say (BIG TCP), in which
    /// the field is 0. Only ever seen at TC.
    #[inline(always)]
    fn oversized(&self) -> bool {
        false
    }
}

impl Frame for [u8] {
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        <[u8]>::get(self, offset..)?.first_chunk().copied()
    }
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Fragment {
    /// Not fragmented, or an IPv6 atomic fragment (RFC 6946).
    None = 0,
    /// The first fragment, which carries the ports.
    First = 1,
    /// A later fragment, without ports.
    Later = 2,
}

/// What rules can see of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IP version.
    pub family: Family,
    /// IP protocol; for IPv6 the one behind the extension headers. Of a later IPv6 fragment it is what its fragment
    /// header names, which may be a further extension header.
    pub protocol: u8,
    /// Fragmentation.
    pub fragment: Fragment,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TCP flags byte, else 0.
    pub tcp_flags: u8,
    /// Source address as a number, high and low half; IPv4 in the low half.
    pub src: [u64; 2],
    /// Destination address, likewise.
    pub dst: [u64; 2],
    /// TCP or UDP source port; the identifier of an ICMP echo; else 0.
    pub sport: u16,
    /// TCP or UDP destination port; ICMP type in the high byte and code in the low; else 0.
    pub dport: u16,
    /// What fragments of one packet share: IPv4's identification, or that of IPv6's fragment header; 0 where it is not
    /// fragmented.
    pub ident: u32,
}

/// Bits of [`Packet::tcp_flags`].
pub mod tcp {
    /// The sender is done.
    pub const FIN: u8 = 0x01;
    /// A connection is asked for.
    pub const SYN: u8 = 0x02;
    /// The connection is torn down.
    pub const RST: u8 = 0x04;
    /// Something is acknowledged: every packet but the first.
    pub const ACK: u8 = 0x10;
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IPv6 extension headers the parser looks behind: hop-by-hop, routing, fragment, destination options. No packet has one of
/// them as its protocol, but for a later fragment, whose protocol it hides.
pub const EXTENSION_HEADERS: [u8; 4] = [0, 43, 44, 60];

const MAX_TAGS: u32 = 2;
const MAX_EXTENSIONS: u32 = 8;

#[inline(always)]
const fn half(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}

/// Parses an Ethernet frame. `tags` is the number of VLAN tags that were already taken off and stand in metadata.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, tags: u32) -> Result<Packet, Reason> {
    let mut kind = half(frame.get(12).ok_or(Reason::EthernetShort)?);
    let mut at = 14;
    let mut tags = tags;
    while matches!(kind, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
        if tags >= MAX_TAGS {
            return Err(Reason::VlanDepth);
        }
        tags += 1;
        kind = half(frame.get(at + 2).ok_or(Reason::EthernetShort)?);
        at += 4;
    }
    match kind {
        ETHERTYPE_IPV4 => parse4(frame, at),
        ETHERTYPE_IPV6 => parse6(frame, at),
        ETHERTYPE_ARP => Err(Reason::Arp),
        _ => Err(Reason::NonIp),
    }
}

#[inline(always)]
fn parse4<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<Packet, Reason> {
    let header: [u8; 20] = frame.get(at).ok_or(Reason::IpShort)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let total = u32::from(half([header[2], header[3]]));
    if header[0] >> 4 != 4 || length < 20 || (total < length as u32 && !frame.oversized()) {
        return Err(Reason::IpMalformed);
    }
    if length > 20 && frame.get::<4>(at + length - 4).is_none() {
        return Err(Reason::IpShort);
    }
    let flags = half([header[6], header[7]]);
    let fragment = fragment_kind(flags & 0x1fff, flags & 0x2000 != 0)?;
    let packet = Packet {
        family: Family::V4,
        protocol: header[9],
        fragment,
        hop_limit: header[8],
        tcp_flags: 0,
        src: [0, u64::from(u32::from_be_bytes([header[12], header[13], header[14], header[15]]))],
        dst: [0, u64::from(u32::from_be_bytes([header[16], header[17], header[18], header[19]]))],
        sport: 0,
        dport: 0,
        ident: if matches!(fragment, Fragment::None) { 0 } else { u32::from(half([header[4], header[5]])) },
    };
    let left = if frame.oversized() { u32::MAX } else { total - length as u32 };
    transport(frame, packet, at + length, left)
}

#[inline(always)]
fn parse6<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<Packet, Reason> {
    let header: [u8; 40] = frame.get(at).ok_or(Reason::IpShort)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::IpMalformed);
    }
    let mut left = if frame.oversized() { u32::MAX } else { u32::from(half([header[4], header[5]])) };
    let mut packet = Packet {
        family: Family::V6,
        protocol: header[6],
        fragment: Fragment::None,
        hop_limit: header[7],
        tcp_flags: 0,
        src: address(&header, 8),
        dst: address(&header, 24),
        sport: 0,
        dport: 0,
        ident: 0,
    };
    let mut at = at + 40;
    let mut fragmented = false;
    let mut count = 0;
    loop {
        let size = match packet.protocol {
            // Hop-by-hop, routing and destination options. AH and ESP are protocols to AWS's rules, as on IPv4.
            0 | 43 | 60 => {
                let head: [u8; 2] = frame.get(at).ok_or(Reason::IpShort)?;
                packet.protocol = head[0];
                (u32::from(head[1]) + 1) * 8
            }
            44 => {
                let head: [u8; 8] = frame.get(at).ok_or(Reason::IpShort)?;
                if fragmented {
                    return Err(Reason::ExtensionHeaders);
                }
                fragmented = true;
                let offset = half([head[2], head[3]]);
                packet.fragment = fragment_kind(offset >> 3, offset & 1 != 0)?;
                if !matches!(packet.fragment, Fragment::None) {
                    packet.ident = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                }
                packet.protocol = head[0];
                8
            }
            _ => break,
        };
        count += 1;
        if count > MAX_EXTENSIONS || left < size {
            return Err(Reason::ExtensionHeaders);
        }
        left -= size;
        at += size as usize;
        if packet.fragment == Fragment::Later {
            break;
        }
    }
    transport(frame, packet, at, left)
}

#[inline(always)]
fn address(header: &[u8; 40], at: usize) -> [u64; 2] {
    let half = |at: usize| {
        u64::from_be_bytes([
            header[at],
            header[at + 1],
            header[at + 2],
            header[at + 3],
            header[at + 4],
            header[at + 5],
            header[at + 6],
            header[at + 7],
        ])
    };
    [half(at), half(at + 8)]
}

/// `offset` in units of 8 bytes.
#[inline(always)]
fn fragment_kind(offset: u16, more: bool) -> Result<Fragment, Reason> {
    match (offset, more) {
        (0, false) => Ok(Fragment::None),
        (0, true) => Ok(Fragment::First),
        (1, _) => Err(Reason::TinyFragmentOffset),
        _ => Ok(Fragment::Later),
    }
}

/// Fills in ports, or ICMP type and code. `left` is how many bytes the IP header leaves for the transport.
#[inline(always)]
fn transport<F: Frame + ?Sized>(frame: &F, packet: Packet, at: usize, left: u32) -> Result<Packet, Reason> {
    let mut packet = packet;
    if packet.fragment == Fragment::Later {
        return Ok(packet);
    }
    let short = if packet.fragment == Fragment::First { Reason::FirstFragmentShort } else { Reason::TransportShort };
    match (packet.protocol, packet.family) {
        (6, _) => {
            let head: [u8; 20] = frame.get(at).ok_or(short)?;
            if left < 20 {
                return Err(short);
            }
            packet.sport = half([head[0], head[1]]);
            packet.dport = half([head[2], head[3]]);
            packet.tcp_flags = head[13];
        }
        (17, _) => {
            let head: [u8; 8] = frame.get(at).ok_or(short)?;
            if left < 8 {
                return Err(short);
            }
            packet.sport = half([head[0], head[1]]);
            packet.dport = half([head[2], head[3]]);
        }
        (1, Family::V4) | (58, Family::V6) => {
            let head: [u8; 8] = frame.get(at).ok_or(short)?;
            if left < 8 {
                return Err(short);
            }
            packet.dport = half([head[0], head[1]]);
            packet.sport = half([head[4], head[5]]);
        }
        _ => {}
    }
    Ok(packet)
}
