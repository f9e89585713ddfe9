//! The settings with which a restored server recovers, as text: what is written into `postgresql.auto.conf`, and what
//! must be taken out of a configuration that was made for another directory. Pure.

use crate::core::log::Lsn;
use chrono::{DateTime, SecondsFormat, Utc};
use std::collections::BTreeMap;

/// Where recovery is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryEnd {
    /// With the last record of the planned log.
    Log,
    /// As soon as the files are consistent.
    Immediate,
    /// After the last commit at or before a moment.
    Time(DateTime<Utc>),
    /// With the record at a place.
    Position(Lsn),
    /// With the commit of a transaction.
    Transaction(u32),
    /// With a named restore point.
    Point(String),
}

/// What a server does with its restored files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Where recovery ends; `None` follows the primary for ever, as a standby.
    pub end: Option<RecoveryEnd>,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// How the server gets a file of the log.
    pub restore_command: String,
    /// How a standby reaches its primary.
    pub primary_conninfo: Option<String>,
    /// Whether the recovered server archives its own log as the original did.
    pub archives: bool,
    /// Whether tablespaces were restored as directories, which the server refuses unless it is told.
    pub in_place_tablespaces: bool,
}

impl Recovery {
    /// The settings, in the order in which they are written.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![("restore_command", self.restore_command.clone())];
        let target = match &self.end {
            None | Some(RecoveryEnd::Log) => None,
            Some(RecoveryEnd::Immediate) => Some(("recovery_target", "immediate".to_owned())),
            Some(RecoveryEnd::Time(moment)) => Some(("recovery_target_time", server_time(*moment))),
            Some(RecoveryEnd::Position(at)) => Some(("recovery_target_lsn", at.to_string())),
            Some(RecoveryEnd::Transaction(id)) => Some(("recovery_target_xid", id.to_string())),
            Some(RecoveryEnd::Point(name)) => Some(("recovery_target_name", name.clone())),
        };
        settings.extend(target);
        match &self.end {
            // A standby goes where its primary goes.
            None => settings.push(("recovery_target_timeline", "latest".to_owned())),
            Some(_) => settings.push(("recovery_target_timeline", self.timeline.to_string())),
        }
        if self.end.is_some() {
            settings.push(("recovery_target_inclusive", "on".to_owned()));
            settings.push(("recovery_target_action", "promote".to_owned()));
        }
        settings.extend(self.primary_conninfo.clone().map(|conninfo| ("primary_conninfo", conninfo)));
        if !self.archives {
            // Until somebody has decided that this is the ledger from now on, it must not mix its log with the original's.
            settings.push(("archive_mode", "off".to_owned()));
        }
        if self.in_place_tablespaces {
            settings.push(("allow_in_place_tablespaces", "on".to_owned()));
        }
        settings
    }

    /// The empty file that makes the server recover.
    pub fn signal_file(&self) -> &'static str {
        if self.end.is_some() { "recovery.signal" } else { "standby.signal" }
    }

    /// `postgresql.auto.conf` as it must be, made from what was restored: every other setting stays.
    pub fn auto_conf(&self, restored: &str) -> String {
        let mut text: String =
            restored.lines().filter(|line| !decides_recovery(line)).map(|line| format!("{line}\n")).collect();
        text.push_str("# Written by recoup restore.\n");
        for (name, value) in self.settings() {
            text.push_str(&format!("{name} = {}\n", quoted(&value)));
        }
        text
    }
}

/// A moment as the server reads it, whatever its time zone.
fn server_time(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Micros, false).replace('T', " ")
}

/// A value in the quotes of a configuration file.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', "''"))
}

/// The name of the setting in a line, if it sets one.
fn setting_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    let end = line.find(|char: char| !(char.is_ascii_alphanumeric() || char == '_' || char == '.'))?;
    let (name, rest) = line.split_at(end);
    // The equals sign may be left out.
    let is_set = rest.starts_with([' ', '\t', '=', '\'']);
    (is_set && !name.is_empty()).then(|| name.to_ascii_lowercase())
}

/// Settings of an earlier recovery, or of what the original server was to others.
const OF_RECOVERY: &[&str] = &[
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "archive_mode",
    "allow_in_place_tablespaces",
];

fn decides_recovery(line: &str) -> bool {
    setting_of(line).is_some_and(|name| {
        name == "recovery_target" || name.starts_with("recovery_target_") || OF_RECOVERY.contains(&name.as_str())
    })
}

/// Settings that name places of the original server: with them, the restored files would not be the ones that are used.
const OF_PLACES: &[&str] =
    &["data_directory", "config_file", "hba_file", "ident_file", "external_pid_file", "stats_temp_directory"];

