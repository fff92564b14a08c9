//! Netfilter as a peer: the same list for nftables, in order and as one set, and for iptables. Each in its fastest form,
//! without counters where it can do without.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use nacl_common::Action;

use crate::{
    place::{Place, lacks},
    rules::Entry,
};

/// A way to have netfilter do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// nftables, the rules in order.
    NftOrdered,
    /// nftables, one verdict map of source and destination port, with intervals (pipapo).
    NftSet,
    /// iptables with its own kernel part.
    IptablesLegacy,
    /// iptables that writes rules of nftables.
    IptablesNft,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NftOrdered, Self::NftSet, Self::IptablesLegacy, Self::IptablesNft];

    /// As rows name it.
    pub const fn subject(self) -> &'static str {
        match self {
            Self::NftOrdered => "nft-ordered",
            Self::NftSet => "nft-set",
            Self::IptablesLegacy | Self::IptablesNft => "iptables",
        }
    }

    /// What tells its rows from others of the same name: `iptables` alone is the legacy one, which is the faster.
    pub const fn variant(self) -> Option<&'static str> {
        match self {
            Self::IptablesNft => Some("iptables-nft"),
            _ => None,
        }
    }

    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IptablesLegacy => "iptables (legacy)",
            _ => self.word(),
        }
    }

    /// A word of its own.
    pub fn word(self) -> &'static str {
        self.variant().unwrap_or(self.subject())
    }

    /// Whether it can be had without any rule.
    pub const fn ordered(self) -> bool {
        !matches!(self, Self::NftSet)
    }

    /// Why it cannot be measured here, where it cannot.
    pub fn missing(self) -> Option<String> {
        let restore = self.restore(4);
        let package = if restore == "nft" { "nftables" } else { "iptables" };
        lacks(restore, package)
    }

    /// Loads what lets connections in that the list allows, and their answers out to these addresses and ports, and nothing
    /// else. `stateful`: the list is asked about new ones only, and answers pass because they are answers.
    pub fn serve(self, place: &Place, inbound: &[Entry], answers: (&str, (u16, u16)), stateful: bool) -> Result<()> {
        let (to, (first, last)) = answers;
        let answers = match (self.restore(4) == "nft", stateful) {
            (true, true) => "ct state established accept".to_owned(),
            (true, false) => format!("ip daddr {to} tcp dport {first}-{last} accept"),
            (false, true) => "-m conntrack --ctstate ESTABLISHED -j ACCEPT".to_owned(),
            (false, false) => format!("-d {to} -p tcp -m tcp --dport {first}:{last} -j ACCEPT"),
        };
        let known = |rule: &str| if stateful { rule.to_owned() } else { String::new() };
        if self.restore(4) == "nft" {
            let priority = if stateful { "filter" } else { "raw" };
            let known = known("    ct state established accept\n");
            let rules = inbound.iter().fold(String::new(), |rules, entry| rules + "    " + &nft(4, entry, "") + "\n");
            let text = format!(
                "table ip bench {{\n  chain in {{\n    type filter hook prerouting priority {priority}; policy drop;\n{known}{rules}  \
                 }}\n  chain out {{\n    type filter hook output priority {priority}; policy drop;\n    {answers}\n  }}\n}}\n"
            );
            place.run("nft", &["-f", "-"], &text)?;
        } else {
            let (table, chain) = if stateful { ("filter", "INPUT") } else { ("raw", "PREROUTING") };
            let known = known(&format!("-A {chain} -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"));
            let rules =
                inbound.iter().fold(String::new(), |rules, entry| rules + "-A " + chain + " " + &xtables(entry) + "\n");
            let text = format!(
                "*{table}\n:{chain} DROP [0:0]\n:OUTPUT DROP [0:0]\n{known}{rules}-A OUTPUT {answers}\nCOMMIT\n"
            );
            place.run(self.restore(4), &[], &text)?;
        }
        Ok(())
    }

    const fn restore(self, family: u8) -> &'static str {
        match (self, family) {
            (Self::NftOrdered | Self::NftSet, _) => "nft",
            (Self::IptablesLegacy, 6) => "ip6tables-legacy-restore",
            (Self::IptablesLegacy, _) => "iptables-legacy-restore",
            (Self::IptablesNft, 6) => "ip6tables-nft-restore",
            (Self::IptablesNft, _) => "iptables-nft-restore",
        }
    }

    /// Loads a list of one family, instead of any it had, before everything else that netfilter does (priority `raw`). What
    /// no rule matches is dropped. `counted`: the last rule counts, which iptables' always do.
    pub fn load(self, place: &Place, family: u8, entries: &[Entry], counted: bool) -> Result<()> {
        let text = match self {
            Self::NftOrdered => ordered(family, entries, counted),
            Self::NftSet => set(family, entries, counted),
            Self::IptablesLegacy | Self::IptablesNft => iptables(entries),
        };
        let arguments: &[&str] = if self.restore(family) == "nft" { &["-f", "-"] } else { &[] };
        place.run(self.restore(family), arguments, &text).with_context(|| self.name())?;
        Ok(())
    }

    /// How often the last rule has decided, of a list loaded with `counted`.
    pub fn last(self, place: &Place, family: u8) -> Result<u64> {
        let save = match (self, family) {
            (Self::NftOrdered | Self::NftSet, family) => return place.nft_counter(table(family), "bench", "last"),
            (Self::IptablesLegacy, 6) => "ip6tables-legacy-save",
            (Self::IptablesLegacy, _) => "iptables-legacy-save",
            (Self::IptablesNft, 6) => "ip6tables-nft-save",
            (Self::IptablesNft, _) => "iptables-nft-save",
        };
        let text = place.run(save, &["-c", "-t", "raw"], "")?;
        // [packets:bytes] -A PREROUTING …
        let last = text.lines().rfind(|line| line.contains(" -A PREROUTING ")).context("no rules")?;
        let packets = last.trim_start_matches('[').split(':').next().context("no counter")?;
        Ok(packets.parse()?)
    }
}

