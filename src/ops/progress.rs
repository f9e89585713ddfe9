//! How a use case tells what it is doing. It never prints; whoever called it may.

/// What is being counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Objects on stores.
    Objects,
    /// Anything else that is counted.
    Items,
}

/// Listens to a use case. Calls are cheap enough for every block that is read.
pub trait Progress: Send + Sync {
    /// A phase begins, and with it the one before ends. `total` is in `unit`s, where it is known.
    fn begin(&self, phase: &str, total: Option<u64>, unit: Unit);

    /// The phase's total is known now, or has changed.
    fn set_total(&self, total: u64);

    /// So many more units of the phase are done.
    fn advance(&self, amount: u64);

    /// Something worth a line, such as a store that was left behind.
    fn message(&self, text: &str);
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _phase: &str, _total: Option<u64>, _unit: Unit) {}
    fn set_total(&self, _total: u64) {}
    fn advance(&self, _amount: u64) {}
    fn message(&self, _text: &str) {}
}
