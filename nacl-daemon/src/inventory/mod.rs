//! What a team has at AWS, in AWS's own terms, whichever document said so: the hub between `import`, `export` and a
//! policy. No document format lives here, and no decision about packets.

mod complete;
pub mod read;
pub mod write;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Family};

use crate::resolve::Protocol;

/// Everything that one or several documents told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The account that owns what does not say who owns it.
    pub account: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// VPCs.
    pub vpcs: Vec<Vpc>,
    /// Subnets.
    pub subnets: Vec<Subnet>,
    /// Network ACLs.
    pub nacls: Vec<NetworkAcl>,
    /// Security groups.
    pub groups: Vec<SecurityGroup>,
    /// Managed prefix lists.
    pub prefix_lists: Vec<PrefixList>,
    /// Network interfaces.
    pub interfaces: Vec<NetworkInterface>,
    /// What could not be taken over, or is not known yet. Nothing is left out without one of these.
    pub notes: Vec<Note>,
}

impl Inventory {
    /// Whether there is no object in it.
    pub fn is_empty(&self) -> bool {
        let Self { account: _, region: _, vpcs, subnets, nacls, groups, prefix_lists, interfaces, notes: _ } = self;
        vpcs.is_empty()
            && subnets.is_empty()
            && nacls.is_empty()
            && groups.is_empty()
            && prefix_lists.is_empty()
            && interfaces.is_empty()
    }
}

/// Where in a document something stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it is named in messages.
    pub file: Arc<str>,
    /// What the format has for a path: `NetworkAcls[0].Entries[3]`, `module.net.aws_network_acl.web`, `Resources.WebAcl`.
    pub path: String,
    /// Line, from 1, where the format's reader tells it.
    pub line: Option<u32>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if self.path.is_empty() { Ok(()) } else { write!(f, ": {}", self.path) }
    }
}

/// Why something of a document is not in the inventory as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Because {
    /// The other side, a policy or a document, has no way to say it.
    NotExpressible,
    /// Its value is not known before it is applied.
    Unknown,
    /// Another document is needed: a group, a list or a subnet that is only named.
    NotHere,
    /// It changes nothing for packets that are judged here.
    NoEffect,
}

impl Because {
    /// In one word, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotExpressible => "not-expressible",
            Self::Unknown => "unknown",
            Self::NotHere => "not-here",
            Self::NoEffect => "no-effect",
        }
    }
}

/// Something that was left out, or taken over otherwise than it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// Why.
    pub because: Because,
    /// Where it stands.
    pub place: Place,
    /// What, in one sentence without a full stop.
    pub message: String,
}

/// Names another object: an id of AWS's, or what the document has in its place (the address of a Terraform resource, a logical
/// id of CloudFormation).
pub type Link = String;

/// What an object is, besides what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What other objects of its documents name it by; one of its kind has it. The id where it is known.
    pub key: Link,
    /// AWS's id, where it is known.
    pub id: Option<String>,
    /// What a person would call it, best first: its tag `Name`, the name of its resource, a group's name.
    pub names: Vec<String>,
    /// AWS's description of it.
    pub description: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The account that owns it.
    pub owner: Option<String>,
    /// Where it stands.
    pub place: Place,
}

/// A VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// What it is.
    pub identity: Identity,
    /// Its CIDRs; none: it is only named.
    pub cidrs: Vec<IpNet>,
}

/// A subnet. Its network ACL is told by the ACL: describe-subnets does not name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// What it is.
    pub identity: Identity,
    /// Its VPC.
    pub vpc: Option<Link>,
    /// Its CIDRs; none: it is only named.
    pub cidrs: Vec<IpNet>,
}

/// A network ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAcl {
    /// What it is.
    pub identity: Identity,
    /// Its VPC.
    pub vpc: Option<Link>,
    /// Whether it is its VPC's default one: the one of every subnet that no other ACL names.
    pub default: bool,
    /// The subnets it is associated with.
    pub subnets: Vec<Association>,
    /// Its entries of both directions, without `*` (32767, 32768).
    pub entries: Vec<Entry>,
}

/// A network ACL's association with a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// The subnet.
    pub subnet: Link,
    /// AWS's id of the association.
    pub id: Option<String>,
}

/// A numbered entry of a network ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which list it is in.
    pub direction: Direction,
    /// 1 to 32766.
    pub number: u16,
    /// What it does.
    pub action: Action,
    /// What it matches besides the address.
    pub traffic: Traffic,
    /// Source or destination, canonical.
    pub cidr: IpNet,
    /// Where it stands.
    pub place: Place,
}

