//! The parts of the page that are text and tables.

use super::{
    super::{
        DrillEntry, Report, SeenIn,
        verdict::Outcome,
        words::{count, duration, percent, size, trimmed},
    },
    minute, section, sentence,
    table::Table,
    writer::Writer,
};
use crate::core::{
    id::Sha256,
    result::{CheckStatus, Severity},
};

fn optional<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "–".to_owned(), ToString::to_string)
}

pub(super) fn findings(out: &mut Writer, report: &Report) {
    section(out, "findings", "Findings", |out| {
        if report.derived.findings.is_empty() {
            out.raw("<p>Nothing was missed, as far as this report shows.</p>\n");
            return;
        }
        out.raw("<ul class=\"findings\">\n");
        for finding in &report.derived.findings {
            let (class, word) = match finding.severity {
                Severity::Critical => ("critical", "▲ critical"),
                Severity::Warning => ("warning", "◇ warning"),
                Severity::Note => ("note", "· note"),
            };
            out.raw("<li class=\"")
                .raw(class)
                .raw("\"><span class=\"severity\">")
                .raw(word)
                .raw("</span><div><p>")
                .text(sentence(&finding.text));
            out.raw("</p><p class=\"where\">");
            if let Some(at) = finding.at {
                out.text(minute(at)).raw(" · ");
            }
            out.element("<code>", &finding.id, "</code></p></div></li>\n");
        }
        out.raw("</ul>\n");
    });
}

pub(super) fn limits(out: &mut Writer, report: &Report) {
    section(out, "limits", "What this does not show", |out| {
        out.raw("<ul class=\"limits\">\n");
        for limit in &report.derived.limits {
            out.element("<li>", sentence(&limit.text), "</li>\n");
        }
        out.raw("</ul>\n");
    });
}

pub(super) fn drills_intro(out: &mut Writer, report: &Report) {
    let statistics = &report.derived.statistics;
    out.raw("<p>");
    out.text(count(statistics.attempts, "drill", "drills")).raw(" began in the period, ").text(statistics.passed);
    let announced = report.drills.iter().all(|drill| drill.clear.end.as_ref() != Some(&drill.clear.start));
    out.raw(match announced {
        true => {
            " passed. Each was on record, signed, before its result was; those without a result are listed, too.</p>\n"
        }
        false => " passed. Those without a result are listed, too.</p>\n",
    });
}

pub(super) fn statistics(out: &mut Writer, report: &Report) {
    let statistics = &report.derived.statistics;
    out.raw("<h3>What these numbers support</h3>\n<ul>\n");
    match statistics.failure_upper_bound {
        Some(bound) => {
            out.raw("<li>With ")
                .text(count(statistics.attempts, "drill", "drills"))
                .raw(", ")
                .text(statistics.not_passed);
            out.raw(" of which did not pass, the probability that a restore does not pass is at most ")
                .text(percent(bound));
            out.raw(" with 95 % confidence (Clopper–Pearson, one-sided).</li>\n");
        }
        None => drop(out.raw("<li>Without a drill nothing can be said about the probability of a failure.</li>\n")),
    }
    if let Some((lower, upper)) = statistics.failure_interval {
        out.raw("<li>Its two-sided 95 % interval is ")
            .text(percent(lower))
            .raw(" to ")
            .text(percent(upper))
            .raw(".</li>\n");
    }
    if let (Some(slowest), Some(nine), Some(nineteen)) = (
        statistics.slowest_rto_seconds,
        statistics.slowest_bounds_nine_in_ten,
        statistics.slowest_bounds_nineteen_in_twenty,
    ) {
        out.raw("<li>Nine in ten restores take no longer than the slowest drill, ")
            .text(duration(slowest))
            .raw(", with ");
        out.text(percent(nine)).raw(" confidence; nineteen in twenty with ").text(percent(nineteen)).raw(".</li>\n");
    }
    for drilled in &statistics.stores_drilled {
        let Some(last_at) = drilled.last_at else { continue };
        out.raw("<li>Everything came back from ").text(&drilled.store).raw(" alone in ");
        out.text(count(drilled.passed, "drill", "drills"))
            .raw(", last in the one of ")
            .text(minute(last_at))
            .raw(".</li>\n");
    }
    out.raw("</ul>\n");
}

pub(super) fn drill_details(out: &mut Writer, report: &Report) {
    let mut table =
        Table::new(out, "Checks of restored data", &["Drill began", "Check", "Result", "Expected", "Found"]);
    let details = report.drills.iter().filter_map(|drill| Some((drill, drill.detail.as_ref()?)));
    for (drill, detail) in details.clone() {
        for check in &detail.checks {
            let status = if check.status == CheckStatus::Passed { "held" } else { "did not hold" };
            table.row(&[
                minute(drill.clear.started_at),
                check.name.clone(),
                status.to_owned(),
                check.expected.clone(),
                check.actual.clone(),
            ]);
        }
    }
    table.end();
    let mut table = Table::new(
        out,
        "Drills, with what was restored",
        &["Began", "Outcome", "Files", "Bytes", "Read from", "Host", "Start and end on record", "Remarks"],
    );
    for drill in &report.drills {
        table.row(&detail_row(drill));
    }
    table.end();
}

