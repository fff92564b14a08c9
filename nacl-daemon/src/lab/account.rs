//! What was seen on the wire during a step, and whether it can be explained: every packet that a host sent, put past the
//! engine in the order of their times, must be what the programs counted, reason by reason and slot by slot. Judges with
//! the engine only; sockets and kernels are `wire`'s.
//!
//! Order. All taps have one clock. A packet is stamped as it leaves its host and before any hook sees it, and whatever it
//! causes is stamped later, so of two packets of which one is the reason for the other the order is known. Packets that
//! cross each other on the wire may change places: they belong to a connection that is remembered by then, or to none, and
//! either way each is judged the same whichever comes first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nacl_common::{
    Action, Direction, Event, Family, Layer, Packet, Reason, Verdict,
    border::{FIRST_RULE_SLOT, NO_SLOT},
};

use super::{
    Lab, Outcome,
    ask::Noticed,
    expect::{Crossing, Decision},
    file::{Policy, Probe},
    legs::{Connection, Passage},
    outcome::{Observation, RuleCount},
    paper::{self, Engine, Judge},
    tap::Sight,
};
use crate::{analyze::number, compile::SlotTable, dataplane::Counters};

/// Counters of every hook, by the host behind it.
pub type ByHook<T> = BTreeMap<String, T>;

/// A policy in force, for as long as nothing replaces it.
pub struct InForce {
    /// The policy.
    pub policy: Policy,
    /// Its epoch at each hook.
    pub epochs: ByHook<u32>,
}

/// A policy that was replaced during a step.
pub struct Changed {
    /// When the change began.
    pub from: Duration,
    /// When it was in force at every hook.
    pub to: Duration,
}

/// Everything that was seen during a step.
pub struct Account<'a> {
    lab: &'a Lab,
    in_force: &'a [InForce],
    changed: Option<&'a Changed>,
    sights: &'a BTreeMap<String, Vec<Sight>>,
    events: &'a ByHook<Vec<Event>>,
    before: &'a ByHook<Counters>,
    after: &'a ByHook<Counters>,
    crossed: Vec<Crossed<'a>>,
}

/// A packet at a hook, judged by the engine.
struct Crossed<'a> {
    hook: &'a str,
    direction: Direction,
    packet: Packet,
    /// Which of the policies was in force.
    policy: usize,
    verdict: Verdict,
    /// It came while the policy was being replaced.
    unsure: bool,
}

/// One case of a probe that was asked.
pub struct Asked<'a> {
    /// The probe.
    pub probe: &'a Probe,
    /// What the client noticed.
    pub noticed: Noticed,
    /// Its source port, as the hooks see it; `None` where others choose it, or where there is none.
    pub port: Option<u16>,
    /// Something was put in force while its answer was on its way.
    pub changed: bool,
}

/// Packets of one direction of a connection.
#[derive(Clone, Copy)]
struct Leg {
    packet: Packet,
    /// Whoever asks has a port that nobody chose; `true` where it is the destination.
    free: Option<bool>,
}

impl Leg {
    fn is(&self, other: &Packet) -> bool {
        let mut packet = self.packet;
        match self.free {
            Some(true) => packet.dport = other.dport,
            Some(false) => packet.sport = other.sport,
            None => {}
        }
        same_flow(&packet, other)
    }
}

impl<'a> Account<'a> {
    /// Puts together what was seen. The engine stands where the step began, and afterwards where it ends; `zero` is the time
    /// that its clock began at.
    #[expect(clippy::too_many_arguments, reason = "all that was seen, and what it is held against")]
    pub fn new(
        lab: &'a Lab,
        in_force: &'a [InForce],
        changed: Option<&'a Changed>,
        sights: &'a BTreeMap<String, Vec<Sight>>,
        events: &'a ByHook<Vec<Event>>,
        before: &'a ByHook<Counters>,
        after: &'a ByHook<Counters>,
        engine: &mut Engine,
        zero: Duration,
    ) -> Self {
        let mut account = Self { lab, in_force, changed, sights, events, before, after, crossed: Vec::new() };
        account.replay(engine, zero);
        account
    }

