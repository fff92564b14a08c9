//! Counters and events → snapshots.
