//! The TOML as it was written, with spans, and every diagnostic about it at once. No I/O.
