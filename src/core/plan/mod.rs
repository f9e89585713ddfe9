//! Pure plans: from gathered facts to a value that can be shown, compared and executed.

pub mod backup;
pub mod drill;
pub mod log;
pub mod merge;
pub mod prune;
pub mod restore;
