//! Other processes that use a database: this test binary, started again, takes SQL on stdin.

use rusqlite::Connection;
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

const VARIABLE: &str = "RECOUP_TEST_DATABASE";
const ANSWER: &str = "answer: ";

/// A process that has a database open.
pub(super) struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Shell {
    /// Starts a process that opens the database.
    pub(super) fn open(database: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sources::sqlite::tests::shell::child_process", "--nocapture"])
            .env(VARIABLE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut shell = Shell { child, input, output };
        assert_eq!(shell.answer(), "ready");
        shell
    }

    /// Has it run SQL; panics unless that worked.
    pub(super) fn run(&mut self, sql: &str) {
        assert_eq!(self.try_run(sql), "done", "{sql}");
    }

    /// Has it run SQL and gives its answer.
    pub(super) fn try_run(&mut self, sql: &str) -> String {
        self.tell(sql);
        self.answer()
    }

    /// Has it begin something without waiting for it to end.
    pub(super) fn tell(&mut self, sql: &str) {
        writeln!(self.input.as_mut().unwrap(), "{}", sql.replace('\n', " ")).unwrap();
    }

    /// Waits for the answer to something told.
    pub(super) fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the other process ended");
            if let Some(at) = line.find(ANSWER) {
                return line[at + ANSWER.len()..].trim_end().to_owned();
            }
        }
    }

    /// Kills it in the middle of whatever it does.
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Has it close the database and end.
    pub(super) fn quit(mut self) {
        self.input = None;
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a ledger of postings whose amounts add up to nothing.
pub(super) fn create_ledger(database: &Path, pragmas: &str, transfers: u32) {
    let mut shell = Shell::open(database);
    shell.run(&format!("{pragmas}; CREATE TABLE posting(id INTEGER PRIMARY KEY, transfer, amount, note);"));
    shell.run(&format!("CREATE INDEX by_transfer ON posting(transfer); {}", post(transfers)));
    shell.quit();
}

/// SQL for some transfers in one transaction, each of them two postings.
pub(super) fn post(transfers: u32) -> String {
    format!(
        "INSERT INTO posting(transfer, amount, note)
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {transfers}),
              transfer(t, amount) AS MATERIALIZED (SELECT hex(randomblob(8)), abs(random() % 1000) FROM n)
         SELECT t, amount * side, hex(randomblob(60)) FROM transfer, (SELECT 1 AS side UNION ALL SELECT -1);"
    )
}

/// The body of the other process; does nothing in the ordinary run of the tests.
#[test]
fn child_process() {
    let Some(database) = crate::world::environment(VARIABLE) else { return };
    let connection = Connection::open(database).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection.execute_batch("PRAGMA synchronous=OFF").unwrap(); // these crashes are of processes, not of machines
    let answer = |text: String| {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{ANSWER}{text}").unwrap();
        output.flush().unwrap();
    };
    answer("ready".to_owned());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let result = match line.strip_prefix(".keep posting") {
            Some(_) => keep_posting(&connection),
            None => connection.execute_batch(&line),
        };
        answer(result.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
    }
}

/// Posts until it is killed, with an update, a deletion or a checkpoint now and then.
fn keep_posting(connection: &Connection) -> rusqlite::Result<()> {
    for round in 0_u64.. {
        connection.execute_batch(&post(3))?;
        match round % 10 {
            3 => connection
                .execute_batch("UPDATE posting SET note = hex(randomblob(90)) WHERE id % 50 = abs(random() % 50)")?,
            6 => connection.execute_batch(
                "DELETE FROM posting WHERE transfer IN (SELECT transfer FROM posting ORDER BY random() LIMIT 2)",
            )?,
            9 => connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)")?,
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
