//! End to end over a veth pair between two namespaces: frames from a generator on one CPU, dropped at the other end on
//! another; and one TCP stream of iperf3 through rules that allow it. Of a figure, everything that moves the packets is part.

use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nacl_common::Action;
use nacl_daemon::{
    compile::compile,
    dataplane::{Attachment, Events, Ingress, Options, attach},
    resolve::{Group, GroupRule, Interface, Layers, Mode, Nacl, Peer as Other, Protocol, Rule, Xdp},
};
use nix::unistd::Pid;

use crate::{
    Plan, Scale,
    kernel::{self, Kernel},
    out::Out,
    peers::Peer,
    place::{self, Place, pin},
    row::{Cell, Row, measure},
    rules::{self, Entry},
};

/// Everything there is to measure this way.
pub fn run(plan: &Plan, out: &mut Out) -> Result<()> {
    place::clean_up()?;
    flood(plan, out).context("generator")?;
    streams(plan, out).context("iperf3")
}

/// What stands at the near end while something is measured. It is only held.
#[expect(dead_code, reason = "what it holds is there as long as it is")]
enum Standing {
    Nothing,
    Bare(Kernel),
    Nacld(Box<Attachment>),
}

/// Puts nacld on the near end, in the driver.
fn nacld(place: &Place, interface: &Interface) -> Result<Attachment> {
    let interface = Interface { xdp: Xdp::Native, ..interface.clone() };
    let options = Options { events: Events::None, ..Options::from(&interface) };
    let attached = attach(&place.target(), &options, &compile(&interface, None)?)?;
    ensure!(attached.hooks().ingress == Ingress::Native, "not in the driver: {}", attached.hooks());
    Ok(attached)
}

fn bare(place: &Place, name: &str) -> Result<Standing> {
    let mut kernel = Kernel::load()?;
    place.attach(&mut kernel, name)?;
    Ok(Standing::Bare(kernel))
}

/// The CPU that sends and the one that receives: two that are online.
fn cpus() -> Option<(usize, usize)> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let numbers: BTreeSet<usize> = online
        .trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect();
    let mut numbers = numbers.into_iter();
    let receiver = numbers.next()?;
    Some((numbers.next()?, receiver))
}

/// Frames of 64 bytes that the list denies. The generator is the kernel's own (live frames that a program sends out by the
/// far end, as `xdp-trafficgen` of xdp-tools does): a packet socket takes several times as long for a frame as what is
/// measured. What the near end is too slow for is lost at the cable, so the figure is that of the slower side.
fn flood(plan: &Plan, out: &mut Out) -> Result<()> {
    let Some((sender, receiver)) = cpus() else {
        return out.missing("e2e: generator", "it takes two CPUs, one to send and one to receive");
    };
    let (rounds, time, sizes): (_, _, &[usize]) = match plan.scale {
        Scale::Smoke => (1, Duration::from_millis(1), &[20]),
        Scale::Quick => (2, Duration::from_millis(40), &[20, 1000]),
        Scale::Full => (10, Duration::from_millis(200), &[20, 100, 1000]),
    };
    let mut cells = Vec::new();
    for (variant, name) in [("nothing", None), ("bare", Some("bare")), ("drop", Some("drop"))] {
        let place = Place::pair(variant)?;
        let standing = name.map_or(Ok(Standing::Nothing), |name| bare(&place, name))?;
        let mut row = Row::new("bare", "e2e", "stateless", 4, 0, "hot");
        row.detail.variant = Some(variant);
        let dropped = variant == "drop";
        cells.push(flooded(row, place, standing, dropped, sender, receiver, time)?);
    }
    for &size in sizes {
        let entries = rules::entries(4, size);
        let place = Place::pair(&format!("xdp.{size}"))?;
        let standing = Standing::Nacld(Box::new(nacld(&place, &rules::interface(&entries))?));
        let row = Row::new("xdp", "e2e", "stateless", 4, size, "hot");
        cells.push(flooded(row, place, standing, true, sender, receiver, time)?);
        for peer in [Peer::NftOrdered, Peer::NftSet, Peer::IptablesLegacy] {
            if let Some(why) = peer.missing() {
                out.missing(&format!("e2e: {}", peer.name()), &why)?;
                continue;
            }
            // For the shape of a peer's cost two numbers will do.
            if size == 100 {
                continue;
            }
            let place = Place::pair(&format!("{}.{size}", peer.word()))?;
            peer.load(&place, 4, &entries, false)?;
            let row = Row::new(peer.subject(), "e2e", "stateless", 4, size, "hot");
            cells.push(flooded(row, place, Standing::Nothing, false, sender, receiver, time)?);
        }
    }
    out.say(&format!("generator: {} figures, {rounds} rounds", cells.len()));
    measure(cells, rounds)?.iter().try_for_each(|row| out.row(row))
}

