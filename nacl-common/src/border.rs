//! The `#[repr(C)]` types that cross the border between kernel and user space, each with its size and lack of
//! padding asserted. Only shapes live here; what they mean to a packet is in `tables` and `evaluate`.

use crate::{
    evaluate::{Action, Direction, Hook, Layer, Verdict},
    packet::Quote,
    reason::Reason,
};

/// Bit 15 of a heap entry that leads to a further page, and of an address entry that leads to a node.
pub const LINK: u32 = 0x8000;
/// Bit 15 of a decision: set when it allows. The low fourteen bits are the rule slot.
pub const ALLOW: u16 = 0x8000;
/// Bit 14 of a decision. In a list of security group rules: the rule is open to every address of its family, so that its
/// flows may go untracked (S30). In a list of exemptions: it is a `failsafe` entry and not AWS's.
pub const OPEN: u16 = 0x4000;
/// Entries of one heap page.
pub const PAGE: usize = 256;

/// The L4 key space of one list: 256 pages each for TCP and UDP destination ports and ICMP type (code inside the
/// page), one page for the other protocols by number, one for non-first fragments by protocol.
pub mod l4 {
    /// First page of the TCP destination ports.
    pub const TCP: u32 = 0;
    /// First page of the UDP destination ports.
    pub const UDP: u32 = 256;
    /// First page of the ICMP types: ICMP in an IPv4 list, ICMPv6 in an IPv6 list.
    pub const ICMP: u32 = 512;
    /// The page of all other protocols, by number.
    pub const PROTOCOL: u32 = 768;
    /// The page of non-first fragments, by protocol number.
    pub const FRAGMENT: u32 = 769;
    /// Number of page numbers in an L4 index.
    pub const PAGES: u32 = 770;
}

/// Slots below this number have a fixed meaning; numbered rules start here.
pub const FIRST_RULE_SLOT: u16 = 16;
/// "No slot": the verdict belongs to no list (ARP, malformed and so on).
pub const NO_SLOT: u16 = 0x3fff;

/// The slot of the implied `*` rule of a direction and family (`v6`), which AWS counts as rules 32767 and 32768.
pub const fn implicit_slot(direction: Direction, v6: bool) -> u16 {
    (direction as u16) << 1 | v6 as u16
}

/// The slot of packets between two hosts of one subnet.
pub const fn same_subnet_slot(direction: Direction, v6: bool) -> u16 {
    4 | implicit_slot(direction, v6)
}

/// The slot of packets that no rule of any security group matched.
pub const fn group_implicit_slot(direction: Direction, v6: bool) -> u16 {
    8 | implicit_slot(direction, v6)
}

/// The slot of packets that passed because their connection is remembered.
pub const fn tracked_slot(direction: Direction, v6: bool) -> u16 {
    0xc | implicit_slot(direction, v6)
}

/// Where one ordered list (one direction, one family) lies in a generation. All fields are indexes, not bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// IPv4: heap index of 256 page numbers, by the address's first byte. IPv6: the first entry (class or node link).
    pub address: u32,
    /// Word index of the IPv6 nodes, [`NODE_WORDS`] each.
    pub nodes: u32,
    /// Heap index of [`l4::PAGES`] page numbers.
    pub l4: u32,
    /// [`List::TABLE`] or [`List::ROWS`].
    pub form: u32,
    /// `TABLE`: heap index of the decisions. `ROWS`: heap index of the decision of each rule, then of none.
    pub decisions: u32,
    /// `TABLE`: L4 classes, so the length of a row. `ROWS`: words of a row of rule bits.
    pub stride: u32,
    /// `ROWS`: word index of the address classes' rows.
    pub address_rows: u32,
    /// `ROWS`: word index of the L4 classes' rows.
    pub l4_rows: u32,
}

impl List {
    /// Decisions stand in a table, one for each pair of an address class and an L4 class.
    pub const TABLE: u32 = 0;
    /// Decisions are the first common bit of two rows of rule bits: for lists whose table would be too large.
    pub const ROWS: u32 = 1;
}

