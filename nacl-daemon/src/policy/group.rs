//! Security groups, prefix lists, failsafe entries and connection tracking as written: their keys, their values, and
//! what AWS has no security group rule for.

use std::ops::{Range, RangeInclusive};

use nacl_common::{Direction, Family, border::Service};

use super::{
    Diagnostic, aws, codes, read, rule,
    tree::{Entry, Hint, Reader, Table, Unknown, Value},
    written::{Address, At, Failsafe, Group, GroupList, GroupRule, ListEntry, Names, Peer, PrefixList},
};
use crate::resolve::Tracking;

/// `[security_group.NAME]`
pub(super) fn group(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<Group> {
    let what = format!("`[security_group.{}]`", entry.key.escape_debug());
    let known = ["id", "tags", "owner", "name", "description", "vpc", "external", "inbound", "outbound"];
    let table = entry.value.table(reader, &what, &known, &|unknown| rule::list_hint(unknown, &what))?;
    let mut list = |key: &str, direction: Direction| {
        let found = rule::list(reader, &table, key, "{ protocol = …, … }", |reader, value| {
            group_rule(reader, value, direction)
        })?;
        Some(GroupList { key: found.0, rules: found.1 })
    };
    let inbound = list("inbound", Direction::Inbound);
    let outbound = list("outbound", Direction::Outbound);
    let external = aws::external(reader, &table, &what, &["inbound", "outbound"]);
    let id = rule::id(reader, &table);
    Some(Group {
        name: entry.key_span.clone(),
        aws: aws::read(reader, &table, id),
        vpc: read::string_at(reader, &table, "vpc"),
        external,
        inbound,
        outbound,
    })
}

/// Reads one rule of a list.
fn group_rule(reader: &mut Reader<'_>, value: Value<'_>, direction: Direction) -> Option<GroupRule> {
    let (address, _) = rule::address_keys(direction);
    let known = ["protocol", "ports", "icmp", address, "description", "id", "tags", "peering"];
    let (what, everywhere) = match direction {
        Direction::Inbound => ("an inbound rule", "where packets come from, such as `source = \"0.0.0.0/0\"`"),
        Direction::Outbound => ("an outbound rule", "where packets go to, such as `destination = \"0.0.0.0/0\"`"),
    };
    let table = value.table(reader, what, &known, &|unknown| hint(unknown, direction))?;
    table.require_all(
        reader,
        &[("protocol", "a name, an IANA number or \"all\", such as `protocol = \"tcp\"`"), (address, everywhere)],
    );
    let traffic = rule::traffic(reader, &table);
    let peer =
        table.get(address).and_then(|value| Some(At { value: peer(reader, value, address)?, span: value.span() }));
    let description = rule::description(reader, &table);
    let id = rule::id(reader, &table);
    let tags = aws::tags(reader, &table);
    let peering = aws::text(reader, &table, "peering");
    Some(GroupRule { span: table.span, traffic, peer, description, id, tags, peering })
}

/// Keys that come from habit: what network ACLs and other tools have.
fn hint(unknown: &Unknown<'_, '_>, direction: Direction) -> Option<Hint> {
    const WHAT: &str = "a security group rule";
    let (right, _) = rule::address_keys(direction);
    let span = unknown.entry.key_span.clone();
    let key = unknown.entry.key.escape_debug();
    let no_match = |label: &str, note: &str, help: &str| {
        let message = format!("{WHAT} cannot match on `{key}`");
        let diagnostic = Diagnostic::new(&codes::NO_SUCH_MATCH, span.clone(), message).at(label).note(note).help(help);
        Some(Hint { diagnostic, meant: None })
    };
    match unknown.plain.as_str() {
        "action" | "rule_action" | "target" | "policy" => {
            let denies = unknown.entry.value.as_str().is_some_and(|action| !action.eq_ignore_ascii_case("allow"));
            let (message, help) = if denies {
                (
                    "a security group rule cannot deny: groups only allow",
                    "what no rule allows is denied; to deny what another rule allows, use a network ACL: `[nacl.NAME]`",
                )
            } else {
                ("a security group rule has no `action`: groups only allow", "remove it")
            };
            let diagnostic = Diagnostic::new(&codes::ONLY_ALLOW, span, message)
                .at("no action in a security group")
                .note("AWS has no deny there: a packet passes if any rule of any of the interface's groups matches (S1, S2)")
                .help(help);
            Some(Hint { diagnostic, meant: None })
        }
        "rule" | "rule_no" | "rule_number" | "number" | "priority" | "order" => {
            let message = format!("a security group rule has no `{key}`: groups have no order");
            let diagnostic = Diagnostic::new(&codes::ONLY_ALLOW, span, message)
                .at("no numbers in a security group")
                .note("rules that only allow say the same in any order (S1)")
                .help("remove it");
            Some(Hint { diagnostic, meant: None })
        }
        "source_port" | "source_ports" | "src_port" | "src_ports" | "sport" | "sports" => no_match(
            "no source ports in AWS",
            "AWS matches the destination port of the packet, in both directions (S13)",
            "the reply of what a rule allows passes by itself (S28), whatever port it comes from",
        ),
        "tcp_flags" | "flags" | "syn" | "established" | "state" | "ct_state" | "ctstate" | "connection_state" => {
            no_match(
                "no TCP flags and no connection state in AWS",
                "security groups remember connections: replies pass without a rule (S28)",
                "remove it",
            )
        }
        "local_address" | "local" | "interface" | "in_interface" | "out_interface" => no_match(
            "the near end is never matched",
            "AWS matches the source of inbound and the destination of outbound packets only (S15)",
            "put a security group of its own on the other interface",
        ),
        "security_group"
        | "security_groups"
        | "source_security_group"
        | "source_security_group_id"
        | "referenced_security_group_id"
        | "group"
        | "sg" => Some(rule::instead(unknown, WHAT, right, false, format!("it is written `{right} = \"sg:NAME\"`"))),
        "prefix_list" | "prefix_lists" | "prefix_list_id" | "prefix_list_ids" | "pl" => {
            Some(rule::instead(unknown, WHAT, right, false, format!("it is written `{right} = \"pl:NAME\"`")))
        }
        "self" => Some(rule::instead(unknown, WHAT, right, false, format!("it is written `{right} = \"self\"`"))),
        _ => rule::habit(unknown, direction, WHAT, "is the interface itself", "S15"),
    }
}

/// `source` or `destination` of a group's rule.
fn peer(reader: &mut Reader<'_>, value: Value<'_>, key: &str) -> Option<Peer> {
    if rule::refuse_list(reader, value, key, "an AWS rule has one source or destination (S15)") {
        return None;
    }
    let text = value.string(reader, key)?;
    if let Some(subnet) = rule::subnet(text) {
        return Some(Peer::Address(subnet));
    }
    // `sg:NAME` says what NAME is; `sg-…` is a name that says so by itself.
    let named = |prefix: &str, own: &str| {
        text.strip_prefix(prefix).or_else(|| text.starts_with(own).then_some(text)).map(str::to_owned)
    };
    if text == "self" {
        return Some(Peer::Own);
    }
    if let Some(name) = named("sg:", "sg-") {
        return Some(Peer::Group(name));
    }
    if let Some(name) = named("pl:", "pl-") {
        return Some(Peer::PrefixList(name));
    }
    let otherwise = "; what else may stand here is \"sg:NAME\", \"pl:NAME\", \"self\" and \"subnet:NAME\"";
    rule::cidr(reader, text, value.span(), otherwise).map(Address::Cidr).map(Peer::Address)
}

/// `security_groups = [ … ]` of an interface.
pub(super) fn names(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Names> {
    let entry = table.entry("security_groups")?;
    let items = entry.value.strings(reader, "security_groups")?;
    let names = items.into_iter().map(|(text, span)| At { value: text.to_owned(), span }).collect();
    Some(Names { key: entry.key_span.clone(), names })
}

/// `[prefix_list.NAME]`
pub(super) fn prefix_list(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<PrefixList> {
    let what = format!("`[prefix_list.{}]`", entry.key.escape_debug());
    let known = ["id", "tags", "owner", "name", "family", "external", "max_entries", "entries"];
    let table = entry.value.table(reader, &what, &known, &|unknown| {
        let (meant, help) = match unknown.plain.as_str() {
            "cidrs" | "cidr" | "cidr_blocks" => ("entries", "they are written `entries = [\"192.0.2.0/24\"]`"),
            "max" | "size" => ("max_entries", "it is written `max_entries`"),
            _ => return None,
        };
        let rename = unknown.entry.value.as_array().is_some() == (meant == "entries");
        Some(rule::instead(unknown, &what, meant, rename, help.to_owned()))
    })?;
    let help = "the list's CIDRs: `entries = [\"192.0.2.0/24\"]`; an empty list matches nothing";
    let external = aws::external(reader, &table, &what, &["entries"]);
    let value = if external.is_some() { None } else { table.require_at(reader, "entries", &entry.key_span, help) };
    let entries = value.map(|value| list_entries(reader, value)).unwrap_or_default();
    let families = [("ipv4", Family::V4), ("ipv6", Family::V6)];
    let family = read::choice(reader, &table, "family", &families)
        .and_then(|value| Some(At { value, span: table.get("family")?.span() }));
    let max_entries = table.get("max_entries").and_then(|value| {
        let count = integer(reader, value, "max_entries")?;
        let found = u32::try_from(count).ok().filter(|&count| count > 0);
        if found.is_none() {
            let message = format!("a prefix list cannot have room for {} entries", &reader.text[value.span()]);
            reader.push(Diagnostic::new(&codes::UNKNOWN_VALUE, value.span(), message).at("expected 1 to 1000"));
        }
        Some(At { value: found?, span: value.span() })
    });
    let id = rule::id(reader, &table);
    let aws = aws::read(reader, &table, id);
    Some(PrefixList { name: entry.key_span.clone(), aws, external, family, max_entries, entries })
}

/// Entries of a prefix list: CIDRs, or `{ cidr = …, description = … }`.
fn list_entries(reader: &mut Reader<'_>, value: Value<'_>) -> Vec<ListEntry> {
    const WHAT: &str = "an entry of a prefix list";
    let described = value.as_array().is_some_and(|array| array.iter().any(|item| Value::new(item).is_table()));
    let mut found = Vec::new();
    if !described {
        for (text, span) in value.strings(reader, "entries").unwrap_or_default() {
            let cidr = rule::cidr(reader, text, span.clone(), "").map(|value| At { value, span });
            found.extend(cidr.map(|cidr| ListEntry { cidr, description: None }));
        }
        return found;
    }
    for item in value.as_array().into_iter().flatten().map(Value::new) {
        let (cidr, description) = if item.is_table() {
            let Some(table) = item.table(reader, WHAT, &["cidr", "description"], &|_| None) else { continue };
            let help = "the addresses: `{ cidr = \"192.0.2.0/24\" }`";
            let description = rule::description(reader, &table);
            (table.require_at(reader, "cidr", &item.span(), help), description)
        } else {
            (Some(item), None)
        };
        let Some(cidr) = cidr else { continue };
        let Some(text) = cidr.string(reader, "cidr") else { continue };
        if let Some(value) = rule::cidr(reader, text, cidr.span(), "") {
            found.push(ListEntry { cidr: At { value, span: cidr.span() }, description });
        }
    }
    found
}

/// An integer, or a finding.
pub(super) fn integer(reader: &mut Reader<'_>, value: Value<'_>, key: &str) -> Option<i64> {
    let found = value.as_integer();
    if found.is_none() {
        let message = format!("`{key}` must be an integer, not {}", value.kind());
        let mut diagnostic = Diagnostic::new(&codes::WRONG_TYPE, value.span(), message).at("expected an integer");
        if let Some(number) = value.as_str().and_then(|text| text.trim().parse::<u32>().ok()) {
            diagnostic = diagnostic.help("without quotes").fix(value.span(), number.to_string());
        }
        reader.push(diagnostic);
    }
    found
}

/// `failsafe = [ … ]` of an interface.
pub(super) fn failsafe(reader: &mut Reader<'_>, table: &Table<'_>) -> Vec<Failsafe> {
    let example = "{ protocol = \"tcp\", ports = 22, source = … }";
    rule::list(reader, table, "failsafe", example, failsafe_entry).map(|(_, entries)| entries).unwrap_or_default()
}

fn failsafe_entry(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Failsafe> {
    const WHAT: &str = "a failsafe entry";
    const ENDS: [(&str, Service); 2] = [("source", Service::Local), ("destination", Service::Remote)];
    let known = ["protocol", "ports", "source", "destination", "description"];
    let table = value.table(reader, WHAT, &known, &|unknown| {
        let (meant, help) = match unknown.plain.as_str() {
            "ip_protocol" | "proto" => ("protocol", "it is written `protocol`"),
            "dport" | "destination_port" | "port_range" => {
                ("ports", "it is written `ports`, and is the service's port")
            }
            "from" => ("source", "it is written `source`: who may reach a service here"),
            "to" => ("destination", "it is written `destination`: where a service is that may be reached from here"),
            _ => return None,
        };
        Some(rule::instead(unknown, WHAT, meant, true, help.to_owned()))
    })?;
    table.require_all(reader, &[("protocol", "a name, an IANA number or \"all\", such as `protocol = \"tcp\"`")]);
    let traffic = rule::traffic(reader, &table);
    rule::description(reader, &table);
    let written: Vec<_> = ENDS.iter().filter_map(|&(key, service)| Some((key, service, table.entry(key)?))).collect();
    let end = match &written[..] {
        [] if ENDS.iter().any(|(key, _)| table.has(key)) => None,
        [] => {
            reader.push(
                Diagnostic::new(
                    &codes::MISSING_KEY,
                    table.span.clone(),
                    format!("{WHAT} has neither `source` nor `destination`"),
                )
                .at("whose service is it?")
                .help("`source` is who may reach a service of this machine, `destination` where one elsewhere is"),
            );
            None
        }
        [(key, service, entry)] => {
            let address = rule::remote(reader, entry.value, key, rule::OF_FAILSAFE);
            address.map(|value| (*service, At { value, span: entry.value.span() }))
        }
        [(_, _, first), (_, _, second), ..] => {
            reader.push(
                Diagnostic::new(
                    &codes::FAILSAFE_ENDS,
                    table.span.clone(),
                    format!("{WHAT} has `source` and `destination`"),
                )
                .at("one of the two says where the service is")
                .and(first.key_span.clone(), "a service of this machine")
                .and(second.key_span.clone(), "a service elsewhere")
                .help("write two entries"),
            );
            None
        }
    };
    Some(Failsafe { span: table.span, traffic, end })
}

/// What a number of `[tracking]` may be, and why.
struct Limit {
    key: &'static str,
    range: RangeInclusive<u32>,
    fact: &'static str,
    field: fn(&mut Tracking) -> &mut u32,
}

/// Longest of our own times: a day. AWS publishes none of them (S37), and longer ones only keep the dead.
const DAY: u32 = 86_400;

const LIMITS: [Limit; 9] = [
    Limit { key: "tcp_opening", range: 1..=DAY, fact: "", field: |tracking| &mut tracking.tcp_opening },
    Limit {
        key: "tcp_established",
        range: 60..=432_000,
        fact: "AWS takes 60 to 432000 seconds (S35)",
        field: |tracking| &mut tracking.tcp_established,
    },
    Limit { key: "tcp_closing", range: 1..=DAY, fact: "", field: |tracking| &mut tracking.tcp_closing },
    Limit { key: "tcp_closed", range: 1..=DAY, fact: "", field: |tracking| &mut tracking.tcp_closed },
    Limit {
        key: "udp",
        range: 30..=60,
        fact: "AWS takes 30 to 60 seconds for UDP that is not a stream (S35)",
        field: |tracking| &mut tracking.udp,
    },
    Limit {
        key: "udp_stream",
        range: 60..=180,
        fact: "AWS takes 60 to 180 seconds for UDP with more than one request and response (S35)",
        field: |tracking| &mut tracking.udp_stream,
    },
    Limit { key: "icmp", range: 1..=DAY, fact: "", field: |tracking| &mut tracking.icmp },
    Limit {
        key: "entries",
        range: 1..=16_777_216,
        fact: "every entry is memory of the kernel's",
        field: |tracking| &mut tracking.entries,
    },
    // Nought: nothing is taken up in its middle.
    Limit { key: "pickup", range: 0..=DAY, fact: "", field: |tracking| &mut tracking.pickup },
];

/// `[tracking]`
pub(super) fn tracking(reader: &mut Reader<'_>, value: Value<'_>) -> Tracking {
    const WHAT: &str = "`[tracking]`";
    let mut tracking = Tracking::default();
    let known: Vec<_> = LIMITS.iter().map(|limit| limit.key).chain(["profile"]).collect();
    let Some(table) = value.table(reader, WHAT, &known, &tracking_hint) else { return tracking };
    if let Some(profile) = table.get("profile")
        && profile.choice(reader, "profile", &[("nitro-v6", ())]).is_some()
    {
        tracking.tcp_established = 350; // S35
    }
    for limit in &LIMITS {
        let Some(value) = table.get(limit.key) else { continue };
        let Some(number) = integer(reader, value, limit.key) else { continue };
        match u32::try_from(number).ok().filter(|number| limit.range.contains(number)) {
            Some(number) => *(limit.field)(&mut tracking) = number,
            None => reader.push(out_of_range(reader.text, value.span(), limit, number)),
        }
    }
    tracking
}

fn out_of_range(text: &str, span: Range<usize>, limit: &Limit, number: i64) -> Diagnostic {
    let (first, last) = (*limit.range.start(), *limit.range.end());
    let message = format!("`{}` cannot be {}", limit.key, &text[span.clone()]);
    let diagnostic = Diagnostic::new(&codes::TRACKING, span.clone(), message).at(format!("expected {first} to {last}"));
    let diagnostic = if limit.fact.is_empty() { diagnostic } else { diagnostic.note(limit.fact) };
    let nearest = if number < i64::from(first) { first } else { last };
    diagnostic.help(format!("{nearest} is the nearest that can be")).fix(span, nearest.to_string())
}

fn tracking_hint(unknown: &Unknown<'_, '_>) -> Option<Hint> {
    let (meant, help) = match unknown.plain.as_str() {
        "other" => {
            let diagnostic = Diagnostic::new(
                &codes::TRACKING,
                unknown.entry.key_span.clone(),
                "the time of other protocols cannot be set",
            )
            .at("always 600 seconds")
            .note("AWS remembers them for 600 seconds by addresses and protocol, and lets nobody change it (S29, S35)")
            .help("remove it");
            return Some(Hint { diagnostic, meant: None });
        }
        "tcp_established_timeout" | "established" => ("tcp_established", "it is written `tcp_established`"),
        "udp_timeout" => ("udp", "it is written `udp`"),
        "udp_stream_timeout" | "stream" => ("udp_stream", "it is written `udp_stream`"),
        "max_entries" | "size" | "max" => ("entries", "it is written `entries`"),
        _ => return None,
    };
    Some(rule::instead(unknown, "`[tracking]`", meant, true, help.to_owned()))
}
