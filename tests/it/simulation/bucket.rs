//! A server of buckets in this very process: what it is asked comes as HTTP, and no socket is used.
//!
//! It has the semantics of S3: creating on a condition, checksums, listings in pages, no renaming. Now and then it is
//! busy, or its answer is lost; never twice in a row for one request, so that nothing may come of it.

use super::random::Rng;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, TryStreamExt};
use hyper::body::{Body, Frame};
use object_store::{
    Error, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService},
    memory::InMemory,
    path::Path,
};
use recoup::{
    core::s3::Options,
    stores::{Store, StoreSpec},
};
use sha2::Digest;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

/// How often in a hundred requests something goes wrong.
const MISHAPS_PERCENT: u64 = 3;
/// What lies in the bucket besides, and is no business of ours.
const PREFIX: &str = "dr/far";

/// One bucket with its server, over a backend that holds its objects.
#[derive(Clone, Debug)]
pub(crate) struct Bucket(Arc<Server>);

#[derive(Debug)]
struct Server {
    objects: Arc<InMemory>,
    page: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    /// The requests that went wrong the last time they were made.
    wrong: BTreeSet<String>,
    /// What went wrong, and how often.
    mishaps: BTreeMap<&'static str, u64>,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    Busy,
    Conflict,
    LostRequest,
    LostReply,
    FailedAfter,
    TornBody,
    ShortBody,
    FlippedUpload,
}

const MISHAPS: [(Mishap, &str); 8] = [
    (Mishap::Busy, "busy"),
    (Mishap::Conflict, "conflict"),
    (Mishap::LostRequest, "lost request"),
    (Mishap::LostReply, "lost reply"),
    (Mishap::FailedAfter, "failed after"),
    (Mishap::TornBody, "torn body"),
    (Mishap::ShortBody, "short body"),
    (Mishap::FlippedUpload, "flipped upload"),
];

impl Bucket {
    /// A server for what the backend holds; its pages and its mishaps depend on the seed.
    pub(crate) fn new(objects: Arc<InMemory>, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let page = 8 + rng.below(100) as usize;
        let state = Mutex::new(State { rng, wrong: BTreeSet::new(), mishaps: BTreeMap::new() });
        Bucket(Arc::new(Server { objects, page, state }))
    }

    /// A store in the bucket.
    pub(crate) fn store(&self, name: &str) -> Store {
        let s3 = Options { endpoint: "http://simulated:9000".parse().ok(), ..Options::default() };
        let spec = StoreSpec { name: name.into(), url: format!("s3://acme-dr/{PREFIX}"), s3, ..StoreSpec::default() };
        Store::bucket(&spec, HttpClient::new(Service(self.0.clone()))).unwrap()
    }

    /// What went wrong so far, and how often.
    pub(crate) fn mishaps(&self) -> BTreeMap<&'static str, u64> {
        self.0.state.lock().unwrap().mishaps.clone()
    }
}

#[derive(Debug)]
struct Service(Arc<Server>);

/// A request, as far as it matters.
struct Asked {
    verb: String,
    key: String,
    query: BTreeMap<String, String>,
    conditional: bool,
    checksum: Option<String>,
    range: Option<String>,
    body: Bytes,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let key = decoded(path).strip_prefix("/acme-dr").unwrap().trim_start_matches('/').to_owned();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut asked = Asked {
            verb: request.method().to_string(),
            key,
            query: pairs.map(|(name, value)| (decoded(name), decoded(value))).collect(),
            conditional: header("if-none-match").is_some_and(|value| value == "*"),
            checksum: header("x-amz-checksum-sha256"),
            range: header("range"),
            body: Bytes::new(),
        };
        assert!(header("authorization").is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256 ")), "not signed");
        assert!(header("x-amz-copy-source").is_none(), "nothing is copied in a bucket");
        let id = format!("{} {} {:?}", asked.verb, request.uri(), asked.range);
        asked.body = read(request.into_body()).await;
        let mishap = self.0.mishap(&id, &asked);
        match mishap {
            Some(Mishap::LostRequest) => return Err(closed()),
            Some(Mishap::Busy) => return Ok(refusal(503, "SlowDown")),
            Some(Mishap::Conflict) => return Ok(refusal(409, "ConditionalRequestConflict")),
            Some(Mishap::FlippedUpload) => {
                let mut body = asked.body.to_vec();
                let middle = body.len() / 2;
                body[middle] ^= 4;
                asked.body = body.into();
            }
            _ => {}
        }
        let answer = self.0.answer(&asked).await;
        match mishap {
            Some(Mishap::LostReply) => Err(closed()),
            Some(Mishap::FailedAfter) => Ok(refusal(500, "InternalError")),
            Some(Mishap::TornBody) => {
                let (parts, body) = answer.into_parts();
                let whole = body.bytes().await?;
                let torn = Torn(Some(whole.slice(..whole.len() / 2)));
                Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(torn)))
            }
            // Its length is told, and it ends before.
            Some(Mishap::ShortBody) => {
                let (parts, body) = answer.into_parts();
                let whole = body.bytes().await?;
                Ok(HttpResponse::from_parts(parts, whole.slice(..whole.len() / 2).into()))
            }
            _ => Ok(answer),
        }
    }
}

