//! One packet as a line of JSON, for `explain --jsonl`: the question a harness asks a million times.

use std::net::IpAddr;

use nacl_common::{Direction, Family, Fragment, Packet, packet::EXTENSION_HEADERS};
use serde::Deserialize;

use super::flow::number;

/// A packet as JSON. Unknown keys are errors, so that a misspelt one cannot change the answer unnoticed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// `inbound` or `outbound`.
    direction: Way,
    src: IpAddr,
    dst: IpAddr,
    /// IP protocol number.
    protocol: u8,
    sport: Option<u16>,
    dport: Option<u16>,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    /// True for a non-first fragment, which carries no ports.
    #[serde(default)]
    fragment: bool,
    /// TTL or hop limit; 64 where absent.
    hop_limit: Option<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Inbound,
    Outbound,
}

impl Query {
    /// The packet and its direction.
    ///
    /// # Errors
    /// What is missing or contradicts itself, as a sentence.
    pub fn packet(&self) -> Result<(Direction, Packet), &'static str> {
        let family = match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => Family::V4,
            (IpAddr::V6(_), IpAddr::V6(_)) => Family::V6,
            _ => return Err("src and dst are of different families"),
        };
        if family == Family::V6 && EXTENSION_HEADERS.contains(&self.protocol) && !self.fragment {
            return Err("on IPv6 this protocol number is an extension header, not the protocol of a packet");
        }
        let ported = matches!(self.protocol, 6 | 17) && !self.fragment;
        let icmp = self.protocol == if family == Family::V4 { 1 } else { 58 } && !self.fragment;
        // Of DCCP, SCTP and UDP-Lite, and of ICMP in the other family, no rule sees them (N27, N28, N34), and packets have
        // them all the same.
        let may_have_ports = matches!(self.protocol, 6 | 17 | 33 | 132 | 136) && !self.fragment;
        let may_have_type = matches!(self.protocol, 1 | 58) && !self.fragment;
        if !may_have_ports && (self.sport.is_some() || self.dport.is_some()) {
            return Err("only packets of protocols with ports that are not later fragments have sport and dport");
        }
        if !may_have_type && (self.icmp_type.is_some() || self.icmp_code.is_some()) {
            return Err(
                "only ICMP (1) and ICMPv6 (58) packets that are not later fragments have icmp_type and icmp_code",
            );
        }
        let dport = match (ported, icmp) {
            (true, _) => self.dport.ok_or("a TCP or UDP packet needs dport")?,
            (_, true) => {
                let kind = self.icmp_type.ok_or("an ICMP packet needs icmp_type")?;
                u16::from(kind) << 8 | u16::from(self.icmp_code.unwrap_or(0))
            }
            _ => 0,
        };
        let direction = match self.direction {
            Way::Inbound => Direction::Inbound,
            Way::Outbound => Direction::Outbound,
        };
        let packet = Packet {
            family,
            protocol: self.protocol,
            fragment: if self.fragment { Fragment::Later } else { Fragment::None },
            hop_limit: self.hop_limit.unwrap_or(64),
            tcp_flags: 0,
            src: number(self.src),
            dst: number(self.dst),
            sport: if ported { self.sport.unwrap_or(0) } else { 0 },
            dport,
            ident: 0,
        };
        Ok((direction, packet))
    }
}
