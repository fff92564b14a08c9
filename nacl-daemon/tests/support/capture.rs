//! Captures, written byte by byte from the formats' descriptions, so that a mistake of the crate that reads them is seen; and
//! the traffic that is in them.

use nacl_common::Direction;

use super::{
    brute::plain,
    case::{Case, Flaw, Part},
};

pub const ETHERNET: u32 = 1;

/// A packet of a capture.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub time: u64,
    pub bytes: Vec<u8>,
    /// How long it was when it was captured.
    pub length: u32,
    /// What pcapng says of it: sent or received.
    pub sent: Option<bool>,
    /// pcapng: which interface.
    pub interface: u32,
}

impl Packet {
    pub fn whole(time: u64, bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u32;
        Self { time, bytes, length, sent: None, interface: 0 }
    }
}

/// An interface of a pcapng section.
#[derive(Clone, Debug)]
pub struct Interface {
    pub link: u32,
    pub resolution: Option<u8>,
    pub offset: i64,
    pub addresses: Vec<[u8; 4]>,
}

pub const PLAIN: Interface = Interface { link: ETHERNET, resolution: None, offset: 0, addresses: Vec::new() };

/// Numbers in one byte order.
struct Out {
    big: bool,
    bytes: Vec<u8>,
}

impl Out {
    fn half(&mut self, number: u16) {
        self.bytes.extend(if self.big { number.to_be_bytes() } else { number.to_le_bytes() });
    }

    fn word(&mut self, number: u32) {
        self.bytes.extend(if self.big { number.to_be_bytes() } else { number.to_le_bytes() });
    }

    fn long(&mut self, number: u64) {
        self.bytes.extend(if self.big { number.to_be_bytes() } else { number.to_le_bytes() });
    }

    /// A value of an option and what fills it up to four bytes.
    fn option(&mut self, code: u16, value: &[u8]) {
        self.half(code);
        self.half(value.len() as u16);
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A block around what `inside` writes.
    fn block(&mut self, kind: u32, inside: impl FnOnce(&mut Self)) {
        let mut body = Self { big: self.big, bytes: Vec::new() };
        inside(&mut body);
        let length = body.bytes.len() as u32 + 12;
        self.word(kind);
        self.word(length);
        self.bytes.append(&mut body.bytes);
        self.word(length);
    }
}

/// A pcap file.
pub fn pcap(link: u32, big: bool, nanoseconds: bool, packets: &[Packet]) -> Vec<u8> {
    let mut out = Out { big, bytes: Vec::new() };
    out.word(if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 });
    out.half(2);
    out.half(4);
    for number in [0, 0, 262_144, link] {
        out.word(number);
    }
    for packet in packets {
        out.word((packet.time / 1_000_000_000) as u32);
        out.word((packet.time % 1_000_000_000) as u32 / if nanoseconds { 1 } else { 1000 });
        out.word(packet.bytes.len() as u32);
        out.word(packet.length);
        out.bytes.extend(&packet.bytes);
    }
    out.bytes
}

/// A pcapng file of one section.
pub fn pcapng(big: bool, interfaces: &[Interface], packets: &[Packet]) -> Vec<u8> {
    let mut out = Out { big, bytes: Vec::new() };
    out.block(0x0a0d_0d0a, |out| {
        out.word(0x1a2b_3c4d);
        out.half(1);
        out.half(0);
        out.long(u64::MAX);
    });
    for interface in interfaces {
        out.block(1, |out| {
            out.half(interface.link as u16);
            out.half(0);
            out.word(262_144);
            out.option(2, b"eth0");
            for address in &interface.addresses {
                out.option(4, &[address.as_slice(), &[255, 255, 255, 0]].concat());
            }
            if let Some(resolution) = interface.resolution {
                out.option(9, &[resolution]);
            }
            let offset = if out.big { interface.offset.to_be_bytes() } else { interface.offset.to_le_bytes() };
            out.option(14, &offset);
            out.option(0, &[]);
        });
    }
    // Statistics and a block of a kind that nobody knows: passed over.
    out.block(5, |out| [0, 0, 0].into_iter().for_each(|number| out.word(number)));
    out.block(0x0bad_cafe, |out| out.bytes.extend([0xee; 20]));
    for packet in packets {
        let interface = &interfaces[packet.interface as usize];
        let nanoseconds = i128::from(packet.time) - i128::from(interface.offset) * 1_000_000_000;
        let a_second = match interface.resolution {
            None => 1_000_000,
            Some(power) if power & 0x80 != 0 => 1_i128 << (power & 0x7f),
            Some(power) => 10_i128.pow(power.into()),
        };
        let units = (nanoseconds * a_second / 1_000_000_000).cast_unsigned() as u64;
        out.block(6, |out| {
            for number in [packet.interface, (units >> 32) as u32, units as u32] {
                out.word(number);
            }
            out.word(packet.bytes.len() as u32);
            out.word(packet.length);
            out.bytes.extend(&packet.bytes);
            out.bytes.resize(out.bytes.len().next_multiple_of(4), 0);
            if let Some(sent) = packet.sent {
                let flags = 1_u32 + u32::from(sent);
                let flags = if out.big { flags.to_be_bytes() } else { flags.to_le_bytes() };
                out.option(2, &flags);
                out.option(0, &[]);
            }
        });
    }
    out.bytes
}

