//! One packet as a line of JSON, for `explain --jsonl`: the question a harness asks a million times.

use std::{net::IpAddr, time::Duration};

use nacl_common::{
    Direction, Family, Fragment, Packet,
    packet::{EXTENSION_HEADERS, tcp},
};
use serde::{Deserialize, Deserializer, de};

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
    /// Identifier of an echo; 0 where absent.
    icmp_id: Option<u16>,
    /// Letters of `SAFRPU`, in any order.
    tcp_flags: Option<String>,
    /// `true` and `"later"`: a non-first fragment, which carries no ports. `"first"`: one that does.
    #[serde(default)]
    fragment: Part,
    /// What fragments of one packet share; 0 where absent.
    ident: Option<u32>,
    /// TTL or hop limit; 64 where absent.
    hop_limit: Option<u8>,
    /// Seconds; in a sequence only.
    time: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Whole,
    First,
    Later,
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Part;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false, \"first\" or \"later\"")
            }

            fn visit_bool<E: de::Error>(self, later: bool) -> Result<Part, E> {
                Ok(if later { Part::Later } else { Part::Whole })
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Part, E> {
                match name {
                    "first" => Ok(Part::First),
                    "later" => Ok(Part::Later),
                    _ => Err(E::invalid_value(de::Unexpected::Str(name), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Inbound,
    Outbound,
}

impl Query {
    /// When it is met, in nanoseconds, for a packet of a sequence: in one, a TCP packet must say its flags, because they
    /// decide what is remembered.
    ///
    /// # Errors
    /// What is missing, or is no time, as a sentence.
    pub fn in_sequence(&self) -> Result<Option<u64>, &'static str> {
        if self.protocol == 6 && self.fragment != Part::Later && self.tcp_flags.is_none() {
            return Err("in a sequence a TCP packet needs tcp_flags, such as \"S\", \"SA\" or \"A\"");
        }
        let Some(time) = self.time else { return Ok(None) };
        let time = Duration::try_from_secs_f64(time).ok().and_then(|time| u64::try_from(time.as_nanos()).ok());
        time.map(Some).ok_or("time is in seconds, from 0 on")
    }

    /// Whether it says when it is met.
    pub const fn has_time(&self) -> bool {
        self.time.is_some()
    }

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
        let later = self.fragment == Part::Later;
        if family == Family::V6 && EXTENSION_HEADERS.contains(&self.protocol) && !later {
            return Err("on IPv6 this protocol number is an extension header, not the protocol of a packet");
        }
        let ported = matches!(self.protocol, 6 | 17) && !later;
        let icmp = self.protocol == if family == Family::V4 { 1 } else { 58 } && !later;
        // Of DCCP, SCTP and UDP-Lite, and of ICMP in the other family, no rule sees them (N27, N28, N34), and packets have
        // them all the same.
        let may_have_ports = matches!(self.protocol, 6 | 17 | 33 | 132 | 136) && !later;
        let may_have_type = matches!(self.protocol, 1 | 58) && !later;
        if !may_have_ports && (self.sport.is_some() || self.dport.is_some()) {
            return Err("only packets of protocols with ports that are not later fragments have sport and dport");
        }
        if !may_have_type && (self.icmp_type.is_some() || self.icmp_code.is_some()) {
            return Err(
                "only ICMP (1) and ICMPv6 (58) packets that are not later fragments have icmp_type and icmp_code",
            );
        }
        if self.ident.is_some() && self.fragment == Part::Whole {
            return Err("only fragments have ident: write \"fragment\": \"first\" or \"later\" too");
        }
        if family == Family::V4 && self.ident.is_some_and(|ident| ident > u16::MAX.into()) {
            return Err("on IPv4 ident is at most 65535");
        }
        let tcp_flags = match &self.tcp_flags {
            None => 0,
            Some(_) if self.protocol != 6 || later => {
                return Err("only TCP packets that are not later fragments have tcp_flags");
            }
            Some(letters) => flags(letters).ok_or("tcp_flags are letters of SAFRPU, each at most once")?,
        };
        let echo = icmp && self.icmp_type.is_some_and(|kind| Self::ECHO.contains(&(family, kind)));
        if self.icmp_id.is_some() && !echo {
            return Err("only ICMP echo requests and replies have icmp_id");
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
            fragment: match self.fragment {
                Part::Whole => Fragment::None,
                Part::First => Fragment::First,
                Part::Later => Fragment::Later,
            },
            hop_limit: self.hop_limit.unwrap_or(64),
            tcp_flags,
            src: number(self.src),
            dst: number(self.dst),
            sport: if ported { self.sport.unwrap_or(0) } else { self.icmp_id.unwrap_or(0) },
            dport,
            ident: self.ident.unwrap_or(0),
        };
        Ok((direction, packet))
    }

    /// ICMP types with an identifier that connections are told apart by.
    const ECHO: [(Family, u8); 4] = [(Family::V4, 8), (Family::V4, 0), (Family::V6, 128), (Family::V6, 129)];
}

fn flags(letters: &str) -> Option<u8> {
    let known = [('S', tcp::SYN), ('A', tcp::ACK), ('F', tcp::FIN), ('R', tcp::RST), ('P', PSH), ('U', URG)];
    letters.chars().try_fold(0, |flags, letter| {
        let (_, flag) = known.iter().find(|(known, _)| *known == letter)?;
        (flags & flag == 0).then_some(flags | flag)
    })
}

/// TCP flags that decide nothing, and that packets have.
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
