//! Bringing the control log level: every store gets every good record, in order; a bad one is replaced by the good one.

use super::Copying;
use crate::{
    core::{
        evidence::WriterId,
        result::{EvidenceProblem, Problem},
    },
    ops::evidence::verify::{Examined, Place, examine},
    repository::{evidence::SignedRecord, layout},
};
use std::collections::{BTreeMap, BTreeSet};

impl Copying<'_> {
    /// Levels the control log. Needs no key: signatures say what is good.
    pub(super) async fn level_evidence(&mut self) {
        let mut examined = examine(self.repository, None).await;
        for at in &self.founded {
            // It will answer once it is founded, and has nothing.
            examined.listed.entry(*at).or_default();
        }
        let awaited = examined.awaited(self.repository);
        for (at, listed) in &examined.listed {
            let mut brought: BTreeMap<WriterId, u64> = BTreeMap::new();
            // A store that has a record has all before it: what cannot be brought now stands before the rest.
            let mut waiting: BTreeSet<WriterId> = BTreeSet::new();
            for (place, (signed, stores)) in &examined.records {
                let has_it = stores.contains(at) && !examined.is_bad(*at, *place);
                // Another good record of the same number is a fork: both stay where they are.
                let has_another = !has_it
                    && listed.get(place).is_some_and(|objects| objects.envelope)
                    && !examined.is_bad(*at, *place);
                if has_it || has_another || self.stopped.contains_key(at) || waiting.contains(&place.0) {
                    continue;
                }
                if let Some(first) = awaited.get(&place.0).filter(|first| **first < place.1) {
                    waiting.insert(place.0);
                    let why = "could not be read, and comes before it; run the same command again";
                    self.find_behind(*at, *place, format!("record {}/{first} {why}", place.0));
                    continue;
                }
                if self.bring_record(*at, *place, signed).await {
                    *brought.entry(place.0).or_default() += 1;
                } else if !examined.is_ruined(*place) {
                    waiting.insert(place.0);
                }
            }
            for (writer, number) in brought {
                let store = self.repository.stores[*at].name();
                let gone = examined.findings.iter().filter(|finding| {
                    finding.problem == EvidenceProblem::Removed
                        && finding.store.as_deref() == Some(store)
                        && finding.writer == Some(writer)
                });
                let gone = gone.count();
                // A store that lost everything, lost its evidence with the rest: it was founded again, now or by a run
                // that did not get to its end.
                let is_bare = self.stores[*at].seeded || !self.had_snapshots.contains(at);
                let lost_all = is_bare && !listed.keys().any(|(of, _)| *of == writer);
                if gone > 0 && !lost_all {
                    self.evidence_was_removed = true;
                    self.notes.push(format!(
                        "store {store} had lost {gone} evidence records of writer {writer} that it had acknowledged; \
                         {number} were brought: find out who removed them"
                    ));
                }
            }
        }
        self.find_bad_evidence(&examined);
    }

    /// A record that is not brought, for now.
    fn find_behind(&mut self, at: usize, (writer, number): Place, cause: String) {
        let store = self.stores[at].store.clone();
        self.findings.add(&store, Some(layout::evidence(writer, number, "json")), Problem::Behind, [], Some(cause));
    }

    /// Body, signature, envelope: where the envelope is, the rest is.
    async fn bring_record(&mut self, at: usize, place: Place, signed: &SignedRecord) -> bool {
        let (writer, number) = place;
        let body = match self.repository.read_evidence_body(signed).await {
            Ok(body) => body,
            Err(error) => {
                self.find_behind(at, place, error.to_string());
                return false;
            }
        };
        let [sealed, signature, envelope] =
            ["age", "sig", "json"].map(|ending| layout::evidence(writer, number, ending));
        self.put_all(at, &[(sealed, &body), (signature, &signed.signature), (envelope, &signed.bytes)]).await
    }

    /// What lies on a store and no store has right.
    fn find_bad_evidence(&mut self, examined: &Examined) {
        let lost = examined.bad.iter().filter(|(place, _)| !examined.records.contains_key(place));
        let lost = lost.flat_map(|(place, stores)| stores.keys().map(|at| (*at, *place)));
        for (at, (writer, number)) in lost {
            let store = self.stores[at].store.clone();
            let finding = examined.findings.iter().find(|finding| {
                finding.store.as_deref() == Some(&store)
                    && (finding.writer, finding.number) == (Some(writer), Some(number))
            });
            let problem = match finding.map(|finding| finding.problem) {
                Some(EvidenceProblem::Untrusted) => Problem::Foreign,
                Some(EvidenceProblem::Unreachable) => Problem::Unreachable,
                _ => Problem::Damaged,
            };
            let cause = finding.map(|finding| finding.message.clone());
            self.findings.add(&store, Some(layout::evidence(writer, number, "json")), problem, [], cause);
        }
    }
}
