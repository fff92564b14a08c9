//! What a change of a policy does: the exact sets of first packets whose verdict changes, and the settings that differ.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family, border::Service};
use serde_json::Value;
use thiserror::Error;

use super::{
    broken_returns,
    decided::{By, Decided},
    sets::{Mark, Rectangle, Space, unjudged},
};
use crate::{
    compile::{CompileError, Compiled, compile},
    policy::{self, Diagnostic},
    resolve::{Exemption, Interface, InterfaceError, OnExit, Protocol, Resolved, Side, Xdp, place},
};

/// How one policy differs from another.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Places that only the old one has.
    pub only_old: Vec<String>,
    /// Places that only the new one has.
    pub only_new: Vec<String>,
    /// Settings that are no interface's.
    pub settings: Vec<SettingChange>,
    /// Places that both have: interfaces, or where a policy has none each network ACL and each security group standing alone,
    /// each subnet that has another network ACL, and each interface elsewhere that has another subnet or other groups.
    pub interfaces: Vec<InterfaceDifference>,
    /// Whether objects were compared and no interfaces, because one of the policies has none.
    pub standing_alone: bool,
    /// Replies that the old one lets pass and the new one does not, as far as its rules tell.
    pub replies: Vec<BrokenReply>,
}

/// Requests that get no answer any more, or not all of them.
#[derive(Clone, Debug)]
pub struct BrokenReply {
    /// The network ACL.
    pub nacl: String,
    /// What is found, of which the old policy had nothing alike.
    pub finding: Diagnostic,
}

/// How an interface differs.
#[derive(Clone, Debug)]
pub struct InterfaceDifference {
    /// What it is called, in the new policy where that differs.
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
            && self.interfaces.iter().all(InterfaceDifference::is_same)
    }
}

impl InterfaceDifference {
    /// Whether nothing differs.
    pub const fn is_same(&self) -> bool {
        self.settings.is_empty() && self.changes.is_empty()
    }
}

/// Why two policies cannot be compared.
#[derive(Debug, Error)]
pub enum DiffError {
    /// Neither has the place that was asked for.
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

/// Compares two policies. `only`: this place, as [`Resolved::named_interface`] takes it. `rules`: also where another rule decides
/// the same.
///
/// # Errors
/// See [`DiffError`].
pub fn diff(old: &Resolved, new: &Resolved, only: Option<&str>, rules: bool) -> Result<Difference, DiffError> {
    let places = Places::of(old, new, only)?;
    let mut interfaces = Vec::new();
    for Both { name, before, after, settings } in places.both {
        let compiled = |policy: &Resolved, interface: &Interface| {
            compile(interface, None).map_err(|error| DiffError::Compile {
                file: policy.file.clone(),
                interface: name.clone(),
                error: Box::new(error),
            })
        };
        let (one, two) = (compiled(old, &before)?, compiled(new, &after)?);
        let changes = changes((&before, &one), (&after, &two), rules).map_err(|error| DiffError::Compile {
            file: new.file.clone(),
            interface: name.clone(),
            error: Box::new(error),
        })?;
        interfaces.push(InterfaceDifference {
            remembers: [&before, &after].iter().any(|interface| remembers(interface)),
            exempts: [&before, &after].iter().all(|interface| interface.aws || !interface.exemptions.is_empty()),
            name,
            settings,
            changes,
        });
    }
    let mut settings = Vec::new();
    if only.is_none() {
        let name = |on_exit| if on_exit == OnExit::Detach { "detach" } else { "keep" };
        note(&mut settings, "on_exit", name(old.on_exit), name(new.on_exit));
    }
    Ok(Difference {
        only_old: places.only_old,
        only_new: places.only_new,
        settings,
        interfaces,
        standing_alone: places.standing_alone,
        replies: replies(old, new, places.nacl.as_deref()),
    })
}

/// A place of both policies.
struct Both<'p> {
    name: String,
    before: Cow<'p, Interface>,
    after: Cow<'p, Interface>,
    settings: Vec<SettingChange>,
}

