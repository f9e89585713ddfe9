//! Whatever facts, and what they are judged to be.

use super::*;
use crate::core::{
    coverage::{LogGap, ThinFiles},
    evidence::{Action, Control, Phase, Record, SeenHead, Subject, Verdict, WriterId},
    policy::Copies,
    result::{Status, StoreState},
    server::{LogDirectory, ServerFacts, Slot},
};

const RUN: &str = "aaaaaaaaaaaaaaaa";

fn at(text: &str) -> Timestamp {
    format!("2026-11-{text}Z").parse().unwrap()
}

fn id(seq: u64) -> SnapshotId {
    SnapshotId { seq, run: RUN.parse().unwrap() }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn seen(seq: u64, when: &str, held_by: &[&str]) -> Seen {
    let (read_started_at, sha256) = (at(when), Sha256([0; 32]));
    let sealed_to = names(&["age1one", "age1two"]);
    Seen { id: id(seq), sha256, created_at: read_started_at, read_started_at, held_by: names(held_by), sealed_to }
}

fn minutes(number: u64) -> Option<Duration> {
    Some(Duration::from_secs(60 * number))
}

/// Three stores that answer, one source whose newest snapshot is 30 minutes old, and nothing wrong.
fn well() -> Facts {
    let store = |name: &str| StoreFacts {
        name: name.to_owned(),
        place: Place::default(),
        answer: Answer::Ready,
        problem: String::new(),
        next_step: None,
        free_bytes: None,
    };
    let newest = seen(7, "22T11:30:00", &["a", "b", "c"]);
    let source = SourceFacts {
        name: "ledger".parse().unwrap(),
        policy: Policy { rpo: minutes(60), ..Policy::default() },
        unreachable: None,
        unchanged: false,
        log: None,
        server: None,
        shown: 7,
        newest: Some(newest.clone()),
        durable: Some(newest),
        last_full: LastFull::At(at("22T00:00:00")),
        later_parents: Vec::new(),
        lacking: BTreeMap::new(),
        refused: Vec::new(),
        forks: Vec::new(),
        lost_head: None,
        all_shown: None,
        damaged: BTreeMap::new(),
        state_lost: None,
        foreign_log: None,
    };
    let recipients = vec!["age1one".to_owned(), "age1two".to_owned()];
    let mut control = ControlFacts { complete: true, writer: Some(RUN.parse().unwrap()), ..ControlFacts::default() };
    for recipient in &recipients {
        record(&mut control, Action::Key, |record| {
            record.control = Some(Control::RecipientProven { recipient: recipient.clone() });
        });
    }
    Facts {
        now: at("22T12:00:00"),
        host: HostFacts { recipients, ..HostFacts::default() },
        stores: ["a", "b", "c"].map(store).into(),
        sources: vec![source],
        control,
    }
}

/// Adds a record of this host, changed as a test wants it.
fn record(control: &mut ControlFacts, action: Action, change: impl FnOnce(&mut Record)) {
    let writer = control.writer.unwrap_or(RUN.parse().unwrap());
    let number = control.state.heads.get(&writer).map_or(0, |head| head.number) + 1;
    let mut record = Record {
        writer,
        number,
        action,
        started_at: at("22T11:00:00"),
        recorded_at: at("22T11:00:00"),
        subjects: vec![Subject::new("ledger".parse().unwrap(), Verdict::Passed)],
        ..Record::example()
    };
    change(&mut record);
    control.state.add(&record, Sha256([0; 32]));
}

fn drill(facts: &mut Facts, started_at: Timestamp, verdict: Verdict) {
    record(&mut facts.control, Action::Drill, |record| {
        (record.started_at, record.verdict) = (started_at, verdict);
        if verdict == Verdict::Pending {
            record.phase = Phase::Start;
        }
    });
}

/// What is found, as `severity id` and what it concerns.
fn found(facts: &Facts) -> Vec<String> {
    let of = |finding: &CheckFinding| {
        let store = finding.store.iter().map(|store| format!(" {store}")).collect::<String>();
        format!("{} {}{store}", finding.severity.word(), finding.id)
    };
    judge(facts).findings.iter().map(of).collect()
}

type Change = fn(&mut Facts);

/// Each is the one thing that is wrong.
const CASES: &[(&str, Change)] = &[
    ("critical rpo-exceeded", |facts| facts.now = at("22T12:30:01")),
    ("critical no-snapshot", |facts| {
        let source = &mut facts.sources[0];
        (source.newest, source.durable, source.shown, source.last_full) = (None, None, 0, LastFull::Unknown);
    }),
    ("critical nobody-trusted", |facts| {
        let source = &mut facts.sources[0];
        (source.newest, source.durable) = (None, None);
        source.refused = vec![refused("a", true, false, false)];
    }),
    ("critical snapshot-refused a", |facts| facts.sources[0].refused = vec![refused("a", true, false, false)]),
    ("warning snapshot-refused a", |facts| facts.sources[0].refused = vec![refused("a", false, false, true)]),
    ("warning snapshot-refused b", |facts| facts.sources[0].refused = vec![refused("b", false, true, false)]),
    ("warning not-durable", |facts| facts.sources[0].newest = Some(seen(8, "22T11:50:00", &["a"]))),
    ("critical not-durable", |facts| {
        facts.sources[0].newest = Some(seen(8, "22T11:50:00", &["a"]));
        facts.sources[0].durable = None;
    }),
    ("critical source-unreachable", |facts| facts.sources[0].unreachable = Some("gone".to_owned())),
    ("critical head-rolled-back", |facts| facts.sources[0].lost_head = Some(id(9))),
    ("warning fork", |facts| facts.sources[0].forks = vec![(7, vec![id(7), id(7)])]),
    ("critical known-damage b", |facts| facts.sources[0].damaged = [("b".to_owned(), 2)].into()),
    ("warning state-lost", |facts| facts.sources[0].state_lost = Some("gone".to_owned())),
    ("warning state-lost", |facts| {
        facts.host.state_lost = Some("gone".to_owned());
        facts.sources[0].state_lost = Some("gone".to_owned());
    }),
    ("warning clock-suspect", |facts| facts.sources[0].newest.as_mut().unwrap().created_at = at("22T12:05:01")),
    ("warning clock-suspect", |facts| facts.sources[0].later_parents = vec![(id(6), at("22T11:40:00"))]),
    ("warning incremental-overdue", |facts| facts.sources[0].policy.incremental_interval = minutes(23)),
    ("warning full-overdue", |facts| facts.sources[0].policy.full_interval = minutes(9 * 60)),
    ("warning full-overdue", |facts| {
        facts.sources[0].policy.full_interval = minutes(9 * 60);
        facts.sources[0].last_full = LastFull::Before(at("22T00:00:00"));
    }),
    ("critical copies-impossible", |facts| facts.sources[0].policy.copies.min_regions = Some(2)),
    ("warning store-behind c", |facts| {
        facts.sources[0].lacking = [("c".to_owned(), Lacking { snapshots: 2, once_held: 1 })].into();
    }),
    ("warning store-down b", |facts| facts.stores[1].answer = Answer::Down),
    ("critical store-empty b", |facts| facts.stores[1].answer = Answer::Empty),
    ("critical store-foreign b", |facts| facts.stores[1].answer = Answer::Foreign),
    ("critical store-newer b", |facts| facts.stores[1].answer = Answer::Newer),
    ("critical store-damaged b", |facts| facts.stores[1].answer = Answer::Damaged),
    ("warning little-room a", |facts| facts.stores[0].free_bytes = Some(LITTLE_ROOM_BYTES - 1)),
    ("warning few-custodians", |facts| facts.host.recipients.truncate(1)),
    // Added or replaced, and nothing is sealed to it yet.
    ("warning few-custodians", |facts| {
        facts.sources[0].durable.as_mut().unwrap().sealed_to = names(&["age1one"]);
    }),
    ("warning few-custodians", |facts| {
        facts.sources[0].durable.as_mut().unwrap().sealed_to = names(&["age1one", "age1gone"]);
    }),
    ("note recipient-unproven", |facts| {
        facts.host.recipients[1] = "age1three".to_owned();
        facts.sources[0].durable.as_mut().unwrap().sealed_to.insert("age1three".to_owned());
    }),
    ("note identity-on-host", |facts| facts.host.identities.push("/etc/key".to_owned())),
    ("critical host-unfit", |facts| facts.host.unfit.push(("the key is gone".to_owned(), None))),
    ("warning control-log-incomplete", |facts| facts.control.complete = false),
    ("critical evidence-refused a", |facts| {
        facts.control.refused.insert("record 3".to_owned(), vec!["a".to_owned()]);
    }),
    ("critical evidence-lost", |facts| {
        facts.control.lost = [(7, true), (9, false)]
            .map(|(first, is_here)| LostFact { writer: RUN.parse().unwrap(), first, last: first, is_here })
            .to_vec();
    }),
    ("critical log-altered", |facts| {
        record(&mut facts.control, Action::Hold, |record| {
            let (hold, source) = (RUN.parse().unwrap(), "ledger".parse().unwrap());
            record.control =
                Some(Control::HoldAdded { hold, source, snapshots: vec![id(6)], cause: HoldCause::LogAltered });
        });
    }),
    ("critical held-missing", |facts| {
        facts.sources[0].all_shown = Some([id(7)].into());
        record(&mut facts.control, Action::Hold, |record| {
            let (hold, source) = (RUN.parse().unwrap(), "ledger".parse().unwrap());
            let snapshots = vec![id(6), id(7)];
            record.control = Some(Control::HoldAdded { hold, source, snapshots, cause: HoldCause::Operator });
        });
    }),
    ("critical archive-foreign", |facts| {
        let file = "000000010000000000000007".parse().unwrap();
        facts.sources[0].foreign_log = Some(ForeignLog { file, system: 8, expected: Some(7), at: at("22T11:00:00") });
    }),
    ("critical log-gap", |facts| facts.sources[0].log = Some(log(&[gap(3, 4, true)], &[], Some("22T11:40:00")))),
    ("critical log-gap", |facts| facts.sources[0].log = Some(log(&[gap(3, 3, true)], &[], None))),
    ("warning log-gap", |facts| facts.sources[0].log = Some(log(&[gap(3, 4, false)], &[], Some("22T11:40:00")))),
    ("critical log-forked", |facts| {
        let forked = vec![LogFile::Segment(segment(4)), LogFile::Segment(segment(5))];
        facts.sources[0].log = Some(LogState { forked, ..log(&[], &[], Some("22T11:40:00")) });
    }),
    ("critical log-not-durable", |facts| facts.sources[0].log = Some(log(&[], &[thin(3, 4)], None))),
    ("warning log-not-durable", |facts| facts.sources[0].log = Some(log(&[], &[thin(3, 4)], Some("22T11:40:00")))),
    ("critical rpo-exceeded", |facts| facts.sources[0].log = Some(log(&[], &[], Some("22T10:59:59")))),
    ("critical source-unreachable", |facts| server(facts, |watched| watched.server = Err("it is down".to_owned()))),
    ("critical archive-off", |facts| answer(facts, |server| server.archive_mode = "off".to_owned())),
    ("critical archive-off", |facts| answer(facts, |server| server.archive_command = String::new())),
    ("critical archive-off", |facts| answer(facts, |server| server.archive_command = "cp %p /elsewhere".to_owned())),
    ("critical archive-off", |facts| answer(facts, |server| server.archive_library = "basic_archive".to_owned())),
    ("critical archive-failing", |facts| {
        answer(facts, |server| server.archiver_trouble = Some("it failed".to_owned()))
    }),
    ("warning archive-backlog", |facts| directory(facts, |found| found.oldest_seconds = Some(1801))),
    ("critical archive-backlog", |facts| directory(facts, |found| found.oldest_seconds = Some(3601))),
    ("warning archive-backlog", |facts| {
        facts.sources[0].policy.rpo = None;
        directory(facts, |found| found.oldest_seconds = Some(601));
    }),
    ("warning log-disk-filling", |facts| directory(facts, |found| found.free_bytes = Some(LITTLE_ROOM_BYTES - 1))),
    ("critical log-disk-filling", |facts| directory(facts, |found| found.free_bytes = Some(4 * SEGMENT - 1))),
    ("critical slot-lost", |facts| slot(facts, |slot| slot.wal_status = "lost".to_owned())),
    ("warning slot-lag", |facts| slot(facts, |slot| slot.wal_status = "unreserved".to_owned())),
    ("warning slot-lag", |facts| slot(facts, |slot| slot.held_bytes = 3 << 28)),
    ("warning slot-inactive", |facts| {
        slot(facts, |slot| (slot.is_active, slot.held_bytes) = (false, 4 * SEGMENT));
    }),
    ("warning drill-overdue", |facts| facts.sources[0].policy.drill_interval = minutes(60)),
    ("warning drill-overdue", |facts| {
        drill(facts, at("20T10:00:00"), Verdict::Passed);
        facts.sources[0].policy.drill_interval = minutes(24 * 60);
    }),
    ("critical drill-failed", |facts| drill(facts, at("22T10:00:00"), Verdict::Failed)),
    ("critical drill-failed", |facts| {
        drill(facts, at("29T10:00:00"), Verdict::Passed);
        drill(facts, at("22T10:00:00"), Verdict::Failed);
    }),
    ("warning drill-aborted", |facts| drill(facts, at("22T10:00:00"), Verdict::Aborted)),
    ("warning drill-without-end", |facts| drill(facts, at("22T11:49:00"), Verdict::Pending)),
];

const SEGMENT: u64 = 16 << 20;

fn segment(number: u64) -> SegmentName {
    SegmentName::of_number(1, number, SEGMENT)
}

fn gap(first: u64, last: u64, since_newest_snapshot: bool) -> LogGap {
    let (first, last, segments) = (segment(first), segment(last), last - first + 1);
    LogGap { first, last, segments, after: None, before: None, since_newest_snapshot }
}

fn thin(first: u64, last: u64) -> ThinFiles {
    let (of, files) = (|number| LogFile::Segment(segment(number)), last - first + 1);
    ThinFiles { first: of(first), last: of(last), files, stores: vec!["a".to_owned()] }
}

/// Six segments, the last of which is number 6.
fn log(gaps: &[LogGap], thin: &[ThinFiles], covered: Option<&str>) -> LogState {
    let history = LogHistory {
        history: "7-00000001".parse().unwrap(),
        grew_from: None,
        segments: 6,
        newest: Some(segment(6)),
        windows: Vec::new(),
        gaps: gaps.to_vec(),
        thin: thin.to_vec(),
    };
    LogState {
        covered: covered.map(|when| ServerTime::new(at(when).as_datetime())),
        last: Some(segment(6)),
        histories: vec![history],
        all_asked: true,
        forked: Vec::new(),
    }
}

/// A server that archives as it should, and has room.
fn server(facts: &mut Facts, change: impl FnOnce(&mut Watched)) {
    let directory = LogDirectory { segment_bytes: SEGMENT, free_bytes: Some(1 << 40), ..LogDirectory::default() };
    let answer = ServerFacts {
        archive_mode: "on".to_owned(),
        archive_command: "recoup --config /etc/recoup/recoup.toml archive push ledger %p".to_owned(),
        slots_keep_bytes: Some(1 << 30),
        is_followed: false,
        ..ServerFacts::default()
    };
    let mut watched = Watched { directory, server: Ok(answer) };
    change(&mut watched);
    facts.sources[0].server = Some(ServerState { watched, rate: Rate::Unknown });
}

fn answer(facts: &mut Facts, change: impl FnOnce(&mut ServerFacts)) {
    server(facts, |watched| change(watched.server.as_mut().unwrap()));
}

fn directory(facts: &mut Facts, change: impl FnOnce(&mut LogDirectory)) {
    server(facts, |watched| change(&mut watched.directory));
}

fn slot(facts: &mut Facts, change: impl FnOnce(&mut Slot)) {
    let mut slot = Slot { name: "replica".to_owned(), is_active: true, ..Slot::default() };
    change(&mut slot);
    answer(facts, |server| server.slots.push(slot));
}

#[test]
fn a_server_that_is_well_gives_no_findings() {
    let mut facts = well();
    server(&mut facts, |_| {});
    facts.sources[0].log = Some(log(&[], &[], Some("22T11:50:00")));
    assert_eq!(found(&facts), Vec::<String>::new());
    let checked = judge(&facts);
    assert_eq!(checked.sources[0].exposure_seconds, Some(600));
    assert_eq!(checked.sources[0].durable_until.unwrap().to_string(), "2026-11-22T11:50:00.000000Z");
    // By another way, and it arrives; what is on its way; what a standby leaves to its primary.
    answer(&mut facts, |server| {
        server.archive_command = "/usr/local/bin/ship %p".to_owned();
        server.last_archived = Some(segment(6).to_string());
    });
    assert_eq!(found(&facts), Vec::<String>::new());
    facts.sources[0].log = Some(log(&[], &[thin(6, 6)], Some("22T11:50:00")));
    assert_eq!(found(&facts), Vec::<String>::new());
    answer(&mut facts, |server| (server.in_recovery, server.archive_mode) = (true, "off".to_owned()));
    assert_eq!(found(&facts), Vec::<String>::new());
}

#[test]
fn a_disk_that_fills_is_foretold() {
    for (kept, rate, expected, words) in [
        (true, Rate::Seen(1e9), "critical log-disk-filling", "full in about 18 min"),
        (true, Rate::ByBacklog(3e7), "warning log-disk-filling", "by the files that wait"),
        (true, Rate::Seen(1e7), "", ""),
        // What is archived and removed fills nothing.
        (false, Rate::Seen(1e9), "", ""),
        (true, Rate::Unknown, "", ""),
    ] {
        let mut facts = well();
        answer(&mut facts, |server| server.archiver_trouble = Some("it failed".to_owned()).filter(|_| kept));
        facts.sources[0].server.as_mut().unwrap().rate = rate;
        let checked = judge(&facts);
        let filling = checked.findings.iter().find(|finding| finding.id == FindingId::LogDiskFilling);
        let found = filling.map(|finding| format!("{} {}", finding.severity.word(), finding.id)).unwrap_or_default();
        assert_eq!(found, expected, "{rate:?}");
        assert!(filling.is_none_or(|finding| finding.message.contains(words)), "{filling:?}");
    }
}

#[test]
fn a_store_that_does_not_answer_may_have_what_the_others_lack() {
    let mut facts = well();
    let log = LogState { all_asked: false, ..log(&[gap(3, 3, true)], &[thin(5, 5)], None) };
    facts.sources[0].log = Some(log);
    assert_eq!(found(&facts), ["warning log-gap"]);
    assert_eq!(judge(&facts).sources[0].exposure_seconds, None);
}

fn refused(store: &str, untrusted: bool, unreadable: bool, good_elsewhere: bool) -> RefusedFact {
    RefusedFact { store: store.to_owned(), id: id(8), why: "why".to_owned(), untrusted, unreadable, good_elsewhere }
}

#[test]
fn where_nothing_is_wrong_nothing_is_found() {
    let checked = judge(&well());
    assert_eq!((checked.status, checked.findings.len()), (Status::Ok, 0), "{checked:?}");
    let source = &checked.sources[0];
    assert_eq!((source.exposure_seconds, source.rpo_seconds), (Some(1800), Some(3600)));
    assert_eq!((source.copies, source.copies_wanted, source.holds), (3, 2, 0));
    assert!(checked.stores.iter().all(|store| store.state == StoreState::Up));
}

#[test]
fn each_thing_that_is_wrong_is_found_alone() {
    for (at, (expected, change)) in CASES.iter().enumerate() {
        let mut facts = well();
        change(&mut facts);
        assert_eq!(found(&facts), [(*expected).to_owned()], "case {at}");
        let checked = judge(&facts);
        let (severity, next_step) = (checked.findings[0].severity, &checked.findings[0].next_step);
        assert!(next_step.is_some(), "{expected} has no next step");
        assert_eq!(checked.status, Status::of([severity].into_iter()));
    }
}

#[test]
fn every_id_is_found_in_some_case() {
    let tried: BTreeSet<&str> = CASES.iter().filter_map(|(expected, _)| expected.split(' ').nth(1)).collect();
    // With stores down there is more than one thing wrong; metrics are not judged here.
    let elsewhere = ["exposure-unknown", "textfile-unwritable", "too-few-stores"];
    let missing: Vec<&str> =
        FindingId::ALL.iter().map(|id| id.word()).filter(|id| !tried.contains(id) && !elsewhere.contains(id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_is_unchanged_is_not_exposed() {
    let mut facts = well();
    facts.now = at("29T00:00:00");
    facts.sources[0].unchanged = true;
    let checked = judge(&facts);
    assert_eq!((checked.status, checked.sources[0].exposure_seconds), (Status::Ok, Some(0)));
    // By a clock that was set back nothing would be lost.
    let mut facts = well();
    facts.now = at("22T11:29:00");
    assert_eq!(judge(&facts).sources[0].exposure_seconds, Some(0));
}

#[test]
fn exposure_is_that_of_the_newest_durable_snapshot() {
    let mut facts = well();
    facts.sources[0].durable = Some(seen(6, "22T10:00:00", &["a", "b"]));
    assert_eq!(judge(&facts).sources[0].exposure_seconds, Some(7200));
    assert_eq!(found(&facts), ["critical rpo-exceeded", "warning not-durable"]);
}

#[test]
fn stores_that_are_down_are_judged_by_what_is_left() {
    let mut facts = well();
    (facts.stores[1].answer, facts.stores[2].answer) = (Answer::Down, Answer::Down);
    assert_eq!(found(&facts), ["critical too-few-stores", "warning store-down b", "warning store-down c"]);
    facts.sources[0].durable = None;
    facts.sources[0].newest = Some(seen(7, "22T11:30:00", &["a"]));
    assert_eq!(
        found(&facts),
        ["critical too-few-stores", "warning exposure-unknown", "warning store-down b", "warning store-down c"]
    );
    assert_eq!(judge(&facts).sources[0].exposure_seconds, None);
    (facts.sources[0].newest, facts.sources[0].shown) = (None, 0);
    for last in [Answer::Ready, Answer::Down] {
        facts.stores[0].answer = last;
        let checked = judge(&facts);
        let unknown = checked.findings.iter().find(|finding| finding.id == FindingId::ExposureUnknown).unwrap();
        assert_eq!((unknown.severity, unknown.next_step.as_deref()), (Severity::Warning, Some("recoup doctor")));
    }
}

#[test]
fn a_drill_that_passes_settles_what_was_before_it() {
    for earlier in [Verdict::Failed, Verdict::Aborted] {
        let mut facts = well();
        facts.sources[0].policy.drill_interval = minutes(24 * 60);
        drill(&mut facts, at("22T09:00:00"), earlier);
        drill(&mut facts, at("22T10:00:00"), Verdict::Passed);
        assert_eq!(found(&facts), Vec::<String>::new(), "{earlier}");
    }
}

#[test]
fn a_drill_that_runs_needs_no_end_yet() {
    let mut facts = well();
    drill(&mut facts, at("22T10:00:00"), Verdict::Pending);
    let writer = facts.control.writer.unwrap();
    let start = facts.control.state.drills_of(&facts.sources[0].name).next().unwrap().start;
    assert_eq!(found(&facts), ["warning drill-without-end"]);
    facts.control.running = [(writer, start)].into();
    assert_eq!(found(&facts), Vec::<String>::new());
    // Of another host's nobody here knows; its policy says how long it may take.
    facts.control.running.clear();
    facts.control.writer = Some("bbbbbbbbbbbbbbbb".parse().unwrap());
    facts.sources[0].policy.rto = minutes(61);
    assert_eq!(found(&facts), Vec::<String>::new());
    facts.sources[0].policy.rto = minutes(59);
    assert_eq!(found(&facts), ["warning drill-without-end"]);
}

#[test]
fn a_drill_that_nobody_can_end_is_settled_by_a_later_one() {
    let mut facts = well();
    let before = facts.control.state.clone();
    drill(&mut facts, at("22T10:00:00"), Verdict::Pending);
    let lost = facts.control.writer.unwrap();
    facts.control.writer = Some("bbbbbbbbbbbbbbbb".parse().unwrap());
    let seen = |facts: &mut Facts, number: u64, signer: Option<&str>| {
        record(&mut facts.control, Action::Backup, |record| {
            record.seen = vec![SeenHead { writer: lost, number, sha256: Sha256([0; 32]) }];
            record.signer = signer.map_or(record.signer.clone(), str::to_owned);
        });
    };
    let next_step = |facts: &Facts| {
        let checked = judge(facts);
        let [open] = &checked.findings[..] else { panic!("{:?}", checked.findings) };
        assert_eq!((open.severity, open.id), (Severity::Warning, FindingId::DrillWithoutEnd));
        open.next_step.clone().unwrap()
    };
    // Another host, or one that has not seen all of it, says nothing about the first.
    seen(&mut facts, 1, Some("SHA256:another"));
    assert!(next_step(&facts).contains("let the host that began it"));
    drill(&mut facts, at("22T10:30:00"), Verdict::Passed);
    assert!(next_step(&facts).contains("let the host that began it"));
    facts.control.state = before;
    drill_of(&mut facts, lost, "22T10:00:00");
    let newest = facts.control.state.heads[&lost].number;
    seen(&mut facts, newest - 1, None);
    assert!(next_step(&facts).contains("let the host that began it"));
    seen(&mut facts, newest, None);
    assert!(next_step(&facts).starts_with("recoup drill ledger"));
    drill(&mut facts, at("22T10:30:00"), Verdict::Passed);
    assert_eq!(found(&facts), Vec::<String>::new());
}

/// A drill that another writer began.
fn drill_of(facts: &mut Facts, writer: WriterId, started_at: &str) {
    let own = facts.control.writer.replace(writer);
    drill(facts, at(started_at), Verdict::Pending);
    facts.control.writer = own;
}

#[test]
fn schedules_have_some_play() {
    for (interval, overdue) in [(60, 120), (3_600, 4_500), (7 * 86_400, 7 * 86_400 + 6 * 3_600)] {
        assert_eq!(overdue_after(Duration::from_secs(interval)), Duration::from_secs(overdue));
    }
    let mut facts = well();
    facts.sources[0].policy.incremental_interval = minutes(24);
    assert_eq!(found(&facts), Vec::<String>::new());
    facts.sources[0].policy.copies = Copies { min_stores: Some(4), ..Copies::default() };
    assert_eq!(found(&facts), ["critical copies-impossible"]);
}
