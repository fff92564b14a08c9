//! Doing something inside another network namespace. A namespace belongs to a thread, so the work runs on a thread
//! of its own that ends with it: no other thread ever finds itself elsewhere.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps a namespace of this name.
pub fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Runs `work` on a fresh thread inside the namespace called `name` (`None`: the caller's own) and returns its result.
///
/// # Errors
/// The namespace cannot be opened or entered, or the thread cannot be started.
///
/// # Panics
/// When `work` panics.
pub fn within<T: Send>(name: Option<&str>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some(name) = name else { return Ok(work()) };
    within_open(Some(&File::open(path(name))?), work)
}

/// As [`within`], for a namespace that was opened before and may have lost its name since.
///
/// # Errors
/// The namespace cannot be entered, or the thread cannot be started.
///
/// # Panics
/// When `work` panics.
pub fn within_open<T: Send>(namespace: Option<&File>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some(namespace) = namespace else { return Ok(work()) };
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
