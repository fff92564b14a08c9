//! The two policies that take turns, the kinds of packets that tell them apart, and the proof that they do: of a verdict made
//! by parts of both, some kind shows it. Nothing is run here.
//!
//! Both policies say the same of every kind, each by other rules, in another order, with other address classes and other
//! classes of ports. So whatever is in force, a kind always arrives or never does, and no packet comes to the end of a network
//! ACL's list. On `plain` the network ACL judges alone; what it compares is crossed: of two addresses and two services each
//! goes with one of the other and not with both. On `tracked` both layers judge and connections are remembered: a
//! kind that the network ACL of one policy denies is denied by the security group of the other, so that it passes
//! where the layers are of two policies; and running flows are admitted by the first policy only.

use std::{fmt::Write as _, iter::zip, net::IpAddr};

use nacl_common::Direction;

use crate::support::{
    case::Case,
    host::{SYN, Talk},
    veth::{HERE, NEAR, THERE},
};

/// The interfaces, by their names in the policies.
pub const LANES: [&str; 2] = ["plain", "tracked"];
/// A server of TCP, on both.
pub const PORT: u16 = 7100;
/// The rule of `plain` that is the same in both policies.
pub const SAME: u16 = 50;

/// One kind of packet.
pub struct Kind {
    pub name: &'static str,
    pub v6: bool,
    /// Whether it arrives, under either policy.
    pub admitted: bool,
    /// What differs from packet to packet.
    pub cases: Vec<Case>,
}

const UDP: u8 = 17;
const TCP: u8 = 6;
const HERE6: &str = "2001:db8:77::1";
/// Packets of a kind that are alike, where new connections are not wanted.
const VARIANTS: u16 = 16;
/// New connections of a kind until the first one comes again: more than can begin in the second they are remembered.
const CONNECTIONS: u16 = 16_384;

/// A packet between a host of a network and this one.
fn case(direction: Direction, protocol: u8, network: &str, host: u16, (sport, dport): (u16, u16)) -> Case {
    let remote = format!("{network}{host}");
    let here = if network.contains(':') { HERE6.to_owned() } else { HERE.to_string() };
    let talk = match direction {
        Direction::Inbound => Talk::inbound(protocol, &remote, &here, dport),
        Direction::Outbound => Talk::outbound(protocol, &remote, &here, dport),
    };
    talk.from(sport).request(SYN)
}

/// The kinds of an interface and a direction.
pub fn kinds(lane: &str, direction: Direction) -> Vec<Kind> {
    if lane == "plain" { plain(direction) } else { tracked(direction) }
}

fn plain(direction: Direction) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for (v6, protocol, [one, other], names) in [
        (false, UDP, ["198.51.100.", "203.0.113."], ["x-one-4", "y-one-4", "y-other-4", "x-other-4"]),
        (true, TCP, ["2001:db8:1::", "2001:db8:2::"], ["x-one-6", "y-one-6", "y-other-6", "x-other-6"]),
    ] {
        for (name, (network, port, admitted)) in
            zip(names, [(one, 4001, true), (one, 5001, false), (other, 4001, false), (other, 5001, true)])
        {
            let cases =
                (0..VARIANTS).map(|at| case(direction, protocol, network, 1 + at % 4, (40_000 + at, port + at / 4)));
            kinds.push(Kind { name, v6, admitted, cases: cases.collect() });
        }
    }
    let same = (0..VARIANTS).map(|at| case(direction, UDP, "192.0.2.", 1 + at, (40_000, 7000)));
    kinds.push(Kind { name: "same-rule", v6: false, admitted: true, cases: same.collect() });
    kinds
}

fn tracked(direction: Direction) -> Vec<Kind> {
    let new = |name, network, port, admitted| {
        let cases = (0..CONNECTIONS).map(|at| case(direction, TCP, network, 1 + at % 4, (20_000 + at, port)));
        Kind { name, v6: false, admitted, cases: cases.collect() }
    };
    // One port stays the same, at the end that was asked first: what goes out is what answers what came in.
    let flows = (0..4).map(|at| {
        let talk = Talk::inbound(UDP, "198.51.100.8", &HERE.to_string(), 6000).from(30_000 + at);
        if direction == Direction::Inbound { talk.request(0) } else { talk.reply(0) }
    });
    vec![
        Kind { name: "flows", v6: false, admitted: true, cases: flows.collect() },
        new("x-new", "198.51.100.", 4001, true),
        new("y-list-then-group", "198.51.100.", 5001, false),
        new("y-group-then-list", "203.0.113.", 5001, false),
    ]
}

