//! The one session that a copy needs from its beginning to its end, and what it tells of the server.

use super::{
    Server,
    about::{About, Collation, Tablespace},
    address::Address,
    control::Control,
    failures, pgpass, receive,
};
use crate::core::{
    failure::Failure,
    log::{Lsn, ServerTime},
    server::{ServerFacts, Slot},
};
use chrono::DateTime;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_postgres::{Client, Config, NoTls, Row, error::SqlState, types::ToSql};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Nothing may end the session or keep it waiting by the server's settings.
const PREPARE: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0; SET max_parallel_workers_per_gather = 0; \
    SET client_min_messages = warning; SET DateStyle = 'ISO'";

/// A session with a server. When it ends, so does the copy.
pub(super) struct Session {
    runtime: tokio::runtime::Runtime,
    client: Client,
    role: String,
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Such as 150014.
    pub(super) version: i32,
    pub(super) in_recovery: bool,
    /// Configuration files by the names that they have at the top of a data directory.
    pub(super) files: Vec<(&'static str, PathBuf)>,
}

/// Where a database lies, by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    name: String,
    tablespace: u32,
    /// The transaction that wrote its row: whoever moves it there and back writes it anew.
    written_by: String,
}

/// All databases of a server, by their numbers.
pub(super) type Places = BTreeMap<u32, Place>;

/// Which database was moved between two looks, if any was.
///
/// The log says to copy its old directory, and then to remove that. Replay does so from the beginning of a backup on, and has
/// of the old directory what the backup has: nothing, or a part, once the server had removed it. (It is the same where a
/// database is copied file by file from one that is removed then. That looks like any other coming and going.)
pub(super) fn moved(before: &Places, after: &Places) -> Option<String> {
    let is_elsewhere = |number: &u32, place: &Place| {
        let now = after.get(number);
        now.is_some_and(|now| now.tablespace != place.tablespace || now.written_by != place.written_by)
    };
    before.iter().find(|(number, place)| is_elsewhere(number, place)).map(|(_, place)| place.name.clone())
}

/// What `pg_backup_stop` gives.
pub(super) struct Stopped {
    pub(super) stop: Lsn,
    /// When that was, by the server's clock.
    pub(super) stopped_at: ServerTime,
    /// The first transaction that had no number yet.
    pub(super) next_transaction: u32,
    pub(super) label: String,
    pub(super) tablespace_map: String,
}

impl Session {
    /// Connects to the server of a data directory.
    pub(super) fn open(data_dir: &Path, server: &Server) -> Result<Self, Failure> {
        Session::open_within(data_dir, server, CONNECT_TIMEOUT)
    }

    /// The same, by a server that may take so long to answer.
    pub(super) fn open_within(data_dir: &Path, server: &Server, patience: Duration) -> Result<Self, Failure> {
        let Address { host, port, role } = server.address(data_dir);
        let dbname = server.dbname.as_deref().unwrap_or("postgres");
        let mut config = Config::new();
        config.host(&host).port(port).user(&role).dbname(dbname).application_name("recoup");
        config.connect_timeout(patience);
        if let Some(password) = pgpass::find(&pgpass::Wanted { host: &host, port, dbname, user: &role }) {
            config.password(password);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::internal(format!("no runtime for a session: {error}")))?;
        let place = format!("{host}, port {port}");
        let connected = runtime.block_on(async { tokio::time::timeout(patience, config.connect(NoTls)).await });
        let too_slow = || failures::no_connection(&place, format!("it did not answer within {} s", patience.as_secs()));
        let (client, connection) = match connected {
            Ok(connected) => connected.map_err(|error| failures::no_connection(&place, said(&error)))?,
            Err(_) => return Err(too_slow()),
        };
        runtime.spawn(async move {
            // Whoever asks next is told that the session is gone.
            let _ = connection.await;
        });
        let session = Session { runtime, client, role };
        let prepared = session.within(patience, session.client.batch_execute(PREPARE)).ok_or_else(too_slow)?;
        prepared.map_err(|error| session.failed("prepare the session", &error))?;
        Ok(session)
    }

