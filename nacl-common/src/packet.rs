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

impl Packet {
    /// What stands where no packet was parsed.
    pub const NOT_PARSED: Self = Self {
        family: Family::V4,
        protocol: 0,
        fragment: Fragment::None,
        hop_limit: 0,
        tcp_flags: 0,
        src: [0; 2],
        dst: [0; 2],
        sport: 0,
        dport: 0,
        ident: 0,
    };
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

/// Where a packet lies in its frame, for whoever tells how long it is. Offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Where its IP header begins.
    pub start: u32,
    /// Where what TCP or UDP carries begins; of other protocols, where they begin.
    pub payload: u32,
    /// Where it ends, as its header says. Of one whose length field cannot say it: where the IP header's own count ends.
    pub end: u32,
}

impl Extent {
    /// Bytes of the IP packet, as its header says.
    #[inline(always)]
    pub const fn length(&self) -> u32 {
        self.end - self.start
    }

    /// Bytes of the headers that every segment of a segmentation-offload packet has: IP and TCP or UDP.
    #[inline(always)]
    pub const fn headers(&self) -> u32 {
        self.payload - self.start
    }
}

/// What an ICMP error quotes of the packet that it is about (RFC 792, RFC 4443), as far as that tells its flow. Who sent that packet is who the
/// error goes to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// Where the packet was to go, as [`Packet::dst`].
    pub dst: [u64; 2],
    /// As [`Packet::sport`].
    pub sport: u16,
    /// As [`Packet::dport`].
    pub dport: u16,
    /// Of a packet that was too big: bytes that the next link takes, 65535 also where it is more. 0 where the error does not say.
    pub mtu: u16,
    /// IP protocol.
    pub protocol: u8,
    /// 1; without a quote 0, as all of it is.
    pub quoted: u8,
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

/// Bytes of a header as a number, in one load where the hardware can: put together byte by byte it is eight.
macro_rules! number {
    ($type:ty, $header:expr, $at:expr) => {
        match $header.get($at..).and_then(<[u8]>::first_chunk) {
            Some(bytes) => <$type>::from_be_bytes(*bytes),
            None => 0,
        }
    };
}

/// Parses an Ethernet frame. `tags` is the number of VLAN tags that were already taken off and stand in metadata.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, tags: u32) -> Result<Packet, Reason> {
    let mut packet = Packet::NOT_PARSED;
    parse_into(frame, tags, &mut packet, &mut Extent::default()).map(|_| packet)
}

/// As [`parse`], into a place of the caller's: the kernel has too few registers for a whole packet, and would put it onto
/// the stack and from there into the place. Where it fails, what the places hold means nothing. Returns where in the frame the
/// packet ends, as its header says, which stands in `extent` too.
#[inline(always)]
pub fn parse_into<F: Frame + ?Sized>(
    frame: &F,
    tags: u32,
    packet: &mut Packet,
    extent: &mut Extent,
) -> Result<u32, Reason> {
    let mut kind = u16::from_be_bytes(frame.get(12).ok_or(Reason::EthernetShort)?);
    let mut at = 14;
    let mut room = MAX_TAGS.saturating_sub(tags);
    // As often as can be, so that LLVM unrolls it: the verifier of Linux 6.1 takes no loop whose end falls into its head.
    for _ in 0..=MAX_TAGS {
        if !matches!(kind, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
            break;
        }
        if room == 0 {
            return Err(Reason::VlanDepth);
        }
        room -= 1;
        kind = u16::from_be_bytes(frame.get(at + 2).ok_or(Reason::EthernetShort)?);
        at += 4;
    }
    match kind {
        ETHERTYPE_IPV4 => parse4(frame, at, packet, extent),
        ETHERTYPE_IPV6 => parse6(frame, at, packet, extent),
        ETHERTYPE_ARP => Err(Reason::Arp),
        _ => Err(Reason::NonIp),
    }
}

