//! `recover.sh`: restores with nothing but stock programs what `recoup restore` restores, and refuses what it refuses.

mod forge;
mod hostile;
mod targets;

use crate::{
    needs::{is_installed, needs},
    support::{LEDGER, Run, TestRepository, files_below, program, run},
};
use forge::Forge;
use recoup::{
    core::{id::SnapshotId, inventory::Kind},
    format::{
        seal::new_identity,
        signature::{HostKey, INVENTORY, REPORT},
    },
    ops::backup::Snapshot,
    repository::layout,
    world::{Random, SeededRandom},
};
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Something at a path: its kind, its mode (not a link's), and its bytes or where it points.
type Placed = (PathBuf, String);

/// A run of the script in the top directory of a store.
struct Recovery<'a> {
    repository: &'a TestRepository,
    store: &'a str,
    shell: &'a [&'a str],
    unsigned: bool,
    identity: PathBuf,
    out: PathBuf,
    path: Option<OsString>,
}

impl<'a> Recovery<'a> {
    fn of(repository: &'a TestRepository) -> Self {
        let (identity, out) = (repository.identity(), repository.path("recovered"));
        Recovery { repository, store: "a", shell: &["sh"], unsigned: false, identity, out, path: None }
    }

    /// Runs it with a scratch directory of its own, in which nothing may stay.
    fn run(&self, seq: impl std::fmt::Display) -> Run {
        let scratch = self.repository.path("scratch");
        fs::create_dir_all(&scratch).unwrap();
        let mut command = program(self.shell[0], &self.repository.store(self.store));
        command.args(&self.shell[1..]).arg("recover.sh").args(self.unsigned.then_some("--unsigned"));
        command.arg(LEDGER).arg(seq.to_string()).args([&self.identity, &self.out]).env("TMPDIR", &scratch);
        if self.shell[0] == "busybox" {
            command.env("PATH", busybox_path(self.repository));
        }
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let done = run(&mut command);
        assert_eq!(files_below(&scratch), Vec::<PathBuf>::new(), "{done:?}");
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "{done:?}");
        done
    }

    /// Runs it; it must restore, and what it restored is taken away.
    #[track_caller]
    fn restored(&self, seq: impl std::fmt::Display) -> Vec<Placed> {
        let done = self.run(seq).expect_code(0);
        assert!(done.stdout.is_empty(), "{done:?}");
        let found = placed_in(&self.out);
        fs::remove_dir_all(&self.out).unwrap();
        found
    }

    /// Runs it; it must fail, say `why`, and leave nothing behind.
    #[track_caller]
    fn refused(&self, seq: impl std::fmt::Display, why: &str) {
        let done = self.run(seq);
        assert!(done.code != 0 && done.code < 126, "{done:?}");
        assert!(done.stderr.contains(why), "{why:?} is not said: {done:?}");
        assert!(done.stderr.contains("nothing was restored"), "{done:?}");
        assert!(!self.out.exists(), "{done:?}");
    }
}

/// A PATH on which busybox stands for everything that it can be.
fn busybox_path(repository: &TestRepository) -> OsString {
    let dir = repository.path("applets");
    if !dir.exists() {
        fs::create_dir(&dir).unwrap();
        run(program("busybox", repository.path("").as_path()).args(["--install", "-s"]).arg(&dir)).expect_code(0);
    }
    let rest = recoup::world::environment("PATH").unwrap();
    format!("{}:{rest}", dir.display()).into()
}

fn placed_in(dir: &Path) -> Vec<Placed> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let what = if metadata.is_symlink() {
                format!("link to {:?}", fs::read_link(&path).unwrap())
            } else if metadata.is_dir() {
                open.push(path.clone());
                format!("directory {mode:04o}")
            } else {
                let bytes = fs::read(&path).unwrap();
                format!("file {mode:04o} {} {}", bytes.len(), recoup::format::sha256(&bytes))
            };
            found.push((path.strip_prefix(dir).unwrap().to_owned(), what));
        }
    }
    found.sort();
    found
}

