//! Rules of a network ACL that do nothing, or not what they say: shadowed ones, late denies, redundant ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use nacl_common::{Action, Direction, Family, Fragment, Packet, border::FIRST_RULE_SLOT};

use super::{LABELS, list_of, view::View};
use crate::{
    analyze::sets::Space,
    policy::{Diagnostic, Example, codes, removal},
    resolve::{Protocol, Rule},
};

/// What decides about a packet that a rule means too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Other {
    Rule(u16),
    /// The implied `*`.
    Star,
    /// Traffic inside the subnet never meets the list (N42).
    SameSubnet,
}

/// What becomes of the packets that a rule means, under every interface that has the list. Packets are examples; the number is
/// that of the view they are of.
#[derive(Default)]
struct Met {
    decides: Option<(usize, Packet)>,
    /// Likewise, and no later fragment: of those no port is seen, and a deny of a port takes all of them, which nobody means.
    whole: Option<(usize, Packet)>,
    taken: BTreeMap<Other, (usize, Packet)>,
    otherwise: BTreeSet<Other>,
}

/// Both lists of a network ACL, under all interfaces that have it.
/// `text`: of the policy.
pub(super) fn check(text: &str, views: &[View], found: &mut Vec<Diagnostic>) {
    let Some(view) = views.first() else { return };
    for direction in Direction::ALL {
        let rules = view.interface.nacl.rules(direction);
        if rules.iter().any(|rule| rule.line > 0) {
            List { text, views, direction, rules, met: met(views, direction) }.check(found);
        }
    }
}

fn met(views: &[View], direction: Direction) -> BTreeMap<u16, Met> {
    let mut all: BTreeMap<u16, Met> = BTreeMap::new();
    for (at, view) in views.iter().enumerate() {
        let slots = &view.compiled.slots.slots;
        let other = |slot: u16| match slots.get(&slot).and_then(|slot| slot.rule) {
            Some(number) => Other::Rule(number),
            // Of the fixed ones a list of a network ACL has two.
            None if slot < FIRST_RULE_SLOT && slot & 4 != 0 => Other::SameSubnet,
            None => Other::Star,
        };
        for family in [Family::V4, Family::V6] {
            let own = view.interface.nacl.rules(direction).iter();
            if !own.clone().any(|rule| rule.cidr.addr().is_ipv6() == (family == Family::V6)) {
                continue;
            }
            let Ok(space) = Space::of(&[(&view.interface, &view.compiled)], direction, family) else { continue };
            for reach in space.reach(0) {
                let Other::Rule(number) = other(reach.slot) else { continue };
                let met = all.entry(number).or_default();
                if let Some(packet) = reach.decides {
                    met.decides.get_or_insert((at, packet));
                    if packet.fragment != Fragment::Later {
                        met.whole.get_or_insert((at, packet));
                    }
                }
                for (slot, packet) in reach.taken {
                    met.taken.entry(other(slot)).or_insert((at, packet));
                }
                met.otherwise.extend(reach.otherwise.into_keys().map(other));
            }
        }
    }
    all
}

struct List<'v> {
    text: &'v str,
    views: &'v [View],
    direction: Direction,
    /// Ascending by number.
    rules: &'v [Rule],
    met: BTreeMap<u16, Met>,
}

