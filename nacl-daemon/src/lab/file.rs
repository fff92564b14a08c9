//! The lab file: what is written in `config/labs/*.toml`, read and checked. Nothing is run here.
//!
//! A lab says for every probe what must become of it and which rule must decide each leg, so a lab that is wrong about its
//! own lesson cannot load unnoticed: it fails at every level. Expectations are of the stateless network ACL, as AWS has it;
//! another column (the same rules with a memory) would be a further key beside `expect`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use ipnet::IpNet;
use nacl_common::{Direction, Family};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;

use super::Level;
use crate::{
    clients::Client,
    compile::{CompileError, Compiled, SlotTable, compile},
    policy, report,
    resolve::{Interface, NoHost, Resolved},
};

/// A lab, read and checked.
#[derive(Clone, Debug)]
pub struct Lab {
    /// What it is called on the command line, such as `L05`.
    pub name: String,
    /// The file, as it is named in messages.
    pub file: String,
    /// One line.
    pub title: String,
    /// Asked before anything is shown.
    pub question: String,
    /// What there is to do for somebody who sits in it.
    pub task: String,
    /// What it teaches, told afterwards.
    pub lesson: String,
    /// What teachers of this lesson get wrong, set right.
    pub claims: Vec<Claim>,
    /// Hints, each saying more than the one before.
    pub hints: Vec<String>,
    /// The host behind the hook: the hook sits on the router's side of its link.
    pub hook: String,
    /// Why it has no wire form, if it has none.
    pub without_wire: Option<String>,
    /// The hosts.
    pub hosts: BTreeMap<String, Host>,
    /// The policy one finds.
    pub policy: PolicyText,
    /// A policy that reaches the goal.
    pub solution: PolicyText,
    /// What is shown, in order.
    pub steps: Vec<Step>,
    /// What the task asks for.
    pub goal: Goal,
}

/// Something said, and what is right.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What is said.
    pub said: String,
    /// What is right.
    pub right: String,
}

/// A host: a network namespace with one link, to the router.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Who it is, for a person.
    #[serde(default)]
    pub about: String,
    /// The system it plays: its ephemeral port range.
    #[serde(default = "linux")]
    pub os: Client,
    /// Its addresses with prefix lengths, at most one a family; the router has the first address of the network.
    pub addresses: Vec<IpNet>,
    /// MTU of the way from the router to this host, where it is narrower than an Ethernet.
    pub path_mtu: Option<u32>,
    /// What it serves.
    #[serde(default)]
    pub services: Vec<Service>,
}

const fn linux() -> Client {
    Client::Linux
}

impl Host {
    /// Its address of a family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.network(family).map(|network| network.addr())
    }

    /// Its address and prefix length of a family.
    pub fn network(&self, family: Family) -> Option<IpNet> {
        self.addresses.iter().copied().find(|address| address.addr().is_ipv4() == (family == Family::V4))
    }
}

/// A port that answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// TCP or UDP.
    pub protocol: Transport,
    /// Port.
    pub port: u16,
    /// How it answers.
    #[serde(default)]
    pub answers: Answers,
    /// What it says: the page, the banner, or the address a name server gives.
    pub text: Option<String>,
    /// Size of the page, where it is to be large.
    pub bytes: Option<usize>,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How a service answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answers {
    /// An HTTP page without encryption, on whatever port: a network ACL sees ports, not what is inside.
    #[default]
    Http,
    /// A line of greeting, as SSH, then waits for a line.
    Banner,
    /// UDP: the datagram comes back.
    Echo,
    /// UDP: DNS, one address for every name.
    Dns,
}

/// A policy inside a lab file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// The policy.
    pub text: String,
    /// Lines of the lab file before it.
    before: usize,
}

/// A policy of a lab, ready to be installed.
#[derive(Clone)]
pub struct Policy {
    /// What it means.
    pub resolved: Resolved,
    /// The interface the hook sits on.
    pub interface: Interface,
    /// Its tables.
    pub compiled: Compiled,
}

/// Something shown: probes under one policy.
#[derive(Clone, Debug)]
pub struct Step {
    /// One line.
    pub name: String,
    /// What is to be seen in it.
    pub says: String,
    /// The policy installed for it, live; `None`: that of the step before.
    pub policy: Option<PolicyText>,
    /// Probes.
    pub probes: Vec<Probe>,
}

/// What the task asks for.
#[derive(Clone, Debug)]
pub struct Goal {
    /// One line.
    pub says: String,
    /// Probes; for `verify` only their outcomes count, the rules are those of the solution.
    pub probes: Vec<Probe>,
}