/// What there is to compare.
#[derive(Default)]
struct Places<'p> {
    only_old: Vec<String>,
    only_new: Vec<String>,
    both: Vec<Both<'p>>,
    standing_alone: bool,
    /// Of one place: its network ACL.
    nacl: Option<String>,
}

impl<'p> Places<'p> {
    fn of(old: &'p Resolved, new: &'p Resolved, only: Option<&str>) -> Result<Self, InterfaceError> {
        let mut places = Places::default();
        if let Some(only) = only {
            match (old.named_interface(Some(only)), new.named_interface(Some(only))) {
                (Ok(before), Ok(after)) => {
                    places.nacl = Some(after.interface.nacl.name.clone());
                    places.interface(after.name.into_owned(), before.interface, after.interface);
                }
                (Err(_), Ok(after)) => places.only_new.push(after.name.into_owned()),
                (Ok(before), Err(_)) => places.only_old.push(before.name.into_owned()),
                (Err(_), Err(error)) => return Err(error),
            }
            return Ok(places);
        }
        let lacks = |policy: &Resolved, other: &Resolved| -> Vec<String> {
            policy.interfaces.keys().filter(|name| !other.interfaces.contains_key(*name)).cloned().collect()
        };
        (places.only_old, places.only_new) = (lacks(old, new), lacks(new, old));
        for (name, after) in &new.interfaces {
            if let Some(before) = old.interfaces.get(name) {
                places.interface(name.clone(), Cow::Borrowed(before), Cow::Borrowed(after));
            }
        }
        if old.interfaces.is_empty() || new.interfaces.is_empty() {
            places.standing_alone = true;
            places.objects(old, new);
        }
        Ok(places)
    }

    fn interface(&mut self, name: String, before: Cow<'p, Interface>, after: Cow<'p, Interface>) {
        let settings = settings(&before, &after);
        self.both.push(Both { name, before, after, settings });
    }

    /// What rules stand in, and who has which of them.
    fn objects(&mut self, old: &'p Resolved, new: &'p Resolved) {
        let (before, after) = (old.standing_alone(), new.standing_alone());
        let nacls = matched(&old.nacls, &new.nacls, |nacl| nacl.id.as_deref());
        let groups = matched(&old.groups, &new.groups, |group| group.id.as_deref());
        for (kind, pairs) in [(place::Kind::Nacl, &nacls), (place::Kind::Group, &groups)] {
            for pair in pairs {
                let mut settings = Vec::new();
                match pair {
                    (Some(one), Some(two)) => {
                        note(&mut settings, "name", *one, *two);
                        let name = kind.of(two);
                        let (before, after) = (&before[&kind.of(one)], &after[&name]);
                        let [before, after] = [before, after].map(|interface| Cow::Owned(interface.clone()));
                        self.both.push(Both { name, before, after, settings });
                    }
                    (Some(one), None) => self.only_old.push(kind.of(one)),
                    (None, Some(two)) => self.only_new.push(kind.of(two)),
                    (None, None) => {}
                }
            }
        }
        // The same objects, whatever they are called in either.
        let renamed = |pairs: &[Pair<'_>]| -> BTreeMap<String, String> {
            let both = pairs.iter().filter_map(|pair| pair.0.zip(pair.1));
            both.map(|(one, two)| (one.to_owned(), two.to_owned())).collect()
        };
        let now =
            |names: &BTreeMap<String, String>, name: &str| names.get(name).map_or(name, String::as_str).to_owned();
        let (nacls, groups) = (renamed(&nacls), renamed(&groups));
        let subnets = matched(&old.subnets, &new.subnets, |subnet| subnet.id.as_deref());
        for (one, two) in subnets.iter().filter_map(|pair| pair.0.zip(pair.1)) {
            let (before, after) = (&old.subnets[one], &new.subnets[two]);
            let mut settings = Vec::new();
            note(&mut settings, "name", one, two);
            note(&mut settings, "network ACL", now(&nacls, &before.nacl), after.nacl.clone());
            let cidrs = |cidrs: &[IpNet]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            note(&mut settings, "cidrs", cidrs(&before.cidrs), cidrs(&after.cidrs));
            let name = place::Kind::Subnet.of(two);
            if !settings.is_empty()
                && let (Some(before), Some(after)) = (old.in_subnet(&name, before), new.in_subnet(&name, after))
            {
                self.both.push(Both { name, before: Cow::Owned(before), after: Cow::Owned(after), settings });
            }
        }
        let subnets = renamed(&subnets);
        let ids = |policy: &Resolved| -> BTreeMap<String, Option<String>> {
            let written = policy.written.enis.iter();
            written.map(|(name, eni)| (name.clone(), eni.aws.id.clone())).collect()
        };
        let (before, after) = (ids(old), ids(new));
        for (one, two) in matched(&before, &after, Option::as_deref).into_iter().filter_map(|pair| pair.0.zip(pair.1)) {
            let (Some(before), Some(after)) = (old.enis.get(one), new.enis.get(two)) else { continue };
            let mut settings = Vec::new();
            note(&mut settings, "name", one, two);
            let subnet = |subnet: Option<&String>| subnet.map_or_else(|| "none".to_owned(), Clone::clone);
            let was = before.subnet.as_ref().map(|name| now(&subnets, name));
            note(&mut settings, "subnet", subnet(was.as_ref()), subnet(after.subnet.as_ref()));
            let list = |groups: Vec<String>| format!("[{}]", groups.join(", "));
            let was = before.groups.iter().map(|name| now(&groups, name)).collect();
            note(&mut settings, "security_groups", list(was), list(after.groups.clone()));
            if !settings.is_empty()
                && let ((Some(before), _), (Some(after), _)) = (old.at_eni(before), new.at_eni(after))
            {
                let name = place::Kind::Eni.of(two);
                self.both.push(Both { name, before: Cow::Owned(before), after: Cow::Owned(after), settings });
            }
        }
    }
}

