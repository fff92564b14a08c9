//! `nacld conntrack`.

use nacl_daemon::{report, service::client::Client};

use crate::{Exit, cli};

pub fn run(args: &cli::Conntrack) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    let text = match &args.verb {
        cli::ConntrackVerb::List { interface, filter, json, socket } => {
            let asked = Client::new(&socket.socket);
            let answer = runtime.block_on(asked.connections(interface.as_deref(), &filter.into()))?;
            if *json { report::json::pretty(&answer)? } else { report::conntrack::list(&answer.connections) }
        }
        cli::ConntrackVerb::Flush { interface, filter, all, force, json, socket } => {
            let asked = Client::new(&socket.socket);
            let answer = runtime.block_on(asked.flush(interface.as_deref(), &filter.into(), *all, *force))?;
            if *json { report::json::pretty(&answer)? } else { report::conntrack::forgotten(&answer.interfaces) }
        }
        cli::ConntrackVerb::Stats { interface, json, socket } => {
            let asked = Client::new(&socket.socket);
            let answer = runtime.block_on(asked.connection_stats(interface.as_deref()))?;
            if *json { report::json::pretty(&answer)? } else { report::conntrack::stats(&answer.interfaces) }
        }
    };
    super::print(text)?;
    Ok(Exit::Done)
}
