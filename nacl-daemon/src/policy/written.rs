//! A policy as it was written: values checked one by one, names not yet looked up. What could not be read is absent;
//! an error has been recorded for it.

use std::{collections::BTreeMap, net::IpAddr, ops::Range};

use ipnet::IpNet;
use nacl_common::{Action, Family, border::Service};

use crate::resolve::{self, Layers, Mode, OnExit, Protocol, Side, Tracking, Xdp};

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
    /// Security groups.
    pub groups: BTreeMap<String, Group>,
    /// Prefix lists.
    pub prefix_lists: BTreeMap<String, PrefixList>,
    /// Interfaces elsewhere.
    pub enis: BTreeMap<String, Eni>,
    /// Interfaces here.
    pub interfaces: BTreeMap<String, Interface>,
    /// Connection tracking, with what is not written as it is by default.
    pub tracking: Tracking,
    /// Flow logs.
    pub flow_logs: BTreeMap<String, FlowLog>,
    /// What becomes of what is enforced when the daemon ends.
    pub on_exit: OnExit,
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
    /// What it matches besides the address.
    pub traffic: Traffic,
    /// Source or destination.
    pub address: Option<At<Address>>,
    /// Free text.
    pub description: Option<String>,
}

/// Protocol, ports and ICMP type of a rule.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Protocol.
    pub protocol: Option<At<Protocol>>,
    /// Ports.
    pub ports: Ports,
    /// ICMP type and code.
    pub icmp: Option<At<Icmp>>,
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

/// `[security_group.NAME]`
#[derive(Clone, Debug)]
pub struct Group {
    /// Where its name stands.
    pub name: Range<usize>,
    /// AWS's id.
    pub id: Option<String>,
    /// The inbound rules; `None` where the key is absent.
    pub inbound: Option<GroupList>,
    /// The outbound rules, likewise.
    pub outbound: Option<GroupList>,
}

/// The rules of a security group in one direction.
#[derive(Clone, Debug)]
pub struct GroupList {
    /// Where its key stands.
    pub key: Range<usize>,
    /// Rules as written.
    pub rules: Vec<GroupRule>,
}

/// A rule of a security group.
#[derive(Clone, Debug)]
pub struct GroupRule {
    /// The whole rule.
    pub span: Range<usize>,
    /// What it matches besides the other end.
    pub traffic: Traffic,
    /// Source or destination.
    pub peer: Option<At<Peer>>,
    /// Free text.
    pub description: Option<String>,
}

/// What stands in `source` or `destination` of a security group's rule (S15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A CIDR, or a subnet that stands for one.
    Address(Address),
    /// `pl:NAME`
    PrefixList(String),
    /// `sg:NAME`
    Group(String),
    /// `self`: the group the rule stands in (S21).
    Own,
}

/// `[prefix_list.NAME]`
#[derive(Clone, Debug)]
pub struct PrefixList {
    /// Where its name stands.
    pub name: Range<usize>,
    /// AWS's id.
    pub id: Option<String>,
    /// How many entries it may get.
    pub max_entries: Option<At<u32>>,
    /// Its entries, canonical.
    pub entries: Vec<At<IpNet>>,
}

/// A list of security group names.
#[derive(Clone, Debug)]
pub struct Names {
    /// Where its key stands.
    pub key: Range<usize>,
    /// The names.
    pub names: Vec<At<String>>,
}

/// An entry of `failsafe`.
#[derive(Clone, Debug)]
pub struct Failsafe {
    /// The whole entry.
    pub span: Range<usize>,
    /// Protocol and ports of the service.
    pub traffic: Traffic,
    /// Which end the service is at, and the other end's addresses.
    pub end: Option<(Service, At<Address>)>,
}

/// `[flow_log.NAME]`
#[derive(Clone, Debug)]
pub struct FlowLog {
    /// Where its name stands.
    pub name: Range<usize>,
    /// What it says: no name in it is looked up.
    pub log: resolve::flowlog::FlowLog,
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
    /// Its security groups.
    pub groups: Option<Names>,
}

/// `[interface.NAME]`
#[derive(Clone, Debug)]
pub struct Interface {
    /// Where its name stands.
    pub name: Range<usize>,
    /// The device, and where it is named.
    pub device: At<String>,
    /// Network namespace.
    pub netns: Option<String>,
    /// Its addresses; `None` where the key is absent.
    pub addresses: Option<Vec<At<IpAddr>>>,
    /// Its subnet.
    pub subnet: Option<At<String>>,
    /// A network ACL put on it directly.
    pub nacl: Option<At<String>>,
    /// Its security groups; `None` where the key is absent.
    pub groups: Option<Names>,
    /// Whether the network ACL remembers.
    pub mode: Mode,
    /// Which layers judge; `None` where the key is absent.
    pub layers: Option<At<Layers>>,
    /// Whether AWS's exemptions hold.
    pub aws: bool,
    /// What always passes.
    pub failsafe: Vec<Failsafe>,
    /// Which way it looks.
    pub side: Side,
    /// Whether it drops.
    pub enforce: bool,
    /// How ingress is hooked.
    pub xdp: Xdp,
    /// Whether other ethertypes are dropped.
    pub drop_non_ip: bool,
    /// AWS's id.
    pub id: Option<String>,
    /// Its flow log.
    pub flow_log: Option<At<String>>,
}
