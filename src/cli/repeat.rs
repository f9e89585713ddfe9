//! Commands that messages name, completed with what the current command was given: they work as they stand.

use super::{
    arguments::{Global, StoreArguments},
    commands::Command,
};
use crate::{config::signers_beside, core::failure::shell_word};
use std::{ffi::OsString, path::Path};

/// Verbs that read stores and may do so without a configuration.
const READERS: &[&str] = &["list", "verify", "restore", "points"];
/// The other verbs that a configuration has to be named for.
const OTHERS: &[&str] = &[
    "archive", "backup", "copy", "doctor", "config", "evidence", "hold", "key", "prune", "drill", "check", "status",
    "report",
];
/// What stands in a message for the current command.
const THIS: &str = "recoup ...";

/// What the current command was given.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeat {
    config: String,
    stores: String,
    signers: String,
    restore: String,
    line: String,
}

impl Repeat {
    /// Takes from the command what another needs to reach the same stores.
    pub(super) fn of(command: &Command, global: &Global, arguments: &[OsString]) -> Self {
        let word = |flag: &str, path: &Path| format!(" {flag} {}", shell_word(path.display()));
        let given = command.access();
        let none = StoreArguments::default();
        let stores = given.map_or(&none, |(stores, _)| stores);
        let identity = given.and_then(|(_, identity)| identity);
        let beside = identity.filter(|_| !stores.stores.is_empty()).map(signers_beside);
        let signers = stores.signers.clone().or(beside).map(|file| word("--signers", &file)).unwrap_or_default();
        let mut restore = identity.map(|file| word("--identity", file)).unwrap_or_default();
        if stores.signers.is_some() {
            restore.push_str(&signers);
        }
        if matches!(command, Command::Restore(arguments) if arguments.check) {
            restore.push_str(" --check");
        }
        let words: Vec<String> = arguments.iter().skip(1).map(|word| shell_word(word.to_string_lossy())).collect();
        Repeat {
            config: global.config.as_deref().map(|file| word("--config", file)).unwrap_or_default(),
            stores: stores.stores.iter().map(|store| format!(" --store {}", shell_word(store.argument()))).collect(),
            signers,
            restore,
            line: format!("recoup {}", words.join(" ")),
        }
    }

    /// The text with its commands completed.
    pub(super) fn complete(&self, text: &str) -> String {
        let mut completed = String::new();
        let mut from = 0;
        for (at, found) in text.match_indices("recoup ") {
            let begins = text[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '/');
            let rest = &text[at + found.len()..];
            if !begins || at < from {
                continue;
            }
            completed.push_str(&text[from..at]);
            from = at;
            if text[at..].starts_with(THIS) && !self.line.is_empty() {
                completed.push_str(&self.line);
                from = at + THIS.len();
                continue;
            }
            let verb: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            let flags = match verb.as_str() {
                "restore" => format!("{}{}", self.stores, self.restore),
                reader if READERS.contains(&reader) => format!("{}{}", self.stores, self.signers),
                other if OTHERS.contains(&other) => String::new(),
                _ => continue,
            };
            completed.push_str(&format!("recoup{} {verb}{flags}", self.config));
            from = at + found.len() + verb.len();
        }
        completed + &text[from..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::CommandLine;
    use clap::Parser;

    fn completed(line: &str, text: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let parsed = CommandLine::try_parse_from(&words).unwrap();
        let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        Repeat::of(&parsed.command, &parsed.global, &arguments).complete(text)
    }

    #[test]
    fn commands_are_completed() {
        let bare = "recoup restore ledger --store a=file:///a --identity K --to out --check";
        for (line, text, expected) in [
            ("recoup verify", "recoup copy", "recoup copy"),
            ("recoup verify --config R/r.toml", "run `recoup copy`.", "run `recoup --config R/r.toml copy`."),
            (
                "recoup list --store file:///a --signers S",
                "recoup verify",
                "recoup verify --store file:///a --signers S",
            ),
            (bare, "recoup list", "recoup list --store a=file:///a --signers K.signers"),
            (
                bare,
                "recoup restore ledger --to o   or   recoup restore x",
                "recoup restore --store a=file:///a --identity K --check ledger --to o   or   \
                 recoup restore --store a=file:///a --identity K --check x",
            ),
            (
                "recoup backup --config a",
                "use a newer recoup, or recoup makes one",
                "use a newer recoup, or recoup makes one",
            ),
            (
                "recoup --config a backup l",
                "runuser -u bob -- recoup ...",
                "runuser -u bob -- recoup --config a backup l",
            ),
            ("recoup --config a backup", "see /usr/recoup copy", "see /usr/recoup copy"),
            ("recoup --config a backup", "recoup init --config b", "recoup init --config b"),
        ] {
            assert_eq!(completed(line, text), expected, "{line}");
        }
    }
}
