//! `nacld flows`.

use std::{collections::HashSet, thread::sleep, time::Duration};

use nacl_daemon::{
    observe::FlowRecord,
    report,
    service::{api::Flows, client::Client},
};

use crate::{Exit, cli};

pub fn run(args: &cli::Flows) -> anyhow::Result<Exit> {
    let runtime = super::runtime()?;
    let client = Client::new(&args.socket.socket);
    let format = args.format.clone().unwrap_or_default();
    let mut shown: HashSet<FlowRecord> = HashSet::new();
    let mut begun = false;
    loop {
        let answer: Flows = runtime.block_on(client.flows(args.which.interface()))?;
        if args.json {
            super::print(report::json::pretty(&answer)?)?;
            return Ok(Exit::Done);
        }
        if answer.interfaces.iter().all(|interface| interface.flow_log.is_none()) {
            super::tell(report::flowlog::OFF)?;
            return Ok(Exit::Failed);
        }
        let records: Vec<_> = answer.interfaces.into_iter().flat_map(|interface| interface.records).collect();
        let new: Vec<_> = records.iter().filter(|record| !shown.contains(record)).cloned().collect();
        super::print(report::flowlog::table(&new, &format, !begun))?;
        if !args.follow {
            return Ok(Exit::Done);
        }
        (begun, shown) = (true, records.into_iter().collect());
        sleep(Duration::from_secs(1));
    }
}
