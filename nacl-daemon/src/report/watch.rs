//! Verdicts as they happen, one aligned line each: for `watch`, and for a daemon that tells of what it drops.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, Style};

use super::{console, rule::protocol_name};
use crate::observe::Record;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Green)));
const RED: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Red)));
const LOUD: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));

/// One verdict: when, where, which way, what, who to whom, and why. A letter says what the colour says: A, D, and M for what is only
/// monitored and went on.
pub fn record(record: &Record) -> String {
    let (style, letter, verdict) = match (record.action.as_str(), record.enforced) {
        ("allow", _) => (GREEN, 'A', "allow"),
        (_, true) => (RED, 'D', "deny"),
        (_, false) => (LOUD, 'M', "would be dropped"),
    };
    let time = record.time.get(11..23).unwrap_or(&record.time);
    let protocol = record.protocol.map_or_else(|| "frame".to_owned(), protocol_name);
    let Record { interface, direction, .. } = record;
    let mut out =
        format!("{DIM}{time}{DIM:#} {interface:<8} {direction:<8} {style}{letter} {verdict:<5}{style:#} {protocol:<6}");
    if record.src.is_some() {
        let _ = write!(out, " {:>21} → {:<21}", record.source(), record.destination());
    }
    let mut about = String::new();
    if let (Some(kind), Some(code)) = (record.icmp_type, record.icmp_code) {
        let _ = write!(about, "type {kind} code {code}");
    }
    about.push_str(record.tcp_flags.as_deref().unwrap_or_default());
    if record.fragment {
        about.push_str("later fragment");
    }
    if let Some(packet) = &record.about {
        let protocol = protocol_name(packet.protocol);
        let _ = write!(about, ", about {protocol} {} → {}", packet.source(), packet.destination());
        if let Some(mtu) = packet.mtu {
            let _ = write!(about, ", MTU {mtu}");
        }
    }
    let _ = writeln!(out, " {about:<8}  {}", why(record));
    out
}

/// Verdicts that nobody can be told of any more.
pub fn missed(suppressed: u64, missed: u64) -> String {
    let mut out = String::new();
    if suppressed > 0 {
        let count = console::count(suppressed);
        let _ = writeln!(
            out,
            "{LOUD}… {count} more were not reported: too many at once; `nacld rules` has the counts{LOUD:#}"
        );
    }
    if missed > 0 {
        let count = console::count(missed);
        let _ = writeln!(out, "{LOUD}… {count} more came faster than they could be shown{LOUD:#}");
    }
    out
}

/// Who decided, and by which rule.
fn why(record: &Record) -> String {
    let line = record.line.filter(|line| *line > 0).map(|line| format!(", line {line}")).unwrap_or_default();
    let direction = &record.direction;
    if let (Some(nacl), Some(rule)) = (&record.nacl, &record.rule) {
        return format!("{DIM}{nacl} rule{DIM:#} {BOLD}{rule}{BOLD:#}{DIM}{line}{DIM:#}");
    }
    if let (Some(group), Some(position)) = (&record.group, record.position) {
        return format!(
            "{DIM}security group {group} {direction} rule{DIM:#} {BOLD}{position}{BOLD:#}{DIM}{line}{DIM:#}"
        );
    }
    let denied = if record.enforced { "dropped" } else { "denied" };
    match &record.groups[..] {
        [] => {}
        [group] => {
            return format!("{denied} by security group {BOLD}{group}{BOLD:#}: no {direction} rule matches");
        }
        groups => {
            let groups = groups.join(", ");
            return format!("{denied} by security groups {BOLD}{groups}{BOLD:#}: no {direction} rule of any matches");
        }
    }
    match &record.exemption {
        Some(exemption) => format!("{DIM}{}: {exemption}{line}{DIM:#}", record.reason),
        None => format!("{DIM}{}{DIM:#}", record.reason),
    }
}