    fn replay(&mut self, engine: &mut Engine, zero: Duration) {
        let lab = self.lab;
        let hosts: BTreeMap<[u64; 2], &str> = lab
            .hosts
            .iter()
            .flat_map(|(name, host)| host.addresses.iter().map(move |at| (number(at.addr()), name.as_str())))
            .collect();
        let each = self.sights.iter().flat_map(|(host, sights)| sights.iter().map(move |sight| (host.as_str(), sight)));
        let mut all: Vec<(&str, &Sight)> = each.collect();
        // Of what one tap saw the order is known in any case.
        all.sort_by_key(|(_, sight)| sight.at);
        let mut policy = 0;
        for (host, Sight { at, sent, packet }) in all {
            if self.changed.is_some_and(|changed| policy == 0 && *at >= changed.to) {
                policy = 1;
                engine.set_time(since(zero, *at));
                let Ok(()) = engine.install(&self.in_force[policy].policy);
            }
            let unsure = self.changed.is_some_and(|changed| (changed.from..changed.to).contains(at));
            engine.set_time(since(zero, *at));
            let mut cross = |hook, direction| {
                let Ok(verdict) = engine.judge(hook, direction, packet);
                self.crossed.push(Crossed { hook, direction, packet: *packet, policy, verdict, unsure });
                verdict.action == Action::Allow
            };
            let behind = |host: &str| lab.hooks.iter().find(|hook| **hook == host).map(String::as_str);
            if !sent {
                // What the router itself has sent is seen only where it arrives.
                if let Some(hook) = behind(host).filter(|_| !hosts.contains_key(&packet.src)) {
                    cross(hook, Direction::Inbound);
                }
                continue;
            }
            let left = behind(host).is_none_or(|hook| cross(hook, Direction::Outbound));
            let to = hosts.get(&packet.dst).and_then(|host| behind(host));
            if let (true, Some(hook)) = (left, to) {
                cross(hook, Direction::Inbound);
            }
        }
        if let (Some(changed), 0) = (self.changed, policy) {
            engine.set_time(since(zero, changed.to));
            let Ok(()) = engine.install(&self.in_force[1].policy);
        }
    }

    /// One direction of a connection of a probe. `port`: the client's, if it is known.
    fn leg(&self, probe: &Probe, connection: Connection<'_>, reply: bool, port: Option<u16>) -> Leg {
        let flow = paper::flow(self.lab, probe, connection, port.unwrap_or_default());
        let (Ok(request), Ok(Some(back))) = (flow.request(), flow.reply()) else {
            unreachable!("every protocol of a probe is answered, within one family")
        };
        let has_ports = probe.protocol.transport().is_some();
        Leg { packet: if reply { back } else { request }, free: (has_ports && port.is_none()).then_some(reply) }
    }

    /// Whether a host sent or received a packet of a leg.
    fn saw(&self, host: &str, sent: bool, leg: Leg) -> bool {
        let sights = self.sights.get(host);
        sights.is_some_and(|sights| sights.iter().any(|sight| sight.sent == sent && leg.is(&sight.packet)))
    }

    /// The ports from which somebody asked, as the tap of their host saw them leave.
    pub fn ports_of(&self, probe: &Probe) -> BTreeSet<u16> {
        let leg = self.leg(probe, self.lab.connections(probe)[0], false, None);
        let sights = self.sights.get(&probe.from).into_iter().flatten();
        sights.filter(|sight| sight.sent && leg.is(&sight.packet)).map(|sight| sight.packet.sport).collect()
    }

    /// Whether something came back to a port, as the tap of the host that asked saw it.
    pub fn came_back(&self, probe: &Probe, port: u16) -> bool {
        self.saw(&probe.from, false, self.leg(probe, self.lab.connections(probe)[0], true, Some(port)))
    }