/// A `postgresql.conf` without what leads to the original server's places, and the lines that were taken out.
pub fn freed_from_places(conf: &str) -> (String, Vec<String>) {
    let mut text = String::with_capacity(conf.len());
    let mut taken_out = Vec::new();
    for line in conf.lines() {
        if setting_of(line).is_some_and(|name| OF_PLACES.contains(&name.as_str())) {
            taken_out.push(line.trim().to_owned());
            text.push_str(&format!("# taken out by recoup restore: {line}\n"));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    (text, taken_out)
}

/// How deeply a configuration may include others, as the server has it.
const DEPTH_MAX: usize = 10;

/// What a server would find configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    settings: BTreeMap<String, String>,
    /// Files and directories that it includes and that are not at hand.
    pub not_found: Vec<String>,
}

impl Configuration {
    /// The value of a setting, as it is configured.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    fn read(&mut self, name: &str, files: &BTreeMap<String, Vec<u8>>, depth: usize) {
        let text = files.get(name).map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let beside = |other: &str| match folder {
            _ if other.starts_with('/') => other.to_owned(),
            "" => other.trim_end_matches('/').to_owned(),
            folder => format!("{folder}/{}", other.trim_end_matches('/')),
        };
        for (setting, value) in text.lines().filter_map(value_of) {
            if !setting.starts_with("include") || depth >= DEPTH_MAX {
                self.settings.insert(setting, value);
                continue;
            }
            let place = beside(&value);
            if setting == "include_dir" {
                let below = format!("{place}/");
                let is_in = |name: &&String| name.strip_prefix(&below).is_some_and(|rest| !rest.contains('/'));
                let inside: Vec<&String> = files.keys().filter(is_in).collect();
                if inside.is_empty() && place.starts_with('/') {
                    self.not_found.push(place);
                }
                inside.into_iter().for_each(|name| self.read(name, files, depth + 1));
            } else if files.contains_key(&place) {
                self.read(&place, files, depth + 1);
            } else if setting == "include" {
                self.not_found.push(place);
            }
        }
    }
}

/// What is configured in the files at the top of a data directory: the last word is that of ALTER SYSTEM.
pub fn effective(files: &BTreeMap<String, Vec<u8>>) -> Configuration {
    let mut configuration = Configuration::default();
    configuration.read("postgresql.conf", files, 0);
    configuration.read("postgresql.auto.conf", files, 0);
    configuration
}

/// The setting that a line of a configuration makes, and its value without quotes and comments.
fn value_of(line: &str) -> Option<(String, String)> {
    let name = setting_of(line)?;
    let rest = line.trim_start()[name.len()..].trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let Some(quoted) = rest.strip_prefix('\'') else {
        let plain = rest.split(['#', ' ', '\t']).next().unwrap_or_default();
        return Some((name, plain.to_owned()));
    };
    let mut value = String::new();
    let mut characters = quoted.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' if characters.peek() == Some(&'\'') => value.extend(characters.next()),
            '\'' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    Some((name, value))
}

