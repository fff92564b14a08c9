//! The network of a lab: a namespace for each host and one for the router between them, links, addresses, neighbours, and
//! behind a NAT the client whose connections it translates. There is no default route anywhere and nothing leads out of it.
//! Knows no policy and no probe.
//!
//! The router has a route of its own to every host, and hosts of one network have the router's link address for each
//! other: so what one sends to another passes the router, and its hooks, also inside one subnet, as in a VPC.
//!
//! Every namespace is called `nacld-LAB-OWNER-HOST`, where OWNER is the process that holds it by number and start time: so a
//! later run can tell what a crash left from what somebody is using.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    net::IpAddr,
    process::{self, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use ipnet::IpNet;
use procfs::{FromRead as _, net::InterfaceDeviceStatus, process::Process};
use thiserror::Error;

use super::{
    Lab,
    file::{Host, Nat, router_address},
};
use crate::netns;

/// What every name begins with.
const PREFIX: &str = "nacld-";

/// Name of every host's only link.
pub const LINK: &str = "eth0";

/// Name of a NAT's link to the client behind it.
const INSIDE: &str = "inside";

/// A network that stands. Gone when dropped.
#[derive(Debug)]
pub struct Net {
    namespaces: BTreeMap<String, String>,
    /// Behind NATs, by the name of the NAT.
    inside: BTreeMap<String, String>,
    router: String,
}

/// What a host's system settings are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// To be measured: nothing is sent twice without need.
    Measured,
    /// To be lived in: as a system comes.
    Lived,
}

/// A network that cannot be built.
#[derive(Debug, Error)]
pub enum NetError {
    /// The tool is not there.
    #[error("`ip` cannot be run: {0}; it is part of iproute2 (apt-get install iproute2)")]
    NoIp(io::Error),
    /// The tool failed.
    #[error("ip {arguments}: {message}")]
    Ip {
        /// How it was called.
        arguments: String,
        /// What it said.
        message: String,
    },
    /// The tool is not there.
    #[error("`nft` cannot be run: {0}; a lab with a NAT needs nftables (apt-get install nftables)")]
    NoNft(io::Error),
    /// The tool failed.
    #[error("nft in namespace {namespace}: {message}")]
    Nft {
        /// Where.
        namespace: String,
        /// What it said.
        message: String,
    },
    /// A system setting cannot be made.
    #[error("{setting} in namespace {namespace}: {source}")]
    Setting {
        /// Namespace.
        namespace: String,
        /// Path below /proc/sys.
        setting: String,
        /// Why.
        source: io::Error,
    },
    /// A namespace cannot be entered.
    #[error("namespace {namespace}: {source}")]
    Enter {
        /// Namespace.
        namespace: String,
        /// Why.
        source: io::Error,
    },
    /// This process cannot find itself.
    #[error("reading /proc/self/stat: {0}")]
    Own(String),
}

/// The namespaces this process has made and must remove.
struct Made {
    names: BTreeSet<String>,
    /// The process is ending: make no more.
    ending: bool,
}

static MADE: Mutex<Made> = Mutex::new(Made { names: BTreeSet::new(), ending: false });

/// Who holds a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Process.
    pub pid: i32,
    /// When it was started, in clock ticks since the machine was: a number may be given to another process later.
    pub started: u64,
}

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn this() -> Result<Self, NetError> {
        let stat =
            Process::myself().and_then(|process| process.stat()).map_err(|error| NetError::Own(error.to_string()))?;
        Ok(Self { pid: stat.pid, started: stat.starttime })
    }

    /// Whether it still runs.
    pub fn lives(self) -> bool {
        let stat = Process::new(self.pid).and_then(|process| process.stat());
        // A zombie holds nothing any more.
        stat.is_ok_and(|stat| stat.starttime == self.started && stat.state != 'Z')
    }

    /// As part of a name.
    pub fn text(self) -> String {
        format!("{}.{:x}", self.pid, self.started)
    }

    /// From part of a name.
    pub fn from_text(text: &str) -> Option<Self> {
        let (pid, started) = text.split_once('.')?;
        Some(Self { pid: pid.parse().ok()?, started: u64::from_str_radix(started, 16).ok()? })
    }
}

