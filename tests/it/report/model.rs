//! What follows from facts: verdicts, calendars, exposure, statistics.

use super::facts::{self, Play, add, at, committed, drill, empty, good, last, start, troubled};
use recoup::{
    core::{
        evidence::{Action, Verdict as Recorded},
        report::{Facts, OpenedBody, RefusedLine, Report, SlotState, derive, html},
        result::{Severity, Verdict},
    },
    format::{self, report as report_format},
};

const DAY: i64 = 86_400;

fn ids(report: &Report, severity: Severity) -> Vec<&str> {
    let findings = report.derived.findings.iter().filter(|finding| finding.severity == severity);
    findings.map(|finding| finding.id.as_str()).collect()
}

#[test]
fn a_good_period_passes() {
    let report = Report::build(good());
    assert_eq!(report.derived.verdict, Verdict::Pass, "{:#?}", report.derived.findings);
    assert_eq!(report.derived.findings, Vec::new());
    let calendar = report.derived.calendar.as_ref().unwrap();
    assert_eq!((calendar.due, calendar.done, calendar.late, calendar.missed), (13, 13, 0, 0));
    assert_eq!(calendar.slots.last().unwrap().state, SlotState::Upcoming);
    let statistics = &report.derived.statistics;
    assert_eq!((statistics.attempts, statistics.passed, statistics.timed), (13, 13, 13));
    assert_eq!(statistics.failure_upper_bound, Some(0.205_817));
    assert_eq!(statistics.slowest_bounds_nine_in_ten, Some(0.745_813));
    assert_eq!((statistics.failure_interval, statistics.slowest_rto_seconds), (None, Some(107.0)));
    let exposure = &report.derived.exposure;
    assert_eq!((exposure.snapshots, exposure.durable, exposure.gaps_count), (90, 90, Some(0)));
    assert_eq!((exposure.within_rpo_share, exposure.largest_seconds), (Some(1.0), Some(86_440.0)));
    assert_eq!(exposure.measured_from, Some(at(0)));
    // Everything that is always so is said.
    let limits: Vec<&str> = report.derived.limits.iter().map(|limit| limit.id.as_str()).collect();
    for id in [
        "no-time-stamp",
        "same-host",
        "human-phases",
        "not-quoted",
        "sampled",
        "said-by-drills",
        "few-drills",
        "stores-drilled",
    ] {
        assert!(limits.contains(&id), "{id} is not among {limits:?}");
    }
    assert!(!limits.contains(&"moment-chosen") && !limits.contains(&"stores-down"), "{limits:?}");
}

/// A store counts where a drill that passed read everything from it alone.
#[test]
fn stores_that_no_drill_read_from_are_named() {
    let said = |facts: Facts| {
        let derived = Report::build(facts).derived;
        let limit = derived.limits.into_iter().find(|limit| limit.id == "stores-drilled").unwrap().text;
        let passed: Vec<(String, u64)> =
            derived.statistics.stores_drilled.into_iter().map(|drilled| (drilled.store, drilled.passed)).collect();
        (limit, passed)
    };
    let drilled = |berlin, oslo| vec![("berlin".to_owned(), berlin), ("oslo".to_owned(), oslo)];
    let unproven = |names: &str| format!("any of these stores alone: {names}; no drill");
    let (limit, passed) = said(good());
    assert_eq!(passed, drilled(7, 6));
    assert!(limit.contains("every copy is right"), "{limit}");
    let (limit, passed) = said(troubled());
    // Neither what came from both, nor what failed, nor what nobody recorded.
    assert_eq!(passed, drilled(8, 0));
    assert!(limit.contains(&unproven("oslo")), "{limit}");
    let (limit, passed) = said(empty());
    assert_eq!(passed, drilled(0, 0));
    assert!(limit.contains(&unproven("berlin, oslo")), "{limit}");
}

