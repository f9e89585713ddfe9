//! The policy's assertions over a restored database: read-only, and not for ever.

use super::connect::{self, Way};
use crate::{
    core::{manifest::Entry, policy::Assertion},
    sources::{
        RestoredCheck,
        answers::{Answer, ROWS_MAX, judge},
        unanswered,
    },
    world::{Stopwatch, files},
};
use rusqlite::{Connection, limits::Limit, types::ValueRef};
use std::{path::Path, time::Duration};

/// SQLite's steps between two looks at the clock.
const STEPS: i32 = 10_000;

/// Runs each assertion over the one database among the restored files, for at most `limit` each.
pub fn check_assertions(
    dir: &Path,
    entries: &[Entry],
    assertions: &[Assertion],
    limit: Duration,
) -> Vec<RestoredCheck> {
    let mut files = entries.iter().filter(|entry| entry.block_size().is_some());
    let path = match (files.next(), files.next()) {
        (Some(entry), None) => Ok(dir.join(entry.path.to_relative())),
        _ => Err("there is not exactly one database".to_owned()),
    };
    let run = |assertion: &Assertion| {
        let answered = path.clone().and_then(|path| {
            let mut connection = open(&path).map_err(|error| error.to_string())?;
            let running = Stopwatch::start();
            let overdue = move || running.elapsed() > limit;
            connection.progress_handler(STEPS, Some(overdue)).map_err(|error| error.to_string())?;
            ask(&mut connection, &assertion.query).map_err(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::OperationInterrupted) => {
                    format!("it took longer than {} s", limit.as_secs())
                }
                _ => error.to_string(),
            })
        });
        match answered {
            Ok(answer) => judge(assertion, &answer),
            Err(why) => unanswered(assertion, why),
        }
    };
    assertions.iter().map(run).collect()
}

/// Opens it so that no query can write anything, here or elsewhere, but for what sorting takes: that is plaintext, and
/// goes beside the restored database, where nobody else may look and there is room for such.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect::connect(path, Way::AtRest)?;
    connection.pragma_update(None, "temp_store_directory", files::parent(path).to_string_lossy())?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    Ok(connection)
}

fn ask(connection: &mut Connection, query: &str) -> rusqlite::Result<Answer> {
    let mut statement = connection.prepare(query)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut answer = Answer { rows: 0, columns, first: String::new() };
    while let Some(row) = rows.next()? {
        if answer.rows == 0 {
            let cells = (0..columns).map(|at| row.get_ref(at).map(cell));
            answer.first = cells.collect::<Result<Vec<_>, _>>()?.join("|");
        }
        answer.rows += 1;
        if answer.rows > ROWS_MAX {
            break;
        }
    }
    Ok(answer)
}

/// A value as the sqlite3 shell prints it.
fn cell(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{manifest::EntryKind, path::StoredPath, policy::Expectation};

    fn entry() -> Entry {
        let kind = EntryKind::File { size: 8192, block_size: 4096 };
        Entry { path: StoredPath::parse("l.db").unwrap(), kind, mode: 0o600, uid: 0, gid: 0 }
    }

    #[test]
    fn what_sorting_takes_lies_beside_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.db");
        let made = Connection::open(&path).unwrap();
        let fill = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 40000) insert into t select \
                    randomblob(500) from n";
        made.execute_batch(&format!("create table t(a); {fill}")).unwrap();
        drop(made);
        let mut connection = open(&path).unwrap();
        let (files, noted) = std::sync::mpsc::channel();
        let look = move || {
            let open_files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            open_files.filter_map(|file| std::fs::read_link(file.path()).ok()).for_each(|file| drop(files.send(file)));
            false
        };
        connection.progress_handler(10_000, Some(look)).unwrap();
        ask(&mut connection, "select a from t order by a").unwrap();
        drop(connection);
        let gone = |file: &std::path::PathBuf| file.to_string_lossy().ends_with(" (deleted)");
        let spilled: std::collections::BTreeSet<_> = noted.iter().filter(gone).collect();
        let real = dir.path().canonicalize().unwrap();
        assert!(!spilled.is_empty() && spilled.iter().all(|file| file.starts_with(&real)), "{spilled:?}");
    }

    #[test]
    fn assertions_are_judged_and_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.db");
        let made = Connection::open(&path).unwrap();
        made.execute_batch("create table t(a); insert into t values (1), (2), (null)").unwrap();
        drop(made);
        let before = std::fs::read(&path).unwrap();
        let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";
        for (query, expect, ok, actual) in [
            ("select a from t where a > 2", "no rows", true, "no rows"),
            ("select a, a from t where a = 2", "no rows", false, "1 row"),
            ("select a from t", "no rows", false, "3 rows"),
            ("select a from t", "rows", true, "rows"),
            ("select a from t where 0", "rows", false, "no rows"),
            ("select sum(a) from t", "3", true, "3"),
            ("select sum(a) from t", "4", false, "another value"),
            ("select a from t", "1", false, "3 rows"),
            ("select a, a from t where a = 1", "1", false, "1 row of 2 columns"),
            ("select total(a) from t", "3.0", true, "3.0"),
            ("select b from t", "rows", false, "could not be run: no such column"),
            ("delete from t returning a", "no rows", false, "could not be run: attempt to write"),
            ("attach 'other.db' as o", "no rows", false, "could not be run: too many attached"),
            (endless, "1", false, "could not be run: it took longer than 0 s"),
        ] {
            let assertion =
                Assertion { name: "n".to_owned(), query: query.to_owned(), expect: Expectation::from_text(expect) };
            let limit = if query == endless { Duration::from_millis(50) } else { Duration::from_secs(60) };
            let check = check_assertions(dir.path(), &[entry()], &[assertion], limit).remove(0);
            assert_eq!(check.ok, ok, "{query}: {check:?}");
            let is_error = actual.starts_with("could not");
            assert!(check.actual == actual || is_error && check.actual.starts_with(actual), "{query}: {check:?}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
