//! From a parsed packet and a compiled policy to a verdict: what is exempt, what is judged, by which layer.
//! The look-up itself is in `tables`, the parsing in `packet`.

use crate::{
    border::{
        ALLOW, Control, Entry, FIRST_RULE_SLOT, Header, NO_SLOT, OPEN, OPEN_TCP, OPEN_UDP, Service, Shared,
        exempt_index, group_index, list_index, tracked_slot,
    },
    flow::{self, Met, State, Write, WriteKind},
    packet::{Family, Fragment, Packet},
    reason::Reason,
    tables::{Image, Question, decide, decide_in_table, l4_key, split},
};

/// A direction as the policy sees it: into or out of the subnet or interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Into the subnet.
    Inbound = 0,
    /// Out of the subnet.
    Outbound = 1,
}

impl Direction {
    /// Both, inbound first.
    pub const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    /// The other direction.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Inbound => Self::Outbound,
            Self::Outbound => Self::Inbound,
        }
    }

    /// `inbound` or `outbound`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// The kernel hook a frame is met at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hook {
    /// The interface receives the frame.
    Ingress = 0,
    /// The interface sends the frame.
    Egress = 1,
}

/// What the policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Action {
    /// The packet is dropped.
    Deny = 0,
    /// The packet goes on.
    Allow = 1,
}

impl Action {
    /// `deny` or `allow`, as AWS writes them.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }
}

/// What decided. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Layer {
    /// Before every rule: exemptions and packets that cannot be judged.
    None = 0,
    /// The subnet's network ACL.
    Nacl = 1,
    /// The interface's security groups.
    SecurityGroup = 2,
}

impl Layer {
    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nacl => "nacl",
            Self::SecurityGroup => "security-group",
        }
    }
}

/// What is to happen to a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Deny or allow.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Who decided.
    pub layer: Layer,
    /// The slot of what decided, or [`NO_SLOT`]. Of a packet that both layers let pass it is the network ACL's.
    pub slot: u16,
    /// The slot of the other layer, where it was asked before and let the packet pass; else [`NO_SLOT`].
    pub also: u16,
}

impl Verdict {
    /// A verdict that no rule made.
    #[inline(always)]
    pub const fn without_rule(action: Action, reason: Reason) -> Self {
        Self { action, reason, layer: Layer::None, slot: NO_SLOT, also: NO_SLOT }
    }
}

/// When and under which settings a packet is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Settings in force.
    pub control: Control,
    /// Nanoseconds of the kernel's coarse clock.
    pub now: u64,
    /// Until when TCP connections met in their middle are taken up.
    pub pickup_until: u64,
}

/// What is remembered that concerns a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory<'a> {
    /// Whether the packet has a [`flow::key`].
    pub trackable: bool,
    /// The entry under that key, whether it still holds or not.
    pub found: Option<&'a Entry>,
    /// Of a later fragment: what is under its [`flow::fragment_key`].
    pub shared: Option<&'a Shared>,
}

/// A verdict and what is to be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The verdict. Where `write` asks for a new entry and there is no room, it is [`flow::full`] instead.
    pub verdict: Verdict,
    /// What to do to the connection table.
    pub write: Write,
    /// What the table said.
    pub met: Met,
}

/// What one layer says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Says {
    /// Whether it lets the packet pass.
    pub allow: bool,
    /// Of a security group rule: its flows are not tracked (S30).
    pub untracked: bool,
    /// The slot of what decided; [`NO_SLOT`] where the layer is off.
    pub slot: u16,
    /// Why.
    pub reason: Reason,
}

impl Says {
    /// What a layer says that was not asked: it is off, or it remembers the connection.
    #[inline(always)]
    const fn unasked(answer: u32, direction: Direction, v6: bool) -> Self {
        if answer & Answers::OFF != 0 {
            Self { allow: true, untracked: true, slot: NO_SLOT, reason: Reason::LayerOff }
        } else {
            Self { allow: true, untracked: false, slot: tracked_slot(direction, v6), reason: Reason::Tracked }
        }
    }

    #[inline(always)]
    const fn on(self) -> bool {
        self.slot != NO_SLOT
    }
}

/// What is known of a packet before any list is asked; bits.
pub mod known {
    /// What is remembered of its connection still holds.
    pub const LIVE: u32 = 1;
    /// The network ACL has admitted that connection.
    pub const NACL: u32 = 1 << 1;
    /// The security groups have admitted that connection.
    pub const GROUPS: u32 = 1 << 2;
    /// It is a later fragment, and the first one's verdict holds.
    pub const SHARED: u32 = 1 << 3;
    /// No list has a say in it.
    pub const EXEMPT: u32 = 1 << 4;
}

