//! Policies held against real sockets from a Rust test: hosts in network namespaces of their own, policies attached before them,
//! connections asked for. Everything is gone when the [`Network`] is dropped, also where a test panics. Stands on the labs'
//! network and services and on the dataplane; knows no test file.
//!
//! It needs root, an eBPF kernel, iproute2, and a `nacl-daemon` that was built with the feature `kernel`:
//!
//! ```no_run
//! use nacl_daemon::harness::{HarnessError, Network, Transport};
//!
//! # fn main() -> Result<(), HarnessError> {
//! let mut network = Network::with()
//!     .host("client", &["198.51.100.7/24"])
//!     .host("server", &["10.0.1.10/24"])
//!     .serve("server", Transport::Tcp, 443)
//!     .up()?;
//! network.enforce("server", r#"
//!     version = 1
//!     [nacl.web]
//!     inbound  = [{ rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" }]
//!     outbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" }]
//!     [interface.server]
//!     nacl = "web"
//! "#)?;
//! network.tcp("client", "server", 443)?.assert_allowed();
//! network.tcp("client", "server", 22)?.assert_denied_by("inbound *");
//! # Ok(())
//! # }
//! ```

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nacl_common::{Action, Direction, Event, Family, Packet};
use thiserror::Error;

pub use crate::lab::{ask::Noticed, file::Transport};
use crate::{
    analyze::{Flow, Outcome},
    clients::Client,
    compile::{CompileError, Compiled, Decider, compile},
    dataplane::{self, Attachment, DataplaneError, Events, Options, Target, attach},
    lab::{
        Lab,
        account::{packet_of, same_flow},
        ask::{Question, ask},
        check,
        file::{Answers, Goal, Host, PolicyText, ProbeProtocol, Service},
        net::{self, Net, NetError, Style},
        relay::Proxy,
        serve::Services,
    },
    policy::{self, Severity},
    report::diagnostics,
    resolve::{Interface, NoHost, Resolved, Side},
};

/// How long a client waits for an answer that may never come: less than the second after which TCP tries again.
const SHORT: Duration = Duration::from_millis(600);

/// How long where nothing was seen to be denied: a machine may have other things to do, and the first packets on a new link may be
/// lost before the kernel has brought it into service.
const LONG: Duration = Duration::from_secs(5);

/// How often that is tried.
const TRIES: u32 = 3;

/// How long events of packets may take that were sent when the client was done.
const SETTLE: Duration = Duration::from_millis(200);

/// How often is looked for them.
const LOOK: Duration = Duration::from_millis(5);

