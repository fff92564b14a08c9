//! `terraform show -json`: a state, or one half of a plan, → resources. What a plan does not know yet becomes a link where its
//! configuration says what it will be, and is said to be unknown where it does not.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::{Map, Value};

use super::{
    Resource, full_name,
    references::{Configuration, Found, Index, Scope, Step, modules, steps},
};
use crate::{
    import::{
        term::{Target, Term, What},
        tree::Node,
    },
    inventory::Because,
};

/// The major versions of the format that are known: a state's 0 and 1, a plan's 0 and 1.
const MAJORS: [&str; 2] = ["0", "1"];

/// Whether this can be read; says so if not. A minor version adds what may be ignored, a major one changes what is there.
pub(super) fn version_is_known(root: &Node<'_>, plan: bool) -> bool {
    let Some(version) = root.need("format_version").and_then(|version| version.text()) else { return false };
    let major = version.split('.').next().unwrap_or(version);
    let known = MAJORS.contains(&major);
    if !known {
        let what = if plan { "plan" } else { "state" };
        let message = format!("version {version:.20} of the format of a {what} is not known, only 0 and 1");
        root.wrong(message, Some("a newer nacld may know it".to_owned()));
    }
    known
}

/// A state's resources.
pub(super) fn state(root: &Node<'_>, scope: usize) -> Vec<Resource> {
    let mut found = Vec::new();
    // A state without anything in it has no values.
    if let Some(module) = root.get("values").and_then(|values| values.get("root_module")) {
        walk(&module, &mut |resource| found.extend(known(resource, scope)));
    }
    found
}

/// What a plan found; nothing, where it makes everything.
pub(super) fn prior(root: &Node<'_>, scope: usize) -> Vec<Resource> {
    root.get("prior_state")
        .map_or_else(Vec::new, |prior| if version_is_known(&prior, false) { state(&prior, scope) } else { Vec::new() })
}

/// What a plan will make: its planned values, and the data sources it has read.
pub(super) fn planned(root: &Node<'_>, scope: usize) -> Vec<Resource> {
    let mut nodes = Vec::new();
    if let Some(module) = root.need("planned_values").and_then(|values| values.get("root_module")) {
        walk(&module, &mut |resource| nodes.push(resource.clone()));
    }
    let planned: BTreeSet<&str> = nodes.iter().filter_map(|node| node.value.get("address")?.as_str()).collect();
    let mut read = Vec::new();
    let prior =
        root.get("prior_state").and_then(|prior| prior.get("values")).and_then(|values| values.get("root_module"));
    if let Some(module) = prior {
        walk(&module, &mut |resource| {
            let text = |key| resource.value.get(key).and_then(Value::as_str);
            if text("mode") == Some("data") && text("address").is_some_and(|address| !planned.contains(address)) {
                read.push(resource.clone());
            }
        });
    }
    nodes.append(&mut read);

    let mut changes: BTreeMap<&str, &Value> = BTreeMap::new();
    for change in root.list("resource_changes") {
        let address = change.value.get("address").and_then(Value::as_str);
        // A deposed object has its resource's address.
        let unknown = change.value.get("change").and_then(|change| change.get("after_unknown"));
        if let (Some(address), Some(unknown), None) = (address, unknown, change.value.get("deposed")) {
            changes.insert(address, unknown);
        }
    }
    let mut configuration =
        Configuration::new(root.value.get("configuration").and_then(|configuration| configuration.get("root_module")));
    let heads: Vec<Head<'_>> = nodes.iter().filter_map(Head::of).collect();
    for head in &heads {
        configuration.add(&head.path, head.data, head.kind, head.name, head.index.clone(), head.address);
    }
    let empty = Value::Object(Map::new());
    let by_reference = RefCell::default();
    let made: Vec<Resource> = heads
        .iter()
        .map(|head| {
            let written = configuration.resource(&head.path, head.data, head.kind, head.name);
            let expressions = written.and_then(|resource| resource.get("expressions"));
            let here = Scope {
                path: &head.path,
                index: head.index.as_ref(),
                for_each: written.and_then(|resource| resource.get("for_each_expression")),
                instances: configuration.instances(&head.path, head.data, head.kind, head.name),
            };
            let unknown =
                Unknowns { configuration: &configuration, expressions, here, of: head, by_reference: &by_reference };
            let values = head.node.value.get("values").unwrap_or(&empty);
            let configured = written.map(|_| {
                expressions.and_then(Value::as_object).map_or_else(BTreeSet::new, |all| all.keys().cloned().collect())
            });
            Resource {
                values: unknown.merge(values, changes.get(head.address).copied()),
                configured,
                ..head.resource(scope)
            }
        })
        .collect();
    let lists: BTreeSet<String> = by_reference.into_inner();
    if !lists.is_empty() {
        let named: Vec<&str> = lists.iter().take(5).map(String::as_str).collect();
        let more =
            if lists.len() > named.len() { format!(" and {} more", lists.len() - named.len()) } else { String::new() };
        root.note(
            Because::Unknown,
            format!(
                "these lists are known by their references only, and an id that is written beside them as text would be \
                 missing: {}{more}",
                named.join(", ")
            ),
        );
    }
    made
}

