//! What can go wrong with a store, in the few kinds that the caller acts on.

use super::operations::Stopped;
use crate::core::failure::{Code, Failure};
use std::{error::Error, fmt, io};

/// An operation on a store that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// The store's name.
    pub store: String,
    /// The object, or the prefix of the listing.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no such object.
    Missing,
    /// There is one, and it holds other bytes.
    Exists,
    /// There is no room for it.
    Full(String),
    /// The store answers, and refuses.
    Denied(String),
    /// The store does not answer, or not sensibly.
    Unreachable(String),
    /// The object cannot be what was asked for: too short, too long, or unreadable.
    Damaged(String),
    /// No object can have this key: a bug, or a hostile name.
    InvalidKey,
}

impl StoreError {
    /// Whether the store answered that there is no such object.
    pub fn is_missing(&self) -> bool {
        self.problem == Problem::Missing
    }

    /// Whether the object, and not the store, is the trouble: another store may have it right.
    pub fn is_about_the_object(&self) -> bool {
        matches!(self.problem, Problem::Missing | Problem::Exists | Problem::Damaged(_))
    }

    /// The same for the person or the script that waits for an answer.
    pub fn failure(&self) -> Failure {
        let StoreError { store, key, problem } = self;
        let untouched = "what was acknowledged before is not touched";
        let (code, message, cause) = match problem {
            Problem::Missing => (Code::Damaged, format!("store {store}: {key:?} is missing"), None),
            Problem::Exists => (
                Code::Refused,
                format!("store {store}: {key:?} exists with other content; it is never overwritten"),
                None,
            ),
            Problem::Full(cause) => (Code::Store, format!("store {store}: no room for {key:?}"), Some(cause)),
            Problem::Denied(cause) => (Code::Store, format!("store {store}: refused access to {key:?}"), Some(cause)),
            Problem::Unreachable(cause) => {
                (Code::Store, format!("store {store}: not reachable for {key:?}"), Some(cause))
            }
            Problem::Damaged(cause) => (Code::Damaged, format!("store {store}: {key:?} is damaged"), Some(cause)),
            Problem::InvalidKey => {
                (Code::Damaged, format!("store {store}: {key:?} is no name that an object can have"), None)
            }
        };
        let next_step = match problem {
            Problem::Missing | Problem::Damaged(_) => "recoup copy heals it from a store that has it right",
            Problem::Exists | Problem::InvalidKey => "recoup verify --all shows what the stores hold",
            Problem::Full(_) => "make room on the store, then run the same command again, or recoup copy",
            Problem::Denied(_) => {
                "give the user that runs recoup access to the store, then run the same command again; what stands in a \
                 folder's place is moved aside by recoup copy"
            }
            Problem::Unreachable(_) => "bring the store back, then run the same command again, or recoup copy",
        };
        let failure = Failure::new(code, message).safe(untouched).next_step(next_step);
        match cause {
            Some(cause) => failure.cause(cause),
            None => failure,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(formatter)
    }
}

impl Error for StoreError {}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        error.failure()
    }
}

/// What a failed attempt says about the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Missing,
    Exists,
    Full(String),
    Denied(String),
    /// The backend cannot do this at all.
    Unsupported(String),
    /// The object is there and cannot be right.
    Damaged(String),
    /// The medium gave an error for this object: the object's trouble if the store is otherwise well.
    Unreadable(String),
    /// Trying again is no use.
    Gone(String),
    /// There was no answer in time; it may have been done.
    Hung(String),
    /// Nobody answers at its address; it may pass.
    Silent(String),
    /// Anything else: it may pass, and it may have been done.
    Passing(String),
}

impl Trouble {
    /// Looks through an error and what caused it for the one thing that decides.
    pub(super) fn of(error: &object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => return Trouble::Missing,
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                return Trouble::Exists;
            }
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                return Trouble::Unsupported(error.to_string());
            }
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                return Trouble::Denied(cause_of(error));
            }
            object_store::Error::InvalidPath { .. }
            | object_store::Error::JoinError { .. }
            | object_store::Error::UnknownConfigurationKey { .. } => return Trouble::Gone(error.to_string()),
            _ => {}
        }
        if let Some(trouble) = super::s3::trouble_in(error) {
            return trouble;
        }
        let mut source: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(current) = source {
            if current.is::<RootGone>() || current.is::<super::absent::Unopened>() || current.is::<Stopped>() {
                return Trouble::Gone(current.to_string());
            }
            if let Some(io) = current.downcast_ref::<io::Error>() {
                return Trouble::of_io(io, cause_of(error));
            }
            source = current.source();
        }
        Trouble::Passing(error.to_string())
    }

    fn of_io(error: &io::Error, cause: String) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Trouble::Full(cause),
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::NotADirectory | Kind::IsADirectory => {
                Trouble::Denied(cause)
            }
            Kind::UnexpectedEof => Trouble::Damaged(cause),
            _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Trouble::Unreadable(cause),
            _ => Trouble::Passing(cause),
        }
    }

    /// Whether the same attempt may succeed a little later. Who hung once is not waited for again.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Trouble::Passing(_) | Trouble::Unreadable(_) | Trouble::Silent(_))
    }
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Missing => Problem::Missing,
            Trouble::Exists => Problem::Exists,
            Trouble::Full(cause) => Problem::Full(cause),
            Trouble::Denied(cause) => Problem::Denied(cause),
            Trouble::Damaged(cause) => Problem::Damaged(cause),
            Trouble::Unsupported(cause)
            | Trouble::Unreadable(cause)
            | Trouble::Gone(cause)
            | Trouble::Hung(cause)
            | Trouble::Silent(cause)
            | Trouble::Passing(cause) => Problem::Unreachable(cause),
        }
    }
}

