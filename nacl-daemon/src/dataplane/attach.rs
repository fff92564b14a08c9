//! Putting the programs on the hooks, and what to do where a hook cannot be had. Runs in the interface's namespace.

use std::{fmt, mem, os::fd::AsFd};

use aya::programs::{
    ProgramError, SchedClassifier,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
};
use nacl_common::evaluate::Hook;
use serde::{Deserialize, Serialize};

use super::{
    DataplaneError,
    device::{self, Device},
    hold::{self, Hold, Kind, Link},
    netlink,
    object::{Object, Program, XDP, errno, kernel_is},
};
use crate::resolve::Xdp;

/// How ingress is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ingress {
    /// XDP in the driver.
    Native,
    /// XDP after the driver; it sees whole GRO packets.
    Generic,
    /// TC, by a link.
    Tcx,
    /// TC, by a filter on the clsact qdisc.
    Clsact,
}

/// How egress is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Egress {
    /// TC, by a link.
    Tcx,
    /// TC, by a filter on the clsact qdisc.
    Clsact,
}

/// How an interface is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Its index, in its own namespace.
    pub ifindex: u32,
    /// How ingress is attached.
    pub ingress: Ingress,
    /// Why ingress is not native XDP, where that was to be tried first.
    pub fallback: Option<String>,
    /// How egress is attached.
    pub egress: Egress,
    /// Id of the ingress program.
    pub ingress_program: u32,
    /// Id of the egress program.
    pub egress_program: u32,
}

impl fmt::Display for Hooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ingress = match self.ingress {
            Ingress::Native => "native XDP",
            Ingress::Generic => "generic XDP",
            Ingress::Tcx => "TC (tcx)",
            Ingress::Clsact => "TC (clsact)",
        };
        let egress = match self.egress {
            Egress::Tcx => "TC (tcx)",
            Egress::Clsact => "TC (clsact)",
        };
        write!(formatter, "ingress by {ingress}, egress by {egress}")?;
        match &self.fallback {
            Some(why) => write!(formatter, "; no native XDP: {why}"),
            None => Ok(()),
        }
    }
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tc {
    /// By a tcx link where the kernel has it, else by a filter on clsact.
    #[default]
    Auto,
    /// By a filter on clsact.
    Clsact,
}

/// Priorities of our filters: on ingress ahead of what others choose, on egress behind it, so that we see what the
/// wire sees. The handle is ours, so that a filter a crash left is found and replaced in place.
pub const fn priority(hook: Hook) -> u16 {
    match hook {
        Hook::Ingress => 2,
        Hook::Egress => 0xbfff,
    }
}
pub const HANDLE: TcHandle = TcHandle::new(0, 0x6e61);

/// What is to be attached, and how.
#[derive(Clone, Copy)]
pub struct Way {
    /// As the policy has it.
    pub xdp: Xdp,
    /// How TC programs are attached.
    pub tc: Tc,
}

/// What is on the interface from then on.
pub struct Attached {
    pub hooks: Hooks,
    pub ingress: Hold,
    pub egress: Hold,
}

/// Attaches ingress, then egress. Where one of our own links is on a hook, `old` ones that a process now gone has pinned, it is
/// given the new program in place, so that no packet goes unjudged. `made_qdisc` is set as soon as there is a qdisc to be
/// removed, also on failure.
pub fn attach(
    object: &mut Object,
    device: &Device,
    way: Way,
    old: Vec<Link>,
    made_qdisc: &mut bool,
) -> Result<Attached, DataplaneError> {
    let mut links: Vec<(Kind, Link)> = old.into_iter().filter_map(|link| Some((link.on().ok()?.kind, link))).collect();
    let mut old = |kind| links.iter().position(|(there, _)| *there == kind).map(|at| links.swap_remove(at).1);
    let mut fallback = None;
    let by_xdp = match way.xdp {
        Xdp::Tc => None,
        Xdp::Generic => match attach_xdp(object, device, Ingress::Generic, old(Kind::Xdp))? {
            Ok(attached) => Some(attached),
            Err(source) => return Err(xdp_error(device, source)),
        },
        Xdp::Native | Xdp::Auto => match attach_xdp(object, device, Ingress::Native, old(Kind::Xdp))? {
            Ok(attached) => Some(attached),
            Err(source) if way.xdp == Xdp::Native => return Err(native_error(device, source)),
            Err(source) => {
                fallback = Some(why(device, &source));
                None
            }
        },
    };
    let (ingress, ingress_hold, ingress_program) = match by_xdp {
        Some(attached) => attached,
        None => match attach_tc(object, device, Hook::Ingress, way.tc, old(Kind::Tcx(Hook::Ingress)), made_qdisc)? {
            (Egress::Tcx, hold, program) => (Ingress::Tcx, hold, program),
            (Egress::Clsact, hold, program) => (Ingress::Clsact, hold, program),
        },
    };
    let egress = attach_tc(object, device, Hook::Egress, way.tc, old(Kind::Tcx(Hook::Egress)), made_qdisc);
    let (egress, egress_hold, egress_program) = match egress {
        Ok(attached) => attached,
        Err(error) => {
            // Half a policy is none.
            if let Err(error) = ingress_hold.release(device.ifindex, Hook::Ingress) {
                tracing::warn!(device = device.name, reason = %error, "the ingress program stays");
            }
            return Err(error);
        }
    };
    // On hooks that are no longer used.
    for (_, link) in links {
        if let Err(error) = link.detach() {
            tracing::warn!(device = device.name, reason = %error, "an older program stays");
        }
    }
    let hooks = Hooks { ifindex: device.ifindex, ingress, fallback, egress, ingress_program, egress_program };
    Ok(Attached { hooks, ingress: ingress_hold, egress: egress_hold })
}

