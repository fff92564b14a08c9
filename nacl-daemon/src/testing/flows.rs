//! From a test to the flows it is about: who its ends are, who judges, and where sets of addresses and ports have to be cut so that
//! no list tells two flows of a cell apart. Cutting decides nothing: what becomes of a cell is what the engine says of a flow of it.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    rc::Rc,
};

use ipnet::IpNet;
use nacl_common::{Direction, Family};

use super::{
    TestError,
    file::{End, Suite, Test, about},
};
use crate::{
    analyze::{
        Flow, address,
        path::{self, Ends},
        sets::usual,
    },
    compile::{Compiled, compile},
    engine::Engine,
    policy::Diagnostic,
    resolve::{Interface, Layers, Mode, Resolved, place::Kind},
};

/// Flows of a test that are looked at, at most: a test that needs more is told to be narrower.
pub(super) const CELLS: usize = 1 << 20;

/// A test whose names are known.
#[derive(Debug)]
pub struct Plan {
    /// Which of its suite.
    pub index: usize,
    /// Where it is asked.
    pub(super) asked: Asked,
    /// Pairs of ends of one family, first and last address of each.
    pub(super) ends: Vec<[Span; 2]>,
    /// What the policy does not define, so that nothing can be said.
    pub(super) undefined: Option<String>,
}

/// Where a test is asked.
#[derive(Debug)]
pub(super) enum Asked {
    /// At a place, by requests that go this way.
    At(String, Direction),
    /// Along the way from one end to the other.
    Way,
}

/// Addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub family: Family,
    pub first: u128,
    pub last: u128,
}

impl Span {
    fn of(net: &IpNet) -> Self {
        let family = if net.addr().is_ipv4() { Family::V4 } else { Family::V6 };
        Self { family, first: number(net.network()), last: number(net.broadcast()) }
    }

    /// Its parts between borders, which are ascending.
    fn cut(self, borders: &[u128]) -> Vec<Self> {
        let from = borders.partition_point(|border| *border <= self.first);
        let to = borders.partition_point(|border| *border <= self.last);
        let mut parts = Vec::with_capacity(to - from + 1);
        let mut first = self.first;
        for border in &borders[from..to] {
            parts.push(Self { first, last: border - 1, ..self });
            first = *border;
        }
        parts.push(Self { first, ..self });
        parts
    }

    /// One of them that a host may have.
    fn one(self) -> IpAddr {
        let number = usual(self.family, &[(self.first, self.last)]);
        address(self.family, [(number >> 64) as u64, number as u64])
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Where ranges of addresses begin, of both families.
#[derive(Debug, Default)]
struct Borders([Vec<u128>; 2]);

impl Borders {
    fn of<'n>(nets: impl IntoIterator<Item = &'n IpNet>) -> Self {
        let mut borders = [BTreeSet::new(), BTreeSet::new()];
        for net in nets {
            let span = Span::of(net);
            borders[usize::from(span.family == Family::V6)]
                .extend([Some(span.first), span.last.checked_add(1)].into_iter().flatten());
        }
        Self(borders.map(|borders| borders.into_iter().collect()))
    }

    fn of_family(&self, family: Family) -> &[u128] {
        &self.0[usize::from(family == Family::V6)]
    }
}

/// A place where packets are judged.
pub(super) struct Site {
    pub interface: Interface,
    pub compiled: Compiled,
    pub engine: RefCell<Engine>,
    addresses: Borders,
    /// Where ranges of ports begin.
    ports: Vec<u32>,
}

impl Site {
    fn of(name: &str, interface: Interface) -> Result<Self, TestError> {
        let compiled =
            compile(&interface, None).map_err(|source| TestError::Compile { place: name.to_owned(), source })?;
        let engine = RefCell::new(Engine::new(&interface, &compiled));
        let rules = || Direction::ALL.into_iter().flat_map(|direction| interface.nacl.rules(direction));
        let of_groups = || {
            let groups = interface.groups.iter().flatten();
            groups.flat_map(|group| Direction::ALL.into_iter().flat_map(move |direction| group.rules(direction)))
        };
        let exempt = || interface.exemptions.iter();
        let addresses = Borders::of(
            rules()
                .map(|rule| &rule.cidr)
                .chain(of_groups().flat_map(|rule| &rule.cidrs))
                .chain(exempt().map(|exemption| &exemption.cidr))
                .chain(&interface.subnet_cidrs),
        );
        let ports: BTreeSet<u32> = rules()
            .filter_map(|rule| rule.ports)
            .chain(of_groups().filter_map(|rule| rule.ports))
            .chain(exempt().filter_map(|exemption| exemption.ports))
            .chain(DHCP.into_iter().flat_map(|(one, two)| [(one, one), (two, two)]))
            .flat_map(|(first, last)| [u32::from(first), u32::from(last) + 1])
            .collect();
        let ports = ports.into_iter().collect();
        Ok(Self { interface, compiled, engine, addresses, ports })
    }
}

/// DHCP is told by both of its ports (N43).
const DHCP: [(u16, u16); 2] = [(67, 68), (546, 547)];

/// A place by its name, and by the settings that replace the policy's.
type SiteKey = (String, Option<&'static str>, Option<&'static str>);

/// The places of a policy, made when they are first asked for.
pub(super) struct Sites<'p> {
    pub policy: &'p Resolved,
    made: RefCell<HashMap<SiteKey, Rc<Site>>>,
    /// Addresses that the policy knows.
    known: Borders,
}

