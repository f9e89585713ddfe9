//! What a restore can make of a snapshot besides a server at a moment, and what it says before it writes anything.

use super::cluster::{BALANCED, Cluster};
use crate::{
    needs::needs,
    support::{Run, run},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Stdio,
    thread,
    time::Duration,
};

fn exists(cluster: &Cluster, name: &str) -> bool {
    fs::symlink_metadata(cluster.path(name)).is_ok()
}

/// A restore that is refused, for these reasons, and writes nothing.
#[track_caller]
fn refused(cluster: &Cluster, arguments: &[&str], code: i32, words: &[&str]) -> Run {
    let refused = cluster.restore_to("refused", "latest", arguments).expect_code(code);
    for word in words {
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    assert!(!exists(cluster, "refused"), "{refused:?}");
    refused
}

fn standbys_follow(program: &str) {
    let mut cluster = super::ledger(program);
    cluster.backup(&[]).expect_code(0);
    let conninfo = format!("host={} user=postgres", cluster.path("data.socket").display());
    let there = |table: &str| format!("SELECT count(*) FROM pg_class WHERE relname = '{table}'");
    let streams: &[&str] = &["--standby", "--primary-conninfo", &conninfo];
    // By the archive alone, by both, and from files that were opened beforehand.
    for (extra, table) in
        [(&["--standby"][..], "archived"), (streams, "streamed"), (&[streams, &["--fetch-log"]].concat(), "opened")]
    {
        cluster.restore_to("standby", "latest", extra).expect_code(0);
        assert!(exists(&cluster, "standby/standby.signal"));
        assert!(!exists(&cluster, "standby/recovery.signal") && !exists(&cluster, "standby/recoup-plan.json"));
        cluster.configure("standby", "wal_retrieve_retry_interval = 200ms\n");
        cluster.start("standby");
        cluster.sql("data", "postgres", &[&format!("CREATE TABLE {table} (n int)")]);
        if table == "archived" {
            cluster.sql("data", "postgres", &["SELECT pg_switch_wal()"]);
        }
        cluster.wait_for("standby", &there(table), "1");
        assert_eq!(cluster.sql("standby", "postgres", &["SELECT pg_is_in_recovery()"]), "t");
        if table == "opened" {
            run(cluster.program("pg_ctl").args(["-D", "standby", "-w", "promote"])).expect_code(0);
            cluster.wait_for("standby", "SELECT pg_is_in_recovery()", "f");
            assert_eq!(cluster.sql("standby", "ledger", &[BALANCED]), "t");
        }
        cluster.stop("standby");
        fs::remove_dir_all(cluster.path("standby")).unwrap();
    }
    let secret = format!("{conninfo} password=secret");
    refused(&cluster, &["--standby", "--primary-conninfo", &secret], 64, &["must not stand", "passfile"]);
    refused(&cluster, &["--standby", "--fetch-log"], 64, &["nothing to follow"]);
    refused(&cluster, &["--standby", "--check"], 64, &["--check"]);
    cluster.restore_to("refused", "immediate", &["--standby"]).expect_code(64);
    assert!(!exists(&cluster, "refused"));
}

#[test]
fn standbys_of_15() {
    if needs("postgres15") && needs("setpriv") {
        standbys_follow("postgres15");
    }
}

#[test]
fn standbys_of_18() {
    if needs("postgres18") && needs("setpriv") {
        standbys_follow("postgres18");
    }
}

/// Makes a tablespace with a table of the same name in it; gives its number.
pub(super) fn tablespace(cluster: &Cluster, name: &str) -> String {
    let place = cluster.path(&format!("{name}.space"));
    run(cluster.as_owner("mkdir").arg(&place)).expect_code(0);
    let space = format!("CREATE TABLESPACE \"{name}\" LOCATION '{}'", place.display());
    cluster.sql("data", "postgres", &[&space]);
    let table = format!("CREATE TABLE \"{name}\" TABLESPACE \"{name}\" AS SELECT * FROM filler");
    cluster.sql("data", "ledger", &[&table]);
    cluster.sql("data", "postgres", &[&format!("SELECT oid FROM pg_tablespace WHERE spcname = '{name}'")])
}

fn tablespaces_go_where_they_are_told(program: &str) {
    let mut cluster = super::ledger(program);
    let (fast, slow) = (tablespace(&cluster, "fast"), tablespace(&cluster, "slow one"));
    cluster.backup(&[]).expect_code(0);
    run(cluster.as_owner("mkdir").args(["empty", "taken"])).expect_code(0);
    run(cluster.as_owner("touch").arg("taken/file")).expect_code(0);

    refused(&cluster, &["--tablespace", "fast=taken"], 17, &["it is not empty", "--tablespace"]);
    refused(&cluster, &["--tablespace", "fast=refused/inner"], 17, &["must not share anything"]);
    refused(&cluster, &["--tablespace", "fast=new", "--tablespace", "slow one=new/er"], 17, &["must not share"]);
    let words = ["names no tablespace", "fast (", "slow one ("];
    refused(&cluster, &["--tablespace", "nosuch=new"], 64, &words);
    let number = format!("{fast}=newer");
    refused(&cluster, &["--tablespace", "fast=new", "--tablespace", &number], 64, &["second time"]);
    refused(&cluster, &["--tablespace", "fast"], 64, &["NAME_OR_OID=DIR"]);
    assert!(!exists(&cluster, "new") && !exists(&cluster, "newer"));

    let number = format!("{slow}=empty");
    cluster.restore_to("restored", "latest", &["--tablespace", "fast=new", "--tablespace", &number]).expect_code(0);
    for (number, place) in [(&fast, "new"), (&slow, "empty")] {
        let link = fs::read_link(cluster.path("restored/pg_tblspc").join(number)).unwrap();
        assert_eq!(link, cluster.path(place));
        assert_eq!(fs::metadata(&link).unwrap().mode() & 0o7777, 0o700);
        let names = fs::read_dir(&link).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.into_iter().all(|name| name.starts_with("PG_")));
    }
    let settings = fs::read_to_string(cluster.path("restored/postgresql.auto.conf")).unwrap();
    assert!(!settings.contains("allow_in_place_tablespaces"), "{settings}");
    cluster.start_restored("restored");
    for name in ["fast", "slow one"] {
        assert_eq!(cluster.sql("restored", "ledger", &[&format!("SELECT count(*) FROM \"{name}\"")]), "30000");
    }
    let location = cluster.sql("restored", "postgres", &[&format!("SELECT pg_tablespace_location({fast})")]);
    assert_eq!(location, cluster.path("new").display().to_string());
    cluster.stop("restored");
    run(cluster.program("pg_checksums").args(["--check", "-D", "restored"])).expect_code(0);

    // One of them elsewhere, the other inside.
    cluster.restore_to("mixed", "latest", &["--tablespace", "fast=elsewhere", "--fetch-log"]).expect_code(0);
    cluster.start_restored("mixed");
    assert_eq!(cluster.sql("mixed", "ledger", &["SELECT count(*) FROM \"slow one\""]), "30000");
    assert!(fs::symlink_metadata(cluster.path("mixed/pg_tblspc").join(&slow)).unwrap().is_dir());
}

