//! What the state machine needs of the kernel, as traits, so that it can be tested without one. The real thing is
//! [`Kernel`], a thin layer over the dataplane.

use std::{
    error::Error,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use nacl_common::{
    Event,
    border::{Entry, FlowKey},
    flow::Sought,
};
use thiserror::Error;

use crate::{
    compile::{Compiled, SlotTable},
    dataplane::{
        self, Attachment, Counters, Egress, Events, Ingress, Note, Options, Start, Store, Target, Terms, Window,
    },
    observe::{Hooks, Memory},
};

/// Whatever went wrong below.
pub type PlaneError = Box<dyn Error + Send + Sync>;

/// A way to attach policies.
pub trait Plane: Send + Sync {
    /// What this machine lacks to attach anything, each with its remedy.
    fn lacking(&self) -> Vec<String>;
    /// Attaches a policy to an interface. Nothing is left where it fails. What a daemon that is gone has left there is replaced.
    fn attach(
        &self,
        target: &Target,
        options: &Options,
        compiled: &Compiled,
        terms: Terms,
    ) -> Result<Box<dyn Attached>, PlaneError>;
    /// Index of an interface, if it is here.
    ///
    /// # Errors
    /// That cannot be told.
    fn find(&self, target: &Target) -> Result<Option<u32>, PlaneError>;
    /// Makes ready the place where what is in force outlives this process.
    ///
    /// # Errors
    /// It cannot be had.
    fn open(&mut self) -> Result<(), PlaneError>;
    /// Takes over what this daemon has left when it last ended without taking it off.
    fn restore(&self) -> Vec<Left>;
    /// Takes off what is left and was neither taken over nor replaced. Returns what went wrong.
    fn sweep(&self) -> Vec<String>;
    /// What a person should know of how it outlives this process.
    fn problems(&self) -> Vec<String>;
    /// The clock that connections expire by, in nanoseconds.
    fn now(&self) -> u64;
}

/// What a daemon has left that is gone.
pub enum Left {
    /// A policy that is in force.
    Here(Box<dyn Attached>),
    /// A first policy that nobody confirmed in time, and its note. It is off.
    Unconfirmed(Note),
}

/// Picks connections out of a table.
pub type Which<'w> = &'w mut dyn FnMut(&FlowKey, &Entry) -> bool;

/// Reads a connection table, what has expired too, without the attachment it is of: a large one takes a while, and nobody is to
/// wait for that.
pub type Table = Box<dyn FnOnce() -> Result<Vec<(FlowKey, Entry)>, PlaneError> + Send>;

/// A policy in force on one interface. Dropping it detaches.
pub trait Attached: Send {
    /// How it is attached.
    fn hooks(&self) -> Hooks;
    /// Switches to another policy at once; where it fails the old one stays in force. Returns the new epoch.
    fn install(&mut self, options: &Options, compiled: &Compiled, terms: Terms) -> Result<u32, PlaneError>;
    /// Changes settings, mode and layers at once, under the same policy. `flags`: as [`Compiled::flags`]. Returns the new
    /// epoch.
    fn toggle(&mut self, options: &Options, flags: u64, note: &Note) -> Result<u32, PlaneError>;
    /// Has the kernel report no packets, denied ones, or all of them. Nothing is judged otherwise.
    fn report(&mut self, events: Events);
    /// Has requests to these services reported though they pass, and to no others, until the next switch; so many at once as
    /// [`nacl_common::Control::SOUGHT_AT_ONCE`] says. Nothing is judged otherwise.
    fn seek(&mut self, sought: &[Sought]);
    /// How long a change still waits for confirmation: nothing where none does, zero where it was undone.
    fn pending(&self) -> Option<Duration>;
    /// Begins anew to wait for confirmation, where a change does.
    fn wait(&mut self, confirm: Duration);
    /// Makes a change stay; false where it is too late.
    fn confirm(&mut self) -> bool;
    /// Goes back to what was in force before a change, at once; false where there was nothing before. It is to be installed again.
    fn undo(&mut self) -> bool;
    /// Numbers of the change in force, of the last one, and of the one it would go back to.
    fn epochs(&self) -> (u32, u32, Option<u32>);
    /// What was noted with an epoch that may still come into force, and what its slots mean.
    fn note(&self, epoch: u32) -> Option<(Note, Arc<SlotTable>)>;
    /// Whether the programs would have to be loaded anew for these options.
    fn needs_loading(&self, options: &Options) -> bool;
    /// Leaves everything in force without this process; false where that cannot be, and it is off.
    fn leave(self: Box<Self>) -> bool;
    /// The interface, as it was called when it was looked at last.
    fn target(&self) -> Target;
    /// Whether the interface is still here with our programs on it, by whatever name.
    fn look(&mut self) -> bool;
    /// The connection table, to be read.
    fn table(&self) -> Result<Table, PlaneError>;
    /// Everything in the connection table, what has expired too.
    fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, PlaneError> {
        self.table()?()
    }
    /// Takes connections out of the table, and returns how many.
    fn forget(&mut self, which: Which<'_>) -> Result<u64, PlaneError>;
    /// How many connections there is room for.
    fn tracking_capacity(&self) -> u32;
    /// The epoch in force.
    fn epoch(&self) -> u32;
    /// Counters since it was attached.
    fn counters(&self) -> Result<Counters, PlaneError>;
    /// Packets since then that were not reported, because there were too many at once.
    fn suppressed(&self) -> Result<u64, PlaneError> {
        Ok(self.counters()?.events_suppressed)
    }
    /// What it takes in the kernel.
    fn memory(&self) -> Result<Memory, PlaneError>;
    /// Descriptors that become readable when there are events, or lines of the programs' log.
    fn sources(&mut self) -> io::Result<Vec<OwnedFd>>;
    /// The next event, if there is one.
    fn next_event(&mut self) -> Option<Event>;
    /// Passes on what the programs have logged.
    fn flush_trace(&mut self);
    /// Takes the programs off the interface.
    fn detach(self: Box<Self>) -> Result<(), PlaneError>;
    /// As [`Self::detach`], and returns what the flow log holds that nobody has written.
    fn finish(self: Box<Self>) -> Result<Vec<Window>, PlaneError> {
        self.detach().map(|()| Vec::new())
    }
    /// Ends the window of the flow log that runs, and begins another.
    fn turn(&mut self) -> Result<(), PlaneError> {
        Ok(())
    }
    /// The window of the flow log that runs, and those that are over and not written yet.
    fn windows(&self) -> Result<(Option<Window>, Vec<Window>), PlaneError> {
        Ok((None, Vec::new()))
    }
    /// Forgets windows of the flow log that are over.
    fn written(&mut self, _windows: &[u32]) {}
}

/// Another nacld, or a lab, enforces a policy there already.
#[derive(Debug, Error)]
#[error("it is held already by {}", holders.join(", "))]
pub struct Held {
    /// Processes, by name and id.
    pub holders: Vec<String>,
}

impl Held {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some("stop it first; `nacld detach INTERFACE` takes its programs off".to_owned())
    }
}

/// This machine's kernel.
#[derive(Debug, Default)]
pub struct Kernel {
    /// The directory where what is in force outlives this process; `None`: it does not.
    pub state: Option<PathBuf>,
    /// What tells this daemon from others.
    pub owner: String,
    /// Opened there by [`Plane::open`].
    pub store: Option<Store>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Some(store) = &self.store {
            store.close();
        }
    }
}

