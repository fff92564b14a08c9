//! Sets of packets are exact: the regions of a space are disjoint, cover it, and say of every packet what the oracle says of it.
//! `NACLD_SETS` asks for another number of random policies, `NACLD_SEED` for another seed.

mod support;

use nacl_common::{Action, Direction, Family, Layer, Verdict};
use nacl_daemon::{
    analyze::sets::{Mark, Region, Space, unjudged},
    compile::{Compiled, compile},
    resolve::{Interface, Nacl, Rule},
};
use support::{
    brute::{Met, case_of, on_all_cores, packet_of, representatives, setting},
    case::{Case, Flaw, Part},
    generate::{self, Random},
    oracle::{self, Expected},
    translate::Deciders,
};

const POLICIES: u64 = 300;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn random(seed: u64) -> (Random, Interface) {
    let mut random = Random(seed);
    let size = |random: &mut Random| generate::size(random) % 61;
    let (inbound, outbound) = (size(&mut random), size(&mut random));
    let nacl = generate::interface(&mut random, inbound, outbound);
    let interface = generate::layered(&mut random, nacl);
    (random, interface)
}

type Said = (Action, u16, u16);

fn said(verdict: Verdict) -> Said {
    (verdict.action, verdict.slot, verdict.also)
}

/// The region of a packet: there must be exactly one, and in it exactly one box.
fn region<'r, L: std::fmt::Debug>(regions: &'r [Region<L>], case: &Case) -> &'r L {
    let packet = packet_of(case);
    let mut labels = Vec::new();
    for region in regions {
        labels.extend(region.boxes.iter().filter(|one| one.contains(case.direction, &packet)).map(|_| &region.label));
    }
    assert_eq!(labels.len(), 1, "in {labels:?}: {case:?}");
    labels[0]
}

fn expected(interface: &Interface, compiled: &Compiled, deciders: &Deciders, case: &Case) -> Said {
    let verdict = compiled.judge(case.direction, &packet_of(case));
    let got: Expected = deciders.said(verdict, nacl_common::flow::Met::Nothing, case);
    assert_eq!(got, oracle::judge(interface, case), "{case:?}");
    said(verdict)
}

fn check(seed: u64, met: &mut Met) {
    let (mut random, interface) = random(seed);
    let compiled = compile(&interface, None).expect("compiles");
    let deciders = Deciders::of(&interface, &compiled);
    let mut spaces = Vec::new();
    for direction in Direction::ALL {
        for family in FAMILIES {
            let space = Space::of(&[(&interface, &compiled)], direction, family).expect("a space");
            let regions = space.regions(|_, verdicts| Mark::In(said(verdicts[0])));
            for region in &regions {
                for one in &region.boxes {
                    assert!(one.contains(direction, &one.example), "seed {seed}: {one:?}");
                    let case = case_of(direction, &one.example);
                    let expected = expected(&interface, &compiled, &deciders, &case);
                    assert_eq!(expected, region.label, "seed {seed}: {one:?}");
                    *met.entry("boxes").or_default() += 1;
                }
            }
            spaces.push((direction, family, regions));
        }
    }
    for _ in 0..2_000 {
        let mut case = generate::case(&mut random, &interface);
        case.flaw = Flaw::None;
        let family = if case.v6() { Family::V6 } else { Family::V4 };
        let own = spaces.iter().find(|(direction, of, _)| (*direction, *of) == (case.direction, family));
        let (_, _, regions) = own.expect("all four");
        let expected = expected(&interface, &compiled, &deciders, &case);
        assert_eq!(*region(regions, &case), expected, "seed {seed}: {case:?}");
        *met.entry(match case.part {
            Part::Whole => "whole packets",
            Part::Atomic => "atomic fragments",
            Part::First => "first fragments",
            Part::Later => "later fragments",
        })
        .or_default() += 1;
        if unjudged(&compiled.judge(case.direction, &packet_of(&case))) {
            *met.entry("unjudged").or_default() += 1;
        }
    }
}

