//! The programs as an interface gets them, loaded and not attached, for whoever measures them (`benches/line_rate`).

use std::{io, time::Duration};

use aya::programs::{ProgramFd, TestRunOptions, Xdp};
use nacl_common::border::{Entry, FlowKey};

use super::{
    Counters, DataplaneError, EventReader, Memory, Options, Program, generations,
    maps::{Maps, unwritten},
    object::{self, Build, Object},
    testbed::verified,
};
use crate::compile::Compiled;

/// The programs, loaded and not attached.
pub struct BenchBed {
    maps: Maps,
    events: EventReader,
    object: Object,
}

impl BenchBed {
    /// Loads the programs and installs a policy. `counted`: false leaves the counters out.
    ///
    /// # Errors
    /// See [`DataplaneError`].
    pub fn load(options: &Options, compiled: &Compiled, counted: bool) -> Result<Self, DataplaneError> {
        object::usable(false)?;
        let build = if counted { Build::Real } else { Build::Uncounted };
        let mut object = Object::load(compiled, options, build)?;
        let mut maps = Maps::take(&mut object, false)?;
        maps.install(*options, compiled, None, &mut unwritten)?;
        let events = EventReader::take(&mut object, options.trace)?;
        Ok(Self { maps, events, object })
    }

    /// Switches to another policy, as an attached interface would.
    ///
    /// # Errors
    /// See [`DataplaneError`].
    pub fn install(&mut self, options: &Options, compiled: &Compiled) -> Result<u32, DataplaneError> {
        self.maps.install(*options, compiled, None, &mut unwritten)
    }

    /// Puts a generation into the kernel and nothing in force. A policy installed while the answer lives is not put there
    /// again.
    ///
    /// # Errors
    /// See [`DataplaneError`].
    pub fn upload(&self, compiled: &Compiled) -> Result<impl Sized + use<>, DataplaneError> {
        generations::upload(compiled)
    }

    /// What it takes in the kernel.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn memory(&self) -> Result<Memory, DataplaneError> {
        self.maps.memory()
    }

    /// The events, which somebody reads or nobody.
    pub const fn events(&mut self) -> &mut EventReader {
        &mut self.events
    }

    /// Everything that is remembered of connections, expired or not.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, DataplaneError> {
        self.maps.flows()
    }

    /// Forgets every connection.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn forget(&mut self) -> Result<(), DataplaneError> {
        self.maps.forget(&mut |_, _| true).map(drop)
    }

    /// The counters.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        self.maps.counters()
    }

    /// Runs a frame so many times through a program. Returns what the kernel says one run took, in whole nanoseconds and
    /// without what it did in between, and what the program returned last.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn time(&mut self, program: Program, frame: &[u8], repeat: u32) -> Result<(Duration, u32), DataplaneError> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let result = self.object.test_run(program, options)?;
        Ok((result.duration, result.return_value))
    }

    /// The XDP program, loaded, to be run on frames that an interface then really receives.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn xdp(&mut self) -> Result<&mut Xdp, DataplaneError> {
        self.object.xdp()
    }

    /// A program, loaded, to be called by others.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn program(&mut self, program: Program) -> Result<ProgramFd, DataplaneError> {
        let failed = |source: io::Error| DataplaneError::Load { program: program.name(), source: source.into() };
        self.object.fd(program)?.try_clone().map_err(failed)
    }

    /// How many instructions the verifier walked for each program, where the kernel tells (5.16).
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn verified(&mut self) -> Result<Vec<(&'static str, u32)>, DataplaneError> {
        verified(&mut self.object)
    }
}
