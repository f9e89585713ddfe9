//! How many stores a prune has to read and to publish on, so that it misses nothing that was ever acknowledged.
//!
//! With n stores, any n−m+1 have one in common with the m that made a snapshot durable. The m that counts is the
//! smallest that any writer worked with: a policy that asks for more now says nothing about what was committed before,
//! nor about what a host commits whose policy still asks for less. Where a prune has seen every store, and each snapshot
//! on enough of them, what held before that moment counts no more.

use crate::{
    core::control::ControlState,
    ops::{
        host::{Host, Protected},
        state::{Known, Level},
    },
};
use std::collections::BTreeMap;

/// The number of stores. What no record says is taken to have been as it is now.
pub(super) fn of(host: &Host, protected: &Protected, known: &Known, control: Option<&ControlState>) -> usize {
    let stores = &host.repository.stores;
    let required = protected.policy.copies.required_stores(stores.len()) as u64;
    // Copies on a store that is none any more count for nothing.
    let is_configured = |name: &String| stores.iter().any(|store| store.name() == name);
    let level = known.level.as_ref().filter(|level: &&Level| level.stores.iter().all(is_configured));
    let nothing = BTreeMap::new();
    let since = level.map_or(&nothing, |level| &level.evidence);
    let fewest = control.and_then(|control| control.fewest_stores(&protected.name, since));
    let of_level = level.map_or(required, |level| level.min_stores);
    let fewest = required.min(of_level).min(fewest.unwrap_or(required));
    (stores.len() + 1).saturating_sub(usize::try_from(fewest).unwrap_or(usize::MAX)).clamp(1, stores.len().max(1))
}
