//! What stays ends what goes: nothing lies behind it that a snapshot would miss which begins there.

use super::{Logged, confirmed, now};
use crate::simulation::{FOLDER, Process, Site, live};
use recoup::{
    core::{
        failure::Failure,
        id::RunId,
        log::{HistoryId, LogFile, LogRecordId, Lsn},
        prune::Stage,
        result::{Problem, Status},
    },
    format::{
        log::SignedRecord,
        signature::{self, HostKey},
    },
    ops::prune,
    repository::layout,
    sources::{Source, View, memory::MemorySource},
    stores::fault::Switch,
};
use std::sync::Arc;

/// The key of a file of a log that a run has stored.
fn stored(history: HistoryId, file: LogFile, run: u8) -> String {
    format!("{FOLDER}{}", layout::log_file(history, file, RunId::from_random([run; 16])))
}

/// The key of the record of a segment, and the record.
fn record_of(logged: &Logged, number: u64) -> (String, Vec<u8>) {
    let site = &logged.history.site;
    let name = format!("{}-", LogFile::Segment(logged.server.name(number)).key());
    let key = site.objects(0).into_keys().find(|key| key.contains(&name) && key.ends_with(".json")).unwrap();
    let bytes = site.get(0, &key).unwrap().to_vec();
    (key, bytes)
}

/// The same as a newer recoup would write it.
fn newer(logged: &Logged, record: &[u8]) -> Vec<u8> {
    let record = SignedRecord::parse(record).unwrap().record.replace("recoup-log/1", "recoup-log/2");
    let signature = logged.process().host.key.sign(signature::LOG, record.as_bytes());
    SignedRecord { record, signature }.to_bytes()
}

fn notes(logged: &Logged) -> Vec<String> {
    let process = logged.process().keeping(1);
    live(prune::prepare(&process.host, &process.protected, confirmed(), false)).unwrap().notes
}

/// A record that nobody here can read may name anything; that it keeps the rest is said.
#[test]
fn nothing_goes_behind_a_run_that_stays() {
    let mut logged = Logged::new(4, 2);
    let (key, right) = record_of(&logged, 4);
    let unreadable = newer(&logged, &right);
    (0..3).for_each(|store| logged.history.site.put(store, &key, unreadable.clone()));
    let told = format!("ledger: the log of {} is kept from 0/400000 on", logged.server.history_id());
    for _ in 0..2 {
        assert!(notes(&logged).iter().any(|note| note.starts_with(&told)), "{:?}", notes(&logged));
        live(logged.process().keeping(1).prune(now())).unwrap();
        assert_eq!(logged.on_stores()[0], (4..9).collect());
    }
    (0..3).for_each(|store| logged.history.site.put(store, &key, right.clone()));
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(logged.on_stores()[0], [7, 8].into());
    logged.take();
    logged.expect_moments(4);
    logged.expect_level();
}

/// It stays on one timeline, and what a replay goes on with lies on another.
#[test]
fn nor_does_it_on_another_timeline() {
    let logged = Logged::new(4, 2);
    let other = HistoryId { timeline: 2, ..logged.server.history_id() };
    let first: LogFile = "000000020000000000000003".parse().unwrap();
    let id = LogRecordId { history: other, first, run: RunId::from_random([9; 16]) };
    let record = newer(&logged, &record_of(&logged, 3).1);
    logged.history.site.put(1, &format!("{FOLDER}{}", layout::log_record(id)), record);
    let planned = logged.prune(1);
    let condemned = &planned.condemned_log[..];
    assert_eq!((condemned.len(), condemned[0].files), (1, 2), "{planned:?}");
    assert_eq!(condemned[0].before, Some(Lsn(3 * super::BYTES)));
}

/// What nobody who is trusted signed keeps nothing, and stays for somebody to look at.
#[test]
fn what_nobody_has_signed_is_named_and_keeps_nothing() {
    let logged = Logged::new(4, 2);
    let (key, right) = record_of(&logged, 4);
    let mut other = SignedRecord::parse(&right).unwrap();
    other.signature = HostKey::generate([9; 32], "").sign(signature::LOG, other.record.as_bytes());
    (0..3).for_each(|store| logged.history.site.put(store, &key, other.to_bytes()));
    let told = "ledger: nobody who is trusted signed what run ";
    assert!(notes(&logged).iter().any(|note| note.starts_with(told)), "{:?}", notes(&logged));
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(logged.on_stores(), [(); 3].map(|()| [4, 7, 8].into()));
    logged.expect_moments(3);
}

/// A source beside which something happens whenever it is opened.
struct Meanwhile {
    source: MemorySource,
    happens: Box<dyn Fn() + Send + Sync>,
}

impl Source for Meanwhile {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn is_unchanged(&self, _: &serde_json::Value) -> bool {
        false
    }

    fn open(&self) -> Result<Box<dyn View>, Failure> {
        (self.happens)();
        self.source.open()
    }

