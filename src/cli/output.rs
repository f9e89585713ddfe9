//! Printing: the result on standard output, everything else on standard error.

use super::{
    arguments::{Color, Global},
    human::line,
    repeat::Repeat,
};
use crate::{
    core::{
        failure::{Code, Failure},
        result::{ErrorResult, PlanResult},
        text::steers,
    },
    world,
};
use serde::Serialize;
use std::{
    borrow::Cow,
    io::{self, BufRead, IsTerminal, Read, Write},
};

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// Where and how to print.
#[derive(Clone, Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    terminal: bool,
    color_stdout: bool,
    color_stderr: bool,
    repeat: Repeat,
}

impl Output {
    /// As the flags and the terminal want it.
    pub fn new(global: &Global) -> Self {
        let color = |terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && world::environment("NO_COLOR").is_none(),
        };
        let terminal = io::stdout().is_terminal();
        Output {
            json: global.json,
            quiet: global.quiet,
            terminal,
            color_stdout: color(terminal),
            color_stderr: color(io::stderr().is_terminal()),
            repeat: Repeat::default(),
        }
    }

    /// The same, completing the commands that messages name with what the current one was given.
    #[must_use]
    pub(super) fn repeating(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    /// Whether the result is to be printed as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result that was asked for: as JSON, or as the text that `text` makes of it.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json { self.json(value) } else { print(&text(value).replace(steers, "\u{fffd}")) }
    }

    /// The same, with the words that matter in color where color is wanted. They say it without it, too.
    pub fn painted_result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json || !self.color_stdout {
            return self.result(value, text);
        }
        let plain = text(value).replace(steers, "\u{fffd}");
        let painted: String = plain.split_inclusive(char::is_whitespace).map(paint).collect();
        print(&painted)
    }

    /// A command that a message names, completed with what the current one was given.
    pub fn completed(&self, text: &str) -> String {
        self.repeat.complete(text)
    }

    /// Prints a result that nobody waits for: as text only to a person at a terminal.
    pub fn summary<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json || (self.terminal && !self.quiet) { self.result(value, text) } else { Ok(()) }
    }

    /// Asks a person at a terminal, after showing what there is to do. `None` where nobody can be asked.
    pub fn ask(&self, steps: &[String], question: &str) -> Option<bool> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        for step in steps {
            print_error(&format!("{}\n", printable(step)));
        }
        print_error(&format!("{question} [y/N] "));
        let mut answer = String::new();
        let read = io::stdin().lock().take(64).read_line(&mut answer);
        Some(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Prints what `--dry-run` would do.
    pub fn plan(&self, plan: &PlanResult) -> Result<(), Failure> {
        self.result(plan, |plan| plan.steps.iter().map(|step| format!("{}\n", line(step))).collect())
    }

    fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::internal("the result cannot be written as JSON").cause(error))?;
        print(&(text + "\n"))
    }

    /// Prints clap's help or version.
    pub(super) fn help(&self, answer: &clap::Error) -> Result<(), Failure> {
        let text = answer.render();
        print(&if self.color_stdout { text.ansi().to_string() } else { text.to_string() })
    }

    /// Says something that the operator should know; silent with `--quiet`.
    pub fn notes(&self, notes: &[String]) {
        if !self.quiet {
            for note in notes {
                self.label("note", "", note);
            }
        }
    }

    /// Says what is so every time and no news to a schedule: only where a person looks, at a terminal.
    pub fn remarks(&self, remarks: &[String]) {
        if self.terminal || io::stderr().is_terminal() {
            self.notes(remarks);
        }
    }

    /// Says something that has its part in the exit code.
    pub fn warning(&self, text: &str) {
        self.label("warning", YELLOW, text);
    }

    /// Says which command to run next.
    pub fn next_step(&self, text: &str) {
        self.label("next", BOLD, text);
    }

    /// Reports a failure: what failed, why, what is safe now, what to do next; with `--json` as an object, too.
    pub fn failure(&self, failure: &Failure, exit_code: Code) {
        self.explain(failure);
        if self.json {
            let next_step = failure.next_step.as_ref().map(|text| self.repeat.complete(text));
            let failure = Failure { next_step, ..failure.clone() };
            // Standard error has it already; nobody is left to tell that standard output is broken.
            let _ = self.json(&ErrorResult::new(&failure, exit_code));
        }
    }

    /// The failure on standard error only: for one of several.
    pub fn explain(&self, failure: &Failure) {
        self.label("error", RED, &failure.message);
        for (label, color, text) in
            [("cause", "", &failure.cause), ("safe", "", &failure.safe), ("next", BOLD, &failure.next_step)]
        {
            if let Some(text) = text {
                self.label(label, color, text);
            }
        }
    }

    fn label(&self, label: &str, color: &str, text: &str) {
        let text = printable(&self.repeat.complete(text));
        if self.color_stderr && !color.is_empty() {
            print_error(&format!("{color}{label}:{RESET} {text}\n"));
        } else {
            print_error(&format!("{label}: {text}\n"));
        }
    }
}