/// 64-bit words of one IPv6 address node: value high, value low, mask high, mask low, links, half, values, 0.
/// Links: bits 0 to 15 the entry when the masked address differs from the value, 16 to 21 the shift that brings the bits down
/// on which the node branches, 32 to 63 the heap index of the entries when it is equal. Half: all ones when those bits lie in the
/// low half of the address. Values: the mask of those bits once they are down. One node is one cache line.
pub const NODE_WORDS: u32 = 8;

/// Lists of a generation.
pub const LISTS: usize = 12;

/// What stands first in every generation: the lists, and what holds for all of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Of the network ACL by [`list_index`], of the security groups by [`group_index`], of exemptions by
    /// [`exempt_index`].
    pub lists: [List; LISTS],
    /// By [`list_index`]: bits [`OPEN_TCP`] and [`OPEN_UDP`] of the security groups' rules in that direction.
    pub open: [u32; 4],
    /// IPv4, then IPv6: a bit for each low byte that the remote address of an exemption can have. Nearly all packets are
    /// told by one read that no exemption is theirs.
    pub exempt: [[u64; 4]; 2],
    /// Idle time-outs in nanoseconds, by [`crate::flow::Timeout`].
    pub timeouts: [u64; crate::flow::TIMEOUTS],
}

/// Bit of [`Header::open`]: a rule is open to every address of the family on all TCP ports (S30).
pub const OPEN_TCP: u32 = 1;
/// Likewise, UDP.
pub const OPEN_UDP: u32 = 2;

/// Index of a list of the network ACL in a [`Header`].
pub const fn list_index(direction: Direction, v6: bool) -> usize {
    (direction as usize) << 1 | v6 as usize
}

/// Index of a list of the security groups.
pub const fn group_index(direction: Direction, v6: bool) -> usize {
    4 | list_index(direction, v6)
}

/// Which end of an exempt exchange the service is at: its port is on that end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Service {
    /// The remote end: outbound requests go to its port, inbound replies come from it.
    Remote = 0,
    /// This end: inbound requests go to its port, outbound replies come from it.
    Local = 1,
}

/// Index of a list of exemptions. Its L4 keys are the service's port, in both directions.
pub const fn exempt_index(service: Service, v6: bool) -> usize {
    8 | (service as usize) << 1 | v6 as usize
}

/// One compiled policy, immutable: the one value of the inner map of an array of maps, or boxed in user space.
/// `WORDS` and `HEAP` are powers of two, so that reads can be masked instead of checked.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Generation<const WORDS: usize, const HEAP: usize> {
    /// Where everything is.
    pub header: Header,
    /// IPv6 nodes and rows of rule bits.
    pub words: [u64; WORDS],
    /// Pages, L4 indexes and decision tables.
    pub heap: [u16; HEAP],
}

/// The tiers a generation comes in, smallest first; the compiler takes the first that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// 192 KiB: what AWS's quotas allow, with room.
    Small = 0,
    /// 2.5 MiB: hundreds of rules. Linux 5.10 takes map values of up to 4 MiB.
    Medium = 1,
    /// 12 MiB: a thousand adversarial rules in both directions as tables, several thousand as rows.
    Large = 2,
}

impl Tier {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// The tier of a number, if it is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Small),
            1 => Some(Self::Medium),
            2 => Some(Self::Large),
            _ => None,
        }
    }

    /// Bytes of one generation.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => size_of::<Small>(),
            Self::Medium => size_of::<Medium>(),
            Self::Large => size_of::<Large>(),
        }
    }
}

/// A generation of [`Tier::Small`].
pub type Small = Generation<{ 1 << 13 }, { 1 << 16 }>;
/// A generation of [`Tier::Medium`].
pub type Medium = Generation<{ 1 << 16 }, { 1 << 20 }>;
/// A generation of [`Tier::Large`].
pub type Large = Generation<{ 1 << 19 }, { 1 << 22 }>;