/// The policies. `here`: the namespaces of the interfaces, as [`LANES`] has them.
pub fn policies(here: [&str; 2]) -> [String; 2] {
    [first(here), second(here)]
}

struct Rules(String);

impl Rules {
    fn rule(&mut self, number: u32, action: &str, protocol: &str, ports: &str, end: &str, cidr: &str) {
        writeln!(
            self.0,
            "  {{ rule = {number}, action = \"{action}\", protocol = \"{protocol}\", ports = \"{ports}\", {end} = \"{cidr}\" }},"
        )
        .expect("a string");
    }
}

/// Which key says where packets of a direction come from or go to.
const WAYS: [(&str, &str); 2] = [("inbound", "source"), ("outbound", "destination")];

fn interfaces(here: [&str; 2]) -> String {
    // A second is the least a new connection is remembered, so that the same ports are soon a new one again.
    let mut text = String::from("[tracking]\ntcp_opening = 1\n");
    for (lane, netns) in zip(LANES, here) {
        write!(text, "[interface.{lane}]\ndevice = \"{NEAR}\"\nnetns = \"{netns}\"\nnacl = \"{lane}\"\n")
            .expect("a string");
        if lane == "tracked" {
            text.push_str("mode = \"stateful\"\nsecurity_groups = [\"members\"]\n");
        }
    }
    text
}

fn same_rule(rules: &mut Rules, end: &str) {
    rules.rule(SAME.into(), "allow", "udp", "7000", end, "192.0.2.0/24");
}

/// Short lists: a generation of the smallest tier.
fn first(here: [&str; 2]) -> String {
    let mut text = String::from("version = 1\n") + &interfaces(here) + "[nacl.plain]\n";
    for (way, end) in WAYS {
        let mut rules = Rules(String::new());
        same_rule(&mut rules, end);
        rules.rule(100, "allow", "udp", "4000-4999", end, "198.51.100.0/24");
        rules.rule(110, "deny", "udp", "5000-5999", end, "198.51.100.0/24");
        rules.rule(120, "deny", "udp", "4000-4999", end, "203.0.113.0/24");
        rules.rule(130, "allow", "udp", "5000-5999", end, "203.0.113.0/24");
        rules.rule(200, "allow", "tcp", "4000-4999", end, "2001:db8:1::/48");
        rules.rule(210, "deny", "tcp", "5000-5999", end, "2001:db8:1::/48");
        rules.rule(220, "deny", "tcp", "4000-4999", end, "2001:db8:2::/48");
        rules.rule(230, "allow", "tcp", "5000-5999", end, "2001:db8:2::/48");
        let ports = if way == "inbound" { PORT.to_string() } else { "1024-65535".into() };
        rules.rule(300, "allow", "tcp", &ports, end, &format!("{THERE}/32"));
        write!(text, "{way} = [\n{}]\n", rules.0).expect("a string");
    }
    text.push_str("[nacl.tracked]\n");
    for (way, end) in WAYS {
        let mut rules = Rules(String::new());
        if way == "inbound" {
            rules.rule(100, "allow", "udp", "6000-6003", end, "198.51.100.8/32");
            rules.rule(300, "allow", "tcp", &PORT.to_string(), end, &format!("{THERE}/32"));
        }
        rules.rule(110, "allow", "tcp", "4000-4999", end, "198.51.100.0/24");
        rules.rule(120, "deny", "tcp", "5000-5999", end, "198.51.100.0/24");
        rules.rule(130, "allow", "tcp", "5000-5999", end, "203.0.113.0/24");
        write!(text, "{way} = [\n{}]\n", rules.0).expect("a string");
    }
    text.push_str("[security_group.members]\n");
    for (way, end) in WAYS {
        writeln!(text, "{way} = [").expect("a string");
        if way == "inbound" {
            writeln!(text, "  {{ protocol = \"udp\", ports = \"6000-6003\", {end} = \"198.51.100.8/32\" }},")
                .expect("a string");
            writeln!(text, "  {{ protocol = \"tcp\", ports = {PORT}, {end} = \"{THERE}/32\" }},").expect("a string");
        }
        for ports in ["4000-4999", "5000-5999"] {
            writeln!(text, "  {{ protocol = \"tcp\", ports = \"{ports}\", {end} = \"198.51.100.0/24\" }},")
                .expect("a string");
        }
        text.push_str("]\n");
    }
    text
}

