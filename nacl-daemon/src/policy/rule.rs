//! One network ACL rule as written: its keys, its values, and what AWS has no rule for.

use std::{net::IpAddr, ops::Range};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family};

use super::{
    Diagnostic, codes,
    edit::removal,
    names,
    tree::{Hint, Reader, Table, Unknown, Value},
    written::{Address, At, Icmp, Ports, Rule, Traffic},
};
use crate::{clients::Client, resolve::Protocol};

/// Highest number of an own rule (N1).
pub(crate) const LAST_NUMBER: u16 = 32766;

/// The key that holds a rule's CIDR (N22), and the one of the other direction.
pub(crate) const fn address_keys(direction: Direction) -> (&'static str, &'static str) {
    match direction {
        Direction::Inbound => ("source", "destination"),
        Direction::Outbound => ("destination", "source"),
    }
}

/// Reads one rule of a list; nothing for a `*` rule, which is implied.
pub(super) fn read(reader: &mut Reader<'_>, value: Value<'_>, direction: Direction) -> Option<Rule> {
    let (address, _) = address_keys(direction);
    let known = ["rule", "action", "protocol", "ports", "icmp", address, "description"];
    let what = match direction {
        Direction::Inbound => "an inbound rule",
        Direction::Outbound => "an outbound rule",
    };
    let table = value.table(reader, what, &known, &|unknown| hint(unknown, direction))?;
    if table.get("rule").and_then(|value| value.as_str()) == Some("*") {
        star(reader, &table, address);
        return None;
    }
    let everywhere = match direction {
        Direction::Inbound => "where packets come from, such as `source = \"0.0.0.0/0\"`",
        Direction::Outbound => "where packets go to, such as `destination = \"0.0.0.0/0\"`",
    };
    table.require_all(
        reader,
        &[
            ("rule", "rules are judged in the order of their numbers, lowest first, such as `rule = 100`"),
            ("action", "what becomes of the packet, such as `action = \"allow\"`"),
            ("protocol", "a name, an IANA number or \"all\", such as `protocol = \"tcp\"`"),
            (address, everywhere),
        ],
    );
    let number = table.get("rule").and_then(|value| number(reader, value));
    let action = table.get("action").and_then(|value| action(reader, value));
    let traffic = traffic(reader, &table);
    let found = table
        .get(address)
        .and_then(|value| Some(At { value: remote(reader, value, address, OF_NACL)?, span: value.span() }));
    let description = description(reader, &table);
    Some(Rule { span: table.span, number, action, traffic, address: found, description })
}

/// A list of rules, or of what is written like them: where its key stands, and what could be read of it. `None` where
/// it is absent.
pub(super) fn list<T>(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    key: &str,
    example: &str,
    mut read: impl FnMut(&mut Reader<'_>, Value<'_>) -> Option<T>,
) -> Option<(Range<usize>, Vec<T>)> {
    let Some(entry) = table.entry(key) else {
        // A misspelt key is no absent list.
        return table.has(key).then(|| (0..0, Vec::new()));
    };
    let mut items = Vec::new();
    if let Some(array) = entry.value.as_array() {
        items = array.iter().filter_map(|item| read(reader, Value::new(item))).collect();
    } else {
        let span = entry.value.span();
        let message = format!("`{key}` must be a list of rules, not {}", entry.value.kind());
        let mut diagnostic =
            Diagnostic::new(&codes::WRONG_TYPE, span.clone(), message).at(format!("expected [ {example}, … ]"));
        if reader.text[span.clone()].starts_with('{') {
            diagnostic = diagnostic
                .help("put it in brackets, also a single rule")
                .fix(span.clone(), format!("[{}]", &reader.text[span]));
        }
        reader.push(diagnostic);
    }
    Some((entry.key_span.clone(), items))
}

/// Other tools' names for the two lists.
pub(super) fn list_hint(unknown: &Unknown<'_, '_>, what: &str) -> Option<Hint> {
    let meant = match unknown.plain.as_str() {
        "ingress" | "in" => "inbound",
        "egress" | "out" => "outbound",
        _ => return None,
    };
    Some(instead(unknown, what, meant, true, format!("in a policy it is called `{meant}`")))
}

