//! `nacld check`.

use crate::{Exit, cli};

pub fn run(args: &cli::Check) -> anyhow::Result<Exit> {
    anyhow::bail!("under construction: {args:?}")
}
