//! The ledger of a betting platform in SQLite: made to order, kept busy, and checked.
//!
//! Double entry: the postings of every transfer sum to zero, and the balance stored with each account is the sum
//! of its postings. Everything follows from a seed; moments come from the caller.

use super::{
    audit::{Totals, failure, totals},
    book::{Book, CURRENCIES, FIRST_PLAYER, OWN_KINDS, OpenBet, currency_of, own_account},
    market::{Dice, player_name},
};
use crate::core::{
    failure::{Code, Failure},
    time::Timestamp,
};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::{
    collections::VecDeque,
    fs::OpenOptions,
    path::{Path, PathBuf},
    time::Duration,
};

const SCHEMA: &str = "
create table account(
  id            integer primary key,
  owner         text not null,
  kind          text not null check (kind in ('player', 'house', 'bonus', 'tax', 'bank')),
  currency      text not null check (length(currency) = 3),
  opened_at     text not null,
  balance_minor integer not null default 0
);
create table bet(
  id          integer primary key,
  reference   text not null,
  player      integer not null references account(id),
  event       text not null,
  market      text not null,
  selection   text not null,
  odds_milli  integer not null check (odds_milli > 1000),
  stake_minor integer not null check (stake_minor > 0),
  state       text not null default 'open' check (state in ('open', 'won', 'lost', 'void')),
  placed_at   text not null,
  settled_at  text
);
create table transfer(
  id        integer primary key,
  reference text not null,
  kind      text not null check (kind in ('deposit', 'stake', 'payout', 'refund', 'withdrawal')),
  player    integer not null references account(id),
  bet       integer references bet(id),
  made_at   text not null
);
create table posting(
  id           integer primary key,
  transfer     integer not null references transfer(id),
  account_id   integer not null references account(id),
  amount_minor integer not null,
  posted_at    text not null,
  memo         text not null
);
";

/// Made after the rows, sorted once; a hundred thousand rows take a third of the time so.
const INDICES: &str = "
create unique index bet_by_reference on bet(reference);
create index bet_by_player on bet(player, placed_at);
create unique index transfer_by_reference on transfer(reference);
create index transfer_by_player on transfer(player, made_at);
create index posting_by_transfer on posting(transfer);
create index posting_by_account on posting(account_id, posted_at);
";

/// How far back the history of a new ledger reaches.
const HISTORY_DAYS: i64 = 400;
const TRANSFERS_PER_COMMIT: u32 = 20_000;
/// What a posting and its share of everything else takes on disk, measured on ledgers from 20 MB to 1 GB.
const BYTES_PER_POSTING: u64 = 237;
/// How long to wait for another writer.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// How many postings make a ledger of about `bytes`.
pub fn postings_for_bytes(bytes: u64) -> u64 {
    bytes / BYTES_PER_POSTING
}

/// Makes a new ledger in WAL mode with at least `postings` postings, the newest at `ends_at`.
///
/// The same numbers give the same ledger. An existing file is refused.
pub fn create(path: &Path, postings: u64, seed: u64, ends_at: Timestamp) -> Result<Totals, Failure> {
    create_telling(path, postings, seed, ends_at, |_| {})
}

/// The same, telling `made` how many postings were made since it was last told.
pub(super) fn create_telling(
    path: &Path,
    postings: u64,
    seed: u64,
    ends_at: Timestamp,
    made: impl Fn(u64),
) -> Result<Totals, Failure> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        Failure::new(Code::Refused, format!("the ledger {} was not made", path.display()))
            .cause(error)
            .safe("nothing was written")
    })?;
    fill(path, postings, seed, ends_at, made).map_err(|error| failure(path, "could not be made", error))?;
    totals(path)
}

fn fill(path: &Path, postings: u64, seed: u64, ends_at: Timestamp, made: impl Fn(u64)) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    // Nobody else sees the file yet, and a crash here leaves nothing that anybody would miss.
    connection.execute_batch(
        "pragma page_size = 4096; pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -65536;
         pragma foreign_keys = off;",
    )?;
    connection.execute_batch(SCHEMA)?;
    let start = ends_at.as_datetime() - chrono::Duration::days(HISTORY_DAYS);
    let history_ms = chrono::Duration::days(HISTORY_DAYS).num_milliseconds() as f64;
    let players = (postings / 100).max(50);
    let mut writer = Writer::new(connection, path, seed, players);
    let transaction = writer.connection.unchecked_transaction()?;
    open_accounts(&transaction, &mut writer.dice, players, &Timestamp::new(start).to_string())?;
    transaction.commit()?;
    let mut written = 0;
    while written < postings {
        let transaction = writer.connection.unchecked_transaction()?;
        let mut book = Book::new(&writer.connection, &mut writer.dice, &mut writer.open_bets, ends_at)?;
        for _ in 0..TRANSFERS_PER_COMMIT {
            let elapsed_ms = (history_ms * (written as f64 / postings as f64)) as i64;
            book.at = Timestamp::new(start + chrono::Duration::milliseconds(elapsed_ms)).to_string();
            let transfer = book.transfer(players)?;
            written += transfer.postings;
            made(transfer.postings);
            if written >= postings {
                break;
            }
        }
        transaction.commit()?;
    }
    writer.connection.execute_batch(INDICES)?;
    writer.connection.execute_batch("pragma synchronous = full; pragma journal_mode = wal;")
}

