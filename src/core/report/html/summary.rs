//! The top of the page: what it is about, what it comes to, and the four numbers that people look for.

use super::{
    super::{
        Report,
        words::{count, duration, percent},
    },
    date, minute, verdict_words,
    writer::Writer,
};

pub(super) fn header(out: &mut Writer, report: &Report) {
    let head = &report.head;
    out.raw("<header>\n<p class=\"kicker\">Restore verification report</p>\n<h1>")
        .text(&head.source)
        .raw("</h1>\n<p class=\"period\">");
    out.text(date(head.from)).raw(" to ").text(date(head.to)).raw(" · all times are UTC</p>\n");
    let (class, word, meaning) = verdict_words(report.derived.verdict);
    out.raw("<div class=\"verdict ")
        .raw(class)
        .raw("\" role=\"status\"><strong>")
        .raw(word)
        .raw("</strong> <span>")
        .raw(meaning);
    out.raw("</span></div>\n<dl class=\"facts\">");
    let policy = format!(
        "{}{}",
        report.authority.policy,
        report.authority.tier.as_ref().map(|tier| format!(" (tier {tier})")).unwrap_or_default()
    );
    for (name, value) in [
        ("Repository", head.repository.to_string()),
        ("Kind", head.source_kind.clone().unwrap_or_else(|| "not known".to_owned())),
        ("Policy", policy),
        ("Period", format!("{} to {}", minute(head.from), minute(head.to))),
        (
            "Made",
            format!("{} by {} {} on {}", minute(head.made_at), report.tool.name, report.tool.version, report.tool.host),
        ),
        ("Report", head.report.to_string()),
    ] {
        out.raw("<div>").element("<dt>", name, "</dt>").element("<dd>", value, "</dd>").raw("</div>");
    }
    out.raw("</dl>\n</header>\n");
}

/// How one number stands.
enum State {
    Met,
    Missed,
    NotJudged,
}

pub(super) fn tiles(out: &mut Writer, report: &Report) {
    out.raw("<section class=\"tiles\" aria-label=\"Summary\">\n");
    let (authority, derived) = (&report.authority, &report.derived);
    let statistics = &derived.statistics;
    let judged = |measured: Option<f64>, policy: Option<u64>| match (measured, policy) {
        (Some(measured), Some(policy)) if measured <= policy as f64 => State::Met,
        (Some(_), Some(_)) => State::Missed,
        _ => State::NotJudged,
    };
    let permitted = |policy: Option<u64>| match policy {
        Some(policy) => format!("the policy permits {}", duration(policy as f64)),
        None => "the policy sets no limit".to_owned(),
    };
    let measured = |value: Option<f64>| value.map_or_else(|| "not measured".to_owned(), duration);
    let (rpo, rto) = (statistics.largest_rpo_seconds, statistics.slowest_rto_seconds);
    tile(
        out,
        "Largest loss in a drill",
        &measured(rpo),
        &permitted(authority.rpo_seconds),
        &judged(rpo, authority.rpo_seconds),
    );
    tile(
        out,
        "Slowest restore in a drill",
        &measured(rto),
        &permitted(authority.rto_seconds),
        &judged(rto, authority.rto_seconds),
    );
    match &derived.calendar {
        Some(calendar) => {
            let text = format!("{} of {}", calendar.done + calendar.late, calendar.due);
            let every = duration(calendar.every_seconds as f64);
            let note = format!("due every {every}; {} late, {} missed", calendar.late, calendar.missed);
            let state = match (calendar.due, calendar.missed) {
                (0, _) => State::NotJudged,
                (_, 0) => State::Met,
                _ => State::Missed,
            };
            tile(out, "Drills passed when due", &text, &note, &state);
        }
        None => {
            let text = count(statistics.passed, "drill", "drills");
            tile(out, "Drills passed", &text, "the policy does not say how often one is due", &State::NotJudged);
        }
    }
    let exposure = &derived.exposure;
    let share = exposure.within_rpo_share.map_or_else(|| "not measured".to_owned(), percent);
    let state = match exposure.within_rpo_share {
        Some(share) if share >= 1.0 => State::Met,
        Some(_) => State::Missed,
        None => State::NotJudged,
    };
    let note = match exposure.largest_seconds {
        Some(largest) => {
            format!("{}; largest exposure {}", count(exposure.snapshots, "snapshot", "snapshots"), duration(largest))
        }
        None => count(exposure.snapshots, "snapshot", "snapshots"),
    };
    tile(out, "Time with exposure within the RPO", &share, &note, &state);
    out.raw("</section>\n");
}

fn tile(out: &mut Writer, title: &'static str, value: &str, note: &str, state: &State) {
    let (class, word) = match state {
        State::Met => ("met", "● met"),
        State::Missed => ("missed", "▲ missed"),
        State::NotJudged => ("unknown", "◇ not judged"),
    };
    out.raw("<div class=\"tile ").raw(class).raw("\"><h2>").raw(title).raw("</h2><p class=\"value\">").text(value);
    out.raw("</p><p class=\"note\">").text(note).raw("</p><p class=\"state\">").raw(word).raw("</p></div>\n");
}
