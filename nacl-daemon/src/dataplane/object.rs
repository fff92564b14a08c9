//! The embedded kernel programs: what they need of this machine, and loading them. Attaches nothing.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::LazyLock,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel, include_bytes_aligned,
    maps::{Map, MapData, MapError},
    programs::{
        Program as AyaProgram, ProgramError, ProgramFd, ProgramInfo, SchedClassifier, TestRun, TestRunOptions,
        TestRunResult, Xdp,
    },
    sys::SyscallError,
    util::KernelVersion,
};
use nacl_common::evaluate::Hook;
use sha2::{Digest, Sha256};

use super::{DataplaneError, Ingress, Memory, Options, flowlog, memory, outer::Outer, store};
use crate::compile::Compiled;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nacl-ebpf"));

/// XDP on ingress, for frames of several parts.
pub const XDP: &str = "nacl_ingress";
/// XDP on ingress, for kernels before 5.18, which know no such frames.
pub const XDP_LINEAR: &str = "nacl_ingress_ln";
/// TC on ingress.
pub const TC_INGRESS: &str = "nacl_ingress_tc";
/// TC on egress.
pub const TC_EGRESS: &str = "nacl_egress";

/// Rule counters an interface has at least: a policy may grow this far without a restart.
const SLOTS: u32 = 1024;
/// A test bed is given one policy after the other.
const TEST_SLOTS: u32 = 0x2000;

/// One of the entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// XDP on ingress.
    Xdp,
    /// XDP on ingress, as kernels before 5.18 are given it.
    XdpLinear,
    /// TC on ingress.
    TcIngress,
    /// TC on egress.
    TcEgress,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Xdp, Self::XdpLinear, Self::TcIngress, Self::TcEgress];

    /// The XDP program this kernel can have.
    pub fn xdp() -> Self {
        if kernel_is(5, 18) { Self::Xdp } else { Self::XdpLinear }
    }

    /// Whether it is an XDP program.
    pub const fn is_xdp(self) -> bool {
        matches!(self, Self::Xdp | Self::XdpLinear)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => XDP,
            Self::XdpLinear => XDP_LINEAR,
            Self::TcIngress => TC_INGRESS,
            Self::TcEgress => TC_EGRESS,
        }
    }
}

/// What the programs are loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// An interface.
    Real,
    /// A test bed: the clock stands in a map, and the last verdict is written down.
    Test,
    /// A measurement of what counting costs: nothing is counted.
    Uncounted,
}

/// What tells the programs and the layout of their maps from those of any other build: a digest of the object, in
/// letters that may stand in a path.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let digest = Sha256::digest(OBJECT);
        digest.iter().take(8).fold(String::from("v"), |text, byte| text + &format!("{byte:02x}"))
    });
    &VERSION
}

/// Where maps come from: an object that was just loaded, or pins.
pub trait Source {
    /// Takes a map out.
    fn take(&mut self, name: &'static str) -> Result<Map, DataplaneError>;

    /// What its maps take that do not grow. To be asked before any is taken out.
    fn memory(&self) -> io::Result<Memory>;

    /// Takes a map out, as what it is.
    fn map<T: TryFrom<Map, Error = MapError>>(&mut self, name: &'static str) -> Result<T, DataplaneError> {
        T::try_from(self.take(name)?).map_err(|source| DataplaneError::Map { map: name, source })
    }

    /// Takes a map of maps out.
    fn outer(&mut self, name: &'static str) -> Result<Outer, DataplaneError> {
        match self.take(name)? {
            Map::ArrayOfMaps(map) => Ok(Outer(map)),
            _ => Err(DataplaneError::Lacks(name)),
        }
    }
}

/// Pins that stand for the maps of an object.
pub struct Pinned<'p>(pub &'p Path);

impl Source for Pinned<'_> {
    fn take(&mut self, name: &'static str) -> Result<Map, DataplaneError> {
        MapData::from_pin(self.0.join(name))
            .and_then(Map::from_map_data)
            .map_err(|source| DataplaneError::Map { map: name, source })
    }

    fn memory(&self) -> io::Result<Memory> {
        let mut all = Memory::default();
        for entry in fs::read_dir(self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !store::is_no_map(name)) else { continue };
            let map = MapData::from_pin(entry.path()).map_err(io::Error::other)?;
            count(&mut all, name, memory::of(&map)?);
        }
        Ok(all)
    }
}

/// Adds a map's bytes to what they are for; those of the maps that grow are asked when they are told.
fn count(all: &mut Memory, name: &str, bytes: u64) {
    *match name {
        "FLOWS" | RING_KEYS => return,
        name if flowlog::is_window(name) => return,
        "SLOTS" | "REASON" => &mut all.counters,
        "FRAGMENTS" | "RING" => &mut all.connections,
        _ => &mut all.other,
    } += bytes;
}

