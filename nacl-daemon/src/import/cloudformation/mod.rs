//! CloudFormation templates, YAML or JSON, → [`Inventory`]. `template` reads the text, `intrinsics` evaluates what can be,
//! `resources` knows what AWS::EC2's resources mean.

mod intrinsics;
mod resources;
mod template;

use std::collections::BTreeMap;

use super::{Document, tree::Findings};
use crate::inventory::Inventory;

/// Values of parameters, by name; of pseudo parameters too (`AWS::Region`).
pub type Parameters = BTreeMap<String, String>;

/// Reads templates, all into one inventory.
pub fn read(documents: &[Document], parameters: &Parameters, findings: &Findings) -> Inventory {
    let mut stacks = Vec::new();
    for document in documents {
        match template::read(document) {
            Ok(template) => stacks.extend(intrinsics::evaluate(&document.file, &template, parameters, findings)),
            Err(problem) => findings.problems.borrow_mut().push(problem),
        }
    }
    resources::read(&stacks, findings)
}
