//! What every store carries so that a snapshot can be restored without recoup.

use super::layout;

/// The note for people.
pub const NOTE: &str = include_str!("RECOVERY.md");
/// The script.
pub const SCRIPT: &str = include_str!("recover.sh");

/// The files at the top of every store, fixed for a format version.
pub fn files() -> [(&'static str, &'static str); 2] {
    [(layout::RECOVERY_NOTE, NOTE), (layout::RECOVERY_SCRIPT, SCRIPT)]
}
