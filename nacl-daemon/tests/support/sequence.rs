//! Random sequences: flows of interleaved packets with time moving, settings toggled and rules changed in between, judged by
//! whoever is on trial and by the oracle. Sequences come in batches that share their policies and changes, and have
//! addresses and a course of time of their own, so that a change is made once for many of them.

use std::{fmt::Write as _, net::IpAddr, sync::Arc};

use nacl_common::{
    Action, Direction, Verdict,
    border::{Entry, FlowKey},
    flow::{self, State},
};
use nacl_daemon::{
    compile::{Compiled, SlotTable, compile},
    resolve::{Group, GroupRule, Interface, Layers, Mode, Nacl, Peer, Protocol, Rule, Tracking},
};

use super::{
    case::{Case, Flaw, Part},
    coverage::Coverage,
    generate::{self, Random},
    memory::{Connection, Oracle, SECOND},
    oracle::{self, Decider, Expected, Met},
    translate::Deciders,
};

/// A policy of one interface, compiled.
pub struct Policy {
    pub interface: Arc<Interface>,
    pub compiled: Arc<Compiled>,
    deciders: Arc<Deciders>,
}

impl Policy {
    pub fn new(interface: Interface, previous: Option<&SlotTable>) -> Arc<Self> {
        let compiled = compile(&interface, previous).expect("a small policy compiles");
        let deciders = Arc::new(Deciders::of(&interface, &compiled));
        Arc::new(Self { interface: Arc::new(interface), compiled: Arc::new(compiled), deciders })
    }

    /// The same rules with other settings.
    pub fn with(&self, mode: Mode, layers: Layers) -> Arc<Self> {
        let interface = Arc::new(Interface { mode, layers, ..Interface::clone(&self.interface) });
        let (compiled, deciders) = (Arc::clone(&self.compiled), Arc::clone(&self.deciders));
        Arc::new(Self { interface, compiled, deciders })
    }

    /// A verdict in the oracle's words.
    pub fn said(&self, verdict: Verdict, met: flow::Met, case: &Case) -> Expected {
        self.deciders.said(verdict, met, case)
    }
}

/// Who is on trial. Times are nanoseconds.
pub trait Subject {
    /// Puts a policy in force, as a reload does.
    fn reload(&mut self, policy: &Policy, now: u64);
    /// Changes mode and layers alone; `policy` has the new ones.
    fn settings(&mut self, policy: &Policy, now: u64);
    /// Forgets every connection and fragment.
    fn forget(&mut self);
    /// Judges a packet and remembers.
    fn meet(&mut self, policy: &Policy, case: &Case, now: u64) -> Expected;
    /// Everything that is remembered of connections, expired or not.
    fn connections(&mut self) -> Vec<(FlowKey, Entry)>;
}

/// A remembered connection, as it can be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    local: [u64; 2],
    remote: [u64; 2],
    ports: (u16, u16),
    protocol: u8,
    family: u8,
    stage: &'static str,
    first: Direction,
    marks: (bool, bool),
    until: u64,
}

fn halves(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, u32::from(address).into()],
        IpAddr::V6(address) => [(u128::from(address) >> 64) as u64, u128::from(address) as u64],
    }
}

impl Row {
    fn expected(connection: &Connection) -> Self {
        Self {
            local: halves(connection.local),
            remote: halves(connection.remote),
            ports: connection
                .echo
                .map_or(connection.ports, |(echo, asker)| (echo, u16::from(asker == Direction::Outbound))),
            protocol: connection.protocol,
            family: if connection.v6 { 6 } else { 4 },
            stage: connection.seen.stage(),
            first: connection.first,
            marks: (connection.nacl, connection.group),
            until: connection.until,
        }
    }

    fn got((key, entry): (FlowKey, Entry)) -> Self {
        Self {
            local: key.local,
            remote: key.remote,
            ports: (key.remote_port, key.local_port),
            protocol: key.protocol,
            family: key.family,
            stage: State::from_number(entry.state).name(),
            first: Direction::ALL[usize::from(entry.origin)],
            marks: (entry.nacl == 1, entry.group == 1),
            until: entry.expires,
        }
    }
}

/// What happens to an interface, beside packets.
#[derive(Clone)]
pub enum Change {
    Reload(Arc<Policy>),
    Settings(Mode, Layers),
    Forget,
}

