//! The naive memory of connections: a list that is searched from its start, and for each connection what was seen of it.
//! Written from AWS's documentation and from `docs/stateful.md`, not from the engine.

use std::{net::IpAddr, sync::Arc};

use nacl_common::{Direction, Layer};
use nacl_daemon::resolve::{Interface, Layers, Mode, Tracking};

use super::{
    case::{Case, Part},
    oracle::{self, Decider, Expected, Met, Said},
};

pub const SECOND: u64 = 1_000_000_000;

/// How long later fragments share what the first one met.
pub const FRAGMENT: u64 = 30 * SECOND;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What was seen of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// TCP: that the other side answered the SYN, that the handshake was over, and who has finished.
    Tcp {
        answered: bool,
        complete: bool,
        fin: [bool; 2],
        rst: bool,
    },
    /// UDP: how often the word passed from one side to the other, the first packet included, and who spoke last.
    Udp {
        turns: u32,
        last: Direction,
    },
    Echo,
    Other,
}

impl Seen {
    /// Where it stands, as `nacld conntrack list` calls it.
    pub fn stage(self) -> &'static str {
        match self {
            Self::Tcp { rst, fin, .. } if rst || fin == [true; 2] => "closed",
            Self::Tcp { fin, .. } if fin != [false; 2] => "closing",
            Self::Tcp { complete: true, .. } => "established",
            Self::Tcp { answered: true, .. } => "answered",
            Self::Tcp { .. } => "opening",
            Self::Udp { turns: 1, .. } => "one-way",
            Self::Udp { turns: 2, .. } => "replied",
            Self::Udp { turns: 3, .. } => "asked-again",
            Self::Udp { .. } => "stream",
            Self::Echo => "echo",
            Self::Other => "by-address",
        }
    }

    /// How long it may be silent, in seconds: S29, S35, and ours where AWS publishes nothing (S37).
    fn patience(self, tracking: &Tracking) -> u32 {
        match self.stage() {
            "opening" | "answered" => tracking.tcp_opening,
            "established" => tracking.tcp_established,
            "closing" => tracking.tcp_closing,
            "closed" => tracking.tcp_closed,
            "one-way" | "replied" | "asked-again" => tracking.udp,
            "stream" => tracking.udp_stream,
            "echo" => tracking.icmp,
            _ => tracking.other,
        }
    }
}

/// A connection that is remembered.
#[derive(Clone, Debug)]
pub struct Connection {
    pub v6: bool,
    pub protocol: u8,
    pub remote: IpAddr,
    pub local: IpAddr,
    /// TCP, UDP: the other end's port and this one's.
    pub ports: (u16, u16),
    /// ICMP echo: the identifier, and which way requests go.
    pub echo: Option<(u16, Direction)>,
    /// The direction of its first packet.
    pub first: Direction,
    pub nacl: bool,
    pub group: bool,
    pub seen: Seen,
    /// When it is forgotten.
    pub until: u64,
}

/// What the first fragment of a packet met.
#[derive(Clone, Debug)]
struct Fragmented {
    source: IpAddr,
    destination: IpAddr,
    ident: u32,
    protocol: u8,
    direction: Direction,
    epoch: u32,
    until: u64,
    met: Expected,
}

/// A policy in force, and what is remembered under it.
#[derive(Clone, Debug)]
pub struct Oracle {
    pub interface: Arc<Interface>,
    pub connections: Vec<Connection>,
    fragments: Vec<Fragmented>,
    epoch: u32,
    /// Until when TCP connections met in their middle are taken up.
    pub taken_up_until: u64,
    /// What the last packet was an instance of, for the table of what was met.
    pub notes: Vec<(&'static str, &'static str)>,
}

fn remembers(interface: &Interface) -> (bool, bool) {
    let nacl = interface.mode == Mode::Stateful && interface.layers != Layers::Groups;
    let groups = interface.groups.is_some() && interface.layers != Layers::Nacl;
    (nacl, groups)
}

