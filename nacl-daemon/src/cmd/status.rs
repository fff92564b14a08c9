//! `nacld status`.

use nacl_daemon::{report, service::client::Client};

use crate::{Exit, cli};

pub fn run(args: &cli::Status) -> anyhow::Result<Exit> {
    let status = super::runtime()?.block_on(Client::new(&args.socket.socket).status())?;
    if args.json {
        super::print(report::json::pretty(&status)?)?;
    } else {
        super::say(report::status::text(&status))?;
    }
    Ok(Exit::Done)
}
