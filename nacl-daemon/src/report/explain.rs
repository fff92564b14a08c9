//! An explanation as text for a person and as JSON for a machine.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use nacl_common::{Action, Direction, Layer, Packet, Reason, Verdict, border::NO_SLOT, flow::Met};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::rule::{endpoint, group_rule_toml, key, protocol_name, rule_toml};
use crate::{
    analyze::{Explanation, Fix, Leg, NewRule, Outcome, Remembered, Said, reachability_code},
    clients::Client,
    compile::{Decider, SlotTable, Written},
    resolve::{Interface, Layers, Mode, Resolved},
};

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GREEN: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub(super) const RED: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));

/// What was asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The policy.
    pub policy: &'a Resolved,
    /// The interface's name in it.
    pub name: &'a str,
    /// The interface, perhaps with another mode or other layers than it has in the policy.
    pub interface: &'a Interface,
}

impl Asked<'_> {
    /// The interface as the policy has it.
    fn written(&self) -> &Interface {
        self.policy.interfaces.get(self.name).unwrap_or(self.interface)
    }

    /// Names of its security groups; `None`: it has none that could judge.
    fn groups(&self) -> Option<Vec<&str>> {
        let groups = self.interface.groups.as_ref()?;
        Some(groups.iter().map(|group| group.name.as_str()).collect())
    }

    /// Interface, layers and mode, in one line.
    pub(super) fn heading(&self) -> String {
        let Interface { layers, mode, nacl, subnet, .. } = self.interface;
        let off = |layer| if *layers == layer { " (off)" } else { "" };
        let mut parts = vec![
            format!("{BOLD}{}{BOLD:#}", self.name),
            format!("network ACL {BOLD}{}{BOLD:#}{}", nacl.name, off(Layers::Groups)),
        ];
        parts.extend(subnet.as_ref().map(|subnet| format!("subnet {subnet}")));
        if let Some(groups) = self.groups() {
            let word = if groups.len() == 1 { "security group" } else { "security groups" };
            let names = if groups.is_empty() { "none".to_owned() } else { groups.join(", ") };
            parts.push(format!("{word} {BOLD}{names}{BOLD:#}{}", off(Layers::Nacl)));
        }
        if *layers != Layers::Groups {
            parts.push(mode.name().to_owned());
        }
        let mut line = parts.join(" · ");
        let written = self.written();
        if (written.mode, written.layers) != (*mode, *layers) {
            let (mode, layers) = (written.mode.name(), written.layers.name());
            let _ = write!(line, "\n{DIM}What if: the policy says mode = {mode:?}, layers = {layers:?}.{DIM:#}");
        }
        line
    }
}

/// The explanation as styled text; the caller strips the styles where they are not wanted.
pub fn text(asked: &Asked<'_>, explanation: &Explanation) -> String {
    let mut out = format!("{}\n\n", asked.heading());
    leg(&mut out, asked, "request", &explanation.request);
    out.push_str(&remembered(explanation));
    out.push('\n');
    match (&explanation.reply, explanation.outcome) {
        (None, _) => {
            let _ = writeln!(out, "  {BOLD}reply{BOLD:#}    none: this ICMP message is not answered\n");
        }
        (Some(reply), outcome) => {
            if outcome == Outcome::RequestDenied {
                let _ = writeln!(
                    out,
                    "  {BOLD}reply{BOLD:#}    never sent, because the request does not arrive; if it were:\n"
                );
            }
            leg(&mut out, asked, "reply", reply);
            out.push('\n');
        }
    }
    let _ = writeln!(out, "  {}", conclusion(asked, explanation));
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

/// One packet: alone on a line what decides where one layer judges, a line a layer where both do.
fn leg(out: &mut String, asked: &Asked<'_>, name: &str, leg: &Leg) {
    let Leg { direction, packet, verdict, by: _, slot, said } = leg;
    let _ = writeln!(out, "  {BOLD}{name:<8}{BOLD:#} {}  {DIM}({}){DIM:#}", flow_line(packet), direction.name());
    let word = |allow| if allow { (GREEN, "ALLOWED") } else { (RED, "DENIED") };
    let indent = " ".repeat(11);
    if said.is_empty() {
        let (style, word) = word(leg.passes());
        let name = slot.as_ref().map(|slot| format!("{}. ", slot.name)).unwrap_or_default();
        let why = verdict.reason.sentence();
        let _ = writeln!(out, "{indent}{style}{word}{style:#} before any rule: {name}{why}");
    }
    let mut denied = false;
    for one in said {
        let (style, word) = word(one.allow);
        let (label, would) = match said.len() {
            1 => (String::new(), ""),
            _ => (format!("{:<17}", layer_name(one.layer)), if denied { "would be " } else { "" }),
        };
        let _ = writeln!(out, "{indent}{label}{would}{style}{word}{style:#} {}", by(asked, one));
        if let Some(rule) = one.by.written(asked.interface) {
            let _ = writeln!(
                out,
                "{indent}{:width$}{DIM}{}{DIM:#}",
                "",
                source_line(asked.policy, rule),
                width = label.len()
            );
        }
        denied |= !one.allow;
    }
}

const fn layer_name(layer: Layer) -> &'static str {
    match layer {
        Layer::Nacl => "network ACL",
        Layer::SecurityGroup => "security groups",
        Layer::None => "",
    }
}