fn open_accounts(transaction: &Transaction<'_>, dice: &mut Dice, players: u64, at: &str) -> rusqlite::Result<()> {
    let mut insert =
        transaction.prepare("insert into account(id, owner, kind, currency, opened_at) values (?1, ?2, ?3, ?4, ?5)")?;
    for (currency_index, currency) in CURRENCIES.iter().enumerate() {
        for (kind_index, kind) in OWN_KINDS.iter().enumerate() {
            let id = own_account(currency_index as i64, kind_index as i64);
            insert.execute((id, format!("{kind} {currency}"), kind, currency, at))?;
        }
    }
    for id in FIRST_PLAYER..FIRST_PLAYER + players as i64 {
        let currency = CURRENCIES[currency_of(id) as usize];
        insert.execute((id, player_name(dice), "player", currency, at))?;
    }
    Ok(())
}

/// Keeps a ledger busy: more transfers, each call one transaction.
///
/// Several writers, also in several processes, may work on one ledger, each with a seed of its own.
pub struct Writer {
    connection: Connection,
    path: PathBuf,
    dice: Dice,
    players: u64,
    open_bets: VecDeque<OpenBet>,
}

/// What a [`Writer`] has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The newest transfer's id.
    pub last_transfer: i64,
    /// How many postings the call added.
    pub postings: u64,
}

impl Writer {
    fn new(connection: Connection, path: &Path, seed: u64, players: u64) -> Self {
        Writer { connection, path: path.to_owned(), dice: Dice::new(seed), players, open_bets: VecDeque::new() }
    }

    /// Opens a ledger that [`create`] made.
    pub fn open(path: &Path, seed: u64) -> Result<Self, Failure> {
        let open = || {
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
            let players = number("select count(*) from account where kind = 'player'")?;
            let last_transfer = number("select coalesce(max(id), 0) from transfer")?;
            Ok((connection, players as u64, last_transfer as u64))
        };
        let (connection, players, last_transfer) =
            open().map_err(|error| failure(path, "could not be opened", error))?;
        if players == 0 {
            return Err(Failure::new(Code::Failed, format!("the ledger {} has no players", path.display())));
        }
        // The throws of an earlier writer with this seed would make its references again.
        Ok(Writer::new(connection, path, Dice::new(seed).number() ^ last_transfer, players))
    }

    /// Commits `transfers` more transfers in one transaction, all made at `at`.
    pub fn append(&mut self, transfers: u32, at: Timestamp) -> Result<Appended, Failure> {
        let waiting = self.open_bets.clone();
        self.try_append(transfers, at).map_err(|error| {
            self.open_bets = waiting;
            failure(&self.path, "could not be written to", error)
        })
    }

