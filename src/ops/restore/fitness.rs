//! What a PostgreSQL server that was snapshot needs, looked at in a few small files of the snapshot before anything is
//! written: where its tablespaces go, and whether it fits the PostgreSQL of this host.

use super::{
    Manifest, RestoreRequest,
    fetch::{Blocks, fetch_packs},
    manifest::PackContent,
    places::{Layout, tablespaces},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::RunId,
        manifest::PackId,
    },
    format::seal::Identities,
    ops::{cancel::HaltOnDrop, progress::NoProgress},
    repository::{Repository, catalogue::Catalogue},
    sources::postgres::{
        about::{self, About},
        fit::{self, Files, Fit},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// No file that is looked at is larger, and there are not as many.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const FILES_MAX: usize = 200;

/// What was found out.
#[derive(Default)]
pub(super) struct Fitness {
    /// What the operator should know.
    pub(super) notes: Vec<String>,
    /// What has its part in the exit code.
    pub(super) warnings: Vec<String>,
}

/// Looks at it, decides what goes where, and refuses what could not be started.
pub(super) async fn examine(
    repository: &Repository,
    catalogue: &Catalogue,
    request: &RestoreRequest,
    manifest: &mut Manifest,
    identities: &Arc<Identities>,
) -> Result<Fitness, Failure> {
    let files = Arc::new(peek(repository, catalogue, manifest, identities).await?);
    let about = About::read(files.get(about::PATH).map_or(&[], Vec::as_slice));
    let elsewhere = elsewhere(request, &about, &tablespaces(&manifest.entries))?;
    manifest.layout = Arc::new(Layout::of(&manifest.entries, &elsewhere));
    let ending = HaltOnDrop::default();
    let (halt, bin_dir) = (ending.halt().clone(), request.check_options.bin_dir.clone());
    let looking = tokio::task::spawn_blocking(move || fit::examine(&files, bin_dir.as_deref(), &halt));
    let Fit { misfits, mut warnings, notes } =
        looking.await.map_err(|error| Failure::internal(format!("a thread of the restore failed: {error}")))?;
    if let Some((_, next_step)) = misfits.first()
        && !request.confirmed
    {
        let found: Vec<&str> = misfits.iter().map(|(what, _)| what.as_str()).collect();
        let source = &request.source;
        return Err(Failure::new(Code::Refused, format!("the server of {source} would not start here"))
            .cause(found.join("; "))
            .safe("nothing was written")
            .next_step(format!("{next_step}; or restore all the same, adding --confirm={source}")));
    }
    warnings.extend(misfits.into_iter().map(|(what, next_step)| format!("{what}: {next_step}")));
    Ok(Fitness { notes, warnings })
}

/// The numbers of the tablespaces that are wanted elsewhere, in the order in which they were named.
fn elsewhere(request: &RestoreRequest, about: &About, there: &[u32]) -> Result<Vec<(u32, PathBuf)>, Failure> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for place in &request.server.tablespaces {
        let number = about.tablespace(&place.tablespace).filter(|number| there.contains(number));
        let wrong = |why: &str| {
            let known = |number: &u32| {
                let named = about.tablespaces.iter().find(|tablespace| tablespace.number == *number);
                named
                    .map_or(number.to_string(), |named| format!("{} ({number}, was in {})", named.name, named.location))
            };
            let known: Vec<String> = there.iter().map(known).collect();
            let known = if known.is_empty() { "no tablespaces".to_owned() } else { known.join(", ") };
            Failure::new(Code::Usage, format!("--tablespace {}={} {why}", place.tablespace, place.directory.display()))
                .cause(format!("the snapshot has {known}"))
                .safe("nothing was written")
                .next_step("name a tablespace of the snapshot, each once")
        };
        let number = number.ok_or_else(|| wrong("names no tablespace of the snapshot"))?;
        if found.iter().any(|(other, _)| *other == number) {
            return Err(wrong("names a tablespace for the second time"));
        }
        found.push((number, place.directory.clone()));
    }
    Ok(found)
}

/// A few small files of the snapshot.
async fn peek(
    repository: &Repository,
    catalogue: &Catalogue,
    manifest: &Manifest,
    identities: &Arc<Identities>,
) -> Result<Files, Failure> {
    let wanted = manifest.entries.iter().enumerate();
    let wanted = wanted.filter(|(_, entry)| {
        entry.block_size().is_some() && entry.size() <= FILE_BYTES_MAX && fit::is_looked_at(entry.path.as_str())
    });
    let paths: BTreeMap<usize, String> =
        wanted.take(FILES_MAX).map(|(at, entry)| (at, entry.path.as_str().to_owned())).collect();
    let empty = paths.keys().map(|at| (*at, vec![0; usize::try_from(manifest.entries[*at].size()).unwrap_or(0)]));
    let small = Arc::new(InMemory(Mutex::new(empty.collect())));
    let packs: BTreeMap<PackId, PackContent> = manifest
        .packs
        .iter()
        .map(|(id, content)| {
            let extents = content.extents.iter().filter(|(entry, _)| paths.contains_key(entry)).collect();
            (*id, PackContent { object: content.object.clone(), index: content.index.clone(), extents })
        })
        .filter(|(_, content)| !content.extents.is_empty())
        .collect();
    let runs: BTreeSet<RunId> = packs.keys().map(|pack| pack.run).collect();
    let digests = manifest.digests.iter().filter(|(run, _)| runs.contains(run));
    let part = Manifest {
        configuration: String::new(),
        catalogue_identity: None,
        entries: Vec::new(),
        digests: digests.map(|(run, objects)| (*run, objects.clone())).collect(),
        packs,
        replay: None,
        layout: Arc::default(),
    };
    fetch_packs(repository, catalogue, &part, identities.clone(), small.clone(), &NoProgress).await?;
    let mut read = small.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(paths.into_iter().map(|(at, path)| (path, read.remove(&at).unwrap_or_default())).collect())
}

/// Files by the position of their entry, as large as they are.
struct InMemory(Mutex<BTreeMap<usize, Vec<u8>>>);

impl Blocks for InMemory {
    fn write(&self, entry: usize, first: u64, block_size: u64, bytes: &[u8]) -> Result<(), Failure> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(first * block_size).unwrap_or(usize::MAX);
        let rest = files.get_mut(&entry).and_then(|file| file.get_mut(start..));
        if let Some(rest) = rest {
            let length = rest.len().min(bytes.len());
            rest[..length].copy_from_slice(&bytes[..length]);
        }
        Ok(())
    }
}
