//! Kernel events → records with names: which rule, which line, why.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use nacl_common::{Event, Family, Fragment, Layer, Reason, border::NO_SLOT, flow::Met, packet::Quote};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{History, Number, Place};
use crate::{analyze::address, compile::Decider};

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

    /// The clock whose nanoseconds are those since 1970: a capture's.
    pub const UNIX: Self = Self { boot: SystemTime::UNIX_EPOCH };

    fn time(self, nanoseconds: u64) -> SystemTime {
        self.boot + Duration::from_nanos(nanoseconds)
    }

    /// A time of the kernel's clock in whole Unix seconds.
    pub fn seconds(self, nanoseconds: u64) -> u64 {
        let since = self.time(nanoseconds).duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    }

    /// The same, rounded: of something that was to happen on the second, and is told by a clock that lags a few milliseconds.
    pub fn rounded(self, nanoseconds: u64) -> u64 {
        self.seconds(nanoseconds.saturating_add(500_000_000))
    }

    /// A time of the kernel's clock as people write it, to the second.
    pub fn rfc3339(self, nanoseconds: u64) -> String {
        humantime::format_rfc3339_seconds(self.time(nanoseconds)).to_string()
    }
}

/// One verdict, told in full. Records are samples: the counters are the truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, RFC 3339.
    pub time: String,
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
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
    /// What decided: `inbound 100`, `outbound *`, `sg-3 inbound 1`, `inbound sg *`, `inbound tracked`, `same-subnet`, or the
    /// name of the reason.
    pub decided_by: Decider,
    /// Name of the network ACL, where one decided.
    pub nacl: Option<String>,
    /// Number of the rule, or `"*"`, where one decided.
    pub rule: Option<Number>,
    /// The security group, where a rule of one decided.
    pub group: Option<String>,
    /// The rule's place among that group's rules of that direction, from 1.
    pub position: Option<u16>,
    /// The interface's security groups, where no rule of any of them matched.
    pub groups: Vec<String>,
    /// What exempted it, where something did.
    pub exemption: Option<String>,
    /// Line of the rule in the policy file, 0 for `*` and what else has none.
    pub line: Option<usize>,
    /// It passed because its connection is remembered, and no rule was asked.
    pub tracked: bool,
    /// By what the other layer had let it pass, where that was asked before.
    pub also: Option<Decider>,
    /// What it is to its connection: `new`, `forward`, `reply` or `unknown`; null where connections were not asked about.
    pub flow: Option<String>,
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
    /// Of a denied ICMP error: the packet that it is about; null elsewhere, and where it names none of who gets it.
    pub about: Option<About>,
    /// Bytes of the frame.
    pub length: u32,
    /// Epoch of the policy that judged.
    pub epoch: u32,
}

/// A packet that an ICMP error is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its sender.
    pub src: IpAddr,
    /// Its receiver.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port of TCP and UDP.
    pub sport: Option<u16>,
    /// Destination port of TCP and UDP.
    pub dport: Option<u16>,
    /// ICMP type.
    pub icmp_type: Option<u8>,
    /// Bytes that the next link takes, where it was too big.
    pub mtu: Option<u16>,
}

impl About {
    fn new(event: &Event) -> Option<Self> {
        let Quote { dst, sport, dport, mtu, protocol, quoted } = event.quote;
        let (ports, icmp) = (matches!(protocol, 6 | 17), matches!((protocol, event.family), (1, 4) | (58, 6)));
        (quoted != 0).then_some(Self {
            src: address_of(event.family, event.dst)?,
            dst: address_of(event.family, dst)?,
            protocol,
            sport: ports.then_some(sport),
            dport: ports.then_some(dport),
            icmp_type: icmp.then_some((dport >> 8) as u8),
            mtu: (mtu > 0).then_some(mtu),
        })
    }

    /// Sender with its port, where there is one.
    pub fn source(&self) -> String {
        endpoint(Some(self.src), self.sport)
    }

    /// Receiver with its port, where there is one.
    pub fn destination(&self) -> String {
        endpoint(Some(self.dst), self.dport)
    }
}

