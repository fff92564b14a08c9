//! Running other programs: what is said before, what is said when they fail, and as whom they run. No command of its own.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Says what comes next, on standard error.
pub fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// The workspace's directory.
pub fn root() -> PathBuf {
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// The cargo that runs this, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// rustup, told never to install a toolchain by the way: on a machine that cannot reach it, that would hang.
pub fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0");
    // The toolchain of the cargo that runs this is not an answer to what rustup is asked here.
    command.env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// A program by name, also where an ordinary user's PATH does not look.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// PATH with these directories in front.
pub fn path_with(directory: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(directory.to_path_buf()).chain(env::split_paths(&path))).context("PATH")
}

/// Runs a command to its end; an exit code other than 0 is an error that names the command.
pub fn execute(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", text(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", text(command));
    }
    Ok(())
}

/// Runs a command, and ends it when it takes longer than `limit`. `None`: it had to be ended.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {}", text(command)))?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// What a command prints, if it can be started and succeeds.
pub fn output(command: &mut Command) -> Option<String> {
    let Output { status, stdout, .. } = command.stdin(Stdio::null()).output().ok()?;
    status.success().then(|| String::from_utf8_lossy(&stdout).into_owned())
}

/// Whether this is root.
pub fn is_root() -> bool {
    // The second number of the line is the effective user; no dependency is worth it.
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1))
            == Some("0")
    })
}

/// A command that runs as root: itself where this is root, through sudo otherwise. `why` is said first.
pub fn as_root(program: impl AsRef<OsStr>, why: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if find("sudo").is_none() {
        bail!("{why} needs root, and there is no sudo; run this as root");
    }
    say(&format!("{why} needs root: asking sudo"));
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}

pub fn text(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