    /// What became of a case, and what is strange about it.
    pub fn observe(&self, asked: &Asked<'_>) -> (Observation, Vec<String>) {
        let probe = asked.probe;
        let mut problems = Vec::new();
        let port = asked.port.map(|port| format!(", port {port}")).unwrap_or_default();
        let complain = |what: String| format!("{}{port}: {what}", probe.name);
        let first = self.lab.connections(probe)[0];
        let outcome = match &asked.noticed {
            Noticed::Answer(_) => Outcome::Answered,
            Noticed::Stall if asked.changed => Outcome::Cut,
            Noticed::Stall => Outcome::Stalled,
            // A client cannot know which leg died. The taps do: did the request reach the other host, and did it answer?
            Noticed::Silence | Noticed::Error(_) => {
                let arrived = self.saw(&probe.to, false, self.leg(probe, first, false, asked.port));
                let answered = self.saw(&probe.to, true, self.leg(probe, first, true, asked.port));
                if let Noticed::Error(what) = &asked.noticed {
                    problems.push(complain(format!("the client got an error, not silence: {what}")));
                } else if arrived && !answered {
                    problems.push(complain("the request arrived and was not answered".into()));
                }
                if arrived { Outcome::ReplyDropped } else { Outcome::RequestDropped }
            }
        };
        let mut seen = Observation { outcome, ..Observation::default() };
        let mut walk = |passages: Vec<Passage<'_>>, policy: usize| {
            let mut crossings = Vec::new();
            for passage in passages {
                let port = asked.port.filter(|_| passage.connection == 0);
                let leg = self.leg(probe, self.lab.connections(probe)[passage.connection], passage.reply, port);
                match self.decided(&passage, leg, policy) {
                    Ok((pass, by)) => {
                        crossings.push(Crossing { hook: passage.hook.to_owned(), by });
                        if !pass {
                            break;
                        }
                    }
                    Err(what) => problems.push(complain(what)),
                }
            }
            crossings
        };
        let mut passages = self.lab.passages(probe, outcome);
        if outcome == Outcome::RequestDropped {
            passages.retain(|passage| !passage.reply);
        }
        seen.path = walk(passages, 0);
        if self.lab.meets_narrow_link(probe) && matches!(outcome, Outcome::Answered | Outcome::Stalled) {
            seen.icmp_error = match self.error_decided(probe) {
                Ok(crossing) => Some(crossing),
                Err(what) => {
                    problems.push(complain(what));
                    None
                }
            };
        } else if asked.changed {
            seen.after = walk(self.lab.passages_after(probe), 1);
        }
        (seen, problems)
    }

    /// What decided a router's ICMP error at the hook of who is asked.
    fn error_decided(&self, probe: &Probe) -> Result<Crossing, String> {
        let passage = Passage { connection: 0, reply: false, hook: &probe.to, direction: Direction::Inbound };
        let leg = Leg { packet: paper::too_big(self.lab, probe), free: None };
        let (_, by) = self.decided(&passage, leg, 0)?;
        Ok(Crossing { hook: probe.to.clone(), by })
    }

    /// What the program at a hook reported to have decided for the first packet of a leg, and whether it passed. `policy`:
    /// under which one.
    fn decided(&self, passage: &Passage<'_>, leg: Leg, policy: usize) -> Result<(bool, Decision), String> {
        let Passage { hook, direction, .. } = *passage;
        let slots = &self.in_force[policy].policy.at(hook).compiled.slots;
        let epoch = self.in_force[policy].epochs.get(hook);
        let of = |verdict: &Verdict| (verdict.action == Action::Allow, Decision::of(slots, direction, verdict));
        // Where nobody chose the port there may be several connections, and what decides must be the same for each.
        let mut reported = BTreeMap::new();
        for event in self.events.get(hook).into_iter().flatten() {
            let about = event.direction == direction as u8 && Some(&event.epoch) == epoch;
            if let Some(packet) = packet_of(event, &leg.packet).filter(|packet| about && leg.is(packet)) {
                reported.entry((packet.sport, packet.dport)).or_insert_with(|| of(&verdict_of(event)));
            }
        }
        let mut judged = BTreeMap::new();
        for crossed in &self.crossed {
            let about = (crossed.hook, crossed.direction, crossed.policy) == (hook, direction, policy);
            if about && leg.is(&crossed.packet) {
                let key = (crossed.packet.sport, crossed.packet.dport);
                judged.entry(key).or_insert_with(|| of(&crossed.verdict));
            }
        }
        let suppressed =
            |counters: &ByHook<Counters>| counters.get(hook).map_or(0, |counters| counters.events_suppressed);
        if suppressed(self.after) > suppressed(self.before) {
            // Events are samples. The counters, which are not, are checked against the same engine.
            reported = judged;
        } else if let Some((key, (_, by))) =
            reported.iter().find(|(key, by)| judged.get(*key).is_some_and(|other| other != *by))
        {
            let (_, engine) = &judged[key];
            return Err(format!("at the hook of {hook} the program says {by}, and the engine {engine}"));
        }
        let all: BTreeSet<_> = reported.into_values().collect();
        match all.len() {
            1 => all.into_iter().next().ok_or_else(String::new),
            0 => Err(format!("the program at the hook of {hook} reported no {} packet of it", direction.name())),
            _ => Err(format!("different things decided its {} packets at the hook of {hook}", direction.name())),
        }
    }

    /// Every counter must have moved by what was sent and judged, but for so many frames as the kernel says were `lost` on their way
    /// to a hook. Returns what counted, and says what cannot be explained.
    pub fn check_counters(&self, probes: &[Probe], lost: u64, problems: &mut Vec<String>) -> Vec<RuleCount> {
        let mut counts = Vec::new();
        for hook in &self.lab.hooks {
            let none = Counters::default();
            let before = self.before.get(hook).unwrap_or(&none);
            let after = self.after.get(hook).unwrap_or(&none);
            let crossed = || self.crossed.iter().filter(|crossed| crossed.hook == hook.as_str());
            let unsure = crossed().filter(|crossed| crossed.unsure).count() as u64;
            let (mut slots, mut reasons): (BTreeMap<u16, u64>, BTreeMap<_, u64>) = Default::default();
            for Crossed { verdict, direction, .. } in crossed() {
                for slot in [verdict.slot, verdict.also].into_iter().filter(|slot| *slot != NO_SLOT) {
                    *slots.entry(slot).or_default() += 1;
                }
                *reasons.entry((verdict.reason, *direction)).or_default() += 1;
            }
            // What the router sends by itself and a hook denies is seen by nobody.
            let loose: Vec<Verdict> = probes
                .iter()
                .filter(|probe| self.lab.meets_narrow_link(probe) && probe.to == *hook)
                .map(|probe| {
                    let compiled = &self.in_force[0].policy.at(hook).compiled;
                    compiled.judge(Direction::Inbound, &paper::too_big(self.lab, probe))
                })
                .filter(|verdict| verdict.action == Action::Deny)
                .collect();
            let holds = |moved: u64, expected: u64, loose: bool| {
                moved + unsure + lost >= expected && (loose || moved <= expected + unsure)
            };

            let meanings: BTreeMap<&u16, _> =
                self.in_force.iter().flat_map(|it| &it.policy.at(hook).compiled.slots.slots).collect();
            let known: BTreeSet<u16> =
                meanings.keys().copied().chain(slots.keys()).chain(after.slots.keys()).copied().collect();
            // A change that gives a slot to another rule has its counter begin anew.
            let slots_of = |it: &'a InForce| &it.policy.at(hook).compiled.slots;
            let fresh: BTreeSet<u16> =
                self.in_force.windows(2).flat_map(|pair| slots_of(&pair[1]).new_since(slots_of(&pair[0]))).collect();
            for slot in known {
                let packets = |counters: &Counters| counters.slots.get(&slot).map_or(0, |counter| counter.packets);
                let was = if fresh.contains(&slot) { 0 } else { packets(before) };
                let moved = packets(after).saturating_sub(was);
                let expected = slots.get(&slot).copied().unwrap_or(0);
                let rule = self.decider(hook, slot);
                let family = meanings.get(&slot).map_or(0, |meaning| meaning.family as u8);
                if !holds(moved, expected, loose.iter().any(|verdict| verdict.slot == slot)) {
                    problems.push(format!(
                        "{hook}: {rule} (IPv{family}) counted {moved} packets, and the taps saw {expected} sent that it had to count"
                    ));
                }
                if moved > 0 {
                    counts.push(RuleCount { hook: hook.clone(), rule, family, packets: moved, expected });
                }
            }

            let known: BTreeSet<_> = reasons.keys().chain(after.reasons.keys()).copied().collect();
            for (reason, direction) in known {
                // What IPv6 and Ethernet need of themselves passes unjudged, and no host's affair is how often.
                if matches!(reason, Reason::Arp | Reason::NeighbourDiscovery | Reason::Mld) {
                    continue;
                }
                let packets = |counters: &Counters| {
                    counters.reasons.get(&(reason, direction)).map_or(0, |counter| counter.packets)
                };
                let moved = packets(after).saturating_sub(packets(before));
                let expected = reasons.get(&(reason, direction)).copied().unwrap_or(0);
                let errors = direction == Direction::Inbound && loose.iter().any(|verdict| verdict.reason == reason);
                if !holds(moved, expected, errors) {
                    problems.push(format!(
                        "{hook}: {moved} {} packets met {:?}, and the taps saw {expected} sent that had to",
                        direction.name(),
                        reason.name()
                    ));
                }
            }
        }
        counts
    }

    /// What a slot of a hook stands for, under the policy that has it.
    fn decider(&self, hook: &str, slot: u16) -> crate::compile::Decider {
        let tables: Vec<&SlotTable> = self.in_force.iter().map(|it| &*it.policy.at(hook).compiled.slots).collect();
        let table = tables.iter().find(|table| slot < FIRST_RULE_SLOT || table.slots.contains_key(&slot));
        table.unwrap_or(&tables[0]).decider(slot, Reason::NaclRule)
    }
}