/// Protocol, ports and ICMP type of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// Protocol.
    pub protocol: Protocol,
    /// First and last port; `None`: all, or the protocol has none.
    pub ports: Option<(u16, u16)>,
    /// ICMP type and code, each `None` for all; `None`: all, or it is not ICMP.
    pub icmp: Option<(Option<u8>, Option<u8>)>,
}

impl Traffic {
    /// What of it AWS looks at, in one spelling: all ports and all types are `None`, as is what a protocol does not have (N27,
    /// N28, N31, S11, S14). `family`: that of the rule's address, where it has one.
    #[must_use]
    pub fn normal(self, family: Option<Family>) -> Self {
        const TCP_UDP: [Protocol; 2] = [Protocol::Number(6), Protocol::Number(17)];
        let has_types = match self.protocol {
            Protocol::Number(1) => family != Some(Family::V6),
            Protocol::Number(58) => family != Some(Family::V4),
            _ => false,
        };
        Self {
            protocol: self.protocol,
            ports: self.ports.filter(|&range| TCP_UDP.contains(&self.protocol) && range != (0, u16::MAX)),
            icmp: self.icmp.filter(|&(kind, _)| has_types && kind.is_some()),
        }
    }
}

/// The family of a CIDR.
pub const fn family(cidr: &IpNet) -> Family {
    match cidr {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// What it is.
    pub identity: Identity,
    /// AWS's name of it: not a tag, and never changed.
    pub name: Option<String>,
    /// Its VPC.
    pub vpc: Option<Link>,
    /// Its rules of both directions, one source or destination each; `None`: it is only named (another account's, or no
    /// document tells of it).
    pub rules: Option<Vec<GroupRule>>,
}

/// A rule of a security group: one source or destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRule {
    /// Which list it is in.
    pub direction: Direction,
    /// What it matches besides the other end.
    pub traffic: Traffic,
    /// Source or destination.
    pub peer: Peer,
    /// AWS's id, `sgr-…`.
    pub id: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Where it stands.
    pub place: Place,
}

/// What two rules of a group cannot have in common.
pub type RuleKey = (Direction, Traffic, Peer);

impl GroupRule {
    /// What makes a rule the same rule for AWS (S16): a description and tags do not, nor what else is told of a group it names.
    pub fn key(&self) -> RuleKey {
        let peer = match &self.peer {
            Peer::Group { group, .. } => Peer::Group { group: group.clone(), owner: None, vpc: None, peering: None },
            peer => peer.clone(),
        };
        (self.direction, self.traffic, peer)
    }

    /// Takes over what another one, which is the same rule, tells besides.
    pub(crate) fn learn(&mut self, mut again: Self) {
        self.id = self.id.take().or(again.id);
        self.description = self.description.take().or(again.description);
        self.tags.append(&mut again.tags);
        if let (Peer::Group { owner, vpc, peering, .. }, Peer::Group { owner: whose, vpc: of, peering: by, .. }) =
            (&mut self.peer, again.peer)
        {
            *owner = owner.take().or(whose);
            *vpc = vpc.take().or(of);
            *peering = peering.take().or(by);
        }
    }
}

/// The other end of a security group's rule (S15).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A CIDR, canonical.
    Cidr(IpNet),
    /// A prefix list.
    PrefixList(Link),
    /// A security group, the one it stands in included.
    Group {
        /// The group.
        group: Link,
        /// The account that owns it, where it is told.
        owner: Option<String>,
        /// Its VPC, where it is told.
        vpc: Option<Link>,
        /// The peering connection it is reached by.
        peering: Option<String>,
    },
}

/// A managed prefix list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixList {
    /// What it is.
    pub identity: Identity,
    /// Its name at AWS.
    pub name: Option<String>,
    /// Its family.
    pub family: Option<Family>,
    /// How many entries it may get; AWS's own lists have no such figure.
    pub max_entries: Option<u32>,
    /// Its entries; `None`: no document tells them.
    pub entries: Option<Vec<PrefixEntry>>,
}

/// An entry of a prefix list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixEntry {
    /// Addresses, canonical.
    pub cidr: IpNet,
    /// Free text.
    pub description: Option<String>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    /// What it is.
    pub identity: Identity,
    /// Its subnet.
    pub subnet: Option<Link>,
    /// Its VPC.
    pub vpc: Option<Link>,
    /// Its private addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Its security groups.
    pub groups: Vec<Link>,
}
