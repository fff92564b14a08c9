//! Rules of security groups that never decide, that the network ACL cuts, or that open everything; and "packet too big", which
//! groups do not let in as the answer to anything (S40).

use std::collections::{BTreeMap, BTreeSet};

use nacl_common::{
    Control, Direction, Family, Fragment, Layer, Packet,
    border::{FIRST_RULE_SLOT, NO_SLOT},
    evaluate::At,
};

use super::{
    LABELS, list_of,
    services::{message_help, too_big},
    view::judged,
};
use crate::{
    analyze::sets::Space,
    compile::{Compiled, Decider, compile},
    policy::{Diagnostic, Example, codes, removal},
    resolve::{GroupRule, Interface, Layers, Peer, Protocol, Resolved},
};

/// A rule of a group: its group, its direction, and its place among the group's rules of that direction, from 1.
type Name = (String, Direction, u16);

/// What becomes of the packets that a rule lets pass, under all interfaces that have its group. Packets are examples.
#[derive(Default)]
struct Met {
    /// On some interface it decides.
    decides: bool,
    /// Rules that decide before it, each with a packet.
    taken: BTreeMap<Name, Example>,
    /// Some of what it decides passes the network ACL too.
    passes: bool,
    /// What the network ACL denies of it: what the group says, and what the network ACL says.
    cut: Option<[Example; 2]>,
}

/// An interface with everything judged, and nothing remembered.
struct Both<'p> {
    name: &'p str,
    interface: Interface,
    compiled: Compiled,
}

impl Both<'_> {
    /// What each layer says of a packet.
    fn says(&self, direction: Direction, packet: &Packet) -> BTreeMap<Layer, (bool, Decider)> {
        let at = At { control: Control(self.compiled.flags | Control::FORGETFUL), ..At::default() };
        let says = self.compiled.says(&at, direction, packet, None);
        let slots = &self.compiled.slots;
        says.into_iter().map(|(layer, says)| (layer, (says.allow, slots.decider(says.slot, says.reason)))).collect()
    }

    fn example(&self, direction: Direction, packet: &Packet, layer: Layer, (allow, by): &(bool, Decider)) -> Example {
        let interface = Some(self.name.to_owned());
        Example { interface, layer, direction, packet: *packet, allow: *allow, by: by.to_string() }
    }

    fn rule(&self, (group, direction, position): &Name) -> Option<&GroupRule> {
        let group = self.interface.groups.iter().flatten().find(|one| one.name == *group)?;
        group.rules(*direction).get(usize::from(*position).checked_sub(1)?)
    }
}

fn name(decider: &Decider) -> Option<Name> {
    match decider {
        Decider::Group { group, direction, position } => Some((group.clone(), *direction, *position)),
        _ => None,
    }
}

/// All groups of all interfaces.
pub(super) fn check(policy: &Resolved, found: &mut Vec<Diagnostic>) {
    let all: Vec<Both<'_>> = policy
        .interfaces
        .iter()
        .filter(|(_, interface)| interface.layers != Layers::Nacl && interface.groups.is_some())
        .filter_map(|(name, interface)| {
            let interface = judged(interface);
            Some(Both { name, compiled: compile(&interface, None).ok()?, interface })
        })
        .collect();
    let mut met: BTreeMap<Name, (Met, &GroupRule)> = BTreeMap::new();
    for both in &all {
        for direction in Direction::ALL {
            for family in [Family::V4, Family::V6] {
                meet(both, direction, family, &mut met);
            }
        }
    }
    let find = |name: &Name| all.iter().find_map(|both| both.rule(name));
    for (name, (met, rule)) in met.iter().filter(|(_, (_, rule))| rule.line > 0) {
        if !met.decides && !met.taken.is_empty() {
            found.push(never_decides(policy, name, rule, met, find));
        } else if let (false, Some(cut)) = (met.passes, &met.cut) {
            found.push(cut_by_nacl(name, rule, cut));
        }
    }
    let mut told: Vec<&GroupRule> = Vec::new();
    for both in &all {
        too_wide(both, &mut told, found);
        mtu(both, &mut told, found);
    }
}

