//! A packet as a specification, and its bytes. The bytes are written here by hand, so that a mistake in the parser is not
//! made a second time by a library that shares its reading of the standards.

use std::net::IpAddr;

use nacl_common::Direction;

/// Which part of a fragmented packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// IPv6 only: a fragment header that fragments nothing (RFC 6946).
    Atomic,
    First,
    Later,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// The frame ends after this many bytes.
    Cut(usize),
    /// The version field says something else than the ethertype.
    Version,
    /// IPv4 only: a header length of 16 bytes.
    HeaderLength,
    /// IPv4 only: a total length of 19 bytes.
    TotalLength,
    /// The IP length leaves this many bytes for the transport header: fewer than it needs.
    Payload(u16),
    /// A fragment at offset 1.
    OffsetOne,
    /// IPv6 only: nine extension headers.
    Extensions,
    /// IPv6 only: two fragment headers.
    TwoFragments,
    /// Three VLAN tags.
    Tags,
}

/// A packet to be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub direction: Direction,
    pub remote: IpAddr,
    pub local: IpAddr,
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
    pub icmp: (u8, u8),
    /// ICMP: the identifier of an echo.
    pub echo: u16,
    /// TCP: the flags byte.
    pub flags: u8,
    pub part: Part,
    /// What fragments of one packet share; IPv4 takes the low half.
    pub ident: u32,
    pub hop_limit: u8,
    /// VLAN tags.
    pub tags: u8,
    /// IPv4: words of options.
    pub options: u8,
    /// IPv6: extension headers before the transport, by number (0, 43 or 60).
    pub extensions: Vec<u8>,
    /// IPv6 later fragments: the extension header the fragment header names, which hides the protocol.
    pub hidden: Option<u8>,
    pub flaw: Flaw,
}

impl Case {
    pub fn v6(&self) -> bool {
        self.remote.is_ipv6()
    }

    /// True where the rules can see a TCP or UDP port.
    pub fn has_ports(&self) -> bool {
        self.part != Part::Later && matches!(self.protocol, 6 | 17)
    }

    /// True where the rules can see an ICMP type.
    pub fn has_icmp(&self) -> bool {
        self.part != Part::Later && self.protocol == if self.v6() { 58 } else { 1 }
    }

