//! What a lab's hosts serve: sockets opened inside their namespaces, answered by one small runtime; load balancers are
//! `relay`'s. Knows no policy.
//!
//! A connection that is given up is reset at once: a socket that is merely closed would go on sending what nobody waits for,
//! and its packets would be counted to whatever is tried next.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use nacl_common::Family;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Runtime,
    time::timeout,
};

use super::{
    Lab,
    file::{Answers, Service, Transport},
    net::Net,
    relay::{self, Haproxy, Proxy, Relayed},
};
use crate::netns;

/// How long a server waits for a client to say or end something.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest request that is read.
const REQUEST: usize = 8 << 10;

/// The services of a lab, running. Their sockets are closed when dropped.
#[derive(Default)]
pub struct Services {
    _runtime: Option<Runtime>,
    _proxies: Vec<Haproxy>,
}

impl Services {
    /// Opens every service of every host.
    ///
    /// # Errors
    /// A socket cannot be opened in its namespace, or a proxy does not start.
    pub fn start(lab: &Lab, net: &Net, proxy: Proxy) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("services")
            .enable_all()
            .build()?;
        let haproxy = relay::haproxy().filter(|_| proxy == Proxy::Best);
        let mut proxies = Vec::new();
        for (name, host) in &lab.hosts {
            let namespace = net.namespace(name);
            let relayed: Vec<Relayed> = host.services.iter().flat_map(|service| relayed(lab, service)).collect();
            if let (Some(program), false) = (&haproxy, relayed.is_empty()) {
                proxies.push(Haproxy::start(program, namespace, &relayed)?);
            }
            for service in host.services.iter().filter(|service| service.answers != Answers::Relay) {
                let content: Arc<[u8]> = content(name, service).into();
                for address in every_address(service.port) {
                    let socket = netns::within(Some(namespace), || open(service.protocol, address))??;
                    let content = Arc::clone(&content);
                    let _inside = runtime.enter();
                    match service.protocol {
                        Transport::Tcp => {
                            let answers = service.answers;
                            let serve = move |stream| serve(stream, Arc::clone(&content), answers);
                            runtime.spawn(listen(TcpListener::from_std(socket.into())?, serve));
                        }
                        Transport::Udp => {
                            let socket = UdpSocket::from_std(socket.into())?;
                            runtime.spawn(echo(socket, content, service.answers));
                        }
                    }
                }
            }
            for Relayed { listen: address, target } in relayed.into_iter().filter(|_| haproxy.is_none()) {
                let socket = netns::within(Some(namespace), || open(Transport::Tcp, address))??;
                let namespace: Arc<str> = namespace.into();
                let _inside = runtime.enter();
                let relay = move |stream| {
                    let namespace = Arc::clone(&namespace);
                    async move { relay::relay(stream, &namespace, target).await }
                };
                runtime.spawn(listen(TcpListener::from_std(socket.into())?, relay));
            }
        }
        Ok(Self { _runtime: Some(runtime), _proxies: proxies })
    }
}

/// What a relay listens on and leads to, by family.
fn relayed(lab: &Lab, service: &Service) -> Vec<Relayed> {
    let Some(to) = &service.to else { return Vec::new() };
    let target = |listen: SocketAddr| {
        let family = if listen.is_ipv4() { Family::V4 } else { Family::V6 };
        let address = lab.host(&to.host).address(family)?;
        Some(Relayed { listen, target: (address, to.port).into() })
    };
    every_address(service.port).into_iter().filter_map(target).collect()
}

/// Everywhere, in each family.
fn every_address(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

fn open(protocol: Transport, address: SocketAddr) -> io::Result<Socket> {
    let (kind, number) = match protocol {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(number))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A program that another thread starts holds a copy of every socket, also of the one that was closed here a moment ago, until it
    // has become that program.
    let mut left = 100;
    while let Err(error) = socket.bind(&address.into()) {
        if error.kind() != io::ErrorKind::AddrInUse || left == 0 {
            return Err(error);
        }
        left -= 1;
        thread::sleep(Duration::from_millis(10));
    }
    if protocol == Transport::Tcp {
        socket.listen(512)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What a service says, ready to be sent.
fn content(host: &str, service: &Service) -> Vec<u8> {
    let text = service.text.clone().unwrap_or_else(|| format!("hello from {host}, port {}", service.port));
    match service.answers {
        Answers::Http => {
            let mut body = text.into_bytes();
            body.push(b'\n');
            if let Some(bytes) = service.bytes {
                let line = body.clone();
                body.extend(line.iter().cycle().take(bytes.saturating_sub(line.len())));
            }
            let mut page = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            )
            .into_bytes();
            page.append(&mut body);
            page
        }
        Answers::Banner => format!("{text}\r\n").into_bytes(),
        Answers::Echo | Answers::Relay => Vec::new(),
        Answers::Dns => text.parse::<Ipv4Addr>().unwrap_or(Ipv4Addr::LOCALHOST).octets().to_vec(),
    }
}

/// Serves every client that comes, each with as much patience as a download over a narrow link takes to find that out.
async fn listen<T>(listener: TcpListener, serve: impl Fn(TcpStream) -> T)
where
    T: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Given up or over, nothing is left to be sent.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                // A client that goes away in the middle is its own affair.
                tokio::spawn(timeout(PATIENCE * 4, serve(stream)));
            }
            // Out of descriptors, or a connection that was gone again: the next may be better.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, content: Arc<[u8]>, answers: Answers) -> io::Result<()> {
    if answers == Answers::Banner {
        stream.write_all(&content).await?;
        read_until(&mut stream, b"\n").await?;
    } else {
        read_until(&mut stream, b"\r\n\r\n").await?;
        stream.write_all(&content).await?;
    }
    stream.shutdown().await?;
    // Closing before the client has would reset the connection under what it still has to read.
    let mut rest = [0; 512];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while request.len() < REQUEST && !request.windows(end.len()).any(|window| window == end) {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await??;
        if read == 0 {
            break;
        }
        request.extend_from_slice(&buffer[..read]);
    }
    Ok(())
}

async fn echo(socket: UdpSocket, content: Arc<[u8]>, answers: Answers) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let answer = match answers {
            Answers::Dns => dns(&buffer[..length], &content),
            _ => Some(buffer[..length].to_vec()),
        };
        if let Some(answer) = answer {
            // An answer that cannot be sent is a lost packet.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// Answers a DNS query with one address for whatever was asked; an IPv4 address also where an IPv6 one was asked for is
/// no answer, so then there is none in it.
fn dns(query: &[u8], address: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let header = query.get(..HEADER)?;
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let question = query.get(HEADER..end + 5)?;
    let is_a = question.ends_with(&[0, 1, 0, 1]);
    let mut answer = header[..2].to_vec();
    answer.extend([0x84, 0x00, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_a {
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_answers_what_was_asked() {
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03org\x00\x00\x01\x00\x01";
        let answer = dns(query, &[192, 0, 2, 1]).expect("an answer");
        assert_eq!(answer[..8], [0x12, 0x34, 0x84, 0, 0, 1, 0, 1]);
        assert!(answer.ends_with(&[0, 4, 192, 0, 2, 1]));
        let aaaa = [&query[..query.len() - 4], &[0, 28, 0, 1]].concat();
        assert_eq!(dns(&aaaa, &[192, 0, 2, 1]).expect("an answer")[7], 0, "no IPv4 address for an IPv6 question");
        for length in 0..query.len() {
            assert_eq!(dns(&query[..length], &[192, 0, 2, 1]), None, "a query cut at {length}");
        }
    }
}
