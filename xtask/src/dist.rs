//! `cargo xtask dist`: nacld as a Debian package and as a tarball, for machines that have no Rust. Here: what is asked for,
//! in which order; `tree` says what goes where, `pack` how it is packed, `elf` what the program needs, `trial` installs it.

mod elf;
mod pack;
mod tree;
pub mod trial;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use crate::{
    build::{self, PACKAGE, with_kernel},
    setup::{self, Ready},
    shell::{cargo, execute, find, output, root, rustup, say, target},
};

/// Cargo's profile for it.
const PROFILE: &str = "distribution";

#[derive(ClapArgs)]
pub struct Args {
    /// Build for this target, such as aarch64-unknown-linux-gnu (default: this machine's)
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Then build everything once more elsewhere and compare the bytes; install, run and remove it in a clean Debian root
    #[arg(long, conflicts_with = "target")]
    test: bool,
    /// Build nothing: pack this program quickly, install, run and remove it (what the test command does)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "test"])]
    try_out: Option<PathBuf>,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    if let Some(program) = &args.try_out {
        return trial::short(program);
    }
    let ready = setup::ensure()?;
    let machine = Machine::of(args.target.as_deref())?;
    let epoch = epoch()?;
    let program = build(&ready, &machine, &target())?;
    // Of this machine, whatever the package is for: it prints its own manual.
    let teller = if args.target.is_some() { plain()? } else { program.clone() };
    let package = package(&program, &teller, &machine, epoch, &directory(), pack::Effort::Best)?;
    for file in [&package.deb, &package.tarball, &package.sums] {
        println!("{}", file.display());
    }
    if args.test {
        same_again(&ready, &machine, epoch, &package)?;
        trial::run(&package.deb)?;
    }
    Ok(())
}

/// Where packages are put.
pub fn directory() -> PathBuf {
    target().join("dist")
}

/// What a package is for.
pub struct Machine {
    triple: String,
    native: bool,
}

impl Machine {
    /// The one asked for; else this one.
    pub fn of(asked: Option<&str>) -> Result<Self> {
        let version = output(Command::new("rustc").arg("-vV")).context("rustc does not run")?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        let triple = asked.unwrap_or(host).to_owned();
        Ok(Self { native: triple == host, triple })
    }

    /// Debian's name of the architecture.
    fn debian(&self) -> Result<&'static str> {
        match self.triple.split('-').next() {
            Some("x86_64") => Ok("amd64"),
            Some("aarch64") => Ok("arm64"),
            _ => bail!("nacld runs on x86-64 and aarch64, and {} is neither", self.triple),
        }
    }

    /// The name that kernels and tarballs use.
    fn uname(&self) -> &str {
        self.triple.split('-').next().unwrap_or(&self.triple)
    }
}

/// What was made.
pub struct Package {
    pub deb: PathBuf,
    pub tarball: PathBuf,
    pub sums: PathBuf,
}

/// Lays out the tree and packs it.
pub fn package(
    program: &Path,
    teller: &Path,
    machine: &Machine,
    epoch: u64,
    directory: &Path,
    effort: pack::Effort,
) -> Result<Package> {
    fs::create_dir_all(directory)?;
    let scratch = directory.join(format!("tree-{}", machine.uname()));
    let tree = tree::lay_out(program, teller, &scratch)?;
    let version = env!("CARGO_PKG_VERSION");
    let control =
        pack::Control { version, architecture: machine.debian()?, depends: elf::depends(program)?, epoch, effort };
    let deb = pack::deb(&tree, &control, &directory.join(format!("nacld_{version}_{}.deb", control.architecture)))?;
    let name = format!("nacld-{version}-{}", machine.uname());
    let tarball = pack::tarball(&tree, &name, &control, directory)?;
    let sums = directory.join("SHA256SUMS");
    pack::sums(directory, &sums)?;
    fs::remove_dir_all(&scratch)?;
    Ok(Package { deb, tarball, sums })
}

