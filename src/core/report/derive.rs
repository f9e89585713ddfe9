//! What follows from the rest of a report: the calendar, the statistics, findings, limits, the verdict.

use super::{
    DrillEntry, Finding, Limit, RecordRef, Report,
    exposure::{self, Exposure, round},
    findings, limits, verdict,
    verdict::Outcome,
};
use crate::core::{result::Verdict, statistics, time::Timestamp};
use serde::{Deserialize, Serialize};

/// The most times at which a drill was due that a report lists.
const SLOTS_MAX: usize = 10_000;

/// Everything in a report that a reader can make again from the rest of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Derived {
    /// What the snapshots come to.
    pub exposure: Exposure,
    /// When drills were due; `null` where the policy asks for none.
    pub calendar: Option<Calendar>,
    /// What the number of drills supports.
    pub statistics: Statistics,
    /// What to look at.
    pub findings: Vec<Finding>,
    /// What the report does not show.
    pub limits: Vec<Limit>,
    /// What it comes to.
    pub verdict: Verdict,
}

impl Default for Derived {
    fn default() -> Self {
        Derived {
            exposure: Exposure::default(),
            calendar: None,
            statistics: Statistics::default(),
            findings: Vec::new(),
            limits: Vec::new(),
            verdict: Verdict::Inconclusive,
        }
    }
}

/// When drills were due, and whether they were done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calendar {
    /// How often one is due.
    pub every_seconds: u64,
    /// The moment from which the first was counted.
    pub counted_from: Timestamp,
    /// Drills that were due.
    pub due: u64,
    /// Those that passed in time, or late by no more than a tenth of the cadence.
    pub done: u64,
    /// Those that passed later than that.
    pub late: u64,
    /// Times at which none had passed within another cadence.
    pub missed: u64,
    /// Whether there were more than are counted and listed here.
    pub truncated: bool,
    /// Each of them.
    pub slots: Vec<Slot>,
}

/// One time at which a drill was due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// When.
    pub due_at: Timestamp,
    /// What came of it.
    pub state: SlotState,
    /// The start of the drill that did it.
    pub drill: Option<RecordRef>,
    /// By how much it was late.
    pub delay_seconds: Option<f64>,
}

/// What came of a drill that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// It passed in time.
    Done,
    /// It passed late.
    Late,
    /// None passed.
    Missed,
    /// It is due after the period.
    Upcoming,
}

/// What the number of drills supports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Drills that began in the period.
    pub attempts: u64,
    /// Those that passed.
    pub passed: u64,
    /// Those that did not, those without a result among them.
    pub not_passed: u64,
    /// The confidence of the bounds.
    pub confidence: f64,
    /// The probability that a restore does not pass is at most this: one-sided, 1 − 0.05^(1/n) without a failure.
    pub failure_upper_bound: Option<f64>,
    /// Where some did not pass: the two-sided interval after Clopper and Pearson.
    pub failure_interval: Option<(f64, f64)>,
    /// How many drills without a failure bound that probability by 5 %.
    pub drills_for_five_percent: u64,
    /// Drills whose restore was timed.
    pub timed: u64,
    /// The slowest of them.
    pub slowest_rto_seconds: Option<f64>,
    /// The confidence that nine in ten restores are no slower than that: 1 − 0.9^n.
    pub slowest_bounds_nine_in_ten: Option<f64>,
    /// The confidence that nineteen in twenty are no slower: 1 − 0.95^n.
    pub slowest_bounds_nineteen_in_twenty: Option<f64>,
    /// The largest loss that a drill measured.
    pub largest_rpo_seconds: Option<f64>,
    /// For each store, how often a restore from there alone was proven.
    #[serde(default)]
    pub stores_drilled: Vec<StoreDrilled>,
}

/// What drills show of one store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreDrilled {
    /// Its name.
    pub store: String,
    /// Drills that passed and read everything from there. What came from several stores proves none of them.
    pub passed: u64,
    /// When the last of them began.
    pub last_at: Option<Timestamp>,
}

/// What follows from the rest of a report. What it says of that itself is not looked at.
pub fn derive(report: &Report) -> Derived {
    let mut derived = Derived {
        exposure: exposure::exposure(report),
        calendar: calendar(report),
        statistics: statistics(report),
        ..Derived::default()
    };
    derived.findings = findings::findings(report, &derived);
    derived.limits = limits::limits(report, &derived);
    derived.verdict = verdict::verdict(report, &derived);
    derived
}

