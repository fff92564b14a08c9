//! From a parsed packet and a compiled policy to a verdict: what is exempt, what is judged, by which layer.
//! The look-up itself is in `tables`, the parsing in `packet`.

use crate::{
    border::{
        ALLOW, Control, Entry, FIRST_RULE_SLOT, Header, NO_SLOT, OPEN, Service, Shared, exempt_index, group_index,
        list_index, tracked_slot,
    },
    flow::{self, Met, State, Write, WriteKind},
    packet::{Family, Fragment, Packet},
    reason::Reason,
    tables::{Image, Key, Settle, decide_in_table, first_match, kind, kinds, split},
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
    /// It would be remembered, if a rule says so, and may be the answer within a flow that is not.
    pub const MAY_ANSWER: u32 = 1 << 6;
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
    /// There is no generation.
    const MISSING: u32 = 1 << 18;

    /// Of a generation that is not there.
    pub const NONE: Self = Self { exempt: 0, nacl: Self::MISSING, groups: Self::OFF, asked_before: 0 };

    /// The decision of the network ACL (see [`ALLOW`]), where nothing else has had a say. Its reason is [`slot_reason`] of the
    /// slot.
    #[inline(always)]
    pub const fn alone(&self, question: &Question) -> Option<u16> {
        if question.exempt != 0 || self.exempt & ALLOW as u32 != 0 || self.nacl > u16::MAX as u32 {
            return None;
        }
        Some(self.nacl as u16)
    }

    /// What the network ACL says of a packet.
    #[inline(always)]
    pub const fn nacl(&self, direction: Direction, v6: bool) -> Says {
        if self.nacl & (Self::OFF | Self::REMEMBERED) != 0 {
            return Says::unasked(self.nacl, direction, v6);
        }
        let (allow, slot) = split(self.nacl as u16);
        Says { allow, untracked: false, slot, reason: slot_reason(slot) }
    }

    /// What the security groups say of a packet.
    #[inline(always)]
    pub fn groups(&self, open: &[u32; 4], question: &Question) -> Says {
        let (direction, v6) = (question.direction(), question.v6());
        if self.groups & (Self::OFF | Self::REMEMBERED) != 0 {
            return Says::unasked(self.groups, direction, v6);
        }
        let (allow, slot) = split(self.groups as u16);
        let reason = if slot >= FIRST_RULE_SLOT { Reason::GroupRule } else { Reason::GroupImplicit };
        let opens = open[(question.list as usize ^ 2) & 3] & question.opens();
        let untracked = self.groups & u32::from(OPEN) != 0 && opens != 0 || self.asked_before & u32::from(OPEN) != 0;
        Says { allow, untracked, slot, reason }
    }
}

/// Why a packet of one slot was judged as it was, where no other layer named a slot of its own: the network ACL has decided, or
/// all layers remember the connection.
#[inline(always)]
pub const fn slot_reason(slot: u16) -> Reason {
    if slot >= FIRST_RULE_SLOT {
        Reason::NaclRule
    } else if slot >= tracked_slot(Direction::Inbound, false) {
        Reason::Tracked
    } else if slot & 4 != 0 {
        Reason::SameSubnet
    } else {
        Reason::NaclImplicit
    }
}

/// Judges an IP packet that was parsed.
///
/// Five steps, which the kernel takes one by one: only the third needs the image, and none has to know which way the one
/// before it came to its answer.
#[inline(always)]
pub fn judge<I: Image>(image: &I, at: &At, direction: Direction, packet: &Packet, memory: Memory<'_>) -> Judged {
    let question = question(at.control, direction, packet);
    let known = know(at, direction, packet, &question, memory);
    let answers = ask(image, at.control, packet, &question, known);
    let header = image.header();
    let shared = memory.shared.copied().unwrap_or_default();
    let verdict = decide(&header.open, &question, known, &answers, &shared);
    let found = memory.found.copied().unwrap_or_default();
    let (write, met) =
        remember(image, header, at, direction, packet, &question, known, &answers, &found, verdict.action);
    Judged { verdict, write, met }
}

/// What holds for all lists of a generation, wherever that lies.
pub trait Rest {
    /// An idle time-out in nanoseconds, by the number of a [`flow::Timeout`].
    fn timeout(&self, timeout: usize) -> u64;

    /// Whether the remote address may be that of an exemption: nearly all packets are told by this one read that it is not.
    fn may_be_exempt(&self, question: &Question) -> bool;
}

impl Rest for Header {
    #[inline(always)]
    fn timeout(&self, timeout: usize) -> u64 {
        self.timeouts[timeout % flow::TIMEOUTS]
    }

    #[inline(always)]
    fn may_be_exempt(&self, question: &Question) -> bool {
        let low = question.remote[1] as u8;
        self.exempt[question.list as usize & 1][usize::from(low >> 6)] >> (low & 63) & 1 != 0
    }
}