#[test]
fn tablespaces_of_15_go_where_they_are_told() {
    if needs("postgres15") && needs("setpriv") {
        tablespaces_go_where_they_are_told("postgres15");
    }
}

#[test]
fn tablespaces_of_18_go_where_they_are_told() {
    if needs("postgres18") && needs("setpriv") {
        tablespaces_go_where_they_are_told("postgres18");
    }
}

#[test]
fn what_does_not_fit_is_named_before_anything_is_written() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let cluster = super::ledger("postgres15");
    // The server has not read it yet.
    cluster.configure("data", "shared_preload_libraries = 'pg_stat_statements, nosuch'\n");
    cluster.configure("data", "session_preload_libraries = 'auto_explain, missing_too'\n");
    cluster.backup(&[]).expect_code(0);
    let words = ["would not start here", "library nosuch of shared_preload_libraries", "--confirm=ledger"];
    let found = refused(&cluster, &[], 17, &words);
    assert!(!found.stderr.contains("pg_stat_statements"), "{found:?}");
    refused(&cluster, &["--dry-run"], 17, &words);
    // Who wants it all the same gets it, and a warning.
    let restored = cluster.restore_to("restored", "latest", &["--confirm=ledger"]).expect_code(1);
    assert!(
        restored.stderr.contains("library nosuch") && restored.stderr.contains("library missing_too"),
        "{restored:?}"
    );

    // Another version's programs.
    let (fake, config) = (cluster.path("fake"), cluster.path("R/recoup.toml"));
    fs::create_dir(&fake).unwrap();
    fs::write(fake.join("postgres"), "#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n").unwrap();
    fs::set_permissions(fake.join("postgres"), PermissionsExt::from_mode(0o755)).unwrap();
    let right = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{right}bin_dir = \"{}\"\n", fake.display())).unwrap();
    refused(&cluster, &[], 17, &["the snapshot is of PostgreSQL 15", "14.9", "bin_dir"]);
    fs::write(&config, right).unwrap();

    // A directory that a server works on.
    for arguments in [&[][..], &["--delta", "--confirm=ledger"]] {
        let running = cluster.restore_to("data", "latest", arguments).expect_code(17);
        assert!(running.stderr.contains("a server runs on"), "{running:?}");
    }
    assert_eq!(cluster.sql("data", "ledger", &[BALANCED]), "t");
}

