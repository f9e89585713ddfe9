//! What a run has to work with: the repository, the host's keys, its state directory.

use crate::{
    core::{
        failure::{Code, Failure},
        id::SourceName,
        policy::Policy,
    },
    format::{
        seal::{Identities, Recipients},
        signature::HostKey,
    },
    repository::Repository,
    sources::Source,
    world::World,
};
use std::{path::PathBuf, sync::Arc};

/// Everything a use case on a configured host needs.
#[derive(Clone)]
pub struct Host {
    /// Clock and randomness.
    pub world: World,
    /// The repository on its stores.
    pub repository: Repository,
    /// Local state; its owner is the one user who runs this configuration.
    pub state_dir: PathBuf,
    /// Signs inventories.
    pub key: Arc<HostKey>,
    /// The custodians' public keys.
    pub recipients: Recipients,
    /// The host's own key to manifests and indexes.
    pub catalogue_key: Option<Arc<CatalogueKey>>,
    /// zstd level of packs.
    pub compression_level: i32,
    /// Bytes of sealed packs that may wait on disk for slow stores.
    pub spool_limit_bytes: u64,
    /// Effective configuration and policies as text, without secrets.
    pub configuration: String,
}

/// Opens manifests and indexes, nothing else.
pub struct CatalogueKey {
    /// The identity.
    pub identities: Identities,
    /// Its recipient.
    pub recipients: Recipients,
    /// The text of its file, which every manifest root carries.
    pub text: String,
}

/// A source as a run sees it.
#[derive(Clone)]
pub struct Protected {
    /// Its name.
    pub name: SourceName,
    /// The database or directory.
    pub source: Arc<dyn Source>,
    /// What is promised for it.
    pub policy: Policy,
}

impl Host {
    /// The folder of a source's local state.
    pub fn source_state_dir(&self, source: &SourceName) -> PathBuf {
        self.state_dir.join("sources").join(source.as_str())
    }
}

/// The failure of a file operation on local state.
pub(crate) fn state_failure(what: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::Failed, format!("cannot {what} {}", path.display()))
        .cause(error)
        .safe("snapshots that were acknowledged are unaffected")
        .next_step("check free space and permissions of the state directory, then run the same command again")
}