/// pcapng's packets that have nothing but bytes.
pub fn simple(packets: &[Packet]) -> Vec<u8> {
    let mut out = Out { big: false, bytes: pcapng(false, &[PLAIN], &[]) };
    for packet in packets {
        out.block(3, |out| {
            out.word(packet.length);
            out.bytes.extend(&packet.bytes);
            out.bytes.resize(out.bytes.len().next_multiple_of(4), 0);
        });
    }
    out.bytes
}

/// A whole TCP or UDP packet between two ends, `198.51.100.7:50000` and `10.0.1.10:443`.
pub fn packet(direction: Direction, protocol: u8, remote: &str, local: &str, flags: u8) -> Case {
    let end = |text: &str| {
        let end: std::net::SocketAddr = text.parse().expect("an address and a port");
        (end.ip(), end.port())
    };
    let ((remote, there), (local, here)) = (end(remote), end(local));
    let (sport, dport) = if direction == Direction::Inbound { (there, here) } else { (here, there) };
    Case { direction, remote, local, protocol, sport, dport, icmp: (0, 0), flags, ..plain(direction, remote.is_ipv6()) }
}

/// Under this policy the replies to clients of Windows XP die.
pub const POLICY: &str = r#"version = 1
[nacl.web]
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" },
  { rule = 110, action = "allow", protocol = "udp", ports = 53, source = "0.0.0.0/0" },
  { rule = 120, action = "allow", protocol = "icmp", icmp = { type = -1 }, source = "0.0.0.0/0" },
  { rule = 130, action = "allow", protocol = "tcp", ports = 443, source = "::/0" },
]
outbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "32768-65535", destination = "0.0.0.0/0" },
]
[security_group.sg-3]
inbound = [
  { protocol = "tcp", ports = 443, source = "0.0.0.0/0" },
  { protocol = "udp", ports = 53, source = "198.51.100.0/24" },
  { protocol = "icmp", icmp = { type = 8 }, source = "0.0.0.0/0" },
  { protocol = "tcp", ports = 443, source = "2001:db8::/32" },
]
outbound = []
[interface.eth0]
id = "eni-1235b8ca123456789"
nacl = "web"
addresses = ["10.0.1.10", "2001:db8:1::10"]
security_groups = ["sg-3"]
"#;

const SYN: u8 = 2;
const ACK: u8 = 16;
/// Times are multiples of this, which every clock can say.
pub const TICK: u64 = 15_625_000;
/// When captures begin.
pub const BEGIN: u64 = 1_800_000_000_000_000_000;

/// A bit of everything: connections that work and that do not, pings, a name server, IPv6, tags, fragments, what is no IP and
/// what is malformed.
pub fn traffic() -> Vec<Packet> {
    use Direction::{Inbound, Outbound};
    let (linux, xp, server) = ("198.51.100.7:50000", "198.51.100.8:2000", "10.0.1.10:443");
    let ping =
        |direction, kind| Case { icmp: (kind, 0), echo: 7, ..packet(direction, 1, "198.51.100.7:0", "10.0.1.10:0", 0) };
    let part = |part| Case { part, ident: 9, ..packet(Inbound, 17, "198.51.100.7:4000", "10.0.1.10:53", 0) };
    let cases = [
        packet(Inbound, 6, linux, server, SYN),
        packet(Outbound, 6, linux, server, SYN | ACK),
        packet(Inbound, 6, linux, server, ACK),
        packet(Inbound, 6, xp, server, SYN),
        packet(Outbound, 6, xp, server, SYN | ACK),
        packet(Outbound, 6, xp, server, SYN | ACK),
        packet(Inbound, 6, linux, "10.0.1.10:22", SYN),
        packet(Inbound, 17, "198.51.100.7:4000", "10.0.1.10:53", 0),
        packet(Outbound, 17, "198.51.100.7:4000", "10.0.1.10:53", 0),
        ping(Inbound, 8),
        ping(Outbound, 0),
        Case { tags: 2, ..packet(Inbound, 6, "198.51.100.9:50001", server, SYN) },
        packet(Inbound, 6, "[2001:db8::7]:50000", "[2001:db8:1::10]:443", SYN),
        packet(Outbound, 6, "[2001:db8::7]:50000", "[2001:db8:1::10]:443", SYN | ACK),
        part(Part::First),
        part(Part::Later),
        packet(Inbound, 6, "198.51.100.7:1", "192.0.2.99:443", SYN),
        Case { flaw: Flaw::Version, ..packet(Inbound, 6, linux, server, SYN) },
        Case { extensions: vec![0, 60], ..packet(Inbound, 6, "[2001:db8::8]:50000", "[2001:db8:1::10]:443", SYN) },
    ];
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 2, 0x08, 0x06], &[0; 28]].concat();
    let frames = cases.iter().map(|case| case.bytes().0).chain([arp]);
    frames.zip(1..).map(|(bytes, number)| Packet::whole(BEGIN + number * TICK, bytes)).collect()
}
