//! Rule tables as the AWS console shows them, with hits.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use nacl_common::{Action, Direction, Family};

use super::console;
use crate::{
    observe::{ExemptionRow, GroupRow, Hits, InterfaceRules, Number, RuleList, RuleRow, WayHits, minus},
    resolve::{Layers, Mode, Protocol, Side},
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const RED: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
const GREEN: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
const LOUD: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));

/// What is left out, one more at a time, until a table fits a narrow terminal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Leave {
    Nothing,
    /// The console's name for protocol and ports, which stand beside it.
    Type,
    /// Protocol numbers, and the second word of a heading.
    Numbers,
    /// And the frame.
    Bytes,
}

/// The tables of an interface as styled text. `before`: what was counted at the last look, for a column of what has
/// come since. `width`: columns of the terminal it is shown on, if it is one.
pub fn text(rules: &InterfaceRules, before: Option<&InterfaceRules>, width: Option<u16>) -> String {
    let mut out = String::new();
    heading(&mut out, rules);
    for (at, list) in rules.lists.iter().enumerate() {
        let before =
            before.and_then(|before| before.lists.get(at)).filter(|before| before.rules.len() == list.rules.len());
        nacl_table(&mut out, list, before, width);
    }
    groups(&mut out, rules, before, width);
    exemptions(&mut out, rules, before, width);
    tracked(&mut out, &rules.tracked);
    if !rules.reasons.is_empty() {
        reasons(&mut out, rules, width);
    }
    if rules.events_suppressed > 0 {
        let _ = writeln!(
            out,
            "{DIM}{} events were not reported for lack of budget; the counters above are complete.{DIM:#}",
            console::count(rules.events_suppressed)
        );
    }
    out
}

fn heading(out: &mut String, rules: &InterfaceRules) {
    let _ = write!(out, "{BOLD}{}{BOLD:#}", rules.interface);
    if rules.interface != rules.device {
        let _ = write!(out, " on {}", rules.device);
    }
    if let Some(netns) = &rules.netns {
        let _ = write!(out, " in netns {netns}");
    }
    let _ = write!(out, " · network ACL {BOLD}{}{BOLD:#}", rules.nacl);
    if let Some(id) = &rules.nacl_id {
        let _ = write!(out, " ({id})");
    }
    if let Some(subnet) = &rules.subnet {
        let _ = write!(out, " · subnet {subnet}");
    }
    let (setting, policy) = (rules.modes.in_force, rules.modes.policy);
    let live = if (setting.mode, setting.layers) == (policy.mode, policy.layers) { "" } else { " (set live)" };
    if setting.mode == Mode::Stateful || !live.is_empty() {
        let _ = write!(out, " · {}{live}", setting.mode.name());
    }
    if setting.layers != Layers::Both {
        let _ = write!(out, " · {LOUD}layers = {}{LOUD:#}", setting.layers.name());
    }
    if rules.side == Side::Router {
        out.push_str(" · router side");
    }
    if let Some(epoch) = rules.epoch {
        let _ = write!(out, " · epoch {epoch}");
    }
    out.push('\n');
    if !setting.enforce {
        let _ = writeln!(out, "{LOUD}MONITOR ONLY: what is denied below is counted, and goes on{LOUD:#}");
    }
    out.push('\n');
}

/// A table before it is laid out: what stands in every row, and how it looks.
struct Sheet<'s> {
    header: Vec<&'s str>,
    rows: Vec<Row>,
    /// Whether there is a column of what has come since the last look.
    since: bool,
}

struct Row {
    cells: Vec<String>,
    hits: Option<Hits>,
    before: Option<Hits>,
    style: Style,
}

