//! The compliance log of the demonstration: who did what, appended to all the time, and altered once.

use super::stage::failed;
use crate::core::{failure::Failure, time::Timestamp};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What somebody would rather not have written.
const WAS: &str = "action=limit-raised";
/// What they write in its place: as long, so that nothing else moves.
const IS_NOW: &str = "action=limit-asked_";

/// A directory with one log file.
pub(super) struct ComplianceLog {
    file: PathBuf,
    lines: u64,
}

/// What was done to the log.
pub(super) struct Tampering {
    /// The line, from 1.
    pub(super) line: usize,
    /// What it said.
    pub(super) was: String,
    /// What it says now.
    pub(super) is_now: String,
}

impl ComplianceLog {
    /// Makes the log in `dir`, which exists.
    pub(super) fn create(dir: &Path, lines: u64, at: Timestamp) -> Result<Self, Failure> {
        let mut log = ComplianceLog { file: dir.join("audit.log"), lines: 0 };
        log.append(lines, at)?;
        Ok(log)
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Appends as an application does.
    pub(super) fn append(&mut self, lines: u64, at: Timestamp) -> Result<(), Failure> {
        let text: String = (self.lines..self.lines + lines).map(|number| line(number, at)).collect();
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| failed("write", &self.file, &error))?;
        self.lines += lines;
        Ok(())
    }

    /// Rewrites a line in the middle of what is captured already, as somebody with an editor would.
    pub(super) fn tamper(&self) -> Result<Tampering, Failure> {
        let unusable = || failed("alter", &self.file, &io::Error::other("it has no line of the kind"));
        let text = fs::read_to_string(&self.file).map_err(|error| failed("read", &self.file, &error))?;
        let middle = text.lines().count() / 2;
        let found = text.lines().enumerate().skip(middle).find(|(_, line)| line.contains(WAS));
        let (at, was) = found.ok_or_else(unusable)?;
        let is_now = was.replacen(WAS, IS_NOW, 1);
        let altered = text.replacen(was, &is_now, 1);
        fs::write(&self.file, altered).map_err(|error| failed("alter", &self.file, &error))?;
        Ok(Tampering { line: at + 1, was: was.to_owned(), is_now })
    }
}

/// One line: unique by its number, and much like its neighbors.
fn line(number: u64, at: Timestamp) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let action = ["login", "bet-voided", "limit-raised", "balance-corrected", "document-viewed"][(mixed % 5) as usize];
    let (operator, player) = (mixed % 40, 1_000 + mixed % 9_000);
    format!("{at} seq={number:08} operator=op{operator:02} action={action} player={player}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_is_altered_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let at = "2026-11-22T10:00:00Z".parse().unwrap();
        let mut log = ComplianceLog::create(dir.path(), 200, at).unwrap();
        log.append(100, at).unwrap();
        let before = fs::read_to_string(log.file()).unwrap();
        let tampering = log.tamper().unwrap();
        let after = fs::read_to_string(log.file()).unwrap();
        assert_eq!((before.lines().count(), before.len()), (300, after.len()));
        let differing: Vec<usize> =
            (0..300).filter(|at| before.lines().nth(*at) != after.lines().nth(*at)).map(|at| at + 1).collect();
        assert_eq!(differing, [tampering.line]);
        assert_ne!(tampering.was, tampering.is_now);
    }
}
