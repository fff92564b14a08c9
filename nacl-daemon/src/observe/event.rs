//! Kernel events → records with names: which rule, which line, why.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use nacl_common::{Event, Family, Fragment, Reason};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::Number;
use crate::{analyze::address, compile::SlotTable};

/// Turns the kernel's clock (since boot) into the time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    boot: SystemTime,
}

impl Clock {
    /// Reads both clocks now.
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Self { boot: SystemTime::now() - since_boot }
    }

    fn time(self, nanoseconds: u64) -> SystemTime {
        self.boot + Duration::from_nanos(nanoseconds)
    }
}

/// One verdict, told in full. Records are samples: the counters are the truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, RFC 3339.
    pub time: String,
    /// Interface.
    pub interface: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// `allow` or `deny`: what the policy asks for.
    pub action: String,
    /// False in monitor mode: the packet went on whatever the action says.
    pub enforced: bool,
    /// Stable name of the reason.
    pub reason: String,
    /// The reason in one sentence.
    pub meaning: String,
    /// Who decided.
    pub layer: String,
    /// Name of the network ACL, where one decided.
    pub nacl: Option<String>,
    /// Number of the rule, or `"*"`, where one decided.
    pub rule: Option<Number>,
    /// Line of the rule in the policy file, 0 for `*`.
    pub line: Option<usize>,
    /// Sender; null where the frame is not IP.
    pub src: Option<IpAddr>,
    /// Receiver, likewise.
    pub dst: Option<IpAddr>,
    /// IP protocol number, likewise.
    pub protocol: Option<u8>,
    /// Source port of TCP and UDP.
    pub sport: Option<u16>,
    /// Destination port of TCP and UDP.
    pub dport: Option<u16>,
    /// ICMP type.
    pub icmp_type: Option<u8>,
    /// ICMP code.
    pub icmp_code: Option<u8>,
    /// TCP flags by name, `SYN,ACK`.
    pub tcp_flags: Option<String>,
    /// A fragment that is not the first: it carries no ports.
    pub fragment: bool,
    /// Bytes of the frame.
    pub length: u32,
    /// Epoch of the policy that judged.
    pub epoch: u32,
}

impl Record {
    /// Names everything in an event. `slots`: the table of the event's epoch, if it is still known.
    pub fn new(event: &Event, interface: &str, netns: Option<&str>, slots: Option<&SlotTable>, clock: Clock) -> Self {
        let reason = Reason::from_number(event.reason);
        let slot = slots.and_then(|table| table.slots.get(&event.slot));
        let rule = match (reason, slot) {
            (Some(Reason::NaclImplicit), _) => Some(Number::Implied),
            (_, Some(slot)) => slot.rule.map(Number::Rule),
            _ => None,
        };
        let later = event.fragment == Fragment::Later as u8;
        let ports = matches!(event.protocol, 6 | 17) && event.family != 0 && !later;
        let icmp = matches!((event.protocol, event.family), (1, 4) | (58, 6)) && !later;
        let ip = |address| address_of(event.family, address);
        Self {
            time: humantime::format_rfc3339_micros(clock.time(event.time)).to_string(),
            interface: interface.to_owned(),
            netns: netns.map(str::to_owned),
            direction: if event.direction == 0 { "inbound" } else { "outbound" }.to_owned(),
            action: if event.action == 0 { "deny" } else { "allow" }.to_owned(),
            enforced: event.enforced != 0,
            reason: reason.map_or_else(|| format!("reason-{}", event.reason), |reason| reason.name().to_owned()),
            meaning: reason.map_or("", Reason::sentence).to_owned(),
            layer: if event.layer == 1 { "nacl" } else { "none" }.to_owned(),
            nacl: slot.map(|slot| slot.name.clone()),
            rule,
            line: slot.map(|slot| slot.line),
            src: ip(event.src),
            dst: ip(event.dst),
            protocol: (event.family != 0).then_some(event.protocol),
            sport: ports.then_some(event.sport),
            dport: ports.then_some(event.dport),
            icmp_type: icmp.then_some((event.dport >> 8) as u8),
            icmp_code: icmp.then_some((event.dport & 0xff) as u8),
            tcp_flags: (ports && event.protocol == 6).then(|| flags(event.tcp_flags)),
            fragment: later,
            length: event.length,
            epoch: event.epoch,
        }
    }

    /// Sender with its port, where there is one.
    pub fn source(&self) -> String {
        endpoint(self.src, self.sport)
    }

    /// Receiver with its port, where there is one.
    pub fn destination(&self) -> String {
        endpoint(self.dst, self.dport)
    }
}

fn endpoint(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    }
}

fn address_of(family: u8, halves: [u64; 2]) -> Option<IpAddr> {
    let family = [Family::V4, Family::V6].into_iter().find(|known| *known as u8 == family)?;
    Some(address(family, halves))
}

fn flags(byte: u8) -> String {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<_> = NAMES.iter().enumerate().filter(|(bit, _)| byte >> bit & 1 == 1).map(|(_, name)| *name).collect();
    set.join(",")
}

#[cfg(test)]
mod tests {
    use nacl_common::{Action, Direction, Family, Layer};

    use super::*;
    use crate::compile::Slot;

    #[test]
    fn names_the_rule_and_its_line() {
        let slots = SlotTable {
            slots: [(
                16,
                Slot {
                    direction: Direction::Inbound,
                    family: Family::V4,
                    layer: Layer::Nacl,
                    name: "web".into(),
                    position: None,
                    rule: Some(100),
                    action: Action::Deny,
                    line: 7,
                    matches: "6 443-443 0.0.0.0/0".into(),
                },
            )]
            .into(),
        };
        let event = Event {
            src: [0, 0xc633_6407],
            dst: [0, 0x0a00_010a],
            sport: 52345,
            dport: 443,
            slot: 16,
            reason: Reason::NaclRule as u8,
            layer: 1,
            family: 4,
            protocol: 6,
            tcp_flags: 0x12,
            enforced: 1,
            ..Event::default()
        };
        let record = Record::new(&event, "eth0", Some("web"), Some(&slots), Clock::now());
        assert_eq!(record.rule, Some(Number::Rule(100)));
        assert_eq!((record.line, record.nacl.as_deref()), (Some(7), Some("web")));
        assert_eq!(record.source(), "198.51.100.7:52345");
        assert_eq!(record.destination(), "10.0.1.10:443");
        assert_eq!(record.tcp_flags.as_deref(), Some("SYN,ACK"));
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["rule"], 100);
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record);
    }

    #[test]
    fn a_later_fragment_has_no_ports_and_a_stranger_no_addresses() {
        let event = Event { family: 4, protocol: 6, fragment: Fragment::Later as u8, ..Event::default() };
        assert_eq!(Record::new(&event, "eth0", None, None, Clock::now()).dport, None);
        let event = Event { reason: Reason::Arp as u8, ..Event::default() };
        let record = Record::new(&event, "eth0", None, None, Clock::now());
        assert_eq!((record.src, record.protocol, record.reason.as_str()), (None, None, "arp"));
    }

    #[test]
    fn the_clock_is_about_right() {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap();
        let told = Clock::now().time(now.as_nanos() as u64);
        let off = told.duration_since(SystemTime::now()).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(1), "off by {off:?}");
    }
}
