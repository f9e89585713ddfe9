//! A host that worked with fewer stores, and is no more: its signer is revoked, and prunes need a store less again.

use super::*;
use crate::simulation::keyring::{Keyed, signing_key};
use recoup::{
    core::{
        evidence::{Action, Draft, Verdict},
        failure::Failure,
    },
    stores::fault::Switch,
};

#[test]
fn a_writer_whose_signer_is_revoked_counts_no_more_once_all_is_level() {
    let (site, mut database) = (Site::new(3), Database::new(512));
    database.set("ledger.db", Rng::new(1).bytes(512 * 64));
    let [own, old] = [0, 1].map(|number| Keyed::new(number, "ended", number, &[0, 1]));
    // The old host's policy asked for one store.
    let mut process = old.process(&site, &database);
    process.protected.policy.copies.min_stores = Some(1);
    let recorder = process.recorder();
    let noted = recorder.record(Draft::new(Action::Backup, Verdict::Passed, process.host.world.now())).unwrap();
    live(recorder.ship());
    for seed in 0..4 {
        database.rewrite("ledger.db", 0..30, &mut Rng::new(seed));
        assert!(live(own.process(&site, &database).backup(false)).unwrap().durable);
        own.machine.clock.advance_seconds(3600);
    }
    let prune = |down: Option<usize>| -> Result<PrunedSource, Failure> {
        let process = own.process(&site, &database).keeping(2);
        down.iter().for_each(|store| process.faults[*store].switch(Switch::Down));
        live(process.prune(confirmed()))
    };
    let assert_names_it = |refused: Failure| {
        assert_eq!(refused.code, Code::Store, "{refused}");
        let signer = signing_key(old.key).fingerprint().to_string();
        let cause = refused.cause.as_ref().unwrap();
        for part in ["3 are needed", &format!("record {}/1", noted.writer), &signer, "1 made a snapshot durable"] {
            assert!(cause.contains(part), "{part}: {refused}");
        }
        let next_step = refused.next_step.as_ref().unwrap();
        assert!(next_step.contains(&format!("recoup key signer revoke {signer}")), "{refused}");
    };
    assert_names_it(prune(Some(0)).unwrap_err());
    // Level, and not revoked: it may commit on one store again at any time.
    prune(None).unwrap();
    assert_names_it(prune(Some(0)).unwrap_err());
    own.revoke(&own.process(&site, &database), old.key).unwrap();
    // Revoked, and not level since: what it had committed may be on one store.
    assert_names_it(prune(Some(0)).unwrap_err());
    prune(None).unwrap();
    assert_eq!(prune(Some(0)).unwrap().exit_code, Code::Warning);
}
