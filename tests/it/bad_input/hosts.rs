//! The host itself: two runs at once, clocks, local state that is lost or old, other users, closed streams.

use crate::{
    house::{House, assert_refused, copy_tree, is_root, make_pipe, set_mode},
    needs::needs,
    support::{files_below, program, run},
};
use recoup::{
    config,
    core::time::Timestamp,
    ops::{progress::NoProgress, runs},
    world::{ManualClock, SeededRandom, World, files},
};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn two_backups_of_one_source() {
    let (house, bytes) = House::new();
    let lock = files::try_lock(&house.path("R/state/sources/ledger/lock")).unwrap();
    assert!(lock.is_some());
    assert_refused(run(&mut house.recoup(["backup"])), 11, &["another backup of ledger", "lock"]);
    // Whatever else is done meanwhile is not kept waiting.
    house.assert_restores("latest", &bytes);
    run(&mut house.recoup(["list"])).expect_code(0);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    run(&mut house.recoup(["copy"])).expect_code(0);
    drop(lock);
    house.backup();
    // Real ones at the same time: each is taken or told to wait, and none is lost.
    let mut running: Vec<_> = (0..4).map(|_| house.recoup(["backup", "--full"]).spawn().unwrap()).collect();
    let codes: Vec<_> = running.iter_mut().map(|child| child.wait().unwrap().code().unwrap()).collect();
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 11].contains(code)), "{codes:?}");
    let taken = codes.iter().filter(|code| **code == 0).count();
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(0).json();
    assert_eq!(listed["snapshots"].as_array().map(Vec::len), Some(2 + taken), "{listed}");
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
}

#[test]
fn clocks_that_jump() {
    let (house, first) = House::new();
    let settings = config::load(&config::find(Some(&house.path("R/recoup.toml"))).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut contents = vec![first];
    let moments = ["1970-01-01T00:00:00Z", "2199-12-31T23:59:59Z", "2001-02-03T04:05:06Z", "2026-11-22T00:00:00Z"];
    for (at, moment) in moments.iter().enumerate() {
        house.write_rows(2);
        let clock = ManualClock::new(moment.parse::<Timestamp>().unwrap());
        let world = World::new(clock, SeededRandom::new(moment));
        let sources = ["ledger".parse().unwrap()];
        let result = runtime.block_on(runs::backup_sources(&settings, &world, &sources, false, &NoProgress)).unwrap();
        assert_eq!(result.sources[0].exit_code.number(), 0, "{result:?}");
        assert_eq!(result.snapshots[0].seq, at as u64 + 2);
        contents.push(house.ledger());
    }
    contents.push(house.change_and_backup());
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(0).json();
    let seqs: Vec<_> = listed["snapshots"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=6).map(Some).collect::<Vec<_>>());
    for (at, bytes) in contents.iter().enumerate() {
        house.assert_restores(&format!("snapshot:{}", at + 1), bytes);
    }
    // The newest is the one that was taken last, whatever the clocks said; a time goes by what they said.
    house.assert_restores("latest", &contents[5]);
    house.assert_restores("1980-01-01T00:00:00Z", &contents[1]);
    house.assert_restores("2200-01-01T00:00:00Z", &contents[2]);
    let (mut restore, _) = house.restore("1969-12-31T23:59:59Z");
    assert_refused(run(&mut restore), 16, &["before the first snapshot", "snapshot:2"]);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
}

