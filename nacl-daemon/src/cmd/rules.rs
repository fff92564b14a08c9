//! `nacld rules`.

use std::{collections::BTreeMap, io::IsTerminal as _, path::Path, thread::sleep, time::Duration};

use nacl_daemon::{
    observe::{InterfaceRules, Setting, interface_rules},
    report,
    resolve::{Interface, NoHost},
    service::{api::Rules, client::Client},
};

use super::policy::usable;
use crate::{Exit, cli};

const CLEAR: &str = "\x1b[H\x1b[2J";

pub fn run(args: &cli::Rules) -> anyhow::Result<Exit> {
    if let Some(file) = &args.config {
        show(args, &offline(file, args)?, &[])?;
        return Ok(Exit::Done);
    }
    let runtime = super::runtime()?;
    let client = Client::new(&args.socket.socket);
    let mut before: Vec<InterfaceRules> = Vec::new();
    loop {
        let Rules { interfaces } = runtime.block_on(client.rules(args.which.interface()))?;
        show(args, &interfaces, &before)?;
        if !args.watch {
            return Ok(Exit::Done);
        }
        before = interfaces;
        sleep(Duration::from_secs(1));
    }
}

fn offline(file: &Path, args: &cli::Rules) -> anyhow::Result<Vec<InterfaceRules>> {
    let resolved = usable(file, &args.parameters.given(), &NoHost)?;
    let rules = |name: &str, held: &Interface| interface_rules(name, held, Setting::of(held), None, None);
    let interface = args.which.interface();
    if interface.is_some() {
        let place = resolved.named_interface(interface)?;
        return Ok(vec![rules(&place.name, &place.interface)]);
    }
    // Without interfaces there is still each list to show.
    let alone = if resolved.interfaces.is_empty() { resolved.standing_alone() } else { BTreeMap::new() };
    Ok(resolved.interfaces.iter().chain(&alone).map(|(name, held)| rules(name, held)).collect())
}

fn show(args: &cli::Rules, interfaces: &[InterfaceRules], before: &[InterfaceRules]) -> anyhow::Result<()> {
    if args.json {
        return Ok(super::print(report::json::pretty(&Rules { interfaces: interfaces.to_vec() })?)?);
    }
    let mut text = String::new();
    if args.watch && std::io::stdout().is_terminal() {
        text.push_str(CLEAR);
    }
    let width = super::width();
    for rules in interfaces {
        let before = before.iter().find(|before| before.interface == rules.interface);
        text.push_str(&report::rules::text(rules, before, width));
    }
    Ok(super::print(text)?)
}
