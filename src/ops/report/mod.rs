//! Makes signed restore-verification reports, and checks them.
//!
//! Nothing is refused because a store is down: the report says so, and its verdict is inconclusive at best.

mod bundle;
mod gather;
mod verify;

pub use verify::{VerifyRequest, verify};

use super::{evidence::Recorder, host::Host, open};
use crate::{
    config::Settings,
    core::{
        evidence::{Action, Draft, Subject, Verdict},
        failure::{Code, Failure},
        id::SourceName,
        report::{Report, html},
        result::{ReportResult, ReportSchema},
        time::Timestamp,
    },
    format::{self, report as report_format, seal::Identities, signature},
    world::World,
};
use bundle::Bundle;
use std::path::{Path, PathBuf};

/// The period of a report that names none.
const DEFAULT_DAYS: i64 = 90;

/// The report's file.
pub const REPORT: &str = "report.json";

/// What a report is asked for.
#[derive(Clone, Debug)]
pub struct ReportRequest {
    /// Of this source.
    pub source: SourceName,
    /// Where the period begins; 90 days before its end where nothing is said.
    pub from: Option<Timestamp>,
    /// Where it ends; now where nothing is said.
    pub to: Option<Timestamp>,
    /// The directory, which must not exist or be empty.
    pub out: PathBuf,
}

/// Makes a report. `identities` open what this host's own catalogue key does not.
pub async fn make(
    settings: &Settings,
    world: &World,
    identities: Option<Identities>,
    request: &ReportRequest,
) -> Result<ReportResult, Failure> {
    let host = open::open_host(settings, world)?;
    open::provide_state_dir(settings)?;
    let now = world.now();
    let period = period(request, now)?;
    bundle::check_out(&request.out)?;
    let gathered = gather::gather(settings, &host, identities.as_ref(), &request.source, period, now).await?;
    let report = Report::build(gathered.facts);
    let bytes = report_format::to_bytes(&report);
    // The page and everything a verifier makes again comes from what the bytes say.
    let report = report_format::parse(&bytes)
        .map_err(|error| Failure::internal("the report that was made does not read as one").cause(error))?;
    let signature = host.key.sign(signature::REPORT, &bytes);
    let sha256 = format::sha256(&bytes);
    let signers = bundle::signers(settings, &host, &gathered.records, &bytes, &signature)?;
    let mut warnings = gathered.warnings;
    warnings.extend(signers.warning);
    let page = html::page(&report, sha256);
    Bundle { report: &report, bytes: &bytes, signature: &signature, signers: &signers.text, page: &page }
        .write(&request.out, &gathered.records)?;
    warnings.extend(record(settings, &host, &report, sha256, now).await);
    Ok(ReportResult {
        schema: ReportSchema,
        source: request.source.clone(),
        directory: shown(&request.out),
        report: shown(&request.out.join(REPORT)),
        report_sha256: sha256,
        signature: shown(&request.out.join(bundle::SIGNATURE)),
        verdict: report.derived.verdict,
        findings: report.derived.findings.len() as u64,
        warnings,
        found: report.derived.findings,
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn period(request: &ReportRequest, now: Timestamp) -> Result<(Timestamp, Timestamp), Failure> {
    let wrong = |message: String, next_step: &str| {
        Err(Failure::new(Code::Usage, message).safe("nothing was read or changed").next_step(next_step))
    };
    let to = request.to.unwrap_or(now);
    if to > now {
        return wrong(format!("the period ends at {to}, which lies in the future"), "name an earlier --to, or none");
    }
    let days = chrono::Duration::days(DEFAULT_DAYS);
    let earlier = to.as_datetime().checked_sub_signed(days).map_or(to, Timestamp::new);
    let from = request.from.unwrap_or(earlier);
    if from >= to {
        return wrong(format!("the period from {from} to {to} is empty"), "name a --from before --to");
    }
    Ok((from, to))
}

/// Leaves evidence that the report was made. Failing to is no reason to take the report back.
async fn record(
    settings: &Settings,
    host: &Host,
    report: &Report,
    sha256: crate::core::id::Sha256,
    started_at: Timestamp,
) -> Option<String> {
    let recorder = Recorder::new(host, settings);
    let mut draft = Draft::new(Action::Report, Verdict::Passed, started_at);
    draft.subjects = vec![Subject::new(report.head.source.clone(), Verdict::Passed)];
    draft.result = serde_json::json!({
        "report": report.head.report,
        "report_sha256": sha256,
        "from": report.head.from,
        "to": report.head.to,
        "verdict": report.derived.verdict,
    });
    match recorder.record(draft) {
        Ok(recorded) => {
            let shipped = recorder.ship().await;
            let is_durable = shipped.holds(recorded.head.number) >= host.repository.control_write_quorum();
            let late = || format!("the record of this report is on too few stores yet: {}", shipped.reasons());
            let notes: Vec<String> = recorder.take_notes().into_iter().chain((!is_durable).then(late)).collect();
            (!notes.is_empty()).then(|| notes.join("; "))
        }
        Err(failure) => Some(format!("that this report was made is not on record: {failure}")),
    }
}
