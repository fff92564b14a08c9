//! A probe as a client: real sockets, opened inside the client's namespace. Says what the client noticed and no more;
//! why, others must find out. Knows no policy.

use std::{
    io::{self, ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::file::ProbeProtocol;
use crate::netns;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// How.
    pub protocol: ProbeProtocol,
    /// From which address.
    pub from: IpAddr,
    /// From which port; 0: one the system picks.
    pub source_port: u16,
    /// Whom.
    pub to: SocketAddr,
    /// How long to wait, for a connection and again for an answer.
    pub patience: Duration,
    /// Of a download under which something is changed: tells how far it is, and holds it back until that is done.
    pub gate: Option<&'a Gate>,
}

/// Lets somebody change something in the middle of a download.
///
/// Until it is opened the client reads so much and no more: whoever sends has to wait for it with the rest in hand.
#[derive(Debug, Default)]
pub struct Gate {
    full: AtomicBool,
    open: AtomicBool,
}

impl Gate {
    /// The client has read what it reads while the gate is closed.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Lets the client read on.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Reads what may be read before it is opened, then waits for that.
    fn pass(&self, socket: &mut Socket, answer: &mut Vec<u8>) -> io::Result<()> {
        const HELD: usize = 64 << 10;
        let mut buffer = [0; 4 << 10];
        while answer.len() < HELD {
            let read = socket.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            answer.extend_from_slice(&buffer[..read]);
        }
        self.full.store(true, Ordering::Release);
        while !self.open.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Room for what a client behind a gate has not read: little, so that the sender has to wait for it.
const GATED_ROOM: usize = 32 << 10;

/// What the client noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// The whole answer; what it says first.
    Answer(String),
    /// Nothing.
    Silence,
    /// A connection, and then nothing, or an answer that broke off.
    Stall,
    /// Somebody or something said no.
    Error(String),
}

/// Asks from inside a namespace. Returns what was noticed, and the source port (0 for ICMP).
///
/// # Errors
/// The socket cannot be made or bound: nothing was asked.
pub fn ask(namespace: &str, question: &Question<'_>) -> io::Result<(Noticed, u16)> {
    // A socket belongs to the namespace it was opened in, whoever uses it afterwards.
    let socket = netns::within(Some(namespace), || open(question))??;
    go(socket, question)
}

/// Asks the same many times at once.
///
/// # Errors
/// A socket cannot be made: nothing was asked.
pub fn ask_often(namespace: &str, question: &Question<'_>, times: usize) -> io::Result<Vec<Noticed>> {
    /// A thread that waits needs little.
    const STACK: usize = 128 << 10;
    let sockets: Vec<Socket> =
        netns::within(Some(namespace), || (0..times).map(|_| open(question)).collect::<io::Result<_>>())??;
    thread::scope(|scope| {
        let ask = |socket| {
            let thread = thread::Builder::new().name("asking".into()).stack_size(STACK);
            thread.spawn_scoped(scope, || Ok(go(socket, question)?.0))
        };
        let asking = sockets.into_iter().map(ask).collect::<io::Result<Vec<_>>>()?;
        asking.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn go(socket: Socket, question: &Question<'_>) -> io::Result<(Noticed, u16)> {
    match question.protocol {
        ProbeProtocol::Tcp => Ok(tcp(socket, question)),
        ProbeProtocol::Udp => udp(&socket, question),
        ProbeProtocol::Icmp => Ok((echo(&socket, question)?, 0)),
        ProbeProtocol::Sctp => Err(io::Error::new(ErrorKind::Unsupported, "SCTP has no wire form")),
    }
}

fn open(question: &Question<'_>) -> io::Result<Socket> {
    let (kind, number) = match (question.protocol, question.to) {
        (ProbeProtocol::Udp, _) => (Type::DGRAM, Protocol::UDP),
        (ProbeProtocol::Icmp, SocketAddr::V4(_)) => (Type::DGRAM, Protocol::ICMPV4),
        (ProbeProtocol::Icmp, SocketAddr::V6(_)) => (Type::DGRAM, Protocol::ICMPV6),
        _ => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(question.to), kind, Some(number))?;
    if question.gate.is_some() {
        socket.set_recv_buffer_size(GATED_ROOM)?;
    }
    if question.source_port != 0 {
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(question.from, question.source_port).into())?;
    }
    Ok(socket)
}

fn port(socket: &Socket) -> u16 {
    socket.local_addr().ok().and_then(|address| address.as_socket()).map_or(0, |address| address.port())
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

fn tcp(mut socket: Socket, question: &Question<'_>) -> (Noticed, u16) {
    let connected = socket.connect_timeout(&question.to.into(), question.patience);
    let port = port(&socket);
    // Ends with a reset, so that no side keeps the connection: the same ports are used again soon.
    let _ = socket.set_linger(Some(Duration::ZERO));
    let noticed = match connected {
        Err(error) if is_time_out(&error) => Noticed::Silence,
        Err(error) => Noticed::Error(error.to_string()),
        Ok(()) => exchange(&mut socket, question).unwrap_or_else(|error| {
            if is_time_out(&error) { Noticed::Stall } else { Noticed::Error(error.to_string()) }
        }),
    };
    (noticed, port)
}

fn exchange(socket: &mut Socket, question: &Question<'_>) -> io::Result<Noticed> {
    socket.set_read_timeout(Some(question.patience))?;
    socket.set_write_timeout(Some(question.patience))?;
    socket.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    if let Some(gate) = question.gate {
        gate.pass(socket, &mut answer)?;
    }
    socket.read_to_end(&mut answer)?;
    let (whole, body) = match answer.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(header) => {
            let length = String::from_utf8_lossy(&answer[..header])
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
            (length == Some(answer.len() - header - 4), &answer[header + 4..])
        }
        None => (answer.ends_with(b"\r\n"), answer.as_slice()),
    };
    let first = String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned();
    Ok(if whole { Noticed::Answer(first) } else { Noticed::Stall })
}

fn udp(socket: &Socket, question: &Question<'_>) -> io::Result<(Noticed, u16)> {
    socket.connect(&question.to.into())?;
    // A question any of the lab's UDP services can answer: a DNS query for lab.
    let query = b"\x4e\x41\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03lab\x00\x00\x01\x00\x01";
    let port = port(socket);
    Ok((exchange_datagram(socket, query, question, |answer| answer.starts_with(&query[..2]))?, port))
}

fn echo(socket: &Socket, question: &Question<'_>) -> io::Result<Noticed> {
    socket.connect(&question.to.into())?;
    let (request, reply) = if question.to.is_ipv4() { (8, 0) } else { (128, 129) };
    // The kernel fills in checksum and identifier.
    let packet = [[request, 0, 0, 0, 0, 0, 0, 1].as_slice(), b"nacld lab"].concat();
    exchange_datagram(socket, &packet, question, |answer| answer.first() == Some(&reply))
}

fn exchange_datagram(
    socket: &Socket,
    request: &[u8],
    question: &Question<'_>,
    is_answer: impl Fn(&[u8]) -> bool,
) -> io::Result<Noticed> {
    let end = Instant::now() + question.patience;
    if let Err(error) = socket.send(request) {
        return Ok(Noticed::Error(error.to_string()));
    }
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Noticed::Silence);
        }
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut buffer = [MaybeUninit::uninit(); 2048];
        match socket.recv(&mut buffer) {
            Ok(length) => {
                // SAFETY: `recv` has written that many bytes.
                let answer: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
                if is_answer(&answer) {
                    return Ok(Noticed::Answer(String::new()));
                }
            }
            Err(error) if is_time_out(&error) => {}
            Err(error) => return Ok(Noticed::Error(error.to_string())),
        }
    }
}
