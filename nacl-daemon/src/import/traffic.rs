//! Protocol, ports and ICMP type of a rule as AWS's APIs take them → [`Traffic`], for every importer. Knows no document.

use std::{borrow::Cow, ops::RangeInclusive};

use ipnet::IpNet;
use nacl_common::Action;

use super::{
    term::{At, whole},
    tree::Node,
};
use crate::{
    inventory::{Because, Traffic},
    policy,
    resolve::Protocol,
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A value of a rule, whichever tree it stands in.
pub trait Value {
    /// A text, or a number as one; `None` where it is neither, or not known.
    fn plain(&self) -> Option<Cow<'_, str>>;
    /// A whole number within bounds; anything else is told.
    fn whole<T: TryFrom<i64>>(&self, bounds: RangeInclusive<i64>) -> Option<T>;
    /// Records that it is not what it should be, or not known.
    fn refuse(&self, wanted: &str);
    /// Records that something is wrong here.
    fn wrong(&self, message: String);
    /// Records that something is taken otherwise than it stands.
    fn note(&self, because: Because, message: &str);
}

impl Value for At<'_> {
    fn plain(&self) -> Option<Cow<'_, str>> {
        self.term.as_text().map(Cow::Borrowed)
    }

    fn whole<T: TryFrom<i64>>(&self, bounds: RangeInclusive<i64>) -> Option<T> {
        self.number(bounds)
    }

    fn refuse(&self, wanted: &str) {
        At::refuse(self, wanted);
    }

    fn wrong(&self, message: String) {
        At::wrong(self, message, None);
    }

    fn note(&self, because: Because, message: &str) {
        At::note(self, because, message);
    }
}

impl Value for Node<'_> {
    fn plain(&self) -> Option<Cow<'_, str>> {
        match self.value {
            serde_json::Value::String(text) => Some(Cow::Borrowed(text)),
            serde_json::Value::Number(number) => Some(Cow::Owned(whole(number))),
            _ => None,
        }
    }

    fn whole<T: TryFrom<i64>>(&self, bounds: RangeInclusive<i64>) -> Option<T> {
        self.number(bounds)
    }

    fn refuse(&self, wanted: &str) {
        self.mistaken(wanted);
    }

    fn wrong(&self, message: String) {
        Node::wrong(self, message, None);
    }

    fn note(&self, because: Because, message: &str) {
        Node::note(self, because, message);
    }
}

/// What a rule without the ports or types that AWS wants is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// Wrong: whoever makes it is refused by AWS.
    Wrong,
    /// A recording that was cut: all are taken, and that is told.
    All,
}

impl Lacking {
    /// What is taken; `None`: it is wrong.
    fn all(self, at: &impl Value, traffic: Traffic, wrong: &str) -> Option<Traffic> {
        match self {
            Self::Wrong => {
                at.wrong(wrong.to_owned());
                None
            }
            Self::All => {
                at.note(Because::NotHere, "neither ports nor ICMP types are told: taken is that all are meant");
                Some(traffic)
            }
        }
    }
}

/// `allow` or `deny`. `same`: what of capitals the document's owner takes for the same.
pub fn action(at: &impl Value, same: fn(&str, &str) -> bool) -> Option<Action> {
    let known = [("allow", Action::Allow), ("deny", Action::Deny)];
    let found = at.plain().and_then(|text| known.into_iter().find(|(word, _)| same(&text, word)));
    let found = found.map(|(_, action)| action);
    if found.is_none() {
        at.refuse("`allow` or `deny`");
    }
    found
}

/// `-1` or `all`, a number, or a name (N25, S10).
pub fn protocol(at: &impl Value) -> Option<Protocol> {
    let found = at.plain().and_then(|text| {
        let text = text.trim();
        if text == "-1" || text.eq_ignore_ascii_case("all") {
            return Some(Protocol::All);
        }
        text.parse().ok().or_else(|| policy::protocol_number(text)).map(Protocol::Number)
    });
    if found.is_none() {
        at.refuse("a protocol: a number from 0 to 255, -1, or a name such as tcp");
    }
    found
}

/// What says nothing where AWS ignores it.
fn idle(value: &impl Value) -> bool {
    matches!(value.plain().as_deref(), None | Some("0" | "-1" | "65535"))
}

