//! What lies under an interface, for whoever wants to know before anything is attached: what it is, its driver, queues and
//! offloads, and every program on its hooks. Changes nothing; what follows from it is judged in `doctor`.

use std::{collections::BTreeMap, fs, io, os::fd::AsRawFd, path::Path};

use aya::programs::{SchedClassifier, TcAttachType, links::LinkType};
use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHandle};
use futures_util::{StreamExt as _, TryStreamExt as _};
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _, NlasIterator,
    Parseable as _, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{
    DataplaneError, Target,
    device::{self, holder, index, open_namespace},
    leftovers::OURS,
    netlink, object,
};
use crate::netns;

/// What lies under an interface. What could not be asked is `None`, or named in `unseen`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// What it is, where it does not carry Ethernet frames.
    pub not_ethernet: Option<String>,
    /// What made it, where that is software: `veth`, `bridge`, `tun`.
    pub kind: Option<String>,
    /// Whether it is switched on.
    pub up: bool,
    /// Largest packet it takes.
    pub mtu: u32,
    /// The bridge, bond or the like that it is a port of: its name and kind.
    pub master: Option<(String, String)>,
    /// Its driver.
    pub driver: Option<String>,
    /// What its driver says it can do with XDP: NETDEV_XDP_ACT_* (Linux 6.3).
    pub xdp_features: Option<u64>,
    /// Its offloads, by the names `ethtool -k` has for them.
    pub offloads: Option<BTreeMap<String, Offload>>,
    /// Its queues; `None` also where it has only one by design.
    pub queues: Option<Queues>,
    /// What a virtio device and its host agreed on: VIRTIO_NET_F_*, by bit.
    pub virtio: Option<u64>,
    /// Programs on its hooks.
    pub programs: Vec<Found>,
    /// What could not be asked, and why.
    pub unseen: Vec<String>,
}

/// An offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Whether it is on.
    pub on: bool,
    /// Whether the driver lets nobody change it.
    pub fixed: bool,
}

/// How many queues there are, and how many there may be; those that receive and send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// In use.
    pub now: u32,
    /// At most.
    pub most: u32,
}

/// A hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// XDP.
    Xdp(XdpMode),
    /// A tcx link.
    Tcx {
        /// On egress, else on ingress.
        egress: bool,
    },
    /// A filter of the clsact qdisc.
    Clsact {
        /// On egress, else on ingress.
        egress: bool,
        /// Its priority.
        priority: u16,
    },
}

/// Where an XDP program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// After the driver.
    Generic,
    /// In the network card.
    Offloaded,
}

/// A program on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// The kernel's id of it.
    pub id: u32,
    /// Its name, where that may be seen.
    pub name: Option<String>,
    /// Whether it is one of ours.
    pub ours: bool,
    /// A process that holds it, where one does and may be seen.
    pub holder: Option<String>,
    /// The links it is attached by; none where it was attached without one, or that may not be seen.
    pub links: Vec<u32>,
}

/// Looks under an interface.
///
/// # Errors
/// There is no such interface or namespace, or the namespace may not be entered.
pub fn survey(target: &Target) -> Result<Survey, DataplaneError> {
    let namespace = open_namespace(target)?;
    let asked = |source| DataplaneError::Ask { what: format!("what interface {:?} is", target.name), source };
    netns::within_open(namespace.as_ref(), || {
        let missing = || DataplaneError::NoInterface { name: target.name.clone(), netns: target.netns.clone() };
        let ifindex = index(&target.name).ok_or_else(missing)?;
        let mut survey =
            Survey { not_ethernet: device::not_ethernet(&target.name).map_err(asked)?, ..Survey::default() };
        let xdp = survey.link(ifindex).map_err(asked)?;
        survey.driver = driver(&target.name);
        survey.speak_netlink(ifindex, &target.name);
        survey.programs(ifindex, &target.name, xdp);
        Ok(survey)
    })
    .map_err(|source| DataplaneError::Namespace { name: target.netns.clone().unwrap_or_default(), source })?
}

/// Whether there is such an interface, and it carries Ethernet frames.
pub fn carries_ethernet(target: &Target) -> bool {
    let Ok(namespace) = open_namespace(target) else { return false };
    device::find(target, namespace.as_ref()).is_ok()
}

