//! Broken returns, cut connections and path MTU black holes: in a sentence, and as what a person reads in `status`, `watch` and before a daemon.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, Style};
use nacl_common::Direction;

use super::{console, count_of, named, rule::protocol_name};
use crate::{
    clients::Client,
    compile::Decider,
    observe::broken::{BrokenReturn, Example, Kind, Remedy, Ruling, TooBig},
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Green)));
const LOUD: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Red)));

/// All of it in one sentence, without the fix.
pub fn sentence(broken: &BrokenReturn) -> String {
    let BrokenReturn { began, protocol, example, enforced, kind, .. } = broken;
    let (src, dst) = (end(example.src, example.sport), end(example.dst, example.dport));
    let into = |direction: Direction| if direction == Direction::Inbound { "in" } else { "out" };
    let dropped = if *enforced { "is dropped" } else { "would be dropped" };
    let protocol = protocol_name(*protocol);
    let to = |port: Option<u16>| port.map(|port| format!(" to port {port}")).unwrap_or_default();
    let (passes, denies) = broken.rulings();
    let (passes, denies) = (rule(passes), rule(denies));
    let mut out = match kind {
        Kind::Reply => {
            let (way, to) = (into(*began), to(example.sport));
            format!("{src} asks {dst} ({protocol}): {passes} lets it {way}, and the reply{to} {dropped} by {denies}")
        }
        Kind::Cut { .. } => {
            let (way, to) = (into(began.reverse()), to(example.dport));
            format!(
                "{src} was connected to {dst} ({protocol}): {passes} lets the answers {way}, and what the client goes on to send{to} \
                 {dropped} by {denies}"
            )
        }
        Kind::TooBig(TooBig { sent, router, mtu }) => {
            let (from, to) = if sent == began { (src, dst) } else { (dst, src) };
            let way = into(*sent);
            let takes = mtu.map(|mtu| format!(" (the next link takes {mtu} bytes)")).unwrap_or_default();
            format!(
                "{from} sends {to} ({protocol}) packets that are too big for a link on their way: {passes} lets them {way}, and what \
                 {router} says of it{takes} {dropped} by {denies}: they are lost, and sent again for nothing"
            )
        }
    };
    if let Some(who) = who(broken) {
        let _ = write!(out, "; {who}");
    }
    out
}

/// What each is called, and what that means, in the order in which they are shown.
const NAMES: [(&str, &str); 3] = [
    ("broken return", "requests pass, and their replies do not"),
    ("cut connection", "they ran, and what clients go on to send is denied"),
    ("path MTU black hole", "packets are too big for a link, and the message that says so is denied"),
];

/// What it is called.
pub const fn name(kind: Kind) -> &'static str {
    let place = match kind {
        Kind::Reply => 0,
        Kind::Cut { .. } => 1,
        Kind::TooBig(_) => 2,
    };
    NAMES[place].0
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

/// Who picks such a port, where that matters.
fn who(broken: &BrokenReturn) -> Option<String> {
    let port = broken.example.sport.filter(|_| !matches!(broken.kind, Kind::TooBig(_)))?;
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
    let title = name(broken.kind).to_uppercase();
    let mut out = format!("{LOUD}{title}{LOUD:#} on {BOLD}{place}{BOLD:#}: {says}\n");
    out.push_str(&fix(broken));
    out
}

/// All of them, for the status: loud where there are any, nothing where there are none.
pub fn section(all: &[BrokenReturn]) -> String {
    let of = |called: &str| all.iter().filter(|broken| name(broken.kind) == called).collect::<Vec<_>>();
    NAMES.iter().map(|(called, means)| part(&of(called), &called.to_uppercase(), means)).collect()
}

fn part(all: &[&BrokenReturn], title: &str, means: &str) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut out = format!("{LOUD}{}{LOUD:#}: {means}\n", count_of(all.len(), title));
    for broken in all {
        let BrokenReturn { interface, device, netns, says, replies, first, last, kind, .. } = broken;
        let place = named(interface, device, netns.as_deref());
        let _ = writeln!(out, "  {BOLD}{place}{BOLD:#}  {says}");
        let what = match kind {
            Kind::Reply => "replies",
            Kind::Cut { .. } => "packets",
            Kind::TooBig(_) => "messages",
        };
        let replies = console::count(*replies);
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
