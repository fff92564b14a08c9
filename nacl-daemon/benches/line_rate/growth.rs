//! How nacld grows: what the kernel's maps take by rules, prefixes and interfaces, how long a new policy takes to come into
//! force, and what a packet costs where rows of bits have taken over from tables.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use nacl_common::{
    Action,
    border::{Header, List, Tier},
};
use nacl_daemon::{
    compile::{CompileError, Compiled, Generation, compile},
    dataplane::{BenchBed, generation_bytes},
    observe::Memory,
    resolve::{Group, GroupRule, Interface, Mode, Peer, Protocol},
    service::{
        Service,
        load::File,
        plane::Kernel as RealKernel,
        state::{Settings, State},
    },
};

use crate::{
    Plan, Scale,
    kernel::{Hook, Kernel},
    out::{Line, Out},
    row::{Cell, Row, measure},
    rules::{self, Entry},
    scaling,
    test_run::{options, program},
};

/// Everything there is to measure of growth.
pub fn run(plan: &Plan, out: &mut Out) -> Result<()> {
    for shape in [Shape::Typical, Shape::Adversarial] {
        for &size in &plan.sizes {
            out.say(&format!("{size} {} rules: memory, compile, upload, switch", shape.name()));
            match of_size(plan, out, shape, size) {
                // What does not fit is refused with the figure, which is what is to be told of it.
                Err(error) if error.is::<CompileError>() => {
                    let why = format!("{size} {} rules: {error}", shape.name());
                    out.line(&Line::Limit { subject: "nacld", why: &why })?;
                }
                done => done?,
            }
        }
    }
    prefix_list(plan, out)?;
    tracked(plan, out)?;
    crossover(plan, out)?;
    if let Err(error) = Command::new("ip").arg("-V").stdout(Stdio::null()).status() {
        out.missing("reloads and many interfaces", &format!("no `ip` ({error}): apt-get install iproute2"))?;
        return Ok(());
    }
    reloads(plan, out)?;
    interfaces(plan, out)
}

/// What lists look like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As those of all other parts.
    Typical,
    /// Each rule has a prefix and a range of ports of its own, and the ranges overlap: no two rules share a class.
    Adversarial,
    /// As adversarial, but with 700 ranges at most: what rows still hold at 5000 rules.
    Crossing,
}

impl Shape {
    const fn name(self) -> &'static str {
        match self {
            Self::Typical => "typical",
            Self::Adversarial => "adversarial",
            Self::Crossing => "crossing",
        }
    }

    fn entries(self, rules: usize) -> Vec<Entry> {
        match self {
            Self::Typical => rules::entries(4, rules),
            Self::Adversarial => (0..rules as u16).map(|rule| overlapping(rule, rule)).collect(),
            Self::Crossing => (0..rules as u16).map(|rule| overlapping(rule, rule % 700)).collect(),
        }
    }
}

/// A prefix by one number, a range of ports by the other.
fn overlapping(index: u16, range: u16) -> Entry {
    let first = 1 + range * 5;
    let cidr = Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 | u32::from(index) << 8), 24).expect("a prefix");
    let action = if index.is_multiple_of(2) { Action::Allow } else { Action::Deny };
    Entry { cidr: cidr.into(), ports: (first, first + 2000), action }
}

fn header(compiled: &Compiled) -> &Header {
    match &compiled.generation {
        Generation::Small(image) => &image.header,
        Generation::Medium(image) => &image.header,
        Generation::Large(image) => &image.header,
    }
}

fn form(compiled: &Compiled) -> &'static str {
    if header(compiled).lists.iter().any(|list| list.form == List::ROWS) { "rows" } else { "tables" }
}

fn tier(compiled: &Compiled) -> &'static str {
    match compiled.generation.tier() {
        Tier::Small => "small",
        Tier::Medium => "medium",
        Tier::Large => "large",
    }
}

/// Of which every line of memory tells.
struct Of<'a> {
    shape: &'a str,
    rules: usize,
    interfaces: usize,
    compiled: &'a Compiled,
}

impl Of<'_> {
    fn tell(&self, out: &mut Out, memory: Memory) -> Result<()> {
        let Memory { generations, counters, connections, other } = memory;
        let all = generations + counters + connections + other;
        let parts = [("generation", generations), ("counters", counters), ("connections", connections), ("all", all)];
        let Self { shape, rules, interfaces, compiled } = *self;
        let (tier, form) = (tier(compiled), form(compiled));
        parts
            .into_iter()
            .try_for_each(|(of, bytes)| out.line(&Line::Memory { shape, rules, interfaces, tier, form, bytes, of }))
    }
}

