//! The invariants of ARCHITECTURE.md that a look at the sources can hold.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file below a folder, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of this project") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            found.push((path, text));
        }
    }
    found
}

#[test]
fn only_the_dataplane_imports_aya() {
    let names_aya = |text: &str| text.contains("use aya") || text.contains("aya::") || text.contains("aya_log::");
    let (inside, outside): (Vec<_>, Vec<_>) = sources(&root().join("nacl-daemon/src"))
        .into_iter()
        .filter(|(_, text)| names_aya(text))
        .map(|(path, _)| path)
        .partition(|path| path.components().any(|part| part.as_os_str() == "dataplane"));
    assert!(!inside.is_empty(), "the search finds what it looks for");
    assert_eq!(outside, Vec::<PathBuf>::new());
}

#[test]
fn the_engine_depends_on_nothing() {
    let manifest = fs::read_to_string(root().join("nacl-common/Cargo.toml")).expect("the manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    assert!(manifest.keys().all(|key| !key.contains("dependencies")), "{:?}", manifest.keys().collect::<Vec<_>>());
    let engine = fs::read_to_string(root().join("nacl-common/src/lib.rs")).expect("the engine");
    assert!(engine.contains("#![no_std]") && engine.contains("#![forbid(unsafe_code)]"));
    for (path, text) in sources(&root().join("nacl-common/src")) {
        assert!(!text.contains("extern crate"), "{}", path.display());
    }
}

/// aya-ebpf would replace memcpy and memset of a host binary (aya#1254).
#[test]
fn no_host_package_depends_on_aya_ebpf() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file");
    let lock: toml::Table = lock.parse().expect("TOML");
    let packages = lock["package"].as_array().expect("packages");
    let users: Vec<_> = packages
        .iter()
        .filter(|package| {
            let dependencies = package.get("dependencies").and_then(|list| list.as_array());
            dependencies.into_iter().flatten().any(|one| one.as_str() == Some("aya-ebpf"))
        })
        .filter_map(|package| package["name"].as_str())
        .collect();
    assert_eq!(users, ["aya-log-ebpf", "nacl-ebpf"], "and nothing that is built for the host");
}

#[test]
fn reports_never_query_and_compiling_does_no_io() {
    let forbidden = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "tokio",
        "nix::",
        "crate::dataplane",
        "service::state",
        "service::client",
        "procfs",
    ];
    for room in ["report", "compile", "policy", "resolve"] {
        for (path, text) in sources(&root().join("nacl-daemon/src").join(room)) {
            for word in forbidden {
                assert!(!text.contains(word), "{} has {word}", path.display());
            }
        }
    }
}
