//! A flow as a person names it, and the packets it consists of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nacl_common::{Direction, Family, Fragment, Packet, packet::EXTENSION_HEADERS};
use thiserror::Error;

use crate::{
    policy,
    resolve::{Interface, Side},
};

/// TCP flags of the first packets.
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

/// A request and its reply. Ports are 0 for protocols that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FlowError {
    /// One end is IPv4, the other IPv6.
    #[error("source and destination are of different families")]
    Families,
    /// Not a protocol.
    #[error("{0:?} is no protocol: write a name such as tcp, udp, icmp or icmpv6, or a number from 0 to 255")]
    Protocol(String),
    /// Not an address.
    #[error(
        "{0:?} is no address: write 198.51.100.7:52345, [2001:db8::7]:52345, or without a port where the protocol has none"
    )]
    Address(String),
    /// A port is missing.
    #[error("{0:?} needs a port, as in {0}:443")]
    PortMissing(String),
    /// A port too many.
    #[error("{0:?} has a port, and rules match the ports of tcp and udp only: leave it out")]
    PortTooMany(String),
    /// An IPv6 extension header.
    #[error("on IPv6, protocol {0} is an extension header: write the protocol behind it, such as tcp")]
    ExtensionHeader(u8),
    /// ICMP type and code.
    #[error("{0:?} is no ICMP type: write TYPE or TYPE/CODE, each from 0 to 255")]
    Icmp(String),
    /// ICMP type for another protocol.
    #[error("an ICMP type needs the protocol icmp with IPv4 addresses, or icmpv6 with IPv6 ones")]
    NotIcmp,
}

/// An address as the number the engine compares.
pub fn number(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, u32::from(address).into()],
        IpAddr::V6(address) => [(u128::from(address) >> 64) as u64, u128::from(address) as u64],
    }
}

