//! Fixed facts: a quarter of a ledger, with most things that can happen in it.

use recoup::core::{
    evidence::{Action, Body, BodyRef, Control, FORMAT, HoldCause, Measured, Phase, Record, Subject, Verdict},
    id::{RunId, Sha256, SnapshotId},
    inventory::Kind,
    report::{Authority, Facts, Head, KIND, OpenedBody, RecordFact, SeenIn, SnapshotLine, StoreCopies, Tool},
    time::Timestamp,
};
use serde_json::json;
use std::collections::BTreeMap;

const DAY: i64 = 86_400;
const HOUR: i64 = 3_600;

/// A moment so many seconds after the period began.
pub(super) fn at(seconds: i64) -> Timestamp {
    let from: Timestamp = "2026-08-24T00:00:00Z".parse().unwrap();
    Timestamp::new(from.as_datetime() + chrono::Duration::seconds(seconds))
}

pub(super) fn snapshot(seq: u64) -> SnapshotId {
    SnapshotId { seq, run: "ssssssssssssssss".parse().unwrap() }
}

fn writer() -> RunId {
    "wwwwwwwwwwwwwwww".parse().unwrap()
}

pub(super) fn policy() -> Sha256 {
    Sha256([0xcc; 32])
}

/// Facts without a drill and without a snapshot.
pub(super) fn empty() -> Facts {
    let store = |store: &str, region: &str| StoreCopies {
        store: store.to_owned(),
        region: Some(region.to_owned()),
        provider: None,
        problem: None,
        snapshots: Some(0),
        newest: None,
        refused: 0,
    };
    Facts {
        head: Head {
            report: "rrrrrrrrrrrrrrrr".parse().unwrap(),
            kind: KIND.to_owned(),
            repository: "aaaaaaaaaaaaaaaa".parse().unwrap(),
            source: "ledger".parse().unwrap(),
            source_kind: Some("sqlite".to_owned()),
            from: at(0),
            to: at(90 * DAY),
            made_at: at(90 * DAY),
            previous: None,
        },
        authority: Authority {
            policy: "ledger".to_owned(),
            policy_sha256: Some(policy()),
            tier: Some("gold".to_owned()),
            rpo_seconds: Some(26 * 3_600),
            rto_seconds: Some(600),
            drill_every_seconds: Some(7 * 86_400),
            full_every_seconds: Some(7 * 86_400),
            incremental_every_seconds: Some(86_400),
            min_stores: 2,
            min_regions: Some(2),
            min_providers: None,
            immutable_for_seconds: None,
            keep_within_seconds: None,
            keep_last: Some(7),
            assertions: vec!["every transfer balances".to_owned()],
            signer: "SHA256:key".to_owned(),
        },
        tool: Tool {
            name: "recoup".to_owned(),
            version: "0.1.0".to_owned(),
            engine: "SQLite 3".to_owned(),
            host: "db1".to_owned(),
        },
        complete: true,
        answered: vec!["berlin".to_owned(), "oslo".to_owned()],
        refused: Vec::new(),
        shortened: Vec::new(),
        records: Vec::new(),
        snapshots: Vec::new(),
        copies: vec![store("berlin", "eu-central-1"), store("oslo", "eu-north-1")],
    }
}

/// Adds a record that nothing else is said of; returns its number.
pub(super) fn add(facts: &mut Facts, action: Action, verdict: Verdict, recorded_at: Timestamp) -> u64 {
    let number = facts.records.len() as u64 + 1;
    let record = Record {
        format: FORMAT.to_owned(),
        repository: facts.head.repository,
        writer: writer(),
        number,
        previous: None,
        seen: Vec::new(),
        acknowledged: BTreeMap::new(),
        signer: "SHA256:key".to_owned(),
        action,
        phase: Phase::Whole,
        closes: None,
        verdict,
        started_at: recorded_at,
        recorded_at,
        subjects: vec![Subject::new(facts.head.source.clone(), verdict)],
        measured: None,
        control: None,
        body: BodyRef { size: 1, sha256: Sha256([1; 32]) },
    };
    let sha256 = Sha256([u8::try_from(number % 251).unwrap(); 32]);
    facts.records.push(RecordFact { record, sha256, body: OpenedBody::NotRead });
    number
}

pub(super) fn last(facts: &mut Facts) -> &mut RecordFact {
    facts.records.last_mut().unwrap()
}

