//! From answers of the store to the contract's errors: each with its kind and what to do about it.
//!
//! What a step makes of "not found" or "the condition failed" differs, so the steps look at the status
//! first; the rest comes here.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use packvault_storage::{Error, ErrorKind, Step};

use crate::place::Place;
use crate::times::{parse_http_date, shown};
use crate::xml;

/// The longest text of a server that is repeated.
const SHOWN_BYTES_MAX: usize = 300;

/// How far our clock and the store's may be apart in Amazon's protocol, but for a margin.
const SKEW_MAX: Duration = Duration::from_secs(14 * 60);

/// The errors of a line.
pub(crate) trait LineErrors {
    /// Makes the error of a request that had no answer.
    fn unanswered(&self, error: reqwest::Error) -> Error;

    /// Makes the error of a line on which nothing moved for so long.
    fn timeout(&self, waited: Duration) -> Error;
}

impl LineErrors for Step<'_> {
    fn unanswered(&self, error: reqwest::Error) -> Error {
        let certificate = refused_certificate(&error);
        let (kind, detail) = match certificate {
            Some(reason) => (
                ErrorKind::Config,
                format!(
                    "the server's certificate is not trusted: {reason}; \
                     if it is the server's own, name the certificate of its authority"
                ),
            ),
            None if error.is_timeout() => (ErrorKind::Timeout, "no connection in time".to_owned()),
            None if error.is_connect() => (ErrorKind::Connection, "the server cannot be reached".to_owned()),
            None => (ErrorKind::Connection, "the connection broke".to_owned()),
        };
        self.error(kind, detail).with_source(error.without_url())
    }

    fn timeout(&self, waited: Duration) -> Error {
        let detail = format!("nothing moved for {} s", waited.as_secs_f32());
        self.error(ErrorKind::Timeout, detail)
    }
}

