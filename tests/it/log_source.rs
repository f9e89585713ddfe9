//! Directories of append-only logs under the real program: what is shipped, what is no alarm, and what is one.

mod archive;
mod logrotate;

use crate::{
    house::{assert_refused, is_root, set_mode},
    needs::needs,
    support::{program, run},
};
use archive::{Archive, flip, lines};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

/// What is told of a change, and the change.
type Change<'a> = (&'a str, Option<u64>, &'a dyn Fn());

#[test]
fn only_the_new_tail_is_shipped() {
    let archive = Archive::new();
    archive.write("app.log", &lines("first", 3_000_000));
    archive.write("web/access.log", &lines("web", 2_000_000));
    let full = archive.backup(0);
    assert!(full["bytes_stored"].as_u64().unwrap() > 100_000, "{full}");
    assert_eq!((full["kind"].as_str(), full["position"].as_str()), (Some("full"), Some("bytes=5000000 files=2")));

    let small = |what: &str| {
        let snapshot = archive.backup(0);
        let stored = snapshot["bytes_stored"].as_u64().unwrap();
        assert!(snapshot["kind"] == "incremental" && stored < 30_000, "{what}: {snapshot}");
        archive.assert_restores(&snapshot);
    };
    archive.append("app.log", &lines("tail", 5_000));
    small("a tail");
    archive.rename("app.log", "old/app.log-20261124");
    archive.append("old/app.log-20261124", b"by a writer that held it open\n");
    archive.write("app.log", &lines("second", 1_000));
    small("a rename");
    archive.rename("old/app.log-20261124", "old/a");
    archive.rename("web/access.log", "old/b");
    small("renames");
    fs::copy(archive.log("old/b"), archive.log("old/copy")).unwrap();
    fs::write(archive.log("old/b"), lines("truncated", 2_000)).unwrap();
    small("copy and truncate");
    small("nothing");
    run(&mut archive.recoup(&["verify", "--all"])).expect_code(0);
}

#[test]
fn alterations_end_with_18_once_and_both_versions_are_kept() {
    let archive = Archive::new();
    archive.write("app.log", &lines("current", 20_000));
    archive.write("app.log.1", &lines("rotated", 15_000));
    archive.write("app.log.2.gz", &lines("stands for something compressed", 12_000));
    archive.backup(0);
    for name in ["app.log", "app.log.1", "app.log.2.gz"] {
        let size = fs::metadata(archive.log(name)).unwrap().len();
        let cut = |to: u64| fs::OpenOptions::new().write(true).open(archive.log(name)).unwrap().set_len(to).unwrap();
        let at = |byte: u64| Some(byte / 4096 * 4096);
        let changes: [Change<'_>; 6] = [
            ("rewritten", at(0), &|| flip(&archive.log(name), 3)),
            ("rewritten", at(size / 2), &|| flip(&archive.log(name), size / 2)),
            ("rewritten", at(size - 1), &|| flip(&archive.log(name), size - 1)),
            ("rewritten", at(0), &|| archive.write(name, &lines("something else entirely", size as usize + 500))),
            ("cut", Some(size - 1_000), &|| cut(size - 1_000)),
            ("removed", None, &|| fs::remove_file(archive.log(name)).unwrap()),
        ];
        for (problem, offset, change) in changes {
            let before = archive.contents();
            change();
            let json = archive.backup_json(18);
            let outcome = &json["sources"][0];
            let altered = serde_json::json!([{
                "path": name, "problem": problem, "offset_bytes": offset, "found_at": null,
            }]);
            assert_eq!(outcome["alterations"], altered, "{json}");
            assert_eq!(outcome["exit_code"], 18);
            let seq = json["snapshots"][0]["seq"].as_u64().unwrap();
            let since = outcome["altered_since"].as_str().unwrap();
            assert!(since.starts_with(&format!("{:010}-", seq - 1)), "{since}");
            assert!(outcome["message"].as_str().unwrap().contains(name), "{outcome}");
            // Told once; both versions stay.
            archive.backup(0);
            assert_eq!(archive.restored(seq - 1), before, "{name} {problem}: the version before");
            assert_eq!(archive.restored(seq), archive.contents(), "{name} {problem}: the version after");
        }
        archive.write(name, &lines("once more", 10_000));
        archive.backup(0);
    }
}

