//! The log in a prune: what goes with the snapshots, what stays, and what every other command makes of it.

mod again;
mod crash;
mod dropped;
mod held;
mod lists;
mod lying;
mod meanwhile;
mod planted;
mod revoked;
mod schedules;
mod server;
mod standing;
mod unheard;

use super::{History, confirmed, now};
use crate::simulation::{Machine, Process, Site, content::Database, live, source_name};
use recoup::{
    core::{
        failure::Code,
        id::{RunId, SnapshotId},
        log::LogFile,
        prune::Stage,
        result::{PrunedSource, Status},
        target::Target,
    },
    format::signature,
    ops::{archive, points, prune::PruneRequest},
    repository::layout,
    stores::fault::Rates,
};
use server::{BYTES, Server, moment, segments_on};
use std::{collections::BTreeSet, thread, time::Duration};

/// Three stores with snapshots of a server, and its log.
struct Logged {
    history: History,
    server: Server,
    /// The segment that each snapshot begins in.
    begins: Vec<(SnapshotId, u64)>,
}

impl Logged {
    /// So many snapshots, each with so many segments from where it begins to the next.
    fn new(snapshots: usize, segments: u64) -> Self {
        let mut logged = Logged { history: History::new(0), server: Server::new(7), begins: Vec::new() };
        for _ in 0..snapshots {
            logged.take();
            logged.go_on(segments - 1);
        }
        logged
    }

    fn fork(&self, seed: &str) -> Self {
        Logged { history: self.history.fork(seed), server: self.server.fork(), begins: self.begins.clone() }
    }

    fn process(&self) -> Process {
        self.history.process()
    }

    fn go_on(&mut self, segments: u64) {
        for _ in 0..segments {
            self.server.push_next(&self.process()).unwrap();
        }
    }

    /// A snapshot that begins in the next segment.
    fn take(&mut self) -> SnapshotId {
        let number = self.server.next;
        self.history.database.source.set_log(self.server.range(number));
        self.go_on(1);
        let id = self.history.take(true);
        self.begins.push((id, number));
        id
    }

    fn ids(&self) -> Vec<SnapshotId> {
        self.begins.iter().map(|(id, _)| *id).collect()
    }

    fn prune(&self, keep_last: u64) -> PrunedSource {
        self.history.prune(keep_last)
    }

    /// The numbers of the segments that each store holds, committed.
    fn on_stores(&self) -> [BTreeSet<u64>; 3] {
        [0, 1, 2].map(|store| segments_on(&self.history.site, store, &self.server))
    }

    /// Every moment from a snapshot on comes back, with exactly the segments that it needs.
    fn expect_moments(&self, snapshot: usize) {
        let begins = self.begins[snapshot].1;
        let ends = self.begins.get(snapshot + 1).map_or(self.server.next, |(_, next)| *next);
        for number in begins..ends - 1 {
            let target = Target::Time(moment(number, 1));
            let (result, files) = live(self.process().restore(target)).unwrap();
            assert_eq!(result.snapshot, self.begins[snapshot].0);
            let found: BTreeSet<LogFile> =
                files.keys().filter_map(|name| name.strip_prefix("recoup-log/")?.parse().ok()).collect();
            let expected = (begins..=number + 1).map(|number| LogFile::Segment(self.server.name(number)));
            assert_eq!(found, expected.collect(), "segment {number}");
        }
    }

    #[track_caller]
    fn expect_level(&self) {
        let copied = live(self.process().copy()).unwrap();
        assert_eq!(copied.status, Status::Ok, "{:?}", copied.findings);
        assert!(copied.stores.iter().all(|store| store.copied_objects == 0), "{:?}", copied.stores);
        let verified = live(self.process().verify()).unwrap();
        assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]), "{:?}", verified.notes);
    }
}