/// The names in a list between commas, some of them in quotes.
pub fn list(value: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut is_quoted = false;
    for character in value.chars() {
        match character {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => names.push(String::new()),
            other if is_quoted || !other.is_whitespace() => names.last_mut().expect("never empty").push(other),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery(end: Option<RecoveryEnd>) -> Recovery {
        Recovery {
            end,
            timeline: 3,
            restore_command: r"/usr/bin/recoup archive fetch ledger %f %p --identity '/k/it'\''s'".to_owned(),
            primary_conninfo: None,
            archives: false,
            in_place_tablespaces: false,
        }
    }

    const COMMON: &str = r"# Written by recoup restore.
restore_command = '/usr/bin/recoup archive fetch ledger %f %p --identity ''/k/it''\\''''s'''
";

    #[test]
    fn every_end_has_its_settings() {
        let moment = "2026-11-22T10:15:00.500001+01:00".parse::<DateTime<Utc>>().unwrap();
        let cases = [
            (RecoveryEnd::Log, ""),
            (RecoveryEnd::Immediate, "recovery_target = 'immediate'\n"),
            (RecoveryEnd::Time(moment), "recovery_target_time = '2026-11-22 09:15:00.500001+00:00'\n"),
            (RecoveryEnd::Position(Lsn(0x16_B374_D848)), "recovery_target_lsn = '16/B374D848'\n"),
            (RecoveryEnd::Transaction(771), "recovery_target_xid = '771'\n"),
            (RecoveryEnd::Point("before 'it'".to_owned()), "recovery_target_name = 'before ''it'''\n"),
        ];
        for (end, line) in cases {
            let expected = format!(
                "{COMMON}{line}recovery_target_timeline = '3'\nrecovery_target_inclusive = 'on'\n\
                 recovery_target_action = 'promote'\narchive_mode = 'off'\n"
            );
            let recovery = recovery(Some(end));
            assert_eq!(recovery.auto_conf(""), expected);
            assert_eq!(recovery.signal_file(), "recovery.signal");
        }
    }

    #[test]
    fn a_standby_follows() {
        let standby = Recovery {
            primary_conninfo: Some("host=/run/postgresql user=replicator".to_owned()),
            archives: true,
            ..recovery(None)
        };
        let expected = format!(
            "{COMMON}recovery_target_timeline = 'latest'\nprimary_conninfo = 'host=/run/postgresql user=replicator'\n"
        );
        assert_eq!(standby.auto_conf(""), expected);
        assert_eq!(standby.signal_file(), "standby.signal");
    }

    #[test]
    fn settings_of_before_are_replaced_and_others_stay() {
        let restored = "# Do not edit this file manually!\nwork_mem = '64MB'\nRECOVERY_TARGET_TIME '2020-01-01'\n\
                        recovery_target='immediate'\n  restore_command = 'cp'\nprimary_slot_name = 'x'\n\
                        recovery_targets.mine = '1'\narchive_mode on\narchive_command = 'x'";
        let text = recovery(Some(RecoveryEnd::Log)).auto_conf(restored);
        let (kept, written) = text.split_once("# Written").unwrap();
        assert_eq!(
            kept,
            "# Do not edit this file manually!\nwork_mem = '64MB'\nrecovery_targets.mine = '1'\narchive_command = 'x'\n"
        );
        // Written once more, it is the same.
        let again = recovery(Some(RecoveryEnd::Log)).auto_conf(&text);
        assert_eq!(again.matches("restore_command").count(), 1, "{written}");
    }

    #[test]
    fn places_of_the_original_are_taken_out() {
        let conf = "data_directory = '/var/lib/postgresql/15/main'\n#hba_file = 'x'\nhba_file='/etc/x'\nport = 5433\n\
                    include_dir = 'conf.d'\nExternal_Pid_File = '/run/x'\n";
        let (text, taken_out) = freed_from_places(conf);
        assert_eq!(
            text,
            "# taken out by recoup restore: data_directory = '/var/lib/postgresql/15/main'\n#hba_file = 'x'\n\
             # taken out by recoup restore: hba_file='/etc/x'\nport = 5433\ninclude_dir = 'conf.d'\n\
             # taken out by recoup restore: External_Pid_File = '/run/x'\n"
        );
        assert_eq!(taken_out.len(), 3);
    }

    #[test]
    fn values_are_read_as_the_server_reads_them() {
        for (line, value) in [
            ("a = 'b'", "b"),
            ("a 'it''s \\'so\\'' # no", "it's 'so'"),
            ("a=5 # five", "5"),
            ("A = on", "on"),
            ("a = ''", ""),
            ("a = 'open", "open"),
        ] {
            assert_eq!(value_of(line), Some(("a".to_owned(), value.to_owned())), "{line}");
        }
        for line in ["# a = 'b'", "", "=", "a"] {
            assert_eq!(value_of(line), None, "{line}");
        }
        assert_eq!(list("a, \"B c\" ,,d,"), ["a", "B c", "d"]);
        assert_eq!(list(" "), [] as [&str; 0]);
    }

    #[test]
    fn the_last_word_counts() {
        let files = [
            (
                "postgresql.conf",
                "a = 1\ninclude 'more.conf'\ninclude_dir = 'conf.d'\ninclude_if_exists 'no.conf'\nb = 1\n",
            ),
            ("more.conf", "a = 2\ninclude '/etc/nowhere.conf'\ninclude 'gone.conf'\ninclude 'more.conf'\n"),
            ("conf.d/x.conf", "a = 3\nc = 3\n"),
            ("conf.d/deeper/y.conf", "c = 4\n"),
            ("postgresql.auto.conf", "b = 5\n"),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into();
        let read = effective(&files);
        assert_eq!(["a", "b", "c"].map(|name| read.get(name)), [Some("3"), Some("5"), Some("3")]);
        assert!(read.not_found.contains(&"gone.conf".to_owned()), "{read:?}");
        assert!(read.not_found.contains(&"/etc/nowhere.conf".to_owned()), "{read:?}");
        assert!(!read.not_found.contains(&"no.conf".to_owned()), "{read:?}");
    }
}