/// What `recoup restore` makes of a snapshot.
fn restored_by_recoup(repository: &TestRepository, id: SnapshotId) -> Vec<Placed> {
    let out = repository.path("restored");
    repository.restore(id, &out);
    let found = placed_in(&out);
    fs::remove_dir_all(&out).unwrap();
    found
}

/// A small database: pages of random bytes, and some that are zero.
fn fill(repository: &TestRepository, random: &SeededRandom, rows: usize) {
    let mut connection = repository.sqlite(LEDGER);
    connection.execute_batch("pragma secure_delete = on; create table if not exists posting (body blob)").unwrap();
    let transaction = connection.transaction().unwrap();
    for _ in 0..rows {
        let mut body = vec![0; 3000];
        random.fill(&mut body);
        transaction.execute("insert into posting values (?1)", [&body]).unwrap();
    }
    transaction.commit().unwrap();
}

/// A full snapshot, an incremental one after changes and growth, and one after nothing.
fn history(repository: &TestRepository) -> [Snapshot; 3] {
    let random = SeededRandom::new("recover.sh");
    fill(repository, &random, 700);
    repository
        .sqlite(LEDGER)
        .execute_batch("pragma secure_delete = on; delete from posting where rowid % 90 < 5")
        .unwrap();
    fs::set_permissions(repository.database(LEDGER), PermissionsExt::from_mode(0o640)).unwrap();
    let pages = fs::read(repository.database(LEDGER)).unwrap();
    assert!(pages.chunks(4096).any(|page| page.iter().all(|byte| *byte == 0)), "no page is zero");
    let full = repository.backup();
    let connection = repository.sqlite(LEDGER);
    connection.execute_batch("update posting set body = randomblob(3000) where rowid % 31 = 7").unwrap();
    drop(connection);
    fill(repository, &random, 150);
    let incremental = repository.backup();
    let idle = repository.backup();
    let kinds = [&full, &incremental, &idle].map(|snapshot| snapshot.inventory.kind);
    assert_eq!(kinds, [Kind::Full, Kind::Incremental, Kind::Incremental]);
    assert_eq!(incremental.inventory.uses.len(), 2, "an incremental uses the full's objects and its own");
    assert_eq!(idle.inventory.manifest, incremental.inventory.manifest, "nothing changed");
    [full, incremental, idle]
}

fn assert_same_as_restore(repository: &TestRepository, shell: &[&str]) {
    for snapshot in history(repository) {
        let id = snapshot.head.id;
        let expected = restored_by_recoup(repository, id);
        assert!(expected[0].1.starts_with("file 0640 "), "{expected:?}");
        let recovery = Recovery { shell, ..Recovery::of(repository) };
        assert_eq!(recovery.restored(id), expected, "{shell:?}");
        assert_eq!(recovery.restored(id.seq), expected, "{shell:?}");
        let done = recovery.run(format!("000{}", id.seq)).expect_code(0);
        let lines: Vec<&str> = done.stderr.lines().collect();
        assert!(lines[0].starts_with("Good \"recoup-inventory\" signature for ledger@"), "{lines:?}");
        let packs = snapshot.inventory.uses.len();
        assert_eq!(lines.iter().filter(|line| line.starts_with("pack ")).count(), packs, "{lines:?}");
        fs::remove_dir_all(&recovery.out).unwrap();
    }
    assert_eq!(repository.verify().findings, [], "a store was altered");
}

#[test]
fn recover_sh_gives_what_restore_gives() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    assert_same_as_restore(&TestRepository::new(), &["sh"]);
}

#[test]
fn recover_sh_runs_in_busybox() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") || !needs("busybox") {
        return;
    }
    assert_same_as_restore(&TestRepository::with_stores(&["a"]), &["busybox", "sh"]);
}

