//! What is said when an append-only log was altered.

use super::backup::{self, Snapshot};
use crate::core::{
    failure::{Code, Failure},
    id::SourceName,
};

/// How many altered files are named; all of them stand in the JSON.
const NAMED_MAX: usize = 20;

/// The altered files in one line.
pub(super) fn summary(snapshot: &Snapshot) -> String {
    let named: Vec<String> = snapshot.alterations.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let others = snapshot.alterations.len().saturating_sub(NAMED_MAX);
    let others = if others > 0 { format!(", and {others} more") } else { String::new() };
    format!("the log was altered: {}{others}", named.join(", "))
}

/// What the operator is told; `None` where nothing was altered, or where more is wrong than that.
pub(super) fn failure(source: &SourceName, snapshot: &Snapshot) -> Option<Failure> {
    let before = snapshot.altered_since.filter(|_| snapshot.code() == Code::LogAltered)?;
    let taken = snapshot.head.id;
    let mut safe = format!(
        "both versions are kept: snapshot {} holds the log as it was, snapshot {} as it is now, durable",
        before.seq, taken.seq
    );
    for (store, why) in &snapshot.behind {
        safe.push_str(&format!("; {}", backup::reason(store, why)));
    }
    for warning in &snapshot.warnings {
        safe.push_str(&format!("; {warning}"));
    }
    Some(
        Failure::new(Code::LogAltered, summary(snapshot))
            .cause(format!(
                "what snapshot {before} captured of it is no longer there, and what is captured must never change"
            ))
            .safe(safe)
            .next_step(format!(
                "compare, and find out who did it: recoup restore {source} --target snapshot:{} --to DIRECTORY; keep \
                 snapshot {} until it is settled; recoup-runbook(7), *A log was altered*",
                before.seq, before.seq
            )),
    )
}
