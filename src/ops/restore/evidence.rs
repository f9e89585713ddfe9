//! What a restore leaves as evidence. It never keeps a restore from being done: what goes wrong here is a note.

use crate::{
    config::Settings,
    core::{
        evidence::{Action, Draft, Subject, Verdict},
        failure::{Code, Failure},
        id::SourceName,
        result::RestoreResult,
        time::Timestamp,
    },
    ops::{
        evidence::{Recorder, Started, deeds},
        restore::RestoreRequest,
    },
    world::World,
};
use std::time::Duration;

/// How long a restore may wait at its end until the stores have its record; the next command ships what they lack.
const SHIPPING_MAX: Duration = Duration::from_secs(20);

/// The same for one that was interrupted.
const INTERRUPTED_SHIPPING_MAX: Duration = Duration::from_secs(2);

/// The record of a restore that has begun, where this host leaves one.
pub struct RestoreRecord {
    open: Option<(Recorder, Started)>,
    source: SourceName,
    started_at: Timestamp,
    notes: Vec<String>,
}

/// Records that a restore begins, on this host; a start that a dead process left is closed first.
pub fn begin(settings: Option<&Settings>, world: &World, request: &RestoreRequest) -> RestoreRecord {
    let source = &request.source;
    let mut record = RestoreRecord { open: None, source: source.clone(), started_at: world.now(), notes: Vec::new() };
    let Some(settings) = settings else {
        let note = "this restore left no evidence record: without a configuration nothing here signs one; note down who \
                    restored what, when and why";
        record.notes.push(note.to_owned());
        return record;
    };
    if !settings.host.state_dir.exists() {
        // The next backup makes it again, and says so: that must not go under here.
        let directory = settings.host.state_dir.display();
        record.notes.push(format!("this restore left no evidence record: the state directory {directory} is gone"));
        return record;
    }
    let recorder = match deeds::recorder(settings, world) {
        Ok(recorder) => recorder,
        Err(why) => {
            record.notes.push(why);
            return record;
        }
    };
    match recorder.close_dead() {
        Ok(aborted) => record.notes.extend(aborted.iter().map(deeds::aborted_note)),
        Err(failure) => record.notes.push(failure.to_string()),
    }
    let draft = Draft {
        subjects: vec![Subject::new(source.clone(), Verdict::Pending)],
        result: serde_json::json!({
            "target": request.target.to_string(),
            "delta": request.server.delta,
            "standby": request.server.standby.is_some(),
        }),
        ..Draft::new(Action::Restore, Verdict::Pending, record.started_at)
    };
    match recorder.start(draft, None) {
        Ok(started) => record.open = Some((recorder, started)),
        Err(failure) => record.notes.push(format!("this restore left no evidence record: {failure}")),
    }
    record
}

impl RestoreRecord {
    /// Records how it ended, and brings that to the stores. Returns what the operator should know.
    pub async fn end(self, result: &Result<RestoreResult, Failure>) -> Vec<String> {
        let mut notes = self.notes;
        let Some((recorder, started)) = self.open else { return notes };
        let draft = match result {
            Ok(result) => {
                let verdict = deeds::verdict_of(result.code());
                let subject = Subject { snapshot: Some(result.snapshot), ..Subject::new(self.source.clone(), verdict) };
                Draft {
                    subjects: vec![subject],
                    result: serde_json::to_value(result).unwrap_or_default(),
                    ..Draft::new(Action::Restore, verdict, self.started_at)
                }
            }
            Err(failure) => deeds::failed(Action::Restore, failure, self.started_at),
        };
        match recorder.end(started, draft) {
            Ok(_) => {
                let interrupted = |failure: &Failure| matches!(failure.code, Code::Interrupted | Code::Terminated);
                let patience = match result {
                    Err(failure) if interrupted(failure) => INTERRUPTED_SHIPPING_MAX,
                    _ => SHIPPING_MAX,
                };
                let shipped = tokio::time::timeout(patience, deeds::shipping_notes(&recorder)).await;
                let late =
                    || vec!["the stores take long to get the evidence of this; the next command ships it".into()];
                notes.extend(shipped.unwrap_or_else(|_| late()));
            }
            Err(failure) => notes.push(format!("the end of this restore is not on record: {failure}")),
        }
        notes
    }
}
