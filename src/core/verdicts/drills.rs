//! Whether restores are tried out as often as the policy asks, and every try has its end on record.

use super::{Concerns, Facts, Findings, SourceFacts, count, overdue_after, span};
use crate::core::{
    control::Drill,
    evidence::Verdict,
    result::{FindingId, Severity},
    time::format_duration,
};
use std::time::Duration;

/// A start that is older has no end because its process is gone, or because somebody would rather not record it.
const END_DUE: Duration = Duration::from_secs(10 * 60);

pub(super) fn judge(facts: &Facts, source: &SourceFacts, findings: &mut Findings) {
    let about = Concerns::source(&source.name);
    let policy = &source.policy;
    let identity = match policy.drill_identity_file.is_some() || policy.drill_identity_command.is_some() {
        true => "",
        false => " --identity FILE",
    };
    let drill = format!("recoup drill {}{identity}", source.name);
    let passed = facts.control.state.last_passed_drill(&source.name, facts.now);
    if let Some(interval) = source.policy.drill_interval {
        let every = format_duration(interval);
        let message = match passed.map(|drill| facts.now.seconds_since(drill.started_at)) {
            None => Some(format!("no drill has ever passed, one is due every {every}")),
            Some(age) if age > overdue_after(interval).as_secs_f64() => {
                Some(format!("the last drill that passed was {} ago, one is due every {every}", span(age)))
            }
            Some(_) => None,
        };
        if let Some(message) = message {
            findings.add(FindingId::DrillOverdue, Severity::Warning, about, message, drill.clone());
        }
    }
    let since = |other: &&Drill| passed.is_none_or(|passed| other.started_at > passed.started_at);
    let later: Vec<&Drill> = facts.control.state.drills_of(&source.name).filter(since).collect();
    // What passed later than the last one that counts has yet to begin.
    let counts = |drill: &&&Drill| drill.end.is_some() && !matches!(drill.verdict, Verdict::Passed | Verdict::Warning);
    let last_ended = later.iter().filter(counts).max_by_key(|drill| drill.started_at);
    if let Some(failed) = last_ended.filter(|drill| drill.verdict == Verdict::Failed) {
        let message = format!("the last drill, begun {}, failed", failed.started_at);
        let next_step = format!("recoup evidence list shows why; put it right, then {drill}");
        findings.add(FindingId::DrillFailed, Severity::Critical, about, message, next_step);
    }
    let aborted = later.iter().filter(|drill| drill.verdict == Verdict::Aborted).count();
    if aborted > 0 {
        let was = if aborted == 1 { "was" } else { "were" };
        let message = format!("{} {was} broken off, and none has passed since", count(aborted as u64, "drill"));
        findings.add(FindingId::DrillAborted, Severity::Warning, about, message, drill.clone());
    }
    for open in facts.control.state.drills_of(&source.name).filter(|drill| is_without_end(facts, source, drill)) {
        // Nobody can close it any more. It stays on record, and counts like one that was broken off.
        let is_abandoned = facts.control.state.is_abandoned(open);
        if is_abandoned && !since(&open) {
            continue;
        }
        let (whose, next_step) = if Some(open.writer) == facts.control.writer {
            ("on this host", drill.clone())
        } else if is_abandoned {
            ("on a host whose state directory was lost", drill.clone())
        } else {
            let close =
                "let the host that began it run any recoup command that records evidence: it closes what has died";
            ("on another host", close.to_owned())
        };
        let message = format!("a drill began {whose} on {}, and no end is on record", open.started_at);
        findings.add(FindingId::DrillWithoutEnd, Severity::Warning, about, message, next_step);
    }
}

/// Whether a drill has no end though it must have one by now. What runs on another host cannot be seen from here: it
/// has twice the time that its restore may take.
fn is_without_end(facts: &Facts, source: &SourceFacts, drill: &Drill) -> bool {
    let is_own = Some(drill.writer) == facts.control.writer;
    let permitted = if is_own { END_DUE } else { END_DUE.max(2 * source.policy.rto.unwrap_or_default()) };
    drill.end.is_none()
        && !facts.control.running.contains(&(drill.writer, drill.start))
        && facts.now.seconds_since(drill.started_at) > permitted.as_secs_f64()
}
