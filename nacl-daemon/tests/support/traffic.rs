//! A stream of frames at a rate that is kept, and receivers that count every frame that arrives, by kind. A kind is told by
//! the sender's link address, of which the programs know nothing; a frame is addressed to nobody's link address, so
//! that whoever receives it counts it and does no more. No policy here.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nacl_daemon::netns;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt},
};

use super::case::Case;

/// Bytes 2 to 5 of a generated frame's source link address; the last one is the number of its kind.
const MARK: u32 = 0x6163_6c00;

/// A packet as a frame of a kind.
pub fn frame(case: &Case, kind: u8) -> Vec<u8> {
    let (mut frame, _) = case.bytes();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    frame[6..8].copy_from_slice(&[2, 0]);
    frame[8..12].copy_from_slice(&(MARK | u32::from(kind)).to_be_bytes());
    frame
}

/// What was handed to a device, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// All of it.
    pub frames: Vec<u64>,
    /// What of it the kernel said at once that it dropped: a program at egress did, or the other end had no room.
    pub refused: Vec<u64>,
}

#[derive(Default)]
struct Tally {
    frames: Vec<AtomicU64>,
    refused: Vec<AtomicU64>,
    stop: AtomicBool,
    /// How often it was so late that it gave up the frames that were due.
    late: AtomicU64,
}

/// A sender: a cycle of frames, at a rate, until it is stopped or its bound is reached.
pub struct Stream {
    tally: Arc<Tally>,
    sender: Option<JoinHandle<io::Result<()>>>,
    begun: Instant,
}

/// The bound of every stream, whatever happens to whoever should stop it.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub frames: u64,
    pub time: Duration,
}

impl Stream {
    /// Begins to send on a device of a namespace. `cycle`: frames with their kinds, sent in this order again and again.
    pub fn start(netns: &str, device: &str, kinds: usize, cycle: Vec<(u8, Vec<u8>)>, rate: u32, bound: Bound) -> Self {
        let socket = netns::within(Some(netns), || sender(device)).expect("the namespace is entered");
        let numbers = || std::iter::repeat_with(AtomicU64::default).take(kinds).collect();
        let tally = Arc::new(Tally { frames: numbers(), refused: numbers(), ..Tally::default() });
        let shared = Arc::clone(&tally);
        let sender = thread::Builder::new()
            .name("stream".into())
            .spawn(move || send(&socket, &cycle, rate, bound, &shared))
            .expect("a thread");
        Self { tally, sender: Some(sender), begun: Instant::now() }
    }

    /// What was sent until now.
    pub fn handed(&self) -> Handed {
        let read = |all: &[AtomicU64]| all.iter().map(|one| one.load(Ordering::Relaxed)).collect();
        Handed { frames: read(&self.tally.frames), refused: read(&self.tally.refused) }
    }

    /// How often a second's frames were given up, because the sender was not given the time.
    pub fn late(&self) -> u64 {
        self.tally.late.load(Ordering::Relaxed)
    }

