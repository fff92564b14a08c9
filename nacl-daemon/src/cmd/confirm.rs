//! `nacld confirm`.

use nacl_daemon::{report::status, service::client::Client};

use crate::{Exit, cli};

pub fn run(args: &cli::Confirm) -> anyhow::Result<Exit> {
    let done = super::runtime()?.block_on(Client::new(&args.socket.socket).confirm())?;
    super::say(status::confirmed(&done.policy, &done.problems))?;
    Ok(Exit::Done)
}
