//! Where the demonstration plays: one directory, new or empty, and what stands where in it.

use crate::{
    core::failure::{Code, Failure},
    world::{self, files},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a demonstration takes at its largest, with room to spare.
const NEEDED_BYTES: u64 = 512 * 1024 * 1024;

/// The names of the three stores, and of their directories.
pub(super) const STORES: [&str; 3] = ["store-a", "store-b", "store-c"];

/// The directory of one demonstration.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    dir: PathBuf,
    /// Whether the directory itself is ours to remove.
    made: bool,
}

impl Stage {
    /// Takes `dir`, which must be new or empty, or makes a temporary directory.
    pub(super) fn set(dir: Option<&Path>) -> Result<Self, Failure> {
        let stage = match dir {
            Some(dir) => Stage::at(dir)?,
            None => Stage::temporary()?,
        };
        stage.check_room().inspect_err(|_| stage.clear())?;
        Ok(stage)
    }

    fn temporary() -> Result<Self, Failure> {
        let place = world::absolute(&world::temporary_dir());
        check_name(&place)?;
        let dir = tempfile::Builder::new()
            .prefix("recoup-demo-")
            .tempdir_in(&place)
            .map_err(|error| failed("make a directory in", &place, &error).next_step("recoup demo --dir DIR"))?;
        Ok(Stage { dir: dir.keep(), made: true })
    }

    fn at(dir: &Path) -> Result<Self, Failure> {
        check_name(dir)?;
        match fs::read_dir(dir).map(|mut entries| entries.next()) {
            Ok(None) => return Ok(Stage { dir: dir.to_owned(), made: false }),
            Ok(Some(_)) => return Err(refused(dir, "it is not empty")),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(refused(dir, "it is no directory"));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("look into", dir, &error)),
            Err(_) => {}
        }
        files::create_private_directories(dir).map_err(|error| failed("make", dir, &error))?;
        Ok(Stage { dir: dir.to_owned(), made: true })
    }

    fn check_room(&self) -> Result<(), Failure> {
        let available = files::free_bytes(&self.dir).map_err(|error| failed("look at", &self.dir, &error))?;
        if available >= NEEDED_BYTES {
            return Ok(());
        }
        let mib = |bytes: u64| bytes / (1024 * 1024);
        Err(Failure::new(Code::Refused, format!("there is no room for the demonstration in {}", self.dir.display()))
            .cause(format!("it needs {} MiB, and {} MiB are free", mib(NEEDED_BYTES), mib(available)))
            .safe("nothing was left behind")
            .next_step("recoup demo --dir DIR, with DIR where there is room"))
    }

    /// Removes everything that the demonstration made.
    pub(super) fn clear(&self) {
        let names = ["production", "host", "custodian", "evidence", "restored", "restored-audit", "report"];
        for name in names.iter().chain(&STORES) {
            let _ = fs::remove_dir_all(self.dir.join(name));
        }
        for file in [self.summary(), self.signature()] {
            let _ = fs::remove_file(file);
        }
        if self.made {
            let _ = fs::remove_dir(&self.dir);
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What will be lost.
    pub(super) fn production(&self) -> PathBuf {
        self.dir.join("production")
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.production().join("ledger.db")
    }

    pub(super) fn store(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The compliance log's directory.
    pub(super) fn audit(&self) -> PathBuf {
        self.production().join("audit")
    }

    /// A store as the configuration names it.
    pub(super) fn store_url(&self, name: &str) -> String {
        let path = self.store(name);
        let coded = path.display().to_string().bytes().fold(String::new(), |mut text, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => text.push(char::from(byte)),
                _ => text.push_str(&format!("%{byte:02x}")),
            }
            text
        });
        format!("file://{coded}")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("host").join("recoup.toml")
    }

    pub(super) fn identity(&self) -> PathBuf {
        self.dir.join("custodian").join("custodian.age")
    }

    /// The ledger as the disaster found it, kept to measure by; no command of the recovery reads it.
    pub(super) fn evidence(&self) -> PathBuf {
        self.dir.join("evidence").join("ledger-at-disaster.db")
    }

    pub(super) fn restored(&self) -> PathBuf {
        self.dir.join("restored")
    }

    /// The compliance log as it was before it was altered, kept to compare with.
    pub(super) fn audit_evidence(&self) -> PathBuf {
        self.dir.join("evidence").join("audit-before.log")
    }

    pub(super) fn restored_audit(&self) -> PathBuf {
        self.dir.join("restored-audit")
    }

    pub(super) fn report(&self) -> PathBuf {
        self.dir.join("report")
    }

    pub(super) fn report_page(&self) -> PathBuf {
        self.report().join("report.html")
    }

    pub(super) fn policy(&self, name: &str) -> PathBuf {
        self.dir.join("host").join("policies").join(format!("{name}.toml"))
    }

    pub(super) fn restored_ledger(&self) -> PathBuf {
        self.restored().join("ledger.db")
    }

    pub(super) fn summary(&self) -> PathBuf {
        self.dir.join("summary.json")
    }

    pub(super) fn signature(&self) -> PathBuf {
        self.dir.join("summary.json.sig")
    }

    pub(super) fn make(&self, dir: &Path) -> Result<(), Failure> {
        files::create_private_directories(dir).map_err(|error| failed("make", dir, &error))
    }

    pub(super) fn remove(&self, dir: &Path) -> Result<(), Failure> {
        fs::remove_dir_all(dir).map_err(|error| failed("remove", dir, &error))
    }

    /// The name of the largest file in a directory.
    pub(super) fn largest_file(&self, dir: &Path) -> Result<String, Failure> {
        let largest = || {
            let files = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
            let sized = files.into_iter().map(|file| Ok((file.metadata()?.len(), file.file_name())));
            let largest = sized.collect::<io::Result<Vec<_>>>()?.into_iter().max();
            largest.and_then(|(_, name)| name.into_string().ok()).ok_or_else(|| io::Error::other("it is empty"))
        };
        largest().map_err(|error| failed("read", dir, &error))
    }

    /// Flips one bit in the middle of a file.
    pub(super) fn flip_a_bit(&self, file: &Path) -> Result<(), Failure> {
        let flip = || {
            let mut bytes = fs::read(file)?;
            let middle = bytes.len() / 2;
            *bytes.get_mut(middle).ok_or_else(|| io::Error::other("it is empty"))? ^= 1;
            fs::write(file, bytes)
        };
        flip().map_err(|error| failed("damage", file, &error))
    }
}