fn statistics(report: &Report) -> Statistics {
    const CONFIDENCE: f64 = 0.95;
    let attempts = report.drills.len() as u64;
    let passed = report.drills.iter().filter(|drill| Outcome::of(drill) == Outcome::Passed).count() as u64;
    let not_passed = attempts - passed;
    let largest = |value: fn(&DrillEntry) -> Option<f64>| report.drills.iter().filter_map(value).max_by(f64::total_cmp);
    let timed = report.drills.iter().filter(|drill| drill.clear.rto_seconds.is_some()).count() as u64;
    let bounds = |quantile| (timed > 0).then(|| round(statistics::slowest_confidence(quantile, timed), 6));
    let interval = || statistics::failure_interval(not_passed, attempts, CONFIDENCE);
    Statistics {
        attempts,
        passed,
        not_passed,
        confidence: CONFIDENCE,
        failure_upper_bound: statistics::failure_upper_bound(not_passed, attempts, CONFIDENCE)
            .map(|bound| round(bound, 6)),
        failure_interval: (not_passed > 0)
            .then(interval)
            .flatten()
            .map(|(lower, upper)| (round(lower, 6), round(upper, 6))),
        drills_for_five_percent: statistics::trials_for(0.05, CONFIDENCE),
        timed,
        slowest_rto_seconds: largest(|drill| drill.clear.rto_seconds),
        slowest_bounds_nine_in_ten: bounds(0.9),
        slowest_bounds_nineteen_in_twenty: bounds(0.95),
        largest_rpo_seconds: largest(|drill| drill.clear.rpo_seconds),
        stores_drilled: stores_drilled(report),
    }
}

fn stores_drilled(report: &Report) -> Vec<StoreDrilled> {
    let of_store = |store: &String| {
        let passed = report.drills.iter().filter(|drill| Outcome::of(drill) == Outcome::Passed);
        let alone = passed.filter(|drill| drill.clear.stores_used == [store.as_str()]);
        let began: Vec<Timestamp> = alone.map(|drill| drill.clear.started_at).collect();
        StoreDrilled { store: store.clone(), passed: began.len() as u64, last_at: began.into_iter().max() }
    };
    report.copies.iter().map(|copies| of_store(&copies.store)).collect()
}

fn calendar(report: &Report) -> Option<Calendar> {
    let every_seconds = report.authority.drill_every_seconds.filter(|seconds| *seconds > 0)?;
    let first_snapshot = report.snapshots.iter().map(|line| line.created_at).min();
    let counted_from = match &report.drill_before {
        Some(before) => before.started_at,
        None => first_snapshot.map_or(report.head.from, |first| first.max(report.head.from)),
    };
    let mut calendar = Calendar {
        every_seconds,
        counted_from,
        due: 0,
        done: 0,
        late: 0,
        missed: 0,
        truncated: false,
        slots: Vec::new(),
    };
    let mut passed: Vec<&DrillEntry> =
        report.drills.iter().filter(|drill| Outcome::of(drill) == Outcome::Passed).collect();
    passed.sort_by_key(|drill| drill.clear.started_at);
    fill(&mut calendar, &passed, report.head.from, report.head.to);
    let count = |state| calendar.slots.iter().filter(|slot| slot.state == state).count() as u64;
    (calendar.done, calendar.late, calendar.missed) =
        (count(SlotState::Done), count(SlotState::Late), count(SlotState::Missed));
    calendar.due = calendar.done + calendar.late + calendar.missed;
    Some(calendar)
}

/// A drill is due one cadence after the one before; where none passed within another cadence, the next is due one
/// cadence after that time.
fn fill(calendar: &mut Calendar, passed: &[&DrillEntry], from: Timestamp, to: Timestamp) {
    let every = calendar.every_seconds as f64;
    let mut passed = passed.iter().peekable();
    let mut counted_from = calendar.counted_from;
    loop {
        if calendar.slots.len() >= SLOTS_MAX {
            calendar.truncated = true;
            return;
        }
        let Some(due_at) = later(counted_from, calendar.every_seconds) else { return };
        let next = passed.peek().map(|drill| drill.clear.started_at.seconds_since(due_at));
        let (state, delay) = match next {
            Some(delay) if delay <= 0.0 => (SlotState::Done, None),
            _ if due_at >= to => (SlotState::Upcoming, None),
            Some(delay) if delay <= every / 10.0 => (SlotState::Done, Some(delay)),
            Some(delay) if delay <= every => (SlotState::Late, Some(delay)),
            _ => (SlotState::Missed, None),
        };
        let drill = if matches!(state, SlotState::Done | SlotState::Late) { passed.next() } else { None };
        counted_from = drill.map_or(due_at, |drill| drill.clear.started_at);
        let drill = drill.map(|drill| drill.clear.start.clone());
        // What was due before the period and missed there is for the report of that period.
        if due_at >= from || drill.is_some() {
            calendar.slots.push(Slot { due_at, state, drill, delay_seconds: delay.map(|delay| round(delay, 3)) });
        } else if later(due_at, calendar.every_seconds).is_none_or(|next| next < from) {
            counted_from = skip(due_at, calendar.every_seconds, from);
        }
        if state == SlotState::Upcoming {
            return;
        }
    }
}

/// The last moment before `from` that lies a whole number of cadences after `moment`.
fn skip(moment: Timestamp, every_seconds: u64, from: Timestamp) -> Timestamp {
    let cadences = (from.seconds_since(moment) / every_seconds as f64).floor().max(1.0) as u64;
    later(moment, (cadences - 1).saturating_mul(every_seconds)).unwrap_or(moment)
}

fn later(moment: Timestamp, seconds: u64) -> Option<Timestamp> {
    let seconds = chrono::Duration::try_seconds(i64::try_from(seconds).ok()?)?;
    moment.as_datetime().checked_add_signed(seconds).map(Timestamp::new)
}
