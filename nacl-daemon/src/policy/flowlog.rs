//! Flow logs as written: `[flow_log.NAME]`, its keys and its format.

use std::{ops::RangeInclusive, path::PathBuf};

use super::{
    Diagnostic, codes, group, names, rule,
    tree::{Entry, Hint, Reader, Table, Unknown, Value},
    written::FlowLog as Written,
};
use crate::resolve::flowlog::{
    Destination, Field, FileFormat, FlowLog, Format, FormatError, FormatFault, Identity, Style, Told, Tree,
};

const KNOWN: [&str; 20] = [
    "destination",
    "format",
    "interval",
    "traffic",
    "style",
    "file_format",
    "hive_compatible_partitions",
    "per_hour_partition",
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
    written(reader, entry, cfg!(feature = "parquet"))
}

/// `parquet`: whether this nacld can write that.
fn written(reader: &mut Reader<'_>, entry: &Entry<'_>, parquet: bool) -> Option<Written> {
    let what = format!("`[flow_log.{}]`", entry.key.escape_debug());
    let table = entry.value.table(reader, &what, &KNOWN, &|unknown| hint(unknown, &what))?;
    rule::description(reader, &table);
    let help = "where it goes: an absolute path, \"stdout\" or \"journal\", such as `destination = \"/var/log/nacld/flows.log\"`";
    let destination =
        table.require_at(reader, "destination", &entry.key_span, help).and_then(|value| destination(reader, value));
    let is_known = destination.is_some();
    // Reported where it is not; what is made up in its place is used by nobody.
    let mut log = FlowLog::new(entry.key, destination.unwrap_or(Destination::Stdout));
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
    // A record is about a kilobyte while a window is written.
    number("entries", 1..=1 << 20, &mut log.entries);
    log.identity = Identity {
        account: word(reader, &table, "account_id"),
        region: word(reader, &table, "region"),
        vpc: word(reader, &table, "vpc_id"),
        instance: word(reader, &table, "instance_id"),
        az: word(reader, &table, "az_id"),
        sublocation_type: word(reader, &table, "sublocation_type"),
        sublocation: word(reader, &table, "sublocation_id"),
    };
    files(reader, &table, entry, &mut log, is_known, parquet);
    Some(Written { name: entry.key_span.clone(), log })
}

/// What AWS calls the options of a destination. `is_known`: whether it was read.
fn files(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    entry: &Entry<'_>,
    log: &mut FlowLog,
    is_known: bool,
    parquet: bool,
) {
    const ROTATED: [&str; 3] = ["rotate_mib", "rotate_hours", "keep"];
    let formats = [("plain-text", FileFormat::PlainText), ("parquet", FileFormat::Parquet)];
    let written = table.get("file_format");
    let file_format = written.and_then(|value| value.choice(reader, "file_format", &formats)).unwrap_or_default();
    let [hive, hourly] = ["hive_compatible_partitions", "per_hour_partition"]
        .map(|key| table.get(key).is_some_and(|value| value.boolean(reader, key).unwrap_or_default()));
    let mut refuse = |key: &str, message: String, at: &str, help: &str| {
        let span = table.get(key).map_or_else(|| entry.key_span.clone(), |value| value.span());
        reader.push(Diagnostic::new(&codes::FLOW_LOG, span, message).at(at.to_owned()).help(help.to_owned()));
    };
    let is_parquet = file_format == FileFormat::Parquet;
    if is_parquet && !parquet {
        refuse(
            "file_format",
            "this nacld was built without Parquet".to_owned(),
            "needs the feature `parquet`",
            "build it with `--features parquet`, as the packages are, or write \"plain-text\"",
        );
    }
    if is_parquet && log.style == Style::Json {
        let help = "leave one of the two out: columns have the names and types that AWS gives them";
        refuse("style", "Parquet has columns, and no objects".to_owned(), "not with `file_format = \"parquet\"`", help);
    }
    let Destination::Directory(tree) = &mut log.destination else {
        let asked = [("file_format", is_parquet), ("hive_compatible_partitions", hive), ("per_hour_partition", hourly)];
        for (key, _) in asked.into_iter().filter(|(_, asked)| *asked && is_known) {
            let help =
                "let `destination` end with a slash, such as \"/var/log/nacld/flows/\": each window is a file there";
            refuse(key, format!("`{key}` needs a directory for a destination"), "not for this destination", help);
        }
        return;
    };
    (tree.file_format, tree.hive_compatible_partitions, tree.per_hour_partition) = (file_format, hive, hourly);
    for key in ROTATED.into_iter().filter(|key| table.get(key).is_some()) {
        let help = "remove it: each window is a file of its own there, and how long it stays is not nacld's to say";
        refuse(key, format!("`{key}` is of a file, and the destination is a directory"), "nothing rotates", help);
    }
    let identity = [("account_id", &log.identity.account), ("region", &log.identity.region)];
    for (key, _) in identity.into_iter().filter(|(key, value)| value.is_none() && table.get(key).is_none()) {
        let help = format!("say it as AWS does: `{key} = …`");
        refuse(
            key,
            format!("`{key}` is in the path of every file (F15), and missing"),
            "needed by its destination",
            &help,
        );
    }
}