/// Returns why TLS refused the server's certificate, if that is what happened.
fn refused_certificate(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return Some(reason.to_string());
        }
        // An I/O error does not count what it wraps as its source.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// What a store said with a status that is no success.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    /// The code of S3's protocol; empty where there is none, as after HEAD.
    pub code: String,
    message: String,
    region: Option<String>,
    redirected_to: Option<String>,
    date: Option<SystemTime>,
    is_head: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, headers: &HeaderMap, body: &[u8], is_head: bool) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let told = xml::parse(body).ok();
        let told = |name: &str| told.as_ref().and_then(|root| root.text_of(name)).map(shorten);
        let host =
            |url: &str| reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        Self {
            status,
            code: told("Code").unwrap_or_default(),
            message: told("Message").unwrap_or_default(),
            region: header("x-amz-bucket-region").map(shorten).or_else(|| told("Region")),
            redirected_to: header("location").and_then(host).or_else(|| told("Endpoint")),
            date: header("date").and_then(parse_http_date),
            is_head,
        }
    }

    /// Makes the refusal of one of many that were asked for in one request.
    pub(crate) fn of_one(code: String, message: String) -> Self {
        let status = match code.as_str() {
            "AccessDenied" => StatusCode::FORBIDDEN,
            "InternalError" | "ServiceUnavailable" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        let (message, region, redirected_to, date) = (shorten(&message), None, None, None);
        Self { status, code: shorten(&code), message, region, redirected_to, date, is_head: false }
    }

    /// Makes the error that the refusal is, unless the step knows better.
    pub(crate) fn error(&self, step: Step<'_>, place: &Place) -> Error {
        let (kind, detail) = self.explain(place);
        step.error(kind, detail)
    }

    fn explain(&self, place: &Place) -> (ErrorKind, String) {
        use ErrorKind::{Config, Conflict, Connection, Denied, Full, Throttled, Timeout, Unsupported};
        let bucket = &place.bucket;
        match (self.code.as_str(), self.status.as_u16()) {
            ("NoSuchBucket", _) => (
                Config,
                format!("the bucket {bucket} does not exist; make it first, packvault makes no buckets"),
            ),
            ("InvalidAccessKeyId" | "InvalidToken" | "UnrecognizedClientException", _) => {
                (Denied, "the store does not know the access key; check which credentials are used".into())
            }
            ("SignatureDoesNotMatch", _) => (
                Denied,
                "the store finds the signature wrong; check the secret key, and the region and endpoint"
                    .into(),
            ),
            ("ExpiredToken" | "TokenRefreshRequired", _) => {
                (Denied, "the temporary credentials have expired; sign in anew".into())
            }
            ("RequestTimeTooSkewed" | "RequestExpired", _) => (Config, self.skew()),
            // After HEAD the times have to tell, and with servers that have no code for it.
            ("", 403) if self.is_head && self.is_skewed() => (Config, self.skew()),
            ("AccessDenied", _) if self.is_skewed() => (Config, self.skew()),
            (
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException",
                _,
            )
            | (_, 301) => (Config, self.wrong_region(place)),
            (_, 300..=399) => (Config, self.redirect()),
            ("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded", _) | (_, 429) => {
                (Throttled, self.said("the store asks to slow down"))
            }
            // After HEAD there is no code; nothing was to be changed, so nothing is in doubt.
            ("", 503) if self.is_head => (Throttled, self.said("the store is not to be had")),
            ("RequestTimeout", _) => (Throttled, "the store waited too long for the request".into()),
            (_, 408 | 504) => (Timeout, self.said("the store did not answer in time")),
            (
                "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "InvalidDigest",
                _,
            ) => (Connection, "the bytes were damaged on the way to the store".into()),
            (_, 409) => (Conflict, self.said("another write of it was under way")),
            ("QuotaExceeded" | "EntityTooLarge" | "XMinioStorageFull" | "InsufficientStorage", _)
            | (_, 413 | 507) => (Full, self.said("the store has no room for it")),
            ("NotImplemented" | "MethodNotAllowed" | "KeyTooLongError" | "InvalidObjectName", _)
            | (_, 405 | 501) => (Unsupported, self.said("the store has no such step")),
            ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) | (_, 401 | 403) => {
                (Denied, self.denied(bucket))
            }
            (_, 404) if self.code.is_empty() || self.code == "NoSuchKey" => {
                (ErrorKind::NotFound, "it does not exist".into())
            }
            // Whether the step happened before the store failed is not known.
            (_, 500..=599) => (Connection, self.said("the store failed")),
            _ => (ErrorKind::Io, self.said("the store refused it")),
        }
    }

    fn said(&self, what: &str) -> String {
        let mut text = format!("{what} ({}", self.status.as_u16());
        if !self.code.is_empty() {
            text.push_str(&format!(" {}", self.code));
        }
        if !self.message.is_empty() {
            text.push_str(&format!(": {}", self.message.trim_end_matches('.')));
        }
        text.push(')');
        text
    }

    fn denied(&self, bucket: &str) -> String {
        let reason = if self.is_head && self.code.is_empty() {
            "the credentials are wrong or may not do this"
        } else {
            "the credentials may not do this"
        };
        format!("{}; they need to list, read, write and delete in the bucket {bucket}", self.said(reason))
    }

    /// Tells whether our clocks are so far apart that a store which looks at the time refuses every request.
    fn is_skewed(&self) -> bool {
        let apart = |theirs: SystemTime| {
            let now = SystemTime::now();
            now.duration_since(theirs).unwrap_or_else(|behind| behind.duration())
        };
        self.date.is_some_and(|date| apart(date) > SKEW_MAX)
    }

    fn skew(&self) -> String {
        let ours = shown(SystemTime::now());
        let theirs = self.date.map_or_else(|| "another time".to_owned(), shown);
        format!("this machine's clock says {ours} and the store's {theirs}; set the clock")
    }

    fn wrong_region(&self, place: &Place) -> String {
        let ours = &place.region;
        match (&self.region, &self.redirected_to) {
            (Some(region), _) if region != ours => {
                format!("the bucket is in the region {region}, not in {ours}; set the region")
            }
            (_, Some(host)) => {
                format!("the bucket is reached at {host}; set the endpoint or the region (now {ours})")
            }
            _ => self.said(&format!("the region {ours} or the endpoint is wrong")),
        }
    }

    fn redirect(&self) -> String {
        let host = self.redirected_to.as_deref().unwrap_or("another place");
        format!("the server sends us on to {host}, where no credentials are taken; set the endpoint")
    }
}

/// Returns text of a server as it may be shown: short, on one line.
pub(crate) fn shorten(text: &str) -> String {
    let text = text.trim();
    let text = &text[..text.floor_char_boundary(SHOWN_BYTES_MAX)];
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{S3Config, S3Credentials};

    #[test]
    fn a_refusal_that_says_little_is_put_down_to_the_clock_where_that_is_far_off() {
        let config = S3Config::new("mail", "", S3Credentials::Anonymous);
        let place = Place::new(&config, Some("eu".to_owned())).unwrap();
        let explained = |date: &str, body: &[u8], is_head: bool| {
            let headers = HeaderMap::from_iter([(http::header::DATE, date.parse().unwrap())]);
            Refusal::new(StatusCode::FORBIDDEN, &headers, body, is_head).explain(&place)
        };
        let now = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
        let denied = b"<Error><Code>AccessDenied</Code></Error>";
        for (body, is_head) in [(&b""[..], true), (denied, false)] {
            let (kind, detail) = explained(long_ago, body, is_head);
            assert!(kind == ErrorKind::Config && detail.contains("clock"), "{detail}");
            assert_eq!(explained(&now, body, is_head).0, ErrorKind::Denied);
        }
    }
}
