//! Rule tables as the AWS console shows them, with hits.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use nacl_common::{Action, Direction, Family};

use super::console;
use crate::{
    observe::{Hits, InterfaceRules, Number, RuleList, RuleRow, minus},
    resolve::Side,
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
        table(&mut out, list, before, width);
    }
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
    if rules.side == Side::Router {
        out.push_str(" · router side");
    }
    if let Some(epoch) = rules.epoch {
        let _ = write!(out, " · epoch {epoch}");
    }
    if !rules.enforce {
        let _ = write!(out, " · {LOUD}MONITOR: nothing is dropped{LOUD:#}");
    }
    out.push_str("\n\n");
}

fn table(out: &mut String, list: &RuleList, before: Option<&RuleList>, width: Option<u16>) {
    let title = match list.direction {
        Direction::Inbound => "Inbound rules",
        Direction::Outbound => "Outbound rules",
    };
    let fits = |table: &Table| {
        width.is_none_or(|width| table.lines().next().is_none_or(|line| line.chars().count() <= usize::from(width)))
    };
    let framed =
        [Leave::Nothing, Leave::Type, Leave::Numbers].map(|leave| columns(list, before, leave)).into_iter().find(fits);
    let _ = writeln!(out, "{BOLD}{title}{BOLD:#}");
    // Cells are plain, so that widths are right; a row's colour is put around its line.
    let rows = list.rules.iter().map(style);
    let (table, above): (_, &[Style]) = match framed {
        Some(table) => (table, &[Style::new(), BOLD, Style::new()]),
        None => (columns(list, before, Leave::Bytes), &[BOLD]),
    };
    for (line, style) in table.lines().zip(above.iter().copied().chain(rows).chain([Style::new()])) {
        let _ = writeln!(out, "{style}{}{style:#}", line.trim_end());
    }
    for subnet in list.same_subnet.iter().filter(|subnet| subnet.hits.is_some_and(|hits| hits.packets > 0)) {
        let hits = subnet.hits.unwrap_or_default();
        let family = if subnet.family == Family::V4 { "IPv4" } else { "IPv6" };
        let _ = writeln!(
            out,
            "{DIM}inside the subnet, where no rule is asked: {} {family} packets, {}{DIM:#}",
            console::count(hits.packets),
            console::bytes(hits.bytes)
        );
    }
    out.push('\n');
}

fn columns(list: &RuleList, before: Option<&RuleList>, leave: Leave) -> Table {
    let remote = match list.direction {
        Direction::Inbound => "Source",
        Direction::Outbound => "Destination",
    };
    let counted = list.rules.iter().any(|rule| rule.hits.is_some());
    let mut header = if leave < Leave::Numbers {
        vec!["Rule number", "Type", "Protocol", "Port range", remote, "Allow/Deny"]
    } else {
        vec!["Rule", "Type", "Protocol", "Port range", remote, "Action"]
    };
    if counted {
        header.extend(["Packets", "Bytes"]);
    }
    if before.is_some() {
        header.push("Since");
    }
    let mut table = Table::new();
    let preset = if leave < Leave::Bytes { presets::UTF8_BORDERS_ONLY } else { presets::NOTHING };
    table.load_preset(preset).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(&header);
    for (at, rule) in list.rules.iter().enumerate() {
        let mut cells = cells(rule, leave);
        if let Some(hits) = rule.hits {
            cells.extend([console::count(hits.packets), console::bytes(hits.bytes)]);
        }
        if let Some(before) = before {
            cells.push(since(rule.hits, before.rules.get(at).and_then(|rule| rule.hits)));
        }
        table.add_row(cells);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        if at >= 6 {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if (at == 1 && leave >= Leave::Type) || (at == 7 && leave >= Leave::Bytes) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
    table
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
    let mut protocol = console::protocol(rule.protocol);
    if leave >= Leave::Numbers
        && let Some((name, _)) = protocol.split_once(" (")
    {
        protocol.truncate(name.len());
    }
    vec![
        rule.rule.to_string(),
        console::kind(rule.protocol, rule.ports, rule.icmp),
        protocol,
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
    sentence.rsplit_once(" (N").map_or(sentence, |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{observe::interface_rules, policy, resolve::NoHost};

    #[test]
    fn tables_fit_the_terminal() {
        let file = include_str!("../../../config/nacld.toml");
        let resolved = policy::load("nacld.toml", file, &NoHost).resolved.expect("a valid policy");
        let mut rules = interface_rules(resolved.interfaces.values().next().expect("an interface"), None, None);
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
