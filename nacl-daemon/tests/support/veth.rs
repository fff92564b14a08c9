//! Two network namespaces of our own, joined by one cable, for tests that attach to real interfaces. They have no route
//! out, and go with the value. The programs stand in `here` on `near`; traffic comes from and goes to `there`.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nacl_daemon::{dataplane::Target, lab::net::Namespace, netns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The interface under test.
pub const NEAR: &str = "near";
/// Its other end.
pub const FAR: &str = "far";
/// Address of the interface under test.
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Address of the other end.
pub const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// The cable.
pub struct Cable {
    pub here: String,
    pub there: String,
    /// They go with the value.
    _namespaces: [Namespace; 2],
}

impl Cable {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: no argument, no failure.
        assert_eq!(unsafe { libc::geteuid() }, 0, "this test needs root: run it by `cargo xtask test`");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespaces =
            ["here", "there"].map(|end| Namespace::new("test", &format!("{number}.{end}")).expect("a namespace"));
        for namespace in &namespaces {
            // Neighbour discovery and MLD would move counters at times of their own.
            namespace.set(&[("net/ipv6/conf/default/disable_ipv6", "1")]).expect("the setting is written");
        }
        let [here, there] = [&namespaces[0], &namespaces[1]].map(|namespace| namespace.name().to_owned());
        let cable = Self { here, there, _namespaces: namespaces };
        cable.plug();
        cable
    }

    /// Puts both ends in.
    pub fn plug(&self) {
        ip(&["-n", &self.here, "link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", &self.there]);
        for (netns, interface, address) in [(&self.here, NEAR, HERE), (&self.there, FAR, THERE)] {
            ip(&["-n", netns, "address", "add", &format!("{address}/24"), "dev", interface]);
            ip(&["-n", netns, "link", "set", "lo", "up"]);
            ip(&["-n", netns, "link", "set", interface, "up"]);
        }
    }

    pub fn target(&self) -> Target {
        Target { name: NEAR.into(), netns: Some(self.here.clone()) }
    }

    /// Makes the two know each other's addresses, so that no ARP is needed.
    pub fn acquaint(&self) {
        for (netns, interface, other_netns, other, address) in
            [(&self.here, NEAR, &self.there, FAR, THERE), (&self.there, FAR, &self.here, NEAR, HERE)]
        {
            let mac = mac(other_netns, other);
            ip(&["-n", netns, "neigh", "replace", &address.to_string(), "lladdr", &mac, "dev", interface]);
        }
    }

    /// Sends datagrams from `there` to a port here, and returns how many arrive.
    pub fn inbound(&self, port: u16, count: usize) -> usize {
        datagrams((&self.there, THERE), (&self.here, HERE), port, count)
    }

    /// Sends datagrams from here to a port `there`, and returns how many arrive.
    pub fn outbound(&self, port: u16, count: usize) -> usize {
        datagrams((&self.here, HERE), (&self.there, THERE), port, count)
    }
}

fn mac(netns: &str, interface: &str) -> String {
    let text = ip(&["-n", netns, "-br", "link", "show", "dev", interface]);
    text.split_whitespace().nth(2).expect("an address").to_owned()
}

/// Puts a frame on the cable as it is, at an end.
pub fn frame(netns: &str, interface: &str, frame: &[u8]) {
    netns::within(Some(netns), || {
        let socket = packet_socket(interface);
        let sent = nix::unistd::write(&socket, frame).expect("the frame is sent");
        assert_eq!(sent, frame.len());
    })
    .expect("the namespace is entered");
}

/// Runs `ip`, and returns what it prints.
pub fn ip(arguments: &[&str]) -> String {
    run("ip", arguments)
}

/// Runs a program of iproute2, and returns what it prints.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed (`cargo xtask setup` installs it): {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A socket on a port. The one before it may still be open for a moment: in a child of another test that has been forked and
/// has not begun its program yet.
fn bound(address: Ipv4Addr, port: u16) -> UdpSocket {
    let start = Instant::now();
    loop {
        match UdpSocket::bind((IpAddr::V4(address), port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound.expect("a port"),
        }
    }
}

fn datagrams(from: (&str, Ipv4Addr), to: (&str, Ipv4Addr), port: u16, count: usize) -> usize {
    let receiver = netns::within(Some(to.0), || bound(to.1, port)).expect("the namespace is entered");
    receiver.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    netns::within(Some(from.0), || {
        let sender = UdpSocket::bind((IpAddr::V4(from.1), 0)).expect("a port");
        for _ in 0..count {
            sender.send_to(b"nacld", (to.1, port)).expect("a datagram leaves");
        }
    })
    .expect("the namespace is entered");
    let mut buffer = [0; 16];
    (0..count).take_while(|_| receiver.recv(&mut buffer).is_ok()).count()
}

/// A packet socket bound to an interface of the calling thread's namespace.
pub fn packet_socket(interface: &str) -> OwnedFd {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).expect("a packet socket");
    // SAFETY: a plain C structure, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = nix::net::if_::if_nametoindex(interface).expect("the interface").cast_signed();
    // SAFETY: an open socket, and an address of the length said.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    socket
}
