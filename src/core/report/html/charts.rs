//! The charts of drills: what was lost, and how long it took.

use super::{
    super::{
        DrillEntry, Report,
        verdict::{Outcome, rpo_met, rto_met},
        words::{count, duration, duration_or_dash},
    },
    axis::{Axis, BOTTOM, LEFT, RIGHT, band, is_labelled, label_below},
    day, figure, minute,
    table::Table,
    writer::Writer,
};

/// As many drills have a place of their own; of more, the worst of each group is drawn.
const DRAWN_MAX: usize = 90;

/// As many phases have a look of their own.
const PHASES_MAX: usize = 8;

/// The drills to draw: those with a value, the worst of each group where there are too many.
fn drawn<'r>(report: &'r Report, value: fn(&DrillEntry) -> Option<f64>) -> (Vec<(&'r DrillEntry, f64)>, usize) {
    let all: Vec<(&DrillEntry, f64)> = report.drills.iter().filter_map(|drill| Some((drill, value(drill)?))).collect();
    let group = all.len().div_ceil(DRAWN_MAX).max(1);
    let worst = |group: &[(&'r DrillEntry, f64)]| group.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    (all.chunks(group).filter_map(worst).collect(), group)
}

fn grouped(group: usize) -> String {
    if group > 1 { format!(" Of every {group} drills the worst is drawn.") } else { String::new() }
}

/// What each drill lost.
pub(super) fn losses(out: &mut Writer, report: &Report) {
    let (drills, group) = drawn(report, |drill| drill.clear.rpo_seconds);
    let policy = report.authority.rpo_seconds.map(|seconds| seconds as f64);
    let largest = drills.iter().map(|(_, seconds)| *seconds).max_by(f64::total_cmp);
    if let Some(largest) = largest {
        let axis = Axis::fitting(drills.iter().map(|(_, seconds)| *seconds).chain(policy));
        let missed = drills.iter().filter(|(drill, _)| rpo_met(drill) == Some(false)).count() as u64;
        let description = format!(
            "{} measured a loss. The largest is {}; {} beyond what the policy permitted.{}{}",
            count(drills.len() as u64, "drill", "drills"),
            duration(largest),
            count(missed, "loss was", "losses were"),
            axis.note(),
            grouped(group),
        );
        figure(out, "rpo", "What each drill lost", &description, 226.0, |out| {
            axis.draw(out);
            for (at, (drill, seconds)) in drills.iter().enumerate() {
                loss(out, &axis, (at, drills.len()), drill, *seconds);
            }
            if let Some(policy) = policy {
                axis.draw_policy(out, "RPO", policy);
            }
        });
        key(
            out,
            &[
                ("mark met", "●", "within the policy"),
                ("mark missed", "▲", "beyond it"),
                ("mark unknown", "◇", "not judged"),
            ],
        );
    } else {
        out.raw("<p>No drill of the period measured a loss.</p>");
    }
    let mut table =
        Table::new(out, "Loss by drill", &["Began", "Outcome", "Lost", "Permitted", "Declared lost at", "Snapshot"]);
    for drill in &report.drills {
        let declared = drill.clear.disaster_at.map_or_else(|| "–".to_owned(), minute);
        let random = if drill.clear.drawn_at_random == Some(true) { ", at random" } else { "" };
        table.row(&[
            minute(drill.clear.started_at),
            Outcome::of(drill).words().to_owned(),
            duration_or_dash(drill.clear.rpo_seconds),
            duration_or_dash(drill.rpo_policy_seconds.map(|seconds| seconds as f64)),
            format!("{declared}{random}"),
            drill.clear.snapshot.map_or_else(|| "–".to_owned(), |snapshot| snapshot.to_string()),
        ]);
    }
    table.end();
}

fn loss(out: &mut Writer, axis: &Axis, (at, number): (usize, usize), drill: &DrillEntry, seconds: f64) {
    let (left, width) = band(at, number);
    let (x, y) = (left + width / 2.0, axis.y(seconds));
    out.raw("<line class=\"stem\"").at("x1", x).at("x2", x).at("y1", BOTTOM).at("y2", y).raw("/>");
    match rpo_met(drill) {
        Some(true) => out.raw("<circle class=\"met\" r=\"4.5\"").at("cx", x).at("cy", y).raw(">"),
        Some(false) => out
            .raw("<path class=\"missed\" d=\"M")
            .number(x - 6.0)
            .raw(" ")
            .number(y + 5.0)
            .raw(" L")
            .number(x)
            .raw(" ")
            .number(y - 6.0)
            .raw(" L")
            .number(x + 6.0)
            .raw(" ")
            .number(y + 5.0)
            .raw(" Z\">"),
        None => out
            .raw("<path class=\"unknown\" d=\"M")
            .number(x - 5.0)
            .raw(" ")
            .number(y)
            .raw(" L")
            .number(x)
            .raw(" ")
            .number(y - 5.0)
            .raw(" L")
            .number(x + 5.0)
            .raw(" ")
            .number(y)
            .raw(" L")
            .number(x)
            .raw(" ")
            .number(y + 5.0)
            .raw(" Z\">"),
    };
    out.raw("<title>").text(minute(drill.clear.started_at)).raw(": ").text(duration(seconds)).raw("</title>");
    out.raw(if rpo_met(drill) == Some(true) { "</circle>" } else { "</path>" });
    if is_labelled(at, number) {
        label_below(out, at, number, &day(drill.clear.started_at));
    }
}

/// How long each drill took, by phase.
pub(super) fn times(out: &mut Writer, report: &Report) {
    let (drills, group) = drawn(report, |drill| drill.clear.rto_seconds);
    let policy = report.authority.rto_seconds.map(|seconds| seconds as f64);
    let names = phase_names(report);
    if let Some(slowest) = drills.iter().map(|(_, seconds)| *seconds).max_by(f64::total_cmp) {
        // Phases add up on an even scale only. A policy far above would press them flat: it is named instead.
        let axis = Axis::even(policy.filter(|policy| *policy < slowest * 3.0).unwrap_or(slowest).max(slowest));
        let missed = drills.iter().filter(|(drill, _)| rto_met(drill) == Some(false)).count() as u64;
        let description = format!(
            "{} timed. The slowest took {}; {} longer than the policy permitted.{}",
            count(drills.len() as u64, "drill was", "drills were"),
            duration(slowest),
            count(missed, "drill took", "drills took"),
            grouped(group),
        );
        figure(out, "rto", "How long each drill took, by phase", &description, 226.0, |out| {
            out.raw(HATCH);
            axis.draw(out);
            for (at, (drill, seconds)) in drills.iter().enumerate() {
                bar(out, &axis, (at, drills.len()), drill, *seconds, &names);
            }
            out.raw("<line class=\"base\"").at("x1", LEFT).at("x2", RIGHT).at("y1", BOTTOM).at("y2", BOTTOM).raw("/>");
            if let Some(policy) = policy {
                axis.draw_policy(out, "RTO", policy);
            }
        });
        phase_key(out, &names);
    } else {
        out.raw("<p>No drill of the period was timed to its end.</p>");
    }
    times_table(out, report, &names);
}

/// Thin lines over every second phase: neighbours differ without their colors.
const HATCH: &str = "<defs><pattern id=\"hatch\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
    patternTransform=\"rotate(45)\"><line class=\"hatch\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"5\"/></pattern></defs>";

fn phase_names(report: &Report) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for phase in report.drills.iter().filter_map(|drill| drill.detail.as_ref()).flat_map(|detail| &detail.phases) {
        if !names.contains(&phase.name) && names.len() < PHASES_MAX {
            names.push(phase.name.clone());
        }
    }
    names
}

/// The classes of the phases, in order; the last is for what belongs to none.
const FILLS: [&str; PHASES_MAX + 1] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "rest"];

/// What each named phase took, and what is left of the whole.
fn parts(drill: &DrillEntry, seconds: f64, names: &[String]) -> Vec<(usize, f64)> {
    let mut parts = Vec::new();
    let phases = drill.detail.as_ref().map(|detail| detail.phases.as_slice()).unwrap_or_default();
    for (at, name) in names.iter().enumerate() {
        let took: f64 = phases.iter().filter(|phase| phase.name == *name).map(|phase| phase.seconds.max(0.0)).sum();
        parts.push((at, took));
    }
    let named: f64 = parts.iter().map(|(_, took)| took).sum();
    parts.push((PHASES_MAX, (seconds - named).max(0.0)));
    parts
}

fn bar(
    out: &mut Writer,
    axis: &Axis,
    (at, number): (usize, usize),
    drill: &DrillEntry,
    seconds: f64,
    names: &[String],
) {
    let (left, band_width) = band(at, number);
    let width = (band_width * 0.7).min(46.0);
    let left = left + (band_width - width) / 2.0;
    let mut below = 0.0;
    for (phase, took) in parts(drill, seconds, names).into_iter().filter(|(_, took)| *took > 0.0) {
        let (top, bottom) = (axis.y(below + took), axis.y(below));
        for fill in [Some(FILLS[phase]), (phase % 2 == 1).then_some("hatched")].into_iter().flatten() {
            out.raw("<rect class=\"").raw(fill).raw("\"").at("x", left).at("y", top).at("width", width);
            out.at("height", bottom - top)
                .raw("><title>")
                .text(names.get(phase).map_or("not told apart", String::as_str));
            out.raw(": ").text(duration(took)).raw("</title></rect>");
        }
        below += took;
    }
    if rto_met(drill) == Some(false) {
        out.raw("<text class=\"missed-text\" text-anchor=\"middle\"").at("x", left + width / 2.0);
        out.at("y", axis.y(seconds) - 4.0).raw(">▲</text>");
    }
    if is_labelled(at, number) {
        label_below(out, at, number, &day(drill.clear.started_at));
    }
}

fn phase_key(out: &mut Writer, names: &[String]) {
    out.raw("<ul class=\"key\">");
    for (at, name) in names.iter().enumerate() {
        out.raw("<li><svg class=\"swatch\" viewBox=\"0 0 14 14\" aria-hidden=\"true\"><rect width=\"14\" height=\"14\" class=\"");
        out.raw(FILLS[at]).raw("\"/>");
        if at % 2 == 1 {
            out.raw("<rect width=\"14\" height=\"14\" class=\"hatched\"/>");
        }
        out.raw("</svg> ").text(name).raw("</li>");
    }
    out.raw("<li><svg class=\"swatch\" viewBox=\"0 0 14 14\" aria-hidden=\"true\"><rect width=\"14\" height=\"14\" class=\"rest\"/></svg> ");
    out.raw("not told apart</li><li><span class=\"mark missed\">▲</span> longer than permitted</li></ul>");
}

fn times_table(out: &mut Writer, report: &Report, names: &[String]) {
    let fixed = ["Began", "Outcome", "Took", "Permitted"];
    let heads: Vec<&str> = fixed.into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut table = Table::new(out, "Time by drill and phase", &heads);
    for drill in &report.drills {
        let mut cells = vec![
            minute(drill.clear.started_at),
            Outcome::of(drill).words().to_owned(),
            duration_or_dash(drill.clear.rto_seconds),
            duration_or_dash(drill.rto_policy_seconds.map(|seconds| seconds as f64)),
        ];
        let seconds = drill.clear.rto_seconds.unwrap_or_default();
        let parts = parts(drill, seconds, names);
        let took = |(at, took): &(usize, f64)| {
            (*at < PHASES_MAX).then(|| duration_or_dash(drill.detail.is_some().then_some(*took)))
        };
        cells.extend(parts.iter().filter_map(took));
        table.row(&cells);
    }
    table.end();
}

/// What the marks of a chart mean.
pub(super) fn key(out: &mut Writer, entries: &[(&'static str, &'static str, &'static str)]) {
    out.raw("<ul class=\"key\">");
    for (class, mark, meaning) in entries {
        out.raw("<li><span class=\"").raw(class).raw("\">").raw(mark).raw("</span> ").raw(meaning).raw("</li>");
    }
    out.raw("</ul>");
}