const fn table(family: u8) -> &'static str {
    if family == 6 { "ip6" } else { "ip" }
}

const fn verdict(action: Action) -> &'static str {
    match action {
        Action::Allow => "accept",
        Action::Deny => "drop",
    }
}

/// What replaces the table of an earlier load.
fn fresh(family: u8) -> String {
    let table = table(family);
    format!("add table {table} bench\ndelete table {table} bench\ntable {table} bench {{\n  counter last {{ }}\n")
}

/// A rule of nftables.
fn nft(family: u8, entry: &Entry, count: &str) -> String {
    let ports = match entry.ports {
        (0, u16::MAX) => "meta l4proto tcp".to_owned(),
        (first, last) if first == last => format!("tcp dport {first}"),
        (first, last) => format!("tcp dport {first}-{last}"),
    };
    format!("{} saddr {} {ports} {count}{}", table(family), entry.cidr, verdict(entry.action))
}

/// A rule of iptables.
fn xtables(entry: &Entry) -> String {
    let ports = match entry.ports {
        (0, u16::MAX) => String::new(),
        (first, last) if first == last => format!(" -m tcp --dport {first}"),
        (first, last) => format!(" -m tcp --dport {first}:{last}"),
    };
    format!("-s {} -p tcp{ports} -j {}", entry.cidr, verdict(entry.action).to_uppercase())
}

/// One after the other.
fn ordered(family: u8, entries: &[Entry], counted: bool) -> String {
    let mut text = fresh(family);
    text.push_str("  chain bench {\n    type filter hook prerouting priority raw; policy drop;\n");
    for (index, entry) in entries.iter().enumerate() {
        let count = if counted && index + 1 == entries.len() { "counter name last " } else { "" };
        let _ = writeln!(text, "    {}", nft(family, entry, count));
    }
    text.push_str("  }\n}\n");
    text
}

/// All at once: no entry overlaps another, so their order has no meaning.
fn set(family: u8, entries: &[Entry], counted: bool) -> String {
    let mut text = fresh(family);
    let kind = if family == 6 { "ipv6_addr" } else { "ipv4_addr" };
    let _ = write!(text, "  map verdicts {{\n    type {kind} . inet_service : verdict\n    flags interval\n");
    let elements: Vec<_> = (1..)
        .zip(entries)
        .map(|(number, entry)| {
            let (first, last) = entry.ports;
            let verdict = if counted && number == entries.len() { "goto last" } else { verdict(entry.action) };
            let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
            format!("{} . {ports} : {verdict}", entry.cidr)
        })
        .collect();
    let _ = writeln!(text, "    elements = {{ {} }}\n  }}", elements.join(", "));
    text.push_str("  chain last {\n    counter name last drop\n  }\n");
    text.push_str("  chain bench {\n    type filter hook prerouting priority raw; policy drop;\n");
    let _ = writeln!(text, "    {} saddr . tcp dport vmap @verdicts\n  }}\n}}", table(family));
    text
}

fn iptables(entries: &[Entry]) -> String {
    let mut text = "*raw\n:PREROUTING DROP [0:0]\n".to_owned();
    for entry in entries {
        let _ = writeln!(text, "-A PREROUTING {}", xtables(entry));
    }
    text.push_str("COMMIT\n");
    text
}

/// Fails unless the last rule of a counted list, and nothing else, has decided about so many packets.
pub fn decided(what: &str, last: u64, packets: u64) -> Result<()> {
    ensure!(last == packets, "{what}: the last rule decided about {last} packets, and {packets} were sent");
    Ok(())
}
