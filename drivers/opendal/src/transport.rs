//! opendal's requests over our own HTTP client: paced, bounded, timed, and sent once.
//!
//! Retries live above the driver. Redirects are never followed, so that no request that carries a signature
//! reaches a host that was not named. An answer is read whole before it is handed on, never more of it than
//! was asked for. The `Date` of every answer is kept for the store's clock.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, HeaderMap, RANGE};
use http::{Method, Request, Response, StatusCode};
use jiff::fmt::rfc2822::DateTimeParser;
use opendal::raw::Operation;
use opendal::{Buffer, HttpBody, HttpTransport};
use packvault_storage::{ErrorKind, Progress, StoreClock, Wire};
use tokio::time::Instant;

use crate::body::paced;
use crate::config::{OpendalConfig, Timeouts};
use crate::error::Fault;

/// The longest answer that is no object: a page of five thousand keys of half a kibibyte, escaped, fits.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The longest object that is taken without an announced length.
const UNANNOUNCED_BYTES_MAX: u64 = 64 << 20;

/// The least that must come within the idle time for an answer to count as moving.
const PROGRESS_BYTES_MIN: u64 = 1 << 10;

/// Connections kept open without use.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// How long they are kept; many servers close theirs soon after, and a request sent into that is lost.
const IDLE_CONNECTION_SECONDS: u64 = 15;

/// The line to a store.
#[derive(Debug)]
pub(crate) struct Transport {
    http: reqwest::Client,
    wire: Arc<Wire>,
    clock: Arc<StoreClock>,
    timeouts: Timeouts,
}

impl Transport {
    pub(crate) fn new(
        config: &OpendalConfig,
        wire: Arc<Wire>,
        clock: Arc<StoreClock>,
    ) -> Result<Self, reqwest::Error> {
        // An error means that other cryptography is in place already, which will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
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
        let is_plain = config.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http:"));
        if config.allow_http && is_plain {
            // Certificates are of no use here, and a system without any must not stand in the way.
            builder = builder.tls_certs_only([]);
        }
        Ok(Self { http: builder.build()?, wire, clock, timeouts: config.timeouts })
    }

    async fn answer(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Fault> {
        let (parts, body) = request.into_parts();
        let asked = Asked::of(&parts);
        let url = reqwest::Url::parse(&parts.uri.to_string());
        let url = url.map_err(|_| Fault::new(ErrorKind::Config, "the server's address cannot be used"))?;
        let progress = Arc::new(Progress::begin());
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if !body.is_empty() {
            request.headers_mut().insert(CONTENT_LENGTH, body.len().into());
            *request.body_mut() = Some(paced(body, Arc::clone(&self.wire), Arc::clone(&progress)));
        }
        let idle = self.timeouts.idle;
        let mut answer = tokio::select! {
            answer = self.http.execute(request) => answer.map_err(|error| Fault::unanswered(&error))?,
            () = progress.stand_still(idle) => return Err(Fault::idle(idle)),
        };
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        if let Some(shown) = date.and_then(parse_http_date) {
            self.clock.note(shown);
        }
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        let pieces = match asked.is_head {
            true => Vec::new(),
            false => self.body(answer, asked.bytes_max(status, &headers)?).await?,
        };
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let pieces = stream::iter(pieces.into_iter().map(|piece| Ok(Buffer::from(piece))));
        let size = if asked.is_head { None } else { Some(bytes) };
        let mut response = Response::new(HttpBody::new(pieces, size));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// Takes the whole body, and notices when it is too long, stands still or drips.
    async fn body(&self, mut answer: reqwest::Response, bytes_max: u64) -> Result<Vec<Bytes>, Fault> {
        let idle = self.timeouts.idle;
        let (mut pieces, mut taken) = (Vec::new(), 0);
        let (mut waited, mut since_progress) = (Duration::ZERO, 0);
        loop {
            let begun = Instant::now();
            let piece = tokio::time::timeout(idle.saturating_sub(waited), answer.chunk()).await;
            let piece = piece.map_err(|_| Fault::idle(idle))?.map_err(|error| Fault::unanswered(&error))?;
            let Some(piece) = piece else { return Ok(pieces) };
            waited += begun.elapsed();
            let bytes = piece.len() as u64;
            taken += bytes;
            since_progress += bytes;
            if taken > bytes_max {
                let detail = format!("the server sends more than the {bytes_max} bytes that it may");
                return Err(Fault::new(ErrorKind::Io, detail));
            }
            if since_progress >= PROGRESS_BYTES_MIN {
                (waited, since_progress) = (Duration::ZERO, 0);
            }
            self.wire.receive(bytes).await;
            if bytes > 0 {
                pieces.push(piece);
            }
        }
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        self.answer(request).await.map_err(Fault::into_theirs)
    }
}

/// What a request asks for, as far as it bounds the answer.
struct Asked {
    is_head: bool,
    is_object: bool,
    /// The first and the last byte.
    range: Option<(u64, u64)>,
}

impl Asked {
    fn of(request: &http::request::Parts) -> Self {
        let range = request.headers.get(RANGE).and_then(|range| range.to_str().ok());
        let range = range.and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        let is_read = matches!(request.extensions.get(), Some(Operation::Read));
        let is_get = request.method == Method::GET;
        Self { is_head: request.method == Method::HEAD, is_object: is_read && is_get, range }
    }

    /// Returns how long the body may be.
    fn bytes_max(&self, status: StatusCode, headers: &HeaderMap) -> Result<u64, Fault> {
        if !self.is_object || !status.is_success() {
            return Ok(ANSWER_BYTES_MAX);
        }
        let header = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let Some((first, last)) = self.range else {
            let announced = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
            return Ok(announced.unwrap_or(UNANNOUNCED_BYTES_MAX));
        };
        let begins = header(CONTENT_RANGE).and_then(|range| {
            range.strip_prefix("bytes ")?.split_once('-').and_then(|(begins, _)| begins.parse::<u64>().ok())
        });
        if status != StatusCode::PARTIAL_CONTENT || begins != Some(first) {
            let detail = "the server answers a range with other bytes; no repository can lie there";
            return Err(Fault::new(ErrorKind::Unsupported, detail));
        }
        Ok((last - first.min(last)).saturating_add(1))
    }
}

/// Reads the time of a `Date` header.
fn parse_http_date(text: &str) -> Option<SystemTime> {
    DateTimeParser::new().parse_timestamp(text).ok().and_then(|time| SystemTime::try_from(time).ok())
}
