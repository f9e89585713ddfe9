//! What a proof ends with, and what the demonstration returns.

use super::DemoSchema;
use crate::core::failure::Code;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a proof ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything held. Records of drills that were made earlier say `pass`.
    #[serde(rename = "passed", alias = "pass")]
    Pass,
    /// The data is right, and an objective was missed.
    FailObjective,
    /// Something restored is not what it should be.
    FailIntegrity,
    /// Something that should have come back did not.
    FailCompleteness,
    /// It cannot be said.
    Inconclusive,
    /// It was broken off.
    Aborted,
    /// It was refused before it began.
    Refused,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Verdict::Pass => "passed",
            Verdict::FailObjective => "fail-objective",
            Verdict::FailIntegrity => "fail-integrity",
            Verdict::FailCompleteness => "fail-completeness",
            Verdict::Inconclusive => "inconclusive",
            Verdict::Aborted => "aborted",
            Verdict::Refused => "refused",
        })
    }
}

/// `recoup demo`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DemoResult {
    /// `recoup.demo/1`.
    pub schema: DemoSchema,
    /// The directory that everything is in.
    pub dir: String,
    /// The ledger as it was when disaster struck.
    pub source_ledger: String,
    /// The ledger as it came back.
    pub restored_ledger: String,
    /// The compliance log as it came back, if the demonstration has one.
    pub restored_log: Option<String>,
    /// The signed restore-verification report.
    pub report: String,
    /// Its signature.
    pub signature: String,
    /// The signed summary of the demonstration.
    pub summary: String,
    /// Its signature.
    pub summary_signature: String,
    /// Loss, as measured.
    pub rpo_seconds: f64,
    /// Time to get back, as measured.
    pub rto_seconds: f64,
    /// What it all ended with.
    pub verdict: Verdict,
    /// Transfers that did not come back.
    #[serde(skip)]
    pub transfers_lost: u64,
    /// How many checks were made.
    #[serde(skip)]
    pub checks: usize,
    /// How many of them held.
    #[serde(skip)]
    pub checks_held: usize,
    /// The command that checks the summary's signature, from any directory.
    #[serde(skip)]
    pub check_command: String,
}

impl DemoResult {
    /// The exit code: 0 only if all of it held.
    pub fn code(&self) -> Code {
        if self.verdict == Verdict::Pass { Code::Done } else { Code::Failed }
    }
}
