//! Shows the control log: its envelopes, and bodies that can be opened.

use super::{acknowledge::Lost, verify::problem_of_refusal};
use crate::{
    core::{
        evidence::{Action, Body, WriterId},
        failure::{Code, Failure},
        id::SourceName,
        result::{EvidenceFinding, EvidenceRecord, EvidenceResult, EvidenceSchema, Status},
    },
    format::{
        evidence::{MAX_RAW_BODY_BYTES, parse_body},
        seal::{Identities, open_small},
    },
    repository::{
        Repository,
        chains::KnownChains,
        evidence::{RefusedRecord, SignedRecord},
    },
};

/// Which records.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// About this source.
    pub source: Option<SourceName>,
    /// Of this action.
    pub action: Option<Action>,
}

/// The records that match, oldest first.
pub async fn list(repository: &Repository, filter: &Filter) -> Result<EvidenceResult, Failure> {
    let followed = repository.follow_evidence(&KnownChains::default()).await;
    if followed.answered.is_empty() {
        return Err(repository.none_usable().await);
    }
    let mut notes = Vec::new();
    let is_complete = followed.answered.len() >= repository.control_read_quorum();
    if !is_complete {
        notes.push("too few stores answered: newer records may exist".to_owned());
    }
    notes.extend(followed.lost.stretches().map(|(writer, first, last)| {
        format!("evidence {} is lost, as was acknowledged", Lost { writer, first, last })
    }));
    let findings: Vec<EvidenceFinding> = followed.refused.iter().map(finding_of).collect();
    let worst = findings.iter().map(|finding| finding.problem.status()).max().unwrap_or(Status::Ok);
    let status = if is_complete { worst } else { worst.max(Status::Warning) };
    let wanted = |signed: &SignedRecord| {
        let record = &signed.record;
        filter.action.is_none_or(|action| record.action == action)
            && filter.source.as_ref().is_none_or(|source| record.subjects.iter().any(|of| of.source == *source))
    };
    let mut records: Vec<EvidenceRecord> = followed.records.into_iter().filter(wanted).map(entry).collect();
    records.sort_by_key(|entry| (entry.record.recorded_at, entry.record.writer, entry.record.number));
    Ok(EvidenceResult { schema: EvidenceSchema, status, records, findings, notes })
}

/// One record with its body, where some of `identities` opens it.
pub async fn show(
    repository: &Repository,
    writer: WriterId,
    number: u64,
    identities: &[&Identities],
) -> Result<EvidenceResult, Failure> {
    let mut findings = Vec::new();
    let mut found = None;
    for at in 0..repository.stores.len() {
        match repository.read_record(at, writer, number).await {
            Ok(Some(signed)) => {
                found = Some(signed);
                break;
            }
            Ok(None) => {}
            Err(why) => {
                let store = repository.stores[at].name().to_owned();
                findings.push(finding_of(&RefusedRecord { store, writer, number, last: number, why, stray: false }));
            }
        }
    }
    let Some(signed) = found else {
        let causes: Vec<String> = findings.iter().map(|finding| finding.message.clone()).collect();
        return Err(Failure::new(Code::Failed, format!("no store that answers has evidence record {writer}/{number}"))
            .cause(if causes.is_empty() { "no store has it".to_owned() } else { causes.join("; ") })
            .safe("nothing was changed")
            .next_step("recoup evidence list"));
    };
    let mut notes = Vec::new();
    let body = match open_body(repository, &signed, identities).await {
        Ok(body) => Some(body),
        Err(why) => {
            notes.push(format!("its body was not opened: {why}"));
            None
        }
    };
    let status = findings.iter().map(|finding| finding.problem.status()).max().unwrap_or(Status::Ok);
    let records = vec![EvidenceRecord { body, ..entry(signed) }];
    Ok(EvidenceResult { schema: EvidenceSchema, status, records, findings, notes })
}

/// The body of a record, opened by the first identity that can.
pub async fn open_body(
    repository: &Repository,
    signed: &SignedRecord,
    identities: &[&Identities],
) -> Result<Body, String> {
    let sealed = repository.read_evidence_body(signed).await.map_err(|error| error.to_string())?;
    let mut why = "there is no identity to open it with; name one with --identity".to_owned();
    for identities in identities {
        match open_small(identities, &sealed, MAX_RAW_BODY_BYTES).and_then(|raw| parse_body(&raw)) {
            Ok(body) => return Ok(body),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

fn entry(signed: SignedRecord) -> EvidenceRecord {
    EvidenceRecord { sha256: signed.sha256, stores: Vec::new(), record: signed.record, body: None }
}

fn finding_of(refused: &RefusedRecord) -> EvidenceFinding {
    EvidenceFinding {
        problem: problem_of_refusal(&refused.why),
        store: Some(refused.store.clone()),
        writer: Some(refused.writer),
        number: Some(refused.number),
        message: refused.why.to_string(),
    }
}
