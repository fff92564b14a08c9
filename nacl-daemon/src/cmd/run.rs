//! `nacld run`.

use crate::{Exit, cli};

pub fn run(args: &cli::Run) -> anyhow::Result<Exit> {
    anyhow::bail!("under construction: {args:?}")
}
