//! Broken returns and cut connections: in a sentence, and as what a person reads in `status`, `watch` and before a daemon.

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
    let BrokenReturn { began, protocol, example, request, reply, enforced, cut, .. } = broken;
    let (src, dst) = (end(example.src, example.sport), end(example.dst, example.dport));
    let inbound = *began == Direction::Inbound;
    let dropped = if *enforced { "is dropped" } else { "would be dropped" };
    let protocol = protocol_name(*protocol);
    let mut out = if *cut {
        let passes = if inbound { "lets the answers out" } else { "lets the answers in" };
        let to = example.dport.map(|port| format!(" to port {port}")).unwrap_or_default();
        format!(
            "{src} was connected to {dst} ({protocol}): {} {passes}, and what the client goes on to send{to} {dropped} by {}",
            rule(reply),
            rule(request)
        )
    } else {
        let passes = if inbound { "lets it in" } else { "lets it out" };
        let to = example.sport.map(|port| format!(" to port {port}")).unwrap_or_default();
        format!(
            "{src} asks {dst} ({protocol}): {} {passes}, and the reply{to} {dropped} by {}",
            rule(request),
            rule(reply)
        )
    };
    if let Some(who) = who(broken) {
        let _ = write!(out, "; {who}");
    }
    out
}

/// What it is called, and what that means.
const fn title(cut: bool) -> (&'static str, &'static str) {
    if cut {
        ("CUT CONNECTION", "they ran, and what clients go on to send is denied")
    } else {
        ("BROKEN RETURN", "requests pass, and their replies do not")
    }
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
    let (title, _) = title(broken.cut);
    let mut out = format!("{LOUD}{title}{LOUD:#} on {BOLD}{place}{BOLD:#}: {says}\n");
    out.push_str(&fix(broken));
    out
}

/// All of them, for the status: loud where there are any, nothing where there are none.
pub fn section(all: &[BrokenReturn]) -> String {
    [false, true].into_iter().map(|cut| part(all.iter().filter(|broken| broken.cut == cut), title(cut))).collect()
}

fn part<'b>(all: impl Iterator<Item = &'b BrokenReturn> + Clone, (title, means): (&str, &str)) -> String {
    let count = all.clone().count();
    if count == 0 {
        return String::new();
    }
    let mut out = format!("{LOUD}{}{LOUD:#}: {means}\n", count_of(count, title));
    for broken in all {
        let BrokenReturn { interface, device, netns, says, replies, first, last, cut, .. } = broken;
        let place = named(interface, device, netns.as_deref());
        let _ = writeln!(out, "  {BOLD}{place}{BOLD:#}  {says}");
        let (what, replies) = (if *cut { "packets" } else { "replies" }, console::count(*replies));
        let _ = writeln!(out, "    {DIM}denied {what} seen: {replies}, first {first}, last {last}{DIM:#}");
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
