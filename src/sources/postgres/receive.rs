//! The log of a server while it is written, through a replication slot. The server's own `pg_receivewal` receives it:
//! whole segments under their names, the one that is being written as `.partial`.

use super::{
    Server,
    address::client_environment,
    control::Control,
    failures,
    programs::Programs,
    server::read_end,
    session::{Session, check_system},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::SourceName,
    },
    world::{
        self,
        programs::{Halt, Kept, KeptSignal},
    },
};
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// The name by which a server knows whoever follows it.
pub(super) const APPLICATION: &str = "recoup follow";
const PROGRAM: &str = "pg_receivewal";
const SLOT_BYTES_MAX: usize = 63;
/// How much of the end of what the program says is read.
const SAID_BYTES_MAX: u64 = 16 * 1024;
const SAID_CHARACTERS: usize = 400;
const NOTHING_LOST: &str = "what was archived is untouched";

/// The name of a replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotName(String);

impl SlotName {
    /// The one that a source has where nothing else was said.
    pub fn of_source(source: &SourceName) -> Self {
        let name = format!("recoup_{}", source.as_str().replace('-', "_"));
        SlotName(name.chars().take(SLOT_BYTES_MAX).collect())
    }
}

impl FromStr for SlotName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        match (1..=SLOT_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits) {
            true => Ok(SlotName(text.to_owned())),
            false => Err("a slot's name is of small letters, digits and _, 63 at most".to_owned()),
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What was said of the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Make the slot where there is none.
    pub create: bool,
    /// Take a server that keeps its log for a slot until its disk is full.
    pub unbounded: bool,
}

/// From which server the log is received, and how.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// The source, for what is said of it.
    pub source: SourceName,
    /// The server's data directory.
    pub data_dir: PathBuf,
    /// How it is reached.
    pub server: Server,
    /// Where its programs lie.
    pub bin_dir: Option<PathBuf>,
    /// The slot.
    pub slot: SlotName,
    /// What was said of it.
    pub terms: Terms,
}

/// What a server says of a slot and of what is around it.
struct Answer {
    keep_megabytes: i64,
    system: u64,
    role: String,
    may_replicate: bool,
    wal_level: String,
    slot: Option<(String, String)>,
}

impl Receiver {
    /// Looks whether the server gives its log through the slot, which is made where that was wanted; says whether it was.
    /// Blocks.
    pub fn check(&self) -> Result<bool, Failure> {
        let (control, _) = Control::read(&self.data_dir)?;
        let session = Session::open(&self.data_dir, &self.server)?;
        let answer = self.ask(&session)?;
        check_system(&self.data_dir, control.system, answer.system)?;
        if answer.wal_level == "minimal" {
            return Err(failures::unfit("PostgreSQL writes too little log to be followed")
                .cause("wal_level is minimal")
                .next_step("set wal_level = replica in postgresql.conf and restart the server"));
        }
        if !answer.may_replicate {
            return Err(failures::unfit(format!("role {} may not receive the log", answer.role))
                .cause("it has not the attribute REPLICATION")
                .next_step(format!("as a superuser: ALTER ROLE {} REPLICATION;", answer.role)));
        }
        if answer.keep_megabytes < 0 && !self.terms.unbounded {
            return Err(self.unbounded());
        }
        match &answer.slot {
            None if self.terms.create => {
                let sql = "SELECT slot_name::text FROM pg_create_physical_replication_slot($1::text::name, true)";
                session.row("make a replication slot", sql, &[&self.slot.0])?;
                Ok(true)
            }
            None => Err(failures::unfit(format!("PostgreSQL has no replication slot {}", self.slot))
                .cause("the log is received through a slot, so that the server keeps what was not received yet")
                .next_step(format!("recoup archive follow {} --create-slot", self.source))),
            Some((kind, _)) if kind != "physical" => {
                Err(failures::unfit(format!("slot {} is of another kind", self.slot))
                    .cause(format!("it is a {kind} slot"))
                    .next_step("name another slot with --slot"))
            }
            Some((_, status)) if status == "lost" => Err(self.lost()),
            Some(_) => Ok(false),
        }
    }

    fn ask(&self, session: &Session) -> Result<Answer, Failure> {
        let sql = "SELECT (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), \
            (SELECT system_identifier FROM pg_control_system()), current_user::text, \
            (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user), \
            current_setting('wal_level'), slot.slot_type, coalesce(slot.wal_status, '') \
            FROM (SELECT) AS one LEFT JOIN pg_replication_slots slot ON slot.slot_name::text = $1";
        let row = session.row("tell its replication slots", sql, &[&self.slot.0])?;
        let text = |at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        Ok(Answer {
            keep_megabytes: row.try_get(0).unwrap_or(-1),
            system: row.try_get::<_, i64>(1).unwrap_or_default().cast_unsigned(),
            role: text(2),
            may_replicate: row.try_get(3).unwrap_or_default(),
            wal_level: text(4),
            slot: row.try_get::<_, String>(5).ok().map(|kind| (kind, text(6))),
        })
    }

