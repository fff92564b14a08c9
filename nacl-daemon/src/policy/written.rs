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

/// What AWS has of a thing besides what it does. Which of it a table takes depends on its kind.
#[derive(Clone, Debug, Default)]
pub struct Aws {
    /// Id.
    pub id: Option<String>,
    /// A name that is no tag: a group's, a prefix list's.
    pub name: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// The account that owns it, where it is not that of `[aws]`.
    pub owner: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// `[aws]`
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The account that owns what has no `owner`.
    pub account: Option<String>,
    /// Region.
    pub region: Option<String>,
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Whose it is at AWS.
    pub aws: Account,
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
    /// Its CIDRs; none where it is only named.
    pub cidrs: Vec<At<IpNet>>,
    /// Where `external = true` stands: it is only named.
    pub external: Option<Range<usize>>,
    /// What AWS has of it.
    pub aws: Aws,
}

/// `[subnet.NAME]`
#[derive(Clone, Debug)]
pub struct Subnet {
    /// Where its name stands.
    pub name: Range<usize>,
    /// Its CIDRs; none where it is only named.
    pub cidrs: Vec<At<IpNet>>,
    /// Where `external = true` stands: it is only named.
    pub external: Option<Range<usize>>,
    /// Its network ACL.
    pub nacl: Option<At<String>>,
    /// Its VPC.
    pub vpc: Option<At<String>>,
    /// What AWS has of it.
    pub aws: Aws,
}

/// `[nacl.NAME]`
#[derive(Clone, Debug)]
pub struct Nacl {
    /// Where its name stands.
    pub name: Range<usize>,
    /// What AWS has of it.
    pub aws: Aws,
    /// Its VPC.
    pub vpc: Option<At<String>>,
    /// Where `default = true` stands: it is its VPC's default one.
    pub default: Option<Range<usize>>,
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
    /// What AWS has of it.
    pub aws: Aws,
    /// Its VPC.
    pub vpc: Option<At<String>>,
    /// Where `external = true` stands: it is only named.
    pub external: Option<Range<usize>>,
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
    /// AWS's id, `sgr-…`.
    pub id: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// The peering connection by which a group of another VPC is reached.
    pub peering: Option<String>,
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
    /// What AWS has of it.
    pub aws: Aws,
    /// Where `external = true` stands: it is only named.
    pub external: Option<Range<usize>>,
    /// Its family.
    pub family: Option<At<Family>>,
    /// How many entries it may get.
    pub max_entries: Option<At<u32>>,
    /// Its entries.
    pub entries: Vec<ListEntry>,
}

/// An entry of a prefix list.
#[derive(Clone, Debug)]
pub struct ListEntry {
    /// Addresses, canonical.
    pub cidr: At<IpNet>,
    /// Free text.
    pub description: Option<String>,
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
    /// Its VPC.
    pub vpc: Option<At<String>>,
    /// What AWS has of it.
    pub aws: Aws,
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
    pub exemptions: bool,
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
    /// Its VPC.
    pub vpc: Option<At<String>>,
    /// What AWS has of it.
    pub aws: Aws,
    /// Its flow log.
    pub flow_log: Option<At<String>>,
}
