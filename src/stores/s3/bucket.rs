//! What lies below a prefix in a bucket, as object_store's backend, with ranges read within bounds.
//!
//! object_store's own reading of ranges panics when one of several begins beyond the end of the object.

use super::{super::error::Trouble, answer::Answered, listing::FOLDER_ITSELF};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, OBJECT_STORE_COALESCE_DEFAULT,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, aws::AmazonS3,
    coalesce_ranges, path::Path, prefix::PrefixStore,
};
use std::{fmt, ops::Range};

#[derive(Debug)]
pub(super) struct Bucket(PrefixStore<AmazonS3>);

impl Bucket {
    pub(super) fn new(bucket: AmazonS3, prefix: &str) -> Self {
        Bucket(PrefixStore::new(bucket, Path::from(prefix)))
    }

    /// All the bytes of a range: neither fewer, as from an object that is too short, nor more.
    async fn whole_range(&self, location: &Path, range: Range<u64>) -> Result<Bytes> {
        let wanted = usize::try_from(range.end - range.start).map_err(|_| too_short())?;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.0.get_opts(location, options).await?;
        if found.range.end - found.range.start != wanted as u64 {
            return Err(too_short());
        }
        let mut read = BytesMut::with_capacity(wanted);
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            read.extend_from_slice(&piece?);
            if read.len() > wanted {
                break;
            }
        }
        if read.len() == wanted { Ok(read.freeze()) } else { Err(other_length(read.len(), wanted)) }
    }
}

/// What some programs make of the folder that the prefix looks like is neither ours nor anybody else's.
fn is_folder_itself(object: &ObjectMeta) -> bool {
    object.location.as_ref() == FOLDER_ITSELF
}

fn failed(trouble: Trouble) -> Error {
    Error::Generic { store: "S3", source: Box::new(Answered(trouble)) }
}

fn too_short() -> Error {
    failed(Trouble::Damaged("it ends before the bytes that were asked for".to_owned()))
}

fn other_length(read: usize, wanted: usize) -> Error {
    failed(Trouble::Passing(format!("{read} bytes or more came in place of {wanted}")))
}

impl fmt::Display for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        coalesce_ranges(ranges, |range| self.whole_range(location, range), OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let found = self.0.list(prefix);
        found.filter(|object| std::future::ready(!object.as_ref().is_ok_and(is_folder_itself))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.0.list_with_delimiter(prefix).await?;
        found.objects.retain(|object| !is_folder_itself(object));
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
