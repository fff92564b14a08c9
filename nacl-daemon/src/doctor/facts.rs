//! What this machine is, as far as a diagnosis goes by it. Asks and judges nothing: what cannot be seen is `None`.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use nix::{
    sys::resource::{RLIM_INFINITY, Resource, getrlimit},
    unistd::Uid,
};
use procfs::{Current as _, Meminfo, process::Process};

use crate::{
    dataplane::{self, DataplaneError, Platform, Site, Survey, Target},
    netns,
    resolve::{Host as _, Resolved, Side, Xdp},
    service::{
        detach::{interface_names, namespaces},
        host::{Connection, Kernel, Surroundings},
    },
};

/// What is to be looked at.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Interfaces, by their device or by their name in the policy; empty: those of the policy, else all Ethernet ones.
    pub interfaces: Vec<String>,
    /// Namespace of those that the policy does not name.
    pub netns: Option<String>,
    /// The policy.
    pub policy: Option<Policy>,
    /// Where a daemon would keep what outlives it.
    pub state: PathBuf,
}

/// A policy file.
#[derive(Clone, Debug)]
pub struct Policy {
    /// As it was named.
    pub file: PathBuf,
    /// What it means, or how many errors it has.
    pub resolved: Result<Resolved, usize>,
}

/// Everything that is judged.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The machine.
    pub machine: Machine,
    /// The policy: its file, and how many errors it has.
    pub policy: Option<(PathBuf, usize)>,
    /// Its interfaces.
    pub nics: Vec<Nic>,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Binary, kernel and process.
    pub platform: Platform,
    /// Whether the kernel describes its types.
    pub btf: bool,
    /// `net.core.bpf_jit_enable`. Root may read it, in the machine's own namespace.
    pub jit: Option<u32>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged: Option<u32>,
    /// The lockdown that is in force: `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// Capabilities this process hands on to what it runs, by bit: none under `sudo`, what the unit names under systemd.
    pub ambient: Option<u64>,
    /// Who runs this process.
    pub uid: u32,
    /// Where a daemon would keep what outlives it.
    pub site: Site,
    /// `RLIMIT_MEMLOCK` in bytes; `None`: without limit.
    pub memlock: Option<u64>,
    /// Bytes of memory that can be had.
    pub available: Option<u64>,
    /// Names under /run/netns.
    pub namespaces: Vec<String>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Which one.
    pub target: Target,
    /// What the policy says of it.
    pub wanted: Option<Wanted>,
    /// What lies under it.
    pub survey: Result<Survey, Unseen>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// SSH connections that it carries; `None` where that could not be seen.
    pub ssh: Option<Vec<Connection>>,
}

/// What a policy says of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How ingress is to be hooked.
    pub xdp: Xdp,
    /// Which way it looks.
    pub side: Side,
}

/// Why an interface could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It is not there; what is.
    Missing(Vec<String>),
    /// Its namespace is not there.
    NoNamespace,
    /// Its namespace must not be entered.
    Forbidden,
    /// Something else.
    Other(String),
}

impl Facts {
    /// Looks at this machine.
    pub fn gather(asked: &Asked) -> Self {
        let policy = asked.policy.as_ref();
        let targets = targets(asked);
        Self {
            machine: Machine::gather(&asked.state),
            policy: policy.map(|policy| (policy.file.clone(), policy.resolved.as_ref().err().copied().unwrap_or(0))),
            nics: targets.into_iter().map(|(target, wanted)| Nic::gather(target, wanted)).collect(),
        }
    }
}

/// The interfaces that are meant.
fn targets(asked: &Asked) -> Vec<(Target, Option<Wanted>)> {
    let resolved = asked.policy.as_ref().and_then(|policy| policy.resolved.as_ref().ok());
    let of_policy: Vec<_> = resolved
        .iter()
        .flat_map(|resolved| &resolved.interfaces)
        .map(|(key, interface)| {
            let target = Target { name: interface.name.clone(), netns: interface.netns.clone() };
            (key, target, Wanted { xdp: interface.xdp, side: interface.side })
        })
        .collect();
    let other = |name: &str| (Target { name: name.to_owned(), netns: asked.netns.clone() }, None);
    if !asked.interfaces.is_empty() {
        let find = |name: &String| {
            let meant = of_policy.iter().find(|(key, target, _)| *key == name || target.name == *name);
            meant.map_or_else(|| other(name), |(_, target, wanted)| (target.clone(), Some(*wanted)))
        };
        return asked.interfaces.iter().map(find).collect();
    }
    if !of_policy.is_empty() {
        return of_policy.into_iter().map(|(_, target, wanted)| (target, Some(wanted))).collect();
    }
    ethernet(asked.netns.as_deref()).iter().map(|name| other(name)).collect()
}

/// Names of the Ethernet interfaces of a namespace.
fn ethernet(netns: Option<&str>) -> Vec<String> {
    let names = netns::within(netns, interface_names).and_then(|names| names).unwrap_or_default();
    let target = |name: &String| Target { name: name.clone(), netns: netns.map(str::to_owned) };
    names.into_iter().filter(|name| dataplane::carries_ethernet(&target(name))).collect()
}

impl Machine {
    fn gather(state: &Path) -> Self {
        let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse().ok();
        let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").ok();
        let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
        Self {
            platform: dataplane::platform(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            jit: number("/proc/sys/net/core/bpf_jit_enable"),
            unprivileged: number("/proc/sys/kernel/unprivileged_bpf_disabled"),
            lockdown: lockdown.and_then(|text| chosen(&text)),
            ambient: Process::myself().and_then(|process| process.status()).ok().and_then(|status| status.capamb),
            uid: Uid::effective().as_raw(),
            site: Site::of(state),
            memlock: (limit != RLIM_INFINITY).then_some(limit),
            available: Meminfo::current().ok().and_then(|memory| memory.mem_available),
            namespaces: namespaces().into_iter().flatten().collect(),
        }
    }
}

/// The word in brackets.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

impl Nic {
    fn gather(target: Target, wanted: Option<Wanted>) -> Self {
        let survey = dataplane::survey(&target).map_err(|error| unseen(&target, error));
        let netns = target.netns.as_deref();
        let (addresses, ssh) = match survey {
            Ok(_) => (
                Kernel.addresses(netns, &target.name),
                Surroundings::of(netns, &target.name).ok().map(|surroundings| surroundings.ssh),
            ),
            Err(_) => (Vec::new(), None),
        };
        Self { target, wanted, survey, addresses, ssh }
    }
}

fn unseen(target: &Target, error: DataplaneError) -> Unseen {
    match error {
        DataplaneError::NoInterface { netns, .. } => {
            let there = netns::within(netns.as_deref(), interface_names).and_then(|names| names);
            Unseen::Missing(there.unwrap_or_default())
        }
        DataplaneError::Namespace { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Unseen::Forbidden
        }
        DataplaneError::Namespace { name, .. } if !netns::path(&name).exists() => Unseen::NoNamespace,
        other => Unseen::Other(format!("{}: {other}", target.name)),
    }
}
