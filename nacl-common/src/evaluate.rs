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
    tables::{Image, Key, Settle, decide_in_table, first_match, l4_key, split},
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
    /// Of a security group rule: the packet's flow is not tracked (S30).
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
    /// It has a connection.
    pub const KEY: u32 = 1;
    /// Something is remembered under that connection's key.
    pub const FOUND: u32 = 1 << 1;
    /// It still holds.
    pub const LIVE: u32 = 1 << 2;
    /// The network ACL has admitted that connection.
    pub const NACL: u32 = 1 << 3;
    /// The security groups have admitted that connection.
    pub const GROUPS: u32 = 1 << 4;
    /// It is a later fragment, and the first one's verdict holds.
    pub const SHARED: u32 = 1 << 5;
    /// No list has a say in it.
    pub const EXEMPT: u32 = 1 << 6;
    /// It would be remembered, if a rule says so, and may be the answer within a flow that is not.
    pub const MAY_ANSWER: u32 = 1 << 7;
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
    /// Of the security groups to the packet that this one may be the answer to; 0 where they were not asked.
    pub asked_before: u32,
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
        let opens = header.open[list_index(direction.reverse(), v6)] & opens(packet);
        let untracked = self.groups & u32::from(OPEN) != 0 && opens != 0 || self.asked_before & u32::from(OPEN) != 0;
        Says { allow, untracked, slot, reason }
    }
}

/// The bit of [`Header::open`] for the packet's protocol.
#[inline(always)]
const fn opens(packet: &Packet) -> u32 {
    match packet.protocol {
        6 => OPEN_TCP,
        17 => OPEN_UDP,
        _ => 0,
    }
}

/// Judges an IP packet that was parsed.
///
/// Four steps, which the kernel takes one by one: only the second needs the image, and none has to know which way the one
/// before it came to its answer.
#[inline(always)]
pub fn judge<I: Image>(image: &I, at: &At, direction: Direction, packet: &Packet, memory: Memory<'_>) -> Judged {
    let known = know(at, direction, packet, memory);
    let answers = ask(image, at.control, &question(direction, packet, known));
    let header = image.header();
    let shared = memory.shared.copied().unwrap_or_default();
    let verdict = decide(header, at.control, direction, packet, known, &answers, &shared);
    let found = memory.found.copied().unwrap_or_default();
    let (write, met) = remember(image, header, at, direction, packet, known, &answers, &found, verdict.action);
    Judged { verdict, write, met }
}

