//! Labs and their results as text for a terminal. Styled with ANSI escapes; whoever prints takes them away where colour is
//! not wanted (`anstream`). Never asks anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anstyle::{AnsiColor, Style};
use nacl_common::{
    Action, Direction, Family, Layer,
    border::{group_implicit_slot, implicit_slot, tracked_slot},
};
use serde_json::{Value, json};

use super::{
    Lab, LabReport, Level, Outcome,
    expect::{Crossing, Decision},
    file::Enforced,
    outcome::{Observation, ProbeReport, StepReport},
};
use crate::{
    compile::Decider,
    dataplane::Counters,
    observe::BrokenReturn,
    policy::Diagnostic,
    report::{self, console, layout},
    resolve::{Group, GroupRule, Layers, Peer, Rule},
};

pub(super) const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub(super) const BAD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
pub(super) const WARN: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
pub(super) const NOTE: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan)));
pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();

/// Columns text is wrapped to: what fits every terminal.
pub(super) const WIDTH: usize = 80;

/// The list of labs.
pub fn list(labs: &[Lab]) -> String {
    let mut out = String::new();
    for lab in labs {
        let mark = if lab.memory_matters() { "≠" } else { " " };
        let mut notes = Vec::new();
        if lab.has_groups() {
            notes.push("security groups".to_string());
        }
        if lab.hooks.len() > 1 {
            notes.push(format!("{} hooks", lab.hooks.len()));
        }
        if lab.without_wire.is_some() {
            let levels: Vec<String> = lab.levels().iter().map(Level::to_string).collect();
            notes.push(format!("{} only", levels.join(" and ")));
        }
        let notes = if notes.is_empty() { String::new() } else { format!("  ({})", notes.join(", ")) };
        let _ = writeln!(out, "{BOLD}{:<5}{BOLD:#} {NOTE}{mark}{NOTE:#} {}{DIM}{notes}{DIM:#}", lab.name, lab.title);
    }
    let _ = writeln!(
        out,
        "\n{NOTE}≠{NOTE:#} {DIM}ends otherwise where the network ACL has a memory: --mode stateful{DIM:#}"
    );
    let _ = writeln!(out, "{DIM}nacld lab run NAME shows one; nacld lab up NAME builds its network to sit in.{DIM:#}");
    out
}

/// One lab that was run.
pub fn lab_report(lab: &Lab, report: &LabReport) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{BOLD}{}{BOLD:#}  {BOLD}{}{BOLD:#}  {DIM}{}, {} level{DIM:#}",
        lab.name,
        lab.title,
        report.mode.name(),
        report.level
    );
    if let Some(why) = &report.not_run {
        let _ = writeln!(out, "  {WARN}not run at this level{WARN:#}: {why}\n");
        return out;
    }
    for step in &report.steps {
        out.push_str(&step_text(lab, step));
    }
    out.push('\n');
    out
}

fn step_text(lab: &Lab, step: &StepReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "  {}", step.name);
    let width = step.probes.iter().map(|probe| probe.name.chars().count()).max().unwrap_or(0).clamp(24, 48);
    for probe in &step.probes {
        out.push_str(&probe_text(lab, probe, width));
    }
    for one in &step.broken {
        out.push_str(&broken(one, "      "));
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
                let hook = if lab.hooks.len() > 1 { format!("{} ", count.hook) } else { String::new() };
                format!("{hook}{}{family} {}", short_one(&count.rule), count.packets)
            })
            .collect();
        out.push_str(&wrap(&format!("counters: {}", counts.join(" · ")), "      ", DIM));
    }
    out
}

/// Why a reply died or a download was cut, and what mends it: as `nacld watch` shows it.
pub(super) fn broken(one: &BrokenReturn, indent: &str) -> String {
    let room = (WIDTH - indent.len()) as u16;
    let lines = layout::fit(&report::broken::found(one), Some(room));
    lines.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "{indent}{line}");
        out
    })
}