#[derive(Clone)]
enum Step {
    Change(Change),
    Packet(Case),
    /// Only time passes.
    Nothing,
}

/// A flow: its first packet, and how far it has come.
struct Flow {
    forward: Case,
    stage: u8,
    last: Direction,
    /// It passed, and no rule was asked for its last packet but one whose flows are not tracked.
    untracked: bool,
    /// It passed before the last change.
    ran: bool,
    passed: bool,
}

/// One sequence.
struct Life {
    oracle: Oracle,
    flows: Vec<Flow>,
    /// A later fragment that is still to come.
    later: Option<Case>,
    steps: Vec<(u64, Step)>,
    now: u64,
    /// The flow whose packet comes next, and how many come before the next change.
    next: usize,
    left: u64,
    /// This end's addresses, its own.
    local: [IpAddr; 2],
}

/// Who is on trial, and what is in force.
pub struct Trial<S> {
    subject: S,
    /// The oracle without connections: what is in force, and until when connections are taken up.
    base: Oracle,
    policy: Arc<Policy>,
    /// What was in force before the batch.
    start: Arc<Policy>,
    pub coverage: Coverage,
    pub sequences: u64,
    pub packets: u64,
}

const MILLISECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;

impl<S: Subject> Trial<S> {
    /// `subject` has just been given `policy`, at time 0.
    pub fn new(subject: S, policy: &Arc<Policy>) -> Self {
        let base = Oracle::new(&policy.interface, 0);
        let (policy, start) = (Arc::clone(policy), Arc::clone(policy));
        Self { subject, base, policy, start, coverage: Coverage::default(), sequences: 0, packets: 0 }
    }

    fn apply(&mut self, change: &Change, now: u64) {
        match change {
            Change::Reload(policy) => {
                self.policy = Arc::clone(policy);
                self.subject.reload(policy, now);
            }
            Change::Settings(mode, layers) => {
                self.policy = self.policy.with(*mode, *layers);
                self.subject.settings(&self.policy, now);
            }
            Change::Forget => self.subject.forget(),
        }
        change_oracle(&mut self.base, &self.policy, change, now);
    }

    /// Runs `many` sequences that share their policies. `entries`: how many connections there is room for.
    pub fn batch(&mut self, random: &mut Random, many: usize, entries: u32) {
        self.start = Arc::clone(&self.policy);
        let mut at = HOUR + random.below(HOUR);
        self.apply(&Change::Forget, at);
        let mut first = interface(random);
        first.tracking.entries = entries;
        let first = Policy::new(first, Some(&self.policy.compiled.slots));
        let mut lives: Vec<Life> = (0..many as u64).map(|place| self.life(random, place)).collect();
        let phases = 4 + random.below(3);
        for phase in 0..phases {
            let (change, name) = if phase == 0 {
                (Change::Reload(Arc::clone(&first)), "another policy")
            } else {
                change(random, &self.policy, &lives)
            };
            self.apply(&change, at);
            for life in &mut lives {
                change_oracle(&mut life.oracle, &self.policy, &change, at);
                life.steps.push((at, Step::Change(change.clone())));
                life.now = at;
                for flow in &mut life.flows {
                    flow.ran = flow.passed;
                }
                self.coverage.hit("change", name);
            }
            let length = match random.below(10) {
                0..=3 => random.below(29 * SECOND),
                4..=6 => random.below(700 * SECOND),
                7 | 8 => random.below(30 * HOUR),
                _ => 144 * HOUR,
            };
            let end = at + 10 * MILLISECOND + length;
            for life in &mut lives {
                life.left = 4 + random.below(10);
                life.prepare(random, &self.policy.interface, end);
            }
            // Whoever is next in time: the clock of the one interface goes forward only.
            while let Some(life) = lives.iter_mut().filter(|life| life.left > 0).min_by_key(|life| life.now) {
                self.step(random, life, name);
                life.left -= 1;
                if life.left > 0 {
                    life.prepare(random, &self.policy.interface, end);
                }
            }
            at = end;
            self.compare_connections(&mut lives, at);
        }
        self.sequences += many as u64;
    }