/// Who judges at the two ends.
pub(super) type Judges = [Option<Rc<Site>>; 2];

/// Flows that nobody tells apart.
pub(super) struct Cell<'c> {
    /// One of them.
    pub flow: Flow,
    /// Ports of the client, first and last.
    pub client: (u16, u16),
    /// Ports of the service.
    pub service: (u16, u16),
    /// Who judges at the end that asks, and at the one that is asked.
    pub judges: &'c Judges,
}

impl<'p> Sites<'p> {
    pub fn new(policy: &'p Resolved) -> Self {
        let hosts: Vec<IpNet> = policy
            .interfaces
            .values()
            .flat_map(|interface| &interface.addresses)
            .chain(policy.enis.values().flat_map(|eni| &eni.addresses))
            .map(|address| IpNet::from(*address))
            .collect();
        let subnets = policy.subnets.values().flat_map(|subnet| &subnet.cidrs);
        Self { policy, made: RefCell::default(), known: Borders::of(hosts.iter().chain(subnets)) }
    }

    fn made(
        &self,
        name: &str,
        test: &Test,
        make: impl FnOnce() -> Option<Interface>,
    ) -> Result<Option<Rc<Site>>, TestError> {
        let key = (name.to_owned(), test.mode.map(Mode::name), test.layers.map(Layers::name));
        if let Some(site) = self.made.borrow().get(&key) {
            return Ok(Some(Rc::clone(site)));
        }
        let Some(mut interface) = make() else { return Ok(None) };
        interface.mode = test.mode.unwrap_or(interface.mode);
        // A layer that is not there cannot judge alone.
        let has = |layers| match layers {
            Layers::Groups => interface.groups.is_some(),
            Layers::Both | Layers::Nacl => interface.layers != Layers::Groups,
        };
        interface.layers = test.layers.filter(|layers| has(*layers)).unwrap_or(interface.layers);
        let site = Rc::new(Site::of(name, interface)?);
        self.made.borrow_mut().insert(key, Rc::clone(&site));
        Ok(Some(site))
    }

