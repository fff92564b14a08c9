//! What a packet costs when two cores work at once on the maps of one interface, against one core alone. A program that writes
//! to memory which another core writes to or reads for every packet shows here, and nowhere else.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{MapData, ProgramArray};
use nacl_common::Action;
use nacl_daemon::{
    compile::compile,
    dataplane::{BenchBed, Events, Options},
    resolve::{Interface, Mode},
};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

use crate::{
    Plan, Scale,
    kernel::{Hook, Kernel},
    out::Out,
    place::pin,
    row::{Cell, Row, measure},
    rules::{self, PROBES, Probe},
    test_run::{options, program},
};

const SYN: u8 = 2;
const ACK: u8 = 16;
/// Rules in the list.
const RULES: usize = 20;
/// Connections that are there already, as many as fit every cache.
const FLOWS: usize = 1024;

/// Everything there is to measure with both cores busy.
pub fn run(plan: &Plan, out: &mut Out) -> Result<()> {
    let cpus = cpus()?;
    let &[first, second, ..] = &cpus[..] else {
        return out.missing("both-cores", "this process may run on one CPU only");
    };
    let cpus = [first, second];
    let mut cells = Vec::new();
    for hook in [Hook::Xdp, Hook::Tc] {
        floor(plan, &mut cells, hook, cpus)?;
        let probes = rules::probes(&rules::entries(4, RULES), PROBES);
        let stateless = Scene { mode: "stateless", load: None, ..Scene::of(hook, [&probes, &probes]) };
        stateless.measure(plan, &mut cells, cpus)?;
        let flows = rules::flows(4, 2 * FLOWS);
        let (same, [own, others]) = (&flows[..FLOWS], [&flows[..FLOWS], &flows[FLOWS..]]);
        for (load, probes) in [("same flows", [same, same]), ("own flows", [own, others])] {
            let scene = Scene { mode: "established", load: Some(load), ..Scene::of(hook, probes) };
            scene.measure(plan, &mut cells, cpus)?;
        }
    }
    let many = if plan.scale == Scale::Smoke { 1 << 8 } else { 1 << 15 };
    let flows = rules::flows(4, 2 * many);
    let new = Scene { mode: "new", load: Some("own flows"), ..Scene::of(Hook::Xdp, [&flows[..many], &flows[many..]]) };
    new.measure(plan, &mut cells, cpus)?;
    let hot = [rules::hot(4)];
    for (load, events) in [("flood", Events::None), ("flood, events read", Events::Denied)] {
        let flood = Scene { mode: "stateless", load: Some(load), events, ..Scene::of(Hook::Xdp, [&hot, &hot]) };
        flood.measure(plan, &mut cells, cpus)?;
    }
    out.say(&format!("{} figures on CPUs {first} and {second}, {} rounds", cells.len(), plan.rounds));
    measure(cells, plan.rounds)?.iter().try_for_each(|row| out.row(row))
}

/// CPUs this process may run on.
pub fn cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

/// Does something on one CPU: whose probes come next is known by CPU.
pub fn on<T: Send>(cpu: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let pinned = scope.spawn(move || pin(Pid::from_raw(0), cpu).and_then(|()| work()));
        pinned.join().map_err(|_| anyhow!("a core's thread panicked"))?
    })
}

/// What one core sends: the frame, as one probe after the other, into a program that all cores share.
struct Lane {
    kernel: Kernel,
    /// The program that is run: one that scatters, or a floor.
    name: &'static str,
    _next: Option<ProgramArray<MapData>>,
}

/// Runs a frame so many times on each of these CPUs at once. The slowest one's nanoseconds of one run.
fn together(lanes: &mut [Lane], hook: Hook, cpus: [usize; 2], frame: &[u8], repeat: u32) -> Result<f64> {
    let start = Barrier::new(lanes.len());
    thread::scope(|scope| {
        let work = |(lane, cpu): (_, usize)| {
            let (lane, start): (&mut Lane, _) = (lane, &start);
            scope.spawn(move || {
                let pinned = pin(Pid::from_raw(0), cpu);
                start.wait();
                pinned?;
                Ok(lane.kernel.time(hook, lane.name, frame, repeat)?.0)
            })
        };
        let running: Vec<_> = lanes.iter_mut().zip(cpus).map(work).collect();
        let done = running.into_iter().map(|lane| lane.join().map_err(|_| anyhow!("a core's thread panicked"))?);
        let times: Vec<Duration> = done.collect::<Result<_>>()?;
        Ok(times.into_iter().max().context("no core")?.as_nanos() as f64)
    })
}

/// How much of `lanes` a variant uses.
const VARIANTS: [(&str, usize); 2] = [("one-core", 1), ("both-cores", 2)];

