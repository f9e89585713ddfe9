//! What is checked of a restored source: the database's own checks, and the policy's assertions.

use super::{Manifest, RestoreRequest};
use crate::{
    config,
    core::{
        failure::Failure,
        policy::Assertion,
        result::{CheckResult, CheckStatus},
    },
    sources::{self, RestoredCheck},
};

/// Runs them over what was restored.
pub(super) fn run(kind: &str, request: &RestoreRequest, manifest: &Manifest) -> Result<Vec<CheckResult>, Failure> {
    let mut checks = sources::check_restored(kind, &request.to, &manifest.entries)?;
    let kept = match &request.assertions {
        Some(assertions) => Ok(assertions.clone()),
        None => kept_assertions(request, manifest),
    };
    match kept {
        Ok(assertions) => checks.extend(sources::check_assertions(kind, &request.to, &manifest.entries, &assertions)),
        Err(failure) => checks.push(RestoredCheck {
            name: "assertions".to_owned(),
            ok: false,
            expected: "the assertions of the policy that was kept with the snapshot".to_owned(),
            actual: format!("they could not be read: {failure}"),
        }),
    }
    Ok(checks.into_iter().map(result).collect())
}

/// The assertions of the source's policy when the snapshot was taken.
fn kept_assertions(request: &RestoreRequest, manifest: &Manifest) -> Result<Vec<Assertion>, Failure> {
    let settings = config::parse_kept(&manifest.configuration)?;
    let source = settings.source(request.source.as_str());
    Ok(source.map(|source| settings.policy(source).assertions.clone()).unwrap_or_default())
}

fn result(check: RestoredCheck) -> CheckResult {
    CheckResult {
        name: check.name,
        status: if check.ok { CheckStatus::Passed } else { CheckStatus::Failed },
        expected: check.expected,
        actual: check.actual,
    }
}
