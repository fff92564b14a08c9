//! What the state machine needs of the kernel, as traits, so that it can be tested without one. The real thing is
//! [`Kernel`], a thin layer over the dataplane.

use std::{
    error::Error,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use nacl_common::{
    Event,
    border::{Entry, FlowKey},
};
use thiserror::Error;

use crate::{
    compile::Compiled,
    dataplane::{self, Attachment, Counters, Egress, Ingress, Options, Target},
    observe::{Hooks, Memory},
};

/// Whatever went wrong below.
pub type PlaneError = Box<dyn Error + Send + Sync>;

/// A way to attach policies.
pub trait Plane: Send + Sync {
    /// What this machine lacks to attach anything, each with its remedy.
    fn lacking(&self) -> Vec<String>;
    /// Attaches a policy to an interface. Nothing is left where it fails.
    fn attach(&self, target: &Target, options: &Options, compiled: &Compiled) -> Result<Box<dyn Attached>, PlaneError>;
    /// The clock that connections expire by, in nanoseconds.
    fn now(&self) -> u64;
}

/// Picks connections out of a table.
pub type Which<'w> = &'w mut dyn FnMut(&FlowKey, &Entry) -> bool;

/// A policy in force on one interface. Dropping it detaches.
pub trait Attached: Send {
    /// How it is attached.
    fn hooks(&self) -> Hooks;
    /// Switches to another policy at once; where it fails the old one stays in force. Returns the new epoch.
    fn install(&mut self, options: &Options, compiled: &Compiled) -> Result<u32, PlaneError>;
    /// Changes settings, mode and layers at once, under the same policy. `flags`: as [`Compiled::flags`]. Returns the new
    /// epoch.
    fn toggle(&mut self, options: &Options, flags: u64) -> Result<u32, PlaneError>;
    /// Everything in the connection table, what has expired too.
    fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, PlaneError>;
    /// Takes connections out of the table, and returns how many.
    fn forget(&mut self, which: Which<'_>) -> Result<u64, PlaneError>;
    /// How many connections there is room for.
    fn tracking_capacity(&self) -> u32;
    /// The epoch in force.
    fn epoch(&self) -> u32;
    /// Counters since it was attached.
    fn counters(&self) -> Result<Counters, PlaneError>;
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
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Plane for Kernel {
    fn lacking(&self) -> Vec<String> {
        dataplane::missing()
    }

    fn attach(&self, target: &Target, options: &Options, compiled: &Compiled) -> Result<Box<dyn Attached>, PlaneError> {
        // The kernel would take a second policy beside the first, and a packet would have to pass both.
        let holders = dataplane::holders(target)?;
        if !holders.is_empty() {
            return Err(Box::new(Held { holders: holders.into_iter().collect() }));
        }
        Ok(Box::new(dataplane::attach(target, options, compiled)?))
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

    fn install(&mut self, options: &Options, compiled: &Compiled) -> Result<u32, PlaneError> {
        Ok(self.install(options, compiled)?)
    }

    fn toggle(&mut self, options: &Options, flags: u64) -> Result<u32, PlaneError> {
        Ok(self.toggle(options, flags)?)
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, PlaneError> {
        Ok(self.flows()?)
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
}
