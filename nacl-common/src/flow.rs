//! Connection tracking as pure functions: what a packet's connection is, whether what is remembered of it still holds,
//! and what to remember next. Where entries are kept, and what happens when there is no room, is the caller's.
//!
//! One entry a connection and interface, with a mark for each layer that has admitted it. A mark is set by a packet that
//! goes the way of the first one, and never taken back: a rule removed later does not end what it let in (S32).

use crate::{
    border::{Control, Entry, FlowKey, FragmentKey, Shared},
    evaluate::{Direction, Verdict, ends},
    packet::{Family, Fragment, Packet, tcp},
    reason::Reason,
};

/// Number of idle time-outs.
pub const TIMEOUTS: usize = 8;

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// How long a first fragment's verdict holds for later ones, in nanoseconds: as long as hosts keep parts (RFC 8200 has 60
/// seconds, Linux 30).
pub const FRAGMENT_NS: u64 = 30 * SECOND;

/// Idle time-outs, by their place in a generation's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Timeout {
    /// A TCP handshake that is not complete (AWS publishes none, S37).
    TcpOpening = 0,
    /// A TCP connection (S35).
    TcpEstablished = 1,
    /// One side has sent FIN (S37).
    TcpClosing = 2,
    /// Both sides have, or one has sent RST (S37).
    TcpClosed = 3,
    /// UDP one way, or a single request and response (S35).
    Udp = 4,
    /// UDP with more than one request and response (S35).
    UdpStream = 5,
    /// ICMP echo (S37).
    Icmp = 6,
    /// Other protocols, which are tracked by addresses and number (S29).
    Other = 7,
}

/// Where a connection stands. "Origin" is the side of its first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// TCP: the origin has sent SYN.
    Opening = 0,
    /// TCP: the other side has answered with SYN and ACK.
    Answered = 1,
    /// TCP: the handshake is complete, or the connection was met in its middle.
    Established = 2,
    /// TCP: the origin has sent FIN.
    ClosingOrigin = 3,
    /// TCP: the other side has sent FIN.
    ClosingReply = 4,
    /// TCP: both have, or somebody has sent RST.
    Closed = 5,
    /// UDP: one way so far.
    UdpSent = 8,
    /// UDP: answered once.
    UdpAnswered = 9,
    /// UDP: asked again after an answer.
    UdpSentAgain = 10,
    /// UDP: more than one request and response.
    UdpStream = 11,
    /// ICMP echo.
    Echo = 16,
    /// Any other protocol.
    Other = 17,
}

impl State {
    /// Every state.
    pub const ALL: &'static [Self] = &[
        Self::Opening,
        Self::Answered,
        Self::Established,
        Self::ClosingOrigin,
        Self::ClosingReply,
        Self::Closed,
        Self::UdpSent,
        Self::UdpAnswered,
        Self::UdpSentAgain,
        Self::UdpStream,
        Self::Echo,
        Self::Other,
    ];

    /// The state with this number; a number that is none is [`State::Other`].
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Opening,
            1 => Self::Answered,
            2 => Self::Established,
            3 => Self::ClosingOrigin,
            4 => Self::ClosingReply,
            5 => Self::Closed,
            8 => Self::UdpSent,
            9 => Self::UdpAnswered,
            10 => Self::UdpSentAgain,
            11 => Self::UdpStream,
            16 => Self::Echo,
            _ => Self::Other,
        }
    }

    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::ClosingOrigin | Self::ClosingReply => "closing",
            Self::Closed => "closed",
            Self::UdpSent => "one-way",
            Self::UdpAnswered => "replied",
            Self::UdpSentAgain => "asked-again",
            Self::UdpStream => "stream",
            Self::Echo => "echo",
            Self::Other => "by-address",
        }
    }

    /// The idle time-out that applies.
    #[inline(always)]
    pub const fn timeout(self) -> Timeout {
        match self {
            Self::Opening | Self::Answered => Timeout::TcpOpening,
            Self::Established => Timeout::TcpEstablished,
            Self::ClosingOrigin | Self::ClosingReply => Timeout::TcpClosing,
            Self::Closed => Timeout::TcpClosed,
            Self::UdpSent | Self::UdpAnswered | Self::UdpSentAgain => Timeout::Udp,
            Self::UdpStream => Timeout::UdpStream,
            Self::Echo => Timeout::Icmp,
            Self::Other => Timeout::Other,
        }
    }
}

