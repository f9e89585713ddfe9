//! What happened to an append-only log that must not happen to one.

use super::path::StoredPath;
use serde::Serialize;
use std::fmt;

/// What became of captured bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogProblem {
    /// Other bytes stand where they were.
    Rewritten,
    /// The file ends before they do.
    Cut,
    /// No file begins with them any more.
    Removed,
}

/// One file of a log whose captured bytes are no longer what they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alteration {
    /// The file, by the name that the last snapshot has it under.
    pub path: StoredPath,
    /// What happened.
    pub problem: LogProblem,
    /// Rewritten: about where, to the block. Cut: what is left. Nothing for a removed file.
    pub offset_bytes: Option<u64>,
    /// What it is called now, where that is another name.
    pub found_at: Option<StoredPath>,
}

impl fmt::Display for Alteration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path)?;
        if let Some(found_at) = &self.found_at {
            write!(formatter, " (now {found_at})")?;
        }
        let offset = self.offset_bytes.unwrap_or(0);
        match self.problem {
            LogProblem::Rewritten => write!(formatter, " was rewritten at about byte {offset}"),
            LogProblem::Cut => write!(formatter, " was cut to {offset} bytes"),
            LogProblem::Removed => formatter.write_str(" was removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alterations_are_told() {
        let path = |text: &str| StoredPath::parse(text).unwrap();
        let alteration = |problem, offset_bytes, found_at: Option<&str>| {
            Alteration { path: path("a.log"), problem, offset_bytes, found_at: found_at.map(path) }.to_string()
        };
        let told = alteration(LogProblem::Rewritten, Some(8192), Some("a.log.1"));
        assert_eq!(told, "a.log (now a.log.1) was rewritten at about byte 8192");
        assert_eq!(alteration(LogProblem::Cut, Some(7), None), "a.log was cut to 7 bytes");
        assert_eq!(alteration(LogProblem::Removed, None, None), "a.log was removed");
    }
}
