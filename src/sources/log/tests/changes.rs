//! What is an alteration, and what is none.

use super::*;

/// A change of a directory that holds `app.log` (20,000 bytes), `app.log.1` (9,000) and `small.log` (300).
type Change = fn(&Logs);

fn start() -> Logs {
    let logs = Logs::new();
    logs.write("app.log", &lines("current", 20_000));
    logs.write("app.log.1", &lines("rotated", 9_000));
    logs.write("small.log", &lines("small", 300));
    logs.write("empty.log", b"");
    logs.write("app.log.2.gz", &gzipped(&lines("packed", 50_000)));
    logs
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn flip(logs: &Logs, name: &str, at: usize) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(logs.path(name)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
}

fn cut(logs: &Logs, name: &str, size: u64) {
    fs::OpenOptions::new().write(true).open(logs.path(name)).unwrap().set_len(size).unwrap();
}

fn copy_truncate(logs: &Logs, name: &str, to: &str) {
    fs::copy(logs.path(name), logs.path(to)).unwrap();
    cut(logs, name, 0);
}

#[test]
fn what_rotation_does_is_no_alteration() {
    let cases: &[(&str, Change)] = &[
        ("nothing", |_| {}),
        ("growth", |logs| logs.append("app.log", &lines("more", 10_000))),
        ("growth of a short file", |logs| logs.append("small.log", b"x")),
        ("a new file", |logs| logs.write("new/other.log", b"1")),
        ("rename", |logs| logs.rename("small.log", "elsewhere/quite-another-name")),
        ("rename and create", |logs| {
            logs.rename("app.log.1", "app.log.2");
            logs.rename("app.log", "app.log.1");
            logs.write("app.log", &lines("new", 30_000));
        }),
        ("a name with a date", |logs| {
            logs.rename("app.log", "old/app-20261124-1700000000.log");
            logs.append("old/app-20261124-1700000000.log", b"by the writer that held it open\n");
        }),
        ("copy and truncate", |logs| copy_truncate(logs, "app.log", "app.log.3")),
        ("copy and truncate, then more than before", |logs| {
            copy_truncate(logs, "app.log", "app.log.3");
            logs.append("app.log", &lines("again", 40_000));
        }),
        ("copy and truncate of a short file", |logs| {
            copy_truncate(logs, "small.log", "renamed");
            logs.append("small.log", &lines("again", 400));
        }),
        ("copy, truncate, compress", |logs| {
            copy_truncate(logs, "app.log", "app.log.3");
            logs.append("app.log.3", b"grown before it was compressed\n");
            logs.gzip("app.log.3");
        }),
        ("compress", |logs| logs.gzip("app.log.1")),
        ("compress with zstd", |logs| logs.zstd("app.log.1")),
        ("compress the shortest", |logs| logs.gzip("small.log")),
        ("several rotations", |logs| {
            for round in 0..4 {
                for number in (1..=5).rev() {
                    for suffix in ["", ".gz"] {
                        let from = format!("app.log.{number}{suffix}");
                        if logs.path(&from).exists() {
                            logs.rename(&from, &format!("app.log.{}{suffix}", number + 1));
                        }
                    }
                }
                logs.rename("app.log", "app.log.1");
                logs.write("app.log", &lines(&format!("round {round}"), 5_000));
                if logs.path("app.log.2").exists() {
                    logs.gzip("app.log.2");
                }
            }
        }),
        ("a file is written again, the same", |logs| logs.write("app.log", &lines("current", 20_000))),
        ("empty files go", |logs| logs.remove("empty.log")),
    ];
    for (what, change) in cases {
        let logs = start();
        let before = logs.capture();
        change(&logs);
        assert_eq!(logs.altered(&before), "", "{what}");
    }
}

#[test]
fn copies_that_a_snapshot_has_seen_are_no_alteration() {
    for compress in [false, true] {
        let logs = start();
        let copy = if compress { "app.log.1.gz" } else { "app.log.4" };
        let original = if compress { "app.log.1" } else { "app.log" };
        let bytes = fs::read(logs.path(original)).unwrap();
        logs.write(copy, &if compress { gzipped(&bytes) } else { bytes });
        let before = logs.capture();
        logs.remove(original);
        assert_eq!(logs.altered(&before), "", "{copy}");
    }
}

#[test]
fn alterations_are_found() {
    let cases: &[(&str, Change)] = &[
        ("app.log was rewritten at about byte 0", |logs| flip(logs, "app.log", 5)),
        ("app.log was rewritten at about byte 8192", |logs| flip(logs, "app.log", 10_000)),
        ("app.log was rewritten at about byte 16384", |logs| flip(logs, "app.log", 19_999)),
        ("app.log was rewritten at about byte 16384", |logs| {
            flip(logs, "app.log", 19_999);
            logs.append("app.log", &lines("more", 9_000));
        }),
        ("app.log.1 was rewritten at about byte 4096", |logs| flip(logs, "app.log.1", 5_000)),
        ("app.log.2.gz was rewritten at about byte 0", |logs| flip(logs, "app.log.2.gz", 100)),
        ("small.log was rewritten at about byte 0", |logs| flip(logs, "small.log", 299)),
        ("app.log was cut to 19999 bytes", |logs| cut(logs, "app.log", 19_999)),
        ("app.log was cut to 8192 bytes", |logs| cut(logs, "app.log", 8_192)),
        ("app.log was cut to 0 bytes", |logs| cut(logs, "app.log", 0)),
        ("small.log was cut to 10 bytes", |logs| cut(logs, "small.log", 10)),
        ("app.log.1 was removed", |logs| logs.remove("app.log.1")),
        ("app.log.2.gz was removed; small.log was removed", |logs| {
            logs.remove("small.log");
            logs.remove("app.log.2.gz");
        }),
        ("app.log (now app.log.7) was rewritten at about byte 12288", |logs| {
            logs.rename("app.log", "app.log.7");
            flip(logs, "app.log.7", 15_000);
            logs.write("app.log", b"new\n");
        }),
        ("app.log (now app.log.7) was rewritten at about byte 12288", |logs| {
            copy_truncate(logs, "app.log", "app.log.7");
            flip(logs, "app.log.7", 15_000);
        }),
        ("app.log.1 (now app.log.1.gz) was rewritten at about byte 4096", |logs| {
            flip(logs, "app.log.1", 8_191);
            logs.gzip("app.log.1");
        }),
        ("app.log.1 was removed", |logs| {
            flip(logs, "app.log.1", 0);
            logs.gzip("app.log.1");
        }),
        ("app.log was rewritten at about byte 12288", |logs| {
            // A copy elsewhere does not make it good.
            fs::copy(logs.path("app.log"), logs.path("copy")).unwrap();
            flip(logs, "app.log", 15_000);
        }),
        ("app.log was rewritten at about byte 12288", |logs| {
            // As `sed -i` does it: another file under the same name.
            let mut bytes = fs::read(logs.path("app.log")).unwrap();
            bytes[15_000] ^= 1;
            logs.write("new", &bytes);
            logs.rename("new", "app.log");
        }),
        ("app.log was removed", |logs| {
            logs.rename("app.log", "app.log.9");
            logs.write("app.log", b"");
            logs.remove("app.log.9");
        }),
        ("app.log was rewritten at about byte 0", |logs| {
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(logs.path("app.log")).unwrap();
            file.write_all_at(&[0; 20_000], 0).unwrap();
        }),
    ];
    for (expected, change) in cases {
        let logs = start();
        let before = logs.capture();
        change(&logs);
        assert_eq!(logs.altered(&before), *expected);
    }
}

#[test]
fn files_of_equal_content_do_not_stand_in_for_each_other() {
    let logs = Logs::new();
    for name in ["a.log", "b.log"] {
        logs.write(name, &lines("same", 700));
    }
    let before = logs.capture();
    flip(&logs, "b.log", 20);
    assert_eq!(logs.altered(&before), "b.log was rewritten at about byte 0");
    let before = logs.capture();
    logs.remove("a.log");
    assert_eq!(logs.altered(&before), "a.log was removed");
}

#[test]
fn old_files_may_be_removed_where_they_expire() {
    let mut logs = start();
    let touch = |logs: &Logs, name: &str, days: u64| {
        let time = fs::metadata(logs.path(name)).unwrap().modified().unwrap() - Duration::from_secs(days * 86_400);
        fs::File::options().write(true).open(logs.path(name)).unwrap().set_modified(time).unwrap();
    };
    logs.rules.expire_after = Some(Duration::from_secs(30 * 86_400));
    touch(&logs, "app.log.1", 31);
    touch(&logs, "small.log", 29);
    let before = logs.capture();
    logs.remove("app.log.1");
    assert_eq!(logs.altered(&before), "");
    logs.remove("small.log");
    assert_eq!(logs.altered(&before), "small.log was removed");

    // Nobody makes a file look older than a snapshot has seen it, and nothing that is there has expired.
    let before = logs.capture();
    touch(&logs, "app.log", 400);
    let seen = logs.compare(&before);
    logs.remove("app.log");
    assert_eq!(logs.altered(&seen), "app.log was removed");
    logs.write("aged.log", &lines("aged", 5_000));
    touch(&logs, "aged.log", 31);
    let before = logs.capture();
    cut(&logs, "aged.log", 10);
    assert_eq!(logs.altered(&before), "aged.log was cut to 10 bytes");
}

#[test]
fn what_does_not_show_is_found_by_reading_again() {
    let mut logs = start();
    let mut before = logs.capture();
    flip(&logs, "app.log.1", 5_000);
    // As if neither size nor time had moved.
    let stamp = |logs: &Logs| {
        let scan = scan::once(logs.dir.path()).unwrap_or_else(|_| panic!("no look"));
        scan.found.iter().find(|found| found.path.as_str() == "app.log.1").unwrap().stamp
    };
    let mut past = Fingerprint::read(before.fingerprint()).unwrap();
    for file in &mut past.files {
        file.settled = true;
        if file.path.as_str() == "app.log.1" {
            file.stamp = stamp(&logs);
        }
    }
    before.facts.fingerprint = Some(serde_json::to_value(&past).unwrap());
    assert!(logs.source().is_unchanged(before.fingerprint()) && !logs.source().is_reread_due(before.fingerprint()));
    assert_eq!(told(&logs.compare(&before)), "");
    let everything = logs.source().open_since(&before, true).unwrap();
    assert_eq!(everything.alterations()[0].problem, LogProblem::Rewritten);
    logs.rules.reread_every = Duration::from_millis(1);
    thread::sleep(Duration::from_millis(5));
    assert!(logs.source().is_reread_due(before.fingerprint()));
    assert_eq!(logs.altered(&before), "app.log.1 was rewritten at about byte 4096");
}