/// What the lists answered: decisions, or one of the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Of the exemptions; 0 where they were not asked.
    pub exempt: u32,
    /// Of the network ACL.
    pub nacl: u32,
    /// Of the security groups.
    pub groups: u32,
}

impl Answers {
    /// The layer does not judge here.
    pub const OFF: u32 = 1 << 16;
    /// The layer remembers the connection.
    pub const REMEMBERED: u32 = 1 << 17;

    /// What the network ACL says of a packet.
    #[inline(always)]
    pub const fn nacl(&self, direction: Direction, v6: bool) -> Says {
        if self.nacl & (Self::OFF | Self::REMEMBERED) != 0 {
            return Says::unasked(self.nacl, direction, v6);
        }
        let (allow, slot) = split(self.nacl as u16);
        let reason = if slot >= FIRST_RULE_SLOT {
            Reason::NaclRule
        } else if slot & 4 != 0 {
            Reason::SameSubnet
        } else {
            Reason::NaclImplicit
        };
        Says { allow, untracked: false, slot, reason }
    }

    /// What the security groups say of a packet.
    #[inline(always)]
    pub fn groups(&self, header: &Header, direction: Direction, packet: &Packet) -> Says {
        let v6 = matches!(packet.family, Family::V6);
        if self.groups & (Self::OFF | Self::REMEMBERED) != 0 {
            return Says::unasked(self.groups, direction, v6);
        }
        let (allow, slot) = split(self.groups as u16);
        let reason = if slot >= FIRST_RULE_SLOT { Reason::GroupRule } else { Reason::GroupImplicit };
        let back = header.open[list_index(direction.reverse(), v6)];
        let open = match packet.protocol {
            6 => back & OPEN_TCP != 0,
            17 => back & OPEN_UDP != 0,
            _ => false,
        };
        Says { allow, untracked: open && self.groups & OPEN as u32 != 0, slot, reason }
    }
}

/// Judges an IP packet that was parsed.
#[inline(always)]
pub fn judge<I: Image>(image: &I, at: &At, direction: Direction, packet: &Packet, memory: Memory<'_>) -> Judged {
    let known = know(at, direction, packet, memory);
    let answers = ask(image, at.control, direction, packet, known);
    conclude(image.header(), at, direction, packet, memory, known, answers)
}

/// First step of [`judge`]: what is known without any list.
#[inline(always)]
pub fn know(at: &At, direction: Direction, packet: &Packet, memory: Memory<'_>) -> u32 {
    if exempt(at.control, direction, packet).is_some() {
        return known::EXEMPT;
    }
    let mut known = 0;
    if let Some(entry) = memory.found
        && flow::holds(entry, packet, at.now)
    {
        known |= known::LIVE;
        if entry.nacl == 1 {
            known |= known::NACL;
        }
        if entry.group == 1 {
            known |= known::GROUPS;
        }
    }
    if let Some(shared) = memory.shared
        && packet.fragment == Fragment::Later
        && at.now < shared.expires
        && at.control.epoch() == shared.epoch
    {
        known |= known::SHARED;
    }
    known
}

/// Second step of [`judge`]: the lists that have a say are asked. All that needs the image, and nothing else.
#[inline(always)]
pub fn ask<I: Image>(image: &I, control: Control, direction: Direction, packet: &Packet, known: u32) -> Answers {
    let mut answers = Answers { exempt: 0, nacl: Answers::OFF, groups: Answers::OFF };
    if known & known::EXEMPT != 0 {
        return answers;
    }
    // 4 or 6. Arithmetic and no branches, here and below: the kernel's verifier walks what follows once for each.
    let v6 = packet.family as u32 >> 1 & 1;
    let remote = remote(direction, packet);
    let place = (image.settle((direction as u32) << 1 | v6) & 3) as usize;
    let mut question = Question { v6, remote, l4: 0 };
    let header = image.header();
    let low = remote[1] as u8;
    if header.exempt[place & 1][(low >> 6) as usize] >> (low & 63) & 1 != 0 {
        let inbound = matches!(direction, Direction::Inbound);
        answers.exempt = ask_service(image, Service::Remote, inbound, packet, question);
        if answers.exempt & u32::from(ALLOW) == 0 {
            answers.exempt = ask_service(image, Service::Local, inbound, packet, question);
        }
        if answers.exempt & u32::from(ALLOW) != 0 {
            return answers;
        }
    }
    if known & known::SHARED != 0 {
        return answers;
    }
    question.v6 = image.settle(v6);
    question.l4 = image.settle(l4_key(packet, packet.dport));
    if control.has(Control::NACL) {
        let remembered = control.has(Control::STATEFUL) && known & known::NACL != 0;
        let list = &header.lists[list_index(Direction::Inbound, false) | place];
        let answer = if remembered { Answers::REMEMBERED } else { u32::from(decide(image, list, &question)) };
        answers.nacl = image.settle(answer);
    }
    if control.has(Control::GROUPS) {
        let remembered = known & known::GROUPS != 0;
        let list = &header.lists[group_index(Direction::Inbound, false) | place];
        let answer = if remembered { Answers::REMEMBERED } else { u32::from(decide_in_table(image, list, &question)) };
        answers.groups = image.settle(answer);
    }
    answers
}