/// Why a network cannot be brought up, or a policy put in force in it.
#[derive(Debug, Error)]
pub enum HarnessError {
    /// This machine, process or binary cannot attach at all.
    #[error("{}", .0.join("\n"))]
    Lacks(Vec<String>),
    /// Hosts that contradict each other.
    #[error("{0}")]
    Wrong(String),
    /// Namespaces and links.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A socket.
    #[error("{what}: {source}")]
    Socket {
        /// What for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The policy.
    #[error("the policy has errors\n{0}")]
    Policy(String),
    /// No such place in it.
    #[error(transparent)]
    Place(#[from] crate::resolve::InterfaceError),
    /// It cannot be enforced.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The kernel.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
}

/// A network that is being put together.
#[derive(Debug, Default)]
pub struct Builder {
    hosts: BTreeMap<String, Host>,
    wrong: Option<String>,
}

impl Builder {
    /// A host with these addresses and prefix lengths, at most one a family. A router stands between all hosts; it has the first
    /// address of each of their networks.
    #[must_use]
    pub fn host(self, name: &str, addresses: &[&str]) -> Self {
        self.host_of(name, addresses, Client::Linux)
    }

    /// As [`Self::host`], one that picks source ports as another system does.
    #[must_use]
    pub fn host_of(mut self, name: &str, addresses: &[&str], os: Client) -> Self {
        let mut read: Vec<IpNet> = Vec::new();
        for address in addresses {
            if let Ok(address) = address.parse() {
                read.push(address);
            } else {
                let what = format!("{address:?} of host {name:?} is no address with a prefix length");
                self.wrong.get_or_insert(what);
            }
        }
        let host = Host { about: String::new(), os, addresses: read, path_mtu: None, nat: None, services: Vec::new() };
        if self.hosts.insert(name.to_owned(), host).is_some() {
            self.wrong.get_or_insert(format!("there are two hosts {name:?}"));
        }
        self
    }

    /// A port of a host that answers: TCP with a page, UDP with what it was sent.
    #[must_use]
    pub fn serve(mut self, host: &str, protocol: Transport, port: u16) -> Self {
        let answers = if protocol == Transport::Tcp { Answers::Http } else { Answers::Echo };
        match self.hosts.get_mut(host) {
            Some(host) => host.services.push(Service { protocol, port, answers, text: None, bytes: None, to: None }),
            None => {
                self.wrong.get_or_insert(format!("there is no host {host:?} that could serve port {port}"));
            }
        }
        self
    }

    /// Builds it.
    ///
    /// # Errors
    /// See [`HarnessError`]. What was built until then is gone again.
    pub fn up(self) -> Result<Network, HarnessError> {
        /// Networks of this process, of which each has a name of its own.
        static BUILT: AtomicU32 = AtomicU32::new(0);
        if let Some(wrong) = self.wrong {
            return Err(HarnessError::Wrong(wrong));
        }
        let lacking = dataplane::missing();
        if !lacking.is_empty() {
            return Err(HarnessError::Lacks(lacking));
        }
        // What a test that was killed has left.
        net::sweep();
        let lab = Lab {
            name: format!("t{}", BUILT.fetch_add(1, Ordering::Relaxed) % 1_000_000),
            file: String::new(),
            title: String::new(),
            question: String::new(),
            task: String::new(),
            lesson: String::new(),
            claims: Vec::new(),
            hints: Vec::new(),
            hooks: Vec::new(),
            without_wire: None,
            hosts: self.hosts,
            policy: PolicyText::default(),
            solution: PolicyText::default(),
            steps: Vec::new(),
            goal: Goal { says: String::new(), probes: Vec::new() },
        };
        check::hosts(&lab).map_err(HarnessError::Wrong)?;
        let net = Net::build(&lab, Style::Measured)?;
        let services = Services::start(&lab, &net, Proxy::BuiltIn)
            .map_err(|source| HarnessError::Socket { what: "starting the services", source })?;
        Ok(Network { attached: BTreeMap::new(), _services: services, net, lab })
    }
}

/// A network that stands, with policies before some of its hosts. Dropping it takes all of it away.
pub struct Network {
    // Dropped in this order: programs, services, then the namespaces.
    attached: BTreeMap<String, Attached>,
    _services: Services,
    net: Net,
    lab: Lab,
}

/// A policy in force before a host.
struct Attached {
    attachment: Attachment,
    compiled: Compiled,
    interface: Interface,
}

/// A packet that a policy has judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The host behind the policy.
    pub host: String,
    /// As the policy sees it.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
    /// What was done to it.
    pub action: Action,
    /// All that had a say: what decided first.
    pub by: Vec<Decider>,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The flow.
    pub flow: Flow,
    /// What the client noticed.
    pub noticed: Noticed,
    /// Every packet of the flow that was judged, in the order of the kernel's clock.
    pub judged: Vec<Judged>,
}

impl Network {
    /// Begins one.
    pub fn with() -> Builder {
        Builder::default()
    }

    /// Puts a policy in force before a host: what is written for the interface of the host's name, or for the only one there is.
    /// It stands on the router's side of the host's link, as AWS's lists stand outside an instance. Over one that is in force
    /// already it is put live, and what is remembered stays.
    ///
    /// # Errors
    /// See [`HarnessError`]; what was in force stays so.
    pub fn enforce(&mut self, host: &str, policy: &str) -> Result<(), HarnessError> {
        let resolved = parse(policy)?;
        let place = resolved.interfaces.contains_key(host).then_some(host);
        let interface = resolved.named_interface(place)?.interface.into_owned();
        self.attach(host, &interface)
    }