impl Record {
    /// Names everything in an event. `groups`: the interface's security groups.
    pub fn new(event: &Event, place: &Place, groups: &[String], history: &History, clock: Clock) -> Self {
        let reason = Reason::from_number(event.reason);
        let known = [Layer::None, Layer::Nacl, Layer::SecurityGroup];
        let layer = known.into_iter().find(|layer| *layer as u8 == event.layer).unwrap_or(Layer::None);
        let meaning = history.at(event.slot, event.epoch);
        // A reason this nacld does not know is none of a list.
        let decider = |number| Decider::of(number, history.at(number, event.epoch), reason.unwrap_or(Reason::LayerOff));
        let decided_by = decider(event.slot);
        let named =
            |layer| meaning.filter(|slot| slot.layer == layer && !slot.name.is_empty()).map(|slot| slot.name.clone());
        let flow = match event.flow {
            met if met == Met::Unknown as u8 => Some("unknown"),
            met if met == Met::New as u8 => Some("new"),
            met if met == Met::Forward as u8 => Some("forward"),
            met if met == Met::Reply as u8 => Some("reply"),
            _ => None,
        };
        let is_later = event.fragment == Fragment::Later as u8;
        let ports = matches!(event.protocol, 6 | 17) && event.family != 0 && !is_later;
        let icmp = matches!((event.protocol, event.family), (1, 4) | (58, 6)) && !is_later;
        let ip = |address| address_of(event.family, address);
        Self {
            time: humantime::format_rfc3339_micros(clock.time(event.time)).to_string(),
            interface: place.interface.clone(),
            device: place.device.clone(),
            netns: place.netns.clone(),
            direction: if event.direction == 0 { "inbound" } else { "outbound" }.to_owned(),
            action: if event.action == 0 { "deny" } else { "allow" }.to_owned(),
            enforced: event.enforced != 0,
            reason: reason.map_or_else(|| format!("reason-{}", event.reason), |reason| reason.name().to_owned()),
            meaning: reason.map_or("", Reason::sentence).to_owned(),
            layer: layer.name().to_owned(),
            nacl: named(Layer::Nacl),
            rule: match decided_by {
                Decider::Nacl { number, .. } => Some(Number::Rule(number)),
                Decider::NaclImplied { .. } => Some(Number::Implied),
                _ => None,
            },
            group: named(Layer::SecurityGroup),
            position: meaning.and_then(|slot| slot.position),
            groups: match decided_by {
                Decider::GroupImplied { .. } => groups.to_vec(),
                _ => Vec::new(),
            },
            exemption: named(Layer::None),
            line: meaning.map(|slot| slot.line),
            tracked: matches!(decided_by, Decider::Tracked { .. }),
            decided_by,
            also: (event.also != NO_SLOT).then(|| decider(event.also)),
            flow: flow.map(str::to_owned),
            src: ip(event.src),
            dst: ip(event.dst),
            protocol: (event.family != 0).then_some(event.protocol),
            sport: ports.then_some(event.sport),
            dport: ports.then_some(event.dport),
            icmp_type: icmp.then_some((event.dport >> 8) as u8),
            icmp_code: icmp.then_some((event.dport & 0xff) as u8),
            tcp_flags: (ports && event.protocol == 6).then(|| flags(event.tcp_flags)),
            fragment: is_later,
            about: About::new(event),
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
    use nacl_common::{
        Action, Direction,
        border::{group_implicit_slot, implicit_slot, same_subnet_slot, tracked_slot},
    };

    use super::*;
    use crate::compile::{Slot, SlotTable};

    fn slot(layer: Layer, name: &str, rule: Option<u16>, position: Option<u16>) -> Slot {
        Slot {
            direction: Direction::Inbound,
            family: Family::V4,
            layer,
            name: name.into(),
            position,
            rule,
            action: Action::Deny,
            line: 7,
            matches: "6 443-443 0.0.0.0/0".into(),
        }
    }

    fn record(event: &Event) -> Record {
        let mut history = History::default();
        let fixed = |layer| slot(layer, "", None, None);
        let slots = [
            (implicit_slot(Direction::Inbound, false), slot(Layer::Nacl, "web", None, None)),
            (same_subnet_slot(Direction::Inbound, false), slot(Layer::Nacl, "web", None, None)),
            (group_implicit_slot(Direction::Inbound, false), fixed(Layer::SecurityGroup)),
            (tracked_slot(Direction::Inbound, false), fixed(Layer::None)),
            (16, slot(Layer::Nacl, "web", Some(100), None)),
            (17, slot(Layer::SecurityGroup, "sg-3", None, Some(2))),
            (18, slot(Layer::None, "Amazon DNS", None, None)),
        ];
        history.begin(0, &SlotTable { slots: slots.into() });
        let place = Place { interface: "web".into(), device: "eth0".into(), netns: Some("blue".into()) };
        Record::new(event, &place, &["sg-3".to_owned()], &history, Clock::now())
    }

    const SYN_ACK: Event = Event {
        time: 0,
        src: [0, 0xc633_6407],
        dst: [0, 0x0a00_010a],
        epoch: 0,
        length: 60,
        sport: 52345,
        dport: 443,
        slot: 16,
        reason: Reason::NaclRule as u8,
        action: 0,
        layer: 1,
        direction: 0,
        family: 4,
        protocol: 6,
        tcp_flags: 0x12,
        fragment: 0,
        enforced: 1,
        flow: 0,
        also: NO_SLOT,
        pad: [0; 6],
        quote: NO_QUOTE,
    };

    const NO_QUOTE: Quote = Quote { dst: [0; 2], sport: 0, dport: 0, mtu: 0, protocol: 0, quoted: 0 };

    #[test]
    fn names_the_rule_and_its_line() {
        let record = record(&SYN_ACK);
        assert_eq!(record.rule, Some(Number::Rule(100)));
        assert_eq!((record.line, record.nacl.as_deref()), (Some(7), Some("web")));
        assert_eq!((record.interface.as_str(), record.device.as_str()), ("web", "eth0"));
        assert_eq!(record.source(), "198.51.100.7:52345");
        assert_eq!(record.destination(), "10.0.1.10:443");
        assert_eq!(record.tcp_flags.as_deref(), Some("SYN,ACK"));
        assert_eq!((record.group, record.also, record.flow.clone(), record.tracked), (None, None, None, false));
        let record = self::record(&SYN_ACK);
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["rule"], 100);
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record);
    }