/// What the connection table said of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Met {
    /// It was not asked.
    #[default]
    Nothing = 0,
    /// It knows no such connection.
    Unknown = 1,
    /// A connection begins.
    New = 2,
    /// A known connection, in the direction of its first packet.
    Forward = 3,
    /// A known connection, in the other direction.
    Reply = 4,
}

impl Met {
    /// What this number stands for; a number that is none: nothing.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Unknown,
            2 => Self::New,
            3 => Self::Forward,
            4 => Self::Reply,
            _ => Self::Nothing,
        }
    }

    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Unknown => "unknown",
            Self::New => "new",
            Self::Forward => "forward",
            Self::Reply => "reply",
        }
    }
}

/// What is to be done to the connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum WriteKind {
    /// Nothing.
    #[default]
    Nothing = 0,
    /// Store `state` and `expires` of the entry in place, each in one piece.
    Touch = 1,
    /// Put the entry in, unless another CPU has put one there meanwhile, which is as good. Where there is no room, the
    /// packet's verdict is [`full`].
    New = 2,
    /// Put the entry in the place of the one that was found.
    Replace = 3,
}

/// One write to the connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub kind: WriteKind,
    /// With what.
    pub entry: Entry,
}

/// Whether connections are tracked under these settings.
#[inline(always)]
pub const fn tracks(control: Control) -> bool {
    let remembers = control.has(Control::GROUPS) || control.has(Control::STATEFUL | Control::NACL);
    remembers && !control.has(Control::FORGETFUL)
}

/// The connection a packet belongs to, if connections are tracked under these settings and such packets have one. Later
/// fragments have none, because they have no ports; nor has ICMP that is not echo: errors are never let in as related
/// (S40).
#[inline(always)]
pub fn key(control: Control, direction: Direction, packet: &Packet) -> Option<FlowKey> {
    if !tracks(control) || matches!(packet.fragment, Fragment::Later) {
        return None;
    }
    let inbound = matches!(direction, Direction::Inbound);
    let (remote, local) = ends(direction, packet);
    let (remote_port, local_port) = match (packet.protocol, packet.family) {
        (6 | 17, _) if inbound => (packet.sport, packet.dport),
        (6 | 17, _) => (packet.dport, packet.sport),
        (1, Family::V4) | (58, Family::V6) => {
            let request = echo(packet)?;
            // Two ends may ask each other with one identifier: who asks tells the two apart.
            (packet.sport, u16::from(request != inbound))
        }
        _ => (0, 0),
    };
    let family = packet.family as u8;
    Some(FlowKey { remote, local, remote_port, local_port, protocol: packet.protocol, family, pad: 0 })
}

