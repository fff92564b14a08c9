//! What both runs need: two interfaces under load in both directions, long-lived TCP connections through them, and the account of
//! every frame. It knows what the kinds of packets are, and nothing of why the daemon is disturbed meanwhile.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use nacl_common::{Direction, Reason};
use nacl_daemon::{
    netns,
    observe::{Number, Status},
    service::api::Rules,
};
use serde::Serialize;

use super::{
    measure::{LONGEST, Plan},
    policies::{self, Kind, LANES, PORT, SAME},
};
use crate::support::{
    place::PATIENCE,
    traffic::{Bound, Device, Handed, Stream, Taps, Which, frame},
    veth::{Cable, FAR, HERE, NEAR},
};

/// Both interfaces.
pub struct Scene {
    pub lanes: [Lane; 2],
    windows: Windows,
    /// When all streams had begun, and what had been sent by then.
    begun: (Instant, u64),
}

/// One interface.
pub struct Lane {
    pub name: &'static str,
    pub cable: Cable,
    ways: Option<[Way; 2]>,
    conversation: Option<Conversation>,
}

/// One direction of it.
struct Way {
    direction: Direction,
    kinds: Vec<Kind>,
    taps: Taps,
    stream: Option<Stream>,
    /// Its own end and the other one, before anything was sent.
    before: [Device; 2],
}

/// What became of the frames of a kind.
#[derive(Clone, Debug, Serialize)]
pub struct Fate {
    pub interface: &'static str,
    pub direction: &'static str,
    pub kind: &'static str,
    /// Whether it is to arrive.
    pub admitted: bool,
    pub sent: u64,
    /// What the other end had no room for, as the kernel counts it.
    pub lost: u64,
    pub arrived: u64,
}

/// What became of all frames.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    pub seconds: f64,
    pub sent: u64,
    /// Packets a second, over all of the run.
    pub rate: u64,
    /// The same, of the ten seconds in which there were fewest.
    pub slowest: u64,
    pub fates: Vec<Fate>,
    /// What else went through: the TCP connections.
    pub round_trips: u64,
    /// The longest of them, in milliseconds.
    pub longest_ms: u64,
    /// Frames that the kernel had no room for.
    pub lost: u64,
    /// Packets the programs counted, by interface: allowed, denied.
    pub counted: BTreeMap<String, (u64, u64)>,
}

impl Scene {
    /// Two cables, and nothing on them.
    pub fn new() -> Self {
        let lanes = LANES.map(|name| {
            let cable = Cable::new();
            cable.acquaint();
            Lane { name, cable, ways: None, conversation: None }
        });
        Self { lanes, windows: Windows::default(), begun: (Instant::now(), 0) }
    }

    /// The policies that take turns.
    pub fn policies(&self) -> [String; 2] {
        let [plain, tracked] = &self.lanes;
        policies::policies([&plain.cable.here, &tracked.cable.here])
    }

    /// Begins to send and to count. The first policy is in force: it admits what is remembered from then on.
    pub fn begin(&mut self, plan: &Plan) {
        // More than is wanted, by as much as a sender may be late.
        let rate = plan.rate.div_ceil(4) * 103 / 100;
        for lane in &mut self.lanes {
            lane.begin();
            lane.send(Direction::Inbound, rate);
        }
        for lane in &mut self.lanes {
            lane.wait_for_flows();
            // What answers them must not come first.
            lane.send(Direction::Outbound, rate);
            lane.conversation = Some(Conversation::new(&lane.cable));
        }
        self.begun = (Instant::now(), self.sent());
        self.windows = Windows::new(self.begun.1);
    }

    /// Frames that were sent until now.
    pub fn sent(&self) -> u64 {
        let ways = self.lanes.iter().flat_map(|lane| lane.ways.iter().flatten());
        ways.map(|way| way.stream.as_ref().map_or(0, |stream| stream.handed().frames.iter().sum())).sum()
    }

    /// Looks whether all is as it must be at any moment: what is denied has not arrived, and the rest goes on. Returns how
    /// many admitted frames have arrived.
    ///
    /// # Panics
    /// It is not. `when`: for the message.
    pub fn glance(&mut self, when: &str) -> u64 {
        let sent = self.sent();
        self.windows.note(sent);
        let mut arrived = 0;
        for lane in &mut self.lanes {
            let conversation = lane.conversation.as_ref().expect("it has begun");
            assert!(!conversation.thread.is_finished(), "{when}: the TCP connection through {} is cut", lane.name);
            for way in lane.ways.iter_mut().flatten() {
                let stream = way.stream.as_ref().expect("it has begun");
                assert!(stream.runs(), "{when}: the sender of {} {} has ended", lane.name, way.direction.name());
                let seen = way.taps.seen();
                for (kind, seen) in way.kinds.iter().zip(seen) {
                    let name = format!("{when}: {} {} {}", lane.name, way.direction.name(), kind.name);
                    assert!(kind.admitted || *seen == 0, "{name}: {seen} packets have passed that both policies deny");
                    arrived += if kind.admitted { *seen } else { 0 };
                }
            }
        }
        arrived
    }