/// The namespace of a host (or `router`) of a lab that `owner` holds.
pub fn name(lab: &Lab, owner: Owner, host: &str) -> String {
    format!("{PREFIX}{}-{}-{host}", lab.name.to_lowercase(), owner.text())
}

/// The owner that a namespace's name tells of, if it is a lab's.
fn owner_of(name: &str) -> Option<Owner> {
    let (_lab, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let (owner, _host) = rest.split_once('-')?;
    Owner::from_text(owner)
}

/// Removes what a crash left: namespaces of labs whose process is gone. Returns their names.
pub fn sweep() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<String> = names.filter(|name| owner_of(name).is_some_and(|owner| !owner.lives())).collect();
    left.into_iter().filter(|name| delete(name).is_ok()).collect()
}

fn delete(name: &str) -> Result<(), NetError> {
    ip(None, &["netns", "del", name], None)
}

/// Runs `ip`; with `batch`, its lines are the commands.
fn ip(namespace: Option<&str>, arguments: &[&str], batch: Option<&str>) -> Result<(), NetError> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let said = feed(command.args(arguments), batch).map_err(NetError::NoIp)?;
    said.map_err(|message| {
        let namespace = namespace.map(|name| format!("-n {name} ")).unwrap_or_default();
        NetError::Ip { arguments: format!("{namespace}{}", arguments.join(" ")), message }
    })
}

/// Runs a command with something to read, and returns what it complains of if it fails.
fn feed(command: &mut Command, input: Option<&str>) -> io::Result<Result<(), String>> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // When it gives up early its message says more than a broken pipe.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let message = || String::from_utf8_lossy(&output.stderr).trim().to_string();
    Ok(if output.status.success() { Ok(()) } else { Err(message()) })
}

/// Has a namespace's packets translated as these rules say.
fn nft(namespace: &str, rules: &str) -> Result<(), NetError> {
    // A process is born into the namespace of the thread that starts it.
    netns::within(Some(namespace), || feed(Command::new("nft").args(["-f", "-"]), Some(rules)))
        .map_err(|source| NetError::Enter { namespace: namespace.into(), source })?
        .map_err(NetError::NoNft)?
        .map_err(|message| NetError::Nft { namespace: namespace.into(), message })
}

/// What the network of a lab needs and this machine lacks.
///
/// # Errors
/// [`NetError::NoNft`].
pub fn possible(lab: &Lab) -> Result<(), NetError> {
    if lab.hosts.values().any(|host| host.nat.is_some()) {
        feed(Command::new("nft").arg("--version"), None).map_err(NetError::NoNft).map(|_| ())?;
    }
    Ok(())
}

fn make(name: &str) -> Result<(), NetError> {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if made.ending {
        return Err(NetError::Own("the process is ending".into()));
    }
    ip(None, &["netns", "add", name], None)?;
    made.names.insert(name.to_string());
    Ok(())
}

fn unmake(name: &str) {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if made.names.remove(name) {
        let _ = delete(name);
    }
}

/// One namespace of this process, with nothing in it and no way out. Gone when dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// Makes one. `purpose` is what it is for, `host` which one it is: a word each.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn new(purpose: &str, host: &str) -> Result<Self, NetError> {
        let name = format!("{PREFIX}{purpose}-{}-{host}", Owner::this()?.text());
        make(&name)?;
        Ok(Self(name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Has `ip` do these commands in it, one a line.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn ip(&self, commands: &str) -> Result<(), NetError> {
        ip(Some(&self.0), &["-batch", "-"], Some(commands))
    }

    /// Makes settings in it: paths below /proc/sys, and their values.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn set(&self, settings: &[(&str, &str)]) -> Result<(), NetError> {
        let settings: Vec<_> = settings.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect();
        set(&self.0, &settings)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        unmake(&self.0);
    }
}

/// Removes every namespace that this process made, and keeps it from making more. For the way out after a signal.
pub fn remove_all() {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.ending = true;
    for name in std::mem::take(&mut made.names) {
        let _ = delete(&name);
    }
}

