//! A flow along its whole way: out of one end and into the other, and back, past every layer that the policy knows there; with and
//! without a memory. What stands between the two (routes, gateways, load balancers) is not looked at: every crossing sees the
//! flow's own addresses.

use std::{convert::Infallible, net::IpAddr};

use nacl_common::{Direction, Layer, Packet, Verdict};
use thiserror::Error;

use super::{
    ExplainError, Fix, Leg, NewRule, Outcome, Remembered, Said,
    explain::{Judging, remembered},
    flow::Flow,
    smallest_fix,
};
use crate::{
    clients::Client,
    compile::{CompileError, Compiled, compile},
    resolve::{Interface, Layers, Mode, Resolved},
};

/// What an end of a flow is to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An interface it is enforced on.
    Interface,
    /// An interface elsewhere.
    Eni,
    /// Somebody in one of its subnets.
    Subnet,
    /// Nobody it knows.
    Unknown,
}

impl Kind {
    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Eni => "eni",
            Self::Subnet => "subnet",
            Self::Unknown => "unknown",
        }
    }
}

/// An end of a flow.
#[derive(Clone, Debug)]
pub struct End {
    /// What it is.
    pub kind: Kind,
    /// Its name in the policy; of somebody in a subnet and of nobody known its address.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// What judges there, with the mode the policy gives it; `None`: nothing that is known.
    pub interface: Option<Interface>,
    /// What the policy does not say of it, so that it is not judged.
    pub unknown: Vec<String>,
}

/// Why no way could be found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// Two interfaces have one address.
    #[error("{address} is an address of both {one} and {other}: say with --interface which is meant")]
    Ambiguous {
        /// The address.
        address: IpAddr,
        /// One of them.
        one: String,
        /// Another.
        other: String,
    },
    /// It never leaves.
    #[error("both ends are addresses of {0}: no packet leaves it")]
    Nowhere(String),
}

/// The two ends of a way.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Who asks.
    pub from: End,
    /// Who is asked.
    pub to: End,
}

impl Ends {
    /// Who the ends of a flow are to a policy.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn of(policy: &Resolved, flow: &Flow) -> Result<Self, PathError> {
        let (from, to) = (end(policy, flow.source)?, end(policy, flow.destination)?);
        if from.kind == to.kind && from.name == to.name {
            return Err(PathError::Nowhere(from.name));
        }
        Ok(Self { from, to })
    }

    /// One interface, and whoever is at the other end.
    pub fn at(name: &str, interface: &Interface, flow: &Flow, direction: Direction) -> Self {
        let here = |address| End {
            kind: Kind::Interface,
            name: name.to_owned(),
            address,
            interface: Some(interface.clone()),
            unknown: Vec::new(),
        };
        match direction {
            Direction::Inbound => Self { from: nobody(flow.source), to: here(flow.destination) },
            Direction::Outbound => Self { from: here(flow.source), to: nobody(flow.destination) },
        }
    }

    /// Both, who asks first.
    pub const fn both(&self) -> [&End; 2] {
        [&self.from, &self.to]
    }

    /// How many are interfaces, here or elsewhere.
    pub fn interfaces(&self) -> usize {
        self.both().iter().filter(|end| matches!(end.kind, Kind::Interface | Kind::Eni)).count()
    }

    /// Whether a flow between them is followed along its way where no place is named: a policy with one interface means that,
    /// whoever the ends are, unless both are interfaces, or one
    /// is an interface elsewhere and the other cannot be this one, whose addresses are known; one without any means whatever judges at an end.
    pub fn followed(&self, policy: &Resolved) -> bool {
        match policy.interfaces.len() {
            0 => self.both().iter().any(|end| end.interface.is_some()),
            1 => {
                let elsewhere = self.both().iter().any(|end| end.kind == Kind::Eni);
                let known = policy.interfaces.values().all(|interface| !interface.addresses.is_empty());
                self.interfaces() == 2 || elsewhere && known
            }
            _ => self.interfaces() > 0,
        }
    }

    /// Sets what judges at both ends, where there is such a layer.
    pub fn set_layers(&mut self, layers: Layers) {
        for interface in [&mut self.from, &mut self.to].into_iter().filter_map(|end| end.interface.as_mut()) {
            let known = match layers {
                Layers::Groups => interface.groups.is_some(),
                Layers::Both | Layers::Nacl => interface.layers != Layers::Groups,
            };
            if known {
                interface.layers = layers;
            }
        }
    }

    /// The same ends in this mode.
    fn in_mode(&self, mode: Option<Mode>) -> [Option<Interface>; 2] {
        self.both().map(|end| {
            let interface = end.interface.clone()?;
            Some(Interface { mode: mode.unwrap_or(interface.mode), ..interface })
        })
    }

    /// The mode that both ends have; `None` where they differ.
    fn mode(&self) -> Option<Mode> {
        let mut modes =
            self.both().into_iter().filter_map(|end| end.interface.as_ref()).map(|interface| interface.mode);
        let first = modes.next().unwrap_or_default();
        modes.all(|mode| mode == first).then_some(first)
    }
}

