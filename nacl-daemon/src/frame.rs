//! A [`Packet`] as the bytes of an Ethernet frame, for running it through the loaded kernel program. The way back is
//! `nacl_common::packet::parse`.

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, TcpHeader,
    UdpHeader,
};
use nacl_common::{Family, Fragment, Packet, packet::EXTENSION_HEADERS};

/// Offset of later fragments, in units of 8 bytes: what an MTU of 1500 gives.
const LATER: u16 = 185;

/// The frame that parses to `packet`.
///
/// # Panics
/// When an IPv6 packet that is not a later fragment has the number of an extension header as its protocol, which no
/// packet can have.
pub fn bytes(packet: &Packet) -> Vec<u8> {
    let mut payload = transport(packet);
    let protocol = IpNumber(packet.protocol);
    let (offset, more) = match packet.fragment {
        Fragment::None => (0, false),
        Fragment::First => (0, true),
        Fragment::Later => (LATER, false),
    };
    let offset = IpFragOffset::try_new(offset).expect("offset of thirteen bits");
    let (kind, header) = match packet.family {
        Family::V4 => {
            let (src, dst) = ((packet.src[1] as u32).to_be_bytes(), (packet.dst[1] as u32).to_be_bytes());
            let mut header = Ipv4Header::new(payload.len() as u16, packet.hop_limit, protocol, src, dst)
                .expect("payload of a few bytes");
            header.dont_fragment = false;
            header.more_fragments = more;
            header.fragment_offset = offset;
            header.identification = packet.ident as u16;
            header.header_checksum = header.calc_header_checksum();
            (EtherType::IPV4, header.to_bytes().to_vec())
        }
        Family::V6 => {
            let extension = EXTENSION_HEADERS.contains(&packet.protocol);
            assert!(!extension || packet.fragment == Fragment::Later, "{} is an extension header", packet.protocol);
            let mut next = protocol;
            if packet.fragment != Fragment::None {
                let mut fragment = Ipv6FragmentHeader::new(protocol, offset, more, packet.ident).to_bytes().to_vec();
                fragment.append(&mut payload);
                payload = fragment;
                next = IpNumber::IPV6_FRAGMENTATION_HEADER;
            }
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: etherparse::Ipv6FlowLabel::ZERO,
                payload_length: payload.len() as u16,
                next_header: next,
                hop_limit: packet.hop_limit,
                source: octets(packet.src),
                destination: octets(packet.dst),
            };
            (EtherType::IPV6, header.to_bytes().to_vec())
        }
    };
    let ethernet =
        Ethernet2Header { source: [2, 0, 0, 0, 0, 2], destination: [2, 0, 0, 0, 0, 1], ether_type: kind }.to_bytes();
    [ethernet.as_slice(), &header, &payload].concat()
}

fn octets(address: [u64; 2]) -> [u8; 16] {
    (u128::from(address[0]) << 64 | u128::from(address[1])).to_be_bytes()
}

/// The shortest transport header, with a few bytes behind it. Checksums are left at 0: no rule sees them.
fn transport(packet: &Packet) -> Vec<u8> {
    const DATA: [u8; 8] = *b"nacld...";
    if packet.fragment == Fragment::Later {
        return DATA.to_vec();
    }
    let header = match (packet.protocol, packet.family) {
        (6, _) => {
            let mut bytes = TcpHeader::new(packet.sport, packet.dport, 1, 64240).to_bytes().to_vec();
            bytes[13] = packet.tcp_flags;
            bytes
        }
        (17, _) => UdpHeader {
            source_port: packet.sport,
            destination_port: packet.dport,
            length: 8 + DATA.len() as u16,
            checksum: 0,
        }
        .to_bytes()
        .to_vec(),
        (1, Family::V4) | (58, Family::V6) => {
            let ([kind, code], [high, low]) = (packet.dport.to_be_bytes(), packet.sport.to_be_bytes());
            vec![kind, code, 0, 0, high, low, 0, 1]
        }
        _ => Vec::new(),
    };
    [header.as_slice(), &DATA].concat()
}

#[cfg(test)]
mod tests {
    use nacl_common::packet::parse;
    use proptest::prelude::*;

    use super::*;

    fn packets() -> impl Strategy<Value = Packet> {
        let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
        let fragment = prop_oneof![Just(Fragment::None), Just(Fragment::First), Just(Fragment::Later)];
        let protocol = prop_oneof![Just(6), Just(17), Just(1), Just(58), any::<u8>()];
        (family, fragment, protocol, any::<[u64; 4]>(), any::<[u16; 2]>(), any::<[u8; 2]>(), any::<u32>()).prop_map(
            |(family, fragment, protocol, addresses, ports, [hop_limit, tcp_flags], ident)| {
                let v6 = family == Family::V6;
                let address = |half: usize| {
                    if v6 { [addresses[half], addresses[half + 1]] } else { [0, addresses[half] >> 32] }
                };
                let extension = v6 && fragment != Fragment::Later && EXTENSION_HEADERS.contains(&protocol);
                let protocol = if extension { 59 } else { protocol };
                let seen =
                    fragment != Fragment::Later && (matches!(protocol, 6 | 17) || protocol == if v6 { 58 } else { 1 });
                let [sport, dport] = if seen { ports } else { [0, 0] };
                let tcp_flags = if seen && protocol == 6 { tcp_flags } else { 0 };
                let ident = match (fragment, family) {
                    (Fragment::None, _) => 0,
                    (_, Family::V4) => ident & 0xffff,
                    (_, Family::V6) => ident,
                };
                Packet {
                    family,
                    protocol,
                    fragment,
                    hop_limit,
                    tcp_flags,
                    src: address(0),
                    dst: address(2),
                    sport,
                    dport,
                    ident,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_parses_to_the_same_packet(packet in packets()) {
            prop_assert_eq!(parse(bytes(&packet).as_slice(), 0), Ok(packet));
        }
    }
}
