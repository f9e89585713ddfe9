//! What is done and said when an append-only log was altered: both versions are held, and it is on record.

use super::{
    backup::{self, Snapshot},
    evidence::Recorder,
    hold,
    host::Host,
    state::{Altered, SourceState},
};
use crate::core::{
    failure::{Code, Failure},
    id::SourceName,
};

/// How many altered files are named; all of them stand in the JSON.
const NAMED_MAX: usize = 20;

/// What came of the alterations that a source's state has noted.
#[derive(Default)]
pub struct Answer {
    /// What the operator should know.
    pub notes: Vec<String>,
    /// An alarm that an earlier run could not give any more.
    pub failure: Option<Failure>,
}

/// Holds both versions of an altered log, once for each change. A run that died before it gave the alarm has left its
/// note: then this gives it. The note stays until [`told`].
pub fn answer(host: &Host, recorder: &Recorder, source: &SourceName) -> Answer {
    let mut answer = Answer::default();
    let directory = host.source_state_dir(source);
    let noted = SourceState::peek(&directory, host.repository.id).altered;
    for altered in noted {
        let held = match altered.hold {
            Some(hold) => Ok(hold),
            None => hold::keep_what_was(recorder, &host.world, source, &altered),
        };
        match held {
            Ok(hold) => {
                answer.notes.push(format!(
                    "{source}: snapshots {} and {} are held ({hold}) until recoup hold release says why not",
                    altered.since.seq, altered.found_in.seq
                ));
                // Held twice, if this is not noted.
                let _ = update(host, source, |noted| {
                    noted.iter_mut().filter(|of| **of == altered).for_each(|of| of.hold = Some(hold));
                });
            }
            Err(failure) => answer.notes.push(format!(
                "{source}: snapshots {} and {} could not be held: {failure}; the next backup tries again",
                altered.since.seq, altered.found_in.seq
            )),
        }
        answer.failure = Some(earlier(source, &altered));
    }
    answer
}

/// Forgets what is held, now that everything was done that could keep the alarm from being given.
pub fn told(host: &Host, source: &SourceName) {
    if SourceState::peek(&host.source_state_dir(source), host.repository.id).altered.is_empty() {
        return;
    }
    // Told twice, if this is not forgotten.
    let _ = update(host, source, |noted| noted.retain(|of| of.hold.is_none()));
}

fn update(host: &Host, source: &SourceName, change: impl FnOnce(&mut Vec<Altered>)) -> Result<(), Failure> {
    let state = SourceState::open(host.source_state_dir(source), host.repository.id)?;
    state.update_known(|known| change(&mut known.altered))
}

/// The alarm of a run that died.
fn earlier(source: &SourceName, altered: &Altered) -> Failure {
    Failure::new(Code::LogAltered, format!("the log was altered: {}", altered.files.join(", ")))
        .cause(format!("what snapshot {} captured of it was no longer there", altered.since))
        .safe(format!(
            "both versions are kept: snapshot {} holds the log as it was, snapshot {} as it was found",
            altered.since.seq, altered.found_in.seq
        ))
        .next_step(next_step(source, altered.since.seq))
}

fn next_step(source: &SourceName, before: u64) -> String {
    format!(
        "compare, and find out who did it: recoup restore {source} --target snapshot:{before} \
         --identity FILE --to DIRECTORY; then \
         recoup hold list, and recoup hold release HOLD --reason TEXT; recoup-runbook(7), *A log was altered*"
    )
}

/// The altered files in one line.
pub(super) fn summary(snapshot: &Snapshot) -> String {
    let named: Vec<String> = snapshot.alterations.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let others = snapshot.alterations.len().saturating_sub(NAMED_MAX);
    let others = if others > 0 { format!(", and {others} more") } else { String::new() };
    format!("the log was altered: {}{others}", named.join(", "))
}

/// What the operator is told; `None` where nothing was altered, or where more is wrong than that.
pub fn failure(source: &SourceName, snapshot: &Snapshot) -> Option<Failure> {
    let before = snapshot.altered_since.filter(|_| snapshot.code() == Code::LogAltered)?;
    let taken = snapshot.head.id;
    let mut safe = format!(
        "both versions are kept: snapshot {} holds the log as it was, snapshot {} as it is now, durable",
        before.seq, taken.seq
    );
    for (store, why) in &snapshot.behind {
        safe.push_str(&format!("; {}", backup::reason(store, why)));
    }
    for warning in &snapshot.warnings {
        safe.push_str(&format!("; {warning}"));
    }
    Some(
        Failure::new(Code::LogAltered, summary(snapshot))
            .cause(format!(
                "what snapshot {before} captured of it is no longer there, and what is captured must never change"
            ))
            .safe(safe)
            .next_step(next_step(source, before.seq)),
    )
}
