//! Entries of the connection table → connections with names: who began them, where they stand, which rules let them in.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use nacl_common::{
    Control, Direction, Family, Reason,
    border::{Entry, FlowKey},
    flow::State,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Clock, History, Place};
use crate::{
    analyze::address,
    compile::{Slot, SlotTable},
    dataplane::Counters,
    policy,
    resolve::names as serde_names,
};

const SECOND: u64 = 1_000_000_000;

/// A rule that let a connection in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// The network ACL or the security group it stands in.
    pub name: String,
    /// Which list of it.
    #[serde(with = "serde_names::direction")]
    pub direction: Direction,
    /// Number of a network ACL rule.
    pub rule: Option<u16>,
    /// Place of a security group rule among its group's rules of that direction, from 1.
    pub position: Option<u16>,
    /// Its line in the policy file of that time.
    pub line: usize,
    /// False: the policy in force has it no more, and the connection lives on what is remembered (S32).
    pub in_force: bool,
}

impl Admitted {
    fn new(slot: &Slot, in_force: bool) -> Self {
        Self {
            name: slot.name.clone(),
            direction: slot.direction,
            rule: slot.rule,
            position: slot.position,
            line: slot.line,
            in_force,
        }
    }
}

/// A connection that is remembered, as one interface sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// IP protocol number.
    pub protocol: u8,
    /// The other end.
    pub remote: IpAddr,
    /// Port of the other end, where the protocol has ports.
    pub remote_port: Option<u16>,
    /// This end.
    pub local: IpAddr,
    /// Port of this end, likewise.
    pub local_port: Option<u16>,
    /// Identifier of an ICMP echo.
    pub echo_id: Option<u16>,
    /// Which way its first packet went: `inbound` where the other end began it.
    #[serde(with = "serde_names::direction")]
    pub began: Direction,
    /// Stable name of where it stands.
    pub state: String,
    /// Since when it is remembered, RFC 3339.
    pub since: String,
    /// Seconds until it is forgotten, unless it is met before; 0 for one that is forgotten already and still takes room.
    pub expires_in: u64,
    /// Whether its time is over.
    pub expired: bool,
    /// Whether the network ACL admitted it, which counts in stateful mode.
    pub nacl: bool,
    /// Whether the security groups did.
    pub group: bool,
    /// The rule of the network ACL that did, as far as it is known.
    pub nacl_rule: Option<Admitted>,
    /// The rule of the security groups, likewise.
    pub group_rule: Option<Admitted>,
    /// Epoch of the policy that admitted it first.
    pub epoch: u32,
}

/// What is needed to name what stands in a connection table.
#[derive(Clone, Copy, Debug)]
pub struct Naming<'a> {
    /// The interface.
    pub place: &'a Place,
    /// What slots meant.
    pub history: &'a History,
    /// What they mean now.
    pub slots: &'a SlotTable,
    /// Turns the kernel's clock into the time of day.
    pub clock: Clock,
    /// The kernel's clock now.
    pub now: u64,
}

impl Remembered {
    /// Names everything in an entry; nothing where it is none of ours.
    pub fn new(key: &FlowKey, entry: &Entry, naming: &Naming<'_>) -> Option<Self> {
        let Naming { place, history, slots, clock, now } = *naming;
        let family = [Family::V4, Family::V6].into_iter().find(|family| *family as u8 == key.family)?;
        let has_ports = matches!(key.protocol, 6 | 17);
        let echo = matches!((key.protocol, family), (1, Family::V4) | (58, Family::V6));
        let rule = |slot: u16| {
            let meant = history.since(slot, entry.epoch)?;
            let in_force = slots.slots.get(&slot).is_some_and(|now| now.same_rule(meant));
            // Where the rule is the same, the line is the one in the file as it is now.
            Some(Admitted::new(if in_force { &slots.slots[&slot] } else { meant }, in_force))
        };
        let left = entry.expires.saturating_sub(now);
        Some(Self {
            interface: place.interface.clone(),
            device: place.device.clone(),
            netns: place.netns.clone(),
            protocol: key.protocol,
            remote: address(family, key.remote),
            remote_port: has_ports.then_some(key.remote_port),
            local: address(family, key.local),
            local_port: has_ports.then_some(key.local_port),
            echo_id: echo.then_some(key.remote_port),
            began: if entry.origin == Direction::Inbound as u8 { Direction::Inbound } else { Direction::Outbound },
            state: State::from_number(entry.state).name().to_owned(),
            since: clock.rfc3339(entry.started),
            expires_in: left.div_ceil(SECOND),
            expired: left == 0,
            nacl: entry.nacl == 1,
            group: entry.group == 1,
            nacl_rule: rule(entry.nacl_slot),
            group_rule: rule(entry.group_slot),
            epoch: entry.epoch,
        })
    }
}

