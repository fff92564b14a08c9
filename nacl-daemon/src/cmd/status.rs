//! `nacld status`.

use crate::{Exit, cli};

pub fn run(args: &cli::Status) -> anyhow::Result<Exit> {
    anyhow::bail!("under construction: {args:?}")
}
