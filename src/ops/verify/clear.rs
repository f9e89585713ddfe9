//! The clear files at the top of every store: `recoup.json`, the recovery note and the recovery script.

use super::Examination;
use crate::{
    core::result::Problem,
    repository::{
        Repository,
        fetch::problem_of,
        head::{self, StoreStatus},
        layout, recovery,
    },
    stores::Store,
};

/// Examines them on every store.
pub(super) async fn examine(repository: &Repository, examination: &mut Examination) {
    let survey = head::survey(&repository.stores, repository.id).await;
    let right = repository.right_head(&survey).await;
    for (store, found) in repository.stores.iter().zip(survey) {
        match found {
            Ok(own) => {
                examination.any_ready = true;
                if Some(&own) != right.as_ref() {
                    let cause =
                        "it is not the one that the repository was founded with, or that most of the stores have";
                    let object = Some(layout::REPOSITORY.to_owned());
                    examination.findings.add(store.name(), object, Problem::Damaged, [], Some(cause.to_owned()));
                }
                examine_recovery_files(store, examination).await;
            }
            Err(status) => examine_status(store, &status, examination),
        }
    }
}

/// A store that is not ready.
fn examine_status(store: &Store, status: &StoreStatus, examination: &mut Examination) {
    let cause = status.problem();
    let (object, problem) = match status {
        StoreStatus::Damaged(_) => (Some(layout::REPOSITORY.to_owned()), Problem::Damaged),
        StoreStatus::Foreign(_) => (Some(layout::REPOSITORY.to_owned()), Problem::Foreign),
        _ => (None, Problem::Unreachable),
    };
    if !matches!(status, StoreStatus::Foreign(_)) {
        examination.losses.unasked.insert(store.name().to_owned());
    }
    if let Some(cause) = &cause {
        examination.note(format!("store {}: {cause}", store.name()));
    }
    examination.findings.add(store.name(), object, problem, [], cause);
}

async fn examine_recovery_files(store: &Store, examination: &mut Examination) {
    for (name, content) in recovery::files() {
        let problem = match store.get(name, 1024 * 1024).await {
            Ok(bytes) if bytes == content.as_bytes() => continue,
            Ok(_) => Problem::Damaged,
            Err(error) => problem_of(&error),
        };
        examination.findings.add(store.name(), Some(name.to_owned()), problem, [], None);
    }
}
