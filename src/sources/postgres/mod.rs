//! PostgreSQL 15 to 18, physically: the files of its data directory and tablespaces as they are copied between
//! `pg_backup_start` and `pg_backup_stop`, and the log from one to the other.
//!
//! Read `view` first (the copy), then `walk` (what is copied), `session` (what the server says) and `past` (what the
//! next snapshot will want to know of this one).

pub mod about;
mod address;
pub mod checks;
mod control;
mod exported;
mod failures;
mod files;
mod fingerprint;
pub mod fit;
mod names;
mod pages;
mod past;
mod pgpass;
pub mod programs;
mod psql;
mod query;
pub mod receive;
pub mod server;
mod session;
pub mod settings;
mod startup;
mod summaries;
mod view;
pub mod wal;
mod walk;
mod watch;

use super::{LastCapture, LogShipping, Source, View, ViewFacts};
use crate::{
    core::{
        failure::Failure,
        log::{HistoryId, Lsn, ServerTime},
        server::Watched,
    },
    world::World,
};
use control::Control;
use past::Past;
use session::{Facts, Session};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use summaries::Touched;
use view::{Beginning, PostgresView};
use walk::Walk;

pub use control::PATH as CONTROL;

/// The number of the system that the bytes of a control file are of; else why they are none.
pub fn system_of(control: &[u8]) -> Result<u64, String> {
    Control::parse(control).map(|control| control.system)
}

/// The word in configuration and inventories.
pub const KIND: &str = "postgres";

/// How often a copy is begun again because a database was moved meanwhile.
const ATTEMPTS: u32 = 3;

/// Servers from this version on summarise their log, where they are told to.
const FIRST_WITH_SUMMARIES: i32 = 170_000;

/// How a server is reached; what is left out is found in its data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// A host, or the directory of a Unix socket.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The role.
    pub user: Option<String>,
    /// The database.
    pub dbname: Option<String>,
}

/// What is configured besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long to wait for the log while nothing of it arrives.
    pub archive_wait: Duration,
    /// The most bytes that are read in a second.
    pub read_limit_bytes: Option<u64>,
    /// By how much the threads of a copy give way to others.
    pub nice: u32,
    /// Where the server's programs lie.
    pub bin_dir: Option<PathBuf>,
    /// Where a copy may make directories for as long as it takes.
    pub scratch_dir: PathBuf,
}

/// The system identifier that the fingerprint of a snapshot names.
pub fn system_of_snapshot(fingerprint: &serde_json::Value) -> Option<u64> {
    let history: HistoryId = fingerprint.get("history")?.as_str()?.parse().ok()?;
    Some(history.system)
}

/// A PostgreSQL server as a source.
pub struct Postgres {
    data_dir: PathBuf,
    server: Server,
    rules: Rules,
    world: World,
}

impl Postgres {
    /// The server of a data directory; nothing is looked at yet.
    pub fn new(data_dir: impl AsRef<Path>, server: Server, rules: Rules, world: World) -> Self {
        Postgres { data_dir: data_dir.as_ref().to_owned(), server, rules, world }
    }

    fn now_ms(&self) -> i64 {
        self.world.now().as_datetime().timestamp_millis()
    }

    fn examine(&self) -> Result<(Session, Control, Facts), Failure> {
        let (control, _) = Control::read(&self.data_dir)?;
        view::refuse_stale_label(&self.data_dir)?;
        let session = Session::open(&self.data_dir, &self.server).map_err(|failure| {
            let cause = failure.cause.clone().unwrap_or_default();
            failure.cause(format!("{cause}; by its control file it is {}", control.state_text()))
        })?;
        let facts = session.examine(&self.data_dir, &control)?;
        Ok((session, control, facts))
    }

    fn open_view(&self, last: Option<&serde_json::Value>) -> Result<Box<dyn View>, Failure> {
        if self.rules.nice > 0 {
            // For this thread and those that it starts; where it is refused the copy is just less polite.
            let _ = rustix::process::nice(self.rules.nice.cast_signed());
        }
        let (session, before, server) = self.examine()?;
        let read_started_at = self.world.now();
        let places = session.places()?;
        let start = session.start()?;
        let (control, _) = Control::read(&self.data_dir)?;
        if control.system != before.system || control.redo < start {
            return Err(failures::unfit(format!("{} is not what the server writes to", self.data_dir.display()))
                .cause(format!("its last checkpoint begins at {}, the copy at {start}", control.redo))
                .next_step("check that data_dir of the source is the server's own directory, and no copy of it"));
        }
        let looked_at_ms = self.now_ms();
        let mut walk = walk::walk(&self.data_dir)?;
        keep_about(&session, &self.data_dir, &mut walk)?;
        outer_configuration(&self.data_dir, &server, &mut walk);
        let history = HistoryId { system: control.system, timeline: control.timeline };
        let past = last.and_then(Past::read).filter(|past| past.misfit(history, &self.data_dir).is_none());
        let touched = match &past {
            Some(past) if server.version >= FIRST_WITH_SUMMARIES && past.history == history => {
                Touched::read(&self.data_dir, history.timeline, past.start, start)
                    .inspect_err(|why| {
                        walk.notes.push(format!("changed files were read whole, without WAL summaries: {why}"));
                    })
                    .ok()
            }
            _ => None,
        };
        let facts = ViewFacts {
            identity: control.system.to_string(),
            position: start.to_string(),
            read_started_at,
            entries: Vec::new(),
            fingerprint: None,
            notes: walk.notes,
            warnings: Vec::new(),
            history: Some(history.to_string()),
            log: None,
        };
        let view = PostgresView::new(Beginning {
            data_dir: self.data_dir.clone(),
            server: self.server.clone(),
            session,
            places,
            control,
            in_recovery: server.in_recovery,
            start,
            facts,
            found: walk.found,
            has_tablespaces: walk.has_tablespaces,
            looked_at_ms,
            past,
            touched,
            rules: self.rules.clone(),
        })?;
        Ok(Box::new(view))
    }
}

