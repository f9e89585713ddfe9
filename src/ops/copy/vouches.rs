//! Bringing vouches level: without them, a store's snapshots of a revoked signer are believed from no other store.

use super::Copying;
use crate::repository::layout;

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
                if is_right || self.stopped.contains_key(at) {
                    continue;
                }
                // The signature, then the list: where that is, the signature is.
                let [signature, list] = ["sig", "json"].map(|ending| layout::vouch(*id, ending));
                if !self.put_all(*at, &[(signature, &signed.signature), (list, &signed.bytes)]).await {
                    continue;
                }
                self.findings.settle(&self.stores[*at].store, &layout::vouch(*id, "json"));
            }
        }
    }
}
