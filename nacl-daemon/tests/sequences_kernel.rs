//! Level 2 of the proof, with a memory: the loaded XDP and TC programs against the naive oracle on random sequences of
//! packets, changes and passing time, by BPF_PROG_TEST_RUN with the clock set by hand. `NACLD_KERNEL_SEQUENCES` asks for
//! another number of them. A full table is not among them: how soon the kernel finds an expired connection is a matter of
//! chance, and `kernel_conntrack` looks at it.

mod support;

use nacl_common::{
    Action, Direction, Event,
    border::{Entry, FlowKey},
    evaluate::Hook,
    flow::Met,
};
use nacl_daemon::{
    compile,
    dataplane::{Options, TestBed},
    resolve::{Side, Tracking, Xdp},
};
use support::{
    case::Case,
    generate::{self, Random},
    oracle::Expected,
    policies,
    sequence::{Policy, Subject, Trial},
};

const SEQUENCES: u64 = 20_000;
const IN_A_BATCH: usize = 100;

struct Kernel {
    bed: TestBed,
    /// Changes with every policy: what is inbound on one side of the link is outbound on the other.
    side: Side,
    tracking: Tracking,
}

impl Kernel {
    fn options(&self) -> Options {
        Options { side: self.side, tracking: self.tracking, ..policies::options(Xdp::Auto) }
    }
}

fn met(event: &Event) -> Met {
    let all = [Met::Nothing, Met::Unknown, Met::New, Met::Forward, Met::Reply];
    all.into_iter().find(|met| *met as u8 == event.flow).expect("a known number")
}

impl Subject for Kernel {
    fn reload(&mut self, policy: &Policy, now: u64) {
        self.side = if self.side == Side::Host { Side::Router } else { Side::Host };
        self.tracking = policy.interface.tracking;
        self.bed.set_time(now);
        self.bed.install(&self.options(), &policy.compiled).expect("the next policy is installed");
    }

    fn settings(&mut self, policy: &Policy, now: u64) {
        self.bed.set_time(now);
        self.bed.toggle(&self.options(), compile::flags(&policy.interface)).expect("settings are switched");
    }

    fn forget(&mut self) {
        self.bed.forget().expect("everything is forgotten");
    }

    fn meet(&mut self, policy: &Policy, case: &Case, now: u64) -> Expected {
        let hook = match (case.direction, self.side) {
            (Direction::Inbound, Side::Host) | (Direction::Outbound, Side::Router) => Hook::Ingress,
            (Direction::Outbound, Side::Host) | (Direction::Inbound, Side::Router) => Hook::Egress,
        };
        self.bed.set_time(now);
        let (frame, _) = case.bytes();
        let (did, event) = self.bed.run(hook, &frame).expect("the program runs");
        let verdict = event.verdict().expect("a known verdict");
        assert_eq!(did, verdict.action, "what was done is what was said");
        assert_eq!(event.direction, case.direction as u8);
        assert_eq!(event.time, now, "the clock is the one that was set");
        policy.said(verdict, met(&event), case)
    }

    fn connections(&mut self) -> Vec<(FlowKey, Entry)> {
        self.bed.flows().expect("the table can be read")
    }
}

#[test]
fn the_loaded_programs_agree_with_the_oracle_on_sequences() {
    let sequences = std::env::var("NACLD_KERNEL_SEQUENCES").map_or(SEQUENCES, |value| value.parse().expect("a number"));
    let mut random = Random(2026);
    let policy = Policy::new(generate::interface(&mut random, 0, 0), None);
    let (side, tracking) = (Side::Host, policy.interface.tracking);
    let options = Options { side, tracking, ..policies::options(Xdp::Auto) };
    // The first policy is as large as they come: counters are made to its measure.
    let largest = generate::interface(&mut random, 200, 200);
    let largest = compile::compile(&largest, None).expect("a policy of 400 rules compiles");
    let mut bed = TestBed::load(&options, &largest).expect("the programs load");
    bed.install(&options, &policy.compiled).expect("the first policy is installed");
    let mut trial = Trial::new(Kernel { bed, side, tracking }, &policy);
    while trial.sequences < sequences {
        trial.batch(&mut random, IN_A_BATCH, tracking.entries);
    }
    println!("{} sequences\n{}", trial.sequences, trial.coverage);
    assert_eq!(trial.coverage.rare(50_000), [], "too rare to prove anything");
    assert_eq!(trial.coverage.kinds(), 179, "every kind of packet, change, transition and edge is met");
}

/// S39 in the kernel: a full table drops what is new, both ways, and nothing that runs.
#[test]
fn a_full_table_drops_only_new_connections() {
    use support::{
        host::{ACK, SYN, Talk},
        written::{group, interface, open_nacl},
    };
    let rules = ["tcp 443 192.0.2.0/24"];
    let mut full = interface(open_nacl(), Some(vec![group("web", &rules, &rules)]));
    full.tracking.entries = 4;
    let policy = Policy::new(full, None);
    let (side, tracking) = (Side::Host, policy.interface.tracking);
    let options = Options { side, tracking, ..policies::options(Xdp::Auto) };
    let bed = TestBed::load(&options, &policy.compiled).expect("the programs load");
    let mut kernel = Kernel { bed, side, tracking };
    let (into, out) =
        (Talk::inbound(6, "192.0.2.7", "10.0.2.10", 443), Talk::outbound(6, "192.0.2.7", "10.0.2.10", 443));
    let running: Vec<_> = (1..=2).flat_map(|port| [into.from(port), out.from(port)]).collect();
    for flow in &running {
        assert!(kernel.meet(&policy, &flow.request(SYN), 0).allow);
        assert!(kernel.meet(&policy, &flow.reply(SYN | ACK), 0).allow);
        assert!(kernel.meet(&policy, &flow.request(ACK), 0).allow);
    }
    for new in [into.from(9), out.from(9)] {
        let dropped = kernel.meet(&policy, &new.request(SYN), 1);
        assert_eq!((dropped.allow, dropped.reason), (false, "conntrack-full"));
    }
    for flow in &running {
        assert!(kernel.meet(&policy, &flow.reply(ACK), 2).allow && kernel.meet(&policy, &flow.request(ACK), 2).allow);
    }
    assert_eq!(kernel.connections().len(), 4);
    // Carried out, and not only said.
    let (did, _) = kernel.bed.run(Hook::Ingress, &into.from(9).request(SYN).bytes().0).expect("the program runs");
    assert_eq!(did, Action::Deny);
}