fn memory(bed: &BenchBed) -> Result<Memory> {
    let nacl_daemon::dataplane::Memory { generations, counters, connections, other } = bed.memory()?;
    Ok(Memory { generations, counters, connections, other })
}

/// How long something took, each time it was done.
struct Times {
    what: &'static str,
    shape: &'static str,
    rules: usize,
    interfaces: usize,
    taken: Vec<Duration>,
}

impl Times {
    fn new(what: &'static str, shape: &'static str, rules: usize) -> Self {
        Self { what, shape, rules, interfaces: 1, taken: Vec::new() }
    }

    fn take<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = work()?;
        self.taken.push(start.elapsed());
        Ok(done)
    }

    fn tell(mut self, out: &mut Out) -> Result<()> {
        self.taken.sort_unstable();
        let us = |index: usize| self.taken[index].as_secs_f64() * 1e6;
        let (last, Self { what, shape, rules, interfaces, .. }) = (self.taken.len() - 1, &self);
        let (us_min, us_median, us_max) = (us(0), us(last / 2), us(last));
        out.line(&Line::Time { what, shape, rules: *rules, interfaces: *interfaces, us_min, us_median, us_max })
    }
}

/// Memory of one list, and how long each step takes that brings it into force.
fn of_size(plan: &Plan, out: &mut Out, shape: Shape, size: usize) -> Result<()> {
    let name = shape.name();
    let mut entries = shape.entries(size);
    let one = rules::interface(&entries);
    // Another list of the same size: what is switched to must not be there already.
    entries[0].ports.1 += 1;
    let other = rules::interface(&entries);
    let [mut compiling, mut uploading, mut switching] =
        ["compile", "upload", "switch"].map(|what| Times::new(what, name, size));
    for _ in 0..plan.slow_rounds {
        compiling.take(|| Ok(compile(&one, None)?))?;
    }
    let (one, other) = ([compile(&one, None)?, compile(&other, None)?], options(&one, Hook::Xdp));
    let (both, settings) = (one, other);
    let mut bed = BenchBed::load(&settings, &both[0], true)?;
    Of { shape: name, rules: size, interfaces: 1, compiled: &both[0] }.tell(out, memory(&bed)?)?;
    for _ in 0..plan.slow_rounds {
        drop(uploading.take(|| Ok(bed.upload(&both[1])?))?);
    }
    let _there = [bed.upload(&both[0])?, bed.upload(&both[1])?];
    for round in 0..plan.slow_rounds {
        switching.take(|| Ok(bed.install(&settings, &both[(round + 1) % 2])?))?;
    }
    for times in [compiling, uploading, switching] {
        times.tell(out)?;
    }
    Ok(())
}

/// One rule of a security group whose source is a prefix list of 10,000 entries.
fn prefix_list(plan: &Plan, out: &mut Out) -> Result<()> {
    const ENTRIES: u32 = 10_000;
    // Of the usual lengths, spread over the address space.
    let cidr = |index: u32| {
        let address = Ipv4Addr::from(index.wrapping_mul(0x9e37_79b1));
        IpNet::new(address.into(), [24, 20, 28, 32, 22][index as usize % 5]).expect("a prefix").trunc()
    };
    let (peer, cidrs) = (Peer::PrefixList("long".into()), (0..ENTRIES).map(cidr).collect());
    let rule = GroupRule { line: 1, ..GroupRule::new(Protocol::Number(6), Some((443, 443)), peer, cidrs) };
    let group = Group { name: "sg".into(), id: None, inbound: vec![rule], outbound: Vec::new() };
    let interface = Interface { groups: Some(vec![Arc::new(group)]), ..rules::interface(&rules::entries(4, 20)) };
    let mut compiling = Times::new("compile", "prefix-list", 1);
    for _ in 0..plan.slow_rounds {
        compiling.take(|| Ok(compile(&interface, None)?))?;
    }
    compiling.tell(out)?;
    let compiled = compile(&interface, None)?;
    let bed = BenchBed::load(&options(&interface, Hook::Xdp), &compiled, true)?;
    Of { shape: "prefix-list", rules: 1, interfaces: 1, compiled: &compiled }.tell(out, memory(&bed)?)
}