#[test]
fn state_that_is_lost() {
    let (house, first) = House::new();
    let state = house.path("R/state");
    fs::remove_dir_all(&state).unwrap();
    for arguments in [&["list"][..], &["verify"], &["backup", "--dry-run"], &["copy", "--dry-run"]] {
        run(&mut house.recoup(arguments.iter().copied())).expect_code(0);
        assert!(!state.exists(), "{arguments:?}");
    }
    house.assert_restores("latest", &first);
    house.write_rows(2);
    let taken = run(&mut house.recoup(["backup", "--json"])).expect_code(0);
    assert!(taken.stderr.contains("state directory") && taken.stderr.contains("made again"), "{taken:?}");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o7777, 0o700);
    let taken = taken.json();
    assert_eq!((&taken["snapshots"][0]["kind"], &taken["snapshots"][0]["seq"]), (&"full".into(), &2.into()), "{taken}");
    let second = house.ledger();
    // Damaged state is as good as none.
    for (name, content) in [
        ("base.json", &b"{"[..]),
        ("base.json", b""),
        ("known.json", b"[]"),
        ("base.json", b"{\"format\":\"recoup-base/9\"}"),
    ] {
        fs::write(state.join("sources/ledger").join(name), content).unwrap();
        house.change_and_backup();
    }
    for entry in fs::read_dir(state.join("sources/ledger")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("digests-") {
            fs::write(path, "short").unwrap();
        }
    }
    let last = house.change_and_backup();
    house.assert_restores("latest", &last);
    house.assert_restores("snapshot:1", &first);
    house.assert_restores("snapshot:2", &second);
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(0);
    assert!(!listed.stderr.contains("fork"), "{listed:?}");
}

#[test]
fn pipes_in_the_place_of_the_hosts_files() {
    let (house, bytes) = House::new();
    house.change_and_backup();
    let own =
        ["recoup.toml", "host_ed25519", "catalogue.age", "allowed_signers", "policies/default.toml", "custodian.age"];
    let state = files_below(&house.path("R/state"));
    assert!(state.len() > 7, "{state:?}");
    let state = state.iter().map(|path| format!("state/{}", path.display()));
    let mut replaced = 0;
    for name in own.into_iter().map(str::to_owned).chain(state) {
        let (path, aside) = (house.path("R").join(&name), house.path("aside"));
        // What belongs to one run may be gone after the next.
        if !path.exists() {
            continue;
        }
        replaced += 1;
        fs::rename(&path, &aside).unwrap();
        make_pipe(&path);
        let restore = ["restore", "ledger", "--identity", "R/custodian.age", "--to", "out"];
        for command in [&["backup"][..], &["check"], &["copy"], &["evidence", "verify"], &["hold", "list"], &restore] {
            let ended = run(&mut house.limited(command));
            assert!(![70, 124].contains(&ended.code), "{name}, {command:?}: {ended:?}");
            if own.contains(&name.as_str())
                && command[0] == (if name == "custodian.age" { "restore" } else { "backup" })
            {
                let parts = [name.as_str(), "not a regular file"];
                assert!(ended.code != 0 && parts.iter().all(|part| ended.stderr.contains(part)), "{name}: {ended:?}");
            }
        }
        drop(fs::remove_dir_all(house.path("out")));
        drop(fs::remove_file(&path));
        fs::rename(&aside, &path).unwrap();
    }
    assert!(replaced > 9, "{replaced}");
    house.assert_restores("snapshot:1", &bytes);
    house.change_and_backup();
}

#[test]
fn a_lost_state_directory_lets_no_other_user_in() {
    let (house, _) = House::new();
    fs::remove_dir_all(house.path("R/state")).unwrap();
    // A path with a slip in it is no state directory to be made.
    house.edit_configuration("state_dir = \"state\"", "state_dir = \"stat/e\"");
    assert_refused(run(&mut house.recoup(["backup"])), 78, &["state directory", "0700", "full"]);
    house.edit_configuration("state_dir = \"stat/e\"", "state_dir = \"state\"");
    if !is_root() || !needs("setpriv") {
        return;
    }
    drop(house.unprivileged(["list"]));
    for arguments in [&["backup"][..], &["list"], &["verify"], &["copy"], &["doctor"]] {
        let refused = run(&mut house.recoup(arguments.iter().copied()));
        let said = refused.stderr.contains("is run by user") || refused.stdout.contains("is run by user");
        assert!(said && [17, 3, 2].contains(&refused.code), "{refused:?}");
        assert!(!house.path("R/state").exists(), "{arguments:?}");
    }
    run(&mut house.unprivileged(["backup"])).expect_code(0);
    // What only reads the configuration works for whoever can read it; whoever cannot is told who can.
    for arguments in [["config", "show"], ["config", "check"]] {
        run(&mut house.recoup(arguments)).expect_code(0);
    }
    let mut unprivileged = house.unprivileged(["config", "show"]);
    std::os::unix::fs::chown(house.path("R/recoup.toml"), Some(0), Some(0)).unwrap();
    set_mode(&house.path("R/recoup.toml"), 0o600);
    assert_refused(run(&mut unprivileged), 78, &["next: runuser -u root -- recoup --config", "config show"]);
}

