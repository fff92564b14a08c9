//! `nacld rules`.

use crate::{Exit, cli};

pub fn run(args: &cli::Rules) -> anyhow::Result<Exit> {
    anyhow::bail!("under construction: {args:?}")
}
