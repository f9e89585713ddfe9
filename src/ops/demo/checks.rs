//! What must hold of the ledger that came back. Each check says what was expected, what was found, and what it
//! would mean if it did not hold.

use super::{
    audit::{self, Totals},
    traffic::Acknowledged,
};
use crate::core::{
    failure::Failure,
    result::{CheckResult, CheckStatus, Verdict},
};
use std::path::Path;

/// A check and the verdict that it leads to when it fails.
pub(super) struct Check {
    pub(super) result: CheckResult,
    pub(super) otherwise: Verdict,
}

impl Check {
    pub(super) fn new(name: &str, otherwise: Verdict, held: bool, expected: String, actual: String) -> Self {
        let status = if held { CheckStatus::Passed } else { CheckStatus::Failed };
        Check { result: CheckResult { name: name.to_owned(), status, expected, actual }, otherwise }
    }

    /// One whose two sides have to read the same.
    pub(super) fn equal(name: &str, otherwise: Verdict, expected: String, actual: String) -> Self {
        Check::new(name, otherwise, expected == actual, expected, actual)
    }
}

/// The worst that the failed checks say.
pub(super) fn verdict(checks: &[Check]) -> Verdict {
    let failed = |verdict: Verdict| {
        checks.iter().any(|check| check.result.status == CheckStatus::Failed && check.otherwise == verdict)
    };
    [Verdict::FailIntegrity, Verdict::FailCompleteness, Verdict::Inconclusive]
        .into_iter()
        .find(|verdict| failed(*verdict))
        .unwrap_or(Verdict::Pass)
}

/// The rules of double entry.
pub(super) fn double_entry(ledger: &Path) -> Result<Vec<Check>, Failure> {
    let unbalanced = audit::unbalanced_transfers(ledger)?;
    let wrong = audit::wrong_balances(ledger)?;
    let transfers = unbalanced.first().map(|first| format!("{} do not, such as {}", unbalanced.len(), first.transfer));
    let accounts = wrong.first().map(|first| format!("{} are not, such as account {}", wrong.len(), first.account));
    let check = |name: &str, all: &str, found: Option<String>| {
        Check::equal(name, Verdict::FailIntegrity, all.to_owned(), found.unwrap_or_else(|| all.to_owned()))
    };
    Ok(vec![
        check("the postings of every transfer sum to zero", "all do", transfers),
        check("every account's balance is the sum of its postings", "all are", accounts),
    ])
}

/// Whether everything that was acknowledged before the snapshot came back, and nothing by halves.
pub(super) fn completeness(restored: &Totals, before: Acknowledged, acknowledged: &[Acknowledged]) -> Vec<Check> {
    let last = restored.last_transfer.unwrap_or(0);
    let numbered_without_gaps = u64::try_from(last) == Ok(restored.transfers);
    let ends_whole = acknowledged.iter().any(|commit| commit.last_transfer == last);
    vec![
        Check::new(
            "every transfer acknowledged before the snapshot began came back",
            Verdict::FailCompleteness,
            numbered_without_gaps && last >= before.last_transfer,
            format!("all from 1 to at least {}", before.last_transfer),
            format!("{} transfers, the newest is {last}", restored.transfers),
        ),
        Check::new(
            "the ledger ends where an acknowledged commit ended",
            Verdict::FailIntegrity,
            ends_whole,
            "yes".to_owned(),
            if ends_whole { "yes" } else { "no" }.to_owned(),
        ),
    ]
}

