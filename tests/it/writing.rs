//! Processes that keep writing to a ledger while something else happens to it.

use crate::site::Site;
use recoup::world::{self, Stopwatch};
use rusqlite::{Connection, ErrorCode};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// Tells a process of this program that it is to write, and how.
const ORDER: &str = "RECOUP_TEST_WRITER";

/// What a writing process is told.
#[derive(Serialize, Deserialize)]
struct Order {
    database: PathBuf,
    journal_mode: String,
    busy_timeout_ms: u64,
    /// Removed when it is to end.
    keep_going: PathBuf,
    report: PathBuf,
    /// Made when it has committed for the first time.
    writes: PathBuf,
}

/// What it tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Transactions that were committed.
    pub(crate) commits: u64,
    /// Transactions that were refused because the database was busy.
    pub(crate) busy: u64,
    /// How long the slowest one took.
    pub(crate) longest_ms: u64,
}

/// A process that writes to a ledger as fast as it is let.
pub(crate) struct Writing {
    child: Child,
    order: Order,
}

impl Writing {
    /// Starts one; a transaction waits for locks up to `busy_timeout`.
    pub(crate) fn start(site: &Site, name: &str, journal_mode: &str, busy_timeout: Duration) -> Self {
        let order = Order {
            database: site.ledger(),
            journal_mode: journal_mode.to_owned(),
            busy_timeout_ms: busy_timeout.as_millis() as u64,
            keep_going: site.path().join(format!("{name}.going")),
            report: site.path().join(format!("{name}.report")),
            writes: site.path().join(format!("{name}.writes")),
        };
        fs::write(&order.keep_going, "").unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["writing::a_writing_process", "--exact", "--ignored"])
            .env(ORDER, serde_json::to_string(&order).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut writing = Writing { child, order };
        // On a busy machine it may take seconds to begin; what is tested is what happens beside it.
        while !writing.order.writes.exists() {
            writing.assert_running();
            thread::sleep(Duration::from_millis(5));
        }
        writing
    }

    /// Asserts that nothing has stopped it.
    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "a writing process failed");
    }

    /// Ends it and hears how it fared.
    pub(crate) fn end(mut self) -> Report {
        fs::remove_file(&self.order.keep_going).unwrap();
        assert!(self.child.wait().unwrap().success(), "a writing process failed");
        let report: Report = serde_json::from_slice(&fs::read(&self.order.report).unwrap()).unwrap();
        assert!(report.commits > 0, "{report:?}");
        report
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what [`Writing`] runs in a process of its own.
#[test]
#[ignore = "run by other tests as a process of its own"]
fn a_writing_process() {
    let Some(order) = world::environment(ORDER) else { return };
    let order: Order = serde_json::from_str(&order).unwrap();
    let connection = Connection::open(&order.database).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    set_journal_mode(&connection, &order.journal_mode);
    connection.busy_timeout(Duration::from_millis(order.busy_timeout_ms)).unwrap();
    let mut report = Report { commits: 0, busy: 0, longest_ms: 0 };
    while order.keep_going.exists() {
        let stopwatch = Stopwatch::start();
        match transfer(&connection, "stake") {
            Ok(()) => {
                report.commits += 1;
                if report.commits == 1 {
                    fs::write(&order.writes, "").unwrap();
                }
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                report.busy += 1;
                let _ = connection.execute_batch("rollback");
            }
            Err(error) => panic!("{error:?} after {} commits", report.commits),
        }
        report.longest_ms = report.longest_ms.max(stopwatch.elapsed().as_millis() as u64);
        // As busy as it is, others get their turn.
        thread::sleep(Duration::from_millis(2));
    }
    fs::write(&order.report, serde_json::to_vec(&report).unwrap()).unwrap();
}

/// Sets the journal mode, which in rollback modes is each connection's own.
#[track_caller]
pub(crate) fn set_journal_mode(connection: &Connection, journal_mode: &str) {
    let sql = format!("pragma journal_mode = {journal_mode}");
    let mode: String = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
    assert_eq!(mode, journal_mode);
}

/// One transfer between a player and the house, in one transaction.
pub(crate) fn transfer(connection: &Connection, kind: &str) -> rusqlite::Result<()> {
    connection.execute_batch("begin immediate")?;
    connection.execute_batch(&format!(
        "insert into transfer(reference, kind, player, made_at)
           select hex(randomblob(12)), '{kind}', max(id), '2026-11-22T10:00:00Z' from account where kind = 'player';
         insert into posting(transfer, account_id, amount_minor, posted_at, memo)
           select t.id, t.player, 500, t.made_at, hex(randomblob(200)) from transfer t
             where id = (select max(id) from transfer);
         insert into posting(transfer, account_id, amount_minor, posted_at, memo)
           select t.id, (select min(id) from account where kind = 'house'), -500, t.made_at, ''
             from transfer t where id = (select max(id) from transfer);
         update account set balance_minor = balance_minor + 500
           where id = (select max(id) from account where kind = 'player');
         update account set balance_minor = balance_minor - 500
           where id = (select min(id) from account where kind = 'house');
         commit"
    ))
}
