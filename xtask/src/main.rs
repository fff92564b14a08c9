//! Set-up, build, tests and labs: `cargo xtask --help`.
fn main() {}