/// Every cell of a space, and what both layers say of it.
fn meet<'b>(both: &'b Both<'_>, direction: Direction, family: Family, met: &mut BTreeMap<Name, (Met, &'b GroupRule)>) {
    let Ok(space) = Space::of(&[(&both.interface, &both.compiled)], direction, family) else { return };
    let slots = &both.compiled.slots;
    let named = |slot: u16| {
        let known = (FIRST_RULE_SLOT..NO_SLOT).contains(&slot).then(|| slots.slots.get(&slot)).flatten()?;
        Some((known.name.clone(), known.direction, known.position?))
    };
    for reach in space.reach(0).into_iter().filter(|reach| reach.layer == Layer::SecurityGroup) {
        let Some(own) = named(reach.slot) else { continue };
        let Some(rule) = both.rule(&own) else { continue };
        let (met, _) = met.entry(own).or_insert_with(|| (Met::default(), rule));
        met.decides |= reach.decides.is_some();
        for (slot, packet) in reach.taken {
            if let Some(other) = named(slot)
                && let Some(said) = both.says(direction, &packet).get(&Layer::SecurityGroup)
            {
                met.taken.entry(other).or_insert_with(|| both.example(direction, &packet, Layer::SecurityGroup, said));
            }
        }
    }
    for packet in space.cells().map(|cell| cell.packet).filter(|packet| packet.fragment != Fragment::Later) {
        let said = both.says(direction, &packet);
        let Some(group) = said.get(&Layer::SecurityGroup) else { continue };
        let Some((met, _)) = name(&group.1).and_then(|name| met.get_mut(&name)) else { continue };
        match said.get(&Layer::Nacl) {
            Some(nacl) if !nacl.0 => {
                if met.cut.is_none() {
                    met.cut = Some([
                        both.example(direction, &packet, Layer::SecurityGroup, group),
                        both.example(direction, &packet, Layer::Nacl, nacl),
                    ]);
                }
            }
            _ => met.passes = true,
        }
    }
}

fn never_decides<'p>(
    policy: &Resolved,
    name: &Name,
    rule: &GroupRule,
    met: &Met,
    find: impl Fn(&Name) -> Option<&'p GroupRule>,
) -> Diagnostic {
    let (group, direction, position) = name;
    let mut diagnostic = Diagnostic::new(
        &codes::NEVER_DECIDES,
        rule.span.clone(),
        format!("{} rule {position} of security group {group:?} never decides", direction.name()),
    )
    .at("other rules let all of it pass")
    .note("the rules of all groups are pooled, and the most permissive one that matches counts (S2, S30)");
    for other in met.taken.keys().take(LABELS) {
        if let Some(other) = find(other).filter(|other| other.line > 0) {
            diagnostic = diagnostic.and(other.span.clone(), "lets the same pass");
        }
    }
    // Another interface may have the group without the others.
    let same_group = met.taken.keys().all(|(other, ..)| other == group);
    let removed = removal(&policy.text, &rule.span).filter(|_| same_group);
    diagnostic = diagnostic.help(if same_group {
        "remove it, or the wider rule if that was not meant".to_owned()
    } else {
        let others: BTreeSet<_> = met.taken.keys().map(|(other, ..)| other).filter(|other| *other != group).collect();
        let others = list_of(&others.into_iter().map(|other| format!("{other:?}")).collect::<Vec<_>>());
        format!(
            "an interface with {group:?} and without {others} would need it; where there is none, it can be removed"
        )
    });
    if let Some(span) = removed {
        diagnostic = diagnostic.fix(span, "");
    }
    diagnostic.proved_by(met.taken.values().next().cloned())
}

fn cut_by_nacl((group, direction, position): &Name, rule: &GroupRule, cut: &[Example; 2]) -> Diagnostic {
    let list = direction.name();
    Diagnostic::new(
        &codes::CUT_BY_NACL,
        rule.span.clone(),
        format!(
            "{list} rule {position} of security group {group:?} lets nothing pass: the network ACL denies all of it"
        ),
    )
    .at("denied by the network ACL")
    .note("a packet must pass both layers (O4)")
    .help("allow it in the network ACL too, or remove the rule")
    .proved_by(cut.clone())
}

