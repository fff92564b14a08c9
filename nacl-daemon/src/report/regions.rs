//! Regions of packets as lines of a table and as JSON; their examples as something to paste into `nacld explain`.

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use nacl_common::{Action, Direction, Family, Fragment, Packet};
use serde_json::{Value, json};

use super::rule::{endpoint, protocol_name};
use crate::{
    analyze::{Decided, Flow, address, sets::Rectangle},
    policy,
};

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GREEN: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub(super) const RED: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));

/// Items of a set that a line of a table names.
const ITEMS: usize = 6;

/// Where to look a rule up.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The policy file.
    pub file: &'a str,
    /// The interface.
    pub interface: &'a str,
}

pub(super) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// What decided, as `inbound 100 (line 12)`.
pub(super) fn rule(decided: &Decided) -> String {
    match decided.slot.as_ref().map(|slot| slot.line).filter(|line| *line > 0) {
        Some(line) => format!("{} (line {line})", decided.by),
        None => decided.by.to_string(),
    }
}

/// As `allowed by inbound 100 (line 12)`.
pub(super) fn said(decided: &Decided) -> String {
    let word = if decided.action == Action::Allow { "allowed" } else { "denied" };
    format!("{word} by {}", rule(decided))
}

pub(super) fn decided_json(decided: &Decided) -> Value {
    json!({
        "action": decided.action.name(),
        "layer": decided.by.layer().name(),
        "by": decided.by,
        "line": decided.slot.as_ref().map(|slot| slot.line).filter(|line| *line > 0),
    })
}

/// The remote end's place in a packet, as AWS calls it.
pub(super) const fn remote_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "Source",
        Direction::Outbound => "Destination",
    }
}

/// The cells of a box: addresses, traffic.
pub(super) fn cells(one: &Rectangle) -> [String; 2] {
    [one.addresses.short(ITEMS), one.traffic.short(ITEMS)]
}

/// A table without lines, as wide as it may be.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    // Asked for no width, it is not to ask the terminal by itself.
    table.set_content_arrangement(if width.is_some() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    if let Some(width) = width {
        table.set_width(width);
    }
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// What `explain` is told of a packet: `tcp 198.51.100.7:50000 10.0.1.10:443`. `None`: it cannot be told in words.
pub fn arguments(packet: &Packet) -> Option<String> {
    let icmp = packet.protocol == if packet.family == Family::V4 { 1 } else { 58 };
    let protocol = protocol_name(packet.protocol);
    let (from, to) = (endpoint(packet, packet.src, packet.sport), endpoint(packet, packet.dst, packet.dport));
    let kind = icmp.then(|| format!("{}/{}", packet.dport >> 8, packet.dport & 0xff));
    let said = Flow::parse(&protocol, &from, &to, kind.as_deref()).and_then(|flow| flow.request());
    let kind = kind.map(|kind| format!(" --icmp {kind}")).unwrap_or_default();
    (said.as_ref() == Ok(packet)).then(|| format!("{protocol} {from} {to}{kind}"))
}

/// A packet as a line of `explain --jsonl`.
pub fn line(direction: Direction, packet: &Packet) -> Value {
    let later = packet.fragment == Fragment::Later;
    let mut line = json!({
        "direction": direction.name(),
        "src": address(packet.family, packet.src),
        "dst": address(packet.family, packet.dst),
        "protocol": packet.protocol,
    });
    if matches!(packet.protocol, 6 | 17) && !later {
        line["sport"] = packet.sport.into();
        line["dport"] = packet.dport.into();
        if packet.protocol == 6 {
            line["tcp_flags"] = "S".into();
        }
    }
    if packet.protocol == (if packet.family == Family::V4 { 1 } else { 58 }) && !later {
        line["icmp_type"] = (packet.dport >> 8).into();
        line["icmp_code"] = (packet.dport & 0xff).into();
    }
    match packet.fragment {
        Fragment::None => {}
        Fragment::First => line["fragment"] = "first".into(),
        Fragment::Later => line["fragment"] = "later".into(),
    }
    if packet.hop_limit != 64 {
        line["hop_limit"] = packet.hop_limit.into();
    }
    line
}

/// An example in a cell of a table.
pub(super) fn example(direction: Direction, packet: &Packet) -> String {
    arguments(packet).unwrap_or_else(|| line(direction, packet).to_string())
}

/// The command that explains a packet; nothing where the policy stands in no file that it could name.
pub(super) fn command(place: Place<'_>, direction: Direction, packet: &Packet) -> Option<String> {
    let Place { file, interface } = place;
    if file == policy::STDIN {
        return None;
    }
    let explain = format!("nacld explain --config {} --interface {}", word(file), word(interface));
    Some(match arguments(packet) {
        Some(arguments) => format!("{explain} --direction {} {arguments}", direction.name()),
        None => format!("echo '{}' | {explain} --jsonl", line(direction, packet)),
    })
}

/// How to have a packet explained, in two lines.
pub(super) fn invitation(place: Place<'_>, direction: Direction, packet: &Packet) -> [String; 2] {
    let words = |[what, how]: [&str; 2]| [what.to_owned(), how.to_owned()];
    match command(place, direction, packet) {
        Some(command) => words(["An example, explained:", &command]),
        None => {
            words(["To have an example explained, save the policy in a file:", "nacld explain takes it by --config."])
        }
    }
}

/// A word of a command line, in quotes where a shell would read it otherwise.
fn word(text: &str) -> String {
    let plain = |sign: char| sign.is_ascii_alphanumeric() || "-_./:@%+=,".contains(sign);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

pub(super) fn json(place: Place<'_>, direction: Direction, boxes: &[Rectangle]) -> Value {
    let one = |one: &Rectangle| {
        json!({
            "remote": {
                "text": one.addresses.to_string(),
                "cidrs": one.addresses.cidrs().iter().map(ToString::to_string).collect::<Vec<_>>(),
            },
            "traffic": { "text": one.traffic.to_string(), "keys": one.traffic.json() },
            "example": { "packet": line(direction, &one.example), "explain": command(place, direction, &one.example) },
        })
    };
    boxes.iter().map(one).collect::<Vec<_>>().into()
}
