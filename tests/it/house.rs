//! A whole installation in a temporary directory: configuration, keys, stores, and a ledger that the binary protects.

use crate::support::{Run, program, recoup, run};
use rusqlite::Connection;
use std::{
    cell::Cell,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// Where the binary, the ledger, the stores and the configuration are. Removed when dropped.
pub(crate) struct House {
    dir: TempDir,
    restores: Cell<u32>,
}

/// What every installation's stores are called, and their directories.
pub(crate) const STORES: [&str; 3] = ["a", "b", "c"];

impl House {
    /// A ledger and nothing else.
    pub(crate) fn unfounded() -> Self {
        let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        let house = House { dir, restores: Cell::new(0) };
        fs::create_dir(house.path("data")).unwrap();
        house.write_rows(300);
        house
    }

    /// Three stores, and no snapshot yet.
    pub(crate) fn founded() -> Self {
        let house = House::unfounded();
        run(&mut house.init()).expect_code(0);
        house
    }

    /// Three stores that hold one snapshot; with the ledger's bytes in it.
    pub(crate) fn new() -> (Self, Vec<u8>) {
        let house = House::founded();
        let bytes = house.backup();
        (house, bytes)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What founds it; the same command finishes what was begun.
    pub(crate) fn init(&self) -> Command {
        let mut command = recoup(self.dir.path());
        command.args(["init", "--config", "R/recoup.toml", "--new-identity", "R/custodian.age"]);
        for store in STORES {
            command.arg("--store").arg(format!("{store}=file://{}", self.path(store).display()));
        }
        command.arg("--source").arg(format!("ledger=sqlite:{}", self.path("data/ledger.db").display()));
        command
    }

    /// The binary with the configuration.
    pub(crate) fn recoup<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = recoup(self.dir.path());
        command.args(["--config", "R/recoup.toml"]).args(arguments);
        command
    }

    /// The same, ended after half a minute with exit code 124.
    pub(crate) fn limited(&self, arguments: &[&str]) -> Command {
        let mut command = program("timeout", self.dir.path());
        command.args(["30", env!("CARGO_BIN_EXE_recoup"), "--config", "R/recoup.toml"]).args(arguments);
        command
    }

    /// The binary as a user without rights: as it is, unless root runs the tests.
    ///
    /// Everything in the house belongs to that user from now on.
    pub(crate) fn unprivileged<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        if !is_root() {
            return self.recoup(arguments);
        }
        let binary = self.path("recoup");
        if !binary.exists() {
            let built = Path::new(env!("CARGO_BIN_EXE_recoup"));
            // A copy, not a link: its owner changes below.
            fs::copy(built, &binary).unwrap();
        }
        run(program("chown", self.dir.path()).args(["-R", "--no-dereference", "65534:65534", ".", "--"]))
            .expect_code(0);
        let mut command = program("setpriv", self.dir.path());
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
        command.arg(binary).args(["--config", "R/recoup.toml"]).args(arguments);
        command
    }

    /// Changes the ledger: that many rows more.
    pub(crate) fn write_rows(&self, rows: u32) {
        let ledger = Connection::open(self.path("data/ledger.db")).unwrap();
        let sql = "CREATE TABLE IF NOT EXISTS posting (id INTEGER PRIMARY KEY, amount_minor INTEGER, note BLOB);
            BEGIN;";
        ledger.execute_batch(sql).unwrap();
        for _ in 0..rows {
            ledger.execute("INSERT INTO posting (amount_minor, note) VALUES (random(), randomblob(150))", []).unwrap();
        }
        ledger.execute_batch("COMMIT").unwrap();
    }

    pub(crate) fn ledger(&self) -> Vec<u8> {
        fs::read(self.path("data/ledger.db")).unwrap()
    }

    /// Takes a snapshot that every store gets; returns the ledger's bytes in it.
    #[track_caller]
    pub(crate) fn backup(&self) -> Vec<u8> {
        run(&mut self.recoup(["backup"])).expect_code(0);
        self.ledger()
    }

    /// Changes the ledger a little and takes a snapshot.
    #[track_caller]
    pub(crate) fn change_and_backup(&self) -> Vec<u8> {
        self.write_rows(3);
        self.backup()
    }

    /// A command that restores into a directory that is not there yet, and the file that it makes.
    pub(crate) fn restore(&self, target: &str) -> (Command, PathBuf) {
        self.restores.set(self.restores.get() + 1);
        let to = format!("restored-{}", self.restores.get());
        let file = self.path(&to).join("ledger.db");
        let identity = ["--identity", "R/custodian.age"];
        let mut command = self.recoup(["restore", "ledger", "--to", &to, "--target", target]);
        command.args(identity);
        (command, file)
    }

    /// A snapshot is there, and it is right.
    #[track_caller]
    pub(crate) fn assert_restores(&self, target: &str, bytes: &[u8]) {
        let (mut command, file) = self.restore(target);
        let restored = run(&mut command);
        assert!(matches!(restored.code, 0 | 1), "{restored:?}");
        assert!(fs::read(&file).unwrap() == bytes, "{target} came back with other bytes");
    }

    /// Replaces text in the configuration.
    #[track_caller]
    pub(crate) fn edit_configuration(&self, from: &str, to: &str) {
        let path = self.path("R/recoup.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} does not stand in\n{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }

    /// Everything in the house but the stores' and the test's own files: names, types, sizes.
    pub(crate) fn inventory_of(&self, below: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.path(below), &mut found);
        found.sort();
        found
    }
}

fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_name() == "evidence" {
            // What commands leave on record, here and on the stores, is never what they are asked for.
            continue;
        }
        let metadata = entry.metadata().unwrap();
        found.push(format!("{} {:?} {}", entry.path().display(), metadata.file_type(), metadata.len()));
        if metadata.is_dir() {
            walk(&entry.path(), found);
        }
    }
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    recoup::world::user_id() == 0
}

/// A pipe with a name, which nobody writes to.
pub(crate) fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Copies a directory with everything in it.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A failure as an operator and a script need it: the exit code, what failed and why, what is safe, what to do next.
#[track_caller]
pub(crate) fn assert_refused(run: Run, code: i32, parts: &[&str]) -> Run {
    let run = run.expect_code(code);
    for part in parts.iter().chain(&["error: ", "\nsafe: ", "\nnext: "]) {
        assert!(run.stderr.contains(part), "{part:?} is missing in: {run:?}");
    }
    assert!(!run.stderr.contains("internal error") && !run.stderr.contains("panicked"), "{run:?}");
    run
}
