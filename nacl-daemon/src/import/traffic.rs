//! Protocol, ports and ICMP type of a rule as AWS's APIs take them → [`Traffic`]. Knows no document.

use ipnet::IpNet;

use super::term::At;
use crate::{
    inventory::{Because, Traffic},
    policy,
    resolve::Protocol,
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// `-1` or `all`, a number, or a name (N25, S10).
pub fn protocol(at: &At<'_>) -> Option<Protocol> {
    let text = at.text()?.trim();
    if text == "-1" || text.eq_ignore_ascii_case("all") {
        return Some(Protocol::All);
    }
    let number = text.parse().ok().or_else(|| policy::protocol_number(text));
    if number.is_none() {
        at.refuse("a protocol: a number from 0 to 255, -1, or a name such as tcp");
    }
    number.map(Protocol::Number)
}

/// A network ACL entry's. `ports` and `icmp` are what stands in the document, where anything does.
pub fn of_entry(
    at: &At<'_>,
    protocol: Protocol,
    cidr: IpNet,
    ports: Option<(At<'_>, At<'_>)>,
    icmp: Option<(At<'_>, At<'_>)>,
) -> Option<Traffic> {
    let v6 = matches!(cidr, IpNet::V6(_));
    let mut traffic = Traffic { protocol, ports: None, icmp: None };
    match protocol {
        Protocol::Number(TCP | UDP) => {
            // N29.
            let Some((from, to)) = ports else {
                at.wrong("a rule of tcp or udp needs its ports", None);
                return None;
            };
            traffic.ports = range(at, &from, &to)?;
        }
        // N30; of protocol 58 with an IPv4 CIDR AWS takes every type (N28).
        Protocol::Number(number) if number == ICMP || number == ICMPV6 && v6 => {
            let Some((kind, code)) = icmp else {
                at.wrong("a rule of ICMP needs its type and code, -1 for all", None);
                return None;
            };
            traffic.icmp = types(&kind, &code)?;
        }
        // AWS ignores what else stands there (N27).
        _ => {
            let said = |pair: &Option<(At<'_>, At<'_>)>| {
                pair.as_ref().is_some_and(|(first, last)| {
                    let idle = |at: &At<'_>| matches!(at.term.as_text(), None | Some("0" | "-1" | "65535"));
                    !(idle(first) && idle(last))
                })
            };
            if said(&ports) || said(&icmp) {
                at.note(Because::NoEffect, "AWS ignores ports and ICMP types with this protocol (N27)");
            }
        }
    }
    Some(traffic)
}

/// A security group rule's: one pair of numbers, which are ICMP's type and code too (S14).
pub fn of_group_rule(at: &At<'_>, protocol: Protocol, from: Option<At<'_>>, to: Option<At<'_>>) -> Option<Traffic> {
    let mut traffic = Traffic { protocol, ports: None, icmp: None };
    match (protocol, from, to) {
        (Protocol::Number(TCP | UDP), Some(from), Some(to)) => traffic.ports = range(at, &from, &to)?,
        (Protocol::Number(ICMP | ICMPV6), Some(from), Some(to)) => traffic.icmp = types(&from, &to)?,
        // S12.
        (Protocol::Number(TCP | UDP | ICMP), _, _) => {
            at.wrong("a rule of tcp, udp or icmp needs its ports, or ICMP type and code (S12)", None);
            return None;
        }
        (Protocol::Number(ICMPV6), _, _) => {}
        // All ports, whatever stands there (S11).
        (_, from, to) => {
            let idle = |at: &At<'_>| matches!(at.term.as_text(), None | Some("0" | "-1" | "65535"));
            if !from.iter().chain(&to).all(idle) {
                at.note(Because::NoEffect, "AWS ignores ports with this protocol (S11)");
            }
        }
    }
    Some(traffic)
}

/// Ports; all of them are `None`, inside.
fn range(at: &At<'_>, from: &At<'_>, to: &At<'_>) -> Option<Option<(u16, u16)>> {
    let all = |at: &At<'_>| at.term.as_text() == Some("-1");
    if all(from) && all(to) {
        return Some(None);
    }
    let (first, last): (Option<u16>, Option<u16>) = (from.number(0..=65535), to.number(0..=65535));
    let (first, last) = (first?, last?);
    if first > last {
        at.wrong(format!("ports {first} to {last} are none: the first is above the last"), None);
        return None;
    }
    Some(((first, last) != (0, u16::MAX)).then_some((first, last)))
}

/// ICMP type and code; all types are `None`, inside, whatever the code is (N31).
fn types(kind: &At<'_>, code: &At<'_>) -> Option<Option<(Option<u8>, Option<u8>)>> {
    let (kind, code): (Option<i16>, Option<i16>) = (kind.number(-1..=255), code.number(-1..=255));
    let (kind, code) = (kind?, code?);
    Some(u8::try_from(kind).ok().map(|kind| (Some(kind), u8::try_from(code).ok())))
}
