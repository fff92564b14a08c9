//! What AWS's flow logs tell of a packet: of which packets at all, under which key, with which TCP flags. Where records are
//! kept and how they are written is the caller's.

use crate::{
    border::LogKey,
    evaluate::{Direction, Verdict},
    packet::{Packet, tcp},
    reason::Reason,
};

/// Whether a verdict for this reason is told. AWS tells nothing of what its own services exchange with an instance, of DHCP and
/// of ARP (F16); neighbour discovery and MLD are ARP's part in IPv6. What is no IP packet, or cannot be parsed, has no 5-tuple.
#[inline(always)]
pub const fn is_told(reason: Reason) -> bool {
    const TOLD: u64 = bit(Reason::NaclRule)
        | bit(Reason::NaclImplicit)
        | bit(Reason::SameSubnet)
        | bit(Reason::LayerOff)
        | bit(Reason::GroupRule)
        | bit(Reason::GroupImplicit)
        | bit(Reason::Tracked)
        | bit(Reason::ConntrackFull)
        | bit(Reason::SharedFragment)
        | bit(Reason::Failsafe)
        | bit(Reason::NoGeneration);
    TOLD >> (reason as u64 & 63) & 1 != 0
}

const fn bit(reason: Reason) -> u64 {
    1 << reason as u64
}

/// The key that a packet's record stands under (F3). What is not TCP or UDP has ports 0 (F7), and so have later fragments.
#[inline(always)]
pub const fn key(direction: Direction, packet: &Packet, verdict: &Verdict) -> LogKey {
    let has_ports = matches!(packet.protocol, 6 | 17);
    let (sport, dport) = if has_ports { (packet.sport, packet.dport) } else { (0, 0) };
    LogKey {
        src: packet.src,
        dst: packet.dst,
        sport,
        dport,
        protocol: packet.protocol,
        family: packet.family as u8,
        direction: direction as u8,
        action: verdict.action as u8,
    }
}

/// What a packet adds to the flags of its record (F9): FIN, SYN and RST; ACK only together with SYN, so that an ACK alone
/// is 0. No comparison: which flags come next nobody can guess.
#[inline(always)]
pub const fn flags(tcp_flags: u8) -> u64 {
    let acknowledged = (tcp_flags & tcp::SYN) << 3 & tcp_flags & tcp::ACK;
    (tcp_flags & (tcp::FIN | tcp::SYN | tcp::RST) | acknowledged) as u64
}

/// What decided, as [`crate::border::Logged::decided`] holds it.
#[inline(always)]
pub const fn decided(epoch: u32, verdict: &Verdict) -> u64 {
    (epoch as u64) << 32 | (verdict.layer as u64) << 24 | (verdict.reason as u64) << 16 | verdict.slot as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_that_aws_tells() {
        const PSH: u8 = 8;
        const ECE: u8 = 64;
        let of = |packets: &[u8]| packets.iter().fold(0, |all, one| all | flags(*one));
        let (fin, syn, rst, ack) = (tcp::FIN, tcp::SYN, tcp::RST, tcp::ACK);
        for (packets, told) in [
            (&[syn][..], 2),
            (&[syn | ack], 18),
            (&[ack], 0),
            (&[PSH | ack], 0),
            (&[fin | ack], 1),
            (&[rst], 4),
            (&[rst | ack], 4),
            (&[syn | ECE], 2),
            // A short connection within one window, from either side.
            (&[syn, ack, PSH | ack, fin | ack], 3),
            (&[syn | ack, ack, fin | ack], 19),
        ] {
            assert_eq!(of(packets), told, "{packets:?}");
        }
    }

    #[test]
    fn every_reason_is_told_or_not_on_purpose() {
        for reason in Reason::ALL.iter().filter(|reason| !is_told(**reason)) {
            use Reason::{
                Arp, AwsService, Dhcp, EthernetShort, ExtensionHeaders, FirstFragmentShort, IpMalformed, IpShort, Mld,
                NeighbourDiscovery, NonIp, TinyFragmentOffset, TransportShort, VlanDepth,
            };
            assert!(matches!(
                reason,
                Arp | NeighbourDiscovery
                    | Mld
                    | NonIp
                    | Dhcp
                    | AwsService
                    | EthernetShort
                    | VlanDepth
                    | IpShort
                    | IpMalformed
                    | ExtensionHeaders
                    | TransportShort
                    | FirstFragmentShort
                    | TinyFragmentOffset
            ));
        }
    }
}
