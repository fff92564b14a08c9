//! Labs at kernel level: the packets of a probe as frames, judged by the loaded programs (BPF_PROG_TEST_RUN). The lab's own
//! logic is `paper`'s.

use nacl_common::{Action, Direction, Packet, Reason, evaluate::Hook};
use thiserror::Error;

use super::{
    Lab, LabError, LabReport, Level,
    file::Policy,
    paper::{self, Judge, Judged},
};
use crate::{
    dataplane::{DataplaneError, Events, Options, TestBed},
    frame,
    resolve::{Interface, Side},
};

/// A lab that cannot be run at kernel level.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The kernel.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The program did something else than it said.
    #[error("the program said {said} and did {did}")]
    Contradiction {
        /// In its event.
        said: &'static str,
        /// By its return value.
        did: &'static str,
    },
}

/// The options a lab's interface is attached with.
pub(super) const fn options(interface: &Interface, events: Events) -> Options {
    Options {
        xdp: interface.xdp,
        side: interface.side,
        enforce: interface.enforce,
        drop_non_ip: interface.drop_non_ip,
        events,
        trace: false,
    }
}

/// The loaded programs.
#[derive(Default)]
struct Loaded(Option<(TestBed, Side)>);

impl Judge for Loaded {
    type Error = KernelError;

    fn install(&mut self, policy: &Policy) -> Result<(), KernelError> {
        let options = options(&policy.interface, Events::None);
        match &mut self.0 {
            Some((bed, _)) => {
                bed.install(&options, &policy.compiled)?;
            }
            None => self.0 = Some((TestBed::load(&options, &policy.compiled)?, policy.interface.side)),
        }
        Ok(())
    }

    fn judge(&mut self, direction: Direction, packet: &Packet) -> Result<Judged, KernelError> {
        let Some((bed, side)) = &mut self.0 else {
            unreachable!("a policy is installed before packets are judged");
        };
        let hook = match (direction, side) {
            (Direction::Inbound, Side::Host) | (Direction::Outbound, Side::Router) => Hook::Ingress,
            (Direction::Outbound, Side::Host) | (Direction::Inbound, Side::Router) => Hook::Egress,
        };
        let (did, event) = bed.run(hook, &frame::bytes(packet))?;
        let said = if event.action == Action::Allow as u8 { Action::Allow } else { Action::Deny };
        if said != did {
            return Err(KernelError::Contradiction { said: said.name(), did: did.name() });
        }
        let reason = Reason::from_number(event.reason).unwrap_or(Reason::NoGeneration);
        Ok(Judged { action: did, reason, slot: event.slot })
    }
}

/// Runs a lab through the loaded programs.
///
/// # Errors
/// The lab is invalid, or the kernel refuses.
pub fn run(lab: &Lab) -> Result<LabReport, KernelError> {
    paper::run(lab, Level::Kernel, &mut Loaded::default())
}