/// From now on Ctrl-C and SIGTERM remove what was made and do `last`, before the process ends with 128 and the signal.
pub fn clean_up_on_signals(last: impl FnOnce() + Send + 'static) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
                _ = hang_up.recv() => 1,
            }
        });
        remove_all();
        last();
        process::exit(128 + number);
    })?;
    Ok(())
}

/// Where a signal is ending the process, waits for that end: what failed because the ground was taken away is no error of
/// its own, and nobody may leave before everything is cleaned up.
pub fn leave_to_signals() {
    let ending = MADE.lock().unwrap_or_else(PoisonError::into_inner).ending;
    if ending {
        loop {
            thread::park();
        }
    }
}

impl Net {
    /// Builds the network of a lab.
    ///
    /// # Errors
    /// See [`NetError`]. What was built until then is gone again.
    pub fn build(lab: &Lab, style: Style) -> Result<Self, NetError> {
        let owner = Owner::this()?;
        let name = |host: &str| name(lab, owner, host);
        let namespaces = lab.hosts.keys().map(|host| (host.clone(), name(host))).collect();
        let nats = lab.hosts.iter().filter(|(_, host)| host.nat.is_some());
        // No host's name has a dot in it.
        let inside = nats.map(|(host, _)| (host.clone(), name(&format!("{host}.{INSIDE}")))).collect();
        // From here on dropping it takes away what was made.
        let net = Self { namespaces, inside, router: name("router") };
        for namespace in net.all() {
            make(namespace)?;
        }
        set(&net.router, &router_settings())?;
        for (host, namespace) in net.namespaces.iter().chain(&net.inside) {
            set(namespace, &host_settings(lab.host(host).os.ports(), style))?;
        }
        ip(Some(&net.router), &["-batch", "-"], Some(&net.router_commands(lab)))?;
        for host in lab.hosts.keys() {
            ip(Some(net.namespace(host)), &["-batch", "-"], Some(&host_commands(lab, host)))?;
        }
        for (host, inside) in &net.inside {
            let Some(nat) = &lab.host(host).nat else { continue };
            let namespace = net.namespace(host);
            set(namespace, &forwarding())?;
            ip(Some(namespace), &["-batch", "-"], Some(&nat_commands(nat, inside)))?;
            ip(Some(inside), &["-batch", "-"], Some(&behind_commands(lab, host, nat)))?;
            nft(namespace, &translation(lab.host(host)))?;
        }
        Ok(net)
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: &str) -> &str {
        &self.namespaces[host]
    }

    /// The namespace in which those sit who ask in a host's name: its own, or that of the client behind a NAT.
    pub fn asking(&self, host: &str) -> &str {
        self.inside.get(host).map_or_else(|| self.namespace(host), String::as_str)
    }

    /// The namespace of the router; its interface to a host has the host's name.
    pub fn router(&self) -> &str {
        &self.router
    }

    /// Hosts and their namespaces.
    pub const fn hosts(&self) -> &BTreeMap<String, String> {
        &self.namespaces
    }

    /// Frames that were sent and that no cable had room for, since it was built: a busy machine may not empty the queue of a veth
    /// in time.
    pub fn lost(&self) -> io::Result<u64> {
        let mut lost = 0;
        for namespace in self.all() {
            // Not /proc/net, which is that of the process and not of this thread.
            let devices =
                netns::within(Some(namespace), || InterfaceDeviceStatus::from_file("/proc/thread-self/net/dev"))?;
            let devices = devices.map_err(io::Error::other)?;
            lost += devices.0.values().map(|device| device.sent_drop).sum::<u64>();
        }
        Ok(lost)
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.namespaces.values().chain(self.inside.values()).chain([&self.router]).map(String::as_str)
    }

