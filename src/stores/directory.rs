//! A directory as an object store.
//!
//! object_store's own `LocalFileSystem` would make a directory that has vanished again and fill whatever lies
//! beneath an unmounted disk; it follows links, which may lead into another store or anywhere; it gives up a listing
//! over one strange name; it leaves a directory entry unsynced when another writer, or one that was killed, made the
//! directory. Hence this one. Every write is: a file beside its target, fsync, rename onto the target unless there is
//! one, fsync of the directory and of every directory above it that this process has not yet seen on stable storage.
//! Nothing that is done passes through a link below the store's own directory: see [`folder`].

mod folder;
mod root;
mod walk;

use super::{large::LargeObject, reading::MAX_LISTED};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode, Result, path::Path,
};
use root::{Root, unsupported};
use std::{fmt, io, ops::Range, path::Path as FilePath, sync::Arc};
use tokio::sync::mpsc;

/// An object store in a directory.
#[derive(Clone, Debug)]
pub(super) struct Directory(Arc<Root>);

impl Directory {
    /// The store in an existing directory. From now on, another directory in its place counts as gone.
    pub(super) fn open(path: &FilePath) -> io::Result<Self> {
        Ok(Directory(Arc::new(Root::open(path)?)))
    }

    pub(super) fn path(&self) -> &FilePath {
        self.0.path()
    }

    /// Creates an object from a file.
    pub(super) async fn create_from(&self, key: &Path, object: &LargeObject) -> Result<()> {
        let (key, object) = (key.clone(), object.clone());
        self.run(move |root| root.create_from(&key, &object)).await
    }

    /// Makes sure that a file that is there stays there: syncs it and the directories above it.
    pub(super) async fn settle(&self, key: &Path) -> Result<()> {
        let key = key.clone();
        self.run(move |root| root.settle(&key)).await
    }

    /// Moves a link, or whatever else is no folder and stands in the place of one above an object, to quarantine.
    /// Says where it is now; `None` if nothing is in the way.
    pub(super) async fn clear_way(&self, key: &Path) -> Result<Option<String>> {
        let key = key.clone();
        self.run(move |root| root.clear_way(&key)).await
    }

    /// Runs blocking work on a thread that may block.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Root) -> Result<T> + Send + 'static) -> Result<T> {
        let root = self.0.clone();
        tokio::task::spawn_blocking(move || {
            root.check()?;
            work(&root)
        })
        .await?
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Directory({})", self.path().display())
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(unsupported("conditional update")),
        };
        let key = location.clone();
        self.run(move |root| root.put(&key, &payload, create)).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(unsupported("upload in parts; objects are small enough to be written whole"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.clone();
        self.run(move |root| root.get(&key, &options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (key, ranges) = (location.clone(), ranges.to_vec());
        self.run(move |root| root.get_ranges(&key, &ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let directory = self.clone();
        let delete = move |location: Result<Path>| {
            let directory = directory.clone();
            async move {
                let key = location?;
                let deleted = key.clone();
                directory.run(move |root| root.delete(&key)).await?;
                Ok(deleted)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (sender, receiver) = mpsc::channel(4);
        let (directory, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let start = async move {
            tokio::task::spawn_blocking(move || {
                let walked = directory.0.check().and_then(|()| walk::walk(&directory.0, &prefix, &sender));
                if let Err(error) = walked {
                    let _ = sender.blocking_send(Err(error));
                }
            });
            walk::objects(receiver)
        };
        futures_util::stream::once(start).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.run(move |root| walk::level(root, &prefix, MAX_LISTED)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let create = matches!(options.mode, CopyMode::Create);
        let (from, to) = (from.clone(), to.clone());
        self.run(move |root| root.copy(&from, &to, create)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let create = matches!(options.target_mode, RenameTargetMode::Create);
        let (from, to) = (from.clone(), to.clone());
        self.run(move |root| root.rename(&from, &to, create)).await
    }
}

#[cfg(test)]
mod link_tests;

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
