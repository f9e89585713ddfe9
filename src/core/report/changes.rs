//! Records of what else was done, in words.

use super::{Change, Head, RecordRef, drills::has_passed};
use crate::core::{
    evidence::{Action, Control, HoldCause, Phase, Record},
    id::Sha256,
};

/// The change that a record tells of, if it concerns the source.
pub(super) fn change(record: &Record, sha256: Sha256, head: &Head) -> Option<Change> {
    if matches!(record.action, Action::Backup | Action::Drill) || !concerns(record, head) {
        return None;
    }
    let subject = record.subjects.iter().find(|subject| subject.source == head.source);
    let verdict = subject.map_or(record.verdict, |subject| subject.verdict);
    Some(Change {
        record: RecordRef { writer: record.writer, number: record.number, sha256 },
        recorded_at: record.recorded_at,
        action: record.action,
        phase: record.phase,
        verdict,
        what: what(record),
        by: None,
        reason: None,
    })
}

/// Whether a record is about the source, or about everything.
pub(super) fn concerns(record: &Record, head: &Head) -> bool {
    match &record.control {
        Some(Control::HoldAdded { source, .. }) => *source == head.source,
        _ => record.subjects.is_empty() || record.subjects.iter().any(|subject| subject.source == head.source),
    }
}

fn what(record: &Record) -> String {
    if let Some(control) = &record.control {
        return of_control(control);
    }
    let name = match record.action {
        Action::Init => "the repository was set up",
        Action::Restore => "a restore",
        Action::Prune => "snapshots were deleted by the retention rule, or that was planned",
        Action::Copy => "stores were brought level",
        Action::Report => "a report was made",
        Action::Archive => "a new history of the log was opened",
        Action::Key => "recipients were changed or proven",
        Action::Signer => "signers were changed",
        Action::Configuration => "the configuration was recorded",
        Action::Hold => "a hold was added",
        Action::Release => "a hold was released",
        Action::Acknowledge => "evidence records were acknowledged as lost",
        Action::Backup | Action::Drill => "a backup or a drill",
    };
    match record.phase {
        Phase::Start => format!("{name}: it began"),
        Phase::End if !has_passed(record.verdict) => format!("{name}: it ended, {}", record.verdict),
        Phase::End => format!("{name}: it ended"),
        Phase::Whole => name.to_owned(),
    }
}

fn of_control(control: &Control) -> String {
    match control {
        Control::HoldAdded { hold, snapshots, cause, .. } => {
            let which = match snapshots.len() {
                0 => "every snapshot".to_owned(),
                1 => "one snapshot".to_owned(),
                number => format!("{number} snapshots"),
            };
            let why = match cause {
                HoldCause::Operator => "an operator asked for it",
                HoldCause::LogAltered => "an append-only log was altered",
            };
            format!("hold {hold} on {which} was added: {why}")
        }
        Control::HoldReleased { hold } => format!("hold {hold} was released"),
        Control::Configuration { sha256, stores, recipients, .. } => format!(
            "the configuration with SHA-256 {sha256} is in force: {} stores, {} recipients",
            stores.len(),
            recipients.len()
        ),
        Control::RecipientProven { recipient } => format!("recipient {recipient} was proven"),
        Control::RecipientAdded { recipient } => format!("recipient {recipient} was added"),
        Control::RecipientRemoved { recipient } => format!("recipient {recipient} was removed"),
        Control::SignerAdded { signer } => format!("signer {signer} was added"),
        Control::SignerRevoked { signer, .. } => format!("signer {signer} was revoked"),
        Control::RecordsLost { writer, first, last } => {
            format!("evidence records {first} to {last} of writer {writer} were acknowledged as lost")
        }
    }
}
