//! The commands as a server calls them: their exit codes are what it acts upon.

use super::server::{SYSTEM, Server};
use crate::support::{recoup, run};
use ::recoup::{core::failure::Code, format::signature::HostKey};
use std::{fs, os::unix::fs::PermissionsExt};

/// A server whose source is of kind postgres.
pub(super) fn server() -> Server {
    let server = Server::new(SYSTEM);
    let config = server.repository.config();
    let text = fs::read_to_string(&config).unwrap().replace("\"sqlite\"", "\"postgres\"");
    let text = text.replace("\npath = ", "\ndata_dir = ");
    assert!(text.contains("postgres"), "{text}");
    fs::write(config, text).unwrap();
    server
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[test]
fn exit_codes_are_what_postgresql_acts_upon() {
    let mut server = server();
    let name = server.segment(1);
    let other = server.name(9);
    let (config, identity) = (server.repository.config(), server.repository.identity());
    let archive = |line: &str, code: i32| {
        let mut command = recoup(&server.data());
        command.arg("--config").arg(&config).arg("archive").args(words(line));
        if line.starts_with("fetch") && !line.contains("--identity") {
            command.arg("--identity").arg(&identity);
        }
        run(&mut command).expect_code(code)
    };
    let silent = archive(&format!("push ledger pg_wal/{name}"), 0);
    assert_eq!((silent.stdout.as_str(), silent.stderr.as_str()), ("", ""));
    archive(&format!("push ledger pg_wal/{name}"), 0);
    archive(&format!("push nobody pg_wal/{name}"), 64);
    archive("push ledger", 64);
    archive("push ledger pg_wal/x", 64);
    archive(&format!("push ledger pg_wal/{other}"), 13);
    archive(&format!("fetch ledger {name} pg_wal/RECOVERYXLOG"), 0);
    server.assert_target(&name);
    archive(&format!("fetch ledger {other} pg_wal/RECOVERYXLOG"), 1);
    archive("fetch ledger 00000002.history pg_wal/RECOVERYHISTORY", 1);
    // Asked for at the end of every recovery on the first timeline.
    archive("fetch ledger 00000001.history pg_wal/RECOVERYHISTORY", 1);
    for bad in [
        "fetch ledger".to_owned(),
        "fetch ledger x pg_wal/RECOVERYXLOG".to_owned(),
        format!("fetch ledger {name} pg_wal/RECOVERYXLOG --plan nothing"),
        format!("fetch ledger {name} pg_wal/RECOVERYXLOG --identity nothing"),
        format!("fetch ledger {name} nowhere/RECOVERYXLOG"),
        format!("fetch ledger {name} pg_wal/RECOVERYXLOG --bad"),
    ] {
        archive(&bad, 200);
    }
    run(recoup(&server.data()).args(["--config", "none.toml", "archive", "fetch", "ledger", &name, "x"]))
        .expect_code(200);
    run(recoup(&server.data()).args(["--config", "none.toml", "archive", "push", "ledger", &name])).expect_code(78);
    archive("open ledger", 64);
    archive("open ledger --reason why", 17);
    server.system += 1;
    let foreign = server.segment(2);
    let archive = |line: &[&str], code: i32| {
        run(recoup(&server.data()).arg("--config").arg(&config).arg("archive").args(line)).expect_code(code)
    };
    let path = format!("pg_wal/{foreign}");
    let refused = archive(&["push", "ledger", &path], 17);
    assert!(refused.stderr.contains("archive open ledger --reason"), "{}", refused.stderr);
    archive(&["open", "ledger", "--reason", "pg_upgrade"], 0);
    archive(&["push", "ledger", &path], 0);
    for store in ["a", "b"] {
        fs::rename(server.repository.store(store), server.repository.path(&format!("gone-{store}"))).unwrap();
    }
    server.segment(3);
    archive(&["push", "ledger", &format!("pg_wal/{}", server.name(3))], 14);
    let identity = identity.to_str().unwrap();
    archive(&["fetch", "ledger", &other, "pg_wal/RECOVERYXLOG", "--identity", identity], 200);
}

#[test]
fn what_a_revoked_signer_archived_stays_good() {
    let server = server();
    let name = server.segment(1);
    server.push(&name).unwrap();
    let old = server.repository.host().key.fingerprint();
    let key = HostKey::generate([9; 32], "recoup@new");
    let beside = server.repository.config().parent().unwrap().to_owned();
    fs::write(beside.join("new_ed25519"), key.to_openssh()).unwrap();
    fs::set_permissions(beside.join("new_ed25519"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(beside.join("new_ed25519.pub"), format!("{}\n", key.public_line())).unwrap();
    let config = server.repository.config();
    let change = |line: &[&str]| {
        run(recoup(&beside).arg("--config").arg(&config).args(["key", "signer"]).args(line).args(["--reason", "test"]))
            .expect_code(0)
    };
    change(&["add", "new_ed25519.pub"]);
    let text = fs::read_to_string(&config).unwrap().replace("\"host_ed25519\"", "\"new_ed25519\"");
    fs::write(&config, text).unwrap();
    change(&["revoke", old.as_str(), "--confirm", old.as_str()]);
    server.assert_fetched(&name);
    assert_eq!(server.records().len(), 1);
    // Not a byte of it may differ, and nothing else of the old key counts.
    for store in ["a", "b", "c"] {
        let record = server.object(store, ".json");
        let text = fs::read_to_string(&record).unwrap();
        fs::write(record, format!("{text} ")).unwrap();
    }
    assert_eq!(server.records().len(), 0);
    assert_eq!(server.fetch(&name, None).unwrap_err().code, Code::Damaged);
}
