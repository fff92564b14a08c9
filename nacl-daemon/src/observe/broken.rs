//! Requests that were let in and replies that were not, connections of which one direction passes and the other does no more, and packets that
//! are too big for a link and whose sender is not told: which two packets belong together, and what is told of them. A pair is two packets that the kernel has judged, never a guess: without the
//! one that passed a denied packet may be a scan, or the echo of somebody else's attack, and nothing is said of it. No kernel, no policy, no
//! text for people.
//!
//! Passed packets are not reported, so the one that passed must be looked for once there is a doubt ([`Pairing::sought`]): the client asks
//! again, and who sends on a connection that is cut, or what does not arrive, sends again.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use ipnet::IpNet;
use nacl_common::{
    Action, Control, Direction, Event, Family, Fragment, Packet, Reason,
    flow::{self, Met, SECOND, Sought, State},
};
use serde::{Deserialize, Serialize};

use crate::{
    analyze::{Flow, address},
    clients::Client,
    compile::Decider,
    resolve::names,
};

/// A flow of which something passes and what comes back is denied ([`Kind`]): once for each interface, service, remote prefix and kind of client,
/// and the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenReturn {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// Which way the requests go: `inbound` where somebody asks this end, `outbound` where this end asks.
    #[serde(with = "names::direction")]
    pub began: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// This end's address where it is asked; null where it asks.
    pub service: Option<IpAddr>,
    /// Port that is asked; null for ICMP.
    pub port: Option<u16>,
    /// What is broken of it.
    #[serde(flatten)]
    pub kind: Kind,
    /// The other ends, as wide as the rule that decides about the requests; where none is written, as the one that lets the replies pass.
    pub remote: IpNet,
    /// Kinds of client that pick such a source port, where that matters.
    pub clients: Vec<Client>,
    /// When the first of its denied packets was met, RFC 3339.
    pub first: String,
    /// When the last one was.
    pub last: String,
    /// Denied packets that were seen with the one that passed before. Samples: the counters are the truth.
    pub replies: u64,
    /// What decides about the requests.
    pub request: Ruling,
    /// What decides about the replies.
    pub reply: Ruling,
    /// What decides about the message that packets are too big; null where there is none.
    pub message: Option<Ruling>,
    /// One of them: who asks, from which port, whom.
    pub example: Example,
    /// False in monitor mode: what is denied went on all the same.
    pub enforced: bool,
    /// Rules to add so that both pass, tried in the engine; null where none helps.
    pub fix: Option<Vec<Remedy>>,
    /// All of it in one sentence.
    pub says: String,
}

impl BrokenReturn {
    /// What decides about the packet that passes, and about the one that is denied.
    pub fn rulings(&self) -> (&Ruling, &Ruling) {
        match (self.kind, &self.message) {
            (Kind::Cut { .. }, _) => (&self.reply, &self.request),
            (Kind::TooBig(TooBig { sent, .. }), Some(message)) => {
                (if sent == self.began { &self.request } else { &self.reply }, message)
            }
            _ => (&self.request, &self.reply),
        }
    }
}

/// What is broken of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Fields", into = "Fields")]
pub enum Kind {
    /// Its requests pass, and its replies are denied.
    Reply,
    /// It ran and is cut: its replies pass, and its requests are denied.
    Cut {
        /// Whether the layer that does not deny it remembers it.
        tracked: bool,
    },
    /// Both pass, and some of them are too big for a link on their way: the message that says so is denied, so who sends them goes on to send
    /// what never arrives (N47). It is never let in as related (S40), so whether the flow is remembered is all one.
    TooBig(TooBig),
}

/// Packets that are too big for a link, and what is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooBig {
    /// Which way they go.
    #[serde(with = "names::direction")]
    pub sent: Direction,
    /// Who says that they are too big.
    pub router: IpAddr,
    /// Bytes that the next link takes; null where the message does not say.
    pub mtu: Option<u16>,
}

/// How [`Kind`] stands among the fields of a broken return.
#[derive(Serialize, Deserialize)]
struct Fields {
    cut: bool,
    tracked: bool,
    too_big: Option<TooBig>,
}

impl From<Fields> for Kind {
    fn from(Fields { cut, tracked, too_big }: Fields) -> Self {
        match too_big {
            Some(too_big) => Self::TooBig(too_big),
            None if cut => Self::Cut { tracked },
            None => Self::Reply,
        }
    }
}

