//! `cargo xtask test`: every test there is, host level first, then kernel and wire level as root.

use anyhow::{Result, bail};
use clap::Args as ClapArgs;

#[derive(ClapArgs)]
pub struct Args {}

/// The command.
pub fn run(_: &Args) -> Result<()> {
    bail!("not yet")
}
