//! A bucket, or what lies below a prefix in it, as a store.
//!
//! object_store signs requests and reads listings. What a server's answer means is decided by [`connect`], below it:
//! its own error types tell a key that is there from a server that is busy only by chance. It never tries anything
//! again and sets no limit of time to a body; both is for [`super::Patience`].

mod answer;
mod bucket;
mod connect;
mod credentials;
mod listing;
mod server;
#[cfg(test)]
pub(super) mod tests;

use super::{Facts, Patience, Store, StoreError, StoreSpec, open::Target};
use crate::core::{
    failure::{Code, Failure},
    s3::Address,
};
use bucket::Bucket;
use credentials::Credentials;
use object_store::{
    ClientOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, Checksum},
    client::HttpClient,
};
use server::Server;
use std::{sync::Arc, time::Duration};

pub(super) use answer::trouble_in;
pub(super) use credentials::variables;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers close idle connections after 20 seconds or more; a request on one that was just closed is lost.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// A server that is asked to slow down needs longer than a disk: 0.25, 1 and 4 seconds.
const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(60),
    slowest_bytes_per_second: 256 * 1024,
    attempts: 4,
    pause: Duration::from_millis(250),
};

/// Opens the store. Nothing is asked of the server yet.
pub(super) fn open(spec: &StoreSpec, address: &Address) -> Result<Store, Failure> {
    open_with(spec, address, Credentials::from_environment(spec)?)
}

fn open_with(spec: &StoreSpec, address: &Address, credentials: Credentials) -> Result<Store, Failure> {
    open_over(spec, address, credentials, None)
}

impl Store {
    /// The bucket of a simulation: every request is signed, sent to `server` in place of the network, and its answer
    /// understood, as with any other.
    pub fn bucket(spec: &StoreSpec, server: HttpClient) -> Result<Store, Failure> {
        let Target::S3(address) = spec.target()? else {
            return Err(Failure::internal(format!("{} is no bucket", spec.url)));
        };
        let credentials = Credentials::Keys { id: "simulated".into(), secret: "simulated".into(), token: None };
        open_over(spec, &address, credentials, Some(server))
    }
}

fn open_over(
    spec: &StoreSpec,
    address: &Address,
    credentials: Credentials,
    network: Option<HttpClient>,
) -> Result<Store, Failure> {
    let bucket = connected(spec, address, credentials, network).map_err(|error| {
        Failure::new(Code::Store, format!("store {}: {address} cannot be opened", spec.name))
            .cause(error)
            .safe("the other stores are used; nothing was written here")
            .next_step("correct the store in recoup.toml; TLS needs the certificates of this system")
    })?;
    Ok(Store {
        name: spec.name.clone(),
        url: spec.url.clone(),
        place: spec.place.clone(),
        objects: Arc::new(Bucket::new(bucket, &address.prefix)),
        directory: None,
        facts: Facts { directory: None, conditional_create: spec.s3.conditional_create },
        patience: PATIENCE,
        silence: super::Silence::default(),
    })
}

fn connected(
    spec: &StoreSpec,
    address: &Address,
    credentials: Credentials,
    network: Option<HttpClient>,
) -> object_store::Result<AmazonS3> {
    // Of two providers that a build may hold, one has to be named. The second time it stands already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = Server::of(spec, address);
    let options = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .with_allow_http(!server.is_secure());
    // Every attempt is counted by whoever asked for it, and signed anew.
    let retry = RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() };
    let builder = AmazonS3Builder::new()
        .with_bucket_name(&address.bucket)
        .with_region(&server.region)
        .with_virtual_hosted_style_request(!server.is_path_style())
        .with_endpoint(server.url())
        .with_checksum_algorithm(Checksum::SHA256)
        .with_client_options(options)
        .with_retry(retry)
        // One request for one object: every server knows it, and its answer says which object is kept.
        .with_disable_bulk_delete(true)
        .with_http_connector(connect::Connector::new(server, network));
    credentials.give_to(builder).build()
}

/// Whether nothing lies there.
pub(super) async fn is_empty(store: &Store) -> Result<bool, StoreError> {
    store
        .repeated("", || async {
            let found = store.once(0, store.objects.list_with_delimiter(None)).await?;
            Ok(found.common_prefixes.is_empty() && found.objects.is_empty())
        })
        .await
}