/// Which connections are meant. What is absent leaves nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Either end lies in it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text")]
    pub address: Option<Within>,
    /// The port of either end.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text")]
    pub port: Option<u16>,
    /// Its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text")]
    pub protocol: Option<IpProtocol>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text")]
    pub state: Option<StateName>,
}

impl Filter {
    /// Whether it names anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a connection is meant.
    pub fn admits(&self, key: &FlowKey, entry: &Entry) -> bool {
        let Self { address: within, port, protocol, state } = self;
        let family = if key.family == Family::V4 as u8 { Family::V4 } else { Family::V6 };
        within.is_none_or(|Within(net)| {
            [key.remote, key.local].into_iter().any(|end| net.contains(&address(family, end)))
        }) && port
            .is_none_or(|port| matches!(key.protocol, 6 | 17) && [key.remote_port, key.local_port].contains(&port))
            && protocol.is_none_or(|IpProtocol(number)| key.protocol == number)
            && state.as_ref().is_none_or(|StateName(name)| State::from_number(entry.state).name() == *name)
    }
}

/// An address or a CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within(pub IpNet);

impl std::str::FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(Self).map_err(|_| format!("{text:?} is neither an address nor a CIDR"))
    }
}

impl std::fmt::Display for Within {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A protocol by its name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpProtocol(pub u8);

impl std::str::FromStr for IpProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().or_else(|| policy::protocol_number(text));
        number.map(Self).ok_or_else(|| format!("{text:?} is neither the name nor the number of a protocol"))
    }
}

impl std::fmt::Display for IpProtocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The stable name of a connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateName(pub &'static str);

impl StateName {
    /// Every name there is, once.
    pub fn all() -> Vec<&'static str> {
        let mut names: Vec<_> = State::ALL.iter().map(|state| state.name()).collect();
        names.dedup();
        names
    }
}

impl std::str::FromStr for StateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::all();
        let found = known.iter().find(|name| **name == text).map(|name| Self(name));
        found.ok_or_else(|| format!("{text:?} is no state; there are {}", known.join(", ")))
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0)
    }
}

/// As text, also where it is a number: a query has nothing else.
mod text {
    use std::{fmt::Display, str::FromStr};

    use super::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse()).transpose().map_err(de::Error::custom)
    }
}

/// How full the connection table of an interface is. The names of AWS's own counters (S39) where it has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Packets of new connections that were dropped because the table was full, since the interface was attached.
    pub conntrack_allowance_exceeded: u64,
    /// Connections that still have room.
    pub conntrack_allowance_available: u64,
    /// Connections remembered.
    pub entries: u64,
    /// Entries whose time is over; they make way when room is needed.
    pub expired: u64,
    /// Connections there is room for.
    pub capacity: u64,
    /// Whether the network ACL remembers what it admits.
    pub nacl: bool,
    /// Whether security groups judge, which always remember.
    pub groups: bool,
}

/// How much of a table is left when a person is warned: a tenth.
const NEARLY_FULL: u64 = 10;

impl Tracking {
    /// What is in a table. `flags`: the control word's.
    pub fn new(flows: &[(FlowKey, Entry)], capacity: u32, counters: &Counters, flags: u64, now: u64) -> Self {
        let capacity = u64::from(capacity);
        let entries = flows.iter().filter(|(_, entry)| now < entry.expires).count() as u64;
        let full = |direction| counters.reasons.get(&(Reason::ConntrackFull, direction)).map_or(0, |hits| hits.packets);
        let control = Control(flags);
        Self {
            conntrack_allowance_exceeded: Direction::ALL.into_iter().map(full).sum(),
            conntrack_allowance_available: capacity.saturating_sub(entries),
            entries,
            expired: flows.len() as u64 - entries,
            capacity,
            nacl: control.has(Control::STATEFUL | Control::NACL),
            groups: control.has(Control::GROUPS),
        }
    }

    /// Whether anything is remembered now.
    pub const fn on(&self) -> bool {
        self.nacl || self.groups
    }

    /// What a person should know.
    pub fn warning(&self) -> Option<String> {
        let Self { entries, capacity, conntrack_allowance_exceeded: exceeded, .. } = self;
        if *exceeded > 0 {
            Some(format!(
                "{exceeded} packets of new connections were dropped because the connection table was full \
                 ({entries} of {capacity} are in use)"
            ))
        } else if self.on() && self.conntrack_allowance_available < capacity.div_ceil(NEARLY_FULL) {
            Some(format!(
                "the connection table is nearly full ({entries} of {capacity}): new connections will be dropped; \
                 `entries` in [tracking] makes it larger, shorter time-outs make it emptier"
            ))
        } else {
            None
        }
    }
}