    /// Whether it still sends.
    pub fn runs(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_finished())
    }

    /// Ends it, and returns what was sent and how long it took.
    pub fn stop(mut self) -> (Handed, Duration) {
        self.tally.stop.store(true, Ordering::Relaxed);
        let sender = self.sender.take().expect("it is stopped once");
        sender.join().expect("the sender does not panic").expect("the sender's device stays");
        (self.handed(), self.begun.elapsed())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tally.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

/// A packet socket that only sends.
fn sender(device: &str) -> OwnedFd {
    let socket = super::veth::packet_socket(device);
    // Without a protocol nothing is received: what it sends itself would be handed back to it.
    bind(&socket, device, 0).expect("bound to nothing");
    socket
}

fn bind(socket: &OwnedFd, device: &str, protocol: u16) -> io::Result<()> {
    // SAFETY: a plain C structure, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = nix::net::if_::if_nametoindex(device)?.cast_signed();
    // SAFETY: an open socket, and an address of the length said.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Frame by frame: of a call for many the kernel does not say what became of the one at which it stopped.
fn send(socket: &OwnedFd, cycle: &[(u8, Vec<u8>)], rate: u32, bound: Bound, tally: &Tally) -> io::Result<()> {
    // The rate is to be kept while others want the machine too. For this thread only; where it is refused, the rate tells.
    // SAFETY: three numbers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -15) };
    let begun = Instant::now();
    // Frames that were handed over or given up.
    let mut done = 0_u64;
    let mut frames = cycle.iter().cycle();
    while !tally.stop.load(Ordering::Relaxed) && done < bound.frames && begun.elapsed() < bound.time {
        let due = (begun.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        if due <= done {
            thread::sleep(Duration::from_micros(200));
            continue;
        }
        if due - done > u64::from(rate) {
            // A burst of that length would measure the burst.
            tally.late.fetch_add(1, Ordering::Relaxed);
            done = due;
            continue;
        }
        for (kind, frame) in frames.by_ref().take((due - done).min(AT_ONCE) as usize) {
            match nix::unistd::write(socket, frame) {
                Ok(_) => {}
                // The device took the frame, and it was dropped there.
                Err(Errno::ENOBUFS) => _ = tally.refused[usize::from(*kind)].fetch_add(1, Ordering::Relaxed),
                Err(error) => return Err(error.into()),
            }
            tally.frames[usize::from(*kind)].fetch_add(1, Ordering::Relaxed);
            done += 1;
        }
    }
    Ok(())
}

/// Frames between two looks at the clock.
const AT_ONCE: u64 = 64;

/// Receivers on one device, one for each kind. Each is a packet socket that nobody reads: the kernel counts what its filter
/// admits, whether it has room for it or not, so the count is complete and costs next to nothing. They stand behind the
/// programs: behind XDP, and behind TC's ingress because they are bound to a protocol.
pub struct Taps {
    sockets: Vec<OwnedFd>,
    seen: Vec<u64>,
}

/// What a receiver counts.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// Frames of a kind, IPv6 or IPv4.
    Kind { number: u8, v6: bool },
    /// IPv4 frames that no stream sent.
    Others,
}

impl Taps {
    /// Begins to count on a device of a namespace.
    pub fn new(netns: &str, device: &str, which: &[Which]) -> Self {
        let sockets = netns::within(Some(netns), || which.iter().map(|which| tap(device, *which)).collect())
            .expect("the namespace is entered");
        Self { sockets, seen: vec![0; which.len()] }
    }

    /// What has arrived until now, in the order of the kinds.
    pub fn seen(&mut self) -> &[u64] {
        for (socket, seen) in self.sockets.iter().zip(&mut self.seen) {
            // The kernel begins again from nought whenever it is asked.
            *seen += u64::from(statistics(socket));
        }
        &self.seen
    }
}

/// Frames that the filter admitted since this was asked before.
fn statistics(socket: &OwnedFd) -> u32 {
    /// `struct tpacket_stats`: `packets` has those in it that there was no room for.
    #[repr(C)]
    #[derive(Default)]
    struct Statistics {
        packets: u32,
        drops: u32,
    }
    let mut statistics = Statistics::default();
    let mut length = size_of::<Statistics>() as libc::socklen_t;
    // SAFETY: an open socket, and room of the length said.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    statistics.packets
}

fn tap(device: &str, which: Which) -> OwnedFd {
    let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).expect("a packet socket");
    // As little room as there is: a frame that is kept costs more than one that is counted.
    setsockopt(&tap.as_fd(), sockopt::RcvBuf, &1).expect("a small buffer");
    // Load four bytes of the source link address.
    let load = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 8);
    let equal = |value, yes, no| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let answer = |value| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let program = match which {
        Which::Kind { number, .. } => {
            vec![load, equal(MARK | u32::from(number), 0, 1), answer(1), answer(0)]
        }
        Which::Others => {
            let mask = instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0xffff_ff00);
            vec![load, mask, equal(MARK, 0, 1), answer(0), answer(1)]
        }
    };
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: an open socket, and a program that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            tap.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    let protocol = if matches!(which, Which::Kind { v6: true, .. }) { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
    bind(&tap, device, protocol.cast_unsigned() as u16).expect("bound to the device");
    tap
}

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// A device's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub received: u64,
    /// Of what arrived: what was lost before or behind the programs.
    pub receive_dropped: u64,
    pub sent: u64,
    /// Of what was sent: what the other end had no room for.
    pub send_dropped: u64,
}

impl Device {
    /// Of a device of a namespace.
    pub fn of(netns: &str, device: &str) -> Self {
        let text = netns::within(Some(netns), || fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("the namespace is entered")
            .expect("the kernel tells");
        let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
        let numbers: Vec<u64> = line
            .unwrap_or_else(|| panic!("no {device} in {netns}"))
            .split_whitespace()
            .map(|number| number.parse().expect("a number"))
            .collect();
        Self { received: numbers[1], receive_dropped: numbers[3], sent: numbers[9], send_dropped: numbers[11] }
    }

    /// What came since.
    pub const fn since(self, before: Self) -> Self {
        Self {
            received: self.received - before.received,
            receive_dropped: self.receive_dropped - before.receive_dropped,
            sent: self.sent - before.sent,
            send_dropped: self.send_dropped - before.send_dropped,
        }
    }
}
