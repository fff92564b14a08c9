//! `cargo xtask lint`: what a change must pass before it is looked at.

use std::process::Command;

use anyhow::Result;

use crate::{
    setup,
    shell::{cargo, execute, find, path_with, root, say, target},
};

/// The command.
pub fn run() -> Result<()> {
    say("rustfmt");
    execute(cargo().args(["fmt", "--all", "--check"]))?;
    say("clippy, host");
    execute(cargo().args([
        "clippy",
        "--quiet",
        "--all-targets",
        "--features",
        "nacl-daemon/kernel",
        "--",
        "-Dwarnings",
    ]))?;
    say("rustc's warnings as errors, kernel programs");
    let ready = setup::ensure()?;
    // Debian's toolchain has no clippy, and clippy's own would need core's source: rustc's lints have to do.
    execute(
        Command::new("rustup")
            .args(["run", &ready.toolchain, "cargo", "check", "--quiet", "--package", "nacl-ebpf"])
            .args(["--target", "bpfel-unknown-none", "-Zbuild-std=core", "--target-dir"])
            .arg(target().join("ebpf-check"))
            .current_dir(root())
            .env("RUSTUP_AUTO_INSTALL", "0")
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\" -Dwarnings")
            .env("PATH", path_with(&ready.linker)?),
    )?;
    if find("cargo-deny").is_some() {
        say("cargo-deny");
        execute(cargo().args(["deny", "check"]))?;
    } else {
        say("cargo-deny is not installed (cargo install cargo-deny --locked): licences and advisories are NOT checked");
    }
    Ok(())
}
