//! `recoup report`.

use crate::{
    cli::{Context, Help, human, usage_failure},
    config,
    core::{
        failure::{Code, Failure},
        id::SourceName,
        report::Finding,
        result::{ReportResult, ReportVerification},
        time::Timestamp,
    },
    ops::{
        open,
        report::{self, ReportRequest, VerifyRequest},
    },
    world,
};
use clap::Args;
use std::path::PathBuf;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "report",
    description: "Writes a signed report on the restores of a source over a period: every drill that began, with its end \
        or its absence, what it lost and how long it took against the policy; drills that were due and missed; the \
        snapshots and the gaps between them; what else is on record; what follows from all that, and what it does not \
        show. The directory holds report.json, which decides, its signature, a page for people, and the signed \
        records it quotes: ssh-keygen and sha256sum check all of it offline, as its README.txt says. The format is \
        described in recoup-report(5).\n\
        Phases and checks of drills are read with this host's catalogue key, or with an identity. A store that does \
        not answer does not stop the report, which then says so and is inconclusive at best.\n\
        With --verify it checks such a directory: signatures, digests, that the records say what the report says, and \
        that findings, verdict and page follow from it. That needs no configuration.",
    examples: &[
        ("the last 90 days", "recoup report ledger --out /srv/audit/2026-11"),
        ("a quarter", "recoup report ledger --from 2026-07-01T00:00:00Z --to 2026-10-01T00:00:00Z --out q3"),
        (
            "check one, with signers that were handed over before",
            "recoup report --verify q3 --signers regulator/allowed_signers",
        ),
    ],
    exit_codes: &[
        (0, "written, whatever its verdict is; with --verify: everything is right"),
        (1, "written, and it does not rest on everything there is, or is not on record: the warnings say why"),
        (2, "failed; with --verify: something is not right"),
        (12, "a key or the trusted signers cannot be used"),
        (17, "refused for safety: the directory is not empty"),
        (64, "bad usage, such as a directory that is not there"),
    ],
};

/// The most findings that are named; the report has all of them.
const FINDINGS_SHOWN: usize = 10;

/// What `report` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Report on this source
    #[arg(value_name = "SOURCE", required_unless_present = "verify", conflicts_with = "verify")]
    pub source: Option<SourceName>,
    /// Begin the period here [default: 90 days before its end]
    #[arg(long, value_name = "TIME", conflicts_with = "verify")]
    pub from: Option<Timestamp>,
    /// End the period here [default: now]
    #[arg(long, value_name = "TIME", conflicts_with = "verify")]
    pub to: Option<Timestamp>,
    /// Write into this directory, which must not exist or be empty
    #[arg(long, value_name = "DIR", required_unless_present = "verify", conflicts_with = "verify")]
    pub out: Option<PathBuf>,
    /// Read what this host's own key does not open with the identity in this file [default: $RECOUP_IDENTITY_FILE]
    #[arg(long, value_name = "FILE", conflicts_with = "verify")]
    pub identity: Option<PathBuf>,
    /// Check the report in this directory
    #[arg(long, value_name = "DIR")]
    pub verify: Option<PathBuf>,
    /// With --verify, trust the signers in this file [default: those that lie with the report]
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub signers: Option<PathBuf>,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    if let Some(directory) = &arguments.verify {
        let request = VerifyRequest { directory: world::absolute(directory), signers: arguments.signers.clone() };
        let result = report::verify(&request)?;
        context.output().result(&result, verification_text)?;
        context.output().notes(&result.notes);
        return Ok(result.code());
    }
    let (Some(source), Some(out)) = (&arguments.source, &arguments.out) else {
        return Err(usage_failure("a report needs a source and --out", "recoup report --help"));
    };
    let request =
        ReportRequest { source: source.clone(), from: arguments.from, to: arguments.to, out: world::absolute(out) };
    let settings = context.settings()?;
    // Without one the host's own catalogue key opens what it can.
    let identity = config::find_identity(arguments.identity.as_deref()).ok();
    let result = context.run(async |job| {
        let work = async {
            let identities = match &identity {
                Some(identity) => Some(open::read_identities(identity).await?),
                None => None,
            };
            report::make(&settings, &job.world, identities, &request).await
        };
        job.until_cancelled(work).await
    })?;
    context.output().result(&result, text)?;
    for warning in &result.warnings {
        context.output().warning(warning);
    }
    Ok(result.code())
}

fn text(result: &ReportResult) -> String {
    let mut text = format!(
        "report on {} written to {}\n  verdict  {}\n  SHA-256  {}\n  {}\n",
        result.source,
        result.directory,
        result.verdict,
        result.report_sha256,
        human::count(result.findings, "finding"),
    );
    // What was missed again and again is said once here; the report says when.
    let mut alike: Vec<(&Finding, u64)> = Vec::new();
    for finding in &result.found {
        match alike.iter_mut().find(|(first, _)| (first.severity, &first.text) == (finding.severity, &finding.text)) {
            Some((_, times)) => *times += 1,
            None => alike.push((finding, 1)),
        }
    }
    for (finding, times) in alike.iter().take(FINDINGS_SHOWN) {
        let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
        text.push_str(&format!(
            "    {:<8}  {}{times} [{}]\n",
            finding.severity.word(),
            human::line(&finding.text),
            finding.id
        ));
    }
    let more = alike.len().saturating_sub(FINDINGS_SHOWN) as u64;
    if more > 0 {
        text.push_str(&format!("    {} more: report.html shows them\n", human::count(more, "finding")));
    }
    text
}

fn verification_text(result: &ReportVerification) -> String {
    let mut text = String::new();
    for problem in &result.problems {
        text.push_str(&format!("{}\n", human::line(problem)));
    }
    let shown = |value: Option<String>| value.unwrap_or_else(|| "not known".to_owned());
    text.push_str(&format!(
        "{}: {}\n  source   {}\n  verdict  {}\n  signer   {}\n  SHA-256  {}\n  {} checked\n",
        result.directory,
        if result.valid { "everything is right" } else { "NOT RIGHT" },
        shown(result.source.as_ref().map(ToString::to_string)),
        shown(result.verdict.map(|verdict| verdict.to_string())),
        shown(result.signer.clone()),
        shown(result.report_sha256.map(|sha256| sha256.to_string())),
        human::count(result.records, "signed record"),
    ));
    text
}