/// `dropped`: no frame may come to the stack; otherwise every one must.
fn flooded(
    row: Row,
    place: Place,
    standing: Standing,
    dropped: bool,
    sender: usize,
    receiver: usize,
    time: Duration,
) -> Result<Cell<'static>> {
    const FIRST: u32 = 4096;
    const MOST: u128 = 4 << 20;
    place.receive_on(|thread| pin(thread, receiver))?;
    let mut generator = Kernel::generator(place.far_index()?)?;
    let frame = rules::frame(rules::hot(4), 16);
    let mut frames = FIRST;
    let name = format!("{} {:?}", row.subject, row.detail.variant);
    let take = move || {
        let _held = &standing;
        loop {
            let (arrived, stack) = (place.arrived()?, place.received(4)?);
            let one = place.beyond(|| {
                pin(Pid::from_raw(0), sender)?;
                kernel::live(generator.xdp("generate")?, &frame, 0, frames)
            })??;
            let sent = one * frames;
            let now = settled(&place)?;
            let (arrived, stack) = (now.0 - arrived, now.1 - stack);
            ensure!(arrived > 0, "{name}: of {frames} frames none has arrived");
            let expected = if dropped { 0 } else { arrived };
            ensure!(stack == expected, "{name}: of {arrived} frames {stack} came to the stack, and not {expected}");
            let wanted = (time.as_nanos() / one.as_nanos().max(1)).clamp(FIRST.into(), MOST) as u32;
            // The first figure says how many it takes, and is not one yet.
            if frames >= wanted / 2 {
                return Ok(sent.as_nanos() as f64 / arrived as f64);
            }
            frames = wanted;
        }
    };
    Ok(Cell { row, take: Box::new(take) })
}

/// What has arrived, and what has come to the stack, once the last frames of the ring have done so too.
fn settled(place: &Place) -> Result<(u64, u64)> {
    let mut last = None;
    for _ in 0..400 {
        thread::sleep(Duration::from_millis(5));
        let now = (place.arrived()?, place.received(4)?);
        if last == Some(now) {
            return Ok(now);
        }
        last = Some(now);
    }
    anyhow::bail!("frames still arrive long after the last one was sent")
}

const PORT: u16 = 5201;
const HERE: &str = "10.77.0.1";
const THERE: &str = "10.77.0.2";
const NET: &str = "10.77.0.0/24";
/// Where the answers go.
const EPHEMERAL: (u16, u16) = (1024, u16::MAX);
/// Rules of the list; the last one allows.
const RULES: usize = 20;

/// One TCP stream towards the near end, by default settings: MTU 1500, offloads as a veth has them.
fn streams(plan: &Plan, out: &mut Out) -> Result<()> {
    if let Some(why) = place::lacks("iperf3", "iperf3") {
        return out.missing("e2e: iperf3", &why);
    }
    let (rounds, seconds) = match plan.scale {
        Scale::Smoke => (1, None),
        Scale::Quick => (1, Some(1)),
        Scale::Full => (8, Some(2)),
    };
    let mut cells = Vec::new();
    for (variant, subject) in [("nothing", None), ("bare", Some("bare"))] {
        let place = connected(variant)?;
        let standing = subject.map_or(Ok(Standing::Nothing), |name| bare(&place, name))?;
        let variant = if subject.is_none() { "iperf3, nothing" } else { "iperf3" };
        cells.push(streamed("bare", "stateless", None, variant, place, standing, seconds));
    }
    for (mode, layers) in [("stateless", None), ("established", None), ("established", Some("groups"))] {
        let place = connected(&format!("xdp.{mode}.{}", layers.unwrap_or("nacl")))?;
        let standing = Standing::Nacld(Box::new(nacld(&place, &interface(mode, layers.is_some()))?));
        cells.push(streamed("xdp", mode, layers, "iperf3", place, standing, seconds));
    }
    for peer in [Peer::NftOrdered, Peer::IptablesLegacy] {
        if let Some(why) = peer.missing() {
            out.missing(&format!("e2e: iperf3 through {}", peer.name()), &why)?;
            continue;
        }
        for mode in ["stateless", "established"] {
            let place = connected(&format!("{}.{mode}", peer.word()))?;
            peer.serve(&place, &inbound(), (NET, EPHEMERAL), mode == "established")?;
            cells.push(streamed(peer.subject(), mode, None, "iperf3", place, Standing::Nothing, seconds));
        }
    }
    out.say(&format!("iperf3: {} figures, {rounds} rounds", cells.len()));
    measure(cells, rounds)?.iter().try_for_each(|row| out.row(row))
}

