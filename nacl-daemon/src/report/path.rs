//! A flow along its way, as text for a person and as JSON for a machine: a line for each list it crosses, as a route is listed.

use std::fmt::Write as _;

use anstyle::Style;
use nacl_common::{Action, Direction, Layer};
use serde_json::{Value, json};

use super::explain::{
    BOLD, DIM, GREEN, RED, client_lines, fix_json, fix_text, flow_line, leg_json, said_json, source_line,
};
use crate::{
    analyze::{
        Leg, Outcome, Remembered, Said,
        path::{Crossing, End, Kind, Path, Walk},
        reachability_code,
    },
    resolve::{Interface, Layers, Mode, Resolved},
};

/// One list that a packet meets, in every mode that was walked.
struct Row<'a> {
    reply: bool,
    end: &'a End,
    direction: Direction,
    layer: Layer,
    /// What is said there, as the walks come.
    cells: Vec<(&'a Crossing, Option<&'a Said>)>,
}

fn rows(path: &Path) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (index, crossing) in path.walk().crossings.iter().enumerate() {
        let of_all = path.walks.iter().map(|walk| &walk.crossings[index]);
        let row = |layer, cells| Row {
            reply: crossing.reply,
            end: path.end(crossing.at),
            direction: crossing.leg.direction,
            layer,
            cells,
        };
        if crossing.leg.said.is_empty() {
            rows.push(row(Layer::None, of_all.clone().map(|crossing| (crossing, None)).collect()));
        }
        for (place, said) in crossing.leg.said.iter().enumerate() {
            let cells = of_all.clone().map(|crossing| (crossing, crossing.leg.said.get(place))).collect();
            rows.push(row(said.layer, cells));
        }
    }
    rows
}

/// Whether a packet gets as far as this list.
fn reached(crossing: &Crossing, said: &Said) -> bool {
    let denied_before = || {
        let before = crossing.leg.said.iter().take_while(|other| other.layer != said.layer);
        before.into_iter().any(|other| !other.allow)
    };
    crossing.reached && !denied_before()
}

/// What is said at a list: how it looks, and in which style.
fn cell((crossing, said): &(&Crossing, Option<&Said>)) -> (Style, String) {
    let (allow, by, reached) = match said {
        Some(said) => (said.allow, said.by.to_string(), reached(crossing, said)),
        None => (crossing.leg.passes(), crossing.leg.by.to_string(), crossing.reached),
    };
    let text = format!("{} {by}", if allow { "✓ allow" } else { "✗ DENY " });
    match (reached, allow) {
        (false, _) => (DIM, format!("({text})")),
        (true, true) => (GREEN, text),
        (true, false) => (RED, text),
    }
}

/// Where a list stands: `leaves subnet public`, `enters server`.
fn place(row: &Row<'_>) -> String {
    let verb = match row.direction {
        Direction::Inbound => "enters",
        Direction::Outbound => "leaves",
    };
    let subnet = row.end.interface.as_ref().and_then(|interface| interface.subnet.as_ref());
    match (row.layer, subnet) {
        (Layer::Nacl, Some(subnet)) => format!("{verb} subnet {subnet}"),
        _ => format!("{verb} {}", row.end.name),
    }
}

/// Which list it is: `network ACL nacl-2`, `security group sg-3`.
fn list(layer: Layer, interface: Option<&Interface>) -> String {
    match (layer, interface) {
        (Layer::Nacl, Some(interface)) => format!("network ACL {}", interface.nacl.name),
        (Layer::SecurityGroup, Some(interface)) => groups(interface).unwrap_or_default(),
        _ => "before any rule".to_owned(),
    }
}

fn groups(interface: &Interface) -> Option<String> {
    let names: Vec<_> = interface.groups.as_ref()?.iter().map(|group| group.name.as_str()).collect();
    Some(match names.as_slice() {
        [] => "no security group".to_owned(),
        [one] => format!("security group {one}"),
        many => format!("security groups {}", many.join(", ")),
    })
}

