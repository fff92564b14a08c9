//! The running daemon: state, signals, and the HTTP API on a unix socket.

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/nacld/nacld.sock";
