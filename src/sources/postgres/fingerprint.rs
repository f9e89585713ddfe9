//! Fingerprints of tables: how many rows, and a digest of them whatever their order, as of one place in the log.
//!
//! What a session sees and what a replay to a place shows are the same only where nobody commits in between. A logical
//! slot exports a view with its place, where the server's log says enough for one. Else the tables are locked against
//! writers for an instant, in which a second session takes the view that it reads from, and notes the place. Where the
//! lock is not had at once, nothing is taken: writers are not kept waiting for this.

use super::{
    Server,
    exported::{self, Exporter},
    session::{Session, said},
};
use crate::{
    core::{
        fingerprint::{Content, Fingerprints, Place, TABLES_MAX, Table},
        log::{HistoryId, Lsn, ServerTime},
        policy::{FingerprintRule, TablePattern},
        time::format_duration,
    },
    world::Stopwatch,
};
use chrono::DateTime;
use std::{path::PathBuf, thread, time::Duration};
use tokio_postgres::error::SqlState;

/// How long writers may have to wait for the locks, at most; less than the time after which a server looks for deadlocks.
const LOCK_MILLISECONDS: u32 = 800;
/// How often that is tried, and how long writers have to themselves before it is tried again.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// What makes one text of a row, whatever a role or a database is set to. Names of tables are written with their schema.
pub(super) const SETTINGS: &str = "SET search_path = pg_catalog; SET row_security = off; SET DateStyle = 'ISO, MDY'; \
    SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = 'hex'; \
    SET lc_monetary = 'C'; SET xmloption = 'content'; SET max_parallel_workers_per_gather = 0";

/// The query whose one row has the number of rows and the digest: SHA-256 of each row, both halves summed up as numbers.
pub(super) fn query(table: &Table) -> String {
    let half = |part: &str| format!("coalesce(sum(('x' || {part}(hash, 16))::bit(64)::bigint), 0)::text");
    // Its rows lie in its partitions; those of any other table that inherits from one are its own.
    let only = if table.is_partitioned { "" } else { "ONLY " };
    format!(
        "SELECT count(*)::text, {} || ' ' || {} FROM (SELECT left(encode(sha256(convert_to((recoup.*)::text, \
         getdatabaseencoding())), 'hex'), 32) AS hash FROM {only}{} AS recoup) AS rows",
        half("left"),
        half("right"),
        quoted(table)
    )
}

fn quoted(table: &Table) -> String {
    let name = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    format!("{}.{}", name(&table.schema), name(&table.name))
}

/// What is to be taken, and of which server.
pub(super) struct Taking {
    pub(super) data_dir: PathBuf,
    pub(super) server: Server,
    pub(super) history: HistoryId,
    pub(super) rule: FingerprintRule,
    /// Where the server's programs lie.
    pub(super) bin_dir: Option<PathBuf>,
    /// Where a new directory may be made.
    pub(super) scratch_dir: PathBuf,
}

/// A session that sees what was committed before a place, and nothing else.
struct Reader {
    session: Session,
    place: Place,
}

impl Taking {
    /// Takes them. What keeps them from being taken is said in their place.
    pub(super) fn take(&self) -> Fingerprints {
        let watch = Stopwatch::start();
        let database = self.database();
        let begun = self.list().and_then(|tables| Ok((self.begin(&tables)?, tables)));
        let (reader, mut tables) = match begun {
            Ok(begun) => begun,
            Err(why) => return Fingerprints::not_taken(database, why),
        };
        for table in tables.iter_mut().filter(|table| table.not_taken.is_none()) {
            match self.rule.max_time.checked_sub(watch.elapsed()).filter(|left| left.as_millis() > 0) {
                Some(left) => match reader.read(table, left) {
                    Ok(content) => table.content = Some(content),
                    Err(why) => table.not_taken = Some(self.explained(why)),
                },
                None => table.not_taken = Some(self.too_late()),
            }
        }
        Fingerprints { database: database.to_owned(), place: Some(reader.place), not_taken: None, tables }
    }

    fn database(&self) -> &str {
        self.server.dbname.as_deref().unwrap_or("postgres")
    }

    fn too_late(&self) -> String {
        format!("max_time ({}) had passed", format_duration(self.rule.max_time))
    }

    fn explained(&self, error: tokio_postgres::Error) -> String {
        match error.code() {
            Some(code) if *code == SqlState::QUERY_CANCELED => self.too_late(),
            _ => said(&error),
        }
    }

    fn open(&self) -> Result<Session, String> {
        let session = Session::open(&self.data_dir, &self.server).map_err(|failure| failure.to_string())?;
        session.run(SETTINGS).map_err(|error| said(&error))?;
        Ok(session)
    }

