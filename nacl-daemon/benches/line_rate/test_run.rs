//! The programs alone, by BPF_PROG_TEST_RUN: what a packet costs without a network around it. The kernel reports whole
//! nanoseconds.

use std::{cell::RefCell, rc::Rc};

use anyhow::{Context, Result, ensure};
use nacl_daemon::{
    compile::{Compiled, compile},
    dataplane::{BenchBed, Events, LogOptions, Options, Program},
    resolve::{Interface, Layers, Side},
};

use crate::{
    Plan,
    kernel::{Hook, Kernel},
    out::Out,
    row::{Cell, Detail, Row, measure},
    rules::{self, PROBES},
    scaling::{cpus, on},
};

const SYN: u8 = 2;
const ACK: u8 = 16;
/// Rules where it is not their number that is measured.
const RULES: usize = 20;
/// Connections that are remembered.
const FLOWS: [usize; 3] = [1000, 65_000, 200_000];
/// New connections in a row.
const NEW: usize = 50_000;

/// Everything there is to measure this way. On one CPU: which probe comes next is known by CPU, and whoever is moved to another
/// one in the middle of them begins again.
pub fn run(plan: &Plan, out: &mut Out) -> Result<()> {
    let cpu = *cpus()?.first().context("this process may run on no CPU")?;
    on(cpu, || everything(plan, out))
}

fn everything(plan: &Plan, out: &mut Out) -> Result<()> {
    let mut cells = Vec::new();
    for family in [4, 6] {
        floors(plan, &mut cells, family)?;
        for &size in &plan.sizes {
            stateless(plan, &mut cells, family, size)?;
        }
        variants(plan, &mut cells, family)?;
        for hook in [Hook::Xdp, Hook::Tc] {
            for flows in FLOWS {
                remembered(plan, &mut cells, hook, family, Layers::Nacl, flows)?;
            }
            for layers in [Layers::Groups, Layers::Both] {
                remembered(plan, &mut cells, hook, family, layers, FLOWS[0])?;
            }
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
        // One for both patterns: loading takes the verifier half a second.
        let bed = Rc::new(RefCell::new(bed(&interface, &compiled, hook, true)?));
        let next = bed.borrow_mut().program(program(hook))?;
        let (hot, frame) = (Rc::clone(&bed), rules::frame(rules::hot(family), ACK));
        let take = move || Ok(nanoseconds(hot.borrow_mut().time(program(hook), &frame, repeat)?));
        cells.push(Cell { row: row.clone(), take: Box::new(take) });
        row.pattern = "random";
        let kernel = Kernel::with(&rules::probes(&entries, PROBES))?;
        cells.push(scattered(row, plan, hook, kernel, &next, bed)?);
    }
    Ok(())
}

/// What counting costs, telling of what was denied, and a flow log: of one flow, and of as many as there are probes.
fn variants(plan: &Plan, cells: &mut Vec<Cell<'_>>, family: u8) -> Result<()> {
    let repeat = plan.repeat;
    let entries = rules::entries(family, RULES);
    let interface = rules::interface(&entries);
    let compiled = compile(&interface, None)?;
    let logged = LogOptions { accepted: true, rejected: true, entries: 2 * PROBES as u32 };
    for hook in [Hook::Xdp, Hook::Tc] {
        let row = |variant, pattern| {
            let mut row = Row::new(hook.name(), "test_run", "stateless", family, RULES, pattern);
            row.detail.variant = Some(variant);
            row
        };
        for (variant, counted, events, flow_log) in [
            ("uncounted", false, Events::None, None),
            ("events", true, Events::Denied, None),
            ("flow log", true, Events::None, Some(logged)),
        ] {
            let options = Options { events, flow_log, ..options(&interface, hook) };
            let mut bed = BenchBed::load(&options, &compiled, counted)?;
            let frame = rules::frame(rules::hot(family), ACK);
            let take = move || Ok(nanoseconds(bed.time(program(hook), &frame, repeat)?));
            cells.push(Cell { row: row(variant, "hot"), take: Box::new(take) });
        }
        let options = Options { flow_log: Some(logged), ..options(&interface, hook) };
        let mut bed = BenchBed::load(&options, &compiled, true)?;
        let next = bed.program(program(hook))?;
        let kernel = Kernel::with(&rules::probes(&entries, PROBES))?;
        cells.push(scattered(row("flow log", "random"), plan, hook, kernel, &next, bed)?);
    }
    Ok(())
}

/// Packets of connections that are remembered, and the first packets of new ones.
fn remembered(
    plan: &Plan,
    cells: &mut Vec<Cell<'_>>,
    hook: Hook,
    family: u8,
    layers: Layers,
    flows: usize,
) -> Result<()> {
    let entries = rules::entries(family, RULES);
    let name = if hook == Hook::Xdp { "scatter" } else { "scatter_tc" };
    let [syn, ack] = [SYN, ACK].map(|flags| rules::frame(rules::hot(family), flags));
    let mut row = Row::new(hook.name(), "test_run", "established", family, RULES, "random");
    row.detail.layers = match layers {
        Layers::Nacl => None,
        Layers::Groups => Some("groups"),
        Layers::Both => Some("both"),
    };
    let load = |flows: usize| -> Result<_> {
        let interface = rules::remembering(&entries, layers, flows);
        let compiled = compile(&interface, None)?;
        let mut bed = bed(&interface, &compiled, hook, true)?;
        let mut kernel = Kernel::with(&rules::flows(family, flows))?;
        let array = kernel.hand_to(&bed.program(program(hook))?)?;
        Ok((bed, kernel, array))
    };
    let (bed, mut kernel, array) = load(flows)?;
    kernel.time(hook, name, &syn, flows as u32)?;
    let there = bed.flows()?.len();
    ensure!(there == flows, "{there} of {flows} connections are remembered");
    let repeat = plan.repeat.max(flows as u32);
    let take = move || {
        let _kept = (&array, &bed);
        Ok(nanoseconds(kernel.time(hook, name, &ack, repeat)?))
    };
    let established = Row { detail: Detail { flows: Some(flows), ..row.detail.clone() }, ..row.clone() };
    cells.push(Cell { row: established, take: Box::new(take) });
    if flows == FLOWS[0] {
        let (mut bed, mut kernel, array) = load(NEW)?;
        row.mode = "new";
        let take = move || {
            let _kept = &array;
            bed.forget()?;
            Ok(nanoseconds(kernel.time(hook, name, &syn, NEW as u32)?))
        };
        cells.push(Cell { row, take: Box::new(take) });
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