/// A number that tells keys apart: a sum of products, of which two different keys share the upper half once in 2^32.
#[inline(always)]
pub const fn tag(key: &FlowKey) -> u32 {
    let ports = (key.remote_port as u64) << 48 | (key.local_port as u64) << 32;
    let rest = ports | (key.protocol as u64) << 16 | (key.family as u64) << 8 | 1;
    let sum = key.remote[0]
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(key.remote[1].wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add(key.local[0].wrapping_mul(0x94d0_49bb_1331_11eb))
        .wrapping_add(key.local[1].wrapping_mul(0xd6e8_feb8_6659_fd93))
        .wrapping_add(rest.wrapping_mul(0xff51_afd7_ed55_8ccd));
    (sum >> 32) as u32
}

/// Of an ICMP echo, whether it is a request.
#[inline(always)]
fn echo(packet: &Packet) -> Option<bool> {
    match (packet.dport >> 8, packet.family) {
        (8, Family::V4) | (128, Family::V6) => Some(true),
        (0, Family::V4) | (129, Family::V6) => Some(false),
        _ => None,
    }
}

/// Only a SYN: a connection is asked for.
#[inline(always)]
const fn asks(packet: &Packet) -> bool {
    packet.protocol == 6 && packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// Requests to one service, or what runs on a connection one way: what the programs look for among the packets that pass, while there is
/// a doubt about what should come back ([`Control::SEEKS`]).
///
/// Bits: 0 to 15 destination port (of an echo its type and code), 16 to 23 protocol, 24 direction, 25 of TCP whether the packet begins no
/// connection, 32 to 63 the last four bytes of the destination. It says which packets are worth a report and nothing more: another host's
/// address may end like this one.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sought(pub u64);

impl Sought {
    const RUNS: u64 = 1 << 25;

    /// Packets like this one: to the same port of the same host, and of TCP such as begin a connection or such as do not.
    #[inline(always)]
    pub const fn by(direction: Direction, packet: &Packet) -> Self {
        let (protocol, direction) = ((packet.protocol as u64) << 16, (direction as u64) << 24);
        let runs = if packet.protocol == 6 && !asks(packet) { Self::RUNS } else { 0 };
        Self(packet.dst[1] << 32 | runs | direction | protocol | packet.dport as u64)
    }

    /// Whether a packet is one of them.
    #[inline(always)]
    pub const fn fits(self, direction: Direction, packet: &Packet) -> bool {
        Self::by(direction, packet).0 == self.0
    }
}

/// Whether a packet may be an answer, as far as it tells itself, and would be remembered as the first of a connection or later:
/// of UDP nobody knows, of TCP only what is met in the middle (`begins`: is remembered at all).
#[inline(always)]
pub(crate) const fn may_answer(packet: &Packet, begins: bool) -> bool {
    packet.protocol == 17 || packet.protocol == 6 && begins && !asks(packet)
}

/// Whether an entry still says something about this packet: not when its time is over, and not when a new connection is
/// asked for between ports whose last one was closed.
#[inline(always)]
pub fn holds(entry: &Entry, packet: &Packet, now: u64) -> bool {
    let closed = matches!(State::from_number(entry.state), State::ClosingOrigin | State::ClosingReply | State::Closed);
    now < entry.expires && !(closed && asks(packet))
}

/// What becomes of an entry that no longer holds, where nothing is put in its place: its time is over. Else the packets of
/// a connection that is not remembered, between the ports of one that was, would keep that one alive.
#[inline(always)]
pub(crate) fn end(found: Option<&Entry>, now: u64) -> Write {
    match found {
        Some(entry) if now < entry.expires => Write { kind: WriteKind::Touch, entry: Entry { expires: now, ..*entry } },
        _ => Write::default(),
    }
}

/// The state of the connection that a packet begins; nothing where it cannot begin one.
///
/// A TCP connection begins with SYN. One that is met in its middle is taken up only until `pickup_until`: for a while after
/// tracking was switched on, so that it outlives the switch. Later it is judged packet by packet, because a flow that
/// was untracked must not become a tracked one when its rule is removed (S32).
#[inline(always)]
pub fn first(packet: &Packet, now: u64, pickup_until: u64) -> Option<State> {
    match (packet.protocol, packet.family) {
        (6, _) => {
            let kind = packet.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN);
            if kind == tcp::SYN {
                Some(State::Opening)
            } else if kind == tcp::ACK && now < pickup_until {
                Some(State::Established)
            } else {
                None
            }
        }
        (17, _) => Some(State::UdpSent),
        (1, Family::V4) | (58, Family::V6) => match echo(packet) {
            Some(true) => Some(State::Echo),
            _ => None,
        },
        _ => Some(State::Other),
    }
}

/// The state after one more packet. An RST only shortens the time-out: whoever forges one gains nothing but that.
#[inline(always)]
pub fn step(state: State, from_origin: bool, packet: &Packet) -> State {
    match state {
        State::UdpSent | State::UdpSentAgain if from_origin => state,
        State::UdpSent => State::UdpAnswered,
        State::UdpSentAgain => State::UdpStream,
        State::UdpAnswered if from_origin => State::UdpSentAgain,
        State::UdpAnswered | State::UdpStream | State::Echo | State::Other | State::Closed => state,
        _ => tcp_step(state, from_origin, packet.tcp_flags),
    }
}

#[inline(always)]
fn tcp_step(state: State, from_origin: bool, flags: u8) -> State {
    if flags & tcp::RST != 0 {
        return State::Closed;
    }
    if flags & tcp::FIN != 0 {
        return match (state, from_origin) {
            (State::ClosingReply, true) | (State::ClosingOrigin, false) => State::Closed,
            (_, true) => State::ClosingOrigin,
            (_, false) => State::ClosingReply,
        };
    }
    match state {
        State::Opening if !from_origin && flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK => State::Answered,
        // Without SYN nobody acknowledges before the handshake is complete.
        State::Opening | State::Answered if flags & (tcp::SYN | tcp::ACK) == tcp::ACK => State::Established,
        _ => state,
    }
}

/// Until when connections met in their middle are taken up, once `new` is in force at `now`: for `window` nanoseconds after a
/// layer began to remember. A change of rules ends it early, a change of settings alone (`same_rules`) does not. `old`: what
/// was in force, and until when it took up.
#[must_use]
pub const fn pickup_until(old: Option<(Control, u64)>, new: Control, same_rules: bool, now: u64, window: u64) -> u64 {
    const fn remembers(control: Control) -> (bool, bool) {
        (control.has(Control::STATEFUL | Control::NACL), control.has(Control::GROUPS))
    }
    let (nacl, groups) = remembers(new);
    let (old_nacl, old_groups, until) = match old {
        Some((control, until)) => {
            let (nacl, groups) = remembers(control);
            (nacl, groups, until)
        }
        None => (false, false, 0),
    };
    if nacl && !old_nacl || groups && !old_groups {
        now.saturating_add(window)
    } else if same_rules {
        until
    } else {
        0
    }
}

/// What becomes of a packet whose connection is new and finds no room: AWS drops it (S39).
#[inline(always)]
pub const fn full() -> Verdict {
    Verdict::without_rule(crate::Action::Deny, Reason::ConntrackFull)
}

/// The key under which a fragment's verdict is shared; nothing for a packet in one piece.
#[inline(always)]
pub fn fragment_key(control: Control, direction: Direction, packet: &Packet) -> Option<FragmentKey> {
    if matches!(packet.fragment, Fragment::None) || control.has(Control::FORGETFUL) {
        return None;
    }
    Some(FragmentKey {
        src: packet.src,
        dst: packet.dst,
        ident: packet.ident,
        // RFC 791 tells fragments apart by protocol too; RFC 8200 does not, and a later one may name another header.
        protocol: if matches!(packet.family, Family::V4) { packet.protocol } else { 0 },
        family: packet.family as u8,
        direction: direction as u8,
        pad: 0,
    })
}

/// What a first fragment leaves for the later ones.
#[inline(always)]
pub const fn share(control: Control, now: u64, verdict: &Verdict) -> Shared {
    Shared {
        expires: now.saturating_add(FRAGMENT_NS),
        epoch: control.epoch(),
        slot: verdict.slot,
        also: verdict.also,
        action: verdict.action as u8,
        layer: verdict.layer as u8,
        pad: [0; 6],
    }
}
