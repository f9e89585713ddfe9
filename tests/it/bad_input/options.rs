//! Configurations, command lines, identities and targets that are wrong.

use crate::{
    house::{House, assert_refused, set_mode},
    support::{Run, program, recoup, run},
};
use std::fs;

/// What is replaced in the configuration, by what, and what the error names.
type Edit<'a> = (&'a str, &'a str, &'a [&'a str]);

#[test]
fn configurations_that_cannot_be_right() {
    let (house, bytes) = House::new();
    let path = house.path("R/recoup.toml");
    let good = fs::read_to_string(&path).unwrap();
    let [a, b] = ["a", "b"].map(|store| format!("file://{}", house.path(store).display()));
    let below = format!("{a}/below");
    let edits: &[Edit<'_>] = &[
        ("[spool]", "[spol]", &["recoup.toml:", "\"spol\"", "\"spool\""]),
        ("level = 1", "levle = 1", &["\"levle\"", "\"level\""]),
        ("level = 1", "level = 99", &["\"level\"", "1 to 19"]),
        ("level = 1", "level = \"fast\"", &["\"level\"", "whole number"]),
        ("level = 1", "level = 1\nlevel = 2", &["recoup.toml:", "not TOML"]),
        ("name = \"b\"", "name = \"a\"", &["two stores", "\"a\""]),
        (&b, &a, &["\"a\" and \"b\"", "same directory"]),
        (&b, &below, &["\"a\" and \"b\"", "inside the other"]),
        (&b, "s3://key:hidden@bucket/b", &["\"url\"", "environment"]),
        (&b, "file:///srv/../b", &["'..'"]),
        (&b, "b", &["\"url\"", "file:///"]),
        ("kind = \"sqlite\"", "kind = \"oracle\"", &["\"oracle\"", "sqlite"]),
        ("name = \"ledger\"", "name = \"Led ger\"", &["Led ger", "a-z"]),
        ("policy = \"default\"", "policy = \"nonesuch\"", &["ledger", "nonesuch.toml"]),
        ("id = \"", "id = \"x", &["\"id\"", "16 characters"]),
        ("id = \"", "# id = \"", &["id is missing", "recoup.json"]),
        ("\"age1", "\"AGE-SECRET-KEY-1QQPQ", &["recipient", "private key"]),
        ("\"age1", "\"age1age1", &["recipient", "age1age1"]),
        ("recipients = [", "recipients = [] # [", &["not TOML"]),
        ("[[source]]", "[[", &["not TOML"]),
        ("signing_key = \"host_ed25519\"", "signing_key = \"none\"", &["signing key", "none"]),
        ("allowed_signers = \"allowed_signers\"", "allowed_signers = \"none\"", &["trusted signers", "none"]),
        ("state_dir = \"state\"", "state_dir = \"none/state\"", &["state directory", "none/state"]),
    ];
    for (from, to, parts) in edits {
        house.edit_configuration(from, to);
        let refused = run(&mut house.recoup(["backup"]));
        let code = if parts[0].contains("sign") { 12 } else { 78 };
        let refused = assert_refused(refused, code, parts);
        assert!(!refused.stderr.contains("QQPQ") && !refused.stderr.contains("hidden"), "{refused:?}");
        assert_eq!(refused.stdout, "");
        fs::write(&path, &good).unwrap();
    }
    fs::write(&path, b"\xff\xfe").unwrap();
    assert_refused(run(&mut house.recoup(["backup"])), 78, &["recoup.toml"]);
    fs::write(&path, "").unwrap();
    assert_refused(run(&mut house.recoup(["backup"])), 78, &["recoup.toml"]);
    fs::write(&path, &good).unwrap();
    house.assert_restores("latest", &bytes);
}

#[test]
fn policies_that_cannot_be_right() {
    let (house, bytes) = House::new();
    let path = house.path("R/policies/default.toml");
    let good = fs::read_to_string(&path).unwrap();
    for (text, parts) in [
        ("[copies]\nmin_stores = 4\n", &["min_stores", "3"][..]),
        ("[copies]\nmin_stores = 0\n", &["min_stores"]),
        ("[copies]\nmin_store = 2\n", &["\"min_store\"", "\"min_stores\""]),
        ("rpo = \"soon\"\n", &["rpo"]),
        ("[schedule]\nfull = 7\n", &["full"]),
        ("rpo = \n", &["default.toml"]),
    ] {
        fs::write(&path, text).unwrap();
        assert_refused(run(&mut house.recoup(["backup"])), 78, parts);
    }
    fs::write(&path, &good).unwrap();
    house.assert_restores("latest", &bytes);
}

#[test]
fn command_lines_that_cannot_be_right() {
    let (house, bytes) = House::new();
    let restore = ["restore", "ledger", "--identity", "R/custodian.age", "--to", "out", "--target"];
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["backup", "nosuch"], 64, &["nosuch", "ledger"]),
        (&["list", "nosuch"], 64, &["nosuch", "ledger"]),
        (&["frobnicate"], 64, &["frobnicate"]),
        (&["backup", "--ful"], 64, &["--ful", "--full"]),
        (&["verify", "--frob"], 3, &["--frob"]),
        (&["restore", "ledger"], 64, &["--to"]),
        (&["restore", "../ledger", "--to", "out"], 64, &["../ledger"]),
        (&[&restore[..], &["tomorrow"]].concat(), 64, &["tomorrow", "snapshot:NUMBER"]),
        (&[&restore[..], &["2026-11-22T09:15:00"]].concat(), 64, &["2026-11-22T09:15:00", "offset"]),
        (&[&restore[..], &["snapshot:x"]].concat(), 64, &["snapshot:x"]),
        (&[&restore[..], &["snapshot:99999999999"]].concat(), 64, &["snapshot:99999999999"]),
        (&[&restore[..], &["latest", "--timeline", "0"]].concat(), 64, &["latest, current, or its number"]),
        (&[&restore[..], &["latest", "--timeline", "1"]].concat(), 64, &["--timeline is for sources of kind postgres"]),
        (&[&restore[..], &["snapshot:7"]].concat(), 16, &["ledger has no snapshot 7", "--target snapshot:1"]),
        (&[&restore[..], &["snapshot:0"]].concat(), 16, &["ledger has no snapshot 0", "--target snapshot:1"]),
        (&[&restore[..], &["2020-01-01T00:00:00Z"]].concat(), 16, &["before the first", "--target snapshot:1"]),
        (
            &["restore", "nosuch", "--identity", "R/custodian.age", "--to", "out"],
            64,
            &["no source nosuch", "ledger", "recoup --config R/recoup.toml list"],
        ),
        (
            &[&restore[..], &["latest", "--head", "0000000009-aaaaaaaaaaaaaaaa"]].concat(),
            17,
            &["0000000009-aaaaaaaaaaaaaaaa", "--head", "--target snapshot:0000000001-"],
        ),
    ];
    for (arguments, code, parts) in cases {
        let text = assert_refused(run(&mut house.recoup(arguments.iter().copied())), *code, parts);
        assert_eq!(text.stdout, "");
        let json = run(house.recoup(arguments.iter().copied()).arg("--json")).expect_code(*code);
        assert_error_object(&json, *code);
        assert!(!house.path("out").exists(), "{text:?}");
    }
    // After the newest one, a SQLite source gives the newest.
    house.assert_restores("2099-01-01T00:00:00Z", &bytes);
    house.assert_restores("snapshot:0000000001", &bytes);
}

