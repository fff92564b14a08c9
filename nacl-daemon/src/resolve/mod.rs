//! What a policy means: names replaced by addresses, rules in AWS's order, one entry an interface. Diagnostics about
//! names, references and quotas are made here. No file, socket or kernel is touched: what the host knows comes in
//! through [`Host`].

pub mod build;

use std::{collections::BTreeMap, net::IpAddr, ops::Range, sync::Arc};

use ipnet::IpNet;
use nacl_common::{Action, Direction};
use thiserror::Error;

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
    /// Interfaces elsewhere, by name.
    pub enis: BTreeMap<String, Eni>,
    /// Interfaces here, by name.
    pub interfaces: BTreeMap<String, Interface>,
}

/// An interface that was asked for, and is not in the policy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InterfaceError {
    /// No such name.
    #[error("the policy {file} has no interface {name:?}; it has {known}")]
    Unknown {
        /// The policy.
        file: String,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// None was named, and there is not exactly one.
    #[error("which interface? the policy {file} has {known}")]
    Which {
        /// The policy.
        file: String,
        /// What there is.
        known: String,
    },
}

impl Resolved {
    /// The interface of this name; `None`: the only one there is.
    ///
    /// # Errors
    /// See [`InterfaceError`].
    pub fn interface(&self, name: Option<&str>) -> Result<&Interface, InterfaceError> {
        let file = self.file.clone();
        let known = match self.interfaces.len() {
            0 => "none".to_owned(),
            _ => self.interfaces.keys().cloned().collect::<Vec<_>>().join(", "),
        };
        let mut all = self.interfaces.values();
        match (name, all.next(), all.next()) {
            (Some(name), ..) => {
                let unknown = || InterfaceError::Unknown { file, name: name.to_owned(), known };
                self.interfaces.get(name).ok_or_else(unknown)
            }
            (None, Some(only), None) => Ok(only),
            _ => Err(InterfaceError::Which { file, known }),
        }
    }
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
}

/// An interface the policy is enforced on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Interface name.
    pub name: String,
    /// Name of the network namespace it lies in; `None`: the daemon's own.
    pub netns: Option<String>,
    /// Its addresses: those written in the policy, else what the host knows, else none.
    pub addresses: Vec<IpAddr>,
    /// Name of its subnet.
    pub subnet: Option<String>,
    /// CIDRs inside which the network ACL is not consulted (N42): the subnet's; empty without a subnet.
    pub subnet_cidrs: Vec<IpNet>,
    /// The network ACL in force.
    pub nacl: Arc<Nacl>,
    /// Which way it looks.
    pub side: Side,
    /// False: judge and count, drop nothing.
    pub enforce: bool,
    /// How ingress is hooked.
    pub xdp: Xdp,
    /// Whether frames that are neither IP nor ARP are dropped.
    pub drop_non_ip: bool,
}

/// Which side of the link the hook is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// The host's own interface: received frames are inbound.
    #[default]
    Host,
    /// A router's interface that looks into the subnet: received frames are outbound.
    Router,
}

/// How ingress is hooked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// 1 to 32766, unique per direction across both families (N1, N5).
    pub number: u16,
    /// Allow or deny.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// AWS's `-1`.
    All,
    /// IANA number.
    Number(u8),
}

/// ICMP or ICMPv6 match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code; `None`: all of that type.
    pub code: Option<u8>,
}