/// The outer error is of loading, the inner one of attaching.
fn attach_xdp(
    object: &mut Object,
    device: &Device,
    wanted: Ingress,
    old: Option<Link>,
) -> Result<Result<(Ingress, Hold, u32), ProgramError>, DataplaneError> {
    let program = object.xdp()?;
    let attach = || {
        let id = program.info()?.id();
        if let Some(link) = old {
            // A link cannot change its mode: then there is a moment without.
            if netlink::xdp_is_generic(device.ifindex)? == (wanted == Ingress::Generic)
                && link.update(program.fd()?.as_fd()).is_ok()
            {
                return Ok((wanted, Hold::Link(link), id));
            }
            link.detach()?;
        }
        let link = Link::xdp(program.fd()?.as_fd(), device.ifindex, wanted == Ingress::Generic)?;
        Ok((wanted, Hold::Link(link), id))
    };
    Ok(attach())
}

fn xdp_error(device: &Device, source: ProgramError) -> DataplaneError {
    match (errno(&source), owner(device)) {
        (Some(libc::EBUSY | libc::EEXIST), Some(owner)) => {
            DataplaneError::XdpTaken { name: device.name.clone(), owner }
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            DataplaneError::NoPrivilege { what: "attach an XDP program", capability: "CAP_NET_ADMIN".into() }
        }
        _ => DataplaneError::Attach { program: XDP, name: device.name.clone(), source },
    }
}

fn native_error(device: &Device, source: ProgramError) -> DataplaneError {
    match xdp_error(device, source) {
        DataplaneError::Attach { source, name, .. } => DataplaneError::NoNativeXdp { name, why: why(device, &source) },
        other => other,
    }
}

/// Why the driver would not take the program, in words.
fn why(device: &Device, error: &ProgramError) -> String {
    match errno(error) {
        Some(libc::EOPNOTSUPP) => "the driver has none".into(),
        Some(libc::ERANGE) => "the MTU is too large for this driver".into(),
        Some(libc::EBUSY | libc::EEXIST) => match owner(device) {
            Some(owner) => format!("the interface already has an XDP program: {owner}"),
            None => "the interface already has an XDP program".into(),
        },
        Some(libc::ENOMEM | libc::ENOSPC) => "the driver has no queues or memory to spare".into(),
        Some(libc::EINVAL) => "the driver refuses it (MTU, queues or offloads)".into(),
        _ => error.to_string(),
    }
}

/// Whose XDP program is on the interface.
fn owner(device: &Device) -> Option<String> {
    let ids = netlink::xdp(device.ifindex).unwrap_or_default();
    ids.first().map(|id| device::owner(*id))
}

fn attach_tc(
    object: &mut Object,
    device: &Device,
    hook: Hook,
    tc: Tc,
    old: Option<Link>,
    made_qdisc: &mut bool,
) -> Result<(Egress, Hold, u32), DataplaneError> {
    let which = if hook == Hook::Ingress { Program::TcIngress } else { Program::TcEgress };
    let name = which.name();
    let program = object.tc(which)?;
    let error = |source: ProgramError| match errno(&source) {
        Some(libc::EPERM | libc::EACCES) => {
            DataplaneError::NoPrivilege { what: "attach a TC program", capability: "CAP_NET_ADMIN".into() }
        }
        _ => DataplaneError::Attach { program: name, name: device.name.clone(), source },
    };
    let attach = || {
        let id = program.info()?.id();
        if tc == Tc::Clsact || !kernel_is(6, 6) {
            attach_clsact(program, device, hook, made_qdisc)?;
            return Ok((Egress::Clsact, Hold::Filter, id));
        }
        if let Some(link) = old
            && link.update(program.fd()?.as_fd()).is_ok()
        {
            return Ok((Egress::Tcx, Hold::Link(link), id));
        }
        let link = Link::tcx(program.fd()?.as_fd(), device.ifindex, hook)?;
        Ok((Egress::Tcx, Hold::Link(link), id))
    };
    attach().map_err(error)
}

fn attach_clsact(
    program: &mut SchedClassifier,
    device: &Device,
    hook: Hook,
    made_qdisc: &mut bool,
) -> Result<(), ProgramError> {
    match qdisc_add_clsact(&device.name) {
        Ok(()) => *made_qdisc = true,
        Err(error) => {
            let error = ProgramError::TcError(error);
            // It is there already, and then it is not ours to remove.
            if errno(&error) != Some(libc::EEXIST) {
                return Err(error);
            }
        }
    }
    let (kind, priority) = (hold::attach_type(hook), priority(hook));
    let options = NlOptions { priority, handle: HANDLE, classid: None };
    let link = match program.attach_with_options(&device.name, kind, TcAttachOptions::Netlink(options)) {
        // What a crash left of us is replaced in place, so that there is no moment without a program.
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            let left = SchedClassifierLink::attached(&device.name, kind, priority, HANDLE, None)?;
            *made_qdisc = true;
            program.attach_to_link(left)?
        }
        other => other?,
    };
    // The filter stays until it is removed, whatever becomes of us.
    mem::forget(program.take_link(link)?);
    Ok(())
}