    #[test]
    fn names_the_group_and_what_the_network_acl_said_before() {
        let sg = Event { reason: Reason::GroupImplicit as u8, layer: 2, slot: 8, also: 16, ..SYN_ACK };
        let dropped = record(&sg);
        assert_eq!((dropped.layer.as_str(), &dropped.groups[..]), ("security-group", &["sg-3".to_owned()][..]));
        assert_eq!((dropped.group, dropped.nacl, dropped.rule, dropped.position), (None, None, None, None));
        assert_eq!(
            (dropped.decided_by.to_string(), dropped.also.unwrap().to_string()),
            ("inbound sg *".into(), "inbound 100".into())
        );
        let rule = Event { reason: Reason::NaclRule as u8, action: 1, also: 17, flow: Met::New as u8, ..SYN_ACK };
        let passed = record(&rule);
        assert_eq!(passed.also.map(|also| also.to_string()).as_deref(), Some("sg-3 inbound 2"));
        assert_eq!(passed.flow.as_deref(), Some("new"));
        let only = record(&Event { reason: Reason::GroupRule as u8, action: 1, layer: 2, slot: 17, ..SYN_ACK });
        assert_eq!((only.group.as_deref(), only.position, only.rule, only.nacl), (Some("sg-3"), Some(2), None, None));
    }

    #[test]
    fn tells_what_is_remembered_and_what_is_exempt() {
        let tracked = Event { reason: Reason::Tracked as u8, action: 1, layer: 2, slot: 12, flow: 4, ..SYN_ACK };
        let reply = record(&tracked);
        assert_eq!((reply.tracked, reply.flow.as_deref(), reply.group, reply.rule), (true, Some("reply"), None, None));
        let both = record(&Event { also: 12, action: 1, ..SYN_ACK });
        assert_eq!((both.also.unwrap().to_string().as_str(), both.tracked), ("inbound tracked", false));
        let dns = record(&Event { reason: Reason::AwsService as u8, action: 1, layer: 0, slot: 18, ..SYN_ACK });
        assert_eq!((dns.exemption.as_deref(), dns.nacl), (Some("Amazon DNS"), None));
        let star = record(&Event { reason: Reason::SharedFragment as u8, slot: 0, ..SYN_ACK });
        assert_eq!(star.rule, Some(Number::Implied), "also where a fragment shares the verdict");
        let inside = record(&Event { reason: Reason::SameSubnet as u8, action: 1, slot: 4, ..SYN_ACK });
        assert_eq!((inside.rule, inside.nacl.as_deref()), (None, Some("web")));
    }

    #[test]
    fn a_later_fragment_has_no_ports_and_a_stranger_no_addresses() {
        let event = Event { family: 4, protocol: 6, fragment: Fragment::Later as u8, ..Event::default() };
        assert_eq!(record(&event).dport, None);
        let event = Event { reason: Reason::Arp as u8, slot: NO_SLOT, also: NO_SLOT, ..Event::default() };
        let record = record(&event);
        assert_eq!((record.src, record.protocol, record.reason.as_str()), (None, None, "arp"));
    }

    #[test]
    fn an_icmp_error_tells_what_it_is_about() {
        let quote = Quote { dst: [0, 0xc633_6407], sport: 443, dport: 52345, mtu: 1400, protocol: 6, quoted: 1 };
        let error = Event { src: [0, 0x0a00_0101], protocol: 1, sport: 0, dport: 3 << 8 | 4, quote, ..SYN_ACK };
        let about = record(&error).about.unwrap();
        assert_eq!((about.source(), about.destination()), ("10.0.1.10:443".into(), "198.51.100.7:52345".into()));
        assert_eq!((about.protocol, about.icmp_type, about.mtu), (6, None, Some(1400)));
        let ping = Quote { sport: 7, dport: 8 << 8, mtu: 0, protocol: 1, ..quote };
        let about = record(&Event { quote: ping, ..error }).about.unwrap();
        assert_eq!((about.destination(), about.icmp_type, about.mtu), ("198.51.100.7".into(), Some(8), None));
        assert_eq!(record(&Event { quote: NO_QUOTE, ..error }).about, None);
    }

    #[test]
    fn the_clock_is_about_right() {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap();
        let told = Clock::now().time(now.as_nanos() as u64);
        let off = told.duration_since(SystemTime::now()).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(1), "off by {off:?}");
    }
}
