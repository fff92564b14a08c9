//! `nacld`: see `nacld --help`.
fn main() {}
