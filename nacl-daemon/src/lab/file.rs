//! The lab file: what is written in `config/labs/*.toml`, and how it is read. What contradicts itself is found in `check`,
//! what is expected in `expect`. Nothing is run here.
//!
//! A lab says for every probe what must become of it and what must decide at every hook it crosses, so a lab that is
//! wrong about its own lesson cannot load unnoticed: it fails at every level.

use std::{collections::BTreeMap, net::IpAddr, path::Path, path::PathBuf, str::FromStr};

use ipnet::IpNet;
use nacl_common::{Family, Layer};
use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;
use toml::Spanned;

use super::{
    Level, check,
    expect::{Columns, Expect, Expected, Stateful, columns},
};
use crate::{
    clients::Client,
    compile::{CompileError, Compiled, compile},
    policy, report,
    resolve::{Interface, Layers, Mode, NoHost, Resolved, Side},
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
    /// The hosts behind the hooks: each hook sits on the router's side of its host's link.
    pub hooks: Vec<String>,
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
    /// It is the address of a NAT: who really asks stands behind it, and its source ports are the NAT's.
    pub nat: Option<Nat>,
    /// What it serves.
    #[serde(default)]
    pub services: Vec<Service>,
}

/// A host whose connections come from behind it: on the wire a router that gives every connection its own address and a
/// random port of its range. On paper only the range counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// Address and prefix length of the client behind it; the NAT has the first address of that network.
    pub inside: IpNet,
    /// With `source_ports = "all"`: connections made on the wire, where nobody can choose the port a NAT picks.
    pub connections: u16,
    /// Likewise: percentage points that the share of them may differ from that of the ports.
    pub tolerance: f64,
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
    /// Of a relay: where it gets its answers.
    pub to: Option<Endpoint>,
}

/// A port of a host, `target:80`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.split_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = split.ok_or_else(|| format!("{text:?} is not a port of a host, such as \"target:80\""))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
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
    /// TCP: a load balancer. For each client it makes a connection of its own to `to`, from a port of its own, and carries
    /// the bytes.
    Relay,
}

/// A policy inside a lab file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// What is enforced at each of the lab's hooks, by the host behind it.
    pub hooks: BTreeMap<String, Enforced>,
}

/// What is enforced at one hook.
#[derive(Clone)]
pub struct Enforced {
    /// The interface.
    pub interface: Interface,
    /// Its tables.
    pub compiled: Compiled,
}

impl Settings {
    /// A mode, and layers as the policy says.
    pub const fn mode(mode: Mode) -> Self {
        Self { mode: Some(mode), layers: None }
    }
}

impl Policy {
    /// What is enforced at a hook of the lab it was compiled for.
    pub fn at(&self, hook: &str) -> &Enforced {
        &self.hooks[hook]
    }
}

/// Settings that replace what a policy says of its interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether network ACLs remember.
    pub mode: Option<Mode>,
    /// Which layers judge.
    pub layers: Option<Layers>,
}

/// Something shown: probes under one policy.
#[derive(Clone, Debug)]
pub struct Step {
    /// One line.
    pub name: String,
    /// What is to be seen in it.
    pub says: String,
    /// What is put in force for it, live.
    pub change: Change,
    /// Probes.
    pub probes: Vec<Probe>,
}

/// What is put in force, live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The policy; `None`: the one that was in force before.
    pub policy: Option<PolicyText>,
    /// Settings for all its interfaces, until the next change.
    pub settings: Settings,
}

/// Probes, and what is in force while they run.
#[derive(Clone)]
pub struct Stage<'a> {
    /// Name of the step, or what the goal is called.
    pub name: &'a str,
    /// Its probes.
    pub probes: &'a [Probe],
    /// What is in force.
    pub policy: Policy,
    /// What is put in force while its only probe, a download, runs.
    pub during: Option<Policy>,
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
#[derive(Clone, Debug)]
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
    pub port: u16,
    /// Address family.
    pub family: ProbeFamily,
    /// Source ports.
    pub source_ports: SourcePorts,
    /// The answer is a large page, sent in full-size packets that may not be fragmented.
    pub download: bool,
    /// What is put in force while the download runs; it stays in force.
    pub during: Option<Change>,
    /// What must become of it, with and without memory.
    pub columns: Columns,
}

