//! `cargo xtask setup`: finds or installs what building and running the kernel programs needs. Builds nothing of
//! nacld itself. Quick and silent about what is there already.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use crate::shell::{as_root, cargo, execute, find, is_root, output, path_with, run_within, rustup, say, target};

/// The linker reads the bitcode that rustc writes, so both must be of one LLVM: bpf-linker 0.10.3 is of LLVM 22.
const LINKER_VERSION: &str = "0.10.3";
const LLVM: u32 = 22;
/// aya-ebpf 0.2.1 does not compile with nightlies of July 2026 and later, so a fixed one is installed, not "nightly".
const NIGHTLY: &str = "nightly-2026-05-20";
/// What tests try nacld with, from PyPI: what `moto[server]` is of, which answers as AWS does, less the services nobody asks for here; the AWS
/// CLI, which asks it; and an engine that reads what nacld writes as Parquet. Debian has none of them.
const PEERS: [&str; 6] =
    ["moto[ec2]==5.2.5", "boto3==1.44.5", "flask==3.1.3", "flask-cors==6.0.5", "awscli==1.46.3", "duckdb==2.0.0"];
/// Debian's compiler, linked under this name.
const DEBIAN: &str = "nacld-ebpf";

/// What the build of the kernel programs needs to know.
pub struct Ready {
    /// rustup's name of the toolchain that has core's source.
    pub toolchain: String,
    /// Directory of bpf-linker.
    pub linker: PathBuf,
    /// Directory of that toolchain's LLVM, which bpf-linker loads.
    pub llvm: PathBuf,
}

/// A toolchain rustup knows.
struct Toolchain {
    name: String,
    sysroot: PathBuf,
    llvm: u32,
}

impl Toolchain {
    fn probe(name: &str) -> Option<Self> {
        let version = output(rustup().args(["run", name, "rustc", "-vV"]).stderr(Stdio::null()))?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        let llvm = llvm.split('.').next()?.parse().ok()?;
        let sysroot = output(rustup().args(["run", name, "rustc", "--print", "sysroot"]).stderr(Stdio::null()))?;
        Some(Self { name: name.to_owned(), sysroot: sysroot.trim().into(), llvm })
    }

    fn has_source(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    }

    fn fits(&self) -> bool {
        self.llvm == LLVM
    }

    /// Where bpf-linker is to find this toolchain's LLVM: it loads the first library of that name it meets. rustup's
    /// toolchains have theirs by themselves; Debian has every version in one directory, so a link to the right one is
    /// put into one of our own.
    fn llvm_directory(&self) -> Result<PathBuf> {
        if self.sysroot != Path::new("/usr") {
            return Ok(self.sysroot.join("lib"));
        }
        let ours = format!("libLLVM.so.{LLVM}");
        let library = fs::read_dir("/usr/lib")
            .context("/usr/lib")?
            .filter_map(|entry| fs::read_dir(entry.ok()?.path()).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|file| file.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(&ours)))
            .with_context(|| format!("{ours} is not under /usr/lib: apt-get install libllvm{LLVM}"))?;
        let directory = target().join("tools/llvm");
        let link = directory.join("libLLVM.so");
        if !fs::read_link(&link).is_ok_and(|target| target == library) {
            fs::create_dir_all(&directory)?;
            fs::remove_file(&link).ok();
            symlink(&library, &link).with_context(|| link.display().to_string())?;
        }
        Ok(directory)
    }
}

/// Makes everything ready and says what had to be done for it.
pub fn ensure() -> Result<Ready> {
    let toolchain = toolchain()?;
    let linker = linker()?;
    tools()?;
    bpf_filesystem()?;
    Ok(Ready { llvm: toolchain.llvm_directory()?, toolchain: toolchain.name, linker })
}

#[derive(ClapArgs)]
pub struct Args {
    /// Take Debian's compiler, even where rustup could give one
    #[arg(long)]
    debian: bool,
}

/// The command: makes everything ready and says what there is.
pub fn run(args: &Args) -> Result<()> {
    if args.debian && !Toolchain::probe(DEBIAN).is_some_and(|toolchain| toolchain.fits() && toolchain.has_source()) {
        debian()?;
    }
    let ready = ensure()?;
    test_peers()?;
    say(&format!(
        "ready: toolchain {} (LLVM {LLVM}), bpf-linker {LINKER_VERSION} in {}, ip, tmux",
        ready.toolchain,
        ready.linker.display()
    ));
    Ok(())
}

