//! `nacld top`.

use std::io::{self, IsTerminal as _};

use nacl_daemon::{
    service::client::Client,
    top::{self, Options},
};

use crate::{Exit, cli};

pub fn run(args: &cli::Top) -> anyhow::Result<Exit> {
    let (runtime, client) = (super::runtime()?, Client::new(&args.socket.socket));
    let screen = io::stdout().is_terminal();
    if args.once || !screen {
        // Asked of standard output alone: what goes into a pipe or a file is not made narrower.
        let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0);
        super::print(runtime.block_on(top::once(&client, args.interval, width))?)?;
        if !args.once {
            super::tell("hint: standard output is no terminal, so this is one frame; `--once` asks for it\n")?;
        }
        return Ok(Exit::Done);
    }
    let colour = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    runtime.block_on(top::run(client, Options { interval: args.interval, colour }))?;
    Ok(Exit::Done)
}
