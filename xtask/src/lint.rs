//! `cargo xtask lint`: what a change must pass before it is looked at.

use anyhow::Result;

use crate::{
    setup,
    shell::{cargo, execute, find, output, root, rustup, say, target},
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
        "nacl-daemon/kernel-tests",
        "--",
        "-Dwarnings",
    ]))?;
    let ready = setup::ensure()?;
    // Debian's toolchain has no clippy; then rustc's own lints have to do.
    let clippy = output(rustup().args(["run", &ready.toolchain, "cargo", "clippy", "--version"])).is_some();
    let verb = if clippy { "clippy" } else { "check" };
    say(&format!("{verb}, kernel programs"));
    execute(
        rustup()
            .args(["run", &ready.toolchain, "cargo", verb, "--quiet", "--package", "nacl-ebpf", "--features", "bench"])
            .args(["--target", "bpfel-unknown-none", "-Zbuild-std=core", "--target-dir"])
            .arg(target().join("ebpf-check"))
            .current_dir(root())
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\" -Dwarnings"),
    )?;
    if find("cargo-deny").is_some() {
        say("cargo-deny");
        execute(cargo().args(["deny", "check"]))?;
    } else {
        say("cargo-deny is not installed (cargo install cargo-deny --locked): licences and advisories are NOT checked");
    }
    Ok(())
}
