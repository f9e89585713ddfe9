//! The settings themselves.

use super::{
    LoadedPolicy, PostgresSettings, StoreUrl,
    parse::{BUSY_TIMEOUT_DEFAULT, LOG, MAX_READ_LOCK_DEFAULT, REREAD_EVERY_DEFAULT, format_bytes},
    postgres::ARCHIVE_WAIT_DEFAULT,
    write::quoted,
};
use crate::core::{
    id::{RepositoryId, SourceName},
    policy::{Place, Policy},
    s3,
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Everything `recoup.toml` and its policies say, defaults filled in, paths absolute where the file's path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The configuration file.
    pub file: PathBuf,
    /// The repository that every store must hold; `None` accepts whichever the stores hold.
    pub repository: Option<RepositoryId>,
    /// This host.
    pub host: Host,
    /// The custodians' public keys, as written. Whether they are keys is for the caller to say.
    pub recipients: Vec<String>,
    /// zstd's level.
    pub compression_level: i32,
    /// How many bytes of sealed packs may wait on disk for slow stores.
    pub spool_limit_bytes: u64,
    /// Where snapshots go, in the order of the file.
    pub stores: Vec<StoreSettings>,
    /// What is protected, in the order of the file.
    pub sources: Vec<SourceSettings>,
    /// The policies that sources name.
    pub policies: BTreeMap<String, LoadedPolicy>,
    /// Where each value came from.
    pub origins: Origins,
}

/// This host's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Local state; losing it loses no snapshot.
    pub state_dir: PathBuf,
    /// The OpenSSH key that signs inventories.
    pub signing_key: PathBuf,
    /// The identity that reads names and structure, never content.
    pub catalogue: PathBuf,
    /// Whose signatures are trusted.
    pub allowed_signers: PathBuf,
}

/// One store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Its name in every output.
    pub name: String,
    /// Where it is.
    pub url: StoreUrl,
    /// Who runs it.
    pub provider: Option<String>,
    /// Where it stands.
    pub region: Option<String>,
    /// Whether its path must lie on a device of its own.
    pub mounted: bool,
    /// How the bucket of an `s3://` store is reached.
    pub s3: s3::Options,
}

impl StoreSettings {
    /// A store of which only name and URL are said.
    pub fn new(name: impl Into<String>, url: StoreUrl) -> Self {
        let s3 = s3::Options::default();
        StoreSettings { name: name.into(), url, provider: None, region: None, mounted: false, s3 }
    }

    /// Whether both are the same place, or one lies inside the other, as far as their names say.
    pub fn overlaps(&self, other: &StoreSettings) -> bool {
        self.url.overlaps(&other.url) && self.s3.is_same_server(&other.s3)
    }
}

impl StoreSettings {
    /// What `--store` takes to name it.
    pub fn argument(&self) -> String {
        if self.name == self.url.as_str() { self.name.clone() } else { format!("{}={}", self.name, self.url) }
    }
}

/// One protected source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSettings {
    /// Its name.
    pub name: SourceName,
    /// Its kind, such as `sqlite`.
    pub kind: String,
    /// The policy it is kept by.
    pub policy: String,
    /// The database file, the directory of logs, or PostgreSQL's data directory; absolute.
    pub path: PathBuf,
    /// How long to wait for a read lock.
    pub busy_timeout: Duration,
    /// How long a lock that blocks writers may be held.
    pub max_read_lock: Duration,
    /// From which age on files of a log may be removed; `None` means never.
    pub expire_after: Option<Duration>,
    /// How long captured bytes of a log may go unread while nothing shows that they changed.
    pub reread_every: Duration,
    /// How PostgreSQL is reached, for sources of that kind.
    pub postgres: Option<PostgresSettings>,
}