impl Oracle {
    /// Puts a policy in force where none was.
    pub fn new(interface: &Arc<Interface>, now: u64) -> Self {
        let (nacl, groups) = remembers(interface);
        Self {
            interface: Arc::clone(interface),
            connections: Vec::new(),
            fragments: Vec::new(),
            epoch: 0,
            taken_up_until: if nacl || groups { now + u64::from(interface.tracking.pickup) * SECOND } else { 0 },
            notes: Vec::new(),
        }
    }

    /// Other rules, or the same ones read again.
    pub fn reload(&mut self, interface: &Arc<Interface>, now: u64) {
        self.taken_up_until = 0;
        self.settings(interface, now);
    }

    /// Other mode or layers.
    pub fn settings(&mut self, interface: &Arc<Interface>, now: u64) {
        let ((nacl, groups), (old_nacl, old_groups)) = (remembers(interface), remembers(&self.interface));
        if nacl && !old_nacl || groups && !old_groups {
            self.taken_up_until = now + u64::from(interface.tracking.pickup) * SECOND;
        }
        self.interface = Arc::clone(interface);
        self.epoch += 1;
    }

    /// `nacld conntrack flush`.
    pub fn forget(&mut self) {
        self.connections.clear();
        self.fragments.clear();
    }

    /// Connections whose time is not over.
    pub fn live(&self, now: u64) -> usize {
        self.connections.iter().filter(|connection| now < connection.until).count()
    }

    /// Moments at which something is forgotten.
    pub fn edges(&self) -> Vec<u64> {
        let connections = self.connections.iter().map(|connection| connection.until);
        let fragments = self.fragments.iter().map(|fragment| fragment.until);
        connections.chain(fragments).chain(std::iter::once(self.taken_up_until)).collect()
    }

    /// A packet, now.
    pub fn meet(&mut self, case: &Case, now: u64) -> Expected {
        self.notes.clear();
        if oracle::flawed(case).is_some() {
            return oracle::judge(&self.interface, case);
        }
        let expected = self.judge(case, now);
        if case.part == Part::First {
            let (source, destination) = addresses(case);
            let ident = case.ident & if case.v6() { u32::MAX } else { 0xffff };
            self.fragments.retain(|old| !belongs(old, case));
            let (epoch, until) = (self.epoch, now + FRAGMENT);
            let (protocol, direction) = (case.protocol, case.direction);
            let met = expected;
            self.fragments.push(Fragmented { source, destination, ident, protocol, direction, epoch, until, met });
        }
        expected
    }

    fn judge(&mut self, case: &Case, now: u64) -> Expected {
        let interface = Arc::clone(&self.interface);
        if let Some(expected) = oracle::before_rules(&interface, case) {
            return expected;
        }
        if case.part == Part::Later {
            return self.later_fragment(case, now);
        }
        let (nacl_remembers, groups_remember) = remembers(&interface);
        if !(nacl_remembers || groups_remember) || !has_connection(case) {
            return oracle::both(
                case.direction,
                oracle::nacl(&interface, case, false),
                oracle::groups(&interface, case, false),
            );
        }
        let place = self.connections.iter().position(|connection| connection.is_of(case));
        if let Some(place) = place {
            let connection = &self.connections[place];
            let kind = connection.seen.stage();
            match connection.until.cmp(&now) {
                std::cmp::Ordering::Greater if connection.until - now == 1 => self.notes.push(("just before", kind)),
                std::cmp::Ordering::Greater => {}
                std::cmp::Ordering::Equal => self.notes.push(("just at", kind)),
                std::cmp::Ordering::Less if now - connection.until == 1 => self.notes.push(("just after", kind)),
                std::cmp::Ordering::Less => self.notes.push(("long after", kind)),
            }
        }
        let place = place.filter(|place| now < self.connections[*place].until);
        let over = place
            .is_some_and(|place| matches!(self.connections[place].seen.stage(), "closing" | "closed") && asks(case));
        let known = place.filter(|_| !over);
        let connection = known.map(|place| &self.connections[place]);
        let nacl = oracle::nacl(&interface, case, connection.is_some_and(|known| known.nacl));
        let groups = oracle::groups(&interface, case, connection.is_some_and(|known| known.group));
        let mut expected = oracle::both(case.direction, nacl, groups);
        expected.met = match connection {
            Some(connection) if connection.first == case.direction => Met::Forward,
            Some(_) => Met::Reply,
            None => Met::Unknown,
        };
        if expected.allow {
            let by_nacl = nacl.is_some_and(|said| matches!(said.by, Decider::Nacl(_)));
            let by_group = groups.is_some_and(|said| matches!(said.by, Decider::Group(..)) && said.tracked)
                && (asks(case) || !oracle::may_answer_untracked(&interface, case));
            if let Some(place) = known {
                self.another(place, case, now, by_nacl, by_group);
            } else {
                if over {
                    self.notes.push(("ports used again", "let pass"));
                    self.connections.remove(place.expect("what is over was there"));
                }
                if by_nacl && nacl_remembers || by_group {
                    if self.begins(case, now, by_nacl, by_group) {
                        expected.met = Met::New;
                        if self.live(now) > interface.tracking.entries as usize {
                            self.connections.pop();
                            let (by, also) = (Decider::Nobody, Decider::Nobody);
                            let reason = "conntrack-full";
                            expected = Expected { allow: false, reason, layer: Layer::None, by, also, met: Met::New };
                        }
                    }
                } else if groups.is_some_and(|said| matches!(said.by, Decider::Group(..)) && !said.tracked) {
                    self.notes.push(("untracked", if case.protocol == 6 { "tcp" } else { "udp" }));
                }
            }
        } else if known.is_some() {
            self.notes.push(("known and dropped", expected.reason));
        }
        self.note_what_rules_alone_would_do(case, expected, nacl, groups);
        expected
    }

