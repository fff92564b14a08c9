//! `nacld export`.

use nacl_daemon::{
    export::{self, Exported},
    inventory::{Inventory, read},
    report::{self, import::Work},
    resolve::NoHost,
};

use super::{import::give, policy::usable, tell};
use crate::{Exit, cli};

pub fn run(args: &cli::Export) -> anyhow::Result<Exit> {
    match &args.to {
        cli::ExportTo::Aws(policy) => of_inventory(policy, export::aws::write),
        cli::ExportTo::Terraform(policy) => of_inventory(policy, export::terraform::write),
        cli::ExportTo::Cloudformation(policy) => of_inventory(policy, export::cloudformation::write),
        cli::ExportTo::Nftables(args) => {
            let resolved = usable(&args.policy.policy, &args.policy.parameters.given(), &NoHost)?;
            let place = resolved.named_interface(args.interface.as_deref())?;
            finish(&args.policy, &export::nftables::write(&resolved.file, &place.name, &place.interface))
        }
    }
}

/// What is made of what a policy says in AWS's terms.
fn of_inventory(policy: &cli::ExportPolicy, write: fn(&Inventory) -> Exported) -> anyhow::Result<Exit> {
    let mut inventory = read::read(&usable(&policy.policy, &policy.parameters.given(), &NoHost)?);
    let mut exported = write(&inventory);
    exported.notes.append(&mut inventory.notes);
    exported.notes.sort();
    finish(policy, &exported)
}

fn finish(policy: &cli::ExportPolicy, exported: &Exported) -> anyhow::Result<Exit> {
    tell(report::import::notes(Work::Export, &exported.notes))?;
    give(policy.output.as_deref(), &exported.text)?;
    Ok(Exit::Done)
}
