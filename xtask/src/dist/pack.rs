//! A tree → a Debian package, a tarball, and their sums. The same tree gives the same bytes: times are the source's, owners
//! are root, names are sorted, and one thread compresses. What is in the tree is said by `tree`.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use super::tree::{POLICY, files, listing};
use crate::shell::{execute, find, output, root};

/// How hard to compress.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For users.
    Best,
    /// For a test that throws it away.
    Quick,
}

/// What a package says of itself.
pub struct Control {
    pub version: &'static str,
    pub architecture: &'static str,
    /// Other packages.
    pub depends: Vec<String>,
    /// Seconds since 1970.
    pub epoch: u64,
    pub effort: Effort,
}

impl Control {
    fn text(&self, kilobytes: u64) -> String {
        let Self { version, architecture, depends, .. } = self;
        // The user and the directories are made by these; on a machine with systemd they are there.
        let makers =
            ["sysusers", "tmpfiles"].map(|what| format!("systemd | systemd-standalone-{what} | systemd-{what}"));
        let depends = depends.iter().cloned().chain(makers).collect::<Vec<_>>().join(", ");
        format!(
            "Package: nacld\n\
             Version: {version}\n\
             Architecture: {architecture}\n\
             Maintainer: The authors of nacld <nacld@localhost>\n\
             Installed-Size: {kilobytes}\n\
             Depends: {depends}\n\
             Recommends: iproute2\n\
             Suggests: nftables\n\
             Section: net\n\
             Priority: optional\n\
             Description: AWS network ACLs and security groups, enforced on real packets\n \
             nacld compiles a policy of AWS network ACLs and security groups into eBPF tables\n \
             and enforces it on Linux interfaces, with XDP and TC: first-match rules for each\n \
             direction, as an AWS subnet has them. It explains what becomes of a flow and which\n \
             rule decides, and has labs to try it in.\n \
             .\n \
             The service is installed disabled: it is for whoever has written a policy. The\n \
             kernel programs are in the package. Linux 6.6 or later with BTF.\n"
        )
    }
}

/// A Debian package.
pub fn deb(tree: &Path, control: &Control, to: &Path) -> Result<PathBuf> {
    if find("dpkg-deb").is_none() {
        bail!("dpkg-deb packs the Debian package, and is not here: apt-get install dpkg (other systems have it too)");
    }
    let meta = tree.join("DEBIAN");
    fs::create_dir(&meta)?;
    let files = listing(tree)?;
    let mut bytes = 0;
    for file in &files {
        bytes += fs::metadata(tree.join(file))?.len();
    }
    let sums = output(Command::new("md5sum").args(&files).current_dir(tree)).context("md5sum failed")?;
    put(&meta.join("control"), &control.text(bytes.div_ceil(1024)), 0o644)?;
    put(&meta.join("md5sums"), &sums, 0o644)?;
    put(&meta.join("conffiles"), &format!("/{POLICY}\n"), 0o644)?;
    for script in ["postinst", "prerm", "postrm"] {
        put(&meta.join(script), &fs::read_to_string(root().join("packaging/debian").join(script))?, 0o755)?;
    }
    let mut command = Command::new("dpkg-deb");
    command.args(["--build", "--root-owner-group"]);
    // By more threads xz cuts a file into other blocks.
    command.env("DPKG_DEB_THREADS_MAX", "1").env("SOURCE_DATE_EPOCH", control.epoch.to_string());
    command.args(if control.effort == Effort::Best { ["-Zxz", "-z6"] } else { ["-Zgzip", "-z1"] });
    execute(command.arg(tree).arg(to).stdout(std::process::Stdio::null()))?;
    fs::remove_dir_all(&meta)?;
    Ok(to.to_owned())
}

/// The same as a tarball, in one directory, with the page that says what to do with it.
pub fn tarball(tree: &Path, name: &str, control: &Control, directory: &Path) -> Result<PathBuf> {
    let to = directory.join(format!("{name}.tar.gz"));
    let plain = directory.join(format!("{name}.tar"));
    let page = tree.join("install.md");
    put(&page, &fs::read_to_string(root().join("docs/install.md"))?, 0o644)?;
    let mut command = Command::new("tar");
    command.args(["--create", "--sort=name", "--owner=root:0", "--group=root:0", "--format=gnu"]);
    command.arg(format!("--mtime=@{}", control.epoch)).arg(format!("--transform=s,^\\.,{name},"));
    execute(command.arg("--file").arg(&plain).arg("--directory").arg(tree).arg("."))?;
    let effort = if control.effort == Effort::Best { "--best" } else { "--fast" };
    execute(Command::new("gzip").args([effort, "--no-name", "--force"]).arg(&plain))?;
    fs::remove_file(&page)?;
    Ok(to)
}

/// Of every package in a directory.
pub fn sums(directory: &Path, to: &Path) -> Result<()> {
    let mut text = String::new();
    let mut packages = files(directory, "deb")?;
    packages.extend(files(directory, "gz")?);
    for file in packages {
        let name = file.file_name().context("a file without a name")?.to_string_lossy().into_owned();
        let digest = Sha256::digest(fs::read(&file)?);
        let hex = digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let _ = writeln!(text, "{hex}  {name}");
    }
    put(to, &text, 0o644)
}

fn put(file: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())?;
    fs::set_permissions(file, fs::Permissions::from_mode(mode))?;
    Ok(())
}
