//! `nacld explain`.

use crate::{Exit, cli};

pub fn run(args: &cli::Explain) -> anyhow::Result<Exit> {
    anyhow::bail!("under construction: {args:?}")
}