impl List<'_> {
    fn rule(&self, number: u16) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.number == number)
    }

    fn action(&self, other: Other) -> Action {
        match other {
            Other::Rule(number) => self.rule(number).map_or(Action::Deny, |rule| rule.action),
            Other::Star => Action::Deny,
            Other::SameSubnet => Action::Allow,
        }
    }

    fn check(&self, found: &mut Vec<Diagnostic>) {
        let (mut removed, mut late) = (BTreeSet::new(), BTreeSet::new());
        for rule in self.rules.iter().filter(|rule| rule.line > 0) {
            let Some(met) = self.met.get(&rule.number) else { continue };
            let denies = rule.action == Action::Deny;
            if met.decides.is_none() || denies && met.whole.is_none() {
                match self.shadowed(rule, met, found) {
                    Some(true) => removed.extend([rule.number]),
                    Some(false) => late.extend([rule.number]),
                    None => {}
                }
            } else if denies {
                self.cut(rule, met, found);
            }
        }
        self.redundant(removed, &late, found);
    }

    /// Rules before it take every packet. Whether it is proposed to remove the rule; `None`: there are no such rules.
    fn shadowed(&self, rule: &Rule, met: &Met, found: &mut Vec<Diagnostic>) -> Option<bool> {
        let takers: Vec<_> = met
            .taken
            .iter()
            .filter_map(|(other, example)| match other {
                Other::Rule(number) => Some((self.rule(*number)?, *example)),
                _ => None,
            })
            .filter(|(_, (_, packet))| met.decides.is_none() || packet.fragment != Fragment::Later)
            .collect();
        // Only traffic inside the subnet: that is said of what is written there.
        let (_, example) = takers.first().copied()?;
        let contrary: Vec<_> = takers.iter().filter(|(taker, _)| taker.action != rule.action).collect();
        let number = rule.number;
        let by = list_of(&takers.iter().map(|(taker, _)| taker.number.to_string()).collect::<Vec<_>>());
        let by = format!("{} {by}", if takers.len() == 1 { "rule" } else { "rules" });
        let direction = self.direction.name();
        let late = rule.action == Action::Deny && !contrary.is_empty();
        let example = contrary.first().map_or(example, |(_, example)| *example);
        let mut diagnostic = if late {
            Diagnostic::new(
                &codes::DENY_TOO_LATE,
                rule.span.clone(),
                format!("{direction} rule {number} denies too late: it can never match"),
            )
            .at(format!("everything it means is decided by {by} before"))
            .note("the lowest number decides, and a deny wins only by standing first (N6, N48)")
            .help(self.earlier(rule, contrary.iter().map(|(taker, _)| taker.number)))
        } else {
            Diagnostic::new(
                &codes::NEVER_MATCHES,
                rule.span.clone(),
                format!("{direction} rule {number} can never match"),
            )
            .at(format!("everything it means is decided by {by} before"))
            .note("the lowest number decides, and nothing behind it is looked at (N6)")
        };
        for (taker, _) in takers.iter().take(LABELS) {
            let does = match (taker.action, taker.action == rule.action) {
                (Action::Allow, true) => "allowed here already",
                (Action::Deny, true) => "denied here already",
                (Action::Allow, false) => "allowed here before",
                (Action::Deny, false) => "denied here before",
            };
            diagnostic = diagnostic.and(taker.span.clone(), does);
        }
        // A rule that says something else was meant to do something: that is for its author to mend.
        let same = contrary.is_empty() && met.decides.is_none();
        if same {
            diagnostic = diagnostic.help("remove it: no verdict changes");
            if let Some(span) = self.removal(rule) {
                diagnostic = diagnostic.fix(span, "");
            }
        } else if !late {
            diagnostic = diagnostic.help(self.earlier(rule, contrary.iter().map(|(taker, _)| taker.number)));
        }
        found.push(diagnostic.proved_by([self.example(example)]));
        Some(same)
    }

    /// An allow that is no exception lets through some of what a deny means.
    fn cut(&self, rule: &Rule, met: &Met, found: &mut Vec<Diagnostic>) {
        let cutters: Vec<_> = met
            .taken
            .iter()
            .filter_map(|(other, example)| match other {
                Other::Rule(number) => Some((self.rule(*number)?, *example)),
                _ => None,
            })
            // Of later fragments no port is seen, and a deny takes all of them: nobody means those.
            .filter(|(_, (_, packet))| packet.fragment != Fragment::Later)
            .filter(|(other, _)| other.line > 0 && other.action == Action::Allow && !lies_inside(other, rule))
            .collect();
        let Some((_, example)) = cutters.first().copied() else { return };
        let by: Vec<_> = cutters.iter().map(|(cutter, _)| cutter.number.to_string()).collect();
        let mut diagnostic = Diagnostic::new(
            &codes::DENY_CUT,
            rule.span.clone(),
            format!(
                "{} rule {} denies less than it says: {} {} lets some of it pass before",
                self.direction.name(),
                rule.number,
                if by.len() == 1 { "rule" } else { "rules" },
                list_of(&by)
            ),
        )
        .at("this comes too late for some packets")
        .note("the lowest number decides; narrow denies belong before wide allows (N6, N48)")
        .help(self.earlier(rule, cutters.iter().map(|(cutter, _)| cutter.number)));
        for (cutter, _) in cutters.iter().take(LABELS) {
            diagnostic = diagnostic.and(cutter.span.clone(), "allowed here before");
        }
        found.push(diagnostic.proved_by([self.example(example)]));
    }

    /// Rules without which no packet has another verdict. Those that are proposed to be removed can be removed together. `late`: what
    /// was to do something, and stands in the wrong place.
    fn redundant(&self, mut removed: BTreeSet<u16>, late: &BTreeSet<u16>, found: &mut Vec<Diagnostic>) {
        let mut needed: BTreeSet<u16> = BTreeSet::new();
        for rule in self.rules.iter().filter(|rule| rule.line > 0) {
            let Some(Met { decides: Some(decides), whole, otherwise, .. }) = self.met.get(&rule.number) else {
                continue;
            };
            let others: BTreeSet<u16> = otherwise
                .iter()
                .filter_map(|other| if let Other::Rule(number) = other { Some(*number) } else { None })
                .collect();
            let same = otherwise.iter().all(|other| self.action(*other) == rule.action);
            if !same || late.contains(&rule.number) || !others.is_disjoint(&removed) || needed.contains(&rule.number) {
                continue;
            }
            removed.insert(rule.number);
            needed.extend(&others);
            let mut by: Vec<_> = others.iter().map(|number| format!("rule {number}")).collect();
            if otherwise.contains(&Other::Star) {
                by.push("`*`".to_owned());
            }
            let verb = if by.len() == 1 { "says" } else { "say" };
            let mut diagnostic = Diagnostic::new(
                &codes::REDUNDANT,
                rule.span.clone(),
                format!(
                    "{} rule {} changes nothing: {} {verb} the same of all it decides",
                    self.direction.name(),
                    rule.number,
                    list_of(&by)
                ),
            )
            .at("without it every packet has the same verdict");
            for number in others.iter().take(LABELS) {
                if let Some(other) = self.rule(*number) {
                    diagnostic = diagnostic.and(other.span.clone(), "this would decide instead");
                }
            }
            diagnostic = diagnostic.help("remove it, or keep it for its counter");
            if let Some(span) = self.removal(rule) {
                diagnostic = diagnostic.fix(span, "");
            }
            found.push(diagnostic.proved_by([self.example(whole.unwrap_or(*decides))]));
        }
    }

    /// What to do about a rule that stands behind others.
    fn earlier(&self, rule: &Rule, others: impl Iterator<Item = u16>) -> String {
        let first = others.min().unwrap_or(rule.number);
        match free(self.rules, first) {
            Some(number) => format!("give it a number below {first}, such as {number}"),
            None => format!("make room below {first}: no number is free there"),
        }
    }

    fn removal(&self, rule: &Rule) -> Option<Range<usize>> {
        removal(self.text, &rule.span)
    }

    fn example(&self, (view, packet): (usize, Packet)) -> Example {
        self.views[view].example(self.direction, &packet)
    }
}

