//! A policy of documents of whichever format: what stands between a file that a verb is given and the policy it asks about.

use super::{
    Document, Problem, Wanted, aws,
    cloudformation::{self, Parameters},
    format::{Format, sniff},
    terraform::{self, Half},
    tree::Findings,
};
use crate::inventory::{Inventory, Place, write::Written};

/// Writes the policy that documents of one format tell of. `half`: of a Terraform plan, what is read; `given`: values of a template's
/// parameters.
///
/// # Errors
/// Everything that is wrong with the documents.
pub fn policy_of(documents: &[Document], half: Half, given: &Parameters) -> Result<Written, Vec<Problem>> {
    let findings = Findings::default();
    let inventory = read(documents, half, given, &findings);
    super::policy(inventory, findings, &Wanted::default())
}

fn of(document: &Document) -> Option<Format> {
    sniff(&document.file, &document.text)
}

fn read(documents: &[Document], half: Half, given: &Parameters, findings: &Findings) -> Inventory {
    let Some(format) = documents.iter().find_map(of) else { return Inventory::default() };
    let is = |document: &&Document| {
        let other = of(document);
        other == Some(format) || matches!((other, format), (Some(Format::Terraform), Format::TerraformPlan))
    };
    for other in documents.iter().filter(|document| !is(document)) {
        let place = Place { file: other.file.clone(), path: String::new(), line: None };
        let message = format!("this is not {}, as the document before it is", format.title());
        let help = Some("documents of one format make one policy".to_owned());
        findings.problems.borrow_mut().push(Problem { place, message, help });
    }
    match format {
        Format::TerraformPlan => terraform::read(documents, half, findings),
        Format::Terraform => {
            // A state says one thing only.
            terraform::read(documents, Half::State, findings)
        }
        Format::CloudFormation => cloudformation::read(documents, given, findings),
        Format::Aws => aws::read(documents, &[], findings),
    }
}