    fn life(&self, random: &mut Random, place: u64) -> Life {
        let v4 = 0x0a00_0000 | (place as u32) << 8 | random.below(250) as u32;
        let v6 = 0x2001_0db8 << 96 | u128::from(place) << 64 | u128::from(random.next());
        let (oracle, local) = (self.base.clone(), [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())]);
        Life { oracle, flows: Vec::new(), later: None, steps: Vec::new(), now: 0, next: 0, left: 0, local }
    }

    fn step(&mut self, random: &mut Random, life: &mut Life, change: &'static str) {
        let place = life.next;
        let case = life.packet(random, place);
        let now = life.now;
        let expected = life.oracle.meet(&case, now);
        life.steps.push((now, Step::Packet(case.clone())));
        let got = self.subject.meet(&self.policy, &case, now);
        self.packets += 1;
        if got != expected {
            let told = format!("{} says {got:?}\nthe oracle says {expected:?}", "the subject");
            self.give_up(&life.steps, &told);
        }
        self.book(life, place, &case, expected, change);
    }

    fn book(&mut self, life: &mut Life, place: usize, case: &Case, expected: Expected, change: &'static str) {
        let coverage = &mut self.coverage;
        coverage.count();
        coverage.hit("reason", expected.reason);
        coverage.hit("family", if case.v6() { "IPv6" } else { "IPv4" });
        coverage.hit(
            "met",
            match expected.met {
                Met::Nothing => "not asked",
                Met::Unknown => "unknown",
                Met::New => "new",
                Met::Forward => "forward",
                Met::Reply => "reply",
            },
        );
        for (group, name) in &life.oracle.notes {
            coverage.hit(group, name);
        }
        let flow = &mut life.flows[place];
        if case.part == Part::Whole && case.direction == flow.forward.direction {
            let untracked = life.oracle.notes.iter().any(|(group, _)| *group == "untracked");
            if flow.untracked && !expected.allow {
                coverage.hit("untracked", "cut");
            }
            flow.untracked = untracked || flow.untracked && expected.allow;
            if flow.ran {
                coverage.hit(if expected.allow { "goes on after" } else { "ends with" }, change);
            }
            flow.ran = false;
            flow.passed = expected.allow;
        }
    }

    fn compare_connections(&mut self, lives: &mut [Life], now: u64) {
        let got = self.rows(now);
        let expected = |lives: &[Life]| {
            let mut rows: Vec<_> = lives.iter().flat_map(|life| rows_of(&life.oracle, now)).collect();
            rows.sort();
            rows
        };
        let all = expected(lives);
        if got == all {
            return;
        }
        for life in lives {
            let here = life.local.map(halves);
            let got: Vec<_> = got.iter().filter(|row| here.contains(&row.local)).cloned().collect();
            let expected = rows_of(&life.oracle, now);
            if got != expected {
                life.steps.push((now, Step::Nothing));
                self.give_up(&life.steps, &format!("remembered: {got:#?}\nthe oracle remembers {expected:#?}"));
            }
        }
        panic!("connections that are no sequence's: {got:#?}\n{all:#?}");
    }

    fn rows(&mut self, now: u64) -> Vec<Row> {
        let mut rows: Vec<_> =
            self.subject.connections().into_iter().filter(|(_, entry)| now < entry.expires).map(Row::got).collect();
        rows.sort();
        rows
    }

    /// Runs recorded steps again; what the two disagree on, if they do.
    fn again(&mut self, steps: &[(u64, Step)]) -> Option<String> {
        let begin = steps.first()?.0;
        self.apply(&Change::Forget, begin);
        let start = Arc::clone(&self.start);
        self.apply(&Change::Reload(start), begin);
        let mut oracle = self.base.clone();
        for (now, step) in steps {
            match step {
                Step::Change(change) => {
                    self.apply(change, *now);
                    change_oracle(&mut oracle, &self.policy, change, *now);
                }
                Step::Nothing => {}
                Step::Packet(case) => {
                    let expected = oracle.meet(case, *now);
                    let got = self.subject.meet(&self.policy, case, *now);
                    if got != expected {
                        return Some(format!("says      {got:?}\nexpected  {expected:?}"));
                    }
                }
            }
            let (got, expected) = (self.rows(*now), rows_of(&oracle, *now));
            if got != expected {
                return Some(format!("remembers {got:#?}\nexpected  {expected:#?}"));
            }
        }
        None
    }

    /// Ends the test with the disagreement, in as few steps and rules as it needs.
    fn give_up(&mut self, steps: &[(u64, Step)], told: &str) -> ! {
        let mut least = steps.to_vec();
        let Some(mut told) = self.again(&least).map(|again| format!("{told}\n\nAlone it {again}")) else {
            panic!("{told}\n\nThe sequence alone shows no disagreement:\n{}", tell(steps));
        };
        let mut shrunk = true;
        while shrunk {
            shrunk = false;
            // The first is the policy.
            for place in (1..least.len()).rev() {
                let mut fewer = least.clone();
                fewer.remove(place);
                if let Some(again) = self.again(&fewer) {
                    (least, told, shrunk) = (fewer, again, true);
                }
            }
            for place in 0..least.len() {
                let Step::Change(Change::Reload(policy)) = &least[place].1 else { continue };
                for smaller in smaller(&policy.interface) {
                    let mut fewer = least.clone();
                    fewer[place].1 = Step::Change(Change::Reload(Policy::new(smaller, None)));
                    if let Some(again) = self.again(&fewer) {
                        (least, told, shrunk) = (fewer, again, true);
                        break;
                    }
                }
            }
        }
        panic!("{told}\n\nafter\n{}", tell(&least));
    }
}

