//! Listing: page after page, of the repository's own names, with an end to every loop.

use std::collections::HashSet;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http::{Method, StatusCode};
use packvault_storage::{ErrorKind, ListedObject, ObjectMeta, Operation, Prefix, Result, Step};

use crate::client::{ANSWER_BYTES_MAX, Client, Request};
use crate::times::parse_xml_time;
use crate::upload::unreadable;
use crate::xml::{self, Element};

/// The most pages of one listing: a hundred million objects.
const PAGES_MAX: usize = 100_000;

/// How many objects a page may have; the protocol has no larger ones.
pub(crate) const PAGE_OBJECTS: u32 = 1000;

/// Where a listing goes on.
struct Going {
    token: Option<String>,
    seen: HashSet<String>,
    pages: usize,
}

pub(crate) fn list(
    client: &Client,
    prefix: Prefix,
    page_objects: u32,
) -> BoxStream<'_, Result<ListedObject>> {
    let going = Going { token: None, seen: HashSet::new(), pages: 0 };
    stream::try_unfold((Some(going), prefix), move |(going, prefix)| async move {
        let Some(going) = going else { return Ok(None) };
        let (objects, going) = page(client, &prefix, page_objects, going).await?;
        Ok(Some((stream::iter(objects.into_iter().map(Ok)), (going, prefix))))
    })
    .try_flatten()
    .boxed()
}

/// Returns the objects of one page, and where the next begins.
async fn page(
    client: &Client,
    prefix: &Prefix,
    page_objects: u32,
    mut going: Going,
) -> Result<(Vec<ListedObject>, Option<Going>)> {
    let object = format!("{}/{prefix}", client.place.location);
    let step = Step::new(Operation::List, object.trim_end_matches('/'));
    let (full_prefix, page_objects) = (client.place.full_prefix(prefix), page_objects.to_string());
    let mut query = vec![("list-type", "2"), ("max-keys", &page_objects), ("prefix", &full_prefix)];
    if let Some(token) = &going.token {
        query.insert(0, ("continuation-token", token));
    }
    let root = ask(client, step, &query).await?;
    if root.name != "ListBucketResult" {
        return Err(unreadable(step, "it is no list"));
    }
    let mut objects = Vec::new();
    for element in root.all("Contents") {
        objects.extend(listed(client, prefix, element).map_err(|reason| unreadable(step, reason))?);
    }
    if root.text_of("IsTruncated").map(str::trim) != Some("true") {
        return Ok((objects, None));
    }
    let token = root.text_of("NextContinuationToken").filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| unreadable(step, "the list goes on, and it does not say where"))?;
    going.pages += 1;
    if going.pages >= PAGES_MAX || !going.seen.insert(token.to_owned()) {
        return Err(step.error(ErrorKind::Io, "the server's list goes round in circles or never ends"));
    }
    going.token = Some(token.to_owned());
    Ok((objects, Some(going)))
}

/// Asks the bucket and returns the root of the answer.
pub(crate) async fn ask(client: &Client, step: Step<'_>, query: &[(&str, &str)]) -> Result<Element> {
    let answer = client.send(step, Request::new(Method::GET, None).query(query)).await?;
    if answer.status() != StatusCode::OK {
        return Err(answer.refused(step).await);
    }
    let body = answer.bytes(step, ANSWER_BYTES_MAX).await?;
    xml::parse(&body).map_err(|reason| unreadable(step, reason))
}

/// Reads one object; `None` where its name is none of the repository's.
fn listed(
    client: &Client,
    prefix: &Prefix,
    element: &Element,
) -> std::result::Result<Option<ListedObject>, &'static str> {
    let full_key = element.text_of("Key").ok_or("an object has no key")?;
    let Some(key) = client.place.key_of(full_key).filter(|key| prefix.contains(key)) else { return Ok(None) };
    let size = element.text_of("Size").and_then(|size| size.trim().parse().ok());
    let time = element.text_of("LastModified").and_then(parse_xml_time);
    let size_bytes = size.ok_or("an object has no size")?;
    let modified = time.ok_or("an object has no time")?;
    Ok(Some(ListedObject { key, meta: ObjectMeta { size_bytes, modified } }))
}
