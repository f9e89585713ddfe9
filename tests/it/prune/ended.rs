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

#[test]
fn a_host_whose_key_was_replaced_is_not_gone() {
    let (site, mut database) = (Site::new(3), Database::new(512));
    database.set("ledger.db", Rng::new(1).bytes(512 * 64));
    let own = Keyed::new(0, "rotated", 0, &[0, 1, 2]);
    let mut other = Keyed::new(1, "rotated", 1, &[0, 1, 2]);
    // The other host asks for one store; these are down.
    let take = |other: &Keyed, database: &Database, down: &[usize]| {
        let mut process = other.process(&site, database);
        process.protected.policy.copies.min_stores = Some(1);
        down.iter().for_each(|store| process.faults[*store].switch(Switch::Down));
        other.machine.clock.advance_seconds(3600);
        own.machine.clock.advance_seconds(3600);
        live(process.back_up_and_record()).unwrap()
    };
    let prune = |database: &Database, down: &[usize]| -> Result<PrunedSource, Failure> {
        let process = own.process(&site, database).keeping(1);
        down.iter().for_each(|store| process.faults[*store].switch(Switch::Down));
        live(process.prune(confirmed()))
    };
    for seed in 0..3 {
        database.rewrite("ledger.db", 0..30, &mut Rng::new(seed));
        assert!(take(&other, &database, &[]).durable);
    }
    // Its key is replaced; nothing of the new one is on any store when everything is level.
    own.revoke(&own.process(&site, &database), other.key).unwrap();
    other.set_up_again(2, &own);
    prune(&database, &[]).unwrap();
    assert_eq!(prune(&database, &[0]).unwrap().exit_code, Code::Warning);
    database.rewrite("ledger.db", 0..30, &mut Rng::new(7));
    let alone = take(&other, &database, &[1, 2]);
    assert!(!alone.durable, "a prune without that store knows nothing of it");
    // Once the new key has said it, one store is enough, and every prune needs all of them.
    assert!(take(&other, &database, &[]).durable);
    database.rewrite("ledger.db", 0..30, &mut Rng::new(8));
    assert!(take(&other, &database, &[1, 2]).durable);
    let refused = prune(&database, &[0]).unwrap_err();
    assert_eq!(refused.code, Code::Store, "{refused}");
    assert!(refused.cause.as_ref().unwrap().contains(&signing_key(2).fingerprint().to_string()), "{refused}");
}