fn rows_of(oracle: &Oracle, now: u64) -> Vec<Row> {
    let live = oracle.connections.iter().filter(|connection| now < connection.until);
    let mut rows: Vec<_> = live.map(Row::expected).collect();
    rows.sort();
    rows
}

fn change_oracle(oracle: &mut Oracle, policy: &Policy, change: &Change, now: u64) {
    match change {
        Change::Reload(_) => oracle.reload(&policy.interface, now),
        Change::Settings(..) => oracle.settings(&policy.interface, now),
        Change::Forget => oracle.forget(),
    }
}

/// Every interface with one thing less.
pub fn smaller(interface: &Interface) -> Vec<Interface> {
    let mut all = Vec::new();
    for direction in Direction::ALL {
        for place in 0..interface.nacl.rules(direction).len() {
            let mut nacl = Nacl::clone(&interface.nacl);
            rules_of(&mut nacl, direction).remove(place);
            all.push(Interface { nacl: Arc::new(nacl), ..interface.clone() });
        }
    }
    let groups = interface.groups.as_deref().unwrap_or_default();
    for (at, group) in groups.iter().enumerate() {
        let mut fewer = groups.to_vec();
        fewer.remove(at);
        all.push(Interface { groups: Some(fewer), ..interface.clone() });
        for direction in Direction::ALL {
            for place in 0..group.rules(direction).len() {
                let mut fewer = groups.to_vec();
                group_rules_of(Arc::make_mut(&mut fewer[at]), direction).remove(place);
                all.push(Interface { groups: Some(fewer), ..interface.clone() });
            }
        }
    }
    for place in 0..interface.exemptions.len() {
        let mut fewer = interface.clone();
        fewer.exemptions.remove(place);
        all.push(fewer);
    }
    if !interface.subnet_cidrs.is_empty() {
        all.push(Interface { subnet_cidrs: Vec::new(), ..interface.clone() });
    }
    all
}

fn rules_of(nacl: &mut Nacl, direction: Direction) -> &mut Vec<Rule> {
    match direction {
        Direction::Inbound => &mut nacl.inbound,
        Direction::Outbound => &mut nacl.outbound,
    }
}

fn group_rules_of(group: &mut Group, direction: Direction) -> &mut Vec<GroupRule> {
    match direction {
        Direction::Inbound => &mut group.inbound,
        Direction::Outbound => &mut group.outbound,
    }
}

/// Steps for a person.
fn tell(steps: &[(u64, Step)]) -> String {
    let mut text = String::new();
    let begin = steps.first().map_or(0, |(now, _)| *now);
    for (now, step) in steps {
        let at = now - begin;
        let _ = write!(text, "{:>8}.{:09} s  ", at / SECOND, at % SECOND);
        let _ = match step {
            Step::Change(Change::Forget) => writeln!(text, "forget"),
            Step::Change(Change::Settings(mode, layers)) => writeln!(text, "{} {}", mode.name(), layers.name()),
            Step::Change(Change::Reload(policy)) => writeln!(text, "reload {:#?}", policy.interface),
            Step::Packet(case) => writeln!(text, "{case:?}"),
            Step::Nothing => writeln!(text, "and then"),
        };
    }
    text
}

