//! What an interface is: its index, whether it speaks Ethernet, and whose XDP program it has. Changes nothing.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
};

use aya::programs::{links::LinkType, loaded_links, loaded_programs};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{DataplaneError, Target};
use crate::netns;

/// An interface that nacld can stand on.
pub struct Device {
    pub name: String,
    pub ifindex: u32,
}

mod ioctl {
    nix::ioctl_read_bad!(
        /// The link-layer address, whose family is the device's type. Asked instead of sysfs, which shows the devices
        /// of the namespace it was mounted in and not of the thread that reads it.
        hardware_address,
        libc::SIOCGIFHWADDR,
        libc::ifreq
    );
}

/// Opens the target's namespace.
pub fn open_namespace(target: &Target) -> Result<Option<File>, DataplaneError> {
    let Some(name) = &target.netns else { return Ok(None) };
    let path = netns::path(name);
    File::open(path).map(Some).map_err(|source| DataplaneError::Namespace { name: name.clone(), source })
}

/// Finds the interface, and refuses one that does not carry Ethernet frames.
pub fn find(target: &Target, namespace: Option<&File>) -> Result<Device, DataplaneError> {
    let missing = || DataplaneError::NoInterface { name: target.name.clone(), netns: target.netns.clone() };
    let found = netns::within_open(namespace, || -> io::Result<Option<(u32, Option<String>)>> {
        let Some(ifindex) = index(&target.name) else { return Ok(None) };
        Ok(Some((ifindex, not_ethernet(&target.name)?)))
    })
    .map_err(|source| DataplaneError::Namespace { name: target.netns.clone().unwrap_or_default(), source })?
    .map_err(|source| DataplaneError::Ask { what: format!("the type of interface {:?}", target.name), source })?;
    let (ifindex, not_ethernet) = found.ok_or_else(missing)?;
    if let Some(kind) = not_ethernet {
        return Err(DataplaneError::NotEthernet { name: target.name.clone(), kind });
    }
    Ok(Device { name: target.name.clone(), ifindex })
}

/// What tells a network namespace from every other, for as long as it lives: its inode.
pub fn namespace_id(namespace: Option<&File>) -> Result<u64, DataplaneError> {
    let id = match namespace {
        Some(namespace) => namespace.metadata(),
        None => fs::metadata("/proc/thread-self/ns/net"),
    };
    let failed = |source| DataplaneError::Ask { what: "which network namespace this is".to_owned(), source };
    id.map(|id| id.ino()).map_err(failed)
}

/// Index of an interface of the namespace this thread is in.
pub fn index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// What an interface of this thread's namespace is, where it does not carry Ethernet frames.
pub fn not_ethernet(name: &str) -> io::Result<Option<String>> {
    let hardware = hardware(name)?;
    Ok((hardware != libc::ARPHRD_ETHER).then(|| kind(hardware)))
}

/// Name of an interface of the namespace this thread is in.
pub fn name(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex).ok()?.into_string().ok()
}

/// An ioctl's question about an interface.
pub fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a plain C structure, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = CString::new(name)?;
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.as_bytes()) {
        *to = (*from).cast_signed();
    }
    Ok(request)
}

fn hardware(name: &str) -> io::Result<u16> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut request = request(name)?;
    // SAFETY: an open socket, and the structure this request fills in.
    unsafe { ioctl::hardware_address(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the request was for this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr }.sa_family)
}

/// A type of device in words.
fn kind(hardware: u16) -> String {
    let known = match hardware {
        libc::ARPHRD_LOOPBACK => "the loopback interface",
        // Its number means "no link layer": tun and WireGuard devices.
        libc::ARPHRD_NONE => "a device without a link layer (such as tun or WireGuard)",
        libc::ARPHRD_PPP => "a PPP link",
        libc::ARPHRD_TUNNEL => "an IPv4 tunnel",
        libc::ARPHRD_TUNNEL6 => "an IPv6 tunnel",
        libc::ARPHRD_SIT => "an IPv6-in-IPv4 tunnel",
        libc::ARPHRD_IPGRE => "a GRE tunnel",
        libc::ARPHRD_INFINIBAND => "InfiniBand",
        libc::ARPHRD_IEEE80211_RADIOTAP => "a Wi-Fi monitor",
        other => return format!("of ARPHRD type {other}"),
    };
    known.to_owned()
}

/// Names of the programs in the kernel, by id; none where this process may not see them.
pub fn programs() -> BTreeMap<u32, String> {
    loaded_programs()
        .filter_map(Result::ok)
        .filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
        .collect()
}

/// Ids of the links of a kind that a program has.
pub fn links(program: u32, kind: LinkType) -> Vec<u32> {
    loaded_links()
        .filter_map(Result::ok)
        .filter(|link| link.program_id() == program && link.link_type().is_ok_and(|found| found == kind))
        .map(|link| link.id())
        .collect()
}

/// Whose program this is: its id, its name, and a process that holds it, as far as this process may know.
pub fn owner(id: u32) -> String {
    let name = programs().remove(&id);
    let name = name.map_or_else(String::new, |name| format!(" {name:?}"));
    let holder = holder(id).map_or_else(String::new, |holder| format!(", held by {holder}"));
    format!("id {id}{name}{holder}")
}

/// A process that holds a program or a link to it: name and process id.
pub fn holder(id: u32) -> Option<String> {
    let wanted = format!("prog_id:\t{id}");
    for process in fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fdinfo")) else { continue };
        let holds = descriptors
            .filter_map(Result::ok)
            .filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok())
            .any(|text| text.lines().any(|line| line == wanted));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}
