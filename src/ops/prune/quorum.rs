//! How many stores a prune has to read and to publish on, so that it misses nothing that was ever acknowledged.
//!
//! With n stores, any n−m+1 have one in common with the m that made a snapshot durable. The m that counts is the
//! smallest that any writer worked with: a policy that asks for more now says nothing about what was committed before,
//! nor about what a host commits whose policy still asks for less. Where a prune has seen every store, and each snapshot
//! on enough of them, what held before that moment counts no more.
//!
//! They are never fewer than give the control log: then no prune misses what more than half of the stores hold, nor does
//! a backup that asks more than half of them miss a plan, whatever the two know of each other.

use crate::{
    core::control::{ControlState, FewestStores},
    ops::{
        host::{Host, Protected},
        state::{Known, Level},
    },
};
use std::collections::BTreeMap;

/// The number of stores, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quorum {
    pub(super) stores: usize,
    /// What asks for more of them than this host's policy does.
    fewest: Option<FewestStores>,
}

impl Quorum {
    /// Why they are so many, in so far as a writer is the cause of it: to be added to a sentence.
    pub(super) fn because(&self) -> String {
        let because = |fewest: &FewestStores| {
            let signer = fewest.signer.as_ref().map(|signer| format!(", which {signer} signs")).unwrap_or_default();
            let FewestStores { min_stores, writer, number, .. } = fewest;
            format!(", because by evidence record {writer}/{number}{signer}, {min_stores} made a snapshot durable")
        };
        self.fewest.as_ref().map(because).unwrap_or_default()
    }

    /// How to need fewer.
    pub(super) fn next_step(&self) -> String {
        let again = "bring the stores back, then run the same command again";
        let Some(fewest) = &self.fewest else { return again.to_owned() };
        let signer = fewest.signer.as_deref().unwrap_or("SIGNER");
        format!(
            "{again}; to need fewer: let the host of {} back up once with the present policy or, if it is gone, recoup key \
             signer revoke {signer}; then prune once while every store answers",
            fewest.writer
        )
    }
}

/// The number of stores. What no record says is taken to have been as it is now.
pub(super) fn of(host: &Host, protected: &Protected, known: &Known, control: Option<&ControlState>) -> Quorum {
    let repository = &host.repository;
    let stores = &repository.stores;
    let required = protected.policy.copies.required_stores(stores.len()) as u64;
    // Copies on a store that is none any more count for nothing.
    let is_configured = |name: &String| stores.iter().any(|store| store.name() == name);
    let level = known.level.as_ref().filter(|level: &&Level| level.stores.iter().all(is_configured));
    let nothing = BTreeMap::new();
    let trusted = repository.signers.fingerprints();
    let is_trusted = |signer: &str| trusted.iter().any(|trusted| trusted.as_str() == signer);
    let since = level.map_or(&nothing, |level| &level.evidence);
    let fewest = control.and_then(|control| control.fewest_stores(&protected.name, since, is_trusted));
    let of_level = level.map_or(required, |level| level.min_stores);
    let least = required.min(of_level);
    let fewest = fewest.filter(|fewest| fewest.min_stores < least);
    let counted = fewest.as_ref().map_or(least, |fewest| fewest.min_stores);
    let wanted = (stores.len() + 1).saturating_sub(usize::try_from(counted).unwrap_or(usize::MAX));
    let wanted = wanted.max(repository.control_read_quorum());
    Quorum { stores: wanted.clamp(1, stores.len().max(1)), fewest }
}
