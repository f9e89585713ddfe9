//! Bad command lines, in the shape of every other failure.

use super::{
    arguments::{Color, Global, ProgressMode},
    command,
};
use crate::core::failure::{Code, Failure};
use clap::error::ErrorKind;
use std::ffi::OsString;

/// What can be told of a command line that could not be parsed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// The command, if one was named.
    pub(super) command: Option<String>,
    /// The command with the commands below it that were named, as it is typed.
    pub(super) path: String,
    json: bool,
    color: Color,
}

impl Scanned {
    /// Looks through the arguments for what decides how the error is told.
    pub(super) fn of(arguments: &[OsString]) -> Self {
        let root = command();
        let mut innermost = &root;
        let mut scanned = Scanned::default();
        let mut words = arguments.iter().skip(1).map(|word| word.to_string_lossy());
        while let Some(word) = words.next() {
            match word.as_ref() {
                "--" => break,
                "--json" => scanned.json = true,
                "--color=always" => scanned.color = Color::Always,
                "--color=never" => scanned.color = Color::Never,
                "--color" => match words.next().as_deref() {
                    Some("always") => scanned.color = Color::Always,
                    Some("never") => scanned.color = Color::Never,
                    _ => {}
                },
                // Their values must not be taken for the command.
                "--config" | "--progress" | "--reason" => drop(words.next()),
                name => {
                    let Some(found) = innermost.get_subcommands().find(|known| known.get_name() == name) else {
                        continue;
                    };
                    innermost = found;
                    scanned.command.get_or_insert_with(|| name.to_owned());
                    scanned.path.push_str(&format!(" {name}"));
                }
            }
        }
        scanned
    }

    /// The command whose exit codes hold.
    pub(super) fn name(&self) -> Option<&str> {
        let path = self.path.trim_start();
        match path.starts_with("archive ") {
            true => Some(path),
            false => self.command.as_deref(),
        }
    }

    /// The flags that could be told.
    pub(super) fn global(&self) -> Global {
        Global { json: self.json, color: self.color, progress: ProgressMode::Off, ..Global::default() }
    }
}

/// Whether it is no error: help or the version was asked for.
pub(super) fn is_answer(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

/// A bad command line as a failure.
pub(super) fn failure(error: &clap::Error, scanned: &Scanned) -> Failure {
    let help = format!("recoup{} --help", scanned.path);
    let (message, cause) = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => ("no command was given".to_owned(), None),
        _ => explain(&error.render().to_string()),
    };
    let failure = Failure::new(Code::Usage, message).safe("nothing was read or changed").next_step(help);
    match cause {
        Some(cause) => failure.cause(cause),
        None => failure,
    }
}

/// Clap's text as one line that says what is wrong, and one that says why or what was meant.
fn explain(rendered: &str) -> (String, Option<String>) {
    let mut message = String::new();
    let mut usage = None;
    let mut causes: Vec<String> = Vec::new();
    for paragraph in rendered.split("\n\n") {
        let paragraph = paragraph.trim();
        let line = paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        if let Some(error) = line.strip_prefix("error: ") {
            message = error.to_owned();
        } else if let Some(form) = line.strip_prefix("Usage: ") {
            usage = Some(format!("the usage is: {form}"));
        } else if !line.is_empty() && !line.starts_with("For more information") {
            causes.extend(paragraph.lines().map(|line| line.trim().trim_start_matches("tip: ").to_owned()));
        }
    }
    (without_credentials(&message), if causes.is_empty() { usage } else { Some(causes.join("; ")) })
}

/// What somebody may take for keys of a store and write into its URL.
const SECRETS: [&str; 3] = ["access_key_id=", "secret_access_key=", "session_token="];

/// The text without what stands between `://` and `@`, or after a name of credentials: errors end up in logs.
fn without_credentials(text: &str) -> String {
    SECRETS.iter().fold(without_users(text), |text, name| without_values(&text, name))
}

fn without_values(text: &str, name: &str) -> String {
    let mut pieces = text.split(name);
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(['&', '\'', '"', ' ']).unwrap_or(piece.len());
        shown.push_str(name);
        shown.push_str("...");
        shown.push_str(&piece[end..]);
    }
    shown
}

fn without_users(text: &str) -> String {
    let mut pieces = text.split("://");
    let mut shown = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let authority = piece.find(['/', '\'', '"', ' ']).unwrap_or(piece.len());
        let from = piece[..authority].rfind('@').unwrap_or(0);
        shown.push_str(if from > 0 { "://..." } else { "://" });
        shown.push_str(&piece[from..]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_repeated() {
        for (text, shown) in [
            ("invalid 's3://KEY:SECRET@bucket/a' for x", "invalid 's3://...@bucket/a' for x"),
            ("a=s3://K:S@b b=s3://K:S@c", "a=s3://...@b b=s3://...@c"),
            ("file:///a@b", "file:///a@b"),
            ("'s3://b?secret_access_key=X&region=y' x", "'s3://b?secret_access_key=...&region=y' x"),
            ("s3://b?AWS_session_token=X", "s3://b?AWS_session_token=..."),
            ("none", "none"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn the_command_is_found_in_a_bad_line() {
        for (line, command, path, json) in [
            ("recoup --config verify backup --bad", Some("backup"), " backup", false),
            ("recoup --config=verify --json doctor x", Some("doctor"), " doctor", true),
            ("recoup --color always list backup", Some("list"), " list", false),
            ("recoup --progress verify", None, "", false),
            ("recoup frobnicate --json", None, "", true),
            ("recoup verify -- --json", Some("verify"), " verify", false),
            ("recoup", None, "", false),
            ("recoup hold add list --snapshot x", Some("hold"), " hold add", false),
            ("recoup key --reason add signer revoke", Some("key"), " key signer revoke", false),
            ("recoup key frobnicate --json", Some("key"), " key", true),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let scanned = Scanned::of(&words);
            let found = (scanned.command.as_deref(), scanned.path.as_str(), scanned.json);
            assert_eq!(found, (command, path, json), "{line}");
        }
    }
}
