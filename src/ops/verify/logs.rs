//! The log of a source: what each store holds of it, and what of it no other has.

use super::{Examination, full_name};
use crate::{
    core::{id::SnapshotId, log::LogFork, result::Problem},
    repository::{
        catalogue::{Catalogue, Needed},
        layout,
        log::LogSurvey,
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
pub(super) fn wanted_on(
    catalogue: &Catalogue,
    survey: &LogSurvey,
    store: usize,
    examination: &mut Examination,
    wanted: &mut BTreeMap<Needed, BTreeSet<SnapshotId>>,
) {
    let listing = &catalogue.listings[store];
    let mut lacking = 0u64;
    // What goes soon is brought nowhere.
    let condemned = catalogue.prunes.condemned().logs;
    for (id, held) in &survey.records {
        if held.stores.contains(&store) {
            wanted.extend(held.signed.needed().into_iter().map(|object| (object, BTreeSet::new())));
        } else if !condemned.has(id.history, id.first, id.run) {
            lacking += held.signed.record.files.len() as u64;
        }
    }
    if lacking > 0 {
        let files = if lacking == 1 { "file" } else { "files" };
        let cause = format!("it lacks {lacking} {files} of the log of {}", catalogue.source);
        examination.findings.add(&listing.store, Some(log_of(catalogue)), Problem::Behind, [], Some(cause));
    }
}

/// The name of a source's log as a whole, for findings.
pub(in crate::ops) fn log_of(catalogue: &Catalogue) -> String {
    full_name(catalogue, layout::LOG.trim_end_matches('/'))
}
