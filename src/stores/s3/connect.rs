//! The way from object_store to the server: an answer that is no success is understood here.

use super::{
    super::error::Trouble,
    answer::{Asked, Refusal, innermost},
    listing::tamed,
    server::Server,
};
use async_trait::async_trait;
use futures_util::StreamExt;
use object_store::{
    ClientOptions, Result,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
        ReqwestConnector,
    },
};
use std::sync::Arc;

/// The longest explanation that is read.
const EXPLANATION_BYTES_MAX: usize = 64 * 1024;
/// The longest page of a listing: 1000 names of at most 1 KiB, each escaped and with all that goes with it.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Connector {
    server: Arc<Server>,
    /// What takes the place of the network in a simulation.
    network: Option<HttpClient>,
}

impl Connector {
    pub(super) fn new(server: Server, network: Option<HttpClient>) -> Self {
        Connector { server: Arc::new(server), network }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let inner = match &self.network {
            Some(network) => network.clone(),
            None => ReqwestConnector::default().connect(options)?,
        };
        Ok(HttpClient::new(Service { inner, server: self.server.clone() }))
    }
}

#[derive(Debug)]
struct Service {
    inner: HttpClient,
    server: Arc<Server>,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let authority = request.uri().authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        if authority != self.server.authority() {
            return self.lend(&authority, request).await;
        }
        let lists = request.uri().query().is_some_and(|query| query.contains("list-type="));
        let answer = self.inner.execute(request).await.map_err(|error| unanswered(&authority, &error))?;
        match (answer.status().is_success(), lists) {
            (true, false) => Ok(answer),
            (true, true) => page(answer).await,
            (false, _) => self.refused(answer, if lists { Asked::Bucket } else { Asked::Object }).await,
        }
    }
}

fn unanswered(authority: &str, error: &HttpError) -> Trouble {
    let why = innermost(error);
    if why.contains("certificate") {
        let advice = "SSL_CERT_FILE names other certificates to trust";
        return Trouble::Gone(format!("{authority} cannot be trusted: {why}; {advice}"));
    }
    let why = format!("{authority} does not answer: {why}");
    match error.kind() {
        HttpErrorKind::Connect => Trouble::Silent(why),
        _ => Trouble::Passing(why),
    }
}

impl Service {
    /// Asks for credentials. Whoever lends them is no store: that it knows none must not read as a missing object.
    async fn lend(&self, authority: &str, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role";
        let failed = |why: String| format!("{authority} lends no credentials: {why}; {advice}");
        match self.inner.execute(request).await {
            Ok(answer) if answer.status().is_success() => Ok(answer),
            Ok(answer) if answer.status().is_server_error() => {
                Err(Trouble::Passing(failed(format!("HTTP {}", answer.status().as_u16()))).into())
            }
            Ok(answer) => Err(Trouble::Denied(failed(format!("HTTP {}", answer.status().as_u16()))).into()),
            Err(error) => Err(Trouble::Gone(failed(innermost(&error))).into()),
        }
    }

    async fn refused(&self, answer: HttpResponse, asked: Asked) -> Result<HttpResponse, HttpError> {
        let (parts, body) = answer.into_parts();
        let body = read(body, EXPLANATION_BYTES_MAX).await?;
        let text = String::from_utf8_lossy(&body);
        let region = parts.headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
        let refusal = Refusal { status: parts.status.as_u16(), region, body: &text };
        match refusal.trouble(&self.server, asked) {
            Some(trouble) => Err(trouble.into()),
            None => Ok(HttpResponse::from_parts(parts, body.into())),
        }
    }
}

async fn page(answer: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = answer.into_parts();
    let body = read(body, PAGE_BYTES_MAX + 1).await?;
    if body.len() > PAGE_BYTES_MAX {
        return Err(Trouble::Gone("its listing has no end".to_owned()).into());
    }
    let listing = String::from_utf8(body).map_err(|_| Trouble::Gone("its listing is no text".to_owned()))?;
    Ok(HttpResponse::from_parts(parts, tamed(&listing).into()))
}

/// At most so much of a body.
async fn read(body: HttpResponseBody, bytes_max: usize) -> Result<Vec<u8>, HttpError> {
    let mut read = Vec::new();
    let mut pieces = body.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let fits = bytes_max.saturating_sub(read.len()).min(piece.len());
        read.extend_from_slice(&piece[..fits]);
        if read.len() >= bytes_max {
            break;
        }
    }
    Ok(read)
}