impl Probe {
    /// What must become of it in a mode.
    pub const fn expected(&self, mode: Mode) -> &Expected {
        self.columns.of(mode)
    }
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

    /// The protocol of the service it asks, where that is TCP or UDP.
    pub const fn transport(self) -> Option<Transport> {
        match self {
            Self::Tcp => Some(Transport::Tcp),
            Self::Udp => Some(Transport::Udp),
            Self::Icmp | Self::Sctp => None,
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
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
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
    "l01", "l02", "l03", "l04", "l05", "l06", "l07", "l08", "l08x", "l09", "l10a", "l10b", "l10c", "l11", "l12", "l13",
    "l13b", "l14", "l15", "l16", "l16s", "l17", "l18", "l19", "l20", "l21",
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
    hooks: Vec<String>,
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
    #[serde(default, deserialize_with = "mode")]
    mode: Option<Mode>,
    #[serde(default, deserialize_with = "layers")]
    layers: Option<Layers>,
    probe: Vec<WrittenProbe>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGoal {
    says: String,
    probe: Vec<WrittenProbe>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProbe {
    name: String,
    from: String,
    to: String,
    protocol: ProbeProtocol,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    family: ProbeFamily,
    #[serde(default)]
    source_ports: SourcePorts,
    #[serde(default)]
    download: bool,
    during: Option<WrittenChange>,
    expect: Expect,
    stateful: Option<Stateful>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenChange {
    policy: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "mode")]
    mode: Option<Mode>,
    #[serde(default, deserialize_with = "layers")]
    layers: Option<Layers>,
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mode>, D::Error> {
    one_of(deserializer, &[Mode::Stateless, Mode::Stateful], Mode::name)
}

fn layers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Layers>, D::Error> {
    one_of(deserializer, &[Layers::Both, Layers::Nacl, Layers::Groups], Layers::name)
}

/// A setting by the name policies have for it.
fn one_of<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    all.iter().copied().find(|value| name(*value) == text).map(Some).ok_or_else(|| {
        let known: Vec<String> = all.iter().map(|value| format!("{:?}", name(*value))).collect();
        de::Error::custom(format!("{text:?} is none of {}", known.join(", ")))
    })
}

/// The text of a lab file, for finding out where a policy stands in it.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn wrong(&self, what: String) -> LabError {
        LabError::Wrong { file: self.file.into(), what }
    }

    fn policy(&self, value: Spanned<String>) -> Result<PolicyText, LabError> {
        let start = value.span().start;
        // Only of a literal string that begins on the line below does every line stand where the file has it.
        let opening = if self.text[start..].starts_with("'''\n") { Some(start + 4) } else { None };
        let opening = opening.ok_or_else(|| {
            self.wrong("write a policy as a literal multi-line string (''' and a new line), so that messages can point into it".into())
        })?;
        let before = self.text[..opening].matches('\n').count();
        Ok(PolicyText { text: value.into_inner(), before })
    }

    fn change(
        &self,
        policy: Option<Spanned<String>>,
        mode: Option<Mode>,
        layers: Option<Layers>,
    ) -> Result<Change, LabError> {
        let policy = policy.map(|policy| self.policy(policy)).transpose()?;
        Ok(Change { policy, settings: Settings { mode, layers } })
    }

    /// Probes without what is expected of them, and that.
    fn probes(&self, written: Vec<WrittenProbe>) -> Result<Vec<(Probe, Expect, Option<Stateful>)>, LabError> {
        let probe = |written: WrittenProbe| {
            let during = written.during.map(|change| self.change(change.policy, change.mode, change.layers));
            let probe = Probe {
                name: written.name,
                from: written.from,
                to: written.to,
                protocol: written.protocol,
                port: written.port,
                family: written.family,
                source_ports: written.source_ports,
                download: written.download,
                during: during.transpose()?,
                columns: Columns::default(),
            };
            Ok((probe, written.expect, written.stateful))
        };
        written.into_iter().map(probe).collect()
    }
}

/// Reads a lab. `stem` is the file's name without `.toml`.
///
/// # Errors
/// See [`LabError`].
pub fn parse(stem: &str, file: &str, text: &str) -> Result<Lab, LabError> {
    let written: Written =
        toml::from_str(text).map_err(|source| LabError::Toml { file: file.into(), source: Box::new(source) })?;
    let source = Source { file, text };
    let wrong = |what| source.wrong(what);
    let mut lab = Lab {
        name: written.name,
        file: file.into(),
        title: written.title,
        question: written.question.trim().into(),
        task: written.task.trim().into(),
        lesson: written.lesson.trim().into(),
        claims: written.claims,
        hints: written.hints,
        hooks: written.hooks,
        without_wire: written.without_wire,
        hosts: written.host,
        policy: source.policy(written.policy)?,
        solution: source.policy(written.solution)?,
        steps: Vec::new(),
        goal: Goal { says: written.goal.says.trim().into(), probes: Vec::new() },
    };
    if !lab.name.eq_ignore_ascii_case(stem) {
        return Err(wrong(format!(
            "the lab is called {:?}, so its file must be {}.toml",
            lab.name,
            lab.name.to_lowercase()
        )));
    }
    check::network(&lab).map_err(wrong)?;
    // Which hooks a probe crosses, and so what can be expected of it, follows from the network.
    let judged = |lab: &Lab, probes: Vec<WrittenProbe>, fixed: bool| {
        let alone = probes.len() == 1;
        let complete = |(mut probe, expect, stateful): (Probe, Expect, Option<Stateful>)| {
            let columns = check::probe(lab, &probe, alone)
                .and_then(|()| columns(lab, &probe, &expect, stateful.as_ref(), fixed))
                .map_err(|what| wrong(format!("probe {:?}: {what}", probe.name)))?;
            probe.columns = columns;
            Ok(probe)
        };
        source.probes(probes)?.into_iter().map(complete).collect::<Result<Vec<_>, LabError>>()
    };
    let mut fixed = None;
    for step in written.step {
        // A mode that a step sets stays, as everything that is put in force.
        fixed = step.mode.or(fixed);
        let probes = judged(&lab, step.probe, fixed.is_some())?;
        fixed = probes.iter().find_map(|probe| probe.during.as_ref()?.settings.mode).or(fixed);
        let change = source.change(step.policy, step.mode, step.layers)?;
        lab.steps.push(Step { name: step.name, says: step.says.trim().into(), change, probes });
    }
    lab.goal.probes = judged(&lab, written.goal.probe, false)?;
    check::whole(&lab).map_err(wrong)?;
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

    /// Compiles one of its policies. `previous`: what is in force, whose slots unchanged rules keep.
    ///
    /// # Errors
    /// The policy is invalid, or has no interface for one of the hooks.
    pub fn compile(
        &self,
        policy: &PolicyText,
        settings: Settings,
        previous: Option<&Policy>,
    ) -> Result<Policy, LabError> {
        // Blank lines stand for the lab file's own, so that every message names the line of the file.
        let text = format!("{}{}", "\n".repeat(policy.before), policy.text);
        self.compile_text(&self.file, &text, settings, previous)
    }

    /// Compiles a policy for this lab from any file. `previous`: what is in force, whose slots unchanged rules keep.
    ///
    /// # Errors
    /// The policy is invalid, or has no interface for one of the hooks.
    pub fn compile_text(
        &self,
        file: &str,
        text: &str,
        settings: Settings,
        previous: Option<&Policy>,
    ) -> Result<Policy, LabError> {
        let outcome = policy::load(file, text, &NoHost);
        let Some(resolved) = outcome.resolved else {
            let diagnostics = outcome.diagnostics;
            return Err(LabError::Policy { file: file.into(), text: text.into(), diagnostics });
        };
        let mut hooks = BTreeMap::new();
        for hook in &self.hooks {
            let Some(mut interface) = resolved.interfaces.get(hook).cloned() else {
                let what = format!("the policy has no [interface.{hook}], the interface a hook of this lab sits on");
                return Err(LabError::Wrong { file: file.into(), what });
            };
            if interface.side != Side::Router {
                let what = format!("[interface.{hook}] must have side = \"router\": AWS's lists act outside the host");
                return Err(LabError::Wrong { file: file.into(), what });
            }
            interface.mode = settings.mode.unwrap_or(interface.mode);
            interface.layers = settings.layers.unwrap_or(interface.layers);
            let previous = previous.map(|policy| &*policy.at(hook).compiled.slots);
            let compiled =
                compile(&interface, previous).map_err(|source| LabError::Compile { file: file.into(), source })?;
            hooks.insert(hook.clone(), Enforced { interface, compiled });
        }
        Ok(Policy { resolved, hooks })
    }

    /// Everything that is shown and at last the goal under the solution, each with what is in force, compiled in this order.
    /// `mode`: whether network ACLs remember, where no step says.
    ///
    /// # Errors
    /// One of the lab's policies is invalid.
    pub fn plan(&self, mode: Mode) -> Result<Vec<Stage<'_>>, LabError> {
        let mut stages: Vec<Stage<'_>> = Vec::new();
        let mut in_force = (&self.policy, Settings::mode(mode));
        for step in &self.steps {
            let policy = self.apply(&mut in_force, &step.change, stages.last().map(Stage::last))?;
            let change = step.probes.iter().find_map(|probe| probe.during.as_ref());
            let during = change.map(|change| self.apply(&mut in_force, change, Some(&policy))).transpose()?;
            stages.push(Stage { name: &step.name, probes: &step.probes, policy, during });
        }
        let policy = self.compile(&self.solution, Settings::mode(mode), stages.last().map(Stage::last))?;
        let name = "the goal, with the solution";
        stages.push(Stage { name, probes: &self.goal.probes, policy, during: None });
        Ok(stages)
    }

