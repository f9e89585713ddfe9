//! The real program with buckets: a ledger on a disk and in a bucket, and everything that `init` must refuse.

mod server;

use crate::{
    needs::needs,
    site::{Site, assert_whole, database_sha256_of, seq_of},
    support::{Run, program, recoup, run},
};
use rusqlite::Connection;
use server::S3Server;
use std::{fs, path::Path, process::Command};

const ID: &str = "AKIAEXAMPLE";
const SECRET: &str = "hidden-hidden-hidden";

/// The same command, with the credentials of a store.
fn with_keys<'c>(command: &'c mut Command, prefix: &str) -> &'c mut Command {
    command.env(format!("{prefix}_ACCESS_KEY_ID"), ID).env(format!("{prefix}_SECRET_ACCESS_KEY"), SECRET)
}

/// A site with a store `near` on a disk, to which a bucket is added.
struct Bucketed {
    site: Site,
    server: S3Server,
}

impl Bucketed {
    fn prepare() -> Self {
        let site = Site::prepare(3_000, &["near"]);
        let server = S3Server::start(site.path());
        server.make_bucket("acme-dr");
        Bucketed { site, server }
    }

    fn url(&self, place: &str) -> String {
        format!("s3://{place}?endpoint={}&region=eu-central-1&credentials_env=FAR", self.server.endpoint())
    }

    /// `init` with one store more.
    fn init(&self, store: &str) -> Command {
        let mut command = self.site.init();
        with_keys(command.arg("--store").arg(store), "FAR");
        command
    }

    /// A command on the configured host; nothing that it says holds a secret.
    fn run(&self, arguments: &[&str]) -> Run {
        let run = run(with_keys(&mut self.site.command(arguments), "FAR"));
        assert!(!run.stdout.contains(SECRET) && !run.stderr.contains(SECRET), "{run:?}");
        run
    }

    fn write(&self) {
        let ledger = Connection::open(self.site.ledger()).unwrap();
        ledger.execute_batch("create table if not exists note (text); insert into note values ('more');").unwrap();
    }

    /// Restores a snapshot from what the arguments name, and checks it.
    fn restored(&self, command: &mut Command, code: i32) -> String {
        let to = tempfile::tempdir_in(self.site.path()).unwrap();
        let out = to.path().join("out");
        run(with_keys(command, "FAR").arg("--to").arg(&out)).expect_code(code);
        assert_whole(&out.join("ledger.db"));
        database_sha256_of(&out.join("ledger.db"))
    }

    /// A restore on a host that has nothing but the custodian's files and the bucket.
    fn bare_restore(&self, target: &str) -> Command {
        let mut command = recoup(self.site.path());
        command.args(["restore", "ledger", "--target", target, "--store", &self.url("acme-dr/ledger")]);
        command.arg("--identity").arg(self.site.identity());
        command
    }
}

#[test]
fn a_ledger_on_a_disk_and_in_a_bucket() {
    if !(needs("moto_server") && needs("setpriv")) {
        return;
    }
    let far = Bucketed::prepare();
    run(&mut far.init(&format!("far={}", far.url("acme-dr/ledger")))).expect_code(0);
    let text = fs::read_to_string(far.site.config()).unwrap();
    assert!(text.contains("credentials_env = \"FAR\"") && text.contains("endpoint = \"http://127.0.0.1:"), "{text}");
    assert!(!text.contains(SECRET) && !text.contains(ID), "{text}");
    far.run(&["config", "show"]).expect_code(0);
    far.run(&["doctor"]).expect_code(0);

    let first = seq_of(&far.run(&["backup", "--json"]).expect_code(0));
    far.write();
    let second = seq_of(&far.run(&["backup", "--json"]).expect_code(0));
    let listed = far.run(&["list", "--json"]).expect_code(0).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2);
    assert!(listed["snapshots"].as_array().unwrap().iter().all(|one| one["stores"].as_array().unwrap().len() == 2));
    far.run(&["verify", "--all"]).expect_code(0);
    let before = far.restored(&mut far.bare_restore(&format!("snapshot:{first}")), 0);
    let after = far.restored(&mut far.bare_restore(&format!("snapshot:{second}")), 0);
    assert_ne!(before, after);

    let identity = far.site.identity();
    let rescued = far.run(&["config", "rescue", "--identity", identity.to_str().unwrap()]).expect_code(0);
    assert!(rescued.stdout.contains("credentials_env = \"FAR\"") && !rescued.stdout.contains(ID), "{rescued:?}");

    // Damage and loss in the bucket are found, gone round, and healed from the disk.
    let packs: Vec<String> = far.server.keys("acme-dr").into_iter().filter(|key| key.ends_with("/0.age")).collect();
    let right = far.server.get(&packs[0]);
    let mut wrong = right.clone();
    wrong[right.len() / 2] ^= 1;
    far.server.put(&packs[0], &wrong);
    far.server.delete(&packs[1]);
    let found = far.run(&["verify", "--all", "--json"]).expect_code(2).json();
    let problems: Vec<&str> =
        found["findings"].as_array().unwrap().iter().map(|f| f["problem"].as_str().unwrap()).collect();
    assert!(problems.contains(&"damaged") && problems.contains(&"missing"), "{found}");
    far.run(&["copy"]).expect_code(0);
    far.run(&["verify", "--all"]).expect_code(0);
    assert_eq!(far.server.get(&packs[0]), right);

    // The disk is lost, and filled again from the bucket.
    fs::remove_dir_all(far.site.store("near")).unwrap();
    let target = format!("snapshot:{second}");
    let restore = ["restore", "ledger", "--target", target.as_str(), "--identity", identity.to_str().unwrap()];
    assert_eq!(far.restored(&mut far.site.command(&restore), 1), after, "it went round the lost disk");
    fs::create_dir(far.site.store("near")).unwrap();
    far.run(&["copy"]).expect_code(0);
    far.run(&["verify", "--all"]).expect_code(0);
    let kept: usize = crate::site::files_below(&far.site.store("near")).len();
    // Who writes a run matters until it has ended: that note is not brought again.
    let keys = far.server.keys("acme-dr").into_iter().filter(|key| !key.ends_with("/writer.json"));
    assert_eq!(kept, keys.count());

    // The server is gone: the disk alone is one of two.
    let Bucketed { site, server } = far;
    drop(server);
    let lonely = run(with_keys(&mut site.command(&["backup"]), "FAR")).expect_code(2);
    assert!(lonely.stderr.contains("does not answer: Connection refused"), "{lonely:?}");
}

