//! The engine in this process as a subject, and side by side with the oracle on flows written by hand.

use std::{net::IpAddr, sync::Arc};

use nacl_common::{
    Direction,
    border::{Entry, FlowKey},
    packet,
};
use nacl_daemon::{
    engine::Engine,
    resolve::{Interface, Layers, Mode},
};

use super::{
    brute::plain,
    case::Case,
    memory::{Oracle, SECOND},
    oracle::{self, Decider, Expected},
    sequence::{Policy, Subject},
};

/// The engine.
#[derive(Clone)]
pub struct Host(pub Engine);

impl Subject for Host {
    fn reload(&mut self, policy: &Policy, now: u64) {
        self.0.set_time(now);
        self.0.install(&policy.interface, &policy.compiled);
    }

    fn settings(&mut self, policy: &Policy, now: u64) {
        self.0.set_time(now);
        self.0.toggle(&policy.interface);
    }

    fn forget(&mut self) {
        self.0.forget();
    }

    fn meet(&mut self, policy: &Policy, case: &Case, now: u64) -> Expected {
        self.0.set_time(now);
        let (frame, _) = case.bytes();
        let packet = packet::parse(frame.as_slice(), 0).expect("sequences have no flaws");
        let judged = self.0.judged(case.direction, &packet);
        policy.said(judged.verdict, judged.met, case)
    }

    fn connections(&mut self) -> Vec<(FlowKey, Entry)> {
        self.0.flows().iter().map(|(key, entry)| (*key, *entry)).collect()
    }
}

/// An interface with engine and oracle side by side. Every packet is judged by both, and they must agree.
#[derive(Clone)]
pub struct Pair {
    host: Host,
    oracle: Oracle,
    policy: Arc<Policy>,
    now: u64,
}

impl Pair {
    /// Puts a policy in force where none was.
    pub fn new(interface: Interface) -> Self {
        let policy = Policy::new(interface, None);
        let host = Host(Engine::new(&policy.interface, &policy.compiled));
        Self { host, oracle: Oracle::new(&policy.interface, 0), policy, now: 0 }
    }

    /// What is in force.
    pub fn interface(&self) -> &Interface {
        &self.policy.interface
    }

    /// Other rules, after what `edit` changes.
    pub fn reload(&mut self, edit: impl FnOnce(&mut Interface)) {
        let mut interface = Interface::clone(self.interface());
        edit(&mut interface);
        self.policy = Policy::new(interface, Some(&self.policy.compiled.slots));
        self.host.reload(&self.policy, self.now);
        self.oracle.reload(&self.policy.interface, self.now);
    }

    /// `nacld mode`.
    pub fn mode(&mut self, mode: Mode, layers: Layers) {
        self.policy = self.policy.with(mode, layers);
        self.host.settings(&self.policy, self.now);
        self.oracle.settings(&self.policy.interface, self.now);
    }

    /// `nacld conntrack flush`.
    pub fn flush(&mut self) {
        self.host.forget();
        self.oracle.forget();
    }

    /// Lets time pass.
    pub fn wait(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
    }

    /// Lets time pass until one nanosecond before these seconds are over.
    pub fn wait_nearly(&mut self, seconds: u64) {
        self.now += seconds * SECOND - 1;
    }

    /// A packet.
    pub fn meet(&mut self, case: &Case) -> Expected {
        let expected = self.oracle.meet(case, self.now);
        let got = self.host.meet(&self.policy, case, self.now);
        assert_eq!(got, expected, "the engine and the oracle disagree on {case:?}");
        let live = self.host.connections().iter().filter(|(_, entry)| self.now < entry.expires).count();
        assert_eq!(live, self.oracle.live(self.now), "connections after {case:?}");
        expected
    }

    /// As [`Self::meet`], told in the words of `tell`.
    pub fn says(&mut self, case: &Case) -> String {
        let expected = self.meet(case);
        tell(self.interface(), case.direction, &expected)
    }

    /// Whether a packet passes.
    pub fn passes(&mut self, case: &Case) -> bool {
        self.meet(case).allow
    }

