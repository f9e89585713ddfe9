//! The part of a drill that is timed: locate, manifest, restore, publish, check, assert.

use super::{DrillRequest, configured_policy, gather::Gathered, phases::Phases};
use crate::{
    config::Settings,
    core::{
        failure::Failure,
        fingerprint::{Fingerprints, Place, Replayed},
        manifest::{Entry, EntryKind},
        plan::drill::{COMPLETE, judge},
        policy::Policy,
        result::{CheckResult, CheckStatus, Verdict, WentRound},
        time::Timestamp,
    },
    ops::{
        cancel::HaltOnDrop,
        host::Host,
        progress::{Progress, Unit},
        restore::{self, AMENDED, Located, Manifest, Restore, RestoreRequest},
    },
    sources::{CheckOptions, Checker, RestoredCheck},
};
use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

/// What is tried out.
pub(super) struct Trial<'a> {
    pub(super) settings: &'a Settings,
    pub(super) request: &'a DrillRequest,
    pub(super) gathered: &'a Gathered,
    pub(super) target: &'a Path,
    pub(super) disaster_at: Timestamp,
}

/// What came of it so far: an interrupted one is told as far as it got.
#[derive(Default)]
pub(super) struct Attempt {
    pub(super) phases: Phases,
    pub(super) located: Option<Located>,
    /// The policy that was kept with the snapshot, where this host has none for the source.
    pub(super) kept_policy: Option<Policy>,
    /// Whether files stand under their own names.
    pub(super) published: bool,
    /// Up to when what was committed came back, where a log tells.
    pub(super) recovered_until: Option<Timestamp>,
    /// What was restored.
    pub(super) manifest: Option<Arc<Manifest>>,
    /// What was committed until the disaster and did not come back, where that is known.
    pub(super) lost_transactions: Option<u64>,
    /// The place at which fingerprints were compared; why none were, otherwise.
    pub(super) compared: Option<Result<Place, String>>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) checks: Vec<CheckResult>,
    /// What could not be checked, and why.
    pub(super) unchecked: Vec<String>,
    /// From the start until everything was checked.
    pub(super) rto_seconds: Option<f64>,
    /// What was done otherwise than a drill should be.
    pub(super) exceptions: Vec<String>,
}

impl Attempt {
    /// Restores and checks. It may be dropped at any moment.
    pub(super) async fn perform(&mut self, trial: &Trial<'_>, progress: &dyn Progress) -> Result<(), Failure> {
        let (source, target) = (&trial.request.source, trial.target.to_owned());
        let request = trial.gathered.restore_request(source, trial.disaster_at, target);
        let restored = self.restore(trial, &request, progress).await?;
        let manifest = self.manifest.insert(Arc::new(restored.manifest)).clone();
        self.check(trial, &manifest, restored.fingerprints, progress).await
    }

    async fn restore(
        &mut self,
        trial: &Trial<'_>,
        request: &RestoreRequest,
        progress: &dyn Progress,
    ) -> Result<Restored, Failure> {
        let identities = &trial.gathered.identities;
        let restore = Restore::prepare(&trial.gathered.repository, request)?;
        progress.begin("locating the snapshot", None, Unit::Objects);
        self.phases.begin("locate");
        let located = self.located.insert(restore.locate().await?);
        self.phases.begin("manifest");
        let manifest = restore.read_manifest(located, identities).await?;
        let fingerprints = restore.read_fingerprints(located, identities).await;
        progress.begin("restoring", Some(manifest.bytes_stored_raw()), Unit::Bytes);
        self.phases.begin("restore");
        let fetched = restore.fetch(located, &manifest, identities.clone(), progress).await?;
        progress.begin("making it durable", None, Unit::Items);
        self.phases.begin("publish");
        let notes = restore.publish(&manifest, fetched)?;
        located.notes.extend(notes);
        self.published = true;
        self.recovered_until = manifest.recovers_until(trial.disaster_at);
        (self.files, self.bytes) = (manifest.files(), manifest.bytes());
        let comparable = match fingerprints {
            Ok(taken) => comparable(taken, manifest.replayed(trial.disaster_at)),
            Err(failure) => Some(Err(format!("they cannot be read: {failure}"))),
        };
        self.compared =
            comparable.as_ref().map(|comparable| comparable.as_ref().map(|(_, place)| *place).map_err(Clone::clone));
        Ok(Restored { manifest, fingerprints: comparable.and_then(Result::ok) })
    }

