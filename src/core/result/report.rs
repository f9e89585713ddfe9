//! What `recoup report` returns.

use super::{ReportSchema, ReportVerificationSchema, Verdict};
use crate::core::{
    failure::Code,
    id::{RepositoryId, Sha256, SourceName},
    report::Finding,
    time::Timestamp,
};
use serde::Serialize;

/// `recoup report`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportResult {
    /// `recoup.report/1`.
    pub schema: ReportSchema,
    /// The source.
    pub source: SourceName,
    /// The directory that it was written to.
    pub directory: String,
    /// The report.
    pub report: String,
    /// SHA-256 of it.
    pub report_sha256: Sha256,
    /// Its signature.
    pub signature: String,
    /// What the evidence comes to.
    pub verdict: Verdict,
    /// How many findings the report has.
    pub findings: u64,
    /// What keeps the report from resting on everything there is.
    pub warnings: Vec<String>,
    /// The findings, the worst first.
    pub found: Vec<Finding>,
}

impl ReportResult {
    /// The exit code: the report was made, whatever it says.
    pub fn code(&self) -> Code {
        if self.warnings.is_empty() { Code::Done } else { Code::Warning }
    }
}

/// `recoup report --verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportVerification {
    /// `recoup.report-verification/1`.
    pub schema: ReportVerificationSchema,
    /// The directory.
    pub directory: String,
    /// Whether everything that was checked is right.
    pub valid: bool,
    /// What is not.
    pub problems: Vec<String>,
    /// The repository, where the report could be read.
    pub repository: Option<RepositoryId>,
    /// The source.
    pub source: Option<SourceName>,
    /// When the report says that it was made.
    pub made_at: Option<Timestamp>,
    /// The key that signed the report.
    pub signer: Option<String>,
    /// SHA-256 of `report.json`.
    pub report_sha256: Option<Sha256>,
    /// What the evidence comes to, as recomputed.
    pub verdict: Option<Verdict>,
    /// Signed records that were checked.
    pub records: u64,
    /// What the reader should know.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl ReportVerification {
    /// The exit code.
    pub fn code(&self) -> Code {
        if self.valid { Code::Done } else { Code::Failed }
    }
}
