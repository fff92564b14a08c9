//! Level 2 of the proof: the loaded XDP and TC programs against the naive oracle, by BPF_PROG_TEST_RUN on the same random
//! packets as level 1, on either side. `NACLD_KERNEL_PAIRS` asks for another number of pairs.

mod support;

use nacl_common::{Direction, evaluate::Hook, flow::Met};
use nacl_daemon::{
    compile::{Compiled, compile},
    dataplane::{Options, TestBed},
    resolve::{Interface, Side, Xdp},
};
use support::{
    cap,
    case::{Case, Flaw},
    coverage::Coverage,
    generate::{self, Random},
    oracle, policies,
    translate::Deciders,
};

const PAIRS: u64 = 240_000;
const PACKETS_A_POLICY: u64 = 400;

/// What BPF_PROG_TEST_RUN itself refuses: less than an Ethernet header, and at TC an IP header cut short.
fn runnable(case: &Case, hook: Hook) -> bool {
    match case.flaw {
        Flaw::Cut(length) => length >= if hook == Hook::Ingress { 14 } else { 80 },
        _ => true,
    }
}

#[test]
fn the_loaded_programs_agree_with_the_oracle() {
    let pairs = std::env::var("NACLD_KERNEL_PAIRS").map_or(PAIRS, |value| value.parse().expect("a number"));
    let mut random = Random(2026);
    let mut coverage = Coverage::default();
    // The first policy is the largest there may be: counters are made to its measure.
    let mut bed: Option<TestBed> = None;
    while coverage.pairs() < pairs {
        let (inbound, outbound) = match bed {
            None => (1000, 1000),
            Some(_) => (generate::size(&mut random), generate::size(&mut random)),
        };
        let nacl = generate::interface(&mut random, inbound, outbound);
        let interface = generate::layered(&mut random, nacl);
        let compiled = compile(&interface, None).expect("a policy of at most 1000 rules compiles");
        let side = *random.pick(&[Side::Host, Side::Router]);
        let options = Options { side, forgetful: true, ..policies::options(Xdp::Auto) };
        let bed = match &mut bed {
            Some(bed) => {
                bed.install(&options, &compiled).expect("the next policy is installed");
                bed
            }
            None => bed.insert(TestBed::load(&options, &compiled).expect("the programs load")),
        };
        compare(&mut random, bed, side, &interface, &compiled, PACKETS_A_POLICY, &mut coverage);
    }
    println!("{coverage}");
    assert_eq!(coverage.rare(5_000), [], "too rare to prove anything");
    assert_eq!(coverage.kinds(), 105, "every kind of rule, reason, family and edge is met, and tables only");
}

/// Runs random packets past one policy.
fn compare(
    random: &mut Random,
    bed: &mut TestBed,
    side: Side,
    interface: &Interface,
    compiled: &Compiled,
    packets: u64,
    coverage: &mut Coverage,
) {
    let deciders = Deciders::of(interface, compiled);
    for _ in 0..packets {
        let case = generate::case(random, interface);
        let hook = match (case.direction, side) {
            (Direction::Inbound, Side::Host) | (Direction::Outbound, Side::Router) => Hook::Ingress,
            (Direction::Outbound, Side::Host) | (Direction::Inbound, Side::Router) => Hook::Egress,
        };
        if !runnable(&case, hook) {
            continue;
        }
        let expected = oracle::judge(interface, &case);
        let (frame, _) = case.bytes();
        let (action, event) = bed.run(hook, &frame).expect("the program runs");
        let verdict = event.verdict().expect("a known verdict");
        assert_eq!(action, verdict.action, "what was done is what was said");
        let got = deciders.said(verdict, Met::Nothing, &case);
        if got != expected {
            // The rules of a long list by the thousand help nobody.
            let rule = |number: Option<u16>| {
                let rules = interface.nacl.rules(case.direction);
                number.and_then(|number| rules.iter().find(|rule| rule.number == number))
            };
            let (said, wanted) = (rule(got.rule()), rule(expected.rule()));
            panic!("{side:?} {hook:?} {case:?}: {got:?} ({said:#?}), the oracle {expected:?} ({wanted:#?})");
        }
        assert_eq!(event.direction, case.direction as u8);
        coverage.book(interface, &case, expected);
        coverage.form(compiled, &case, expected);
    }
}

/// One rule more or less decides whether a list is a table or rows: both must say the same.
#[test]
fn lists_around_the_cap_of_tables_agree_with_the_oracle() {
    let mut random = Random(12);
    let mut coverage = Coverage::default();
    let mut bed: Option<TestBed> = None;
    // The longest first: counters are made to its measure.
    for (interface, compiled) in cap::around_the_cap(&mut random).iter().rev() {
        for side in [Side::Host, Side::Router] {
            let options = Options { side, forgetful: true, ..policies::options(Xdp::Auto) };
            let bed = match &mut bed {
                Some(bed) => {
                    bed.install(&options, compiled).expect("the next policy is installed");
                    bed
                }
                None => bed.insert(TestBed::load(&options, compiled).expect("the programs load")),
            };
            compare(&mut random, bed, side, interface, compiled, 10_000, &mut coverage);
        }
    }
    println!("{coverage}");
    assert!(coverage.hits("form", "rows") > 5_000, "rows are hardly asked");
    assert!(coverage.hits("form", "table") > 10_000, "tables are hardly asked");
    for (decider, least) in [("network ACL rule", 3_000), ("network ACL *", 1_000)] {
        assert!(coverage.hits("rows decide", decider) > least, "{decider}");
    }
}
