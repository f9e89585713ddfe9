//! Fetching packs, from each store that has them until one gives the right blocks, and writing what is in them.

use super::manifest::{Manifest, PackContent, nowhere};
use crate::{
    core::{
        extents::ExtentList,
        failure::{Code, Failure},
        id::RunId,
        manifest::{Extent, PackId},
        result::Problem,
    },
    format::{
        FormatError,
        digests::{self, DigestPart},
        pack::{PackReader, block_digest, check_header},
        ranged::{self, SparseObject},
        seal::{Identities, open_small},
    },
    ops::progress::Progress,
    repository::{
        Repository,
        catalogue::Catalogue,
        fetch::{NowhereIntact, Wanted, problem_of},
        layout,
    },
    stores::{Store, StoreError},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::sync::Arc;

/// Packs that are fetched and opened at once.
const CONCURRENT_PACKS: usize = 3;
/// A pack is fetched by ranges when they are at most this share of it.
const RANGED_SHARE: f64 = 0.5;

/// Whoever takes blocks that are right.
pub(super) trait Blocks: Send + Sync {
    /// Takes blocks of an entry, from block `first` on.
    fn write(&self, entry: usize, first: u64, block_size: u64, bytes: &[u8]) -> Result<(), Failure>;

    /// What of a pack's extents is not there yet, where that can be told without fetching it.
    fn missing(
        &self,
        extents: &[(usize, Extent)],
        block_size: u64,
        digests: &DigestPart,
        pack: u32,
    ) -> Result<Option<Vec<(usize, Extent)>>, Failure> {
        let _ = (extents, block_size, digests, pack);
        Ok(None)
    }
}

/// Fetches every pack that the manifest uses and writes its blocks.
pub(super) async fn fetch_packs(
    repository: &Repository,
    catalogue: &Catalogue,
    manifest: &Manifest,
    identities: Arc<Identities>,
    files: Arc<dyn Blocks>,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<(PackId, Arc<DigestPart>)>(CONCURRENT_PACKS);
    let context = Context {
        repository,
        catalogue,
        manifest,
        identities,
        files,
        folder: layout::source_folder(&catalogue.source),
    };
    let context = &context;
    let produce = async move {
        for run in manifest.digests.keys() {
            context.queue_run(*run, &sender).await?;
        }
        Ok::<(), Failure>(())
    };
    let consume = async {
        let queue = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        let done = queue.map(|(id, digests)| context.restore_pack(id, digests)).buffer_unordered(CONCURRENT_PACKS);
        let mut done = std::pin::pin!(done);
        let mut packs = 0;
        while let Some(result) = done.next().await {
            progress.advance(result?);
            packs += 1;
        }
        Ok::<usize, Failure>(packs)
    };
    let ((), packs) = futures_util::future::try_join(produce, consume).await?;
    if packs != manifest.packs.len() {
        return Err(Failure::new(Code::Damaged, "the digests do not cover every pack of the snapshot"));
    }
    Ok(())
}

struct Context<'a> {
    repository: &'a Repository,
    catalogue: &'a Catalogue,
    manifest: &'a Manifest,
    identities: Arc<Identities>,
    files: Arc<dyn Blocks>,
    folder: String,
}

