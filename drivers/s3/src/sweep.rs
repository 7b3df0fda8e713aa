//! The sweep: uploads that were begun below the repository's prefix and never completed.
//!
//! Which there are only the store knows. One that cannot list them, or that tells of them another time than
//! that at which they began, is left alone: it keeps such remains until a rule of its own removes them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use packvault_storage::{ErrorKind, Operation, Prefix, Result, Step, SweepReport};

use crate::client::Client;
use crate::list::ask;
use crate::times::parse_xml_time;
use crate::upload::{abort, unreadable};
use crate::xml::Element;

/// The most pages of one sweep: a million uploads.
const PAGES_MAX: usize = 1000;

/// One unfinished upload.
struct Unfinished {
    full_key: String,
    id: String,
    begun: SystemTime,
}

/// Aborts the repository's unfinished uploads of that age.
pub(crate) async fn sweep(client: &Client, now: SystemTime, older_than: Duration) -> Result<SweepReport> {
    let step = Step::new(Operation::Sweep, &client.place.location);
    let mut report = SweepReport::default();
    let prefix = client.place.full_prefix(&Prefix::root());
    for upload in unfinished(client, step, &prefix).await?.unwrap_or_default() {
        if now.duration_since(upload.begun).unwrap_or_default() >= older_than
            && abort(client, step, &upload.full_key, &upload.id).await?
        {
            report.removed += 1;
        }
    }
    Ok(report)
}

/// Returns when the only unfinished upload below the folder began: `None` where it cannot be told.
pub(crate) async fn begun(client: &Client, folder: &Prefix) -> Result<Option<SystemTime>> {
    let step = Step::new(Operation::Sweep, &client.place.location);
    let found = unfinished(client, step, &client.place.full_prefix(folder)).await?;
    Ok(found.unwrap_or_default().first().map(|upload| upload.begun))
}

/// Aborts every unfinished upload below a folder that nobody else uses.
pub(crate) async fn abort_below(client: &Client, folder: &Prefix, uploads_max: usize) -> Result<()> {
    let step = Step::new(Operation::Sweep, &client.place.location);
    let found = unfinished(client, step, &client.place.full_prefix(folder)).await?;
    for upload in found.unwrap_or_default().into_iter().take(uploads_max) {
        abort(client, step, &upload.full_key, &upload.id).await?;
    }
    Ok(())
}

/// Returns the repository's unfinished uploads, or `None` where the server does not list any.
async fn unfinished(client: &Client, step: Step<'_>, prefix: &str) -> Result<Option<Vec<Unfinished>>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut markers = (String::new(), String::new());
    loop {
        let mut query = vec![("prefix", prefix), ("uploads", "")];
        if !markers.0.is_empty() {
            query.extend([("key-marker", markers.0.as_str()), ("upload-id-marker", markers.1.as_str())]);
        }
        let root = match ask(client, step, &query).await {
            Ok(root) if root.name == "ListMultipartUploadsResult" => root,
            // It took the question for one about objects.
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::NotFound) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        for element in root.all("Upload") {
            let upload = read(client, element).ok_or_else(|| unreadable(step, "an upload lacks its name"))?;
            // A server may look past the prefix.
            found.extend(upload.filter(|upload| upload.full_key.starts_with(prefix)));
        }
        if root.text_of("IsTruncated").map(str::trim) != Some("true") {
            return Ok(Some(found));
        }
        let next = |name| root.text_of(name).unwrap_or_default().to_owned();
        markers = (next("NextKeyMarker"), next("NextUploadIdMarker"));
        if markers.0.is_empty() || seen.len() >= PAGES_MAX || !seen.insert(markers.clone()) {
            return Err(step.error(ErrorKind::Io, "the server's list of uploads never ends"));
        }
    }
}

/// Reads one upload: `None` if it cannot be read, `Some(None)` if it is not the repository's.
fn read(client: &Client, element: &Element) -> Option<Option<Unfinished>> {
    let full_key = element.text_of("Key")?.to_owned();
    let id = element.text_of("UploadId")?.to_owned();
    let begun = element.text_of("Initiated").and_then(parse_xml_time)?;
    let is_ours = client.place.key_of(&full_key).is_some();
    Some(is_ours.then_some(Unfinished { full_key, id, begun }))
}