impl<const WORDS: usize, const HEAP: usize> Generation<WORDS, HEAP> {
    /// Words there are.
    pub const WORDS: usize = WORDS;
    /// Heap entries there are.
    pub const HEAP: usize = HEAP;
}

/// Generations an interface can hold at once (in each tier): the one in force, the next, and a fallback.
pub const GENERATIONS: u32 = 4;

/// The control word of an interface, read once per packet; storing it switches policy and settings at once.
///
/// Bits: 0 to 7 generation slot, 8 to 11 tier, 12 mode, 16 and 17 layers, 20 to 31 flags, 32 to 63 epoch.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control(pub u64);

impl Control {
    /// Mode: the network ACL remembers connections.
    pub const STATEFUL: u64 = 1 << 12;
    /// Layer: the network ACL judges.
    pub const NACL: u64 = 1 << 16;
    /// Layer: security groups judge.
    pub const GROUPS: u64 = 1 << 17;
    /// Flag: verdicts are carried out. Without it packets are judged and counted, and none is dropped.
    pub const ENFORCE: u64 = 1 << 20;
    /// Flag: this interface looks into the subnet, so frames it receives are outbound.
    pub const ROUTER: u64 = 1 << 21;
    /// Flag: frames that are neither IP nor ARP are dropped.
    pub const NON_IP_DROP: u64 = 1 << 22;
    /// Flag: dropped packets are reported as events.
    pub const EVENTS_DENIED: u64 = 1 << 23;
    /// Flag: passed packets are reported as events too. The next bit, so that an action is a shift.
    pub const EVENTS_ALLOWED: u64 = Self::EVENTS_DENIED << Action::Allow as u64;
    /// Flag: what AWS never filters passes unjudged (N43).
    pub const AWS: u64 = 1 << 25;
    /// Flag: nothing is remembered and nothing looked up; every packet is judged as the first of its flow.
    pub const FORGETFUL: u64 = 1 << 26;
    /// Flag: denied packets are written into the flow log.
    pub const LOGS_DENIED: u64 = 1 << 28;
    /// Flag: passed packets are, too. The next bit, so that an action is a shift.
    pub const LOGS_ALLOWED: u64 = Self::LOGS_DENIED << Action::Allow as u64;
    /// Flag: this change awaits confirmation. Another word and a deadline stand beside this one ([`Self::in_force`]).
    pub const PENDING: u64 = 1 << 27;
    /// Flag: of passed packets only those are reported that are looked for ([`Self::SOUGHT`]). It goes with [`Self::EVENTS_ALLOWED`], so
    /// a packet that passes unreported is not asked about it.
    pub const SEEKS: u64 = 1 << 30;

    /// The words of the map it stands in: itself, until when connections met in their middle are taken up, the word that
    /// holds from the deadline on, the deadline (nanoseconds of the kernel's coarse clock), and the requests that are looked for. The
    /// third and fourth mean nothing without [`Self::PENDING`], the last nothing without [`Self::SEEKS`]. What is written before it:
    /// all others.
    pub const WORDS: usize = Self::SOUGHT + Self::SOUGHT_AT_ONCE;
    /// Place of the time until which connections are taken up.
    pub const PICKUP: usize = 1;
    /// Place of the word that holds from the deadline on.
    pub const FALLBACK: usize = 2;
    /// Place of the deadline.
    pub const DEADLINE: usize = 3;
    /// Place of the first [`crate::flow::Sought`].
    pub const SOUGHT: usize = 4;
    /// How many there are; those that are not needed are 0, which is no packet's.
    pub const SOUGHT_AT_ONCE: usize = 4;

    /// A control word for one generation; `flags` are the constants above, or-ed, mode and layers with them.
    pub const fn new(slot: u8, tier: Tier, flags: u64, epoch: u32) -> Self {
        Self(slot as u64 | (tier as u64) << 8 | flags | (epoch as u64) << 32)
    }

