//! Interfaces that the policy names and that are not here: waited for, attached when they come, dropped when they go. The
//! state's half; when to look is said by `links`. Whatever woke us, what is here is asked of the kernel: nothing hangs on an event
//! that came, or did not.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    flowlog::FlowLogs,
    plane::PlaneError,
    state::{Enforced, Meant, State, StateError, chain, target},
};
use crate::{
    dataplane::Terms,
    observe::{Absent, Happened, History, Place},
    report::named,
};

/// How long after the first failure an interface is tried again; each further one waits twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// No try is further away than this.
const LONGEST: Duration = Duration::from_mins(1);

/// An interface that is waited for.
#[derive(Clone)]
pub(super) struct Waiting {
    /// What is to hold on it.
    pub(super) meant: Meant,
    /// How the last try went, where it was here.
    tried: Option<Tried>,
}

/// A try to attach that failed.
#[derive(Clone)]
struct Tried {
    /// Which device it was: another one of the same name is tried at once.
    ifindex: Option<u32>,
    times: u32,
    next: Instant,
    why: String,
}

impl Waiting {
    pub(super) const fn new(meant: Meant) -> Self {
        Self { meant, tried: None }
    }

    fn place(&self, key: &str) -> Place {
        let target = target(&self.meant.interface);
        Place { interface: key.to_owned(), device: target.name, netns: target.netns }
    }

    /// Whether to try now.
    fn is_due(&self, ifindex: Option<u32>) -> bool {
        self.tried.as_ref().is_none_or(|tried| tried.ifindex != ifindex || tried.next <= Instant::now())
    }

    fn failed(&mut self, ifindex: Option<u32>, why: String) {
        let times = self.tried.as_ref().filter(|tried| tried.ifindex == ifindex).map_or(0, |tried| tried.times);
        let pause = FIRST.saturating_mul(1 << times.min(10)).min(LONGEST);
        self.tried = Some(Tried { ifindex, times: times.saturating_add(1), next: Instant::now() + pause, why });
    }
}

impl State {
    /// Whether an interface is here. One that cannot be asked about is taken to be: attaching says why.
    pub(super) fn is_here(&self, meant: &Meant) -> bool {
        !matches!(self.plane.find(&target(&meant.interface)), Ok(None))
    }

