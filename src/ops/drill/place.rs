//! Where the plaintext of a drill lies for a while.

use super::DrillRequest;
use crate::{
    config::Settings,
    core::{
        failure::{Failure, shell_word},
        path::PARTIAL,
    },
    ops::{host::Host, off_limits, restore},
    world,
};
use std::{fs, io, path::PathBuf};

/// The directory of a drill.
pub(super) struct Place {
    /// What is restored into.
    pub(super) target: PathBuf,
    /// What the next command removes if this process dies. Of a directory that the operator named only our own folder
    /// in it: whatever else stands there by then is not ours.
    pub(super) unfinished: PathBuf,
    /// The directory above, where it is ours too and goes when it is empty.
    above: Option<PathBuf>,
}

impl Place {
    /// Chooses it, and refuses one in a store or a source. Makes nothing yet.
    pub(super) fn choose(host: &Host, settings: &Settings, request: &DrillRequest) -> Result<Self, Failure> {
        let place = match (&request.to, &request.scratch) {
            (Some(to), _) => {
                let target = world::absolute(to);
                Place { unfinished: target.join(PARTIAL), target, above: None }
            }
            (None, scratch) => {
                let own = host.state_dir.join("scratch");
                let above = scratch.as_deref().map_or_else(|| own.clone(), world::absolute);
                let target = above.join(format!("drill-{}", host.world.new_id()));
                Place { unfinished: target.clone(), target, above: scratch.is_none().then_some(own) }
            }
        };
        let flag = if request.to.is_some() { "--to" } else { "--scratch" };
        match place.above {
            // A place of our own, which nothing is kept in.
            Some(_) => off_limits::refuse_sources(&place.target, settings, None, flag)?,
            None => off_limits::refuse(&place.target, settings, None, flag)?,
        }
        restore::check_target(&place.target, &host.repository.stores)
            .map_err(|failure| failure.next_step(format!("name another directory with {flag}")))?;
        Ok(place)
    }

    /// Removes what was restored.
    pub(super) fn clear(&self) -> io::Result<()> {
        restore::remove_directory(&self.unfinished)?;
        if let Some(above) = &self.above {
            // Stays if another drill is in it.
            let _ = fs::remove_dir(above);
        }
        Ok(())
    }

    /// What the operator is told of plaintext that could not be removed.
    pub(super) fn left(&self, error: &io::Error) -> String {
        let directory = self.unfinished.display();
        format!(
            "the plaintext in {directory} could not be removed ({error}): rm -r {}",
            shell_word(self.unfinished.display())
        )
    }
}