#[test]
fn two_buckets_each_with_keys_of_its_own() {
    if !(needs("moto_server") && needs("setpriv")) {
        return;
    }
    let site = Site::prepare(500, &[]);
    let server = S3Server::start(site.path());
    ["one-dr", "two-dr"].iter().for_each(|bucket| server.make_bucket(bucket));
    let endpoint = server.endpoint();
    let mut init = site.init();
    init.args(["--store", &format!("one=s3://one-dr?endpoint={endpoint}&conditional_create=false")]);
    init.args(["--store", &format!("two=s3://two-dr/a/b?endpoint={endpoint}&credentials_env=TWO")]);
    let refused = run(with_keys(&mut init, "AWS")).expect_code(14);
    assert!(refused.stderr.contains("set TWO_ACCESS_KEY_ID and TWO_SECRET_ACCESS_KEY"), "{refused:?}");
    assert!(server.keys("one-dr").is_empty(), "nothing is written while one store cannot be used");
    run(with_keys(with_keys(&mut init, "AWS"), "TWO")).expect_code(0);
    let all = |arguments: &[&str]| run(with_keys(with_keys(&mut site.command(arguments), "AWS"), "TWO"));
    all(&["backup"]).expect_code(0);
    all(&["backup"]).expect_code(0);
    all(&["verify", "--all"]).expect_code(0);
    let doctor = all(&["doctor"]).expect_code(1);
    assert!(doctor.stdout.contains("[no-conditional-create]"), "{doctor:?}");
    // Without its keys a store is only one that is down.
    let one_only = run(with_keys(&mut site.command(&["backup"]), "AWS")).expect_code(2);
    assert!(one_only.stderr.contains("TWO_ACCESS_KEY_ID is not set"), "{one_only:?}");
}

#[test]
fn init_refuses_buckets_that_cannot_be_used_and_writes_nothing() {
    if !(needs("moto_server") && needs("setpriv")) {
        return;
    }
    let far = Bucketed::prepare();
    far.server.put("acme-dr/used/photo.jpg", b"not ours");
    far.server.put(
        "acme-dr/other/recoup.json",
        br#"{"format_version":1,"repository":"abcdefghijklmnop","created_at":"2026-11-22T10:00:00Z"}"#,
    );
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let before = far.server.keys("acme-dr");
    for (url, code, why) in [
        (far.url("nowhere/a"), 14, "there is no bucket nowhere at http://127.0.0.1:"),
        (format!("s3://acme-dr/a?endpoint=http://{nobody}&credentials_env=FAR"), 14, "does not answer"),
        (format!("s3://acme-dr/a?endpoint={}", far.server.endpoint()), 14, "set AWS_ACCESS_KEY_ID and"),
        (far.url("acme-dr/used"), 17, "is not empty and holds no repository"),
        (far.url("acme-dr"), 17, "is not empty and holds no repository"),
        (far.url("acme-dr/other"), 17, "holds another repository"),
    ] {
        let refused = run(&mut far.init(&format!("far={url}"))).expect_code(code);
        assert!(refused.stderr.contains(why) && refused.stderr.contains("next: "), "{url}: {refused:?}");
        assert!(!Path::new(&far.site.config()).exists() && !far.site.store("near").exists(), "{url}");
    }
    assert_eq!(far.server.keys("acme-dr"), before);
    let mut twice = far.init(&format!("far={}", far.url("acme-dr/a")));
    let refused = run(twice.arg("--store").arg(format!("again={}", far.url("acme-dr/a/b")))).expect_code(64);
    assert!(refused.stderr.contains("the same place in one bucket"), "{refused:?}");
    // What a console makes of a folder is nothing.
    far.server.put("acme-dr/made/", b"");
    run(&mut far.init(&format!("far={}", far.url("acme-dr/made")))).expect_code(0);
}

#[test]
fn a_server_is_believed_by_its_certificate() {
    if !(needs("moto_server") && needs("setpriv") && needs("openssl")) {
        return;
    }
    let site = Site::prepare(10, &[]);
    let certify = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out certificate.pem \
        -days 30 -subj /CN=recoup-test -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    run(program("openssl", site.path()).args(certify.split_whitespace())).expect_code(0);
    let server = S3Server::start_secure(site.path(), "certificate.pem", "key.pem");
    let mut init = site.init();
    init.arg("--store").arg(format!("far=s3://acme-dr?endpoint=https://{}", server.address()));
    let refused = run(with_keys(&mut init, "AWS")).expect_code(14);
    assert!(refused.stderr.contains("invalid peer certificate"), "{refused:?}");
    let trusting = run(init.env("SSL_CERT_FILE", site.path().join("certificate.pem"))).expect_code(14);
    assert!(trusting.stderr.contains("there is no bucket acme-dr at https://127.0.0.1:"), "{trusting:?}");
}