/// Every resource of a module and of those in it.
fn walk<'d>(module: &Node<'d>, each: &mut impl FnMut(&Node<'d>)) {
    for resource in module.list("resources") {
        each(&resource);
    }
    for child in module.list("child_modules") {
        walk(&child, each);
    }
}

/// What a resource is, without its values.
struct Head<'d> {
    node: Node<'d>,
    address: &'d str,
    kind: &'d str,
    name: &'d str,
    data: bool,
    index: Option<Index>,
    path: Vec<Step>,
}

impl<'d> Head<'d> {
    fn of(node: &Node<'d>) -> Option<Self> {
        let text = |key| node.need(key).and_then(|value| value.text());
        let (address, kind, name) = (text("address"), text("type"), text("name"));
        let (address, kind, name) = (address?, kind?, name?);
        let node = node.clone().called(address);
        if let Some(values) = node.get("values").filter(|values| !values.value.is_object()) {
            values.mistaken("an object");
            return None;
        }
        if super::resources::is_read(kind) && node.value.get("sensitive_values").is_some_and(any) {
            let message = "some of its values are marked sensitive: they are read like any other";
            node.note(Because::NoEffect, message);
        }
        let index = node.value.get("index").and_then(Index::of);
        let data = node.value.get("mode").and_then(Value::as_str) == Some("data");
        Some(Self { address, kind, name, data, index, path: modules(&steps(address)), node })
    }

    fn resource(&self, scope: usize) -> Resource {
        Resource {
            file: self.node.place().file,
            scope,
            address: self.address.to_owned(),
            kind: self.kind.to_owned(),
            name: full_name(&self.path, self.name, self.index.as_ref()),
            data: self.data,
            values: Term::new(What::Null),
            configured: None,
        }
    }
}

fn known(node: &Node<'_>, scope: usize) -> Option<Resource> {
    let head = Head::of(node)?;
    let values = head.node.value.get("values").map_or_else(|| Term::new(What::Map(BTreeMap::new())), Term::known);
    Some(Resource { values, ..head.resource(scope) })
}

/// Whether anything is marked.
fn any(marks: &Value) -> bool {
    match marks {
        Value::Bool(mark) => *mark,
        Value::Array(list) => list.iter().any(any),
        Value::Object(map) => map.values().any(any),
        _ => false,
    }
}

/// How a resource's unknown values are found out.
struct Unknowns<'a> {
    configuration: &'a Configuration<'a>,
    expressions: Option<&'a Value>,
    here: Scope<'a>,
    of: &'a Head<'a>,
    /// Lists of which the plan knows nothing, not even how long they are, and the configuration the references.
    by_reference: &'a RefCell<BTreeSet<String>>,
}

