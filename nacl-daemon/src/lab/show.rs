//! Labs and their results as text for a terminal. Styled with ANSI escapes; whoever prints takes them away where colour is
//! not wanted (`anstream`). Never asks anything.

use std::{collections::BTreeMap, fmt::Write as _};

use anstyle::{AnsiColor, Style};

use super::{
    Lab, LabReport, Level, Outcome,
    outcome::{Observation, ProbeReport, StepReport},
};

pub(super) const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub(super) const BAD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
pub(super) const WARN: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
pub(super) const NOTE: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan)));
pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();

/// Columns text is wrapped to: what fits every terminal.
pub(super) const WIDTH: usize = 88;

/// The list of labs.
pub fn list(labs: &[Lab]) -> String {
    let mut out = String::new();
    for lab in labs {
        let levels: Vec<String> = lab.levels().iter().map(Level::to_string).collect();
        let levels = if lab.without_wire.is_some() { format!("  ({} only)", levels.join(", ")) } else { String::new() };
        let _ = writeln!(out, "{BOLD}{:<5}{BOLD:#} {}{DIM}{levels}{DIM:#}", lab.name, lab.title);
    }
    let _ = writeln!(
        out,
        "\n{DIM}nacld lab run NAME shows one; nacld lab up NAME builds its network to sit in.{DIM:#}"
    );
    out
}

/// One lab that was run.
pub fn report(lab: &Lab, report: &LabReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{BOLD}{}{BOLD:#}  {BOLD}{}{BOLD:#}  {DIM}{} level{DIM:#}", lab.name, lab.title, report.level);
    if let Some(why) = &report.not_run {
        let _ = writeln!(out, "  {WARN}not run at this level{WARN:#}: {why}\n");
        return out;
    }
    for step in &report.steps {
        out.push_str(&step_text(step));
    }
    out.push('\n');
    out
}

fn step_text(step: &StepReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "  {}", step.name);
    let width = step.probes.iter().map(|probe| probe.name.chars().count()).max().unwrap_or(0).clamp(24, 44);
    for probe in &step.probes {
        out.push_str(&probe_text(probe, width));
    }
    for problem in &step.problems {
        let _ = writeln!(out, "    {BAD}✗{BAD:#} {problem}");
    }
    if !step.counters.is_empty() {
        let counts: Vec<String> = step
            .counters
            .iter()
            .map(|count| {
                let family = if count.family == 6 { " (IPv6)" } else { "" };
                format!("{}{family} {}", short(count.rule), count.packets)
            })
            .collect();
        out.push_str(&wrap(&format!("counters: {}", counts.join(" · ")), "      ", DIM));
    }
    out
}

fn probe_text(probe: &ProbeReport, width: usize) -> String {
    let mut out = String::new();
    let (mark, style) = if probe.problems.is_empty() { ("✓", GOOD) } else { ("✗", BAD) };
    if let Some(share) = probe.share {
        let answered = probe.cases.iter().filter(|case| case.seen.outcome == Outcome::Answered).count();
        // The share counts the fate the lab names, which may be the bad one.
        let (shown, fate) = match answered {
            0 => (0.0, BAD),
            all if all == probe.cases.len() => (100.0, GOOD),
            _ => (share.percent, WARN),
        };
        let _ = writeln!(
            out,
            "    {style}{mark}{style:#} {:<width$}  {fate}{shown:>5.1} %{fate:#} of its ports answered  {DIM}{} tried{DIM:#}",
            probe.name,
            probe.cases.len(),
        );
    } else {
        // Source ports that fared alike share a line.
        let mut groups: BTreeMap<Observation, Vec<u16>> = BTreeMap::new();
        for case in &probe.cases {
            groups.entry(case.seen).or_default().push(case.source_port);
        }
        let mut name = probe.name.as_str();
        for (seen, ports) in groups {
            let fate = if seen.outcome == Outcome::Answered { GOOD } else { BAD };
            let _ = writeln!(
                out,
                "    {style}{mark}{style:#} {name:<width$}  {fate}{:<15}{fate:#}  {}{DIM}{}{DIM:#}",
                seen.outcome,
                path(&seen),
                ports_text(&ports),
            );
            name = "";
        }
    }
    for problem in &probe.problems {
        let _ = writeln!(out, "        {BAD}{problem}{BAD:#}");
    }
    out
}

