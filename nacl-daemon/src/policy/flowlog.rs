//! Flow logs as written: `[flow_log.NAME]`, its keys and its format.

use std::{ops::RangeInclusive, path::PathBuf};

use super::{
    Diagnostic, codes, group, names, rule,
    tree::{Entry, Hint, Reader, Table, Unknown, Value},
    written::FlowLog as Written,
};
use crate::resolve::flowlog::{Destination, Field, FlowLog, Format, FormatError, FormatFault, Identity, Style, Told};

const KNOWN: [&str; 17] = [
    "destination",
    "format",
    "interval",
    "traffic",
    "style",
    "rotate_mib",
    "rotate_hours",
    "keep",
    "entries",
    "account_id",
    "region",
    "vpc_id",
    "instance_id",
    "az_id",
    "sublocation_type",
    "sublocation_id",
    "description",
];

/// `[flow_log.NAME]`
pub(super) fn flow_log(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<Written> {
    let what = format!("`[flow_log.{}]`", entry.key.escape_debug());
    let table = entry.value.table(reader, &what, &KNOWN, &|unknown| hint(unknown, &what))?;
    rule::description(reader, &table);
    let help = "where it goes: an absolute path, \"stdout\" or \"journal\", such as `destination = \"/var/log/nacld/flows.log\"`";
    let destination = table
        .require_at(reader, "destination", &entry.key_span, help)
        .and_then(|value| destination(reader, value))
        // Reported; what is made up in its place is used by nobody.
        .unwrap_or(Destination::Stdout);
    let mut log = FlowLog::new(entry.key, destination);
    if let Some(value) = table.get("format") {
        log.format = format(reader, value).unwrap_or_default();
    }
    if let Some(value) = table.get("interval") {
        log.interval = interval(reader, value).unwrap_or(FlowLog::INTERVAL);
    }
    let told = [("all", Told::All), ("accept", Told::Accept), ("reject", Told::Reject)];
    log.told = table.get("traffic").and_then(|value| value.choice(reader, "traffic", &told)).unwrap_or_default();
    let styles = [("aws", Style::Aws), ("json", Style::Json)];
    log.style = table.get("style").and_then(|value| value.choice(reader, "style", &styles)).unwrap_or_default();
    let mut number = |key: &str, range: RangeInclusive<u32>, field: &mut u32| {
        if let Some(value) = table.get(key)
            && let Some(number) = bounded(reader, value, key, range)
        {
            *field = number;
        }
    };
    number("rotate_mib", 1..=1 << 20, &mut log.rotation.mib);
    number("rotate_hours", 0..=24 * 366, &mut log.rotation.hours);
    number("keep", 0..=10_000, &mut log.rotation.keep);
    number("entries", 1..=16_777_216, &mut log.entries);
    log.identity = Identity {
        account: word(reader, &table, "account_id"),
        region: word(reader, &table, "region"),
        vpc: word(reader, &table, "vpc_id"),
        instance: word(reader, &table, "instance_id"),
        az: word(reader, &table, "az_id"),
        sublocation_type: word(reader, &table, "sublocation_type"),
        sublocation: word(reader, &table, "sublocation_id"),
    };
    Some(Written { name: entry.key_span.clone(), log })
}

fn hint(unknown: &Unknown<'_, '_>, what: &str) -> Option<Hint> {
    let (meant, help) = match unknown.plain.as_str() {
        "log_format" => ("format", "it is written `format`"),
        "max_aggregation_interval" | "aggregation_interval" | "window" => ("interval", "it is written `interval`"),
        "traffic_type" | "filter" => ("traffic", "it is written `traffic`"),
        "file" | "path" | "log_destination" | "to" => ("destination", "it is written `destination`"),
        "account" => ("account_id", "it is written `account_id`"),
        "vpc" => ("vpc_id", "it is written `vpc_id`"),
        "subnet" | "subnet_id" => {
            let span = unknown.entry.key_span.clone();
            let diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span, format!("{what} has no key `subnet_id`"))
                .at("unknown key")
                .help("it is the `id` of the interface's subnet: `[subnet.NAME]`");
            return Some(Hint { diagnostic, meant: None });
        }
        "interface" | "interfaces" | "interface_id" => {
            let span = unknown.entry.key_span.clone();
            let message = format!("{what} has no key `{}`", unknown.entry.key.escape_debug());
            let diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span, message)
                .at("unknown key")
                .help("the interface names its flow log, `flow_log = \"NAME\"`, and may have an `id` of its own");
            return Some(Hint { diagnostic, meant: None });
        }
        _ => return None,
    };
    Some(rule::instead(unknown, what, meant, true, help.to_owned()))
}

