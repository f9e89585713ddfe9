//! Retention: which snapshots the policy's rule keeps no longer, and when its clock cannot be believed.

use super::{id::SnapshotId, policy::Policy, time::Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How far the clocks of hosts that are well may differ.
const SLACK_SECONDS: f64 = 5.0;
/// A snapshot is overdue after so many of the policy's intervals.
const INTERVALS_ALLOWED: u32 = 2;

/// The policy's rule. A snapshot is kept if any part of it keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    /// Snapshots no older than this are kept.
    pub keep_within: Option<Duration>,
    /// So many durable snapshots are kept, the newest ones, and what lies between them.
    pub keep_last: Option<u64>,
}

impl Rule {
    /// The rule of a policy.
    pub fn of(policy: &Policy) -> Self {
        Rule { keep_within: policy.keep_within, keep_last: policy.keep_last }
    }

    /// Whether it keeps everything.
    pub fn keeps_all(&self) -> bool {
        self.keep_within.is_none() && self.keep_last.is_none()
    }
}

/// What retention has to know of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// When it was committed, by its writer's clock.
    pub created_at: Timestamp,
    /// The heads that its run saw.
    pub parents: Vec<SnapshotId>,
    /// Whether enough stores have committed it.
    pub durable: bool,
}

/// The snapshots that the rule keeps no longer.
///
/// A snapshot's time is the later of its own and its parents', so that a clock that was behind for a while makes
/// nothing old. Ages count from the earlier of the pruner's clock and the newest durable snapshot not later than it,
/// so that a clock that is ahead makes nothing old either.
pub fn expired(rule: &Rule, snapshots: &BTreeMap<SnapshotId, Dated>, now: Timestamp) -> BTreeSet<SnapshotId> {
    if rule.keeps_all() {
        return BTreeSet::new();
    }
    let durable = || snapshots.values().filter(|snapshot| snapshot.durable);
    let Some(newest) = durable().map(|snapshot| snapshot.created_at).filter(|at| *at <= now).max() else {
        return BTreeSet::new();
    };
    let times = times(snapshots);
    let mut newer_durable = 0;
    let mut expired = BTreeSet::new();
    for (id, snapshot) in snapshots.iter().rev() {
        let is_old = rule.keep_within.is_none_or(|within| newest.seconds_since(times[id]) > within.as_secs_f64());
        let is_surplus = rule.keep_last.is_none_or(|last| newer_durable >= last);
        if is_old && is_surplus {
            expired.insert(*id);
        }
        newer_durable += u64::from(snapshot.durable);
    }
    expired
}

/// The time of each snapshot: the later of its own and those of all that came before it.
fn times(snapshots: &BTreeMap<SnapshotId, Dated>) -> BTreeMap<SnapshotId, Timestamp> {
    let mut times: BTreeMap<SnapshotId, Timestamp> =
        snapshots.iter().map(|(id, snapshot)| (*id, snapshot.created_at)).collect();
    // Parents have smaller numbers, and one pass does; whatever signed ones claim, times only grow, and never beyond
    // the latest.
    loop {
        let mut changed = false;
        for (id, snapshot) in snapshots {
            let latest = snapshot.parents.iter().filter_map(|parent| times.get(parent)).max().copied();
            let own = times.get_mut(id).expect("every snapshot has a time");
            if latest.is_some_and(|latest| latest > *own) {
                *own = latest.expect("it was just looked at");
                changed = true;
            }
        }
        if !changed {
            return times;
        }
    }
}

/// How often the policy wants a snapshot, as far as it says.
pub fn interval(policy: &Policy) -> Option<Duration> {
    policy.incremental_interval.or(policy.full_interval).or(policy.rpo)
}

/// The durable snapshots that lie in the future, further than clocks of hosts that are well differ.
pub fn ahead(snapshots: &BTreeMap<SnapshotId, Dated>, now: Timestamp) -> impl Iterator<Item = SnapshotId> {
    let is_ahead = move |dated: &Dated| dated.durable && now.seconds_since(dated.created_at) < -SLACK_SECONDS;
    snapshots.iter().filter(move |(_, dated)| is_ahead(dated)).map(|(id, _)| *id)
}

/// Durable snapshots that are dated later than what came after them, with the first of those: one of the two clocks was
/// wrong.
fn out_of_order(snapshots: &BTreeMap<SnapshotId, Dated>) -> BTreeMap<SnapshotId, SnapshotId> {
    let mut pairs = BTreeMap::new();
    for (id, dated) in snapshots.iter().filter(|(_, dated)| dated.durable) {
        for parent in &dated.parents {
            let is_later = |of: &Dated| of.durable && dated.created_at.seconds_since(of.created_at) < -SLACK_SECONDS;
            if snapshots.get(parent).is_some_and(is_later) {
                pairs.entry(*parent).or_insert(*id);
            }
        }
    }
    pairs
}

