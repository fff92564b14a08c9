//! `cargo xtask bench`: what a packet costs, nacld and its peers side by side in one run. It measures and prints rows of
//! JSON, one a line; `xtask` makes tables, pictures and pages of them. Needs root; every packet stays in namespaces of
//! its own.

mod kernel;
mod row;
mod rules;
mod test_run;

use std::io::Write;

use anyhow::Result;

/// How much is measured.
pub struct Plan {
    /// Numbers of rules.
    pub sizes: Vec<usize>,
    /// How often each figure is taken.
    pub rounds: usize,
    /// Packets of one figure of a program alone.
    pub repeat: u32,
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let plan = if quick {
        Plan { sizes: rules::SIZES.to_vec(), rounds: 5, repeat: 200_000 }
    } else {
        Plan { sizes: rules::SIZES.to_vec(), rounds: 15, repeat: 1_000_000 }
    };
    let mut out = std::io::stdout().lock();
    for row in test_run::run(&plan)? {
        writeln!(out, "{}", serde_json::to_string(&row)?)?;
    }
    Ok(())
}
