//! `nacld reload`.

use std::time::Duration;

use nacl_daemon::{report, service::client::Client};

use crate::{Exit, cli};

pub fn run(args: &cli::Reload) -> anyhow::Result<Exit> {
    let answer = super::runtime()?.block_on(Client::new(&args.socket.socket).reload(args.force, args.confirm));
    if let Err(nacl_daemon::service::client::ClientError::Refused(problem)) = &answer {
        super::tell(&problem.diagnostics)?;
    }
    let answer = answer?;
    super::tell(&answer.diagnostics)?;
    let pending = answer.pending.map(|pending| Duration::from_secs(pending.seconds_left));
    super::say(report::status::changed(&answer.change, pending))?;
    if let Some(findings) = &answer.findings {
        super::tell(report::layout::fit(&report::status::findings(findings), super::error_width()))?;
    }
    Ok(Exit::Done)
}