/// What a packet is to the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The remote address.
    pub remote: [u64; 2],
    /// [`list_index`] of direction and family.
    pub list: u32,
    /// As of [`kind`].
    pub kind: u32,
    /// Place in the L4 key space, by the destination port.
    pub l4: u32,
    /// Number of the reason for which no list has a say in it, or 0.
    pub exempt: u32,
}

/// First step of [`judge`]: puts a packet as a question.
#[inline(always)]
pub fn question(control: Control, direction: Direction, packet: &Packet) -> Question {
    let kind = kind(packet);
    Question {
        // N22: the CIDR of a rule is the source of inbound and the destination of outbound packets.
        remote: ends(direction, packet).0,
        list: (direction as u32) << 1 | (packet.family as u32 >> 1 & 1),
        kind,
        l4: (kind & kinds::L4) + (u32::from(packet.dport) & (kind.cast_signed() >> 31).cast_unsigned()),
        exempt: exempt(control, direction, packet, kind).map_or(0, |reason| reason as u32),
    }
}

impl Question {
    /// Place in the L4 key space by the source port, where the packet has ports.
    #[inline(always)]
    const fn back(&self, packet: &Packet) -> u32 {
        if self.kind & kinds::PORTS != 0 { (self.kind & kinds::L4) + packet.sport as u32 } else { self.l4 }
    }

    /// The bit of [`Header::open`] for the packet's protocol.
    #[inline(always)]
    const fn opens(&self) -> u32 {
        self.kind >> kinds::OPENS & 3
    }

    #[inline(always)]
    const fn v6(&self) -> bool {
        self.list & 1 != 0
    }

    #[inline(always)]
    const fn direction(&self) -> Direction {
        if self.list & 2 == 0 { Direction::Inbound } else { Direction::Outbound }
    }
}