    fn probe(&self) -> Result<Vec<String>, Failure> {
        self.source.probe()
    }
}

/// A plan may be published while a backup runs, and looked at for the last time before that commits: then it takes what
/// leads on from the snapshot.
#[test]
fn a_plan_that_came_meanwhile_is_heeded() {
    // A server on a timeline that is condemned, and one that has left it before: nothing of its own is.
    for timeline in [1, 2] {
        let mut logged = Logged::new(3, 2);
        // What a prune would publish now.
        let elsewhere = logged.fork("elsewhere");
        let plan = layout::prune_object(elsewhere.prune(1).plan.unwrap(), Stage::Planned);
        let objects = [format!("{FOLDER}{plan}.sig"), format!("{FOLDER}{plan}")].map(|key| {
            let bytes = elsewhere.history.site.get(0, &key).unwrap().to_vec();
            (key, bytes)
        });
        let mut behind = logged.server.fork();
        if timeline == 2 {
            behind.history(2);
            (behind.timeline, behind.next) = (2, 2);
            behind.push(&logged.process(), "00000002.history").unwrap();
            behind.push_next(&logged.process()).unwrap();
        }
        logged.history.database.source.set_log(behind.range(2));
        let stores = Site::over(logged.history.site.backends.clone());
        let happens = move || {
            for store in 0..3 {
                objects.iter().for_each(|(key, bytes)| stores.put(store, key, bytes.clone()));
            }
        };
        let source = Meanwhile { source: logged.history.database.source.clone(), happens: Box::new(happens) };
        let process = Process::protecting(&logged.history.site, &logged.history.machine, Arc::new(source));
        let snapshot = live(process.backup(false)).unwrap();
        let is_again = snapshot.notes.iter().any(|note| note.contains("it was taken again"));
        assert_eq!((snapshot.durable, is_again), (timeline == 2, timeline == 1), "{:?}", snapshot.behind);
        logged.begins.push((snapshot.head.id, 2));
        let before = logged.on_stores();
        // It was committed before the last look.
        let pruned = logged.prune(2);
        assert_eq!((pruned.pruned_log.len(), pruned.dropped_log.len()), (0, 1), "{}", pruned.message);
        assert_eq!(logged.on_stores(), before);
    }
}

/// Whoever can write to a store can put any names there.
#[test]
fn names_of_very_many_histories_end_no_plan() {
    let logged = Logged::new(3, 2);
    for timeline in 2..5000 {
        let history = HistoryId { timeline, ..logged.server.history_id() };
        let file: LogFile = format!("{timeline:08X}0000000000000001").parse().unwrap();
        logged.history.site.put(1, &stored(history, file, 9), b"rubbish".to_vec());
    }
    // They are noted, then condemned as far as a plan goes, then the rest.
    for _ in 0..4 {
        live(logged.process().keeping(1).prune(now())).unwrap();
    }
    assert_eq!(logged.on_stores(), [(); 3].map(|()| [5, 6].into()));
    let keys = logged.history.site.objects(1).into_keys();
    assert_eq!(keys.filter(|key| key.contains("/log/")).count(), 4);
}

/// The same rule as for a prune: without its own part of the log nobody can restore a snapshot.
#[test]
fn verify_names_a_snapshot_whose_own_log_is_lost() {
    let logged = Logged::new(3, 2);
    let (site, last) = (&logged.history.site, logged.ids()[2]);
    let whole = format!("snapshot:{}", logged.ids()[1]);
    let name = LogFile::Segment(logged.server.name(5)).key();
    for store in 0..3 {
        let lost: Vec<String> = site.objects(store).into_keys().filter(|key| key.contains(&name)).collect();
        assert_eq!(lost.len(), 2);
        lost.iter().for_each(|key| site.remove(store, key));
    }
    let verified = live(logged.process().verify()).unwrap();
    assert_eq!(verified.status, Status::Critical, "{:?}", verified.notes);
    let found: Vec<_> = verified.findings.iter().map(|of| (of.store.as_str(), of.problem, &of.snapshots[..])).collect();
    let lost = [last];
    assert_eq!(found, ["a", "b", "c"].map(|store| (store, Problem::Missing, &lost[..])));
    assert!(verified.findings[0].object.as_ref().unwrap().ends_with(&name), "{:?}", verified.findings);
    assert!(verified.next_steps.iter().any(|step| step.contains(&whole)), "{:?}", verified.next_steps);
    // One that does not answer may have it.
    let process = logged.process();
    process.faults[2].switch(Switch::Down);
    let verified = live(process.verify()).unwrap();
    assert_eq!(verified.status, Status::Warning, "{:?}", verified.findings);
    assert!(verified.notes.iter().any(|note| note.contains("c may have it")), "{:?}", verified.notes);
    // Nor does it push any other out.
    let pruned = live(logged.process().keeping(1).prune(confirmed())).unwrap();
    assert_eq!(pruned.condemned, logged.ids()[..1]);
}
