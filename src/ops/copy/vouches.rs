//! Bringing vouches level: without them, a store's snapshots of a revoked signer are believed from no other store.

use super::Copying;
use crate::{
    format,
    repository::{layout, vouch::SignedVouch},
    stores::{Replaced, StoreError},
};
use bytes::Bytes;

impl Copying<'_> {
    /// Every store gets every vouch that counts, and the right bytes of it.
    pub(super) async fn level_vouches(&mut self) {
        let mut survey = self.repository.survey_vouches().await;
        for at in &self.founded {
            // It will answer once it is founded, and has nothing.
            survey.shown.entry(*at).or_default();
        }
        for (at, shown) in &survey.shown {
            for (id, signed) in &survey.good {
                let is_right = shown.get(id).is_some_and(Option::is_none);
                if is_right || self.stopped.contains_key(at) || !self.bring_vouch(*at, signed).await {
                    continue;
                }
                self.findings.settle(&self.stores[*at].store, &layout::vouch(*id, "json"));
            }
        }
    }

    /// The signature, then the list: where that is, the signature is.
    async fn bring_vouch(&mut self, at: usize, signed: &SignedVouch) -> bool {
        for (ending, bytes) in [("sig", &signed.signature), ("json", &signed.bytes)] {
            match self.put_vouch(at, &layout::vouch(signed.vouch.vouch, ending), bytes).await {
                Ok(replaced) => self.count(at, &replaced, bytes.len() as u64),
                Err(error) => {
                    self.not_taken(at, &error, None);
                    return false;
                }
            }
        }
        true
    }

    async fn put_vouch(&self, at: usize, key: &str, bytes: &Bytes) -> Result<Replaced, StoreError> {
        let store = &self.repository.stores[at];
        if self.request.dry_run {
            let held = store.get(key, bytes.len() as u64).await;
            return Ok(if held.is_ok_and(|held| held == *bytes) { Replaced::AlreadyRight } else { Replaced::Filled });
        }
        store.replace(key, bytes.clone(), &format::sha256(bytes)).await
    }
}
