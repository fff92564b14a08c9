//! Whether there is any packet of a set that is let pass, or denied, and by which rules.

use std::{cell::Cell, str::FromStr};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family, Reason};
use thiserror::Error;

use super::{
    decided::{By, Decided},
    sets::{Addresses, Detail, Mark, Rectangle, Space, Traffic, is_in, unjudged},
};
use crate::{
    compile::{CompileError, compile},
    policy,
    resolve::Interface,
};

/// Destination ports, first and last: `443`, `https`, `1024-65535`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports(pub u16, pub u16);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.trim().parse::<u16>().ok();
        let range = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
        let one = || port(text).or_else(|| policy::service_port(text)).map(|port| (port, port));
        match range.or_else(one) {
            Some((first, last)) if first <= last => Ok(Self(first, last)),
            Some((first, last)) => Err(format!("{first}-{last} ends before it begins")),
            None => Err(format!("{text:?} is no port: write 443, https or 1024-65535")),
        }
    }
}

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// One direction only.
    pub direction: Option<Direction>,
    /// Remote addresses; empty: all of both families.
    pub remotes: Vec<IpNet>,
    /// Protocols by number; empty: all, or those that have what is asked for beside.
    pub protocols: Vec<u8>,
    /// Destination ports; empty: all.
    pub ports: Vec<Ports>,
    /// ICMP types and codes; empty: all.
    pub icmp: Vec<(u8, Option<u8>)>,
    /// What is denied instead of what is let pass.
    pub denied: bool,
    /// Also what AWS never filters, neighbour discovery and DHCP.
    pub exempt: bool,
}

/// A set of packets that no packet can be in.
#[derive(Debug, Error)]
pub enum SearchError {
    /// Ports and ICMP types together.
    #[error("no packet has both a port and an ICMP type: ask for one of them")]
    PortsAndIcmp,
    /// Ports of a protocol without any.
    #[error("rules match the ports of tcp and udp only, not of {0}: leave the port out")]
    NoPorts(String),
    /// ICMP types of another protocol.
    #[error("an ICMP type needs the protocol icmp or icmpv6, not {0}: leave one of them out")]
    NoTypes(String),
    /// IPv4's ICMP with IPv6 addresses, or the reverse.
    #[error("no address of those is of the family of {0}: icmp is IPv4's, icmpv6 is IPv6's")]
    Family(String),
    /// The interface cannot be enforced.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// Packets that were found, by what decides.
#[derive(Clone, Debug)]
pub struct Found {
    /// As the policy sees it.
    pub direction: Direction,
    /// Their family.
    pub family: Family,
    /// What decides.
    pub by: Decided,
    /// The other layer's rule, which lets them pass as well.
    pub also: Option<Decided>,
    /// The packets.
    pub boxes: Vec<Rectangle>,
}

/// What a search gave.
#[derive(Clone, Debug)]
pub struct Searched {
    /// What was found.
    pub found: Vec<Found>,
    /// Whether packets of the set pass unjudged that were not asked for.
    pub left_out: bool,
}

impl Search {
    /// What is asked for of one family; nothing where it cannot be of that family.
    fn traffic(&self, family: Family) -> Option<Traffic> {
        let own = if family == Family::V4 { 1 } else { 58 };
        let foreign = if family == Family::V4 { 58 } else { 1 };
        let pieces = |protocols: &[u8], details: &[Detail]| {
            let mut numbers: Vec<u8> = protocols.iter().copied().filter(|number| *number != foreign).collect();
            numbers.sort_unstable();
            numbers.dedup();
            let of = numbers.into_iter().flat_map(|number| {
                let whole = details.is_empty().then(|| Traffic::of(family, number, None));
                let parts = details.iter().map(move |detail| Traffic::of(family, number, Some(*detail)));
                whole.into_iter().chain(parts).collect::<Vec<_>>()
            });
            Traffic::union(family, of)
        };
        let traffic = if !self.ports.is_empty() {
            let details: Vec<_> = self.ports.iter().map(|Ports(first, last)| Detail::Ports(*first, *last)).collect();
            let protocols = if self.protocols.is_empty() { &[6, 17] } else { self.protocols.as_slice() };
            pieces(protocols, &details)
        } else if !self.icmp.is_empty() {
            let details: Vec<_> = self.icmp.iter().map(|(kind, code)| Detail::Icmp(*kind, *code)).collect();
            let protocols = if self.protocols.is_empty() { &[own] } else { self.protocols.as_slice() };
            pieces(protocols, &details)
        } else if self.protocols.is_empty() {
            Traffic::all(family)
        } else {
            pieces(&self.protocols, &[])
        };
        (!traffic.is_empty()).then_some(traffic)
    }

    fn addresses(&self, family: Family) -> Option<Addresses> {
        let addresses =
            if self.remotes.is_empty() { Addresses::all(family) } else { Addresses::of(family, &self.remotes) };
        (!addresses.is_empty()).then_some(addresses)
    }

    fn checked(&self) -> Result<(), SearchError> {
        let name =
            |number: u8| policy::protocol_name(number).map_or_else(|| format!("protocol {number}"), str::to_owned);
        if !self.ports.is_empty() && !self.icmp.is_empty() {
            return Err(SearchError::PortsAndIcmp);
        }
        if !self.ports.is_empty()
            && let Some(number) = self.protocols.iter().find(|number| !matches!(number, 6 | 17))
        {
            return Err(SearchError::NoPorts(name(*number)));
        }
        if !self.icmp.is_empty()
            && let Some(number) = self.protocols.iter().find(|number| !matches!(number, 1 | 58))
        {
            return Err(SearchError::NoTypes(name(*number)));
        }
        let possible = |family| self.addresses(family).is_some() && self.traffic(family).is_some();
        if !possible(Family::V4) && !possible(Family::V6) {
            return Err(SearchError::Family(
                self.protocols.iter().map(|number| name(*number)).collect::<Vec<_>>().join(", "),
            ));
        }
        Ok(())
    }
}

/// Searches the first packets of an interface: those that begin a flow.
///
/// # Errors
/// See [`SearchError`].
pub fn search(interface: &Interface, search: &Search) -> Result<Searched, SearchError> {
    search.checked()?;
    let compiled = compile(interface, None)?;
    let wanted = if search.denied { Action::Deny } else { Action::Allow };
    let left_out = Cell::new(false);
    let mut found: Vec<Found> = Vec::new();
    for direction in Direction::ALL {
        if search.direction.is_some_and(|only| only != direction) {
            continue;
        }
        for family in [Family::V4, Family::V6] {
            let (Some(addresses), Some(traffic)) = (search.addresses(family), search.traffic(family)) else { continue };
            let space = Space::cut(&[(interface, &compiled)], direction, family, Some((&addresses, &traffic)))?;
            let regions = space.regions(|packet, verdicts| {
                let verdict = &verdicts[0];
                if !is_in(direction, packet, &addresses, &traffic) {
                    return Mark::Not;
                }
                // What a person wrote to pass is let pass by the policy.
                if !search.exempt && unjudged(verdict) && verdict.reason != Reason::Failsafe {
                    left_out.set(true);
                    return Mark::Either;
                }
                if verdict.action != wanted {
                    return Mark::Not;
                }
                Mark::In((By::of(*verdict), By::also(*verdict)))
            });
            found.extend(regions.into_iter().map(|region| {
                let (by, also) = region.label;
                let also = also.map(|also| also.decided(&compiled));
                Found { direction, family, by: by.decided(&compiled), also, boxes: region.boxes }
            }));
        }
    }
    Ok(Searched { found, left_out: left_out.get() })
}