    /// The frame, and where each header ends with the reason for a frame that is shorter.
    pub fn bytes(&self) -> (Vec<u8>, Vec<(usize, &'static str)>) {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let tags = if self.flaw == Flaw::Tags { 3 } else { self.tags };
        for tag in 0..tags {
            frame.extend(if tag == 0 && tags > 1 { [0x88, 0xa8] } else { [0x81, 0x00] });
            frame.extend([0, tag + 1]);
        }
        frame.extend(if self.v6() { [0x86, 0xdd] } else { [0x08, 0x00] });
        let mut marks = vec![(frame.len(), "ethernet-short")];
        let ip = frame.len();
        let transport = self.transport();
        let (source, destination) = match self.direction {
            Direction::Inbound => (self.remote, self.local),
            Direction::Outbound => (self.local, self.remote),
        };
        let version = if self.flaw == Flaw::Version {
            5
        } else if self.v6() {
            6
        } else {
            4
        };
        let (more, offset) = match (self.flaw, self.part) {
            (Flaw::OffsetOne, _) => (1, 1),
            (_, Part::Whole | Part::Atomic) => (0, 0),
            (_, Part::First) => (1, 0),
            (_, Part::Later) => (0, 185),
        };
        let payload = match self.flaw {
            Flaw::Payload(bytes) => bytes,
            _ => transport.len() as u16 + 8,
        };
        if self.v6() {
            let mut chain = self.extensions.clone();
            if self.flaw == Flaw::Extensions {
                chain = vec![60; 9];
            }
            let fragments = match (self.flaw, self.part) {
                (Flaw::TwoFragments, _) => 2,
                (Flaw::OffsetOne, _) | (_, Part::Atomic | Part::First | Part::Later) => 1,
                _ => 0,
            };
            let at = chain.len();
            chain.extend(std::iter::repeat_n(44, fragments));
            let last = if self.part == Part::Later { self.hidden.unwrap_or(self.protocol) } else { self.protocol };
            let mut body = Vec::new();
            for (index, kind) in chain.iter().enumerate() {
                let next = chain.get(index + 1).copied().unwrap_or(last);
                if *kind == 44 {
                    // With two fragment headers the first must be one that the walk goes past.
                    let (more, offset) =
                        if self.flaw == Flaw::TwoFragments && index == at { (0, 0) } else { (more, offset) };
                    let field: u16 = offset << 3 | more;
                    body.extend([next, 0, (field >> 8) as u8, field as u8]);
                    body.extend(self.ident.to_be_bytes());
                } else {
                    // Every other one is 16 bytes long.
                    let length = (index % 2) as u8;
                    body.extend([next, length, 1, 4, 0, 0, 0, 0]);
                    body.extend(std::iter::repeat_n(0, usize::from(length) * 8));
                }
            }
            let length = body.len() as u16 + payload;
            frame.extend([
                version << 4,
                0,
                0,
                0,
                (length >> 8) as u8,
                length as u8,
                chain.first().copied().unwrap_or(last),
                self.hop_limit,
            ]);
            for address in [source, destination] {
                let IpAddr::V6(address) = address else { panic!("one family a packet") };
                frame.extend(address.octets());
            }
            marks.push((frame.len(), "ip-short"));
            // A header is read by its first bytes; what follows it is read from where it says it ends.
            let mut end = frame.len();
            for (index, kind) in chain.iter().enumerate() {
                marks.push((end + if *kind == 44 { 8 } else { 2 }, "ip-short"));
                end += if *kind == 44 || index % 2 == 0 { 8 } else { 16 };
            }
            frame.extend(body);
        } else {
            let words = if self.flaw == Flaw::HeaderLength { 4 } else { 5 + self.options };
            let length = match self.flaw {
                Flaw::TotalLength => 19,
                _ => u16::from(5 + self.options) * 4 + payload,
            };
            let field: u16 = more << 13 | offset;
            frame.extend([version << 4 | words, 0, (length >> 8) as u8, length as u8]);
            frame.extend((self.ident as u16).to_be_bytes());
            frame.extend([(field >> 8) as u8, field as u8, self.hop_limit, self.protocol, 0, 0]);
            for address in [source, destination] {
                let IpAddr::V4(address) = address else { panic!("one family a packet") };
                frame.extend(address.octets());
            }
            marks.push((frame.len(), "ip-short"));
            frame.extend(std::iter::repeat_n(1, usize::from(self.options) * 4));
            marks.push((frame.len(), "ip-short"));
        }
        assert!(frame.len() > ip);
        if self.has_ports() || self.has_icmp() {
            let short = if self.part == Part::First { "first-fragment-short" } else { "transport-short" };
            marks.push((frame.len() + transport.len(), short));
        }
        frame.extend(transport);
        frame.extend([0xaa; 8]);
        if let Flaw::Cut(bytes) = self.flaw {
            frame.truncate(bytes);
        }
        (frame, marks)
    }

    /// The transport header, as long as the protocol's shortest.
    fn transport(&self) -> Vec<u8> {
        if self.part == Part::Later {
            return vec![0x55; 8];
        }
        let mut bytes = match self.protocol {
            6 => vec![0; 20],
            17 => vec![0; 8],
            _ if self.has_icmp() => {
                let [high, low] = self.echo.to_be_bytes();
                return vec![self.icmp.0, self.icmp.1, 0, 0, high, low, 0, 1];
            }
            _ => return vec![0x55; 8],
        };
        bytes[..2].copy_from_slice(&self.sport.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.dport.to_be_bytes());
        if self.protocol == 6 {
            bytes[12..14].copy_from_slice(&[0x50, self.flags]);
        }
        bytes
    }
}