    /// The tables that the rule means, and those that it names and that are not there.
    fn list(&self) -> Result<Vec<Table>, String> {
        let sql = "SELECT nspname::text, relname::text, relkind = 'p' FROM pg_class \
            JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE relkind IN ('r', 'p') AND relpersistence = 'p' \
            AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\\_toast%' ORDER BY 1, 2";
        let rows = self.open()?.rows(sql).map_err(|error| said(&error))?;
        let text = |row: &tokio_postgres::Row, at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        let all = rows.iter().map(|row| (text(row, 0), text(row, 1), row.try_get(2).unwrap_or_default()));
        meant(&self.rule.tables, all)
    }

    /// Opens the view.
    fn begin(&self, tables: &[Table]) -> Result<Reader, String> {
        let named: Vec<String> = tables.iter().filter(|table| table.not_taken.is_none()).map(quoted).collect();
        if named.is_empty() {
            return Err(tables.iter().find_map(|table| table.not_taken.clone()).unwrap_or_default());
        }
        let reader = self.open()?;
        if !exported::is_offered(&reader)? {
            return self.lock(reader, &named);
        }
        match self.take_over(&reader) {
            Ok(place) => Ok(Reader { session: reader, place }),
            Err(why) => self
                .lock(self.open()?, &named)
                .map_err(|not_locked| format!("{not_locked}; and no logical slot was had: {why}")),
        }
    }

    /// The view that a logical slot exports.
    fn take_over(&self, reader: &Session) -> Result<Place, String> {
        let exporter = Exporter {
            data_dir: &self.data_dir,
            server: &self.server,
            database: self.database(),
            bin_dir: self.bin_dir.as_deref(),
            scratch_dir: &self.scratch_dir,
        };
        let exported = exporter.export()?;
        let place = self.view(reader, Some((&exported.name, exported.at)))?;
        // By another session: what fails in the reader's transaction would end its view.
        if let Ok(session) = self.open() {
            ship(&session);
        }
        Ok(place)
    }

