//! `nacld import`.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use nacl_daemon::{
    import::{self, Document, Wanted, terraform::Half, tree::Findings},
    inventory::{Because, Inventory, Note, Place, write::Here},
    report::{self, count_of, import::Work},
};

use super::{policy::Source, print, tell};
use crate::{Exit, cli};

pub fn run(args: &cli::Import) -> anyhow::Result<Exit> {
    let findings = Findings::default();
    match &args.from {
        cli::ImportFrom::Aws(args) => {
            let documents = documents(args.files.iter().map(AsRef::as_ref))?;
            let lists = documents_of(&args.prefix_list)?;
            let inventory = import::aws::read(&documents, &lists, &findings);
            finish(inventory, findings, &args.to)
        }
        cli::ImportFrom::Terraform(args) => {
            let documents = documents(args.files.iter().map(AsRef::as_ref))?;
            let half = if args.prior { Half::Prior } else { Half::Planned };
            let inventory = import::terraform::read(&documents, half, &findings);
            finish(inventory, findings, &args.to)
        }
        cli::ImportFrom::Cloudformation(args) => {
            let documents = documents(args.files.iter().map(AsRef::as_ref))?;
            let inventory = import::cloudformation::read(&documents, &args.parameters.given(), &findings);
            finish(inventory, findings, &args.to)
        }
    }
}

/// The policy, and what is told of it; or what is wrong with the documents.
fn finish(mut inventory: Inventory, findings: Findings, to: &cli::ImportTo) -> anyhow::Result<Exit> {
    if inventory.is_empty() {
        let place = Place { file: "".into(), path: String::new(), line: None };
        let message = "there is no network in these documents: the policy says nothing".to_owned();
        inventory.notes.push(Note { because: Because::NotHere, place, message });
    }
    let here = to.interface.iter().map(|(device, of)| Here { device: device.clone(), of: of.clone() });
    let wanted = Wanted { vpcs: to.vpc.clone(), here: here.collect() };
    match import::policy(inventory, findings, &wanted) {
        Ok(written) => {
            tell(report::import::notes(Work::Import, &written.notes))?;
            give(to.output.as_deref(), &written.policy)?;
            Ok(Exit::Done)
        }
        Err(problems) => {
            tell(report::import::problems(&problems))?;
            bail!("nothing is imported: {}", count_of(problems.len(), "problem"));
        }
    }
}

/// Text, where it is wanted.
pub fn give(output: Option<&Path>, text: &str) -> anyhow::Result<()> {
    match output {
        Some(path) => fs::write(path, text).with_context(|| format!("cannot write {}", path.display())),
        None => Ok(print(text)?),
    }
}

/// Documents, each with the list it is of.
fn documents_of(lists: &[(String, String)]) -> anyhow::Result<Vec<(String, Document)>> {
    let found = documents(lists.iter().map(|(_, file)| Path::new(file)))?;
    Ok(lists.iter().map(|(list, _)| list.clone()).zip(found).collect())
}

/// Reads documents; all that cannot be read are told at once.
fn documents<'p>(paths: impl Iterator<Item = &'p Path>) -> anyhow::Result<Vec<Document>> {
    let mut found = Vec::new();
    let mut failed: Option<anyhow::Error> = None;
    for read in paths.map(document) {
        match read {
            Ok(document) => found.push(document),
            // The last one is told by whoever called.
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    crate::print_error(&earlier);
                }
            }
        }
    }
    failed.map_or(Ok(found), Err)
}

/// Reads a document, or standard input for `-`.
fn document(path: &Path) -> anyhow::Result<Document> {
    Source::read(path)?.into_document().map_err(|problem| {
        let help = problem.help.map(|help| format!(": {help}")).unwrap_or_default();
        anyhow::anyhow!("{}: {}{help}", problem.place, problem.message)
    })
}