    /// The word to judge by: this one, or the other where this one awaited confirmation and the deadline is over. The programs ask
    /// it for every packet, so a change that nobody confirms is undone also where no daemon is left to do it.
    #[inline(always)]
    #[must_use]
    pub const fn in_force(self, fallback: Self, deadline: u64, now: u64) -> Self {
        if self.has(Self::PENDING) && now >= deadline { fallback } else { self }
    }

    /// The same, awaiting no confirmation.
    #[must_use]
    pub const fn confirmed(self) -> Self {
        Self(self.0 & !Self::PENDING)
    }

    /// Which inner map is in force.
    pub const fn slot(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// Number of the tier in force.
    pub const fn tier(self) -> u32 {
        (self.0 >> 8 & 0xf) as u32
    }

    /// Number of the policy in force, counted up by every switch.
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether all the given flags are set.
    pub const fn has(self, flag: u64) -> bool {
        self.0 & flag == flag
    }

    /// 1 where verdicts with this number of an [`Action`] are reported, else 0. No comparison: which action comes next nobody
    /// can guess, least of all the processor.
    #[inline(always)]
    pub const fn reports(self, action: u64) -> u64 {
        self.0 >> Self::EVENTS_DENIED.trailing_zeros() >> (action & 1) & 1
    }

    /// 1 where verdicts with this number of an [`Action`] are written into the flow log, else 0.
    #[inline(always)]
    pub const fn logs(self, action: u64) -> u64 {
        self.0 >> Self::LOGS_DENIED.trailing_zeros() >> (action & 1) & 1
    }

    /// Not 0 where verdicts with this number of an [`Action`] are reported or logged: one question, so that who wants
    /// neither pays for one.
    #[inline(always)]
    pub const fn tells(self, action: u64) -> u64 {
        self.0 >> (action & 1) & (Self::EVENTS_DENIED | Self::LOGS_DENIED)
    }

    /// 1 where a packet is dropped for which this is the number of the [`Action`], else 0.
    #[inline(always)]
    pub const fn drops(self, action: u64) -> u64 {
        self.0 >> Self::ENFORCE.trailing_zeros() & !action & 1
    }

    /// What a frame at this hook is to the policy, given the side the interface stands on.
    pub const fn direction(self, hook: Hook) -> Direction {
        // Sums, because a comparison is a branch, which the kernel's verifier walks twice.
        match (hook as u64 ^ self.0 >> Self::ROUTER.trailing_zeros()) & 1 {
            0 => Direction::Inbound,
            _ => Direction::Outbound,
        }
    }
}

/// Packets and bytes (of whole Ethernet frames), per CPU. A GSO packet counts its segments.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// What a rule slot has met.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that the network ACL alone has judged, and packets of connections that every layer remembers: their reason
    /// ([`crate::evaluate::slot_reason`]) and direction follow from the slot, and are not counted by reason.
    pub alone: Counter,
    /// All others, which are.
    pub others: Counter,
}

/// A connection, as one interface sees it: the same for both directions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// The other end's address, high and low half; an IPv4 address stands in the low half.
    pub remote: [u64; 2],
    /// This end's address, likewise.
    pub local: [u64; 2],
    /// The other end's TCP or UDP port; the identifier of an ICMP echo; else 0.
    pub remote_port: u16,
    /// This end's port; of an ICMP echo 1 where this end asks; else 0.
    pub local_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Always 0.
    pub pad: u16,
}

/// What is remembered of a connection. `expires` and `state` are stored in place, each in one piece, whichever CPU
/// comes last; everything else changes only with the whole entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// When it is forgotten, unless it is met before; nanoseconds of the kernel's coarse clock.
    pub expires: u64,
    /// When it was made.
    pub started: u64,
    /// Epoch of the policy that admitted it.
    pub epoch: u32,
    /// Number of the [`crate::flow::State`].
    pub state: u8,
    /// Number of the [`Direction`] of its first packet.
    pub origin: u8,
    /// 1 once the network ACL has admitted it.
    pub nacl: u8,
    /// 1 once the security groups have admitted it by a rule whose flows are tracked.
    pub group: u8,
    /// Slot of the network ACL rule that admitted it, or [`NO_SLOT`].
    pub nacl_slot: u16,
    /// Slot of the security group rule that admitted it, or [`NO_SLOT`].
    pub group_slot: u16,
    /// Always 0.
    pub pad: u32,
}

