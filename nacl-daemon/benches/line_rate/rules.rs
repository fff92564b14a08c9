//! The lists and the packets that all subjects are given: the same for each of them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use nacl_common::Action;
use nacl_daemon::resolve::{Group, GroupRule, Interface, Layers, Mode, Nacl, Peer, Protocol, Rule};

/// Numbers of rules that are measured.
pub const SIZES: [usize; 6] = [1, 20, 40, 100, 1000, 5000];
/// Packets of the random pattern.
pub const PROBES: usize = 1 << 16;

/// One rule, as each subject can say it. No two overlap, so that a set without order (nftables' best form) means the same.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Source.
    pub cidr: IpNet,
    /// Destination ports of TCP, first and last.
    pub ports: (u16, u16),
    /// Allow or deny.
    pub action: Action,
}

/// Port ranges as they stand in real lists.
const PORTS: [(u16, u16); 10] = [
    (22, 22),
    (80, 80),
    (443, 443),
    (1024, 65535),
    (3306, 3306),
    (5432, 5432),
    (8080, 8081),
    (53, 53),
    (32768, 60999),
    (0, 65535),
];

/// The destination port of the hot packet.
pub const HOT_PORT: u16 = 4001;

/// An ordered list of so many rules. The last one denies what the hot packet is; each of the others has a source prefix of
/// its own, of one of five lengths, and one of ten port ranges; every other one allows.
pub fn entries(family: u8, rules: usize) -> Vec<Entry> {
    let mut entries: Vec<_> = (0..rules - 1)
        .map(|index| {
            let (base, length) = if family == 6 {
                let base = 0x2001_0db8_u128 << 96 | (index as u128) << 80;
                (IpAddr::from(Ipv6Addr::from(base)), [64, 48, 56, 128, 60][index % 5])
            } else {
                let base = 0x0a00_0000 + ((index as u32) << 10);
                (IpAddr::from(Ipv4Addr::from(base)), [24, 28, 32, 26, 22][index % 5])
            };
            let action = if index % 2 == 0 { Action::Allow } else { Action::Deny };
            let cidr = IpNet::new(base, length).expect("a prefix");
            Entry { cidr, ports: PORTS[index % PORTS.len()], action }
        })
        .collect();
    let last = if family == 6 { "2001:db8:ffff::/48" } else { "203.0.113.0/24" };
    entries.push(Entry { cidr: last.parse().expect("a prefix"), ports: (HOT_PORT, HOT_PORT), action: Action::Deny });
    entries
}

/// An interface whose inbound list they are.
pub fn interface(entries: &[Entry]) -> Interface {
    let inbound = entries
        .iter()
        .zip(1..)
        .map(|(entry, number)| Rule {
            number,
            action: entry.action,
            protocol: Protocol::Number(6),
            ports: Some(entry.ports),
            icmp: None,
            cidr: entry.cidr,
            reference: None,
            description: None,
            line: usize::from(number),
            span: 0..0,
        })
        .collect();
    let nacl = Nacl { name: "bench".into(), id: None, inbound, outbound: Vec::new() };
    Interface::new("bench0", Arc::new(nacl))
}

/// The same interface with every rule turned into an allowing one, so that connections are let in and remembered: by the
/// network ACL, or by a security group with those rules.
pub fn remembering(entries: &[Entry], layers: Layers, connections: usize) -> Interface {
    let entries: Vec<_> = entries.iter().map(|entry| Entry { action: Action::Allow, ..entry.clone() }).collect();
    let mut interface = interface(&entries);
    interface.mode = Mode::Stateful;
    interface.layers = layers;
    // Room for twice as many, as the documentation advises.
    interface.tracking.entries = interface.tracking.entries.max(2 * connections as u32);
    if layers != Layers::Nacl {
        let rule = |entry: &Entry| {
            let (ports, cidr) = (Some(entry.ports), entry.cidr);
            GroupRule::new(Protocol::Number(6), ports, Peer::Cidr(cidr), vec![cidr])
        };
        let inbound = entries.iter().map(rule).collect();
        let group = Group { name: "bench".into(), id: None, inbound, outbound: Vec::new() };
        interface.groups = Some(vec![Arc::new(group)]);
    }
    interface
}

