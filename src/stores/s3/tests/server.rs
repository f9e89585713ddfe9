//! An S3 server in the test's own process, over a temporary directory.

use super::super::{Credentials, open_with};
use crate::{
    core::{policy::Place, s3::Options},
    stores::{Patience, Store, StoreSpec},
};
use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tokio::task::JoinHandle;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The bucket that the server has.
pub(in super::super::super) const BUCKET: &str = "contract";

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// This is answered, and nothing done.
    Answer(u16, String),
    /// It is done, and the connection closed without an answer.
    LostReply,
    /// It is not done, and the connection closed.
    LostRequest,
    /// It is done, and the answer's body breaks off in its middle.
    TornBody,
    /// It is done, whatever it is to depend on.
    Overwrites,
    /// It is done, and never answered.
    Hangs,
}

/// What a request was.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) verb: String,
    pub(super) conditional: bool,
    pub(super) checksum: Option<String>,
}

/// A server that ends with the test.
pub(in super::super::super) struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    handler: Arc<Handler>,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts one with an empty bucket. It lives on the test's runtime.
    pub(in super::super::super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        service.set_auth(SimpleAuth::from_single("id", "secret"));
        let handler = Arc::new(Handler {
            inner: service.build(),
            root: dir.path().to_owned(),
            writing: tokio::sync::Mutex::new(()),
            faults: Mutex::default(),
            log: Mutex::default(),
        });
        let service = handler.clone();
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
        Server { address, accepting, handler, dir }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next requests go wrong so, one after another.
    pub(super) fn go_wrong(&self, faults: impl IntoIterator<Item = Fault>) {
        self.handler.faults.lock().unwrap().extend(faults);
    }

    /// The requests since the last call.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.handler.log.lock().unwrap())
    }

    /// The directory of the bucket.
    pub(super) fn directory(&self) -> std::path::PathBuf {
        self.dir.path().join(BUCKET)
    }

    /// A store in the bucket, below a prefix.
    pub(in super::super::super) fn store(&self, name: &str, prefix: &str) -> Store {
        open_at(self.address, name, &format!("{BUCKET}/{prefix}"), ("id", "secret"))
    }
}

/// Makes up for what a directory behind S3 cannot do.
struct Handler {
    inner: s3s::service::S3Service,
    root: PathBuf,
    /// The server looks whether an object is there and then writes it: one at a time.
    writing: tokio::sync::Mutex<()>,
    faults: Mutex<VecDeque<Fault>>,
    log: Mutex<Vec<Asked>>,
}

impl Handler {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<s3s::Body>, BoxError> {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        self.log.lock().unwrap().push(Asked {
            verb: request.method().to_string(),
            conditional: header("if-none-match").is_some(),
            checksum: header("x-amz-checksum-sha256"),
        });
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            None => self.done(request).await,
            Some(Fault::Answer(status, body)) => {
                let mut answer = Response::new(s3s::Body::from(body));
                *answer.status_mut() = status.try_into().unwrap();
                // The body was not read: the connection cannot be used again.
                answer.headers_mut().insert("connection", "close".parse().unwrap());
                Ok(answer)
            }
            Some(Fault::LostRequest) => Err("the connection is closed".into()),
            Some(Fault::LostReply) => {
                self.done(request).await?;
                Err("the connection is closed".into())
            }
            Some(Fault::TornBody) => {
                let answer = self.done(request).await?;
                Ok(answer.map(|body| s3s::Body::http_body(Torn(body))))
            }
            Some(Fault::Overwrites) => {
                std::fs::remove_file(self.root.join(request.uri().path().trim_start_matches('/'))).unwrap();
                self.done(request).await
            }
            Some(Fault::Hangs) => {
                self.done(request).await?;
                std::future::pending().await
            }
        }
    }

    async fn done(&self, request: Request<Incoming>) -> Result<Response<s3s::Body>, BoxError> {
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
        Ok(self.inner.call(request.map(s3s::Body::from)).await?)
    }
}

/// The first byte of a body, and then an error.
struct Torn(s3s::Body);

impl hyper::body::Body for Torn {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(context).map(|frame| {
            Some(match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) if data.len() > 1 => Ok(Frame::data(data.split_to(1))),
                    _ => Err("torn".into()),
                },
                _ => Err("torn".into()),
            })
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A store on any server, with credentials of the test's.
pub(super) fn open_at(server: SocketAddr, name: &str, place: &str, keys: (&str, &str)) -> Store {
    let url = format!("s3://{place}");
    let s3 = Options { endpoint: format!("http://{server}").parse().ok(), ..Options::default() };
    let spec = StoreSpec { name: name.into(), url, place: Place::default(), s3, ..StoreSpec::default() };
    let credentials = Credentials::Keys { id: keys.0.to_owned(), secret: keys.1.to_owned(), token: None };
    let store = open_with(&spec, &spec.url.parse().unwrap(), credentials).unwrap();
    store.with_patience(Patience { pause: Duration::from_millis(1), ..super::super::PATIENCE })
}