#[test]
fn the_log_goes_with_the_snapshots_that_it_leads_on_from() {
    let mut logged = Logged::new(5, 3);
    logged.server.push(&logged.process(), &logged.server.history(2)).unwrap();
    let all: BTreeSet<u64> = (1..16).collect();
    assert_eq!(logged.on_stores(), [all.clone(), all.clone(), all.clone()]);
    let planned = logged.prune(2);
    let condemned = &planned.condemned_log[..];
    assert_eq!((condemned.len(), condemned[0].files, condemned[0].what), (1, 9, "before"), "{planned:?}");
    assert_eq!(condemned[0].before, Some(logged.server.range(10).start));
    assert!(planned.message.contains(&format!("9 files of log {} before 0/A00028 (", logged.server.history_id())));
    assert_eq!(logged.on_stores(), [all.clone(), all.clone(), all]);
    logged.expect_level();

    let executed = logged.prune(2);
    assert_eq!((&executed.pruned_log, executed.pruned.len()), (&planned.condemned_log, 3));
    let kept: BTreeSet<u64> = (10..16).collect();
    assert_eq!(logged.on_stores(), [kept.clone(), kept.clone(), kept.clone()]);
    for store in 0..3 {
        let keys = logged.history.site.objects(store).into_keys();
        // Record and file of six segments and of the history of a timeline.
        assert_eq!(keys.filter(|key| key.contains("/log/")).count(), 14);
    }
    logged.expect_level();
    logged.expect_moments(3);
    logged.expect_moments(4);
    let refused = live(logged.process().restore(Target::Time(moment(9, 1)))).unwrap_err();
    assert_eq!(refused.code, Code::NoRecoveryPoint);
    let cause = refused.cause.unwrap();
    assert!(cause.contains("leads on from ") && cause.ends_with("what came before it was pruned"), "{cause}");

    // What can be brought back begins at the oldest snapshot, and nothing is missed.
    let process = logged.process();
    let found = live(points::points(&process.host.repository, None, None, process.host.world.now())).unwrap();
    let log = &found.sources[0].log[0];
    assert_eq!((log.windows.len(), &log.gaps[..], &log.thin[..]), (1, &[][..], &[][..]));
    assert_eq!((log.windows[0].from_position, log.windows[0].snapshots), (logged.server.range(10).stop, 2));

    // Nothing is left to do, and everything goes on.
    assert_eq!(logged.prune(2).message, "nothing to prune");
    logged.take();
    logged.go_on(2);
    let again = logged.prune(2);
    assert_eq!((again.condemned.len(), again.condemned_log[0].files), (1, 3));
    logged.expect_moments(5);
}

#[test]
fn without_a_rule_and_while_all_is_held_no_log_goes() {
    let mut logged = Logged::new(0, 1);
    logged.go_on(4);
    logged.take();
    let pruned = live(logged.process().prune(confirmed())).unwrap();
    assert_eq!((pruned.plan, pruned.condemned_log), (None, Vec::new()));
    // What nothing leads on from goes where there is a rule.
    let mut other = logged.fork("held");
    assert_eq!(logged.prune(1).condemned_log[0].files, 4);
    // A snapshot that is held keeps all that leads on from it.
    let first = other.ids()[0];
    live(other.process().hold(first)).unwrap();
    other.take();
    let pruned = live(other.process().keeping(1).prune(now())).unwrap();
    assert_eq!((pruned.pruned.len(), pruned.pruned_log[0].files), (0, 4));
    other.expect_moments(0);
    other.expect_moments(1);
}

#[test]
fn a_record_of_many_files_goes_as_a_whole() {
    let mut logged = Logged::new(1, 1);
    let run = logged.server.push_together(&logged.process(), 10);
    assert_eq!(run.len(), 10);
    // The next snapshot begins within what one record commits.
    let within = logged.server.next - 4;
    logged.history.database.source.set_log(logged.server.range(within));
    let id = logged.history.take(true);
    logged.begins.push((id, within));
    let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!((pruned.pruned.len(), pruned.pruned_log[0].files), (1, 1));
    assert_eq!(logged.on_stores()[0], (2..12).collect());
    logged.expect_moments(1);
    logged.expect_level();
    logged.take();
    let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(pruned.pruned_log[0].files, 10);
    assert_eq!(logged.on_stores()[0], [12].into());
}

#[test]
fn a_store_that_lagged_is_finished_and_brings_nothing_back() {
    let logged = Logged::new(4, 2);
    logged.prune(2);
    // One is there until the plan is on record as executed, and gone before it has deleted anything.
    let gone_after = |last: u64| {
        let lagging = logged.fork("lags");
        let History { site, machine, database, .. } = &lagging.history;
        let (process, of_store) = Process::apart(site, machine, database);
        of_store[2].stop_after(last);
        let pruned = live(process.keeping(2).prune(confirmed())).ok()?;
        (lagging.on_stores().map(|on| on.len()) == [4, 4, 8]).then_some((lagging, pruned))
    };
    let (logged, pruned) = (1..1000).find_map(gone_after).unwrap();
    assert_eq!((pruned.exit_code, pruned.pruned_log[0].files), (Code::Warning, 4), "{}", pruned.message);
    // Nobody takes it for log that others lack.
    let verified = live(logged.process().verify()).unwrap();
    assert!(verified.findings.iter().all(|found| found.store == "c"), "{:?}", verified.findings);
    assert!(verified.notes.iter().any(|note| note.contains("still has")), "{:?}", verified.notes);
    let copied = live(logged.process().copy()).unwrap();
    assert_eq!(copied.status, Status::Ok, "{:?}", copied.findings);
    assert_eq!(logged.on_stores().map(|on| on.len()), [4, 4, 8]);
    let process = logged.process();
    let found = live(points::points(&process.host.repository, None, None, process.host.world.now())).unwrap();
    let log = &found.sources[0].log[0];
    assert_eq!((log.windows.len(), &log.gaps[..], &log.thin[..]), (1, &[][..], &[][..]));
    assert_eq!(logged.prune(2).exit_code, Code::Done);
    assert_eq!(logged.on_stores().map(|on| on.len()), [4, 4, 4]);
    logged.expect_level();
}

