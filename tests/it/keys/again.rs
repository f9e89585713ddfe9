//! A revocation that is begun a second time, by a host that lost what it kept of the first, or by another one: what the
//! thief signed in between is vouched for by nobody, and what was good stays good.

use crate::simulation::{
    Site,
    content::Database,
    keyring::{Keyed, custodians, signing_key},
    live,
};
use recoup::{
    core::{
        evidence::{Control, Record},
        failure::Code,
        id::{RunId, SnapshotId},
        result::Status,
        vouch::{FORMAT, Vouch},
    },
    format::{
        self,
        signature::{HostKey, KEYS},
        vouch as vouch_format,
    },
    repository::layout,
};
use std::collections::{BTreeMap, BTreeSet};

/// Two hosts over three stores, of which the first is stolen, and what they have backed up.
struct Theft {
    site: Site,
    database: Database,
    hosts: [Keyed; 2],
    taken: Vec<SnapshotId>,
}

impl Theft {
    fn new() -> Self {
        let site = Site::new(3);
        let mut database = Database::new(512);
        database.set("ledger", vec![7; 4000]);
        let hosts = [0, 1].map(|number| Keyed::new(number, "again", number, &[0, 1, 2]));
        let mut theft = Theft { site, database, hosts, taken: Vec::new() };
        theft.taken = theft.hosts.iter().map(|host| theft.back_up(host)).collect();
        theft
    }

    fn fork(&self) -> Self {
        let hosts = self.hosts.each_ref().map(|host| host.fork("fork"));
        Theft { site: self.site.fork(), database: self.database.fork(), hosts, taken: self.taken.clone() }
    }

    fn back_up(&self, host: &Keyed) -> SnapshotId {
        live(host.process(&self.site, &self.database).backup(false)).unwrap().head.id
    }

    fn restores(&self, host: &Keyed, id: SnapshotId) -> bool {
        let restored = host.process(&self.site, &self.database).restored_by(&custodians()[0], id);
        restored.is_ok_and(|files| files == self.database.files)
    }

    /// The vouches that any store shows.
    fn vouches(&self) -> BTreeSet<String> {
        let names = (0..3).flat_map(|store| self.site.objects(store).into_keys());
        names.filter(|name| name.starts_with("keys/") && name.ends_with(".json")).collect()
    }

    /// On how many stores the record of a revocation is that most have.
    fn records(&self) -> usize {
        let is_revocation = |name: &str, bytes: &[u8]| {
            let record = || serde_json::from_slice::<Record>(bytes).ok()?.control;
            name.starts_with("evidence/")
                && name.ends_with(".json")
                && matches!(record(), Some(Control::SignerRevoked { .. }))
        };
        let mut holders: BTreeMap<String, usize> = BTreeMap::new();
        for store in 0..3 {
            let objects = self.site.objects(store).into_iter();
            let names = objects.filter(|(name, bytes)| is_revocation(name, bytes)).map(|(name, _)| name);
            names.for_each(|name| *holders.entry(name).or_default() += 1);
        }
        holders.into_values().max().unwrap_or(0)
    }

    /// Somebody puts a vouch on every store.
    fn put(&self, vouch: &Vouch, by: &HostKey, stores: &[usize]) {
        let bytes = vouch_format::to_bytes(vouch);
        let signature = by.sign(KEYS, &bytes).into_bytes();
        for store in stores {
            self.site.put(*store, &layout::vouch(vouch.vouch, "sig"), signature.clone());
            self.site.put(*store, &layout::vouch(vouch.vouch, "json"), bytes.clone());
        }
    }

    fn vouch(&self, id: u8, by: &HostKey) -> Vouch {
        let host = self.hosts[1].process(&self.site, &self.database).host;
        Vouch {
            format: FORMAT.to_owned(),
            repository: host.repository.id,
            vouch: RunId::from_random([id; 16]),
            signer: by.fingerprint().to_string(),
            revoked: signing_key(0).fingerprint().to_string(),
            created_at: host.world.now(),
            others: BTreeSet::new(),
            objects: BTreeMap::new(),
        }
    }

    /// The name of a snapshot's inventory, and its digest.
    fn inventory(&self, id: SnapshotId) -> (String, recoup::core::id::Sha256) {
        let name = format!("sources/ledger/{}", layout::snapshot_object(id, layout::INVENTORY));
        let digest = format::sha256(&self.site.get(0, &name).unwrap());
        (name, digest)
    }
}

#[test]
fn a_host_that_lost_its_state_goes_on_from_the_vouches_on_the_stores() {
    let whole = Theft::new();
    let (mut begun, mut unrecorded) = (0, 0);
    for last in (0..).step_by(3) {
        let theft = whole.fork();
        let [stolen, host] = &theft.hosts;
        let process = host.process(&theft.site, &theft.database);
        process.operations.stop_after(last);
        let first = host.revoke(&process, 0);
        if !process.operations.stopped() {
            first.unwrap();
            break;
        }
        let has_begun = !theft.vouches().is_empty();
        host.machine.lose_state();
        let forged = theft.back_up(stolen);
        let was_recorded = theft.records() > 1;
        let second = host.revoke(&host.process(&theft.site, &theft.database), 0);
        match &second {
            Ok(done) => assert!(
                !has_begun || done.notes.iter().any(|note| note.starts_with("this goes on with")),
                "{last}: {:?}",
                done.notes
            ),
            Err(failure) => assert!(was_recorded && failure.code == Code::Usage, "{last}: {failure}"),
        }
        begun += u64::from(has_begun);
        unrecorded += u64::from(has_begun && !host.trusts(0) && !was_recorded);
        assert!(theft.records() > 1 && !host.trusts(0), "{last}");
        assert!(theft.taken.iter().all(|id| theft.restores(host, *id)), "{last}: what was good is lost");
        assert_eq!(theft.restores(host, forged), !has_begun, "{last}: {forged} is the thief's");
        let third = host.revoke(&host.process(&theft.site, &theft.database), 0).unwrap_err();
        assert!(third.code == Code::Usage && third.to_string().contains("it was revoked"), "{last}: {third}");
    }
    assert!(begun > unrecorded && unrecorded > 0, "{begun} were begun, and {unrecorded} had no record");
}