impl From<Kind> for Fields {
    fn from(kind: Kind) -> Self {
        let (cut, tracked, too_big) = match kind {
            Kind::Reply => (false, false, None),
            Kind::Cut { tracked } => (true, tracked, None),
            Kind::TooBig(too_big) => (false, false, Some(too_big)),
        };
        Self { cut, tracked, too_big }
    }
}

impl Kind {
    /// The message that packets of this flow are too big, as the flow that it is by itself, and which way it goes.
    pub fn message(self, began: Direction, flow: &Flow) -> Option<(Direction, Flow)> {
        let Self::TooBig(TooBig { sent, router, .. }) = self else { return None };
        let destination = if sent == began { flow.source } else { flow.destination };
        let (protocol, dport) = if destination.is_ipv4() { TOO_BIG4 } else { TOO_BIG6 };
        Some((sent.reverse(), Flow { protocol, source: router, destination, sport: 0, dport }))
    }
}

/// ICMP "fragmentation needed": protocol, type and code (RFC 1191).
const TOO_BIG4: (u8, u16) = (1, 3 << 8 | 4);
/// ICMPv6 "packet too big" (RFC 8201).
const TOO_BIG6: (u8, u16) = (58, 2 << 8);

/// What decides about one of the packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// As [`super::Record`] has it: `inbound 100`, `outbound *`.
    pub decided_by: Decider,
    /// The network ACL or the security group it stands in; empty where it stands in none.
    pub name: String,
    /// Its line in the policy file; 0 for what is implied.
    pub line: usize,
}

/// One flow of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Who asks.
    pub src: IpAddr,
    /// Who is asked.
    pub dst: IpAddr,
    /// TCP or UDP source port of the request.
    pub sport: Option<u16>,
    /// Its destination port.
    pub dport: Option<u16>,
    /// Type of an ICMP request.
    pub icmp_type: Option<u8>,
}

impl Example {
    /// Of a flow.
    pub fn of(flow: &Flow) -> Self {
        let ports = flow.has_ports();
        Self {
            src: flow.source,
            dst: flow.destination,
            sport: ports.then_some(flow.sport),
            dport: ports.then_some(flow.dport),
            icmp_type: flow.is_icmp().then_some((flow.dport >> 8) as u8),
        }
    }

    /// The flow, whose protocol this is.
    pub fn flow(&self, protocol: u8) -> Flow {
        let kind = self.icmp_type.map_or(0, |kind| u16::from(kind) << 8);
        Flow {
            protocol,
            source: self.src,
            destination: self.dst,
            sport: self.sport.unwrap_or(0),
            dport: self.dport.unwrap_or(kind),
        }
    }
}

/// A rule to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// The network ACL it is added to; null where it is a group.
    pub nacl: Option<String>,
    /// The security group, likewise.
    pub group: Option<String>,
    /// Which list of it.
    #[serde(with = "names::direction")]
    pub direction: Direction,
    /// The rule as one writes it in a policy.
    pub rule: String,
}

/// Broken returns of one interface and direction that were ever seen, for metrics: it only grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenCount {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Which way the requests go.
    #[serde(with = "names::direction")]
    pub began: Direction,
    /// Flows of different services, clients or rules.
    pub returns: u64,
    /// Packets of theirs that were denied.
    pub replies: u64,
}

/// Two packets that belong together: the one passed, and then what came back was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Which way the requests go.
    pub began: Direction,
    /// The flow, from who asks.
    pub flow: Flow,
    /// When the second was denied, on the kernel's clock.
    pub time: u64,
    /// False: it went on all the same.
    pub enforced: bool,
    /// What is broken.
    pub kind: Kind,
}

/// For so long what passed awaits what comes back.
const PATIENCE: u64 = 60 * SECOND;
/// Packets that passed and are remembered.
const PASSED: usize = 4096;
/// What is in doubt; more at once is noise.
const SUSPECTS: usize = 64;
/// How much of that, and of what is looked for at once, may be single flows and not services: packets that belong to nothing name a new
/// one each.
const SHARE: usize = 2;
/// How long one is looked for before another has its turn: TCP asks again after one and after three seconds.
const TURN: u64 = 4 * SECOND;
/// How long it is looked for before it is left alone for a while: a resolver asks again after five seconds.
const ROUND: u64 = 16 * SECOND;
/// That while, after a round that has proved something.
const REST: u64 = 30 * SECOND;
/// And after one in vain; it doubles with each, up to an hour. Backscatter comes for days.
const REST_IN_VAIN: u64 = 60 * SECOND;
/// Times that it doubles.
const DOUBLINGS: u32 = 6;