/// Who an end is, in one line.
fn end_line(end: &End) -> String {
    let mut parts = vec![format!("{BOLD}{}{BOLD:#}", end.name)];
    if end.name != end.address.to_string() {
        parts.push(end.address.to_string());
    }
    if end.kind == Kind::Unknown {
        parts.push("nobody the policy knows".to_owned());
    }
    if let Some(interface) = &end.interface {
        parts.extend(interface.subnet.as_ref().map(|subnet| format!("subnet {subnet}")));
        if interface.layers != Layers::Groups {
            parts.push(list(Layer::Nacl, Some(interface)));
        }
        parts.extend(groups(interface).filter(|_| interface.layers != Layers::Nacl));
    }
    parts.join(" · ")
}

/// What a walk is called.
fn column(walk: &Walk) -> &'static str {
    walk.mode.map_or("as written", Mode::name)
}

/// A text and as many blanks as are missing.
fn pad(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.chars().count());
    format!("{text}{}", " ".repeat(missing))
}

/// The way as styled text; the caller strips the styles where they are not wanted.
pub fn text(policy: &Resolved, path: &Path) -> String {
    let mut out = String::new();
    if let Ok(request) = path.flow.request() {
        let _ = writeln!(out, "{BOLD}{}{BOLD:#}\n", flow_line(&request));
    }
    for (word, end) in [("from", &path.ends.from), ("to", &path.ends.to)] {
        let _ = writeln!(out, "  {word:<5} {}", end_line(end));
        for unknown in &end.unknown {
            let _ = writeln!(out, "        {DIM}not judged: {unknown}{DIM:#}");
        }
    }
    let rows = rows(path);
    table(&mut out, policy, path, &rows);
    if rows
        .iter()
        .flat_map(|row| &row.cells)
        .any(|(crossing, said)| said.map_or(!crossing.reached, |said| !reached(crossing, said)))
    {
        let _ = writeln!(out, "  {DIM}In parentheses: what would be said of a packet that does not get there.{DIM:#}");
    }
    out.push('\n');
    for walk in &path.walks {
        let name = match (path.walks.len(), walk.written) {
            (1, _) => String::new(),
            (_, true) if walk.mode.is_some() => format!("{} (as the policy says): ", column(walk)),
            _ => format!("{}: ", column(walk)),
        };
        let _ = writeln!(out, "  {name}{}", conclusion(path, walk, &rows));
    }
    blockers(&mut out, policy, path.walk(), &rows);
    let walk = path.walk();
    if walk.outcome == Outcome::ReplyDenied && path.flow.has_ports() {
        let _ = write!(out, "\n  {}", client_lines(path.flow.sport));
    }
    if walk.outcome != Outcome::Works {
        match &path.fix {
            Some(fix) => fix_text(&mut out, fix, walk.crossings.iter().any(|crossing| crossing.reply)),
            None => out.push_str("\n  No rule that could be added mends this flow.\n"),
        }
    }
    out
}