fn probe_text(lab: &Lab, probe: &ProbeReport, width: usize) -> String {
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
        let mut groups: BTreeMap<&Observation, Vec<u16>> = BTreeMap::new();
        for case in &probe.cases {
            groups.entry(&case.seen).or_default().push(case.source_port);
        }
        let mut name = probe.name.as_str();
        for (seen, ports) in groups {
            let fate = if seen.outcome == Outcome::Answered { GOOD } else { BAD };
            let ports = if probe.any_port && ports.len() > 1 { "  from any port".into() } else { ports_text(&ports) };
            let path = path(lab, seen);
            let line = path.join(ARROW);
            let fits = BEFORE + width + line.chars().count() + ports.chars().count() <= WIDTH;
            let beside = if fits { format!("  {line}{DIM}{ports}{DIM:#}") } else { String::new() };
            let fate = format!("{fate}{:<15}{fate:#}", seen.outcome);
            let _ = writeln!(out, "    {style}{mark}{style:#} {name:<width$}  {fate}{beside}");
            if !fits {
                out.push_str(&fold(&path, &ports, "        "));
            }
            name = "";
        }
    }
    for problem in &probe.problems {
        let _ = writeln!(out, "        {BAD}{problem}{BAD:#}");
    }
    out
}

/// What a probe met, in order: `in 100`, `out *`; with the hooks where the lab has several.
fn path(lab: &Lab, seen: &Observation) -> Vec<String> {
    let word = |crossing: &Crossing| match lab.hooks.len() {
        1 => short(&crossing.by),
        _ => format!("{} {}", crossing.hook, short(&crossing.by)),
    };
    let mut path: Vec<String> = seen.path.iter().chain(&seen.icmp_error).map(word).collect();
    path.extend(seen.after.iter().enumerate().map(|(index, crossing)| {
        let then = if index == 0 { "then " } else { "" };
        format!("{then}{}", word(crossing))
    }));
    path
}

/// Between two crossings.
const ARROW: &str = " ▸ ";

/// Columns before a path that shares a line with the name of its probe, without that.
const BEFORE: usize = 25;

