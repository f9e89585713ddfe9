//! In which order stores are asked for objects: whoever keeps not answering comes last.

use crate::simulation::{Machine, Process, Site, content::Database, live, source_name};
use recoup::{
    core::{
        id::RunId,
        log::{HistoryId, LogFile, LogObject},
    },
    format,
    repository::{
        fetch::{Detours, Wanted},
        layout,
    },
    stores::fault::Switch,
};
use std::collections::BTreeSet;

const OBJECTS: usize = 12;

/// Three stores with the same segments of a log.
struct Place {
    site: Site,
    process: Process,
    objects: Vec<LogObject>,
    detours: Detours,
}

fn key(object: &LogObject) -> String {
    format!("{}{}", layout::source_folder(&source_name()), layout::log_file(object.history, object.file, object.run))
}

impl Place {
    fn new() -> Self {
        let (site, machine, database) = (Site::new(3), Machine::new(0, "detours"), Database::new(512));
        let object = |number: usize| {
            let bytes = format!("segment {number}").into_bytes();
            let file: LogFile = format!("0000000100000000{number:08X}").parse().unwrap();
            let object = LogObject {
                history: HistoryId { system: 7, timeline: 1 },
                file,
                run: RunId::from_random([3; 16]),
                bytes_raw: 1 << 24,
                size: bytes.len() as u64,
                sha256: format::sha256(&bytes),
            };
            (0..3).for_each(|store| site.put(store, &key(&object), bytes.clone()));
            object
        };
        let objects = (0..OBJECTS).map(object).collect();
        let process = Process::new(&site, &machine, &database);
        Place { site, process, objects, detours: Detours::default() }
    }

    /// Reads some of them, in one of the two ways; says which stores were asked for any.
    fn asked(&self, is_log: bool, objects: std::ops::Range<usize>) -> BTreeSet<String> {
        let before = self.process.operations.log().len();
        let repository = &self.process.host.repository;
        live(async {
            for object in &self.objects[objects] {
                if is_log {
                    repository.fetch_log(&source_name(), object, &self.detours).await.unwrap();
                } else {
                    let (size, key) = (Some(object.size), key(object));
                    let wanted = Wanted { key: &key, size, sha256: object.sha256, max_bytes: 100 };
                    repository.fetch(wanted, &self.detours).await.unwrap();
                }
            }
        });
        self.process.operations.log()[before..].iter().map(|operation| operation.store.clone()).collect()
    }
}

#[test]
fn what_only_other_snapshots_lack_is_no_detour() {
    let (site, machine, mut database) = (Site::new(3), Machine::new(0, "detours"), Database::new(512));
    let process = |database: &Database| Process::new(&site, &machine, database);
    let first = live(process(&database).backup(true)).unwrap().head.id;
    let files = database.files.clone();
    database.set("ledger.db", vec![9; 512 * 8]);
    let lagging = process(&database);
    lagging.faults[0].switch(Switch::Down);
    let second = live(lagging.backup(true)).unwrap().head.id;
    let restored = process(&database).expect_restored(first, &files);
    assert_eq!(restored.went_round, []);
    // What one of them does lack, is.
    let restored = process(&database).expect_restored(second, &database.files);
    assert!(restored.went_round.iter().all(|detour| detour.store == "a") && !restored.went_round.is_empty());
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn a_store_that_keeps_not_answering_is_asked_last() {
    for (is_log, switch) in [(true, Switch::Down), (false, Switch::Down), (true, Switch::Hung)] {
        let place = Place::new();
        assert_eq!(place.asked(is_log, 0..2), names(["a"]));
        place.process.faults[0].switch(switch);
        assert_eq!(place.asked(is_log, 2..5), names(["a", "b"]), "{is_log} {switch:?}");
        assert_eq!(place.asked(is_log, 5..8), names(["b"]), "{is_log} {switch:?}");
        // What only it has, it is asked for all the same.
        place.process.faults[0].switch(Switch::Up);
        [1, 2].iter().for_each(|store| place.site.remove(*store, &key(&place.objects[9])));
        assert_eq!(place.asked(is_log, 9..10), names(["a", "b", "c"]), "{is_log} {switch:?}");
        assert_eq!(place.asked(is_log, 10..12), names(["b"]), "{is_log} {switch:?}");
    }
}

#[test]
fn a_store_that_stumbles_goes_on_being_asked() {
    for is_log in [true, false] {
        let place = Place::new();
        for at in (0..OBJECTS).step_by(2) {
            place.process.faults[0].refuse_reading([key(&place.objects[at])]);
            assert_eq!(place.asked(is_log, at..at + 1), names(["a", "b"]));
            assert_eq!(place.asked(is_log, at + 1..at + 2), names(["a"]));
        }
        // Missing is an answer, too.
        (0..OBJECTS).for_each(|at| place.site.remove(0, &key(&place.objects[at])));
        assert_eq!(place.asked(is_log, 0..OBJECTS), names(["a", "b"]));
        assert_eq!(place.asked(is_log, 0..1), names(["a", "b"]));
    }
}
