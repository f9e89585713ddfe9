//! Ctrl-C and SIGTERM at any moment: exit 130 or 143, nothing half done, and the same command again works.

use crate::{
    house::House,
    support::{count_from, run},
};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    time::Duration,
};

/// Starts it, sends the signal after a while, and says how it ended: as a shell does.
fn interrupted_after(command: &mut Command, signal: &str, delay: Duration) -> i32 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    let kill = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).stderr(Stdio::null()).status();
    kill.unwrap();
    let status = child.wait().unwrap();
    status.code().or(status.signal().map(|number| 128 + number)).unwrap()
}

#[test]
fn interrupted_at_any_moment() {
    let house = House::founded();
    house.write_rows(40_000);
    let first = house.backup();
    let moments = count_from("RECOUP_TEST_SIGNAL_MOMENTS", 6);
    let mut interrupted = 0;
    let mut count = |code: i32, signal: &str| {
        let expected = if signal == "INT" { 130 } else { 143 };
        assert!(code == expected || code <= 1, "{signal}: {code}");
        interrupted += u32::from(code == expected);
    };
    for moment in 0..moments {
        for signal in ["INT", "TERM"] {
            let delay = Duration::from_millis(5 + moment * moment * 12);
            // A backup: nothing is half committed, and the next one works.
            house.write_rows(50);
            count(interrupted_after(&mut house.recoup(["backup", "--full"]), signal, delay), signal);
            house.assert_restores("snapshot:1", &first);
            let bytes = house.backup();
            // A restore: nothing is left that looks whole, and the same command finishes it.
            let (mut restore, file) = house.restore("latest");
            let code = interrupted_after(&mut restore, signal, delay);
            count(code, signal);
            assert_eq!(file.exists(), code == 0, "{signal} {moment}: {code}");
            if code != 0 {
                let left: Vec<_> = house.inventory_of(file.parent().unwrap().file_name().unwrap().to_str().unwrap());
                assert!(left.iter().all(|line| line.contains(".recoup-partial")), "{left:?}");
                let mut again = house.recoup(restore.get_args().skip(2).map(|word| word.to_str().unwrap()));
                run(&mut again).expect_code(0);
            }
            assert!(fs::read(&file).unwrap() == bytes);
            fs::remove_file(&file).unwrap();
            // A copy to a store that has lost everything.
            fs::remove_dir_all(house.path("b/sources")).unwrap();
            count(interrupted_after(&mut house.recoup(["copy"]), signal, delay), signal);
            run(&mut house.recoup(["copy"])).expect_code(0);
            run(&mut house.recoup(["verify"])).expect_code(0);
        }
    }
    assert!(interrupted > 0, "every command had ended before its signal came");
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
}