/// A standby that lags behind began before all that is kept, and commits after the plan was published.
#[test]
fn a_backup_in_flight_that_began_earlier_is_seen_or_sees_the_plan() {
    for deleted in [false, true] {
        let mut logged = Logged::new(4, 2);
        logged.prune(1);
        let before = logged.on_stores();
        logged.history.database.source.set_log(logged.server.range(3));
        if deleted {
            logged.prune(1);
            // It waits in vain for what nobody archives again.
            let failed = live(logged.process().backup(false)).unwrap_err();
            assert_eq!(failed.code, Code::Source, "{failed}");
            continue;
        }
        let snapshot = live(logged.process().backup(false)).unwrap();
        assert!(!snapshot.durable, "a plan condemns what it needs");
        let told = format!("before {}, and {}, which", logged.server.range(7).start, logged.server.name(3));
        assert!(snapshot.behind.iter().all(|(_, why)| why.contains(&told)), "{:?}", snapshot.behind);
        let pruned = logged.prune(2);
        assert_eq!((pruned.pruned_log.len(), pruned.dropped_log[0].files), (0, 6), "{}", pruned.message);
        assert_eq!(logged.on_stores(), before, "nothing of it went");
        logged.expect_level();
        // It goes on from there: what was dropped is condemned again once nothing needs it.
        logged.take();
        logged.take();
        for _ in 0..3 {
            live(logged.process().keeping(1).prune(now())).unwrap();
        }
        assert_eq!(logged.on_stores()[0].len(), 1);
    }
}

#[test]
fn a_cancelled_plan_deletes_nothing() {
    let logged = Logged::new(3, 2);
    let plan = logged.prune(1).plan;
    let cancelled = live(logged.process().keeping(1).prune(PruneRequest { cancel: plan, ..confirmed() })).unwrap();
    assert_eq!((cancelled.pruned_log.len(), cancelled.dropped_log[0].files), (0, 4));
    assert_eq!(logged.on_stores()[1].len(), 6);
    logged.expect_level();
    logged.expect_moments(0);
}

#[test]
fn another_system_goes_with_its_last_snapshot() {
    let mut logged = Logged::new(2, 2);
    let old = logged.server.history_id();
    logged.server.push(&logged.process(), &logged.server.history(2)).unwrap();
    logged.server = logged.server.made_anew(&logged.process());
    logged.go_on(2);
    // The new one has no snapshot yet: nothing of either goes.
    let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(pruned.pruned_log.iter().map(|log| log.files).sum::<u64>(), 2, "{pruned:?}");
    logged.take();
    logged.go_on(1);
    let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
    let all: Vec<_> = pruned.pruned_log.iter().filter(|log| log.history.system == old.system).collect();
    assert!(all.iter().all(|log| log.what == "all") && all.iter().map(|log| log.files).sum::<u64>() == 2, "{pruned:?}");
    // A server that comes back asks for what its timeline grew out of.
    for store in 0..3 {
        let keys: Vec<String> = logged.history.site.objects(store).into_keys().collect();
        let left: Vec<_> = keys.iter().filter(|key| key.contains(&format!("/log/{}-", old.system))).collect();
        assert!(left.len() == 2 && left.iter().all(|key| key.contains(".history-")), "{left:?}");
    }
    logged.expect_level();
    logged.expect_moments(2);
}

/// Whose pieces they are, nobody tells: another server may have written something else into the same segment.
#[test]
fn pieces_go_with_what_no_snapshot_needs_and_not_sooner() {
    let mut logged = Logged::new(2, 2);
    let process = logged.process();
    // The whole segments are durable.
    for number in [2, 3] {
        logged.server.lay_pieces(&process, number, 5);
    }
    let pieces = |logged: &Logged, number| logged.server.pieces_on(&logged.history.site, 0, number);
    assert_eq!(logged.prune(2).condemned_log, []);
    let planned = logged.prune(1);
    let log = &planned.condemned_log[..];
    assert_eq!((log.len(), log[0].what, log[0].files), (1, "before", 7), "{planned:?}");
    let executed = logged.prune(1);
    assert_eq!(executed.pruned_log, planned.condemned_log);
    assert_eq!((pieces(&logged, 2), pieces(&logged, 3)), (0, 10), "a snapshot leads on over them");
    logged.expect_level();
    logged.expect_moments(1);
    logged.take();
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(pieces(&logged, 3), 0);
}