    /// Who judges a flow.
    fn judges(&self, plan: &Plan, test: &Test, flow: &Flow) -> Result<Judges, TestError> {
        match &plan.asked {
            Asked::At(name, direction) => {
                let named = || self.policy.named_interface(Some(name)).ok().map(|place| place.interface.into_owned());
                let site = self.made(name, test, named)?;
                Ok(if *direction == Direction::Inbound { [None, site] } else { [site, None] })
            }
            Asked::Way => {
                let Ok(ends) = Ends::of(self.policy, flow) else { return Ok([None, None]) };
                let mut judges = [None, None];
                for (judge, end) in judges.iter_mut().zip([ends.from, ends.to]) {
                    let name = match end.kind {
                        path::Kind::Interface => end.name.clone(),
                        path::Kind::Eni => Kind::Eni.of(&end.name),
                        path::Kind::Subnet | path::Kind::Unknown => {
                            let subnet = end.interface.as_ref().and_then(|interface| interface.subnet.as_ref());
                            subnet.map(|subnet| Kind::Subnet.of(subnet)).unwrap_or_default()
                        }
                    };
                    *judge = self.made(&name, test, || end.interface)?;
                }
                Ok(judges)
            }
        }
    }

    /// Every cell of a test, until `visit` has seen enough. Says how many there were; `None`: too many to look at.
    pub fn cells(
        &self,
        plan: &Plan,
        test: &Test,
        mut visit: impl FnMut(&Cell<'_>) -> Result<bool, TestError>,
    ) -> Result<Option<usize>, TestError> {
        let mut count = 0;
        let flow = |ends: [Span; 2], sport, dport| Flow {
            protocol: test.protocol,
            source: ends[0].one(),
            destination: ends[1].one(),
            sport,
            dport,
        };
        for [from, to] in &plan.ends {
            let known = |span: &Span| match plan.asked {
                Asked::Way => span.cut(self.known.of_family(span.family)),
                Asked::At(..) => vec![*span],
            };
            for (from, to) in pairs(&known(from), &known(to)) {
                let judges = self.judges(plan, test, &flow([from, to], 0, 0))?;
                let at_other = |span: Span, site: &Option<Rc<Site>>| match site {
                    Some(site) => span.cut(site.addresses.of_family(span.family)),
                    None => vec![span],
                };
                let (froms, tos) = (at_other(from, &judges[1]), at_other(to, &judges[0]));
                let (clients, services) = if matches!(test.protocol, 6 | 17) {
                    let clients = ports(&judges, test.client.range());
                    (clients, test.ports.iter().flat_map(|range| ports(&judges, *range)).collect())
                } else {
                    let icmp = match (test.protocol, test.icmp) {
                        (1 | 58, Some((kind, code))) => u16::from(kind) << 8 | u16::from(code),
                        (1, None) => 8 << 8,
                        (58, None) => 128 << 8,
                        _ => 0,
                    };
                    (vec![(0, 0)], vec![(icmp, icmp)])
                };
                let all = [froms.len(), tos.len(), clients.len(), services.len()];
                count += all.into_iter().fold(1_usize, usize::saturating_mul);
                if count > CELLS {
                    return Ok(None);
                }
                for (from, to) in pairs(&froms, &tos) {
                    for (client, service) in pairs(&clients, &services) {
                        let flow = flow([from, to], client.0, service.0);
                        if !visit(&Cell { flow, client, service, judges: &judges })? {
                            return Ok(Some(count));
                        }
                    }
                }
            }
        }
        Ok(Some(count))
    }
}

fn pairs<A: Copy, B: Copy>(one: &[A], two: &[B]) -> impl Iterator<Item = (A, B)> {
    one.iter().flat_map(move |one| two.iter().map(move |two| (*one, *two)))
}

/// The parts of a range of ports that no judge tells apart.
fn ports(judges: &Judges, (first, last): (u16, u16)) -> Vec<(u16, u16)> {
    let mut borders: Vec<u32> = Vec::new();
    for site in judges.iter().flatten() {
        let own = &site.ports;
        let from = own.partition_point(|border| *border <= u32::from(first));
        let to = own.partition_point(|border| *border <= u32::from(last));
        borders.extend(&own[from..to]);
    }
    borders.sort_unstable();
    borders.dedup();
    let mut parts = Vec::with_capacity(borders.len() + 1);
    let mut start = first;
    for border in borders {
        parts.push((start, (border - 1) as u16));
        start = border as u16;
    }
    parts.push((start, last));
    parts
}

/// Finds out who the ends of all tests are.
///
/// # Errors
/// Every name that the policy does not have, and every test that does not say enough.
pub fn plan(policy: &Resolved, suite: &Suite) -> Result<Vec<Plan>, Vec<Diagnostic>> {
    let mut wrong = Vec::new();
    let mut plans = Vec::with_capacity(suite.tests.len());
    for (index, test) in suite.tests.iter().enumerate() {
        match one(policy, index, test) {
            Ok(plan) => plans.push(plan),
            Err(diagnostic) => wrong.push(*diagnostic),
        }
    }
    if wrong.is_empty() { Ok(plans) } else { Err(wrong) }
}

type Wrong = Box<Diagnostic>;

fn wrong(test: &Test, message: impl Into<String>, help: impl Into<String>) -> Wrong {
    Box::new(about(test, message, help))
}

const ENDS: &str = "an end is an address, a network, `here`, the name of an interface, `eni:NAME` or `subnet:NAME`";

/// The addresses of an end; `None`: those of the place that is asked at.
fn nets(policy: &Resolved, test: &Test, end: &End) -> Result<Option<Vec<IpNet>>, Wrong> {
    let hosts = |addresses: &[IpAddr]| addresses.iter().map(|address| IpNet::from(*address)).collect::<Vec<_>>();
    let found = match end {
        End::Here => return Ok(None),
        End::Named(name) if test.at.as_ref() == Some(name) => return Ok(None),
        End::Net(net) => return Ok(Some(vec![*net])),
        End::Named(name) => match Kind::split(name).filter(|_| !policy.interfaces.contains_key(name)) {
            Some((Kind::Nacl | Kind::Group, _)) => {
                let message = format!("`{name}` is a list and no end of a flow");
                return Err(wrong(
                    test,
                    message,
                    format!("ask at it, `at = \"{name}\"`, and say who is at the other end"),
                ));
            }
            Some((Kind::Eni, own)) => policy.enis.get(own).map(|eni| hosts(&eni.addresses)),
            Some((Kind::Subnet, own)) => policy.subnets.get(own).map(|subnet| subnet.cidrs.clone()),
            None => policy.interfaces.get(name).map(|interface| hosts(&interface.addresses)),
        },
    };
    let End::Named(name) = end else { return Ok(found) };
    match found {
        Some(nets) if nets.is_empty() => {
            let message = format!("the policy does not say which addresses {name} has");
            Err(wrong(test, message, "write `addresses` there, or an address here"))
        }
        Some(nets) => Ok(Some(nets)),
        None => {
            let why = match policy.named_interface(Some(name)) {
                Err(error) => error.to_string(),
                Ok(_) => format!("{name:?} is no end"),
            };
            Err(wrong(test, why, ENDS))
        }
    }
}

fn one(policy: &Resolved, index: usize, test: &Test) -> Result<Plan, Wrong> {
    let [from, to] = [nets(policy, test, &test.from)?, nets(policy, test, &test.to)?];
    let undefined = undefined(policy, test);
    let here = from.is_none() || to.is_none();
    if test.at.is_none() && !here {
        let sample =
            |nets: &Option<Vec<IpNet>>| nets.as_ref().and_then(|nets| nets.first()).map(|net| Span::of(net).one());
        // Where there is one interface, it is meant, unless both ends are interfaces.
        let followed = match (sample(&from), sample(&to)) {
            (Some(source), Some(destination)) => {
                let flow = Flow { protocol: test.protocol, source, destination, sport: 0, dport: 0 };
                let ends = Ends::of(policy, &flow).map_err(|error| wrong(test, error.to_string(), "say with `at`"))?;
                ends.followed(policy)
            }
            _ => false,
        };
        if followed {
            let ends = family_pairs(test, from.as_deref().unwrap_or_default(), to.as_deref().unwrap_or_default())?;
            return Ok(Plan { index, asked: Asked::Way, ends, undefined });
        }
    }
    let place = policy.named_interface(test.at.as_deref()).map_err(|error| {
        let help = if test.at.is_some() {
            "`at` is an interface of the policy, or `eni:NAME`, `subnet:NAME`, `nacl:NAME` or `sg:NAME`"
        } else {
            "add `at`: an interface of the policy, or `eni:NAME`, `subnet:NAME`, `nacl:NAME` or `sg:NAME`"
        };
        wrong(test, error.to_string(), help)
    })?;
    let own = |nets: &Option<Vec<IpNet>>| {
        nets.as_ref().is_none_or(|nets| {
            nets.iter().all(|net| {
                place.interface.addresses.iter().any(|address| IpNet::from(*address) == *net || net.contains(address))
                    || place.interface.subnet_cidrs.iter().any(|cidr| cidr.contains(net))
            })
        })
    };
    let direction = match (&from, &to) {
        (None, _) => Direction::Outbound,
        (_, None) => Direction::Inbound,
        _ => match (own(&from), own(&to)) {
            (true, false) => Direction::Outbound,
            (false, true) => Direction::Inbound,
            _ => {
                let message = format!("the policy does not tell which end is at {}", place.name);
                return Err(wrong(test, message, "write `here` for it, or leave it out"));
            }
        },
    };
    // This end decides nothing.
    let stand_in = |other: &[IpNet]| -> Vec<IpNet> {
        let families: BTreeSet<bool> = other.iter().map(|net| net.addr().is_ipv4()).collect();
        let of = |v4: bool| {
            let known = place.interface.addresses.iter().find(|address| address.is_ipv4() == v4).copied();
            let inside = place.interface.subnet_cidrs.iter().find(|cidr| cidr.addr().is_ipv4() == v4);
            let inside = inside.map(|cidr| Span::of(cidr).one());
            let nobody = if v4 { [10, 0, 0, 10].into() } else { [0xfd00, 0, 0, 0, 0, 0, 0, 10].into() };
            IpNet::from(known.or(inside).unwrap_or(nobody))
        };
        families.into_iter().map(of).collect()
    };
    let (from, to) = match (from, to) {
        (Some(from), Some(to)) => (from, to),
        (Some(from), None) => (from.clone(), stand_in(&from)),
        (None, Some(to)) => (stand_in(&to), to),
        (None, None) => return Err(wrong(test, "both ends are here", ENDS)),
    };
    let ends = family_pairs(test, &from, &to)?;
    Ok(Plan { index, asked: Asked::At(place.name.into_owned(), direction), ends, undefined })
}

/// Every pair of ends of one family.
fn family_pairs(test: &Test, from: &[IpNet], to: &[IpNet]) -> Result<Vec<[Span; 2]>, Wrong> {
    let all = pairs(from, to).map(|(from, to)| [Span::of(&from), Span::of(&to)]);
    let wanted = |[from, to]: &[Span; 2]| {
        from.family == to.family
            && match test.protocol {
                1 => from.family == Family::V4,
                58 => from.family == Family::V6,
                _ => true,
            }
    };
    let ends: Vec<_> = all.filter(wanted).collect();
    if ends.is_empty() {
        return Err(wrong(test, "the two ends have no address of one family, which the protocol can have", ENDS));
    }
    Ok(ends)
}

/// Groups that an end has and that the policy does not define: what they allow is not known.
fn undefined(policy: &Resolved, test: &Test) -> Option<String> {
    let named = [Some(&test.from), Some(&test.to)].into_iter().flatten().filter_map(|end| match end {
        End::Named(name) => Some(name.as_str()),
        _ => None,
    });
    let mut enis = named.chain(test.at.as_deref()).filter_map(|name| match Kind::split(name)? {
        (Kind::Eni, own) => policy.enis.get(own),
        _ => None,
    });
    enis.find_map(|eni| {
        let group = eni.groups.iter().find(|group| !policy.groups.contains_key(*group))?;
        Some(format!("eni:{} has security group {group}, which the policy does not define", eni.name))
    })
}
