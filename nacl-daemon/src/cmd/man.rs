//! `nacld man`: the manual pages.

use anyhow::Context;
use clap::CommandFactory;

use crate::{
    Exit,
    cli::{self, Cli},
};

pub fn run(args: &cli::Man) -> anyhow::Result<Exit> {
    if let Some(directory) = &args.directory {
        clap_mangen::generate_to(Cli::command(), directory)
            .with_context(|| format!("cannot write manual pages into {}", directory.display()))?;
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        super::print(String::from_utf8(page)?)?;
    }
    Ok(Exit::Done)
}
