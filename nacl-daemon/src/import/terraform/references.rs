//! Which resource an expression of a plan's configuration means: its `references`, through variables and outputs of modules, →
//! addresses. What they do not say is not guessed.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::Value;

use crate::import::term::Target;

/// Modules and outputs can name each other many times over. A plan of a large account has some ten thousand references.
const STEPS: u32 = 2_000_000;

/// Modules within modules, and variables handed on.
const DEPTH: u32 = 64;

/// An instance's key: a number, or a text in quotes as JSON writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Index(String);

impl Index {
    /// Of `index` or `index_key`.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(_) | Value::Number(_) => Some(Self(value.to_string())),
            _ => None,
        }
    }

    /// Of what stands between brackets.
    fn written(text: &str) -> Self {
        let json: Option<Value> = serde_json::from_str(text).ok();
        json.as_ref().and_then(Self::of).unwrap_or_else(|| Self(text.to_owned()))
    }

    /// Without quotes.
    pub(super) fn plain(&self) -> String {
        serde_json::from_str::<String>(&self.0).unwrap_or_else(|_| self.0.clone())
    }

    /// As it stands in an address.
    pub(super) fn bracketed(&self) -> String {
        format!("[{}]", self.0)
    }
}

/// A name of a path, and its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) index: Option<Index>,
}

/// `module.net["a.b"].aws_subnet.x[0].id` in its steps.
pub(super) fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        if end > 0 {
            steps.push(Step { name: rest[..end].to_owned(), index: None });
        }
        rest = &rest[end..];
        if let Some(inner) = rest.strip_prefix('[') {
            let end = closing(inner);
            if let Some(step) = steps.last_mut() {
                step.index.get_or_insert_with(|| Index::written(&inner[..end]));
            }
            rest = inner[end..].strip_prefix(']').unwrap_or("");
        }
        match rest.strip_prefix('.') {
            Some(after) => rest = after,
            None if rest.is_empty() => return steps,
            None => {}
        }
    }
}

/// Where a bracket closes; one in quotes does not.
fn closing(text: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ']' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

/// The modules that an address begins with.
pub(super) fn modules(steps: &[Step]) -> Vec<Step> {
    steps.chunks(2).take_while(|pair| pair[0].name == "module").filter_map(|pair| pair.get(1)).cloned().collect()
}

/// The address of a module's instance; empty: the root's.
fn address(path: &[Step]) -> String {
    let written = |step: &Step| {
        let index = step.index.as_ref().map_or_else(String::new, Index::bracketed);
        format!("module.{}{index}", step.name)
    };
    path.iter().map(written).collect::<Vec<_>>().join(".")
}

/// What a reference without an index has for one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    /// The key of the instance that has the expression.
    Same,
    /// The same, if there are as many of them.
    SameOfAsMany,
}

/// Instances of a resource: those of one module's instance, of one kind and name.
type Named = (String, bool, String, String);

/// The configuration of a plan, and the instances that it makes.
pub(super) struct Configuration<'d> {
    root: Option<&'d Value>,
    instances: BTreeMap<Named, Vec<(Option<Index>, String)>>,
    steps: Cell<u32>,
}

/// What an expression names.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Objects, and which attribute of them.
    pub(super) targets: BTreeSet<Target>,
    /// Whether it depends on a plain input too: a value that is known, and may choose among the targets.
    pub(super) inputs: bool,
}

/// Where an expression stands.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The module's instance.
    pub(super) path: &'a [Step],
    /// The key of the instance that has the expression.
    pub(super) index: Option<&'a Index>,
    /// Its `for_each`.
    pub(super) for_each: Option<&'a Value>,
    /// How many instances there are of what has the expression, where that is known.
    pub(super) instances: Option<usize>,
}

impl<'d> Configuration<'d> {
    pub(super) const fn new(root: Option<&'d Value>) -> Self {
        Self { root, instances: BTreeMap::new(), steps: Cell::new(0) }
    }