/// How a drill of the fixed facts goes.
#[derive(Clone, Copy)]
pub(super) struct Play {
    pub(super) began: i64,
    pub(super) verdict: Verdict,
    pub(super) rpo_seconds: Option<f64>,
    pub(super) rto_seconds: Option<f64>,
    /// The verdict in the body, where that is opened.
    pub(super) opened: Option<&'static str>,
    /// The stores that gave what came back.
    pub(super) stores_used: &'static [&'static str],
}

impl Play {
    pub(super) fn passed(began: i64, rpo_seconds: f64, rto_seconds: f64) -> Self {
        let (rpo_seconds, rto_seconds) = (Some(rpo_seconds), Some(rto_seconds));
        let (opened, stores_used) = (Some("pass"), &["berlin"][..]);
        Play { began, verdict: Verdict::Passed, rpo_seconds, rto_seconds, opened, stores_used }
    }
}

fn measured(play: &Play) -> Measured {
    let (disaster_at, drawn_at_random) = (at(play.began - 30), true);
    Measured { disaster_at, drawn_at_random, rpo_seconds: None, rto_seconds: None, stores_used: Vec::new() }
}

/// Adds the start of a drill.
pub(super) fn start(facts: &mut Facts, play: &Play) -> u64 {
    let number = add(facts, Action::Drill, Verdict::Pending, at(play.began));
    let fact = last(facts);
    fact.record.phase = Phase::Start;
    fact.record.subjects[0].policy_sha256 = Some(policy());
    fact.record.measured = Some(measured(play));
    number
}

/// Adds a drill with its end.
pub(super) fn drill(facts: &mut Facts, play: &Play) {
    let start = start(facts, play);
    let took = play.rto_seconds.unwrap_or(5.0);
    add(facts, Action::Drill, play.verdict, at(play.began + took as i64 + 1));
    let fact = last(facts);
    fact.record.phase = Phase::End;
    fact.record.closes = Some(start);
    fact.record.subjects[0].snapshot = Some(snapshot(start));
    let stores_used = play.stores_used.iter().map(|store| (*store).to_owned()).collect();
    let (rpo_seconds, rto_seconds) = (play.rpo_seconds, play.rto_seconds);
    fact.record.measured = Some(Measured { rpo_seconds, rto_seconds, stores_used, ..measured(play) });
    if let Some(verdict) = play.opened {
        fact.body = OpenedBody::Opened(Box::new(body(play, start, verdict)));
    } else if play.verdict != Verdict::Aborted {
        fact.body = OpenedBody::NotOpened("none of the given identities opens it".to_owned());
    }
}

fn body(play: &Play, start: u64, verdict: &str) -> Body {
    let took = play.rto_seconds.unwrap_or(0.0);
    let phase = |name: &str, share: f64| json!({ "name": name, "seconds": took * share });
    let held = if verdict == "fail-integrity" { "failed" } else { "passed" };
    let result = json!({
        "schema": "recoup.drill/1",
        "source": "ledger",
        "verdict": verdict,
        "rpo_seconds": play.rpo_seconds,
        "rto_seconds": play.rto_seconds,
        "rpo_policy_seconds": 26 * 3_600,
        "rto_policy_seconds": 600,
        "disaster_at": at(play.began - 30),
        "drawn_at_random": true,
        "started_at": at(play.began),
        "ended_at": at(play.began + took as i64),
        "snapshot": snapshot(start),
        "inventory_sha256": null,
        "read_started_at": at(play.began - HOUR),
        "policy_sha256": policy(),
        "files": 1,
        "bytes": 8_345_600,
        "phases": [phase("find", 0.05), phase("fetch", 0.35), phase("write", 0.3), phase("integrity", 0.2), phase("assertions", 0.1)],
        "checks": [
            { "name": "integrity_check", "status": held, "expected": "ok", "actual": if held == "failed" { "row 5 missing" } else { "ok" } },
            { "name": "every transfer balances", "status": "passed", "expected": "no rows", "actual": "no rows" },
        ],
        "went_round": [],
        "exceptions": [],
        "limits": ["the network between this host and the stores was not throttled"],
        "failure": null,
        "evidence": { "writer": writer(), "start": start, "end": null },
    });
    Body {
        host: "standby2".to_owned(),
        os_user: "recoup".to_owned(),
        login_user: None,
        reason: None,
        version: "0.1.0".to_owned(),
        command_line: vec!["recoup".to_owned(), "drill".to_owned()],
        result,
    }
}