impl Plane for Kernel {
    fn lacking(&self) -> Vec<String> {
        dataplane::missing()
    }

    fn attach(
        &self,
        target: &Target,
        options: &Options,
        compiled: &Compiled,
        terms: Terms,
    ) -> Result<Box<dyn Attached>, PlaneError> {
        // The kernel would take a second policy beside the first, and a packet would have to pass both.
        let holders = dataplane::holders(target)?;
        if !holders.is_empty() {
            return Err(Box::new(Held { holders: holders.into_iter().collect() }));
        }
        let start = Start { store: self.store.as_ref(), terms, ..Start::default() };
        Ok(Box::new(dataplane::attach_with(target, options, compiled, start)?))
    }

    fn find(&self, target: &Target) -> Result<Option<u32>, PlaneError> {
        Ok(dataplane::find(target)?)
    }

    fn open(&mut self) -> Result<(), PlaneError> {
        if let Some(state) = &self.state {
            self.store = Some(Store::open(state, self.owner.clone())?);
        }
        Ok(())
    }

    fn restore(&self) -> Vec<Left> {
        let left = self.store.as_ref().map(dataplane::restore).unwrap_or_default();
        left.into_iter()
            .map(|left| match left {
                dataplane::Left::Here(attachment) => Left::Here(attachment),
                dataplane::Left::Unconfirmed(note) => Left::Unconfirmed(note),
            })
            .collect()
    }

    fn sweep(&self) -> Vec<String> {
        let failed = self.store.as_ref().map(dataplane::sweep).unwrap_or_default();
        failed.iter().map(ToString::to_string).collect()
    }

