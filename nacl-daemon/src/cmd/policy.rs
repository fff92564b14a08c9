//! Policy files for the verbs that take one: reading, and showing what is wrong with them. Wiring only.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use nacl_daemon::{
    policy::{self, Outcome, Severity},
    report::diagnostics,
    resolve::{Host, Interface, Place, Resolved},
};

use crate::cli;

/// A policy file that could be read, whatever stands in it.
pub struct Loaded {
    pub file: String,
    pub text: String,
    pub outcome: Outcome,
}

/// Reads a policy file, or standard input for `-`. Fails only where the file cannot be read.
pub fn load(path: &Path, host: &dyn Host) -> anyhow::Result<Loaded> {
    let (file, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
        ("<stdin>".to_owned(), bytes)
    } else {
        let file = path.display().to_string();
        (file.clone(), fs::read(path).with_context(|| format!("cannot read {file}"))?)
    };
    let (text, outcome) = policy::load_bytes(&file, bytes, host);
    Ok(Loaded { file, text, outcome })
}

impl Loaded {
    /// Shows diagnostics up to a severity, on standard error.
    pub fn show(&self, least: Severity) -> io::Result<()> {
        let shown: Vec<_> =
            self.outcome.diagnostics.iter().filter(|diagnostic| diagnostic.severity <= least).cloned().collect();
        // The stream takes the colour out again where it is not wanted.
        let text = diagnostics::render(&self.file, &self.text, &shown, true);
        anstream::stderr().lock().write_all(text.as_bytes())
    }
}

/// For verbs that need a policy they can use: shows errors and warnings, and fails on errors.
pub fn usable(path: &Path, host: &dyn Host) -> anyhow::Result<Resolved> {
    let loaded = load(path, host)?;
    loaded.show(Severity::Warning)?;
    loaded.outcome.resolved.ok_or_else(|| {
        let tally = diagnostics::tally(&loaded.outcome.diagnostics);
        anyhow::anyhow!("{} cannot be used: {tally}", loaded.file)
    })
}

/// As [`usable`], of several documents that make one policy.
pub fn usable_of(paths: &[PathBuf], host: &dyn Host) -> anyhow::Result<Resolved> {
    match paths {
        [path] => usable(path, host),
        _ => anyhow::bail!("a policy is one file"),
    }
}

/// The interface that was asked about, with the mode and layers that were asked about, and its name in the policy.
pub fn what_if(
    policy: &Resolved,
    name: Option<&str>,
    mode: Option<cli::ModeName>,
    layers: Option<cli::LayersName>,
) -> anyhow::Result<(String, Interface)> {
    let Place { name, interface, unknown } = policy.named_interface(name)?;
    for what in unknown {
        tracing::warn!("not judged at {name} is {what}");
    }
    let mut interface = interface.into_owned();
    interface.mode = mode.map_or(interface.mode, Into::into);
    interface.layers = layers.map_or(interface.layers, Into::into);
    if layers == Some(cli::LayersName::Sg) && interface.groups.is_none() {
        anyhow::bail!(
            "interface {name} has no security groups that could judge: give it some, `security_groups = [\"NAME\"]`"
        );
    }
    Ok((name.into_owned(), interface))
}
