//! Bringing the log level: sealed files first, the record that commits them last.

use super::Copying;
use crate::{
    core::{id::SnapshotId, result::Problem},
    ops::verify::logs::log_of,
    repository::{
        catalogue::{Catalogue, Needed},
        fetch::Detours,
        heal::BringError,
        layout,
        log::{HeldLog, LogSurvey},
    },
    stores::{LARGE_BYTES, Replaced},
};
use std::{collections::BTreeSet, io};

impl Copying<'_> {
    /// Brings a store every file of the log that a believed record names.
    pub(super) async fn level_log(
        &mut self,
        catalogue: &Catalogue,
        survey: &LogSurvey,
        store: usize,
        damaged: &BTreeSet<(usize, Needed)>,
    ) {
        let mut lacking = Vec::new();
        // What a plan condemns is log like all other until the plan is executed.
        for held in survey.records.values() {
            let committed = held.stores.contains(&store);
            if !self.level_record(catalogue, held, store, damaged).await && !committed {
                lacking.push(&held.signed.record);
            }
        }
        if !lacking.is_empty() && !self.stopped.contains_key(&store) {
            let (_, now) = self.repository.prunes(&catalogue.source).await;
            let gone = self.repository.deleted_since(&catalogue.source, &catalogue.prunes, &now).await;
            lacking.retain(|record| !gone.logs.has_record(record));
        }
        if lacking.is_empty() {
            let name = catalogue.listings[store].store.clone();
            self.findings.settle(&name, &log_of(catalogue));
        }
    }

    /// Whether the store holds all that a record names, in the end.
    async fn level_record(
        &mut self,
        catalogue: &Catalogue,
        held: &HeldLog,
        store: usize,
        damaged: &BTreeSet<(usize, Needed)>,
    ) -> bool {
        let needed = held.signed.needed();
        let committed = held.stores.contains(&store);
        let lacking: BTreeSet<String> =
            catalogue.lacking(store, &needed).into_iter().map(|object| object.name.clone()).collect();
        let mut complete = true;
        for (at, object) in needed.iter().enumerate() {
            let is_record = at + 1 == needed.len();
            // What lies there without a record nobody has read: it is compared before it is committed.
            let is_unread = !committed && !self.request.dry_run;
            if !is_unread && !lacking.contains(&object.name) && !damaged.contains(&(store, object.clone())) {
                continue;
            }
            if self.stopped.contains_key(&store) || is_record && !complete {
                return false;
            }
            complete &= self.bring_of_log(catalogue, held, store, object, is_record).await;
        }
        complete
    }

    async fn bring_of_log(
        &mut self,
        catalogue: &Catalogue,
        held: &HeldLog,
        store: usize,
        object: &Needed,
        is_record: bool,
    ) -> bool {
        let key = format!("{}{}", layout::source_folder(&catalogue.source), object.name);
        let name = self.stores[store].store.clone();
        if self.request.dry_run {
            let is_there = catalogue.listings[store].objects.contains_key(&object.name);
            let replaced = if is_there { Replaced::Healed { quarantined: None } } else { Replaced::Filled };
            self.count(store, &replaced, object.size.unwrap_or(0));
            self.findings.settle(&name, &key);
            return true;
        }
        let detours = Detours::default();
        let large = object.size.filter(|size| *size > LARGE_BYTES);
        let brought = if let Some(size) = large {
            match self.repository.fetch_large((&key, size, object.sha256), &self.request.spool, &detours).await {
                Ok(Err(error)) => {
                    self.no_room(&name, &error);
                    return false;
                }
                Ok(Ok(object)) => {
                    let replaced = self.repository.stores[store].replace_from(&key, &object).await;
                    replaced.map(|replaced| (replaced, size)).map_err(BringError::Store)
                }
                Err(nowhere) => Err(BringError::Nowhere(nowhere)),
            }
        } else if is_record {
            let bytes = held.signed.bytes.clone();
            let size = bytes.len() as u64;
            let replaced = self.repository.stores[store].replace(&key, bytes, &object.sha256).await;
            replaced.map(|replaced| (replaced, size)).map_err(BringError::Store)
        } else {
            self.repository.bring_one(&catalogue.source, store, object, &detours).await
        };
        match brought {
            Ok((replaced, size)) => {
                self.count(store, &replaced, size);
                self.findings.settle(&name, &key);
                return true;
            }
            Err(BringError::Nowhere(error)) => {
                for detour in detours.list() {
                    match detour.problem {
                        Problem::Unreachable => drop(self.losses.unasked.insert(detour.store)),
                        Problem::Damaged => {
                            self.findings.add(&detour.store, Some(key.clone()), Problem::Damaged, [], None);
                        }
                        _ => {}
                    }
                }
                if !error.unreachable {
                    self.losses.objects.insert(key.clone());
                }
                let nobody: [SnapshotId; 0] = [];
                self.findings.add(&name, Some(key), Problem::Missing, nobody, Some(error.to_string()));
            }
            Err(BringError::Store(error)) => self.not_taken(store, &error, None),
        }
        false
    }

    /// What was found wrong stays so: it could not be brought for a reason that is no store's.
    fn no_room(&mut self, store: &str, error: &io::Error) {
        let note = format!(
            "store {store}: files of the log of more than {} MiB were not brought, for want of a place on this host: \
             {}: {error}; make room there, then run recoup copy again",
            LARGE_BYTES >> 20,
            self.request.spool.display()
        );
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}
