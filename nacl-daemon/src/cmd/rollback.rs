//! `nacld rollback`.

use nacl_daemon::{report::status, service::client::Client};

use crate::{Exit, cli};

pub fn run(args: &cli::Rollback) -> anyhow::Result<Exit> {
    let done = super::runtime()?.block_on(Client::new(&args.socket.socket).roll_back())?;
    super::say(status::rolled_back(done.policy.as_ref(), &done.problems))?;
    Ok(Exit::Done)
}
