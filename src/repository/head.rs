//! `recoup.json`: which repository a store holds.

use super::layout;
use crate::{
    core::{
        failure::{Code, Failure},
        id::RepositoryId,
        time::Timestamp,
    },
    stores::{Problem, Store, StoreError},
};
use serde::{Deserialize, Serialize};

/// The format version that this build reads and writes.
pub const FORMAT_VERSION: u32 = 1;
const MAX_BYTES: u64 = 64 * 1024;

/// The content of `recoup.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Major version of the repository's format.
    pub format_version: u32,
    /// The repository's id.
    pub repository: RepositoryId,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Head {
    /// The bytes of `recoup.json`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a head has no map");
        bytes.push(b'\n');
        bytes
    }
}

/// What a store turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreStatus {
    /// It holds this repository.
    Ready,
    /// It does not answer, or answers with errors.
    Down(String),
    /// It answers and holds no repository: a new disk, or an unmounted one.
    Empty,
    /// It holds another repository.
    Foreign(RepositoryId),
    /// It holds a repository of a newer format.
    Newer(u32),
    /// Its `recoup.json` cannot be read.
    Damaged(String),
}

impl StoreStatus {
    /// What to tell a person; `None` for a store that is ready.
    pub fn problem(&self) -> Option<String> {
        match self {
            StoreStatus::Ready => None,
            StoreStatus::Down(why) => Some(why.clone()),
            StoreStatus::Empty => Some("it answers but has no recoup.json (is the disk mounted?)".to_owned()),
            StoreStatus::Foreign(id) => Some(format!("it holds another repository ({id})")),
            StoreStatus::Newer(version) => {
                Some(format!("it has format version {version}; this recoup reads version {FORMAT_VERSION}"))
            }
            StoreStatus::Damaged(why) => Some(format!("its recoup.json is damaged: {why}")),
        }
    }

    /// The failure of a command for which this is the only store, or all stores are like it.
    pub fn failure(&self, store: &str) -> Failure {
        let failure = |code, message: String| Failure::new(code, message);
        match self {
            StoreStatus::Ready => Failure::internal("a store that is ready is no failure"),
            StoreStatus::Down(why) => failure(Code::Store, format!("store {store} cannot be reached"))
                .cause(why)
                .safe("what other stores hold is unaffected")
                .next_step("check the store, then run `recoup doctor`"),
            StoreStatus::Empty => failure(Code::NoRepository, format!("store {store} holds no repository"))
                .cause("it answers but has no recoup.json")
                .safe("nothing was written to it")
                .next_step("mount the disk if it is one; a new store is seeded by `recoup copy`, a new repository made by `recoup init`"),
            StoreStatus::Foreign(id) => failure(Code::Refused, format!("store {store} holds another repository"))
                .cause(format!("its recoup.json names {id}"))
                .safe("nothing was written to it")
                .next_step("correct the store's url in recoup.toml"),
            StoreStatus::Newer(version) => failure(Code::Failed, format!("store {store} has a newer format"))
                .cause(format!("format version {version}, this recoup reads version {FORMAT_VERSION}"))
                .safe("nothing was written to it")
                .next_step("use a newer recoup"),
            StoreStatus::Damaged(why) => failure(Code::Damaged, format!("recoup.json of store {store} is damaged"))
                .cause(why)
                .safe("snapshots are unaffected")
                .next_step("run `recoup copy` to heal it from the other stores"),
        }
    }
}

/// Reads `recoup.json` of a store.
pub async fn read(store: &Store) -> Result<Head, StoreStatus> {
    let bytes = match store.get(layout::REPOSITORY, MAX_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Err(StoreStatus::Empty),
        // Larger than any, or unreadable on a store that otherwise answers.
        Err(StoreError { problem: Problem::Damaged(why), .. }) => return Err(StoreStatus::Damaged(why)),
        Err(error) => return Err(StoreStatus::Down(error.to_string())),
    };
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let damaged = |error: serde_json::Error| StoreStatus::Damaged(error.to_string());
    let version: Version = serde_json::from_slice(&bytes).map_err(damaged)?;
    if version.format_version > FORMAT_VERSION {
        return Err(StoreStatus::Newer(version.format_version));
    }
    serde_json::from_slice(&bytes).map_err(damaged)
}

/// Whether a store holds the repository `id`.
pub async fn status(store: &Store, id: RepositoryId) -> StoreStatus {
    match read(store).await {
        Ok(head) if head.repository == id => StoreStatus::Ready,
        Ok(head) => StoreStatus::Foreign(head.repository),
        Err(status) => status,
    }
}
