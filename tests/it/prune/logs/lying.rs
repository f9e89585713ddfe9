//! Plans, and records of their execution, that say more than they may.

use super::{Logged, now};
use crate::simulation::{Site, live, source_name};
use recoup::{
    core::{
        failure::Code,
        id::RunId,
        log::LogFile,
        prune::{Condemned, CondemnedLog, LogBound, LogList, PruneRecord, Stage},
    },
    format::{prune as prune_format, sha256, signature},
    repository::layout,
};

/// Puts a record on every store, signed by a trusted pruner.
pub(super) fn put(logged: &Logged, record: &PruneRecord) {
    let key = format!("sources/ledger/{}", layout::prune_object(record.plan, record.stage));
    let bytes = prune_format::to_bytes(record);
    let signed = logged.process().host.key.sign(signature::PRUNE, &bytes);
    for store in 0..3 {
        logged.history.site.put(store, &key, bytes.clone());
        logged.history.site.put(store, &format!("{key}.sig"), signed.clone().into_bytes());
    }
}

/// A plan as a store has it.
pub(super) fn plan_on(site: &Site, plan: RunId) -> (String, PruneRecord) {
    let key = format!("sources/ledger/{}", layout::prune_object(plan, Stage::Planned));
    let text = String::from_utf8(site.get(0, &key).unwrap().to_vec()).unwrap();
    let record = prune_format::parse(text.as_bytes()).unwrap();
    (text, record)
}

/// Plans that say more than they may. What is no name of a log is no plan; and beyond its bound none deletes anything.
#[test]
fn plans_that_lie() {
    let logged = Logged::new(3, 2);
    let planned = logged.prune(1).plan.unwrap();
    let (text, record) = plan_on(&logged.history.site, planned);
    assert_eq!(record.condemned.log.len(), 1);
    let history = logged.server.history_id().to_string();
    for (from, to) in [
        (history.as_str(), "../../other/log/7-00000001"),
        (history.as_str(), "7-00000001/../7-00000002"),
        ("\"before\"", "\"behind\""),
        (record.condemned.log[0].runs[0].as_str(), "../aaaaaaaaaaaaa"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(prune_format::parse(text.replace(from, to).as_bytes()).is_err(), "{to}");
    }
    // A trusted pruner names the runs of everything: what reaches beyond its bound is dropped.
    let (site, all) = (&logged.history.site, logged.on_stores());
    let mut lying = record.clone();
    lying.condemned.log[0].runs = logged.server.runs_on(site, 0).into_iter().collect();
    put(&logged, &lying);
    let pruned = logged.prune(1);
    assert_eq!((pruned.pruned_log.len(), pruned.dropped_log.len()), (0, 1), "{}", pruned.message);
    assert_eq!(logged.on_stores(), all);
    for _ in 0..2 {
        logged.prune(1);
    }
    assert_eq!(logged.on_stores()[0], [5, 6].into());
    logged.expect_moments(2);
}

/// Which runs an executed plan is about, only its parts tell: what goes of the one would take the other's with it.
#[test]
fn a_plan_with_twins_is_none() {
    let logged = Logged::new(3, 2);
    let (_, record) = plan_on(&logged.history.site, logged.prune(1).plan.unwrap());
    let (site, all) = (&logged.history.site, logged.on_stores());
    let mut lying = record.clone();
    let runs = logged.server.runs_on(site, 0).into_iter().collect();
    lying.condemned.log.push(CondemnedLog { runs, ..record.condemned.log[0].clone() });
    put(&logged, &lying);
    let pruned = logged.prune(1);
    assert_eq!((&pruned.executed[..], &pruned.pruned_log[..]), (&[][..], &[][..]), "{}", pruned.message);
    assert_eq!(logged.on_stores(), all);
    logged.expect_moments(2);
}

/// One record commits the segments from 2 to 5, and a part of a plan is about it; a snapshot begins in another one.
fn together(begins: u64, bound: u64) -> (Logged, CondemnedLog) {
    let mut logged = Logged::new(1, 1);
    logged.server.push_together(&logged.process(), 4);
    logged.go_on(begins.saturating_sub(5));
    logged.history.database.source.set_log(logged.server.range(begins));
    let id = logged.history.take(true);
    logged.begins.push((id, begins));
    logged.go_on(1);
    let name = format!("{}-", LogFile::Segment(logged.server.name(2)).key());
    let keys = logged.history.site.objects(0).into_keys();
    let run = keys.filter_map(|key| key.split_once(&name)?.1.strip_suffix(".json")?.parse().ok()).next().unwrap();
    let part = CondemnedLog {
        history: logged.server.history_id(),
        segment_bytes: super::BYTES,
        bound: LogBound::Before(logged.server.range(bound).start),
        files: 2,
        bytes: 1,
        runs: vec![run],
    };
    (logged, part)
}

/// A record goes with all files that it names, or it stays, whatever an executed plan says of the first of them.
#[test]
fn an_executed_record_takes_no_more_than_a_plan_may() {
    let (logged, part) = together(4, 4);
    let all = logged.on_stores();
    let elsewhere = logged.fork("elsewhere");
    let (_, mut record) = plan_on(&elsewhere.history.site, elsewhere.prune(1).plan.unwrap());
    record.condemned = Condemned { log: vec![part], ..Condemned::default() };
    put(&logged, &record);
    let list = prune_format::list_to_bytes(&LogList::of(record.plan, &record.condemned.log));
    let log_sha256 = Some(sha256(&list));
    let key = format!("sources/ledger/{}", layout::prune_list(record.plan));
    (0..3).for_each(|store| logged.history.site.put(store, &key, list.clone()));
    put(&logged, &PruneRecord { stage: Stage::Executed, log_sha256, ..record }.unlisted());
    assert_eq!(logged.on_stores(), all);
    logged.expect_moments(1);
    // A snapshot that goes now needs it; then none does.
    live(logged.process().keeping(1).prune(now())).unwrap();
    let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(pruned.exit_code, Code::Warning, "{}", pruned.message);
    assert!(pruned.warnings.iter().any(|told| told.contains("have stored more than it may delete")), "{pruned:?}");
    assert_eq!(logged.on_stores(), [(); 3].map(|()| (2..7).collect()));
    logged.expect_moments(1);
    // Whoever takes a snapshot there finds its log as good as it is.
    logged.history.database.source.set_log(logged.server.range(4));
    assert!(live(logged.process().backup(false)).unwrap().durable, "{}", source_name());
}

/// What of a run lies beyond the bound, and has no name on any store that answers, its record tells.
#[test]
fn a_plan_is_looked_at_by_what_records_say() {
    let (logged, part) = together(6, 5);
    let planned = logged.prune(1);
    let site = &logged.history.site;
    let beyond = layout::log_file(part.history, LogFile::Segment(logged.server.name(5)), part.runs[0]);
    (0..3).for_each(|store| site.remove(store, &format!("sources/ledger/{beyond}")));
    let all = logged.on_stores();
    let (_, mut record) = plan_on(site, planned.plan.unwrap());
    record.condemned.log = vec![part];
    put(&logged, &record);
    let pruned = logged.prune(1);
    assert_eq!((pruned.pruned_log.len(), pruned.dropped_log.len()), (0, 1), "{}", pruned.message);
    assert_eq!(logged.on_stores(), all);
}
