//! `nacld lab`.

use std::{
    io::{self, IsTerminal as _},
    os::unix::process::CommandExt,
};

use anyhow::Context as _;
use nacl_daemon::{
    lab::{Level, demo, file, hold, net, run as runner, show},
    resolve::Mode,
};

use super::print;
use crate::{
    Exit,
    cli::{self, LabLevel, LabMode, LabVerb},
};

pub fn run(args: &cli::Lab) -> anyhow::Result<Exit> {
    // What a crash left goes first, whatever is asked for; who may not remove it has not made it either.
    if nix::unistd::geteuid().is_root() {
        for left in hold::sweep() {
            tracing::warn!(what = %left, "removed what a crash had left");
        }
    }
    let result = verb(&args.verb);
    net::leave_to_signals();
    result
}

fn verb(verb: &LabVerb) -> anyhow::Result<Exit> {
    match verb {
        LabVerb::List { json } => list(*json),
        LabVerb::Run { labs, all, level, mode, json } => run_labs(labs, *all, level, *mode, *json),
        LabVerb::Up { lab } => {
            print(show::welcome(&hold::up(lab)?))?;
            Ok(Exit::Done)
        }
        LabVerb::Shell { lab, host, command } => {
            let error = hold::find(lab)?.command(host, command)?.exec();
            Err(error).context("running ip netns exec")
        }
        LabVerb::Status { lab, json } => status(lab.as_deref(), *json),
        LabVerb::Reload { lab } => {
            let answer = hold::find(lab)?.reload()?;
            print(&answer.text)?;
            Ok(if answer.ok { Exit::Done } else { Exit::Failed })
        }
        LabVerb::Hint { lab } => hint(lab),
        LabVerb::Verify { lab, json } => {
            let answer = hold::find(lab)?.verify()?;
            if *json {
                print(format!("{}\n", serde_json::json!({ "schema": 1, "ok": answer.ok, "report": answer.report })))?;
            } else {
                print(&answer.text)?;
            }
            Ok(if answer.ok { Exit::Done } else { Exit::Unexpected })
        }
        LabVerb::Solution { lab } => {
            print(show::solution(&file::load(lab)?))?;
            Ok(Exit::Done)
        }
        LabVerb::Down { lab, .. } => down(lab.as_deref()),
        LabVerb::Demo { no_wait } => demo(*no_wait),
        LabVerb::Hold { lab } => {
            hold::hold(lab)?;
            Ok(Exit::Done)
        }
    }
}

fn list(json: bool) -> anyhow::Result<Exit> {
    let labs = file::all()?;
    if json {
        let labs: Vec<_> = labs
            .iter()
            .map(|lab| {
                serde_json::json!({
                    "name": lab.name,
                    "title": lab.title,
                    "levels": lab.levels(),
                    "hooks": lab.hooks,
                    "security_groups": lab.has_groups(),
                    "memory_matters": lab.memory_matters(),
                })
            })
            .collect();
        print(format!("{}\n", serde_json::json!({ "schema": 1, "labs": labs })))?;
    } else {
        print(show::list(&labs))?;
    }
    Ok(Exit::Done)
}

fn run_labs(names: &[String], all: bool, levels: &[LabLevel], mode: LabMode, json: bool) -> anyhow::Result<Exit> {
    let labs = if all { file::all()? } else { names.iter().map(|name| file::load(name)).collect::<Result<_, _>>()? };
    let levels: Vec<Level> = levels
        .iter()
        .map(|level| match level {
            LabLevel::Host => Level::Host,
            LabLevel::Kernel => Level::Kernel,
            LabLevel::Wire => Level::Wire,
        })
        .collect();
    let modes: &[Mode] = match mode {
        LabMode::Stateless => &[Mode::Stateless],
        LabMode::Stateful => &[Mode::Stateful],
        LabMode::Both => &[Mode::Stateless, Mode::Stateful],
    };
    if levels.contains(&Level::Wire) {
        net::clean_up_on_signals(|| ()).context("watching for signals")?;
    }
    let mut printed = Ok(());
    let run = runner::run(&labs, &levels, modes, |lab, report| {
        if !json && printed.is_ok() {
            printed = print(show::lab_report(lab, report));
        }
    })?;
    printed?;
    if json {
        print(format!("{}\n", serde_json::to_string_pretty(&run)?))?;
    } else {
        print(show::summary(&run))?;
    }
    Ok(if run.ok { Exit::Done } else { Exit::Unexpected })
}

fn status(lab: Option<&str>, json: bool) -> anyhow::Result<Exit> {
    if let Some(lab) = lab {
        let held = hold::find(lab)?;
        let answer = held.status()?;
        if json {
            let name = &held.lab.name;
            let policy = held.policy();
            print(format!(
                "{}\n",
                serde_json::json!({ "schema": 1, "lab": name, "pid": held.owner.pid, "policy": policy, "report": answer.report })
            ))?;
        } else {
            print(&answer.text)?;
        }
        return Ok(if answer.ok { Exit::Done } else { Exit::Failed });
    }
    hold::visible()?;
    let held = hold::held();
    if json {
        let labs: Vec<_> = held
            .iter()
            .map(|held| serde_json::json!({ "lab": held.lab.name, "pid": held.owner.pid, "policy": held.policy() }))
            .collect();
        print(format!("{}\n", serde_json::json!({ "schema": 1, "up": labs })))?;
    } else {
        print(show::up(&held))?;
    }
    Ok(Exit::Done)
}

fn hint(name: &str) -> anyhow::Result<Exit> {
    let lab = file::load(name).or_else(|error| hold::find(name).map(|held| held.lab).map_err(|_| error))?;
    let text = match hold::find(name) {
        Ok(held) => {
            let (number, hint) = held.hint()?;
            show::hint(&lab, number, hint)
        }
        // Nobody counts hints of a lab that is not up.
        Err(_) => lab.hints.iter().enumerate().map(|(index, hint)| show::hint(&lab, index + 1, hint)).collect(),
    };
    print(text)?;
    Ok(Exit::Done)
}

fn down(name: Option<&str>) -> anyhow::Result<Exit> {
    let held = if let Some(name) = name {
        vec![hold::find(name)?]
    } else {
        hold::visible()?;
        hold::held()
    };
    for held in held {
        held.down()?;
        print(format!("{} is down\n", held.lab.name))?;
    }
    Ok(Exit::Done)
}

/// Somebody at a terminal, or a file.
struct Terminal {
    waits: bool,
}

impl demo::Audience for Terminal {
    fn show(&mut self, text: &str) -> io::Result<()> {
        print(text)
    }

    fn wait(&mut self, prompt: &str) -> io::Result<Option<String>> {
        if !self.waits {
            return Ok(None);
        }
        print(format!("   {prompt}"))?;
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer)?;
        // The end of the input is nobody who could answer once more.
        self.waits = read > 0;
        Ok(Some(answer.trim().into()))
    }
}

fn demo(no_wait: bool) -> anyhow::Result<Exit> {
    net::clean_up_on_signals(|| ()).context("watching for signals")?;
    let waits = !no_wait && io::stdin().is_terminal() && io::stdout().is_terminal();
    let surprises = demo::run(&mut Terminal { waits })?;
    Ok(if surprises.is_empty() { Exit::Done } else { Exit::Unexpected })
}