#[test]
fn regions_are_disjoint_cover_the_space_and_say_what_the_oracle_says() {
    let met = on_all_cores(setting("NACLD_SETS", POLICIES), check);
    for (name, least) in [
        ("boxes", 5_000),
        ("whole packets", 50_000),
        ("first fragments", 5_000),
        ("later fragments", 5_000),
        ("unjudged", 2_000),
    ] {
        assert!(met.get(name).copied().unwrap_or(0) > least, "{name} are hardly met");
    }
}

/// Who would decide without a rule, who decides before it, and whether it ever does, by taking it out and asking the oracle.
fn check_reach(seed: u64, met: &mut Met) {
    let mut random = Random(seed);
    let nacl = generate::interface(&mut random, 12, 12);
    let interface = generate::layered(&mut random, nacl);
    let compiled = compile(&interface, None).expect("compiles");
    for direction in Direction::ALL {
        for family in FAMILIES {
            let space = Space::of(&[(&interface, &compiled)], direction, family).expect("a space");
            let reach = space.reach(0);
            let cases = representatives(&[&interface], direction, family == Family::V6);
            let on = reach.iter().any(|reach| reach.layer == Layer::Nacl);
            for rule in interface.nacl.rules(direction).iter().filter(|rule| on && is_of(rule, family)) {
                let own = reach.iter().find(|reach| {
                    compiled.slots.slots[&reach.slot].rule == Some(rule.number) && reach.layer == Layer::Nacl
                });
                let own = own.expect("every rule of the family is told of");
                let alone = |rule: &Rule| {
                    let nacl = Nacl {
                        name: "alone".into(),
                        id: None,
                        inbound: vec![rule.clone()],
                        outbound: vec![rule.clone()],
                    };
                    Interface { nacl: nacl.into(), subnet_cidrs: Vec::new(), ..interface.clone() }
                };
                let alone = alone(rule);
                let judged = |case: &&Case| oracle::before_rules(&interface, case).is_none();
                let nacl =
                    |interface: &Interface, case: &Case| oracle::nacl(interface, case, false).expect("it is on").by;
                let is = oracle::Decider::Nacl(rule.number);
                let mut matched = cases.iter().filter(|case| nacl(&alone, case) == is).peekable();
                assert_eq!(own.matches(), matched.peek().is_some(), "seed {seed}: {rule:?}");
                let deciders: std::collections::BTreeSet<_> =
                    matched.filter(judged).map(|case| nacl(&interface, case)).collect();
                assert_eq!(own.decides.is_some(), deciders.contains(&is), "seed {seed}: {rule:?} {deciders:?}");
                let translated = Deciders::of(&interface, &compiled);
                let taken =
                    own.taken.iter().map(|(slot, packet)| translated.of_slot(*slot, &case_of(direction, packet)));
                let taken: std::collections::BTreeSet<_> = taken.collect();
                assert_eq!(taken, deciders.into_iter().filter(|by| *by != is).collect(), "seed {seed}: {rule:?}");
                for (slot, packet) in &own.taken {
                    let case = case_of(direction, packet);
                    assert_eq!(nacl(&alone, &case), is);
                    assert_eq!(nacl(&interface, &case), translated.of_slot(*slot, &case));
                }
                let mut without = Nacl::clone(&interface.nacl);
                let rules = if direction == Direction::Inbound { &mut without.inbound } else { &mut without.outbound };
                rules.retain(|other| other.number != rule.number);
                let without = Interface { nacl: without.into(), ..interface.clone() };
                for (slot, packet) in &own.otherwise {
                    let case = case_of(direction, packet);
                    assert_eq!(nacl(&interface, &case), is);
                    assert_eq!(nacl(&without, &case), translated.of_slot(*slot, &case), "seed {seed}: {rule:?}");
                }
                *met.entry(if own.decides.is_some() { "rules that decide" } else { "rules that never decide" })
                    .or_default() += 1;
            }
        }
    }
}

fn is_of(rule: &Rule, family: Family) -> bool {
    rule.cidr.addr().is_ipv6() == (family == Family::V6)
}

#[test]
fn what_reaches_a_rule_is_what_the_oracle_says() {
    let met = on_all_cores(setting("NACLD_SETS", POLICIES) / 4, check_reach);
    assert!(met["rules that decide"] > 200 && met["rules that never decide"] > 20, "{met:?}");
}
