//! An inventory as text, so that a test can hold all of it against what was expected; and values that no document should have.

#![allow(dead_code, reason = "each test uses its part of this")]

use std::{collections::BTreeMap, fmt::Write as _};

use nacl_common::Direction;
use nacl_daemon::{
    import::{Document, tree::Findings},
    inventory::{Identity, Inventory, Peer, Traffic},
    policy,
    resolve::Protocol,
};
use serde_json::Value;

/// A document of the corpus.
pub fn corpus(path: &str) -> Document {
    let whole = format!("{}/../config/import/{path}", env!("CARGO_MANIFEST_DIR"));
    let file = path.rsplit('/').next().unwrap_or(path).into();
    Document { file, text: std::fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{whole}: {error}")) }
}

/// A document of a test's own.
pub fn document(file: &str, text: impl Into<String>) -> Document {
    Document { file: file.into(), text: text.into() }
}

/// Holds a text against a file of the corpus; `SNAPSHOTS=overwrite` writes it.
pub fn assert_expected(text: &str, path: &str) {
    let whole = format!("{}/../config/import/{path}", env!("CARGO_MANIFEST_DIR"));
    snapbox::assert_data_eq!(text, snapbox::Data::read_from(std::path::Path::new(&whole), None).raw());
}

/// Everything that was read: objects, notes, problems.
pub fn told(inventory: &Inventory, findings: &Findings) -> String {
    let mut text = String::new();
    for vpc in &inventory.vpcs {
        object(&mut text, "vpc", &vpc.identity);
        let _ = writeln!(text, "  cidrs {}", join(&vpc.cidrs));
    }
    for subnet in &inventory.subnets {
        object(&mut text, "subnet", &subnet.identity);
        let _ = writeln!(text, "  vpc {} cidrs {}", maybe(subnet.vpc.as_ref()), join(&subnet.cidrs));
    }
    for acl in &inventory.nacls {
        object(&mut text, if acl.default { "default acl" } else { "acl" }, &acl.identity);
        let _ = writeln!(text, "  vpc {}", maybe(acl.vpc.as_ref()));
        for association in &acl.subnets {
            let _ = writeln!(text, "  subnet {} {}", association.subnet, maybe(association.id.as_ref()));
        }
        for entry in &acl.entries {
            let (way, number, action) = (way(entry.direction), entry.number, entry.action.name());
            let _ = writeln!(text, "  {way} {number} {action} {} {}", traffic(&entry.traffic), entry.cidr);
        }
    }
    for group in &inventory.groups {
        object(&mut text, "group", &group.identity);
        let _ = writeln!(text, "  name {} vpc {}", maybe(group.name.as_ref()), maybe(group.vpc.as_ref()));
        for rule in group.rules.iter().flatten() {
            let peer = match &rule.peer {
                Peer::Cidr(cidr) => cidr.to_string(),
                Peer::PrefixList(list) => format!("list {list}"),
                Peer::Group { group, owner, .. } => format!("group {group} {}", maybe(owner.as_ref())),
            };
            let _ = write!(text, "  {} {} {peer}", way(rule.direction), traffic(&rule.traffic));
            for more in rule.id.iter().chain(&rule.description) {
                let _ = write!(text, " {more:?}");
            }
            let _ = writeln!(text, "{}", tags(&rule.tags));
        }
        if group.rules.is_none() {
            let _ = writeln!(text, "  rules not known");
        }
    }
    for list in &inventory.prefix_lists {
        object(&mut text, "list", &list.identity);
        let _ = writeln!(text, "  name {} {:?} {:?}", maybe(list.name.as_ref()), list.family, list.max_entries);
        for entry in list.entries.iter().flatten() {
            let _ = writeln!(text, "  {} {}", entry.cidr, maybe(entry.description.as_ref()));
        }
        if list.entries.is_none() {
            let _ = writeln!(text, "  entries not known");
        }
    }
    for eni in &inventory.interfaces {
        object(&mut text, "eni", &eni.identity);
        let (subnet, addresses, groups) = (maybe(eni.subnet.as_ref()), join(&eni.addresses), join(&eni.groups));
        let _ = writeln!(text, "  subnet {subnet} addresses {addresses} groups {groups}");
    }
    for note in inventory.notes.iter().chain(&*findings.notes.borrow()) {
        let _ = writeln!(text, "note {:?}: {}: {}", note.because, note.place, note.message);
    }
    for problem in &*findings.problems.borrow() {
        let _ = writeln!(text, "problem: {}: {}", problem.place, problem.message);
    }
    text
}

/// What two inventories that say the same have in common. HCL and templates have no accounts, and name AWS's own lists only.
pub fn comparable(mut inventory: Inventory) -> String {
    inventory.account = None;
    inventory.vpcs.iter_mut().for_each(|vpc| vpc.identity.owner = None);
    inventory.subnets.iter_mut().for_each(|subnet| subnet.identity.owner = None);
    inventory.nacls.iter_mut().for_each(|acl| acl.identity.owner = None);
    inventory.groups.iter_mut().for_each(|group| group.identity.owner = None);
    inventory.interfaces.iter_mut().for_each(|eni| eni.identity.owner = None);
    for list in &mut inventory.prefix_lists {
        if list.identity.owner.take().as_deref() == Some("AWS") {
            list.identity.names.clear();
            (list.name, list.family, list.max_entries, list.entries) = (None, None, None, None);
        }
    }
    told(&inventory.canonical(), &Findings::default())
}

fn object(text: &mut String, kind: &str, identity: &Identity) {
    let Identity { key, id, names, description, tags: all, owner, .. } = identity;
    let _ = write!(text, "{kind} {key} id {} names {names:?}", maybe(id.as_ref()));
    for more in description.iter().chain(owner) {
        let _ = write!(text, " {more:?}");
    }
    let _ = writeln!(text, "{}", tags(all));
}

fn tags(tags: &BTreeMap<String, String>) -> String {
    tags.iter().map(|(key, value)| format!(" {key}={value}")).collect()
}

fn traffic(traffic: &Traffic) -> String {
    let mut text = match traffic.protocol {
        Protocol::All => "all".to_owned(),
        Protocol::Number(number) => policy::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned),
    };
    if let Some((first, last)) = traffic.ports {
        let _ = write!(text, " {first}-{last}");
    }
    if let Some((kind, code)) = traffic.icmp {
        let _ = write!(text, " type {kind:?} code {code:?}");
    }
    text
}

const fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}

fn maybe(text: Option<&String>) -> &str {
    text.map_or("-", String::as_str)
}

fn join<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// How many values a tree has.
pub fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// Puts something else in place of the value of a number, counted from the root.
pub fn replace(value: &mut Value, at: &mut usize, by: &Value) {
    if *at == 0 {
        *value = by.clone();
        *at = usize::MAX;
        return;
    }
    *at = at.saturating_sub(usize::from(*at != usize::MAX));
    match value {
        Value::Array(list) => list.iter_mut().for_each(|inner| step(inner, at, by)),
        Value::Object(map) => map.values_mut().for_each(|inner| step(inner, at, by)),
        _ => {}
    }
}

fn step(value: &mut Value, at: &mut usize, by: &Value) {
    if *at != usize::MAX {
        replace(value, at, by);
    }
}

/// Values of other types than a document has them, and of sizes that it has not.
pub fn strange() -> Vec<Value> {
    vec![
        Value::Null,
        true.into(),
        (-1).into(),
        0.into(),
        65536.into(),
        i64::MIN.into(),
        u64::MAX.into(),
        1e300.into(),
        0.5.into(),
        "".into(),
        "\u{1b}[31m\n\u{0}".into(),
        "x".repeat(5000).into(),
        "0.0.0.0/33".into(),
        "::/129".into(),
        "${a.b.c}".into(),
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!([[[[1]]]]),
        serde_json::json!({"Ref": "AWS::NoValue"}),
        serde_json::json!({"Fn::Sub": ["${x}", {"x": {"Ref": "x"}}]}),
        serde_json::json!({"references": ["module.x.y", "each.value", "var."]}),
    ]
}