impl Sheet<'_> {
    /// As wide as it may be. `sheet`: the same table with less and less in it.
    fn write(out: &mut String, title: &str, sheet: impl Fn(Leave) -> Self, width: Option<u16>) {
        let fits = |table: &Table| {
            width.is_none_or(|width| table.lines().next().is_none_or(|line| line.chars().count() <= usize::from(width)))
        };
        let _ = writeln!(out, "{BOLD}{title}{BOLD:#}");
        let laid = |leave| {
            let sheet = sheet(leave);
            (sheet.lay(leave), sheet.rows.iter().map(|row| row.style).collect::<Vec<_>>())
        };
        let framed = [Leave::Nothing, Leave::Type, Leave::Numbers].map(laid).into_iter().find(|(table, _)| fits(table));
        // Cells are plain, so that widths are right; a row's colour is put around its line.
        let ((table, rows), above): (_, &[Style]) = match framed {
            Some(framed) => (framed, &[Style::new(), BOLD, Style::new()]),
            None => (laid(Leave::Bytes), &[BOLD]),
        };
        for (line, style) in table.lines().zip(above.iter().copied().chain(rows).chain([Style::new()])) {
            let _ = writeln!(out, "{style}{}{style:#}", line.trim_end());
        }
    }

    fn lay(&self, leave: Leave) -> Table {
        let mut header = self.header.clone();
        let own = header.len();
        if self.rows.iter().any(|row| row.hits.is_some()) {
            header.extend(["Packets", "Bytes"]);
        }
        if self.since {
            header.push("Since");
        }
        let mut table = Table::new();
        let preset = if leave < Leave::Bytes { presets::UTF8_BORDERS_ONLY } else { presets::NOTHING };
        table.load_preset(preset).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(&header);
        for row in &self.rows {
            let mut cells = row.cells.clone();
            if let Some(hits) = row.hits {
                cells.extend([console::count(hits.packets), console::bytes(hits.bytes)]);
            }
            if self.since {
                cells.push(since(row.hits, row.before));
            }
            table.add_row(cells);
        }
        for (at, column) in table.column_iter_mut().enumerate() {
            if at >= own {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if (at == 1 && leave >= Leave::Type) || (at == own + 1 && leave >= Leave::Bytes) {
                column.set_constraint(ColumnConstraint::Hidden);
            }
        }
        table
    }
}

fn nacl_table(out: &mut String, list: &RuleList, before: Option<&RuleList>, width: Option<u16>) {
    let (title, remote) = match list.direction {
        Direction::Inbound => ("Inbound rules", "Source"),
        Direction::Outbound => ("Outbound rules", "Destination"),
    };
    let rows = |leave| {
        list.rules.iter().enumerate().map(move |(at, rule)| Row {
            cells: cells(rule, leave),
            hits: rule.hits,
            before: before.and_then(|before| before.rules.get(at)).and_then(|rule| rule.hits),
            style: style(rule),
        })
    };
    let sheet = |leave| Sheet {
        header: if leave < Leave::Numbers {
            vec!["Rule number", "Type", "Protocol", "Port range", remote, "Allow/Deny"]
        } else {
            vec!["Rule", "Type", "Protocol", "Port range", remote, "Action"]
        },
        rows: rows(leave).collect(),
        since: before.is_some(),
    };
    Sheet::write(out, title, sheet, width);
    for subnet in list.same_subnet.iter().filter(|subnet| subnet.hits.is_some_and(|hits| hits.packets > 0)) {
        let hits = subnet.hits.unwrap_or_default();
        let _ = writeln!(
            out,
            "{DIM}inside the subnet, where no rule is asked: {} {} packets, {}{DIM:#}",
            console::count(hits.packets),
            family(subnet.family),
            console::bytes(hits.bytes)
        );
    }
    out.push('\n');
}

const fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn groups(out: &mut String, rules: &InterfaceRules, before: Option<&InterfaceRules>, width: Option<u16>) {
    let Some(groups) = &rules.groups else { return };
    if groups.is_empty() {
        let _ = writeln!(out, "{LOUD}no security group{LOUD:#}: an empty list, which lets nothing pass\n");
    }
    for group in groups {
        let id = group.id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
        let _ = writeln!(out, "security group {BOLD}{}{BOLD:#}{id}\n", group.name);
        let before = before.and_then(|before| before.groups.as_ref()?.iter().find(|old| old.name == group.name));
        for (title, remote, rows, before) in [
            ("Inbound rules", "Source", &group.inbound, before.map(|before| &before.inbound)),
            ("Outbound rules", "Destination", &group.outbound, before.map(|before| &before.outbound)),
        ] {
            if rows.is_empty() {
                let _ = writeln!(out, "{BOLD}{title}{BOLD:#}\n{DIM}none{DIM:#}\n");
                continue;
            }
            let before = before.filter(|before| before.len() == rows.len());
            let sheet = |leave| Sheet {
                header: vec!["Rule", "Type", "Protocol", "Port range", remote],
                rows: rows
                    .iter()
                    .enumerate()
                    .map(|(at, row)| group_row(row, before.and_then(|all| all.get(at)), leave))
                    .collect(),
                since: before.is_some(),
            };
            Sheet::write(out, title, sheet, width);
            out.push('\n');
        }
    }
    for way in rules.unmatched.iter().filter(|way| met(way)) {
        let hits = way.hits.unwrap_or_default();
        let _ = writeln!(
            out,
            "{RED}no {} rule of any security group matched: {} {} packets, {}{RED:#}",
            way.direction.name(),
            console::count(hits.packets),
            family(way.family),
            console::bytes(hits.bytes)
        );
    }
    if rules.unmatched.iter().any(met) {
        out.push('\n');
    }
}

