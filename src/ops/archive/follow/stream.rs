//! Keeps the program running that receives the log, and says once when it cannot.

use super::on_thread;
use crate::{
    core::failure::{Code, Failure},
    sources::postgres::receive::{Receiver, Receiving},
    world::{World, files, programs::is_running},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// How long after a failure it is tried again: soon at first.
pub(super) const FIRST_DELAY: Duration = Duration::from_secs(1);
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// One that has run so long has been let in.
const SETTLED: Duration = Duration::from_secs(2);
/// How long it may take to end in order.
const END: Duration = Duration::from_secs(2);
/// What the directories begin with in which the program's words are.
const SCRATCH: &str = "follow-run-";

/// The stream of a server's log into a directory.
pub(super) struct Stream {
    receiver: Arc<Receiver>,
    inbox: PathBuf,
    directory: PathBuf,
    world: World,
    running: Option<Receiving>,
    started: Instant,
    /// When it may be started again, and how long after the next failure.
    next: Instant,
    delay: Duration,
    /// Whether it was ever let in: it has run for a while, or brought something.
    pub(super) has_settled: bool,
    /// Whether the server was asked since it ended.
    is_checked: bool,
    is_held: bool,
    /// Whether a slot was made: what lies before it was not kept by it.
    pub(super) is_anew: bool,
    /// Whether nothing is received.
    is_in_trouble: bool,
}

impl Stream {
    /// A stream that does not run yet. The server was asked a moment ago.
    pub(super) fn new(receiver: Arc<Receiver>, directory: &Path, inbox: &Path, world: &World) -> Self {
        remove_leftovers(directory);
        let (now, delay) = (tokio::time::Instant::now(), FIRST_DELAY);
        Stream {
            receiver,
            inbox: inbox.to_owned(),
            directory: directory.to_owned(),
            world: world.clone(),
            running: None,
            started: now,
            next: now,
            delay,
            has_settled: false,
            is_checked: true,
            is_held: false,
            is_anew: true,
            is_in_trouble: false,
        }
    }

    /// Starts it where it does not run. Fails only where trying again is of no use.
    pub(super) async fn keep(&mut self, tell: &(dyn Fn(&str) + Sync)) -> Result<(), Failure> {
        let has_ended = self.running.as_mut().map(Receiving::has_ended);
        match has_ended {
            Some(false) => self.settle(tell),
            Some(true) => self.ended(tell).await?,
            None if self.is_held || tokio::time::Instant::now() < self.next => {}
            None => self.start(tell).await?,
        }
        Ok(())
    }

    fn settle(&mut self, tell: &(dyn Fn(&str) + Sync)) {
        if self.started.elapsed() < SETTLED {
            return;
        }
        (self.has_settled, self.delay) = (true, FIRST_DELAY);
        if std::mem::take(&mut self.is_in_trouble) {
            tell("PostgreSQL gives its log again");
        }
    }

    async fn ended(&mut self, tell: &(dyn Fn(&str) + Sync)) -> Result<(), Failure> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let said = running.said();
        on_thread(move || drop(running)).await?;
        // Whoever followed before, and was killed, may not be gone yet.
        if !self.has_settled && !said.contains("is active for PID") && self.is_checked {
            return Err(self.receiver.not_given(&said));
        }
        self.fail(&said, tell);
        Ok(())
    }

    fn fail(&mut self, why: &str, tell: &(dyn Fn(&str) + Sync)) {
        if !std::mem::replace(&mut self.is_in_trouble, true) {
            tell(&format!("the log is not received, which is tried again and again: {why}"));
        }
        (self.next, self.is_checked) = (tokio::time::Instant::now() + self.delay, false);
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
    }

    async fn start(&mut self, tell: &(dyn Fn(&str) + Sync)) -> Result<(), Failure> {
        if !self.is_checked {
            let receiver = self.receiver.clone();
            match on_thread(move || receiver.check()).await? {
                Ok(is_made) => self.is_anew |= is_made,
                Err(failure) if failure.code == Code::Refused => return Err(failure),
                Err(failure) => {
                    self.fail(failure.cause.as_deref().unwrap_or(&failure.message), tell);
                    return Ok(());
                }
            }
        }
        let (receiver, inbox) = (self.receiver.clone(), self.inbox.clone());
        let scratch = self.directory.join(format!("{SCRATCH}{}", self.world.new_id()));
        match on_thread(move || receiver.start(&inbox, &scratch)).await? {
            Ok(running) => (self.running, self.started) = (Some(running), tokio::time::Instant::now()),
            Err(failure) if !self.has_settled => return Err(failure),
            Err(failure) => self.fail(failure.cause.as_deref().unwrap_or(&failure.message), tell),
        }
        Ok(())
    }

    /// Holds it, or lets it go on: what is not received the server keeps.
    pub(super) async fn hold(&mut self, hold: bool, tell: &(dyn Fn(&str) + Sync)) -> Result<(), Failure> {
        if hold && !self.is_held {
            tell("too much of the log waits for the stores: no more is received until they take it");
            self.end().await?;
        }
        self.is_held = hold;
        Ok(())
    }

    /// Ends it in order.
    pub(super) async fn end(&mut self) -> Result<(), Failure> {
        match self.running.take() {
            Some(running) => on_thread(move || running.end(END)).await,
            None => Ok(()),
        }
    }
}

/// Directories of programs that were killed together with whoever kept them.
fn remove_leftovers(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    for path in entries.map(|entry| entry.path()) {
        let is_scratch = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(SCRATCH));
        let number = || files::read_to_string(path.join("number")).unwrap_or_default();
        if is_scratch && !number().trim().parse().is_ok_and(is_running) {
            drop(fs::remove_dir_all(&path));
        }
    }
}
