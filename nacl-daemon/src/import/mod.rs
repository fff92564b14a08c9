//! Documents of AWS's and of those who write them for AWS → [`Inventory`](crate::inventory::Inventory). One file or room a
//! format; `tree` is how all of them read, `term`, `traffic` and `assemble` what those share that are written to make things.
//! Files are read by whoever calls, and no policy is written here.

mod any;
mod assemble;
pub mod aws;
pub mod cloudformation;
mod format;
mod term;
pub mod terraform;
mod traffic;
pub mod tree;

use std::sync::Arc;

use self::tree::Findings;
pub use self::{
    any::policy_of,
    format::{Format, sniff},
};
use crate::{
    inventory::{
        Inventory, Place,
        write::{self, Here, Written},
    },
    policy::{self, Severity},
    resolve::NoHost,
};

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file, as it is named in messages.
    pub file: Arc<str>,
    /// What stands in it.
    pub text: String,
}

impl Document {
    /// A file's bytes as a document.
    ///
    /// # Errors
    /// They are no text: where not.
    pub fn decode(file: &str, bytes: Vec<u8>) -> Result<Self, Problem> {
        let file: Arc<str> = Arc::from(file);
        match String::from_utf8(bytes) {
            Ok(text) => {
                // Some shells put a byte order mark before what they write to a file.
                let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
                Ok(Self { file, text })
            }
            Err(error) => {
                let bytes = error.as_bytes();
                let before = &bytes[..error.utf8_error().valid_up_to()];
                let line = u32::try_from(before.split(|byte| *byte == b'\n').count()).ok();
                // What PowerShell 5 writes.
                let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
                let help =
                    if utf16 { "this looks like UTF-16: save the file as UTF-8" } else { "save the file as UTF-8" };
                let place = Place { file, path: String::new(), line };
                Err(Problem { place, message: "this is not UTF-8 text".to_owned(), help: Some(help.to_owned()) })
            }
        }
    }
}

/// Something that is wrong with a document. One that has any cannot be imported; all of them are told at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Which part of what was read becomes a policy.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only these VPCs, by id or name; empty: all.
    pub vpcs: Vec<String>,
    /// What is put on interfaces of this machine.
    pub here: Vec<Here>,
}

/// What a format's reader found → a policy.
///
/// # Errors
/// Everything that is wrong with the documents, or with what is wanted of them.
pub fn policy(mut inventory: Inventory, findings: Findings, wanted: &Wanted) -> Result<Written, Vec<Problem>> {
    let mut problems = findings.problems.into_inner();
    inventory.notes.extend(findings.notes.into_inner());
    let argument = |name: &str| Place { file: Arc::from(name), path: String::new(), line: None };
    if !wanted.vpcs.is_empty() {
        for (vpc, known) in inventory.only(&wanted.vpcs) {
            let message = format!("the documents tell of no VPC {vpc:?}");
            let help = if known.is_empty() { None } else { Some(format!("VPCs there are: {}", known.join(", "))) };
            problems.push(Problem { place: argument("--vpc"), message, help });
        }
    }
    let written = write::write(inventory, &wanted.here).map_err(|errors| {
        let wrong = |error: write::HereError| Problem {
            place: argument("--interface"),
            message: error.to_string(),
            help: error.hint(),
        };
        errors.into_iter().map(wrong).collect::<Vec<_>>()
    });
    match written {
        // With something missing, what is wanted of it may be missing too.
        Err(more) => problems.extend(more),
        Ok(written) if problems.is_empty() => {
            problems.extend(contradictions(&written.policy));
            if problems.is_empty() {
                return Ok(written);
            }
        }
        Ok(_) => {}
    }
    problems.sort();
    problems.dedup();
    Err(problems)
}

/// What the documents say that no VPC can be: subnets that overlap, addresses outside their subnet. Told in the words of the policy
/// it would be.
fn contradictions(text: &str) -> Vec<Problem> {
    let outcome = policy::load("policy", text, &NoHost);
    let errors = outcome.diagnostics.into_iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
    let problem = |diagnostic: policy::Diagnostic| Problem {
        place: Place { file: Arc::from("the documents together"), path: diagnostic.code.to_owned(), line: None },
        message: diagnostic.message,
        help: diagnostic.help,
    };
    errors.map(problem).collect()
}
