//! `nacld export`.

use nacl_daemon::{export, inventory::read, report, resolve::NoHost};

use super::{import::give, policy::usable, tell};
use crate::{Exit, cli};

pub fn run(args: &cli::Export) -> anyhow::Result<Exit> {
    let (policy, write): (_, fn(&_) -> _) = match &args.to {
        cli::ExportTo::Aws(policy) => (policy, export::aws::write),
        cli::ExportTo::Terraform(policy) => (policy, export::terraform::write),
        cli::ExportTo::Cloudformation(policy) => (policy, export::cloudformation::write),
    };
    let mut inventory = read::read(&usable(&policy.policy, &NoHost)?);
    let mut exported = write(&inventory);
    exported.notes.append(&mut inventory.notes);
    exported.notes.sort();
    tell(report::import::notes(&exported.notes))?;
    give(policy.output.as_deref(), &exported.text)?;
    Ok(Exit::Done)
}