impl Source for Postgres {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn attempts(&self) -> u32 {
        ATTEMPTS
    }

    fn is_unchanged(&self, _: &serde_json::Value) -> bool {
        // Every snapshot is a new position: a running server is never certain to be at the old one.
        false
    }

    fn open(&self) -> Result<Box<dyn View>, Failure> {
        self.open_view(None)
    }

    fn open_since(&self, last: &dyn LastCapture, all: bool) -> Result<Box<dyn View>, Failure> {
        self.open_view(Some(last.fingerprint()).filter(|_| !all))
    }

    fn unusable_base(&self, fingerprint: Option<&serde_json::Value>) -> Option<String> {
        let Some(past) = fingerprint.and_then(Past::read) else {
            return Some("this host's record of the last snapshot says nothing of the server".to_owned());
        };
        // What cannot be read fails when the copy begins, with more to say.
        let (control, _) = Control::read(&self.data_dir).ok()?;
        past.misfit(HistoryId { system: control.system, timeline: control.timeline }, &self.data_dir)
    }

    fn log_shipping(&self) -> Option<LogShipping> {
        let (data_dir, server) = (self.data_dir.clone(), self.server.clone());
        let trouble = move || match Session::open(&data_dir, &server) {
            Ok(session) => session.archiver_trouble(),
            Err(failure) => Some(failure.to_string()),
        };
        let (data_dir, server) = (self.data_dir.clone(), self.server.clone());
        // Where it may not, the next segment is waited for all the same.
        let finish_segment =
            move || drop(Session::open(&data_dir, &server).and_then(|session| session.finish_segment()));
        let data_dir = self.data_dir.clone();
        Some(LogShipping {
            patience: self.rules.archive_wait,
            log_dir: self.data_dir.join("pg_wal"),
            trouble: Box::new(trouble),
            is_waiting: Box::new(move |name| watch::is_waiting(&data_dir, name)),
            finish_segment: Box::new(finish_segment),
        })
    }

    fn watch(&self, patience: Duration) -> Option<Watched> {
        Some(watch::look(&self.data_dir, &self.server, patience, self.world.now()))
    }

    fn commits_between(&self, history: HistoryId, from: Lsn, to: Lsn) -> Option<u64> {
        watch::commits_between(&self.data_dir, history, from, to)
    }

    fn commits_until(&self, history: HistoryId, range: (Lsn, Lsn), until: ServerTime) -> Option<u64> {
        watch::commits_until(&self.data_dir, history, range, until)
    }

    fn probe(&self) -> Result<Vec<String>, Failure> {
        let (session, control, facts) = self.examine()?;
        let mut remarks: Vec<String> = session.archiver_trouble().into_iter().collect();
        if !control.has_checksums {
            remarks.push("its pages have no checksums: damage is copied unnoticed (pg_checksums --enable)".to_owned());
        }
        let address = self.server.address(&self.data_dir);
        if address.leaves_host() {
            let host = &address.host;
            remarks
                .push(format!("what is said to the server at {host} is not encrypted: name its Unix socket as host"));
        }
        if facts.version < 150_000 {
            remarks.push(format!("version {} is older than any that recoup knows", facts.version));
        }
        Ok(remarks)
    }
}

/// Adds what the server says of itself.
fn keep_about(session: &Session, data_dir: &Path, walk: &mut Walk) -> Result<(), Failure> {
    match session.about() {
        Ok(about) => {
            let bytes = serde_json::to_vec_pretty(&about.with_host(data_dir));
            let bytes = bytes.map_err(|error| Failure::internal(error.to_string()))?;
            walk.held(data_dir, about::PATH, bytes)
        }
        Err(failure) => {
            walk.notes.push(format!("the names of tablespaces and collations were not kept: {failure}"));
            Ok(())
        }
    }
}

/// Adds configuration that the server reads from outside of its data directory.
fn outer_configuration(data_dir: &Path, server: &Facts, walk: &mut Walk) {
    for (name, place) in &server.files {
        if place.starts_with(data_dir) || place.as_os_str().is_empty() {
            continue;
        }
        if let Err(failure) = walk.configuration(place, name) {
            walk.notes.push(format!("the configuration {} is left out: {failure}", place.display()));
        }
        let folder = place.with_file_name("conf.d");
        if *name == "postgresql.conf" && folder.is_dir() {
            outer_folder(&folder, walk);
        }
    }
    walk.found.sort_by(|a, b| a.path.cmp(&b.path));
}

fn outer_folder(folder: &Path, walk: &mut Walk) {
    let added = walk.outer_directory(folder, "conf.d").and_then(|()| {
        let files = std::fs::read_dir(folder).map_err(|error| failures::unreadable(folder, &error))?;
        let names = files.flatten().filter_map(|file| file.file_name().into_string().ok());
        for name in names.filter(|name| name.ends_with(".conf") && !name.starts_with('.')) {
            walk.configuration(&folder.join(&name), &format!("conf.d/{name}"))?;
        }
        Ok(())
    });
    if let Err(failure) = added {
        walk.notes.push(format!("the configuration in {} is left out: {failure}", folder.display()));
    }
}
