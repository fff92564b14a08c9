//! TOML → [`Policy`] as written: every table, key and value of the language, each with its own diagnostic, so that one
//! mistake hides no other. Names are looked up elsewhere (`resolve`).

use std::{collections::BTreeMap, net::IpAddr, ops::Range};

use nacl_common::Direction;
use toml::de::DeTable;

use super::{
    Diagnostic, aws, codes, flowlog, group, rule,
    syntax::{self, Broken},
    tree::{Entry, Hint, Reader, Table, Unknown, Value, entries_of},
    written::{At, Eni, Interface, List, Nacl, Policy, Subnet, Vpc},
};
use crate::resolve::{Layers, Mode, OnExit, Side, Xdp};

/// What reading gives.
pub(super) struct Read {
    pub(super) policy: Policy,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Where the TOML is broken, if it is.
    pub(super) broken: Option<Broken>,
}

/// The version of the language this program speaks.
const VERSION: i64 = 1;

/// Longest interface name Linux has (IFNAMSIZ less the terminator).
const NAME_MAX: usize = 15;

const TOP: [&str; 12] = [
    "version",
    "aws",
    "vpc",
    "subnet",
    "nacl",
    "security_group",
    "prefix_list",
    "eni",
    "interface",
    "tracking",
    "flow_log",
    "on_exit",
];

pub(super) fn read(text: &str) -> Read {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { text, diagnostics: Vec::new() };
    let broken = syntax::report(&mut reader, document.get_ref(), &errors);
    let top = Table::read(&mut reader, "a policy", 0..0, document.get_ref(), &TOP, &top_hint);
    version(&mut reader, &top);
    let mut policy = Policy { aws: aws::account(&mut reader, &top), ..Policy::default() };
    if let Some(entry) = top.entry("vpc") {
        policy.vpcs = vpcs(&mut reader, entry);
    }
    let tables = |reader: &mut Reader<'_>, key: &str, example: &str| {
        top.get(key).map(|value| value.named(reader, key, example)).unwrap_or_default()
    };
    for entry in tables(&mut reader, "subnet", "public") {
        policy.subnets.extend(subnet(&mut reader, &entry).map(|subnet| (entry.key.to_owned(), subnet)));
    }
    for entry in tables(&mut reader, "nacl", "web") {
        policy.nacls.extend(nacl(&mut reader, &entry).map(|nacl| (entry.key.to_owned(), nacl)));
    }
    for entry in tables(&mut reader, "security_group", "web") {
        policy.groups.extend(group::group(&mut reader, &entry).map(|group| (entry.key.to_owned(), group)));
    }
    for entry in tables(&mut reader, "prefix_list", "office") {
        policy.prefix_lists.extend(group::prefix_list(&mut reader, &entry).map(|list| (entry.key.to_owned(), list)));
    }
    for entry in tables(&mut reader, "eni", "load-balancer") {
        policy.enis.extend(eni(&mut reader, &entry).map(|eni| (entry.key.to_owned(), eni)));
    }
    for entry in tables(&mut reader, "interface", "eth0") {
        policy.interfaces.extend(interface(&mut reader, &entry).map(|found| (entry.key.to_owned(), found)));
    }
    for entry in tables(&mut reader, "flow_log", "flows") {
        policy.flow_logs.extend(flowlog::flow_log(&mut reader, &entry).map(|log| (entry.key.to_owned(), log)));
    }
    if let Some(value) = top.get("tracking") {
        policy.tracking = group::tracking(&mut reader, value);
    }
    let ends = [("detach", OnExit::Detach), ("keep", OnExit::Keep)];
    policy.on_exit = choice(&mut reader, &top, "on_exit", &ends).unwrap_or_default();
    Read { policy, diagnostics: reader.diagnostics, broken }
}

