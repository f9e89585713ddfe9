//! What a report does not show. Made from what it says, so that nobody forgets a line.

use super::{Derived, Limit, Report, SeenIn, words::count};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn limits(report: &Report, derived: &Derived) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut add = |id: &str, text: String| limits.push(Limit { id: id.to_owned(), text });
    always(report, &mut add);
    of_drills(report, derived, &mut add);
    of_snapshots(report, derived, &mut add);
    of_evidence(report, &mut add);
    let said_by_drills = said_by_drills(report, &limits);
    limits.extend(said_by_drills);
    limits
}

/// How a limit of a single drill begins, and the limit of the report that says the same of all of them.
const SAID_OF_ALL: &[(&str, &str)] = &[
    ("people were not timed", "human-phases"),
    ("the moment of the disaster was chosen", "moment-chosen"),
    ("the source is on the same host", "drilled-at-home"),
    ("one of ", "sampled"),
    ("everything was read from ", "stores-drilled"),
];

/// What the drills say of themselves and the report does not say yet. What differs in numbers only is said once.
fn said_by_drills(report: &Report, said: &[Limit]) -> Vec<Limit> {
    let is_said = |text: &str| {
        let of_all = SAID_OF_ALL.iter().find(|(beginning, _)| text.starts_with(beginning));
        of_all.is_some_and(|(_, id)| said.iter().any(|limit| limit.id == *id))
    };
    let mut alike: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let own = report.drills.iter().filter_map(|drill| drill.detail.as_ref()).flat_map(|detail| &detail.limits);
    for text in own.map(String::as_str).filter(|text| !is_said(text)) {
        let without_numbers = text.split(|char: char| char.is_ascii_digit() || char == '.').collect();
        alike.entry(without_numbers).or_default().insert(text);
    }
    let limit = |texts: &BTreeSet<&str>| {
        let others = match texts.len() - 1 {
            0 => String::new(),
            others => format!(" ({} said the like)", count(others as u64, "other drill", "other drills")),
        };
        let text = format!("{}{others}", texts.first().copied().unwrap_or_default());
        Limit { id: "said-by-drills".to_owned(), text }
    };
    alike.values().take(100).map(limit).collect()
}

fn always(report: &Report, add: &mut impl FnMut(&str, String)) {
    add(
        "no-time-stamp",
        "when anything was signed: OpenSSH signatures carry no time, and no outside authority has stamped this report or \
         its records; every time in it is by the clocks of the hosts that wrote it"
            .to_owned(),
    );
    add(
        "same-host",
        format!(
            "an independent judgement: the key {} that signed this report is on the host {}, which also {}",
            report.authority.signer,
            report.tool.host,
            match report.drills.iter().any(|drill| drill.clear.end.is_some()) {
                true => "takes the snapshots and may have run the drills",
                false => "takes the snapshots",
            }
        ),
    );
    add(
        "human-phases",
        "the time that people need: noticing a disaster, declaring it, deciding, fetching the identity, releasing the \
         restored system; drills measure what the machine does"
            .to_owned(),
    );
    add(
        "not-quoted",
        "that no record was left out: this directory holds the records that are quoted; the whole chains are on the \
         stores, where recoup evidence verify follows them from the first record"
            .to_owned(),
    );
}

