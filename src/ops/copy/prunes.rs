//! Carrying prune plans and tombstones to every store: what was pruned must not come back from one that lagged.

use super::Copying;
use crate::{
    core::result::Problem,
    ops::verify::prunes::objects,
    repository::{catalogue::Catalogue, layout},
    stores::Replaced,
};
use bytes::Bytes;

impl Copying<'_> {
    /// Brings the records that a store lacks or has damaged; the signature first, as when they were written.
    pub(super) async fn carry_prunes(&mut self, catalogue: &Catalogue, store: usize) {
        let folder = layout::source_folder(&catalogue.source);
        for (stage, signed) in catalogue.prunes.kept_on(store) {
            let held = &catalogue.listings[store].objects;
            // A prune may have put a later one there since, which deletes less.
            if held.contains_key(&layout::prune_object(signed.record.plan, stage))
                && self.repository.read_prune(store, &catalogue.source, signed.record.plan, stage).await.is_ok()
            {
                objects(stage, signed).for_each(|object| {
                    self.findings.settle(&catalogue.listings[store].store, &format!("{folder}{}", object.name));
                });
                continue;
            }
            for (object, bytes) in objects(stage, signed).zip([&signed.signature, &signed.bytes]) {
                if self.stopped.contains_key(&store) {
                    return;
                }
                let key = format!("{folder}{}", object.name);
                self.carry(store, &key, bytes.clone(), &object.sha256, held.contains_key(&object.name)).await;
            }
        }
    }

    /// Brings what lists the runs that executed plans have deleted of the log, where a store lacks it or has it damaged.
    pub(super) async fn carry_lists(&mut self, catalogue: &Catalogue, store: usize) {
        let folder = layout::source_folder(&catalogue.source);
        for (plan, sha256) in catalogue.prunes.lists() {
            let name = layout::prune_list(plan);
            let key = format!("{folder}{name}");
            let listing = &catalogue.listings[store];
            let is_wrong = self
                .findings
                .list()
                .iter()
                .any(|found| found.store == listing.store && found.object.as_deref() == Some(key.as_str()));
            let is_there = listing.objects.contains_key(&name);
            if is_there && !is_wrong {
                continue;
            }
            let (source, listings) = (&catalogue.source, &catalogue.listings);
            let Some(list) = self.repository.find_list(source, (plan, sha256), listings).await else { continue };
            if self.stopped.contains_key(&store) {
                return;
            }
            self.carry(store, &key, list.bytes, &sha256, is_there).await;
        }
    }

    async fn carry(&mut self, at: usize, key: &str, bytes: Bytes, sha256: &crate::core::id::Sha256, is_there: bool) {
        let size = bytes.len() as u64;
        let name = self.stores[at].store.clone();
        if self.request.dry_run {
            let damaged = Problem::Damaged;
            let is_wrong =
                self.findings.list().iter().any(|found| {
                    found.store == name && found.object.as_deref() == Some(key) && found.problem == damaged
                });
            if !is_there || is_wrong {
                self.count(at, &Replaced::Filled, size);
                self.findings.settle(&name, key);
            }
            return;
        }
        match self.repository.stores[at].replace(key, bytes, sha256).await {
            Ok(replaced) => {
                self.count(at, &replaced, size);
                self.findings.settle(&name, key);
            }
            Err(error) => self.not_taken(at, &error, None),
        }
    }
}