#[test]
fn what_an_operator_is_told() {
    let archive = Archive::new();
    archive.write("app.log", &lines("current", 20_000));
    archive.backup(0);
    flip(&archive.log("app.log"), 9_000);
    let parts = [
        "audit (exit 18): the log was altered: app.log was rewritten at about byte 8192",
        "both versions are kept",
        "recoup --config R/recoup.toml restore audit --target snapshot:1 --identity FILE --to DIRECTORY",
    ];
    assert_refused(run(&mut archive.recoup(&["backup"])), 18, &parts);
    // A full replaces what is known locally: it compares everything before it does.
    flip(&archive.log("app.log"), 13_000);
    assert_refused(run(&mut archive.recoup(&["backup", "--full"])), 18, &["about byte 12288"]);
    run(&mut archive.recoup(&["backup", "--full"])).expect_code(0);
}

#[test]
fn several_sources_and_a_store_that_is_gone() {
    let archive = Archive::new();
    archive.write("app.log", &lines("current", 20_000));
    archive.add_source("other", "other");
    fs::create_dir(archive.path("other")).unwrap();
    fs::write(archive.path("other/x.log"), lines("x", 5_000)).unwrap();
    run(&mut archive.recoup(&["backup"])).expect_code(0);
    flip(&archive.log("app.log"), 9_000);
    fs::rename(archive.path("b"), archive.path("gone")).unwrap();
    // Of two stores both must hold a snapshot by default.
    let run_one = run(&mut archive.recoup(&["backup", "--json"])).expect_code(2);
    let message = run_one.json()["sources"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("the log was altered") && message.contains("not durable"), "{message}");
    fs::rename(archive.path("gone"), archive.path("b")).unwrap();
    run(&mut archive.recoup(&["copy"])).expect_code(0);
    flip(&archive.log("app.log"), 100);
    let both = run(&mut archive.recoup(&["backup", "--json"])).expect_code(18).json();
    assert_eq!((&both["sources"][0]["exit_code"], &both["sources"][1]["exit_code"]), (&18.into(), &0.into()));
    flip(&archive.log("app.log"), 100);
    fs::rename(archive.path("other"), archive.path("elsewhere")).unwrap();
    let both = run(&mut archive.recoup(&["backup", "--json"])).expect_code(2).json();
    assert_eq!((&both["sources"][0]["exit_code"], &both["sources"][1]["exit_code"]), (&18.into(), &13.into()));
}

#[test]
fn a_lost_state_directory_is_a_full_with_a_warning() {
    let archive = Archive::new();
    archive.write("app.log", &lines("current", 20_000));
    archive.backup(0);
    fs::remove_dir_all(archive.path("R/state/sources/audit")).unwrap();
    let json = archive.backup_json(1);
    assert_eq!(json["snapshots"][0]["kind"], "full");
    let message = json["sources"][0]["message"].as_str().unwrap();
    assert!(message.contains("what was captured before could not be compared"), "{message}");
    archive.backup(0);
}

#[test]
fn captured_bytes_are_read_again_in_time() {
    let archive = Archive::new();
    archive.write("app.log", &lines("current", 20_000));
    archive.backup(0);
    // As an intruder with all rights may do it: the stamps that were noted are those of the altered file.
    std::thread::sleep(std::time::Duration::from_millis(120));
    archive.backup(0);
    let state = archive.path("R/state/sources/audit/base.json");
    let noted = fs::read_to_string(&state).unwrap();
    let before = fs::metadata(archive.log("app.log")).unwrap();
    flip(&archive.log("app.log"), 9_000);
    let after = fs::metadata(archive.log("app.log")).unwrap();
    let ns = |seconds: i64, rest: i64| (seconds * 1_000_000_000 + rest).to_string();
    let noted = noted.replace(&ns(before.ctime(), before.ctime_nsec()), &ns(after.ctime(), after.ctime_nsec()));
    let noted = noted.replace(&ns(before.mtime(), before.mtime_nsec()), &ns(after.mtime(), after.mtime_nsec()));
    fs::write(&state, noted).unwrap();
    archive.backup(0);
    archive.set("reread_every", "1s");
    std::thread::sleep(std::time::Duration::from_millis(1_050));
    let altered = archive.backup_json(18);
    assert_eq!(altered["sources"][0]["alterations"][0]["offset_bytes"], 8192, "{altered}");
}

