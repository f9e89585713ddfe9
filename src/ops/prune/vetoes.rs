//! What keeps snapshots from being pruned whatever the policy says: holds, and the proof of the newest drill.

use super::gather::EVERY_STORE;
use crate::{
    core::{
        control::ControlState,
        failure::{Code, Failure},
        id::{Sha256, SnapshotId, SourceName},
    },
    ops::{
        evidence::{ControlView, Lost, read_control},
        host::Host,
    },
    repository::{catalogue::Refusal, evidence::RefusedRecord, layout},
};
use std::collections::{BTreeMap, BTreeSet};

/// The vetoes of one source.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Vetoes {
    /// Held snapshots, each with its holds.
    pub holds: BTreeMap<SnapshotId, Vec<String>>,
    /// Holds on everything that the source has.
    pub everything: Vec<String>,
    /// Snapshots that drills say they have proven, each with the digest of its inventory.
    pub proven: BTreeSet<(SnapshotId, Option<Sha256>)>,
    /// The control log as it was read.
    pub control: ControlState,
}

/// Reads the vetoes of a source from every store. Vetoes that one of them cannot give are a failure: nothing is pruned
/// then.
pub(super) async fn read(host: &Host, source: &SourceName) -> Result<Vetoes, Failure> {
    let view = read_control(&host.repository, Some(&host.state_dir)).await;
    if !view.silent(&host.repository).is_empty() {
        let stores = host.repository.stores.len();
        return Err(Failure::new(Code::Store, format!("nobody can say what of {source} is held"))
            .cause(format!(
                "{} of {stores} stores gave the control log: another one may be the only one that shows a hold",
                view.answered.len()
            ))
            .safe("nothing was planned or deleted")
            .next_step(EVERY_STORE));
    }
    nothing_may_hide(host, source, &view)?;
    let mut vetoes = Vetoes { proven: view.state.proven(source).collect(), ..Vetoes::default() };
    for (id, hold) in view.state.holds_of(source) {
        if hold.snapshots.is_empty() {
            vetoes.everything.push(id.to_string());
        }
        for snapshot in &hold.snapshots {
            vetoes.holds.entry(*snapshot).or_default().push(id.to_string());
        }
    }
    vetoes.control = view.state;
    Ok(vetoes)
}

/// How prune gets on behind a record that is nowhere good. What a trusted key signed may be a hold, whatever is wrong with
/// its place in the chain: nobody is told to remove it.
fn way_on(host: &Host, refused: &RefusedRecord, lost: Lost, view: &ControlView) -> String {
    let lies_there = view.listed.get(&refused.writer).is_some_and(|listed| listed.contains(&refused.number));
    let name = layout::evidence(refused.writer, refused.number, "json");
    let remove = match &refused.why {
        Refusal::Untrusted(_) if lies_there => {
            format!("; what nobody of yours wrote is removed by hand: {name} on store {}", refused.store)
        }
        // No chain of that name goes on behind it: there is nothing to bring, and nothing to acknowledge.
        Refusal::Misplaced(_) => {
            return format!(
                "recoup evidence verify: it is a copy, and where its own place has it, {name}, .sig and .age on store {} \
                 are removed by hand; so is every other that verify names",
                refused.store
            );
        }
        _ => String::new(),
    };
    format!("{}{remove}", lost.way_on(&host.repository, Some(&host.state_dir)))
}

/// A record was on more than half of the stores, and none has it any more.
fn unshown(host: &Host, failure: Failure, lost: Lost) -> Failure {
    failure
        .cause(format!(
            "evidence {lost} was on more than half of the stores, by what others recorded of it, and none has it any more"
        ))
        .next_step(lost.way_on(&host.repository, Some(&host.state_dir)))
}

/// A chain that cannot be followed to its end may hide a hold. What lies beyond it without following it, and on too few
/// stores for anything that was durable, hides none.
fn nothing_may_hide(host: &Host, source: &SourceName, view: &ControlView) -> Result<(), Failure> {
    let failure = |code: Code| {
        Failure::new(code, format!("nobody can say what of {source} is held")).safe("nothing was planned or deleted")
    };
    for refused in view.refused.iter().filter(|refused| !refused.stray) {
        let head = view.state.heads.get(&refused.writer);
        // Whoever begins a chain with junk may have put it over a record that mattered.
        if head.is_none_or(|head| refused.number > head.number) {
            let lost = Lost { writer: refused.writer, first: refused.number, last: refused.last };
            let (code, next_step) = match &refused.why {
                Refusal::Unreadable(_) => (Code::Store, "bring the store back: recoup doctor".to_owned()),
                Refusal::Newer(_) => (Code::Refused, "prune with the newer recoup that wrote it".to_owned()),
                Refusal::Untrusted(_) | Refusal::Damaged(_) | Refusal::Misplaced(_) => {
                    (Code::Refused, way_on(host, refused, lost, view))
                }
            };
            return Err(failure(code)
                .cause(format!("evidence record {lost} on store {}: {}", refused.store, refused.why))
                .next_step(next_step));
        }
    }
    match view.unshown().first() {
        Some(lost) => Err(unshown(host, failure(Code::Refused), *lost)),
        None => Ok(()),
    }
}
