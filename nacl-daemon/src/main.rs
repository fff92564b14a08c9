//! `nacld`: parses the command line, runs one verb, prints an error once, and says by its exit code how it went.
//! Nothing else lives here: verbs are in `cmd`, everything they do is in the library.

mod cli;
mod cmd;

use std::{io, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// How a verb ended. `nacld --help` documents the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    // 2 is clap's own, for wrong usage.
    /// `check`: the policy has errors.
    PolicyErrors = 3,
    /// `check --deny warnings`: the policy has only warnings.
    PolicyWarnings = 4,
    /// `explain --exit-code`: the request is denied.
    RequestDenied = 5,
    /// `explain --exit-code`: the request passes and the reply is denied.
    ReplyDenied = 6,
    /// `lab`: an expectation did not hold.
    Unexpected = 7,
    /// Ctrl-C, where it is not the ordinary way to end.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.global.color {
        cli::Color::Auto => anstream::ColorChoice::Auto,
        cli::Color::Always => anstream::ColorChoice::Always,
        cli::Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    log_to_stderr(&cli);
    match cmd::run(&cli) {
        Ok(exit) => exit.into(),
        // The reader of our output went away (`nacld rules | head`): nobody is left to tell.
        Err(error) if is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            print_error(&error);
            Exit::Failed.into()
        }
    }
}

fn log_to_stderr(cli: &cli::Cli) {
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "nacld=debug,nacl_daemon=debug,warn",
        (false, _) => "trace",
    };
    // The kernel programs log under their own name, and only where `run --trace` asked them to.
    let trace = if matches!(&cli.verb, cli::Verb::Run(run) if run.trace) { ",nacl_ebpf=trace" } else { "" };
    let filter = EnvFilter::try_from_env("NACLD_LOG").unwrap_or_else(|_| EnvFilter::new(format!("{level}{trace}")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never)
        .with_target(cli.global.verbose > 0)
        .init();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// One error, once: what failed, why, and what to do about it.
fn print_error(error: &anyhow::Error) {
    use anstyle::{AnsiColor, Style};
    let bad = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let good = Style::new().bold().fg_color(Some(AnsiColor::Cyan.into()));
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if lines.is_empty() {
            lines.push(format!("{bad}error{bad:#}: {cause}\n"));
        } else if !lines.iter().any(|line| line.contains(&cause)) {
            // A cause that a level above already spelled out would only be noise.
            lines.push(format!("  because: {cause}\n"));
        }
    }
    lines.extend(error.chain().filter_map(cmd::hint).map(|hint| format!("{good}hint{good:#}: {hint}\n")));
    // Standard error may be gone as well; there is nowhere left to complain.
    let _ = io::Write::write_all(&mut anstream::stderr().lock(), lines.concat().as_bytes());
}
