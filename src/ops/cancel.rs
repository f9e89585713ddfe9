//! A request to stop that a use case can see, from threads and from tasks.

use crate::{
    core::failure::{Code, Failure},
    world::programs::Halt,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// Whether the work was asked to stop. Clones share one request.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// 0, or the exit code of the interruption.
    code: AtomicU8,
    notify: Notify,
}

impl Cancellation {
    /// One that nobody has asked for yet.
    pub fn new() -> Self {
        Cancellation::default()
    }

    /// Asks the work to stop; `code` is [`Code::Interrupted`] or [`Code::Terminated`].
    pub fn cancel(&self, code: Code) {
        self.0.code.store(code.number(), Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Whether the work was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.code.load(Ordering::SeqCst) != 0
    }

    /// Fails once the work was asked to stop. For loops on threads of their own.
    pub fn check(&self) -> Result<(), Failure> {
        match self.0.code.load(Ordering::SeqCst) {
            0 => Ok(()),
            143 => Err(interrupted(Code::Terminated)),
            _ => Err(interrupted(Code::Interrupted)),
        }
    }

    /// Returns once the work was asked to stop. For `select!`.
    pub async fn cancelled(&self) {
        loop {
            let notified = self.0.notify.notified();
            // Looked at after the waiter exists, so that no request can slip in between.
            if self.is_cancelled() {
                return;
            }
            notified.await;
        }
    }
}

/// How long an interruption waits for programs to end; they are told to end at once.
const HALT_LIMIT: Duration = Duration::from_secs(30);

/// Ends the programs that run on its behalf when it is dropped, and waits for their end: work that was interrupted may
/// then remove what they worked on.
#[derive(Default)]
pub struct HaltOnDrop(Halt);

impl HaltOnDrop {
    /// For whoever runs programs.
    pub fn halt(&self) -> &Halt {
        &self.0
    }
}

impl Drop for HaltOnDrop {
    fn drop(&mut self) {
        self.0.halt();
        self.0.wait(HALT_LIMIT);
    }
}

/// The failure that an interrupted run ends with.
pub fn interrupted(code: Code) -> Failure {
    Failure::new(code, "interrupted")
        .cause(if code == Code::Terminated { "SIGTERM was received" } else { "SIGINT was received" })
        .safe("nothing is half committed, and every earlier snapshot is untouched")
        .next_step("run the same command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_seen_everywhere() {
        let cancellation = Cancellation::new();
        cancellation.check().unwrap();
        let waiting = tokio::spawn({
            let cancellation = cancellation.clone();
            async move { cancellation.cancelled().await }
        });
        tokio::task::yield_now().await;
        cancellation.cancel(Code::Terminated);
        waiting.await.unwrap();
        assert_eq!(cancellation.check().unwrap_err().code, Code::Terminated);
        cancellation.cancelled().await;
    }
}
