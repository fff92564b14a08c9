//! `nacld reload`.

use crate::{Exit, cli};

pub fn run(args: &cli::Reload) -> anyhow::Result<Exit> {
    anyhow::bail!("under construction: {args:?}")
}
