//! The program itself: help, errors, exit codes, standard output and standard error.

use recoup::world::Stopwatch;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

/// A run in an empty world: no configuration anywhere.
fn recoup(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recoup"));
    command.args(arguments).env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a run printed and how it ended, with the world's own names taken out.
fn shown(home: &Path, arguments: &[&str], output: &Output) -> String {
    let both = format!(
        "$ recoup {}\n--- exit code {}\n--- stdout\n{}--- stderr\n{}",
        arguments.join(" "),
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr)
    );
    let shown = both.replace(home.to_str().unwrap(), "HOME");
    // Columns are as wide as the directory's name is long, and root's own place is the system's.
    let lines = shown.lines().map(|line| match line.split_once("  # ") {
        Some((value, origin)) if value.contains(" = ") => format!("{}  # {origin}", value.trim_end()),
        _ => line.replace("--config /etc/recoup/recoup.toml", "--config HOME/.config/recoup/recoup.toml"),
    });
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Whether this machine has a configuration of its own, which these tests must not touch.
fn has_a_real_configuration() -> bool {
    Path::new("/etc/recoup/recoup.toml").exists()
}

fn run(home: &Path, arguments: &[&str]) -> String {
    let output = recoup(home, arguments).output().unwrap();
    shown(home, arguments, &output)
}

#[test]
fn help_texts() {
    let home = tempfile::tempdir().unwrap();
    for (name, arguments) in [
        ("help", &["--help"][..]),
        ("help_init", &["init", "--help"]),
        ("help_backup", &["backup", "--help"]),
        ("help_list", &["list", "--help"]),
        ("help_restore", &["restore", "--help"]),
        ("help_verify", &["verify", "--help"]),
        ("help_check", &["check", "--help"]),
        ("help_status", &["status", "--help"]),
        ("help_points", &["points", "--help"]),
        ("help_drill", &["drill", "--help"]),
        ("help_evidence", &["evidence", "--help"]),
        ("help_evidence_verify", &["evidence", "verify", "--help"]),
        ("help_hold", &["hold", "--help"]),
        ("help_hold_add", &["hold", "add", "--help"]),
        ("help_copy", &["copy", "--help"]),
        ("help_report", &["report", "--help"]),
        ("help_prune", &["prune", "--help"]),
        ("help_doctor", &["doctor", "--help"]),
        ("help_config", &["config", "--help"]),
        ("help_config_show", &["config", "show", "--help"]),
        ("help_config_rescue", &["config", "rescue", "--help"]),
        ("help_completions", &["completions", "--help"]),
        ("help_demo", &["demo", "--help"]),
    ] {
        insta::assert_snapshot!(name, run(home.path(), arguments));
    }
}

#[test]
fn errors() {
    if has_a_real_configuration() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let bad = home.path().join("bad.toml");
    std::fs::write(&bad, "[encryption]\nrecipient = ['age1']\n").unwrap();
    let bad = bad.to_str().unwrap();
    for (name, arguments) in [
        ("error_no_command", &[][..]),
        ("error_unknown_command", &["bakcup"]),
        ("error_unknown_flag", &["backup", "--ful"]),
        ("error_unknown_flag_json", &["backup", "--json", "--ful"]),
        ("error_unknown_flag_verify", &["verify", "--json", "--ful"]),
        ("error_missing_arguments", &["restore"]),
        ("error_bad_value", &["restore", "ledger", "--to", "OUT", "--target", "yesterday"]),
        ("error_no_configuration", &["backup"]),
        ("error_no_configuration_verify", &["verify"]),
        ("error_no_configuration_check", &["check"]),
        ("error_configuration_missing", &["--config", "gone.toml", "backup"]),
        ("error_configuration_bad", &["--config", bad, "backup", "--json"]),
        ("error_configuration_bad_doctor", &["--config", bad, "doctor", "--json"]),
        ("error_stores_without_signers", &["list", "--store", "file:///srv/a"]),
        ("error_stores_and_configuration", &["--config", bad, "list", "--store", "file:///srv/a", "--signers", "S"]),
        ("error_store_scheme", &["list", "--store", "s3://KEY:SECRET@bucket", "--signers", "S"]),
        ("error_no_identity", &["restore", "ledger", "--to", "OUT", "--store", "file:///srv/a", "--signers", "S"]),
        (
            "error_init_twice",
            &["init", "--store", "a=file:///srv/a", "--store", "a=file:///srv/b", "--recipient", "age1"],
        ),
        (
            "error_init_overlap",
            &["init", "--store", "a=file:///srv/a", "--store", "b=file:///srv/a/b", "--recipient", "age1"],
        ),
    ] {
        insta::assert_snapshot!(name, run(home.path(), arguments));
    }
}

const CONFIGURATION: &str = "[encryption]\nrecipients = ['age1custodian']\n[[store]]\nname = 'a'\nurl = \
                             'file:///srv/a'\n[[source]]\nname = 'ledger'\nkind = 'sqlite'\npath = '/data/ledger.db'\n";

#[test]
fn the_configuration_is_found_shown_and_checked() {
    if has_a_real_configuration() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/recoup/recoup.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, CONFIGURATION).unwrap();
    // One in the working directory is never used.
    std::fs::write(home.path().join("recoup.toml"), "wrong").unwrap();
    for (name, arguments) in [
        ("config_show", &["config", "show"][..]),
        ("config_show_json", &["config", "show", "--json"]),
        ("config_path", &["config", "path"]),
        ("config_path_json", &["config", "path", "--json"]),
        ("config_check", &["config", "check"]),
        ("config_check_json", &["config", "check", "--json", "--quiet"]),
        ("config_unknown_source", &["backup", "legder"]),
    ] {
        insta::assert_snapshot!(name, run(home.path(), arguments));
    }
    let path = |command: &mut Command| text(&command.output().unwrap().stdout);
    let elsewhere = home.path().join("elsewhere.toml");
    std::fs::write(&elsewhere, CONFIGURATION).unwrap();
    let expected = format!("{}\n", elsewhere.display());
    assert_eq!(path(recoup(home.path(), &["config", "path"]).env("RECOUP_CONFIG", &elsewhere)), expected);
    assert_eq!(path(&mut recoup(home.path(), &["config", "path", "--config", "elsewhere.toml"])), expected);
    let flag = ["--config", "elsewhere.toml", "config", "path"];
    assert_eq!(path(recoup(home.path(), &flag).env("RECOUP_CONFIG", &file)), expected);
    let xdg = recoup(home.path(), &["config", "path"]).env("XDG_CONFIG_HOME", home.path().join("none")).output();
    assert_eq!(xdg.unwrap().status.code(), Some(78));
}