fn installed() -> Result<Vec<Toolchain>> {
    let Some(list) = output(rustup().args(["toolchain", "list"]).stderr(Stdio::null())) else {
        bail!("rustup is needed to build for the BPF target; https://rustup.rs has it");
    };
    let mut names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    // Debian's first: where it is linked, it was linked for this. Then nightlies, then whatever else fits.
    names.sort_by_key(|name| (*name != DEBIAN, !name.starts_with("nightly")));
    // Two processes a toolchain: the first one that is complete ends the search.
    let mut found = Vec::new();
    for name in names {
        let Some(toolchain) = Toolchain::probe(name) else { continue };
        let complete = toolchain.fits() && toolchain.has_source();
        found.push(toolchain);
        if complete {
            break;
        }
    }
    Ok(found)
}

fn complete(toolchains: Vec<Toolchain>) -> Option<Toolchain> {
    toolchains.into_iter().find(|toolchain| toolchain.fits() && toolchain.has_source())
}

/// A toolchain with core's source: there is no precompiled core for the BPF target.
fn toolchain() -> Result<Toolchain> {
    let toolchains = installed()?;
    let incomplete: Vec<_> =
        toolchains.iter().filter(|t| t.fits() && t.name != DEBIAN).map(|t| t.name.clone()).collect();
    if let Some(toolchain) = complete(toolchains) {
        return Ok(toolchain);
    }
    if let Some(name) = incomplete.first() {
        say(&format!("adding rust-src to {name} (a few seconds; given up after a minute)"));
        rustup_within(&["component", "add", "rust-src", "--toolchain", name], 60)?;
    } else {
        say(&format!("installing {NIGHTLY} with rust-src (a minute or two; given up after five)"));
        let what = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"];
        rustup_within(&[&what[..], &["--no-self-update"]].concat(), 300)?;
    }
    if let Some(toolchain) = complete(installed()?) {
        return Ok(toolchain);
    }
    say("rustup cannot give it; taking Debian's compiler and its source instead");
    debian()
}

/// Runs rustup; whether it helped is seen afterwards by looking again.
fn rustup_within(arguments: &[&str], seconds: u64) -> Result<()> {
    let mut command = rustup();
    command.args(arguments).env("RUSTUP_MAX_RETRIES", "1");
    match run_within(&mut command, Duration::from_secs(seconds))? {
        Some(status) if status.success() => {}
        Some(_) => say("rustup did not succeed"),
        None => say("rustup took too long and was ended"),
    }
    Ok(())
}

fn debian() -> Result<Toolchain> {
    if find("apt-get").is_none() {
        bail!(
            "no toolchain with core's source and LLVM {LLVM}: rustup could not fetch one, and this is not Debian; \
             run `rustup toolchain install {NIGHTLY} --component rust-src` where it can"
        );
    }
    say("installing rustc-web, cargo-web and rust-web-src (about 120 MB; a minute or two)");
    apt(&["rustc-web", "cargo-web", "rust-web-src"])?;
    say(&format!("linking /usr as rustup toolchain {DEBIAN}"));
    execute(rustup().args(["toolchain", "link", DEBIAN, "/usr"]))?;
    let Some(toolchain) = Toolchain::probe(DEBIAN) else {
        bail!("the linked toolchain {DEBIAN} does not run: try `rustup run {DEBIAN} rustc -vV`");
    };
    if !toolchain.has_source() {
        bail!("Debian's compiler came without core's source under {}/lib/rustlib/src", toolchain.sysroot.display());
    }
    if !toolchain.fits() {
        bail!(
            "Debian's compiler is of LLVM {}, bpf-linker {LINKER_VERSION} of LLVM {LLVM}; a newer rustc-web is needed \
             (apt-get update, or the security archive)",
            toolchain.llvm
        );
    }
    Ok(toolchain)
}

/// Installs Debian packages, never removing one to make room: rustc-web conflicts with Debian's own rustup package.
pub fn apt(packages: &[&str]) -> Result<()> {
    // One question for the password, not two: update and install run in one go.
    let script = format!(
        "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-remove \
         --no-install-recommends {}",
        packages.join(" ")
    );
    let mut command = as_root("sh", &format!("installing {}", packages.join(", ")))?;
    execute(command.args(["-c", &script]).stdout(Stdio::null()))
        .with_context(|| format!("apt-get could not install {}", packages.join(", ")))
}

