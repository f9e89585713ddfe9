//! Vouches for what revoked signers signed: every store should have all of them.

use super::Examination;
use crate::{
    core::result::Problem,
    repository::{Repository, catalogue::Refusal, layout},
};

/// Examines them on every store that answers.
pub(super) async fn examine(repository: &Repository, examination: &mut Examination) {
    let survey = repository.survey_vouches().await;
    for (at, shown) in &survey.shown {
        let store = repository.stores[*at].name();
        for (id, refusal) in shown {
            examination.objects += 1;
            let Some(why) = refusal else { continue };
            let problem = match why {
                // With a good one elsewhere, this copy is just damaged.
                Refusal::Untrusted(_) if survey.good.contains_key(id) => Problem::Damaged,
                _ => why.problem(),
            };
            let name = layout::vouch(*id, "json");
            if problem == Problem::Damaged && !survey.good.contains_key(id) {
                examination.losses.objects.insert(name.clone());
            }
            examination.note(format!("{name} on store {store}: {why}"));
            examination.findings.add(store, Some(name), problem, [], Some(why.to_string()));
        }
        // Without it, what the store holds of the revoked signer is believed from no other store.
        for id in survey.good.keys().filter(|id| !shown.contains_key(id)) {
            examination.findings.add(store, Some(layout::vouch(*id, "json")), Problem::Missing, [], None);
        }
    }
}
