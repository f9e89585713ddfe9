//! What is checked of a restored source: the database's own checks, and the policy's assertions.

use super::{Manifest, RestoreRequest};
use crate::{
    config,
    core::{
        failure::Failure,
        id::SourceName,
        policy::{Assertion, Policy},
        result::{CheckResult, CheckStatus},
    },
    ops::cancel::HaltOnDrop,
    sources::{Checker, RestoredCheck},
};
use std::sync::Arc;

/// Runs them over what was restored. Also returns what was not checked, and why.
pub(super) async fn run(
    kind: &str,
    request: &RestoreRequest,
    manifest: &Arc<Manifest>,
) -> Result<(Vec<CheckResult>, Vec<String>), Failure> {
    let kept = match &request.assertions {
        Some(assertions) => Ok(assertions.clone()),
        None => kept_policy(&request.source, manifest).map(|policy| policy.assertions),
    };
    let ending = HaltOnDrop::default();
    let checker = Checker::new(kind, &request.to, request.check_options.clone(), ending.halt());
    let manifest = manifest.clone();
    // They may take long, and an interruption does not wait for them.
    let running = tokio::task::spawn_blocking(move || all(checker, &manifest, kept));
    let (checks, unchecked) =
        running.await.map_err(|error| Failure::internal(format!("a thread of the restore failed: {error}")))??;
    Ok((checks.into_iter().map(checked).collect(), unchecked))
}

fn all(
    mut checker: Checker,
    manifest: &Manifest,
    kept: Result<Vec<Assertion>, Failure>,
) -> Result<(Vec<RestoredCheck>, Vec<String>), Failure> {
    let mut checks = checker.check_restored(&manifest.entries)?;
    match kept {
        Ok(assertions) => checks.extend(checker.check_assertions(&manifest.entries, &assertions)),
        Err(failure) => checks.push(unread(&failure)),
    }
    let (last, unchecked) = checker.finish()?;
    checks.extend(last);
    Ok((checks, unchecked))
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