impl Life {
    /// Chooses the flow that has the next packet, and when.
    fn prepare(&mut self, random: &mut Random, interface: &Interface, end: u64) {
        if self.flows.is_empty() || self.flows.len() < 4 && random.once_in(8) {
            let flow = self.begin(random, interface);
            self.flows.push(flow);
        }
        self.next = random.below(self.flows.len() as u64) as usize;
        self.wait(random, self.next, end);
    }

    /// Another flow: aimed at the policy's rules, and mostly one that passes.
    fn begin(&self, random: &mut Random, interface: &Interface) -> Flow {
        let mut forward = self.template(random, interface);
        for _ in 0..4 {
            if oracle::judge(interface, &forward).allow || random.once_in(6) {
                break;
            }
            forward = self.template(random, interface);
        }
        // Not every TCP connection is met from its first packet on.
        let stage = if random.once_in(5) { 3 } else { 0 };
        let last = forward.direction;
        Flow { forward, stage, last, untracked: false, ran: false, passed: false }
    }

    fn template(&self, random: &mut Random, interface: &Interface) -> Case {
        let mut case = generate::case(random, interface);
        case.local = self.local[usize::from(case.v6())];
        (case.part, case.flaw, case.hidden) = (Part::Whole, Flaw::None, None);
        if case.has_icmp() && !random.once_in(6) {
            case.icmp = (if case.v6() { 128 } else { 8 }, 0);
        }
        // Between the same hosts as another flow now and then.
        if let Some(other) = (!self.flows.is_empty() && random.once_in(4)).then(|| random.pick(&self.flows)) {
            let other = &other.forward;
            if other.v6() == case.v6() {
                case.remote = other.remote;
                if random.once_in(3) {
                    (case.direction, case.protocol) = (oracle::other(other.direction), other.protocol);
                    (case.sport, case.dport, case.echo) = (other.dport, other.sport, other.echo);
                }
            }
        }
        case
    }

    /// Lets time pass, until just before, at or after a moment at which something is forgotten, where one is near.
    fn wait(&mut self, random: &mut Random, place: usize, end: u64) {
        let edge = if random.once_in(3) {
            let edges = self.oracle.edges();
            let own = self.oracle.connections.iter().find(|connection| connection.is_of(&self.flows[place].forward));
            match own {
                Some(own) if !random.once_in(8) => Some(own.until),
                _ => Some(*random.pick(&edges)),
            }
        } else {
            None
        };
        let to = match (edge, random.below(6)) {
            (Some(edge), aim) => (edge + aim % 3).saturating_sub(1),
            (None, 0) => self.now + random.below(end - self.now + 1),
            (None, 1) => self.now + random.below(40 * SECOND),
            (None, _) => self.now + random.below(50 * MILLISECOND),
        };
        if to >= self.now && to <= end {
            self.now = to;
        }
    }

