//! Labs at kernel level: the packets of a probe as frames, judged by the loaded programs (BPF_PROG_TEST_RUN). The lab's own
//! logic is `paper`'s.

use std::collections::BTreeMap;

use nacl_common::{Direction, Packet, Verdict};
use thiserror::Error;

use super::{
    Lab, LabError, LabReport, Level,
    file::Policy,
    paper::{self, Judge},
};
use crate::{
    dataplane::{DataplaneError, Events, Options, TestBed},
    resolve::{Interface, Mode},
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

/// The loaded programs, once for each hook.
#[derive(Default)]
struct Loaded(BTreeMap<String, TestBed>);

impl Judge for Loaded {
    type Error = KernelError;

    fn install(&mut self, policy: &Policy) -> Result<(), KernelError> {
        for (hook, enforced) in &policy.hooks {
            let options = options(&enforced.interface, Events::None);
            match self.0.get_mut(hook) {
                Some(bed) => {
                    bed.install(&options, &enforced.compiled)?;
                }
                None => {
                    self.0.insert(hook.clone(), TestBed::load(&options, &enforced.compiled)?);
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self) -> Result<(), KernelError> {
        for bed in self.0.values_mut() {
            bed.forget()?;
        }
        Ok(())
    }

    fn judge(&mut self, hook: &str, direction: Direction, packet: &Packet) -> Result<Verdict, KernelError> {
        let bed =
            self.0.get_mut(hook).unwrap_or_else(|| unreachable!("a policy is installed before packets are judged"));
        Ok(bed.judge(direction, packet)?)
    }
}

/// Runs a lab through the loaded programs.
///
/// # Errors
/// The lab is invalid, or the kernel refuses.
pub fn run(lab: &Lab, mode: Mode) -> Result<LabReport, KernelError> {
    let stages = lab.plan(mode)?;
    paper::run(lab, mode, Level::Kernel, &stages, &mut Loaded::default())
}