fn of_drills(report: &Report, derived: &Derived, add: &mut impl FnMut(&str, String)) {
    let ended: Vec<_> = report.drills.iter().filter(|drill| drill.clear.end.is_some()).collect();
    let closed = ended.iter().filter(|drill| drill.detail.is_none()).count() as u64;
    if closed > 0 {
        add(
            "bodies-not-opened",
            format!("phases and checks of {}, whose sealed records were not opened", count(closed, "drill", "drills")),
        );
    }
    let chosen = report.drills.iter().filter(|drill| drill.clear.drawn_at_random != Some(true)).count() as u64;
    if chosen > 0 {
        add(
            "moment-chosen",
            format!(
                "that {} not timed to suit: the moment of the disaster was not drawn at random",
                count(chosen, "drill was", "drills were")
            ),
        );
    }
    let statistics = &derived.statistics;
    let unproven = statistics.stores_drilled.iter().filter(|drilled| drilled.passed == 0);
    let unproven: Vec<&str> = unproven.map(|drilled| drilled.store.as_str()).collect();
    add(
        "stores-drilled",
        match &unproven[..] {
            [] => "that every copy is right: a drill reads one copy of each object; recoup verify --all reads them all"
                .to_owned(),
            names => format!(
                "that everything comes back from any of these stores alone: {}; no drill of the period that passed is on \
                 record as having read all of it from there",
                names.join(", ")
            ),
        },
    );
    add(
        "few-drills",
        format!(
            "how likely a restore fails, beyond what {}: drills are taken for independent and alike, and {} without a \
             failure bound the probability of one by 5 % with 95 % confidence",
            count(statistics.attempts, "drill supports", "drills support"),
            statistics.drills_for_five_percent
        ),
    );
    let hosts: BTreeSet<&str> = ended.iter().filter_map(|drill| Some(drill.detail.as_ref()?.host.as_str())).collect();
    if hosts.contains(report.tool.host.as_str()) {
        add(
            "drilled-at-home",
            "recovery without the primary site: drills ran on the host that takes the snapshots".to_owned(),
        );
    }
    if derived.calendar.as_ref().is_some_and(|calendar| calendar.truncated) {
        add("calendar-cut", "every time at which a drill was due: there are more than a report lists".to_owned());
    }
}

fn of_snapshots(report: &Report, derived: &Derived, add: &mut impl FnMut(&str, String)) {
    let restored: BTreeSet<_> = report.drills.iter().filter_map(|drill| drill.clear.snapshot).collect();
    let untested = report
        .snapshots
        .iter()
        .filter(|line| line.seen_in == SeenIn::Stores && !restored.contains(&line.snapshot))
        .count() as u64;
    if untested > 0 {
        add(
            "sampled",
            format!(
                "that every snapshot restores: {} of those listed {} not restored in a drill of the period",
                untested,
                if untested == 1 { "was" } else { "were" }
            ),
        );
    }
    let exposure = &derived.exposure;
    add(
        "exposure-by-snapshots",
        "what really would have been lost: exposure is counted from the beginning of a snapshot's read until the next one \
         is committed, also where the source did not change; durability is as the stores show it now"
            .to_owned(),
    );
    if exposure.in_evidence_only > 0 {
        add(
            "snapshots-gone",
            format!(
                "anything but the record of {}: deleted by now, or on stores that did not answer",
                count(exposure.in_evidence_only, "snapshot", "snapshots")
            ),
        );
    }
    if exposure.durability_unknown > 0 {
        add(
            "durability-unknown",
            format!("whether {} durable", count(exposure.durability_unknown, "snapshot is", "snapshots are")),
        );
    }
    if exposure.measured_from.is_none_or(|from| from > report.head.from) {
        add(
            "period-not-covered",
            match exposure.measured_from {
                Some(from) => format!("the period before {from}: no snapshot from before then is known"),
                None => "exposure: no snapshot is known".to_owned(),
            },
        );
    }
    add(
        "immutability",
        "whether stores really refuse to delete: locks and retention of the stores are not asked".to_owned(),
    );
    add("one-source", format!("other sources, or that {} and they come back to one common moment", report.head.source));
}

fn of_evidence(report: &Report, add: &mut impl FnMut(&str, String)) {
    let down: Vec<&str> =
        report.copies.iter().filter(|copies| copies.problem.is_some()).map(|copies| copies.store.as_str()).collect();
    if !down.is_empty() {
        add("stores-down", format!("what these stores hold, which did not answer: {}", down.join(", ")));
    }
    if !report.evidence.complete || !report.evidence.refused.is_empty() || !report.evidence.shortened.is_empty() {
        add("evidence-incomplete", "everything that was recorded: see the findings about evidence".to_owned());
    }
    if report.evidence.chains.is_empty() {
        add("no-evidence", "anything that happened before evidence was kept: there is no record".to_owned());
    }
}
