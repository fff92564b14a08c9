//! Builds the kernel programs and puts them where `dataplane` embeds them: with the feature `kernel` and told by
//! `cargo xtask` which toolchain to take. Otherwise an empty file stands in, so that checking, linting and host-level
//! tests need neither that toolchain nor a linker for BPF.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};
use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let object = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR")?).join("nacl-ebpf");
    if env::var_os("CARGO_FEATURE_KERNEL").is_none() {
        return fs::write(&object, []).context("writing the empty object");
    }
    for variable in ["NACLD_EBPF_TOOLCHAIN", "NACLD_EBPF_LINKER", "NACLD_EBPF_LLVM"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let Ok(toolchain) = env::var("NACLD_EBPF_TOOLCHAIN") else {
        return fs::write(&object, []).context("writing the empty object");
    };
    prepend("PATH", "NACLD_EBPF_LINKER")?;
    // bpf-linker loads the first LLVM it finds there.
    prepend("LD_LIBRARY_PATH", "NACLD_EBPF_LLVM")?;
    for (name, value) in [
        ("RUSTC_BOOTSTRAP", "1"),
        ("RUSTUP_AUTO_INSTALL", "0"),
        ("CARGO_PROFILE_RELEASE_LTO", "off"),
        // The same bytes wherever it is built: no path of the builder in debug information, nor in BTF, which is made of it.
        ("CARGO_UNSTABLE_TRIM_PATHS", "true"),
        ("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all"),
        // aya-build shows each line of the build inside as a warning of this package, again with every build.
        ("CARGO_TERM_QUIET", "true"),
    ] {
        set(name, value);
    }
    // The toolchain and flags of the cargo that runs this are not meant for the build inside.
    for name in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        // SAFETY: a build script of one thread.
        unsafe { env::remove_var(name) };
    }
    println!("cargo:rerun-if-changed=../nacl-common/src");
    // The benchmark's own programs are built beside them, for whoever measures.
    let bench = env::var_os("CARGO_FEATURE_KERNEL_TESTS").is_some();
    let features: &[&str] = if bench { &["bench"] } else { &[] };
    let package = Package { name: "nacl-ebpf", root_dir: "../nacl-ebpf", features, ..Default::default() };
    build_ebpf([package], Toolchain::Custom(&toolchain))
}

fn prepend(list: &str, from: &str) -> Result<()> {
    let Some(first) = env::var_os(from) else { return Ok(()) };
    let rest = env::var_os(list).unwrap_or_default();
    let paths = std::iter::once(PathBuf::from(first)).chain(env::split_paths(&rest));
    set(list, env::join_paths(paths).context("joining paths")?);
    Ok(())
}

fn set(name: &str, value: impl AsRef<std::ffi::OsStr>) {
    // SAFETY: a build script of one thread.
    unsafe { env::set_var(name, value) }
}