#[test]
fn files_without_a_record_go_when_they_were_seen_before() {
    let mut logged = Logged::new(3, 2);
    let site = &logged.history.site;
    let lost = |number: u64| {
        let run = RunId::from_random([number as u8; 16]);
        let file = LogFile::Segment(logged.server.name(number));
        format!("sources/ledger/{}", layout::log_file(logged.server.history_id(), file, run))
    };
    let (old, new) = (lost(1), lost(6));
    [&old, &new].into_iter().for_each(|key| site.put(1, key, b"rubbish".to_vec()));
    live(logged.process().keeping(1).prune(now())).unwrap();
    let has = |logged: &Logged, key: &str| logged.history.site.get(1, key).is_some();
    assert!(has(&logged, &old) && has(&logged, &new), "somebody may be at work on it");
    logged.take();
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert!(!has(&logged, &old) && has(&logged, &new));
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert!(!has(&logged, &new));
    logged.expect_level();
}

#[test]
fn a_server_gets_what_was_pruned_neither_with_a_plan_nor_without() {
    let logged = Logged::new(2, 2);
    let plan = logged.server.plan(&logged.process(), 1);
    let name = logged.server.name(1);
    assert_eq!(logged.server.fetch(&logged.process(), name, None).unwrap(), archive::Fetched::Here);
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(logged.server.fetch(&logged.process(), name, None).unwrap(), archive::Fetched::Absent);
    let failed = logged.server.fetch(&logged.process(), name, Some(plan)).unwrap_err();
    assert_ne!(failed.code, Code::Done, "{failed}");
}

/// It was listed, and is gone when it is read: that is no damage, and the server is told so.
#[test]
fn a_server_gets_what_is_pruned_meanwhile_or_hears_that_there_is_none() {
    let mut told = BTreeSet::new();
    for number in 0..16 {
        let logged = Logged::new(1, 2);
        let (name, process) = (logged.server.name(2), logged.process());
        let rates = Rates { latency: 1000, latency_max: Duration::from_millis(100), ..Rates::default() };
        process.faults.iter().for_each(|faults| faults.schedule(number, rates));
        let (site, key) = (&logged.history.site, LogFile::Segment(name).key());
        let fetched = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20 * number));
                for store in 0..3 {
                    let keys = site.objects(store).into_keys().filter(|object| object.contains(&key));
                    keys.for_each(|object| site.remove(store, &object));
                }
            });
            logged.server.fetch(&process, name, None)
        });
        told.insert(fetched.unwrap() == archive::Fetched::Here);
    }
    assert_eq!(told, [false, true].into());
}

/// What an older recoup has written says nothing of a log, and is read.
#[test]
fn plans_without_a_log_are_read() {
    let logged = Logged::new(3, 2);
    let planned = logged.prune(1).plan.unwrap();
    let key = format!("sources/ledger/{}", layout::prune_object(planned, Stage::Planned));
    let site = &logged.history.site;
    let mut record: serde_json::Value = serde_json::from_slice(&site.get(0, &key).unwrap()).unwrap();
    record["condemned"].as_object_mut().unwrap().remove("log").unwrap();
    let bytes = record.to_string() + "\n";
    let signed = logged.process().host.key.sign(signature::PRUNE, bytes.as_bytes());
    for store in 0..3 {
        site.put(store, &key, bytes.clone().into_bytes());
        site.put(store, &format!("{key}.sig"), signed.clone().into_bytes());
    }
    let executed = logged.prune(1);
    assert_eq!((executed.pruned.len(), executed.pruned_log.len()), (2, 0));
    // What it left is condemned now.
    assert_eq!(executed.condemned_log[0].files, 4, "{}", executed.message);
    logged.prune(1);
    assert_eq!(logged.on_stores()[0], [5, 6].into());
}

/// The parts of a machine that the other tests here do not need.
fn another(number: usize) -> (Machine, Database, Site) {
    (Machine::new(number, "logs"), Database::new(512), Site::new(3))
}

#[test]
fn what_another_source_has_is_no_log_of_it() {
    let (machine, database, site) = another(0);
    let mut server = Server::new(7);
    let process = Process::new(&site, &machine, &database);
    server.push_next(&process).unwrap();
    // A log without a snapshot: whoever opened it just now goes on.
    let pruned = live(Process::new(&site, &machine, &database).keeping(1).prune(now())).unwrap();
    assert_eq!((pruned.plan, pruned.pruned_log), (None, Vec::new()), "{}", source_name());
    assert_eq!(segments_on(&site, 0, &server).len(), 1);
    assert_eq!(BYTES, 1 << 20);
}
