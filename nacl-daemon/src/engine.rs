//! The engine with a memory, in this process: what the kernel does with one packet after the other, with connections and
//! fragments in ordinary maps and a clock that is set by hand. Decides nothing by itself.

use std::collections::HashMap;

use nacl_common::{
    Control, Direction, Layer, Packet, Verdict,
    border::{Entry, FlowKey, FragmentKey, Shared},
    evaluate::{At, Judged, Memory, Says},
    flow::{self, WriteKind},
    packet::Fragment,
};

use crate::{
    compile::Compiled,
    resolve::{Interface, Tracking},
};

pub use nacl_common::flow::SECOND;

/// First fragments that are remembered, as many as the kernel does.
const FRAGMENTS: usize = 4096;

/// A policy in force in this process.
#[derive(Clone)]
pub struct Engine {
    compiled: Compiled,
    tracking: Tracking,
    at: At,
    flows: HashMap<FlowKey, Entry>,
    fragments: HashMap<FragmentKey, Shared>,
}

impl Engine {
    /// Puts a policy in force, as attaching does: nothing is remembered yet, and connections met in their middle are taken
    /// up for a while.
    pub fn new(interface: &Interface, compiled: &Compiled) -> Self {
        let mut engine = Self {
            compiled: compiled.clone(),
            tracking: interface.tracking,
            at: At::default(),
            flows: HashMap::new(),
            fragments: HashMap::new(),
        };
        engine.switch(interface, compiled, None, false);
        engine
    }

    /// Puts another policy in force, as a reload does: what is remembered stays.
    pub fn install(&mut self, interface: &Interface, compiled: &Compiled) {
        let old = Some((self.at.control, self.at.pickup_until));
        self.switch(interface, compiled, old, false);
    }

    /// Changes mode and layers alone, as `nacld mode` does.
    pub fn toggle(&mut self, interface: &Interface) {
        let old = Some((self.at.control, self.at.pickup_until));
        let compiled = Compiled { flags: crate::compile::flags(interface), ..self.compiled.clone() };
        self.switch(interface, &compiled, old, true);
    }

    fn switch(&mut self, interface: &Interface, compiled: &Compiled, old: Option<(Control, u64)>, same_rules: bool) {
        let epoch = self.at.control.epoch().wrapping_add(1);
        let control = Control(compiled.flags | u64::from(epoch) << 32);
        let window = u64::from(interface.tracking.pickup) * SECOND;
        self.at.pickup_until = flow::pickup_until(old, control, same_rules, self.at.now, window);
        self.at.control = control;
        self.tracking = interface.tracking;
        self.compiled = compiled.clone();
    }

    /// Sets the clock, in nanoseconds.
    pub const fn set_time(&mut self, now: u64) {
        self.at.now = now;
    }

    /// When and under which settings the next packet is judged.
    pub const fn at(&self) -> &At {
        &self.at
    }

    /// The policy in force.
    pub const fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Everything that is remembered of connections, expired or not.
    pub const fn flows(&self) -> &HashMap<FlowKey, Entry> {
        &self.flows
    }

    /// Takes over a connection that is remembered elsewhere.
    pub fn remember(&mut self, key: FlowKey, entry: Entry) {
        self.flows.insert(key, entry);
    }

    /// Forgets every connection and fragment.
    pub fn forget(&mut self) {
        self.flows.clear();
        self.fragments.clear();
    }

    /// Judges a packet and remembers what is to be remembered.
    pub fn judge(&mut self, direction: Direction, packet: &Packet) -> Verdict {
        self.judged(direction, packet).verdict
    }

    /// As [`Self::judge`], with what the connection table said.
    pub fn judged(&mut self, direction: Direction, packet: &Packet) -> Judged {
        let at = self.at;
        let key = flow::key(at.control, direction, packet);
        let fragment = flow::fragment_key(at.control, direction, packet);
        let found = key.and_then(|key| self.flows.get(&key)).copied();
        let shared = fragment.and_then(|key| self.fragments.get(&key)).copied();
        let memory = Memory { trackable: key.is_some(), found: found.as_ref(), shared: shared.as_ref() };
        let mut judged = self.compiled.judge_with(&at, direction, packet, memory);
        if let Some(key) = key {
            match judged.write.kind {
                WriteKind::Nothing => {}
                WriteKind::New if !self.room() => judged.verdict = flow::full(),
                WriteKind::Touch | WriteKind::New | WriteKind::Replace => {
                    self.flows.insert(key, judged.write.entry);
                }
            }
        }
        if let Some(key) = fragment
            && packet.fragment == Fragment::First
        {
            self.make_way();
            self.fragments.insert(key, flow::share(at.control, at.now, &judged.verdict));
        }
        judged
    }

    /// What is remembered of the connection a packet belongs to, expired or not.
    pub fn entry(&self, direction: Direction, packet: &Packet) -> Option<&Entry> {
        self.flows.get(&flow::key(self.at.control, direction, packet)?)
    }

    /// What each layer says of a packet that is not a later fragment, as [`Compiled::says`]; nothing is remembered of it.
    pub fn says(&self, direction: Direction, packet: &Packet) -> Vec<(Layer, Says)> {
        self.compiled.says(&self.at, direction, packet, self.entry(direction, packet))
    }

    /// Forgets a first fragment where there are too many: later ones of its packet fail closed then.
    fn make_way(&mut self) {
        if self.fragments.len() < FRAGMENTS {
            return;
        }
        let now = self.at.now;
        self.fragments.retain(|_, shared| now < shared.expires);
        if self.fragments.len() >= FRAGMENTS
            && let Some(oldest) = self.fragments.iter().min_by_key(|(_, shared)| shared.expires).map(|(key, _)| *key)
        {
            self.fragments.remove(&oldest);
        }
    }

    /// Whether one more connection has room, once the expired ones have made way.
    fn room(&mut self) -> bool {
        let entries = self.tracking.entries as usize;
        if self.flows.len() >= entries {
            let now = self.at.now;
            self.flows.retain(|_, entry| now < entry.expires);
        }
        self.flows.len() < entries
    }
}
