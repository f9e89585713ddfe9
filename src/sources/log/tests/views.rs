//! Views, and what they know of earlier ones.

use super::*;
use crate::core::{failure::Code, manifest::EntryKind};
use std::os::unix::fs::symlink;

fn sample() -> Logs {
    let logs = Logs::new();
    logs.write("app.log", &lines("current", 700_000));
    logs.write("old/app.log.1", &lines("rotated", 4_097));
    logs.write("old/empty", b"");
    symlink("../app.log", logs.path("old/current")).unwrap();
    logs
}

#[test]
fn contract_of_every_source() {
    let logs = sample();
    let source = logs.source();
    contract::reads_agree(&source);
    contract::view_is_constant(&source, &mut || {
        logs.append("app.log", b"one more\n");
        logs.rename("old/app.log.1", "old/app.log.2");
        logs.write("new.log", b"1");
    });
    contract::unchanged_is_never_wrong(&source, 20, &mut |round| match round % 3 {
        0 => logs.append("app.log", b"x"),
        1 => logs.write("old/empty", &[round as u8]),
        _ => logs.write(&format!("new/{round}"), b"y"),
    });
}

#[test]
fn contract_of_sources_that_compare() {
    let logs = sample();
    contract::continued_blocks_are_the_same(&logs.source(), &mut |round| match round % 4 {
        0 => logs.append("app.log", &lines("more", 5_000)),
        1 => logs.rename("old/app.log.1", "app.log.2"),
        2 => logs.rename("app.log.2", "old/app.log.1"),
        _ => logs.write("old/empty", &lines("other", 1 + round as usize * 100)),
    });
}

#[test]
fn what_a_view_shows() {
    let logs = sample();
    let view = logs.source().open().unwrap();
    let facts = view.facts();
    let names: Vec<&str> = facts.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["app.log", "old", "old/app.log.1", "old/current", "old/empty"]);
    assert_eq!(facts.entries[3].kind, EntryKind::Link { target: "../app.log".to_owned() });
    assert_eq!(facts.position, "bytes=704097 files=3");
    assert!(facts.notes.is_empty());
}

#[test]
fn only_what_is_new_is_left_to_read() {
    let logs = sample();
    let before = logs.capture();
    logs.rename("app.log", "old/app.log-20261124");
    logs.append("old/app.log-20261124", b"late");
    logs.write("app.log", &lines("new", 100));
    let now = logs.compare(&before);
    assert_eq!(continues(&now, "old/app.log-20261124"), Some(("app.log", 170)));
    assert_eq!(continues(&now, "old/app.log.1"), Some(("old/app.log.1", 2)));
    assert_eq!((continues(&now, "app.log"), told(&now).as_str()), (None, ""));
    // What was continued once is continued again.
    let again = logs.compare(&now);
    assert_eq!(continues(&again, "old/app.log-20261124"), Some(("old/app.log-20261124", 171)));
    assert_eq!(again.content, now.content);
}

#[test]
fn files_that_move_while_they_are_read() {
    let logs = sample();
    let mut view = logs.source().open().unwrap();
    logs.rename("app.log", "app.log.1");
    logs.remove("old/app.log.1");
    let content = contract::read_entry(&mut *view, 0);
    assert!(content.starts_with(&lines("current", 700_000)), "a renamed file is still the same");
    assert_eq!(contract::read_entry(&mut *view, 2).len(), 8_192, "so is one that was removed");
    let file = fs::OpenOptions::new().write(true).open(logs.path("app.log.1")).unwrap();
    file.set_len(1_000).unwrap();
    let cut = view.read(0, &mut [(0, 171)].into_iter(), &mut |_, _| Ok(())).unwrap_err();
    assert!(cut.code == Code::Source && cut.message.contains(crate::sources::CHANGED_WHILE_READ), "{cut}");
}

#[test]
fn files_beyond_those_held_open() {
    let logs = Logs::new();
    let count = content::HELD_MAX + 50;
    for number in 0..count {
        logs.write(&format!("{number:04}.log"), &lines(&number.to_string(), 100 + number));
    }
    let mut view = logs.source().open().unwrap();
    for number in 0..count {
        logs.rename(&format!("{number:04}.log"), &format!("old/{number:04}.log.1"));
    }
    for number in 0..count {
        let content = contract::read_entry(&mut *view, number);
        assert!(content.starts_with(&lines(&number.to_string(), 100 + number)), "{number}");
    }
    view.close().unwrap();
}

#[test]
fn a_file_that_is_written_in_place_while_it_is_read() {
    let logs = sample();
    let mut view = logs.source().open().unwrap();
    contract::read_entry(&mut *view, 0);
    thread::sleep(Duration::from_millis(30));
    let file = fs::OpenOptions::new().write(true).open(logs.path("app.log")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"X", 5).unwrap();
    let failure = view.close().unwrap_err();
    assert!(failure.message.contains(crate::sources::CHANGED_WHILE_READ), "{failure}");
}

#[test]
fn a_file_that_was_cut_and_has_grown_again() {
    let logs = sample();
    let before = logs.capture();
    logs.append("app.log", b"a tail");
    let mut view = logs.source().open_since(&before, false).unwrap();
    thread::sleep(Duration::from_millis(30));
    fs::write(logs.path("app.log"), lines("again", 900_000)).unwrap();
    view.read(0, &mut [(170, 1)].into_iter(), &mut |_, _| Ok(())).unwrap();
    let failure = view.close().unwrap_err();
    assert!(failure.message.contains(crate::sources::CHANGED_WHILE_READ), "{failure}");
}

#[test]
fn directories_that_cannot_be_captured() {
    let logs = sample();
    let source = |path: PathBuf| Log::new(path, logs.rules, World::real());
    for (path, part) in [(logs.path("nowhere"), "nowhere"), (logs.path("app.log"), "is no directory")] {
        let source = source(path);
        for failure in [source.open().err().unwrap(), source.probe().unwrap_err()] {
            assert!(failure.code == Code::Source && failure.message.contains(part), "{failure}");
            assert!(failure.safe.is_some() && failure.next_step.is_some());
        }
        assert!(!source.is_unchanged(logs.capture().fingerprint()));
    }
    logs.write(".recoup-partial/x", b"");
    let failure = logs.source().open().err().unwrap();
    assert!(failure.message.contains(".recoup-partial"), "{failure}");
}

#[test]
fn what_is_no_file_is_left_out_and_named() {
    let logs = sample();
    let socket = std::os::unix::net::UnixListener::bind(logs.path("socket")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, logs.path("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let notes = logs.source().probe().unwrap();
    assert!(notes.len() == 2 && notes[0].contains("pipe") && notes[1].contains("a socket"), "{notes:?}");
    assert_eq!(logs.capture().content.len(), 5);
    drop(socket);
}

#[test]
fn links_are_not_followed() {
    let logs = sample();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), logs.path("directory")).unwrap();
    symlink(outside.path().join("secret"), logs.path("file")).unwrap();
    let view = logs.source().open().unwrap();
    let links = view.facts().entries.iter().filter(|entry| matches!(entry.kind, EntryKind::Link { .. }));
    assert_eq!((links.count(), view.facts().entries.len()), (3, 7));
}

#[test]
fn states_of_other_kinds_are_named() {
    let logs = sample();
    let mut before = logs.capture();
    before.facts.fingerprint = Some(serde_json::json!({ "version": 9 }));
    let view = logs.source().open_since(&before, false).unwrap();
    assert!(view.facts().notes[0].contains("could not be compared"), "{:?}", view.facts().notes);
}
