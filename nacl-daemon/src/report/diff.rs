//! What a change of a policy does, as text for a person and as JSON for a machine.

use std::fmt::Write as _;

use nacl_common::{Direction, Family};
use serde_json::{Value, json};

use super::{
    count_of, diagnostics,
    regions::{
        BOLD, DIM, GREEN, Place, RED, cells, decided_json, example, family_name, invitation, json as boxes,
        remote_name, said, table,
    },
};
use crate::{
    analyze::{BrokenReply, Change, Difference, InterfaceDifference, SettingChange, What},
    inventory::Note,
    resolve::place,
};

/// The two files.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// As it was.
    pub old: &'a str,
    /// As it is to be.
    pub new: &'a str,
    /// What the documents they were made of do not tell: it is not in the comparison.
    pub unknown: &'a [Note],
}

/// As styled text. `width`: columns of the terminal it is shown on, if it is one.
pub fn text(files: Files<'_>, difference: &Difference, width: Option<u16>) -> String {
    let mut out = String::new();
    if difference.is_empty() {
        let _ =
            writeln!(out, "{GREEN}No difference.{GREEN:#} What {} admits and denies, {} does.", files.old, files.new);
        unknown(&mut out, files);
        return out;
    }
    for name in &difference.only_old {
        let so = if place::Kind::split(name).is_some() { "it goes" } else { "it is no longer judged" };
        let _ = writeln!(out, "{BOLD}{name}{BOLD:#} is only in {}: {so}\n", files.old);
    }
    for name in &difference.only_new {
        let so = if place::Kind::split(name).is_some() { "it comes" } else { "it is judged from then on" };
        let _ = writeln!(out, "{BOLD}{name}{BOLD:#} is only in {}: {so}\n", files.new);
    }
    if !difference.settings.is_empty() {
        let _ = writeln!(out, "{BOLD}policy{BOLD:#}");
        settings(&mut out, &difference.settings);
        out.push('\n');
    }
    let (mut same, mut compared) = (0, 0);
    for one in &difference.interfaces {
        compared += 1;
        if difference.standing_alone && one.is_same() {
            // Of a whole account most is as it was.
            same += 1;
        } else {
            interface(&mut out, files, one, width);
        }
    }
    if !difference.replies.is_empty() {
        let _ = writeln!(out, "{RED}Replies that break{RED:#}");
        for BrokenReply { nacl, finding } in &difference.replies {
            let _ = writeln!(out, "  {BOLD}{nacl}{BOLD:#} {}  {DIM}({}){DIM:#}", finding.message, finding.code);
            for line in finding.note.iter().chain(&finding.help) {
                let _ = writeln!(out, "    {DIM}{line}{DIM:#}");
            }
        }
        out.push('\n');
    }
    if difference.standing_alone {
        let _ = writeln!(
            out,
            "{DIM}Compared is each network ACL and each security group standing alone, because not both files have interfaces:\n\
             {compared} places, of which {same} do the same.{DIM:#}"
        );
    }
    unknown(&mut out, files);
    let changed = difference.interfaces.iter().filter(|one| !one.changes.is_empty());
    let (mut remembers, mut exempts, mut any) = (false, false, false);
    for one in changed {
        any = true;
        remembers |= one.remembers;
        exempts |= one.exempts;
    }
    if any && exempts {
        let _ = writeln!(
            out,
            "{DIM}What passes unjudged in both files is left out, also where a range above spans it.{DIM:#}"
        );
    }
    if any && remembers {
        let _ = writeln!(
            out,
            "{DIM}Compared is the first packet of a flow. What is remembered of a flow lets it pass until it times out,\n\
             also where its rule is gone; `nacld conntrack flush` ends that.{DIM:#}"
        );
    }
    out
}

fn unknown(out: &mut String, files: Files<'_>) {
    if files.unknown.is_empty() {
        return;
    }
    let _ = writeln!(out, "{BOLD}Not known, and so not compared{BOLD:#}");
    for note in files.unknown {
        let _ = writeln!(out, "  {}: {}", note.place, note.message);
    }
}