impl Server {
    /// Whether this request goes wrong, and how.
    fn mishap(&self, id: &str, asked: &Asked) -> Option<Mishap> {
        let mut state = self.state.lock().unwrap();
        if state.wrong.remove(id) || !state.rng.percent(MISHAPS_PERCENT) {
            return None;
        }
        let (mishap, name) = *state.rng.pick(&MISHAPS);
        let fits = match mishap {
            Mishap::Conflict => asked.verb == "PUT" && asked.conditional,
            Mishap::FlippedUpload => asked.verb == "PUT" && !asked.body.is_empty(),
            Mishap::TornBody | Mishap::ShortBody => asked.verb == "GET" && asked.query.is_empty(),
            _ => true,
        };
        if !fits {
            return None;
        }
        state.wrong.insert(id.to_owned());
        *state.mishaps.entry(name).or_default() += 1;
        Some(mishap)
    }

    async fn answer(&self, asked: &Asked) -> HttpResponse {
        if asked.key.is_empty() {
            return self.list(&asked.query);
        }
        let key = asked.key.strip_prefix(PREFIX).and_then(|key| key.strip_prefix('/'));
        let path = Path::parse(key.expect("a key below the prefix")).expect("a plain key");
        match asked.verb.as_str() {
            "PUT" => self.put(&path, asked).await,
            "DELETE" => {
                let _ = self.objects.delete(&path).await;
                response(204, &[], Bytes::new())
            }
            _ => self.get(&path, asked).await,
        }
    }

    async fn put(&self, path: &Path, asked: &Asked) -> HttpResponse {
        match &asked.checksum {
            None => return refusal(400, "InvalidRequest"),
            Some(told) if *told != base64(&sha2::Sha256::digest(&asked.body)) => return refusal(400, "BadDigest"),
            Some(_) => {}
        }
        // Healing is the only way to put something on no condition, and there is something to heal then.
        assert!(asked.conditional || self.objects.head(path).await.is_ok(), "{path} is created on no condition");
        let mode = if asked.conditional { PutMode::Create } else { PutMode::Overwrite };
        match self.objects.put_opts(path, asked.body.clone().into(), mode.into()).await {
            Ok(_) => response(200, &[("etag", "\"1\"".to_owned())], Bytes::new()),
            Err(Error::AlreadyExists { .. }) => refusal(412, "PreconditionFailed"),
            Err(error) => panic!("{error}"),
        }
    }

    async fn get(&self, path: &Path, asked: &Asked) -> HttpResponse {
        let heads = asked.verb == "HEAD";
        let Ok(found) = self.objects.get(path).await else {
            return if heads { response(404, &[], Bytes::new()) } else { refusal(404, "NoSuchKey") };
        };
        let whole = found.bytes().await.unwrap();
        let mut headers =
            vec![("etag", "\"1\"".to_owned()), ("last-modified", "Sun, 22 Nov 2026 10:00:00 GMT".to_owned())];
        let range = asked.range.as_deref().map(|range| bounds(range, whole.len()));
        let (status, body) = match range {
            None => (200, whole),
            Some(None) => return refusal(416, "InvalidRange"),
            Some(Some(range)) => {
                headers.push(("content-range", format!("bytes {}-{}/{}", range.start, range.end - 1, whole.len())));
                (206, whole.slice(range.start..range.end))
            }
        };
        headers.push(("content-length", body.len().to_string()));
        response(status, &headers, if heads { Bytes::new() } else { body })
    }

