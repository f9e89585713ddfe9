//! Reading a view that changes while it is read from several threads at once.

use crate::core::failure::Failure;
use std::fs::File;

/// The files of a fuzzy view, for as many threads as like. What is late is not among them.
///
/// Bytes are handed out as they stand; whoever keeps a block that differs from what was captured before, or that
/// [`Reader::is_doubtful`], has it examined first.
pub trait Reader: Send + Sync {
    /// Opens file `entry`; `None` where it is gone, or is none: it reads as zeros.
    fn open(&self, entry: usize) -> Result<Option<File>, Failure>;

    /// Fills `bytes`, whole blocks, from block `first` on; with zeros where the file has ended.
    fn read(&self, entry: usize, file: Option<&File>, first: u64, bytes: &mut [u8]) -> Result<(), Failure>;

    /// Looks at a block that is to be kept. Says whether `bytes` have been replaced by a newer reading of it.
    fn examine(&self, entry: usize, block: u64, bytes: &mut [u8]) -> Result<bool, Failure>;

    /// Whether a block has to be examined although it is what was captured before.
    fn is_doubtful(&self, entry: usize, block: u64) -> bool;
}
