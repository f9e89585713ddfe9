//! A store that refuses to delete: planned state, told and tried again.

use super::{History, confirmed, leftovers};
use crate::simulation::live;
use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use recoup::core::{failure::Code, result::Status};
use std::{fmt, sync::Arc};

/// A backend with an object lock.
#[derive(Debug)]
struct Locked(Arc<dyn ObjectStore>);

impl fmt::Display for Locked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Locked({})", self.0)
    }
}

#[async_trait]
impl ObjectStore for Locked {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, to: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let denied = |location: Result<Path>| {
            let path = location?.to_string();
            Err(Error::PermissionDenied { path, source: "the object is locked until 2031".into() })
        };
        locations.map(denied).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[test]
fn a_denied_delete_is_told_and_tried_again() {
    let history = History::new(5);
    let ids = history.ids();
    history.prune(2);
    let mut process = history.process().keeping(2);
    let stores = &mut process.host.repository.stores;
    stores[1] = stores[1].clone().wrapped(|inner| Arc::new(Locked(inner)));
    for _ in 0..2 {
        let pruned = live(process.prune(confirmed())).unwrap();
        assert_eq!(pruned.exit_code, Code::Warning, "{}", pruned.message);
        let kept: Vec<&str> =
            pruned.stores.iter().filter(|store| store.kept_objects > 0).map(|store| store.store.as_str()).collect();
        assert_eq!(kept, ["b"], "{}", pruned.message);
        assert!(pruned.message.contains("the object is locked until 2031"), "{}", pruned.message);
        assert!(leftovers(&history.site).len() > 5);
        history.verify_is(Status::Ok);
        history.restore_all(&ids[3..]);
        assert_eq!(history.listed(), ids[3..]);
    }
    // Once the lock has passed, nothing more is needed than the next run.
    assert_eq!(history.prune(2).exit_code, Code::Done);
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
}
