//! The command line: definitions, printing, progress, signals, exit codes.
//!
//! A command reads its arguments, calls one use case and prints the value it returns.

pub mod arguments;
pub mod commands;
mod context;
mod help;
mod human;
mod output;
mod progress;
mod repeat;
mod signals;
mod usage;

pub use context::{Context, Job};
pub use help::{Help, command};
pub use output::Output;

use crate::core::failure::{Code, Failure};
use arguments::CommandLine;
use clap::{CommandFactory, FromArgMatches};
use repeat::Repeat;
use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs the command that the process's arguments ask for; returns the exit code.
pub fn main() -> u8 {
    std::panic::set_hook(Box::new(output::report_panic));
    signals::expect_status_requests();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    guarded(&arguments, || run(&arguments)).number()
}

/// Whatever happens, there is a message and an exit code that says so.
fn guarded(arguments: &[OsString], work: impl FnOnce() -> Code) -> Code {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let scanned = usage::Scanned::of(arguments);
        let failure = Failure::internal("recoup stopped because of a bug in it")
            .safe("every snapshot that was acknowledged before is untouched");
        finish(scanned.name(), &Output::new(&scanned.global()), Err(failure))
    })
}

fn run(arguments: &[OsString]) -> Code {
    let parse = |command: clap::Command| {
        command.try_get_matches_from(arguments).and_then(|matches| CommandLine::from_arg_matches(&matches))
    };
    // Examples and exit codes are put together only for those who read them: a server calls for every segment.
    match parse(CommandLine::command()).or_else(|_| parse(command())) {
        Ok(CommandLine { command, global }) => {
            let output = Output::new(&global).repeating(Repeat::of(&command, &global, arguments));
            let name = command.name();
            let context = Context::new(global, output);
            let result = command.run(&context);
            finish(Some(name), context.output(), result)
        }
        Err(error) => {
            let scanned = usage::Scanned::of(arguments);
            let output = Output::new(&scanned.global());
            if usage::is_answer(&error) {
                return finish(None, &output, output.help(&error).map(|()| Code::Done));
            }
            finish(scanned.name(), &output, Err(usage::failure(&error, &scanned)))
        }
    }
}

/// Reports a failure and settles the exit code.
fn finish(command: Option<&str>, output: &Output, result: Result<Code, Failure>) -> Code {
    match result {
        Ok(code) => code,
        Err(failure) => {
            let code = exit_code(command, failure.code);
            if command == Some("check") && !output.is_json() {
                // A monitor reads standard output alone.
                let _ = output::print(&commands::check::unknown(&failure));
            }
            output.failure(&failure, code);
            code
        }
    }
}

/// Monitoring commands answer 0 to 3, whatever happened: 2 says that damage was seen, and nothing else does. An
/// interruption keeps its own code everywhere.
fn exit_code(command: Option<&str>, code: Code) -> Code {
    match command {
        Some("archive fetch") => return fetch_code(code),
        Some("archive push") => return push_code(code),
        _ => {}
    }
    if !matches!(command, Some("verify" | "doctor" | "check" | "status" | "drill")) {
        return code;
    }
    match code {
        Code::Done | Code::Warning | Code::Interrupted | Code::Terminated => code,
        Code::Damaged | Code::LogAltered => Code::Failed,
        _ => Code::Unknown,
    }
}

/// PostgreSQL takes everything up to 125 for the end of the log, and would end its recovery there.
fn fetch_code(code: Code) -> Code {
    match code {
        Code::Interrupted | Code::Terminated => code,
        _ => Code::Unanswered,
    }
}

/// PostgreSQL stops its archiver over everything above 125.
fn push_code(code: Code) -> Code {
    match code {
        Code::Interrupted | Code::Terminated | Code::Unanswered => Code::Failed,
        _ => code,
    }
}

/// A usage error that only the values together show.
pub(crate) fn usage_failure(message: impl Into<String>, next_step: impl Into<String>) -> Failure {
    Failure::new(Code::Usage, message).safe("nothing was read or changed").next_step(next_step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monitors_get_their_own_codes() {
        for (code, monitored) in [
            (Code::Done, Code::Done),
            (Code::Warning, Code::Warning),
            (Code::Failed, Code::Unknown),
            (Code::Damaged, Code::Failed),
            (Code::Store, Code::Unknown),
            (Code::NoRepository, Code::Unknown),
            (Code::Usage, Code::Unknown),
            (Code::Configuration, Code::Unknown),
            (Code::Internal, Code::Unknown),
            (Code::Interrupted, Code::Interrupted),
            (Code::Terminated, Code::Terminated),
        ] {
            assert_eq!(exit_code(Some("verify"), code), monitored);
            assert_eq!(exit_code(Some("doctor"), code), monitored);
            assert_eq!(exit_code(Some("drill"), code), monitored);
            assert_eq!(exit_code(Some("check"), code), monitored);
            assert_eq!(exit_code(Some("status"), code), monitored);
            assert_eq!(exit_code(Some("backup"), code), code);
            assert!(exit_code(Some("archive push"), code).number() <= 125);
            assert!(exit_code(Some("archive fetch"), code).number() > 125);
        }
    }

    #[test]
    fn a_bad_line_has_the_code_of_its_command() {
        for (line, code) in [
            ("recoup archive fetch", 200),
            ("recoup --json archive fetch ledger x y --bad", 200),
            ("recoup --config archive archive fetch ledger 00000001000000000000000g y", 200),
            ("recoup archive push", 64),
            ("recoup archive", 64),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(run(&words).number(), code, "{line}");
        }
    }

    #[test]
    fn a_panic_has_its_own_code() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(guarded(&words("recoup backup"), || panic!("on purpose")), Code::Internal);
        assert_eq!(guarded(&words("recoup verify"), || panic!("on purpose")), Code::Unknown);
        assert_eq!(guarded(&words("recoup archive fetch l f p"), || panic!("on purpose")), Code::Unanswered);
        assert_eq!(guarded(&words("recoup archive push l p"), || panic!("on purpose")), Code::Internal);
        assert_eq!(guarded(&words("recoup backup"), || Code::Warning), Code::Warning);
    }
}