fn detail_row(drill: &DrillEntry) -> [String; 8] {
    let record = format!(
        "{} {}–{}",
        drill.clear.start.writer,
        drill.clear.start.number,
        drill.clear.end.as_ref().map_or_else(|| "none".to_owned(), |end| end.number.to_string())
    );
    let detail = drill.detail.as_ref();
    let mut remarks: Vec<String> = drill.not_opened.iter().map(|why| format!("not opened: {why}")).collect();
    if let Some(detail) = detail {
        remarks.extend(detail.failure.iter().cloned());
        remarks.extend(
            detail
                .went_round
                .iter()
                .map(|round| format!("went round {} {} on {}", round.problem, round.object, round.store)),
        );
        remarks.extend(detail.exceptions.iter().cloned());
    }
    [
        minute(drill.clear.started_at),
        Outcome::of(drill).words().to_owned(),
        optional(detail.map(|detail| detail.files).as_ref()),
        detail.map_or_else(|| "–".to_owned(), |detail| size(detail.bytes)),
        if drill.clear.stores_used.is_empty() { "–".to_owned() } else { drill.clear.stores_used.join(", ") },
        optional(detail.map(|detail| &detail.host)),
        record,
        if remarks.is_empty() { "–".to_owned() } else { remarks.join("; ") },
    ]
}

pub(super) fn copies(out: &mut Writer, report: &Report) {
    let heads = ["Store", "Region", "Provider", "Snapshots it holds", "Newest", "State"];
    let mut table = Table::new(out, "What each store holds now", &heads);
    for copies in &report.copies {
        table.row(&[
            copies.store.clone(),
            optional(copies.region.as_ref()),
            optional(copies.provider.as_ref()),
            optional(copies.snapshots.as_ref()),
            optional(copies.newest.as_ref()),
            copies.problem.clone().unwrap_or_else(|| "answered".to_owned()),
        ]);
    }
    table.end();
    let exposure = &report.derived.exposure;
    out.raw("<p>").text(count(exposure.snapshots, "snapshot was", "snapshots were")).raw(" committed in the period: ");
    out.text(exposure.durable)
        .raw(" durable, ")
        .text(exposure.not_durable)
        .raw(" not, ")
        .text(exposure.durability_unknown);
    out.raw(" of which it is not known.");
    if let Some(median) = exposure.median_interval_seconds {
        out.raw(" The usual time between two reads was ").text(duration(median)).raw(".");
    }
    out.raw("</p>\n");
    let mut table = Table::new(out, "Snapshots", &["Snapshot", "Kind", "Read", "Committed", "Durable", "Stores"]);
    for line in report.snapshots.iter().rev().take(1_000) {
        table.row(&[
            line.snapshot.to_string(),
            optional(line.kind.as_ref()),
            minute(line.read_started_at),
            minute(line.created_at),
            match (line.durable, line.seen_in) {
                (_, SeenIn::Evidence) => "on record only".to_owned(),
                (Some(true), _) => "yes".to_owned(),
                (Some(false), _) => "no".to_owned(),
                (None, _) => "not known".to_owned(),
            },
            if line.stores.is_empty() { "–".to_owned() } else { line.stores.join(", ") },
        ]);
    }
    table.end();
    if report.snapshots.len() > 1_000 {
        out.raw("<p>The newest 1000 snapshots are shown; report.json lists all of them.</p>\n");
    }
}

pub(super) fn failed_backups(out: &mut Writer, report: &Report) {
    let mut table = Table::new(out, "Backups that failed", &["Recorded", "What came of it", "Snapshot", "Record"]);
    for failed in &report.failed_backups {
        let record = format!("{} {}", failed.record.writer, failed.record.number);
        table.row(&[
            minute(failed.recorded_at),
            failed.verdict.to_string(),
            optional(failed.snapshot.as_ref()),
            record,
        ]);
    }
    table.end();
    if report.failed_backups.is_empty() {
        out.raw("<p>No failed backup is on record for the period.</p>\n");
    }
}

pub(super) fn changes(out: &mut Writer, report: &Report) {
    section(out, "changes", "Changes and other actions", |out| {
        let heads = ["Recorded", "Action", "What", "Outcome", "By", "Reason", "Record"];
        let mut table = Table::new(out, "Changes in the period", &heads);
        for change in &report.changes {
            table.row(&[
                minute(change.recorded_at),
                change.action.to_string(),
                change.what.clone(),
                change.verdict.to_string(),
                optional(change.by.as_ref()),
                optional(change.reason.as_ref()),
                format!("{} {}", change.record.writer, change.record.number),
            ]);
        }
        table.end();
        if report.changes.is_empty() {
            out.raw("<p>Nothing else is on record for the period.</p>\n");
        }
    });
}

