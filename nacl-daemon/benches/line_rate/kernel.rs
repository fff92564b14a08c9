//! The benchmark's own kernel programs (`nacl-ebpf/src/bench.rs`): floors, and the scattering of one frame over many flows.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions, Xdp},
};

use crate::rules::{self, Probe};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nacl-bench"));

/// Which kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP.
    Xdp,
    /// TC.
    Tc,
}

impl Hook {
    /// As rows name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// The object, loaded.
pub struct Kernel(Ebpf);

#[repr(C)]
#[derive(Clone, Copy)]
struct Scattered {
    src: [u8; 16],
    sport: [u8; 2],
    dport: [u8; 2],
    check: [u8; 2],
    pad: u16,
}

// SAFETY: repr(C) without padding; every bit pattern is a value.
unsafe impl Pod for Scattered {}

impl Kernel {
    /// Loads it.
    pub fn load() -> Result<Self> {
        Self::with(&[Probe { src: IpAddr::from([0; 4]), sport: 0, dport: 0 }])
    }

    /// Loads it with packets to scatter: a power of two of them, all of one family.
    pub fn with(probes: &[Probe]) -> Result<Self> {
        assert!(probes.len().is_power_of_two());
        let family = if probes[0].src.is_ipv6() { 6_u32 } else { 4 };
        let mut ebpf = EbpfLoader::new()
            .override_global("PROBES_MASK", &(probes.len() as u32 - 1), true)
            .override_global("SCATTER_FAMILY", &family, true)
            .map_max_entries("PROBES", probes.len() as u32)
            .load(OBJECT)
            .context("loading the benchmark's programs")?;
        let mut map: Array<_, Scattered> = Array::try_from(ebpf.map_mut("PROBES").context("no probes")?)?;
        for (index, probe) in (0..).zip(probes) {
            let mut src = [0; 16];
            match probe.src {
                IpAddr::V4(address) => src[..4].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => src = address.octets(),
            }
            let (sport, dport) = (probe.sport.to_be_bytes(), probe.dport.to_be_bytes());
            let check = rules::checksum(*probe);
            map.set(index, Scattered { src, sport, dport, check, pad: 0 }, 0)?;
        }
        Ok(Self(ebpf))
    }

    /// A program of this object, loaded.
    pub fn program(&mut self, hook: Hook, name: &str) -> Result<ProgramFd> {
        match hook {
            Hook::Xdp => Ok(self.xdp(name)?.fd()?.try_clone()?),
            Hook::Tc => Ok(self.tc(name)?.fd()?.try_clone()?),
        }
    }

    /// Runs a frame so many times through a program of this object; nanoseconds of one run.
    pub fn time(&mut self, hook: Hook, name: &str, frame: &[u8], repeat: u32) -> Result<(Duration, u32)> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let result = match hook {
            Hook::Xdp => self.xdp(name)?.test_run(options),
            Hook::Tc => self.tc(name)?.test_run(options),
        };
        let result = result.with_context(|| format!("running {name}"))?;
        Ok((result.duration, result.return_value))
    }

    /// What scattered frames are handed to. The array is to be kept as long as they are.
    pub fn hand_to(&mut self, next: &ProgramFd) -> Result<ProgramArray<MapData>> {
        let mut array: ProgramArray<MapData> = ProgramArray::try_from(self.0.take_map("NEXT").context("no array")?)?;
        array.set(0, next, 0)?;
        Ok(array)
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program: &mut Xdp = self.0.program_mut(name).context("no such program")?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(program)
    }

    fn tc(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program: &mut SchedClassifier = self.0.program_mut(name).context("no such program")?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(program)
    }
}
