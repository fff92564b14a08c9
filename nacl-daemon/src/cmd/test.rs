//! `nacld test`.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail};
use nacl_daemon::{
    lab::{Level, net},
    policy::Diagnostic,
    report::{
        count_of, diagnostics,
        testing::{self as report, Told},
    },
    resolve::{NoHost, Resolved},
    testing::{self, Plan, Run, Suite},
};

use super::{misuse, policy, print, tell};
use crate::{
    Exit,
    cli::{self, LabLevel, TestFormat},
};

/// A test file with its policy.
struct Ready {
    suite: Suite,
    policy: Resolved,
    plans: Vec<Plan>,
}

pub fn run(args: &cli::Test) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let level = match args.level {
        LabLevel::Host => Level::Host,
        LabLevel::Kernel => Level::Kernel,
        LabLevel::Wire => Level::Wire,
    };
    // Everything that is wrong with any file is shown before anything is run.
    let mut ready = Vec::new();
    let mut failed = Vec::new();
    for path in &args.files {
        match prepare(args, path) {
            Ok(one) => ready.push(one),
            Err(error) => failed.push(error),
        }
    }
    if let Some(last) = failed.pop() {
        for error in &failed {
            crate::print_error(error);
        }
        return Err(last);
    }
    if ready.iter().all(|one| one.plans.is_empty()) {
        misuse!("no test has {:?} in its name", args.filter.as_deref().unwrap_or_default());
    }
    if level == Level::Wire {
        net::clean_up_on_signals(|| ()).context("watching for signals")?;
    }
    let result = tested(args, level, &ready);
    net::leave_to_signals();
    let runs = result?;
    let told: Vec<Told<'_>> =
        ready.iter().zip(&runs).map(|(Ready { suite, policy, .. }, run)| Told { suite, policy, run }).collect();
    let format = if args.json { TestFormat::Json } else { args.format };
    print(match format {
        TestFormat::Text => report::text(&told, start.elapsed(), args.show_held),
        TestFormat::Json => format!("{:#}\n", report::json(&told)),
        TestFormat::Tap => report::tap(&told),
        TestFormat::Junit => report::junit(&told, start.elapsed()).context("writing JUnit XML")?,
    })?;
    let tally = runs.iter().fold(testing::Tally::default(), |tally, run| tally.and(run.tally()));
    Ok(if tally.ok() { Exit::Done } else { Exit::Unexpected })
}

fn tested(args: &cli::Test, level: Level, ready: &[Ready]) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for (Ready { suite, policy, plans }, path) in ready.iter().zip(&args.files) {
        let run = testing::run(policy, suite, plans, level, |_, _| ());
        runs.push(run.with_context(|| format!("{}", path.display()))?);
    }
    Ok(runs)
}

/// Reads a test file, its policy, and finds everything that is named.
fn prepare(args: &cli::Test, path: &Path) -> anyhow::Result<Ready> {
    let (file, text) = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).context("cannot read standard input")?;
        ("<stdin>".to_owned(), text)
    } else {
        let file = path.display().to_string();
        (file.clone(), fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?)
    };
    let suite = testing::file::read(&file, &text).map_err(|wrong| refused(&file, &text, &wrong))?;
    let written: Vec<PathBuf> = match (&args.policy[..], &suite.policy) {
        ([], None) => bail!("{file} names no policy: add `policy = \"FILE\"`, or say --policy FILE"),
        ([], Some(policy)) => {
            let beside = path.parent().unwrap_or_else(|| Path::new(""));
            policy.files.iter().map(|file| beside.join(file)).collect()
        }
        (own, _) => own.to_vec(),
    };
    let policy = policy::usable_of(&written, &args.parameters.given(), &NoHost)?;
    let mut plans = testing::plan(&policy, &suite).map_err(|wrong| refused(&file, &text, &wrong))?;
    if let Some(filter) = &args.filter {
        plans.retain(|plan| suite.tests[plan.index].name.contains(filter.as_str()));
    }
    Ok(Ready { suite, policy, plans })
}

fn refused(file: &str, text: &str, wrong: &[Diagnostic]) -> anyhow::Error {
    // Standard error may be gone; the error itself is returned all the same.
    let _ = tell(diagnostics::render_within(file, text, wrong, true, super::error_width()));
    anyhow::anyhow!("{file} cannot be used: {}", count_of(wrong.len(), "error"))
}