#[test]
fn an_identity_command_that_fails_is_named_without_what_it_printed() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["restore", "ledger", "--to", "OUT", "--store", "file:///srv/a", "--signers", "S"];
    let mut command = recoup(home.path(), &arguments);
    let output = command.env("RECOUP_IDENTITY_COMMAND", "echo AGE-SECRET-KEY-1; exit 3").output().unwrap();
    insta::assert_snapshot!("error_identity_command", shown(home.path(), &arguments, &output));
}

#[test]
fn color_follows_the_flags_and_never_a_pipe() {
    let home = tempfile::tempdir().unwrap();
    let stderr = |arguments: &[&str], no_color: bool| {
        let mut command = recoup(home.path(), arguments);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        text(&command.output().unwrap().stderr)
    };
    let backup = |color| ["--config", "gone.toml", "backup", color];
    assert!(!stderr(&backup("--color=auto"), false).contains('\x1b'));
    assert!(stderr(&backup("--color=always"), false).contains("\x1b[1;31merror:"));
    assert!(stderr(&["bakcup", "--color", "always"], true).contains("\x1b[1;31merror:"));
    assert!(!stderr(&backup("--color=never"), true).contains('\x1b'));
}

#[test]
fn a_reader_who_leaves_is_no_failure_and_a_full_disk_is() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["completions", "bash"]] {
        let mut child = recoup(home.path(), arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{arguments:?}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = recoup(home.path(), arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("error: the result cannot be written"), "{arguments:?}");
    }
}

#[test]
fn completions_are_scripts() {
    let home = tempfile::tempdir().unwrap();
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef recoup"), ("fish", "complete -c recoup")] {
        let output = recoup(home.path(), &["completions", shell]).output().unwrap();
        assert!(output.status.success());
        let script = text(&output.stdout);
        assert!(script.contains(word) && script.contains("new-identity"), "{shell}");
    }
}

#[test]
fn the_version_is_there_at_once() {
    let home = tempfile::tempdir().unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let started = Stopwatch::start();
        let output = recoup(home.path(), &["--version"]).output().unwrap();
        fastest = fastest.min(started.elapsed());
        assert_eq!(text(&output.stdout), format!("recoup {}\n", env!("CARGO_PKG_VERSION")));
        assert!(output.status.success() && output.stderr.is_empty());
    }
    // A release build takes a tenth of it; a runtime or a look at the stores would take more than this.
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}