#[test]
fn state_that_was_rolled_back() {
    let (house, first) = House::new();
    copy_tree(&house.path("R/state"), &house.path("state.old"));
    let second = house.change_and_backup();
    let third = house.change_and_backup();
    for changed in [false, true] {
        fs::remove_dir_all(house.path("R/state")).unwrap();
        copy_tree(&house.path("state.old"), &house.path("R/state"));
        if changed {
            house.write_rows(2);
        }
        house.backup();
        house.assert_restores("latest", &house.ledger());
    }
    house.assert_restores("snapshot:1", &first);
    house.assert_restores("snapshot:2", &second);
    house.assert_restores("snapshot:3", &third);
    // Numbers go on after the newest on the stores, and nothing is forked.
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(0);
    let json = listed.json();
    let seqs: Vec<_> = json["snapshots"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=5).map(Some).collect::<Vec<_>>());
    assert!(!listed.stderr.contains("fork"), "{listed:?}");
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
}

#[test]
fn stores_that_were_rolled_back() {
    let (house, first) = House::new();
    for store in ["a", "b", "c"] {
        copy_tree(&house.path(store), &house.path(&format!("{store}.old")));
    }
    house.change_and_backup();
    for store in ["a", "b", "c"] {
        fs::remove_dir_all(house.path(store)).unwrap();
        fs::rename(house.path(&format!("{store}.old")), house.path(store)).unwrap();
    }
    // This host has seen a newer one, and says so instead of restoring what is old.
    let (mut restore, file) = house.restore("latest");
    let refused = assert_refused(run(&mut restore), 17, &["0000000002-", "this host", "--target snapshot:0000000001-"]);
    assert!(!file.exists(), "{refused:?}");
    house.assert_restores("snapshot:1", &first);
    let verified = run(&mut house.recoup(["verify", "--json"])).expect_code(2).json();
    assert_eq!(verified["findings"][0]["problem"], "missing", "{verified}");
    // The next one goes on behind the one that is gone.
    house.write_rows(1);
    let taken = run(&mut house.recoup(["backup", "--json"])).expect_code(1).json();
    assert_eq!(taken["snapshots"][0]["seq"], 3, "{taken}");
    house.assert_restores("snapshot:3", &house.ledger());
    house.assert_restores("snapshot:1", &first);
}

#[test]
fn another_user() {
    if !is_root() {
        return;
    }
    let (house, bytes) = House::new();
    let owned = run(program("chown", &house.path("")).args(["65534:65534", "R/state"]));
    owned.expect_code(0);
    for command in [&["backup"][..], &["list"], &["copy"], &["restore", "ledger", "--to", "out"], &["verify"]] {
        let mut command = house.recoup(command.iter().copied());
        if command.get_args().any(|word| word == "restore") {
            command.args(["--identity", "R/custodian.age"]);
        }
        let refused = run(&mut command);
        // A monitor answers in its own codes.
        let code = if refused.code == 3 { 3 } else { 17 };
        assert_refused(refused, code, &["state", "runuser -u", "recoup.toml"]);
    }
    assert!(!house.path("out").exists());
    run(program("chown", &house.path("")).args(["0:0", "R/state"])).expect_code(0);
    house.assert_restores("latest", &bytes);
}