/// A service some of whose replies seem to be denied, or a connection that seems to be cut.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    sought: Sought,
    /// It is one flow, and no service.
    single: bool,
    /// When what should come back was denied last.
    denied: u64,
    /// How long it was looked for in this round.
    looked: u64,
    /// When its turn began, while it has one.
    turn: Option<u64>,
    /// Not before.
    rests_until: u64,
    /// This round has proved something.
    proved: bool,
    /// Rounds in vain.
    vain: u32,
}

/// What a denied packet is of a flow, and what must have passed before it, so that it may be told of.
struct Denied {
    /// Which way the requests of the flow go.
    began: Direction,
    /// The flow, from who asks.
    flow: Flow,
    /// What it breaks.
    kind: Kind,
    /// Which way that went which must have passed.
    way: Direction,
    /// The packet, as far as it is known.
    passed: Packet,
    /// What the policy must let pass as the first of its flow, or there is no doubt; none where a layer remembers the flow.
    first: Option<(Direction, Packet)>,
}

impl Denied {
    fn of(event: &Event, direction: Direction, packet: &Packet) -> Option<Self> {
        let (forward, reply) = (event.flow == Met::Forward as u8, event.flow == Met::Reply as u8);
        let way = direction.reverse();
        if let Some(passed) = quoted(event, packet) {
            let router = address(packet.family, packet.src);
            let mtu = (event.quote.mtu > 0).then_some(event.quote.mtu);
            let kind = Kind::TooBig(TooBig { sent: way, router, mtu });
            // Data goes both ways. Who asked is told by the ports; where they do not tell, it may as well be who sends.
            let is_answer =
                |flow: &Flow| flow.is_icmp() || leads_to_a_service(&reversed(&passed)) && !leads_to_a_service(&passed);
            let (began, flow) = match answered(&passed).filter(is_answer) {
                Some(flow) => (direction, flow),
                None => (way, flow_of(&passed)),
            };
            let first = Some((began, flow.request().ok()?));
            return Some(Self { began, flow, kind, way, passed, first });
        }
        if runs(packet) && !reply {
            // A connection is not asked for again: what goes on the other way proves that it is one, and who sends it sends it again.
            let passed = Packet { tcp_flags: TCP_ACK, ..reversed(packet) };
            let cut = match (leads_to_a_service(packet), leads_to_a_service(&passed)) {
                _ if forward => true,
                (there, back) if there != back => there,
                _ => return None,
            };
            let (began, flow) = if cut { (direction, flow_of(packet)) } else { (way, flow_of(&passed)) };
            let kind = if cut { Kind::Cut { tracked: forward } } else { Kind::Reply };
            return Some(Self { began, flow, kind, way, passed, first: (!forward).then_some((way, passed)) });
        }
        let flow = answered(packet).filter(|_| !forward)?;
        let passed = flow.request().ok()?;
        let first = (!reply).then_some((way, passed));
        (reply || asks(&passed)).then_some(Self { began: way, flow, kind: Kind::Reply, way, passed, first })
    }

    /// Whether what is looked for is of one flow, and no service that many ask.
    fn is_single(&self) -> bool {
        runs(&self.passed) || matches!(self.kind, Kind::TooBig(_))
    }
}

/// Finds the packets of one interface that belong together.
#[derive(Clone, Debug, Default)]
pub struct Pairing {
    /// Packets that passed, by flow from who sent them: which way, and when.
    passed: HashMap<Flow, (Direction, u64)>,
    /// The same in the order in which they came.
    order: VecDeque<(Flow, u64)>,
    suspects: Vec<Suspect>,
}