/// Nanoseconds on the engine's clock.
pub fn since(zero: Duration, at: Duration) -> u64 {
    u64::try_from(at.saturating_sub(zero).as_nanos()).unwrap_or(u64::MAX)
}

/// Whether two packets belong to the same leg of the same flow.
pub fn same_flow(one: &Packet, other: &Packet) -> bool {
    let ports = |packet: &Packet| {
        // The identifier of an echo is the system's to choose.
        let icmp = matches!((packet.protocol, packet.family), (1, Family::V4) | (58, Family::V6));
        (if icmp { 0 } else { packet.sport }, packet.dport)
    };
    (one.family, one.protocol, one.src, one.dst) == (other.family, other.protocol, other.src, other.dst)
        && ports(one) == ports(other)
}

/// The packet an event is about, as far as it tells; `like` has the rest.
pub fn packet_of(event: &Event, like: &Packet) -> Option<Packet> {
    let family = match event.family {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    Some(Packet {
        family,
        protocol: event.protocol,
        src: event.src,
        dst: event.dst,
        sport: event.sport,
        dport: event.dport,
        tcp_flags: event.tcp_flags,
        ident: 0,
        ..*like
    })
}

/// The verdict that an event reports.
pub fn verdict_of(event: &Event) -> Verdict {
    let layers = [Layer::None, Layer::Nacl, Layer::SecurityGroup];
    Verdict {
        action: if event.action == Action::Allow as u8 { Action::Allow } else { Action::Deny },
        reason: Reason::from_number(event.reason).unwrap_or(Reason::NoGeneration),
        layer: layers.into_iter().find(|layer| *layer as u8 == event.layer).unwrap_or(Layer::None),
        slot: event.slot,
        also: event.also,
    }
}

#[cfg(test)]
mod tests {
    use nacl_common::{Counter, border::tracked_slot};

    use super::*;
    use crate::{lab::file, resolve::Mode};

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// L02 in a mode, and a handshake in it: what the client and the server send.
    fn handshake(mode: Mode) -> (Lab, InForce, [Packet; 2]) {
        let lab = file::load("l02").expect("L02");
        let policy = lab.plan(mode).expect("valid").remove(0).policy;
        let probe = &lab.steps[0].probes[0];
        let flow = paper::flow(&lab, probe, lab.connections(probe)[0], 52345);
        let packets = [flow.request().expect("request"), flow.reply().expect("reply").expect("reply")];
        (lab, InForce { policy, epochs: [("server".to_owned(), 1)].into() }, packets)
    }

    fn counters(slots: &[(u16, u64)], reasons: &[(Reason, Direction)]) -> ByHook<Counters> {
        let count = |packets| Counter { packets, bytes: 0 };
        let counters = Counters {
            slots: slots.iter().map(|&(slot, packets)| (slot, count(packets))).collect(),
            reasons: reasons.iter().map(|&key| (key, count(1))).collect(),
            ..Counters::default()
        };
        [("server".to_owned(), counters)].into()
    }

    /// What cannot be explained of these counters. The server's tap is read first, its clock is the client's.
    fn problems(mode: Mode, slots: &[(u16, u64)], reasons: &[(Reason, Direction)]) -> Vec<String> {
        problems_with(0, mode, slots, reasons)
    }

    /// The same, where so many frames were lost on their way.
    fn problems_with(lost: u64, mode: Mode, slots: &[(u16, u64)], reasons: &[(Reason, Direction)]) -> Vec<String> {
        let (lab, in_force, [request, reply]) = handshake(mode);
        let sight = |at, sent, packet| Sight { at: MILLISECOND * at, sent, packet };
        let sights = [
            ("a-server".to_owned(), Vec::new()),
            ("server".to_owned(), vec![sight(11, false, request), sight(12, true, reply)]),
            ("the-client".to_owned(), vec![sight(10, true, request)]),
        ]
        .into();
        let mut engine = Engine::default();
        let Ok(()) = engine.install(&in_force.policy);
        let (events, before, after) = (ByHook::new(), ByHook::new(), counters(slots, reasons));
        let in_force = [in_force];
        let account =
            Account::new(&lab, &in_force, None, &sights, &events, &before, &after, &mut engine, Duration::ZERO);
        let mut problems = Vec::new();
        account.check_counters(&lab.steps[0].probes, lost, &mut problems);
        problems
    }

    fn slot(direction: Direction, rule: Option<u16>) -> u16 {
        let (_, in_force, _) = handshake(Mode::Stateless);
        let slots = &in_force.policy.at("server").compiled.slots.slots;
        let wanted = |(_, slot): &(&u16, &crate::compile::Slot)| {
            slot.direction == direction && slot.rule == rule && slot.family == Family::V4 && slot.layer == Layer::Nacl
        };
        *slots.iter().find(wanted).expect("a slot").0
    }

    #[test]
    fn every_packet_must_be_counted_by_its_rule_and_no_other() {
        use Direction::{Inbound, Outbound};
        let (rule, star) = (slot(Inbound, Some(100)), slot(Outbound, None));
        let reasons = [(Reason::NaclRule, Inbound), (Reason::NaclImplicit, Outbound)];
        let ordinary = [&reasons[..], &[(Reason::Mld, Inbound)]].concat();
        assert_eq!(problems(Mode::Stateless, &[(rule, 1), (star, 1)], &ordinary), Vec::<String>::new());
        for (counted, complaint) in [
            (vec![(rule, 2), (star, 1)], "inbound 100 (IPv4) counted 2 packets, and the taps saw 1"),
            (vec![(rule, 1)], "outbound * (IPv4) counted 0 packets, and the taps saw 1"),
            (vec![(rule, 1), (star, 1), (slot(Inbound, None), 1)], "inbound * (IPv4) counted 1 packets"),
        ] {
            let found = problems(Mode::Stateless, &counted, &reasons);
            assert!(found.len() == 1 && found[0].contains(complaint), "{found:?}");
        }
        // What the kernel says it lost no hook can have met; more than was sent is never explained by that.
        let without = [(Reason::NaclRule, Inbound)];
        assert_eq!(problems_with(1, Mode::Stateless, &[(rule, 1)], &without), Vec::<String>::new());
        assert_eq!(problems_with(1, Mode::Stateless, &[(rule, 2), (star, 1)], &reasons).len(), 1);
        let malformed = [&reasons[..], &[(Reason::IpMalformed, Inbound)]].concat();
        let found = problems(Mode::Stateless, &[(rule, 1), (star, 1)], &malformed);
        assert!(found.len() == 1 && found[0].contains("ip-malformed"), "{found:?}");
    }

    #[test]
    fn packets_are_judged_in_the_order_they_were_sent() {
        use Direction::{Inbound, Outbound};
        // Judged before its request the answer would be denied.
        let counted = [(slot(Inbound, Some(100)), 1), (tracked_slot(Outbound, false), 1)];
        let reasons = [(Reason::NaclRule, Inbound), (Reason::Tracked, Outbound)];
        assert_eq!(problems(Mode::Stateful, &counted, &reasons), Vec::<String>::new());
    }
}
