//! `recoup evidence`.

use super::verdict;
use crate::{
    cli::{Context, Help, Job, arguments::StoreArguments, human, usage_failure},
    config::{self, Access},
    core::{
        evidence::{self, Record, Verdict, WriterId},
        failure::{Code, Failure},
        id::SourceName,
        result::{EvidenceRecord, EvidenceResult, Status},
    },
    ops::{
        evidence::{
            self as evidence_ops, Lost, Recorder, deeds,
            journal::Journal,
            show::{self, Filter},
            verify,
        },
        open::{self, open_access},
    },
};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "evidence",
    description: "Lists, shows and verifies the control log: the signed, chained records that every backup, restore, drill, \
        prune, hold, copy, key and configuration change leaves. Records are clear envelopes and sealed bodies; \
        recoup-repository(7) describes them.",
    examples: &[
        ("what was done", "recoup evidence list"),
        ("who did it, and why", "recoup evidence show WRITER/NUMBER --identity /media/key/custodian.age"),
        ("that nothing was changed or removed", "recoup evidence verify"),
        ("that a record is gone for good", "recoup evidence acknowledge WRITER/NUMBER --reason 'disk of b lost'"),
    ],
    exit_codes: &[
        (0, "done"),
        (1, "a store lags or did not answer"),
        (2, "records were altered, removed or forked, or nobody trusted signed them"),
        (3, "verify: no store could be read"),
    ],
};

/// Help beyond the flags of `list`.
pub const HELP_LIST: Help = Help {
    command: "evidence list",
    description: "Lists the records of all writers, oldest first. A writer is one state directory of one host. An action \
        that takes long has a start and an end; a start whose process died is closed as aborted by the next command \
        of the same writer.",
    examples: &[
        ("everything", "recoup evidence list"),
        ("the drills of one source", "recoup evidence list --source ledger --action drill"),
    ],
    exit_codes: &[
        (0, "listed"),
        (1, "listed, and a store did not answer"),
        (2, "records were refused"),
        (14, "no store answered"),
    ],
};

/// Help beyond the flags of `show`.
pub const HELP_SHOW: Help = Help {
    command: "evidence show",
    description: "Prints one record: its envelope as it was signed, and its body (host, users, reason, command line, \
        result) where an identity opens it: a custodian's, or the catalogue key of the host that wrote it.",
    examples: &[("one record", "recoup evidence show WRITER/NUMBER")],
    exit_codes: &[
        (0, "shown"),
        (1, "shown, and a store did not answer"),
        (2, "there is no such record, or it was altered"),
    ],
};

/// Help beyond the flags of `verify`.
pub const HELP_VERIFY: Help = Help {
    command: "evidence verify",
    description: "Reads every record from every store and checks its signature, its place in its chain, its body's digest, \
        and that whatever was acknowledged, or seen by another writer, is still there. No decryption key is needed. \
        A start that has no end yet is a note.",
    examples: &[
        ("on the host", "recoup evidence verify"),
        (
            "anywhere, with what an auditor was given",
            "recoup evidence verify --store a=file:///mnt/a --signers /media/key/custodian.age.signers",
        ),
    ],
    exit_codes: &[
        (0, "every chain is intact on every store"),
        (1, "a store lags in records that it never acknowledged, or did not answer"),
        (2, "a record was altered, removed though once acknowledged, forked, or signed by nobody who is trusted"),
        (3, "no store could be read"),
    ],
};

/// Help beyond the flags of `acknowledge`.
pub const HELP_ACKNOWLEDGE: Help = Help {
    command: "evidence acknowledge",
    description: "Records that evidence is lost for good, where no store has it and none ever will. A gap in a chain may \
        hide a hold, so prune stops before it; it goes on once the gap is acknowledged, while every store answers. \
        Whatever the lost records held counts no more: add again the holds that may have been among them, before. A \
        record that turns up counts again. evidence verify names what is lost for ever, as a note.\nWhat is not written yet \
        cannot be lost: an acknowledgement counts up to the newest record of that writer that its own record names as \
        seen. Nor does the name of an object show that there was a record: what lies in a chain and nobody of yours wrote \
        is removed by hand, with its .sig and .age. Until then prune refuses and names it; one that is unsigned, does not \
        follow the end of its chain and is on so few stores that nothing durable can be missing is passed over.\nWhere \
        every store lost the newest records of this host's own chain, its next command brings again what this host still \
        has, and goes on behind the rest once that is acknowledged; check calls both evidence-lost. The same goes for records \
        of any chain that others have recorded as seen on more than half of the stores, and that none shows any more.",
    examples: &[("records 4 to 6", "recoup evidence acknowledge WRITER/4-6 --reason 'disk of b lost, ticket 8813'")],
    exit_codes: &[
        (0, "acknowledged"),
        (2, "recorded on this host, and not yet on enough stores"),
        (14, "a store did not answer, and may have what is to be acknowledged"),
        (17, "a store has one of the records, or this host has and brings it again"),
        (64, "nobody has seen such records, or no reason was given"),
    ],
};

