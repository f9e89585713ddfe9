//! A consistent view of a database: its pages, read in one transaction.

use super::{
    failures,
    files::{DatabaseFiles, FileStamp, Stamps},
    lease::Lease,
};
use crate::{
    core::failure::Failure,
    sources::{READ_BYTES, Sink, View, ViewFacts},
};
use rusqlite::Connection;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How much is read in one go, before any of it is handed over.
const BATCH_BYTES: usize = 1 << 20;

/// What makes a view trustworthy, and is looked at again when it ends.
#[derive(Clone, Debug)]
pub(super) enum Guard {
    /// The read mark in the write-ahead log, held by the transaction.
    Log,
    /// The shared lock on the database file, which nobody may write meanwhile.
    Lock(FileStamp),
    /// Only that the file has not changed: it is read without locks.
    Unchanged {
        /// What it was.
        stamp: FileStamp,
        /// Set when it does change, so that the next try waits for the application.
        disturbed: Arc<AtomicBool>,
    },
    /// Nothing more is read from the database: it was empty, or a copy has been made.
    Nothing,
}

/// Where the pages come from.
pub(super) enum Pages {
    /// An empty database.
    None,
    /// SQLite's page table.
    Table(Lease),
    /// A copy made in the read transaction.
    Copy(File),
}

/// A view of a database.
pub(super) struct SqliteView {
    pub(super) files: DatabaseFiles,
    pub(super) facts: ViewFacts,
    pub(super) page_size: usize,
    /// The header's, where this build can see it.
    pub(super) change_counter: Option<u32>,
    pub(super) pages: Pages,
    pub(super) guard: Guard,
}

impl View for SqliteView {
    fn facts(&self) -> &ViewFacts {
        &self.facts
    }

    fn read(
        &mut self,
        entry: usize,
        runs: &mut dyn Iterator<Item = (u64, u64)>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let blocks = self.facts.entries.get(entry).map_or(0, |entry| entry.blocks());
        let piece_blocks = (READ_BYTES / self.page_size) as u64;
        let batch_blocks = (BATCH_BYTES / self.page_size) as u64;
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let mut planned = 0;
        let mut bytes = Vec::new();
        for (first, count) in runs {
            let end = first.checked_add(count).filter(|end| *end <= blocks);
            let end = end.ok_or_else(|| Failure::internal(format!("no blocks {first}+{count} in entry {entry}")))?;
            if self.may_scan(first, count) {
                self.hand_over(&mut pieces, &mut bytes, sink)?;
                planned = 0;
                self.scan(count, sink)?;
                continue;
            }
            let mut at = first;
            while at < end {
                let take = piece_blocks.min(end - at).min(batch_blocks - planned);
                pieces.push((at, take));
                planned += take;
                at += take;
                if planned == batch_blocks {
                    self.hand_over(&mut pieces, &mut bytes, sink)?;
                    planned = 0;
                }
            }
        }
        self.hand_over(&mut pieces, &mut bytes, sink)
    }

    fn check(&self) -> Result<(), Failure> {
        match (&self.pages, &self.guard) {
            (_, Guard::Unchanged { .. }) => self.verify_guard(),
            (Pages::Table(lease), _) => lease.with(|_| Ok(())),
            _ => Ok(()),
        }
    }

    fn must_end_within(&self) -> Option<Duration> {
        if let Pages::Table(lease) = &self.pages { lease.remaining() } else { None }
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        if let Pages::Table(lease) = &self.pages {
            lease.with(|connection| {
                if super::connect::is_reading(connection) {
                    self.verify_guard()
                } else {
                    Err(Failure::internal("the read transaction of a view ended before the view"))
                }
            })?;
        }
        Ok(())
    }
}

impl SqliteView {
    /// Whether a run is better read by walking over the page table, which takes a third less time than asking
    /// for page after page, but keeps the connection while the sink works.
    fn may_scan(&self, first: u64, count: u64) -> bool {
        first == 0
            && count * self.page_size as u64 > BATCH_BYTES as u64
            && matches!(&self.pages, Pages::Table(lease) if lease.remaining().is_none())
    }