#[test]
fn outer_configuration_is_found_where_the_server_starts() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = super::ledger("postgres15");
    cluster.stop("data");
    run(cluster.as_owner("mkdir").args(["-p", "etc/conf.d"])).expect_code(0);
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        run(cluster.as_owner("mv").arg(format!("data/{name}")).arg("etc")).expect_code(0);
    }
    let (data, etc) = (cluster.path("data"), cluster.path("etc"));
    let (file, hba) = (etc.join("postgresql.conf"), etc.join("pg_hba.conf"));
    let places = format!(
        "data_directory = '{}'\nhba_file = '{}'\nident_file = '{}/pg_ident.conf'\nexternal_pid_file = '{}/pid'\n",
        data.display(),
        hba.display(),
        etc.display(),
        cluster.path("").display()
    );
    let conf = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{conf}{places}include_dir = 'conf.d'\n")).unwrap();
    fs::write(etc.join("conf.d/memory.conf"), "work_mem = 7MB\n").unwrap();
    fs::write(etc.join("conf.d/not-read"), "work_mem = 9MB\n").unwrap();
    let rules = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("{rules}local all nobody_else reject\n")).unwrap();
    cluster.start("etc");
    cluster.backup(&[]).expect_code(0);

    let restored = cluster.restore_to("restored", "latest", &[]).expect_code(0);
    for setting in ["data_directory", "hba_file", "ident_file", "external_pid_file"] {
        assert!(restored.stderr.contains(&format!("{setting} = ")), "{setting}: {restored:?}");
    }
    cluster.start_restored("restored");
    let shown = |sql: &str| cluster.sql("restored", "postgres", &[sql]);
    assert_eq!(shown("SHOW work_mem"), "7MB");
    assert_eq!(shown("SELECT count(*) FROM pg_hba_file_rules WHERE user_name = '{nobody_else}'"), "1");
    let restored = cluster.path("restored");
    for (setting, name) in
        [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
    {
        assert_eq!(shown(&format!("SHOW {setting}")), restored.join(name).display().to_string());
    }
    assert_eq!(shown("SHOW external_pid_file"), "");
}

#[test]
fn passwords_come_from_files_and_the_environment() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let cluster = super::ledger("postgres15");
    let grant =
        "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_switch_wal() TO saver";
    cluster.sql(
        "data",
        "postgres",
        &["CREATE ROLE saver LOGIN PASSWORD 'it''s:\\secret'", "GRANT pg_monitor TO saver", grant],
    );
    let hba = cluster.path("data/pg_hba.conf");
    let rules = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("local all saver scram-sha-256\n{rules}")).unwrap();
    cluster.sql("data", "postgres", &["SELECT pg_reload_conf()"]);
    let config = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    fs::write(cluster.path("R/recoup.toml"), config.replace("user=postgres", "user=saver")).unwrap();

    let (right, wrong) = (cluster.path("right"), cluster.path("wrong"));
    fs::write(&right, "localhost:5432:postgres:saver:it's\\:\\\\secret\n").unwrap();
    fs::write(&wrong, "*:*:*:saver:nothing\n").unwrap();
    for file in [&right, &wrong] {
        fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
        run(cluster.as_owner("true").arg(file)).expect_code(0);
    }
    cluster.own("right");
    cluster.own("wrong");
    let backup = |variable: &str, value: &str| run(cluster.recoup(["backup", "ledger"]).env(variable, value));
    for (variable, value, code) in [
        ("PGPASSFILE", "/nonexistent", 13),
        ("PGPASSFILE", wrong.to_str().unwrap(), 13),
        ("PGPASSFILE", right.to_str().unwrap(), 0),
        ("PGPASSWORD", "nothing", 13),
        ("PGPASSWORD", "it's:\\secret", 0),
    ] {
        let taken = backup(variable, value).expect_code(code);
        assert!(code == 0 || taken.stderr.contains(".pgpass"), "{taken:?}");
        assert!(!taken.stderr.contains("secret"), "{taken:?}");
    }
    // What others can read is not used.
    fs::set_permissions(&right, PermissionsExt::from_mode(0o644)).unwrap();
    backup("PGPASSFILE", right.to_str().unwrap()).expect_code(13);
}

