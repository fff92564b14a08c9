//! The programs alone, by BPF_PROG_TEST_RUN: what a packet costs without a network around it. The kernel reports whole
//! nanoseconds.

use anyhow::Result;
use nacl_daemon::{
    compile::{Compiled, compile},
    dataplane::{BenchBed, Events, Options, Program},
    resolve::{Interface, Side},
};

use crate::{
    Plan,
    kernel::{Hook, Kernel},
    out::Out,
    row::{Cell, Row, measure},
    rules::{self, PROBES},
};

const ACK: u8 = 16;

/// Everything there is to measure this way.
pub fn run(plan: &Plan, out: &mut Out) -> Result<()> {
    let mut cells = Vec::new();
    for family in [4, 6] {
        floors(plan, &mut cells, family)?;
        for &size in &plan.sizes {
            stateless(plan, &mut cells, family, size)?;
        }
    }
    out.say(&format!("{} figures, {} rounds", cells.len(), plan.rounds));
    measure(cells, plan.rounds)?.iter().try_for_each(|row| out.row(row))
}

/// Settings under which both hooks ask the inbound list about the source: TC measures egress, on the router's side.
pub fn options(interface: &Interface, hook: Hook) -> Options {
    let side = if hook == Hook::Tc { Side::Router } else { Side::Host };
    Options { events: Events::None, side, ..Options::from(interface) }
}

/// Nacld's program at a hook.
pub const fn program(hook: Hook) -> Program {
    match hook {
        Hook::Xdp => Program::Xdp,
        Hook::Tc => Program::TcEgress,
    }
}

fn floors(plan: &Plan, cells: &mut Vec<Cell<'_>>, family: u8) -> Result<()> {
    let repeat = plan.repeat;
    for hook in [Hook::Xdp, Hook::Tc] {
        for subject in ["bare", "parse-only"] {
            let name = match (subject, hook) {
                ("bare", Hook::Xdp) => "bare",
                ("bare", Hook::Tc) => "bare_tc",
                (_, Hook::Xdp) => "parse_only",
                (_, Hook::Tc) => "parse_only_tc",
            };
            let mut row = Row::new(subject, "test_run", "stateless", family, 0, "hot");
            row.detail.hook = Some(hook.name());
            let mut kernel = Kernel::load()?;
            let frame = rules::frame(rules::hot(family), ACK);
            let take = move || Ok(nanoseconds(kernel.time(hook, name, &frame, repeat)?));
            cells.push(Cell { row: row.clone(), take: Box::new(take) });
            row.pattern = "random";
            let probes = rules::probes(&rules::entries(family, 100), PROBES);
            let mut kernel = Kernel::with(&probes)?;
            let next = kernel.program(hook, name)?;
            cells.push(scattered(row, plan, hook, kernel, &next, ())?);
        }
    }
    Ok(())
}

fn stateless(plan: &Plan, cells: &mut Vec<Cell<'_>>, family: u8, size: usize) -> Result<()> {
    let entries = rules::entries(family, size);
    let interface = rules::interface(&entries);
    let compiled = compile(&interface, None)?;
    let repeat = plan.repeat;
    for hook in [Hook::Xdp, Hook::Tc] {
        let mut row = Row::new(hook.name(), "test_run", "stateless", family, size, "hot");
        let mut bed = bed(&interface, &compiled, hook, true)?;
        let frame = rules::frame(rules::hot(family), ACK);
        let take = move || Ok(nanoseconds(bed.time(program(hook), &frame, repeat)?));
        cells.push(Cell { row: row.clone(), take: Box::new(take) });
        row.pattern = "random";
        let mut bed = self::bed(&interface, &compiled, hook, true)?;
        let next = bed.program(program(hook))?;
        let kernel = Kernel::with(&rules::probes(&entries, PROBES))?;
        cells.push(scattered(row, plan, hook, kernel, &next, bed)?);
    }
    Ok(())
}

fn bed(interface: &Interface, compiled: &Compiled, hook: Hook, counted: bool) -> Result<BenchBed> {
    Ok(BenchBed::load(&options(interface, hook), compiled, counted)?)
}

/// Scatters frames into a program that `keep` keeps alive.
fn scattered<K: 'static>(
    row: Row,
    plan: &Plan,
    hook: Hook,
    mut kernel: Kernel,
    next: &aya::programs::ProgramFd,
    keep: K,
) -> Result<Cell<'static>> {
    let repeat = plan.repeat;
    let array = kernel.hand_to(next)?;
    let frame = rules::frame(rules::hot(row.family), ACK);
    let name = if hook == Hook::Xdp { "scatter" } else { "scatter_tc" };
    let take = move || {
        let _kept = (&array, &keep);
        Ok(nanoseconds(kernel.time(hook, name, &frame, repeat)?))
    };
    Ok(Cell { row, take: Box::new(take) })
}

fn nanoseconds((duration, _): (std::time::Duration, u32)) -> f64 {
    duration.as_nanos() as f64
}