    fn packet(&mut self, random: &mut Random, place: usize) -> Case {
        if let Some(later) = self.later.take() {
            if random.once_in(3) {
                self.later = Some(later.clone());
            }
            if !random.once_in(4) {
                return later;
            }
        }
        let mut case = self.flows[place].next(random);
        if random.once_in(14) {
            case.part = Part::First;
            case.ident = random.next() as u32;
            let hidden = (case.v6() && random.once_in(4)).then_some(60);
            let mut later = Case { part: Part::Later, hidden, ..case.clone() };
            match random.below(12) {
                0 => later.ident ^= 1 << random.below(32),
                // IPv4 tells fragments apart by protocol too, IPv6 does not.
                1 => later.protocol = *random.pick(&[6, 17, 132]),
                _ => {}
            }
            // Out of order.
            if random.once_in(6) {
                std::mem::swap(&mut case, &mut later);
            }
            self.later = Some(later);
        }
        case
    }
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

impl Flow {
    /// Its next packet.
    fn next(&mut self, random: &mut Random) -> Case {
        let origin = self.forward.direction;
        let answer = oracle::other(origin);
        let any = *random.pick(&Direction::ALL);
        let (direction, flags) = match (self.forward.protocol, random.below(12)) {
            (6, 0) => (any, *random.pick(&[FIN | ACK, RST, RST | ACK, SYN, SYN | ACK, 0, FIN, ACK | PSH])),
            (6, 1) => (any, random.next() as u8),
            (6, _) => {
                let (direction, flags) = match self.stage {
                    0 => (origin, SYN),
                    1 => (answer, SYN | ACK),
                    2 => (origin, ACK),
                    3..=6 => (any, ACK | if random.once_in(2) { PSH } else { 0 }),
                    7 => (any, FIN | ACK),
                    8 => (oracle::other(self.last), FIN | ACK),
                    _ => (any, ACK),
                };
                self.stage = match self.stage {
                    3 if random.once_in(3) => 3,
                    // The same ports again.
                    9.. => *random.pick(&[0, 0, 9]),
                    stage => stage + 1,
                };
                (direction, flags)
            }
            _ => (if random.once_in(3) { self.last } else { oracle::other(self.last) }, 0),
        };
        let direction = if self.stage == 0 && self.forward.protocol != 6 { origin } else { direction };
        if self.forward.protocol != 6 {
            self.stage = 1;
        }
        self.last = direction;
        let mut case = Case { direction, flags, ..self.forward.clone() };
        if direction != origin {
            (case.sport, case.dport) = (case.dport, case.sport);
            case.icmp = match case.icmp {
                (8, code) => (0, code),
                (128, code) => (129, code),
                other => other,
            };
        }
        if case.has_icmp() && random.once_in(10) {
            // The other end asks too, or somebody says that it did not arrive.
            case.icmp = match random.below(3) {
                0 => self.forward.icmp,
                1 => (if case.v6() { 1 } else { 3 }, 1),
                _ => (if case.v6() { 129 } else { 0 }, 0),
            };
        }
        case
    }
}

/// An interface whose flows are worth following: fewer rules, and more of them open than AWS's users write.
fn interface(random: &mut Random) -> Interface {
    let (inbound, outbound) = (random.below(7) as usize, random.below(7) as usize);
    let small = generate::interface(random, inbound, outbound);
    let mut interface = generate::layered(random, small);
    let all = |v6: bool| if v6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("a CIDR");
    let mut nacl = Nacl::clone(&interface.nacl);
    for direction in Direction::ALL {
        for v6 in [false, true] {
            if random.once_in(2) {
                let number = if v6 { 32766 } else { 32765 };
                let rules = rules_of(&mut nacl, direction);
                rules.retain(|rule| rule.number != number);
                rules.push(Rule {
                    number,
                    action: Action::Allow,
                    protocol: Protocol::All,
                    ports: None,
                    icmp: None,
                    cidr: all(v6),
                    reference: None,
                    description: None,
                    line: 0,
                    span: 0..0,
                });
                rules.sort_by_key(|rule| rule.number);
            }
        }
    }
    interface.nacl = Arc::new(nacl);
    for group in interface.groups.iter_mut().flatten() {
        let group = Arc::make_mut(group);
        for direction in Direction::ALL {
            for v6 in [false, true] {
                if random.once_in(4) {
                    let protocol = *random.pick(&[Protocol::All, Protocol::Number(6), Protocol::Number(17)]);
                    let cidr = all(v6);
                    let rule = GroupRule::new(protocol, None, Peer::Cidr(cidr), vec![cidr]);
                    let rules = group_rules_of(group, direction);
                    if !rules.iter().any(|old| generate::same(old, &rule)) {
                        rules.push(rule);
                    }
                }
            }
        }
    }
    if interface.groups.is_none() || random.once_in(2) {
        // Switching layers is what changes do; most sequences begin with all there are.
        interface.layers = Layers::Both;
    }
    interface.tracking = tracking(random);
    interface
}

fn tracking(random: &mut Random) -> Tracking {
    let usual = Tracking::default();
    if random.once_in(2) {
        return usual;
    }
    Tracking {
        tcp_opening: *random.pick(&[5, 60]),
        tcp_established: *random.pick(&[60, 350, 432_000]),
        tcp_closing: *random.pick(&[20, 120]),
        tcp_closed: *random.pick(&[1, 10]),
        udp: *random.pick(&[30, 60]),
        udp_stream: *random.pick(&[60, 180]),
        icmp: *random.pick(&[5, 30]),
        pickup: *random.pick(&[0, 10, 60, 1000]),
        ..usual
    }
}

/// A change, aimed at the flows that run, and its name.
fn change(random: &mut Random, policy: &Policy, lives: &[Life]) -> (Change, &'static str) {
    let old = &policy.interface;
    match random.below(20) {
        0 => return (Change::Forget, "forgetting"),
        1..=8 => {
            let (mode, layers) = (old.mode, old.layers);
            if random.once_in(2) {
                let (mode, name) = match mode {
                    Mode::Stateless => (Mode::Stateful, "stateless to stateful"),
                    Mode::Stateful => (Mode::Stateless, "stateful to stateless"),
                };
                return (Change::Settings(mode, layers), name);
            }
            let (layers, name) = match (layers, random.once_in(2)) {
                (Layers::Both, true) => (Layers::Nacl, "both to nacl"),
                (Layers::Both, false) => (Layers::Groups, "both to sg"),
                (Layers::Nacl, true) => (Layers::Both, "nacl to both"),
                (Layers::Nacl, false) => (Layers::Groups, "nacl to sg"),
                (Layers::Groups, true) => (Layers::Both, "sg to both"),
                (Layers::Groups, false) => (Layers::Nacl, "sg to nacl"),
            };
            return (Change::Settings(mode, layers), name);
        }
        _ => {}
    }
    let mut new = Interface::clone(old);
    let name = edit(random, &mut new, lives);
    if random.once_in(8) {
        new.mode = *random.pick(&[Mode::Stateless, Mode::Stateful]);
        new.layers = *random.pick(&[Layers::Both, Layers::Nacl, Layers::Groups]);
    }
    (Change::Reload(Policy::new(new, Some(&policy.compiled.slots))), name)
}

/// Changes what is written.
fn edit(random: &mut Random, new: &mut Interface, lives: &[Life]) -> &'static str {
    let flows: Vec<_> = lives.iter().flat_map(|life| &life.flows).collect();
    let case = (!flows.is_empty()).then(|| random.pick(&flows).forward.clone());
    let direction = case.as_ref().map_or(Direction::Inbound, |case| case.direction);
    let other = generate::interface(random, 3, 3);
    let other = generate::layered(random, other);
    match random.below(14) {
        // The rule that let a flow in.
        0..=2 => {
            let by = case.and_then(|case| oracle::nacl(new, &case, false)).map(|said| said.by);
            if let Some(Decider::Nacl(number)) = by {
                let mut nacl = Nacl::clone(&new.nacl);
                rules_of(&mut nacl, direction).retain(|rule| rule.number != number);
                new.nacl = Arc::new(nacl);
                return "network ACL rule removed";
            }
        }
        3..=5 => {
            let by = case.and_then(|case| oracle::groups(new, &case, false)).map(|said| said.by);
            if let (Some(Decider::Group(place, position)), Some(groups)) = (by, &mut new.groups) {
                let group = Arc::make_mut(&mut groups[place]);
                group_rules_of(group, direction).remove(usize::from(position) - 1);
                return "group rule removed";
            }
        }
        // S31: what is open to everybody the other way.
        6 => {
            for group in new.groups.iter_mut().flatten() {
                let rules = group_rules_of(Arc::make_mut(group), oracle::other(direction));
                rules.retain(|rule| !matches!(rule.peer, Peer::Cidr(cidr) if cidr.prefix_len() == 0));
            }
            return "no group rule open to all the other way";
        }
        7 => {
            if let Some(groups) = new.groups.as_mut().filter(|groups| !groups.is_empty()) {
                groups.remove(random.below(groups.len() as u64) as usize);
                return "group detached";
            }
        }
        8 => {
            if let (Some(groups), Some(more)) = (&mut new.groups, other.groups) {
                for (place, group) in more.into_iter().enumerate() {
                    groups.push(Arc::new(Group {
                        name: format!("sg-more {place} {}", random.next()),
                        ..Group::clone(&group)
                    }));
                }
                return "group attached";
            }
        }
        9 => {
            let was = new.groups.take();
            return if was.is_some() {
                "groups taken off"
            } else {
                new.groups = other.groups.or(Some(Vec::new()));
                "groups put on"
            };
        }
        10 => {
            new.nacl = other.nacl;
            return "another network ACL";
        }
        11 => {
            new.tracking = Tracking { entries: new.tracking.entries, ..tracking(random) };
            return "other time-outs";
        }
        12 => {
            new.subnet_cidrs = if new.subnet_cidrs.is_empty() {
                case.map(|case| case.remote.into()).into_iter().collect()
            } else {
                Vec::new()
            };
            return "another subnet";
        }
        _ => {
            (new.exemptions, new.aws) = (other.exemptions, other.aws);
            return "other exemptions";
        }
    }
    "the same policy"
}
