//! Parameters, mappings, conditions and intrinsic functions → each resource's properties with everything in place that can be
//! known. What cannot be is [`What::Unknown`], with why. Knows no resource.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    import::{
        cloudformation::Parameters,
        term::{At, Target, Term, Unknown, What},
        tree::Findings,
    },
    inventory::{Because, Note, Place},
};

/// Functions in functions, conditions in conditions.
const DEPTH: usize = 64;

/// Values that a template may come to, a long text counting as many: a mapping or parameter can be used any number of times.
const VALUES: usize = 2_000_000;

/// Fn::Cidr gives so many at most, AWS says.
const CIDRS: u32 = 256;

/// A template of which everything is evaluated.
pub(super) struct Stack {
    pub(super) file: Arc<str>,
    pub(super) resources: Vec<Resource>,
}

/// A resource that its condition lets be made.
pub(super) struct Resource {
    /// Its logical id.
    pub(super) name: String,
    /// `AWS::EC2::Subnet`.
    pub(super) kind: String,
    pub(super) properties: Term,
}

struct Context<'t> {
    file: &'t Arc<str>,
    template: &'t Term,
    given: &'t Parameters,
    conditions: RefCell<HashMap<String, Option<bool>>>,
    values: Cell<usize>,
    findings: &'t Findings,
}

/// What stands where a property is to be as if it was not written: `AWS::NoValue`.
const NO_VALUE: Term = Term::new(What::Null);

/// Evaluates a template; `None` where it is none.
pub(super) fn evaluate(file: &Arc<str>, template: &Term, given: &Parameters, findings: &Findings) -> Option<Stack> {
    let root = At::new(template, file, "", findings);
    if !matches!(template.what, What::Map(_)) {
        root.wrong("this is no template: an object with `Resources` was expected", None);
        return None;
    }
    let Some(resources) = root.get("Resources") else {
        root.wrong("this is no template: `Resources` is missing", None);
        return None;
    };
    let context = Context { file, template, given, conditions: RefCell::default(), values: Cell::new(0), findings };
    if let Some(transform) = root.get("Transform") {
        transform.note(Because::Unknown, "macros run at AWS: what a transform makes or changes is not known");
    }
    context.unused_parameters();
    let mut made = Vec::new();
    for (name, at) in resources.members() {
        if name.starts_with("Fn::") {
            at.note(Because::Unknown, "what this makes is not evaluated, and is left out");
            continue;
        }
        let Some(kind) = at.need("Type").and_then(|kind| kind.text()) else { continue };
        if let Some(condition) = at.get("Condition") {
            let Some(name) = condition.text() else { continue };
            match context.condition(name, 0) {
                Some(true) => {}
                Some(false) => {
                    at.note(Because::NoEffect, format!("condition `{name:.60}` is false: it is not made"));
                    continue;
                }
                None => {
                    let message = format!("condition `{name:.60}` is not known: it is left out");
                    at.note(Because::Unknown, message);
                    continue;
                }
            }
        }
        let empty = Term::new(What::Map(BTreeMap::new())).on(at.term.line);
        let properties = at.term.get("Properties").map_or(empty, |all| context.value(all, 0));
        made.push(Resource { name: name.to_owned(), kind: kind.to_owned(), properties });
    }
    if context.values.get() > VALUES {
        root.wrong(format!("the template comes to more than {VALUES} values"), None);
    }
    Some(Stack { file: Arc::clone(file), resources: made })
}