    /// Checks on threads of their own: a query may take long, and an interruption does not wait for it.
    async fn check(
        &mut self,
        trial: &Trial<'_>,
        manifest: &Arc<Manifest>,
        fingerprints: Option<(Fingerprints, Place)>,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        progress.begin("checking what was restored", None, Unit::Items);
        // First what is compared at a place on the way; the server goes on from there.
        self.phases.begin(if fingerprints.is_some() { "fingerprints" } else { "check" });
        let kind = self.located.as_ref().map(|located| located.committed().inventory.source_kind.clone());
        let kind = kind.unwrap_or_default();
        self.checks.push(blocks_check(manifest));
        let options = CheckOptions { is_scratch: !trial.request.keeps(), ..trial.gathered.check_options.clone() };
        // Dropped last: whatever the checks have started has ended before anybody removes the files.
        let ending = HaltOnDrop::default();
        let checker = Checker::new(&kind, trial.target, options, ending.halt());
        let (target, entries) = (trial.target.to_owned(), manifest.clone());
        let (mut checker, files) = on_a_thread(move || (checker, files_check(&target, &entries.entries))).await?;
        self.checks.push(restore::checked(files));
        if let Some((fingerprints, place)) = fingerprints {
            let comparing = move || checker.compare(&fingerprints, &place).map(|compared| (checker, compared));
            let (back, compared) = on_a_thread(comparing).await??;
            checker = back;
            self.checks.extend(compared.into_iter().map(restore::checked));
            self.phases.begin("check");
        }
        let entries = manifest.clone();
        let checking = move || checker.check_restored(&entries.entries).map(|checks| (checker, checks));
        let (checker, own) = on_a_thread(checking).await??;
        self.checks.extend(own.into_iter().map(restore::checked));
        self.phases.begin("assert");
        let policy = match configured_policy(trial.settings, &trial.request.source) {
            Some(policy) => policy.clone(),
            None => {
                let kept = restore::kept_policy(&trial.request.source, manifest)?;
                self.exceptions.push(
                    "it was judged by the policy that was kept with the snapshot: this host has none for the source"
                        .to_owned(),
                );
                self.kept_policy.insert(kept).clone()
            }
        };
        let entries = manifest.clone();
        let asserted = on_a_thread(move || {
            let checks = checker.check_assertions(&entries.entries, &policy.assertions);
            (checker, checks)
        });
        let (checker, asserted) = asserted.await?;
        self.checks.extend(asserted.into_iter().map(restore::checked));
        if checker.has_more() {
            self.phases.begin("end");
        }
        let (last, unchecked) = on_a_thread(move || checker.finish()).await??;
        self.checks.extend(last.into_iter().map(restore::checked));
        self.unchecked = unchecked;
        Ok(())
    }

    /// What became of it, given that everything ran to its end.
    pub(super) fn verdict(&self, rpo_seconds: f64, policy: &Policy) -> Verdict {
        match self.rto_seconds {
            Some(rto_seconds) => judge(&self.checks, rpo_seconds, rto_seconds, policy),
            None => Verdict::Inconclusive,
        }
    }

    /// What had to be gone round so far, with the stores that do not even have the snapshot committed.
    pub(super) fn went_round(&self) -> Vec<WentRound> {
        let Some(located) = &self.located else { return Vec::new() };
        let all: BTreeSet<WentRound> = located.went_round().into_iter().chain(located.not_committed_on()).collect();
        all.into_iter().collect()
    }

