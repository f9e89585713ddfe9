//! The demonstration: a ledger that looks real, lost and brought back.
//!
//! Everything is done by the use cases behind the commands, over configuration and keys as `init` makes them;
//! nothing here reaches into a repository, except to damage it.

pub mod audit;
mod book;
mod checks;
pub mod ledger;
mod log;
mod market;
mod proof;
mod stage;
mod story;
mod summary;
mod traffic;
mod words;

use super::{
    cancel::{Cancellation, interrupted},
    progress::Progress,
};
use crate::{
    core::{
        failure::{Code, Failure},
        result::DemoResult,
    },
    world::World,
};
use stage::Stage;
use std::{path::Path, sync::Arc};

/// Plays the demonstration in `dir`, or in a new temporary directory.
///
/// Its story goes to `progress` as messages. What it made stays; only an interrupted one is cleared away.
pub async fn demo(
    world: &World,
    dir: Option<&Path>,
    progress: &Arc<dyn Progress>,
    cancellation: &Cancellation,
) -> Result<DemoResult, Failure> {
    let stage = Stage::set(dir)?;
    let played = tokio::select! {
        result = story::play(world, &stage, progress) => Some(result),
        () = cancellation.cancelled() => None,
    };
    let Some(result) = played else {
        stage.clear();
        return Err(cancellation.check().err().unwrap_or_else(|| interrupted(Code::Interrupted)));
    };
    result.map_err(|failure| {
        failure
            .safe(format!("nothing outside {} was touched; it is kept", stage.dir().display()))
            .next_step("look into it, remove it, and run recoup demo again")
    })
}

/// Runs work that blocks on a thread that may block, so that an interruption need not wait for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(Failure::internal("a thread of the demonstration failed").cause(error)))
}
