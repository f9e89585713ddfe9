//! Bad input on the real binary: a clear error, the right exit code, and earlier snapshots that still restore.

mod hosts;
mod names;
mod options;
mod signals;
mod sources;
mod stores;
