//! Which part of their ports clients of each kind can be answered on.

use std::fmt;

use crate::clients::Client;

/// Ports, as ranges that neither overlap nor touch, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// The first kind, in the order of what people use, that lacks a port, and that port.
    pub fn lacks(&self, kinds: &[Client]) -> Option<(Client, u16)> {
        kinds.iter().find_map(|client| Some((*client, self.missing(client.ports())?)))
    }

    /// The union of ranges.
    pub fn new(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// How many of a range are in it.
    fn among(&self, (from, to): (u16, u16)) -> u32 {
        let common =
            |(first, last): &(u16, u16)| (u32::from(*last.min(&to)) + 1).saturating_sub(u32::from(*first.max(&from)));
        self.0.iter().map(common).sum()
    }

    /// The first of a range that is not in it.
    fn missing(&self, (from, to): (u16, u16)) -> Option<u16> {
        let mut next = u32::from(from);
        for (first, last) in &self.0 {
            if u32::from(*last) >= next && u32::from(*first) <= next {
                next = u32::from(*last) + 1;
            }
        }
        (next <= u32::from(to)).then_some(next as u16)
    }
}

/// How many of the ports of each kind of client are open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shares(Vec<(Client, u32)>);

fn size(client: Client) -> u32 {
    let (first, last) = client.ports();
    u32::from(last - first) + 1
}

impl Shares {
    /// Of open ports.
    pub fn of(ports: &Ports) -> Self {
        // "Anybody" is no kind of its own.
        let kinds = Client::ALL.into_iter().filter(|client| *client != Client::Any);
        Self(kinds.map(|client| (client, ports.among(client.ports()))).collect())
    }

    fn open(&self, client: Client) -> u32 {
        self.0.iter().find(|(kind, _)| *kind == client).map_or(0, |(_, open)| *open)
    }

    /// Whether every port of this kind is open.
    pub fn whole(&self, client: Client) -> bool {
        self.open(client) == size(client)
    }

    /// Whether no port of this kind is.
    pub fn none(&self, client: Client) -> bool {
        self.open(client) == 0
    }

    /// Whether no port of any kind is.
    pub fn nobody(&self) -> bool {
        self.0.iter().all(|(_, open)| *open == 0)
    }

    /// Whether some kind has every port.
    pub fn somebody_whole(&self) -> bool {
        self.0.iter().any(|(client, _)| self.whole(*client))
    }

    /// Ports of all kinds together, to compare by.
    pub fn sum(&self) -> u32 {
        self.0.iter().map(|(_, open)| open).sum()
    }
}

impl fmt::Display for Shares {
    /// `Linux 42 %, Windows and macOS 100 %`: kinds with one range together.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<((u16, u16), Vec<&str>, u32)> = Vec::new();
        // Nobody meets a Linux before 4.2, and its range is one port longer than today's.
        for (client, open) in self.0.iter().filter(|(client, _)| *client != Client::LinuxOld) {
            match ranges.iter_mut().find(|(range, ..)| *range == client.ports()) {
                Some((_, names, _)) => names.push(client.title()),
                None => ranges.push((client.ports(), vec![client.title()], *open)),
            }
        }
        for (at, ((first, last), names, open)) in ranges.iter().enumerate() {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let size = u32::from(last - first) + 1;
            write!(f, "{}{} {}", if at == 0 { "" } else { ", " }, super::list_of(&names), percent(*open, size))?;
        }
        Ok(())
    }
}

/// A share with one decimal, where that says more; never all or nothing where it is not.
fn percent(open: u32, size: u32) -> String {
    if open == 0 || open == size {
        return if open == 0 { "0 %" } else { "100 %" }.to_owned();
    }
    match ((u64::from(open) * 1000 + u64::from(size) / 2) / u64::from(size)).min(999) {
        0 => "under 0.1 %".to_owned(),
        tenths if tenths % 10 == 0 => format!("{} %", tenths / 10),
        tenths => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matrix of the lessons: which share of whose ports an outbound range opens.
    #[test]
    fn shares_are_those_of_the_table() {
        let shares = |first, last| Shares::of(&Ports::new(vec![(first, last)])).to_string();
        assert_eq!(
            shares(49152, 65535),
            "Linux 42 %, Windows and macOS 100 %, Windows XP 0 %, FreeBSD 29.5 %, a NAT gateway, a load balancer and Lambda 25.4 %"
        );
        assert_eq!(
            shares(32768, 60999),
            "Linux 100 %, Windows and macOS 72.3 %, Windows XP 0 %, FreeBSD 50.8 %, a NAT gateway, a load balancer and Lambda 43.8 %"
        );
        assert!(shares(1024, 65535).matches("100 %").count() == 5);
        assert!(Shares::of(&Ports::default()).nobody());
    }

    #[test]
    fn ports_are_joined_and_counted() {
        let ports = Ports::new(vec![(1, 5), (6, 9), (20, 30), (25, 40), (65535, 65535)]);
        assert_eq!(ports, Ports(vec![(1, 9), (20, 40), (65535, 65535)]));
        assert_eq!((ports.among((5, 24)), ports.among((0, 65535)), ports.among((10, 19))), (10, 31, 0));
        assert_eq!(
            (ports.missing((1, 9)), ports.missing((1, 10)), ports.missing((20, 65535))),
            (None, Some(10), Some(41))
        );
        assert_eq!(
            (percent(64511, 64512), percent(1, 64512), percent(1, 2)),
            ("99.9 %".into(), "under 0.1 %".into(), "50 %".into())
        );
    }
}
