//! An upload in parts, as the protocol has it: begin, parts, completion or abort.
//!
//! The number of bytes in flight is the caller's matter. A part is the one request that is tried again in
//! here, for no wrapper sees it; sending it twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, IF_NONE_MATCH};
use http::{Method, StatusCode};
use packvault_storage::{Error, ErrorKind, Operation, Result, Step};

use crate::body::Payload;
use crate::client::{ANSWER_BYTES_MAX, Client, Request};
use crate::error::{Refusal, shorten};
use crate::features::Condition;
use crate::read::tag;
use crate::xml;

/// The size of every part but the last; some stores want them equal.
pub(crate) const PART_BYTES: usize = 8 << 20;

/// The most parts of one upload.
pub(crate) const PARTS_MAX: u32 = 10_000;

/// How often a part is sent, the first time included.
const PART_ATTEMPTS_MAX: u32 = 4;

/// The longest pause before a part is sent again; the first is an eighth of it.
const PART_PAUSE_MAX: Duration = Duration::from_secs(4);

/// How long a store may be silent while it joins the parts.
const COMPLETION_IDLE: Duration = Duration::from_secs(300);

/// An upload that the store has begun. Dropped before its completion, it is aborted in the background as
/// long as there is a runtime to do it.
#[derive(Debug)]
pub(crate) struct Upload {
    pub client: Arc<Client>,
    pub full_key: String,
    pub id: String,
    is_over: bool,
}

impl Upload {
    pub(crate) async fn begin(client: &Arc<Client>, step: Step<'_>, full_key: &str) -> Result<Self> {
        let request = Request::new(Method::POST, Some(full_key)).query(&[("uploads", "")]);
        let answer = client.send(step, request).await?;
        if answer.status() != StatusCode::OK {
            return Err(answer.refused(step).await);
        }
        let body = answer.bytes(step, ANSWER_BYTES_MAX).await?;
        let root = xml::parse(&body).map_err(|reason| unreadable(step, reason))?;
        let id = root.text_of("UploadId").filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| unreadable(step, "it names no upload"))?.to_owned();
        Ok(Self { client: Arc::clone(client), full_key: full_key.to_owned(), id, is_over: false })
    }

    /// Returns what a task needs to send a part.
    pub(crate) fn sender(&self) -> PartSender {
        PartSender { client: Arc::clone(&self.client), full_key: self.full_key.clone(), id: self.id.clone() }
    }

    /// Joins the parts under the key, if it is absent and the server keeps that condition.
    pub(crate) async fn complete(
        mut self,
        step: Step<'_>,
        tags: &[String],
        condition: Condition,
    ) -> Result<()> {
        let result = self.ask_to_complete(step, tags, condition).await;
        match &result {
            Ok(()) => self.is_over = true,
            // It may be happening just now. What is left of it, if it is not, the sweep finds.
            Err(error) if is_uncertain(error) => self.is_over = true,
            Err(_) => {
                let _ = self.abort(step).await;
            }
        }
        result
    }

    async fn ask_to_complete(&self, step: Step<'_>, tags: &[String], condition: Condition) -> Result<()> {
        let query = [("uploadId", self.id.as_str())];
        let mut request = Request::new(Method::POST, Some(&self.full_key)).query(&query);
        request.idle =
            Some(self.client.timeouts.idle.max(COMPLETION_IDLE.min(5 * self.client.timeouts.idle)));
        if condition != Condition::Refused {
            request = request.header(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let body = bytes::Bytes::from(completion(tags));
        let answer = self.client.send(step, request.payload(body)).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::PRECONDITION_FAILED => return Err(step.already_exists()),
            _ => return Err(answer.refused(step).await),
        }
        // The store answers at once and reports what became of it in the body.
        let body = answer.bytes(step, ANSWER_BYTES_MAX).await?;
        let uncertain =
            |reason| step.error(ErrorKind::Connection, format!("the answer is of no use: {reason}"));
        let root = xml::parse(&body).map_err(uncertain)?;
        match root.name.as_str() {
            "CompleteMultipartUploadResult" => Ok(()),
            "Error" if root.text_of("Code") == Some("PreconditionFailed") => Err(step.already_exists()),
            "Error" => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let refusal = Refusal::new(status, &http::HeaderMap::new(), &body, false);
                Err(refusal.error(step, &self.client.place))
            }
            _ => Err(uncertain("it is about something else")),
        }
    }

    /// Gives the upload up; tells whether it was there.
    pub(crate) async fn abort(&mut self, step: Step<'_>) -> Result<bool> {
        self.is_over = true;
        abort(&self.client, step, &self.full_key, &self.id).await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (client, full_key) = (Arc::clone(&self.client), std::mem::take(&mut self.full_key));
        let id = std::mem::take(&mut self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // What cannot be aborted now, the sweep finds.
                let _ = abort(&client, Step::new(Operation::Discard, &full_key), &full_key, &id).await;
            });
        }
    }
}

/// Gives an upload up; tells whether it was there.
pub(crate) async fn abort(client: &Client, step: Step<'_>, full_key: &str, id: &str) -> Result<bool> {
    let query = [("uploadId", id)];
    let answer = client.send(step, Request::new(Method::DELETE, Some(full_key)).query(&query)).await?;
    match answer.status() {
        StatusCode::OK | StatusCode::NO_CONTENT => Ok(true),
        StatusCode::NOT_FOUND => Ok(false),
        _ => Err(answer.refused(step).await),
    }
}

/// Sends parts of one upload.
#[derive(Debug)]
pub(crate) struct PartSender {
    client: Arc<Client>,
    full_key: String,
    id: String,
}

impl PartSender {
    /// Sends the part, several times if need be, and returns the tag the completion needs.
    pub(crate) async fn send(&self, step: Step<'_>, number: u32, payload: Payload) -> Result<String> {
        let mut failed = 0;
        loop {
            match self.send_once(step, number, payload.clone()).await {
                Err(error) if error.kind().is_passing() && failed + 1 < PART_ATTEMPTS_MAX => {
                    failed += 1;
                    let full = PART_PAUSE_MAX / (1 << (PART_ATTEMPTS_MAX - failed));
                    tokio::time::sleep(full.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                }
                result => return result,
            }
        }
    }

    async fn send_once(&self, step: Step<'_>, number: u32, payload: Payload) -> Result<String> {
        let number = number.to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", self.id.as_str())];
        let request = Request::new(Method::PUT, Some(&self.full_key)).query(&query).payload(payload);
        let answer = self.client.send(step, request).await?;
        if answer.status() != StatusCode::OK {
            let refusal = answer.refusal().await;
            if refusal.code == "NoSuchUpload" {
                return Err(step.error(ErrorKind::Io, "the upload was aborted by somebody else"));
            }
            return Err(refusal.error(step, &self.client.place));
        }
        let tag = tag(&answer).and_then(|tag| tag.to_str().ok().map(shorten));
        tag.ok_or_else(|| step.error(ErrorKind::Io, "the server gives no tag for a part"))
    }
}

fn is_uncertain(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Connection)
}

pub(crate) fn unreadable(step: Step<'_>, reason: &str) -> Error {
    step.error(ErrorKind::Io, format!("the server's answer is of no use: {reason}"))
}

fn completion(tags: &[String]) -> String {
    let mut text = r#"<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#.to_owned();
    for (number, tag) in (1..).zip(tags) {
        let tag = tag.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        text.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"));
    }
    text.push_str("</CompleteMultipartUpload>");
    text
}