/// What the list of exempt services at one end says.
#[inline(always)]
fn ask_service<I: Image>(image: &I, service: Service, inbound: bool, packet: &Packet, question: Question) -> u32 {
    let has_ports = matches!(packet.protocol, 6 | 17);
    // The service's port is where requests go and where replies come from; an ICMP type is in one place.
    let from_source = has_ports && inbound == matches!(service, Service::Remote);
    let port = if from_source { packet.sport } else { packet.dport };
    let v6 = image.settle(question.v6) & 1;
    let list = &image.header().lists[exempt_index(service, false) | v6 as usize];
    let question = Question { v6, l4: image.settle(l4_key(packet, port)), ..question };
    image.settle(u32::from(decide_in_table(image, list, &question)))
}

/// Third step of [`judge`]: the verdict, and what is to be remembered. `memory`, `known` and `answers` as in the others.
#[inline(always)]
pub fn conclude(
    header: &Header,
    at: &At,
    direction: Direction,
    packet: &Packet,
    memory: Memory<'_>,
    known: u32,
    answers: Answers,
) -> Judged {
    let done = |verdict| Judged { verdict, write: Write::default(), met: Met::Nothing };
    if known & known::EXEMPT != 0
        && let Some(verdict) = exempt(at.control, direction, packet)
    {
        return done(verdict);
    }
    if answers.exempt & u32::from(ALLOW) != 0 {
        let (_, slot) = split(answers.exempt as u16);
        let reason = if answers.exempt & u32::from(OPEN) != 0 { Reason::Failsafe } else { Reason::AwsService };
        return done(Verdict { action: Action::Allow, reason, layer: Layer::None, slot, also: NO_SLOT });
    }
    if known & known::SHARED != 0
        && let Some(shared) = memory.shared
    {
        let layer = match shared.layer {
            1 => Layer::Nacl,
            2 => Layer::SecurityGroup,
            _ => Layer::None,
        };
        let action = if shared.action == Action::Allow as u8 { Action::Allow } else { Action::Deny };
        let reason = Reason::SharedFragment;
        return done(Verdict { action, reason, layer, slot: shared.slot, also: shared.also });
    }
    let live = if known & known::LIVE != 0 { memory.found } else { None };
    let nacl = answers.nacl(direction, matches!(packet.family, Family::V6));
    let groups = answers.groups(header, direction, packet);
    let verdict = combine(direction, &nacl, &groups);
    let mut write = Write::default();
    if matches!(verdict.action, Action::Allow) {
        write = remember(header, at, direction, packet, memory, live, &nacl, &groups);
    }
    let met = match (live, write.kind) {
        (Some(live), _) if live.origin == direction as u8 => Met::Forward,
        (Some(_), _) => Met::Reply,
        (None, WriteKind::New | WriteKind::Replace) => Met::New,
        (None, _) if memory.trackable => Met::Unknown,
        (None, _) => Met::Nothing,
    };
    Judged { verdict, write, met }
}

/// Inbound the network ACL comes first, outbound the groups (O1); the first that denies is named.
#[inline(always)]
fn combine(direction: Direction, nacl: &Says, groups: &Says) -> Verdict {
    let nacl_first = matches!(direction, Direction::Inbound);
    let name_groups = if nacl.allow && groups.allow {
        !nacl.on()
    } else if nacl_first {
        nacl.allow
    } else {
        !groups.allow
    };
    let (says, other, layer) =
        if name_groups { (groups, nacl, Layer::SecurityGroup) } else { (nacl, groups, Layer::Nacl) };
    // A packet is counted once where both remember it, and not where the other layer comes after the one that denies.
    let asked = says.allow || name_groups == nacl_first;
    let also = if asked && other.slot != says.slot { other.slot } else { NO_SLOT };
    let action = if says.allow { Action::Allow } else { Action::Deny };
    let layer = if says.on() { layer } else { Layer::None };
    Verdict { action, reason: says.reason, layer, slot: says.slot, also }
}

