//! Labs at kernel level: the packets of a probe as frames, judged by the loaded programs (BPF_PROG_TEST_RUN). The lab's own
//! logic is `paper`'s.

use nacl_common::{Direction, Packet, Verdict};
use thiserror::Error;

use super::{
    Lab, LabError, LabReport, Level,
    file::Policy,
    paper::{self, Judge},
};
use crate::{
    dataplane::{DataplaneError, Events, Options, TestBed},
    resolve::Interface,
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
}

/// The options a lab's interface is attached with.
pub(super) fn options(interface: &Interface, events: Events) -> Options {
    Options { events, ..Options::from(interface) }
}

/// The loaded programs.
#[derive(Default)]
struct Loaded(Option<TestBed>);

impl Judge for Loaded {
    type Error = KernelError;

    fn install(&mut self, policy: &Policy) -> Result<(), KernelError> {
        let options = options(&policy.interface, Events::None);
        match &mut self.0 {
            Some(bed) => {
                bed.install(&options, &policy.compiled)?;
            }
            None => self.0 = Some(TestBed::load(&options, &policy.compiled)?),
        }
        Ok(())
    }

    fn judge(&mut self, direction: Direction, packet: &Packet) -> Result<Verdict, KernelError> {
        let Some(bed) = &mut self.0 else {
            unreachable!("a policy is installed before packets are judged");
        };
        Ok(bed.judge(direction, packet)?)
    }
}

/// Runs a lab through the loaded programs.
///
/// # Errors
/// The lab is invalid, or the kernel refuses.
pub fn run(lab: &Lab) -> Result<LabReport, KernelError> {
    paper::run(lab, Level::Kernel, &mut Loaded::default())
}
