//! `cargo xtask bench`: what a packet costs, nacld and its peers side by side in one run. It measures and prints lines of
//! JSON (`out`); `xtask` makes tables, pictures and pages of them. Needs root; every packet stays in namespaces of
//! its own.

mod e2e;
mod growth;
mod kernel;
mod live;
mod machine;
mod out;
mod peers;
mod place;
mod row;
mod rules;
mod scaling;
mod test_run;
mod verifier;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, builder::PossibleValuesParser};

use crate::out::Out;

/// A part of the benchmark.
struct Part {
    name: &'static str,
    about: &'static str,
    run: fn(&Plan, &mut Out) -> Result<()>,
}

/// All parts, in the order they are run.
const PARTS: &[Part] = &[
    Part { name: "test_run", about: "the programs alone", run: test_run::run },
    Part { name: "live", about: "nacld and its peers on frames that a veth receives", run: live::run },
    Part { name: "e2e", about: "frames and streams over a veth", run: e2e::run },
    Part { name: "growth", about: "memory and time by rules and interfaces", run: growth::run },
    Part { name: "scaling", about: "two cores at once", run: scaling::run },
];

#[derive(Parser)]
#[command(name = "line_rate", about = "What a packet costs. `cargo xtask bench` builds, runs and reads this")]
struct Arguments {
    /// A minute instead of ten: fewer rounds, fewer packets, fewer sizes where a part is slow
    #[arg(long)]
    quick: bool,
    /// Seconds: every kind of figure once, on so few packets that it means nothing (for tests)
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// These parts only
    #[arg(long, value_name = "PART", value_delimiter = ',',
          value_parser = PossibleValuesParser::new(PARTS.iter().map(|part| part.name)))]
    only: Vec<String>,
    /// `cargo bench` says so to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long a run is to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Seconds; the figures mean nothing.
    Smoke,
    /// About a minute.
    Quick,
    /// About ten minutes.
    Full,
}

/// How much is measured.
pub struct Plan {
    /// How long it is to take; parts that take their own time go by this.
    pub scale: Scale,
    /// Numbers of rules.
    pub sizes: Vec<usize>,
    /// How often each figure is taken.
    pub rounds: usize,
    /// The same for what takes milliseconds a time.
    pub slow_rounds: usize,
    /// Packets of one figure of a program alone.
    pub repeat: u32,
}

impl Plan {
    fn new(scale: Scale) -> Self {
        let sizes = rules::SIZES.to_vec();
        match scale {
            Scale::Smoke => Self { scale, sizes: vec![1, 1000], rounds: 1, slow_rounds: 1, repeat: 100 },
            // Many short figures and not a few long ones: each then meets the fast state of a machine that has two.
            Scale::Quick => Self { scale, sizes: vec![1, 20, 1000], rounds: 8, slow_rounds: 3, repeat: 50_000 },
            Scale::Full => Self { scale, sizes, rounds: 40, slow_rounds: 10, repeat: 100_000 },
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "needs root: programs are loaded into the kernel");
    let plan = Plan::new(match (arguments.smoke, arguments.quick) {
        (true, _) => Scale::Smoke,
        (_, true) => Scale::Quick,
        _ => Scale::Full,
    });
    let chosen = |part: &&Part| arguments.only.is_empty() || arguments.only.iter().any(|name| name == part.name);
    let parts: Vec<_> = PARTS.iter().filter(chosen).collect();
    let mut out = Out::new();
    let names: Vec<_> = parts.iter().map(|part| part.name).collect();
    let watch = machine::begin(&plan, &names, &mut out)?;
    verifier::run(&mut out).context("verifier")?;
    // What one part cannot do must not cost the figures of the others.
    let mut failed = Vec::new();
    for (number, part) in (1..).zip(&parts) {
        out.say(&format!("part {number} of {}: {} ({})", parts.len(), part.name, part.about));
        if let Err(error) = (part.run)(&plan, &mut out) {
            out.missing(part.name, &format!("it failed: {error:#}"))?;
            failed.push(part.name);
        }
    }
    watch.end(&mut out)?;
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
