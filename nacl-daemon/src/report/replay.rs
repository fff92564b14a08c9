//! What became of captured packets: a line each, and a summary. Flow records are `flowlog`'s.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use anstyle::Style;
use humantime::{format_rfc3339_micros, format_rfc3339_nanos};
use nacl_common::{Action, Counter, Direction, Packet, packet::tcp};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    console::{bytes, count},
    count_of,
    explain::{Answer, Asked, BOLD, DIM, GREEN, RED, answer, fix_json, fix_text, flow_line, source_line},
};
use crate::{
    analyze::{
        address,
        replay::{Broken, Decision, Fate, Pair, Seen, Summary, Unjudged},
    },
    compile::{Decider, SlotTable},
};

/// Why a packet was not judged, for a person.
fn unjudged(why: Unjudged) -> String {
    match why {
        Unjudged::Cut => "cut by the capture".to_owned(),
        Unjudged::NoDirection => "nothing tells whether it goes in or out".to_owned(),
        Unjudged::LinkLayer(link) => format!("link layer {link} cannot be read"),
    }
}

/// Why a packet was not judged, for a machine.
fn unjudged_name(why: Unjudged) -> String {
    match why {
        Unjudged::Cut => "cut".to_owned(),
        Unjudged::NoDirection => "no-direction".to_owned(),
        Unjudged::LinkLayer(link) => format!("link-layer-{link}"),
    }
}

const fn way(direction: Option<Direction>) -> &'static str {
    match direction {
        Some(Direction::Inbound) => "in",
        Some(Direction::Outbound) => "out",
        None => "",
    }
}

/// What decided, in one line.
fn deciders(by: &[Decider]) -> String {
    by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn flags(packet: &Packet) -> String {
    const PSH: u8 = 0x08;
    if packet.protocol != 6 || packet.tcp_flags == 0 {
        return String::new();
    }
    let letters = [(tcp::SYN, 'S'), (tcp::ACK, 'A'), (tcp::FIN, 'F'), (tcp::RST, 'R'), (PSH, 'P')];
    let set = letters.iter().filter(|(flag, _)| packet.tcp_flags & flag != 0).map(|(_, letter)| *letter);
    format!(" [{}]", set.collect::<String>())
}

/// A packet as a line for a person.
pub fn line(slots: &SlotTable, seen: &Seen) -> String {
    let (style, word, why) = match seen.fate {
        Fate::Judged { verdict, .. } => {
            let (style, word) = if verdict.action == Action::Allow { (GREEN, "ALLOWED") } else { (RED, "DENIED") };
            (style, word, deciders(&slots.deciders(&verdict)))
        }
        Fate::Unjudged(why) => (DIM, "unjudged", unjudged(why)),
    };
    let packet = seen.packet.map_or_else(
        || format!("{} that are no IP packet", count_of(seen.bytes as usize, "byte")),
        |packet| flow_line(&packet) + &flags(&packet),
    );
    let packet = if seen.packet.is_none() && matches!(seen.fate, Fate::Unjudged(_)) { String::new() } else { packet };
    let gap = if packet.is_empty() { "" } else { "  " };
    let (seconds, way) = (Duration::from_nanos(seen.at).as_secs_f64(), way(seen.direction));
    format!("{:>7} {seconds:>14.6}  {style}{word:<8}{style:#}  {way:<3}  {packet}{gap}{DIM}{why}{DIM:#}\n", seen.number)
}

/// A packet as a line of JSON.
pub fn json_line(asked: &Asked<'_>, slots: &SlotTable, seen: &Seen) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        packet: u64,
        time: Option<String>,
        direction: Option<&'static str>,
        #[serde(flatten)]
        what: Option<What>,
        bytes: u64,
        #[serde(flatten)]
        answer: Option<Answer<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        unjudged: Option<String>,
    }
    #[derive(Serialize)]
    struct What {
        src: String,
        dst: String,
        protocol: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        sport: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dport: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        icmp_type: Option<u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        icmp_code: Option<u8>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tcp_flags: Option<u8>,
    }
    let what = seen.packet.map(|packet| {
        let later = packet.fragment == nacl_common::Fragment::Later;
        let ports = !later && matches!(packet.protocol, 6 | 17);
        let icmp = !later && packet.protocol == if packet.family == nacl_common::Family::V4 { 1 } else { 58 };
        What {
            src: address(packet.family, packet.src).to_string(),
            dst: address(packet.family, packet.dst).to_string(),
            protocol: packet.protocol,
            sport: ports.then_some(packet.sport),
            dport: ports.then_some(packet.dport),
            icmp_type: icmp.then_some((packet.dport >> 8) as u8),
            icmp_code: icmp.then_some(packet.dport as u8),
            tcp_flags: (ports && packet.protocol == 6).then_some(packet.tcp_flags),
        }
    });
    let (verdict, unjudged) = match seen.fate {
        Fate::Judged { ref verdict, met } => (Some((verdict, met)), None),
        Fate::Unjudged(why) => (None, Some(unjudged_name(why))),
    };
    let line = Line {
        packet: seen.number,
        time: seen.time.map(|time| format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(time)).to_string()),
        direction: seen.direction.map(Direction::name),
        what,
        bytes: seen.bytes,
        answer: verdict.map(|(verdict, met)| answer(&asked.interface.nacl.name, slots, verdict, met)),
        unjudged,
    };
    Ok(serde_json::to_string(&line)? + "\n")
}