/// Compares every row that came back with the ledger as the disaster found it.
///
/// Bets settled and balances moved since are no difference; the other columns never change.
pub(super) fn same_rows(restored: &Path, at_disaster: &Path) -> Result<Check, Failure> {
    const FIXED: [(&str, &[&str]); 4] = [
        ("account", &["owner", "kind", "currency", "opened_at"]),
        ("bet", &["reference", "player", "event", "market", "selection", "odds_milli", "stake_minor", "placed_at"]),
        ("transfer", &["reference", "kind", "player", "bet", "made_at"]),
        ("posting", &["transfer", "account_id", "amount_minor", "posted_at", "memo"]),
    ];
    let differing = audit::read_beside(restored, at_disaster, |connection| {
        let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let mut differing = Vec::new();
        for (table, columns) in FIXED {
            let of = |side: &str| columns.iter().map(|name| format!("{side}.{name}")).collect::<Vec<_>>().join(", ");
            let rows = one(&format!(
                "select count(*) from main.{table} r left join beside.{table} s on s.id = r.id
                 where s.id is null or ({}) is not ({})",
                of("r"),
                of("s")
            ))?;
            differing.push((table, rows));
        }
        let postings =
            "select (select count(*) from beside.posting where transfer <= (select max(id) from main.transfer))
                        - (select count(*) from main.posting)";
        differing.push(("posting that is absent", one(postings)?));
        Ok(differing)
    })?;
    let found: Vec<String> =
        differing.iter().filter(|(_, rows)| *rows != 0).map(|(of, rows)| format!("{rows} of {of}")).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    let name = "rows that differ from the ledger as the disaster found it";
    Ok(Check::equal(name, Verdict::FailIntegrity, "none".to_owned(), found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::demo::ledger::{self, Writer};
    use rusqlite::Connection;
    use std::fs;

    #[test]
    fn every_loss_and_every_change_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (source, restored) = (dir.path().join("source.db"), dir.path().join("restored.db"));
        let at = "2026-11-22T10:00:00Z".parse().unwrap();
        ledger::create(&source, 2_000, 1, at).unwrap();
        fs::copy(&source, &restored).unwrap();
        let mut writer = Writer::open(&source, 2).unwrap();
        let later = writer.append(300, at).unwrap().last_transfer;
        drop(writer);
        let good = audit::totals(&restored).unwrap();
        let last = Acknowledged { last_transfer: good.last_transfer.unwrap(), committed_at: at };
        let lost = Acknowledged { last_transfer: later, committed_at: at };
        let statuses = |before, acknowledged: &[Acknowledged]| {
            let totals = audit::totals(&restored).unwrap();
            let mut checks = completeness(&totals, before, acknowledged);
            checks.extend(double_entry(&restored).unwrap());
            checks.push(same_rows(&restored, &source).unwrap());
            let failed: Vec<usize> =
                (0..checks.len()).filter(|at| checks[*at].result.status == CheckStatus::Failed).collect();
            (failed, verdict(&checks))
        };
        assert_eq!(statuses(last, &[last, lost]), (vec![], Verdict::Pass));
        assert_eq!(statuses(lost, &[last, lost]), (vec![0], Verdict::FailCompleteness));
        assert_eq!(statuses(last, &[lost]), (vec![1], Verdict::FailIntegrity));
        let break_it = |sql: &str| {
            fs::copy(&restored, dir.path().join("good.db")).unwrap();
            let connection = Connection::open(&restored).unwrap();
            connection.execute_batch(&format!("pragma foreign_keys = off; {sql}")).unwrap();
            drop(connection);
            let found = statuses(last, &[last, lost]);
            fs::copy(dir.path().join("good.db"), &restored).unwrap();
            found.0
        };
        for (sql, failed) in [
            ("update posting set amount_minor = amount_minor + 1 where id = 5", vec![2, 3, 4]),
            ("update account set balance_minor = balance_minor + 1 where id = 5", vec![3]),
            ("update transfer set reference = 'x' where id = 5", vec![4]),
            ("update bet set odds_milli = 9999 where id = 5", vec![4]),
            ("update account set owner = 'x' where id = 5", vec![4]),
            ("delete from posting where transfer = 5; delete from transfer where id = 5", vec![0, 3, 4]),
        ] {
            assert_eq!(break_it(sql), failed, "{sql}");
        }
        assert_eq!(statuses(last, &[last]), (vec![], Verdict::Pass));
    }
}