/// The rules a probe met, in order: `in 100 ▸ out *`.
fn path(seen: &Observation) -> String {
    let rules: Vec<String> = [seen.request, seen.reply, seen.icmp_error].into_iter().flatten().map(short).collect();
    if rules.is_empty() { "no rule".into() } else { rules.join(" ▸ ") }
}

/// A rule in few letters: `in 100`, `out *`.
pub(super) fn short(rule: super::RuleRef) -> String {
    let direction = match rule.direction {
        nacl_common::Direction::Inbound => "in",
        nacl_common::Direction::Outbound => "out",
    };
    rule.number.map_or_else(|| format!("{direction} *"), |number| format!("{direction} {number}"))
}

fn ports_text(ports: &[u16]) -> String {
    match ports {
        [] | [0] => String::new(),
        [port] => format!("  from port {port}"),
        _ if ports.len() <= 5 => {
            let list: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("  from {}", list.join(", "))
        }
        _ => format!("  from {} ports", ports.len()),
    }
}

/// What a run came to.
pub fn summary(reports: &[LabReport], disagreements: &[String]) -> String {
    let mut out = String::new();
    for what in disagreements {
        let _ = writeln!(out, "{BAD}✗{BAD:#} {what}");
    }
    let mut levels: BTreeMap<Level, (usize, usize, usize, f64)> = BTreeMap::new();
    for report in reports {
        let (ran, failed, left_out, seconds) = levels.entry(report.level).or_default();
        match report.not_run {
            Some(_) => *left_out += 1,
            None => *ran += 1,
        }
        *failed += usize::from(!report.ok);
        *seconds += report.seconds;
    }
    for (level, (ran, failed, left_out, seconds)) in &levels {
        let (mark, style) = if *failed == 0 { ("✓", GOOD) } else { ("✗", BAD) };
        let rest = if *left_out > 0 { format!(", {left_out} without a form at this level") } else { String::new() };
        let verdict = if *failed == 0 { "every expectation held".into() } else { format!("{failed} failed") };
        let labs = if *ran == 1 { "lab" } else { "labs" };
        let _ = writeln!(out, "{style}{mark}{style:#} {level:<6} {ran} {labs}, {verdict}{rest}  {DIM}{seconds:.1} s{DIM:#}");
    }
    if levels.len() > 1 && disagreements.is_empty() {
        let names: Vec<String> = levels.keys().map(Level::to_string).collect();
        let _ = writeln!(out, "{GOOD}✓{GOOD:#} {} agree on every probe: outcome and deciding rules", names.join(" and "));
    }
    out
}

/// Text filled to [`WIDTH`], every line behind `indent`. Blank lines and lines that begin with a space stay as they are.
pub(super) fn wrap(text: &str, indent: &str, style: Style) -> String {
    let mut out = String::new();
    let room = WIDTH.saturating_sub(indent.chars().count());
    let put = |out: &mut String, line: &str| {
        let _ = writeln!(out, "{indent}{style}{line}{style:#}");
    };
    let mut line = String::new();
    for source in text.lines() {
        if source.trim().is_empty() || source.starts_with(' ') {
            if !line.is_empty() {
                put(&mut out, &line);
                line.clear();
            }
            if source.trim().is_empty() { out.push('\n') } else { put(&mut out, source) }
            continue;
        }
        for word in source.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                put(&mut out, &line);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    if !line.is_empty() {
        put(&mut out, &line);
    }
    out
}
