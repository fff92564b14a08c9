//! What a policy would have done to captured traffic: packet after packet, each at its time and in its direction, by whoever
//! judges. What cannot be judged is never guessed: it is counted, by why.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use nacl_common::{
    Action, Control, Counter, Direction, Packet, Verdict,
    border::FlowKey,
    evaluate::judge_other,
    flow::{self, Met, SECOND},
    packet::tcp,
};

use super::{
    Fix,
    flow::{Flow, address},
    smallest_fix,
};
use crate::{
    capture::{Captured, Parsed, Record},
    compile::{Compiled, Decider, SlotTable},
    resolve::{Interface, Side},
};

/// Why a packet was not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unjudged {
    /// The capture kept too little of it.
    Cut,
    /// Nothing tells whether it goes in or out.
    NoDirection,
    /// Its link layer is none that can be read.
    LinkLayer(u16),
}

/// What became of a packet of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was judged.
    Judged {
        /// The verdict.
        verdict: Verdict,
        /// What was known of its connection.
        met: Met,
    },
    /// It was not.
    Unjudged(Unjudged),
}

/// A packet that was met.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its number in the file.
    pub number: u64,
    /// Nanoseconds since 1970, where the file says so.
    pub time: Option<u64>,
    /// Nanoseconds since the first packet, as the clock that it was judged by had it.
    pub at: u64,
    /// The way it goes, where that is known and matters.
    pub direction: Option<Direction>,
    /// What rules can see of it; `None` where it is no IP packet, or was cut.
    pub packet: Option<Packet>,
    /// Bytes of the packet as its IP header says; of what is no packet, bytes of the frame.
    pub bytes: u64,
    /// What became of it.
    pub fate: Fate,
}

/// What is known of which addresses are on this side.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Addresses that are the interface's.
    own: Vec<IpNet>,
    /// Its subnet.
    subnet: Vec<IpNet>,
}

impl Local {
    /// Those that were `named`, else the interface's own; and its subnet.
    pub fn new(interface: &Interface, named: &[IpNet]) -> Self {
        let own = if named.is_empty() {
            interface.addresses.iter().copied().map(IpNet::from).collect()
        } else {
            named.to_vec()
        };
        Self { own, subnet: interface.subnet_cidrs.clone() }
    }

    /// Whether nothing is known.
    pub const fn is_empty(&self) -> bool {
        self.own.is_empty() && self.subnet.is_empty()
    }

    /// The way from one address to another. By the interface's addresses, else by those that the capture names, else by its
    /// subnet.
    fn direction(&self, from: IpAddr, to: IpAddr, captured: &[IpAddr]) -> Option<Direction> {
        let one_end = |here: &dyn Fn(IpAddr) -> bool| match (here(from), here(to)) {
            (true, false) => Some(Direction::Outbound),
            (false, true) => Some(Direction::Inbound),
            _ => None,
        };
        let own = |address: IpAddr| self.own.iter().any(|cidr| cidr.contains(&address));
        one_end(&own)
            .or_else(|| one_end(&|address| captured.contains(&address)))
            // What goes to everybody comes from somebody else, where we know who we are.
            .or_else(|| (is_to_many(to) && !self.own.is_empty() && !own(from)).then_some(Direction::Inbound))
            .or_else(|| one_end(&|address| self.subnet.iter().any(|cidr| cidr.contains(&address))))
    }
}

/// Whether an address is nobody's own: multicast, or IPv4's broadcast.
const fn is_to_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// Time as a capture tells it: from its first packet on, and never back.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    first: Option<u64>,
    last: u64,
    now: u64,
    went_back: u64,
}

impl Clock {
    fn at(&mut self, time: Option<u64>) -> u64 {
        if let Some(time) = time {
            let since = time.saturating_sub(*self.first.get_or_insert(time));
            self.went_back += u64::from(time < self.last);
            self.last = self.last.max(time);
            self.now = self.now.max(since);
        }
        self.now
    }
}

/// What decided, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// The packet was let pass.
    pub allow: bool,
    /// The way it went.
    pub direction: Option<Direction>,
    /// What decided.
    pub by: Decider,
}

