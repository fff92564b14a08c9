//! What a change of a policy does: the exact sets of first packets whose verdict changes, and the settings that differ.

use std::{cell::RefCell, collections::HashMap};

use nacl_common::{Action, Direction, Family, border::Service};
use serde_json::Value;
use thiserror::Error;

use super::{
    decided::{By, Decided},
    sets::{Mark, Rectangle, Space, unjudged},
};
use crate::{
    compile::{CompileError, Compiled, compile},
    policy,
    resolve::{Exemption, Interface, InterfaceError, OnExit, Protocol, Resolved, Side, Xdp},
};

/// How one policy differs from another.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Interfaces that only the old one has.
    pub only_old: Vec<String>,
    /// Interfaces that only the new one has.
    pub only_new: Vec<String>,
    /// Settings that are no interface's.
    pub settings: Vec<SettingChange>,
    /// Interfaces that both have.
    pub interfaces: Vec<InterfaceDifference>,
}

/// How an interface differs.
#[derive(Clone, Debug)]
pub struct InterfaceDifference {
    /// Its name in the policies.
    pub name: String,
    /// Whether connections are remembered in one of them: what passes because of that is not compared.
    pub remembers: bool,
    /// Whether something passes unjudged in both of them, which regions say nothing of.
    pub exempts: bool,
    /// What is set to something else.
    pub settings: Vec<SettingChange>,
    /// What becomes of packets.
    pub changes: Vec<Change>,
}

/// A setting with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    /// Its key in the policy, or what a person calls it.
    pub name: String,
    /// In the old policy.
    pub before: String,
    /// In the new one.
    pub after: String,
}

/// What changes for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// They are let pass now.
    Admitted,
    /// They are dropped now.
    Denied,
    /// Another rule decides, the same way.
    Rule,
}

/// Packets for which the same changes, by the same rules.
#[derive(Clone, Debug)]
pub struct Change {
    /// As the policy sees it.
    pub direction: Direction,
    /// Their family.
    pub family: Family,
    /// What changes.
    pub what: What,
    /// What decided before.
    pub before: Decided,
    /// What decides now.
    pub after: Decided,
    /// The packets.
    pub boxes: Vec<Rectangle>,
}

impl Difference {
    /// Whether the two policies do the same: verdicts, settings and interfaces. Rules that decide in the place of others
    /// count where they were asked for.
    pub fn is_empty(&self) -> bool {
        self.only_old.is_empty()
            && self.only_new.is_empty()
            && self.settings.is_empty()
            && self.interfaces.iter().all(|one| one.settings.is_empty() && one.changes.is_empty())
    }
}

/// Why two policies cannot be compared.
#[derive(Debug, Error)]
pub enum DiffError {
    /// Neither has the interface that was asked for.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// One cannot be enforced.
    #[error("{file}: interface {interface}: {error}")]
    Compile {
        /// The policy.
        file: String,
        /// The interface.
        interface: String,
        /// Why.
        error: Box<CompileError>,
    },
}

/// Compares two policies. `only`: this interface. `rules`: also where another rule decides the same.
///
/// # Errors
/// See [`DiffError`].
pub fn diff(old: &Resolved, new: &Resolved, only: Option<&str>, rules: bool) -> Result<Difference, DiffError> {
    let only = match only {
        None => None,
        Some(name) => Some(match (old.named_interface(Some(name)), new.named_interface(Some(name))) {
            (_, Ok((name, _))) | (Ok((name, _)), Err(_)) => name,
            (Err(_), Err(error)) => return Err(error.into()),
        }),
    };
    let asked = |name: &&String| only.is_none_or(|only| only == name.as_str());
    let lacks = |policy: &Resolved, other: &Resolved| -> Vec<String> {
        let names = policy.interfaces.keys().filter(asked);
        names.filter(|name| !other.interfaces.contains_key(*name)).cloned().collect()
    };
    let mut interfaces = Vec::new();
    for name in new.interfaces.keys().filter(asked) {
        let (Some(before), after) = (old.interfaces.get(name), &new.interfaces[name]) else { continue };
        let compiled = |policy: &Resolved, interface: &Interface| {
            compile(interface, None).map_err(|error| DiffError::Compile {
                file: policy.file.clone(),
                interface: name.clone(),
                error: Box::new(error),
            })
        };
        let (one, two) = (compiled(old, before)?, compiled(new, after)?);
        let changes = changes((before, &one), (after, &two), rules).map_err(|error| DiffError::Compile {
            file: new.file.clone(),
            interface: name.clone(),
            error: Box::new(error),
        })?;
        interfaces.push(InterfaceDifference {
            name: name.clone(),
            remembers: [before, after].iter().any(|interface| remembers(interface)),
            exempts: [before, after].iter().all(|interface| interface.aws || !interface.exemptions.is_empty()),
            settings: settings(before, after),
            changes,
        });
    }
    let mut settings = Vec::new();
    if only.is_none() {
        let name = |on_exit| if on_exit == OnExit::Detach { "detach" } else { "keep" };
        note(&mut settings, "on_exit", name(old.on_exit), name(new.on_exit));
    }
    Ok(Difference { only_old: lacks(old, new), only_new: lacks(new, old), settings, interfaces })
}

fn remembers(interface: &Interface) -> bool {
    use nacl_common::Control;
    let control = Control(crate::compile::flags(interface));
    control.has(Control::GROUPS) || control.has(Control::STATEFUL | Control::NACL)
}

