//! Writing in one request: create, replace, touch, remove.
//!
//! S3's own steps say little: PUT overwrites, DELETE of nothing succeeds. Where the server keeps
//! `If-None-Match` and `If-Match`, it decides; elsewhere there is a look before the step, which is all that
//! can be done there, and the guarantees say so.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, Method, StatusCode};
use packvault_storage::{ErrorKind, Key, Operation, Result, Step};

use crate::body::Payload;
use crate::client::{Client, Request};
use crate::features::{Condition, IfMatch, Ways};
use crate::read::{get, head, tag};

/// The header with the SHA-256 of the body.
const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");

/// When a PUT may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// The key is absent.
    Absent,
    /// The object still has the tag.
    Tagged(HeaderValue),
}

/// Sends an object in one request.
pub(crate) async fn put(
    client: &Client,
    ways: Ways,
    step: Step<'_>,
    key: &Key,
    payload: Payload,
    when: When,
) -> Result<()> {
    let full_key = client.place.full_key(key);
    let mut request = Request::new(Method::PUT, Some(&full_key));
    if ways.checksum_header {
        let digest = payload.digest().await;
        add_checksum(&mut request.headers, digest);
        request.digest = Some(digest);
    }
    request = match &when {
        When::Absent if ways.create_only != Condition::Refused => {
            request.header(IF_NONE_MATCH, HeaderValue::from_static("*"))
        }
        When::Tagged(tag) => request.header(IF_MATCH, tag.clone()),
        _ => request,
    };
    let answer = client.send(step, request.payload(payload)).await?;
    match (answer.status(), when) {
        (StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT, _) => Ok(()),
        (StatusCode::PRECONDITION_FAILED, When::Absent) => Err(step.already_exists()),
        (StatusCode::PRECONDITION_FAILED, When::Tagged(_)) => Err(step.changed()),
        _ => Err(answer.refused(step).await),
    }
}

/// Adds the header with the SHA-256 of the body.
pub(crate) fn add_checksum(headers: &mut HeaderMap, digest: [u8; 32]) {
    if let Ok(value) = HeaderValue::from_str(&BASE64_STANDARD.encode(digest)) {
        headers.insert(CHECKSUM, value);
    }
}

/// Publishes an object under an absent key; `create` and the seal of a small object.
pub(crate) async fn create(
    client: &Client,
    ways: Ways,
    step: Step<'_>,
    key: &Key,
    payload: Payload,
) -> Result<()> {
    if ways.create_only != Condition::Kept {
        refuse_taken(client, step, key).await?;
    }
    put(client, ways, step, key, payload, When::Absent).await
}

/// Returns an error if an object lies under the key.
pub(crate) async fn refuse_taken(client: &Client, step: Step<'_>, key: &Key) -> Result<()> {
    match head(client, step, key).await {
        Ok(_) => Err(step.already_exists()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) async fn replace(client: &Client, ways: Ways, key: &Key, bytes: Bytes) -> Result<()> {
    let step = Step::new(Operation::Replace, key.as_str());
    put(client, ways, step, key, bytes.into(), When::Always).await
}

/// Writes the same bytes again, if they are still there; with the object's tag as the condition where the
/// server keeps that, else right after the look.
pub(crate) async fn touch(client: &Client, ways: Ways, key: &Key, expected: &[u8]) -> Result<()> {
    let step = Step::new(Operation::Touch, key.as_str());
    let answer = get(client, step, key).await?;
    let size_bytes = expected.len() as u64;
    if answer.length().is_some_and(|length| length != size_bytes) {
        return Err(step.changed());
    }
    let tag = tag(&answer);
    let found = match answer.bytes(step, size_bytes).await {
        // A body without a length that goes on after the bytes expected.
        Err(error) if error.kind() == ErrorKind::Io => return Err(step.changed()),
        found => found?,
    };
    if found != expected {
        return Err(step.changed());
    }
    let when =
        tag.and_then(|tag| condition(ways.overwrite_if_match, &tag)).map_or(When::Always, When::Tagged);
    put(client, ways, step, key, found.into(), when).await
}

/// Returns the tag as the server wants to have it back.
pub(crate) fn condition(form: IfMatch, tag: &HeaderValue) -> Option<HeaderValue> {
    match form {
        IfMatch::Quoted => Some(tag.clone()),
        IfMatch::Unquoted => HeaderValue::from_str(tag.to_str().ok()?.trim_matches('"')).ok(),
        IfMatch::Ignored => None,
    }
}

/// Removes an object after a look whether there is one: two requests, not one step. Of two that remove
/// the same object at once both may be told that it was they; everyone removes only names of their own.
pub(crate) async fn remove(client: &Client, key: &Key) -> Result<()> {
    let step = Step::new(Operation::Remove, key.as_str());
    head(client, step, key).await?;
    delete(client, step, key).await
}

/// Removes whatever lies under the key.
pub(crate) async fn delete(client: &Client, step: Step<'_>, key: &Key) -> Result<()> {
    let full_key = client.place.full_key(key);
    let answer = client.send(step, Request::new(Method::DELETE, Some(&full_key))).await?;
    match answer.status() {
        StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(()),
        _ => Err(answer.refused(step).await),
    }
}
