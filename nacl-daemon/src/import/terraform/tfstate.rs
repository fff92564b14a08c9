//! A raw state file of version 4, as a backend keeps it → resources.

use super::{
    Resource, full_name,
    references::{Index, modules, steps},
};
use crate::{
    import::{term::Term, tree::Node},
    inventory::Because,
};

/// The only version this can be; 3 ended with Terraform 0.11.
const VERSION: i64 = 4;

/// Its resources.
pub(super) fn read(root: &Node<'_>, scope: usize) -> Vec<Resource> {
    let version: Option<i64> = root.need("version").and_then(|version| version.number(0..=i64::MAX));
    if version != Some(VERSION) {
        if let Some(version) = version {
            let help = "`terraform show -json` writes a state of any version as nacld reads it";
            root.wrong(format!("version {version} of a state is not known, only 4"), Some(help.to_owned()));
        }
        return Vec::new();
    }
    let mut found = Vec::new();
    for resource in root.list("resources") {
        let texts = (resource.need("type"), resource.need("name"));
        let (Some(kind), Some(name)) = (texts.0.and_then(|at| at.text()), texts.1.and_then(|at| at.text())) else {
            continue;
        };
        let data = resource.get("mode").and_then(|mode| mode.text()) == Some("data");
        let module = resource.get("module").and_then(|module| module.text());
        let prefix = module.map_or_else(String::new, |module| format!("{module}."));
        for instance in resource.list("instances") {
            let index = instance.get("index_key").and_then(|key| Index::of(key.value));
            let bracketed = index.as_ref().map_or_else(String::new, Index::bracketed);
            let mode = if data { "data." } else { "" };
            let address = format!("{prefix}{mode}{kind}.{name}{bracketed}");
            if let Some(deposed) = instance.get("deposed").and_then(|deposed| deposed.text()) {
                let message = format!("a replaced object ({deposed:.20}) waits to be removed: it is left out");
                instance.clone().called(address).note(Because::NoEffect, message);
                continue;
            }
            let Some(attributes) = instance.get("attributes") else {
                let message = "it was written by a Terraform before 0.12 and has no `attributes`";
                instance.clone().called(address).wrong(message, None);
                continue;
            };
            if instance
                .get("sensitive_attributes")
                .is_some_and(|list| list.value.as_array().is_some_and(|list| !list.is_empty()))
                && super::resources::is_read(kind)
            {
                let message = "some of its values are marked sensitive: they are read like any other";
                instance.clone().called(&*address).note(Because::NoEffect, message);
            }
            if !attributes.value.is_object() {
                attributes.mistaken("an object");
                continue;
            }
            found.push(Resource {
                file: root.place().file,
                scope,
                name: full_name(&modules(&steps(&address)), name, index.as_ref()),
                address,
                kind: kind.to_owned(),
                data,
                values: Term::known(attributes.value),
                configured: None,
            });
        }
    }
    found
}
