//! The log of a source: what each store holds of it, and what of it no other has.

use super::{Examination, full_name};
use crate::{
    core::{
        id::SnapshotId,
        log::{HistoryId, LogFile, LogFork},
        prune::CondemnedLogs,
        result::Problem,
    },
    repository::{
        catalogue::{Catalogue, Needed},
        head::StoreStatus,
        layout,
        log::{LogSurvey, NeededLog, holders_of},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// What was not accepted as a record of a log, and files that were stored with several contents.
pub(super) fn examine(catalogue: &Catalogue, survey: &LogSurvey, examination: &mut Examination) {
    for refused in &survey.refused {
        // With a good one elsewhere, this copy is just damaged, and will be found as such below.
        if survey.records.contains_key(&refused.id) {
            continue;
        }
        let problem = refused.why.problem();
        let name = layout::log_record(refused.id);
        let object = full_name(catalogue, &name);
        let store = &catalogue.listings[refused.store].store;
        if problem == Problem::Damaged {
            examination.losses.objects.insert(object.clone());
        }
        examination.findings.add(store, Some(object), problem, [], Some(refused.why.to_string()));
        examination.note(format!("{name} on store {store}: {}", refused.why));
    }
    for fork in survey.forks() {
        examination.note(fork_note(catalogue, &fork));
    }
}

/// Snapshots whose own part of the log no store has whole: nobody can restore them, whatever else is there of them.
pub(super) fn examine_own(
    catalogue: &Catalogue,
    survey: &LogSurvey,
    wrong: &BTreeMap<Needed, BTreeSet<usize>>,
    examination: &mut Examination,
) {
    let mut damaged: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (object, stores) in wrong {
        damaged.entry(&object.name).or_default().extend(stores);
    }
    let is_damaged = |at: usize, name: &str| damaged.get(name).is_some_and(|stores| stores.contains(&at));
    for (id, committed) in &catalogue.snapshots {
        let Some(range) = &committed.inventory.log else { continue };
        let holders = holders_of(catalogue, NeededLog::own(range), survey, is_damaged);
        for file in holders.into_iter().filter(|(_, stores)| stores.is_empty()).map(|(file, _)| file) {
            examine_lost(catalogue, survey, (*id, range.history, file), &damaged, examination);
        }
    }
}

/// A file that a snapshot cannot be restored without, and that no store which answers has.
fn examine_lost(
    catalogue: &Catalogue,
    survey: &LogSurvey,
    (id, history, file): (SnapshotId, HistoryId, LogFile),
    damaged: &BTreeMap<&str, BTreeSet<usize>>,
    examination: &mut Examination,
) {
    let name = format!("{}{}", layout::log_folder(history), file.key());
    let silent = catalogue.listings.iter().filter(|listing| listing.status != StoreStatus::Ready);
    let silent: Vec<&str> = silent.map(|listing| listing.store.as_str()).collect();
    if !silent.is_empty() {
        examination.note(format!(
            "snapshot {id} of {} cannot be restored without {name}, which no store that answers has; {} may have it",
            catalogue.source,
            silent.join(", ")
        ));
        return;
    }
    let mut is_named = false;
    for record in survey.records.values().map(|held| &held.signed.record).filter(|record| record.history == history) {
        let Some(record_id) = record.id().filter(|_| record.files.iter().any(|entry| entry.file == file)) else {
            continue;
        };
        for object in [layout::log_file(history, file, record.run), layout::log_record(record_id)] {
            for at in damaged.get(object.as_str()).into_iter().flatten() {
                let store = &catalogue.listings[*at].store;
                examination.findings.add_object(store, &full_name(catalogue, &object), Problem::Missing, id);
                is_named = true;
            }
        }
    }
    if !is_named {
        let object = full_name(catalogue, &name);
        for store in catalogue.ready().map(|at| &catalogue.listings[at].store) {
            examination.findings.add(store, Some(object.clone()), Problem::Missing, [id], None);
        }
        examination.losses.objects.insert(object);
    }
}

fn fork_note(catalogue: &Catalogue, fork: &LogFork) -> String {
    let runs: Vec<&str> = fork.runs.iter().map(|run| run.as_str()).collect();
    let what = if fork.certain { "with different contents" } else { "and nothing here tells whether they are equal" };
    format!(
        "{} of {} in history {} was archived by the runs {}, {what}; all are kept",
        fork.file,
        catalogue.source,
        fork.history,
        runs.join(", ")
    )
}

/// The objects of the log that a store should hold: all that its own records name. What it has no record of, it lacks.
pub(super) fn wanted_on(survey: &LogSurvey, store: usize, wanted: &mut BTreeMap<Needed, BTreeSet<SnapshotId>>) {
    let held = survey.records.values().filter(|held| held.stores.contains(&store));
    wanted.extend(held.flat_map(|held| held.signed.needed()).map(|object| (object, BTreeSet::new())));
}

/// How many files each store lacks, but for what is gone. What a plan condemns is there like everything else until the plan
/// is executed.
pub(super) fn lacking(catalogue: &Catalogue, survey: &LogSurvey, gone: &CondemnedLogs) -> BTreeMap<usize, usize> {
    let mut lacking: BTreeMap<usize, usize> = BTreeMap::new();
    for held in survey.records.values().filter(|held| !gone.has_record(&held.signed.record)) {
        for store in catalogue.ready().filter(|at| !held.stores.contains(at)) {
            *lacking.entry(store).or_default() += held.signed.record.files.len();
        }
    }
    lacking
}

/// Stores that lack files of the log.
pub(super) fn examine_lag(
    catalogue: &Catalogue,
    survey: &LogSurvey,
    gone: &CondemnedLogs,
    examination: &mut Examination,
) {
    for (store, lacking) in lacking(catalogue, survey, gone) {
        let files = if lacking == 1 { "file" } else { "files" };
        let cause = format!("it lacks {lacking} {files} of the log of {}", catalogue.source);
        let store = &catalogue.listings[store].store;
        examination.findings.add(store, Some(log_of(catalogue)), Problem::Behind, [], Some(cause));
    }
}

/// The name of a source's log as a whole, for findings.
pub(in crate::ops) fn log_of(catalogue: &Catalogue) -> String {
    full_name(catalogue, layout::LOG.trim_end_matches('/'))
}
