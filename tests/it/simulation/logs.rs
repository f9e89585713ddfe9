//! A directory of logs with its writer: it appends, rotates, compresses and removes what is old enough.

use super::{
    content::{Files, read_tree},
    random::Rng,
};
use recoup::{
    sources::log::{Log, Rules},
    world::World,
};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

/// From which age on the writer removes files.
const EXPIRE_AFTER: Duration = Duration::from_secs(7 * 86_400);
/// What is altered is at least so far from that age, and is found until then.
const MARGIN: Duration = Duration::from_secs(86_400);
/// A file system gives two changes within less one time.
const TICK: Duration = Duration::from_millis(12);

const LOGS: [&str; 2] = ["app.log", "trade/web.log"];

/// The logs and their writer.
pub(crate) struct Logs {
    directory: tempfile::TempDir,
    world: World,
    written: u64,
    /// The second half of what is done in two steps: a snapshot may see the first alone.
    half: Option<Half>,
}

/// What a snapshot captures of logs.
#[derive(Clone)]
pub(crate) struct Captured {
    pub(crate) files: Files,
    /// Since 1970.
    modified: BTreeMap<String, Duration>,
}

/// What follows on a copy.
enum Half {
    Truncate(String),
    Remove(String),
}

impl Logs {
    /// An empty directory; `world` has the clock of the host whose logs they are.
    pub(crate) fn new(world: World) -> Self {
        let logs = Logs { directory: tempfile::tempdir().unwrap(), world, written: 0, half: None };
        fs::create_dir(logs.path("trade")).unwrap();
        logs
    }

    /// The source.
    pub(crate) fn source(&self) -> Arc<Log> {
        let rules = Rules { expire_after: Some(EXPIRE_AFTER), reread_every: Duration::from_secs(86_400) };
        Arc::new(Log::new(self.directory.path(), rules, self.world.clone()))
    }

    /// What the directory holds.
    pub(crate) fn files(&self) -> Files {
        read_tree(self.directory.path())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Time since 1970 by the host's clock.
    fn now(&self) -> Duration {
        Duration::from_millis(self.world.now().as_datetime().timestamp_millis().try_into().unwrap())
    }

    /// All that a snapshot captures now.
    pub(crate) fn captured(&self) -> Captured {
        let files = self.files();
        let modified = files.keys().map(|name| (name.clone(), self.modified(name))).collect();
        Captured { files, modified }
    }

    fn modified(&self, name: &str) -> Duration {
        let modified = fs::metadata(self.path(name)).unwrap().modified().unwrap();
        modified.duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }

    fn age(&self, name: &str) -> Duration {
        self.now().saturating_sub(self.modified(name))
    }

    fn set_modified(&self, name: &str, since_1970: Duration) {
        let file = OpenOptions::new().append(true).open(self.path(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + since_1970).unwrap();
    }

    fn append(&mut self, name: &str, lines: u64) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        let mut text = String::new();
        for number in self.written..self.written + lines {
            text.push_str(&format!("{number:010} {name} {:016x}\n", Rng::new(number).next()));
        }
        file.write_all(text.as_bytes()).unwrap();
        self.written += lines;
        self.set_modified(name, self.now());
    }

    /// The rotated files of a log with their numbers, the newest first.
    fn rotated(&self, log: &str) -> Vec<(u32, String)> {
        let prefix = format!("{log}.");
        let number = |name: &str| name.strip_prefix(&prefix)?.split('.').next()?.parse::<u32>().ok();
        let mut rotated: Vec<_> =
            self.files().into_keys().filter_map(|name| number(&name).map(|number| (number, name))).collect();
        rotated.sort();
        rotated
    }

    /// Makes room for the number 1.
    fn shift(&self, log: &str) {
        for (number, name) in self.rotated(log).into_iter().rev() {
            let next = name.replacen(&format!("{log}.{number}"), &format!("{log}.{}", number + 1), 1);
            fs::rename(self.path(&name), self.path(&next)).unwrap();
        }
    }

    fn compress(&mut self, name: &str, rng: &mut Rng) -> String {
        let bytes = fs::read(self.path(name)).unwrap();
        let (packed, to) = if rng.percent(70) {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&bytes).unwrap();
            (encoder.finish().unwrap(), format!("{name}.gz"))
        } else {
            (zstd::encode_all(&bytes[..], 1).unwrap(), format!("{name}.zst"))
        };
        fs::write(self.path(&to), packed).unwrap();
        self.set_modified(&to, self.modified(name));
        self.half = Some(Half::Remove(name.to_owned()));
        to
    }

    fn finish(&self, half: Half) -> String {
        match half {
            Half::Truncate(log) => {
                OpenOptions::new().write(true).truncate(true).open(self.path(&log)).unwrap();
                self.set_modified(&log, self.now());
                format!("{log} is truncated")
            }
            Half::Remove(name) => {
                fs::remove_file(self.path(&name)).unwrap();
                format!("{name} is removed")
            }
        }
    }