/// Connections of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    /// IP protocol number.
    pub protocol: u8,
    /// Stable name of the state.
    pub state: String,
    /// How many.
    pub entries: u64,
}

/// The connection table of an interface in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackingStats {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// How full it is.
    #[serde(flatten)]
    pub tracking: Tracking,
    /// What is remembered, by protocol and state.
    pub states: Vec<StateCount>,
}

/// Counts what is remembered by protocol and state.
pub fn states(flows: &[(FlowKey, Entry)], now: u64) -> Vec<StateCount> {
    let mut counts: BTreeMap<(u8, u8), u64> = BTreeMap::new();
    for (key, entry) in flows.iter().filter(|(_, entry)| now < entry.expires) {
        *counts.entry((key.protocol, entry.state)).or_default() += 1;
    }
    let mut states: Vec<StateCount> = Vec::new();
    for ((protocol, state), entries) in counts {
        let state = State::from_number(state).name();
        match states.last_mut() {
            // Two numbers, of the side that closes first, have one name.
            Some(last) if last.protocol == protocol && last.state == state => last.entries += entries,
            _ => states.push(StateCount { protocol, state: state.to_owned(), entries }),
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: FlowKey = FlowKey {
        remote: [0, 0xc633_6407],
        local: [0, 0x0a00_010a],
        remote_port: 52345,
        local_port: 443,
        protocol: 6,
        family: 4,
        pad: 0,
    };

    fn entry(state: State, expires: u64) -> Entry {
        Entry { state: state as u8, expires, nacl_slot: 0x3fff, group_slot: 0x3fff, ..Entry::default() }
    }

    fn filter(query: &str) -> Result<Filter, String> {
        let pairs: serde_json::Map<_, _> = form_urlencoded::parse(query.as_bytes())
            .map(|(key, value)| (key.into_owned(), value.into_owned().into()))
            .collect();
        serde_json::from_value(pairs.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_mean_either_end() {
        let open = entry(State::Established, 10);
        for (query, expected) in [
            ("", true),
            ("address=10.0.1.10", true),
            ("address=198.51.100.0/24", true),
            ("address=192.0.2.1", false),
            ("address=::/0", false),
            ("port=443", true),
            ("port=52345", true),
            ("port=80", false),
            ("protocol=tcp", true),
            ("protocol=6", true),
            ("protocol=udp", false),
            ("state=established&port=443", true),
            ("state=closing", false),
            ("state=established&port=80", false),
        ] {
            assert_eq!(filter(query).unwrap().admits(&TCP, &open), expected, "{query}");
        }
        let other = FlowKey { protocol: 47, remote_port: 0, local_port: 0, ..TCP };
        assert!(!filter("port=0").unwrap().admits(&other, &open), "a protocol without ports has no port 0");
        assert!(filter("state=closing").unwrap().admits(&TCP, &entry(State::ClosingReply, 1)));
        for wrong in ["address=nobody", "port=70000", "protocol=nonsense", "state=open"] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
        let back = serde_json::to_value(filter("address=10.0.0.0/8&protocol=17").unwrap()).unwrap();
        assert_eq!(back, serde_json::json!({ "address": "10.0.0.0/8", "protocol": "17" }));
    }

    #[test]
    fn what_is_over_takes_no_allowance() {
        let flows =
            [(TCP, entry(State::Established, 11)), (FlowKey { remote_port: 1, ..TCP }, entry(State::Closed, 10))];
        let flags = Control::GROUPS | Control::NACL;
        let tracking = Tracking::new(&flows, 2, &Counters::default(), flags, 10);
        assert_eq!((tracking.entries, tracking.expired, tracking.conntrack_allowance_available), (1, 1, 1));
        assert_eq!((tracking.nacl, tracking.groups, tracking.warning()), (false, true, None));
        let full = Tracking::new(&flows, 2, &Counters::default(), flags, 9);
        assert!(full.warning().unwrap().contains("nearly full (2 of 2)"));
        let off = Tracking::new(&flows, 2, &Counters::default(), Control::NACL, 9);
        assert_eq!(off.warning(), None, "nobody is dropped for it");
        let exceeded = Counters {
            reasons: [((Reason::ConntrackFull, Direction::Outbound), nacl_common::Counter { packets: 3, bytes: 180 })]
                .into(),
            ..Counters::default()
        };
        let tracking = Tracking::new(&[], 2, &exceeded, flags, 9);
        assert_eq!(tracking.conntrack_allowance_exceeded, 3);
        assert!(tracking.warning().unwrap().starts_with("3 packets of new connections were dropped"));
        assert_eq!(states(&flows, 10), [StateCount { protocol: 6, state: "established".into(), entries: 1 }]);
    }
}
