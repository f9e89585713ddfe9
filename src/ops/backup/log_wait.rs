//! Between the copy and the commit: a snapshot of a server is of no use without the log that was written meanwhile, so
//! it waits until enough stores hold it. The server ships it by itself.

use crate::{
    core::{
        failure::{Code, Failure},
        id::SourceName,
        log::{HistoryId, LogFile, LogRange, SegmentName},
        policy::is_durable,
        time::format_duration,
    },
    ops::{
        archive::{self, PushRequest},
        host::{Host, Protected},
    },
    repository::{Repository, log::committed},
    sources::{LogBeginning, LogShipping},
};
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};
use tokio::sync::oneshot;

/// How often the stores are looked at: soon at first, for a server that ships at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Waits until enough stores hold every file of a range. Each one that arrives begins the source's patience anew.
pub(super) async fn until_durable(host: &Host, protected: &Protected, range: &LogRange) -> Result<(), Failure> {
    refuse_foreign(host, protected, range.history.system)?;
    let needed = range.needed();
    let mut shipping = protected.source.log_shipping();
    let mut log_dir = shipping.as_ref().map(|shipping| shipping.log_dir.clone());
    let patience = shipping.as_ref().map_or(Duration::from_secs(60), |shipping| shipping.patience);
    let mut waited = tokio::time::Instant::now();
    let mut least = usize::MAX;
    let mut pause = FIRST_PAUSE;
    loop {
        let missing = missing(host, protected, range, &needed).await;
        let Some(first) = missing.first() else { return Ok(()) };
        if let (LogFile::History(_), Some(log_dir)) = (first, log_dir.take()) {
            ship_history(host, protected, log_dir.join(first.to_string())).await;
            continue;
        }
        if missing.len() < least {
            least = missing.len();
            waited = tokio::time::Instant::now();
        }
        if waited.elapsed() >= patience {
            return Err(given_up(&protected.name, first, missing.len(), patience, shipping.take()).await);
        }
        tokio::time::sleep(pause.min(patience.saturating_sub(waited.elapsed()))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A server that was made anew archives nothing until somebody says that it replaces the other: no use to wait for it.
fn refuse_foreign(host: &Host, protected: &Protected, system: u64) -> Result<(), Failure> {
    let source = &protected.name;
    let kept = archive::peek(&host.source_state_dir(source), host.repository.id);
    let Some(known) = kept.and_then(|kept| kept.system).filter(|known| *known != system) else { return Ok(()) };
    Err(Failure::new(Code::Refused, format!("the server of {source} is another one than that whose log is archived"))
        .cause(format!("its system identifier is {system}, that of the log is {known}"))
        .safe("nothing of this snapshot is committed; everything archived before is untouched")
        .next_step(format!(
            "if this server was made anew (initdb, pg_upgrade): recoup archive open {source} --reason TEXT, then the same \
             command again"
        )))
}

/// Ships what the timeline grew out of. A server does that only once, when it begins the timeline; one that was restored
/// does it never, for its archiving is off then.
async fn ship_history(host: &Host, protected: &Protected, path: PathBuf) {
    if !path.exists() {
        return;
    }
    let copies = protected.policy.copies.clone();
    // Where it fails, it is waited for like the rest, and named.
    let _ = archive::push(host, &PushRequest { source: protected.name.clone(), path, copies }).await;
}

/// The most patience with a log that does not arrive while the copy goes on.
const PROOF_PATIENCE: Duration = Duration::from_secs(60);
/// A server that says that it fails to ship is believed after this time.
const TROUBLE_PATIENCE: Duration = Duration::from_secs(10);
/// A segment that does not wait to be shipped, and is nowhere after this time, was shipped elsewhere long ago.
const ELSEWHERE_PATIENCE: Duration = Duration::from_millis(500);

/// Finds out while the copy goes on whether the log reaches the stores: the segment before the copy is complete, and
/// nothing of what is copied is of use if it never arrives. Comes to an end only where it does not.
pub(super) async fn unshipped(
    host: &Host,
    protected: &Protected,
    begins: oneshot::Receiver<Option<LogBeginning>>,
) -> Failure {
    let begins = begins.await.ok().flatten();
    if let Some((begins, shipping)) = begins.zip(protected.source.log_shipping())
        && let Some(failure) = prove(host, protected, begins, shipping).await
    {
        return failure;
    }
    std::future::pending().await
}

async fn prove(host: &Host, protected: &Protected, begins: LogBeginning, shipping: LogShipping) -> Option<Failure> {
    let number = begins.start.0 / begins.segment_bytes;
    if let Err(failure) = refuse_foreign(host, protected, begins.history.system) {
        return Some(failure);
    }
    let name = |number| SegmentName::of_number(begins.history.timeline, number, begins.segment_bytes);
    let before = name(number.checked_sub(1)?);
    let patience = shipping.patience.min(PROOF_PATIENCE);
    let mut waiting = Waiting { shipping, trouble: None };
    let (started, mut since) = (tokio::time::Instant::now(), tokio::time::Instant::now());
    let (mut most, mut pause, mut is_finished) = (0, FIRST_PAUSE, false);
    let (copies, places) = (&protected.policy.copies, host.repository.places());
    loop {
        let held = stores_by_file(&host.repository, &protected.name, begins.history).await;
        let is_there = |name| held.get(&LogFile::Segment(name)).is_some_and(|on| is_durable(copies, &places, on));
        if is_there(before) || is_there(name(number)) {
            return None;
        }
        let arrived = held.values().map(BTreeSet::len).sum::<usize>();
        if arrived > most {
            // What waits in front of it arrives.
            (most, since) = (arrived, tokio::time::Instant::now());
        }
        if since.elapsed() >= patience.min(TROUBLE_PATIENCE) {
            waiting = waiting.ask().await?;
            if waiting.trouble.is_some() || since.elapsed() >= patience {
                let reported = waiting.trouble.unwrap_or_else(|| NO_TROUBLE.to_owned());
                return Some(not_shipped(&protected.name, LogFile::Segment(before), started.elapsed(), &reported));
            }
        }
        if !is_finished && started.elapsed() >= ELSEWHERE_PATIENCE && !(waiting.shipping.is_waiting)(before) {
            is_finished = true;
            waiting = waiting.finish_segment().await?;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// The server, asked on threads for what blocks.
struct Waiting {
    shipping: LogShipping,
    trouble: Option<String>,
}

impl Waiting {
    async fn ask(self) -> Option<Self> {
        let asked = tokio::task::spawn_blocking(move || {
            let trouble = (self.shipping.trouble)();
            Waiting { trouble, ..self }
        });
        asked.await.ok()
    }

    async fn finish_segment(self) -> Option<Self> {
        let asked = tokio::task::spawn_blocking(move || {
            (self.shipping.finish_segment)();
            self
        });
        asked.await.ok()
    }
}

const NO_TROUBLE: &str = "the server reports no failure of its archiver";

fn not_shipped(source: &SourceName, file: LogFile, waited: Duration, trouble: &str) -> Failure {
    Failure::new(Code::Source, format!("the log of {source} does not reach the stores"))
        .cause(format!(
            "{file}, which was complete when the snapshot began, is not durable after {} s; {trouble}",
            waited.as_secs()
        ))
        .safe("the snapshot was broken off, nothing of it is committed; earlier snapshots are unaffected")
        .next_step(archive_step(source))
}

fn archive_step(source: &SourceName) -> String {
    format!(
        "set archive_command = 'recoup --config ... archive push {source} %p' and see the server's log for what it \
         says; then run the same command again"
    )
}

/// The files that too few stores hold.
async fn missing(host: &Host, protected: &Protected, range: &LogRange, needed: &[LogFile]) -> Vec<LogFile> {
    let held = stores_by_file(&host.repository, &protected.name, range.history).await;
    let (copies, places) = (&protected.policy.copies, host.repository.places());
    let nowhere = BTreeSet::new();
    let is_missing = |file: &&LogFile| !is_durable(copies, &places, held.get(*file).unwrap_or(&nowhere));
    needed.iter().filter(is_missing).copied().collect()
}

/// The names of the stores that hold each file of a history, by the names of the objects there.
async fn stores_by_file(
    repository: &Repository,
    source: &SourceName,
    history: HistoryId,
) -> BTreeMap<LogFile, BTreeSet<String>> {
    let mut held: BTreeMap<LogFile, BTreeSet<String>> = BTreeMap::new();
    let stores = 0..repository.stores.len();
    let listings = join_all(stores.map(|at| repository.list_log_on(at, source, Some(history)))).await;
    for (store, listing) in std::iter::zip(&repository.stores, listings) {
        // A store that does not answer holds nothing for now.
        let Ok(names) = listing else { continue };
        for (file, _) in committed(names.keys().map(String::as_str)) {
            held.entry(file).or_default().insert(store.name().to_owned());
        }
    }
    held
}

async fn given_up(
    source: &SourceName,
    first: &LogFile,
    count: usize,
    patience: Duration,
    shipping: Option<LogShipping>,
) -> Failure {
    let trouble = tokio::task::spawn_blocking(move || shipping.and_then(|shipping| (shipping.trouble)())).await;
    let trouble = trouble.ok().flatten().unwrap_or_else(|| NO_TROUBLE.to_owned());
    let files = if count == 1 { "it is".to_owned() } else { format!("{count} files are") };
    Failure::new(Code::Source, format!("the log that the snapshot of {source} needs is not in the stores"))
        .cause(format!(
            "{first} is not durable, {files} missing, and nothing arrived within {}; {trouble}",
            format_duration(patience)
        ))
        .safe("nothing of this snapshot is committed; earlier snapshots are unaffected")
        .next_step(archive_step(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::log::Lsn;

    #[test]
    fn what_a_range_needs() {
        let history = HistoryId { system: 1, timeline: 2 };
        let range = LogRange {
            history,
            segment_bytes: 1 << 24,
            start: Lsn(1 << 24),
            stop: Lsn(3 << 24),
            stopped_at: "2026-11-22T10:00:00Z".parse().unwrap(),
            next_transaction: None,
        };
        let names: Vec<String> = range.needed().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["00000002.history", "000000020000000000000001", "000000020000000000000002"]);
    }
}
