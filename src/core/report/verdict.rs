//! The verdict, and what single drills come to.

use super::{Derived, DrillEntry, Report};
use crate::core::{
    evidence::Verdict as EvidenceVerdict,
    result::{CheckStatus, Severity, Verdict},
};

/// What one drill comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything held.
    Passed,
    /// The data came back right, and an objective was missed.
    Objective,
    /// Something that came back is not what it should be.
    Integrity,
    /// Something did not come back.
    Completeness,
    /// It was broken off, refused, or could not tell.
    NoResult,
    /// It has no end.
    Open,
}

impl Outcome {
    /// What a drill comes to. Where its body was not opened, this follows from what was measured.
    pub(super) fn of(drill: &DrillEntry) -> Outcome {
        let missed = rpo_met(drill) == Some(false) || rto_met(drill) == Some(false);
        let check_failed = drill
            .detail
            .as_ref()
            .is_some_and(|detail| detail.checks.iter().any(|check| check.status == CheckStatus::Failed));
        match drill.clear.verdict {
            EvidenceVerdict::Pending => Outcome::Open,
            EvidenceVerdict::Aborted | EvidenceVerdict::Refused => Outcome::NoResult,
            EvidenceVerdict::Passed | EvidenceVerdict::Warning if check_failed => Outcome::Integrity,
            EvidenceVerdict::Passed | EvidenceVerdict::Warning if missed => Outcome::Objective,
            EvidenceVerdict::Passed | EvidenceVerdict::Warning => Outcome::Passed,
            EvidenceVerdict::Failed => match drill.detail.as_ref().map(|detail| detail.verdict) {
                Some(Verdict::FailObjective) => Outcome::Objective,
                Some(Verdict::FailIntegrity) => Outcome::Integrity,
                Some(Verdict::FailCompleteness) => Outcome::Completeness,
                Some(Verdict::Inconclusive | Verdict::Aborted | Verdict::Refused) => Outcome::NoResult,
                Some(Verdict::Pass) | None if missed => Outcome::Objective,
                Some(Verdict::Pass) | None if drill.clear.rto_seconds.is_some() => Outcome::Integrity,
                Some(Verdict::Pass) | None => Outcome::Completeness,
            },
        }
    }

    /// The outcome in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Objective => "objective missed",
            Outcome::Integrity => "integrity failed",
            Outcome::Completeness => "incomplete",
            Outcome::NoResult => "no result",
            Outcome::Open => "no end",
        }
    }
}

/// Whether no more was lost than the policy permits; `None` where either is not known.
pub(super) fn rpo_met(drill: &DrillEntry) -> Option<bool> {
    Some(drill.clear.rpo_seconds? <= drill.rpo_policy_seconds? as f64)
}

/// Whether it took no longer than the policy permits.
pub(super) fn rto_met(drill: &DrillEntry) -> Option<bool> {
    Some(drill.clear.rto_seconds? <= drill.rto_policy_seconds? as f64)
}

/// What the report comes to: the worst that was seen; where nothing bad was, a pass only where it could have been seen.
pub(super) fn verdict(report: &Report, derived: &Derived) -> Verdict {
    let outcomes: Vec<Outcome> = report.drills.iter().map(Outcome::of).collect();
    let any = |outcome| outcomes.contains(&outcome);
    let is_critical =
        |id: &str| derived.findings.iter().any(|finding| finding.id == id && finding.severity == Severity::Critical);
    if any(Outcome::Integrity) {
        Verdict::FailIntegrity
    } else if any(Outcome::Completeness) {
        Verdict::FailCompleteness
    } else if any(Outcome::Objective)
        || ["drill-missed", "exposure-exceeded", "not-durable"].into_iter().any(is_critical)
    {
        Verdict::FailObjective
    } else if is_inconclusive(report, &outcomes) {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    }
}

fn is_inconclusive(report: &Report, outcomes: &[Outcome]) -> bool {
    let last_passed = outcomes.iter().rposition(|outcome| *outcome == Outcome::Passed);
    let last_without = outcomes.iter().rposition(|outcome| *outcome == Outcome::NoResult);
    let authority = &report.authority;
    let evidence = &report.evidence;
    last_passed.is_none()
        || last_without > last_passed
        || outcomes.contains(&Outcome::Open)
        || authority.rpo_seconds.is_none()
        || authority.rto_seconds.is_none()
        || !evidence.complete
        || !evidence.refused.is_empty()
        || !evidence.shortened.is_empty()
        || report.copies.iter().any(|copies| copies.problem.is_some())
        // A drill that was judged by another policy, and whose body was not opened, may have missed its objectives.
        || report.drills.iter().any(|drill| drill.clear.rto_seconds.is_some() && drill.rto_policy_seconds.is_none())
}