#[test]
fn recover_sh_runs_from_elsewhere_and_in_other_shells() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let repository = TestRepository::with_stores(&["a"]);
    let id = history(&repository)[1].head.id;
    let expected = restored_by_recoup(&repository, id);
    for shell in [&["dash"][..], &["bash"], &["bash", "--posix"], &["ksh"], &["mksh"]] {
        if is_installed(shell[0]) {
            assert_eq!(Recovery { shell, ..Recovery::of(&repository) }.restored(id), expected, "{shell:?}");
        }
    }
    // The script in its store, from anywhere; relative paths; an empty directory; and the custodian's own copy.
    let [script, copy] = [repository.store("a"), repository.path("custodian")].map(|dir| dir.join("recover.sh"));
    assert_eq!(fs::read(&script).unwrap(), fs::read(&copy).unwrap());
    for (name, dir, script) in [("one", repository.path(""), script), ("two", repository.store("a"), copy)] {
        let out = dir.join(name);
        fs::create_dir(&out).unwrap();
        let identity = pathdiff(&repository.identity(), &dir);
        let mut command = program("sh", &dir);
        command.arg(&script).args(["ledger", "2"]).arg(identity).arg(name);
        let done = run(&mut command).expect_code(0);
        assert_eq!(placed_in(&out), expected);
        assert_eq!(done.stderr.contains("lies inside the store"), name == "two", "{done:?}");
        fs::remove_dir_all(&out).unwrap();
    }
    let mut astray = program("sh", &repository.path(""));
    let astray = run(astray
        .arg(repository.path("custodian/recover.sh"))
        .args(["ledger", "2"])
        .args([repository.identity(), "out".into()]));
    assert!(astray.expect_code(1).stderr.contains("there is no recoup.json here"));
}

/// `path` as seen from `dir`, both in the repository's directory.
fn pathdiff(path: &Path, dir: &Path) -> PathBuf {
    let below = path.parent().and_then(Path::parent).unwrap();
    let inner = path.strip_prefix(below).unwrap();
    if dir.strip_prefix(below).unwrap() == Path::new("") { inner.to_owned() } else { Path::new("..").join(inner) }
}

#[test]
fn recover_sh_refuses_bad_usage() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let repository = TestRepository::with_stores(&["a"]);
    repository.sqlite(LEDGER).execute_batch("create table posting (body)").unwrap();
    let id = repository.backup().head.id;
    let recovery = Recovery::of(&repository);
    for (seq, why) in [
        ("2", "0000000001-"),
        ("0", "SEQ is not"),
        ("", "SEQ is not"),
        ("latest", "SEQ is not"),
        ("12345678901", "SEQ is not"),
        ("1-", "SEQ is not"),
        ("1-../../../../x", "SEQ is not"),
        ("$(touch pwned)", "SEQ is not"),
        ("1-aaaaaaaaaaaaaaaa", "has no snapshot 0000000001-aaaaaaaaaaaaaaaa"),
    ] {
        recovery.refused(seq, why);
    }
    let bad_arguments: [&[&str]; 5] =
        [&[], &["ledger", "1", "key"], &["--what", "ledger", "1", "k", "o"], &["--help"], &["a", "b", "c", "d", "e"]];
    for arguments in bad_arguments {
        let done = run(program("sh", &repository.store("a")).arg("recover.sh").args(arguments)).expect_code(64);
        assert!(done.stderr.starts_with("usage: "), "{done:?}");
    }
    for source in ["../x", "", "Ledger", "wallet"] {
        let identity = repository.identity();
        let arguments = ["recover.sh", source, "1", identity.to_str().unwrap(), "out"];
        run(program("sh", &repository.store("a")).args(arguments)).expect_code(1);
    }
    // A target that holds something is not touched, whatever it is.
    fs::create_dir(&recovery.out).unwrap();
    fs::write(recovery.out.join(".kept"), "kept").unwrap();
    assert!(recovery.run(1).expect_code(1).stderr.contains("is not empty"));
    assert_eq!(fs::read(recovery.out.join(".kept")).unwrap(), b"kept");
    fs::remove_dir_all(&recovery.out).unwrap();
    fs::write(&recovery.out, "a file").unwrap();
    assert!(recovery.run(1).expect_code(1).stderr.contains("is no directory"));
    fs::remove_file(&recovery.out).unwrap();
    let missing = Recovery { identity: repository.path("nowhere"), ..Recovery::of(&repository) };
    missing.refused(1, "cannot be read");
    recovery.restored(id);
}