/// The object that a script gets: `schema` first, and everything that the text says.
#[track_caller]
fn assert_error_object(run: &Run, code: i32) {
    assert!(run.stdout.starts_with("{\"schema\":\"recoup.error/1\","), "{run:?}");
    let error = run.json();
    assert_eq!(error["exit_code"], code, "{run:?}");
    for field in ["message", "safe", "next_step"] {
        assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {run:?}");
    }
}

#[test]
fn identities_that_open_nothing() {
    let (house, bytes) = House::new();
    let copy = |name: &str, bytes: &[u8], mode| {
        fs::write(house.path(name), bytes).unwrap();
        set_mode(&house.path(name), mode);
    };
    let own = fs::read(house.path("R/custodian.age")).unwrap();
    let (stranger, _) = recoup::format::seal::new_identity("now");
    copy("open.age", &own, 0o644);
    copy("group.age", &own, 0o640);
    copy("stranger.age", stranger.as_bytes(), 0o600);
    copy("empty.age", b"", 0o600);
    copy("text.age", b"hello\n", 0o600);
    copy("binary.age", b"\xff\xfe\x00", 0o600);
    copy("sealed.age", b"age-encryption.org/v1\n-> scrypt AAAA 18\n", 0o600);
    copy("armored.age", b"-----BEGIN AGE ENCRYPTED FILE-----\n", 0o600);
    copy("cut.age", &own[..own.len() - 20], 0o600);
    for (identity, parts) in [
        ("none.age", &["none.age", "No such file"][..]),
        ("R", &["no regular file"]),
        ("open.age", &["open.age", "0644", "chmod 600"]),
        ("group.age", &["group.age", "0640", "chmod 600"]),
        ("stranger.age", &["does not open", "recipients"]),
        ("empty.age", &["empty.age", "no age identity"]),
        ("text.age", &["text.age"]),
        ("binary.age", &["binary.age"]),
        ("sealed.age", &["passphrase", "RECOUP_IDENTITY_COMMAND"]),
        ("armored.age", &["passphrase", "RECOUP_IDENTITY_COMMAND"]),
        ("cut.age", &["cut.age"]),
        ("R/catalogue.age", &["does not open", "identity of a custodian"]),
        ("R/host_ed25519", &["does not open"]),
    ] {
        let arguments = ["restore", "ledger", "--to", "out", "--identity", identity];
        let refused = assert_refused(run(&mut house.recoup(arguments)), 12, parts);
        let secret = String::from_utf8_lossy(&own).lines().last().unwrap_or_default()[20..40].to_owned();
        assert!(!refused.stderr.contains(&secret), "{refused:?}");
        assert!(!house.path("out").exists(), "{refused:?}");
    }
    assert_refused(run(&mut house.recoup(["restore", "ledger", "--to", "out"])), 12, &["--identity"]);
    let mut failing = house.recoup(["restore", "ledger", "--to", "out"]);
    failing.env("RECOUP_IDENTITY_COMMAND", "echo AGE-SECRET-KEY-1QQPQ; exit 3");
    let failed = assert_refused(run(&mut failing), 12, &["RECOUP_IDENTITY_COMMAND"]);
    assert!(!failed.stderr.contains("QQPQ"), "{failed:?}");
    let mut working = house.recoup(["restore", "ledger", "--to", "by-command"]);
    run(working.env("RECOUP_IDENTITY_COMMAND", "cat R/custodian.age")).expect_code(0);
    assert_eq!(fs::read(house.path("by-command/ledger.db")).unwrap(), bytes);
    house.assert_restores("latest", &bytes);
}

