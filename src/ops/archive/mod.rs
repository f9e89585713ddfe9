//! The log of a source: brought to the stores as the server gives it away, and back when a server asks for it.
//!
//! A server that waits for its archive fills its disk, and a server that is told too early that a segment is safe
//! throws it away. So a push says done exactly when the policy's stores hold the file on stable storage, and no store
//! that is slow, full or gone keeps it waiting once enough others do.
//!
//! A server that is told that a segment does not exist ends its recovery there. So a fetch says that only where it is
//! certain.

mod beginning;
mod fetch;
mod follow;
mod known;
mod large;
mod prefetch;
mod push;
mod ready;
mod segment;
mod ship;
mod start;
mod state;

#[cfg(test)]
mod tests;

pub use crate::sources::postgres::receive::{SlotName, Terms};
pub use beginning::fork_of_pieces;
pub use fetch::{FetchRequest, Fetched, fetch, open_file, open_served, read_plan};
pub use follow::{FollowRequest, follow};
pub use large::{LogBytes, look_at, look_at_served, serve_into};
pub use push::{PushRequest, Pushed, push};
pub use start::{OpenRequest, Opened, open};
pub use state::{ArchiveState, Foreign, peek};