    /// What comes of something in time.
    fn within<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { tokio::time::timeout(patience, work).await.ok() })
    }

    fn failed(&self, what: &str, error: &tokio_postgres::Error) -> Failure {
        if error.is_closed() || self.client.is_closed() {
            return failures::session_lost(said(error));
        }
        match error.code() {
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => failures::no_privilege(&self.role, said(error)),
            _ => failures::statement(what, said(error)),
        }
    }

    pub(super) fn row(&self, what: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Failure> {
        let row = self.runtime.block_on(self.client.query_one(sql, parameters));
        row.map_err(|error| self.failed(what, &error))
    }

    /// Runs statements that give nothing.
    pub(super) fn run(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    /// The rows of a query.
    pub(super) fn rows(&self, sql: &str) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.runtime.block_on(self.client.query(sql, &[]))
    }

    /// Makes sure that the session is still there.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.row("answer", "SELECT 1", &[]).map(drop)
    }

    /// Looks whether this is the server of the data directory, and whether it can be copied.
    pub(super) fn examine(&self, data_dir: &Path, control: &Control) -> Result<Facts, Failure> {
        let sql = "SELECT current_setting('data_directory'), current_setting('server_version_num')::int, \
            pg_is_in_recovery(), current_setting('wal_level'), current_setting('archive_mode'), \
            current_setting('archive_command') <> '' OR coalesce(current_setting('archive_library', true), '') <> '', \
            current_setting('config_file'), current_setting('hba_file'), current_setting('ident_file'), \
            (SELECT system_identifier FROM pg_control_system()), \
            EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1)";
        let row = self.row("tell its settings", sql, &[&receive::APPLICATION])?;
        let text = |at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        check_identity(data_dir, control.system, &text(0), row.try_get(9).unwrap_or_default())?;
        let in_recovery: bool = row.try_get(2).unwrap_or_default();
        // The log of a standby is shipped by its primary, and that of a server that is followed by whoever follows it.
        let is_shipped = in_recovery || row.try_get(10).unwrap_or_default();
        unfit_settings(&text(3), &text(4), row.try_get(5).unwrap_or_default(), is_shipped)?;
        let files = [("postgresql.conf", 6), ("pg_hba.conf", 7), ("pg_ident.conf", 8)];
        let files = files.into_iter().map(|(name, at)| (name, PathBuf::from(text(at)))).collect();
        Ok(Facts { version: row.try_get(1).unwrap_or_default(), in_recovery, files })
    }

    /// What the server says of itself that is kept with a snapshot.
    pub(super) fn about(&self) -> Result<About, Failure> {
        let rows = |sql: &str| {
            let rows = self.runtime.block_on(self.client.query(sql, &[]));
            rows.map_err(|error| self.failed("tell its tablespaces and collations", &error))
        };
        let text = |row: &Row, at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        let version = self.row("tell its version", "SELECT version()", &[])?;
        let tablespaces = "SELECT oid::bigint, spcname::text, pg_tablespace_location(oid) FROM pg_tablespace \
            WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid";
        let tablespace = |row: &Row| Tablespace {
            number: row.try_get::<_, i64>(0).unwrap_or_default() as u32,
            name: text(row, 1),
            location: text(row, 2),
        };
        let collations = "SELECT datname::text, CASE datlocprovider WHEN 'i' THEN 'icu' WHEN 'c' THEN 'libc' \
            ELSE datlocprovider::text END, datcollversion FROM pg_database WHERE datcollversion IS NOT NULL ORDER BY 1";
        let collation = |row: &Row| Collation { database: text(row, 0), provider: text(row, 1), version: text(row, 2) };
        Ok(About {
            version: text(&version, 0),
            tablespaces: rows(tablespaces)?.iter().map(tablespace).collect(),
            collations: rows(collations)?.iter().map(collation).collect(),
            ..About::default()
        })
    }

    /// What it says to whoever watches over it.
    pub(super) fn facts(&self, data_dir: &Path, system: u64, patience: Duration) -> Result<ServerFacts, Failure> {
        let sql = "SELECT current_setting('data_directory'), (SELECT system_identifier FROM pg_control_system()), \
            pg_is_in_recovery(), \
            CASE WHEN pg_is_in_recovery() THEN '0/0' ELSE pg_current_wal_insert_lsn()::text END, \
            current_setting('archive_mode'), current_setting('archive_command'), \
            coalesce(current_setting('archive_library', true), ''), \
            (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), \
            (SELECT last_archived_wal FROM pg_stat_archiver WHERE last_archived_time > pg_conf_load_time()), \
            EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1)";
        let slots = "SELECT slot_name::text, active, coalesce(wal_status, ''), coalesce(pg_wal_lsn_diff( \
            CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END, \
            restart_lsn), 0)::bigint FROM pg_replication_slots WHERE NOT temporary ORDER BY 1";
        let both = async {
            tokio::try_join!(self.client.query_one(sql, &[&receive::APPLICATION]), self.client.query(slots, &[]))
        };
        let answered = self.within(patience, both).ok_or_else(|| {
            failures::unfit("PostgreSQL does not answer").cause(format!("asked for {} s", patience.as_secs()))
        })?;
        let (row, slots) = answered.map_err(|error| self.failed("tell how it is", &error))?;
        let text = |at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        check_identity(data_dir, system, &text(0), row.try_get(1).unwrap_or_default())?;
        let keep_megabytes: i64 = row.try_get(7).unwrap_or(-1);
        let slot = |row: &Row| Slot {
            name: row.try_get(0).unwrap_or_default(),
            is_active: row.try_get(1).unwrap_or_default(),
            wal_status: row.try_get(2).unwrap_or_default(),
            held_bytes: u64::try_from(row.try_get::<_, i64>(3).unwrap_or_default()).unwrap_or(0),
        };
        Ok(ServerFacts {
            in_recovery: row.try_get(2).unwrap_or_default(),
            insert: lsn(&row, 3)?,
            archive_mode: text(4),
            archive_command: text(5),
            archive_library: text(6),
            archiver_trouble: self.within(patience, self.archiver()).flatten(),
            last_archived: row.try_get(8).unwrap_or_default(),
            slots_keep_bytes: u64::try_from(keep_megabytes).ok().map(|megabytes| megabytes << 20),
            is_followed: row.try_get(9).unwrap_or_default(),
            slots: slots.iter().map(slot).collect(),
        })
    }

    /// Makes a primary finish the segment that it writes.
    pub(super) fn finish_segment(&self) -> Result<(), Failure> {
        self.row("finish a segment of its log", "SELECT pg_switch_wal()::text", &[]).map(drop)
    }

    /// Where each database lies.
    pub(super) fn places(&self) -> Result<Places, Failure> {
        let sql = "SELECT oid::bigint, datname::text, dattablespace::bigint, xmin::text FROM pg_database";
        let rows = self.rows(sql).map_err(|error| self.failed("tell where its databases lie", &error))?;
        let number = |row: &Row, at: usize| row.try_get::<_, i64>(at).unwrap_or_default() as u32;
        let text = |row: &Row, at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        let place = |row: &Row| Place { name: text(row, 1), tablespace: number(row, 2), written_by: text(row, 3) };
        Ok(rows.iter().map(|row| (number(row, 0), place(row))).collect())
    }

    /// Begins the copy. Gives where replay begins.
    pub(super) fn start(&self) -> Result<Lsn, Failure> {
        let row = self.row("begin a backup", "SELECT pg_backup_start('recoup', true)::text", &[])?;
        lsn(&row, 0)
    }

    /// Ends it.
    pub(super) fn stop(&self) -> Result<Stopped, Failure> {
        let sql = "SELECT lsn::text, labelfile, coalesce(spcmapfile, ''), \
            (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, \
            pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM pg_backup_stop(false)";
        let row = self.row("end the backup", sql, &[])?;
        let moment = DateTime::from_timestamp_micros(row.try_get(3).unwrap_or_default());
        let moment = moment.ok_or_else(|| Failure::internal("a server whose clock shows no date"))?;
        let next: i64 = row.try_get(4).unwrap_or_default();
        let text = |at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        Ok(Stopped {
            stop: lsn(&row, 0)?,
            stopped_at: ServerTime::new(moment),
            // What stands in the log are the lower 32 bits.
            next_transaction: next as u32,
            label: text(1),
            tablespace_map: text(2),
        })
    }

    /// What the archiver's last failure was, if it has not succeeded since.
    pub(super) fn archiver_trouble(&self) -> Option<String> {
        self.runtime.block_on(self.archiver())
    }

    async fn archiver(&self) -> Option<String> {
        let sql = "SELECT failed_count, last_failed_wal, last_failed_time::text, \
            coalesce(last_archived_wal, 'nothing') FROM pg_stat_archiver \
            WHERE last_failed_time > coalesce(last_archived_time, '-infinity')";
        let row = self.client.query_opt(sql, &[]).await.ok()??;
        let text = |at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        let count: i64 = row.try_get(0).unwrap_or_default();
        Some(format!(
            "the archiver failed {count} times, last with {} at {}, and last archived {}",
            text(1),
            text(2),
            text(3)
        ))
    }
}

