//! `nacld watch`.

use std::future::pending;

use nacl_daemon::{
    report,
    service::client::{Client, Told, Watch},
};
use tokio::time::sleep;

use crate::{Exit, cli};

pub fn run(args: &cli::Watch) -> anyhow::Result<Exit> {
    super::runtime()?.block_on(follow(args))?;
    Ok(Exit::Done)
}

async fn follow(args: &cli::Watch) -> anyhow::Result<()> {
    let client = Client::new(&args.socket.socket);
    let mut watch: Watch = client.watch(args.interface.as_deref(), &args.filter).await?;
    let over = async {
        match args.lifetime {
            Some(lifetime) => sleep(lifetime).await,
            None => pending().await,
        }
    };
    tokio::pin!(over);
    let mut left = args.limit;
    while left != Some(0) {
        tokio::select! {
            biased;
            // The ordinary way to end it.
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                break;
            }
            () = &mut over => break,
            told = watch.next() => {
                let Some((line, told)) = told? else {
                    super::tell("nacld has ended\n")?;
                    return Ok(());
                };
                if matches!(told, Told::Record(_) | Told::Broken { .. }) {
                    left = left.map(|left| left - 1);
                }
                if args.json {
                    super::print(line + "\n")?;
                    continue;
                }
                super::say(match told {
                    Told::Record(record) => report::watch::record(&record),
                    Told::Broken { broken } => report::broken::found(&broken),
                    Told::Suppressed { suppressed } => report::watch::missed(suppressed, 0),
                    Told::Missed { missed } => report::watch::missed(0, missed),
                })?;
            }
        }
    }
    Ok(())
}