/// What became of it all, for a person.
pub fn summary(asked: &Asked<'_>, summary: &Summary) -> String {
    let Summary { packets, allowed, denied, by, broken, not_followed, cut, went_back, first, last, .. } = summary;
    let mut out = format!("{}\n\n", asked.heading());
    let when = first.zip(*last).map(|(first, last)| {
        let began = format_rfc3339_micros(UNIX_EPOCH + Duration::from_nanos(first));
        format!(", from {began} on, in {:.6} s", Duration::from_nanos(last - first).as_secs_f64())
    });
    let number = |packets: u64| format!("{} packet{}", count(packets), if packets == 1 { "" } else { "s" });
    let _ = writeln!(out, "{}{}", number(*packets), when.unwrap_or_default());
    let mut total = |style: Style, word: &str, packets: u64, note: &str| {
        let _ = writeln!(out, "  {style}{word:<10}{style:#} {:>10}{note}", count(packets));
    };
    total(GREEN, "allowed", allowed.packets, "");
    total(RED, "denied", denied.packets, "");
    let unjudged_packets: u64 = summary.unjudged.values().sum();
    if unjudged_packets > 0 {
        total(DIM, "not judged", unjudged_packets, "");
        for (why, packets) in &summary.unjudged {
            let _ = writeln!(out, "    {:>19}  {}", count(*packets), unjudged(*why));
        }
    }
    if !by.is_empty() {
        out.push_str("\nWhat decided\n");
        let mut by: Vec<_> = by.iter().collect();
        by.sort_by_key(|(_, counter)| std::cmp::Reverse(counter.packets));
        for (Decision { allow, direction, by }, Counter { packets, bytes: length }) in by {
            let (style, word) = if *allow { (GREEN, "allowed") } else { (RED, "denied") };
            let name = match by {
                // Names of reasons tell no direction.
                Decider::SameSubnet | Decider::Unlisted(_) => {
                    [direction.map_or("", Direction::name), &by.to_string()].join(" ").trim_start().to_owned()
                }
                _ => by.to_string(),
            };
            let line = by.written(asked.interface).map(|rule| source_line(asked.policy, rule)).unwrap_or_default();
            let text = format!(
                "  {:>10} {:>10}  {style}{word:<7}{style:#}  {name:<24}  {DIM}{line}{DIM:#}",
                count(*packets),
                bytes(*length)
            );
            let _ = writeln!(out, "{}", text.trim_end());
        }
    }
    for (pair, one) in broken {
        broken_text(&mut out, asked, pair, one);
    }
    let mut notes = Vec::new();
    if *cut > 0 {
        notes.push(format!("The capture did not keep all bytes of {}; the rules see headers only.", number(*cut)));
    }
    if *went_back > 0 {
        notes
            .push(format!("Before {} time went back; they were judged at the latest time so far.", number(*went_back)));
    }
    if *not_followed > 0 {
        notes.push(format!("Too many flows ran at once: {} may have broken unseen.", number(*not_followed)));
    }
    if summary.unjudged.contains_key(&Unjudged::NoDirection) {
        notes.push("Say which addresses are on this side: --local ADDRESS or --local CIDR.".to_owned());
    }
    if !notes.is_empty() {
        out.push('\n');
    }
    for note in notes {
        let _ = writeln!(out, "{DIM}{note}{DIM:#}");
    }
    out
}