fn connected(name: &str) -> Result<Place> {
    let place = Place::pair(&format!("iperf.{name}"))?;
    place.ip(&format!("addr add {HERE}/24 dev {}\n", place::NEAR))?;
    place.ip_beyond(&format!("addr add {THERE}/24 dev {}\n", place::FAR))?;
    Ok(place)
}

/// What lets the stream in, behind others that do not match.
fn inbound() -> Vec<Entry> {
    let mut entries = rules::entries(4, RULES);
    entries.pop();
    let cidr = NET.parse().expect("a prefix");
    entries.push(Entry { cidr, ports: (PORT, PORT), action: Action::Allow });
    entries
}

fn interface(mode: &str, groups: bool) -> Interface {
    let net: IpNet = NET.parse().expect("a prefix");
    let inbound = rules::interface(&inbound());
    let out = Rule {
        number: 1,
        action: Action::Allow,
        protocol: Protocol::Number(6),
        ports: Some(EPHEMERAL),
        icmp: None,
        cidr: net,
        reference: None,
        description: None,
        line: 1,
        span: 0..0,
    };
    let outbound = if mode == "stateless" { vec![out] } else { Vec::new() };
    let nacl = Nacl { outbound, ..(*inbound.nacl).clone() };
    let mut interface = Interface::new(place::NEAR, Arc::new(nacl));
    if groups {
        let rule = |entry: Entry| {
            let (ports, cidr) = (Some(entry.ports), entry.cidr);
            GroupRule { line: 1, ..GroupRule::new(Protocol::Number(6), ports, Other::Cidr(cidr), vec![cidr]) }
        };
        let allowed = self::inbound().into_iter().filter(|entry| entry.action == Action::Allow);
        let inbound = allowed.map(rule).collect();
        interface.groups =
            Some(vec![Arc::new(Group { name: "bench".into(), id: None, inbound, outbound: Vec::new() })]);
        interface.layers = Layers::Groups;
    } else if mode == "established" {
        interface.mode = Mode::Stateful;
    }
    interface
}

fn streamed(
    subject: &'static str,
    mode: &'static str,
    layers: Option<&'static str>,
    variant: &'static str,
    place: Place,
    standing: Standing,
    seconds: Option<u32>,
) -> Cell<'static> {
    let rules = if subject == "bare" { 0 } else { RULES };
    let mut row = Row::new(subject, "e2e", mode, 4, rules, "hot");
    row.detail.variant = Some(variant);
    row.detail.layers = layers;
    let take = move || {
        let rate = stream(&place, seconds).with_context(|| format!("{subject}, {mode}"))?;
        if let Standing::Nacld(attached) = &standing {
            let met = attached.counters()?;
            ensure!(!met.slots.is_empty(), "nacld has seen nothing of the stream");
        }
        Ok(rate)
    };
    Cell { row, take: Box::new(take) }
}

/// Has iperf3 send a stream to the near end; nanoseconds for 1500 bytes of payload.
fn stream(place: &Place, seconds: Option<u32>) -> Result<f64> {
    let cpus = cpus();
    let [sender, receiver] = cpus.map_or([None, None], |(sender, receiver)| [Some(sender), Some(receiver)]);
    let affinity = |cpu: Option<usize>| cpu.map(|cpu| ["-A".to_owned(), cpu.to_string()]).into_iter().flatten();
    let text = place.within(|| {
        let mut command = place::command("iperf3");
        command.args(["-s", "-1", "-B", HERE]).args(affinity(receiver));
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let _server = Server(server);
        listening()?;
        let mut arguments: Vec<String> = ["-c", HERE, "-J", "--connect-timeout", "2000"].map(str::to_owned).into();
        match seconds {
            Some(seconds) => arguments.extend(["-t".to_owned(), seconds.to_string()]),
            None => arguments.extend(["-n".to_owned(), "4M".to_owned()]),
        }
        arguments.extend(affinity(sender));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        place.beyond(|| place::run("iperf3", &arguments, ""))?
    })??;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let rate = value["end"]["sum_received"]["bits_per_second"].as_f64().context("no rate in iperf3's answer")?;
    ensure!(rate > 0.0, "iperf3 moved nothing");
    Ok(1500.0 * 8.0 / rate * 1e9)
}

/// A server that serves one client; ended where none came.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something listens in the calling thread's namespace.
fn listening() -> Result<()> {
    let port = format!(":{PORT:04X}");
    let start = Instant::now();
    loop {
        let text = fs::read_to_string("/proc/thread-self/net/tcp")?;
        let listens = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
        };
        if text.lines().any(listens) {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(3), "iperf3 -s does not listen");
        thread::sleep(Duration::from_millis(10));
    }
}
