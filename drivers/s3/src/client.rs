//! One request and its answer: signed, paced, bounded, and without a second try.
//!
//! Retries live above the driver. Redirects are never followed, so that no request that carries a signature
//! reaches a host that was not named. The `Date` of every answer is kept for the store's clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, DATE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;
use packvault_storage::{Error, ErrorKind, Operation, Progress, Result, Step, StoreClock, Wire};
use tokio::time::Instant;

use crate::body::Payload;
use crate::config::{S3Config, S3Timeouts};
use crate::credentials::{Identity, identity};
use crate::error::{LineErrors, Refusal};
use crate::place::{Place, location};
use crate::times::parse_http_date;

/// The longest answer that is no object: a page of a thousand keys of a kibibyte, escaped, fits.
pub(crate) const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The longest body that is taken without an announced length.
const UNANNOUNCED_BYTES_MAX: u64 = 64 << 20;

/// The longest explanation of a refusal.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;

/// The least that must come within the idle time for an answer to count as moving.
const PROGRESS_BYTES_MIN: u64 = 1 << 10;

/// What is allocated before bytes have come, whatever length was announced.
const ALLOCATED_BYTES_MAX: u64 = 4 << 20;

/// Connections kept open without use.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// How long they are kept; many servers close theirs soon after, and a request sent into that is lost.
const IDLE_CONNECTION_SECONDS: u64 = 15;

/// Why there may be no HTTP client.
const UNBUILT: &str =
    "no HTTPS client can be made; the system may lack the certificates of authorities (ca-certificates)";

/// The line to one place in a store.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    identity: Identity,
    pub place: Place,
    pub wire: Arc<Wire>,
    pub clock: StoreClock,
    pub timeouts: S3Timeouts,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub method: Method,
    /// The object's full key; `None` asks the bucket.
    pub key: Option<&'a str>,
    pub query: &'a [(&'a str, &'a str)],
    pub headers: HeaderMap,
    pub payload: Payload,
    /// The digest to sign, if it is not the payload's.
    pub digest: Option<[u8; 32]>,
    /// How long nothing may move, if not the usual time.
    pub idle: Option<Duration>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, key: Option<&'a str>) -> Self {
        Self {
            method,
            key,
            query: &[],
            headers: HeaderMap::new(),
            payload: Payload::default(),
            digest: None,
            idle: None,
        }
    }

    pub(crate) fn query(mut self, query: &'a [(&'a str, &'a str)]) -> Self {
        self.query = query;
        self
    }

    pub(crate) fn payload(mut self, payload: impl Into<Payload>) -> Self {
        self.payload = payload.into();
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl Client {
    pub(crate) fn new(config: &S3Config, wire: Arc<Wire>) -> Result<Self> {
        let (identity, region) = identity(config, &location(&config.bucket, &config.prefix))?;
        let place = Place::new(config, region)?;
        let http = http_client(config).map_err(|(detail, error)| {
            let refused = Error::new(ErrorKind::Config, Operation::Open, &place.location, detail);
            match error {
                Some(error) => refused.with_source(error.without_url()),
                None => refused,
            }
        })?;
        Ok(Self { http, identity, place, wire, clock: StoreClock::default(), timeouts: config.timeouts })
    }

    /// Sends the request once and returns the head of whatever answer came.
    pub(crate) async fn send(&self, step: Step<'_>, request: Request<'_>) -> Result<Answer<'_>> {
        let credential = self.credential(step).await?;
        let is_head = request.method == Method::HEAD;
        let idle = request.idle.unwrap_or(self.timeouts.idle);
        let progress = Arc::new(Progress::begin());
        let request = self.prepare(step, request, credential.as_deref(), Arc::clone(&progress)).await?;
        let response = tokio::select! {
            response = self.http.execute(request) => response.map_err(|error| step.unanswered(error))?,
            () = progress.stand_still(idle) => return Err(step.timeout(idle)),
        };
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        if let Some(shown) = date.and_then(parse_http_date) {
            self.clock.note(shown);
        }
        Ok(Answer { client: self, response, credential, is_head, idle })
    }

    /// Tells whether requests are signed.
    pub(crate) fn is_signed(&self) -> bool {
        self.identity.is_some()
    }

    async fn credential(&self, step: Step<'_>) -> Result<Option<Arc<AwsCredential>>> {
        let Some(identity) = &self.identity else { return Ok(None) };
        let found = identity.get_credential().await;
        found.map(Some).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            step.error(ErrorKind::Config, cause)
        })
    }

    async fn prepare(
        &self,
        step: Step<'_>,
        request: Request<'_>,
        credential: Option<&AwsCredential>,
        progress: Arc<Progress>,
    ) -> Result<reqwest::Request> {
        let Request { method, key, query, headers, payload, digest, .. } = request;
        let illegal = |what: &str| step.error(ErrorKind::Unsupported, format!("it has no {what}"));
        let uri = self.place.uri(key, query).map_err(|error| illegal("address").with_source(error))?;
        let url =
            reqwest::Url::parse(&uri.to_string()).map_err(|error| illegal("address").with_source(error))?;
        let mut unsigned = http::Request::new(HttpRequestBody::empty());
        *unsigned.method_mut() = method;
        *unsigned.uri_mut() = uri;
        *unsigned.headers_mut() = headers;
        if let Some(credential) = credential {
            let digest = match digest {
                Some(digest) => digest,
                None => payload.digest().await,
            };
            AwsAuthorizer::new(credential, "s3", &self.place.region)
                .try_authorize(&mut unsigned, Some(&digest))
                .map_err(|error| illegal("signature").with_source(error))?;
        }
        let (parts, _) = unsigned.into_parts();
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if let Some(signature) = request.headers_mut().get_mut(AUTHORIZATION) {
            signature.set_sensitive(true);
        }
        if payload.size_bytes > 0 {
            request.headers_mut().insert(CONTENT_LENGTH, payload.size_bytes.into());
            *request.body_mut() = Some(payload.into_body(Arc::clone(&self.wire), progress));
        } else if matches!(*request.method(), Method::PUT | Method::POST) {
            request.headers_mut().insert(CONTENT_LENGTH, 0.into());
        }
        Ok(request)
    }
}