/// AWS's id of something.
pub(super) fn id(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<String> {
    table.get("id")?.name(reader, "id").map(str::to_owned)
}

/// Protocol, ports and ICMP type, of any kind of rule.
pub(super) fn traffic(reader: &mut Reader<'_>, table: &Table<'_>) -> Traffic {
    let protocol =
        table.get("protocol").and_then(|value| Some(At { value: protocol(reader, value)?, span: value.span() }));
    let ports = match table.get("ports") {
        None if table.has("ports") => Ports::Bad,
        None => Ports::Absent,
        Some(value) => match ports(reader, value) {
            Some(range) => Ports::Range(At { value: range, span: value.span() }),
            None => Ports::Bad,
        },
    };
    let icmp = table.get("icmp").and_then(|value| Some(At { value: icmp(reader, value)?, span: value.span() }));
    Traffic { protocol, ports, icmp }
}

pub(super) fn description(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<String> {
    table.get("description").and_then(|value| value.name(reader, "description")).map(str::to_owned)
}

/// A written `*`: only as what is implied anyway (N2).
fn star(reader: &mut Reader<'_>, table: &Table<'_>, address: &str) {
    let span = table.get("rule").map_or(table.span.clone(), |value| value.span());
    let mut more = Vec::new();
    let mut check = |key: &str, accepted: &dyn Fn(&Value<'_>) -> bool, why: &'static str| {
        more.extend(table.get(key).filter(|value| !accepted(value)).map(|value| (value.span(), why)));
    };
    check("action", &|value| value.as_str() == Some("deny"), "only \"deny\"");
    check(
        "protocol",
        &|value| matches!(value.as_str(), Some("all" | "-1")) || value.as_integer() == Some(-1),
        "only \"all\"",
    );
    check("ports", &|value| matches!(value.as_str(), Some("all" | "0-65535")), "only all ports");
    check("icmp", &|_| false, "only all types");
    check(address, &|value| matches!(value.as_str(), Some("0.0.0.0/0" | "::/0")), "only \"0.0.0.0/0\" or \"::/0\"");
    reader.push(if more.is_empty() {
        let implied = Diagnostic::new(&codes::STAR_IMPLIED, span, "the `*` rule is there without being written")
            .at("denies what no numbered rule matched, in both families");
        match removal(reader.text, &table.span) {
            Some(written) => implied.help("it can be left out").fix(written, ""),
            None => implied,
        }
    } else {
        let refused = Diagnostic::new(&codes::STAR, span, "`*` denies everything, and can do nothing else")
            .at("the rule AWS adds by itself")
            .note("AWS ends every list with it, once for each family, and nobody can change it (N2, N3)")
            .help("give the rule a number from 1 to 32766");
        more.into_iter().fold(refused, |refused, (span, why)| refused.and(span, why))
    });
}

/// Keys that come from habit: other tools' names for ours, and what AWS cannot match on.
fn hint(unknown: &Unknown<'_, '_>, direction: Direction) -> Option<Hint> {
    let span = unknown.entry.key_span.clone();
    let key = unknown.entry.key;
    let no_match = |label: &str, note: &str, help: &str| {
        let message = format!("a network ACL rule cannot match on `{}`", key.escape_debug());
        let diagnostic = Diagnostic::new(&codes::NO_SUCH_MATCH, span.clone(), message).at(label).note(note).help(help);
        Some(Hint { diagnostic, meant: None })
    };
    match unknown.plain.as_str() {
        "source_port" | "source_ports" | "src_port" | "src_ports" | "sport" | "sports" => no_match(
            "no source ports in AWS",
            "AWS matches the destination port of the packet, in both directions (N21, N23)",
            "write the other leg: the ports a client sends from are the destination ports of the replies",
        ),
        "tcp_flags" | "flags" | "syn" | "established" | "state" | "ct_state" | "ctstate" | "connection_state" => {
            no_match(
                "no TCP flags and no connection state in AWS",
                "network ACLs are stateless: every packet is judged by itself (N8, N21)",
                "allow the replies with a rule of their own in the other direction: `ports = \"ephemeral:any\"`",
            )
        }
        "prefix_list" | "prefix_lists" | "prefix_list_id" | "prefix_list_ids" => no_match(
            "no prefix lists in network ACLs",
            "AWS takes prefix lists in security groups and routes only (N36)",
            "write one rule for each CIDR of the list",
        ),
        "security_group" | "security_groups" | "source_security_group" | "source_security_group_id" => no_match(
            "no security groups in network ACLs",
            "AWS's network ACL rules hold one CIDR and nothing else there (N21)",
            "write the CIDR of the subnet the group's members stand in: `subnet:NAME`",
        ),
        "local_address" | "local" | "interface" | "in_interface" | "out_interface" => no_match(
            "the near end is never matched",
            "AWS matches the source of inbound and the destination of outbound packets only (N22)",
            "put a network ACL of its own on the other subnet or interface",
        ),
        "rule_no" | "rule_number" | "number" | "priority" | "order" => {
            Some(instead(unknown, "a network ACL rule", "rule", true, "it is written `rule`".to_owned()))
        }
        "rule_action" | "target" | "policy" => {
            Some(instead(unknown, "a network ACL rule", "action", true, "it is written `action`".to_owned()))
        }
        _ => habit(unknown, direction, "a network ACL rule", "lies inside the subnet", "N22"),
    }
}

/// "It is written so": another name for a key there is. `rename`: the value can stay as it is.
pub(super) fn instead(unknown: &Unknown<'_, '_>, what: &str, meant: &'static str, rename: bool, help: String) -> Hint {
    let span = unknown.entry.key_span.clone();
    let message = format!("{what} has no key `{}`", unknown.entry.key.escape_debug());
    let mut diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span.clone(), message).at("unknown key").help(help);
    if rename && unknown.siblings.iter().all(|entry| entry.key != meant) {
        diagnostic = diagnostic.fix(span, meant);
    }
    Hint { diagnostic, meant: Some(meant) }
}

/// Habits that rules of both layers meet alike. `what` is such a rule, `near` what is true of its near end.
pub(super) fn habit(
    unknown: &Unknown<'_, '_>,
    direction: Direction,
    what: &str,
    near: &str,
    fact: &str,
) -> Option<Hint> {
    let (right, wrong) = address_keys(direction);
    let span = unknown.entry.key_span.clone();
    let absent = |key: &str| unknown.siblings.iter().all(|entry| entry.key != key);
    let instead = |meant, rename, help: String| Some(instead(unknown, what, meant, rename, help));
    match unknown.plain.as_str() {
        plain if plain == wrong => {
            let (list, matched, end) = match direction {
                Direction::Inbound => ("inbound", "source", format!("the destination {near}")),
                Direction::Outbound => ("outbound", "destination", format!("the source {near}")),
            };
            let diagnostic = Diagnostic::new(
                &codes::WRONG_SIDE,
                span.clone(),
                format!("an {list} rule matches the {matched}, not the {wrong}"),
            )
            .at(format!("no `{wrong}` in an {list} rule"))
            .note(format!("{end}, and AWS never matches it ({fact})"));
            let diagnostic = if absent(right) {
                diagnostic.help(format!("did you mean `{right}`?")).fix(span.clone(), right)
            } else {
                diagnostic.help(format!("remove `{wrong}`"))
            };
            Some(Hint { diagnostic, meant: absent(right).then_some(right) })
        }
        "ip_protocol" | "proto" => instead("protocol", true, "it is written `protocol`".to_owned()),
        "cidr" | "cidr_block" | "ipv6_cidr" | "ipv6_cidr_block" | "address" | "remote" | "ip" | "cidr_blocks"
        | "cidr_ip" | "cidr_ipv4" | "cidr_ipv6" => {
            instead(right, true, format!("here it is written `{right}`; both families go there"))
        }
        "from" if direction == Direction::Inbound => instead(right, true, format!("it is written `{right}`")),
        "to" if direction == Direction::Outbound => instead(right, true, format!("it is written `{right}`")),
        "dport" | "dports" | "destination_port" | "destination_ports" | "port_range" => {
            instead("ports", true, "it is written `ports`, and always is the destination port".to_owned())
        }
        "from_port" | "to_port" => instead("ports", false, "one range, written `ports = \"FIRST-LAST\"`".to_owned()),
        "icmp_type" | "icmp_code" | "icmp_type_code" => {
            instead("icmp", false, "written `icmp = { type = 8, code = 0 }`".to_owned())
        }
        "note" | "comment" | "name" => instead("description", true, "free text is written `description`".to_owned()),
        "egress" | "direction" => {
            let message = format!("{what} has no key `{}`", unknown.entry.key.escape_debug());
            let diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span, message)
                .at("unknown key")
                .help("the list says the direction: `inbound = [ … ]` or `outbound = [ … ]`");
            Some(Hint { diagnostic, meant: None })
        }
        _ => None,
    }
}

fn number(reader: &mut Reader<'_>, value: Value<'_>) -> Option<At<u16>> {
    let span = value.span();
    let Some(number) = value.as_integer() else {
        let mut diagnostic = Diagnostic::new(
            &codes::WRONG_TYPE,
            span.clone(),
            format!("a rule number must be an integer, not {}", value.kind()),
        )
        .at("expected an integer from 1 to 32766");
        if let Some(number) = value.as_str().and_then(|text| text.trim().parse::<u16>().ok()) {
            diagnostic = diagnostic.help("without quotes").fix(span, number.to_string());
        }
        reader.push(diagnostic);
        return None;
    };
    if let Ok(value @ 1..=LAST_NUMBER) = u16::try_from(number) {
        return Some(At { value, span });
    }
    let message = format!("rule number {} is out of range", &reader.text[span.clone()]);
    let diagnostic = Diagnostic::new(&codes::RULE_NUMBER, span, message).at("expected 1 to 32766");
    reader.push(match number {
        32767 | 32768 => diagnostic
            .note("32767 and 32768 are AWS's own numbers for `*`, which denies what no rule matched (N2)")
            .help("remove the rule: `*` is implied, for IPv4 and for IPv6"),
        ..=0 => diagnostic.note("rules are judged in the order of their numbers, and 1 is the first (N1)"),
        _ => diagnostic.note("AWS keeps 32767 and above for itself (N1)"),
    });
    None
}

fn action(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Action> {
    let instead = match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("accept" | "permit" | "pass") => "allow",
        Some("drop" | "reject" | "block") => "deny",
        _ => return value.choice(reader, "action", &[("allow", Action::Allow), ("deny", Action::Deny)]),
    };
    reader.push(
        Diagnostic::new(&codes::UNKNOWN_VALUE, value.span(), "AWS's actions are \"allow\" and \"deny\"")
            .at("unknown action")
            .help(format!("AWS calls it \"{instead}\""))
            .fix(value.span(), format!("\"{instead}\"")),
    );
    None
}

fn protocol(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Protocol> {
    let span = value.span();
    let by_number = |number: i64| match number {
        -1 => Some(Protocol::All),
        _ => u8::try_from(number).ok().map(Protocol::Number),
    };
    if let Some(number) = value.as_integer() {
        let found = by_number(number);
        if found.is_none() {
            reader.push(
                Diagnostic::new(&codes::PROTOCOL, span.clone(), format!("there is no protocol {}", &reader.text[span]))
                    .at("expected 0 to 255, or -1 for all"),
            );
        }
        return found;
    }
    if refuse_list(reader, value, "protocol", "a rule has one protocol, or \"all\"") {
        return None;
    }
    let Some(text) = value.as_str() else {
        reader.push(
            Diagnostic::new(
                &codes::WRONG_TYPE,
                span,
                format!("`protocol` must be a name or a number, not {}", value.kind()),
            )
            .at("expected a name such as \"tcp\", a number, or \"all\""),
        );
        return None;
    };
    let text = text.trim();
    if text.eq_ignore_ascii_case("all") {
        return Some(Protocol::All);
    }
    if let Some(number) = names::protocol(text) {
        return Some(Protocol::Number(number));
    }
    if let Some(found) = text.parse().ok().and_then(by_number) {
        return Some(found);
    }
    let diagnostic =
        Diagnostic::new(&codes::PROTOCOL, span.clone(), format!("unknown protocol \"{}\"", text.escape_debug()))
            .at("expected a name, a number from 0 to 255, or \"all\"");
    let lower = text.to_ascii_lowercase();
    reader.push(match lower.as_str() {
        "any" | "*" | "ip" | "" => diagnostic.help("every protocol is \"all\"").fix(span, "\"all\""),
        "tcp/udp" | "tcp_udp" | "tcp+udp" | "tcp,udp" => diagnostic.help("write two rules: one for tcp, one for udp"),
        "ipv4" | "ipv6" | "ip4" | "ip6" => {
            let family = if lower.ends_with('6') { "an IPv6" } else { "an IPv4" };
            diagnostic
                .note(format!("a rule belongs to the family of its CIDR; every protocol on {family} CIDR is \"all\""))
                .help("for tunnels write the number: 4 is IPv4 and 41 is IPv6 inside IP")
        }
        "icmp6" => diagnostic.help("did you mean \"icmpv6\"?").fix(span, "\"icmpv6\""),
        "icmpv4" | "icmp4" => diagnostic.help("did you mean \"icmp\"?").fix(span, "\"icmp\""),
        _ if names::service(text).is_some() => {
            let carrier = if matches!(lower.as_str(), "ntp" | "snmp" | "dns" | "domain") { "udp" } else { "tcp" };
            diagnostic.help(format!("it is a service: `protocol = \"{carrier}\", ports = \"{lower}\"`"))
        }
        _ => diagnostic.did_you_mean(text, span, names::protocols().chain(["all"]), |name| format!("\"{name}\"")),
    });
    None
}

/// Reports a list in a place of one value.
pub(super) fn refuse_list(reader: &mut Reader<'_>, value: Value<'_>, key: &str, note: &str) -> bool {
    let Some(array) = value.as_array() else { return false };
    let mut diagnostic =
        Diagnostic::new(&codes::ONE_VALUE, value.span(), format!("`{key}` holds one value, not a list"))
            .at("a list")
            .note(note.to_owned());
    let items: Vec<_> = array.iter().map(Value::new).collect();
    diagnostic = if let [one] = items[..] {
        diagnostic.help("without brackets").fix(value.span(), &reader.text[one.span()])
    } else {
        diagnostic.help("write one rule for each")
    };
    reader.push(diagnostic);
    true
}

/// First and last port.
fn ports(reader: &mut Reader<'_>, value: Value<'_>) -> Option<(u16, u16)> {
    let span = value.span();
    let bad = |message: String| Diagnostic::new(&codes::PORTS, span.clone(), message);
    if let Some(port) = value.as_integer() {
        let found = u16::try_from(port).ok();
        if found.is_none() {
            let diagnostic = bad(format!("there is no port {}", &reader.text[span.clone()])).at("expected 0 to 65535");
            reader.push(if port == -1 {
                diagnostic.help("all ports are \"all\"").fix(span.clone(), "\"all\"")
            } else {
                diagnostic
            });
        }
        return found.map(|port| (port, port));
    }
    if refuse_list(reader, value, "ports", "an AWS rule has one port range") {
        return None;
    }
    let Some(text) = value.as_str() else {
        reader.push(
            Diagnostic::new(
                &codes::WRONG_TYPE,
                span.clone(),
                format!("`ports` must be a port, a range or a name, not {}", value.kind()),
            )
            .at("expected 443, \"1024-65535\", \"https\" or \"ephemeral:linux\""),
        );
        return None;
    };
    let text = text.trim();
    if text.eq_ignore_ascii_case("all") {
        return Some((0, u16::MAX));
    }
    if let Some(port) = names::service(text) {
        return Some((port, port));
    }
    if let Some(kind) = text.strip_prefix("ephemeral").filter(|kind| kind.is_empty() || kind.starts_with([':', '-'])) {
        let kind = kind.trim_start_matches([':', '-']);
        if let Some(client) = Client::from_name(kind).filter(|_| text.starts_with("ephemeral:")) {
            return Some(client.ports());
        }
        let names = || Client::ALL.into_iter().map(Client::name);
        let mut diagnostic = bad(format!("\"{}\" is no kind of client", text.escape_debug()))
            .at(if kind.is_empty() { "ephemeral ports of whom?" } else { "unknown kind" })
            .note(format!("the kinds are {}", names().collect::<Vec<_>>().join(", ")));
        let close = if kind.is_empty() { Some("any") } else { names::closest(kind, names()) };
        if let Some(name) = close {
            diagnostic = diagnostic
                .help(format!("did you mean \"ephemeral:{name}\"?"))
                .fix(span.clone(), format!("\"ephemeral:{name}\""));
        }
        reader.push(diagnostic);
        return None;
    }
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let split = ["-", "..", ":", "–"].into_iter().find_map(|sign| {
        let (first, last) = text.split_once(sign)?;
        let (first, last) = (first.trim(), last.trim());
        (numeric(first) && numeric(last)).then_some((sign, first, last))
    });
    let (first, last) = match split {
        Some((sign, first, last)) => {
            if sign != "-" {
                reader.push(
                    bad(format!("\"{}\" is not a port range", text.escape_debug()))
                        .at("expected FIRST-LAST")
                        .help("a range is written with a hyphen")
                        .fix(span.clone(), format!("\"{first}-{last}\"")),
                );
                return None;
            }
            (first, last)
        }
        None if numeric(text) => (text, text),
        None => {
            let diagnostic =
                bad(format!("\"{}\" is neither a port, nor a range, nor a known service", text.escape_debug()))
                    .at("expected 443, \"1024-65535\", \"https\" or \"ephemeral:linux\"");
            reader.push(match text {
                "any" | "*" | "-1" | "" => diagnostic.help("all ports are \"all\"").fix(span.clone(), "\"all\""),
                _ if text.contains(',') => {
                    diagnostic.note("an AWS rule has one port range").help("write one rule for each")
                }
                _ => diagnostic.did_you_mean(text, span.clone(), names::services(), |name| format!("\"{name}\"")),
            });
            return None;
        }
    };
    let (Ok(from), Ok(to)) = (first.parse::<u16>(), last.parse::<u16>()) else {
        let wrong = if first.parse::<u16>().is_err() { first } else { last };
        reader.push(bad(format!("there is no port {wrong}")).at("expected 0 to 65535"));
        return None;
    };
    if from > to {
        reader.push(
            bad(format!("the port range {from}-{to} is reversed"))
                .at(format!("{from} is greater than {to}"))
                .help("did you mean the range the other way round?")
                .fix(span.clone(), format!("\"{to}-{from}\"")),
        );
        return None;
    }
    Some((from, to))
}

fn icmp(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Icmp> {
    if !value.is_table() {
        reader.push(
            Diagnostic::new(&codes::WRONG_TYPE, value.span(), format!("`icmp` must be a table, not {}", value.kind()))
                .at("expected { type = 8, code = 0 }"),
        );
        return None;
    }
    let table = value.table(reader, "`icmp`", &["type", "code"], &|_| None)?;
    let kind = table.require_at(reader, "type", &table.span, "the ICMP type, or -1 for all: `icmp = { type = 8 }`")?;
    let kind = icmp_number(reader, kind, "type");
    let code = match table.get("code") {
        Some(code) => icmp_number(reader, code, "code"),
        None => Some(-1),
    };
    let icmp = Icmp { kind: u8::try_from(kind?).ok(), code: u8::try_from(code?).ok() };
    if icmp.kind.is_none() && icmp.code.is_some() {
        let span = table.get("code").map_or(value.span(), |code| code.span());
        reader.push(
            Diagnostic::new(&codes::ICMP_IGNORED, span, "the code is ignored: type -1 is every type with every code")
                .at("ignored")
                .note("in AWS a code means something only together with its type (N31)"),
        );
        return Some(Icmp { kind: None, code: None });
    }
    Some(icmp)
}

/// A type or a code; -1 is all.
fn icmp_number(reader: &mut Reader<'_>, value: Value<'_>, what: &str) -> Option<i64> {
    let expected = "expected 0 to 255, or -1 for all";
    let Some(number) = value.as_integer() else {
        let message = format!("an ICMP {what} must be an integer, not {}", value.kind());
        reader.push(Diagnostic::new(&codes::WRONG_TYPE, value.span(), message).at(expected));
        return None;
    };
    if (-1..=255).contains(&number) {
        return Some(number);
    }
    // As written: beyond 64 bits the number itself is not known.
    let message = format!("there is no ICMP {what} {}", &reader.text[value.span()]);
    reader.push(Diagnostic::new(&codes::ICMP, value.span(), message).at(expected));
    None
}

/// What cannot be referred to by an address, and by what it belongs to.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// "a network ACL rule".
    what: &'static str,
    /// Why no group.
    groups: &'static str,
    /// Why no prefix list.
    lists: &'static str,
}

const OF_NACL: Place = Place {
    what: "a network ACL rule",
    groups: "AWS takes group references in security group rules only (N21)",
    lists: "AWS takes prefix lists in security groups and routes only (N36)",
};

pub(super) const OF_FAILSAFE: Place = Place {
    what: "a failsafe entry",
    groups: "a failsafe entry must hold whatever the rest of the policy says",
    lists: "a failsafe entry must hold whatever the rest of the policy says",
};

/// `subnet:NAME`
pub(super) fn subnet(text: &str) -> Option<Address> {
    let name = text.strip_prefix("subnet:")?;
    let (name, family) = match name.rsplit_once('/') {
        Some((name, "ipv4")) => (name, Some(Family::V4)),
        Some((name, "ipv6")) => (name, Some(Family::V6)),
        _ => (name, None),
    };
    Some(Address::Subnet(name.to_owned(), family))
}

/// `source` or `destination`, where only addresses may stand.
pub(super) fn remote(reader: &mut Reader<'_>, value: Value<'_>, key: &str, place: Place) -> Option<Address> {
    if refuse_list(reader, value, key, "an AWS rule has one CIDR (N21)") {
        return None;
    }
    let text = value.string(reader, key)?;
    let span = value.span();
    if let Some(subnet) = subnet(text) {
        return Some(subnet);
    }
    let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
    let refused = if text == "self" || is(&["sg:", "sg-"]) {
        Some(("security group", place.groups, "write the CIDR its members stand in, or `subnet:NAME`"))
    } else if is(&["pl:", "pl-"]) {
        Some(("prefix list", place.lists, "write each CIDR of the list by itself"))
    } else {
        None
    };
    if let Some((what, note, help)) = refused {
        let message = format!("{} cannot refer to a {what}", place.what);
        reader.push(
            Diagnostic::new(&codes::NO_SUCH_REFERENCE, span, message)
                .at("expected a CIDR or `subnet:NAME`")
                .note(note)
                .help(help),
        );
        return None;
    }
    cidr(reader, text, span, "; a subnet of the policy is written \"subnet:NAME\"").map(Address::Cidr)
}

/// ADDRESS/PREFIX without leading zeros, which some readers take for octal.
fn strictly(text: &str) -> Option<IpNet> {
    let (address, prefix) = text.split_once('/')?;
    let plain = prefix.bytes().all(|byte| byte.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
    IpNet::new(address.parse().ok()?, prefix.parse().ok().filter(|_| plain)?).ok()
}

/// A CIDR, made canonical with a warning (N35). `otherwise`: what else may stand there.
pub(super) fn cidr(reader: &mut Reader<'_>, text: &str, span: Range<usize>, otherwise: &str) -> Option<IpNet> {
    if let Some(net) = strictly(text) {
        let canonical = net.trunc();
        if canonical != net {
            reader.push(
                Diagnostic::new(&codes::HOST_BITS, span.clone(), format!("{net} has host bits set"))
                    .at(format!("taken as {canonical}"))
                    .note("AWS stores the CIDR with the bits behind the prefix zeroed (N35)")
                    .help("write it as AWS stores it")
                    .fix(span, format!("\"{canonical}\"")),
            );
        }
        return Some(canonical);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let (bits, help) = match address {
            _ if address.is_unspecified() => (0, "every address of the family is a /0"),
            IpAddr::V4(_) => (32, "one IPv4 address is a /32"),
            IpAddr::V6(_) => (128, "one IPv6 address is a /128"),
        };
        reader.push(
            Diagnostic::new(&codes::NO_PREFIX, span.clone(), format!("{address} has no prefix length"))
                .at("expected a CIDR")
                .help(help)
                .fix(span, format!("\"{address}/{bits}\"")),
        );
        return None;
    }
    let diagnostic = Diagnostic::new(&codes::CIDR, span.clone(), format!("\"{}\" is not a CIDR", text.escape_debug()));
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let (Ok(address), Some(prefix)) = (address.parse::<IpAddr>(), prefix) else {
        let help = match text.to_ascii_lowercase().as_str() {
            "any" | "all" | "anywhere" | "*" | "0/0" | "" => {
                "every IPv4 address is \"0.0.0.0/0\", every IPv6 address \"::/0\"".to_owned()
            }
            _ => {
                let form = "an address and a prefix length, such as \"10.0.1.0/24\" or \"2001:db8::/64\"";
                format!("a CIDR is {form}{otherwise}")
            }
        };
        reader.push(diagnostic.at("expected ADDRESS/PREFIX").help(help));
        return None;
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let mut diagnostic = diagnostic.at(format!("expected a prefix length from 0 to {bits} behind the slash"));
    if let Some(prefix) = prefix.parse::<IpAddr>().ok().and_then(|mask| ipnet::ip_mask_to_prefix(mask).ok()) {
        diagnostic =
            diagnostic.help("the mask is written as a prefix length").fix(span, format!("\"{address}/{prefix}\""));
    }
    reader.push(diagnostic);
    None
}