/// Open to everybody, as it is written.
fn is_open(rule: &GroupRule) -> bool {
    rule.line > 0 && matches!(rule.peer, Peer::Cidr(cidr) if cidr.prefix_len() == 0)
}

/// Rules of the interface's groups that are open to everybody, and what they let in.
fn open_rules<'b>(both: &'b Both<'_>, direction: Direction) -> Vec<(&'b GroupRule, Packet)> {
    let mut all: Vec<(&GroupRule, Packet)> = Vec::new();
    for family in [Family::V4, Family::V6] {
        let Ok(space) = Space::of(&[(&both.interface, &both.compiled)], direction, family) else { continue };
        for packet in space.cells().map(|cell| cell.packet) {
            if packet.protocol != 6 || packet.fragment == Fragment::Later {
                continue;
            }
            let said = both.says(direction, &packet);
            let decider = said.get(&Layer::SecurityGroup).and_then(|(_, by)| name(by));
            if let Some(rule) = decider.and_then(|name| both.rule(&name)).filter(|rule| is_open(rule))
                && !all.iter().any(|(other, _)| other.span == rule.span)
            {
                all.push((rule, packet));
            }
        }
    }
    all
}

/// An inbound rule that lets every port in, for everybody.
fn too_wide<'b>(both: &'b Both<'_>, told: &mut Vec<&'b GroupRule>, found: &mut Vec<Diagnostic>) {
    for (rule, packet) in open_rules(both, Direction::Inbound) {
        let all = rule.ports.is_none_or(|ports| ports == (0, u16::MAX));
        // Of a rule for every protocol it is said where it is written.
        if !all || rule.protocol != Protocol::Number(6) || told.iter().any(|other| other.span == rule.span) {
            continue;
        }
        told.push(rule);
        let packet = Packet { dport: 22, ..packet };
        let Some(said) = both.says(Direction::Inbound, &packet).remove(&Layer::SecurityGroup) else { continue };
        found.push(
            Diagnostic::new(
                &codes::TOO_WIDE,
                rule.span.clone(),
                "a security group lets everybody in, on every tcp port",
            )
            .at("every service here")
            .note("replies need no rule in a security group: it remembers (S28)")
            .help("name the ports of the services, and whom they are for")
            .proved_by([both.example(Direction::Inbound, &packet, Layer::SecurityGroup, &said)]),
        );
    }
}

fn mtu<'b>(both: &'b Both<'_>, told: &mut Vec<&'b GroupRule>, found: &mut Vec<Diagnostic>) {
    let mut served: BTreeMap<bool, (&GroupRule, Example)> = BTreeMap::new();
    for direction in Direction::ALL {
        for (rule, packet) in open_rules(both, direction) {
            let (remote, local) =
                if direction == Direction::Inbound { (packet.src, packet.dst) } else { (packet.dst, packet.src) };
            let message = too_big(&Packet { src: remote, dst: local, ..packet });
            let said = both.says(Direction::Inbound, &message);
            if let Some(denied) = said.get(&Layer::SecurityGroup).filter(|(allow, _)| !allow) {
                let example = || both.example(Direction::Inbound, &message, Layer::SecurityGroup, denied);
                served.entry(packet.family == Family::V6).or_insert_with(|| (rule, example()));
            }
        }
    }
    let Some((rule, _)) = served.values().next() else { return };
    if told.iter().any(|other| other.span == rule.span) {
        return;
    }
    told.push(rule);
    let mut diagnostic = Diagnostic::new(
        &codes::MTU_BLOCKED,
        rule.span.clone(),
        format!("the security groups of {} do not let \"packet too big\" in", both.name),
    )
    .at("over the internet, packets may be too big for a link")
    .note("routers say so by ICMP type 3 code 4, on IPv6 by ICMPv6 type 2, and a group takes neither for an answer (N47, S40)")
    .help(message_help(served.keys().copied()));
    for (rule, _) in served.values().skip(1) {
        diagnostic = diagnostic.and(rule.span.clone(), "on this family too");
    }
    found.push(diagnostic.proved_by(served.into_values().map(|(_, example)| example)));
}