    fn try_append(&mut self, transfers: u32, at: Timestamp) -> rusqlite::Result<Appended> {
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let mut appended = Appended { last_transfer: 0, postings: 0 };
        let mut book = Book::new(&self.connection, &mut self.dice, &mut self.open_bets, at)?;
        for _ in 0..transfers {
            let made = book.transfer(self.players)?;
            appended = Appended { last_transfer: made.id, postings: appended.postings + made.postings };
        }
        transaction.commit()?;
        Ok(appended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::demo::audit::{Unbalanced, WrongBalance, unbalanced_transfers, wrong_balances};

    fn ends_at() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn assert_balanced(path: &Path) -> Totals {
        assert_eq!(unbalanced_transfers(path).unwrap(), []);
        assert_eq!(wrong_balances(path).unwrap(), []);
        let totals = totals(path).unwrap();
        assert_eq!((totals.postings_sum_minor, totals.balances_sum_minor), (0, 0));
        totals
    }

    #[test]
    fn a_new_ledger_balances_and_looks_like_a_betting_platform() {
        let dir = tempfile::tempdir().unwrap();
        // Characters that mean something in a URI.
        let path = dir.path().join("led#ger 100%?.db");
        let totals = create(&path, 20_000, 7, ends_at()).unwrap();
        assert!((20_000..20_005).contains(&totals.postings), "{totals:?}");
        assert!(totals.transfers > 8_000 && totals.bets > 4_000, "{totals:?}");
        assert!(totals.payouts_minor > totals.stakes_minor / 2, "{totals:?}");
        assert!(totals.payouts_minor < totals.stakes_minor * 3 / 2, "{totals:?}");
        let age_seconds = ends_at().seconds_since(totals.last_transfer_at.unwrap());
        assert!((0.0..86_400.0).contains(&age_seconds), "{age_seconds}");
        let bytes = path.metadata().unwrap().len();
        let wanted = postings_for_bytes(bytes);
        assert!((18_000..22_000).contains(&wanted), "{bytes} bytes are held to be {wanted} postings");
        assert_eq!(assert_balanced(&path), totals);
        assert_eq!(files(dir.path()), ["led#ger 100%?.db"], "reading left something behind");

        let connection = Connection::open(&path).unwrap();
        let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(text("pragma journal_mode"), "wal");
        assert_eq!(text("pragma integrity_check"), "ok");
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("select count(*) from pragma_foreign_key_check"), 0);
        assert_eq!(count("select count(*) from account where kind = 'player' and balance_minor < 0"), 0);
        assert_eq!(count("select count(distinct kind) from transfer"), 5);
        assert_eq!(count("select count(distinct state) from bet"), 4);
    }

    #[test]
    fn the_seed_decides_everything() {
        let dir = tempfile::tempdir().unwrap();
        let content = |name: &str, seed| {
            let path = dir.path().join(name);
            create(&path, 1_000, seed, ends_at()).unwrap();
            let mut writer = Writer::open(&path, seed).unwrap();
            writer.append(50, ends_at()).unwrap();
            drop(writer);
            Writer::open(&path, seed).unwrap().append(50, ends_at()).unwrap();
            std::fs::read(&path).unwrap()
        };
        assert!(content("a", 1) == content("b", 1));
        assert!(content("c", 2) != content("d", 3));
    }

    #[test]
    fn writers_share_a_ledger_and_it_stays_balanced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        let before = create(&path, 1_000, 1, ends_at()).unwrap();
        let busy = |seed| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut writer = Writer::open(&path, seed).unwrap();
                (0..20).map(|_| writer.append(7, ends_at()).unwrap().postings).sum::<u64>()
            })
        };
        let keeper = Writer::open(&path, 9).unwrap();
        let (first, second) = (busy(10), busy(11));
        while !first.is_finished() || !second.is_finished() {
            assert_balanced(&path);
        }
        let added = first.join().unwrap() + second.join().unwrap();
        let after = assert_balanced(&path);
        assert_eq!(after.postings, before.postings + added);
        assert_eq!(after.transfers, before.transfers + 2 * 20 * 7);
        drop(keeper);
        assert_eq!(assert_balanced(&path), after);
    }

    #[test]
    fn what_does_not_balance_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        create(&path, 500, 1, ends_at()).unwrap();
        let connection = Connection::open(&path).unwrap();
        let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let account = one("select account_id from posting where id = 1");
        let balance_minor =
            one("select balance_minor from account where id = (select account_id from posting where id = 1)");
        connection.execute("update posting set amount_minor = amount_minor + 5 where id = 1", []).unwrap();
        connection.execute("delete from posting where transfer = 3", []).unwrap();
        drop(connection);
        let found = unbalanced_transfers(&path).unwrap();
        assert_eq!(found[0], Unbalanced { transfer: 1, postings: found[0].postings, sum_minor: 5 });
        assert_eq!(found[1..], [Unbalanced { transfer: 3, postings: 0, sum_minor: 0 }]);
        let wrong = wrong_balances(&path).unwrap();
        let first: &WrongBalance = wrong.iter().find(|wrong| wrong.account == account).unwrap();
        assert_eq!(first.stored_minor, balance_minor);
        assert!(wrong.len() >= 2, "{wrong:?}");
    }

    #[test]
    fn refusals_name_the_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        std::fs::write(&path, "precious").unwrap();
        let refused = create(&path, 1, 1, ends_at()).unwrap_err();
        assert_eq!(refused.code, Code::Refused);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        for failed in [totals(&path).unwrap_err(), totals(&dir.path().join("none.db")).unwrap_err()] {
            assert_eq!(failed.code, Code::Failed);
            assert!(failed.message.contains(".db"), "{failed}");
        }
        assert_eq!(files(dir.path()), ["ledger.db"]);
    }
}