/// What was restored becomes the ledger: its archiving is turned on after its timeline began, and nobody else ships what
/// that grew out of. A server that was made anew is refused at once, and not waited for.
#[test]
fn a_restored_server_is_protected_again() {
    if !needs("postgres15") || !needs("setpriv") {
        return;
    }
    let mut cluster = super::ledger("postgres15");
    cluster.backup(&[]).expect_code(0);
    cluster.stop("data");
    cluster.restore_to("restored", "latest", &["--fetch-log"]).expect_code(0);
    cluster.start_restored("restored");
    cluster.sql("restored", "postgres", &["ALTER SYSTEM SET archive_mode = on"]);
    cluster.stop("restored");
    cluster.start("restored");
    let config = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    let moved = |cluster: &Cluster, name: &str| {
        let path = |name: &str| cluster.path(name).display().to_string();
        let config = config.replace(&path("data.socket"), &path(&format!("{name}.socket")));
        let config = config.replace(&format!("{}\"", path("data")), &format!("{}\"", path(name)));
        fs::write(cluster.path("R/recoup.toml"), config).unwrap();
    };
    moved(&cluster, "restored");
    let taken = cluster.backup(&[]).expect_code(0).json();
    assert_eq!(taken["snapshots"][0]["durable"], true, "{taken}");
    cluster.stop("restored");

    cluster.make("anew", &[]);
    cluster.start("anew");
    moved(&cluster, "anew");
    let refused = cluster.backup(&[]).expect_code(17);
    for word in ["its system identifier is", "archive open ledger --reason"] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    run(&mut cluster.recoup(["archive", "open", "ledger", "--reason", "made anew"])).expect_code(0);
    cluster.backup(&[]).expect_code(0);
}

/// The server that was restored asks stores itself: what their credentials come from must be in its own environment.
#[test]
fn what_the_servers_environment_must_have_is_said() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let cluster = super::ledger("postgres15");
    cluster.backup(&[]).expect_code(0);
    let config = cluster.path("R/recoup.toml");
    let far = "[[store]]\nname = \"far\"\nurl = \"s3://far\"\nendpoint = \"http://127.0.0.1:1\"\nallow_http = true\n\
        region = \"none\"\ncredentials_env = \"FAR\"\n";
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen("[[store]]", &format!("{far}[[store]]"), 1)).unwrap();
    let restore = |name: &str, extra: &[&str]| {
        let fixed = ["restore", "ledger", "--identity", "R/custodian.age", "--to", name];
        let mut command = cluster.recoup(fixed);
        command.args(extra).env("FAR_ACCESS_KEY_ID", "id").env("FAR_SECRET_ACCESS_KEY", "secret");
        run(&mut command)
    };
    let said = restore("restored", &[]);
    let words = "which must have FAR_ACCESS_KEY_ID, FAR_SECRET_ACCESS_KEY";
    assert!(said.code <= 1 && said.stderr.contains(words) && said.stderr.contains("--fetch-log"), "{said:?}");
    let opened = restore("opened", &["--fetch-log"]);
    assert!(opened.code <= 1 && !opened.stderr.contains("FAR_ACCESS_KEY_ID"), "{opened:?}");
}

/// Killed at any moment, a restore over several directories goes on with the same command.
#[test]
fn restores_with_tablespaces_go_on() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = super::ledger("postgres15");
    tablespace(&cluster, "fast");
    cluster.backup(&[]).expect_code(0);
    let arguments = ["restore", "ledger", "--identity", "R/custodian.age", "--to", "restored", "--fetch-log"];
    for delay in [150, 250, 350, 450, 600] {
        let mut restoring = cluster.recoup(arguments);
        let mut restoring = restoring.args(["--tablespace", "fast=moved"]).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        restoring.kill().unwrap();
        restoring.wait().unwrap();
        if exists(&cluster, "restored/global/pg_control") {
            // It was done.
            fs::remove_dir_all(cluster.path("restored")).unwrap();
            fs::remove_dir_all(cluster.path("moved")).unwrap();
        }
    }
    cluster.restore_to("restored", "latest", &["--tablespace", "fast=moved", "--fetch-log"]).expect_code(0);
    assert!(!exists(&cluster, "moved/.recoup-partial") && !exists(&cluster, "restored/.recoup-partial"));
    cluster.start_restored("restored");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM fast"]), "30000");
}