impl Unknowns<'_> {
    /// Planned values, and `after_unknown`, which has `true` for what they lack.
    fn merge(&self, values: &Value, unknown: Option<&Value>) -> Term {
        let mut map = BTreeMap::new();
        let (values, marks) = (values.as_object(), unknown.and_then(Value::as_object));
        let keys = values.into_iter().chain(marks).flat_map(Map::keys);
        for key in keys.collect::<BTreeSet<_>>() {
            let value = values.and_then(|values| values.get(key));
            let mark = marks.and_then(|marks| marks.get(key));
            map.insert(key.clone(), self.value(key, key, value, mark));
        }
        Term::new(What::Map(map))
    }

    /// A value: of the argument `top`, in its part `key`.
    fn value(&self, top: &str, key: &str, value: Option<&Value>, mark: Option<&Value>) -> Term {
        match mark {
            Some(Value::Bool(true)) => self.whole(top, key),
            Some(Value::Object(marks)) if !value.is_some_and(Value::is_array) => {
                let values = value.and_then(Value::as_object);
                let keys = values.into_iter().chain([marks]).flat_map(Map::keys);
                let part = |inner: &String| {
                    let value = values.and_then(|values| values.get(inner));
                    (inner.clone(), self.value(top, inner, value, marks.get(inner)))
                };
                Term::new(What::Map(keys.collect::<BTreeSet<_>>().into_iter().map(part).collect()))
            }
            Some(Value::Array(marks)) if !value.is_some_and(Value::is_object) => {
                self.list(top, key, value.and_then(Value::as_array).map_or(&[], Vec::as_slice), marks)
            }
            _ => value.map_or_else(|| Term::new(What::Null), Term::known),
        }
    }

    /// A list of which some elements are unknown.
    fn list(&self, top: &str, key: &str, values: &[Value], marks: &[Value]) -> Term {
        let unknown = |mark: Option<&Value>| mark == Some(&Value::Bool(true));
        let mut missing = self.missing(top, key, marks.iter().filter(|mark| unknown(Some(mark))).count()).into_iter();
        // What is not known has a place among the values, which is null; where it has none, the known ones stand together.
        let placed = values.len() >= marks.len();
        let mut known = values.iter();
        let element = |at: usize| {
            let mark = marks.get(at);
            let value = if placed || !unknown(mark) { known.next() } else { None };
            if unknown(mark) { missing.next().unwrap_or_else(later) } else { self.value(top, key, value, mark) }
        };
        Term::new(What::List((0..values.len().max(marks.len())).map(element).collect()))
    }

    /// Elements that are not known, so many. No fewer than there are references hold these, one each: an order among ids means
    /// nothing.
    fn missing(&self, top: &str, key: &str, count: usize) -> Vec<Term> {
        let mut found: Vec<Term> = if count == 0 || !is_link(key) {
            Vec::new()
        } else {
            match self.targets(top, key) {
                Ok(found) if found.targets.len() <= count => {
                    found.targets.into_iter().map(|target| Term::new(What::Link(target))).collect()
                }
                Ok(found) => vec![among(&found.targets); count],
                Err(why) => vec![Term::unknown(why); count],
            }
        };
        found.resize_with(count, later);
        found
    }

    /// What is not known at all.
    fn whole(&self, top: &str, key: &str) -> Term {
        if !is_link(key) {
            return later();
        }
        let Found { targets, inputs } = match self.targets(top, key) {
            Ok(found) => found,
            Err(why) => return Term::unknown(why),
        };
        let links: Vec<Term> = targets.iter().map(|target| Term::new(What::Link(target.clone()))).collect();
        match links.as_slice() {
            [] => later(),
            [one] if !is_list(key) => one.clone(),
            // All that one expression names. Of several blocks' expressions it is not said which has which.
            _ if is_list(key) && (links.len() == 1 || key == top && !inputs) => {
                if !self.of.data && super::resources::is_read(self.of.kind) {
                    let part = if key == top { String::new() } else { format!(".{key}") };
                    self.by_reference.borrow_mut().insert(format!("{}.{top}{part}", self.of.address));
                }
                Term::new(What::List(links))
            }
            _ => among(&targets),
        }
    }

    /// What the configuration's expressions for an argument name.
    fn targets(&self, top: &str, key: &str) -> Result<Found, String> {
        let Some(expression) = self.expressions.and_then(|all| all.get(top)) else { return Ok(Found::default()) };
        if key == top {
            return self.configuration.targets(expression, &self.here);
        }
        // Blocks: a list of them, each with its expressions; those that the provider declares as arguments are one expression.
        let blocks = match expression {
            Value::Array(blocks) => blocks.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut all = Found::default();
        for block in blocks {
            let (part, mixed) = block.get(key).map_or((block, true), |part| (part, false));
            let found = self.configuration.targets(part, &self.here)?;
            all.inputs |= found.inputs;
            all.targets.extend(found.targets.into_iter().filter(|target| !mixed || could_be(key, target)));
        }
        Ok(all)
    }
}

/// What nothing is known of.
fn later() -> Term {
    Term::unknown("it is known only after the plan is applied")
}

/// One of several, or some of them.
fn among(targets: &BTreeSet<Target>) -> Term {
    let names: Vec<&str> = targets.iter().take(5).map(|target| target.object.as_str()).collect();
    Term::unknown(format!("it is among {}", names.join(", ")))
}

/// Whether an argument names objects.
fn is_link(key: &str) -> bool {
    key.ends_with("_id") || is_list(key)
}

/// Whether it names several.
fn is_list(key: &str) -> bool {
    key.ends_with("_ids") || key == "security_groups"
}

/// Whether a reference can be what a rule's argument names.
fn could_be(key: &str, target: &Target) -> bool {
    let kind = steps(&target.object).into_iter().rev().nth(1).map(|step| step.name).unwrap_or_default();
    let by_id = matches!(target.attribute.as_str(), "" | "id");
    match key {
        "security_groups" => {
            kind.ends_with("security_group") && by_id || target.attribute == "default_security_group_id"
        }
        "prefix_list_ids" => kind.ends_with("prefix_list") && by_id,
        _ => false,
    }
}
