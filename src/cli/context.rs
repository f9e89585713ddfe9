//! What a command is given to work with.

use super::{
    Output,
    arguments::{Global, StoreArguments},
    progress::Reporter,
    signals,
};
use crate::{
    config::{self, Access, Settings},
    core::failure::Failure,
    ops::{cancel::Cancellation, progress::Progress},
    world::World,
};
use std::{path::Path, sync::Arc};

/// What a command is given: the flags of every command, where to print, and the world.
pub struct Context {
    global: Global,
    output: Output,
    world: World,
}

/// What a use case is given besides its request.
#[derive(Clone)]
pub struct Job {
    /// Clock and randomness.
    pub world: World,
    /// Who listens.
    pub progress: Arc<dyn Progress>,
    /// Whether to stop.
    pub cancellation: Cancellation,
}

impl Job {
    /// Runs work that may be dropped at any moment, until it ends or is asked to stop: everything that commits does
    /// so atomically, and what a dropped run leaves the next one removes.
    pub async fn until_cancelled<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            () = self.cancellation.cancelled() => Err(self.cancellation.check().err().unwrap_or_else(|| {
                Failure::internal("the work was dropped though nobody asked for it")
            })),
        }
    }
}

impl Context {
    /// The real world, as the flags want it.
    pub fn new(global: Global, output: Output) -> Self {
        let world = World::real().with_reason(global.reason.as_deref());
        Context { global, output, world }
    }

    /// The flags of every command.
    pub fn global(&self) -> &Global {
        &self.global
    }

    /// Where to print.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Clock and randomness.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Finds and reads the configuration.
    pub fn settings(&self) -> Result<Settings, Failure> {
        config::load(&config::find(self.global.config.as_deref())?)
    }

    /// The configuration, or the stores that the command line names in its place.
    pub fn access(&self, stores: &StoreArguments, identity: Option<&Path>) -> Result<Access, Failure> {
        stores.access(&self.global, identity)
    }

    /// Runs a use case until it ends or a signal asks it to, showing its progress meanwhile.
    pub fn run<T>(&self, work: impl AsyncFnOnce(Job) -> Result<T, Failure>) -> Result<T, Failure> {
        self.run_with(Reporter::new(&self.global), work)
    }

    /// The same for a use case whose messages are its result: they go to standard output.
    pub fn run_telling<T>(&self, work: impl AsyncFnOnce(Job) -> Result<T, Failure>) -> Result<T, Failure> {
        let reporter = Reporter::new(&self.global);
        self.run_with(if self.output.is_json() { reporter } else { reporter.telling() }, work)
    }

    fn run_with<T>(&self, reporter: Reporter, work: impl AsyncFnOnce(Job) -> Result<T, Failure>) -> Result<T, Failure> {
        let reporter = Arc::new(reporter);
        let cancellation = Cancellation::new();
        let progress: Arc<dyn Progress> = reporter.clone();
        let job = Job { world: self.world.clone(), progress, cancellation: cancellation.clone() };
        let result = signals::run_until_signalled(&reporter, &cancellation, work(job));
        reporter.finish();
        result
    }
}
