//! What keeps our programs on the hooks of an interface: links by descriptor, and filters on clsact, which the kernel keeps
//! by itself. Knows no policy, and attaches nothing anew.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::programs::{TcAttachType, tc::SchedClassifierLink};
use nacl_common::evaluate::Hook;

use super::{
    attach::{HANDLE, priority},
    netlink, sys,
};

/// What a link is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// XDP.
    Xdp,
    /// TC.
    Tcx(Hook),
}

/// What the kernel tells of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct On {
    /// Its hook.
    pub kind: Kind,
    /// Id of its program.
    pub program: u32,
    /// Index of the interface, in its namespace; 0 where the interface is gone.
    pub ifindex: u32,
}

/// `enum bpf_attach_type`.
const XDP_ATTACH: u32 = 37;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// A link. It stays for as long as anybody has it open or pinned.
pub struct Link(OwnedFd);

impl Link {
    /// Attaches an XDP program, in the driver or after it.
    pub fn xdp(program: BorrowedFd<'_>, ifindex: u32, generic: bool) -> io::Result<Self> {
        /// `XDP_FLAGS_DRV_MODE` and `XDP_FLAGS_SKB_MODE`.
        const FLAGS: [u32; 2] = [1 << 2, 1 << 1];
        sys::link_create(program, ifindex, XDP_ATTACH, FLAGS[usize::from(generic)]).map(Self)
    }

    /// Attaches a TC program: on ingress before all others, on egress behind them, so that we see what the wire sees.
    pub fn tcx(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<Self> {
        /// `BPF_F_BEFORE` and `BPF_F_AFTER`: relative to none is to all.
        const BEFORE: u32 = 1 << 3;
        const AFTER: u32 = 1 << 4;
        let (kind, flags) = match hook {
            Hook::Ingress => (TCX_INGRESS, BEFORE),
            Hook::Egress => (TCX_EGRESS, AFTER),
        };
        sys::link_create(program, ifindex, kind, flags).map(Self)
    }

    /// One that is pinned.
    pub fn pinned(path: &Path) -> io::Result<Self> {
        sys::get(path).map(Self)
    }

    /// What it is on.
    ///
    /// # Errors
    /// The kernel does not say, or it is a link of another kind.
    pub fn on(&self) -> io::Result<On> {
        /// `enum bpf_link_type`.
        const XDP: u32 = 6;
        const TCX: u32 = 11;
        // type, id, program, (pad), index, attach type
        let [kind, _, program, _, ifindex, hook, ..] = sys::info(self.0.as_fd())?;
        let kind = match (kind, hook) {
            (XDP, _) => Kind::Xdp,
            (TCX, TCX_INGRESS) => Kind::Tcx(Hook::Ingress),
            (TCX, TCX_EGRESS) => Kind::Tcx(Hook::Egress),
            _ => return Err(io::Error::other("a link of another kind")),
        };
        Ok(On { kind, program, ifindex })
    }

    /// Has another program run from now on; no packet meets none, or both.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::link_update(self.0.as_fd(), program)
    }

    /// Pins it.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        sys::pin(self.0.as_fd(), path)
    }

    /// Takes the program off its hook, whoever else holds the link.
    pub fn detach(&self) -> io::Result<()> {
        match sys::link_detach(self.0.as_fd()) {
            // Its interface is gone.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
            other => other,
        }
    }
}

/// What keeps one program on its hook.
pub enum Hold {
    /// A link.
    Link(Link),
    /// A filter on clsact, at our place.
    Filter,
}

impl Hold {
    /// Takes the program off. In the interface's namespace.
    pub fn release(&self, ifindex: u32, hook: Hook) -> io::Result<()> {
        match self {
            Self::Link(link) => link.detach(),
            Self::Filter => remove_filter(ifindex, hook),
        }
    }
}

/// Id of the program of our filter on clsact, if it is there.
pub fn filter(ifindex: u32, hook: Hook) -> io::Result<Option<u32>> {
    let (priority, handle) = (priority(hook), u32::from(HANDLE));
    let all = netlink::filters(ifindex, hook == Hook::Egress)?;
    Ok(all.iter().find(|filter| filter.priority == priority && filter.handle == handle).map(|filter| filter.id))
}

/// Removes our filter on clsact, if it is there.
pub fn remove_filter(ifindex: u32, hook: Hook) -> io::Result<()> {
    if filter(ifindex, hook)?.is_none() {
        return Ok(());
    }
    // By its name, which may have changed.
    let name = nix::net::if_::if_indextoname(ifindex)?;
    let name = name.to_str().map_err(io::Error::other)?;
    let link = SchedClassifierLink::attached(name, attach_type(hook), priority(hook), HANDLE, None)?;
    aya::programs::links::Link::detach(link).map_err(io::Error::other)
}

/// As aya calls it.
pub const fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    }
}