fn broken_text(out: &mut String, asked: &Asked<'_>, (request, reply): &Pair, broken: &Broken) {
    let Broken { flows, replies, first: (at, asked_at), flow, direction, fix } = broken;
    let (admitted, dropped) = match direction {
        Direction::Inbound => ("let in", "on their way out"),
        Direction::Outbound => ("let out", "on their way in"),
    };
    let flows = count_of(*flows as usize, "flow");
    let replies = if *replies == 1 { "1 reply".to_owned() } else { format!("{} replies", count(*replies)) };
    let _ = writeln!(out, "\n{BOLD}Broken:{BOLD:#} {flows} whose request was {admitted}; {replies} dropped {dropped}");
    if let Ok(packet) = flow.request() {
        let _ = writeln!(
            out,
            "  first     {}  {DIM}(packet {asked_at}, its reply is packet {at}){DIM:#}",
            flow_line(&packet)
        );
    }
    for (label, by) in [("request", request), ("reply", reply)] {
        let (style, word) = if label == "request" { (GREEN, "ALLOWED") } else { (RED, "DENIED") };
        let _ = writeln!(out, "  {label:<8}  {style}{word}{style:#} by {}", deciders(by));
        for rule in by.iter().filter_map(|by| by.written(asked.interface)) {
            let _ = writeln!(out, "            {DIM}{}{DIM:#}", source_line(asked.policy, rule));
        }
    }
    match fix {
        Some(fix) => fix_text(out, fix, true),
        None => out.push_str("  No rule that could be added mends this flow.\n"),
    }
}

/// What became of it all, for a machine: the last line of `--json`.
pub fn summary_json(asked: &Asked<'_>, summary: &Summary) -> Value {
    let counter = |counter: &Counter| json!({ "packets": counter.packets, "bytes": counter.bytes });
    let time =
        |time: Option<u64>| time.map(|time| format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(time)).to_string());
    let line = |by: &Decider| by.written(asked.interface).map(|rule| rule.line()).filter(|line| *line > 0);
    let by = summary.by.iter().map(|(Decision { allow, direction, by }, counter)| {
        json!({
            "action": if *allow { Action::Allow } else { Action::Deny }.name(),
            "direction": direction.map(Direction::name),
            "by": by,
            "line": line(by),
            "packets": counter.packets,
            "bytes": counter.bytes,
        })
    });
    let broken = summary.broken.iter().map(|((request, reply), broken)| {
        let packet = broken.flow.request().ok();
        json!({
            "request": { "by": request, "direction": broken.direction.name(), "packet": broken.first.1 },
            "reply": { "by": reply, "direction": broken.direction.reverse().name(), "packet": broken.first.0 },
            "flow": packet.as_ref().map(flow_line),
            "flows": broken.flows,
            "replies": broken.replies,
            "fix": broken.fix.as_ref().map(fix_json),
        })
    });
    json!({
        "schema": 1,
        "summary": {
            "file": asked.policy.file,
            "interface": asked.name,
            "mode": asked.interface.mode.name(),
            "layers": asked.interface.layers.name(),
            "packets": summary.packets,
            "first": time(summary.first),
            "last": time(summary.last),
            "allowed": counter(&summary.allowed),
            "denied": counter(&summary.denied),
            "unjudged": summary.unjudged.iter().map(|(why, packets)| (unjudged_name(*why), *packets))
                .collect::<std::collections::BTreeMap<_, _>>(),
            "by": by.collect::<Vec<_>>(),
            "broken": broken.collect::<Vec<_>>(),
            "not_followed": summary.not_followed,
            "cut": summary.cut,
            "time_went_back": summary.went_back,
        },
    })
}