/// Names of what is one object in two policies, of the old and of the new one.
type Pair<'p> = (Option<&'p str>, Option<&'p str>);

/// Objects of one kind that are one: by AWS's id where both have one, else by name.
fn matched<'p, T>(
    old: &'p BTreeMap<String, T>,
    new: &'p BTreeMap<String, T>,
    id: impl Fn(&T) -> Option<&str>,
) -> Vec<Pair<'p>> {
    let by_id: HashMap<&str, &str> = old.iter().filter_map(|(name, one)| Some((id(one)?, name.as_str()))).collect();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let of_id: BTreeMap<&str, &str> = new
        .iter()
        .filter_map(|(name, two)| {
            let one = *by_id.get(id(two)?)?;
            taken.insert(one).then_some((name.as_str(), one))
        })
        .collect();
    let mut pairs = Vec::new();
    for (name, two) in new {
        let of_name = || {
            let (one, own) = old.get_key_value(name).map(|(one, own)| (one.as_str(), own))?;
            let others = id(own).is_some() && id(two).is_some();
            (!others && taken.insert(one)).then_some(one)
        };
        let one = of_id.get(name.as_str()).copied().or_else(of_name);
        pairs.push((one, Some(name.as_str())));
    }
    pairs.extend(old.keys().map(String::as_str).filter(|one| !taken.contains(one)).map(|one| (Some(one), None)));
    pairs
}

/// What is found about replies in the new policy and was not in the old one. `only`: of this network ACL.
fn replies(old: &Resolved, new: &Resolved, only: Option<&str>) -> Vec<BrokenReply> {
    let pairs = matched(&old.nacls, &new.nacls, |nacl| nacl.id.as_deref());
    let was = |name: &str| pairs.iter().find(|pair| pair.1 == Some(name)).and_then(|pair| pair.0);
    let before = broken_returns(old);
    let known = |nacl: &str, finding: &Diagnostic| {
        let mut own = before.iter().filter(|(name, _)| was(nacl) == Some(name.as_str()));
        own.any(|(_, other)| (other.code, &other.message) == (finding.code, &finding.message))
    };
    let found = broken_returns(new).into_iter();
    found
        .filter(|(nacl, finding)| only.is_none_or(|only| only == nacl) && !known(nacl, finding))
        .map(|(nacl, finding)| BrokenReply { nacl, finding })
        .collect()
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