/// bpf-linker of the one version, wherever it is; a user's own of another version is left alone.
fn linker() -> Result<PathBuf> {
    let own = target().join("tools");
    let matches = |file: &Path| {
        output(Command::new(file).arg("--version").stderr(Stdio::null()))
            .is_some_and(|version| version.split_whitespace().nth(1) == Some(LINKER_VERSION))
    };
    let program = own.join("bin/bpf-linker");
    if matches(&program) {
        return Ok(own.join("bin"));
    }
    if let Some(theirs) = find("bpf-linker").filter(|file| matches(file)) {
        return theirs.parent().map(Path::to_path_buf).context("bpf-linker has no directory");
    }
    say(&format!("building bpf-linker {LINKER_VERSION} into {} (one to three minutes)", own.display()));
    let scratch = own.join("build");
    execute(
        cargo()
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet", "--root"])
            .arg(&own)
            .arg("--target-dir")
            .arg(&scratch)
            // cargo warns that the root is not in PATH, which is the point of it.
            .env("PATH", path_with(&own.join("bin"))?),
    )
    .context("bpf-linker could not be built")?;
    fs::remove_dir_all(&scratch).ok();
    if !matches(&program) {
        bail!("bpf-linker was built into {} and does not run", program.display());
    }
    Ok(own.join("bin"))
}

/// Labs and wire tests lay cables with `ip`, and translate addresses with `nft` (L12); what `nacld doctor` says mends an
/// interface is tried with `ethtool`. The screen of `nacld top` is looked at through `tmux`; metrics are read by another
/// implementation of their format.
fn tools() -> Result<()> {
    let wanted = [("ip", "iproute2"), ("nft", "nftables"), ("ethtool", "ethtool"), ("tmux", "tmux")];
    let missing = wanted.into_iter().filter(|(tool, _)| find(tool).is_none()).map(|(_, package)| package);
    let missing: Vec<_> = missing.chain((!reads_metrics()).then_some("python3-prometheus-client")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" and ");
    if find("apt-get").is_none() {
        bail!("install {packages} with this machine's package manager");
    }
    say(&format!("installing {packages} (a few seconds)"));
    apt(&missing)
}

/// Whether a Python is here that knows the format of metrics: the system's own, or whichever is found first.
fn reads_metrics() -> bool {
    let knows = |python: &str| {
        let import = ["-c", "import prometheus_client.openmetrics.parser"];
        output(Command::new(python).args(import).stderr(Stdio::null())).is_some()
    };
    knows("/usr/bin/python3") || knows("python3")
}

/// Installs [`PEERS`] into a Python environment of their own. Nothing but tests needs them.
pub fn test_peers() -> Result<()> {
    let own = target().join("tools/python");
    let python = own.join("bin/python");
    let knows = |python: &Path| {
        let import = ["-c", "import moto.server, boto3, awscli, flask_cors, duckdb"];
        output(Command::new(python).args(import).stderr(Stdio::null())).is_some()
    };
    if knows(&python) {
        return Ok(());
    }
    say(&format!("installing moto, the AWS CLI and DuckDB into {} (about 300 MB; a minute or two)", own.display()));
    let made = Command::new("python3").args(["-m", "venv"]).arg(&own).stdout(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        if find("apt-get").is_none() {
            bail!("install Python 3 with its module venv with this machine's package manager");
        }
        say("installing python3-venv (a few seconds)");
        apt(&["python3-venv"])?;
        execute(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&own)).context("python3 -m venv")?;
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PEERS);
    execute(&mut install).context("pip could not install moto, the AWS CLI and DuckDB")?;
    if !knows(&python) {
        bail!("moto, the AWS CLI and DuckDB were installed into {} and do not run", own.display());
    }
    Ok(())
}

/// What nacld is compared with, for the benchmark only. Without them it measures the rest and says what it left out, so
/// nothing here is an error.
pub fn peers() {
    let wanted = [("iptables-legacy-restore", "iptables"), ("iperf3", "iperf3")];
    let missing: Vec<_> =
        wanted.into_iter().filter(|(tool, _)| find(tool).is_none()).map(|(_, package)| package).collect();
    if missing.is_empty() {
        return;
    }
    let packages = missing.join(" and ");
    if find("apt-get").is_none() {
        say(&format!("the benchmark leaves out {packages}: install it with this machine's package manager"));
        return;
    }
    say(&format!("installing {packages}, to compare nacld with (a few seconds)"));
    if let Err(error) = apt(&missing) {
        say(&format!("the benchmark leaves out {packages}: {error:#}"));
    }
}

/// The kernel's bpf file system. Nothing is pinned yet, so it need not be mounted; without it the kernel has no BPF.
fn bpf_filesystem() -> Result<()> {
    let known = fs::read_to_string("/proc/filesystems").context("/proc/filesystems")?;
    if !known.lines().any(|line| line.split_whitespace().last() == Some("bpf")) {
        say("this kernel has no bpf file system (CONFIG_BPF_SYSCALL): nacld builds here, and cannot attach");
    } else if !is_root() && find("sudo").is_none() {
        say("neither root nor sudo: nacld builds here; attaching, kernel and wire tests need root");
    }
    Ok(())
}
