//! What a policy means: names replaced by addresses, rules in AWS's order, one entry an interface. Diagnostics about
//! names, references and quotas are made here. No file, socket or kernel is touched: what the host knows comes in
//! through [`Host`].

pub mod build;
mod exempt;
pub mod flowlog;
mod groups;
pub(crate) mod names;
pub mod place;

use std::{collections::BTreeMap, net::IpAddr, ops::Range, sync::Arc};

use ipnet::IpNet;
use nacl_common::{Action, Direction, border::Service};
use serde::{Deserialize, Serialize};

use self::flowlog::FlowLog;
pub(crate) use self::place::listed;
pub use self::place::{InterfaceError, Place};
use crate::policy::written;

/// What resolving may ask of the machine it runs on. Tests and offline verbs use [`NoHost`].
pub trait Host {
    /// Addresses of a local interface, in the namespace named (`None`: this one). Empty where unknown.
    fn addresses(&self, netns: Option<&str>, interface: &str) -> Vec<IpAddr>;
}

/// A host that knows nothing: for `check`, `explain` and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHost;

impl Host for NoHost {
    fn addresses(&self, _: Option<&str>, _: &str) -> Vec<IpAddr> {
        Vec::new()
    }
}

/// A whole policy, resolved.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// File name as the user gave it, for messages.
    pub file: String,
    /// The TOML text, so that a rule's line can be shown.
    pub text: Arc<str>,
    /// Network ACLs by name, also those no interface uses.
    pub nacls: BTreeMap<String, Arc<Nacl>>,
    /// Subnets by name.
    pub subnets: BTreeMap<String, Subnet>,
    /// Security groups by name, also those no interface has.
    pub groups: BTreeMap<String, Arc<Group>>,
    /// Prefix lists by name.
    pub prefix_lists: BTreeMap<String, PrefixList>,
    /// Interfaces elsewhere, by name.
    pub enis: BTreeMap<String, Eni>,
    /// Interfaces here, by their name in the policy. That is the device's unless the policy says otherwise.
    pub interfaces: BTreeMap<String, Interface>,
    /// What becomes of it all when the daemon ends.
    pub on_exit: OnExit,
    /// The policy as it was written, for what no verdict depends on.
    pub written: Arc<written::Policy>,
}

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Name in the policy.
    pub name: String,
    /// AWS's id, if given.
    pub id: Option<String>,
    /// Its CIDRs, at most one IPv4 CIDR in practice.
    pub cidrs: Vec<IpNet>,
    /// Name of its network ACL; `default` is AWS's default one unless the policy defines it.
    pub nacl: String,
    /// What AWS never filters at an interface in it (N43).
    pub services: Vec<Exemption>,
}

/// An interface elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eni {
    /// Name in the policy.
    pub name: String,
    /// Its private addresses.
    pub addresses: Vec<IpAddr>,
    /// The subnet it stands in.
    pub subnet: Option<String>,
    /// Names of its security groups.
    pub groups: Vec<String>,
}

/// An interface the policy is enforced on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name of the device. Two interfaces of a policy may have the same one in two namespaces.
    pub name: String,
    /// Name of the network namespace it lies in; `None`: the daemon's own.
    pub netns: Option<String>,
    /// Its addresses: those written in the policy, else what the host knows, else none.
    pub addresses: Vec<IpAddr>,
    /// Name of its subnet.
    pub subnet: Option<String>,
    /// CIDRs inside which the network ACL is not consulted (N42): the subnet's; empty without a subnet.
    pub subnet_cidrs: Vec<IpNet>,
    /// The network ACL in force; AWS's default one, which allows everything, where only security groups are written.
    pub nacl: Arc<Nacl>,
    /// Its security groups; `None`: that layer is off. An empty list lets nothing pass (S2).
    pub groups: Option<Vec<Arc<Group>>>,
    /// Whether the network ACL remembers connections.
    pub mode: Mode,
    /// Which layers judge.
    pub layers: Layers,
    /// Whether what AWS never filters passes unjudged (N43). Its services with an address stand in `exemptions` too.
    pub aws: bool,
    /// What passes unjudged: AWS's services, then `failsafe` entries in the order of the file.
    pub exemptions: Vec<Exemption>,
    /// Connection tracking.
    pub tracking: Tracking,
    /// Which way it looks.
    pub side: Side,
    /// False: judge and count, drop nothing.
    pub enforce: bool,
    /// How ingress is hooked.
    pub xdp: Xdp,
    /// Whether frames that are neither IP nor ARP are dropped.
    pub drop_non_ip: bool,
    /// AWS's id of it, if given.
    pub id: Option<String>,
    /// AWS's id of its subnet, if given.
    pub subnet_id: Option<String>,
    /// The flow log it writes; `None`: none.
    pub flow_log: Option<Arc<FlowLog>>,
}