/// An entry as the kernel's table keeps it. The kernel gives a deleted element to the next key at once, also while somebody
/// still reads it: then the tag is another's. It stands first because it is written first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// [`crate::flow::tag`] of the key.
    pub tag: u32,
    /// Which place of the ring holds the key, or [`Kept::NOWHERE`].
    pub place: u32,
    /// What is remembered.
    pub entry: Entry,
}

impl Kept {
    /// No place of the ring.
    pub const NOWHERE: u32 = u32::MAX;
}

/// A fragmented packet, in one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub src: [u64; 2],
    /// Destination address.
    pub dst: [u64; 2],
    /// Identification.
    pub ident: u32,
    /// IPv4: the protocol. IPv6, where a later fragment may not tell: 0.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Number of the [`Direction`].
    pub direction: u8,
    /// Always 0.
    pub pad: u8,
}

/// The verdict a first fragment shares with the later ones of its packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// When it is forgotten.
    pub expires: u64,
    /// Epoch of the policy that judged.
    pub epoch: u32,
    /// Slot of the rule that decided.
    pub slot: u16,
    /// Slot of the other layer.
    pub also: u16,
    /// Number of the [`Action`].
    pub action: u8,
    /// Number of the [`Layer`].
    pub layer: u8,
    /// Always 0.
    pub pad: [u8; 6],
}

/// What a flow log tells together: the packets of one 5-tuple, direction and action within a window (F3).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    /// Source address, high and low half; an IPv4 address stands in the low half.
    pub src: [u64; 2],
    /// Destination address, likewise.
    pub dst: [u64; 2],
    /// Source port of TCP and UDP, else 0 (F7).
    pub sport: u16,
    /// Destination port, likewise.
    pub dport: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6; 0 of [`Self::WINDOW`].
    pub family: u8,
    /// Number of the [`Direction`].
    pub direction: u8,
    /// Number of the [`Action`].
    pub action: u8,
}

impl LogKey {
    /// No packet's key: under it stands what is to be said of the window itself. `packets` and `bytes` are those that found no
    /// room, `first` is when it began. It is there from the beginning, so a full table has it too.
    pub const WINDOW: Self =
        Self { src: [0; 2], dst: [0; 2], sport: 0, dport: 0, protocol: 0, family: 0, direction: 0, action: 0 };
}

/// What a flow log tells of a [`LogKey`]. Written by all CPUs at once: `packets`, `bytes` and `tcp_flags` by atomic instructions,
/// the others each in one piece, whichever CPU comes last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// Packets; a GSO packet counts its segments.
    pub packets: u64,
    /// Bytes of IP packets, without what carries them (F8: four pings are 336).
    pub bytes: u64,
    /// When the first came, nanoseconds of the kernel's coarse clock.
    pub first: u64,
    /// When the last came.
    pub last: u64,
    /// What decided about the last: slot in bits 0 to 15, number of the reason in 16 to 23, of the layer in 24 to 31, epoch in
    /// 32 to 63.
    pub decided: u64,
    /// As of [`crate::flowlog::flags`], or-ed.
    pub tcp_flags: u64,
}

impl Logged {
    /// Slot of what decided about the last packet.
    pub const fn slot(&self) -> u16 {
        self.decided as u16
    }

    /// Number of the reason.
    pub const fn reason(&self) -> u8 {
        (self.decided >> 16) as u8
    }

    /// Number of the [`Layer`].
    pub const fn layer(&self) -> u8 {
        (self.decided >> 24) as u8
    }

    /// Epoch of the policy that judged.
    pub const fn epoch(&self) -> u32 {
        (self.decided >> 32) as u32
    }
}

