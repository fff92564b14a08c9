//! `cargo xtask test`: every test there is. Host level first, as whoever runs this; then, as root, the tests that load
//! programs into the kernel and put packets on wires. Which those are is said by Cargo.toml: they require the feature
//! `kernel-tests`. With them the benchmark, in its short form.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use serde_json::Value;

use crate::{
    bench,
    build::{self, KERNEL_TESTS, PACKAGE, with_kernel},
    dist::trial,
    setup::{self, Ready},
    shell::{as_root, cargo, output, root, say},
    watch::Log,
};

#[derive(ClapArgs)]
pub struct Args {
    /// Only the tests that need neither root nor the kernel
    #[arg(long)]
    host: bool,
    /// Print all that tests print, also of those that pass
    #[arg(long)]
    show_output: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// The benchmark's short form, beside the test files.
const SMOKE: &str = "bench_smoke";
/// The package, installed, run and removed in a clean Debian.
const PACKAGE_TRIAL: &str = "package_trial";
const WHY: &str = "kernel and wire level (network namespaces of their own, programs loaded into the kernel)";

/// The test files of nacl-daemon.
struct Targets {
    host: Vec<String>,
    privileged: Vec<String>,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let ready = setup::ensure()?;
    setup::test_peers()?;
    let targets = targets()?;
    let mut failed = Vec::new();
    let mut log = Log::create(args.show_output)?;
    host(args, &ready, &targets, &mut log, &mut failed);
    if !args.host {
        privileged(args, &ready, &targets, &mut log, &mut failed)?;
    }
    let minutes = start.elapsed().as_secs_f32() / 60.0;
    say(&format!("host level: unit tests, {}, documentation", targets.host.join(", ")));
    let privileged = targets.privileged.join(", ");
    if args.host {
        say(&format!("not asked for: {privileged}, {SMOKE}, {PACKAGE_TRIAL}"));
    } else {
        say(&format!("kernel and wire level, as root: {privileged}, {SMOKE}, {PACKAGE_TRIAL}"));
    }
    say(&format!("what they printed, with how often each edge was met: {}", log.path()));
    if !failed.is_empty() {
        bail!("FAILED in {minutes:.1} minutes: {}", failed.join(", "));
    }
    say(&format!("all passed in {minutes:.1} minutes"));
    Ok(())
}

fn targets() -> Result<Targets> {
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"])).context("cargo metadata")?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata")?;
    let mut targets = Targets { host: Vec::new(), privileged: Vec::new() };
    let packages = metadata["packages"].as_array().context("no packages")?;
    let package = packages.iter().find(|package| package["name"] == PACKAGE).context("no nacl-daemon")?;
    for target in package["targets"].as_array().into_iter().flatten() {
        if target["kind"][0] != "test" {
            continue;
        }
        let needs =
            target["required-features"].as_array().is_some_and(|list| list.iter().any(|one| one == KERNEL_TESTS));
        let name = target["name"].as_str().context("a target without a name")?.to_owned();
        if needs { &mut targets.privileged } else { &mut targets.host }.push(name);
    }
    Ok(targets)
}

/// One build for both halves: the feature of the privileged tests changes nothing for the others.
fn cargo_test(ready: &Ready) -> Command {
    let mut command = cargo();
    command.args(["test", "--features", "nacl-daemon/kernel-tests"]);
    with_kernel(&mut command, ready);
    command
}

fn host(args: &Args, ready: &Ready, targets: &Targets, log: &mut Log, failed: &mut Vec<String>) {
    say("host level: building (minutes, the first time) and running");
    let mut command = cargo_test(ready);
    command.args(["--no-fail-fast", "--lib", "--bins"]);
    for name in &targets.host {
        command.args(["--test", name]);
    }
    command.arg("--").arg("--show-output").args(&args.filter);
    if log.run(&mut command).is_err() {
        failed.push("host level".into());
    }
    let mut command = cargo_test(ready);
    command.arg("--doc").args(["--", "--show-output"]).args(&args.filter);
    if log.run(&mut command).is_err() {
        failed.push("documentation".into());
    }
}

fn privileged(args: &Args, ready: &Ready, targets: &Targets, log: &mut Log, failed: &mut Vec<String>) -> Result<()> {
    if targets.privileged.is_empty() {
        bail!("no test of nacl-daemon requires the feature {KERNEL_TESTS}");
    }
    say("kernel and wire level: building");
    let executables = executables(ready, targets)?;
    for (name, executable) in executables {
        if name == bench::NAME {
            if args.filter.as_ref().is_some_and(|filter| !SMOKE.contains(filter.as_str())) {
                continue;
            }
            say(&format!("kernel and wire level: {SMOKE}"));
            if let Err(error) = smoke(&executable) {
                say(&format!("{error:#}"));
                failed.push(SMOKE.into());
            }
            continue;
        }
        say(&format!("kernel and wire level: {name}"));
        let mut command = as_root(&executable, WHY)?;
        command.arg("--show-output").args(&args.filter).current_dir(root().join(PACKAGE));
        if log.run(&mut command).is_err() {
            failed.push(name);
        }
    }
    if args.filter.as_ref().is_none_or(|filter| PACKAGE_TRIAL.contains(filter.as_str())) {
        say(&format!("kernel and wire level: {PACKAGE_TRIAL}"));
        if let Err(error) = program(ready).and_then(|program| trial::short(&program)) {
            say(&format!("{error:#}"));
            failed.push(PACKAGE_TRIAL.into());
        }
    }
    Ok(())
}

/// The program that the tests run.
fn program(ready: &Ready) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", PACKAGE, "--bin", "nacld", "--features", KERNEL_TESTS]);
    build::executable(with_kernel(&mut command, ready), "bin", "nacld")
}

/// Builds the privileged tests and the benchmark.
fn executables(ready: &Ready, targets: &Targets) -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo_test(ready);
    command.args(["--package", PACKAGE, "--no-run", "--bench", bench::NAME]);
    for name in &targets.privileged {
        command.args(["--test", name]);
    }
    let found = build::executables(&mut command, &["test", "bench"]).context("kernel and wire level tests")?;
    if found.len() != targets.privileged.len() + 1 {
        bail!("{} programs were to be built, and {} were", targets.privileged.len() + 1, found.len());
    }
    Ok(found)
}

/// The benchmark's short form: not what it measures, but that it does.
fn smoke(program: &Path) -> Result<()> {
    let output = as_root(program, WHY)?.arg("--smoke").stdout(Stdio::piped()).spawn()?.wait_with_output()?;
    if !output.status.success() {
        bail!("{}: {}", program.display(), output.status);
    }
    bench::smoke::check(&String::from_utf8_lossy(&output.stdout))
}
