//! The names that scripts rely on.

use super::*;

const RUN: &str = "aaaaaaaaaaaaaaaa";

fn snapshot() -> SnapshotEntry {
    SnapshotEntry {
        source: "ledger".parse().unwrap(),
        seq: 7,
        run: RUN.parse().unwrap(),
        kind: Kind::Incremental,
        created_at: "2026-11-22T09:15:00Z".parse().unwrap(),
        position: "p".to_owned(),
        durable: true,
        bytes_raw: 10,
        bytes_stored: 5,
        stores: vec!["a".to_owned()],
        holds: Vec::new(),
        read_started_at: "2026-11-22T09:14:59Z".parse().unwrap(),
        durability: Durability::Durable,
        log: None,
    }
}

const SNAPSHOT: &str = r#"{"source":"ledger","seq":7,"run":"aaaaaaaaaaaaaaaa","kind":"incremental","created_at":"2026-11-22T09:15:00.000Z","position":"p","durable":true,"bytes_raw":10,"bytes_stored":5,"stores":["a"],"holds":[],"read_started_at":"2026-11-22T09:14:59.000Z","durability":"durable"}"#;

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn id() -> SnapshotId {
    snapshot().id()
}

#[test]
fn list_and_backup() {
    let list = ListResult { snapshots: vec![snapshot()], notes: vec!["unseen".to_owned()], ..ListResult::default() };
    assert_eq!(json(&list), format!(r#"{{"schema":"recoup.list/1","snapshots":[{SNAPSHOT}]}}"#));
    let outcome = |exit_code| SourceOutcome {
        source: "ledger".parse().unwrap(),
        exit_code,
        message: "m".to_owned(),
        head: Some(Head { snapshot: id(), sha256: Sha256([0; 32]) }),
        next_step: None,
        alterations: Vec::new(),
        altered_since: None,
        failure: None,
    };
    let backup =
        BackupResult { snapshots: vec![snapshot()], sources: vec![outcome(Code::Source)], ..BackupResult::default() };
    let zeros = "0".repeat(64);
    assert_eq!(
        json(&backup),
        format!(
            r#"{{"schema":"recoup.backup/1","snapshots":[{SNAPSHOT}],"sources":[{{"source":"ledger","exit_code":13,"message":"m","head":{{"snapshot":"0000000007-{RUN}","sha256":"{zeros}"}},"alterations":[],"altered_since":null}}]}}"#
        )
    );
    assert_eq!(backup.code(), Code::Source);
}

#[test]
fn verify_copy_and_doctor() {
    let finding = StoreFinding {
        store: "a".to_owned(),
        object: None,
        problem: Problem::Unreachable,
        snapshots: vec![id()],
        cause: None,
    };
    let shown = format!(
        r#"{{"store":"a","object":null,"problem":"unreachable","snapshots":["0000000007-{RUN}"],"cause":null}}"#
    );
    let verify = VerifyResult {
        schema: VerifySchema,
        status: Status::Warning,
        objects: 1,
        bytes: 2,
        findings: vec![finding.clone()],
        notes: Vec::new(),
        next_steps: Vec::new(),
    };
    assert_eq!(
        json(&verify),
        format!(r#"{{"schema":"recoup.verify/1","status":"warning","objects":1,"bytes":2,"findings":[{shown}]}}"#)
    );
    let copy = CopyResult {
        schema: CopySchema,
        status: Status::Ok,
        stores: vec![CopiedStore {
            store: "a".to_owned(),
            copied_objects: 1,
            copied_bytes: 2,
            healed: 3,
            seeded: false,
        }],
        findings: vec![finding],
        notes: Vec::new(),
        next_steps: Vec::new(),
    };
    assert_eq!(
        json(&copy),
        format!(
            r#"{{"schema":"recoup.copy/1","status":"ok","stores":[{{"store":"a","copied_objects":1,"copied_bytes":2,"healed":3,"seeded":false}}],"findings":[{shown}]}}"#
        )
    );
    let finding = |severity| DoctorFinding {
        id: "few-custodians".to_owned(),
        severity,
        store: None,
        message: "m".to_owned(),
        next_step: None,
    };
    assert_eq!(
        json(&DoctorResult::of(vec![finding(Severity::Note)])),
        r#"{"schema":"recoup.doctor/1","status":"ok","findings":[{"id":"few-custodians","severity":"note","store":null,"message":"m","next_step":null}]}"#
    );
    assert_eq!(DoctorResult::of(vec![finding(Severity::Warning), finding(Severity::Note)]).status, Status::Warning);
    let problems =
        [Problem::Missing, Problem::Damaged, Problem::Behind, Problem::Hidden, Problem::Foreign, Problem::Unreachable];
    assert_eq!(json(&problems), r#"["missing","damaged","behind","hidden","foreign","unreachable"]"#);
    assert!(problems.iter().all(|problem| json(problem) == format!("\"{problem}\"")));
}

#[test]
fn restore_demo_and_error() {
    let mut restore = RestoreResult {
        schema: RestoreSchema,
        snapshot: id(),
        files: 1,
        bytes: 2,
        went_round: vec![WentRound { store: "a".to_owned(), object: "o".to_owned(), problem: Problem::Damaged }],
        checks: Vec::new(),
        delta: false,
        standby: false,
        source: "ledger".parse().unwrap(),
        created_at: snapshot().created_at,
        position: "p".to_owned(),
        directory: "d".to_owned(),
        notes: Vec::new(),
        remarks: Vec::new(),
        warnings: Vec::new(),
    };
    assert_eq!(
        json(&restore),
        format!(
            r#"{{"schema":"recoup.restore/1","snapshot":"0000000007-{RUN}","files":1,"bytes":2,"went_round":[{{"store":"a","object":"o","problem":"damaged"}}]}}"#
        )
    );
    assert_eq!(restore.code(), Code::Warning);
    restore.checks.push(CheckResult {
        name: "integrity_check".to_owned(),
        status: CheckStatus::Failed,
        expected: "ok".to_owned(),
        actual: "no".to_owned(),
    });
    assert_eq!(restore.code(), Code::Failed);
    let demo = DemoResult {
        schema: DemoSchema,
        dir: "/d".to_owned(),
        source_ledger: "/s".to_owned(),
        restored_ledger: "/r".to_owned(),
        restored_log: None,
        report: "/p".to_owned(),
        signature: "/p.sig".to_owned(),
        summary: "/d/summary.json".into(),
        summary_signature: "/d/summary.json.sig".into(),
        rpo_seconds: 1.5,
        rto_seconds: 2.0,
        verdict: Verdict::FailIntegrity,
        transfers_lost: 0,
        checks: 0,
        checks_held: 0,
        check_command: String::new(),
    };
    assert_eq!(
        json(&demo),
        r#"{"schema":"recoup.demo/1","dir":"/d","source_ledger":"/s","restored_ledger":"/r","restored_log":null,"report":"/p","signature":"/p.sig","summary":"/d/summary.json","summary_signature":"/d/summary.json.sig","rpo_seconds":1.5,"rto_seconds":2.0,"verdict":"fail-integrity"}"#
    );
    assert_eq!(demo.code(), Code::Failed);
    let failure = Failure::new(Code::Refused, "m").cause("c").safe("s").next_step("n");
    assert_eq!(
        json(&ErrorResult::new(&failure, failure.code)),
        r#"{"schema":"recoup.error/1","exit_code":17,"message":"m","cause":"c","safe":"s","next_step":"n"}"#
    );
}

#[test]
fn reports() {
    let zeros = "0".repeat(64);
    let report = ReportResult {
        schema: ReportSchema,
        source: "ledger".parse().unwrap(),
        directory: "/d".to_owned(),
        report: "/d/report.json".to_owned(),
        report_sha256: Sha256([0; 32]),
        signature: "/d/report.json.sig".to_owned(),
        verdict: Verdict::Pass,
        findings: 2,
        warnings: vec!["w".to_owned()],
        found: Vec::new(),
    };
    assert_eq!(
        json(&report),
        format!(
            r#"{{"schema":"recoup.report/1","source":"ledger","directory":"/d","report":"/d/report.json","report_sha256":"{zeros}","signature":"/d/report.json.sig","verdict":"passed","findings":2,"warnings":["w"],"found":[]}}"#
        )
    );
    assert_eq!(report.code(), Code::Warning);
    assert_eq!(ReportResult { warnings: Vec::new(), verdict: Verdict::FailIntegrity, ..report }.code(), Code::Done);
    let checked = ReportVerification {
        schema: ReportVerificationSchema,
        directory: "/d".to_owned(),
        valid: false,
        problems: vec!["p".to_owned()],
        repository: None,
        source: None,
        made_at: None,
        signer: None,
        report_sha256: None,
        verdict: None,
        records: 0,
        notes: vec!["unseen".to_owned()],
    };
    assert_eq!(
        json(&checked),
        r#"{"schema":"recoup.report-verification/1","directory":"/d","valid":false,"problems":["p"],"repository":null,"source":null,"made_at":null,"signer":null,"report_sha256":null,"verdict":null,"records":0}"#
    );
    assert_eq!(checked.code(), Code::Failed);
}
