//! Whether the log between snapshots is on the stores, without a hole.

use super::{Concerns, Findings, SourceFacts, count};
use crate::core::{
    coverage::{LogGap, LogHistory, ThinFiles},
    log::{LogFile, ServerTime},
    result::{FindingId, Severity},
};

pub(super) fn judge(source: &SourceFacts, findings: &mut Findings) {
    let Some(log) = &source.log else { return };
    let about = Concerns::source(&source.name);
    let gaps: Vec<&LogGap> = log.histories.iter().flat_map(|history| &history.gaps).collect();
    for gap in &gaps {
        // A store that does not answer may have it.
        let severity = if gap.since_newest_snapshot && log.all_asked { Severity::Critical } else { Severity::Warning };
        let next_step = match (gap.since_newest_snapshot, log.all_asked) {
            (_, false) => "bring the stores back, then recoup check".to_owned(),
            (true, true) => format!("recoup backup {0}: what it holds needs no log from before it", source.name),
            (false, true) => format!("recoup points {} shows what can be brought back", source.name),
        };
        findings.add(FindingId::LogGap, severity, about, gap_text(gap), next_step);
    }
    if let [first, others @ ..] = &log.forked[..] {
        let and_others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        let message = format!(
            "{first}{and_others} of its log were archived with different contents: two servers write the log of one \
             timeline, or one was set back; nothing from there on comes back from an earlier snapshot"
        );
        let next_step = format!(
            "stop the server that is not {0}'s, or promote it; then recoup backup {0}: what it holds needs no log from \
             before it",
            source.name
        );
        findings.add(FindingId::LogForked, Severity::Critical, about, message, next_step);
    }
    if log.covered.is_none() && !gaps.iter().any(|gap| gap.since_newest_snapshot) {
        let message = "the log that the newest durable snapshot needs is on too few stores";
        findings.add(FindingId::LogNotDurable, Severity::Critical, about, message, "recoup copy");
    } else if log.all_asked {
        let thin =
            log.histories.iter().flat_map(|history| history.thin.iter().filter(|thin| is_settled(thin, history)));
        for thin in thin {
            findings.add(FindingId::LogNotDurable, Severity::Warning, about, thin_text(thin), "recoup copy");
        }
    }
}

fn gap_text(gap: &LogGap) -> String {
    let which = match gap.segments {
        1 => format!("segment {} of its log is", gap.first),
        several => format!("{several} segments of its log, {} to {}, are", gap.first, gap.last),
    };
    let moment = |time: Option<ServerTime>| time.map(|time| time.to_string());
    let between = match (moment(gap.after), moment(gap.before)) {
        (Some(after), Some(before)) => format!(", between {after} and {before}"),
        (Some(after), None) => format!(", after {after}"),
        (None, Some(before)) => format!(", before {before}"),
        (None, None) => String::new(),
    };
    format!("{which} on no store that answers{between}: what was committed there does not come back")
}

fn thin_text(thin: &ThinFiles) -> String {
    let which = match thin.files {
        1 => format!("{} of its log is", thin.first),
        several => format!("{} of its log, {} to {}, are", count(several, "file"), thin.first, thin.last),
    };
    format!("{which} on too few stores: {}", thin.stores.join(", "))
}

/// The newest segment may be on its way now.
fn is_settled(thin: &ThinFiles, history: &LogHistory) -> bool {
    let newest = history.newest.map(LogFile::Segment);
    !(thin.files == 1 && newest == Some(thin.first))
}