fn settings(out: &mut String, settings: &[SettingChange]) {
    for SettingChange { name, before, after } in settings {
        let _ = writeln!(out, "  {name}: {before} → {after}");
    }
}

fn interface(out: &mut String, files: Files<'_>, one: &InterfaceDifference, width: Option<u16>) {
    if one.settings.is_empty() && one.changes.is_empty() {
        let _ = writeln!(out, "{BOLD}{}{BOLD:#}: no difference\n", one.name);
        return;
    }
    let _ = writeln!(out, "{BOLD}{}{BOLD:#}", one.name);
    settings(out, &one.settings);
    if one.changes.is_empty() {
        out.push_str("  No packet meets another verdict.\n\n");
        return;
    }
    let mut rest = one.changes.as_slice();
    while let Some(first) = rest.first() {
        let alike = |change: &Change| (change.direction, change.family, change.what);
        let (own, others) = rest.split_at(rest.iter().take_while(|change| alike(change) == alike(first)).count());
        rest = others;
        changes(out, first.direction, first.family, first.what, own, width);
    }
    let first = &one.changes[0];
    let place = Place { file: files.new, interface: &one.name };
    let [what, explain] = invitation(place, first.direction, &first.boxes[0].example);
    let _ = writeln!(out, "\n  {DIM}{what}\n  {explain}{DIM:#}\n");
}

fn changes(out: &mut String, direction: Direction, family: Family, what: What, all: &[Change], width: Option<u16>) {
    let (style, words) = match what {
        What::Admitted => (GREEN, "newly ADMITTED"),
        What::Denied => (RED, "newly DENIED"),
        What::Rule => (BOLD, "decided by another rule"),
    };
    let count = all.iter().map(|change| change.boxes.len()).sum();
    let _ = writeln!(
        out,
        "\n  {} · {} · {style}{words}{style:#} {DIM}({}){DIM:#}",
        direction.name(),
        family_name(family),
        count_of(count, "region")
    );
    let rows = all.iter().flat_map(|change| {
        change.boxes.iter().map(|one| {
            let [addresses, traffic] = cells(one);
            let example = example(direction, &one.example);
            vec![traffic, addresses, said(&change.before), said(&change.after), example]
        })
    });
    let header = ["Traffic", remote_name(direction), "Before", "After", "Example"];
    out.push_str(&table(&header, rows.collect(), width));
}

/// As JSON; `schema` counts up when a field changes its meaning.
pub fn json(files: Files<'_>, difference: &Difference) -> Value {
    let settings = |settings: &[SettingChange]| -> Value {
        let one = |one: &SettingChange| json!({ "name": one.name, "before": one.before, "after": one.after });
        settings.iter().map(one).collect::<Vec<_>>().into()
    };
    let change = |name: &str, change: &Change| {
        json!({
            "direction": change.direction.name(),
            "family": family_name(change.family),
            "change": match change.what {
                What::Admitted => "admitted",
                What::Denied => "denied",
                What::Rule => "rule",
            },
            "before": decided_json(&change.before),
            "after": decided_json(&change.after),
            "regions": boxes(Place { file: files.new, interface: name }, change.direction, &change.boxes),
        })
    };
    json!({
        "schema": 1,
        "old": files.old,
        "new": files.new,
        "equal": difference.is_empty(),
        "only_in_old": difference.only_old,
        "only_in_new": difference.only_new,
        "standing_alone": difference.standing_alone,
        "settings": settings(&difference.settings),
        "replies": difference.replies.iter().map(|BrokenReply { nacl, finding }| json!({
            "nacl": nacl,
            "code": finding.code,
            "message": finding.message,
            "note": finding.note,
            "help": finding.help,
            "examples": diagnostics::examples(&finding.examples),
        })).collect::<Vec<_>>(),
        "unknown": files.unknown.iter().map(|note| json!({
            "file": &*note.place.file,
            "path": note.place.path,
            "line": note.place.line,
            "message": note.message,
        })).collect::<Vec<_>>(),
        "interfaces": difference.interfaces.iter().map(|one| json!({
            "interface": one.name,
            "first_packets_only": one.remembers,
            "settings": settings(&one.settings),
            "changes": one.changes.iter().map(|own| change(&one.name, own)).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}
