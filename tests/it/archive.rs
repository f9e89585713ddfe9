//! The log of a server: archived, fetched, mended, and what happens when things go wrong in between.

mod commands;
mod crash;
pub(crate) mod large;
mod server;

use crate::support::LEDGER;
use recoup::{
    core::{
        failure::Code,
        log::{LogFile, SegmentName},
        plan::log::{Goal, LogFiles, Wanted, plan},
        policy::Copies,
        result::{Problem, Status},
    },
    ops::{
        archive::{self, FetchRequest, Fetched, OpenRequest},
        evidence::Recorder,
    },
    repository::layout,
    stores::fault::{Faults, Operations, Switch},
};
use server::{BYTES, SYSTEM, Server, objects};
use std::{fs, time::Duration};

#[test]
fn files_of_every_kind_come_back_as_they_were() {
    let server = Server::new(SYSTEM);
    let names = [server.segment(1), server.partial(2), server.history(2, 3), server.backup_note(1)];
    for name in &names {
        assert_eq!(server.push(name).unwrap().files, [name.parse::<LogFile>().unwrap()]);
        let before = objects(&server.repository);
        assert!(server.push(name).unwrap().files.is_empty(), "it is there already");
        assert_eq!(objects(&server.repository), before);
    }
    for name in &names {
        server.assert_fetched(name);
    }
    assert_eq!(server.repository.verify().status, Status::Ok);
}

#[test]
fn names_and_contents_that_are_wrong_are_refused() {
    let server = Server::new(SYSTEM);
    let first = server.segment(1);
    for (name, code) in [
        ("postgresql.conf", Code::Usage),
        ("00000001000000000000000A.gz", Code::Usage),
        ("000000010000000000000009", Code::Source),
        ("00000001.history", Code::Usage),
    ] {
        fs::copy(server.wal().join(&first), server.wal().join(name)).unwrap();
        assert_eq!(server.push(name).unwrap_err().code, code, "{name}");
        fs::remove_file(server.wal().join(name)).unwrap();
    }
    fs::write(server.wal().join("00000003.history"), "3\t0/0\n").unwrap();
    assert_eq!(server.push("00000003.history").unwrap_err().code, Code::Source);
    assert_eq!(server.push("000000010000000000000077").unwrap_err().code, Code::Source);
    assert_eq!(objects(&server.repository), 0);
}

#[test]
fn other_content_is_refused_and_equal_content_known_again() {
    let server = Server::new(SYSTEM);
    let name = server.segment(1);
    server.push(&name).unwrap();
    let stored = objects(&server.repository);
    for state_is_lost in [false, true] {
        if state_is_lost {
            server.lose_state();
        }
        assert!(server.push(&name).unwrap().files.is_empty());
        if state_is_lost {
            server.lose_state();
        }
        let right = fs::read(server.wal().join(&name)).unwrap();
        server.write(&name, server.written(1, "12:00:00").bytes());
        let refused = server.push(&name).unwrap_err();
        assert_eq!(refused.code, Code::Refused, "{refused}");
        assert!(refused.to_string().contains("other content"), "{refused}");
        fs::write(server.wal().join(&name), right).unwrap();
    }
    assert_eq!(objects(&server.repository), stored, "nothing was stored again");
    server.assert_fetched(&name);
    // With lost state, what is new is new.
    server.lose_state();
    let next = server.segment(2);
    assert_eq!(server.push(&next).unwrap().files.len(), 1);
}

#[test]
fn what_waits_is_archived_along() {
    let server = Server::new(SYSTEM);
    let names: Vec<String> = (1..=70).map(|number| server.segment(number)).collect();
    names.iter().for_each(|name| server.ready(name));
    let pushed = server.push(&names[0]).unwrap();
    assert_eq!(pushed.files.len(), 64);
    let records = server.records();
    assert_eq!((records.len(), records[0].files.len()), (1, 64));
    for name in &names[1..64] {
        assert!(server.push(name).unwrap().files.is_empty(), "{name}");
    }
    assert_eq!(server.push(&names[64]).unwrap().files.len(), 6);
    for name in [&names[0], &names[40], &names[69]] {
        server.assert_fetched(name);
    }
    // One that cannot be read is left for its own turn.
    let more: Vec<String> = (71..=73).map(|number| server.segment(number)).collect();
    more.iter().for_each(|name| server.ready(name));
    fs::write(server.wal().join(&more[1]), "x").unwrap();
    assert_eq!(server.push(&more[0]).unwrap().files.len(), 2);
    assert_eq!(server.push(&more[1]).unwrap_err().code, Code::Source);
}

