//! What the figures were taken on: the kernel, the CPU, and how much of it others had meanwhile.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use procfs::{CpuInfo, Current, CurrentSI, KernelStats};

use crate::{
    Plan,
    out::{Line, Out},
};

/// A run that has begun.
pub struct Watch {
    start: Instant,
    ticks: Ticks,
}

#[derive(Clone, Copy)]
struct Ticks {
    all: u64,
    stolen: u64,
}

/// Says what machine this is, and begins to watch it.
pub fn begin(plan: &Plan, parts: &[&str], out: &mut Out) -> Result<Watch> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let info = CpuInfo::current().context("/proc/cpuinfo")?;
    // Arm's has neither.
    let cpu = info.model_name(0).unwrap_or(std::env::consts::ARCH);
    let mhz = info.get_info(0).and_then(|cpu| cpu.get("cpu MHz")?.split('.').next()?.parse().ok()).unwrap_or(0);
    out.line(&Line::Machine {
        kernel: kernel.trim(),
        cpu,
        cores: info.num_cores(),
        mhz,
        mitigations: &mitigations(),
        jit: ["bpf_jit_enable", "bpf_jit_harden"].map(setting),
        quick: plan.scale != crate::Scale::Full,
        parts,
        rounds: plan.rounds,
    })?;
    Ok(Watch { start: Instant::now(), ticks: ticks()? })
}

impl Watch {
    /// Says how the run went.
    pub fn end(self, out: &mut Out) -> Result<()> {
        let now = ticks()?;
        let all = now.all.saturating_sub(self.ticks.all).max(1);
        let stolen = now.stolen.saturating_sub(self.ticks.stolen);
        let seconds = self.start.elapsed().as_millis().div_ceil(1000) as u64;
        out.line(&Line::End { seconds, steal_percent: stolen as f64 * 100.0 / all as f64 })?;
        let took = Duration::from_secs(seconds);
        out.say(&format!("done in {}", humantime::format_duration(took)));
        Ok(())
    }
}

fn ticks() -> Result<Ticks> {
    let cpu = KernelStats::current().context("/proc/stat")?.total;
    let stolen = cpu.steal.unwrap_or(0);
    let others = [cpu.iowait, cpu.irq, cpu.softirq].into_iter().flatten().sum::<u64>();
    Ok(Ticks { all: cpu.user + cpu.nice + cpu.system + cpu.idle + others + stolen, stolen })
}

/// Each costs some calls, returns or loads; which are on decides what a helper call and a program's return take.
fn mitigations() -> Vec<String> {
    let files = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    let mut all: Vec<_> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let text = fs::read_to_string(file.path()).ok()?;
            (text.trim() != "Not affected").then(|| format!("{name}: {}", text.trim()))
        })
        .collect();
    all.sort();
    all
}

fn setting(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?.trim().parse().ok()
}
