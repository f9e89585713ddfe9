//! Follows a server: its log is received while it is written, whole segments are archived as `push` does it, and the one
//! that is being written every few seconds, in pieces.
//!
//! A segment is removed from the host only when enough stores hold it. What was received twice is stored once: the
//! archiver may ship the same segments.

mod inbox;
mod stream;
mod tail;

use super::push::{PushRequest, push_with};
use crate::{
    core::{
        failure::{Code, Failure},
        id::SourceName,
        log::{LogFile, SegmentName, segment_bytes_are_valid},
        policy::Copies,
    },
    ops::{
        cancel::Cancellation,
        host::{Host, state_failure},
    },
    sources::postgres::receive::Receiver,
    world::files,
};
use inbox::Inbox;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use stream::{FIRST_DELAY, LONGEST_DELAY, Stream};
use tail::{Tail, is_final};
use tokio::time::Instant;

/// The time between two looks at what was received.
const TICK: Duration = Duration::from_millis(200);
/// How long the last of the log may take to the stores when it is to end.
const LAST_WORDS: Duration = Duration::from_millis(2500);
/// As many whole segments may always wait, however large they are.
const WAITING_MIN: u64 = 4;

/// What to follow.
pub struct FollowRequest {
    /// Whose log it is.
    pub source: SourceName,
    /// On how many stores it is durable.
    pub copies: Copies,
    /// The server.
    pub receiver: Receiver,
    /// How often what is new is shipped.
    pub every: Duration,
}

/// Follows until it is asked to stop. A failure is one that trying again does not help.
pub async fn follow(
    host: &Host,
    request: &FollowRequest,
    cancellation: &Cancellation,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(), Failure> {
    let directory = host.source_state_dir(&request.source);
    let inbox = directory.join("follow");
    let failed = |error: std::io::Error| state_failure("use", &directory, &error);
    files::create_private_directories(&inbox).map_err(failed)?;
    let path = directory.join("follow.lock");
    let Some(_lock) = files::try_lock(&path).map_err(failed)? else {
        return Err(Failure::new(Code::Locked, format!("the log of {} is being followed already", request.source))
            .cause(format!("another recoup archive follow holds {}", path.display()))
            .safe("it goes on; nothing was changed")
            .next_step("end the other one first, if this one is to take its place"));
    };
    let receiver = Arc::new(request.receiver.clone());
    let asked = receiver.clone();
    on_thread(move || asked.check()).await??;
    let now = tokio::time::Instant::now();
    let mut following = Following {
        host,
        request,
        tell,
        stream: Stream::new(receiver, &directory, &inbox, &host.world),
        inbox,
        tails: BTreeMap::new(),
        piece_at: now,
        retry_at: now,
        delay: FIRST_DELAY,
        is_in_trouble: false,
    };
    let result = following.run(cancellation).await;
    following.stream.end().await?;
    result
}

/// Runs what blocks on a thread of its own.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::internal(error.to_string()))
}

struct Following<'a> {
    host: &'a Host,
    request: &'a FollowRequest,
    tell: &'a (dyn Fn(&str) + Sync),
    stream: Stream,
    inbox: PathBuf,
    tails: BTreeMap<SegmentName, Tail>,
    /// When the next pieces are due.
    piece_at: Instant,
    /// When it is tried again after the stores failed, and how long after the next failure.
    retry_at: Instant,
    delay: Duration,
    /// Whether the stores do not take it.
    is_in_trouble: bool,
}

impl Following<'_> {
    async fn run(&mut self, cancellation: &Cancellation) -> Result<(), Failure> {
        while !cancellation.is_cancelled() {
            self.stream.keep(self.tell).await?;
            let is_dropped = tokio::select! {
                shipped = self.ship() => { shipped?; false }
                () = cancellation.cancelled() => true,
            };
            if is_dropped {
                // What stores may have of a piece is no part of what is shipped next.
                self.tails.clear();
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = cancellation.cancelled() => {}
            }
        }
        self.stream.end().await?;
        (self.piece_at, self.retry_at) = (tokio::time::Instant::now(), tokio::time::Instant::now());
        // What is left on this host is shipped when it is followed again.
        let _ = tokio::time::timeout(LAST_WORDS, self.ship()).await;
        Ok(())
    }

    /// Ships what is there; what the stores do not take is tried again later.
    async fn ship(&mut self) -> Result<(), Failure> {
        if tokio::time::Instant::now() < self.retry_at {
            return Ok(());
        }
        let shipped = self.ship_all().await;
        match shipped {
            Ok(()) => {
                self.delay = FIRST_DELAY;
                if std::mem::take(&mut self.is_in_trouble) {
                    (self.tell)("the stores take the log again");
                }
            }
            Err(failure) if is_final(&failure) => return Err(failure),
            Err(failure) => {
                if !std::mem::replace(&mut self.is_in_trouble, true) {
                    let why = failure.cause.unwrap_or_default();
                    (self.tell)(&format!("{}, which is tried again and again: {why}", failure.message));
                }
                self.retry_at = tokio::time::Instant::now() + self.delay;
                self.delay = (self.delay * 2).min(LONGEST_DELAY);
            }
        }
        Ok(())
    }

    async fn ship_all(&mut self) -> Result<(), Failure> {
        let inbox = self.list()?;
        // Something was received, now or earlier: a server that goes away then comes back.
        self.stream.has_settled |= !inbox.growing.is_empty() || !inbox.segments.is_empty();
        let limit = self.host.spool_limit_bytes;
        let whole = inbox.segments.len() as u64;
        let most = limit.max(WAITING_MIN * inbox.bytes / whole.max(1));
        self.stream.hold(inbox.bytes > most, self.tell).await?;
        let mut done: BTreeSet<LogFile> = BTreeSet::new();
        for file in inbox.whole() {
            if !done.contains(&file) {
                done.extend(self.ship_whole(file, &inbox).await?);
            }
        }
        if tokio::time::Instant::now() < self.piece_at {
            return Ok(());
        }
        let inbox = self.list()?;
        self.ship_growing(&inbox).await?;
        self.piece_at = tokio::time::Instant::now() + self.request.every;
        Ok(())
    }

    fn list(&self) -> Result<Inbox, Failure> {
        Inbox::list(&self.inbox).map_err(|error| state_failure("read", &self.inbox, &error))
    }

    /// Ships a whole file, with those that wait behind it, and removes what is durable then. Gives what that was.
    async fn ship_whole(&mut self, file: LogFile, inbox: &Inbox) -> Result<BTreeSet<LogFile>, Failure> {
        let path = self.inbox.join(file.to_string());
        let bytes = fs::metadata(&path).map_or(0, |found| found.len());
        if let LogFile::Segment(name) = file
            && segment_bytes_are_valid(bytes)
        {
            self.note_gap(name, bytes);
        }
        let (source, copies) = (self.request.source.clone(), self.request.copies.clone());
        let request = PushRequest { source, path, copies };
        let pushed = push_with(self.host, &request, Some(inbox.segments.clone())).await?;
        let done: BTreeSet<LogFile> = pushed.files.into_iter().chain([file]).collect();
        for file in &done {
            let path = self.inbox.join(file.to_string());
            fs::remove_file(&path).map_err(|error| state_failure("remove", &path, &error))?;
        }
        Ok(done)
    }
}
