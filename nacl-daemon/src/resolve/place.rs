//! Places where packets are judged: the interfaces of a policy, and beside them each object that rules stand in, so that a policy
//! without any interface can be asked too. `eni:NAME` is an interface elsewhere, `subnet:NAME` somebody in a subnet, `nacl:NAME`
//! and `sg:NAME` one list standing alone. Every verb that takes an interface takes these, and they are made here only.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use thiserror::Error;

use super::{Eni, Group, Interface, Layers, Nacl, Resolved, Subnet, build::default_nacl, exempt};

/// A place, and what judges there.
#[derive(Clone, Debug)]
pub struct Place<'p> {
    /// What it is called: an interface by its name in the policy, the others by what was asked for.
    pub name: Cow<'p, str>,
    /// What judges there.
    pub interface: Cow<'p, Interface>,
    /// What the policy does not say of it, so that it is not judged.
    pub unknown: Vec<String>,
}

/// What a place can be, beside an interface of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An interface elsewhere.
    Eni,
    /// Somebody in a subnet: its network ACL, and no security groups.
    Subnet,
    /// A network ACL standing alone.
    Nacl,
    /// A security group standing alone.
    Group,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Eni, Self::Subnet, Self::Nacl, Self::Group];

    /// What stands before the name.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Eni => "eni",
            Self::Subnet => "subnet",
            Self::Nacl => "nacl",
            Self::Group => "sg",
        }
    }

    /// What a person calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Eni => "interface elsewhere ([eni])",
            Self::Subnet => "subnet",
            Self::Nacl => "network ACL",
            Self::Group => "security group",
        }
    }

    /// A place of this kind, as it is written.
    pub fn of(self, name: &str) -> String {
        format!("{}:{name}", self.prefix())
    }

    /// Kind and name of a place as it is written.
    pub fn split(text: &str) -> Option<(Self, &str)> {
        let (prefix, name) = text.split_once(':')?;
        Self::ALL.into_iter().find(|kind| kind.prefix() == prefix).map(|kind| (kind, name))
    }
}

/// A place that was asked for, and is not in the policy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InterfaceError {
    /// No such interface.
    #[error("the policy {file} has no interface {name:?}; it has {known}")]
    Unknown {
        /// The policy.
        file: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No such object.
    #[error("the policy {file} has no {what} {name:?}; it has {known}", what = kind.title())]
    NoSuch {
        /// The policy.
        file: String,
        /// What it should be.
        kind: Kind,
        /// What was asked for.
        name: String,
        /// What there is of that kind.
        known: String,
    },
    /// It is there, and nothing is known to judge at it.
    #[error("nothing judges at {name} of the policy {file}: it does not say {unknown}")]
    Nothing {
        /// The policy.
        file: String,
        /// What was asked for.
        name: String,
        /// What would have to be known.
        unknown: String,
    },
    /// None was named, and there is not exactly one.
    #[error("which interface? the policy {file} has {known}")]
    Which {
        /// The policy.
        file: String,
        /// What there is.
        known: String,
    },
}

/// Names that a message lists.
const LISTED: usize = 12;

/// `a, b, c and 4 more`; `none` where there is nothing.
pub(crate) fn listed<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> String {
    let names: Vec<N> = names.into_iter().collect();
    let joined = |names: &[N]| names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        1..=LISTED => joined(&names),
        all => format!("{} and {} more", joined(&names[..LISTED]), all - LISTED),
    }
}