/// One question to the network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// One line.
    pub name: String,
    /// Host that asks.
    pub from: String,
    /// Host that is asked.
    pub to: String,
    /// Protocol.
    pub protocol: ProbeProtocol,
    /// Destination port; none for ICMP.
    #[serde(default)]
    pub port: u16,
    /// Address family.
    #[serde(default)]
    pub family: ProbeFamily,
    /// Source ports.
    #[serde(default)]
    pub source_ports: SourcePorts,
    /// The answer is a large page, sent in full-size packets that may not be fragmented.
    #[serde(default)]
    pub download: bool,
    /// What must become of it.
    pub expect: Expect,
}

/// Protocol of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeProtocol {
    /// Connect, send a request, read the answer to its end.
    Tcp,
    /// Send a datagram, wait for one.
    Udp,
    /// Echo request and reply.
    Icmp,
    /// A protocol that AWS gives no port rules for. No wire form.
    Sctp,
}

impl ProbeProtocol {
    /// IP protocol number.
    pub const fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Icmp, Family::V4) => 1,
            (Self::Icmp, Family::V6) => 58,
            (Self::Sctp, _) => 132,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Sctp => "sctp",
        }
    }
}

/// IPv4 unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeFamily {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<ProbeFamily> for Family {
    fn from(family: ProbeFamily) -> Self {
        match family {
            ProbeFamily::Ipv4 => Self::V4,
            ProbeFamily::Ipv6 => Self::V6,
        }
    }
}

/// Which source ports a probe uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourcePorts {
    /// One that the client's system picks; the expectation must hold for each it could pick.
    #[default]
    Any,
    /// These.
    These(Vec<u16>),
    /// Every port of the client's range: what share of them is answered. On the wire, where nobody has time for 64,512
    /// connections, both edges and the middle of every stretch that the rules tell apart.
    All,
}

impl<'de> Deserialize<'de> for SourcePorts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a port, a list of ports, or \"all\"")]
        enum Form {
            One(u16),
            Many(Vec<u16>),
            Word(Word),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            All,
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::One(port) => Self::These(vec![port]),
            Form::Many(ports) => Self::These(ports),
            Form::Word(Word::All) => Self::All,
        })
    }
}

/// What must become of a probe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// How it ends.
    pub outcome: Outcome,
    /// The rule that decides the request.
    pub request: RuleRef,
    /// The rule that decides the reply.
    pub reply: Option<RuleRef>,
    /// The rule that decides the router's "fragmentation needed" or "packet too big".
    pub icmp_error: Option<RuleRef>,
    /// With `source_ports = "all"`: how many of a hundred ports end as `outcome` says.
    pub percent: Option<f64>,
    /// Likewise: the rule that decides the reply to the other ports.
    pub otherwise: Option<RuleRef>,
}

/// How a probe ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The answer arrives.
    Answered,
    /// The request is dropped.
    RequestDropped,
    /// The request arrives, the reply is dropped.
    ReplyDropped,
    /// The connection is made, and then nothing more arrives.
    Stalled,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Answered => "answered",
            Self::RequestDropped => "request dropped",
            Self::ReplyDropped => "reply dropped",
            Self::Stalled => "stalled",
        })
    }
}

/// A rule of the policy: `inbound 100`, `outbound *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// Its list.
    pub direction: Direction,
    /// Its number; `None` for `*`.
    pub number: Option<u16>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(out, "{} {number}", self.direction.name()),
            None => write!(out, "{} *", self.direction.name()),
        }
    }
}

impl FromStr for RuleRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a rule such as \"inbound 100\" or \"outbound *\"");
        let (direction, number) = text.split_once(' ').ok_or_else(wrong)?;
        let direction = Direction::ALL.into_iter().find(|candidate| candidate.name() == direction).ok_or_else(wrong)?;
        let number = if number == "*" { None } else { Some(number.parse().map_err(|_| wrong())?) };
        Ok(Self { direction, number })
    }
}

