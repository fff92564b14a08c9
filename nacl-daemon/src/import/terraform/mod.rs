//! Terraform → [`Inventory`]: `terraform show -json` of a plan or a state, a raw state of version 4, and HCL as far as literals
//! go. Here is told which of them a document is; `resources` knows what the provider's resources mean.

mod hcl;
mod references;
mod resources;
mod show;
mod tfstate;

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use self::references::{Index, Step};
use super::{
    Document,
    term::Term,
    tree::{self, Findings, Node},
};
use crate::inventory::Inventory;

/// What of a plan is read. A state and HCL say one thing only, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// A state: a plan is refused, so that nobody takes one half of it for the other.
    State,
    /// What a plan found.
    Prior,
    /// What a plan will make.
    Planned,
}

/// A resource or a data source, of whichever document.
#[derive(Clone, Debug)]
struct Resource {
    file: Arc<str>,
    /// Where it is unique: a plan, a state, or all HCL together.
    scope: usize,
    /// `module.net.aws_subnet.a["x"]`.
    address: String,
    /// `aws_subnet`.
    kind: String,
    /// `net-a-x`.
    name: String,
    /// Whether it is only read.
    data: bool,
    values: Term,
    /// Which arguments its configuration has, where that is known.
    configured: Option<BTreeSet<String>>,
}

impl Resource {
    /// Whether an argument is written; where no configuration is known everything may be.
    fn has(&self, argument: &str) -> bool {
        self.configured.as_ref().is_none_or(|configured| configured.contains(argument))
    }
}

/// What a resource is called: the modules it stands in, its name, each with its instance. Half of all modules call what they
/// make `this`.
fn full_name(modules: &[Step], name: &str, index: Option<&Index>) -> String {
    let one = |name: &str, index: Option<&Index>| {
        index.map_or_else(|| name.to_owned(), |index| format!("{name}-{}", index.plain()))
    };
    let modules = modules.iter().map(|step| one(&step.name, step.index.as_ref()));
    modules.chain([one(name, index)]).collect::<Vec<_>>().join("-")
}

/// Reads documents of Terraform's, all into one inventory.
pub fn read(documents: &[Document], half: Half, findings: &Findings) -> Inventory {
    let mut resources = Vec::new();
    let mut before = Vec::new();
    let mut bodies = Vec::new();
    for (scope, document) in documents.iter().enumerate() {
        // HCL has no document that begins so, and JSON of Terraform's none that does not.
        if !document.text.trim_start_matches('\u{feff}').trim_start().starts_with('{') {
            bodies.push(document);
            continue;
        }
        let value = match tree::json(document) {
            Ok(value) => value,
            Err(problem) => {
                findings.problems.borrow_mut().push(problem);
                continue;
            }
        };
        let root = Node::root(&document.file, &value, findings);
        json(&root, &value, scope, half, &mut resources, &mut before);
    }
    resources.extend(hcl::read(&bodies, documents.len(), findings));
    resources::read(&resources, &before, findings)
}

/// One of the three kinds of JSON.
fn json(
    root: &Node<'_>,
    value: &Value,
    scope: usize,
    half: Half,
    resources: &mut Vec<Resource>,
    before: &mut Vec<Resource>,
) {
    if value.get("format_version").is_none() {
        if value.get("version").is_some() && (value.get("resources").is_some() || value.get("modules").is_some()) {
            resources.extend(tfstate::read(root, scope));
        } else {
            let help = "`terraform show -json FILE` writes a plan or a state as nacld reads it";
            root.wrong("this is neither a plan nor a state of Terraform's", Some(help.to_owned()));
        }
        return;
    }
    let plan = value.get("planned_values").is_some() || value.get("resource_changes").is_some();
    if !show::version_is_known(root, plan) {
        return;
    }
    match (plan, half) {
        (false, _) => resources.extend(show::state(root, scope)),
        (true, Half::State) => {
            root.wrong("this is a plan, and a state was expected", Some("say which half of it is meant".to_owned()));
        }
        (true, Half::Prior) => resources.extend(show::prior(root, scope)),
        (true, Half::Planned) => {
            // What was there already is read once more, to know which of it is to go; it was not asked for, so that nothing is told.
            before.extend(show::prior(&root.to(&Findings::default()), scope));
            resources.extend(show::planned(root, scope));
        }
    }
}