/// Names of tables that come from habit.
fn top_hint(unknown: &Unknown<'_, '_>) -> Option<Hint> {
    let meant = match unknown.plain.as_str() {
        "security_groups" | "sg" | "group" => "security_group",
        "prefix_lists" | "pl" => "prefix_list",
        "network_acl" | "acl" => "nacl",
        "conntrack" => "tracking",
        "flow_logs" | "flowlog" | "vpc_flow_log" => "flow_log",
        "failsafe" => {
            let span = unknown.entry.key_span.clone();
            let diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span, "a policy has no key `failsafe`")
                .at("unknown key")
                .help("it belongs to an interface: `failsafe = [ … ]` below `[interface.NAME]`");
            return Some(Hint { diagnostic, meant: None });
        }
        _ => return None,
    };
    Some(rule::instead(unknown, "a policy", meant, true, format!("it is written `{meant}`")))
}

fn none(_: &Unknown<'_, '_>) -> Option<Hint> {
    None
}

fn version(reader: &mut Reader<'_>, top: &Table<'_>) {
    let Some(value) = top.get("version") else {
        if !top.has("version") {
            let start = if reader.text.starts_with('\u{feff}') { 3 } else { 0 };
            reader.push(
                Diagnostic::new(
                    &codes::VERSION,
                    start..start,
                    "the policy does not say which version of the language it is in",
                )
                .at("`version` is missing")
                .help("begin the file with `version = 1`")
                .fix(start..start, "version = 1\n"),
            );
        }
        return;
    };
    if value.as_integer() == Some(VERSION) {
        return;
    }
    let message = match value.as_integer() {
        Some(_) => {
            format!("this program does not speak version {} of the policy language", &reader.text[value.span()])
        }
        None => format!("`version` must be an integer, not {}", value.kind()),
    };
    reader.push(
        Diagnostic::new(&codes::VERSION, value.span(), message)
            .at("expected 1")
            .help("there is one version so far")
            .fix(value.span(), "1"),
    );
}

fn vpcs(reader: &mut Reader<'_>, entry: &Entry<'_>) -> BTreeMap<String, Vpc> {
    let mut found = BTreeMap::new();
    // `tags` is the one key of a VPC that holds a table.
    let is_named = |child: &&Entry<'_>| child.value.is_table() && child.key != "tags";
    let children = entry.value.as_table().map(entries_of).unwrap_or_default();
    let (named, plain): (Vec<_>, Vec<_>) = children.iter().partition(is_named);
    if let ([first, ..], [key, ..]) = (&named[..], &plain[..]) {
        reader.push(
            Diagnostic::new(&codes::MIXED_VPC, key.key_span.clone(), "`[vpc]` and `[vpc.NAME]` do not go together")
                .at("belongs to a VPC without a name")
                .and(first.key_span.clone(), "a VPC with a name")
                .help("give every VPC a name, or have only one"),
        );
        return found;
    }
    if named.is_empty() {
        if let Some(vpc) = vpc(reader, "`[vpc]`", entry.key_span.clone(), entry.value) {
            found.insert(String::new(), vpc);
        }
        return found;
    }
    for child in named {
        let what = format!("`[vpc.{}]`", child.key.escape_debug());
        if let Some(vpc) = vpc(reader, &what, child.key_span.clone(), child.value) {
            found.insert(child.key.to_owned(), vpc);
        }
    }
    found
}

fn vpc(reader: &mut Reader<'_>, what: &str, name: Range<usize>, value: Value<'_>) -> Option<Vpc> {
    let table = value.table(reader, what, &["cidrs", "id", "tags", "owner", "external"], &none)?;
    let external = aws::external(reader, &table, what, &["cidrs"]);
    let help = "the VPC's address ranges: `cidrs = [\"10.0.0.0/16\"]`";
    let cidrs = if external.is_some() { Vec::new() } else { cidrs(reader, &table, &name, help) };
    let id = rule::id(reader, &table);
    Some(Vpc { name, cidrs, external, aws: aws::read(reader, &table, id) })
}

