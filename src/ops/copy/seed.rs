//! Founding again what answers and is empty, and putting the clear files right.

use super::Copying;
use crate::{
    core::result::Problem,
    repository::{
        head::{self, StoreStatus},
        layout, recovery,
    },
};
use bytes::Bytes;

impl Copying<'_> {
    /// A store that answers and is empty is seeded again; damaged clear files are put right.
    ///
    /// Nobody signs `recoup.json`: what agrees with the record of the founding is written, or else what most stores say, in
    /// the form that founding gives it.
    pub(super) async fn seed_stores(&mut self) {
        let survey = head::survey(&self.repository.stores, self.repository.id).await;
        let right = match self.repository.right_head(&survey).await {
            Some(right) => right,
            // Lost everywhere: what is signed for this repository says whose stores these are.
            None => match self.repository.head_from_snapshots(&survey).await {
                Some(head) => head,
                None => return,
            },
        };
        let bytes = Bytes::from(right.to_bytes());
        for (at, found) in survey.into_iter().enumerate() {
            match found {
                Ok(own) if own == right => {}
                Ok(_) => self.put_clear(at, layout::REPOSITORY, bytes.clone()).await,
                Err(StoreStatus::Empty | StoreStatus::Damaged(_)) => {
                    let name = self.stores[at].store.clone();
                    self.notes.push(format!("store {name} has no usable recoup.json and is seeded again"));
                    self.put_clear(at, layout::REPOSITORY, bytes.clone()).await;
                    if !self.stopped.contains_key(&at) {
                        self.stores[at].seeded = true;
                        self.founded.insert(at);
                    }
                }
                // Its inventories are signed for this repository: the id in its recoup.json was damaged.
                Err(StoreStatus::Foreign(_)) if self.repository.signed_since(at).await.is_some() => {
                    self.put_clear(at, layout::REPOSITORY, bytes.clone()).await;
                }
                // The examination names it.
                Err(_) => continue,
            }
            for (name, content) in recovery::files() {
                self.put_clear(at, name, Bytes::from_static(content.as_bytes())).await;
            }
        }
        if !self.request.dry_run {
            self.founded.clear();
        }
    }

    async fn put_clear(&mut self, at: usize, key: &str, bytes: Bytes) {
        if self.stopped.contains_key(&at) {
            return;
        }
        self.put_all(at, &[(key.to_owned(), &bytes)]).await;
    }

    /// What a dry run would have put right is no finding.
    pub(super) fn forget_founded(&mut self) {
        if !self.request.dry_run {
            return;
        }
        let clear = [layout::REPOSITORY, layout::RECOVERY_NOTE, layout::RECOVERY_SCRIPT];
        self.findings.retain(|_, object, problem| {
            problem == Problem::Foreign || !object.is_some_and(|object| clear.contains(&object))
        });
        for at in &self.founded {
            let store = &self.stores[*at].store;
            self.losses.unasked.remove(store);
            self.findings
                .retain(|of, object, problem| of != store || object.is_some() || problem != Problem::Unreachable);
        }
    }
}