pub(super) fn authority(out: &mut Writer, report: &Report) {
    let authority = &report.authority;
    let seconds = |value: Option<u64>| value.map_or_else(|| "not set".to_owned(), |value| duration(value as f64));
    let number = |value: Option<u64>| value.map_or_else(|| "not set".to_owned(), |value| value.to_string());
    section(out, "policy", "What it is judged by", |out| {
        let mut table = Table::new(out, "The policy in force", &["Key", "Value"]);
        for (key, value) in [
            ("policy", authority.policy.clone()),
            ("SHA-256 of its text", optional(authority.policy_sha256.as_ref())),
            ("tier", optional(authority.tier.as_ref())),
            ("rpo", seconds(authority.rpo_seconds)),
            ("rto", seconds(authority.rto_seconds)),
            ("drill every", seconds(authority.drill_every_seconds)),
            ("full snapshot every", seconds(authority.full_every_seconds)),
            ("incremental snapshot every", seconds(authority.incremental_every_seconds)),
            ("stores that must hold a snapshot", authority.min_stores.to_string()),
            ("regions", number(authority.min_regions)),
            ("providers", number(authority.min_providers)),
            ("copies immutable for", seconds(authority.immutable_for_seconds)),
            ("kept within", seconds(authority.keep_within_seconds)),
            ("kept at least", number(authority.keep_last)),
            (
                "assertions",
                if authority.assertions.is_empty() { "none".to_owned() } else { authority.assertions.join("; ") },
            ),
        ] {
            table.row(&[key.to_owned(), value]);
        }
        table.end();
    });
}

pub(super) fn evidence(out: &mut Writer, report: &Report) {
    let evidence = &report.evidence;
    section(out, "evidence", "The records it rests on", |out| {
        out.raw("<p>Records were read from ").text(count(evidence.answered.len() as u64, "store", "stores"));
        if !evidence.answered.is_empty() {
            out.raw(" (").text(evidence.answered.join(", ")).raw(")");
        }
        out.raw(match evidence.complete {
            true => ": enough, so that nothing which was acknowledged is missed.",
            false => ": too few, so that records which were acknowledged may be missing.",
        });
        out.raw("</p>\n");
        let mut table = Table::new(out, "Chains of records", &["Writer", "Records", "SHA-256 of the newest"]);
        for chain in &evidence.chains {
            table.row(&[chain.writer.to_string(), chain.records.to_string(), chain.head_sha256.to_string()]);
        }
        table.end();
        let heads = ["Record", "Recorded", "Action", "SHA-256", "Signed by"];
        let mut table = Table::new(out, "Records that lie beside this report, in evidence/", &heads);
        for quoted in &evidence.quoted {
            table.row(&[
                format!("{} {}", quoted.record.writer, quoted.record.number),
                minute(quoted.recorded_at),
                quoted.action.to_string(),
                quoted.record.sha256.to_string(),
                quoted.signer.clone(),
            ]);
        }
        table.end();
    });
}

pub(super) fn how_to_check(out: &mut Writer, report: &Report, sha256: Sha256) {
    section(out, "check", "How to check this", |out| {
        out.raw("<p>This page is made from <code>report.json</code>, which decides. Its SHA-256 is</p>\n<p class=\"digest\"><code>");
        out.text(sha256).raw("</code></p>\n<p>It was signed by <code>").text(&report.authority.signer);
        out.raw("</code>. Compare that fingerprint with the one that you were given by other means; then, with nothing but OpenSSH:</p>\n");
        out.raw("<pre>ssh-keygen -Y verify -f allowed_signers -I report@").text(report.head.repository);
        out.raw(" -n recoup-report -s report.json.sig &lt; report.json\nsha256sum -c SHA256SUMS</pre>\n");
        out.raw("<p><code>README.txt</code> has the commands for the records, too. <code>recoup report --verify DIR</code> also \
            makes this page, the findings and the verdict again and compares them.</p>\n<p class=\"small\">");
        if let Some(previous) = &report.head.previous {
            out.raw("The report before this one is recorded as ")
                .text(previous.record.writer)
                .raw(" ")
                .text(previous.record.number);
            if let Some(sha256) = previous.report_sha256 {
                out.raw(", SHA-256 ").text(sha256);
            }
            out.raw(". ");
        }
        out.raw("Engine: ").text(&report.tool.engine).raw(". The failure bounds use a confidence of ");
        out.text(trimmed(report.derived.statistics.confidence * 100.0, 1)).raw(" %.</p>\n");
    });
}
