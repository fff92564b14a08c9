//! Putting the programs on the hooks, and what to do where a hook cannot be had. Runs in the interface's namespace.

use std::fmt;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
    xdp::XdpMode,
};

use super::{
    DataplaneError,
    device::{self, Device},
    netlink,
    object::{Object, TC_EGRESS, TC_INGRESS, XDP, errno, kernel_is},
};
use crate::resolve::Xdp;

/// How ingress is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// TC, by a link.
    Tcx,
    /// TC, by a filter on the clsact qdisc.
    Clsact,
}

/// How an interface is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tc {
    /// By a tcx link where the kernel has it, else by a filter on clsact.
    #[default]
    Auto,
    /// By a filter on clsact.
    Clsact,
}

/// Priorities of our filters: on ingress ahead of what others choose, on egress behind it, so that we see what the
/// wire sees. The handle is ours, so that a filter a crash left is found and replaced in place.
const INGRESS_PRIORITY: u16 = 2;
const EGRESS_PRIORITY: u16 = 0xbfff;
const HANDLE: TcHandle = TcHandle::new(0, 0x6e61);

/// Attaches ingress, then egress. `made_qdisc` is set as soon as there is a qdisc to be removed, also on failure.
pub fn attach(
    object: &mut Object,
    device: &Device,
    xdp: Xdp,
    tc: Tc,
    made_qdisc: &mut bool,
) -> Result<Hooks, DataplaneError> {
    let mut fallback = None;
    let by_xdp = match xdp {
        Xdp::Tc => None,
        Xdp::Generic => match attach_xdp(object, device, XdpMode::Skb)? {
            Ok(program) => Some((Ingress::Generic, program)),
            Err(source) => return Err(xdp_error(device, source)),
        },
        Xdp::Native | Xdp::Auto => match attach_xdp(object, device, XdpMode::Driver)? {
            Ok(program) => Some((Ingress::Native, program)),
            Err(source) if xdp == Xdp::Native => return Err(native_error(device, source)),
            Err(source) => {
                fallback = Some(why(device, &source));
                None
            }
        },
    };
    let (ingress, ingress_program) = match by_xdp {
        Some(attached) => attached,
        None => match attach_tc(object, device, TcAttachType::Ingress, tc, made_qdisc)? {
            (Egress::Tcx, program) => (Ingress::Tcx, program),
            (Egress::Clsact, program) => (Ingress::Clsact, program),
        },
    };
    let (egress, egress_program) = attach_tc(object, device, TcAttachType::Egress, tc, made_qdisc)?;
    Ok(Hooks { ifindex: device.ifindex, ingress, fallback, egress, ingress_program, egress_program })
}

/// The outer error is of loading, the inner one of attaching.
fn attach_xdp(
    object: &mut Object,
    device: &Device,
    mode: XdpMode,
) -> Result<Result<u32, ProgramError>, DataplaneError> {
    let program = object.xdp()?;
    Ok(program.attach_to_if_index(device.ifindex, mode).and_then(|_| Ok(program.info()?.id())))
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
    hook: TcAttachType,
    tc: Tc,
    made_qdisc: &mut bool,
) -> Result<(Egress, u32), DataplaneError> {
    let ingress = matches!(hook, TcAttachType::Ingress);
    let name = if ingress { TC_INGRESS } else { TC_EGRESS };
    let program = object.tc(name)?;
    let error = |source: ProgramError| match errno(&source) {
        Some(libc::EPERM | libc::EACCES) => {
            DataplaneError::NoPrivilege { what: "attach a TC program", capability: "CAP_NET_ADMIN".into() }
        }
        _ => DataplaneError::Attach { program: name, name: device.name.clone(), source },
    };
    let kind = if tc == Tc::Auto && kernel_is(6, 6) {
        let order = if ingress { LinkOrder::first() } else { LinkOrder::last() };
        program.attach_with_options(&device.name, hook, TcAttachOptions::TcxOrder(order)).map_err(error)?;
        Egress::Tcx
    } else {
        attach_clsact(program, device, hook, made_qdisc).map_err(error)?;
        Egress::Clsact
    };
    let id = program.info().map_err(error)?.id();
    Ok((kind, id))
}

fn attach_clsact(
    program: &mut SchedClassifier,
    device: &Device,
    hook: TcAttachType,
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
    let priority = if matches!(hook, TcAttachType::Ingress) { INGRESS_PRIORITY } else { EGRESS_PRIORITY };
    let options = NlOptions { priority, handle: HANDLE, classid: None };
    match program.attach_with_options(&device.name, hook, TcAttachOptions::Netlink(options)) {
        // What a crash left of us is replaced in place, so that there is no moment without a program.
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            let left = SchedClassifierLink::attached(&device.name, hook, priority, HANDLE, None)?;
            *made_qdisc = true;
            program.attach_to_link(left).map(drop)
        }
        other => other.map(drop),
    }
}
