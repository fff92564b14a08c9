//! `nacld run`.

use nacl_daemon::{
    report::status,
    service::{
        plane::Kernel,
        serve::{self, Config, Ended, Notice},
        state::chain,
    },
};

use crate::{Exit, cli};

pub fn run(args: &cli::Run) -> anyhow::Result<Exit> {
    let config = Config {
        file: args.config.clone(),
        socket: args.socket.socket.clone(),
        lifetime: args.lifetime,
        force: args.force,
        trace: args.trace,
        watch: args.watch,
    };
    // Ctrl-C is the ordinary way to end a daemon in a terminal, so it is no failure.
    let _ended: Ended = super::runtime()?.block_on(serve::run(config, Box::new(Kernel), Box::new(tell)))?;
    Ok(Exit::Done)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape the library calls")]
fn tell(notice: Notice) {
    let told = match notice {
        Notice::Diagnostics(diagnostics) => super::tell(&diagnostics.coloured),
        Notice::Ready { status, socket, lifetime } => super::print(status::ready(status, socket, lifetime)),
        Notice::Reloaded(change) => super::print(status::changed(change)),
        Notice::Set(modes) => super::print(status::set(modes)),
        Notice::NotReloaded(error) => super::tell(status::not_reloaded(&chain(error), error.hint().as_deref())),
        Notice::Record(record) => super::print(status::record(record)),
        Notice::Missed(count) => super::tell(format!("{count} packets were not shown: too many at once\n")),
        Notice::Ended { why, interfaces } => {
            let why = match why {
                Ended::Interrupted => "interrupted",
                Ended::Terminated => "terminated",
                Ended::TimeOver => "time is over",
                Ended::Asked => "asked to end",
            };
            super::print(status::ended(why, interfaces))
        }
    };
    if let Err(error) = told {
        // A daemon goes on enforcing when nobody reads what it prints.
        tracing::debug!("cannot print: {error}");
    }
}