impl Survey {
    /// What the link is; returns its XDP programs.
    fn link(&mut self, ifindex: u32) -> io::Result<Vec<(XdpMode, u32)>> {
        let mut programs = Vec::new();
        let Some(link) = netlink::link(ifindex)? else { return Ok(programs) };
        self.up = link.header.flags.contains(LinkFlags::Up);
        self.kind = kind(&link);
        let mut parent = (None, None);
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => self.mtu = *mtu,
                LinkAttribute::Controller(master) => {
                    let master = netlink::link(*master)?;
                    self.master = master.map(|link| (name(&link), kind(&link).unwrap_or_else(|| "device".to_owned())));
                }
                LinkAttribute::ParentDevName(name) => parent.0 = Some(name.as_str()),
                LinkAttribute::ParentDevBusName(bus) => parent.1 = Some(bus.as_str()),
                LinkAttribute::Xdp(xdp) => programs.extend(xdp.iter().filter_map(|attribute| match attribute {
                    LinkXdp::DrvProgId(id) => Some((XdpMode::Native, *id)),
                    LinkXdp::SkbProgId(id) => Some((XdpMode::Generic, *id)),
                    LinkXdp::HwProgId(id) => Some((XdpMode::Offloaded, *id)),
                    _ => None,
                })),
                _ => {}
            }
        }
        // By the bus and not by the interface's name: /sys/class/net is of the namespace that mounted it.
        if let (Some(name), Some("virtio")) = parent {
            self.virtio = virtio(&Path::new("/sys/bus/virtio/devices").join(name).join("features"));
        }
        Ok(programs)
    }

    /// Generic netlink: offloads, queues, and what the driver says of XDP.
    fn speak_netlink(&mut self, ifindex: u32, name: &str) {
        // A runtime of its own: the socket must be made on the thread that is in the namespace.
        let asked = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            runtime.block_on(async {
                let (connection, mut handle, _) = ethtool::new_connection()?;
                let connection = tokio::spawn(connection);
                self.offloads = self.heard("offloads", offloads(&mut handle, name).await);
                // Without a way to set queues there is nothing to say of them.
                self.queues = queues(&mut handle, name).await.ok().flatten();
                self.xdp_features = xdp_features(&mut handle.handle, ifindex).await;
                connection.abort();
                Ok(())
            })
        });
        self.heard("offloads and queues", asked);
    }

    fn heard<T, E: std::fmt::Display>(&mut self, what: &str, answer: Result<T, E>) -> Option<T> {
        answer.map_err(|error| self.unseen.push(format!("{what}: {error}"))).ok()
    }

    fn programs(&mut self, ifindex: u32, name: &str, xdp: Vec<(XdpMode, u32)>) {
        let known = device::programs();
        let mut found: Vec<(Place, u32, Option<String>)> = Vec::new();
        found.extend(xdp.into_iter().map(|(mode, id)| (Place::Xdp(mode), id, None)));
        if object::kernel_is(6, 6) {
            for (hook, egress) in [(TcAttachType::Ingress, false), (TcAttachType::Egress, true)] {
                let place = Place::Tcx { egress };
                match SchedClassifier::query_tcx(name, hook) {
                    Ok((_, programs)) => found.extend(programs.iter().map(|program| (place, program.id(), None))),
                    Err(error) => self.unseen.push(format!("tcx programs: {error}")),
                }
            }
        }
        for egress in [false, true] {
            let filters = self.heard("clsact filters", netlink::filters(ifindex, egress)).unwrap_or_default();
            found.extend(filters.into_iter().map(|filter| {
                let name = Some(filter.name).filter(|name| !name.is_empty());
                (Place::Clsact { egress, priority: filter.priority }, filter.id, name)
            }));
        }
        self.programs = found
            .into_iter()
            .map(|(place, id, name)| {
                let name = name.or_else(|| known.get(&id).cloned());
                let links = match place {
                    Place::Xdp(_) => device::links(id, LinkType::Xdp),
                    Place::Tcx { .. } => device::links(id, LinkType::Tcx),
                    Place::Clsact { .. } => Vec::new(),
                };
                let ours = name.as_deref().is_some_and(|name| name.starts_with(OURS));
                Found { place, id, ours, holder: holder(id), links, name }
            })
            .collect();
        self.unseen.dedup();
        if self.programs.iter().any(|program| program.id != 0 && program.name.is_none()) {
            self.unseen.push("names of programs: CAP_SYS_ADMIN is missing".to_owned());
        }
    }
}

fn name(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_else(|| link.header.index.to_string())
}

