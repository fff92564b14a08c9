//! From a pair of packets to what is told of it: the two rules, who asks, the smallest fix. The policy in force is asked again, so that
//! nothing is told that it does not say by itself; and what it no longer says is dropped. How pairs are found is `observe::broken`'s.

use std::{collections::BTreeMap, mem::discriminant};

use ipnet::IpNet;
use nacl_common::{
    Action, Control, Direction, Packet, Verdict,
    border::{Entry, NO_SLOT},
    evaluate::{At, Memory},
    flow::State,
    packet::tcp,
};

use crate::{
    analyze::{Flow, NewRule, smallest_fix, smallest_fix_beside},
    clients::Client,
    compile::{Compiled, Decider, Written},
    engine::Engine,
    observe::{
        Place,
        broken::{BrokenCount, BrokenReturn, Example, Kind, Pair, Remedy, Ruling},
    },
    report,
    resolve::Interface,
};

/// Broken returns that are kept; beyond, the one that was met longest ago makes way.
const KEPT: usize = 256;

/// What a pair is explained by: an interface and the policy in force on it.
#[derive(Clone)]
pub struct Scene {
    /// The interface by all its names.
    pub place: Place,
    /// With the setting in force.
    pub interface: Interface,
    /// Its tables.
    pub compiled: Compiled,
    /// Number of the policy in force.
    pub epoch: u32,
}

impl Scene {
    /// What this policy says of a pair, but for the fix; `None` where by this policy it is not broken.
    pub fn explain(&self, pair: &Pair, time: String) -> Option<BrokenReturn> {
        let Self { place, interface, .. } = self;
        let Place { interface: name, device, netns } = place.clone();
        let Pair { began, flow, enforced, kind, .. } = *pair;
        let Rulings { request, reply, message } = self.rulings(began, &flow, kind)?;
        let inbound = began == Direction::Inbound;
        let cut = matches!(kind, Kind::Cut { .. });
        // What no numbered rule matches says nothing of how many it concerns.
        let wide = if cut && request.decided_by.written(interface).is_none() { &reply } else { &request };
        // Which port a client picks has nothing to do with how big a packet may be.
        let by_port = flow.has_ports() && !matches!(kind, Kind::TooBig(_));
        Some(BrokenReturn {
            interface: name,
            device,
            netns,
            began,
            protocol: flow.protocol,
            service: inbound.then_some(flow.destination),
            port: flow.has_ports().then_some(flow.dport),
            kind,
            remote: remote(interface, wide, if inbound { flow.source } else { flow.destination }),
            clients: if by_port { clients(flow.sport) } else { Vec::new() },
            first: time.clone(),
            last: time,
            replies: 1,
            request,
            reply,
            message,
            example: Example::of(&flow),
            enforced,
            fix: None,
            says: String::new(),
        })
    }

    /// Completes what is told of a broken return: the smallest fix, and all of it in a sentence.
    pub fn complete(&self, mut found: BrokenReturn) -> BrokenReturn {
        let flow = found.example.flow(found.protocol);
        let fix = match found.kind.message(found.began, &flow) {
            // As wide as the rule that lets the packets pass: any router on their way may have to say it.
            Some((way, message)) => {
                let (passes, _) = found.rulings();
                smallest_fix_beside(&self.interface, message, way, &passes.decided_by)
            }
            None => smallest_fix(&self.interface, flow, found.began, None),
        };
        found.fix = fix.map(|fix| fix.rules.iter().map(remedy).collect());
        found.says = report::broken::sentence(&found);
        found
    }