/// Makes the HTTP client, or says what of the configuration it does not take.
fn http_client(
    config: &S3Config,
) -> std::result::Result<reqwest::Client, (&'static str, Option<reqwest::Error>)> {
    use_ring();
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(config.timeouts.connect)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(Duration::from_secs(IDLE_CONNECTION_SECONDS))
        .https_only(!config.allow_http)
        .user_agent(concat!("packvault/", env!("CARGO_PKG_VERSION")));
    if let Some(proxy) = &config.proxy {
        let proxy = reqwest::Proxy::all(proxy.as_str());
        // The cause is left out: it may quote the address, and that may hold a password.
        builder = builder.proxy(proxy.map_err(|_| ("the proxy's address cannot be used", None))?);
    }
    if let Some(pem) = &config.ca_certificate {
        let unusable = "the certificate of the authority cannot be used; it must be PEM";
        let certificates = reqwest::Certificate::from_pem_bundle(pem);
        let certificates = certificates.map_err(|error| (unusable, Some(error)))?;
        if certificates.is_empty() {
            return Err((unusable, None));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    let is_plain = config.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http:"));
    if config.allow_http && is_plain && config.proxy.is_none() {
        // Certificates are of no use here, and a system without any must not stand in the way.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| (UNBUILT, Some(error)))
}

/// Chooses the cryptography of TLS for the process, unless somebody has done so.
pub(crate) fn use_ring() {
    // An error means that another one is in place, which will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The head of an answer; the body is still on its way.
#[derive(Debug)]
pub(crate) struct Answer<'c> {
    client: &'c Client,
    response: reqwest::Response,
    credential: Option<Arc<AwsCredential>>,
    is_head: bool,
    idle: Duration,
}

impl Answer<'_> {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Returns a header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Returns the announced length of the object, also after HEAD.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Returns what the store gave as the reason.
    pub(crate) async fn refusal(self) -> Refusal {
        let (status, headers) = (self.status(), self.response.headers().clone());
        let (is_head, credential) = (self.is_head, self.credential.clone());
        let mut reader = Reader::new(self);
        let mut body = BytesMut::new();
        // A reason cut short is none; the status has to do then.
        while (body.len() as u64) < REFUSAL_BYTES_MAX {
            match reader.next(Step::new(Operation::Read, "")).await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                _ => break,
            }
        }
        Refusal::new(status, &headers, &without_secrets(&body, credential.as_deref()), is_head)
    }

    /// Makes the error of an answer that no step expects.
    pub(crate) async fn refused(self, step: Step<'_>) -> Error {
        let client = self.client;
        self.refusal().await.error(step, &client.place)
    }

    /// Reads the whole body, which may have no more than so many bytes.
    pub(crate) async fn bytes(self, step: Step<'_>, bytes_max: u64) -> Result<Bytes> {
        let announced = self.length();
        if announced.is_some_and(|length| length > bytes_max) {
            return Err(too_long(step, bytes_max));
        }
        let take = announced.unwrap_or(bytes_max.min(UNANNOUNCED_BYTES_MAX));
        self.take(step, take, announced.is_some()).await
    }

    /// Returns the whole body: exactly so many bytes, or up to so many.
    pub(crate) async fn take(self, step: Step<'_>, take: u64, is_exact: bool) -> Result<Bytes> {
        let mut reader = Reader::new(self);
        let mut taken = BytesMut::with_capacity(usize::try_from(take.min(ALLOCATED_BYTES_MAX)).unwrap_or(0));
        while let Some(piece) = reader.next(step).await? {
            if (taken.len() + piece.len()) as u64 > take {
                return Err(too_long(step, take));
            }
            taken.extend_from_slice(&piece);
        }
        if is_exact && taken.len() as u64 != take {
            return Err(too_short(step, taken.len(), take));
        }
        Ok(taken.freeze())
    }

    /// Returns so many bytes after those skipped, and lets the rest of the body go.
    pub(crate) async fn cut_out(self, step: Step<'_>, mut skip: u64, take: usize) -> Result<Bytes> {
        let mut reader = Reader::new(self);
        let mut taken = BytesMut::with_capacity(take.min(usize::try_from(ALLOCATED_BYTES_MAX).unwrap_or(0)));
        while taken.len() < take {
            let Some(mut piece) = reader.next(step).await? else {
                return Err(too_short(step, taken.len(), take as u64));
            };
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            let _ = piece.split_to(usize::try_from(skipped).unwrap_or(piece.len()));
            piece.truncate(take - taken.len());
            taken.extend_from_slice(&piece);
        }
        Ok(taken.freeze())
    }
}

fn too_long(step: Step<'_>, bytes_max: u64) -> Error {
    step.error(ErrorKind::Io, format!("the server sends more than the {bytes_max} bytes that it may"))
}

fn too_short(step: Step<'_>, taken: usize, take: u64) -> Error {
    step.error(ErrorKind::Connection, format!("the answer ended after {taken} of {take} bytes"))
}

/// A server may repeat what it was sent; what is secret of it goes.
fn without_secrets(body: &[u8], credential: Option<&AwsCredential>) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(body).into_owned();
    if let Some(credential) = credential {
        for secret in [Some(&credential.secret_key), credential.token.as_ref()].into_iter().flatten() {
            text = text.replace(secret.as_str(), "(left out)");
        }
    }
    text.into_bytes()
}

/// Takes a body piece by piece, and notices when it stands still or drips.
struct Reader<'c> {
    answer: Answer<'c>,
    waited: Duration,
    since_progress_bytes: u64,
}

impl<'c> Reader<'c> {
    fn new(answer: Answer<'c>) -> Self {
        Self { answer, waited: Duration::ZERO, since_progress_bytes: 0 }
    }

    async fn next(&mut self, step: Step<'_>) -> Result<Option<Bytes>> {
        let idle = self.answer.idle;
        let begun = Instant::now();
        let piece = tokio::time::timeout(idle.saturating_sub(self.waited), self.answer.response.chunk());
        let piece = piece.await.map_err(|_| step.timeout(idle))?;
        let piece = piece.map_err(|error| step.unanswered(error))?;
        self.waited += begun.elapsed();
        if let Some(piece) = &piece {
            self.since_progress_bytes += piece.len() as u64;
            if self.since_progress_bytes >= PROGRESS_BYTES_MIN {
                (self.waited, self.since_progress_bytes) = (Duration::ZERO, 0);
            }
            self.answer.client.wire.receive(piece.len() as u64).await;
        }
        Ok(piece)
    }
}