    /// As [`Self::enforce`], with what judges at an interface or a place of a policy, such as `eni:web`.
    ///
    /// # Errors
    /// See [`HarnessError`]; what was in force stays so.
    pub fn attach(&mut self, host: &str, interface: &Interface) -> Result<(), HarnessError> {
        if !self.lab.hosts.contains_key(host) {
            return Err(HarnessError::Wrong(format!("there is no host {host:?}")));
        }
        let interface = Interface { side: Side::Router, flow_log: None, ..interface.clone() };
        let options = Options { events: Events::All, ..Options::from(&interface) };
        let previous = self.attached.get(host).map(|attached| &*attached.compiled.slots);
        let compiled = compile(&interface, previous)?;
        if let Some(attached) = self.attached.get_mut(host) {
            attached.attachment.install(&options, &compiled, dataplane::Terms::default())?;
            attached.compiled = compiled;
            attached.interface = interface;
        } else {
            let target = Target { name: host.to_owned(), netns: Some(self.net.router().to_owned()) };
            let attachment = attach(&target, &options, &compiled)?;
            self.attached.insert(host.to_owned(), Attached { attachment, compiled, interface });
        }
        Ok(())
    }

    /// Forgets every connection that is remembered.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget(&mut self) -> Result<(), HarnessError> {
        for attached in self.attached.values_mut() {
            attached.attachment.forget(&mut |_, _| true)?;
        }
        Ok(())
    }

    /// Asks a TCP port of a host from another.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub fn tcp(&mut self, from: &str, to: &str, port: u16) -> Result<Exchange, HarnessError> {
        self.ask(from, to, ProbeProtocol::Tcp, Family::V4, 0, port)
    }

    /// Asks a UDP port.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub fn udp(&mut self, from: &str, to: &str, port: u16) -> Result<Exchange, HarnessError> {
        self.ask(from, to, ProbeProtocol::Udp, Family::V4, 0, port)
    }

    /// Asks for an echo.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub fn ping(&mut self, from: &str, to: &str) -> Result<Exchange, HarnessError> {
        self.ask(from, to, ProbeProtocol::Icmp, Family::V4, 0, 0)
    }

    /// The namespace of a host, for what this does not do by itself.
    pub fn namespace(&self, host: &str) -> Option<&str> {
        self.net.hosts().get(host).map(String::as_str)
    }

    /// Asks in any way. `source_port` 0: the client's system picks one.
    ///
    /// # Errors
    /// A host or its address is not there, or a socket cannot be made.
    pub fn ask(
        &mut self,
        from: &str,
        to: &str,
        protocol: ProbeProtocol,
        family: Family,
        source_port: u16,
        port: u16,
    ) -> Result<Exchange, HarnessError> {
        let address = |name: &str| -> Result<IpAddr, HarnessError> {
            let host = self.lab.hosts.get(name);
            let host = host.ok_or_else(|| HarnessError::Wrong(format!("there is no host {name:?}")))?;
            host.address(family).ok_or_else(|| HarnessError::Wrong(format!("host {name:?} has no such address")))
        };
        let (source, destination) = (address(from)?, address(to)?);
        let namespace = self.net.asking(from).to_owned();
        let mut patience = SHORT;
        for attempt in 1.. {
            // Of what was asked before.
            self.events();
            let to = SocketAddr::new(destination, port);
            let question = Question { protocol, from: source, source_port, to, patience, gate: None };
            let (noticed, sport) =
                ask(&namespace, &question).map_err(|source| HarnessError::Socket { what: "asking", source })?;
            let dport = match protocol {
                ProbeProtocol::Icmp if family == Family::V4 => 8 << 8,
                ProbeProtocol::Icmp => 128 << 8,
                _ => port,
            };
            let flow = Flow { protocol: protocol.number(family), source, destination, sport, dport };
            let answered = matches!(noticed, Noticed::Answer(_));
            let judged = self.judged(&flow, answered);
            let told = answered || judged.iter().any(|one| one.action == Action::Deny);
            if told || attempt >= TRIES {
                return Ok(Exchange { flow, noticed, judged });
            }
            patience = LONG;
        }
        unreachable!("the last attempt returns")
    }

    /// What was judged of a flow. What was not answered may have been denied a moment ago.
    fn judged(&mut self, flow: &Flow, answered: bool) -> Vec<Judged> {
        let (Ok(request), Ok(reply)) = (flow.request(), flow.reply()) else { return Vec::new() };
        let mut events: Vec<(String, Event)> = Vec::new();
        let end = Instant::now() + SETTLE;
        loop {
            events.extend(self.events());
            let denied = events.iter().any(|(_, event)| event.action == 0);
            if answered || denied || Instant::now() > end {
                break;
            }
            thread::sleep(LOOK);
        }
        events.sort_by_key(|(_, event)| event.time);
        let own = events.into_iter().filter_map(|(host, event)| {
            let packet = packet_of(&event, &request)?;
            let is = |other: &Packet| same_flow(&packet, other);
            (is(&request) || reply.as_ref().is_some_and(is)).then_some((host, event, packet))
        });
        own.filter_map(|(host, event, packet)| {
            let verdict = event.verdict()?;
            let by = self.attached.get(&host)?.compiled.slots.deciders(&verdict);
            let direction =
                if event.direction == Direction::Inbound as u8 { Direction::Inbound } else { Direction::Outbound };
            Some(Judged { host, direction, packet, action: verdict.action, by })
        })
        .collect()
    }

    fn events(&mut self) -> Vec<(String, Event)> {
        let mut all = Vec::new();
        for (host, attached) in &mut self.attached {
            while let Some(event) = attached.attachment.events().next() {
                all.push((host.clone(), event));
            }
        }
        all
    }

    /// What is in force before a host.
    pub fn interface(&self, host: &str) -> Option<&Interface> {
        self.attached.get(host).map(|attached| &attached.interface)
    }
}