/// What tells one packet of the random pattern from another.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Source address.
    pub src: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// The packet that the last rule of every list matches.
pub fn hot(family: u8) -> Probe {
    let src = if family == 6 { "2001:db8:ffff::7" } else { "203.0.113.7" };
    Probe { src: src.parse().expect("an address"), sport: 40000, dport: HOT_PORT }
}

/// So many packets, each into a rule by chance, one of eight past all of them.
pub fn probes(entries: &[Entry], count: usize) -> Vec<Probe> {
    let mut random = Random(0x6e61_636c);
    (0..count)
        .map(|_| {
            let entry = &entries[random.below(entries.len() as u64) as usize];
            let (first, last) = (u64::from(entry.ports.0), u64::from(entry.ports.1));
            let dport = if random.below(8) == 0 { 9 } else { (first + random.below(last - first + 1)) as u16 };
            let host = u128::from(random.next()) << 64 | u128::from(random.next());
            let src = match entry.cidr {
                IpNet::V4(net) => {
                    IpAddr::from(Ipv4Addr::from(u32::from(net.network()) | host as u32 & u32::from(net.hostmask())))
                }
                IpNet::V6(net) => {
                    IpAddr::from(Ipv6Addr::from(u128::from(net.network()) | host & u128::from(net.hostmask())))
                }
            };
            Probe { src, sport: 1024 + random.below(64512) as u16, dport }
        })
        .collect()
}

/// What a list says to a packet: the first rule that matches, or the implied end.
pub fn judge(entries: &[Entry], probe: Probe) -> Action {
    let matches =
        |entry: &&Entry| entry.cidr.contains(&probe.src) && (entry.ports.0..=entry.ports.1).contains(&probe.dport);
    entries.iter().find(matches).map_or(Action::Deny, |entry| entry.action)
}

/// So many flows, each another, all through the last rule's prefix.
pub fn flows(family: u8, count: usize) -> Vec<Probe> {
    (0..count)
        .map(|index| {
            let index = index as u32;
            let (host, sport) = (index >> 10, 1024 + (index & 0x3ff) as u16);
            let src = if family == 6 {
                IpAddr::from(Ipv6Addr::from((0x2001_0db8_ffff_u128 << 80) | u128::from(host)))
            } else {
                IpAddr::from(Ipv4Addr::from(0xcb00_7100 | host & 0xff))
            };
            Probe { src, sport, dport: HOT_PORT }
        })
        .collect()
}

/// Checksum of the IPv4 header of a probe's frame, as it stands there; 0 on IPv6, which has none. `frame` is that of another
/// probe: they differ in the source address.
pub fn checksum(frame: &[u8], probe: Probe) -> [u8; 2] {
    let IpAddr::V4(source) = probe.src else { return [0; 2] };
    let mut header: [u8; 20] = frame[14..34].try_into().expect("a header");
    header[10..12].fill(0);
    header[12..16].copy_from_slice(&source.octets());
    let sum: u32 = header.chunks(2).map(|half| u32::from(u16::from_be_bytes([half[0], half[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// A frame of 64 bytes (74 on IPv6): TCP with these flags, to 198.51.100.1 or 2001:db8:1::1, with right checksums.
pub fn frame(probe: Probe, flags: u8) -> Vec<u8> {
    let mut tcp = etherparse::TcpHeader::new(probe.sport, probe.dport, 1, 65535);
    (tcp.fin, tcp.syn, tcp.rst, tcp.ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let builder = match probe.src {
        IpAddr::V4(src) => builder.ipv4(src.octets(), [198, 51, 100, 1], 64),
        IpAddr::V6(src) => {
            let dst: Ipv6Addr = "2001:db8:1::1".parse().expect("an address");
            builder.ipv6(src.octets(), dst.octets(), 64)
        }
    };
    let mut bytes = Vec::new();
    builder.tcp_header(tcp).write(&mut bytes, &[0; 6]).expect("a frame");
    bytes.resize(bytes.len().max(64), 0);
    bytes
}

/// SplitMix64: the same packets in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
