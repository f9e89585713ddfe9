//! A directory of logs with two stores and a custodian.

use crate::{
    house::is_root,
    support::{program, recoup, run},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// Logs in `logs`, stores `a` and `b`, the configuration in `R`. Removed when dropped.
pub(super) struct Archive {
    dir: tempfile::TempDir,
    restores: AtomicU32,
}

impl Archive {
    pub(super) fn new() -> Self {
        let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        fs::create_dir(dir.path().join("logs")).unwrap();
        let archive = Archive { dir, restores: AtomicU32::new(0) };
        let mut command = recoup(archive.dir.path());
        command.args(["init", "--config", "R/recoup.toml", "--new-identity", "R/custodian.age"]);
        for store in ["a", "b"] {
            command.arg(format!("--store={store}=file://{}", archive.path(store).display()));
        }
        command.arg(format!("--source=audit=log:{}", archive.path("logs").display()));
        run(&mut command).expect_code(0);
        archive
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.dir.path().to_owned() } else { self.dir.path().join(name) }
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.path("logs").join(name)
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.log(name).parent().unwrap()).unwrap();
        fs::write(self.log(name), bytes).unwrap();
    }

    pub(super) fn append(&self, name: &str, bytes: &[u8]) {
        use std::io::Write;
        fs::OpenOptions::new().append(true).open(self.log(name)).unwrap().write_all(bytes).unwrap();
    }

    pub(super) fn rename(&self, from: &str, to: &str) {
        fs::create_dir_all(self.log(to).parent().unwrap()).unwrap();
        fs::rename(self.log(from), self.log(to)).unwrap();
    }

    pub(super) fn recoup(&self, arguments: &[&str]) -> Command {
        let mut command = recoup(self.dir.path());
        command.args(["--config", "R/recoup.toml"]).args(arguments);
        command
    }

    /// The same as a user without rights, to whom everything belongs already.
    pub(super) fn unprivileged(&self, arguments: &[&str]) -> Command {
        if !is_root() {
            return self.recoup(arguments);
        }
        let binary = self.path("recoup");
        if !binary.exists() {
            fs::copy(env!("CARGO_BIN_EXE_recoup"), &binary).unwrap();
        }
        let mut command = program("setpriv", self.dir.path());
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
        command.arg(binary).args(["--config", "R/recoup.toml"]).args(arguments);
        command
    }

    #[track_caller]
    pub(super) fn backup_json(&self, code: i32) -> serde_json::Value {
        run(&mut self.recoup(&["backup", "audit", "--json"])).expect_code(code).json()
    }

    /// Takes a snapshot; gives its entry.
    #[track_caller]
    pub(super) fn backup(&self, code: i32) -> serde_json::Value {
        self.backup_json(code)["snapshots"][0].clone()
    }

    /// Sets a key of the source.
    pub(super) fn set(&self, key: &str, value: &str) {
        let text = fs::read_to_string(self.path("R/recoup.toml")).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.trim_start_matches("# ").starts_with(key)).collect();
        fs::write(self.path("R/recoup.toml"), format!("{}\n{key} = \"{value}\"\n", kept.join("\n"))).unwrap();
    }

    #[track_caller]
    pub(super) fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("R/recoup.toml")).unwrap();
        assert!(text.contains(from), "{from} does not stand in\n{text}");
        fs::write(self.path("R/recoup.toml"), text.replacen(from, to, 1)).unwrap();
    }

    /// Protects another directory of logs; its signer's line is that of the first.
    pub(super) fn add_source(&self, name: &str, directory: &str) {
        let text = fs::read_to_string(self.path("R/recoup.toml")).unwrap();
        let path = self.path(directory);
        let source = format!("\n[[source]]\nname = \"{name}\"\nkind = \"log\"\npath = \"{}\"\n", path.display());
        fs::write(self.path("R/recoup.toml"), text + &source).unwrap();
        for signers in ["R/allowed_signers", "R/custodian.age.signers"] {
            let text = fs::read_to_string(self.path(signers)).unwrap();
            let more: String =
                text.lines().map(|line| format!("{}\n", line.replace("audit@", &format!("{name}@")))).collect();
            fs::write(self.path(signers), text + &more).unwrap();
        }
    }

    /// Restores a snapshot into a new directory.
    #[track_caller]
    pub(super) fn restore(&self, seq: u64, more: &[&str]) -> PathBuf {
        let number = self.restores.fetch_add(1, Ordering::Relaxed);
        let to = format!("restored-{number}");
        let target = format!("snapshot:{seq}");
        let arguments = ["restore", "audit", "--to", &to, "--target", &target, "--identity", "R/custodian.age"];
        run(self.recoup(&arguments).args(more)).expect_code(0);
        self.path(&to)
    }

    /// What a snapshot holds.
    #[track_caller]
    pub(super) fn restored(&self, seq: u64) -> BTreeMap<PathBuf, Vec<u8>> {
        contents_of(&self.restore(seq, &[]))
    }

    /// What the logs hold.
    pub(super) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        contents_of(&self.path("logs"))
    }

    /// A snapshot holds what the logs hold now.
    #[track_caller]
    pub(super) fn assert_restores(&self, snapshot: &serde_json::Value) {
        let restored = self.restored(snapshot["seq"].as_u64().unwrap());
        assert!(restored == self.contents(), "{snapshot} is not what was there");
    }
}

/// The regular files below a directory and their bytes.
pub(super) fn contents_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                let name = entry.path().strip_prefix(dir).unwrap().to_owned();
                contents.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    contents
}

/// `bytes` bytes of numbered lines that compress as logs do.
pub(super) fn lines(seed: &str, bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 100);
    for number in 0_u64.. {
        if text.len() >= bytes {
            break;
        }
        let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text.extend(format!("{seed} {number:09} {id:016x} somebody did something\n").bytes());
    }
    text.truncate(bytes);
    text
}

/// Flips a bit of a byte in its place.
pub(super) fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}
