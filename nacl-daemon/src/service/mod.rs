//! The running daemon: state machine, reload, events, the HTTP API on a unix socket, and the client of it. What the
//! rules mean is none of its business.

pub mod absent;
pub mod access;
pub mod api;
pub mod broken;
pub mod client;
mod confirm;
pub mod detach;
pub mod flowlog;
pub mod follow;
pub mod guard;
pub mod heap;
pub mod host;
pub mod links;
pub mod listen;
pub mod load;
pub mod lockout;
mod memo;
pub mod metrics;
pub mod notify;
pub mod plane;
pub mod prepare;
mod restore;
pub mod review;
pub mod serve;
pub mod socket;
pub mod state;

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, Semaphore, broadcast, watch},
    task::JoinError,
};

pub(crate) use self::state::rfc3339;
use self::{
    broken::Scene,
    load::{LoadError, Loader},
    review::{Findings, Review, Subject},
    serve::{Ended, Notice, Undone},
    state::{Drained, State, StateError},
};
use crate::{
    dataplane::Events,
    observe::{
        Brief, BrokenReturn, Change, Filter, InterfaceModes, Place, Reading, Record, Setting, SettingChange, Status,
        broken::Pair,
    },
};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/nacld/nacld.sock";

/// Where pins and records are kept unless told otherwise. Gone after a reboot, as what they stand for is.
pub const DEFAULT_STATE: &str = "/run/nacld";

/// Records a slow listener may be behind before it misses some. Bounded: a listener that sleeps costs nothing.
const RECORDS_QUEUED: usize = 4096;
/// Broken returns, likewise.
const BROKEN_QUEUED: usize = 256;
/// Answers about flows that may be on their way at once: 65,536 records are 40 MB, for as long as they are not read.
pub const FLOW_READERS: usize = 2;
/// How often what is looked for is seen to.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Records read in one go, so that a flood of events does not keep others from the state.
const RECORDS_AT_ONCE: usize = 256;

/// A daemon: the state, and everyone who wants to know about it.
pub struct Service {
    state: Mutex<State>,
    loader: Box<dyn Loader>,
    records: broadcast::Sender<Arc<Record>>,
    broken: broadcast::Sender<Arc<BrokenReturn>>,
    doubts: Notify,
    /// Listeners that want allowed packets too.
    curious: Mutex<usize>,
    attachments_changed: Notify,
    pending_changed: Notify,
    policy_changed: Notify,
    flow_logs_changed: Notify,
    stopping: watch::Sender<Option<Ended>>,
    /// Places for those who read flows.
    flow_readers: Arc<Semaphore>,
    /// What writes flow logs. Locked before the state, where both are.
    writers: Mutex<flowlog::Writers>,
    /// What looks through the policy in force.
    review: Arc<Review>,
    tell: Arc<dyn Fn(Notice) + Send + Sync>,
}

impl ReloadError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Load(error) => error.hint(),
            Self::State(error) => error.hint(),
        }
    }
}