/// Second step of [`judge`]: what is known without any list.
#[inline(always)]
pub fn know(at: &At, direction: Direction, packet: &Packet, question: &Question, memory: Memory<'_>) -> u32 {
    if question.exempt != 0 {
        return 0;
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

/// Third step of [`judge`]: the lists that have a say are asked. All that needs the image, and nothing else.
#[inline(always)]
pub fn ask<I: Image>(image: &I, control: Control, packet: &Packet, question: &Question, known: u32) -> Answers {
    let mut answers = Answers { exempt: 0, nacl: Answers::OFF, groups: Answers::OFF, asked_before: 0 };
    let Question { remote, list, l4, .. } = *question;
    if question.exempt != 0 {
        return answers;
    }
    let header = image.header();
    let list = (image.settle(list) & 3) as usize;
    if header.may_be_exempt(question) {
        answers.exempt = ask_service(image, Service::Remote, packet, question);
        if answers.exempt & u32::from(ALLOW) == 0 {
            answers.exempt = ask_service(image, Service::Local, packet, question);
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
        if !remembered && known & known::MAY_ANSWER != 0 && header.open[list] & question.opens() != 0 {
            let key = Key { v6: image.settle(question.list) & 1, remote, l4: question.back(packet) };
            let rules = &header.lists[group_index(Direction::Inbound, false) | (list ^ 2)];
            answers.asked_before = image.settle(u32::from(decide_in_table(image, rules, &key)));
        }
    }
    answers
}

/// What the list of exempt services at one end says.
#[inline(always)]
fn ask_service<I: Image>(image: &I, service: Service, packet: &Packet, question: &Question) -> u32 {
    let list = image.settle(question.list);
    let v6 = list & 1;
    // The service's port is where requests go and where replies come from.
    let inbound = list & 2 == (Direction::Inbound as u32) << 1;
    let l4 = if inbound == matches!(service, Service::Remote) { question.back(packet) } else { question.l4 };
    let key = Key { v6, remote: question.remote, l4: image.settle(l4) };
    let list = &image.header().lists[exempt_index(service, false) | v6 as usize];
    image.settle(u32::from(decide_in_table(image, list, &key)))
}

/// Fourth step of [`judge`]: the verdict. `open`: [`Header::open`]. `shared`: what is remembered of a first fragment, where `known` says so.
#[inline(always)]
pub fn decide(open: &[u32; 4], question: &Question, known: u32, answers: &Answers, shared: &Shared) -> Verdict {
    if answers.nacl == Answers::MISSING {
        return Verdict::without_rule(Action::Deny, Reason::NoGeneration);
    }
    if question.exempt != 0 {
        let reason = match question.exempt {
            NEIGHBOUR_DISCOVERY => Reason::NeighbourDiscovery,
            MLD => Reason::Mld,
            _ => Reason::Dhcp,
        };
        return Verdict::without_rule(Action::Allow, reason);
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
    let direction = question.direction();
    let nacl = answers.nacl(direction, question.v6());
    let groups = answers.groups(open, question);
    combine(direction, &nacl, &groups)
}

/// Whether nothing is remembered of this packet, and no layer but the network ACL has a say in it.
#[inline(always)]
pub const fn alone(control: Control, packet: &Packet) -> bool {
    control.0 & (Control::GROUPS | Control::STATEFUL) == 0 && matches!(packet.fragment, Fragment::None)
}

/// [`decide`] of a whole packet that nothing exempts and no rule was asked about before: where the network ACL is asked alone
/// and nothing is remembered, and where everything is.
#[inline(always)]
pub fn decide_alone(question: &Question, answers: &Answers) -> Verdict {
    decide(&[0; 4], question, 0, answers, &Shared::default())
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

/// Fifth step of [`judge`]: what a packet leaves behind that was let pass or not (`action`), and what the connection table
/// said of it. `found`: what is remembered, where `known` says so.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; what judging has found out so far")]
pub fn remember<S: Settle>(
    settle: &S,
    header: &Header,
    at: &At,
    direction: Direction,
    packet: &Packet,
    question: &Question,
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
    let groups = answers.groups(&header.open, question);
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
    touch(settle, header, at, direction, packet, &mut entry);
    (Write { kind, entry }, met)
}

/// What one more packet of a connection changes in its entry.
#[inline(always)]
fn touch<S: Settle>(
    settle: &S,
    timeouts: &impl Rest,
    at: &At,
    direction: Direction,
    packet: &Packet,
    entry: &mut Entry,
) {
    let state = flow::step(State::from_number(entry.state), entry.origin == direction as u8, packet);
    entry.state = settle.settle(state as u32) as u8;
    entry.expires = expires(settle, timeouts, at, entry.state);
}

/// All steps of [`judge`] in one, for a whole packet of a connection that every layer remembers which is on: no list is asked
/// then. Nothing where that is not so, or where an exemption may be meant. `found`: what is remembered under its key.
#[inline(always)]
pub fn running<S: Settle>(
    settle: &S,
    header: &impl Rest,
    at: &At,
    direction: Direction,
    packet: &Packet,
    found: &Entry,
) -> Option<Judged> {
    let control = at.control;
    let nacl = if !control.has(Control::NACL) {
        Answers::OFF
    } else if control.has(Control::STATEFUL) && found.nacl == 1 {
        Answers::REMEMBERED
    } else {
        return None;
    };
    let groups = if !control.has(Control::GROUPS) {
        Answers::OFF
    } else if found.group == 1 {
        Answers::REMEMBERED
    } else {
        return None;
    };
    if !matches!(packet.fragment, Fragment::None) || !flow::holds(found, packet, at.now) {
        return None;
    }
    let question = question(control, direction, packet);
    if question.exempt != 0 || header.may_be_exempt(&question) {
        return None;
    }
    let answers = Answers { exempt: 0, nacl, groups, asked_before: 0 };
    let verdict = decide_alone(&question, &answers);
    let mut entry = *found;
    touch(settle, header, at, direction, packet, &mut entry);
    let met = if found.origin == direction as u8 { Met::Forward } else { Met::Reply };
    Some(Judged { verdict, write: Write { kind: WriteKind::Touch, entry }, met })
}

#[inline(always)]
const fn slot_if(marked: bool, answer: u32) -> u16 {
    if marked { split(answer as u16).1 } else { NO_SLOT }
}

/// When a connection in this state is forgotten.
#[inline(always)]
fn expires<S: Settle>(settle: &S, timeouts: &impl Rest, at: &At, state: u8) -> u64 {
    let timeout = settle.settle(State::from_number(state).timeout() as u32) as usize;
    at.now.saturating_add(timeouts.timeout(timeout))
}

/// The remote and the local address. By masks: chosen by a branch, LLVM copies them by a call.
#[inline(always)]
pub(crate) const fn ends(direction: Direction, packet: &Packet) -> ([u64; 2], [u64; 2]) {
    let outbound = (direction as u64).wrapping_neg();
    let high = (packet.src[0] ^ packet.dst[0]) & outbound;
    let low = (packet.src[1] ^ packet.dst[1]) & outbound;
    ([packet.src[0] ^ high, packet.src[1] ^ low], [packet.dst[0] ^ high, packet.dst[1] ^ low])
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
fn exempt(control: Control, direction: Direction, packet: &Packet, kind: u32) -> Option<Reason> {
    if kind & kinds::MAY_BE_EXEMPT == 0 {
        return None;
    }
    if let Some(reason) = link_exempt(packet) {
        return Some(reason);
    }
    (control.has(Control::AWS) && is_dhcp(direction, packet)).then_some(Reason::Dhcp)
}

const NEIGHBOUR_DISCOVERY: u32 = Reason::NeighbourDiscovery as u32;
const MLD: u32 = Reason::Mld as u32;

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