/// One verdict, as the kernel reports it. Samples: the counters are the truth.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Kernel clock (`CLOCK_MONOTONIC_COARSE`), nanoseconds.
    pub time: u64,
    /// Source address, high and low half; an IPv4 address stands in the low half.
    pub src: [u64; 2],
    /// Destination address, likewise.
    pub dst: [u64; 2],
    /// Epoch of the policy that judged.
    pub epoch: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// Source port, where the protocol has ports.
    pub sport: u16,
    /// Destination port; for ICMP type in the high byte, code in the low.
    pub dport: u16,
    /// Rule slot or [`NO_SLOT`].
    pub slot: u16,
    /// Number of the [`crate::Reason`].
    pub reason: u8,
    /// Number of the [`crate::Action`] the policy asked for.
    pub action: u8,
    /// Number of the [`crate::Layer`].
    pub layer: u8,
    /// Number of the [`Direction`].
    pub direction: u8,
    /// 4 or 6; 0 when the packet was not parsed as IP.
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags byte.
    pub tcp_flags: u8,
    /// Number of the [`crate::Fragment`] kind.
    pub fragment: u8,
    /// 1 when the action was carried out, 0 in monitor mode.
    pub enforced: u8,
    /// Number of the [`crate::flow::Met`]: what the connection table said.
    pub flow: u8,
    /// Slot of the other layer that let the packet pass, or [`NO_SLOT`].
    pub also: u16,
    /// Always 0.
    pub pad: [u8; 6],
    /// Of a denied ICMP error: what it is about.
    pub quote: Quote,
}

impl Event {
    /// The verdict it reports; `None` where a number is none of ours.
    pub const fn verdict(&self) -> Option<Verdict> {
        let action = match self.action {
            0 => Action::Deny,
            1 => Action::Allow,
            _ => return None,
        };
        let layer = match self.layer {
            0 => Layer::None,
            1 => Layer::Nacl,
            2 => Layer::SecurityGroup,
            _ => return None,
        };
        match Reason::from_number(self.reason) {
            Some(reason) => Some(Verdict { action, reason, layer, slot: self.slot, also: self.also }),
            None => None,
        }
    }
}

/// Bytes of a [`Header`]: twelve lists, 16, 64, 64.
const HEADER: usize = 12 * 32 + 16 + 64 + 64;

const _: () = {
    // No two flags are one bit, and none is of the epoch.
    let flags = [
        Control::STATEFUL,
        Control::NACL,
        Control::GROUPS,
        Control::ENFORCE,
        Control::ROUTER,
        Control::NON_IP_DROP,
        Control::EVENTS_DENIED,
        Control::EVENTS_ALLOWED,
        Control::AWS,
        Control::FORGETFUL,
        Control::PENDING,
        Control::LOGS_DENIED,
        Control::LOGS_ALLOWED,
        Control::SEEKS,
    ];
    let mut all = 0;
    let mut at = 0;
    while at < flags.len() {
        assert!(all & flags[at] == 0 && flags[at] >> 32 == 0);
        all |= flags[at];
        at += 1;
    }
    assert!(size_of::<List>() == 32);
    assert!(size_of::<Header>() == HEADER);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<Counts>() == 32);
    assert!(size_of::<Control>() == 8);
    assert!(size_of::<Event>() == 96);
    assert!(size_of::<Quote>() == 24);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<Entry>() == 32);
    assert!(size_of::<Kept>() == 40);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<Shared>() == 24);
    assert!(size_of::<LogKey>() == 40);
    assert!(size_of::<Logged>() == 48);
    assert!(size_of::<Small>() == HEADER + (8 << 13) + (2 << 16));
    assert!(size_of::<Small>() <= 256 << 10);
    assert!(size_of::<Medium>() == HEADER + (8 << 16) + (2 << 20));
    assert!(size_of::<Medium>() <= 4 << 20);
    assert!(size_of::<Large>() == HEADER + (8 << 19) + (2 << 22));
};