    /// One more packet of a known connection that passes.
    fn another(&mut self, place: usize, case: &Case, now: u64, by_nacl: bool, by_group: bool) {
        let tracking = self.interface.tracking;
        let connection = &mut self.connections[place];
        if connection.first == case.direction {
            if by_nacl && !connection.nacl {
                self.notes.push(("mark set later", "network ACL"));
            }
            if by_group && !connection.group {
                self.notes.push(("mark set later", "security groups"));
            }
            connection.nacl |= by_nacl;
            connection.group |= by_group;
        }
        let before = connection.seen.stage();
        connection.see(case);
        let after = connection.seen.stage();
        connection.until = now + u64::from(connection.seen.patience(&tracking)) * SECOND;
        self.notes.push((before, after));
    }

    /// The first packet of a connection, if it is one: TCP begins with SYN, or with what follows one while connections are
    /// taken up; an echo with its request.
    fn begins(&mut self, case: &Case, now: u64, nacl: bool, group: bool) -> bool {
        let seen = match case.protocol {
            6 => {
                let middle = case.flags & (SYN | ACK | RST | FIN) == ACK;
                if middle {
                    let when = if now < self.taken_up_until { "in its time" } else { "too late" };
                    self.notes.push(("met in the middle", when));
                    if self.taken_up_until.abs_diff(now) <= 1 {
                        self.notes.push(("met in the middle", "at the edge"));
                    }
                }
                if !(asks(case) || middle && now < self.taken_up_until) {
                    return false;
                }
                Seen::Tcp { answered: false, complete: middle, fin: [false; 2], rst: false }
            }
            17 => Seen::Udp { turns: 1, last: case.direction },
            _ if case.has_icmp() => {
                if is_reply(case) {
                    return false;
                }
                Seen::Echo
            }
            _ => Seen::Other,
        };
        let (here, there) = oracle::ends(case);
        let connection = Connection {
            v6: case.v6(),
            protocol: case.protocol,
            remote: case.remote,
            local: case.local,
            ports: if case.has_ports() { (there, here) } else { (0, 0) },
            echo: case.has_icmp().then(|| (case.echo, asker(case))),
            first: case.direction,
            nacl,
            group,
            seen,
            until: now + u64::from(seen.patience(&self.interface.tracking)) * SECOND,
        };
        self.notes.push(("begins", seen.stage()));
        // What is forgotten may as well be gone.
        self.connections.retain(|old| !old.is_of(case));
        self.connections.push(connection);
        true
    }