fn by(asked: &Asked<'_>, said: &Said) -> String {
    match &said.by {
        Decider::Nacl { direction, number } => format!("by {} rule {BOLD}{number}{BOLD:#}", direction.name()),
        Decider::NaclImplied { direction } => {
            format!("by {} rule {BOLD}*{BOLD:#}: no numbered rule matches", direction.name())
        }
        Decider::Group { group, direction, position } => {
            format!("by {BOLD}{group}{BOLD:#} {} rule {BOLD}{position}{BOLD:#}", direction.name())
        }
        Decider::GroupImplied { direction } => match asked.groups().unwrap_or_default().as_slice() {
            [] => "because the interface has no security group".to_owned(),
            [one] => format!("because no {} rule of {BOLD}{one}{BOLD:#} matches", direction.name()),
            many => format!("because no {} rule of {} matches", direction.name(), many.join(", ")),
        },
        Decider::Tracked { .. } => "because the connection is remembered".to_owned(),
        Decider::SameSubnet => "because both ends lie in one subnet, where it is never consulted (N42)".to_owned(),
        Decider::Unlisted(reason) => format!("because of this: {}", reason.sentence()),
    }
}

/// What a request that passes leaves behind, where that decides about the reply.
fn remembered(explanation: &Explanation) -> String {
    let Explanation { remembered, request, reply, .. } = explanation;
    let back = request.direction.reverse().name();
    let lines = match remembered {
        _ if reply.is_none() => return String::new(),
        Remembered { nacl: true, groups: true, .. } => {
            "Remembered by both layers: what follows of this connection passes.".to_owned()
        }
        Remembered { groups: true, .. } => {
            "Remembered by the security groups: the reply needs no rule of theirs.".to_owned()
        }
        Remembered { untracked: true, nacl, .. } => format!(
            "Not tracked by the security groups (S30): everybody may ask, and {back} everybody may on all ports. \
             The reply is let pass by that {back} rule{}.",
            if *nacl { "; the network ACL remembers" } else { "" }
        ),
        Remembered { nacl: true, .. } => {
            "Remembered by the network ACL, which is stateful here: the reply needs no rule.".to_owned()
        }
        Remembered { no_connection: true, .. } => {
            "Not remembered: of ICMP only an echo begins a connection.".to_owned()
        }
        _ => return String::new(),
    };
    format!("           {DIM}{lines}{DIM:#}\n")
}

/// The packet as `tcp 198.51.100.7:52345 → 10.0.1.10:443`.
pub(crate) fn flow_line(packet: &Packet) -> String {
    let protocol = protocol_name(packet.protocol);
    let (from, to) = (endpoint(packet, packet.src, packet.sport), endpoint(packet, packet.dst, packet.dport));
    let icmp = packet.protocol == if packet.family == nacl_common::Family::V4 { 1 } else { 58 };
    let kind = if icmp { format!(" type {} code {}", packet.dport >> 8, packet.dport & 0xff) } else { String::new() };
    format!("{protocol}{kind} {from} → {to}")
}