/// First step of [`judge`]: what is known without any list.
#[inline(always)]
pub fn know(at: &At, direction: Direction, packet: &Packet, memory: Memory<'_>) -> u32 {
    if exempt(at.control, direction, packet).is_some() {
        return known::EXEMPT;
    }
    let mut known = if memory.trackable { known::KEY } else { 0 };
    let mut begins = at.now < at.pickup_until;
    let mut from_origin = true;
    if let Some(entry) = memory.found {
        known |= known::FOUND;
        if flow::holds(entry, packet, at.now) {
            known |= known::LIVE;
            begins = true;
            from_origin = entry.origin == direction as u8;
            if entry.nacl == 1 {
                known |= known::NACL;
            }
            if entry.group == 1 {
                known |= known::GROUPS;
            }
        }
    }
    if memory.trackable && from_origin && flow::may_answer(packet, begins) {
        known |= known::MAY_ANSWER;
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

/// What the lists are asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The remote address.
    pub remote: [u64; 2],
    /// [`list_index`] of direction and family.
    pub list: u32,
    /// [`l4_key`] by the destination port.
    pub l4: u32,
    /// The same by the source port, where the packet has ports.
    pub l4_back: u32,
    /// As of [`know`].
    pub known: u32,
    /// The bit of [`Header::open`] for the packet's protocol.
    pub opens: u32,
}

/// Puts a packet as a question.
#[inline(always)]
pub fn question(direction: Direction, packet: &Packet, known: u32) -> Question {
    let v6 = matches!(packet.family, Family::V6);
    let l4 = l4_key(packet, packet.dport);
    let has_ports = matches!(packet.protocol, 6 | 17) && packet.fragment != Fragment::Later;
    let l4_back = if has_ports { l4 & !0xffff | u32::from(packet.sport) } else { l4 };
    let list = list_index(direction, v6) as u32;
    Question { remote: remote(direction, packet), list, l4, l4_back, known, opens: opens(packet) }
}

/// Second step of [`judge`]: the lists that have a say are asked. All that needs the image, and nothing else.
#[inline(always)]
pub fn ask<I: Image>(image: &I, control: Control, question: &Question) -> Answers {
    let mut answers = Answers { exempt: 0, nacl: Answers::OFF, groups: Answers::OFF, asked_before: 0 };
    let Question { remote, list, l4, known, .. } = *question;
    if known & known::EXEMPT != 0 {
        return answers;
    }
    let header = image.header();
    let list = (list & 3) as usize;
    let low = remote[1] as u8;
    if header.exempt[list & 1][(low >> 6) as usize] >> (low & 63) & 1 != 0 {
        answers.exempt = ask_service(image, Service::Remote, question);
        if answers.exempt & u32::from(ALLOW) == 0 {
            answers.exempt = ask_service(image, Service::Local, question);
        }
        if answers.exempt & u32::from(ALLOW) != 0 {
            return answers;
        }
    }
    if known & known::SHARED != 0 {
        return answers;
    }
    // Each list by values of its own, so that the kernel's verifier does not know the family from the one before.
    if control.has(Control::NACL) {
        let remembered = control.has(Control::STATEFUL) && known & known::NACL != 0;
        let key = Key { v6: image.settle(question.list) & 1, remote, l4 };
        let list = &header.lists[list_index(Direction::Inbound, false) | list];
        let answer = if remembered { Answers::REMEMBERED } else { u32::from(first_match(image, list, &key)) };
        answers.nacl = image.settle(answer);
    }
    if control.has(Control::GROUPS) {
        let remembered = known & known::GROUPS != 0;
        let key = Key { v6: image.settle(question.list) & 1, remote, l4 };
        let rules = &header.lists[group_index(Direction::Inbound, false) | list];
        let answer = if remembered { Answers::REMEMBERED } else { u32::from(decide_in_table(image, rules, &key)) };
        answers.groups = image.settle(answer);
        // Nothing is remembered of an untracked flow. Were its answer taken for the first packet of a connection, the flow
        // would be tracked from then on and outlive its rule (S32).
        if !remembered && known & known::MAY_ANSWER != 0 && header.open[list] & question.opens != 0 {
            let key = Key { v6: image.settle(question.list) & 1, remote, l4: question.l4_back };
            let rules = &header.lists[group_index(Direction::Inbound, false) | (list ^ 2)];
            answers.asked_before = image.settle(u32::from(decide_in_table(image, rules, &key)));
        }
    }
    answers
}

/// What the list of exempt services at one end says.
#[inline(always)]
fn ask_service<I: Image>(image: &I, service: Service, question: &Question) -> u32 {
    let list = image.settle(question.list);
    let v6 = list & 1;
    // The service's port is where requests go and where replies come from.
    let inbound = list & 2 == (Direction::Inbound as u32) << 1;
    let l4 = if inbound == matches!(service, Service::Remote) { question.l4_back } else { question.l4 };
    let key = Key { v6, remote: question.remote, l4: image.settle(l4) };
    let list = &image.header().lists[exempt_index(service, false) | v6 as usize];
    image.settle(u32::from(decide_in_table(image, list, &key)))
}

/// Third step of [`judge`]: the verdict. `shared`: what is remembered of a first fragment, where `known` says so.
#[inline(always)]
pub fn decide(
    header: &Header,
    control: Control,
    direction: Direction,
    packet: &Packet,
    known: u32,
    answers: &Answers,
    shared: &Shared,
) -> Verdict {
    if known & known::EXEMPT != 0
        && let Some(verdict) = exempt(control, direction, packet)
    {
        return verdict;
    }
    if answers.exempt & u32::from(ALLOW) != 0 {
        let (_, slot) = split(answers.exempt as u16);
        let reason = if answers.exempt & u32::from(OPEN) != 0 { Reason::Failsafe } else { Reason::AwsService };
        return Verdict { action: Action::Allow, reason, layer: Layer::None, slot, also: NO_SLOT };
    }
    if known & known::SHARED != 0 {
        let layer = match shared.layer {
            1 => Layer::Nacl,
            2 => Layer::SecurityGroup,
            _ => Layer::None,
        };
        let action = if shared.action == Action::Allow as u8 { Action::Allow } else { Action::Deny };
        return Verdict { action, reason: Reason::SharedFragment, layer, slot: shared.slot, also: shared.also };
    }
    let nacl = answers.nacl(direction, matches!(packet.family, Family::V6));
    let groups = answers.groups(header, direction, packet);
    combine(direction, &nacl, &groups)
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

/// Fourth step of [`judge`]: what a packet leaves behind that was let pass or not (`action`), and what the connection table
/// said of it. `found`: what is remembered, where `known` says so.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; what judging has found out so far")]
pub fn remember<S: Settle>(
    settle: &S,
    header: &Header,
    at: &At,
    direction: Direction,
    packet: &Packet,
    known: u32,
    answers: &Answers,
    found: &Entry,
    action: Action,
) -> (Write, Met) {
    const NACL: u32 = 1;
    const GROUPS: u32 = 2;
    if known & known::KEY == 0 || answers.exempt & u32::from(ALLOW) != 0 {
        return (Write::default(), Met::Nothing);
    }
    let live = known & known::LIVE != 0;
    let from_origin = found.origin == direction as u8;
    let met = match (live, from_origin) {
        (true, true) => Met::Forward,
        (true, false) => Met::Reply,
        (false, _) => Met::Unknown,
    };
    if matches!(action, Action::Deny) {
        return (Write::default(), met);
    }
    let mut rules = 0;
    if matches!(answers.nacl(direction, false).reason, Reason::NaclRule) {
        rules |= NACL;
    }
    let groups = answers.groups(header, direction, packet);
    if matches!(groups.reason, Reason::GroupRule) && !groups.untracked {
        rules |= GROUPS;
    }
    let rules = settle.settle(rules);
    if !live {
        let wanted = rules & NACL != 0 && at.control.has(Control::STATEFUL) || rules & GROUPS != 0;
        let first = if wanted { flow::first(packet, at.now, at.pickup_until) } else { None };
        let Some(state) = first else {
            let ended = if known & known::FOUND != 0 { flow::end(Some(found), at.now) } else { Write::default() };
            return (ended, met);
        };
        let state = settle.settle(state as u32) as u8;
        let entry = Entry {
            expires: expires(settle, header, at, state),
            started: at.now,
            epoch: at.control.epoch(),
            state,
            origin: direction as u8,
            nacl: u8::from(rules & NACL != 0),
            group: u8::from(rules & GROUPS != 0),
            nacl_slot: slot_if(rules & NACL != 0, answers.nacl),
            group_slot: slot_if(rules & GROUPS != 0, answers.groups),
            pad: 0,
        };
        let kind = if known & known::FOUND != 0 { WriteKind::Replace } else { WriteKind::New };
        return (Write { kind, entry }, Met::New);
    }
    let mut entry = *found;
    let mut kind = WriteKind::Touch;
    if from_origin && rules & NACL != 0 && entry.nacl == 0 {
        entry.nacl = 1;
        entry.nacl_slot = slot_if(true, answers.nacl);
        kind = WriteKind::Replace;
    }
    if from_origin && rules & GROUPS != 0 && entry.group == 0 {
        entry.group = 1;
        entry.group_slot = slot_if(true, answers.groups);
        kind = WriteKind::Replace;
    }
    let state = flow::step(State::from_number(entry.state), from_origin, packet);
    entry.state = settle.settle(state as u32) as u8;
    entry.expires = expires(settle, header, at, entry.state);
    (Write { kind, entry }, met)
}

#[inline(always)]
const fn slot_if(marked: bool, answer: u32) -> u16 {
    if marked { split(answer as u16).1 } else { NO_SLOT }
}

/// When a connection in this state is forgotten.
#[inline(always)]
fn expires<S: Settle>(settle: &S, header: &Header, at: &At, state: u8) -> u64 {
    let timeout = settle.settle(State::from_number(state).timeout() as u32) as usize;
    at.now.saturating_add(header.timeouts[timeout % flow::TIMEOUTS])
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