    /// How often each TCP connection has gone there and back.
    pub fn round_trips(&self) -> Vec<u64> {
        self.lanes
            .iter()
            .map(|lane| lane.conversation.as_ref().map_or(0, |one| one.trips.load(Ordering::Relaxed)))
            .collect()
    }

    /// Ends all traffic, and accounts for every frame. `counted`: asks the daemon, once nothing moves any more. `None`: it has begun
    /// anew meanwhile, so that what is only remembered may have been denied for a moment.
    ///
    /// # Panics
    /// The account does not come out even.
    pub fn end(&mut self, counted: Option<impl FnOnce() -> (Status, Rules)>) -> Account {
        let mut trips = (0, Duration::ZERO);
        for lane in &mut self.lanes {
            let (count, longest) = lane.conversation.take().expect("it has begun").end();
            trips = (trips.0 + count, trips.1.max(longest));
        }
        let sent = self.sent();
        let seconds = self.begun.0.elapsed().as_secs_f64();
        let rate = rate(sent - self.begun.1, self.begun.0.elapsed());
        self.windows.note(sent);
        let handed: Vec<[Handed; 2]> = self.lanes.iter_mut().map(Lane::stop).collect();
        for lane in &self.lanes {
            lane.settle();
        }
        let told = counted.map(|counted| counted());
        let mut account = Account {
            seconds,
            sent,
            rate,
            slowest: self.windows.slowest().unwrap_or(rate),
            fates: Vec::new(),
            round_trips: trips.0,
            longest_ms: trips.1.as_millis() as u64,
            lost: 0,
            counted: BTreeMap::new(),
        };
        for (lane, handed) in self.lanes.iter_mut().zip(&handed) {
            let met = lane.account(handed, told.is_some(), &mut account);
            if let Some((status, rules)) = &told {
                lane.compare(&met, status, rules, &mut account);
            }
        }
        account
    }
}

impl Account {
    /// Fails where it was not the load that was asked for. The short form asks for none: it may be run beside anything.
    pub fn as_fast_as_asked(&self, plan: &Plan) {
        let rate = u64::from(plan.rate);
        assert!(
            plan.short || self.rate.min(self.slowest) >= rate,
            "only {} packets a second were sent, and {} in the slowest ten seconds: {rate} were asked for. The machine is too \
             slow or too busy; --rate takes less",
            self.rate,
            self.slowest
        );
    }
}

impl Lane {
    fn begin(&mut self) {
        let ends = [(&self.cable.here, NEAR), (&self.cable.there, FAR)];
        let way = |direction: Direction| {
            let kinds = policies::kinds(self.name, direction);
            let which = kinds.iter().zip(0..).map(|(kind, number)| Which::Kind { number, v6: kind.v6 });
            let which: Vec<_> = which.chain([Which::Others]).collect();
            // Where what was sent arrives: at the interface under test, or at the other end.
            let (own, other) = match direction {
                Direction::Inbound => (0, 1),
                Direction::Outbound => (1, 0),
            };
            let taps = Taps::new(ends[own].0, ends[own].1, &which);
            let before = [own, other].map(|end| Device::of(ends[end].0, ends[end].1));
            Way { direction, kinds, taps, stream: None, before }
        };
        self.ways = Some(Direction::ALL.map(way));
    }