/// A step that changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be used, or the step must not be taken.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel would not take it.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Service {
    /// A daemon around a state that may already enforce something.
    pub fn new(state: State, loader: Box<dyn Loader>, tell: Arc<dyn Fn(Notice) + Send + Sync>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            loader,
            records: broadcast::channel(RECORDS_QUEUED).0,
            broken: broadcast::channel(BROKEN_QUEUED).0,
            doubts: Notify::new(),
            curious: Mutex::new(0),
            attachments_changed: Notify::new(),
            pending_changed: Notify::new(),
            policy_changed: Notify::new(),
            flow_logs_changed: Notify::new(),
            flow_readers: Arc::new(Semaphore::new(FLOW_READERS)),
            stopping: watch::Sender::new(None),
            writers: Mutex::default(),
            review: Arc::default(),
            tell,
        })
    }

    /// The state. Never held across an await: what is done with it may take milliseconds in the kernel.
    pub fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not make the attachments less attached.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the policy file again and puts it in force, or changes nothing. Second: the diagnostics as text. `force`: also if it
    /// would cut someone's SSH connection. `confirm`: for how long, unless it is confirmed; nobody is locked out for longer, so the
    /// guard need not ask.
    pub fn reload(&self, force: bool, confirm: Option<Duration>) -> (Result<Change, ReloadError>, load::Diagnostics) {
        let mut state = self.state();
        (self.tell)(Notice::Reloading);
        let (loaded, diagnostics) = self.loader.load(&state, force || confirm.is_some());
        let result = loaded.map_err(ReloadError::from).and_then(|prepared| {
            (self.tell)(Notice::Applying { interfaces: prepared.interfaces.len() });
            Ok(state.apply(prepared, confirm)?)
        });
        state.reloaded(result.as_ref().err().map(|error| state::chain(error)), &diagnostics.plain);
        let pending = result.is_ok().then(|| state.pending()).flatten();
        let now = state.brief();
        drop(state);
        self.changed();
        (self.tell)(Notice::Diagnostics(&diagnostics));
        (self.tell)(match &result {
            Ok(change) => Notice::Reloaded { change, pending, now: &now },
            Err(error) => Notice::NotReloaded { error, now: &now },
        });
        if result.is_ok() {
            self.look_through(diagnostics.subject.clone());
        }
        (result, diagnostics)
    }

    /// Has the policy looked through that was put in force, beside everything else.
    pub(super) fn look_through(&self, subject: Option<Subject>) {
        if let Some(subject) = subject {
            self.review.begin(subject, Arc::clone(&self.tell));
        }
    }

    /// What is found in the policy that was put in force last, where that is known in time.
    pub async fn findings(&self, patience: Duration) -> Option<Findings> {
        self.review.findings(patience).await
    }

    /// Wakes everybody who waits for another policy.
    fn changed(&self) {
        self.review_broken();
        self.attachments_changed.notify_one();
        self.pending_changed.notify_one();
        self.policy_changed.notify_one();
        self.flow_logs_changed.notify_one();
    }

    /// Compares what the policy names with what is here. Returns when to look again, where something could not be attached.
    pub fn look(&self) -> Option<Duration> {
        let (happened, again, now) = {
            let mut state = self.state();
            let (happened, again) = state.look();
            (happened, again, state.brief())
        };
        if !happened.is_empty() {
            self.review_broken();
            self.attachments_changed.notify_one();
            self.flow_logs_changed.notify_one();
        }
        for one in &happened {
            (self.tell)(Notice::Interface { happened: one, now: &now });
        }
        again
    }

    /// All that the daemon tells at one moment. Nobody who wants to change something waits for longer than the counters of one interface
    /// take to be read: the state is let go between two interfaces, and while a connection table is read.
    ///
    /// # Errors
    /// The kernel would not tell.
    pub fn reading(&self) -> Result<Reading, StateError> {
        let names = self.state().names(None)?;
        let (mut interfaces, mut rules) = (Vec::new(), Vec::new());
        for name in names {
            let glance = self.state().glance(&name);
            // One that has gone meanwhile is not there.
            let Some(glance) = glance else { continue };
            let (status, tables) = glance?.complete()?;
            interfaces.push(status);
            rules.push(tables);
        }
        let about = self.state().about();
        Ok(Reading { status: Status { interfaces, ..about }, rules })
    }

    /// Makes a change stay that awaits confirmation.
    ///
    /// # Errors
    /// There is none, or it is too late.
    pub fn confirm(&self) -> Result<Settled, StateError> {
        let problems = self.state().confirm();
        if matches!(problems, Err(StateError::TooLate)) {
            let now = self.state().brief();
            (self.tell)(Notice::Undone { why: Undone::TimeOver, now: &now });
        }
        self.settled(problems, |now| Notice::Confirmed { now })
    }

    /// Undoes a change that awaits confirmation.
    ///
    /// # Errors
    /// There is none.
    pub fn roll_back(&self, why: Undone) -> Result<Settled, StateError> {
        let problems = self.state().roll_back_pending();
        self.settled(problems, |now| Notice::Undone { why, now })
    }

    fn settled(
        &self,
        problems: Result<Vec<String>, StateError>,
        notice: impl FnOnce(&Brief) -> Notice<'_>,
    ) -> Result<Settled, StateError> {
        let (attached, now) = {
            let state = self.state();
            (state.in_charge(), state.brief())
        };
        self.changed();
        // Undone, and nothing was in force before.
        if attached == 0 {
            self.stop_for(Ended::NotConfirmed);
        }
        let problems = problems?;
        (self.tell)(notice(&now));
        Ok(Settled { problems, attached })
    }

    /// Undoes changes whose time is over, until the daemon ends. Ends itself where nothing is left to enforce. The kernel's programs
    /// have gone back already; this makes the daemon follow.
    pub async fn expire(self: Arc<Self>) {
        loop {
            let Ok(pending) = self.ask(|state| state.pending()).await else { return };
            match pending {
                None => self.pending_changed.notified().await,
                Some(left) if left.is_zero() => {
                    let service = Arc::clone(&self);
                    let undone = tokio::task::spawn_blocking(move || service.roll_back(Undone::TimeOver)).await;
                    if let Ok(Err(error)) = undone {
                        tracing::debug!(reason = %error, "somebody else settled it");
                    }
                }
                Some(left) => {
                    tokio::select! {
                        () = tokio::time::sleep(left) => {}
                        () = self.pending_changed.notified() => {}
                    }
                }
            }
        }
    }

    /// Changes the setting of an interface until the next reload, or changes nothing. `force`: also if it would cut
    /// someone's SSH connection.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub fn set(&self, asked: &str, change: SettingChange, force: bool) -> Result<InterfaceModes, ReloadError> {
        let mut state = self.state();
        let name = state.name(asked)?;
        let next = state.with_setting(&name, change)?;
        if !force {
            self.loader.may_set(&state, &name, &next)?;
        }
        let modes = state.set(&name, Setting::of(&next))?;
        let now = state.brief();
        drop(state);
        self.review_broken();
        (self.tell)(Notice::Set { modes: &modes, now: &now });
        Ok(modes)
    }

    /// Forgets connections of one interface or of all. `force`: also if it would cut someone's SSH connection.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub fn forget(&self, asked: Option<&str>, filter: &Filter, force: bool) -> Result<Vec<(Place, u64)>, ReloadError> {
        let mut state = self.state();
        if !force {
            for name in state.names(asked)? {
                self.loader.may_forget(&state, &name, filter)?;
            }
        }
        Ok(state.forget(asked, filter)?)
    }

    /// Asks the daemon to end.
    pub fn stop(&self) {
        self.stop_for(Ended::Asked);
    }

    fn stop_for(&self, why: Ended) {
        self.stopping.send_replace(Some(why));
    }

    /// Returns when the daemon was asked to end, with why.
    pub async fn stopped(&self) -> Ended {
        // The sender lives as long as self, so this cannot fail before it is told.
        self.stopping.subscribe().wait_for(Option::is_some).await.ok().and_then(|why| *why).unwrap_or(Ended::Asked)
    }

    fn lock_curious(&self) -> MutexGuard<'_, usize> {
        self.curious.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Record>> {
        self.records.subscribe()
    }

    /// Has allowed packets reported too, for as long as the answer lives.
    pub fn report_all(self: &Arc<Self>) -> Curious {
        *self.lock_curious() += 1;
        self.report_wanted();
        Curious(Arc::clone(self))
    }

    /// Has reported what those who listen want.
    fn report_wanted(&self) {
        let mut state = self.state();
        // Counted under the lock of the state: of two who begin or cease at once, the last one sees both.
        let events = if *self.lock_curious() == 0 { Events::Denied } else { Events::All };
        state.report(events);
    }

    /// Asks the state something from an async task. It is locked while interfaces are attached and the kernel loads programs, seconds
    /// in which no worker may stand and wait: all of the API would, and the watchdog with it.
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let service = Arc::clone(self);
        tokio::task::spawn_blocking(move || ask(&mut service.state())).await
    }

    /// Broken returns from now on, as they are found.
    pub fn listen_broken(&self) -> broadcast::Receiver<Arc<BrokenReturn>> {
        self.broken.subscribe()
    }

    /// Sees to what the kernel looks for, until the daemon ends.
    pub async fn seek(self: Arc<Self>) {
        loop {
            let Ok(doubts) = self.ask(State::seek).await else { return };
            if doubts {
                tokio::time::sleep(LOOK_AGAIN).await;
            } else {
                self.doubts.notified().await;
            }
        }
    }

    /// Takes note of requests and denied replies that belong together. What is new is explained, kept and told; the state is not held
    /// meanwhile, because a fix is tried in the engine, which takes a compilation or two.
    fn prove(&self, scene: &Scene, pairs: &[(Pair, String)]) {
        for (pair, time) in pairs {
            let Some(found) = scene.explain(pair, time.clone()) else { continue };
            if self.state().broken.count(&found) {
                continue;
            }
            let found = scene.complete(found);
            {
                let mut state = self.state();
                // Another policy may be in force by now.
                let now = state.modes(Some(&scene.place.interface));
                if now.is_ok_and(|modes| modes.iter().all(|modes| modes.epoch != scene.epoch)) {
                    return;
                }
                // Nor by the pump of another attachment: an interface has one.
                state.broken.enter(found.clone());
            }
            (self.tell)(Notice::Broken(&found));
            // Nobody listening is no error.
            let _ = self.broken.send(Arc::new(found));
        }
    }

    /// Drops broken returns that are mended, and finds new fixes for the others.
    fn review_broken(&self) {
        let stay = self.state().review_broken();
        for (scene, broken) in stay {
            let completed = scene.complete(broken);
            self.state().broken.amend(completed);
        }
    }

    /// Passes events from the kernel on to the listeners until the daemon ends.
    pub async fn pump(self: Arc<Self>) {
        let mut pumps = tokio::task::JoinSet::new();
        let mut known = BTreeSet::new();
        loop {
            let before = std::mem::take(&mut known);
            let Ok(sources) = self.ask(move |state| state.sources(&before)).await else { return };
            known = sources.iter().map(|(id, _)| *id).collect();
            for (id, descriptors) in sources {
                let registered = descriptors.and_then(|descriptors| {
                    // SAFETY: an OwnedFd answers every as_raw_fd with the same number, and owns what it stands for.
                    let register = |descriptor| Ok(unsafe { AsyncFd::register(descriptor) }?);
                    descriptors.into_iter().map(register).collect::<io::Result<Vec<_>>>()
                });
                match registered {
                    Ok(sources) => {
                        for source in sources {
                            pumps.spawn(Arc::clone(&self).pump_one(id, source));
                        }
                    }
                    Err(error) => tracing::error!(attachment = id, reason = %error, "its events cannot be read"),
                }
            }
            self.attachments_changed.notified().await;
        }
    }

    async fn pump_one(self: Arc<Self>, id: u64, ready: AsyncFd<OwnedFd>) {
        loop {
            let Ok(mut guard) = ready.readable().await else { return };
            // Before reading: what comes while we read makes it ready again.
            guard.clear_ready();
            loop {
                let service = Arc::clone(&self);
                let drained = tokio::task::spawn_blocking(move || service.state().drain(id, RECORDS_AT_ONCE)).await;
                let Ok(Some(Drained { events, records, pairs, scene, doubts })) = drained else { return };
                let full = events == RECORDS_AT_ONCE;
                for record in records {
                    // Nobody listening is no error.
                    let _ = self.records.send(Arc::new(record));
                }
                if doubts {
                    self.doubts.notify_one();
                }
                if let Some(scene) = scene {
                    let service = Arc::clone(&self);
                    let proved = tokio::task::spawn_blocking(move || service.prove(&scene, &pairs)).await;
                    if proved.is_err() {
                        return;
                    }
                }
                if !full {
                    break;
                }
            }
        }
    }
}

/// What came of settling a change that awaited confirmation.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Programs that could not be taken off.
    pub problems: Vec<String>,
    /// Interfaces that the daemon is in charge of.
    pub attached: usize,
}

/// Someone wants allowed packets reported.
pub struct Curious(Arc<Service>);

impl Drop for Curious {
    fn drop(&mut self) {
        *self.0.lock_curious() -= 1;
        let service = Arc::clone(&self.0);
        // Whoever drops it is an async task, as a rule, and the state may be locked for seconds.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || service.report_wanted())),
            Err(_) => service.report_wanted(),
        }
    }
}
