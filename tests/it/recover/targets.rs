//! Targets and scratch directories in which somebody else may be at work while the script runs.

use super::{FailingTools, Recovery};
use crate::{
    needs::{is_installed, needs},
    support::{LEDGER, TestRepository},
};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn recover_sh_wants_a_target_that_nobody_else_can_change() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let repository = TestRepository::with_stores(&["a"]);
    repository.sqlite(LEDGER).execute_batch("create table posting (body)").unwrap();
    let id = repository.backup().head.id;
    for shell in [&["sh"][..], &["busybox", "sh"], &["bash"]] {
        if !is_installed(shell[0]) {
            continue;
        }
        let recovery = Recovery { shell, ..Recovery::of(&repository) };
        fs::create_dir(&recovery.out).unwrap();
        let set_mode = |mode| fs::set_permissions(&recovery.out, PermissionsExt::from_mode(mode)).unwrap();
        let refused = |why: &str| {
            let done = recovery.run(id).expect_code(1);
            assert!(done.stderr.contains(why) && done.stderr.contains("nothing was restored"), "{done:?}");
            assert_eq!(fs::read_dir(&recovery.out).unwrap().count(), 0, "{done:?}");
        };
        for open in [0o777, 0o1777, 0o770, 0o702] {
            set_mode(open);
            refused("belongs to somebody else, or others may write to it");
        }
        set_mode(0o755);
        if recoup::world::user_id() == 0 {
            std::os::unix::fs::chown(&recovery.out, Some(65_534), None).unwrap();
            refused("belongs to somebody else, or others may write to it");
            std::os::unix::fs::chown(&recovery.out, Some(0), None).unwrap();
        }
        let scratch = repository.path("scratch");
        fs::set_permissions(&scratch, PermissionsExt::from_mode(0o777)).unwrap();
        refused("set TMPDIR to a directory of yours");
        fs::set_permissions(&scratch, PermissionsExt::from_mode(0o1777)).unwrap();
        recovery.restored(id);
    }
}

#[test]
fn recover_sh_is_led_nowhere_by_who_moves_its_target() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let repository = TestRepository::with_stores(&["a"]);
    repository.sqlite(LEDGER).execute_batch("create table posting (body); insert into posting values (1)").unwrap();
    let id = repository.backup().head.id;
    let tools = ["mkdir", "dd", "mv", "chown", "chmod", "sync"];
    let failing = FailingTools { repository: &repository, tools: &tools };
    let [out, moved, precious] = ["recovered", "moved", "precious"].map(|name| repository.path(name));
    fs::write(&precious, "do not touch").unwrap();
    fs::set_permissions(&precious, PermissionsExt::from_mode(0o600)).unwrap();
    let trap = repository.path("trap");
    // Links to something precious in the place of everything that the script makes.
    let exchange = format!(
        "{{ mv {out} {moved}; mkdir -p {trap}/.recoup-partial/files {trap}/.recoup-partial/tree; \
         ln -s {precious} {trap}/.recoup-partial/files/1; ln -s {precious} {trap}/.recoup-partial/tree/ledger.db; \
         ln -s {precious} {trap}/ledger.db; mv {trap} {out}; }}",
        out = out.display(),
        moved = moved.display(),
        trap = trap.display(),
        precious = precious.display(),
    );
    // `chmod` and `chown` come before anything is published; the second `sync` after it.
    for (tool, at_call) in
        [("mkdir", 4), ("dd", 1), ("dd", 2), ("mv", 1), ("chown", 1), ("chmod", 1), ("mv", 2), ("sync", 2)]
    {
        let path = Some(failing.arm(tool, at_call, &exchange));
        let done = Recovery { path, ..Recovery::of(&repository) }.run(id).expect_code(1);
        assert!(done.stderr.contains("was moved or replaced while this was running"), "{tool} {at_call}: {done:?}");
        assert_eq!(fs::read(&precious).unwrap(), b"do not touch", "{tool} {at_call}");
        assert_eq!(fs::metadata(&precious).unwrap().permissions().mode() & 0o7777, 0o600, "{tool} {at_call}");
        assert_eq!(fs::read_dir(&moved).unwrap().count(), 0, "{tool} {at_call}: {done:?}");
        assert!(out.join("ledger.db").is_symlink(), "{tool} {at_call}");
        fs::remove_dir_all(&out).unwrap();
        fs::remove_dir(&moved).unwrap();
    }
}
