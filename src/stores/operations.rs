//! Counts what is done on stores, and stops it: for tests that crash at every step.

use object_store::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard};

/// One operation that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number, from 1, over all stores that share the count.
    pub number: u64,
    /// The store.
    pub store: String,
    /// `put`, `get`, `head`, `ranges`, `list`, `folders`, `delete`, `rename` or `copy`.
    pub verb: &'static str,
    /// The object, or the prefix of a listing.
    pub key: String,
}

/// Counts operations over stores, logs them, and stops them all after a given one. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Operations(Arc<Mutex<Counting>>);

#[derive(Debug, Default)]
struct Counting {
    log: Vec<Operation>,
    last: Option<u64>,
    loses_last_reply: bool,
    stopped: bool,
}

impl Operations {
    /// A new count.
    pub fn new() -> Self {
        Operations::default()
    }

    fn counting(&self) -> MutexGuard<'_, Counting> {
        self.0.lock().expect("nothing panics while holding it")
    }

    /// How many operations were asked for, refused ones included.
    pub fn count(&self) -> u64 {
        self.counting().log.len() as u64
    }

    /// All of them, in order.
    pub fn log(&self) -> Vec<Operation> {
        self.counting().log.clone()
    }

    /// Every operation after number `last` fails as if the process were gone. 0 lets nothing happen.
    pub fn stop_after(&self, last: u64) {
        let mut counting = self.counting();
        (counting.last, counting.loses_last_reply) = (Some(last), false);
    }

    /// The same, and operation `last` is done but its caller never hears of it.
    pub fn stop_within(&self, last: u64) {
        let mut counting = self.counting();
        (counting.last, counting.loses_last_reply) = (Some(last), true);
    }

    /// Whether an operation was refused, or a reply withheld, because everything is stopped.
    pub fn stopped(&self) -> bool {
        self.counting().stopped
    }

    /// Lets operations happen again: the next process. The count goes on.
    pub fn resume(&self) {
        let mut counting = self.counting();
        (counting.last, counting.loses_last_reply, counting.stopped) = (None, false, false);
    }

    pub(super) fn begin(&self, store: &str, verb: &'static str, key: &str) -> Result<u64> {
        let mut counting = self.counting();
        let number = counting.log.len() as u64 + 1;
        counting.log.push(Operation { number, store: store.to_owned(), verb, key: key.to_owned() });
        if counting.last.is_some_and(|last| number > last) {
            counting.stopped = true;
            return Err(stopped());
        }
        Ok(number)
    }

    pub(super) fn end(&self, number: u64) -> Result<()> {
        let mut counting = self.counting();
        if counting.loses_last_reply && counting.last.is_some_and(|last| number >= last) {
            counting.stopped = true;
            return Err(stopped());
        }
        Ok(())
    }
}

/// The process that asked is gone, so to speak: nothing is tried again.
#[derive(Debug, thiserror::Error)]
#[error("stopped by the test")]
pub(super) struct Stopped;

fn stopped() -> Error {
    Error::Generic { store: "stopped", source: Box::new(Stopped) }
}
