//! A window of the kernel's flow log → records with AWS's names, and with what nacld knows more: who decided. Times are Unix
//! seconds, as AWS has them.

use std::net::IpAddr;

use nacl_common::{
    Action, Direction, Family, Layer, Reason,
    border::{LogKey, Logged},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Clock, History, Place};
use crate::{
    analyze::address,
    compile::{Decider, Slot},
    dataplane::Window,
    resolve::{
        Interface, Side,
        flowlog::{FlowLog, Identity},
    },
};

/// What a record says of its window (F6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogStatus {
    /// It tells of traffic.
    Ok,
    /// There was none.
    NoData,
    /// There was more, for which there was no room, or which could not be written.
    SkipData,
}

impl LogStatus {
    /// As AWS writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NoData => "NODATA",
            Self::SkipData => "SKIPDATA",
        }
    }
}

/// Of a window shorter than a second nobody says that there was nothing: a switch ends one and begins another.
const SHORTEST: u64 = 1_000_000_000;

/// One record. What does not apply, or is not known, is null.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// AWS's id of the account, as the policy has it.
    pub account_id: Option<String>,
    /// AWS's id of the interface as the policy has it, or one that is made up and stays the same.
    pub interface_id: String,
    /// Sender; where this interface sends, its primary address (F11).
    pub srcaddr: Option<IpAddr>,
    /// Receiver; where this interface receives, its primary address (F11).
    pub dstaddr: Option<IpAddr>,
    /// Source port; 0 where the protocol has none (F7).
    pub srcport: Option<u16>,
    /// Destination port, likewise.
    pub dstport: Option<u16>,
    /// IANA number of the protocol.
    pub protocol: Option<u8>,
    /// Packets.
    pub packets: Option<u64>,
    /// Bytes of IP packets.
    pub bytes: Option<u64>,
    /// When the first packet came; of a record without packets, when the window began.
    pub start: u64,
    /// When the last packet came; of a record without packets, when the window ended.
    pub end: u64,
    /// `ACCEPT` or `REJECT` (F4).
    pub action: Option<String>,
    /// What it says of its window.
    pub log_status: LogStatus,
    /// AWS's id of the VPC, as the policy has it.
    pub vpc_id: Option<String>,
    /// Of the subnet, likewise.
    pub subnet_id: Option<String>,
    /// Of the instance, likewise.
    pub instance_id: Option<String>,
    /// Flags of TCP, or-ed (F9).
    pub tcp_flags: Option<u64>,
    /// `IPv4` or `IPv6`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Sender as the packets have it.
    pub pkt_srcaddr: Option<IpAddr>,
    /// Receiver, likewise.
    pub pkt_dstaddr: Option<IpAddr>,
    /// Region, as the policy has it.
    pub region: Option<String>,
    /// Availability zone, likewise.
    pub az_id: Option<String>,
    /// Kind of sublocation, likewise.
    pub sublocation_type: Option<String>,
    /// Sublocation, likewise.
    pub sublocation_id: Option<String>,
    /// `ingress` or `egress`, seen from the interface (F10).
    pub flow_direction: Option<String>,
    /// Of what is sent within the subnet 1; else null: which way it goes on is AWS's to know (F12).
    pub traffic_path: Option<u8>,
    /// Which layer decided about the last packet: `nacl`, `security-group` or `none`. AWS does not say (F5).
    pub nacld_layer: Option<String>,
    /// By what it decided: `inbound 100`, `outbound *`, `sg-3 inbound 1`, `same-subnet`, …
    pub nacld_rule: Option<String>,
    /// Line of the rule in the policy file; 0 for `*` and what else has none.
    pub nacld_line: Option<usize>,
    /// Name of the network ACL or the security group the rule stands in.
    pub nacld_policy: Option<String>,
    /// Of a window with `SKIPDATA`: packets whose records are missing.
    pub nacld_lost: Option<u64>,
}

/// What the flow log of an interface holds and nobody has written yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceFlows {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// Name of its flow log; null where it has none, and nothing is recorded.
    pub flow_log: Option<String>,
    /// When the window that runs began, Unix seconds; null without a flow log.
    pub began: Option<u64>,
    /// What was recorded so far.
    pub records: Vec<FlowRecord>,
}

impl InterfaceFlows {
    /// Of an interface without a flow log.
    pub fn of(Place { interface, device, netns }: Place) -> Self {
        Self { interface, device, netns, flow_log: None, began: None, records: Vec::new() }
    }
}

/// An interface, as the records of its flow log name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eni {
    place: Place,
    id: String,
    subnet_id: Option<String>,
    identity: Identity,
    /// Primary addresses; none where the interface looks into the subnet, and its side has many.
    primary: Vec<IpAddr>,
    subnet: Vec<ipnet::IpNet>,
}

