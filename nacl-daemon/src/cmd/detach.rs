//! `nacld detach`.

use crate::{Exit, cli};

pub fn run(args: &cli::Detach) -> anyhow::Result<Exit> {
    anyhow::bail!("under construction: {args:?}")
}
