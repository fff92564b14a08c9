//! Running the loaded programs on frames without attaching them (BPF_PROG_TEST_RUN): what `--level kernel` and the
//! kernel-level tests stand on.

use std::ops::RangeInclusive;

use aya::{
    maps::{Array, IterableMap, MapData},
    programs::{ProgramError, TestRunOptions},
};
use nacl_common::{
    Action, Direction, Event, Packet, Verdict,
    border::{Entry, FlowKey},
    evaluate::Hook,
    flow::Met,
};

use super::{
    Counters, DataplaneError, EventReader, Options, Window,
    mapped::Mapped,
    maps::{Maps, unwritten},
    object::{self, Build, Object, Program, Source, kernel_is},
};
use crate::{compile::Compiled, frame};

/// What an skb is on the wire, beside its bytes: segmentation offload. XDP knows none of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// Segments.
    pub gso_segs: u32,
    /// Payload bytes of a segment.
    pub gso_size: u32,
    /// Bytes of all segments with their headers; 0: as many as the skb has.
    pub wire_len: u32,
}

/// An [`Event`] as the map has it.
type Words = [u64; size_of::<Event>() / 8];

/// The programs, loaded and not attached.
pub struct TestBed {
    last: Mapped,
    _last: Array<MapData, Words>,
    maps: Maps,
    events: EventReader,
    object: Object,
}

impl TestBed {
    /// How long a frame may be that is run: an Ethernet header at least, and no more than fits one page beside what the kernel
    /// keeps there.
    pub const FRAME: RangeInclusive<usize> = 14..=3000;

    /// Loads the programs and installs a policy.
    ///
    /// # Errors
    /// See [`DataplaneError`].
    pub fn load(options: &Options, compiled: &Compiled) -> Result<Self, DataplaneError> {
        object::usable(false)?;
        let mut object = Object::load(compiled, options, Build::Test)?;
        let mut maps = Maps::take(&mut object, true)?;
        maps.install(*options, compiled, None, &mut unwritten)?;
        let events = EventReader::take(&mut object, options.trace)?;
        let last: Array<MapData, Words> = object.map("LAST")?;
        let mapped = Mapped::new::<Words>(last.map()).map_err(DataplaneError::ControlWord)?;
        // The others are loaded when they are first run.
        object.xdp()?;
        object.fd(Program::TcEgress)?;
        Ok(Self { last: mapped, _last: last, maps, events, object })
    }

    /// Switches to another policy, as an attached interface would.
    ///
    /// # Errors
    /// See [`DataplaneError`].
    pub fn install(&mut self, options: &Options, compiled: &Compiled) -> Result<u32, DataplaneError> {
        self.maps.install(*options, compiled, None, &mut unwritten)
    }

    /// Changes settings alone, as [`super::Attachment::toggle`] does.
    ///
    /// # Errors
    /// The connection table is of another size.
    pub fn toggle(&mut self, options: &Options, flags: u64) -> Result<u32, DataplaneError> {
        self.maps.toggle(*options, flags, &mut unwritten)
    }

    /// Sets the clock that the programs go by, in nanoseconds. It begins at 0.
    pub fn set_time(&mut self, now: u64) {
        self.maps.set_time(now);
    }

