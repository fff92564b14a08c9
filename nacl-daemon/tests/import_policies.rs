//! From a team's documents to packets: what Terraform and CloudFormation say, as a policy on an interface of this machine. A round
//! trip changes no packet, and a plan changes those it is about.

#[path = "support/inventory.rs"]
mod inventory;

use inventory::{corpus, document};
use nacl_daemon::{
    analyze, export,
    import::{
        Document,
        cloudformation::{self, Parameters},
        terraform::{self, Half},
        tree::Findings,
    },
    inventory::{
        Inventory,
        write::{self, Here},
    },
    policy::{self, Severity},
    report::diagnostics,
    resolve::{NoHost, Resolved},
};

/// The policy of an inventory, with one of its interfaces on this machine.
fn on_eth0(inventory: Inventory, of: &str) -> Resolved {
    let here = [Here { device: "eth0".to_owned(), of: of.to_owned() }];
    let text = write::write(inventory, &here).unwrap_or_else(|errors| panic!("{of}: {errors:?}")).policy;
    let outcome = policy::load("policy.toml", &text, &NoHost);
    let shown = || diagnostics::render("policy.toml", &text, &outcome.diagnostics, false);
    assert_eq!(outcome.count(Severity::Error), 0, "\n{text}\n{}", shown());
    outcome.resolved.unwrap()
}

/// What a packet meets otherwise.
fn changes(old: &Resolved, new: &Resolved) -> Vec<String> {
    let difference = analyze::diff(old, new, Some("eth0"), false).unwrap();
    difference.interfaces.iter().flat_map(|one| &one.changes).map(|change| format!("{change:?}")).collect()
}

fn terraform(documents: &[Document], half: Half) -> Inventory {
    let findings = Findings::default();
    let inventory = terraform::read(documents, half, &findings);
    assert_eq!(*findings.problems.borrow(), []);
    inventory
}

fn cloudformation(documents: &[Document]) -> Inventory {
    let findings = Findings::default();
    let inventory = cloudformation::read(documents, &Parameters::new(), &findings);
    assert_eq!(*findings.problems.borrow(), []);
    inventory
}

#[test]
fn a_round_trip_through_terraform_changes_no_packet() {
    for (file, half, of) in [
        ("state.json", Half::State, "eni-0a1b2c3d4e5f60718"),
        ("plan-change.json", Half::Planned, "eni-0a1b2c3d4e5f60718"),
        ("plan-new.json", Half::Planned, "app-0"),
    ] {
        let inventory = terraform(&[corpus(&format!("terraform/{file}"))], half);
        let mut exported = inventory.clone();
        // HCL only names AWS's own lists; their entries are looked up where it is applied.
        let (own, lists) =
            exported.prefix_lists.into_iter().partition(|list| list.identity.owner.as_deref() == Some("AWS"));
        exported.prefix_lists = lists;
        let text = export::terraform::write(&exported).text;
        let mut again = terraform(&[document("main.tf", text)], Half::State);
        again.prefix_lists.extend::<Vec<_>>(own);
        assert_eq!(changes(&on_eth0(inventory, of), &on_eth0(again, of)), Vec::<String>::new(), "{file}");
    }
}

#[test]
fn a_round_trip_through_cloudformation_changes_no_packet() {
    let inventory = cloudformation(&[corpus("cloudformation/network.yaml")]);
    let text = export::cloudformation::write(&inventory).text;
    let again = cloudformation(&[document("again.yaml", text)]);
    assert_eq!(changes(&on_eth0(inventory, "Interface"), &on_eth0(again, "Interface")), Vec::<String>::new());
}

/// From Terraform through a template and back: three formats, the same packets.
#[test]
fn from_terraform_to_cloudformation() {
    let inventory = terraform(&[corpus("terraform/state.json")], Half::State);
    let again = cloudformation(&[document("out.yaml", export::cloudformation::write(&inventory).text)]);
    let (old, new) = (on_eth0(inventory, "eni-0a1b2c3d4e5f60718"), on_eth0(again, "AppInterface"));
    assert_eq!(changes(&old, &new), Vec::<String>::new());
}

#[test]
fn a_plan_changes_what_it_is_about() {
    let half = |half| on_eth0(terraform(&[corpus("terraform/plan-change.json")], half), "eni-0a1b2c3d4e5f60718");
    let (prior, planned) = (half(Half::Prior), half(Half::Planned));
    let found = changes(&prior, &planned);
    assert!(!found.is_empty());
    assert_eq!(changes(&prior, &prior), Vec::<String>::new());
}