    fn apply<'a>(
        &'a self,
        in_force: &mut (&'a PolicyText, Settings),
        change: &'a Change,
        previous: Option<&Policy>,
    ) -> Result<Policy, LabError> {
        let (text, settings) = in_force;
        *text = change.policy.as_ref().unwrap_or(text);
        settings.mode = change.settings.mode.or(settings.mode);
        settings.layers = change.settings.layers.or(settings.layers);
        self.compile(text, *settings, previous)
    }

    /// Every probe: those of the steps, then those of the goal.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.steps.iter().flat_map(|step| &step.probes).chain(&self.goal.probes)
    }

    /// Whether a probe ends otherwise where network ACLs remember.
    pub fn memory_matters(&self) -> bool {
        let differs = |probe: &Probe| {
            let [one, other] = [Mode::Stateless, Mode::Stateful].map(|mode| probe.expected(mode));
            (one.outcome, one.percent) != (other.outcome, other.percent)
        };
        self.probes().any(differs)
    }

    /// Whether security groups have a say.
    pub fn has_groups(&self) -> bool {
        let crossings = self.probes().flat_map(|probe| &probe.expected(Mode::Stateless).path);
        crossings.flat_map(|crossing| &crossing.by.0).any(|decider| decider.layer() == Layer::SecurityGroup)
    }

    /// The host of this name; names are checked when a lab is loaded.
    pub fn host(&self, name: &str) -> &Host {
        &self.hosts[name]
    }
}

impl Stage<'_> {
    /// What is in force when it is over.
    pub fn last(&self) -> &Policy {
        self.during.as_ref().unwrap_or(&self.policy)
    }
}

/// The router's address on a host's link: the first of the network.
pub fn router_address(host: IpNet) -> IpAddr {
    match host.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) + 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1).into()),
    }
}
