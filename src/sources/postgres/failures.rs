//! What can be wrong with a server or its data directory, as messages.

use crate::core::failure::{Code, Failure};
use std::{fmt, io, path::Path};

const NOTHING_TOUCHED: &str = "the server goes on undisturbed; earlier snapshots are not affected";

/// The server or its data directory is not fit for a snapshot.
pub(super) fn unfit(message: impl Into<String>) -> Failure {
    Failure::new(Code::Source, message).safe(NOTHING_TOUCHED)
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let failure = unfit(format!("{} cannot be read", path.display())).cause(error);
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            failure.next_step("run recoup as the user who owns the data directory, usually postgres")
        }
        _ => failure.next_step("check data_dir of the source in recoup.toml, and that its file system is mounted"),
    }
}

/// The server does not answer, or does not let us in.
pub(super) fn no_connection(server: &str, cause: impl fmt::Display) -> Failure {
    let cause = cause.to_string();
    let next_step = if cause.contains("password") || cause.contains("authentication") {
        "put the password into ~/.pgpass (mode 0600), or allow peer authentication for this user in pg_hba.conf"
    } else if cause.contains("role") {
        "create the role, or name another one with user= in the url of the source"
    } else {
        "start the server, or correct the url of the source in recoup.toml"
    };
    unfit(format!("PostgreSQL at {server} does not answer")).cause(cause).next_step(next_step)
}

/// A statement failed.
pub(super) fn statement(what: &str, cause: impl fmt::Display) -> Failure {
    unfit(format!("PostgreSQL refused to {what}"))
        .cause(cause)
        .next_step("see the server's log; recoup-source-postgres(7) lists what the role must be granted")
}

pub(super) fn no_privilege(role: &str, cause: impl fmt::Display) -> Failure {
    unfit(format!("role {role} may not take backups")).cause(cause).next_step(format!(
        "as a superuser: GRANT pg_monitor TO {role}; GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), \
         pg_backup_stop(boolean), pg_switch_wal() TO {role};"
    ))
}

/// The session ended, and the server's side of the copy with it.
pub(super) fn session_lost(cause: impl fmt::Display) -> Failure {
    unfit("the session with PostgreSQL ended while the files were copied")
        .cause(cause)
        .next_step("see the server's log, then run the same command again")
}
