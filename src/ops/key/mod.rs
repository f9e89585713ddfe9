//! Keys: the custodians to whom snapshots are sealed, and the signers whose snapshots are trusted.
//!
//! A change is begun on record, on enough stores, before anything is changed, and ended on record after it. What is
//! changed are two files of this host, each atomically. A command that was killed is run again.

mod begun;
mod list;
mod prove;
mod recipient;
mod revoke;
mod signer;
mod unread;
mod vouch;

pub use list::list;
pub use prove::prove;
pub use recipient::{add, kind_of, remove};
pub use revoke::{RevokeRequest, revoke};
pub use signer::{Role, SignerRequest, add as add_signer};

use super::{
    evidence::{Recorder, deeds},
    host::{Host, state_failure},
};
use crate::{
    config::Settings,
    core::{
        evidence::{Action, Control, Draft, Verdict},
        failure::{Code, Failure},
        result::{ErrorResult, KeysResult},
    },
    world::files::{self, Lock},
};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// What a command that changes keys works with. No other such command runs meanwhile.
pub struct Keys<'a> {
    /// The host.
    pub host: &'a Host,
    /// What it is configured to be.
    pub settings: &'a Settings,
    /// Records what is done.
    pub recorder: Recorder,
    _lock: Lock,
}

impl<'a> Keys<'a> {
    /// Whether this host trusts a signer.
    fn trusts(&self, signer: &str) -> bool {
        self.host.repository.signers.fingerprints().iter().any(|trusted| trusted.as_str() == signer)
    }

    /// Waits for nobody: two changes at once are a mistake.
    pub fn open(host: &'a Host, settings: &'a Settings) -> Result<Self, Failure> {
        let directory = host.state_dir.join("keys");
        files::create_private_directories(&directory).map_err(|error| state_failure("create", &directory, &error))?;
        let path = directory.join("lock");
        let lock = files::try_lock(&path).map_err(|error| state_failure("lock", &path, &error))?;
        let lock = lock.ok_or_else(|| {
            Failure::new(Code::Locked, "another command is changing keys")
                .cause(format!("{} is locked", path.display()))
                .safe("nothing was changed")
                .next_step("wait for it to end, then run the same command again")
        })?;
        Ok(Keys { host, settings, recorder: Recorder::new(host, settings), _lock: lock })
    }

    /// Does a change between the records of its start and its end, both of which enough stores must have.
    async fn recorded(
        &self,
        action: Action,
        change: impl AsyncFnOnce() -> Result<(KeysResult, Control), Failure>,
    ) -> Result<KeysResult, Failure> {
        let world = &self.host.world;
        let mut notes: Vec<String> = self.recorder.close_dead()?.iter().map(deeds::aborted_note).collect();
        let started = self.recorder.start_durably(Draft::new(action, Verdict::Pending, world.now()), None).await?;
        let (mut result, control) = match change().await {
            Ok(done) => done,
            Err(failure) => {
                let result = serde_json::to_value(ErrorResult::new(&failure, failure.code)).unwrap_or_default();
                let draft = Draft::new(action, deeds::verdict_of(failure.code), world.now());
                // Why it failed matters more than that this cannot be noted.
                let _ = self.recorder.end(started, Draft { result, ..draft });
                self.recorder.ship().await;
                return Err(failure);
            }
        };
        let draft = Draft::new(action, Verdict::Passed, world.now());
        let body = serde_json::to_value(&result).unwrap_or_default();
        let ended = self.recorder.end(started, Draft { control: Some(control), result: body, ..draft })?;
        self.insist(ended.head.number).await?;
        notes.append(&mut result.notes);
        notes.extend(self.recorder.take_notes());
        notes.extend(result.remarks.iter().cloned());
        result.notes = notes;
        Ok(result)
    }

    /// Insists that enough stores have a record.
    async fn insist(&self, number: u64) -> Result<(), Failure> {
        let shipped = self.recorder.ship().await;
        if shipped.holds(number) >= self.recorder.quorum() {
            return Ok(());
        }
        Err(Failure::new(Code::Failed, "the change was made, and its record is not yet on enough stores")
            .cause(shipped.reasons())
            .safe("the record is on this host; the next command ships it")
            .next_step("bring the stores back, then run `recoup copy`"))
    }
}

/// The text of a file that is about to be edited.
fn read_editable(path: &Path) -> Result<String, Failure> {
    let refused = |why: String| uneditable(path, &why);
    let metadata = fs::symlink_metadata(path).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refused("it is a link, or no regular file".to_owned()));
    }
    if metadata.nlink() > 1 {
        return Err(refused("it has several names, and only one of them would change".to_owned()));
    }
    files::read_to_string(path).map_err(|error| refused(error.to_string()))
}

/// Puts a new text in the place of the one that was read, if that is still there.
fn replace_text(path: &Path, before: &str, after: &str) -> Result<(), Failure> {
    if read_editable(path)? != before {
        return Err(uneditable(path, "somebody else changed it meanwhile"));
    }
    files::replace_keeping(path, after.as_bytes()).map_err(|error| uneditable(path, &error.to_string()))
}

fn uneditable(path: &Path, why: &str) -> Failure {
    Failure::new(Code::Refused, format!("{} cannot be edited safely", path.display()))
        .cause(why)
        .safe("it was left as it is")
        .next_step("make it a regular file that the user who runs recoup owns, then run the same command again")
}

/// Refuses a change without the flag that names its object again.
fn confirmed(given: Option<&str>, wanted: &str, message: String, cause: &str) -> Result<(), Failure> {
    if given == Some(wanted) {
        return Ok(());
    }
    Err(Failure::new(Code::Refused, message)
        .cause(cause)
        .safe("nothing was changed")
        .next_step(format!("if that is what you want: add --confirm={}", crate::core::failure::shell_word(wanted))))
}
