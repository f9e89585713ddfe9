//! A view of a database that a logical replication slot exports, with the place in the log that it belongs to. Nobody is
//! kept from writing for it.
//!
//! Only the replication protocol exports one. The server's own `psql` speaks it, and keeps the view as long as it waits for
//! more commands: it reads them from a pipe.

use super::{
    Server,
    address::{client_environment, quoted},
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
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How long a slot may take to become consistent: it waits for every transaction that is running when it is made.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
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
    // Without more commands the program ends, and the slot goes with it, and with that the view. So these come first.
    #[expect(dead_code, reason = "dropped before the program is waited for")]
    commands: File,
    #[expect(dead_code, reason = "waited for when it is dropped")]
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
        let pipe = scratch.join("commands");
        let started = pipe_for(&pipe).and_then(|commands| {
            Ok((commands, Kept::start_with(&program, &self.arguments(&pipe), &client_environment(), &scratch)?))
        });
        let (mut commands, mut kept) = started.map_err(|error| {
            drop(fs::remove_dir_all(&scratch));
            format!("cannot start {}: {error}", program.display())
        })?;
        commands.write_all(create_slot().as_bytes()).map_err(|error| format!("{}: {error}", pipe.display()))?;
        let watch = Stopwatch::start();
        loop {
            // Looked at first: what an ended program has said is complete then.
            let has_ended = kept.has_ended();
            let printed = read_end(&kept.log(), OUTPUT_BYTES_MAX);
            if let Some((at, name)) = answer(&printed) {
                return Ok(Exported { at, name, commands, kept });
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

    fn scratch(&self) -> io::Result<PathBuf> {
        world::files::create_private_directories(self.scratch_dir)?;
        // Its keeper removes it.
        Ok(tempfile::Builder::new().prefix("slot-").tempdir_in(self.scratch_dir)?.keep())
    }

    fn arguments(&self, commands: &Path) -> Vec<OsString> {
        let conninfo = self.server.address(self.data_dir).conninfo("recoup");
        let conninfo = format!("{conninfo} dbname={} replication=database", quoted(self.database));
        let options = ["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password", "--field-separator=|"];
        let mut arguments: Vec<OsString> = options.map(OsString::from).into();
        arguments.extend(["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"].map(OsString::from));
        arguments.push(format!("--dbname={conninfo}").into());
        arguments.extend(["--file".into(), commands.into()]);
        arguments
    }
}

/// A slot of no other session's name, and gone with its session. The second command does nothing: before it the program
/// prints what it has to say.
fn create_slot() -> String {
    let slot = format!("recoup_fingerprints_{}", std::process::id());
    format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT;\n\\! :\n")
}

/// A pipe with a name, opened both ways: so nobody waits for whoever reads from it.
fn pipe_for(path: &Path) -> io::Result<File> {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o600))?;
    File::options().read(true).write(true).open(path)
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
