//! `nacld rules`.

use std::{io::IsTerminal as _, thread::sleep, time::Duration};

use nacl_daemon::{
    observe::{InterfaceRules, Setting, interface_rules},
    report,
    resolve::{Interface, NoHost},
    service::{
        api::Rules,
        client::Client,
        prepare::{self, PrepareError},
    },
};

use crate::{Exit, cli};

const CLEAR: &str = "\x1b[H\x1b[2J";

pub fn run(args: &cli::Rules) -> anyhow::Result<Exit> {
    if let Some(file) = &args.config {
        show(args, &offline(file, args.which.interface())?, &[])?;
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

fn offline(file: &std::path::Path, interface: Option<&str>) -> anyhow::Result<Vec<InterfaceRules>> {
    let reading = prepare::read(file, &NoHost)?;
    let errors = reading.errors();
    let Some(resolved) = &reading.resolved else {
        super::tell(report::diagnostics::render_within(
            &file.display().to_string(),
            &reading.text,
            &reading.diagnostics,
            true,
            super::error_width(),
        ))?;
        return Err(PrepareError::Invalid { file: file.to_owned(), errors }.into());
    };
    if resolved.interfaces.is_empty() {
        return Err(PrepareError::NoInterface { file: file.to_owned() }.into());
    }
    let rules = |name: &str, held: &Interface| interface_rules(name, held, Setting::of(held), None, None);
    if interface.is_some() {
        let place = resolved.named_interface(interface)?;
        return Ok(vec![rules(&place.name, &place.interface)]);
    }
    Ok(resolved.interfaces.iter().map(|(name, held)| rules(name, held)).collect())
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
