//! Restored clusters on private servers: recovered, checked, and nothing left behind.

use super::cluster;
use crate::{
    needs::needs,
    support::{program, run},
};
use recoup::{
    core::{
        failure::Code,
        fingerprint::{Content, Fingerprints, Place, Table},
        log::Lsn,
        policy::{Assertion, Expectation},
    },
    sources::{CheckOptions, Checker, RestoredCheck, postgres::checks::Checks},
    world::{self, Stopwatch, programs::Halt},
};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// Who runs servers where root runs the tests.
const OWNER: &str = "65534";
/// Tell a test that runs as that user where the programs are, and that it is to hold what it started.
const BIN_DIR: &str = "RECOUP_TEST_BIN_DIR";
const HOLD: &str = "RECOUP_TEST_HOLD";

/// The folder of a version's programs, if this process is to run the test `name` with them.
///
/// PostgreSQL refuses root: there, the test runs in another process of this binary, under another user.
fn programs(version: &str, name: &str) -> Option<PathBuf> {
    if let Some(given) = world::environment(BIN_DIR) {
        return Some(given.into());
    }
    let bin = cluster::programs(version);
    if world::user_id() != 0 {
        return Some(bin);
    }
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let (binary, own) = (dir.path().join("it"), dir.path().join("own"));
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::create_dir(&own).unwrap();
    run(program("chown", dir.path()).args([&format!("{OWNER}:{OWNER}"), "own"])).expect_code(0);
    let mut command = program("setpriv", dir.path());
    let ids = [format!("--reuid={OWNER}"), format!("--regid={OWNER}")];
    command.args(ids).args(["--clear-groups", "--no-new-privs", "--"]).arg(&binary);
    command.args(["--exact", &format!("postgres::server::{name}"), "--nocapture"]);
    let done = run(command.env(BIN_DIR, bin).env("TMPDIR", &own)).expect_code(0);
    assert!(done.stdout.contains("1 passed"), "{done:?}");
    None
}

/// A cluster that this process's user owns.
struct Cluster {
    dir: TempDir,
    bin: PathBuf,
}

impl Cluster {
    /// One with a ledger in it that is not running. `options` are those of initdb.
    fn new(bin: &Path, options: &[&str]) -> Self {
        let cluster = Cluster { dir: tempfile::tempdir().unwrap(), bin: bin.to_owned() };
        let mut initdb = cluster.program("initdb");
        initdb.arg("-D").arg(cluster.data()).args(["-U", "owner", "--auth=trust", "-N", "--encoding=UTF8"]);
        run(initdb.args(options)).expect_code(0);
        cluster.configure("listen_addresses = ''\nfsync = off\nmax_connections = 33\n");
        cluster.start();
        cluster.sql("postgres", "CREATE DATABASE ledger");
        cluster.sql("postgres", "CREATE ROLE weak LOGIN");
        cluster.sql("ledger", "CREATE TABLE t AS SELECT g AS a, repeat('x', 100) AS b FROM generate_series(1, 1000) g");
        cluster.sql("ledger", "CREATE INDEX ON t (a)");
        cluster.stop("fast");
        cluster
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        program(self.bin.join(name).to_str().unwrap(), self.dir.path())
    }

    fn configure(&self, text: &str) {
        let file = self.data().join("postgresql.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + text).unwrap();
    }

    fn start(&self) {
        let mut start = self.program("pg_ctl");
        start.arg("-D").arg(self.data()).args(["-w", "-t", "120", "-l", "log", "-o"]);
        start.arg(format!("-k '{}'", self.dir.path().display())).arg("start");
        // Its output stays open in the server.
        let started = start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(started.success(), "{:?}", fs::read_to_string(self.dir.path().join("log")));
    }

    fn stop(&self, mode: &str) {
        run(self.program("pg_ctl").arg("-D").arg(self.data()).args(["-w", "-m", mode, "stop"])).expect_code(0);
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.program("psql");
        psql.arg("-h").arg(self.dir.path()).args(["-U", "owner", "-XqAt", "-d", database, "-c", sql]);
        run(&mut psql).expect_code(0).stdout.trim().to_owned()
    }

    fn options(&self) -> CheckOptions {
        let (database, user) = (Some("ledger".to_owned()), Some("weak".to_owned()));
        CheckOptions { bin_dir: Some(self.bin.clone()), database, user, is_scratch: true }
    }

    fn checker(&self) -> Checker {
        Checker::new("postgres", &self.data(), self.options(), &Halt::new())
    }

    /// All checks but assertions, and what was not checked.
    fn check(&self) -> (Vec<RestoredCheck>, Vec<String>) {
        let mut checker = self.checker();
        let mut checks = checker.check_restored(&[]).unwrap();
        let (last, unchecked) = checker.finish().unwrap();
        checks.extend(last);
        self.assert_nothing_left();
        (checks, unchecked)
    }

    /// No server works in the directory, and the scratch directory of one that did is gone.
    #[track_caller]
    fn assert_nothing_left(&self) {
        eventually("nothing is left", || !works_in(&self.data()) && scratch_dirs().iter().all(|dir| is_elsewhere(dir)));
    }
}

fn scratch_dirs() -> Vec<PathBuf> {
    let found = fs::read_dir(world::temporary_dir()).unwrap().flatten().map(|entry| entry.path());
    found.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("recoup-pg-")).collect()
}

