//! A view of a database that a logical replication slot exports, with the place in the log that it belongs to. Nobody is
//! kept from writing for it.
//!
//! Only the replication protocol exports one. The server's own `psql` speaks it, and keeps the view as long as it lives.

use super::{
    Server,
    address::Address,
    programs::Programs,
    server::read_end,
    session::{Session, said},
};
use crate::{
    core::log::Lsn,
    world::{
        self, Stopwatch,
        programs::{Halt, Kept, KeptSignal},
    },
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How long a slot may take to become consistent: it waits for every transaction that is running when it is made.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// How long the view may be taken over.
const KEPT_SECONDS: u32 = 60;
const PROGRAM: &str = "psql";
const OUTPUT_BYTES_MAX: u64 = 16 * 1024;

/// Where a view is exported.
pub(super) struct Exporter<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) server: &'a Server,
    pub(super) database: &'a str,
    /// Where the server's programs lie.
    pub(super) bin_dir: Option<&'a Path>,
    /// Where a new directory may be made for what the program says.
    pub(super) scratch_dir: &'a Path,
}

/// A view that a session can take over as long as this lives.
pub(super) struct Exported {
    /// What was committed before it is in the view, and nothing else.
    pub(super) at: Lsn,
    /// Its name for `SET TRANSACTION SNAPSHOT`.
    pub(super) name: String,
    #[expect(dead_code, reason = "the slot goes when this is dropped, and with it the view")]
    kept: Kept,
}

/// Whether the server's log says enough for logical slots.
pub(super) fn is_offered(session: &Session) -> Result<bool, String> {
    let rows = session.rows("SELECT current_setting('wal_level') = 'logical'").map_err(|error| said(&error))?;
    Ok(rows.first().is_some_and(|row| row.try_get(0).unwrap_or_default()))
}

impl Exporter<'_> {
    /// Makes a temporary slot, and waits until its view is there.
    pub(super) fn export(&self) -> Result<Exported, String> {
        let programs = Programs::find(self.data_dir, self.bin_dir, &Halt::new());
        let program =
            programs.and_then(|programs| programs.required(PROGRAM)).map_err(|failure| failure.to_string())?;
        let scratch = self.scratch().map_err(|error| format!("{}: {error}", self.scratch_dir.display()))?;
        let kept = Kept::start_with(&program, &self.arguments(), &environment(), &scratch);
        let mut kept = kept.map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let watch = Stopwatch::start();
        loop {
            // Looked at first: what an ended program has said is complete then.
            let has_ended = kept.has_ended();
            let printed = read_end(&kept.log(), OUTPUT_BYTES_MAX);
            if let Some((at, name)) = answer(&printed) {
                return Ok(Exported { at, name, kept });
            }
            if has_ended {
                let words = printed.trim().chars().take(400).collect::<String>();
                return Err(if words.is_empty() { format!("{PROGRAM} ended and said nothing") } else { words });
            }
            if watch.elapsed() > PATIENCE {
                kept.end(KeptSignal::Interrupt, PATIENCE);
                return Err(format!("transactions that were running did not end within {} s", PATIENCE.as_secs()));
            }
            thread::sleep(POLL);
        }
    }

    fn scratch(&self) -> std::io::Result<PathBuf> {
        world::files::create_private_directories(self.scratch_dir)?;
        // Its keeper removes it.
        Ok(tempfile::Builder::new().prefix("slot-").tempdir_in(self.scratch_dir)?.keep())
    }

    fn arguments(&self) -> Vec<OsString> {
        let Address { host, port, role } = self.server.address(self.data_dir);
        let quoted = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
        let (host, user, name) = (quoted(&host), quoted(&role), quoted(self.database));
        let conninfo = format!(
            "host={host} port={port} user={user} dbname={name} replication=database connect_timeout=10 \
             application_name=recoup"
        );
        // Of no other session's name, and gone with its session.
        let slot = format!("recoup_fingerprints_{}", std::process::id());
        let create = format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
        let wait = format!(r"\! exec sleep {KEPT_SECONDS}");
        let options = ["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password", "--field-separator=|"];
        let mut arguments: Vec<OsString> = options.map(OsString::from).into();
        arguments.extend(["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"].map(OsString::from));
        arguments.push(format!("--dbname={conninfo}").into());
        arguments.extend([create, wait].map(|command| OsString::from(format!("--command={command}"))));
        arguments
    }
}

/// A password is found as the operator's own programs find it.
fn environment() -> Vec<(&'static str, OsString)> {
    let names = ["HOME", "PGPASSFILE", "PGPASSWORD"];
    names.into_iter().filter_map(|name| Some((name, world::environment(name)?.into()))).collect()
}

/// The place and the name, once the whole line is there: slot, place, name, plugin.
fn answer(printed: &str) -> Option<(Lsn, String)> {
    let line = printed.split_inclusive('\n').find(|line| line.ends_with('\n') && line.contains("|pgoutput"))?;
    let mut cells = line.trim_end().split('|').skip(1);
    let (at, name) = (cells.next()?.parse().ok()?, cells.next()?);
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_plain.then(|| (at, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_counts() {
        let line = "recoup_fingerprints_1|0/1A2B3C8|00000003-0000001B-1|pgoutput";
        let expected = Some((Lsn(0x1A2_B3C8), "00000003-0000001B-1".to_owned()));
        assert_eq!(answer(&format!("{line}\n")), expected);
        assert_eq!(answer(&format!("WARNING: something\n{line}\n")), expected);
        for bad in [line, "", "slot|0/1|'; DROP|pgoutput\n", "slot|nowhere|0-1|pgoutput\n", "slot|0/1||pgoutput\n"] {
            assert_eq!(answer(bad), None, "{bad}");
        }
    }
}
