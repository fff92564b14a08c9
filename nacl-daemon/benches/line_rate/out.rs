//! What the benchmark says: one JSON object a line on standard output, told apart by `kind`; how far it is on standard
//! error. Every kind of line is here. `xtask` reads them (`xtask/src/bench/lines.rs`); nothing is computed here.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

use crate::row::Row;

/// A line of output.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line<'a> {
    /// The machine and the plan; the first line.
    Machine {
        /// Kernel release.
        kernel: &'a str,
        /// The CPU's name for itself.
        cpu: &'a str,
        /// CPUs that are online.
        cores: usize,
        /// Their clock when the run began.
        mhz: u32,
        /// What the kernel does against flaws of the CPU, one string a flaw; flaws it does not have are left out.
        mitigations: &'a [String],
        /// `net.core.bpf_jit_enable` and `net.core.bpf_jit_harden`.
        jit: [Option<u32>; 2],
        /// A quick run.
        quick: bool,
        /// The parts that are measured.
        parts: &'a [&'a str],
        /// How often each figure is taken.
        rounds: usize,
    },
    /// One figure.
    Row(&'a Row),
    /// What the kernel's verifier walked to accept a program.
    Verifier {
        /// The program.
        program: &'a str,
        /// Instructions.
        instructions: u32,
    },
    /// Bytes of the kernel's maps.
    Memory {
        /// `typical`, `adversarial`, `prefix-list`, `interfaces`, `tracked` (connections are), `tracked-full`.
        shape: &'a str,
        /// Rules in the list.
        rules: usize,
        /// Interfaces.
        interfaces: usize,
        /// `small`, `medium`, `large`.
        tier: &'a str,
        /// `tables` or `rows`.
        form: &'a str,
        /// Bytes.
        bytes: u64,
        /// Of what: `generation`, `counters`, `connections`, `all`.
        of: &'a str,
    },
    /// How long the daemon takes for something, in microseconds.
    Time {
        /// `compile`, `upload`, `switch`; `reload`, which is all of them and reading the policy; `attach`.
        what: &'a str,
        /// `typical`, `adversarial`, `prefix-list`, `interfaces`.
        shape: &'a str,
        /// Rules in the list.
        rules: usize,
        /// Interfaces of that policy.
        interfaces: usize,
        /// Smallest of all rounds.
        us_min: f64,
        /// Half of the rounds were faster.
        us_median: f64,
        /// Largest.
        us_max: f64,
    },
    /// What was to be measured and was not.
    Missing {
        /// What.
        what: &'a str,
        /// Why, and what would help.
        why: &'a str,
    },
    /// What a peer cannot express.
    Limit {
        /// The peer.
        subject: &'a str,
        /// What it cannot.
        why: &'a str,
    },
    /// The last line; without it the run was not finished.
    End {
        /// How long it took.
        seconds: u64,
        /// Share of the time of all CPUs that the hypervisor gave to others meanwhile.
        steal_percent: f64,
    },
}

/// Where lines go.
pub struct Out(io::Stdout);

impl Out {
    /// To standard output.
    pub fn new() -> Self {
        Self(io::stdout())
    }

    /// Writes a figure.
    pub fn row(&mut self, row: &Row) -> Result<()> {
        self.line(&Line::Row(row))
    }

    /// Writes a line.
    pub fn line(&mut self, line: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.0, line)?;
        writeln!(self.0)?;
        // Whoever reads a pipe sees each line at once.
        Ok(self.0.flush()?)
    }

    /// Says what is left out, here and in the output.
    pub fn missing(&mut self, what: &str, why: &str) -> Result<()> {
        self.say(&format!("LEFT OUT: {what}: {why}"));
        self.line(&Line::Missing { what, why })
    }

    /// Says how far it is.
    #[expect(clippy::unused_self, reason = "one place to write to")]
    pub fn say(&self, what: &str) {
        eprintln!("bench: {what}");
    }
}