/// Whether a scratch directory is that of another test's server: one that still runs.
fn is_elsewhere(scratch: &Path) -> bool {
    let number = fs::read_to_string(scratch.join("number")).unwrap_or_default();
    number.trim().parse().is_ok_and(world::programs::is_running)
}

/// Whether a process of this user works in a directory.
fn works_in(dir: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok()).any(|place| place == dir)
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let time = Stopwatch::start();
    while !holds() {
        assert!(time.elapsed() < Duration::from_secs(120), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn assertion(query: &str, expect: &str) -> Assertion {
    Assertion { name: "n".to_owned(), query: query.to_owned(), expect: Expectation::from_text(expect) }
}

/// The checks' names and whether they held.
fn outcome(checks: &[RestoredCheck]) -> Vec<(&str, bool)> {
    checks.iter().map(|check| (check.name.as_str(), check.ok)).collect()
}

/// What assertions are, what is expected, whether it held, how what was found begins.
const ASSERTIONS: &[(&str, &str, bool, &str)] = &[
    ("select a from t where a > 1000", "no rows", true, "no rows"),
    ("select a, a from t where a = 2;", "no rows", false, "1 row"),
    ("select a from t where a < 4 order by a", "no rows", false, "3 rows"),
    ("table t", "rows", true, "rows"),
    ("select from t where false", "rows", false, "no rows"),
    ("select sum(a) from t -- of all", "500500", true, "500500"),
    ("select null", "", true, ""),
    ("select 1, 1", "1|1", false, "1 row of 2 columns"),
    ("select 'a|b'", "a|b", true, "a|b"),
    ("with x as (select 1 as y) select y + 1 from x", "3", false, "another value"),
    ("select a from t, generate_series(1, 1000000)", "1", false, "more than 1000 rows"),
    ("select repeat('x', 3000000)", "x", false, "another value"),
    ("select nosuch from t", "rows", false, "could not be run: column \"nosuch\" does not exist"),
    ("delete from t returning a", "no rows", false, "could not be run: cannot execute DELETE in a read-only"),
    ("select setval('s', 7)", "7", false, "could not be run: cannot execute setval() in a read-only"),
    ("commit; drop table t", "no rows", false, "could not be run: the query is more than one statement"),
    ("select 1) to program 'true' --", "rows", false, "could not be run: the query's parentheses"),
    ("\\! touch /nonexistent", "rows", false, "could not be run: syntax error"),
];

/// A server that was killed while it wrote comes back, with everything that it had acknowledged.
///
/// With `replays`, as a restore to a moment does it: by the archive, as far as it goes.
fn crashed_clusters_are_checked(bin: &Path, replays: bool) {
    let cluster = Cluster::new(bin, &["-k"]);
    // A child of ours, so that nobody but us has to notice its end.
    let mut server = cluster.program("postgres");
    server.arg("-D").arg(cluster.data()).arg("-k").arg(cluster.dir.path()).stderr(Stdio::null());
    let mut server = server.spawn().unwrap();
    eventually("it answers", || {
        let mut psql = cluster.program("psql");
        psql.arg("-h").arg(cluster.dir.path()).args(["-U", "owner", "-d", "ledger", "-c", "CREATE SEQUENCE s"]);
        psql.output().unwrap().status.success()
    });
    // Of a server that runs, nothing is touched.
    let refused = cluster.checker().check_restored(&[]).unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused}");
    assert!(refused.message.contains("a server runs on"), "{refused}");
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("it is gone", || !works_in(&cluster.data()));
    if replays {
        cluster.configure("restore_command = 'false'\nrecovery_target_timeline = 'current'\n");
        fs::write(cluster.data().join("recovery.signal"), "").unwrap();
    }

    let mut checker = cluster.checker();
    let checks = checker.check_restored(&[]).unwrap();
    assert_eq!(outcome(&checks), [("recovery", true), ("pg_amcheck", true)], "{checks:?}");
    // Without an archive, a server does not say which commit was the last.
    assert!(checks[0].actual.starts_with("recovered to 0/"), "{checks:?}");
    assert_eq!(checks[0].actual.contains(", last commit at 20"), replays, "{checks:?}");
    for (query, expect, ok, actual) in ASSERTIONS {
        let check = checker.check_assertions(&[], &[assertion(query, expect)]).remove(0);
        let is_error = actual.starts_with("could not");
        let is_found = check.actual == *actual || is_error && check.actual.starts_with(actual);
        assert!(check.ok == *ok && is_found, "{query}: {check:?}");
        assert!(check.actual.chars().count() < 500, "{check:?}");
    }
    let (last, unchecked) = checker.finish().unwrap();
    assert_eq!((outcome(&last), unchecked), (vec![("pg_checksums", true)], Vec::new()));
    cluster.assert_nothing_left();
    // It was shut down in order: another check finds nothing to replay.
    let (checks, _) = cluster.check();
    assert!(checks.iter().all(|check| check.ok), "{checks:?}");
    assert!(!checks[0].actual.contains("last commit"), "{checks:?}");
}

#[test]
fn crashed_clusters_of_15() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    if let Some(bin) = programs("postgres15", "crashed_clusters_of_15") {
        crashed_clusters_are_checked(&bin, false);
    }
}