fn unfit_settings(wal_level: &str, archive_mode: &str, ships: bool, is_shipped: bool) -> Result<(), Failure> {
    if wal_level == "minimal" {
        return Err(failures::unfit("PostgreSQL writes too little log for backups")
            .cause("wal_level is minimal")
            .next_step("set wal_level = replica in postgresql.conf and restart the server"));
    }
    if is_shipped {
        return Ok(());
    }
    let archive = "ALTER SYSTEM SET archive_mode = on; ALTER SYSTEM SET archive_command = 'recoup --config ... archive \
        push SOURCE %p'; then restart the server, or keep recoup archive follow SOURCE running";
    if archive_mode == "off" {
        return Err(failures::unfit("PostgreSQL does not archive its log")
            .cause("archive_mode is off, and nobody follows its log")
            .next_step(archive));
    }
    if !ships {
        return Err(failures::unfit("PostgreSQL does not archive its log")
            .cause("neither archive_command nor archive_library is set")
            .next_step(archive));
    }
    Ok(())
}

/// Whether the server that answers is the one whose data directory this is.
fn check_identity(data_dir: &Path, system: u64, directory: &str, identifier: i64) -> Result<(), Failure> {
    let place = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let theirs = PathBuf::from(directory);
    if place(&theirs).is_none_or(|theirs| Some(theirs) != place(data_dir)) {
        return Err(foreign(data_dir, &format!("the server's data directory is {}", theirs.display())));
    }
    check_system(data_dir, system, identifier.cast_unsigned())
}