/// What the build took from: SOURCE_DATE_EPOCH, else when the last commit was made. No clock: the same source gives the same
/// bytes.
pub fn epoch() -> Result<u64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()))
            .context("this is no git checkout, so say when the source was made: SOURCE_DATE_EPOCH=SECONDS")?,
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, and is to be seconds since 1970"))
}

/// Builds the program with its kernel programs inside, as a user's machine gets it.
fn build(ready: &Ready, machine: &Machine, target_dir: &Path) -> Result<PathBuf> {
    say(&format!("building nacld for {} (some minutes the first time)", machine.triple));
    let mut command = if machine.native { cargo() } else { cross(ready, machine)? };
    command.args(["build", "--locked", "--package", PACKAGE, "--bin", "nacld", "--features", "kernel,parquet"]);
    command.args(["--profile", PROFILE, "--target-dir"]).arg(target_dir);
    if !machine.native {
        command.args(["--target", &machine.triple]);
    }
    // Where it was built is nobody's business, and must not be in the bytes.
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![format!("--remap-path-prefix={}=/usr/src/nacld", root().display())];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/usr/src/cargo", home.display())));
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    execute(with_kernel(&mut command, ready))?;
    let directory = if machine.native { target_dir.to_owned() } else { target_dir.join(&machine.triple) };
    Ok(directory.join(PROFILE).join("nacld"))
}

/// A cargo for another architecture: the one that runs this, where it has the standard library for it; else the toolchain of
/// the kernel programs, which has the library's source and builds it.
fn cross(ready: &Ready, machine: &Machine) -> Result<Command> {
    let linker = format!("{}-linux-gnu-gcc", machine.uname());
    if find(&linker).is_none() {
        bail!(
            "{} needs the linker {linker}: apt-get install gcc-{}-linux-gnu libc6-dev-{}-cross",
            machine.triple,
            machine.uname(),
            machine.debian()?
        );
    }
    let variable = machine.triple.to_uppercase().replace('-', "_");
    let has_library = |command: &mut Command| {
        output(command.args(["--print", "target-libdir", "--target", &machine.triple]))
            .is_some_and(|directory| Path::new(directory.trim()).is_dir())
    };
    let mut command = if has_library(&mut Command::new("rustc")) {
        cargo()
    } else {
        let sysroot =
            output(rustup().args(["run", &ready.toolchain, "rustc", "--print", "sysroot"])).unwrap_or_default();
        if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std/src/lib.rs").is_file() {
            bail!(
                "no standard library for {}: neither `rustup target add {}` was done, nor has {} its source",
                machine.triple,
                machine.triple,
                ready.toolchain
            );
        }
        say(&format!(
            "no standard library for {}: building it from the source that {} has",
            machine.triple, ready.toolchain
        ));
        let mut command = rustup();
        command.args(["run", &ready.toolchain, "cargo", "-Zbuild-std=std,panic_unwind"]);
        command.current_dir(root()).env("RUSTC_BOOTSTRAP", "1");
        command
    };
    command.env(format!("CARGO_TARGET_{variable}_LINKER"), linker);
    Ok(command)
}

/// A nacld of this machine without kernel programs, to print manual pages.
fn plain() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", PACKAGE, "--bin", "nacld"]);
    build::executable(&mut command, "bin", "nacld")
}

/// Builds everything a second time, in another directory, and compares.
fn same_again(ready: &Ready, machine: &Machine, epoch: u64, first: &Package) -> Result<()> {
    say("building everything a second time, to compare the bytes");
    let elsewhere = target().join("dist-again");
    if elsewhere.exists() {
        fs::remove_dir_all(&elsewhere)?;
    }
    let program = build(ready, machine, &elsewhere)?;
    let second = package(&program, &program, machine, epoch, &elsewhere.join("dist"), pack::Effort::Best)?;
    for (one, other) in [(&first.deb, &second.deb), (&first.tarball, &second.tarball)] {
        if fs::read(one)? != fs::read(other)? {
            bail!(
                "{} and {} differ: the build is not reproducible (diffoscope shows where)",
                one.display(),
                other.display()
            );
        }
    }
    fs::remove_dir_all(&elsewhere)?;
    say("the second build gave the same bytes");
    Ok(())
}