#[test]
fn crashed_clusters_of_18() {
    if !(needs("postgres18") && needs("setpriv")) {
        return;
    }
    if let Some(bin) = programs("postgres18", "crashed_clusters_of_18") {
        crashed_clusters_are_checked(&bin, true);
    }
}

/// Fingerprints are compared at their own place, and the server goes on from there.
#[test]
fn fingerprints_are_compared_on_the_way() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let Some(bin) = programs("postgres15", "fingerprints_are_compared_on_the_way") else { return };
    let cluster = Cluster::new(&bin, &[]);
    cluster.start();
    let (copy, first) = (cluster.dir.path().join("copy"), cluster.dir.path().join("first"));
    let mut basebackup = cluster.program("pg_basebackup");
    basebackup.arg("-h").arg(cluster.dir.path()).args(["-U", "owner", "-c", "fast", "-D"]).arg(&copy);
    run(&mut basebackup).expect_code(0);
    cluster.sql("ledger", "insert into t values (0, 'x')");
    let at: Lsn = cluster.sql("ledger", "select pg_current_wal_insert_lsn()").parse().unwrap();
    cluster.sql("ledger", "insert into t values (-1, 'x')");
    cluster.stop("fast");
    fs::rename(cluster.data(), &first).unwrap();
    fs::rename(&copy, cluster.data()).unwrap();
    let fetch = format!("restore_command = 'cp {}/pg_wal/%f %p'\n", first.display());
    cluster.configure(&format!("{fetch}recovery_target_timeline = 'current'\n"));
    cluster.configure("recovery_target_time = '2100-01-01'\nrecovery_target_inclusive = on\n");
    fs::write(cluster.data().join("recovery.signal"), "").unwrap();

    let table = |name: &str, rows: Option<u64>| Table {
        schema: "public".to_owned(),
        name: name.to_owned(),
        is_partitioned: false,
        content: rows.map(|rows| Content { rows, digest: "1 2".to_owned() }),
        not_taken: rows.is_none().then(|| "it took too long".to_owned()),
    };
    let place = Place {
        history: "7301234567890123456-00000001".parse().unwrap(),
        at,
        moment: "2026-11-22T09:15:00Z".parse().unwrap(),
    };
    let tables = vec![table("t", Some(1001)), table("gone", Some(1)), table("late", None)];
    let fingerprints = Fingerprints { database: "ledger".to_owned(), place: Some(place), not_taken: None, tables };
    let mut checker = cluster.checker();
    let compared = checker.compare(&fingerprints, &place).unwrap();
    let names = ["fingerprints", "fingerprint of public.t", "fingerprint of public.gone"];
    assert_eq!(compared.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(), names, "{compared:?}");
    // What was committed after the place is not there, and another digest is noticed.
    assert_eq!((compared[1].ok, compared[1].actual.as_str()), (false, "1001 rows, and not the same"));
    assert!(!compared[2].ok && compared[2].actual.contains("does not exist"), "{compared:?}");
    // The configured end is never reached: that is for the server to say, and not for the place before it.
    let checks = checker.check_restored(&[]).unwrap();
    assert!(!checks[0].ok && checks[0].actual.contains("before configured recovery target"), "{checks:?}");
    let (_, unchecked) = checker.finish().unwrap();
    assert!(unchecked.iter().any(|why| why.contains("public.late was not taken")), "{unchecked:?}");
    cluster.assert_nothing_left();
    cluster.configure("recovery_target_time = ''\n");
    let mut checker = cluster.checker();
    assert!(checker.check_restored(&[]).unwrap().iter().all(|check| check.ok));
    assert!(checker.check_assertions(&[], &[assertion("select count(*) from t", "1002")])[0].ok);
    drop(checker);
    // A server that has nothing to recover from does not stop anywhere.
    let beyond = Place { at: Lsn(at.0 + (1 << 30)), ..place };
    let mut checker = cluster.checker();
    assert_eq!(checker.compare(&fingerprints, &beyond).unwrap_err().code, Code::Source);
}