    fn ends(&self, direction: Direction) -> [(&str, &'static str); 2] {
        let [near, far] = [(self.cable.here.as_str(), NEAR), (self.cable.there.as_str(), FAR)];
        match direction {
            Direction::Inbound => [near, far],
            Direction::Outbound => [far, near],
        }
    }

    fn send(&mut self, direction: Direction, rate: u32) {
        let [_, (netns, device)] = self.ends(direction);
        let netns = netns.to_owned();
        let ways = self.ways.as_mut().expect("it has begun");
        let way = ways.iter_mut().find(|way| way.direction == direction).expect("both");
        let longest = way.kinds.iter().map(|kind| kind.cases.len()).max().unwrap_or(0);
        let turn = |at: usize| {
            way.kinds
                .iter()
                .zip(0..)
                .map(move |(kind, number)| (number, frame(&kind.cases[at % kind.cases.len()], number)))
        };
        let cycle = (0..longest).flat_map(turn).collect();
        let bound = Bound { frames: u64::from(rate) * LONGEST.as_secs(), time: LONGEST };
        way.stream = Some(Stream::start(&netns, device, way.kinds.len(), cycle, rate, bound));
    }

    /// Waits until each kind that is to arrive has done so.
    fn wait_for_flows(&mut self) {
        let way = &mut self.ways.as_mut().expect("it has begun")[0];
        let start = Instant::now();
        loop {
            let seen = way.taps.seen().to_vec();
            let all = way.kinds.iter().zip(&seen).all(|(kind, seen)| !kind.admitted || *seen > 16);
            if all {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{}: {seen:?}", self.name);
            sleep(Duration::from_millis(10));
        }
    }

    fn stop(&mut self) -> [Handed; 2] {
        let ways = self.ways.as_mut().expect("it has begun");
        [0, 1].map(|at| ways[at].stream.take().expect("it has begun").stop().0)
    }

    /// Waits until nothing arrives any more.
    fn settle(&self) {
        let now = || Direction::ALL.map(|way| self.ends(way).map(|(netns, device)| Device::of(netns, device)));
        let start = Instant::now();
        let mut last = now();
        loop {
            sleep(Duration::from_millis(100));
            let next = now();
            if next == last {
                return;
            }
            last = next;
            assert!(start.elapsed() < PATIENCE, "{}: frames still move: {last:?}", self.name);
        }
    }

    /// What became of the frames of each kind, and what the programs must have met of it.
    fn account(&mut self, handed: &[Handed; 2], remembered: bool, account: &mut Account) -> [Met; 2] {
        let name = self.name;
        Direction::ALL.map(|direction| {
            let [own, other] = self.ends(direction).map(|(netns, device)| Device::of(netns, device));
            let ways = self.ways.as_mut().expect("it has begun");
            let way = ways.iter_mut().find(|way| way.direction == direction).expect("both");
            let handed = &handed[usize::from(direction != Direction::Inbound)];
            let (own, other) = (own.since(way.before[0]), other.since(way.before[1]));
            let place = format!("{name} {}", direction.name());
            // What the cable or the receiving end had no room for. A denied packet at egress never came to it.
            let room = other.send_dropped + if direction == Direction::Inbound { own.receive_dropped } else { 0 };
            let seen = way.taps.seen().to_vec();
            let (mut named, mut missing, mut denied, mut same) = (0, 0, 0, 0);
            for (number, kind) in way.kinds.iter().enumerate() {
                let (sent, refused, arrived) = (handed.frames[number], handed.refused[number], seen[number]);
                assert!(sent > 0, "{place}: {} was never sent", kind.name);
                let egress = direction == Direction::Outbound && !kind.admitted;
                let lost = if egress { 0 } else { refused };
                named += lost;
                if kind.admitted {
                    assert!(arrived <= sent - lost, "{place} {}: {arrived} of {sent} arrived", kind.name);
                    if remembered || kind.name != "flows" {
                        missing += sent - lost - arrived;
                    }
                } else {
                    assert_eq!(arrived, 0, "{place} {}: both policies deny it", kind.name);
                    denied += sent - lost;
                }
                if egress {
                    assert_eq!(refused, sent, "{place} {}: what is denied is dropped at egress", kind.name);
                }
                if kind.name == "same-rule" {
                    // The programs at egress have counted what then had no room.
                    same = if direction == Direction::Inbound { sent - lost } else { sent };
                }
                let direction = direction.name();
                let (kind, admitted) = (kind.name, kind.admitted);
                account.fates.push(Fate { interface: name, direction, kind, admitted, sent, lost, arrived });
            }
            // What the device lost and did not say of which kind it was: nothing, as veth has it.
            let unnamed = room.checked_sub(named).unwrap_or_else(|| panic!("{place}: {named} refused, {room} lost"));
            assert!(
                missing <= unnamed,
                "{place}: {missing} packets that both policies admit did not arrive, and the kernel lost {room}, {named} of \
                 them by kind: {:?}",
                account.fates
            );
            account.lost += room;
            let all = match direction {
                Direction::Inbound => own.received,
                // What passed was sent or had no room; what did not was refused before.
                Direction::Outbound => other.sent + other.send_dropped + denied,
            };
            Met { direction, all, denied, same, unnamed }
        })
    }

    /// Compares what the daemon has counted with what there was.
    fn compare(&self, met: &[Met; 2], status: &Status, rules: &Rules, account: &mut Account) {
        let name = self.name;
        let status = status.interfaces.iter().find(|one| one.interface == name).expect("it is attached");
        let rules = rules.interfaces.iter().find(|one| one.interface == name).expect("it is attached");
        account.counted.insert(name.to_owned(), (status.packets.allowed, status.packets.denied));
        for met in met {
            let place = format!("{name} {}", met.direction.name());
            let reasons = rules.reasons.iter().filter(|row| row.direction == met.direction);
            let counted: u64 = reasons.map(|row| row.hits.packets).sum();
            assert_eq!(
                counted, met.all,
                "{place}: what the programs counted, and what the device has seen: {:?}, {:?}",
                rules.reasons, account.fates
            );
            let list = rules.lists.iter().find(|list| list.direction == met.direction).expect("both");
            for row in &list.rules {
                let hits = row.hits.expect("counted").packets;
                if row.rule == Number::Implied {
                    assert_eq!(hits, 0, "{place}: {:?} packets came to the end of the list", row.family);
                } else if name == "plain" && row.rule == Number::Rule(SAME) {
                    assert!(
                        hits <= met.same && met.same - hits <= met.unnamed,
                        "{place}: the rule that never changes counted {hits} of {}",
                        met.same
                    );
                }
            }
        }
        let [inbound, outbound] = met;
        let (most, denied) = (inbound.denied + outbound.denied, status.packets.denied);
        let least = most - inbound.unnamed.min(inbound.denied);
        assert!(
            (least..=most).contains(&denied),
            "{name}: the rules of both policies denied {most} packets ({least} at least), and the status says {denied}"
        );
        assert_eq!(status.packets.allowed + denied, inbound.all + outbound.all, "{name}: every packet has one reason");
        let all = [Reason::NaclRule, Reason::GroupRule, Reason::GroupImplicit, Reason::Tracked].map(Reason::name);
        let named = if name == "plain" { &all[..1] } else { &all[..] };
        let others = rules.reasons.iter().filter(|row| !named.contains(&row.reason.as_str())).count();
        assert_eq!(others, 0, "{name}: packets were judged for other reasons: {:?}", rules.reasons);
        assert_eq!(status.conntrack.conntrack_allowance_exceeded, 0, "{name}");
    }
}

/// What the programs of an interface must have met, in one direction.
struct Met {
    direction: Direction,
    all: u64,
    /// Of it, what the rules of both policies deny.
    denied: u64,
    /// Of it, what the rule admits that is the same in both policies.
    same: u64,
    /// What was lost on the way to them, of which nobody knows of which kind it was.
    unnamed: u64,
}

/// A TCP connection that says something all the time, and hears it.
struct Conversation {
    trips: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    longest: Arc<Mutex<Duration>>,
    thread: JoinHandle<()>,
}

impl Conversation {
    fn new(cable: &Cable) -> Self {
        let listener = netns::within(Some(&cable.here), || TcpListener::bind((HERE, PORT)).expect("a port"))
            .expect("the namespace is entered");
        let client = netns::within(Some(&cable.there), || TcpStream::connect((HERE, PORT)).expect("it passes"))
            .expect("the namespace is entered");
        let (server, _) = listener.accept().expect("the client");
        for end in [&client, &server] {
            // A packet that is dropped is sent again: this is for one that never comes.
            end.set_read_timeout(Some(6 * PATIENCE)).expect("a timeout");
            end.set_nodelay(true).expect("no delay");
        }
        let trips = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let shared = (Arc::clone(&trips), Arc::clone(&stop), Arc::clone(&longest));
        let thread = thread::spawn(move || {
            let (trips, stop, longest) = shared;
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                for (mut from, mut to) in [(&client, &server), (&server, &client)] {
                    let mut heard = [0; 8];
                    from.write_all(&number.to_be_bytes()).expect("it can be said");
                    to.read_exact(&mut heard).expect("it is heard");
                    assert_eq!(heard, number.to_be_bytes());
                }
                let mut longest = longest.lock().expect("nobody panics");
                *longest = longest.max(start.elapsed());
                drop(longest);
                number += 1;
                trips.store(number, Ordering::Relaxed);
                sleep(Duration::from_millis(2));
            }
        });
        Self { trips, stop, longest, thread }
    }

    fn end(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the TCP connection lives to the end");
        (self.trips.load(Ordering::Relaxed), *self.longest.lock().expect("nobody panics"))
    }
}

/// The rate, by ten seconds.
#[derive(Default)]
struct Windows {
    at: Option<(Instant, u64)>,
    rates: Vec<u64>,
}

/// A second's share.
fn rate(sent: u64, time: Duration) -> u64 {
    sent * 1000 / (time.as_millis() as u64).max(1)
}

const WINDOW: Duration = Duration::from_secs(10);

impl Windows {
    fn new(sent: u64) -> Self {
        Self { at: Some((Instant::now(), sent)), rates: Vec::new() }
    }

    fn note(&mut self, sent: u64) {
        let Some((at, before)) = self.at else { return };
        let passed = at.elapsed();
        if passed >= WINDOW {
            self.rates.push(rate(sent - before, passed));
            self.at = Some((Instant::now(), sent));
        }
    }

    fn slowest(&self) -> Option<u64> {
        self.rates.iter().min().copied()
    }
}
