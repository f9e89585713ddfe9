//! Names that whoever can write to a store puts among the log: they keep nothing, and bring nothing back.

use super::{Logged, now};
use crate::simulation::{FOLDER, live};
use recoup::{
    core::{
        id::RunId,
        log::{LogFile, LogRange, LogRecordId, Lsn},
    },
    repository::layout,
};

/// The objects of a segment under the name of a run.
fn names(logged: &Logged, number: u64, run: RunId) -> [String; 2] {
    let (history, first) = (logged.server.history_id(), LogFile::Segment(logged.server.name(number)));
    let record = layout::log_record(LogRecordId { history, first, run });
    [layout::log_file(history, first, run), record].map(|name| format!("{FOLDER}{name}"))
}

fn plant(logged: &Logged, number: u64, run: RunId) {
    names(logged, number, run).iter().for_each(|key| logged.history.site.put(1, key, b"rubbish".to_vec()));
}

/// The run that has stored a segment.
fn run_of(logged: &Logged, number: u64) -> RunId {
    let name = format!("{}-", LogFile::Segment(logged.server.name(number)).key());
    let keys = logged.history.site.objects(0).into_keys();
    keys.filter_map(|key| key.split_once(&name)?.1.strip_suffix(".age")?.parse().ok()).next().unwrap()
}

/// Beyond the bound, under the name of a run that goes: before the plan is made, and after.
#[test]
fn a_name_keeps_no_run() {
    for is_before in [true, false] {
        let logged = Logged::new(3, 2);
        let run = run_of(&logged, 2);
        if is_before {
            plant(&logged, 6, run);
        }
        assert_eq!(logged.prune(1).condemned_log[0].files, 4);
        plant(&logged, 6, run);
        let executed = logged.prune(1);
        assert_eq!((executed.pruned_log.len(), executed.dropped_log.len()), (1, 0), "{}", executed.message);
        assert_eq!(logged.on_stores()[0], [5, 6].into());
        logged.expect_moments(2);
    }
}

/// New names that lie before what is needed, under runs of their own, each day others.
#[test]
fn names_below_keep_nothing_behind_them() {
    let mut logged = Logged::new(3, 2);
    for day in 0..3 {
        let [file, _] = names(&logged, 1, RunId::from_random([100 + day; 16]));
        logged.history.site.put(1, &file, b"rubbish".to_vec());
        plant(&logged, 2, RunId::from_random([200 + day; 16]));
        live(logged.process().keeping(1).prune(now())).unwrap();
        let first = logged.begins.last().unwrap().1;
        assert_eq!(logged.on_stores()[0].first(), Some(&first));
        logged.take();
        logged.go_on(1);
    }
    let at = logged.begins.len() - 1;
    logged.expect_moments(at);
}

/// A store that lagged has what was pruned; a name beyond the bound does not make it look alive.
#[test]
fn a_name_brings_nothing_back() {
    let logged = Logged::new(3, 2);
    let (run, site) = (run_of(&logged, 2), &logged.history.site);
    let of_run: Vec<_> = names(&logged, 2, run).map(|key| (site.get(2, &key).unwrap().to_vec(), key)).into();
    live(logged.process().keeping(1).prune(now())).unwrap();
    of_run.iter().for_each(|(bytes, key)| site.put(2, key, bytes.clone()));
    plant(&logged, 6, run);
    let copied = live(logged.process().copy()).unwrap();
    assert!(copied.stores.iter().all(|store| store.copied_objects == 0), "{:?}", copied.stores);
    assert_eq!(logged.on_stores()[0], [5, 6].into());
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert!(of_run.iter().all(|(_, key)| site.get(2, key).is_none()), "what lagged is finished");
}

/// No snapshot tells any more how large the segments of a former system are: the plans that took them do.
#[test]
fn what_is_left_of_a_former_system_goes_once_it_was_seen() {
    let mut logged = Logged::new(2, 2);
    let former = logged.server.fork();
    logged.server = logged.server.made_anew(&logged.process());
    logged.take();
    live(logged.process().keeping(1).prune(now())).unwrap();
    let first = LogFile::Segment(former.name(2));
    let key = format!("{FOLDER}{}", layout::log_file(former.history_id(), first, RunId::from_random([9; 16])));
    logged.history.site.put(1, &key, b"rubbish".to_vec());
    for is_there in [true, false] {
        live(logged.process().keeping(1).prune(now())).unwrap();
        assert_eq!(logged.history.site.get(1, &key).is_some(), is_there);
    }
}

/// With larger segments a name lies further on: what was stored before lies where its record says.
#[test]
fn what_was_stored_before_segments_became_larger_goes() {
    let mut logged = Logged::new(0, 1);
    logged.server.next = 20;
    logged.go_on(4);
    logged.take();
    const LARGER: u64 = 16 << 20;
    let second = LogFile::Segment("000000010000000000000002".parse().unwrap());
    logged.server.lay(&logged.process(), second, LARGER, RunId::from_random([9; 16]));
    let start = Lsn(2 * LARGER + 40);
    let range = LogRange { segment_bytes: LARGER, start, stop: Lsn(start.0 + 100), ..logged.server.range(24) };
    logged.history.database.source.set_log(range);
    let id = logged.history.take(true);
    assert_eq!(logged.on_stores()[0], [2, 20, 21, 22, 23, 24].into());
    let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
    // The segment stays that the snapshot begins in.
    let found: Vec<_> = pruned.pruned_log.iter().map(|log| (log.before, log.files)).collect();
    assert_eq!(found, [(Some(Lsn(2 * LARGER)), 5)]);
    assert_eq!(logged.on_stores(), [(); 3].map(|()| [2].into()));
    assert!(!pruned.pruned.contains(&id));
}