fn met(way: &WayHits) -> bool {
    way.hits.is_some_and(|hits| hits.packets > 0)
}

fn group_row(row: &GroupRow, before: Option<&GroupRow>, leave: Leave) -> Row {
    let family = if row.cidrs.iter().all(|cidr| cidr.addr().is_ipv6()) { Family::V6 } else { Family::V4 };
    Row {
        cells: vec![
            row.position.to_string(),
            console::kind(row.protocol, row.ports, row.icmp),
            protocol(row.protocol, leave),
            console::ports(family, row.ports, row.icmp),
            peer(row),
        ],
        hits: row.hits,
        before: before.and_then(|before| before.hits),
        style: if row.hits.is_some_and(|hits| hits.packets > 0) { GREEN } else { Style::new() },
    }
}

/// The other end as it is written, and what that means here.
fn peer(row: &GroupRow) -> String {
    const SHOWN: usize = 2;
    if row.cidrs.len() == 1 && row.cidrs[0].to_string() == row.peer {
        return row.peer.clone();
    }
    let shown: Vec<_> = row.cidrs.iter().take(SHOWN).map(ToString::to_string).collect();
    match row.cidrs.len() {
        0 => format!("{} (no address: matches nothing)", row.peer),
        count if count > SHOWN => format!("{} ({}, {} more)", row.peer, shown.join(", "), count - SHOWN),
        _ => format!("{} ({})", row.peer, shown.join(", ")),
    }
}

fn exemptions(out: &mut String, rules: &InterfaceRules, before: Option<&InterfaceRules>, width: Option<u16>) {
    let before = before.map(|before| &before.exemptions).filter(|before| before.len() == rules.exemptions.len());
    // AWS's own are many and the same everywhere: those that were met stand in the table, the others in a line.
    let met = |row: &ExemptionRow| row.failsafe || row.hits.is_some_and(|hits| hits.packets > 0);
    let mut silent: Vec<&str> = rules.exemptions.iter().filter(|row| !met(row)).map(|row| row.name.as_str()).collect();
    silent.sort_unstable();
    silent.dedup();
    if !silent.is_empty() {
        let mut line = "AWS filters none of these (exemptions = \"aws\"):".to_owned();
        for (at, name) in silent.iter().enumerate() {
            let next = format!(" {name}{}", if at + 1 < silent.len() { "," } else { "" });
            if width.is_some_and(|width| line.chars().count() + next.chars().count() > usize::from(width)) {
                let _ = writeln!(out, "{DIM}{line}{DIM:#}");
                line = String::from(" ");
            }
            line.push_str(&next);
        }
        let _ = writeln!(out, "{DIM}{line}{DIM:#}\n");
    }
    if !rules.exemptions.iter().any(met) {
        return;
    }
    let row = |(at, row): (usize, &ExemptionRow), leave| Row {
        cells: vec![
            row.name.clone(),
            console::kind(row.protocol, row.ports, None),
            protocol(row.protocol, leave),
            console::ports(Family::V4, row.ports, None),
            if row.service == "local" { format!("from {}", row.cidr) } else { format!("at {}", row.cidr) },
        ],
        hits: row.hits,
        before: before.and_then(|before| before.get(at)).and_then(|row| row.hits),
        style: if row.hits.is_some_and(|hits| hits.packets > 0) { GREEN } else { DIM },
    };
    let sheet = |leave| Sheet {
        header: vec!["Service", "Type", "Protocol", "Port range", "Other end"],
        rows: rules
            .exemptions
            .iter()
            .enumerate()
            .filter(|(_, exemption)| met(exemption))
            .map(|exemption| row(exemption, leave))
            .collect(),
        since: before.is_some(),
    };
    Sheet::write(out, "Passes unjudged, replies too", sheet, width);
    out.push('\n');
}

