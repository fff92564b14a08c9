//! `nacld doctor`.

use nacl_daemon::{
    doctor::{
        facts::{Asked, Facts, Policy},
        judge,
    },
    policy::Severity,
    report,
    service::host::Kernel,
};

use super::policy;
use crate::{Exit, cli};

/// Where the output is no terminal.
const WIDTH: usize = 120;

pub fn run(args: &cli::Doctor) -> anyhow::Result<Exit> {
    let policy = args.config.as_ref().map(|file| -> anyhow::Result<Policy> {
        let loaded = policy::load(file, &args.parameters.given(), &Kernel)?;
        loaded.show_notes()?;
        let errors = loaded.outcome.count(Severity::Error);
        Ok(Policy { file: file.clone(), resolved: loaded.outcome.resolved.ok_or(errors) })
    });
    let asked = Asked {
        interfaces: args.interfaces.clone(),
        netns: args.netns.clone(),
        policy: policy.transpose()?,
        state: args.store.state.clone(),
    };
    let diagnosis = judge(&Facts::gather(&asked));
    let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0));
    super::print(if args.json { report::json::pretty(&diagnosis)? } else { report::doctor::text(&diagnosis, width) })?;
    Ok(if diagnosis.problems == 0 { Exit::Done } else { Exit::Failed })
}