impl Context<'_> {
    /// Reads a run's digests and queues the packs that they cover.
    async fn queue_run(
        &self,
        run: RunId,
        queue: &tokio::sync::mpsc::Sender<(PackId, Arc<DigestPart>)>,
    ) -> Result<(), Failure> {
        for object in &self.manifest.digests[&run] {
            let key = format!("{}{}", self.folder, layout::run_object(run, &object.name));
            let wanted = Wanted { key: &key, size: Some(object.size), sha256: object.sha256, max_bytes: object.size };
            let sealed =
                self.repository.fetch(wanted, &self.catalogue.detours).await.map_err(|error| nowhere(&error))?;
            let opened = open_small(&self.identities, &sealed, digests::MAX_RAW_BYTES)
                .and_then(|raw| DigestPart::parse(raw, run))
                .map_err(|error| damaged(&key, &error))?;
            let opened = Arc::new(opened);
            for pack in opened.packs() {
                let id = PackId { run, pack };
                if self.manifest.packs.contains_key(&id) && queue.send((id, opened.clone())).await.is_err() {
                    // The consumer failed, and says why.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Restores the blocks of one pack, from the first store that gives it right. Returns how many raw bytes.
    async fn restore_pack(&self, id: PackId, digests: Arc<DigestPart>) -> Result<u64, Failure> {
        let whole = &self.manifest.packs[&id];
        let missing = self.missing(id, whole, digests.clone()).await?;
        let content = missing.as_ref().unwrap_or(whole);
        if content.extents.is_empty() {
            return Ok(whole.bytes_used());
        }
        let key = format!("{}{}", self.folder, layout::pack(id.run, id.pack));
        let mut reasons = Vec::new();
        let mut unreachable = false;
        for store in &self.repository.stores {
            let fetched = match fetch(store, &key, content).await {
                Ok(fetched) => fetched,
                Err(error) => {
                    let problem = problem_of(&error);
                    unreachable |= problem == Problem::Unreachable;
                    self.catalogue.detours.add(store.name(), &key, problem);
                    reasons.push(format!("on {} it is {problem}", store.name()));
                    continue;
                }
            };
            match self.write(id, content, fetched, digests.clone()).await? {
                Ok(()) => {
                    self.catalogue.detours.note_given(store.name());
                    return Ok(whole.bytes_used());
                }
                Err(FormatError::NoMatchingKey) => return Err(damaged(&key, &FormatError::NoMatchingKey)),
                Err(error) => {
                    self.catalogue.detours.add(store.name(), &key, Problem::Damaged);
                    reasons.push(format!("on {} it is damaged: {error}", store.name()));
                }
            }
        }
        Err(nowhere(&NowhereIntact { object: key, reasons, unreachable }))
    }

    /// What of a pack is still to be fetched; `None` where that is all of it.
    async fn missing(
        &self,
        id: PackId,
        content: &PackContent,
        digests: Arc<DigestPart>,
    ) -> Result<Option<PackContent>, Failure> {
        let (files, block_size) = (self.files.clone(), content.index.block_size);
        let extents: Vec<(usize, Extent)> = content.extents.iter().collect();
        let compare = move || files.missing(&extents, u64::from(block_size), &digests, id.pack);
        let missing = tokio::task::spawn_blocking(compare)
            .await
            .map_err(|error| Failure::internal(format!("a thread of the restore failed: {error}")))??;
        let (object, index) = (&content.object, &content.index);
        Ok(missing.map(|extents| PackContent {
            object: object.clone(),
            index: index.clone(),
            extents: extents.into_iter().collect(),
        }))
    }

    /// Opens a pack on a thread of its own and writes the blocks that are right.
    async fn write(
        &self,
        id: PackId,
        content: &PackContent,
        fetched: SparseObject,
        digests: Arc<DigestPart>,
    ) -> Result<Result<(), FormatError>, Failure> {
        let job = OpenPack {
            index: content.index.clone(),
            extents: content.extents.clone(),
            digests,
            pack: id.pack,
            identities: self.identities.clone(),
            files: self.files.clone(),
        };
        tokio::task::spawn_blocking(move || job.run(fetched))
            .await
            .map_err(|error| Failure::internal(format!("a thread of the restore failed: {error}")))?
    }
}

fn damaged(key: &str, error: &FormatError) -> Failure {
    match error {
        FormatError::NoMatchingKey => Failure::new(Code::NoKey, format!("the identity does not open {key}"))
            .cause("it may open the structure of snapshots (a host's catalogue key does), but not their content")
            .safe("nothing was left behind")
            .next_step("use the identity of a custodian"),
        _ => Failure::new(Code::Damaged, format!("{key} is damaged")).cause(error),
    }
}

/// Fetches a pack whole, or only the parts of it that are needed when those are few.
async fn fetch(store: &Store, key: &str, content: &PackContent) -> Result<SparseObject, StoreError> {
    let size = content.object.size;
    let blocks = content.extents.iter().map(|(_, extent)| (extent.raw_block, extent.count));
    let ranges = ranged::ranges(&content.index, size, blocks);
    let needed: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if needed as f64 > size as f64 * RANGED_SHARE {
        let bytes: Bytes = store.get(key, size).await?;
        return Ok(SparseObject::new(bytes.len() as u64, [(0, bytes)]));
    }
    let pieces = store.get_ranges(key, &ranges).await?;
    Ok(SparseObject::new(size, ranges.into_iter().map(|range| range.start).zip(pieces)))
}

struct OpenPack {
    index: crate::format::pack::PackIndex,
    extents: ExtentList,
    digests: Arc<DigestPart>,
    pack: u32,
    identities: Arc<Identities>,
    files: Arc<dyn Blocks>,
}

impl OpenPack {
    /// The outer result is about the target, the inner one about the pack.
    fn run(self, fetched: SparseObject) -> Result<Result<(), FormatError>, Failure> {
        if let Err(error) = check_header(fetched.start(), &self.index) {
            return Ok(Err(error));
        }
        let mut reader = match PackReader::new(fetched, &self.index, &self.identities) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let Some(digests) = self.digests.pack(self.pack).filter(|found| found.len() as u64 == self.index.blocks())
        else {
            return Ok(Err(FormatError::Damaged("its digests are not complete".to_owned())));
        };
        let block_size = self.index.block_size as usize;
        for (entry, extent) in self.extents.iter() {
            let mut done = 0;
            while done < extent.count {
                let raw_block = extent.raw_block + done;
                let bytes = match reader.blocks(raw_block, extent.count - done) {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok(Err(error)),
                };
                let expected = &digests[raw_block as usize..];
                let right = bytes
                    .chunks_exact(block_size)
                    .zip(expected)
                    .all(|(block, expected)| block_digest(&self.digests.key, block) == *expected);
                if !right {
                    return Ok(Err(FormatError::Damaged("a block is not what was captured".to_owned())));
                }
                self.files.write(entry, extent.first + done, block_size as u64, bytes)?;
                done += (bytes.len() / block_size) as u64;
            }
        }
        Ok(Ok(()))
    }
}