/// A path and from which ports, over as many lines as it needs, broken between crossings.
fn fold(path: &[String], ports: &str, indent: &str) -> String {
    let room = WIDTH - indent.len();
    let mut lines: Vec<String> = Vec::new();
    for word in path {
        match lines.last_mut() {
            Some(line) if line.chars().count() + ARROW.chars().count() + word.chars().count() <= room => {
                line.push_str(ARROW);
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    let last = lines.len().saturating_sub(1);
    let lines = lines.iter().enumerate().map(|(index, line)| {
        if index < last {
            format!("{indent}{line}{}\n", ARROW.trim_end())
        } else if line.chars().count() + ports.chars().count() <= room {
            format!("{indent}{line}{DIM}{ports}{DIM:#}\n")
        } else {
            format!("{indent}{line}\n{indent}{DIM}{}{DIM:#}\n", ports.trim_start())
        }
    });
    lines.collect()
}

/// What decided at one hook, in few letters: `in 100`, `out *`, `in 100 + sg-2 in 1`.
pub(super) fn short(by: &Decision) -> String {
    if by.0.is_empty() { "no rule".into() } else { by.0.iter().map(short_one).collect::<Vec<_>>().join(" + ") }
}

/// One of them.
pub(super) fn short_one(decider: &Decider) -> String {
    let way = |direction: &Direction| match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    };
    match decider {
        Decider::Nacl { direction, number } => format!("{} {number}", way(direction)),
        Decider::NaclImplied { direction } => format!("{} *", way(direction)),
        Decider::Group { group, direction, position } => format!("{group} {} {position}", way(direction)),
        Decider::GroupImplied { direction } => format!("{} sg *", way(direction)),
        Decider::Tracked { direction } => format!("{} tracked", way(direction)),
        Decider::SameSubnet | Decider::Unlisted(_) => decider.to_string(),
    }
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

/// What a level came to.
#[derive(Default)]
struct Tally<'a> {
    ran: BTreeSet<&'a str>,
    left_out: BTreeSet<&'a str>,
    modes: BTreeSet<&'static str>,
    failed: usize,
    seconds: f64,
}

/// What a run came to.
pub fn summary(run: &super::run::Run) -> String {
    let mut out = String::new();
    for what in &run.disagreements {
        let _ = writeln!(out, "{BAD}✗{BAD:#} {what}");
    }
    let mut levels: BTreeMap<Level, Tally<'_>> = BTreeMap::new();
    for report in &run.reports {
        let tally = levels.entry(report.level).or_default();
        let labs = if report.not_run.is_some() { &mut tally.left_out } else { &mut tally.ran };
        labs.insert(&report.lab);
        tally.modes.insert(report.mode.name());
        tally.failed += usize::from(!report.ok);
        tally.seconds += report.seconds;
    }
    for (level, tally) in &levels {
        let (mark, style) = if tally.failed == 0 { ("✓", GOOD) } else { ("✗", BAD) };
        let left_out = tally.left_out.len();
        let rest = if left_out > 0 { format!(", {left_out} without a form at this level") } else { String::new() };
        let verdict =
            if tally.failed == 0 { "every expectation held".into() } else { format!("{} failed", tally.failed) };
        let ran = tally.ran.len();
        let labs = if ran == 1 { "lab" } else { "labs" };
        // In the order in which they are run.
        let modes: Vec<&str> = tally.modes.iter().rev().copied().collect();
        let _ = writeln!(
            out,
            "{style}{mark}{style:#} {level:<6} {ran} {labs} {}, {verdict}{rest}  {DIM}{:.1} s{DIM:#}",
            modes.join(" and "),
            tally.seconds
        );
    }
    let others: Vec<String> = levels.keys().filter(|level| **level != Level::Host).map(Level::to_string).collect();
    if !others.is_empty() && run.disagreements.is_empty() {
        let says = if others.len() == 1 { "says" } else { "say" };
        let _ = writeln!(
            out,
            "{GOOD}✓{GOOD:#} {} {says} what host says: the same outcome and the same rules, for every probe",
            others.join(" and ")
        );
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
    let stays = |line: &str| line.trim().is_empty() || line.starts_with(' ');
    let lines: Vec<&str> = text.lines().collect();
    for part in lines.chunk_by(|one, next| !stays(one) && !stays(next)) {
        match part {
            [line] if line.trim().is_empty() => out.push('\n'),
            [line] if stays(line) => put(&mut out, line),
            paragraph => layout::lines(&paragraph.join(" "), room).iter().for_each(|line| put(&mut out, line)),
        }
    }
    out
}

/// What is wrong with a policy.
pub(super) fn diagnostics(file: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    report::diagnostics::render(file, text, diagnostics, true)
}

/// One line of a rule table.
struct Line<'a> {
    rule: Option<&'a Rule>,
    family: Family,
    hits: u64,
}

/// The lines of one list, `*` of each family last. That of IPv6 is left out where neither a rule nor a packet is IPv6.
fn lines<'a>(enforced: &'a Enforced, counters: &Counters, direction: Direction) -> Vec<Line<'a>> {
    let packets = |slot: u16| counters.slots.get(&slot).map_or(0, |counter| counter.packets);
    let slots = &enforced.compiled.slots.slots;
    let nacl = &enforced.interface.nacl;
    let mut lines: Vec<Line<'_>> = nacl
        .rules(direction)
        .iter()
        .map(|rule| {
            let of = slots.iter().find(|(_, slot)| slot.direction == direction && slot.rule == Some(rule.number));
            let family = if rule.cidr.addr().is_ipv4() { Family::V4 } else { Family::V6 };
            Line { rule: Some(rule), family, hits: of.map_or(0, |(slot, _)| packets(*slot)) }
        })
        .collect();
    let has_v6 =
        Direction::ALL.iter().flat_map(|direction| nacl.rules(*direction)).any(|rule| rule.cidr.addr().is_ipv6());
    for family in [Family::V4, Family::V6] {
        let hits = packets(implicit_slot(direction, family == Family::V6));
        if family == Family::V4 || has_v6 || hits > 0 {
            lines.push(Line { rule: None, family, hits });
        }
    }
    lines
}

