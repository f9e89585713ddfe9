//! How much would have been lost at each moment of the period, going by the snapshots.

use super::{Report, SeenIn, SnapshotLine};
use crate::core::{statistics::median, time::Timestamp};
use serde::{Deserialize, Serialize};

/// The most gaps that a report lists; they are the longest.
const GAPS_MAX: usize = 100;

/// A stretch of time in which one snapshot was the newest. Exposure grows until the next one is committed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// When the read of that snapshot began: nothing later would have come back.
    pub read_at: Timestamp,
    /// Where the stretch begins.
    pub since: Timestamp,
    /// Where it ends.
    pub until: Timestamp,
}

impl Peak {
    /// The exposure at its end, in seconds.
    pub fn seconds(&self) -> f64 {
        self.until.seconds_since(self.read_at)
    }
}

/// The stretches of a period, in order. What is known not to be durable protects from nothing.
pub fn peaks(snapshots: &[SnapshotLine], from: Timestamp, to: Timestamp) -> Vec<Peak> {
    let mut counted: Vec<&SnapshotLine> = snapshots.iter().filter(|line| line.durable != Some(false)).collect();
    counted.sort_by_key(|line| (line.created_at, line.read_started_at));
    let mut peaks = Vec::new();
    let mut newest: Option<(Timestamp, Timestamp)> = None;
    for line in counted.into_iter().filter(|line| line.created_at < to) {
        if let Some((read_at, since)) = newest
            && line.created_at > from
            && line.created_at > since
        {
            peaks.push(Peak { read_at, since, until: line.created_at });
        }
        let read_at = newest.map_or(line.read_started_at, |(read_at, _)| read_at.max(line.read_started_at));
        newest = Some((read_at, line.created_at.max(from)));
    }
    if let Some((read_at, since)) = newest
        && to > since
    {
        peaks.push(Peak { read_at, since, until: to });
    }
    peaks
}

/// A time in which more than the policy permits would have been lost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The newest moment that would have come back.
    pub read_at: Timestamp,
    /// When the next snapshot was committed, or the end of the period.
    pub until: Timestamp,
    /// What would have been lost at that moment.
    pub seconds: f64,
}

/// What the snapshots of the period come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// Snapshots that were committed in the period.
    pub snapshots: u64,
    /// Of these, those that are durable.
    pub durable: u64,
    /// Those that are not.
    pub not_durable: u64,
    /// Those of which nobody here knows.
    pub durability_unknown: u64,
    /// Those that are known from evidence only.
    pub in_evidence_only: u64,
    /// The usual time between two reads of the source.
    pub median_interval_seconds: Option<f64>,
    /// How often a snapshot is due by the policy.
    pub schedule_seconds: Option<u64>,
    /// Times between two reads that were longer than that by more than a tenth.
    pub intervals_over_schedule: Option<u64>,
    /// From when on exposure could be measured.
    pub measured_from: Option<Timestamp>,
    /// For how long it was.
    pub measured_seconds: Option<f64>,
    /// For how much of that it was within the policy's RPO.
    pub within_rpo_seconds: Option<f64>,
    /// The same as a share of one.
    pub within_rpo_share: Option<f64>,
    /// The largest.
    pub largest_seconds: Option<f64>,
    /// The newest moment that would have come back then.
    pub largest_read_at: Option<Timestamp>,
    /// When it was that large.
    pub largest_until: Option<Timestamp>,
    /// The longest times beyond the RPO.
    pub gaps: Vec<Gap>,
    /// How many such times there were.
    pub gaps_count: Option<u64>,
}

pub(super) fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

pub(super) fn exposure(report: &Report) -> Exposure {
    let (head, authority) = (&report.head, &report.authority);
    let mut exposure = counted(report);
    let peaks = peaks(&report.snapshots, head.from, head.to);
    if let Some(first) = peaks.first() {
        let measured = head.to.seconds_since(first.since);
        exposure.measured_from = Some(first.since);
        exposure.measured_seconds = Some(round(measured, 3));
        if let Some(rpo) = authority.rpo_seconds {
            let within: f64 = peaks.iter().map(|peak| within(peak, rpo as f64)).sum();
            exposure.within_rpo_seconds = Some(round(within, 3));
            exposure.within_rpo_share = (measured > 0.0).then(|| round(within / measured, 6));
        }
    }
    if let Some(largest) = peaks.iter().max_by(|a, b| a.seconds().total_cmp(&b.seconds())) {
        exposure.largest_seconds = Some(largest.seconds());
        exposure.largest_read_at = Some(largest.read_at);
        exposure.largest_until = Some(largest.until);
    }
    if let Some(rpo) = authority.rpo_seconds {
        let over = peaks.iter().filter(|peak| peak.seconds() > rpo as f64);
        let gap = |peak: &Peak| Gap { read_at: peak.read_at, until: peak.until, seconds: peak.seconds() };
        let mut gaps: Vec<Gap> = over.map(gap).collect();
        exposure.gaps_count = Some(gaps.len() as u64);
        gaps.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then(a.until.cmp(&b.until)));
        gaps.truncate(GAPS_MAX);
        gaps.sort_by_key(|gap| gap.until);
        exposure.gaps = gaps;
    }
    exposure
}

/// For how long the exposure of a stretch was within `rpo`.
fn within(peak: &Peak, rpo: f64) -> f64 {
    let already = peak.since.seconds_since(peak.read_at);
    (peak.seconds().min(rpo) - already).max(0.0)
}

fn counted(report: &Report) -> Exposure {
    let lines = || report.snapshots.iter().filter(|line| line.created_at >= report.head.from);
    let durable = |wanted: Option<bool>| lines().filter(|line| line.durable == wanted).count() as u64;
    let mut reads: Vec<Timestamp> = report.snapshots.iter().map(|line| line.read_started_at).collect();
    reads.sort();
    let intervals: Vec<f64> = reads.windows(2).map(|pair| pair[1].seconds_since(pair[0])).collect();
    let authority = &report.authority;
    let schedule_seconds = authority.incremental_every_seconds.or(authority.full_every_seconds);
    let over = |seconds: u64| intervals.iter().filter(|interval| **interval > seconds as f64 * 1.1).count() as u64;
    Exposure {
        snapshots: lines().count() as u64,
        durable: durable(Some(true)),
        not_durable: durable(Some(false)),
        durability_unknown: durable(None),
        in_evidence_only: lines().filter(|line| line.seen_in == SeenIn::Evidence).count() as u64,
        median_interval_seconds: median(&intervals).map(|seconds| round(seconds, 3)),
        schedule_seconds,
        intervals_over_schedule: schedule_seconds.map(over),
        ..Exposure::default()
    }
}
