//! From a parsed packet and a compiled policy to a verdict: what is exempt, what is judged, by which layer.
//! The look-up itself is in `tables`, the parsing in `packet`.

use crate::{
    border::{Control, FIRST_RULE_SLOT, NO_SLOT, list_index},
    packet::{Family, Fragment, Packet},
    reason::Reason,
    tables::{Image, decide, split},
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
}

impl Layer {
    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nacl => "nacl",
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
    /// The rule's slot, or [`NO_SLOT`].
    pub slot: u16,
}

impl Verdict {
    /// A verdict that no rule made.
    #[inline(always)]
    pub const fn without_rule(action: Action, reason: Reason) -> Self {
        Self { action, reason, layer: Layer::None, slot: NO_SLOT }
    }
}

/// Judges an IP packet that was parsed.
#[inline(always)]
pub fn judge<I: Image>(image: &I, direction: Direction, packet: &Packet) -> Verdict {
    if let Some(reason) = exempt(packet) {
        return Verdict::without_rule(Action::Allow, reason);
    }
    let list = image.list(list_index(direction, matches!(packet.family, Family::V6)));
    let remote = match direction {
        // N22: the CIDR of a rule is the source of inbound and the destination of outbound packets.
        Direction::Inbound => packet.src,
        Direction::Outbound => packet.dst,
    };
    let (allow, slot) = split(decide(image, list, packet, remote));
    let reason = if slot >= FIRST_RULE_SLOT {
        Reason::NaclRule
    } else if slot & 4 != 0 {
        Reason::SameSubnet
    } else {
        Reason::NaclImplicit
    };
    Verdict { action: if allow { Action::Allow } else { Action::Deny }, reason, layer: Layer::Nacl, slot }
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

/// What passes before any rule: without it IPv6 cannot find its neighbours (N51).
#[inline(always)]
fn exempt(packet: &Packet) -> Option<Reason> {
    if !matches!(packet.family, Family::V6) || packet.protocol != 58 || packet.fragment != Fragment::None {
        return None;
    }
    match (packet.dport >> 8, packet.hop_limit) {
        (133..=137, 255) => Some(Reason::NeighbourDiscovery),
        (130..=132 | 143, 1) => Some(Reason::Mld),
        _ => None,
    }
}