#[test]
fn signers_of_another_repository() {
    let (house, bytes) = House::new();
    let (other, _) = House::new();
    let own = fs::read(house.path("R/allowed_signers")).unwrap();
    fs::copy(other.path("R/allowed_signers"), house.path("R/allowed_signers")).unwrap();
    let (mut restore, file) = house.restore("latest");
    assert_refused(run(&mut restore), 17, &["0000000001-", "not among the allowed signers", "R/recoup.toml verify"]);
    assert!(!file.exists());
    // A host that nobody trusts could only take snapshots that nobody can restore.
    assert_refused(run(&mut house.recoup(["backup"])), 78, &["not trusted for source ledger", "allowed_signers"]);
    run(&mut house.recoup(["verify"])).expect_code(2);
    run(&mut house.recoup(["copy"]));
    for (text, parts) in [
        (&b""[..], &["allowed_signers"][..]),
        (b"# nobody\n", &["allowed_signers"]),
        (b"nonsense\n", &["allowed_signers"]),
        (b"\xff\xfe", &["allowed_signers"]),
    ] {
        fs::write(house.path("R/allowed_signers"), text).unwrap();
        let (mut restore, file) = house.restore("latest");
        let refused = run(&mut restore);
        let code = refused.code;
        assert!(matches!(code, 12 | 17), "{refused:?}");
        assert_refused(refused, code, if code == 12 { parts } else { &["0000000001-"] });
        assert!(!file.exists());
    }
    fs::write(house.path("R/allowed_signers"), own).unwrap();
    house.assert_restores("latest", &bytes);
    house.change_and_backup();
}