#[test]
fn what_is_lost_on_every_store_is_captured_again_under_its_new_name() {
    let archive = Archive::new();
    archive.write("app.log", &lines("current", 600_000));
    archive.write("other.log", &lines("other", 50_000));
    archive.backup(0);
    for store in ["a", "b"] {
        let packs = archive.path(store).join("sources/audit/packs");
        let pack = fs::read_dir(packs).unwrap().next().unwrap().unwrap().path().join("0.age");
        let middle = fs::metadata(&pack).unwrap().len() / 2;
        set_mode(&pack, 0o600);
        flip(&pack, middle);
    }
    run(&mut archive.recoup(&["verify", "--all"])).expect_code(2);
    archive.rename("app.log", "old/app.log.1");
    archive.append("old/app.log.1", b"more\n");
    archive.write("app.log", b"new\n");
    let snapshot = archive.backup(0);
    assert_eq!(snapshot["kind"], "incremental");
    archive.assert_restores(&snapshot);
}

#[test]
fn expired_files_may_go() {
    let archive = Archive::new();
    archive.set("expire_after", "30d");
    for (name, days) in [("app.log", 0), ("old.log", 31), ("young.log", 29)] {
        archive.write(name, &lines(name, 6_000));
        let file = fs::OpenOptions::new().write(true).open(archive.log(name)).unwrap();
        let now = file.metadata().unwrap().modified().unwrap();
        file.set_modified(now - std::time::Duration::from_secs(days * 86_400)).unwrap();
    }
    archive.backup(0);
    fs::remove_file(archive.log("old.log")).unwrap();
    archive.backup(0);
    fs::remove_file(archive.log("young.log")).unwrap();
    assert_eq!(archive.backup_json(18)["sources"][0]["alterations"][0]["problem"], "removed");
}

