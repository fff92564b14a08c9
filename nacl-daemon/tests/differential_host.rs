//! Level 1 of the proof: the engine against the naive oracle in user space, on five million random packets, from bytes to
//! verdict, reason and rule. `NACLD_PAIRS` asks for another number of pairs, `NACLD_SEED` for another seed.

mod support;

use std::thread;

use nacl_common::{
    border::{List, Tier},
    flow::Met,
    packet,
};
use nacl_daemon::{
    compile::{Compiled, compile},
    resolve::Interface,
};
use support::{
    cap,
    case::Case,
    coverage::Coverage,
    generate::{self, Random},
    oracle::{self, Expected},
    sequence,
    translate::Deciders,
};

const PAIRS: u64 = 5_000_000;
const PACKETS_A_POLICY: u64 = 2_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What the engine says of a packet, in the oracle's words.
fn engine(compiled: &Compiled, deciders: &Deciders, case: &Case) -> Expected {
    let (frame, _) = case.bytes();
    let verdict = match packet::parse(frame.as_slice(), 0) {
        Ok(packet) => compiled.judge(case.direction, &packet),
        Err(reason) => nacl_common::evaluate::judge_other(nacl_common::Control(0), reason),
    };
    deciders.said(verdict, Met::Nothing, case)
}

/// The same disagreement with as few rules as it needs.
fn shrink(interface: &Interface, case: &Case) -> Interface {
    let mut least = interface.clone();
    while let Some(smaller) = sequence::smaller(&least).into_iter().find(|interface| {
        let compiled = compile(interface, None).expect("a smaller policy compiles");
        engine(&compiled, &Deciders::of(interface, &compiled), case) != oracle::judge(interface, case)
    }) {
        least = smaller;
    }
    least
}

fn run(seed: u64, pairs: u64) -> Coverage {
    let mut random = Random(seed);
    let mut coverage = Coverage::default();
    while coverage.pairs() < pairs {
        let (inbound, outbound) = (generate::size(&mut random), generate::size(&mut random));
        let nacl = generate::interface(&mut random, inbound, outbound);
        let interface = generate::layered(&mut random, nacl);
        let compiled = compile(&interface, None).expect("a policy of at most 1000 rules compiles");
        compare(&mut random, &interface, &compiled, PACKETS_A_POLICY, &mut coverage);
    }
    coverage
}

/// Judges `pairs` random packets against one policy.
fn compare(random: &mut Random, interface: &Interface, compiled: &Compiled, pairs: u64, coverage: &mut Coverage) {
    let deciders = Deciders::of(interface, compiled);
    for _ in 0..pairs {
        let case = generate::case(random, interface);
        let expected = oracle::judge(interface, &case);
        let got = engine(compiled, &deciders, &case);
        if got != expected {
            let least = shrink(interface, &case);
            panic!("the engine says {got:?}, the oracle {expected:?}\n{case:?}\n{least:#?}");
        }
        coverage.book(interface, &case, expected);
        coverage.form(compiled, &case, expected);
    }
}

/// Every tier, and both forms of decisions, whatever sizes the random policies happen to have.
#[test]
fn every_tier_and_form_agrees_with_the_oracle() {
    let mut random = Random(7);
    let mut coverage = Coverage::default();
    let mut met = Vec::new();
    for (inbound, outbound) in [(5, 5), (150, 150), (1000, 1000), (2500, 2500)] {
        let nacl = generate::interface(&mut random, inbound, outbound);
        let interface = generate::layered(&mut random, nacl);
        let compiled = compile(&interface, None).expect("compiles");
        let lists = cap::header(&compiled).lists;
        met.push((compiled.generation.tier(), lists.iter().any(|list| list.form == List::ROWS)));
        compare(&mut random, &interface, &compiled, 20_000, &mut coverage);
    }
    assert_eq!(met, [(Tier::Small, false), (Tier::Medium, false), (Tier::Large, false), (Tier::Large, true)]);
}

/// One rule more or less decides whether a list is a table or rows: both must say the same.
#[test]
fn lists_around_the_cap_of_tables_agree_with_the_oracle() {
    let mut random = Random(11);
    let mut coverage = Coverage::default();
    let lists = cap::around_the_cap(&mut random);
    for (interface, compiled) in &lists {
        compare(&mut random, interface, compiled, 100_000, &mut coverage);
    }
    println!("{coverage}");
    assert!(coverage.hits("form", "rows") > 20_000, "rows are hardly asked");
    assert!(coverage.hits("form", "table") > 50_000, "tables are hardly asked");
    for (decider, least) in [("network ACL rule", 10_000), ("network ACL *", 5_000)] {
        assert!(coverage.hits("rows decide", decider) > least, "{decider}");
    }
}

#[test]
fn the_engine_agrees_with_the_oracle() {
    let pairs = setting("NACLD_PAIRS", PAIRS);
    let seed = setting("NACLD_SEED", 2026);
    let workers = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let mut coverage = Coverage::default();
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..workers).map(|worker| scope.spawn(move || run(seed + worker, pairs.div_ceil(workers)))).collect();
        for worker in workers {
            coverage.merge(&worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    println!("{coverage}");
    assert!(coverage.pairs() >= pairs);
    assert_eq!(coverage.rare(2_000), [], "too rare to prove anything");
    assert_eq!(coverage.kinds(), 105, "every kind of rule, reason, family and edge is met, and tables only");
}