/// What was shipped ahead is known without a store, and without being read where it is old enough; a change is noticed.
#[test]
fn what_was_shipped_ahead_is_answered_at_once() {
    let server = Server::new(SYSTEM);
    let names: Vec<String> = (1..=4).map(|number| server.segment(number)).collect();
    names.iter().for_each(|name| server.ready(name));
    std::thread::sleep(Duration::from_secs(4));
    let young = server.segment(5);
    server.ready(&young);
    assert_eq!(server.push(&names[0]).unwrap().files.len(), 5);
    let state = server.state().unwrap();
    let is_settled = |name: &String| state.last_run[&name.parse::<LogFile>().unwrap()].is_some();
    assert!(names.iter().all(is_settled) && !is_settled(&young), "{state:?}");
    let stores =
        ["a", "b", "c"].map(|store| (server.repository.store(store), server.repository.path(&format!("away-{store}"))));
    stores.iter().for_each(|(store, away)| fs::rename(store, away).unwrap());
    for name in [&names[1], &names[1], &young] {
        assert_eq!(server.push(name).unwrap(), Default::default(), "{name}");
    }
    for (number, name) in [(3, &names[2]), (5, &young)] {
        server.write(name, server.written(number, "12:00:00").bytes());
        let refused = server.push(name).unwrap_err();
        assert_eq!(refused.code, Code::Refused, "{refused}");
    }
    // What came before is not of the last run any more: the stores are asked.
    stores.iter().for_each(|(store, away)| fs::rename(away, store).unwrap());
    let next = server.segment(6);
    assert_eq!(server.push(&next).unwrap().files.len(), 1);
    stores.iter().for_each(|(store, away)| fs::rename(store, away).unwrap());
    assert_eq!(server.push(&names[3]).unwrap_err().code, Code::Store);
}

#[test]
fn the_log_of_another_system_waits_for_a_decision() {
    let mut server = Server::new(SYSTEM);
    let old = server.segment(1);
    server.push(&old).unwrap();
    server.system = SYSTEM + 1;
    let name = server.segment(2);
    for state_is_lost in [false, true] {
        if state_is_lost {
            server.lose_state();
        }
        let refused = server.push(&name).unwrap_err();
        assert_eq!(refused.code, Code::Refused);
        assert!(refused.next_step.unwrap().contains("recoup archive open ledger"));
        let noted = server.state().unwrap().foreign.unwrap();
        assert_eq!((noted.system, noted.file.to_string()), (server.system, name.clone()));
    }
    let host = server.repository.host();
    let recorder = Recorder::new(&host, &server.repository.settings());
    let request = OpenRequest { source: LEDGER.parse().unwrap(), system: None };
    let opened = server.block_on(archive::open(&host, &recorder, &request)).unwrap();
    assert_eq!((opened.before, opened.system), (Some(SYSTEM), SYSTEM + 1));
    assert!(recorder.has_records());
    assert_eq!(server.push(&name).unwrap().files.len(), 1);
    assert_eq!(server.state().unwrap().foreign, None);
    // The same decision holds after the state is lost, and the old system is the foreign one now.
    server.lose_state();
    server.system = SYSTEM;
    assert_eq!(server.push(&server.segment(3)).unwrap_err().code, Code::Refused);
    let again = server.block_on(archive::open(&host, &recorder, &request)).unwrap();
    assert_eq!(again.system, SYSTEM);
    let nothing = server.block_on(archive::open(&host, &recorder, &request)).unwrap_err();
    assert_eq!(nothing.code, Code::Refused);
}

#[test]
fn one_store_keeps_nobody_waiting() {
    for switch in [Switch::Down, Switch::Hung] {
        let mut server = Server::new(SYSTEM);
        let operations = Operations::new();
        let faults = Faults::new("c", &operations);
        server.wrap("c", &faults);
        faults.switch(switch);
        let names: Vec<String> = (1..=3).map(|number| server.segment(number)).collect();
        let pushed = server.within(Duration::from_secs(30), server.push_on(&names[0])).unwrap();
        assert_eq!(pushed.files.len(), 1);
        let asked = operations.count();
        assert!(asked > 0);
        let pushed = server.within(Duration::from_secs(30), server.push_on(&names[1])).unwrap();
        assert_eq!(pushed.behind.len(), 1, "{pushed:?}");
        assert_eq!(operations.count(), asked, "a store that failed a moment ago is left alone");
        faults.switch(Switch::Up);
        let verified = server.repository.verify();
        let behind =
            |found: &&recoup::core::result::StoreFinding| found.problem == Problem::Behind && found.store == "c";
        assert_eq!(verified.findings.iter().filter(behind).count(), 1, "{verified:?}");
        let copied = server.repository.copy();
        assert_eq!((copied.status, copied.findings.len()), (Status::Ok, 0), "{copied:?}");
        assert_eq!(server.repository.verify().status, Status::Ok);
        fs::remove_dir_all(server.repository.store("a")).unwrap();
        fs::remove_dir_all(server.repository.store("b")).unwrap();
        server.assert_fetched(&names[0]);
    }
}