/// A word and the space after it, in color if it says that something is wrong.
fn paint(word: &str) -> String {
    let bare = word.trim_end();
    let color = match bare {
        "critical" | "down" => RED,
        "warning" | "behind" | "full" | "GAP" => YELLOW,
        _ => return word.to_owned(),
    };
    format!("{color}{bare}{RESET}{}", &word[bare.len()..])
}

/// The text without the private part of age identities: what stands in a wrong place is quoted in errors, and
/// errors end up in logs.
fn without_keys(text: &str) -> Cow<'_, str> {
    const KEY: &str = "AGE-SECRET-KEY-1";
    let upper = text.to_ascii_uppercase();
    if !upper.contains(KEY) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    let mut from = 0;
    for (at, _) in upper.match_indices(KEY) {
        let secret = at + KEY.len();
        shown.push_str(&text[from..secret]);
        shown.push_str("...");
        let rest = &text[secret..];
        from = secret + rest.find(|char: char| !char.is_ascii_alphanumeric()).unwrap_or(rest.len());
    }
    Cow::Owned(shown + &text[from..])
}

/// The text without what steers, its later lines indented.
fn printable(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| line.replace(steers, "\u{fffd}")).collect();
    lines.join("\n       ")
}

/// Writes to standard output. A reader that went away is no failure, anything else is.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let text = without_keys(text);
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Failed, "the result cannot be written to standard output")
                .cause(error)
                .safe("the command itself was done"))
        }
        _ => Ok(()),
    }
}

/// Writes to standard error; where that is closed there is nobody left to tell.
pub(super) fn print_error(text: &str) {
    let _ = io::stderr().lock().write_all(without_keys(text).as_bytes());
}

/// What is printed where a panic happens, on whichever thread.
pub(super) fn report_panic(info: &std::panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
    let place = info.location().map_or_else(String::new, |location| format!(" ({location})"));
    print_error(&format!("internal error: {}{place}\n", printable(&text)));
    if world::environment("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        print_error(&format!("{}\n", std::backtrace::Backtrace::force_capture()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\r\x07"), "a\u{fffd}[31mb\u{fffd}\u{fffd}");
        assert_eq!(printable("one\ntwo"), "one\n       two");
        assert_eq!(printable("ok\u{202e}ko"), "ok\u{fffd}ko");
    }

    #[test]
    fn identities_are_not_repeated() {
        for (text, shown) in [
            ("no key", "no key"),
            ("'AGE-SECRET-KEY-1QQ7' is wrong", "'AGE-SECRET-KEY-1...' is wrong"),
            ("é age-secret-key-1qq AGE-SECRET-KEY-1", "é age-secret-key-1... AGE-SECRET-KEY-1..."),
        ] {
            assert_eq!(without_keys(text), shown);
        }
    }
}