#[test]
fn directories_that_are_not_empty() {
    let (house, bytes) = House::new();
    let into = |to: &str| run(&mut house.recoup(["restore", "ledger", "--identity", "R/custodian.age", "--to", to]));
    fs::create_dir(house.path("full")).unwrap();
    fs::write(house.path("full/precious"), "do not touch").unwrap();
    assert_refused(into("full"), 17, &["full", "precious", "--to"]);
    let dry_run = ["restore", "ledger", "--identity", "R/custodian.age", "--dry-run", "--to"];
    assert_refused(run(house.recoup(dry_run).arg("full")), 17, &["full", "precious", "--to"]);
    run(house.recoup(dry_run).arg("new")).expect_code(0);
    assert!(!house.path("new").exists());
    assert_refused(into("data/ledger.db"), 17, &["ledger.db", "no directory"]);
    assert_refused(into("data"), 17, &["ledger.db"]);
    std::os::unix::fs::symlink("nowhere", house.path("dangling")).unwrap();
    assert_refused(into("dangling"), 17, &["dangling", "no directory"]);
    assert_eq!(fs::read(house.path("full/precious")).unwrap(), b"do not touch");
    // What an interrupted restore left behind, whatever it is, is in nobody's way.
    fs::create_dir_all(house.path("left/.recoup-partial/deep/er")).unwrap();
    fs::write(house.path("left/.recoup-partial/ledger.db"), "half").unwrap();
    // As long as nobody else could have put it there.
    set_mode(&house.path("left/.recoup-partial"), 0o750);
    assert_refused(into("left"), 17, &["left", ".recoup-partial", "others may enter it", "--to"]);
    assert_eq!(fs::read(house.path("left/.recoup-partial/ledger.db")).unwrap(), b"half");
    set_mode(&house.path("left/.recoup-partial"), 0o700);
    into("left").expect_code(0);
    assert_eq!(fs::read(house.path("left/ledger.db")).unwrap(), bytes);
    fs::create_dir(house.path("linked")).unwrap();
    std::os::unix::fs::symlink(house.path("full"), house.path("linked/.recoup-partial")).unwrap();
    into("linked").expect_code(0);
    assert_eq!(fs::read(house.path("full/precious")).unwrap(), b"do not touch");
    fs::create_dir(house.path("empty")).unwrap();
    into("empty").expect_code(0);
    into("deep/er/still").expect_code(0);
    assert_eq!(fs::read(house.path("deep/er/still/ledger.db")).unwrap(), bytes);
    // A link to a directory is named, and not followed; plaintext does not go into a store.
    fs::create_dir(house.path("real")).unwrap();
    std::os::unix::fs::symlink("real", house.path("to-real")).unwrap();
    assert_refused(into("to-real"), 17, &["to-real", "link", house.path("real").to_str().unwrap()]);
    let held = house.inventory_of("b");
    for inside in ["b/plain", "b", "b/sources/../new/deep"] {
        assert_refused(into(inside), 17, &[inside, "store b", "--to"]);
    }
    assert_eq!(house.inventory_of("b"), held);
    assert_eq!(house.inventory_of("deep/er/still").len(), 1);
}

