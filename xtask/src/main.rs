//! Set-up, build, tests, lint, benchmark and the long evidence runs: `cargo xtask --help`. One file a command; what they share is in `shell`.

mod bench;
mod build;
mod demo;
mod dist;
mod evidence;
mod lint;
mod setup;
mod shell;
mod test;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Set-up, build, tests and benchmark of nacld")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what building the kernel programs needs (may ask for sudo)
    Setup(setup::Args),
    /// Build nacld with its kernel programs in it, and print where it is
    Build(build::Args),
    /// Set up, then run all tests: host, kernel and wire level (the last two as root)
    Test(test::Args),
    /// rustfmt, clippy and cargo-deny
    Lint,
    /// Set up, build, and measure what a packet costs; writes docs/performance.md
    Bench(bench::Args),
    /// Set up, build, and pack: a Debian package and a tarball, in target/dist
    Dist(dist::Args),
    /// Set up, build, and reload ten thousand times under load; writes docs/evidence.md
    Reloads(evidence::Reloads),
    /// Set up, build, and kill the daemon two hundred times under load; writes docs/evidence.md
    Kills(evidence::Kills),
    /// Set up, build, and run the quiz: real packets, a real network ACL
    Demo(demo::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Lint => lint::run(),
        Command::Bench(args) => bench::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Reloads(args) => evidence::reloads(&args),
        Command::Kills(args) => evidence::kills(&args),
        Command::Demo(args) => demo::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