/// The rule tables with their hits, as the console of AWS orders its columns.
pub fn rules(enforced: &Enforced, counters: &Counters) -> String {
    let mut out = String::new();
    let judges = !matches!(enforced.interface.layers, Layers::Groups);
    for direction in Direction::ALL.into_iter().filter(|_| judges) {
        let remote = match direction {
            Direction::Inbound => "source",
            Direction::Outbound => "destination",
        };
        let _ = writeln!(
            out,
            "  {BOLD}{:<10}{BOLD:#}{DIM}{:>5}  {:<9} {:<14} {:<20} {:<6} {:>8}{DIM:#}",
            direction.name(),
            "rule",
            "protocol",
            "ports",
            remote,
            "action",
            "packets"
        );
        for line in lines(enforced, counters, direction) {
            let all = if line.family == Family::V4 { "0.0.0.0/0" } else { "::/0" };
            let action = line.rule.map_or(Action::Deny, |rule| rule.action);
            let style = if action == Action::Allow { GOOD } else { BAD };
            let hits = match (line.hits, action) {
                (0, _) => DIM,
                (_, Action::Allow) => GOOD.bold(),
                (_, Action::Deny) => BAD.bold(),
            };
            let number = line.rule.map_or_else(|| "*".into(), |rule| rule.number.to_string());
            let _ = writeln!(
                out,
                "  {:<10}{number:>5}  {:<9} {:<14} {:<20} {style}{:<6}{style:#} {hits}{:>8}{hits:#}",
                "",
                line.rule.map_or_else(|| "All".into(), |rule| console::protocol(rule.protocol)),
                line.rule.map_or_else(|| "All".into(), |rule| console::ports(line.family, rule.ports, rule.icmp)),
                line.rule.map_or_else(|| all.into(), |rule| rule.cidr.to_string()),
                action.name(),
                line.hits,
            );
        }
    }
    out.push_str(&group_rules(enforced, counters));
    out
}

/// The rules of the groups with their hits, as a console has them: by group, without numbers, since they have no order.
fn group_rules(enforced: &Enforced, counters: &Counters) -> String {
    let mut out = String::new();
    let Some(groups) = &enforced.interface.groups else { return out };
    for direction in Direction::ALL {
        let remote = match direction {
            Direction::Inbound => "source",
            Direction::Outbound => "destination",
        };
        let _ = writeln!(
            out,
            "  {BOLD}{:<10}{BOLD:#}{DIM}{:>15}  {:<9} {:<14} {:<20} {:>15}{DIM:#}",
            direction.name(),
            "security group",
            "protocol",
            "ports",
            remote,
            "packets"
        );
        for (group, rule, hits) in group_hits(enforced, counters, direction) {
            let family = rule.cidrs.first().map_or(Family::V4, |cidr| address_family(*cidr));
            let _ = writeln!(
                out,
                "  {:<10}{:>15}  {:<9} {:<14} {:<20} {}{hits:>15}{:#}",
                "",
                group.name,
                console::protocol(rule.protocol),
                console::ports(family, rule.ports, rule.icmp),
                peer(&rule.peer),
                if hits > 0 { GOOD.bold() } else { DIM },
                Style::new(),
            );
        }
        let sum = |slot: fn(Direction, bool) -> u16| both(counters, slot, direction);
        for (what, hits, style) in
            [("no rule of any group", sum(group_implicit_slot), BAD), ("remembered", sum(tracked_slot), GOOD)]
        {
            let style = if hits > 0 { style.bold() } else { DIM };
            let _ = writeln!(out, "  {:<10}{:>15}  {what:<45} {style}{hits:>15}{style:#}", "", "");
        }
    }
    if groups.is_empty() {
        let _ = writeln!(out, "  {DIM}no security group, which lets nothing pass{DIM:#}");
    }
    out
}

