//! `nacld detach`.

use nacl_daemon::{dataplane::Target, service::detach};

use crate::{Exit, cli};

pub fn run(args: &cli::Detach) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    let (socket, state) = (&args.socket.socket, &args.store.state);
    let (done, failed) = match &args.interface {
        None => runtime.block_on(detach::all(socket, state)),
        Some(name) => {
            let target = Target { name: name.clone(), netns: args.netns.clone() };
            (runtime.block_on(detach::one(&target, socket, state))?, Vec::new())
        }
    };
    for line in &done {
        super::print(format!("{line}\n"))?;
    }
    if done.is_empty() && failed.is_empty() {
        super::print("nothing of nacld was attached\n")?;
    }
    let count = failed.len();
    for error in failed {
        crate::print_error(&error.into());
    }
    Ok(if count == 0 { Exit::Done } else { Exit::Failed })
}