    /// Makes an instance known, so that references can be resolved to it.
    pub(super) fn add(&mut self, path: &[Step], data: bool, kind: &str, name: &str, index: Option<Index>, own: &str) {
        let named = (address(path), data, kind.to_owned(), name.to_owned());
        self.instances.entry(named).or_default().push((index, own.to_owned()));
    }

    fn module(&self, path: &[Step]) -> Option<&'d Value> {
        path.iter().try_fold(self.root?, |module, step| module.get("module_calls")?.get(&step.name)?.get("module"))
    }

    /// How many instances a resource has.
    pub(super) fn instances(&self, path: &[Step], data: bool, kind: &str, name: &str) -> Option<usize> {
        self.instances.get(&(address(path), data, kind.to_owned(), name.to_owned())).map(Vec::len)
    }

    /// The configuration of a resource.
    pub(super) fn resource(&self, path: &[Step], data: bool, kind: &str, name: &str) -> Option<&'d Value> {
        let mode = if data { "data" } else { "managed" };
        let matches = |value: &&Value| {
            value.get("type").and_then(Value::as_str) == Some(kind)
                && value.get("name").and_then(Value::as_str) == Some(name)
                && value.get("mode").and_then(Value::as_str).unwrap_or("managed") == mode
        };
        self.module(path)?.get("resources")?.as_array()?.iter().find(matches)
    }

    /// What an expression names.
    ///
    /// # Errors
    /// Its references do not say: why, as a sentence's end.
    pub(super) fn targets(&self, expression: &Value, scope: &Scope<'_>) -> Result<Found, String> {
        let mut found = Found::default();
        self.collect(&references(expression), scope, 0, &mut found)?;
        Ok(found)
    }

    fn collect(&self, references: &[&str], scope: &Scope<'_>, depth: u32, found: &mut Found) -> Result<(), String> {
        self.steps.set(self.steps.get() + 1);
        if depth > DEPTH || self.steps.get() > STEPS {
            return Err("its references lead too far".to_owned());
        }
        let names = |what: &str| references.iter().any(|one| *one == what || one.starts_with(&format!("{what}.")));
        // By a computed key any instance can be meant. An index can be computed with too, but not where there are as many
        // instances here as there; that is asked below.
        let key = if names("each.value") {
            None
        } else if names("each.key") {
            Some(Key::Same)
        } else {
            names("count.index").then_some(Key::SameOfAsMany)
        };
        for (place, reference) in references.iter().enumerate() {
            // `a.b.id` is followed by `a.b` and `a`: the same, said more shortly.
            let longer = |other: &&str| {
                other.strip_prefix(reference).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
            };
            if references[..place].iter().any(longer) {
                continue;
            }
            let steps = steps(reference);
            let Some(first) = steps.first() else { continue };
            match (first.name.as_str(), steps.get(1)) {
                ("each", Some(Step { name, .. })) if name == "value" => {
                    found.inputs = true;
                    if let Some(source) = scope.for_each {
                        let mut keyed = self::references(source);
                        keyed.push("each.key");
                        self.collect(&keyed, &Scope { for_each: None, ..*scope }, depth + 1, found)?;
                    }
                }
                ("each" | "count" | "path" | "terraform" | "self", _) => {}
                ("var", Some(variable)) => self.variable(&variable.name, scope, depth, found)?,
                ("module", Some(module)) => {
                    let output = steps.get(2).ok_or_else(|| format!("it depends on `{reference}` as a whole"))?;
                    self.output(module, &output.name, key, scope, depth, found)?;
                }
                ("data", Some(kind)) if steps.len() > 2 => {
                    self.instance(reference, true, &kind.name, &steps[2], steps.get(3), key, scope, found)?;
                }
                (kind, Some(name)) if kind != "local" => {
                    self.instance(reference, false, kind, name, steps.get(2), key, scope, found)?;
                }
                _ => return Err(format!("it depends on `{reference}`, which a plan does not explain")),
            }
        }
        Ok(())
    }

    /// What a module's caller gives a variable.
    fn variable(&self, name: &str, scope: &Scope<'_>, depth: u32, found: &mut Found) -> Result<(), String> {
        let unexplained = || format!("it depends on `var.{name}`");
        let Some((last, parent)) = scope.path.split_last() else {
            found.inputs = true;
            return Ok(());
        };
        let call = self.module(parent).and_then(|module| module.get("module_calls")?.get(&last.name));
        let call = call.ok_or_else(unexplained)?;
        // Its default, or a plain value.
        let references = call.get("expressions").and_then(|all| all.get(name)).map_or_else(Vec::new, references);
        if references.is_empty() {
            found.inputs = true;
            return Ok(());
        }
        let for_each = call.get("for_each_expression");
        let scope = Scope { path: parent, index: last.index.as_ref(), for_each, instances: None };
        self.collect(&references, &scope, depth + 1, found)
    }

    /// What a module gives out.
    fn output(
        &self,
        module: &Step,
        output: &str,
        key: Option<Key>,
        scope: &Scope<'_>,
        depth: u32,
        found: &mut Found,
    ) -> Result<(), String> {
        let unexplained = || format!("it depends on output `{output}` of module `{}`", module.name);
        let call = self.module(scope.path).and_then(|outer| outer.get("module_calls")?.get(&module.name));
        let call = call.ok_or_else(unexplained)?;
        let many = call.get("for_each_expression").is_some() || call.get("count_expression").is_some();
        let index = module.index.clone().or_else(|| scope.index.filter(|_| key == Some(Key::Same) && many).cloned());
        if many && index.is_none() {
            return Err(unexplained());
        }
        let expression = call.get("module").and_then(|inner| inner.get("outputs")?.get(output)?.get("expression"));
        let references = references(expression.ok_or_else(unexplained)?);
        if references.is_empty() {
            return Err(unexplained());
        }
        let mut path = scope.path.to_vec();
        path.push(Step { name: module.name.clone(), index });
        self.collect(
            &references,
            &Scope { path: &path, index: None, for_each: None, instances: None },
            depth + 1,
            found,
        )
    }

    /// A resource's instance: the one that is named, the only one, or the one of the same key; else all of them.
    #[expect(clippy::too_many_arguments, reason = "the parts of one reference")]
    fn instance(
        &self,
        reference: &str,
        data: bool,
        kind: &str,
        name: &Step,
        attribute: Option<&Step>,
        key: Option<Key>,
        scope: &Scope<'_>,
        found: &mut Found,
    ) -> Result<(), String> {
        let named = (address(scope.path), data, kind.to_owned(), name.name.clone());
        let all = self.instances.get(&named).filter(|all| !all.is_empty());
        let all = all.ok_or_else(|| format!("it depends on `{reference}`, which is not in the plan"))?;
        let same = match key {
            Some(Key::Same) => true,
            Some(Key::SameOfAsMany) => scope.instances == Some(all.len()),
            None => false,
        };
        let wanted = name.index.as_ref().or_else(|| scope.index.filter(|_| same));
        let one = wanted.and_then(|wanted| all.iter().find(|(index, _)| index.as_ref() == Some(wanted)));
        if one.is_none() && name.index.is_some() {
            return Err(format!("it depends on `{reference}`, which is not in the plan"));
        }
        let attribute = attribute.map_or_else(String::new, |step| step.name.clone());
        let chosen: &[_] = one.map_or(all, std::slice::from_ref);
        for (_, object) in chosen {
            self.steps.set(self.steps.get() + 1);
            found.targets.insert(Target { object: object.clone(), attribute: attribute.clone() });
        }
        if self.steps.get() > STEPS {
            return Err("its references lead too far".to_owned());
        }
        Ok(())
    }
}

/// The references of an expression.
pub(super) fn references(expression: &Value) -> Vec<&str> {
    let list = expression.get("references").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}