    /// Network namespaces that interfaces of the policy are in; `None`: the daemon's own.
    pub fn namespaces(&self) -> Vec<Option<String>> {
        let held = self.interfaces.values().map(|held| &held.meant);
        let all = held.chain(self.absent.values().map(|waiting| &waiting.meant));
        let mut names: Vec<_> = all.map(|meant| meant.interface.netns.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Compares what the policy names with what is here: lets go of what is gone, and attaches what has come. Second: when to look
    /// again, where something could not be attached.
    pub fn look(&mut self) -> (Vec<Happened>, Option<Duration>) {
        let mut happened = Vec::new();
        let mut gone = Vec::new();
        for (key, held) in &mut self.interfaces {
            let before = held.attachment.target();
            if !held.attachment.look() {
                gone.push(key.clone());
                continue;
            }
            let now = held.attachment.target();
            let named = target(&held.meant.interface);
            if now != named && matches!(self.plane.find(&named), Ok(Some(_))) {
                // Another device has the name that the policy says.
                gone.push(key.clone());
            } else if now != before {
                happened.push(Happened::Renamed(held.place()));
            }
        }
        for key in gone {
            let Some(held) = self.interfaces.remove(&key) else { continue };
            happened.push(Happened::Went(held.place()));
            self.absent.insert(key, Waiting::new(held.let_go(&mut self.flow_logs)));
        }
        for (key, mut waiting) in std::mem::take(&mut self.absent) {
            let ifindex = match self.plane.find(&target(&waiting.meant.interface)) {
                Ok(None) => {
                    waiting.tried = None;
                    self.absent.insert(key, waiting);
                    continue;
                }
                Ok(Some(ifindex)) => Some(ifindex),
                Err(_) => None,
            };
            if waiting.is_due(ifindex) {
                match self.attach_late(&key, &waiting.meant) {
                    Ok(()) => {
                        happened.push(Happened::Came(waiting.place(&key)));
                        continue;
                    }
                    Err(error) => {
                        let why = chain(&*error);
                        happened.push(Happened::Failed(waiting.place(&key), why.clone()));
                        waiting.failed(ifindex, why);
                    }
                }
            }
            self.absent.insert(key, waiting);
        }
        let now = Instant::now();
        let tries = self.absent.values().filter_map(|waiting| waiting.tried.as_ref());
        (happened, tries.map(|tried| tried.next.saturating_duration_since(now)).min())
    }

    /// Puts on an interface that has come what the policy in force means for it. While a change awaits confirmation it does there too.
    fn attach_late(&mut self, key: &str, meant: &Meant) -> Result<(), PlaneError> {
        let mut meant = meant.clone();
        meant.options = self.options(&meant.interface);
        let note = meant.memo(key, &History::default(), &self.source(), None);
        let terms = Terms { note, confirm: self.pending().filter(|left| !left.is_zero()) };
        let attachment = self.plane.attach(&target(&meant.interface), &meant.options, &meant.compiled, terms)?;
        self.enforce(key.to_owned(), meant, attachment, History::default());
        Ok(())
    }

    /// What is waited for, for `status`.
    pub(super) fn absent(&self) -> Vec<Absent> {
        let one = |(key, waiting): (&String, &Waiting)| {
            let Place { interface, device, netns } = waiting.place(key);
            Absent { interface, device, netns, why: waiting.tried.as_ref().map(|tried| tried.why.clone()) }
        };
        self.absent.iter().map(one).collect()
    }

    /// What a person must know of interfaces.
    pub(super) fn absences(&self) -> Vec<String> {
        let absent = self.absent().into_iter().map(|Absent { interface, device, netns, why }| {
            let place = named(&interface, &device, netns.as_deref());
            match why {
                None => format!("{place} is not here, so nothing is enforced on it; it is attached to when it comes"),
                Some(why) => {
                    format!("nothing is enforced on {place}: it cannot be attached to, and is tried again: {why}")
                }
            }
        });
        let renamed = self.interfaces.values().filter_map(|held| {
            let (now, meant) = (held.attachment.target(), target(&held.meant.interface));
            let text = format!(
                "{}: the policy says device {:?}, which is called {:?} now; it is enforced as before, until nacld is run again. \
                 Write `device = {:?}` and reload",
                held.name, meant.name, now.name, now.name
            );
            (now != meant).then_some(text)
        });
        absent.chain(renamed).collect()
    }

    /// Fails where none of these is here, and that would give up what is in force, or would be the beginning.
    pub(super) fn some_are_here(&self, here: usize, absent: &BTreeMap<String, Waiting>) -> Result<(), StateError> {
        let waits = self.settings.wait || self.interfaces.is_empty() && !self.absent.is_empty();
        if here > 0 || absent.is_empty() || waits {
            return Ok(());
        }
        let names = absent.iter().map(|(key, waiting)| {
            let Place { interface, device, netns } = waiting.place(key);
            named(&interface, &device, netns.as_deref())
        });
        Err(StateError::NoneHere { interfaces: names.collect() })
    }
}

impl Enforced {
    /// Gives up what is on an interface that is gone, and returns what was to hold there.
    fn let_go(mut self, logs: &mut FlowLogs) -> Meant {
        // Taking programs off an interface that is gone may fail; what they have met is there all the same.
        logs.take(&mut self);
        let (name, meant) = (self.name.clone(), self.meant.clone());
        if let Err(error) = self.detach(logs) {
            tracing::debug!("{name} is gone, and its programs with it: {}", chain(&error));
        }
        meant
    }
}
