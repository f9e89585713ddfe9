//! What every test uses: the built binary in an empty environment, its result, counts that a longer run raises.

mod repository;

pub(crate) use repository::{LEDGER, TestRepository, files_below};

use recoup::world;
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

/// How often to repeat: `variable` from the environment, else `default`.
pub(crate) fn count_from(variable: &str, default: u64) -> u64 {
    parse_count(variable, world::environment(variable).as_deref(), default)
}

fn parse_count(variable: &str, value: Option<&str>, default: u64) -> u64 {
    value.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a count")))
}

/// The built `recoup`, run in `dir` and in an environment that holds nothing but PATH and TMPDIR.
pub(crate) fn recoup(dir: &Path) -> Command {
    program(env!("CARGO_BIN_EXE_recoup"), dir)
}

/// Any program, run as [`recoup`] is.
pub(crate) fn program(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(dir).stdin(Stdio::null()).env_clear();
    for variable in ["PATH", "TMPDIR"] {
        if let Some(value) = world::environment(variable) {
            command.env(variable, value);
        }
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Run {
    let line = format!("{command:?}");
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{line}: {error}"));
    // As a shell says it: 128 and the signal's number.
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|number| 128 + number);
    let text = |bytes| String::from_utf8(bytes).unwrap_or_else(|error| panic!("{line}: output is not UTF-8: {error}"));
    Run { code: status.code().or(signal).unwrap(), stdout: text(stdout), stderr: text(stderr), line }
}

/// Runs a command and gives the most memory that it was seen to use, in KiB.
pub(crate) fn peak_of(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{command:?}: {status}");
            return peak;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Run {
    /// The exit code; 128 and the number of the signal that ended it.
    pub(crate) code: i32,
    /// The result.
    pub(crate) stdout: String,
    /// The rest.
    pub(crate) stderr: String,
    line: String,
}

impl Run {
    /// The same, if it ended with `code`; panics with all that was said otherwise.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        let Run { code: actual, stdout, stderr, line } = &self;
        assert_eq!(*actual, code, "{line}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---");
        self
    }

    /// stdout as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("{}: stdout is not JSON: {error}\n{}\n{}", self.line, self.stdout, self.stderr)
        })
    }
}

#[test]
fn counts_come_from_the_environment() {
    assert_eq!(parse_count("SEEDS", None, 5), 5);
    assert_eq!(parse_count("SEEDS", Some("70"), 5), 70);
    let wrong = std::panic::catch_unwind(|| parse_count("SEEDS", Some("many"), 5));
    assert!(wrong.is_err(), "a count that is none must not pass for the default");
    assert_eq!(count_from("RECOUP_TEST_NO_SUCH_COUNT", 3), 3);
}

#[test]
fn programs_run_in_an_empty_environment() {
    let dir = tempfile::tempdir().unwrap();
    let script = "env | grep -vE '^(PATH|TMPDIR|PWD|SHLVL|_|OLDPWD)='; cat; echo '{\"dir\":\"'$(pwd -P)'\"}'; echo no >&2; exit 3";
    let run = run(program("sh", dir.path()).args(["-c", script])).expect_code(3);
    assert_eq!(run.stderr, "no\n");
    let expected = dir.path().canonicalize().unwrap();
    assert_eq!(run.json()["dir"], expected.to_str().unwrap(), "{}", run.stdout);
    let killed = super::support::run(program("sh", dir.path()).args(["-c", "kill -9 $$"]));
    assert_eq!(killed.code, 137);
}

#[test]
fn the_binary_is_there() {
    let dir = tempfile::tempdir().unwrap();
    run(recoup(dir.path()).arg("--version")).expect_code(0);
}