/// Rules that no packet meets, each with a class of its own: they make `plain` a generation of the next tier.
const FILLERS: u32 = 140;

/// The same in another order, with other bounds, behind rules that mean nobody.
fn second(here: [&str; 2]) -> String {
    let mut text = String::from("version = 1\n\n\n") + &interfaces(here) + "[nacl.plain]\n";
    for (way, end) in WAYS {
        let mut rules = Rules(String::new());
        for at in 0..FILLERS {
            let action = ["deny", "allow"][at as usize % 2];
            let ports = format!("{}-{}", 10_000 + at * 7, 10_020 + at * 9);
            rules.rule(1000 + at, action, "udp", &ports, end, &format!("100.64.{}.{}/32", at / 200, at % 200));
        }
        let ports = if way == "inbound" { PORT.to_string() } else { "1024-65535".into() };
        rules.rule(20, "allow", "tcp", &ports, end, "10.77.0.0/30");
        same_rule(&mut rules, end);
        rules.rule(2000, "allow", "tcp", "5001-5020", end, "2001:db8:2::/64");
        rules.rule(2010, "deny", "tcp", "4001-4030", end, "2001:db8:2::/64");
        rules.rule(2020, "deny", "tcp", "5001-5040", end, "2001:db8:1::/56");
        rules.rule(2030, "allow", "tcp", "4001-4050", end, "2001:db8:1::/56");
        rules.rule(2040, "allow", "udp", "5001-5060", end, "203.0.113.0/25");
        rules.rule(2050, "deny", "udp", "4001-4070", end, "203.0.113.0/25");
        rules.rule(2060, "deny", "udp", "5001-5080", end, "198.51.100.0/26");
        rules.rule(2070, "allow", "udp", "4001-4090", end, "198.51.100.0/26");
        write!(text, "{way} = [\n{}]\n", rules.0).expect("a string");
    }
    text.push_str("[nacl.tracked]\n");
    for (way, end) in WAYS {
        let mut rules = Rules(String::new());
        // What is remembered passes all the same.
        rules.rule(10, "deny", "udp", "1-65535", end, "198.51.100.8/29");
        rules.rule(20, "deny", "tcp", "1024-65535", end, "10.77.0.0/24");
        rules.rule(30, "deny", "tcp", "5001-5010", end, "203.0.113.0/28");
        rules.rule(40, "allow", "tcp", "5001-5020", end, "198.51.100.0/28");
        rules.rule(50, "allow", "tcp", "4001-4030", end, "198.51.100.0/28");
        write!(text, "{way} = [\n{}]\n", rules.0).expect("a string");
    }
    text.push_str("[security_group.members]\n");
    for (way, end) in WAYS {
        writeln!(
            text,
            "{way} = [\n  {{ protocol = \"tcp\", ports = \"5001-5010\", {end} = \"203.0.113.0/28\" }},\n  {{ protocol = \"tcp\", ports = \"4001-4030\", {end} = \"198.51.100.0/28\" }},\n]"
        )
        .expect("a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap};

    use nacl_common::{
        Action, Layer,
        border::{Header, Tier, list_index},
        evaluate::Says,
        packet,
        tables::{self, Image, Key, Node, Settle},
    };
    use nacl_daemon::{
        compile::{Compiled, Generation, compile},
        engine::Engine,
        policy,
        resolve::{Interface, NoHost},
    };

    use super::*;

    fn compiled() -> [BTreeMap<String, (Interface, Compiled)>; 2] {
        policies(["here", "there"]).map(|text| {
            let (_, outcome) = policy::load_bytes("policy.toml", text.into_bytes(), &NoHost);
            let resolved = outcome.resolved.unwrap_or_else(|| panic!("{:?}", outcome.diagnostics));
            let compiled = |interface: Interface| {
                let compiled = compile(&interface, None).expect("it fits");
                (interface, compiled)
            };
            resolved.interfaces.into_iter().map(|(name, interface)| (name, compiled(interface))).collect()
        })
    }

    /// A generation of which the first reads are of one policy and the others of the next one.
    struct Torn<'g> {
        images: [&'g Generation; 2],
        reads: Cell<u32>,
        at: u32,
    }

    impl Torn<'_> {
        fn which(&self) -> &Generation {
            let read = self.reads.replace(self.reads.get() + 1);
            self.images[usize::from(read >= self.at)]
        }
    }

    impl Settle for Torn<'_> {}

    impl Image for Torn<'_> {
        const ROWS: bool = false;

        fn header(&self) -> &Header {
            match self.which() {
                Generation::Small(image) => image.header(),
                Generation::Medium(image) => image.header(),
                Generation::Large(image) => image.header(),
            }
        }

        fn half(&self, index: u32) -> u32 {
            match self.which() {
                Generation::Small(image) => image.half(index),
                Generation::Medium(image) => image.half(index),
                Generation::Large(image) => image.half(index),
            }
        }

        fn word(&self, index: u32) -> u64 {
            match self.which() {
                Generation::Small(image) => image.word(index),
                Generation::Medium(image) => image.word(index),
                Generation::Large(image) => image.word(index),
            }
        }

        fn node(&self, index: u32) -> &Node {
            match self.which() {
                Generation::Small(image) => image.node(index),
                Generation::Medium(image) => image.node(index),
                Generation::Large(image) => image.node(index),
            }
        }
    }

    fn key(case: &Case) -> Key {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => address.into(),
        };
        let remote = number(case.remote);
        let (frame, _) = case.bytes();
        let packet = packet::parse(frame.as_slice(), 0).expect("a whole packet");
        let l4 = u32::from(case.dport) + if case.protocol == UDP { 256 << 8 } else { 0 };
        assert_eq!(packet.dport, case.dport);
        Key { v6: case.v6().into(), remote: [(remote >> 64) as u64, remote as u64], l4 }
    }

    #[test]
    fn either_policy_says_the_same_of_every_kind_and_never_at_the_end_of_a_list() {
        let [first, second] = compiled();
        assert_eq!(first["plain"].1.generation.tier(), Tier::Small);
        assert_eq!(second["plain"].1.generation.tier(), Tier::Medium);
        for (policy, other) in [(&first, &second), (&second, &first)] {
            for lane in LANES {
                for direction in Direction::ALL {
                    let (interface, compiled) = &policy[lane];
                    let mut engine = Engine::new(interface, compiled);
                    let mut number = 0;
                    for kind in kinds(lane, direction) {
                        for case in &kind.cases {
                            let (frame, _) = case.bytes();
                            let packet = packet::parse(frame.as_slice(), 0).expect("a whole packet");
                            assert_eq!(case.v6(), kind.v6);
                            let says = compiled.says(engine.at(), direction, &packet, None);
                            // Which of them are admitted is told apart below.
                            if kind.name == "flows" {
                                continue;
                            }
                            let verdict = engine.judge(direction, &packet);
                            assert_eq!(verdict.action == Action::Allow, kind.admitted, "{} {case:?}", kind.name);
                            let list = says.iter().find(|(layer, _)| *layer == Layer::Nacl).expect("it was asked");
                            let slot = compiled.slots.slots.get(&list.1.slot).expect("a slot");
                            assert!(slot.rule.is_some(), "{} ends at the end: {slot:?}", kind.name);
                            // By rules that the other policy does not have.
                            let theirs = other[lane].1.slots.slots.values().any(|one| one.same_rule(slot));
                            assert_eq!(theirs, kind.name == "same-rule", "{slot:?}");
                            number += 1;
                        }
                    }
                    assert!(number > 100);
                }
            }
        }
    }

    #[test]
    fn running_flows_are_admitted_by_one_policy_and_denied_by_the_other() {
        let [first, second] = compiled();
        let (mut engine, mut forgetful) = {
            let new = |policy: &BTreeMap<String, (Interface, Compiled)>| {
                let (interface, compiled) = &policy["tracked"];
                Engine::new(interface, compiled)
            };
            (new(&first), new(&second))
        };
        let ask = |engine: &mut Engine, direction| {
            let all = kinds("tracked", direction);
            let cases = &all.iter().find(|kind| kind.name == "flows").expect("a kind").cases;
            let judge = |case: &Case| {
                let (frame, _) = case.bytes();
                engine.judge(direction, &packet::parse(frame.as_slice(), 0).expect("a whole packet")).action
            };
            let mut actions: Vec<_> = cases.iter().map(judge).collect();
            actions.dedup();
            actions
        };
        for direction in Direction::ALL {
            assert_eq!(ask(&mut forgetful, direction), [Action::Deny]);
            assert_eq!(ask(&mut engine, direction), [Action::Allow]);
        }
        let (interface, compiled) = &second["tracked"];
        engine.install(interface, compiled);
        for direction in Direction::ALL {
            assert_eq!(ask(&mut engine, direction), [Action::Allow], "it is remembered");
        }
    }

    /// Wherever a verdict is torn, some kind shows it: what always arrives would not, or the other way round, or it ends
    /// in a slot that no rule of the kind has.
    #[test]
    fn a_verdict_of_two_policies_shows() {
        let [first, second] = compiled();
        for (one, other) in [(&first, &second), (&second, &first)] {
            let images = [&one["plain"].1.generation, &other["plain"].1.generation];
            for direction in Direction::ALL {
                // By family and place of the tear: kinds that show it, and kinds that were read on after it.
                let mut shown: BTreeMap<(bool, u32), Vec<(&str, bool)>> = BTreeMap::new();
                for kind in kinds("plain", direction).iter().filter(|kind| kind.name != "same-rule") {
                    let case = &kind.cases[0];
                    let judge = |at| {
                        let torn = Torn { images, reads: Cell::new(0), at };
                        let list = torn.header().lists[list_index(direction, kind.v6)];
                        let (allows, _) = tables::split(tables::first_match(&torn, &list, &key(case)));
                        (allows, torn.reads.get())
                    };
                    let (whole, reads) = judge(u32::MAX);
                    assert_eq!(whole, kind.admitted);
                    for at in 1..reads {
                        let (allows, _) = judge(at);
                        shown.entry((kind.v6, at)).or_default().push((kind.name, allows != kind.admitted));
                    }
                }
                assert!(shown.len() > 6);
                for ((v6, at), kinds) in shown {
                    let wrong = kinds.iter().filter(|(_, wrong)| *wrong).count();
                    assert!(wrong > 0, "IPv6: {v6}, torn at read {at}: {kinds:?}");
                }
            }
        }
    }

    /// The layers of two policies: what each denies by another layer would pass.
    #[test]
    fn layers_of_two_policies_show() {
        let [first, second] = compiled();
        let ask = |policy: &BTreeMap<String, (Interface, Compiled)>, direction, case: &Case, layer| {
            let (interface, compiled) = &policy["tracked"];
            let engine = Engine::new(interface, compiled);
            let (frame, _) = case.bytes();
            let packet = packet::parse(frame.as_slice(), 0).expect("a whole packet");
            let says: Vec<(Layer, Says)> = compiled.says(engine.at(), direction, &packet, None);
            let says = says.into_iter().find(|(one, _)| *one == layer).expect("it was asked").1;
            compiled.slots.slots[&says.slot].action == Action::Allow
        };
        for direction in Direction::ALL {
            for (list, group) in [(&first, &second), (&second, &first)] {
                let passes = kinds("tracked", direction)
                    .iter()
                    .filter(|kind| !kind.admitted)
                    .filter(|kind| {
                        let case = &kind.cases[0];
                        ask(list, direction, case, Layer::Nacl) && ask(group, direction, case, Layer::SecurityGroup)
                    })
                    .count();
                assert_eq!(passes, 1);
            }
        }
    }
}
