//! Writing the edits that diagnostics propose into a policy's text: those that change no verdict, each proved by the engine over all
//! packets there are. Reads and writes no files.

use std::collections::BTreeSet;

use nacl_common::{Control, Direction, Family, evaluate::At};

use super::{findings, sets::Space};
use crate::{
    compile::compile,
    policy::{self, Diagnostic, Fix, Severity},
    resolve::{Exemption, Group, Host, Interface, Nacl, Resolved},
};

/// A policy's text with what could be mended, mended.
#[derive(Clone, Debug)]
pub struct Mended {
    /// The text.
    pub text: String,
    /// What was written, in this order.
    pub applied: Vec<Diagnostic>,
    /// What was not, because verdicts would change.
    pub refused: Vec<Diagnostic>,
}

/// Applies edits until none is left: all that can stand together at once, and one by one where that changes a verdict. A policy
/// that cannot be used is left as it is.
///
/// # Panics
/// Never: only what has an edit is tried.
pub fn mend(file: &str, text: &str, host: &dyn Host) -> Mended {
    let mut mended = Mended { text: text.to_owned(), applied: Vec::new(), refused: Vec::new() };
    let mut tried: BTreeSet<(&'static str, String)> = BTreeSet::new();
    let key = |one: &Diagnostic| (one.code, one.message.clone());
    loop {
        let mut outcome = policy::load(file, &mended.text, host);
        let Some(before) = outcome.resolved.take() else { break };
        outcome.add(findings(&before));
        let mut open: Vec<_> = outcome.diagnostics.into_iter().filter(|one| one.fix.is_some()).collect();
        open.retain(|one| one.severity != Severity::Error && !tried.contains(&key(one)));
        open.sort_by_key(|one| one.fix.as_ref().map(|fix| (fix.span.start, fix.span.end)));
        let mut end = 0;
        open.retain(|one| {
            let free = one.fix.as_ref().is_some_and(|fix| fix.span.start >= end);
            end = if free { one.fix.as_ref().map_or(end, |fix| fix.span.end) } else { end };
            free
        });
        if open.is_empty() {
            break;
        }
        let all: Vec<_> = open.iter().filter_map(|one| one.fix.as_ref()).collect();
        if let Some(text) = proved(file, &mended.text, &all, &before, host) {
            mended.text = text;
            mended.applied.extend(open);
            continue;
        }
        let one = open.into_iter().find(|one| {
            let fix = one.fix.as_ref().expect("it has one");
            tried.insert(key(one));
            match proved(file, &mended.text, &[fix], &before, host) {
                Some(text) => mended.text = text,
                None => mended.refused.push(one.clone()),
            }
            mended.refused.last() != Some(one)
        });
        mended.applied.extend(one);
    }
    mended
}

/// The text with these edits, where it means the same. They neither overlap nor touch, ascending.
fn proved(file: &str, text: &str, fixes: &[&Fix], before: &Resolved, host: &dyn Host) -> Option<String> {
    let mut edited = text.to_owned();
    for fix in fixes.iter().rev() {
        edited.replace_range(fix.span.clone(), &fix.replacement);
    }
    let after = policy::load(file, &edited, host).resolved?;
    same_verdicts(before, &after).then_some(edited)
}

/// Whether two policies give every packet on every interface the same verdict, and say the same of everything else that decides: what
/// passes unjudged, what is remembered and for how long, how it is enforced.
pub fn same_verdicts(one: &Resolved, other: &Resolved) -> bool {
    one.on_exit == other.on_exit
        && one.interfaces.len() == other.interfaces.len()
        && one.interfaces.iter().zip(&other.interfaces).all(|((name, one), (other_name, other))| {
            name == other_name && settings(one) == settings(other) && same_lists(one, other)
        })
}

/// All of an interface but its rules. Where something stands in the file decides nothing.
fn settings(interface: &Interface) -> Interface {
    let nacl = Nacl { inbound: Vec::new(), outbound: Vec::new(), ..Nacl::clone(&interface.nacl) };
    let emptied = |group: &Group| Group { inbound: Vec::new(), outbound: Vec::new(), ..group.clone() };
    let groups = interface.groups.as_ref().map(|groups| groups.iter().map(|group| emptied(group).into()).collect());
    let exemptions = interface.exemptions.iter().map(|exemption| Exemption { line: 0, ..exemption.clone() }).collect();
    Interface { nacl: nacl.into(), groups, exemptions, ..interface.clone() }
}

fn same_lists(one: &Interface, other: &Interface) -> bool {
    let (Ok(first), Ok(second)) = (compile(one, None), compile(other, None)) else { return false };
    let at = At { control: Control(first.flags | Control::FORGETFUL), ..At::default() };
    // Of each layer by itself, and whether what it lets pass is tracked (S30): a policy is asked about more than first packets.
    let said = |compiled: &crate::compile::Compiled, direction, packet: &nacl_common::Packet| -> Vec<_> {
        let says = compiled.says(&at, direction, packet, None).into_iter();
        says.map(|(layer, says)| (layer, says.allow, says.untracked)).collect()
    };
    Direction::ALL.into_iter().all(|direction| {
        [Family::V4, Family::V6].into_iter().all(|family| {
            Space::of(&[(one, &first), (other, &second)], direction, family).is_ok_and(|space| {
                space
                    .cells()
                    .all(|cell| said(&first, direction, &cell.packet) == said(&second, direction, &cell.packet))
            })
        })
    })
}
