//! A backend that asks before it reads, writes or deletes: whoever is asked may refuse, or let others go first.

use async_trait::async_trait;
use futures_util::{
    future::BoxFuture,
    stream::{BoxStream, StreamExt},
};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, path::Path,
};
use recoup::stores::Store;
use std::{fmt, sync::Arc};

/// What is about to be done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Delete,
}

type Ask = Arc<dyn Fn(Verb, Path) -> BoxFuture<'static, Result<()>> + Send + Sync>;

struct Asking {
    inner: Arc<dyn ObjectStore>,
    ask: Ask,
}

/// Makes a store ask.
pub(crate) fn make_ask(store: &mut Store, ask: Ask) {
    *store = store.clone().wrapped(|inner| Arc::new(Asking { inner, ask }));
}

impl fmt::Debug for Asking {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(formatter)
    }
}

impl fmt::Display for Asking {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Asking({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Asking {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        (self.ask)(Verb::Put, location.clone()).await?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, to: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        (self.ask)(Verb::Put, to.clone()).await?;
        self.inner.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        (self.ask)(Verb::Get, location.clone()).await?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let ask = self.ask.clone();
        let asked = locations.then(move |location| {
            let ask = ask.clone();
            async move {
                let location = location?;
                ask(Verb::Delete, location.clone()).await.map(|()| location)
            }
        });
        self.inner.delete_stream(asked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
