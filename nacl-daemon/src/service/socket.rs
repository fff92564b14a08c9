//! The daemon's socket in the file system: made for one daemon, told apart from one that a crash left, and removed.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Group,
};
use socket2::{Domain, SockAddr, Type};
use thiserror::Error;
use tokio::net::UnixListener;

/// Who may open it: its owner, and the group the file is given. What they may do then is said by `access`.
const MODE: u32 = 0o660;
/// A directory that is made for it can be passed by all: the file says who may go on.
const DIRECTORY: u32 = 0o755;

/// A socket that cannot be had.
#[derive(Debug, Error)]
pub enum SocketError {
    /// A daemon is there already.
    #[error("another nacld{} listens on {} already", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display())]
    Taken {
        /// Where.
        path: PathBuf,
        /// Which process.
        pid: Option<i32>,
    },
    /// Something else is there.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// There is no such group.
    #[error("there is no group {0:?} for the socket")]
    NoGroup(String),
    /// It cannot be given to the group.
    #[error("the socket {} cannot be given to the group {group:?}", path.display())]
    Group {
        /// Where.
        path: PathBuf,
        /// Which group.
        group: String,
        /// Why.
        source: io::Error,
    },
    /// The file system would not.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SocketError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Taken { .. } => Some(
                "`nacld status` shows what it enforces, `nacld detach --all` ends it; --socket PATH runs a second one"
                    .to_owned(),
            ),
            Self::NoGroup(group) => Some(format!("`groupadd --system {group}` makes it; or name another with --socket-group")),
            Self::Group { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "without root a file can only be given to a group one is a member of; name such a one with --socket-group"
                    .to_owned(),
            ),
            Self::NotASocket { .. } => Some("choose another path with --socket".to_owned()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or choose a path of your own with --socket".to_owned())
            }
            Self::Group { .. } | Self::Io { .. } => None,
        }
    }
}

/// A bound socket. Dropping it removes the file, and the directory if it was made for it.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    inode: u64,
    made: Option<PathBuf>,
    listener: Option<std::os::unix::net::UnixListener>,
}

impl Socket {
    /// Binds and listens. A socket file nobody listens on is replaced. `group`: by name or number, whose members may open
    /// it.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        let gid = group.map(group_id).transpose()?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = (!directory.exists()).then(|| directory.to_owned());
        fs::create_dir_all(directory).map_err(io)?;
        if let Some(made) = &made {
            // Whatever the umask was.
            fs::set_permissions(made, Permissions::from_mode(DIRECTORY)).map_err(io)?;
        }
        // Two daemons that start at once must not both find the same stale file and remove each other's new one.
        let lock = Flock::lock(File::open(directory).map_err(io)?, FlockArg::LockExclusive)
            .map_err(|(_, error)| io(error.into()))?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
            Ok(there) if !there.file_type().is_socket() => {
                return Err(SocketError::NotASocket { path: path.to_owned() });
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tracing::info!(socket = %path.display(), "replacing a socket that a daemon left which is gone");
                    fs::remove_file(path).map_err(io)?;
                }
                Err(error) => return Err(io(error)),
                Ok(stream) => return Err(SocketError::Taken { path: path.to_owned(), pid: peer(&stream) }),
            },
        }
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io)?;
        socket.bind(&SockAddr::unix(path).map_err(io)?).map_err(io)?;
        // Not open to anyone before its permissions are right: connecting needs listen().
        let given = match gid {
            Some(gid) => chown(path, None, Some(gid)).map_err(|source| SocketError::Group {
                path: path.to_owned(),
                group: group.unwrap_or_default().to_owned(),
                source,
            }),
            None => Ok(()),
        };
        let bound = given.and_then(|()| {
            fs::set_permissions(path, Permissions::from_mode(MODE))
                .and_then(|()| socket.listen(64))
                .and_then(|()| socket.set_nonblocking(true))
                .and_then(|()| fs::metadata(path))
                .map_err(io)
        });
        let metadata = bound.inspect_err(|_| drop(fs::remove_file(path)))?;
        drop(lock);
        Ok(Self { path: path.to_owned(), inode: metadata.ino(), made, listener: Some(socket.into()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, once; inside a tokio runtime.
    ///
    /// # Errors
    /// It was taken before, or tokio would not have it.
    pub fn listener(&mut self) -> io::Result<UnixListener> {
        let listener = self.listener.take().ok_or_else(|| io::Error::other("the listener was taken before"))?;
        UnixListener::from_std(listener)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have removed ours and another daemon made its own since.
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(directory) = &self.made {
            // Fails where something else is in it by now, and then it is not ours to remove.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// The number of a group, by its name or number.
fn group_id(group: &str) -> Result<u32, SocketError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    match Group::from_name(group) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(SocketError::NoGroup(group.to_owned())),
    }
}

fn peer(stream: &UnixStream) -> Option<i32> {
    nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials).ok().map(|peer| peer.pid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_about_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nacld.sock");
        let first = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let error = Socket::bind(&path, None).unwrap_err();
        assert!(
            matches!(error, SocketError::Taken { pid: Some(pid), .. } if pid == std::process::id().cast_signed()),
            "{error}"
        );
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_replaced_and_anything_else_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nacld.sock");
        // Bound by std and dropped: the file stays, as after a crash.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Socket::bind(&path, None).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path, None), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn only_a_directory_made_for_it_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("nacld");
        drop(Socket::bind(&inner.join("a.sock"), None).unwrap());
        assert!(!inner.exists());
        let first = Socket::bind(&inner.join("a.sock"), None).unwrap();
        let second = Socket::bind(&inner.join("b.sock"), None).unwrap();
        drop(first);
        assert!(second.path().exists());
    }

    #[test]
    fn a_group_may_be_named_and_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run").join("nacld.sock");
        let own = nix::unistd::getegid();
        let name = Group::from_gid(own).unwrap().expect("the group this runs as").name;
        for group in [name, own.to_string()] {
            let socket = Socket::bind(&path, Some(&group)).unwrap();
            let (file, above) = (fs::metadata(&path).unwrap(), fs::metadata(path.parent().unwrap()).unwrap());
            assert_eq!((file.gid(), file.mode() & 0o777, above.mode() & 0o777), (own.as_raw(), MODE, DIRECTORY));
            drop(socket);
        }
        let error = Socket::bind(&path, Some("no-such-group")).unwrap_err();
        assert!(error.hint().unwrap().contains("groupadd"), "{error}");
        assert!(!path.exists() && !path.parent().unwrap().exists(), "nothing is left");
    }
}
