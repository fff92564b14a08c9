//! The running daemon: state, signals, and the HTTP API on a unix socket.