impl<'de> Deserialize<'de> for RuleRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for RuleRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A lab that cannot be loaded.
#[derive(Debug, Error)]
pub enum LabError {
    /// No such lab.
    #[error("there is no lab {name:?}; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or not a lab.
    #[error("{file}: {source}")]
    Toml {
        /// The file.
        file: String,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A lab that contradicts itself.
    #[error("{file}: {what}")]
    Wrong {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// The policy has errors.
    #[error("the policy in {file} has errors\n{}", report::diagnostics::render(.file, .text, .diagnostics, false))]
    Policy {
        /// The file.
        file: String,
        /// Its text.
        text: String,
        /// What is wrong with it.
        diagnostics: Vec<policy::Diagnostic>,
    },
    /// The policy cannot be compiled.
    #[error("{file}: {source}")]
    Compile {
        /// The file.
        file: String,
        /// Why.
        source: CompileError,
    },
}

macro_rules! built_in {
    ($($stem:literal),+ $(,)?) => {
        /// The labs that are part of nacld, by file stem, in the order they are taught.
        pub const BUILT_IN: &[(&str, &str)] =
            &[$(($stem, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/labs/", $stem, ".toml")))),+];
    };
}

built_in![
    "l01", "l02", "l04", "l05", "l06", "l07", "l08", "l08x", "l09", "l10a", "l10b", "l10c", "l11", "l12", "l16",
    "l16s", "l18", "l19",
];

/// Loads every lab that is part of nacld.
///
/// # Errors
/// See [`LabError`].
pub fn all() -> Result<Vec<Lab>, LabError> {
    BUILT_IN.iter().map(|(stem, text)| parse(stem, &built_in_file(stem), text)).collect()
}

fn built_in_file(stem: &str) -> String {
    format!("config/labs/{stem}.toml")
}

/// Loads one lab: one of nacld's own by name, or a file by its path.
///
/// # Errors
/// See [`LabError`].
pub fn load(name: &str) -> Result<Lab, LabError> {
    let path = Path::new(name);
    if path.components().count() > 1 || path.extension().is_some() {
        let text = std::fs::read_to_string(path).map_err(|source| LabError::Read { path: path.into(), source })?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        return parse(&stem, name, &text);
    }
    // L5 is L05 to whoever types it.
    let bare = |name: &str| name.to_ascii_lowercase().replacen("l0", "l", 1);
    if let Some((stem, text)) = BUILT_IN.iter().find(|(stem, _)| bare(stem) == bare(name)) {
        return parse(stem, &built_in_file(stem), text);
    }
    let labs = all()?;
    let known = labs.iter().map(|lab| lab.name.as_str()).collect::<Vec<_>>().join(", ");
    Err(LabError::Unknown { name: name.into(), known })
}

/// The file as serde sees it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    title: String,
    question: String,
    task: String,
    lesson: String,
    #[serde(default)]
    claims: Vec<Claim>,
    hints: Vec<String>,
    hook: String,
    without_wire: Option<String>,
    host: BTreeMap<String, Host>,
    policy: Spanned<String>,
    solution: Spanned<String>,
    step: Vec<WrittenStep>,
    goal: WrittenGoal,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    name: String,
    #[serde(default)]
    says: String,
    policy: Option<Spanned<String>>,
    probe: Vec<Probe>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGoal {
    says: String,
    probe: Vec<Probe>,
}

/// Reads a lab. `stem` is the file's name without `.toml`.
///
/// # Errors
/// See [`LabError`].
pub fn parse(stem: &str, file: &str, text: &str) -> Result<Lab, LabError> {
    let written: Written =
        toml::from_str(text).map_err(|source| LabError::Toml { file: file.into(), source: Box::new(source) })?;
    let wrong = |what: String| LabError::Wrong { file: file.into(), what };
    let policy = |value: Spanned<String>| {
        let start = value.span().start;
        // Only of a literal string that begins on the line below does every line stand where the file has it.
        let opening = if text[start..].starts_with("'''\n") { Some(start + 4) } else { None };
        let opening = opening.ok_or_else(|| {
            wrong("write a policy as a literal multi-line string (''' and a new line), so that messages can point into it".into())
        })?;
        let before = text[..opening].matches('\n').count();
        Ok(PolicyText { text: value.into_inner(), before })
    };
    let lab = Lab {
        name: written.name,
        file: file.into(),
        title: written.title,
        question: written.question.trim().into(),
        task: written.task.trim().into(),
        lesson: written.lesson.trim().into(),
        claims: written.claims,
        hints: written.hints,
        hook: written.hook,
        without_wire: written.without_wire,
        hosts: written.host,
        policy: policy(written.policy)?,
        solution: policy(written.solution)?,
        steps: written
            .step
            .into_iter()
            .map(|step| {
                Ok(Step {
                    name: step.name,
                    says: step.says.trim().into(),
                    policy: step.policy.map(policy).transpose()?,
                    probes: step.probe,
                })
            })
            .collect::<Result<_, LabError>>()?,
        goal: Goal { says: written.goal.says.trim().into(), probes: written.goal.probe },
    };
    if !lab.name.eq_ignore_ascii_case(stem) {
        return Err(wrong(format!(
            "the lab is called {:?}, so its file must be {}.toml",
            lab.name,
            lab.name.to_lowercase()
        )));
    }
    lab.check().map_err(wrong)?;
    Ok(lab)
}

impl Lab {
    /// Levels it can be run at.
    pub fn levels(&self) -> &'static [Level] {
        if self.without_wire.is_some() {
            &[Level::Host, Level::Kernel]
        } else {
            &[Level::Host, Level::Kernel, Level::Wire]
        }
    }

    /// Compiles one of its policies.
    ///
    /// # Errors
    /// The policy is invalid, or has no interface of the hooked host's name.
    pub fn compile(&self, policy: &PolicyText, previous: Option<&SlotTable>) -> Result<Policy, LabError> {
        // Blank lines stand for the lab file's own, so that every message names the line of the file.
        let text = format!("{}{}", "\n".repeat(policy.before), policy.text);
        self.compile_text(&self.file, &text, previous)
    }

    /// Compiles a policy for this lab from any file. `previous`: the slots in force, which unchanged rules keep.
    ///
    /// # Errors
    /// The policy is invalid, or has no interface of the hooked host's name.
    pub fn compile_text(&self, file: &str, text: &str, previous: Option<&SlotTable>) -> Result<Policy, LabError> {
        let outcome = policy::load(file, text, &NoHost);
        let Some(resolved) = outcome.resolved else {
            let diagnostics = outcome.diagnostics;
            return Err(LabError::Policy { file: file.into(), text: text.into(), diagnostics });
        };
        let Some(interface) = resolved.interfaces.get(&self.hook).cloned() else {
            let what = format!("the policy has no [interface.{}], the interface this lab's hook sits on", self.hook);
            return Err(LabError::Wrong { file: file.into(), what });
        };
        if interface.side != crate::resolve::Side::Router {
            let what =
                format!("[interface.{}] must have side = \"router\": AWS's lists act outside the host", self.hook);
            return Err(LabError::Wrong { file: file.into(), what });
        }
        let compiled =
            compile(&interface, previous).map_err(|source| LabError::Compile { file: file.into(), source })?;
        Ok(Policy { resolved, interface, compiled })
    }

    /// Every probe: those of the steps, then those of the goal.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.steps.iter().flat_map(|step| &step.probes).chain(&self.goal.probes)
    }

    /// The host of this name; names are checked when a lab is loaded.
    pub fn host(&self, name: &str) -> &Host {
        &self.hosts[name]
    }

    /// The way the request of a probe goes through the hook.
    pub fn direction(&self, probe: &Probe) -> Direction {
        if probe.to == self.hook { Direction::Inbound } else { Direction::Outbound }
    }

    /// Source and destination address of a probe.
    pub fn addresses(&self, probe: &Probe) -> (IpAddr, IpAddr) {
        let address = |host: &str| {
            self.host(host)
                .address(probe.family.into())
                .unwrap_or_else(|| unreachable!("checked when the lab was loaded"))
        };
        (address(&probe.from), address(&probe.to))
    }

    /// Whether the answer to this probe meets a narrower link than its sender knows of.
    pub fn meets_narrow_link(&self, probe: &Probe) -> bool {
        probe.download && self.host(&probe.from).path_mtu.is_some()
    }

    fn check(&self) -> Result<(), String> {
        let require = |good: bool, what: String| if good { Ok(()) } else { Err(what) };
        require(
            self.name.len() <= 8 && self.name.chars().all(|c| c.is_ascii_alphanumeric()),
            format!(
                "{:?} is not a name: at most eight letters and digits, it becomes part of namespace names",
                self.name
            ),
        )?;
        require(self.hosts.contains_key(&self.hook), format!("hook names {:?}, which is no host", self.hook))?;
        require(!self.hints.is_empty(), "a lab needs a hint".into())?;
        require(!self.steps.is_empty() && !self.goal.probes.is_empty(), "a lab needs a step and a goal".into())?;
        let mut networks = BTreeSet::new();
        for (name, host) in &self.hosts {
            // It becomes the router's interface name.
            require(
                (1..=12).contains(&name.len())
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                    && !matches!(name.as_str(), "router" | "lo"),
                format!(
                    "{name:?} is not a host name: at most twelve letters, digits and hyphens, and neither \"router\" nor \"lo\""
                ),
            )?;
            require(
                !host.addresses.is_empty()
                    && host.addresses.iter().filter(|address| address.addr().is_ipv4()).count() <= 1
                    && host.addresses.iter().filter(|address| address.addr().is_ipv6()).count() <= 1,
                format!("host {name:?} needs one address, at most one a family"),
            )?;
            for address in &host.addresses {
                require(
                    address.prefix_len() < address.max_prefix_len() - 1
                        && router_address(*address) != address.addr()
                        && address.network() != address.addr(),
                    format!("{address} of host {name:?} leaves the router no address in its network"),
                )?;
                require(networks.insert(address.trunc()), format!("two hosts share the network {}", address.trunc()))?;
            }
            for service in &host.services {
                let fits = match service.answers {
                    Answers::Http | Answers::Banner => service.protocol == Transport::Tcp,
                    Answers::Echo | Answers::Dns => service.protocol == Transport::Udp,
                };
                require(fits, format!("host {name:?}: port {} answers in a way its protocol has not", service.port))?;
            }
        }
        for probe in self.probes() {
            self.check_probe(probe).map_err(|what| format!("probe {:?}: {what}", probe.name))?;
        }
        Ok(())
    }

    fn check_probe(&self, probe: &Probe) -> Result<(), String> {
        let require = |good: bool, what: &str| if good { Ok(()) } else { Err(what.to_string()) };
        let known = |host: &str| self.hosts.get(host).ok_or_else(|| format!("there is no host {host:?}"));
        let (from, to) = (known(&probe.from)?, known(&probe.to)?);
        require(
            (probe.from == self.hook) != (probe.to == self.hook),
            "exactly one end must be the host behind the hook",
        )?;
        let family = probe.family.into();
        require(
            from.address(family).is_some() && to.address(family).is_some(),
            "both ends need an address of its family",
        )?;
        let transport = match probe.protocol {
            ProbeProtocol::Tcp => Some(Transport::Tcp),
            ProbeProtocol::Udp => Some(Transport::Udp),
            ProbeProtocol::Icmp => None,
            ProbeProtocol::Sctp => {
                require(self.without_wire.is_some(), "SCTP has no wire form here; the lab must say so (without_wire)")?;
                None
            }
        };
        require(
            (probe.protocol == ProbeProtocol::Icmp) == (probe.port == 0),
            "a port where the protocol has ports, and only there",
        )?;
        if let Some(transport) = transport {
            // Without a service the control, the same probe with nothing attached, could never pass.
            let served = to.services.iter().any(|service| service.protocol == transport && service.port == probe.port);
            require(served, "nothing serves that port")?;
        }
        require(!probe.download || probe.protocol == ProbeProtocol::Tcp, "a download is TCP")?;
        if let SourcePorts::These(ports) = &probe.source_ports {
            require(!ports.is_empty() && !ports.contains(&0), "source ports must be ports")?;
            require(
                matches!(probe.protocol, ProbeProtocol::Tcp | ProbeProtocol::Udp | ProbeProtocol::Sctp),
                "ICMP has no source ports",
            )?;
        }
        let expect = &probe.expect;
        let request = self.direction(probe);
        let right_way = expect.request.direction == request
            && [expect.reply, expect.otherwise].into_iter().flatten().all(|rule| rule.direction == request.reverse())
            && expect.icmp_error.is_none_or(|rule| rule.direction == Direction::Inbound);
        require(right_way, "a rule is named that stands in the other list than the one this leg meets")?;
        require(
            expect.reply.is_some() == (expect.outcome != Outcome::RequestDropped),
            "the reply has a rule exactly where the request gets through",
        )?;
        require(
            expect.icmp_error.is_some()
                == (self.meets_narrow_link(probe) && matches!(expect.outcome, Outcome::Answered | Outcome::Stalled)),
            "a download over a narrow link, and nothing else, meets an ICMP error",
        )?;
        require(
            expect.outcome != Outcome::Stalled || expect.icmp_error.is_some(),
            "only a download over a narrow link can stall",
        )?;
        let all = probe.source_ports == SourcePorts::All;
        require(all == expect.percent.is_some(), "a percentage goes with source_ports = \"all\"")?;
        require(all || expect.otherwise.is_none(), "`otherwise` goes with source_ports = \"all\"")?;
        require(
            expect.percent.is_none_or(|percent| percent >= 100.0 || expect.otherwise.is_some()),
            "`otherwise` is the rule that decides the other ports, so it belongs where there are others",
        )?;
        require(
            !all || (probe.protocol == ProbeProtocol::Tcp
                && matches!(expect.outcome, Outcome::Answered | Outcome::ReplyDropped)),
            "a share is of TCP connections that are answered, or whose reply is dropped",
        )
    }
}

/// The router's address on a host's link: the first of the network.
pub fn router_address(host: IpNet) -> IpAddr {
    match host.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) + 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1).into()),
    }
}