/// Where a rule stands, and its text.
pub(super) fn source_line(policy: &Resolved, rule: Written<'_>) -> String {
    let Resolved { file, text, .. } = policy;
    match (text.lines().nth(rule.line().wrapping_sub(1)), rule) {
        (Some(line), _) => format!("{file}:{}  {}", rule.line(), line.trim()),
        (None, Written::Nacl(_)) => "AWS's default network ACL has this rule".into(),
        (None, Written::Group(_)) => "AWS gives a security group this rule".into(),
    }
}

fn conclusion(asked: &Asked<'_>, explanation: &Explanation) -> String {
    let Explanation { outcome, request, reply, flow, .. } = explanation;
    match (outcome, reply) {
        (Outcome::Works, None) => format!("{GREEN}Works.{GREEN:#} The message passes."),
        (Outcome::Works, Some(_)) => format!("{GREEN}Works.{GREEN:#} Both legs pass."),
        (Outcome::RequestDenied, None) => {
            format!("{RED}Does not work.{RED:#} The message is dropped, and nobody is told.")
        }
        (Outcome::RequestDenied, Some(_)) => {
            format!("{RED}Does not work.{RED:#} The request is dropped, nothing answers: the client hangs.")
        }
        (Outcome::ReplyDenied, reply) => {
            let side = match request.direction {
                Direction::Inbound => "The request arrives and is answered; the answer is dropped on its way out",
                Direction::Outbound => "The request leaves and is answered; the answer is dropped on its way in",
            };
            let by_nacl = reply.iter().flat_map(Leg::blockers).any(|blocker| blocker.layer == Layer::Nacl);
            let why = if by_nacl && asked.interface.mode == Mode::Stateless {
                "A network ACL is stateless: the answer needs a rule of its own"
            } else {
                "It belongs to no connection that could be remembered: it needs a rule of its own"
            };
            let ports = if flow.has_ports() { ", for the port the client chose" } else { "" };
            format!("{RED}Does not work.{RED:#} {side}, and the client hangs. {why}{ports}.")
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

/// The table of a policy that a new rule goes into, and the rule.
pub(super) fn new_rule(new: &NewRule) -> (String, String) {
    match new {
        NewRule::Nacl { nacl, direction, rule } => (format!("nacl.{}", key(nacl)), rule_toml(rule, *direction)),
        NewRule::Group { group, direction, rule } => {
            (format!("security_group.{}", key(group)), group_rule_toml(rule, *direction))
        }
    }
}

pub(super) fn fix_text(out: &mut String, fix: &Fix, replied: bool) {
    let many = if fix.rules.len() == 1 { "this rule" } else { "these rules" };
    let _ = writeln!(out, "\n  {BOLD}Smallest fix:{BOLD:#} add {many}");
    for new in &fix.rules {
        let (table, rule) = new_rule(new);
        let _ = writeln!(out, "    to [{table}] {}:", new.direction().name());
        let _ = writeln!(out, "      {GREEN}{rule},{GREEN:#}");
    }
    let (with, passes) = (
        if fix.rules.len() == 1 { "it" } else { "them" },
        if replied { "both legs pass" } else { "the message passes" },
    );
    let _ = writeln!(out, "  {DIM}Tried: with {with} {passes}, and nothing that passed before is lost.{DIM:#}");
}

/// The explanation as JSON; `schema` counts up when a field changes its meaning.
pub fn json(asked: &Asked<'_>, explanation: &Explanation) -> Value {
    let leg = |leg: &Leg| leg_json(asked.interface, leg);
    let Remembered { nacl: by_nacl, groups: by_groups, untracked, no_connection: _ } = explanation.remembered;
    json!({
        "schema": 1,
        "file": asked.policy.file,
        "interface": asked.name,
        "security_groups": asked.groups(),
        "mode": asked.interface.mode.name(),
        "layers": asked.interface.layers.name(),
        "outcome": match explanation.outcome {
            Outcome::Works => "works",
            Outcome::RequestDenied => "request-denied",
            Outcome::ReplyDenied => "reply-denied",
        },
        "assumed": explanation.assumed,
        "request": leg(&explanation.request),
        "remembered": { "nacl": by_nacl, "security_groups": by_groups, "untracked": untracked },
        "reply": explanation.reply.as_ref().map(leg),
        "fix": explanation.fix.as_ref().map(fix_json),
    })
}

/// The line of the rule that decided, where one is written.
fn line(interface: &Interface, by: &Decider) -> Option<usize> {
    by.written(interface).map(|rule| rule.line()).filter(|line| *line > 0)
}

/// What a layer says of a packet.
pub(super) fn said_json(interface: &Interface, direction: Direction, said: &Said) -> Value {
    let action = if said.allow { Action::Allow } else { Action::Deny };
    let mut value = json!(verdict(&interface.nacl.name, &said.by, action, said.layer, said.reason));
    value["line"] = line(interface, &said.by).into();
    // As AWS's Reachability Analyzer would say it.
    value["code"] = reachability_code(said, interface, direction).into();
    value
}

/// A packet and what decided it, then what each layer says.
pub(super) fn leg_json(interface: &Interface, leg: &Leg) -> Value {
    let nacl = &interface.nacl.name;
    let mut value = json!(verdict(nacl, &leg.by, leg.verdict.action, leg.verdict.layer, leg.verdict.reason));
    let said = |said: &Said| said_json(interface, leg.direction, said);
    value["direction"] = leg.direction.name().into();
    value["packet"] = flow_line(&leg.packet).into();
    let exemption = leg.slot.as_ref().map(|slot| slot.line).filter(|line| *line > 0);
    value["line"] = line(interface, &leg.by).or(exemption).into();
    value["layers"] = leg.said.iter().map(said).collect();
    value["blockers"] = leg.blockers().map(said).collect();
    value
}

/// The rules of a fix.
pub(super) fn fix_json(fix: &Fix) -> Value {
    let rule = |new: &NewRule| {
        let (nacl, group) = match new {
            NewRule::Nacl { nacl, .. } => (Some(nacl), None),
            NewRule::Group { group, .. } => (None, Some(group)),
        };
        json!({
            "nacl": nacl,
            "security_group": group,
            "direction": new.direction().name(),
            "rule": new_rule(new).1,
        })
    };
    fix.rules.iter().map(rule).collect()
}

/// A verdict in the words that every verb's JSON uses.
#[derive(Clone, Debug, Serialize)]
pub struct VerdictJson<'a> {
    action: &'static str,
    layer: &'static str,
    nacl: Option<&'a str>,
    rule: Option<RuleJson>,
    security_group: Option<&'a str>,
    position: Option<u16>,
    reason: &'static str,
    by: &'a Decider,
}

/// The number of a rule, or `"*"`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
enum RuleJson {
    Number(u16),
    Implied(&'static str),
}

/// A verdict as JSON; `rule` is null where no network ACL's list judged.
fn verdict<'a>(nacl: &'a str, by: &'a Decider, action: Action, layer: Layer, reason: Reason) -> VerdictJson<'a> {
    let (security_group, position) = match by {
        Decider::Group { group, position, .. } => (Some(group.as_str()), Some(*position)),
        _ => (None, None),
    };
    VerdictJson {
        action: action.name(),
        layer: layer.name(),
        nacl: (layer == Layer::Nacl).then_some(nacl),
        rule: match by {
            Decider::Nacl { number, .. } => Some(RuleJson::Number(*number)),
            Decider::NaclImplied { .. } => Some(RuleJson::Implied("*")),
            _ => None,
        },
        security_group,
        position,
        reason: reason.name(),
        by,
    }
}

/// The answer to one line of `explain --jsonl`: the verdict, the other layer where it had let the packet pass before, and what
/// the connection table said.
pub struct Answer<'a> {
    nacl: &'a str,
    judged: Verdict,
    by: Decider,
    also: Option<Decider>,
    met: Met,
}

/// See [`Answer`].
pub fn answer<'a>(nacl: &'a str, slots: &SlotTable, judged: &Verdict, met: Met) -> Answer<'a> {
    Answer {
        nacl,
        judged: *judged,
        by: slots.decider(judged.slot, judged.reason),
        also: (judged.also != NO_SLOT).then(|| slots.decider(judged.also, judged.reason)),
        met,
    }
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(flatten)]
            verdict: VerdictJson<'a>,
            also: &'a Option<Decider>,
            flow: &'static str,
        }
        let Self { nacl, judged, by, also, met } = self;
        let verdict = verdict(nacl, by, judged.action, judged.layer, judged.reason);
        Wire { verdict, also, flow: met.name() }.serialize(serializer)
    }
}
