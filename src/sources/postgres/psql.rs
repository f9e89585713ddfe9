//! SQL by the server's own `psql`, over the socket of a private server.

use super::{address::quoted, programs::Programs, server::PORT};
use crate::world::programs::{Ended, Halt, NotEnded, Program};
use std::{ffi::OsString, path::Path, time::Duration};

/// How long a question of our own may take.
const QUICK: Duration = Duration::from_secs(60);
/// How much of its answer is read.
const QUICK_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// How much longer the program may take than the server allows its statement.
const MARGIN: Duration = Duration::from_secs(10);
/// What separates the cells of a row.
pub(super) const SEPARATOR: char = '\t';

/// What is asked of a private server, and as whom.
pub(super) struct Psql<'a> {
    /// The programs.
    pub(super) programs: &'a Programs,
    /// The directory of the server's socket.
    pub(super) socket_dir: &'a Path,
    /// The role.
    pub(super) user: &'a str,
    /// Who may want it to end.
    pub(super) halt: &'a Halt,
}

impl Psql<'_> {
    /// Asks a question of our own; returns the rows, each with its cells.
    pub(super) fn ask(&self, database: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let ended = self.run(database, &[sql], QUICK, QUICK_OUTPUT_BYTES_MAX).map_err(|error| error.to_string())?;
        if ended.code != Some(0) {
            return Err(complaint(&ended));
        }
        let text = String::from_utf8_lossy(&ended.stdout);
        Ok(text.lines().map(|line| line.split(SEPARATOR).map(str::to_owned).collect()).collect())
    }

    /// Runs commands in one read-only session, each a message of its own, until the first that fails.
    pub(super) fn run(
        &self,
        database: &str,
        commands: &[&str],
        limit: Duration,
        output_bytes_max: usize,
    ) -> Result<Ended, NotEnded> {
        let Some(path) = self.programs.path("psql") else {
            return Err(NotEnded::Broken(std::io::ErrorKind::NotFound.into()));
        };
        let mut arguments: Vec<OsString> =
            ["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password"].map(OsString::from).into();
        arguments.push(format!("--field-separator={SEPARATOR}").into());
        arguments.push("--set=ON_ERROR_STOP=1".into());
        // psql's own VERBOSITY: what went wrong, without hints to somebody at a terminal.
        arguments.push("--set=VERBOSITY=terse".into());
        arguments.push(format!("--dbname={}", self.conninfo(database)).into());
        for command in commands {
            // One that began with a backslash would be for psql itself.
            arguments.push(format!("--command=\n{command}").into());
        }
        let options = format!(
            "-c default_transaction_read_only=on -c statement_timeout={} -c lock_timeout=0 \
             -c standard_conforming_strings=on -c client_min_messages=error -c client_encoding=UTF8",
            limit.as_millis()
        );
        let program = Program {
            path,
            arguments,
            environment: environment(options),
            limit: limit.saturating_add(MARGIN),
            output_bytes_max,
        };
        program.run(self.halt)
    }

    /// How a database is reached.
    pub(super) fn conninfo(&self, database: &str) -> String {
        format!(
            "host={} port={PORT} user={} dbname={} connect_timeout=30 application_name=recoup",
            quoted(&self.socket_dir.to_string_lossy()),
            quoted(self.user),
            quoted(database)
        )
    }
}

/// The environment of a client: nothing of the operator's own settings.
pub(super) fn environment(options: String) -> Vec<(&'static str, OsString)> {
    // A file that cannot be there.
    vec![("PGOPTIONS", options.into()), ("PGPASSFILE", "/dev/null/none".into())]
}

/// What a client said when it failed, without its own name in front.
pub(super) fn complaint(ended: &Ended) -> String {
    let said = ended.complaint();
    let lines: Vec<&str> =
        said.lines().take(5).map(|line| line.strip_prefix("psql: error: ").unwrap_or(line)).collect();
    let text = lines.join(" ");
    let text = text.strip_prefix("ERROR:  ").unwrap_or(&text);
    text.chars().take(400).collect()
}