#[inline(always)]
fn parse4<F: Frame + ?Sized>(frame: &F, at: usize, packet: &mut Packet, extent: &mut Extent) -> Result<u32, Reason> {
    let header: [u8; 20] = frame.get(at).ok_or(Reason::IpShort)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let total = u32::from(number!(u16, header, 2));
    if header[0] >> 4 != 4 || length < 20 || (total < length as u32 && !frame.oversized()) {
        return Err(Reason::IpMalformed);
    }
    if length > 20 && frame.get::<4>(at + length - 4).is_none() {
        return Err(Reason::IpShort);
    }
    packet.family = Family::V4;
    packet.protocol = header[9];
    packet.hop_limit = header[8];
    packet.src = [0, u64::from(number!(u32, header, 12))];
    packet.dst = [0, u64::from(number!(u32, header, 16))];
    let flags = number!(u16, header, 6);
    let fragment = fragment_kind(flags & 0x1fff, flags & 0x2000 != 0)?;
    packet.fragment = fragment;
    packet.ident = if matches!(fragment, Fragment::None) { 0 } else { u32::from(number!(u16, header, 4)) };
    let left = if frame.oversized() { u32::MAX } else { total - length as u32 };
    let end = at as u32 + total;
    extent.start = at as u32;
    extent.end = end;
    transport(frame, packet, extent, (Family::V4, header[9], fragment), at + length, left)?;
    Ok(end)
}

#[inline(always)]
fn parse6<F: Frame + ?Sized>(frame: &F, at: usize, packet: &mut Packet, extent: &mut Extent) -> Result<u32, Reason> {
    let header: [u8; 40] = frame.get(at).ok_or(Reason::IpShort)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::IpMalformed);
    }
    let payload = u32::from(number!(u16, header, 4));
    let left = if frame.oversized() { u32::MAX } else { payload };
    let end = at as u32 + 40 + payload;
    extent.start = at as u32;
    packet.family = Family::V6;
    packet.hop_limit = header[7];
    packet.src = [number!(u64, header, 8), number!(u64, header, 16)];
    packet.dst = [number!(u64, header, 24), number!(u64, header, 32)];
    let mut chain =
        Chain { protocol: header[6], fragment: Fragment::None, ident: 0, fragmented: false, at: at + 40, left };
    // Written out and not counted: rolled up, the kernel's verifier walks the loop once for each header before it, and the
    // programs take it three times as long.
    let _ = chain.pass(frame)?
        && chain.pass(frame)?
        && chain.pass(frame)?
        && chain.pass(frame)?
        && chain.pass(frame)?
        && chain.pass(frame)?
        && chain.pass(frame)?
        && chain.pass(frame)?
        && chain.ends()?;
    let Chain { protocol, fragment, ident, at, left, .. } = chain;
    packet.protocol = protocol;
    packet.fragment = fragment;
    packet.ident = ident;
    extent.end = end;
    transport(frame, packet, extent, (Family::V6, protocol, fragment), at, left)?;
    Ok(end)
}

/// How far the extension headers of an IPv6 packet were passed.
struct Chain {
    protocol: u8,
    fragment: Fragment,
    ident: u32,
    /// There was a fragment header.
    fragmented: bool,
    at: usize,
    left: u32,
}

impl Chain {
    /// Passes one header; false where there is none, or where what follows is hidden.
    #[inline(always)]
    fn pass<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<bool, Reason> {
        let size = match self.protocol {
            // Hop-by-hop, routing and destination options. AH and ESP are protocols to AWS's rules, as on IPv4.
            0 | 43 | 60 => {
                let head: [u8; 2] = frame.get(self.at).ok_or(Reason::IpShort)?;
                self.protocol = head[0];
                (u32::from(head[1]) + 1) * 8
            }
            44 => {
                let head: [u8; 8] = frame.get(self.at).ok_or(Reason::IpShort)?;
                if self.fragmented {
                    return Err(Reason::ExtensionHeaders);
                }
                self.fragmented = true;
                let offset = number!(u16, head, 2);
                self.fragment = fragment_kind(offset >> 3, offset & 1 != 0)?;
                if !matches!(self.fragment, Fragment::None) {
                    self.ident = number!(u32, head, 4);
                }
                self.protocol = head[0];
                8
            }
            _ => return Ok(false),
        };
        if self.left < size {
            return Err(Reason::ExtensionHeaders);
        }
        self.left -= size;
        self.at += size as usize;
        Ok(self.fragment != Fragment::Later)
    }

