//! What a package has in it, and where: one list for the Debian package and the tarball. Nothing is packed here.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::shell::{output, root, say};

/// Files that are copied as they are: where they lie in the source, and where on the machine.
const FILES: &[(&str, &str)] = &[
    ("packaging/nacld.service", "usr/lib/systemd/system/nacld.service"),
    ("packaging/run-nacld-bpf.mount", "usr/lib/systemd/system/run-nacld-bpf.mount"),
    ("packaging/sysusers.conf", "usr/lib/sysusers.d/nacld.conf"),
    ("packaging/tmpfiles.conf", "usr/lib/tmpfiles.d/nacld.conf"),
    ("packaging/netns.conf", "usr/share/doc/nacld/examples/netns.conf"),
    ("packaging/Containerfile", "usr/share/doc/nacld/examples/Containerfile"),
    ("packaging/kubernetes.yaml", "usr/share/doc/nacld/examples/kubernetes.yaml"),
    ("packaging/grafana/nacld.json", "usr/share/doc/nacld/examples/grafana.json"),
    ("packaging/debian/copyright", "usr/share/doc/nacld/copyright"),
    ("README.md", "usr/share/doc/nacld/README.md"),
    ("ARCHITECTURE.md", "usr/share/doc/nacld/ARCHITECTURE.md"),
];
/// Directories of which every file of these kinds is copied.
const DIRECTORIES: &[(&str, &str, &str)] = &[
    ("docs", "md", "usr/share/doc/nacld"),
    ("config", "toml", "usr/share/doc/nacld/examples"),
    ("config/labs", "toml", "usr/share/doc/nacld/examples/labs"),
];
/// Where the policy is, which is the user's from then on.
pub const POLICY: &str = "etc/nacld/policy.toml";
/// The program.
pub const PROGRAM: &str = "usr/bin/nacld";

/// Makes the tree anew under `scratch`. `teller`: a nacld of this machine, which prints its manual.
pub fn lay_out(program: &Path, teller: &Path, scratch: &Path) -> Result<PathBuf> {
    if scratch.exists() {
        fs::remove_dir_all(scratch)?;
    }
    let tree = scratch.join("root");
    let source = root();
    for (from, to) in FILES {
        copy(&source.join(from), &tree.join(to))?;
    }
    for (from, kind, to) in DIRECTORIES {
        for file in files(&source.join(from), kind)? {
            let name = file.file_name().context("a file without a name")?;
            copy(&file, &tree.join(to).join(name))?;
        }
    }
    // What a page shows beside its text.
    for file in files(&source.join("docs/performance"), "svg")? {
        let name = file.file_name().context("a file without a name")?;
        copy(&file, &tree.join("usr/share/doc/nacld/performance").join(name))?;
    }
    write(&tree.join("usr/share/doc/nacld/changelog"), &fs::read(source.join("CHANGELOG.md"))?)?;
    gzip(&tree.join("usr/share/doc/nacld/changelog"))?;
    write(&tree.join(POLICY), sample(&fs::read_to_string(source.join("config/nacld.toml"))?)?.as_bytes())?;
    copy(program, &tree.join(PROGRAM))?;
    manual(teller, &tree)?;
    modes(&tree)?;
    Ok(tree)
}

/// The first policy of a machine: the one that is explained in the source, without its interface. Nobody's interface is
/// named, so starting it changes nothing but to say so.
fn sample(text: &str) -> Result<String> {
    const PLACE: &str = "config/nacld.toml";
    const MACHINE: &str = "/etc/nacld/policy.toml";
    let at = text.find("\n[interface.").context("config/nacld.toml names no interface")? + 1;
    let (rules, interface) = text.split_at(at);
    let (head, rest) = rules.split_once("\nversion = 1\n").context("config/nacld.toml begins otherwise")?;
    let head = head.replace(
        &format!("Check it with `nacld check {PLACE}`, then change the interface's name at the end."),
        &format!(
            "Nothing is enforced before you name an interface at the end of this file.\n\
             # Check it with `nacld check {MACHINE}`, then `systemctl enable --now nacld`."
        ),
    );
    if head.contains(PLACE) || !head.contains(MACHINE) {
        bail!("the first lines of {PLACE} have changed: say in `dist/tree.rs` what becomes of them in a package");
    }
    let lines: Vec<_> = interface.lines().map(|line| format!("#{line}\n")).collect();
    Ok(format!("{head}\nversion = 1\n{rest}{}", lines.concat()))
}

/// Manual pages and completions, as the program prints them.
fn manual(teller: &Path, tree: &Path) -> Result<()> {
    let pages = tree.join("usr/share/man/man1");
    fs::create_dir_all(&pages)?;
    let status = Command::new(teller).arg("man").arg(&pages).stdout(Stdio::null()).status();
    if !status.with_context(|| format!("{} does not run", teller.display()))?.success() {
        bail!("`nacld man` failed");
    }
    for page in files(&pages, "1")? {
        gzip(&page)?;
    }
    for (shell, place) in [
        ("bash", "usr/share/bash-completion/completions/nacld"),
        ("zsh", "usr/share/zsh/vendor-completions/_nacld"),
        ("fish", "usr/share/fish/vendor_completions.d/nacld.fish"),
    ] {
        let text = output(Command::new(teller).args(["completions", shell]));
        write(&tree.join(place), text.with_context(|| format!("`nacld completions {shell}` failed"))?.as_bytes())?;
    }
    Ok(())
}

/// The files of a directory by name, in order.
pub fn files(directory: &Path, kind: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == kind) {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("{} has no .{kind} file", directory.display());
    }
    found.sort();
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    write(to, &fs::read(from).with_context(|| from.display().to_string())?)
}

fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(to.parent().context("no directory")?)?;
    fs::write(to, bytes).with_context(|| to.display().to_string())
}

/// In place. Without name and time of the file: the same text gives the same bytes.
fn gzip(file: &Path) -> Result<()> {
    let status = Command::new("gzip").args(["--best", "--no-name", "--force"]).arg(file).status();
    if !status.context("gzip is needed: apt-get install gzip")?.success() {
        bail!("gzip failed on {}", file.display());
    }
    Ok(())
}

/// The same whatever the umask is here.
fn modes(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            modes(&path)?;
        } else {
            let mode = if path.ends_with(PROGRAM) { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Everything in a tree, by path, in order.
pub fn listing(tree: &Path) -> Result<Vec<OsString>> {
    let mut open = vec![tree.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(tree)?.as_os_str().to_owned());
            }
        }
    }
    found.sort();
    say(&format!("{} files", found.len()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_names_no_interface_and_is_otherwise_the_source_s() {
        let text = fs::read_to_string(root().join("config/nacld.toml")).unwrap();
        let sample = sample(&text).unwrap();
        assert!(!sample.lines().any(|line| line.starts_with("[interface")), "{sample}");
        let rules = |text: &str| text.lines().filter(|line| line.trim_start().starts_with("{ rule")).count();
        assert!(rules(&text) > 30 && rules(&text) == rules(&sample));
        assert!(sample.contains("\n#[interface.eth0]"), "only a comment sign away");
    }

    #[test]
    fn what_is_packed_is_in_the_source() {
        for (from, _) in FILES {
            assert!(root().join(from).is_file(), "{from}");
        }
        for (from, kind, _) in DIRECTORIES {
            files(&root().join(from), kind).unwrap();
        }
    }
}