/// Name of the pin of the ring of keys, which the object does not have: it is made when connections are first tracked.
pub const RING_KEYS: &str = "RING_KEYS";

/// A loaded object.
pub struct Object(Ebpf);

impl Source for Object {
    fn take(&mut self, name: &'static str) -> Result<Map, DataplaneError> {
        self.0.take_map(name).ok_or(DataplaneError::Lacks(name))
    }

    fn memory(&self) -> io::Result<Memory> {
        let mut all = Memory::default();
        for (name, map) in self.0.maps() {
            count(&mut all, name, memory::data(map).map_or(Ok(0), memory::of)?);
        }
        Ok(all)
    }
}

impl Object {
    /// Makes the maps and prepares the programs; none is in the kernel yet.
    pub fn load(compiled: &Compiled, options: &Options, build: Build) -> Result<Self, DataplaneError> {
        if OBJECT.is_empty() {
            return Err(DataplaneError::NotBuiltIn);
        }
        let test = matches!(build, Build::Test);
        let trace = options.trace;
        let (entries, ring) = (options.tracking.entries, ring(options.tracking.entries));
        let mut loader = EbpfLoader::new();
        // Asked for on failure only. Each instruction that is walked would be a line: more than the largest log (16 MiB)
        // holds of these programs, so that the kernel ends the second try with ENOSPC and the reason is not in it.
        loader.verifier_log_level(VerifierLogLevel::STATS);
        // Off by default, by another value than 0.
        if test {
            loader.override_global("TEST", &1_u32, true);
            loader.override_global("TEST_CLOCK", &1_u32, true);
        }
        if matches!(build, Build::Uncounted) {
            loader.override_global("UNCOUNTED", &1_u32, true);
        }
        if trace {
            loader.override_global("TRACE", &1_u32, true);
        }
        loader.override_global("RING_SIZE", &ring, true);
        loader.map_max_entries("FLOWS", entries);
        loader.map_max_entries("SLOTS", room(compiled, if test { TEST_SLOTS } else { SLOTS }));
        if !trace {
            // The log's ring is part of the object; without --trace nothing writes to it.
            loader.map_max_entries("AYA_LOGS", 4096);
        }
        loader.load(OBJECT).map(Self).map_err(|error| match &error {
            EbpfError::MapError(MapError::CreateError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EPERM) =>
            {
                DataplaneError::NoPrivilege { what: "make the kernel's maps", capability: "CAP_BPF".into() }
            }
            _ => DataplaneError::Object(error),
        })
    }

    /// Pins every map. To be asked before any is taken out.
    pub fn pin(&self, directory: &Path) -> Result<(), DataplaneError> {
        // Constants (`.rodata`) are the programs' own, and a bpffs has no names with dots.
        for (name, map) in self.0.maps().filter(|(name, _)| !name.starts_with('.')) {
            let at = directory.join(name);
            map.pin(&at).map_err(|source| DataplaneError::Pin { path: at, source })?;
        }
        Ok(())
    }

    /// Loads the XDP program this kernel can have, unless that was done, and returns it.
    pub fn xdp(&mut self) -> Result<&mut Xdp, DataplaneError> {
        self.xdp_named(Program::xdp())
    }

    fn xdp_named(&mut self, which: Program) -> Result<&mut Xdp, DataplaneError> {
        let program = self.program::<Xdp>(which.name())?;
        if program.fd().is_err() {
            undisturbed(|| program.load()).map_err(|source| refused(which.name(), source))?;
        }
        Ok(program)
    }

    /// Loads a TC program, unless that was done, and returns it.
    pub fn tc(&mut self, which: Program) -> Result<&mut SchedClassifier, DataplaneError> {
        let program = self.program::<SchedClassifier>(which.name())?;
        if program.fd().is_err() {
            undisturbed(|| program.load()).map_err(|source| refused(which.name(), source))?;
        }
        Ok(program)
    }

    /// A program's descriptor. It is loaded unless that was done.
    pub fn fd(&mut self, which: Program) -> Result<&ProgramFd, DataplaneError> {
        let fd = if which.is_xdp() { self.xdp_named(which)?.fd() } else { self.tc(which)?.fd() };
        fd.map_err(|source| refused(which.name(), source))
    }

    /// What the kernel tells of a program.
    pub fn info(&mut self, which: Program) -> Result<ProgramInfo, DataplaneError> {
        let info = if which.is_xdp() { self.xdp_named(which)?.info() } else { self.tc(which)?.info() };
        info.map_err(|source| refused(which.name(), source))
    }

