//! What is checked of a restored cluster, on a private server: that it recovers, `pg_amcheck`, the policy's assertions,
//! and page checksums once it is stopped.

use super::{
    fingerprint,
    programs::Programs,
    psql::{SEPARATOR, complaint, environment},
    query::one_statement,
    server::{CONNECTABLE, STALL_LIMIT, Server, Start},
};
use crate::{
    core::{
        failure::{Code, Failure},
        fingerprint::{Content, Fingerprints, Place, Table},
        log::Lsn,
        policy::Assertion,
    },
    sources::{
        CheckOptions, RestoredCheck,
        answers::{Answer, ROWS_MAX, judge},
        unanswered,
    },
    world::{
        self,
        programs::{Ended, Halt, NotEnded, Presence, Program},
    },
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a program that reads the whole cluster may take.
const WHOLE_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How much of what such a program finds is read; it is ended when it finds more.
const FOUND_BYTES_MAX: usize = 256 * 1024;
/// How much of the answer to an assertion is read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How many findings of a check are shown, and how many characters of them.
const SHOWN: usize = 5;
const SHOWN_CHARACTERS: usize = 1000;
/// The most connections of `pg_amcheck`.
const JOBS_MAX: usize = 8;
/// The database that assertions are put to where the source names none.
const DATABASE_DEFAULT: &str = "postgres";

/// The checks of one restored cluster. All share one start of a server, which ends with this.
pub struct Checks {
    dir: PathBuf,
    options: CheckOptions,
    halt: Halt,
    programs: Option<Programs>,
    server: Option<Server>,
    /// What could not be checked, and why.
    unchecked: Vec<String>,
    /// Dropped after the server: whoever halts this waits for both.
    _presence: Presence,
}

impl Checks {
    /// The checks of the cluster in `dir`. Nothing runs yet.
    pub fn new(dir: &Path, options: CheckOptions, halt: Halt) -> Self {
        let presence = halt.enter();
        let (programs, server, unchecked) = (None, None, Vec::new());
        // The server works elsewhere.
        let dir = world::absolute(dir);
        Checks { dir, options, halt, programs, server, unchecked, _presence: presence }
    }

    fn start(&mut self, pause_before: Option<Lsn>) -> Result<Start, Failure> {
        let programs = Programs::find(&self.dir, self.options.bin_dir.as_deref(), &self.halt)?;
        self.programs = Some(programs.clone());
        Ok(Start {
            data: self.dir.clone(),
            programs,
            user: self.options.user.clone(),
            stall: STALL_LIMIT,
            halt: self.halt.clone(),
            pause_before,
        })
    }

    /// Has a server recover to the place that fingerprints belong to, and compares them with what it shows. To be called
    /// before the own checks: they go on from there.
    pub fn compare(&mut self, fingerprints: &Fingerprints, place: &Place) -> Result<Vec<RestoredCheck>, Failure> {
        let start = self.start(Some(place.at))?;
        let expected = format!("the server recovers to {}, which the fingerprints belong to", place.at);
        let check = |ok, actual| RestoredCheck { name: "fingerprints".to_owned(), ok, expected, actual };
        let server = match Server::start(start) {
            Ok(server) => server,
            Err(failure) if failure.code == Code::Failed => return Ok(vec![check(false, failure.to_string())]),
            Err(failure) => return Err(failure),
        };
        let mut checks = vec![check(true, format!("recovered to {}", place.at))];
        for table in &fingerprints.tables {
            match &table.content {
                Some(content) => {
                    checks.push(comparison(table, content, content_of(&server, &fingerprints.database, table)));
                }
                None => self.unchecked.push(format!(
                    "the fingerprint of {} was not taken with the snapshot: {}",
                    table.full_name(),
                    table.not_taken.as_deref().unwrap_or_default()
                )),
            }
        }
        server.stop()?;
        Ok(checks)
    }

    /// Starts the server, and runs the database's own checks.
    ///
    /// Fails where this host cannot try; a cluster that does not recover is a check that did not hold.
    pub fn check_restored(&mut self) -> Result<Vec<RestoredCheck>, Failure> {
        let start = self.start(None)?;
        let (ok, actual) = match Server::start(start) {
            Ok(server) => {
                let replayed = server.replayed();
                self.server = Some(server);
                let until = replayed.until.map(|until| format!("recovered to {until}")).unwrap_or_default();
                let commit = replayed.last_commit_at.map(|at| format!(", last commit at {at}")).unwrap_or_default();
                (true, format!("{until}{commit}"))
            }
            Err(failure) if failure.code == Code::Failed => (false, failure.to_string()),
            Err(failure) => return Err(failure),
        };
        let expected = "the server recovers and answers".to_owned();
        let mut checks = vec![RestoredCheck { name: "recovery".to_owned(), ok, expected, actual }];
        checks.extend(self.amcheck());
        Ok(checks)
    }

    /// Puts the assertions to the server, each for at most `limit`.
    pub fn check_assertions(&self, assertions: &[Assertion], limit: Duration) -> Vec<RestoredCheck> {
        let database = self.options.database.as_deref().unwrap_or(DATABASE_DEFAULT);
        let put = |assertion: &Assertion| {
            let answered = match &self.server {
                Some(server) => put(server, database, &assertion.query, limit),
                None => Err("the server does not run".to_owned()),
            };
            match answered {
                Ok(answer) => judge(assertion, &answer),
                Err(why) => unanswered(assertion, why),
            }
        };
        assertions.iter().map(put).collect()
    }

    /// Stops the server and runs the checks that need it stopped. Also returns what was not checked, and why.
    pub fn finish(mut self) -> Result<(Vec<RestoredCheck>, Vec<String>), Failure> {
        let Some(server) = self.server.take() else { return Ok((Vec::new(), self.unchecked)) };
        let has_checksums = server.has_checksums();
        server.stop()?;
        let mut checks = Vec::new();
        match self.programs.as_ref().and_then(|programs| programs.path("pg_checksums")) {
            _ if !has_checksums => {
                self.unchecked
                    .push("pg_checksums did not run: data checksums are not enabled in this cluster".to_owned());
            }
            None => self.unchecked.push("pg_checksums did not run: the programs of the server lack it".to_owned()),
            Some(path) => {
                let arguments = ["--check".into(), "-D".into(), (&self.dir).into()];
                let ended = self.run(path, arguments.into(), Vec::new());
                checks
                    .push(found("pg_checksums", "no page with a wrong checksum", ended, |ended| ended.stderr.clone()));
            }
        }
        Ok((checks, self.unchecked))
    }

    fn run(
        &self,
        path: PathBuf,
        arguments: Vec<OsString>,
        environment: Vec<(&'static str, OsString)>,
    ) -> Result<Ended, NotEnded> {
        let limit = WHOLE_LIMIT;
        Program { path, arguments, environment, limit, output_bytes_max: FOUND_BYTES_MAX }.run(&self.halt)
    }

    /// Runs `pg_amcheck` over every database that allows connections.
    fn amcheck(&mut self) -> Option<RestoredCheck> {
        let server = self.server.as_ref()?;
        let Some(path) = self.programs.as_ref().and_then(|programs| programs.path("pg_amcheck")) else {
            self.unchecked.push("pg_amcheck did not run: the programs of the server lack it".to_owned());
            return None;
        };
        let sql = "select 1 from pg_catalog.pg_available_extensions where name = 'amcheck'";
        match server.psql().ask(CONNECTABLE, sql) {
            Ok(rows) if rows.is_empty() => {
                self.unchecked.push("pg_amcheck did not run: the server lacks the extension amcheck".to_owned());
                return None;
            }
            // What is wrong will stop the program too, and be its finding.
            _ => {}
        }
        let closed = "select datname from pg_catalog.pg_database where not datallowconn and datname <> 'template0'";
        let closed = server.psql().ask(CONNECTABLE, closed).unwrap_or_default();
        let mut arguments: Vec<OsString> = ["--all", "--no-password"].map(OsString::from).into();
        if self.options.is_scratch {
            arguments.push("--install-missing".into());
        }
        let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(JOBS_MAX);
        arguments.push(format!("--jobs={jobs}").into());
        arguments.push(format!("--maintenance-db={}", server.psql().conninfo(CONNECTABLE)).into());
        // Whatever roles and databases are set to: the extension can be made, and nothing ends a long check.
        let options = "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0";
        let ended = self.run(path, arguments, environment(options.to_owned()));
        let databases =
            closed.into_iter().flatten().take(SHOWN).map(|name| format!("database {name} allows no connections"));
        let skipped = ended.as_ref().map(|ended| skipped(&ended.stderr)).unwrap_or_default();
        self.unchecked.extend(databases.chain(skipped).map(|why| format!("pg_amcheck left something out: {why}")));
        Some(found("pg_amcheck", "no corruption", ended, |ended| String::from_utf8_lossy(&ended.stdout).into_owned()))
    }
}

/// The databases that `pg_amcheck` left out.
fn skipped(said: &str) -> Vec<String> {
    let line = |line: &str| Some(line.split_once("warning: skipping ")?.1.chars().take(200).collect());
    said.lines().filter_map(line).take(SHOWN).collect()
}

/// What a program that looks for damage found: nothing where it says so by its exit code and by saying nothing.
fn found(
    name: &str,
    expected: &str,
    ended: Result<Ended, NotEnded>,
    findings: impl Fn(&Ended) -> String,
) -> RestoredCheck {
    let actual = match &ended {
        Err(error) => format!("could not be run: {error}"),
        Ok(ended) if ended.code == Some(0) && !ended.is_cut => expected.to_owned(),
        Ok(ended) => {
            let text = findings(ended);
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let shown = if lines.is_empty() { ended.complaint() } else { lines[..lines.len().min(SHOWN)].join("; ") };
            shown.chars().take(SHOWN_CHARACTERS).collect()
        }
    };
    RestoredCheck { name: name.to_owned(), ok: actual == expected, expected: expected.to_owned(), actual }
}

/// What a table of a restored server has.
fn content_of(server: &Server, database: &str, table: &Table) -> Result<Content, String> {
    let query = fingerprint::query(table);
    let ended = server.psql().run(database, &[fingerprint::SETTINGS, &query], WHOLE_LIMIT, ANSWER_BYTES_MAX);
    let ended = ended.map_err(|error| error.to_string())?;
    if ended.code != Some(0) {
        return Err(complaint(&ended));
    }
    let said = String::from_utf8_lossy(&ended.stdout);
    let content = said.trim_end_matches('\n').split_once(SEPARATOR);
    let content =
        content.and_then(|(rows, digest)| Some(Content { rows: rows.parse().ok()?, digest: digest.to_owned() }));
    content.ok_or_else(|| "the server gave no answer".to_owned())
}

/// Digests stay out of it: of a small table, anybody who sees its digest could find out what is in it.
fn comparison(table: &Table, taken: &Content, found: Result<Content, String>) -> RestoredCheck {
    let rows =
        |content: &Content| if content.rows == 1 { "1 row".to_owned() } else { format!("{} rows", content.rows) };
    let ok = found.as_ref() == Ok(taken);
    let actual = match &found {
        Ok(found) if ok => format!("{}, the same", rows(found)),
        Ok(found) if found.rows == taken.rows => format!("{}, and not the same", rows(found)),
        Ok(found) => rows(found),
        Err(why) => format!("could not be read: {why}"),
    };
    let expected = format!("{}, as when the fingerprint was taken", rows(taken));
    RestoredCheck { name: format!("fingerprint of {}", table.full_name()), ok, expected, actual }
}

/// Puts one query, so that it cannot be more than that and cannot write.
fn put(server: &Server, database: &str, query: &str, limit: Duration) -> Result<Answer, String> {
    let statement = one_statement(query)?;
    // Rows come as they are found: neither the server nor psql keeps all of them. A comment must not hide the end.
    let copy = format!("copy ({statement}\n) to stdout (format text, delimiter '|', null '')");
    let ended = server.psql().run(database, &["begin read only", &copy], limit, ANSWER_BYTES_MAX);
    match ended {
        Ok(ended) if ended.code == Some(0) || ended.is_cut => Ok(answer(&ended.stdout, ended.is_cut)),
        Ok(ended) => {
            let why = complaint(&ended);
            let is_late = why.contains("canceling statement due to statement timeout");
            Err(if is_late { NotEnded::Overdue(limit).to_string() } else { why })
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Reads rows as `copy` writes them; `is_cut` where there were more bytes than these.
fn answer(bytes: &[u8], is_cut: bool) -> Answer {
    let mut answer = Answer::default();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let is_whole = line.ends_with(b"\n");
        let row = line.strip_suffix(b"\n").unwrap_or(line);
        if answer.rows == 0 {
            let cells = cells(row);
            // Of a row that is not all here nobody can say that it is the one that was expected.
            answer.columns = if is_whole { cells.len() } else { usize::MAX };
            answer.first = cells.join("|");
        }
        answer.rows += 1;
        if answer.rows > ROWS_MAX {
            break;
        }
    }
    if is_cut && answer.rows <= 1 {
        answer.columns = usize::MAX;
    }
    answer
}

/// The cells of a row, their escapes undone.
fn cells(row: &[u8]) -> Vec<String> {
    let mut cells = vec![Vec::new()];
    let mut bytes = row.iter();
    while let Some(byte) = bytes.next() {
        let last = cells.last_mut().expect("there is always one");
        match byte {
            b'|' => cells.push(Vec::new()),
            b'\\' => last.push(match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => *other,
                None => b'\\',
            }),
            other => last.push(*other),
        }
    }
    cells.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_compared() {
        let content = |rows, digest: &str| Content { rows, digest: digest.to_owned() };
        let (schema, name) = ("public".to_owned(), "posting".to_owned());
        let table = Table { schema, name, is_partitioned: false, content: None, not_taken: None };
        let compared = |found| {
            let check = comparison(&table, &content(2, "1 2"), found);
            assert_eq!(
                (check.name.as_str(), check.expected.contains("2 rows")),
                ("fingerprint of public.posting", true)
            );
            (check.ok, check.actual)
        };
        for (found, ok, actual) in [
            (Ok(content(2, "1 2")), true, "2 rows, the same"),
            (Ok(content(2, "1 3")), false, "2 rows, and not the same"),
            (Ok(content(1, "1 2")), false, "1 row"),
            (Err("gone".to_owned()), false, "could not be read: gone"),
        ] {
            assert_eq!(compared(found), (ok, actual.to_owned()));
        }
    }

    #[test]
    fn rows_are_read() {
        let of = |text: &str, is_cut: bool| answer(text.as_bytes(), is_cut);
        for (text, rows, columns, first) in [
            ("", 0, 0, ""),
            ("3\n", 1, 1, "3"),
            ("\n", 1, 1, ""),
            ("a|b\nc|d\n", 2, 2, "a|b"),
            ("a\\|b\\\\\\n\\tc\n", 1, 1, "a|b\\\n\tc"),
            ("é|\n", 1, 2, "é|"),
        ] {
            let expected = Answer { rows, columns, first: first.to_owned() };
            assert_eq!(of(text, false), expected, "{text:?}");
        }
        assert_eq!(of("3", true).columns, usize::MAX);
        assert_eq!(of("3\n", true).columns, usize::MAX);
        assert_eq!(of(&"1\n".repeat(5000), true).rows, ROWS_MAX + 1);
    }
}
