//! Which records a store is said to have lost: those that it had, and no others.

use crate::simulation::{Site, content::Database, keyring::Keyed, live};
use recoup::{
    core::{
        evidence::{Action, WriterId},
        result::{EvidenceFinding, EvidenceProblem, Status},
    },
    ops::evidence::Recorded,
    stores::fault::Switch,
};

/// The store that is away, and what it is called.
const AWAY: usize = 2;

/// A host that has another key than it had, the chain of its records, and a host that goes on trusting both.
struct Chain {
    site: Site,
    database: Database,
    writer: Keyed,
    other: Keyed,
}

impl Chain {
    fn new() -> Self {
        let [writer, other] = [0, 1].map(|number| Keyed::new(number, "accused", number, &[0, 1, 2]));
        Chain { site: Site::new(3), database: Database::new(512), writer, other }
    }

    /// The writer records something, while a store is away or none is.
    fn record(&self, is_away: bool) -> Recorded {
        let process = self.writer.process(&self.site, &self.database);
        if is_away {
            process.faults[AWAY].switch(Switch::Down);
        }
        process.record(Action::Hold, None)
    }

    fn copy(&self) -> Status {
        live(self.other.process(&self.site, &self.database).copy()).unwrap().status
    }

    fn revoke(&self) {
        self.other.revoke(&self.other.process(&self.site, &self.database), 0).unwrap();
    }

    fn shows(&self, writer: WriterId, number: u64) -> bool {
        self.site.get(AWAY, &format!("evidence/{writer}/{number:010}.json")).is_some()
    }

    fn remove(&self, writer: WriterId, number: u64) {
        self.site.remove_record(AWAY, writer, number);
    }

    /// What is found of one store, and how bad all of it is.
    fn verify(&self) -> (Status, Vec<(EvidenceProblem, Option<u64>)>) {
        let verified = live(self.other.process(&self.site, &self.database).evidence());
        let of = |finding: &EvidenceFinding| (finding.problem, finding.number);
        let of_store = |finding: &&EvidenceFinding| finding.store.as_deref() == Some("c");
        assert!(verified.findings.iter().all(|finding| of_store(&finding)), "{:?}", verified.findings);
        (verified.status, verified.findings.iter().map(of).collect())
    }
}

/// The old key's lines were out of the file of signers while the records of the new one were brought to a store, and back
/// in when the key was revoked.
#[test]
fn a_store_that_never_had_what_was_not_trusted_then_is_not_accused() {
    let mut chain = Chain::new();
    chain.record(false);
    let old = chain.record(true);
    chain.writer.key = 2;
    let new = chain.record(true);
    assert_eq!((new.writer, new.head.number), (old.writer, old.head.number + 1));
    let with_both = chain.other.fork("both");
    chain.other.distrust(0);
    chain.copy();
    assert!(chain.shows(new.writer, new.head.number) && !chain.shows(old.writer, old.head.number));
    chain.other = with_both;
    chain.revoke();
    assert_eq!(chain.verify(), (Status::Warning, vec![(EvidenceProblem::Behind, Some(old.head.number))]));
    assert_eq!(chain.copy(), Status::Ok);
    assert_eq!(chain.verify(), (Status::Ok, Vec::new()));
    // From then on it has had it: a record says so.
    chain.record(false);
    chain.record(false);
    chain.remove(old.writer, old.head.number);
    assert_eq!(chain.verify(), (Status::Critical, vec![(EvidenceProblem::Removed, Some(old.head.number))]));
}

/// Whatever else of it was copied in the same run.
#[test]
fn a_store_whose_evidence_was_removed_is_accused_whatever_else_it_lost() {
    for loses_more in [false, true] {
        let mut chain = Chain::new();
        chain.database.set("ledger.db", vec![7; 512 * 8]);
        live(chain.writer.process(&chain.site, &chain.database).backup(true)).unwrap();
        chain.record(false);
        chain.record(false);
        assert_eq!(chain.copy(), Status::Ok);
        let names = chain.site.objects(AWAY).into_keys();
        let removed = names.filter(|name| name.starts_with("evidence/") || loses_more && name.contains("/packs/"));
        let removed: Vec<String> = removed.collect();
        assert_eq!(removed.iter().any(|name| name.contains("/packs/")), loses_more);
        removed.iter().for_each(|name| chain.site.remove(AWAY, name));
        assert_eq!(chain.copy(), Status::Warning, "{loses_more}");
    }
}

/// Nobody has acknowledged it, but a later one of the same signer is there.
#[test]
fn a_store_that_lost_a_record_is_accused_before_any_other_says_so() {
    let chain = Chain::new();
    let first = chain.record(false);
    chain.record(true);
    let (lost, last) = (chain.record(true), chain.record(true));
    assert_eq!(chain.copy(), Status::Ok);
    assert!(chain.shows(last.writer, last.head.number));
    for is_revoked in [false, true] {
        if is_revoked {
            assert_eq!(chain.copy(), Status::Warning, "what is brought again was removed by somebody");
            chain.revoke();
            assert_eq!(chain.verify().0, Status::Ok);
        }
        chain.remove(first.writer, lost.head.number);
        assert_eq!(chain.verify(), (Status::Critical, vec![(EvidenceProblem::Removed, Some(lost.head.number))]));
    }
}
