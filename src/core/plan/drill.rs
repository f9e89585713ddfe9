//! What a drill decides: the moment of the declared disaster, and the verdict.

use crate::core::{
    failure::Code,
    policy::Policy,
    result::{CheckResult, CheckStatus, Verdict},
    time::Timestamp,
};
use std::time::Duration;

/// A drawn disaster strikes anywhere in the time since the read of the fifth newest durable snapshot began.
const SNAPSHOTS_BACK: usize = 5;

/// The check that says whether everything came back.
pub const COMPLETE: &str = "files";

/// The time from which the moment of a disaster is drawn: every moment in it is as likely as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first moment.
    pub from: Timestamp,
    /// Its last moment.
    pub until: Timestamp,
}

/// The window of a source whose durable snapshots were read from these moments on; `None` where there is none yet.
///
/// It reaches back over the last few snapshots, and at least over one `interval` of the schedule, so that nobody can
/// time a drill just after a backup, nor take a few backups in a row before it. Before the first snapshot there is
/// nothing to restore.
pub fn window(now: Timestamp, read_from: &[Timestamp], interval: Option<Duration>) -> Option<Window> {
    let mut sorted: Vec<Timestamp> = read_from.iter().copied().filter(|moment| *moment <= now).collect();
    sorted.sort_unstable();
    let first = *sorted.first()?;
    let by_snapshots = sorted[sorted.len().saturating_sub(SNAPSHOTS_BACK)];
    let by_schedule = interval.map_or(by_snapshots, |interval| earlier(now, interval));
    Some(Window { from: by_snapshots.min(by_schedule).max(first), until: now })
}

fn earlier(moment: Timestamp, span: Duration) -> Timestamp {
    // Spans of policies end after 100 years.
    let span = chrono::Duration::from_std(span).unwrap_or_default();
    Timestamp::new(moment.as_datetime().checked_sub_signed(span).unwrap_or(moment.as_datetime()))
}

impl Window {
    /// The moment at a share of the window: 0 is its beginning, the largest number its end.
    pub fn at(&self, share: u64) -> Timestamp {
        let milliseconds = (self.until.as_datetime() - self.from.as_datetime()).num_milliseconds();
        let all = u128::from(u64::try_from(milliseconds).unwrap_or(0)) + 1;
        let offset = i64::try_from((all * u128::from(share)) >> 64).unwrap_or(0);
        Timestamp::new(self.from.as_datetime() + chrono::Duration::milliseconds(offset))
    }

    /// How long it is.
    pub fn seconds(&self) -> f64 {
        self.until.seconds_since(self.from)
    }
}

/// How often a snapshot is due by a policy.
pub fn interval(policy: &Policy) -> Option<Duration> {
    policy.incremental_interval.or(policy.full_interval)
}

/// The verdict on something that came back: what is missing outranks what is wrong, and that what took too long.
pub fn judge(checks: &[CheckResult], rpo_seconds: f64, rto_seconds: f64, policy: &Policy) -> Verdict {
    let missed = |limit: Option<Duration>, seconds: f64| limit.is_some_and(|limit| seconds > limit.as_secs_f64());
    let mut failed = checks.iter().filter(|check| check.status == CheckStatus::Failed).peekable();
    if failed.peek().is_some() {
        let incomplete = failed.any(|check| check.name == COMPLETE);
        return if incomplete { Verdict::FailCompleteness } else { Verdict::FailIntegrity };
    }
    if missed(policy.rpo, rpo_seconds) || missed(policy.rto, rto_seconds) {
        Verdict::FailObjective
    } else {
        Verdict::Pass
    }
}

/// The verdict on a drill that brought nothing back.
pub fn verdict_of_failure(code: Code) -> Verdict {
    match code {
        // No store that answers has what is needed.
        Code::Damaged => Verdict::FailCompleteness,
        Code::Interrupted | Code::Terminated => Verdict::Aborted,
        Code::NoKey | Code::NoRecoveryPoint | Code::Refused | Code::Usage | Code::Configuration | Code::Locked => {
            Verdict::Refused
        }
        _ => Verdict::Inconclusive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u32) -> Timestamp {
        format!("2026-11-22T{:02}:{:02}:00Z", minute / 60, minute % 60).parse().unwrap()
    }

    #[test]
    fn windows() {
        let minutes = |from: u32, until: u32| Some(Window { from: at(from), until: at(until) });
        let hour = Some(Duration::from_secs(3600));
        type Case = (&'static [u32], u32, Option<Duration>, Option<Window>);
        let cases: &[Case] = &[
            (&[], 100, hour, None),
            // A clock that was set back: what lies in the future was not taken yet.
            (&[110], 100, hour, None),
            (&[90], 100, None, minutes(90, 100)),
            (&[90], 100, hour, minutes(90, 100)),
            (&[20, 95], 100, hour, minutes(20, 100)),
            (&[20, 95, 96, 97, 98, 99], 100, None, minutes(95, 100)),
            // Backups in a row before the drill gain nothing.
            (&[20, 95, 96, 97, 98, 99], 100, hour, minutes(40, 100)),
            (&[5, 20, 30, 40, 50, 60], 100, hour, minutes(20, 100)),
            (&[99, 20], 100, None, minutes(20, 100)),
        ];
        for (read_from, now, interval, expected) in cases {
            let read_from: Vec<Timestamp> = read_from.iter().map(|minute| at(*minute)).collect();
            assert_eq!(window(at(*now), &read_from, *interval), *expected, "{read_from:?}");
        }
    }

    #[test]
    fn moments_are_spread_over_the_whole_window() {
        let window = Window { from: at(0), until: at(60) };
        assert_eq!((window.at(0), window.at(u64::MAX), window.at(1 << 63)), (at(0), at(60), at(30)));
        let short = Window { from: at(0), until: at(0) };
        assert_eq!((short.at(0), short.at(u64::MAX)), (at(0), at(0)));
        // A clock that went back.
        assert_eq!(Window { from: at(1), until: at(0) }.at(u64::MAX), at(1));
    }

    #[test]
    fn verdicts() {
        let check = |name: &str, status| CheckResult {
            name: name.to_owned(),
            status,
            expected: String::new(),
            actual: String::new(),
        };
        let (passed, failed) = (CheckStatus::Passed, CheckStatus::Failed);
        let promised =
            Policy { rpo: Some(Duration::from_secs(60)), rto: Some(Duration::from_secs(10)), ..Policy::default() };
        let cases = [
            (vec![check("integrity_check", passed)], 60.0, 10.0, Verdict::Pass),
            (vec![], 60.1, 1.0, Verdict::FailObjective),
            (vec![], 1.0, 10.1, Verdict::FailObjective),
            (vec![check("sums", failed)], 99.0, 99.0, Verdict::FailIntegrity),
            (vec![check("sums", failed), check(COMPLETE, failed)], 1.0, 1.0, Verdict::FailCompleteness),
        ];
        for (checks, lost, took, expected) in cases {
            assert_eq!(judge(&checks, lost, took, &promised), expected, "{checks:?} {lost} {took}");
        }
        assert_eq!(judge(&[], 1e9, 1e9, &Policy::default()), Verdict::Pass, "nothing is promised");
    }
}