/// Makes the first row of the table end beyond its page.
fn damage(cluster: &Cluster, path: &str) {
    let file = OpenOptions::new().write(true).open(cluster.data().join(path)).unwrap();
    let pointer = 8184_u32 | 1 << 15 | 100 << 17;
    file.write_all_at(&pointer.to_le_bytes(), 24).unwrap();
}

#[test]
fn damage_is_found() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let Some(bin) = programs("postgres15", "damage_is_found") else { return };
    for (options, names) in [(&[][..], [false].as_slice()), (&["-k"], &[false, false])] {
        let cluster = Cluster::new(&bin, options);
        cluster.start();
        let path = cluster.sql("ledger", "select pg_relation_filepath('t')");
        cluster.stop("fast");
        damage(&cluster, &path);
        let (checks, unchecked) = cluster.check();
        let found: Vec<bool> = checks[1..].iter().map(|check| check.ok).collect();
        assert_eq!((checks[0].ok, found.as_slice()), (true, names), "{checks:?}");
        if options.is_empty() {
            assert!(checks[1].actual.contains("ends beyond maximum page offset"), "{checks:?}");
            assert_eq!(unchecked, ["pg_checksums did not run: data checksums are not enabled in this cluster"]);
        } else {
            assert!(checks[1].actual.contains("invalid page"), "{checks:?}");
            assert!(checks[2].actual.contains("checksum verification failed"), "{checks:?}");
        }
    }
}

