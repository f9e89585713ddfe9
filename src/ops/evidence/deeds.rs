//! What commands did, as drafts of records.

use super::{Aborted, Recorder};
use crate::{
    config::Settings,
    core::{
        evidence::{Action, Draft, Subject, Verdict},
        failure::{Code, Failure},
        result::{BackupResult, CopyResult, ErrorResult, PruneResult, PrunedSource, Status},
        time::Timestamp,
    },
    ops::open,
    world::World,
};

/// The verdict that an exit code means.
pub fn verdict_of(code: Code) -> Verdict {
    match code {
        Code::Done => Verdict::Passed,
        Code::Warning => Verdict::Warning,
        Code::Refused => Verdict::Refused,
        Code::Interrupted | Code::Terminated => Verdict::Aborted,
        _ => Verdict::Failed,
    }
}

/// Snapshots that were taken, or not.
pub fn backup(result: &BackupResult, started_at: Timestamp) -> Draft {
    let subjects = result.sources.iter().map(|outcome| Subject {
        snapshot: outcome.head.as_ref().map(|head| head.snapshot),
        inventory_sha256: outcome.head.as_ref().map(|head| head.sha256),
        ..Subject::new(outcome.source.clone(), verdict_of(outcome.exit_code))
    });
    Draft {
        subjects: subjects.collect(),
        result: serde_json::to_value(result).unwrap_or_default(),
        ..Draft::new(Action::Backup, verdict_of(result.code()), started_at)
    }
}

/// Stores that were brought level, or not.
pub fn copy(result: &Result<CopyResult, Failure>, started_at: Timestamp) -> Draft {
    match result {
        Ok(result) => {
            let verdict = match result.status {
                Status::Ok => Verdict::Passed,
                Status::Warning => Verdict::Warning,
                Status::Critical | Status::Unknown => Verdict::Failed,
            };
            let result = serde_json::to_value(result).unwrap_or_default();
            Draft { result, ..Draft::new(Action::Copy, verdict, started_at) }
        }
        Err(failure) => failed(Action::Copy, failure, started_at),
    }
}

/// Snapshots that were condemned or deleted, or not.
pub fn prune(result: &PruneResult, started_at: Timestamp) -> Draft {
    let subject = |of: &PrunedSource| Subject::new(of.source.clone(), verdict_of(of.exit_code));
    Draft {
        subjects: result.sources.iter().filter(|of| of.is_news()).map(subject).collect(),
        result: serde_json::to_value(result).unwrap_or_default(),
        ..Draft::new(Action::Prune, verdict_of(result.code()), started_at)
    }
}

/// An action that failed.
pub fn failed(action: Action, failure: &Failure, started_at: Timestamp) -> Draft {
    let result = serde_json::to_value(ErrorResult::new(failure, failure.code)).unwrap_or_default();
    Draft { result, ..Draft::new(action, verdict_of(failure.code), started_at) }
}

/// The recorder of a configured host; says why there is none, where that is so.
pub fn recorder(settings: &Settings, world: &World) -> Result<Recorder, String> {
    let host = open::open_host(settings, world).map_err(|failure| no_record(&failure))?;
    Ok(Recorder::new(&host, settings))
}

/// Records what was done, and brings it to the stores. What goes wrong with that undoes nothing; it is returned as notes.
pub async fn leave(recorder: &Recorder, draft: Draft) -> Vec<String> {
    let mut notes = Vec::new();
    match recorder.close_dead() {
        Ok(aborted) => notes.extend(aborted.iter().map(aborted_note)),
        Err(failure) => notes.push(no_record(&failure)),
    }
    if let Err(failure) = recorder.record(draft) {
        notes.push(no_record(&failure));
    }
    notes.extend(shipping_notes(recorder).await);
    notes
}

/// Brings what is recorded to the stores, and says what keeps it from them.
pub async fn shipping_notes(recorder: &Recorder) -> Vec<String> {
    let shipped = recorder.ship().await;
    let enough = shipped.holds_newest() >= recorder.quorum();
    let mut notes = recorder.take_notes();
    if shipped.forked {
        notes.push(
            "this host's chain of evidence is another state directory's too: was it copied, or set back to an earlier \
             state? It goes on as a new chain; recoup evidence verify shows both"
                .to_owned(),
        );
    }
    if !enough && !shipped.behind.is_empty() {
        notes.push(format!(
            "the evidence of this is on this host and not yet on enough stores ({}); the next command ships it",
            shipped.reasons()
        ));
    }
    notes
}

/// What the operator is told of a start whose process is gone.
pub fn aborted_note(aborted: &Aborted) -> String {
    let removed = match &aborted.scratch {
        Some(scratch) => format!("; the plaintext it left in {} was removed", scratch.display()),
        None => String::new(),
    };
    format!("evidence record {} was begun by a process that is gone; it is closed as aborted{removed}", aborted.number)
}

fn no_record(failure: &Failure) -> String {
    let cause = failure.cause.as_ref().map_or_else(String::new, |cause| format!(": {cause}"));
    format!("this left no evidence record: {}{cause}", failure.message)
}
