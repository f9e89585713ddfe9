//! One shape for everything that can go wrong and that a person or a script will see.
//!
//! A failure says what failed (with the object named), why, what is safe now, and the next command.

use std::fmt;

/// The exit codes of `recoup`, one per thing the caller has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Done = 0,
    /// Done, and something deserves a look.
    Warning = 1,
    /// Failed, or damage was found.
    Failed = 2,
    /// A monitoring command could not reach a verdict.
    Unknown = 3,
    /// The stores hold no such repository.
    NoRepository = 10,
    /// Another run holds the lock.
    Locked = 11,
    /// No usable key: missing, unreadable, too open, or it opens nothing.
    NoKey = 12,
    /// The source is unreachable or unfit.
    Source = 13,
    /// A store is unreachable.
    Store = 14,
    /// Stored data is damaged.
    Damaged = 15,
    /// No recovery point meets the target.
    NoRecoveryPoint = 16,
    /// Refused for safety.
    Refused = 17,
    /// An append-only log was altered.
    LogAltered = 18,
    /// The command line is wrong.
    Usage = 64,
    /// An internal error.
    Internal = 70,
    /// The configuration is wrong.
    Configuration = 78,
    /// Interrupted (SIGINT); resumable.
    Interrupted = 130,
    /// Terminated (SIGTERM); resumable.
    Terminated = 143,
    /// A recovering server gets no answer that it could take for the end of its log.
    Unanswered = 200,
}

impl Code {
    /// The process exit code.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// What failed, why, what is safe now, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the caller has to do next, as an exit code.
    pub code: Code,
    /// What failed, naming the object.
    pub message: String,
    /// Why.
    pub cause: Option<String>,
    /// What is safe now.
    pub safe: Option<String>,
    /// The next command, or the next thing to do.
    pub next_step: Option<String>,
}

impl Failure {
    /// A failure of which only the object and the code are known so far.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), cause: None, safe: None, next_step: None }
    }

    /// An internal error: a bug in `recoup`, never the user's fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Failure::new(Code::Internal, message)
            .safe("nothing that was acknowledged is affected")
            .next_step("please report this with the output of `recoup doctor`")
    }

    /// Adds why it failed.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds what is safe now.
    #[must_use]
    pub fn safe(mut self, safe: impl Into<String>) -> Self {
        self.safe = Some(safe.into());
        self
    }

    /// Adds the next command.
    #[must_use]
    pub fn next_step(mut self, next_step: impl Into<String>) -> Self {
        self.next_step = Some(next_step.into());
        self
    }
}

/// A word as a shell takes it, for commands that a person will paste.
pub fn shell_word(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let plain = |char: char| char.is_alphanumeric() || "_./-:@%+,=".contains(char);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.message)?;
        if let Some(cause) = &self.cause {
            write!(formatter, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// The exit code of a run over several sources: each source's own code stands beside it.
///
/// An altered log outranks warnings when nothing else failed; failures that share a code keep it;
/// mixed failures are plain 2.
pub fn combine(codes: &[Code]) -> Code {
    let failures: Vec<Code> =
        codes.iter().copied().filter(|code| !matches!(code, Code::Done | Code::Warning | Code::LogAltered)).collect();
    if let Some(first) = failures.first() {
        let altered = codes.contains(&Code::LogAltered);
        return if !altered && failures.iter().all(|code| code == first) { *first } else { Code::Failed };
    }
    if codes.contains(&Code::LogAltered) {
        return Code::LogAltered;
    }
    if codes.contains(&Code::Warning) { Code::Warning } else { Code::Done }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        for (text, word) in
            [("/data/out", "/data/out"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn combined_codes() {
        let cases: &[(&[Code], Code)] = &[
            (&[], Code::Done),
            (&[Code::Done, Code::Warning], Code::Warning),
            (&[Code::Warning, Code::LogAltered], Code::LogAltered),
            (&[Code::Source, Code::Done, Code::Source], Code::Source),
            (&[Code::Source, Code::Store], Code::Failed),
            (&[Code::Source, Code::LogAltered], Code::Failed),
        ];
        for (codes, expected) in cases {
            assert_eq!(combine(codes), *expected, "{codes:?}");
        }
    }
}
