//! HCL as far as literals go → resources: values, variables with a literal default, locals of them, and references to
//! resources. Everything else is left out and told with its line; `terraform show -json` is what knows it.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use hcl_edit::{
    Span,
    expr::{Expression, ObjectKey, TraversalOperator},
    structure::{Block, Body, Structure},
    template::Element,
};

use super::Resource;
use crate::{
    import::{
        Document, Problem,
        term::{Target, Term, What, whole},
        tree::Findings,
    },
    inventory::{Because, Note, Place},
};

/// Locals that name locals.
const DEPTH: usize = 16;

/// Values that the documents may come to: locals can name each other many times over.
const VALUES: usize = 2_000_000;

/// What all files of a module say together.
struct Module<'d> {
    variables: HashMap<&'d str, (&'d File<'d>, &'d Expression)>,
    locals: HashMap<&'d str, (&'d File<'d>, &'d Expression)>,
    values: Cell<usize>,
    findings: &'d Findings,
}

/// A file, its body, and where its lines begin.
struct File<'d> {
    file: &'d Arc<str>,
    body: Body,
    lines: Vec<usize>,
}

impl File<'_> {
    fn line(&self, span: Option<Range<usize>>) -> Option<u32> {
        let line = self.lines.partition_point(|start| *start <= span.as_ref().map_or(0, |span| span.start));
        span.and(u32::try_from(line).ok())
    }

    fn place(&self, path: &str, span: Option<Range<usize>>) -> Place {
        Place { file: Arc::clone(self.file), path: path.to_owned(), line: self.line(span) }
    }
}

/// Reads the files of a module.
pub(super) fn read(documents: &[&Document], scope: usize, findings: &Findings) -> Vec<Resource> {
    let mut files = Vec::new();
    for document in documents {
        match hcl_edit::parser::parse_body(&document.text) {
            Ok(body) => {
                let starts = document.text.match_indices('\n').map(|(at, _)| at + 1);
                files.push(File { file: &document.file, body, lines: [0].into_iter().chain(starts).collect() });
            }
            Err(error) => {
                let line = u32::try_from(error.location().line()).ok();
                let place = Place { file: Arc::clone(&document.file), path: String::new(), line };
                let message = format!("column {}: this is not HCL: {}", error.location().column(), error.message());
                findings.problems.borrow_mut().push(Problem { place, message, help: None });
            }
        }
    }
    let mut module = Module { variables: HashMap::new(), locals: HashMap::new(), values: Cell::new(0), findings };
    for file in &files {
        for block in file.body.blocks() {
            match (block.ident.as_str(), block.labels.first()) {
                ("variable", Some(name)) => {
                    if let Some(default) = block.body.get_attribute("default") {
                        module.variables.insert(name.as_str(), (file, &default.value));
                    }
                }
                ("locals", None) => {
                    let locals = block.body.attributes();
                    module.locals.extend(locals.map(|local| (local.key.as_str(), (file, &local.value))));
                }
                _ => {}
            }
        }
    }
    let mut resources = Vec::new();
    for file in &files {
        for block in file.body.blocks() {
            resources.extend(module.block(file, block, scope));
        }
    }
    module.imported(&files, &mut resources);
    // An attribute of a resource that is written there: `aws_vpc.main.cidr_block`.
    for _ in 0..4 {
        let known: HashMap<String, Term> =
            resources.iter().map(|one| (one.address.clone(), one.values.clone())).collect();
        for resource in &mut resources {
            resource.values.settle(&|target| known.get(&target.object)?.get(&target.attribute).cloned());
        }
    }
    resources
}

