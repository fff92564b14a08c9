//! `nacld watch`.

use std::{future::pending, time::Duration};

use nacl_daemon::{
    report,
    service::client::{Client, Told, Watch},
};
use serde_json::json;
use tokio::time::{interval, sleep};

use crate::{Exit, cli};

/// How often it is asked what could not be reported.
const ASK: Duration = Duration::from_secs(2);

pub fn run(args: &cli::Watch) -> anyhow::Result<Exit> {
    super::runtime()?.block_on(follow(args))?;
    Ok(Exit::Done)
}

async fn follow(args: &cli::Watch) -> anyhow::Result<()> {
    let client = Client::new(&args.socket.socket);
    let interface = args.interface.as_deref();
    let mut watch: Watch = client.watch(interface, &args.filter).await?;
    let mut suppressed = suppressed_so_far(&client, interface).await?;
    let mut ask = interval(ASK);
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
            _ = ask.tick() => {
                // It may have ended in between, which the stream tells.
                let Ok(now) = suppressed_so_far(&client, interface).await else { continue };
                tell_suppressed(args, now.saturating_sub(suppressed))?;
                suppressed = now;
            }
            told = watch.next() => {
                let Some((line, told)) = told? else {
                    super::tell("nacld has ended\n")?;
                    return Ok(());
                };
                if matches!(told, Told::Record(_) | Told::Broken { .. }) {
                    left = left.map(|left| left - 1);
                }
                super::print(match told {
                    _ if args.json => line + "\n",
                    Told::Record(record) => report::watch::record(&record),
                    Told::Broken { broken } => report::broken::found(&broken),
                    Told::Missed { missed } => report::watch::missed(0, missed),
                })?;
            }
        }
    }
    let now = suppressed_so_far(&client, interface).await.unwrap_or(suppressed);
    tell_suppressed(args, now.saturating_sub(suppressed))
}

fn tell_suppressed(args: &cli::Watch, suppressed: u64) -> anyhow::Result<()> {
    if suppressed == 0 {
        return Ok(());
    }
    let json = || format!("{}\n", json!({"schema": 1, "suppressed": suppressed}));
    Ok(super::print(if args.json { json() } else { report::watch::missed(suppressed, 0) })?)
}

/// Events that were not taken since the programs were attached.
async fn suppressed_so_far(client: &Client, interface: Option<&str>) -> anyhow::Result<u64> {
    let rules = client.rules(interface).await?;
    Ok(rules.interfaces.iter().map(|rules| rules.events_suppressed).sum())
}