#[test]
fn too_few_stores_are_no_archive() {
    let mut server = Server::new(SYSTEM);
    let operations = Operations::new();
    let faults = ["b", "c"].map(|name| Faults::new(name, &operations));
    server.wrap("b", &faults[0]);
    server.wrap("c", &faults[1]);
    let name = server.segment(1);
    faults.iter().for_each(|faults| faults.switch(Switch::Down));
    for _ in 0..2 {
        let failed = server.block_on(server.push_on(&name)).unwrap_err();
        assert_eq!(failed.code, Code::Store, "{failed}");
        assert!(failed.to_string().contains("store b") && failed.to_string().contains("store c"), "{failed}");
    }
    // As soon as enough are back it goes on: nobody waits for a memory of what failed.
    faults[1].switch(Switch::Up);
    assert_eq!(server.block_on(server.push_on(&name)).unwrap().files.len(), 1);
    // An unmounted disk answers and must not be filled.
    let next = server.segment(2);
    fs::rename(server.repository.store("a").join("recoup.json"), server.repository.path("aside")).unwrap();
    assert_eq!(server.block_on(server.push_on(&next)).unwrap_err().code, Code::Store);
}

#[test]
fn absent_is_said_only_where_it_is_certain() {
    let server = Server::new(SYSTEM);
    let name = server.segment(1);
    server.push(&name).unwrap();
    let missing = server.name(7);
    assert_eq!(server.fetch(&missing, None).unwrap(), Fetched::Absent);
    assert_eq!(server.fetch("00000002.history", None).unwrap(), Fetched::Absent);
    assert_eq!(server.fetch(&format!("{name}.partial"), None).unwrap(), Fetched::Absent);
    // Two of three stores have to say so.
    let aside = server.repository.path("aside");
    fs::rename(server.repository.store("a"), &aside).unwrap();
    assert_eq!(server.fetch(&missing, None).unwrap(), Fetched::Absent);
    server.assert_fetched(&name);
    let other = server.repository.path("other");
    fs::rename(server.repository.store("b"), &other).unwrap();
    assert_eq!(server.fetch(&missing, None).unwrap_err().code, Code::Store);
    server.assert_fetched(&name);
    // A record that is not accepted is no absence.
    fs::rename(&aside, server.repository.store("a")).unwrap();
    fs::rename(&other, server.repository.store("b")).unwrap();
    for store in ["a", "b", "c"] {
        let record = server.object(store, ".json");
        let text = fs::read_to_string(&record).unwrap().replace("ledger", "ledges");
        fs::write(record, text).unwrap();
    }
    assert_eq!(server.fetch(&name, None).unwrap_err().code, Code::Damaged);
}

#[test]
fn a_gap_is_not_the_end_of_the_log() {
    let server = Server::new(SYSTEM);
    server.control_file();
    for number in [1, 3] {
        let name = server.segment(number);
        server.push(&name).unwrap();
    }
    let (missing, end) = (server.name(2), server.name(4));
    fs::write(server.data().join("recovery.signal"), "").unwrap();
    let failed = server.fetch(&missing, None).unwrap_err();
    assert_eq!(failed.code, Code::NoRecoveryPoint, "{failed}");
    assert!(failed.cause.clone().unwrap().contains(&server.name(3).to_lowercase()), "{failed}");
    assert_eq!(server.fetch(&end, None).unwrap(), Fetched::Absent);
    // A standby looks for it elsewhere.
    fs::write(server.data().join("standby.signal"), "").unwrap();
    assert_eq!(server.fetch(&missing, None).unwrap(), Fetched::Absent);
}

#[test]
fn damage_is_gone_round_named_and_mended() {
    let server = Server::new(SYSTEM);
    let name = server.segment(1);
    server.push(&name).unwrap();
    for (store, ending) in [("a", ".age"), ("b", ".json")] {
        let object = server.object(store, ending);
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&object, bytes).unwrap();
    }
    fs::remove_file(server.object("c", ".age")).unwrap();
    // Between them the stores have all of it, but nobody has the file whole with a record beside it: b has the file.
    server.assert_fetched(&name);
    let verified = server.repository.verify();
    assert_eq!(verified.status, Status::Critical);
    let found: Vec<(&str, Problem)> =
        verified.findings.iter().map(|found| (found.store.as_str(), found.problem)).collect();
    assert_eq!(found, [("a", Problem::Damaged), ("b", Problem::Damaged), ("c", Problem::Missing)], "{verified:?}");
    let copied = server.repository.copy();
    assert_eq!((copied.status, copied.findings.len()), (Status::Ok, 0), "{copied:?}");
    assert_eq!(server.repository.verify().status, Status::Ok);
    // What no store has whole is said, and not passed on.
    for store in ["a", "b", "c"] {
        fs::write(server.object(store, ".age"), "x").unwrap();
    }
    assert_eq!(server.fetch(&name, None).unwrap_err().code, Code::Damaged);
    assert_eq!(server.repository.copy().status, Status::Critical);
}