    /// Runs a program on a frame.
    pub fn test_run(&mut self, which: Program, options: TestRunOptions<'_>) -> Result<TestRunResult, DataplaneError> {
        let result =
            if which.is_xdp() { self.xdp_named(which)?.test_run(options) } else { self.tc(which)?.test_run(options) };
        result.map_err(|source| DataplaneError::TestRun { program: which.name(), source })
    }

    /// The program that is on a hook.
    pub fn attached(&mut self, hook: Hook, ingress: Ingress) -> Result<BorrowedFd<'_>, DataplaneError> {
        let which = match (hook, ingress) {
            (Hook::Egress, _) => Program::TcEgress,
            (Hook::Ingress, Ingress::Tcx | Ingress::Clsact) => Program::TcIngress,
            (Hook::Ingress, Ingress::Native | Ingress::Generic) => Program::xdp(),
        };
        Ok(self.fd(which)?.as_fd())
    }

    fn program<'a, T>(&'a mut self, name: &'static str) -> Result<&'a mut T, DataplaneError>
    where
        &'a mut T: TryFrom<&'a mut AyaProgram, Error = ProgramError>,
    {
        let program = self.0.program_mut(name).ok_or(DataplaneError::Lacks(name))?;
        program.try_into().map_err(|_| DataplaneError::Lacks(name))
    }

    /// The whole of it, for the logger.
    pub const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.0
    }
}

/// Places of the ring in which the keys of connections stand: half as many again, so that a free one is found by guessing.
pub fn ring(entries: u32) -> u32 {
    (entries / 2).saturating_add(entries).max(64)
}

/// Rule counters that are made for a policy: room for as much again, so that it can grow while it is in force.
fn room(compiled: &Compiled, least: u32) -> u32 {
    (2 * slots(compiled)).next_power_of_two().clamp(least, 0x8000)
}

/// Rule slots a policy uses: one more than the highest.
pub fn slots(compiled: &Compiled) -> u32 {
    compiled.slots.len() as u32
}

/// How often a program is loaded that a signal disturbs, as in libbpf (`PROG_LOAD_ATTEMPTS`).
const ATTEMPTS: usize = 5;

/// Loads a program again where a signal to this thread ended the verifier's walk: the kernel says EAGAIN then (since 4.20),
/// and a SIGHUP, or a freezer, must not be the reason why nothing is enforced.
fn undisturbed(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    load()
}

fn refused(program: &'static str, source: ProgramError) -> DataplaneError {
    match source {
        ProgramError::LoadError { ref io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            DataplaneError::NoPrivilege { what: "load the kernel programs", capability: "CAP_BPF".into() }
        }
        source => DataplaneError::Load { program, source },
    }
}

/// Whether the kernel is at least of this version; where it does not say, it is taken to be new.
pub fn kernel_is(major: u8, minor: u8) -> bool {
    KernelVersion::current().map_or(true, |version| version >= KernelVersion::new(major, minor, 0))
}

/// Fails where nothing can be attached at all; `netns`: whether another namespace is to be entered.
pub fn usable(netns: bool) -> Result<(), DataplaneError> {
    if OBJECT.is_empty() {
        return Err(DataplaneError::NotBuiltIn);
    }
    old_kernel()?;
    let lacking = lacking_capabilities(netns);
    if !lacking.is_empty() {
        let capability = lacking.join(", ");
        return Err(DataplaneError::NoPrivilege { what: "attach kernel programs", capability });
    }
    Ok(())
}

/// What this binary, kernel and process are, as far as attaching goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of its own")]
pub struct Platform {
    /// The kernel's release.
    pub kernel: String,
    /// Why it cannot run the programs at all.
    pub too_old: Option<&'static str>,
    /// Whether it attaches TC programs by links (tcx, Linux 6.6).
    pub tcx: bool,
    /// Whether its XDP knows frames of several parts (Linux 5.18).
    pub frags: bool,
    /// Whether it charges maps and programs to the memory cgroup, and no longer to `RLIMIT_MEMLOCK` (Linux 5.11).
    pub cgroup_memory: bool,
    /// Whether this binary has the kernel programs in it.
    pub built_in: bool,
    /// Capabilities this process lacks to attach.
    pub lacking: Vec<&'static str>,
    /// Whether it has `CAP_SYS_ADMIN`: to mount, to enter namespaces, and to see other people's programs.
    pub sys_admin: bool,
}