    /// Fails where one more header follows.
    #[inline(always)]
    fn ends(&self) -> Result<bool, Reason> {
        if EXTENSION_HEADERS.contains(&self.protocol) { Err(Reason::ExtensionHeaders) } else { Ok(false) }
    }
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

/// Fills in ports, or ICMP type and code. `left` is how many bytes the IP header leaves for the transport. What the packet is
/// stands in it already, and is given once more because memory is slower.
#[inline(always)]
fn transport<F: Frame + ?Sized>(
    frame: &F,
    packet: &mut Packet,
    extent: &mut Extent,
    (family, protocol, fragment): (Family, u8, Fragment),
    at: usize,
    left: u32,
) -> Result<(), Reason> {
    let short = if fragment == Fragment::First { Reason::FirstFragmentShort } else { Reason::TransportShort };
    let (source, destination, tcp_flags, header) = match (protocol, family) {
        _ if fragment == Fragment::Later => (0, 0, 0, 0),
        (6, _) => {
            let head: [u8; 20] = frame.get(at).ok_or(short)?;
            if left < 20 {
                return Err(short);
            }
            (number!(u16, head, 0), number!(u16, head, 2), head[13], u32::from(head[12] >> 4) * 4)
        }
        (17, _) => {
            let head: [u8; 8] = frame.get(at).ok_or(short)?;
            if left < 8 {
                return Err(short);
            }
            (number!(u16, head, 0), number!(u16, head, 2), 0, 8)
        }
        (1, Family::V4) | (58, Family::V6) => {
            let head: [u8; 8] = frame.get(at).ok_or(short)?;
            if left < 8 {
                return Err(short);
            }
            (number!(u16, head, 4), number!(u16, head, 0), 0, 0)
        }
        _ => (0, 0, 0, 0),
    };
    extent.payload = at as u32 + header;
    packet.sport = source;
    packet.dport = destination;
    packet.tcp_flags = tcp_flags;
    Ok(())
}

/// No IP packet carries more headers than this, as far as anybody looks for a quote.
const QUOTE_WITHIN: usize = 0x3fff;

/// What an ICMP error quotes: of a packet that was parsed, where it lies in its frame. Nothing where it is no error, and where the quote tells
/// no flow of who gets it: cut short before the ports, of another family or sender, a later fragment. IPv6 extension headers are not
/// looked behind. Told for whoever reads of a denied error; no verdict depends on it (S40).
#[inline(always)]
pub fn quote<F: Frame + ?Sized>(frame: &F, extent: &Extent, packet: &Packet) -> Option<Quote> {
    let is_v4 = match (packet.protocol, packet.family, packet.dport >> 8) {
        (1, Family::V4, 3 | 11 | 12) => true,
        (58, Family::V6, 1..=4) => false,
        _ => return None,
    };
    let at = extent.payload as usize;
    if at > QUOTE_WITHIN {
        return None;
    }
    let head = frame.get(at).map(u64::from_be_bytes)?;
    let at = at + 8;
    let (protocol, src, dst, mtu, at) = if is_v4 {
        // As a number: of bytes LLVM makes a misaligned load, which the verifier does not allow on the stack.
        let first = frame.get(at).map(u64::from_be_bytes)?;
        let rest: [u8; 12] = frame.get(at + 8)?;
        let length = (first >> 56 & 0xf) as usize * 4;
        if first >> 60 != 4 || length < 20 || first & 0x1fff != 0 {
            return None;
        }
        let mtu = if packet.dport == 3 << 8 | 4 { head as u16 } else { 0 };
        let src = [0, u64::from(number!(u32, rest, 4))];
        let dst = [0, u64::from(number!(u32, rest, 8))];
        (rest[1], src, dst, mtu, at + length)
    } else {
        let header: [u8; 40] = frame.get(at)?;
        let protocol = header[6];
        if header[0] >> 4 != 6 || EXTENSION_HEADERS.contains(&protocol) {
            return None;
        }
        let link = head as u32;
        let mtu = if packet.dport >> 8 != 2 {
            0
        } else if link > 0xffff {
            0xffff
        } else {
            link as u16
        };
        let src = [number!(u64, header, 8), number!(u64, header, 16)];
        let dst = [number!(u64, header, 24), number!(u64, header, 32)];
        (protocol, src, dst, mtu, at + 40)
    };
    // RFC 792 promises that many bytes of what is behind the header. Behind the packet's end is padding.
    let ports = frame.get(at).map(u64::from_be_bytes)?;
    if src != packet.dst || at + 8 > extent.end as usize {
        return None;
    }
    let (sport, dport) = match (protocol, packet.family) {
        (6 | 17, _) => ((ports >> 48) as u16, (ports >> 32) as u16),
        (1, Family::V4) | (58, Family::V6) => ((ports >> 16) as u16, (ports >> 48) as u16),
        _ => (0, 0),
    };
    Some(Quote { dst, sport, dport, mtu, protocol, quoted: 1 })
}
