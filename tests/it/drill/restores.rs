//! Restores leave records too, and are never kept from being done by that.

use super::{POLICY, body_of, damage_pack, newest_pair, records_on, site_with};
use crate::{
    site::names_in,
    support::{recoup, run},
};
use std::fs;

#[test]
fn a_restore_is_on_record() {
    let site = site_with(POLICY);
    let mut command = site.restore_command("latest", &site.path().join("out"));
    let result = run(command.args(["--reason", "ticket 7"])).expect_code(0).json();
    for store in ["a", "b", "c"] {
        let (start, end) = newest_pair(&site, store, "restore");
        assert_eq!((&end["verdict"], &end["subjects"][0]["snapshot"]), (&"passed".into(), &result["snapshot"]));
        let body = body_of(&site, store, &end);
        assert_eq!(body.result, result);
        assert_eq!(body.reason.as_deref(), Some("ticket 7"));
        assert_eq!(body_of(&site, store, &start).result["target"], "latest");
    }
    for store in ["a", "b", "c"] {
        damage_pack(&site, store);
    }
    run(&mut site.restore_command("latest", &site.path().join("again"))).expect_code(15);
    let (_, end) = newest_pair(&site, "a", "restore");
    assert_eq!(end["verdict"], "failed");
    assert_eq!(body_of(&site, "a", &end).result["exit_code"], 15);
}

#[test]
fn a_restore_does_without_a_record_where_none_can_be_made() {
    let site = site_with(POLICY);
    let mut bare = recoup(site.path());
    bare.args(["restore", "ledger", "--to", "bare", "--store"]).arg(format!("file://{}", site.store("a").display()));
    let restored = run(bare.arg("--identity").arg(site.identity())).expect_code(0);
    assert!(restored.stderr.contains("this restore left no evidence record"), "{restored:?}");
    fs::remove_file(site.path().join("host/host_ed25519")).unwrap();
    let restored = run(&mut site.restore_command("latest", &site.path().join("keyless"))).expect_code(0);
    assert!(restored.stderr.contains("left no evidence record"), "{restored:?}");
    assert_eq!(names_in(&site.path().join("keyless")), ["ledger.db"]);
    assert_eq!(records_on(&site, "a", "restore").len(), 0);
}