    /// What decides about requests and replies, and about a message that they are too big, where this is broken of the flow.
    fn rulings(&self, began: Direction, flow: &Flow, kind: Kind) -> Option<Rulings> {
        let (request, reply) = (flow.request().ok()?, flow.reply().ok()??);
        if let Kind::Cut { tracked } = kind {
            return self.rulings_of_cut(began, [request, reply], tracked);
        }
        let mut engine = Engine::new(&self.interface, &self.compiled);
        let request = engine.judge(began, &request);
        let reply = engine.judge(began.reverse(), &reply);
        let message = match kind.message(began, flow) {
            Some((way, message)) => Some(engine.judge(way, &message.request().ok()?)),
            None => None,
        };
        let passes = |verdict: Verdict| verdict.action == Action::Allow;
        // The last of them, and nothing before it.
        let broken = passes(request) && message.map_or(!passes(reply), |message| passes(reply) && !passes(message));
        broken.then(|| Rulings {
            request: self.ruling(request),
            reply: self.ruling(reply),
            message: message.map(|message| self.ruling(message)),
        })
    }

    /// Likewise of a connection that runs. Where it is remembered, it is by the layer that does not deny: a layer that remembers asks no
    /// rule (S32).
    fn rulings_of_cut(&self, began: Direction, packets: [Packet; 2], tracked: bool) -> Option<Rulings> {
        let at = At { control: Control(self.compiled.flags), ..At::default() };
        let entry = |nacl: bool| Entry {
            expires: u64::MAX,
            state: State::Established as u8,
            origin: began as u8,
            nacl: u8::from(nacl),
            group: u8::from(!nacl),
            nacl_slot: NO_SLOT,
            group_slot: NO_SLOT,
            ..Entry::default()
        };
        let entries = if tracked { vec![Some(entry(false)), Some(entry(true))] } else { vec![None] };
        entries.into_iter().find_map(|found| {
            let memory = Memory { trackable: true, found: found.as_ref(), shared: None };
            let [request, reply] = packets.map(|packet| Packet { tcp_flags: tcp::ACK, ..packet });
            let request = self.compiled.judge_with(&at, began, &request, memory).verdict;
            let reply = self.compiled.judge_with(&at, began.reverse(), &reply, memory).verdict;
            let cut = request.action == Action::Deny && reply.action == Action::Allow;
            cut.then(|| Rulings { request: self.ruling(request), reply: self.ruling(reply), message: None })
        })
    }

    fn ruling(&self, verdict: Verdict) -> Ruling {
        let slots = &self.compiled.slots;
        let slot = slots.slots.get(&verdict.slot);
        Ruling {
            decided_by: slots.decider(verdict.slot, verdict.reason),
            name: slot.map(|slot| slot.name.clone()).unwrap_or_default(),
            line: slot.map_or(0, |slot| slot.line),
        }
    }
}

/// What decides about the packets of a broken return.
struct Rulings {
    request: Ruling,
    reply: Ruling,
    message: Option<Ruling>,
}

/// The other ends: as wide as the rule that decides.
fn remote(interface: &Interface, by: &Ruling, address: std::net::IpAddr) -> IpNet {
    let written = by.decided_by.written(interface);
    let wide = match written {
        Some(Written::Nacl(rule)) => Some(rule.cidr),
        Some(Written::Group(rule)) => rule.cidrs.iter().copied().find(|cidr| cidr.contains(&address)),
        None => interface.subnet_cidrs.iter().copied().find(|cidr| cidr.contains(&address)),
    };
    wide.unwrap_or_else(|| IpNet::from(address))
}

/// Who picks such a source port; that anybody may says nothing.
fn clients(port: u16) -> Vec<Client> {
    Client::with_port(port).filter(|client| *client != Client::Any).collect()
}

fn remedy(rule: &NewRule) -> Remedy {
    match rule {
        NewRule::Nacl { nacl, direction, rule } => Remedy {
            nacl: Some(nacl.clone()),
            group: None,
            direction: *direction,
            rule: report::rule::rule_toml(rule, *direction),
        },
        NewRule::Group { group, direction, rule } => Remedy {
            nacl: None,
            group: Some(group.clone()),
            direction: *direction,
            rule: report::rule::group_rule_toml(rule, *direction),
        },
    }
}

/// The broken returns that are known.
#[derive(Clone, Debug, Default)]
pub struct Book {
    entries: Vec<BrokenReturn>,
    counts: BTreeMap<(String, Direction), (u64, u64)>,
}