impl Resolved {
    /// What judges at a place: an interface by its name or by its device where that is unique, or `eni:NAME`, `subnet:NAME`,
    /// `nacl:NAME`, `sg:NAME`; `None`: the only interface there is.
    ///
    /// # Errors
    /// See [`InterfaceError`].
    pub fn named_interface<'s>(&'s self, name: Option<&str>) -> Result<Place<'s>, InterfaceError> {
        let known = |(name, interface): (&'s String, &'s Interface)| Place::known(name, interface);
        if let Some(name) = name {
            // Whatever it is called, an interface goes first.
            if let Some(found) = self.interfaces.get_key_value(name) {
                return Ok(known(found));
            }
            if let Some((kind, own)) = Kind::split(name) {
                return self.object(kind, own);
            }
        }
        let mut meant = self.interfaces.iter().filter(|(_, interface)| name.is_none_or(|name| interface.name == name));
        let file = self.file.clone();
        match (name, meant.next(), meant.next()) {
            (_, Some(found), None) => Ok(known(found)),
            (Some(name), None, _) => {
                Err(InterfaceError::Unknown { file, name: name.to_owned(), known: self.places_in_words() })
            }
            _ => Err(InterfaceError::Which { file, known: self.places_in_words() }),
        }
    }

    /// The interfaces, or where there are none what else can be named.
    fn places_in_words(&self) -> String {
        if !self.interfaces.is_empty() {
            return listed(self.interfaces.keys().cloned());
        }
        let places = Kind::ALL.into_iter().flat_map(|kind| self.names(kind).map(move |name| kind.of(name)));
        match listed(places) {
            places if places == "none" => places,
            places => format!("none, but these can be named in its place: {places}"),
        }
    }

    /// The names of all objects of a kind.
    fn names(&self, kind: Kind) -> Box<dyn Iterator<Item = &str> + '_> {
        match kind {
            Kind::Eni => Box::new(self.enis.keys().map(String::as_str)),
            Kind::Subnet => Box::new(self.subnets.keys().map(String::as_str)),
            Kind::Nacl => Box::new(self.nacls.keys().map(String::as_str)),
            Kind::Group => Box::new(self.groups.keys().map(String::as_str)),
        }
    }

    fn object(&self, kind: Kind, name: &str) -> Result<Place<'static>, InterfaceError> {
        let called = kind.of(name);
        let (interface, unknown) = match kind {
            Kind::Eni => self.enis.get(name).map(|eni| self.at_eni(eni)),
            Kind::Subnet => self.subnets.get(name).map(|subnet| (self.in_subnet(&called, subnet), Vec::new())),
            Kind::Nacl => self.nacls.get(name).map(|nacl| (Some(alone(&called, Arc::clone(nacl))), Vec::new())),
            Kind::Group => self.groups.get(name).map(|group| (Some(grouped(&called, group)), Vec::new())),
        }
        .ok_or_else(|| InterfaceError::NoSuch {
            file: self.file.clone(),
            kind,
            name: name.to_owned(),
            known: listed(self.names(kind).map(str::to_owned)),
        })?;
        match interface {
            Some(interface) => Ok(Place { name: called.into(), interface: Cow::Owned(interface), unknown }),
            None => {
                Err(InterfaceError::Nothing { file: self.file.clone(), name: called, unknown: unknown.join(", nor ") })
            }
        }
    }

    /// What judges at an interface elsewhere, as far as the policy says, and what it does not say.
    pub fn at_eni(&self, eni: &Eni) -> (Option<Interface>, Vec<String>) {
        let mut unknown = Vec::new();
        let subnet = eni.subnet.as_ref().and_then(|name| self.subnets.get(name));
        if subnet.is_none() {
            unknown.push("its network ACL: the policy does not say which subnet it is in".to_owned());
        }
        let undefined: Vec<_> = eni.groups.iter().filter(|name| !self.groups.contains_key(*name)).cloned().collect();
        // Of groups that only allow one that is not known may allow everything.
        let groups: Option<Vec<_>> = if eni.groups.is_empty() {
            unknown.push("its security groups: the policy names none".to_owned());
            None
        } else if undefined.is_empty() {
            Some(eni.groups.iter().map(|name| Arc::clone(&self.groups[name])).collect())
        } else {
            unknown.push(format!("its security groups: the policy does not define {}", undefined.join(", ")));
            None
        };
        let mut interface = subnet.and_then(|subnet| self.in_subnet(&eni.name, subnet));
        if let Some(groups) = groups {
            let own = || Interface { layers: Layers::Groups, ..alone(&eni.name, Arc::new(default_nacl())) };
            interface = Some(Interface { groups: Some(groups), ..interface.unwrap_or_else(own) });
        }
        let interface = interface.map(|interface| Interface { addresses: eni.addresses.clone(), ..interface });
        (interface, unknown)
    }

    /// What stands before somebody in a subnet: the subnet's network ACL, which has no memory.
    pub fn in_subnet(&self, name: &str, subnet: &Subnet) -> Option<Interface> {
        let nacl = self.nacls.get(&subnet.nacl)?;
        Some(Interface {
            subnet: Some(subnet.name.clone()),
            subnet_cidrs: subnet.cidrs.clone(),
            subnet_id: subnet.id.clone(),
            exemptions: subnet.services.clone(),
            ..alone(name, Arc::clone(nacl))
        })
    }

    /// Every network ACL and every security group standing alone: what there is to ask of a policy without interfaces.
    pub fn standing_alone(&self) -> BTreeMap<String, Interface> {
        let nacls = self.nacls.iter().map(|(name, nacl)| {
            let name = Kind::Nacl.of(name);
            let interface = alone(&name, Arc::clone(nacl));
            (name, interface)
        });
        let groups = self.groups.iter().map(|(name, group)| {
            let name = Kind::Group.of(name);
            let interface = grouped(&name, group);
            (name, interface)
        });
        nacls.chain(groups).collect()
    }
}

impl<'p> Place<'p> {
    fn known(name: &'p str, interface: &'p Interface) -> Self {
        Self { name: Cow::Borrowed(name), interface: Cow::Borrowed(interface), unknown: Vec::new() }
    }
}

/// A network ACL put on an interface directly, with what else an interface has where nothing is written.
fn alone(name: &str, nacl: Arc<Nacl>) -> Interface {
    Interface { aws: true, exemptions: exempt::services(None), ..Interface::new(name, nacl) }
}

fn grouped(name: &str, group: &Arc<Group>) -> Interface {
    let groups = Some(vec![Arc::clone(group)]);
    Interface { groups, layers: Layers::Groups, ..alone(name, Arc::new(default_nacl())) }
}