impl Eni {
    /// An interface with its flow log. `machine`: what tells this machine from others.
    pub fn new(place: Place, interface: &Interface, log: &FlowLog, machine: &str) -> Self {
        let primary = match interface.side {
            Side::Host => primary(&interface.addresses),
            Side::Router => Vec::new(),
        };
        Self {
            id: interface.id.clone().unwrap_or_else(|| made_up(machine, &place)),
            place,
            subnet_id: interface.subnet_id.clone(),
            identity: log.identity.clone(),
            primary,
            subnet: interface.subnet_cidrs.clone(),
        }
    }

    /// By all its names.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// A record without packets.
    pub fn without_packets(&self, log_status: LogStatus, (start, end): (u64, u64)) -> FlowRecord {
        let Place { interface, device, netns } = self.place.clone();
        let Identity { account, region, vpc, instance, az, sublocation_type, sublocation } = self.identity.clone();
        FlowRecord {
            interface,
            device,
            netns,
            account_id: account,
            interface_id: self.id.clone(),
            srcaddr: None,
            dstaddr: None,
            srcport: None,
            dstport: None,
            protocol: None,
            packets: None,
            bytes: None,
            start,
            end,
            action: None,
            log_status,
            vpc_id: vpc,
            subnet_id: self.subnet_id.clone(),
            instance_id: instance,
            tcp_flags: None,
            kind: None,
            pkt_srcaddr: None,
            pkt_dstaddr: None,
            region,
            az_id: az,
            sublocation_type,
            sublocation_id: sublocation,
            flow_direction: None,
            traffic_path: None,
            nacld_layer: None,
            nacld_rule: None,
            nacld_line: None,
            nacld_policy: None,
            nacld_lost: None,
        }
    }

    /// Everything that a window has to tell, in the order of time. `runs`: it is not over, so it is too early to say that there was
    /// nothing.
    pub fn records(&self, window: &Window, history: &History, clock: Clock, runs: bool) -> Vec<FlowRecord> {
        let bounds = (clock.rounded(window.began), clock.rounded(window.ended));
        let mut records: Vec<_> = window
            .records
            .iter()
            .filter_map(|(key, logged)| self.record(key, logged, bounds, history, clock))
            .collect();
        let order = |one: &FlowRecord| {
            (one.start, one.end, one.srcaddr, one.dstaddr, one.srcport, one.dstport, one.protocol, one.action.clone())
        };
        records.sort_by_cached_key(order);
        if window.lost.packets > 0 {
            let lost = Some(window.lost.packets);
            records.push(FlowRecord { nacld_lost: lost, ..self.without_packets(LogStatus::SkipData, bounds) });
        } else if records.is_empty() && !runs && window.ended.saturating_sub(window.began) >= SHORTEST {
            records.push(self.without_packets(LogStatus::NoData, bounds));
        }
        records
    }

    /// Nothing of a key that is none of ours.
    fn record(
        &self,
        key: &LogKey,
        logged: &Logged,
        (began, ended): (u64, u64),
        history: &History,
        clock: Clock,
    ) -> Option<FlowRecord> {
        let family = [Family::V4, Family::V6].into_iter().find(|family| *family as u8 == key.family)?;
        let outbound = key.direction == Direction::Outbound as u8;
        let (src, dst) = (address(family, key.src), address(family, key.dst));
        let own = self.primary.iter().copied().find(|own| own.is_ipv6() == src.is_ipv6());
        let reason = Reason::from_number(logged.reason()).unwrap_or(Reason::LayerOff);
        let meaning = history.at(logged.slot(), logged.epoch());
        let known = [Layer::None, Layer::Nacl, Layer::SecurityGroup];
        let layer = known.into_iter().find(|layer| *layer as u8 == logged.layer()).unwrap_or(Layer::None);
        // A window's first packet may have come within the last tick of the clock before it.
        let within = |time: u64| clock.seconds(time).clamp(began, ended.max(began));
        let named = |slot: &Slot| (!slot.name.is_empty()).then(|| slot.name.clone());
        Some(FlowRecord {
            srcaddr: Some(if outbound { own.unwrap_or(src) } else { src }),
            dstaddr: Some(if outbound { dst } else { own.unwrap_or(dst) }),
            srcport: Some(key.sport),
            dstport: Some(key.dport),
            protocol: Some(key.protocol),
            packets: Some(logged.packets),
            bytes: Some(logged.bytes),
            start: within(logged.first),
            end: within(logged.last),
            action: Some(if key.action == Action::Allow as u8 { "ACCEPT" } else { "REJECT" }.to_owned()),
            tcp_flags: (key.protocol == 6).then_some(logged.tcp_flags),
            kind: Some(if matches!(family, Family::V4) { "IPv4" } else { "IPv6" }.to_owned()),
            pkt_srcaddr: Some(src),
            pkt_dstaddr: Some(dst),
            flow_direction: Some(if outbound { "egress" } else { "ingress" }.to_owned()),
            traffic_path: (outbound && self.subnet.iter().any(|cidr| cidr.contains(&dst))).then_some(1),
            nacld_layer: Some(layer.name().to_owned()),
            nacld_rule: Some(Decider::of(logged.slot(), meaning, reason).to_string()),
            nacld_line: meaning.map(|slot| slot.line),
            nacld_policy: meaning.and_then(named),
            ..self.without_packets(LogStatus::Ok, (began, ended))
        })
    }
}

