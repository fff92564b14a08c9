//! `nacld mode`.

use nacl_daemon::{
    report,
    service::{
        api::{AllModes, SetMode},
        client::Client,
    },
};

use crate::{Exit, cli};

pub fn run(args: &cli::Mode) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    let client = Client::new(&args.socket.socket);
    let (mode, layers) = (args.mode.map(Into::into), args.layers.map(Into::into));
    let text = match &args.interface {
        Some(interface) if mode.is_some() || layers.is_some() => {
            let set = SetMode { mode, layers, force: args.force };
            let modes = runtime.block_on(client.set_mode(interface, &set))?;
            if args.json { report::json::pretty(&modes)? } else { report::status::set(&modes) }
        }
        interface => {
            let AllModes { interfaces } = runtime.block_on(client.modes(interface.as_deref()))?;
            if args.json { report::json::pretty(&AllModes { interfaces })? } else { report::status::modes(&interfaces) }
        }
    };
    super::print(text)?;
    Ok(Exit::Done)
}