    /// Whether what came back has a log.
    pub(super) fn has_log(&self) -> bool {
        self.located.as_ref().is_some_and(|located| located.committed().inventory.log.is_some())
    }

    /// The stores that gave what was read so far, by name.
    pub(super) fn stores_used(&self) -> Vec<String> {
        self.located.as_ref().map(Located::stores_used).unwrap_or_default()
    }

    /// Adds what was done otherwise than a drill should be.
    pub(super) fn note_exceptions(&mut self, host: &Host, gathered: Option<&Gathered>) {
        let Some(gathered) = gathered else { return };
        if gathered.signed_here {
            self.exceptions.push(format!(
                "this host ({}) also signs the snapshots that it tries out: whoever takes it over now can read and \
                 forge them; drills belong on another host",
                host.world.invocation().host
            ));
        }
        let Some(located) = &self.located else { return };
        if gathered.chosen.is_some_and(|chosen| chosen.id != located.id()) {
            let found = format!("the drill found snapshot {}, not the one that its start names", located.id());
            self.exceptions.push(found);
        }
        self.exceptions.extend(located.warnings.iter().cloned());
        if !located.is_durable(&host.repository, &gathered.copies) {
            self.exceptions.push(format!("snapshot {} is not whole on enough stores to be durable", located.id()));
        }
    }
}

/// What was restored, and what it is to be compared with.
struct Restored {
    manifest: Manifest,
    fingerprints: Option<(Fingerprints, Place)>,
}

/// The fingerprints that can be compared, and where; else why not. `None` where none were asked for.
fn comparable(
    taken: Option<Fingerprints>,
    replayed: Option<Replayed>,
) -> Option<Result<(Fingerprints, Place), String>> {
    let taken = taken?;
    let Some(place) = taken.place else {
        let why = taken.not_taken.unwrap_or_else(|| "nobody knows why".to_owned());
        return Some(Err(format!("they were not taken with the snapshot: {why}")));
    };
    let replayed = replayed?;
    Some(match place.not_passed_by(&replayed) {
        None => Ok((taken, place)),
        Some(why) => Err(why),
    })
}

/// The restore has compared every block before it wrote it, and would have failed otherwise.
fn blocks_check(manifest: &Manifest) -> CheckResult {
    CheckResult {
        name: "blocks".to_owned(),
        status: CheckStatus::Passed,
        expected: "every stored block has the digest that was recorded when it was read".to_owned(),
        actual: format!("{} bytes of blocks were compared", manifest.bytes_stored_raw()),
    }
}

/// Everything that the manifest names stands there, with its kind and size.
fn files_check(target: &Path, entries: &[Entry]) -> RestoredCheck {
    let is_there = |entry: &&Entry| {
        let found = fs::symlink_metadata(target.join(entry.path.to_relative()));
        found.is_ok_and(|found| match &entry.kind {
            // What tells a server how to recover has another size than what it was captured as.
            EntryKind::File { .. } if AMENDED.contains(&entry.path.as_str()) => found.is_file(),
            EntryKind::File { size, .. } => found.is_file() && found.len() == *size,
            EntryKind::Directory => found.is_dir(),
            EntryKind::Link { .. } => found.is_symlink(),
        })
    };
    let missing: Vec<&Entry> = entries.iter().filter(|entry| !is_there(entry)).collect();
    RestoredCheck {
        name: COMPLETE.to_owned(),
        ok: missing.is_empty(),
        expected: format!("all {} entries of the manifest", entries.len()),
        actual: match missing.first() {
            None => format!("all {} entries", entries.len()),
            Some(first) => format!("{} are missing or have another size, the first: {}", missing.len(), first.path),
        },
    }
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::internal(format!("a thread of the drill failed: {error}")))
}