#[test]
fn two_restores_into_one_directory() {
    let (house, bytes) = House::new();
    fs::create_dir_all(house.path("out/.recoup-partial")).unwrap();
    set_mode(&house.path("out/.recoup-partial"), 0o700);
    fs::write(house.path("out/.recoup-partial/ledger.db"), "being written").unwrap();
    let staging = fs::File::open(house.path("out/.recoup-partial")).unwrap();
    staging.lock().unwrap();
    let restore = ["restore", "ledger", "--identity", "R/custodian.age", "--to", "out"];
    assert_refused(run(&mut house.recoup(restore)), 11, &["another restore", "out"]);
    assert_eq!(fs::read(house.path("out/.recoup-partial/ledger.db")).unwrap(), b"being written");
    drop(staging);
    run(&mut house.recoup(restore)).expect_code(0);
    assert_eq!(fs::read(house.path("out/ledger.db")).unwrap(), bytes);
}

#[test]
fn a_bare_host_with_one_store() {
    let (house, first) = House::new();
    let second = house.change_and_backup();
    let bare = tempfile::tempdir().unwrap();
    fs::create_dir(bare.path().join("K")).unwrap();
    for name in ["custodian.age", "custodian.age.signers", "recover.sh"] {
        fs::copy(house.path("R").join(name), bare.path().join("K").join(name)).unwrap();
    }
    for gone in ["R", "data", "b", "c"] {
        fs::remove_dir_all(house.path(gone)).unwrap();
    }
    let url = format!("file://{}", house.path("a").display());
    let command = |arguments: &[&str]| {
        let mut command = program(env!("CARGO_BIN_EXE_recoup"), bare.path());
        command.env_clear().args(arguments).args(["--store", &url]);
        command
    };
    let restore = ["restore", "ledger", "--identity", "K/custodian.age", "--to"];
    run(&mut command(&[&restore[..], &["OUT"]].concat())).expect_code(0);
    assert_eq!(fs::read(bare.path().join("OUT/ledger.db")).unwrap(), second);
    run(&mut command(&[&restore[..], &["FIRST", "--target", "snapshot:1", "--check"]].concat())).expect_code(0);
    assert_eq!(fs::read(bare.path().join("FIRST/ledger.db")).unwrap(), first);
    let listed = run(command(&["list", "--signers", "K/custodian.age.signers"]).arg("--json")).expect_code(0);
    assert_eq!(listed.json()["snapshots"].as_array().map(Vec::len), Some(2), "{listed:?}");
    let verified = run(command(&["verify", "--all", "--signers", "K/custodian.age.signers"]).arg("--json"));
    assert_eq!(verified.expect_code(0).json()["status"], "ok");
    // Without the signers nothing can be trusted.
    fs::remove_file(bare.path().join("K/custodian.age.signers")).unwrap();
    let refused = run(&mut command(&[&restore[..], &["NO"]].concat()));
    assert_refused(refused, 12, &["custodian.age.signers", "--signers"]);
    assert!(!bare.path().join("NO").exists());
    assert!(run(&mut command(&["list"])).code == 64);
}

#[test]
fn without_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("recoup.toml"), "never read: it lies in the working directory").unwrap();
    let refused = run(recoup(dir.path()).arg("backup"));
    assert_refused(refused, 78, &["there is no configuration", "/etc/recoup/recoup.toml", "recoup init"]);
    let refused = run(recoup(dir.path()).args(["--config", "no/such.toml", "backup"]));
    assert_refused(refused, 78, &["no/such.toml", "--config"]);
    let refused = run(recoup(dir.path()).env("RECOUP_CONFIG", "elsewhere.toml").arg("backup"));
    assert_refused(refused, 78, &["elsewhere.toml", "RECOUP_CONFIG"]);
    let refused = run(recoup(dir.path()).args(["--config", ".", "backup"]));
    assert_refused(refused, 78, &["cannot read", "not a regular file"]);
}

