//! One module per use case. They know nothing of the command line.

mod altered;
pub mod archive;
pub mod backup;
pub mod cancel;
pub mod check;
pub mod clock;
pub mod copy;
pub mod demo;
pub mod doctor;
pub mod drill;
pub mod evidence;
pub mod findings;
pub mod hold;
pub mod host;
pub mod init;
pub mod key;
pub mod list;
pub mod open;
pub mod points;
pub mod progress;
pub mod prune;
pub mod report;
pub mod rescue;
pub mod restore;
pub mod runs;
pub mod state;
pub mod verify;
