//! Tells when interfaces come, go or change their names, in the daemon's network namespace and in every named one of the
//! policy. What follows is asked of the kernel by `absent`; a message is only a reason to ask, so none is read, and one that is lost
//! costs nothing: after a monitor was opened, and after the kernel had to drop messages, it is asked too.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs, io,
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::Duration,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::{
    io::unix::AsyncFd,
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use super::Service;
use crate::netns;

/// How often to look whether a named namespace was made, or is another one: nobody tells of that.
const LOOK: Duration = Duration::from_millis(500);
/// A device that is made or renamed sends several messages.
const CALM: Duration = Duration::from_millis(20);
/// The group of messages about links.
const GROUP: u32 = libc::RTMGRP_LINK as u32;

/// Keeps the state in step with the interfaces until it is dropped.
pub async fn watch(service: Arc<Service>) {
    let changed = Arc::new(Notify::new());
    let mut monitors: BTreeMap<Option<String>, Monitor> = BTreeMap::new();
    loop {
        let Ok(names) = service.ask(|state| state.namespaces()).await else { return };
        let elsewhere = names.iter().any(Option::is_some);
        monitors.retain(|name, monitor| names.contains(name) && monitor.is_alive(name.as_deref()));
        for name in names {
            if let Entry::Vacant(place) = monitors.entry(name) {
                let name = place.key().clone();
                match Monitor::open(name.as_deref(), &changed) {
                    Ok(monitor) => {
                        place.insert(monitor);
                    }
                    // It may come; or may not be entered, which attaching says.
                    Err(error) => tracing::debug!(netns = name, reason = %error, "its links are not watched"),
                }
            }
        }
        let looking = Arc::clone(&service);
        let Ok(again) = spawn_blocking(move || looking.look()).await else { return };
        let again = if elsewhere { Some(again.map_or(LOOK, |again| again.min(LOOK))) } else { again };
        tokio::select! {
            () = changed.notified() => sleep(CALM).await,
            // Another policy may name other namespaces.
            () = service.policy_changed.notified() => {}
            () = async { match again { Some(again) => sleep(again).await, None => std::future::pending().await } } => {}
        }
    }
}

/// A socket that hears of every link of a namespace.
struct Monitor {
    /// The namespace, by its inode.
    id: u64,
    task: JoinHandle<()>,
}

impl Monitor {
    fn open(name: Option<&str>, changed: &Arc<Notify>) -> io::Result<Self> {
        let id = id(name)?;
        let socket = netns::within(name, || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, GROUP))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        })??;
        // SAFETY: a Socket answers every as_raw_fd with the same number, and owns what it stands for.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let changed = Arc::clone(changed);
        let task = tokio::spawn(async move {
            while let Ok(mut ready) = socket.readable().await {
                // Before reading: what comes while we read makes it ready again.
                ready.clear_ready();
                drain(socket.get_ref());
                changed.notify_one();
            }
        });
        Ok(Self { id, task })
    }

    /// Whether it still hears of the namespace of that name. One that was removed would be kept by the socket.
    fn is_alive(&self, name: Option<&str>) -> bool {
        !self.task.is_finished() && id(name).is_ok_and(|id| id == self.id)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads everything there is, and the error that stands for what was lost.
fn drain(socket: &Socket) {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, libc::MSG_TRUNC) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EINTR)) => {}
            Err(_) => return,
        }
    }
}

/// What tells a namespace from others.
fn id(name: Option<&str>) -> io::Result<u64> {
    let path = name.map_or_else(|| "/proc/self/ns/net".into(), netns::path);
    fs::metadata(path).map(|namespace| namespace.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing can be made in the namespace a test runs in, but every dump and every monitor is there.
    #[tokio::test]
    async fn a_monitor_of_this_namespace_can_be_had() {
        let monitor = Monitor::open(None, &Arc::new(Notify::new())).unwrap();
        assert!(monitor.is_alive(None));
        assert!(!monitor.is_alive(Some("no-such-namespace")));
        assert!(Monitor::open(Some("no-such-namespace"), &Arc::new(Notify::new())).is_err());
    }
}
