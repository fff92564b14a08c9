//! What the daemon must know of the machine: addresses, routes, and who is connected by SSH. Facts only, read from the
//! kernel inside the right namespace; what follows from them is decided in `guard`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use futures_util::TryStreamExt;
use nix::ifaddrs::getifaddrs;
use procfs::{
    FromReadSI, ProcError, current_system_info,
    net::{TcpNetEntries, TcpNetEntry, TcpState},
    process::{FDTarget, all_processes},
};
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};
use thiserror::Error;

use crate::{netns, resolve};

/// Surroundings that cannot be seen.
#[derive(Debug, Error)]
pub enum HostError {
    /// It is there and cannot be entered.
    #[error("cannot enter the network namespace {name:?}")]
    Netns {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel would not say.
    #[error("cannot read links and routes from the kernel")]
    Netlink(#[source] io::Error),
}

impl HostError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Netns { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("entering a network namespace needs CAP_SYS_ADMIN: run as root".to_owned())
            }
            _ => None,
        }
    }
}

/// The machine as resolving asks for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl resolve::Host for Kernel {
    fn addresses(&self, netns: Option<&str>, interface: &str) -> Vec<IpAddr> {
        // Unknown where the namespace or interface does not exist: attaching says so better than a missing address.
        netns::within(netns, || addresses(interface)).unwrap_or_default()
    }
}

/// Addresses of an interface of this thread's namespace.
fn addresses(interface: &str) -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
        })
        .collect()
}

/// An established TCP connection to the SSH server of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// The server's end.
    pub local: SocketAddr,
    /// The client's end.
    pub remote: SocketAddr,
}

/// A link, as far as it matters which way a packet goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Bridge, bond or the like it is a port of.
    pub master: Option<u32>,
    /// Link it stands on, as a VLAN does.
    pub lower: Option<u32>,
}

/// What lies around an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Gateways of default routes through it.
    pub gateways: Vec<IpAddr>,
    /// SSH connections that it carries.
    pub ssh: Vec<Connection>,
    /// Whether other people's processes could be looked into: where not, an SSH server on a port that nothing tells of is
    /// missed.
    pub all_seen: bool,
}

impl Surroundings {
    /// Looks around an interface. One that does not exist, or whose namespace does not, has none: it is waited for.
    ///
    /// # Errors
    /// See [`HostError`].
    pub fn of(netns: Option<&str>, interface: &str) -> Result<Self, HostError> {
        if let Some(name) = netns
            && !netns::path(name).exists()
        {
            return Ok(Self::default());
        }
        let look = || -> io::Result<Self> {
            // A runtime of its own: the netlink socket must be made on the thread that is in the namespace.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(look_around(interface))
        };
        netns::within(netns, look)
            .map_err(|source| HostError::Netns { name: netns.unwrap_or_default().to_owned(), source })?
            .map_err(HostError::Netlink)
    }
}

async fn look_around(interface: &str) -> io::Result<Surroundings> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await.map_err(io::Error::other)?;
    let mut links = BTreeMap::new();
    let mut wanted = None;
    for message in messages {
        if message
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if name == interface))
        {
            wanted = Some(message.header.index);
        }
        links.insert(message.header.index, link(&message));
    }
    let Some(index) = wanted else { return Ok(Surroundings::default()) };
    let servers = Servers::find();
    let mut found =
        Surroundings { gateways: gateways(&handle, index).await?, ssh: Vec::new(), all_seen: servers.all_seen };
    let own: BTreeSet<IpAddr> = addresses(interface).into_iter().collect();
    let local = local_addresses();
    for connection in ssh_connections(&servers) {
        let route = route(&handle, &connection).await;
        if carried(&connection, index, &own, &local, route, &links) {
            found.ssh.push(connection);
        }
    }
    connection.abort();
    Ok(found)
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link::default();
    let mut elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Link(lower) => link.lower = Some(*lower),
            // A veth names its peer here, a tunnel in another namespace its lower link: neither is below it here.
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                elsewhere |= infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    if elsewhere {
        link.lower = None;
    }
    link
}

