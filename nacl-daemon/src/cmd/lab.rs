//! `nacld lab`.

use crate::{Exit, cli};

pub fn run(args: &cli::Lab) -> anyhow::Result<Exit> {
    anyhow::bail!("under construction: {args:?}")
}