/// Requests that were let pass and whose replies were dropped, by the same two rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Flows.
    pub flows: u64,
    /// Replies that were dropped.
    pub replies: u64,
    /// Number of the first of them in the file, and of its request.
    pub first: (u64, u64),
    /// The first flow.
    pub flow: Flow,
    /// Which way its request went.
    pub direction: Direction,
    /// The smallest fix of that flow, where there is one.
    pub fix: Option<Fix>,
}

/// The two that break a flow: what let the request pass, and what denied the reply.
pub type Pair = (Vec<Decider>, Vec<Decider>);

/// What became of all packets that were met.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Packets.
    pub packets: u64,
    /// Those that passed.
    pub allowed: Counter,
    /// Those that were denied.
    pub denied: Counter,
    /// Those that were not judged.
    pub unjudged: BTreeMap<Unjudged, u64>,
    /// What decided.
    pub by: BTreeMap<Decision, Counter>,
    /// Of flows that began with a request that passed.
    pub broken: BTreeMap<Pair, Broken>,
    /// Packets of flows that could not be followed, because too many ran at once.
    pub not_followed: u64,
    /// Packets that the capture did not keep whole.
    pub cut: u64,
    /// Packets before which time went back.
    pub went_back: u64,
    /// Nanoseconds since 1970 of the first packet that has a time.
    pub first: Option<u64>,
    /// And of the last one.
    pub last: Option<u64>,
}

/// How a flow began.
struct Begun {
    direction: Direction,
    by: Vec<Decider>,
    passed: bool,
    packet: Packet,
    number: u64,
    last: u64,
    broken: bool,
}

/// Flows that are followed at once.
const FOLLOWED: usize = 65_536;
/// Nanoseconds after which a flow of which nothing is seen makes way for another.
const IDLE: u64 = 60 * SECOND;

/// A policy that meets a capture.
pub struct Replay {
    local: Local,
    slots: Arc<SlotTable>,
    control: Control,
    side: Side,
    clock: Clock,
    followed: HashMap<FlowKey, Begun>,
    /// When it was last looked for flows that make way.
    swept: u64,
    summary: Summary,
}

impl Replay {
    /// Before the first packet.
    pub fn new(interface: &Interface, compiled: &Compiled, local: Local) -> Self {
        let non_ip = if interface.drop_non_ip { Control::NON_IP_DROP } else { 0 };
        Self {
            local,
            slots: Arc::clone(&compiled.slots),
            control: Control(compiled.flags | non_ip),
            side: interface.side,
            clock: Clock::default(),
            followed: HashMap::new(),
            swept: 0,
            summary: Summary::default(),
        }
    }

    /// When the first packet that has a time was captured, in nanoseconds since 1970.
    pub const fn began(&self) -> Option<u64> {
        self.clock.first
    }

    /// What became of all that was met, and what would mend the flows that broke.
    pub fn finish(self, interface: &Interface) -> Summary {
        let mut summary = self.summary;
        for broken in summary.broken.values_mut() {
            broken.fix = smallest_fix(interface, broken.flow, broken.direction, None);
        }
        summary
    }