async fn gateways(handle: &Handle, index: u32) -> io::Result<Vec<IpAddr>> {
    let mut gateways = BTreeSet::new();
    for empty in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let routes: Vec<RouteMessage> =
            handle.route().get(empty).execute().try_collect().await.map_err(io::Error::other)?;
        for route in
            routes.iter().filter(|route| route.header.destination_prefix_length == 0 && oif(route) == Some(index))
        {
            gateways.extend(route.attributes.iter().filter_map(|attribute| match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(IpAddr::from(*gateway)),
                RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => Some(IpAddr::from(*gateway)),
                _ => None,
            }));
        }
    }
    Ok(gateways.into_iter().collect())
}

fn oif(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The interface by which the kernel answers a connection; `None` where it does not say.
async fn route(handle: &Handle, connection: &Connection) -> Option<u32> {
    let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let (local, remote) = (connection.local.ip(), connection.remote.ip());
    let request = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(remote, bits(remote))
        .and_then(|request| request.source_prefix(local, bits(local)))
        .ok()?
        .build();
    let answers: Vec<RouteMessage> = handle.route().get(request).execute().try_collect().await.ok()?;
    answers.first().and_then(oif)
}

/// Whether a connection's packets pass an interface (by its index and its own addresses). `route`: the interface by
/// which the kernel answers. `local`: every address of this machine.
pub fn carried(
    connection: &Connection,
    index: u32,
    own: &BTreeSet<IpAddr>,
    local: &BTreeSet<IpAddr>,
    route: Option<u32>,
    links: &BTreeMap<u32, Link>,
) -> bool {
    // To itself a machine talks over lo, whichever of its addresses it uses.
    if local.contains(&connection.remote.ip()) {
        return route == Some(index);
    }
    // Either way of the connection can be the one that is cut: in by the address, out by the route.
    own.contains(&connection.local.ip()) || route.is_some_and(|route| beneath(route, links).contains(&index))
}

/// An interface and every one its packets may pass below it: ports of a bridge or bond, the link a VLAN stands on.
fn beneath(top: u32, links: &BTreeMap<u32, Link>) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([top]);
    let mut open = vec![top];
    while let Some(index) = open.pop() {
        let ports = links.iter().filter(|(_, link)| link.master == Some(index)).map(|(port, _)| *port);
        let lower = links.get(&index).and_then(|link| link.lower);
        for next in ports.chain(lower) {
            if found.insert(next) {
                open.push(next);
            }
        }
    }
    found
}

fn local_addresses() -> BTreeSet<IpAddr> {
    let Ok(all) = getifaddrs() else { return BTreeSet::new() };
    all.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    })
    .collect()
}

/// Established connections to the SSH server, from the socket tables of this thread's namespace: sudo strips
/// SSH_CONNECTION, a service has no environment at all, and none tells of other people's connections.
fn ssh_connections(servers: &Servers) -> BTreeSet<Connection> {
    let mut table = Vec::new();
    // Of this thread: /proc/net is the namespace of the process's first thread.
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match TcpNetEntries::from_file(Path::new(file), current_system_info()) {
            Ok(entries) => table.extend(entries.0),
            Err(error) => tracing::debug!(file, reason = %error, "cannot read the table of sockets"),
        }
    }
    ssh_in(&table, servers, env::var("SSH_CONNECTION").ok().as_deref())
}

/// What tells an SSH server's sockets from others.
#[derive(Debug, Default)]
struct Servers {
    /// Its sockets, by inode.
    inodes: BTreeSet<u64>,
    /// Ports that its configuration names: all there is to go by where a process may not look into others, as a service
    /// without CAP_SYS_PTRACE.
    ports: BTreeSet<u16>,
    /// Whether every process could be looked into.
    all_seen: bool,
}

impl Servers {
    fn find() -> Self {
        let mut found = Self { ports: configured_ports(Path::new("/etc/ssh")), ..Self::default() };
        let Ok(processes) = all_processes() else { return found };
        found.all_seen = true;
        for process in processes.flatten() {
            let is_server =
                process.stat().is_ok_and(|stat| matches!(stat.comm.as_str(), "sshd" | "sshd-session" | "dropbear"));
            match process.fd() {
                Ok(descriptors) if is_server => {
                    found.inodes.extend(descriptors.flatten().filter_map(|descriptor| match descriptor.target {
                        FDTarget::Socket(inode) => Some(inode),
                        _ => None,
                    }));
                }
                // What has ended meanwhile is not missed.
                Err(ProcError::PermissionDenied(_)) => found.all_seen = false,
                _ => {}
            }
        }
        found
    }
}

