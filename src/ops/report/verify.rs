//! Checks a report: signatures, digests, that the records say what it says, and that the rest follows from it.

use super::{
    REPORT,
    bundle::{EVIDENCE, PAGE, README, SIGNATURE, SIGNERS, SUMS, record_name, sums},
};
use crate::{
    core::{
        evidence::Record,
        failure::{Code, Failure},
        id::Sha256,
        report::{Change, DrillClear, FromRecords, Report, derive, html, readme},
        result::{ReportVerification, ReportVerificationSchema},
    },
    format::{
        self, evidence as evidence_format, report as report_format,
        signature::{self, MAX_SIGNATURE_BYTES},
        signers::{MAX_SIGNERS_BYTES, Signers},
    },
    repository::evidence::principal,
    world::files,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The most bytes of a page, and of a list of digests.
const TEXT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// The report's directory.
    pub directory: PathBuf,
    /// Whose signatures are trusted; where nothing is said, those in the directory itself.
    pub signers: Option<PathBuf>,
}

/// Checks a report. Reads nothing but its directory and the signers.
pub fn verify(request: &VerifyRequest) -> Result<ReportVerification, Failure> {
    let directory = &request.directory;
    let not_there = match fs::metadata(directory) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some("it is no directory".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    // A path that was mistyped says nothing of any report.
    if let Some(why) = not_there {
        return Err(Failure::new(Code::Usage, format!("there is no report at {}", directory.display()))
            .cause(why)
            .safe("nothing was read or changed")
            .next_step("name the directory that --out named when the report was made"));
    }
    let mut check = Check::new(&request.directory);
    check.run(request);
    let Check { mut result, .. } = check;
    result.valid = result.problems.is_empty();
    Ok(result)
}

struct Check<'c> {
    directory: &'c Path,
    result: ReportVerification,
    /// What was read, by name.
    files: BTreeMap<String, Vec<u8>>,
}

impl<'c> Check<'c> {
    fn new(directory: &'c Path) -> Self {
        let result = ReportVerification {
            schema: ReportVerificationSchema,
            directory: directory.display().to_string(),
            valid: false,
            problems: Vec::new(),
            repository: None,
            source: None,
            made_at: None,
            signer: None,
            report_sha256: None,
            verdict: None,
            records: 0,
            notes: Vec::new(),
        };
        Check { directory, result, files: BTreeMap::new() }
    }

    fn problem(&mut self, what: impl Into<String>) {
        self.result.problems.push(what.into());
    }

    /// Reads a file of the directory; where that fails, that is a problem.
    fn read(&mut self, name: &str, max_bytes: u64) -> Option<Vec<u8>> {
        match read_bounded(&self.directory.join(name), max_bytes) {
            Ok(bytes) => {
                self.files.insert(name.to_owned(), bytes.clone());
                Some(bytes)
            }
            Err(why) => {
                self.problem(format!("{name} cannot be read: {why}"));
                None
            }
        }
    }

    fn run(&mut self, request: &VerifyRequest) {
        let own_signers = self.read(SIGNERS, MAX_SIGNERS_BYTES as u64);
        let signers = match &request.signers {
            Some(file) => read_bounded(file, MAX_SIGNERS_BYTES as u64)
                .map_err(|why| self.problem(format!("{} cannot be read: {why}", file.display())))
                .ok(),
            None => own_signers,
        };
        let Some(bytes) = self.read(REPORT, report_format::MAX_BYTES) else { return };
        let report = match report_format::parse(&bytes) {
            Ok(report) => report,
            Err(error) => return self.problem(format!("{REPORT}: {error}")),
        };
        let sha256 = format::sha256(&bytes);
        self.result.report_sha256 = Some(sha256);
        self.result.repository = Some(report.head.repository);
        self.result.source = Some(report.head.source.clone());
        self.result.made_at = Some(report.head.made_at);
        let signers = signers.and_then(|bytes| match Signers::parse(&String::from_utf8_lossy(&bytes)) {
            Ok(signers) => Some(signers),
            Err(error) => {
                self.problem(format!("the signers cannot be used: {error}"));
                None
            }
        });
        if let Some(signers) = &signers {
            self.check_signature(&report, &bytes, signers);
            let records = self.check_records(&report, signers);
            self.check_statements(&report, &records);
        }
        self.check_derived(&report);
        self.check_texts(&report, sha256);
        self.check_names(&report);
        if request.signers.is_none() {
            self.result.notes.push(
                "the signers came with the report: compare the fingerprint with the one that you were given by other \
                 means, or name a file of your own with --signers"
                    .to_owned(),
            );
        }
    }

    fn check_signature(&mut self, report: &Report, bytes: &[u8], signers: &Signers) {
        let Some(pem) = self.read(SIGNATURE, MAX_SIGNATURE_BYTES as u64) else { return };
        let principal = report_format::principal(&report.head.repository);
        let pem = String::from_utf8_lossy(&pem);
        match signers.verify(bytes, &pem, signature::REPORT, &principal) {
            Ok(signer) => {
                if signer.as_str() != report.authority.signer {
                    let named = &report.authority.signer;
                    self.problem(format!("{REPORT} names {named} as its signer, and {signer} signed it"));
                }
                self.result.signer = Some(signer.to_string());
            }
            Err(error) => self.problem(format!("{REPORT}: {error}")),
        }
    }

