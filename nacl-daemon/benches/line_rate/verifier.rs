//! What the kernel's verifier walks to accept each of nacld's programs.

use anyhow::Result;
use nacl_daemon::{compile::compile, dataplane::BenchBed};

use crate::{
    kernel::Hook,
    out::{Line, Out},
    rules, test_run,
};

/// Loads the programs as an interface gets them. What the verifier walks does not depend on the policy.
pub fn run(out: &mut Out) -> Result<()> {
    let interface = rules::interface(&rules::entries(4, 1));
    let mut bed = BenchBed::load(&test_run::options(&interface, Hook::Xdp), &compile(&interface, None)?, true)?;
    for (program, instructions) in bed.verified()? {
        if instructions == 0 {
            out.missing(&format!("verifier cost of {program}"), "the kernel does not tell (Linux 5.16 and later do)")?;
        } else {
            out.line(&Line::Verifier { program, instructions })?;
        }
    }
    Ok(())
}