/// The ports that OpenSSH's configuration names: `Port`, and `ListenAddress` with a port.
fn configured_ports(directory: &Path) -> BTreeSet<u16> {
    let more = fs::read_dir(directory.join("sshd_config.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = [directory.join("sshd_config")].into_iter().chain(more);
    files.filter_map(|file| fs::read_to_string(file).ok()).flat_map(|text| ports_in(&text)).collect()
}

fn ports_in(text: &str) -> Vec<u16> {
    let port = |line: &str| {
        let (key, value) = line.trim().split_once(|at: char| at.is_whitespace() || at == '=')?;
        let value = value.trim_start_matches(|at: char| at.is_whitespace() || at == '=').split_whitespace().next()?;
        let value = value.trim_matches('"');
        match key.to_ascii_lowercase().as_str() {
            "port" => value.parse().ok(),
            // HOST:PORT or [HOST]:PORT; a bare IPv6 address has colons too.
            "listenaddress" => {
                let (host, port) = value.rsplit_once(':')?;
                (host.ends_with(']') || !host.contains(':')).then(|| port.parse().ok())?
            }
            _ => None,
        }
    };
    text.lines().filter_map(port).collect()
}

/// Picks the SSH connections out of a socket table: to port 22, to a port an SSH server listens on, to a listening
/// port where an SSH server holds the connection (systemd listens for it) or that its configuration names, or the one in
/// SSH_CONNECTION.
fn ssh_in(table: &[TcpNetEntry], servers: &Servers, hint: Option<&str>) -> BTreeSet<Connection> {
    let Servers { inodes, ports, .. } = servers;
    let listening = |port: u16| {
        table.iter().filter(move |entry| entry.state == TcpState::Listen && entry.local_address.port() == port)
    };
    table
        .iter()
        .filter(|entry| entry.state == TcpState::Established)
        .map(|entry| (entry, Connection { local: plain(entry.local_address), remote: plain(entry.remote_address) }))
        .filter(|(entry, connection)| {
            let port = connection.local.port();
            port == 22
                || listening(port).any(|listener| {
                    ports.contains(&port) || inodes.contains(&listener.inode) || inodes.contains(&entry.inode)
                })
                || hint.is_some_and(|hint| named(hint, connection))
        })
        .map(|(_, connection)| connection)
        .collect()
}

/// Whether SSH_CONNECTION (`client port server port`) is this connection.
fn named(hint: &str, connection: &Connection) -> bool {
    let Connection { local, remote } = connection;
    format!("{} {} {} {}", remote.ip(), remote.port(), local.ip(), local.port()) == hint.trim()
}

/// An IPv4 connection of an IPv6 socket is an IPv4 connection.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(remote: &str, local: &str) -> Connection {
        Connection { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
    }

    /// Lines as the kernel writes them.
    fn table(text: &str) -> Vec<TcpNetEntry> {
        TcpNetEntries::from_read(format!("header\n{text}").as_bytes(), current_system_info()).unwrap().0
    }

    fn holding(inodes: &[u64]) -> Servers {
        Servers { inodes: inodes.iter().copied().collect(), ..Servers::default() }
    }

    const ESTABLISHED_22: &str = "   1: 0A01000A:0016 076433C6:CC79 01 00000000:00000000 00:00000000 00000000     0        0 50 1 0 20 4 30 10 -1\n";
    const LISTEN_2222: &str = "   0: 00000000:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 60 1 0 20 4 30 10 -1\n";
    const ESTABLISHED_2222: &str = "   2: 0A01000A:08AE 076433C6:CC7A 01 00000000:00000000 00:00000000 00000000     0        0 61 1 0 20 4 30 10 -1\n";

    #[test]
    fn port_22_is_ssh_whoever_listens() {
        let found = ssh_in(&table(ESTABLISHED_22), &Servers::default(), None);
        assert_eq!(found, [connection("198.51.100.7:52345", "10.0.1.10:22")].into());
    }

    #[test]
    fn another_port_is_ssh_when_a_server_of_it_says_so() {
        let table = table(&format!("{LISTEN_2222}{ESTABLISHED_2222}"));
        assert!(ssh_in(&table, &Servers::default(), None).is_empty());
        // sshd listens; or systemd listens and sshd holds the connection; or the environment names it.
        for inode in [60, 61] {
            assert_eq!(ssh_in(&table, &holding(&[inode]), None).len(), 1, "inode {inode}");
        }
        let nobody = Servers::default();
        assert_eq!(ssh_in(&table, &nobody, Some("198.51.100.7 52346 10.0.1.10 2222")).len(), 1);
        assert!(ssh_in(&table, &nobody, Some("198.51.100.7 1 10.0.1.10 2222")).is_empty());
        // Nobody may be looked into, and the server's configuration tells.
        let configured = Servers { ports: [2222].into(), ..Servers::default() };
        assert_eq!(ssh_in(&table, &configured, None).len(), 1);
    }

    #[test]
    fn the_configuration_of_the_server_names_its_ports() {
        let text = "# Port 1\nPort 2222\n  port=2223\nListenAddress 192.0.2.1:2224\nListenAddress [2001:db8::1]:2225\n\
                    ListenAddress 2001:db8::22\nListenAddress 192.0.2.1\nListenAddress host:2226 rdomain red\nPort \"2227\"\n\
                    PermitRootLogin no\nX11DisplayOffset 10\nPort nonsense\n";
        assert_eq!(ports_in(text), [2222, 2223, 2224, 2225, 2226, 2227]);
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(configured_ports(directory.path()), [].into());
        fs::write(directory.path().join("sshd_config"), "Include /etc/ssh/sshd_config.d/*.conf\n").unwrap();
        fs::create_dir(directory.path().join("sshd_config.d")).unwrap();
        fs::write(directory.path().join("sshd_config.d/port.conf"), "Port 2222\n").unwrap();
        assert_eq!(configured_ports(directory.path()), [2222].into());
    }

    #[test]
    fn an_outgoing_connection_of_a_server_is_not_a_login() {
        // What a port forwarding opens: held by sshd, on a port nobody listens on.
        assert!(ssh_in(&table(ESTABLISHED_2222), &holding(&[61]), None).is_empty());
    }

    #[test]
    fn ipv4_in_ipv6_is_ipv4() {
        let text = "   0: 0000000000000000FFFF00000A01000A:0016 0000000000000000FFFF0000076433C6:CC79 01 00000000:00000000 00:00000000 00000000 0 0 50 1 0 20 4 30 10 -1\n";
        assert_eq!(
            ssh_in(&table(text), &Servers::default(), None),
            [connection("198.51.100.7:52345", "10.0.1.10:22")].into()
        );
    }

    #[test]
    fn carried_by_address_or_by_route() {
        let own: BTreeSet<IpAddr> = ["10.0.1.10".parse().unwrap()].into();
        let ssh = connection("198.51.100.7:52345", "10.0.1.10:22");
        let links = BTreeMap::new();
        assert!(carried(&ssh, 2, &own, &own, Some(2), &links));
        assert!(carried(&ssh, 2, &own, &own, Some(3), &links), "comes in here, goes out elsewhere");
        assert!(carried(&ssh, 2, &own, &own, None, &links));
        assert!(carried(&ssh, 3, &BTreeSet::new(), &own, Some(3), &links), "goes out here");
        assert!(!carried(&ssh, 4, &BTreeSet::new(), &own, Some(3), &links));
        let to_itself = connection("10.0.1.10:52345", "10.0.1.10:22");
        assert!(!carried(&to_itself, 2, &own, &own, Some(1), &links));
    }

    #[test]
    fn carried_by_what_lies_beneath() {
        // 2 and 3 are ports of bridge 5; VLAN 6 stands on the bridge.
        let links = BTreeMap::from([
            (2, Link { master: Some(5), lower: None }),
            (3, Link { master: Some(5), lower: None }),
            (4, Link::default()),
            (5, Link::default()),
            (6, Link { master: None, lower: Some(5) }),
        ]);
        let ssh = connection("198.51.100.7:52345", "10.0.1.10:22");
        let none = BTreeSet::new();
        for (index, expected) in [(2, true), (3, true), (4, false), (5, true), (6, true)] {
            assert_eq!(carried(&ssh, index, &none, &none, Some(6), &links), expected, "interface {index}");
        }
        assert!(!carried(&ssh, 6, &none, &none, Some(5), &links), "the VLAN is above the bridge, not below");
    }
}
