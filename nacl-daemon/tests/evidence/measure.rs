//! How long a run is to be, what machine it runs on, and where its findings go: one JSON object a line, which
//! `xtask/src/evidence.rs` makes tables of.

use std::{env, fs, io::Write as _, sync::Mutex, time::Duration};

use procfs::{CpuInfo, Current, Meminfo};
use serde::Serialize;

use crate::support::place::{self, Holds};

/// Runs take turns: each wants the machine for itself.
pub static ALONE: Mutex<()> = Mutex::new(());

/// What a run is asked for, by variables of its environment: a test has no arguments.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Reloads, or kills.
    pub count: usize,
    /// Packets a second; the run fails below it.
    pub rate: u32,
    /// What random choices are made from.
    pub seed: u64,
    /// Whether this is the short form.
    pub short: bool,
}

impl Plan {
    /// The plan of a run; `short`: of the tests.
    pub fn new(short: usize) -> Self {
        let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let count = number("NACLD_EVIDENCE_COUNT");
        if count.is_some() {
            place::clean_up_on_signals();
        }
        Self {
            count: count.map_or(short, |count| count as usize),
            rate: number("NACLD_EVIDENCE_RATE").map_or(SHORT_RATE, |rate| rate as u32),
            seed: number("NACLD_EVIDENCE_SEED").unwrap_or(1),
            short: count.is_none(),
        }
    }
}

/// Packets a second of the short form, which shares its machine with whatever else there is: enough for hundreds to be on their
/// way in every reload.
const SHORT_RATE: u32 = 20_000;

/// What a run is bounded by, whatever happens.
pub const LONGEST: Duration = Duration::from_hours(6);

/// The machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    kernel: String,
    cpu: String,
    cores: usize,
    memory_mib: u64,
}

impl Machine {
    pub fn this() -> Self {
        let info = CpuInfo::current().expect("/proc/cpuinfo");
        Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release").trim().to_owned(),
            cpu: info.model_name(0).unwrap_or(env::consts::ARCH).to_owned(),
            cores: info.num_cores(),
            memory_mib: Meminfo::current().expect("/proc/meminfo").mem_total >> 20,
        }
    }
}

/// What things cost at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// How many reloads, or kills, had been.
    pub after: usize,
    /// KiB of its memory that are in the machine's.
    pub resident_kib: u64,
    /// KiB of that which are no file's.
    pub anonymous_kib: u64,
    /// File descriptors.
    pub descriptors: usize,
    /// Maps it has descriptors of.
    pub maps: usize,
    /// Programs.
    pub programs: usize,
    /// Links.
    pub links: usize,
    /// KiB of the maps of all interfaces, by the daemon's status: generations, then everything else.
    pub generations_kib: u64,
    /// The rest of it.
    pub others_kib: u64,
    /// KiB of the kernel's slabs, of the whole machine.
    pub slab_kib: u64,
    /// KiB of the kernel's memory by page tables, of the whole machine, where maps stand.
    pub vmalloc_kib: u64,
    /// Connections that are remembered.
    pub connections: u64,
}

impl Figures {
    pub fn new(after: usize, pid: u32, status: &nacl_daemon::observe::Status) -> Self {
        let holds = Holds::of(pid);
        let machine = Meminfo::current().expect("/proc/meminfo");
        let sum = |of: fn(&nacl_daemon::observe::InterfaceStatus) -> u64| status.interfaces.iter().map(of).sum::<u64>();
        Self {
            after,
            resident_kib: holds.resident,
            anonymous_kib: holds.anonymous,
            descriptors: holds.descriptors,
            maps: holds.maps.len(),
            programs: holds.programs.len(),
            links: holds.links.len(),
            generations_kib: sum(|one| one.memory.generations) >> 10,
            others_kib: sum(|one| one.memory.counters + one.memory.connections + one.memory.other) >> 10,
            slab_kib: machine.slab >> 10,
            vmalloc_kib: machine.vmalloc_used >> 10,
            connections: sum(|one| one.conntrack.entries),
        }
    }
}

/// Says something of a run: for whoever watches, and into the file that the variable names, where there is one.
pub fn tell(line: &impl Serialize) {
    let text = serde_json::to_string(line).expect("JSON");
    println!("{text}");
    if let Ok(file) = env::var("NACLD_EVIDENCE_LINES") {
        let mut file = fs::File::options().append(true).create(true).open(&file).expect("the file of findings");
        writeln!(file, "{text}").expect("a line");
    }
}

/// Says that nothing was wrong.
pub fn end() {
    tell(&serde_json::json!({ "kind": "end" }));
}

/// Says how far it is, on a long run.
pub fn say(plan: &Plan, what: &str) {
    if !plan.short {
        eprintln!("evidence: {what}");
    }
}
