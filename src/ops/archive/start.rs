//! Opening a new history: from now on the log is that of another system.

use super::state::Kept;
use crate::{
    core::{
        evidence::{Action, Draft, Subject, Verdict},
        failure::{Code, Failure},
        id::SourceName,
    },
    ops::{
        evidence::{Recorder, deeds},
        host::Host,
    },
};

/// What to open.
pub struct OpenRequest {
    /// Whose log.
    pub source: SourceName,
    /// The system whose log it is from now on, where no push of it was refused yet.
    pub system: Option<u64>,
}

/// What was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The system whose log it was.
    pub before: Option<u64>,
    /// The system whose log it is.
    pub system: u64,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Opens a new history, on record.
pub async fn open(host: &Host, recorder: &Recorder, request: &OpenRequest) -> Result<Opened, Failure> {
    let source = &request.source;
    let mut kept = Kept::lock(&host.source_state_dir(source), host.repository.id).await?;
    let refused = kept.state.foreign.as_ref().map(|foreign| foreign.system);
    let Some(system) = request.system.or(refused) else {
        return Err(Failure::new(Code::Refused, format!("no new history of {source} waits to be opened"))
            .cause("no file of another system was refused")
            .safe("nothing was changed")
            .next_step("recoup archive push says when one is"));
    };
    let before = kept.state.system;
    let started_at = host.world.now();
    kept.state.system = Some(system);
    kept.state.foreign = None;
    if before != Some(system) {
        // The numbers of another system's segments say nothing about these.
        kept.state.highest.clear();
        kept.state.acknowledged.clear();
        kept.state.last_run.clear();
    }
    let draft = Draft {
        subjects: vec![Subject::new(source.clone(), Verdict::Passed)],
        result: serde_json::json!({
            "system_before": before.map(|system| system.to_string()),
            "system": system.to_string(),
        }),
        ..Draft::new(Action::Archive, Verdict::Passed, started_at)
    };
    // On record first: nothing is archived under a decision that nobody can see.
    recorder.record(draft)?;
    kept.save()?;
    drop(kept);
    let notes = deeds::shipping_notes(recorder).await;
    Ok(Opened { before, system, notes })
}