/// A free number below one, as a person would take it: the next multiple of ten where there is one before the rule that stands
/// before.
fn free(rules: &[Rule], below: u16) -> Option<u16> {
    let taken = |number: &u16| rules.iter().any(|rule| rule.number == *number);
    let before = rules.iter().map(|rule| rule.number).filter(|number| *number < below).max().unwrap_or(0);
    let tens = (before + 1..below).rev().find(|number| number.is_multiple_of(10));
    tens.or_else(|| (1..below).rev().find(|number| !taken(number)))
}

/// Whether all that one rule means another means too.
fn lies_inside(inner: &Rule, outer: &Rule) -> bool {
    let ports = |rule: &Rule| rule.ports.unwrap_or((0, u16::MAX));
    let service = match (inner.protocol, outer.protocol) {
        (_, Protocol::All) => true,
        (inner_protocol, outer_protocol) if inner_protocol == outer_protocol => {
            let ((first, last), (from, to)) = (ports(inner), ports(outer));
            let icmp = outer.icmp.is_none_or(|outer| {
                inner
                    .icmp
                    .is_some_and(|inner| inner.kind == outer.kind && (outer.code.is_none() || inner.code == outer.code))
            });
            from <= first && last <= to && icmp
        }
        _ => false,
    };
    service && outer.cidr.contains(&inner.cidr)
}
