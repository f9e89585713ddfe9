//! Reads the control log and folds it. What was read once, checked, is kept as local state and read on from there.

use super::journal::Journal;
use crate::{
    core::{
        control::ControlState,
        evidence::WriterId,
        id::{RepositoryId, Sha256},
        lost::LostRecords,
    },
    format::{self, signature::SignerFingerprint},
    repository::{Repository, evidence::RefusedRecord},
    world::files,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fs, path::Path};

/// The state of the repository's control log.
#[derive(Clone, Debug, Default)]
pub struct ControlView {
    /// The fold of its records.
    pub state: ControlState,
    /// The stores that answered, by name.
    pub answered: BTreeSet<String>,
    /// Whether enough of them did, so that nothing which was acknowledged is missed.
    pub complete: bool,
    /// What was not accepted.
    pub refused: Vec<RefusedRecord>,
    /// What no store that answered has, and somebody has acknowledged as lost.
    pub lost: LostRecords,
}

/// What is kept: the fold of records that stores have shown.
#[derive(Serialize, Deserialize)]
struct Kept {
    repository: RepositoryId,
    /// Of the trusted signers and what each may sign: what one of them signed counts no more once it may not.
    signers_sha256: Sha256,
    state: ControlState,
}

/// Reads the control log from the stores. `state_dir` is this host's, where it has one.
pub async fn read_control(repository: &Repository, state_dir: Option<&Path>) -> ControlView {
    let journal = state_dir.map(|directory| Journal::new(directory, repository.id));
    let mut state = journal.as_ref().map(|journal| cached(repository, journal)).unwrap_or_default();
    let followed = repository.follow_evidence(&state.heads, &state.lost).await;
    // What has a fork or worse in it is read again each time: it is no matter of one store's answer, or of one command.
    // So is what has lost records: one that turns up counts.
    let refused = followed.refused.iter().map(|refused| refused.writer);
    let troubled: BTreeSet<WriterId> = refused.chain(followed.lost.writers()).collect();
    let (troubled, sound): (Vec<_>, Vec<_>) =
        followed.records.iter().partition(|signed| troubled.contains(&signed.record.writer));
    sound.iter().for_each(|signed| state.add(&signed.record, signed.sha256));
    if let Some(journal) = &journal
        && !sound.is_empty()
    {
        keep(repository, journal, &state);
    }
    troubled.iter().for_each(|signed| state.add(&signed.record, signed.sha256));
    if let Some(journal) = &journal {
        let own = journal.chain().map(|chain| chain.writer);
        let known = own.and_then(|writer| state.heads.get(&writer)).map_or(0, |head| head.number);
        for (record, sha256) in journal.records_after(known) {
            state.add(&record, sha256);
        }
    }
    let complete = followed.answered.len() >= repository.control_read_quorum();
    ControlView { state, answered: followed.answered, complete, refused: followed.refused, lost: followed.lost }
}

/// What was read before.
pub(super) fn cached(repository: &Repository, journal: &Journal) -> ControlState {
    let kept = fs::read(journal.directory().join("control.json")).ok();
    let kept: Option<Kept> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let is_right = |kept: &Kept| kept.repository == repository.id && kept.signers_sha256 == signers_sha256(repository);
    kept.filter(is_right).map(|kept| kept.state).unwrap_or_default()
}

/// Losing it costs reading everything again.
fn keep(repository: &Repository, journal: &Journal, state: &ControlState) {
    let signers_sha256 = signers_sha256(repository);
    let kept = Kept { repository: repository.id, signers_sha256, state: state.clone() };
    let bytes = serde_json::to_vec(&kept).expect("the fold has no map with odd keys");
    // A reader need not have a state directory of its own making.
    if files::create_private_directories(journal.directory()).is_ok() {
        let _ = files::write_atomic(&journal.directory().join("control.json"), &bytes, 0o600);
    }
}

fn signers_sha256(repository: &Repository) -> Sha256 {
    let line = |(signer, principals, namespaces): (SignerFingerprint, &str, Option<&str>)| {
        format!("{signer} {principals} {namespaces:?}\n")
    };
    format::sha256(repository.signers.lines().map(line).collect::<String>().as_bytes())
}
