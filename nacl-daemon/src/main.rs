//! `nacld`: parses the command line, runs one verb, prints an error once, and says by its exit code how it went.
//! Nothing else lives here: verbs are in `cmd`, everything they do is in the library.

mod cli;
mod cmd;

use std::{io, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use nacl_daemon::{
    logs::{self, Repeats, Setup},
    report::layout,
    service::state::chain,
};
use tracing_subscriber::EnvFilter;

/// How a verb ended. `nacld --help` documents the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// What was asked for cannot be; also clap's own.
    Misuse = 2,
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
    /// `diff --exit-code`: the policies differ.
    Different = 8,
    /// `search`: no packet is found.
    NothingFound = 9,
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
    // Told to the end of what was held back.
    let _repeats = match start_log(&cli).context("the log cannot be started: is there a journal?") {
        Ok(repeats) => repeats,
        Err(error) => {
            print_error(&error);
            return Exit::Failed.into();
        }
    };
    match cmd::run(&cli) {
        Ok(exit) => exit.into(),
        // The reader of our output went away (`nacld rules | head`): nobody is left to tell.
        Err(error) if is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            if matches!(&cli.verb, cli::Verb::Run(run) if logs::notices_are_logged(run.log_format())) {
                log_error(&error);
            } else {
                print_error(&error);
            }
            exit_of(&error).into()
        }
    }
}

/// How a verb ends that ends with an error.
fn exit_of(error: &anyhow::Error) -> Exit {
    if error.chain().any(cmd::is_misuse) { Exit::Misuse } else { Exit::Failed }
}

/// As [`print_error`], for a daemon that nobody sits in front of.
fn log_error(error: &anyhow::Error) {
    let hint = error.chain().find_map(cmd::hint);
    tracing::error!(target: logs::TARGET, reason = chain(error.as_ref()), hint, "nacld failed");
}

/// Levels by -q, -v and NACLD_LOG; what a daemon tells of itself counts as info.
fn start_log(cli: &cli::Cli) -> io::Result<Repeats> {
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn,nacld=info",
        (false, 1) => "nacld=debug,nacl_daemon=debug,warn",
        (false, _) => "trace",
    };
    let run = if let cli::Verb::Run(run) = &cli.verb { Some(run) } else { None };
    // The kernel programs log under their own name, and only where `run --trace` asked them to.
    let trace = if run.is_some_and(|run| run.trace) { ",nacl_ebpf=trace" } else { "" };
    logs::start(Setup {
        format: logs::format(run.and_then(cli::Run::log_format)),
        filter: EnvFilter::try_from_env("NACLD_LOG").unwrap_or_else(|_| EnvFilter::new(format!("{level}{trace}"))),
        colour: anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never,
        target: cli.global.verbose > 0,
    })
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
    let text = layout::fit(&lines.concat(), cmd::error_width());
    // Standard error may be gone as well; there is nowhere left to complain.
    let _ = io::Write::write_all(&mut anstream::stderr().lock(), text.as_bytes());
}