impl Book {
    /// Counts one more denied packet of a broken return that is known; false where it is not.
    pub fn count(&mut self, found: &BrokenReturn) -> bool {
        let Some(known) = self.entries.iter_mut().find(|known| is_same(known, found)) else { return false };
        known.last.clone_from(&found.last);
        known.replies += found.replies;
        known.enforced = found.enforced;
        self.counts.entry((found.interface.clone(), found.began)).or_default().1 += found.replies;
        true
    }

    /// Takes a new one in.
    pub fn enter(&mut self, found: BrokenReturn) {
        let (returns, replies) = self.counts.entry((found.interface.clone(), found.began)).or_default();
        (*returns, *replies) = (*returns + 1, *replies + found.replies);
        if self.entries.len() >= KEPT {
            let oldest = self.entries.iter().enumerate().min_by(|(_, one), (_, other)| one.last.cmp(&other.last));
            if let Some((oldest, _)) = oldest {
                self.entries.remove(oldest);
            }
        }
        self.entries.push(found);
    }

    /// Those of one interface, by its name in the policy, or all; what was met last comes first.
    pub fn list(&self, interface: Option<&str>) -> Vec<BrokenReturn> {
        let mut list: Vec<_> =
            self.entries.iter().filter(|one| interface.is_none_or(|name| name == one.interface)).cloned().collect();
        list.sort_by(|one, other| other.last.cmp(&one.last));
        list
    }

    /// How many there ever were, by interface and direction.
    pub fn counts(&self) -> Vec<BrokenCount> {
        let count = |((interface, began), (returns, replies)): (&(String, Direction), &(u64, u64))| BrokenCount {
            interface: interface.clone(),
            began: *began,
            returns: *returns,
            replies: *replies,
        };
        self.counts.iter().map(count).collect()
    }

    /// Drops what another policy has mended, or decides by other rules. `scene`: of an interface, as it is now. Returns what stays, to be
    /// completed anew: its fix may be another.
    pub fn review(&mut self, scene: impl Fn(&str) -> Option<Scene>) -> Vec<(Scene, BrokenReturn)> {
        let mut scenes: BTreeMap<String, Option<Scene>> = BTreeMap::new();
        let mut stay = Vec::new();
        self.entries.retain_mut(|entry| {
            let scene = scenes.entry(entry.interface.clone()).or_insert_with(|| scene(&entry.interface));
            let Some(scene) = scene else { return false };
            let rulings = scene.rulings(entry.began, &entry.example.flow(entry.protocol), entry.kind);
            let Some(Rulings { request, reply, message }) = rulings else { return false };
            let now = BrokenReturn { request, reply, message, ..entry.clone() };
            let same = deciders(&now) == deciders(entry);
            *entry = now;
            if same {
                stay.push((scene.clone(), entry.clone()));
            }
            same
        });
        stay
    }

    /// Puts what was completed anew in its place.
    pub fn amend(&mut self, completed: BrokenReturn) {
        if let Some(known) = self.entries.iter_mut().find(|known| is_same(known, &completed)) {
            (known.fix, known.says) = (completed.fix, completed.says);
        }
    }
}

/// Whether two tell of the same: the same service, clients and rules.
fn is_same(one: &BrokenReturn, other: &BrokenReturn) -> bool {
    let key = |broken: &BrokenReturn| {
        let BrokenReturn { began, protocol, service, port, kind, remote, .. } = broken;
        (*began, *protocol, *service, *port, discriminant(kind), *remote)
    };
    one.interface == other.interface
        && key(one) == key(other)
        && one.clients == other.clients
        && deciders(one) == deciders(other)
}

/// What decides about the packets of one.
fn deciders(broken: &BrokenReturn) -> [Option<&Decider>; 3] {
    let BrokenReturn { request, reply, message, .. } = broken;
    [Some(request), Some(reply), message.as_ref()].map(|ruling| ruling.map(|ruling| &ruling.decided_by))
}