impl SourceSettings {
    /// The key that names what is protected.
    pub(super) fn path_key(&self) -> &'static str {
        if self.postgres.is_some() { "data_dir" } else { "path" }
    }

    /// Keys of PostgreSQL besides durations, with their values as TOML writes them.
    pub(super) fn postgres_values(&self) -> Vec<(&'static str, String)> {
        let Some(postgres) = &self.postgres else { return Vec::new() };
        let mut values = vec![("url", quoted(&postgres.server.text()))];
        if let Some(bin_dir) = &postgres.bin_dir {
            values.push(("bin_dir", quoted(&bin_dir.to_string_lossy())));
        }
        if let Some(limit) = postgres.read_limit_bytes {
            values.push(("read_limit", quoted(&format_bytes(limit))));
        }
        if postgres.nice > 0 {
            values.push(("nice", postgres.nice.to_string()));
        }
        values
    }

    /// The durations that mean something for a source of this kind, by their keys; `None` where nobody set one that
    /// has no default. With what each is unless it is set.
    pub(super) fn durations(&self) -> Vec<(&'static str, Option<Duration>, Option<Duration>)> {
        if let Some(postgres) = &self.postgres {
            return vec![("archive_wait", Some(postgres.archive_wait), Some(ARCHIVE_WAIT_DEFAULT))];
        }
        if self.kind == LOG {
            return vec![
                ("expire_after", self.expire_after, None),
                ("reread_every", Some(self.reread_every), Some(REREAD_EVERY_DEFAULT)),
            ];
        }
        vec![
            ("busy_timeout", Some(self.busy_timeout), Some(BUSY_TIMEOUT_DEFAULT)),
            ("max_read_lock", Some(self.max_read_lock), Some(MAX_READ_LOCK_DEFAULT)),
        ]
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u32,
    },
    /// Nobody set it.
    Default,
    /// A policy that is built in.
    BuiltIn,
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line } => write!(formatter, "{}:{line}", file.display()),
            Origin::Default => formatter.write_str("default"),
            Origin::BuiltIn => formatter.write_str("built in"),
            Origin::Flag(flag) => formatter.write_str(flag),
        }
    }
}

/// Where each value came from, by its full key, such as `host.state_dir` or `store.frankfurt.url`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the value of a key came from.
    pub fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Notes where the value of a key came from.
    pub fn note(&mut self, key: String, origin: Origin) {
        self.0.insert(key, origin);
    }
}

impl Settings {
    /// The directory that holds the configuration and that relative paths are relative to.
    pub fn dir(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }

    /// A source by its name.
    pub fn source(&self, name: &str) -> Option<&SourceSettings> {
        self.sources.iter().find(|source| source.name.as_str() == name)
    }

    /// A store by its name.
    pub fn store(&self, name: &str) -> Option<&StoreSettings> {
        self.stores.iter().find(|store| store.name == name)
    }

    /// The policy that a source is kept by.
    pub fn policy(&self, source: &SourceSettings) -> &Policy {
        &self.policies.get(&source.policy).expect("every named policy was loaded with the settings").policy
    }

    /// Where the stores are and who runs them, for deciding what is durable.
    pub fn places(&self) -> BTreeMap<String, Place> {
        let place = |store: &StoreSettings| Place { region: store.region.clone(), provider: store.provider.clone() };
        self.stores.iter().map(|store| (store.name.clone(), place(store))).collect()
    }

    /// What an auditor would remark on, as far as the configuration alone shows it. None of it is an error.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.recipients.len() < 2 {
            remarks.push("one custodian: losing that identity loses every snapshot".to_owned());
        }
        if self.stores.len() < 2 {
            remarks.push("one store: losing it loses every snapshot".to_owned());
        }
        if self.sources.is_empty() {
            remarks.push("no source: nothing is protected yet".to_owned());
        }
        for source in &self.sources {
            let policy = self.policy(source);
            if policy.rpo.is_none() && policy.rto.is_none() {
                remarks
                    .push(format!("source {}: policy {:?} promises neither rpo nor rto", source.name, source.policy));
            }
        }
        remarks
    }
}
