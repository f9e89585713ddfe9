//! The charts over time: exposure between snapshots, and the calendar of drills.

use super::{
    super::{
        DrillEntry, Peak, Report, SlotState, SnapshotLine, peaks,
        verdict::Outcome,
        words::{count, duration},
    },
    axis::{Axis, BOTTOM, LEFT, RIGHT, band, is_labelled, label_below},
    charts::key,
    day, figure, minute,
    table::Table,
    writer::Writer,
};
use crate::core::time::Timestamp;
use chrono::{Datelike, NaiveDate};
use std::collections::{BTreeMap, BTreeSet};

const HOUR: f64 = 3_600.0;
const DAY: f64 = 86_400.0;
/// The most bars of the timeline.
const BARS_MAX: f64 = 130.0;

/// One bar: a stretch of the period.
struct Bar {
    since: Timestamp,
    snapshots: u64,
    /// The largest exposure in it; `None` where none could be measured.
    largest: Option<f64>,
}

/// The period in stretches of an hour, a day, or more days.
fn bars(report: &Report) -> (Vec<Bar>, f64) {
    let (from, to) = (report.head.from, report.head.to);
    let period = to.seconds_since(from).max(1.0);
    let unit = if period <= 4.0 * DAY { HOUR } else { DAY };
    let step = unit * (period / unit / BARS_MAX).ceil().max(1.0);
    let peaks = peaks(&report.snapshots, from, to);
    let number = (period / step).ceil() as i64;
    let moment = |at: i64| {
        let seconds = chrono::Duration::try_milliseconds((at as f64 * step * 1_000.0) as i64).unwrap_or_default();
        Timestamp::new(from.as_datetime() + seconds)
    };
    let bar = |at: i64| {
        let (since, until) = (moment(at), moment(at + 1).min(to));
        let within = |line: &&SnapshotLine| line.created_at >= since && line.created_at < until;
        let touches = |peak: &&Peak| peak.since < until && peak.until > since;
        let largest = |peak: &Peak| peak.until.min(until).seconds_since(peak.read_at);
        Bar {
            since,
            snapshots: report.snapshots.iter().filter(within).count() as u64,
            largest: peaks.iter().filter(touches).map(largest).max_by(f64::total_cmp),
        }
    };
    ((0..number).map(bar).collect(), step)
}

/// What could have been lost over the period.
pub(super) fn snapshots(out: &mut Writer, report: &Report) {
    let (bars, step) = bars(report);
    let policy = report.authority.rpo_seconds.map(|seconds| seconds as f64);
    let exposure = &report.derived.exposure;
    let largest = exposure
        .largest_seconds
        .map_or_else(|| "could not be measured".to_owned(), |seconds| format!("was {}", duration(seconds)));
    let empty = bars.iter().filter(|bar| bar.snapshots == 0).count() as u64;
    let axis = Axis::fitting(bars.iter().filter_map(|bar| bar.largest).chain(policy));
    let description = format!(
        "One bar for every {}: the most that could have been lost in it. The largest {largest}. {} without a snapshot.{}",
        duration(step),
        count(empty, "bar is", "bars are"),
        axis.note(),
    );
    figure(out, "exposure", "What could have been lost over the period", &description, 240.0, |out| {
        axis.draw(out);
        for (at, bar) in bars.iter().enumerate() {
            draw_bar(out, &axis, (at, bars.len()), bar, policy);
        }
        out.raw("<line class=\"base\"").at("x1", LEFT).at("x2", RIGHT).at("y1", BOTTOM).at("y2", BOTTOM).raw("/>");
        if let Some(policy) = policy {
            axis.draw_policy(out, "RPO", policy);
        }
    });
    key(
        out,
        &[
            ("mark within", "■", "within the policy"),
            ("mark missed", "▨", "beyond it"),
            ("mark unknown", "×", "no snapshot in this time"),
        ],
    );
    let mut table =
        Table::new(out, "Times beyond the RPO", &["Newest moment that would have come back", "Until", "Lost at most"]);
    for gap in &exposure.gaps {
        table.row(&[minute(gap.read_at), minute(gap.until), duration(gap.seconds)]);
    }
    table.end();
    let mut table =
        Table::new(out, "Snapshots and largest exposure over the period", &["From", "Snapshots", "Largest exposure"]);
    for bar in &bars {
        let largest = bar.largest.map_or_else(|| "not measured".to_owned(), duration);
        table.row(&[minute(bar.since), bar.snapshots.to_string(), largest]);
    }
    table.end();
}

fn draw_bar(out: &mut Writer, axis: &Axis, (at, number): (usize, usize), bar: &Bar, policy: Option<f64>) {
    let (left, width) = band(at, number);
    let gap = (width * 0.15).min(2.0);
    if let Some(largest) = bar.largest {
        let beyond = policy.is_some_and(|policy| largest > policy);
        for class in [Some(if beyond { "beyond" } else { "within" }), beyond.then_some("hatched")].into_iter().flatten()
        {
            let y = axis.y(largest);
            out.raw("<rect class=\"").raw(class).raw("\"").at("x", left + gap / 2.0).at("width", width - gap);
            out.at("y", y).at("height", (BOTTOM - y).max(1.0)).raw("><title>").text(minute(bar.since)).raw(": ");
            out.text(duration(largest)).raw("</title></rect>");
        }
    }
    if bar.snapshots == 0 {
        out.raw("<text class=\"tick\" text-anchor=\"middle\"").at("x", left + width / 2.0).at("y", BOTTOM + 12.0);
        out.raw(">×</text>");
    }
    if is_labelled(at, number) {
        out.raw("<g transform=\"translate(0 12)\">");
        label_below(out, at, number, &day(bar.since));
        out.raw("</g>");
    }
}