    /// Makes the hosts forget the path MTUs they learned.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn forget_paths(&self) -> Result<(), NetError> {
        for namespace in self.namespaces.values().chain(self.inside.values()) {
            for family in ["-4", "-6"] {
                ip(Some(namespace), &[family, "route", "flush", "cache"], None)?;
            }
        }
        Ok(())
    }

    fn router_commands(&self, lab: &Lab) -> String {
        let mut lines = vec!["link set lo up".to_string()];
        for (index, (name, host)) in lab.hosts.iter().enumerate() {
            let (ours, theirs) = (mac(index, true), mac(index, false));
            let namespace = self.namespace(name);
            lines.push(format!(
                "link add name {name} address {ours} type veth peer name {LINK} address {theirs} netns {namespace}"
            ));
            lines.push(format!("link set {name} addrgenmode none"));
            if let Some(mtu) = host.path_mtu {
                // Only the router's end is narrow, as before a tunnel: the host at the other end knows nothing of it.
                lines.push(format!("link set {name} mtu {mtu}"));
            }
            lines.push(format!("link set {name} up"));
            for network in &host.addresses {
                let (theirs_ip, ours_ip) = (network.addr(), router_address(*network));
                lines.push(format!("addr add {} dev {name}{}", IpNet::from(ours_ip), nodad(*network)));
                lines.push(format!("neigh add {theirs_ip} lladdr {theirs} dev {name} nud permanent"));
                lines.push(format!("route add {} dev {name} src {ours_ip}", IpNet::from(theirs_ip)));
            }
        }
        lines.join("\n") + "\n"
    }
}

fn host_commands(lab: &Lab, name: &str) -> String {
    let host = lab.host(name);
    let index = lab.hosts.keys().position(|candidate| candidate == name).unwrap_or_default();
    let mut lines =
        vec!["link set lo up".to_string(), format!("link set {LINK} addrgenmode none"), format!("link set {LINK} up")];
    for network in &host.addresses {
        let router = router_address(*network);
        lines.push(format!("addr add {network} dev {LINK}{}", nodad(*network)));
        let others = others(lab, name, router);
        let near = others.iter().filter(|other| other.trunc() == network.trunc()).map(IpNet::addr);
        for neighbour in near.chain([router]) {
            lines.push(format!("neigh add {neighbour} lladdr {} dev {LINK} nud permanent", mac(index, true)));
        }
        let far: BTreeSet<IpNet> = others.iter().map(IpNet::trunc).filter(|other| *other != network.trunc()).collect();
        lines.extend(far.iter().map(|far| format!("route add {far} via {router}")));
    }
    lines.join("\n") + "\n"
}

/// Addresses of the other hosts, of the family of an address.
fn others(lab: &Lab, name: &str, of: IpAddr) -> Vec<IpNet> {
    let others = lab.hosts.iter().filter(|(other, _)| *other != name);
    others
        .flat_map(|(_, other)| &other.addresses)
        .filter(|other| other.addr().is_ipv4() == of.is_ipv4())
        .copied()
        .collect()
}

/// A NAT's side of the link to the client behind it.
fn nat_commands(nat: &Nat, inside: &str) -> String {
    let (ours, theirs) = (router_address(nat.inside), nat.inside.addr());
    let prefix = nat.inside.prefix_len();
    let lines = [
        format!(
            "link add name {INSIDE} address {NAT_MAC} type veth peer name {LINK} address {BEHIND_MAC} netns {inside}"
        ),
        format!("link set {INSIDE} addrgenmode none"),
        format!("link set {INSIDE} up"),
        format!("addr add {ours}/{prefix} dev {INSIDE}{}", nodad(nat.inside)),
        format!("neigh add {theirs} lladdr {BEHIND_MAC} dev {INSIDE} nud permanent"),
    ];
    lines.join("\n") + "\n"
}

/// The side of the client behind it.
fn behind_commands(lab: &Lab, name: &str, nat: &Nat) -> String {
    let router = router_address(nat.inside);
    let mut lines = vec![
        "link set lo up".to_string(),
        format!("link set {LINK} addrgenmode none"),
        format!("link set {LINK} up"),
        format!("addr add {} dev {LINK}{}", nat.inside, nodad(nat.inside)),
        format!("neigh add {router} lladdr {NAT_MAC} dev {LINK} nud permanent"),
    ];
    let far: BTreeSet<IpNet> = others(lab, name, router).iter().map(IpNet::trunc).collect();
    lines.extend(far.iter().map(|far| format!("route add {far} via {router}")));
    lines.join("\n") + "\n"
}