/// What every drill says of itself is said once, and not again where the report says it of all of them.
#[test]
fn what_drills_say_is_not_repeated() {
    let mut facts = good();
    let ended = facts.records.iter_mut().filter_map(|fact| match &mut fact.body {
        OpenedBody::Opened(body) if body.result["schema"] == "recoup.drill/1" => Some(body),
        _ => None,
    });
    for (number, body) in ended.enumerate() {
        body.result["exceptions"] = serde_json::json!(["this host also signs"]);
        body.result["limits"] = serde_json::json!([
            "people were not timed: noticing is no part of it",
            format!("drawn from the last {number}.5 seconds"),
            "no fingerprints",
            "everything was read from oslo: the copies on berlin were not read",
        ]);
    }
    let report = Report::build(facts);
    let texts = |id: &str| -> Vec<String> {
        let limits = report.derived.limits.iter().filter(|limit| limit.id == id).map(|limit| limit.text.clone());
        let findings = report.derived.findings.iter().filter(|found| found.id == id).map(|found| found.text.clone());
        limits.chain(findings).collect()
    };
    let said = ["drawn from the last 1.5 seconds (12 other drills said the like)", "no fingerprints"];
    assert_eq!(texts("said-by-drills"), said);
    let once = "a drill was done otherwise than it should be: this host also signs (13 drills)";
    assert_eq!(texts("drill-exception"), [once]);
    assert_eq!(derive(&report), report.derived);
}

/// What changes the verdict, and the finding that says so.
#[test]
fn verdicts_and_their_findings() {
    type Change = fn(&mut Facts);
    let failed = |opened| Play { verdict: Recorded::Failed, opened, ..Play::passed(80 * DAY, 7_000.0, 90.0) };
    let cases: &[(&str, Change, Verdict)] = &[
        ("", |_| {}, Verdict::Pass),
        ("evidence-incomplete", |facts| facts.complete = false, Verdict::Inconclusive),
        (
            "evidence-refused",
            |facts| {
                let (store, why) = ("oslo".to_owned(), "it has no signature".to_owned());
                facts.refused.push(RefusedLine { store, writer: facts.head.report, number: 3, why });
            },
            Verdict::Inconclusive,
        ),
        ("evidence-shortened", |facts| facts.shortened.push(facts.head.report), Verdict::Inconclusive),
        ("store-down", |facts| facts.copies[0].problem = Some("it is down".to_owned()), Verdict::Inconclusive),
        ("no-objective", |facts| facts.authority.rto_seconds = None, Verdict::Inconclusive),
        ("no-objective", |facts| facts.authority.rpo_seconds = None, Verdict::Inconclusive),
        ("exposure-exceeded", |facts| facts.authority.rpo_seconds = Some(86_000), Verdict::FailObjective),
        ("schedule-exceeded", |facts| facts.authority.incremental_every_seconds = Some(3_600), Verdict::Pass),
        ("no-drill", |facts| facts.records.clear(), Verdict::FailObjective),
        ("no-snapshot", |facts| facts.snapshots.clear(), Verdict::Pass),
        ("not-durable", |facts| facts.snapshots.last_mut().unwrap().durable = Some(false), Verdict::FailObjective),
        ("drill-missed", |facts| facts.authority.drill_every_seconds = Some(86_400), Verdict::FailObjective),
        ("drill-without-end", |facts| _ = start(facts, &Play::passed(80 * DAY, 0.0, 0.0)), Verdict::Inconclusive),
        ("backup-failed", |facts| _ = add(facts, Action::Backup, Recorded::Failed, at(DAY)), Verdict::Pass),
        (
            "drill-aborted",
            |facts| {
                drill(facts, &Play { verdict: Recorded::Aborted, opened: None, ..Play::passed(80 * DAY, 1.0, 1.0) })
            },
            Verdict::Pass,
        ),
        (
            "drill-refused",
            |facts| {
                drill(facts, &Play { verdict: Recorded::Refused, opened: None, ..Play::passed(89 * DAY, 1.0, 1.0) })
            },
            Verdict::Inconclusive,
        ),
        (
            "drill-unannounced",
            |facts| {
                start(facts, &Play::passed(80 * DAY, 60.0, 60.0));
                let record = &mut last(facts).record;
                (record.phase, record.verdict) = (recoup::core::evidence::Phase::Whole, Recorded::Passed);
            },
            Verdict::Pass,
        ),
        ("objective-missed-rto", |facts| drill(facts, &Play::passed(80 * DAY, 60.0, 601.0)), Verdict::FailObjective),
        ("objective-missed-rpo", |facts| drill(facts, &Play::passed(80 * DAY, 1e6, 60.0)), Verdict::FailObjective),
    ];
    for (id, change, verdict) in cases {
        let mut facts = good();
        change(&mut facts);
        let report = Report::build(facts);
        let found: Vec<&str> = report.derived.findings.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!(report.derived.verdict, *verdict, "{id}: {found:?}");
        assert!(id.is_empty() || found.contains(id), "{id} is not among {found:?}");
    }
    for (opened, verdict) in [
        (Some("fail-integrity"), Verdict::FailIntegrity),
        (Some("fail-completeness"), Verdict::FailCompleteness),
        (Some("fail-objective"), Verdict::FailObjective),
        (Some("inconclusive"), Verdict::Pass),
        // What was not opened met its objectives: something else must have failed.
        (None, Verdict::FailIntegrity),
    ] {
        let mut facts = good();
        drill(&mut facts, &failed(opened));
        assert_eq!(Report::build(facts).derived.verdict, verdict, "{opened:?}");
    }
}

