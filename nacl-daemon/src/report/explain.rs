//! An explanation as text for a person and as JSON for a machine.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use nacl_common::{Action, Direction, Layer, Packet, Reason};
use serde::Serialize;
use serde_json::{Value, json};

use super::rule::{endpoint, key, protocol_name, rule_toml};
use crate::{
    analyze::{Explanation, Fix, Leg, Outcome},
    clients::Client,
    resolve::{Interface, Resolved, Rule},
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
const RED: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));

/// The explanation as styled text; the caller strips the styles where they are not wanted.
pub fn text(policy: &Resolved, interface: &Interface, explanation: &Explanation) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{BOLD}{}{BOLD:#} · network ACL {BOLD}{}{BOLD:#}{} · stateless\n",
        interface.name,
        interface.nacl.name,
        interface.subnet.as_ref().map(|subnet| format!(" · subnet {subnet}")).unwrap_or_default(),
    );
    leg(&mut out, policy, "request", &explanation.request);
    match (&explanation.reply, explanation.outcome) {
        (None, _) => {
            let _ = writeln!(out, "  {BOLD}reply{BOLD:#}    none: this ICMP message is not answered\n");
        }
        (Some(reply), Outcome::RequestDenied) => {
            let _ = writeln!(
                out,
                "  {BOLD}reply{BOLD:#}    never sent, because the request does not arrive; if it were:\n"
            );
            leg(&mut out, policy, "reply", reply);
        }
        (Some(reply), _) => leg(&mut out, policy, "reply", reply),
    }
    let _ = writeln!(out, "  {}", conclusion(explanation));
    if explanation.outcome == Outcome::ReplyDenied && explanation.flow.has_ports() {
        let _ = write!(out, "  {}", client_lines(explanation.flow.sport));
    }
    if let Some(assumed) = explanation.assumed {
        let _ = writeln!(out, "  {DIM}Note: {assumed}.{DIM:#}");
    }
    if explanation.outcome != Outcome::Works {
        match &explanation.fix {
            Some(fix) => fix_text(&mut out, fix, explanation.reply.is_some()),
            None => out.push_str("\n  No rule that could be added mends this flow.\n"),
        }
    }
    out
}

fn leg(out: &mut String, policy: &Resolved, name: &str, leg: &Leg) {
    let Leg { direction, packet, verdict, rule, blockers: _ } = leg;
    let (style, word) = match verdict.action {
        Action::Allow => (GREEN, "ALLOWED"),
        Action::Deny => (RED, "DENIED"),
    };
    let _ = writeln!(out, "  {BOLD}{name:<8}{BOLD:#} {}  {DIM}({}){DIM:#}", flow_line(packet), direction.name());
    let by = match (verdict.reason, rule) {
        (_, Some(rule)) => format!("by {} rule {BOLD}{}{BOLD:#}", direction.name(), rule.number),
        (Reason::NaclImplicit, None) => {
            format!("by {} rule {BOLD}*{BOLD:#}: no numbered rule matches", direction.name())
        }
        (reason, None) => format!("before any rule: {}", reason.sentence()),
    };
    let _ = writeln!(out, "           {style}{word}{style:#} {by}");
    if let Some(rule) = rule {
        let _ = writeln!(out, "           {DIM}{}{DIM:#}", source_line(policy, rule));
    }
    out.push('\n');
}

/// The packet as `tcp 198.51.100.7:52345 → 10.0.1.10:443`.
fn flow_line(packet: &Packet) -> String {
    let protocol = protocol_name(packet.protocol);
    let (from, to) = (endpoint(packet, packet.src, packet.sport), endpoint(packet, packet.dst, packet.dport));
    let icmp = packet.protocol == if packet.family == nacl_common::Family::V4 { 1 } else { 58 };
    let kind = if icmp { format!(" type {} code {}", packet.dport >> 8, packet.dport & 0xff) } else { String::new() };
    format!("{protocol}{kind} {from} → {to}")
}

/// Where a rule stands, and its text.
fn source_line(policy: &Resolved, rule: &Rule) -> String {
    match policy.text.lines().nth(rule.line.wrapping_sub(1)) {
        Some(line) => format!("{}:{}  {}", policy.file, rule.line, line.trim()),
        None => "AWS's default network ACL has this rule".into(),
    }
}

