//! logrotate itself, over a writer: no false alarm, and every line comes back exactly once.

use super::archive::Archive;
use crate::{
    needs::needs,
    support::{count_from, program, run},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    thread,
    time::Duration,
};

/// A log with its writer, and how it is rotated.
struct Rotation {
    archive: Archive,
    writer: File,
    written: u64,
    options: &'static str,
    /// Whether the writer may go on with the file that it has open after a rotation.
    is_renamed: bool,
}

impl Rotation {
    fn new(options: &'static str) -> Self {
        let archive = Archive::new();
        archive.write("app.log", b"");
        let writer = open(&archive);
        Rotation { archive, writer, written: 0, is_renamed: !options.contains("copytruncate"), options }
    }

    fn write(&mut self, lines: u64) {
        for number in self.written..self.written + lines {
            writeln!(self.writer, "{number:012} an action of somebody, kept for the regulator").unwrap();
        }
        self.written += lines;
    }

    /// Rotates while a snapshot is taken, or with nobody looking.
    fn rotate(&mut self, round: u64) {
        let configuration = format!(
            "{}/*.log {{\n    rotate 1000\n    missingok\n    nomail\n    {}\n}}\n",
            self.archive.path("logs").display(),
            self.options
        );
        fs::write(self.archive.path("logrotate.conf"), configuration).unwrap();
        crate::house::set_mode(&self.archive.path("logrotate.conf"), 0o644);
        let mut rotate = program("logrotate", &self.archive.path(""));
        rotate.args(["--force", "--state", "logrotate.state", "logrotate.conf"]);
        if round.is_multiple_of(2) {
            run(&mut rotate).expect_code(0);
        } else {
            thread::scope(|scope| {
                let beside = scope.spawn(|| self.archive.backup(0));
                run(&mut rotate).expect_code(0);
                beside.join().unwrap();
            });
        }
        if self.is_renamed {
            // A daemon that has not been told yet goes on with the file it has open.
            self.write(round % 3 * 20);
            if round % 3 == 1 {
                self.archive.backup(0);
                self.write(7);
            }
            self.writer = open(&self.archive);
        }
    }

    /// Every line that any file of the newest snapshot holds.
    fn restored_lines(&self) -> Vec<String> {
        let seq = self.archive.backup(0)["seq"].as_u64().unwrap();
        let restored = self.archive.restored(seq);
        assert_eq!(restored, self.archive.contents());
        let mut lines = Vec::new();
        for (name, bytes) in restored {
            let mut text = String::new();
            if name.extension().is_some_and(|extension| extension == "gz") {
                flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
            } else {
                text = String::from_utf8(bytes).unwrap();
            }
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.sort();
        lines
    }

    /// So many rotations, with snapshots at different places between them.
    fn go_on(mut self) {
        for round in 0..count_from("RECOUP_TEST_ROTATIONS", 8) {
            self.write(30 + round * 97 % 400);
            if round % 4 != 2 {
                self.archive.backup(0);
            }
            self.write(round * 31 % 90);
            if self.options.contains("dateext") {
                // Two rotations within a second would have one name.
                thread::sleep(Duration::from_millis(1_010));
            }
            self.rotate(round);
        }
        self.write(5);
        let lines = self.restored_lines();
        let numbers: Vec<u64> = lines.iter().map(|line| line[..12].parse().unwrap()).collect();
        assert_eq!(numbers, (0..self.written).collect::<Vec<_>>(), "{}", self.options);
    }
}

fn open(archive: &Archive) -> File {
    OpenOptions::new().append(true).create(true).open(archive.log("app.log")).unwrap()
}

#[test]
fn rename_and_create() {
    if !needs("logrotate") {
        return;
    }
    Rotation::new("create 0640").go_on();
}

#[test]
fn copy_and_truncate() {
    if !needs("logrotate") {
        return;
    }
    Rotation::new("copytruncate").go_on();
}

#[test]
fn compress_after_copy_and_truncate() {
    if !needs("logrotate") {
        return;
    }
    Rotation::new("copytruncate\n    compress").go_on();
}

#[test]
fn compress_a_rotation_later() {
    if !needs("logrotate") {
        return;
    }
    Rotation::new("create 0640\n    compress\n    delaycompress").go_on();
}

#[test]
fn names_with_dates() {
    if !needs("logrotate") {
        return;
    }
    Rotation::new("create 0640\n    dateext\n    dateformat -%Y%m%d-%s\n    compress\n    delaycompress").go_on();
}