#[test]
fn ten_thousand_files() {
    let archive = Archive::new();
    for number in 0..10_000 {
        archive.write(&format!("{:02}/{number:05}.log", number % 100), &lines(&number.to_string(), 60 + number % 300));
    }
    archive.backup(0);
    archive.append("07/00007.log", b"more\n");
    archive.rename("08/00008.log", "08/00008.log.1");
    fs::remove_file(archive.log("09/00009.log")).unwrap();
    let json = archive.backup_json(18);
    assert!(json["snapshots"][0]["bytes_stored"].as_u64().unwrap() < 1_000_000, "{json}");
    assert_eq!(json["sources"][0]["alterations"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(archive.restored(2), archive.contents());
}

#[test]
fn what_is_restored_is_what_was_there() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let archive = Archive::new();
    archive.write("app.log", &lines("current", 20_000));
    archive.write("a name with spaces and \u{e9}/empty", b"");
    archive.write("half", b"a line that is not fini");
    symlink("app.log", archive.log("current")).unwrap();
    set_mode(&archive.log("app.log"), 0o640);
    let first = archive.backup(0);
    archive.append("half", b"shed\n");
    archive.rename("app.log", "app.log.1");
    let second = archive.backup(0);
    archive.assert_restores(&second);
    let to = archive.restore(first["seq"].as_u64().unwrap(), &["--check"]);
    assert_eq!(fs::read(to.join("half")).unwrap(), b"a line that is not fini");
    assert_eq!(fs::metadata(to.join("app.log")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_link(to.join("current")).unwrap().to_str(), Some("app.log"));
    // By the time at which the read began, as of any source.
    let target = second["read_started_at"].as_str().unwrap();
    let to = archive.path("by-time");
    let arguments = ["restore", "audit", "--target", target, "--to", to.to_str().unwrap()];
    run(archive.recoup(&arguments).args(["--identity", "R/custodian.age"])).expect_code(0);
    assert_eq!(fs::read(to.join("half")).unwrap(), b"a line that is not finished\n");
    let (store, to) = (archive.path("a"), archive.path("recovered"));
    let mut script = program("sh", &store);
    script.args(["recover.sh", "audit", "2"]).args([archive.path("R/custodian.age"), to.clone()]);
    run(&mut script).expect_code(0);
    assert_eq!(archive::contents_of(&to), archive.contents());
}

#[test]
fn what_cannot_be_protected_is_refused() {
    let archive = Archive::new();
    archive.write("app.log", b"1\n");
    archive.backup(0);
    // A store inside of the directory, and the directory above everything.
    archive.edit(&archive.path("logs").display().to_string(), &archive.path("").display().to_string());
    assert_refused(run(&mut archive.recoup(&["backup"])), 17, &["cannot be protected as a log", "store a"]);
    let doctor = run(&mut archive.recoup(&["doctor"])).expect_code(2);
    assert!(doctor.stdout.contains("cannot be protected as a log"), "{doctor:?}");
    let archive = Archive::new();
    archive.edit(&archive.path("logs").display().to_string(), &archive.path("R").display().to_string());
    assert_refused(run(&mut archive.recoup(&["backup"])), 17, &["recoup keeps its own files"]);
    let archive = Archive::new();
    fs::remove_dir(archive.path("logs")).unwrap();
    assert_refused(run(&mut archive.recoup(&["backup"])), 13, &["logs cannot be read"]);
    let doctor = run(&mut archive.recoup(&["doctor"])).expect_code(2);
    assert!(doctor.stdout.contains("logs cannot be read"), "{doctor:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_never_left_out() {
    let archive = Archive::new();
    archive.write("app.log", b"1\n");
    archive.write("secret.log", b"2\n");
    set_mode(&archive.log("secret.log"), 0);
    if is_root() {
        run(program("chown", &archive.path("")).args(["-R", "65534:65534", "."])).expect_code(0);
    }
    let parts = ["secret.log cannot be read", "Permission denied"];
    assert_refused(run(&mut archive.unprivileged(&["backup"])), 13, &parts);
    let doctor = run(&mut archive.unprivileged(&["doctor"])).expect_code(2);
    assert!(doctor.stdout.contains(parts[0]), "{doctor:?}");
    set_mode(&archive.log("secret.log"), 0o400);
    run(&mut archive.unprivileged(&["backup"])).expect_code(0);
}

#[test]
fn pipes_and_sockets_are_left_out_with_a_note() {
    let archive = Archive::new();
    archive.write("app.log", b"1\n");
    let _socket = std::os::unix::net::UnixListener::bind(archive.log("socket")).unwrap();
    let done = run(&mut archive.recoup(&["backup"])).expect_code(0);
    assert!(done.stderr.contains("socket is left out: it is a socket"), "{done:?}");
    run(&mut archive.recoup(&["doctor"]));
    assert_eq!(archive.restored(1), BTreeMap::from([("app.log".into(), b"1\n".to_vec())]));
}

#[test]
fn settings_of_other_kinds_are_refused() {
    let archive = Archive::new();
    archive.set("reread_every", "2d");
    let shown = run(&mut archive.recoup(&["config", "show"])).expect_code(0).stdout;
    assert!(shown.contains("source.audit.reread_every = \"2d\"") && shown.contains("recoup.toml:"), "{shown}");
    assert!(!shown.contains("source.audit.busy_timeout"), "{shown}");
    archive.set("busy_timeout", "2s");
    assert_refused(run(&mut archive.recoup(&["backup"])), 78, &["busy_timeout", "it is for sources of kind sqlite"]);
}