/// Whether the network ACL remembers connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// As AWS has it: every packet is judged alone (N8).
    #[default]
    Stateless,
    /// The what-if: the first packet is judged by the list, what follows passes.
    Stateful,
}

impl Mode {
    /// As it is written in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Stateful => "stateful",
        }
    }
}

/// Which layers judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layers {
    /// The network ACL, and the security groups where the interface has any.
    #[default]
    Both,
    /// Only the network ACL.
    Nacl,
    /// Only the security groups.
    Groups,
}

impl Layers {
    /// As it is written in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Nacl => "nacl",
            Self::Groups => "sg",
        }
    }
}

/// Connection tracking of an interface. Times are idle time-outs in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// A TCP handshake that is not complete. Not published (S37); ours.
    pub tcp_opening: u32,
    /// A TCP connection: 60 to 432000, 432000 by default, 350 on Nitro v6 (S35).
    pub tcp_established: u32,
    /// One side has sent FIN. Ours.
    pub tcp_closing: u32,
    /// Both sides have, or an RST was seen. Ours.
    pub tcp_closed: u32,
    /// UDP one way or a single request and response: 30 to 60, 30 by default (S35).
    pub udp: u32,
    /// UDP with more of them: 60 to 180, 180 by default (S35).
    pub udp_stream: u32,
    /// ICMP echo. Ours.
    pub icmp: u32,
    /// Other protocols: 600, and AWS lets nobody change it (S29).
    pub other: u32,
    /// Connections an interface can have at once. AWS's limits are not published (S39).
    pub entries: u32,
    /// Seconds after tracking was switched on in which TCP connections met in their middle are taken up. Ours.
    pub pickup: u32,
}

impl Default for Tracking {
    fn default() -> Self {
        Self {
            tcp_opening: 60,
            tcp_established: 432_000,
            tcp_closing: 120,
            tcp_closed: 10,
            udp: 30,
            udp_stream: 180,
            icmp: 30,
            other: 600,
            entries: 65_536,
            pickup: 60,
        }
    }
}

/// A security group: rules that allow, without order (S1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Name in the policy.
    pub name: String,
    /// AWS's id, if given.
    pub id: Option<String>,
    /// Inbound rules, in the order of the file.
    pub inbound: Vec<GroupRule>,
    /// Outbound rules, likewise.
    pub outbound: Vec<GroupRule>,
}

impl Group {
    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[GroupRule] {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// A rule of a security group, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRule {
    /// Protocol.
    pub protocol: Protocol,
    /// Destination ports, first and last; `None`: all, and always for protocols other than TCP and UDP (S11, S13).
    pub ports: Option<(u16, u16)>,
    /// ICMP type and code, matched on IPv4 for protocol 1 and on IPv6 for 58; `None`: all (S14).
    pub icmp: Option<Icmp>,
    /// The other end, as it was written.
    pub peer: Peer,
    /// The addresses that means: one CIDR, the entries of the prefix list, or the members' addresses. May be empty. The rule
    /// matches packets of the families that are in it.
    pub cidrs: Vec<IpNet>,
    /// Free text.
    pub description: Option<String>,
    /// Line of the rule in the policy file, from 1; 0 for rules that AWS makes by itself.
    pub line: usize,
    /// Bytes of the rule in the policy text; empty for rules that AWS makes by itself.
    pub span: Range<usize>,
}

impl GroupRule {
    /// A rule of these addresses, with everything else as it is where nothing is written. `ports`: as the field says.
    pub const fn new(protocol: Protocol, ports: Option<(u16, u16)>, peer: Peer, cidrs: Vec<IpNet>) -> Self {
        Self { protocol, ports, icmp: None, peer, cidrs, description: None, line: 0, span: 0..0 }
    }
}

/// The other end of a security group rule (S15).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// A CIDR.
    Cidr(IpNet),
    /// A prefix list, by name.
    PrefixList(String),
    /// A security group, by name: the private addresses of its members (S17).
    Group(String),
}

