//! What the operator asked to be restored.

use super::{
    id::{InvalidName, SEQ_MAX, Sha256, SnapshotId},
    log::Lsn,
    time::Timestamp,
};
use std::{fmt, str::FromStr};

/// A restore target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The newest durable point.
    Latest,
    /// The newest point at or before a moment.
    Time(Timestamp),
    /// A snapshot by its number.
    Snapshot(u64),
    /// A snapshot by its full id: needed where a number is forked.
    SnapshotId(SnapshotId),
    /// A place in the log.
    Position(Lsn),
    /// The commit of a transaction, by its number in the log.
    Transaction(u32),
    /// A restore point that was given a name.
    Point(String),
    /// The moment at which the newest snapshot is consistent: as little of the log as can be.
    Immediate,
}

impl Target {
    /// Whether only a source with a log can be asked for it.
    pub fn needs_log(&self) -> bool {
        matches!(self, Target::Position(_) | Target::Transaction(_) | Target::Point(_) | Target::Immediate)
    }
}

/// The most bytes of the name of a restore point.
const POINT_BYTES_MAX: usize = 63;

/// A snapshot that somebody knows to exist: the newest that was seen, with the digest of its inventory if they have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownHead {
    /// The snapshot.
    pub id: SnapshotId,
    /// SHA-256 of its inventory.
    pub sha256: Option<Sha256>,
}

impl FromStr for KnownHead {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once(':') {
            Some((id, sha256)) => Ok(KnownHead { id: id.parse()?, sha256: Some(sha256.parse()?) }),
            None => Ok(KnownHead { id: text.parse()?, sha256: None }),
        }
    }
}

/// A snapshot by its number or its full id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotName {
    /// Its number, which a fork shares.
    Number(u64),
    /// All of its id.
    Id(SnapshotId),
}

impl SnapshotName {
    /// Whether it names a snapshot.
    pub fn means(&self, id: SnapshotId) -> bool {
        match self {
            SnapshotName::Number(seq) => id.seq == *seq,
            SnapshotName::Id(named) => id == *named,
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotName::Number(seq) => write!(formatter, "{seq}"),
            SnapshotName::Id(id) => write!(formatter, "{id}"),
        }
    }
}

impl FromStr for SnapshotName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse().ok().filter(|seq| is_number && (1..=SEQ_MAX).contains(seq)) {
            Some(seq) => Ok(SnapshotName::Number(seq)),
            None => Ok(SnapshotName::Id(text.parse()?)),
        }
    }
}

/// Why a target was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "target {0:?} is none of: latest, snapshot:NUMBER, a time with an offset such as 2026-11-22T09:15:00Z, and with \
     postgres also lsn:16/B374D848, xid:NUMBER, name:RESTORE_POINT, immediate"
)]
pub struct InvalidTarget(String);

impl FromStr for Target {
    type Err = InvalidTarget;
    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let wrong = || InvalidTarget(text.chars().take(80).collect());
        match text {
            "latest" => return Ok(Target::Latest),
            "immediate" => return Ok(Target::Immediate),
            _ => {}
        }
        if let Some(position) = text.strip_prefix("lsn:") {
            return position.parse().map(Target::Position).map_err(|_| wrong());
        }
        if let Some(number) = text.strip_prefix("xid:") {
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
            // Numbers below 3 are no transactions of anybody's.
            let number = number.parse().ok().filter(|number| is_number && *number >= 3);
            return number.map(Target::Transaction).ok_or_else(wrong);
        }
        if let Some(name) = text.strip_prefix("name:") {
            let is_name = (1..=POINT_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
            return if is_name { Ok(Target::Point(name.to_owned())) } else { Err(wrong()) };
        }
        if let Some(number) = text.strip_prefix("snapshot:") {
            if let Ok(id) = number.parse() {
                return Ok(Target::SnapshotId(id));
            }
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(wrong());
            }
            let seq = number.parse().ok().filter(|seq| *seq <= SEQ_MAX);
            return seq.map(Target::Snapshot).ok_or_else(wrong);
        }
        text.parse().map(Target::Time).map_err(|_| wrong())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Latest => formatter.write_str("latest"),
            Target::Time(moment) => write!(formatter, "{moment}"),
            Target::Snapshot(seq) => write!(formatter, "snapshot:{seq}"),
            Target::SnapshotId(id) => write!(formatter, "snapshot:{id}"),
            Target::Position(at) => write!(formatter, "lsn:{at}"),
            Target::Transaction(number) => write!(formatter, "xid:{number}"),
            Target::Point(name) => write!(formatter, "name:{name}"),
            Target::Immediate => formatter.write_str("immediate"),
        }
    }
}

/// Which timeline a restore follows the log along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timeline {
    /// The newest that leads to the target.
    #[default]
    Latest,
    /// The one that the snapshot was taken on.
    Current,
    /// This one.
    Number(u32),
}

impl FromStr for Timeline {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Timeline::Latest),
            "current" => Ok(Timeline::Current),
            digits => match digits.parse() {
                Ok(number @ 1..) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Timeline::Number(number)),
                _ => Err("a timeline is latest, current, or its number in decimal digits"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, shown) in [
            ("latest", "latest"),
            ("snapshot:7", "snapshot:7"),
            ("snapshot:0000000007", "snapshot:7"),
            ("snapshot:00000000000000000007", "snapshot:7"),
            ("snapshot:0000000007-aaaaaaaaaaaaaaaa", "snapshot:0000000007-aaaaaaaaaaaaaaaa"),
            ("2026-11-22T10:15:00+01:00", "2026-11-22T09:15:00.000Z"),
            ("lsn:16/b374d848", "lsn:16/B374D848"),
            ("xid:771", "xid:771"),
            ("name:before the release", "name:before the release"),
            ("immediate", "immediate"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "Latest",
            "snapshot:",
            "snapshot:-1",
            "snapshot:12345678901",
            "2026-11-22T10:15:00",
            "snapshot:x",
            "lsn:",
            "lsn:1",
            "xid:0",
            "xid:4294967296",
            "xid:+7",
            "name:",
            "name:a\nb",
            "IMMEDIATE",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
    #[test]
    fn timelines() {
        for (text, timeline) in [
            ("latest", Timeline::Latest),
            ("current", Timeline::Current),
            ("1", Timeline::Number(1)),
            ("4294967295", Timeline::Number(u32::MAX)),
        ] {
            assert_eq!(text.parse(), Ok(timeline));
        }
        for bad in ["", "0", "-1", "+1", "4294967296", "0x2", "Latest"] {
            assert!(bad.parse::<Timeline>().is_err(), "{bad}");
        }
    }
}