impl Pairing {
    /// Takes note of a verdict. `admits`: whether the policy in force lets a packet pass, as the first of its flow.
    pub fn met(&mut self, event: &Event, admits: impl FnOnce(Direction, &Packet) -> bool) -> Option<Pair> {
        let (direction, packet) = packet(event)?;
        if event.action == Action::Allow as u8 {
            let sought = || self.suspects.iter().any(|suspect| suspect.sought.fits(direction, &packet));
            if asks(&packet) || runs(&packet) || sought() {
                self.note(flow_of(&packet), direction, event.time);
            }
            return None;
        }
        // Only what a list denies: who finds a full table, or sends nonsense, is told by its reason.
        let reason = Reason::from_number(event.reason)?;
        if !matches!(reason, Reason::NaclRule | Reason::NaclImplicit | Reason::GroupImplicit) {
            return None;
        }
        let denied = Denied::of(event, direction, &packet)?;
        let Denied { began, flow, kind, way, passed, first } = &denied;
        let proved = self
            .passed
            .get(&flow_of(passed))
            .is_some_and(|(other, time)| other == way && *time <= event.time && event.time - time <= PATIENCE);
        let sought = Sought::by(*way, passed);
        // What is remembered of a connection says that its request passed; of a cut one not that its replies still do.
        if proved || first.is_none() && *kind == Kind::Reply {
            self.suspects.iter_mut().filter(|suspect| suspect.sought == sought).for_each(|suspect| {
                (suspect.proved, suspect.vain, suspect.denied) = (true, 0, event.time);
            });
            let (began, flow, kind) = (*began, *flow, *kind);
            return Some(Pair { began, flow, time: event.time, enforced: event.enforced != 0, kind });
        }
        if first.is_none_or(|(way, first)| admits(way, &first)) {
            self.suspect(sought, denied.is_single(), event.time);
        }
        None
    }

    fn note(&mut self, flow: Flow, direction: Direction, time: u64) {
        while let Some((old, noted)) = self.order.front().copied()
            && (self.order.len() >= PASSED || time.saturating_sub(noted) > PATIENCE)
        {
            self.order.pop_front();
            // It may have passed again since.
            if self.passed.get(&old).is_some_and(|(_, last)| *last == noted) {
                self.passed.remove(&old);
            }
        }
        self.passed.insert(flow, (direction, time));
        self.order.push_back((flow, time));
    }

    fn suspect(&mut self, sought: Sought, single: bool, time: u64) {
        if let Some(known) = self.suspects.iter_mut().find(|suspect| suspect.sought == sought) {
            known.denied = time;
            return;
        }
        let alike = self.suspects.iter().filter(|suspect| suspect.single == single).count();
        if self.suspects.len() < SUSPECTS && !(single && alike >= SUSPECTS / SHARE) {
            let rests_until = 0;
            self.suspects.push(Suspect {
                sought,
                single,
                denied: time,
                looked: 0,
                turn: None,
                rests_until,
                proved: false,
                vain: 0,
            });
        }
    }

