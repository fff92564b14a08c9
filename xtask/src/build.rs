//! `cargo xtask build`: nacld with its kernel programs embedded.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use serde_json::Value;

use crate::{
    setup::{self, Ready},
    shell::{cargo, execute, say, target},
};

/// The package that the kernel programs are embedded in.
pub const PACKAGE: &str = "nacl-daemon";
/// Its feature for what is run as root: tests and the benchmark.
pub const KERNEL_TESTS: &str = "kernel-tests";

#[derive(ClapArgs)]
pub struct Args {
    /// Optimise
    #[arg(long)]
    pub release: bool,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    let ready = setup::ensure()?;
    println!("{}", build(&ready, args.release)?.display());
    Ok(())
}

/// Builds the binary and returns where it is.
pub fn build(ready: &Ready, release: bool) -> Result<PathBuf> {
    say("building nacld and its kernel programs (a minute or two the first time)");
    let mut command = cargo();
    command.args(["build", "--package", PACKAGE, "--bin", "nacld", "--features", "kernel"]);
    if release {
        command.arg("--release");
    }
    execute(with_kernel(&mut command, ready))?;
    Ok(target().join(if release { "release" } else { "debug" }).join("nacld"))
}

/// Tells nacl-daemon/build.rs how the kernel programs are built. The feature `kernel` keeps that build apart from the
/// plain one, so that going back and forth between the two rebuilds nothing.
pub fn with_kernel<'a>(command: &'a mut Command, ready: &Ready) -> &'a mut Command {
    command
        .env("NACLD_EBPF_TOOLCHAIN", &ready.toolchain)
        .env("NACLD_EBPF_LINKER", &ready.linker)
        .env("NACLD_EBPF_LLVM", &ready.llvm)
}

/// Builds, and says where the program of one target is. `kind`: as cargo calls it.
pub fn executable(command: &mut Command, kind: &str, wanted: &str) -> Result<PathBuf> {
    let built = executables(command, &[kind])?;
    let found = built.into_iter().find_map(|(name, file)| (name == wanted).then_some(file));
    found.with_context(|| format!("no {wanted} was built"))
}

/// Builds as this user what is to be run as root, and says where it is: cargo itself never runs as root. `kinds`: kinds of
/// targets, as cargo calls them.
pub fn executables(command: &mut Command, kinds: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    command.args(["--message-format", "json-render-diagnostics"]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut found = Vec::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let message: Value = serde_json::from_str(&line?).context("cargo's messages")?;
        if message["reason"] == "compiler-artifact"
            && kinds.iter().any(|kind| message["target"]["kind"][0] == *kind)
            && let (Some(name), Some(file)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            found.push((name.to_owned(), PathBuf::from(file)));
        }
    }
    if !child.wait()?.success() {
        bail!("it does not build");
    }
    found.sort();
    Ok(found)
}
