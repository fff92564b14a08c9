//! `nacld import`.

use std::{fs, io, path::Path, sync::Arc};

use anyhow::{Context, bail};
use nacl_daemon::{
    files,
    import::{self, Document, Wanted, cloudformation::Parameters, terraform::Half, tree::Findings},
    inventory::{Inventory, write::Here},
    report::{self, import::Work},
};

use super::{print, tell};
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
            let given: Parameters = args.parameter.iter().cloned().collect();
            let inventory = import::cloudformation::read(&documents, &given, &findings);
            finish(inventory, findings, &args.to)
        }
    }
}

/// The policy, and what is told of it; or what is wrong with the documents.
fn finish(inventory: Inventory, findings: Findings, to: &cli::ImportTo) -> anyhow::Result<Exit> {
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
            let count = problems.len();
            bail!("nothing is imported: {count} {} wrong", if count == 1 { "thing is" } else { "things are" });
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
    let (file, bytes) = if path == Path::new("-") {
        ("<stdin>".to_owned(), files::bounded(io::stdin().lock()))
    } else {
        (path.display().to_string(), files::read(path))
    };
    let bytes = bytes.with_context(|| format!("cannot read {file}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        anyhow::anyhow!("{file}:{line}: this is not UTF-8 text")
    })?;
    // Some shells put a byte order mark before what they write to a file.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    Ok(Document { file: Arc::from(file.as_str()), text })
}