/// A policy's text, for [`Network::attach`].
///
/// # Errors
/// [`HarnessError::Policy`], with everything that is wrong.
pub fn parse(text: &str) -> Result<Resolved, HarnessError> {
    // Indented as it stands in a test, a text is TOML all the same.
    let outcome = policy::load("<policy>", text, &NoHost);
    outcome.resolved.ok_or_else(|| {
        let errors: Vec<_> = outcome.diagnostics.into_iter().filter(|one| one.severity == Severity::Error).collect();
        HarnessError::Policy(diagnostics::render("<policy>", text, &errors, false))
    })
}

impl Exchange {
    /// How it ended; `None`: it was not answered, and nothing was seen to deny it.
    pub fn outcome(&self) -> Option<Outcome> {
        if matches!(self.noticed, Noticed::Answer(_)) {
            return Some(Outcome::Works);
        }
        let denied = self.denied()?;
        let request = self.flow.request().is_ok_and(|request| same_flow(&denied.packet, &request));
        Some(if request { Outcome::RequestDenied } else { Outcome::ReplyDenied })
    }

    /// The packet that was denied first.
    pub fn denied(&self) -> Option<&Judged> {
        self.judged.iter().find(|judged| judged.action == Action::Deny)
    }

    /// # Panics
    /// Where the request was not answered: with all that is known of why.
    #[track_caller]
    pub fn assert_allowed(&self) {
        assert!(self.outcome() == Some(Outcome::Works), "expected an answer: {self}");
    }

    /// # Panics
    /// Where the request was not dropped.
    #[track_caller]
    pub fn assert_denied(&self) {
        assert!(self.outcome() == Some(Outcome::RequestDenied), "expected the request to be denied: {self}");
    }

    /// # Panics
    /// Where the request was not dropped, or the reply was not dropped after it.
    #[track_caller]
    pub fn assert_reply_denied(&self) {
        assert!(self.outcome() == Some(Outcome::ReplyDenied), "expected the reply to be denied: {self}");
    }

    /// # Panics
    /// Where nothing was denied by that: `inbound 100`, `outbound *`, `sg-3 inbound 1`, `inbound sg *`.
    #[track_caller]
    pub fn assert_denied_by(&self, by: &str) {
        let decider: Decider = by.parse().unwrap_or_else(|error| panic!("{error}"));
        let denied = self.denied().is_some_and(|denied| denied.by.first() == Some(&decider));
        assert!(denied, "expected to be denied by {by}: {self}");
    }
}

impl std::fmt::Display for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = |packet: &Packet| crate::report::explain::flow_line(packet);
        let request = self.flow.request().map(|packet| line(&packet)).unwrap_or_default();
        write!(f, "{request}: {:?}", self.noticed)?;
        for Judged { host, direction, packet, action, by } in &self.judged {
            let by: Vec<_> = by.iter().map(ToString::to_string).collect();
            write!(f, "\n  {host}, {}: {} {} by {}", direction.name(), line(packet), action.name(), by.join(", "))?;
        }
        Ok(())
    }
}