#[test]
fn who_revokes_a_key_that_another_host_revoked_vouches_for_nothing_new() {
    let theft = Theft::new();
    let [stolen, host] = &theft.hosts;
    let third = Keyed::new(1, "third", 2, &[0, 1, 2]);
    host.revoke(&host.process(&theft.site, &theft.database), 0).unwrap();
    let vouches = theft.vouches();
    let forged = theft.back_up(stolen);
    assert!(theft.restores(&third, forged), "it has heard of nothing yet");
    for (except, warnings) in [(BTreeSet::new(), 1), ([forged].into(), 0)] {
        let (theft, third) = (theft.fork(), third.fork("third"));
        let done = third.revoke_but(&third.process(&theft.site, &theft.database), 0, except).unwrap();
        assert_eq!(done.warnings.len(), warnings, "{:?}", done.warnings);
        let said = format!("snapshot {forged} of ledger is trusted no more: it was revoked at ");
        assert!(done.warnings.iter().all(|warning| warning.starts_with(&said)), "{:?}", done.warnings);
        assert_eq!(theft.vouches(), vouches);
        assert!(!third.trusts(0) && !theft.restores(&third, forged));
        assert!(theft.taken.iter().all(|id| theft.restores(&third, *id)));
        let verified = live(third.process(&theft.site, &theft.database).evidence());
        assert_eq!(verified.status, Status::Ok, "{:?}", verified.findings);
    }
    // What was vouched for cannot be taken back like this.
    let except = [theft.taken[0]].into();
    let refused = third.revoke_but(&third.process(&theft.site, &theft.database), 0, except).unwrap_err();
    assert!(refused.code == Code::Refused && third.trusts(0), "{refused}");
}

/// The thief says that the key was revoked, and that nothing of it is good.
#[test]
fn a_thief_cannot_have_the_revocation_leave_out_what_is_good() {
    let theft = Theft::new();
    let (thief, nobody) = (signing_key(0), signing_key(9));
    let mut empty = theft.vouch(1, &nobody);
    empty.others = [RunId::from_random([3; 16])].into();
    theft.put(&empty, &nobody, &[0, 1, 2]);
    let mut for_it = theft.vouch(2, &thief);
    for_it.revoked = signing_key(8).fingerprint().to_string();
    for_it.objects.insert(layout::vouch(empty.vouch, "json"), format::sha256(&vouch_format::to_bytes(&empty)));
    theft.put(&for_it, &thief, &[0, 1, 2]);
    let host = &theft.hosts[1];
    let done = host.revoke(&host.process(&theft.site, &theft.database), 0).unwrap();
    assert_eq!((done.vouched.unwrap().sources[0].snapshots, done.warnings), (1, Vec::new()));
    assert!(theft.taken.iter().all(|id| theft.restores(host, *id)));
    // Nor that another host takes the revocation for one that was cut short.
    let (third, forged) = (Keyed::new(1, "third", 2, &[0, 1, 2]), theft.back_up(&theft.hosts[0]));
    let done = third.revoke(&third.process(&theft.site, &theft.database), 0).unwrap();
    assert!(done.warnings.len() == 1 && !theft.restores(&third, forged), "{:?}", done.warnings);
    assert!(theft.taken.iter().all(|id| theft.restores(&third, *id)));
}

/// One of two vouches got to the stores before the host was lost: the other is missed, and what it named is not.
#[test]
fn vouches_of_which_some_are_missing_are_not_gone_on_from() {
    let theft = Theft::new();
    let own = signing_key(1);
    let (mut first, mut second) = (theft.vouch(1, &own), theft.vouch(2, &own));
    (first.others, second.others) = ([second.vouch].into(), [first.vouch].into());
    let (name, digest) = theft.inventory(theft.taken[0]);
    second.objects.insert(name, digest);
    theft.put(&first, &own, &[0]);
    let later = theft.back_up(&theft.hosts[0]);
    for is_whole in [false, true] {
        let theft = theft.fork();
        if is_whole {
            theft.put(&second, &own, &[1]);
        }
        let host = &theft.hosts[1];
        let done = host.revoke(&host.process(&theft.site, &theft.database), 0).unwrap();
        let is_told = done.notes.iter().any(|note| note.contains("did not get to the stores whole"));
        assert_eq!((is_told, done.warnings.is_empty()), (!is_whole, !is_whole), "{:?} {:?}", done.notes, done.warnings);
        assert!(theft.taken.iter().all(|id| theft.restores(host, *id)), "whole: {is_whole}");
        assert_eq!(theft.restores(host, later), !is_whole);
    }
}