/// What this binary, kernel and process are.
pub fn platform() -> Platform {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    Platform {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        too_old: lacks(KernelVersion::current().ok(), &filesystems),
        tcx: kernel_is(6, 6),
        frags: kernel_is(5, 18),
        cgroup_memory: kernel_is(5, 11),
        built_in: !OBJECT.is_empty(),
        lacking: lacking_capabilities(false),
        sys_admin: has_capability(SYS_ADMIN),
    }
}

/// What this binary, process and kernel lack to attach at all, each with its remedy; empty: nothing.
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if OBJECT.is_empty() {
        missing.push(DataplaneError::NotBuiltIn.to_string());
    }
    if let Err(error) = old_kernel() {
        missing.push(error.to_string());
    }
    let lacking = lacking_capabilities(false);
    if !lacking.is_empty() {
        let capability = lacking.join(", ");
        missing.push(DataplaneError::NoPrivilege { what: "attach kernel programs", capability }.to_string());
    }
    missing
}

/// Fails on a kernel that cannot run the programs.
fn old_kernel() -> Result<(), DataplaneError> {
    let Platform { kernel, too_old, .. } = platform();
    too_old.map_or(Ok(()), |missing| Err(DataplaneError::KernelTooOld { kernel, missing: missing.into() }))
}

/// What a kernel lacks. Linux 5.15 is the oldest whose verifier and maps the programs were written for; one that does not
/// say its version is taken to be new, and says itself what it refuses.
fn lacks(version: Option<KernelVersion>, filesystems: &str) -> Option<&'static str> {
    if version.is_some_and(|version| version < KernelVersion::new(5, 15, 0)) {
        return Some("nacld needs Linux 5.15 or later");
    }
    let bpf = filesystems.lines().any(|line| line.split_whitespace().last() == Some("bpf"));
    (!bpf).then_some("it was built without CONFIG_BPF_SYSCALL")
}

/// Fails where this process may not see and detach what other processes attached.
pub fn may_look_around() -> Result<(), DataplaneError> {
    let lacking: Vec<_> = [(NET_ADMIN, "CAP_NET_ADMIN"), (SYS_ADMIN, "CAP_SYS_ADMIN")]
        .into_iter()
        .filter(|(number, _)| !has_capability(*number))
        .map(|(_, name)| name)
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(DataplaneError::NoPrivilege { what: "find and detach kernel programs", capability: lacking.join(", ") })
}

const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Whether this thread has a capability, by its number.
fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or_default();
    effective >> number & 1 != 0
}

/// Names of the capabilities this process lacks.
fn lacking_capabilities(netns: bool) -> Vec<&'static str> {
    let mut lacking = Vec::new();
    // The kernel takes SYS_ADMIN for the two that were split from it.
    for (number, name, instead) in
        [(NET_ADMIN, "CAP_NET_ADMIN", false), (BPF, "CAP_BPF", true), (PERFMON, "CAP_PERFMON", true)]
    {
        if !(has_capability(number) || instead && has_capability(SYS_ADMIN)) {
            lacking.push(name);
        }
    }
    if netns && !has_capability(SYS_ADMIN) {
        lacking.push("CAP_SYS_ADMIN (to enter another network namespace)");
    }
    lacking
}

/// The error number of a program that could not be attached.
pub fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) | ProgramError::IOError(io_error) => {
            io_error.raw_os_error()
        }
        ProgramError::NetlinkError(error)
        | ProgramError::XdpError(aya::programs::xdp::XdpError::NetlinkError(error))
        | ProgramError::TcError(aya::programs::tc::TcError::NetlinkError(error)) => error.raw_os_error(),
        ProgramError::TcError(aya::programs::tc::TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_is_told_what_it_lacks() {
        let with_bpf = "nodev\tsysfs\nnodev\tbpf\n\text4\n";
        assert_eq!(lacks(Some(KernelVersion::new(6, 6, 0)), with_bpf), None);
        assert_eq!(lacks(Some(KernelVersion::new(5, 15, 0)), with_bpf), None);
        assert_eq!(lacks(None, with_bpf), None);
        let old = lacks(Some(KernelVersion::new(5, 4, 210)), with_bpf).expect("too old");
        assert!(old.contains("5.15"), "{old}");
        let without = lacks(Some(KernelVersion::new(6, 6, 0)), "nodev\tsysfs\nnodev\tbpfs\n").expect("no BPF");
        assert!(without.contains("CONFIG_BPF_SYSCALL"), "{without}");
        let error = DataplaneError::KernelTooOld { kernel: "5.4.210".into(), missing: old.into() };
        assert_eq!(error.to_string(), "this kernel (5.4.210) is too old: nacld needs Linux 5.15 or later");
    }
}