/// The snapshots whose dates raise doubts: those that lie in the future, and those that are dated later than what came
/// after them.
pub fn doubtful(snapshots: &BTreeMap<SnapshotId, Dated>, now: Timestamp) -> BTreeSet<SnapshotId> {
    ahead(snapshots, now).chain(out_of_order(snapshots).into_keys()).collect()
}

/// Why nothing should be pruned before somebody has looked, if so.
///
/// `condemned` are the snapshots that go and were not condemned before. Those in `confirmed` raise no doubt while they
/// lie in the future: somebody has looked. Nothing goes sooner for it, and once their time has come they count again, or
/// nobody would notice that backups have stopped since.
pub fn doubts(
    snapshots: &BTreeMap<SnapshotId, Dated>,
    confirmed: &BTreeSet<SnapshotId>,
    condemned: usize,
    interval: Option<Duration>,
    now: Timestamp,
) -> Vec<String> {
    let mut doubts = Vec::new();
    let ahead: BTreeSet<SnapshotId> = ahead(snapshots, now).collect();
    let passed_over = |id: &SnapshotId| ahead.contains(id) && confirmed.contains(id);
    let durable = snapshots.iter().filter(|(id, snapshot)| snapshot.durable && !passed_over(id));
    if let Some((id, newest)) = durable.max_by_key(|(id, snapshot)| (snapshot.created_at, **id)) {
        let age = now.seconds_since(newest.created_at);
        if age < -SLACK_SECONDS {
            let created_at = newest.created_at;
            let others = match ahead.difference(confirmed).count() - 1 {
                0 => String::new(),
                others => format!(", as do {others} more"),
            };
            doubts.push(format!(
                "the clock says {now}, and snapshot {id} is from {created_at}, which lies in the future{others}"
            ));
        }
        if let Some(interval) = interval.filter(|interval| age > (*interval * INTERVALS_ALLOWED).as_secs_f64()) {
            doubts.push(format!(
                "the newest durable snapshot, {id}, is {} old, and the policy wants one every {}: either backups have \
                 stopped, or this host's clock is ahead",
                super::time::format_duration(Duration::from_secs(age as u64)),
                super::time::format_duration(interval)
            ));
        }
    }
    // What goes by dates that contradict each other. Ages count from the newest date, whichever clock it is by.
    let mut out_of_order =
        out_of_order(snapshots).into_iter().filter(|(id, _)| condemned > 0 && !confirmed.contains(id));
    if let Some((before, after)) = out_of_order.next() {
        let (earlier, later) = (snapshots[&after].created_at, snapshots[&before].created_at);
        doubts.push(format!(
            "snapshot {after} is from {earlier}, and {before}, which was there before it, from {later}: a clock was wrong"
        ));
    }
    if condemned * 2 > snapshots.len() {
        doubts.push(format!("{condemned} of {} snapshots would go, more than half", snapshots.len()));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::RunId;

    fn id(seq: u64) -> SnapshotId {
        SnapshotId { seq, run: RunId::from_random([seq as u8; 16]) }
    }

    fn at(hour: i64) -> Timestamp {
        let start: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        Timestamp::new(start.as_datetime() + chrono::Duration::hours(hour))
    }

    /// Snapshots from 1, each over the one before, at these hours; a negative hour is one that is not durable.
    fn chain(hours: &[i64]) -> BTreeMap<SnapshotId, Dated> {
        let dated = |(index, hour): (usize, &i64)| {
            let seq = index as u64 + 1;
            let parents = if seq > 1 { vec![id(seq - 1)] } else { Vec::new() };
            (id(seq), Dated { created_at: at(hour.abs()), parents, durable: *hour >= 0 })
        };
        hours.iter().enumerate().map(dated).collect()
    }

    fn rule(within_hours: Option<u64>, keep_last: Option<u64>) -> Rule {
        Rule { keep_within: within_hours.map(|hours| Duration::from_secs(hours * 3600)), keep_last }
    }

    #[test]
    fn what_expires() {
        type Case<'a> = (&'a [i64], Option<u64>, Option<u64>, i64, &'a [u64]);
        let cases: &[Case] = &[
            // Nothing said, nothing pruned.
            (&[1, 2, 3], None, None, 1000, &[]),
            (&[1, 2, 3, 4], Some(2), None, 4, &[1]),
            (&[1, 2, 3, 4], None, Some(2), 4, &[1, 2]),
            // Either part of the rule keeps.
            (&[1, 2, 3, 4], Some(2), Some(1), 4, &[1]),
            (&[1, 2, 30, 40], Some(2), Some(3), 40, &[1]),
            // Ages count from the newest durable snapshot, not from a clock that runs ahead.
            (&[1, 2, 3, 4], Some(2), None, 100_000, &[1]),
            // A clock that is behind: what lies in the future dates nothing.
            (&[1, 2, 3, 40], Some(1), None, 3, &[1]),
            (&[10, 11], Some(1), None, 3, &[]),
            // One that was dated far ahead keeps what came after it, until that moment has passed.
            (&[1, 500, 3, 4, 5], Some(2), None, 5, &[1]),
            // A clock that was behind for one snapshot does not make that one old.
            (&[100, 1, 101], Some(10), None, 101, &[]),
            // What is not durable counts for nothing, and goes with its neighbours.
            (&[1, -2, 3, -4, 5], None, Some(2), 5, &[1, 2]),
            (&[-1, -2], Some(1), Some(1), 100, &[]),
            (&[1, 2, -300], Some(2), None, 300, &[]),
        ];
        for (hours, within, last, now, expected) in cases {
            let found = expired(&rule(*within, *last), &chain(hours), at(*now));
            let found: Vec<u64> = found.into_iter().map(|id| id.seq).collect();
            assert_eq!(found, *expected, "{hours:?} {within:?} {last:?} {now}");
        }
    }

    #[test]
    fn times_go_by_all_that_came_before() {
        let mut snapshots = chain(&[9, 1, 2]);
        // Whatever is claimed, it ends.
        snapshots.get_mut(&id(1)).unwrap().parents = vec![id(3), id(77)];
        assert!(times(&snapshots).values().all(|time| *time == at(9)));
    }

    #[test]
    fn what_raises_doubts() {
        let hour = Some(Duration::from_secs(3600));
        for (hours, condemned, interval, now, expected) in [
            (&[1, 2][..], 1, hour, 3, 0),
            (&[1, 2], 1, hour, 4, 0),
            (&[1, 2], 1, hour, 5, 1),
            (&[1, 2], 1, None, 5000, 0),
            (&[1, 20], 1, hour, 3, 1),
            (&[1, 2], 2, hour, 3, 1),
            (&[1, -20], 1, hour, 3, 0),
            (&[], 0, hour, 3, 0),
            // A clock that is far ahead, or one that was behind; nothing goes by it, or it was not durable.
            (&[1, 2, 3, 90, 4, 91], 1, hour, 91, 1),
            (&[1, 2, 3, 90, 4, 91], 0, hour, 91, 0),
            (&[1, 2, 3, -90, 4, 5], 1, hour, 91, 1),
            (&[1, 2, 3, -4, -3, 5], 1, hour, 5, 0),
        ] {
            let found = doubts(&chain(hours), &BTreeSet::new(), condemned, interval, at(now));
            assert_eq!(found.len(), expected, "{hours:?} {condemned} {now}: {found:?}");
        }
    }

    #[test]
    fn what_was_confirmed_raises_no_doubt_while_it_lies_in_the_future() {
        let hour = Some(Duration::from_secs(3600));
        for (hours, confirmed, now, expected) in [
            (&[1, 900, 2][..], &[][..], 3, &["snapshot 0000000002"][..]),
            (&[1, 900, 2], &[2], 3, &[]),
            // Another one is another matter; so is what came before it.
            (&[1, 900, 800], &[2], 1, &["snapshot 0000000003"]),
            (&[1, 900, 800], &[], 1, &["snapshot 0000000002", "1 more"]),
            (&[1, 900, 2], &[2], 30, &["snapshot, 0000000003", "backups have stopped"]),
            // Dated later than what came after, as somebody has seen.
            (&[1, 2, 90, 4, 91], &[3], 91, &[]),
            // Its time has come, and gone.
            (&[1, 900, 2], &[2], 950, &["snapshot, 0000000002", "backups have stopped"]),
            (&[900], &[1], 3, &[]),
        ] {
            let confirmed = confirmed.iter().map(|seq| id(*seq)).collect();
            let found = doubts(&chain(hours), &confirmed, 0, hour, at(now)).join("; ");
            assert_eq!(found.is_empty(), expected.is_empty(), "{hours:?} {confirmed:?} {now}: {found}");
            expected.iter().for_each(|part| assert!(found.contains(part), "{found}"));
        }
    }
}
