//! What a rule is for, as far as its ports tell: to offer or reach a service, to let replies pass, or both.

use crate::{
    clients::Client,
    resolve::{Protocol, Rule},
};

/// What a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Ports of a service.
    Service,
    /// Ports that clients pick for themselves.
    Replies,
    /// So many that it can be either.
    Either,
}

/// A range that clients pick from has at least a third of some kind's ports. The ports of services that lie there, such as
/// 8000-8099 or Kubernetes' 30000-32767, have far less.
const SHARE: u32 = 3;

/// What these ports are for; `None`: all of them.
pub(super) fn role(ports: Option<(u16, u16)>) -> Role {
    let (first, last) = ports.unwrap_or((0, u16::MAX));
    let picked = Client::ALL.into_iter().any(|client| {
        let (from, to) = client.ports();
        let common = (u32::from(last.min(to)) + 1).saturating_sub(first.max(from).into());
        common * SHARE > u32::from(to - from)
    });
    match (picked, first) {
        (false, _) => Role::Service,
        (true, ..1024) => Role::Either,
        (true, _) => Role::Replies,
    }
}

/// Of a rule about TCP or UDP, or about every protocol.
pub(super) fn of_rule(rule: &Rule) -> Option<Role> {
    match rule.protocol {
        Protocol::All => Some(Role::Either),
        Protocol::Number(6 | 17) => Some(role(rule.ports)),
        Protocol::Number(_) => None,
    }
}

/// UDP ports whose senders do not wait for an answer at a port they picked: they send from a port of their own (DHCP, IKE, VXLAN), or
/// nobody answers them (traps, logs, flow records, counters).
pub(super) const UNANSWERED: [u16; 15] =
    [68, 162, 500, 514, 546, 1900, 2055, 4500, 4739, 4789, 5353, 6081, 6343, 8125, 8472];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_tell_what_they_are_for() {
        for ports in [(443, 443), (8000, 8099), (30000, 32767), (0, 1023), (3000, 3999), (60000, 61000)] {
            assert_eq!(role(Some(ports)), Role::Service, "{ports:?}");
        }
        for client in Client::ALL {
            assert_eq!(role(Some(client.ports())), Role::Replies, "{client:?}");
        }
        assert_eq!(role(Some((32768, 65535))), Role::Replies);
        for ports in [None, Some((0, 65535)), Some((443, 65535))] {
            assert_eq!(role(ports), Role::Either, "{ports:?}");
        }
    }
}