/// An end of a flow: an address, and a port if one was written.
fn end(text: &str) -> Result<(IpAddr, Option<u16>), FlowError> {
    if let Ok(end) = text.parse::<SocketAddr>() {
        return Ok((end.ip(), Some(end.port())));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map(|address| (address, None)).map_err(|_| FlowError::Address(text.to_owned()))
}

impl Flow {
    /// A flow as typed: `tcp 198.51.100.7:52345 10.0.1.10:443`. A TCP or UDP source port that is not written is one that
    /// many systems pick, 50000. `icmp`: `TYPE` or `TYPE/CODE`, an echo request where absent.
    ///
    /// # Errors
    /// What cannot be read, and how it is written.
    pub fn parse(protocol: &str, source: &str, destination: &str, icmp: Option<&str>) -> Result<Self, FlowError> {
        const USUAL_PORT: u16 = 50000;
        let number = policy::protocol_number(protocol).or_else(|| protocol.parse().ok());
        let number = number.ok_or_else(|| FlowError::Protocol(protocol.to_owned()))?;
        let ((from, sport), (to, dport)) = (end(source)?, end(destination)?);
        let flow = Self { protocol: number, source: from, destination: to, sport: 0, dport: 0 };
        flow.request()?;
        if flow.has_ports() && icmp.is_none() {
            let dport = dport.ok_or_else(|| FlowError::PortMissing(destination.to_owned()))?;
            return Ok(Self { sport: sport.unwrap_or(USUAL_PORT), dport, ..flow });
        }
        if let Some((text, _)) = [(source, sport), (destination, dport)].iter().find(|(_, port)| port.is_some()) {
            return Err(FlowError::PortTooMany((*text).to_owned()));
        }
        if !flow.is_icmp() {
            return if icmp.is_some() { Err(FlowError::NotIcmp) } else { Ok(flow) };
        }
        let Some(text) = icmp else {
            return Ok(Self { dport: if from.is_ipv4() { 8 << 8 } else { 128 << 8 }, ..flow });
        };
        let (kind, code) = text.split_once('/').unwrap_or((text, "0"));
        match (kind.parse::<u8>(), code.parse::<u8>()) {
            (Ok(kind), Ok(code)) => Ok(Self { dport: u16::from(kind) << 8 | u16::from(code), ..flow }),
            _ => Err(FlowError::Icmp(text.to_owned())),
        }
    }

    /// Whether the flow is ICMP on IPv4 or ICMPv6 on IPv6.
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.source.is_ipv4() { 1 } else { 58 }
    }

    /// Whether the protocol has ports that rules can name (N27).
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, 6 | 17)
    }

    /// The hop limit a host sends such a packet with. What is exempt from rules is known by it too: neighbour discovery has
    /// 255, multicast listener discovery 1.
    const fn hop_limit(&self) -> u8 {
        match (self.protocol, self.source, self.dport >> 8) {
            (58, IpAddr::V6(_), 133..=137) => 255,
            (58, IpAddr::V6(_), 130..=132 | 143) => 1,
            _ => 64,
        }
    }

    /// The first packet.
    ///
    /// # Errors
    /// The ends are of different families, or no packet has this protocol.
    pub fn request(&self) -> Result<Packet, FlowError> {
        let family = match (self.source, self.destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => Family::V4,
            (IpAddr::V6(_), IpAddr::V6(_)) => Family::V6,
            _ => return Err(FlowError::Families),
        };
        // The parser looks behind them, so that a packet's protocol is never one of these.
        if family == Family::V6 && EXTENSION_HEADERS.contains(&self.protocol) {
            return Err(FlowError::ExtensionHeader(self.protocol));
        }
        Ok(Packet {
            family,
            protocol: self.protocol,
            fragment: Fragment::None,
            hop_limit: self.hop_limit(),
            tcp_flags: if self.protocol == 6 { SYN } else { 0 },
            src: number(self.source),
            dst: number(self.destination),
            sport: self.sport,
            dport: self.dport,
            ident: 0,
        })
    }

    /// The answer, or nothing for an ICMP message that is not answered.
    ///
    /// # Errors
    /// As of [`Self::request`].
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
        // A router's side has the addresses of nobody who is judged.
        let foreign = !interface.addresses.is_empty() && !owns(self.source) && !owns(self.destination);
        match known(&owns).or_else(|| known(&inside)) {
            Some(direction) if foreign && interface.side == Side::Host => {
                (direction, Some("neither end is an address of this interface; it is judged as if it were"))
            }
            Some(direction) => (direction, None),
            None => (
                Direction::Inbound,
                Some("the policy does not say which end is local; the request is taken as inbound (--direction)"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_read_as_people_write_them() {
        let read = |protocol, source, destination, icmp| {
            Flow::parse(protocol, source, destination, icmp).map(|flow| (flow.protocol, flow.sport, flow.dport))
        };
        assert_eq!(read("tcp", "198.51.100.7:52345", "10.0.1.10:443", None), Ok((6, 52345, 443)));
        assert_eq!(read("TCP", "198.51.100.7", "10.0.1.10:443", None), Ok((6, 50000, 443)));
        assert_eq!(read("17", "[2001:db8::7]:5353", "[2001:db8::1]:53", None), Ok((17, 5353, 53)));
        assert_eq!(read("icmp", "198.51.100.7", "10.0.1.10", None), Ok((1, 0, 0x0800)));
        assert_eq!(read("icmpv6", "2001:db8::7", "[2001:db8::1]", Some("3/1")), Ok((58, 0, 0x0301)));
        assert_eq!(read("gre", "198.51.100.7", "10.0.1.10", None), Ok((47, 0, 0)));
    }

    #[test]
    fn what_is_no_flow_says_what_to_write() {
        let read = |protocol, source, destination, icmp| Flow::parse(protocol, source, destination, icmp).unwrap_err();
        assert_eq!(read("tpc", "1.2.3.4:1", "1.2.3.5:2", None), FlowError::Protocol("tpc".into()));
        assert_eq!(read("tcp", "1.2.3", "1.2.3.5:2", None), FlowError::Address("1.2.3".into()));
        assert_eq!(read("tcp", "1.2.3.4", "1.2.3.5", None), FlowError::PortMissing("1.2.3.5".into()));
        assert_eq!(read("icmp", "1.2.3.4", "1.2.3.5:80", None), FlowError::PortTooMany("1.2.3.5:80".into()));
        assert_eq!(read("tcp", "1.2.3.4", "[::1]:2", None), FlowError::Families);
        assert_eq!(read("icmp", "1.2.3.4", "1.2.3.5", Some("8/x")), FlowError::Icmp("8/x".into()));
        assert_eq!(read("gre", "1.2.3.4", "1.2.3.5", Some("8")), FlowError::NotIcmp);
    }

    /// Asked at kernel level this was a panic, and at host level an answer about a packet that cannot be.
    #[test]
    fn an_extension_header_is_no_protocol_of_a_flow_on_ipv6_only() {
        for protocol in ["hopopt", "ipv6-route", "44", "60"] {
            let flow = Flow::parse(protocol, "2001:db8::7", "2001:db8::1", None);
            assert!(matches!(flow, Err(FlowError::ExtensionHeader(_))), "{protocol}: {flow:?}");
            assert!(Flow::parse(protocol, "198.51.100.7", "10.0.1.10", None).is_ok(), "{protocol}");
        }
    }

    /// Sent with 64 they would be judged by rules, which on a wire they never are (N51).
    #[test]
    fn discovery_is_sent_with_the_hop_limit_it_has_on_a_wire() {
        let hop_limit = |protocol, source, destination, kind| {
            Flow::parse(protocol, source, destination, Some(kind)).unwrap().request().unwrap().hop_limit
        };
        for (kind, expected) in [("135", 255), ("136/0", 255), ("143", 1), ("130", 1), ("128", 64), ("138", 64)] {
            assert_eq!(hop_limit("icmpv6", "fe80::1", "ff02::16", kind), expected, "type {kind}");
        }
        assert_eq!(hop_limit("icmp", "192.0.2.1", "192.0.2.2", "135"), 64, "IPv4 has neither");
    }
}