    /// Locks the tables, opens the view, and lets go of them.
    fn lock(&self, reader: Session, named: &[String]) -> Result<Reader, String> {
        let locker = self.open()?;
        // One statement, so that one limit holds for all of them.
        let lock = format!("LOCK TABLE {} IN SHARE MODE", named.join(", "));
        let limits = format!("BEGIN; SET LOCAL statement_timeout = {LOCK_MILLISECONDS}");
        for attempt in 1.. {
            match locker.run(&limits).and_then(|()| locker.run(&lock)) {
                Ok(()) => break,
                Err(error) => {
                    let _ = locker.run("ROLLBACK");
                    let is_busy = error.code() == Some(&SqlState::QUERY_CANCELED);
                    if !is_busy {
                        return Err(not_locked(&error));
                    }
                    if attempt == ATTEMPTS {
                        let tries = format!("{ATTEMPTS} times for {LOCK_MILLISECONDS} ms");
                        return Err(format!("the tables were in use: a SHARE lock was asked for {tries}"));
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
        let place = self.view(&reader, None);
        let let_go = locker.run("ROLLBACK").map_err(|error| said(&error));
        ship(&locker);
        let place = place?;
        let_go?;
        Ok(Reader { session: reader, place })
    }

    /// Opens a view: the exported one of a place, or, while nobody can write, that of now.
    fn view(&self, reader: &Session, exported: Option<(&str, Lsn)>) -> Result<Place, String> {
        let mut begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned();
        if let Some((name, _)) = exported {
            begin.push_str(&format!("; SET TRANSACTION SNAPSHOT '{name}'"));
        }
        let sql = "SELECT pg_current_wal_insert_lsn()::text, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let rows = reader.run(&begin).and_then(|()| reader.rows(sql)).map_err(|error| said(&error))?;
        let row = rows.first();
        let now = || row.and_then(|row| row.try_get::<_, String>(0).ok()?.parse().ok());
        let at: Option<Lsn> = exported.map(|(_, at)| at).or_else(now);
        let moment = row.and_then(|row| DateTime::from_timestamp_micros(row.try_get(1).ok()?));
        let (at, moment) = at.zip(moment).ok_or("the server tells no place in its log")?;
        Ok(Place { history: self.history, at, moment: ServerTime::new(moment) })
    }
}

/// A replay stops at a record behind the place: there is one then, and its segment is shipped. Neither can do harm, and
/// where one is not permitted the server gets there by itself.
fn ship(session: &Session) {
    let _ = session.run("SELECT pg_logical_emit_message(false, 'recoup', 'fingerprints')");
    let _ = session.run("SELECT pg_switch_wal()");
}

impl Reader {
    /// Reads a table. Where that fails, the view stays for the others.
    fn read(&self, table: &Table, left: Duration) -> Result<Content, tokio_postgres::Error> {
        let limit = format!("SAVEPOINT one; SET LOCAL statement_timeout = {}", left.as_millis().min(i32::MAX as u128));
        let read = self.session.run(&limit).and_then(|()| self.session.rows(&query(table)));
        if read.is_err() {
            let _ = self.session.run("ROLLBACK TO SAVEPOINT one");
        }
        let rows = read?;
        self.session.run("RELEASE SAVEPOINT one")?;
        let text = |at: usize| rows.first().and_then(|row| row.try_get::<_, String>(at).ok()).unwrap_or_default();
        Ok(Content { rows: text(0).parse().unwrap_or_default(), digest: text(1) })
    }
}

fn not_locked(error: &tokio_postgres::Error) -> String {
    match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => format!(
            "the role may not lock the tables against writers: {} (GRANT SELECT, and from version 17 on GRANT MAINTAIN; \
             before it only the owner of a table, a superuser, and whoever may change its rows can)",
            said(error)
        ),
        _ => said(error),
    }
}

/// The tables that patterns mean, of all that there are. A partition is left out where a pattern names many: its rows
/// are its own all the same, and its parent has none.
fn meant(patterns: &[TablePattern], all: impl Iterator<Item = (String, String, bool)>) -> Result<Vec<Table>, String> {
    let table = |schema: &str, name: &str| Table {
        schema: schema.to_owned(),
        name: name.to_owned(),
        is_partitioned: false,
        content: None,
        not_taken: None,
    };
    let names = |pattern: &TablePattern, schema: &str, name: &str| {
        matches!(pattern, TablePattern::Table(..)) && pattern.matches(schema, name)
    };
    let mut tables = Vec::new();
    for (schema, name, is_partitioned) in all {
        let wanted = match is_partitioned {
            true => patterns.iter().any(|pattern| names(pattern, &schema, &name)),
            false => patterns.iter().any(|pattern| pattern.matches(&schema, &name)),
        };
        if wanted {
            tables.push(Table { is_partitioned, ..table(&schema, &name) });
        }
    }
    for pattern in patterns {
        let is_there = tables.iter().any(|table| pattern.matches(&table.schema, &table.name));
        match pattern {
            _ if is_there => {}
            TablePattern::Table(schema, name) => {
                let why = "there is no such table whose rows outlast a crash";
                tables.push(Table { not_taken: Some(why.to_owned()), ..table(schema, name) });
            }
            _ => return Err(format!("there is no table that {pattern} means")),
        }
    }
    if tables.len() > TABLES_MAX {
        return Err(format!("{} tables are meant; {TABLES_MAX} are the most", tables.len()));
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<TablePattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn patterns_mean_tables() {
        let all = || {
            [("audit", "entry", false), ("public", "parent", true), ("public", "part", false)]
                .map(|(schema, name, partitioned)| (schema.to_owned(), name.to_owned(), partitioned))
                .into_iter()
        };
        let found = |texts: &[&str]| -> Vec<(String, bool)> {
            let tables = meant(&patterns(texts), all()).unwrap();
            tables.iter().map(|table| (table.full_name(), table.not_taken.is_none())).collect()
        };
        let expect = |texts: &[&str], expected: &[(&str, bool)]| {
            let expected: Vec<_> = expected.iter().map(|(name, ok)| ((*name).to_owned(), *ok)).collect();
            assert_eq!(found(texts), expected, "{texts:?}");
        };
        expect(&["*"], &[("audit.entry", true), ("public.part", true)]);
        expect(&["public.*"], &[("public.part", true)]);
        expect(&["public.parent", "audit.entry"], &[("audit.entry", true), ("public.parent", true)]);
        expect(&["public.nosuch", "audit.*"], &[("audit.entry", true), ("public.nosuch", false)]);
        assert!(meant(&patterns(&["nosuch.*"]), all()).unwrap_err().contains("nosuch.*"));
    }

    #[test]
    fn names_are_quoted() {
        let mut table = meant(&patterns(&["odd \"schema.t\"; --"]), std::iter::empty()).unwrap().remove(0);
        assert!(query(&table).contains("FROM ONLY \"odd \"\"schema\".\"t\"\"; --\" AS recoup"), "{}", query(&table));
        table.is_partitioned = true;
        assert!(query(&table).contains("FROM \"odd "));
    }
}