/// The marks of the calendar.
const MARKS: &[(&str, &str, &str)] = &[
    ("mark met", "●", "a drill passed"),
    ("mark missed", "▲", "a drill did not pass"),
    ("mark unknown", "◇", "a drill came to no result"),
    ("mark missed", "✕", "a drill was due, and none passed"),
];

/// What happened on one day.
#[derive(Default)]
struct Day {
    outcomes: BTreeSet<u8>,
    missed: bool,
}

fn days(report: &Report) -> BTreeMap<NaiveDate, Day> {
    let mut days: BTreeMap<NaiveDate, Day> = BTreeMap::new();
    let date = |at: Timestamp| at.as_datetime().date_naive();
    for drill in &report.drills {
        days.entry(date(drill.clear.started_at)).or_default().outcomes.insert(mark_of(drill));
    }
    for slot in report.derived.calendar.iter().flat_map(|calendar| &calendar.slots) {
        if slot.state == SlotState::Missed {
            days.entry(date(slot.due_at)).or_default().missed = true;
        }
    }
    days
}

fn mark_of(drill: &DrillEntry) -> u8 {
    match Outcome::of(drill) {
        Outcome::Passed => 0,
        Outcome::Objective | Outcome::Integrity | Outcome::Completeness => 1,
        Outcome::NoResult | Outcome::Open => 2,
    }
}

/// When drills were due and done: a column for every week, a row for every day of it.
pub(super) fn calendar(out: &mut Writer, report: &Report) {
    let days = days(report);
    let first = report.head.from.as_datetime().date_naive();
    let last = report.head.to.as_datetime().date_naive();
    let weeks = (last - first).num_days() / 7 + 2;
    if weeks <= 110 {
        let description = format!(
            "{}, {}. A column is a week from Monday to Sunday; the weeks run from {first} to {last}.",
            count(report.drills.len() as u64, "drill", "drills"),
            match &report.derived.calendar {
                Some(calendar) => format!(
                    "{} of {} that were due passed in time, {} late, {} missed",
                    calendar.done, calendar.due, calendar.late, calendar.missed
                ),
                None => "the policy does not say how often one is due".to_owned(),
            },
        );
        let cell = ((RIGHT - LEFT) / weeks as f64).min(22.0);
        figure(out, "calendar", "When drills were due and done", &description, 30.0 + 7.0 * cell, |out| {
            grid(out, &days, (first, last), cell);
        });
        key(out, MARKS);
    }
    let mut table = Table::new(out, "When drills were due", &["Due", "What came of it", "Late by", "Drill"]);
    for slot in report.derived.calendar.iter().flat_map(|calendar| &calendar.slots) {
        let state = match slot.state {
            SlotState::Done => "done",
            SlotState::Late => "done late",
            SlotState::Missed => "missed",
            SlotState::Upcoming => "due after the period",
        };
        let drill =
            slot.drill.as_ref().map_or_else(|| "–".to_owned(), |drill| format!("{} {}", drill.writer, drill.number));
        let late = slot.delay_seconds.map_or_else(|| "–".to_owned(), duration);
        table.row(&[minute(slot.due_at), state.to_owned(), late, drill]);
    }
    table.end();
}

fn grid(out: &mut Writer, days: &BTreeMap<NaiveDate, Day>, (first, last): (NaiveDate, NaiveDate), cell: f64) {
    let monday = first - chrono::Days::new(u64::from(first.weekday().num_days_from_monday()));
    for (row, name) in ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].into_iter().enumerate() {
        let y = 20.0 + (row as f64 + 0.65) * cell;
        if cell >= 11.0 || row % 2 == 0 {
            out.raw("<text class=\"tick\" text-anchor=\"end\"")
                .at("x", LEFT - 8.0)
                .at("y", y)
                .raw(">")
                .raw(name)
                .raw("</text>");
        }
    }
    for date in first.iter_days().take_while(|date| *date <= last) {
        let past = (date - monday).num_days();
        let (x, y) = (LEFT + (past / 7) as f64 * cell, 20.0 + (past % 7) as f64 * cell);
        if date.day() == 1 || date == first && date.day() < 22 {
            out.raw("<text class=\"tick\"").at("x", x).at("y", 13.0).raw(">").text(date.format("%b %Y")).raw("</text>");
        }
        out.raw("<rect class=\"day\"")
            .at("x", x + 0.8)
            .at("y", y + 0.8)
            .at("width", cell - 1.6)
            .at("height", cell - 1.6);
        out.raw("/>");
        let Some(found) = days.get(&date) else { continue };
        let worst =
            found.outcomes.iter().max_by_key(|mark| [0, 2, 1][usize::from(**mark)]).map(|mark| usize::from(*mark));
        // A day shows its worst: a missed drill counts for more than one without a result.
        let mark = if found.missed && worst != Some(1) { 3 } else { worst.unwrap_or(3) };
        let (_, symbol, meaning) = MARKS[mark];
        out.raw("<text text-anchor=\"middle\" class=\"")
            .raw(["met-text", "missed-text", "unknown-text", "missed-text"][mark]);
        out.raw("\" font-size=\"")
            .number(cell * 0.72)
            .raw("\"")
            .at("x", x + cell / 2.0)
            .at("y", y + cell * 0.76)
            .raw("><title>");
        out.text(date).raw(": ").raw(meaning).raw("</title>").raw(symbol).raw("</text>");
    }
}