fn kind(link: &LinkMessage) -> Option<String> {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(InfoKind::to_string(kind)),
        _ => None,
    })
}

/// A line of a 0 or 1 for each bit.
fn virtio(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().bytes().take(64).enumerate().fold(0, |bits, (at, digit)| bits | u64::from(digit == b'1') << at))
}

/// `ETHTOOL_GDRVINFO`, the one question that ethtool's netlink family has no word for.
fn driver(interface: &str) -> Option<String> {
    const SIOCETHTOOL: libc::c_int = 0x8946;
    const ETHTOOL_GDRVINFO: u32 = 3;
    nix::ioctl_readwrite_bad!(ethtool, SIOCETHTOOL, libc::ifreq);

    /// `struct ethtool_drvinfo`.
    #[repr(C)]
    struct Answer {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }

    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut answer = Answer { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let mut request = device::request(interface).ok()?;
    request.ifr_ifru.ifru_data = (&raw mut answer).cast();
    // SAFETY: an open socket, and a request that points to the structure this command fills in.
    unsafe { ethtool(socket.as_raw_fd(), &raw mut request) }.ok()?;
    let name: Vec<u8> = answer.driver.iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}

async fn offloads(
    handle: &mut EthtoolHandle,
    interface: &str,
) -> Result<BTreeMap<String, Offload>, ethtool::EthtoolError> {
    let answers: Vec<_> = handle.feature().get(Some(interface)).execute().await?.try_collect().await?;
    let mut offloads: BTreeMap<String, Offload> = BTreeMap::new();
    let (mut changeable, mut active, mut never) = (Vec::new(), Vec::new(), Vec::new());
    for attribute in answers.into_iter().flat_map(|answer| answer.payload.nlas) {
        match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Hw(bits)) => changeable.extend(bits),
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => active.extend(bits),
            EthtoolAttr::Feature(EthtoolFeatureAttr::NoChange(bits)) => never.extend(bits),
            _ => {}
        }
    }
    // The first list names every offload there is, and says of each whether the driver can change it.
    for bit in changeable {
        offloads.insert(bit.name, Offload { on: false, fixed: !bit.value });
    }
    for bit in active {
        offloads.entry(bit.name).or_default().on = true;
    }
    for bit in never {
        offloads.entry(bit.name).or_default().fixed = true;
    }
    Ok(offloads)
}

async fn queues(handle: &mut EthtoolHandle, interface: &str) -> Result<Option<Queues>, ethtool::EthtoolError> {
    let answers: Vec<_> = handle.channel().get(Some(interface)).execute().await?.try_collect().await?;
    let mut queues = Queues::default();
    for attribute in answers.into_iter().flat_map(|answer| answer.payload.nlas) {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(now)) => queues.now = now,
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(most)) => queues.most = most,
            _ => {}
        }
    }
    Ok((queues.most > 0).then_some(queues))
}

/// A message of the kernel's family `netdev`: attributes as they are.
#[derive(Debug)]
struct Netdev(Vec<DefaultNla>);

impl Netdev {
    const GET_DEVICE: u8 = 1;
    const IFINDEX: u16 = 1;
    const XDP_FEATURES: u16 = 3;
}

impl GenlFamily for Netdev {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        Self::GET_DEVICE
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Netdev {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Netdev {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        NlasIterator::new(bytes).map(|attribute| DefaultNla::parse(&attribute?)).collect::<Result<_, _>>().map(Self)
    }
}

/// What the driver says of itself; kernels before 6.3 have no such family.
async fn xdp_features(handle: &mut GenetlinkHandle, ifindex: u32) -> Option<u64> {
    let question = Netdev(vec![DefaultNla::new(Netdev::IFINDEX, ifindex.to_ne_bytes().to_vec())]);
    let mut message = NetlinkMessage::from(GenlMessage::from_payload(question));
    message.header.flags = NLM_F_REQUEST;
    let mut answers = std::pin::pin!(handle.request(message).await.ok()?);
    while let Some(Ok(answer)) = answers.next().await {
        let NetlinkPayload::InnerMessage(answer) = answer.payload else { continue };
        for attribute in &answer.payload.0 {
            if attribute.kind() == Netdev::XDP_FEATURES {
                let mut bits = vec![0; attribute.value_len()];
                attribute.emit_value(&mut bits);
                return Some(u64::from_ne_bytes(bits.try_into().ok()?));
            }
        }
    }
    None
}