#[test]
fn servers_that_cannot_start_say_why() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let name = "servers_that_cannot_start_say_why";
    let Some(bin) = programs("postgres15", name) else {
        // Here, this is root.
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        let refused = Checker::new("postgres", dir.path(), CheckOptions::default(), &Halt::new()).check_restored(&[]);
        let refused = refused.unwrap_err();
        assert!(refused.code == Code::Refused && refused.message.ends_with("as root"), "{refused}");
        return;
    };
    let cluster = Cluster::new(&bin, &[]);
    let conf = cluster.data().join("postgresql.conf");
    let right = fs::read_to_string(&conf).unwrap();
    // The data of the original must not be found by its configuration.
    cluster.configure("data_directory = '/nonexistent'\nhba_file = '/nonexistent'\nmax_connections = 1000\n");
    assert!(cluster.check().0.iter().all(|check| check.ok));
    fs::remove_file(&conf).unwrap();
    assert!(cluster.check().0.iter().all(|check| check.ok));

    fs::write(&conf, format!("{right}shared_preload_libraries = 'pg_stat_statements, nosuch_library'\n")).unwrap();
    let failure = cluster.checker().check_restored(&[]).unwrap_err();
    assert_eq!(failure.code, Code::Source, "{failure}");
    assert!(failure.message.contains("library nosuch_library is missing") && failure.next_step.is_some());
    cluster.assert_nothing_left();

    fs::write(&conf, &right).unwrap();
    fs::write(cluster.data().join("standby.signal"), "").unwrap();
    let failure = cluster.checker().check_restored(&[]).unwrap_err();
    assert!(failure.code == Code::Refused && failure.message.contains("standby"), "{failure}");
    fs::remove_file(cluster.data().join("standby.signal")).unwrap();

    let options = CheckOptions { user: None, ..cluster.options() };
    let failure = Checker::new("postgres", &cluster.data(), options, &Halt::new()).check_restored(&[]).unwrap_err();
    assert_eq!(failure.code, Code::Configuration, "{failure}");
    assert!(failure.to_string().contains("role \"postgres\" does not exist") && failure.next_step.is_some());
    cluster.assert_nothing_left();

    // A cluster that does not come back is a finding; what is asked of it then is unanswered.
    let log = cluster.data().join("pg_wal");
    let segments = fs::read_dir(&log).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_file());
    segments.for_each(|entry| fs::remove_file(entry.path()).unwrap());
    let mut checker = cluster.checker();
    let checks = checker.check_restored(&[]).unwrap();
    assert_eq!(outcome(&checks), [("recovery", false)]);
    assert!(checks[0].actual.contains("could not locate a valid checkpoint record"), "{checks:?}");
    let asked = checker.check_assertions(&[], &[assertion("select 1", "1")]);
    assert_eq!(asked[0].actual, "could not be run: the server does not run");
    assert_eq!(checker.finish().unwrap(), (Vec::new(), Vec::new()));
    cluster.assert_nothing_left();
}

/// Starts a server for the checks, says so, and then waits to be killed.
fn hold(data: &str, bin: &Path) {
    let (bin_dir, user) = (Some(bin.to_owned()), Some("weak".to_owned()));
    let options = CheckOptions { bin_dir, user, ..CheckOptions::default() };
    let mut checker = Checker::new("postgres", Path::new(data), options, &Halt::new());
    checker.check_restored(&[]).unwrap();
    fs::write(Path::new(data).with_extension("up"), "").unwrap();
    thread::sleep(Duration::from_secs(600));
}

#[test]
fn servers_end_with_whoever_started_them() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let name = "servers_end_with_whoever_started_them";
    let Some(bin) = programs("postgres15", name) else { return };
    if let Some(data) = world::environment(HOLD) {
        return hold(&data, &bin);
    }
    let cluster = Cluster::new(&bin, &[]);
    // A query that takes too long, and then one that nobody wants to wait for.
    let halt = Halt::new();
    let mut checks = Checks::new(&cluster.data(), cluster.options(), halt.clone());
    assert!(checks.check_restored().unwrap().iter().all(|check| check.ok));
    let slow = [assertion("select pg_sleep(1000)", "")];
    let late = checks.check_assertions(&slow, Duration::from_millis(200)).remove(0);
    assert_eq!(late.actual, "could not be run: it took longer than 0 s");
    let asking = thread::spawn(move || checks.check_assertions(&slow, Duration::from_secs(600)).remove(0));
    assert!(works_in(&cluster.data()));
    halt.halt();
    assert!(halt.wait(Duration::from_secs(120)), "what was halted ends");
    cluster.assert_nothing_left();
    assert_eq!(asking.join().unwrap().actual, "could not be run: it was stopped");

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut checker = cluster.checker();
        checker.check_restored(&[]).unwrap();
        assert!(works_in(&cluster.data()));
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(panicked.is_err());
    cluster.assert_nothing_left();

    let mut holding = Command::new(std::env::current_exe().unwrap());
    holding.args(["--exact", &format!("postgres::server::{name}")]).env(HOLD, cluster.data()).env(BIN_DIR, &bin);
    let mut holding = holding.stdout(Stdio::null()).spawn().unwrap();
    eventually("the server is up", || cluster.data().with_extension("up").exists());
    assert!(works_in(&cluster.data()));
    holding.kill().unwrap();
    holding.wait().unwrap();
    cluster.assert_nothing_left();
}