    /// Live connections that the security groups remember.
    pub fn tracked(&mut self) -> usize {
        let now = self.now;
        self.host.connections().iter().filter(|(_, entry)| now < entry.expires && entry.group == 1).count()
    }

    /// Live connections.
    pub fn live(&self) -> usize {
        self.oracle.live(self.now)
    }
}

/// What decided, as labs write it: what drops a packet, or what lets it pass.
pub fn tell(interface: &Interface, direction: Direction, expected: &Expected) -> String {
    let way = direction.name();
    let one = |by: Decider| match by {
        Decider::Nobody | Decider::Exemption(_) => expected.reason.to_owned(),
        Decider::Nacl(number) => format!("{way} {number}"),
        Decider::NaclStar => format!("{way} *"),
        Decider::SameSubnet => "same-subnet".to_owned(),
        Decider::Group(place, position) => {
            let groups = interface.groups.as_deref().unwrap_or_default();
            format!("{} {way} {position}", groups[place].name)
        }
        Decider::GroupStar => format!("{way} sg *"),
        Decider::Tracked => format!("{way} tracked"),
    };
    let also = if expected.also == Decider::Nobody { String::new() } else { format!(", {}", one(expected.also)) };
    if expected.allow {
        format!("passes: {}{also}", one(expected.by))
    } else {
        format!("dropped: {}", one(expected.by))
    }
}

/// TCP flags.
pub const FIN: u8 = 1;
/// TCP flags.
pub const SYN: u8 = 2;
/// TCP flags.
pub const RST: u8 = 4;
/// TCP flags.
pub const ACK: u8 = 16;

/// A flow between this host and another: the packets one can ask about.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    pub origin: Direction,
    pub protocol: u8,
    pub remote: IpAddr,
    pub local: IpAddr,
    /// The port of who begins, and of who answers.
    pub ports: (u16, u16),
}

impl Talk {
    /// A flow that the other end begins, to a port here.
    pub fn inbound(protocol: u8, remote: &str, local: &str, port: u16) -> Self {
        Self::new(Direction::Inbound, protocol, remote, local, port)
    }

    /// A flow that this end begins, to a port there.
    pub fn outbound(protocol: u8, remote: &str, local: &str, port: u16) -> Self {
        Self::new(Direction::Outbound, protocol, remote, local, port)
    }

    fn new(origin: Direction, protocol: u8, remote: &str, local: &str, port: u16) -> Self {
        let address = |text: &str| text.parse().expect("an address");
        Self { origin, protocol, remote: address(remote), local: address(local), ports: (52345, port) }
    }

    /// The same from another port.
    #[must_use]
    pub fn from(self, port: u16) -> Self {
        Self { ports: (port, self.ports.1), ..self }
    }

    /// A packet of who began it.
    pub fn request(&self, flags: u8) -> Case {
        let v6 = self.remote.is_ipv6();
        Case {
            direction: self.origin,
            remote: self.remote,
            local: self.local,
            protocol: self.protocol,
            sport: self.ports.0,
            dport: self.ports.1,
            icmp: (if v6 { 128 } else { 8 }, 0),
            echo: self.ports.0,
            flags,
            ..plain(self.origin, v6)
        }
    }

    /// A packet of who answers.
    pub fn reply(&self, flags: u8) -> Case {
        let request = self.request(flags);
        Case {
            direction: oracle::other(self.origin),
            sport: request.dport,
            dport: request.sport,
            icmp: (if request.v6() { 129 } else { 0 }, 0),
            ..request
        }
    }

    /// The other end says that something did not arrive: ICMP unreachable, fragmentation needed.
    pub fn error(&self) -> Case {
        let v6 = self.remote.is_ipv6();
        let (protocol, icmp) = if v6 { (58, (2, 0)) } else { (1, (3, 4)) };
        Case { direction: Direction::Inbound, protocol, icmp, ..self.request(0) }
    }

    /// A TCP handshake; whether all of it passed.
    pub fn open(&self, pair: &mut Pair) -> bool {
        pair.passes(&self.request(SYN)) && pair.passes(&self.reply(SYN | ACK)) && pair.passes(&self.request(ACK))
    }
}
