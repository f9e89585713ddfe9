//! `recoup.json`: which repository a store holds.

use super::{chains::KnownChains, layout};
use crate::{
    core::{
        evidence::Action,
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
                .safe("nothing was written to it")
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
        Err(error) => return Err(StoreStatus::Down(reason(&error))),
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
    if version.format_version == 0 {
        return Err(StoreStatus::Damaged("there is no format version 0".to_owned()));
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

/// Why a store failed, for a line that has its name already.
pub fn reason(error: &StoreError) -> String {
    let named = format!("store {}: ", error.store);
    let bare = |text: &str| text.strip_prefix(&named).unwrap_or(text).to_owned();
    match &error.problem {
        Problem::Unreachable(why) => bare(why),
        Problem::Full(why) => format!("no room: {}", bare(why)),
        Problem::Denied(why) => format!("it refuses access: {}", bare(why)),
        _ => bare(&error.to_string()),
    }
}

/// What each of some stores is, with the head of those that are ready.
pub async fn survey(stores: &[Store], id: RepositoryId) -> Vec<Result<Head, StoreStatus>> {
    let of_one = |store| async move {
        match read(store).await {
            Ok(head) if head.repository != id => Err(StoreStatus::Foreign(head.repository)),
            other => other,
        }
    };
    futures_util::future::join_all(stores.iter().map(of_one)).await
}

/// The head that most of the stores have; the earliest of those that equally many have. Nobody signs a head.
pub fn majority(survey: &[Result<Head, StoreStatus>]) -> Option<Head> {
    let heads: Vec<&Head> = survey.iter().flatten().collect();
    let votes = |head: &Head| heads.iter().filter(|other| ***other == *head).count();
    let best = heads.iter().max_by_key(|head| (votes(head), std::cmp::Reverse(head.created_at)))?;
    Some((**best).clone())
}

impl super::Repository {
    /// The head that the stores should have. Nobody signs one, and whoever writes to one store of two could make a tie: so
    /// where they differ, the signed record of the founding says which is right, whichever most of the stores have.
    pub async fn right_head(&self, survey: &[Result<Head, StoreStatus>]) -> Option<Head> {
        let mut heads = survey.iter().flatten();
        let first = heads.next()?;
        if heads.all(|other| other == first) {
            return Some(first.clone());
        }
        let founded = self.founded_at().await;
        let is_right = |head: &&Head| head.format_version == FORMAT_VERSION && Some(head.created_at) == founded;
        survey.iter().flatten().find(is_right).cloned().or_else(|| majority(survey))
    }

    /// When the repository was founded, as the evidence says that stores show.
    async fn founded_at(&self) -> Option<Timestamp> {
        let followed = self.follow_evidence(&KnownChains::default()).await;
        let records = followed.records.iter().map(|signed| &signed.record);
        records.filter(|record| record.action == Action::Init).map(|record| record.started_at).min()
    }

    /// The failure of a command that none of the stores answered as it should.
    pub async fn none_usable(&self) -> Failure {
        let found = survey(&self.stores, self.id).await.into_iter();
        let of_store = |(store, found): (&Store, Result<Head, StoreStatus>)| {
            (store.name().to_owned(), found.err().unwrap_or(StoreStatus::Ready))
        };
        none_usable(&self.stores.iter().zip(found).map(of_store).collect::<Vec<_>>())
    }
}

/// The failure of a command that could use none of the stores: how each of them is.
pub fn none_usable(statuses: &[(String, StoreStatus)]) -> Failure {
    let mut failures: Vec<Failure> = statuses.iter().map(|(store, status)| status.failure(store)).collect();
    failures.sort_by_key(|failure| failure.code);
    let Some(mut first) = failures.into_iter().next() else { return Failure::new(Code::Usage, "no store is named") };
    if statuses.len() == 1 {
        return first;
    }
    if statuses.iter().all(|(_, status)| matches!(status, StoreStatus::Down(_))) {
        first.next_step = Some("bring the stores back, then run `recoup doctor`".to_owned());
    }
    let problem = |status: &StoreStatus| status.problem().unwrap_or_else(|| "it cannot be listed".to_owned());
    let each: Vec<String> =
        statuses.iter().map(|(store, status)| format!("store {store}: {}", problem(status))).collect();
    Failure {
        message: format!("none of the {} stores can be used", statuses.len()),
        cause: Some(each.join("; ")),
        safe: Some("nothing was written to any of them".to_owned()),
        ..first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_decides_and_the_earliest_breaks_a_tie() {
        let head = |day: u32| Head {
            format_version: FORMAT_VERSION,
            repository: "aaaaaaaaaaaaaaaa".parse().unwrap(),
            created_at: format!("2026-11-{day:02}T00:00:00Z").parse().unwrap(),
        };
        let survey = |days: &[u32]| -> Vec<_> { days.iter().map(|day| Ok(head(*day))).collect() };
        for (days, expected) in [(&[3, 2, 3][..], 3), (&[3, 2], 2), (&[2, 3, 1], 1), (&[5], 5)] {
            assert_eq!(majority(&survey(days)), Some(head(expected)), "{days:?}");
        }
        assert_eq!(majority(&[Err(StoreStatus::Empty)]), None);
    }
}
