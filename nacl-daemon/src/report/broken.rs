//! Broken returns: in a sentence, and as what a person reads in `status`, `watch` and before a daemon.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, Style};
use nacl_common::Direction;

use super::{console, count_of, named, rule::protocol_name};
use crate::{
    clients::Client,
    compile::Decider,
    observe::broken::{BrokenReturn, Example, Remedy, Ruling},
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Green)));
const LOUD: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Red)));

/// All of it in one sentence, without the fix.
pub fn sentence(broken: &BrokenReturn) -> String {
    let BrokenReturn { began, protocol, example, request, reply, enforced, .. } = broken;
    let (src, dst) = (end(example.src, example.sport), end(example.dst, example.dport));
    let passes = if *began == Direction::Inbound { "lets it in" } else { "lets it out" };
    let denied = if *enforced { "is dropped" } else { "would be dropped" };
    let to = example.sport.map(|port| format!(" to port {port}")).unwrap_or_default();
    let mut out = format!(
        "{src} asks {dst} ({}): {} {passes}, and the reply{to} {denied} by {}",
        protocol_name(*protocol),
        rule(request),
        rule(reply)
    );
    if let Some(who) = who(broken) {
        let _ = write!(out, "; {who}");
    }
    out
}

fn end(address: std::net::IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| std::net::SocketAddr::new(address, port).to_string())
}

/// `inbound rule 100 of "web" (line 4)`.
fn rule(Ruling { decided_by, name, line }: &Ruling) -> String {
    let line = if *line > 0 { format!(" (line {line})") } else { String::new() };
    match decided_by {
        Decider::Nacl { direction, number } => format!("{} rule {number} of {name:?}{line}", direction.name()),
        Decider::NaclImplied { direction } => {
            format!("{} rule * of {name:?}, because no numbered rule matches", direction.name())
        }
        Decider::Group { group, direction, position } => {
            format!("{} rule {position} of security group {group:?}{line}", direction.name())
        }
        Decider::GroupImplied { direction } => {
            format!("the security groups, because no {} rule matches", direction.name())
        }
        Decider::Tracked { .. } => "its connection, which is remembered,".to_owned(),
        Decider::SameSubnet => "the subnet, inside which the network ACL is not consulted,".to_owned(),
        Decider::Unlisted(reason) => reason.name().to_owned(),
    }
}

/// Who picks such a port.
fn who(broken: &BrokenReturn) -> Option<String> {
    let port = broken.example.sport?;
    let titles: Vec<_> = broken.clients.iter().copied().map(Client::title).collect();
    match titles.as_slice() {
        [] => Some(format!("no system picks port {port} by itself")),
        [one] => Some(format!("port {port} is one of {one}")),
        [all @ .., last] => Some(format!("port {port} may be one of {} or {last}", all.join(", "))),
    }
}

/// One, as it is told when it is found, and shown in `watch`.
pub fn found(broken: &BrokenReturn) -> String {
    let BrokenReturn { interface, device, netns, says, .. } = broken;
    let place = named(interface, device, netns.as_deref());
    let mut out = format!("{LOUD}BROKEN RETURN{LOUD:#} on {BOLD}{place}{BOLD:#}: {says}\n");
    out.push_str(&fix(broken));
    out
}

/// All of them, for the status: loud where there are any, nothing where there are none.
pub fn section(all: &[BrokenReturn]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut out =
        format!("{LOUD}{}{LOUD:#}: requests pass, and their replies do not\n", count_of(all.len(), "BROKEN RETURN"));
    for broken in all {
        let BrokenReturn { interface, device, netns, says, replies, first, last, .. } = broken;
        let place = named(interface, device, netns.as_deref());
        let _ = writeln!(out, "  {BOLD}{place}{BOLD:#}  {says}");
        let replies = console::count(*replies);
        let _ = writeln!(out, "    {DIM}denied replies seen: {replies}, first {first}, last {last}{DIM:#}");
        out.push_str(&fix(broken));
    }
    out.push('\n');
    out
}

fn fix(broken: &BrokenReturn) -> String {
    let mut out = String::new();
    let Some(rules) = &broken.fix else {
        let _ = writeln!(out, "    no rule that could be added mends it");
        return out;
    };
    for Remedy { nacl, group, direction, rule } in rules {
        let table = match (nacl, group) {
            (Some(nacl), _) => format!("[nacl.{}]", super::rule::key(nacl)),
            (None, group) => format!("[security_group.{}]", super::rule::key(group.as_deref().unwrap_or_default())),
        };
        let _ = writeln!(out, "    {GREEN}fix{GREEN:#}: add to {} of {table}: {BOLD}{rule}{BOLD:#}", direction.name());
    }
    out
}

/// Who asks whom, for a log line.
pub fn ends(Example { src, dst, sport, dport, .. }: &Example) -> (String, String) {
    (end(*src, *sport), end(*dst, *dport))
}