impl Context<'_> {
    /// A value that was given for a parameter that no template has is a slip of the pen.
    fn unused_parameters(&self) {
        let parameters = self.section("Parameters");
        for name in self.given.keys().filter(|name| !name.starts_with("AWS::")) {
            if !parameters.is_some_and(|all| all.get(name).is_some()) {
                let place = Place { file: Arc::clone(self.file), path: "Parameters".to_owned(), line: None };
                let message = format!("a value was given for `{name:.60}`, which this template does not have");
                self.findings.notes.borrow_mut().push(Note { because: Because::NoEffect, place, message });
            }
        }
    }

    fn section(&self, name: &str) -> Option<&Term> {
        self.template.get(name)
    }

    /// Counts a value; whether there may be more.
    fn spend(&self, values: usize) -> bool {
        self.values.set(self.values.get().saturating_add(values));
        self.values.get() <= VALUES
    }

    fn text(&self, text: &str) -> Term {
        if self.spend(1 + text.len() / 32) { Term::text(text) } else { too_much() }
    }

    fn value(&self, term: &Term, depth: usize) -> Term {
        if depth > DEPTH || !self.spend(1) {
            return too_much().on(term.line);
        }
        let what = match &term.what {
            What::Text(text) => return self.text(text).on(term.line),
            What::List(list) => {
                let elements = list.iter().map(|element| self.value(element, depth + 1));
                // AWS::NoValue takes an element away.
                What::List(elements.filter(|element| element.what != What::Null).collect())
            }
            What::Map(map) => {
                if let (1, Some((key, argument))) = (map.len(), map.iter().next())
                    && (key == "Ref" || key == "Condition" && depth > 0 || key.starts_with("Fn::"))
                {
                    return self.function(key, argument, depth).on(term.line);
                }
                What::Map(map.iter().map(|(key, value)| (key.clone(), self.value(value, depth + 1))).collect())
            }
            other => other.clone(),
        };
        Term::new(what).on(term.line)
    }

    fn function(&self, name: &str, argument: &Term, depth: usize) -> Term {
        // `If` evaluates one of its branches only, `Sub` and conditions have arguments of their own.
        match name {
            "Ref" => return argument.as_text().map_or_else(|| malformed(name), |name| self.reference(name)),
            "Fn::If" => return self.choose(argument, depth),
            "Fn::Sub" => return self.substitute(argument, depth),
            "Condition" | "Fn::Equals" | "Fn::And" | "Fn::Or" | "Fn::Not" => {
                let boxed = Term::new(What::Map(BTreeMap::from([(name.to_owned(), argument.clone())])));
                return match self.test(&boxed, depth + 1) {
                    Some(flag) => Term::text(flag.to_string()),
                    None => Term::unknown("a condition in it is not known"),
                };
            }
            _ => {}
        }
        let argument = self.value(argument, depth + 1);
        if let What::Unknown(_) = argument.what {
            return argument;
        }
        match name {
            "Fn::GetAtt" => match attribute(&argument) {
                Some((object, attribute)) => self.attribute(&object, &attribute, depth),
                None => malformed(name),
            },
            "Fn::FindInMap" => self.find_in_map(&argument, depth),
            "Fn::Join" => self.join(&argument),
            "Fn::Select" => select(&argument),
            "Fn::Split" => self.split(&argument),
            "Fn::Cidr" => self.cidrs(&argument),
            "Fn::Length" => match &argument.what {
                What::List(list) => Term::text(list.len().to_string()),
                _ => malformed(name),
            },
            "Fn::Base64" => Term::unknown("base64 says nothing of packets"),
            "Fn::ImportValue" => {
                let name = argument.as_text().unwrap_or("?");
                let why = format!("it is exported by another stack as `{name:.80}`");
                Term::new(What::Unknown(Unknown { why, named: argument.as_text().map(str::to_owned) }))
            }
            "Fn::GetAZs" => Term::unknown("availability zones are the account's"),
            "Fn::Transform" => Term::unknown("macros run at AWS"),
            _ => Term::unknown(format!("`{name:.40}` is not evaluated")),
        }
    }

    /// A parameter, a pseudo parameter, or a resource.
    fn reference(&self, name: &str) -> Term {
        if name == "AWS::NoValue" {
            return NO_VALUE;
        }
        if let Some(given) = self.given.get(name)
            && name.starts_with("AWS::")
        {
            return self.text(given);
        }
        match name {
            "AWS::Partition" => return Term::text("aws"),
            "AWS::URLSuffix" => return Term::text("amazonaws.com"),
            _ if name.starts_with("AWS::") => {
                return Term::unknown(format!("`{name:.40}` was not given (`--parameter {name:.40}=VALUE`)"));
            }
            _ => {}
        }
        if let Some(parameter) = self.section("Parameters").and_then(|all| all.get(name)) {
            return self.parameter(name, parameter);
        }
        if self.section("Resources").is_some_and(|all| all.get(name).is_some()) {
            return link(name, "");
        }
        Term::unknown(format!("there is neither a parameter nor a resource `{name:.60}`"))
    }

    /// An attribute of a resource: what is written for it, such as a CIDR, else what AWS will choose.
    fn attribute(&self, object: &str, attribute: &str, depth: usize) -> Term {
        let resource = self.section("Resources").and_then(|all| all.get(object));
        match resource.and_then(|resource| resource.get("Properties")?.get(attribute)) {
            Some(written) => self.value(written, depth + 1),
            None => link(object, attribute),
        }
    }

    fn parameter(&self, name: &str, parameter: &Term) -> Term {
        let kind = parameter.get("Type").and_then(Term::as_text).unwrap_or("String");
        let unknown = |why: String| Term::new(What::Unknown(Unknown { why, named: Some(name.to_owned()) }));
        let value = match self.given.get(name) {
            Some(given) => Some(given.as_str()),
            // Its default is the name of an entry in Systems Manager.
            None if kind.starts_with("AWS::SSM::Parameter::Value") => {
                let help =
                    format!("parameter `{name:.60}` is read from Systems Manager (`--parameter {name:.60}=VALUE`)");
                return unknown(help);
            }
            None => parameter.get("Default").and_then(Term::as_text),
        };
        let Some(value) = value else {
            return unknown(format!("parameter `{name:.60}` has no default (`--parameter {name:.60}=VALUE`)"));
        };
        if kind == "CommaDelimitedList" || kind.starts_with("List<") || kind.contains("<List<") {
            let parts = value.split(',').map(|part| self.text(part.trim()));
            return Term::new(What::List(parts.collect()));
        }
        self.text(value)
    }

    fn choose(&self, argument: &Term, depth: usize) -> Term {
        let What::List(parts) = &argument.what else { return malformed("Fn::If") };
        let [condition, yes, no] = parts.as_slice() else { return malformed("Fn::If") };
        let Some(name) = condition.as_text() else { return malformed("Fn::If") };
        match self.condition(name, depth + 1) {
            Some(true) => self.value(yes, depth + 1),
            Some(false) => self.value(no, depth + 1),
            None => Term::unknown(format!("condition `{name:.60}` is not known")),
        }
    }

    /// A condition by name; one that leads to itself is not known.
    fn condition(&self, name: &str, depth: usize) -> Option<bool> {
        if let Some(known) = self.conditions.borrow().get(name) {
            return *known;
        }
        let term = self.section("Conditions")?.get(name)?;
        self.conditions.borrow_mut().insert(name.to_owned(), None);
        let found = self.test(term, depth + 1);
        self.conditions.borrow_mut().insert(name.to_owned(), found);
        found
    }

    /// What a condition comes to.
    fn test(&self, term: &Term, depth: usize) -> Option<bool> {
        if depth > DEPTH || !self.spend(1) {
            return None;
        }
        let What::Map(map) = &term.what else { return None };
        let (1, Some((name, argument))) = (map.len(), map.iter().next()) else { return None };
        let parts = match &argument.what {
            What::List(parts) => parts.as_slice(),
            _ => &[],
        };
        match (name.as_str(), parts) {
            ("Condition", _) => self.condition(argument.as_text()?, depth + 1),
            ("Fn::Equals", [one, other]) => {
                let sides = (self.value(one, depth + 1), self.value(other, depth + 1));
                let plain = |term: &Term| {
                    let mut known = true;
                    term.leaves("", &mut |_, leaf| known &= matches!(leaf.what, What::Text(_) | What::Null));
                    known
                };
                (plain(&sides.0) && plain(&sides.1)).then(|| same(&sides.0, &sides.1))
            }
            ("Fn::Not", [one]) => self.test(one, depth + 1).map(|flag| !flag),
            // One that is false makes all of it false, whatever the others are.
            ("Fn::And", parts) => {
                let all: Vec<Option<bool>> = parts.iter().map(|part| self.test(part, depth + 1)).collect();
                if all.contains(&Some(false)) { Some(false) } else { all.iter().all(Option::is_some).then_some(true) }
            }
            ("Fn::Or", parts) => {
                let all: Vec<Option<bool>> = parts.iter().map(|part| self.test(part, depth + 1)).collect();
                if all.contains(&Some(true)) { Some(true) } else { all.iter().all(Option::is_some).then_some(false) }
            }
            _ => None,
        }
    }

    /// `${Name}`, `${Resource.Attribute}`, `${!literal}`, with own values first. Of a single one its value is kept as it is.
    fn substitute(&self, argument: &Term, depth: usize) -> Term {
        let (text, own) = match &argument.what {
            What::Text(text) => (text.as_str(), None),
            What::List(parts) => match parts.as_slice() {
                [text, own] => match text.as_text() {
                    Some(text) => (text, Some(own)),
                    None => return malformed("Fn::Sub"),
                },
                _ => return malformed("Fn::Sub"),
            },
            _ => return malformed("Fn::Sub"),
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(end) = rest[start..].find('}') else { break };
            parts.push(Term::text(&rest[..start]));
            let name = rest[start + 2..start + end].trim();
            rest = &rest[start + end + 1..];
            parts.push(if let Some(literal) = name.strip_prefix('!') {
                Term::text(format!("${{{literal}}}"))
            } else if let Some(own) = own.and_then(|own| own.get(name)) {
                self.value(own, depth + 1)
            } else if name.starts_with("AWS::") {
                self.reference(name)
            } else {
                match name.split_once('.') {
                    Some((object, attribute)) => self.attribute(object, attribute, depth + 1),
                    None => self.reference(name),
                }
            });
        }
        parts.push(Term::text(rest));
        parts.retain(|part| part.what != What::Text(String::new()));
        self.concatenate(parts, "")
    }

    /// Texts in a row; a single value is kept as it is.
    fn concatenate(&self, mut parts: Vec<Term>, delimiter: &str) -> Term {
        if let [_] = parts.as_slice() {
            return parts.remove(0);
        }
        let mut all = String::new();
        for (place, part) in parts.iter().enumerate() {
            if place > 0 {
                all.push_str(delimiter);
            }
            match &part.what {
                What::Text(text) => {
                    if !self.spend((text.len() + delimiter.len()) / 32) {
                        return too_much();
                    }
                    all.push_str(text);
                }
                What::Unknown(_) => return part.clone(),
                What::Link(target) => {
                    return Term::unknown(format!("there is the id of {:?} in it, which AWS chooses", target.object));
                }
                What::Null => {}
                _ => return malformed("Fn::Join"),
            }
        }
        self.text(&all)
    }

    fn join(&self, argument: &Term) -> Term {
        let What::List(parts) = &argument.what else { return malformed("Fn::Join") };
        let [delimiter, list] = parts.as_slice() else { return malformed("Fn::Join") };
        match (&delimiter.what, &list.what) {
            (What::Text(delimiter), What::List(list)) => self.concatenate(list.clone(), delimiter),
            (What::Unknown(_), _) => delimiter.clone(),
            (_, What::Unknown(_)) => list.clone(),
            // An empty delimiter is null where it is written so.
            (What::Null, What::List(list)) => self.concatenate(list.clone(), ""),
            _ => malformed("Fn::Join"),
        }
    }

    fn split(&self, argument: &Term) -> Term {
        let What::List(parts) = &argument.what else { return malformed("Fn::Split") };
        let [delimiter, text] = parts.as_slice() else { return malformed("Fn::Split") };
        match (&delimiter.what, &text.what) {
            (What::Text(delimiter), What::Text(text)) if !delimiter.is_empty() => {
                Term::new(What::List(text.split(delimiter.as_str()).map(|part| self.text(part)).collect()))
            }
            (_, What::Unknown(_)) => text.clone(),
            _ => malformed("Fn::Split"),
        }
    }

    fn find_in_map(&self, argument: &Term, depth: usize) -> Term {
        let What::List(parts) = &argument.what else { return malformed("Fn::FindInMap") };
        let [map, first, second, rest @ ..] = parts.as_slice() else { return malformed("Fn::FindInMap") };
        let mut keys = Vec::new();
        for part in [map, first, second] {
            match &part.what {
                What::Text(text) => keys.push(text.as_str()),
                What::Unknown(_) => return part.clone(),
                _ => return malformed("Fn::FindInMap"),
            }
        }
        let found = keys.iter().try_fold(self.section("Mappings"), |at, key| Some(at?.get(key)));
        match (found.flatten(), rest.first().and_then(|rest| rest.get("DefaultValue"))) {
            (Some(found), _) => self.value(found, depth + 1),
            (None, Some(default)) => default.clone(),
            (None, None) => Term::unknown(format!("there is no `{:.120}` in `Mappings`", keys.join("."))),
        }
    }

    /// Fn::Cidr: so many networks of so many host bits each (6 and 64 are no defaults: AWS asks for the bits of IPv6 only).
    fn cidrs(&self, argument: &Term) -> Term {
        let What::List(parts) = &argument.what else { return malformed("Fn::Cidr") };
        let (block, count, bits) = match parts.as_slice() {
            [block, count] => (block, count, None),
            [block, count, bits] => (block, count, Some(bits)),
            _ => return malformed("Fn::Cidr"),
        };
        for part in [Some(block), Some(count), bits].into_iter().flatten() {
            match &part.what {
                What::Text(_) => {}
                What::Unknown(_) => return part.clone(),
                What::Link(target) => {
                    return Term::unknown(format!("it is part of {:?}, which AWS chooses", target.object));
                }
                _ => return malformed("Fn::Cidr"),
            }
        }
        let net: Option<IpNet> = block.as_text().and_then(|text| text.trim().parse().ok());
        let count: Option<u32> = count.as_text().and_then(|text| text.trim().parse().ok());
        let (Some(net), Some(count)) = (net, count.filter(|count| (1..=CIDRS).contains(count))) else {
            return malformed("Fn::Cidr");
        };
        let bits: Option<u8> = bits.map_or(Some(8), |bits| bits.as_text().and_then(|text| text.trim().parse().ok()));
        let length = bits.and_then(|bits| net.max_prefix_len().checked_sub(bits));
        let Some(mut subnets) = length.and_then(|length| net.trunc().subnets(length).ok()) else {
            return malformed("Fn::Cidr");
        };
        let found: Vec<Term> = subnets.by_ref().take(count as usize).map(|net| self.text(&net.to_string())).collect();
        if found.len() < count as usize {
            return malformed("Fn::Cidr");
        }
        Term::new(What::List(found))
    }
}