    /// One page of names, in their order; what is below a delimiter counts as one name.
    fn list(&self, query: &BTreeMap<String, String>) -> HttpResponse {
        assert_eq!(query.get("list-type").map(String::as_str), Some("2"));
        let text = |name: &str| query.get(name).cloned().unwrap_or_default();
        let (prefix, delimiter) = (text("prefix"), text("delimiter"));
        let after = text("continuation-token").max(text("start-after"));
        let listed: Vec<_> = self.objects.list(None).try_collect().now_or_never().unwrap().unwrap();
        let mut names: BTreeMap<String, Option<u64>> = BTreeMap::new();
        // Others may have something in the bucket that begins almost alike.
        names.insert(format!("{PREFIX}ther/recoup.json"), Some(1));
        for object in listed {
            names.insert(format!("{PREFIX}/{}", object.location), Some(object.size));
        }
        let mut shown: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for (name, size) in names {
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            match rest.find(&delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => shown.insert(format!("{prefix}{}{delimiter}", &rest[..at]), None),
                None => shown.insert(name, size),
            };
        }
        shown.retain(|name, _| *name > after);
        let more = shown.len() > self.page;
        let mut xml = format!("<ListBucketResult><Name>acme-dr</Name><IsTruncated>{more}</IsTruncated>");
        let mut last = String::new();
        for (name, size) in shown.into_iter().take(self.page) {
            match size {
                Some(size) => write!(
                    xml,
                    "<Contents><Key>{name}</Key><LastModified>2026-11-22T10:00:00.000Z</LastModified><ETag>\"1\"</ETag>\
                     <Size>{size}</Size></Contents>"
                ),
                None => write!(xml, "<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
            }
            .unwrap();
            last = name;
        }
        if more {
            write!(xml, "<NextContinuationToken>{last}</NextContinuationToken>").unwrap();
        }
        response(200, &[], (xml + "</ListBucketResult>").into())
    }
}

/// The bytes that a range names; `None` where it begins beyond the end.
fn bounds(range: &str, length: usize) -> Option<std::ops::Range<usize>> {
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => GetRange::Bounded(first..last + 1),
        (Ok(first), Err(_)) => GetRange::Offset(first),
        (_, last) => GetRange::Suffix(last.unwrap()),
    };
    match range {
        GetRange::Bounded(range) => {
            let (start, end) = (range.start as usize, (range.end as usize).min(length));
            (start < end).then_some(start..end)
        }
        GetRange::Offset(start) => ((start as usize) < length).then_some(start as usize..length),
        GetRange::Suffix(count) => (length > 0).then_some(length.saturating_sub(count as usize)..length),
    }
}

fn response(status: u16, headers: &[(&str, String)], body: Bytes) -> HttpResponse {
    let mut response = hyper::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(body.into()).unwrap()
}

fn refusal(status: u16, code: &str) -> HttpResponse {
    response(status, &[], format!("<Error><Code>{code}</Code><Message>simulated</Message></Error>").into())
}

fn closed() -> HttpError {
    HttpError::new(HttpErrorKind::Interrupted, std::io::Error::from(std::io::ErrorKind::ConnectionReset))
}

async fn read(body: impl Body<Data = Bytes, Error = HttpError>) -> Bytes {
    let mut body = std::pin::pin!(body);
    let mut read = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
        read.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
    read.into()
}

/// The first part of a body, and then an error.
struct Torn(Option<Bytes>);

impl Body for Torn {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Poll::Ready(Some(self.0.take().map(Frame::data).ok_or_else(closed)))
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| std::str::from_utf8(&after[..2]).unwrap());
        bytes.push(code.map_or(*first, |code| u8::from_str_radix(code, 16).unwrap()));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let letter = char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]);
            text.push(if at <= three.len() { letter } else { '=' });
        }
    }
    text
}