fn hint(unknown: &Unknown<'_, '_>, what: &str) -> Option<Hint> {
    let (meant, help) = match unknown.plain.as_str() {
        "log_format" => ("format", "it is written `format`"),
        "max_aggregation_interval" | "aggregation_interval" | "window" => ("interval", "it is written `interval`"),
        "traffic_type" | "filter" => ("traffic", "it is written `traffic`"),
        "file" | "path" | "log_destination" | "to" => ("destination", "it is written `destination`"),
        "file_type" | "log_file_format" => ("file_format", "it is written `file_format`"),
        "hive" | "hive_partitions" | "hive_compatible" => {
            ("hive_compatible_partitions", "it is written `hive_compatible_partitions`")
        }
        "hourly" | "hourly_partitions" | "per_hour_partitions" => {
            ("per_hour_partition", "it is written `per_hour_partition`")
        }
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
        _ if text.starts_with('/') && !text.contains('\0') => Some(match text.strip_suffix('/') {
            Some(_) => Destination::Directory(Tree {
                root: PathBuf::from(text),
                file_format: FileFormat::default(),
                hive_compatible_partitions: false,
                per_hour_partition: false,
            }),
            None => Destination::File(PathBuf::from(text)),
        }),
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
    !matches!(text, "" | "." | "..") && text.chars().all(|sign| sign.is_ascii_graphic() && sign != '/')
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

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::*;
    use crate::policy::tree::entries_of;

    /// What is read, and the messages, of a nacld that can write Parquet or not.
    fn read(keys: &str, parquet: bool) -> (Destination, Vec<String>) {
        let text = format!("[f]\n{keys}");
        let (document, errors) = DeTable::parse_recoverable(&text);
        assert!(errors.is_empty(), "{errors:?}");
        let mut reader = Reader { text: &text, diagnostics: Vec::new() };
        let log = written(&mut reader, &entries_of(document.get_ref())[0], parquet).unwrap().log;
        let told = |one: Diagnostic| format!("{} {}: {}", one.code, &text[one.span], one.message);
        (log.destination, reader.diagnostics.into_iter().map(told).collect())
    }

    const KNOWN_THERE: &str = "account_id = \"1\"\nregion = \"eu\"\n";

    #[test]
    fn parquet_is_for_who_can_write_it() {
        let keys =
            format!("destination = \"/d/\"\nfile_format = \"parquet\"\nper_hour_partition = true\n{KNOWN_THERE}");
        let tree = Tree {
            root: PathBuf::from("/d/"),
            file_format: FileFormat::Parquet,
            hive_compatible_partitions: false,
            per_hour_partition: true,
        };
        assert_eq!(read(&keys, true), (Destination::Directory(tree), Vec::new()));
        assert_eq!(read(&keys, false).1, ["E047 \"parquet\": this nacld was built without Parquet"]);
        let json = format!("{keys}style = \"json\"\n");
        assert_eq!(read(&json, true).1, ["E047 \"json\": Parquet has columns, and no objects"]);
        let file = keys.replace("/d/", "/d");
        let needs = |key: &str, value: &str| format!("E047 {value}: `{key}` needs a directory for a destination");
        assert_eq!(read(&file, true).1, [needs("file_format", "\"parquet\""), needs("per_hour_partition", "true")]);
    }

    #[test]
    fn options_that_say_nothing_are_let_be() {
        for keys in ["file_format = \"plain-text\"", "hive_compatible_partitions = false"] {
            for destination in ["/d", "stdout", "journal"] {
                assert_eq!(read(&format!("destination = \"{destination}\"\n{keys}"), false).1, [""; 0]);
            }
            let directory = format!("destination = \"/d/\"\n{keys}\n{KNOWN_THERE}");
            assert_eq!(read(&directory, false).1, [""; 0]);
        }
    }
}