/// A prefix list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixList {
    /// Name in the policy.
    pub name: String,
    /// AWS's id, if given.
    pub id: Option<String>,
    /// Its weight in a security group's quota, whatever stands in it (S26).
    pub max_entries: u32,
    /// Its entries, all of one family (S22), canonical.
    pub entries: Vec<IpNet>,
}

/// Something that passes unjudged, requests and replies: an exchange with a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exemption {
    /// A `failsafe` entry of the policy; false: AWS exempts it (N43).
    pub failsafe: bool,
    /// What it is, for a person: `Amazon DNS`, `failsafe`.
    pub name: String,
    /// Which end the service is at.
    #[serde(with = "names::service")]
    pub service: Service,
    /// Protocol.
    pub protocol: Protocol,
    /// Ports of the service, first and last; `None`: all, and always for protocols other than TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// Addresses of the other end.
    pub cidr: IpNet,
    /// Line in the policy file; 0 for what AWS exempts.
    pub line: usize,
}

impl Interface {
    /// An interface of this device with a network ACL put on it directly, and everything else as it is where nothing is
    /// written: no security groups, no exemptions, stateless, enforced.
    pub fn new(name: &str, nacl: Arc<Nacl>) -> Self {
        Self {
            name: name.to_owned(),
            netns: None,
            addresses: Vec::new(),
            subnet: None,
            subnet_cidrs: Vec::new(),
            nacl,
            groups: None,
            mode: Mode::Stateless,
            layers: Layers::Both,
            aws: false,
            exemptions: Vec::new(),
            tracking: Tracking::default(),
            side: Side::Host,
            enforce: true,
            xdp: Xdp::Auto,
            drop_non_ip: false,
            id: None,
            subnet_id: None,
            flow_log: None,
        }
    }
}

/// What becomes of what is enforced when the daemon is told to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnExit {
    /// It is taken off.
    #[default]
    Detach,
    /// The kernel goes on enforcing it, and the next daemon takes it over.
    Keep,
}

/// Which side of the link the hook is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The host's own interface: received frames are inbound.
    #[default]
    Host,
    /// A router's interface that looks into the subnet: received frames are outbound.
    Router,
}

impl Side {
    /// As a policy has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Router => "router",
        }
    }
}

/// How ingress is hooked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Xdp {
    /// Native XDP where the driver has it and the slot is free, TC otherwise.
    #[default]
    Auto,
    /// Native XDP or an error.
    Native,
    /// TC ingress.
    Tc,
    /// Generic XDP: sees whole GRO packets.
    Generic,
}

/// A network ACL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nacl {
    /// Name in the policy.
    pub name: String,
    /// AWS's id, if given.
    pub id: Option<String>,
    /// Numbered inbound rules, ascending by number; `*` is implied.
    pub inbound: Vec<Rule>,
    /// Numbered outbound rules, likewise.
    pub outbound: Vec<Rule>,
}

impl Nacl {
    /// The rules of a direction, ascending.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// A numbered rule, normalised: what AWS ignores is already gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// 1 to 32766, unique per direction across both families (N1, N5).
    pub number: u16,
    /// Allow or deny.
    #[serde(with = "names::action")]
    pub action: Action,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination ports, first and last; `None`: all, and always for protocols other than TCP and UDP (N27).
    pub ports: Option<(u16, u16)>,
    /// ICMP type and code; `None`: all, and always unless ICMP on IPv4 or ICMPv6 on IPv6 (N28, N31).
    pub icmp: Option<Icmp>,
    /// Source of inbound, destination of outbound packets (N22); canonical. Its family is the rule's family (N24).
    pub cidr: IpNet,
    /// The reference the CIDR was written as (`subnet:public`), if it was one.
    pub reference: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Line of the rule in the policy file, from 1; 0 for rules that AWS makes by itself.
    pub line: usize,
    /// Bytes of the rule in the policy text; empty for rules that AWS makes by itself.
    pub span: Range<usize>,
}

/// Protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// AWS's `-1`.
    All,
    /// IANA number.
    Number(u8),
}

/// ICMP or ICMPv6 match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code; `None`: all of that type.
    pub code: Option<u8>,
}
