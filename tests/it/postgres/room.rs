//! Too little room for a restored server is said before anything is written, of every file system that it goes to.

use super::restores::tablespace;
use crate::{full_disk::Disk, needs::needs, site::names_in, support::Run};

const MIB: u64 = 1 << 20;

/// The numbers of bytes that are needed and available, of a restore for which there is no room.
#[track_caller]
fn refused(run: &Run) -> (u64, u64) {
    assert_eq!(run.code, 17, "{run:?}");
    for word in ["there is no room to restore into", "small", "nothing was written", "next: "] {
        assert!(run.stderr.contains(word), "{word}: {run:?}");
    }
    let before = |words: &str| {
        let text = run.stderr.split(words).next().unwrap();
        text.rsplit(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    (before(" bytes are needed"), before(" are available"))
}

#[test]
fn too_little_room_is_said_before_anything_is_written() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let cluster = super::ledger("postgres15");
    tablespace(&cluster, "wide");
    cluster.sql(
        "data",
        "ledger",
        &["CREATE TABLE more TABLESPACE wide AS SELECT g, repeat('x', 500) AS t FROM generate_series(1, 20000) g"],
    );
    cluster.backup(&[]).expect_code(0);
    let Some(disk) = Disk::mount(&cluster.path("small"), "size=8m") else { return };
    cluster.own("small");
    let (needed, available) = refused(&cluster.restore_to("small/new", "latest", &[]));
    assert!(needed > available && available <= 8 * MIB, "{needed} {available}");
    // The tablespace alone is too large for where it is sent.
    let (wide, _) = refused(&cluster.restore_to("new", "latest", &["--tablespace", "wide=small/wide"]));
    assert!((8 * MIB..needed).contains(&wide), "{wide} of {needed}");
    // The log needs room, too, where it is opened beforehand.
    disk.change(&format!("size={}k", (needed + 8 * MIB) / 1024));
    let (with_log, _) = refused(&cluster.restore_to("small/new", "latest", &["--fetch-log"]));
    assert!(with_log >= needed + 16 * MIB, "{with_log} {needed}");
    assert_eq!((names_in(&cluster.path("small")).len(), cluster.path("new").exists()), (0, false));
    cluster.restore_to("small/new", "latest", &[]).expect_code(0);
}
