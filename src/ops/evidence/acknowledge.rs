//! Acknowledges records as lost for good, so that a chain is read on behind them.

use super::{Recorder, control::cached, journal::Journal, verify::Examined, verify::examine};
use crate::{
    core::{
        evidence::{Action, ChainHead, Control, Draft, SeenHead, Verdict, WriterId},
        failure::{Code, Failure},
        result::{EvidenceProblem, EvidenceRecord, EvidenceResult, EvidenceSchema, Status},
    },
    repository::{Repository, layout},
    world::World,
};
use std::path::Path;

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

impl Lost {
    /// The first stretch of it that is not on this host either; `None` where all of it is. Of a chain that was given up
    /// nothing is shipped any more, whatever of it lies here.
    fn not_here(self, journal: &Journal) -> Option<Lost> {
        let Lost { writer, first, last } = self;
        if journal.chain().is_none_or(|own| own.writer != writer) {
            return Some(self);
        }
        let here = journal.numbers(writer);
        let first = (first..=last).find(|number| !here.contains(number))?;
        let next = here.range(first..=last).next().map_or(last, |next| next - 1);
        Some(Lost { writer, first, last: next })
    }

    /// What to do about records that were on stores, and that none shows any more. Only what is nowhere may be given up.
    pub fn way_on(self, repository: &Repository, state_dir: Option<&Path>) -> String {
        let not_here = match state_dir {
            Some(directory) => self.not_here(&Journal::new(directory, repository.id)),
            None => Some(self),
        };
        match not_here {
            None => "recoup copy, which brings it again from this host; find out who removed it".to_owned(),
            Some(lost) if lost == self => format!(
                "recoup evidence verify, then recoup copy on the host that wrote it; if it is lost for good: recoup evidence \
                 acknowledge {lost} --reason TEXT"
            ),
            Some(lost) => format!(
                "recoup evidence verify; if {lost} is lost for good: recoup evidence acknowledge {lost} --reason TEXT, then \
                 recoup copy, which brings again what this host has"
            ),
        }
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
    must_be_lost(repository, &examined, lost)?;
    must_not_be_here(&recorder.journal, lost)?;
    let Lost { writer, first, last } = lost;
    let own = own.filter(|own| own.writer == writer).and_then(|own| own.head);
    let read = cached(repository, &recorder.journal).heads.get(&writer).copied();
    let newest = newest(repository, &examined, own.into_iter().chain(read), lost)?;
    let recorded = recorder.record(Draft {
        control: Some(Control::RecordsLost { writer, first, last }),
        seen: Some(SeenHead { writer, number: newest.number, sha256: newest.sha256 }),
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
    let (schema, findings, mut notes) = (EvidenceSchema, Vec::new(), recorder.take_notes());
    notes.push(format!("prune needs an answer from every store from now on, where the chain goes on: one that is silent may have {lost}"));
    Ok(EvidenceResult { schema, status: Status::Ok, records, findings, notes })
}

fn refused(code: Code, lost: Lost, cause: String, next_step: impl Into<String>) -> Failure {
    Failure::new(code, format!("evidence {lost} cannot be acknowledged as lost"))
        .cause(cause)
        .safe("nothing was changed")
        .next_step(next_step.into())
}

/// Everybody was asked, and nobody has them.
fn must_be_lost(repository: &Repository, examined: &Examined, lost: Lost) -> Result<(), Failure> {
    let Lost { writer, first, last } = lost;
    let refused = |code: Code, cause: String, next_step: &str| Err(refused(code, lost, cause, next_step));
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
    if let Some(((_, number), (signed, _))) = examined.records.range((writer, first)..=(writer, last)).next() {
        let cause = format!("record {writer}/{number} is there");
        let before = examined.records.get(&(writer, number - 1));
        let is_astray = before.is_some_and(|(before, _)| signed.record.previous != Some(before.sha256));
        let next_step = if is_astray { way_back(writer, *number) } else { "recoup evidence verify".to_owned() };
        return refused(Code::Refused, cause, &next_step);
    }
    Ok(())
}

/// How a chain is read on where a record follows another than the one that stores show before it.
fn way_back(writer: WriterId, number: u64) -> String {
    let before = number - 1;
    let name = layout::evidence(writer, before, "json");
    format!(
        "bring back the {writer}/{before} that it follows; where that is lost for good: read the other one with recoup \
         evidence show {writer}/{before}, do again what should stand, remove {name}, .sig and .age by hand on every store, \
         then recoup evidence acknowledge {writer}/{before} --reason TEXT"
    )
}

/// What this host has still is brought again by the next command.
fn must_not_be_here(journal: &Journal, lost: Lost) -> Result<(), Failure> {
    let Lost { writer, first, last } = lost;
    // Records of a chain that was given up lie here for good: they are shipped no more.
    let is_own = journal.chain().is_some_and(|own| own.writer == writer);
    match journal.numbers(writer).range(first..=last).next() {
        Some(number) if is_own => {
            let cause = format!("record {writer}/{number} is on this host");
            Err(refused(Code::Refused, lost, cause, "recoup copy, which brings it again; then recoup evidence verify"))
        }
        _ => Ok(()),
    }
}

/// The newest record of the writer that anybody is known to have seen. The name of a file that nobody trusted signed is no
/// sign that such a record ever was: what was acknowledged before it was written would be missed by nobody.
fn newest(
    repository: &Repository,
    examined: &Examined,
    known: impl Iterator<Item = ChainHead>,
    lost: Lost,
) -> Result<ChainHead, Failure> {
    let Lost { writer, last, .. } = lost;
    let records = examined.records.range((writer, 0)..=(writer, u64::MAX));
    let records = records.map(|((_, number), (signed, _))| ChainHead { number: *number, sha256: signed.sha256 });
    let seen = examined.records.values().flat_map(|(signed, _)| &signed.record.seen);
    let seen = seen.filter(|seen| seen.writer == writer);
    let seen = seen.map(|seen| ChainHead { number: seen.number, sha256: seen.sha256 });
    let newest = known.chain(seen).chain(records).max_by_key(|head| head.number);
    if let Some(newest) = newest.filter(|newest| last <= newest.number) {
        return Ok(newest);
    }
    let known = newest.map_or("none".to_owned(), |newest| format!("{writer}/{}", newest.number));
    let lies_at = examined.listed.iter().find(|(_, listed)| listed.contains_key(&(writer, last)));
    let (cause, next_step) = match lies_at {
        Some((at, _)) => {
            let (name, store) = (layout::evidence(writer, last, "json"), repository.stores[*at].name());
            (
                format!("the newest known of {writer} is {known}, and {name} is no record that anybody has seen"),
                format!("look at {name} on store {store}, and remove it there"),
            )
        }
        None => (format!("the newest known of {writer} is {known}"), "recoup evidence verify".to_owned()),
    };
    Err(refused(Code::Usage, lost, cause, next_step))
}