#[test]
fn reasons_have_one_line() {
    let (house, _) = House::new();
    let records = || {
        let listed = run(&mut house.recoup(["evidence", "list", "--json"])).expect_code(0).json();
        listed["records"].as_array().unwrap().len()
    };
    let before = records();
    for reason in
        ["case\n7", "case 7\n", "case\r7", "case\t7", "case\x1b[2J7", "case\u{85}7", "case\u{2028}7", "case\u{202e}7"]
    {
        for command in [&["hold", "add", "ledger"][..], &["backup"], &["copy"]] {
            let run = run(&mut house.recoup([command, &["--reason", reason]].concat())).expect_code(64);
            assert!(run.stderr.contains("--reason") && run.stderr.contains("on one line"), "{run:?}");
        }
    }
    assert_eq!(records(), before);
    run(&mut house.recoup(["hold", "add", "ledger", "--reason", "Müller, 'case' 7 \\"])).expect_code(0);
}

#[test]
fn restores_into_what_is_looked_after() {
    let (house, bytes) = House::new();
    let source = |name: &str, path: &str| {
        format!("\n[[source]]\nname = \"{name}\"\nkind = \"log\"\npath = \"{}\"\n", house.path(path).display())
    };
    let text = fs::read_to_string(house.path("R/recoup.toml")).unwrap();
    fs::write(house.path("R/recoup.toml"), text + &source("audit", "audit") + &source("deep", "deep/er/access"))
        .unwrap();
    fs::create_dir(house.path("audit")).unwrap();
    fs::write(house.path("audit/access.log"), "one line\n").unwrap();
    run(&mut house.recoup(["backup", "audit"])).expect_code(0);
    std::os::unix::fs::symlink("audit", house.path("link")).unwrap();
    fs::create_dir(house.path("R/state/empty")).unwrap();
    fs::create_dir(house.path("deep")).unwrap();
    let before = house.inventory_of("");
    let identity = ["--identity", "R/custodian.age", "--to"];
    let refused = |source: &str, to: &str, parts: &[&str]| {
        for dry_run in [&[][..], &["--dry-run"]] {
            let arguments = [&["restore", source][..], &identity, &[to], dry_run].concat();
            assert_refused(
                run(&mut house.recoup(arguments)),
                17,
                &[parts, &["next: name a directory", "--to"]].concat(),
            );
        }
        let drill =
            run(&mut house.recoup([&["drill", source, "--keep"][..], &identity, &[to]].concat())).expect_code(3);
        assert!(parts.iter().all(|part| drill.stderr.contains(part)), "{drill:?}");
    };
    refused("ledger", "audit/new", &["audit/new", "lies in source audit"]);
    refused("audit", "audit/new", &["audit/new", "lies in source audit"]);
    refused("ledger", "link/new", &["lies in source audit"]);
    // Those that are gone count as well, and so does what lies above them.
    refused("ledger", "deep/er/access/new", &["lies in source deep"]);
    refused("ledger", "deep", &["source deep", "lies in it"]);
    refused("audit", "deep/er", &["source deep", "lies in it"]);
    refused("ledger", "data/ledger.db/new", &["lies in source ledger"]);
    refused("ledger", "R/state/empty", &["state/empty", "lies in the state directory"]);
    refused("ledger", "R/state/new", &["state/new", "lies in the state directory"]);
    assert_eq!(house.inventory_of(""), before);
    fs::rename(house.path("b"), house.path("unmounted")).unwrap();
    refused("ledger", "b", &["store b lies in it"]);
    fs::rename(house.path("unmounted"), house.path("b")).unwrap();
    // A source may go back to where it was.
    fs::remove_dir_all(house.path("audit")).unwrap();
    refused("ledger", "audit", &["lies in source audit"]);
    run(&mut house.recoup([&["restore", "audit"][..], &identity, &["audit"]].concat())).expect_code(0);
    assert_eq!(fs::read_to_string(house.path("audit/access.log")).unwrap(), "one line\n");
    fs::remove_file(house.path("data/ledger.db")).unwrap();
    run(&mut house.recoup([&["restore", "ledger"][..], &identity, &["data"]].concat())).expect_code(0);
    assert_eq!(house.ledger(), bytes);
}
