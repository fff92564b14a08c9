//! What the formats that make things have in common: names for objects, and a rule's numbers. Knows no format.

use std::collections::BTreeSet;

use crate::{
    inventory::{Because, Identity, Inventory, Link, NetworkAcl, Note, Place, Traffic},
    resolve::Protocol,
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Names that are given out once each.
#[derive(Debug, Default)]
pub struct Names {
    taken: BTreeSet<String>,
}

impl Names {
    /// Whether a name is given out.
    pub fn has(&self, name: &str) -> bool {
        self.taken.contains(name)
    }

    /// The first of `name`, `name` with 2, with 3, … that is free.
    pub fn unique(&mut self, name: &str, between: &str) -> String {
        let mut found = name.to_owned();
        let mut next = 2;
        while !self.taken.insert(found.clone()) {
            found = format!("{name}{between}{next}");
            next += 1;
        }
        found
    }
}

/// What a person would call an object.
pub fn best(identity: &Identity) -> &str {
    identity.names.first().or(identity.id.as_ref()).unwrap_or(&identity.key)
}

/// Protocol as security groups name it (S10): a name for four, a number for the others.
pub fn protocol(protocol: Protocol) -> String {
    match protocol {
        Protocol::All => "-1".to_owned(),
        Protocol::Number(TCP) => "tcp".to_owned(),
        Protocol::Number(UDP) => "udp".to_owned(),
        Protocol::Number(ICMP) => "icmp".to_owned(),
        Protocol::Number(ICMPV6) => "icmpv6".to_owned(),
        Protocol::Number(number) => number.to_string(),
    }
}

/// First and last port of a rule, or ICMP type and code (S14); `None` where the protocol has neither.
pub fn numbers(traffic: &Traffic) -> Option<(i32, i32)> {
    match traffic.protocol {
        Protocol::Number(TCP | UDP) => {
            let (first, last) = traffic.ports.unwrap_or((0, u16::MAX));
            Some((first.into(), last.into()))
        }
        Protocol::Number(ICMP | ICMPV6) => {
            let (kind, code) = traffic.icmp.unwrap_or((None, None));
            Some((kind.map_or(-1, i32::from), code.map_or(-1, i32::from)))
        }
        _ => None,
    }
}

/// Whether a rule's numbers are ICMP's.
pub const fn is_icmp(traffic: &Traffic) -> bool {
    matches!(traffic.protocol, Protocol::Number(ICMP | ICMPV6))
}

/// What subnets of a VPC have no other network ACL, and so have its default one (N14).
pub fn rest_of<'i>(inventory: &'i Inventory, default: &NetworkAcl) -> Vec<&'i Link> {
    let others = inventory.nacls.iter().filter(|acl| !acl.default);
    let taken: BTreeSet<&Link> = others.flat_map(|acl| &acl.subnets).map(|association| &association.subnet).collect();
    let own: BTreeSet<&Link> = default.subnets.iter().map(|association| &association.subnet).collect();
    let of_vpc = inventory.subnets.iter().filter(|subnet| {
        let key = &subnet.identity.key;
        own.contains(key) || subnet.vpc.is_some() && subnet.vpc == default.vpc && !taken.contains(key)
    });
    of_vpc.map(|subnet| &subnet.identity.key).collect()
}

/// A note without a sentence for each object: what a format has no place for.
pub fn summary(notes: &mut Vec<Note>, because: Because, message: impl Into<String>) {
    let place = Place { file: "".into(), path: String::new(), line: None };
    notes.push(Note { because, place, message: message.into() });
}