#[test]
fn recover_sh_trusts_nobody_but_the_signers() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let repository = TestRepository::with_stores(&["a"]);
    let id = history(&repository)[1].head.id;
    let expected = restored_by_recoup(&repository, id);
    let recovery = Recovery::of(&repository);
    let unsigned = Recovery { unsigned: true, ..Recovery::of(&repository) };
    let forge = Forge::new(&repository, id);
    let stranger = HostKey::generate([9; 32], "stranger");

    // What the store says of who signed it.
    let genuine = forge.inventory_bytes();
    let own = repository.host().key;
    let signature = layout::snapshot_object(id, layout::SIGNATURE);
    let cases: [(&str, Option<String>); 5] = [
        ("inventory.json.sig is missing", None),
        ("is not signed by a trusted signer", Some("rubbish".into())),
        ("is not signed by a trusted signer", Some(stranger.sign(INVENTORY, &genuine))),
        ("is not signed by a trusted signer", Some(own.sign(REPORT, &genuine))),
        ("is not signed by a trusted signer", Some(own.sign(INVENTORY, b"something else"))),
    ];
    for (why, text) in cases {
        match &text {
            Some(text) => forge.write(&signature, text.as_bytes()),
            None => fs::remove_file(repository.object("a", &signature)).unwrap(),
        }
        recovery.refused(id, why);
        assert_eq!(unsigned.restored(id), expected, "{text:?}");
    }
    forge.write(&signature, own.sign(INVENTORY, &genuine).as_bytes());
    assert_eq!(recovery.restored(id), expected);
    let edited = String::from_utf8(genuine.clone()).unwrap().replace("\"incremental\"", "\"full\"");
    forge.write(&layout::snapshot_object(id, layout::INVENTORY), edited.as_bytes());
    recovery.refused(id, "is not signed by a trusted signer");
    forge.write(&layout::snapshot_object(id, layout::INVENTORY), &genuine);

    // What the custodian says of whom to trust.
    let signers = recoup::config::signers_beside(&repository.identity());
    let trusted = fs::read_to_string(&signers).unwrap();
    let repository_id = repository.host().repository.id;
    for (text, why) in [
        (stranger.signers_line("*", &[INVENTORY]), "is not signed by a trusted signer"),
        (own.signers_line(&format!("wallet@{repository_id}"), &[INVENTORY]), "is not signed by a trusted signer"),
        (own.signers_line("*@aaaaaaaaaaaaaaaa", &[INVENTORY]), "is for another one"),
        (own.signers_line(&format!("*@{repository_id}"), &[REPORT]), "is not signed by a trusted signer"),
        (String::new(), "is not signed by a trusted signer"),
    ] {
        fs::write(&signers, text + "\n").unwrap();
        recovery.refused(id, why);
    }
    fs::remove_file(&signers).unwrap();
    recovery.refused(id, "--unsigned does without");
    assert_eq!(unsigned.restored(id), expected);
    assert!(unsigned.run(id).stderr.contains("WARNING"));
    fs::remove_dir_all(&unsigned.out).unwrap();
    fs::write(&signers, &trusted).unwrap();

    // Another custodian's identity, whose signers are right.
    let other = repository.path("other.age");
    fs::write(&other, new_identity("now").0).unwrap();
    fs::copy(&signers, recoup::config::signers_beside(&other)).unwrap();
    Recovery { identity: other, ..Recovery::of(&repository) }.refused(id, "cannot be opened with");
    assert_eq!(recovery.restored(id), expected);
}