const fn address_family(cidr: ipnet::IpNet) -> Family {
    match cidr {
        ipnet::IpNet::V4(_) => Family::V4,
        ipnet::IpNet::V6(_) => Family::V6,
    }
}

/// The other end of a group's rule, as it is written in a policy.
fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Cidr(cidr) => cidr.to_string(),
        Peer::PrefixList(name) => format!("pl:{name}"),
        Peer::Group(name) => format!("sg:{name}"),
    }
}

fn both(counters: &Counters, slot: fn(Direction, bool) -> u16, direction: Direction) -> u64 {
    let packets = |v6| counters.slots.get(&slot(direction, v6)).map_or(0, |counter| counter.packets);
    packets(false) + packets(true)
}

/// Every rule of an interface's groups in one direction, and what it counted, over both families.
fn group_hits<'a>(
    enforced: &'a Enforced,
    counters: &Counters,
    direction: Direction,
) -> Vec<(&'a Group, &'a GroupRule, u64)> {
    let hits = |name: &str, position: usize| {
        let of = enforced.compiled.slots.slots.iter().filter(|(_, slot)| {
            slot.direction == direction
                && slot.layer == Layer::SecurityGroup
                && slot.name == name
                && slot.position.map(usize::from) == Some(position)
        });
        of.map(|(slot, _)| counters.slots.get(slot).map_or(0, |counter| counter.packets)).sum()
    };
    let groups = enforced.interface.groups.iter().flatten();
    let rules = groups.flat_map(|group| {
        let numbered = group.rules(direction).iter().enumerate();
        numbered.map(move |(index, rule)| (&**group, rule, index + 1))
    });
    rules.map(|(group, rule, position)| (group, rule, hits(&group.name, position))).collect()
}

/// The same for a machine.
pub(super) fn rule_hits(enforced: &Enforced, counters: &Counters) -> Value {
    let groups = Direction::ALL.iter().flat_map(|direction| {
        let mut places: BTreeMap<&str, u64> = BTreeMap::new();
        let hits = group_hits(enforced, counters, *direction).into_iter();
        hits.map(|(group, _, packets)| {
            let position = places.entry(&group.name).and_modify(|place| *place += 1).or_insert(1);
            json!({ "direction": direction.name(), "group": group.name, "position": *position, "packets": packets })
        })
        .collect::<Vec<_>>()
    });
    Direction::ALL
        .iter()
        .flat_map(|direction| lines(enforced, counters, *direction).into_iter().map(move |line| (*direction, line)))
        .map(|(direction, line)| {
            let number = line.rule.map_or_else(|| json!("*"), |rule| json!(rule.number));
            json!({
                "direction": direction.name(),
                "rule": number,
                "family": line.family as u8,
                "action": line.rule.map_or(Action::Deny, |rule| rule.action).name(),
                "packets": line.hits,
            })
        })
        .chain(groups)
        .collect()
}

/// Whether the goal is reached.
pub(super) fn verified(lab: &Lab, report: &StepReport) -> String {
    let mut out = step_text(lab, report);
    if report.ok() {
        let _ = writeln!(out, "\n{GOOD}✓ The goal is reached.{GOOD:#}\n");
        out.push_str(&wrap(&lab.lesson, "  ", Style::new()));
        let _ = writeln!(out, "\n{DIM}nacld lab down {} takes the lab down.{DIM:#}", lab.name);
    } else {
        let _ = writeln!(out, "\n{BAD}✗ Not there yet.{BAD:#} {DIM}nacld lab hint {} helps.{DIM:#}", lab.name);
    }
    out
}

