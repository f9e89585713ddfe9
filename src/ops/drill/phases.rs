//! How long each part of a drill took, by the monotonic clock.

use crate::{core::result::DrillPhase, world::Stopwatch};

/// Phases, one after another without gaps.
#[derive(Default)]
pub(super) struct Phases {
    done: Vec<DrillPhase>,
    running: Option<(&'static str, Stopwatch)>,
}

impl Phases {
    /// Begins a phase, and with it ends the one before.
    pub(super) fn begin(&mut self, name: &'static str) {
        self.end();
        self.running = Some((name, Stopwatch::start()));
    }

    /// Ends the phase that is running.
    pub(super) fn end(&mut self) {
        if let Some((name, stopwatch)) = self.running.take() {
            self.done.push(DrillPhase { name: name.to_owned(), seconds: stopwatch.seconds() });
        }
    }

    /// Those that have ended.
    pub(super) fn list(&self) -> Vec<DrillPhase> {
        self.done.clone()
    }
}