#[test]
fn recover_sh_wants_an_inventory_where_it_belongs() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let repository = TestRepository::with_stores(&["a"]);
    let [full, incremental, _] = history(&repository).map(|snapshot| snapshot.head.id);
    let recovery = Recovery::of(&repository);
    let forge = Forge::new(&repository, incremental);
    let expected = restored_by_recoup(&repository, incremental);

    // The same inventory under another number, as if it were newer, and in another repository.
    let moved = SnapshotId { seq: 9, run: incremental.run };
    for name in [layout::INVENTORY, layout::SIGNATURE] {
        let bytes = fs::read(repository.object("a", &layout::snapshot_object(incremental, name))).unwrap();
        forge.write(&layout::snapshot_object(moved, name), &bytes);
    }
    recovery.refused(9, "it is of another snapshot than its path says");
    let head = repository.store("a").join(layout::REPOSITORY);
    let genuine = fs::read_to_string(&head).unwrap();
    let id = repository.host().repository.id.to_string();
    for (text, why) in [
        (genuine.replace(&id, "aaaaaaaaaaaaaaaa"), "is for another one"),
        (genuine.replace("\"format_version\": 1", "\"format_version\": 2"), "another format"),
        (genuine.replace(&id, "$(touch pwned)"), "its repository id is none"),
        ("[]".into(), "it is no recoup.json"),
        (String::new(), "recoup.json"),
    ] {
        assert_ne!(text, genuine);
        fs::write(&head, text).unwrap();
        recovery.refused(incremental, why);
    }
    fs::write(&head, genuine).unwrap();

    // A fork: both are named, each can be restored, and a planted one is told apart.
    let fork = forge.fork(full.run, true);
    let planted = forge.fork("bbbbbbbbbbbbbbbb".parse().unwrap(), false);
    let done = recovery.run(incremental.seq).expect_code(1);
    for (id, remark) in [(incremental, "signed"), (fork, "signed"), (planted, "NOT SIGNED")] {
        assert!(done.stderr.contains(&format!("  {id}  ({remark} by a trusted signer)")), "{done:?}");
        let opens = Recovery::of(&repository);
        if id == planted {
            opens.refused(id, "is not signed by a trusted signer");
        } else {
            assert_eq!(opens.restored(id), expected);
        }
    }
    assert!(!recovery.out.exists());
}

#[test]
fn recover_sh_names_what_is_damaged_or_missing() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let repository = TestRepository::new();
    let [full, incremental, _] = history(&repository).map(|snapshot| snapshot.head.id);
    let recovery = Recovery::of(&repository);
    let expected = restored_by_recoup(&repository, incremental);
    let of = |run, name: &str| layout::run_object(run, name);
    let (old, new) = (full.run, incremental.run);
    let mut needed = vec![layout::manifest_root(incremental), layout::snapshot_object(incremental, layout::INVENTORY)];
    for name in ["objects.json", "index.age", "0.age"] {
        needed.extend([of(old, name), of(new, name)]);
    }
    needed.push(of(new, "m0.age"));
    for name in needed {
        let path = repository.object("a", &name);
        let genuine = fs::read(&path).unwrap();
        let shown = name.rsplit('/').next().unwrap();
        let mut flipped = genuine.clone();
        flipped[genuine.len() / 2] ^= 4;
        let cut = genuine[..genuine.len() - 1].to_vec();
        for bytes in [flipped, cut] {
            fs::write(&path, bytes).unwrap();
            recovery.refused(incremental, shown);
        }
        fs::remove_file(&path).unwrap();
        recovery.refused(incremental, if shown == layout::INVENTORY { "has no snapshot" } else { shown });
        // As the script says: the same file of another store will do.
        fs::copy(repository.object("b", &name), &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), genuine);
    }
    assert_eq!(recovery.restored(incremental), expected);
}

