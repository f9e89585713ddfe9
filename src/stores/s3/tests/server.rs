//! An S3 server in the test's own process, over a temporary directory.

use super::super::{Credentials, open_with};
use crate::{
    core::{policy::Place, s3::Options},
    stores::{Patience, Store, StoreSpec},
};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// The bucket that the server has.
pub(in super::super::super) const BUCKET: &str = "contract";

/// A server that ends with the test.
pub(in super::super::super) struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts one with an empty bucket. It lives on the test's runtime.
    pub(in super::super::super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("id", "secret"));
        let service = Arc::new(Handler {
            inner: service.build(),
            root: dir.path().to_owned(),
            writing: tokio::sync::Mutex::new(()),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                let service = service_fn(move |request| {
                    let service = service.clone();
                    async move { service.answer(request).await }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
            }
        });
        Server { address, accepting, dir }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory of the bucket.
    pub(super) fn directory(&self) -> std::path::PathBuf {
        self.dir.path().join(BUCKET)
    }

    /// A store in the bucket, below a prefix.
    pub(in super::super::super) fn store(&self, name: &str, prefix: &str) -> Store {
        open_at(self.address, name, prefix, ("id", "secret"))
    }
}

/// Makes up for what a directory behind S3 cannot do.
struct Handler {
    inner: s3s::service::S3Service,
    root: PathBuf,
    /// The server looks whether an object is there and then writes it: one at a time.
    writing: tokio::sync::Mutex<()>,
}

impl Handler {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<s3s::Body>, s3s::HttpError> {
        let path = self.root.join(request.uri().path().trim_start_matches('/'));
        let is_object = request.uri().path().trim_matches('/').contains('/');
        let reads = matches!(request.method().as_str(), "GET" | "HEAD");
        if reads && is_object && request.uri().query().is_none() && !path.is_file() {
            // A folder, or what lies below an object: to the server an error of its own.
            let body = "<Error><Code>NoSuchKey</Code></Error>".to_owned();
            let mut missing = Response::new(s3s::Body::from(body));
            *missing.status_mut() = hyper::StatusCode::NOT_FOUND;
            return Ok(missing);
        }
        let _alone = if reads { None } else { Some(self.writing.lock().await) };
        self.inner.call(request.map(s3s::Body::from)).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A store on any server, with credentials of the test's.
pub(super) fn open_at(server: SocketAddr, name: &str, prefix: &str, keys: (&str, &str)) -> Store {
    let url = format!("s3://{BUCKET}/{prefix}");
    let s3 = Options { endpoint: format!("http://{server}").parse().ok(), ..Options::default() };
    let spec = StoreSpec { name: name.into(), url, place: Place::default(), s3, ..StoreSpec::default() };
    let credentials = Credentials::Keys { id: keys.0.to_owned(), secret: keys.1.to_owned(), token: None };
    let store = open_with(&spec, &spec.url.parse().unwrap(), credentials).unwrap();
    store.with_patience(Patience { pause: Duration::from_millis(1), ..super::super::PATIENCE })
}
