//! The benchmark's own kernel programs (`nacl-ebpf/src/bench.rs`): floors, the scattering of one frame over many flows, the
//! linear scan, the generator. And how a program is run on live frames.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::{Array, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun, TestRunAttrs, TestRunOptions, Xdp, xdp::XdpMode},
};
use ipnet::IpNet;
use nacl_common::Action;

use crate::rules::{self, Entry, Probe};

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

/// Probes in one value of the map, as the kernel program has it.
const SHEET: usize = 64;

/// The object, loaded.
pub struct Kernel(Ebpf);

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Scattered {
    src: [u8; 16],
    sport: [u8; 2],
    dport: [u8; 2],
    check: [u8; 2],
    pad: u16,
}

// SAFETY: repr(C) without padding; every bit pattern is a value.
unsafe impl Pod for Scattered {}

/// Rules the linear scan has room for, the one that ends the list among them; the kernel program has the same number.
const LINEAR: usize = 5120;

/// A rule of the linear scan.
#[repr(C)]
#[derive(Clone, Copy)]
struct ScanRow<A> {
    address: A,
    mask: A,
    first: u16,
    more: u16,
    protocol: u16,
    /// Low byte: the bits of the protocol that are looked at. Above: 1 drops.
    flags: u16,
}

// SAFETY: repr(C) without padding; every bit pattern is a value.
unsafe impl Pod for ScanRow<u32> {}
// SAFETY: as above.
unsafe impl Pod for ScanRow<[u64; 2]> {}

/// A list as the scan has it: one value of a map.
#[repr(C)]
#[derive(Clone, Copy)]
struct Rows<R>([R; LINEAR]);

// SAFETY: an array of what is Pod.
unsafe impl<R: Pod> Pod for Rows<R> {}

/// Frames that the kernel hands on at once.
const BATCH: u32 = 64;

/// Has an XDP program meet so many frames, as if this interface of the calling thread's namespace had received them: what
/// it passes goes up the stack, what it redirects is sent. Returns how long the kernel took for one, the stack's work
/// included, which is done in between; in whole nanoseconds.
pub fn live(program: &mut Xdp, frame: &[u8], ifindex: u32, frames: u32) -> Result<Duration> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.ctx_in = Some(&context);
    options.repeat = frames;
    options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
    let result = program.test_run(options).context("live frames (Linux 5.18 and later have them)")?;
    Ok(result.duration)
}

impl Kernel {
    /// Loads it.
    pub fn load() -> Result<Self> {
        Self::with(&[NOBODY])
    }

    /// Loads it with packets to scatter, one after the other and again from the first; all of one family.
    pub fn with(probes: &[Probe]) -> Result<Self> {
        Self::new(probes, 0)
    }

    /// Loads it to send frames out by an interface.
    pub fn generator(ifindex: u32) -> Result<Self> {
        Self::new(&[NOBODY], ifindex)
    }

    fn new(probes: &[Probe], generate_to: u32) -> Result<Self> {
        let family = if probes[0].src.is_ipv6() { 6_u32 } else { 4 };
        let mut ebpf = EbpfLoader::new()
            .override_global("PROBES_COUNT", &(probes.len() as u32), true)
            .override_global("SCATTER_FAMILY", &family, true)
            .override_global("GENERATE_TO", &generate_to, true)
            .map_max_entries("PROBES", probes.len().div_ceil(SHEET) as u32)
            .load(OBJECT)
            .context("loading the benchmark's programs")?;
        let mut map: Array<_, [Scattered; SHEET]> = Array::try_from(ebpf.map_mut("PROBES").context("no probes")?)?;
        let any = rules::frame(probes[0], 0);
        for (index, probes) in (0..).zip(probes.chunks(SHEET)) {
            let mut sheet = [Scattered::default(); SHEET];
            for (place, probe) in sheet.iter_mut().zip(probes) {
                let mut src = [0; 16];
                match probe.src {
                    IpAddr::V4(address) => src[..4].copy_from_slice(&address.octets()),
                    IpAddr::V6(address) => src = address.octets(),
                }
                let (sport, dport) = (probe.sport.to_be_bytes(), probe.dport.to_be_bytes());
                *place = Scattered { src, sport, dport, check: rules::checksum(&any, *probe), pad: 0 };
            }
            map.set(index, sheet, 0)?;
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

    /// The second half of a long list has a program of its own, which the first one finds here. The array is to be kept as
    /// long as the scan is run.
    pub fn scan_on(&mut self) -> Result<ProgramArray<MapData>> {
        let rest = self.program(Hook::Xdp, "linear_rest")?;
        let mut next: ProgramArray<MapData> =
            ProgramArray::try_from(self.0.take_map("LINEAR_NEXT").context("no array")?)?;
        next.set(0, &rest, 0)?;
        Ok(next)
    }

    /// Gives the linear scan a list of one family; what no rule matches, it denies.
    pub fn scan(&mut self, family: u8, entries: &[Entry]) -> Result<()> {
        anyhow::ensure!(entries.len() < LINEAR, "the linear scan has room for {} rules", LINEAR - 1);
        if family == 6 {
            self.list("LINEAR6", entries, [0; 2], |net| match net {
                IpNet::V6(net) => Some((halves(net.network().into()), halves(net.netmask().into()))),
                IpNet::V4(_) => None,
            })
        } else {
            self.list("LINEAR4", entries, 0, |net| match net {
                IpNet::V4(net) => Some((net.network().into(), net.netmask().into())),
                IpNet::V6(_) => None,
            })
        }
    }

    fn list<A: Copy + 'static>(
        &mut self,
        name: &str,
        entries: &[Entry],
        any: A,
        numbers: impl Fn(IpNet) -> Option<(A, A)>,
    ) -> Result<()>
    where
        ScanRow<A>: Pod,
    {
        const DROP: u16 = 1 << 8;
        let end = ScanRow { address: any, mask: any, first: 0, more: u16::MAX, protocol: 0, flags: DROP };
        let mut rows = Box::new(Rows([end; LINEAR]));
        for (row, entry) in rows.0.iter_mut().zip(entries) {
            let (address, mask) = numbers(entry.cidr).with_context(|| format!("{} in {name}", entry.cidr))?;
            let (first, last) = entry.ports;
            let flags = if entry.action == Action::Deny { DROP | 0xff } else { 0xff };
            *row = ScanRow { address, mask, first, more: last - first, protocol: TCP, flags };
        }
        let mut map: Array<_, Rows<ScanRow<A>>> = Array::try_from(self.0.map_mut(name).context("no list")?)?;
        Ok(map.set(0, *rows, 0)?)
    }

    /// How often a rule of the linear scan has decided.
    pub fn scanned(&mut self, index: usize) -> Result<u64> {
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(self.0.map_mut("LINEAR_HITS").context("no counters")?)?;
        Ok(map.get(&(index as u32), 0)?.iter().sum())
    }

    /// Puts an XDP program of this object on an interface of the calling thread's namespace, in the driver. It goes with
    /// the object.
    pub fn attach(&mut self, name: &str, ifindex: u32) -> Result<()> {
        self.xdp(name)?.attach_to_if_index(ifindex, XdpMode::Driver).with_context(|| format!("attaching {name}"))?;
        Ok(())
    }

    /// An XDP program of this object, loaded.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
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

/// A packet that nothing is asked about.
const NOBODY: Probe = Probe { src: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), sport: 0, dport: 0 };
const TCP: u16 = 6;

const fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}