/// How a NAT gives connections its own address and a random port of its range. Without `fully-random` Linux keeps the
/// client's own port wherever it is free, and the client behind it would look like a Linux without a NAT.
fn translation(host: &Host) -> String {
    let (first, last) = host.os.ports();
    let mut rules = String::new();
    for network in &host.addresses {
        let (table, address, ported) = match network.addr() {
            IpAddr::V4(address) => ("ip", address.to_string(), address.to_string()),
            IpAddr::V6(address) => ("ip6", address.to_string(), format!("[{address}]")),
        };
        let _ = write!(
            rules,
            "table {table} nacld {{
  chain out {{
    type nat hook postrouting priority srcnat
    oifname {LINK} meta l4proto {{ tcp, udp }} snat to {ported}:{first}-{last} fully-random
    oifname {LINK} snat to {address}
  }}
}}
"
        );
    }
    rules
}

/// No duplicate address detection: it would take a second, and its packets are nobody's concern here.
const fn nodad(network: IpNet) -> &'static str {
    match network {
        IpNet::V4(_) => "",
        IpNet::V6(_) => " nodad",
    }
}

/// Link addresses behind a NAT. Each such link is alone.
const NAT_MAC: &str = "02:4e:41:02:00:01";
const BEHIND_MAC: &str = "02:4e:41:02:00:02";

fn mac(index: usize, router: bool) -> String {
    format!("02:4e:41:{:02x}:00:{:02x}", u8::from(router), index + 1)
}

/// IPv6 on, on whatever link is made from now on, and the kernel says nothing on it by itself: no duplicate address
/// detection, no router solicitations, no address of its own.
pub const QUIET_IPV6: [(&str, &str); 6] = [
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
];

fn common_settings() -> Vec<(String, String)> {
    [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
    ]
    .into_iter()
    .chain(QUIET_IPV6)
    .map(|(setting, value)| (setting.to_string(), value.to_string()))
    .collect()
}

fn forwarding() -> Vec<(String, String)> {
    [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]
        .map(|(setting, value)| (setting.to_string(), value.to_string()))
        .into()
}

fn router_settings() -> Vec<(String, String)> {
    [common_settings(), forwarding()].concat()
}

fn host_settings((first, last): (u16, u16), style: Style) -> Vec<(String, String)> {
    let mut settings = common_settings();
    settings.extend([
        ("net/ipv4/ip_local_port_range".into(), format!("{first} {last}")),
        // Lets a client ask for an echo without a raw socket.
        ("net/ipv4/ping_group_range".into(), "0 2147483647".into()),
        // What one probe learned of a path must not help the next.
        ("net/ipv4/tcp_no_metrics_save".into(), "1".into()),
    ]);
    if style == Style::Measured {
        // A SYN/ACK that is sent again a second later would be counted to another probe.
        settings.push(("net/ipv4/tcp_synack_retries".into(), "0".into()));
    }
    settings
}

fn set(namespace: &str, settings: &[(String, String)]) -> Result<(), NetError> {
    let written = netns::within(Some(namespace), || {
        settings.iter().try_for_each(|(setting, value)| {
            fs::write(format!("/proc/sys/{setting}"), value).map_err(|source| NetError::Setting {
                namespace: namespace.into(),
                setting: setting.clone(),
                source,
            })
        })
    });
    written.map_err(|source| NetError::Enter { namespace: namespace.into(), source })?
}

impl Drop for Net {
    fn drop(&mut self) {
        self.all().for_each(unmake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_apart() {
        let this = Owner::this().expect("own");
        assert!(this.lives());
        assert_eq!(Owner::from_text(&this.text()), Some(this));
        assert!(!Owner { started: this.started + 1, ..this }.lives(), "a later process with the same number");
        assert!(!Owner { pid: i32::MAX, ..this }.lives());
        assert_eq!(owner_of(&format!("nacld-l08x-{}-a-host", this.text())), Some(this));
        for other in ["nacld-l05-client", "l05-1.2-client", "nacld", "nacld-l05-1-client", "nacld-l05-x.2-client"] {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }
}
