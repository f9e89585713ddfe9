//! Counts, sums and the rules of double entry, asked of a ledger without leaving a trace in it.

use super::ledger::BUSY_TIMEOUT;
use crate::core::{
    failure::{Code, Failure},
    time::Timestamp,
};
use rusqlite::{Connection, OpenFlags, OptionalExtension, backup::Backup};
use std::{path::Path, time::Duration};

/// How much a ledger holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Accounts, the platform's own included.
    pub accounts: u64,
    /// Bets, open and settled.
    pub bets: u64,
    /// Transfers.
    pub transfers: u64,
    /// Postings.
    pub postings: u64,
    /// All postings together; zero in a ledger that balances.
    pub postings_sum_minor: i64,
    /// All stored balances together; zero in a ledger that balances.
    pub balances_sum_minor: i64,
    /// What players have staked.
    pub stakes_minor: i64,
    /// What was paid out for won bets, before tax.
    pub payouts_minor: i64,
    /// The newest transfer's id.
    pub last_transfer: Option<i64>,
    /// When the newest transfer was made.
    pub last_transfer_at: Option<Timestamp>,
}

/// A transfer that breaks the rule of double entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unbalanced {
    /// The transfer's id.
    pub transfer: i64,
    /// How many postings it has; at least two are needed.
    pub postings: u64,
    /// What they sum to.
    pub sum_minor: i64,
}

/// An account whose stored balance is not the sum of its postings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongBalance {
    /// The account's id.
    pub account: i64,
    /// What the account says.
    pub stored_minor: i64,
    /// What its postings sum to.
    pub postings_minor: i64,
}

/// Counts and sums, all of one moment.
pub fn totals(path: &Path) -> Result<Totals, Failure> {
    read(path, |connection| {
        let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let two = |sql: &str| connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        let (accounts, balances_sum_minor) = two("select count(*), coalesce(sum(balance_minor), 0) from account")?;
        let (postings, postings_sum_minor) = two("select count(*), coalesce(sum(amount_minor), 0) from posting")?;
        let (bets, stakes_minor) = two("select count(*), coalesce(sum(stake_minor), 0) from bet")?;
        let won = "select coalesce(sum(stake_minor * odds_milli / 1000), 0) from bet where state = 'won'";
        let newest = "select id, made_at from transfer order by id desc limit 1";
        let newest: Option<(i64, String)> =
            connection.query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        Ok(Totals {
            accounts: accounts as u64,
            bets: bets as u64,
            transfers: one("select count(*) from transfer")? as u64,
            postings: postings as u64,
            postings_sum_minor,
            balances_sum_minor,
            stakes_minor,
            payouts_minor: one(won)?,
            last_transfer: newest.as_ref().map(|(id, _)| *id),
            last_transfer_at: newest.and_then(|(_, made_at)| made_at.parse().ok()),
        })
    })
}

/// The transfers whose postings do not sum to zero, or that have fewer than two.
pub fn unbalanced_transfers(path: &Path) -> Result<Vec<Unbalanced>, Failure> {
    let sql = "select t.id, count(p.id), coalesce(sum(p.amount_minor), 0) from transfer t
        left join posting p on p.transfer = t.id group by t.id having sum(p.amount_minor) <> 0 or count(p.id) < 2";
    read(path, |connection| {
        connection
            .prepare(sql)?
            .query_map([], |row| {
                let postings: i64 = row.get(1)?;
                Ok(Unbalanced { transfer: row.get(0)?, postings: postings as u64, sum_minor: row.get(2)? })
            })?
            .collect()
    })
}

/// The accounts whose stored balance is not the sum of their postings.
pub fn wrong_balances(path: &Path) -> Result<Vec<WrongBalance>, Failure> {
    // The index is kept out of it: in its order the rows lie all over the file.
    let sql = "select a.id, a.balance_minor, coalesce(p.sum_minor, 0) from account a left join
        (select account_id, sum(amount_minor) as sum_minor from posting not indexed group by account_id) p
        on p.account_id = a.id where a.balance_minor <> coalesce(p.sum_minor, 0) order by a.id";
    read(path, |connection| {
        connection
            .prepare(sql)?
            .query_map([], |row| {
                Ok(WrongBalance { account: row.get(0)?, stored_minor: row.get(1)?, postings_minor: row.get(2)? })
            })?
            .collect()
    })
}

/// Reads one moment of a ledger and leaves no file behind.
fn read<T>(path: &Path, queries: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Failure> {
    let run = || {
        let connection = open_read_only(path)?;
        let transaction = connection.unchecked_transaction()?;
        let result = queries(&transaction)?;
        transaction.finish()?;
        Ok(result)
    };
    run().map_err(|error| failure(path, "could not be read", error))
}

/// Reads one ledger that is at rest with another one, also at rest, attached as `beside`.
pub(super) fn read_beside<T>(
    path: &Path,
    beside: &Path,
    queries: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, Failure> {
    let run = || {
        let connection = open_read_only(path)?;
        let uri = immutable_uri(beside).into_string().unwrap_or_default();
        connection.execute("attach database ?1 as beside", [uri])?;
        queries(&connection)
    };
    run().map_err(|error| failure(path, "could not be compared", error))
}

/// Copies a ledger that somebody may have open, as it is at one moment, into one file that needs no other.
pub(super) fn copy(path: &Path, to: &Path) -> Result<(), Failure> {
    let run = || {
        let source = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        source.busy_timeout(BUSY_TIMEOUT)?;
        let mut target = Connection::open(to)?;
        Backup::new(&source, &mut target)?.run_to_completion(i32::MAX, Duration::ZERO, None)?;
        // A reader without permission to write beside it can open it, too.
        target.execute_batch("pragma journal_mode = delete")
    };
    run().map_err(|error| failure(path, "could not be copied", error))
}

/// Without a WAL nobody has the file open, so it is read as immutable: SQLite would make a WAL and leave it.
fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let connection = if Path::new(&wal).exists() {
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?
    } else {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(immutable_uri(path), flags)?
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn immutable_uri(path: &Path) -> std::ffi::OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' => uri.extend(format!("%{byte:02X}").bytes()),
            _ => uri.push(*byte),
        }
    }
    uri.extend(b"?immutable=1");
    std::ffi::OsString::from_vec(uri)
}

pub(super) fn failure(path: &Path, what: &str, error: rusqlite::Error) -> Failure {
    Failure::new(Code::Failed, format!("the ledger {} {what}", path.display())).cause(error)
}