/// What becomes of packets on one interface: of each direction and family, by what changes.
///
/// # Errors
/// See [`CompileError`].
pub fn changes(
    old: (&Interface, &Compiled),
    new: (&Interface, &Compiled),
    rules: bool,
) -> Result<Vec<Change>, CompileError> {
    let (before, after) = (old.1, new.1);
    // What is laid out in the kernel alike does alike; only what the rules are called may differ.
    if before.digest == after.digest && before.flags == after.flags && (!rules || before.slots == after.slots) {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    let same: RefCell<HashMap<(By, By), bool>> = RefCell::default();
    let same = |one: By, two: By| -> bool {
        *same.borrow_mut().entry((one, two)).or_insert_with(|| one.is_same(before, two, after))
    };
    for direction in Direction::ALL {
        for family in [Family::V4, Family::V6] {
            let space = Space::of(&[old, new], direction, family)?;
            let regions = space.regions(|_, verdicts| {
                let (one, two) = (verdicts[0], verdicts[1]);
                if unjudged(&one) && unjudged(&two) {
                    return Mark::Either;
                }
                match (one.action, two.action) {
                    // Named beside the layer that denies: what that layer says of the packet in the other policy.
                    (Action::Deny, Action::Allow) => {
                        Mark::In((What::Admitted, By::of(one), By::in_layer(two, one.layer)))
                    }
                    (Action::Allow, Action::Deny) => {
                        Mark::In((What::Denied, By::in_layer(one, two.layer), By::of(two)))
                    }
                    _ if !rules => Mark::Not,
                    _ => {
                        let pairs = [(Some(By::of(one)), Some(By::of(two))), (By::also(one), By::also(two))];
                        let other = pairs.into_iter().find_map(|pair| match pair {
                            (Some(one), Some(two)) => (!same(one, two)).then_some((one, two)),
                            _ => None,
                        });
                        other.map_or(Mark::Not, |(one, two)| Mark::In((What::Rule, one, two)))
                    }
                }
            });
            changes.extend(regions.into_iter().map(|region| {
                let (what, one, two) = region.label;
                let (before, after) = (one.decided(before), two.decided(after));
                Change { direction, family, what, before, after, boxes: region.boxes }
            }));
        }
    }
    changes.sort_by_key(|change| (change.direction, change.family, change.what));
    Ok(changes)
}

fn note(settings: &mut Vec<SettingChange>, name: &str, before: impl Into<String>, after: impl Into<String>) {
    let (before, after) = (before.into(), after.into());
    if before != after {
        settings.push(SettingChange { name: name.to_owned(), before, after });
    }
}

fn settings(old: &Interface, new: &Interface) -> Vec<SettingChange> {
    let mut settings = Vec::new();
    let mut setting = |name: &str, of: &dyn Fn(&Interface) -> String| note(&mut settings, name, of(old), of(new));
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    setting("device", &|one| one.name.clone());
    setting("netns", &|one| or_none(&one.netns));
    setting("mode", &|one| one.mode.name().to_owned());
    setting("layers", &|one| one.layers.name().to_owned());
    setting("enforce", &|one| one.enforce.to_string());
    setting("side", &|one| if one.side == Side::Host { "host" } else { "router" }.to_owned());
    setting("xdp", &|one| {
        match one.xdp {
            Xdp::Auto => "auto",
            Xdp::Native => "native",
            Xdp::Tc => "tc",
            Xdp::Generic => "generic",
        }
        .to_owned()
    });
    setting("non_ip", &|one| if one.drop_non_ip { "drop" } else { "pass" }.to_owned());
    setting("subnet", &|one| or_none(&one.subnet));
    setting("network ACL", &|one| one.nacl.name.clone());
    setting("security_groups", &|one| match &one.groups {
        None => "none".to_owned(),
        Some(groups) => format!("[{}]", groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ")),
    });
    setting("exemptions", &|one| if one.aws { "aws" } else { "none" }.to_owned());
    let lacks = |one: &Interface, other: &Interface| -> Vec<String> {
        one.exemptions
            .iter()
            .filter(|exemption| !other.exemptions.iter().any(|two| exempt_alike(exemption, two)))
            .map(exempted)
            .collect()
    };
    settings.extend(lacks(old, new).into_iter().map(|what| SettingChange {
        name: "passes unjudged".to_owned(),
        before: what,
        after: "no more".to_owned(),
    }));
    settings.extend(lacks(new, old).into_iter().map(|what| SettingChange {
        name: "passes unjudged".to_owned(),
        before: "not yet".to_owned(),
        after: what,
    }));
    // By their keys in the policy, so that a new one is not forgotten.
    let tracking = |one: &Interface| serde_json::to_value(one.tracking).unwrap_or_default();
    if let (Value::Object(before), Value::Object(after)) = (tracking(old), tracking(new)) {
        for (key, value) in &before {
            let new = after.get(key).unwrap_or(&Value::Null);
            note(&mut settings, &format!("tracking.{key}"), value.to_string(), new.to_string());
        }
    }
    settings
}

/// Whether two exemptions let the same pass; their lines may differ.
fn exempt_alike(one: &Exemption, two: &Exemption) -> bool {
    Exemption { line: 0, ..one.clone() } == Exemption { line: 0, ..two.clone() }
}

/// `failsafe tcp 22 from 192.0.2.0/24`.
fn exempted(exemption: &Exemption) -> String {
    let protocol = match exemption.protocol {
        Protocol::All => "all traffic".to_owned(),
        Protocol::Number(number) => policy::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned),
    };
    let ports = match exemption.ports {
        None => String::new(),
        Some((first, last)) if first == last => format!(" {first}"),
        Some((first, last)) => format!(" {first}-{last}"),
    };
    let way = if exemption.service == Service::Local { "from" } else { "to" };
    format!("{} {protocol}{ports} {way} {}", exemption.name, exemption.cidr)
}