/// The file's own words where a file is the cause: object_store puts its own around them.
fn cause_of(error: &object_store::Error) -> String {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(file) = current.downcast_ref::<FileError>() {
            return file.to_string();
        }
        source = current.source();
    }
    error.to_string()
}

/// An operating system error, with the file it is about.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub(super) struct FileError {
    pub(super) path: String,
    pub(super) source: io::Error,
}

/// The directory of a store is not what it was when the store was opened (unmounted, removed or replaced), or cannot
/// hold a repository. Trying again is no use.
#[derive(Debug, thiserror::Error)]
#[error("the directory {path} {what}")]
pub(super) struct RootGone {
    pub(super) path: String,
    pub(super) what: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn generic(source: impl Into<Box<dyn Error + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: source.into() }
    }

    #[test]
    fn errors_are_sorted_by_what_to_do() {
        type Expected = fn(&Trouble) -> bool;
        let cases: [(Errno, Expected); 9] = [
            (Errno::NOSPC, |trouble| matches!(trouble, Trouble::Full(_))),
            (Errno::DQUOT, |trouble| matches!(trouble, Trouble::Full(_))),
            (Errno::FBIG, |trouble| matches!(trouble, Trouble::Full(_))),
            (Errno::ACCESS, |trouble| matches!(trouble, Trouble::Denied(_))),
            (Errno::PERM, |trouble| matches!(trouble, Trouble::Denied(_))),
            (Errno::ROFS, |trouble| matches!(trouble, Trouble::Denied(_))),
            (Errno::IO, |trouble| matches!(trouble, Trouble::Unreadable(_))),
            (Errno::TIMEDOUT, |trouble| matches!(trouble, Trouble::Passing(_))),
            (Errno::STALE, |trouble| matches!(trouble, Trouble::Passing(_))),
        ];
        for (errno, expected) in cases {
            let io = || io::Error::from_raw_os_error(errno.raw_os_error());
            let direct = Trouble::of(&generic(io()));
            assert!(expected(&direct), "{errno:?}: {direct:?}");
            let wrapped = Trouble::of(&generic(FileError { path: "/mnt/a/x".to_owned(), source: io() }));
            assert!(expected(&wrapped), "{errno:?}: {wrapped:?}");
            let text = format!("{:?}", Problem::from(wrapped));
            assert!(text.contains("/mnt/a/x: "), "{text}");
            let deep =
                Trouble::of(&generic(io::Error::other(generic(FileError { path: String::new(), source: io() }))));
            assert!(matches!(deep, Trouble::Passing(_)) || expected(&deep), "{errno:?}: {deep:?}");
        }
        let gone = Trouble::of(&generic(RootGone { path: "/mnt/a".to_owned(), what: "is gone" }));
        assert_eq!(gone, Trouble::Gone("the directory /mnt/a is gone".to_owned()));
        assert!(!gone.may_pass());
        assert!(Trouble::of(&generic("connection reset")).may_pass());
    }

    #[test]
    fn failures_say_all_four() {
        let problems = [
            (Problem::Missing, Code::Damaged),
            (Problem::Exists, Code::Refused),
            (Problem::Full("why".into()), Code::Store),
            (Problem::Denied("why".into()), Code::Store),
            (Problem::Unreachable("why".into()), Code::Store),
            (Problem::Damaged("why".into()), Code::Damaged),
            (Problem::InvalidKey, Code::Damaged),
        ];
        for (problem, code) in problems {
            let error = StoreError { store: "frankfurt".into(), key: "a/b".into(), problem };
            let failure = error.failure();
            assert_eq!(failure.code, code);
            assert!(failure.message.contains("frankfurt") && failure.message.contains("a/b"), "{failure}");
            assert!(failure.safe.is_some() && failure.next_step.is_some());
        }
    }
}