    /// Reads the first `count` blocks by walking over the page table.
    fn scan(&self, count: u64, sink: &mut Sink<'_>) -> Result<(), Failure> {
        let Pages::Table(lease) = &self.pages else { return Ok(()) };
        let failed = |error: rusqlite::Error| match self.verify_guard() {
            Ok(()) => failures::from_sqlite(&self.files, "read", &error),
            Err(failure) => failure,
        };
        lease.with(|connection| {
            let mut statement = connection.prepare("SELECT data FROM sqlite_dbpage").map_err(failed)?;
            let mut rows = statement.query([]).map_err(failed)?;
            let mut bytes = Vec::with_capacity(READ_BYTES);
            let mut handed = 0;
            for block in 0..count {
                let row = rows.next().map_err(failed)?.ok_or(rusqlite::Error::QueryReturnedNoRows).map_err(failed)?;
                append(row, self.page_size, &mut bytes).map_err(failed)?;
                if bytes.len() + self.page_size > READ_BYTES || block + 1 == count {
                    self.verify_guard()?;
                    sink(handed, &bytes)?;
                    handed = block + 1;
                    bytes.clear();
                }
            }
            Ok(())
        })
    }

    /// Reads the planned pieces and gives them to the sink; the connection is free while the sink works.
    fn hand_over(&self, pieces: &mut Vec<(u64, u64)>, bytes: &mut Vec<u8>, sink: &mut Sink<'_>) -> Result<(), Failure> {
        bytes.clear();
        let filled = match &self.pages {
            Pages::Table(lease) => lease.with(|connection| self.fill_from_table(connection, pieces, bytes)),
            Pages::Copy(file) => self.fill_from_copy(file, pieces, bytes),
            Pages::None => Ok(()),
        };
        self.check()?; // an error of a file that changed is better explained by the change
        filled?;
        let mut rest = bytes.as_slice();
        for (first, count) in pieces.drain(..) {
            let (piece, after) = rest.split_at(count as usize * self.page_size);
            sink(first, piece)?;
            rest = after;
        }
        Ok(())
    }

    fn fill_from_table(
        &self,
        connection: &Connection,
        pieces: &[(u64, u64)],
        bytes: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = connection.prepare(PAGE_QUERY)?;
            for (first, count) in pieces {
                for block in *first..first + count {
                    append_page(&mut statement, block, self.page_size, bytes)?;
                }
            }
            Ok(())
        };
        read().map_err(|error| failures::from_sqlite(&self.files, "read", &error))
    }

    fn fill_from_copy(&self, file: &File, pieces: &[(u64, u64)], bytes: &mut Vec<u8>) -> Result<(), Failure> {
        for (first, count) in pieces {
            let start = bytes.len();
            bytes.resize(start + *count as usize * self.page_size, 0);
            file.read_exact_at(&mut bytes[start..], first * self.page_size as u64).map_err(|error| {
                failures::failure(format!("the scratch copy of {} cannot be read", self.files.database.display()))
                    .cause(error)
                    .next_step("check the disk that holds the scratch directory, then run the backup again")
            })?;
        }
        Ok(())
    }

    /// Looks again at what makes the view trustworthy.
    pub(super) fn verify_guard(&self) -> Result<(), Failure> {
        match &self.guard {
            Guard::Log | Guard::Nothing => Ok(()),
            Guard::Lock(stamp) => {
                // A file that was renamed over the path is no longer ours to judge: we hold the old one.
                let now = Stamps::take(&self.files).ok().filter(|now| now.database.same_file(stamp));
                match now {
                    Some(now) if !now.database.same_content(stamp) => {
                        Err(failures::locks_ignored(&self.files.database))
                    }
                    _ => Ok(()),
                }
            }
            Guard::Unchanged { stamp, disturbed } => match Stamps::take(&self.files) {
                Ok(now) if now.database == *stamp => Ok(()),
                _ => {
                    disturbed.store(true, Ordering::Relaxed);
                    Err(failures::changed_while_read(&self.files.database))
                }
            },
        }
    }
}

/// One page by its number. (The page table knows no ranges: `BETWEEN` would walk over all pages before.)
pub(super) const PAGE_QUERY: &str = "SELECT data FROM sqlite_dbpage WHERE pgno = ?1";

/// Appends one page, counted from 0.
pub(super) fn append_page(
    statement: &mut rusqlite::Statement<'_>,
    block: u64,
    page_size: usize,
    bytes: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    let mut rows = statement.query([block as i64 + 1])?;
    append(rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?, page_size, bytes)
}

fn append(row: &rusqlite::Row<'_>, page_size: usize, bytes: &mut Vec<u8>) -> rusqlite::Result<()> {
    let data = row.get_ref(0)?.as_blob()?;
    if data.len() != page_size {
        return Err(rusqlite::Error::InvalidColumnType(0, "data".to_owned(), rusqlite::types::Type::Blob));
    }
    bytes.extend_from_slice(data);
    Ok(())
}