#[test]
fn forks_are_kept_and_told() {
    let server = Server::new(SYSTEM);
    let name = server.segment(1);
    server.push(&name).unwrap();
    // Another host, which knows nothing of the first push, archives another content.
    server.lose_state();
    server.pretend_new();
    server.write(&name, server.written(1, "12:00:00").bytes());
    assert_eq!(server.push(&name).unwrap().files.len(), 1);
    assert_eq!(server.records().len(), 2);
    let forks = recoup::core::log::forks(&server.records());
    assert!(forks.len() == 1 && forks[0].certain, "{forks:?}");
    assert_eq!(server.fetch(&name, None).unwrap_err().code, Code::Refused);
    let notes = server.repository.verify().notes;
    assert!(notes.iter().any(|note| note.contains("with different contents")), "{notes:?}");
}

#[test]
fn a_plan_decides_what_there_is() {
    let server = Server::new(SYSTEM);
    let names: Vec<String> = (1..=6).map(|number| server.segment(number)).collect();
    names.iter().for_each(|name| drop(server.push(name).unwrap()));
    let records = server.records();
    let wanted = Wanted {
        from: records[0].history,
        start: recoup::core::log::Lsn(2 * BYTES),
        consistent_at: recoup::core::log::Lsn(2 * BYTES + 100),
        timeline: 1,
        goal: Goal::At(recoup::core::log::Lsn(4 * BYTES)),
        segment_bytes: BYTES,
    };
    let host = server.repository.host();
    let source = LEDGER.parse().unwrap();
    let made = plan(host.repository.id, &source, &wanted, None, &LogFiles::of(SYSTEM, &records)).unwrap();
    let listed: Vec<String> = made.files.iter().map(|object| object.file.to_string()).collect();
    assert_eq!(listed, names[1..4], "{made:?}");
    for name in &listed {
        assert_eq!(server.fetch(name, Some(made.clone())).unwrap(), Fetched::Here);
        server.assert_target(name);
    }
    // Past the end nobody is asked: the stores are gone.
    fs::rename(server.repository.store("a"), server.repository.path("gone-a")).unwrap();
    fs::rename(server.repository.store("b"), server.repository.path("gone-b")).unwrap();
    fs::rename(server.repository.store("c"), server.repository.path("gone-c")).unwrap();
    assert_eq!(server.fetch(&names[5], Some(made.clone())).unwrap(), Fetched::Absent);
    assert_eq!(server.fetch("00000002.history", Some(made.clone())).unwrap(), Fetched::Absent);
    assert_eq!(server.fetch(&names[0], Some(made.clone())).unwrap_err().code, Code::NoRecoveryPoint);
    assert_eq!(server.fetch(&names[1], Some(made)).unwrap_err().code, Code::Store);
}

#[test]
fn the_next_segments_are_fetched_ahead() {
    let server = Server::new(SYSTEM);
    server.control_file();
    let names: Vec<String> = (1..=5).map(|number| server.segment(number)).collect();
    names.iter().for_each(|name| drop(server.push(name).unwrap()));
    server.assert_fetched(&names[0]);
    let ahead = server.data().join("recoup-prefetch");
    assert_eq!(fs::read_dir(&ahead).unwrap().count(), 4);
    fs::rename(server.repository.store("a"), server.repository.path("gone-a")).unwrap();
    fs::rename(server.repository.store("b"), server.repository.path("gone-b")).unwrap();
    fs::rename(server.repository.store("c"), server.repository.path("gone-c")).unwrap();
    for name in &names[1..] {
        server.assert_fetched(name);
    }
    assert_eq!(fs::read_dir(&ahead).unwrap().count(), 0);
    assert_eq!(server.fetch(&names[1], None).unwrap_err().code, Code::Store);
    let request = FetchRequest {
        source: LEDGER.parse().unwrap(),
        file: LogFile::Segment(SegmentName::of_number(1, 9, BYTES)),
        target: server.target(),
        copies: Copies::default(),
        plan: None,
    };
    assert!(
        layout::log_file_of(&layout::log_file(
            server.history_id(),
            request.file,
            server.repository.host().world.new_id()
        ))
        .is_some()
    );
}