/// A program that touches no map: what two cores cost each other by being cores of this machine.
fn floor(plan: &Plan, cells: &mut Vec<Cell<'_>>, hook: Hook, cpus: [usize; 2]) -> Result<()> {
    let name = if hook == Hook::Xdp { "parse_only" } else { "parse_only_tc" };
    let lane = || -> Result<Lane> { Ok(Lane { kernel: Kernel::load()?, name, _next: None }) };
    let lanes = Rc::new(RefCell::new([lane()?, lane()?]));
    let repeat = plan.repeat;
    for (variant, cores) in VARIANTS {
        let mut row = Row::new("parse-only", "test_run", "stateless", 4, 0, "hot");
        (row.detail.hook, row.detail.variant) = (Some(hook.name()), Some(variant));
        let (lanes, frame) = (Rc::clone(&lanes), rules::frame(rules::hot(4), ACK));
        let take = move || together(&mut lanes.borrow_mut()[..cores], hook, cpus, &frame, repeat);
        cells.push(Cell { row, take: Box::new(take) });
    }
    Ok(())
}

/// What is sent to one interface by two cores.
struct Scene<'p> {
    hook: Hook,
    mode: &'static str,
    load: Option<&'static str>,
    events: Events,
    /// By core.
    probes: [&'p [Probe]; 2],
}

/// An interface under two cores.
struct Stage {
    bed: BenchBed,
    lanes: [Lane; 2],
}

impl<'p> Scene<'p> {
    const fn of(hook: Hook, probes: [&'p [Probe]; 2]) -> Self {
        Self { hook, mode: "stateless", load: None, events: Events::None, probes }
    }

    fn set(&self, cpu: usize) -> Result<Stage> {
        let mut entries = rules::entries(4, RULES);
        let stateful = self.mode != "stateless";
        if stateful {
            // What the flows match; without connections the hot packet is denied by it.
            entries[RULES - 1].action = Action::Allow;
        }
        let mode = if stateful { Mode::Stateful } else { Mode::Stateless };
        let mut interface = Interface { mode, ..rules::interface(&entries) };
        interface.tracking.entries = 1 << 17;
        let options = Options { events: self.events, ..options(&interface, self.hook) };
        let mut bed = BenchBed::load(&options, &compile(&interface, None)?, true)?;
        let next = bed.program(program(self.hook))?;
        let name = if self.hook == Hook::Xdp { "scatter" } else { "scatter_tc" };
        let lane = |probes: &[Probe]| {
            let mut kernel = Kernel::with(probes)?;
            let array = kernel.hand_to(&next)?;
            Ok::<_, anyhow::Error>(Lane { kernel, name, _next: Some(array) })
        };
        let mut lanes = [lane(self.probes[0])?, lane(self.probes[1])?];
        if self.mode == "established" {
            for (lane, probes) in lanes.iter_mut().zip(self.probes) {
                // A connection begins with SYN, and stands once somebody acknowledges.
                for flags in [SYN, ACK] {
                    let frame = rules::frame(rules::hot(4), flags);
                    on(cpu, || lane.kernel.time(self.hook, name, &frame, probes.len() as u32))?;
                }
            }
            let there = bed.flows()?.len();
            ensure!(there >= FLOWS, "{there} connections are remembered, {FLOWS} should be");
        }
        Ok(Stage { bed, lanes })
    }

    fn measure(&self, plan: &Plan, cells: &mut Vec<Cell<'_>>, cpus: [usize; 2]) -> Result<()> {
        let stage = Rc::new(RefCell::new(self.set(cpus[0])?));
        let (hook, new, read) = (self.hook, self.mode == "new", self.events != Events::None);
        for (variant, cores) in VARIANTS {
            let pattern = if self.probes[0].len() == 1 { "hot" } else { "random" };
            let mut row = Row::new(hook.name(), "test_run", self.mode, 4, RULES, pattern);
            row.detail.variant = Some(variant);
            row.detail.load = self.load;
            row.detail.flows = (self.mode == "established").then_some(FLOWS);
            let stage = Rc::clone(&stage);
            let frame = rules::frame(rules::hot(4), if new { SYN } else { ACK });
            // Each connection is new once.
            let repeat = if new { self.probes[0].len() as u32 } else { plan.repeat };
            let take = move || {
                let Stage { bed, lanes } = &mut *stage.borrow_mut();
                if new {
                    bed.forget()?;
                }
                let lanes = &mut lanes[..cores];
                if !read {
                    return together(lanes, hook, cpus, &frame, repeat);
                }
                let (over, events) = (AtomicBool::new(false), AtomicU64::new(0));
                let reader = bed.events();
                let figure = thread::scope(|scope| {
                    scope.spawn(|| {
                        while !over.load(Ordering::Acquire) {
                            while reader.next().is_some() {
                                events.fetch_add(1, Ordering::Relaxed);
                            }
                            thread::sleep(Duration::from_millis(1));
                        }
                    });
                    let figure = together(lanes, hook, cpus, &frame, repeat);
                    over.store(true, Ordering::Release);
                    figure
                })?;
                // Else nothing was measured of events at all.
                let taken = events.load(Ordering::Relaxed);
                let suppressed = bed.counters()?.events_suppressed;
                ensure!(taken + suppressed > 0, "a flood of denied packets, and no event");
                Ok(figure)
            };
            cells.push(Cell { row, take: Box::new(take) });
        }
        Ok(())
    }
}
