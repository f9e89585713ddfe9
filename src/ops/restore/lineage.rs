//! The timeline that was asked for by its number, and the snapshots that lead to it.

use super::RestoreRequest;
use crate::{
    core::{
        failure::{Code, Failure},
        log::{FIRST_TIMELINE, LogEntry, LogFile},
        plan::restore::{Candidate, leading_to},
        target::{Target, Timeline},
    },
    repository::{Repository, catalogue::Catalogue},
};
use std::collections::BTreeMap;

/// The snapshots that may be chosen from, where a timeline was named only those that lead to it.
pub(super) async fn candidates(
    repository: &Repository,
    catalogue: &Catalogue,
    request: &RestoreRequest,
    all: Vec<Candidate>,
) -> Result<Vec<Candidate>, Failure> {
    let Timeline::Number(number) = request.server.timeline else { return Ok(all) };
    if all.iter().all(|candidate| candidate.log.is_none()) {
        // Of a source that has no log something else will be said.
        return Ok(all);
    }
    let survey = repository.survey_log(catalogue).await;
    let records = survey.records.values().map(|held| &held.signed.record);
    let histories = records.flat_map(|record| record.files.iter().map(|entry| (record.history.system, entry)));
    let grew = |(system, entry): (u64, &LogEntry)| match entry.file {
        LogFile::History(of) => Some(((system, of), entry.facts.grew_from?)),
        _ => None,
    };
    let grew_from: BTreeMap<_, _> = histories.filter_map(grew).collect();
    let leading = leading_to(&all, number, |system, of| grew_from.get(&(system, of)).copied());
    let is_named = |candidate: &&Candidate| match &request.target {
        Target::Snapshot(seq) => candidate.id.seq == *seq,
        Target::SnapshotId(id) => candidate.id == *id,
        _ => true,
    };
    // One that is not there at all is missing, not on another timeline.
    if leading.iter().any(|candidate| is_named(&candidate)) || !all.iter().any(|candidate| is_named(&candidate)) {
        return Ok(leading);
    }
    let known: Vec<String> = grew_from.keys().map(|(_, of)| of.to_string()).collect();
    let cause = match grew_from.keys().any(|(_, of)| *of == number) || number == FIRST_TIMELINE {
        true => "its history does not go through any such snapshot, or left its timeline before the snapshot was taken"
            .to_owned(),
        false if known.is_empty() => "the stores have the history of no timeline after the first".to_owned(),
        false => format!("the stores have the histories of these timelines after the first: {}", known.join(", ")),
    };
    let which = match &request.target {
        Target::Snapshot(_) | Target::SnapshotId(_) => {
            format!("{} of {} does not lead", request.target, request.source)
        }
        _ => format!("no snapshot of {} leads", request.source),
    };
    let message = format!("{which} to timeline {number}");
    Err(Failure::new(Code::NoRecoveryPoint, message)
        .cause(cause)
        .safe("nothing was written")
        .next_step(format!("see what there is: recoup points {}; or leave out --timeline", request.source)))
}
