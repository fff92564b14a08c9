//! A policy as it was written: values checked one by one, names not yet looked up. What could not be read is absent;
//! an error has been recorded for it.

use std::{collections::BTreeMap, net::IpAddr, ops::Range};

use ipnet::IpNet;
use nacl_common::{Action, Family};

use crate::resolve::{Protocol, Side, Xdp};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Bytes of the text.
    pub span: Range<usize>,
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// VPCs; the one of a plain `[vpc]` has the empty name.
    pub vpcs: BTreeMap<String, Vpc>,
    /// Subnets.
    pub subnets: BTreeMap<String, Subnet>,
    /// Network ACLs.
    pub nacls: BTreeMap<String, Nacl>,
    /// Interfaces elsewhere.
    pub enis: BTreeMap<String, Eni>,
    /// Interfaces here.
    pub interfaces: BTreeMap<String, Interface>,
}

/// `[vpc]`
#[derive(Clone, Debug)]
pub struct Vpc {
    /// Where its name stands.
    pub name: Range<usize>,
    /// Its CIDRs.
    pub cidrs: Vec<At<IpNet>>,
}

/// `[subnet.NAME]`
#[derive(Clone, Debug)]
pub struct Subnet {
    /// Where its name stands.
    pub name: Range<usize>,
    /// Its CIDRs.
    pub cidrs: Vec<At<IpNet>>,
    /// Its network ACL.
    pub nacl: Option<At<String>>,
    /// Its VPC.
    pub vpc: Option<At<String>>,
    /// AWS's id.
    pub id: Option<String>,
}

/// `[nacl.NAME]`
#[derive(Clone, Debug)]
pub struct Nacl {
    /// Where its name stands.
    pub name: Range<usize>,
    /// AWS's id.
    pub id: Option<String>,
    /// The inbound list; `None` where the key is absent.
    pub inbound: Option<List>,
    /// The outbound list, likewise.
    pub outbound: Option<List>,
}

/// One of a network ACL's lists.
#[derive(Clone, Debug)]
pub struct List {
    /// Where its key stands.
    pub key: Range<usize>,
    /// Rules as written, without `*`.
    pub rules: Vec<Rule>,
}

/// A numbered rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The whole rule.
    pub span: Range<usize>,
    /// Number.
    pub number: Option<At<u16>>,
    /// Action.
    pub action: Option<Action>,
    /// Protocol.
    pub protocol: Option<At<Protocol>>,
    /// Ports.
    pub ports: Ports,
    /// ICMP type and code.
    pub icmp: Option<At<Icmp>>,
    /// Source or destination.
    pub address: Option<At<Address>>,
    /// Free text.
    pub description: Option<String>,
}

/// The ports of a rule.
#[derive(Clone, Debug)]
pub enum Ports {
    /// Not written.
    Absent,
    /// First and last.
    Range(At<(u16, u16)>),
    /// Unreadable.
    Bad,
}

/// ICMP type and code; `None`: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: Option<u8>,
    /// Code.
    pub code: Option<u8>,
}

/// What stands in `source` or `destination`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A CIDR, canonical.
    Cidr(IpNet),
    /// `subnet:NAME`, with the family it selects.
    Subnet(String, Option<Family>),
}

/// `[eni.NAME]`
#[derive(Clone, Debug)]
pub struct Eni {
    /// Where its name stands.
    pub name: Range<usize>,
    /// Its addresses.
    pub addresses: Vec<At<IpAddr>>,
    /// Its subnet.
    pub subnet: Option<At<String>>,
}

/// `[interface.NAME]`
#[derive(Clone, Debug)]
pub struct Interface {
    /// Where its name stands.
    pub name: Range<usize>,
    /// Network namespace.
    pub netns: Option<String>,
    /// Its addresses; `None` where the key is absent.
    pub addresses: Option<Vec<At<IpAddr>>>,
    /// Its subnet.
    pub subnet: Option<At<String>>,
    /// A network ACL put on it directly.
    pub nacl: Option<At<String>>,
    /// Which way it looks.
    pub side: Side,
    /// Whether it drops.
    pub enforce: bool,
    /// How ingress is hooked.
    pub xdp: Xdp,
    /// Whether other ethertypes are dropped.
    pub drop_non_ip: bool,
}
