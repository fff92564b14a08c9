//! `cargo xtask demo`: the quiz, run by nacld itself.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;

use crate::{
    build, setup,
    shell::{as_root, find, is_root, say},
};

#[derive(ClapArgs)]
pub struct Args {
    /// Passed on to `nacld lab demo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// The command. It becomes `nacld lab demo`.
pub fn run(args: &Args) -> Result<()> {
    let ready = setup::ensure()?;
    let nacld = build::build(&ready, false)?;
    let mut command = if !is_root() && find("sudo").is_none() {
        say("neither root nor sudo: no packet can be put on a wire, so the demo runs the same engine on paper");
        Command::new(&nacld)
    } else {
        as_root(&nacld, "the demo (network namespaces and kernel programs)")?
    };
    Err(command.args(["lab", "demo"]).args(&args.arguments).exec()).context("nacld lab demo")
}
