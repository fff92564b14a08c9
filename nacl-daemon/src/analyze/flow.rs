//! A flow as a person names it, and the packets it consists of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nacl_common::{Direction, Family, Fragment, Packet};
use thiserror::Error;

use crate::resolve::Interface;

/// TCP flags of the first packets.
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// A request and its reply. Ports are 0 for protocols that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Who asks.
    pub source: IpAddr,
    /// Who is asked.
    pub destination: IpAddr,
    /// TCP or UDP source port; an identifier for ICMP.
    pub sport: u16,
    /// TCP or UDP destination port; ICMP type in the high byte, code in the low.
    pub dport: u16,
}

/// A flow no packet can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FlowError {
    /// One end is IPv4, the other IPv6.
    #[error("source and destination are of different families")]
    Families,
}

/// An address as the number the engine compares.
pub fn number(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, u32::from(address).into()],
        IpAddr::V6(address) => [(u128::from(address) >> 64) as u64, u128::from(address) as u64],
    }
}

impl Flow {
    /// Whether the flow is ICMP on IPv4 or ICMPv6 on IPv6.
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.source.is_ipv4() { 1 } else { 58 }
    }

    /// Whether the protocol has ports that rules can name (N27).
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, 6 | 17)
    }

    /// The first packet.
    ///
    /// # Errors
    /// The ends are of different families.
    pub fn request(&self) -> Result<Packet, FlowError> {
        let family = match (self.source, self.destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => Family::V4,
            (IpAddr::V6(_), IpAddr::V6(_)) => Family::V6,
            _ => return Err(FlowError::Families),
        };
        Ok(Packet {
            family,
            protocol: self.protocol,
            fragment: Fragment::None,
            hop_limit: 64,
            tcp_flags: if self.protocol == 6 { SYN } else { 0 },
            src: number(self.source),
            dst: number(self.destination),
            sport: self.sport,
            dport: self.dport,
        })
    }

    /// The answer, or nothing for an ICMP message that is not answered.
    ///
    /// # Errors
    /// The ends are of different families.
    pub fn reply(&self) -> Result<Option<Packet>, FlowError> {
        let request = self.request()?;
        let (sport, dport) = if self.is_icmp() {
            let answer: u16 = match (self.dport >> 8, request.family) {
                (8, Family::V4) => 0,
                (13, Family::V4) => 14,
                (128, Family::V6) => 129,
                _ => return Ok(None),
            };
            (self.sport, answer << 8)
        } else {
            (self.dport, self.sport)
        };
        let tcp_flags = if self.protocol == 6 { SYN_ACK } else { 0 };
        Ok(Some(Packet { src: request.dst, dst: request.src, sport, dport, tcp_flags, ..request }))
    }

    /// Which way the request goes through an interface, and if that had to be assumed, why.
    pub fn direction(&self, interface: &Interface) -> (Direction, Option<&'static str>) {
        let owns = |address| interface.addresses.contains(&address);
        let inside = |address: IpAddr| interface.subnet_cidrs.iter().any(|cidr| cidr.contains(&address));
        let known = |local: &dyn Fn(IpAddr) -> bool| match (local(self.source), local(self.destination)) {
            (false, true) => Some(Direction::Inbound),
            (true, false) => Some(Direction::Outbound),
            _ => None,
        };
        match known(&owns).or_else(|| known(&inside)) {
            Some(direction) => (direction, None),
            None => (
                Direction::Inbound,
                Some(
                    "the policy does not say which end is local, so the request is taken as inbound (see --direction)",
                ),
            ),
        }
    }
}

/// The address behind the engine's number.
pub(crate) fn address(family: Family, number: [u64; 2]) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(number[1] as u32).into(),
        Family::V6 => Ipv6Addr::from(u128::from(number[0]) << 64 | u128::from(number[1])).into(),
    }
}