fn nobody(address: IpAddr) -> End {
    End { kind: Kind::Unknown, name: address.to_string(), address, interface: None, unknown: Vec::new() }
}

/// Whose address it is.
fn end(policy: &Resolved, address: IpAddr) -> Result<End, PathError> {
    let mut here = policy.interfaces.iter().filter(|(_, interface)| interface.addresses.contains(&address));
    if let Some((name, interface)) = here.next() {
        if let Some((other, _)) = here.next() {
            let (one, other) = (name.clone(), other.clone());
            return Err(PathError::Ambiguous { address, one, other });
        }
        let (name, interface) = (name.clone(), Some(interface.clone()));
        return Ok(End { kind: Kind::Interface, name, address, interface, unknown: Vec::new() });
    }
    if let Some(eni) = policy.enis.values().find(|eni| eni.addresses.contains(&address)) {
        let (interface, unknown) = policy.at_eni(eni);
        return Ok(End { kind: Kind::Eni, name: eni.name.clone(), address, interface, unknown });
    }
    let subnet = policy.subnets.values().find(|subnet| subnet.cidrs.iter().any(|cidr| cidr.contains(&address)));
    let Some(subnet) = subnet else { return Ok(nobody(address)) };
    let unknown = vec!["its security groups: the policy does not know who it is".to_owned()];
    let interface = policy.in_subnet(&address.to_string(), subnet);
    let interface = interface.map(|interface| Interface { addresses: vec![address], ..interface });
    Ok(End { kind: Kind::Subnet, interface, unknown, ..nobody(address) })
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Who asks.
    From,
    /// Who is asked.
    To,
}

/// One packet past what judges at one end.
#[derive(Clone, Debug)]
pub struct Crossing {
    /// At which end.
    pub at: Which,
    /// Whether it is the reply.
    pub reply: bool,
    /// The packet, and what is said of it there.
    pub leg: Leg,
    /// Whether a packet gets here: nothing has dropped it before. What is said here is else what would be.
    pub reached: bool,
}

/// The way of a flow in one mode.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Whether network ACLs remember; `None`: at one end they do, at the other they do not, as the policy says.
    pub mode: Option<Mode>,
    /// Whether the policy says so.
    pub written: bool,
    /// Every crossing, as the packets go.
    pub crossings: Vec<Crossing>,
    /// What becomes of the flow.
    pub outcome: Outcome,
    /// What is remembered of the request at the end that is crossed last by it, and by the reply first.
    pub remembered: Remembered,
}

impl Walk {
    /// Where the flow dies.
    pub fn blocked(&self) -> Option<&Crossing> {
        self.crossings.iter().find(|crossing| crossing.reached && !crossing.leg.passes())
    }

    /// The crossing that decides about one of the two packets: where it is dropped, else its last.
    pub fn decides(&self, reply: bool) -> Option<&Crossing> {
        let mut of = self.crossings.iter().filter(|crossing| crossing.reply == reply);
        of.clone().find(|crossing| !crossing.leg.passes()).or_else(|| of.next_back())
    }
}

/// A flow, explained along its way.
#[derive(Clone, Debug)]
pub struct Path {
    /// The flow.
    pub flow: Flow,
    /// Who its ends are.
    pub ends: Ends,
    /// What becomes of it: first as the policy says, then otherwise.
    pub walks: Vec<Walk>,
    /// The rules to add until it works as the policy says, each tried; `None` where it works, or where no rule helps.
    pub fix: Option<Fix>,
}

impl Path {
    /// As the policy says, or as was asked.
    pub fn walk(&self) -> &Walk {
        &self.walks[0]
    }

    /// An end.
    pub const fn end(&self, which: Which) -> &End {
        match which {
            Which::From => &self.ends.from,
            Which::To => &self.ends.to,
        }
    }
}

/// The code that AWS's Reachability Analyzer has for what denies a packet (5.1), where it has one.
pub fn reachability_code(said: &Said, interface: &Interface, direction: Direction) -> Option<&'static str> {
    if said.allow {
        return None;
    }
    let no_rules = || interface.groups.iter().flatten().all(|group| group.rules(direction).is_empty());
    match said.layer {
        Layer::Nacl => Some("SUBNET_ACL_RESTRICTION"),
        // Also of an interface with no group at all: there is no rule either.
        Layer::SecurityGroup if no_rules() => Some("SG_HAS_NO_RULES"),
        Layer::SecurityGroup => Some("ENI_SG_RULES_MISMATCH"),
        Layer::None => None,
    }
}

/// Somebody who judges at one end: an engine with a memory of its own, or the loaded program.
pub type Judge<E> = Box<dyn FnMut(Direction, &Packet) -> Result<Verdict, E>>;

