//! A store that could not be opened: everything asked of it fails, saying why.
//!
//! It keeps its place among the stores, so that one missing disk never stops the rest.

use super::{Store, StoreSpec};
use crate::core::failure::Failure;
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, path::Path,
};
use std::{fmt, sync::Arc};

/// Why a store could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unopened(String);

#[derive(Debug)]
struct Absent(Unopened);

impl Store {
    /// The store if it can be opened, else one that answers everything with the reason.
    pub fn open_or_absent(spec: &StoreSpec) -> Store {
        Store::open(spec).unwrap_or_else(|failure| Store::absent(spec, &failure))
    }

    fn absent(spec: &StoreSpec, failure: &Failure) -> Store {
        let absent = Absent(Unopened(failure.to_string()));
        Store::over(spec.name.clone(), spec.url.clone(), Arc::new(absent)).with_place(spec.place.clone())
    }
}

impl Absent {
    fn error(&self) -> object_store::Error {
        object_store::Error::Generic { store: "absent", source: Box::new(self.0.clone()) }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Absent {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(self.error())
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(self.error())
    }

    async fn get_opts(&self, _: &Path, _: GetOptions) -> Result<GetResult> {
        Err(self.error())
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::iter([Err(self.error())]).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::iter([Err(self.error())]).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(self.error())
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(self.error())
    }
}
