//! The few questions and orders that have to go over rtnetlink: whose XDP program, which filters, the clsact qdisc.
//! Everything is of the namespace the calling thread is in.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A filter of kind `bpf` on one of clsact's hooks.
#[derive(Debug)]
pub struct Filter {
    /// True on egress.
    pub egress: bool,
    /// Its priority.
    pub priority: u16,
    /// Its handle.
    pub handle: u32,
    /// Name of its program.
    pub name: String,
    /// Id of its program.
    pub id: u32,
}

fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = 1;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4).clamp(1, rest.len());
            rest = &rest[length..];
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                _ => {}
            }
        }
    }
}

/// An interface by its index.
pub fn link(ifindex: u32) -> io::Result<Option<LinkMessage>> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let answers = ask(RouteNetlinkMessage::GetLink(message), NLM_F_ACK)?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }))
}

/// Ids of the XDP programs on an interface, in whatever mode.
pub fn xdp(ifindex: u32) -> io::Result<Vec<u32>> {
    let mut ids: Vec<u32> = xdp_attributes(ifindex)?
        .iter()
        .filter_map(|attribute| match attribute {
            LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => Some(*id),
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|id| *id != 0);
    Ok(ids)
}

/// Whether the XDP program on an interface runs after the driver and not in it.
pub fn xdp_is_generic(ifindex: u32) -> io::Result<bool> {
    let attributes = xdp_attributes(ifindex)?;
    Ok(attributes.iter().any(|attribute| matches!(attribute, LinkXdp::Attached(XdpAttached::SocketBuffer))))
}

fn xdp_attributes(ifindex: u32) -> io::Result<Vec<LinkXdp>> {
    let attributes = link(ifindex)?.into_iter().flat_map(|link| link.attributes);
    let xdp = attributes.filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    });
    Ok(xdp.flatten().collect())
}

/// The qdisc's half for one hook.
fn parent(egress: bool) -> TcHandle {
    TcHandle { major: u16::MAX, minor: if egress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS } }
}

fn tc(ifindex: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = parent;
    message
}

/// The clsact qdisc of an interface, if it has one.
pub fn has_clsact(ifindex: u32) -> io::Result<bool> {
    let answers = ask(RouteNetlinkMessage::GetQueueDiscipline(tc(ifindex, TcHandle::UNSPEC)), NLM_F_DUMP)?;
    Ok(answers.iter().any(|answer| {
        let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = answer else { return false };
        qdisc.header.index == ifindex.cast_signed()
            && qdisc.attributes.iter().any(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "clsact"))
    }))
}

/// Filters on one of clsact's hooks, of any kind: those that are not `bpf` have no name.
pub fn filters(ifindex: u32, egress: bool) -> io::Result<Vec<Filter>> {
    if !has_clsact(ifindex)? {
        return Ok(Vec::new());
    }
    let mut filters = Vec::new();
    for answer in ask(RouteNetlinkMessage::GetTrafficFilter(tc(ifindex, parent(egress))), NLM_F_DUMP)? {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else { continue };
        let (mut name, mut id) = (String::new(), 0);
        for attribute in &filter.attributes {
            let TcAttribute::Options(options) = attribute else { continue };
            for option in options {
                match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgName(text)) => name.clone_from(text),
                    TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => id = *number,
                    _ => {}
                }
            }
        }
        let handle = u32::from(filter.header.handle.major) << 16 | u32::from(filter.header.handle.minor);
        filters.push(Filter { egress, priority: (filter.header.info >> 16) as u16, handle, name, id });
    }
    // The kernel also lists each priority by itself, without a handle.
    filters.retain(|filter| filter.handle != 0);
    Ok(filters)
}

/// Removes the clsact qdisc, unless somebody's filter is still on it. Whatever is gone already is no error.
pub fn remove_empty_clsact(ifindex: u32) -> io::Result<()> {
    let remove = || {
        if !has_clsact(ifindex)? || !filters(ifindex, false)?.is_empty() || !filters(ifindex, true)?.is_empty() {
            return Ok(());
        }
        let mut message = tc(ifindex, TcHandle::CLSACT);
        message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        ask(RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK).map(drop)
    };
    match remove() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

/// Takes whatever XDP program was attached without a link off an interface.
pub fn clear_xdp(ifindex: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(-1)]));
    ask(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
}
