//! What the query of an assertion gave, and whether that was expected.

use super::RestoredCheck;
use crate::core::policy::{Assertion, Expectation};

/// How many rows are counted at most.
pub(super) const ROWS_MAX: u64 = 1_000;

/// What a query gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The rows, as far as they were counted.
    pub(super) rows: u64,
    /// The columns of a row.
    pub(super) columns: usize,
    /// The first row, its cells joined by bars.
    pub(super) first: String,
}

/// Judges an answer.
pub(super) fn judge(assertion: &Assertion, answer: &Answer) -> RestoredCheck {
    let ok = match &assertion.expect {
        Expectation::NoRows => answer.rows == 0,
        Expectation::Rows => answer.rows > 0,
        Expectation::Value(value) => answer.rows == 1 && answer.columns == 1 && answer.first == *value,
    };
    // What is found goes to terminals, records and reports, and a row may be about a person: rows are counted, not shown.
    let actual = match (&assertion.expect, answer.rows) {
        (_, 0) => "no rows".to_owned(),
        (Expectation::Rows, _) => "rows".to_owned(),
        (Expectation::Value(value), 1) if ok => value.clone(),
        (Expectation::Value(_), 1) if answer.columns == 1 => "another value".to_owned(),
        (Expectation::Value(_), 1) => format!("1 row of {} columns", answer.columns),
        (_, 1) => "1 row".to_owned(),
        (_, rows) if rows > ROWS_MAX => format!("more than {ROWS_MAX} rows"),
        (_, rows) => format!("{rows} rows"),
    };
    RestoredCheck { name: assertion.name.clone(), ok, expected: assertion.expect.to_string(), actual }
}
