//! A report as one page that stands by itself: no script, nothing from elsewhere. Made from the report and nothing else.

mod axis;
mod charts;
mod sections;
mod summary;
mod table;
mod timeline;
mod writer;

use super::Report;
use crate::core::{id::Sha256, result::Verdict, time::Timestamp};
use writer::Writer;

const STYLE: &str = include_str!("style.css");

/// Nothing is loaded and nothing runs, whatever stands in the page.
const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
    base-uri 'none'; form-action 'none'\">\n\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
    <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n<title>";

/// The page of a report whose `report.json` has this digest.
pub fn page(report: &Report, sha256: Sha256) -> String {
    let mut out = Writer::default();
    let head = &report.head;
    out.raw(HEAD).raw("Restore verification of ").text(&head.source).raw(", ").text(date(head.from)).raw(" to ");
    out.text(date(head.to)).raw("</title>\n<style>\n").raw(STYLE).raw("</style>\n</head>\n<body>\n<main>\n");
    summary::header(&mut out, report);
    summary::tiles(&mut out, report);
    sections::findings(&mut out, report);
    sections::limits(&mut out, report);
    section(&mut out, "drills", "Drills", |out| {
        sections::drills_intro(out, report);
        charts::losses(out, report);
        charts::times(out, report);
        timeline::calendar(out, report);
        sections::statistics(out, report);
        sections::drill_details(out, report);
    });
    section(&mut out, "snapshots", "Snapshots and copies", |out| {
        timeline::snapshots(out, report);
        sections::copies(out, report);
        sections::failed_backups(out, report);
    });
    sections::changes(&mut out, report);
    sections::authority(&mut out, report);
    sections::evidence(&mut out, report);
    sections::how_to_check(&mut out, report, sha256);
    out.raw("</main>\n</body>\n</html>\n");
    out.finish()
}

fn section(out: &mut Writer, id: &'static str, title: &'static str, content: impl FnOnce(&mut Writer)) {
    out.raw("<section aria-labelledby=\"").raw(id).raw("\">\n<h2 id=\"").raw(id).raw("\">").raw(title).raw("</h2>\n");
    content(out);
    out.raw("</section>\n");
}

/// A drawing with its title and what it shows in words.
fn figure(
    out: &mut Writer,
    id: &'static str,
    title: &'static str,
    description: &str,
    height: f64,
    draw: impl FnOnce(&mut Writer),
) {
    out.raw("<figure>\n<figcaption><h3>").raw(title).raw("</h3><p>").text(description).raw("</p></figcaption>\n");
    out.raw("<svg role=\"img\" aria-labelledby=\"").raw(id).raw("-title ").raw(id).raw("-text\" viewBox=\"0 0 760 ");
    out.number(height)
        .raw("\">\n<title id=\"")
        .raw(id)
        .raw("-title\">")
        .raw(title)
        .raw("</title>\n<desc id=\"")
        .raw(id);
    out.raw("-text\">").text(description).raw("</desc>\n");
    draw(out);
    out.raw("\n</svg>\n</figure>\n");
}

/// A text as a sentence begins.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A moment to the minute.
fn minute(at: Timestamp) -> String {
    at.as_datetime().format("%Y-%m-%d %H:%M").to_string()
}

/// A day, for labels.
fn day(at: Timestamp) -> String {
    at.as_datetime().format("%-d %b").to_string()
}

fn date(at: Timestamp) -> String {
    at.as_datetime().format("%Y-%m-%d").to_string()
}

/// A verdict in words: what it says, and what that means.
fn verdict_words(verdict: Verdict) -> (&'static str, &'static str, &'static str) {
    match verdict {
        Verdict::Pass => {
            ("good", "✓ Passed", "Drills passed as often as they were due, and every objective of the policy was met.")
        }
        Verdict::FailObjective => {
            ("bad", "✕ Objective missed", "An objective of the policy was missed; the findings say which, and when.")
        }
        Verdict::FailIntegrity => {
            ("bad", "✕ Integrity failed", "A drill restored something that is not what it should be.")
        }
        Verdict::FailCompleteness => ("bad", "✕ Incomplete", "A drill did not get everything back."),
        Verdict::Inconclusive => (
            "unsure",
            "? Inconclusive",
            "The evidence does not suffice for a verdict; the findings say what is missing.",
        ),
        Verdict::Aborted => ("unsure", "? Broken off", "It was broken off."),
        Verdict::Refused => ("unsure", "? Refused", "It was refused before it began."),
    }
}