    fn later_fragment(&mut self, case: &Case, now: u64) -> Expected {
        if let Some(first) = self.fragments.iter().find(|first| belongs(first, case)) {
            let fate = if first.epoch != self.epoch {
                "policy changed"
            } else if now >= first.until {
                "too late"
            } else if first.met.allow {
                "passes as the first"
            } else {
                "dropped as the first"
            };
            self.notes.push(("later fragment", fate));
            if first.until.abs_diff(now) <= 1 {
                self.notes.push(("later fragment", "at the edge"));
            }
            if first.epoch == self.epoch && now < first.until {
                return Expected { reason: "shared-with-first-fragment", met: Met::Nothing, ..first.met };
            }
        } else {
            self.notes.push(("later fragment", "without a first"));
        }
        oracle::both(
            case.direction,
            oracle::nacl(&self.interface, case, false),
            oracle::groups(&self.interface, case, false),
        )
    }

    /// What the memory changed: the point of it.
    fn note_what_rules_alone_would_do(
        &mut self,
        case: &Case,
        expected: Expected,
        nacl: Option<Said>,
        groups: Option<Said>,
    ) {
        for (said, name) in [(nacl, "network ACL's"), (groups, "security groups'")] {
            if said.is_some_and(|said| said.by == Decider::Tracked) {
                self.notes.push(("remembered", name));
            }
        }
        if expected.allow && expected.met > Met::New && !oracle::judge(&self.interface, case).allow {
            let way = if expected.met == Met::Reply { "reply" } else { "in the first packet's direction" };
            self.notes.push(("rules alone would drop", way));
        }
    }
}

impl Connection {
    /// Whether a packet belongs to it.
    pub fn is_of(&self, case: &Case) -> bool {
        let (here, there) = oracle::ends(case);
        self.v6 == case.v6()
            && self.protocol == case.protocol
            && self.remote == case.remote
            && self.local == case.local
            && (!case.has_ports() || self.ports == (there, here))
            && (!case.has_icmp() || self.echo == Some((case.echo, asker(case))))
    }

    fn see(&mut self, case: &Case) {
        let from_first = case.direction == self.first;
        match &mut self.seen {
            Seen::Tcp { answered, complete, fin, rst } => {
                let begun = !*rst && *fin == [false; 2];
                if case.flags & RST != 0 {
                    *rst = true;
                } else if case.flags & FIN != 0 {
                    fin[usize::from(from_first)] = true;
                } else if begun && case.flags & (SYN | ACK) == ACK {
                    *complete = true;
                } else if begun && case.flags & (SYN | ACK) == SYN | ACK && !from_first {
                    *answered = true;
                }
            }
            Seen::Udp { turns, last } => {
                if *last != case.direction {
                    *turns += 1;
                    *last = case.direction;
                }
            }
            Seen::Echo | Seen::Other => {}
        }
    }
}

/// Only a SYN.
fn asks(case: &Case) -> bool {
    case.protocol == 6 && case.flags & (SYN | ACK | RST | FIN) == SYN
}

/// ICMP errors and other questions are no connections (S40).
fn has_connection(case: &Case) -> bool {
    !case.has_icmp() || is_request(case) || is_reply(case)
}

fn is_request(case: &Case) -> bool {
    case.icmp.0 == if case.v6() { 128 } else { 8 }
}

fn is_reply(case: &Case) -> bool {
    case.icmp.0 == if case.v6() { 129 } else { 0 }
}

/// Which way the requests go of an echo.
fn asker(case: &Case) -> Direction {
    if is_request(case) { case.direction } else { oracle::other(case.direction) }
}

fn addresses(case: &Case) -> (IpAddr, IpAddr) {
    match case.direction {
        Direction::Inbound => (case.remote, case.local),
        Direction::Outbound => (case.local, case.remote),
    }
}

fn belongs(first: &Fragmented, case: &Case) -> bool {
    let ident = case.ident & if case.v6() { u32::MAX } else { 0xffff };
    (first.source, first.destination) == addresses(case)
        && first.ident == ident
        && first.direction == case.direction
        && (case.v6() || first.protocol == case.protocol)
}