/// An interface that tracks: with no connection yet, and with its table full.
fn tracked(plan: &Plan, out: &mut Out) -> Result<()> {
    const SYN: u8 = 2;
    let mut entries = rules::entries(4, 20);
    entries[19].action = Action::Allow;
    let mut interface = Interface { mode: Mode::Stateful, ..rules::interface(&entries) };
    // Rows of the page are of this size, whatever the default is.
    interface.tracking.entries = 1 << 16;
    let compiled = compile(&interface, None)?;
    let mut bed = BenchBed::load(&options(&interface, Hook::Xdp), &compiled, true)?;
    Of { shape: "tracked", rules: 20, interfaces: 1, compiled: &compiled }.tell(out, memory(&bed)?)?;
    let many = if plan.scale == Scale::Smoke { 1 << 10 } else { 1 << 16 };
    let probes = rules::flows(4, many);
    let next = bed.program(program(Hook::Xdp))?;
    let mut kernel = Kernel::with(&probes)?;
    let _kept = kernel.hand_to(&next)?;
    let cpu = *scaling::cpus()?.first().context("a CPU")?;
    scaling::on(cpu, || kernel.time(Hook::Xdp, "scatter", &rules::frame(rules::hot(4), SYN), many as u32))?;
    let there = bed.flows()?.len();
    ensure!(there * 100 >= many * 99, "{there} of {many} connections are remembered");
    Of { shape: "tracked-full", rules: 20, interfaces: 1, compiled: &compiled }.tell(out, memory(&bed)?)
}

/// What a packet costs on lists that share little: tables as long as they fit, then rows.
fn crossover(plan: &Plan, out: &mut Out) -> Result<()> {
    let sizes: &[usize] = match plan.scale {
        Scale::Smoke => &[1000, 5000],
        _ => &[100, 1000, 2900, 3100, 5000],
    };
    let mut cells: Vec<Cell<'_>> = Vec::new();
    for &size in sizes {
        let entries = Shape::Crossing.entries(size);
        let interface = rules::interface(&entries);
        let compiled = compile(&interface, None)?;
        let mut row = Row::new("xdp", "test_run", "stateless", 4, size, "hot");
        row.detail.variant = Some(if form(&compiled) == "rows" { "crossing, rows" } else { "crossing, table" });
        let (hot, repeat) = (last(&entries), plan.repeat);
        let mut bed = BenchBed::load(&options(&interface, Hook::Xdp), &compiled, true)?;
        let frame = rules::frame(hot, 16);
        let take = move || Ok(bed.time(program(Hook::Xdp), &frame, repeat)?.0.as_nanos() as f64);
        cells.push(Cell { row: row.clone(), take: Box::new(take) });
        row.pattern = "random";
        let mut bed = BenchBed::load(&options(&interface, Hook::Xdp), &compiled, true)?;
        let next = bed.program(program(Hook::Xdp))?;
        let mut kernel = Kernel::with(&rules::probes(&entries, rules::PROBES))?;
        let array = kernel.hand_to(&next)?;
        let frame = rules::frame(hot, 16);
        let take = move || {
            let _kept = (&array, &bed);
            Ok(kernel.time(Hook::Xdp, "scatter", &frame, repeat)?.0.as_nanos() as f64)
        };
        cells.push(Cell { row, take: Box::new(take) });
    }
    out.say(&format!("{} figures of tables and rows, {} rounds", cells.len(), plan.rounds));
    measure(cells, plan.rounds)?.iter().try_for_each(|row| out.row(row))
}

/// A packet that the last rule matches and none before it.
fn last(entries: &[Entry]) -> rules::Probe {
    let entry = entries.last().expect("rules");
    let IpNet::V4(net) = entry.cidr else { unreachable!("lists of IPv4") };
    let src = IpAddr::from(Ipv4Addr::from(u32::from(net.network()) + 7));
    rules::Probe { src, sport: 40000, dport: entry.ports.1 }
}

/// A network namespace without a route out, with so many veths that lead nowhere.
struct Namespace {
    name: String,
    interfaces: usize,
}

impl Namespace {
    fn new(interfaces: usize) -> Result<Self> {
        let name = format!("nacld-growth-{}", std::process::id());
        ip(&["netns", "add", &name], "")?;
        let made = Self { name, interfaces };
        let mut links = String::new();
        for (here, there) in made.devices().zip(0..) {
            let _ = writeln!(links, "link add {here} type veth peer name far{there}");
            let _ = writeln!(links, "link set {here} up");
        }
        ip(&["-n", &made.name, "-batch", "-"], &links)?;
        Ok(made)
    }

