//! One layer of an interface alone: what its list says, whatever else lets packets pass or stops them.

use std::sync::Arc;

use nacl_common::{Action, Direction, Layer, Packet};

use crate::{
    compile::{Compiled, Decider, compile},
    policy::Example,
    resolve::{Interface, Layers, Mode, Nacl, Rule, Side, Subnet},
};

/// A network ACL as an interface has it, and nothing beside it: no security groups, no exemptions, no memory.
pub(super) struct View {
    /// Name of the interface in the policy, where there is one.
    pub name: Option<String>,
    /// The interface with that layer alone.
    pub interface: Interface,
    /// The same, compiled.
    pub compiled: Compiled,
    /// Whether the network ACL remembers what it let pass.
    pub stateful: bool,
    /// Whether security groups judge beside it.
    pub groups: bool,
    /// The layer.
    pub layer: Layer,
}

/// The interface with nothing that passes unjudged and nothing remembered.
pub(super) fn judged(interface: &Interface) -> Interface {
    Interface { aws: false, exemptions: Vec::new(), mode: Mode::Stateless, ..interface.clone() }
}

impl View {
    /// Of an interface; `None` where it cannot be compiled.
    pub fn of(name: &str, interface: &Interface) -> Option<Self> {
        let alone = Interface { groups: None, layers: Layers::Nacl, ..judged(interface) };
        Some(Self {
            name: Some(name.to_owned()),
            compiled: compile(&alone, None).ok()?,
            interface: alone,
            stateful: interface.mode == Mode::Stateful,
            groups: interface.groups.is_some() && interface.layers == Layers::Both,
            layer: Layer::Nacl,
        })
    }

    /// Of a network ACL that no interface here has.
    pub fn standing_alone(nacl: &Arc<Nacl>, subnet: Option<&Subnet>) -> Option<Self> {
        let subnet_cidrs = subnet.map(|subnet| subnet.cidrs.clone()).unwrap_or_default();
        let interface = Interface { subnet_cidrs, side: Side::Router, ..Interface::new(&nacl.name, Arc::clone(nacl)) };
        Some(Self { name: None, ..Self::of(&nacl.name, &interface)? })
    }

    /// What the list says of a packet.
    pub fn judge(&self, direction: Direction, packet: &Packet) -> (bool, Decider) {
        let verdict = self.compiled.judge(direction, packet);
        (verdict.action == Action::Allow, self.compiled.slots.decider(verdict.slot, verdict.reason))
    }

    /// A packet like this one to a port that people know, where the list takes both alike; itself where it has such a port or none of
    /// them is.
    pub fn usual(&self, direction: Direction, packet: &Packet) -> Packet {
        if packet.dport != 0 {
            return *packet;
        }
        let said = self.judge(direction, packet);
        let mut others = [443, 53, 22, 80, 8080].into_iter().map(|dport| Packet { dport, ..*packet });
        others.find(|other| self.judge(direction, other) == said).unwrap_or(*packet)
    }

    /// A packet and what the list says of it.
    pub fn example(&self, direction: Direction, packet: &Packet) -> Example {
        let (allow, by) = self.judge(direction, packet);
        Example {
            interface: self.name.clone(),
            layer: self.layer,
            direction,
            packet: *packet,
            allow,
            by: by.to_string(),
        }
    }

    /// The numbered rule that decides about a packet, where one does.
    pub fn rule(&self, direction: Direction, packet: &Packet) -> Option<&Rule> {
        match self.judge(direction, packet).1 {
            Decider::Nacl { number, .. } => self.rule_of(direction, number),
            _ => None,
        }
    }

    /// The rule of this number.
    pub fn rule_of(&self, direction: Direction, number: u16) -> Option<&Rule> {
        let rules = self.interface.nacl.rules(direction);
        // They stand in the order of their numbers, and every cell of a list asks.
        rules.binary_search_by_key(&number, |rule| rule.number).ok().map(|at| &rules[at])
    }
}