/// What an admitted packet leaves behind.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; what judging has found out so far")]
fn remember(
    header: &Header,
    at: &At,
    direction: Direction,
    packet: &Packet,
    memory: Memory<'_>,
    live: Option<&Entry>,
    nacl: &Says,
    groups: &Says,
) -> Write {
    let nacl_rule = matches!(nacl.reason, Reason::NaclRule);
    let group_rule = matches!(groups.reason, Reason::GroupRule) && !groups.untracked;
    let mut entry = match live {
        Some(live) => *live,
        None => {
            let wanted = nacl_rule && at.control.has(Control::STATEFUL) || group_rule;
            if !wanted || !memory.trackable {
                return Write::default();
            }
            let Some(state) = flow::first(packet, at.now, at.pickup_until) else { return Write::default() };
            Entry {
                expires: 0,
                started: at.now,
                epoch: at.control.epoch(),
                state: state as u8,
                origin: direction as u8,
                nacl: 0,
                group: 0,
                nacl_slot: NO_SLOT,
                group_slot: NO_SLOT,
                pad: 0,
            }
        }
    };
    let from_origin = entry.origin == direction as u8;
    let mut marked = false;
    if from_origin && nacl_rule && entry.nacl == 0 {
        entry.nacl = 1;
        entry.nacl_slot = nacl.slot;
        marked = true;
    }
    if from_origin && group_rule && entry.group == 0 {
        entry.group = 1;
        entry.group_slot = groups.slot;
        marked = true;
    }
    let mut state = State::from_number(entry.state);
    if live.is_some() {
        state = flow::step(state, from_origin, packet);
    }
    entry.state = state as u8;
    entry.expires = at.now.saturating_add(header.timeouts[state.timeout() as usize]);
    let kind = match (live.is_some(), memory.found.is_some()) {
        (true, _) if !marked => WriteKind::Touch,
        (_, true) => WriteKind::Replace,
        _ => WriteKind::New,
    };
    Write { kind, entry }
}

/// N22: the CIDR of a rule is the source of inbound and the destination of outbound packets.
#[inline(always)]
const fn remote(direction: Direction, packet: &Packet) -> [u64; 2] {
    match direction {
        Direction::Inbound => packet.src,
        Direction::Outbound => packet.dst,
    }
}

/// What becomes of a frame that is not a well-formed IP packet.
#[inline(always)]
pub fn judge_other(control: Control, reason: Reason) -> Verdict {
    let pass = match reason {
        Reason::Arp => true,
        Reason::NonIp => !control.has(Control::NON_IP_DROP),
        _ => false,
    };
    Verdict::without_rule(if pass { Action::Allow } else { Action::Deny }, reason)
}

/// What passes before any list is asked.
#[inline(always)]
fn exempt(control: Control, direction: Direction, packet: &Packet) -> Option<Verdict> {
    if let Some(reason) = link_exempt(packet) {
        return Some(Verdict::without_rule(Action::Allow, reason));
    }
    if control.has(Control::AWS) && is_dhcp(direction, packet) {
        return Some(Verdict::without_rule(Action::Allow, Reason::Dhcp));
    }
    None
}

/// Without these IPv6 cannot find its neighbours (N51).
#[inline(always)]
fn link_exempt(packet: &Packet) -> Option<Reason> {
    if !matches!(packet.family, Family::V6) || packet.protocol != 58 || packet.fragment != Fragment::None {
        return None;
    }
    match (packet.dport >> 8, packet.hop_limit) {
        (133..=137, 255) => Some(Reason::NeighbourDiscovery),
        (130..=132 | 143, 1) => Some(Reason::Mld),
        _ => None,
    }
}

/// DHCP between a client here and a server anywhere: it is told by both ports, because a client that has no address yet
/// asks everybody.
#[inline(always)]
fn is_dhcp(direction: Direction, packet: &Packet) -> bool {
    if packet.protocol != 17 || packet.fragment != Fragment::None {
        return false;
    }
    let (client, server) = match direction {
        Direction::Outbound => (packet.sport, packet.dport),
        Direction::Inbound => (packet.dport, packet.sport),
    };
    match packet.family {
        Family::V4 => client == 68 && server == 67,
        Family::V6 => client == 546 && server == 547,
    }
}