/// The first address of each family: of IPv6 one that others can reach, where there is one.
fn primary(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    let reachable = |address: &&IpAddr| matches!(address, IpAddr::V6(address) if !address.is_unicast_link_local());
    let v6 = addresses.iter().find(reachable).or_else(|| addresses.iter().find(|address| address.is_ipv6()));
    v4.into_iter().chain(v6).copied().collect()
}

/// An id for an interface that has none: another one for each machine, namespace and name, and the same whenever it is asked for.
fn made_up(machine: &str, Place { interface, device, netns }: &Place) -> String {
    made_up_id("eni-", &[machine, netns.as_deref().unwrap_or_default(), interface, device])
}

/// An id that tells these parts from others, as long as AWS's: seventeen digits behind its kind.
pub fn made_up_id(kind: &str, parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let mut id = digest.iter().take(9).fold(String::from(kind), |text, byte| text + &format!("{byte:02x}"));
    id.truncate(kind.len() + 17);
    id
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nacl_common::Counter;

    use super::*;
    use crate::resolve::{Nacl, flowlog::Destination};

    fn eni(addresses: &[&str], side: Side) -> Eni {
        let nacl = Nacl { name: "web".into(), id: None, inbound: Vec::new(), outbound: Vec::new() };
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let interface = Interface { addresses, side, ..Interface::new("eth0", Arc::new(nacl)) };
        let place = Place { interface: "web".into(), device: "eth0".into(), netns: None };
        Eni::new(place, &interface, &FlowLog::new("flows", Destination::Stdout), "machine")
    }

    const SECOND: u64 = 1_000_000_000;

    fn window(records: Vec<(LogKey, Logged)>, lost: u64) -> Window {
        let lost = Counter { packets: lost, bytes: 60 * lost };
        Window { id: 1, began: 100 * SECOND, ended: 160 * SECOND, lost, records }
    }

    fn to(dst: u64, direction: Direction) -> (LogKey, Logged) {
        let direction = direction as u8;
        let key = LogKey { src: [0, 0xc633_6407], dst: [0, dst], protocol: 6, family: 4, direction, ..LogKey::WINDOW };
        (key, Logged { packets: 1, bytes: 40, first: 101 * SECOND, last: 102 * SECOND, ..Logged::default() })
    }

    #[test]
    fn the_own_end_is_the_primary_address() {
        let addresses = ["10.0.0.5", "10.0.0.6", "fe80::1", "2001:db8::5"];
        let told = |side, direction| {
            let records = eni(&addresses, side).records(
                &window(vec![to(0x0a00_0006, direction)], 0),
                &History::default(),
                Clock::now(),
                false,
            );
            let [record] = &records[..] else { panic!("{records:?}") };
            [record.srcaddr, record.dstaddr, record.pkt_srcaddr, record.pkt_dstaddr]
                .map(|address| address.unwrap().to_string())
        };
        let real = ["198.51.100.7", "10.0.0.6"];
        assert_eq!(told(Side::Host, Direction::Inbound), ["198.51.100.7", "10.0.0.5", real[0], real[1]]);
        assert_eq!(told(Side::Host, Direction::Outbound), ["10.0.0.5", "10.0.0.6", real[0], real[1]]);
        // Whose packets pass is not this interface's to say.
        assert_eq!(told(Side::Router, Direction::Inbound), [real[0], real[1], real[0], real[1]]);
        assert_eq!(primary(&addresses.map(|address| address.parse().unwrap()))[1].to_string(), "2001:db8::5");
    }

    #[test]
    fn a_window_says_what_it_lacks() {
        let eni = eni(&[], Side::Host);
        let statuses = |window: &Window, runs| {
            let records = eni.records(window, &History::default(), Clock::now(), runs);
            records.iter().map(|record| record.log_status).collect::<Vec<_>>()
        };
        let one = || vec![to(1, Direction::Inbound)];
        assert_eq!(statuses(&window(Vec::new(), 0), false), [LogStatus::NoData]);
        assert_eq!(statuses(&window(Vec::new(), 0), true), [], "it is too early to say so");
        assert_eq!(statuses(&window(Vec::new(), 3), false), [LogStatus::SkipData]);
        assert_eq!(statuses(&window(one(), 0), false), [LogStatus::Ok]);
        assert_eq!(statuses(&window(one(), 3), true), [LogStatus::Ok, LogStatus::SkipData]);
    }

    #[test]
    fn an_id_that_is_made_up_stays_and_is_one_interfaces() {
        let place = |netns: Option<&str>| Place {
            interface: "web".into(),
            device: "eth0".into(),
            netns: netns.map(str::to_owned),
        };
        let id = made_up("machine", &place(None));
        assert_eq!(id, made_up("machine", &place(None)));
        assert_eq!(id.len(), "eni-1235b8ca123456789".len());
        assert!(id != made_up("another", &place(None)) && id != made_up("machine", &place(Some("blue"))));
    }
}
