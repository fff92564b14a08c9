//! `nacld completions`: a completion script for a shell.

use clap::CommandFactory;

use crate::{
    Exit,
    cli::{self, Cli},
};

pub fn run(args: &cli::Completions) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nacld", &mut script);
    super::print(String::from_utf8(script)?)?;
    Ok(Exit::Done)
}
