//! Running labs at several levels and comparing them. The levels themselves are in `paper`, `kernel` and `wire`.

use serde::Serialize;
use thiserror::Error;

use super::{Lab, LabError, LabReport, Level, kernel, kernel::KernelError, paper, wire, wire::WireError};
use crate::resolve::Mode;

/// Labs that were run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// Version of this form.
    pub schema: u32,
    /// Every expectation held, and the levels agree.
    pub ok: bool,
    /// Every lab at every level asked for.
    pub reports: Vec<LabReport>,
    /// Where two levels said different things.
    pub disagreements: Vec<String>,
}

/// A lab that could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Kernel level.
    #[error("lab {lab} at kernel level: {source}")]
    Kernel {
        /// Lab.
        lab: String,
        /// Why.
        source: Box<KernelError>,
    },
    /// Wire level.
    #[error("lab {lab} at wire level: {source}")]
    Wire {
        /// Lab.
        lab: String,
        /// Why.
        source: Box<WireError>,
    },
}

/// Runs labs, in every mode asked for. Whatever the levels, the engine is asked too: a level that disagrees with it has failed. `done` hears of each
/// lab at each level asked for.
///
/// # Errors
/// See [`RunError`]. An expectation that does not hold is no error.
pub fn run(
    labs: &[Lab],
    levels: &[Level],
    modes: &[Mode],
    mut done: impl FnMut(&Lab, &LabReport),
) -> Result<Run, RunError> {
    let mut run = Run { schema: 1, ok: true, ..Run::default() };
    for (lab, mode) in labs.iter().flat_map(|lab| modes.iter().map(move |mode| (lab, *mode))) {
        let host = paper::run_host(lab, mode)?;
        for level in [Level::Host, Level::Kernel, Level::Wire].into_iter().filter(|level| levels.contains(level)) {
            let report = match (level, &lab.without_wire) {
                (Level::Host, _) => host.clone(),
                (Level::Kernel, _) => kernel::run(lab, mode)
                    .map_err(|error| RunError::Kernel { lab: lab.name.clone(), source: Box::new(error) })?,
                (Level::Wire, Some(why)) => LabReport::not_run(lab, Level::Wire, mode, why),
                (Level::Wire, None) => wire::run(lab, mode)
                    .map_err(|error| RunError::Wire { lab: lab.name.clone(), source: Box::new(error) })?,
            };
            let disagreements = report.disagreements(&host);
            run.disagreements
                .extend(disagreements.into_iter().map(|what| format!("{}, {}: {what}", lab.name, mode.name())));
            run.ok &= report.ok;
            done(lab, &report);
            run.reports.push(report);
        }
    }
    run.ok &= run.disagreements.is_empty();
    Ok(run)
}