    /// The quoted records that are right, in the order of their chains.
    fn check_records(&mut self, report: &Report, signers: &Signers) -> Vec<(Record, Sha256)> {
        let mut records = Vec::new();
        let principal = principal(&report.head.repository);
        for quoted in &report.evidence.quoted {
            let place = &quoted.record;
            let name = record_name(place.writer, place.number, "json");
            let bytes = self.read(&name, evidence_format::MAX_BYTES);
            let pem = self.read(&record_name(place.writer, place.number, "sig"), MAX_SIGNATURE_BYTES as u64);
            let (Some(bytes), Some(pem)) = (bytes, pem) else { continue };
            let pem = String::from_utf8_lossy(&pem);
            let signer = match signers.verify(&bytes, &pem, signature::EVIDENCE, &principal) {
                Ok(signer) => signer,
                Err(error) => {
                    self.problem(format!("{name}: {error}"));
                    continue;
                }
            };
            if format::sha256(&bytes) != place.sha256 {
                self.problem(format!("{name} is not the record that the report quotes"));
                continue;
            }
            match evidence_format::parse(&bytes) {
                Ok(record) => {
                    let same = (record.repository, record.writer, record.number)
                        == (report.head.repository, place.writer, place.number)
                        && record.signer == signer.as_str()
                        && (&record.signer, record.action, record.phase, record.recorded_at)
                            == (&quoted.signer, quoted.action, quoted.phase, quoted.recorded_at);
                    if same {
                        records.push((record, place.sha256));
                    } else {
                        self.problem(format!("{name} says something else than the report says of it"));
                    }
                }
                Err(error) => self.problem(format!("{name}: {error}")),
            }
        }
        self.result.records = records.len() as u64;
        records.sort_by_key(|(record, _)| (record.writer, record.number));
        records
    }

    /// What the report says of drills, backups and changes is what the records say.
    fn check_statements(&mut self, report: &Report, records: &[(Record, Sha256)]) {
        let digested: Vec<_> = records.iter().map(|(record, sha256)| (record, *sha256)).collect();
        let said = FromRecords::of(&digested, &report.head);
        let drills: Vec<DrillClear> = report.drills.iter().map(|drill| drill.clear.clone()).collect();
        let bare = |change: &Change| Change { by: None, reason: None, ..change.clone() };
        let changes: Vec<Change> = report.changes.iter().map(bare).collect();
        for (what, same) in [
            ("drills", drills == said.drills && report.drill_before == said.drill_before),
            ("failed_backups", report.failed_backups == said.failed_backups),
            ("changes", changes == said.changes),
        ] {
            if !same {
                self.problem(format!("{REPORT}: {what} are not what the signed records say"));
            }
        }
    }

    /// Findings, limits, statistics and verdict follow from the rest.
    fn check_derived(&mut self, report: &Report) {
        let derived = derive(report);
        self.result.verdict = Some(derived.verdict);
        let said = &report.derived;
        for (what, same) in [
            ("verdict", derived.verdict == said.verdict),
            ("findings", derived.findings == said.findings),
            ("limits", derived.limits == said.limits),
            ("statistics", derived.statistics == said.statistics),
            ("calendar", derived.calendar == said.calendar),
            ("exposure", derived.exposure == said.exposure),
        ] {
            if !same {
                let follow = if what.ends_with('s') { "do" } else { "does" };
                self.problem(format!("{REPORT}: {what} {follow} not follow from the rest of it"));
            }
        }
    }

    fn check_texts(&mut self, report: &Report, sha256: Sha256) {
        let made = [(PAGE, html::page(report, sha256)), (README, readme(report))];
        for (name, text) in made {
            if self.read(name, TEXT_BYTES_MAX).is_some_and(|found| found != text.as_bytes()) {
                self.problem(format!("{name} is not what the report gives"));
            }
        }
        let expected = sums(self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
        if self.read(SUMS, TEXT_BYTES_MAX).is_some_and(|found| found != expected.as_bytes()) {
            self.problem(format!("{SUMS} has not the digests of these files"));
        }
    }

    /// Nothing else lies here that could pass for part of the report.
    fn check_names(&mut self, report: &Report) {
        let known = |name: &str| [REPORT, SIGNATURE, PAGE, SIGNERS, README, SUMS, EVIDENCE].contains(&name);
        let quoted = &report.evidence.quoted;
        let is_quoted = |name: &str| {
            let of = |ending| {
                move |record: &crate::core::report::RecordRef| record_name(record.writer, record.number, ending)
            };
            quoted.iter().any(|line| of("json")(&line.record) == name || of("sig")(&line.record) == name)
        };
        for name in names(self.directory) {
            if !known(&name) {
                self.problem(format!("{name:?} does not belong to the report"));
            }
        }
        for name in names(&self.directory.join(EVIDENCE)) {
            let name = format!("{EVIDENCE}/{name}");
            if !is_quoted(&name) {
                self.problem(format!("{name:?} is not among the records that the report quotes"));
            }
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, String> {
    let bytes = files::read_start(path, max_bytes + 1).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > max_bytes { Err(format!("it has more than {max_bytes} bytes")) } else { Ok(bytes) }
}
