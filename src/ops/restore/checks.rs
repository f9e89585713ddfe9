//! What is checked of a restored source: the database's own checks, and the policy's assertions.

use super::{Manifest, RestoreRequest};
use crate::{
    config,
    core::{
        failure::Failure,
        id::SourceName,
        policy::Policy,
        result::{CheckResult, CheckStatus},
    },
    sources::{self, RestoredCheck},
};

/// Runs them over what was restored.
pub(super) fn run(kind: &str, request: &RestoreRequest, manifest: &Manifest) -> Result<Vec<CheckResult>, Failure> {
    let mut checks = sources::check_restored(kind, &request.to, &manifest.entries)?;
    let kept = match &request.assertions {
        Some(assertions) => Ok(assertions.clone()),
        None => kept_policy(&request.source, manifest).map(|policy| policy.assertions),
    };
    match kept {
        Ok(assertions) => checks.extend(sources::check_assertions(kind, &request.to, &manifest.entries, &assertions)),
        Err(failure) => checks.push(unread(&failure)),
    }
    Ok(checks.into_iter().map(checked).collect())
}

/// A policy that cannot be read must not count as one without assertions.
fn unread(failure: &Failure) -> RestoredCheck {
    RestoredCheck {
        name: "assertions".to_owned(),
        ok: false,
        expected: "the assertions of the policy that was kept with the snapshot".to_owned(),
        actual: format!("they could not be read: {failure}"),
    }
}

/// The source's policy when the snapshot was taken.
pub fn kept_policy(source: &SourceName, manifest: &Manifest) -> Result<Policy, Failure> {
    let settings = config::parse_kept(&manifest.configuration)?;
    let source = settings.source(source.as_str());
    Ok(source.map(|source| settings.policy(source).clone()).unwrap_or_default())
}

/// A check as results have it.
pub fn checked(check: RestoredCheck) -> CheckResult {
    CheckResult {
        name: check.name,
        status: if check.ok { CheckStatus::Passed } else { CheckStatus::Failed },
        expected: check.expected,
        actual: check.actual,
    }
}