#[test]
fn troubles_are_all_named() {
    let report = Report::build(troubled());
    assert_eq!(report.derived.verdict, Verdict::FailObjective);
    let critical = ids(&report, Severity::Critical);
    for id in ["objective-missed-rpo", "objective-missed-rto", "drill-missed", "drill-without-end", "exposure-exceeded"]
    {
        assert!(critical.contains(&id), "{id} is not among {critical:?}");
    }
    let warnings = ids(&report, Severity::Warning);
    for id in ["drill-aborted", "drill-went-round", "backup-failed", "schedule-exceeded", "not-durable", "drill-late"] {
        assert!(warnings.contains(&id), "{id} is not among {warnings:?}");
    }
    let calendar = report.derived.calendar.as_ref().unwrap();
    assert_eq!((calendar.done, calendar.late, calendar.missed), (7, 3, 1), "{:#?}", calendar.slots);
    assert_eq!(report.drills.len(), 14);
    assert_eq!(report.failed_backups.len(), 3);
    let hold = report.changes.iter().find(|change| change.action == Action::Hold).unwrap();
    assert_eq!(hold.what, "hold hhhhhhhhhhhhhhhh on one snapshot was added: an operator asked for it");
    assert_eq!((hold.by.as_deref(), hold.reason.as_deref()), (Some("eva as root on standby2"), Some("inquiry 17")));
    let statistics = &report.derived.statistics;
    assert_eq!((statistics.attempts, statistics.not_passed), (14, 4));
    let (lower, upper) = statistics.failure_interval.unwrap();
    assert!(lower > 0.08 && upper < 0.59, "{lower} {upper}");
    // The newest record of the chain is quoted, and the drill that passed last before the period.
    let quoted: Vec<u64> = report.evidence.quoted.iter().map(|line| line.record.number).collect();
    assert!(quoted.contains(&2) && quoted.contains(&3) && !quoted.contains(&1), "{quoted:?}");
    assert!(quoted.contains(&report.evidence.chains[0].records));
}

#[test]
fn exposure_is_what_would_have_been_lost() {
    let mut facts = empty();
    facts.authority.rpo_seconds = Some(10_000);
    committed(&mut facts, 1, -5_000);
    committed(&mut facts, 2, 10_000);
    committed(&mut facts, 3, 80 * DAY);
    facts.snapshots[1].durable = None;
    facts.head.to = at(80 * DAY + 4_000);
    let exposure = Report::build(facts).derived.exposure;
    // Within 10 000 s of a read: 5 000 s of the first, 9 960 s of the second, 3 960 s of the third.
    assert_eq!(exposure.within_rpo_seconds, Some(5_000.0 + 9_960.0 + 3_960.0));
    assert_eq!(exposure.measured_seconds, Some((80 * DAY + 4_000) as f64));
    assert_eq!(exposure.largest_seconds, Some((80 * DAY + 40 - 10_000) as f64));
    assert_eq!((exposure.gaps_count, exposure.gaps.len(), exposure.durability_unknown), (Some(2), 2, 1));
    assert_eq!((exposure.gaps[0].read_at, exposure.gaps[0].until), (at(-5_000), at(10_040)));
    // Nothing at all is not measured, and not zero.
    let exposure = Report::build(empty()).derived.exposure;
    assert_eq!((exposure.largest_seconds, exposure.within_rpo_share, exposure.measured_from), (None, None, None));
}

