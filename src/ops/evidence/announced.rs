//! Whether the stores know how many of them make a snapshot durable here, before anything is called so.

use super::{Host, Recorder, journal::Journal};
use crate::{
    core::{id::SourceName, policy::Copies},
    ops::state::{Announced, Known},
    repository::Repository,
};
use std::path::Path;

impl Recorder {
    /// Where a policy asks for no more than half of the stores: brings the record of it to the stores, unless enough
    /// have it. Who relies on it looks with [`announced`] whether it got there.
    pub async fn announce(&self) {
        // A chain that turns out to be another directory's goes on as a new one, which says it again.
        for _ in 0..2 {
            if self.is_announced() || self.note_configuration().is_err() || !self.ship().await.forked {
                return;
            }
        }
    }

    fn is_announced(&self) -> bool {
        let Host { repository, state_dir, key, .. } = &self.host;
        let signer = key.fingerprint();
        let mut fewer = self.configuration.min_stores.iter().filter(|(_, wanted)| **wanted < self.quorum() as u64);
        fewer.all(|(source, wanted)| announced(repository, state_dir, source, *wanted, Some(signer.as_str())).is_ok())
    }
}

/// The record that says that `wanted` stores make a snapshot of a source durable, where more than half of the stores
/// have it; else why not. Where this host's present key is given: the key that signed the record, for with another that is
/// revoked this host passes for gone.
pub fn announced(
    repository: &Repository,
    state_dir: &Path,
    source: &SourceName,
    wanted: u64,
    signer: Option<&str>,
) -> Result<Announced, String> {
    let none = "this host has no evidence record that says so yet";
    let chain = Journal::new(state_dir, repository.id).chain().ok_or(none)?;
    if signer.is_some() && chain.configuration_signer.as_deref() != signer {
        return Err("this host has another key than signed the evidence record that says so".to_owned());
    }
    let number = chain.min_stores_since.get(source).filter(|_| chain.min_stores.get(source) == Some(&wanted));
    let number = *number.ok_or(none)?;
    let has_it = |store: &&str| chain.acknowledged.get(*store).is_some_and(|newest| *newest >= number);
    let stores = || repository.stores.iter().map(|store| store.name());
    let (having, needed) = (stores().filter(has_it).count(), repository.control_write_quorum());
    if having < needed {
        let writer = chain.writer;
        return Err(format!(
            "evidence record {writer}/{number}, which says so, is on {having} of {} stores, and {needed} must have it",
            repository.stores.len()
        ));
    }
    Ok(Announced { writer: chain.writer, number, stores: stores().map(str::to_owned).collect() })
}

/// What makes a snapshot of a source durable now, as [`crate::ops::backup`] judges it: where the policy asks for no more
/// than half of the stores, and that does not count yet, more than half must hold it. A host that never backed the source
/// up takes the policy at its word: the snapshots are another's, who has said so.
pub fn copies_now(
    repository: &Repository,
    state_dir: &Path,
    source: &SourceName,
    copies: Copies,
    known: &Known,
) -> Copies {
    let (wanted, most) = (copies.required_stores(repository.stores.len()), repository.control_write_quorum());
    if known.last_seq == 0 || wanted >= most {
        return copies;
    }
    let announced = announced(repository, state_dir, source, wanted as u64, None).ok();
    match announced.is_some() && announced == known.announced {
        true => copies,
        false => copies.on_stores(most),
    }
}
