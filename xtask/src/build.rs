//! `cargo xtask build`: nacld with its kernel programs embedded.

use std::{path::PathBuf, process::Command};

use anyhow::Result;
use clap::Args as ClapArgs;

use crate::{
    setup::{self, Ready},
    shell::{cargo, execute, say, target},
};

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
    command.args(["build", "--package", "nacl-daemon", "--bin", "nacld", "--features", "kernel"]);
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