/// Programs in front of the real ones, which count their calls and do something else at one of them.
struct FailingTools<'a> {
    repository: &'a TestRepository,
    tools: &'a [&'a str],
}

impl FailingTools<'_> {
    fn dir(&self) -> PathBuf {
        self.repository.path("failing")
    }

    /// Arms one tool; the PATH to use.
    fn arm(&self, failing: &str, at_call: u64, then: &str) -> OsString {
        let dir = self.dir();
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        for tool in self.tools {
            let calls = dir.join(format!("{tool}.calls"));
            let mut script = format!("#!/bin/sh\nPATH=${{PATH#*:}}\necho >>{}\n", calls.display());
            if *tool == failing {
                script.push_str(&format!("[ $(grep -c '' {}) != {at_call} ] || {then}\n", calls.display()));
            }
            script.push_str(&format!("exec {tool} \"$@\"\n"));
            fs::write(dir.join(tool), script).unwrap();
            fs::set_permissions(dir.join(tool), PermissionsExt::from_mode(0o755)).unwrap();
        }
        format!("{}:{}", dir.display(), recoup::world::environment("PATH").unwrap()).into()
    }

    fn calls(&self, tool: &str) -> u64 {
        let counted = fs::read_to_string(self.dir().join(format!("{tool}.calls"))).unwrap_or_default();
        counted.lines().count() as u64
    }
}

#[test]
fn recover_sh_leaves_nothing_when_a_program_fails_or_it_is_stopped() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let repository = TestRepository::with_stores(&["a"]);
    repository.sqlite(LEDGER).execute_batch("create table posting (body)").unwrap();
    let id = repository.backup().head.id;
    let forge = Forge::new(&repository, id);
    let entry = |path: &str, rest: &str| {
        format!("{{\"entry\":{{\"path\":\"{path}\",\"mode\":\"0500\",\"uid\":0,\"gid\":0,\"kind\":{rest}}}}}\n")
    };
    let more = entry("top", "\"directory\"") + &entry("top/link", "\"link\",\"target\":\"x\"");
    forge.replace("m0.age", (forge.part() + &more).as_bytes());
    let expected = restored_by_recoup(&repository, id);
    let tools = [
        "age",
        "zstd",
        "jq",
        "ssh-keygen",
        "sha256sum",
        "dd",
        "mv",
        "ln",
        "mkdir",
        "chmod",
        "sort",
        "cut",
        "cat",
        "sync",
    ];
    let failing = FailingTools { repository: &repository, tools: &tools };
    let path = Some(failing.arm("none", 0, ""));
    assert_eq!(Recovery { path, ..Recovery::of(&repository) }.restored(id), expected);
    let last = |tool| {
        let calls = failing.calls(tool);
        assert!(calls > 0, "{tool} is not used");
        // Once all is done the script makes what it removes writable.
        if tool == "chmod" { 2 } else { calls }
    };
    let mut cases: Vec<(&str, u64, &str, i32)> = tools.map(|tool| (tool, last(tool), "exit 1", 1)).to_vec();
    cases.extend(["age", "dd", "mkdir", "mv"].map(|tool| (tool, 1, "exit 1", 1)));
    let stop = "{ kill -TERM $PPID; sleep 1; }";
    cases.extend(["dd", "mv", "chmod", "sync"].map(|tool| (tool, last(tool), stop, 143)));
    for (tool, at_call, then, code) in cases {
        let path = Some(failing.arm(tool, at_call, then));
        let recovery = Recovery { path, ..Recovery::of(&repository) };
        let done = recovery.run(id);
        assert_eq!(done.code, code, "call {at_call} of {tool}: {then}: {done:?}");
        assert!(!recovery.out.exists(), "call {at_call} of {tool}: {then}: {done:?}");
    }
}