/// What passed because it is remembered, and so met no rule.
fn tracked(out: &mut String, ways: &[WayHits]) {
    for way in ways.iter().filter(|way| met(way)) {
        let hits = way.hits.unwrap_or_default();
        let _ = writeln!(
            out,
            "{DIM}tracked: {} {} {} packets of remembered connections, {}{DIM:#}",
            console::count(hits.packets),
            way.direction.name(),
            family(way.family),
            console::bytes(hits.bytes)
        );
    }
    if ways.iter().any(met) {
        out.push('\n');
    }
}

fn protocol(number: Protocol, leave: Leave) -> String {
    let mut protocol = console::protocol(number);
    if leave >= Leave::Numbers
        && let Some((name, _)) = protocol.split_once(" (")
    {
        protocol.truncate(name.len());
    }
    protocol
}

fn cells(rule: &RuleRow, leave: Leave) -> Vec<String> {
    let remote = match &rule.reference {
        Some(reference) => format!("{} ({reference})", rule.cidr),
        None => rule.cidr.to_string(),
    };
    let action = match rule.action {
        Action::Allow => "Allow",
        Action::Deny => "Deny",
    };
    vec![
        rule.rule.to_string(),
        console::kind(rule.protocol, rule.ports, rule.icmp),
        protocol(rule.protocol, leave),
        console::ports(rule.family, rule.ports, rule.icmp),
        remote,
        action.to_owned(),
    ]
}

fn since(now: Option<Hits>, before: Option<Hits>) -> String {
    match minus(now.unwrap_or_default(), before.unwrap_or_default()).packets {
        0 => String::new(),
        packets => format!("+{}", console::count(packets)),
    }
}

/// Rules that were hit stand out, in the colour of what they do; the implied one stays in the background.
fn style(rule: &RuleRow) -> Style {
    match (rule.hits.is_some_and(|hits| hits.packets > 0), rule.action) {
        (true, Action::Allow) => GREEN,
        (true, Action::Deny) => RED,
        (false, _) if rule.rule == Number::Implied => DIM,
        (false, _) => Style::new(),
    }
}

fn reasons(out: &mut String, rules: &InterfaceRules, width: Option<u16>) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for reason in &rules.reasons {
        table.add_row([
            reason.direction.name().to_owned(),
            reason.reason.clone(),
            console::count(reason.hits.packets),
            console::bytes(reason.hits.bytes),
            plain(&reason.meaning).to_owned(),
        ]);
    }
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let _ = writeln!(out, "{BOLD}Why packets passed or were dropped{BOLD:#}");
    for line in table.lines() {
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push('\n');
}

/// A sentence without the numbers of the facts it stands on, which are for those who read the source.
fn plain(sentence: &str) -> &str {
    let cut = |mark| sentence.rsplit_once(mark).map(|(text, _)| text);
    cut(" (N").or_else(|| cut(" (S")).unwrap_or(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observe::{Setting, interface_rules},
        policy,
        resolve::NoHost,
    };

    #[test]
    fn tables_fit_the_terminal() {
        let file = include_str!("../../../config/nacld.toml");
        let resolved = policy::load("nacld.toml", file, &NoHost).resolved.expect("a valid policy");
        let (name, interface) = resolved.interfaces.iter().next().expect("an interface");
        let mut rules = interface_rules(name, interface, Setting::of(interface), None, None);
        for rule in rules.lists.iter_mut().flat_map(|list| &mut list.rules) {
            rule.hits = Some(Hits { packets: 12_345, bytes: 67_890_123 });
        }
        let widest =
            |text: &str| text.lines().map(|line| anstream::adapter::strip_str(line).to_string().chars().count()).max();
        let full = text(&rules, None, None);
        assert!(full.contains("Rule number   Type") && full.contains("IPv6-ICMP (58)"), "{full}");
        assert!(widest(&full) > Some(100), "this test shows nothing");
        for width in [130, 110, 100, 80] {
            let shown = text(&rules, None, Some(width));
            assert!(widest(&shown) <= Some(width.into()), "{width}:\n{shown}");
            assert!(shown.contains("12,345") && shown.contains("Echo Request"), "{shown}");
        }
        // Narrower than any: the narrowest form.
        assert!(!text(&rules, None, Some(20)).contains("Bytes"));
    }
}
