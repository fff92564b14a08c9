//! Installs a package in a clean Debian and does with it what a new user does (`trial.sh`). Everything happens in a chroot
//! in memory, in namespaces of its own: nothing of the machine is touched.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{Machine, directory, epoch, pack::Effort, package};
use crate::{
    setup,
    shell::{as_root, execute, find, output, say, target},
};

/// What a clean Debian has beyond the essential packages: what nacld depends on, so that no network is needed then, and what
/// the trial itself uses.
const INCLUDE: &str = "systemd-standalone-sysusers,systemd-standalone-tmpfiles,libgcc-s1,iproute2,iputils-ping";
const WHY: &str = "installing the package in a clean Debian (a chroot in namespaces of its own)";

/// The short form, for the test command: packs a program that was built for tests.
pub fn short(program: &Path) -> Result<()> {
    let scratch = directory().join("trial");
    let machine = Machine::of(None)?;
    // Without its names it is a tenth as large.
    let stripped = directory().join("nacld-stripped");
    fs::create_dir_all(directory())?;
    let mut strip = Command::new("strip");
    execute(strip.arg("--strip-all").arg("-o").arg(&stripped).arg(program)).context("strip is of binutils")?;
    let packed = package(&stripped, &stripped, &machine, epoch()?, &scratch, Effort::Quick)?;
    let again = package(&stripped, &stripped, &machine, epoch()?, &scratch.join("again"), Effort::Quick)?;
    for (one, other) in [(&packed.deb, &again.deb), (&packed.tarball, &again.tarball)] {
        if fs::read(one)? != fs::read(other)? {
            bail!("{} differs from {}, which was packed from the same files", one.display(), other.display());
        }
    }
    run(&packed.deb)
}

/// Installs, runs and removes a package.
pub fn run(deb: &Path) -> Result<()> {
    let debian = debian()?;
    say("installing, running and removing the package in a clean Debian");
    // tmpfs, so that nothing is left whatever happens; private, so that nothing of it is seen outside.
    let outer = r#"set -eu
        mount -t tmpfs -o mode=0755 trial "$1"
        tar --extract --file "$2" --directory "$1"
        mount -t proc proc "$1/proc"
        mount -t sysfs -o ro sysfs "$1/sys"
        mount --rbind /dev "$1/dev"
        mount -t tmpfs -o mode=0755 run "$1/run"
        cp "$3" "$1/nacld.deb"
        cp "$4" "$1/tmp/trial.sh"
        exec chroot "$1" env --ignore-environment PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive sh /tmp/trial.sh /nacld.deb"#;
    let place = directory().join("chroot");
    fs::create_dir_all(&place)?;
    let mut command = as_root("unshare", WHY)?;
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--propagation=private"]);
    command.args(["--", "sh", "-c", outer, "trial"]).arg(&place).arg(&debian).arg(deb);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dist/trial.sh");
    execute(command.arg(script)).context("the package's trial")?;
    fs::remove_dir(&place).ok();
    Ok(())
}

/// A clean Debian of this machine's release as a tarball. Made once: it takes half a minute and a mirror.
fn debian() -> Result<PathBuf> {
    let suite = suite()?;
    let tarball = target().join("dist").join(format!("debian-{suite}.tar"));
    if tarball.is_file() {
        return Ok(tarball);
    }
    if find("mmdebstrap").is_none() {
        say("installing mmdebstrap, to make a clean Debian (a few seconds)");
        setup::apt(&["mmdebstrap"]).context("a clean Debian is needed to try the package in")?;
    }
    say(&format!("making a clean Debian ({suite}; half a minute, 60 MB from the mirror, once)"));
    let unfinished = tarball.with_extension("unfinished.tar");
    let mut command = as_root("mmdebstrap", WHY)?;
    command.args(["--quiet", "--variant=minbase"]).arg(format!("--include={INCLUDE}"));
    command.arg(&suite).arg(&unfinished).args(mirror(&suite));
    execute(&mut command).context("no clean Debian could be made: is its mirror reachable? (apt-get update)")?;
    fs::rename(&unfinished, &tarball)?;
    Ok(tarball)
}

/// The release this machine has: a program built here needs no newer libc than it has.
fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    if value("ID").as_deref() != Some("debian") {
        bail!(
            "this is {}, and the package is tried in a Debian of the same libc: do it on Debian, or in a container of it",
            value("PRETTY_NAME").unwrap_or_else(|| "no Debian".into())
        );
    }
    value("VERSION_CODENAME").context("this Debian has no name")
}

/// Where this machine itself gets that release from; nothing where it does not say.
fn mirror(suite: &str) -> Option<String> {
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    targets.lines().find_map(|line| Some(line.strip_prefix(suite)?.strip_prefix(' ')?.to_owned()))
}