    /// Removes what is old enough; says what.
    ///
    /// Where a log was copied and truncated since the last snapshot, its copies must outlast the next one: without
    /// them nobody can tell it from one that was only truncated.
    fn expire(&self, log: &str, captured: &Files) -> String {
        let live = fs::read(self.path(log)).unwrap_or_default();
        if captured.get(log).is_some_and(|before| !live.starts_with(before)) {
            return format!("{log} was rotated since the last snapshot");
        }
        let old: Vec<String> = self.rotated(log).into_iter().map(|(_, name)| name).collect();
        let old: Vec<String> = old.into_iter().filter(|name| self.age(name) >= EXPIRE_AFTER).collect();
        old.iter().for_each(|name| fs::remove_file(self.path(name)).unwrap());
        format!("removed as expired: {old:?}")
    }

    /// One step of a writer and of who rotates for it; says what it was. What is expired goes only where it is said
    /// what was captured.
    pub(crate) fn go_on(&mut self, captured: Option<&Files>, rng: &mut Rng) -> String {
        if let Some(half) = self.half.take() {
            return self.finish(half);
        }
        let log = *rng.pick(&LOGS);
        match rng.below(100) {
            0..45 => {
                let lines = 1 + rng.below(300);
                self.append(log, lines);
                format!("{lines} lines more in {log}")
            }
            45..62 if self.path(log).exists() => {
                self.shift(log);
                fs::rename(self.path(log), self.path(&format!("{log}.1"))).unwrap();
                let late = rng.below(3) * 5;
                if late > 0 {
                    self.append(&format!("{log}.1"), late);
                }
                if rng.percent(70) {
                    self.append(log, late);
                }
                format!("{log} is rotated, {late} lines come late")
            }
            62..76 if self.path(log).exists() => {
                self.shift(log);
                let copy = format!("{log}.1");
                fs::copy(self.path(log), self.path(&copy)).unwrap();
                self.set_modified(&copy, self.now());
                self.half = Some(Half::Truncate(log.to_owned()));
                if rng.percent(40) {
                    return format!("{log} is copied");
                }
                self.half.take().into_iter().for_each(|half| drop(self.finish(half)));
                if rng.percent(50) {
                    let lines = rng.below(400);
                    self.append(log, lines);
                }
                format!("{log} is copied and truncated")
            }
            76..90 => {
                let plain = self.rotated(log).into_iter().map(|(_, name)| name);
                let plain: Vec<String> = plain.filter(|name| !name.ends_with('z') && !name.ends_with("st")).collect();
                if plain.is_empty() {
                    return format!("nothing of {log} to compress");
                }
                let from = rng.pick(&plain).clone();
                let to = self.compress(&from, rng);
                if rng.percent(60) {
                    self.half.take().into_iter().for_each(|half| drop(self.finish(half)));
                }
                format!("{from} is compressed to {to}")
            }
            _ => captured.map_or_else(|| "the writer rests".to_owned(), |captured| self.expire(log, captured)),
        }
    }

    /// Alters something that was captured, as nobody may: returns the file, and what was done.
    pub(crate) fn alter(&self, captured: &Captured, rng: &mut Rng) -> Option<(String, String)> {
        // Of what was captured twice, one may go.
        let is_twice = |name: &str, before: &[u8]| {
            let is_copy = |other: &Vec<u8>| other.starts_with(before) || before.starts_with(other);
            let is_packed =
                |other: &str| other.starts_with(&format!("{name}.")) || name.starts_with(&format!("{other}."));
            let mut others = captured.files.iter().filter(|(other, bytes)| *other != name && !bytes.is_empty());
            others.any(|(other, bytes)| {
                is_copy(bytes) || (other.ends_with(['z', 't']) || name.ends_with(['z', 't'])) && is_packed(other)
            })
        };
        if self.half.is_some() {
            return None;
        }
        let now = self.files();
        let is_candidate = |(name, before): &(&String, &Vec<u8>)| {
            !is_twice(name, before)
                && !before.is_empty()
                && now.get(*name).is_some_and(|bytes| bytes.starts_with(before))
                && self.now() + MARGIN < captured.modified[*name] + EXPIRE_AFTER
        };
        let candidates: Vec<(&String, &Vec<u8>)> = captured.files.iter().filter(is_candidate).collect();
        if candidates.is_empty() {
            return None;
        }
        let (name, before) = *rng.pick(&candidates);
        let mut bytes = now[name].clone();
        let modified = self.modified(name);
        let at = rng.below(before.len() as u64) as usize;
        thread::sleep(TICK);
        let done = match rng.below(4) {
            0 => {
                bytes[at] ^= 1;
                fs::write(self.path(name), bytes).unwrap();
                format!("byte {at} is changed")
            }
            1 => {
                bytes[at] ^= 1;
                fs::write(self.path("new"), bytes).unwrap();
                fs::rename(self.path("new"), self.path(name)).unwrap();
                format!("byte {at} is changed in a new file of its name")
            }
            2 => {
                fs::write(self.path(name), &bytes[..at]).unwrap();
                format!("cut to {at} bytes")
            }
            _ => {
                fs::remove_file(self.path(name)).unwrap();
                "removed".to_owned()
            }
        };
        // Whoever does this sets the time back, too.
        if self.path(name).exists() {
            self.set_modified(name, modified);
        }
        Some((name.clone(), done))
    }
}