fn destination(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Destination> {
    let text = value.string(reader, "destination")?;
    match text {
        "stdout" => Some(Destination::Stdout),
        "journal" => Some(Destination::Journal),
        _ if text.starts_with('/') && !text.ends_with('/') && !text.contains('\0') => {
            Some(Destination::File(PathBuf::from(text)))
        }
        _ => {
            let message = format!("a flow log cannot go to \"{}\"", text.escape_debug());
            let diagnostic = Diagnostic::new(&codes::FLOW_LOG, value.span(), message)
                .at("expected an absolute path, \"stdout\" or \"journal\"")
                .help("write for example \"/var/log/nacld/flows.log\"");
            reader.push(diagnostic);
            None
        }
    }
}

fn interval(reader: &mut Reader<'_>, value: Value<'_>) -> Option<u32> {
    let number = group::integer(reader, value, "interval")?;
    let found = [60, FlowLog::INTERVAL].into_iter().find(|seconds| i64::from(*seconds) == number);
    if found.is_none() {
        let message = format!("`interval` cannot be {}", &reader.text[value.span()]);
        let nearest = if number < 330 { 60 } else { FlowLog::INTERVAL };
        reader.push(
            Diagnostic::new(&codes::FLOW_LOG, value.span(), message)
                .at("expected 60 or 600")
                .note("AWS aggregates over 60 or 600 seconds (F13)")
                .help(format!("{nearest} is the nearest that can be"))
                .fix(value.span(), nearest.to_string()),
        );
    }
    found
}

fn bounded(reader: &mut Reader<'_>, value: Value<'_>, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
    let number = group::integer(reader, value, key)?;
    let found = u32::try_from(number).ok().filter(|number| range.contains(number));
    if found.is_none() {
        let (first, last) = (*range.start(), *range.end());
        let nearest = if number < i64::from(first) { first } else { last };
        let message = format!("`{key}` cannot be {}", &reader.text[value.span()]);
        reader.push(
            Diagnostic::new(&codes::FLOW_LOG, value.span(), message)
                .at(format!("expected {first} to {last}"))
                .help(format!("{nearest} is the nearest that can be"))
                .fix(value.span(), nearest.to_string()),
        );
    }
    found
}

/// An id, which stands between blanks in a line.
fn word(reader: &mut Reader<'_>, table: &Table<'_>, key: &str) -> Option<String> {
    let value = table.get(key)?;
    let text = value.name(reader, key)?;
    if !is_word(text) {
        reader.push(no_word(key, text, value));
        return None;
    }
    Some(text.to_owned())
}

/// Whether a text can stand between blanks, and in the name of a directory.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|sign| sign.is_ascii_graphic() && sign != '/')
}

/// What is said of an id that cannot.
pub(super) fn no_word(key: &str, text: &str, value: Value<'_>) -> Diagnostic {
    let message = format!("`{key}` cannot be \"{}\"", text.escape_debug());
    Diagnostic::new(&codes::FLOW_LOG, value.span(), message)
        .at("expected letters, digits and signs without blanks and slashes")
        .note("the fields of a flow log's line stand between blanks (F2)")
        .help("write the id as AWS shows it")
}

/// `format`: everything that is wrong with it, each at its place.
fn format(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Format> {
    let text = value.string(reader, "format")?;
    let errors = match Format::read(text) {
        Ok(format) => return Some(format),
        Err(errors) => errors,
    };
    // In a string without escapes on one line every sign stands where it is.
    let whole = value.span();
    let plain = reader.text.get(whole.start + 1..whole.end.saturating_sub(1)) == Some(text);
    for FormatError { span, fault } in errors {
        let span = if plain && !span.is_empty() {
            whole.start + 1 + span.start..whole.start + 1 + span.end
        } else {
            whole.clone()
        };
        let exact = span != whole;
        let diagnostic = Diagnostic::new(&codes::FLOW_LOG, span.clone(), fault.to_string());
        reader.push(match fault {
            FormatFault::Unknown { name } => {
                let known = Field::ALL.iter().map(|field| field.name());
                let diagnostic = diagnostic.at("unknown field");
                match names::closest(&name, known).filter(|_| exact) {
                    Some(close) => {
                        diagnostic.help(format!("did you mean `${{{close}}}`?")).fix(span, format!("${{{close}}}"))
                    }
                    None => diagnostic.help("AWS's documentation of flow log records lists them"),
                }
            }
            FormatFault::Later { .. } => diagnostic
                .at("not known here")
                .note("from version 7 on fields tell of AWS's own: tasks of ECS, tags, next hops, encryption (F5)")
                .help("leave it out; what nacld knows more, the layer and the rule, is in `style = \"json\"`"),
            FormatFault::NoField { meant, .. } => match meant.filter(|_| exact) {
                Some(field) => diagnostic
                    .at("expected `${name}`")
                    .help(format!("write `${{{}}}`", field.name()))
                    .fix(span, format!("${{{}}}", field.name())),
                None => {
                    diagnostic.at("expected `${name}`").help("fields are written `${srcaddr}`, with blanks between")
                }
            },
            FormatFault::Twice(_) => diagnostic.at("again").help("remove one of the two"),
            FormatFault::Empty => diagnostic
                .at("no field")
                .help("leave `format` out for AWS's default, or name fields such as `${srcaddr}`"),
        });
    }
    None
}