    fn unbounded(&self) -> Failure {
        Failure::new(Code::Refused, "PostgreSQL would keep its log for a replication slot until its disk is full")
            .cause("max_slot_wal_keep_size is -1: when nobody receives, the server stops for want of room")
            .safe(NOTHING_LOST)
            .next_step(
                "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf(); or follow with --unbounded",
            )
    }

    fn lost(&self) -> Failure {
        let (source, slot) = (&self.source, &self.slot);
        Failure::new(Code::Refused, format!("PostgreSQL has removed log of {source} that slot {slot} was to keep"))
            .cause("the slot is lost: more was written than max_slot_wal_keep_size allows while nobody received it")
            .safe("what was archived before is untouched; the moments since then are lost, unless the archiver shipped them")
            .next_step(format!(
                "SELECT pg_drop_replication_slot('{slot}'); then recoup archive follow {source} --create-slot, and \
                 recoup backup {source} --full at once: from that snapshot on there are moments again"
            ))
    }

    /// Begins to receive into a directory. `scratch` is a new path for what the program says. Blocks for a moment.
    pub fn start(&self, directory: &Path, scratch: &Path) -> Result<Receiving, Failure> {
        let programs = Programs::find(&self.data_dir, self.bin_dir.as_deref(), &Halt::new());
        let program = programs.and_then(|programs| programs.required(PROGRAM));
        let program = program.map_err(|failure| failure.safe(NOTHING_LOST))?;
        let arguments: Vec<OsString> = vec![
            "-D".into(),
            directory.into(),
            format!("--slot={}", self.slot).into(),
            "--no-password".into(),
            "--no-loop".into(),
            "-d".into(),
            self.server.address(&self.data_dir).conninfo(APPLICATION).into(),
        ];
        let made = world::files::create_private_directories(scratch);
        let started = made.and_then(|()| Kept::start_with(&program, &arguments, &client_environment(), scratch));
        let kept = started.map_err(|error| {
            Failure::new(Code::Failed, format!("cannot start {}", program.display())).cause(error).safe(NOTHING_LOST)
        })?;
        Ok(Receiving { kept })
    }

    /// The program ended before it received anything.
    pub fn not_given(&self, said: &str) -> Failure {
        let failure = failures::unfit(format!("PostgreSQL does not give the log of {}", self.source)).cause(said);
        let role = self.server.role();
        if said.contains("pg_hba.conf") {
            return failure.next_step(format!(
                "allow it in pg_hba.conf: local replication {role} peer (or host replication {role} ADDRESS \
                 scram-sha-256), then SELECT pg_reload_conf()"
            ));
        }
        failure.next_step("see the server's log; recoup-source-postgres(7) lists what following needs")
    }
}

/// The program that receives. It ends with us, and when this is dropped.
pub struct Receiving {
    kept: Kept,
}

impl Receiving {
    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.kept.has_ended()
    }

    /// What it said last.
    pub fn said(&self) -> String {
        let words = last_words(&read_end(&self.kept.log(), SAID_BYTES_MAX));
        words.unwrap_or_else(|| format!("{PROGRAM} ended and said nothing"))
    }

    /// Asks it to end in order, for at most `limit`. Blocks.
    pub fn end(mut self, limit: Duration) {
        self.kept.end(KeptSignal::Interrupt, limit);
    }
}

/// The first complaint in what the program said, from which the others follow; else its last line.
fn last_words(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.clone().find(|line| line.contains("error:")).or_else(|| lines.next_back())?;
    let line = line.strip_prefix("pg_receivewal: ").unwrap_or(line);
    Some(line.strip_prefix("error: ").unwrap_or(line).chars().take(SAID_CHARACTERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_slots() {
        let source = |name: &str| SlotName::of_source(&name.parse().unwrap()).to_string();
        assert_eq!(source("ledger-eu"), "recoup_ledger_eu");
        assert_eq!(source(&"x".repeat(63)).len(), SLOT_BYTES_MAX);
        assert!(source("ledger").parse::<SlotName>().is_ok());
        for bad in ["", "Ledger", "a b", "a-b", "é", &"x".repeat(64)] {
            assert!(bad.parse::<SlotName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_program_says() {
        for (text, words) in [
            ("", None),
            (
                "pg_receivewal: error: connection failed: FATAL: x\npg_receivewal: error: disconnected\n",
                Some("connection failed: FATAL: x"),
            ),
            ("\nall is well\n\n", Some("all is well")),
        ] {
            assert_eq!(last_words(text).as_deref(), words, "{text}");
        }
    }
}
