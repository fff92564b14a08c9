//! What a search found, as text for a person and as JSON for a machine.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    count_of,
    regions::{
        BOLD, DIM, GREEN, Place, RED, cells, decided_json, example, family_name, invitation, json as boxes,
        remote_name, rule, table,
    },
};
use crate::analyze::{Found, Searched};

/// As styled text. `denied`: what was looked for. `width`: columns of the terminal it is shown on, if it is one.
pub fn text(place: Place<'_>, searched: &Searched, denied: bool, width: Option<u16>) -> String {
    let mut out = String::new();
    let (style, word) = if denied { (RED, "DENIED") } else { (GREEN, "ADMITTED") };
    let mut rest = searched.found.as_slice();
    while let Some(first) = rest.first() {
        let alike = |found: &Found| (found.direction, found.family);
        let (own, others) = rest.split_at(rest.iter().take_while(|found| alike(found) == alike(first)).count());
        rest = others;
        let count = own.iter().map(|found| found.boxes.len()).sum();
        let _ = writeln!(
            out,
            "{BOLD}{}{BOLD:#} · {} · {} · {style}{word}{style:#} {DIM}({}){DIM:#}",
            place.interface,
            first.direction.name(),
            family_name(first.family),
            count_of(count, "region")
        );
        let rows = own.iter().flat_map(|found| {
            let by = match &found.also {
                None => rule(&found.by),
                Some(also) => format!("{}, {}", rule(&found.by), rule(also)),
            };
            found.boxes.iter().map(move |one| {
                let [addresses, traffic] = cells(one);
                vec![traffic, addresses, by.clone(), example(found.direction, &one.example)]
            })
        });
        out.push_str(&table(&["Traffic", remote_name(first.direction), "Rule", "Example"], rows.collect(), width));
        out.push('\n');
    }
    match searched.found.first() {
        None => {
            let word = if denied { "denied" } else { "let pass" };
            let _ = writeln!(out, "{BOLD}{}{BOLD:#}: no such packet is {word}.", place.interface);
        }
        Some(found) => {
            let [what, explain] = invitation(place, found.direction, &found.boxes[0].example);
            let _ = writeln!(out, "{DIM}{what}\n{explain}{DIM:#}");
        }
    }
    if searched.left_out {
        let _ = writeln!(
            out,
            "{DIM}Left out is what passes without a rule: services AWS never filters, DHCP, neighbour discovery (--exempt).{DIM:#}"
        );
    }
    out
}

/// As JSON; `schema` counts up when a field changes its meaning.
pub fn json(file: &str, searched: &[(&str, Searched)], denied: bool) -> Value {
    let found = |interface: &str, found: &Found| {
        json!({
            "direction": found.direction.name(),
            "family": family_name(found.family),
            "by": decided_json(&found.by),
            "also": found.also.as_ref().map(decided_json),
            "regions": boxes(Place { file, interface }, found.direction, &found.boxes),
        })
    };
    json!({
        "schema": 1,
        "file": file,
        "action": if denied { "deny" } else { "allow" },
        "found": searched.iter().any(|(_, searched)| !searched.found.is_empty()),
        "interfaces": searched.iter().map(|(name, searched)| json!({
            "interface": name,
            "left_out": searched.left_out,
            "found": searched.found.iter().map(|one| found(name, one)).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}
