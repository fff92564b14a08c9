//! Taking programs off an interface from outside: by asking the daemon that holds it, else by taking off what a daemon
//! that is gone has left. Needs no policy.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use nix::net::if_::if_nameindex;
use thiserror::Error;

use super::{
    DEFAULT_SOCKET,
    client::{Client, ClientError},
};
use crate::{
    dataplane::{self, DataplaneError, Store, Target},
    netns,
    observe::InterfaceStatus,
    report::{named, place},
};

/// Something that stays attached.
#[derive(Debug, Error)]
pub enum DetachError {
    /// A daemon that holds it did not do as asked.
    #[error("the nacld on {} holds {what} and did not let go", socket.display())]
    Daemon {
        /// Its socket.
        socket: PathBuf,
        /// What it holds.
        what: String,
        /// Why.
        source: ClientError,
    },
    /// The kernel would not.
    #[error("cannot take programs off {}", place(.target.name.as_str(), .target.netns.as_deref()))]
    Kernel {
        /// Which interface.
        target: Target,
        /// Why.
        source: Box<DataplaneError>,
    },
    /// What is attached cannot be seen.
    #[error("cannot look for what a nacld that is gone may have left")]
    Leftovers {
        /// Why.
        source: Box<DataplaneError>,
    },
    /// The interfaces cannot be listed.
    #[error("cannot list the interfaces{}", netns.as_ref().map(|netns| format!(" of netns {netns}")).unwrap_or_default())]
    List {
        /// Of which namespace.
        netns: Option<String>,
        /// Why.
        source: io::Error,
    },
}

/// Detaches one interface, with what is pinned for it below `state`. Returns what was done, one line each; nothing where there was nothing.
///
/// # Errors
/// See [`DetachError`].
pub async fn one(target: &Target, socket: &Path, state: &Path) -> Result<Vec<String>, DetachError> {
    for socket in sockets(socket) {
        let client = Client::new(&socket);
        let Ok(status) = client.status().await else { continue };
        // By device and namespace; without a namespace also by the name the daemon's policy has for it.
        let held = status.interfaces.iter().find(|held| held.device == target.name && held.netns == target.netns);
        let named = || status.interfaces.iter().find(|held| held.interface == target.name && target.netns.is_none());
        let Some(held) = held.or_else(named) else { continue };
        let what = named_place(held);
        let answer = client
            .detach(&held.device, held.netns.as_deref())
            .await
            .map_err(|source| DetachError::Daemon { socket: socket.clone(), what: what.clone(), source })?;
        let ends = if answer.stopping { ", which ends: nothing else was attached" } else { "" };
        return Ok(vec![format!("{what}: detached by the nacld with pid {}{ends}", status.pid)]);
    }
    let store = Store::existing(state);
    let done = leftovers(target, store.as_ref());
    if let Some(store) = store {
        store.close();
    }
    done
}

/// Detaches everything: ends every daemon that can be found, then looks at every interface of this and of every named
/// namespace. All are tried; what failed comes second.
pub async fn all(socket: &Path, state: &Path) -> (Vec<String>, Vec<DetachError>) {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for socket in sockets(socket) {
        let client = Client::new(&socket);
        let Ok(status) = client.status().await else { continue };
        match client.stop().await {
            Ok(answer) => {
                done.push(format!("nacld with pid {} ended: detached {}", status.pid, answer.detached.join(", ")));
            }
            Err(source) => failed.push(DetachError::Daemon { socket, what: "its interfaces".to_owned(), source }),
        }
    }
    // Said once, not for every interface there is.
    if let Err(source) = dataplane::may_look_around() {
        failed.push(DetachError::Leftovers { source: Box::new(source) });
        return (done, failed);
    }
    let store = Store::existing(state);
    for netns in namespaces() {
        let names = netns::within(netns.as_deref(), interface_names).and_then(|names| names);
        let names = match names {
            Ok(names) => names,
            Err(source) => {
                failed.push(DetachError::List { netns, source });
                continue;
            }
        };
        for name in names {
            let target = Target { name, netns: netns.clone() };
            match leftovers(&target, store.as_ref()) {
                Ok(lines) => done.extend(lines),
                Err(error) => failed.push(error),
            }
        }
    }
    if let Some(store) = store {
        done.extend(store.forget_the_dead());
        store.close();
    }
    (done, failed)
}

fn named_place(held: &InterfaceStatus) -> String {
    named(&held.interface, &held.device, held.netns.as_deref())
}

fn leftovers(target: &Target, store: Option<&Store>) -> Result<Vec<String>, DetachError> {
    let what = place(&target.name, target.netns.as_deref());
    dataplane::detach_leftovers(target, store)
        .map(|lines| lines.into_iter().map(|line| format!("{what}: {line}")).collect())
        .map_err(|source| DetachError::Kernel { target: target.clone(), source: Box::new(source) })
}

/// The socket that was named, and every other in the usual place.
fn sockets(named: &Path) -> BTreeSet<PathBuf> {
    let usual = Path::new(DEFAULT_SOCKET).parent().and_then(|directory| fs::read_dir(directory).ok());
    let others = usual.into_iter().flatten().flatten().map(|entry| entry.path());
    others
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .chain([named.to_owned()])
        .collect()
}

/// This namespace, and every one with a name.
pub(crate) fn namespaces() -> Vec<Option<String>> {
    let entries = fs::read_dir(netns::path("")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok()).map(Some);
    [None].into_iter().chain(names).collect()
}

/// Names of the interfaces of this thread's namespace.
pub(crate) fn interface_names() -> io::Result<Vec<String>> {
    let all = if_nameindex()?;
    Ok(all.iter().filter_map(|interface| interface.name().to_str().ok().map(str::to_owned)).collect())
}
