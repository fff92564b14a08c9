//! What `nacld doctor` found, for people; and a picture of which direction is which.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, Style};

use super::{count_of, layout, place};
use crate::{
    doctor::{Diagnosis, Direction, Finding, Verdict},
    resolve::Side,
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
const RED: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Red)));
const LOUD: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));
const COMMAND: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Cyan)));

/// Everything, `width` columns wide.
pub fn text(diagnosis: &Diagnosis, width: usize) -> String {
    let mut out = String::new();
    let mut subject = None;
    for finding in &diagnosis.findings {
        let next = Some((&finding.interface, &finding.netns));
        if subject != next {
            if subject.is_some() {
                out.push('\n');
            }
            subject = next;
            let title = match &finding.interface {
                None => "this machine".to_owned(),
                Some(interface) => place(interface, finding.netns.as_deref()),
            };
            let _ = writeln!(out, "{BOLD}{title}{BOLD:#}");
        }
        one(&mut out, finding, width);
    }
    for side in [Some(Side::Host), Some(Side::Router)] {
        let of: Vec<_> = diagnosis.directions.iter().filter(|direction| direction.side == side).collect();
        if let (false, Some(side)) = (of.is_empty(), side) {
            let _ = write!(out, "\n{}", picture(side, &names(&of)));
        }
    }
    let open: Vec<_> = diagnosis.directions.iter().filter(|direction| direction.side.is_none()).collect();
    if !open.is_empty() {
        // Nobody has said yet which way they look.
        for side in [Side::Host, Side::Router] {
            let _ = write!(out, "\n{}", picture(side, &names(&open)));
        }
    }
    let _ = writeln!(out, "\n{}", summary(diagnosis));
    out
}

fn names(directions: &[&Direction]) -> String {
    let names: Vec<_> = directions.iter().map(|one| place(&one.interface, one.netns.as_deref())).collect();
    names.join(", ")
}

fn summary(Diagnosis { problems, notes, .. }: &Diagnosis) -> String {
    let notes = match notes {
        0 => String::new(),
        notes => format!(", {}", count_of(*notes, "note")),
    };
    match problems {
        0 => format!("{GREEN}nothing prevents enforcement{GREEN:#}{notes}"),
        problems => format!("{RED}{} in the way of enforcement{RED:#}{notes}", count_of(*problems, "problem")),
    }
}

fn one(out: &mut String, finding: &Finding, width: usize) {
    const INDENT: usize = 30;
    let Finding { check, verdict, found, why, mend, policy, .. } = finding;
    let style = match verdict {
        Verdict::Ok => GREEN,
        Verdict::Note => LOUD,
        Verdict::Problem => RED,
    };
    let _ = write!(out, "  {style}{:<9}{style:#}{BOLD}{check:<19}{BOLD:#}", verdict.name());
    let mut lines = layout::lines(found, width.saturating_sub(INDENT)).into_iter();
    let _ = writeln!(out, "{}", lines.next().unwrap_or_default());
    let mut below = |style: Style, text: &str| {
        let _ = writeln!(out, "{:INDENT$}{style}{text}{style:#}", "");
    };
    lines.for_each(|line| below(Style::new(), &line));
    for line in why.iter().flat_map(|why| layout::lines(why, width.saturating_sub(INDENT))) {
        below(DIM, &line);
    }
    // A command is for copying: it is never broken.
    for command in mend {
        below(COMMAND, &format!("# {command}"));
    }
    if let Some(policy) = policy {
        below(COMMAND, &format!("in the policy: {policy}"));
    }
}

/// Which direction is which on an interface that looks this way.
pub fn picture(side: Side, interfaces: &str) -> String {
    let (side, left, right, ingress, egress) = match side {
        Side::Host => ("host", "the wire", "this machine: the instance", "inbound", "outbound"),
        Side::Router => ("router", "the subnet", "this machine: a router to the subnet", "outbound", "inbound"),
    };
    format!(
        "\
{BOLD}side = \"{side}\"{BOLD:#}: {interfaces}

  {left:<12}          the interface
               ┌──────────────────────────────┐
    received ─▶│ ingress hook: XDP or TC      │─▶ {right}
               │   judged by {BOLD}{ingress:<8}{BOLD:#} lists   │
               ├──────────────────────────────┤
        sent ◀─│ egress hook: TC              │◀─ from there
               │   judged by {BOLD}{egress:<8}{BOLD:#} lists   │
               └──────────────────────────────┘
  {DIM}Egress cannot be XDP: the kernel shows XDP only what an interface receives.{DIM:#}
"
    )
}