/// What somebody needs to know who sits down in a lab.
pub fn welcome(held: &super::hold::Held) -> String {
    let lab = &held.lab;
    let mut out = String::new();
    let _ = writeln!(out, "{BOLD}{}  {}{BOLD:#}\n", lab.name, lab.title);
    out.push_str(&wrap(&lab.question, "  ", NOTE));
    let _ = writeln!(out);
    for (name, host) in &lab.hosts {
        let addresses: Vec<String> = host.addresses.iter().map(|network| network.addr().to_string()).collect();
        let (first, last) = host.os.ports();
        let services: Vec<String> = host.services.iter().map(|service| service.port.to_string()).collect();
        let serves = if services.is_empty() { String::new() } else { format!(", serves {}", services.join(" ")) };
        let hook = if lab.hooked(name) { "  ◀ the rules are in front of it" } else { "" };
        let _ = writeln!(out, "  {BOLD}{name:<10}{BOLD:#} {:<34} {}", addresses.join("  "), host.about);
        let _ = writeln!(out, "  {:<10} {DIM}its ports {first}-{last}{serves}{DIM:#}{WARN}{hook}{WARN:#}", "");
    }
    let _ = writeln!(out, "\n  {BOLD}Your task{BOLD:#}");
    out.push_str(&wrap(&lab.task, "  ", Style::new()));
    let name = &lab.name;
    let host = lab.hosts.keys().find(|host| !lab.hooked(host)).unwrap_or(&lab.hooks[0]);
    let _ = writeln!(out);
    for (command, about) in [
        (format!("nacld lab shell {name} {host}"), "a shell on a host; $SERVER and the like hold addresses"),
        (format!("nacld lab status {name}"), "the rules and what they counted"),
        (format!("$EDITOR {}", held.policy().display()), "change the policy"),
        (format!("nacld lab reload {name}"), "put it in force"),
        (format!("nacld lab verify {name}"), "is the goal reached?"),
        (format!("nacld lab hint {name}"), "the next hint"),
        (format!("nacld lab down {name}"), "take it down"),
    ] {
        let _ = writeln!(out, "  {NOTE}{command:<44}{NOTE:#} {DIM}{about}{DIM:#}");
    }
    out
}

/// The labs that are up.
pub fn up(held: &[super::hold::Held]) -> String {
    if held.is_empty() {
        return format!("no lab is up  {DIM}(nacld lab up NAME){DIM:#}\n");
    }
    let mut out = String::new();
    for held in held {
        let lab = &held.lab;
        let hosts: Vec<&str> = lab.hosts.keys().map(String::as_str).collect();
        let _ = writeln!(
            out,
            "{BOLD}{:<5}{BOLD:#} {}\n      {DIM}process {}, hosts {}, policy {}{DIM:#}",
            lab.name,
            lab.title,
            held.owner.pid,
            hosts.join(" "),
            held.policy().display()
        );
    }
    out
}

/// One hint.
pub fn hint(lab: &Lab, number: usize, hint: &str) -> String {
    let head = format!("hint {number} of {}: ", lab.hints.len());
    wrap(&format!("{head}{hint}"), "", NOTE)
}

/// What a lab teaches, and its solution.
pub fn solution(lab: &Lab) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{BOLD}{}  {}{BOLD:#}\n", lab.name, lab.title);
    out.push_str(&wrap(&lab.lesson, "  ", Style::new()));
    for claim in &lab.claims {
        let _ = writeln!(out);
        out.push_str(&wrap(&format!("It is said: {}", claim.said), "  ", WARN));
        out.push_str(&wrap(&format!("In fact: {}", claim.right), "  ", GOOD));
    }
    let _ = writeln!(out, "\n{DIM}# a policy that reaches the goal{DIM:#}\n{}", lab.solution.text);
    out
}