    fn devices(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.interfaces).map(|number| format!("near{number}"))
    }

    /// A policy of these rules for all its interfaces. `edit`: another number, other rules.
    fn policy(&self, entries: &[Entry], edit: u16) -> String {
        let mut text = "version = 1\n[nacl.bench]\noutbound = []\ninbound = [\n".to_owned();
        for (number, entry) in (2..).zip(entries) {
            let action = if entry.action == Action::Allow { "allow" } else { "deny" };
            let (Entry { cidr, ports: (first, last), .. }, ports) = (entry, entry.ports.0 + 1);
            let (first, last) = if number == 2 { (ports % 7 + edit, 60_000) } else { (*first, *last) };
            let _ = writeln!(
                text,
                "  {{ rule = {number}, action = \"{action}\", protocol = \"tcp\", ports = \"{first}-{last}\", source = \"{cidr}\" }},"
            );
        }
        text.push_str("]\n");
        for device in self.devices() {
            let _ = writeln!(text, "[interface.{device}]\nnetns = {:?}\nnacl = \"bench\"", self.name);
        }
        text
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name], "").ok();
    }
}

fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip").args(arguments).stdin(Stdio::piped()).spawn().context("ip")?;
    child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("ip {}: {status}", arguments.join(" "));
    }
    Ok(())
}

/// A daemon without a socket, and its policy.
struct Daemon {
    service: Arc<Service>,
    policy: tempfile::NamedTempFile,
}

impl Daemon {
    fn new() -> Result<Self> {
        let policy = tempfile::NamedTempFile::new()?;
        let state = State::new(Box::new(RealKernel::default()), Settings::default());
        // As a daemon does it, the guard against lock-outs asked.
        let loader = File { path: policy.path().to_owned(), unguarded: false };
        let service = Service::new(state, Box::new(loader), Arc::new(|_| {}));
        Ok(Self { service, policy })
    }

    /// From the text of a policy to that policy in force.
    fn load(&self, text: &str, times: &mut Times) -> Result<()> {
        std::fs::write(self.policy.path(), text)?;
        times.take(|| {
            let (result, diagnostics) = self.service.reload(false, None);
            result.map(drop).with_context(|| diagnostics.plain)
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.service.state().detach_all().ok();
    }
}

/// From the text of a policy to that policy in force, on one interface.
fn reloads(plan: &Plan, out: &mut Out) -> Result<()> {
    let namespace = Namespace::new(1)?;
    for shape in [Shape::Typical, Shape::Adversarial] {
        for &size in &plan.sizes {
            out.say(&format!("{size} {} rules: reload", shape.name()));
            let (daemon, entries) = (Daemon::new()?, shape.entries(size));
            if compile(&rules::interface(&entries), None).is_err() {
                // Told above.
                continue;
            }
            daemon.load(&namespace.policy(&entries, 0), &mut Times::new("attach", shape.name(), size))?;
            let mut times = Times::new("reload", shape.name(), size);
            for edit in 1..=plan.slow_rounds as u16 {
                daemon.load(&namespace.policy(&entries, edit), &mut times)?;
            }
            times.tell(out)?;
        }
    }
    Ok(())
}

/// Interfaces of one policy, attached by one daemon.
fn interfaces(plan: &Plan, out: &mut Out) -> Result<()> {
    const RULES: usize = 20;
    let counts: &[usize] = match plan.scale {
        Scale::Smoke => &[1, 2],
        Scale::Quick => &[1, 5],
        Scale::Full => &[1, 20, 100],
    };
    let entries = rules::entries(4, RULES);
    let compiled = compile(&rules::interface(&entries), None)?;
    for &interfaces in counts {
        out.say(&format!("{interfaces} interfaces of one policy"));
        let namespace = Namespace::new(interfaces)?;
        let daemon = Daemon::new()?;
        let [mut attaching, mut reloading] =
            ["attach", "reload"].map(|what| Times { interfaces, ..Times::new(what, "interfaces", RULES) });
        daemon.load(&namespace.policy(&entries, 0), &mut attaching)?;
        attaching.tell(out)?;
        let status = daemon.service.state().status()?;
        ensure!(status.interfaces.len() == interfaces, "{} are attached", status.interfaces.len());
        // Shared generations are counted once.
        let mut memory = Memory { generations: generation_bytes()?, ..Memory::default() };
        for Memory { counters, connections, other, .. } in status.interfaces.iter().map(|held| held.memory) {
            memory.counters += counters;
            memory.connections += connections;
            memory.other += other;
        }
        Of { shape: "interfaces", rules: RULES, interfaces, compiled: &compiled }.tell(out, memory)?;
        for edit in 1..=plan.slow_rounds.min(5) as u16 {
            daemon.load(&namespace.policy(&entries, edit), &mut reloading)?;
        }
        reloading.tell(out)?;
    }
    if plan.scale != Scale::Full {
        out.missing("100 interfaces", "a full run attaches them, which takes most of a minute")?;
    }
    Ok(())
}
