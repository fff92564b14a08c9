//! `nacld search`.

use std::collections::BTreeMap;

use nacl_daemon::{
    analyze::{self, Search, Searched},
    report::{self, regions::Place},
    resolve::{Interface, NoHost},
};

use super::{policy::usable, print, width};
use crate::{Exit, cli};

pub fn run(args: &cli::Search) -> anyhow::Result<Exit> {
    let policy = usable(&args.file, &args.parameters.given(), &NoHost)?;
    let search = Search {
        direction: args.direction.map(Into::into),
        remotes: args.remote.iter().map(|within| within.0.trunc()).collect(),
        protocols: args.protocol.iter().map(|protocol| protocol.0).collect(),
        ports: args.port.clone(),
        icmp: args.icmp.clone(),
        denied: args.denied,
        exempt: args.exempt,
    };
    // Without interfaces there is still each list to ask.
    let alone = if policy.interfaces.is_empty() { policy.standing_alone() } else { BTreeMap::new() };
    let place;
    let places: Vec<(&str, &Interface)> = if let Some(name) = &args.interface {
        place = policy.named_interface(Some(name))?;
        vec![(&*place.name, &*place.interface)]
    } else {
        let all = policy.interfaces.iter().chain(&alone);
        all.map(|(name, interface)| (name.as_str(), interface)).collect()
    };
    let mut searched: Vec<(&str, Searched)> = Vec::new();
    for (name, interface) in places {
        searched.push((name, analyze::search(interface, &search)?));
    }
    let file = policy.file.as_str();
    print(if args.json {
        format!("{:#}\n", report::search::json(file, &searched, args.denied))
    } else {
        let texts = searched.iter().map(|(interface, searched)| {
            report::search::text(Place { file, interface }, searched, args.denied, width())
        });
        texts.collect::<Vec<_>>().join("\n")
    })?;
    let found = searched.iter().any(|(_, searched)| !searched.found.is_empty());
    Ok(if found { Exit::Done } else { Exit::NothingFound })
}