/// `cidrs`, which must be there and not be empty.
fn cidrs(reader: &mut Reader<'_>, table: &Table<'_>, name: &Range<usize>, help: &str) -> Vec<At<ipnet::IpNet>> {
    let Some(value) = table.require_at(reader, "cidrs", name, help) else { return Vec::new() };
    let Some(items) = value.strings(reader, "cidrs") else { return Vec::new() };
    if value.as_array().is_some_and(|array| array.is_empty()) {
        reader.push(
            Diagnostic::new(&codes::MISSING_KEY, value.span(), "`cidrs` is empty")
                .at("at least one CIDR is wanted")
                .help(help),
        );
    }
    items
        .into_iter()
        .filter_map(|(text, span)| Some(At { value: rule::cidr(reader, text, span.clone(), "")?, span }))
        .collect()
}

/// A list of plain addresses.
fn addresses(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<At<IpAddr>> {
    let items = value.strings(reader, "addresses").unwrap_or_default();
    let mut found = Vec::new();
    for (text, span) in items {
        if let Ok(address) = text.parse() {
            found.push(At { value: address, span });
            continue;
        }
        let mut diagnostic =
            Diagnostic::new(&codes::CIDR, span.clone(), format!("\"{}\" is not an IP address", text.escape_debug()))
                .at("expected an address");
        if let Some(address) = text.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok()) {
            diagnostic = diagnostic
                .help("an interface has addresses; the prefix length belongs to its subnet")
                .fix(span, format!("\"{address}\""));
        }
        reader.push(diagnostic);
    }
    found
}

pub(super) fn string_at(reader: &mut Reader<'_>, table: &Table<'_>, key: &str) -> Option<At<String>> {
    let value = table.get(key)?;
    Some(At { value: value.name(reader, key)?.to_owned(), span: value.span() })
}