/// Adds a snapshot that both stores hold.
pub(super) fn committed(facts: &mut Facts, seq: u64, read: i64) {
    facts.snapshots.push(SnapshotLine {
        snapshot: snapshot(seq),
        kind: Some(if seq % 7 == 1 { Kind::Full } else { Kind::Incremental }),
        read_started_at: at(read),
        created_at: at(read + 40),
        durable: Some(true),
        stores: vec!["berlin".to_owned(), "oslo".to_owned()],
        inventory_sha256: Some(Sha256([seq as u8; 32])),
        seen_in: SeenIn::Stores,
    });
    for copies in &mut facts.copies {
        copies.snapshots = copies.snapshots.map(|number| number + 1);
        copies.newest = Some(snapshot(seq));
    }
}

/// A period in which nothing went wrong.
pub(super) fn good() -> Facts {
    let mut facts = empty();
    for day in -1..90 {
        committed(&mut facts, (day + 2) as u64, day * DAY + 2 * HOUR);
    }
    for week in -1..13 {
        let stores_used = if week % 2 == 0 { &["berlin"][..] } else { &["oslo"][..] };
        let play = Play::passed(week * 7 * DAY + 4 * HOUR, 7_000.0 + week as f64, 95.0 + week as f64);
        drill(&mut facts, &Play { stores_used, ..play });
    }
    facts
}

/// A period in which much went wrong.
pub(super) fn troubled() -> Facts {
    let mut facts = empty();
    // Three nights without a snapshot, and one that is on one store only.
    for day in (-1..90).filter(|day| !(40..43).contains(day)) {
        committed(&mut facts, (day + 2) as u64, day * DAY + 2 * HOUR);
    }
    facts.snapshots[20].durable = Some(false);
    facts.snapshots[20].stores.pop();
    add(&mut facts, Action::Init, Verdict::Passed, at(-30 * DAY));
    drill(&mut facts, &Play::passed(-6 * DAY, 7_000.0, 100.0));
    let plays = [
        Play::passed(DAY, 7_200.0, 92.4),
        Play::passed(8 * DAY, 6_900.0, 101.0),
        Play::passed(15 * DAY, 20_400.0, 99.0),
        Play {
            verdict: Verdict::Aborted,
            opened: None,
            rpo_seconds: None,
            rto_seconds: None,
            stores_used: &[],
            ..Play::passed(22 * DAY, 0.0, 0.0)
        },
        Play::passed(22 * DAY + 3 * HOUR, 3_000.0, 130.0),
        Play { verdict: Verdict::Failed, opened: Some("fail-objective"), ..Play::passed(29 * DAY, 3_600.0, 734.0) },
        Play::passed(30 * DAY, 4_000.0, 140.0),
        Play {
            verdict: Verdict::Failed,
            opened: Some("fail-objective"),
            ..Play::passed(42 * DAY + 20 * HOUR, 240_000.0, 120.0)
        },
        Play::passed(43 * DAY + 3 * HOUR, 900.0, 118.0),
        // As an earlier version recorded it.
        Play { opened: None, stores_used: &[], ..Play::passed(50 * DAY, 8_000.0, 109.0) },
        Play { verdict: Verdict::Warning, stores_used: &["berlin", "oslo"], ..Play::passed(57 * DAY, 7_900.0, 111.0) },
        Play::passed(78 * DAY, 7_500.0, 117.0),
        Play::passed(85 * DAY, 7_100.0, 121.0),
    ];
    plays.iter().for_each(|play| drill(&mut facts, play));
    start(&mut facts, &Play::passed(88 * DAY, 0.0, 0.0));
    for day in 40..43 {
        add(&mut facts, Action::Backup, Verdict::Failed, at(day * DAY + 2 * HOUR));
    }
    add(&mut facts, Action::Hold, Verdict::Passed, at(43 * DAY));
    let (hold, source) = ("hhhhhhhhhhhhhhhh".parse().unwrap(), facts.head.source.clone());
    last(&mut facts).record.control =
        Some(Control::HoldAdded { hold, source, snapshots: vec![snapshot(42)], cause: HoldCause::Operator });
    let body = Body {
        os_user: "root".to_owned(),
        login_user: Some("eva".to_owned()),
        reason: Some("inquiry 17".to_owned()),
        ..body(&plays[0], 1, "pass")
    };
    last(&mut facts).body = OpenedBody::Opened(Box::new(body));
    add(&mut facts, Action::Prune, Verdict::Passed, at(60 * DAY));
    add(&mut facts, Action::Report, Verdict::Passed, at(61 * DAY));
    facts
}
