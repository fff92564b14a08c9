//! Taking our programs off an interface without a daemon and without a policy: what a crash left, or what a daemon
//! that does not answer still holds. Nobody else's program is touched: ours are known by their names.

use std::{collections::BTreeSet, io, os::fd::AsFd};

use aya::programs::{
    SchedClassifier, TcAttachType,
    links::{Link, LinkType},
    tc::SchedClassifierLink,
};

use super::{
    DataplaneError, Store, Target,
    device::{self, Device, holder, index, namespace_id, open_namespace},
    netlink, object, sys,
};
use crate::netns;

/// What all our programs' names begin with.
pub const OURS: &str = "nacl_";

/// Takes every program of nacld off an interface, and the clsact qdisc where nothing else is on it. Returns a line for
/// each thing that was removed, with the process that held it, where one did.
///
/// # Errors
/// There is no such interface, no privilege, or the kernel cannot be asked or refuses.
pub fn detach_leftovers(target: &Target, store: Option<&Store>) -> Result<Vec<String>, DataplaneError> {
    // Without it other processes' programs are not even shown, and "nothing found" would be a lie.
    object::may_look_around()?;
    let namespace = open_namespace(target)?;
    let failed = |source| DataplaneError::Detach { interface: target.name.clone(), source };
    let removed = netns::within_open(namespace.as_ref(), || {
        let ifindex = index(&target.name)
            .ok_or_else(|| DataplaneError::NoInterface { name: target.name.clone(), netns: target.netns.clone() })?;
        let mut removed = Vec::new();
        links(target, ifindex, &mut removed).map_err(failed)?;
        filters(target, ifindex, &mut removed).map_err(failed)?;
        Ok::<_, DataplaneError>((ifindex, removed))
    })
    .map_err(|source| DataplaneError::Namespace { name: target.netns.clone().unwrap_or_default(), source })?;
    let (ifindex, removed) = removed?;
    // Only after the programs: what is pinned keeps them where a daemon that does not answer could not.
    if let Some(store) = store {
        store.forget(namespace_id(namespace.as_ref())?, &Device { name: target.name.clone(), ifindex })?;
    }
    Ok(removed)
}

/// The processes that hold programs of nacld on an interface. What a crash left has no holder.
///
/// # Errors
/// There is no such interface, or the kernel cannot be asked.
pub fn holders(target: &Target) -> Result<BTreeSet<String>, DataplaneError> {
    let namespace = open_namespace(target)?;
    let asked = |source| DataplaneError::Ask { what: format!("which programs are on {:?}", target.name), source };
    netns::within_open(namespace.as_ref(), || {
        let ifindex = index(&target.name)
            .ok_or_else(|| DataplaneError::NoInterface { name: target.name.clone(), netns: target.netns.clone() })?;
        let mut programs: Vec<u32> = ours(target, ifindex).map_err(asked)?.into_iter().map(|(id, ..)| id).collect();
        for egress in [false, true] {
            let filters = netlink::filters(ifindex, egress).map_err(asked)?;
            programs.extend(filters.iter().filter(|filter| filter.name.starts_with(OURS)).map(|filter| filter.id));
        }
        Ok(programs.into_iter().filter_map(holder).collect())
    })
    .map_err(|source| DataplaneError::Namespace { name: target.netns.clone().unwrap_or_default(), source })?
}

/// Our programs on the XDP and tcx hooks: id, hook and name.
fn ours(target: &Target, ifindex: u32) -> io::Result<Vec<(u32, LinkType, String)>> {
    let mut names = device::programs();
    names.retain(|_, name| name.starts_with(OURS));
    let mut found: Vec<(u32, LinkType)> = netlink::xdp(ifindex)?.into_iter().map(|id| (id, LinkType::Xdp)).collect();
    for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
        // Fails where the kernel has no tcx, and then there is none.
        if let Ok((_, programs)) = SchedClassifier::query_tcx(&target.name, hook) {
            found.extend(programs.iter().map(|program| (program.id(), LinkType::Tcx)));
        }
    }
    Ok(found.into_iter().filter_map(|(id, kind)| Some((id, kind, names.get(&id)?.clone()))).collect())
}

/// XDP and tcx.
fn links(target: &Target, ifindex: u32, removed: &mut Vec<String>) -> io::Result<()> {
    for (id, kind, name) in ours(target, ifindex)? {
        let held = holder(id).map_or_else(String::new, |holder| format!(", held by {holder}"));
        let links = device::links(id, kind);
        if links.is_empty() && kind == LinkType::Xdp {
            netlink::clear_xdp(ifindex)?;
        }
        for link in links {
            sys::link_detach(sys::link_by_id(link)?.as_fd())?;
        }
        let kind = if kind == LinkType::Xdp { "XDP" } else { "tcx" };
        removed.push(format!("{kind} program {name} (id {id}{held})"));
    }
    Ok(())
}

/// Filters, and the qdisc.
fn filters(target: &Target, ifindex: u32, removed: &mut Vec<String>) -> io::Result<()> {
    let mut ours = false;
    for egress in [false, true] {
        for filter in netlink::filters(ifindex, egress)? {
            if !filter.name.starts_with(OURS) {
                continue;
            }
            ours = true;
            let held = holder(filter.id).map_or_else(String::new, |holder| format!(", held by {holder}"));
            let hook = if filter.egress { TcAttachType::Egress } else { TcAttachType::Ingress };
            let link = SchedClassifierLink::attached(&target.name, hook, filter.priority, filter.handle.into(), None)?;
            Link::detach(link).map_err(io::Error::other)?;
            removed.push(format!("clsact filter {} (id {}{held})", filter.name, filter.id));
        }
    }
    if ours && netlink::has_clsact(ifindex)? {
        netlink::remove_empty_clsact(ifindex)?;
        if !netlink::has_clsact(ifindex)? {
            removed.push("clsact qdisc".to_owned());
        }
    }
    Ok(())
}