fn subnet(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<Subnet> {
    let what = format!("`[subnet.{}]`", entry.key.escape_debug());
    let table =
        entry.value.table(reader, &what, &["cidrs", "nacl", "vpc", "id", "tags", "owner", "external"], &|unknown| {
            matches!(unknown.plain.as_str(), "cidr" | "cidr_block").then(|| Hint {
                diagnostic: Diagnostic::new(
                    &codes::UNKNOWN_KEY,
                    unknown.entry.key_span.clone(),
                    format!("{what} has no key `{}`", unknown.entry.key.escape_debug()),
                )
                .at("unknown key")
                .help("it is a list: `cidrs = [\"10.0.1.0/24\"]`"),
                meant: Some("cidrs"),
            })
        })?;
    let external = aws::external(reader, &table, &what, &["cidrs"]);
    let help = "the subnet's address ranges: `cidrs = [\"10.0.1.0/24\"]`";
    let cidrs = if external.is_some() { Vec::new() } else { cidrs(reader, &table, &entry.key_span, help) };
    let id = rule::id(reader, &table);
    Some(Subnet {
        name: entry.key_span.clone(),
        cidrs,
        external,
        nacl: string_at(reader, &table, "nacl"),
        vpc: string_at(reader, &table, "vpc"),
        aws: aws::read(reader, &table, id),
    })
}

fn nacl(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<Nacl> {
    let what = format!("`[nacl.{}]`", entry.key.escape_debug());
    let known = ["id", "tags", "owner", "vpc", "default", "inbound", "outbound"];
    let table = entry.value.table(reader, &what, &known, &|unknown| rule::list_hint(unknown, &what))?;
    let mut list = |key: &str, direction: Direction| {
        let read = |reader: &mut Reader<'_>, value: Value<'_>| rule::read(reader, value, direction);
        let (key, rules) = rule::list(reader, &table, key, "{ rule = …, … }", read)?;
        Some(List { key, rules })
    };
    let inbound = list("inbound", Direction::Inbound);
    let outbound = list("outbound", Direction::Outbound);
    let id = rule::id(reader, &table);
    let default = table
        .entry("default")
        .and_then(|entry| entry.value.boolean(reader, "default")?.then(|| entry.key_span.clone()));
    Some(Nacl {
        name: entry.key_span.clone(),
        aws: aws::read(reader, &table, id),
        vpc: string_at(reader, &table, "vpc"),
        default,
        inbound,
        outbound,
    })
}

fn eni(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<Eni> {
    let what = format!("`[eni.{}]`", entry.key.escape_debug());
    let known = ["addresses", "subnet", "security_groups", "vpc", "id", "tags", "owner", "description"];
    let table = entry.value.table(reader, &what, &known, &|unknown| interface_hint(unknown, &what))?;
    let help = "where the interface is: `addresses = [\"10.0.1.20\"]`";
    let addresses = table
        .require_at(reader, "addresses", &entry.key_span, help)
        .map(|value| addresses(reader, value))
        .unwrap_or_default();
    let subnet = string_at(reader, &table, "subnet");
    let id = rule::id(reader, &table);
    Some(Eni {
        name: entry.key_span.clone(),
        addresses,
        subnet,
        groups: group::names(reader, &table),
        vpc: string_at(reader, &table, "vpc"),
        aws: aws::read(reader, &table, id),
    })
}

/// Names of an interface's keys that come from habit.
fn interface_hint(unknown: &Unknown<'_, '_>, what: &str) -> Option<Hint> {
    let (meant, help) = match unknown.plain.as_str() {
        "groups" | "sg" | "security_group" => ("security_groups", "it is written `security_groups = [\"NAME\"]`"),
        "tracking" | "conntrack" => {
            let span = unknown.entry.key_span.clone();
            let message = format!("{what} has no key `{}`", unknown.entry.key.escape_debug());
            let diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span, message)
                .at("unknown key")
                .help("it is the same for every interface: `[tracking]`");
            return Some(Hint { diagnostic, meant: None });
        }
        _ => return None,
    };
    let rename = unknown.entry.value.as_array().is_some();
    Some(rule::instead(unknown, what, meant, rename, help.to_owned()))
}

fn interface(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<Interface> {
    const KNOWN: [&str; 20] = [
        "device",
        "netns",
        "subnet",
        "nacl",
        "security_groups",
        "addresses",
        "mode",
        "layers",
        "side",
        "enforce",
        "xdp",
        "non_ip",
        "exemptions",
        "failsafe",
        "id",
        "tags",
        "owner",
        "description",
        "vpc",
        "flow_log",
    ];
    let what = format!("`[interface.{}]`", entry.key.escape_debug());
    let table = entry.value.table(reader, &what, &KNOWN, &|unknown| {
        if unknown.plain == "monitor" {
            let span = unknown.entry.key_span.clone();
            let diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span, format!("{what} has no key `monitor`"))
                .at("unknown key")
                .help("to judge and count without dropping, write `enforce = false`");
            return Some(Hint { diagnostic, meant: None });
        }
        interface_hint(unknown, &what)
    })?;
    let named = At { value: entry.key.to_owned(), span: entry.key_span.clone() };
    // A key beside a device is only a name; it is shown and typed, so there must be one.
    let device = string_at(reader, &table, "device");
    if !table.has("device") || entry.key.is_empty() {
        device_name(reader, &named, false);
    }
    if let Some(device) = &device {
        device_name(reader, device, true);
    }
    if !["subnet", "nacl", "security_groups"].iter().any(|key| table.has(key)) {
        reader.push(
            Diagnostic::new(
                &codes::MISSING_KEY,
                entry.key_span.clone(),
                format!("{what} has no network ACL and no security groups"),
            )
            .at("`nacl`, `subnet` or `security_groups` is missing")
            .help("put a network ACL on it, `nacl = \"NAME\"`, say where it stands, `subnet = \"NAME\"`, or give it groups, `security_groups = [\"NAME\"]`"),
        );
    }
    let netns = string_at(reader, &table, "netns").and_then(|name| {
        let bad =
            name.value.is_empty() || name.value.contains(['/', '\0']) || matches!(name.value.as_str(), "." | "..");
        if bad {
            let mut diagnostic = Diagnostic::new(
                &codes::BAD_NAME,
                name.span.clone(),
                format!("\"{}\" is no name of a network namespace", name.value.escape_debug()),
            )
            .at("expected a name that `ip netns list` shows");
            if let Some(base) = name.value.rsplit('/').next().filter(|base| !base.is_empty() && !base.starts_with('.'))
            {
                diagnostic =
                    diagnostic.help("without the path").fix(name.span, format!("\"{}\"", base.escape_default()));
            }
            reader.push(diagnostic);
        }
        (!bad).then_some(name.value)
    });
    let id = interface_id(reader, &table);
    Some(Interface {
        name: entry.key_span.clone(),
        device: device.unwrap_or(named),
        netns,
        addresses: table.get("addresses").map(|value| addresses(reader, value)),
        subnet: string_at(reader, &table, "subnet"),
        nacl: string_at(reader, &table, "nacl"),
        groups: group::names(reader, &table),
        mode: choice(reader, &table, "mode", &[("stateless", Mode::Stateless), ("stateful", Mode::Stateful)])
            .unwrap_or_default(),
        layers: choice(
            reader,
            &table,
            "layers",
            &[("both", Layers::Both), ("nacl", Layers::Nacl), ("sg", Layers::Groups)],
        )
        .and_then(|value| Some(At { value, span: table.get("layers")?.span() })),
        side: choice(reader, &table, "side", &[("host", Side::Host), ("router", Side::Router)]).unwrap_or_default(),
        enforce: table.get("enforce").and_then(|value| value.boolean(reader, "enforce")).unwrap_or(true),
        xdp: choice(
            reader,
            &table,
            "xdp",
            &[("auto", Xdp::Auto), ("native", Xdp::Native), ("tc", Xdp::Tc), ("generic", Xdp::Generic)],
        )
        .unwrap_or_default(),
        drop_non_ip: choice(reader, &table, "non_ip", &[("pass", false), ("drop", true)]).unwrap_or_default(),
        exemptions: choice(reader, &table, "exemptions", &[("aws", true), ("none", false)]).unwrap_or(true),
        failsafe: group::failsafe(reader, &table),
        vpc: string_at(reader, &table, "vpc"),
        aws: aws::read(reader, &table, id),
        flow_log: string_at(reader, &table, "flow_log"),
    })
}

/// AWS's id of an interface, which stands in its flow log.
fn interface_id(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<String> {
    let id = rule::id(reader, table)?;
    let value = table.get("id")?;
    if !flowlog::is_word(&id) {
        reader.push(flowlog::no_word("id", &id, value));
        return None;
    }
    Some(id)
}

/// One of a few words under a key.
pub(super) fn choice<T: Copy>(reader: &mut Reader<'_>, table: &Table<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
    table.get(key)?.choice(reader, key, words)
}

/// Checks that Linux could have a device of this name.
fn device_name(reader: &mut Reader<'_>, device: &At<String>, written: bool) {
    let name = device.value.as_str();
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > NAME_MAX {
        format!("it has {} bytes, and Linux takes {NAME_MAX}", name.len())
    } else if matches!(name, "." | "..")
        || name.contains(|sign: char| matches!(sign, '/' | ':' | '\0') || sign.is_whitespace())
    {
        "a slash, a colon, a space, `.` or `..` cannot be in it".to_owned()
    } else {
        return;
    };
    let help = if written || name.is_empty() {
        "`ip -brief link` lists the interfaces"
    } else {
        "`ip -brief link` lists the interfaces; a name of your own goes with `device = \"eth0\"` below it"
    };
    reader.push(
        Diagnostic::new(
            &codes::BAD_NAME,
            device.span.clone(),
            format!("no interface can be called \"{}\"", name.escape_debug()),
        )
        .at(why)
        .help(help),
    );
}