/// A network ACL entry's. `ports` and `icmp` are what stands in the document, where anything does.
pub fn of_entry<V: Value>(
    at: &V,
    protocol: Protocol,
    cidr: IpNet,
    ports: Option<(V, V)>,
    icmp: Option<(V, V)>,
    lacking: Lacking,
) -> Option<Traffic> {
    let v6 = matches!(cidr, IpNet::V6(_));
    let mut traffic = Traffic { protocol, ports: None, icmp: None };
    match protocol {
        Protocol::Number(TCP | UDP) => {
            // N29.
            let Some((from, to)) = ports else {
                return lacking.all(at, traffic, "a rule of tcp or udp needs its ports");
            };
            traffic.ports = range(at, &from, &to).ok()?;
        }
        // N30; of protocol 58 with an IPv4 CIDR AWS takes every type (N28).
        Protocol::Number(number) if number == ICMP || number == ICMPV6 && v6 => {
            let Some((kind, code)) = icmp else {
                return lacking.all(at, traffic, "a rule of ICMP needs its type and code, -1 for all");
            };
            traffic.icmp = types(&kind, &code).ok()?;
        }
        // AWS ignores what else stands there (N27).
        _ => {
            if ![ports, icmp].iter().flatten().all(|(first, last)| idle(first) && idle(last)) {
                at.note(Because::NoEffect, "AWS ignores ports and ICMP types with this protocol (N27)");
            }
        }
    }
    Some(traffic)
}

/// A security group rule's: one pair of numbers, which are ICMP's type and code too (S14).
pub fn of_group_rule<V: Value>(
    at: &V,
    protocol: Protocol,
    from: Option<V>,
    to: Option<V>,
    lacking: Lacking,
) -> Option<Traffic> {
    let mut traffic = Traffic { protocol, ports: None, icmp: None };
    match (protocol, from, to) {
        (Protocol::Number(TCP | UDP), Some(from), Some(to)) => traffic.ports = range(at, &from, &to).ok()?,
        (Protocol::Number(ICMP | ICMPV6), Some(from), Some(to)) => traffic.icmp = types(&from, &to).ok()?,
        // S12.
        (Protocol::Number(TCP | UDP | ICMP), from, to) => {
            // One of the two is no cut recording.
            let lacking = if from.is_none() && to.is_none() { lacking } else { Lacking::Wrong };
            let message = "a rule of tcp, udp or icmp needs its ports, or ICMP type and code (S12)";
            return lacking.all(at, traffic, message);
        }
        (Protocol::Number(ICMPV6), _, _) => {}
        // All ports, whatever stands there (S11).
        (_, from, to) => {
            if !from.iter().chain(&to).all(idle) {
                at.note(Because::NoEffect, "AWS ignores ports with this protocol (S11)");
            }
        }
    }
    Some(traffic)
}

/// What was wrong has been told.
struct Told;

/// Ports; all of them are `None`.
fn range<V: Value>(at: &V, from: &V, to: &V) -> Result<Option<(u16, u16)>, Told> {
    let all = |at: &V| at.plain().as_deref() == Some("-1");
    if all(from) && all(to) {
        return Ok(None);
    }
    let (first, last): (Option<u16>, Option<u16>) = (from.whole(0..=65535), to.whole(0..=65535));
    let (Some(first), Some(last)) = (first, last) else { return Err(Told) };
    if first > last {
        at.wrong(format!("ports {first} to {last} are none: the first is above the last"));
        return Err(Told);
    }
    Ok(((first, last) != (0, u16::MAX)).then_some((first, last)))
}

/// ICMP type and code, each `None` for all.
type Types = (Option<u8>, Option<u8>);

/// ICMP type and code; all types are `None`, whatever the code is (N31).
fn types<V: Value>(kind: &V, code: &V) -> Result<Option<Types>, Told> {
    let (kind, code): (Option<i16>, Option<i16>) = (kind.whole(-1..=255), code.whole(-1..=255));
    let (Some(kind), Some(code)) = (kind, code) else { return Err(Told) };
    Ok(u8::try_from(kind).ok().map(|kind| (Some(kind), u8::try_from(code).ok())))
}
