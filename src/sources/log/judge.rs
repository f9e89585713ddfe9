//! What became of captured bytes that are nowhere.

use super::{
    BLOCK_BYTES, Moment,
    matching::{Search, Tried},
};
use crate::core::alteration::{Alteration, LogProblem};

/// What must be told, in the order of the paths.
pub(super) fn alterations(search: &Search<'_, '_>, moment: Moment) -> Vec<Alteration> {
    let lost = (0..search.past.len()).filter(|past| !search.is_explained[*past]);
    lost.filter(|past| !is_expired(search, *past, moment)).map(|past| of(search, past)).collect()
}

/// Whether a file was old enough to be removed, and is gone. Another file may have its name or its inode by now.
fn is_expired(search: &Search<'_, '_>, past: usize, moment: Moment) -> bool {
    let is_there = search.at_path(past).is_some_and(|at| search.same_identity(past).contains(&at));
    !is_there && search.past[past].is_expired(moment.now, moment.rules.expire_after)
}

fn of(search: &Search<'_, '_>, past: usize) -> Alteration {
    let file = &search.past[past];
    let at_path = search.at_path(past);
    let is_itself = |tried: &Tried| {
        let same_path = at_path == Some(tried.found);
        let same_file = search.found[tried.found].stamp.identity() == file.stamp.identity();
        (same_path && same_file, same_path)
    };
    // The file that has most of it; of the same name where none has any.
    let free = search.tried[past].iter().filter(|tried| search.continued[tried.found].is_none());
    let best = free.max_by_key(|tried| (tried.agreement.blocks, is_itself(tried)));
    let best = best.filter(|tried| {
        let (same_path_and_file, same_path) = is_itself(tried);
        let is_emptied = search.found[tried.found].stamp.size == 0 && !same_path_and_file;
        tried.agreement.blocks > 0 || (same_path && !is_emptied)
    });
    let (problem, offset_bytes) = match best {
        None => (LogProblem::Removed, None),
        Some(tried) if tried.agreement.differs || tried.is_unpacked => {
            (LogProblem::Rewritten, Some(tried.agreement.blocks * u64::from(BLOCK_BYTES)))
        }
        Some(tried) => (LogProblem::Cut, Some(search.found[tried.found].stamp.size)),
    };
    let found_at = best.map(|tried| &search.found[tried.found].path).filter(|path| **path != file.path);
    Alteration { path: file.path.clone(), problem, offset_bytes, found_at: found_at.cloned() }
}