/// What `evidence` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// What to do with it.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with evidence.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List the records
    List(ListArguments),
    /// Print one record, with its body where it can be opened
    Show(ShowArguments),
    /// Check every record on every store
    Verify(VerifyArguments),
    /// Acknowledge that records are lost for good
    Acknowledge(AcknowledgeArguments),
}

/// What `evidence list` is told.
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Only records about this source
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Only records of this action, such as backup or drill
    #[arg(long, value_name = "ACTION", value_parser = parse_action)]
    pub action: Option<evidence::Action>,
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
}

/// What `evidence show` is told.
#[derive(Args, Debug)]
pub struct ShowArguments {
    /// The record, as `evidence list` names it
    #[arg(value_name = "WRITER/NUMBER", value_parser = parse_place)]
    pub record: (WriterId, u64),
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
    /// Open the body with the identity in this file [default: $RECOUP_IDENTITY_FILE, then the host's catalogue key]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// What `evidence verify` is told.
#[derive(Args, Debug)]
pub struct VerifyArguments {
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
}

/// What `evidence acknowledge` is told.
#[derive(Args, Debug)]
pub struct AcknowledgeArguments {
    /// The records, as `evidence verify` names them
    #[arg(value_name = "WRITER/NUMBER[-NUMBER]", value_parser = parse_lost)]
    pub records: Lost,
}

impl Arguments {
    /// How the command reaches stores without a configuration, and the identity that it was given.
    pub(super) fn access(&self) -> Option<(&StoreArguments, Option<&Path>)> {
        Some(match &self.action {
            Action::List(arguments) => (&arguments.stores, None),
            Action::Show(arguments) => (&arguments.stores, arguments.identity.as_deref()),
            Action::Verify(arguments) => (&arguments.stores, None),
            Action::Acknowledge(_) => return None,
        })
    }
}

fn parse_action(text: &str) -> Result<evidence::Action, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        "one of init, backup, restore, drill, prune, hold, release, copy, key, signer, configuration, report, \
         acknowledge"
            .to_owned()
    })
}

fn parse_place(text: &str) -> Result<(WriterId, u64), String> {
    let wrong = || "write WRITER/NUMBER, as `recoup evidence list` shows it".to_owned();
    let (writer, number) = text.split_once('/').ok_or_else(wrong)?;
    Ok((writer.parse().map_err(|_| wrong())?, number.parse().map_err(|_| wrong())?))
}

fn parse_lost(text: &str) -> Result<Lost, String> {
    let wrong = || "write WRITER/NUMBER or WRITER/FIRST-LAST".to_owned();
    let (writer, numbers) = text.split_once('/').ok_or_else(wrong)?;
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let writer = writer.parse().map_err(|_| wrong())?;
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first == 0 || first > last { Err(wrong()) } else { Ok(Lost { writer, first, last }) }
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    if let Action::Acknowledge(arguments) = &arguments.action {
        return acknowledge(arguments, context);
    }
    let Some((stores, identity)) = arguments.access() else {
        return Err(Failure::internal("every other action reads stores"));
    };
    let access = context.access(stores, identity)?;
    let result =
        context.run(async |job| job.until_cancelled(perform(&arguments.action, &access, job.clone())).await)?;
    let printed = context.output().result(
        &result,
        match arguments.action {
            Action::List(_) => list_text,
            Action::Show(_) => show_text,
            Action::Verify(_) | Action::Acknowledge(_) => verify_text,
        },
    );
    context.output().notes(&result.notes);
    if result.status == Status::Unknown {
        context.output().next_step("recoup doctor");
    }
    if !matches!(arguments.action, Action::Verify(_)) {
        result.findings.iter().for_each(|finding| context.output().warning(&finding_text(finding)));
    }
    verdict(printed, result.status)
}

async fn perform(action: &Action, access: &Access, _job: Job) -> Result<EvidenceResult, Failure> {
    let repository = open_access(access).await?;
    match action {
        Action::List(arguments) => {
            let filter = Filter { source: arguments.source.clone(), action: arguments.action };
            show::list(&repository, &filter).await
        }
        Action::Show(arguments) => {
            let (writer, number) = arguments.record;
            let given = match config::find_identity(arguments.identity.as_deref()) {
                Ok(input) => Some(open::read_identities(&input).await?),
                Err(_) if arguments.identity.is_none() => None,
                Err(failure) => return Err(failure),
            };
            let own = access.settings().and_then(|settings| open::catalogue_identities(settings).ok().flatten());
            let identities: Vec<_> = given.iter().chain(own.iter()).collect();
            show::show(&repository, writer, number, &identities).await
        }
        Action::Verify(_) => {
            let journal = access.settings().map(|settings| Journal::new(&settings.host.state_dir, repository.id));
            Ok(verify::verify(&repository, journal.as_ref()).await)
        }
        Action::Acknowledge(_) => Err(Failure::internal("an acknowledgement is no reading")),
    }
}