fn conclusion(explanation: &Explanation) -> String {
    let Explanation { outcome, request, reply, flow, .. } = explanation;
    match outcome {
        Outcome::Works if reply.is_none() => format!("{GREEN}Works.{GREEN:#} The message passes."),
        Outcome::Works => format!("{GREEN}Works.{GREEN:#} Both legs pass."),
        Outcome::RequestDenied if reply.is_none() => {
            format!("{RED}Does not work.{RED:#} The message is dropped, and nobody is told.")
        }
        Outcome::RequestDenied => {
            format!("{RED}Does not work.{RED:#} The request is dropped, nothing answers: the client hangs.")
        }
        Outcome::ReplyDenied => {
            let side = match request.direction {
                Direction::Inbound => "The request arrives and is answered; the answer is dropped on its way out",
                Direction::Outbound => "The request leaves and is answered; the answer is dropped on its way in",
            };
            format!(
                "{RED}Does not work.{RED:#} {side},\n  and the client hangs. A network ACL is stateless: the answer needs a \
                 rule of its own{}.",
                if flow.has_ports() { ",\n  for the port the client chose" } else { "" }
            )
        }
    }
}

/// Who picks this source port, a line for each range.
pub fn client_lines(port: u16) -> String {
    let mut ranges: Vec<((u16, u16), Vec<&str>)> = Vec::new();
    for client in Client::with_port(port).filter(|client| *client != Client::Any) {
        match ranges.iter_mut().find(|(range, _)| *range == client.ports()) {
            Some((_, names)) => names.push(client.title()),
            None => ranges.push((client.ports(), vec![client.title()])),
        }
    }
    if ranges.is_empty() {
        return format!("No system picks port {port} by itself: the client bound it.\n");
    }
    ranges.iter().fold(format!("Port {port} is one that these clients pick:\n"), |mut lines, ((first, last), names)| {
        let _ = writeln!(lines, "    {:>5}-{last:<5}  {}", first, names.join(", "));
        lines
    })
}

fn fix_text(out: &mut String, fix: &Fix, replied: bool) {
    let many = if fix.rules.len() == 1 { "this rule" } else { "these rules" };
    let _ = writeln!(out, "\n  {BOLD}Smallest fix:{BOLD:#} add {many}");
    for new in &fix.rules {
        let _ = writeln!(out, "    to [nacl.{}] {}:", key(&new.nacl), new.direction.name());
        let _ = writeln!(out, "      {GREEN}{},{GREEN:#}", rule_toml(&new.rule, new.direction));
    }
    let (with, passes) = (
        if fix.rules.len() == 1 { "it" } else { "them" },
        if replied { "both legs pass" } else { "the message passes" },
    );
    let _ = writeln!(out, "  {DIM}Tried: with {with} {passes}, and nothing that passed before is lost.{DIM:#}");
}

/// The explanation as JSON; `schema` counts up when a field changes its meaning.
pub fn json(policy: &Resolved, interface: &Interface, explanation: &Explanation) -> Value {
    let judged = |rule: Option<&Rule>, action, layer, reason| {
        json!(verdict(&interface.nacl.name, rule.map(|rule| rule.number), action, layer, reason))
    };
    let leg = |leg: &Leg| {
        let mut value = judged(leg.rule.as_ref(), leg.verdict.action, leg.verdict.layer, leg.verdict.reason);
        value["direction"] = leg.direction.name().into();
        value["packet"] = flow_line(&leg.packet).into();
        value["line"] = leg.rule.as_ref().filter(|rule| rule.line > 0).map(|rule| rule.line).into();
        let blockers = leg.blockers.iter();
        value["blockers"] = blockers.map(|by| judged(by.rule.as_ref(), Action::Deny, by.layer, by.reason)).collect();
        value
    };
    json!({
        "schema": 1,
        "file": policy.file,
        "interface": interface.name,
        "mode": "stateless",
        "outcome": match explanation.outcome {
            Outcome::Works => "works",
            Outcome::RequestDenied => "request-denied",
            Outcome::ReplyDenied => "reply-denied",
        },
        "assumed": explanation.assumed,
        "request": leg(&explanation.request),
        "reply": explanation.reply.as_ref().map(leg),
        "fix": explanation.fix.as_ref().map(|fix| fix.rules.iter().map(|new| json!({
            "nacl": new.nacl,
            "direction": new.direction.name(),
            "rule": rule_toml(&new.rule, new.direction),
        })).collect::<Vec<_>>()),
    })
}

/// A verdict in the words that every verb's JSON uses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct VerdictJson<'a> {
    action: &'static str,
    layer: &'static str,
    nacl: Option<&'a str>,
    rule: Option<RuleJson>,
    reason: &'static str,
}

/// The number of a rule, or `"*"`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
enum RuleJson {
    Number(u16),
    Implied(&'static str),
}

/// A verdict as JSON; `rule` is null where no list judged.
pub fn verdict(nacl: &str, rule: Option<u16>, action: Action, layer: Layer, reason: Reason) -> VerdictJson<'_> {
    VerdictJson {
        action: action.name(),
        layer: layer.name(),
        nacl: (layer == Layer::Nacl).then_some(nacl),
        rule: match (rule, reason) {
            (Some(number), _) => Some(RuleJson::Number(number)),
            (None, Reason::NaclImplicit) => Some(RuleJson::Implied("*")),
            (None, _) => None,
        },
        reason: reason.name(),
    }
}
