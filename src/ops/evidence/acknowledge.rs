//! Acknowledges records as lost for good, so that a chain is read on behind them.

use super::{Recorder, verify::Examined, verify::examine};
use crate::{
    core::{
        evidence::{Action, Control, Draft, Verdict, WriterId},
        failure::{Code, Failure},
        result::{EvidenceProblem, EvidenceRecord, EvidenceResult, EvidenceSchema, Status},
    },
    repository::Repository,
    world::World,
};

/// Which records are lost: those of one writer from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whose.
    pub writer: WriterId,
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Lost { writer, first, last } = self;
        if first == last { write!(formatter, "{writer}/{first}") } else { write!(formatter, "{writer}/{first}-{last}") }
    }
}

/// Records that they are lost. Refused unless every store answers, and none has any of them right.
pub async fn acknowledge(
    repository: &Repository,
    recorder: &Recorder,
    world: &World,
    lost: Lost,
) -> Result<EvidenceResult, Failure> {
    let own = recorder.journal.chain();
    let examined = examine(repository, own.as_ref()).await;
    must_be_lost(repository, &examined, own.map(|own| (own.writer, own.number())), lost)?;
    let Lost { writer, first, last } = lost;
    let recorded = recorder.record(Draft {
        control: Some(Control::RecordsLost { writer, first, last }),
        ..Draft::new(Action::Acknowledge, Verdict::Passed, world.now())
    })?;
    let shipped = recorder.ship().await;
    let number = recorded.head.number;
    if shipped.holds(number) < recorder.quorum() {
        return Err(Failure::new(Code::Failed, "the acknowledgement is on this host, and not yet on enough stores")
            .cause(shipped.reasons())
            .safe("nothing was deleted; it is shipped by the next command")
            .next_step("bring the stores back, then run `recoup copy`"));
    }
    let mut records = Vec::new();
    for at in 0..repository.stores.len() {
        if let Ok(Some(signed)) = repository.read_record(at, recorded.writer, number).await {
            records.push(EvidenceRecord {
                sha256: signed.sha256,
                stores: Vec::new(),
                record: signed.record,
                body: None,
            });
            break;
        }
    }
    let (schema, findings, notes) = (EvidenceSchema, Vec::new(), Vec::new());
    Ok(EvidenceResult { schema, status: Status::Ok, records, findings, notes })
}

/// Everybody was asked, somebody has seen them, and nobody has them.
fn must_be_lost(
    repository: &Repository,
    examined: &Examined,
    own: Option<(WriterId, u64)>,
    lost: Lost,
) -> Result<(), Failure> {
    let Lost { writer, first, last } = lost;
    let refused = |code: Code, cause: String, next_step: &str| {
        Err(Failure::new(code, format!("evidence {lost} cannot be acknowledged as lost"))
            .cause(cause)
            .safe("nothing was changed")
            .next_step(next_step))
    };
    let silent = (0..repository.stores.len()).filter(|at| !examined.listed.contains_key(at));
    let silent: Vec<&str> = silent.map(|at| repository.stores[at].name()).collect();
    if !silent.is_empty() {
        let cause = format!("no answer from {}, which may have it", silent.join(", "));
        return refused(Code::Store, cause, "bring every store back, or remove from the configuration what is gone");
    }
    let unread = examined.findings.iter().find(|finding| {
        let is_meant = finding.writer == Some(writer) && finding.number.is_some_and(|at| (first..=last).contains(&at));
        finding.problem == EvidenceProblem::Unreachable && is_meant
    });
    if let Some(unread) = unread {
        let store = unread.store.as_deref().unwrap_or("?");
        let cause = format!("store {store} may have it: {}", unread.message);
        return refused(Code::Store, cause, "recoup evidence verify");
    }
    if let Some((_, number)) = examined.records.range((writer, first)..=(writer, last)).next().map(|(place, _)| *place)
    {
        let cause = format!("record {writer}/{number} is there");
        return refused(Code::Refused, cause, "recoup evidence verify");
    }
    // The name of a file that nobody trusted signed is no sign that such a record ever was: what was acknowledged before
    // it was written would be missed by nobody.
    let listed = examined.records.keys().copied();
    let seen = examined.records.values().flat_map(|(signed, _)| &signed.record.seen).map(|at| (at.writer, at.number));
    let newest = listed.chain(seen).chain(own).filter(|(of, _)| *of == writer).map(|(_, number)| number).max();
    match newest {
        Some(newest) if last <= newest => Ok(()),
        Some(newest) => {
            refused(Code::Usage, format!("the newest known of {writer} is {newest}"), "recoup evidence verify")
        }
        None => refused(Code::Usage, format!("nobody has seen a record of {writer}"), "recoup evidence list"),
    }
}