impl Module<'_> {
    /// A long text counts as many values.
    fn spend(&self, text: &str) {
        self.values.set(self.values.get() + text.len() / 32);
    }

    fn note(&self, place: Place, because: Because, message: String) {
        self.findings.notes.borrow_mut().push(Note { because, place, message });
    }

    /// `import { to = aws_vpc.main, id = "vpc-…" }`: the id of what is there already.
    fn imported(&self, files: &[File<'_>], resources: &mut [Resource]) {
        let mut ids = HashMap::new();
        for file in files {
            for block in file.body.get_blocks("import") {
                let value =
                    |key: &str| block.body.get_attribute(key).map(|found| self.value(file, &found.value, 0).what);
                if let (Some(What::Link(target)), Some(What::Text(id))) = (value("to"), value("id")) {
                    ids.insert(target.object, id);
                }
            }
        }
        for resource in resources {
            if let (Some(id), What::Map(map)) = (ids.remove(&resource.address), &mut resource.values.what) {
                map.entry("id".to_owned()).or_insert_with(|| Term::text(id));
            }
        }
    }

    /// A block of the top level.
    fn block(&self, file: &File<'_>, block: &Block, scope: usize) -> Option<Resource> {
        let labels: Vec<&str> = block.labels.iter().map(hcl_edit::structure::BlockLabel::as_str).collect();
        let (data, kind, name) = match (block.ident.as_str(), labels.as_slice()) {
            ("resource", [kind, name]) => (false, *kind, *name),
            ("data", [kind, name]) => (true, *kind, *name),
            // They change no value.
            (
                "terraform" | "provider" | "variable" | "locals" | "output" | "import" | "moved" | "removed" | "check",
                _,
            ) => {
                return None;
            }
            (ident, labels) => {
                let what = [&[ident], labels].concat().join(" ");
                let message =
                    format!("`{what:.80}` is not followed: `terraform show -json` is what knows what it makes");
                self.note(file.place("", block.span()), Because::Unknown, message);
                return None;
            }
        };
        let mode = if data { "data." } else { "" };
        let address = format!("{mode}{kind}.{name}");
        for meta in ["count", "for_each"] {
            if let Some(attribute) = block.body.get_attribute(meta)
                && super::resources::is_read(kind)
            {
                let place = file.place(&address, attribute.span());
                let message =
                    format!("`{meta}` is not evaluated, so the resource is left out: `terraform show -json` knows");
                self.note(place, Because::Unknown, message);
                return None;
            }
        }
        let values = self.body(file, &block.body, 0).on(file.line(block.span()));
        let configured = match &values.what {
            What::Map(map) => Some(map.keys().cloned().collect()),
            _ => None,
        };
        Some(Resource {
            file: Arc::clone(file.file),
            scope,
            address,
            kind: kind.to_owned(),
            name: name.to_owned(),
            data,
            values,
            configured,
        })
    }

    /// Arguments, and blocks: of each kind a list.
    fn body(&self, file: &File<'_>, body: &Body, depth: usize) -> Term {
        let mut map: BTreeMap<String, Term> = BTreeMap::new();
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => {
                    let value = self.value(file, &attribute.value, depth).on(file.line(attribute.span()));
                    map.insert(attribute.key.as_str().to_owned(), value);
                }
                Structure::Block(block) => {
                    let line = file.line(block.span());
                    let (name, value) = match (block.ident.as_str(), block.labels.first()) {
                        ("dynamic", Some(label)) => {
                            (label.as_str(), Term::unknown("a `dynamic` block is not evaluated from HCL"))
                        }
                        (ident, _) => (ident, self.body(file, &block.body, depth)),
                    };
                    let list = map.entry(name.to_owned()).or_insert_with(|| Term::new(What::List(Vec::new())).on(line));
                    if let What::List(list) = &mut list.what {
                        list.push(value.on(line));
                    }
                }
            }
        }
        Term::new(What::Map(map))
    }

    fn value(&self, file: &File<'_>, expression: &Expression, depth: usize) -> Term {
        self.values.set(self.values.get() + 1);
        if depth > DEPTH || self.values.get() > VALUES {
            return Term::unknown("its locals lead too far");
        }
        let line = file.line(expression.span());
        let what = match expression {
            Expression::Null(_) => What::Null,
            Expression::Bool(flag) => What::Text(flag.value().to_string()),
            Expression::Number(number) => {
                let text = number.value().to_string();
                What::Text(serde_json::from_str(&text).map_or(text, |number| whole(&number)))
            }
            Expression::String(text) => {
                self.spend(text.value());
                What::Text(text.value().clone())
            }
            Expression::Parenthesis(inner) => return self.value(file, inner.inner(), depth),
            Expression::Array(list) => {
                What::List(list.iter().map(|element| self.value(file, element, depth)).collect())
            }
            Expression::Object(object) => {
                let mut map = BTreeMap::new();
                for (key, value) in object {
                    let key = match key {
                        ObjectKey::Ident(ident) => ident.as_str().to_owned(),
                        ObjectKey::Expression(key) => match self.value(file, key, depth).what {
                            What::Text(text) => text,
                            _ => return Term::unknown("it has a key that is no literal").on(line),
                        },
                    };
                    map.insert(key, self.value(file, value.expr(), depth));
                }
                What::Map(map)
            }
            Expression::StringTemplate(template) => return self.template(file, template.iter(), depth).on(line),
            Expression::HeredocTemplate(heredoc) => {
                return self.template(file, heredoc.template.iter(), depth).on(line);
            }
            Expression::Traversal(traversal) => {
                return self.traversal(file, &traversal.expr, &traversal.operators, depth).on(line);
            }
            _ => return Term::unknown(OF_LITERALS).on(line),
        };
        Term::new(what).on(line)
    }

    /// A text with values in it; a single one keeps what it is.
    fn template<'t>(&self, file: &File<'_>, elements: impl Iterator<Item = &'t Element>, depth: usize) -> Term {
        let mut parts = Vec::new();
        for element in elements {
            parts.push(match element {
                Element::Literal(text) => Term::text(text.value().as_str()),
                Element::Interpolation(inner) => self.value(file, &inner.expr, depth),
                Element::Directive(_) => return Term::unknown(OF_LITERALS),
            });
        }
        if let [_] = parts.as_slice() {
            return parts.remove(0);
        }
        let mut text = String::new();
        for part in parts {
            match part.what {
                What::Text(more) => {
                    self.spend(&more);
                    text.push_str(&more);
                }
                What::Unknown(_) => return part,
                _ => return Term::unknown(OF_LITERALS),
            }
        }
        Term::text(text)
    }

    /// `var.x`, `local.x`, `aws_vpc.main.id`, `data.aws_subnet.a.id`, and keys into the first two.
    fn traversal<O: std::ops::Deref<Target = TraversalOperator>>(
        &self,
        file: &File<'_>,
        root: &Expression,
        operators: &[O],
        depth: usize,
    ) -> Term {
        let Expression::Variable(root) = root else { return Term::unknown(OF_LITERALS) };
        let mut names = vec![root.as_str().to_owned()];
        for operator in operators {
            match &**operator {
                TraversalOperator::GetAttr(name) => names.push(name.as_str().to_owned()),
                TraversalOperator::Index(index) => match self.value(file, index, depth).what {
                    What::Text(text) => names.push(text),
                    _ => return Term::unknown(OF_LITERALS),
                },
                TraversalOperator::LegacyIndex(index) => names.push(index.value().to_string()),
                TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => {
                    return Term::unknown(OF_LITERALS);
                }
            }
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let stored = match names.as_slice() {
            ["var", name, keys @ ..] => match self.variables.get(name) {
                Some(stored) => (*stored, keys),
                None => return Term::unknown(format!("variable `{name}` has no default")),
            },
            ["local", name, keys @ ..] => match self.locals.get(name) {
                Some(stored) => (*stored, keys),
                None => return Term::unknown(format!("there is no local `{name}`")),
            },
            ["data", kind, name, rest @ ..] => return link(format!("data.{kind}.{name}"), rest),
            ["each" | "count" | "module" | "path" | "self" | "terraform", ..] => return Term::unknown(OF_LITERALS),
            [kind, name, rest @ ..] => return link(format!("{kind}.{name}"), rest),
            _ => return Term::unknown(OF_LITERALS),
        };
        let ((file, expression), keys) = stored;
        let value = self.value(file, expression, depth + 1);
        let found = keys.iter().try_fold(&value, |value, key| match &value.what {
            What::Map(map) => map.get(*key),
            What::List(list) => list.get(key.parse::<usize>().ok()?),
            _ => None,
        });
        found.cloned().unwrap_or_else(|| Term::unknown(format!("`{}` is not there", names.join("."))))
    }
}

const OF_LITERALS: &str = "of HCL only literals are read; `terraform show -json` knows it";

/// A resource's attribute. One that has an index has `count` or `for_each`, which are not followed.
fn link(object: String, rest: &[&str]) -> Term {
    match rest {
        [] => Term::new(What::Link(Target { object, attribute: String::new() })),
        [attribute] => Term::new(What::Link(Target { object, attribute: (*attribute).to_owned() })),
        _ => Term::unknown(OF_LITERALS),
    }
}
