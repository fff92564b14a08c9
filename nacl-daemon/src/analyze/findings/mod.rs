//! What the rules of a policy come to, as diagnostics: rules that do nothing, replies that reach nobody, what was left half open.
//! Each is asked of the engine over all packets there can be, and has packets that prove it. What is said is about rules that
//! people wrote; AWS's own are taken as they are. What stands in the text wrongly is `policy`'s to say.
//!
//! A finding is for who reads it: nothing is said here that a sensible policy earns by being sensible.

mod groups;
mod lists;
mod returns;
mod role;
mod services;
mod shares;
mod view;

use std::{collections::BTreeMap, sync::Arc};

use nacl_common::Direction;

use self::view::View;
use crate::{
    policy::Diagnostic,
    resolve::{Group, Layers, Nacl, Resolved},
};

/// Everything that is found in a policy, in no order. Interfaces that cannot be compiled are left out: why is said elsewhere.
pub fn findings(policy: &Resolved) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for views in views(policy).values() {
        lists::check(&policy.text, views, &mut found);
        if let Some(view) = views.first() {
            returns::check(view, &mut found);
            services::check(view, &mut found);
        }
    }
    groups::check(policy, &mut found);
    found
}

/// As [`findings`], where they are no more work than this; `None` where they are. Work is counted in cells: prefixes times rules, of
/// every list as often as it is looked at.
pub fn findings_within(policy: &Resolved, work: usize) -> Option<Vec<Diagnostic>> {
    let square = |rules: usize, prefixes: usize| rules.saturating_mul(prefixes);
    let of_nacl = |nacl: &Nacl| Direction::ALL.map(|direction| nacl.rules(direction).len()).map(|all| square(all, all));
    let of_groups = |groups: &[Arc<Group>]| {
        Direction::ALL.map(|direction| {
            let rules = groups.iter().flat_map(|group| group.rules(direction));
            square(rules.clone().count(), rules.map(|rule| rule.cidrs.len()).sum())
        })
    };
    let nacls = policy.nacls.values().map(|nacl| of_nacl(nacl));
    let interfaces = policy.interfaces.values().flat_map(|interface| {
        [of_nacl(&interface.nacl), interface.groups.as_deref().map(of_groups).unwrap_or_default()]
    });
    let all = nacls.chain(interfaces).flatten().fold(0, usize::saturating_add);
    (all <= work).then(|| findings(policy))
}

/// Of [`findings`] those about the way back, N005 to N010, each with the name of its network ACL.
pub fn broken_returns(policy: &Resolved) -> Vec<(String, Diagnostic)> {
    let mut all = Vec::new();
    for (nacl, views) in views(policy) {
        let mut found = Vec::new();
        if let Some(view) = views.first() {
            returns::check(view, &mut found);
        }
        all.extend(found.into_iter().map(|diagnostic| (nacl.to_owned(), diagnostic)));
    }
    all
}

/// Every network ACL, by its name, as it is met: at each interface that has it, else standing alone.
fn views(policy: &Resolved) -> BTreeMap<&str, Vec<View>> {
    let mut by_nacl: BTreeMap<&str, Vec<View>> = BTreeMap::new();
    for (name, interface) in policy.interfaces.iter().filter(|(_, interface)| interface.layers != Layers::Groups) {
        let views = by_nacl.entry(&interface.nacl.name).or_default();
        let seen = |view: &View| view.interface.subnet_cidrs == interface.subnet_cidrs;
        if !views.iter().any(seen) {
            views.extend(View::of(name, interface));
        }
    }
    for nacl in policy.nacls.values().filter(|nacl| !policy.interfaces.values().any(|one| one.nacl.name == nacl.name)) {
        let subnet = policy.subnets.values().find(|subnet| subnet.nacl == nacl.name);
        by_nacl.entry(&nacl.name).or_default().extend(View::standing_alone(nacl, subnet));
    }
    by_nacl
}

/// `1 and 2`, `1, 2 and 3`; of many the first ones.
fn list_of(items: &[String]) -> String {
    const SHOWN: usize = 5;
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] if items.len() <= SHOWN => format!("{} and {last}", most.join(", ")),
        _ => format!("{} and {} more", items[..SHOWN - 1].join(", "), items.len() - SHOWN + 1),
    }
}

/// Labels at most: a finding about a hundred rules names the first ones.
const LABELS: usize = 5;
