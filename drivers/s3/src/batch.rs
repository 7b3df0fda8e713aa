//! Removals in batches: `DeleteObjects`, a thousand keys in one request.
//!
//! The store answers for each key, and what it leaves unsaid is not known to be gone. A store that has no such
//! request, or wants a checksum of another kind with it, is asked for one object after the other, several at a time.

use std::collections::HashMap;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::{Method, StatusCode};
use packvault_storage::{ErrorKind, Key, NotRemoved, Operation, Result, Step};
use quick_xml::escape::escape;

use crate::body::Payload;
use crate::client::{ANSWER_BYTES_MAX, Client, Request};
use crate::error::Refusal;
use crate::write::{add_checksum, delete};
use crate::xml;

/// The most keys of one request, by the protocol.
const KEYS_MAX: usize = 1000;

/// Requests for batches under way at once.
const BATCHES_AT_ONCE: usize = 4;

/// Requests for single objects under way at once, for each batch.
const SINGLES_AT_ONCE: usize = 8;

/// What the store said of one key that it did not remove.
struct Refused {
    code: String,
    message: String,
}

/// Removes the objects, and returns those that are not known to be gone.
pub(crate) async fn remove_all(client: &Client, keys: &[Key]) -> Vec<NotRemoved> {
    let batches: Vec<Vec<Key>> = keys.chunks(KEYS_MAX).map(<[Key]>::to_vec).collect();
    let left = stream::iter(batches).map(|batch| async move { remove_batch(client, &batch).await });
    left.buffer_unordered(BATCHES_AT_ONCE).concat().await
}

async fn remove_batch(client: &Client, keys: &[Key]) -> Vec<NotRemoved> {
    let step = Step::new(Operation::Remove, keys[0].as_str());
    if keys.len() == 1 {
        return remove_singly(client, keys).await;
    }
    match ask(client, step, keys).await {
        Ok(mut said) => keys.iter().filter_map(|key| judge(client, &mut said, key)).collect(),
        Err(error)
            if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::Io) =>
        {
            remove_singly(client, keys).await
        }
        Err(error) => NotRemoved::all(keys, error),
    }
}

/// Returns what the store says of each key, by its full name; `None` is that it is gone.
async fn ask(client: &Client, step: Step<'_>, keys: &[Key]) -> Result<HashMap<String, Option<Refused>>> {
    let payload = Payload::from(Bytes::from(document(client, keys)));
    let digest = payload.digest().await;
    let mut request = Request::new(Method::POST, None).query(&[("delete", "")]);
    add_checksum(&mut request.headers, digest);
    request.digest = Some(digest);
    let answer = client.send(step, request.payload(payload)).await?;
    if answer.status() != StatusCode::OK {
        return Err(answer.refused(step).await);
    }
    let body = answer.bytes(step, ANSWER_BYTES_MAX).await?;
    let unclear =
        |reason: &str| step.error(ErrorKind::Connection, format!("the answer is of no use: {reason}"));
    let root = xml::parse(&body).map_err(unclear)?;
    if root.name != "DeleteResult" {
        return Err(unclear("it tells of no removals"));
    }
    let mut said = HashMap::new();
    for told in root.all("Deleted") {
        said.insert(told.text_of("Key").unwrap_or_default().to_owned(), None);
    }
    for told in root.all("Error") {
        let text = |name| told.text_of(name).unwrap_or_default().to_owned();
        said.insert(text("Key"), Some(Refused { code: text("Code"), message: text("Message") }));
    }
    Ok(said)
}

fn document(client: &Client, keys: &[Key]) -> String {
    let mut text = "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
    for key in keys {
        let full_key = client.place.full_key(key);
        text.push_str("<Object><Key>");
        text.push_str(&escape(full_key.as_str()));
        text.push_str("</Key></Object>");
    }
    text + "</Delete>"
}

/// Returns the key if it is not known to be gone.
fn judge(client: &Client, said: &mut HashMap<String, Option<Refused>>, key: &Key) -> Option<NotRemoved> {
    let step = Step::new(Operation::Remove, key.as_str());
    let error = match said.remove(&client.place.full_key(key)) {
        Some(None) => return None,
        Some(Some(refused)) if refused.code == "NoSuchKey" => return None,
        Some(Some(Refused { code, message })) => Refusal::of_one(code, message).error(step, &client.place),
        None => step.error(ErrorKind::Connection, "the store did not say whether it is gone"),
    };
    Some(NotRemoved { key: key.clone(), error })
}

async fn remove_singly(client: &Client, keys: &[Key]) -> Vec<NotRemoved> {
    let removals = stream::iter(keys.to_vec()).map(|key| async move {
        let step = Step::new(Operation::Remove, key.as_str());
        match delete(client, step, &key).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Some(NotRemoved { key, error }),
            Ok(()) | Err(_) => None,
        }
    });
    removals.buffer_unordered(SINGLES_AT_ONCE).filter_map(|left| async { left }).collect().await
}