/// The same, by the system identifier alone.
pub(super) fn check_system(data_dir: &Path, system: u64, identifier: u64) -> Result<(), Failure> {
    if identifier != system {
        let cause = format!("the server's system identifier is {identifier}, the directory's is {system}");
        return Err(foreign(data_dir, &cause));
    }
    Ok(())
}

fn foreign(data_dir: &Path, cause: &str) -> Failure {
    failures::unfit(format!("{} is not the data directory of the server that answers", data_dir.display()))
        .cause(cause)
        .next_step("correct data_dir or url of the source in recoup.toml, so that both name one server")
}

fn lsn(row: &Row, at: usize) -> Result<Lsn, Failure> {
    let text: String = row.try_get(at).unwrap_or_default();
    text.parse().map_err(|error| failures::unfit("PostgreSQL gave no position in its log").cause(error))
}

/// What the server said; the library's own words say less.
pub(super) fn said(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        let detail = error.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail}", error.message());
    }
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_that_are_moved() {
        let place = |tablespace, written_by: u32| Place {
            name: format!("in {tablespace}"),
            tablespace,
            written_by: written_by.to_string(),
        };
        let before = Places::from([(1, place(10, 1)), (2, place(10, 1))]);
        let after = |change: &dyn Fn(&mut Places)| {
            let mut after = before.clone();
            change(&mut after);
            moved(&before, &after).is_some()
        };
        assert!(!after(&|_| {}));
        assert!(!after(&|places| drop(places.insert(3, place(10, 7)))));
        assert!(!after(&|places| drop(places.remove(&2))));
        assert!(after(&|places| drop(places.insert(2, place(11, 7)))));
        // There and back.
        assert!(after(&|places| drop(places.insert(2, place(10, 7)))));
        // Databases may come and go all the time.
        assert!(!after(&|places| {
            places.remove(&2);
            places.insert(3, place(10, 7));
        }));
    }
}
