//! What stays ends what goes: nothing lies behind it that a snapshot would miss which begins there.

use super::{Logged, confirmed, now};
use crate::simulation::{FOLDER, Process, Site, live};
use recoup::{
    core::{
        failure::Failure,
        id::RunId,
        log::{HistoryId, LogFile, Lsn},
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

#[test]
fn nothing_goes_behind_a_run_that_stays() {
    let logged = Logged::new(4, 2);
    let site = &logged.history.site;
    // Somebody may be at work on it: it goes once it was seen.
    let orphan = stored(logged.server.history_id(), LogFile::Segment(logged.server.name(4)), 9);
    site.put(1, &orphan, b"rubbish".to_vec());
    let planned = logged.prune(1);
    let condemned = &planned.condemned_log[0];
    assert_eq!((condemned.files, condemned.before), (3, Some(Lsn(4 * super::BYTES))), "{planned:?}");
    let again = logged.prune(1);
    assert_eq!(logged.on_stores()[0], (4..9).collect());
    assert_eq!((again.condemned_log[0].files, again.condemned_log[0].before), (4, Some(logged.server.range(7).start)));
    logged.prune(1);
    assert_eq!(logged.on_stores()[0], [7, 8].into());
    assert!(site.get(1, &orphan).is_none());
    logged.expect_level();
}

/// A record that nobody can read may name anything; that it keeps the rest is said.
#[test]
fn what_cannot_be_read_stays_and_is_named() {
    let mut logged = Logged::new(4, 2);
    let site = &logged.history.site;
    let name = format!("{}-", LogFile::Segment(logged.server.name(4)).key());
    let mut keys = site.objects(0).into_keys();
    let record = keys.find(|key| key.contains(&name) && key.ends_with(".json")).unwrap();
    let right = site.get(0, &record).unwrap().to_vec();
    // It is not damaged: somebody has signed it whom nobody here knows.
    let mut other = SignedRecord::parse(&right).unwrap();
    other.signature = HostKey::generate([9; 32], "").sign(signature::LOG, other.record.as_bytes());
    (0..3).for_each(|store| site.put(store, &record, other.to_bytes()));
    let told = format!("ledger: the log of {} is kept from 0/400000 on", logged.server.history_id());
    for _ in 0..2 {
        let process = logged.process().keeping(1);
        let prepared = live(prune::prepare(&process.host, &process.protected, confirmed(), false));
        let notes = prepared.unwrap().notes;
        assert!(notes.iter().any(|note| note.starts_with(&told)), "{notes:?}");
        live(logged.process().keeping(1).prune(now())).unwrap();
        assert_eq!(logged.on_stores()[0], (4..9).collect());
    }
    let site = &logged.history.site;
    (0..3).for_each(|store| site.put(store, &record, right.clone()));
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(logged.on_stores()[0], [7, 8].into());
    logged.take();
    logged.expect_moments(4);
}

/// It stays on one timeline, and what a replay goes on with lies on another.
#[test]
fn nor_does_it_on_another_timeline() {
    let logged = Logged::new(4, 2);
    let other = HistoryId { timeline: 2, ..logged.server.history_id() };
    let name: LogFile = "000000020000000000000003".parse().unwrap();
    logged.history.site.put(1, &stored(other, name, 9), b"rubbish".to_vec());
    let planned = logged.prune(1);
    let condemned = &planned.condemned_log[..];
    assert_eq!((condemned.len(), condemned[0].files), (1, 2), "{planned:?}");
    assert_eq!(condemned[0].before, Some(Lsn(3 * super::BYTES)));
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
/// leads on from the snapshot, though not what lies where it begins.
#[test]
fn a_plan_that_came_meanwhile_and_reaches_further_is_heeded() {
    let mut logged = Logged::new(3, 2);
    // What a prune would publish now.
    let elsewhere = logged.fork("elsewhere");
    let plan = layout::prune_object(elsewhere.prune(1).plan.unwrap(), Stage::Planned);
    let objects = [format!("{FOLDER}{plan}.sig"), format!("{FOLDER}{plan}")].map(|key| {
        let bytes = elsewhere.history.site.get(0, &key).unwrap().to_vec();
        (key, bytes)
    });
    // A server on another timeline, of which the plan says nothing, begins before all that is kept.
    let mut behind = logged.server.fork();
    behind.history(2);
    (behind.timeline, behind.next) = (2, 2);
    behind.push(&logged.process(), "00000002.history").unwrap();
    behind.push_next(&logged.process()).unwrap();
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
    assert!(snapshot.notes.iter().any(|note| note.contains("it was taken again")), "{:?}", snapshot.notes);
    // It knows the plan now, and that looks at what is committed before it is executed.
    assert!(snapshot.durable, "{:?}", snapshot.behind);
    logged.begins.push((snapshot.head.id, 2));
    let before = logged.on_stores();
    let pruned = logged.prune(2);
    assert_eq!((pruned.pruned_log.len(), pruned.dropped_log.len()), (0, 1), "{}", pruned.message);
    assert_eq!(logged.on_stores(), before);
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