fn acknowledge(arguments: &AcknowledgeArguments, context: &Context) -> Result<Code, Failure> {
    if context.global().reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        let next_step = "add --reason TEXT: it goes into the evidence record";
        return Err(usage_failure("acknowledging a loss needs a reason", next_step));
    }
    let settings = context.settings()?;
    let lost = arguments.records;
    let result = context.run(async |job| {
        let host = open::open_host(&settings, &job.world)?;
        let recorder = Recorder::new(&host, &settings);
        let mut notes: Vec<String> = recorder.close_dead()?.iter().map(deeds::aborted_note).collect();
        let result = evidence_ops::acknowledge(&host.repository, &recorder, &job.world, lost).await?;
        notes.extend(result.notes.iter().cloned());
        Ok(EvidenceResult { notes, ..result })
    })?;
    let by = |result: &EvidenceResult| result.records.first().map(|entry| (entry.record.writer, entry.record.number));
    context.output().summary(&result, |result| match by(result) {
        Some((writer, number)) => format!("evidence {lost} is acknowledged as lost by record {writer}/{number}\n"),
        None => format!("evidence {lost} is acknowledged as lost\n"),
    })?;
    context.output().notes(&result.notes);
    Ok(Code::Done)
}

fn list_text(result: &EvidenceResult) -> String {
    let mut rows = vec![["RECORD", "RECORDED", "ACTION", "VERDICT", "SOURCES"].map(str::to_owned).to_vec()];
    rows.extend(result.records.iter().map(|entry| {
        let record = &entry.record;
        vec![
            format!("{}/{}", record.writer, record.number),
            human::moment(record.recorded_at),
            action_text(record),
            record.verdict.to_string(),
            sources_text(record),
        ]
    }));
    if result.records.is_empty() { String::new() } else { human::table(&rows, &[]) }
}

fn action_text(record: &Record) -> String {
    match (record.phase, record.closes) {
        (evidence::Phase::Start, _) => format!("{} begins", record.action),
        (evidence::Phase::End, Some(start)) => format!("{} ends (from {start})", record.action),
        _ => record.action.to_string(),
    }
}

fn sources_text(record: &Record) -> String {
    let of_subject = |subject: &evidence::Subject| {
        let snapshot = subject.snapshot.map_or_else(String::new, |id| format!(" {}", id.seq));
        let verdict = match subject.verdict {
            Verdict::Passed | Verdict::Pending => String::new(),
            other => format!(" {other}"),
        };
        format!("{}{snapshot}{verdict}", subject.source)
    };
    let shown: Vec<String> = record.subjects.iter().take(5).map(of_subject).collect();
    let more = record.subjects.len().saturating_sub(shown.len());
    if more > 0 { format!("{}, and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

fn show_text(result: &EvidenceResult) -> String {
    result.records.iter().map(record_text).collect()
}

fn record_text(entry: &EvidenceRecord) -> String {
    let pretty = |value: serde_json::Value| serde_json::to_string_pretty(&value).unwrap_or_default();
    let record = &entry.record;
    let mut text = format!("{}/{} sha256 {}\n", record.writer, record.number, entry.sha256);
    text.push_str(&format!("{}\n", pretty(serde_json::to_value(record).unwrap_or_default())));
    if let Some(body) = &entry.body {
        text.push_str(&format!("{}\n", pretty(serde_json::to_value(body).unwrap_or_default())));
    }
    text
}

fn verify_text(result: &EvidenceResult) -> String {
    let mut text: String = result
        .findings
        .iter()
        .map(|finding| format!("{:<12}{}\n", finding.problem.to_string(), finding_text(finding)))
        .collect();
    if result.status == Status::Unknown {
        text.push_str("unknown: no store could be read; whether records were altered or removed cannot be told\n");
        return text;
    }
    let writers: std::collections::BTreeSet<_> = result.records.iter().map(|entry| entry.record.writer).collect();
    text.push_str(&format!(
        "{}: {} in {}, {}\n",
        result.status,
        human::count(result.records.len() as u64, "record"),
        human::count(writers.len() as u64, "chain"),
        human::count(result.findings.len() as u64, "finding"),
    ));
    text
}

fn finding_text(finding: &crate::core::result::EvidenceFinding) -> String {
    let place = match (finding.writer, finding.number) {
        (Some(writer), Some(number)) => format!("record {writer}/{number}: "),
        _ => String::new(),
    };
    let store = finding.store.as_ref().map_or_else(String::new, |store| format!("store {store}: "));
    format!("{store}{place}{}", human::line(&finding.message))
}