/// A path that fits on one line of text.
fn check_name(dir: &Path) -> Result<(), Failure> {
    match dir.to_str() {
        Some(name) if !name.contains(char::is_control) => Ok(()),
        _ => Err(Failure::new(Code::Usage, format!("{} cannot be used", dir.display()))
            .cause("its name is not UTF-8, or has control characters in it")
            .safe("nothing was read or changed")
            .next_step("recoup demo --dir DIR")),
    }
}

fn refused(dir: &Path, why: &str) -> Failure {
    Failure::new(Code::Refused, format!("the demonstration does not play in {}", dir.display()))
        .cause(why)
        .safe("nothing was changed")
        .next_step("name a new or empty directory, or leave --dir out")
}

pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("cannot {what} {}", path.display())).cause(error)
}

/// A word that a shell reads as it is.
pub(super) fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-@:+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_and_empty_directories_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("deep/new");
        let stage = Stage::set(Some(&new)).unwrap();
        stage.make(&stage.production()).unwrap();
        fs::write(stage.summary(), "{}").unwrap();
        assert_eq!(Stage::set(Some(&new)).unwrap_err().code, Code::Refused);
        stage.clear();
        assert!(!new.exists());
        Stage::set(Some(dir.path().join("deep").as_path())).unwrap().clear();
        assert!(dir.path().join("deep").exists(), "it was there before");
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(Stage::set(Some(&file)).unwrap_err().code, Code::Refused);
        assert_eq!(Stage::set(Some(Path::new("/a\nb"))).unwrap_err().code, Code::Usage);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn names_survive_urls_and_shells() {
        let stage = Stage { dir: PathBuf::from("/a b/100%#é"), made: false };
        let url: crate::config::StoreUrl = stage.store_url("store-a").parse().unwrap();
        assert_eq!(*url.target(), crate::config::Target::Directory(stage.store("store-a")));
        for (text, word) in
            [("/tmp/x-1", "/tmp/x-1"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$HOME", "'$HOME'")]
        {
            assert_eq!(shell_word(text), word);
        }
    }
}
