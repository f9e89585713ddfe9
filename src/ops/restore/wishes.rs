//! What may be asked of a restored PostgreSQL server beside its target.

use super::{LogAccess, RestoreRequest};
use crate::core::{
    failure::{Code, Failure},
    target::{Target, Timeline},
};
use std::path::PathBuf;

/// A standby instead of a server of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standby {
    /// How it reaches its primary; without it, it follows the archive alone.
    pub primary_conninfo: Option<String>,
}

/// A tablespace that goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespacePlace {
    /// Its name or its number.
    pub tablespace: String,
    /// A directory of its own, outside of the target.
    pub directory: PathBuf,
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerWishes {
    /// To become a standby.
    pub standby: Option<Standby>,
    /// Tablespaces that do not stay inside of the target.
    pub tablespaces: Vec<TablespacePlace>,
    /// To write over the files of the same system, only where they differ.
    pub delta: bool,
    /// Which timeline the log is followed along.
    pub timeline: Timeline,
}

impl ServerWishes {
    /// The first of the flags that only make sense for a server.
    fn flag(&self) -> Option<&'static str> {
        match self {
            ServerWishes { standby: Some(_), .. } => Some("--standby"),
            ServerWishes { delta: true, .. } => Some("--delta"),
            ServerWishes { timeline: Timeline::Current | Timeline::Number(_), .. } => Some("--timeline"),
            ServerWishes { tablespaces, .. } => (!tablespaces.is_empty()).then_some("--tablespace"),
        }
    }
}

/// Refuses wishes that contradict each other, before anything is read.
pub(super) fn check(request: &RestoreRequest) -> Result<(), Failure> {
    let Some(standby) = &request.server.standby else { return Ok(()) };
    let wrong = |message: &str, next_step: &str| {
        Err(Failure::new(Code::Usage, message).safe("nothing was read or written").next_step(next_step))
    };
    if request.target != Target::Latest {
        let message = format!("a standby follows its primary: it cannot stop at {}", request.target);
        return wrong(&message, "leave out --target, or leave out --standby");
    }
    if standby.primary_conninfo.as_deref().is_some_and(has_password) {
        return wrong(
            "a password must not stand in --primary-conninfo",
            "put it into a password file of the server's user, and name that with passfile= where it is not ~/.pgpass",
        );
    }
    if standby.primary_conninfo.is_none() && request.log_access == LogAccess::Beforehand {
        return wrong(
            "the standby would have nothing to follow",
            "name its primary with --primary-conninfo, or let it read the archive: the identity in a file, no --fetch-log",
        );
    }
    Ok(())
}

/// Refuses wishes that a source of another kind cannot meet.
pub(super) fn check_kind(request: &RestoreRequest, has_log: bool) -> Result<(), Failure> {
    match request.server.flag().filter(|_| !has_log) {
        None => Ok(()),
        Some(flag) => Err(Failure::new(Code::Usage, format!("{flag} is for sources of kind postgres"))
            .cause(format!("{} is of another kind", request.source))
            .safe("nothing was written")
            .next_step(format!("leave out {flag}"))),
    }
}

/// Refuses to write over what is there unless the source was named once more.
pub(super) fn check_confirmed(request: &RestoreRequest) -> Result<(), Failure> {
    let (to, source) = (request.to.display(), &request.source);
    if !request.server.delta || request.confirmed {
        return Ok(());
    }
    Err(Failure::new(Code::Refused, format!("will not restore over {to} unasked"))
        .cause("what is in it now is lost, its log that was never archived included")
        .safe("nothing was written")
        .next_step(format!("if nobody needs it any more, add --confirm={source}")))
}

/// Whether a connection string has a password in it, in either of its two forms.
fn has_password(conninfo: &str) -> bool {
    let lower = conninfo.to_ascii_lowercase();
    let of_uri = lower.split_once("://").and_then(|(_, rest)| rest.split(['/', '?']).next()?.rsplit_once('@'));
    let keys = lower.match_indices("password").any(|(at, key)| {
        let before = lower[..at].chars().next_back();
        let after = lower[at + key.len()..].trim_start();
        before.is_none_or(|before| !before.is_ascii_alphanumeric() && before != '_') && after.starts_with('=')
    });
    keys || of_uri.is_some_and(|(user, _)| user.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_seen() {
        for text in [
            "host=a password=x",
            "PASSWORD = x",
            "host=a passfile=/x password='y'",
            "postgresql://a:b@host/db",
            "postgresql://host/db?password=x",
        ] {
            assert!(has_password(text), "{text}");
        }
        for text in ["host=a user=b", "host=a passfile=/p", "host=password user=password", "postgres://a@host:5432/db"]
        {
            assert!(!has_password(text), "{text}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let request = |target: &str, conninfo: Option<&str>, log_access: LogAccess| {
            let mut request =
                RestoreRequest::new("ledger".parse().unwrap(), target.parse().unwrap(), PathBuf::from("/x"));
            request.log_access = log_access;
            request.server.standby = Some(Standby { primary_conninfo: conninfo.map(str::to_owned) });
            request
        };
        let command = || LogAccess::Command("recoup".to_owned());
        for (target, conninfo, access, is_right) in [
            ("latest", None, command(), true),
            ("latest", Some("host=a"), LogAccess::Beforehand, true),
            ("latest", None, LogAccess::Beforehand, false),
            ("latest", Some("password=a"), command(), false),
            ("immediate", None, command(), false),
        ] {
            let checked = check(&request(target, conninfo, access));
            assert_eq!(checked.is_ok(), is_right, "{target} {conninfo:?}");
            assert!(checked.err().is_none_or(|failure| failure.code == Code::Usage && failure.next_step.is_some()));
        }
        assert!(check_kind(&request("latest", None, command()), true).is_ok());
        assert_eq!(check_kind(&request("latest", None, command()), false).unwrap_err().code, Code::Usage);
    }
}
