//! `nacld mode`.

use nacl_daemon::{
    report,
    service::{api::SetMode, client::Client},
};

use crate::{Exit, cli};

pub fn run(args: &cli::Mode) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    let client = Client::new(&args.socket.socket);
    let enforce = (args.monitor || args.enforce).then_some(args.enforce);
    let set =
        SetMode { mode: args.mode.map(Into::into), layers: args.layers.map(Into::into), enforce, force: args.force };
    let changes = SetMode { force: false, ..set } != SetMode::default();
    match &args.interface {
        Some(interface) if changes => {
            let modes = runtime.block_on(client.set_mode(interface, &set))?;
            if args.json {
                super::print(report::json::pretty(&modes)?)
            } else {
                super::say(report::status::set(&modes))
            }
        }
        interface => {
            let modes = runtime.block_on(client.modes(interface.as_deref()))?;
            if args.json {
                super::print(report::json::pretty(&modes)?)
            } else {
                super::say(report::status::modes(&modes.interfaces))
            }
        }
    }?;
    Ok(Exit::Done)
}