fn table(out: &mut String, policy: &Resolved, path: &Path, rows: &[Row<'_>]) {
    let places: Vec<_> = rows.iter().map(place).collect();
    let lists: Vec<_> = rows.iter().map(|row| list(row.layer, row.end.interface.as_ref())).collect();
    let cells: Vec<Vec<_>> = rows.iter().map(|row| row.cells.iter().map(cell).collect()).collect();
    let longest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or_default();
    let place_width = longest(&mut places.iter().map(|text| text.chars().count()));
    let list_width = longest(&mut lists.iter().map(|text| text.chars().count()));
    let widths: Vec<_> = path
        .walks
        .iter()
        .enumerate()
        .map(|(index, walk)| {
            let of_cells = longest(&mut cells.iter().map(|row| row[index].1.chars().count()));
            of_cells.max(column(walk).len())
        })
        .collect();
    let head: Vec<_> = path.walks.iter().zip(&widths).map(|(walk, width)| pad(column(walk), *width)).collect();
    let _ = writeln!(
        out,
        "\n      {}  {DIM}{}{DIM:#}",
        " ".repeat(place_width + 2 + list_width),
        head.join("  ").trim_end()
    );
    let mut leg = None;
    for (number, row) in rows.iter().enumerate() {
        if leg != Some(row.reply) {
            leg = Some(row.reply);
            let _ = writeln!(out, "  {BOLD}{}{BOLD:#}", if row.reply { "reply" } else { "request" });
        }
        let _ = write!(
            out,
            "  {:>2}  {}  {}",
            number + 1,
            pad(&places[number], place_width),
            pad(&lists[number], list_width)
        );
        for ((style, text), width) in cells[number].iter().zip(&widths) {
            // Blanks are no style's, so that those at the end can be taken off.
            let missing = width.saturating_sub(text.chars().count());
            let _ = write!(out, "  {style}{text}{style:#}{}", " ".repeat(missing));
        }
        let said = row.cells[0].1;
        let rule = said.zip(row.end.interface.as_ref()).and_then(|(said, interface)| said.by.written(interface));
        if let Some(line) = rule.map(|rule| rule.line()).filter(|line| *line > 0) {
            let _ = write!(out, "  {DIM}{}:{line}{DIM:#}", policy.file);
        }
        let length = out.trim_end_matches(' ').len();
        out.truncate(length);
        out.push('\n');
    }
    if rows.is_empty() {
        let _ = writeln!(out, "  {DIM}Nothing that the policy knows stands on this way.{DIM:#}");
    }
    if path.walk().crossings.iter().all(|crossing| !crossing.reply) {
        let _ = writeln!(out, "  {BOLD}reply{BOLD:#}  none: this ICMP message is not answered");
    }
}

/// The number of the list at which a walk ends, and which it is.
fn drops(path: &Path, walk: &Walk, rows: &[Row<'_>]) -> Option<String> {
    let index = path.walks.iter().position(|other| std::ptr::eq(other, walk))?;
    let at = rows.iter().position(|row| {
        let (crossing, said) = row.cells[index];
        said.map_or(crossing.reached && !crossing.leg.passes(), |said| !said.allow && reached(crossing, said))
    })?;
    Some(format!("{}, {}", at + 1, list(rows[at].layer, rows[at].end.interface.as_ref())))
}

fn conclusion(path: &Path, walk: &Walk, rows: &[Row<'_>]) -> String {
    let at = drops(path, walk, rows).unwrap_or_default();
    match (walk.outcome, walk.crossings.iter().any(|crossing| crossing.reply)) {
        (Outcome::Works, true) => format!("{GREEN}Works.{GREEN:#} Both legs pass."),
        (Outcome::Works, false) => format!("{GREEN}Works.{GREEN:#} The message passes."),
        (Outcome::RequestDenied, true) => {
            format!("{RED}Does not work.{RED:#} The request is dropped at {at}; nothing answers: the client hangs.")
        }
        (Outcome::RequestDenied, false) => {
            format!("{RED}Does not work.{RED:#} The message is dropped at {at}, and nobody is told.")
        }
        (Outcome::ReplyDenied, _) => format!(
            "{RED}Does not work.{RED:#} The request arrives and is answered; the answer is dropped at {at}: the client hangs."
        ),
    }
}

/// Every list that denies, as the policy says, and by which rule.
fn blockers(out: &mut String, policy: &Resolved, walk: &Walk, rows: &[Row<'_>]) {
    // Of a request that is dropped nothing is remembered. Were it let pass, such a list would let its reply pass too.
    let remembers = |row: &Row<'_>, walk: &Walk| {
        let mode = row.end.interface.as_ref().map(|interface| walk.mode.unwrap_or(interface.mode));
        walk.outcome == Outcome::RequestDenied && (row.layer != Layer::Nacl || mode == Some(Mode::Stateful))
    };
    let denying: Vec<_> = rows
        .iter()
        .enumerate()
        .filter_map(|(number, row)| Some((number + 1, row, row.cells[0].1.filter(|said| !said.allow)?)))
        .filter(|(_, row, _)| !(row.reply && remembers(row, walk)))
        .collect();
    if denying.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n  {BOLD}What blocks:{BOLD:#}");
    for (number, row, said) in denying {
        let Some(interface) = row.end.interface.as_ref() else { continue };
        let code = reachability_code(said, interface, row.direction).unwrap_or_default();
        let why = match said.by.written(interface) {
            Some(rule) => source_line(policy, rule),
            None => said.reason.sentence().to_owned(),
        };
        let _ = writeln!(out, "    {number:>2}  {code:<22}  {}: {}", list(row.layer, Some(interface)), said.by);
        let _ = writeln!(out, "        {DIM}{why}{DIM:#}");
    }
}

/// The way as JSON: the fields that an explanation at one interface has, of the crossing that decides, and `path`.
pub fn json(policy: &Resolved, path: &Path) -> Value {
    let walk = path.walk();
    let decides = |reply| walk.decides(reply);
    let of = |crossing: &Crossing| {
        path.end(crossing.at).interface.as_ref().map(|interface| {
            let interface = Interface { mode: walk.mode.unwrap_or(interface.mode), ..interface.clone() };
            leg_json(&interface, &crossing.leg)
        })
    };
    let deciding = walk.blocked().or_else(|| decides(false));
    let end = deciding.map(|crossing| path.end(crossing.at));
    let Remembered { nacl, groups, untracked, no_connection: _ } = walk.remembered;
    json!({
        "schema": 1,
        "file": policy.file,
        "interface": end.map(|end| &end.name),
        "security_groups": end.and_then(|end| end.interface.as_ref()).and_then(group_names),
        "mode": column(walk),
        "layers": end.and_then(|end| end.interface.as_ref()).map(|interface| interface.layers.name()),
        "outcome": outcome(walk.outcome),
        "assumed": Value::Null,
        "request": decides(false).and_then(of),
        "remembered": { "nacl": nacl, "security_groups": groups, "untracked": untracked },
        "reply": decides(true).and_then(of),
        "fix": path.fix.as_ref().map(fix_json),
        "path": {
            "from": end_json(&path.ends.from),
            "to": end_json(&path.ends.to),
            "modes": path.walks.iter().map(|walk| walk_json(path, walk)).collect::<Vec<_>>(),
        },
    })
}

fn group_names(interface: &Interface) -> Option<Vec<&str>> {
    Some(interface.groups.as_ref()?.iter().map(|group| group.name.as_str()).collect())
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Works => "works",
        Outcome::RequestDenied => "request-denied",
        Outcome::ReplyDenied => "reply-denied",
    }
}

fn end_json(end: &End) -> Value {
    let interface = end.interface.as_ref();
    json!({
        "kind": end.kind.name(),
        "name": end.name,
        "address": end.address,
        "subnet": interface.and_then(|interface| interface.subnet.as_ref()),
        "nacl": interface.filter(|interface| interface.layers != Layers::Groups).map(|interface| &interface.nacl.name),
        "security_groups": interface.and_then(group_names),
        "not_judged": end.unknown,
    })
}

fn walk_json(path: &Path, walk: &Walk) -> Value {
    let crossing = |crossing: &Crossing| {
        let Leg { direction, packet, verdict, by, said, .. } = &crossing.leg;
        let interface = path.end(crossing.at).interface.as_ref();
        let layers: Vec<_> = said
            .iter()
            .filter_map(|said| {
                let mut value = said_json(interface?, *direction, said);
                value["reached"] = reached(crossing, said).into();
                Some(value)
            })
            .collect();
        json!({
            "leg": if crossing.reply { "reply" } else { "request" },
            "at": path.end(crossing.at).name,
            "direction": direction.name(),
            "packet": flow_line(packet),
            "reached": crossing.reached,
            "action": if crossing.leg.passes() { Action::Allow } else { Action::Deny }.name(),
            "reason": verdict.reason.name(),
            "by": by,
            "layers": layers,
        })
    };
    json!({
        "mode": column(walk),
        "as_written": walk.written,
        "outcome": outcome(walk.outcome),
        "crossings": walk.crossings.iter().map(crossing).collect::<Vec<_>>(),
    })
}