    fn problems(&self) -> Vec<String> {
        let fleeting = self.store.as_ref().is_some_and(Store::is_fleeting);
        let told = fleeting.then(|| {
            "this daemon runs in a mount namespace of its own, as `ip netns exec` makes one: if it is killed, its pins go with it, and \
             nothing is enforced any more. Run it outside, with `netns = \"NAME\"` on the interface"
                .to_owned()
        });
        told.into_iter().collect()
    }

    fn now(&self) -> u64 {
        dataplane::now()
    }
}

impl Attached for Attachment {
    fn hooks(&self) -> Hooks {
        let hooks = self.hooks();
        let ingress = match hooks.ingress {
            Ingress::Native => "XDP, native",
            Ingress::Generic => "XDP, generic: sees whole GRO packets",
            Ingress::Tcx => "TC (tcx)",
            Ingress::Clsact => "TC (clsact)",
        };
        let egress = match hooks.egress {
            Egress::Tcx => "TC (tcx)",
            Egress::Clsact => "TC (clsact)",
        };
        Hooks {
            ifindex: hooks.ifindex,
            ingress: ingress.to_owned(),
            fallback: hooks.fallback.clone(),
            egress: egress.to_owned(),
            programs: vec![hooks.ingress_program, hooks.egress_program],
        }
    }

    fn install(&mut self, options: &Options, compiled: &Compiled, terms: Terms) -> Result<u32, PlaneError> {
        Ok(self.install(options, compiled, terms)?)
    }

    fn toggle(&mut self, options: &Options, flags: u64, note: &Note) -> Result<u32, PlaneError> {
        Ok(self.toggle(options, flags, note)?)
    }

    fn report(&mut self, events: Events) {
        self.report(events);
    }

    fn seek(&mut self, sought: &[Sought]) {
        Self::seek(self, sought);
    }

    fn pending(&self) -> Option<Duration> {
        self.pending()
    }

    fn wait(&mut self, confirm: Duration) {
        Self::wait(self, confirm);
    }

    fn confirm(&mut self) -> bool {
        self.confirm()
    }

    fn undo(&mut self) -> bool {
        self.undo()
    }

    fn epochs(&self) -> (u32, u32, Option<u32>) {
        self.epochs()
    }

    fn note(&self, epoch: u32) -> Option<(Note, Arc<SlotTable>)> {
        self.note(epoch).map(|(note, slots)| (note.clone(), Arc::clone(slots)))
    }

    fn needs_loading(&self, options: &Options) -> bool {
        self.needs_loading(options)
    }

    fn leave(self: Box<Self>) -> bool {
        (*self).leave()
    }

    fn target(&self) -> Target {
        self.target().clone()
    }

    fn look(&mut self) -> bool {
        self.look()
    }

    fn table(&self) -> Result<Table, PlaneError> {
        let table = self.table()?;
        Ok(Box::new(move || Ok(table.flows()?)))
    }

    fn forget(&mut self, which: Which<'_>) -> Result<u64, PlaneError> {
        Ok(self.forget(which)?)
    }

    fn tracking_capacity(&self) -> u32 {
        self.tracking_capacity()
    }

    fn epoch(&self) -> u32 {
        self.epoch()
    }

    fn counters(&self) -> Result<Counters, PlaneError> {
        Ok(self.counters()?)
    }

    fn suppressed(&self) -> Result<u64, PlaneError> {
        Ok(self.suppressed()?)
    }

    fn memory(&self) -> Result<Memory, PlaneError> {
        let dataplane::Memory { generations, counters, connections, other } = self.memory()?;
        Ok(Memory { generations, counters, connections, other })
    }

    fn sources(&mut self) -> io::Result<Vec<OwnedFd>> {
        let events = self.events();
        let both = [Some(events.as_fd()), events.trace_fd()];
        both.into_iter().flatten().map(|source| source.try_clone_to_owned()).collect()
    }

    fn next_event(&mut self) -> Option<Event> {
        self.events().next()
    }

    fn flush_trace(&mut self) {
        self.events().flush_trace();
    }

    fn detach(self: Box<Self>) -> Result<(), PlaneError> {
        Ok((*self).detach()?)
    }

    fn finish(self: Box<Self>) -> Result<Vec<Window>, PlaneError> {
        Ok((*self).finish()?)
    }

    fn turn(&mut self) -> Result<(), PlaneError> {
        Ok(self.turn()?)
    }

    fn windows(&self) -> Result<(Option<Window>, Vec<Window>), PlaneError> {
        Ok(self.windows()?)
    }

    fn written(&mut self, windows: &[u32]) {
        self.written(windows);
    }
}