    /// Whether there is anything to look for, now or later.
    pub const fn doubts(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Which passed packets are to be reported now: requests to these services, packets of these flows. To be asked again about
    /// once a second, while there are [`Self::doubts`].
    pub fn sought(&mut self, now: u64) -> Vec<Sought> {
        for suspect in &mut self.suspects {
            let Some(began) = suspect.turn else { continue };
            let turn = now.saturating_sub(began);
            if suspect.looked + turn >= ROUND {
                let doublings = suspect.vain.min(DOUBLINGS);
                // From when it was over, however late that is noticed.
                let end = began + ROUND.saturating_sub(suspect.looked);
                let rest = if suspect.proved { REST } else { REST_IN_VAIN << doublings };
                suspect.vain = if suspect.proved { 0 } else { suspect.vain + 1 };
                (suspect.turn, suspect.looked, suspect.proved, suspect.rests_until) = (None, 0, false, end + rest);
            } else if turn >= TURN {
                (suspect.turn, suspect.looked) = (None, suspect.looked + turn);
            }
        }
        // One that rests is kept for as long, so that its rests grow.
        self.suspects.retain(|suspect| {
            suspect.turn.is_some() || now.saturating_sub(suspect.denied.max(suspect.rests_until)) <= PATIENCE
        });
        let turns = |single: bool| {
            let turns = self.suspects.iter().filter(|suspect| suspect.turn.is_some() && suspect.single == single);
            turns.count()
        };
        let mut places = Control::SOUGHT_AT_ONCE.saturating_sub(turns(false) + turns(true));
        let mut singles = (Control::SOUGHT_AT_ONCE / SHARE).saturating_sub(turns(true));
        // Where nothing was denied of late, nothing need be looked for.
        let waits = |suspect: &&mut Suspect| {
            suspect.turn.is_none() && suspect.rests_until <= now && now.saturating_sub(suspect.denied) <= PATIENCE
        };
        let mut next: Vec<_> = self.suspects.iter_mut().filter(waits).collect();
        next.sort_by_key(|suspect| (suspect.looked, Reverse(suspect.denied)));
        for suspect in next {
            let single = suspect.single;
            if places > 0 && (!single || singles > 0) {
                (places, singles) = (places - 1, singles - usize::from(single));
                suspect.turn = Some(now);
            }
        }
        let current = self.suspects.iter().filter(|suspect| suspect.turn.is_some());
        current.map(|suspect| suspect.sought).collect()
    }

    /// Forgets everything: another policy is in force.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

const TCP_SYN: u8 = nacl_common::packet::tcp::SYN;
const TCP_RST: u8 = nacl_common::packet::tcp::RST;
const TCP_ACK: u8 = nacl_common::packet::tcp::ACK;

/// The packet an event tells of, where it was whole or a first fragment.
fn packet(event: &Event) -> Option<(Direction, Packet)> {
    let family = [Family::V4, Family::V6].into_iter().find(|family| *family as u8 == event.family)?;
    let fragment = [Fragment::None, Fragment::First].into_iter().find(|kind| *kind as u8 == event.fragment)?;
    let packet = Packet {
        family,
        protocol: event.protocol,
        fragment,
        hop_limit: 64,
        tcp_flags: event.tcp_flags,
        src: event.src,
        dst: event.dst,
        sport: event.sport,
        dport: event.dport,
        ident: 0,
    };
    Some((if event.direction == 0 { Direction::Inbound } else { Direction::Outbound }, packet))
}

/// The packet that a message calls too big, as far as it is quoted: it has passed, if there ever was one.
fn quoted(event: &Event, packet: &Packet) -> Option<Packet> {
    let too_big = match packet.family {
        Family::V4 => TOO_BIG4,
        Family::V6 => TOO_BIG6,
    };
    let quote = &event.quote;
    ((packet.protocol, packet.dport) == too_big && quote.quoted == 1).then_some(Packet {
        family: packet.family,
        protocol: quote.protocol,
        fragment: Fragment::None,
        hop_limit: 64,
        tcp_flags: if quote.protocol == 6 { TCP_ACK } else { 0 },
        src: packet.dst,
        dst: quote.dst,
        sport: quote.sport,
        dport: quote.dport,
        ident: 0,
    })
}

/// The same the other way, where ports tell the ends.
const fn reversed(packet: &Packet) -> Packet {
    Packet { src: packet.dst, dst: packet.src, sport: packet.dport, dport: packet.sport, ..*packet }
}

/// Whether a packet can only be, or by its ports is, the first of its flow. Of UDP nobody knows but by the ports: a stream that goes on after
/// the policy has changed is no request.
fn asks(packet: &Packet) -> bool {
    match flow::first(packet, 0, 0) {
        Some(State::Opening | State::Echo) => true,
        Some(State::UdpSent) => leads_to_a_service(packet),
        _ => false,
    }
}

/// Whether a packet goes, by its ports, to who is asked: to one below 1024, or from the ports that most systems pick (32768 and above)
/// to one that they do not.
const fn leads_to_a_service(packet: &Packet) -> bool {
    packet.dport < 1024 || packet.dport < 32768 && packet.sport >= 32768
}

/// Whether a packet belongs to a TCP connection that runs, as far as it tells itself.
const fn runs(packet: &Packet) -> bool {
    packet.protocol == 6 && packet.tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK) == TCP_ACK
}

fn flow_of(packet: &Packet) -> Flow {
    Flow {
        protocol: packet.protocol,
        source: address(packet.family, packet.src),
        destination: address(packet.family, packet.dst),
        sport: packet.sport,
        dport: packet.dport,
    }
}

/// The flow that a packet would belong to if it were the reply.
fn answered(packet: &Packet) -> Option<Flow> {
    let Flow { protocol, source, destination, sport, dport } = flow_of(packet);
    let (sport, dport) = match (protocol, packet.family) {
        (6, _) if matches!(flow::first(packet, 0, 0), Some(State::Opening)) => return None,
        (6 | 17, _) => (dport, sport),
        (1, Family::V4) if dport >> 8 == 0 => (sport, 8 << 8),
        (58, Family::V6) if dport >> 8 == 129 => (sport, 128 << 8),
        _ => return None,
    };
    Some(Flow { protocol, source: destination, destination: source, sport, dport })
}