    /// Everything that is remembered of connections, expired or not.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Entry)>, DataplaneError> {
        self.maps.flows()
    }

    /// Forgets every connection and fragment.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn forget(&mut self) -> Result<(), DataplaneError> {
        self.maps.forget(&mut |_, _| true)?;
        self.maps.forget_fragments()
    }

    /// Runs a frame of at least 14 bytes through the program of a hook: XDP on ingress, TC on egress. Returns what
    /// happened to it, and the event with what the policy said.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Result<(Action, Event), DataplaneError> {
        let program = match hook {
            Hook::Ingress if kernel_is(5, 18) => Program::Xdp,
            Hook::Ingress => Program::XdpLinear,
            Hook::Egress => Program::TcEgress,
        };
        self.run_program(program, frame, None)
    }

    /// Judges a packet by the program of the hook where an interface on this side meets it, as
    /// [`Compiled::judge`] does by the engine in this process.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn judge(&mut self, direction: Direction, packet: &Packet) -> Result<Verdict, DataplaneError> {
        self.judged(direction, packet).map(|(verdict, _)| verdict)
    }

    /// As [`Self::judge`], with what the connection table said.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn judged(&mut self, direction: Direction, packet: &Packet) -> Result<(Verdict, Met), DataplaneError> {
        self.judged_frame(direction, &frame::bytes(packet))
    }

    /// As [`Self::judged`], of a frame of [`Self::FRAME`] bytes.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn judged_frame(&mut self, direction: Direction, frame: &[u8]) -> Result<(Verdict, Met), DataplaneError> {
        let ingress = self.maps.control().direction(Hook::Ingress);
        let hook = if ingress == direction { Hook::Ingress } else { Hook::Egress };
        let (did, event) = self.run(hook, frame)?;
        let enforced = event.enforced == 1;
        match event.verdict() {
            Some(verdict) if verdict.action == did || !enforced => Ok((verdict, Met::from_number(event.flow))),
            _ => Err(DataplaneError::Contradiction { did: did.name(), said: format!("{event:?}") }),
        }
    }

    /// Runs a frame through one of the programs; `wire` goes into the context of a TC program.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn run_program(
        &mut self,
        program: Program,
        frame: &[u8],
        wire: Option<Wire>,
    ) -> Result<(Action, Event), DataplaneError> {
        const XDP_DROP: u32 = 1;
        const XDP_PASS: u32 = 2;
        const TC_NEXT: u32 = u32::MAX;
        const TC_SHOT: u32 = 2;
        self.last.take_event();
        let context = wire.map(context);
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = context.as_ref().map(<[u8; 192]>::as_slice);
        let failed = |source| DataplaneError::TestRun { program: program.name(), source };
        let [drop, pass] = if program.is_xdp() { [XDP_DROP, XDP_PASS] } else { [TC_SHOT, TC_NEXT] };
        let value = self.object.test_run(program, options)?.return_value;
        let action = match value {
            value if value == drop => Action::Deny,
            value if value == pass => Action::Allow,
            value => return Err(failed(ProgramError::IOError(std::io::Error::other(format!("it returned {value}"))))),
        };
        Ok((action, self.last.take_event()))
    }

    /// The counters.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn counters(&self) -> Result<Counters, DataplaneError> {
        self.maps.counters()
    }

    /// Ends the window of the flow log that runs, and begins another.
    ///
    /// # Errors
    /// The kernel has no map for another.
    pub fn turn(&mut self) -> Result<(), DataplaneError> {
        self.maps.turn()
    }

    /// As [`super::Attachment::windows`].
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn windows(&self) -> Result<(Option<Window>, Vec<Window>), DataplaneError> {
        self.maps.read_windows()
    }

    /// Forgets windows of the flow log that are over.
    pub fn written(&mut self, windows: &[u32]) {
        self.maps.windows().written(windows);
    }

    /// The events.
    pub const fn events(&mut self) -> &mut EventReader {
        &mut self.events
    }

    /// Kernel ids of the maps that hold its generations, as the kernel has them.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn generations(&self) -> Result<Vec<u32>, DataplaneError> {
        self.maps.generations()
    }

    /// How many instructions the verifier walked for each program, where the kernel tells (5.16).
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn verified(&mut self) -> Result<Vec<(&'static str, u32)>, DataplaneError> {
        verified(&mut self.object)
    }
}

/// How many instructions the verifier walked for each program.
pub(super) fn verified(object: &mut Object) -> Result<Vec<(&'static str, u32)>, DataplaneError> {
    let walked = |program: &Program| {
        let info = object.info(*program)?;
        Ok((program.name(), info.verified_instruction_count().unwrap_or_default()))
    };
    Program::ALL.iter().map(walked).collect()
}

/// A `struct __sk_buff` of which the kernel takes these three fields.
fn context(wire: Wire) -> [u8; 192] {
    const WIRE_LEN: usize = 160;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = [0; 192];
    for (at, value) in [(WIRE_LEN, wire.wire_len), (GSO_SEGS, wire.gso_segs), (GSO_SIZE, wire.gso_size)] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}