fn same(one: &Term, other: &Term) -> bool {
    match (&one.what, &other.what) {
        (What::List(one), What::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (What::Map(one), What::Map(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|((key, one), (name, other))| key == name && same(one, other))
        }
        (one, other) => one == other,
    }
}

fn link(object: &str, attribute: &str) -> Term {
    Term::new(What::Link(Target { object: object.to_owned(), attribute: attribute.to_owned() }))
}

/// What `Fn::GetAtt` asks for.
fn attribute(argument: &Term) -> Option<(String, String)> {
    let parts: Vec<&str> = match &argument.what {
        What::List(list) => list.iter().filter_map(Term::as_text).collect(),
        What::Text(text) => text.splitn(2, '.').collect(),
        _ => Vec::new(),
    };
    match parts.as_slice() {
        [object, attribute @ ..] if !attribute.is_empty() => Some(((*object).to_owned(), attribute.join("."))),
        _ => None,
    }
}

fn select(argument: &Term) -> Term {
    let What::List(parts) = &argument.what else { return malformed("Fn::Select") };
    let [index, list] = parts.as_slice() else { return malformed("Fn::Select") };
    let index: Option<usize> = match &index.what {
        What::Text(text) => text.trim().parse().ok(),
        What::Unknown(_) => return index.clone(),
        _ => None,
    };
    match &list.what {
        What::List(list) => index.and_then(|index| list.get(index)).cloned().unwrap_or_else(|| malformed("Fn::Select")),
        What::Unknown(_) => list.clone(),
        // One of what AWS makes several of: `!Select [0, !GetAtt Vpc.Ipv6CidrBlocks]`.
        What::Link(target) => {
            Term::unknown(format!("`{}` of {:?} is AWS's to choose", target.attribute, target.object))
        }
        _ => malformed("Fn::Select"),
    }
}

fn malformed(function: &str) -> Term {
    Term::unknown(format!("`{function:.40}` has no arguments that it could be evaluated with"))
}

fn too_much() -> Term {
    Term::unknown("its functions lead too far")
}