#[test]
fn snapshots_that_are_gone_are_known_from_evidence() {
    let mut facts = good();
    facts.snapshots.retain(|line| line.snapshot.seq != 40);
    let whole = |exposure: &recoup::core::report::Exposure| (exposure.snapshots, exposure.gaps_count);
    assert_eq!(whole(&Report::build(facts.clone()).derived.exposure), (89, Some(1)));
    add(&mut facts, Action::Backup, Recorded::Passed, at(38 * DAY + 7_300));
    last(&mut facts).record.subjects[0].snapshot = Some(facts::snapshot(40));
    let report = Report::build(facts);
    assert_eq!(whole(&report.derived.exposure), (90, Some(0)));
    assert_eq!(report.derived.exposure.in_evidence_only, 1);
    assert!(report.derived.limits.iter().any(|limit| limit.id == "snapshots-gone"));
}

#[test]
fn hostile_policies_end() {
    for every in [0, 1, u64::MAX] {
        let mut facts = good();
        facts.authority.drill_every_seconds = Some(every);
        let report = Report::build(facts);
        assert!(report.derived.calendar.is_none_or(|calendar| calendar.slots.len() <= 10_000));
    }
}

/// What is written reads back as the same, and everything in it can be made again.
#[test]
fn reports_round_trip_and_never_promise_too_much() {
    for facts in [good(), troubled(), empty()] {
        let report = Report::build(facts);
        let bytes = report_format::to_bytes(&report);
        let again = report_format::parse(&bytes).unwrap();
        assert_eq!(again, report);
        assert_eq!(report_format::to_bytes(&again), bytes);
        assert_eq!(derive(&again), again.derived);
        let page = html::page(&again, format::sha256(&bytes));
        for text in [String::from_utf8(bytes).unwrap(), page, recoup::core::report::readme(&again)] {
            assert!(!text.to_lowercase().contains("compliant"), "nothing of the kind is ours to say");
        }
    }
    let newer = br#"{"format":"recoup-report/2"}"#;
    assert!(matches!(report_format::parse(newer), Err(format::FormatError::Newer { .. })));
    assert!(report_format::parse(b"{}").is_err());
}

#[test]
fn a_whole_report() {
    let report = Report::build(troubled());
    let bytes = report_format::to_bytes(&report);
    insta::assert_snapshot!("report_json", String::from_utf8(bytes).unwrap());
}

fn fields(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(object) => object.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            fields(value, found);
        }),
        serde_json::Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

/// Every field, and every id of a finding, stands on the page of the format.
#[test]
fn the_format_is_described() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("man/recoup-report.5")).unwrap();
    let mut found = std::collections::BTreeSet::new();
    for facts in [good(), troubled()] {
        fields(&serde_json::to_value(Report::build(facts)).unwrap(), &mut found);
    }
    assert!(found.len() > 120, "{}", found.len());
    let missing: Vec<&String> = found
        .iter()
        .filter(|field| {
            let names = |start: &str| {
                page.lines().any(|line| {
                    line.strip_prefix(start).and_then(|rest| rest.split_whitespace().next()) == Some(field.as_str())
                })
            };
            !names(".Ic ") && !names(".It Ic ")
        })
        .collect();
    assert!(missing.is_empty(), "recoup-report(5) lacks {missing:?}");
    let source = std::fs::read_to_string(root.join("src/core/report/findings.rs")).unwrap();
    let ids: Vec<&str> = source.split("list.add(").skip(1).filter_map(|call| call.split('"').nth(1)).collect();
    assert!(ids.len() > 25 && ids.contains(&"no-drill"), "{ids:?}");
    let missing: Vec<&&str> = ids.iter().filter(|id| !page.contains(&format!(".Ql {id}"))).collect();
    assert!(missing.is_empty(), "recoup-report(5) lacks {missing:?}");
}