    /// Meets the next packet. `judge` is told the time in nanoseconds since the first one, the packet, and its bytes.
    ///
    /// # Errors
    /// Whoever judges fails.
    pub fn meet<E>(
        &mut self,
        record: &Record<'_>,
        judge: impl FnOnce(u64, Direction, &Packet, Captured<'_>) -> Result<(Verdict, Met), E>,
    ) -> Result<Seen, E> {
        let at = self.clock.at(record.time);
        let mut seen = Seen {
            number: record.number,
            time: record.time,
            at,
            direction: None,
            packet: None,
            bytes: record.frame.length,
            fate: Fate::Unjudged(Unjudged::Cut),
        };
        seen.fate = match (record.unreadable, record.frame.parse()) {
            (Some(link), _) => Fate::Unjudged(Unjudged::LinkLayer(link)),
            (None, Parsed::Cut) => Fate::Unjudged(Unjudged::Cut),
            (None, Parsed::Other(reason)) => {
                Fate::Judged { verdict: judge_other(self.control, reason), met: Met::Nothing }
            }
            (None, Parsed::Packet(packet, bytes)) => {
                seen.packet = Some(packet);
                // Of what is longer than its header can say, as much as there was.
                seen.bytes = if record.frame.is_oversized() { record.frame.length - 14 } else { bytes.into() };
                seen.direction = self.direction(&packet, record);
                match seen.direction {
                    None => Fate::Unjudged(Unjudged::NoDirection),
                    Some(direction) => {
                        let (verdict, met) = judge(at, direction, &packet, record.frame)?;
                        Fate::Judged { verdict, met }
                    }
                }
            }
        };
        self.count(&seen, record.frame.is_cut());
        Ok(seen)
    }

    /// Which way a packet goes: by its ends, else by what the capture says of it.
    fn direction(&self, packet: &Packet, record: &Record<'_>) -> Option<Direction> {
        let [from, to] = [packet.src, packet.dst].map(|end| address(packet.family, end));
        let said = record.sent.map(|sent| match (self.side, sent) {
            (Side::Host, true) | (Side::Router, false) => Direction::Outbound,
            (Side::Host, false) | (Side::Router, true) => Direction::Inbound,
        });
        self.local.direction(from, to, record.local).or(said)
    }

    fn count(&mut self, seen: &Seen, cut: bool) {
        let summary = &mut self.summary;
        summary.packets += 1;
        summary.cut += u64::from(cut);
        summary.went_back = self.clock.went_back;
        summary.first = self.clock.first;
        summary.last = summary.first.map(|_| self.clock.last);
        let verdict = match seen.fate {
            Fate::Unjudged(why) => {
                *summary.unjudged.entry(why).or_default() += 1;
                return;
            }
            Fate::Judged { verdict, .. } => verdict,
        };
        let allow = verdict.action == Action::Allow;
        let by = self.slots.decider(verdict.slot, verdict.reason);
        let one = if allow { &mut summary.allowed } else { &mut summary.denied };
        let decision = Decision { allow, direction: seen.direction, by };
        for counter in [one, summary.by.entry(decision).or_default()] {
            counter.packets += 1;
            counter.bytes += seen.bytes;
        }
        if let (Some(direction), Some(packet)) = (seen.direction, seen.packet) {
            self.follow(seen, direction, &packet, verdict);
        }
    }

    /// Pairs the request that began a flow with replies that are denied.
    fn follow(&mut self, seen: &Seen, direction: Direction, packet: &Packet, verdict: Verdict) {
        // Whatever this policy remembers, a flow is the same.
        let Some(key) = flow::key(Control(Control::NACL | Control::STATEFUL), direction, packet) else { return };
        let passed = verdict.action == Action::Allow;
        let asks = packet.protocol == 6 && packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        if let Some(begun) = self.followed.get_mut(&key).filter(|_| !asks) {
            begun.last = seen.at;
            if begun.passed && !passed && begun.direction != direction {
                let pair = (begun.by.clone(), self.slots.deciders(&verdict));
                let broken = self.summary.broken.entry(pair).or_insert_with(|| Broken {
                    flows: 0,
                    replies: 0,
                    first: (seen.number, begun.number),
                    flow: flow_of(&begun.packet),
                    direction: begun.direction,
                    fix: None,
                });
                broken.replies += 1;
                broken.flows += u64::from(!begun.broken);
                begun.broken = true;
            }
            return;
        }
        if answers(packet) {
            return;
        }
        if self.followed.len() >= FOLLOWED && !self.followed.contains_key(&key) {
            let now = seen.at;
            // All of them are looked at, so not for every packet.
            if now - self.swept >= SECOND {
                self.followed.retain(|_, begun| now - begun.last < IDLE);
                self.swept = now;
            }
            if self.followed.len() >= FOLLOWED {
                self.summary.not_followed += 1;
                return;
            }
        }
        let by = self.slots.deciders(&verdict);
        let (packet, number, last) = (*packet, seen.number, seen.at);
        self.followed.insert(key, Begun { direction, by, passed, packet, number, last, broken: false });
    }
}

/// Whether a packet itself says that something was asked before.
const fn answers(packet: &Packet) -> bool {
    match packet.protocol {
        6 => packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK || packet.tcp_flags & tcp::RST != 0,
        1 => packet.dport >> 8 == 0,
        58 => packet.dport >> 8 == 129,
        _ => false,
    }
}

/// The flow that a packet begins.
fn flow_of(packet: &Packet) -> Flow {
    let [source, destination] = [packet.src, packet.dst].map(|end| address(packet.family, end));
    Flow { protocol: packet.protocol, source, destination, sport: packet.sport, dport: packet.dport }
}