#[test]
fn files_of_the_configuration_without_permission() {
    if is_root() && !needs("setpriv") {
        return;
    }
    let (house, bytes) = House::new();
    drop(house.unprivileged(["list"]));
    for (name, code, parts) in [
        ("R/recoup.toml", 78, &["recoup.toml", "ermission"][..]),
        ("R/host_ed25519", 12, &["host_ed25519", "ermission"]),
        ("R/catalogue.age", 12, &["catalogue.age", "ermission"]),
        ("R/allowed_signers", 12, &["allowed_signers", "ermission"]),
        ("R/state/sources", 2, &["state", "ermission"]),
    ] {
        let usual = fs::metadata(house.path(name)).unwrap().permissions();
        set_mode(&house.path(name), 0o000);
        assert_refused(run(&mut house.unprivileged(["backup"])), code, parts);
        fs::set_permissions(house.path(name), usual).unwrap();
    }
    for (name, part) in [("R/host_ed25519", "host_ed25519"), ("R/catalogue.age", "catalogue.age")] {
        set_mode(&house.path(name), 0o644);
        assert_refused(run(&mut house.unprivileged(["backup"])), 12, &[part, "0644", "chmod 600"]);
        set_mode(&house.path(name), 0o600);
    }
    fs::create_dir(house.path("closed")).unwrap();
    let restore = |to| {
        let arguments = ["restore", "ledger", "--identity", "R/custodian.age", "--to", to];
        house.unprivileged(arguments)
    };
    drop(restore("closed"));
    for mode in [0o555, 0o000] {
        set_mode(&house.path("closed"), mode);
        assert_refused(run(&mut restore("closed/out")), 2, &["closed", "ermission"]);
        assert_refused(run(&mut restore("closed")), 2, &["closed", "ermission"]);
    }
    set_mode(&house.path("closed"), 0o755);
    run(&mut restore("closed")).expect_code(0);
    assert_eq!(fs::read(house.path("closed/ledger.db")).unwrap(), bytes);
}

#[test]
fn streams_that_are_closed() {
    let (house, bytes) = House::new();
    let binary = env!("CARGO_BIN_EXE_recoup");
    let line = |line: &str| {
        let mut command = program("sh", &house.path(""));
        command.args(["-c", &format!("set -e; R() {{ '{binary}' --config R/recoup.toml \"$@\"; }}; {line}")]);
        run(&mut command)
    };
    for quiet in ["R list | head -c 0", "R list --json | head -c 0", "R --help | head -c 0", "R list >&-"] {
        let done = line(quiet).expect_code(0);
        assert_eq!(done.stderr, "", "{quiet}");
    }
    line("R list <&-").expect_code(0);
    line("R backup <&- >&- 2>&-").expect_code(0);
    line("R frob <&- >&- 2>&-").expect_code(64);
    if fs::exists("/dev/full").unwrap_or(false) {
        let full = line("R list > /dev/full").expect_code(2);
        assert!(full.stderr.contains("standard output"), "{full:?}");
        line("R backup 2> /dev/full").expect_code(0);
    }
    house.assert_restores("latest", &bytes);
}

/// Whoever may change them decides what is trusted, what is shipped, and where.
#[test]
fn files_that_anybody_may_change() {
    let (house, _) = House::new();
    for (name, mode) in [("R/recoup.toml", 0o666), ("R/allowed_signers", 0o646), ("R/state", 0o777)] {
        let (path, before) = (house.path(name), fs::metadata(house.path(name)).unwrap().permissions().mode() & 0o7777);
        set_mode(&path, mode);
        let said = format!("its mode {mode:04o} lets anybody change it");
        for command in [&["backup"][..], &["prune", "--yes"], &["evidence", "verify"]] {
            assert_refused(run(&mut house.recoup(command.iter().copied())), 17, &[&said, "o-w"]);
        }
        set_mode(&path, before);
        run(&mut house.recoup(["evidence", "verify"])).expect_code(0);
    }
}
