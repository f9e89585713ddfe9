//! The directory that a report is handed over in. `report.json` comes last: without it there is no report.

use super::REPORT;
use crate::{
    config::Settings,
    core::{
        evidence::WriterId,
        failure::{Code, Failure, shell_word},
        report::{QuotedLine, Report, readme},
    },
    format::{self, report as report_format, signature, signers::Signers},
    ops::host::Host,
    repository::evidence::{SignedRecord, principal},
    world::files,
};
use std::{collections::BTreeMap, fs, io, path::Path};

pub(super) const SIGNATURE: &str = "report.json.sig";
pub(super) const PAGE: &str = "report.html";
pub(super) const SIGNERS: &str = "allowed_signers";
pub(super) const README: &str = "README.txt";
pub(super) const SUMS: &str = "SHA256SUMS";
pub(super) const EVIDENCE: &str = "evidence";

/// The name of a quoted record, or of its signature.
pub(super) fn record_name(writer: WriterId, number: u64, ending: &str) -> String {
    format!("{EVIDENCE}/{writer}-{number:010}.{ending}")
}

/// Refuses a directory with something in it.
pub(super) fn check_out(out: &Path) -> Result<(), Failure> {
    let refused = |cause: String, next_step: String| {
        Err(Failure::new(Code::Refused, format!("the report cannot be written to {}", out.display()))
            .cause(cause)
            .safe("nothing was written")
            .next_step(next_step))
    };
    match fs::read_dir(out).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) if !out.join(REPORT).exists() && out.join(README).exists() => refused(
            "it holds a report that was not finished".to_owned(),
            format!("rm -r {}; then run the same command again", shell_word(out.display())),
        ),
        Ok(false) => {
            refused("it is not empty".to_owned(), "name a directory that does not exist or is empty".to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => refused(error.to_string(), "name a directory that does not exist or is empty".to_owned()),
    }
}

/// The lines of allowed_signers that a reader needs.
pub(super) struct NeededSigners {
    pub(super) text: String,
    pub(super) warning: Option<String>,
}

/// Takes from the trusted signers the lines that vouch for the report or for one of the records.
pub(super) fn signers(
    settings: &Settings,
    host: &Host,
    records: &[SignedRecord],
    bytes: &[u8],
    signature: &str,
) -> Result<NeededSigners, Failure> {
    let file = &settings.host.allowed_signers;
    let text = files::read_to_string(file).map_err(|error| {
        Failure::new(Code::NoKey, format!("the trusted signers {} cannot be used", file.display()))
            .cause(error)
            .safe("nothing was written")
            .next_step("bring back the file that the configuration names")
    })?;
    let repository = host.repository.id;
    // One record of each signer is enough: a line that vouches for it vouches for the others.
    let mut by_signer: BTreeMap<&str, &SignedRecord> = BTreeMap::new();
    for signed in records {
        by_signer.entry(&signed.record.signer).or_insert(signed);
    }
    let report_principal = report_format::principal(&repository);
    let vouches_for_report =
        |line: &Signers| line.verify(bytes, signature, signature::REPORT, &report_principal).is_ok();
    let vouches_for_record = |line: &Signers| {
        by_signer.values().any(|signed| {
            std::str::from_utf8(&signed.signature)
                .is_ok_and(|pem| line.verify(&signed.bytes, pem, signature::EVIDENCE, &principal(&repository)).is_ok())
        })
    };
    let (mut kept, mut vouched) = (String::new(), false);
    for line in text.lines() {
        let Ok(signers) = Signers::parse(line) else { continue };
        let for_report = vouches_for_report(&signers);
        vouched |= for_report;
        if for_report || vouches_for_record(&signers) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    let mut warning = None;
    if !vouched {
        // The reader compares the fingerprint in any case.
        kept.push_str(&format!("{}\n", host.key.signers_line(&report_principal, &[signature::REPORT])));
        warning =
            Some(format!("{} does not let this host's key sign reports; the report's own file does", file.display()));
    }
    Ok(NeededSigners { text: kept, warning })
}

/// Everything that is written.
pub(super) struct Bundle<'b> {
    pub(super) report: &'b Report,
    pub(super) bytes: &'b [u8],
    pub(super) signature: &'b str,
    pub(super) signers: &'b str,
    pub(super) page: &'b str,
}

impl Bundle<'_> {
    /// Writes it, each file on stable storage before the next, the report last.
    pub(super) fn write(&self, out: &Path, records: &[SignedRecord]) -> Result<(), Failure> {
        let failed = |name: &str, error: &io::Error| {
            Failure::new(Code::Failed, format!("cannot write {}", out.join(name).display()))
                .cause(error)
                .safe("there is no report yet: without report.json nobody takes the rest for one")
                .next_step(format!("make room, rm -r {}, then run the same command again", shell_word(out.display())))
        };
        let by_place: BTreeMap<(WriterId, u64), &SignedRecord> =
            records.iter().map(|signed| ((signed.record.writer, signed.record.number), signed)).collect();
        let mut contents: Vec<(String, &[u8])> = Vec::new();
        for QuotedLine { record, .. } in &self.report.evidence.quoted {
            let signed = by_place.get(&(record.writer, record.number));
            let signed = signed.ok_or_else(|| Failure::internal("the report quotes a record that was not read"))?;
            contents.push((record_name(record.writer, record.number, "json"), &signed.bytes));
            contents.push((record_name(record.writer, record.number, "sig"), &signed.signature));
        }
        let readme = readme(self.report);
        let others: [(&str, &[u8]); 4] = [
            (README, readme.as_bytes()),
            (SIGNERS, self.signers.as_bytes()),
            (PAGE, self.page.as_bytes()),
            (SIGNATURE, self.signature.as_bytes()),
        ];
        contents.extend(others.map(|(name, bytes)| (name.to_owned(), bytes)));
        let digests = contents.iter().map(|(name, bytes)| (name.as_str(), *bytes)).chain([(REPORT, self.bytes)]);
        let sums = sums(digests);
        contents.push((SUMS.to_owned(), sums.as_bytes()));
        contents.push((REPORT.to_owned(), self.bytes));
        // The note first: it tells an unfinished report from a directory of somebody else's.
        contents.sort_by_key(|(name, _)| name != README);
        files::create_private_directories(&out.join(EVIDENCE)).map_err(|error| failed(EVIDENCE, &error))?;
        for (name, bytes) in &contents {
            files::write_atomic(&out.join(name), bytes, 0o644).map_err(|error| failed(name, &error))?;
        }
        Ok(())
    }
}

/// What `sha256sum -c` reads, sorted by name.
pub(super) fn sums<'b>(contents: impl Iterator<Item = (&'b str, &'b [u8])>) -> String {
    let mut lines: Vec<(&str, String)> =
        contents.map(|(name, bytes)| (name, format!("{}  {name}\n", format::sha256(bytes)))).collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}