/// Walks a flow's way. `mode`: as if network ACLs remembered or not, and nothing else; `None`: as the policy says, and the other
/// modes beside it. `judge`: makes somebody who judges at an end, which has just been put in force there.
///
/// # Errors
/// No packet can belong to the flow, an end's rules cannot be compiled, or the judge fails.
pub fn walk<E: std::error::Error + 'static>(
    ends: Ends,
    flow: Flow,
    mode: Option<Mode>,
    client: Option<Client>,
    mut judge: impl FnMut(&Interface, &Compiled) -> Result<Judge<E>, E>,
) -> Result<Path, WalkError<E>> {
    let modes = match (mode, ends.mode()) {
        (Some(mode), _) => vec![Some(mode)],
        (None, None) => vec![None, Some(Mode::Stateless), Some(Mode::Stateful)],
        (None, Some(Mode::Stateless)) => vec![Some(Mode::Stateless), Some(Mode::Stateful)],
        (None, Some(Mode::Stateful)) => vec![Some(Mode::Stateful), Some(Mode::Stateless)],
    };
    let mut walks = Vec::new();
    for mode in modes {
        let written = mode.is_none() || mode == ends.mode();
        walks.push(Walk { mode, written, ..one(&ends.in_mode(mode), flow, &mut judge)? });
    }
    let fix = if walks[0].outcome == Outcome::Works { None } else { mend(&ends.in_mode(walks[0].mode), flow, client) };
    Ok(Path { flow, ends, walks, fix })
}

/// Why a way could not be walked.
#[derive(Debug, Error)]
pub enum WalkError<E: std::error::Error + 'static> {
    /// The flow, or the judge.
    #[error(transparent)]
    Explain(#[from] ExplainError<E>),
    /// An end's rules.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// One way: at each end the packets are judged whether they get there or not, so that everything that would drop them is known.
fn one<E: std::error::Error + 'static>(
    interfaces: &[Option<Interface>; 2],
    flow: Flow,
    judge: &mut impl FnMut(&Interface, &Compiled) -> Result<Judge<E>, E>,
) -> Result<Walk, WalkError<E>> {
    let mut places = Vec::new();
    for (interface, which) in interfaces.iter().zip([Which::From, Which::To]) {
        if let Some(interface) = interface {
            let compiled = compile(interface, None)?;
            let judge = judge(interface, &compiled).map_err(ExplainError::Judge)?;
            places.push((which, Judging::new(interface, &compiled, judge)));
        }
    }
    let request = flow.request().map_err(ExplainError::Flow)?;
    let reply = flow.reply().map_err(ExplainError::Flow)?;
    let (mut crossings, mut reached) = (Vec::new(), true);
    let mut kept = Remembered::default();
    for (which, place) in &mut places {
        let direction = if *which == Which::From { Direction::Outbound } else { Direction::Inbound };
        let (leg, entry) = place.leg(direction, request).map_err(ExplainError::Judge)?;
        kept = remembered(place.control(), &leg, entry.as_ref());
        let passes = leg.passes();
        crossings.push(Crossing { at: *which, reply: false, leg, reached });
        reached &= passes;
    }
    let mut outcome = if reached { Outcome::Works } else { Outcome::RequestDenied };
    for (which, place) in places.iter_mut().rev() {
        let Some(packet) = reply else { break };
        let direction = if *which == Which::From { Direction::Inbound } else { Direction::Outbound };
        let (leg, _) = place.leg(direction, packet).map_err(ExplainError::Judge)?;
        let passes = leg.passes();
        crossings.push(Crossing { at: *which, reply: true, leg, reached });
        if reached && !passes {
            outcome = Outcome::ReplyDenied;
        }
        reached &= passes;
    }
    Ok(Walk { mode: None, written: false, crossings, outcome, remembered: kept })
}

/// The rules to add, one end after the other, each where the flow dies with those before it. A rule added to a network ACL or a
/// group is in force wherever that is.
fn mend(interfaces: &[Option<Interface>; 2], flow: Flow, client: Option<Client>) -> Option<Fix> {
    let mut mended = interfaces.clone();
    let mut rules: Vec<NewRule> = Vec::new();
    // Both legs are mended at an end at once, so each end is come to once.
    for _ in 0..=mended.len() {
        let walk = one(&mended, flow, &mut engine).ok()?;
        let Some(blocked) = walk.blocked() else {
            return (!rules.is_empty()).then_some(Fix { rules });
        };
        let (place, way) = match blocked.at {
            Which::From => (0, Direction::Outbound),
            Which::To => (1, Direction::Inbound),
        };
        let fix = smallest_fix(mended[place].as_ref()?, flow, way, client)?;
        for rule in &fix.rules {
            mended = mended.map(|interface| interface.map(|interface| rule.added_to(&interface)));
        }
        rules.extend(fix.rules);
    }
    None
}

/// The engine as a judge.
///
/// # Errors
/// Never.
pub fn engine(interface: &Interface, compiled: &Compiled) -> Result<Judge<Infallible>, Infallible> {
    let mut engine = crate::engine::Engine::new(interface, compiled);
    Ok(Box::new(move |direction, packet| Ok(engine.judge(direction, packet))))
}
