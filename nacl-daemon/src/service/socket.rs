//! The daemon's socket in the file system: made for one daemon, told apart from one that a crash left, and removed.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use socket2::{Domain, SockAddr, Type};
use thiserror::Error;
use tokio::net::UnixListener;

/// Who may use it: root, and the group the file is given.
const MODE: u32 = 0o660;

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
            Self::NotASocket { .. } => Some("choose another path with --socket".to_owned()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or choose a path of your own with --socket".to_owned())
            }
            Self::Io { .. } => None,
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
    /// Binds and listens. A socket file nobody listens on is replaced.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = (!directory.exists()).then(|| directory.to_owned());
        fs::create_dir_all(directory).map_err(io)?;
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
                    tracing::info!("{} was left by a daemon that is gone; replacing it", path.display());
                    fs::remove_file(path).map_err(io)?;
                }
                Err(error) => return Err(io(error)),
                Ok(stream) => return Err(SocketError::Taken { path: path.to_owned(), pid: peer(&stream) }),
            },
        }
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io)?;
        socket.bind(&SockAddr::unix(path).map_err(io)?).map_err(io)?;
        // Not open to anyone before its permissions are right: connecting needs listen().
        let bound = fs::set_permissions(path, Permissions::from_mode(MODE))
            .and_then(|()| socket.listen(64))
            .and_then(|()| socket.set_nonblocking(true))
            .and_then(|()| fs::metadata(path));
        let metadata = bound.map_err(|error| {
            let _ = fs::remove_file(path);
            io(error)
        })?;
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
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let error = Socket::bind(&path).unwrap_err();
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
        drop(Socket::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn only_a_directory_made_for_it_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("nacld");
        drop(Socket::bind(&inner.join("a.sock")).unwrap());
        assert!(!inner.exists());
        let first = Socket::bind(&inner.join("a.sock")).unwrap();
        let second = Socket::bind(&inner.join("b.sock")).unwrap();
        drop(first);
        assert!(second.path().exists());
    }
}
